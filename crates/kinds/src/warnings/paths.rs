//! Files of one volume that would lie in each other's way: the later overwrites the earlier, or the volume cannot be
//! made.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume, VolumeProjection};

#[derive(Clone, PartialEq, Eq)]
struct File {
    path: String,
    /// Empty in a volume of one source.
    source: String,
}

impl File {
    fn text(&self) -> String {
        if self.source.is_empty() {
            format!("{:?}", self.path)
        } else {
            format!("{:?} ({})", self.path, self.source)
        }
    }
}

fn of_keys(items: &[KeyToPath], source: &str) -> Vec<File> {
    items.iter().map(|i| File { path: i.path.clone(), source: source.to_owned() }).collect()
}

fn of_fields(items: &[DownwardAPIVolumeFile], source: &str) -> Vec<File> {
    items.iter().map(|i| File { path: i.path.clone(), source: source.to_owned() }).collect()
}

/// Puts `files` beside the `placed` ones and tells of each that meets another.
fn place(files: Vec<File>, placed: &mut Vec<File>) -> Vec<String> {
    let mut met = Vec::new();
    for mut file in files {
        file.path.truncate(file.path.trim_end_matches('/').len());
        let within =
            |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        for other in placed.iter().filter(|other| !file.path.is_empty() && !other.path.is_empty()) {
            if *other == file || within(&other.path, &file.path) || within(&file.path, &other.path) {
                met.push(format!("{} with {}", file.text(), other.text()));
            }
        }
        placed.push(file);
    }
    met
}

fn of_projection(source: &VolumeProjection) -> Vec<File> {
    let one = |path: &str, source: String| File { path: path.to_owned(), source };
    if let Some((map, items)) = source.config_map.as_ref().and_then(|m| Some((m, m.items.as_ref()?))) {
        return of_keys(items, &format!("ConfigMap {:?}", map.name));
    }
    if let Some((secret, items)) = source.secret.as_ref().and_then(|s| Some((s, s.items.as_ref()?))) {
        return of_keys(items, &format!("Secret {:?}", secret.name));
    }
    if let Some(items) = source.downward_api.as_ref().and_then(|d| d.items.as_ref()) {
        return of_fields(items, "DownwardAPI");
    }
    if let Some(token) = &source.service_account_token {
        return vec![one(&token.path, "ServiceAccountToken".to_owned())];
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        let name = bundle.name.as_ref().or(bundle.signer_name.as_ref()).map_or("", String::as_str);
        return vec![one(&bundle.path, format!("ClusterTrustBundle {name:?}"))];
    }
    let Some(certificate) = &source.pod_certificate else { return Vec::new() };
    [
        (&certificate.certificate_chain_path, "PodCertificate chain"),
        (&certificate.key_path, "PodCertificate key"),
        (&certificate.credential_bundle_path, "PodCertificate credential bundle"),
    ]
    .into_iter()
    .filter_map(|(path, what)| Some(one(path.as_deref().filter(|p| !p.is_empty())?, what.to_owned())))
    .collect()
}

/// What the volumes of a pod are warned of.
pub fn overlapping(volumes: &[Volume], out: &mut Vec<String>) {
    for volume in volumes {
        let name = &volume.name;
        let mut tell = |what: &str, met: Vec<String>| {
            out.extend(met.into_iter().map(|m| format!("volume {name:?} ({what}): overlapping paths: {m}")));
        };
        if let Some((map, items)) = volume.config_map.as_ref().and_then(|m| Some((m, m.items.as_ref()?))) {
            tell(&format!("ConfigMap {:?}", map.name), place(of_keys(items, ""), &mut Vec::new()));
        }
        if let Some((secret, items)) = volume.secret.as_ref().and_then(|s| Some((s, s.items.as_ref()?))) {
            let of = secret.secret_name.as_deref().unwrap_or("");
            tell(&format!("Secret {of:?}"), place(of_keys(items, ""), &mut Vec::new()));
        }
        if let Some(items) = volume.downward_api.as_ref().and_then(|d| d.items.as_ref()) {
            tell("DownwardAPI", place(of_fields(items, ""), &mut Vec::new()));
        }
        let mut placed = Vec::new();
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if *source == VolumeProjection::default() {
                out.push(format!("volume {name:?} (Projected) has no sources provided"));
                continue;
            }
            let met = place(of_projection(source), &mut placed);
            out.extend(
                met.into_iter().map(|m| format!("volume {name:?} (Projected): overlapping paths: {m}")),
            );
        }
    }
}
