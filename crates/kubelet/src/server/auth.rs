//! Who asks the kubelet for what, and whether they may (upstream's kubelet authentication and
//! authorization: client certificates, TokenReview, SubjectAccessReview).

use std::sync::Arc;
use std::time::{Duration, Instant};

use auth::User;
use client::delegated::{Access, Delegated, Reviews, Ttls};
use http::Method;

/// Upstream's `authentication.webhook.cacheTTL` and `authorization.webhook.cache{Una,A}uthorizedTTL`.
const TTLS: Ttls = Ttls {
    token: Duration::from_secs(120),
    bad_token: Duration::from_secs(10),
    allowed: Duration::from_secs(300),
    denied: Duration::from_secs(30),
};

/// The verb of a request, and the subresources of `nodes` any one of which it needs; the most specific first
/// (upstream's `GetRequestAttributes`, with fine-grained kubelet authorization).
fn needs(method: &Method, path: &str) -> (&'static str, Vec<&'static str>) {
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
    (verb, subresources)
}

/// Why a request is not served: the status and the text that clients of the kubelet know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Unauthorized,
    Forbidden(String),
    Failed(String),
}

/// Decides on requests.
pub struct Gate {
    api: Delegated,
    node: String,
}

impl Gate {
    pub fn new(reviews: Arc<dyn Reviews>, node: &str) -> Self {
        Self { api: Delegated::new(reviews, TTLS), node: node.to_owned() }
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
            (None, Some(token)) => self.api.user_of_token(token, now).await.ok_or(Refusal::Unauthorized)?,
            (None, None) => return Err(Refusal::Unauthorized),
        };
        let (verb, subresources) = needs(method, path);
        for subresource in &subresources {
            let access = Access::Node { verb, subresource, node: self.node.clone() };
            let allowed = self.api.may(&user, &access, now).await.map_err(|error| {
                tracing::error!(user = user.name, %error, "cannot authorize a request");
                Refusal::Failed(format!(
                    "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                    user.name
                ))
            })?;
            if allowed {
                return Ok(user);
            }
        }
        Err(Refusal::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            user.name,
            subresources.join(" ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use client::delegated::AskError;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn paths_need_the_subresources_that_upstream_asks_for() {
        #[track_caller]
        fn check(method: Method, path: &str, expect: &str) {
            let (verb, subresources) = needs(&method, path);
            let all: Vec<String> = subresources.iter().map(|s| format!("{verb} {s}")).collect();
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
            Ok(matches!(access, Access::Node { subresource: "metrics", .. }))
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
        let _ = ask(Some("good"), "/metrics", now + TTLS.allowed).await;
        assert_eq!(reviews.asked.load(Ordering::Relaxed), 4);
    }
}
