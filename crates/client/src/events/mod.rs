//! The event recorder: says what happened to an object, without ever making the caller wait.

mod correlator;

pub use correlator::{Correlator, Verdict};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time as MetaTime};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use meta::Time;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Events waiting to be written; more are dropped.
const QUEUE: usize = 1000;
/// Tries to write one event, and the pause between them (client-go's maxTriesPerEvent, defaultSleepDuration).
const TRIES: u32 = 12;
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Bound of a message in bytes, as the API's validation.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Writes events as one component. Cloning shares the queue.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Event>,
    source: Arc<EventSource>,
}

impl Recorder {
    /// `component`: who reports (`kubelet`); `host`: the node's name, or empty. Must be called within a tokio
    /// runtime; the writing task ends with the last clone.
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(client, receiver));
        Self::from_sender(sender, component, host)
    }

    /// A recorder whose events the caller receives, for tests.
    pub fn channel(component: &str, host: &str) -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self::from_sender(sender, component, host), receiver)
    }

    fn from_sender(sender: mpsc::Sender<Event>, component: &str, host: &str) -> Self {
        let host = (!host.is_empty()).then(|| host.to_owned());
        Self { sender, source: Arc::new(EventSource { component: Some(component.to_owned()), host }) }
    }

    /// `kind`: `Normal` or `Warning`; `reason`: one word in upper camel case, as upstream's.
    pub fn event(&self, about: &ObjectReference, kind: &str, reason: &str, message: impl Into<String>) {
        let event = new_event(about, kind, reason, message.into(), &self.source, crate::now());
        if self.sender.try_send(event).is_err() {
            debug!(reason, object = about.name, "an event is dropped: the queue is full");
        }
    }

    pub fn normal(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.event(about, "Normal", reason, message);
    }

    pub fn warning(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.event(about, "Warning", reason, message);
    }
}

/// A reference to an object as events carry it, with its resourceVersion.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference { resource_version: object.meta().resource_version.clone(), ..object.object_ref(&()) }
}

/// The event before correlation. Events about cluster-scoped objects live in `default`.
fn new_event(
    about: &ObjectReference,
    kind: &str,
    reason: &str,
    mut message: String,
    source: &EventSource,
    now: Time,
) -> Event {
    let mut end = MAX_MESSAGE_BYTES.min(message.len());
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    let namespace = about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
    let name = format!("{}.{:x}", about.name.as_deref().unwrap_or(""), now.as_nanosecond());
    let at = Some(MetaTime(now));
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..Default::default() },
        involved_object: about.clone(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        source: Some(source.clone()),
        first_timestamp: at.clone(),
        last_timestamp: at,
        count: Some(1),
        type_: Some(kind.to_owned()),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        ..Default::default()
    }
}

async fn write_all(client: Client, mut queue: mpsc::Receiver<Event>) {
    let mut correlator = Correlator::default();
    while let Some(event) = queue.recv().await {
        let verdict = correlator.correlate(event, crate::now());
        for attempt in 1..=TRIES {
            let Err(e) = write(&client, &verdict).await else { break };
            if matches!(e, kube::Error::Api(_)) || attempt == TRIES {
                // The server has refused: namespace going away, invalid, forbidden. Trying again would not help.
                debug!("an event is dropped: {e}");
                break;
            }
            if attempt == 1 {
                warn!("writing an event: {e}; trying again");
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

async fn write(client: &Client, verdict: &Verdict) -> kube::Result<()> {
    let api = |e: &Event| {
        Api::<Event>::namespaced(client.clone(), e.metadata.namespace.as_deref().unwrap_or("default"))
    };
    match verdict {
        Verdict::Drop => Ok(()),
        Verdict::Create(e) => api(e).create(&PostParams::default(), e).await.map(drop),
        Verdict::Count(e) => {
            let name = e.metadata.name.as_deref().unwrap_or("");
            let patch = json!({"count": e.count, "message": e.message, "lastTimestamp": e.last_timestamp});
            match api(e).patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                // It has expired: begin anew.
                Err(e2) if crate::is_not_found(&e2) => {
                    api(e).create(&PostParams::default(), e).await.map(drop)
                }
                other => other.map(drop),
            }
        }
    }
}
