//! Telling whoever started us that we are ready, by systemd's protocol (sd_notify(3)): a datagram to the
//! socket named by NOTIFY_SOCKET.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Variable that names the socket.
pub const SOCKET: &str = "NOTIFY_SOCKET";
pub const READY: &str = "READY=1";

/// Sends `READY=1`, if somebody waits for it.
pub fn ready() {
    let Ok(path) = std::env::var(SOCKET) else { return };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|a| UnixDatagram::unbound()?.send_to_addr(READY.as_bytes(), &a));
    if let Err(error) = sent {
        tracing::warn!(socket = %path, %error, "could not say that the server is ready");
    }
}
