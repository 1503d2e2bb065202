//! Acting as service accounts: each controller has only its own rights, as upstream's controller manager with
//! `--use-service-account-credentials`.

use crate::connect::{ConnectError, from_config};
use http::{HeaderValue, Request, header::AUTHORIZATION};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::jiff::SignedDuration;
use kube::api::{Api, PostParams};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use meta::Time;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Where the accounts live.
const NAMESPACE: &str = "kube-system";
/// How long a token is asked for.
const TOKEN_SECONDS: i64 = 3600;
/// The share of a token's life after which the next is asked for.
const RENEW_AFTER: f64 = 0.8;

/// Gives the client of a service account in `kube-system`, by the account's name.
pub type ClientFor = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// Clients over TLS to the server of a kubeconfig, with tokens that `issuer` asks for; accounts that do not exist are
/// created. `issuer` must be allowed to create `serviceaccounts` and `serviceaccounts/token`.
pub async fn service_accounts(
    issuer: Client,
    kubeconfig: &Path,
    user_agent: &str,
) -> Result<ClientFor, ConnectError> {
    let failed = |source| ConnectError::Kubeconfig { path: kubeconfig.to_owned(), source };
    let file = Kubeconfig::read_from(kubeconfig).map_err(failed)?;
    let mut config =
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?;
    // A client certificate would speak louder than the token.
    config.auth_info = kube::config::AuthInfo::default();
    let transport = from_config(config, user_agent)?;
    Ok(Arc::new(move |account: &str| {
        let source = Arc::new(Tokens {
            issuer: issuer.clone(),
            account: account.to_owned(),
            current: Mutex::new(None),
        });
        let transport = transport.clone();
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let (source, transport) = (source.clone(), transport.clone());
            async move {
                let bearer = source.get().await?;
                request.headers_mut().insert(AUTHORIZATION, bearer);
                let response = transport.send(request).await?;
                if response.status() == http::StatusCode::UNAUTHORIZED {
                    // Revoked, or signed by a key that is gone.
                    *source.current.lock().await = None;
                }
                Ok::<_, kube::Error>(response)
            }
        });
        Client::new(service, NAMESPACE)
    }))
}

struct Tokens {
    issuer: Client,
    account: String,
    /// The header and when to ask for the next.
    current: Mutex<Option<(HeaderValue, Time)>>,
}

impl Tokens {
    async fn get(&self) -> kube::Result<HeaderValue> {
        let mut current = self.current.lock().await;
        let now = crate::now();
        if let Some((header, renew)) = &*current
            && now < *renew
        {
            return Ok(header.clone());
        }
        let accounts = Api::<ServiceAccount>::namespaced(self.issuer.clone(), NAMESPACE);
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..Default::default() };
        let wanted = TokenRequest { spec: Some(spec), ..Default::default() };
        let asked = accounts.create_token_request(&self.account, &PostParams::default(), &wanted).await;
        let answer = match asked {
            Err(e) if crate::is_not_found(&e) => {
                let mut account = ServiceAccount::default();
                account.metadata.name = Some(self.account.clone());
                match accounts.create(&PostParams::default(), &account).await {
                    Err(e) if !crate::is_already_exists(&e) => return Err(e),
                    _ => {}
                }
                accounts.create_token_request(&self.account, &PostParams::default(), &wanted).await?
            }
            other => other?,
        };
        let status = answer.status.unwrap_or_default();
        let mut header = HeaderValue::from_str(&format!("Bearer {}", status.token.unwrap_or_default()))
            .map_err(|e| kube::Error::Service(Box::new(e)))?;
        header.set_sensitive(true);
        let expires = status.expiration_timestamp.map_or(now, |t| t.0);
        let life = expires.duration_since(now).as_secs_f64().max(0.0);
        *current = Some((header.clone(), now + SignedDuration::from_secs((life * RENEW_AFTER) as i64)));
        Ok(header)
    }
}
