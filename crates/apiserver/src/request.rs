//! What a request asks for, in the API's terms; shared by the front and the generic verbs.

use auth::User;
use bytes::Bytes;
use http::Method;
use http_body_util::combinators::UnsyncBoxBody;
use percent_encoding::percent_decode_str;
use std::sync::Arc;
use url::form_urlencoded;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Request and response bodies, in memory and over TLS alike.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
pub type Request = http::Request<Body>;
pub type Response = http::Response<Body>;

/// Bound of a request body in bytes, as upstream's `MaxRequestBodyBytes`.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// A path and method in the API's terms (upstream's `RequestInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource: bool,
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`; for other
    /// paths the method in lower case.
    pub verb: String,
    pub group: String,
    pub version: String,
    /// Empty for cluster scope (and for a list over all namespaces).
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// Path segments after the subresource (proxy paths).
    pub rest: Vec<String>,
}

/// Everything the verbs need to know of who asks; made by the front after authentication and authorization.
#[derive(Clone, Debug)]
pub struct Context {
    pub info: Arc<RequestInfo>,
    pub user: Arc<User>,
    /// From the User-Agent header up to the first slash; the default field manager.
    pub agent: String,
}

/// What else the front reads off a request line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    pub info: RequestInfo,
    /// The field selector that authorizers may look at; empty where the verb takes none.
    pub field_selector: String,
}

/// A path that names a special verb without anything after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unable to determine kind and namespace from url, {0}")]
pub struct BadPath(pub String);

impl RequestInfo {
    /// Reads method, path and query as upstream's `RequestInfoFactory` does
    /// (kubernetes.io/docs/reference/using-api/api-concepts, "Resource URIs").
    ///
    /// # Errors
    /// [`BadPath`]: the URL ends after `watch` or `proxy`.
    pub fn parse(method: &Method, path: &str, query: &str) -> Result<Parsed, BadPath> {
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        let mut info =
            Self { path: decoded.to_string(), verb: method.as_str().to_lowercase(), ..Self::default() };
        let not_a_resource = |info| Ok(Parsed { info, field_selector: String::new() });
        let trimmed = decoded.trim_matches('/');
        let mut parts: &[&str] = &trimmed.split('/').collect::<Vec<_>>();
        if parts.len() < 3 {
            return not_a_resource(info);
        }
        match parts[0] {
            "api" => parts = &parts[1..],
            "apis" if parts.len() >= 4 => {
                info.group = parts[1].to_owned();
                parts = &parts[2..];
            }
            _ => return not_a_resource(info),
        }
        info.is_resource = true;
        info.version = parts[0].to_owned();
        parts = &parts[1..];

        let by_path = matches!(parts[0], "proxy" | "watch");
        if by_path {
            if parts.len() < 2 {
                return Err(BadPath(path.to_owned()));
            }
            info.verb = parts[0].to_owned();
            parts = &parts[1..];
        } else {
            info.verb = match *method {
                Method::POST => "create",
                Method::GET | Method::HEAD => "get",
                Method::PUT => "update",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                _ => "",
            }
            .to_owned();
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].to_owned();
            // `status` and `finalize` are the namespace's own.
            if parts.len() > 2 && !matches!(parts[2], "status" | "finalize") {
                parts = &parts[2..];
            }
        }
        let mut given = parts.iter().map(|p| (*p).to_owned());
        info.resource = given.next().unwrap_or_default();
        info.name = given.next().unwrap_or_default();
        if info.verb != "proxy" {
            info.subresource = given.next().unwrap_or_default();
        }
        info.rest = given.collect();

        let parameter = |name: &str| {
            form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == name).map(|(_, v)| v.into_owned())
        };
        if info.name.is_empty() && info.verb == "get" {
            let watch =
                parameter("watch").is_some_and(|v| !matches!(v.to_lowercase().as_str(), "false" | "0"));
            info.verb = if watch { "watch" } else { "list" }.to_owned();
            if let Some(name) = parameter("fieldSelector").and_then(|s| pinned_name(&s)) {
                info.name = name;
            }
        }
        if info.name.is_empty() && info.verb == "delete" {
            info.verb = "deletecollection".to_owned();
        }
        let selects = !by_path && matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
        let field_selector =
            if selects { parameter("fieldSelector").unwrap_or_default() } else { String::new() };
        Ok(Parsed { info, field_selector })
    }

    /// Requests that may take as long as they like.
    pub fn is_long_running(&self) -> bool {
        matches!(self.verb.as_str(), "watch" | "proxy")
            || matches!(self.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
    }

    pub fn is_mutating(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// The name a list is held to by `metadata.name=x`, where the selector parses and the name can be one.
fn pinned_name(selector: &str) -> Option<String> {
    let selector = meta::FieldSelector::parse(selector).ok()?;
    let name = selector.pinned("metadata.name")?;
    let segment = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%']);
    segment.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_as_upstream_reads_them() {
        // verb group version namespace resource subresource name rest, "-" for empty.
        let check = |method: &str, url: &str, expect: &str| {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let got = RequestInfo::parse(&method.parse().unwrap(), path, query).unwrap().info;
            let rest = got.rest.join("/");
            let fields = [
                &got.verb,
                &got.group,
                &got.version,
                &got.namespace,
                &got.resource,
                &got.subresource,
                &got.name,
                &rest,
            ];
            let shown: Vec<&str> =
                fields.iter().map(|f| if f.is_empty() { "-" } else { f.as_str() }).collect();
            assert!(got.is_resource, "{url}");
            assert_eq!(shown.join(" "), expect, "{method} {url}");
        };
        check("GET", "/api/v1/namespaces", "list - v1 - namespaces - - -");
        check("GET", "/api/v1/namespaces/other", "get - v1 other namespaces - other -");
        check("GET", "/api/v1/namespaces/other/pods", "list - v1 other pods - - -");
        check("HEAD", "/api/v1/namespaces/other/pods/foo", "get - v1 other pods - foo -");
        check("GET", "/api/v1/pods", "list - v1 - pods - - -");
        check("GET", "/api/v1/proxy/namespaces/other/pods/foo/a/b", "proxy - v1 other pods - foo a/b");
        check("GET", "/api/v1/watch/namespaces/other/pods", "watch - v1 other pods - - -");
        check("GET", "/api/v1/watch/namespaces/other/pods/foo", "watch - v1 other pods - foo -");
        check("GET", "/api/v1/pods?watch=true", "watch - v1 - pods - - -");
        check("GET", "/api/v1/pods?watch=0", "list - v1 - pods - - -");
        check("GET", "/api/v1/pods?watch", "watch - v1 - pods - - -");
        check("GET", "/api/v1/namespaces/other/pods/foo/status", "get - v1 other pods status foo -");
        check(
            "GET",
            "/api/v1/namespaces/other/pods/foo/proxy/subpath",
            "get - v1 other pods proxy foo subpath",
        );
        check("PUT", "/api/v1/namespaces/other/finalize", "update - v1 other namespaces finalize other -");
        check("PATCH", "/api/v1/namespaces/other/pods/foo", "patch - v1 other pods - foo -");
        check("DELETE", "/api/v1/namespaces/other/pods/foo", "delete - v1 other pods - foo -");
        check(
            "DELETE",
            "/apis/extensions/v1/namespaces/other/pods",
            "deletecollection extensions v1 other pods - - -",
        );
        check(
            "POST",
            "/apis/extensions/v1beta3/namespaces/other/pods",
            "create extensions v1beta3 other pods - - -",
        );
        check("GET", "/apis/g/v/res?fieldSelector=metadata.name%3Dname1", "list g v - res - name1 -");
        check("GET", "/apis/g/v/res?watch=true&fieldSelector=metadata.name=a", "watch g v - res - a -");
        check("GET", "/apis/g/v/res?fieldSelector=metadata.name=name1,foo", "list g v - res - - -");
        check("GET", "/api/v1/namespaces/ns/pods/system%3Anode", "get - v1 ns pods - system:node -");
    }

    #[test]
    fn other_paths_are_no_resources() {
        for path in [
            "/",
            "",
            "/api",
            "/api/v1",
            "/api/v1/",
            "/apis/apps/v1/",
            "/apis/v1/pods",
            "/healthz",
            "/x/v1/pods",
        ] {
            let parsed = RequestInfo::parse(&Method::GET, path, "").unwrap();
            assert!(!parsed.info.is_resource, "{path}");
            assert_eq!((parsed.info.verb.as_str(), parsed.info.path.as_str()), ("get", path));
        }
        assert!(RequestInfo::parse(&Method::GET, "/api/v1/watch", "").is_err());
    }
}
