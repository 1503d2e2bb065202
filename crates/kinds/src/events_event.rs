//! events.k8s.io/v1 Event: the same stored objects as v1 Event, under newer names and stricter rules.
//! What is stored is the v1 form; [`to_core`] and [`from_core`] convert.

use crate::event;
use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Selectable, Strategy, Validate};
use crate::object::Registered;
use crate::strategy::plain;
use crate::support::{FIELD_IMMUTABLE, json, no_change, text};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use meta::{FieldError, FieldErrors, GroupVersionKind, Path};

const fn as_core(index: usize, cell: fn(&Event) -> Cell) -> Column<Event> {
    let c = &event::COLUMNS[index];
    Column {
        name: c.name,
        kind: c.kind,
        format: c.format,
        description: c.description,
        priority: c.priority,
        cell,
    }
}

fn cell_of(event: &Event, index: usize) -> Cell {
    (event::COLUMNS[index].cell)(&to_core(event.clone()))
}

const COLUMNS: &[Column<Event>] = &[
    as_core(0, |e| cell_of(e, 0)),
    as_core(1, |e| cell_of(e, 1)),
    as_core(2, |e| cell_of(e, 2)),
    as_core(3, |e| cell_of(e, 3)),
    as_core(4, |e| cell_of(e, 4)),
    as_core(5, |e| cell_of(e, 5)),
    as_core(6, |e| cell_of(e, 6)),
    as_core(7, |e| cell_of(e, 7)),
    as_core(8, |e| cell_of(e, 8)),
    as_core(9, |e| cell_of(e, 9)),
];

fn owned(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

fn regarding(event: &Event, field: fn(&core::ObjectReference) -> &Option<String>) -> String {
    event.regarding.as_ref().map(|r| owned(field(r))).unwrap_or_default()
}

const SELECTABLE: &[Selectable<Event>] = &[
    Selectable { path: "regarding.kind", value: |e| regarding(e, |r| &r.kind) },
    Selectable { path: "regarding.namespace", value: |e| regarding(e, |r| &r.namespace) },
    Selectable { path: "regarding.name", value: |e| regarding(e, |r| &r.name) },
    Selectable { path: "regarding.uid", value: |e| regarding(e, |r| &r.uid) },
    Selectable { path: "regarding.apiVersion", value: |e| regarding(e, |r| &r.api_version) },
    Selectable { path: "regarding.resourceVersion", value: |e| regarding(e, |r| &r.resource_version) },
    Selectable { path: "regarding.fieldPath", value: |e| regarding(e, |r| &r.field_path) },
    Selectable { path: "reason", value: |e| owned(&e.reason) },
    Selectable { path: "reportingController", value: |e| owned(&e.reporting_controller) },
    Selectable { path: "type", value: |e| owned(&e.type_) },
];

pub static EVENTS_EVENT: Registered<Event> = Registered::new(Kind {
    gvk: GroupVersionKind::of("events.k8s.io", "v1", "Event"),
    names: Names { plural: "events", singular: "event", short: &["ev"], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.events.v1.Event",
    storage: "events",
    name_rule: NameRule::DnsSubdomain,
    default: no_change,
    validate: Validate { create: validate_create, update: validate_update },
    strategy: Strategy { create_on_update: true, ..plain() },
    subresources: &[],
    selectable: SELECTABLE,
    columns: COLUMNS,
});

/// The stored form.
pub fn to_core(event: Event) -> core::Event {
    core::Event {
        action: event.action,
        count: event.deprecated_count,
        event_time: event.event_time,
        first_timestamp: event.deprecated_first_timestamp,
        involved_object: event.regarding.unwrap_or_default(),
        last_timestamp: event.deprecated_last_timestamp,
        message: event.note,
        metadata: event.metadata,
        reason: event.reason,
        related: event.related,
        reporting_component: event.reporting_controller,
        reporting_instance: event.reporting_instance,
        series: event.series.map(|s| core::EventSeries {
            count: Some(s.count),
            last_observed_time: Some(s.last_observed_time),
        }),
        source: event.deprecated_source,
        type_: event.type_,
    }
}

/// The newer view of a stored event. A series without a time, which only the older API lets through, is
/// left out.
pub fn from_core(event: core::Event) -> Event {
    Event {
        action: event.action,
        deprecated_count: event.count,
        event_time: event.event_time,
        deprecated_first_timestamp: event.first_timestamp,
        regarding: Some(event.involved_object),
        deprecated_last_timestamp: event.last_timestamp,
        note: event.message,
        metadata: event.metadata,
        reason: event.reason,
        related: event.related,
        reporting_controller: event.reporting_component,
        reporting_instance: event.reporting_instance,
        series: event.series.and_then(|s| {
            Some(EventSeries { count: s.count.unwrap_or(0), last_observed_time: s.last_observed_time? })
        }),
        deprecated_source: event.source,
        type_: event.type_,
    }
}

fn series(event: &Event) -> FieldErrors {
    match &event.series {
        Some(series) if series.count < 2 => {
            vec![FieldError::invalid(&Path::new("series.count"), "", "should be at least 2")]
        }
        _ => Vec::new(),
    }
}

fn validate_create(event: &Event) -> FieldErrors {
    let mut errors = event::validate(&to_core(event.clone()), "reportingController");
    errors.extend(series(event));
    if event.event_time.is_none() {
        errors.push(FieldError::required(&Path::new("eventTime"), ""));
    }
    let kind = text(event.type_.as_ref());
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
    }
    let source = event.deprecated_source.as_ref();
    let has_source =
        source.is_some_and(|s| !text(s.component.as_ref()).is_empty() || !text(s.host.as_ref()).is_empty());
    for (field, set) in [
        ("firstTimestamp", event.deprecated_first_timestamp.is_some()),
        ("lastTimestamp", event.deprecated_last_timestamp.is_some()),
        ("count", event.deprecated_count.unwrap_or(0) != 0),
        ("source", has_source),
    ] {
        if set {
            errors.push(FieldError::invalid(&Path::new(field), "", "needs to be unset"));
        }
    }
    errors
}

fn validate_update(new: &Event, old: &Event) -> FieldErrors {
    let mut errors = event::validate(&to_core(new.clone()), "reportingController");
    if new.series != old.series {
        errors.extend(series(new));
    }
    for (field, same, value) in [
        ("involvedObject", new.regarding == old.regarding, json(&new.regarding)),
        ("reason", new.reason == old.reason, json(&new.reason)),
        ("message", new.note == old.note, json(&new.note)),
        ("source", new.deprecated_source == old.deprecated_source, json(&new.deprecated_source)),
        (
            "firstTimestamp",
            new.deprecated_first_timestamp == old.deprecated_first_timestamp,
            json(&new.deprecated_first_timestamp),
        ),
        (
            "lastTimestamp",
            new.deprecated_last_timestamp == old.deprecated_last_timestamp,
            json(&new.deprecated_last_timestamp),
        ),
        ("count", new.deprecated_count == old.deprecated_count, json(&new.deprecated_count)),
        ("type", new.type_ == old.type_, json(&new.type_)),
        ("eventTime", new.event_time == old.event_time, json(&new.event_time)),
        ("action", new.action == old.action, json(&new.action)),
        ("related", new.related == old.related, json(&new.related)),
        (
            "reportingController",
            new.reporting_controller == old.reporting_controller,
            json(&new.reporting_controller),
        ),
        (
            "reportingInstance",
            new.reporting_instance == old.reporting_instance,
            json(&new.reporting_instance),
        ),
    ] {
        if !same {
            errors.push(FieldError::invalid(&Path::new(field), value, FIELD_IMMUTABLE));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};

    fn event() -> serde_json::Value {
        serde_json::json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"namespace": "x", "name": "e"},
            "regarding": {"kind": "Pod", "name": "a", "namespace": "x"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "kubelet", "reportingInstance": "n1",
            "action": "Pull", "reason": "Pulled", "type": "Normal", "note": "done"})
    }

    #[test]
    fn both_views_are_one_object() {
        let new: Event = object(event());
        let stored = to_core(new.clone());
        assert_eq!(stored.message.as_deref(), Some("done"));
        assert_eq!(stored.involved_object.name.as_deref(), Some("a"));
        assert_eq!(from_core(stored), new);
    }

    #[test]
    fn stricter_than_v1() {
        assert_eq!(lines(&validate_create(&object(event()))), [""; 0]);
        let mut bad: Event = object(event());
        (bad.type_, bad.deprecated_count) = (Some("Odd".to_owned()), Some(1));
        assert_eq!(
            lines(&validate_create(&bad)),
            [
                "type: Invalid value: \"\": has invalid value: Odd",
                "count: Invalid value: \"\": needs to be unset"
            ]
        );
        let mut changed: Event = object(event());
        changed.reason = Some("Other".to_owned());
        assert_eq!(
            lines(&validate_update(&changed, &object(event()))),
            ["reason: Invalid value: \"Other\": field is immutable"]
        );
    }
}
