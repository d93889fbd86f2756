//! The audit line: one JSON object for each accepted rule. Who, by which way, what, why, until.
//!
//! One event of the log carries many lines, because a burst of a million rules would else spend most of its time in the
//! making of events. `Spelling` takes them apart again.

use std::fmt;

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::logs::Format;

/// Where audit lines go in the log; a filter such as `info,jotgate::audit=off` turns them off.
pub const TARGET: &str = "jotgate::audit";

/// Lines of one event, in bytes: some twenty-five lines, so that the event costs little beside them. A full queue of such
/// events takes a quarter of a gibibyte.
const TOGETHER_BYTES: usize = 8 * 1024;

/// What one line says.
#[derive(Debug, Serialize)]
pub struct Line<'a, Id> {
    /// `revoke` or `lift`.
    pub event: &'static str,
    /// Who asked for it.
    pub by: &'a str,
    /// The way in.
    pub way: &'static str,
    /// The rule's identifier.
    pub id: Id,
    /// What is revoked.
    pub kind: &'static str,
    /// Whose tokens.
    pub iss: &'a str,
    /// Which of them; none for a whole issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<&'a str>,
    /// The session that is spared, in pins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub except_sid: Option<&'a str>,
    /// Why, if somebody said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// Seconds since 1970; none: whenever issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutoff: Option<u64>,
    /// Seconds since 1970; none: until lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Whether it stays until it is lifted.
    pub standing: bool,
}

/// Writes the lines.
///
/// # Panics
///
/// Never: what a line says is text and numbers, which JSON can say.
pub fn write<'a, Id: Serialize>(lines: impl IntoIterator<Item = Line<'a, Id>>) {
    if !tracing::enabled!(target: TARGET, Level::INFO) {
        return;
    }
    let mut text = vec![];
    for line in lines {
        serde_json::to_writer(&mut text, &line).expect("members have names, and memory takes all");
        text.push(b'\n');
        if text.len() >= TOGETHER_BYTES {
            emit(&mut text);
        }
    }
    emit(&mut text);
}

fn emit(text: &mut Vec<u8>) {
    if !text.is_empty() {
        let lines = std::str::from_utf8(text).expect("JSON is UTF-8");
        tracing::info!(target: TARGET, lines);
        text.clear();
    }
}

/// Spells audit lines, and leaves every other event to `others`.
#[derive(Debug)]
pub(super) struct Spelling<E> {
    pub(super) format: Format,
    pub(super) others: E,
}

impl<S, N, E> FormatEvent<S, N> for Spelling<E>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    E: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if event.metadata().target() != TARGET {
            return self.others.format_event(context, writer, event);
        }
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut lines = Lines {
            before: match self.format {
                Format::Text => format!("{time}  INFO {TARGET}: {{"),
                Format::Json => {
                    format!(r#"{{"timestamp":"{time}","level":"INFO","target":"{TARGET}","#)
                }
            },
            writer,
            result: Ok(()),
        };
        event.record(&mut lines);
        lines.result
    }
}

/// Writes the lines of one event, each with what stands before it instead of its brace.
struct Lines<'a> {
    before: String,
    writer: Writer<'a>,
    result: fmt::Result,
}

impl Visit for Lines<'_> {
    fn record_str(&mut self, _: &Field, lines: &str) {
        for line in lines.split_inclusive('\n') {
            let members = line.trim_start_matches('{');
            self.result = self
                .result
                .and_then(|()| self.writer.write_str(&self.before))
                .and_then(|()| self.writer.write_str(members));
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
