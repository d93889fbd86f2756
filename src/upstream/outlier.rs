//! Servers that take no connection get no requests for a while, found out by the requests themselves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::service::Upstream;
use crate::base::clock::millis;

/// `upstreams[].outlier`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// So many in a row, and the server is ejected; 0: never. Default 5.
    pub failures: u32,
    /// For how long, the first time. Default 30 s.
    pub eject_for: Duration,
    /// Most servers that are ejected at once, in percent; one may always be. Default 50.
    pub max_ejected: u32,
    /// Whether answers 5xx, and requests without a body that get no valid answer, are failures. Strangers can cause them.
    /// Default false.
    pub count_5xx: bool,
}

/// Largest factor of `eject_for` for a server that is ejected again and again: Envoy's bound, 5 min of 30 s. What is repaired
/// is noticed then at the latest.
const TIMES_MAX: u32 = 10;

impl Upstream {
    /// A server took no connection, or failed in another way that counts.
    pub(super) fn note_failure(&self, endpoint: &Endpoint) {
        let bound = self.options.outlier.failures;
        let failures = endpoint.failures.fetch_add(1, Ordering::Relaxed);
        if bound > 0 && failures.saturating_add(1) >= bound {
            self.eject(endpoint);
        }
    }

    fn eject(&self, endpoint: &Endpoint) {
        // Another thread is about to: the next failure asks again, if it must.
        let Ok(_alone) = self.ejecting.try_lock() else {
            return;
        };
        let now_ms = self.now_ms();
        let outlier = &self.options.outlier;
        if endpoint.is_ejected(now_ms) || !self.may_eject(endpoint, now_ms) {
            return;
        }
        let first_ms = millis(outlier.eject_for);
        let back_ms = now_ms.saturating_sub(endpoint.ejected_until_ms.load(Ordering::Relaxed));
        let is_forgotten = back_ms >= first_ms.saturating_mul(u64::from(TIMES_MAX));
        let before = if is_forgotten {
            0
        } else {
            endpoint.times.load(Ordering::Relaxed)
        };
        let times = before.saturating_add(1).min(TIMES_MAX);
        let span_ms = first_ms.saturating_mul(u64::from(times));
        endpoint.times.store(times, Ordering::Relaxed);
        let until_ms = now_ms.saturating_add(span_ms);
        endpoint.ejected_until_ms.store(until_ms, Ordering::Relaxed);
        // Once it is back, one failure is enough until it has answered.
        endpoint
            .failures
            .store(outlier.failures - 1, Ordering::Relaxed);
        let upstream = &self.options.name;
        self.counters
            .ejections
            .with_label_values(&[upstream.as_str(), &endpoint.server.to_string()])
            .inc();
        tracing::warn!(%upstream, server = %endpoint, seconds = span_ms / 1000, "a server is ejected: it failed several times in a row");
    }

    /// Whether enough others are left without it.
    fn may_eject(&self, endpoint: &Endpoint, now_ms: u64) -> bool {
        let endpoints = &self.roster().0;
        let others = || {
            let all = endpoints.iter();
            all.filter(|other| !std::ptr::eq(Arc::as_ptr(other), endpoint))
        };
        let is_last = !others().any(|other| other.is_available(now_ms));
        let ejected = others().filter(|other| other.is_ejected(now_ms)).count() + 1;
        let share_max = usize::try_from(self.options.outlier.max_ejected).unwrap_or(usize::MAX);
        !is_last && (ejected == 1 || ejected * 100 <= endpoints.len() * share_max)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::super::options::{Options, Server};
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn upstream(servers: usize, max_ejected: u32) -> Upstream {
        let server = |n: usize| Server::Unix(format!("/{n}").into());
        let options = Options {
            servers: (0..servers).map(server).collect(),
            outlier: Outlier {
                failures: 3,
                eject_for: Duration::from_secs(30),
                max_ejected,
                count_5xx: false,
            },
            ..Options::of(server(0))
        };
        Upstream::new(options, &Metrics::new())
    }

    fn fail(upstream: &Upstream, at: usize, times: usize) {
        for _ in 0..times {
            upstream.note_failure(&upstream.endpoints()[at]);
        }
    }

    fn ejected(upstream: &Upstream) -> Vec<bool> {
        let now_ms = upstream.now_ms();
        let endpoints = upstream.endpoints();
        let all = endpoints.iter();
        all.map(|endpoint| endpoint.is_ejected(now_ms)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_failures_in_a_row_eject() {
        let upstream = upstream(2, 50);
        fail(&upstream, 0, 2);
        upstream.endpoints()[0].note_success();
        fail(&upstream, 0, 2);
        assert_eq!(ejected(&upstream), [false, false], "not in a row");
        fail(&upstream, 0, 1);
        assert_eq!(ejected(&upstream), [true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_grows_with_each_and_is_forgotten_in_the_end() {
        let upstream = upstream(2, 50);
        fail(&upstream, 0, 3);
        for times in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10] {
            advance(Duration::from_secs(30 * times - 1)).await;
            // Of requests that were under way: they prolong nothing.
            fail(&upstream, 0, 1);
            assert_eq!(ejected(&upstream), [true, false], "{times}");
            advance(Duration::from_secs(1)).await;
            assert_eq!(ejected(&upstream), [false, false], "{times}");
            fail(&upstream, 0, 1);
            assert_eq!(ejected(&upstream), [true, false], "one is enough now");
        }
        advance(Duration::from_mins(5)).await;
        upstream.endpoints()[0].note_success();
        advance(Duration::from_mins(5)).await;
        fail(&upstream, 0, 3);
        advance(Duration::from_secs(30)).await;
        assert_eq!(ejected(&upstream), [false, false], "as the first time");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_stays_and_so_do_more_than_the_share() {
        let alone = upstream(1, 100);
        fail(&alone, 0, 99);
        assert_eq!(ejected(&alone), [false]);
        let all = upstream(3, 100);
        for at in 0..3 {
            fail(&all, at, 3);
        }
        assert_eq!(ejected(&all), [true, true, false], "the last one");
        for (servers, max_ejected, expected) in [(3, 66, 1), (3, 67, 2), (4, 50, 2), (4, 1, 1)] {
            let upstream = upstream(servers, max_ejected);
            for at in 0..servers {
                fail(&upstream, at, 3);
            }
            let count = ejected(&upstream).iter().filter(|is| **is).count();
            assert_eq!(count, expected, "{max_ejected} % of {servers}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_passes_its_checks_again_is_ejected_no_more() {
        let upstream = upstream(2, 50);
        fail(&upstream, 0, 3);
        upstream.endpoints()[0].set_healthy(false);
        upstream.endpoints()[0].set_healthy(true);
        assert_eq!(ejected(&upstream), [false, false]);
        fail(&upstream, 0, 2);
        assert_eq!(ejected(&upstream), [false, false], "as if it were new");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unhealthy_server_is_no_help() {
        let upstream = upstream(3, 100);
        upstream.endpoints()[1].set_healthy(false);
        fail(&upstream, 0, 3);
        fail(&upstream, 2, 3);
        assert_eq!(ejected(&upstream), [true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_never() {
        let mut upstream = upstream(2, 100);
        upstream.options.outlier.failures = 0;
        fail(&upstream, 0, 99);
        assert_eq!(ejected(&upstream), [false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn threads_that_fail_together_leave_one() {
        let upstream = Arc::new(upstream(4, 100));
        std::thread::scope(|scope| {
            for at in 0..4 {
                let upstream = &upstream;
                scope.spawn(move || fail(upstream, at, 1000));
            }
        });
        assert!(ejected(&upstream).contains(&false));
    }
}
