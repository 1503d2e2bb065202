//! A remote command whose client speaks WebSocket channels and whose backend speaks SPDY streams.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::{Sink, SinkExt, Stream as FutureStream, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::spdy::{Connection, SpdyError, Stream, StreamReader, StreamWriter};
use crate::status;
use crate::upgrade::{UpgradeError, Upgraded};
use crate::websocket::{self, ERROR, Event, Protocol, RESIZE, STDERR, STDIN, STDOUT};

/// The SPDY stream protocols a backend may choose from, newest first.
pub const STREAM_PROTOCOLS: [&str; 4] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// Messages that wait to be written to the client.
const CLIENT_QUEUE_MESSAGES: usize = 16;
/// The largest content of an error stream.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// How long opening the backend's streams may take.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to read the last messages.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Which streams a command has, from the request's query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl ExecOptions {
    /// Reads them off a query: of the API, where all but `0` and `false` is true (upstream's
    /// `Convert_Slice_string_To_bool`), or of the kubelet, whose names differ and for which only `1` is.
    pub fn from_query(query: &str) -> Self {
        let value = |name: &str| {
            let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            pairs.find(|(n, _)| *n == name).map(|(_, value)| value)
        };
        let of_api = |name: &str| value(name).is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"));
        let of_kubelet = |name: &str| value(name) == Some("1");
        Self {
            stdin: of_api("stdin") || of_kubelet("input"),
            stdout: of_api("stdout") || of_kubelet("output"),
            stderr: of_api("stderr") || of_kubelet("error"),
            tty: of_api("tty"),
        }
    }
}

/// Runs a command between an upgraded WebSocket client and a backend that `connect` upgrades to SPDY.
/// Returns the command's final status, or `None` if the client went away first.
pub async fn exec<C>(
    client: C,
    protocol: Protocol,
    options: ExecOptions,
    connect: impl Future<Output = Result<Upgraded, UpgradeError>>,
) -> Option<Value>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let backend = async {
        match connect.await {
            Ok(upgraded) => {
                let chosen = upgraded.headers.get(crate::upgrade::STREAM_PROTOCOL_VERSION);
                let version = Version::parse(chosen.and_then(|value| value.to_str().ok()));
                Ok((Connection::client(upgraded.io), version))
            }
            // a refusal with a Status object is passed on as it is
            Err(UpgradeError::Refused { body, .. }) if status::parse(&body).is_some() => {
                Err(status::parse(&body).unwrap_or_default())
            }
            Err(error) => Err(status::internal_error(&error.to_string())),
        }
    };
    run(client, protocol, options, backend).await
}

/// What a backend's stream protocol can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    has_status: bool,
    has_resize: bool,
}

impl Version {
    fn parse(chosen: Option<&str>) -> Self {
        let chosen = chosen.unwrap_or_default();
        let has_status = chosen == "v4.channel.k8s.io";
        Self { has_status, has_resize: has_status || chosen == "v3.channel.k8s.io" }
    }
}

async fn run<C>(
    client: C,
    protocol: Protocol,
    options: ExecOptions,
    backend: impl Future<Output = Result<(Connection, Version), Value>>,
) -> Option<Value>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let websocket = WebSocketStream::from_raw_socket(client, Role::Server, Some(websocket::config())).await;
    let (sink, source) = websocket.split();
    let (messages, queue) = mpsc::channel(CLIENT_QUEUE_MESSAGES);
    let session = async move {
        // an empty message says that the connection stands
        let first = if options.stdout {
            STDOUT
        } else if options.stderr {
            STDERR
        } else {
            ERROR
        };
        messages.send(protocol.encode(first, b"")).await.ok()?;
        let status = match backend.await {
            Ok((connection, version)) => {
                command(source, &messages, protocol, options, &connection, version).await?
            }
            Err(status) => status,
        };
        let last = if protocol.has_status() {
            Some(status.to_string())
        } else if status::is_success(&status) {
            None
        } else {
            status["message"].as_str().map(str::to_owned)
        };
        if let Some(text) = last {
            messages.send(protocol.encode(ERROR, text.as_bytes())).await.ok()?;
        }
        Some(status)
    };
    let (status, ()) = tokio::join!(session, write_messages(sink, queue));
    status
}

/// Writes what is queued; when nothing more can come, says goodbye.
async fn write_messages(
    mut sink: impl Sink<Message, Error = WsError> + Unpin,
    mut queue: mpsc::Receiver<Message>,
) {
    while let Some(message) = queue.recv().await {
        if sink.send(message).await.is_err() {
            // dropping the queue tells the senders
            return;
        }
    }
    let goodbye = async {
        sink.send(websocket::goodbye()).await?;
        sink.close().await
    };
    let _ = tokio::time::timeout(LAST_WRITE_TIMEOUT, goodbye).await;
}

struct Streams {
    error: Stream,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

/// Opens the streams in the order that backends expect, all at once, and waits for their answers.
async fn open(connection: &Connection, options: ExecOptions, version: Version) -> Result<Streams, SpdyError> {
    async fn open_if(connection: &Connection, wanted: bool, kind: &str) -> Result<Option<Stream>, SpdyError> {
        if wanted { connection.open(&[("streamtype", kind)]).await.map(Some) } else { Ok(None) }
    }
    let mut streams = Streams {
        error: connection.open(&[("streamtype", "error")]).await?,
        stdin: open_if(connection, options.stdin, "stdin").await?,
        stdout: open_if(connection, options.stdout, "stdout").await?,
        stderr: open_if(connection, options.stderr && !options.tty, "stderr").await?,
        resize: open_if(connection, options.tty && version.has_resize, "resize").await?,
    };
    streams.error.opened().await?;
    let others = [&mut streams.stdin, &mut streams.stdout, &mut streams.stderr, &mut streams.resize];
    for stream in others.into_iter().flatten() {
        stream.opened().await?;
    }
    Ok(streams)
}

/// Carries the streams until the command ends; `None` if the client goes first.
async fn command(
    source: impl FutureStream<Item = Result<Message, WsError>> + Unpin,
    messages: &mpsc::Sender<Message>,
    protocol: Protocol,
    options: ExecOptions,
    connection: &Connection,
    version: Version,
) -> Option<Value> {
    let streams = match tokio::time::timeout(STREAMS_TIMEOUT, open(connection, options, version)).await {
        Ok(Ok(streams)) => streams,
        Ok(Err(error)) => return Some(status::internal_error(&error.to_string())),
        Err(_) => return Some(status::internal_error("timed out waiting for the streams of the command")),
    };
    // the readers of what only we write must stay: an unread stream would hold the connection back
    let (stdin_reader, stdin) = streams.stdin.map(Stream::split).unzip();
    let (resize_reader, resize) = streams.resize.map(Stream::split).unzip();
    let outputs = async {
        let stdout = streams.stdout.map(|stream| copy_out(stream.split().0, STDOUT, protocol, messages));
        let stderr = streams.stderr.map(|stream| copy_out(stream.split().0, STDERR, protocol, messages));
        let (stdout, stderr) = tokio::join!(maybe(stdout), maybe(stderr));
        stdout?;
        stderr?;
        let mut error = streams.error.split().0;
        Some(final_status(error.read_to_end(MAX_ERROR_BYTES).await, version))
    };
    let status = tokio::select! {
        status = outputs => status,
        () = copy_in(source, protocol, stdin, resize) => None,
        () = discard(stdin_reader) => unreachable!("it does not end"),
        () = discard(resize_reader) => unreachable!("it does not end"),
    };
    connection.close().await;
    status
}

/// What the end of the error stream says.
fn final_status(error: Result<Bytes, SpdyError>, version: Version) -> Value {
    match error {
        Err(error) => status::internal_error(&format!("error reading from error stream: {error}")),
        Ok(content) if content.is_empty() => status::success(),
        Ok(content) => match status::parse(&content).filter(|_| version.has_status) {
            Some(status) => status,
            None => {
                let text = String::from_utf8_lossy(&content);
                status::internal_error(&format!("error executing remote command: {text}"))
            }
        },
    }
}

async fn maybe(copy: Option<impl Future<Output = Option<()>>>) -> Option<()> {
    match copy {
        Some(copy) => copy.await,
        None => Some(()),
    }
}

/// Copies an output to its channel until it ends; `None` if the client is gone.
async fn copy_out(
    mut reader: StreamReader,
    channel: u8,
    protocol: Protocol,
    messages: &mpsc::Sender<Message>,
) -> Option<()> {
    // a broken stream ends like any other: the error stream tells why
    while let Ok(Some(data)) = reader.read().await {
        messages.send(protocol.encode(channel, &data)).await.ok()?;
    }
    Some(())
}

/// Copies the client's channels to their streams; returns when the client is gone.
async fn copy_in(
    mut source: impl FutureStream<Item = Result<Message, WsError>> + Unpin,
    protocol: Protocol,
    stdin: Option<StreamWriter>,
    resize: Option<StreamWriter>,
) {
    let mut streams = [(STDIN, stdin), (RESIZE, resize)];
    while let Some(Ok(message)) = source.next().await {
        let Some(event) = protocol.decode(message) else { continue };
        let (Event::Data(channel, _) | Event::CloseChannel(channel)) = event else { return };
        // what is written on channels that the command does not have goes nowhere
        let Some((_, Some(stream))) = streams.iter_mut().find(|(of, _)| *of == channel) else { continue };
        // a command that reads no more input makes writes fail; the session goes on
        let _ = match event {
            Event::Data(_, data) => stream.write(data).await,
            Event::CloseChannel(_) => stream.finish().await,
            Event::Closed => return,
        };
    }
}

/// Reads a stream for as long as the session lasts.
async fn discard(reader: Option<StreamReader>) {
    if let Some(mut reader) = reader {
        while let Ok(Some(_)) = reader.read().await {}
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::Utf8Bytes;

    const V4: Version = Version { has_status: true, has_resize: true };

    #[test]
    fn options_are_read_off_both_kinds_of_query() {
        let all = ExecOptions { stdin: true, stdout: true, stderr: true, tty: false };
        let check = |query: &str, expect| assert_eq!(ExecOptions::from_query(query), expect, "{query}");
        check("command=cat&stdin=true&stdout=true&stderr=true&tty=false", all);
        check("command=cat&input=1&output=1&error=1", all);
        check("stdin=yes&stdout&stderr=&tty=0", all);
        check("stdin=False&stdin=true&input=true", ExecOptions::default());
    }

    /// A session with a client that speaks version 5, and a backend that speaks version 4.
    fn session(
        options: ExecOptions,
        client: tokio::io::DuplexStream,
        backend: tokio::io::DuplexStream,
    ) -> tokio::task::JoinHandle<Option<Value>> {
        let backend = async move { Ok((Connection::client(backend), V4)) };
        tokio::spawn(run(client, Protocol::V5, options, backend))
    }

    /// A backend that answers stdin's content twice, on stdout, and `status` at the end of stdin.
    async fn echo_twice(io: tokio::io::DuplexStream, status: &'static str) {
        let (_connection, mut incoming) = Connection::server(io);
        let mut streams = std::collections::HashMap::new();
        while streams.len() < 4 {
            let stream = incoming.recv().await.unwrap();
            stream.accept().await.unwrap();
            streams.insert(stream.header("streamtype").unwrap().to_owned(), stream.split());
        }
        let input = streams.get_mut("stdin").unwrap().0.read_to_end(1 << 20).await.unwrap();
        for kind in ["stdout", "stderr", "error"] {
            let (_, writer) = streams.get_mut(kind).unwrap();
            match kind {
                "stdout" => writer.write([input.clone(), input.clone()].concat().into()).await.unwrap(),
                "error" => writer.write(Bytes::from_static(status.as_bytes())).await.unwrap(),
                _ => {}
            }
            writer.finish().await.unwrap();
        }
        // until the client has read it all
        while streams.get_mut("stdin").unwrap().0.read().await.is_ok_and(|data| data.is_some()) {}
        _connection.closed().await;
    }

    #[tokio::test]
    async fn a_command_reads_its_input_to_the_end_and_tells_its_exit_code() {
        let failed = r#"{"metadata":{},"status":"Failure","message":"command terminated with exit code 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        let (near, far) = tokio::io::duplex(1 << 16);
        let (client, server) = tokio::io::duplex(1 << 16);
        let backend = tokio::spawn(echo_twice(far, failed));
        let options = ExecOptions { stdin: true, stdout: true, stderr: true, tty: false };
        let session = session(options, server, near);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        client.send(Protocol::V5.encode(STDIN, b"abc")).await.unwrap();
        client.send(Message::binary(&b"\xff\x00"[..])).await.unwrap();
        let mut seen = Vec::new();
        while let Some(Ok(message)) = client.next().await {
            match message {
                Message::Close(_) => break,
                message => seen.push(message),
            }
        }
        let status = session.await.unwrap().unwrap();
        assert_eq!(status::exit_code(&status), Some(3));
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert_eq!(seen[0], Message::binary(&b"\x01"[..]), "an empty message at first");
        assert_eq!(seen[1], Message::binary(&b"\x01abcabc"[..]));
        let text = seen[2].clone().into_data();
        assert_eq!(
            (text[0], status::parse(&text[1..]).map(|s| s.to_string())),
            (ERROR, Some(status.to_string()))
        );
        backend.await.unwrap();
    }

    #[tokio::test]
    async fn a_backend_that_is_not_there_is_told_on_the_error_channel() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let options = ExecOptions { stdout: true, ..ExecOptions::default() };
        let refused = async { Err(UpgradeError::Connect(std::io::ErrorKind::ConnectionRefused.into())) };
        let session = tokio::spawn(async move { exec(server, Protocol::V4Base64, options, refused).await });
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Text(Utf8Bytes::from_static("1")));
        let Some(Event::Data(ERROR, text)) = Protocol::V4Base64.decode(client.next().await.unwrap().unwrap())
        else {
            panic!("an error is expected");
        };
        let status = status::parse(&text).unwrap();
        assert_eq!(status["message"], "Internal error occurred: error dialing backend: connection refused");
        assert_eq!(client.next().await.unwrap().unwrap(), websocket::goodbye());
        assert!(session.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_client_that_goes_ends_the_command() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (client, server) = tokio::io::duplex(1 << 16);
        let (connection, mut incoming) = Connection::server(far);
        let options = ExecOptions { stdin: true, ..ExecOptions::default() };
        let session = session(options, server, near);
        let mut held = Vec::new();
        for _ in 0..2 {
            let stream = incoming.recv().await.unwrap();
            stream.accept().await.unwrap();
            held.push(stream);
        }
        drop(client);
        assert_eq!(session.await.unwrap(), None);
        connection.closed().await;
    }
}
