//! Conditions of the form all newer kinds share (`metav1.Condition`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time as MetaTime};
use k8s_openapi::jiff::Timestamp;

/// The condition of a type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// Sets a condition by its type. It is since `now` where its status is new, whatever time the new one says (upstream's
/// `meta.SetStatusCondition`).
pub fn set(conditions: &mut Vec<Condition>, mut new: Condition, now: Timestamp) {
    let old = conditions.iter_mut().find(|c| c.type_ == new.type_);
    let since = old.as_ref().filter(|c| c.status == new.status).map(|c| c.last_transition_time.clone());
    new.last_transition_time = since.unwrap_or(MetaTime(now));
    match old {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_since_its_status_changed() {
        let at = |s: &str| -> Timestamp { format!("2026-01-01T00:00:{s}Z").parse().unwrap() };
        let condition = |status: &str, reason: &str| Condition {
            type_: "Ready".into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: MetaTime(at("59")),
        };
        let mut all = Vec::new();
        for (time, status, reason, since) in
            [("01", "True", "A", "01"), ("02", "True", "B", "01"), ("03", "False", "B", "03")]
        {
            set(&mut all, condition(status, reason), at(time));
            let c = find(&all, "Ready").unwrap();
            assert_eq!((c.reason.as_str(), c.last_transition_time.0), (reason, at(since)));
        }
        assert_eq!(all.len(), 1);
    }
}
