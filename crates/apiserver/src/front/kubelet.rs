//! What only a node can answer: logs, exec, attach and port-forward of a pod, carried over TLS to its kubelet.

use super::respond;
use crate::front::Front;
use crate::request::{BoxError, Context, Request, Response};
use auth::pki::Identity;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node, Pod};
use meta::{ApiError, GroupResource, Reason};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use streaming::proxy::Target;
use streaming::{Backend, ExecOptions};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::form_urlencoded;

pub const KUBELET_PORT: u16 = 10250;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a kubelet's refusal that are passed on.
const MAX_REFUSAL_BYTES: usize = 8 * 1024;

/// How this server connects to kubelets: their certificates are the cluster authority's, and so is ours.
pub struct Kubelets {
    pub tls: Arc<ClientConfig>,
    /// To pods and services that are proxied: they are addresses, and whatever certificate they show is good; ours is
    /// not for them to see.
    pub unverified: Arc<ClientConfig>,
}

impl Kubelets {
    /// `ca`: DER of the authority; `identity`: what this server shows.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn new(ca: &[u8], identity: &Identity) -> Result<Self, super::TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(ca.to_vec()))?;
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self { tls: Arc::new(tls), unverified: streaming::unverified::client_config()? })
    }
}

/// `host:port` of a node's kubelet.
///
/// # Errors
/// The node is not there or says no address.
pub fn address(front: &Front, node: &str) -> Result<String, ApiError> {
    let found: Node = front
        .objects
        .get("nodes", "", node)
        .ok_or_else(|| ApiError::not_found(&GroupResource::of("", "nodes"), node))?;
    let status = found.status.unwrap_or_default();
    let port =
        status.daemon_endpoints.and_then(|d| d.kubelet_endpoint).map_or(KUBELET_PORT, |e| e.port as u16);
    let addresses = status.addresses.unwrap_or_default();
    let preferred = ["InternalIP", "Hostname", "InternalDNS", "ExternalIP", "ExternalDNS"];
    let host =
        preferred.iter().find_map(|t| addresses.iter().find(|a| a.type_ == *t)).map(|a| a.address.clone());
    let host = host.ok_or_else(|| ApiError::internal("no preferred addresses found; known addresses: []"))?;
    Ok(match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => format!("[{v6}]:{port}"),
        _ => format!("{host}:{port}"),
    })
}

/// The container that is meant, in upstream's order of questions.
fn container(pod: &Pod, asked: Option<&str>) -> Result<String, ApiError> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let init: Vec<&str> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    let main: Vec<&str> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.name.as_str());
    match (asked.filter(|a| !a.is_empty()), main.as_slice()) {
        (Some(asked), _) => {
            let known = init.iter().chain(&main).copied().chain(ephemeral).any(|c| c == asked);
            if known {
                return Ok(asked.to_owned());
            }
            Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")))
        }
        (None, [one]) => Ok((*one).to_owned()),
        (None, []) => {
            Err(ApiError::bad_request(format!("a container name must be specified for pod {name}")))
        }
        (None, many) => {
            let mut why = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                many.join(" ")
            );
            if !init.is_empty() {
                why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(why))
        }
    }
}

/// The query of the kubelet's URL.
fn query(parameters: &[(String, String)]) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    out.extend_pairs(parameters);
    out.finish()
}

fn uri(text: String) -> Result<Uri, ApiError> {
    text.parse().map_err(ApiError::internal)
}

pub async fn handle(front: &Front, context: &Context, request: Request) -> Result<Response, ApiError> {
    let info = &context.info;
    let (namespace, name) = (&info.namespace, &info.name);
    let pod: Pod = front
        .objects
        .get("pods", namespace, name)
        .ok_or_else(|| ApiError::not_found(&GroupResource::of("", "pods"), name))?;
    let asked: Vec<(String, String)> =
        form_urlencoded::parse(request.uri().query().unwrap_or("").as_bytes()).into_owned().collect();
    let get = |key: &str| asked.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    if info.subresource == "log" {
        if request.method() != Method::GET {
            return Err(super::method_not_allowed(info));
        }
        let container = container(&pod, get("container"))?;
        if node.is_empty() {
            return Ok(respond::bytes(StatusCode::OK, "text/plain", Bytes::new()));
        }
        let kept = log_parameters(&asked)?;
        let to = format!("/containerLogs/{namespace}/{name}/{container}?{}", query(&kept));
        let log = logs(front, &address(front, &node)?, &to, name).await?;
        if streaming::websocket::is_request(request.headers()) {
            return Ok(carried(streaming::reader::serve(request, log.into_body())));
        }
        return Ok(log);
    }
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Err(super::method_not_allowed(info));
    }
    let unassigned = || ApiError::bad_request(format!("pod {name} does not have a host assigned"));
    let (path, parameters, target) = match info.subresource.as_str() {
        "portforward" => {
            let ports: Vec<&str> =
                asked.iter().filter(|(k, _)| k == "ports").map(|(_, v)| v.as_str()).collect();
            let port = (!ports.is_empty()).then(|| ("port".to_owned(), ports.join(",")));
            (format!("/portForward/{namespace}/{name}"), port.into_iter().collect(), Target::PortForward)
        }
        what => {
            let container = container(&pod, get("container"))?;
            let options = ExecOptions::from_query(request.uri().query().unwrap_or(""));
            if !(options.stdin || options.stdout || options.stderr) {
                return Err(ApiError::bad_request("you must specify at least one of stdin, stdout, stderr"));
            }
            if what == "exec" && get("command").is_none() {
                return Err(ApiError::bad_request("you must specify at least one command"));
            }
            let flags = [
                ("input", options.stdin),
                ("output", options.stdout),
                ("error", options.stderr),
                ("tty", options.tty),
            ];
            let mut parameters: Vec<(String, String)> =
                flags.iter().filter(|(_, on)| *on).map(|(k, _)| ((*k).to_owned(), "1".to_owned())).collect();
            parameters.extend(asked.iter().filter(|(k, _)| k == "command").cloned());
            (format!("/{what}/{namespace}/{name}/{container}"), parameters, Target::Command(options))
        }
    };
    if node.is_empty() {
        return Err(unassigned());
    }
    let uri = uri(format!("https://{}{path}?{}", address(front, &node)?, query(&parameters)))?;
    let backend = Backend { uri, headers: HeaderMap::new(), tls: Some(front.kubelets.tls.clone()) };
    Ok(carried(streaming::serve(request, backend, target).await))
}

/// An answer of the streaming crate as one of ours.
pub fn carried(response: http::Response<http_body_util::Full<Bytes>>) -> Response {
    response.map(|b| b.map_err(|never| match never {}).boxed_unsync())
}

/// Options of PodLogOptions that the kubelet is told, checked.
fn log_parameters(asked: &[(String, String)]) -> Result<Vec<(String, String)>, ApiError> {
    let mut kept = Vec::new();
    for (key, value) in asked {
        match key.as_str() {
            "follow" | "previous" | "timestamps" if !matches!(value.as_str(), "false" | "0") => {
                kept.push((key.clone(), "true".to_owned()));
            }
            "tailLines" | "limitBytes" | "sinceSeconds" => {
                let number: i64 = value.parse().map_err(|_| {
                    ApiError::bad_request(format!("strconv.ParseInt: parsing {value:?}: invalid syntax"))
                })?;
                let least = i64::from(key != "tailLines");
                if number < least {
                    let what = if least == 1 {
                        "must be greater than 0"
                    } else {
                        "must be greater than or equal to 0"
                    };
                    let gvk = meta::GroupVersionKind::of("", "v1", "PodLogOptions");
                    let error = meta::FieldError::invalid(&meta::Path::new(key), number, what);
                    return Err(ApiError::invalid(&gvk, "", &[error]));
                }
                kept.push((key.clone(), value.clone()));
            }
            "sinceTime" | "stream" => kept.push((key.clone(), value.clone())),
            _ => {}
        }
    }
    Ok(kept)
}

/// Streams a container's log.
async fn logs(front: &Front, address: &str, path: &str, pod: &str) -> Result<Response, ApiError> {
    let request = http::Request::get(path)
        .header(header::HOST, address)
        .body(respond::empty())
        .map_err(ApiError::internal)?;
    let answer = send(address, Some(front.kubelets.tls.clone()), request).await;
    let answer = answer.map_err(|e| ApiError::internal(format!("Get \"https://{address}{path}\": {e}")))?;
    let code = answer.status();
    if code.is_success() {
        let mut response = answer.map(|b| b.map_err(BoxError::from).boxed_unsync());
        let headers = response.headers_mut();
        headers.clear();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        return Ok(response);
    }
    let text =
        Limited::new(answer.into_body(), MAX_REFUSAL_BYTES).collect().await.map_err(ApiError::internal)?;
    let text = String::from_utf8_lossy(&text.to_bytes()).trim_end().to_owned();
    Err(match code.as_u16() {
        400 => ApiError::bad_request(text),
        500 => ApiError::internal(text),
        404 => {
            let mut e = ApiError::not_found(&GroupResource::of("", "pods"), pod);
            e.message = format!("the server could not find the requested resource ( pods/log {pod})");
            e
        }
        other => ApiError::new(Reason::Unknown(other), text),
    })
}

/// One request on a connection of its own. `tls`: as for the kubelets, or None for plain HTTP.
///
/// # Errors
/// The backend cannot be reached.
pub async fn send(
    address: &str,
    tls: Option<Arc<ClientConfig>>,
    request: Request,
) -> Result<http::Response<hyper::body::Incoming>, BoxError> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    match tls {
        Some(tls) => {
            let host = address.rsplit_once(':').map_or(address, |(h, _)| h).trim_matches(['[', ']']);
            let name = ServerName::try_from(host.to_owned())?;
            let connector = TlsConnector::from(tls);
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(name, stream)).await??;
            exchange(stream, request).await
        }
        None => exchange(stream, request).await,
    }
}

async fn exchange<S>(stream: S, request: Request) -> Result<http::Response<hyper::body::Incoming>, BoxError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a backend's connection ended");
        }
    });
    Ok(sender.send_request(request).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn which_container_is_meant() {
        let pod = |containers: &[&str], init: &[&str]| -> Pod {
            let named = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
            let spec = json!({"containers": named(containers), "initContainers": named(init)});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
        };
        let check = |pod: Pod, asked: Option<&str>, expect: Result<&str, &str>| {
            assert_eq!(
                container(&pod, asked).map_err(|e| e.message),
                expect.map(str::to_owned).map_err(str::to_owned)
            );
        };
        check(pod(&["a"], &["i"]), None, Ok("a"));
        check(pod(&["a", "b"], &["i"]), Some("i"), Ok("i"));
        check(pod(&["a"], &[]), Some("x"), Err("container x is not valid for pod p"));
        check(
            pod(&["a", "b"], &["i"]),
            Some(""),
            Err(
                "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]",
            ),
        );
    }
}
