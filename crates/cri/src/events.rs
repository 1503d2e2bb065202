//! Container events: the CRI's own (containerd 1.7 and later), or containerd's event service for
//! runtimes that do not have them yet. With one of the two the kubelet need not list on a timer.

use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use k8s_cri::v1::{ContainerEventResponse, ContainerEventType, ContainerState, PodSandboxState};
use prost::Message;
use tonic::codec::Streaming;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use crate::api::{EventStream, RuntimeApi};
use crate::{Error, Result, Runtime};

/// How often a containerd event waits for the CRI to show it, and for how long: containerd sends the
/// event a moment before its CRI plugin has taken note of it.
const SETTLE_STEP: Duration = Duration::from_millis(5);
const SETTLE_STEPS: u32 = 200;
/// How many events may settle at the same time.
const SETTLE_CONCURRENCY: usize = 64;
/// The namespace in which containerd's CRI plugin keeps everything.
const CRI_NAMESPACE: &str = "k8s.io";

/// What happened to a container or sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEventKind {
    Created,
    Started,
    Stopped,
    Deleted,
    /// A process of the container was killed for want of memory; only containerd's own events say so.
    OutOfMemory,
}

/// One event. It says that something changed; the state itself is read from the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The id of the container, or of the sandbox.
    pub container_id: String,
    pub kind: ContainerEventKind,
    /// The uid of the pod, if the runtime says so (CRI events do).
    pub pod_uid: Option<String>,
}

/// The CRI's own event stream.
pub(crate) fn from_cri(stream: Streaming<ContainerEventResponse>) -> EventStream {
    stream.map(|item| item.map(translate).map_err(|s| lost("GetContainerEvents", &s))).boxed()
}

fn translate(event: ContainerEventResponse) -> ContainerEvent {
    let kind = match event.container_event_type() {
        ContainerEventType::ContainerCreatedEvent => ContainerEventKind::Created,
        ContainerEventType::ContainerStartedEvent => ContainerEventKind::Started,
        ContainerEventType::ContainerStoppedEvent => ContainerEventKind::Stopped,
        ContainerEventType::ContainerDeletedEvent => ContainerEventKind::Deleted,
    };
    let pod_uid = event.pod_sandbox_status.and_then(|s| s.metadata).map(|m| m.uid);
    ContainerEvent { container_id: event.container_id, kind, pod_uid }
}

fn lost(call: &'static str, status: &tonic::Status) -> Error {
    Error::from_status(call, None, status)
}

/// `containerd.services.events.v1.SubscribeRequest`.
#[derive(Clone, PartialEq, Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

/// `containerd.services.events.v1.Envelope`.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<prost_types::Any>,
}

/// The first two fields of containerd's task events: all of them begin with the container's id, and
/// `TaskExit` goes on with the id of the process (the container's own for its first process).
#[derive(Clone, PartialEq, Message)]
struct TaskEvent {
    #[prost(string, tag = "1")]
    container_id: String,
}

/// `containerd.events.TaskExit`, as far as it matters here.
#[derive(Clone, PartialEq, Message)]
struct TaskExit {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    id: String,
}

/// containerd's event service, reduced to the CRI's containers. Returns when the subscription stands.
pub(crate) async fn from_containerd(channel: Channel, runtime: Runtime) -> Result<EventStream> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|e| Error::Unavailable { message: e.to_string() })?;
    let filters = ["/tasks/start", "/tasks/exit", "/tasks/oom", "/containers/create", "/containers/delete"]
        .map(|topic| format!("namespace==\"{CRI_NAMESPACE}\",topic==\"{topic}\""));
    let request = tonic::Request::new(SubscribeRequest { filters: filters.to_vec() });
    let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
    // The server sends its headers with the first event only, so the answer is awaited inside the
    // stream; the request itself is on its way once the future has been polled.
    let codec = tonic_prost::ProstCodec::<SubscribeRequest, Envelope>::default();
    let mut answer = Box::pin(async move { grpc.server_streaming(request, path, codec).await });
    let first = futures::poll!(&mut answer);
    // a round trip behind the subscription: what happens after this function returns is delivered
    runtime.version().await?;
    let envelopes = async move {
        let answer = match first {
            std::task::Poll::Ready(answer) => answer,
            std::task::Poll::Pending => answer.await,
        };
        match answer {
            Ok(response) => response.into_inner().left_stream(),
            Err(status) => futures::stream::iter([Err(status)]).right_stream(),
        }
    }
    .flatten_stream();
    Ok(confirmed(envelopes, runtime).boxed())
}

/// Delivers each event once the CRI shows what it says.
fn confirmed(
    envelopes: impl Stream<Item = std::result::Result<Envelope, tonic::Status>> + Send,
    runtime: Runtime,
) -> impl Stream<Item = Result<ContainerEvent>> + Send {
    envelopes
        .filter_map(|item| {
            let item = match item {
                Ok(envelope) => decode(&envelope).map(Ok),
                Err(status) => Some(Err(lost("Subscribe", &status))),
            };
            futures::future::ready(item)
        })
        .map(move |item| {
            let runtime = runtime.clone();
            async move {
                let event = item?;
                settle(&runtime, &event).await;
                Ok(event)
            }
        })
        .buffered(SETTLE_CONCURRENCY)
}

fn decode(envelope: &Envelope) -> Option<ContainerEvent> {
    let payload = envelope.event.as_ref()?;
    let (container_id, kind) = match envelope.topic.as_str() {
        "/tasks/start" => {
            (TaskEvent::decode(&*payload.value).ok()?.container_id, ContainerEventKind::Started)
        }
        "/tasks/oom" => {
            (TaskEvent::decode(&*payload.value).ok()?.container_id, ContainerEventKind::OutOfMemory)
        }
        "/containers/create" => {
            (TaskEvent::decode(&*payload.value).ok()?.container_id, ContainerEventKind::Created)
        }
        "/containers/delete" => {
            (TaskEvent::decode(&*payload.value).ok()?.container_id, ContainerEventKind::Deleted)
        }
        "/tasks/exit" => {
            let exit = TaskExit::decode(&*payload.value).ok()?;
            // the end of an exec is none of the container
            (exit.id == exit.container_id).then_some((exit.container_id, ContainerEventKind::Stopped))?
        }
        _ => return None,
    };
    Some(ContainerEvent { container_id, kind, pod_uid: None })
}

/// Waits, briefly and boundedly, until the CRI shows the event.
async fn settle(runtime: &Runtime, event: &ContainerEvent) {
    for _ in 0..SETTLE_STEPS {
        let status = runtime.container_status(&event.container_id).await;
        let shown = match (event.kind, status) {
            (ContainerEventKind::Started, Ok(status)) => status.state() != ContainerState::ContainerCreated,
            (ContainerEventKind::Stopped, Ok(status)) => status.state() != ContainerState::ContainerRunning,
            (ContainerEventKind::Deleted, Ok(_)) => false,
            // the id of a sandbox is not a container's
            (ContainerEventKind::Stopped, Err(error)) if error.is_not_found() => {
                let sandbox = runtime.pod_sandbox_status(&event.container_id).await;
                sandbox.map_or(true, |status| status.state() != PodSandboxState::SandboxReady)
            }
            _ => true,
        };
        if shown {
            return;
        }
        tokio::time::sleep(SETTLE_STEP).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str, message: &impl Message) -> Envelope {
        let event = Some(prost_types::Any { type_url: String::new(), value: message.encode_to_vec() });
        Envelope { namespace: CRI_NAMESPACE.into(), topic: topic.into(), event }
    }

    #[test]
    fn containerd_events_become_container_events() {
        let exit = |id: &str| TaskExit { container_id: "c1".into(), id: id.into() };
        let event = |kind| Some(ContainerEvent { container_id: "c1".into(), kind, pod_uid: None });
        assert_eq!(decode(&envelope("/tasks/exit", &exit("c1"))), event(ContainerEventKind::Stopped));
        assert_eq!(
            decode(&envelope("/tasks/exit", &exit("exec7"))),
            None,
            "an exec's end is not the container's"
        );
        let task = TaskEvent { container_id: "c1".into() };
        assert_eq!(decode(&envelope("/tasks/start", &task)), event(ContainerEventKind::Started));
        assert_eq!(decode(&envelope("/images/create", &task)), None);
    }
}
