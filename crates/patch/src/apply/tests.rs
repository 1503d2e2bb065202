use super::*;
use crate::managed::update;
use meta::Time;

fn shape() -> Shape<'static> {
    Shape::from(schema::lookup("io.k8s.api.apps.v1.Deployment").unwrap())
}

fn request(manager: &'static str, force: bool, second: i64) -> Apply<'static> {
    let now = Time::from_second(1_700_000_000 + second).unwrap();
    let write = Write { manager, api_version: "apps/v1", subresource: "", now, reset_fields: None };
    Apply { write, kind: "Deployment", force }
}

fn config(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

fn applied(live: Option<&Value>, spec: Value, manager: &'static str, second: i64) -> Value {
    apply(live, &config(spec), shape(), &request(manager, false, second)).unwrap().object
}

fn refused(live: &Value, spec: Value, manager: &'static str) -> String {
    apply(Some(live), &config(spec), shape(), &request(manager, false, 9)).unwrap_err().to_string()
}

#[test]
fn an_apply_creates_and_owns() {
    let object = applied(None, json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}}}), "me", 0);
    assert_eq!(object["spec"]["replicas"], 3);
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{"manager": "me", "operation": "Apply", "apiVersion": "apps/v1", "time": "2023-11-14T22:13:20Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:selector": {}}}}])
    );
}

#[test]
fn what_is_no_longer_applied_goes_unless_another_owns_it() {
    let first = applied(None, json!({"replicas": 3, "paused": true, "minReadySeconds": 5}), "me", 0);
    let both = applied(Some(&first), json!({"minReadySeconds": 5}), "other", 1);
    let third = applied(Some(&both), json!({"replicas": 3}), "me", 2);
    assert_eq!(third["spec"], json!({"replicas": 3, "minReadySeconds": 5}));
    let list = third["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(list[0]["fieldsV1"], json!({"f:spec": {"f:minReadySeconds": {}}}));
    assert_eq!(list[1]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn list_items_merge_by_key_and_go_by_owner() {
    let container = |name: &str, image: &str| json!({"name": name, "image": image});
    let spec = |containers: Value| json!({"template": {"spec": {"containers": containers}}});
    let first = applied(None, spec(json!([container("a", "1"), container("b", "1")])), "me", 0);
    let second = applied(Some(&first), spec(json!([container("sidecar", "x")])), "mesh", 1);
    let names = |object: &Value| -> Vec<String> {
        let list = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&second), ["a", "b", "sidecar"]);
    let third = applied(Some(&second), spec(json!([container("b", "2")])), "me", 2);
    assert_eq!(names(&third), ["b", "sidecar"]);
    assert_eq!(third["spec"]["template"]["spec"]["containers"][0]["image"], "2");
}

#[test]
fn keys_left_out_have_their_defaults() {
    let spec =
        json!({"template": {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}}});
    let mut live = applied(None, spec.clone(), "me", 0);
    live["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = json!("TCP");
    let again = applied(Some(&live), spec, "me", 1);
    let ports = &again["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(ports, &json!([{"containerPort": 80, "protocol": "TCP"}]));
    let without = json!({"template": {"spec": {"containers": [{"name": "a"}]}}});
    let gone = applied(Some(&again), without, "me", 2);
    assert!(gone["spec"]["template"]["spec"]["containers"][0].get("ports").is_none_or(|p| p == &json!([])));
}

#[test]
fn conflicts_name_managers_and_fields() {
    let mut live = config(json!({"replicas": 3, "paused": true}));
    let write = Write { manager: "kubectl", ..request("x", false, 0).write };
    update(None, &mut live, shape(), &write);
    assert_eq!(
        refused(&live, json!({"replicas": 4}), "me"),
        "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
    );
    assert_eq!(
        refused(&live, json!({"replicas": 4, "paused": false}), "me"),
        "Apply failed with 2 conflicts: conflicts with \"kubectl\" using apps/v1:\n- .spec.paused\n- .spec.replicas"
    );
    let error =
        apply(Some(&live), &config(json!({"replicas": 4})), shape(), &request("me", false, 1)).unwrap_err();
    let refusal = meta::ApiError::from(error);
    let cause = refusal.details.unwrap().causes.unwrap().remove(0);
    assert_eq!(cause.reason.as_deref(), Some("FieldManagerConflict"));
    assert_eq!(cause.message.as_deref(), Some("conflict with \"kubectl\" using apps/v1"));
    assert_eq!(cause.field.as_deref(), Some(".spec.replicas"));
    let forced =
        apply(Some(&live), &config(json!({"replicas": 4})), shape(), &request("me", true, 1)).unwrap().object;
    assert_eq!(forced["spec"], json!({"replicas": 4, "paused": true}));
    let list = forced["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(list[1]["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
}

#[test]
fn equal_values_are_shared_and_nothing_new_is_no_change() {
    let first = applied(None, json!({"replicas": 3}), "me", 0);
    let again =
        apply(Some(&first), &config(json!({"replicas": 3})), shape(), &request("me", false, 9)).unwrap();
    assert!(!again.changed);
    assert_eq!(again.object, first);
    let shared = applied(Some(&first), json!({"replicas": 3}), "other", 1);
    assert_eq!(shared["metadata"]["managedFields"].as_array().unwrap().len(), 2);
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let live = applied(None, json!({"replicas": 3}), "me", 0);
    assert_eq!(
        refused(&live, json!({"foo": 1}), "me"),
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema"
    );
    assert_eq!(
        refused(&live, json!({"replicas": "x"}), "me"),
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.replicas: expected numeric (int or float), got string"
    );
    let twice = json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}});
    assert_eq!(
        refused(&live, twice, "me"),
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): \
         .spec.template.spec.containers: duplicate entries for key [name=\"a\"]"
    );
    let mut other = config(json!({}));
    other["apiVersion"] = json!("apps/v1beta1");
    let error = apply(Some(&live), &other, shape(), &request("me", false, 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Incorrect version specified in apply patch. Specified patch version: apps/v1beta1, expected: apps/v1"
    );
}

#[test]
fn client_side_apply_hands_over_to_kubectl() {
    let spec = json!({"replicas": 3});
    let mut live = config(spec.clone());
    let annotation = format!("{}\n", config(spec));
    live["metadata"]["annotations"] = json!({ LAST_APPLIED_ANNOTATION: annotation });
    let write = Write { manager: "kubectl-client-side-apply", ..request("x", false, 0).write };
    update(None, &mut live, shape(), &write);
    let object = applied(Some(&live), json!({"replicas": 5}), "kubectl", 1);
    assert_eq!(object["spec"]["replicas"], 5);
    let kept: Value =
        serde_json::from_str(object["metadata"]["annotations"][LAST_APPLIED_ANNOTATION].as_str().unwrap())
            .unwrap();
    assert_eq!(kept["spec"]["replicas"], 5);
    assert!(
        refused(&live, json!({"replicas": 5}), "someone")
            .contains("conflict with \"kubectl-client-side-apply\"")
    );
}

#[test]
fn unmanaged_objects_get_a_first_owner() {
    let live = config(json!({"replicas": 3}));
    let object = applied(Some(&live), json!({"paused": true}), "me", 1);
    let list = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(list[1]["manager"], "before-first-apply");
    assert_eq!(list[1]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
}
