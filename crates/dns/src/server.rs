//! The shell: serves UDP and TCP, keeps the index up to date from informers.

use crate::answer::{Answer, Answers};
use crate::forward::Forwarder;
use crate::register::Registration;
use crate::zone::{Id, Zone};
use client::{Informers, Options};
use futures::future::BoxFuture;
use hickory_proto::op::{Header, HeaderCounts, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::Record;
use hickory_server::Server;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meta::labels::SERVICE_NAME;
use parking_lot::RwLock;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug)]
pub struct Config {
    /// Where to serve; UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// `cluster.local`.
    pub domain: String,
    /// Its name servers answer for other domains; read once, at start.
    pub resolv_conf: PathBuf,
    /// Addresses under which this server is known: never forwarded to.
    pub own: Vec<IpAddr>,
    /// The service to put this server behind.
    pub registration: Registration,
}

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("cannot serve DNS at {0}: {1}")]
    Bind(SocketAddr, std::io::Error),
    #[error("the cluster domain {0:?} is no DNS name")]
    Domain(String),
}

/// A TCP client that sends nothing for this long is let go.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers that may wait for a slow TCP client.
const TCP_RESPONSES: usize = 32;

/// Serves until shutdown. Queries wait for nothing: before the informers are filled, names of the cluster
/// are refused with SERVFAIL, so that a client asks again and does not remember a wrong "no such name".
pub fn run(
    config: Config,
    client: kube::Client,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), DnsError>> {
    // boxed: its code is made here, once, and not again in the crate that polls it
    Box::pin(until_shutdown(config, client, shutdown))
}

async fn until_shutdown(
    config: Config,
    client: kube::Client,
    shutdown: CancellationToken,
) -> Result<(), DnsError> {
    let answers = Answers::new(&config.domain).ok_or_else(|| DnsError::Domain(config.domain.clone()))?;
    let resolv_conf = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
    let forwarder = Forwarder::from_resolv_conf(&resolv_conf, &config.own);
    let state =
        Arc::new(State { zone: RwLock::default(), serial: AtomicU32::new(1), filled: Default::default() });
    let mut server = Server::new(Handler { answers, forwarder, state: state.clone() });
    for address in &config.listen {
        let bind = |e| DnsError::Bind(*address, e);
        server.register_socket(UdpSocket::bind(address).await.map_err(bind)?);
        server.register_listener(TcpListener::bind(address).await.map_err(bind)?, TCP_TIMEOUT, TCP_RESPONSES);
    }
    let informers = Informers::new(client.clone());
    let _watching = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        (watching, ()) = async { tokio::join!(state.follow(&informers), config.registration.apply(&client)) } => watching,
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        done = server.block_until_done() => {
            if let Err(error) = done {
                tracing::error!(%error, "the DNS server ended");
            }
        }
    }
    Ok(())
}

struct State {
    zone: RwLock<Zone>,
    /// Grows with each change: the serial of the SOA record.
    serial: AtomicU32,
    filled: std::sync::atomic::AtomicBool,
}

fn service_of(slice: &EndpointSlice) -> Option<(Id, String)> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone();
    Some(((slice.metadata.namespace.clone()?, service), slice.metadata.name.clone()?))
}

impl State {
    fn change(&self, f: impl FnOnce(&mut Zone)) {
        f(&mut self.zone.write());
        self.serial.fetch_add(1, Ordering::Relaxed);
    }

    /// Fills the index and keeps it filled while what is returned lives.
    async fn follow(self: &Arc<Self>, informers: &Informers) -> impl Sized + use<> {
        let namespaces = informers.of::<Namespace>(Options::all());
        let services = informers.of::<Service>(Options::all());
        let slices = informers.of::<EndpointSlice>(Options::all());
        let state = self.clone();
        namespaces.on_change(move |d| {
            let name =
                d.new.as_ref().or(d.old.as_ref()).and_then(|n| n.metadata.name.clone()).unwrap_or_default();
            state.change(|z| z.set_namespace(&name, d.new.as_deref()));
        });
        let state = self.clone();
        services.on_change(move |d| {
            let Some(any) = d.new.as_ref().or(d.old.as_ref()) else { return };
            let id = (
                any.metadata.namespace.clone().unwrap_or_default(),
                any.metadata.name.clone().unwrap_or_default(),
            );
            state.change(|z| z.set_service(id, d.new.as_deref()));
        });
        let state = self.clone();
        slices.on_change(move |d| {
            let old = d.old.as_deref().and_then(service_of);
            let new = d.new.as_deref().and_then(service_of);
            state.change(|z| {
                if let Some((service, slice)) = old.filter(|o| Some(o) != new.as_ref()) {
                    z.set_slice(&service, &slice, None);
                }
                if let Some((service, slice)) = new {
                    z.set_slice(&service, &slice, d.new.as_deref());
                }
            });
        });
        namespaces.synced().await;
        services.synced().await;
        slices.synced().await;
        self.filled.store(true, Ordering::Release);
        (namespaces, services, slices)
    }
}

struct Handler {
    answers: Answers,
    forwarder: Forwarder,
    state: Arc<State>,
}

/// What goes back to the client.
#[derive(Default)]
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    soa: Vec<Record>,
    additional: Vec<Record>,
}

impl Reply {
    fn code(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query {
            return Reply::code(ResponseCode::NotImp);
        }
        let [question] = request.queries.queries() else { return Reply::code(ResponseCode::FormErr) };
        let query = question.original().clone();
        let answer = self.answers.answer(&self.state.zone.read(), query.name(), query.query_type());
        if !matches!(answer, Answer::Elsewhere) && !self.state.filled.load(Ordering::Acquire) {
            return Reply::code(ResponseCode::ServFail);
        }
        let soa = || vec![self.answers.soa(self.state.serial.load(Ordering::Relaxed))];
        let ours = Reply { authoritative: true, ..Reply::default() };
        match answer {
            Answer::Found { records, additional } => Reply { answers: records, additional, ..ours },
            Answer::Empty => Reply { soa: soa(), ..ours },
            Answer::NoSuchName => Reply { code: ResponseCode::NXDomain, soa: soa(), ..ours },
            Answer::Alias { mut records, target } => {
                let mut reply = self.forward(Query::query(target, query.query_type())).await;
                records.append(&mut reply.answers);
                Reply { answers: records, ..reply }
            }
            Answer::Elsewhere => self.forward(query).await,
        }
    }

    async fn forward(&self, query: Query) -> Reply {
        match self.forwarder.ask(query.clone()).await {
            Ok(message) => Reply {
                code: message.metadata.response_code,
                answers: message.answers,
                soa: message.authorities,
                ..Reply::default()
            },
            Err(error) => {
                tracing::debug!(name = %query.name(), %error, "a query could not be forwarded");
                Reply::code(ResponseCode::ServFail)
            }
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: hickory_server::net::runtime::Time>(
        &self,
        request: &Request,
        mut handle: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let response = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            &reply.answers,
            &[],
            &reply.soa,
            &reply.additional,
        );
        match handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(client = %request.src(), %error, "an answer could not be sent");
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}
