//! Prometheus metrics. Labels come from the configuration and from closed sets of codes, never from a request. On the
//! request path a counter is found in a map of the thread and raised by one atomic addition.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use tracing_appender::non_blocking::ErrorCounter;

/// Bounds of the decision's histogram, in seconds: a cache hit takes a microsecond, a signature check tens.
const DECISION_BUCKETS: [f64; 10] = [
    1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 1e-3, 1e-2, 1e-1,
];

/// Bounds of the upstream's histogram, in seconds.
const UPSTREAM_BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// Bounds of the log's histogram, in seconds: a fast disk syncs in a tenth of a millisecond, a slow one in tens.
const SYNC_BUCKETS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
];

/// Bounds of the propagation's histogram, in seconds: milliseconds in one place, a second over a slow line; longer, somebody was cut off.
const PROPAGATION_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0,
];

/// Every metric of the process. Clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: IntCounterVec,
    upstream_seconds: HistogramVec,
    /// Requests that a service did not answer, by upstream and reason.
    pub upstream_failures: IntCounterVec,
    /// Servers of an upstream, by upstream and state.
    pub upstream_servers: IntGaugeVec,
    /// Servers that got no requests for a while, by upstream and server.
    pub upstream_ejections: IntCounterVec,
    /// Resolutions of servers' names, by upstream, server and result.
    pub upstream_resolutions: IntCounterVec,
    /// Health checks, by upstream, server and result.
    pub upstream_health_checks: IntCounterVec,
    /// Requests that were sent once more, or not for want of budget, by upstream and result.
    pub upstream_retries: IntCounterVec,
    /// Requests that an upstream had no place for, by upstream and limit.
    pub upstream_refusals: IntCounterVec,
    /// Revocations that an answer asked for, by way and result.
    pub answer_revocations: IntCounterVec,
    /// Streams that were cut short, by reason.
    pub streams_ended: IntCounterVec,
    stale_allowed: IntCounterVec,
    /// From the end of the request's head to the decision.
    pub decision_seconds: Histogram,
    /// Look-ups that found a token in the verified-token cache.
    pub cache_hits: IntCounter,
    /// Look-ups that did not.
    pub cache_misses: IntCounter,
    /// Tokens in the verified-token cache.
    pub cache_entries: IntGauge,
    /// Bytes that they take.
    pub cache_bytes: IntGauge,
    /// Open client connections, by listener.
    pub connections: IntGaugeVec,
    /// Requests under way, by listener.
    pub requests: IntGaugeVec,
    /// Wrong tokens that the failure limit had no room for.
    pub failures_not_noted: IntCounter,
    /// Panics of the whole process.
    pub panics: IntCounter,
    /// Lines of the log that were dropped; follows `log`.
    log_lines_dropped: IntCounter,
    /// Who drops them, where the process has a log.
    log: Arc<OnceLock<ErrorCounter>>,
    /// Spans of traces, by what became of them.
    pub trace_spans: IntCounterVec,
    /// Attempts to take over a changed configuration, by result.
    pub config_reloads: IntCounterVec,
    /// When the running configuration was taken over.
    pub config_last_good: IntGauge,
    /// Requests to the admin API that were turned away, by code.
    pub admin_refusals: IntCounterVec,
    /// Client connections that ended with an error, by reason.
    pub connection_errors: IntCounterVec,
    /// When certificates end, by listener and certificate.
    pub certificate_expiry: IntGaugeVec,
    /// Usable keys, by issuer.
    pub key_set_keys: IntGaugeVec,
    /// When the keys were last seen good, by issuer.
    pub key_set_last_good: IntGaugeVec,
    /// Fetches of key sets, by issuer and result.
    pub key_set_refreshes: IntCounterVec,
    /// Entries of the last key set that could not be used, by issuer.
    pub key_set_skipped: IntGaugeVec,
    /// Rules of the denylist, by kind.
    pub denylist_entries: IntGaugeVec,
    /// Most rules.
    pub denylist_entries_max: IntGauge,
    /// Raised by every change of the denylist.
    pub denylist_epoch: IntGauge,
    /// Length of the denylist's log; 0 without one.
    pub denylist_log_bytes: IntGauge,
    /// Writing and syncing one group of the log.
    pub denylist_sync_seconds: Histogram,
    fleet: Arc<OnceLock<FleetMetrics>>,
}

/// What a gateway of a fleet tells besides. Absent without one: a lease that has 0 s left is an alarm.
#[derive(Clone, Debug)]
pub struct FleetMetrics {
    /// Gateways that the relay knows.
    pub members: IntGauge,
    /// 1 for what the relay is doing.
    pub relay_state: IntGaugeVec,
    /// Own changes that the relay does not have.
    pub outbox: IntGauge,
    /// What is left of the lease.
    pub lease_remaining_seconds: Gauge,
    /// Clock of this machine minus that of the relay.
    pub clock_offset_seconds: Gauge,
    /// Rules of others for which there was no room.
    pub refused_rules: IntCounter,
    /// Entries of the stream that were not of the fleet.
    pub refused_entries: IntCounter,
    /// From making a rule on another gateway to having it in force here.
    pub propagation_seconds: Histogram,
}

impl Metrics {
    /// Metrics at zero.
    ///
    /// # Panics
    ///
    /// Never: names and labels are constants, and each name is registered once.
    #[must_use]
    #[expect(
        clippy::too_many_lines,
        reason = "a list of metrics is read from top to bottom"
    )]
    pub fn new() -> Self {
        let registry = Registry::new();
        let metrics = Self {
            decisions: counters(
                &registry,
                "jotgate_decisions_total",
                "Requests, by how they were decided.",
                &["route", "issuer", "result", "code"],
            ),
            upstream_seconds: add(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "jotgate_upstream_duration_seconds",
                        "From sending a request to the head of its answer.",
                    )
                    .buckets(UPSTREAM_BUCKETS.to_vec()),
                    &["upstream"],
                ),
            ),
            upstream_failures: counters(
                &registry,
                "jotgate_upstream_failures_total",
                "Requests that a service did not answer.",
                &["upstream", "code"],
            ),
            upstream_servers: gauges(
                &registry,
                "jotgate_upstream_servers",
                "Servers of an upstream.",
                &["upstream", "state"],
            ),
            upstream_ejections: counters(
                &registry,
                "jotgate_upstream_ejections_total",
                "Servers that get no requests for a while.",
                &["upstream", "server"],
            ),
            upstream_resolutions: counters(
                &registry,
                "jotgate_upstream_resolutions_total",
                "Resolutions of servers' names.",
                &["upstream", "server", "result"],
            ),
            upstream_health_checks: counters(
                &registry,
                "jotgate_upstream_health_checks_total",
                "Health checks.",
                &["upstream", "server", "result"],
            ),
            upstream_retries: counters(
                &registry,
                "jotgate_upstream_retries_total",
                "Requests that were sent once more, or not for want of budget.",
                &["upstream", "result"],
            ),
            upstream_refusals: counters(
                &registry,
                "jotgate_upstream_refusals_total",
                "Requests that an upstream had no place for.",
                &["upstream", "limit"],
            ),
            answer_revocations: counters(
                &registry,
                "jotgate_answer_revocations_total",
                "Revocations that a service's answer asked for.",
                &["way", "result"],
            ),
            streams_ended: counters(
                &registry,
                "jotgate_streams_ended_total",
                "Answers, uploads and tunnels that were cut short.",
                &["reason"],
            ),
            stale_allowed: counters(
                &registry,
                "jotgate_stale_allowed_total",
                "Requests with a token that passed while the denylist may have been too old.",
                &["route"],
            ),
            decision_seconds: add(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "jotgate_decision_duration_seconds",
                        "From the end of a request's head to its decision.",
                    )
                    .buckets(DECISION_BUCKETS.to_vec()),
                ),
            ),
            cache_hits: add(
                &registry,
                IntCounter::new(
                    "jotgate_token_cache_hits_total",
                    "Tokens found in the verified-token cache.",
                ),
            ),
            cache_misses: add(
                &registry,
                IntCounter::new(
                    "jotgate_token_cache_misses_total",
                    "Tokens not found in the verified-token cache.",
                ),
            ),
            cache_entries: gauge(
                &registry,
                "jotgate_token_cache_entries",
                "Tokens in the verified-token cache.",
            ),
            cache_bytes: gauge(
                &registry,
                "jotgate_token_cache_bytes",
                "Bytes of the verified-token cache.",
            ),
            connections: gauges(
                &registry,
                "jotgate_connections",
                "Open client connections.",
                &["listener"],
            ),
            requests: gauges(
                &registry,
                "jotgate_requests",
                "Requests under way.",
                &["listener"],
            ),
            failures_not_noted: add(
                &registry,
                IntCounter::new(
                    "jotgate_failures_not_noted_total",
                    "Wrong tokens that the failure limit had no room for.",
                ),
            ),
            panics: add(
                &registry,
                IntCounter::new("jotgate_panics_total", "Panics, each a defect of jotgate."),
            ),
            log_lines_dropped: add(
                &registry,
                IntCounter::new(
                    "jotgate_log_lines_dropped_total",
                    "Lines of the log that were dropped because too many waited.",
                ),
            ),
            log: Arc::default(),
            trace_spans: counters(
                &registry,
                "jotgate_trace_spans_total",
                "Spans of traces, by what became of them.",
                &["result"],
            ),
            config_reloads: counters(
                &registry,
                "jotgate_config_reloads_total",
                "Attempts to take over a changed configuration.",
                &["result"],
            ),
            config_last_good: gauge(
                &registry,
                "jotgate_config_last_good_timestamp_seconds",
                "When the running configuration was taken over, in seconds since 1970.",
            ),
            admin_refusals: counters(
                &registry,
                "jotgate_admin_refusals_total",
                "Requests to the admin API that were turned away.",
                &["code"],
            ),
            connection_errors: counters(
                &registry,
                "jotgate_connection_errors_total",
                "Client connections that ended with an error.",
                &["reason"],
            ),
            certificate_expiry: gauges(
                &registry,
                "jotgate_certificate_expiry_timestamp_seconds",
                "When the certificate ends, in seconds since 1970.",
                &["listener", "certificate"],
            ),
            key_set_keys: gauges(
                &registry,
                "jotgate_key_set_keys",
                "Usable keys.",
                &["issuer"],
            ),
            key_set_last_good: gauges(
                &registry,
                "jotgate_key_set_last_good_timestamp_seconds",
                "When the keys were last seen good, in seconds since 1970.",
                &["issuer"],
            ),
            key_set_refreshes: counters(
                &registry,
                "jotgate_key_set_refreshes_total",
                "Fetches of the key set.",
                &["issuer", "result"],
            ),
            key_set_skipped: gauges(
                &registry,
                "jotgate_key_set_skipped_keys",
                "Entries of the last key set that could not be used.",
                &["issuer"],
            ),
            denylist_entries: gauges(
                &registry,
                "jotgate_denylist_entries",
                "Rules of the denylist.",
                &["kind"],
            ),
            denylist_entries_max: gauge(
                &registry,
                "jotgate_denylist_entries_max",
                "Most rules of the denylist.",
            ),
            denylist_epoch: gauge(
                &registry,
                "jotgate_denylist_epoch",
                "Raised by every change of the denylist.",
            ),
            denylist_log_bytes: gauge(
                &registry,
                "jotgate_denylist_log_bytes",
                "Length of the denylist's log.",
            ),
            denylist_sync_seconds: add(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "jotgate_denylist_sync_duration_seconds",
                        "Writing and syncing one group of the denylist's log.",
                    )
                    .buckets(SYNC_BUCKETS.to_vec()),
                ),
            ),
            fleet: Arc::default(),
            registry,
        };
        let info = gauges(
            &metrics.registry,
            "jotgate_build_info",
            "The running version.",
            &["version"],
        );
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics
    }

    /// All metrics in Prometheus' text format 0.0.4.
    ///
    /// # Panics
    ///
    /// Never: writing to memory cannot fail, and every family has a name.
    #[must_use]
    pub fn to_text(&self) -> String {
        if let Some(log) = self.log.get() {
            let dropped = log.dropped_lines() as u64;
            let known = &self.log_lines_dropped;
            known.inc_by(dropped.saturating_sub(known.get()));
        }
        let mut text = vec![];
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to memory cannot fail, and every family has a name");
        String::from_utf8(text).expect("names and labels are UTF-8")
    }

    /// Those of a fleet. They appear when they are first asked for.
    #[must_use]
    pub fn fleet(&self) -> &FleetMetrics {
        self.fleet.get_or_init(|| FleetMetrics::new(&self.registry))
    }

    /// Tells from here on how many lines the log of the process has dropped. Only the first one counts: there is one log.
    pub fn tell_dropped_lines(&self, dropped: ErrorCounter) {
        // An error means that it is told already.
        let _ = self.log.set(dropped);
    }

    /// The histogram of an upstream; kept by whoever sends to it.
    #[must_use]
    pub fn upstream_seconds(&self, upstream: &str) -> Histogram {
        self.upstream_seconds.with_label_values(&[upstream])
    }
}

impl FleetMetrics {
    fn new(registry: &Registry) -> Self {
        Self {
            members: gauge(
                registry,
                "jotgate_fleet_members",
                "Gateways that the relay knows.",
            ),
            relay_state: gauges(
                registry,
                "jotgate_fleet_relay_state",
                "What the relay is doing.",
                &["state"],
            ),
            outbox: gauge(
                registry,
                "jotgate_fleet_outbox_entries",
                "Own changes that the relay does not have.",
            ),
            lease_remaining_seconds: float_gauge(
                registry,
                "jotgate_fleet_lease_remaining_seconds",
                "For how long the denylist may be trusted.",
            ),
            clock_offset_seconds: float_gauge(
                registry,
                "jotgate_fleet_clock_offset_seconds",
                "Clock of this machine minus that of the relay.",
            ),
            refused_rules: add(
                registry,
                IntCounter::new(
                    "jotgate_fleet_refused_rules_total",
                    "Rules of other gateways for which there was no room.",
                ),
            ),
            refused_entries: add(
                registry,
                IntCounter::new(
                    "jotgate_fleet_refused_entries_total",
                    "Entries of the stream that were not of the fleet.",
                ),
            ),
            propagation_seconds: add(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "jotgate_fleet_propagation_seconds",
                        "From making a rule on another gateway to having it in force here.",
                    )
                    .buckets(PROPAGATION_BUCKETS.to_vec()),
                ),
            ),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Counters of decisions as one thread finds them: by numbers instead of texts.
#[derive(Debug)]
pub struct DecisionCounters {
    decisions: IntCounterVec,
    known: RefCell<HashMap<(usize, usize, &'static str), IntCounter, foldhash::fast::RandomState>>,
    stale_allowed: IntCounterVec,
    /// By number of the route.
    known_stale: RefCell<HashMap<usize, IntCounter, foldhash::fast::RandomState>>,
}

/// What becomes of a request by its decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was sent on.
    Allow,
    /// It was sent on because its route only reports; else it would have been refused.
    Report,
    /// It was refused.
    Deny,
}

/// The labels of one decision. `route` and `issuer` are names of the configuration with a number that is theirs alone in
/// this edition; 0 is for none.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'n> {
    /// The route.
    pub route: (usize, &'n str),
    /// The issuer.
    pub issuer: (usize, &'n str),
    /// What became of the request.
    pub result: Fate,
    /// The exact reason.
    pub code: &'static str,
}

impl DecisionCounters {
    /// Counters for one thread and one edition of the plan.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            decisions: metrics.decisions.clone(),
            known: RefCell::default(),
            stale_allowed: metrics.stale_allowed.clone(),
            known_stale: RefCell::default(),
        }
    }

    /// Counts one that passed while the denylist may have been too old.
    pub fn count_stale(&self, (number, name): (usize, &str)) {
        self.known_stale
            .borrow_mut()
            .entry(number)
            .or_insert_with(|| self.stale_allowed.with_label_values(&[name]))
            .inc();
    }

    /// Counts one decision.
    pub fn count(&self, decided: Decided<'_>) {
        self.known
            .borrow_mut()
            .entry((decided.route.0, decided.issuer.0, decided.code))
            .or_insert_with(|| {
                let result = match decided.result {
                    Fate::Allow => "allow",
                    Fate::Report => "report",
                    Fate::Deny => "deny",
                };
                self.decisions.with_label_values(&[
                    decided.route.1,
                    decided.issuer.1,
                    result,
                    decided.code,
                ])
            })
            .inc();
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    let collector = collector.expect("names and labels are constants of valid form");
    registry
        .register(Box::new(collector.clone()))
        .expect("each name is registered once");
    collector
}

/// A number as a gauge holds it.
#[must_use]
pub fn as_gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    add(registry, IntGauge::new(name, help))
}

fn float_gauge(registry: &Registry, name: &str, help: &str) -> Gauge {
    add(registry, Gauge::new(name, help))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    add(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    add(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_together() {
        let metrics = Metrics::new();
        let decided = Decided {
            route: (1, "orders"),
            issuer: (0, ""),
            result: Fate::Deny,
            code: "no_token",
        };
        for _ in 0..2 {
            DecisionCounters::new(&metrics).count(decided);
        }
        let line =
            r#"jotgate_decisions_total{code="no_token",issuer="",result="deny",route="orders"} 2"#;
        assert!(metrics.to_text().lines().any(|found| found == line));
    }

    /// Blocks until its end is dropped.
    struct Blocked(std::sync::mpsc::Receiver<()>);

    impl std::io::Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn dropped_lines_of_the_log_are_told() {
        use std::io::Write as _;

        let (unblock, blocked) = std::sync::mpsc::channel();
        let (mut log, guard) = tracing_appender::non_blocking::NonBlockingBuilder::default()
            .buffered_lines_limit(4)
            .lossy(true)
            .finish(Blocked(blocked));
        let metrics = Metrics::new();
        let told = || {
            let text = metrics.to_text();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("jotgate_log_lines_dropped_total "));
            line.expect("a line").parse::<usize>().unwrap()
        };
        metrics.tell_dropped_lines(log.error_counter());
        assert_eq!(told(), 0);
        for _ in 0..20 {
            log.write_all(b"line").unwrap();
        }
        // Four wait, and one may be with the writer.
        let dropped = told();
        assert!((15..=16).contains(&dropped), "{dropped}");
        assert_eq!(told(), dropped, "told twice, counted once");
        drop(unblock);
        drop(guard);
    }
}
