//! The kubelet's paths.

use http::Method;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Healthz,
    Pods,
    RunningPods,
    ContainerLogs {
        namespace: String,
        pod: String,
        container: String,
    },
    Exec(Target),
    Attach(Target),
    Run(Target),
    PortForward(Target),
    StatsSummary,
    Metrics,
    MetricsResource,
    MetricsCadvisor,
    MetricsProbes,
    /// A file or directory below the node's log directory.
    Logs {
        path: String,
    },
    Configz,
    MethodNotAllowed,
    NotFound,
}

/// A container, or for port-forwarding a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub namespace: String,
    pub pod: String,
    /// Only this pod, if given.
    pub uid: Option<String>,
    /// Empty for port-forwarding.
    pub container: String,
}

/// Reads a method and a path; its parts are percent-decoded.
pub fn route(method: &Method, path: &str) -> Route {
    let parts: Vec<String> = path.split('/').skip(1).map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let get = *method == Method::GET || *method == Method::HEAD;
    let stream = get || *method == Method::POST;
    let only = |allowed: bool, route: Route| if allowed { route } else { Route::MethodNotAllowed };
    match parts.as_slice() {
        ["healthz", ..] => only(get, Route::Healthz),
        ["pods"] | ["pods", ""] => only(get, Route::Pods),
        ["runningpods"] | ["runningpods", ""] => only(get, Route::RunningPods),
        ["containerLogs", namespace, pod, container] => only(
            get,
            Route::ContainerLogs {
                namespace: (*namespace).into(),
                pod: (*pod).into(),
                container: (*container).into(),
            },
        ),
        ["exec", rest @ ..] => container(rest).map_or(Route::NotFound, |t| only(stream, Route::Exec(t))),
        ["attach", rest @ ..] => container(rest).map_or(Route::NotFound, |t| only(stream, Route::Attach(t))),
        ["run", rest @ ..] => {
            container(rest).map_or(Route::NotFound, |t| only(*method == Method::POST, Route::Run(t)))
        }
        ["portForward", namespace, pod] => only(stream, Route::PortForward(target(namespace, pod, None, ""))),
        ["portForward", namespace, pod, uid] => {
            only(stream, Route::PortForward(target(namespace, pod, Some(uid), "")))
        }
        ["stats", "summary"] => only(stream, Route::StatsSummary),
        ["metrics"] | ["metrics", ""] => only(get, Route::Metrics),
        ["metrics", "resource"] => only(get, Route::MetricsResource),
        ["metrics", "cadvisor"] => only(get, Route::MetricsCadvisor),
        ["metrics", "probes"] => only(get, Route::MetricsProbes),
        ["logs", rest @ ..] => only(get, Route::Logs { path: rest.join("/") }),
        ["configz"] => only(get, Route::Configz),
        _ => Route::NotFound,
    }
}

fn container(parts: &[&str]) -> Option<Target> {
    match parts {
        [namespace, pod, container] => Some(target(namespace, pod, None, container)),
        [namespace, pod, uid, container] => Some(target(namespace, pod, Some(uid), container)),
        _ => None,
    }
}

fn target(namespace: &str, pod: &str, uid: Option<&str>, container: &str) -> Target {
    Target {
        namespace: namespace.into(),
        pod: pod.into(),
        uid: uid.map(str::to_owned).filter(|uid| !uid.is_empty()),
        container: container.into(),
    }
}

/// The name and value pairs of a query, decoded.
pub fn query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let plus = |text: &str| decode(&text.replace('+', " "));
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(n, v)| (plus(n), plus(v))).collect()
}

/// Percent-decodes; a stray `%` stays.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex =
            bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_routes() {
        let logs = |pod: &str| Route::ContainerLogs {
            namespace: "ns".into(),
            pod: pod.into(),
            container: "c".into(),
        };
        assert_eq!(route(&Method::GET, "/containerLogs/ns/p%2E1/c"), logs("p.1"));
        assert_eq!(route(&Method::POST, "/containerLogs/ns/p/c"), Route::MethodNotAllowed);
        assert_eq!(route(&Method::POST, "/exec/ns/p/c"), Route::Exec(target("ns", "p", None, "c")));
        assert_eq!(route(&Method::GET, "/exec/ns/p/uid/c"), Route::Exec(target("ns", "p", Some("uid"), "c")));
        assert_eq!(
            route(&Method::POST, "/portForward/ns/p"),
            Route::PortForward(target("ns", "p", None, ""))
        );
        assert_eq!(route(&Method::GET, "/logs/a/b"), Route::Logs { path: "a/b".into() });
        assert_eq!(route(&Method::GET, "/nothing"), Route::NotFound);
    }

    #[test]
    fn queries_are_decoded_in_order() {
        let pairs = query("command=sh&command=-c&command=a+%26%26+b&tty");
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("command", "sh"), ("command", "-c"), ("command", "a && b"), ("tty", "")]);
    }
}
