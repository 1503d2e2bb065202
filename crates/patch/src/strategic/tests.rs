use super::*;
use serde_json::json;

fn check(doc: &Value, patch: &Value, expect: Result<Value, &str>) {
    let ty = schema::lookup("io.k8s.api.core.v1.Pod").unwrap();
    let result = strategic_merge(doc, patch, ty).map_err(|e| e.to_string());
    assert_eq!(result, expect.map_err(str::to_owned), "{patch}");
}

fn pod(containers: Value) -> Value {
    json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]}, "spec": {"containers": containers}})
}

#[test]
fn maps_merge_and_null_deletes() {
    let patch = json!({"metadata": {"labels": {"a": null, "c": "3", "zz": null}}});
    let expect = json!({"metadata": {"labels": {"b": "2", "c": "3"}, "finalizers": ["x", "y"]}, "spec": {"containers": []}});
    check(&pod(json!([])), &patch, Ok(expect));
}

#[test]
fn lists_merge_by_their_key() {
    let doc = pod(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2", "args": ["x"]}]));
    for (change, expect) in [
        (
            json!([{"name": "b", "image": "9"}]),
            json!([{"name": "a", "image": "1"}, {"name": "b", "image": "9", "args": ["x"]}]),
        ),
        (
            json!([{"name": "b", "args": ["y"]}]),
            json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2", "args": ["y"]}]),
        ),
        (
            json!([{"name": "c", "image": "3"}]),
            json!([{"name": "c", "image": "3"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2", "args": ["x"]}]),
        ),
        (json!([{"name": "a", "$patch": "delete"}]), json!([{"name": "b", "image": "2", "args": ["x"]}])),
        (json!([{"$patch": "replace"}, {"name": "z"}]), json!([{"name": "z"}])),
        (
            json!([{"name": "b", "$patch": "delete"}, {"name": "n", "image": null}]),
            json!([{"name": "n", "image": null}, {"name": "a", "image": "1"}]),
        ),
    ] {
        check(&doc, &json!({"spec": {"containers": change}}), Ok(pod(expect)));
    }
}

#[test]
fn the_order_directive_orders() {
    let doc = pod(json!([{"name": "a"}, {"name": "b"}, {"name": "server"}]));
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
        "containers": [{"name": "c"}]}});
    check(&doc, &patch, Ok(pod(json!([{"name": "b"}, {"name": "c"}, {"name": "a"}, {"name": "server"}]))));
    let wrong =
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "c"}]}});
    let ty = schema::lookup("io.k8s.api.core.v1.Pod").unwrap();
    assert!(
        strategic_merge(&doc, &wrong, ty).unwrap_err().to_string().contains("doesn't match $setElementOrder")
    );
}

#[test]
fn a_renamed_item_stands_where_upstream_puts_it() {
    let doc = pod(json!([{"name": "c"}, {"name": "a"}, {"name": "d"}]));
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "e"}, {"name": "a"}],
        "containers": [{"name": "e"}, {"name": "d", "$patch": "delete"}]}});
    check(&doc, &patch, Ok(pod(json!([{"name": "c"}, {"name": "e"}, {"name": "a"}]))));
}

#[test]
fn scalar_lists_merge_and_lose_items() {
    let doc = pod(json!([]));
    let with = |finalizers: Value| {
        let mut doc = pod(json!([]));
        doc["metadata"]["finalizers"] = finalizers;
        doc
    };
    check(&doc, &json!({"metadata": {"finalizers": ["z", "x"]}}), Ok(with(json!(["z", "x", "y"]))));
    check(&doc, &json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"]}}), Ok(with(json!(["y"]))));
    let patch = json!({"metadata": {"$setElementOrder/finalizers": ["y", "x"]}});
    check(&doc, &patch, Ok(with(json!(["y", "x"]))));
}

#[test]
fn objects_are_replaced_deleted_or_keep_named_keys() {
    let doc = json!({"spec": {"nodeSelector": {"a": "1"}, "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}});
    check(
        &doc,
        &json!({"spec": {"$patch": "replace", "hostNetwork": true}}),
        Ok(json!({"spec": {"hostNetwork": true}})),
    );
    check(&doc, &json!({"spec": {"$patch": "delete"}}), Ok(json!({"spec": {}})));
    let volumes = json!([{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]);
    let expect = json!([{"name": "v", "hostPath": {"path": "/"}}]);
    check(
        &doc,
        &json!({"spec": {"volumes": volumes}}),
        Ok(json!({"spec": {"nodeSelector": {"a": "1"}, "volumes": expect}})),
    );
}

#[test]
fn malformed_patches_say_so() {
    let doc = pod(json!([{"name": "a"}]));
    for (patch, expect) in [
        (json!({"spec": {"$patch": "sort"}}), "unknown patch type: sort in map: map[$patch:sort]"),
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (json!({"spec": {"$retainKeys": ["a"], "hostNetwork": true}}), "invalid patch format of retainKeys"),
        (
            json!({"spec": {"$setElementOrder/containers": {}}}),
            "invalid patch format of setElementOrder list",
        ),
        (json!({"spec": {"containers": ["x"]}}), "list element types are not identical: [[map[name:a]] [x]]"),
        (
            json!({"spec": {"containers": [{"name": "b"}], "$setElementOrder/containers": [{"name": "a"}]}}),
            "The order in patch list:\n[map[name:b]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n",
        ),
        (
            json!({"spec": {"volumes": [], "$setElementOrder/volumes": [{"name": "v"}]}}),
            "no elements in any of the given slices",
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}),
            "merging lists cannot yet be specified in the patch",
        ),
    ] {
        check(&doc, &patch, Err(expect));
    }
}
