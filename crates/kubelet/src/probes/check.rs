//! One attempt of a probe.

use std::sync::Arc;
use std::time::Duration;

use cri::RuntimeApi;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::net::TcpStream;

use super::grpc;
use super::http::{HttpGet, HttpResult, PROBE_AGENT, get, resolve_port};
use crate::env::expand;

/// Bytes of output that an event may carry (upstream's `maxRespBodyLength` and exec limit).
const MAX_OUTPUT_BYTES: usize = 10 << 10;

/// What came of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// It succeeded with something to remark.
    Warning(String),
    Failure(String),
    /// The attempt itself failed: it counts neither way.
    Unknown(String),
}

/// The container to probe.
#[derive(Clone)]
pub struct Target {
    pub runtime: Arc<dyn RuntimeApi>,
    pub container_id: String,
    pub pod_ip: String,
}

/// Makes one attempt, bounded by `timeout`.
pub async fn check(target: &Target, container: &Container, probe: &Probe, timeout: Duration) -> Outcome {
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return exec_in(target, container, &command, timeout).await;
    }
    if let Some(action) = &probe.http_get {
        let request = match HttpGet::from_action(action, container, &target.pod_ip, PROBE_AGENT) {
            Ok(request) => request,
            Err(e) => return Outcome::Unknown(e),
        };
        return match get(&request, timeout).await {
            HttpResult::Status { code, .. } if (200..300).contains(&code) => Outcome::Success,
            HttpResult::Status { code, body } if (300..400).contains(&code) => {
                Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
            }
            HttpResult::Status { code, .. } => {
                Outcome::Failure(format!("HTTP probe failed with statuscode: {code}"))
            }
            HttpResult::Failed(error) => Outcome::Failure(error),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let port = match resolve_port(&tcp.port, container) {
            Ok(port) => port,
            Err(e) => return Outcome::Unknown(e),
        };
        let host = tcp.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&target.pod_ip);
        return match dial(host, port, timeout).await {
            Ok(_) => Outcome::Success,
            Err(e) => Outcome::Failure(e),
        };
    }
    if let Some(action) = &probe.grpc {
        let Ok(port) = u16::try_from(action.port) else {
            return Outcome::Unknown(format!("invalid port number: {}", action.port));
        };
        return grpc::check(&target.pod_ip, port, action.service.as_deref().unwrap_or_default(), timeout)
            .await;
    }
    Outcome::Unknown(format!("missing probe handler for {}", container.name))
}

async fn exec_in(target: &Target, container: &Container, command: &[String], timeout: Duration) -> Outcome {
    // only variables with plain values are known here
    let variable =
        |name: &str| container.env.iter().flatten().find(|e| e.name == name).and_then(|e| e.value.clone());
    let command: Vec<_> = command.iter().map(|word| expand(word, variable)).collect();
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(1);
    match target.runtime.exec_sync(&target.container_id, &command, seconds).await {
        Ok(answer) => {
            let output = [answer.stdout, answer.stderr].concat();
            let output = String::from_utf8_lossy(&output[..output.len().min(MAX_OUTPUT_BYTES)]).into_owned();
            if answer.exit_code == 0 { Outcome::Success } else { Outcome::Failure(output) }
        }
        Err(cri::Error::DeadlineExceeded { .. }) => Outcome::Failure(format!(
            "command timed out: {:?} timed out after {}s",
            command.join(" "),
            timeout.as_secs()
        )),
        Err(e) if e.message().contains("context deadline exceeded") || e.message().contains("timeout") => {
            Outcome::Failure(format!(
                "command timed out: {:?} timed out after {}s",
                command.join(" "),
                timeout.as_secs()
            ))
        }
        Err(e) => Outcome::Unknown(e.to_string()),
    }
}

/// Connects, with errors in Go's words.
pub(super) async fn dial(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    let address = join(host, port);
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => {
            let text = match e.kind() {
                std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
                std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
                _ => e.to_string(),
            };
            Err(format!("dial tcp {address}: connect: {text}"))
        }
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

pub(super) fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
