//! Single plans, and services that follow their pods.

use super::slices::MAX_PER_SLICE;
use super::*;
use crate::controller::Controller;
use crate::sim::Sim;
use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

fn sim(seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    sim.add(LegacyEndpoints);
    sim.add(EndpointSlices);
    sim.api.put(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "node", "labels": {"topology.kubernetes.io/zone": "z"}},
    }));
    sim
}

fn service(spec: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "ns", "name": "web", "labels": {"team": "a"}}, "spec": spec,
    })
}

fn plain() -> Value {
    json!({
        "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
    })
}

fn pod(n: usize, ready: bool, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "ns", "name": format!("p{n}"), "labels": {"app": "web"}},
        "spec": {
            "nodeName": "node",
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port, "protocol": "TCP"}]}],
        },
        "status": {
            "phase": "Running",
            "podIP": format!("10.244.{}.{}", n / 250, n % 250 + 1),
            "podIPs": [{"ip": format!("10.244.{}.{}", n / 250, n % 250 + 1)}],
            "conditions": [{
                "type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    })
}

/// Slices as `ports: address ready/serving/terminating`.
fn slices(sim: &Sim) -> Vec<String> {
    let flag = |v: &Value| if v == true { "1" } else { "0" };
    let mut out: Vec<String> = sim
        .api
        .list("endpointslices")
        .iter()
        .map(|s| {
            let ports: Vec<_> =
                s["ports"].as_array().unwrap().iter().map(|p| p["port"].to_string()).collect();
            let mut all: Vec<_> = s["endpoints"]
                .as_array()
                .unwrap()
                .iter()
                .map(|e| {
                    let c = &e["conditions"];
                    let flags = [flag(&c["ready"]), flag(&c["serving"]), flag(&c["terminating"])].concat();
                    format!("{} {flags}", e["addresses"][0].as_str().unwrap())
                })
                .collect();
            all.sort();
            format!("{}: {}", ports.join(","), all.join(", "))
        })
        .collect();
    out.sort();
    out
}

/// Ready and other addresses of the Endpoints.
fn legacy(sim: &Sim) -> (usize, usize) {
    let e = sim.api.get("endpoints", "ns", "web").unwrap();
    let n = |f: &str| {
        e["subsets"].as_array().into_iter().flatten().map(|s| s[f].as_array().map_or(0, Vec::len)).sum()
    };
    (n("addresses"), n("notReadyAddresses"))
}

fn settle(sim: &mut Sim) {
    sim.settle(SignedDuration::from_secs(60));
}

#[test]
fn a_service_finds_its_pods() {
    for seed in 0..10 {
        let mut sim = sim(seed);
        sim.api.put(service(plain()));
        settle(&mut sim);
        assert_eq!(slices(&sim), [": "], "one slice, even without endpoints");
        sim.api.put(pod(0, true, 8080));
        sim.api.put(pod(1, false, 8080));
        sim.api.put(pod(2, true, 9090));
        settle(&mut sim);
        assert_eq!(slices(&sim), ["8080: 10.244.0.1 110, 10.244.0.2 000", "9090: 10.244.0.3 110"]);
        assert_eq!(legacy(&sim), (2, 1));
        let s = &sim.api.list("endpointslices")[0];
        assert_eq!(
            s["metadata"]["labels"],
            json!({
                "team": "a", "kubernetes.io/service-name": "web",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            })
        );
        assert_eq!(s["metadata"]["ownerReferences"][0]["name"], "web");
        assert_eq!(s["endpoints"][0]["zone"], "z");
        sim.api.edit("pods", "ns", "p1", |p| p["status"]["conditions"][0]["status"] = json!("True"));
        settle(&mut sim);
        assert_eq!(legacy(&sim), (3, 0));
        sim.api.remove("pods", "ns", "p2");
        settle(&mut sim);
        assert_eq!(slices(&sim), ["8080: 10.244.0.1 110, 10.244.0.2 110"]);
        sim.api.remove("services", "ns", "web");
        settle(&mut sim);
        assert!(sim.api.get("endpoints", "ns", "web").is_none());
    }
}

#[test]
fn conditions_of_endpoints() {
    let check = |publish: bool, ready: bool, going: bool, expect: &str| {
        let world = World::detached();
        let mut spec = plain();
        spec["publishNotReadyAddresses"] = json!(publish);
        world.apply("services", &Key::new("ns", "web"), Some(service(spec)));
        world.apply("nodes", &Key::cluster("node"), Some(json!({"metadata": {"name": "node"}})));
        let mut p = pod(0, ready, 1);
        if going {
            p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        world.apply("pods", &Key::new("ns", "p0"), Some(p));
        let plan = EndpointSlices.reconcile(&Key::new("ns", "web"), &world, Time::UNIX_EPOCH);
        let crate::plan::Action::Create(body) = &plan.ops().next().unwrap().action else {
            panic!("a creation")
        };
        let slice: Value = serde_json::from_slice(body).unwrap();
        let c = &slice["endpoints"][0]["conditions"];
        let names = ["ready", "serving", "terminating"].into_iter().filter(|n| c[*n] == true);
        assert_eq!(names.collect::<Vec<_>>().join(" "), expect);
    };
    check(false, true, false, "ready serving");
    check(false, false, false, "");
    check(false, true, true, "serving terminating");
    check(true, false, false, "ready");
    check(true, false, true, "ready terminating");
}

#[test]
fn many_endpoints_are_packed_and_a_change_touches_one_slice() {
    let mut sim = sim(7);
    sim.api.put(service(plain()));
    for n in 0..250 {
        sim.api.put(pod(n, true, 8080));
    }
    settle(&mut sim);
    let sizes = |sim: &Sim| {
        let mut n: Vec<_> =
            sim.api.list("endpointslices").iter().map(|s| s["endpoints"].as_array().unwrap().len()).collect();
        n.sort();
        n
    };
    assert_eq!(sizes(&sim).iter().sum::<usize>(), 250);
    let told = |sim: &Sim, name: &str| {
        let text = sim.metrics.render();
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("endpoint_slice_controller_{name} ")));
        line.and_then(|l| l.parse::<f64>().ok())
    };
    assert_eq!(told(&sim, "num_endpoint_slices"), Some(sizes(&sim).len() as f64));
    assert_eq!(told(&sim, "desired_endpoint_slices"), Some(3.0));
    assert_eq!(told(&sim, "endpoints_desired"), Some(250.0));
    assert_eq!(told(&sim, "endpoints_added_per_sync_sum"), Some(250.0));
    let updates = |sim: &Sim| told(sim, "changes{operation=\"update\"}").unwrap_or(0.0);
    let before_updates = updates(&sim);
    assert!(sizes(&sim).iter().all(|n| *n <= MAX_PER_SLICE), "{:?}", sizes(&sim));
    let before = sim.api.log_len();
    sim.api.edit("pods", "ns", "p7", |p| p["status"]["conditions"][0]["status"] = json!("False"));
    settle(&mut sim);
    let written = sim.api.log(before).into_iter().filter(|c| c.plural == "endpointslices").count();
    assert_eq!(written, 1);
    assert_eq!(updates(&sim) - before_updates, 1.0);
}

#[test]
fn endpoints_are_hinted_where_a_service_prefers_what_is_near() {
    let mut sim = sim(10);
    let mut zoneless = pod(2, true, 8080);
    zoneless["spec"]["nodeName"] = json!("elsewhere");
    sim.api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "elsewhere"}}));
    sim.api.put(pod(0, true, 8080));
    sim.api.put(pod(1, false, 8080));
    sim.api.put(zoneless);
    sim.api.put(service(plain()));
    let mut check = |distribution: Value, annotations: Value, expect: [Value; 3]| {
        sim.api.edit("services", "ns", "web", |s| {
            s["spec"]["trafficDistribution"] = distribution.clone();
            s["metadata"]["annotations"] = annotations;
        });
        settle(&mut sim);
        let slices = sim.api.list("endpointslices");
        let mut endpoints = slices[0]["endpoints"].as_array().unwrap().clone();
        endpoints.sort_by_key(|e| e["addresses"][0].as_str().unwrap().to_owned());
        let hints: Vec<Value> = endpoints.iter().map(|e| e["hints"].clone()).collect();
        assert_eq!(hints, expect, "{distribution}");
    };
    let zone = json!({"forZones": [{"name": "z"}]});
    check(Value::Null, Value::Null, [Value::Null, Value::Null, Value::Null]);
    check(json!("PreferClose"), Value::Null, [zone.clone(), Value::Null, Value::Null]);
    check(
        json!("PreferSameNode"),
        Value::Null,
        [
            json!({"forNodes": [{"name": "node"}], "forZones": [{"name": "z"}]}),
            Value::Null,
            json!({"forNodes": [{"name": "elsewhere"}]}),
        ],
    );
    check(json!("PreferSameZone"), Value::Null, [zone, Value::Null, Value::Null]);
    // the older way to ask for it rules the newer one out
    let auto = json!({"service.kubernetes.io/topology-mode": "Auto"});
    check(json!("PreferSameZone"), auto, [Value::Null, Value::Null, Value::Null]);
}

#[test]
fn too_many_addresses_are_left_out_in_proportion() {
    // ready and other pods for each of two ports; the ready and other addresses left of each
    let check = |pods: [(usize, usize); 2], expect: &[(usize, usize)]| {
        let mut sim = sim(11);
        let mut n = 0;
        for ((ready, other), port) in pods.into_iter().zip([8080, 9090]) {
            for i in 0..ready + other {
                sim.api.put(pod(n, i < ready, port));
                n += 1;
            }
        }
        sim.api.put(service(plain()));
        settle(&mut sim);
        let e = sim.api.get("endpoints", "ns", "web").unwrap();
        assert_eq!(e["metadata"]["annotations"]["endpoints.kubernetes.io/over-capacity"], "truncated");
        let count = |s: &Value, f: &str| s[f].as_array().map_or(0, Vec::len);
        let subsets = e["subsets"].as_array().unwrap().iter();
        let left: Vec<_> = subsets.map(|s| (count(s, "addresses"), count(s, "notReadyAddresses"))).collect();
        assert_eq!(left, expect);
    };
    check([(900, 0), (300, 10)], &[(750, 0), (250, 0)]);
    check([(500, 300), (300, 100)], &[(500, 150), (300, 50)]);
}

#[test]
fn headless_services_are_labelled_and_name_their_hosts() {
    let mut sim = sim(8);
    sim.api.put(service(json!({"clusterIP": "None", "ipFamilies": ["IPv4"], "selector": {"app": "web"}})));
    let mut p = pod(0, true, 1);
    p["spec"]["hostname"] = json!("db-0");
    p["spec"]["subdomain"] = json!("web");
    sim.api.put(p);
    settle(&mut sim);
    let s = &sim.api.list("endpointslices")[0];
    assert_eq!(s["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    assert_eq!(s["endpoints"][0]["hostname"], "db-0");
    let e = sim.api.get("endpoints", "ns", "web").unwrap();
    assert_eq!(e["subsets"][0]["addresses"][0]["hostname"], "db-0");
    assert_eq!(e["metadata"]["labels"]["service.kubernetes.io/headless"], "");
}

#[test]
fn endpoints_of_others_are_mirrored() {
    let mut sim = sim(9);
    sim.add(EndpointSliceMirroring);
    sim.api.put(service(json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80}]})));
    let endpoints = |addresses: Value| {
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"namespace": "ns", "name": "web", "labels": {"by": "hand"}},
            "subsets": [{"addresses": addresses, "ports": [{"port": 8080, "protocol": "TCP"}]}],
        })
    };
    sim.api.put(endpoints(json!([{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}, {"ip": "nonsense"}])));
    settle(&mut sim);
    assert_eq!(slices(&sim), ["8080: 192.0.2.1 100", "8080: 2001:db8::1 100"]);
    let s = &sim.api.list("endpointslices")[0];
    assert_eq!(
        s["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"],
        "endpointslicemirroring-controller.k8s.io"
    );
    assert_eq!(s["metadata"]["labels"]["by"], "hand");
    assert!(sim.notes.iter().any(|n| n.starts_with("InvalidIPAddress: Skipped 1 invalid")));
    sim.api.edit("endpoints", "ns", "web", |e| {
        e["subsets"] = endpoints(json!([{"ip": "192.0.2.2"}]))["subsets"].clone()
    });
    settle(&mut sim);
    assert_eq!(slices(&sim), ["8080: 192.0.2.2 100"]);
    sim.api.edit("endpoints", "ns", "web", |e| {
        e["metadata"]["labels"]["endpointslice.kubernetes.io/skip-mirror"] = json!("true");
    });
    settle(&mut sim);
    assert!(slices(&sim).is_empty());
}
