//! The PROXY protocol of HAProxy, versions 1 and 2: what a load balancer that hands connections on says first, and whom it
//! speaks for. <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>
//!
//! Read byte by byte where its length is not known, so that nothing of what follows is taken. Whoever may speak it is left to
//! `accept`, and how long it may take to `serve`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crc32c::{crc32c, crc32c_append};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest line of version 1, with its end (section 2.1).
const LINE_BYTES_MAX: usize = 107;

/// Shortest line of version 1: `PROXY UNKNOWN` and its end. A head of version 2 is longer, so this much can always be read.
const SHORTEST: usize = 15;

/// What version 2 begins with (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Of version 2 before the addresses: the signature, version and command, family, length.
const FIXED: usize = 16;

/// Longest head of version 2, with all that is added to the addresses: load balancers of clouds add some hundred bytes, and a name
/// out of a client's certificate a few hundred more.
const HEAD_BYTES_MAX: usize = 4 * 1024;

/// The checksum of a head (section 2.2.3).
const TYPE_CRC32C: u8 = 0x03;

/// On whose behalf the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A client with this address.
    Client(IpAddr),
    /// The load balancer's own (a look whether we are there), or a client whose address it does not know.
    Nobody,
}

/// What comes first is not what a load balancer says.
#[derive(Debug, thiserror::Error)]
pub enum ProxyFault {
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// It is not the PROXY protocol, or not as it must be.
    #[error("the connection does not begin with a well-formed PROXY protocol header")]
    Malformed,
}

/// Reads what a load balancer says, and not a byte more.
pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Told, ProxyFault> {
    let mut head = [0; HEAD_BYTES_MAX];
    stream.read_exact(&mut head[..SHORTEST]).await?;
    let mut length = SHORTEST;
    if head.starts_with(&SIGNATURE) {
        stream.read_exact(&mut head[SHORTEST..FIXED]).await?;
        length = FIXED + usize::from(u16::from_be_bytes([head[14], head[15]]));
        let rest = head.get_mut(FIXED..length).ok_or(ProxyFault::Malformed)?;
        stream.read_exact(rest).await?;
        return version_2(&head[..length]).ok_or(ProxyFault::Malformed);
    }
    if !head.starts_with(b"PROXY ") {
        return Err(ProxyFault::Malformed);
    }
    while head[length - 1] != b'\n' {
        if length == LINE_BYTES_MAX {
            return Err(ProxyFault::Malformed);
        }
        stream.read_exact(&mut head[length..=length]).await?;
        length += 1;
    }
    version_1(&head[..length]).ok_or(ProxyFault::Malformed)
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 51234 443`, or `PROXY UNKNOWN` and anything.
fn version_1(line: &[u8]) -> Option<Told> {
    let line = str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?;
    let words = line.strip_prefix("PROXY ")?;
    // Nothing that could be another line, or hide one.
    if words.contains(char::is_control) {
        return None;
    }
    if words == "UNKNOWN" || words.starts_with("UNKNOWN ") {
        return Some(Told::Nobody);
    }
    let mut words = words.split(' ');
    let (family, source, target) = (words.next()?, words.next()?, words.next()?);
    let ports = [words.next()?, words.next()?];
    if words.next().is_some() || !ports.into_iter().all(is_port) {
        return None;
    }
    let client = match family {
        "TCP4" => both::<Ipv4Addr>(source, target)?.into(),
        "TCP6" => both::<Ipv6Addr>(source, target)?.into(),
        _ => return None,
    };
    Some(Told::Client(client))
}

/// The first of two addresses of one family.
fn both<A: FromStr>(source: &str, target: &str) -> Option<A> {
    target.parse::<A>().ok()?;
    source.parse().ok()
}

/// A number as anybody writes it, without sign or leading zeros.
fn is_port(text: &str) -> bool {
    text.parse::<u16>()
        .is_ok_and(|port| port.to_string() == text)
}

/// The whole head.
fn version_2(head: &[u8]) -> Option<Told> {
    let (fixed, rest) = head.split_first_chunk::<FIXED>()?;
    // Version 2; the command is LOCAL or PROXY.
    let is_local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return None,
    };
    // The family and how it is spoken. We speak streams alone.
    let (client, addresses) = match fixed[13] {
        0x00 => (None, 0),
        0x11 => {
            let octets = rest.first_chunk::<4>()?;
            (Some(IpAddr::from(*octets)), 12)
        }
        0x21 => {
            let octets = rest.first_chunk::<16>()?;
            (Some(IpAddr::from(*octets)), 36)
        }
        0x31 => (None, 216),
        _ => return None,
    };
    // Of nobody there may be anything (section 2.2).
    if fixed[13] != 0x00 {
        check_additions(head, FIXED + addresses)?;
    }
    Some(match client {
        Some(client) if !is_local => Told::Client(client),
        Some(_) | None => Told::Nobody,
    })
}

/// What is added to the addresses fills the rest of the head, and a checksum is right.
fn check_additions(head: &[u8], mut at: usize) -> Option<()> {
    let mut rest = head.get(at..)?;
    while !rest.is_empty() {
        let ([kind, length @ ..], after) = rest.split_first_chunk::<3>()?;
        let (value, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
        at += 3;
        if *kind == TYPE_CRC32C {
            let told = u32::from_be_bytes(value.try_into().ok()?);
            // As if it were zero.
            let sum = crc32c_append(crc32c(&head[..at]), &[0; 4]);
            if told != crc32c_append(sum, &head[at + 4..]) {
                return None;
            }
        }
        at += value.len();
        rest = after;
    }
    Some(())
}

#[cfg(any(test, fuzzing))]
pub(crate) mod law {
    //! Whatever a head says, reading it takes exactly its bytes, and says the same with anything behind it.

    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn read_now(mut bytes: &[u8]) -> (Option<Told>, usize) {
        let before = bytes.len();
        let told = {
            let mut reading = pin!(read(&mut bytes));
            match reading
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
            {
                Poll::Ready(told) => told.ok(),
                Poll::Pending => None,
            }
        };
        (told, before - bytes.len())
    }

    /// Panics where it is broken.
    pub(crate) fn holds(bytes: &[u8]) {
        let (told, taken) = read_now(bytes);
        let Some(told) = told else { return };
        assert!(taken <= HEAD_BYTES_MAX);
        let head = &bytes[..taken];
        assert_eq!(read_now(head), (Some(told), taken), "by itself");
        let more = [head, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(read_now(&more), (Some(told), taken), "before a request");
        assert_eq!(read_now(&head[..taken - 1]).0, None, "cut");
        if let (Told::Client(IpAddr::V4(client)), false) = (told, head.starts_with(&SIGNATURE)) {
            let line = format!("PROXY TCP4 {client} ");
            assert!(
                head.starts_with(line.as_bytes()),
                "the client that stands there"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(bytes: impl AsRef<[u8]>) -> Option<Told> {
        read(&mut bytes.as_ref()).await.ok()
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut head = SIGNATURE.to_vec();
        head.extend([command, family]);
        head.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        head.extend(rest);
        head
    }

    const FOUR: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0xc8, 0x22, 1, 0xbb];

    fn client(text: &str) -> Told {
        Told::Client(text.parse().unwrap())
    }

    #[tokio::test]
    async fn version_1_names_a_client_or_nobody() {
        let line = |line: &str| told(format!("{line}\r\n").into_bytes());
        let four = line("PROXY TCP4 192.0.2.7 10.0.0.1 51234 443").await;
        assert_eq!(four, Some(client("192.0.2.7")));
        let six = line("PROXY TCP6 2001:db8::7 2001:db8::1 0 65535").await;
        assert_eq!(six, Some(client("2001:db8::7")));
        assert_eq!(line("PROXY UNKNOWN").await, Some(Told::Nobody));
        let with_more = line("PROXY UNKNOWN ffff::1 x y").await;
        assert_eq!(with_more, Some(Told::Nobody));
        for bad in [
            "PROXY",
            "PROXY TCP4",
            "PROXY TCP4 192.0.2.7 10.0.0.1 51234",
            "PROXY TCP4 192.0.2.7 10.0.0.1 51234 443 1",
            "PROXY TCP4 192.0.2.7 10.0.0.1 51234 443 ",
            "PROXY  TCP4 192.0.2.7 10.0.0.1 51234 443",
            "PROXY TCP4  192.0.2.7 10.0.0.1 51234 443",
            "PROXY TCP4\t192.0.2.7 10.0.0.1 51234 443",
            "proxy TCP4 192.0.2.7 10.0.0.1 51234 443",
            "PROXY tcp4 192.0.2.7 10.0.0.1 51234 443",
            "PROXY TCP5 192.0.2.7 10.0.0.1 51234 443",
            "PROXY UDP4 192.0.2.7 10.0.0.1 51234 443",
            "PROXY TCP4 192.0.2.07 10.0.0.1 51234 443",
            "PROXY TCP4 192.0.2 10.0.0.1 51234 443",
            "PROXY TCP4 0xc0.0.2.7 10.0.0.1 51234 443",
            "PROXY TCP4 2001:db8::7 10.0.0.1 51234 443",
            "PROXY TCP4 192.0.2.7 2001:db8::1 51234 443",
            "PROXY TCP6 192.0.2.7 2001:db8::1 51234 443",
            "PROXY TCP6 fe80::1%eth0 2001:db8::1 51234 443",
            "PROXY TCP4 192.0.2.7 10.0.0.1 051234 443",
            "PROXY TCP4 192.0.2.7 10.0.0.1 65536 443",
            "PROXY TCP4 192.0.2.7 10.0.0.1 -1 443",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +1 443",
            "PROXY UNKNOWN\0",
            "PROXY UNKNOWN a\rb",
            "PROXY UNKNOWNX",
            "GET / HTTP/1.1",
            "",
        ] {
            assert_eq!(line(bad).await, None, "{bad}");
        }
        let no_carriage_return = "PROXY TCP4 192.0.2.7 10.0.0.1 51234 443\n";
        assert_eq!(told(no_carriage_return).await, None);
    }

    #[tokio::test]
    async fn a_line_has_at_most_107_bytes() {
        let line = |fill: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(fill));
        assert_eq!(line(91).len(), LINE_BYTES_MAX);
        assert_eq!(told(line(91)).await, Some(Told::Nobody));
        assert_eq!(told(line(92)).await, None);
        assert_eq!(told("PROXY UNKNOWN x".repeat(10_000)).await, None);
    }

    #[tokio::test]
    async fn version_2_names_a_client_or_nobody() {
        assert_eq!(told(v2(0x21, 0x11, &FOUR)).await, Some(client("192.0.2.7")));
        let mut six = [0; 36];
        six[..2].copy_from_slice(&[0x20, 0x01]);
        six[15] = 7;
        assert_eq!(told(v2(0x21, 0x21, &six)).await, Some(client("2001::7")));
        for nobody in [
            v2(0x20, 0x00, b""),
            v2(0x20, 0x11, &FOUR),
            v2(0x21, 0x00, b""),
            v2(0x21, 0x00, b"whatever"),
            v2(0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!(told(&nobody).await, Some(Told::Nobody), "{nobody:?}");
        }
        for bad in [
            v2(0x22, 0x11, &FOUR),
            v2(0x11, 0x11, &FOUR),
            v2(0x31, 0x11, &FOUR),
            v2(0x21, 0x12, &FOUR),
            v2(0x21, 0x10, &FOUR),
            v2(0x21, 0x41, &FOUR),
            v2(0x21, 0x11, &FOUR[..11]),
            v2(0x21, 0x21, &FOUR),
            v2(0x20, 0x11, &FOUR[..4]),
            v2(0x21, 0x31, &[0; 215]),
        ] {
            assert_eq!(told(&bad).await, None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn what_is_added_must_be_whole_and_its_checksum_right() {
        let with = |additions: &[u8]| v2(0x21, 0x11, &[&FOUR, additions].concat());
        let good = with(&[0x02, 0, 1, b'a', 0x04, 0, 0]);
        assert_eq!(told(&good).await, Some(client("192.0.2.7")));
        for bad in [
            &[0x02][..],
            &[0x02, 0],
            &[0x02, 0, 1],
            &[0x02, 0xff, 0xff, 1],
        ] {
            assert_eq!(told(with(bad)).await, None, "{bad:?}");
        }
        let mut summed = with(&[0x03, 0, 4, 0, 0, 0, 0, 0x02, 0, 1, b'a']);
        assert_eq!(told(&summed).await, None);
        let sum = crc32c(&summed);
        summed[31..35].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(told(&summed).await, Some(client("192.0.2.7")));
        // All but the type of the addition, by which it is a checksum.
        for at in (12..summed.len()).filter(|at| *at != 28) {
            let mut flipped = summed.clone();
            flipped[at] ^= 0x40;
            assert_eq!(told(&flipped).await, None, "{at}");
        }
        assert_eq!(told(with(&[0x03, 0, 3, 0, 0, 0])).await, None);
    }

    #[tokio::test]
    async fn version_2_has_at_most_4_kib_and_nothing_of_what_follows_is_read() {
        let room = HEAD_BYTES_MAX - FIXED;
        let longest = v2(0x21, 0x00, &vec![0; room]);
        assert_eq!(told(&longest).await, Some(Told::Nobody));
        assert_eq!(told(v2(0x21, 0x00, &vec![0; room + 1])).await, None);
        for head in [longest, b"PROXY UNKNOWN\r\n".to_vec()] {
            let whole = [&*head, b"\x16\x03\x01"].concat();
            let mut stream = &*whole;
            assert_eq!(read(&mut stream).await.ok(), Some(Told::Nobody));
            assert_eq!(stream, b"\x16\x03\x01");
            for cut in 0..head.len() {
                assert_eq!(told(&head[..cut]).await, None);
            }
        }
    }
}
