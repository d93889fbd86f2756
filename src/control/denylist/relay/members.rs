//! Who belongs to the fleet, by what each member last said of itself.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;

use super::fleet::Member;
use super::link::Run;
use super::payload::{Report, open_report};
use super::seal::Seal;
use crate::base::clock::UnixSeconds;

/// Most members that are looked at: the design's limit is some hundreds, and Redis is not trusted with our memory.
const MEMBERS_MAX: usize = 4096;

/// Every member as it was last seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    reports: Vec<Report>,
    /// Of those that were there before Redis lost something, and have not come back yet.
    missed: Vec<Report>,
}

impl Members {
    /// Takes over what Redis holds at `now` of its clock. Answers with those that have been silent for too long.
    pub(super) fn take(
        &mut self,
        found: Vec<(Box<str>, Bytes)>,
        seal: &Seal,
        now: UnixSeconds,
        forgotten_after: Duration,
    ) -> Vec<Box<str>> {
        let mut silent = vec![];
        self.reports.clear();
        // Those of another fleet, and forgeries, are not ours to forget.
        let ours = found.into_iter().filter_map(|(name, payload)| {
            let report = open_report(&name, &payload, seal)?;
            Some((name, report))
        });
        for (name, report) in ours.take(MEMBERS_MAX) {
            // While it may still trust what it knows, it counts.
            let lasts = forgotten_after.max(report.member.max_staleness);
            if now.since(report.member.at) < lasts {
                self.reports.push(report);
            } else {
                silent.push(name);
            }
        }
        self.reports
            .sort_unstable_by(|a, b| a.member.name.cmp(&b.member.name));
        let reports = &self.reports;
        let is_back = |missed: &Report| {
            let name = &missed.member.name;
            reports.iter().any(|report| report.member.name == *name)
        };
        self.missed.retain(|missed| !is_back(missed));
        silent
    }

    /// Redis may have lost whom it knew: those that were `known` and are not there now are missed, as if they still said what they last did.
    pub(super) fn miss(&mut self, known: Self) {
        for report in known.reports.into_iter().chain(known.missed) {
            let name = &report.member.name;
            let mut here = self.reports.iter().chain(&self.missed);
            if !here.any(|other| other.member.name == *name) {
                self.missed.push(report);
            }
        }
    }

    /// Who has not come back by now has left, or is dead: `own` patience is over after so much waiting, and so is its own.
    pub(super) fn give_up(&mut self, waited: Duration, own: Duration) {
        self.missed
            .retain(|missed| waited < own.max(missed.member.max_staleness));
    }

    /// Everybody, those who are there first.
    pub(super) fn all(&self) -> Vec<Member> {
        self.everybody().cloned().collect()
    }

    fn everybody(&self) -> impl Iterator<Item = &Member> {
        let all = self.reports.iter().chain(&self.missed);
        all.map(|report| &report.member)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.reports.len()
    }

    /// Those but `own` that have not published in `run` what they had.
    pub(super) fn behind(&self, run: &Run, own: &str) -> HashSet<Box<str>> {
        self.everybody()
            .filter(|member| &*member.name != own && member.run != *run)
            .map(|member| member.name.clone())
            .collect()
    }

    /// Whether that member has published in `run` what it had.
    pub(super) fn has_come_to(&self, name: &str, run: &Run) -> bool {
        let mut all = self.reports.iter().map(|report| &report.member);
        all.any(|member| *member.name == *name && member.run == *run)
    }

    /// The longest time that somebody needs entries for.
    pub(super) fn retention(&self) -> Duration {
        let all = self.reports.iter().chain(&self.missed);
        let longest = all.map(|report| report.retention_s).max();
        Duration::from_secs(longest.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::EntryId;
    use super::super::payload::close_report;
    use super::super::seal::keys_of;
    use super::*;

    fn report(name: &str, server: &str, at: u64) -> (Box<str>, Bytes) {
        let member = Member {
            name: name.into(),
            version: "0".into(),
            run: Run {
                server: server.into(),
                epoch: "e".into(),
            },
            applied: EntryId::default(),
            entries: 0,
            in_sync: true,
            at: UnixSeconds(at),
            max_staleness: Duration::from_secs(30),
            shares_name: false,
        };
        let report = Report {
            member,
            retention_s: at,
            instance: 1,
        };
        (name.into(), close_report(&report, &seal()))
    }

    fn seal() -> Seal {
        keys_of(b"a secret of at least 32 bytes ...", "jotgate").1
    }

    fn take(members: &mut Members, found: &[(&str, &str, u64)]) -> Vec<Box<str>> {
        let found = found
            .iter()
            .map(|(name, server, at)| report(name, server, *at))
            .collect();
        members.take(found, &seal(), UnixSeconds(1000), Duration::from_secs(100))
    }

    fn names(members: &Members) -> Vec<Box<str>> {
        members
            .all()
            .into_iter()
            .map(|member| member.name)
            .collect()
    }

    #[test]
    fn who_has_been_silent_for_long_is_no_member() {
        let mut members = Members::default();
        let silent = take(
            &mut members,
            &[("b", "s", 999), ("a", "s", 901), ("c", "s", 900)],
        );
        assert_eq!(silent, [Box::from("c")]);
        assert_eq!(names(&members), [Box::from("a"), Box::from("b")]);
        assert_eq!(members.retention(), Duration::from_secs(999));
        // It may still trust what it knows.
        let (_, payload) = report("c", "s", 971);
        let found = vec![("c".into(), payload)];
        let forgotten_after = Duration::from_secs(9);
        let silent = members.take(found, &seal(), UnixSeconds(1000), forgotten_after);
        assert_eq!((silent.len(), members.count()), (0, 1));
        // A report that was moved to another name is nobody's.
        let (_, payload) = report("a", "s", 999);
        members.take(
            vec![("z".into(), payload)],
            &seal(),
            UnixSeconds(1000),
            Duration::from_secs(9),
        );
        assert_eq!(members.count(), 0);
    }

    #[test]
    fn those_that_redis_lost_are_missed_until_they_come_or_are_given_up() {
        let mut members = Members::default();
        take(
            &mut members,
            &[("a", "s", 999), ("b", "s", 999), ("c", "s", 999)],
        );
        let known = members.clone();
        take(&mut members, &[("a", "new", 1000)]);
        members.miss(known);
        let run = Run {
            server: "new".into(),
            epoch: "e".into(),
        };
        let behind = members.behind(&run, "a");
        assert_eq!(behind, HashSet::from([Box::from("b"), Box::from("c")]));
        assert!(!members.has_come_to("b", &run));
        take(&mut members, &[("a", "new", 1000), ("b", "new", 1000)]);
        assert!(members.has_come_to("b", &run));
        assert_eq!(members.behind(&run, "a"), HashSet::from([Box::from("c")]));
        assert_eq!(members.all().len(), 3, "who is pending is told");
        members.give_up(Duration::from_secs(29), Duration::from_secs(1));
        assert_eq!(members.all().len(), 3, "it may still trust what it knows");
        members.give_up(Duration::from_secs(30), Duration::from_secs(1));
        assert_eq!(names(&members), [Box::from("a"), Box::from("b")]);
    }
}
