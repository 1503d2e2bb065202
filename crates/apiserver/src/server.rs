//! The server as the binary and the tests start it.

use crate::cache::Cache;
use crate::front::authenticate::Tokens;
use crate::front::{
    self, AuditLog, Chain, Endpoint, Front, Kubelets, Objects, Parts, Peer, Quotas, Tls, TlsError,
};
use crate::request::BoxError;
use crate::resource::{self, Resources};
use auth::pki::{Identity, Leaf};
use auth::token::VerifiedTokens;
use auth::{Authorizer, Pki, PkiError, User};
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use meta::ApiError;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use store::{Store, StoreError};
use tokio::net::TcpListener;
use tower::util::BoxCloneService;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Holds `pki/` and `audit/`.
    pub data_directory: PathBuf,
    /// Where nodes and pods reach this server.
    pub advertise_address: IpAddr,
    /// Of the listener given to [`ApiServer::serve`].
    pub port: u16,
    /// First address of the service range: the service `kubernetes`.
    pub service_ip: IpAddr,
    /// Further names and addresses of the serving certificate: the host name, load balancers.
    pub names: Vec<String>,
    /// Whether requests without credentials are those of `system:anonymous`, whom RBAC lets do next to nothing.
    pub anonymous: bool,
    /// Whether requests are logged to `<data directory>/audit/audit.log`.
    pub audit: bool,
    pub resources: resource::Config,
}

impl Config {
    /// A server on the loopback, as tests use it.
    pub fn local(data_directory: PathBuf, port: u16) -> Self {
        Self {
            data_directory,
            advertise_address: IpAddr::from([127, 0, 0, 1]),
            port,
            service_ip: IpAddr::from([10, 96, 0, 1]),
            names: Vec::new(),
            anonymous: true,
            audit: false,
            resources: resource::Config::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("reading the store: {0}")]
    Store(#[from] StoreError),
    #[error("making the cluster's own objects: {0}")]
    Bootstrap(ApiError),
    #[error("the audit log in {directory} cannot be written: {source}", directory = directory.display())]
    Audit { directory: PathBuf, source: std::io::Error },
    #[error("the certificates' maker ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The API server without a connection in between.
pub type InMemory = BoxCloneService<http::Request<kube::client::Body>, crate::request::Response, Infallible>;

/// A running API server.
///
/// What it gives to be polled is boxed: its code is then made once, here, and not in each crate that polls it.
pub struct ApiServer {
    front: Arc<Front>,
    tls: Arc<Tls>,
    pki: Arc<Pki>,
    admin: Identity,
    config: Config,
}

impl ApiServer {
    /// Opens the keys, fills the caches and brings the cluster's own objects up to date. It answers
    /// [`client`](Self::client)s at once and connections once [`serve`](Self::serve) runs.
    ///
    /// # Errors
    /// Keys, store or objects cannot be read or written.
    pub fn start(config: Config, store: Arc<dyn Store>) -> BoxFuture<'static, Result<Arc<Self>, StartError>> {
        Box::pin(Self::open(config, store))
    }

    async fn open(config: Config, store: Arc<dyn Store>) -> Result<Arc<Self>, StartError> {
        let keys = {
            let config = config.clone();
            tokio::task::spawn_blocking(move || Keys::open(&config))
        };
        let (keys, cache) = tokio::join!(keys, Cache::start(store, kinds::ALL));
        let (keys, cache) = (keys??, cache?);
        let authorizer = Arc::new(Authorizer::default());
        front::start_indexes(&cache, &authorizer);
        let objects = Objects::new(cache.clone());
        let admission = Arc::new(Chain {
            authorizer: authorizer.clone(),
            quotas: Quotas::default(),
            now: config.resources.now,
        });
        let resources = Resources::over(cache, kinds::ALL, admission, config.resources.clone());
        let directory = config.data_directory.join("audit");
        let audit = config.audit.then(|| AuditLog::open(&directory)).transpose();
        let audit = audit.map_err(|source| StartError::Audit { directory, source })?;
        let audiences = vec![auth::token::ISSUER.to_owned()];
        let tokens = Tokens {
            signer: keys.pki.signer.clone(),
            verified: VerifiedTokens::default(),
            objects: objects.clone(),
            audiences,
        };
        let front = Arc::new(Front::new(Parts {
            resources,
            authorizer,
            tokens,
            objects,
            kubelets: keys.kubelets,
            anonymous: config.anonymous,
            audit,
            address: format!("{}:{}", config.advertise_address, config.port),
            now: config.resources.now,
        }));
        let endpoint =
            Endpoint { address: config.advertise_address, port: config.port, service_ip: config.service_ip };
        front.resources.repair_services().await.map_err(StartError::Bootstrap)?;
        front.bootstrap(&endpoint, &keys.pki).await.map_err(StartError::Bootstrap)?;
        Ok(Arc::new(Self {
            front,
            tls: Arc::new(keys.tls),
            pki: Arc::new(keys.pki),
            admin: keys.admin,
            config,
        }))
    }

    /// Serves connections until `stop` is done; requests under way may then finish.
    pub fn serve(
        &self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> BoxFuture<'static, ()> {
        self.serving(listener, Box::pin(stop))
    }

    fn serving(&self, listener: TcpListener, stop: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        Box::pin(front::serve(self.front.clone(), self.tls.clone(), listener, stop))
    }

    /// A client in this process: authenticated as `user`, authorized like anyone.
    pub fn client(&self, user: User) -> kube::Client {
        kube::Client::new(self.in_memory(user), "default")
    }

    /// As [`client`](Self::client), the service beneath.
    pub fn in_memory(&self, user: User) -> InMemory {
        let (front, peer) = (self.front.clone(), Arc::new(Peer::InProcess(Arc::new(user))));
        BoxCloneService::new(tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (front, peer) = (front.clone(), peer.clone());
            async move {
                let request = request.map(|b| b.map_err(BoxError::from).boxed_unsync());
                Ok::<_, Infallible>(front.handle(&peer, request).await)
            }
        }))
    }

    pub fn front(&self) -> &Arc<Front> {
        &self.front
    }

    pub fn pki(&self) -> &Arc<Pki> {
        &self.pki
    }

    /// `https://host:port` of this server.
    pub fn url(&self) -> String {
        match self.config.advertise_address {
            IpAddr::V4(a) => format!("https://{a}:{}", self.config.port),
            IpAddr::V6(a) => format!("https://[{a}]:{}", self.config.port),
        }
    }

    /// The administrator's kubeconfig, for `server` (a URL).
    pub fn admin_kubeconfig(&self, server: &str) -> String {
        auth::kubeconfig::render(server, &self.pki.ca.identity.certificate_pem, &self.admin, "admin")
    }
}

struct Keys {
    pki: Pki,
    tls: Tls,
    kubelets: Kubelets,
    admin: Identity,
}

impl Keys {
    fn open(config: &Config) -> Result<Self, StartError> {
        let pki = Pki::open(&config.data_directory.join("pki"), (config.resources.now)())?;
        let mut names = vec![config.advertise_address.to_string(), config.service_ip.to_string()];
        names.extend(config.names.iter().cloned());
        let leaves = [
            ("apiserver", Leaf::apiserver(&names)),
            ("apiserver-kubelet-client", Leaf::apiserver_kubelet_client()),
            ("admin", Leaf::admin()),
        ];
        let Ok([serving, kubelet_client, admin]) = <[Identity; 3]>::try_from(pki.identities(&leaves)?) else {
            unreachable!("one identity is given for each leaf");
        };
        let tls = Tls::new(&serving, pki.ca.certificate_der())?;
        let kubelets = Kubelets::new(pki.ca.certificate_der(), &kubelet_client)?;
        Ok(Self { pki, tls, kubelets, admin })
    }
}
