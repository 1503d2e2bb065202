//! The kernel takes every form of rule we render, and their changes, in a network namespace of the test's own.
#![allow(clippy::unwrap_used, reason = "tests")]

use netfilter::Applier;
use proxy::rules;
use proxy::service::{Endpoint, Protocol, ServicePort};
use std::net::Ipv4Addr;
use std::process::Command;

const PODS: &str = "10.244.0.0/16";

/// The test's thread and the programs it starts get a network of their own.
fn own_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests run as root");
}

fn listing() -> String {
    let out = Command::new("nft").args(["list", "table", "ip", "kube-proxy"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

fn port(n: u8, endpoints: u8) -> ServicePort {
    let all: std::collections::BTreeSet<_> = (1..=endpoints)
        .map(|e| Endpoint { ip: Ipv4Addr::new(10, 244, n, e), port: 8080, local: !e.is_multiple_of(2) })
        .collect();
    ServicePort {
        namespace: "default".into(),
        service: format!("web-{n}"),
        name: "http".into(),
        protocol: if n.is_multiple_of(2) { Protocol::Udp } else { Protocol::Tcp },
        cluster_ip: Ipv4Addr::new(10, 96, 0, n),
        port: 80,
        node_port: (n > 1).then_some(30000 + u16::from(n)),
        external_ips: vec![Ipv4Addr::new(192, 0, 2, n)],
        load_balancer_ips: vec![Ipv4Addr::new(198, 51, 100, n)],
        source_ranges: if n == 3 { vec!["203.0.113.0/24".into(), "192.0.2.0/24".into()] } else { vec![] },
        affinity_seconds: (n == 4 || n == 5).then_some(60),
        internal_local: n == 5,
        external_local: n == 6 || n == 5,
        local_endpoints: all.iter().filter(|e| e.local).cloned().collect(),
        endpoints: all,
    }
}

#[tokio::test]
async fn every_form_of_service_is_taken_changed_and_removed() {
    own_network();
    let mut applier = Applier::new(rules::table(&[Ipv4Addr::new(192, 0, 2, 1)], "10.96.0.0/12"));
    let change = |endpoints: u8| {
        (1..=6)
            .map(|n| port(n, endpoints))
            .map(|p| (rules::owner(&p), Some(rules::fragment(&p, PODS))))
            .collect::<Vec<_>>()
    };
    for endpoints in [3, 1, 0, 2] {
        applier.update(change(endpoints)).await.unwrap();
        let shown = listing();
        for n in 1..=6 {
            assert_eq!(shown.contains(&format!("10.244.{n}.1")), endpoints > 0, "service {n}: {shown}");
        }
    }
    assert!(!applier.update(change(2)).await.unwrap(), "nothing changed, so nothing is applied");
    let all_gone = (1..=6).map(|n| (rules::owner(&port(n, 0)), None)).collect();
    applier.update(all_gone).await.unwrap();
    let shown = listing();
    assert!(!shown.contains("web-") && !shown.contains("10.244."), "{shown}");
    applier.remove().await.unwrap();
    assert_eq!(listing(), "");
}

#[tokio::test]
async fn a_new_process_replaces_what_an_earlier_one_left() {
    own_network();
    let table = || rules::table(&[], "10.96.0.0/12");
    let p = port(1, 2);
    Applier::new(table()).update(vec![(rules::owner(&p), Some(rules::fragment(&p, PODS)))]).await.unwrap();
    let q = port(3, 2);
    Applier::new(table()).update(vec![(rules::owner(&q), Some(rules::fragment(&q, PODS)))]).await.unwrap();
    let shown = listing();
    assert!(shown.contains("web-3") && !shown.contains("web-1"), "{shown}");
}
