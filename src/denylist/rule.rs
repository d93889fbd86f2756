//! One revocation as the gateway keeps it: a fingerprint of what is revoked, and two instants. A token is reduced to
//! at most six fingerprints once, when it is verified; from then on asking costs no hashing and no text.
//!
//! Merging two rules for one key is the larger of both numbers. So order, duplicates and replays do no harm, and
//! everything that carries rules (log, relay, admin API) may repeat itself. What rules mean to people (issuer, value,
//! reason) is kept by `control/denylist`.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::base::clock::UnixSeconds;
use crate::token::Claims;

/// What a rule revokes. The order is that of the looking up: the narrowest reason is named first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One token: issuer and `jti`; without `jti` its signing input.
    Token,
    /// One login: issuer and `sid`.
    Session,
    /// One user: issuer and `sub`.
    User,
    /// One application: issuer and `client_id` or `azp`.
    Client,
    /// One signing key: issuer and `kid`.
    Key,
    /// Everything of an issuer.
    Issuer,
    /// Every session of one user except one: issuer and `sub`.
    Pin,
}

/// How many kinds have keys of their own. A pin's key is its user's.
pub(super) const KEYS: usize = Kind::ALL.len() - 1;

impl Kind {
    /// Every kind, in the order of the looking up.
    pub const ALL: [Self; 7] = [
        Self::Token,
        Self::Session,
        Self::User,
        Self::Client,
        Self::Key,
        Self::Issuer,
        Self::Pin,
    ];

    /// The kind's word in the admin API, in logs and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Session => "session",
            Self::User => "user",
            Self::Client => "client",
            Self::Key => "key",
            Self::Issuer => "issuer",
            Self::Pin => "pin",
        }
    }

    /// The kind of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The place of its key in a token, below [`KEYS`].
    pub(super) const fn place(self) -> usize {
        self.form() as usize
    }

    /// Sets the keys of one kind apart from those of others.
    const fn form(self) -> u8 {
        match self {
            Self::Pin => Self::User as u8,
            Self::Token | Self::Session | Self::User | Self::Client | Self::Key | Self::Issuer => {
                self as u8
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// 128 bits that stand for a kind, an issuer and a value. Two different ones meet by chance about once in 2^64
/// rules, so nobody is locked out by accident.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint {
    pub(super) high: u64,
    pub(super) low: u64,
}

impl Fingerprint {
    /// As a number, for logs on disk and identifiers.
    #[must_use]
    pub const fn bits(self) -> u128 {
        ((self.high as u128) << 64) | self.low as u128
    }

    /// The fingerprint of that number.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower half is what is wanted"
    )]
    pub const fn from_bits(bits: u128) -> Self {
        Self {
            high: (bits >> 64) as u64,
            low: bits as u64,
        }
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.bits())
    }
}

/// Makes fingerprints: `SipHash-2-4` with 128 bits of output, keyed, so that nobody outside can construct two values with
/// one fingerprint. All gateways that share rules need the same salt.
#[derive(Clone, Copy)]
pub struct Fingerprinter {
    keyed: SipHasher24,
}

/// Sets the signing input of a token apart from the key of every [`Kind`].
const SIGNING_INPUT: u8 = 6;

impl Fingerprinter {
    /// Makes fingerprints with this salt, which comes from the operating system's randomness and is kept secret.
    #[must_use]
    pub fn new(salt: &[u8; 16]) -> Self {
        Self {
            keyed: SipHasher24::new_with_key(salt),
        }
    }

    /// The key of a rule. A rule on a whole issuer has the empty value.
    #[must_use]
    pub fn of(&self, kind: Kind, issuer: &str, value: &str) -> Fingerprint {
        self.hash(kind.form(), issuer, value.as_bytes())
    }

    /// The key of a token without `jti`: its `header.payload`, never the whole token. Signatures can be rewritten
    /// (ECDSA, lax base64) without changing a claim.
    #[must_use]
    pub fn of_signing_input(&self, issuer: &str, signing_input: &[u8]) -> Fingerprint {
        self.hash(SIGNING_INPUT, issuer, signing_input)
    }

    /// The issuer's length stands before it, and the value comes last: no two inputs give the same bytes.
    fn hash(&self, form: u8, issuer: &str, value: &[u8]) -> Fingerprint {
        let mut hasher = self.keyed;
        hasher.write(&[form]);
        hasher.write(&(issuer.len() as u64).to_le_bytes());
        hasher.write(issuer.as_bytes());
        hasher.write(value);
        let hash = hasher.finish128();
        Fingerprint {
            high: hash.h1,
            low: hash.h2,
        }
    }
}

impl fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprinter(..)")
    }
}

/// Cuts an instant to 32 bits, below the value that means "for ever". They last until the year 2106.
fn seconds(at: UnixSeconds) -> u32 {
    u32::try_from(at.0).map_or(u32::MAX - 1, |at| at.min(u32::MAX - 1))
}

/// The earliest instant of a cutoff and of a token, so that [`Cutoff::NEVER`] lies before every token.
const EARLIEST: u32 = 1;

/// Tokens issued at or before this instant are denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cutoff(pub(super) u32);

impl Cutoff {
    /// Denied whenever it was issued.
    pub const ALWAYS: Self = Self(u32::MAX);

    /// Denies nothing: what is left of a rule that was lifted, as long as somebody may still bring it back.
    pub const NEVER: Self = Self(0);

    /// Tokens issued at or before `at` are denied.
    #[must_use]
    pub fn at(at: UnixSeconds) -> Self {
        Self(seconds(at).max(EARLIEST))
    }

    /// The instant; None means always.
    #[must_use]
    pub fn instant(self) -> Option<UnixSeconds> {
        (self != Self::ALWAYS).then_some(UnixSeconds(u64::from(self.0)))
    }
}

/// After this instant the rule may be forgotten, because no token that it denies can still be valid. It says nothing
/// else: a rule denies for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Until(pub(super) u32);

impl Until {
    /// A standing order: kept until somebody lifts it.
    pub const LIFTED: Self = Self(u32::MAX);

    /// May be forgotten after `at`.
    #[must_use]
    pub fn at(at: UnixSeconds) -> Self {
        Self(seconds(at))
    }

    /// The instant; None means until lifted.
    #[must_use]
    pub fn instant(self) -> Option<UnixSeconds> {
        (self != Self::LIFTED).then_some(UnixSeconds(u64::from(self.0)))
    }

    /// Whether the rule may be forgotten at `now`.
    #[must_use]
    pub fn is_over(self, now: UnixSeconds) -> bool {
        self != Self::LIFTED && u64::from(self.0) < now.0
    }
}

/// The two instants of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// What is denied.
    pub cutoff: Cutoff,
    /// How long the rule is kept.
    pub until: Until,
}

impl Span {
    /// Both rules at once: the larger of each.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            cutoff: self.cutoff.max(other.cutoff),
            until: self.until.max(other.until),
        }
    }
}

/// When a pin or a standing order was set: microseconds since 1970. The clock counts whole seconds, so pins that one user gets
/// within a second are counted up from its beginning, and the later one stays the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetAt(u64);

impl SetAt {
    /// Now, and after the one that is there. Never 0.
    #[must_use]
    pub fn new(now: UnixSeconds, known: Option<Self>) -> Self {
        let now = now.0.saturating_mul(1_000_000).max(1);
        Self(known.map_or(now, |known| now.max(known.0.saturating_add(1))))
    }

    /// As a number, for logs on disk.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// The instant of that number.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }
}

/// The one session of a user that a pin spares. Of two pins the newer one counts; where replicas set two at the same
/// instant, the larger fingerprint, so that all of them agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// First, so that the newer one is the larger one.
    pub set: SetAt,
    /// The session's key; [`Pin::NOBODY`] where the pin was lifted.
    pub session: Fingerprint,
}

impl Pin {
    /// Stands in the place of a session when a pin was lifted: it denies nobody. No session has this key, but by a chance of 2^-128.
    pub const NOBODY: Fingerprint = Fingerprint { high: 0, low: 0 };

    /// Whether it was lifted.
    #[must_use]
    pub fn is_lifted(&self) -> bool {
        self.session == Self::NOBODY
    }
}

/// One revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What is revoked.
    pub kind: Kind,
    /// Which one, by [`Fingerprinter`].
    pub fingerprint: Fingerprint,
    /// Which of its tokens are denied, and how long the rule is kept.
    pub span: Span,
    /// Which session is spared: in rules of [`Kind::Pin`] and in no other.
    pub pin: Option<Pin>,
}

impl Rule {
    /// The rule that denies every session of a user but one, until it is lifted.
    #[must_use]
    pub const fn pin(user: Fingerprint, pin: Pin) -> Self {
        Self {
            kind: Kind::Pin,
            fingerprint: user,
            span: Span {
                cutoff: Cutoff::ALWAYS,
                until: Until::LIFTED,
            },
            pin: Some(pin),
        }
    }

    /// Whether it denies the token with these keys.
    #[must_use]
    pub fn denies(&self, token: &TokenKeys) -> bool {
        token.key(self.kind) == Some(self.fingerprint)
            && match self.pin {
                None => token.is_cut_off(self.span.cutoff),
                Some(pin) => token.is_other_session(pin),
            }
    }
}

/// All that the denylist needs to know of a token: at most one fingerprint of each kind, and when it was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenKeys {
    keys: [Fingerprint; KEYS],
    /// One bit for each key that the token has.
    present: u8,
    /// [`EARLIEST`] without `iat`: then every cutoff catches it.
    issued: u32,
}

impl TokenKeys {
    /// The keys of a token. `kid` is that of its header, `signing_input` its bytes `header.payload` as they came.
    #[must_use]
    pub fn of(
        fingerprinter: &Fingerprinter,
        claims: &Claims,
        kid: Option<&str>,
        signing_input: &[u8],
    ) -> Self {
        let issuer = &claims.issuer;
        let mut keys = Self {
            keys: Default::default(),
            present: 0,
            issued: claims
                .issued
                .map_or(EARLIEST, |at| seconds(at).max(EARLIEST)),
        };
        keys.set(
            Kind::Token,
            match &claims.token_id {
                Some(id) => fingerprinter.of(Kind::Token, issuer, id),
                None => fingerprinter.of_signing_input(issuer, signing_input),
            },
        );
        for (kind, value) in [
            (Kind::Session, claims.session_id.as_deref()),
            (Kind::User, claims.subject.as_deref()),
            (Kind::Client, claims.client.as_deref()),
            (Kind::Key, kid),
            (Kind::Issuer, Some("")),
        ] {
            if let Some(value) = value {
                keys.set(kind, fingerprinter.of(kind, issuer, value));
            }
        }
        keys
    }

    fn set(&mut self, kind: Kind, key: Fingerprint) {
        self.keys[kind.place()] = key;
        self.present |= 1 << kind.place();
    }

    /// What a stream is ended by: its session's rules where it has a session, because the token that opened it may be
    /// replaced by a newer one of the same session.
    #[must_use]
    pub fn of_session(mut self) -> Self {
        if self.key(Kind::Session).is_some() {
            self.present &= !(1 << Kind::Token.place());
        }
        self
    }

    /// The key of that kind, if the token has one.
    #[must_use]
    pub fn key(&self, kind: Kind) -> Option<Fingerprint> {
        (self.present & (1 << kind.place()) != 0).then(|| self.keys[kind.place()])
    }

    /// Every key, in the order of [`Kind::ALL`]. A user's is there twice: also for its pin.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, Fingerprint)> + '_ {
        Kind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, self.key(kind)?)))
    }

    /// Whether the token was issued at or before the cutoff. One without `iat` always was.
    #[must_use]
    pub const fn is_cut_off(&self, cutoff: Cutoff) -> bool {
        self.issued <= cutoff.0
    }

    /// Whether the token is of another session than the one that is spared, or of none.
    #[must_use]
    pub fn is_other_session(&self, pin: Pin) -> bool {
        !pin.is_lifted() && self.key(Kind::Session) != Some(pin.session)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::Value;

    use super::*;

    pub(in crate::denylist) const FINGERPRINTER: fn() -> Fingerprinter =
        || Fingerprinter::new(&[7; 16]);

    fn claims() -> Claims {
        Claims {
            issuer: "https://id".into(),
            audiences: vec![],
            expires: UnixSeconds(2000),
            not_before: None,
            issued: Some(UnixSeconds(1000)),
            token_id: Some("t1".into()),
            session_id: Some("s1".into()),
            subject: Some("alice".into()),
            client: Some("app".into()),
            scopes: vec![],
            all: Value::Null,
        }
    }

    fn rule(kind: Kind, value: &str, cutoff: Cutoff) -> Rule {
        Rule {
            kind,
            fingerprint: FINGERPRINTER().of(kind, "https://id", value),
            span: Span {
                cutoff,
                until: Until::LIFTED,
            },
            pin: None,
        }
    }

    fn keys(claims: &Claims) -> TokenKeys {
        TokenKeys::of(&FINGERPRINTER(), claims, Some("k1"), b"h.p")
    }

    #[test]
    fn every_kind_denies_its_own_value_and_no_other() {
        let keys = keys(&claims());
        for (kind, value) in [
            (Kind::Token, "t1"),
            (Kind::Session, "s1"),
            (Kind::User, "alice"),
            (Kind::Client, "app"),
            (Kind::Key, "k1"),
            (Kind::Issuer, ""),
        ] {
            assert!(rule(kind, value, Cutoff::ALWAYS).denies(&keys), "{kind}");
            assert!(!rule(kind, "other", Cutoff::ALWAYS).denies(&keys), "{kind}");
            let others = Kind::ALL.into_iter().filter(|other| *other != kind);
            for other in others.filter(|other| *other != Kind::Pin) {
                assert!(!rule(other, value, Cutoff::ALWAYS).denies(&keys), "{other}");
            }
        }
    }

    #[test]
    fn another_issuer_has_other_keys() {
        let mut elsewhere = claims();
        elsewhere.issuer = "https://other".into();
        let (here, elsewhere) = (keys(&claims()), keys(&elsewhere));
        assert_eq!(here.iter().count(), 7);
        for (kind, key) in here.iter() {
            assert_ne!(elsewhere.key(kind), Some(key), "{kind}");
        }
    }

    #[test]
    fn issuer_and_value_do_not_run_into_each_other() {
        let make = FINGERPRINTER();
        assert_ne!(
            make.of(Kind::User, "a", "bc"),
            make.of(Kind::User, "ab", "c")
        );
        assert_ne!(make.of(Kind::User, "a", ""), make.of(Kind::User, "", "a"));
    }

    #[test]
    fn a_token_id_is_not_a_signing_input() {
        let make = FINGERPRINTER();
        assert_ne!(
            make.of(Kind::Token, "a", "h.p"),
            make.of_signing_input("a", b"h.p")
        );
    }

    #[test]
    fn the_salt_changes_everything() {
        let other = Fingerprinter::new(&[8; 16]);
        assert_ne!(
            other.of(Kind::User, "a", "b"),
            FINGERPRINTER().of(Kind::User, "a", "b")
        );
    }

    #[test]
    fn the_encoding_stays() {
        // Logs on disk and other gateways hold fingerprints of this encoding: a change here loses every rule.
        assert_eq!(
            format!(
                "{:?}",
                FINGERPRINTER().of(Kind::User, "https://id", "alice")
            ),
            "1e225b522f21a52c42f687fe60ab8c53"
        );
    }

    #[test]
    fn without_a_token_id_the_signing_input_counts() {
        let mut without = claims();
        without.token_id = None;
        let make = FINGERPRINTER();
        let keys = |input: &[u8]| TokenKeys::of(&make, &without, None, input).key(Kind::Token);
        assert_eq!(
            keys(b"h.p"),
            Some(make.of_signing_input("https://id", b"h.p"))
        );
        assert_ne!(keys(b"h.p"), keys(b"h.q"));
    }

    #[test]
    fn a_claim_that_is_absent_has_no_key() {
        let mut bare = claims();
        bare.session_id = None;
        bare.subject = None;
        bare.client = None;
        let keys = TokenKeys::of(&FINGERPRINTER(), &bare, None, b"h.p");
        let kinds: Vec<_> = keys.iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [Kind::Token, Kind::Issuer]);
        assert!(!rule(Kind::User, "", Cutoff::ALWAYS).denies(&keys));
    }

    #[test]
    fn issued_at_the_cutoff_is_denied_and_one_second_later_is_not() {
        let keys = keys(&claims());
        let at = |at| rule(Kind::User, "alice", Cutoff::at(UnixSeconds(at)));
        assert!(!at(999).denies(&keys));
        assert!(at(1000).denies(&keys));
        assert!(at(1001).denies(&keys));
    }

    #[test]
    fn without_iat_every_cutoff_denies() {
        let mut undated = claims();
        undated.issued = None;
        assert!(rule(Kind::User, "alice", Cutoff::at(UnixSeconds(0))).denies(&keys(&undated)));
    }

    #[test]
    fn what_was_lifted_denies_nobody() {
        let (mut undated, mut first) = (claims(), claims());
        undated.issued = None;
        first.issued = Some(UnixSeconds(0));
        for claims in [claims(), undated, first] {
            assert!(!rule(Kind::User, "alice", Cutoff::NEVER).denies(&keys(&claims)));
            let pin = Pin {
                set: SetAt::new(UnixSeconds(1), None),
                session: Pin::NOBODY,
            };
            let user = FINGERPRINTER().of(Kind::Pin, "https://id", "alice");
            assert!(!Rule::pin(user, pin).denies(&keys(&claims)));
        }
        assert!(Cutoff::NEVER < Cutoff::at(UnixSeconds(0)));
    }

    #[test]
    fn a_date_beyond_32_bits_is_neither_always_nor_for_ever() {
        let far = UnixSeconds(u64::from(u32::MAX) + 5);
        assert_ne!(Cutoff::at(far), Cutoff::ALWAYS);
        assert_ne!(Until::at(far), Until::LIFTED);
        assert_ne!(Cutoff::at(UnixSeconds(u64::from(u32::MAX))), Cutoff::ALWAYS);
    }

    #[test]
    fn merging_takes_the_larger_of_each() {
        let span = |cutoff, until| Span {
            cutoff: Cutoff(cutoff),
            until: Until(until),
        };
        assert_eq!(span(5, 1).merge(span(2, 9)), span(5, 9));
        assert_eq!(span(2, 9).merge(span(5, 1)), span(5, 9));
    }

    #[test]
    fn a_rule_is_over_after_its_last_second_and_a_standing_one_never() {
        assert!(!Until(10).is_over(UnixSeconds(10)));
        assert!(Until(10).is_over(UnixSeconds(11)));
        assert!(!Until::LIFTED.is_over(UnixSeconds(u64::MAX)));
    }

    #[test]
    fn a_pin_denies_every_session_of_its_user_but_one() {
        let make = FINGERPRINTER();
        let pin = |user: &str, sid: &str| {
            let pin = Pin {
                set: SetAt::new(UnixSeconds(1), None),
                session: make.of(Kind::Session, "https://id", sid),
            };
            Rule::pin(make.of(Kind::Pin, "https://id", user), pin)
        };
        assert!(!pin("alice", "s1").denies(&keys(&claims())), "the one");
        assert!(pin("alice", "s2").denies(&keys(&claims())));
        assert!(!pin("bob", "s2").denies(&keys(&claims())), "another user");
        let mut without = claims();
        without.session_id = None;
        assert!(pin("alice", "s1").denies(&keys(&without)), "no session");
        // However new it is.
        let mut newer = claims();
        newer.issued = Some(UnixSeconds(u64::from(u32::MAX)));
        assert!(pin("alice", "s2").denies(&keys(&newer)));
    }

    #[test]
    fn the_newer_pin_is_the_larger_one_also_within_a_second() {
        let now = UnixSeconds(5);
        let first = SetAt::new(now, None);
        let second = SetAt::new(now, Some(first));
        assert!(first < second);
        assert!(second < SetAt::new(UnixSeconds(6), Some(second)));
        // A clock that was put back does not let the old session win.
        assert!(second < SetAt::new(UnixSeconds(1), Some(second)));
        let pin = |set, session| Pin {
            set,
            session: Fingerprint::from_bits(session),
        };
        assert!(pin(first, 9) < pin(second, 1));
        assert!(pin(first, 1) < pin(first, 9), "and never equal");
    }

    #[test]
    fn words_and_numbers_come_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse("Token"), None);
        let fingerprint = FINGERPRINTER().of(Kind::User, "a", "b");
        assert_eq!(Fingerprint::from_bits(fingerprint.bits()), fingerprint);
    }
}
