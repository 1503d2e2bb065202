//! The WebSocket sub-protocols of Kubernetes: which one, and how a channel's data is framed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

/// The largest message taken from a client.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// The goodbye of a session that is over. With a status: client-go takes a close without one for a broken
/// connection (RFC 6455 7.4.1: 1000 is a normal closure).
pub fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Default::default() }))
}

/// The first byte of a message that closes a channel, in version 5.
const CLOSE_SIGNAL: u8 = 255;
/// Before the name of a SPDY protocol that is tunnelled.
pub const TUNNEL_PREFIX: &str = "SPDY/3.1+";
/// What every tunnelled protocol's name ends with.
const KUBERNETES_SUFFIX: &str = ".k8s.io";

/// Channels of a remote command.
pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
pub const RESIZE: u8 = 4;

/// A sub-protocol of remote commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `v5.channel.k8s.io`: binary, a status at the end, channels can be closed one by one.
    V5,
    /// `v4.channel.k8s.io`: binary, a status at the end.
    V4,
    /// `v4.base64.channel.k8s.io`.
    V4Base64,
    /// `channel.k8s.io`: binary, plain text errors.
    V1,
    /// `base64.channel.k8s.io`.
    V1Base64,
    /// No sub-protocol asked for: as `channel.k8s.io`.
    Unnamed,
}

impl Protocol {
    const ALL: [Self; 5] = [Self::V5, Self::V4, Self::V4Base64, Self::V1, Self::V1Base64];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
            Self::V4Base64 => "v4.base64.channel.k8s.io",
            Self::V1 => "channel.k8s.io",
            Self::V1Base64 => "base64.channel.k8s.io",
            Self::Unnamed => "",
        }
    }

    /// The first offered one that is known; `None` if some were offered and none is known.
    pub fn choose(headers: &HeaderMap) -> Option<Self> {
        let mut offered = offered(headers).peekable();
        if offered.peek().is_none() {
            return Some(Self::Unnamed);
        }
        offered.find_map(|name| Self::ALL.into_iter().find(|protocol| protocol.name() == name))
    }

    /// Whether a command's end is told by a `Status` object.
    pub fn has_status(self) -> bool {
        matches!(self, Self::V5 | Self::V4 | Self::V4Base64)
    }

    fn is_base64(self) -> bool {
        matches!(self, Self::V4Base64 | Self::V1Base64)
    }

    /// A message of data on a channel.
    pub fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.is_base64() {
            return Message::text(format!("{channel}{}", STANDARD.encode(data)));
        }
        let mut message = BytesMut::with_capacity(data.len() + 1);
        message.put_u8(channel);
        message.extend_from_slice(data);
        Message::binary(message.freeze())
    }

    /// What a message says; `None` for one that says nothing (or nothing valid), which is skipped.
    pub fn decode(self, message: Message) -> Option<Event> {
        let bytes: Bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return Some(Event::Closed),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return None,
        };
        let (&first, rest) = bytes.split_first()?;
        if self.is_base64() {
            let channel = first.checked_sub(b'0')?;
            return Some(Event::Data(channel, STANDARD.decode(rest).ok()?.into()));
        }
        if self == Self::V5 && first == CLOSE_SIGNAL {
            return Some(Event::CloseChannel(*rest.first()?));
        }
        Some(Event::Data(first, bytes.slice(1..)))
    }
}

/// What a client's message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Data(u8, Bytes),
    /// The client writes no more on this channel.
    CloseChannel(u8),
    /// The client goes.
    Closed,
}

/// Whether a request asks for a WebSocket.
pub fn is_request(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket")) && asks_to_upgrade(headers)
}

/// Whether a request asks to upgrade to anything.
pub fn asks_to_upgrade(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.to_ascii_lowercase().contains("upgrade"))
}

/// The SPDY protocols that a client offers to tunnel, without the prefix.
pub fn tunnelled_protocols(headers: &HeaderMap) -> Vec<String> {
    let tunnelled = |name: &str| {
        let inner = name.strip_prefix(TUNNEL_PREFIX)?;
        inner.ends_with(KUBERNETES_SUFFIX).then(|| inner.to_owned())
    };
    offered(headers).filter_map(tunnelled).collect()
}

/// The sub-protocols that a client offers, in its order.
pub(crate) fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

/// The 101 answer to a WebSocket request, choosing `protocol` (none if empty); or the refusal of a
/// request that RFC 6455 does not allow.
///
/// # Errors
/// The status and text to refuse with.
pub fn accept(headers: &HeaderMap, protocol: &str) -> Result<Response<()>, (StatusCode, &'static str)> {
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err((StatusCode::BAD_REQUEST, "missing or bad WebSocket Version"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or((StatusCode::BAD_REQUEST, "missing Sec-WebSocket-Key"))?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(value) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        out.insert(SEC_WEBSOCKET_ACCEPT, value);
    }
    if !protocol.is_empty()
        && let Ok(value) = HeaderValue::from_str(protocol)
    {
        out.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok(response)
}

/// The bounds of a client's connection.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(value: &'static str) -> HeaderMap {
        [(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn the_first_known_protocol_of_the_client_is_chosen() {
        assert_eq!(Protocol::choose(&HeaderMap::new()), Some(Protocol::Unnamed));
        assert_eq!(Protocol::choose(&offers("v5.channel.k8s.io")), Some(Protocol::V5));
        assert_eq!(
            Protocol::choose(&offers("v9.x, base64.channel.k8s.io, v4.channel.k8s.io")),
            Some(Protocol::V1Base64)
        );
        assert_eq!(Protocol::choose(&offers("chat")), None);
        assert_eq!(
            tunnelled_protocols(&offers("SPDY/3.1+portforward.k8s.io, SPDY/3.1+x")),
            ["portforward.k8s.io"]
        );
    }

    #[test]
    fn channels_are_framed_as_each_version_has_it() {
        #[track_caller]
        fn check(protocol: Protocol, message: Message, expect: Option<Event>) {
            assert_eq!(protocol.decode(message), expect);
        }
        let data = |text: &'static str| Some(Event::Data(0, Bytes::from_static(text.as_bytes())));
        check(Protocol::V5, Message::binary(&b"\x00foo"[..]), data("foo"));
        check(Protocol::V5, Message::binary(&b"\xff\x00"[..]), Some(Event::CloseChannel(0)));
        check(
            Protocol::V4,
            Message::binary(&b"\xff\x00"[..]),
            Some(Event::Data(255, Bytes::from_static(b"\0"))),
        );
        check(Protocol::V1Base64, Message::text("0Zm9vCgo="), data("foo\n\n"));
        check(Protocol::V1Base64, Message::text("0***"), None);
        assert_eq!(Protocol::V4Base64.encode(1, b"\n"), Message::text("1Cg=="));
    }
}
