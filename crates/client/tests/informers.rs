//! Informers, events and leader election against an API server in memory.
#![allow(clippy::unwrap_used, reason = "tests")]

use client::testing::FakeApi;
use client::{Informers, Key, Options, Recorder};
use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const KINDS: &[(&str, &str, &str, bool)] = &[
    ("v1", "ConfigMap", "configmaps", true),
    ("v1", "Event", "events", true),
    ("coordination.k8s.io/v1", "Lease", "leases", true),
];

fn map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"k": value},
        "metadata": {"namespace": "ns", "name": name, "managedFields": [{"manager": "x"}]},
    })
}

fn values(i: &client::Informer<ConfigMap>) -> Vec<String> {
    i.list()
        .iter()
        .map(|m| format!("{}={}", m.metadata.name.as_ref().unwrap(), m.data.as_ref().unwrap()["k"]))
        .collect()
}

/// Bound of waiting for what must happen.
async fn until(mut f: impl FnMut() -> bool) {
    let wait = async {
        while !f() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it happens");
}

#[tokio::test]
async fn an_informer_follows_the_server_through_lost_watches() {
    let api = FakeApi::new(KINDS);
    api.put(map("a", "1"));
    let informers = Informers::new(api.client());
    let maps = informers.of::<ConfigMap>(Options::all());
    let log = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let sink = log.clone();
    maps.on_change(move |d| sink.lock().push((d.key.name.to_string(), d.old.is_some(), d.new.is_some())));
    maps.synced().await;
    assert_eq!(values(&maps), ["a=1"]);
    assert!(maps.list()[0].metadata.managed_fields.is_none());
    api.put(map("b", "1"));
    until(|| values(&maps) == ["a=1", "b=1"]).await;
    // What happens while no watch runs is found by the next list.
    api.drop_watches();
    api.put(map("c", "1"));
    api.remove("configmaps", "ns", "a");
    until(|| values(&maps) == ["b=1", "c=1"]).await;
    let seen = log.lock().clone();
    let entry = |n: &str, o, w| (n.to_owned(), o, w);
    assert_eq!(seen[..2], [entry("a", false, true), entry("b", false, true)]);
    assert!(seen.contains(&entry("a", true, false)) && seen.contains(&entry("c", false, true)));
    assert_eq!(seen.len(), 4, "each change once: {seen:?}");
    // The same options share the watch.
    let before = api.count(Method::GET, "configmaps");
    let again = informers.of::<ConfigMap>(Options::all());
    again.synced().await;
    assert_eq!(api.count(Method::GET, "configmaps"), before);
}

#[tokio::test]
async fn a_server_without_watch_lists_is_listed() {
    let api = FakeApi::new(KINDS);
    api.put(map("a", "1"));
    api.fail_once(Method::GET, "configmaps", 422, "Invalid");
    let maps = Informers::new(api.client()).of::<ConfigMap>(Options::all());
    maps.synced().await;
    api.put(map("b", "2"));
    until(|| values(&maps) == ["a=1", "b=2"]).await;
    let version = api.get("configmaps", "ns", "b").unwrap()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    maps.saw(version).await;
    assert!(maps.get(&Key::new("ns", "b")).is_some());
}

#[tokio::test]
async fn events_are_counted_on_the_server() {
    let api = FakeApi::new(KINDS);
    let recorder = Recorder::new(api.client(), "tester", "");
    let about =
        ObjectReference { namespace: Some("ns".into()), name: Some("a".into()), ..Default::default() };
    for _ in 0..3 {
        recorder.normal(&about, "Tested", "it works");
    }
    until(|| api.list("events").first().is_some_and(|e| e["count"] == 3)).await;
    assert_eq!(api.list("events").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_takes_over_when_the_leader_leaves() {
    let api = FakeApi::new(KINDS);
    let run = |identity: &'static str, stop: CancellationToken| {
        let elector =
            client::leader::Elector::new(api.client(), client::leader::Config::new("lock", identity));
        let (led, leading) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(elector.run(stop, |lead| async move {
            led.send(()).unwrap();
            lead.cancelled().await;
        }));
        (leading, task)
    };
    let stop = CancellationToken::new();
    let (first, task) = run("one", stop.clone());
    first.await.unwrap();
    let (mut second, _other) = run("two", CancellationToken::new());
    tokio::time::timeout(Duration::from_secs(60), &mut second).await.expect_err("one renews its lease");
    stop.cancel();
    assert!(task.await.unwrap());
    second.await.unwrap();
    assert_eq!(api.get("leases", "kube-system", "lock").unwrap()["spec"]["holderIdentity"], "two");
}
