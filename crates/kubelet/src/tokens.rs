//! Service account tokens for projected volumes: requested from the API, bound to the pod, renewed in time.

use std::collections::HashMap;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client};
use meta::Time;
use parking_lot::Mutex;

/// A token is renewed at the latest when it is this old, in seconds.
const MAX_AGE_SECONDS: i64 = 24 * 3600;
/// ... or when this part of its life, in percent, is over.
const RENEW_PERCENT: i64 = 80;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TokenKey {
    pod_uid: String,
    audience: String,
    expiration_seconds: i64,
}

#[derive(Clone)]
struct Cached {
    token: String,
    renew_at: Time,
    expires_at: Time,
}

/// The tokens in use on this node.
pub struct Tokens {
    client: Client,
    cache: Mutex<HashMap<TokenKey, Cached>>,
}

/// When a token that lives from `issued` to `expires` is to be renewed. Pure.
fn renew_at(issued: Time, expires: Time) -> Time {
    let life = (expires.as_second() - issued.as_second()).max(0);
    let wait = (life * RENEW_PERCENT / 100).min(MAX_AGE_SECONDS);
    crate::sync::later(issued, wait)
}

impl Tokens {
    pub fn new(client: Client) -> Self {
        Self { client, cache: Mutex::default() }
    }

    /// All tokens that the pod's projected volumes want, by (volume, path), and when the first is due.
    ///
    /// # Errors
    /// The API's refusal, unless an older token is still good.
    pub async fn of_pod(
        &self,
        pod: &Pod,
        now: Time,
    ) -> Result<(std::collections::BTreeMap<(String, String), String>, Option<Time>), kube::Error> {
        let mut tokens = std::collections::BTreeMap::new();
        let mut due: Option<Time> = None;
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
                let Some(wanted) = &source.service_account_token else { continue };
                let key = TokenKey {
                    pod_uid: pod.metadata.uid.clone().unwrap_or_default(),
                    audience: wanted.audience.clone().unwrap_or_default(),
                    expiration_seconds: wanted.expiration_seconds.unwrap_or(3600),
                };
                let cached = self.get(pod, key, now).await?;
                due = Some(due.map_or(cached.renew_at, |d| d.min(cached.renew_at)));
                tokens.insert((volume.name.clone(), wanted.path.clone()), cached.token);
            }
        }
        Ok((tokens, due))
    }

    async fn get(&self, pod: &Pod, key: TokenKey, now: Time) -> Result<Cached, kube::Error> {
        let known = self.cache.lock().get(&key).cloned();
        if let Some(cached) = known.as_ref().filter(|c| now < c.renew_at) {
            return Ok(cached.clone());
        }
        match self.request(pod, &key, now).await {
            Ok(fresh) => {
                self.cache.lock().insert(key, fresh.clone());
                Ok(fresh)
            }
            Err(e) => match known.filter(|c| now < c.expires_at) {
                Some(old) => {
                    tracing::warn!(error = %e, "a service account token cannot be renewed yet");
                    Ok(Cached { renew_at: crate::sync::later(now, 60), ..old })
                }
                None => Err(e),
            },
        }
    }

    async fn request(&self, pod: &Pod, key: &TokenKey, now: Time) -> Result<Cached, kube::Error> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(key.audience.clone()).filter(|a| !a.is_empty()).map(|a| vec![a]),
                expiration_seconds: Some(key.expiration_seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let status = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await?
            .status
            .unwrap_or_default();
        let expires_at = status.expiration_timestamp.map_or(now, |t| t.0);
        Ok(Cached {
            token: status.token.unwrap_or_default(),
            renew_at: renew_at(now, expires_at),
            expires_at,
        })
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, uid: &str) {
        self.cache.lock().retain(|key, _| key.pod_uid != uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_before_they_end() {
        let issued: Time = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |text: &str| text.parse::<Time>().unwrap();
        assert_eq!(renew_at(issued, at("2026-01-01T01:00:00Z")), at("2026-01-01T00:48:00Z"));
        assert_eq!(renew_at(issued, at("2027-01-01T00:00:00Z")), at("2026-01-02T00:00:00Z"));
    }
}
