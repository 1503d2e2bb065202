//! `/healthz`, `/livez`, `/readyz` and their checks one by one, and `/version`.

use super::respond;
use crate::request::Response;
use http::StatusCode;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use url::form_urlencoded;

/// The Kubernetes version that is served; also the kubelets' and the client tools'.
pub const VERSION: &str = concat!("v1.36.0+ironclad.", env!("CARGO_PKG_VERSION"));

/// What the checks look at.
#[derive(Debug, Default)]
pub struct Health {
    /// The bootstrap objects are there.
    pub bootstrapped: AtomicBool,
    pub shutting_down: AtomicBool,
    /// Why the store does not answer; unset while it does.
    pub store: parking_lot::RwLock<Option<String>>,
}

/// Name, whether it counts for `/readyz` only, and how it is.
type Check = (&'static str, bool, fn(&Health) -> Result<(), String>);

fn fine(_: &Health) -> Result<(), String> {
    Ok(())
}

fn store(h: &Health) -> Result<(), String> {
    h.store.read().as_ref().map_or(Ok(()), |why| Err(why.clone()))
}

fn bootstrapped(h: &Health) -> Result<(), String> {
    if h.bootstrapped.load(Ordering::Acquire) { Ok(()) } else { Err("not finished".into()) }
}

fn shutdown(h: &Health) -> Result<(), String> {
    if h.shutting_down.load(Ordering::Acquire) { Err("process is shutting down".into()) } else { Ok(()) }
}

static CHECKS: [Check; 7] = [
    ("ping", false, fine),
    ("log", false, fine),
    ("etcd", false, store),
    ("etcd-readiness", true, store),
    ("poststarthook/rbac/bootstrap-roles", false, bootstrapped),
    ("poststarthook/start-system-namespaces-controller", false, bootstrapped),
    ("shutdown", true, shutdown),
];

impl Health {
    /// Answers below `/healthz`, `/livez` and `/readyz`; None for other paths.
    pub fn answer(&self, path: &str, query: &str) -> Option<Response> {
        let path = path.trim_end_matches('/');
        let (endpoint, one) = ["healthz", "livez", "readyz"].into_iter().find_map(|e| {
            let rest = path.strip_prefix('/')?.strip_prefix(e)?;
            if rest.is_empty() { Some((e, None)) } else { rest.strip_prefix('/').map(|c| (e, Some(c))) }
        })?;
        let mut checks = CHECKS.iter().filter(|(_, ready_only, _)| !ready_only || endpoint == "readyz");
        if let Some(one) = one {
            let (_, _, check) = checks.find(|(name, ..)| *name == one)?;
            return Some(match check(self) {
                Ok(()) => respond::text(StatusCode::OK, "ok"),
                Err(why) => respond::text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("internal server error: {why}\n"),
                ),
            });
        }
        let parameters: Vec<(String, String)> =
            form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let verbose = parameters.iter().any(|(k, _)| k == "verbose");
        let excluded = |name: &str| parameters.iter().any(|(k, v)| k == "exclude" && v == name);
        let (mut lines, mut failed) = (String::new(), false);
        for (name, _, check) in checks {
            if excluded(name) {
                let _ = writeln!(lines, "[+]{name} excluded: ok");
            } else if let Err(why) = check(self) {
                failed = true;
                tracing::warn!(check = name, why, "{endpoint} check failed");
                let _ = writeln!(lines, "[-]{name} failed: reason withheld");
            } else {
                let _ = writeln!(lines, "[+]{name} ok");
            }
        }
        if failed {
            let _ = write!(lines, "{endpoint} check failed");
            return Some(respond::text(StatusCode::INTERNAL_SERVER_ERROR, lines + "\n"));
        }
        if !verbose {
            return Some(respond::text(StatusCode::OK, "ok"));
        }
        let _ = writeln!(lines, "{endpoint} check passed");
        Some(respond::text(StatusCode::OK, lines))
    }
}

/// The body of `/version` (version.Info).
pub fn version() -> &'static Value {
    static INFO: OnceLock<Value> = OnceLock::new();
    INFO.get_or_init(|| {
        json!({
            "major": "1",
            "minor": "36",
            "emulationMajor": "1",
            "emulationMinor": "36",
            "minCompatibilityMajor": "1",
            "minCompatibilityMinor": "35",
            "gitVersion": VERSION,
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "rustc",
            "platform": format!("linux/{}", platform()),
        })
    })
}

/// The processor in Go's words, as images and node labels have it.
pub fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn readiness_says_what_is_missing() {
        let health = Health::default();
        let check = async |path: &str, query: &str, code: u16, text: &str| {
            let response = health.answer(path, query).unwrap();
            assert_eq!(response.status(), code, "{path}?{query}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&body).contains(text), "{path}: {body:?}");
        };
        check("/readyz", "", 500, "[-]poststarthook/rbac/bootstrap-roles failed: reason withheld").await;
        check("/livez/ping", "", 200, "ok").await;
        health.bootstrapped.store(true, Ordering::Release);
        check("/readyz", "", 200, "ok").await;
        check("/healthz", "verbose", 200, "[+]etcd ok\n").await;
        check("/readyz/", "verbose", 200, "readyz check passed").await;
        health.shutting_down.store(true, Ordering::Release);
        check("/livez", "", 200, "ok").await;
        check("/readyz", "exclude=shutdown&verbose", 200, "[+]shutdown excluded: ok").await;
        check("/readyz/shutdown", "", 500, "process is shutting down").await;
        assert!(health.answer("/readyzz", "").is_none() && health.answer("/livez/none", "").is_none());
    }
}
