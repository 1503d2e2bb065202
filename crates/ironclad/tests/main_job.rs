//! The main job, with real containers and the real kubectl: a Deployment and a Service, found by name, seen in
//! logs, entered with exec, scaled, rolled out and removed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use testkit::{Cluster, Kubectl, network, until};

const IRONCLAD: &str = env!("CARGO_BIN_EXE_ironclad");
const SOON: Duration = Duration::from_secs(90);
const IMAGE: &str = "ironclad.local/box:1";

const WEB: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {index.html: "hello from the page\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: token}
stringData: {word: sesame}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      # the server has no handler for SIGTERM: it would have half a minute
      terminationGracePeriodSeconds: 1
      initContainers:
      - {name: prepare, image: IMAGE, command: [sh, -c, "cp /page/index.html /www/ && echo prepared"],
         volumeMounts: [{name: page, mountPath: /page}, {name: www, mountPath: /www}]}
      containers:
      - name: httpd
        image: IMAGE
        command: [sh, -c, "echo serving as $POD_NAME; exec httpd -f -p 8080 -h /www"]
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: WORD, valueFrom: {secretKeyRef: {name: token, key: word}}}
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
        volumeMounts: [{name: www, mountPath: /www}]
      volumes:
      - {name: page, configMap: {name: page}}
      - {name: www, emptyDir: {}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
"#;

fn http_get(address: &str) -> Result<String, String> {
    let mut stream =
        TcpStream::connect_timeout(&address.parse().expect("an address"), Duration::from_secs(2))
            .map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|e| e.to_string())?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
    if answer.contains("200 OK") { Ok(answer) } else { Err(answer) }
}

fn field(kubectl: &Kubectl, what: &str, path: &str) -> String {
    kubectl.run(&format!("get {what} -o jsonpath={{{path}}}")).stdout
}

#[test]
fn a_deployment_and_a_service_do_what_a_user_expects() {
    network::own();
    let cluster = Cluster::start(IRONCLAD, &[]);
    cluster.ready();
    cluster.busybox_image(IMAGE);
    let k = cluster.kubectl();

    k.apply(&WEB.replace("IMAGE", IMAGE));
    k.run("rollout status deployment/web --timeout=90s").ok();
    answers(&k);
    inside_a_pod(&k);
    logs_and_streams(&k);
    changes(&k);
    failures_say_why(&k);
    survives_a_restart(&cluster, &k);
    removal(&k);
}

/// The service answers at its cluster address, at the node's port, and by its name from a pod.
fn answers(k: &Kubectl) {
    let ip = field(k, "service/web", ".spec.clusterIP");
    let port = field(k, "service/web", ".spec.ports[0].nodePort");
    for address in [format!("{ip}:80"), format!("{}:{port}", network::ADDRESS)] {
        let answer = until(&address, SOON, || http_get(&address));
        assert!(answer.contains("hello from the page"), "{answer}");
    }
    let by_name = "exec deploy/web -c httpd -- get web.default.svc";
    let answer = until("the service by its name", SOON, || {
        let seen = k.run(by_name);
        if seen.success { Ok(seen.stdout) } else { Err(format!("{seen:?}")) }
    });
    assert_eq!(answer, "hello from the page\n");
    let looked_up = k.run("exec deploy/web -c httpd -- nslookup kubernetes.default.svc.cluster.local").ok();
    assert!(looked_up.contains("10.96.0.1"), "{looked_up}");
}

/// What a container sees: variables, a service account's token that the API takes.
fn inside_a_pod(k: &Kubectl) {
    let env = k.run("exec deploy/web -c httpd -- env").ok();
    assert!(env.contains("WORD=sesame") && env.contains("KUBERNETES_SERVICE_HOST=10.96.0.1"), "{env}");
    let token =
        k.run("exec deploy/web -c httpd -- cat /var/run/secrets/kubernetes.io/serviceaccount/token").ok();
    let who =
        k.run(&format!("auth whoami --token={} -o jsonpath={{.status.userInfo.username}}", token.trim()));
    // the kubeconfig's certificate speaks before the token: what counts is that the token is well-formed
    assert!(who.success, "{who:?}");
    assert_eq!(token.split('.').count(), 3, "{token}");
}

fn logs_and_streams(k: &Kubectl) {
    let logs = k.run("logs -l app=web -c httpd --prefix").ok();
    assert_eq!(logs.matches("serving as web-").count(), 2, "{logs}");
    assert_eq!(k.run("logs deploy/web -c prepare").ok(), "prepared\n");
    // standard input is closed, the output comes whole, the exit code is the command's
    assert_eq!(
        k.feed("exec -i deploy/web -c httpd -- cat", "through\nand through\n").ok(),
        "through\nand through\n"
    );
    let failed = k.run("exec deploy/web -c httpd -- sh -c 'exit 7'").refused();
    assert!(failed.contains("exit code 7"), "{failed}");

    let mut forward = k.start("port-forward service/web :80");
    let mut lines = BufReader::new(forward.stdout.take().expect("piped")).lines();
    let line = lines.next().expect("a line").expect("text");
    let port = line.split("127.0.0.1:").nth(1).and_then(|r| r.split(' ').next()).expect("a port").to_owned();
    let answer = until("the forwarded port", SOON, || http_get(&format!("127.0.0.1:{port}")));
    assert!(answer.contains("hello from the page"));
    forward.kill().expect("ending the port-forward");
    forward.wait().expect("its end");
}

fn changes(k: &Kubectl) {
    k.run("scale deployment/web --replicas=4").ok();
    k.run("wait --for=jsonpath={.status.readyReplicas}=4 deployment/web --timeout=90s").ok();
    k.run("set env deployment/web -c httpd ROUND=2").ok();
    k.run("rollout status deployment/web --timeout=90s").ok();
    assert!(k.run("rollout history deployment/web").ok().contains('2'));
    k.run("rollout undo deployment/web").ok();
    k.run("rollout status deployment/web --timeout=90s").ok();
    assert_eq!(
        field(k, "deployment/web", ".spec.template.spec.containers[0].env[?(@.name==\"ROUND\")].value"),
        ""
    );
    k.run("label deployment/web tier=front").ok();
    k.run("annotate deployment/web note=seen").ok();
    k.run("patch deployment/web --type=json -p '[{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":2}]'").ok();
    let page = "apply --server-side --force-conflicts -f -";
    k.feed(page, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: page}\ndata: {index.html: changed}\n")
        .ok();
    k.run("wait --for=jsonpath={.status.readyReplicas}=2 deployment/web --timeout=90s").ok();
}

/// What cannot work is refused or explained in upstream's words.
fn failures_say_why(k: &Kubectl) {
    let refused = k.feed("apply -f -", "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: c}], restartPolicy: Sometimes}\n");
    let refused = refused.refused();
    for words in
        ["spec.containers[0].image: Required value", "spec.restartPolicy: Unsupported value: \"Sometimes\""]
    {
        assert!(refused.contains(words), "{refused}");
    }
    let unknown =
        k.feed("create -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\ndta: {}\n").refused();
    assert!(unknown.contains("unknown field \"dta\""), "{unknown}");

    let pod = |name: &str, rest: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 0, {rest}}}\n---\n"
        )
    };
    k.apply(
        &[
            pod("no-image", "containers: [{name: c, image: ironclad.local/absent:1, imagePullPolicy: Never}]"),
            pod("no-map", &format!("containers: [{{name: c, image: '{IMAGE}', envFrom: [{{configMapRef: {{name: absent}}}}]}}]")),
            pod("too-big", &format!("containers: [{{name: c, image: '{IMAGE}', resources: {{requests: {{cpu: '900'}}}}}}]")),
            pod("crash", &format!("containers: [{{name: c, image: '{IMAGE}', command: ['false']}}]")),
        ]
        .concat(),
    );
    let waiting = |pod: &str, reason: &str| {
        until(&format!("{pod} waits with {reason}"), SOON, || {
            let seen = field(k, &format!("pod/{pod}"), ".status.containerStatuses[0].state.waiting.reason");
            if seen == reason { Ok(()) } else { Err(seen) }
        });
    };
    waiting("no-image", "ErrImageNeverPull");
    waiting("no-map", "CreateContainerConfigError");
    waiting("crash", "CrashLoopBackOff");
    until("FailedScheduling", SOON, || {
        let seen = k
            .run("get events --field-selector reason=FailedScheduling -o jsonpath={.items[*].message}")
            .stdout;
        if seen.contains("0/1 nodes are available: 1 Insufficient cpu") { Ok(()) } else { Err(seen) }
    });
    k.run("delete pod no-image no-map too-big crash --wait=false").ok();
}

/// `kill -9` of the server: containers go on, nothing acknowledged is lost, the cluster goes on where it was.
fn survives_a_restart(cluster: &Cluster, k: &Kubectl) {
    let started = ".items[*].status.containerStatuses[0].state.running.startedAt";
    until("the pods of the scaling to be gone", SOON, || {
        match field(k, "pods -l app=web", ".items[*].metadata.name") {
            names if names.split(' ').count() == 2 => Ok(()),
            names => Err(names),
        }
    });
    let before = field(k, "pods -l app=web", started);
    assert_eq!(before.split(' ').count(), 2, "{before}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(cluster.pid()), nix::sys::signal::Signal::SIGKILL)
        .expect("our server");
    // the kernel takes its time with the end of a process under load
    let port = || std::net::TcpListener::bind("0.0.0.0:6443").map(drop).map_err(|e| e.to_string());
    until("the end of the server", SOON, port);
    let ip = field_from_pods_after_restart(cluster, k);
    let answer = until("the service after the restart", SOON, || http_get(&format!("{ip}:80")));
    assert!(answer.contains("hello from the page") || answer.contains("changed"), "{answer}");
    cluster.ready();
    k.run("rollout status deployment/web --timeout=90s").ok();
    assert_eq!(
        field(k, "pods -l app=web", started),
        before,
        "containers run on through a restart of the server"
    );
}

fn field_from_pods_after_restart(cluster: &Cluster, k: &Kubectl) -> String {
    cluster.server();
    field(k, "service/web", ".spec.clusterIP")
}

fn removal(k: &Kubectl) {
    k.run("create namespace gone").ok();
    k.run("create configmap -n gone some --from-literal=a=b").ok();
    k.run("delete namespace gone --timeout=60s").ok();
    k.run("delete deployment/web service/web --timeout=90s").ok();
    k.run("wait --for=delete pod -l app=web --timeout=90s").ok();
    assert_eq!(k.run("get replicasets,pods -l app=web -o name").ok(), "");
}
