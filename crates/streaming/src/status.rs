//! The `Status` objects that end an exec or attach on its error stream.

use serde_json::{Value, json};

/// Success, as remote command streams of version 4 and later end.
pub fn success() -> Value {
    json!({ "metadata": {}, "status": "Success" })
}

/// The server's own failure, in the words of `apierrors.NewInternalError`.
pub fn internal_error(message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError",
        "details": { "causes": [{ "message": message }] },
        "code": 500,
    })
}

/// A `Status` object if these bytes are one.
pub fn parse(bytes: &[u8]) -> Option<Value> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    value.get("status").is_some_and(Value::is_string).then_some(value)
}

/// Whether a status says that all went well.
pub fn is_success(status: &Value) -> bool {
    status["status"] == "Success"
}

/// The exit code in a status: 0 for success, `None` for a failure that is no exit of the command.
pub fn exit_code(status: &Value) -> Option<i32> {
    if is_success(status) {
        return Some(0);
    }
    if status["reason"] != "NonZeroExitCode" {
        return None;
    }
    let causes = status["details"]["causes"].as_array()?;
    let cause = causes.iter().find(|cause| cause["reason"] == "ExitCode")?;
    cause["message"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_read_off_a_status() {
        assert_eq!(exit_code(&success()), Some(0));
        assert_eq!(exit_code(&internal_error("x")), None);
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode",
            "details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(exit_code(&parse(failed).unwrap()), Some(3));
        assert_eq!(parse(b"plain text"), None);
    }
}
