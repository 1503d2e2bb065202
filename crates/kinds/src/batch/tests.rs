//! What is refused of jobs and cron jobs, in upstream's words.

use super::{CRON_JOB, JOB};
use crate::support::testing::{lines, object};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};

fn extended(mut base: Value, with: Value) -> Value {
    base.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    base
}

fn template(restart: &str) -> Value {
    json!({"spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": "i"}]}})
}

fn job(spec: Value, status: Value) -> Job {
    let spec = extended(json!({"template": template("Never")}), spec);
    let mut job: Job = object(json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec}));
    (JOB.kind.default)(&mut job);
    (JOB.kind.strategy.prepare_create)(&mut job);
    job.status = Some(object(status));
    job
}

#[test]
fn new_jobs() {
    let check = |spec: Value, expect: &[&str]| {
        assert_eq!(lines(&(JOB.kind.validate.create)(&job(spec, json!({})))), expect);
    };
    check(json!({}), &[]);
    check(
        json!({"template": template("Always")}),
        &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
    );
    check(
        json!({"parallelism": -1, "backoffLimitPerIndex": 1, "managedBy": "me"}),
        &[
            "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
            "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
        ],
    );
    check(
        json!({"completionMode": "Indexed", "parallelism": 1}),
        &["spec.completions: Required value: when completion mode is Indexed"],
    );
    let rules = json!([
        {"action": "Count", "onExitCodes": {"containerName": "x", "operator": "In", "values": [2, 0]}},
        {"action": "FailIndex", "onPodConditions": [{"type": "a b", "status": "Maybe"}]},
        {"action": "Ignore"},
    ]);
    check(
        json!({"podFailurePolicy": {"rules": rules}, "podReplacementPolicy": "TerminatingOrFailed", "template": template("OnFailure")}),
        &[
            "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template",
            "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
            "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,0]: must be ordered",
            "spec.podFailurePolicy.rules[1].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
            "spec.podFailurePolicy.rules[1].onPodConditions[0].type: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.podFailurePolicy.rules[1].onPodConditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
            "spec.podFailurePolicy.rules[2]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            "spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\"",
            "spec.template.spec.restartPolicy: Invalid value: \"OnFailure\": only \"Never\" is supported when podFailurePolicy is specified",
        ],
    );
    check(
        json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [{"succeededIndexes": "0-1,5", "succeededCount": 4}, {}]}}),
        &[
            "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"0-1,5\": error parsing succeededIndexes: too large index: \"5\"",
            "spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of specified completions)",
            "spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 0 (the number of indexes in the specified succeededIndexes field)",
            "spec.successPolicy.rules[1]: Required value: at least one of succeededCount or succeededIndexes must be specified",
        ],
    );
    // labels that are another job's
    let mut stolen = job(json!({}), json!({}));
    let labels = stolen.spec.as_mut().and_then(|s| s.template.metadata.as_mut()?.labels.as_mut()).unwrap();
    labels.retain(|k, _| !k.ends_with("job-name"));
    labels.insert("batch.kubernetes.io/controller-uid".into(), "other".into());
    assert_eq!(
        lines(&(JOB.kind.validate.create)(&stolen)),
        [
            "spec.template.metadata.labels[job-name]: Required value: must be 'j'",
            "spec.template.metadata.labels[batch.kubernetes.io/controller-uid]: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"other\",\"controller-uid\":\"u\"}: must be 'u'",
            "spec.template.metadata.labels[batch.kubernetes.io/job-name]: Required value: must be 'j'",
            "spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"other\",\"controller-uid\":\"u\"}: `selector` does not match template `labels`",
        ]
    );
}

#[test]
fn changes_of_jobs() {
    let check = |old: (Value, Value), new: Value, expect: &[&str]| {
        let new = job(extended(old.0.clone(), new), json!({}));
        let got: Vec<String> = lines(&(JOB.kind.validate.update)(&new, &job(old.0, old.1)));
        let short: Vec<&str> = got.iter().map(|l| l.split(": Invalid value: {").next().unwrap()).collect();
        assert_eq!(short, expect);
    };
    let plain = || (json!({"completions": 2}), json!({}));
    check(plain(), json!({"parallelism": 5, "suspend": true, "backoffLimit": 1}), &[]);
    check(plain(), json!({"completions": 3}), &["spec.completions: Invalid value: 3: field is immutable"]);
    let indexed = || (json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed"}), json!({}));
    check(indexed(), json!({"completions": 3, "parallelism": 3}), &[]);
    check(
        indexed(),
        json!({"completions": 3}),
        &["spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"],
    );
    // where pods run, and what they request, as long as there are none
    let mut elsewhere = template("Never");
    elsewhere["spec"]["nodeSelector"] = json!({"a": "b"});
    elsewhere["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    check(plain(), json!({"template": elsewhere}), &["spec.template"]);
    let suspended = |status: Value| (json!({"completions": 2, "suspend": true}), status);
    check(suspended(json!({})), json!({"template": elsewhere}), &[]);
    let start = json!({"startTime": "2026-01-01T00:00:00Z"});
    check(suspended(start.clone()), json!({"template": elsewhere}), &["spec.template"]);
    let rests = extended(start, json!({"conditions": [{"type": "Suspended", "status": "True"}]}));
    check(suspended(rests), json!({"template": elsewhere}), &[]);
    elsewhere["spec"]["containers"][0]["image"] = json!("other");
    check(suspended(json!({})), json!({"template": elsewhere}), &["spec.template.spec"]);
}

#[test]
fn what_a_status_may_become() {
    let check = |spec: Value, old: Value, new: Value, expect: &[&str]| {
        assert_eq!(lines(&super::job_status::validate(&job(spec.clone(), new), &job(spec, old))), expect);
    };
    let conditions =
        |kinds: &[&str]| -> Value { kinds.iter().map(|k| json!({"type": k, "status": "True"})).collect() };
    let time = |m: u32| format!("2026-01-01T00:{m:02}:00Z");
    let done = json!({"conditions": conditions(&["SuccessCriteriaMet", "Complete"]), "startTime": time(1), "completionTime": time(2), "succeeded": 1});
    check(json!({}), json!({"startTime": time(1)}), done.clone(), &[]);
    check(
        json!({}),
        json!({"startTime": time(1)}),
        json!({"startTime": time(1), "conditions": conditions(&["Complete", "Failed"]), "active": 1}),
        &[
            "status.conditions: Invalid value: cannot set Complete=True and Failed=true conditions",
            "status.completionTime: Required value: completionTime is required for Complete jobs",
            "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
            "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            "status.active: Invalid value: 1: active>0 is invalid for finished job",
        ],
    );
    check(
        json!({}),
        done,
        json!({"startTime": time(1)}),
        &[
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
            "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
            "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
        ],
    );
    check(
        json!({"completions": 5, "completionMode": "Indexed", "backoffLimitPerIndex": 1}),
        json!({}),
        json!({"completedIndexes": "0-2,7", "failedIndexes": "2,3", "ready": 1}),
        &[
            "status.completedIndexes: Invalid value: \"0-2,7\": error parsing completedIndexes: too large index: \"7\"",
            "status.failedIndexes: Invalid value: \"2,3\": failedIndexes and completedIndexes overlap at index: 2",
            "status.ready: Invalid value: 1: cannot set more ready pods than active",
        ],
    );
    // what was wrong already stops no other change
    let odd = json!({"completedIndexes": "x"});
    check(json!({}), odd.clone(), extended(odd, json!({"active": 1})), &[]);
}

#[test]
fn cron_jobs() {
    let cron = |spec: Value| -> CronJob {
        let base = json!({"schedule": "@hourly", "jobTemplate": {"spec": {"template": template("Never")}}});
        let mut cron = object(json!({"metadata": {"name": "c"}, "spec": extended(base, spec)}));
        (CRON_JOB.kind.default)(&mut cron);
        cron
    };
    let check = |spec: Value, expect: &[&str]| {
        assert_eq!(lines(&(CRON_JOB.kind.validate.create)(&cron(spec))), expect);
    };
    check(json!({"timeZone": "Europe/Berlin", "concurrencyPolicy": "Replace"}), &[]);
    check(
        json!({"schedule": "", "concurrencyPolicy": "Never", "startingDeadlineSeconds": -1, "timeZone": "Mars"}),
        &[
            "spec.schedule: Required value",
            "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.timeZone: Invalid value: \"Mars\": unknown time zone Mars",
            "spec.concurrencyPolicy: Unsupported value: \"Never\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
        ],
    );
    check(
        json!({"schedule": "TZ=UTC 0 0 * *", "timeZone": ""}),
        &[
            "spec.schedule: Invalid value: \"TZ=UTC 0 0 * *\": expected exactly 5 fields, found 4: [0 0 * *]",
            "spec.schedule: Invalid value: \"TZ=UTC 0 0 * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            "spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string",
        ],
    );
    check(
        json!({"jobTemplate": {"spec": {"manualSelector": true, "selector": {"matchLabels": {"a": "b"}}, "template": template("Always")}}}),
        &[
            "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated",
            "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\"",
        ],
    );
    let mut long = cron(json!({}));
    long.metadata.name = Some("x".repeat(53));
    assert!(
        lines(&(CRON_JOB.kind.validate.create)(&long))[0].ends_with("must be no more than 52 characters")
    );
    // zones within schedules stay where they were
    let old = cron(json!({"schedule": "TZ=UTC 0 0 * * *"}));
    let new = cron(json!({"schedule": "TZ=UTC 0 1 * * *"}));
    assert_eq!(lines(&(CRON_JOB.kind.validate.update)(&new, &old)), Vec::<String>::new());
    let both = cron(json!({"schedule": "TZ=UTC 0 1 * * *", "timeZone": "UTC"}));
    assert_eq!(
        lines(&(CRON_JOB.kind.validate.update)(&both, &old)),
        [
            "spec.schedule: Invalid value: \"TZ=UTC 0 1 * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule"
        ]
    );
}
