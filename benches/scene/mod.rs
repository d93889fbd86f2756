//! What a decision needs, without a network: one issuer with a key of each family, a route, empty tables. Shared by the
//! benches and by the test of the race.

pub(crate) mod log_file;
pub(crate) mod race;

#[path = "../../tests/it/support/keys.rs"]
mod keys;
#[path = "../../tests/it/support/tokens.rs"]
pub(crate) mod tokens;

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use jotgate::authorize::{
    Access, Bearer, Decision, Denied, Issuer, IssuerSet, Presented, Tables, decide,
};
use jotgate::base::clock::{Clock, UnixSeconds};
use jotgate::base::names::IssuerName;
use jotgate::denylist::{
    Cutoff, Fingerprint, Fingerprinter, Index, IndexWriter, Kind, Lease, Rule, Span, TokenKeys,
    Until, index,
};
use jotgate::identity::{HeaderMap as ClaimHeaders, HeaderMapping, OnUnmappable};
use jotgate::jwks::{Algorithm, KeySet, KeyTable, KeyTableWriter, RefreshGate};
use jotgate::policy::{Auth, OnStale, Requirement};
use jotgate::token::{ClaimNames, ClaimPath, Claims, Earlier, Places, Rules, TokenCache, Types};
use serde_json::{Value, json};

pub(crate) use self::keys::key;
pub(crate) use self::tokens::{NOW, Token};

/// The one issuer.
pub(crate) const ISSUER: &str = "https://id.example.com";

const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// Default of `token_cache.max_size`.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// Everything that [`decide`] reads.
pub(crate) struct Scene {
    pub(crate) access: Access,
    pub(crate) tables: Tables,
    pub(crate) writer: IndexWriter,
    /// Keeps the keys alive.
    _keys: KeyTableWriter,
}

impl Scene {
    /// Without rules, with room for that many.
    pub(crate) fn new(entries_max: usize) -> Self {
        let (index, writer) = index(entries_max);
        let (table, mut keys) = KeyTable::new();
        keys.publish(key_set(), UnixSeconds(NOW));
        let issuer = issuer(ISSUER, 1, table);
        Self {
            access: Access {
                auth: Auth::Required,
                issuers: std::iter::once(issuer).collect::<IssuerSet>(),
                places: Places {
                    authorization: true,
                    header: None,
                    cookie: None,
                    query: None,
                    forward: false,
                },
                requirement: Requirement::default(),
                on_stale: OnStale::Deny,
            },
            tables: Tables {
                tokens: TokenCache::new(CACHE_BYTES, Bearer::weight),
                denylist: index,
                fingerprinter: fingerprinter(),
                lease: Lease::unlimited(),
            },
            writer,
            _keys: keys,
        }
    }

    /// The verdict in one word.
    pub(crate) fn verdict(&self, headers: &HeaderMap) -> Result<(), Verdict> {
        let presented = Presented {
            headers,
            query: None,
            request: None,
            barred: None,
            stale: self.tables.lease.is_over(&Clock::system()),
        };
        match decide(&self.access, presented, &self.tables, UnixSeconds(NOW)).decision {
            Decision::Pass(_) => Ok(()),
            Decision::Deny(denied) => Err(Verdict::Denied(denied)),
            Decision::KeyUnknown(_) => Err(Verdict::KeyUnknown),
        }
    }
}

/// Why a request may not pass.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Denied(Denied),
    KeyUnknown,
}

/// The same in every scene.
pub(crate) fn fingerprinter() -> Fingerprinter {
    Fingerprinter::new(&[7; 16])
}

pub(crate) fn path(claim: &str) -> ClaimPath {
    ClaimPath::parse(claim).expect("a claim's name")
}

/// A key of each family.
pub(crate) fn key_set() -> KeySet {
    let keys: Vec<Value> = ALGORITHMS
        .iter()
        .map(|&algorithm| key(algorithm, 0).jwk())
        .collect();
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).expect("a key set")
}

/// An issuer whose tokens say `iss`, with the keys of that table.
pub(crate) fn issuer(iss: &str, id: usize, keys: Arc<KeyTable>) -> Arc<Issuer> {
    Arc::new(Issuer {
        name: IssuerName::new("id"),
        id,
        rules: rules(iss),
        headers: ClaimHeaders {
            claims: vec![HeaderMapping {
                header: http::HeaderName::from_static("x-user-id"),
                claim: path("sub"),
            }],
            payload: None,
            on_unmappable: OnUnmappable::Reject,
            size_max: 8 * 1024,
        },
        keys,
        refresh: RefreshGate::closed(),
    })
}

fn rules(issuer: &str) -> Rules {
    let paths = |names: [&str; 2]| names.map(path).to_vec();
    Rules {
        issuer: issuer.into(),
        audiences: vec!["orders".into()],
        algorithms: ALGORITHMS.to_vec(),
        leeway: Duration::from_secs(30),
        max_lifetime: Duration::from_hours(24),
        earlier: Earlier::default(),
        allow_missing_iat: false,
        types: Types {
            named: vec!["at+jwt".into(), "jwt".into()],
            absent: true,
        },
        require: vec![],
        names: ClaimNames {
            token_id: path("jti"),
            session_id: path("sid"),
            subject: path("sub"),
            client: paths(["client_id", "azp"]),
            scopes: paths(["scope", "scp"]),
        },
    }
}

/// A token with all six kinds of keys: some 300 bytes of claims, as identity providers write them.
pub(crate) fn token(algorithm: Algorithm, number: u64) -> Token {
    Token::new(
        key(algorithm, 0),
        ISSUER,
        "orders",
        &format!("user-{number}"),
    )
    .jti(&format!("5f0c2c1e-{number:012x}"))
    .sid(&format!("session-{number}"))
    .scope("openid profile orders:read orders:write")
    .claim("client_id", "web-shop")
}

/// A shared secret that signs.
pub(crate) fn hmac_key(algorithm: Algorithm, secret: &[u8]) -> Arc<keys::Key> {
    Arc::new(keys::Key::hmac("shared", algorithm, secret))
}

/// The headers of a request with that token.
pub(crate) fn bearer(token: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header's value");
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

/// A rule that denies whatever carries that value, and is kept.
pub(crate) fn rule(kind: Kind, value: &str) -> Rule {
    Rule {
        kind,
        fingerprint: fingerprinter().of(kind, ISSUER, value),
        pin: None,
        span: Span {
            cutoff: Cutoff::ALWAYS,
            until: Until::LIFTED,
        },
    }
}

/// The denylist's keys of a stranger whose six kinds have these names.
pub(crate) fn token_keys(number: u64) -> TokenKeys {
    let name = |kind: &str| Some(format!("{kind}-{number}").into_boxed_str());
    let claims = Claims {
        issuer: ISSUER.into(),
        audiences: vec![],
        expires: UnixSeconds(NOW + 300),
        not_before: None,
        issued: Some(UnixSeconds(NOW)),
        token_id: name("token"),
        session_id: name("session"),
        subject: name("user"),
        client: name("client"),
        scopes: vec![],
        all: Value::Null,
    };
    TokenKeys::of(&fingerprinter(), &claims, Some("key-0"), b"")
}

/// A table with rules of all six kinds, none of which denies [`token_keys`]. Most are of tokens, sessions and users, as in life.
pub(crate) fn filled(entries: usize) -> (Arc<Index>, IndexWriter) {
    let (index, mut writer) = index(entries);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let kinds = |number: usize| match number {
        0 => Kind::Issuer,
        number if number % 1000 == 1 => Kind::Client,
        number if number % 1000 == 2 => Kind::Key,
        number if number % 3 == 0 => Kind::Token,
        number if number % 3 == 1 => Kind::Session,
        _ => Kind::User,
    };
    let rules: Vec<Rule> = (0..entries)
        .map(|number| Rule {
            kind: kinds(number),
            fingerprint: random.fingerprint(),
            pin: None,
            span: Span {
                cutoff: Cutoff::at(UnixSeconds(NOW - 1)),
                until: Until::LIFTED,
            },
        })
        .collect();
    for batch in rules.chunks(100_000) {
        writer.apply(batch).expect("room");
    }
    (index, writer)
}

/// `xorshift64*`: fingerprints are as good as random, and making ten million of them must be quick.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn fingerprint(&mut self) -> Fingerprint {
        let high = u128::from(self.number());
        Fingerprint::from_bits((high << 64) | u128::from(self.number()))
    }
}
