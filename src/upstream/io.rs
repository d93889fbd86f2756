//! A service's bytes. A service may answer before it has read the whole request, and close: then our writes fail while its
//! answer lies there to be read. So a failed write is not the end; what follows is thrown away, and reading tells how it
//! ended.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::circuit::ConnectionPlace;

/// The I/O of one connection to a service.
#[derive(Debug)]
pub(super) struct ServiceIo<S> {
    stream: TokioIo<S>,
    /// The service reads no more.
    deaf: bool,
    fault: TlsFault,
    /// Given back when the socket is closed.
    _place: ConnectionPlace,
}

/// Why TLS broke, where it did. What a server thinks of our certificate comes only after our side of the handshake (RFC 8446
/// section 4.4.2.4), and HTTP/2 does not tell each request why its connection ended.
#[derive(Clone, Debug, Default)]
pub(super) struct TlsFault(Arc<OnceLock<String>>);

impl TlsFault {
    /// The reason as an error.
    pub(super) fn error(&self) -> Option<io::Error> {
        let reason = self.0.get()?;
        Some(io::Error::new(io::ErrorKind::InvalidData, reason.clone()))
    }
}

impl<S> ServiceIo<S> {
    pub(super) fn new(stream: S, place: ConnectionPlace) -> Self {
        Self {
            stream: TokioIo::new(stream),
            deaf: false,
            fault: TlsFault::default(),
            _place: place,
        }
    }

    /// Where it stands if TLS breaks.
    pub(super) fn fault(&self) -> TlsFault {
        self.fault.clone()
    }

    /// Takes note of a write that failed because the service is gone; `all` is what it should have written.
    fn note(&mut self, written: Poll<io::Result<usize>>, all: usize) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(error)) if is_gone(&error) => {
                self.deaf = true;
                Poll::Ready(Ok(all))
            }
            other => other,
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
    )
}

impl<S: AsyncRead + Unpin> Read for ServiceIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &read
            // Sockets have no such fault.
            && error.kind() == io::ErrorKind::InvalidData
        {
            self.fault.0.get_or_init(|| error.to_string());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> Write for ServiceIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written, bytes.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(all));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(written, all)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_though_nobody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut service, _) = listener.accept().await.unwrap();
        let mut io = TokioIo::new(ServiceIo::new(stream, ConnectionPlace::uncounted()));
        io.write_all(b"unread").await.unwrap();
        service.readable().await.unwrap();
        service.write_all(b"no").await.unwrap();
        // Closed with bytes unread: the kernel resets the connection.
        drop(service);
        while !io.inner().deaf {
            io.write_all(b"more").await.unwrap();
            tokio::task::yield_now().await;
        }
        io.write_all(b"and more").await.unwrap();
        let mut answer = vec![];
        // The reset may follow the answer, never replace it.
        drop(io.read_to_end(&mut answer).await);
        assert_eq!(answer, b"no");
    }
}
