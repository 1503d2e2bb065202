//! What a client asks of a log: `PodLogOptions` in a query.

use meta::Time;

/// Which of a container's outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stream {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// The options, read and valid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub since: Option<Time>,
    pub follow: bool,
    pub timestamps: bool,
    /// Of the container that ran before this one.
    pub previous: bool,
    pub stream: Stream,
}

/// Why a query is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionsError {
    /// Not of the right form: 400.
    Undecodable,
    /// Against the rules of `PodLogOptions`: 422.
    Invalid,
}

impl Options {
    /// Reads a query; `now` is what `sinceSeconds` counts from.
    ///
    /// # Errors
    /// See [`OptionsError`].
    pub fn from_query(pairs: &[(String, String)], now: Time) -> Result<Self, OptionsError> {
        let get = |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let number = |name: &str| -> Result<Option<i64>, OptionsError> {
            let value = get(name).filter(|value| !value.is_empty());
            value.map(|value| value.parse().map_err(|_| OptionsError::Undecodable)).transpose()
        };
        let flag = |name: &str| {
            get(name).is_some_and(|value| !matches!(value, "false" | "0" | "False" | "FALSE" | "f"))
        };
        // the older name of tailLines, where "all" is no bound
        let tail = match get("tail") {
            Some("all") => None,
            Some(_) => number("tail")?,
            None => number("tailLines")?,
        };
        let limit = number("limitBytes")?;
        let since_seconds = number("sinceSeconds")?;
        let since_time = get("sinceTime").filter(|value| !value.is_empty());
        let since_time: Option<Time> =
            since_time.map(|value| value.parse().map_err(|_| OptionsError::Undecodable)).transpose()?;
        let stream = match get("stream") {
            None | Some("" | "All") => Stream::All,
            Some("Stdout") => Stream::Stdout,
            Some("Stderr") => Stream::Stderr,
            Some(_) => return Err(OptionsError::Invalid),
        };
        let invalid = tail.is_some_and(|lines| lines < 0)
            || limit.is_some_and(|bytes| bytes < 1)
            || since_seconds.is_some_and(|seconds| seconds < 1)
            || (since_seconds.is_some() && since_time.is_some())
            || (tail.is_some() && stream != Stream::All);
        if invalid {
            return Err(OptionsError::Invalid);
        }
        let ago = |seconds: i64| now.checked_sub(std::time::Duration::from_secs(seconds.unsigned_abs())).ok();
        Ok(Self {
            tail_lines: tail.map(i64::unsigned_abs),
            limit_bytes: limit.map(i64::unsigned_abs),
            since: since_time.or_else(|| since_seconds.and_then(ago)),
            follow: flag("follow"),
            timestamps: flag("timestamps"),
            previous: flag("previous"),
            stream,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_checked_as_upstream_does() {
        #[track_caller]
        fn check(query: &str, expect: Result<Options, OptionsError>) {
            let pairs = crate::server::route::query(query);
            assert_eq!(
                Options::from_query(&pairs, "2026-06-01T00:00:10Z".parse().unwrap()),
                expect,
                "{query}"
            );
        }
        check("follow=true&previous=false", Ok(Options { follow: true, ..Options::default() }));
        check("tail=all", Ok(Options::default()));
        check("tailLines=5", Ok(Options { tail_lines: Some(5), ..Options::default() }));
        let since = Some("2026-06-01T00:00:00Z".parse().unwrap());
        check("sinceSeconds=10", Ok(Options { since, ..Options::default() }));
        check("tailLines=x", Err(OptionsError::Undecodable));
        check("tailLines=-1", Err(OptionsError::Invalid));
        check("limitBytes=0", Err(OptionsError::Invalid));
        check("sinceSeconds=1&sinceTime=2026-06-01T00:00:00Z", Err(OptionsError::Invalid));
        check("stream=Stdout&tailLines=1", Err(OptionsError::Invalid));
    }
}
