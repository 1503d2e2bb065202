//! Connections: TLS by rustls, HTTP/1.1 and HTTP/2 by hyper, and an end that lets requests finish.

use super::Front;
use super::authenticate::Peer;
use super::coalesce::Coalesce;
use crate::request::{BoxError, Request};
use auth::pki::Identity;
use auth::x509;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Streams of one HTTP/2 connection; upstream allows 250 and clients open more connections, which cost more.
const MAX_CONCURRENT_STREAMS: u32 = 1000;
/// Bytes of uploads in flight on a stream and on a connection.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Bytes of an answer that wait for a slow reader, for each stream.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// Pings on idle connections, so that those of lost peers end.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a peer may take for its handshake, and for a request's head on HTTP/1.1.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests under way may take to finish at the end.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// Pause after an accept that failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("reading the certificates: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("the certificates cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the client certificate authority cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Takes any client certificate during the handshake and lets the server judge it afterwards, so that who
/// comes with an outdated one reads `Unauthorized` and not a broken connection.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Lenient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The TLS side of the server.
pub struct Tls {
    acceptor: TlsAcceptor,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// `client_ca`: DER of the authority whose certificates name users.
    pub fn new(identity: &Identity, client_ca: &[u8]) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(client_ca.to_vec()))?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_client_cert_verifier(Arc::new(Lenient(verifier.clone())))
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), verifier })
    }

    /// Who the certificates name, judged by the authority now.
    fn peer(&self, certificates: Option<&[CertificateDer<'_>]>) -> Peer {
        let Some((end, between)) = certificates.and_then(|c| c.split_first()) else { return Peer::Plain };
        match self.verifier.verify_client_cert(end, between, UnixTime::now()) {
            Ok(_) => x509::user(end).map_or(Peer::Refused, |u| Peer::Certificate(Arc::new(u))),
            Err(error) => {
                tracing::debug!(%error, "a client certificate is refused");
                Peer::Refused
            }
        }
    }
}

/// Serves until `stop` is done, then lets what is under way finish for [`SHUTDOWN_GRACE`].
pub async fn serve(front: Arc<Front>, tls: Arc<Tls>, listener: TcpListener, stop: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (front, tls, watcher) = (front.clone(), tls.clone(), graceful.watcher());
                tokio::spawn(async move {
                    if let Err(error) = connection(front, &tls, stream, watcher).await {
                        tracing::debug!(%error, "a connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    front.health.shutting_down.store(true, std::sync::atomic::Ordering::Release);
    drop(listener);
    if tokio::time::timeout(SHUTDOWN_GRACE, graceful.shutdown()).await.is_err() {
        tracing::info!("requests still under way are cut off");
    }
}

async fn connection(
    front: Arc<Front>,
    tls: &Tls,
    stream: TcpStream,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor.accept(stream)).await??;
    let peer = Arc::new(tls.peer(stream.get_ref().1.peer_certificates()));
    // only HTTP/2 is flushed again when woken, and only it has many streams; HTTP/1.1 may become a raw stream
    let many = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = Coalesce::new(stream, many);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (front, peer) = (front.clone(), peer.clone());
        async move {
            let request: Request = request.map(|b| b.map_err(BoxError::from).boxed_unsync());
            Ok::<_, std::convert::Infallible>(front.handle(&peer, request).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(true)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    watcher.watch(connection).await
}
