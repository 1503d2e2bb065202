//! Projected volumes: several sources in one directory.

use super::environment::{validate_field_ref, validate_resource_field_ref};
use super::required;
use super::volume_mounts::local_path;
use super::volumes::{validate_items, validate_mode};
use crate::support::text;
use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, DownwardAPIVolumeFile, PodCertificateProjection, ProjectedVolumeSource,
    ServiceAccountTokenProjection,
};
use meta::validation::{
    is_dns1123_label, is_dns1123_subdomain, validate_annotations, validate_label_selector,
};
use meta::{FieldError, FieldErrors, Json, Path};

/// What a volume may take from the pod.
const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const KEY_TYPES: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const MIN_CERTIFICATE_SECONDS: i32 = 3600;
const MAX_CERTIFICATE_SECONDS: i32 = 91 * 24 * 3600;
/// For signers of the kubernetes.io domain.
const MAX_KUBERNETES_CERTIFICATE_SECONDS: i32 = 24 * 3600;
const DUPLICATE_PATHS: &str = "conflicting duplicate paths";

pub(super) fn validate_downward_file(errors: &mut FieldErrors, file: &DownwardAPIVolumeFile, path: &Path) {
    required(errors, || path.child("path"), &file.path);
    local_path(errors, &file.path, || path.child("path"));
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            validate_field_ref(errors, field, VOLUME_FIELDS, &path.child("fieldRef"));
            if resource.is_some() {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", why));
            }
        }
        (None, Some(resource)) => {
            validate_resource_field_ref(errors, resource, true, &path.child("resourceFieldRef"));
        }
        (None, None) => {
            errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
    validate_mode(errors, file.mode, || path.child("mode"));
}

/// The files that the sources before have claimed.
#[derive(Default)]
struct Claimed<'a>(Vec<&'a str>);

impl<'a> Claimed<'a> {
    fn claim(&mut self, errors: &mut FieldErrors, file: &'a str, shown: &str, path: &Path) {
        if self.0.contains(&file) {
            errors.push(FieldError::invalid(path, shown, DUPLICATE_PATHS));
        } else {
            self.0.push(file);
        }
    }
}

pub(super) fn validate_projected(errors: &mut FieldErrors, projected: &ProjectedVolumeSource, path: &Path) {
    validate_mode(errors, projected.default_mode, || path.child("defaultMode"));
    let mut claimed = Claimed::default();
    for (i, source) in projected.sources.iter().flatten().enumerate() {
        let at = path.child("sources").index(i);
        let mut sources = 0;
        let keyed = [
            ("secret", source.secret.as_ref().map(|s| (&s.name, &s.items))),
            ("configMap", source.config_map.as_ref().map(|c| (&c.name, &c.items))),
        ];
        for (field, reference) in keyed {
            let Some((name, items)) = reference else { continue };
            sources += 1;
            let at = at.child(field);
            required(errors, || at.child("name"), name);
            let items = items.as_deref().unwrap_or_default();
            validate_items(errors, items, &at);
            for item in items.iter().filter(|i| !i.path.is_empty()) {
                claimed.claim(errors, &item.path, name, path);
            }
        }
        if let Some(api) = &source.downward_api {
            sources += 1;
            let at = at.child("downwardAPI");
            for file in api.items.iter().flatten() {
                validate_downward_file(errors, file, &at);
                if !file.path.is_empty() {
                    claimed.claim(errors, &file.path, &file.path, path);
                }
            }
        }
        if let Some(token) = &source.service_account_token {
            sources += 1;
            validate_token(errors, token, &at.child("serviceAccountToken"), path);
        }
        if let Some(bundle) = &source.cluster_trust_bundle {
            sources += 1;
            let at = at.child("clusterTrustBundle");
            validate_trust_bundle(errors, bundle, &at);
            required(errors, || at.child("path"), &bundle.path);
            local_path(errors, &bundle.path, || at.child("path"));
            claimed.claim(errors, &bundle.path, &bundle.path, path);
        }
        if let Some(certificate) = &source.pod_certificate {
            sources += 1;
            let at = at.child("podCertificate");
            validate_certificate(errors, certificate, &at);
            let files = [
                ("credentialBundlePath", text(certificate.credential_bundle_path.as_ref())),
                ("keyPath", text(certificate.key_path.as_ref())),
                ("certificateChainPath", text(certificate.certificate_chain_path.as_ref())),
            ];
            if files.iter().all(|(_, file)| file.is_empty()) {
                let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
                errors.push(FieldError::required(&at, why));
            }
            for (field, file) in files.into_iter().filter(|(_, file)| !file.is_empty()) {
                local_path(errors, file, || at.child(field));
                claimed.claim(errors, file, file, path);
            }
        }
        if sources > 1 {
            errors.push(FieldError::forbidden(&at, "may not specify more than 1 volume type per source"));
        }
    }
}

fn validate_token(
    errors: &mut FieldErrors,
    token: &ServiceAccountTokenProjection,
    path: &Path,
    volume: &Path,
) {
    let seconds = token.expiration_seconds.unwrap_or(0);
    let at = || path.child("expirationSeconds");
    if seconds < MIN_TOKEN_SECONDS {
        errors.push(FieldError::invalid(&at(), seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > MAX_TOKEN_SECONDS {
        errors.push(FieldError::invalid(
            &at(),
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        ));
    }
    required(errors, || volume.child("path"), &token.path);
    local_path(errors, &token.path, || volume.child("path"));
}

fn validate_trust_bundle(errors: &mut FieldErrors, bundle: &ClusterTrustBundleProjection, path: &Path) {
    match (bundle.name.as_deref(), bundle.signer_name.as_deref()) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(
                path,
                Json(bundle),
                "only one of name and signerName may be used",
            ));
        }
        (Some(name), None) => {
            if name.is_empty() {
                errors.push(FieldError::required(&path.child("name"), "must be a valid object name"));
            }
            // a bundle of a signer is called `<signer with : for />:<name>`
            let own = name.rsplit_once(':').map_or(name, |(_, own)| own);
            for message in is_dns1123_subdomain(own) {
                let why = format!("not a valid clustertrustbundlename: {message}");
                errors.push(FieldError::invalid(&path.child("name"), name, why));
            }
            if let Some(selector) = &bundle.label_selector {
                let why = "labelSelector must be unset if name is specified";
                errors.push(FieldError::invalid(&path.child("labelSelector"), Json(selector), why));
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.push(FieldError::required(&path.child("signerName"), "must be a valid signer name"));
            }
            validate_signer(errors, signer, &path.child("signerName"));
            if let Some(selector) = &bundle.label_selector {
                errors.extend(validate_label_selector(selector, &path.child("labelSelector")));
            }
        }
        (None, None) => {
            errors.push(FieldError::required(path, "either name or signerName must be specified"))
        }
    }
}

fn validate_certificate(errors: &mut FieldErrors, certificate: &PodCertificateProjection, path: &Path) {
    let signer = &certificate.signer_name;
    validate_signer(errors, signer, &path.child("signerName"));
    if let Some(annotations) = &certificate.user_annotations {
        errors.extend(validate_annotations(annotations, &path.child("userAnnotations")));
    }
    if !KEY_TYPES.contains(&certificate.key_type.as_str()) {
        errors.push(FieldError::not_supported(&path.child("keyType"), &certificate.key_type, KEY_TYPES));
    }
    if let Some(seconds) = certificate.max_expiration_seconds {
        let domain = signer.split('/').next().unwrap_or_default();
        let kubernetes = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
        let most = if kubernetes { MAX_KUBERNETES_CERTIFICATE_SECONDS } else { MAX_CERTIFICATE_SECONDS };
        let at = || path.child("maxExpirationSeconds");
        if seconds < MIN_CERTIFICATE_SECONDS {
            let why = format!("if provided, maxExpirationSeconds must be >= {MIN_CERTIFICATE_SECONDS}");
            errors.push(FieldError::invalid(&at(), seconds, why));
        }
        if seconds > most {
            errors.push(FieldError::invalid(
                &at(),
                seconds,
                format!("if provided, maxExpirationSeconds must be <= {most}"),
            ));
        }
    }
}

/// `example.com/signer-name`
fn validate_signer(errors: &mut FieldErrors, name: &str, path: &Path) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let Some((domain, own)) = name.split_once('/').filter(|(_, own)| !own.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path, name, why));
        return;
    };
    let faulty = |part: &str, label: &str, messages: Vec<String>| -> FieldErrors {
        let text = |m| format!("validating label {label:?}: {m}");
        messages.into_iter().map(|m| FieldError::invalid(path, part, text(m))).collect()
    };
    if let Some(label) = domain.split('.').find(|l| !is_dns1123_label(l).is_empty()) {
        errors.extend(faulty(domain, label, is_dns1123_label(label)));
    }
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, domain, why));
    }
    if let Some(label) = own.split('.').find(|l| !is_dns1123_subdomain(l).is_empty()) {
        errors.extend(faulty(own, label, is_dns1123_subdomain(label)));
    }
}
