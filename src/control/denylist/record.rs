//! What a rule means to people: whose, what, why, by whom.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::order::Order;
use super::standing::Standing;
use crate::base::clock::UnixSeconds;
use crate::denylist::{Cutoff, Fingerprint, Kind, Pin, Rule, SetAt, Span, Until};

/// Names a rule in the admin API: `user-0123456789abcdef0123456789abcdef`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId {
    /// First, so that the records of one shard of the index lie together.
    pub fingerprint: Fingerprint,
    /// What is revoked.
    pub kind: Kind,
}

impl RuleId {
    /// Reads what `Display` wrote, and no other spelling of it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, hex) = text.split_once('-')?;
        let id = Self {
            kind: Kind::parse(kind)?,
            fingerprint: Fingerprint::from_bits(u128::from_str_radix(hex, 16).ok()?),
        };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:032x}", self.kind, self.fingerprint.bits())
    }
}

impl Serialize for RuleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Who asked for a revocation, and by which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The caller's name in the configuration.
    pub by: Arc<str>,
    /// The way in.
    pub way: Way,
}

/// The ways in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `POST` and `DELETE` of `/v1/revocations`.
    AdminApi,
    /// A route with `logout = true`.
    Logout,
    /// `Jotgate-Revoke` in a service's answer.
    Service,
}

impl Way {
    /// The way's word in the audit line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AdminApi => "admin_api",
            Self::Logout => "logout",
            Self::Service => "service",
        }
    }
}

/// The session that a pin spares, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// As requests see it.
    pub pin: Pin,
    /// Its `sid`.
    pub session_id: Box<str>,
}

/// One rule as people see it. About 200 bytes in memory; with a log it stays on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The rule's key.
    pub id: RuleId,
    /// Whose token, session, user …
    pub issuer: Arc<str>,
    /// Which one. None for a whole issuer.
    pub value: Option<Box<str>>,
    /// The part that ends by itself and cannot be taken back.
    pub(super) ending: Option<Span>,
    /// The part that stays until it is lifted. Empty in pins, which stay by their nature.
    pub(super) standing: Standing,
    /// In pins, and in nothing else.
    pub pinned: Option<Pinned>,
    /// Why it was last changed, if somebody said it.
    pub reason: Option<Box<str>>,
    /// Who last changed it.
    pub by: Arc<str>,
    /// When it was last changed.
    pub at: UnixSeconds,
}

impl Record {
    pub(super) fn new(order: &Order, origin: &Origin, now: UnixSeconds) -> Self {
        let mut record = Self {
            id: order.id,
            issuer: Arc::clone(&order.issuer),
            value: order.value.clone(),
            ending: None,
            standing: Standing::default(),
            pinned: None,
            reason: order.reason.clone(),
            by: Arc::clone(&origin.by),
            at: now,
        };
        record.add(order, now);
        record
    }

    /// Merges one more order into the rule. What changes nothing leaves no trace.
    pub(super) fn merge(&mut self, order: &Order, origin: &Origin, now: UnixSeconds) {
        let before = self.clone();
        self.add(order, now);
        if !self.is_same_rule(&before) {
            self.reason = order.reason.clone().or(self.reason.take());
            self.by = Arc::clone(&origin.by);
            self.at = now;
        }
    }

    fn add(&mut self, order: &Order, now: UnixSeconds) {
        if let Some(spared) = &order.spared {
            // Also where the session stays the same: it is now newer than any that was pinned elsewhere meanwhile.
            let known = self.pinned.as_ref().map(|known| known.pin.set);
            self.pinned = Some(Pinned {
                pin: Pin {
                    set: SetAt::new(now, known),
                    session: spared.session,
                },
                session_id: spared.session_id.clone(),
            });
        }
        if self.id.kind == Kind::Pin {
            return;
        }
        if order.is_standing() {
            let set = |known| SetAt::new(now, known);
            self.standing.order(order.span.cutoff, set);
        } else {
            self.ending = Some(
                self.ending
                    .map_or(order.span, |span| span.merge(order.span)),
            );
        }
    }

    /// Keeps the part that ends by itself at least until tokens that it denies could not pass any more, if they may live for `life` after
    /// they were issued. A rule on one token ends with that, whoever made it.
    pub(super) fn last_for(&mut self, life: Duration) {
        if self.id.kind == Kind::Token {
            return;
        }
        if let Some(span) = &mut self.ending
            && span.cutoff != Cutoff::NEVER
        {
            let from = span.cutoff.instant().unwrap_or(self.at);
            span.until = span.until.max(Until::at(from.plus(life)));
        }
    }

    /// Takes over what another gateway knows of the same rule. What changes nothing leaves no trace.
    pub(super) fn absorb(&mut self, other: &Self) {
        let before = self.clone();
        self.ending = match (self.ending, other.ending) {
            (Some(ours), Some(theirs)) => Some(ours.merge(theirs)),
            (part, None) | (None, part) => part,
        };
        self.standing.merge(&other.standing);
        let newest = |pinned: &&Pinned| pinned.pin;
        let pinned = self.pinned.iter().chain(&other.pinned).max_by_key(newest);
        self.pinned = pinned.cloned();
        if !self.is_same_rule(&before) && other.at >= self.at {
            self.reason.clone_from(&other.reason);
            self.by = Arc::clone(&other.by);
            self.at = other.at;
        }
    }

    /// Whether both deny the same, as long, and came to it by the same orders. Who last changed it, and why, does not count.
    pub(super) fn is_same_rule(&self, other: &Self) -> bool {
        self.ending == other.ending
            && self.standing == other.standing
            && self.pinned == other.pinned
    }

    /// Whether part of it stays until it is lifted.
    #[must_use]
    pub fn is_standing(&self) -> bool {
        self.standing.cutoff().is_some()
            || self.pinned.as_ref().is_some_and(|it| !it.pin.is_lifted())
    }

    /// Whether all of it was lifted. It denies nothing and nobody sees it; it is there so that a gateway that missed the lift does
    /// not bring the rule back.
    #[must_use]
    pub fn is_lifted(&self) -> bool {
        let rule = self.rule();
        rule.span.cutoff == Cutoff::NEVER || rule.pin.is_some_and(|pin| pin.is_lifted())
    }

    /// The rule as requests see it: both parts at once.
    ///
    /// # Panics
    ///
    /// Never: a record starts with an order, which has one of the parts.
    #[must_use]
    pub fn span(&self) -> Span {
        span(self.ending, &self.standing, self.pinned.is_some())
            .expect("a record starts with an order")
    }

    /// The rule with its key.
    #[must_use]
    pub fn rule(&self) -> Rule {
        Rule {
            kind: self.id.kind,
            fingerprint: self.id.fingerprint,
            span: self.span(),
            pin: self.pinned.as_ref().map(|pinned| pinned.pin),
        }
    }

    /// What is left when the standing part is lifted at `now`: None, if that is nothing. `kept`: how long the lift itself must be
    /// remembered.
    pub(super) fn without_standing(&self, now: UnixSeconds, kept: Duration) -> Option<Self> {
        let mut rest = self.clone();
        rest.ending = self.ending.filter(|span| !span.until.is_over(now));
        if kept.is_zero() {
            rest.standing = Standing::default();
            rest.pinned = None;
            return rest.ending.is_some().then_some(rest);
        }
        if let Some(pinned) = &mut rest.pinned {
            // A pin that is set elsewhere meanwhile is newer.
            let set = pinned.pin.set.micros().saturating_add(1);
            pinned.pin = Pin {
                set: SetAt::from_micros(set),
                session: Pin::NOBODY,
            };
            pinned.session_id = "".into();
        } else {
            rest.standing.lift();
            let lift = Span {
                cutoff: Cutoff::NEVER,
                until: Until::at(now.plus(kept)),
            };
            rest.ending = Some(rest.ending.map_or(lift, |span| span.merge(lift)));
        }
        rest.at = now;
        Some(rest)
    }
}

/// The parts of a rule as one; None if it has none.
pub(super) fn span(ending: Option<Span>, standing: &Standing, is_pin: bool) -> Option<Span> {
    let standing = if is_pin {
        Some(Cutoff::ALWAYS)
    } else {
        standing.cutoff()
    };
    let standing = standing.map(|cutoff| Span {
        cutoff,
        until: Until::LIFTED,
    });
    match (ending, standing) {
        (Some(ending), Some(standing)) => Some(ending.merge(standing)),
        (part, None) | (None, part) => part,
    }
}

/// What became of one order.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The rule as it now is, or would be.
    pub record: Arc<Record>,
    /// Whether there was no rule with this key before.
    pub created: bool,
    /// Nothing was written.
    pub dry_run: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_in_one_spelling_only() {
        let id = RuleId {
            fingerprint: Fingerprint::from_bits(0xab),
            kind: Kind::Session,
        };
        let text = "session-000000000000000000000000000000ab";
        assert_eq!(id.to_string(), text);
        assert_eq!(RuleId::parse(text), Some(id));
        for wrong in [
            "",
            "session",
            "session-ab",
            "session-000000000000000000000000000000AB",
            "session-+00000000000000000000000000000ab",
            "sessions-000000000000000000000000000000ab",
            "session-0000000000000000000000000000000ab",
        ] {
            assert_eq!(RuleId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_rule_of_another_gateway_lasts_as_long_as_tokens_live_here() {
        let record = |kind, cutoff, until| Record {
            id: RuleId {
                fingerprint: Fingerprint::from_bits(1),
                kind,
            },
            issuer: "i".into(),
            value: None,
            ending: Some(Span {
                cutoff,
                until: Until::at(UnixSeconds(until)),
            }),
            standing: Standing::default(),
            pinned: None,
            reason: None,
            by: "b".into(),
            at: UnixSeconds(50),
        };
        let day = Duration::from_hours(24);
        let until = |kind, cutoff, until| {
            let mut record = record(kind, cutoff, until);
            record.last_for(day);
            record.span().until.instant().map(|at| at.0)
        };
        let at = |at| Cutoff::at(UnixSeconds(at));
        assert_eq!(until(Kind::User, at(100), 200), Some(100 + 86_400));
        assert_eq!(until(Kind::Session, Cutoff::ALWAYS, 200), Some(50 + 86_400));
        assert_eq!(until(Kind::User, at(100), 90_000), Some(90_000));
        assert_eq!(until(Kind::Token, Cutoff::ALWAYS, 200), Some(200));
        assert_eq!(until(Kind::User, Cutoff::NEVER, 200), Some(200));
    }
}
