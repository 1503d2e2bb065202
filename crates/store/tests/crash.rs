//! `kill -9` at any moment loses nothing acknowledged: a child writes and reports each acknowledgement, the
//! parent kills it and looks for every one of them.

use bytes::Bytes;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use store::*;

const DIR: &str = "IRONCLAD_STORE_CRASH_DIR";
const WRITERS: usize = 16;
const ROUNDS: u64 = 6;
/// Acknowledgements to wait for before the kill, growing by round so that it falls elsewhere each time.
const ACKS_A_ROUND: u64 = 150;

/// The child: does nothing unless the parent below started it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = std::sync::Arc::new(Embedded::open(Path::new(&dir)).unwrap());
    let start = store.revision().await.unwrap().0;
    let writers = (0..WRITERS).map(|w| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0u64.. {
                let key: Key = format!("/registry/{start}/{w}/{n}").into();
                let value = Some(Bytes::from(vec![b'x'; 700 + (n as usize % 5) * 900]));
                let written = store
                    .write(Write { key: key.clone(), expect: Expect::Absent, value, ttl: None })
                    .await
                    .unwrap();
                println!("ack {key} {}", written.revision);
            }
        })
    });
    for w in writers.collect::<Vec<_>>() {
        w.await.unwrap();
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    for round in 1..=ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            // the harness may print on the same line as the first acknowledgement
            let Some((_, ack)) = line.split_once("ack ") else { continue };
            let Some((key, revision)) = ack.split_once(' ') else { continue };
            let Ok(revision) = revision.parse() else { continue };
            acknowledged.push((key.to_owned(), revision));
            seen += 1;
            if seen == ACKS_A_ROUND * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= ACKS_A_ROUND * round, "the child ended by itself");
        let store = Embedded::open(dir.path()).unwrap();
        for (key, revision) in &acknowledged {
            let kv = store
                .get(key)
                .await
                .unwrap()
                .unwrap_or_else(|| panic!("{key} of revision {revision} is lost"));
            assert_eq!(kv.mod_revision.0, *revision);
        }
    }
}
