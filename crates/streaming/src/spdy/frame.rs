//! SPDY/3 frames: their bytes and back (SPDY protocol, draft 3, section 2).

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::dictionary::dictionary;

/// The protocol version in control frames; 3.1 differs from 3 only in flow control.
const VERSION: u16 = 3;
/// The largest control frame that is taken.
pub const MAX_CONTROL_FRAME_BYTES: usize = 64 << 10;
/// The largest header block, decompressed.
const MAX_HEADER_BLOCK_BYTES: usize = 256 << 10;
/// Data is handed on in pieces of at most this size, whatever the frame's.
pub const MAX_DATA_BYTES: usize = 32 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
const FLAG_FIN: u8 = 1;

/// Names (lower case) and values, in order.
pub type Headers = Vec<(String, String)>;

/// Why a stream was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset(pub u32);

impl Reset {
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INVALID_STREAM: Self = Self(2);
    pub const REFUSED_STREAM: Self = Self(3);
    pub const CANCEL: Self = Self(5);
}

/// One frame, or a piece of a data frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        id: u32,
        reset: Reset,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last_good_id: u32,
        status: u32,
    },
    Headers {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    Data {
        id: u32,
        fin: bool,
        data: Bytes,
    },
    /// Settings, window updates and types of no meaning here.
    Ignored,
}

/// What is wrong with the bytes.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("control frame of {0} bytes: at most {MAX_CONTROL_FRAME_BYTES} are taken")]
    TooLarge(usize),
    #[error("SPDY version {0} is not 3")]
    Version(u16),
    #[error("malformed {0} frame")]
    Malformed(&'static str),
    #[error("header block: {0}")]
    HeaderBlock(&'static str),
}

/// Encodes frames; holds the compression of the headers, which spans all frames of a direction.
#[derive(Debug)]
pub struct Framer {
    compress: Compress,
}

impl Default for Framer {
    fn default() -> Self {
        Self::new()
    }
}

impl Framer {
    pub fn new() -> Self {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&dictionary()).expect("a fresh zlib stream takes a dictionary");
        Self { compress }
    }

    /// Appends a frame's bytes. Data longer than 2^24 - 1 bytes must have been cut by the caller.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::SynStream { id, fin, headers } => {
                let mut body = BytesMut::new();
                body.put_u32(*id);
                body.put_u32(0); // not associated to another stream
                body.put_u16(0); // priority and slot
                self.header_block(headers, &mut body);
                control(SYN_STREAM, *fin, &body, out);
            }
            Frame::SynReply { id, fin, headers } => {
                let mut body = BytesMut::new();
                body.put_u32(*id);
                self.header_block(headers, &mut body);
                control(SYN_REPLY, *fin, &body, out);
            }
            Frame::Headers { id, fin, headers } => {
                let mut body = BytesMut::new();
                body.put_u32(*id);
                self.header_block(headers, &mut body);
                control(HEADERS, *fin, &body, out);
            }
            Frame::RstStream { id, reset } => control(RST_STREAM, false, &words([*id, reset.0]), out),
            Frame::Ping { id } => control(PING, false, &words([*id]), out),
            Frame::GoAway { last_good_id, status } => {
                control(GOAWAY, false, &words([*last_good_id, *status]), out);
            }
            Frame::Data { id, fin, data } => {
                out.put_u32(*id);
                out.put_u32(flags_and_length(*fin, data.len()));
                out.extend_from_slice(data);
            }
            Frame::Ignored => {}
        }
    }

    fn header_block(&mut self, headers: &Headers, out: &mut BytesMut) {
        let mut plain = BytesMut::new();
        let length = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX);
        plain.put_u32(u32::try_from(headers.len()).unwrap_or(u32::MAX));
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            plain.put_u32(length(&name));
            plain.extend_from_slice(name.as_bytes());
            plain.put_u32(length(value));
            plain.extend_from_slice(value.as_bytes());
        }
        let mut buffer = Vec::with_capacity(plain.len() + 64);
        let before = self.compress.total_in();
        loop {
            let done = usize::try_from(self.compress.total_in() - before).unwrap_or(usize::MAX);
            let rest = plain.get(done..).unwrap_or_default();
            buffer.reserve(256);
            let _ = self.compress.compress_vec(rest, &mut buffer, FlushCompress::Sync);
            let done = usize::try_from(self.compress.total_in() - before).unwrap_or(usize::MAX);
            // room left over means that the flush is complete
            if done >= plain.len() && buffer.len() < buffer.capacity() {
                break;
            }
        }
        out.extend_from_slice(&buffer);
    }
}

/// Decompresses the header blocks of one direction.
#[derive(Debug)]
pub struct Unpacker {
    decompress: Decompress,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self { decompress: Decompress::new(true) }
    }
}

impl Unpacker {
    fn header_block(&mut self, packed: &[u8]) -> Result<Headers, FrameError> {
        let mut plain = Vec::with_capacity(1024);
        let before = self.decompress.total_in();
        loop {
            let done = usize::try_from(self.decompress.total_in() - before).unwrap_or(usize::MAX);
            let rest = packed.get(done..).unwrap_or_default();
            if plain.len() > MAX_HEADER_BLOCK_BYTES {
                return Err(FrameError::HeaderBlock("too large"));
            }
            plain.reserve(1024);
            match self.decompress.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => break,
                Ok(_) => {
                    let done = usize::try_from(self.decompress.total_in() - before).unwrap_or(usize::MAX);
                    if done >= packed.len() && plain.len() < plain.capacity() {
                        break;
                    }
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    self.decompress
                        .set_dictionary(&dictionary())
                        .map_err(|_| FrameError::HeaderBlock("another dictionary"))?;
                }
                Err(_) => return Err(FrameError::HeaderBlock("not a zlib stream")),
            }
        }
        parse_headers(&plain)
    }
}

fn parse_headers(mut plain: &[u8]) -> Result<Headers, FrameError> {
    let mut headers = Vec::new();
    let count = take_u32(&mut plain).ok_or(FrameError::HeaderBlock("cut short"))?;
    for _ in 0..count {
        let name = take_text(&mut plain).ok_or(FrameError::HeaderBlock("cut short"))?;
        let values = take_text(&mut plain).ok_or(FrameError::HeaderBlock("cut short"))?;
        // several values of one name are joined by NUL
        headers.extend(values.split('\0').map(|value| (name.clone(), value.to_owned())));
    }
    Ok(headers)
}

fn take_u32(plain: &mut &[u8]) -> Option<u32> {
    let (head, rest) = plain.split_first_chunk::<4>()?;
    *plain = rest;
    Some(u32::from_be_bytes(*head))
}

fn take_text(plain: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(take_u32(plain)?).ok()?;
    let (head, rest) = plain.split_at_checked(length)?;
    *plain = rest;
    Some(String::from_utf8_lossy(head).into_owned())
}

fn words<const N: usize>(values: [u32; N]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn flags_and_length(fin: bool, length: usize) -> u32 {
    let flags = if fin { u32::from(FLAG_FIN) << 24 } else { 0 };
    flags | (u32::try_from(length).unwrap_or(0) & 0x00ff_ffff)
}

fn control(kind: u16, fin: bool, body: &[u8], out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(flags_and_length(fin, body.len()));
    out.extend_from_slice(body);
}

/// Reads frames off a connection.
#[derive(Debug, Default)]
pub(super) struct Reader {
    unpacker: Unpacker,
    /// The rest of a data frame that is handed on in pieces: stream, bytes, whether it ends the stream.
    rest: Option<(u32, usize, bool)>,
}

impl Reader {
    /// The next frame, or `None` at the end of the connection.
    pub(super) async fn next<R: AsyncRead + Unpin>(
        &mut self,
        io: &mut R,
    ) -> Result<Option<Frame>, FrameError> {
        if let Some((id, left, fin)) = self.rest.take() {
            return self.data(io, id, left, fin).await.map(Some);
        }
        let mut head = [0u8; 8];
        if io.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        io.read_exact(&mut head[1..]).await?;
        let [a, b, c, d, flags, x, y, z] = head;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        let fin = flags & FLAG_FIN != 0;
        if a & 0x80 == 0 {
            return self.data(io, u32::from_be_bytes([a, b, c, d]), length, fin).await.map(Some);
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > MAX_CONTROL_FRAME_BYTES {
            return Err(FrameError::TooLarge(length));
        }
        let mut body = vec![0u8; length];
        io.read_exact(&mut body).await?;
        self.control(u16::from_be_bytes([c, d]), fin, &body).map(Some)
    }

    async fn data<R: AsyncRead + Unpin>(
        &mut self,
        io: &mut R,
        id: u32,
        length: usize,
        fin: bool,
    ) -> Result<Frame, FrameError> {
        let now = length.min(MAX_DATA_BYTES);
        let mut data = BytesMut::zeroed(now);
        io.read_exact(&mut data).await?;
        let whole = now == length;
        if !whole {
            self.rest = Some((id, length - now, fin));
        }
        Ok(Frame::Data { id, fin: fin && whole, data: data.freeze() })
    }

    fn control(&mut self, kind: u16, fin: bool, body: &[u8]) -> Result<Frame, FrameError> {
        let mut rest = body;
        let mut word = |name| take_u32(&mut rest).ok_or(FrameError::Malformed(name));
        Ok(match kind {
            SYN_STREAM => {
                let id = word("SYN_STREAM")? & 0x7fff_ffff;
                let packed = body.get(10..).ok_or(FrameError::Malformed("SYN_STREAM"))?;
                Frame::SynStream { id, fin, headers: self.unpacker.header_block(packed)? }
            }
            SYN_REPLY => {
                let id = word("SYN_REPLY")? & 0x7fff_ffff;
                Frame::SynReply { id, fin, headers: self.unpacker.header_block(rest)? }
            }
            HEADERS => {
                let id = word("HEADERS")? & 0x7fff_ffff;
                Frame::Headers { id, fin, headers: self.unpacker.header_block(rest)? }
            }
            RST_STREAM => Frame::RstStream { id: word("RST_STREAM")?, reset: Reset(word("RST_STREAM")?) },
            PING => Frame::Ping { id: word("PING")? },
            GOAWAY => Frame::GoAway { last_good_id: word("GOAWAY")?, status: word("GOAWAY").unwrap_or(0) },
            SETTINGS | WINDOW_UPDATE => Frame::Ignored,
            _ => Frame::Ignored,
        })
    }
}

/// Reads one frame of a connection whose header blocks begin with it; for tests and tools.
///
/// # Errors
/// As the frame is malformed or the connection breaks.
pub async fn read_frame<R: AsyncRead + Unpin>(io: &mut R) -> Result<Option<Frame>, FrameError> {
    Reader::default().next(io).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[tokio::test]
    async fn frames_survive_the_wire_with_one_compression_for_all() {
        let frames = [
            Frame::SynStream { id: 1, fin: false, headers: headers(&[("streamtype", "error")]) },
            Frame::SynStream {
                id: 3,
                fin: true,
                headers: headers(&[("streamtype", "stdin"), ("port", "80")]),
            },
            Frame::SynReply { id: 3, fin: false, headers: vec![] },
            Frame::Data { id: 3, fin: false, data: Bytes::from_static(b"abc") },
            Frame::Headers { id: 3, fin: true, headers: headers(&[("a", &"long".repeat(3000))]) },
            Frame::Data { id: 3, fin: true, data: Bytes::new() },
            Frame::RstStream { id: 3, reset: Reset::CANCEL },
            Frame::Ping { id: 2 },
            Frame::GoAway { last_good_id: 3, status: 0 },
        ];
        let mut framer = Framer::new();
        let mut wire = BytesMut::new();
        for frame in &frames {
            framer.encode(frame, &mut wire);
        }
        let mut io = &wire[..];
        let mut reader = Reader::default();
        for frame in &frames {
            assert_eq!(reader.next(&mut io).await.unwrap().as_ref(), Some(frame));
        }
        assert!(reader.next(&mut io).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_large_data_frame_comes_in_pieces_and_ends_once() {
        let mut wire = BytesMut::new();
        let data = Bytes::from(vec![7u8; MAX_DATA_BYTES + 5]);
        Framer::new().encode(&Frame::Data { id: 9, fin: true, data }, &mut wire);
        let mut io = &wire[..];
        let mut reader = Reader::default();
        let mut seen = Vec::new();
        while let Some(Frame::Data { fin, data, .. }) = reader.next(&mut io).await.unwrap() {
            seen.push((data.len(), fin));
        }
        assert_eq!(seen, [(MAX_DATA_BYTES, false), (5, true)]);
    }

    #[tokio::test]
    async fn what_is_not_spdy_is_refused() {
        #[track_caller]
        fn check(result: Result<Option<Frame>, FrameError>, expect: &str) {
            assert_eq!(result.unwrap_err().to_string(), expect);
        }
        check(read_frame(&mut &b"\x80\x02\x00\x01\x00\x00\x00\x00"[..]).await, "SPDY version 2 is not 3");
        check(
            read_frame(&mut &b"\x80\x03\x00\x03\x00\x00\x00\x02ab"[..]).await,
            "malformed RST_STREAM frame",
        );
        check(
            read_frame(&mut &b"\x80\x03\x00\x02\x00\x00\x00\x06\x00\x00\x00\x01zz"[..]).await,
            "header block: not a zlib stream",
        );
        check(
            read_frame(&mut &b"\x80\x03\x00\x02\x00\xff\xff\xff"[..]).await,
            "control frame of 16777215 bytes: at most 65536 are taken",
        );
    }
}
