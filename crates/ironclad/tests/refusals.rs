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
