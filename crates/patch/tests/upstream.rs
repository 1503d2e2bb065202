//! Random patches and sequences of applies, with what upstream v1.36 makes of each (`data/`): the result, its field
//! managers, or the words of the refusal.

// A test's helpers fail as the test does.
#![allow(clippy::unwrap_used)]

use patch::Shape;
use patch::apply::{Apply, apply};
use patch::managed::Write;
use serde_json::{Value, json};

fn cases(text: &str) -> impl Iterator<Item = Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap())
}

fn of_kind(case: &Value) -> (&str, &'static str, &'static schema::Type) {
    let kind = case["kind"].as_str().unwrap();
    let (group, api_version) = if kind == "Deployment" { ("apps", "apps/v1") } else { ("", "v1") };
    (kind, api_version, schema::for_gvk(group, "v1", kind).unwrap())
}

#[test]
fn strategic_merges() {
    for case in cases(include_str!("data/strategic.jsonl")) {
        let (_, _, ty) = of_kind(&case);
        let got = patch::strategic_merge(&case["doc"], &case["patch"], ty).map_err(|e| e.to_string());
        let expect = match case["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(case["result"].clone()),
        };
        assert_eq!(got, expect, "{}\n{}", case["doc"], case["patch"]);
    }
}

#[test]
fn applies_in_sequence() {
    for case in cases(include_str!("data/apply.jsonl")) {
        let (kind, api_version, ty) = of_kind(&case);
        let mut live = json!({"apiVersion": api_version, "kind": kind});
        for (step, expect) in case["steps"].as_array().unwrap().iter().zip(case["after"].as_array().unwrap())
        {
            let write = Write {
                manager: step["manager"].as_str().unwrap(),
                api_version,
                subresource: "",
                now: meta::Time::UNIX_EPOCH,
                reset_fields: None,
            };
            let request = Apply { write, kind, force: step["force"].as_bool().unwrap() };
            let refused = match apply(Some(&live), &step["object"], Shape::from(ty), &request) {
                Ok(applied) => {
                    live = applied.object;
                    Value::Null
                }
                Err(error) => error.to_string().into(),
            };
            assert_eq!(refused, *expect.get("error").unwrap_or(&Value::Null), "{}", case["steps"]);
            let mut bare = live.clone();
            let entries = bare
                .pointer_mut("/metadata")
                .and_then(Value::as_object_mut)
                .and_then(|m| m.remove("managedFields"))
                .unwrap_or(json!([]));
            let entries: Vec<Value> = entries
                .as_array()
                .unwrap()
                .iter()
                .map(|e| json!({"manager": e["manager"], "op": e["operation"], "f": e["fieldsV1"]}))
                .collect();
            assert_eq!(
                (bare, Value::from(entries)),
                (expect["live"].clone(), expect["mf"].clone()),
                "{}",
                case["steps"]
            );
        }
    }
}
