//! containerd's configuration file, rendered from values.

use std::fmt::Write;
use std::path::PathBuf;

/// A version of containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// The oldest that speaks CRI v1.
    pub const OLDEST: Self = Self { major: 1, minor: 6 };

    /// Reads the output of `containerd --version`, as
    /// `containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3`.
    pub fn parse(output: &str) -> Option<Self> {
        let number = output.split_whitespace().nth(2)?.trim_start_matches('v');
        let mut parts = number.split('.');
        Some(Self { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the configuration depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub version: Version,
    /// Images, snapshots and containers; survives a restart of the machine.
    pub root: PathBuf,
    /// Sockets and running tasks; void after a restart of the machine.
    pub state: PathBuf,
    pub socket: PathBuf,
    pub sandbox_image: String,
    pub cni_bin_dir: PathBuf,
    pub cni_conf_dir: PathBuf,
    /// One directory per registry with a `hosts.toml`, containerd's own convention.
    pub registry_dir: PathBuf,
    pub snapshotter: String,
    pub systemd_cgroup: bool,
    /// Whether this process may make others less likely to be killed for memory (CAP_SYS_RESOURCE).
    /// Where it may not, containerd must not try either: runc would fail.
    pub may_lower_oom_score: bool,
}

/// Plugins that no pod needs; each costs time at start, memory, or both.
const DISABLED: &[&str] = &[
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.internal.v1.tracing",
    "io.containerd.monitor.v1.cgroups",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.nri.v1.nri",
    "io.containerd.tracing.processor.v1.otlp",
];

/// The configuration file for these settings.
pub fn render(settings: &Settings) -> String {
    let mut out = String::from("# Written by ironclad at each start of containerd; changes are lost.\n");
    // writing into a String cannot fail
    let _ = render_into(&mut out, settings);
    out
}

fn render_into(out: &mut String, s: &Settings) -> std::fmt::Result {
    let two = s.version.major >= 2;
    writeln!(out, "version = {}", if two { 3 } else { 2 })?;
    writeln!(out, "root = {}", quote(&s.root.display().to_string()))?;
    writeln!(out, "state = {}", quote(&s.state.display().to_string()))?;
    if s.may_lower_oom_score {
        writeln!(out, "oom_score = -999")?;
    }
    let disabled: Vec<String> = DISABLED.iter().map(|p| quote(p)).collect();
    writeln!(out, "disabled_plugins = [{}]", disabled.join(", "))?;
    writeln!(out, "\n[grpc]\n  address = {}", quote(&s.socket.display().to_string()))?;
    if two { render_v3(out, s) } else { render_v2(out, s) }
}

/// containerd 1.6 and 1.7: one CRI plugin.
fn render_v2(out: &mut String, s: &Settings) -> std::fmt::Result {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    writeln!(out, "\n[{cri}]")?;
    writeln!(out, "  sandbox_image = {}", quote(&s.sandbox_image))?;
    render_stream_server(out)?;
    writeln!(out, "  netns_mounts_under_state_dir = true")?;
    writeln!(out, "  enable_unprivileged_ports = true\n  enable_unprivileged_icmp = true")?;
    writeln!(out, "  tolerate_missing_hugetlb_controller = true")?;
    writeln!(out, "  restrict_oom_score_adj = {}", !s.may_lower_oom_score)?;
    writeln!(out, "\n[{cri}.cni]")?;
    writeln!(out, "  bin_dir = {}", quote(&s.cni_bin_dir.display().to_string()))?;
    writeln!(out, "  conf_dir = {}", quote(&s.cni_conf_dir.display().to_string()))?;
    writeln!(out, "\n[{cri}.containerd]\n  snapshotter = {}", quote(&s.snapshotter))?;
    writeln!(out, "  default_runtime_name = \"runc\"")?;
    render_runc(out, cri, s)?;
    writeln!(out, "\n[{cri}.registry]\n  config_path = {}", quote(&s.registry_dir.display().to_string()))
}

/// containerd 2: the CRI plugin in three parts.
fn render_v3(out: &mut String, s: &Settings) -> std::fmt::Result {
    let images = "plugins.\"io.containerd.cri.v1.images\"";
    let runtime = "plugins.\"io.containerd.cri.v1.runtime\"";
    writeln!(out, "\n[{images}]\n  snapshotter = {}", quote(&s.snapshotter))?;
    writeln!(out, "\n[{images}.pinned_images]\n  sandbox = {}", quote(&s.sandbox_image))?;
    writeln!(out, "\n[{images}.registry]\n  config_path = {}", quote(&s.registry_dir.display().to_string()))?;
    writeln!(out, "\n[{runtime}]")?;
    writeln!(out, "  netns_mounts_under_state_dir = true")?;
    writeln!(out, "  enable_unprivileged_ports = true\n  enable_unprivileged_icmp = true")?;
    writeln!(out, "  tolerate_missing_hugetlb_controller = true")?;
    writeln!(out, "  restrict_oom_score_adj = {}", !s.may_lower_oom_score)?;
    writeln!(out, "\n[{runtime}.cni]")?;
    let bin_dir = quote(&s.cni_bin_dir.display().to_string());
    if s.version >= (Version { major: 2, minor: 1 }) {
        writeln!(out, "  bin_dirs = [{bin_dir}]")?;
    } else {
        writeln!(out, "  bin_dir = {bin_dir}")?;
    }
    writeln!(out, "  conf_dir = {}", quote(&s.cni_conf_dir.display().to_string()))?;
    writeln!(out, "\n[{runtime}.containerd]\n  default_runtime_name = \"runc\"")?;
    render_runc(out, runtime, s)?;
    writeln!(out, "\n[plugins.\"io.containerd.grpc.v1.cri\"]")?;
    render_stream_server(out)
}

fn render_stream_server(out: &mut String) -> std::fmt::Result {
    writeln!(out, "  disable_tcp_service = true")?;
    writeln!(out, "  stream_server_address = \"127.0.0.1\"\n  stream_server_port = \"0\"")
}

fn render_runc(out: &mut String, plugin: &str, s: &Settings) -> std::fmt::Result {
    writeln!(out, "\n[{plugin}.containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"")?;
    writeln!(out, "\n[{plugin}.containerd.runtimes.runc.options]\n  SystemdCgroup = {}", s.systemd_cgroup)
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(major: u32, minor: u32) -> Settings {
        Settings {
            version: Version { major, minor },
            root: "/d/root".into(),
            state: "/run/s".into(),
            socket: "/run/s/containerd.sock".into(),
            sandbox_image: "ironclad.local/pause:1".into(),
            cni_bin_dir: "/usr/lib/cni".into(),
            cni_conf_dir: "/d/cni/net.d".into(),
            registry_dir: "/d/certs.d".into(),
            snapshotter: "overlayfs".into(),
            systemd_cgroup: false,
            may_lower_oom_score: true,
        }
    }

    #[test]
    fn versions_are_read_as_distributions_print_them() {
        #[track_caller]
        fn check(output: &str, expect: Option<(u32, u32)>) {
            assert_eq!(Version::parse(output), expect.map(|(major, minor)| Version { major, minor }));
        }
        check("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n", Some((1, 6)));
        check(
            "containerd github.com/containerd/containerd/v2 v2.1.0 061792f0ecf3684fb30a3a0eb006799b8c6638a7",
            Some((2, 1)),
        );
        check("containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da", Some((1, 7)));
        check("Segmentation fault", None);
    }

    #[test]
    fn each_generation_gets_its_own_form() {
        let old = render(&settings(1, 6));
        assert!(
            old.contains("version = 2\n") && old.contains("sandbox_image = \"ironclad.local/pause:1\""),
            "{old}"
        );
        assert!(
            old.contains("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]"),
            "{old}"
        );
        let new = render(&settings(2, 0));
        assert!(
            new.contains("version = 3\n") && new.contains("sandbox = \"ironclad.local/pause:1\""),
            "{new}"
        );
        assert!(new.contains("bin_dir = \"/usr/lib/cni\""), "{new}");
        assert!(render(&settings(2, 1)).contains("bin_dirs = [\"/usr/lib/cni\"]"));
        assert_eq!(quote("a\"b\\c\n"), r#""a\"b\\c\u000A""#);
    }
}
