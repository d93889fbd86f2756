//! The issuers of the running edition, and what becomes of them at a reload: one whose keys come from the same source keeps
//! its table and task, one that is the same in everything stays the very same, so that what the cache knows lives on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::build;
use super::lifecycle::StartError;
use crate::authorize::Issuer;
use crate::base::clock::Clock;
use crate::base::names::IssuerName;
use crate::config::settings;
use crate::control::denylist::Bounds;
use crate::control::jwks;

/// An issuer and the task that keeps its keys.
#[derive(Debug)]
pub(super) struct Member {
    /// As requests see it.
    pub(super) issuer: Arc<Issuer>,
    /// Whether the gateway was started with it, so that readiness waits for its keys. One that came later must not take the
    /// others' routes down.
    pub(super) is_first: bool,
    settings: settings::Issuer,
    end: CancellationToken,
}

/// Swapped whole by a reload. Clones share it.
pub(super) type Members = Arc<ArcSwap<Vec<Arc<Member>>>>;

/// What tasks of issuers need.
#[derive(Debug)]
pub(super) struct Starter {
    pub(super) jwks_cache: Option<std::path::PathBuf>,
    pub(super) clock: Clock,
    pub(super) tasks: TaskTracker,
    pub(super) control: CancellationToken,
}

/// The issuers of a new edition. Dropped before it is in force, what was started for it ends.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) members: Vec<Arc<Member>>,
    fresh: Vec<DropGuard>,
}

impl Starter {
    /// The issuers that are wanted: those of `running` as far as they are the same, and new ones, whose tasks begin. `bounds`
    /// are remembered for them. Every one that cannot start is told.
    pub(super) fn next(
        &self,
        wanted: Vec<settings::Issuer>,
        running: &[Arc<Member>],
        is_first: bool,
        bounds: &Bounds,
    ) -> Result<Next, Vec<StartError>> {
        let mut next = Next {
            members: vec![],
            fresh: vec![],
        };
        let mut errors = vec![];
        let running: HashMap<&IssuerName, &Arc<Member>> = running
            .iter()
            .map(|member| (&member.settings.name, member))
            .collect();
        for settings in wanted {
            let same = |member: &&&Arc<Member>| has_same_source(&member.settings, &settings);
            match running.get(&settings.name).filter(same) {
                Some(member)
                    if member.settings.rules == settings.rules
                        && member.settings.headers == settings.headers =>
                {
                    next.members.push(Arc::clone(member));
                }
                Some(member) => {
                    let (keys, refresh) = (&member.issuer.keys, &member.issuer.refresh);
                    next.members.push(Arc::new(Member {
                        issuer: build::issuer(
                            &settings,
                            bounds.earlier(&settings.rules.issuer),
                            Arc::clone(keys),
                            refresh.clone(),
                        ),
                        is_first: member.is_first,
                        settings,
                        end: member.end.clone(),
                    }));
                }
                None => match self.start(settings, is_first, bounds) {
                    Ok(member) => {
                        next.fresh.push(member.end.clone().drop_guard());
                        next.members.push(Arc::new(member));
                    }
                    Err(error) => errors.push(error),
                },
            }
        }
        if errors.is_empty() {
            Ok(next)
        } else {
            Err(errors)
        }
    }

    fn start(
        &self,
        settings: settings::Issuer,
        is_first: bool,
        bounds: &Bounds,
    ) -> Result<Member, StartError> {
        let end = self.control.child_token();
        let keys = jwks::start(&settings, self.jwks_cache.as_deref(), &self.clock, &end).map_err(
            |source| StartError::Keys {
                issuer: settings.name.to_string(),
                source,
            },
        )?;
        if let Some(task) = keys.task {
            self.tasks.spawn(async { drop(task.await) });
        }
        Ok(Member {
            issuer: build::issuer(
                &settings,
                bounds.earlier(&settings.rules.issuer),
                keys.table,
                keys.gate,
            ),
            is_first,
            settings,
            end,
        })
    }
}

impl Next {
    /// Puts them in the place of those that run, and ends the tasks that nobody needs any more. Yields the issuers whose
    /// tables of keys are no longer read.
    pub(super) fn take_over(self, members: &Members) -> Vec<Arc<Member>> {
        for guard in self.fresh {
            guard.disarm();
        }
        let next = Arc::new(self.members);
        let before = members.swap(Arc::clone(&next));
        let place = |member: &Arc<Member>| Arc::as_ptr(&member.issuer.keys);
        let kept: HashSet<_> = next.iter().map(place).collect();
        let is_gone = |old: &&Arc<Member>| !kept.contains(&place(old));
        let gone: Vec<_> = before.iter().filter(is_gone).map(Arc::clone).collect();
        for member in &gone {
            member.end.cancel();
        }
        gone
    }

    /// Returns when the keys of every issuer have been tried.
    pub(super) async fn until_tried(&self) {
        for member in &self.members {
            member.issuer.keys.until_tried().await;
        }
    }

    /// As requests see them.
    pub(super) fn issuers(&self) -> Vec<Arc<Issuer>> {
        let issuer = |member: &Arc<Member>| Arc::clone(&member.issuer);
        self.members.iter().map(issuer).collect()
    }
}

/// Whether the same task can keep the keys of both: where they come from, how and when, and what is said about them.
fn has_same_source(ours: &settings::Issuer, theirs: &settings::Issuer) -> bool {
    let settings::Issuer {
        name,
        rules,
        keys,
        tls,
        insecure_http,
        refresh,
        refresh_min_interval,
        fetch_timeout,
        stale_max,
        headers: _,
    } = ours;
    *name == theirs.name
        && rules.issuer == theirs.rules.issuer
        // A secret must be long enough for each, and the log tells when no key fits any.
        && rules.algorithms == theirs.rules.algorithms
        && keys.is_same(&theirs.keys)
        && *tls == theirs.tls
        && *insecure_http == theirs.insecure_http
        && *refresh == theirs.refresh
        && *refresh_min_interval == theirs.refresh_min_interval
        && *fetch_timeout == theirs.fetch_timeout
        && *stale_max == theirs.stale_max
}
