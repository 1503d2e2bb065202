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
