//! SPDY inside a WebSocket: the bytes of the inner connection as binary messages, as `kubectl
//! port-forward` speaks it.

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::websocket;

/// The largest message written.
const MESSAGE_BYTES: usize = 32 << 10;

/// Carries bytes between an upgraded WebSocket client and a SPDY backend until one of them ends.
pub async fn join<C, B>(client: C, backend: B)
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let websocket = WebSocketStream::from_raw_socket(client, Role::Server, Some(websocket::config())).await;
    let (mut sink, mut source) = websocket.split();
    let (mut read, mut write) = tokio::io::split(backend);
    let to_backend = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(data) => {
                    if write.write_all(&data).await.is_err() || write.flush().await.is_err() {
                        break;
                    }
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                // text is no part of the protocol
                Message::Text(_) | Message::Close(_) => break,
            }
        }
    };
    let to_client = async {
        let mut buffer = BytesMut::with_capacity(MESSAGE_BYTES);
        while read.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
            if sink.send(Message::binary(buffer.split().freeze())).await.is_err() {
                break;
            }
            buffer.reserve(MESSAGE_BYTES);
        }
        // a client that is gone needs no goodbye
        let _ = sink.send(websocket::goodbye()).await;
        let _ = sink.close().await;
    };
    tokio::select! {
        () = to_backend => {}
        () = to_client => {}
    }
    let _ = write.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spdy::Connection;
    use bytes::Bytes;

    #[tokio::test]
    async fn a_spdy_connection_passes_through_a_websocket() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (near, far) = tokio::io::duplex(1 << 16);
        let tunnel = tokio::spawn(join(server, near));
        // the client's SPDY, inside its WebSocket
        let (inner, spdy) = tokio::io::duplex(1 << 16);
        let outer = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let pump = tokio::spawn(async move {
            let (mut sink, mut source) = outer.split();
            let (mut read, mut write) = tokio::io::split(inner);
            let mut buffer = vec![0; 1000];
            loop {
                tokio::select! {
                    count = read.read(&mut buffer) => match count {
                        Ok(count) if count > 0 => {
                            sink.send(Message::binary(buffer[..count].to_vec())).await.unwrap();
                        }
                        _ => break,
                    },
                    message = source.next() => match message {
                        Some(Ok(Message::Binary(data))) => write.write_all(&data).await.unwrap(),
                        _ => break,
                    },
                }
            }
        });
        let connection = Connection::client(spdy);
        let (_backend, mut incoming) = Connection::server(far);
        let mut stream = connection.open(&[("streamtype", "data"), ("port", "8080")]).await.unwrap();
        let peer = incoming.recv().await.unwrap();
        assert_eq!(peer.header("port"), Some("8080"));
        peer.accept().await.unwrap();
        stream.opened().await.unwrap();
        let (mut read, mut write) = stream.split();
        write.write(Bytes::from_static(b"GET /")).await.unwrap();
        write.finish().await.unwrap();
        let (mut peer_read, mut peer_write) = peer.split();
        assert_eq!(peer_read.read_to_end(100).await.unwrap(), "GET /");
        peer_write.write(Bytes::from_static(b"200")).await.unwrap();
        peer_write.finish().await.unwrap();
        assert_eq!(read.read_to_end(100).await.unwrap(), "200");
        drop(connection);
        pump.await.unwrap();
        tunnel.await.unwrap();
    }
}
