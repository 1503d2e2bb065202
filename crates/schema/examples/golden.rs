//! Transcodes upstream's golden files, each kind as JSON and as protobuf, and says where they differ:
//! `cargo run -p schema --example golden -- <kubernetes>/staging/src/k8s.io/api/testdata/HEAD`.

use serde_json::Value;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("which directory?")?;
    let (mut checked, mut different) = (0, 0);
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pb") {
            checked += 1;
            if let Err(why) = check(&path) {
                different += 1;
                println!("{}: {why}", path.display());
            }
        }
    }
    println!("{checked} kinds, {different} differ");
    Ok(())
}

fn check(pb: &Path) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let json = std::fs::read(pb.with_extension("json")).map_err(|e| text(&e))?;
    let expect: Value = serde_json::from_slice(&json).map_err(|e| text(&e))?;
    let bytes = std::fs::read(pb).map_err(|e| text(&e))?;
    let (api_version, kind, decoded) = schema::proto::to_json(&bytes).map_err(|e| format!("to JSON: {e}"))?;
    let decoded: Value = serde_json::from_slice(&decoded).map_err(|e| text(&e))?;
    differ("$", &decoded, &expect)?;
    let encoded = schema::proto::from_json(&json).map_err(|e| format!("from JSON: {e}"))?;
    let (_, _, again) = schema::proto::to_json(&encoded).map_err(|e| format!("back to JSON: {e}"))?;
    let again: Value = serde_json::from_slice(&again).map_err(|e| text(&e))?;
    differ("$ (from JSON)", &again, &expect)?;
    let ty = schema::for_api_version(&api_version, &kind).ok_or("no type")?;
    let report = schema::strict::inspect(ty, &json);
    match report.type_error.or(report.issues.first().map(ToString::to_string)) {
        Some(issue) => Err(format!("strict: {issue}")),
        None => Ok(()),
    }
}

fn differ(path: &str, got: &Value, want: &Value) -> Result<(), String> {
    match (got, want) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, want) in b {
                differ(&format!("{path}.{key}"), a.get(key).unwrap_or(&Value::Null), want)?;
            }
            match a.keys().find(|key| !b.contains_key(*key)) {
                Some(extra) => Err(format!("{path}.{extra} is {} and should not be there", a[extra])),
                None => Ok(()),
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().try_for_each(|(i, (a, b))| differ(&format!("{path}[{i}]"), a, b))
        }
        (a, b) if a == b => Ok(()),
        (a, b) => Err(format!("{path} is {a}, wanted {b}")),
    }
}
