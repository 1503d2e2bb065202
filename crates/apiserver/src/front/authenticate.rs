//! Who asks: the verified client certificate, else the bearer token, else nobody; then whom they act for.

use auth::token::{self, BoundObjects, Signer, TokenError, VerifiedTokens, Vouching};
use auth::{Attributes, Authorizer, User, Verdict};
use http::{HeaderMap, header};
use meta::{ApiError, Time};
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a connection says of its peer.
#[derive(Clone, Debug)]
pub enum Peer {
    /// No client certificate.
    Plain,
    /// A client certificate of the cluster's authority.
    Certificate(Arc<User>),
    /// A client certificate that does not verify.
    Refused,
    /// A component in this process: authenticated by being here.
    InProcess(Arc<User>),
}

/// Answers for tokens: the signing key and the objects tokens are bound to.
pub struct Tokens {
    pub signer: Arc<Signer>,
    pub verified: VerifiedTokens,
    pub objects: crate::front::indexes::Objects,
    /// Audiences this server answers to.
    pub audiences: Vec<String>,
}

impl Tokens {
    /// The user of a bearer token that names one of `audiences`, and those of its audiences that matched.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn user(
        &self,
        bearer: &str,
        audiences: &[String],
        now: Time,
    ) -> Result<(User, Vec<String>), TokenError> {
        let claims = self.verified.verify(&self.signer, bearer)?;
        let user = token::validate(&claims, &self.objects, audiences, now)?;
        let matched = audiences.iter().filter(|a| claims.aud.0.contains(a)).cloned().collect();
        Ok((user, matched))
    }
}

impl BoundObjects for crate::front::indexes::Objects {
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Vouching> {
        let entry = self.entry(resource, namespace, name)?;
        let meta = entry.object().ok()?.meta().clone();
        Some(Vouching { uid: meta.uid.unwrap_or_default(), deleted_at: meta.deletion_timestamp.map(|t| t.0) })
    }
}

/// # Errors
/// Unauthorized.
pub fn authenticate(
    peer: &Peer,
    headers: &HeaderMap,
    tokens: &Tokens,
    anonymous: bool,
    now: Time,
) -> Result<Arc<User>, ApiError> {
    if let Peer::Certificate(user) | Peer::InProcess(user) = peer {
        return Ok(user.clone());
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| {
        let (scheme, token) = v.trim().split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    });
    if let Some(bearer) = bearer {
        return match tokens.user(bearer, &tokens.audiences, now) {
            Ok((user, _)) => Ok(Arc::new(user)),
            Err(error) => {
                tracing::debug!(%error, "a bearer token is refused");
                Err(ApiError::unauthorized())
            }
        };
    }
    if anonymous && !matches!(peer, Peer::Refused) {
        return Ok(Arc::new(User::anonymous()));
    }
    Err(ApiError::unauthorized())
}

const IMPERSONATE_USER: &str = "impersonate-user";
const IMPERSONATE_GROUP: &str = "impersonate-group";
const IMPERSONATE_UID: &str = "impersonate-uid";
const IMPERSONATE_EXTRA: &str = "impersonate-extra-";

/// The user the request acts as, where its `Impersonate-*` headers name one. Each thing named needs the verb
/// `impersonate`.
///
/// # Errors
/// BadRequest where there is no user in the headers, Forbidden where `user` may not.
pub fn impersonate(
    headers: &HeaderMap,
    user: &User,
    authorizer: &Authorizer,
) -> Result<Option<User>, ApiError> {
    let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    let one = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let name = one(IMPERSONATE_USER);
    let uid = one(IMPERSONATE_UID);
    let mut groups: Vec<String> = headers.get_all(IMPERSONATE_GROUP).iter().map(text).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix(IMPERSONATE_EXTRA) {
            let key =
                percent_decode_str(key).decode_utf8().map_or_else(|_| key.to_owned(), |k| k.into_owned());
            extra.entry(key).or_default().push(text(value));
        }
    }
    if name.is_empty() {
        if groups.is_empty() && extra.is_empty() && uid.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::bad_request("requested impersonation attributes without impersonating a user"));
    }
    let authentication = "authentication.k8s.io";
    let check = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let attributes = Attributes {
            verb: "impersonate".into(),
            group: group.into(),
            version: if group.is_empty() { String::new() } else { "v1".into() },
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            is_resource: true,
            ..Attributes::default()
        };
        let decision = authorizer.authorize(user, &attributes);
        if decision.verdict == Verdict::Allow {
            return Ok(());
        }
        Err(auth::forbidden(user, &attributes, &decision.reason))
    };
    let named_groups = !groups.is_empty();
    match token::split_user_name(&name) {
        Some((namespace, account)) => {
            check("", "serviceaccounts", "", namespace, account)?;
            if !named_groups {
                groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        None => check("", "users", "", "", &name)?,
    }
    if named_groups {
        groups.iter().try_for_each(|g| check("", "groups", "", "", g))?;
    }
    for (key, values) in &extra {
        values.iter().try_for_each(|v| check(authentication, "userextras", key, "", v))?;
    }
    if !uid.is_empty() {
        check(authentication, "uids", "", "", &uid)?;
    }
    let has = |g: &str| groups.iter().any(|x| x == g);
    if name == User::ANONYMOUS {
        if !has(User::UNAUTHENTICATED) {
            groups.push(User::UNAUTHENTICATED.into());
        }
    } else if !has(User::AUTHENTICATED) && !has(User::UNAUTHENTICATED) {
        groups.push(User::AUTHENTICATED.into());
    }
    Ok(Some(User { name, uid, groups, extra }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impersonation_needs_a_right_for_each_thing_named() {
        let authorizer = Authorizer::default();
        let check = |user: &User, headers: &[(&'static str, &str)], expect: Result<Option<&[&str]>, &str>| {
            let mut map = HeaderMap::new();
            for (k, v) in headers {
                map.append(*k, v.parse().unwrap());
            }
            let got =
                impersonate(&map, user, &authorizer).map(|u| u.map(|u| [vec![u.name], u.groups].concat()));
            match (&got, expect) {
                (Ok(None), Ok(None)) => {}
                (Ok(Some(got)), Ok(Some(expect))) => assert_eq!(got, expect),
                (Err(e), Err(text)) => assert!(e.message.contains(text), "{}", e.message),
                _ => panic!("{got:?}, not {expect:?}"),
            }
        };
        let admin = User::component("root", &[User::MASTERS]);
        let bob = User::component("bob", &[]);
        check(&admin, &[], Ok(None));
        check(&admin, &[("impersonate-user", "eve")], Ok(Some(&["eve", User::AUTHENTICATED])));
        check(
            &admin,
            &[("impersonate-user", "eve"), ("impersonate-group", "a"), ("impersonate-group", "b")],
            Ok(Some(&["eve", "a", "b", User::AUTHENTICATED])),
        );
        check(
            &admin,
            &[("impersonate-user", "system:serviceaccount:ns:sa")],
            Ok(Some(&[
                "system:serviceaccount:ns:sa",
                "system:serviceaccounts",
                "system:serviceaccounts:ns",
                User::AUTHENTICATED,
            ])),
        );
        check(
            &admin,
            &[("impersonate-user", User::ANONYMOUS)],
            Ok(Some(&[User::ANONYMOUS, User::UNAUTHENTICATED])),
        );
        check(&admin, &[("impersonate-group", "a")], Err("without impersonating a user"));
        check(
            &bob,
            &[("impersonate-user", "eve")],
            Err(
                r#"users "eve" is forbidden: User "bob" cannot impersonate resource "users" in API group "" at the cluster scope"#,
            ),
        );
    }
}
