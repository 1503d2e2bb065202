use super::*;
use serde_json::json;

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "strategy": {"type": "Recreate"},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [{"name": "web", "image": "nginx", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                        "livenessProbe": {"httpGet": {"path": "/", "port": 80}}, "command": ["x"]}],
                    "securityContext": {}
                }
            }
        }
    })
}

fn write(manager: &str, subresource: &'static str, second: i64) -> Write<'static> {
    let manager = Box::leak(manager.to_owned().into_boxed_str());
    let now = Time::from_second(1_700_000_000 + second).unwrap();
    Write { manager, api_version: "apps/v1", subresource, now, reset_fields: None }
}

fn shape() -> Shape<'static> {
    Shape::from(schema::lookup("io.k8s.api.apps.v1.Deployment").unwrap())
}

fn fields(object: &Value) -> &Value {
    &object["metadata"]["managedFields"]
}

#[test]
fn a_create_owns_what_it_sent() {
    let mut new = deployment();
    update(None, &mut new, shape(), &write("kubectl-create", "", 0));
    assert_eq!(
        fields(&new),
        &json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1",
            "time": "2023-11-14T22:13:20Z", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:replicas": {}, "f:selector": {}, "f:strategy": {"f:type": {}},
                    "f:template": {
                        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                        "f:spec": {
                            "f:containers": {"k:{\"name\":\"web\"}": {
                                ".": {}, "f:command": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                                "f:livenessProbe": {".": {}, "f:httpGet": {".": {}, "f:path": {}, "f:port": {}}},
                                "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                                    {".": {}, "f:containerPort": {}, "f:protocol": {}}}
                            }},
                            "f:securityContext": {}
                        }
                    }
                }
            }
        }])
    );
}

#[test]
fn a_change_moves_ownership_and_no_change_moves_nothing() {
    let mut first = deployment();
    update(None, &mut first, shape(), &write("a", "", 0));
    first["metadata"]["uid"] = json!("u");
    let mut same = first.clone();
    update(Some(&first), &mut same, shape(), &write("b", "", 10));
    assert_eq!(same, first);
    let mut second = first.clone();
    second["spec"]["replicas"] = json!(5);
    second["metadata"].as_object_mut().unwrap().remove("managedFields");
    update(Some(&first), &mut second, shape(), &write("b", "", 10));
    let list = fields(&second).as_array().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[1]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(list[1]["manager"], "b");
    assert!(list[0]["fieldsV1"]["f:spec"].get("f:replicas").is_none());
    let mut third = second.clone();
    third["metadata"].as_object_mut().unwrap().remove("labels");
    update(Some(&second), &mut third, shape(), &write("c", "", 20));
    assert_eq!(fields(&third).as_array().unwrap().len(), 2);
    assert!(fields(&third)[0]["fieldsV1"].get("f:metadata").is_none());
}

#[test]
fn status_writes_are_apart_and_reset_fields_are_nobodys() {
    let mut first = deployment();
    update(None, &mut first, shape(), &write("a", "", 0));
    let mut second = first.clone();
    second["status"] = json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
    second["spec"]["replicas"] = json!(9);
    let reset = FieldSet::of_fields(&[&["spec"]]);
    let status = Write { reset_fields: Some(&reset), ..write("kcm", "status", 5) };
    update(Some(&first), &mut second, shape(), &status);
    let entry = &fields(&second)[1];
    assert_eq!(entry["subresource"], "status");
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Available\"}": {".": {}, "f:status": {}, "f:type": {}}},
            "f:replicas": {}}})
    );
}

#[test]
fn clients_can_reset_managed_fields_but_not_break_them() {
    let mut first = deployment();
    update(None, &mut first, shape(), &write("a", "", 0));
    first["metadata"]["uid"] = json!("u");
    let mut reset = first.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    reset["spec"]["replicas"] = json!(4);
    update(Some(&first), &mut reset, shape(), &write("b", "", 1));
    assert!(reset["metadata"].get("managedFields").is_none());
    let mut broken = first.clone();
    broken["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Guess"}]);
    update(Some(&first), &mut broken, shape(), &write("b", "", 1));
    assert_eq!(fields(&broken), fields(&first));
    assert_eq!(
        validate(&json!({"metadata": {"managedFields": [{"operation": "Guess"}]}})).unwrap_err(),
        "operation must be `Apply` or `Update`"
    );
}

#[test]
fn managers_are_capped() {
    let mut object = deployment();
    for index in 0..15 {
        let old = object.clone();
        object["metadata"]["labels"][format!("l{index}")] = json!("x");
        let old = (index > 0).then_some(old);
        update(old.as_ref(), &mut object, shape(), &write(&format!("m{index:02}"), "", index));
    }
    let list = fields(&object).as_array().unwrap();
    assert_eq!(list.len(), MAX_UPDATE_MANAGERS);
    assert_eq!(list[0]["manager"], ANCIENT_CHANGES);
    assert!(list[0]["fieldsV1"]["f:metadata"]["f:labels"].get("f:l4").is_some());
    assert_eq!(list[9]["manager"], "m14");
}

#[test]
fn times_alone_are_no_change() {
    let mut old = deployment();
    update(None, &mut old, shape(), &write("a", "", 0));
    let mut new = old.clone();
    new["metadata"]["managedFields"][0]["time"] = json!("2030-01-01T00:00:00Z");
    keep_times_if_unchanged(&old, &mut new);
    assert_eq!(new, old);
}

#[test]
fn objects_without_a_schema_have_atomic_lists() {
    let mut new = json!({"apiVersion": "e.com/v1", "kind": "W", "metadata": {"name": "w"}, "spec": {"l": [{"a": 1}], "m": {"x": 1}}});
    update(None, &mut new, Shape::Deduced, &Write { api_version: "e.com/v1", ..write("a", "", 0) });
    assert_eq!(
        fields(&new)[0]["fieldsV1"],
        json!({"f:spec": {".": {}, "f:l": {}, "f:m": {".": {}, "f:x": {}}}})
    );
}

#[test]
fn custom_schemas_say_how_lists_merge() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
            "items": {"type": "object", "properties": {"id": {"type": "string"}, "v": {"type": "integer"}}}},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}});
    let mut new = json!({"apiVersion": "e.com/v1", "kind": "W", "metadata": {"name": "w", "labels": {"a": "b"}},
        "spec": {"items": [{"id": "x", "v": 1}], "tags": ["t"], "free": {"q": [1]}}});
    update(None, &mut new, Shape::custom(&schema), &Write { api_version: "e.com/v1", ..write("a", "", 0) });
    assert_eq!(
        fields(&new)[0]["fieldsV1"],
        json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {".": {}, "f:free": {".": {}, "f:q": {}},
            "f:items": {".": {}, "k:{\"id\":\"x\"}": {".": {}, "f:id": {}, "f:v": {}}}, "f:tags": {".": {}, "v:\"t\"": {}}}})
    );
}
