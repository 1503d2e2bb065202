//! Images: whether to pull, with which credentials, and what to say about it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use cri::reference::Reference;
use cri::{ImageApi, v1};
use k8s_openapi::api::core::v1::Secret;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use sha2::{Digest, Sha256};

use crate::pulled::{Pulled, Source};
use crate::security::ImageUser;
use crate::sync::{Backoff, IMAGE_BACKOFF};

/// Why a container cannot start: reason and message of its waiting state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct StartError {
    pub reason: &'static str,
    pub message: String,
}

impl StartError {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// An event about an image.
pub struct ImageEvent {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyImage {
    pub id: String,
    pub user: ImageUser,
}

/// The images of the node.
pub struct Images {
    api: Arc<dyn ImageApi>,
    pulls: Semaphore,
    pulled: Pulled,
    failures: Mutex<Failures>,
}

#[derive(Default)]
struct Failures {
    backoff: HashMap<String, (Backoff, meta::Time)>,
    messages: HashMap<String, String>,
}

/// What a container asks for.
pub struct Request<'a> {
    pub pod_uid: &'a str,
    pub image: &'a str,
    pub policy: &'a str,
    pub secrets: &'a [&'a Secret],
    pub sandbox: v1::PodSandboxConfig,
}

impl Images {
    /// `parallel`: pulls at the same time; without bound if `None`.
    pub fn new(api: Arc<dyn ImageApi>, pulled: Pulled, parallel: Option<usize>) -> Self {
        let pulls = Semaphore::new(parallel.unwrap_or(Semaphore::MAX_PERMITS));
        Self { api, pulls, pulled, failures: Mutex::default() }
    }

    /// Forgets who pulled images that are gone.
    pub fn keep(&self, exists: impl Fn(&str) -> bool) {
        self.pulled.keep(exists);
    }

    /// The image, pulled if the policy says so; events go to `tell`.
    ///
    /// # Errors
    /// The state in which the container waits.
    pub async fn ensure(
        &self,
        request: &Request<'_>,
        now: meta::Time,
        tell: &(dyn Fn(ImageEvent) + Send + Sync),
    ) -> Result<ReadyImage, StartError> {
        let image = request.image;
        let full = match default_tag(image) {
            Ok(full) => full,
            Err(e) => {
                let message = format!("Failed to apply default image tag {image:?}: {e}");
                tell(ImageEvent { warning: true, reason: "InspectFailed", message: message.clone() });
                return Err(StartError::new("InvalidImageName", message));
            }
        };
        let never = || {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            tell(ImageEvent { warning: true, reason: "ErrImageNeverPull", message: message.clone() });
            Err(StartError::new("ErrImageNeverPull", message))
        };
        if request.policy != "Always" {
            match self.find(&full).await {
                Err(e) => {
                    let message = format!("Failed to inspect image {image:?}: {e}");
                    tell(ImageEvent { warning: true, reason: "InspectFailed", message: message.clone() });
                    return Err(StartError::new("ImageInspectError", message));
                }
                Ok(Some(ready)) if self.accessible(&ready.id, &full, request) => {
                    let message = format!(
                        "Container image {image:?} already present on machine and can be accessed by the pod"
                    );
                    tell(ImageEvent { warning: false, reason: "Pulled", message });
                    return Ok(ready);
                }
                // what a pod may not use is as if it were not there
                Ok(_) if request.policy == "Never" => return never(),
                Ok(_) => {}
            }
        }
        self.pull(request, &full, now, tell).await
    }

    /// Whether the pod may use the image that is there.
    fn accessible(&self, id: &str, full: &str, request: &Request<'_>) -> bool {
        let own: Vec<Source> = credentials_for(full, request.secrets).into_iter().map(|c| c.source).collect();
        let repository = Reference::parse(full).map(|name| name.repository()).unwrap_or_default();
        self.pulled.may_use(id, full, &repository, &own)
    }

    async fn find(&self, image: &str) -> cri::Result<Option<ReadyImage>> {
        let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        Ok(self.api.image_status(spec).await?.map(|i| ReadyImage {
            user: ImageUser { uid: i.uid.map(|u| u.value), username: i.username },
            id: i.id,
        }))
    }

    async fn pull(
        &self,
        request: &Request<'_>,
        full: &str,
        now: meta::Time,
        tell: &(dyn Fn(ImageEvent) + Send + Sync),
    ) -> Result<ReadyImage, StartError> {
        let image = request.image;
        let key = format!("{}_{image}", request.pod_uid);
        if let Some(message) = self.backing_off(&key, image, now) {
            let text = format!("Back-off pulling image {image:?}");
            tell(ImageEvent { warning: false, reason: "BackOff", message: text });
            return Err(StartError::new("ImagePullBackOff", message));
        }
        tell(ImageEvent { warning: false, reason: "Pulling", message: format!("Pulling image {image:?}") });
        let start = Instant::now();
        self.pulled.begin(full);
        let permit = self.pulls.acquire().await;
        let pull_start = Instant::now();
        let result = self.pull_with_any(full, request).await;
        let (pulled, waited) = (pull_start.elapsed(), start.elapsed());
        drop(permit);
        let id = match result {
            Ok((id, source)) => {
                let repository = Reference::parse(full).map(|name| name.repository()).unwrap_or_default();
                self.pulled.succeeded(&id, full, &repository, source);
                id
            }
            Err(text) => {
                self.pulled.failed(full);
                let message = format!("Failed to pull image {image:?}: {text}");
                tell(ImageEvent { warning: true, reason: "Failed", message });
                let error = classify(image, &text);
                let mut failures = self.failures.lock();
                failures.messages.insert(key.clone(), format!("{}: {}", error.reason, error.message));
                let entry = failures.backoff.entry(key.clone()).or_insert_with(|| (Backoff::default(), now));
                entry.0.raise(&key, now, now, IMAGE_BACKOFF);
                entry.1 = now;
                return Err(error);
            }
        };
        self.forget(&key);
        let spec = v1::ImageSpec { image: id.clone(), ..Default::default() };
        let status = self.api.image_status(spec).await.ok().flatten();
        let size = status.as_ref().map_or(0, |s| s.size);
        let message = format!(
            "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {size} bytes.",
            go_duration(pulled),
            go_duration(waited),
        );
        tell(ImageEvent { warning: false, reason: "Pulled", message });
        let user = status
            .map(|s| ImageUser { uid: s.uid.map(|u| u.value), username: s.username })
            .unwrap_or_default();
        Ok(ReadyImage { id, user })
    }

    /// The message while the image must wait after failures.
    fn backing_off(&self, key: &str, image: &str, now: meta::Time) -> Option<String> {
        let failures = self.failures.lock();
        let (backoff, since) = failures.backoff.get(key)?;
        backoff.until(key, *since, now, IMAGE_BACKOFF)?;
        let text = format!("Back-off pulling image {image:?}");
        Some(failures.messages.get(key).map_or(text.clone(), |before| format!("{text}: {before}")))
    }

    /// When the next pull may be tried.
    pub fn retry_at(&self, pod_uid: &str, image: &str, now: meta::Time) -> Option<meta::Time> {
        let key = format!("{pod_uid}_{image}");
        let failures = self.failures.lock();
        let (backoff, since) = failures.backoff.get(&key)?;
        backoff.until(&key, *since, now, IMAGE_BACKOFF)
    }

    fn forget(&self, key: &str) {
        let mut failures = self.failures.lock();
        failures.backoff.remove(key);
        failures.messages.remove(key);
    }

    /// Forgets what is remembered about a pod that is gone.
    pub fn forget_pod(&self, pod_uid: &str) {
        let prefix = format!("{pod_uid}_");
        let mut failures = self.failures.lock();
        failures.backoff.retain(|key, _| !key.starts_with(&prefix));
        failures.messages.retain(|key, _| !key.starts_with(&prefix));
    }

    /// Tries each fitting credential, or none at all; tells which one it was. The error is that of every attempt.
    async fn pull_with_any(
        &self,
        image: &str,
        request: &Request<'_>,
    ) -> Result<(String, Option<Source>), String> {
        let credentials = credentials_for(image, request.secrets);
        let attempts: Vec<Option<Credential>> =
            if credentials.is_empty() { vec![None] } else { credentials.into_iter().map(Some).collect() };
        let mut errors: Vec<String> = Vec::new();
        for credential in attempts {
            let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
            let (auth, source) = credential.map(|c| (c.auth, c.source)).unzip();
            match self.api.pull_image(spec, auth, Some(request.sandbox.clone())).await {
                Ok(id) => return Ok((id, source)),
                Err(e) => errors.push(e.to_string()),
            }
        }
        errors.dedup();
        match errors.as_slice() {
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

/// The waiting state after a failed pull.
fn classify(image: &str, text: &str) -> StartError {
    let marked = |mark: &str| text.split_once(mark).map(|(_, rest)| rest.to_owned());
    if let Some(rest) = marked("RegistryUnavailable") {
        let message = format!("image pull failed for {image} because the registry is unavailable{rest}");
        return StartError::new("RegistryUnavailable", message);
    }
    if let Some(rest) = marked("SignatureValidationFailed") {
        let message = format!("image pull failed for {image} because the signature validation failed{rest}");
        return StartError::new("SignatureValidationFailed", message);
    }
    StartError::new("ErrImagePull", text)
}

/// The image with `:latest` if it has neither tag nor digest.
///
/// # Errors
/// A name that is no image reference, in the registry library's words.
pub fn default_tag(image: &str) -> Result<String, String> {
    let name =
        Reference::parse(image).map_err(|why| format!("couldn't parse image name {image:?}: {why}"))?;
    let whole = name.tag.is_some() || name.digest.is_some();
    Ok(if whole { image.to_owned() } else { format!("{image}:latest") })
}

#[derive(serde::Deserialize, Default)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(serde::Deserialize, Default, Clone)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

/// What to pull with, and where it is from.
#[derive(Clone, Debug)]
pub struct Credential {
    pub auth: v1::AuthConfig,
    pub source: Source,
}

/// The credentials of the secrets that fit the image, the closest first.
pub fn credentials_for(image: &str, secrets: &[&Secret]) -> Vec<Credential> {
    let Ok(path) = Reference::parse(image).map(|name| name.repository()) else { return Vec::new() };
    let mut found: Vec<(usize, Credential)> = Vec::new();
    for secret in secrets {
        let data = secret.data.as_ref();
        let config = match secret.type_.as_deref() {
            Some("kubernetes.io/dockercfg") => data
                .and_then(|d| d.get(".dockercfg"))
                .and_then(|b| serde_json::from_slice(&b.0).ok())
                .map(|auths| DockerConfig { auths }),
            _ => {
                data.and_then(|d| d.get(".dockerconfigjson")).and_then(|b| serde_json::from_slice(&b.0).ok())
            }
        };
        for (server, auth) in config.unwrap_or_default().auths {
            if let Some(closeness) = fits(&server, &path) {
                let auth = to_auth(&auth);
                let source = source_of(secret, &auth);
                found.push((closeness, Credential { auth, source }));
            }
        }
    }
    found.sort_by_key(|(closeness, _)| std::cmp::Reverse(*closeness));
    found.into_iter().map(|(_, credential)| credential).collect()
}

fn source_of(secret: &Secret, auth: &v1::AuthConfig) -> Source {
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    let mut hasher = Sha256::new();
    for part in [&auth.username, &auth.password, &auth.identity_token, &auth.server_address] {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    Source {
        uid: text(&secret.metadata.uid),
        namespace: text(&secret.metadata.namespace),
        name: text(&secret.metadata.name),
        hash: hasher.finalize().iter().map(|b| format!("{b:02x}")).collect(),
    }
}

/// Without the server's address: the credential was chosen for this pull, and runtimes take an address only with a
/// scheme before it.
fn to_auth(auth: &DockerAuth) -> v1::AuthConfig {
    let mut config = v1::AuthConfig {
        username: auth.username.clone(),
        password: auth.password.clone(),
        identity_token: auth.identitytoken.clone(),
        ..Default::default()
    };
    let decoded = base64::engine::general_purpose::STANDARD.decode(&auth.auth).ok();
    if let Some((user, password)) =
        decoded.and_then(|d| String::from_utf8(d).ok()).as_deref().and_then(|t| t.split_once(':'))
    {
        config.username = user.to_owned();
        config.password = password.trim_end_matches('\0').to_owned();
    }
    config
}

/// How closely an entry of a credential file fits a repository; `None` if not. Host names match part by
/// part with `*`, paths as prefixes.
fn fits(server: &str, path: &str) -> Option<usize> {
    let server = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let server = server.strip_suffix("/v1").or_else(|| server.strip_suffix("/v2")).unwrap_or(server);
    let server = server.trim_end_matches('/');
    let server = if server == "index.docker.io" { "docker.io" } else { server };
    let (host, prefix) = server.split_once('/').unwrap_or((server, ""));
    let (image_host, repository) = path.split_once('/')?;
    let (pattern, port) = host.split_once(':').unwrap_or((host, ""));
    let (image_name, image_port) = image_host.split_once(':').unwrap_or((image_host, ""));
    let parts: Vec<_> = pattern.split('.').collect();
    let image_parts: Vec<_> = image_name.split('.').collect();
    let same = parts.len() == image_parts.len() && parts.iter().zip(&image_parts).all(|(p, i)| glob(p, i));
    (same && port == image_port && repository.starts_with(prefix)).then_some(server.len())
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => {
            text.len() >= head.len() + tail.len() && text.starts_with(head) && text.ends_with(tail)
        }
    }
}

/// A duration to the millisecond in Go's form: `1.234s`, `57ms`, `1m2.5s`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".into();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let text = format!("{}.{:03}", rest / 1000, rest % 1000);
    let seconds = text.trim_end_matches('0').trim_end_matches('.');
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_their_tag_or_are_refused() {
        #[track_caller]
        fn check(image: &str, expect: Result<&str, &str>) {
            let expect = expect
                .map(str::to_owned)
                .map_err(|why| format!("couldn't parse image name {image:?}: invalid reference format{why}"));
            assert_eq!(default_tag(image), expect);
        }
        check("busybox", Ok("busybox:latest"));
        check("reg:5000/a/b", Ok("reg:5000/a/b:latest"));
        check("a/b:1.2", Ok("a/b:1.2"));
        check("Foo", Err(": repository name (library/Foo) must be lowercase"));
        check("a b", Err(""));
        check("x:", Err(""));
        check(":1", Err(""));
    }

    #[test]
    fn the_closest_credential_comes_first() {
        let secret = |json: serde_json::Value| -> Secret {
            let text = base64::engine::general_purpose::STANDARD.encode(json.to_string());
            serde_json::from_value(serde_json::json!({
                "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": text},
            }))
            .unwrap()
        };
        let auths = secret(serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "reg.example.com": {"username": "a", "password": "1"},
            "reg.example.com/team": {"username": "b", "password": "2"},
            "*.example.com": {"username": "c", "password": "3"},
        }}));
        #[track_caller]
        fn check(auths: &Secret, image: &str, expect: &[&str]) {
            let users: Vec<_> =
                credentials_for(image, &[auths]).into_iter().map(|c| c.auth.username).collect();
            assert_eq!(users, expect);
        }
        check(&auths, "busybox:1", &["hub"]);
        check(&auths, "reg.example.com/team/x:1", &["b", "a", "c"]);
        check(&auths, "other.example.com/x", &["c"]);
        check(&auths, "quay.io/x", &[]);
    }

    #[test]
    fn durations_read_as_in_go() {
        for (millis, expect) in [(57, "57ms"), (1234, "1.234s"), (2000, "2s"), (62_500, "1m2.5s")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), expect);
        }
    }
}
