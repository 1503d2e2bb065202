//! Certificates: what each component's looks like, how one is issued and when it is due for renewal.
//! ECDSA P-256 throughout: a key costs microseconds to make, so that a cluster starts at once.

pub mod directory;

use meta::Time;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::CertificateDer;

/// Life of the authorities, in days (kubeadm's ten years).
const CA_LIFE_DAYS: i64 = 3650;
/// Life of everything they sign, in days.
const LEAF_LIFE_DAYS: i64 = 365;
/// Certificates are valid from a little before now, for clocks that run behind.
const BACKDATE_SECONDS: i64 = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Server,
    Client,
}

/// A certificate to be issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub common_name: String,
    /// The groups of a client.
    pub organizations: Vec<String>,
    pub usage: Usage,
    /// DNS names and IP addresses of a server.
    pub names: Vec<String>,
}

impl Leaf {
    pub fn client(common_name: &str, organizations: &[&str]) -> Self {
        Self {
            common_name: common_name.to_owned(),
            organizations: organizations.iter().map(|o| (*o).to_owned()).collect(),
            usage: Usage::Client,
            names: Vec::new(),
        }
    }

    pub fn server(common_name: &str, names: Vec<String>) -> Self {
        Self { common_name: common_name.to_owned(), organizations: Vec::new(), usage: Usage::Server, names }
    }

    /// The administrator's: `system:masters` passes every authorizer.
    pub fn admin() -> Self {
        Self::client("kubernetes-admin", &["system:masters"])
    }

    pub fn controller_manager() -> Self {
        Self::client("system:kube-controller-manager", &[])
    }

    pub fn scheduler() -> Self {
        Self::client("system:kube-scheduler", &[])
    }

    pub fn proxy() -> Self {
        Self::client("system:kube-proxy", &["system:node-proxier"])
    }

    /// The DNS server's: the service account that CoreDNS runs as.
    pub fn dns() -> Self {
        Self::service_account("kube-system", "coredns")
    }

    /// Who a service account is, as its tokens say.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
        Self::client(&format!("system:serviceaccount:{namespace}:{name}"), &groups)
    }

    /// A kubelet's identity, as the node authorizer reads it.
    pub fn node(name: &str) -> Self {
        Self::client(&format!("system:node:{name}"), &["system:nodes"])
    }

    /// What the API server shows to kubelets.
    pub fn apiserver_kubelet_client() -> Self {
        Self::client("kube-apiserver-kubelet-client", &["system:masters"])
    }

    /// What the API server shows to aggregated API servers.
    pub fn front_proxy_client() -> Self {
        Self::client("front-proxy-client", &[])
    }

    /// The API server's own. `extra`: the node's addresses, its host name, the service IP.
    pub fn apiserver(extra: &[String]) -> Self {
        let fixed = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            "::1",
        ];
        let mut names: Vec<String> = fixed.iter().map(|n| (*n).to_owned()).collect();
        for name in extra {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        Self::server("kube-apiserver", names)
    }

    /// A kubelet's serving certificate. `names`: the node's host name and addresses.
    pub fn kubelet_server(node: &str, names: Vec<String>) -> Self {
        Self {
            organizations: vec!["system:nodes".into()],
            ..Self::server(&format!("system:node:{node}"), names)
        }
    }
}

/// A certificate with its private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// A certificate authority that can sign.
pub struct Authority {
    pub identity: Identity,
    certificate_der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.identity.fmt(f)
    }
}

fn offset(now: Time, seconds: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(now.as_second().saturating_add(seconds))
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

impl Authority {
    /// A new self-signed authority, valid for ten years.
    pub fn generate(common_name: &str, now: Time) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = offset(now, -BACKDATE_SECONDS);
        params.not_after = offset(now, CA_LIFE_DAYS * 86_400);
        let certificate = params.self_signed(&key)?;
        let identity = Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() };
        let certificate_der = certificate.der().to_vec();
        // The issuer is read back from the certificate, so that a new authority and one that was loaded sign alike.
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(certificate_der.clone()), key)?;
        Ok(Self { identity, certificate_der, issuer })
    }

    /// An authority read back from its PEM files.
    pub fn load(identity: Identity) -> Result<Self, rcgen::Error> {
        let key = KeyPair::from_pem(&identity.key_pem)?;
        let issuer = Issuer::from_ca_cert_pem(&identity.certificate_pem, key)?;
        let certificate_der =
            first_der(&identity.certificate_pem).ok_or(rcgen::Error::CouldNotParseCertificate)?;
        Ok(Self { identity, certificate_der, issuer })
    }

    /// Signs a new key pair for `leaf`, valid for a year.
    pub fn issue(&self, leaf: &Leaf, now: Time) -> Result<Identity, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(leaf.names.clone())?;
        params.distinguished_name = DistinguishedName::new();
        for o in &leaf.organizations {
            params.distinguished_name.push(DnType::OrganizationName, o.as_str());
        }
        params.distinguished_name.push(DnType::CommonName, leaf.common_name.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match leaf.usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        params.not_before = offset(now, -BACKDATE_SECONDS);
        params.not_after = offset(now, LEAF_LIFE_DAYS * 86_400);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// Whether a stored certificate can go on serving as `leaf`: it parses, this authority signed it, it says
    /// what `leaf` says, and more than a third of its life remains.
    pub fn still_good(&self, stored: &Identity, leaf: &Leaf, now: Time) -> bool {
        let Some(der) = first_der(&stored.certificate_pem) else { return false };
        let (Ok((_, have)), Ok((_, ca))) = (
            x509_parser::parse_x509_certificate(&der),
            x509_parser::parse_x509_certificate(&self.certificate_der),
        ) else {
            return false;
        };
        signed_by(&have, &ca)
            && !due_for_renewal(&have, now)
            && says(&have, leaf)
            && KeyPair::from_pem(&stored.key_pem)
                .is_ok_and(|k| have.public_key().subject_public_key.data.as_ref() == k.public_key_raw())
    }
}

/// The DER of the first certificate in a PEM text.
pub fn first_der(pem_text: &str) -> Option<Vec<u8>> {
    pem::parse(pem_text).ok().filter(|p| p.tag() == "CERTIFICATE").map(pem::Pem::into_contents)
}

type Certificate<'a> = x509_parser::certificate::X509Certificate<'a>;

fn signed_by(certificate: &Certificate<'_>, ca: &Certificate<'_>) -> bool {
    use x509_parser::extensions::ParsedExtension as Ext;
    let authority = certificate.iter_extensions().find_map(|e| match e.parsed_extension() {
        Ext::AuthorityKeyIdentifier(a) => a.key_identifier.as_ref().map(|k| k.0),
        _ => None,
    });
    let subject = ca.iter_extensions().find_map(|e| match e.parsed_extension() {
        Ext::SubjectKeyIdentifier(k) => Some(k.0),
        _ => None,
    });
    authority.is_some() && authority == subject && certificate.issuer().as_raw() == ca.subject().as_raw()
}

/// True when less than a third of the life remains, or the certificate is not valid yet.
fn due_for_renewal(certificate: &Certificate<'_>, now: Time) -> bool {
    let begin = certificate.validity().not_before.timestamp();
    let end = certificate.validity().not_after.timestamp();
    let now = now.as_second();
    now < begin || (end - now) * 3 < end - begin
}

fn says(certificate: &Certificate<'_>, leaf: &Leaf) -> bool {
    use x509_parser::extensions::GeneralName;
    let subject = certificate.subject();
    let common_name = subject.iter_common_name().next().and_then(|c| c.as_str().ok());
    let organizations: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    let mut have: Vec<String> = Vec::new();
    if let Ok(Some(san)) = certificate.subject_alternative_name() {
        for name in &san.value.general_names {
            match name {
                GeneralName::DNSName(d) => have.push((*d).to_owned()),
                GeneralName::IPAddress(b) => {
                    have.extend(<[u8; 4]>::try_from(*b).map(|b| std::net::Ipv4Addr::from(b).to_string()));
                    have.extend(<[u8; 16]>::try_from(*b).map(|b| std::net::Ipv6Addr::from(b).to_string()));
                }
                _ => {}
            }
        }
    }
    common_name == Some(leaf.common_name.as_str())
        && organizations == leaf.organizations
        && leaf.names.iter().all(|n| have.contains(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_it_no_longer_serves() {
        let now: Time = "2026-06-01T00:00:00Z".parse().unwrap();
        let days = |n: i64| Time::from_second(now.as_second() + n * 86_400).unwrap();
        let ca = Authority::generate("kubernetes", now).unwrap();
        let leaf = Leaf::apiserver(&["10.96.0.1".into(), "node-1".into()]);
        let stored = ca.issue(&leaf, now).unwrap();
        let reloaded = Authority::load(ca.identity.clone()).unwrap();
        assert!(reloaded.still_good(&stored, &leaf, days(1)));
        assert!(
            reloaded.still_good(&reloaded.issue(&leaf, now).unwrap(), &leaf, now),
            "signed after a reload"
        );
        assert!(!ca.still_good(&stored, &leaf, days(250)), "less than a third of its life remains");
        assert!(!ca.still_good(&stored, &Leaf::apiserver(&["192.0.2.7".into()]), now), "a new address");
        assert!(!ca.still_good(&stored, &Leaf::admin(), now), "another subject");
        let other = Authority::generate("kubernetes", now).unwrap();
        assert!(!other.still_good(&stored, &leaf, now), "another authority of the same name");
        let mixed = Identity { key_pem: ca.identity.key_pem.clone(), ..stored };
        assert!(!ca.still_good(&mixed, &leaf, now), "a key that is not the certificate's");
    }
}
