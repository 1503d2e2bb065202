//! UDP has no connection to reset: what conntrack remembers of an endpoint that went must be forgotten, or
//! clients keep talking to nobody.

use std::net::Ipv4Addr;
use std::process::Stdio;
use tokio::process::Command;

/// Forgets UDP flows to `destination` that were sent on to `endpoint` (None: that were sent nowhere, from a
/// time without endpoints).
pub async fn forget(destination: (Ipv4Addr, u16), endpoint: Option<Ipv4Addr>) {
    let (ip, port) = (destination.0.to_string(), destination.1.to_string());
    let mut args = vec!["-D", "-p", "udp", "--orig-dst", &ip, "--orig-port-dst", &port];
    let endpoint = endpoint.map(|e| e.to_string());
    if let Some(endpoint) = &endpoint {
        args.extend(["--dst-nat", endpoint]);
    }
    let run =
        Command::new("conntrack").args(&args).stdout(Stdio::null()).stderr(Stdio::piped()).output().await;
    match run {
        // 1: no such flow
        Ok(out) if out.status.success() || out.status.code() == Some(1) => {}
        Ok(out) => tracing::warn!(
            service_ip = %ip,
            "conntrack could not forget UDP flows: {}",
            String::from_utf8_lossy(&out.stderr).lines().next().unwrap_or_default()
        ),
        Err(error) => {
            tracing::warn!(service_ip = %ip, %error, "could not run conntrack (Debian: apt-get install conntrack)")
        }
    }
}
