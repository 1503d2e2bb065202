//! A SPDY connection: one task reads, one writes, and streams are handles.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};

use super::frame::{Frame, Framer, Headers, MAX_DATA_BYTES, Reader, Reset};

/// Frames that wait to be written.
const WRITE_QUEUE_FRAMES: usize = 16;
/// Pieces of data that wait to be read from one stream; a full queue holds the connection back.
const STREAM_QUEUE_PIECES: usize = 16;
/// Streams of the peer that wait to be taken.
const ACCEPT_QUEUE_STREAMS: usize = 16;
/// Streams of one connection, ours and the peer's.
const MAX_STREAMS: usize = 1024;
/// The writer gathers frames up to this size before it writes.
const WRITE_BATCH_BYTES: usize = 64 << 10;

/// Why a stream or connection does not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    #[error("the connection was closed")]
    Closed,
    #[error("the stream was reset by the peer (status {})", .0.0)]
    Reset(Reset),
    #[error("{0}")]
    Protocol(String),
    #[error("more than {MAX_STREAMS} streams on one connection")]
    TooManyStreams,
}

/// How far a stream has come, as the peer decides it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
    /// The peer writes no more.
    Finished,
    /// It was open until the peer reset it.
    Cut(Reset),
    Failed(SpdyError),
}

#[derive(Debug)]
struct Entry {
    data: Option<mpsc::Sender<Bytes>>,
    phase: watch::Sender<Phase>,
}

#[derive(Debug)]
struct Shared {
    streams: Mutex<HashMap<u32, Entry>>,
    frames: mpsc::Sender<Frame>,
    /// Held from the choice of an id to the sending of its frame: ids must grow on the wire.
    next_id: tokio::sync::Mutex<u32>,
    ours_are_odd: bool,
    tasks: Mutex<Vec<tokio::task::AbortHandle>>,
    closed: watch::Sender<bool>,
}

/// One end of a connection. It ends when its last handle is dropped, or at [`close`].
///
/// [`close`]: Connection::close
#[derive(Debug, Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    _guard: Arc<Guard>,
}

/// Ends the tasks with the last handle.
#[derive(Debug)]
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        for task in self.0.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

impl Connection {
    /// The client's end; streams of the server are refused.
    pub fn client<I: AsyncRead + AsyncWrite + Send + 'static>(io: I) -> Self {
        Self::start(io, true, None)
    }

    /// The server's end, and the client's streams as they come. Each is answered by [`Stream::accept`].
    pub fn server<I: AsyncRead + AsyncWrite + Send + 'static>(io: I) -> (Self, mpsc::Receiver<Stream>) {
        let (sender, receiver) = mpsc::channel(ACCEPT_QUEUE_STREAMS);
        (Self::start(io, false, Some(sender)), receiver)
    }

    fn start<I: AsyncRead + AsyncWrite + Send + 'static>(
        io: I,
        client: bool,
        incoming: Option<mpsc::Sender<Stream>>,
    ) -> Self {
        let (read, write) = tokio::io::split(io);
        let (frames, queue) = mpsc::channel(WRITE_QUEUE_FRAMES);
        let shared = Arc::new(Shared {
            streams: Mutex::default(),
            frames,
            next_id: tokio::sync::Mutex::new(if client { 1 } else { 2 }),
            ours_are_odd: client,
            tasks: Mutex::default(),
            closed: watch::Sender::new(false),
        });
        let writer = tokio::spawn(write_frames(write, queue));
        let reader = tokio::spawn({
            let shared = shared.clone();
            async move { shared.read(read, incoming).await }
        });
        shared.tasks.lock().extend([writer.abort_handle(), reader.abort_handle()]);
        let guard = Arc::new(Guard(shared.clone()));
        Self { shared, _guard: guard }
    }

    /// Opens a stream. It may be read at once; before writing, wait for [`Stream::opened`].
    ///
    /// # Errors
    /// If the connection is closed or has too many streams.
    pub async fn open(&self, headers: &[(&str, &str)]) -> Result<Stream, SpdyError> {
        let headers: Headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let mut next = self.shared.next_id.lock().await;
        let id = *next;
        let stream = self.shared.add(id, headers.clone(), Phase::Opening)?;
        self.shared.send(Frame::SynStream { id, fin: false, headers }).await?;
        *next += 2;
        Ok(stream)
    }

    /// Says that no more streams are taken and ends the connection once what waits is written.
    pub async fn close(&self) {
        let last_good_id = 0;
        let _ = self.shared.send(Frame::GoAway { last_good_id, status: 0 }).await;
        self.shared.fail_all(&SpdyError::Closed);
    }

    /// Returns when the peer has closed the connection or it broke.
    pub async fn closed(&self) {
        // the sender lives in `shared`
        let _ = self.shared.closed.subscribe().wait_for(|closed| *closed).await;
    }
}

impl Shared {
    fn add(self: &Arc<Self>, id: u32, headers: Headers, phase: Phase) -> Result<Stream, SpdyError> {
        let (sender, data) = mpsc::channel(STREAM_QUEUE_PIECES);
        let (phase_sender, phase) = watch::channel(phase);
        let mut streams = self.streams.lock();
        if *self.closed.borrow() {
            return Err(SpdyError::Closed);
        }
        if streams.len() >= MAX_STREAMS {
            return Err(SpdyError::TooManyStreams);
        }
        streams.insert(id, Entry { data: Some(sender), phase: phase_sender });
        Ok(Stream {
            reader: StreamReader { data, phase: phase.clone() },
            writer: StreamWriter { id, shared: self.clone(), finished: false, phase },
            headers,
        })
    }

    async fn send(&self, frame: Frame) -> Result<(), SpdyError> {
        self.frames.send(frame).await.map_err(|_| SpdyError::Closed)
    }

    async fn read<I: AsyncRead>(
        self: Arc<Self>,
        mut io: ReadHalf<I>,
        incoming: Option<mpsc::Sender<Stream>>,
    ) {
        let mut reader = Reader::default();
        let end = loop {
            match reader.next(&mut io).await {
                Ok(Some(frame)) => {
                    if self.take(frame, incoming.as_ref()).await.is_err() {
                        break SpdyError::Closed;
                    }
                }
                Ok(None) => break SpdyError::Closed,
                Err(error) => break SpdyError::Protocol(error.to_string()),
            }
        };
        self.fail_all(&end);
    }

    fn fail_all(&self, error: &SpdyError) {
        let mut streams = self.streams.lock();
        self.closed.send_replace(true);
        for (_, entry) in streams.drain() {
            entry.phase.send_if_modified(|phase| {
                let going = !matches!(phase, Phase::Finished | Phase::Cut(_) | Phase::Failed(_));
                if going {
                    *phase = Phase::Failed(error.clone());
                }
                going
            });
        }
    }

    async fn take(
        self: &Arc<Self>,
        frame: Frame,
        incoming: Option<&mpsc::Sender<Stream>>,
    ) -> Result<(), SpdyError> {
        match frame {
            Frame::SynStream { id, fin, headers } => {
                let Some(incoming) = incoming else {
                    return self.send(Frame::RstStream { id, reset: Reset::REFUSED_STREAM }).await;
                };
                match self.add(id, headers, Phase::Open) {
                    Ok(stream) => {
                        if fin {
                            self.finish(id);
                        }
                        if incoming.send(stream).await.is_err() {
                            self.streams.lock().remove(&id);
                            self.send(Frame::RstStream { id, reset: Reset::REFUSED_STREAM }).await?;
                        }
                    }
                    Err(_) => self.send(Frame::RstStream { id, reset: Reset::REFUSED_STREAM }).await?,
                }
            }
            Frame::SynReply { id, fin, .. } => {
                if let Some(entry) = self.streams.lock().get(&id) {
                    entry.phase.send_if_modified(|phase| {
                        let opening = *phase == Phase::Opening;
                        if opening {
                            *phase = Phase::Open;
                        }
                        opening
                    });
                }
                if fin {
                    self.finish(id);
                }
            }
            Frame::Data { id, fin, data } => {
                let sender = self.streams.lock().get(&id).and_then(|entry| entry.data.clone());
                if let Some(sender) = sender
                    && !data.is_empty()
                {
                    // nobody reads it any more: then it is dropped
                    let _ = sender.send(data).await;
                }
                if fin {
                    self.finish(id);
                }
            }
            Frame::Headers { id, fin: true, .. } => self.finish(id),
            Frame::RstStream { id, reset } => {
                if let Some(entry) = self.streams.lock().remove(&id) {
                    entry.phase.send_modify(|phase| {
                        *phase = match phase {
                            Phase::Opening => Phase::Failed(SpdyError::Reset(reset)),
                            _ => Phase::Cut(reset),
                        };
                    });
                }
            }
            Frame::Ping { id } => {
                if (id % 2 == 1) != self.ours_are_odd {
                    self.send(Frame::Ping { id }).await?;
                }
            }
            // what is open goes on to its end
            Frame::GoAway { .. } | Frame::Headers { .. } | Frame::Ignored => {}
        }
        Ok(())
    }

    /// The peer ended its half of a stream.
    fn finish(&self, id: u32) {
        if let Some(entry) = self.streams.lock().get_mut(&id) {
            // in this order: whoever sees the end of the data finds the reason
            entry.phase.send_replace(Phase::Finished);
            entry.data = None;
        }
    }
}

async fn write_frames<I: AsyncWrite>(mut io: WriteHalf<I>, mut queue: mpsc::Receiver<Frame>) {
    let mut framer = Framer::new();
    let mut buffer = BytesMut::new();
    while let Some(frame) = queue.recv().await {
        let mut last = matches!(frame, Frame::GoAway { .. });
        framer.encode(&frame, &mut buffer);
        while buffer.len() < WRITE_BATCH_BYTES
            && !last
            && let Ok(frame) = queue.try_recv()
        {
            last = matches!(frame, Frame::GoAway { .. });
            framer.encode(&frame, &mut buffer);
        }
        if io.write_all(&buffer).await.is_err() || io.flush().await.is_err() {
            return;
        }
        buffer.clear();
        if last {
            break;
        }
    }
    let _ = io.shutdown().await;
}

/// One stream of a connection.
#[derive(Debug)]
pub struct Stream {
    reader: StreamReader,
    writer: StreamWriter,
    headers: Headers,
}

impl Stream {
    /// The value of a header it was opened with; names compare without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Returns when the peer has taken the stream.
    ///
    /// # Errors
    /// If it refused it, or the connection ended.
    pub async fn opened(&mut self) -> Result<(), SpdyError> {
        let phase = self.reader.phase.wait_for(|phase| *phase != Phase::Opening).await;
        match phase.as_deref() {
            Ok(Phase::Failed(error)) => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(SpdyError::Closed),
        }
    }

    /// Takes a stream that the peer opened.
    ///
    /// # Errors
    /// If the connection ended.
    pub async fn accept(&self) -> Result<(), SpdyError> {
        let id = self.writer.id;
        self.writer.shared.send(Frame::SynReply { id, fin: false, headers: Vec::new() }).await
    }

    /// Both directions apart.
    pub fn split(self) -> (StreamReader, StreamWriter) {
        (self.reader, self.writer)
    }
}

/// What the peer writes.
#[derive(Debug)]
pub struct StreamReader {
    data: mpsc::Receiver<Bytes>,
    phase: watch::Receiver<Phase>,
}

impl StreamReader {
    /// The next piece, or `None` at the peer's end of the stream. A reset is an end too: stream
    /// servers write the last data and reset all streams as they close the connection.
    ///
    /// # Errors
    /// If the connection ended before the stream did.
    pub async fn read(&mut self) -> Result<Option<Bytes>, SpdyError> {
        if let Some(data) = self.data.recv().await {
            return Ok(Some(data));
        }
        match &*self.phase.borrow() {
            Phase::Finished | Phase::Cut(_) | Phase::Failed(SpdyError::Reset(_)) => Ok(None),
            Phase::Failed(error) => Err(error.clone()),
            Phase::Opening | Phase::Open => Err(SpdyError::Closed),
        }
    }

    /// All that comes until the end of the stream.
    ///
    /// # Errors
    /// As [`StreamReader::read`]; more than `limit` bytes are a protocol error.
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Bytes, SpdyError> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.read().await? {
            all.extend_from_slice(&piece);
            if all.len() > limit {
                return Err(SpdyError::Protocol(format!("more than {limit} bytes on a stream")));
            }
        }
        Ok(all.freeze())
    }
}

/// What we write.
#[derive(Debug)]
pub struct StreamWriter {
    id: u32,
    shared: Arc<Shared>,
    finished: bool,
    phase: watch::Receiver<Phase>,
}

impl StreamWriter {
    /// Writes; waits while the connection is held back.
    ///
    /// # Errors
    /// If the stream was reset or finished, or the connection ended.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), SpdyError> {
        if self.finished {
            return Err(SpdyError::Closed);
        }
        match &*self.phase.borrow() {
            Phase::Failed(error) => return Err(error.clone()),
            Phase::Cut(reset) => return Err(SpdyError::Reset(*reset)),
            Phase::Opening | Phase::Open | Phase::Finished => {}
        }
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_DATA_BYTES));
            self.shared.send(Frame::Data { id: self.id, fin: false, data: piece }).await?;
        }
        Ok(())
    }

    /// Ends our half of the stream; the peer reads its end.
    ///
    /// # Errors
    /// If the connection ended.
    pub async fn finish(&mut self) -> Result<(), SpdyError> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        self.shared.send(Frame::Data { id: self.id, fin: true, data: Bytes::new() }).await
    }

    /// Ends both halves at once.
    pub async fn reset(mut self, reset: Reset) {
        self.finished = true;
        self.shared.streams.lock().remove(&self.id);
        let _ = self.shared.send(Frame::RstStream { id: self.id, reset }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_carry_data_both_ways_and_end_apart() {
        let (a, b) = tokio::io::duplex(1 << 16);
        let client = Connection::client(a);
        let (_server, mut incoming) = Connection::server(b);
        let mut stream = client.open(&[("streamType", "stdin"), ("port", "80")]).await.unwrap();
        let peer = incoming.recv().await.unwrap();
        assert_eq!((peer.header("Streamtype"), peer.header("port")), (Some("stdin"), Some("80")));
        peer.accept().await.unwrap();
        stream.opened().await.unwrap();
        let (mut read, mut write) = stream.split();
        let (mut peer_read, mut peer_write) = peer.split();
        write.write(Bytes::from_static(b"to the server")).await.unwrap();
        write.finish().await.unwrap();
        assert_eq!(peer_read.read_to_end(100).await.unwrap(), "to the server");
        // our half is closed, the server's is not
        peer_write.write(Bytes::from(vec![1u8; 100_000])).await.unwrap();
        peer_write.finish().await.unwrap();
        assert_eq!(read.read_to_end(100_000).await.unwrap().len(), 100_000);
    }

    #[tokio::test]
    async fn a_stream_that_is_over_at_once_was_open() {
        let (a, b) = tokio::io::duplex(1 << 16);
        let client = Connection::client(a);
        let (_server, mut incoming) = Connection::server(b);
        let mut short = client.open(&[]).await.unwrap();
        let peer = incoming.recv().await.unwrap();
        peer.accept().await.unwrap();
        let (_, mut write) = peer.split();
        write.write(Bytes::from_static(b"all of it")).await.unwrap();
        // as stream servers do when a command has ended
        write.reset(Reset(5)).await;
        short.reader.phase.wait_for(|phase| *phase == Phase::Cut(Reset(5))).await.unwrap();
        assert_eq!(short.opened().await, Ok(()));
        assert_eq!(short.split().0.read_to_end(100).await.unwrap(), "all of it");
    }

    #[tokio::test]
    async fn a_refused_stream_and_a_lost_connection_are_errors_not_ends() {
        let (a, b) = tokio::io::duplex(1 << 16);
        let client = Connection::client(a);
        let (server, mut incoming) = Connection::server(b);
        let mut refused = client.open(&[]).await.unwrap();
        let peer = incoming.recv().await.unwrap();
        peer.split().1.reset(Reset::REFUSED_STREAM).await;
        assert_eq!(refused.opened().await, Err(SpdyError::Reset(Reset::REFUSED_STREAM)));
        let cut = client.open(&[]).await.unwrap();
        let peer = incoming.recv().await.unwrap();
        peer.accept().await.unwrap();
        drop((peer, server, incoming));
        assert_eq!(cut.split().0.read().await, Err(SpdyError::Closed));
        client.closed().await;
    }
}
