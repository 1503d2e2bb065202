//! Create, update, patch and delete: what is refused, what is kept, what is written.

use super::harness::{Api, JSON, message, version};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

#[tokio::test]
async fn create_sets_what_the_server_sets() {
    let api = Api::new().await;
    let mut body = map("m");
    body["metadata"]["uid"] = json!("mine");
    body["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    let made = api.created(MAPS, &body).await;
    let meta = &made["metadata"];
    assert_eq!(meta["namespace"], "a");
    assert_ne!(meta["uid"], "mine");
    assert_ne!(meta["creationTimestamp"], "2001-01-01T00:00:00Z");
    assert_eq!(meta["managedFields"][0]["manager"], "test");

    let check = async |path: &str, body: Value, expect: (u16, &str, &str)| {
        assert_eq!(message(&api.post(path, &body).await), expect);
    };
    check(MAPS, map("m"), (409, "AlreadyExists", "configmaps \"m\" already exists")).await;
    let mut other = map("x");
    other["metadata"]["namespace"] = json!("b");
    let why = "the namespace of the provided object does not match the namespace sent on the request";
    check(MAPS, other, (400, "BadRequest", why)).await;
    let mut old = map("x");
    old["metadata"]["resourceVersion"] = json!("4");
    check(MAPS, old, (500, "", "resourceVersion should not be set on objects to be created")).await;
    let why = "the API version in the data (apps/v1) does not match the expected API version (v1)";
    check(MAPS, json!({"apiVersion": "apps/v1", "kind": "Deployment"}), (400, "BadRequest", why)).await;
    let why = "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required";
    check(MAPS, json!({}), (422, "Invalid", why)).await;
    let (code, refused) = api.post(MAPS, &map("Not_A_Name")).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("metadata.name")));
}

#[tokio::test]
async fn null_is_the_zero_value() {
    let api = Api::new().await;
    let body = json!({"metadata": {"name": "n", "annotations": {"a": null}, "creationTimestamp": null}, "data": {"k": null}});
    let made = api.created(MAPS, &body).await;
    assert_eq!((&made["data"], &made["metadata"]["annotations"]), (&json!({"k": ""}), &json!({"a": ""})));
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "image": "i", "args": [null], "env": null, "resources": {"limits": {"cpu": null}}}]}});
    let made = api.created("/api/v1/namespaces/a/pods", &pod).await;
    let container = &made["spec"]["containers"][0];
    assert_eq!((&container["args"], &container["resources"]["limits"]), (&json!([""]), &json!({"cpu": "0"})));
}

#[tokio::test]
async fn what_does_nothing_is_warned_of() {
    let api = Api::new().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeSelector": {"beta.kubernetes.io/os": "linux"},
        "containers": [{"name": "c", "image": "i"}]}});
    let response =
        api.raw("POST", "/api/v1/namespaces/a/pods", &[("content-type", JSON)], pod.to_string()).await;
    assert_eq!(
        response.headers()["warning"],
        r#"299 - "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead""#
    );
}

#[tokio::test]
async fn names_are_generated() {
    let api = Api::new().await;
    let made = api.created(MAPS, &json!({"metadata": {"generateName": "web-"}})).await;
    let name = made["metadata"]["name"].as_str().expect("a name");
    assert!(name.len() == 9 && name.starts_with("web-"), "{name}");
}

#[tokio::test]
async fn what_means_the_same_is_stored_alike() {
    let api = Api::new().await;
    let pod = |extra: bool| {
        let mut spec = json!({"containers": [{"name": "c", "image": "i", "resources": {}}]});
        if extra {
            spec["hostNetwork"] = json!(false);
            spec["tolerations"] = json!([]);
            spec["containers"][0]["env"] = json!([]);
        }
        json!({"metadata": {"name": if extra { "long" } else { "short" }, "labels": {"a": "b"}}, "spec": {
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec},
        }})
    };
    const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/a/deployments";
    let (long, short) =
        (api.created(DEPLOYMENTS, &pod(true)).await, api.created(DEPLOYMENTS, &pod(false)).await);
    assert_eq!(long["spec"], short["spec"]);
    let path = format!("{DEPLOYMENTS}/long");
    let (_, patched) =
        api.merge(&path, &json!({"spec": {"paused": false, "template": {"spec": {"volumes": []}}}})).await;
    assert_eq!((&patched["spec"], version(&patched)), (&long["spec"], version(&long)));
}

#[tokio::test]
async fn a_patch_that_leads_nowhere_is_refused_in_upstreams_words() {
    let api = Api::new().await;
    api.created(MAPS, &map("m")).await;
    let path = format!("{MAPS}/m");
    const STRATEGIC: &str = "application/strategic-merge-patch+json";
    let check = async |content_type: &str, body: &str, expect: (u16, &str, &str)| {
        assert_eq!(message(&api.send("PATCH", &path, content_type, body).await), expect);
    };
    let why = "json: cannot unmarshal string into Go value of type map[string]interface {}";
    check(STRATEGIC, "\"x\"", (400, "BadRequest", why)).await;
    let merge = format!("error decoding patch: {why}");
    check("application/merge-patch+json", "\"x\"", (400, "BadRequest", &merge)).await;
    let (code, refused) = api.send("PATCH", &path, STRATEGIC, r#"{"data":{"p":1}}"#).await;
    let text = refused["message"].as_str().unwrap_or_default();
    assert!(code == 422 && text.contains(r#"patch: Invalid value: "map[data:map[p:1]]": "#), "{code} {text}");
}

#[tokio::test]
async fn field_validation_refuses_warns_or_ignores() {
    let api = Api::new().await;
    let body =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "dta": {}}).to_string();
    let strict = api.send("POST", &format!("{MAPS}?fieldValidation=Strict"), JSON, &body).await;
    let why = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dta\"";
    assert_eq!(message(&strict), (400, "BadRequest", why));
    let response =
        api.raw("POST", &format!("{MAPS}?dryRun=All"), &[("content-type", JSON)], body.clone()).await;
    assert_eq!(response.headers()["warning"], "299 - \"unknown field \\\"dta\\\"\"");
    let ignored =
        api.raw("POST", &format!("{MAPS}?fieldValidation=Ignore"), &[("content-type", JSON)], body).await;
    assert_eq!((ignored.status().as_u16(), ignored.headers().get("warning")), (201, None));
    let given_up = api.raw("GET", "/api/v1/namespaces/a/endpoints", &[], "").await;
    let why = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    assert_eq!(given_up.headers()["warning"], why);
}

#[tokio::test]
async fn a_dry_run_answers_and_writes_nothing() {
    let api = Api::new().await;
    let (code, dry) = api.post(&format!("{MAPS}?dryRun=All"), &map("m")).await;
    assert_eq!((code, &dry["data"]["k"]), (201, &json!("v")));
    assert_eq!(api.get(&format!("{MAPS}/m")).await.0, 404);
    let made = api.created(MAPS, &map("m")).await;
    assert_eq!(api.post(&format!("{MAPS}?dryRun=All"), &map("m")).await.0, 409);
    let (_, patched) = api.merge(&format!("{MAPS}/m?dryRun=All"), &json!({"data": {"k": "w"}})).await;
    assert_eq!(patched["data"]["k"], "w");
    assert_eq!(api.delete(&format!("{MAPS}/m?dryRun=All")).await.0, 200);
    assert_eq!(api.get(&format!("{MAPS}/m")).await.1, made);
}

#[tokio::test]
async fn updates_need_the_version_they_saw() {
    let api = Api::new().await;
    let first = api.created(MAPS, &map("m")).await;
    let mut change = first.clone();
    change["data"]["k"] = json!("w");
    let (code, second) = api.put(&format!("{MAPS}/m"), &change).await;
    assert_eq!(code, 200, "{second}");
    assert!(version(&second) > version(&first));
    let stale = api.put(&format!("{MAPS}/m"), &change).await;
    let why = "Operation cannot be fulfilled on configmaps \"m\": the object has been modified; please apply your changes to the latest version and try again";
    assert_eq!(message(&stale), (409, "Conflict", why));

    // Without a version a config map is overwritten.
    assert_eq!(api.put(&format!("{MAPS}/m"), &map("m")).await.0, 200);
    let mut other = map("m");
    other["metadata"]["uid"] = json!("other");
    let refused = api.put(&format!("{MAPS}/m"), &other).await;
    assert_eq!(refused.0, 409);
    assert!(message(&refused).2.contains("Precondition failed: UID in precondition: other"), "{}", refused.1);
    let renamed = api.put(&format!("{MAPS}/m"), &map("n")).await;
    let why = "the name of the object (n) does not match the name on the URL (m)";
    assert_eq!(message(&renamed), (400, "BadRequest", why));
    let absent = api.put(&format!("{MAPS}/none"), &map("none")).await;
    assert_eq!(message(&absent), (404, "NotFound", "configmaps \"none\" not found"));
}

#[tokio::test]
async fn a_change_of_nothing_writes_nothing() {
    let api = Api::new().await;
    let made = api.created(MAPS, &map("m")).await;
    let before = store::Store::revision(&*api.store).await.expect("a revision");
    assert_eq!(api.put(&format!("{MAPS}/m"), &made).await.1, made);
    assert_eq!(api.merge(&format!("{MAPS}/m"), &json!({"data": {"k": "v"}})).await.1, made);
    assert_eq!(store::Store::revision(&*api.store).await.expect("a revision"), before);
}

#[tokio::test]
async fn what_the_server_set_cannot_be_changed() {
    let api = Api::new().await;
    let made = api.created(MAPS, &map("m")).await;
    let patch = json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "deletionTimestamp": "2001-01-01T00:00:00Z"}});
    let (code, patched) = api.merge(&format!("{MAPS}/m"), &patch).await;
    assert_eq!(code, 422, "{patched}");
    let (_, patched) =
        api.merge(&format!("{MAPS}/m"), &json!({"metadata": {"creationTimestamp": null}})).await;
    assert_eq!(patched["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"]);
    let refused = api.merge(&format!("{MAPS}/m"), &json!({"metadata": {"uid": "x"}})).await;
    assert_eq!(
        message(&refused),
        (
            422,
            "Invalid",
            "ConfigMap \"m\" is invalid: metadata.uid: Invalid value: \"x\": field is immutable"
        )
    );
}

#[tokio::test]
async fn patches_of_all_kinds() {
    let api = Api::new().await;
    api.created(MAPS, &map("m")).await;
    let path = format!("{MAPS}/m");
    let check = async |content_type: &str, body: &str, expect: Value| {
        let (code, got) = api.send("PATCH", &path, content_type, body).await;
        assert_eq!((code, &got["data"]), (200, &expect), "{got}");
    };
    check("application/merge-patch+json", r#"{"data":{"a":"1"}}"#, json!({"k": "v", "a": "1"})).await;
    check("application/json-patch+json", r#"[{"op":"remove","path":"/data/a"}]"#, json!({"k": "v"})).await;
    check("application/strategic-merge-patch+json", r#"{"data":{"b":"2"}}"#, json!({"k": "v", "b": "2"}))
        .await;
    let (code, applied) = api
        .send(
            "PATCH",
            &format!("{MAPS}/fresh?fieldManager=me"),
            "application/apply-patch+yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: fresh\ndata:\n  x: z\n",
        )
        .await;
    assert_eq!((code, &applied["data"]), (201, &json!({"x": "z"})), "{applied}");
    assert_eq!(applied["metadata"]["managedFields"][0]["operation"], "Apply");
    let unknown = api.send("PATCH", &path, "application/cbor", "").await;
    assert_eq!(unknown.0, 415);
    let absent = api.merge(&format!("{MAPS}/none"), &json!({})).await;
    assert_eq!(absent.0, 404);
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let api = std::sync::Arc::new(Api::new().await);
    api.created(MAPS, &map("m")).await;
    let tasks: Vec<_> = (0..16)
        .map(|i| {
            let api = api.clone();
            tokio::spawn(async move {
                api.merge(&format!("{MAPS}/m"), &json!({"data": {format!("k{i}"): "v"}})).await
            })
        })
        .collect();
    for task in tasks {
        let (code, answer) = task.await.expect("a task");
        assert_eq!(code, 200, "{answer}");
    }
    let (_, got) = api.get(&format!("{MAPS}/m")).await;
    assert_eq!(got["data"].as_object().map(serde_json::Map::len), Some(17));
}

#[tokio::test]
async fn delete_checks_preconditions() {
    let api = Api::new().await;
    let made = api.created(MAPS, &map("m")).await;
    let delete =
        async |options: Value| api.send("DELETE", &format!("{MAPS}/m"), JSON, &options.to_string()).await;
    let refused = delete(json!({"preconditions": {"uid": "x"}})).await;
    assert_eq!(refused.0, 409);
    assert!(
        message(&refused)
            .2
            .starts_with("Operation cannot be fulfilled on ConfigMap \"m\": the UID in the precondition (x)")
    );
    assert_eq!(delete(json!({"preconditions": {"resourceVersion": "1"}})).await.0, 409);
    let bad = delete(json!({"propagationPolicy": "Sideways"})).await;
    assert_eq!(bad.0, 422, "{}", bad.1);
    let (code, gone) = delete(json!({"preconditions": {"uid": made["metadata"]["uid"]}})).await;
    assert_eq!(
        (code, &gone["status"], &gone["details"]["kind"]),
        (200, &json!("Success"), &json!("configmaps"))
    );
    assert_eq!(delete(json!({})).await.0, 404);
}

#[tokio::test]
async fn finalizers_keep_an_object_until_the_last_is_gone() {
    let api = Api::new().await;
    let mut body = map("m");
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.created(MAPS, &body).await;
    let path = format!("{MAPS}/m");
    let (code, marked) = api.delete(&path).await;
    assert_eq!(code, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    let refused = api
        .merge(&path, &json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}))
        .await;
    assert_eq!(refused.0, 422);
    let (_, again) = api.delete(&path).await;
    assert_eq!(again["metadata"]["resourceVersion"], marked["metadata"]["resourceVersion"]);
    assert_eq!(api.merge(&path, &json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(api.get(&path).await.0, 404);
}

#[tokio::test]
async fn propagation_becomes_a_finalizer() {
    let api = Api::new().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        api.created(MAPS, &map("m")).await;
        let (code, marked) = api.delete(&format!("{MAPS}/m?propagationPolicy={policy}")).await;
        assert_eq!((code, &marked["metadata"]["finalizers"]), (200, &json!([finalizer])), "{marked}");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        api.merge(&format!("{MAPS}/m"), &json!({"metadata": {"finalizers": null}})).await;
    }
    api.created(MAPS, &map("m")).await;
    let (_, gone) = api.delete(&format!("{MAPS}/m?propagationPolicy=Background")).await;
    assert_eq!(gone["status"], "Success");
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let api = Api::new().await;
    for (name, tier) in [("a", "x"), ("b", "x"), ("c", "y")] {
        api.created(MAPS, &json!({"metadata": {"name": name, "labels": {"tier": tier}}})).await;
    }
    let (code, gone) = api.delete(&format!("{MAPS}?labelSelector=tier%3Dx")).await;
    assert_eq!((code, gone["items"].as_array().map(Vec::len)), (200, Some(2)));
    let (_, left) = api.get(MAPS).await;
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_namespace_terminates_before_it_goes() {
    let api = Api::new().await;
    api.created("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await;
    let (code, marked) = api.delete("/api/v1/namespaces/n").await;
    assert_eq!((code, &marked["status"]["phase"]), (200, &json!("Terminating")), "{marked}");
    let (_, again) = api.delete("/api/v1/namespaces/n").await;
    assert_eq!(version(&again), version(&marked));
    let mut finalized = marked.clone();
    finalized["spec"]["finalizers"] = json!([]);
    let (code, answer) = api.put("/api/v1/namespaces/n/finalize", &finalized).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(api.get("/api/v1/namespaces/n").await.0, 404);
}

#[tokio::test]
async fn services_get_addresses_and_give_them_back() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/a/services";
    let body = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let made = api.created(path, &body("s", json!({"ports": ports, "clusterIP": "10.96.0.10"}))).await;
    assert_eq!(made["spec"]["clusterIPs"], json!(["10.96.0.10"]));
    let taken = api.post(path, &body("t", json!({"ports": ports, "clusterIP": "10.96.0.10"}))).await;
    let why = "Service \"t\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to allocate IP 10.96.0.10: provided IP is already allocated";
    assert_eq!(message(&taken), (422, "Invalid", why));
    let outside = api.post(path, &body("t", json!({"ports": ports, "clusterIP": "10.0.0.1"}))).await;
    let why = "Service \"t\" is invalid: spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: failed to allocate IP 10.0.0.1: the provided IP (10.0.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12";
    assert_eq!(message(&outside), (422, "Invalid", why));

    let node = api.created(path, &body("n", json!({"type": "NodePort", "ports": ports}))).await;
    let port = node["spec"]["ports"][0]["nodePort"].as_i64().expect("a port");
    assert!((30000..=32767).contains(&port));
    assert!(node["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.")), "{node}");
    let same = json!([{"port": 80, "nodePort": port}]);
    let taken = api.post(path, &body("t", json!({"type": "NodePort", "ports": same}))).await;
    assert!(message(&taken).2.ends_with("provided port is already allocated"), "{}", taken.1);

    api.delete(&format!("{path}/s")).await;
    api.delete(&format!("{path}/n")).await;
    let again = json!({"type": "NodePort", "ports": same, "clusterIP": "10.96.0.10"});
    api.created(path, &body("t", again)).await;
    let headless = api.created(path, &body("h", json!({"ports": ports, "clusterIP": "None"}))).await;
    assert_eq!(headless["spec"]["clusterIP"], "None");
}

#[tokio::test]
async fn events_are_served_in_both_groups() {
    let api = Api::new().await;
    let core = json!({
        "metadata": {"name": "e", "namespace": "a"},
        "involvedObject": {"kind": "Pod", "namespace": "a", "name": "p"},
        "reason": "Started", "message": "it began", "type": "Normal", "count": 2
    });
    api.created("/api/v1/namespaces/a/events", &core).await;
    let (code, newer) = api.get("/apis/events.k8s.io/v1/namespaces/a/events/e").await;
    assert_eq!(
        (code, &newer["apiVersion"], &newer["note"]),
        (200, &json!("events.k8s.io/v1"), &json!("it began"))
    );
    assert_eq!(newer["regarding"]["name"], "p");
    let (_, list) = api.get("/apis/events.k8s.io/v1/events?fieldSelector=regarding.name%3Dp").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
}

#[tokio::test]
async fn addresses_of_stored_services_are_taken_at_the_start() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/a/services";
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "clusterIP": "10.96.0.10"}});
    api.created(path, &service("s")).await;
    let resources = crate::resource::Resources::start(
        api.store.clone(),
        kinds::ALL,
        std::sync::Arc::new(crate::resource::AdmitAll),
        crate::resource::Config::default(),
    )
    .await
    .expect("a store");
    let again = Api { resources, store: api.store.clone() };
    assert_eq!(again.post(path, &service("t")).await.0, 422);
    assert_eq!(again.get(&format!("{path}/s")).await.1, api.get(&format!("{path}/s")).await.1);
}

/// Notes in which order it is asked, and sets a label.
#[derive(Default)]
struct Noting(parking_lot::Mutex<Vec<String>>);

#[async_trait::async_trait]
impl crate::resource::Admission for Noting {
    fn handles(&self, _: crate::resource::Operation, resource: &meta::GroupVersionResource, _: &str) -> bool {
        resource.resource == "pods"
    }

    async fn admit(
        &self,
        a: &crate::resource::Attributes<'_>,
        object: Option<&mut kinds::Object>,
    ) -> Result<(), meta::ApiError> {
        self.0.lock().push(format!("admit {} {} old={}", a.operation.as_str(), a.name, a.old.is_some()));
        if let Some(object) = object {
            let pod = object.downcast::<k8s_openapi::api::core::v1::Pod>();
            let defaulted = pod.and_then(|p| p.spec.as_ref()).and_then(|s| s.restart_policy.clone());
            object
                .meta_mut()
                .labels
                .get_or_insert_default()
                .insert("policy".into(), defaulted.unwrap_or_default());
        }
        Ok(())
    }

    async fn validate(
        &self,
        a: &crate::resource::Attributes<'_>,
        object: Option<&kinds::Object>,
    ) -> Result<(), meta::ApiError> {
        let uid = object.is_some_and(|o| o.meta().uid.is_some());
        self.0.lock().push(format!("validate {} uid={uid}", a.operation.as_str()));
        if object.is_some_and(|o| o.meta().labels.iter().flatten().any(|(k, _)| k == "refused")) {
            return Err(meta::ApiError::forbidden(&a.resource.group_resource(), a.name, "no"));
        }
        Ok(())
    }
}

#[tokio::test]
async fn admission_sees_defaults_and_decides_before_the_store() {
    let noting = std::sync::Arc::new(Noting::default());
    let api = Api::with(noting.clone()).await;
    let path = "/api/v1/namespaces/a/pods";
    let made = api.created(path, &super::pods::pod("p")).await;
    assert_eq!(made["metadata"]["labels"]["policy"], "Always");
    api.merge(&format!("{path}/p"), &json!({"metadata": {"labels": {"x": "y"}}})).await;
    api.delete(&format!("{path}/p")).await;
    let notes = std::mem::take(&mut *noting.0.lock());
    let expect = [
        "admit CREATE p old=false",
        "validate CREATE uid=true",
        "admit UPDATE p old=true",
        "validate UPDATE uid=true",
        "admit DELETE p old=true",
        "validate DELETE uid=false",
    ];
    assert_eq!(notes, expect);
    let mut refused = super::pods::pod("r");
    refused["metadata"]["labels"]["refused"] = json!("yes");
    assert_eq!(message(&api.post(path, &refused).await), (403, "Forbidden", "pods \"r\" is forbidden: no"));
    assert_eq!(api.get(&format!("{path}/r")).await.0, 404);
}
