//! The difference of two objects as a refusal shows it: a unified diff of their indented JSON.

use serde::Serialize;

/// Unchanged lines around a change.
const CONTEXT: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Edit {
    Keep,
    Remove,
    Insert,
}

/// A unified diff without file names, from `old` to `new` (upstream's `util/diff.Diff`).
pub(crate) fn unified_diff<T: Serialize>(old: &T, new: &T) -> String {
    let (old, new) = (pretty(old), pretty(new));
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let edits = edit_script(&a, &b);
    let mut out = String::new();
    let changes: Vec<usize> = (0..edits.len()).filter(|i| edits[*i] != Edit::Keep).collect();
    let mut next = 0;
    while next < changes.len() {
        let first = changes[next];
        while next + 1 < changes.len() && changes[next + 1] - changes[next] <= 2 * CONTEXT {
            next += 1;
        }
        let range = first.saturating_sub(CONTEXT)..(changes[next] + CONTEXT + 1).min(edits.len());
        hunk(&mut out, &edits, range, &a, &b);
        next += 1;
    }
    out
}

/// JSON indented by one space.
fn pretty<T: Serialize>(value: &T) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        Err(e) => e.to_string(),
    }
}

/// A shortest script by the longest common subsequence, after the ends that both share.
fn edit_script(a: &[&str], b: &[&str]) -> Vec<Edit> {
    let prefix = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[prefix..], &b[prefix..]);
    let suffix = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[..a.len() - suffix], &b[..b.len() - suffix]);
    let width = b.len() + 1;
    let mut lengths = vec![0u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            lengths[i * width + j] = if a[i] == b[j] {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let mut edits = vec![Edit::Keep; prefix];
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            edits.push(Edit::Keep);
            i += 1;
            j += 1;
        } else if j >= b.len() || (i < a.len() && lengths[(i + 1) * width + j] >= lengths[i * width + j + 1])
        {
            edits.push(Edit::Remove);
            i += 1;
        } else {
            edits.push(Edit::Insert);
            j += 1;
        }
    }
    edits.extend(std::iter::repeat_n(Edit::Keep, suffix));
    edits
}

fn hunk(out: &mut String, edits: &[Edit], range: std::ops::Range<usize>, a: &[&str], b: &[&str]) {
    let count = |part: &[Edit], not: Edit| part.iter().filter(|e| **e != not).count();
    let (mut i, mut j) =
        (count(&edits[..range.start], Edit::Insert), count(&edits[..range.start], Edit::Remove));
    let part = &edits[range];
    let (old, new) = (count(part, Edit::Insert), count(part, Edit::Remove));
    let span = |start: usize, lines: usize| match lines {
        1 => format!("{}", start + 1),
        0 => format!("{start},0"),
        _ => format!("{},{lines}", start + 1),
    };
    out.push_str(&format!("@@ -{} +{} @@\n", span(i, old), span(j, new)));
    for edit in part {
        let (sign, line) = match edit {
            Edit::Keep => (' ', a[i]),
            Edit::Remove => ('-', a[i]),
            Edit::Insert => ('+', b[j]),
        };
        i += usize::from(*edit != Edit::Insert);
        j += usize::from(*edit != Edit::Remove);
        out.push(sign);
        out.push_str(line);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shows_changes_with_context() {
        let old = json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7, "h": 8});
        let mut new = old.clone();
        new["b"] = json!(20);
        assert_eq!(
            unified_diff(&old, &new),
            "@@ -1,6 +1,6 @@\n {\n  \"a\": 1,\n- \"b\": 2,\n+ \"b\": 20,\n  \"c\": 3,\n  \"d\": 4,\n  \"e\": 5,\n"
        );
        assert_eq!(unified_diff(&old, &old), "");
    }
}
