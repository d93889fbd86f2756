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
#[derive(Debug, Default)]
pub(super) struct Members {
    reports: Vec<Report>,
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
        for (name, payload) in found.into_iter().take(MEMBERS_MAX) {
            match open_report(&name, &payload, seal) {
                Some(report) if now.since(report.member.at) < forgotten_after => {
                    self.reports.push(report);
                }
                Some(_) => silent.push(name),
                // Of another fleet, or a forgery: not ours to forget.
                None => {}
            }
        }
        self.reports
            .sort_unstable_by(|a, b| a.member.name.cmp(&b.member.name));
        silent
    }

    /// Everybody, by name.
    pub(super) fn all(&self) -> Vec<Member> {
        self.reports
            .iter()
            .map(|report| report.member.clone())
            .collect()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.reports.len()
    }

    /// Those but `own` that have not published in `run` what they had.
    pub(super) fn behind(&self, run: &Run, own: &str) -> HashSet<Box<str>> {
        let others = self.reports.iter().map(|report| &report.member);
        others
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
        let longest = self.reports.iter().map(|report| report.retention_s).max();
        Duration::from_secs(longest.unwrap_or_default())
    }
}
