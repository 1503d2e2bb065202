//! ServiceAccount: every pod has an account, its token where it is wanted, and its pull secrets.

use crate::request::{typed, typed_mut};
use crate::{Mutator, Operation, Request, Validator};
use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, Pod, PodSpec, ServiceAccount, Volume, VolumeMount,
};
use kinds::Object;
use meta::ApiError;
use serde_json::json;

/// The account of pods that name none; made in every namespace by its controller.
pub const DEFAULT_ACCOUNT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An expiry that the token request knows for the projected volume's.
const EXPIRATION_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

pub const MUTATOR: Mutator = Mutator { name: "ServiceAccount", handles: handles_create, admit };
pub const VALIDATOR: Validator = Validator { name: "ServiceAccount", handles, validate };

fn handles_create(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    operation == Operation::Create && group.is_empty() && resource == "pods" && subresource.is_empty()
}

fn handles(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    let ephemeral = operation == Operation::Update && subresource == "ephemeralcontainers";
    group.is_empty()
        && resource == "pods"
        && (ephemeral || handles_create(operation, group, resource, subresource))
}

fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR))
}

fn account(r: &Request<'_>, name: &str) -> Result<ServiceAccount, String> {
    r.find("", "serviceaccounts", r.namespace, name).ok_or_else(|| {
        format!("error looking up service account {}/{name}: serviceaccount {name:?} not found", r.namespace)
    })
}

fn admit(r: &Request<'_>, mut object: Option<&mut Object>) -> Result<(), ApiError> {
    let Some(pod) = typed_mut::<Pod>(object.as_deref_mut()) else { return Ok(()) };
    // The kubelet would tell its mirror from the pod by any change.
    if is_mirror(pod) {
        return Ok(());
    }
    let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
    let name = spec.service_account_name.clone().filter(|n| !n.is_empty());
    let name = name.unwrap_or_else(|| DEFAULT_ACCOUNT.to_owned());
    spec.service_account_name = Some(name.clone());
    spec.service_account = Some(name.clone());
    let account = match account(r, &name) {
        Ok(account) => account,
        Err(why) => return Err(r.forbidden(object.as_deref(), why)),
    };
    let automount = spec.automount_service_account_token.or(account.automount_service_account_token);
    if automount.unwrap_or(true) {
        mount_token(spec, r.suffix);
    }
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = account.image_pull_secrets.filter(|s| !s.is_empty());
    }
    Ok(())
}

fn mount_token(spec: &mut PodSpec, suffix: &str) {
    let existing =
        spec.volumes.iter().flatten().find(|v| v.name.starts_with(VOLUME_PREFIX)).map(|v| v.name.clone());
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mount = VolumeMount {
        name: name.clone(),
        mount_path: MOUNT_PATH.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let mut needed = false;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let mounts = container.volume_mounts.get_or_insert_default();
        if mounts.iter().all(|m| m.mount_path != MOUNT_PATH) {
            mounts.push(mount.clone());
            needed = true;
        }
    }
    if needed && existing.is_none() {
        spec.volumes.get_or_insert_default().push(token_volume(&name));
    }
}

fn token_volume(name: &str) -> Volume {
    let volume = json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": EXPIRATION_SECONDS}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    });
    serde_json::from_value(volume).expect("the volume is of the API's form")
}

fn validate(r: &Request<'_>, object: Option<&Object>) -> Result<(), ApiError> {
    let Some(pod) = object.and_then(typed::<Pod>) else { return Ok(()) };
    let Some(spec) = &pod.spec else { return Ok(()) };
    let name = spec.service_account_name.clone().unwrap_or_default();
    let outcome = if is_mirror(pod) && r.operation == Operation::Create {
        mirror(spec)
    } else if name.is_empty() {
        let pod_name = pod.metadata.name.clone().unwrap_or_default();
        Err(format!("no service account specified for pod {}/{pod_name}", r.namespace))
    } else {
        account(r, &name).and_then(|account| {
            let enforce = account.metadata.annotations.as_ref().and_then(|a| a.get(ENFORCE));
            let enforced =
                enforce.is_some_and(|v| matches!(v.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
            if enforced { mountable(spec, &account, r.subresource) } else { Ok(()) }
        })
    };
    outcome.map_err(|why| r.forbidden(object, why))
}

/// A mirror pod shows what a node runs by itself: it may lead to nothing in the API.
fn mirror(spec: &PodSpec) -> Result<(), String> {
    if spec.service_account_name.as_ref().is_some_and(|n| !n.is_empty()) {
        return Err("a mirror pod may not reference service accounts".into());
    }
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let in_environment = containers().any(|c| {
        c.env.iter().flatten().any(|e| secret_key(e).is_some())
            || c.env_from.iter().flatten().any(|e| e.secret_ref.is_some())
    });
    let projections = || {
        spec.volumes
            .iter()
            .flatten()
            .filter_map(|v| v.projected.as_ref())
            .flat_map(|p| p.sources.iter().flatten())
    };
    let secrets = in_environment
        || spec.image_pull_secrets.as_ref().is_some_and(|s| !s.is_empty())
        || spec.volumes.iter().flatten().any(|v| v.secret.is_some())
        || projections().any(|p| p.secret.is_some());
    if secrets {
        return Err("a mirror pod may not reference secrets".into());
    }
    if projections().any(|p| p.service_account_token.is_some()) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections".into());
    }
    Ok(())
}

fn secret_key(e: &EnvVar) -> Option<&str> {
    e.value_from.as_ref()?.secret_key_ref.as_ref().map(|s| s.name.as_str())
}

/// Only the secrets that the account lists, where its annotation says so.
fn mountable(spec: &PodSpec, account: &ServiceAccount, subresource: &str) -> Result<(), String> {
    let who = account.metadata.name.clone().unwrap_or_default();
    let listed = |name: &str| account.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(name));
    let tail = format!("is not allowed because service account {who} does not reference that secret");
    let environment = |word: &str,
                       container: &str,
                       env: &Option<Vec<EnvVar>>,
                       from: &Option<Vec<EnvFromSource>>| {
        for e in env.iter().flatten() {
            if let Some(secret) = secret_key(e).filter(|s| !listed(s)) {
                let variable = &e.name;
                return Err(format!(
                    "{word} {container} with envVar {variable} referencing secret.secretName=\"{secret}\" {tail}"
                ));
            }
        }
        for secret in from.iter().flatten().filter_map(|e| e.secret_ref.as_ref()) {
            if !listed(&secret.name) {
                let secret = &secret.name;
                return Err(format!(
                    "{word} {container} with envFrom referencing secret.secretName=\"{secret}\" {tail}"
                ));
            }
        }
        Ok(())
    };
    if subresource == "ephemeralcontainers" {
        let mut containers = spec.ephemeral_containers.iter().flatten();
        return containers.try_for_each(|c| environment("ephemeral container", &c.name, &c.env, &c.env_from));
    }
    for secret in spec.volumes.iter().flatten().filter_map(|v| v.secret.as_ref()?.secret_name.as_deref()) {
        if !listed(secret) {
            return Err(format!("volume with secret.secretName=\"{secret}\" {tail}"));
        }
    }
    let each = |word: &str, containers: &[Container]| {
        containers.iter().try_for_each(|c| environment(word, &c.name, &c.env, &c.env_from))
    };
    each("init container", spec.init_containers.as_deref().unwrap_or_default())?;
    each("container", &spec.containers)?;
    for (i, pull) in spec.image_pull_secrets.iter().flatten().enumerate() {
        if !account.image_pull_secrets.iter().flatten().any(|s| s.name == pull.name) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{}\" is not allowed because service account {who} does not reference \
                 that imagePullSecret",
                pull.name
            ));
        }
    }
    Ok(())
}
