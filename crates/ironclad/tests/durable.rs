//! `kill -9` of a loaded API server loses nothing it acknowledged: killed again and again while clients write, and
//! each acknowledged write is looked for.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use testkit::{Kubectl, network, until};

const SOON: Duration = Duration::from_secs(60);
const ROUNDS: usize = 4;
const WRITERS: usize = 8;
/// Acknowledgements before the kill, growing by round so that it falls elsewhere each time.
const ACKS_A_ROUND: usize = 60;

fn server(data: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironclad"));
    command.args(["kube-apiserver", "--log-level", "error", "--data-dir"]).arg(data);
    let child = command.spawn().expect("the ironclad binary");
    let kubectl = Kubectl::new(&data.join("admin.kubeconfig"));
    until("the API server answers", SOON, || {
        let seen = kubectl.run("get --raw /readyz");
        if seen.stdout == "ok" { Ok(()) } else { Err(seen.stderr) }
    });
    child
}

fn map(name: &str, value: usize) -> ConfigMap {
    ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        data: Some(BTreeMap::from([("value".to_owned(), value.to_string())])),
        ..ConfigMap::default()
    }
}

/// Writes until the server is gone; gives the names it was told are there.
async fn write(api: Api<ConfigMap>, round: usize, writer: usize, acks: Arc<AtomicUsize>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let name = format!("r{round}-w{writer}-{n}");
        if api.create(&PostParams::default(), &map(&name, n)).await.is_err() {
            break;
        }
        acknowledged.push(name);
        acks.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}

#[tokio::test]
async fn a_loaded_server_killed_again_and_again_loses_nothing_acknowledged() {
    network::own();
    let directory = tempfile::Builder::new().prefix("id").tempdir_in("/var/tmp").expect("a directory");
    let data = directory.path();
    let mut acknowledged: Vec<String> = Vec::new();
    let mut child = server(data);
    for round in 1..=ROUNDS {
        let client = client::connect(&data.join("admin.kubeconfig"), "durable").await.expect("a client");
        let api: Api<ConfigMap> = Api::namespaced(client, "default");
        let acks = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> =
            (0..WRITERS).map(|w| tokio::spawn(write(api.clone(), round, w, acks.clone()))).collect();
        while acks.load(Ordering::Relaxed) < ACKS_A_ROUND * round {
            assert!(!writers.iter().all(|w| w.is_finished()), "the writers ended before the kill");
            tokio::task::yield_now().await;
        }
        child.kill().expect("our server");
        child.wait().expect("its end");
        for writer in writers {
            acknowledged.extend(writer.await.expect("a writer"));
        }
        child = server(data);
        let client = client::connect(&data.join("admin.kubeconfig"), "durable").await.expect("a client");
        let there =
            Api::<ConfigMap>::namespaced(client, "default").list(&Default::default()).await.expect("a list");
        let there: std::collections::HashSet<String> =
            there.items.into_iter().filter_map(|m| m.metadata.name).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|name| !there.contains(*name)).collect();
        assert!(
            lost.is_empty(),
            "after kill {round}, {} of {} are lost: {lost:?}",
            lost.len(),
            acknowledged.len()
        );
    }
    child.kill().expect("our server");
    child.wait().expect("its end");
}
