//! The threads that serve. Each has a runtime, sockets and upstream connections of its own, so that a request never waits
//! for another thread.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pulse::Pulses;
use crate::base::deadline::Deadlines;
use crate::listener::{Acceptor, ListenerMetrics, Options};
use crate::proxy::{Shared, Worker};

/// How often a thread looks for upstream connections that were idle for too long.
const POOL_SWEEP: Duration = Duration::from_secs(5);

/// What WebSockets have for a goodbye when the thread ends: half a second each, and some more.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(600);

/// One listener's share of a thread.
pub(super) struct Post {
    pub(super) acceptor: Acceptor,
    pub(super) options: Options,
    pub(super) metrics: ListenerMetrics,
}

/// How threads are told to end.
#[derive(Clone, Debug, Default)]
pub(super) struct End {
    /// Accept nothing more, finish what runs.
    pub(super) stop: CancellationToken,
    /// Say goodbye where that can be said, and leave everything else as it is.
    pub(super) abort: CancellationToken,
}

/// Starts thread number `number`. It ends after `end.stop`, when its last request has ended, or at `end.abort`.
pub(super) fn start(
    number: usize,
    posts: Vec<Post>,
    shared: Arc<Shared>,
    end: End,
    pulses: Pulses,
) -> io::Result<JoinHandle<()>> {
    let runtime = move || {
        Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
    };
    std::thread::Builder::new()
        .name(format!("jotgate-{number}"))
        .spawn(move || match runtime() {
            Ok(runtime) => runtime.block_on(async move {
                spawn_local(pulses.beat(number, end.stop.clone()));
                work(posts, shared, end).await;
            }),
            Err(error) => tracing::error!(%error, "a serving thread cannot start; are there enough file descriptors?"),
        })
}

async fn work(posts: Vec<Post>, shared: Arc<Shared>, end: End) {
    let deadlines = Deadlines::new();
    spawn_local(deadlines.clone().sweep());
    let tasks = TaskTracker::new();
    let worker = Rc::new(Worker::new(shared, deadlines.clone(), tasks.clone()));
    for post in posts {
        let serving = post.acceptor.run(
            Rc::new(post.options),
            Rc::clone(&worker),
            deadlines.clone(),
            tasks.clone(),
            end.stop.clone(),
            post.metrics,
        );
        spawn_local(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "a listener ended; this thread accepts no more connections on it");
            }
        });
    }
    spawn_local(Rc::clone(&worker).end_streams());
    spawn_local(Rc::clone(&worker).drain_bodies());
    let sweeping = Rc::clone(&worker);
    spawn_local(async move {
        let mut sweep = tokio::time::interval(POOL_SWEEP);
        loop {
            sweep.tick().await;
            sweeping.sweep();
        }
    });
    end.stop.cancelled().await;
    tasks.close();
    tokio::select! {
        () = tasks.wait() => return,
        () = end.abort.cancelled() => worker.leave(),
    }
    // What is not done by then ends with the runtime.
    let _ = deadlines.within(LEAVE_TIMEOUT, tasks.wait()).await;
}
