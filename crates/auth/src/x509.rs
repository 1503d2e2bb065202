//! Who a verified client certificate names: common name is the user, organizations are the groups
//! (kubernetes.io/docs/reference/access-authn-authz/authentication).

use crate::identity::User;
use std::fmt::Write;

/// Name of the `extra` entry that tells one credential of a user from another.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The user of a peer's certificate (DER) that TLS has verified; None where it names nobody.
pub fn user(certificate_der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate_der).ok()?;
    let subject = certificate.subject();
    // The last common name counts, as in Go's pkix.Name.
    let name = subject.iter_common_name().last()?.as_str().ok().filter(|n| !n.is_empty())?;
    let organizations: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    let mut user = User::component(name, &organizations);
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate_der);
    let mut id = String::from("X509SHA256=");
    for byte in digest.as_ref() {
        let _ = write!(id, "{byte:02x}");
    }
    user.extra.insert(CREDENTIAL_ID.to_owned(), vec![id]);
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Leaf, first_der};

    #[test]
    fn a_certificate_names_user_and_groups() {
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let ca = Authority::generate("kubernetes", now).unwrap();
        let node = ca.issue(&Leaf::node("n1"), now).unwrap();
        let user = user(&first_der(&node.certificate_pem).unwrap()).unwrap();
        assert_eq!(user.name, "system:node:n1");
        assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
    }
}
