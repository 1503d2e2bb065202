//! Writes of many HTTP/2 streams as few: what all streams of a connection have to say in one turn of the
//! scheduler goes out as one TLS record and one system call, not one each.
//!
//! A watch event wakes hundreds of streams; without this, the connection is flushed after each of them.

use bytes::{Buf, BytesMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is held back at most; more goes out at once.
const HELD_BYTES: usize = 64 * 1024;
/// A write this large gains nothing by waiting for others.
const LARGE_BYTES: usize = 16 * 1024;

/// A stream whose flushes wait for the end of the turn. It must be polled by a task that flushes again when it
/// is woken, as an HTTP/2 connection does; raw streams are passed through (`off`).
pub struct Coalesce<S> {
    inner: S,
    on: bool,
    held: BytesMut,
    /// The turn is over: the next flush is a real one.
    due: Arc<AtomicBool>,
    /// Somebody will say when the turn is over.
    waiting: bool,
}

impl<S> Coalesce<S> {
    pub fn new(inner: S, on: bool) -> Self {
        Self { inner, on, held: BytesMut::new(), due: Arc::default(), waiting: false }
    }
}

impl<S: AsyncWrite + Unpin> Coalesce<S> {
    /// Hands everything held on to the stream beneath.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(written);
        }
        self.waiting = false;
        self.due.store(false, Ordering::Release);
        Poll::Ready(Ok(()))
    }

    fn wait_for_the_turns_end(&mut self, cx: &mut Context<'_>) {
        if std::mem::replace(&mut self.waiting, true) {
            return;
        }
        let (due, waker) = (self.due.clone(), cx.waker().clone());
        tokio::spawn(async move {
            // behind every task that is ready now
            tokio::task::yield_now().await;
            due.store(true, Ordering::Release);
            waker.wake();
        });
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesce<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes: usize = data.iter().map(|d| d.len()).sum();
        if this.held.len() + bytes > HELD_BYTES || bytes >= LARGE_BYTES {
            ready!(this.drain(cx))?;
        }
        if !this.on || bytes >= LARGE_BYTES {
            return Pin::new(&mut this.inner).poll_write_vectored(cx, data);
        }
        for part in data {
            this.held.extend_from_slice(part);
        }
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_empty() || this.due.load(Ordering::Acquire) {
            ready!(this.drain(cx))?;
            return Pin::new(&mut this.inner).poll_flush(cx);
        }
        this.wait_for_the_turns_end(cx);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesce<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Counts the writes that reach the stream beneath.
    #[derive(Default)]
    struct Count {
        writes: usize,
        data: Vec<u8>,
    }

    impl AsyncWrite for Count {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            self.writes += 1;
            self.data.extend_from_slice(data);
            Poll::Ready(Ok(data.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn writes_of_one_turn_go_out_as_one() {
        let mut stream = Coalesce::new(Count::default(), true);
        for _ in 0..100 {
            stream.write_all(b"event").await.unwrap();
            stream.flush().await.unwrap();
        }
        assert_eq!(stream.inner.writes, 0);
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        stream.flush().await.unwrap();
        assert_eq!((stream.inner.writes, stream.inner.data.len()), (1, 500));
    }

    #[tokio::test]
    async fn nothing_held_is_lost_before_a_large_write_or_the_end() {
        let mut stream = Coalesce::new(Count::default(), true);
        stream.write_all(b"head").await.unwrap();
        stream.write_all(&[b'x'; LARGE_BYTES]).await.unwrap();
        assert_eq!(stream.inner.data.len(), 4 + LARGE_BYTES);
        assert!(stream.inner.data.starts_with(b"headx"));
        stream.write_all(b"tail").await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(stream.inner.data.ends_with(b"xtail"));
    }

    #[tokio::test]
    async fn a_raw_stream_is_passed_through() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = Coalesce::new(near, false);
        stream.write_all(b"now").await.unwrap();
        let mut got = [0; 3];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"now");
    }
}
