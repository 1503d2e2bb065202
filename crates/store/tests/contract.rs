//! What every backend promises, run against each.
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use store::*;

const DEADLINE: Duration = Duration::from_secs(20);

fn put(key: &str, expect: Expect, value: &str) -> Write {
    Write { key: key.into(), expect, value: Some(Bytes::from(value.to_owned())), ttl: None }
}

fn delete(key: &str, expect: Expect) -> Write {
    Write { key: key.into(), expect, value: None, ttl: None }
}

async fn keys(store: &dyn Store, at: Option<Revision>) -> Vec<String> {
    let range = Range { prefix: "/registry/".into(), after: None, limit: 0, at };
    store.range(range).await.unwrap().items.iter().map(|kv| kv.key.to_string()).collect()
}

async fn next(watch: &mut Watch) -> EventBatch {
    tokio::time::timeout(DEADLINE, watch.receiver.recv())
        .await
        .expect("an event in time")
        .expect("an open watch")
}

/// Runs a check against a fresh store of each backend.
async fn each<F: Future<Output = ()>>(check: impl Fn(Arc<dyn Store>) -> F) {
    check(store::memory::open()).await;
    let dir = tempfile::tempdir().unwrap();
    check(Arc::new(Embedded::open(dir.path()).unwrap())).await;
}

#[tokio::test]
async fn compare_and_swap_lets_one_writer_win() {
    each(|s| async move {
        let first = s.write(put("/registry/a", Expect::Absent, "1")).await.unwrap();
        assert_eq!(first.revision, Revision(2), "the first write of a store is revision 2, as etcd's");
        let refused = s.write(put("/registry/a", Expect::Absent, "2")).await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict { current: Some(c) } if c.value == "1"));
        let second = s.write(put("/registry/a", Expect::Revision(first.revision), "2")).await.unwrap();
        assert_eq!(second.previous.unwrap().value, "1");
        assert!(s.write(put("/registry/a", Expect::Revision(first.revision), "3")).await.is_err());
        let now = s.get("/registry/a").await.unwrap().unwrap();
        assert_eq!((now.value.as_ref(), now.create_revision), (b"2".as_slice(), first.revision));
    })
    .await;
}

#[tokio::test]
async fn writers_of_one_key_in_one_group_are_still_one_after_the_other() {
    each(|s| async move {
        let writers: Vec<_> = (0..64)
            .map(|i| {
                let s = s.clone();
                tokio::spawn(async move {
                    s.write(put("/registry/a", Expect::Absent, &i.to_string())).await.is_ok()
                })
            })
            .collect();
        let mut won = 0;
        for w in writers {
            won += usize::from(w.await.unwrap());
        }
        assert_eq!(won, 1);
    })
    .await;
}

#[tokio::test]
async fn pages_show_one_state_while_writes_go_on() {
    each(|s| async move {
        for k in ["a", "b", "c"] {
            s.write(put(&format!("/registry/{k}"), Expect::Absent, k)).await.unwrap();
        }
        let range = |after: Option<&str>, at| Range {
            prefix: "/registry/".into(),
            after: after.map(Key::from),
            limit: 2,
            at,
        };
        let first = s.range(range(None, None)).await.unwrap();
        assert_eq!((first.items.len(), first.remaining), (2, 1));
        s.write(delete("/registry/c", Expect::Any)).await.unwrap();
        s.write(put("/registry/d", Expect::Absent, "d")).await.unwrap();
        let rest = s.range(range(Some("/registry/b"), Some(first.revision))).await.unwrap();
        assert_eq!(rest.items.iter().map(|kv| &*kv.key).collect::<Vec<_>>(), ["/registry/c"]);
    })
    .await;
}

#[tokio::test]
async fn a_watch_from_the_past_is_complete_and_in_order() {
    each(|s| async move {
        let first = s.write(put("/registry/a", Expect::Absent, "1")).await.unwrap().revision;
        s.write(put("/registry/a", Expect::Any, "2")).await.unwrap();
        let mut watch = s.watch("/registry/", first).await.unwrap();
        s.write(put("/other/x", Expect::Absent, "x")).await.unwrap();
        s.write(delete("/registry/a", Expect::Any)).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let batch = next(&mut watch).await;
            seen.extend(batch.events.iter().cloned());
        }
        let shown: Vec<_> =
            seen.iter().map(|e| (e.kv.mod_revision.0, e.deleted, e.kv.value.clone())).collect();
        assert_eq!(shown, [(3, false, Bytes::from("2")), (5, true, Bytes::from("2"))]);
        assert_eq!(seen[0].previous.as_ref().unwrap().value, "1");
    })
    .await;
}

#[tokio::test]
async fn compaction_refuses_the_past_and_keeps_the_present() {
    each(|s| async move {
        s.write(put("/registry/a", Expect::Absent, "1")).await.unwrap();
        s.write(put("/registry/b", Expect::Absent, "1")).await.unwrap();
        let last = s.write(delete("/registry/b", Expect::Any)).await.unwrap().revision;
        s.compact(last).await.unwrap();
        let past = Range { prefix: "/registry/".into(), after: None, limit: 0, at: Some(Revision(2)) };
        assert!(matches!(s.range(past).await, Err(StoreError::Compacted { oldest, .. }) if oldest == last));
        assert!(matches!(s.check_readable(Revision(2)).await, Err(StoreError::Compacted { .. })));
        s.check_readable(last).await.unwrap();
        assert!(matches!(s.watch("/", Revision(2)).await, Err(StoreError::Compacted { .. })));
        assert!(matches!(s.watch("/", Revision(99)).await, Err(StoreError::Future { .. })));
        assert_eq!(keys(&*s, None).await, ["/registry/a"]);
    })
    .await;
}

#[tokio::test]
async fn a_key_goes_when_its_time_is_over_and_watchers_hear_of_it() {
    each(|s| async move {
        let mut watch = s.watch("/registry/", Revision(1)).await.unwrap();
        let ttl = Some(Duration::from_secs(1));
        s.write(Write { ttl, ..put("/registry/events/e", Expect::Absent, "e") }).await.unwrap();
        assert!(!next(&mut watch).await.events[0].deleted);
        assert!(next(&mut watch).await.events[0].deleted);
        assert_eq!(keys(&*s, None).await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn a_reopened_store_is_the_one_that_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let last = {
        let s = Embedded::open(dir.path()).unwrap();
        assert!(matches!(Embedded::open(dir.path()), Err(StoreError::Locked(_))));
        s.write(put("/registry/a", Expect::Absent, "1")).await.unwrap();
        s.write(put("/registry/b", Expect::Absent, "1")).await.unwrap();
        let last = s.write(delete("/registry/b", Expect::Any)).await.unwrap().revision;
        s.compact(last).await.unwrap();
        last
    };
    let s = Embedded::open(dir.path()).unwrap();
    assert_eq!(s.revision().await.unwrap(), last, "a revision is never given twice");
    assert_eq!(keys(&s, None).await, ["/registry/a"]);
    assert!(matches!(s.watch("/", Revision(2)).await, Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn a_value_over_the_bound_is_refused_with_its_size() {
    each(|s| async move {
        let big = "x".repeat(store::embedded::MAX_VALUE_BYTES + 1);
        let refused = s.write(put("/registry/big", Expect::Any, &big)).await.unwrap_err();
        assert!(matches!(refused, StoreError::TooLarge { bytes, .. } if bytes == big.len()));
    })
    .await;
}
