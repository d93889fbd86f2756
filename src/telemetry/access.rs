//! The access line: one for each request, when its answer has ended. It never holds a token, so no query and no header but
//! the two of the Combined Log Format. What a client wrote is spelled in visible ASCII, whatever it was: a line cannot be
//! forged, and a terminal not be written to.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::trace::TraceId;
use crate::base::chance::Share;

/// Where access lines go in the log; a filter such as `info,jotgate::access=warn` turns them off.
pub const TARGET: &str = "jotgate::access";

/// Most of a `Referer` or `User-Agent` that is written, in bytes. Browsers' have some 200; whoever sends more wants to fill
/// a disk.
const WORDS_BYTES_MAX: usize = 512;

/// How access lines are written, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How they look.
    pub form: Form,
    /// How many of the good requests get one. Whatever else has happened is always written.
    pub sample: Share,
}

/// How access lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `name=value`, as other lines of the text log.
    Text,
    /// One JSON object a line, as other lines of the JSON log.
    Json,
    /// The Common Log Format of the NCSA server, and nothing before it.
    Common,
    /// The same with `Referer`, without its query, and `User-Agent`.
    Combined,
}

/// What one line says.
#[derive(Debug)]
pub struct Line<'a> {
    /// When the answer ended, since 1970.
    pub at: Duration,
    /// The request's method.
    pub method: &'a str,
    /// The request's host.
    pub host: &'a str,
    /// The request's path without query, as it was sent.
    pub path: &'a str,
    /// The client's address, as far as it is proven.
    pub client: Option<IpAddr>,
    /// The address at the other end of the connection.
    pub peer: Option<IpAddr>,
    /// `HTTP/1.1` or `HTTP/2.0`
    pub version: http::Version,
    /// The status that was sent.
    pub status: u16,
    /// The exact reason, `ok` when the request was sent on.
    pub code: &'static str,
    /// The route's name; empty if there was none.
    pub route: &'a str,
    /// The issuer's name; empty if there was none.
    pub issuer: &'a str,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// From the end of the request's head to the end of the answer.
    pub total: Duration,
    /// From the end of the request's head to the decision.
    pub decision: Duration,
    /// From sending the request on to the head of the service's answer.
    pub upstream: Option<Duration>,
    /// Whether the answer was sent to its end.
    pub complete: bool,
    /// Which trace it belongs to, recorded or not; none where there are no traces.
    pub trace: Option<TraceId>,
    /// `Referer` and `User-Agent`, for [`Form::Combined`].
    pub words: [Option<&'a [u8]>; 2],
}

impl Line<'_> {
    /// Writes the line.
    pub fn write(&self, form: Form) {
        let line = Spelled { form, line: self };
        tracing::info!(target: TARGET, %line);
    }

    /// Whether nothing was refused and nothing went wrong: one of the many lines of which a share tells enough.
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self.code, "ok" | "preflight") && self.complete && self.status < 500
    }

    fn text(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  INFO {TARGET}:", self.time())?;
        self.each(|name, value| write!(f, " {name}={value}"))
    }

    fn json(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time();
        write!(
            f,
            r#"{{"timestamp":"{time}","level":"INFO","target":"{TARGET}""#
        )?;
        self.each(|name, value| match value {
            Value::Bare(bare) => write!(f, r#","{name}":"{bare}""#),
            Value::Text(_) | Value::Number(_) | Value::Flag(_) => {
                write!(f, r#","{name}":{value}"#)
            }
        })?;
        f.write_char('}')
    }

    /// `host ident user [time] "request" status bytes`
    fn common(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.client {
            Some(client) => write!(f, "{client}")?,
            None => f.write_char('-')?,
        }
        let began = self.at.saturating_sub(self.total);
        write!(
            f,
            r#" - - [{}] "{} {} {:?}" {} "#,
            Civil(began),
            Escaped(self.method.as_bytes()),
            Escaped(self.path.as_bytes()),
            self.version,
            self.status,
        )?;
        match self.bytes {
            0 => f.write_char('-'),
            bytes => write!(f, "{bytes}"),
        }
    }

    fn combined(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.common(f)?;
        let [referer, agent] = self.words;
        // A page whose address held a token tells it to every picture on it.
        let referer = referer.and_then(|url| url.split(|b| matches!(b, b'?' | b'#')).next());
        for words in [referer, agent] {
            let words = words.unwrap_or(b"-");
            let words = &words[..words.len().min(WORDS_BYTES_MAX)];
            write!(f, r#" "{}""#, Escaped(words))?;
        }
        Ok(())
    }

    fn time(&self) -> humantime::Rfc3339Timestamp {
        humantime::format_rfc3339_micros(UNIX_EPOCH + self.at)
    }

    /// All that it says, by name.
    fn each(&self, mut say: impl FnMut(&str, Value<'_>) -> fmt::Result) -> fmt::Result {
        let version = &format_args!("{:?}", self.version);
        say("method", Value::Text(self.method))?;
        say("host", Value::Text(self.host))?;
        say("path", Value::Text(self.path))?;
        if let Some(client) = &self.client {
            say("client", Value::Bare(client))?;
        }
        if let Some(peer) = &self.peer {
            say("peer", Value::Bare(peer))?;
        }
        say("version", Value::Bare(version))?;
        say("status", Value::Number(self.status.into()))?;
        say("code", Value::Text(self.code))?;
        say("route", Value::Text(self.route))?;
        say("issuer", Value::Text(self.issuer))?;
        say("bytes", Value::Number(self.bytes))?;
        say("total_us", Value::Number(micros(self.total)))?;
        say("decision_us", Value::Number(micros(self.decision)))?;
        if let Some(upstream) = self.upstream {
            say("upstream_us", Value::Number(micros(upstream)))?;
        }
        say("complete", Value::Flag(self.complete))?;
        match &self.trace {
            Some(trace) => say("trace_id", Value::Bare(trace)),
            None => Ok(()),
        }
    }
}

/// One value of a line in text or JSON.
enum Value<'a> {
    /// A client may have written it.
    Text(&'a str),
    /// Nothing in it needs quotes: an address, a version.
    Bare(&'a dyn fmt::Display),
    Number(u64),
    Flag(bool),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => quoted(text, f),
            Self::Bare(bare) => bare.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
        }
    }
}

/// A text as JSON spells it, in visible ASCII alone: no reader finds the end of a line in it, or a word for its terminal.
fn quoted(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            ' '..='~' => f.write_char(c)?,
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(f, "\\u{unit:04x}")?;
                }
            }
        }
    }
    f.write_char('"')
}

/// Bytes between quotes as Apache spells them.
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            match byte {
                b'"' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
                b' '..=b'~' => f.write_char(char::from(*byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

/// A time since 1970 as `10/Oct/2000:13:55:36 +0000`.
struct Civil(Duration);

impl fmt::Display for Civil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        // 2000-10-10T13:55:36Z
        let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + self.0).to_string();
        let month = text[5..7].parse::<usize>().map_or(0, |month| month - 1);
        let (year, month, day) = (&text[..4], MONTHS[month], &text[8..10]);
        write!(f, "{day}/{month}/{year}:{} +0000", &text[11..19])
    }
}

struct Spelled<'a> {
    form: Form,
    line: &'a Line<'a>,
}

impl fmt::Display for Spelled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            Form::Text => self.line.text(f),
            Form::Json => self.line.json(f),
            Form::Common => self.line.common(f),
            Form::Combined => self.line.combined(f),
        }
    }
}

/// Passes on access lines as they were spelled, and leaves every other event to `others`.
#[derive(Debug)]
pub(super) struct AsSpelled<E>(pub(super) E);

impl<S, N, E> FormatEvent<S, N> for AsSpelled<E>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    E: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if event.metadata().target() != TARGET {
            return self.0.format_event(context, writer, event);
        }
        let mut line = OneLine(writer.by_ref(), Ok(()));
        event.record(&mut line);
        line.1?;
        writer.write_char('\n')
    }
}

/// Writes the only field of an event.
struct OneLine<'w>(Writer<'w>, fmt::Result);

impl Visit for OneLine<'_> {
    fn record_debug(&mut self, _: &Field, line: &dyn fmt::Debug) {
        self.1 = write!(self.0, "{line:?}");
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2000-10-10T13:55:36.25Z, when the answer ended after a second and a half.
    fn line() -> Line<'static> {
        Line {
            at: Duration::from_millis(971_186_136_250),
            method: "GET",
            host: "shop.example",
            path: "/orders",
            client: Some([203, 0, 113, 9].into()),
            peer: Some([10, 0, 0, 1].into()),
            version: http::Version::HTTP_11,
            status: 200,
            code: "ok",
            route: "orders",
            issuer: "main",
            bytes: 2326,
            total: Duration::from_millis(1500),
            decision: Duration::from_micros(7),
            upstream: None,
            complete: true,
            trace: Some(TraceId([0xab; 16])),
            words: [
                Some(b"https://shop.example/?token=secret#x"),
                Some(b"curl/8"),
            ],
        }
    }

    fn spelled(form: Form, line: &Line<'_>) -> String {
        Spelled { form, line }.to_string()
    }

    #[test]
    fn a_line_has_four_forms() {
        let check = |form, expected: &str| assert_eq!(spelled(form, &line()), expected);
        check(
            Form::Text,
            "2000-10-10T13:55:36.250000Z  INFO jotgate::access: method=\"GET\" host=\"shop.example\" path=\"/orders\" \
             client=203.0.113.9 peer=10.0.0.1 version=HTTP/1.1 status=200 code=\"ok\" route=\"orders\" issuer=\"main\" \
             bytes=2326 total_us=1500000 decision_us=7 complete=true trace_id=abababababababababababababababab",
        );
        check(
            Form::Common,
            "203.0.113.9 - - [10/Oct/2000:13:55:34 +0000] \"GET /orders HTTP/1.1\" 200 2326",
        );
        check(
            Form::Combined,
            "203.0.113.9 - - [10/Oct/2000:13:55:34 +0000] \"GET /orders HTTP/1.1\" 200 2326 \
             \"https://shop.example/\" \"curl/8\"",
        );
        let json: serde_json::Value =
            serde_json::from_str(&spelled(Form::Json, &line())).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!({
                "timestamp": "2000-10-10T13:55:36.250000Z", "level": "INFO", "target": TARGET, "method": "GET",
                "host": "shop.example", "path": "/orders", "client": "203.0.113.9", "peer": "10.0.0.1",
                "version": "HTTP/1.1", "status": 200, "code": "ok", "route": "orders", "issuer": "main", "bytes": 2326,
                "total_us": 1_500_000, "decision_us": 7, "complete": true,
                "trace_id": "ab".repeat(16),
            })
        );
    }

    #[test]
    fn what_is_not_there_is_a_dash_or_left_out() {
        let nobody = Line {
            client: None,
            peer: None,
            trace: None,
            bytes: 0,
            words: [None, None],
            ..line()
        };
        assert_eq!(
            spelled(Form::Combined, &nobody),
            "- - - [10/Oct/2000:13:55:34 +0000] \"GET /orders HTTP/1.1\" 200 - \"-\" \"-\""
        );
        let text = spelled(Form::Text, &nobody);
        for absent in ["client=", "peer=", "trace_id="] {
            assert!(!text.contains(absent), "{text}");
        }
    }

    #[test]
    fn no_word_of_a_client_ends_a_line_a_quote_or_the_rest() {
        let hostile = "\"\\\r\n\u{1b}[2J\u{7f}\u{85}\u{202e}\u{2028}\u{e9}\u{1f600}\t\0'";
        let forged = Line {
            method: hostile,
            host: hostile,
            path: hostile,
            route: "caf\u{e9}",
            words: [Some(hostile.as_bytes()), Some(b"\xff\xfe\"")],
            ..line()
        };
        for form in [Form::Text, Form::Json, Form::Common, Form::Combined] {
            let spelled = spelled(form, &forged);
            assert!(
                spelled.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{form:?}: {spelled}"
            );
            let unescaped = spelled.replace("\\\\", "").replace("\\\"", "");
            let quotes = unescaped.matches('"').count();
            let honest = Spelled {
                form,
                line: &line(),
            }
            .to_string();
            assert_eq!(quotes, honest.matches('"').count(), "{form:?}: {spelled}");
        }
        let json: serde_json::Value =
            serde_json::from_str(&spelled(Form::Json, &forged)).expect("JSON");
        assert_eq!(
            (&json["path"], &json["route"]),
            (&hostile.into(), &"caf\u{e9}".into())
        );
        assert!(spelled(Form::Combined, &forged).ends_with("\"\\xff\\xfe\\\"\""));
    }

    #[test]
    fn long_words_are_cut() {
        let long = "a".repeat(10 * WORDS_BYTES_MAX);
        let words = [Some(long.as_bytes()); 2];
        let line = Line { words, ..line() };
        let spelled = spelled(Form::Combined, &line);
        assert_eq!(spelled.matches('a').count(), 2 * WORDS_BYTES_MAX);
    }

    #[test]
    fn only_what_went_well_is_good() {
        assert!(line().is_good());
        let not_found = Line {
            status: 404,
            ..line()
        };
        assert!(not_found.is_good(), "the service's word");
        let preflight = Line {
            code: "preflight",
            ..line()
        };
        assert!(preflight.is_good());
        for bad in [
            Line {
                code: "revoked_token",
                ..line()
            },
            Line {
                status: 500,
                ..line()
            },
            Line {
                complete: false,
                ..line()
            },
        ] {
            assert!(!bad.is_good(), "{bad:?}");
        }
    }
}
