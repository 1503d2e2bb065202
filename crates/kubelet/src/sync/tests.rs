//! Tables of plans: a pod, what the runtime shows, and what is to be done and said.

use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T00:10:00Z";

fn time(text: &str) -> Time {
    text.parse().unwrap()
}

fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    for list in ["containers", "initContainers"] {
        for c in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            c["image"] = json!("img");
        }
    }
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 2}, "spec": spec,
    }))
    .unwrap()
}

/// A container in the runtime: `name state`, with `running`, `created`, `unknown` or an exit code for a
/// state, `#n` for the restart count, `@mm:ss` for the time it ended, `~` for one of another image.
fn seen(text: &str) -> ObservedContainer {
    let mut words = text.split_whitespace();
    let name = words.next().unwrap();
    let state = words.next().unwrap();
    let image = if text.contains('~') { "old" } else { "img" };
    let spec = Container { name: name.into(), image: Some(image.into()), ..Default::default() };
    let flag = |mark: char| text.split_whitespace().find_map(|w| w.strip_prefix(mark).map(str::to_owned));
    let exit_code = state.parse::<i32>().ok();
    let ended = flag('@').map(|t| time(&format!("2026-01-01T00:{t}Z")));
    ObservedContainer {
        id: format!("id-{name}"),
        name: name.into(),
        image: image.into(),
        image_ref: "sha256:1".into(),
        hash: container_hash(&spec),
        restart_count: flag('#').map_or(0, |n| n.parse().unwrap()),
        state: match state {
            "running" => ContainerState::Running,
            "created" => ContainerState::Created,
            "unknown" => ContainerState::Unknown,
            _ => ContainerState::Exited,
        },
        created_at: time("2026-01-01T00:00:00Z"),
        started_at: (state != "created").then(|| time("2026-01-01T00:00:00Z")),
        finished_at: exit_code.map(|_| ended.unwrap_or_else(|| time("2026-01-01T00:09:59Z"))),
        exit_code: exit_code.unwrap_or(0),
        reason: match exit_code {
            Some(0) => "Completed".into(),
            Some(_) => "Error".into(),
            None => String::new(),
        },
        message: String::new(),
        resources: None,
        user: None,
    }
}

/// A runtime pod: a sandbox that is `ready`, `dead` or not there (``), and containers, newest first.
fn runtime(sandbox: &str, containers: &[&str]) -> RuntimePod {
    let one = |ready, attempt| ObservedSandbox {
        id: "s".into(),
        attempt,
        ready,
        host_network: false,
        ips: vec!["10.0.0.2".into()],
    };
    RuntimePod {
        sandboxes: match sandbox {
            "ready" => vec![one(true, 0)],
            "dead" => vec![one(false, 0)],
            _ => vec![],
        },
        containers: containers.iter().map(|c| seen(c)).collect(),
    }
}

fn state() -> PodState {
    PodState { runtime_name: "containerd".into(), host_ips: vec!["192.0.2.1".into()], ..PodState::default() }
}

/// Actions in short: `prepare`, `sandbox 1`, `start c`, `kill c 30: why`, `kill-pod 5` and so on.
fn short(actions: &[Action]) -> String {
    let words: Vec<String> = actions
        .iter()
        .map(|a| match a {
            Action::KillPod { grace_seconds: Some(g) } => format!("kill-pod {g}"),
            Action::KillPod { grace_seconds: None } => "kill-pod".into(),
            Action::PurgeInitContainers => "purge".into(),
            Action::KillContainer { name, message, grace_seconds, .. } => {
                format!("kill {name} {grace_seconds}: {message}")
            }
            Action::Resize { updates } => {
                format!("resize {}", updates.iter().map(|u| u.name.as_str()).collect::<Vec<_>>().join(","))
            }
            Action::Prepare => "prepare".into(),
            Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
            Action::StartContainer { name, .. } => format!("start {name}"),
            Action::Teardown => "teardown".into(),
            Action::RemoveFromRuntime => "remove".into(),
            Action::DeleteFromApi => "delete".into(),
        })
        .collect();
    words.join(" | ")
}

fn status_json(plan: &PodPlan) -> Value {
    serde_json::to_value(&plan.status).unwrap()
}

#[test]
fn actions_follow_from_what_runs() {
    #[track_caller]
    fn check(spec: Value, sandbox: &str, containers: &[&str], expect: &str) {
        let plan = plan(&pod(spec), &runtime(sandbox, containers), &state(), time(NOW));
        assert_eq!(short(&plan.actions), expect);
    }
    let one = json!({"containers": [{"name": "c"}]});
    let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let never = json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]});
    let on_failure = json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}, {"name": "b"}]});
    check(one.clone(), "", &[], "prepare | sandbox 0 | start c");
    check(one.clone(), "ready", &[], "prepare | start c");
    check(one.clone(), "ready", &["c running"], "");
    check(one.clone(), "ready", &["c created"], "prepare | start c");
    check(one.clone(), "ready", &["c 1"], "prepare | start c");
    check(one.clone(), "ready", &["c 0"], "prepare | start c");
    check(
        one.clone(),
        "ready",
        &["c unknown"],
        "kill c 30: Container is in \"unknown\" state, try killing it before restart | prepare | start c",
    );
    check(
        one.clone(),
        "ready",
        &["c running ~"],
        "kill c 30: Container c definition changed, will be restarted | prepare | start c",
    );
    // a dead sandbox takes everything with it
    check(one.clone(), "dead", &["c 137"], "kill-pod | purge | prepare | sandbox 1 | start c");
    check(one, "dead", &["c running"], "kill-pod | purge | prepare | sandbox 1 | start c");
    check(two, "ready", &["a running", "b 1"], "prepare | start b");
    // what has run is over
    check(never.clone(), "ready", &["a running", "b 1"], "");
    check(on_failure.clone(), "ready", &["a running", "b 0"], "");
    check(on_failure.clone(), "ready", &["a running", "b 1"], "prepare | start b");
    check(on_failure, "dead", &["a 0", "b 1"], "kill-pod | purge | prepare | sandbox 1 | start b");
    // all ended: the pod is over, its sandbox goes
    check(never.clone(), "ready", &["a 0", "b 0"], "kill-pod");
    check(never, "dead", &["a 0", "b 0"], "kill-pod | teardown");
}

#[test]
fn init_containers_run_one_after_the_other() {
    #[track_caller]
    fn check(spec: Value, containers: &[&str], expect: &str) {
        let plan = plan(&pod(spec), &runtime("ready", containers), &state(), time(NOW));
        assert_eq!(short(&plan.actions), expect, "{containers:?}");
    }
    let plain = json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "c"}]});
    check(plain.clone(), &[], "prepare | start i");
    check(plain.clone(), &["i running"], "");
    check(plain.clone(), &["i 0"], "prepare | start j");
    check(plain.clone(), &["i 1"], "prepare | start i");
    check(plain.clone(), &["j running", "i 0"], "");
    check(plain.clone(), &["j 0", "i 0"], "prepare | start c");
    // the first was collected long ago
    check(plain.clone(), &["j 0"], "prepare | start c");
    check(plain.clone(), &["c running"], "");
    let mut never = plain;
    never["restartPolicy"] = json!("Never");
    check(never, &["i 1"], "kill-pod");
    let sidecar = json!({
        "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}], "containers": [{"name": "c"}]});
    check(sidecar.clone(), &["s running"], "prepare | start i");
    check(sidecar.clone(), &["i running", "s running"], "");
    check(sidecar.clone(), &["i running", "s 1"], "prepare | start s");
    check(sidecar.clone(), &["c running", "i 0", "s 1"], "prepare | start s");
    check(
        sidecar,
        &["c running", "i 0", "s running ~"],
        "kill s 30: Init container s definition changed | prepare | start s",
    );
    let probed = json!({
        "initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}], "containers": [{"name": "c"}]});
    check(probed, &["s running"], "");
}

#[test]
fn probes_decide_about_life_and_readiness() {
    #[track_caller]
    fn check(results: ProbeResults, expect: &str, started: bool, ready: bool) {
        let spec = json!({"terminationGracePeriodSeconds": 20, "containers": [{"name": "c",
            "startupProbe": {"terminationGracePeriodSeconds": 7}, "livenessProbe": {}, "readinessProbe": {}}]});
        let mut state = state();
        state.probes.insert("id-c".into(), results);
        let plan = plan(&pod(spec), &runtime("ready", &["c running"]), &state, time(NOW));
        let status = &status_json(&plan)["containerStatuses"][0];
        assert_eq!(short(&plan.actions), expect);
        assert_eq!((&status["started"], &status["ready"]), (&json!(started), &json!(ready)));
    }
    let results = |startup, liveness, readiness| ProbeResults { startup, liveness, readiness };
    check(results(None, None, None), "", false, false);
    check(results(Some(true), None, None), "", true, false);
    check(results(Some(true), Some(true), Some(true)), "", true, true);
    check(results(Some(true), Some(true), Some(false)), "", true, false);
    check(
        results(Some(true), Some(false), Some(true)),
        "kill c 20: Container c failed liveness probe, will be restarted | prepare | start c",
        true,
        true,
    );
    check(
        results(Some(false), None, None),
        "kill c 7: Container c failed startup probe, will be restarted | prepare | start c",
        false,
        false,
    );
}

#[test]
fn a_crashing_container_waits_longer_each_time() {
    let pod = pod(json!({"containers": [{"name": "c"}]}));
    let mut state = state();
    // the first time it starts again at once
    let first = plan(&pod, &runtime("ready", &["c 1 @10:00"]), &state, time(NOW));
    assert_eq!(short(&first.actions), "prepare | start c");
    assert_eq!(first.backoff.delay_seconds("c"), 10);
    state.backoff = first.backoff;
    state.last_status = Some(first.status);
    // the second time it waits
    let second =
        plan(&pod, &runtime("ready", &["c 1 #1 @10:01", "c 1 @10:00"]), &state, time("2026-01-01T00:10:02Z"));
    assert_eq!((short(&second.actions), second.wake_at), (String::new(), Some(time("2026-01-01T00:10:11Z"))));
    let status = &status_json(&second)["containerStatuses"][0];
    assert_eq!(status["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(
        status["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=c pod=p_ns(u)"
    );
    assert_eq!(
        (&status["lastState"]["terminated"]["exitCode"], &status["restartCount"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(second.status.phase.as_deref(), Some("Running"));
    assert_eq!(second.events[0].message, "Back-off restarting failed container c in pod p_ns(u)");
    state.waiting.clone_from(&second.waiting);
    let again = plan(&pod, &runtime("ready", &["c 1 #1 @10:01"]), &state, time("2026-01-01T00:10:05Z"));
    assert!(again.events.is_empty(), "said once");
    // then it starts, and the next delay is twice as long
    let third = plan(&pod, &runtime("ready", &["c 1 #1 @10:01"]), &state, time("2026-01-01T00:10:11Z"));
    assert_eq!((short(&third.actions).as_str(), third.backoff.delay_seconds("c")), ("prepare | start c", 20));
}

#[test]
fn phases_and_conditions() {
    #[track_caller]
    fn check(spec: Value, containers: &[&str], expect: &str) {
        let plan = plan(&pod(spec), &runtime("ready", containers), &state(), time(NOW));
        let conditions: Vec<String> = plan
            .status
            .conditions
            .iter()
            .flatten()
            .filter(|c| ["Initialized", "Ready"].contains(&c.type_.as_str()))
            .map(|c| {
                let detail =
                    [c.reason.as_deref(), c.message.as_deref()].into_iter().flatten().collect::<Vec<_>>();
                format!(
                    "{}={}{}",
                    c.type_,
                    c.status,
                    detail.iter().map(|d| format!(" {d}")).collect::<String>()
                )
            })
            .collect();
        assert_eq!(format!("{}; {}", plan.status.phase.unwrap(), conditions.join("; ")), expect);
    }
    let always = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let mut never = always.clone();
    never["restartPolicy"] = json!("Never");
    let mut on_failure = always.clone();
    on_failure["restartPolicy"] = json!("OnFailure");
    check(
        always.clone(),
        &[],
        "Pending; Initialized=True; Ready=False ContainersNotReady containers with unready status: [a b]",
    );
    check(
        always.clone(),
        &["a running"],
        "Pending; Initialized=True; Ready=False ContainersNotReady containers with unready status: [b]",
    );
    check(always.clone(), &["a running", "b running"], "Running; Initialized=True; Ready=True");
    check(
        always.clone(),
        &["a running", "b 1"],
        "Running; Initialized=True; Ready=False ContainersNotReady containers with unready status: [b]",
    );
    check(
        always,
        &["a 0", "b 1"],
        "Running; Initialized=True; Ready=False ContainersNotReady containers with unready status: [a b]",
    );
    check(
        never.clone(),
        &["a 0", "b 0"],
        "Succeeded; Initialized=True PodCompleted; Ready=False PodCompleted",
    );
    check(never.clone(), &["a 0", "b 1"], "Failed; Initialized=True; Ready=False PodFailed");
    check(
        never,
        &["a 0", "b running"],
        "Running; Initialized=True; Ready=False ContainersNotReady containers with unready status: [a]",
    );
    check(
        on_failure.clone(),
        &["a 0", "b 1"],
        "Running; Initialized=True; Ready=False ContainersNotReady containers with unready status: [a b]",
    );
    check(on_failure, &["a 0", "b 0"], "Succeeded; Initialized=True PodCompleted; Ready=False PodCompleted");
    let init = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
    check(
        init.clone(),
        &["i running"],
        "Pending; Initialized=False ContainersNotInitialized containers with incomplete status: [i s]; Ready=False ContainersNotReady containers with unready status: [s a]",
    );
    check(
        init.clone(),
        &["i 1"],
        "Failed; Initialized=False ContainersNotInitialized containers with incomplete status: [i s]; Ready=False PodFailed",
    );
    check(init.clone(), &["a running", "s running", "i 0"], "Running; Initialized=True; Ready=True");
    // a sidecar does not keep the pod
    check(
        init,
        &["a 0", "s running", "i 0"],
        "Running; Initialized=True; Ready=False ContainersNotReady containers with unready status: [a]",
    );
    let gated = json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "a"}]});
    check(
        gated,
        &["a running"],
        "Running; Initialized=True; Ready=False ReadinessGatesNotReady corresponding condition of pod readiness gate \"x/y\" does not exist.",
    );
}

#[test]
fn waiting_containers_say_why() {
    #[track_caller]
    fn check(spec: Value, containers: &[&str], expect: &str) {
        let plan = plan(&pod(spec), &runtime("ready", containers), &state(), time(NOW));
        let status = status_json(&plan);
        let reason = |s: &Value| s["state"]["waiting"]["reason"].as_str().unwrap_or("-").to_owned();
        let list =
            |key: &str| -> Vec<String> { status[key].as_array().into_iter().flatten().map(reason).collect() };
        assert_eq!([list("initContainerStatuses"), list("containerStatuses")].concat().join(" "), expect);
    }
    check(json!({"containers": [{"name": "c"}]}), &[], "ContainerCreating");
    check(
        json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}),
        &["i running"],
        "- PodInitializing",
    );
    // an init container the runtime forgot was done before
    check(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}), &["c running"], "- -");
}

#[test]
fn deleted_pods_end_gracefully_and_completely() {
    #[track_caller]
    fn check(change: impl Fn(&mut Pod, &mut PodState), sandbox: &str, containers: &[&str], expect: &str) {
        let mut pod = pod(json!({"terminationGracePeriodSeconds": 30, "containers": [{"name": "c"}]}));
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time(NOW)));
        pod.metadata.deletion_grace_period_seconds = Some(12);
        let mut state = state();
        change(&mut pod, &mut state);
        let plan = plan(&pod, &runtime(sandbox, containers), &state, time(NOW));
        let phase = plan.status.phase.clone().unwrap();
        assert_eq!(
            format!("{} ({phase}{})", short(&plan.actions), if plan.finished { ", finished" } else { "" }),
            expect
        );
        assert!(plan.terminating);
    }
    check(|_, _| (), "ready", &["c running"], "kill-pod 12 (Running)");
    // the container has ended, the sandbox is still there
    check(|_, _| (), "ready", &["c 0"], "kill-pod 12 (Succeeded)");
    // a sandbox that is not ready may have processes: its start was broken off
    check(|_, _| (), "dead", &["c 143"], "kill-pod 12 | teardown | delete (Failed)");
    check(|_, _| (), "", &[], "teardown | delete (Failed)");
    check(|_, s| s.torn_down = true, "dead", &["c 0"], "delete (Succeeded)");
    check(|_, s| (s.torn_down, s.gone) = (true, true), "dead", &["c 0"], "remove (Succeeded)");
    check(|_, s| (s.torn_down, s.gone, s.removed) = (true, true, true), "", &[], " (Failed, finished)");
    // what failed just now waits a moment
    check(|_, s| s.retry_at = Some(time("2026-01-01T00:10:02Z")), "dead", &["c 0"], " (Succeeded)");
    // removed by force: nobody waits any more
    let forced = |p: &mut Pod, s: &mut PodState| {
        p.metadata.deletion_timestamp = None;
        p.metadata.deletion_grace_period_seconds = None;
        s.gone = true;
    };
    check(forced, "ready", &["c running"], "kill-pod 2 (Running)");
    check(forced, "dead", &["c 0"], "kill-pod 2 | teardown | remove (Succeeded)");
}

#[test]
fn a_pod_does_not_outlive_its_deadline() {
    let mut p = pod(json!({"activeDeadlineSeconds": 60, "containers": [{"name": "c"}]}));
    let start = |text: &str| {
        Some(serde_json::from_value::<PodStatus>(json!({"phase": "Running", "startTime": text})).unwrap())
    };
    p.status = start("2026-01-01T00:09:30Z");
    let running = runtime("ready", &["c running"]);
    let before = plan(&p, &running, &state(), time(NOW));
    assert_eq!((short(&before.actions).as_str(), before.wake_at), ("", Some(time("2026-01-01T00:10:30Z"))));
    p.status = start("2026-01-01T00:09:00Z");
    let after = plan(&p, &running, &state(), time(NOW));
    assert_eq!(short(&after.actions), "kill-pod");
    let status = after.status;
    assert_eq!(
        [status.phase, status.reason, status.message].map(Option::unwrap_or_default),
        ["Failed", "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"]
    );
}

#[test]
fn a_refused_pod_says_only_that() {
    let mut state = state();
    state.failure = Some(Failure {
        reason: "OutOfcpu".into(),
        message: "Pod was rejected: no".into(),
        ..Failure::default()
    });
    state.rejected = true;
    let plan = plan(&pod(json!({"containers": [{"name": "c"}]})), &RuntimePod::default(), &state, time(NOW));
    assert_eq!(short(&plan.actions), "teardown");
    assert_eq!(
        (plan.status.phase.as_deref(), plan.status.reason.as_deref()),
        (Some("Failed"), Some("OutOfcpu"))
    );
    assert_eq!(plan.status.container_statuses, None);
}

#[test]
fn failures_to_start_wait_without_holding_up_others() {
    let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    let mut state = state();
    state.not_before.insert("a".into(), time("2026-01-01T00:10:10Z"));
    state.waiting.insert("a".into(), Waiting { reason: "ErrImagePull".into(), message: "m".into() });
    let plan = plan(&pod, &runtime("ready", &[]), &state, time(NOW));
    assert_eq!(
        (short(&plan.actions).as_str(), plan.wake_at),
        ("prepare | start b", Some(time("2026-01-01T00:10:10Z")))
    );
    assert_eq!(
        status_json(&plan)["containerStatuses"][0]["state"]["waiting"],
        json!({"reason": "ErrImagePull", "message": "m"})
    );
}

#[test]
fn a_status_remembers_what_the_runtime_forgot() {
    let pod = pod(json!({"containers": [{"name": "c"}]}));
    let mut state = state();
    state.last_status = Some(plan(&pod, &runtime("ready", &["c running #2"]), &state, time(NOW)).status);
    // the machine was started anew: nothing is in the runtime
    let plan = plan(&pod, &RuntimePod::default(), &state, time(NOW));
    let status = &status_json(&plan)["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["reason"], "ContainerStatusUnknown");
    assert_eq!((&status["restartCount"], plan.status.phase.as_deref()), (&json!(3), Some("Running")));
    assert_eq!(plan.status.pod_ip, None);
    assert_eq!(short(&plan.actions), "prepare | sandbox 0 | start c");
}
