//! Who asks the kubelet for what, and whether they may (upstream's kubelet authentication and
//! authorization: client certificates, TokenReview, SubjectAccessReview).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use auth::User;
use http::Method;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;

/// How long an accepted token is not reviewed again (upstream's `authentication.webhook.cacheTTL`).
const TOKEN_TTL: Duration = Duration::from_secs(120);
/// How long a refused token is not reviewed again.
const BAD_TOKEN_TTL: Duration = Duration::from_secs(10);
/// How long permissions and refusals hold (`authorization.webhook.cache{Una,A}uthorizedTTL`).
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
/// Answers remembered; when there are more, all are forgotten.
const MAX_CACHED: usize = 4096;

/// A question could not be answered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct AskError(pub String);

/// Asks the API who a token is and who may do what. Mockable; the API's is [`ApiReviews`].
#[async_trait]
pub trait Reviews: Send + Sync + 'static {
    /// The user of a token; `None` if it is not valid.
    async fn user_of_token(&self, token: &str) -> Result<Option<User>, AskError>;
    /// Whether a user may do this with this node.
    async fn may(&self, user: &User, access: &Access) -> Result<bool, AskError>;
}

/// What is asked of a node: a verb and a subresource of `nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Access {
    pub verb: &'static str,
    pub subresource: &'static str,
    pub node: String,
}

/// What a request needs, any one of these; the most specific first (upstream's
/// `GetRequestAttributes`, with fine-grained kubelet authorization).
pub fn accesses(method: &Method, path: &str, node: &str) -> Vec<Access> {
    let verb = match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let below =
        |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let mut subresources = Vec::new();
    for (prefix, subresource) in
        [("/pods", "pods"), ("/healthz", "healthz"), ("/configz", "configz"), ("/runningpods", "pods")]
    {
        if below(prefix) {
            subresources.push(subresource);
            break;
        }
    }
    let general = [
        ("/stats", "stats"),
        ("/metrics", "metrics"),
        ("/logs", "log"),
        ("/checkpoint", "checkpoint"),
        ("/statusz", "statusz"),
        ("/flagz", "configz"),
    ];
    subresources
        .push(general.into_iter().find(|(prefix, _)| below(prefix)).map_or("proxy", |(_, name)| name));
    subresources.into_iter().map(|subresource| Access { verb, subresource, node: node.to_owned() }).collect()
}

/// Why a request is not served: the status and the text that clients of the kubelet know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Unauthorized,
    Forbidden(String),
    Failed(String),
}

/// Decides on requests; remembers the answers of [`Reviews`].
pub struct Gate {
    reviews: Arc<dyn Reviews>,
    node: String,
    tokens: Cache<String, Option<User>>,
    permissions: Cache<(String, Vec<String>, Access), bool>,
}

impl Gate {
    pub fn new(reviews: Arc<dyn Reviews>, node: &str) -> Self {
        Self { reviews, node: node.to_owned(), tokens: Cache::default(), permissions: Cache::default() }
    }

    /// The user who asks, if they may. `certificate` is the client's, verified by TLS (DER), and
    /// `token` what the request bears.
    ///
    /// # Errors
    /// The refusal.
    pub async fn admit(
        &self,
        certificate: Option<&[u8]>,
        token: Option<&str>,
        method: &Method,
        path: &str,
        now: Instant,
    ) -> Result<User, Refusal> {
        let user = match (certificate.and_then(auth::x509::user), token) {
            (Some(user), _) => user,
            (None, Some(token)) => self.user_of_token(token, now).await?.ok_or(Refusal::Unauthorized)?,
            (None, None) => return Err(Refusal::Unauthorized),
        };
        let wanted = accesses(method, path, &self.node);
        for access in &wanted {
            let allowed = self.may(&user, access, now).await.map_err(|error| {
                tracing::error!(user = user.name, %error, "cannot authorize a request");
                let Access { verb, subresource, .. } = access;
                Refusal::Failed(format!(
                    "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                    user.name
                ))
            })?;
            if allowed {
                return Ok(user);
            }
        }
        let verb = wanted.first().map_or("", |access| access.verb);
        let names: Vec<&str> = wanted.iter().map(|access| access.subresource).collect();
        Err(Refusal::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            user.name,
            names.join(" ")
        )))
    }

    async fn user_of_token(&self, token: &str, now: Instant) -> Result<Option<User>, Refusal> {
        if let Some(user) = self.tokens.get(&token.to_owned(), now) {
            return Ok(user);
        }
        let user = self.reviews.user_of_token(token).await.map_err(|error| {
            tracing::error!(%error, "cannot review a token");
            Refusal::Unauthorized
        })?;
        let ttl = if user.is_some() { TOKEN_TTL } else { BAD_TOKEN_TTL };
        self.tokens.put(token.to_owned(), user.clone(), now + ttl);
        Ok(user)
    }

    async fn may(&self, user: &User, access: &Access, now: Instant) -> Result<bool, AskError> {
        let key = (user.name.clone(), user.groups.clone(), access.clone());
        if let Some(allowed) = self.permissions.get(&key, now) {
            return Ok(allowed);
        }
        let allowed = self.reviews.may(user, access).await?;
        self.permissions.put(key, allowed, now + if allowed { ALLOWED_TTL } else { DENIED_TTL });
        Ok(allowed)
    }
}

struct Cache<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    fn get(&self, key: &K, now: Instant) -> Option<V> {
        let entries = self.0.lock();
        entries.get(key).filter(|(_, until)| now < *until).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, until: Instant) {
        let mut entries = self.0.lock();
        if entries.len() >= MAX_CACHED {
            entries.clear();
        }
        entries.insert(key, (value, until));
    }
}

/// The API's reviews.
#[derive(Clone)]
pub struct ApiReviews {
    pub client: kube::Client,
}

#[async_trait]
impl Reviews for ApiReviews {
    async fn user_of_token(&self, token: &str) -> Result<Option<User>, AskError> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer =
            api.create(&PostParams::default(), &review).await.map_err(|e| AskError(e.to_string()))?;
        let status = answer.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Ok(None);
        }
        let info = status.user.unwrap_or_default();
        Ok(Some(User {
            name: info.username.unwrap_or_default(),
            uid: info.uid.unwrap_or_default(),
            groups: info.groups.unwrap_or_default(),
            extra: info.extra.unwrap_or_default(),
        }))
    }

    async fn may(&self, user: &User, access: &Access) -> Result<bool, AskError> {
        let resource = ResourceAttributes {
            verb: Some(access.verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(access.subresource.to_owned()),
            name: Some(access.node.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()),
            resource_attributes: Some(resource),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer =
            api.create(&PostParams::default(), &review).await.map_err(|e| AskError(e.to_string()))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn paths_need_the_subresources_that_upstream_asks_for() {
        #[track_caller]
        fn check(method: Method, path: &str, expect: &str) {
            let all: Vec<String> = accesses(&method, path, "n1")
                .into_iter()
                .map(|access| format!("{} {}", access.verb, access.subresource))
                .collect();
            assert_eq!(all.join(", "), expect);
        }
        check(Method::GET, "/containerLogs/ns/pod/c", "get proxy");
        check(Method::POST, "/exec/ns/pod/c", "create proxy");
        check(Method::GET, "/stats/summary", "get stats");
        check(Method::GET, "/metrics/resource", "get metrics");
        check(Method::GET, "/logs/messages", "get log");
        check(Method::GET, "/pods", "get pods, get proxy");
        check(Method::GET, "/runningpods/", "get pods, get proxy");
        check(Method::GET, "/healthz", "get healthz, get proxy");
        check(Method::GET, "/podsbutnot", "get proxy");
    }

    struct Fixed {
        asked: AtomicUsize,
    }

    #[async_trait]
    impl Reviews for Fixed {
        async fn user_of_token(&self, token: &str) -> Result<Option<User>, AskError> {
            Ok((token == "good").then(|| User { name: "reader".into(), ..User::default() }))
        }
        async fn may(&self, _: &User, access: &Access) -> Result<bool, AskError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Ok(access.subresource == "metrics")
        }
    }

    #[tokio::test]
    async fn a_token_is_reviewed_and_the_answer_remembered() {
        let reviews = Arc::new(Fixed { asked: AtomicUsize::new(0) });
        let gate = Gate::new(reviews.clone(), "n1");
        let now = Instant::now();
        let ask = async |token: Option<&str>, path: &str, now| {
            gate.admit(None, token, &Method::GET, path, now).await.map(|user| user.name)
        };
        assert_eq!(ask(None, "/metrics", now).await, Err(Refusal::Unauthorized));
        assert_eq!(ask(Some("bad"), "/metrics", now).await, Err(Refusal::Unauthorized));
        assert_eq!(ask(Some("good"), "/metrics", now).await, Ok("reader".into()));
        assert_eq!(ask(Some("good"), "/metrics", now).await, Ok("reader".into()));
        assert_eq!(reviews.asked.load(Ordering::Relaxed), 1);
        assert_eq!(
            ask(Some("good"), "/pods", now).await,
            Err(Refusal::Forbidden(
                "Forbidden (user=reader, verb=get, resource=nodes, subresource(s)=[pods proxy])\n".into()
            ))
        );
        // a permission is asked for again when it is old
        let _ = ask(Some("good"), "/metrics", now + ALLOWED_TTL).await;
        assert_eq!(reviews.asked.load(Ordering::Relaxed), 4);
    }
}
