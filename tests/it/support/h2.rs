//! An HTTP/2 client that writes frames byte by byte, for what no library would send (RFC 9113, RFC 7541). It encodes
//! headers as plain literals, and forbids the gateway to index its own, so that no table has to be kept.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::within;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Of DATA and HEADERS.
pub(crate) const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
pub(crate) const ACK: u8 = 1;
/// Of HEADERS and CONTINUATION.
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// Error codes (RFC 9113 section 7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// A PING of which the answer says that everything before it was read.
pub(crate) const MARK: &[u8] = b"\0\0\x08\x06\0\0\0\0\0that all";

/// One frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("a frame's length");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = vec![];
    for (name, value) in values {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, payload)
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
}

pub(crate) fn rst_stream(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, code.to_be_bytes())
}

/// An integer with a prefix of so many bits (RFC 7541 section 5.1); the other bits of the first byte are `first`.
fn integer(first: u8, bits: u32, mut value: usize) -> Vec<u8> {
    let max = (1 << bits) - 1;
    if value < max {
        return vec![first | u8::try_from(value).expect("small")];
    }
    let mut bytes = vec![first | u8::try_from(max).expect("small")];
    value -= max;
    while value >= 128 {
        bytes.push(u8::try_from(value % 128 + 128).expect("a byte"));
        value /= 128;
    }
    bytes.push(u8::try_from(value).expect("a byte"));
    bytes
}

/// A header of the static or dynamic table.
pub(crate) fn indexed(index: usize) -> Vec<u8> {
    integer(0x80, 7, index)
}

/// A header as a literal, not indexed.
pub(crate) fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    literal(0, name, value)
}

/// A header as a literal that goes into the dynamic table.
pub(crate) fn kept_field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    literal(0x40, name, value)
}

fn literal(first: u8, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = vec![first];
    for text in [name.as_ref(), value.as_ref()] {
        bytes.extend(integer(0, 7, text.len()));
        bytes.extend(text);
    }
    bytes
}

/// A block of headers.
pub(crate) fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(
    fields: impl IntoIterator<Item = (N, V)>,
) -> Vec<u8> {
    fields
        .into_iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// A whole GET or what else of that method, to `shop`.
pub(crate) fn request(stream: u32, method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let flags = END_STREAM | END_HEADERS;
    frame(HEADERS, flags, stream, head(method, path, more))
}

/// The headers of a request to `shop`.
pub(crate) fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [
        (":method", method),
        (":scheme", "http"),
        (":authority", "shop"),
        (":path", path),
    ];
    block(pseudo.iter().chain(more).copied())
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error of a `RST_STREAM` or GOAWAY.
    #[track_caller]
    pub(crate) fn code(&self) -> u32 {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            other => panic!("a frame of kind {other} has no code"),
        };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }

    /// The status of a HEADERS frame.
    #[track_caller]
    fn status(&self) -> u16 {
        // The gateway's encoder says first that it forgets its table, as it was told to.
        let block = self.payload.strip_prefix(b"\x20").unwrap_or(&self.payload);
        match block {
            [0x88, ..] => 200,
            [0x89, ..] => 204,
            [0x8a, ..] => 206,
            [0x8b, ..] => 304,
            [0x8c, ..] => 400,
            [0x8d, ..] => 404,
            [0x8e, ..] => 500,
            [0x08 | 0x48, length, rest @ ..] if length & 0x80 != 0 => {
                digits(&rest[..usize::from(length & 0x7f)])
            }
            other => panic!("no status: {other:x?}"),
        }
    }
}

/// Three digits in the code of RFC 7541 appendix B: five bits for 0 to 2, six for the others.
fn digits(bytes: &[u8]) -> u16 {
    let bits = bytes
        .iter()
        .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
        << (32 - 8 * bytes.len());
    let (mut number, mut at) = (0, 0);
    for _ in 0..3 {
        let five = bits << at >> 27;
        if five < 3 {
            number = number * 10 + five;
            at += 5;
        } else {
            number = number * 10 + (bits << at >> 26) - 0b01_1001 + 3;
            at += 6;
        }
    }
    u16::try_from(number).expect("three digits")
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer, and the problem's code if it has one.
    Answer(u16, String),
    /// `RST_STREAM`.
    Reset(u32),
    /// GOAWAY, and the connection is closed.
    GoneAway(u32),
    /// The connection is closed without a word.
    Closed,
}

impl Outcome {
    pub(crate) const fn status(&self) -> u16 {
        match self {
            Self::Answer(status, _) => *status,
            Self::Reset(_) | Self::GoneAway(_) | Self::Closed => 0,
        }
    }

    /// The status and code of an answer, `reset`, or `closed`.
    pub(crate) fn verdict(&self) -> String {
        match self {
            Self::Answer(status, code) => format!("{status} {code}").trim().to_owned(),
            Self::Reset(_) => "reset".to_owned(),
            Self::GoneAway(_) | Self::Closed => "closed".to_owned(),
        }
    }
}

/// A connection that has said hello.
#[derive(Debug)]
pub(crate) struct H2 {
    reader: Reader,
    writer: OwnedWriteHalf,
}

/// The side on which frames come.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: OwnedReadHalf,
    bytes: Vec<u8>,
}

impl H2 {
    /// With windows as large as they can be.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let large = window_update(0, (1 << 30) - 1);
        let hello = [settings(&[(INITIAL_WINDOW_SIZE, (1 << 31) - 1)]), large].concat();
        Self::connect_with(address, hello).await
    }

    /// With these frames after the preface.
    pub(crate) async fn connect_with(address: SocketAddr, frames: impl AsRef<[u8]>) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let (read, writer) = stream.into_split();
        let reader = Reader {
            stream: read,
            bytes: vec![],
        };
        let mut h2 = Self { reader, writer };
        h2.send(PREFACE).await;
        h2.send(settings(&[(HEADER_TABLE_SIZE, 0)])).await;
        h2.send(frames).await;
        h2
    }

    /// Sends these bytes. The other side may have closed already: what it said is what the scenario looks at.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within("sending", self.writer.write_all(bytes.as_ref())).await;
    }

    /// The next frame; None at the end.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        within("a frame", self.reader.next()).await
    }

    /// Reads until that stream has ended, one way or another.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        within("the stream's end", self.reader.outcome(stream)).await
    }

    /// Sends these bytes, and says what becomes of that stream.
    pub(crate) async fn ask(&mut self, stream: u32, bytes: impl AsRef<[u8]>) -> Outcome {
        self.send(bytes).await;
        self.outcome(stream).await
    }

    /// Whether the other side has not closed yet, as far as is known; reads what it has said.
    pub(crate) fn is_open(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match self.reader.stream.try_read(&mut bytes) {
                Ok(0) => return false,
                Ok(read) => self.reader.bytes.extend(&bytes[..read]),
                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Sends these bytes, which end with [`MARK`], and reads until it is answered. Returns whether it was; if not, the other
    /// side has closed.
    pub(crate) async fn pour(&mut self, bytes: &[u8]) -> bool {
        let (reader, writer) = (&mut self.reader, &mut self.writer);
        let writing = async {
            // The reader sees why it fails.
            let _ = writer.write_all(bytes).await;
            std::future::pending::<()>().await;
        };
        let reading = async {
            while let Some(frame) = reader.next().await {
                if frame.kind == PING && MARK.ends_with(&frame.payload) {
                    return true;
                }
            }
            false
        };
        within("the answer to a PING", async {
            tokio::select! {
                () = writing => false,
                is_open = reading => is_open,
            }
        })
        .await
    }

    /// Sends one after the other, reading all the while, until the other side closes. Returns how many were sent.
    pub(crate) async fn flood(self, mut bytes: impl FnMut(u32) -> Vec<u8>) -> u32 {
        let Self {
            mut reader,
            mut writer,
        } = self;
        let mut sent = 0;
        let writing = async {
            while writer.write_all(&bytes(sent)).await.is_ok() {
                sent += 1;
            }
        };
        let reading = async { while reader.next().await.is_some() {} };
        within("the flood's end", async {
            tokio::select! {
                () = writing => {}
                () = reading => {}
            }
        })
        .await;
        sent
    }
}

impl Reader {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((&[a, b, c, kind, flags, s, t, u, v], rest)) =
                self.bytes.split_first_chunk::<9>()
            {
                let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                if let Some(payload) = rest.get(..length) {
                    let frame = Frame {
                        kind,
                        flags,
                        stream: u32::from_be_bytes([s, t, u, v]),
                        payload: payload.to_vec(),
                    };
                    self.bytes.drain(..9 + length);
                    return Some(frame);
                }
            }
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    async fn outcome(&mut self, stream: u32) -> Outcome {
        let (mut status, mut body, mut gone) = (0, vec![], None);
        while let Some(frame) = self.next().await {
            match frame.kind {
                GOAWAY => gone = Some(frame.code()),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(frame.code()),
                HEADERS if frame.stream == stream && status == 0 => status = frame.status(),
                DATA if frame.stream == stream => body.extend(&frame.payload),
                _ => {}
            }
            let ends = matches!(frame.kind, HEADERS | DATA)
                && frame.stream == stream
                && frame.flags & END_STREAM != 0;
            if ends {
                let code = serde_json::from_slice::<serde_json::Value>(&body)
                    .ok()
                    .and_then(|problem| Some(problem["code"].as_str()?.to_owned()));
                return Outcome::Answer(status, code.unwrap_or_default());
            }
        }
        gone.map_or(Outcome::Closed, Outcome::GoneAway)
    }
}
