//! Logs through `tracing`, as text or JSON, on standard output. A line that cannot be written at once waits in a bounded
//! queue; when that is full it is dropped rather than holding up a request.

use std::io::{IsTerminal, stdout};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// Most lines that wait to be written.
const LINES_WAITING_MAX: usize = 64 * 1024;

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
        .finish(stdout());
    let builder = fmt().with_env_filter(filter).with_writer(writer);
    match format {
        Format::Text => tracing::subscriber::set_global_default(
            builder.with_ansi(stdout().is_terminal()).finish(),
        )?,
        Format::Json => {
            tracing::subscriber::set_global_default(
                builder
                    .json()
                    .flatten_event(true)
                    .with_current_span(false)
                    .finish(),
            )?;
        }
    }
    Ok(guard)
}
