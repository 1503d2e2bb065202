//! The kernel takes the node's rules, in a network namespace of the test's own.

use netfilter::Applier;
use network::rules;

#[tokio::test]
async fn masquerading_and_host_ports_are_taken_and_removed() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests run as root");
    let pod = serde_json::from_value(serde_json::json!({
        "spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 53, "hostPort": 53, "hostIP": "192.0.2.1", "protocol": "UDP"}]}]},
        "status": {"podIP": "10.244.0.5", "phase": "Running"}}))
    .unwrap();
    let mut applier = Applier::new(rules::table("10.244.0.0/24", "10.244.0.0/16"));
    applier.update(vec![("default/web".into(), rules::host_ports(&pod))]).await.unwrap();
    let shown =
        std::process::Command::new("nft").args(["list", "table", "ip", "ironclad-network"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("tcp . 8080 : 10.244.0.5 . 80"), "{shown}");
    assert!(shown.contains("192.0.2.1 . udp . 53 : 10.244.0.5 . 53"), "{shown}");
    applier.update(vec![("default/web".into(), None)]).await.unwrap();
    applier.remove().await.unwrap();
}
