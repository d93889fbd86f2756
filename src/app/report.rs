//! What the gateway says of itself: readiness, metrics, status. Asked for now and then, so it is put together then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use super::issuers::Members;
use crate::control::admin::{Condition, Readiness, Views};
use crate::control::denylist::{Revocations, measure};
use crate::denylist::Kind;
use crate::jwks::KeysState;
use crate::proxy::Shared;
use crate::telemetry::metrics::as_gauge;
use crate::upstream::{State, Upstream};

/// What a report is made from.
#[derive(Clone)]
pub(super) struct Report {
    pub(super) shared: Arc<Shared>,
    pub(super) members: Members,
    pub(super) draining: Arc<AtomicBool>,
    pub(super) revocations: Revocations,
}

impl Report {
    pub(super) fn views(&self) -> Views {
        let (readiness, metrics, status) = (self.clone(), self.clone(), self.clone());
        Views {
            readiness: Arc::new(move || readiness.readiness()),
            metrics: Arc::new(move || metrics.metrics()),
            status: Arc::new(move || status.status()),
            lease: self.shared.tables.lease.clone(),
        }
    }

    /// Keys of the issuers that were there at the start have been tried, and the gateway is not about to end. Keys that could not be loaded do not make it unready:
    /// other issuers' tokens can be checked, and a replica that is taken away helps nobody. In a fleet the denylist must have been in sync once.
    fn readiness(&self) -> Readiness {
        let members = self.members.load();
        let keys = members.iter().map(|member| Condition {
            name: format!("keys of {} tried", member.issuer.name).into(),
            holds: !member.is_first || member.issuer.keys.tried(),
        });
        // Once: a relay that is away makes all gateways stale at once, and none that answers is worse than 503 on the routes that
        // need it. What needs no denylist is served all along.
        let lease = &self.shared.tables.lease;
        let in_sync = (!lease.is_unlimited()).then(|| Condition {
            name: "denylist in sync".into(),
            holds: lease.has_begun(),
        });
        let serving = Condition {
            name: "not draining".into(),
            holds: !self.draining.load(Ordering::Relaxed),
        };
        let plan = self.shared.plan.load();
        let names = plan.upstreams.iter().map(|upstream| Condition {
            name: format!("names of {} tried", upstream.options.name).into(),
            holds: upstream.tried(),
        });
        Readiness {
            conditions: keys.chain(names).chain(in_sync).chain([serving]).collect(),
        }
    }

    fn metrics(&self) -> String {
        let metrics = &self.shared.metrics;
        for member in self.members.load().iter() {
            let issuer = &member.issuer;
            let (name, status) = (issuer.name.as_str(), issuer.keys.status());
            metrics
                .key_set_keys
                .with_label_values(&[name])
                .set(as_gauge(status.keys));
            metrics
                .key_set_skipped
                .with_label_values(&[name])
                .set(as_gauge(status.skipped));
            for (result, fetches) in [("ok", status.fetches_ok), ("failed", status.fetches_failed)]
            {
                let counter = metrics.key_set_refreshes.with_label_values(&[name, result]);
                // The table counts; this follows.
                counter.inc_by(fetches.saturating_sub(counter.get()));
            }
            if let Some(good_at) = status.good_at {
                metrics
                    .key_set_last_good
                    .with_label_values(&[name])
                    .set(as_gauge(good_at.0));
            }
        }
        let tables = &self.shared.tables;
        metrics.cache_entries.set(as_gauge(tables.tokens.entries()));
        metrics.cache_bytes.set(as_gauge(tables.tokens.bytes()));
        for kind in Kind::ALL {
            let entries = tables.denylist.entries(kind) as u64;
            metrics
                .denylist_entries
                .with_label_values(&[kind.as_str()])
                .set(as_gauge(entries));
        }
        metrics
            .denylist_entries_max
            .set(as_gauge(self.revocations.entries_max() as u64));
        metrics
            .denylist_epoch
            .set(as_gauge(tables.denylist.epoch()));
        if let Some(log) = self.revocations.log() {
            metrics.denylist_log_bytes.set(as_gauge(log.bytes()));
        }
        if let Some(fleet) = self.revocations.fleet() {
            measure(fleet, &tables.lease, &self.shared.clock, metrics.fleet());
        }
        for upstream in &self.shared.plan.load().upstreams {
            let (name, servers) = (upstream.options.name.as_str(), upstream.states());
            for state in State::ALL {
                let count = servers.iter().filter(|(_, held)| *held == state).count();
                metrics
                    .upstream_servers
                    .with_label_values(&[name, state.as_str()])
                    .set(as_gauge(count as u64));
            }
        }
        metrics.to_text()
    }

    fn status(&self) -> Map<String, Value> {
        let now = self.shared.clock.now();
        let issuers: Vec<Value> = self
            .members
            .load()
            .iter()
            .map(|member| {
                let issuer = &member.issuer;
                let status = issuer.keys.status();
                let state = match &*issuer.keys.current() {
                    KeysState::NotLoaded => "not_loaded",
                    KeysState::Loaded(_) => "loaded",
                    KeysState::Stale => "stale",
                };
                json!({
                    "name": issuer.name.as_str(),
                    "issuer": &*issuer.rules.issuer,
                    "state": state,
                    "keys": status.keys,
                    "skipped": status.skipped,
                    "fetches_ok": status.fetches_ok,
                    "fetches_failed": status.fetches_failed,
                    "age_s": status.good_at.map(|good_at| now.since(good_at).as_secs()),
                })
            })
            .collect();
        let plan = self.shared.plan.load();
        let upstreams: Vec<Value> = plan.upstreams.iter().map(|it| upstream(it)).collect();
        let tokens = &self.shared.tables.tokens;
        Map::from_iter([
            ("issuers".to_owned(), issuers.into()),
            ("upstreams".to_owned(), upstreams.into()),
            (
                "token_cache".to_owned(),
                json!({"entries": tokens.entries(), "bytes": tokens.bytes()}),
            ),
        ])
    }
}

fn upstream(upstream: &Upstream) -> Value {
    let servers: Vec<Value> = upstream
        .states()
        .into_iter()
        .map(|(endpoint, state)| {
            json!({
                "server": endpoint.server.to_string(),
                "address": endpoint.address.map(|address| address.ip()),
                "state": state.as_str(),
            })
        })
        .collect();
    json!({"name": upstream.options.name.as_str(), "servers": servers})
}
