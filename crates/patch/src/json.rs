//! JSON patch (RFC 6902) and merge patch (RFC 7386).

use crate::Error;
use json_patch::{Patch, PatchErrorKind, PatchOperation};
use serde_json::Value;

/// A JSON patch may have at most this many operations (upstream's `maxJSONPatchOperations`).
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// Applies a JSON patch, given as the request's body, to `doc`; on error `doc` is as it was.
///
/// # Errors
/// A body that is no JSON patch, too many operations, an operation that does not apply.
pub fn json_patch(doc: &mut Value, patch: &[u8]) -> Result<(), Error> {
    let operations: Vec<Value> = serde_json::from_slice(patch).map_err(|e| Error::BadPatch(e.to_string()))?;
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(Error::TooManyOperations { max: MAX_JSON_PATCH_OPERATIONS, got: operations.len() });
    }
    let mut parsed = Vec::with_capacity(operations.len());
    for operation in operations {
        let kind = operation["op"].as_str().unwrap_or("unknown").to_owned();
        let operation: PatchOperation = serde_json::from_value(operation)
            .map_err(|e| Error::DoesNotApply(format!("Unexpected kind: {kind}: {e}")))?;
        parsed.push(operation);
    }
    let patch = Patch(parsed);
    json_patch::patch(doc, &patch).map_err(|error| {
        let operation = &patch.0[error.operation.min(patch.0.len().saturating_sub(1))];
        Error::DoesNotApply(explain(operation, &error.kind))
    })
}

/// The words of the library upstream uses, by operation and what is wrong.
fn explain(operation: &PatchOperation, kind: &PatchErrorKind) -> String {
    let path = operation.path();
    match (operation, kind) {
        (PatchOperation::Test(_), PatchErrorKind::TestFailed) => {
            format!("testing value {path} failed: test failed")
        }
        (PatchOperation::Test(_), _) => {
            format!("test operation does not apply: is missing path: {path}: missing value")
        }
        (PatchOperation::Add(_), _) => {
            format!("add operation does not apply: doc is missing path: \"{path}\": missing value")
        }
        (PatchOperation::Remove(_), _) => {
            let key = path.as_str().rsplit('/').next().unwrap_or_default();
            format!(
                "error in remove for path: '{path}': Unable to remove nonexistent key: {key}: missing value"
            )
        }
        (PatchOperation::Replace(_), _) => {
            format!("replace operation does not apply: doc is missing key: {path}: missing value")
        }
        (PatchOperation::Move(op), PatchErrorKind::InvalidFromPointer) => {
            format!("move operation does not apply: doc is missing from path: {}: missing value", op.from)
        }
        (PatchOperation::Move(_), _) => {
            format!("move operation does not apply: doc is missing destination path: {path}: missing value")
        }
        (PatchOperation::Copy(op), PatchErrorKind::InvalidFromPointer) => {
            format!("copy operation does not apply: doc is missing from path: {}: missing value", op.from)
        }
        (PatchOperation::Copy(_), _) => {
            format!("copy operation does not apply: doc is missing destination path: {path}: missing value")
        }
    }
}

/// Applies a merge patch: null deletes, objects merge, everything else replaces.
pub fn merge_patch(doc: &mut Value, patch: &Value) {
    json_patch::merge(doc, patch);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_apply_or_say_why_not() {
        let doc = json!({"metadata": {"labels": {"a": "1"}}, "list": [1, 2]});
        for (patch, expect) in [
            (
                r#"[{"op":"add","path":"/metadata/labels/b","value":"2"}]"#,
                Ok(json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "list": [1, 2]})),
            ),
            (
                r#"[{"op":"test","path":"/list/0","value":1},{"op":"remove","path":"/list/0"}]"#,
                Ok(json!({"metadata": {"labels": {"a": "1"}}, "list": [2]})),
            ),
            (
                r#"[{"op":"test","path":"/list/0","value":9}]"#,
                Err("testing value /list/0 failed: test failed"),
            ),
            (
                r#"[{"op":"replace","path":"/spec/x","value":9}]"#,
                Err("replace operation does not apply: doc is missing key: /spec/x: missing value"),
            ),
            (
                r#"[{"op":"remove","path":"/metadata/labels/z"}]"#,
                Err(
                    "error in remove for path: '/metadata/labels/z': Unable to remove nonexistent key: z: missing value",
                ),
            ),
        ] {
            let mut copy = doc.clone();
            let result = json_patch(&mut copy, patch.as_bytes()).map(|()| copy).map_err(|e| e.to_string());
            assert_eq!(result, expect.map_err(str::to_owned), "{patch}");
        }
    }

    #[test]
    fn a_failed_patch_changes_nothing() {
        let mut doc = json!({"a": 1});
        let patch = br#"[{"op":"add","path":"/b","value":1},{"op":"remove","path":"/c"}]"#;
        assert!(json_patch(&mut doc, patch).is_err());
        assert_eq!(doc, json!({"a": 1}));
    }

    #[test]
    fn operations_are_bounded() {
        let many: Vec<Value> = (0..=MAX_JSON_PATCH_OPERATIONS)
            .map(|_| json!({"op": "test", "path": "/a", "value": 1}))
            .collect();
        let error = json_patch(&mut json!({"a": 1}), Value::from(many).to_string().as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "The allowed maximum operations in a JSON patch is 10000, got 10001");
    }

    #[test]
    fn merge_patch_deletes_by_null() {
        let mut doc = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge_patch(&mut doc, &json!({"a": {"b": null}, "l": [3]}));
        assert_eq!(doc, json!({"a": {"c": 2}, "l": [3]}));
    }
}
