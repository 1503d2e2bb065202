//! DefaultTolerationSeconds: pods stay five minutes on a node that is not ready or not reachable.

use crate::request::typed_mut;
use crate::{Mutator, Operation, Request};
use k8s_openapi::api::core::v1::{Pod, Toleration};
use kinds::Object;
use meta::ApiError;

const SECONDS: i64 = 300;
const CONDITIONS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub const PLUGIN: Mutator = Mutator { name: "DefaultTolerationSeconds", handles, admit };

fn handles(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    matches!(operation, Operation::Create | Operation::Update)
        && group.is_empty()
        && resource == "pods"
        && subresource.is_empty()
}

fn admit(_: &Request<'_>, object: Option<&mut Object>) -> Result<(), ApiError> {
    let Some(spec) = typed_mut::<Pod>(object).and_then(|p| p.spec.as_mut()) else { return Ok(()) };
    let given = spec.tolerations.clone().unwrap_or_default();
    let empty_or =
        |value: &Option<String>, expect: &str| value.as_deref().is_none_or(|v| v.is_empty() || v == expect);
    for key in CONDITIONS {
        if !given.iter().any(|t| empty_or(&t.key, key) && empty_or(&t.effect, "NoExecute")) {
            spec.tolerations.get_or_insert_default().push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(SECONDS),
                value: None,
            });
        }
    }
    Ok(())
}
