//! `jotgate revoke --wait fleet` for people: says on which gateways a rule is in force, as they say so.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use http::Method;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use super::admin_client::AdminClient;
use super::revoke::rule_path;
use super::{Failure, Verdict, print, when};
use crate::base::clock::UnixSeconds;

/// Between two questions. The gateway itself waits a moment before it answers that something is missing.
const PAUSE: Duration = Duration::from_millis(20);

/// Names of gateways.
pub(super) type Gateways = BTreeSet<String>;

/// The gateways of the fleet. None if there is no fleet, or it cannot be seen: the revocation does not depend on it.
pub(super) async fn gateways(client: &AdminClient) -> Option<Gateways> {
    let status = client.call(Method::GET, "/v1/status", None).await.ok()?;
    let members = status.pointer("/fleet/members")?.as_array()?;
    let name = |member: &Value| Some(member.get("name")?.as_str()?.to_owned());
    Some(members.iter().filter_map(name).collect())
}

/// How far everything has come that was acknowledged until now, the rule among it.
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
        let name = |name: &Value| Some(name.as_str()?.to_owned());
        Self {
            relayed: fleet.get("relayed") == Some(&Value::Bool(true)),
            applied: (
                number("gateways").unwrap_or_default(),
                number("of").unwrap_or_default(),
            ),
            pending: pending.into_iter().flatten().filter_map(name).collect(),
        }
    }
}

/// Lines for whoever reads them. Who has read enough still gets the exit code.
struct Lines<'a> {
    out: &'a mut dyn Write,
    failed: Option<io::Error>,
}

impl Lines<'_> {
    fn say(&mut self, line: &str) {
        if self.failed.is_none() {
            let said = writeln!(self.out, "{}", print::harmless(line));
            self.failed = said.and_then(|()| self.out.flush()).err();
        }
    }

    fn end(self, verdict: Verdict) -> Result<Verdict, Failure> {
        match self.failed {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(verdict),
        }
    }
}

/// Follows the rule of this answer to `POST /v1/revocations`, which was asked for at `begun`, until it is in force on each of the
/// `gateways` or `timeout` is over. Who comes later reads it before anything else, and is not waited for.
pub(super) async fn follow(
    client: &AdminClient,
    mut gateways: Gateways,
    answer: &Value,
    (begun, timeout): (Instant, Duration),
    out: &mut dyn Write,
) -> Result<Verdict, Failure> {
    let mut lines = Lines { out, failed: None };
    lines.say("revoked");
    let mut rule = answer.pointer("/rules/0").cloned().unwrap_or_default();
    // Where it is in force comes below.
    rule.as_object_mut()
        .map(|rule: &mut Map<_, _>| rule.remove("applied"));
    let mut text = vec![];
    print::lines(&mut text, &rule)?;
    lines.say(String::from_utf8_lossy(&text).trim_end());

    let id = rule.get("id").and_then(Value::as_str);
    let path = rule_path(id.unwrap_or_default());
    let fleet = &answer["fleet"];
    let mut now = Spread::new(fleet, answer.pointer("/rules/0/applied"));
    loop {
        // Something newer may be on its way while the rule has come far: that says nothing of it.
        if now.relayed {
            let (pending, reached): (Gateways, Gateways) = gateways
                .into_iter()
                .partition(|name| now.pending.contains(name));
            if !reached.is_empty() {
                let (names, (on, of)) = (listed(reached), now.applied);
                let after = begun.elapsed().as_millis();
                lines.say(&format!(
                    "in force on {names} ({on} of {of}) after {after} ms"
                ));
            }
            gateways = pending;
            if gateways.is_empty() {
                return lines.end(Verdict::Good);
            }
        }
        if begun.elapsed() >= timeout {
            let end = match fleet.get("effective_by").and_then(Value::as_u64) {
                Some(at) => format!(
                    "none of them lets a request begin that the rule denies after {}, where on_stale = \"deny\"",
                    when::date(UnixSeconds(at))
                ),
                None => "it goes on its way by itself, and nobody knows yet by when it is there"
                    .to_owned(),
            };
            lines.say(&format!("not yet on {}: {end}", listed(gateways)));
            return lines.end(Verdict::Bad);
        }
        sleep(PAUSE).await;
        let rule = client.call(Method::GET, &path, None).await?;
        now = Spread::new(&rule["fleet"], rule.pointer("/fleet/applied"));
    }
}

fn listed(names: Gateways) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}
