//! Lifecycle hooks: `postStart` and `preStop`.

use std::time::Duration;

use cri::RuntimeApi;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::probes::{HOOK_AGENT, HttpGet, HttpResult, NO_TLS, http_get};
use crate::sync::{format_pod, go_list};

/// How long an HTTP hook may take; the grace period bounds it further.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a hook to its end. `tell` is told the message of a warning that does not make it fail.
///
/// # Errors
/// The message for the container's status. It may quote the hook's output and so does not go into events.
pub async fn run_hook(
    runtime: &dyn RuntimeApi,
    container_id: &str,
    pod: &Pod,
    container: &Container,
    pod_ip: &str,
    handler: &LifecycleHandler,
    tell: impl Fn(String),
) -> Result<(), String> {
    let place = format!("for Container {:?} in Pod {:?} failed - error: ", container.name, format_pod(pod));
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let head = format!("Exec lifecycle hook ({}) {place}", go_list(&command));
        return match runtime.exec_sync(container_id, &command, 0).await {
            Ok(answer) if answer.exit_code == 0 => Ok(()),
            Ok(answer) => {
                let output = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned();
                let error =
                    format!("command '{}' exited with {}: {output}", command.join(" "), answer.exit_code);
                Err(format!("{head}{error}, message: {output:?}"))
            }
            Err(e) => Err(format!("{head}{e}, message: \"\"")),
        };
    }
    if let Some(action) = &handler.http_get {
        let path = action.path.as_deref().unwrap_or_default();
        let fail = |e: String| format!("HTTP lifecycle hook ({path}) {place}{e}");
        let request = HttpGet::from_action(action, container, pod_ip, HOOK_AGENT).map_err(fail)?;
        return match http_get(&request, HTTP_TIMEOUT).await {
            HttpResult::Status { .. } => Ok(()),
            HttpResult::Failed(error) if error.ends_with(NO_TLS) => {
                // a server without TLS is asked again in the clear, without what only it should see
                let mut plain = HttpGet { tls: false, ..request };
                plain.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
                match http_get(&plain, HTTP_TIMEOUT).await {
                    HttpResult::Status { .. } => {
                        tell(format!(
                            "request to HTTPS lifecycle hook {} got HTTP response, retry with HTTP succeeded",
                            plain.authority()
                        ));
                        Ok(())
                    }
                    HttpResult::Failed(_) => Err(fail(error)),
                }
            }
            HttpResult::Failed(e) => Err(fail(e)),
        };
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if handler.tcp_socket.is_some() {
        // the API accepts it for old clients; there has never been such a hook
        return Err("Cannot run handler: invalid handler: tcpSocket".into());
    }
    Ok(())
}
