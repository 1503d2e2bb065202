//! An image registry on the loopback address: it serves one image under every name and tag but `absent`, and what is
//! below `private/` only to those who know the password. HTTP/1.1 by hand: four kinds of requests need no more.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine;

pub const USER: &str = "puller";
pub const PASSWORD: &str = "sesame";

/// A registry that runs until the process ends.
pub struct Registry {
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// Of the image.
    pub digest: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    /// Serves the image of an OCI archive, on the calling thread's network.
    pub fn serve(archive: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let unpacked = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(directory.path()).status();
        assert!(unpacked.expect("tar").success(), "{}", archive.display());
        let read = |path: &Path| std::fs::read(path).expect("a file of the archive");
        let index: serde_json::Value =
            serde_json::from_slice(&read(&directory.path().join("index.json"))).expect("JSON");
        let manifest = &index["manifests"][0];
        let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
        let (digest, media_type) = (text(&manifest["digest"]), text(&manifest["mediaType"]));
        let blobs = std::fs::read_dir(directory.path().join("blobs/sha256")).expect("blobs");
        let blobs: HashMap<String, Vec<u8>> = blobs
            .map(|entry| entry.expect("an entry"))
            .map(|entry| (format!("sha256:{}", entry.file_name().to_string_lossy()), read(&entry.path())))
            .collect();
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let content =
            Arc::new(Content { digest: digest.clone(), media_type, blobs, requests: requests.clone() });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let content = content.clone();
                // a client that goes away is no concern of ours
                std::thread::spawn(move || drop(content.connection(&stream)));
            }
        });
        Self { address, digest, requests }
    }

    /// Requests for manifests so far, as `METHOD REPOSITORY REFERENCE`.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }

    /// `auths` of a docker configuration with this password for the registry.
    pub fn auths(&self, password: &str) -> serde_json::Value {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
        serde_json::json!({ &self.address: { "auth": auth } })
    }
}

struct Content {
    digest: String,
    media_type: String,
    blobs: HashMap<String, Vec<u8>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Content {
    fn connection(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut first = String::new();
            if reader.read_line(&mut first)? == 0 {
                return Ok(());
            }
            let (mut authorization, mut length) = (String::new(), 0_u64);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let Some((name, value)) = line.trim_end().split_once(": ") else { break };
                match name.to_ascii_lowercase().as_str() {
                    "authorization" => authorization = value.to_owned(),
                    "content-length" => length = value.parse().unwrap_or(0),
                    _ => {}
                }
            }
            std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
            let mut words = first.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            self.answer(stream, method, path, &authorization)?;
        }
    }

    fn answer(
        &self,
        mut stream: &TcpStream,
        method: &str,
        path: &str,
        authorization: &str,
    ) -> std::io::Result<()> {
        let expected = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let error =
            |code: &str| format!("{{\"errors\":[{{\"code\":{code:?},\"message\":{code:?}}}]}}").into_bytes();
        // a pull asks for `?ns=REGISTRY` where a mirror might serve several
        let rest = path.split('?').next().unwrap_or_default().strip_prefix("/v2/").unwrap_or_default();
        let json = "application/json";
        let (status, kind, body) =
            if rest.starts_with("private/") && authorization != format!("Basic {expected}") {
                ("401 Unauthorized", json, error("UNAUTHORIZED"))
            } else if let Some((repository, reference)) = rest.split_once("/manifests/") {
                self.requests.lock().expect("no panic").push(format!("{method} {repository} {reference}"));
                match self.blobs.get(reference) {
                    Some(manifest) => ("200 OK", self.media_type.as_str(), manifest.clone()),
                    None if reference == "absent" || reference.starts_with("sha256:") => {
                        ("404 Not Found", json, error("MANIFEST_UNKNOWN"))
                    }
                    None => ("200 OK", self.media_type.as_str(), self.blobs[&self.digest].clone()),
                }
            } else if let Some((_, digest)) = rest.split_once("/blobs/") {
                match self.blobs.get(digest) {
                    Some(blob) => ("200 OK", "application/octet-stream", blob.clone()),
                    None => ("404 Not Found", json, error("BLOB_UNKNOWN")),
                }
            } else {
                ("200 OK", json, b"{}".to_vec())
            };
        let digest = if kind == self.media_type {
            format!("Docker-Content-Digest: {}\r\n", self.digest)
        } else {
            String::new()
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{digest}\
             WWW-Authenticate: Basic realm=\"registry\"\r\n\r\n"
        )?;
        if method != "HEAD" {
            stream.write_all(&body)?;
        }
        stream.flush()
    }
}
