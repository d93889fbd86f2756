//! `jotgate revoke --wait fleet` at a terminal: says on which gateways a rule is in force, as they say so.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::admin_client::{AdminClient, AdminError};
use super::revoke::rule_path;
use super::{Failure, Verdict, print, when};
use crate::base::clock::UnixSeconds;

/// Between two questions. The gateway itself waits a moment before it answers that something is missing.
const PAUSE: Duration = Duration::from_millis(20);

/// Names of gateways.
pub(super) type Gateways = BTreeSet<String>;

/// The gateways of the fleet. None if there is no fleet, or the caller may not look.
pub(super) async fn gateways(client: &AdminClient) -> Result<Option<Gateways>, AdminError> {
    match client.call(Method::GET, "/v1/status", None).await {
        Ok(status) => {
            let members = status.pointer("/fleet/members").and_then(Value::as_array);
            let names = |members: &Vec<Value>| {
                let name = |member: &Value| Some(member.get("name")?.as_str()?.to_owned());
                members.iter().filter_map(name).collect()
            };
            Ok(members.map(names))
        }
        Err(AdminError::Refused { status, .. }) if status == StatusCode::FORBIDDEN => Ok(None),
        Err(error) => Err(error),
    }
}

/// How far one rule has come.
#[derive(Debug, PartialEq, Eq)]
struct Spread {
    relayed: bool,
    /// On how many gateways it is in force, of how many.
    applied: (u64, u64),
    /// The others.
    pending: Gateways,
}

impl Spread {
    /// From the part `fleet` of an answer, and the part that says where the rule is in force.
    fn new(fleet: &Value, applied: Option<&Value>) -> Self {
        let number = |name: &str| applied.and_then(|applied| applied.get(name)?.as_u64());
        let pending = fleet.get("pending").and_then(Value::as_array);
        Self {
            relayed: fleet.get("relayed") == Some(&Value::Bool(true)),
            applied: (
                number("gateways").unwrap_or_default(),
                number("of").unwrap_or_default(),
            ),
            pending: pending
                .into_iter()
                .flatten()
                .filter_map(|name| Some(name.as_str()?.to_owned()))
                .collect(),
        }
    }

    fn is_everywhere(&self) -> bool {
        self.relayed && self.pending.is_empty()
    }
}

/// Follows the rule of this answer to `POST /v1/revocations`, which was asked for at `begun`, until it is in force on each of the
/// `gateways` or `timeout` is over.
pub(super) async fn follow(
    client: &AdminClient,
    mut gateways: Gateways,
    answer: &Value,
    (begun, timeout): (Instant, Duration),
    out: &mut dyn Write,
) -> Result<Verdict, Failure> {
    let id = answer.pointer("/rules/0/id").and_then(Value::as_str);
    let path = rule_path(id.unwrap_or_default());
    let fleet = &answer["fleet"];
    let mut now = Spread::new(fleet, answer.pointer("/rules/0/applied"));
    loop {
        let reached: Vec<&str> = gateways
            .difference(&now.pending)
            .map(String::as_str)
            .collect();
        if !reached.is_empty() {
            let (names, (on, of)) = (reached.join(", "), now.applied);
            let after = begun.elapsed().as_millis();
            let line = format!("in force on {names} ({on} of {of}) after {after} ms");
            writeln!(out, "{}", print::harmless(&line))?;
            out.flush()?;
        }
        if now.is_everywhere() {
            return Ok(Verdict::Good);
        }
        if begun.elapsed() >= timeout {
            let names = now.pending.into_iter().collect::<Vec<_>>().join(", ");
            let end = match fleet.get("effective_by").and_then(Value::as_u64) {
                Some(at) => format!(
                    "none of them lets a request begin that the rule denies after {}, where on_stale = \"deny\"",
                    when::date(UnixSeconds(at))
                ),
                None => "the relay did not have it; it goes on its way by itself".to_owned(),
            };
            let line = format!("not yet on {names}: {end}");
            writeln!(out, "{}", print::harmless(&line))?;
            return Ok(Verdict::Bad);
        }
        gateways = now.pending;
        sleep(PAUSE).await;
        let rule = client.call(Method::GET, &path, None).await?;
        now = Spread::new(&rule["fleet"], rule.pointer("/fleet/applied"));
    }
}
