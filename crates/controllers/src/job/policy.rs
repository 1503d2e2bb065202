//! What a job says of pods that failed, and of indexes that are enough.

use super::intervals::Indexes;
use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

/// What becomes of a failed pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No rule matches: it counts.
    Unmatched,
    Count,
    Ignore,
    FailIndex,
    /// Why.
    FailJob(String),
}

impl Verdict {
    /// The action of the rule that matched.
    pub fn action(&self) -> Option<&'static str> {
        match self {
            Self::Unmatched => None,
            Self::Count => Some("Count"),
            Self::Ignore => Some("Ignore"),
            Self::FailIndex => Some("FailIndex"),
            Self::FailJob(_) => Some("FailJob"),
        }
    }
}

/// What the first rule that matches says.
pub(super) fn of_failure(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|p| &p.rules);
    let (namespace, name) =
        (pod.metadata.namespace.as_deref().unwrap_or(""), pod.metadata.name.as_deref().unwrap_or(""));
    for (i, rule) in rules.enumerate() {
        let what = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => exited(pod, codes).map(|(container, code)| {
                format!("Container {container} for pod {namespace}/{name} failed with exit code {code}")
            }),
            (None, Some(patterns)) => {
                shows(pod, patterns).map(|c| format!("Pod {namespace}/{name} has condition {}", c.type_))
            }
            (None, None) => None,
        };
        let Some(what) = what else { continue };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "FailIndex" => return Verdict::FailIndex,
            "Count" => return Verdict::Count,
            "FailJob" => return Verdict::FailJob(format!("{what} matching FailJob rule at index {i}")),
            _ => {}
        }
    }
    Verdict::Unmatched
}

/// The first container that ended with a code that is meant, and the code.
fn exited<'a>(pod: &'a Pod, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let statuses = status.container_statuses.iter().flatten();
    let mut all = statuses.chain(status.init_container_statuses.iter().flatten());
    let matches = |s: &'a ContainerStatus| {
        let code = s.state.as_ref()?.terminated.as_ref()?.exit_code;
        let named = wanted.container_name.as_ref().is_none_or(|n| *n == s.name);
        let listed = wanted.values.contains(&code);
        let meant = match wanted.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        (code != 0 && named && meant).then_some((s.name.as_str(), code))
    };
    all.find_map(matches)
}

fn shows<'a>(pod: &'a Pod, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<&'a PodCondition> {
    let is = |c: &PodCondition, p: &PodFailurePolicyOnPodConditionsPattern| {
        c.type_ == p.type_ && c.status == p.status.as_deref().unwrap_or("True")
    };
    let conditions = pod.status.as_ref()?.conditions.iter().flatten();
    conditions.into_iter().find(|c| patterns.iter().any(|p| is(c, p)))
}

/// Which rule says that the indexes that succeeded are enough, as the condition's message tells it.
pub(super) fn is_met(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    succeeded: &Indexes,
) -> Option<String> {
    let rules = policy.filter(|_| !succeeded.is_empty()).into_iter().flat_map(|p| &p.rules);
    for (i, rule) in rules.enumerate() {
        let met = match (&rule.succeeded_indexes, rule.succeeded_count) {
            (Some(text), count) => {
                let wanted = Indexes::parse(text, completions);
                let shared = wanted.shared(succeeded);
                !wanted.is_empty()
                    && (shared == wanted.count() || count.is_some_and(|n| shared >= i64::from(n)))
            }
            (None, Some(count)) => succeeded.count() >= i64::from(count),
            (None, None) => false,
        };
        if met {
            return Some(format!("Matched rules at index {i}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_first_rule_that_matches_decides_about_a_failure() {
        let spec: JobSpec = serde_json::from_value(json!({"template": {}, "podFailurePolicy": {"rules": [
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}},
            {"action": "Count", "onPodConditions": [{"type": "Odd", "status": "True"}]},
        ]}}))
        .unwrap();
        let check = |container: &str, code: i32, conditions: Value, expect: Verdict| {
            let status = json!({"name": container, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code}}});
            let pod = json!({"metadata": {"namespace": "ns", "name": "p"},
                "status": {"containerStatuses": [status], "conditions": conditions}});
            assert_eq!(of_failure(&spec, &serde_json::from_value(pod).unwrap()), expect);
        };
        let why = "Container main for pod ns/p failed with exit code 42 matching FailJob rule at index 0";
        check("main", 42, json!([]), Verdict::FailJob(why.into()));
        check("side", 42, json!([]), Verdict::FailIndex);
        check("side", 42, json!([{"type": "DisruptionTarget", "status": "True"}]), Verdict::Ignore);
        check("main", 1, json!([{"type": "DisruptionTarget", "status": "False"}]), Verdict::Unmatched);
        check("main", 0, json!([]), Verdict::Unmatched);
        check("main", 2, json!([{"type": "Odd", "status": "True"}]), Verdict::Count);
    }

    #[test]
    fn some_indexes_may_be_enough() {
        let check = |rules: Value, succeeded: &str, expect: Option<&str>| {
            let policy = serde_json::from_value(json!({"rules": rules})).unwrap();
            assert_eq!(is_met(Some(&policy), 10, &Indexes::parse(succeeded, 10)).as_deref(), expect);
        };
        let rules = json!([{"succeededIndexes": "0-3", "succeededCount": 2}, {"succeededIndexes": "9"}, {"succeededCount": 5}]);
        check(rules.clone(), "1", None);
        check(rules.clone(), "1,3", Some("Matched rules at index 0"));
        check(rules.clone(), "9", Some("Matched rules at index 1"));
        check(rules.clone(), "4-8", Some("Matched rules at index 2"));
        check(rules, "", None);
    }
}
