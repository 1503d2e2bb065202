//! coordination.k8s.io/v1 Lease: who leads, and which nodes live.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::strategy::plain;
use crate::support::{age, column, no_change, push_invalid, text};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

const OLDEST_EMULATION_VERSION: &str = "OldestEmulationVersion";

const COLUMNS: &[Column<Lease>] = &[
    column(
        "Holder",
        "holderIdentity contains the identity of the holder of a current lease. If Coordinated Leader Election is used, the holder identity must be equal to the elected LeaseCandidate.metadata.name field.",
        |l| Cell::str(text(l.spec.as_ref().and_then(|s| s.holder_identity.as_ref()))),
    ),
    age(),
];

pub static LEASE: Registered<Lease> = Registered::new(Kind {
    gvk: GroupVersionKind::of("coordination.k8s.io", "v1", "Lease"),
    names: Names { plural: "leases", singular: "lease", short: &[], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.coordination.v1.Lease",
    storage: "leases",
    name_rule: NameRule::DnsSubdomain,
    default: no_change,
    validate: Validate { create: validate, update: |new, _| validate(new) },
    strategy: Strategy {
        prepare_create: |lease| drop_coordinated_election(lease, None),
        prepare_update: |new, old| drop_coordinated_election(new, old.spec.as_ref()),
        create_on_update: true,
        unconditional_update: false,
        ..plain()
    },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

/// Fields behind a gate that v1.36 ships switched off (CoordinatedLeaderElection), unless they were set before.
fn drop_coordinated_election(lease: &mut Lease, old: Option<&LeaseSpec>) {
    let Some(spec) = &mut lease.spec else { return };
    if old.is_none_or(|o| o.strategy.is_none()) {
        spec.strategy = None;
    }
    if old.is_none_or(|o| o.preferred_holder.is_none()) {
        spec.preferred_holder = None;
    }
}

fn validate(lease: &Lease) -> FieldErrors {
    let mut errors = Vec::new();
    let Some(spec) = &lease.spec else { return errors };
    let path = Path::new("spec");
    if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
        errors.push(FieldError::invalid(
            &path.child("leaseDurationSeconds"),
            seconds,
            "must be greater than 0",
        ));
    }
    if let Some(count) = spec.lease_transitions.filter(|t| *t < 0) {
        let path = path.child("leaseTransitions");
        errors.push(FieldError::invalid(&path, count, "must be greater than or equal to 0"));
    }
    if let Some(strategy) = &spec.strategy {
        let path = path.child("strategy");
        if strategy.contains('/') {
            push_invalid(&mut errors, &path, strategy, rules::is_qualified_name(strategy));
        } else if strategy != OLDEST_EMULATION_VERSION {
            // upstream names the field twice in this path
            errors.push(FieldError::not_supported(
                &path.child("strategy"),
                strategy,
                &[OLDEST_EMULATION_VERSION],
            ));
        }
    }
    let no_strategy = text(spec.strategy.as_ref()).is_empty();
    if !text(spec.preferred_holder.as_ref()).is_empty() && no_strategy {
        let path = path.child("preferredHolder");
        errors.push(FieldError::forbidden(&path, "may only be specified if `strategy` is defined"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{check, object};
    use serde_json::{Value, json};

    #[test]
    fn refusals() {
        check(validate, json!({"spec": {"holderIdentity": "a", "leaseDurationSeconds": 40}}), &[]);
        check(validate, json!({}), &[]);
        check(
            validate,
            json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "preferredHolder": "b"}}),
            &[
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
                "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
            ],
        );
    }

    #[test]
    fn coordinated_election_is_switched_off() {
        let lease = |spec: Value| -> Lease { object(json!({ "spec": spec })) };
        let (mut new, old) =
            (lease(json!({"strategy": "OldestEmulationVersion", "preferredHolder": "a"})), lease(json!({})));
        (LEASE.kind.strategy.prepare_update)(&mut new, &old);
        assert_eq!(new, old);
        let mut kept = lease(json!({"strategy": "OldestEmulationVersion"}));
        let stored = kept.clone();
        (LEASE.kind.strategy.prepare_update)(&mut kept, &stored);
        assert_eq!(kept, stored);
    }
}
