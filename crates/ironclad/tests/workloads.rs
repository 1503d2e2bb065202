//! What pods are promised beside running: probes and hooks over every protocol, images from a registry, logs that are
//! rotated, limits that are kept, resources that change in place, files of the node's own pods. One cluster, every
//! promise a thread.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::registry::PASSWORD;
use testkit::{Cluster, Kubectl, Registry, network, until};

const IRONCLAD: &str = env!("CARGO_BIN_EXE_ironclad");
const SOON: Duration = Duration::from_secs(90);
const BOX: &str = "ironclad.local/box:1";
const TARGET: &str = "ironclad.local/target:1";

/// Logs are rotated soon, so that it can be seen, and kept for longer than a busy machine makes their reader wait.
const KUBELET: &str = "containerLogMaxSize: 64Ki\ncontainerLogMaxFiles: 4\ncontainerLogMonitorInterval: 1s\n";

/// Ends when it is asked to.
const POLITE: &str = "trap 'exit 0' TERM; while true; do usleep 100000; done";

/// The example `target` of this package, which Cargo builds with its tests.
fn target_program() -> PathBuf {
    let tests = std::env::current_exe().expect("this test");
    let path =
        tests.parent().and_then(|p| p.parent()).expect("deps/ is in a directory").join("examples/target");
    assert!(path.exists(), "{}: build the examples of ironclad, as `cargo test` does", path.display());
    path
}

type Scenario<'a> = Box<dyn FnOnce() + Send + 'a>;

#[test]
fn pods_get_what_upstream_promises_them() {
    network::own();
    let manifests = tempfile::tempdir().expect("a directory");
    let manifests_flag = format!("--pod-manifest-path={}", manifests.path().display());
    let cluster = Cluster::with_kubelet(IRONCLAD, &[&manifests_flag], KUBELET);
    let program = format!("/bin/target={}", target_program().display());
    cluster.busybox_image(BOX);
    cluster.image(TARGET, &["--program", &program, "--link", "/tmp/none=none"]);
    let archive = cluster.data().join("pulled.tar");
    // other contents than the box: the same image under another name would have to be pulled again
    let output = archive.to_str().expect("text");
    cluster.image("registry.local/pulled:1", &["--env", "FROM=registry", "--output", output]);
    cluster.ready();
    let registry = Registry::serve(&archive);
    let k = &cluster.kubectl();
    let registry = &registry;
    let scenarios: Vec<(&str, Scenario<'_>)> = vec![
        ("probes", Box::new(|| probes(k))),
        ("hooks", Box::new(|| hooks(k))),
        ("images", Box::new(|| images(k, registry))),
        ("logs", Box::new(|| logs(k))),
        ("storage limits", Box::new(|| storage_limits(k))),
        ("claims", Box::new(|| claims(k, cluster.data()))),
        ("resize", Box::new(|| resize(k))),
        ("confinement", Box::new(|| confinement(k))),
        ("ends", Box::new(|| ends(k))),
        ("static pods", Box::new(|| static_pods(k, manifests.path()))),
    ];
    // all of them, also if one fails
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = scenarios
            .into_iter()
            .map(|(name, run)| {
                let timed = move || {
                    run();
                    eprintln!("{name}: {:?}", start.elapsed());
                };
                (name, scope.spawn(timed))
            })
            .collect();
        let failed: Vec<_> =
            threads.into_iter().filter_map(|(name, t)| t.join().is_err().then_some(name)).collect();
        assert!(failed.is_empty(), "{failed:?}");
    });
}

/// A pod with one container `c`; `more` goes over its specification and container.
fn pod(name: &str, image: &str, command: &[&str], spec: Value, container: Value) -> String {
    let mut c = json!({"name": "c", "image": image, "command": command});
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 0}});
    let merge = |to: &mut Value, from: Value| {
        for (key, value) in from.as_object().expect("an object") {
            to[key] = value.clone();
        }
    };
    merge(&mut c, container);
    merge(&mut pod["spec"], spec);
    pod["spec"]["containers"] = json!([c]);
    document(&pod)
}

/// A document of a stream. What begins with a brace would make kubectl take the whole stream for JSON.
fn document(object: &Value) -> String {
    format!("---\n{object}\n")
}

fn get(k: &Kubectl, what: &str) -> Value {
    serde_json::from_str(&k.run(&format!("get {what} -o json")).stdout).unwrap_or_default()
}

/// Waits until the value at the end of a path in a pod (a JSON pointer) is this one.
#[track_caller]
fn awaits(k: &Kubectl, pod: &str, pointer: &str, expect: &Value) {
    until(&format!("{pod}: {pointer} is {expect}"), SOON, || {
        let seen = get(k, &format!("pod/{pod}"));
        match seen.pointer(pointer) {
            Some(value) if value == expect => Ok(()),
            other => Err(format!("{other:?} in {}", seen["status"])),
        }
    });
}

/// Waits until an event about a pod has this in its reason and message.
#[track_caller]
fn tells(k: &Kubectl, pod: &str, reason: &str, message: &str) {
    let selector = format!("events --field-selector involvedObject.name={pod}");
    until(&format!("{pod}: {reason}: {message}"), SOON, || {
        let events = get(k, &selector);
        let text = |e: &Value, key: &str| e[key].as_str().unwrap_or_default().to_owned();
        let all: Vec<_> = events["items"].as_array().into_iter().flatten().collect();
        if all.iter().any(|e| text(e, "reason") == reason && text(e, "message").contains(message)) {
            return Ok(());
        }
        Err(all
            .iter()
            .map(|e| format!("{}: {}", text(e, "reason"), text(e, "message")))
            .collect::<Vec<_>>()
            .join("\n"))
    });
}

const STATUS: &str = "/status/containerStatuses/0";

fn probes(k: &Kubectl) {
    let probe = |action: Value| {
        let mut probe = json!({"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 2});
        probe.as_object_mut().expect("an object").extend(action.as_object().expect("an object").clone());
        probe
    };
    let https = json!({"httpGet": {"scheme": "HTTPS", "path": "/flip?q=1", "port": "tls",
        "httpHeaders": [{"name": "Host", "value": "named.example"}, {"name": "X-Test", "value": "yes"}]}});
    let mut startup = probe(json!({"grpc": {"port": 9090}}));
    startup["failureThreshold"] = json!(60);
    let mut liveness = probe(json!({"grpc": {"port": 9090, "service": "flip"}}));
    // readiness is seen to fail before the container ends
    liveness["failureThreshold"] = json!(3);
    let ports = json!([{"name": "tls", "containerPort": 8443}]);
    k.apply(
        &[
            pod("probed", TARGET, &["target"], json!({}),
                json!({"ports": ports, "startupProbe": startup, "livenessProbe": liveness, "readinessProbe": probe(https)})),
            pod("redirected", TARGET, &["target"], json!({}), json!({
                "livenessProbe": probe(json!({"httpGet": {"path": "/here", "port": 8080}})),
                "readinessProbe": probe(json!({"httpGet": {"path": "/away", "port": 8080}}))})),
            pod("unheard", TARGET, &["target"], json!({}), json!({
                "readinessProbe": probe(json!({"grpc": {"port": 9090, "service": "nobody"}}))})),
            pod("slow", BOX, &["sleep", "1000"], json!({}), json!({
                "readinessProbe": {"exec": {"command": ["sleep", "30"]}, "periodSeconds": 1, "timeoutSeconds": 1}})),
        ]
        .concat(),
    );
    awaits(k, "probed", &format!("{STATUS}/ready"), &json!(true));
    let seen = k.run("exec probed -- wget -qO- http://127.0.0.1:8080/seen").ok();
    assert!(
        seen.contains("https /flip?q=1 host=named.example agent=kube-probe/1.36 accept=*/* x=yes"),
        "{seen}"
    );
    k.run("exec probed -- touch /tmp/down").ok();
    tells(k, "probed", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503");
    tells(
        k,
        "probed",
        "Unhealthy",
        "Liveness probe failed: service unhealthy (responded with \"NOT_SERVING\")",
    );
    tells(k, "probed", "Killing", "Container c failed liveness probe, will be restarted");
    awaits(k, "probed", &format!("{STATUS}/restartCount"), &json!(1));
    awaits(k, "probed", &format!("{STATUS}/ready"), &json!(true));

    awaits(k, "redirected", &format!("{STATUS}/ready"), &json!(true));
    tells(
        k,
        "redirected",
        "ProbeWarning",
        "Readiness probe warning: Probe terminated redirects, Response body: elsewhere",
    );
    let seen = k.run("exec redirected -- wget -qO- http://127.0.0.1:8080/seen").ok();
    assert!(seen.contains("http /landed "), "a redirect to the same host is followed: {seen}");
    tells(
        k,
        "unheard",
        "Unhealthy",
        "Readiness probe failed: error: health rpc probe failed: rpc error: code = NotFound desc = unknown service",
    );
    tells(
        k,
        "slow",
        "Unhealthy",
        "Readiness probe failed: command timed out: \"sleep 30\" timed out after 1s",
    );
    k.run("delete pod probed redirected unheard slow --wait=false").ok();
}

fn hooks(k: &Kubectl) {
    k.apply(&pod("watcher", TARGET, &["target"], json!({}), json!({})));
    awaits(k, "watcher", "/status/phase", &json!("Running"));
    let ip = get(k, "pod/watcher")["status"]["podIP"].as_str().expect("an address").to_owned();
    let hook = |scheme: &str, port: u16, path: &str| json!({"httpGet": {"scheme": scheme, "host": ip, "port": port, "path": path}});
    let grace = json!({"terminationGracePeriodSeconds": 60});
    k.apply(
        &[
            pod(
                "hooked",
                BOX,
                &["sh", "-c", POLITE],
                grace,
                json!({"lifecycle": {
                "postStart": hook("HTTPS", 8443, "/started"), "preStop": hook("HTTPS", 8080, "/stopping")}}),
            ),
            pod(
                "bad-hook",
                BOX,
                &["sleep", "1000"],
                json!({}),
                json!({"lifecycle": {
                "postStart": {"exec": {"command": ["sh", "-c", "echo no; exit 3"]}}}}),
            ),
        ]
        .concat(),
    );
    awaits(k, "hooked", "/status/phase", &json!("Running"));
    k.run("delete pod hooked").ok();
    let seen = k.run("exec watcher -- wget -qO- http://127.0.0.1:8080/seen").ok();
    assert!(seen.contains("https /started host=") && seen.contains("agent=kube-lifecycle/1.36"), "{seen}");
    // that port speaks no TLS: it is asked again without
    assert!(seen.contains("http /stopping host="), "{seen}");
    tells(k, "hooked", "LifecycleHTTPFallback", "got HTTP response, retry with HTTP succeeded");
    tells(k, "bad-hook", "FailedPostStartHook", "PostStartHook failed");
    k.run("delete pod watcher bad-hook --wait=false").ok();
}

fn images(k: &Kubectl, registry: &Registry) {
    let at = &registry.address;
    let new = format!("{{\"auths\":{}}}", registry.auths(PASSWORD));
    let secret = |name: &str, kind: &str, key: &str, text: &str| {
        let data = json!({key: text});
        document(
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "stringData": data}),
        )
    };
    let wrong = format!("{{\"auths\":{}}}", registry.auths("guess"));
    k.apply(
        &[
            secret("new", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", &new),
            secret("old", "kubernetes.io/dockercfg", ".dockercfg", &registry.auths(PASSWORD).to_string()),
            secret("wrong", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", &wrong),
            document(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "puller"},
                "imagePullSecrets": [{"name": "old"}]})),
        ]
        .concat(),
    );
    let pulls = |name: &str, image: String, policy: &str, spec: Value| {
        pod(name, &image, &["sleep", "1000"], spec, json!({"imagePullPolicy": policy}))
    };
    let with = |name: &str| json!({"imagePullSecrets": [{"name": name}]});
    let private = format!("{at}/private/app:1");
    k.apply(
        &[
            pulls("open", format!("{at}/open/app"), "Always", json!({})),
            pulls("by-digest", format!("{at}/open/app@{}", registry.digest), "IfNotPresent", json!({})),
            pulls("by-pod", private.clone(), "IfNotPresent", with("new")),
            pod("with-volume", BOX, &["sleep", "1000"],
                json!({"volumes": [{"name": "v", "image": {"reference": format!("{at}/open/files:1"), "pullPolicy": "Always"}}]}),
                json!({"volumeMounts": [{"name": "v", "mountPath": "/files"}]})),
            pulls("wrong", format!("{at}/private/other:1"), "IfNotPresent", with("wrong")),
            pulls("no-tag", format!("{at}/open/app:absent"), "IfNotPresent", json!({})),
            pulls("no-name", "Not An Image".replace(' ', ""), "IfNotPresent", json!({})),
        ]
        .concat(),
    );
    for name in ["open", "by-digest", "by-pod", "with-volume"] {
        awaits(k, name, "/status/phase", &json!("Running"));
    }
    for name in ["open", "by-pod"] {
        tells(k, name, "Pulled", " including waiting). Image size: ");
    }
    // the image is there now, but not for those who could not have pulled it
    k.apply(
        &[
            pulls("stranger", private.clone(), "Never", json!({})),
            pulls("intruder", private.clone(), "IfNotPresent", json!({})),
            pulls("by-account", private, "Never", json!({"serviceAccountName": "puller"})),
        ]
        .concat(),
    );
    assert!(k.run("exec with-volume -- ls /files/bin").ok().contains("busybox"));
    let refused = k.run("exec with-volume -- touch /files/new").refused();
    assert!(refused.contains("Read-only file system"), "{refused}");
    assert_eq!(
        get(k, "pod/open").pointer(&format!("{STATUS}/imageID")),
        Some(&json!(format!("{at}/open/app@{}", registry.digest)))
    );
    let waiting = format!("{STATUS}/state/waiting/reason");
    awaits(k, "no-name", &waiting, &json!("InvalidImageName"));
    for (name, why) in [("wrong", "401 Unauthorized"), ("no-tag", "not found")] {
        awaits(k, name, &waiting, &json!("ImagePullBackOff"));
        tells(k, name, "Failed", &format!("Failed to pull image \"{at}/"));
        tells(k, name, "Failed", why);
        tells(k, name, "Failed", "Error: ErrImagePull");
        tells(k, name, "BackOff", &format!("Back-off pulling image \"{at}/"));
    }
    awaits(k, "stranger", &waiting, &json!("ErrImageNeverPull"));
    awaits(k, "intruder", &waiting, &json!("ImagePullBackOff"));
    awaits(k, "by-account", "/status/phase", &json!("Running"));
    k.run("delete pod open by-digest by-pod with-volume wrong no-tag no-name stranger intruder by-account --wait=false")
        .ok();
}

fn logs(k: &Kubectl) {
    // some lines, then a pause, for ever: the reader of the log must keep up
    let count = "i=0; while true; do i=$((i+1)); echo line $i .........................................................; \
                 [ $((i%100)) = 0 ] && usleep 200000; done";
    let twice = "echo attempt; [ -e /keep/once ] && exec sleep 1000; touch /keep/once; exit 1";
    k.apply(
        &[
            pod("talker", BOX, &["sh", "-c", count], json!({}), json!({})),
            pod(
                "again",
                BOX,
                &["sh", "-c", twice],
                json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
                json!({"volumeMounts": [{"name": "v", "mountPath": "/keep"}]}),
            ),
        ]
        .concat(),
    );
    awaits(k, "talker", "/status/phase", &json!("Running"));
    let mut follow = k.start("logs -f talker");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follow.stdout.take().expect("piped")));
    let number = |line: &str| line.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number");
    let first = number(&lines.next().expect("a line").expect("text"));
    // far more than one file holds, without a gap
    for expect in first + 1..first + 4000 {
        assert_eq!(number(&lines.next().expect("a line").expect("text")), expect);
    }
    drop(follow.kill());
    drop(follow.wait());
    let uid = get(k, "pod/talker")["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let directory = format!("/var/log/pods/default_talker_{uid}/c");
    let names = until("a compressed log", SOON, || {
        let entries = std::fs::read_dir(&directory).map_err(|e| e.to_string())?.flatten();
        let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        if names.iter().any(|n| n.ends_with(".gz")) { Ok(names) } else { Err(format!("{names:?}")) }
    });
    // the one that is being compressed has two files
    let kept: BTreeSet<&str> =
        names.iter().map(|n| n.trim_end_matches(".tmp").trim_end_matches(".gz")).collect();
    assert!(kept.len() <= 4, "{names:?}");
    // at whatever moment of a rotation
    let end = k.run("logs talker --tail=700").ok();
    let end: Vec<u64> = end.lines().map(number).collect();
    assert!(end.len() == 700 && end[699] - end[0] == 699, "{end:?}");
    awaits(k, "again", &format!("{STATUS}/restartCount"), &json!(1));
    k.run("wait pod/again --for=jsonpath={.status.containerStatuses[0].state.running} --timeout=90s").ok();
    assert_eq!(k.run("logs again --previous").ok(), "attempt\n");
    k.run("delete pod talker again --wait=false").ok();
}

/// Volumes of this machine: one that is bound with its pod, one at once, one that a pod has for itself.
fn claims(k: &Kubectl, data: &Path) {
    let node = k.run("get nodes -o jsonpath={.items[0].metadata.name}").ok();
    let directory = data.join("claimed");
    std::fs::create_dir_all(&directory).expect("a directory");
    let volume = |name: &str, class: &str, source: Value| {
        let mut spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class});
        for (key, value) in source.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        document(
            &json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}),
        )
    };
    let asks = |class: &str| {
        json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "resources": {"requests": {"storage": "1Mi"}}})
    };
    let claim = |name: &str, class: &str| {
        document(
            &json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": asks(class)}),
        )
    };
    let at = |node: &str| {
        json!({"local": {"path": directory}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}})
    };
    let volumes = json!({"volumes": [
        {"name": "a", "persistentVolumeClaim": {"claimName": "waits"}},
        {"name": "b", "persistentVolumeClaim": {"claimName": "bound"}},
        {"name": "c", "ephemeral": {"volumeClaimTemplate": {"spec": asks("own")}}}]});
    let mounts = json!({"volumeMounts": [
        {"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/b"}, {"name": "c", "mountPath": "/c"}]});
    let write = ["sh", "-c", "echo one > /a/one; echo two > /b/two; echo three > /c/three; exec sleep 1000"];
    k.apply(&pod("claims", BOX, &write, volumes, mounts));
    tells(k, "claims", "FailedScheduling", "persistentvolumeclaim \"waits\" not found");
    let host =
        |below: &str| json!({"hostPath": {"path": directory.join(below), "type": "DirectoryOrCreate"}});
    k.apply(
        &[
            document(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local"},
                "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"})),
            claim("waits", "local"),
            claim("bound", "now"),
            volume("elsewhere", "local", at("elsewhere")),
            volume("here", "local", at(&node)),
            volume("at-once", "now", host("b")),
        ]
        .concat(),
    );
    tells(k, "claims", "FailedScheduling", "pod has unbound immediate PersistentVolumeClaims");
    k.apply(&volume("own", "own", host("c")));
    awaits(k, "claims", "/status/phase", &json!("Running"));
    for (file, text) in [("one", "one\n"), ("b/two", "two\n"), ("c/three", "three\n")] {
        until(file, SOON, || match std::fs::read_to_string(directory.join(file)) {
            Ok(written) if written == text => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let phases = || k.run("get pv elsewhere here at-once own -o jsonpath={.items[*].status.phase}").stdout;
    let until_phases = |expect: &str| {
        until(expect, SOON, || match phases() {
            seen if seen == expect => Ok(()),
            seen => Err(seen),
        });
    };
    until_phases("Available Bound Bound Bound");
    // the claim that the pod has for itself goes with it, the others when they are told to
    k.run("delete pod claims --now").ok();
    k.run("delete pvc waits bound").ok();
    until_phases("Available Released Released Released");
    k.run("delete pv elsewhere here at-once own").ok();
}

fn storage_limits(k: &Kubectl) {
    let fill =
        |path: &str| format!("dd if=/dev/zero of={path} bs=1024 count=4096 2>/dev/null; exec sleep 1000");
    let memory = json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}}]});
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    k.apply(
        &[
            pod(
                "big-volume",
                BOX,
                &["sh", "-c", &fill("/v/x")],
                json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]}),
                mount.clone(),
            ),
            pod(
                "big-layer",
                BOX,
                &["sh", "-c", &fill("/x")],
                json!({}),
                json!({"resources": {"limits": {"ephemeral-storage": "1Mi"}}}),
            ),
            pod("in-memory", BOX, &["sh", "-c", "df -k /v; exec sleep 1000"], memory, mount),
        ]
        .concat(),
    );
    for (name, why) in [
        ("big-volume", "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "),
        ("big-layer", "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "),
    ] {
        awaits(k, name, "/status/phase", &json!("Failed"));
        let status = get(k, &format!("pod/{name}"))["status"].clone();
        assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(why)));
        tells(k, name, "Evicted", why.trim_end());
    }
    awaits(k, "in-memory", "/status/phase", &json!("Running"));
    let size = until("the size of the volume", SOON, || {
        let text = k.run("logs in-memory").stdout;
        if text.contains("/v") { Ok(text) } else { Err(text) }
    });
    assert!(size.contains(" 2048 "), "{size}");
    k.run("delete pod big-volume big-layer in-memory --wait=false").ok();
}

fn resize(k: &Kubectl) {
    let list = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    let give = |cpu: &str, memory: &str| json!({"requests": list(cpu, memory), "limits": list(cpu, memory)});
    k.apply(&pod("sized", BOX, &["sleep", "1000"], json!({}), json!({"resources": give("20m", "20Mi")})));
    awaits(k, "sized", "/status/phase", &json!("Running"));
    let change = |resources: &Value| {
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        k.run(&format!("patch pod sized --subresource resize -p '{patch}'")).ok();
    };
    let conditions = || {
        let pod = get(k, "pod/sized");
        let all: Vec<Value> = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter()
            .filter(|c| c["type"].as_str().unwrap_or_default().starts_with("PodResize"))
            .collect::<Vec<_>>()
    };
    for (cpu, memory) in [("40m", "40Mi"), ("10m", "30Mi")] {
        let wanted = give(cpu, memory);
        change(&wanted);
        awaits(k, "sized", &format!("{STATUS}/resources"), &wanted);
        awaits(k, "sized", &format!("{STATUS}/allocatedResources"), &wanted["requests"]);
        until("the end of the resize", SOON, || {
            let left = conditions();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
    assert_eq!(get(k, "pod/sized").pointer(&format!("{STATUS}/restartCount")), Some(&json!(0)));
    let read = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    assert_eq!(k.run(&format!("exec sized -- sh -c '{read}'")).ok(), format!("{}\n", 30 << 20));
    tells(k, "sized", "ResizeCompleted", "Pod resize completed: {\"containers\":[{\"name\":\"c\"");
    change(&give("900", "30Mi"));
    let waits = until("a resize that waits", SOON, || conditions().pop().ok_or_else(String::new));
    assert_eq!((&waits["type"], &waits["reason"]), (&json!("PodResizePending"), &json!("Deferred")));
    assert!(
        waits["message"]
            .as_str()
            .unwrap_or_default()
            .starts_with("Node didn't have enough resource: cpu, requested: 900000"),
        "{waits}"
    );
    k.run("delete pod sized --wait=false").ok();
}

/// Who a container is, what it sees and what it may not.
fn confinement(k: &Kubectl) {
    let look = "id; grep -E 'Cap(Eff|Bnd)|Seccomp:|NoNewPrivs' /proc/self/status; cat /etc/hosts /etc/resolv.conf; \
                stat -c '%g %a' /v; touch /x 2>&1; cat /proc/sys/kernel/shm_rmid_forced; cat /sub/f; exec sleep 1000";
    let spec = json!({
        "securityContext": {"runAsUser": 1001, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000],
            "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]},
        "hostAliases": [{"ip": "192.0.2.77", "hostnames": ["alias.example"]}],
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["own.example"], "options": [{"name": "ndots", "value": "2"}]},
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [{"name": "i", "image": BOX, "command": ["sh", "-c", "echo below > /v/logs/confined/f"],
            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/s", "subPathExpr": "logs/$(POD)"}]}],
    });
    let container = json!({
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/sub", "subPathExpr": "logs/$(POD)"}],
        "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}, "seccompProfile": {"type": "RuntimeDefault"}},
    });
    let refused = json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1000"}]}});
    k.apply(
        &[
            pod("confined", BOX, &["sh", "-c", look], spec, container),
            pod("root", BOX, &["true"], json!({"securityContext": {"runAsNonRoot": true}}), json!({})),
            pod("sysctl", BOX, &["true"], refused, json!({})),
            pod("fenced", BOX, &["true"], json!({"hostUsers": false}), json!({})),
        ]
        .concat(),
    );
    let text = until("what the container saw", SOON, || {
        let text = k.run("logs confined -c c").stdout;
        if text.contains("below") { Ok(text) } else { Err(text) }
    });
    for line in [
        "uid=1001 gid=3000 groups=2000,3000,4000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000400",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "192.0.2.77\talias.example",
        "nameserver 192.0.2.53",
        "search own.example",
        "options ndots:2",
        "2000 2777",
        "touch: /x: Read-only file system",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    awaits(k, "root", &format!("{STATUS}/state/waiting/reason"), &json!("CreateContainerConfigError"));
    tells(k, "root", "Failed", "container has runAsNonRoot and image will run as root");
    awaits(k, "sysctl", "/status/reason", &json!("SysctlForbidden"));
    tells(k, "fenced", "FailedCreatePodSandBox", "runtime does not support user namespaces");
    k.run("delete pod confined root sysctl fenced --wait=false").ok();
}

/// How containers end, and what is told about it.
fn ends(k: &Kubectl) {
    let never = || json!({"restartPolicy": "Never"});
    k.apply(
        &[
            pod(
                "greedy",
                BOX,
                &["sh", "-c", "x=aaaaaaaa; while true; do x=$x$x; done"],
                never(),
                json!({"resources": {"limits": {"memory": "16Mi"}}}),
            ),
            pod("late", BOX, &["sleep", "1000"], json!({"activeDeadlineSeconds": 2}), json!({})),
            pod(
                "last-words",
                BOX,
                &["sh", "-c", "echo by file > /dev/termination-log; exit 3"],
                never(),
                json!({}),
            ),
            pod(
                "last-log",
                BOX,
                &["sh", "-c", "echo by log; exit 4"],
                never(),
                json!({"terminationMessagePolicy": "FallbackToLogsOnError"}),
            ),
            pod(
                "debugged",
                BOX,
                &["sh", "-c", "trap 'exit 0' TERM; while true; do usleep 100000; done"],
                json!({}),
                json!({}),
            ),
        ]
        .concat(),
    );
    let end = format!("{STATUS}/state/terminated");
    awaits(k, "greedy", &format!("{end}/exitCode"), &json!(137));
    // containerd learns of the kernel's reason beside the end of the process, and may learn it too late
    let reason = get(k, "pod/greedy").pointer(&format!("{end}/reason")).cloned().unwrap_or_default();
    assert!(reason == "OOMKilled" || reason == "Error", "{reason}");
    awaits(k, "late", "/status/reason", &json!("DeadlineExceeded"));
    awaits(k, "last-words", &format!("{end}/message"), &json!("by file\n"));
    awaits(k, "last-log", &format!("{end}/message"), &json!("by log\n"));
    awaits(k, "debugged", "/status/phase", &json!("Running"));
    let debug = format!("debug debugged --image={BOX} --target=c -c eye -- sh -c 'ps; exec sleep 1000'");
    k.run(&debug).ok();
    until("the debugger's log", SOON, || {
        let text = k.run("logs debugged -c eye").stdout;
        // it sees the other's processes
        if text.contains("usleep 100000") || text.contains("trap") { Ok(()) } else { Err(text) }
    });
    k.run("delete pod greedy late last-words last-log debugged --wait=false").ok();
}

fn static_pods(k: &Kubectl, manifests: &std::path::Path) {
    let manifest = |text: &str| pod("fixed", BOX, &["sh", "-c", text], json!({}), json!({}));
    let file = manifests.join("fixed.yaml");
    let write = |text: &str| {
        let next = manifests.join(".next");
        std::fs::write(&next, manifest(text)).expect("a file");
        std::fs::rename(&next, &file).expect("its name");
    };
    write("echo first; exec sleep 1000");
    let node = until("a node", SOON, || {
        let name = k.run("get nodes -o jsonpath={.items[0].metadata.name}").stdout;
        if name.is_empty() { Err("none".to_owned()) } else { Ok(name) }
    });
    let name = format!("fixed-{node}");
    let logs = |expect: &str| {
        until(expect, SOON, || {
            let text = k.run(&format!("logs {name}")).stdout;
            if text == format!("{expect}\n") { Ok(()) } else { Err(text) }
        });
    };
    logs("first");
    // the mirror only shows the pod: deleting it ends nothing
    let uid = get(k, &format!("pod/{name}"))["metadata"]["uid"].clone();
    k.run(&format!("delete pod {name} --grace-period=0 --force")).ok();
    until("a new mirror", SOON, || {
        let seen = get(k, &format!("pod/{name}"))["metadata"]["uid"].clone();
        if seen.is_string() && seen != uid { Ok(()) } else { Err(seen.to_string()) }
    });
    awaits(k, &name, &format!("{STATUS}/restartCount"), &json!(0));
    write("echo second; exec sleep 1000");
    logs("second");
    std::fs::remove_file(&file).expect("the file");
    k.run(&format!("wait --for=delete pod/{name} --timeout=90s")).ok();
}
