//! How a request asks for newer keys because it met an unknown `kid`, and how the asking is kept from
//! becoming a flood: many requests share one fetch, and after each fetch there is a pause.
//!
//! A [`RefreshGate`] is only the handle of a channel; whoever holds the [`RefreshDesk`] fetches.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};

/// Most requests that wait for one issuer's fetch. Each holds a connection and its buffers; whoever
/// floods a gateway with invented `kid`s must not tie up more than this.
pub const WAITERS_MAX: usize = 1024;

/// What became of a wish for newer keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// Keys were fetched after the wish, or were being fetched: look again.
    Refreshed,
    /// The last fetch was good and is too recent for another one: the `kid` is unknown.
    CoolingDown,
    /// The fetch failed, or the last one did and is too recent for another one.
    Failed,
    /// It takes too long. It goes on, for the next request.
    TimedOut,
    /// Too many wait already.
    TooMany,
}

/// Asks for newer keys. Clones share everything.
#[derive(Clone, Debug)]
pub struct RefreshGate(Option<Arc<Line>>);

#[derive(Debug)]
struct Line {
    wishes: mpsc::Sender<()>,
    state: watch::Receiver<State>,
    waiters: Semaphore,
}

/// The other end of a [`RefreshGate`]: belongs to the one task that fetches.
#[derive(Debug)]
pub struct RefreshDesk {
    wishes: mpsc::Receiver<()>,
    state: watch::Sender<State>,
    min_interval: Duration,
}

#[derive(Clone, Copy, Debug)]
struct State {
    in_flight: bool,
    /// Fetches that have ended.
    ended: u64,
    /// Whether the last of them was good.
    good: bool,
    /// No asked fetch before this; none has ended yet if absent.
    not_before: Option<Instant>,
}

impl State {
    fn is_cooling_down(&self) -> bool {
        self.not_before
            .is_some_and(|not_before| Instant::now() < not_before)
    }
}

/// A gate and its desk. After the end of any fetch, good or not, there is no asked one for
/// `min_interval`.
#[must_use]
pub fn refresh_gate(min_interval: Duration) -> (RefreshGate, RefreshDesk) {
    // One wish is as good as many.
    let (wish, wishes) = mpsc::channel(1);
    let (state, watcher) = watch::channel(State {
        in_flight: false,
        ended: 0,
        good: false,
        not_before: None,
    });
    let gate = RefreshGate(Some(Arc::new(Line {
        wishes: wish,
        state: watcher,
        waiters: Semaphore::new(WAITERS_MAX),
    })));
    let desk = RefreshDesk {
        wishes,
        state,
        min_interval,
    };
    (gate, desk)
}

impl RefreshGate {
    /// The gate of keys that nobody fetches: written in the configuration, or in a watched file.
    #[must_use]
    pub const fn closed() -> Self {
        Self(None)
    }

    /// Asks for newer keys, and waits at most `wait_max` for them. A request that comes while a fetch
    /// runs waits for that one.
    pub async fn ask(&self, wait_max: Duration) -> RefreshOutcome {
        let Some(line) = &self.0 else {
            return RefreshOutcome::CoolingDown;
        };
        let seen = *line.state.borrow();
        if !seen.in_flight && seen.is_cooling_down() {
            return if seen.good {
                RefreshOutcome::CoolingDown
            } else {
                RefreshOutcome::Failed
            };
        }
        let Ok(_place) = line.waiters.try_acquire() else {
            return RefreshOutcome::TooMany;
        };
        if !seen.in_flight {
            // Full: somebody has asked just now, and what answers them answers us. Closed: the wait
            // below ends at once.
            let _ = line.wishes.try_send(());
        }
        // A fetch that has ended since `seen` is news as well, so no wish can be lost in between.
        let mut state = line.state.clone();
        let news = state.wait_for(|state| state.ended > seen.ended);
        match timeout(wait_max, news).await {
            Ok(Ok(state)) if state.good => RefreshOutcome::Refreshed,
            Ok(Ok(_) | Err(_)) => RefreshOutcome::Failed,
            Err(_) => RefreshOutcome::TimedOut,
        }
    }

    /// How many requests wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |line| WAITERS_MAX - line.waiters.available_permits())
    }
}

impl RefreshDesk {
    /// A fetch begins: who asks from now on waits for this one.
    pub fn begin(&mut self) {
        self.state.send_modify(|state| state.in_flight = true);
    }

    /// A fetch has ended, and its keys, if `good`, are published.
    pub fn end(&mut self, good: bool) {
        // These came while it ran, or just before: it has answered them.
        while self.wishes.try_recv().is_ok() {}
        let not_before = Instant::now() + self.min_interval;
        self.state.send_modify(|state| {
            *state = State {
                in_flight: false,
                ended: state.ended + 1,
                good,
                not_before: Some(not_before),
            };
        });
    }

    /// Returns when somebody asks for a fetch and the pause is over. May be dropped at any point.
    pub async fn asked(&mut self) {
        loop {
            if self.wishes.recv().await.is_none() {
                // Every gate is gone, so nobody can ask.
                std::future::pending::<()>().await;
            }
            if !self.state.borrow().is_cooling_down() {
                return;
            }
            // A wish that crossed the end of a fetch: that end has answered it.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);
    const WAIT: Duration = Duration::from_secs(2);

    /// Lets spawned tasks run until they wait.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    fn ask(gate: &RefreshGate) -> tokio::task::JoinHandle<RefreshOutcome> {
        let gate = gate.clone();
        tokio::spawn(async move { gate.ask(WAIT).await })
    }

    #[tokio::test(start_paused = true)]
    async fn many_wishes_are_one_fetch() {
        let (gate, mut desk) = refresh_gate(INTERVAL);
        let asks: Vec<_> = (0..1_000).map(|_| ask(&gate)).collect();
        desk.asked().await;
        desk.begin();
        while gate.waiting() < 1_000 {
            tokio::task::yield_now().await;
        }
        desk.end(true);
        for asked in asks {
            assert_eq!(asked.await.unwrap(), RefreshOutcome::Refreshed);
        }
        assert_eq!(gate.waiting(), 0);
        tokio::time::advance(INTERVAL).await;
        timeout(INTERVAL, desk.asked())
            .await
            .expect_err("no wish is left");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_fetch_there_is_a_pause_whatever_became_of_it() {
        for (good, outcome) in [
            (true, RefreshOutcome::CoolingDown),
            (false, RefreshOutcome::Failed),
        ] {
            let (gate, mut desk) = refresh_gate(INTERVAL);
            desk.begin();
            desk.end(good);
            assert_eq!(gate.ask(WAIT).await, outcome);
            tokio::time::advance(INTERVAL.saturating_sub(Duration::from_millis(1))).await;
            assert_eq!(gate.ask(WAIT).await, outcome);
            tokio::time::advance(Duration::from_millis(1)).await;
            let asked = ask(&gate);
            desk.asked().await;
            desk.begin();
            desk.end(true);
            assert_eq!(asked.await.unwrap(), RefreshOutcome::Refreshed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_during_a_fetch_waits_for_that_one() {
        let (gate, mut desk) = refresh_gate(INTERVAL);
        desk.begin();
        let asked = ask(&gate);
        settle().await;
        desk.end(false);
        assert_eq!(asked.await.unwrap(), RefreshOutcome::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_that_a_scheduled_fetch_answers_starts_no_other() {
        let (gate, mut desk) = refresh_gate(INTERVAL);
        let asked = ask(&gate);
        settle().await;
        desk.begin();
        desk.end(true);
        assert_eq!(asked.await.unwrap(), RefreshOutcome::Refreshed);
        tokio::time::advance(INTERVAL).await;
        timeout(INTERVAL, desk.asked())
            .await
            .expect_err("no wish is left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_that_crosses_the_end_of_a_fetch_starts_no_other() {
        let (gate, mut desk) = refresh_gate(INTERVAL);
        desk.begin();
        desk.end(true);
        // Decided to ask before the end, and sent it after.
        gate.0.as_ref().unwrap().wishes.try_send(()).unwrap();
        timeout(INTERVAL, desk.asked())
            .await
            .expect_err("it is too early");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_bounded_in_time_and_number() {
        let (gate, mut desk) = refresh_gate(INTERVAL);
        desk.begin();
        let asks: Vec<_> = (0..WAITERS_MAX).map(|_| ask(&gate)).collect();
        while gate.waiting() < WAITERS_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.ask(WAIT).await, RefreshOutcome::TooMany);
        for asked in asks {
            assert_eq!(asked.await.unwrap(), RefreshOutcome::TimedOut);
        }
    }

    #[tokio::test]
    async fn a_desk_that_is_gone_fails_at_once() {
        let (gate, desk) = refresh_gate(INTERVAL);
        drop(desk);
        assert_eq!(gate.ask(WAIT).await, RefreshOutcome::Failed);
    }

    #[tokio::test]
    async fn keys_that_nobody_fetches_never_make_anyone_wait() {
        assert_eq!(
            RefreshGate::closed().ask(WAIT).await,
            RefreshOutcome::CoolingDown
        );
    }

    #[test]
    fn requests_on_other_threads_are_answered() {
        let (gate, mut desk) = refresh_gate(INTERVAL);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let gate = gate.clone();
                std::thread::spawn(move || runtime().block_on(gate.ask(Duration::from_mins(1))))
            })
            .collect();
        runtime().block_on(async {
            desk.asked().await;
            desk.begin();
            while gate.waiting() < 4 {
                tokio::task::yield_now().await;
            }
            desk.end(true);
        });
        for thread in threads {
            assert_eq!(thread.join().unwrap(), RefreshOutcome::Refreshed);
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }
}
