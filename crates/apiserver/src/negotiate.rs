//! Which form of an object a client accepts (`Accept`), and which one a body has (`Content-Type`).

use http::{HeaderMap, header};
use meta::{ApiError, Reason};

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const KNOWN: [&str; 3] = [JSON, YAML, PROTOBUF];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

impl Encoding {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }
}

/// What the object is turned into before it is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Whole,
    Table,
    /// `PartialObjectMetadata`, of a list `PartialObjectMetadataList`.
    Partial,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub encoding: Encoding,
    pub shape: Shape,
    /// `v1` or `v1beta1`, of `meta.k8s.io`, for a shape other than whole.
    pub shape_version: &'static str,
    pub pretty: bool,
    pub gzip: bool,
}

impl Accepted {
    pub const JSON: Self = Self {
        encoding: Encoding::Json,
        shape: Shape::Whole,
        shape_version: "v1",
        pretty: false,
        gzip: false,
    };
}

struct Clause<'a> {
    media_type: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut out: Vec<Clause<'_>> = accept
        .split(',')
        .map(|part| {
            let mut pieces = part.split(';').map(str::trim);
            let media_type = pieces.next().unwrap_or("");
            let params: Vec<(&str, &str)> = pieces.filter_map(|p| p.split_once('=')).collect();
            let quality =
                params.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
            Clause { media_type, params, quality }
        })
        .collect();
    out.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    out
}

fn shape_of(params: &[(&str, &str)], encoding: Encoding) -> Option<(Shape, &'static str)> {
    let get = |name: &str| params.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
    if get("as").is_none() && get("g").is_none() && get("v").is_none() {
        return Some((Shape::Whole, "v1"));
    }
    let version = match (get("g"), get("v")) {
        (Some("meta.k8s.io"), Some("v1")) => "v1",
        (Some("meta.k8s.io"), Some("v1beta1")) => "v1beta1",
        _ => return None,
    };
    match get("as")? {
        "Table" if encoding != Encoding::Protobuf => Some((Shape::Table, version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some((Shape::Partial, version)),
        _ => None,
    }
}

/// The form of the answer. `pretty`: the query's `pretty` parameter.
///
/// # Errors
/// NotAcceptable.
pub fn accepted(headers: &HeaderMap, pretty: Option<bool>) -> Result<Accepted, ApiError> {
    choose(headers, pretty, true)
}

/// As [`accepted`], for an answer that has no table: a review, a token.
///
/// # Errors
/// NotAcceptable.
pub fn accepted_without_table(headers: &HeaderMap) -> Result<Accepted, ApiError> {
    choose(headers, None, false)
}

fn choose(headers: &HeaderMap, pretty: Option<bool>, tables: bool) -> Result<Accepted, ApiError> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    let agent = text(header::USER_AGENT);
    let human = ["curl", "Wget", "Mozilla/5.0"].iter().any(|h| agent.starts_with(h));
    let pretty = pretty.unwrap_or(human);
    let gzip = text(header::ACCEPT_ENCODING).split(',').any(|e| {
        let mut parts = e.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|p| p == "q=0")
    });
    let accept = text(header::ACCEPT);
    if accept.is_empty() || accept == JSON {
        return Ok(Accepted { pretty, gzip, ..Accepted::JSON });
    }
    for clause in clauses(accept) {
        for encoding in [Encoding::Json, Encoding::Yaml, Encoding::Protobuf] {
            let ours = encoding.media_type();
            if clause.media_type != ours && !matches!(clause.media_type, "*/*" | "application/*") {
                continue;
            }
            if clause.params.iter().any(|(k, v)| *k == "stream" && *v != "watch") {
                continue;
            }
            if let Some((shape, shape_version)) =
                shape_of(&clause.params, encoding).filter(|(shape, _)| tables || *shape != Shape::Table)
            {
                let pretty = pretty || clause.params.contains(&("pretty", "1"));
                return Ok(Accepted { encoding, shape, shape_version, pretty, gzip });
            }
        }
    }
    let message = format!("only the following media types are accepted: {}", KNOWN.join(", "));
    Err(ApiError::new(Reason::NotAcceptable, message))
}

/// The encoding of a body.
///
/// # Errors
/// UnsupportedMediaType.
pub fn content_encoding(headers: &HeaderMap) -> Result<Encoding, ApiError> {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let media_type = text.split(';').next().unwrap_or("").trim();
    match media_type {
        "" | JSON => Ok(Encoding::Json),
        YAML => Ok(Encoding::Yaml),
        PROTOBUF => Ok(Encoding::Protobuf),
        _ => Err(unsupported_media_type(&KNOWN)),
    }
}

pub fn unsupported_media_type(accepted: &[&str]) -> ApiError {
    let list = accepted.join(", ");
    let message =
        format!("the body of the request was in an unknown format - accepted media types include: {list}");
    ApiError::new(Reason::UnsupportedMediaType, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_acceptable_clause_wins() {
        let check = |accept: &str, expect: Option<(Encoding, Shape)>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("a header"));
            assert_eq!(accepted(&headers, None).ok().map(|a| (a.encoding, a.shape)), expect, "{accept}");
        };
        check("application/json", Some((Encoding::Json, Shape::Whole)));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some((Encoding::Json, Shape::Table)),
        );
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            Some((Encoding::Protobuf, Shape::Whole)),
        );
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            Some((Encoding::Json, Shape::Partial)),
        );
        check("application/cbor;q=0.9,*/*;q=0.1", Some((Encoding::Json, Shape::Whole)));
        check("text/html", None);
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT,
            "application/json;as=Table;v=v1;g=meta.k8s.io".parse().expect("a header"),
        );
        assert_eq!(accepted_without_table(&headers).map_err(|e| e.code()), Err(406));
    }
}
