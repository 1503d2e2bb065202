//! A stream in one direction for a WebSocket client: a log, as upstream's `wsstream.Reader` sends it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::proxy::text;
use crate::upgrade::on_upgrade;
use crate::websocket;

/// How a client wants the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `binary.k8s.io`, or no sub-protocol asked for.
    Binary { named: bool },
    /// `base64.binary.k8s.io`: each message is base64, as text.
    Base64,
}

impl Form {
    fn choose(headers: &HeaderMap) -> Option<Self> {
        let mut offered = websocket::offered(headers).peekable();
        if offered.peek().is_none() {
            return Some(Self::Binary { named: false });
        }
        offered.find_map(|name| match name {
            "binary.k8s.io" => Some(Self::Binary { named: true }),
            "base64.binary.k8s.io" => Some(Self::Base64),
            _ => None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Binary { named: true } => "binary.k8s.io",
            Self::Binary { named: false } => "",
            Self::Base64 => "base64.binary.k8s.io",
        }
    }

    fn message(self, data: Bytes) -> Message {
        match self {
            Self::Binary { .. } => Message::Binary(data),
            Self::Base64 => Message::text(STANDARD.encode(&data)),
        }
    }
}

/// Answers a WebSocket request and sends it the body, a message for each of its chunks, after an empty one that
/// says the stream is open. What the client sends is ignored.
pub fn serve<R, B>(request: Request<R>, body: B) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    let Some(form) = Form::choose(request.headers()) else { return text(StatusCode::FORBIDDEN, "") };
    let response = match websocket::accept(request.headers(), form.name()) {
        Ok(response) => response.map(|()| Full::default()),
        Err((status, message)) => return text(status, message),
    };
    on_upgrade(request, move |client| async move {
        let socket = WebSocketStream::from_raw_socket(client, Role::Server, Some(websocket::config())).await;
        let (sink, source) = socket.split();
        carry(sink, source, form, body).await;
    });
    response
}

async fn carry<S, T, B>(mut sink: S, mut source: T, form: Form, mut body: B)
where
    S: Sink<Message, Error = Error> + Unpin,
    T: Stream<Item = Result<Message, Error>> + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let to_client = async {
        sink.send(form.message(Bytes::new())).await?;
        while let Some(frame) = body.frame().await {
            match frame.map(|f| f.into_data()) {
                Ok(Ok(data)) => sink.send(form.message(data)).await?,
                Ok(Err(_trailers)) => {}
                Err(error) => {
                    tracing::debug!(%error, "what is sent to a WebSocket client broke off");
                    break;
                }
            }
        }
        sink.send(websocket::goodbye()).await?;
        sink.close().await
    };
    let from_client = async {
        while let Some(Ok(m)) = source.next().await
            && !m.is_close()
        {}
    };
    tokio::select! {
        // a client that is gone needs no goodbye
        _ = to_client => {}
        () = from_client => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::SEC_WEBSOCKET_PROTOCOL;

    fn chosen(offers: &'static str) -> Option<&'static str> {
        let headers = [(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offers))].into_iter().collect();
        Form::choose(&headers).map(Form::name)
    }

    #[test]
    fn the_first_known_form_is_chosen() {
        assert_eq!(chosen(""), Some(""));
        assert_eq!(chosen("binary.k8s.io"), Some("binary.k8s.io"));
        assert_eq!(chosen("a, base64.binary.k8s.io"), Some("base64.binary.k8s.io"));
        assert_eq!(chosen("v4.channel.k8s.io"), None);
    }

    async fn received(form: Form) -> Vec<Message> {
        let (client, server) = tokio::io::duplex(1 << 16);
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let (sink, source) = server.split();
        let sending = tokio::spawn(carry(sink, source, form, Full::new(Bytes::from_static(b"alive\n"))));
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let messages = client.filter_map(|m| std::future::ready(m.ok())).collect().await;
        sending.await.unwrap();
        messages
    }

    #[tokio::test]
    async fn an_empty_message_the_bytes_and_a_goodbye() {
        let binary = |data: &'static [u8]| Message::Binary(Bytes::from_static(data));
        assert_eq!(
            received(Form::Binary { named: true }).await,
            [binary(b""), binary(b"alive\n"), websocket::goodbye()]
        );
        assert_eq!(
            received(Form::Base64).await,
            [Message::text(""), Message::text("YWxpdmUK"), websocket::goodbye()]
        );
    }
}
