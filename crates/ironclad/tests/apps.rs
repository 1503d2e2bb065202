//! DaemonSets, StatefulSets, Jobs, disruption budgets and quotas, with real containers and the real kubectl: rolled out, back and away.

use std::time::Duration;
use testkit::{Cluster, Kubectl, network, until};

const IRONCLAD: &str = env!("CARGO_BIN_EXE_ironclad");
const SOON: Duration = Duration::from_secs(60);
const IMAGE: &str = "ironclad.local/box:1";

const APPS: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, annotations: {kubernetes.io/change-cause: first}}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: IMAGE, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Service
metadata: {name: peers}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: http, port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: peers
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: IMAGE, command: [sleep, "100000"]}]
"#;

fn field(k: &Kubectl, what: &str, path: &str) -> String {
    k.run(&format!("get {what} -o jsonpath={{{path}}}")).ok()
}

fn until_field(k: &Kubectl, what: &str, path: &str, expect: &str) {
    until(&format!("{what} {path} to be {expect}"), SOON, || {
        let seen = k.run(&format!("get {what} -o jsonpath={{{path}}}")).stdout;
        if seen == expect { Ok(()) } else { Err(seen) }
    });
}

#[test]
fn daemons_members_and_quotas_do_what_a_user_expects() {
    network::own();
    let cluster = Cluster::start(IRONCLAD, &[]);
    cluster.ready();
    cluster.busybox_image(IMAGE);
    let k = cluster.kubectl();
    k.apply(&APPS.replace("IMAGE", IMAGE));
    daemons(&k);
    members(&k);
    budget(&k);
    jobs(&k);
    quota(&k);
    k.run("delete daemonset/agent statefulset/db --timeout=60s").ok();
    k.run("wait --for=delete pod -l app --timeout=60s").ok();
    // each is collected by itself
    until("their revisions to be gone", SOON, || match k.run("get pods,controllerrevisions -o name").ok() {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

/// A daemon on the node, updated in place of the old one, and back.
fn daemons(k: &Kubectl) {
    k.run("rollout status daemonset/agent --timeout=60s").ok();
    let counts = "{.status.desiredNumberScheduled}{.status.numberAvailable}{.status.observedGeneration}";
    assert_eq!(k.run(&format!("get daemonset/agent -o jsonpath={counts}")).ok(), "111");
    let before = field(k, "pods -l app=agent", ".items[*].metadata.name");
    k.run("set env daemonset/agent ROUND=2").ok();
    k.run("rollout status daemonset/agent --timeout=60s").ok();
    let env = "pods -l app=agent";
    let round = ".items[*].spec.containers[0].env[*].value";
    assert_eq!(field(k, env, round), "2");
    assert_ne!(field(k, env, ".items[*].metadata.name"), before);
    k.run("rollout undo daemonset/agent").ok();
    k.run("rollout status daemonset/agent --timeout=60s").ok();
    assert_eq!(field(k, env, round), "");
    let history = k.run("rollout history daemonset/agent").ok();
    assert!(history.contains("\n2 ") && history.contains("\n3 ") && !history.contains("\n1 "), "{history}");
    // where nothing selects the node any more, there is none
    let nowhere = "patch daemonset/agent -p '{\"spec\":{\"template\":{\"spec\":{\"nodeSelector\":{\"no\":\"where\"}}}}}'";
    k.run(nowhere).ok();
    until_field(k, env, ".items[*].metadata.name", "");
    let node = field(k, "nodes", ".items[0].metadata.name");
    k.run(&format!("label node {node} no=where")).ok();
    k.run("rollout status daemonset/agent --timeout=60s").ok();
    until_field(k, "daemonset/agent", ".status.numberAvailable", "1");
}

/// Members by name, in order, found by their names, updated from the last to the first.
fn members(k: &Kubectl) {
    k.run("rollout status statefulset/db --timeout=60s").ok();
    let names = ".items[*].metadata.name";
    assert_eq!(field(k, "pods -l app=db", names), "db-0 db-1");
    assert_eq!(k.run("exec db-1 -- busybox hostname -f").ok(), "db-1.peers.default.svc.cluster.local\n");
    let ip = field(k, "pod/db-1", ".status.podIP");
    until("a member by its name", SOON, || {
        let seen = k.run("exec db-0 -- nslookup db-1.peers.default.svc.cluster.local");
        if seen.stdout.contains(&ip) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    k.run("scale statefulset/db --replicas=3").ok();
    k.run("rollout status statefulset/db --timeout=60s").ok();
    let uid = field(k, "pod/db-0", ".metadata.uid");
    k.run("delete pod/db-0").ok();
    until("db-0 anew", SOON, || {
        let seen = k.run("get pod/db-0 -o jsonpath={.metadata.uid}");
        if seen.success && seen.stdout != uid { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    k.run("rollout status statefulset/db --timeout=60s").ok();
    k.run("set env statefulset/db ROUND=2").ok();
    k.run("rollout status statefulset/db --timeout=60s").ok();
    let round = ".items[*].spec.containers[0].env[*].value";
    assert_eq!(field(k, "pods -l app=db", round), "2 2 2");
    let current = field(k, "statefulset/db", ".status.currentRevision");
    assert_eq!(field(k, "statefulset/db", ".status.updateRevision"), current);
    k.run("rollout undo statefulset/db").ok();
    k.run("rollout status statefulset/db --timeout=60s").ok();
    assert_eq!(field(k, "pods -l app=db", round), "");
    k.run("scale statefulset/db --replicas=1").ok();
    until_field(k, "pods -l app=db", names, "db-0");
    until_field(k, "statefulset/db", ".status.replicas", "1");
}

/// An eviction that is refused as long as too few members would be left.
fn budget(k: &Kubectl) {
    k.run("create poddisruptionbudget keep --selector=app=db --min-available=1").ok();
    let counts =
        ".status.currentHealthy}/{.status.desiredHealthy}/{.status.expectedPods}/{.status.disruptionsAllowed";
    until_field(k, "pdb/keep", counts, "1/1/1/0");
    let evict = || {
        let eviction = r#"{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "db-0", "namespace": "default"}}"#;
        k.feed("create --raw /api/v1/namespaces/default/pods/db-0/eviction -f -", eviction)
    };
    let refused = evict().refused();
    assert!(
        refused.contains("Cannot evict pod as it would violate the pod's disruption budget."),
        "{refused}"
    );
    k.run("scale statefulset/db --replicas=2").ok();
    until_field(k, "pdb/keep", counts, "2/1/2/1");
    let uid = field(k, "pod/db-0", ".metadata.uid");
    evict().ok();
    until("db-0 anew", SOON, || {
        let seen = k.run("get pod/db-0 -o jsonpath={.metadata.uid}");
        if seen.success && seen.stdout != uid { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    until_field(k, "pdb/keep", counts, "2/1/2/1");
    k.run("delete pdb/keep").ok();
}

const PARTS: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: parts}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  backoffLimitPerIndex: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: IMAGE, command: [sh, -c, 'test $JOB_COMPLETION_INDEX != 1']}]
"#;

/// Work that ends: once, in parts of which one fails, and by a schedule's template.
fn jobs(k: &Kubectl) {
    k.run(&format!("create job once --image={IMAGE} -- busybox echo done")).ok();
    k.run("wait --for=condition=complete job/once --timeout=60s").ok();
    assert_eq!(k.run("logs job/once").ok(), "done\n");
    assert_eq!(field(k, "job/once", ".status.succeeded}{.status.uncountedTerminatedPods"), "1{}");
    let row = k.run("get job/once --no-headers").ok();
    assert_eq!(row.split_whitespace().take(3).collect::<Vec<_>>(), ["once", "Complete", "1/1"]);
    assert_eq!(field(k, "pods -l job-name=once", ".items[*].metadata.finalizers"), "");

    k.apply(&PARTS.replace("IMAGE", IMAGE));
    k.run("wait --for=condition=failed job/parts --timeout=60s").ok();
    let indexes = ".status.completedIndexes}/{.status.failedIndexes}/{.status.conditions[-1:].reason";
    assert_eq!(field(k, "job/parts", indexes), "0,2/1/FailedIndexes");

    let never = "--schedule='0 0 29 2 *'";
    k.run(&format!("create cronjob leap --image={IMAGE} {never} -- busybox echo leap")).ok();
    k.run("create job now --from=cronjob/leap").ok();
    k.run("wait --for=condition=complete job/now --timeout=60s").ok();
    assert_eq!(k.run("logs job/now").ok(), "leap\n");
    k.run("delete cronjob/leap job/once job/parts --timeout=60s").ok();
    // its owner's deletion takes it along
    k.run("wait --for=delete job/now --timeout=60s").ok();
    k.run("wait --for=delete pod -l batch.kubernetes.io/job-name --timeout=60s").ok();
}

/// What is used, what is refused, and what is free again at once.
fn quota(k: &Kubectl) {
    k.run("create namespace small").ok();
    k.run("create quota little -n small --hard=secrets=1,count/configmaps=2").ok();
    // the root certificate's is one
    until_field(k, "quota/little -n small", ".status.used", r#"{"count/configmaps":"1","secrets":"0"}"#);
    k.run("create secret generic one -n small --from-literal=a=b").ok();
    let refused = k.run("create secret generic two -n small --from-literal=a=b").refused();
    let expect = "secrets \"two\" is forbidden: exceeded quota: little, requested: secrets=1, used: secrets=1, limited: secrets=1";
    assert!(refused.contains(expect), "{refused}");
    k.run("delete secret one -n small").ok();
    until_field(k, "quota/little -n small", ".status.used.secrets", "0");
    k.run("create secret generic two -n small --from-literal=a=b").ok();
    k.run("delete namespace small --timeout=60s").ok();
}
