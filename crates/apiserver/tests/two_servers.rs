//! Two API servers on one store: what one gives away the other does not give again.

// A test's helpers fail as the test does.
#![allow(clippy::unwrap_used)]

use apiserver::{ApiServer, Config};
use auth::User;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota, Service};
use k8s_openapi::api::networking::v1::IPAddress;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Objects that both servers make at once.
const EACH: usize = 24;

struct Pair {
    servers: Vec<Arc<ApiServer>>,
    _directories: Vec<tempfile::TempDir>,
}

impl Pair {
    async fn start() -> Self {
        let store = store::memory::open();
        let (mut servers, mut directories) = (Vec::new(), Vec::new());
        for port in [6443, 6444] {
            let directory = tempfile::tempdir().unwrap();
            let mut config = Config::local(directory.path().to_owned(), port);
            config.resources.services.cluster_ip_ranges = vec![(IpAddr::from([10, 96, 0, 0]), 25)];
            config.resources.services.node_ports = 30000..=30127;
            servers.push(ApiServer::start(config, store.clone()).await.unwrap());
            directories.push(directory);
        }
        Self { servers, _directories: directories }
    }

    fn clients(&self) -> Vec<kube::Client> {
        let admin = User { name: "admin".into(), groups: vec![User::MASTERS.into()], ..User::default() };
        self.servers.iter().map(|s| s.client(admin.clone())).collect()
    }
}

fn node_port(name: String) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}))
    .unwrap()
}

async fn addresses(client: &kube::Client) -> BTreeSet<String> {
    let all: Api<IPAddress> = Api::all(client.clone());
    all.list(&ListParams::default()).await.unwrap().into_iter().filter_map(|a| a.metadata.name).collect()
}

#[tokio::test]
async fn no_address_is_given_twice() {
    let pair = Pair::start().await;
    let clients = pair.clients();
    let services: Vec<Api<Service>> = clients.iter().map(|c| Api::default_namespaced(c.clone())).collect();
    let create = |n: usize| {
        let api = services[n % 2].clone();
        async move { api.create(&PostParams::default(), &node_port(format!("s{n}"))).await.unwrap() }
    };
    let made = join_all((0..2 * EACH).map(create)).await;
    let specs = || made.iter().map(|s| s.spec.as_ref().unwrap());
    let ips: BTreeSet<&str> = specs().filter_map(|s| s.cluster_ip.as_deref()).collect();
    let ports: BTreeSet<i32> =
        specs().flat_map(|s| s.ports.iter().flatten().filter_map(|p| p.node_port)).collect();
    assert_eq!((ips.len(), ports.len()), (2 * EACH, 2 * EACH));

    let recorded = addresses(&clients[0]).await;
    assert!(ips.iter().all(|ip| recorded.contains(*ip)) && recorded.contains("10.96.0.1"), "{recorded:?}");

    // An address that one server gave is refused by the other, with upstream's words.
    let taken = made[0].spec.as_ref().unwrap();
    let (ip, port) = (taken.cluster_ip.clone().unwrap(), taken.ports.as_ref().unwrap()[0].node_port.unwrap());
    // of no node port: it could be given the one that is freed below
    let mut same_ip = node_port("same-ip".into());
    same_ip.spec = serde_json::from_value(json!({"clusterIP": ip, "ports": [{"port": 80}]})).unwrap();
    let refused = services[1].create(&PostParams::default(), &same_ip).await.unwrap_err().to_string();
    assert!(
        refused.contains(&format!("failed to allocate IP {ip}: provided IP is already allocated")),
        "{refused}"
    );
    let mut same_port = node_port("same-port".into());
    same_port.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].node_port = Some(port);
    let refused = services[1].create(&PostParams::default(), &same_port).await.unwrap_err().to_string();
    assert!(refused.contains("provided port is already allocated"), "{refused}");

    // Freed by one, given by the other.
    services[0].delete("s0", &DeleteParams::default()).await.unwrap();
    services[1].create(&PostParams::default(), &same_ip).await.unwrap();
    services[1].create(&PostParams::default(), &same_port).await.unwrap();
}

#[tokio::test]
async fn a_server_that_starts_finds_what_services_have() {
    let pair = Pair::start().await;
    let client = pair.clients().remove(0);
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let made = services.create(&PostParams::default(), &node_port("web".into())).await.unwrap();
    let ip = made.spec.unwrap().cluster_ip.unwrap();
    // As a store of an older version, which had no such objects.
    let all: Api<IPAddress> = Api::all(client.clone());
    all.delete(&ip, &DeleteParams::default()).await.unwrap();
    assert!(!addresses(&client).await.contains(&ip));
    pair.servers[0].front().resources.repair_services().await.unwrap();
    assert!(addresses(&client).await.contains(&ip));
}

#[tokio::test]
async fn no_quota_is_overspent() {
    let pair = Pair::start().await;
    let clients = pair.clients();
    let namespaces: Api<Namespace> = Api::all(clients[0].clone());
    let ns: Namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    namespaces.create(&PostParams::default(), &ns).await.unwrap();
    let quotas: Api<ResourceQuota> = Api::namespaced(clients[0].clone(), "team");
    let hard = json!({"count/configmaps": EACH.to_string()});
    let quota: ResourceQuota = serde_json::from_value(json!({
        "metadata": {"name": "q"}, "spec": {"hard": hard}}))
    .unwrap();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    // What the quota controller does.
    let counted = json!({"status": {"hard": hard, "used": {"count/configmaps": "0"}}});
    quotas.patch_status("q", &PatchParams::default(), &Patch::Merge(&counted)).await.unwrap();
    for server in &pair.servers {
        server.front().resources.cache().catch_up().await.unwrap();
    }

    let create = |n: usize| {
        let api: Api<ConfigMap> = Api::namespaced(clients[n % 2].clone(), "team");
        async move {
            let map: ConfigMap =
                serde_json::from_value(json!({"metadata": {"name": format!("m{n}")}})).unwrap();
            api.create(&PostParams::default(), &map).await.map(drop)
        }
    };
    let outcomes = join_all((0..3 * EACH).map(create)).await;
    let refused: Vec<String> =
        outcomes.iter().filter_map(|o| o.as_ref().err()).map(|e| e.to_string()).collect();
    assert_eq!(outcomes.len() - refused.len(), EACH);
    let words = format!(
        "is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps={EACH}, limited: count/configmaps={EACH}"
    );
    assert!(refused.iter().all(|r| r.contains(&words)), "{refused:?}");
    let used = quotas.get("q").await.unwrap().status.unwrap().used.unwrap();
    assert_eq!(used["count/configmaps"].0, EACH.to_string());
}
