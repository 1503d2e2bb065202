//! Watches: order, selector transitions, where they begin and how they end.

use super::harness::{Api, WatchLines, version};
use serde_json::json;

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

async fn watch(api: &Api, query: &str) -> WatchLines {
    WatchLines::new(api.raw("GET", &format!("{MAPS}?watch=1&{query}"), &[], "").await)
}

#[tokio::test]
async fn a_watch_begins_with_the_state_and_tells_every_change_once() {
    let api = Api::new().await;
    api.created(MAPS, &json!({"metadata": {"name": "old"}})).await;
    let mut events = watch(&api, "").await;
    events.expect(&[("ADDED", "old")]).await;
    api.created(MAPS, &json!({"metadata": {"name": "new"}})).await;
    api.created("/api/v1/namespaces/b/configmaps", &json!({"metadata": {"name": "elsewhere"}})).await;
    api.merge(&format!("{MAPS}/new"), &json!({"data": {"a": "1"}})).await;
    api.delete(&format!("{MAPS}/old")).await;
    let seen = events.expect(&[("ADDED", "new"), ("MODIFIED", "new"), ("DELETED", "old")]).await;
    let versions: Vec<u64> = seen.iter().map(|e| version(&e["object"])).collect();
    assert!(versions.is_sorted() && versions[0] < versions[2], "{versions:?}");
    assert_eq!(seen[1]["object"]["data"]["a"], "1");
    let (_, got) = api.get(&format!("{MAPS}/new")).await;
    assert_eq!(seen[1]["object"], got);
}

#[tokio::test]
async fn what_leaves_a_selection_is_deleted_and_what_enters_is_added() {
    let api = Api::new().await;
    let mut events = watch(&api, "labelSelector=on%3Dyes").await;
    api.created(MAPS, &json!({"metadata": {"name": "m"}})).await;
    let set = async |labels: serde_json::Value| {
        let (code, object) = api.merge(&format!("{MAPS}/m"), &json!({"metadata": {"labels": labels}})).await;
        assert_eq!(code, 200, "{object}");
        object
    };
    set(json!({"on": "yes"})).await;
    let last = set(json!({"x": "1"})).await;
    let left = set(json!({"on": "no"})).await;
    set(json!({"on": "yes"})).await;
    api.delete(&format!("{MAPS}/m")).await;
    let seen = events
        .expect(&[("ADDED", "m"), ("MODIFIED", "m"), ("DELETED", "m"), ("ADDED", "m"), ("DELETED", "m")])
        .await;
    // The last object that was selected, at the version of the change.
    assert_eq!(seen[2]["object"]["metadata"]["labels"], last["metadata"]["labels"]);
    assert_eq!(version(&seen[2]["object"]), version(&left));
}

#[tokio::test]
async fn a_watch_goes_on_from_a_version() {
    let api = Api::new().await;
    let first = api.created(MAPS, &json!({"metadata": {"name": "a"}})).await;
    api.created(MAPS, &json!({"metadata": {"name": "b"}})).await;
    api.created(MAPS, &json!({"metadata": {"name": "c"}})).await;
    let mut events = watch(&api, &format!("resourceVersion={}", version(&first))).await;
    events.expect(&[("ADDED", "b"), ("ADDED", "c")]).await;
    let mut named =
        watch(&api, &format!("resourceVersion={}&fieldSelector=metadata.name%3Dc", version(&first))).await;
    named.expect(&[("ADDED", "c")]).await;
}

#[tokio::test]
async fn a_version_that_is_no_longer_kept_is_expired() {
    let store = store::memory::open();
    let key: store::Key = "/registry/configmaps/a/m".into();
    for i in 0..3 {
        let value = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"m","namespace":"a"}},"data":{{"i":"{i}"}}}}"#
        );
        let write = store::Write {
            key: key.clone(),
            expect: store::Expect::Any,
            value: Some(value.into()),
            ttl: None,
        };
        store::Store::write(&*store, write).await.expect("a write");
    }
    let resources = crate::resource::Resources::start(
        store.clone(),
        kinds::ALL,
        std::sync::Arc::new(crate::resource::AdmitAll),
        crate::resource::Config::default(),
    )
    .await
    .expect("a store");
    let api = Api { resources, store };
    let mut events = watch(&api, "resourceVersion=2").await;
    let event = events.next().await.expect("an event");
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_i64()), (Some("ERROR"), Some(410)));
    assert_eq!(event["object"]["message"], "too old resource version: 2 (4)");
    assert_eq!(event["object"]["reason"], "Expired");
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let api = Api::new().await;
    api.created(MAPS, &json!({"metadata": {"name": "a"}})).await;
    let last = api.created(MAPS, &json!({"metadata": {"name": "b"}})).await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = watch(&api, query).await;
    events.expect(&[("ADDED", "a"), ("ADDED", "b")]).await;
    let mark = events.next().await.expect("a bookmark");
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(version(&mark["object"]) >= version(&last));
}

#[tokio::test]
async fn a_quiet_watch_gets_bookmarks_and_ends_at_its_timeout() {
    let api = Api::new().await;
    let made = api.created(MAPS, &json!({"metadata": {"name": "a"}})).await;
    let from = version(&made);
    tokio::time::pause();
    let mut events =
        watch(&api, &format!("resourceVersion={from}&allowWatchBookmarks=true&timeoutSeconds=90")).await;
    let mut marks = 0;
    while let Some(event) = events.next().await {
        assert_eq!((event["type"].as_str(), version(&event["object"])), (Some("BOOKMARK"), from));
        marks += 1;
    }
    assert_eq!(marks, 2, "one after a minute and one before the end");
}

#[tokio::test]
async fn events_are_delivered_in_order_under_many_writers() {
    let api = std::sync::Arc::new(Api::new().await);
    let mut events = watch(&api, "").await;
    let writers: Vec<_> = (0..8)
        .map(|w| {
            let api = api.clone();
            tokio::spawn(async move {
                for i in 0..40 {
                    api.created(MAPS, &json!({"metadata": {"name": format!("w{w}-{i}")}})).await;
                }
            })
        })
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    let mut last = 0;
    for _ in 0..320 {
        let event = events.next().await.expect("an event");
        let at = version(&event["object"]);
        assert!(at > last, "{at} after {last}");
        last = at;
        seen.insert(event["object"]["metadata"]["name"].to_string());
    }
    assert_eq!(seen.len(), 320);
    for writer in writers {
        writer.await.expect("a writer");
    }
}

#[tokio::test]
async fn a_node_sees_its_pods_from_their_binding_on() {
    let api = Api::new().await;
    let pods = "/api/v1/namespaces/a/pods";
    let on_node = "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1";
    let mut events = WatchLines::new(api.raw("GET", on_node, &[], "").await);
    let mut unbound =
        WatchLines::new(api.raw("GET", "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3D", &[], "").await);
    for name in ["p", "q"] {
        api.created(pods, &super::pods::pod(name)).await;
        let node = if name == "p" { "n1" } else { "n2" };
        let binding = json!({"metadata": {"name": name}, "target": {"name": node}});
        assert_eq!(api.post(&format!("{pods}/{name}/binding"), &binding).await.0, 201);
    }
    api.delete(&format!("{pods}/p?gracePeriodSeconds=0")).await;
    events.expect(&[("ADDED", "p"), ("MODIFIED", "p"), ("DELETED", "p")]).await;
    unbound.expect(&[("ADDED", "p"), ("DELETED", "p"), ("ADDED", "q"), ("DELETED", "q")]).await;
}

#[tokio::test]
async fn a_watch_comes_as_table_and_as_protobuf() {
    let api = Api::new().await;
    api.created(MAPS, &json!({"metadata": {"name": "m"}})).await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let mut events = WatchLines::new(api.raw("GET", &format!("{MAPS}?watch=1"), &table, "").await);
    api.merge(&format!("{MAPS}/m"), &json!({"data": {"a": "1"}})).await;
    let first = events.next().await.expect("an event");
    assert_eq!((&first["type"], &first["object"]["rows"][0]["cells"][0]), (&json!("ADDED"), &json!("m")));
    assert!(first["object"]["columnDefinitions"].is_array());
    let second = events.next().await.expect("an event");
    assert_eq!((&second["type"], &second["object"]["columnDefinitions"]), (&json!("MODIFIED"), &json!(null)));

    let proto = [("accept", "application/vnd.kubernetes.protobuf;stream=watch")];
    let response = api.raw("GET", &format!("{MAPS}?watch=1"), &proto, "").await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let frame =
        http_body_util::BodyExt::frame(&mut response.into_body()).await.expect("a frame").expect("bytes");
    let bytes = frame.into_data().expect("data");
    let frame = schema::proto::read_frame(&bytes).expect("a frame").expect("whole");
    let (_, kind, _) = schema::proto::to_json(frame.object).expect("an envelope");
    assert_eq!((frame.event_type, kind.as_str()), ("ADDED", "ConfigMap"));
}

#[tokio::test]
async fn a_watcher_that_takes_nothing_is_closed_at_its_bound() {
    use crate::cache::watchers::WATCH_BUFFER_EVENTS;
    use crate::cache::{Delivery, EventType, Selector, Watcher};
    let api = Api::new().await;
    api.created(MAPS, &json!({"metadata": {"name": "m"}})).await;
    let cache = api.resources.lookup().resource("", "configmaps").expect("a resource");
    api.resources.cache().catch_up().await.expect("caught up");
    let entry = cache.get("a", "m").expect("an entry");
    let watcher = Watcher::new(Selector::default(), 0);
    let delivery = Delivery { ty: EventType::Added, entry };
    assert!((0..WATCH_BUFFER_EVENTS).all(|_| watcher.push(delivery.clone())));
    assert!(!watcher.is_closed());
    assert!(!watcher.push(delivery) && watcher.is_closed());
}

#[tokio::test]
async fn an_ended_watch_is_forgotten() {
    let api = Api::new().await;
    let cache = api.resources.lookup().resource("", "configmaps").expect("a resource").clone();
    for query in ["", "labelSelector=a%3Db", "fieldSelector=metadata.name%3Dm", "labelSelector=a"] {
        let lines = watch(&api, query).await;
        assert_eq!(cache.watcher_count(), 1, "{query}");
        drop(lines);
        assert_eq!(cache.watcher_count(), 0, "{query}");
    }
}
