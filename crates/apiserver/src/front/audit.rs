//! The audit log: who asked for what and what came of it, one JSON line (audit.k8s.io/v1 Event, level Metadata)
//! for each request, written by a thread of its own.

use crate::request::{Request, RequestInfo};
use auth::User;
use http::header;
use meta::Time;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Lines that wait for the disk; further ones are counted and lost.
const QUEUE_LINES: usize = 16 * 1024;
/// A file that has grown to this many bytes is put aside.
const MAX_FILE_BYTES: u64 = 100 * 1024 * 1024;
/// Files kept besides the one that is written.
const KEEP_FILES: u32 = 5;
const FILE: &str = "audit.log";

/// Where records go.
pub struct Log {
    lines: SyncSender<Vec<u8>>,
    pub lost: prometheus_client::metrics::counter::Counter,
}

/// A request that is being answered.
pub struct Record {
    id: String,
    uri: String,
    agent: String,
    received: Time,
    pub user: Option<Arc<User>>,
    /// Whom `user` acts as.
    pub acts_as: Option<Arc<User>>,
    pub allowed: Option<bool>,
}

impl Log {
    /// Opens `<directory>/audit.log`, readable by the owner alone.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let path = directory.join(FILE);
        let file = append(&path)?;
        let (lines, queue) = sync_channel(QUEUE_LINES);
        std::thread::Builder::new().name("audit".into()).spawn(move || {
            if let Err(error) = write_all(&path, file, &queue) {
                tracing::error!(%error, path = %path.display(), "the audit log cannot be written any more");
            }
        })?;
        Ok(Self { lines, lost: Default::default() })
    }

    pub fn write(&self, record: &Record, info: &RequestInfo, code: u16, now: Time) {
        let mut line = serde_json::to_vec(&record.event(info, code, now)).unwrap_or_default();
        line.push(b'\n');
        if self.lines.try_send(line).is_err() {
            self.lost.inc();
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn write_all(path: &PathBuf, file: File, queue: &Receiver<Vec<u8>>) -> io::Result<()> {
    let mut bytes = file.metadata()?.len();
    let mut out = BufWriter::new(file);
    while let Ok(line) = queue.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            out.write_all(&line)?;
            bytes += line.len() as u64;
            next = queue.try_recv().ok();
        }
        out.flush()?;
        if bytes >= MAX_FILE_BYTES {
            let old = |n: u32| path.with_extension(format!("log.{n}"));
            for n in (1..KEEP_FILES).rev() {
                match fs::rename(old(n), old(n + 1)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            fs::rename(path, old(1))?;
            (out, bytes) = (BufWriter::new(append(path)?), 0);
        }
    }
    Ok(())
}

impl Record {
    pub fn of(request: &Request, received: Time) -> Self {
        let text = |name| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        Self {
            id: uuid::Uuid::from_bytes(rand::random()).to_string(),
            uri: request.uri().to_string(),
            agent: text(header::USER_AGENT),
            received,
            user: None,
            acts_as: None,
            allowed: None,
        }
    }

    fn event(&self, info: &RequestInfo, code: u16, now: Time) -> Value {
        let user = |u: &User| {
            let mut out = json!({"username": u.name, "groups": u.groups});
            if !u.uid.is_empty() {
                out["uid"] = u.uid.as_str().into();
            }
            if !u.extra.is_empty() {
                out["extra"] = json!(u.extra);
            }
            out
        };
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": self.id,
            "stage": "ResponseComplete", "requestURI": self.uri, "verb": info.verb, "userAgent": self.agent,
            "user": self.user.as_deref().map_or_else(|| json!({}), user),
            "responseStatus": {"metadata": {}, "code": code},
            "requestReceivedTimestamp": format!("{:.6}", self.received),
            "stageTimestamp": format!("{now:.6}"),
        });
        if let Some(other) = &self.acts_as {
            event["impersonatedUser"] = user(other);
        }
        if let Some(allowed) = self.allowed {
            let decision = if allowed { "allow" } else { "forbid" };
            event["annotations"] = json!({"authorization.k8s.io/decision": decision});
        }
        if info.is_resource {
            let mut about = json!({"resource": info.resource, "apiVersion": info.version});
            let others = [
                ("namespace", &info.namespace),
                ("name", &info.name),
                ("apiGroup", &info.group),
                ("subresource", &info.subresource),
            ];
            for (key, value) in others.into_iter().filter(|(_, v)| !v.is_empty()) {
                about[key] = value.as_str().into();
            }
            event["objectRef"] = about;
        }
        event
    }
}
