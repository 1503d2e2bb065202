//! `pods/proxy`, `services/proxy` and `nodes/proxy`: HTTP through this server to a pod, a service or a kubelet.

use super::html::Links;
use super::kubelet::{self, carried, send};
use super::respond;
use crate::front::Front;
use crate::request::{BoxError, Context, Request, Response};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meta::{ApiError, GroupResource, Reason};
use rand::seq::IndexedRandom;
use rustls::ClientConfig;
use std::net::IpAddr;
use std::sync::Arc;
use streaming::Backend;
use streaming::proxy::Target;

/// Headers of one connection only (RFC 9110, 7.6.1), and those that say who asks here.
const NOT_PASSED_ON: [HeaderName; 8] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Links are rewritten in pages up to this size.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// `[scheme:]name[:port]`, the form of a proxied name.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Named<'a> {
    fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        Some(match parts.as_slice() {
            [name] => Self { scheme: "", name, port: "" },
            [name, port] if !matches!(*name, "http" | "https") => Self { scheme: "", name, port },
            [scheme @ ("http" | "https"), name] => Self { scheme, name, port: "" },
            [scheme @ ("http" | "https" | ""), name, port] => Self { scheme, name, port },
            _ => return None,
        })
    }
}

fn unavailable(why: String) -> ApiError {
    ApiError::new(Reason::ServiceUnavailable, why)
}

fn host_port(host: &str, port: impl std::fmt::Display) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => format!("[{v6}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// Where something proxied is: `host:port`, and TLS where it is spoken.
type Location = (String, Option<Arc<ClientConfig>>);

fn locate(front: &Front, context: &Context) -> Result<Location, ApiError> {
    let info = &context.info;
    let resource = GroupResource { group: "".into(), resource: info.resource.clone().into() };
    let invalid = || ApiError::bad_request(format!("invalid {} request {:?}", info.resource, info.name));
    let named = Named::parse(&info.name).ok_or_else(invalid)?;
    let not_found = || ApiError::not_found(&resource, named.name);
    let tls = (named.scheme == "https").then(|| front.kubelets.unverified.clone());
    match info.resource.as_str() {
        "nodes" => {
            let kubelet = kubelet::address(front, named.name)?;
            let (host, port) = kubelet.rsplit_once(':').unwrap_or((&kubelet, ""));
            if named.port.is_empty() || named.port == port {
                return Ok((kubelet, (named.scheme != "http").then(|| front.kubelets.tls.clone())));
            }
            Ok((format!("{host}:{}", named.port), tls))
        }
        "pods" => {
            let pod: Pod = front.objects.get("pods", &info.namespace, named.name).ok_or_else(not_found)?;
            let ports = pod.spec.iter().flat_map(|s| &s.containers).flat_map(|c| c.ports.iter().flatten());
            let port = match named.port {
                "" => ports.map(|p| p.container_port).next().map_or("80".to_owned(), |p| p.to_string()),
                given if given.parse::<u16>().is_ok() => given.to_owned(),
                given => {
                    let found =
                        ports.filter(|p| p.name.as_deref() == Some(given)).map(|p| p.container_port).next();
                    found.ok_or_else(invalid)?.to_string()
                }
            };
            let ip = pod.status.and_then(|s| s.pod_ip).filter(|ip| !ip.is_empty());
            let ip = ip.ok_or_else(|| ApiError::bad_request("address not allowed"))?;
            Ok((host_port(&ip, port), tls))
        }
        _ => {
            let service: Service =
                front.objects.get("services", &info.namespace, named.name).ok_or_else(not_found)?;
            endpoint(front, &info.namespace, &named, &service).map(|a| (a, tls))
        }
    }
}

fn endpoint(
    front: &Front,
    namespace: &str,
    named: &Named<'_>,
    service: &Service,
) -> Result<String, ApiError> {
    let (name, asked) = (named.name, named.port);
    let ports = service.spec.as_ref().and_then(|s| s.ports.clone()).unwrap_or_default();
    let chosen = match (asked, ports.as_slice()) {
        ("", [one]) => Some(one),
        ("", many) => many.iter().find(|p| p.name.as_deref().unwrap_or("").is_empty()),
        (asked, all) => all.iter().find(|p| p.name.as_deref() == Some(asked) || p.port.to_string() == asked),
    };
    let chosen =
        chosen.ok_or_else(|| unavailable(format!("no service port {asked:?} found for service {name:?}")))?;
    let port_name = chosen.name.clone().unwrap_or_default();
    let mut addresses = Vec::new();
    for entry in front.resources.lookup().list("discovery.k8s.io", "endpointslices", namespace) {
        if entry.attrs.label(meta::labels::SERVICE_NAME) != Some(name) {
            continue;
        }
        let Ok(object) = entry.object() else { continue };
        let Some(slice) = object.downcast::<EndpointSlice>() else { continue };
        let port = slice.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or("") == port_name);
        let Some(port) = port.and_then(|p| p.port) else { continue };
        for e in slice.endpoints.iter().flatten() {
            let ready = e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            if ready {
                addresses.extend(e.addresses.first().map(|a| host_port(a, port)));
            }
        }
    }
    addresses
        .choose(&mut rand::rng())
        .cloned()
        .ok_or_else(|| unavailable(format!("no endpoints available for service {name:?}")))
}

/// The path of the proxy and what follows it in the URL as it was written. How deep the proxy is does not depend on
/// names: one of them may be "proxy" too. `/api/v1/proxy/namespaces/...`, the old form, is as deep.
fn split(path: &str, namespaced: bool) -> (&str, &str) {
    // api, v1, namespaces, its name, pods, its name, proxy
    let depth = if namespaced { 7 } else { 5 };
    match path.match_indices('/').nth(depth) {
        Some((at, _)) => path.split_at(at),
        None => (path, ""),
    }
}

/// # Errors
/// What is asked for is not there or does not answer.
pub async fn handle(front: &Front, context: &Context, request: Request) -> Result<Response, ApiError> {
    let info = &context.info;
    let path = request.uri().path();
    let (base, rest) = split(path, !info.namespace.is_empty());
    if rest.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) {
        // Relative links of what is behind only work below a directory.
        let to = match request.uri().query() {
            Some(q) => format!("{path}/?{q}"),
            None => format!("{path}/"),
        };
        let mut moved = respond::bytes(StatusCode::MOVED_PERMANENTLY, "text/plain", "");
        moved.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&to).map_err(ApiError::internal)?);
        return Ok(moved);
    }
    let base = base.to_owned();
    let (address, tls) = locate(front, context)?;
    let rest = if rest.is_empty() { "/" } else { rest };
    let target = match request.uri().query() {
        Some(q) => format!("{rest}?{q}"),
        None => rest.to_owned(),
    };
    let forwarded = HeaderValue::from_str(path).map_err(ApiError::internal)?;
    if request.headers().contains_key(header::UPGRADE) {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let uri: Uri = format!("{scheme}://{address}{target}").parse().map_err(ApiError::internal)?;
        let backend = Backend { uri, headers: HeaderMap::new(), tls };
        return Ok(carried(streaming::serve(request, backend, Target::PortForward).await));
    }
    let (mut parts, body) = request.into_parts();
    parts.uri = target.parse().map_err(ApiError::internal)?;
    parts.version = http::Version::HTTP_11;
    for name in NOT_PASSED_ON {
        parts.headers.remove(name);
    }
    parts.headers.insert(header::HOST, HeaderValue::from_str(&address).map_err(ApiError::internal)?);
    parts.headers.insert("x-forwarded-uri", forwarded);
    let answer = send(&address, tls, Request::from_parts(parts, body)).await;
    let answer = answer.map_err(|e| unavailable(format!("error trying to reach service: {e}")))?;
    let (mut parts, body) = answer.into_parts();
    for name in NOT_PASSED_ON {
        parts.headers.remove(name);
    }
    // A redirect within what is behind stays below the proxy's path.
    let links = Links { base: &base, host: &address };
    if let Some(location) = parts.headers.get(header::LOCATION) {
        let inside = location.to_str().ok().and_then(|l| links.through(l));
        if let Some(Ok(inside)) = inside.map(|l| HeaderValue::from_str(&l)) {
            parts.headers.insert(header::LOCATION, inside);
        }
    } else if is_page(&parts.headers) {
        return page(parts, body, &links).await;
    }
    Ok(Response::from_parts(parts, body.map_err(BoxError::from).boxed_unsync()))
}

/// Whether links are to be looked for: HTML that is not compressed.
fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("text/html") && !headers.contains_key(header::CONTENT_ENCODING)
}

/// A page with its links rewritten; one that is too large, as it is.
async fn page(mut parts: Parts, mut body: Incoming, links: &Links<'_>) -> Result<Response, ApiError> {
    let mut whole = BytesMut::new();
    while whole.len() < MAX_PAGE_BYTES {
        match body.frame().await {
            None => {
                parts.headers.remove(header::CONTENT_LENGTH);
                let whole = Full::new(Bytes::from(links.rewrite(&whole)));
                return Ok(Response::from_parts(parts, whole.map_err(|never| match never {}).boxed_unsync()));
            }
            Some(Err(e)) => return Err(unavailable(format!("error trying to reach service: {e}"))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    whole.extend_from_slice(&data);
                }
            }
        }
    }
    let read = stream::iter([Ok(Frame::data(whole.freeze()))]);
    let rest = BodyStream::new(body.map_err(BoxError::from));
    Ok(Response::from_parts(parts, StreamBody::new(read.chain(rest)).boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_proxy() {
        let check = |path: &str, namespaced: bool, base: &str, rest: &str| {
            assert_eq!(split(path, namespaced), (base, rest));
        };
        let pod = "/api/v1/namespaces/proxy-1/pods/proxy/proxy";
        check(pod, true, pod, "");
        check(&format!("{pod}/a/proxy/"), true, pod, "/a/proxy/");
        let service = "/api/v1/namespaces/a/services/https:web:1/proxy";
        check(&format!("{service}/"), true, service, "/");
        check("/api/v1/nodes/proxy/proxy/pods", false, "/api/v1/nodes/proxy/proxy", "/pods");
        check("/api/v1/proxy/nodes/n/pods", false, "/api/v1/proxy/nodes/n", "/pods");
        check("/api/v1/proxy/namespaces/a/pods/p/x", true, "/api/v1/proxy/namespaces/a/pods/p", "/x");
    }

    #[test]
    fn names_with_scheme_and_port() {
        let check = |id: &str, expect: Option<(&str, &str, &str)>| {
            let got = Named::parse(id);
            assert_eq!(got.as_ref().map(|n| (n.scheme, n.name, n.port)), expect, "{id}");
        };
        check("web", Some(("", "web", "")));
        check("web:8080", Some(("", "web", "8080")));
        check("https:web:", Some(("https", "web", "")));
        check("https:web:admin", Some(("https", "web", "admin")));
        check("https:web", Some(("https", "web", "")));
        check("a:b:c:d", None);
        check("ftp:web:1", None);
    }
}
