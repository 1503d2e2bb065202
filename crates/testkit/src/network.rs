//! A network of the test's own: the calling thread, and what it starts, sees a machine with one interface.

use std::net::Ipv4Addr;
use std::process::Command;

/// The machine's address (RFC 5737, for documentation: never anybody's).
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Moves the calling thread into a new network namespace with loopback and `eth0`. Processes started by this
/// thread from now on are in it too.
pub fn own() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .expect("a network namespace (tests run as root)");
    for command in [
        "link set lo up".to_owned(),
        // a cable whose other end leads nowhere
        "link add eth0 type veth peer name eth0-end".to_owned(),
        "link set eth0-end up".to_owned(),
        format!("addr add {ADDRESS}/24 dev eth0"),
        "link set eth0 up".to_owned(),
        format!("route add default via {GATEWAY}"),
    ] {
        let status = Command::new("ip").args(command.split(' ')).status().expect("ip, of iproute2");
        assert!(status.success(), "ip {command}");
    }
}
