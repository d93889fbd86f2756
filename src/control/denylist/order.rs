//! What to revoke, and the rule that follows: which tokens it denies, and how long it must be kept.
//!
//! A rule may be forgotten only when no token that it denies can still be valid. That rests on the issuer's longest token life.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::record::RuleId;
use crate::base::clock::UnixSeconds;
use crate::denylist::{Cutoff, Fingerprint, Fingerprinter, Kind, Span, TokenKeys, Until};
use crate::token::{Bound, ClaimFault, Rules};

/// How long tokens of an issuer may live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerLife {
    /// As the claim `iss` says.
    pub issuer: Arc<str>,
    /// Longest `exp - iat`.
    pub max_lifetime: Duration,
    /// Clock skew allowed.
    pub leeway: Duration,
}

impl IssuerLife {
    /// Without its name.
    #[must_use]
    pub const fn bound(&self) -> Bound {
        Bound {
            max_lifetime: self.max_lifetime,
            leeway: self.leeway,
        }
    }

    /// How long a token may still pass after it was issued.
    pub(super) const fn whole(&self) -> Duration {
        self.bound().whole()
    }
}

impl From<&Rules> for IssuerLife {
    fn from(rules: &Rules) -> Self {
        Self {
            issuer: Arc::clone(&rules.issuer),
            max_lifetime: rules.max_lifetime,
            leeway: rules.leeway,
        }
    }
}

/// The issuers of the configuration.
#[derive(Debug, Default)]
pub struct Issuers(HashMap<Arc<str>, IssuerLife>);

impl Issuers {
    /// The issuer that the claim `iss` names.
    #[must_use]
    pub fn find(&self, issuer: &str) -> Option<&IssuerLife> {
        self.0.get(issuer)
    }

    /// The longest that a token of any of them may still pass after it was issued.
    #[must_use]
    pub fn longest_life(&self) -> Duration {
        self.0
            .values()
            .map(IssuerLife::whole)
            .max()
            .unwrap_or_default()
    }

    /// The same issuers, with the bounds of `lives` where those are wider.
    pub(super) fn widened(&self, lives: &[IssuerLife]) -> Self {
        let next: HashMap<&str, Bound> = lives
            .iter()
            .map(|life| (&*life.issuer, life.bound()))
            .collect();
        let widened = |life: &IssuerLife| {
            let bound = life.bound();
            let Bound {
                max_lifetime,
                leeway,
            } = next
                .get(&*life.issuer)
                .map_or(bound, |next| bound.wider(*next));
            IssuerLife {
                issuer: Arc::clone(&life.issuer),
                max_lifetime,
                leeway,
            }
        };
        self.0.values().map(widened).collect()
    }
}

impl FromIterator<IssuerLife> for Issuers {
    fn from_iter<I: IntoIterator<Item = IssuerLife>>(issuers: I) -> Self {
        Self(
            issuers
                .into_iter()
                .map(|life| (Arc::clone(&life.issuer), life))
                .collect(),
        )
    }
}

/// Reads a token that somebody wants to revoke or to ask about.
pub trait Tokens: Send + Sync {
    /// Parses the token as strictly as on a request and reads its claims with the issuer's names for them. It may be
    /// expired, and its key may be gone: revoking it is harmless.
    fn identify(&self, raw: &str) -> Result<IdentifiedToken, IdentifyFault>;
}

/// What revoking a token takes.
#[derive(Clone, Debug)]
pub struct IdentifiedToken {
    /// Its `iss`.
    pub issuer: Arc<str>,
    /// Its fingerprints.
    pub keys: TokenKeys,
    /// Its own identifier, if it has one.
    pub token_id: Option<Box<str>>,
    /// Its `exp`.
    pub expires: UnixSeconds,
}

/// Why a token cannot be revoked. No request with it would pass either.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyFault {
    /// Not a compact JWS as requests must carry it.
    #[error("is no well-formed token; write it whole, as a request carries it")]
    Malformed,
    /// Its `iss` is not configured.
    #[error("is of an issuer that is not configured here")]
    UnknownIssuer,
    /// A claim is not as it must be.
    #[error("has a fault: {0}")]
    Claims(#[from] ClaimFault),
}

/// The session that a pin spares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spared {
    /// Its key.
    pub session: Fingerprint,
    /// Its `sid`.
    pub session_id: Box<str>,
}

/// One revocation, computed and ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The rule's key.
    pub id: RuleId,
    /// Whose token, session, user …
    pub issuer: Arc<str>,
    /// Which one, for people to read. None for a whole issuer.
    pub value: Option<Box<str>>,
    /// What is denied, and how long the rule is kept.
    pub span: Span,
    /// In pins, and in nothing else.
    pub spared: Option<Spared>,
    /// Why, as the caller says.
    pub reason: Option<Box<str>>,
    /// Say what would be written, and write nothing.
    pub dry_run: bool,
}

impl Order {
    /// Revokes one token until nobody could use it any more.
    #[must_use]
    pub fn token(token: &IdentifiedToken, leeway: Duration) -> Option<Self> {
        let fingerprint = token.keys.key(Kind::Token)?;
        let value = token
            .token_id
            .clone()
            .unwrap_or_else(|| format!("{:032x}", fingerprint.bits()).into());
        Some(Self {
            id: RuleId {
                fingerprint,
                kind: Kind::Token,
            },
            issuer: Arc::clone(&token.issuer),
            value: Some(value),
            span: Span {
                cutoff: Cutoff::ALWAYS,
                until: Until::at(token.expires.plus(leeway)),
            },
            spared: None,
            reason: None,
            dry_run: false,
        })
    }

    /// Revokes what carries that name at the issuer.
    ///
    /// - A token or session is denied whatever its date.
    /// - Of a user, client or issuer, what was issued at or before `issued_before` (default: now).
    /// - `standing` keeps the rule until it is lifted, and without `issued_before` it denies what is issued later, too.
    /// - A key is standing by its nature: who stole it writes any date.
    ///
    /// What spares a session is left to [`Order::pin`]: here a pin is its user, of whom nothing is spared.
    #[must_use]
    pub fn named(
        fingerprinter: &Fingerprinter,
        issuer: &IssuerLife,
        (kind, value): (Kind, &str),
        issued_before: Option<UnixSeconds>,
        standing: bool,
        now: UnixSeconds,
    ) -> Self {
        let kind = if kind == Kind::Pin { Kind::User } else { kind };
        let lasting = |from: UnixSeconds| Until::at(from.plus(issuer.whole()));
        let span = match kind {
            Kind::Token | Kind::Session => Span {
                cutoff: Cutoff::ALWAYS,
                until: lasting(now),
            },
            Kind::User | Kind::Client | Kind::Key | Kind::Issuer | Kind::Pin => {
                if standing || kind == Kind::Key {
                    Span {
                        cutoff: issued_before.map_or(Cutoff::ALWAYS, Cutoff::at),
                        until: Until::LIFTED,
                    }
                } else {
                    let cutoff = issued_before.unwrap_or(now);
                    Span {
                        cutoff: Cutoff::at(cutoff),
                        until: lasting(cutoff),
                    }
                }
            }
        };
        Self {
            id: RuleId {
                fingerprint: fingerprinter.of(kind, &issuer.issuer, value),
                kind,
            },
            issuer: Arc::clone(&issuer.issuer),
            value: (kind != Kind::Issuer).then(|| value.into()),
            span,
            spared: None,
            reason: None,
            dry_run: false,
        }
    }

    /// Denies every session of the user but this one, whenever its tokens were issued, until it is lifted or another
    /// session takes its place.
    #[must_use]
    pub fn pin(
        fingerprinter: &Fingerprinter,
        issuer: &IssuerLife,
        user: &str,
        session_id: &str,
    ) -> Self {
        Self {
            id: RuleId {
                fingerprint: fingerprinter.of(Kind::Pin, &issuer.issuer, user),
                kind: Kind::Pin,
            },
            issuer: Arc::clone(&issuer.issuer),
            value: Some(user.into()),
            span: Span {
                cutoff: Cutoff::ALWAYS,
                until: Until::LIFTED,
            },
            spared: Some(Spared {
                session: fingerprinter.of(Kind::Session, &issuer.issuer, session_id),
                session_id: session_id.into(),
            }),
            reason: None,
            dry_run: false,
        }
    }

    /// Whether it stays until it is lifted.
    #[must_use]
    pub fn is_standing(&self) -> bool {
        self.span.until == Until::LIFTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_000_000);

    fn life() -> IssuerLife {
        IssuerLife {
            issuer: "https://id".into(),
            max_lifetime: Duration::from_hours(1),
            leeway: Duration::from_secs(30),
        }
    }

    #[track_caller]
    fn check(
        kind: Kind,
        issued_before: Option<u64>,
        standing: bool,
        (cutoff, until): (Option<u64>, Option<u64>),
    ) {
        let order = Order::named(
            &Fingerprinter::new(&[1; 16]),
            &life(),
            (kind, "x"),
            issued_before.map(UnixSeconds),
            standing,
            NOW,
        );
        let instants = (
            order.span.cutoff.instant().map(|at| at.0),
            order.span.until.instant().map(|at| at.0),
        );
        assert_eq!(instants, (cutoff, until));
        assert_eq!(order.is_standing(), until.is_none());
        assert_eq!(order.value.is_none(), kind == Kind::Issuer);
    }

    #[test]
    fn each_kind_has_the_cutoff_and_the_end_of_the_design() {
        let end = Some(NOW.0 + 3630);
        check(Kind::Token, None, false, (None, end));
        check(Kind::Session, None, false, (None, end));
        for kind in [Kind::User, Kind::Client, Kind::Issuer] {
            check(kind, None, false, (Some(NOW.0), end));
            check(kind, Some(500), false, (Some(500), Some(500 + 3630)));
            check(kind, None, true, (None, None));
            check(kind, Some(500), true, (Some(500), None));
        }
        check(Kind::Key, None, false, (None, None));
        check(Kind::Key, Some(500), false, (Some(500), None));
    }

    #[test]
    fn a_pin_stands_and_names_user_and_session() {
        let make = Fingerprinter::new(&[1; 16]);
        let order = Order::pin(&make, &life(), "alice", "s1");
        assert!(order.is_standing());
        assert_eq!(order.value.as_deref(), Some("alice"));
        assert_eq!(order.span.cutoff, Cutoff::ALWAYS);
        assert_eq!(order.id.kind, Kind::Pin);
        let user = make.of(Kind::User, "https://id", "alice");
        assert_eq!(order.id.fingerprint, user);
        let spared = order.spared.unwrap();
        assert_eq!(&*spared.session_id, "s1");
        assert_eq!(spared.session, make.of(Kind::Session, "https://id", "s1"));
    }

    #[test]
    fn a_token_rule_ends_with_the_token_and_never_shows_it() {
        let make = Fingerprinter::new(&[1; 16]);
        let claims = |token_id: Option<&str>| crate::token::Claims {
            issuer: "https://id".into(),
            audiences: vec![],
            expires: UnixSeconds(2000),
            not_before: None,
            issued: None,
            token_id: token_id.map(Box::from),
            session_id: None,
            subject: None,
            client: None,
            scopes: vec![],
            all: serde_json::Value::Null,
        };
        let order = |token_id: Option<&str>| {
            let token = IdentifiedToken {
                issuer: "https://id".into(),
                keys: TokenKeys::of(&make, &claims(token_id), None, b"head.pay"),
                token_id: token_id.map(Box::from),
                expires: UnixSeconds(2000),
            };
            Order::token(&token, Duration::from_secs(30)).unwrap()
        };
        let named = order(Some("t1"));
        assert_eq!(named.value.as_deref(), Some("t1"));
        assert_eq!(named.span.until.instant(), Some(UnixSeconds(2030)));
        assert_eq!(named.span.cutoff, Cutoff::ALWAYS);
        assert_eq!(
            named.id.fingerprint,
            make.of(Kind::Token, "https://id", "t1")
        );
        let nameless = order(None);
        let hash = make.of_signing_input("https://id", b"head.pay");
        assert_eq!(nameless.id.fingerprint, hash);
        assert_eq!(
            nameless.value.as_deref(),
            Some(&*format!("{:032x}", hash.bits()))
        );
    }
}
