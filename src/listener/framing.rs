//! Where HTTP/1 requests begin and end, read strictly. hyper is lenient where RFC 9112 lets it be: it takes a bare LF for a
//! line's end, merges equal lengths, and drops a length beside a transfer coding, so that nobody above can tell. A proxy
//! before us, or a service behind us, may read such a request otherwise, and see another request in its body. So whatever
//! has two readings is made unreadable before hyper sees it: the bytes become NULs and line ends, which hyper refuses
//! (400), and nothing after them counts.
//!
//! It looks at bytes in place and copies none but the beginning of a line that is not whole yet.

#[cfg(any(test, fuzzing))]
pub(crate) mod law;

use memchr::memchr;

/// Follows the requests of one HTTP/1 connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    /// What came of a line that is not whole yet.
    begun: Vec<u8>,
    head: Head,
    /// A longer line makes a head that hyper refuses (431).
    line_bytes_max: usize,
}

/// What one head has said so far.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    is_http10: bool,
    length: Option<u64>,
    is_chunked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request line; empty lines are skipped (RFC 9112 section 2.2).
    Start,
    /// Between a request line and the empty line.
    Header,
    /// So many bytes of a body.
    Body(u64),
    /// A line with the size of a chunk.
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The end of a chunk's line.
    ChunkEnd,
    /// Between the last chunk and the empty line.
    Trailer,
    /// A line too long for any head that hyper accepts: it answers, and this looks away.
    Overlong,
    /// Refused; so many bytes of [`UNREADABLE`] are written.
    Dead(usize),
}

/// Fatal to hyper whatever it has seen of the line: a NUL in a head, in a chunk's size, after a CR and in a trailer; a bare LF in
/// a chunk's extension, where it takes a NUL. Then an empty line, because it looks at a head only once there is one.
const UNREADABLE: &[u8; 6] = b"\0\n\r\n\r\n";

/// The line has two readings.
#[derive(Debug)]
struct TwoReadings;

impl Framing {
    /// Follows a connection from its first byte. `head_bytes_max` is hyper's bound of a head.
    pub(super) const fn new(head_bytes_max: usize) -> Self {
        Self {
            state: State::Start,
            begun: Vec::new(),
            head: Head {
                is_http10: false,
                length: None,
                is_chunked: false,
            },
            line_bytes_max: head_bytes_max,
        }
    }

    /// Looks at the next bytes of the connection, and makes them unreadable from the first line on that has two readings.
    pub(super) fn pass(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.state {
                State::Dead(written) => {
                    for byte in &mut bytes[at..] {
                        *byte = UNREADABLE[*written % UNREADABLE.len()];
                        *written += 1;
                    }
                    return;
                }
                State::Overlong => return,
                State::Body(left) | State::Chunk(left) => {
                    let skipped = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len() - at);
                    *left -= skipped as u64;
                    at += skipped;
                    if *left == 0 {
                        self.state = match self.state {
                            State::Chunk(_) => State::ChunkEnd,
                            _ => State::Start,
                        };
                    }
                }
                State::Start
                | State::Header
                | State::ChunkSize
                | State::ChunkEnd
                | State::Trailer => {
                    let rest = &bytes[at..];
                    let Some(length) = memchr(b'\n', rest) else {
                        self.begin_line(at, bytes);
                        return;
                    };
                    let line = &rest[..length];
                    let next = if self.begun.is_empty() {
                        self.end_line(line)
                    } else {
                        let mut whole = std::mem::take(&mut self.begun);
                        whole.extend_from_slice(line);
                        self.end_line(&whole)
                    };
                    match next {
                        Ok(state) => {
                            self.state = state;
                            at += length + 1;
                        }
                        Err(TwoReadings) => self.state = State::Dead(0),
                    }
                }
            }
        }
    }

    fn begin_line(&mut self, at: usize, bytes: &mut [u8]) {
        self.begun.extend_from_slice(&bytes[at..]);
        if self.begun.len() <= self.line_bytes_max {
            return;
        }
        self.begun = Vec::new();
        self.state = match self.state {
            State::Start | State::Header => State::Overlong,
            // hyper counts neither the zeros before a chunk's size nor the blanks after it.
            _ => State::Dead(0),
        };
        self.pass(&mut bytes[at..]);
    }

    /// A whole line without its LF; says what follows it.
    fn end_line(&mut self, line: &[u8]) -> Result<State, TwoReadings> {
        let line = line.strip_suffix(b"\r").ok_or(TwoReadings)?;
        if memchr(b'\r', line).is_some() {
            return Err(TwoReadings);
        }
        match self.state {
            State::Start | State::Trailer if line.is_empty() => Ok(State::Start),
            State::Start => {
                self.head = Head {
                    is_http10: line.ends_with(b"HTTP/1.0"),
                    ..Head::default()
                };
                // A fragment is no part of a request (RFC 9112 section 3.2); hyper drops it, a service may not.
                let target = memchr(b' ', line).map_or(line, |blank| &line[blank..]);
                if memchr(b'#', target).is_some() {
                    return Err(TwoReadings);
                }
                Ok(State::Header)
            }
            State::Header if line.is_empty() => Ok(match self.head.length {
                _ if self.head.is_chunked => State::ChunkSize,
                Some(length) if length > 0 => State::Body(length),
                Some(_) | None => State::Start,
            }),
            State::Header => self.header(line).map(|()| State::Header),
            State::ChunkSize => chunk_size(line).map(|size| {
                if size == 0 {
                    State::Trailer
                } else {
                    State::Chunk(size)
                }
            }),
            State::ChunkEnd if line.is_empty() => Ok(State::ChunkSize),
            State::Trailer if !is_folded(line) => Ok(State::Trailer),
            _ => Err(TwoReadings),
        }
    }

    fn header(&mut self, line: &[u8]) -> Result<(), TwoReadings> {
        if is_folded(line) {
            return Err(TwoReadings);
        }
        // Most lines begin with another letter.
        if !matches!(line[0], b'c' | b'C' | b't' | b'T') {
            return Ok(());
        }
        let Some(colon) = memchr(b':', line) else {
            return Ok(());
        };
        let (name, value) = (
            line[..colon].trim_ascii_end(),
            line[colon + 1..].trim_ascii(),
        );
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.head.length.is_some() || self.head.is_chunked {
                return Err(TwoReadings);
            }
            self.head.length = Some(decimal(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_chunked = value.eq_ignore_ascii_case(b"chunked");
            if self.head.is_chunked
                || self.head.length.is_some()
                || self.head.is_http10
                || !is_chunked
            {
                return Err(TwoReadings);
            }
            self.head.is_chunked = true;
        }
        Ok(())
    }
}

/// A line that continues the one before (obs-fold, RFC 9112 section 5.2).
fn is_folded(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

/// Digits alone, and few enough that no parser overflows.
fn decimal(text: &[u8]) -> Result<u64, TwoReadings> {
    const DIGITS_MAX: usize = 18;
    if text.is_empty() || text.len() > DIGITS_MAX || !text.iter().all(u8::is_ascii_digit) {
        return Err(TwoReadings);
    }
    Ok(text
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Hexadecimal digits, then perhaps extensions of visible characters (RFC 9112 section 7.1).
fn chunk_size(line: &[u8]) -> Result<u64, TwoReadings> {
    const DIGITS_MAX: usize = 15;
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let (size, extension) = line.split_at(digits);
    let extension_ok = match extension.trim_ascii_start() {
        [] => extension.is_empty(),
        [b';', rest @ ..] => rest.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')),
        _ => false,
    };
    if size.is_empty() || size.len() > DIGITS_MAX || !extension_ok {
        return Err(TwoReadings);
    }
    let digit = |byte: &u8| u64::from(char::from(*byte).to_digit(16).unwrap_or_default());
    Ok(size.iter().fold(0, |sum, byte| sum * 16 + digit(byte)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What hyper gets when the bytes come in pieces of `cut`.
    fn seen(requests: &str, cut: usize) -> Vec<u8> {
        let mut framing = Framing::new(1024);
        let mut bytes = requests.as_bytes().to_vec();
        for piece in bytes.chunks_mut(cut) {
            framing.pass(piece);
        }
        bytes
    }

    const HEAD: &str = "GET / HTTP/1.1\r\nhost: a\r\n";

    #[track_caller]
    fn passes(requests: &str) {
        for cut in [1, 2, 7, 1000] {
            assert_eq!(
                String::from_utf8(seen(requests, cut)).unwrap(),
                requests,
                "cut by {cut}"
            );
        }
    }

    #[test]
    fn requests_with_one_reading_pass_untouched() {
        passes(&format!("{HEAD}\r\n{HEAD}\r\n"));
        passes(&format!(
            "\r\n\r\n{HEAD}content-length: 3\r\n\r\na\nb{HEAD}\r\n"
        ));
        passes(&format!("{HEAD}Content-Length:  0 \r\n\r\n{HEAD}\r\n"));
        passes(&format!(
            "{HEAD}Transfer-Encoding: Chunked\r\n\r\n3\r\na\nb\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\n{HEAD}\r\n"
        ));
        passes(&format!(
            "{HEAD}transfer-encoding: chunked\r\n\r\n0\r\nx-sum: 1\r\n\r\n{HEAD}\r\n"
        ));
        passes("GET / HTTP/1.0\r\n\r\n");
        passes("GET http://a/b?c#");
    }

    /// Everything from the line on that has two readings is unreadable, the next request too.
    #[track_caller]
    fn dies(good: &str, bad: &str) {
        let whole = format!("{good}{bad}\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n");
        for cut in [1, 3, 1000] {
            let seen = seen(&whole, cut);
            assert!(seen.starts_with(good.as_bytes()), "{bad:?} cut by {cut}");
            assert!(seen.contains(&0), "{bad:?} cut by {cut}");
            let dead = seen.iter().position(|byte| *byte == 0).unwrap_or_default();
            // It is this line that was refused, not one of those that follow.
            assert!(dead < good.len() + bad.len(), "{bad:?} cut by {cut}");
            assert!(
                seen[dead..].iter().all(|byte| UNREADABLE.contains(byte)),
                "{bad:?} cut by {cut}"
            );
            assert!(
                !String::from_utf8_lossy(&seen).contains("smuggled"),
                "{bad:?} cut by {cut}"
            );
        }
        // hyper, which has got the beginning of the line already, makes no whole request of it.
        law::holds(whole.as_bytes());
    }

    #[test]
    fn what_has_two_readings_becomes_unreadable() {
        for line in [
            "x: a\n",
            "x: a\rb\r\n",
            "\n",
            " folded\r\n",
            "\tfolded\r\n",
            "content-length: \r\n",
            "content-length: +1\r\n",
            "content-length: -1\r\n",
            "content-length: 1,1\r\n",
            "content-length: 0x1\r\n",
            "content-length: 1 1\r\n",
            "content-length: 1111111111111111111\r\n",
            "content-length: 1\r\ncontent-length: 1\r\n",
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 1\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: xchunked\r\n",
            "transfer-encoding:\r\n",
            "transfer-encoding: chunked, identity\r\n",
            "TRANSFER-ENCODING : identity\r\n",
        ] {
            dies(HEAD, line);
        }
        dies("", "GET /a#b HTTP/1.1\r\n");
        dies("", "GET / HTTP/1.1\nhost: a\n\n");
        dies("GET / HTTP/1.0\r\n", "transfer-encoding: chunked\r\n");
        let chunked = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
        for line in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            "1 1\r\n",
            "1;a=\x01\r\n",
            "0;a\n\r\n",
            "0;a\rb\r\n",
            "0;a\n",
            "0 \n",
            "0\n",
            "1;\u{e9}\r\n",
            "1 \r\n",
            "1000000000000000\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "0\r\n folded\r\n",
            "0\r\nx: a\n\r\n",
        ] {
            dies(&chunked, line);
        }
    }

    #[test]
    fn a_head_that_hyper_refuses_by_its_size_is_left_to_it() {
        let long = format!("{HEAD}x: {}", "a".repeat(2000));
        assert_eq!(seen(&long, 100), long.as_bytes());
    }

    #[test]
    fn a_line_of_a_body_is_not_left_to_hyper_however_long_it_is() {
        let chunked = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
        for line in [
            "0".repeat(2000) + "1",
            "1".to_owned() + &" ".repeat(2000),
            "1;".to_owned() + &"a".repeat(2000),
            "1\r\na".to_owned() + &" ".repeat(2000),
            "0\r\nx: ".to_owned() + &"a".repeat(2000),
        ] {
            let seen = seen(&format!("{chunked}{line}\r\na\r\n0\n\n{HEAD}"), 100);
            let dead = seen.iter().position(|byte| *byte == 0).unwrap();
            assert!(seen[dead..].iter().all(|byte| UNREADABLE.contains(byte)));
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            bytes in "(GET / HTTP/1\\.[01]|content-length: [0-9]{1,2}|transfer-encoding: chunked|[0-9a-f]{1,2}|x: y|#|\r|\r\n|\n|[a-z]){0,40}",
            cut in 1..9_usize,
        ) {
            // What was handed on of a line before it proved bad is all that may differ.
            let (whole, cut) = (seen(&bytes, usize::MAX), seen(&bytes, cut));
            let dead = |seen: &[u8]| seen.contains(&0);
            prop_assert_eq!(dead(&whole), dead(&cut));
            if !dead(&whole) {
                prop_assert_eq!(whole, cut);
            }
        }
    }
}
