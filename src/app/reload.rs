//! A changed configuration takes the place of the running one: built beside it, swapped whole. What is wrong with it is said,
//! and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::build;
use super::issuers::Member;
use super::lifecycle::{Gateway, StartError, door, note_good};
use crate::authorize::Issuer;
use crate::config::{Faults, Outline, Settings};
use crate::control::denylist::IssuerLife;
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
        let next = self.starter.next(settings.issuers, &running, false)?;
        let plan = build::plan(
            settings.routes,
            settings.upstreams,
            &next.issuers(),
            &settings.listeners,
            settings.telemetry.access_log,
            &self.shared.metrics,
            Some(&*self.shared.plan.load_full()),
        )
        .map_err(|conflict| vec![StartError::Routes(conflict)])?;
        self.upstreams.prepare(&plan.upstreams);
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

        // From here on nothing waits and nothing can fail. The denylist first: whoever logs out under the new plan is known to
        // it. The tasks of issuers that are gone last: nobody begins to ask for their keys after the swap.
        let issuers = next.issuers();
        warn_of_longer_lives(&running, &issuers);
        let lives = issuers.iter().map(|issuer| IssuerLife::from(&issuer.rules));
        self.revocations.replace_issuers(lives.collect());
        if let (Some(api), Some(admin)) = (&self.api, settings.admin) {
            let door = door(&admin, &issuers, &self.shared);
            api.replace(admin, door);
        }
        self.shutdown = settings.shutdown;
        warn_of_weaker(&outline, &self.outline);
        self.outline = outline;
        let upstreams = plan.upstreams.len();
        let before = self.shared.plan.swap(Arc::new(plan));
        self.upstreams.take_over(&self.shared.plan.load().upstreams);
        self.forget_upstreams(&before);
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
        Ok(())
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
        for gone in &before.upstreams {
            let name = &gone.options.name;
            if plan.upstreams.iter().all(|kept| kept.options.name != *name) {
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

/// A rule is remembered for as long as a token of its time may live. Made under a shorter bound, it may be forgotten before a
/// token that the longer one lets pass.
fn warn_of_longer_lives(running: &[Arc<Member>], next: &[Arc<Issuer>]) {
    let life = |issuer: &Issuer| issuer.rules.max_lifetime + issuer.rules.leeway;
    for issuer in next {
        let same = |member: &&Arc<Member>| member.issuer.rules.issuer == issuer.rules.issuer;
        if running
            .iter()
            .find(same)
            .is_some_and(|member| life(&member.issuer) < life(issuer))
        {
            warn!(issuer = %issuer.name, "tokens may live longer than before: revocations made until now are forgotten when the old bound says so; make again those that must outlive it");
        }
    }
}
