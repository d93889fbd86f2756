//! Logs through `tracing`, as text or JSON, on standard output. A line that cannot be written at once waits in a bounded
//! queue; when that is full it is dropped rather than holding up a request.

use std::io::{BufWriter, IsTerminal, stdout};

use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::MakeWriter;

use super::access::AsSpelled;
use super::audit::Spelling;

/// Most lines that wait to be written: a second of access lines.
const LINES_WAITING_MAX: usize = 32 * 1024;

/// Lines that wait are written together, this many bytes at a time: what a pipe holds. The last one waits for nothing.
const WRITE_BYTES: usize = 64 * 1024;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The filter is none that `tracing` understands, or logs were set up before.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a filter.
    #[error("is no log filter; write \"info\", \"debug\" or \"info,jotgate::access=warn\"")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else set up logs in this process.
    #[error("logs are set up already")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// The log of the process. Lines still waiting are written when it is dropped.
#[derive(Debug)]
pub struct Log {
    dropped: ErrorCounter,
    _guard: WorkerGuard,
}

impl Log {
    /// Counts the lines that were dropped because too many waited.
    #[must_use]
    pub fn dropped(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

/// Sets up logs for the whole process.
pub fn init(format: Format, level: &str) -> Result<Log, LogError> {
    let filter = EnvFilter::try_new(level)?;
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_WAITING_MAX)
        .finish(BufWriter::with_capacity(WRITE_BYTES, stdout()));
    let dropped = writer.error_counter();
    match format {
        Format::Text => tracing::subscriber::set_global_default(text(filter, writer))?,
        Format::Json => tracing::subscriber::set_global_default(json(filter, writer))?,
    }
    Ok(Log {
        dropped,
        _guard: guard,
    })
}

fn text<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(stdout().is_terminal())
        .map_event_format(|others| {
            AsSpelled(Spelling {
                format: Format::Text,
                others,
            })
        })
        .finish()
}

/// One JSON object a line.
pub(crate) fn json<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .map_event_format(|others| {
            AsSpelled(Spelling {
                format: Format::Json,
                others,
            })
        })
        .finish()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::super::audit;
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the text log says of two rules and one other event.
    fn text_log(filter: &str) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let log = text(filter.parse().unwrap(), move || writer.clone());
        tracing::subscriber::with_default(log, || {
            let line = |value| audit::Line {
                event: "revoke",
                by: "ops",
                way: "admin_api",
                id: "id",
                kind: "user",
                iss: "https://id",
                value: Some(value),
                except_sid: None,
                reason: None,
                cutoff: Some(1),
                until: None,
                standing: false,
            };
            audit::write([line("alice\n{"), line("bob")]);
            tracing::info!("else");
        });
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn audit_lines_are_json_in_the_text_log_too_and_the_filter_holds() {
        let log = text_log("info");
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 3, "{log}");
        for (line, value) in lines.iter().zip(["alice\n{", "bob"]) {
            let (_, members) = line.split_once(" INFO jotgate::audit: ").expect(line);
            let members: serde_json::Value = serde_json::from_str(members).unwrap();
            assert_eq!(members["value"], value);
        }
        assert!(lines[2].ends_with("else"), "{log}");
        let log = text_log("info,jotgate::audit=off");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
}
