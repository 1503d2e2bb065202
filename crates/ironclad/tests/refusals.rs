//! What is wrong is said in one line, with what to do, and an exit code that is not 0.

use std::net::TcpListener;
use std::process::Command;

fn refused(arguments: &[&str]) -> String {
    refused_as(Command::new(env!("CARGO_BIN_EXE_ironclad")).args(arguments))
}

fn refused_as(command: &mut Command) -> String {
    let output = command.output().expect("the binary");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{command:?} succeeded");
    // threads that end may still log after it
    let said = error.lines().rev().find(|l| l.starts_with("ironclad: "));
    said.unwrap_or_else(|| panic!("no line says what is wrong: {error}")).to_owned()
}

#[test]
fn a_port_in_use_is_named() {
    testkit::network::own();
    let taken = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("text");
    let said = refused(&["kube-apiserver", "--data-dir", data, "--secure-port", &port]);
    assert!(said.contains(&port) && said.contains("in use") && said.contains("--secure-port"), "{said}");
}

#[test]
fn a_damaged_store_is_not_opened() {
    testkit::network::own();
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("store/log");
    std::fs::create_dir_all(&log).expect("a directory");
    std::fs::write(log.join("version"), b"this is no store").expect("a file");
    let data = dir.path().to_str().expect("text");
    let said = refused(&["kube-apiserver", "--data-dir", data, "--secure-port", "16443"]);
    assert!(said.contains("store"), "{said}");
}

#[test]
fn a_data_directory_that_is_a_file_is_named() {
    testkit::network::own();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("data");
    std::fs::write(&file, "x").expect("a file");
    let said =
        refused(&["kube-apiserver", "--data-dir", file.to_str().expect("text"), "--secure-port", "16443"]);
    assert!(said.contains(file.to_str().expect("text")), "{said}");
}

#[test]
fn a_missing_kubeconfig_is_named() {
    let said = refused(&["kube-scheduler", "--kubeconfig", "/nonexistent/kubeconfig"]);
    assert!(said.contains("/nonexistent/kubeconfig"), "{said}");
}

#[test]
fn reset_removes_nothing_that_is_not_ours() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("precious");
    std::fs::write(&file, "x").expect("a file");
    let said = refused(&["reset", "--data-dir", dir.path().to_str().expect("text")]);
    assert!(said.contains("no data directory of ironclad") && file.exists(), "{said}");
}

#[test]
fn without_node_software_it_says_how_to_get_it() {
    testkit::network::own();
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironclad"));
    command.args(["server", "--data-dir"]).arg(dir.path()).env("PATH", "/nonexistent");
    let said = refused_as(&mut command);
    assert!(said.contains("is not installed") && said.contains("apt-get install"), "{said}");
}

#[test]
fn a_detached_server_that_cannot_start_says_why() {
    testkit::network::own();
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironclad"));
    command.args(["server", "--detach", "--data-dir"]).arg(dir.path()).env("PATH", "/nonexistent");
    let said = refused_as(&mut command);
    assert!(said.contains("is not installed") && said.contains("apt-get install"), "{said}");
}

/// A directory of programs with a containerd of that version in it.
fn programs_with_containerd(version: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let says = format!("#!/bin/sh\necho containerd github.com/containerd/containerd {version}\n");
    for (name, text) in [("containerd", says.as_str()), ("runc", "#!/bin/sh\n")] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a program");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("its mode");
    }
    dir
}

/// The command, in a mount namespace of its own where `prepare` was done first.
fn after(prepare: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]).arg(format!("{prepare} && exec \"$@\""));
    command.args(["sh", env!("CARGO_BIN_EXE_ironclad")]).args(arguments);
    command
}

/// Where the runtime of a data directory has its sockets: nothing may be there after a start that was refused.
fn runtime_directory(data: &std::path::Path) -> std::path::PathBuf {
    let state = cri::containerd::state_dir(data);
    state.parent().expect("it is below one").to_owned()
}

#[test]
fn an_old_containerd_is_told_with_what_is_needed() {
    testkit::network::own();
    let dir = tempfile::tempdir().expect("a directory");
    let programs = programs_with_containerd("1.5.9~ds1");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironclad"));
    command.args(["server", "--data-dir"]).arg(dir.path()).env("PATH", programs.path());
    let said = refused_as(&mut command);
    assert!(said.contains("containerd 1.5 is too old") && said.contains("1.6"), "{said}");
    assert!(!runtime_directory(dir.path()).exists(), "a refused start leaves a runtime directory");
}

#[test]
fn without_cgroups_it_says_so() {
    testkit::network::own();
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("text");
    let said = refused_as(&mut after("mount -t tmpfs none /sys/fs/cgroup", &["server", "--data-dir", data]));
    assert!(said.contains("no cgroups are mounted") && said.contains("mount them"), "{said}");
    assert!(!runtime_directory(dir.path()).exists(), "a refused start leaves a runtime directory");
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    testkit::network::own();
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("text");
    let read_only = format!("mount -t tmpfs -o ro none '{data}'");
    for command in ["server", "kube-apiserver"] {
        let said = refused_as(&mut after(&read_only, &[command, "--data-dir", data]));
        assert!(said.contains(data) && said.contains("Read-only file system"), "{said}");
    }
}

#[test]
fn a_store_that_another_server_has_open_is_not_opened() {
    testkit::network::own();
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("text");
    let at = |port| ["kube-apiserver", "--data-dir", data, "--secure-port", port];
    let mut first = Command::new(env!("CARGO_BIN_EXE_ironclad"))
        .args(at("16443"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary");
    let log = std::io::BufReader::new(first.stderr.take().expect("its log"));
    let ready = std::io::BufRead::lines(log).map_while(Result::ok).any(|line| line.contains("is ready"));
    let said = refused(&at("16444"));
    first.kill().and_then(|()| first.wait()).expect("it ends");
    assert!(ready && said.contains("in use by another server") && said.contains(data), "{said}");
}

#[test]
fn a_server_that_finds_its_port_taken_leaves_no_containerd() {
    testkit::network::own();
    let taken = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("text");
    let said = refused(&["server", "--data-dir", data, "--secure-port", &port]);
    assert!(said.contains(&port) && said.contains("in use"), "{said}");
    assert!(!runtime_directory(dir.path()).exists(), "a refused start leaves containerd running");
}

#[test]
fn a_kubelet_that_runs_already_is_told_before_the_server_counts_as_started() {
    testkit::network::own();
    let _taken = TcpListener::bind("0.0.0.0:10250").expect("the kubelet's port");
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("text");
    let said = refused(&["server", "--detach", "--data-dir", data]);
    assert!(said.contains("10250") && said.contains("in use"), "{said}");
    let reset = Command::new(env!("CARGO_BIN_EXE_ironclad")).args(["reset", "--data-dir", data]).status();
    assert!(reset.expect("the binary").success() && !dir.path().exists());
}

#[test]
fn without_root_it_says_so() {
    use std::os::unix::process::CommandExt;
    // the build directory may be closed to others: a copy is not
    let dir = tempfile::tempdir().expect("a directory");
    let copy = dir.path().join("ironclad");
    std::fs::copy(env!("CARGO_BIN_EXE_ironclad"), &copy).expect("a copy");
    for path in [dir.path(), &copy] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).expect("its mode");
    }
    let said = refused_as(Command::new(&copy).arg("server").uid(65534).gid(65534));
    assert!(said.contains("must run as root"), "{said}");
}
