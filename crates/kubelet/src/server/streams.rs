//! Exec, attach, run and port-forward: the runtime says where, the streams are carried there.

use cri::v1 as pb;
use http::{Request, StatusCode, Uri};
use http_body_util::BodyExt;
use streaming::proxy::Target as StreamTarget;
use streaming::{Backend, ExecOptions};

use super::pods::{container_tty, ready_sandbox, running_container};
use super::reply::{Response, error, json_reply, text};
use super::route::Target;
use super::{Server, not_found};

impl Server {
    pub(super) async fn exec<B>(
        &self,
        request: Request<B>,
        target: &Target,
        query: &[(String, String)],
    ) -> Response {
        let Some(options) = options(&request) else { return no_streams() };
        let id = match self.container(target).await {
            Ok(id) => id,
            Err(response) => return *response,
        };
        let cmd = query.iter().filter(|(name, _)| name == "command").map(|(_, word)| word.clone()).collect();
        let ExecOptions { stdin, stdout, stderr, tty } = options;
        let url =
            self.runtime.exec(pb::ExecRequest { container_id: id, cmd, tty, stdin, stdout, stderr }).await;
        carry(request, url, StreamTarget::Command(options)).await
    }

    pub(super) async fn attach<B>(
        &self,
        request: Request<B>,
        target: &Target,
        _query: &[(String, String)],
    ) -> Response {
        let Some(mut options) = options(&request) else { return no_streams() };
        let id = match self.container(target).await {
            Ok(id) => id,
            Err(response) => return *response,
        };
        // whether there is a terminal was decided when the container was made
        let pod = self.pods.pod(&target.namespace, &target.pod);
        options.tty = pod.and_then(|pod| container_tty(&pod, &target.container)).unwrap_or(options.tty);
        options.stderr = options.stderr && !options.tty;
        let ExecOptions { stdin, stdout, stderr, tty } = options;
        let url =
            self.runtime.attach(pb::AttachRequest { container_id: id, stdin, tty, stdout, stderr }).await;
        carry(request, url, StreamTarget::Command(options)).await
    }

    /// Runs a command to its end; the words are in one parameter, between blanks.
    pub(super) async fn run(&self, target: &Target, query: &[(String, String)]) -> Response {
        let id = match self.container(target).await {
            Ok(id) => id,
            Err(response) => return *response,
        };
        let words =
            query.iter().find(|(name, _)| name == "cmd").map(|(_, words)| words.as_str()).unwrap_or_default();
        let command: Vec<String> = words.split(' ').map(str::to_owned).collect();
        match self.runtime.exec_sync(&id, &command, 0).await {
            Ok(answer) if answer.exit_code == 0 => {
                let output = [answer.stdout, answer.stderr].concat();
                json_text(&output)
            }
            Ok(answer) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!(
                    "command '{words}' exited with {}: {}",
                    answer.exit_code,
                    String::from_utf8_lossy(&answer.stderr)
                ),
            ),
            Err(failure) => error(&failure),
        }
    }

    pub(super) async fn port_forward<B>(
        &self,
        request: Request<B>,
        target: &Target,
        query: &[(String, String)],
    ) -> Response {
        let mut ports = Vec::new();
        for (_, list) in query.iter().filter(|(name, _)| name == "port" || name == "ports") {
            for port in list.split(',') {
                match port.parse::<u16>() {
                    Ok(port) if port > 0 => ports.push(i32::from(port)),
                    _ => {
                        return text(StatusCode::BAD_REQUEST, &format!("unable to parse {port:?} as a port"));
                    }
                }
            }
        }
        let pod = match self.pod(target) {
            Ok(pod) => pod,
            Err(response) => return *response,
        };
        let sandbox = match ready_sandbox(self.runtime.as_ref(), &pod).await {
            Ok(Some(sandbox)) => sandbox,
            Ok(None) => {
                let Target { namespace, pod, .. } = target;
                let message = format!("failed to find sandbox for pod \"{pod}_{namespace}\"");
                return text(StatusCode::INTERNAL_SERVER_ERROR, &message);
            }
            Err(failure) => return error(&failure),
        };
        let url = self.runtime.port_forward(&sandbox, &ports).await;
        carry(request, url, StreamTarget::PortForward).await
    }

    /// The uid of the pod that a request means.
    fn pod(&self, target: &Target) -> Result<String, Box<Response>> {
        let pod = self
            .pods
            .pod(&target.namespace, &target.pod)
            .ok_or_else(|| Box::new(not_found("pod does not exist")))?;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        match &target.uid {
            Some(wanted) if *wanted != uid => Err(Box::new(not_found("pod not found"))),
            _ => Ok(uid),
        }
    }

    /// The id of the running container that a request means.
    async fn container(&self, target: &Target) -> Result<String, Box<Response>> {
        let uid = self.pod(target)?;
        match running_container(self.runtime.as_ref(), &uid, &target.container).await {
            Ok(Some(id)) => Ok(id),
            Ok(None) => {
                let message = format!("container not found ({:?})", target.container);
                Err(Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, &message)))
            }
            Err(failure) => Err(Box::new(error(&failure))),
        }
    }
}

/// The streams of a request; `None` if it asks for none.
fn options<B>(request: &Request<B>) -> Option<ExecOptions> {
    let mut options = ExecOptions::from_query(request.uri().query().unwrap_or_default());
    // a terminal has one output
    options.stderr = options.stderr && !options.tty;
    (options.stdin || options.stdout || options.stderr).then_some(options)
}

fn no_streams() -> Response {
    text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr")
}

async fn carry<B>(request: Request<B>, url: cri::Result<String>, target: StreamTarget) -> Response {
    let uri: Uri = match url {
        Ok(url) => match url.parse() {
            Ok(uri) => uri,
            Err(_) => {
                return text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    &format!("the runtime's URL {url:?} is none"),
                );
            }
        },
        Err(failure) => return error(&failure),
    };
    streaming::serve(request, Backend::plain(uri), target).await.map(BodyExt::boxed_unsync)
}

/// Output of a command; upstream calls it JSON whatever it is.
fn json_text(output: &[u8]) -> Response {
    match serde_json::from_slice::<serde_json::Value>(output) {
        Ok(value) => json_reply(&value),
        Err(_) => text(StatusCode::OK, &String::from_utf8_lossy(output)),
    }
}
