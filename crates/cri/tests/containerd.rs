//! The real thing: containerd started, an image made here, a pod run, its end seen as an event.
//! Needs root, containerd, runc and cgroups; says so and passes where they are missing.

use std::path::Path;

use cri::containerd::{Options, Supervisor, remove_all};
use cri::image::{ImageBuilder, PAUSE_IMAGE};
use cri::v1 as pb;
use cri::{ContainerEventKind, ImageApi, Runtime, RuntimeApi};
use futures::StreamExt;

const IMAGE: &str = "ironclad.local/cri-test:1";

fn possible() -> bool {
    let found = |path: &str| Path::new(path).exists();
    let tools = found("/bin/busybox") && (found("/usr/bin/containerd") || found("/usr/local/bin/containerd"));
    let root = nix::unistd::geteuid().is_root() && found("/sys/fs/cgroup/memory");
    if !(tools && root) {
        eprintln!("not run: needs root, containerd, busybox-static and cgroups");
    }
    tools && root
}

fn busybox_image() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    ImageBuilder::new(IMAGE)
        .file("/bin/busybox", 0o755, busybox)
        .link("/bin/sh", "busybox")
        .link("/bin/cat", "busybox")
        .link("/bin/sleep", "busybox")
        .directory("/tmp", 0o1777)
        .env("PATH", "/bin")
        .cmd(["sleep", "1000"])
        .build()
        .expect("a small image")
}

fn sandbox_config(log_directory: &Path) -> pb::PodSandboxConfig {
    let node = pb::NamespaceMode::Node as i32;
    let namespaces =
        pb::NamespaceOption { network: node, pid: pb::NamespaceMode::Container as i32, ..Default::default() };
    pb::PodSandboxConfig {
        metadata: Some(pb::PodSandboxMetadata {
            name: "pod".into(),
            uid: "uid-1".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        log_directory: log_directory.display().to_string(),
        labels: [("io.kubernetes.pod.uid".to_owned(), "uid-1".to_owned())].into(),
        linux: Some(pb::LinuxPodSandboxConfig {
            cgroup_parent: "/ironclad-cri-test".into(),
            security_context: Some(pb::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container_config(name: &str, command: &str) -> pb::ContainerConfig {
    let node = pb::NamespaceMode::Node as i32;
    let namespaces =
        pb::NamespaceOption { network: node, pid: pb::NamespaceMode::Container as i32, ..Default::default() };
    pb::ContainerConfig {
        metadata: Some(pb::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(pb::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["/bin/sh".into(), "-c".into(), command.into()],
        log_path: format!("{name}.log"),
        linux: Some(pb::LinuxContainerConfig {
            security_context: Some(pb::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Creates and starts a container; returns its id.
async fn run(
    runtime: &Runtime,
    sandbox_id: &str,
    sandbox: &pb::PodSandboxConfig,
    config: pb::ContainerConfig,
) -> String {
    let id = runtime.create_container(sandbox_id, config, sandbox.clone()).await.expect("created");
    runtime.start_container(&id).await.expect("started");
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_on_a_containerd_of_our_own() {
    if !possible() {
        return;
    }
    let data = tempfile::tempdir().expect("a directory");
    let options = Options::new(data.path());
    let supervisor = match Supervisor::start(&options).await {
        Ok(supervisor) => supervisor,
        Err(error) => {
            let log =
                std::fs::read_to_string(data.path().join("containerd/containerd.log")).unwrap_or_default();
            panic!("{error}\n{log}");
        }
    };
    eprintln!("containerd answered in {:?}", supervisor.started_in());
    let pid = supervisor.pid();
    assert!(!supervisor.adopted() && pid.is_some());

    let runtime = supervisor.runtime();
    assert_eq!(runtime.version().await.expect("version").runtime_name, "containerd");
    let names: Vec<String> =
        runtime.list_images().await.expect("images").into_iter().flat_map(|i| i.repo_tags).collect();
    assert!(names.contains(&PAUSE_IMAGE.to_owned()), "{names:?}");
    assert_eq!(supervisor.import(&busybox_image()).await.expect("imported"), [IMAGE]);

    // a pod with the node's network: no CNI configuration is needed
    let logs = data.path().join("logs");
    let sandbox = sandbox_config(&logs);
    let mut events = runtime.events().await.expect("events");
    let sandbox_id = runtime.run_pod_sandbox(sandbox.clone(), "").await.expect("sandbox runs");
    let id =
        run(&runtime, &sandbox_id, &sandbox, container_config("short", "echo out; echo err >&2; exit 3"))
            .await;
    while let Some(event) = events.next().await {
        let event = event.expect("an event");
        if event.container_id == id && event.kind == ContainerEventKind::Stopped {
            break;
        }
    }
    // what the event says, the runtime shows already
    let status = runtime.container_status(&id).await.expect("status");
    assert_eq!((status.state(), status.exit_code), (pb::ContainerState::ContainerExited, 3));
    let log = std::fs::read_to_string(logs.join("short.log")).expect("the log");
    assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log}");

    // told apart from every other sleeper of this machine
    let nap = 100_000 + std::process::id();
    let sleeper = format!("sleep\x00{nap}\x00");
    let long =
        run(&runtime, &sandbox_id, &sandbox, container_config("long", &format!("exec sleep {nap}"))).await;
    let answer = runtime.exec_sync(&long, &["cat".into(), "/proc/1/comm".into()], 10).await.expect("exec");
    assert_eq!((answer.exit_code, answer.stdout.as_slice()), (0, b"sleep\n".as_slice()));
    exec_over_spdy(&runtime, &long).await;
    exec_over_websocket(&runtime, &long).await;
    forward_a_port(&runtime, &sandbox_id).await;

    // our end is not containerd's: the next start takes it over, the container still runs
    drop(supervisor);
    let again = Supervisor::start(&options).await.expect("containerd is found");
    assert!(again.adopted());
    assert_eq!(again.pid(), pid);
    eprintln!("containerd was taken over in {:?}", again.started_in());
    let status = again.runtime().container_status(&long).await.expect("status");
    assert_eq!(status.state(), pb::ContainerState::ContainerRunning);

    // a containerd that dies is started again, and its containers do not notice
    let mut pids = again.pid_changes();
    kill(pid.expect("it runs"));
    pids.wait_for(|now| now.is_some() && *now != pid).await.expect("started again");
    again.answers().await;
    let status = again.runtime().container_status(&long).await.expect("status");
    assert_eq!(status.state(), pb::ContainerState::ContainerRunning);

    // removed also while containerd does not run: the container is ended without it
    again.stop().await.expect("stopped");
    assert!(!processes_of(&sleeper).is_empty(), "the container outlives containerd");
    remove_all(&options).await.expect("removed");
    assert!(processes_of(&sleeper).is_empty());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&data.path().display().to_string()), "{mounts}");
    assert!(!data.path().join("containerd").exists());
    for controller in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        remove_cgroup(&controller.path().join("ironclad-cri-test"));
    }
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("killed");
}

/// The processes with this command line.
fn processes_of(command_line: &str) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir("/proc").expect("processes").flatten().map(|entry| entry.path());
    all.filter(|path| std::fs::read_to_string(path.join("cmdline")).is_ok_and(|text| text == command_line))
        .collect()
}

fn remove_cgroup(path: &Path) {
    for child in std::fs::read_dir(path).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        remove_cgroup(&child.path());
    }
    let _ = std::fs::remove_dir(path);
}

/// A command reads its input to the end over containerd's own stream server and tells its exit code.
async fn exec_over_spdy(runtime: &Runtime, id: &str) {
    let command = "cat; exit 3";
    let request = pb::ExecRequest {
        container_id: id.to_owned(),
        cmd: vec!["/bin/sh".into(), "-c".into(), command.into()],
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let uri = runtime.exec(request).await.expect("a URL").parse().expect("a valid URL");
    let headers = streaming::upgrade::spdy_headers(&streaming::translate::STREAM_PROTOCOLS);
    let upgraded =
        streaming::upgrade_client(http::Method::POST, &uri, headers, None).await.expect("upgraded");
    assert_eq!(upgraded.headers[streaming::upgrade::STREAM_PROTOCOL_VERSION], "v4.channel.k8s.io");
    let connection = streaming::spdy::Connection::client(upgraded.io);
    let mut streams = Vec::new();
    for kind in ["error", "stdin", "stdout", "stderr"] {
        let mut stream = connection.open(&[("streamtype", kind)]).await.expect("opened");
        stream.opened().await.expect("taken");
        streams.push(stream.split());
    }
    let [(mut error, _), (_stdin, mut input), (mut output, _), (mut errors, _)] =
        <[_; 4]>::try_from(streams).expect("four streams");
    input.write("hello".into()).await.expect("written");
    input.finish().await.expect("closed");
    assert_eq!(output.read_to_end(1024).await.expect("stdout"), "hello");
    assert_eq!(errors.read_to_end(1024).await.expect("stderr"), "");
    let status = error.read_to_end(4096).await.expect("a status");
    let status = streaming::status::parse(&status).expect("a Status object");
    assert_eq!(streaming::status::exit_code(&status), Some(3), "{status}");
}

/// The same, for a client that speaks WebSocket channels (kubectl since 1.31): served by `streaming`,
/// as the kubelet and the API server do.
async fn exec_over_websocket(runtime: &Runtime, id: &str) {
    use streaming::proxy::Target;
    use streaming::websocket::{Event, Protocol};
    use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

    let request = pb::ExecRequest {
        container_id: id.to_owned(),
        cmd: vec!["/bin/sh".into(), "-c".into(), "cat; exit 4".into()],
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let backend =
        streaming::Backend::plain(runtime.exec(request).await.expect("a URL").parse().expect("valid"));
    let options = streaming::ExecOptions { stdin: true, stdout: true, ..Default::default() };
    let (near, far) = tokio::io::duplex(1 << 16);
    let service = hyper::service::service_fn(move |request| {
        let backend = backend.clone();
        async move {
            Ok::<_, std::convert::Infallible>(
                streaming::serve(request, backend, Target::Command(options)).await,
            )
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(hyper_util::rt::TokioIo::new(far), service)
        .with_upgrades();
    tokio::spawn(async move { connection.await.expect("served") });
    let mut request = "ws://kubelet/exec".into_client_request().expect("a request");
    request
        .headers_mut()
        .insert("sec-websocket-protocol", http::HeaderValue::from_static("v5.channel.k8s.io"));
    let (mut client, response) = tokio_tungstenite::client_async(request, near).await.expect("upgraded");
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    use futures::SinkExt;
    client.send(Protocol::V5.encode(0, b"hello")).await.expect("written");
    client.send(Message::binary(&b"\xff\x00"[..])).await.expect("stdin closed");
    let mut output = Vec::new();
    let mut code = None;
    while let Some(Ok(message)) = client.next().await {
        match Protocol::V5.decode(message) {
            Some(Event::Data(1, data)) => output.extend_from_slice(&data),
            Some(Event::Data(3, status)) => {
                code = streaming::status::parse(&status)
                    .and_then(|status| streaming::status::exit_code(&status));
            }
            _ => {}
        }
    }
    assert_eq!((output.as_slice(), code), (b"hello".as_slice(), Some(4)));
}

/// A connection to a port of the pod, here of the node since the pod has its network.
async fn forward_a_port(runtime: &Runtime, sandbox_id: &str) {
    use tokio::io::AsyncWriteExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a connection");
        client.write_all(b"from the pod").await.expect("written");
    });
    let uri =
        runtime.port_forward(sandbox_id, &[i32::from(port)]).await.expect("a URL").parse().expect("valid");
    let headers = streaming::upgrade::spdy_headers(&["portforward.k8s.io"]);
    let upgraded =
        streaming::upgrade_client(http::Method::POST, &uri, headers, None).await.expect("upgraded");
    let connection = streaming::spdy::Connection::client(upgraded.io);
    let port = port.to_string();
    let open = async |kind: &str| {
        let headers = [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
        let mut stream = connection.open(&headers).await.expect("opened");
        stream.opened().await.expect("taken");
        stream.split()
    };
    let (mut errors, _) = open("error").await;
    let (mut data, mut input) = open("data").await;
    input.finish().await.expect("nothing to send");
    assert_eq!(data.read_to_end(1024).await.expect("data"), "from the pod");
    assert_eq!(errors.read_to_end(1024).await.expect("no error"), "");
}
