//! The server-side table (meta.k8s.io/v1 Table) that `kubectl get` prints.

use crate::cache::Entry;
use kinds::{Cell, Info};
use meta::{ApiError, Time};
use serde_json::{Value, json};
use std::fmt::Write;

/// What a row carries besides its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    Metadata,
    Object,
}

impl IncludeObject {
    /// # Errors
    /// BadRequest in upstream's words.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "None" => Ok(Self::None),
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            other => Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// A duration with two or three significant figures, exactly as upstream's `duration.HumanDuration`.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".into();
    }
    if seconds < 0 {
        return "0s".into();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let pair = |a: i64, unit_a: &str, b: i64, unit_b: &str| {
        if b == 0 { format!("{a}{unit_a}") } else { format!("{a}{unit_a}{b}{unit_b}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(hours / 24, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => pair(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        () => format!("{}y", hours / 24 / 365),
    }
}

fn age(since: Option<Time>, now: Time) -> String {
    since.map_or_else(|| "<unknown>".into(), |t| human_duration(now.as_second() - t.as_second()))
}

/// A cell as it stands in the row.
pub fn render(cell: &Cell, now: Time) -> Value {
    match cell {
        Cell::Value(v) => v.clone(),
        Cell::Age(t) => Value::String(age(*t, now)),
        Cell::Span(seconds) => Value::String(human_duration(*seconds)),
        Cell::CountSince(n, None) => Value::String(n.to_string()),
        Cell::CountSince(n, Some(t)) => Value::String(format!("{n} ({} ago)", age(Some(*t), now))),
    }
}

const NAME_DESCRIPTION: &str = "Name must be unique within a namespace. Is required when creating resources, although \
    some resources may allow a client to request the generation of an appropriate name automatically. Name is \
    primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: \
    https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";

/// `columnDefinitions`, as JSON.
pub fn columns(info: &Info) -> Value {
    let name = json!({"name": "Name", "type": "string", "format": "name", "description": NAME_DESCRIPTION, "priority": 0});
    let rest = info.columns.iter().map(|c| {
        json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority})
    });
    let name = (!names_itself(info)).then_some(name);
    Value::Array(name.into_iter().chain(rest).collect())
}

/// Whether the kind has a NAME column of its own: elsewhere than first (events), or with more in it than the
/// name (classes that are the default).
pub fn names_itself(info: &Info) -> bool {
    info.columns.iter().any(|c| c.name == "Name" && c.format == "name")
}

/// What a row says of a pod that has ended, so that clients can set it back.
fn completed(entry: &Entry, info: &Info) -> Option<&'static str> {
    let phase = info.selectable.iter().position(|field| *field == "status.phase")?;
    match entry.attrs.field(phase) {
        "Succeeded" => Some(
            r#"[{"type":"Completed","status":"True","reason":"Succeeded","message":"The pod has completed successfully."}]"#,
        ),
        "Failed" => {
            Some(r#"[{"type":"Completed","status":"True","reason":"Failed","message":"The pod failed."}]"#)
        }
        _ => None,
    }
}

/// One row, as JSON appended to `out`.
pub fn put_row(
    entry: &Entry,
    info: &Info,
    include: IncludeObject,
    version: &str,
    now: Time,
    out: &mut String,
) {
    out.push_str(r#"{"cells":["#);
    let names_itself = names_itself(info);
    if !names_itself {
        let _ = write!(out, "{}", Value::from(entry.name()));
    }
    for (i, cell) in entry.cells().iter().enumerate() {
        if i > 0 || !names_itself {
            out.push(',');
        }
        match cell {
            Cell::Value(v) => drop(write!(out, "{v}")),
            other => drop(write!(out, "{}", render(other, now))),
        }
    }
    out.push(']');
    if let Some(conditions) = completed(entry, info) {
        let _ = write!(out, r#","conditions":{conditions}"#);
    }
    out.push_str(r#","object":"#);
    match include {
        IncludeObject::None => out.push_str("null"),
        IncludeObject::Metadata => put_partial(entry, version, out),
        IncludeObject::Object => out.push_str(&String::from_utf8_lossy(entry.json())),
    }
    out.push('}');
}

/// `PartialObjectMetadata` of an entry, as JSON appended to `out`.
pub fn put_partial(entry: &Entry, version: &str, out: &mut String) {
    let _ =
        write!(out, r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/{version}","metadata":"#);
    out.push_str(&String::from_utf8_lossy(entry.metadata_json()));
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_upstream_prints_them() {
        const M: i64 = 60;
        const H: i64 = 3600;
        const D: i64 = 24 * H;
        const Y: i64 = 365 * D;
        for (seconds, expect) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (3 * M + 5, "3m5s"),
            (10 * M + 5, "10m"),
            (179 * M, "179m"),
            (3 * H, "3h"),
            (3 * H + 5 * M, "3h5m"),
            (8 * H + 5 * M, "8h"),
            (47 * H, "47h"),
            (2 * D, "2d"),
            (2 * D + 3 * H, "2d3h"),
            (8 * D, "8d"),
            (Y + 3 * D, "368d"),
            (2 * Y, "2y"),
            (3 * Y + 4 * D, "3y4d"),
            (9 * Y + 4 * D, "9y"),
        ] {
            assert_eq!(human_duration(seconds), expect, "{seconds}");
        }
    }
}
