//! Completion indexes in their short form: `1,3-5,7`.

/// The interval of one part, both ends included.
fn interval(part: &str, completions: i32) -> Result<(i32, i32), String> {
    let ends: Vec<&str> = part.split('-').collect();
    let index = |text: &str| -> Result<i32, String> {
        let n: i64 =
            text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        match i32::try_from(n) {
            Ok(n) if n < completions => Ok(n),
            _ => Err(format!("too large index: {text:?}")),
        }
    };
    match ends[..] {
        [only] => index(only).map(|n| (n, n)),
        [first, last] => {
            let (x, y) = (index(first)?, index(last)?);
            if x >= y {
                return Err(format!("non-increasing order, previous: {x}, current: {y}"));
            }
            Ok((x, y))
        }
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

/// The intervals of a list, both ends included.
///
/// # Errors
/// In upstream's words: what is no list of growing indexes below `completions`.
pub fn parse_indexes(text: &str, completions: i32) -> Result<Vec<(i32, i32)>, String> {
    let mut all: Vec<(i32, i32)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (x, y) = interval(part, completions)?;
        if let Some((_, last)) = all.last().filter(|(_, last)| *last >= x) {
            return Err(format!("non-increasing order, previous: {last}, current: {x}"));
        }
        all.push((x, y));
    }
    Ok(all)
}

/// How many indexes a list has.
pub(super) fn count(intervals: &[(i32, i32)]) -> i64 {
    intervals.iter().map(|(x, y)| i64::from(y - x) + 1).sum()
}

/// The first index that two lists share. Parts that are no intervals are passed over.
pub(super) fn overlap(a: &str, b: &str, completions: i32) -> Option<i32> {
    let read = |text: &str| -> Vec<(i32, i32)> {
        text.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let (a, b) = (read(a), read(b));
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        if x.0 <= y.1 && y.0 <= x.1 {
            return Some(x.0.max(y.0));
        }
        if x.0 <= y.0 {
            i += 1;
        } else {
            j += 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_indexes() {
        let check = |text: &str, expect: Result<&[(i32, i32)], &str>| {
            assert_eq!(parse_indexes(text, 10).as_deref().map_err(String::as_str), expect, "{text}");
        };
        check("", Ok(&[]));
        check("1,3-5,7", Ok(&[(1, 1), (3, 5), (7, 7)]));
        check("10", Err("too large index: \"10\""));
        check("1,x", Err("cannot convert string to integer for index: \"x\""));
        check("3,2", Err("non-increasing order, previous: 3, current: 2"));
        check("5-5", Err("non-increasing order, previous: 5, current: 5"));
        assert_eq!(count(&[(1, 1), (3, 5)]), 4);
        assert_eq!(overlap("0-2,6", "3-4,6-7", 10), Some(6));
        assert_eq!(overlap("0-2", "3", 10), None);
    }
}
