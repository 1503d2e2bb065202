//! A kubeconfig with everything in it: server, authority, client certificate.

use crate::pki::Identity;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// `server`: `https://host:port`. `user`: the name of the user's entry.
pub fn render(server: &str, ca_pem: &str, identity: &Identity, user: &str) -> String {
    let ca = STANDARD.encode(ca_pem);
    let certificate = STANDARD.encode(&identity.certificate_pem);
    let key = STANDARD.encode(&identity.key_pem);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: ironclad\n\
         \x20 cluster:\n\
         \x20   server: {server}\n\
         \x20   certificate-authority-data: {ca}\n\
         users:\n\
         - name: {user}\n\
         \x20 user:\n\
         \x20   client-certificate-data: {certificate}\n\
         \x20   client-key-data: {key}\n\
         contexts:\n\
         - name: {user}@ironclad\n\
         \x20 context:\n\
         \x20   cluster: ironclad\n\
         \x20   user: {user}\n\
         current-context: {user}@ironclad\n"
    )
}
