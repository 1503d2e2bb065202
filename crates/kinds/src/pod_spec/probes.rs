//! Probes and lifecycle hooks.

use super::validate::Context;
use super::{refuse_each, required};
use crate::support::{nonnegative, or_zero, text};
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meta::validation::{is_http_header_name, is_valid_port_name, is_valid_port_num};
use meta::{FieldError, FieldErrors, Path};

const ONE_HANDLER: &str = "may not specify more than 1 handler type";
const LINUX_SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];
const WINDOWS_SIGNALS: &[&str] = &["SIGKILL", "SIGTERM"];

/// What a probe or hook does; one of them.
#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

pub(super) fn validate_probes(
    errors: &mut FieldErrors,
    container: &Container,
    context: &Context<'_>,
    path: &Path,
) {
    if let Some(probe) = &container.liveness_probe {
        let path = path.child("livenessProbe");
        validate_probe(errors, probe, context, &path);
        succeeds_at_once(errors, probe, &path);
    }
    if let Some(probe) = &container.readiness_probe {
        let path = path.child("readinessProbe");
        validate_probe(errors, probe, context, &path);
        if let Some(seconds) = probe.termination_grace_period_seconds {
            let at = path.child("terminationGracePeriodSeconds");
            errors.push(FieldError::invalid(&at, seconds, "must not be set for readinessProbes"));
        }
    }
    if let Some(probe) = &container.startup_probe {
        let path = path.child("startupProbe");
        validate_probe(errors, probe, context, &path);
        succeeds_at_once(errors, probe, &path);
    }
}

fn succeeds_at_once(errors: &mut FieldErrors, probe: &Probe, path: &Path) {
    let threshold = probe.success_threshold.unwrap_or(0);
    if threshold != 1 {
        errors.push(FieldError::invalid(&path.child("successThreshold"), threshold, "must be 1"));
    }
}

fn validate_probe(errors: &mut FieldErrors, probe: &Probe, context: &Context<'_>, path: &Path) {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    validate_handler(errors, &handler, context, path);
    let numbers = [
        ("initialDelaySeconds", or_zero(probe.initial_delay_seconds)),
        ("timeoutSeconds", or_zero(probe.timeout_seconds)),
        ("periodSeconds", or_zero(probe.period_seconds)),
        ("successThreshold", or_zero(probe.success_threshold)),
        ("failureThreshold", or_zero(probe.failure_threshold)),
    ];
    nonnegative(errors, path, &numbers);
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        let at = path.child("terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(&at, seconds, "must be greater than 0"));
    }
}

fn validate_handler(errors: &mut FieldErrors, handler: &Handler<'_>, context: &Context<'_>, path: &Path) {
    let mut handlers = 0;
    let mut first = |errors: &mut FieldErrors, name: &str| {
        handlers += 1;
        if handlers > 1 {
            errors.push(FieldError::forbidden(&path.child(name), ONE_HANDLER));
        }
        handlers == 1
    };
    if let Some(exec) = handler.exec
        && first(errors, "exec")
        && exec.command.as_ref().is_none_or(Vec::is_empty)
    {
        errors.push(FieldError::required(&path.child("exec").child("command"), ""));
    }
    if let Some(http) = handler.http_get
        && first(errors, "httpGet")
    {
        validate_http_get(errors, http, &path.child("httpGet"));
    }
    if let Some(tcp) = handler.tcp_socket
        && first(errors, "tcpSocket")
    {
        validate_port(errors, &tcp.port, || path.child("tcpSocket").child("port"));
    }
    if let Some(grpc) = handler.grpc
        && first(errors, "grpc")
    {
        validate_port(errors, &IntOrString::Int(grpc.port), || path.child("grpc").child("port"));
    }
    if let Some(sleep) = handler.sleep
        && first(errors, "sleep")
        && let Some(grace) = context.grace_seconds.filter(|g| !(0..=*g).contains(&sleep.seconds))
    {
        let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(&path.child("sleep"), sleep.seconds, why));
    }
    if handlers == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn validate_http_get(errors: &mut FieldErrors, http: &HTTPGetAction, path: &Path) {
    required(errors, || path.child("path"), text(http.path.as_ref()));
    validate_port(errors, &http.port, || path.child("port"));
    let scheme = text(http.scheme.as_ref());
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(FieldError::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in http.http_headers.iter().flatten() {
        refuse_each(errors, || path.child("httpHeaders"), &header.name, is_http_header_name(&header.name));
    }
}

fn validate_port(errors: &mut FieldErrors, port: &IntOrString, at: impl Fn() -> Path) {
    match port {
        IntOrString::Int(number) => {
            let messages = is_valid_port_num(*number).into_iter();
            errors.extend(messages.map(|m| FieldError::invalid(&at(), *number, m)));
        }
        IntOrString::String(name) => refuse_each(errors, at, name, is_valid_port_name(name)),
    }
}

pub(super) fn validate_lifecycle(
    errors: &mut FieldErrors,
    container: &Container,
    context: &Context<'_>,
    path: &Path,
) {
    let Some(lifecycle) = &container.lifecycle else { return };
    let path = path.child("lifecycle");
    let hooks: [(&str, &Option<LifecycleHandler>); 2] =
        [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)];
    for (name, hook) in hooks {
        if let Some(hook) = hook {
            let handler = Handler {
                exec: hook.exec.as_ref(),
                http_get: hook.http_get.as_ref(),
                tcp_socket: hook.tcp_socket.as_ref(),
                grpc: None,
                sleep: hook.sleep.as_ref(),
            };
            validate_handler(errors, &handler, context, &path.child(name));
        }
    }
    if let Some(signal) = lifecycle.stop_signal.as_deref() {
        let at = path.child("stopSignal");
        match context.os {
            None => {
                let why = "may not be set for containers with empty `spec.os.name`";
                errors.push(FieldError::forbidden(&at, why));
            }
            Some("windows") if !WINDOWS_SIGNALS.contains(&signal) => {
                errors.push(FieldError::not_supported(&at, signal, WINDOWS_SIGNALS));
            }
            Some("linux") if !LINUX_SIGNALS.contains(&signal) => {
                errors.push(FieldError::not_supported(&at, signal, LINUX_SIGNALS));
            }
            Some(_) => {}
        }
    }
}
