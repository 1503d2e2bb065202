use super::*;
use serde_json::{Value, json};

fn round_trip(object: &Value) -> Value {
    let bytes = from_json(object.to_string().as_bytes()).unwrap();
    assert!(Envelope::is(&bytes));
    let (api_version, kind, json) = to_json(&bytes).unwrap();
    assert_eq!(object["apiVersion"], api_version.as_str());
    assert_eq!(object["kind"], kind.as_str());
    serde_json::from_slice(&json).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&json)))
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-0", "namespace": "default", "uid": "b7a3", "resourceVersion": "17",
            "creationTimestamp": "2026-11-22T22:08:20Z", "labels": {"app": "web", "tier": "ü"},
            "managedFields": [{"manager": "kubectl", "operation": "Update", "apiVersion": "v1",
                "time": "2026-11-22T22:08:20Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]
        },
        "spec": {
            "volumes": [
                {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
                {"name": "cfg", "projected": {"sources": [{"configMap": {"name": "cm", "items": [{"key": "a", "path": "b"}]}}]}}
            ],
            "containers": [{
                "name": "web", "image": "nginx", "command": ["a", "", "c"],
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": false}}}],
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
                "readinessProbe": {"tcpSocket": {"port": 8080}}
            }],
            "terminationGracePeriodSeconds": 0, "hostNetwork": true, "restartPolicy": "Always"
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    })
}

#[test]
fn objects_survive_the_wire() {
    for object in [
        pod(),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"k": "AAEC", "empty": ""}, "type": "Opaque"}),
        json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {}, "eventTime": "2026-11-22T22:08:20.123456Z"}),
        json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": 404, "reason": "NotFound",
            "details": {"name": "x", "causes": [{"reason": "r", "field": "f"}]}}),
        json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "5"}, "items": [{"metadata": {"name": "a"}, "spec": {}, "status": {}}]}),
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Foreground"}),
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "x"}}),
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "x"},
            "spec": {"group": "g", "scope": "Cluster", "names": {"plural": "xs", "kind": "X"}, "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                    "properties": {"a": {"type": "array", "items": {"type": "string"}, "default": ["z"]}, "b": {"type": "number", "minimum": 0.5}},
                    "additionalProperties": false, "x-kubernetes-preserve-unknown-fields": false}}}]},
            "status": {"storedVersions": ["v1"]}}),
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {"token": "t"},
            "status": {"user": {"username": "u", "groups": ["a", "b"], "extra": {"k": ["1", "2"]}}}}),
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {}, "status": {},
            "spec": {"matchConstraints": {"resourceRules": [{"resourceNames": ["n"], "operations": ["CREATE"], "apiGroups": ["*"]}]}}}),
    ] {
        let back = round_trip(&object);
        assert_eq!(without_empty(back), without_empty(object));
    }
}

/// Go writes structs that are not pointers also when they are empty; JSON written by others leaves them out.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .map(|(k, v)| (k, without_empty(v)))
            .filter(|(_, v)| !matches!(v, Value::Object(m) if m.is_empty()))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_empty).collect(),
        other => other,
    }
}

#[test]
fn zero_is_kept_where_go_has_a_pointer() {
    let back = round_trip(&pod());
    assert_eq!(back["spec"]["terminationGracePeriodSeconds"], 0);
    assert_eq!(back["spec"]["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]["optional"], false);
}

#[test]
fn zeroes_that_go_always_writes_are_left_out_of_json() {
    // A Service as gogo-proto writes it: name set, all other plain strings empty, all plain integers zero.
    let meta = [b"\x0a\x01a\x12\x00\x1a\x00\x22\x00\x2a\x00\x32\x00\x38\x00\x42\x00".as_slice()].concat();
    let mut message = vec![0x0a, meta.len() as u8];
    message.extend_from_slice(&meta);
    message.extend_from_slice(b"\x12\x04\x1a\x00\x22\x00");
    let (_, _, json) = to_json(&wrap("v1", "Service", &message)).unwrap();
    let object: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(object, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {}}));
}

#[test]
fn golden_bytes_of_a_config_map() {
    let json = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"}}"#;
    let bytes = from_json(json).unwrap();
    assert_eq!(
        bytes,
        b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x0d\x0a\x03\x0a\x01a\x12\x06\x0a\x01k\x12\x01v\x1a\0\x22\0"
    );
}

#[test]
fn long_messages_get_long_lengths() {
    let text = "x".repeat(100_000);
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": text}});
    assert_eq!(round_trip(&object), object);
}

#[test]
fn lists_take_encoded_items() {
    let item = from_json(pod().to_string().as_bytes()).unwrap();
    let mut list = ListWriter::new(br#"{"resourceVersion":"9"}"#).unwrap();
    list.push_envelope(&item).unwrap();
    list.push_envelope(&item).unwrap();
    let (_, kind, json) = to_json(&list.finish("v1", "PodList")).unwrap();
    let list: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((kind.as_str(), &list["metadata"]["resourceVersion"]), ("PodList", &json!("9")));
    assert_eq!(list["items"][1]["metadata"]["name"], "web-0");
}

#[test]
fn metadata_is_taken_out_of_any_object() {
    let object = from_json(pod().to_string().as_bytes()).unwrap();
    let (_, kind, json) = to_json(&partial_metadata(&object).unwrap()).unwrap();
    let partial: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((kind.as_str(), &partial["metadata"]), ("PartialObjectMetadata", &pod()["metadata"]));
    assert!(partial.get("spec").is_none());
}

#[test]
fn watch_frames_are_read_as_written() {
    let object = from_json(pod().to_string().as_bytes()).unwrap();
    let frame = watch_frame("ADDED", &object);
    assert_eq!(&frame[4..], watch_event("ADDED", &object));
    assert_eq!(
        read_frame(&frame).unwrap(),
        Some(WatchFrame { event_type: "ADDED", object: &object, length_bytes: frame.len() })
    );
    assert_eq!(read_frame(&frame[..frame.len() - 1]).unwrap(), None);
    assert!(read_frame(&[0xff; 8]).is_err());
}

#[test]
fn bad_bytes_are_errors() {
    for bytes in [
        b"{}".as_slice(),
        b"k8s\0\x0a\xff",
        &wrap("v1", "Nothing", b""),
        &wrap("v1", "Pod", b"\x0a\x02\x0a\x05"),
        &wrap("v1", "Pod", b"\x0a\x03\x0a\x01\xff"),
        &wrap("v1", "Pod", b"\x08\x01"),
    ] {
        assert!(to_json(bytes).is_err(), "{bytes:?}");
    }
    for json in [
        r#"{"kind":"Pod"}"#,
        r#"{"apiVersion":"v1","kind":"Pod","spec":[]}"#,
        r#"{"apiVersion":"v1","kind":"Pod","spec":{"priority":"x"}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"creationTimestamp":"now"}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","spec":{"priority":4294967296}}"#,
    ] {
        assert!(from_json(json.as_bytes()).is_err(), "{json}");
    }
}

#[test]
fn embedded_structs_are_as_deep_as_the_encoder_allows() {
    for ty in crate::all() {
        assert!(ty.fields.iter().all(|field| field.number.len() <= encode::MAX_INLINE + 1), "{}", ty.name);
    }
}
