//! Names of images, by the grammar of the distribution project's `reference` package: what container
//! runtimes and registries go by.

use std::fmt;

/// Longest repository path, without the registry.
const PATH_LIMIT: usize = 255;
/// Longest tag.
const TAG_LIMIT: usize = 128;
/// Fewest digits of a digest.
const DIGEST_DIGITS: usize = 32;
/// The registry of names that tell none, and the part of it where names of one word are.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_PATH: &str = "library";

/// Why a text names no image, in the words of the distribution project.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("repository name must not be more than {PATH_LIMIT} characters")]
    TooLong,
}

/// The parts of an image's name, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    registry: Option<&'a str>,
    path: &'a str,
    pub tag: Option<&'a str>,
    pub digest: Option<&'a str>,
}

impl<'a> Reference<'a> {
    /// # Errors
    /// A text that is no name of an image.
    pub fn parse(text: &'a str) -> Result<Self, ReferenceError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let last = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name[last..].find(':') {
            Some(colon) => (&name[..last + colon], Some(&name[last + colon + 1..])),
            None => (name, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (Some(first), rest),
            _ => (None, name),
        };
        let reference = Self { registry, path, tag, digest };
        let sound = registry.is_none_or(host) && tag.is_none_or(valid_tag) && digest.is_none_or(valid_digest);
        if path.chars().any(|c| c.is_ascii_uppercase()) && path.to_ascii_lowercase().split('/').all(component)
        {
            return Err(ReferenceError::Uppercase(reference.filled_path()));
        }
        if !sound || !path.split('/').all(component) {
            return Err(ReferenceError::Format);
        }
        if path.len() > PATH_LIMIT {
            return Err(ReferenceError::TooLong);
        }
        Ok(reference)
    }

    fn filled_path(&self) -> String {
        match self.registry {
            None if !self.path.contains('/') => format!("{DEFAULT_PATH}/{}", self.path),
            _ => self.path.to_owned(),
        }
    }

    /// The registry and the path in it: `docker.io/library/busybox`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry.unwrap_or(DEFAULT_REGISTRY), self.filled_path())
    }
}

/// The whole name, with the registry, path and tag that go without saying:
/// `docker.io/library/busybox:latest`.
impl fmt::Display for Reference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository())?;
        if let Some(tag) = self.tag.or(self.digest.is_none().then_some("latest")) {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// The first part of a name is a registry if no path on the default registry could look like it.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(|c| c.is_ascii_uppercase())
}

fn host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (text, None),
    };
    let label = |label: &str| {
        label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let v6 = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    port.is_none_or(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit()))
        && v6.map_or_else(|| name.split('.').all(label), |v6| v6.parse::<std::net::Ipv6Addr>().is_ok())
}

/// Words of letters and digits, with `.`, `_`, `__` or dashes between.
fn component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |s: &str| matches!(s, "." | "_" | "__") || s.chars().all(|c| c == '-');
    text.starts_with(word) && text.ends_with(word) && text.split(word).all(separator)
}

fn valid_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.starts_with(word) && tag.len() <= TAG_LIMIT && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// `algorithm:hex`; the digits of algorithms that are known are as many as those of their sums.
fn valid_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let digits = match algorithm {
        "sha256" => hex.len() == 64,
        "sha384" => hex.len() == 96,
        "sha512" => hex.len() == 128,
        _ => hex.len() >= DIGEST_DIGITS,
    };
    let part = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_alphabetic()) && p.chars().all(|c| c.is_ascii_alphanumeric())
    };
    digits && hex.chars().all(|c| c.is_ascii_hexdigit()) && algorithm.split(['-', '_', '+', '.']).all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in_or_refused() {
        #[track_caller]
        fn check(text: &str, expect: Result<&str, &str>) {
            let seen = Reference::parse(text).map(|r| r.to_string()).map_err(|e| e.to_string());
            assert_eq!(seen, expect.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
        let sum = "a".repeat(64);
        check("busybox", Ok("docker.io/library/busybox:latest"));
        check("team/app:1", Ok("docker.io/team/app:1"));
        check("reg:5000/a/b", Ok("reg:5000/a/b:latest"));
        check("localhost/a", Ok("localhost/a:latest"));
        check("[::1]:5000/a", Ok("[::1]:5000/a:latest"));
        check("ghcr.io/a__b/c--d", Ok("ghcr.io/a__b/c--d:latest"));
        check(&format!("box@sha256:{sum}"), Ok(&format!("docker.io/library/box@sha256:{sum}")));
        check(&format!("box:1@sha256:{sum}"), Ok(&format!("docker.io/library/box:1@sha256:{sum}")));
        check("Foo", Err("invalid reference format: repository name (library/Foo) must be lowercase"));
        check("a/Foo:1", Err("invalid reference format: repository name (a/Foo) must be lowercase"));
        for bad in ["", "a b", "x:", ":1", "a//b", "-a", "a.-b", "r:x/a", "box@sha256:12", "a:.b"] {
            check(bad, Err("invalid reference format"));
        }
        check(&"a".repeat(256), Err("repository name must not be more than 255 characters"));
    }
}
