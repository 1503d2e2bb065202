//! v1 Event. Stored once; events.k8s.io/v1 shows the same objects (see [`events_event`](crate::events_event)).

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Selectable, Strategy, Validate};
use crate::object::Registered;
use crate::strategy::plain;
use crate::support::{instant, no_change, or, push_invalid, text};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

/// Bytes.
const REPORTING_INSTANCE_LIMIT: usize = 128;
const ACTION_LIMIT: usize = 128;
const REASON_LIMIT: usize = 128;
const NOTE_LIMIT: usize = 1024;

const fn shown(
    name: &'static str,
    priority: i32,
    description: &'static str,
    cell: fn(&Event) -> Cell,
) -> Column<Event> {
    Column { name, kind: "string", format: "", description, priority, cell }
}

/// Events lead with the time they were seen: NAME, the column of format `name`, comes last.
pub(crate) const COLUMNS: &[Column<Event>] = &[
    shown("Last Seen", 0, "The time at which the most recent occurrence of this event was recorded.", |e| {
        Cell::Age(last_seen(e))
    }),
    shown("Type", 0, "Type of this event (Normal, Warning), new types could be added in the future", |e| {
        Cell::str(text(e.type_.as_ref()))
    }),
    shown(
        "Reason",
        0,
        "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
        |e| Cell::str(text(e.reason.as_ref())),
    ),
    shown("Object", 0, "The object that this event is about.", |e| Cell::str(target(e))),
    shown(
        "Subobject",
        1,
        "If referring to a piece of an object instead of an entire object, this string should contain a valid JSON/Go field access statement, such as desiredState.manifest.containers[2].",
        |e| Cell::str(text(e.involved_object.field_path.as_ref())),
    ),
    shown(
        "Source",
        1,
        "The component reporting this event. Should be a short machine understandable string.",
        |e| Cell::str(source(e)),
    ),
    shown("Message", 0, "A human-readable description of the status of this operation.", |e| {
        Cell::str(text(e.message.as_ref()).trim())
    }),
    shown(
        "First Seen",
        1,
        "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
        |e| Cell::Age(first_seen(e)),
    ),
    shown("Count", 1, "The number of times this event has occurred.", |e| Cell::int(count(e))),
    Column {
        name: "Name",
        kind: "string",
        format: "name",
        description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically.",
        priority: 1,
        cell: |e| Cell::str(text(e.metadata.name.as_ref())),
    },
];

const SELECTABLE: &[Selectable<Event>] = &[
    Selectable { path: "involvedObject.kind", value: |e| owned(&e.involved_object.kind) },
    Selectable { path: "involvedObject.namespace", value: |e| owned(&e.involved_object.namespace) },
    Selectable { path: "involvedObject.name", value: |e| owned(&e.involved_object.name) },
    Selectable { path: "involvedObject.uid", value: |e| owned(&e.involved_object.uid) },
    Selectable { path: "involvedObject.apiVersion", value: |e| owned(&e.involved_object.api_version) },
    Selectable {
        path: "involvedObject.resourceVersion",
        value: |e| owned(&e.involved_object.resource_version),
    },
    Selectable { path: "involvedObject.fieldPath", value: |e| owned(&e.involved_object.field_path) },
    Selectable { path: "reason", value: |e| owned(&e.reason) },
    Selectable { path: "reportingComponent", value: |e| owned(&e.reporting_component) },
    Selectable { path: "source", value: source_component },
    Selectable { path: "type", value: |e| owned(&e.type_) },
];

pub static EVENT: Registered<Event> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "Event"),
    names: Names { plural: "events", singular: "event", short: &["ev"], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.Event",
    storage: "events",
    // named after what they are about, which may be a role such as `system:node`
    name_rule: NameRule::PathSegment,
    default: no_change,
    validate: Validate {
        create: |e| validate(e, "reportingComponent"),
        update: |new, _| validate(new, "reportingComponent"),
    },
    strategy: Strategy { create_on_update: true, ..plain() },
    subresources: &[],
    selectable: SELECTABLE,
    columns: COLUMNS,
});

fn owned(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

fn source_component(event: &Event) -> String {
    let component = text(event.source.as_ref().and_then(|s| s.component.as_ref()));
    or(component, text(event.reporting_component.as_ref())).to_owned()
}

fn first_seen(event: &Event) -> Option<Timestamp> {
    instant(event.first_timestamp.as_ref()).or_else(|| event.event_time.as_ref().map(|t| t.0))
}

fn last_seen(event: &Event) -> Option<Timestamp> {
    match &event.series {
        Some(series) => series.last_observed_time.as_ref().map(|t| t.0),
        None => instant(event.last_timestamp.as_ref()).or_else(|| first_seen(event)),
    }
}

fn count(event: &Event) -> i32 {
    match &event.series {
        Some(series) => series.count.unwrap_or(0),
        // an event that happened once carries no count in the newer API
        None => event.count.filter(|c| *c != 0).unwrap_or(1),
    }
}

fn target(event: &Event) -> String {
    let kind = text(event.involved_object.kind.as_ref()).to_lowercase();
    match text(event.involved_object.name.as_ref()) {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn source(event: &Event) -> String {
    let source = event.source.as_ref();
    let component = source_component(event);
    let host = or(text(source.and_then(|s| s.host.as_ref())), text(event.reporting_instance.as_ref()));
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

/// Errors of an event written through either group; `controller_field` is what that group calls the
/// controller that reports.
pub(crate) fn validate(event: &Event, controller_field: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let namespace = text(event.metadata.namespace.as_ref());
    let involved = text(event.involved_object.namespace.as_ref());
    let agrees = match (event.event_time.is_some(), involved) {
        // clients of old left the namespace of cluster-wide objects' events at its default
        (false, "") => matches!(namespace, "" | "default"),
        (false, involved) => namespace == involved,
        (true, "") => matches!(namespace, "default" | "kube-system"),
        (true, _) => true,
    };
    if !agrees {
        let path = Path::new("involvedObject").child("namespace");
        errors.push(FieldError::invalid(&path, involved, "does not match event.namespace"));
    }
    if event.event_time.is_some() {
        let path = Path::new(controller_field);
        let controller = text(event.reporting_component.as_ref());
        if controller.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        push_invalid(&mut errors, &path, controller, rules::is_qualified_name(controller));
        for (field, value, limit, required) in [
            ("reportingInstance", &event.reporting_instance, REPORTING_INSTANCE_LIMIT, true),
            ("action", &event.action, ACTION_LIMIT, true),
            ("reason", &event.reason, REASON_LIMIT, true),
            ("message", &event.message, NOTE_LIMIT, false),
        ] {
            let length = text(value.as_ref()).len();
            if required && length == 0 {
                errors.push(FieldError::required(&Path::new(field), ""));
            }
            if length > limit {
                let why = format!("can have at most {limit} characters");
                errors.push(FieldError::invalid(&Path::new(field), "", why));
            }
        }
    }
    push_invalid(&mut errors, &Path::new("namespace"), namespace, rules::is_dns1123_subdomain(namespace));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::json;

    #[test]
    fn refusals() {
        let check = |value, expect: &[&str]| {
            assert_eq!(lines(&validate(&object(value), "reportingComponent")), expect)
        };
        let about = |namespace: &str| json!({"namespace": namespace, "kind": "Pod", "name": "a"});
        check(json!({"metadata": {"namespace": "x"}, "involvedObject": about("x")}), &[]);
        check(json!({"metadata": {"namespace": "default"}, "involvedObject": {"kind": "Node"}}), &[]);
        check(
            json!({"metadata": {"namespace": "x"}, "involvedObject": about("y")}),
            &["involvedObject.namespace: Invalid value: \"y\": does not match event.namespace"],
        );
        let errors = lines(&validate(
            &object(
                json!({"metadata": {"namespace": "x"}, "involvedObject": about("x"), "eventTime": "2026-01-01T00:00:00.000000Z"}),
            ),
            "reportingComponent",
        ));
        assert_eq!(errors[0], "reportingComponent: Required value");
        assert!(errors.contains(&"action: Required value".to_owned()), "{errors:?}");
    }

    #[test]
    fn counts_and_times() {
        let event: Event = object(
            json!({"involvedObject": {"kind": "Pod", "name": "a"}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "series": {"count": 4, "lastObservedTime": "2026-01-01T01:00:00.000000Z"}, "reportingComponent": "kubelet", "reportingInstance": "n1"}),
        );
        assert_eq!(
            (count(&event), target(&event).as_str(), source(&event).as_str()),
            (4, "pod/a", "kubelet, n1")
        );
        assert_eq!(last_seen(&event).unwrap().to_string(), "2026-01-01T01:00:00Z");
        assert_eq!(first_seen(&event).unwrap().to_string(), "2026-01-01T00:00:00Z");
    }
}
