//! Names of resources (`cpu`, `requests.memory`, `example.com/gpu`) and the checks on their amounts that
//! quotas, limit ranges, nodes and volumes share.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use meta::{FieldError, FieldErrors, Path, Quantity, validation as rules};

/// What quotas and limit ranges know without a prefix, besides huge pages.
const QUOTA_NAMES: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

const INTEGER_NAMES: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether a quota may limit it without a prefix.
pub fn is_quota_name(name: &str) -> bool {
    QUOTA_NAMES.contains(&name) || is_huge_pages(name) || name.starts_with("requests.hugepages-")
}

/// Whether Kubernetes defines it.
pub fn is_standard_name(name: &str) -> bool {
    is_quota_name(name) || name == "storage"
}

/// Counted by Kubernetes itself rather than by a device plugin.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Counted by a device plugin, in whole units.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && rules::is_qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether an amount of it has no fraction.
pub fn is_counted_whole(name: &str) -> bool {
    INTEGER_NAMES.contains(&name) || is_extended(name)
}

/// Whether a container's limit may be above its request.
pub fn is_overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

/// Where a value stands: most are right, so the path is made only for one that is not.
pub type At<'a> = &'a dyn Fn() -> Path;

/// Errors of the name of a resource.
pub fn check_name(name: &str, at: At<'_>) -> FieldErrors {
    let messages = rules::is_qualified_name(name);
    let mut errors: FieldErrors = messages.into_iter().map(|m| FieldError::invalid(&at(), name, m)).collect();
    if errors.is_empty() && !name.contains('/') && !is_standard_name(name) {
        errors.push(FieldError::invalid(&at(), name, "must be a standard resource type or fully qualified"));
    }
    errors
}

/// As [`check_name`], in a quota.
pub fn check_quota_name(name: &str, at: At<'_>) -> FieldErrors {
    let mut errors = check_name(name, at);
    if !name.contains('/') && !is_quota_name(name) {
        errors.push(FieldError::invalid(&at(), name, "must be a standard resource for quota"));
    }
    errors
}

/// As [`check_name`], in a container's requests and limits.
pub fn check_container_name(name: &str, at: At<'_>) -> FieldErrors {
    if matches!(name, "cpu" | "memory" | "ephemeral-storage") {
        return Vec::new();
    }
    let mut errors = check_name(name, at);
    if !name.contains('/') {
        if !is_huge_pages(name) {
            errors.push(FieldError::invalid(&at(), name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(FieldError::invalid(&at(), name, "doesn't follow extended resource name standard"));
    }
    errors
}

/// Errors of an amount: not negative, and whole where the resource is counted in units.
pub fn check_amount(name: &str, amount: Quantity, at: At<'_>) -> FieldErrors {
    let mut errors = Vec::new();
    if amount.is_negative() {
        errors.push(FieldError::invalid(&at(), amount.to_string(), "must be greater than or equal to 0"));
    }
    if is_counted_whole(name) && amount.milli_value() % 1000 != 0 {
        errors.push(FieldError::invalid(&at(), amount.to_string(), "must be an integer"));
    }
    errors
}

/// Errors of an amount that must be above zero.
pub fn check_positive(amount: &ApiQuantity, path: &Path) -> FieldErrors {
    let quantity = Quantity::of(amount);
    if quantity > Quantity::ZERO {
        return Vec::new();
    }
    vec![FieldError::invalid(path, quantity.to_string(), "must be greater than zero")]
}

/// The canonical text of an amount; `0` where there is none.
pub fn amount_text(amount: Option<&ApiQuantity>) -> String {
    amount.map(Quantity::of).unwrap_or_default().to_string()
}
