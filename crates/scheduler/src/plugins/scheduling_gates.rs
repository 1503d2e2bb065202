//! A pod with scheduling gates is not considered before they are removed (KEP-3521).

use crate::framework::{Event, Plugin, wakes};
use crate::pod::PodInfo;

pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn wakes(&self) -> u32 {
        wakes::POD_CHANGED
    }

    fn could_help(&self, _: &PodInfo, event: &Event<'_>) -> bool {
        matches!(event, Event::PodChanged(now, _) if self.pre_enqueue(now).is_none())
    }

    fn pre_enqueue(&self, pod: &PodInfo) -> Option<String> {
        let gates: Vec<&str> =
            pod.spec()?.scheduling_gates.iter().flatten().map(|g| g.name.as_str()).collect();
        (!gates.is_empty()).then(|| format!("waiting for scheduling gates: [{}]", gates.join(" ")))
    }
}
