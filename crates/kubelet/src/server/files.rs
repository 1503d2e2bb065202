//! The node's log directory, read-only.

use std::path::{Component, Path};

use bytes::BytesMut;
use http::StatusCode;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::reply::{Response, channel, html, text};

/// Read and sent at once.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that wait for a slow client.
const QUEUE_PIECES: usize = 2;

/// A file, or the list of a directory. Nothing outside of `root` is served, also not over a link.
pub(super) async fn serve(root: &Path, path: &str) -> Response {
    let path = Path::new(path);
    if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return text(StatusCode::BAD_REQUEST, "invalid URL path\n");
    }
    let missing = || text(StatusCode::NOT_FOUND, "404 page not found\n");
    let (Ok(root), Ok(found)) =
        tokio::join!(tokio::fs::canonicalize(root), tokio::fs::canonicalize(root.join(path)))
    else {
        return missing();
    };
    if !found.starts_with(&root) {
        return missing();
    }
    match tokio::fs::metadata(&found).await {
        Ok(meta) if meta.is_dir() => list(&found).await.map_or_else(|_| missing(), html),
        Ok(meta) if meta.is_file() => match File::open(&found).await {
            Ok(file) => send(file),
            Err(_) => missing(),
        },
        _ => missing(),
    }
}

async fn list(directory: &Path) -> std::io::Result<String> {
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(directory).await?;
    while let Some(entry) = entries.next_entry().await? {
        let slash = if entry.file_type().await?.is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    let escape = |name: &str| {
        name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
    };
    let lines: String = names.iter().map(|name| format!("<a href=\"{0}\">{0}</a>\n", escape(name))).collect();
    Ok(format!(
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{lines}</pre>\n"
    ))
}

fn send(mut file: File) -> Response {
    let (sender, receiver) = mpsc::channel(QUEUE_PIECES);
    tokio::spawn(async move {
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
        while file.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
            if sender.send(buffer.split().freeze()).await.is_err() {
                return;
            }
            buffer.reserve(PIECE_BYTES);
        }
    });
    channel("text/plain; charset=utf-8", receiver)
}
