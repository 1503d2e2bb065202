//! JSON patch (RFC 6902) and merge patch (RFC 7386).
//!
//! JSON patch follows the library upstream uses, which is laxer than the RFC: `replace` sets a key that is not there,
//! `copy` and `move` of such a key carry null, indices may count from the end.

use crate::Error;
use serde_json::Value;

/// A JSON patch may have at most this many operations (upstream's `maxJSONPatchOperations`).
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// Applies a JSON patch, given as the request's body, to `doc`; on error `doc` is as it was.
///
/// # Errors
/// A body that is no JSON patch, too many operations, an operation that does not apply.
pub fn json_patch(doc: &mut Value, patch: &[u8]) -> Result<(), Error> {
    let operations: Vec<serde_json::Map<String, Value>> =
        serde_json::from_slice(patch).map_err(|e| Error::BadPatch(e.to_string()))?;
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(Error::TooManyOperations { max: MAX_JSON_PATCH_OPERATIONS, got: operations.len() });
    }
    let mut patched = doc.clone();
    for operation in operations {
        Operation::new(operation).apply(&mut patched).map_err(Error::DoesNotApply)?;
    }
    *doc = patched;
    Ok(())
}

/// One operation of a patch. A path that is missing is an error only once it is needed.
struct Operation {
    kind: String,
    path: Option<String>,
    from: Option<String>,
    value: Value,
}

impl Operation {
    fn new(mut fields: serde_json::Map<String, Value>) -> Self {
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        Self {
            kind: text("op").unwrap_or_else(|| "unknown".to_owned()),
            path: text("path"),
            from: text("from"),
            value: fields.remove("value").unwrap_or_default(),
        }
    }

    /// Errors are in the words of upstream's library.
    fn apply(self, doc: &mut Value) -> Result<(), String> {
        match self.kind.as_str() {
            "add" => self.add(doc),
            "remove" => self.remove(doc),
            "replace" => self.replace(doc),
            "move" => self.move_(doc),
            "copy" => self.copy(doc),
            "test" => self.test(doc),
            other => Err(format!("Unexpected kind: {other}")),
        }
    }

    fn path(&self) -> Result<&str, String> {
        let kind = &self.kind;
        let why = match kind.as_str() {
            "add" | "remove" | "copy" => "",
            _ => "operation missing path field: ",
        };
        let missing = || format!("{kind} operation failed to decode path: {why}missing value");
        self.path.as_deref().ok_or_else(missing)
    }

    fn from(&self) -> Result<&str, String> {
        let kind = &self.kind;
        let missing = || {
            format!("{kind} operation failed to decode from: operation, missing from field: missing value")
        };
        self.from.as_deref().ok_or_else(missing)
    }

    /// Where the value of `move` and `copy` comes from.
    fn find_from<'d>(&self, doc: &'d mut Value) -> Result<(&'d mut Value, String), String> {
        let (kind, from) = (&self.kind, self.from()?);
        find(doc, from).ok_or_else(|| {
            format!("{kind} operation does not apply: doc is missing from path: {from}: missing value")
        })
    }

    /// Where the value of `move` and `copy` goes to.
    fn find_destination<'d>(&self, doc: &'d mut Value) -> Result<(&'d mut Value, String), String> {
        let (kind, path) = (&self.kind, self.path()?);
        find(doc, path).ok_or_else(|| {
            format!("{kind} operation does not apply: doc is missing destination path: {path}: missing value")
        })
    }

    fn add(mut self, doc: &mut Value) -> Result<(), String> {
        let value = self.value.take();
        let path = self.path()?;
        let (parent, key) = find(doc, path).ok_or_else(|| {
            format!("add operation does not apply: doc is missing path: \"{path}\": missing value")
        })?;
        let in_add = |e| format!("error in add for path: '{path}': {e}");
        add(parent, &key, value).map_err(in_add)
    }

    fn remove(&self, doc: &mut Value) -> Result<(), String> {
        let path = self.path()?;
        let (parent, key) = find(doc, path).ok_or_else(|| {
            format!("remove operation does not apply: doc is missing path: \"{path}\": missing value")
        })?;
        remove(parent, &key).map_err(|e| format!("error in remove for path: '{path}': {e}"))
    }

    fn replace(mut self, doc: &mut Value) -> Result<(), String> {
        let value = self.value.take();
        let path = self.path()?;
        if path.is_empty() {
            if !value.is_object() && !value.is_array() {
                return Err("replace operation value must be object or array: %!w(<nil>)".to_owned());
            }
            *doc = value;
            return Ok(());
        }
        let missing = |what: &str| {
            format!("replace operation does not apply: doc is missing {what}: {path}: missing value")
        };
        let (parent, key) = find(doc, path).ok_or_else(|| missing("path"))?;
        get(parent, &key).map_err(|_| missing("key"))?;
        set(parent, &key, value);
        Ok(())
    }

    fn move_(&self, doc: &mut Value) -> Result<(), String> {
        let (parent, key) = self.find_from(doc)?;
        let in_move = |e: String| format!("error in move for path: '{key}': {e}");
        let moved = get(parent, &key).map_err(in_move)?.cloned().unwrap_or_default();
        remove(parent, &key).map_err(in_move)?;
        let path = self.path()?;
        let (parent, key) = self.find_destination(doc)?;
        add(parent, &key, moved).map_err(|e| format!("error in move for path: '{path}': {e}"))
    }

    fn copy(&self, doc: &mut Value) -> Result<(), String> {
        let from = self.from()?;
        let (parent, key) = self.find_from(doc)?;
        let copied = get(parent, &key).map_err(|e| format!("error in copy for from: '{from}': {e}"))?;
        let copied = copied.cloned().unwrap_or_default();
        let (parent, key) = self.find_destination(doc)?;
        add(parent, &key, copied).map_err(|e| format!("error while adding value during copy: {e}"))
    }

    fn test(&self, doc: &mut Value) -> Result<(), String> {
        let path = self.path()?;
        let failed = || format!("testing value {path} failed: test failed");
        if path.is_empty() {
            return if *doc == self.value { Ok(()) } else { Err(failed()) };
        }
        let (parent, key) = find(doc, path).ok_or_else(|| {
            format!("test operation does not apply: is missing path: {path}: missing value")
        })?;
        let found = get(parent, &key).map_err(|e| format!("error in test for path: '{path}': {e}"))?;
        if found.unwrap_or(&Value::Null) == &self.value { Ok(()) } else { Err(failed()) }
    }
}

/// The object or array a pointer's last token is a key of, and that token.
fn find<'d>(doc: &'d mut Value, pointer: &str) -> Option<(&'d mut Value, String)> {
    let mut tokens = pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~"));
    let mut key = tokens.next()?;
    let mut at = doc;
    for next in tokens {
        at = match at {
            Value::Object(map) => map.get_mut(&key)?,
            Value::Array(items) => {
                let index = position(&key, items.len(), items.len()).ok()?;
                &mut items[index]
            }
            _ => return None,
        };
        key = next;
    }
    (at.is_object() || at.is_array()).then_some((at, key))
}

/// An index below `bound`, given from the front or, negative, from the end.
fn position(key: &str, length: usize, bound: usize) -> Result<usize, String> {
    let index: i64 = key.parse().map_err(|_| format!("strconv.Atoi: parsing {key:?}: invalid syntax"))?;
    let from_front = if index < 0 { index + length as i64 } else { index };
    match usize::try_from(from_front) {
        Ok(position) if position < bound => Ok(position),
        _ => Err(format!("Unable to access invalid index: {index}: invalid index referenced")),
    }
}

fn get<'d>(parent: &'d Value, key: &str) -> Result<Option<&'d Value>, String> {
    match parent {
        Value::Array(items) => position(key, items.len(), items.len()).map(|index| items.get(index)),
        other => Ok(other.get(key)),
    }
}

/// Sets a key, or an index that [`get`] has found.
fn set(parent: &mut Value, key: &str, value: Value) {
    match parent {
        Value::Array(items) => {
            let index = position(key, items.len(), items.len());
            if let Some(item) = index.ok().and_then(|index| items.get_mut(index)) {
                *item = value;
            }
        }
        other => other[key] = value,
    }
}

fn add(parent: &mut Value, key: &str, value: Value) -> Result<(), String> {
    match parent {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let places = items.len() + 1;
            let index = match key.parse::<i64>() {
                Ok(_) => position(key, places, places)?,
                Err(_) => {
                    let why = format!("strconv.Atoi: parsing {key:?}: invalid syntax");
                    return Err(format!("value was not a proper array index: '{key}': {why}"));
                }
            };
            items.insert(index, value);
        }
        other => other[key] = value,
    }
    Ok(())
}

fn remove(parent: &mut Value, key: &str) -> Result<(), String> {
    match parent {
        Value::Array(items) => {
            let index = position(key, items.len(), items.len())?;
            items.remove(index);
            Ok(())
        }
        other => match other.as_object_mut().and_then(|map| map.remove(key)) {
            Some(_) => Ok(()),
            None => Err(format!("Unable to remove nonexistent key: {key}: missing value")),
        },
    }
}

/// Applies a merge patch: null deletes, objects merge, everything else replaces. What is new comes without its nulls,
/// also inside lists.
pub fn merge_patch(doc: &mut Value, patch: &Value) {
    match (doc, patch) {
        (Value::Object(doc), Value::Object(patch)) => {
            for (key, change) in patch {
                if change.is_null() {
                    doc.remove(key);
                    continue;
                }
                match doc.get_mut(key) {
                    Some(found) if !found.is_null() => merge_patch(found, change),
                    _ => drop(doc.insert(key.clone(), without_nulls(change))),
                }
            }
        }
        (doc @ Value::Object(_), change) => *doc = change.clone(),
        (doc, change) => *doc = without_nulls(change),
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
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
                Err("replace operation does not apply: doc is missing path: /spec/x: missing value"),
            ),
            (
                r#"[{"op":"replace","path":"/metadata/labels/new","value":"9"},{"op":"remove","path":"/list/-1"}]"#,
                Ok(json!({"metadata": {"labels": {"a": "1", "new": "9"}}, "list": [1]})),
            ),
            (
                r#"[{"op":"move","from":"/metadata/labels/a","path":"/metadata/labels/x~1y"}]"#,
                Ok(json!({"metadata": {"labels": {"x/y": "1"}}, "list": [1, 2]})),
            ),
            (
                r#"[{"op":"copy","from":"/list/0","path":"/list/-"}]"#,
                Ok(json!({"metadata": {"labels": {"a": "1"}}, "list": [1, 2, 1]})),
            ),
            (
                r#"[{"op":"add","path":"/list/7","value":1}]"#,
                Err(
                    "error in add for path: '/list/7': Unable to access invalid index: 7: invalid index referenced",
                ),
            ),
            (r#"[{"op":"swap","path":"/list/7"}]"#, Err("Unexpected kind: swap")),
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
        merge_patch(
            &mut doc,
            &json!({"a": {"b": null}, "l": [{"x": null, "y": 1}], "n": {"x": null}, "q": null}),
        );
        assert_eq!(doc, json!({"a": {"c": 2}, "l": [{"y": 1}], "n": {}}));
    }
}
