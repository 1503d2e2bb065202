//! `pods/proxy`, `services/proxy` and `nodes/proxy`: HTTP through this server to a pod, a service or a kubelet.

use super::kubelet::{self, carried, send};
use super::respond;
use crate::front::Front;
use crate::request::{BoxError, Context, Request, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meta::{ApiError, GroupResource, Reason};
use rand::seq::IndexedRandom;
use std::net::IpAddr;
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

/// Address and whether over TLS with this server's certificate.
fn locate(front: &Front, context: &Context) -> Result<(String, bool), ApiError> {
    let info = &context.info;
    let resource = GroupResource { group: "".into(), resource: info.resource.clone().into() };
    let invalid = || ApiError::bad_request(format!("invalid {} request {:?}", info.resource, info.name));
    let named = Named::parse(&info.name).ok_or_else(invalid)?;
    let not_found = || ApiError::not_found(&resource, named.name);
    let secure = named.scheme == "https";
    match info.resource.as_str() {
        "nodes" => {
            let kubelet = kubelet::address(front, named.name)?;
            let (host, port) = kubelet.rsplit_once(':').unwrap_or((&kubelet, ""));
            if named.port.is_empty() || named.port == port {
                return Ok((kubelet, named.scheme != "http"));
            }
            Ok((format!("{host}:{}", named.port), secure))
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
            Ok((host_port(&ip, port), secure))
        }
        _ => {
            let service: Service =
                front.objects.get("services", &info.namespace, named.name).ok_or_else(not_found)?;
            endpoint(front, &info.namespace, &named, &service).map(|a| (a, secure))
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
        if entry.attrs.label("kubernetes.io/service-name") != Some(name) {
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
    let (address, secure) = locate(front, context)?;
    let rest = if rest.is_empty() { "/" } else { rest };
    let target = match request.uri().query() {
        Some(q) => format!("{rest}?{q}"),
        None => rest.to_owned(),
    };
    let tls = secure.then(|| front.kubelets.tls.clone());
    if request.headers().contains_key(header::UPGRADE) {
        let scheme = if secure { "https" } else { "http" };
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
    parts.headers.insert("x-forwarded-uri", HeaderValue::from_str(&base).map_err(ApiError::internal)?);
    let answer = send(&address, tls, Request::from_parts(parts, body)).await;
    let answer = answer.map_err(|e| unavailable(format!("error trying to reach service: {e}")))?;
    let mut response = answer.map(|b| b.map_err(BoxError::from).boxed_unsync());
    let headers = response.headers_mut();
    for name in NOT_PASSED_ON {
        headers.remove(name);
    }
    // A redirect within what is behind stays below the proxy's path.
    let moved = headers.get(header::LOCATION).and_then(|l| l.to_str().ok()).filter(|l| l.starts_with('/'));
    if let Some(Ok(inside)) = moved.map(|l| HeaderValue::from_str(&format!("{base}{l}"))) {
        headers.insert(header::LOCATION, inside);
    }
    Ok(response)
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
