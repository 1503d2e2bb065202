//! Delegated authentication and authorization: a component asks the API server who bears a token and who may do
//! what (TokenReview, SubjectAccessReview), and remembers the answers for a while.

use async_trait::async_trait;
use auth::User;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Answers remembered, of each sort; when there are more, all are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// A question could not be answered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct AskError(pub String);

/// What somebody wants to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Access {
    /// With a subresource of `nodes`.
    Node { verb: &'static str, subresource: &'static str, node: String },
    /// With a path that is no resource.
    Path { verb: String, path: String },
}

/// Whoever knows; the API server is [`ApiReviews`].
#[async_trait]
pub trait Reviews: Send + Sync + 'static {
    /// The user of a token; `None` if it is not valid.
    async fn user_of_token(&self, token: &str) -> Result<Option<User>, AskError>;
    async fn may(&self, user: &User, access: &Access) -> Result<bool, AskError>;
}

/// How long answers hold.
#[derive(Debug, Clone, Copy)]
pub struct Ttls {
    pub token: Duration,
    pub bad_token: Duration,
    pub allowed: Duration,
    pub denied: Duration,
}

/// Asks, and remembers.
pub struct Delegated {
    reviews: Arc<dyn Reviews>,
    ttls: Ttls,
    tokens: Remembered<String, Option<User>>,
    permissions: Remembered<(String, Vec<String>, Access), bool>,
}

impl Delegated {
    pub fn new(reviews: Arc<dyn Reviews>, ttls: Ttls) -> Self {
        Self { reviews, ttls, tokens: Remembered::default(), permissions: Remembered::default() }
    }

    /// The user of a token; `None` if it is not valid, or the API server did not say.
    pub async fn user_of_token(&self, token: &str, now: Instant) -> Option<User> {
        if let Some(user) = self.tokens.get(&token.to_owned(), now) {
            return user;
        }
        let asked = self.reviews.user_of_token(token).await;
        let user = asked.inspect_err(|error| tracing::error!(%error, "cannot review a token")).ok()?;
        let ttl = if user.is_some() { self.ttls.token } else { self.ttls.bad_token };
        self.tokens.put(token.to_owned(), user.clone(), now + ttl);
        user
    }

    /// Whether a user may.
    ///
    /// # Errors
    /// The API server gave no answer.
    pub async fn may(&self, user: &User, access: &Access, now: Instant) -> Result<bool, AskError> {
        let question = (user.name.clone(), user.groups.clone(), access.clone());
        if let Some(allowed) = self.permissions.get(&question, now) {
            return Ok(allowed);
        }
        let allowed = self.reviews.may(user, access).await?;
        let ttl = if allowed { self.ttls.allowed } else { self.ttls.denied };
        self.permissions.put(question, allowed, now + ttl);
        Ok(allowed)
    }
}

struct Remembered<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Hash + Eq, V: Clone> Remembered<K, V> {
    fn get(&self, key: &K, now: Instant) -> Option<V> {
        let entries = self.0.lock();
        entries.get(key).filter(|(_, until)| now < *until).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, until: Instant) {
        let mut entries = self.0.lock();
        if entries.len() >= MAX_REMEMBERED {
            entries.clear();
        }
        entries.insert(key, (value, until));
    }
}

/// The API server's reviews.
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
        let mut spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()),
            ..SubjectAccessReviewSpec::default()
        };
        match access {
            Access::Node { verb, subresource, node } => {
                spec.resource_attributes = Some(ResourceAttributes {
                    verb: Some((*verb).to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some((*subresource).to_owned()),
                    name: Some(node.clone()),
                    ..ResourceAttributes::default()
                });
            }
            Access::Path { verb, path } => {
                spec.non_resource_attributes =
                    Some(NonResourceAttributes { verb: Some(verb.clone()), path: Some(path.clone()) });
            }
        }
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer =
            api.create(&PostParams::default(), &review).await.map_err(|e| AskError(e.to_string()))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}
