//! Logs through `tracing`, as text or JSON, on standard output. A line that cannot be written at once waits in a bounded
//! queue; when that is full it is dropped rather than holding up a request.

use std::io::{BufWriter, IsTerminal, stdout};

use tracing::Subscriber;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::MakeWriter;

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

/// Sets up logs for the whole process. Lines still waiting are written when the guard is dropped.
pub fn init(format: Format, level: &str) -> Result<WorkerGuard, LogError> {
    let filter = EnvFilter::try_new(level)?;
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_WAITING_MAX)
        .finish(BufWriter::with_capacity(WRITE_BYTES, stdout()));
    match format {
        Format::Text => tracing::subscriber::set_global_default(text(filter, writer))?,
        Format::Json => tracing::subscriber::set_global_default(json(filter, writer))?,
    }
    Ok(guard)
}

fn text<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(stdout().is_terminal())
        .map_event_format(|others| Spelling {
            format: Format::Text,
            others,
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
        .map_event_format(|others| Spelling {
            format: Format::Json,
            others,
        })
        .finish()
}
