//! A changed configuration takes the place of the running one: built beside it, swapped whole. What is wrong with it is said,
//! and changes nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::build;
use super::issuers::Member;
use super::lifecycle::{Gateway, StartError, door, note_good};
use crate::base::names::UpstreamName;
use crate::config::{Faults, Outline, Settings};
use crate::control::denylist::{Bounds, BoundsError, IssuerLife};
use crate::plan::Plan;
use crate::upstream::State;

/// Longest wait for the keys of new issuers, and the addresses of new services, before the new configuration is in force, so
/// that their first requests find them.
/// One fetch takes 5 s unless the file says otherwise; a dead provider must not hold up what the others need.
const WARM_UP_MAX: Duration = Duration::from_secs(10);

impl Gateway {
    /// Takes over what was loaded, or says all that is wrong with it and goes on as before. Returns whether it was taken over,
    /// after which no request begins under the old one. Requests that run finish under the one that they began with.
    ///
    /// Dropped on the way, it changes nothing.
    pub async fn reload(&mut self, loaded: Result<Settings, Faults>) -> bool {
        let faults: Vec<String> = match loaded {
            Ok(settings) => match self.take_over(settings).await {
                Ok(()) => {
                    self.count("ok");
                    return true;
                }
                Err(errors) => errors.iter().map(ToString::to_string).collect(),
            },
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        };
        for fault in &faults {
            error!("{fault}");
        }
        error!(
            faults = faults.len(),
            "the changed configuration is not taken over; the one before stays in force"
        );
        self.count("failed");
        false
    }

    fn count(&self, result: &str) {
        let metrics = &self.shared.metrics;
        metrics.config_reloads.with_label_values(&[result]).inc();
    }

    async fn take_over(&mut self, settings: Settings) -> Result<(), Vec<StartError>> {
        let running = self.members.load_full();
        let routes = settings.routes.len();
        let outline = Arc::new(Outline::of(&settings));
        // Rules are kept by the wider bounds before tokens may be, and if the rest fails no harm is done.
        let lives = settings.issuers.iter();
        let lives: Vec<_> = lives
            .map(|issuer| IssuerLife::from(&issuer.rules))
            .collect();
        self.revocations.keep_longer(&lives);
        let bounds = self.bounds.then(&lives, self.shared.clock.now());
        let lives = bounds.lives(&lives);
        let next = self
            .starter
            .next(settings.issuers, &running, false, &bounds)?;
        let next_traces = self.traces.next(settings.telemetry.otlp);
        let plan = build::plan(
            settings.routes,
            settings.upstreams,
            &next.issuers(),
            &settings.listeners,
            (settings.telemetry.access_log, next_traces.tracer()),
            &self.shared.metrics,
            Some(&*self.shared.plan.load_full()),
        )
        .map_err(|conflict| vec![StartError::Routes(conflict)])?;
        let begun = self.upstreams.prepare(&plan.upstreams);
        let all_tried = async {
            next.until_tried().await;
            for upstream in &plan.upstreams {
                upstream.until_tried().await;
            }
        };
        if tokio::time::timeout(WARM_UP_MAX, all_tried).await.is_err() {
            warn!(
                "keys of new issuers, or addresses of new services, are still on their way; until they are there, requests that need them get 503"
            );
        }

        self.remember(bounds).await?;

        // From here on nothing waits and nothing can fail. The denylist first: whoever logs out under the new plan is known to
        // it. The tasks of issuers that are gone last: nobody begins to ask for their keys after the swap.
        let issuers = next.issuers();
        self.revocations
            .replace_issuers(lives.into_iter().collect());
        if let (Some(api), Some(admin)) = (&self.api, settings.admin) {
            let door = door(&admin, &issuers, &self.shared);
            api.replace(admin, door);
        }
        self.shutdown = settings.shutdown;
        let outline_before = std::mem::replace(&mut self.outline, Arc::clone(&outline));
        let upstreams = plan.upstreams.len();
        let before = self.shared.plan.swap(Arc::new(plan));
        self.upstreams
            .take_over(begun, &self.shared.plan.load().upstreams);
        self.forget_upstreams(&before);
        self.traces.take_over(next_traces);
        let gone = next.take_over(&self.members);
        self.forget(&gone);
        note_good(&self.shared);
        info!(
            routes,
            upstreams,
            issuers = issuers.len(),
            issuers_ended = gone.len(),
            "configuration reloaded"
        );
        // Thousands of routes take a while, and nothing waits for it but the next reload. A panic is counted where it happens.
        let told = move || warn_of_weaker(&outline, &outline_before);
        let _ = tokio::task::spawn_blocking(told).await;
        Ok(())
    }

    /// What may be on disk is what the next reload begins with, also when this one is dropped or fails.
    async fn remember(&mut self, bounds: Bounds) -> Result<(), Vec<StartError>> {
        self.bounds = bounds.clone();
        tokio::task::spawn_blocking(move || bounds.save())
            .await
            .map_err(BoundsError::from)
            .flatten()
            .map_err(|error| vec![error.into()])
    }

    /// What was measured of tables that are gone; one of the same name counts anew, as after a restart.
    fn forget(&self, gone: &[Arc<Member>]) {
        let metrics = &self.shared.metrics;
        for member in gone {
            let name = member.issuer.name.as_str();
            // An error means that it was never asked for.
            let _ = metrics.key_set_keys.remove_label_values(&[name]);
            let _ = metrics.key_set_last_good.remove_label_values(&[name]);
            let _ = metrics.key_set_skipped.remove_label_values(&[name]);
            for result in ["ok", "failed"] {
                let labels = [name, result];
                let _ = metrics.key_set_refreshes.remove_label_values(&labels);
            }
        }
    }

    /// The states of servers whose upstream is gone.
    fn forget_upstreams(&self, before: &Plan) {
        let plan = self.shared.plan.load();
        let kept = plan.upstreams.iter().map(|kept| &kept.options.name);
        let kept: HashSet<&UpstreamName> = kept.collect();
        for gone in &before.upstreams {
            let name = &gone.options.name;
            if !kept.contains(name) {
                for state in State::ALL {
                    let labels = [name.as_str(), state.as_str()];
                    let gauges = &self.shared.metrics.upstream_servers;
                    // An error means that it was never asked for.
                    let _ = gauges.remove_label_values(&labels);
                }
            }
        }
    }
}

/// Whoever can write the file can take protection away; let it not go unnoticed.
fn warn_of_weaker(new: &Outline, old: &Outline) {
    let changes = new.changes_since(old);
    for change in changes.iter().filter(|change| change.is_weaker) {
        warn!(%change, "the new configuration is weaker");
    }
}
