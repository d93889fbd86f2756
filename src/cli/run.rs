//! `jotgate run`: the gateway, until a signal ends it.

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ConfigArgs, Failure, block_on};
use crate::app::Gateway;
use crate::base::clock::Clock;
use crate::config;
use crate::telemetry::{logs, panics};

#[derive(Debug, Args)]
#[command(
    after_help = "SIGTERM and SIGINT end it gracefully: running requests finish. \
    A second signal ends it at once, with exit code 1. \
    It also ends, with exit code 1, when revocations can no longer be written to the denylist's log.\n\n\
    Examples:\n  \
    jotgate run --config gateway.toml\n  \
    JOTGATE__TELEMETRY__LOG__LEVEL=debug jotgate run --config gateway.toml   the environment overrides the file"
)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: RunArgs) -> Result<(), Failure> {
    let settings = config::load(&args.config.path()?).map_err(Failure::Config)?;
    let _logs = logs::init(settings.telemetry.format, &settings.telemetry.level)?;
    block_on(async {
        // Before the gateway starts: a signal that comes in between must not be lost.
        let mut end = EndSignals::listen()?;
        let gateway = Gateway::start(settings, Clock::system()).await?;
        panics::count(gateway.panics());
        let result = tokio::select! {
            name = end.next() => {
                tracing::info!(signal = name, "ending; a second signal ends at once");
                Ok(())
            }
            () = gateway.denylist_failed() => Err(Failure::DenylistFailed),
        };
        shutdown(gateway, end).await;
        result
    })
}

/// Ends `gateway` gracefully. Another signal ends the process on the spot, with exit code 1.
pub(super) async fn shutdown(gateway: Gateway, mut end: EndSignals) {
    tokio::select! {
        () = gateway.shutdown() => {}
        _ = end.next() => std::process::exit(1),
    }
}

/// The signals that ask a program to end.
#[derive(Debug)]
pub(super) struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    /// From here on the signals no longer kill the process.
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
