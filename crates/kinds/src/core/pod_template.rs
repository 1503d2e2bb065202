//! v1 PodTemplate.

use crate::apps::{container_images, container_names};
use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::pod_spec::{default_pod_template, validate_pod_template};
use crate::strategy::{first_generation, next_generation, plain, semantic_eq};
use crate::support::{column, format_labels};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplate};
use meta::{FieldErrors, GroupVersionKind, Path};

const COLUMNS: &[Column<PodTemplate>] = &[
    column("Containers", "Names of each container in the template.", |t| {
        Cell::str(container_names(pod_spec(t)))
    }),
    column("Images", "Images referenced by each container in the template.", |t| {
        Cell::str(container_images(pod_spec(t)))
    }),
    column("Pod Labels", "The labels for the pod template.", |t| {
        let meta = t.template.as_ref().and_then(|t| t.metadata.as_ref());
        Cell::str(format_labels(meta.and_then(|m| m.labels.as_ref()).into_iter().flatten()))
    }),
];

pub static POD_TEMPLATE: Registered<PodTemplate> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "PodTemplate"),
    names: Names { plural: "podtemplates", singular: "podtemplate", short: &[], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.PodTemplate",
    storage: "podtemplates",
    name_rule: NameRule::DnsSubdomain,
    default: |t| default_pod_template(t.template.get_or_insert_default()),
    validate: Validate { create: validate, update: |new, _| validate(new) },
    strategy: Strategy {
        warnings: |new, old| {
            let changed = old.is_none_or(|old| old.metadata.generation != new.metadata.generation);
            if changed {
                crate::warnings::pods::template(&Path::new("template"), new.template.as_ref())
            } else {
                Vec::new()
            }
        },
        prepare_create: first_generation,
        prepare_update: |new, old| {
            let changed = !semantic_eq(&new.template, &old.template);
            next_generation(new, old, changed);
        },
        ..plain()
    },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

fn pod_spec(t: &PodTemplate) -> Option<&PodSpec> {
    t.template.as_ref().and_then(|t| t.spec.as_ref())
}

fn validate(t: &PodTemplate) -> FieldErrors {
    t.template.as_ref().map(|t| validate_pod_template(t, &Path::new("template"))).unwrap_or_default()
}
