//! A client that sends exactly the bytes it is told, for what no well-behaved client can say.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::within;

/// A TCP connection.
#[derive(Debug)]
pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) const fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self(stream)
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The other side may have answered and closed already: what it said is what the scenario looks at.
        let _ = within("sending", self.0.write_all(bytes.as_ref())).await;
    }

    /// Everything until the other side closes. A reset ends it too.
    pub(crate) async fn read_to_end(&mut self) -> String {
        let mut bytes = vec![];
        let _ = within("the connection's end", self.0.read_to_end(&mut bytes)).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Everything until `mark` has been read, or until the other side closes.
    pub(crate) async fn read_until(&mut self, mark: &str) -> String {
        let mut bytes = vec![];
        within("an answer's bytes", async {
            while !String::from_utf8_lossy(&bytes).contains(mark) {
                match self.0.read_buf(&mut bytes).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        })
        .await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads so many bytes; false if the other side closes before.
    pub(crate) async fn read(&mut self, bytes: usize) -> bool {
        let mut bytes = (&mut self.0).take(bytes as u64);
        let mut nowhere = tokio::io::sink();
        let read = tokio::io::copy(&mut bytes, &mut nowhere);
        within("so many bytes", read).await.is_ok() && bytes.limit() == 0
    }

    /// An answer's head, the blank line included.
    pub(crate) async fn read_head(&mut self) -> String {
        self.read_until("\r\n\r\n").await
    }

    /// Sends no more, but reads on.
    pub(crate) async fn finish_sending(&mut self) {
        within("sending the end", self.0.shutdown())
            .await
            .expect("a connection");
    }

    /// Closes the connection so that the other side gets a reset.
    pub(crate) fn reset(self) {
        self.0.set_zero_linger().expect("SO_LINGER");
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.0
    }
}

/// Sends `bytes` on a connection of their own and reads until the other side closes: the bytes should ask for that.
pub(crate) async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(address).await;
    raw.send(bytes).await;
    raw.read_to_end().await
}

/// The status of an answer's first line; 0 when the connection was closed without one.
#[track_caller]
pub(crate) fn status(answer: &str) -> u16 {
    if answer.is_empty() {
        return 0;
    }
    answer
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| answer.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .unwrap_or_else(|| panic!("no answer: {answer:?}"))
}
