//! `--detach`: the same command line in a process of its own, in the background; returns when it is ready.

use crate::notify;
use crate::paths::DataDir;
use anyhow::{Context, bail};
use std::io::{Read, Seek, SeekFrom};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server has this long to be ready.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often a server that ended before it was ready is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// Starts this program again without `--detach`.
pub fn run(data: &DataDir) -> anyhow::Result<()> {
    std::fs::create_dir_all(data.path())
        .with_context(|| format!("data directory {}", data.path().display()))?;
    let log_path = data.log_file();
    let mut log = std::fs::File::options()
        .create(true)
        .append(true)
        .read(true)
        .open(&log_path)
        .with_context(|| format!("log file {}", log_path.display()))?;
    let begin = log.seek(SeekFrom::End(0))?;
    let name = format!("ironclad-ready-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    socket.set_read_timeout(Some(LOOK))?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1).filter(|a| a != "--detach"))
        .env(notify::SOCKET, format!("@{name}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .process_group(0)
        .spawn()
        .context("starting the server in the background")?;
    wait(&mut child, &socket, || {
        let mut text = String::new();
        log.seek(SeekFrom::Start(begin))?;
        log.read_to_string(&mut text)?;
        Ok(text)
    })
}

fn wait(
    child: &mut Child,
    socket: &UnixDatagram,
    mut logged: impl FnMut() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    let mut message = [0; 256];
    loop {
        if let Ok(n) = socket.recv(&mut message)
            && message[..n].starts_with(notify::READY.as_bytes())
        {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            let text = logged()?;
            let why = text.lines().rev().find_map(|l| l.strip_prefix("ironclad: "));
            let why = why.or(text.lines().last()).unwrap_or("it logged nothing");
            bail!("the server ended ({status}): {why}");
        }
        if Instant::now() > deadline {
            drop(child.kill());
            bail!("the server was not ready within {}s; its log says: {}", DEADLINE.as_secs(), logged()?);
        }
    }
}
