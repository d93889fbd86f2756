//! `jotgate run`: the gateway, until a signal ends it; another one makes it read its configuration again.

use std::path::{Path, PathBuf};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;

use super::{ConfigArgs, Failure, block_on, supervisor};
use crate::app::{Gateway, Watch};
use crate::base::clock::Clock;
use crate::config::{self, Fixed};
use crate::listener::Inherited;
use crate::telemetry::{logs, panics};

#[derive(Debug, Args)]
#[command(
    after_help = "SIGHUP, or a changed file, reloads the configuration; a faulty one changes nothing. \
    SIGTERM and SIGINT end it gracefully: running requests finish. \
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
    // Before there is another thread: it takes variables out of the environment.
    let inherited = Inherited::from_environment()?;
    let path = args.config.path()?;
    let watch = Watch::new(&path);
    let (settings, fixed) = config::load_fixed(&path).map_err(Failure::Config)?;
    let log = logs::init(settings.telemetry.format, &settings.telemetry.level)?;
    block_on(async {
        // Before the gateway starts: a signal that comes in between must not be lost.
        let mut end = EndSignals::listen()?;
        let mut changes = Changes::listen(path, watch)?;
        let mut gateway = Gateway::start_with(settings, Clock::system(), inherited).await?;
        panics::count(gateway.panics());
        gateway.tell_dropped_lines(&log);
        let vitals = gateway.vitals();
        let life = async {
            let result = live(&mut gateway, &mut end, &mut changes, &fixed).await;
            if let Ok(name) = &result {
                tracing::info!(signal = name, "ending; a second signal ends at once");
            }
            supervisor::ending(&gateway);
            shutdown(gateway, end).await;
            result.map(drop)
        };
        tokio::select! {
            result = life => result,
            () = supervisor::watchdog(vitals) => Ok(()),
        }
    })
}

/// Until it is told to end, by the signal of that name, or cannot go on.
async fn live(
    gateway: &mut Gateway,
    end: &mut EndSignals,
    changes: &mut Changes,
    fixed: &Fixed,
) -> Result<&'static str, Failure> {
    let mut is_ready = false;
    loop {
        tokio::select! {
            name = end.next() => return Ok(name),
            () = gateway.denylist_failed() => return Err(Failure::DenylistFailed),
            () = gateway.ready(), if !is_ready => {
                is_ready = true;
                supervisor::ready();
                continue;
            }
            cause = changes.next() => tracing::info!(cause, "reloading the configuration"),
        }
        // Before it is ready, the start is all that systemd waits for.
        if is_ready {
            supervisor::reloading();
        }
        // Whoever wants it to end does not wait for new issuers.
        let is_new = tokio::select! {
            name = end.next() => return Ok(name),
            is_new = reload(gateway, &changes.path, fixed) => is_new,
        };
        if is_ready {
            supervisor::reloaded(is_new);
        }
    }
}

/// Takes over the file as it is now; what is wrong with it is in the log.
async fn reload(gateway: &mut Gateway, path: &Path, running: &Fixed) -> bool {
    let (path, running) = (path.to_owned(), running.clone());
    // The admin API answers on this thread, and a disk may be slow.
    match spawn_blocking(move || config::load_beside(&path, &running)).await {
        Ok(loaded) => gateway.reload(loaded).await,
        Err(error) => {
            tracing::error!(%error, "the configuration could not be read");
            false
        }
    }
}

/// What asks for the configuration to be read again.
#[derive(Debug)]
struct Changes {
    path: PathBuf,
    hangup: Signal,
    watch: Watch,
}

impl Changes {
    /// From here on SIGHUP no longer kills the process.
    fn listen(path: PathBuf, watch: Watch) -> Result<Self, Failure> {
        let hangup = signal(SignalKind::hangup()).map_err(Failure::Signals)?;
        Ok(Self {
            path,
            hangup,
            watch,
        })
    }

    /// Waits for one of them. A signal says that the file is whole, so nobody waits for it to be still.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.hangup.recv() => {
                self.watch.catch_up();
                "SIGHUP"
            }
            () = self.watch.changed() => "the file has changed",
        }
    }
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
