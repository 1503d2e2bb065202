//! Service account tokens: JWTs signed with ES256, bound to an audience, a time and the objects they were
//! issued for (KEP-1205). Claims and refusals are upstream's.

use crate::identity::User;
use crate::x509::CREDENTIAL_ID;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meta::Time;
use parking_lot::Mutex;
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// Issuer and default audience of a cluster's tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How far clocks may differ, and how long after its deletion a bound object still vouches, in seconds.
pub const LEEWAY_SECONDS: i64 = 60;
/// An expiry of 3607 s is the projected volume's: such a token lives a year, and warns after this long.
pub const WARN_ONLY_EXPIRATION_SECONDS: i64 = 3607;
/// Life of those tokens in seconds, for clients that do not read their token again.
pub const EXTENDED_EXPIRATION_SECONDS: i64 = 24 * 365 * 3600;
/// Bound of the cache of verified tokens, in entries.
pub const CACHE_ENTRIES: usize = 4096;
/// Longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not one of ours: another issuer or key, or no JWT. Another authenticator may know it.
    #[error("not a token of this cluster")]
    Foreign,
    /// Ours, and refused; the text is upstream's.
    #[error("{0}")]
    Refused(String),
    #[error("the key cannot be used: {0}")]
    Key(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Audiences,
    /// Seconds since 1970, as `iat` and `nbf`.
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
    pub nbf: i64,
    pub sub: String,
}

/// One audience or several: RFC 7519 allows both forms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Audiences(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Audiences {
    fn from(v: OneOrMany) -> Self {
        Self(match v {
            OneOrMany::One(a) => vec![a],
            OneOrMany::Many(a) => a,
        })
    }
}

/// What the token stands on: it holds only while these objects do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    pub serviceaccount: Ref,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    #[serde(default)]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The cluster's signing key.
pub struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
    /// `{"alg":"ES256","kid":"..."}` in base64.
    header: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// DER of a P-256 SubjectPublicKeyInfo up to the point itself (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl Signer {
    /// A new key, and its PKCS #8 PEM.
    pub fn generate() -> Result<(Self, String), TokenError> {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|e| TokenError::Key(e.to_string()))?;
        let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", document.as_ref()));
        Ok((Self::from_pkcs8(document.as_ref())?, pem))
    }

    pub fn from_pem(text: &str) -> Result<Self, TokenError> {
        let pem = pem::parse(text).map_err(|e| TokenError::Key(e.to_string()))?;
        Self::from_pkcs8(pem.contents())
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, TokenError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|e| TokenError::Key(e.to_string()))?;
        let spki = spki(&key);
        // Upstream's key id: SHA-256 of the public key's DER.
        let key_id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &spki));
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"ES256","kid":"{key_id}"}}"#));
        Ok(Self { key, random, key_id, header })
    }

    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    pub fn public_pem(&self) -> String {
        pem::encode(&pem::Pem::new("PUBLIC KEY", spki(&self.key)))
    }

    /// The JSON Web Key Set of `/openid/v1/jwks` (RFC 7517).
    pub fn jwks(&self) -> serde_json::Value {
        let point = self.key.public_key().as_ref();
        serde_json::json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..65]),
        }]})
    }

    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let payload = serde_json::to_vec(claims).map_err(|e| TokenError::Key(e.to_string()))?;
        let signed = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(payload));
        let signature =
            self.key.sign(&self.random, signed.as_bytes()).map_err(|e| TokenError::Key(e.to_string()))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token this key signed. Says nothing yet of time, audience and bound objects.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Foreign);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Foreign)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Foreign)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Foreign);
        let claims: Claims = serde_json::from_slice(&decode(payload)?).map_err(|_| TokenError::Foreign)?;
        if claims.iss != ISSUER {
            return Err(TokenError::Foreign);
        }
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Foreign)?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref());
        if header.alg != "ES256" || key.verify(signed.as_bytes(), &decode(signature)?).is_err() {
            return Err(TokenError::Refused("invalid signature".to_owned()));
        }
        Ok(claims)
    }
}

fn spki(key: &EcdsaKeyPair) -> Vec<u8> {
    [&P256_SPKI_PREFIX[..], key.public_key().as_ref()].concat()
}

/// The claims of a new token of a service account.
pub struct Issue<'a> {
    pub namespace: &'a str,
    pub account: Ref,
    pub audiences: Vec<String>,
    pub expiration_seconds: i64,
    /// Seconds until use of the token is counted as stale; None: never.
    pub warn_after_seconds: Option<i64>,
    pub pod: Option<Ref>,
    pub node: Option<Ref>,
    pub secret: Option<Ref>,
    /// A fresh id for `jti`.
    pub id: String,
}

impl Issue<'_> {
    pub fn claims(self, now: Time) -> Claims {
        let now = now.as_second();
        Claims {
            aud: Audiences(self.audiences),
            exp: now.saturating_add(self.expiration_seconds),
            iat: now,
            iss: ISSUER.to_owned(),
            jti: self.id,
            nbf: now,
            sub: user_name(self.namespace, &self.account.name),
            kubernetes: Bound {
                namespace: self.namespace.to_owned(),
                node: self.node,
                pod: self.pod,
                secret: self.secret,
                serviceaccount: self.account,
                warnafter: self.warn_after_seconds.map(|s| now.saturating_add(s)),
            },
        }
    }
}

/// `system:serviceaccount:<namespace>:<name>`.
pub fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// Namespace and name of a service account's user name.
pub fn split_user_name(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?
        .split_once(':')
        .filter(|(_, n)| !n.is_empty() && !n.contains(':'))
}

/// What is known of a bound object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vouching {
    pub uid: String,
    pub deleted_at: Option<Time>,
}

/// Reads the objects a token is bound to. `resource`: `serviceaccounts`, `pods`, `secrets` or `nodes`.
pub trait BoundObjects {
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Vouching>;
}

/// The user of verified claims, where time, audience and bound objects hold.
/// `audiences`: those the verifier answers to; any one must be the token's.
/// Errors: [`TokenError::Refused`] with upstream's text.
pub fn validate(
    claims: &Claims,
    objects: &dyn BoundObjects,
    audiences: &[String],
    now: Time,
) -> Result<User, TokenError> {
    let refuse = |why: String| Err(TokenError::Refused(why));
    let seconds = now.as_second();
    if seconds - LEEWAY_SECONDS > claims.exp {
        return refuse("service account token has expired".into());
    }
    if seconds + LEEWAY_SECONDS < claims.nbf {
        return refuse("service account token is not valid yet".into());
    }
    if seconds + LEEWAY_SECONDS < claims.iat {
        return refuse("service account token is issued in the future".into());
    }
    if !claims.aud.0.iter().any(|a| audiences.contains(a)) {
        return refuse(format!(
            "token audiences [{}] is invalid for the target audiences [{}]",
            quoted(&claims.aud.0),
            quoted(audiences)
        ));
    }
    let bound = &claims.kubernetes;
    let (namespace, account) = (&bound.namespace, &bound.serviceaccount);
    let expired = |v: &Vouching| v.deleted_at.is_some_and(|d| d.as_second() < seconds - LEEWAY_SECONDS);
    let Some(have) = objects.get("serviceaccounts", namespace, &account.name) else {
        return refuse(format!("serviceaccounts {:?} not found", account.name));
    };
    if have.uid != account.uid {
        return refuse(format!("service account UID ({}) does not match claim ({})", have.uid, account.uid));
    }
    if expired(&have) {
        return refuse(format!("service account {namespace}/{} has been deleted", account.name));
    }
    // A pod's token names its node only for information.
    let node = bound.node.as_ref().filter(|_| bound.pod.is_none());
    let others = [
        (bound.secret.as_ref(), "secrets", "secret", namespace.as_str()),
        (bound.pod.as_ref(), "pods", "pod", namespace.as_str()),
        (node, "nodes", "node", ""),
    ];
    for (reference, resource, word, namespace) in others {
        let Some(reference) = reference else { continue };
        let Some(have) = objects.get(resource, namespace, &reference.name) else {
            return refuse("service account token has been invalidated".into());
        };
        if have.uid != reference.uid {
            return refuse(format!(
                "{word} UID ({}) does not match service account {word} ref claim ({})",
                have.uid, reference.uid
            ));
        }
        if expired(&have) {
            return refuse("service account token has been invalidated".into());
        }
    }
    Ok(user(claims))
}

fn quoted(list: &[String]) -> String {
    list.iter().map(|a| format!("{a:?}")).collect::<Vec<_>>().join(" ")
}

fn user(claims: &Claims) -> User {
    let bound = &claims.kubernetes;
    let all = format!("system:serviceaccounts:{}", bound.namespace);
    let mut user = User::component(
        &user_name(&bound.namespace, &bound.serviceaccount.name),
        &["system:serviceaccounts", all.as_str()],
    );
    user.uid.clone_from(&bound.serviceaccount.uid);
    let mut extra = |name: &str, value: String| {
        user.extra.insert(name.to_owned(), vec![value]);
    };
    if !claims.jti.is_empty() {
        extra(CREDENTIAL_ID, format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &bound.pod {
        extra("authentication.kubernetes.io/pod-name", pod.name.clone());
        extra("authentication.kubernetes.io/pod-uid", pod.uid.clone());
    }
    if let Some(node) = &bound.node {
        extra("authentication.kubernetes.io/node-name", node.name.clone());
        if !node.uid.is_empty() {
            extra("authentication.kubernetes.io/node-uid", node.uid.clone());
        }
    }
    user
}

/// Tokens whose signature has been checked. What can change (time, bound objects) is checked at each use.
#[derive(Debug, Default)]
pub struct VerifiedTokens {
    entries: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl VerifiedTokens {
    /// As [`Signer::verify`], remembered. The cache is emptied when full: tokens in use come back at once.
    pub fn verify(&self, signer: &Signer, token: &str) -> Result<Arc<Claims>, TokenError> {
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        if let Some(claims) = self.entries.lock().get(&key) {
            return Ok(claims.clone());
        }
        let claims = Arc::new(signer.verify(token)?);
        let mut entries = self.entries.lock();
        if entries.len() >= CACHE_ENTRIES {
            entries.clear();
        }
        entries.insert(key, claims.clone());
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Objects(Vec<(&'static str, &'static str, Vouching)>);
    impl BoundObjects for Objects {
        fn get(&self, resource: &str, _: &str, name: &str) -> Option<Vouching> {
            self.0.iter().find(|(r, n, _)| *r == resource && *n == name).map(|(_, _, v)| v.clone())
        }
    }

    fn at(second: i64) -> Time {
        Time::from_second(1_800_000_000 + second).unwrap()
    }

    fn live(uid: &str) -> Vouching {
        Vouching { uid: uid.into(), deleted_at: None }
    }

    #[test]
    fn a_token_holds_while_what_it_is_bound_to_does() {
        let (signer, pem) = Signer::generate().unwrap();
        let r = |name: &str, uid: &str| Ref { name: name.into(), uid: uid.into() };
        let claims = Issue {
            namespace: "ns",
            account: r("sa", "u1"),
            audiences: vec![ISSUER.into()],
            expiration_seconds: 600,
            warn_after_seconds: None,
            pod: Some(r("p", "u2")),
            node: Some(r("n", "u3")),
            secret: None,
            id: "j".into(),
        }
        .claims(at(0));
        let token = signer.sign(&claims).unwrap();
        let cache = VerifiedTokens::default();
        let verified = cache.verify(&Signer::from_pem(&pem).unwrap(), &token).unwrap();
        assert_eq!(*verified, claims);

        let check = |objects: Vec<_>, audience: &str, now: i64, expect: Result<&str, &str>| {
            let got = validate(&verified, &Objects(objects), &[audience.to_owned()], at(now));
            match (got, expect) {
                (Ok(user), Ok(name)) => assert_eq!(user.name, name),
                (Err(e), Err(text)) => assert_eq!(e.to_string(), text),
                (got, _) => panic!("{got:?}, not {expect:?}"),
            }
        };
        let all = || vec![("serviceaccounts", "sa", live("u1")), ("pods", "p", live("u2"))];
        let ok = Ok("system:serviceaccount:ns:sa");
        let gone = Err("service account token has been invalidated");
        check(all(), ISSUER, 10, ok);
        check(all(), ISSUER, 650, ok);
        check(all(), ISSUER, 661, Err("service account token has expired"));
        check(all(), ISSUER, -61, Err("service account token is not valid yet"));
        check(vec![], ISSUER, 10, Err("serviceaccounts \"sa\" not found"));
        check(all()[..1].to_vec(), ISSUER, 10, gone);
        let reborn = vec![("serviceaccounts", "sa", live("u1")), ("pods", "p", live("u9"))];
        check(reborn, ISSUER, 10, Err("pod UID (u9) does not match service account pod ref claim (u2)"));
        let deleted = |s| {
            let pod = Vouching { uid: "u2".into(), deleted_at: Some(at(s)) };
            vec![("serviceaccounts", "sa", live("u1")), ("pods", "p", pod)]
        };
        check(deleted(0), ISSUER, 60, ok);
        check(deleted(0), ISSUER, 61, gone);
        let wrong = format!("token audiences [\"{ISSUER}\"] is invalid for the target audiences [\"vault\"]");
        check(all(), "vault", 10, Err(&wrong));

        let user = validate(&verified, &Objects(all()), &[ISSUER.into()], at(1)).unwrap();
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
        );
        assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n"]);
    }

    #[test]
    fn a_forged_token_is_refused() {
        let (signer, _) = Signer::generate().unwrap();
        let (other, _) = Signer::generate().unwrap();
        let claims = Claims { iss: ISSUER.into(), ..Claims::default() };
        let token = signer.sign(&claims).unwrap();
        assert_eq!(other.verify(&token), Err(TokenError::Refused("invalid signature".into())));
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let payload = token.split('.').nth(1).unwrap();
        assert!(signer.verify(&format!("{none}.{payload}.")).is_err());
        assert_eq!(signer.verify("abc"), Err(TokenError::Foreign));
        assert!(signer.jwks()["keys"][0]["kid"] == signer.key_id());
    }
}
