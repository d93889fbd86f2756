//! A service that keeps every byte that comes to it, and answers each whole request with 200.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::eventually;

/// The service. It ends with the scenario's runtime.
#[derive(Debug)]
pub(crate) struct Wire {
    address: SocketAddr,
    /// One for each connection.
    came: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Wire {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let came = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let record = Arc::clone(&came);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let at = {
                    let mut came = record.lock().expect("no holder panics");
                    came.push(vec![]);
                    came.len() - 1
                };
                tokio::spawn(serve(stream, at, Arc::clone(&record)));
            }
        });
        Self { address, came }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that came, connection after connection.
    pub(crate) fn text(&self) -> String {
        let came = self.came.lock().expect("no holder panics");
        String::from_utf8_lossy(&came.concat()).into_owned()
    }

    /// How many requests came as a whole.
    pub(crate) fn whole(&self) -> usize {
        let came = self.came.lock().expect("no holder panics");
        came.iter().map(|bytes| whole(bytes)).sum()
    }

    /// Waits until what came contains `mark`.
    pub(crate) async fn came(&self, mark: &str) -> String {
        eventually("bytes at the service", async || {
            let text = self.text();
            text.contains(mark).then_some(text)
        })
        .await
    }

    pub(crate) fn forget(&self) {
        let mut came = self.came.lock().expect("no holder panics");
        came.iter_mut().for_each(Vec::clear);
    }
}

async fn serve(mut stream: TcpStream, at: usize, came: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut buffer = [0; 4096];
    // What belongs to no whole request yet.
    let mut begun = vec![];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        came.lock().expect("no holder panics")[at].extend(&buffer[..read]);
        begun.extend(&buffer[..read]);
        while let Some(length) = end(&begun) {
            let is_head = begun.starts_with(b"HEAD");
            begun.drain(..length);
            let answer = if is_head {
                &b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"[..]
            } else {
                b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine"
            };
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}

fn whole(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some(length) = end(bytes) {
        bytes = &bytes[length..];
        count += 1;
    }
    count
}

/// Where the first request ends, if it has come as a whole. Chunks end with the first empty one.
fn end(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    assert_eq!(text.len(), bytes.len(), "ASCII alone: {text:?}");
    let body = text.find("\r\n\r\n")? + 4;
    let head = &text[..body];
    if head.contains("\r\ntransfer-encoding: chunked") {
        return Some(body + text[body..].find("0\r\n\r\n")? + 5);
    }
    let length = head.split("\r\ncontent-length: ").nth(1).map_or(0, |rest| {
        let digits = rest.split("\r\n").next().unwrap_or_default();
        digits.parse().expect("a length")
    });
    (bytes.len() >= body + length).then_some(body + length)
}
