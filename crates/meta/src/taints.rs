//! Which taints of a node a pod tolerates.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// As the API reference of Toleration says: no key with Exists tolerates all keys, no effect all effects.
pub fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let key = t.key.as_deref().unwrap_or("");
    let effect = t.effect.as_deref().unwrap_or("");
    if !key.is_empty() && key != taint.key || !effect.is_empty() && effect != taint.effect {
        return false;
    }
    match t.operator.as_deref().unwrap_or("") {
        "Exists" => true,
        "" | "Equal" => t.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        _ => false,
    }
}

/// Whether every taint with one of these effects is tolerated.
pub fn all_tolerated(tolerations: &[Toleration], taints: &[Taint], effects: &[&str]) -> bool {
    let mut concerned = taints.iter().filter(|t| effects.contains(&t.effect.as_str()));
    concerned.all(|taint| tolerations.iter().any(|t| tolerates(t, taint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(toleration: Value, expect: bool) {
        let taint = json!({"key": "k", "value": "v", "effect": "NoSchedule"});
        let taint = serde_json::from_value(taint).unwrap();
        let what = toleration.to_string();
        assert_eq!(tolerates(&serde_json::from_value(toleration).unwrap(), &taint), expect, "{what}");
    }

    #[test]
    fn keys_operators_and_effects() {
        check(json!({"operator": "Exists"}), true);
        check(json!({"key": "k", "operator": "Exists"}), true);
        check(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false);
        check(json!({"key": "k", "value": "v"}), true);
        check(json!({"key": "k", "operator": "Equal", "value": "w"}), false);
        check(json!({"key": "l", "value": "v"}), false);
        check(json!({"key": "k", "operator": "Near", "value": "v"}), false);
    }
}
