//! The actors of the scenarios, one file each, and the two clocks that they share.

pub(crate) mod authority;
pub(crate) mod certs;
pub(crate) mod client;
pub(crate) mod collector;
pub(crate) mod cut;
pub(crate) mod dns;
pub(crate) mod gateway;
pub(crate) mod h2;
pub(crate) mod issuer;
pub(crate) mod keys;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod redis;
pub(crate) mod service;
pub(crate) mod tokens;
pub(crate) mod upstream;
pub(crate) mod web_socket;
pub(crate) mod wire;

use std::time::Duration;

pub(crate) use client::Answer;
pub(crate) use gateway::{Gateway, Setup};
pub(crate) use issuer::Issuer;
pub(crate) use upstream::{Reply, Upstream};

/// How long anything in a scenario may take on a busy machine before the scenario fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for `future`, and fails the scenario when it takes longer than [`DEADLINE`].
#[track_caller]
pub(crate) fn within<F: Future>(what: &'static str, future: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        tokio::time::timeout(DEADLINE, future)
            .await
            .unwrap_or_else(|_| panic!("{place}: {what} took longer than {DEADLINE:?}"))
    }
}

/// Asks again until the answer is `Some`, and fails the scenario when it never is. Tasks of the gateway run on
/// threads of their own, so what a scenario waits for has no signal it could wait on.
#[track_caller]
pub(crate) fn eventually<T>(
    what: &'static str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    within(what, async move {
        let mut pause = tokio::time::interval(Duration::from_millis(5));
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            pause.tick().await;
        }
    })
}
