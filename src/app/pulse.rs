//! Whether the serving threads still do something. Each beats once a second as long as its tasks get their turn; who watches
//! over the process looks now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How often a thread beats: it costs nothing that could be measured.
const BEAT: Duration = Duration::from_secs(1);

/// How long a thread may be silent. On a busy machine a beat may be late by a second or two; a thread that serves is never
/// occupied by one thing for so long.
const SILENT_MAX: Duration = Duration::from_secs(5);

/// The count of a thread that was told to end.
const ENDED: u64 = u64::MAX;

/// One count for each thread, which it alone changes.
#[derive(Clone, Debug)]
pub(super) struct Pulses(Arc<[AtomicU64]>);

impl Pulses {
    /// Of so many threads.
    pub(super) fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| AtomicU64::new(0)).collect())
    }

    /// How many threads.
    pub(super) fn threads(&self) -> usize {
        self.0.len()
    }

    /// Beats for thread `number`, on that thread, until it is told to end.
    pub(super) async fn beat(self, number: usize, stop: CancellationToken) {
        let mut beats = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = beats.tick() => self.0[number].fetch_add(1, Ordering::Relaxed),
            };
        }
        self.0[number].store(ENDED, Ordering::Relaxed);
    }

    /// Begins to look.
    pub(super) fn watch(&self, now: Instant) -> Vitals {
        Vitals {
            seen: self.0.iter().map(|_| (0, now)).collect(),
            pulses: self.clone(),
        }
    }
}

/// What was seen of the threads.
#[derive(Debug)]
pub struct Vitals {
    pulses: Pulses,
    /// The last count of each, and when it was new.
    seen: Vec<(u64, Instant)>,
}

impl Vitals {
    /// The number of a thread that has done nothing for too long.
    pub fn silent(&mut self, now: Instant) -> Option<usize> {
        for (count, (known, since)) in self.pulses.0.iter().zip(&mut self.seen) {
            let count = count.load(Ordering::Relaxed);
            if count != *known || count == ENDED {
                (*known, *since) = (count, now);
            }
        }
        let late = |since: &Instant| now.duration_since(*since) > SILENT_MAX;
        self.seen.iter().position(|(_, since)| late(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_silent_for_too_long_is_named_until_it_beats_or_ends() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let pulses = Pulses::new(2);
        let mut vitals = pulses.watch(start);
        let beat = |number: usize| pulses.0[number].fetch_add(1, Ordering::Relaxed);
        assert_eq!(vitals.silent(at(5)), None, "they have just begun");
        beat(0);
        assert_eq!(vitals.silent(at(6)), Some(1));
        beat(1);
        assert_eq!(vitals.silent(at(7)), None);
        beat(0);
        assert_eq!(vitals.silent(at(13)), Some(1));
        pulses.0[1].store(ENDED, Ordering::Relaxed);
        assert_eq!(vitals.silent(at(14)), None);
        beat(0);
        assert_eq!(
            vitals.silent(at(30)),
            None,
            "it may be silent, it has ended"
        );
        assert_eq!(vitals.silent(at(36)), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_beats_as_long_as_it_has_its_turn_and_is_not_told_to_end() {
        let pulses = Pulses::new(1);
        let stop = CancellationToken::new();
        let beating = tokio::spawn(pulses.clone().beat(0, stop.clone()));
        tokio::time::sleep(BEAT * 10 + BEAT / 2).await;
        assert_eq!(pulses.0[0].load(Ordering::Relaxed), 11);
        stop.cancel();
        beating.await.unwrap();
        assert_eq!(pulses.0[0].load(Ordering::Relaxed), ENDED);
    }
}
