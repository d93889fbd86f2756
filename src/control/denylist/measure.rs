//! The fleet in numbers: what `/metrics` and `/v1/status` say of it, put together when they are asked.

use std::time::Duration;

use serde::Serialize;

use super::relay::{Fleet, Member, RelayState, View};
use crate::base::clock::{Clock, UnixSeconds, millis};
use crate::denylist::Lease;
use crate::telemetry::metrics::{FleetMetrics, as_gauge};

/// The fleet, as `/v1/status` shows it.
#[derive(Debug, Serialize)]
pub struct FleetStatus {
    name: Box<str>,
    state: &'static str,
    /// Why the relay is away.
    fault: Option<Box<str>>,
    in_sync: bool,
    lease_remaining_ms: u64,
    max_staleness_ms: u64,
    outbox: u64,
    /// Where it follows, and how far.
    applied: String,
    last: String,
    clock_offset_ms: i64,
    refused_entries: u64,
    refused_rules: u64,
    members: Vec<MemberStatus>,
}

/// One gateway.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct MemberStatus {
    name: Box<str>,
    version: Box<str>,
    state: &'static str,
    entries: u64,
    applied: String,
    /// How much older what it has applied is than the newest that the relay spoke of, by the relay's clock; null in another run.
    lag_ms: Option<u64>,
    /// Since it said so.
    age_s: u64,
    /// As configured there.
    max_staleness_ms: u64,
}

impl FleetStatus {
    /// As it is now.
    #[must_use]
    pub fn of(fleet: &Fleet, lease: &Lease, clock: &Clock) -> Self {
        let view = fleet.view();
        let now = relay_time(clock.now(), view.clock_offset_ms);
        let members = fleet.members();
        Self {
            name: fleet.name().into(),
            state: view.state.as_str(),
            fault: view.fault.clone(),
            in_sync: !lease.is_over(clock),
            lease_remaining_ms: millis(remaining(lease, clock)),
            max_staleness_ms: millis(fleet.max_staleness()),
            outbox: view.outbox,
            applied: view.applied.to_string(),
            last: view.last.to_string(),
            clock_offset_ms: view.clock_offset_ms,
            refused_entries: view.refused_entries,
            refused_rules: view.refused_rules,
            members: members
                .iter()
                .map(|member| MemberStatus::of(member, &view, now))
                .collect(),
        }
    }
}

impl MemberStatus {
    fn of(member: &Member, view: &View, now: UnixSeconds) -> Self {
        let same_run = member.run == view.run;
        let age = now.since(member.at);
        Self {
            name: member.name.clone(),
            version: member.version.clone(),
            state: if age > member.max_staleness {
                // Whatever it said then.
                "silent"
            } else if member.shares_name {
                "shares_name"
            } else if !same_run {
                "reconciling"
            } else if member.in_sync {
                "in_sync"
            } else {
                "stale"
            },
            entries: member.entries,
            applied: member.applied.to_string(),
            lag_ms: same_run.then(|| view.last.ms.saturating_sub(member.applied.ms)),
            age_s: age.as_secs(),
            max_staleness_ms: millis(member.max_staleness),
        }
    }
}

/// Sets the gauges and counters of the fleet to what is so now.
pub fn measure(fleet: &Fleet, lease: &Lease, clock: &Clock, metrics: &FleetMetrics) {
    let view = fleet.view();
    metrics.members.set(as_gauge(fleet.members().len() as u64));
    for state in RelayState::ALL {
        metrics
            .relay_state
            .with_label_values(&[state.as_str()])
            .set(i64::from(state == view.state));
    }
    metrics.outbox.set(as_gauge(view.outbox));
    metrics
        .lease_remaining_seconds
        .set(remaining(lease, clock).as_secs_f64());
    let offset = Duration::from_millis(view.clock_offset_ms.unsigned_abs()).as_secs_f64();
    metrics
        .clock_offset_seconds
        .set(if view.clock_offset_ms < 0 {
            -offset
        } else {
            offset
        });
    // The relay counts; these follow.
    for (counter, count) in [
        (&metrics.refused_rules, view.refused_rules),
        (&metrics.refused_entries, view.refused_entries),
    ] {
        counter.inc_by(count.saturating_sub(counter.get()));
    }
}

fn remaining(lease: &Lease, clock: &Clock) -> Duration {
    lease.until().since(clock.boot())
}

fn relay_time(ours: UnixSeconds, offset_ms: i64) -> UnixSeconds {
    let offset = Duration::from_millis(offset_ms.unsigned_abs());
    if offset_ms < 0 {
        ours.plus(offset)
    } else {
        ours.minus(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::super::relay::testing::fleet;
    use super::super::relay::{EntryId, Run};
    use super::*;
    use crate::telemetry::metrics::Metrics;

    const NOW: UnixSeconds = UnixSeconds(1_795_417_570);

    fn run(server: &str) -> Run {
        Run {
            server: server.into(),
            epoch: "e".into(),
        }
    }

    fn member(name: &str, server: &str, applied_ms: u64, in_sync: bool, age_s: u64) -> Member {
        Member {
            name: name.into(),
            version: "1".into(),
            run: run(server),
            applied: EntryId {
                ms: applied_ms,
                sequence: 0,
            },
            entries: 7,
            in_sync,
            // The relay's clock is 5 s ahead of ours.
            at: UnixSeconds(NOW.0 + 5 - age_s),
            max_staleness: Duration::from_secs(30),
            shares_name: false,
        }
    }

    fn view() -> View {
        View {
            state: RelayState::Following,
            fault: None,
            run: run("s"),
            applied: EntryId {
                ms: 1000,
                sequence: 0,
            },
            last: EntryId {
                ms: 1000,
                sequence: 2,
            },
            outbox: 3,
            clock_offset_ms: -5000,
            refused_entries: 4,
            refused_rules: 5,
        }
    }

    #[test]
    fn each_member_is_shown_as_it_is() {
        let (fleet, hand) = fleet("a".into(), Duration::from_secs(30));
        hand.show(view());
        hand.show_members(vec![
            member("a", "s", 1000, true, 1),
            member("b", "s", 400, false, 30),
            member("c", "old", 9000, true, 2),
            member("d", "s", 1000, true, 31),
            // It has reported since we looked.
            member("e", "s", 1001, true, 0),
            Member {
                shares_name: true,
                ..member("f", "s", 1000, true, 1)
            },
            Member {
                max_staleness: Duration::from_secs(31),
                ..member("g", "s", 1000, true, 31)
            },
        ]);
        let (clock, _) = Clock::manual(NOW);
        let lease = Lease::ended();
        lease.renew(clock.boot().plus(Duration::from_secs(20)));
        let status = FleetStatus::of(&fleet, &lease, &clock);
        assert!(status.in_sync);
        assert_eq!((status.lease_remaining_ms, status.outbox), (20_000, 3));
        let shown: Vec<_> = status
            .members
            .iter()
            .map(|it| (&*it.name, it.state, it.lag_ms, it.age_s))
            .collect();
        assert_eq!(
            shown,
            [
                ("a", "in_sync", Some(0), 1),
                ("b", "stale", Some(600), 30),
                ("c", "reconciling", None, 2),
                ("d", "silent", Some(0), 31),
                ("e", "in_sync", Some(0), 0),
                ("f", "shares_name", Some(0), 1),
                ("g", "in_sync", Some(0), 31),
            ]
        );
    }

    #[test]
    fn numbers_follow_the_relay_and_counters_never_fall() {
        let (fleet, hand) = fleet("a".into(), Duration::from_secs(30));
        hand.show(view());
        hand.show_members(vec![
            member("a", "s", 1, true, 1),
            member("b", "s", 1, true, 1),
        ]);
        let (clock, clock_hand) = Clock::manual(NOW);
        let lease = Lease::ended();
        lease.renew(clock.boot().plus(Duration::from_millis(1500)));
        let metrics = Metrics::new();
        assert!(!metrics.to_text().contains("jotgate_fleet"), "no fleet");
        let has = |line: &str| metrics.to_text().lines().any(|found| found == line);
        measure(&fleet, &lease, &clock, metrics.fleet());
        for line in [
            "jotgate_fleet_members 2",
            "jotgate_fleet_relay_state{state=\"following\"} 1",
            "jotgate_fleet_relay_state{state=\"away\"} 0",
            "jotgate_fleet_outbox_entries 3",
            "jotgate_fleet_lease_remaining_seconds 1.5",
            "jotgate_fleet_clock_offset_seconds -5",
            "jotgate_fleet_refused_rules_total 5",
            "jotgate_fleet_refused_entries_total 4",
        ] {
            assert!(has(line), "{line} in {}", metrics.to_text());
        }
        clock_hand.advance(Duration::from_secs(2));
        hand.show(View::default());
        measure(&fleet, &lease, &clock, metrics.fleet());
        assert!(has("jotgate_fleet_relay_state{state=\"away\"} 1"));
        assert!(has("jotgate_fleet_relay_state{state=\"following\"} 0"));
        assert!(has("jotgate_fleet_lease_remaining_seconds 0"));
        assert!(has("jotgate_fleet_refused_rules_total 5"));
    }
}
