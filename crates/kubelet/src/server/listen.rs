//! The listener: TLS, connections, their bounds.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Server;

/// Connections at one time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take for the headers of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, as it does when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the {what}: {source}")]
    Pem { what: &'static str, source: rustls::pki_types::pem::Error },
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error("the certificate authority of clients: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The configuration of the listener: its own certificate, and the authority that signs its clients'.
/// A client without a certificate is let in and has to bring a token.
///
/// # Errors
/// If one of the texts is not PEM, or they do not fit together.
pub fn tls_config(certificate: &str, key: &str, client_ca: &str) -> Result<ServerConfig, TlsError> {
    let certificates = |what, text: &str| -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        all.map_err(|source| TlsError::Pem { what, source })
    };
    let chain = certificates("serving certificate", certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|source| TlsError::Pem { what: "serving key", source })?;
    let mut roots = RootCertStore::empty();
    for root in certificates("certificate authority of clients", client_ca)? {
        roots.add(root)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Serves until told to stop. The configuration may change while it runs: new connections have the new
/// certificate.
pub async fn serve(
    server: Arc<Server>,
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "the kubelet's server cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(tls.borrow().clone());
        let server = server.clone();
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = connection(server, acceptor, tcp) => {}
                () = shutdown.cancelled() => {}
            }
            drop(slot);
        });
    }
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, tcp: TcpStream) {
    let _ = tcp.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return,
    };
    let peer = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate: Option<Arc<[u8]>> = peer.map(|certificate| Arc::from(certificate.as_ref()));
    let service = service_fn(move |request| {
        let (server, certificate) = (server.clone(), certificate.clone());
        async move { Ok::<_, Infallible>(server.handle(request, certificate.as_deref()).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the kubelet's server broke");
    }
}
