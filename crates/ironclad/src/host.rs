//! What this machine is: its name and the address other machines reach it by.

use anyhow::{Context, bail};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

/// The host name in lower case, as the kubelet's default node name.
pub fn name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("the host's name")?;
    Ok(name.to_string_lossy().trim().to_ascii_lowercase())
}

/// The address of the default route's interface, or of the first interface that is up and no loopback.
pub fn address() -> anyhow::Result<IpAddr> {
    if let Some(ip) = default_route_address() {
        return Ok(ip);
    }
    let first = nix::ifaddrs::getifaddrs()
        .context("this machine's interfaces")?
        .filter(|i| i.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP))
        .filter_map(|i| i.address?.as_sockaddr_in().map(|a| a.ip()))
        .find(|ip| !ip.is_loopback());
    match first {
        Some(ip) => Ok(IpAddr::V4(ip)),
        None => bail!("this machine has no address but loopback: give one with --node-ip"),
    }
}

/// Asks the kernel which source address it would use. Connecting a UDP socket sends nothing.
fn default_route_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 254), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

/// Refuses to go on where another program has a port that a component is about to take.
pub fn require_free(port: u16, whose: &str) -> anyhow::Result<()> {
    let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse);
    if taken {
        bail!(
            "port {port}, {whose}'s, is in use by another program: stop it (ss -ltnp 'sport = :{port}' names it)"
        );
    }
    Ok(())
}

/// Refuses to go on without root, which containers, mounts and network rules need.
pub fn require_root() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("must run as root (containers, mounts and network rules need it): try sudo")
}
