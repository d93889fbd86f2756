//! Steps 6 to 12 of the life of a request.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::access::{Access, Issuer};
use super::bearer::Bearer;
use super::denied::Denied;
use crate::base::clock::UnixSeconds;
use crate::base::json::{Json, Node as _};
use crate::denylist::{Fingerprinter, Index, Lease};
use crate::jwks::KeysState;
use crate::policy::{self, Auth, Lacking, OnStale, Refused};
use crate::token::{Found, Reject, Spot, TokenCache, find, parse, verify};

/// What a request presents.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'r> {
    /// Its headers.
    pub headers: &'r HeaderMap,
    /// Its query, without the question mark.
    pub query: Option<&'r str>,
    /// What an expression may see of it. None: a route with one refuses.
    pub request: Option<&'r policy::Request<'r>>,
    /// For how long its sender, who has sent too many wrong tokens, gets no token checked that is not known to be good.
    pub barred: Option<Duration>,
    /// Whether the denylist may be too old: [`Lease::is_over`].
    pub stale: bool,
}

/// The tables in memory that every request reads.
#[derive(Debug)]
pub struct Tables {
    /// Tokens whose signatures are known.
    pub tokens: TokenCache<Bearer>,
    /// What is revoked.
    pub denylist: Arc<Index>,
    /// How the denylist names things.
    pub fingerprinter: Fingerprinter,
    /// For how long the denylist may be trusted.
    pub lease: Lease,
}

/// A decision and what is known of the token's issuer, for log and metrics.
#[derive(Debug)]
pub struct Decided<'a> {
    /// The issuer that the token names, if it is one of the route's.
    pub issuer: Option<&'a Arc<Issuer>>,
    /// Whether the verified-token cache knew the token; None if it was not asked.
    pub cached: Option<bool>,
    /// May it pass?
    pub decision: Decision,
}

/// May a request pass?
#[must_use]
#[derive(Debug)]
pub enum Decision {
    /// It may.
    Pass(Pass),
    /// It may not.
    Deny(Denied),
    /// No key has the token's `kid`. A fetch may bring it: ask [`Issuer::refresh`], then decide again.
    KeyUnknown(Arc<Issuer>),
}

/// A request that may pass.
#[derive(Debug)]
pub struct Pass {
    /// Who it is, and where the token was; None for a stranger on a public or optional route.
    pub bearer: Option<(Arc<Bearer>, Spot)>,
    /// The denylist may be too old to know whether the token is revoked, and the route lets it pass all the same.
    pub stale: bool,
}

impl Pass {
    /// Somebody whose token is not looked at, or who has none.
    pub const STRANGER: Self = Self {
        bearer: None,
        stale: false,
    };
}

/// Decides by what the request presents, what the route asks, and the tables as they are now.
pub fn decide<'a>(
    access: &'a Access,
    presented: Presented<'_>,
    tables: &Tables,
    now: UnixSeconds,
) -> Decided<'a> {
    let decided = |decision| Decided {
        issuer: None,
        cached: None,
        decision,
    };
    let stranger = Decision::Pass(Pass::STRANGER);
    match access.auth {
        Auth::Public => return decided(stranger),
        Auth::Required | Auth::Optional => {}
    }
    match find(&access.places, presented.headers, presented.query) {
        Found::One(token, spot) => decide_token(access, (&token, spot), presented, tables, now),
        Found::Nothing if access.auth == Auth::Optional => decided(stranger),
        Found::Nothing => decided(Decision::Deny(Denied::NoToken)),
        Found::Several => decided(Decision::Deny(Denied::TokenAmbiguous)),
        Found::Unreadable => decided(Decision::Deny(Denied::Token(Reject::Malformed))),
    }
}

fn decide_token<'a>(
    access: &'a Access,
    (token, spot): (&str, Spot),
    presented: Presented<'_>,
    tables: &Tables,
    now: UnixSeconds,
) -> Decided<'a> {
    let known = tables.tokens.find(token).and_then(|bearer| {
        let issuer = access.issuers.find(&bearer.claims.issuer)?;
        (bearer.issuer == issuer.id && bearer.key.is_live()).then_some((issuer, bearer))
    });
    let cached = Some(known.is_some());
    if let Some((issuer, _)) = &known
        && issuer.keys.is_overdue(now)
    {
        return Decided {
            issuer: Some(issuer),
            cached,
            decision: Decision::Deny(Denied::KeysUnavailable),
        };
    }
    if let (None, Some(wait)) = (&known, presented.barred) {
        return Decided {
            issuer: None,
            cached,
            decision: Decision::Deny(Denied::TooManyFailures(wait)),
        };
    }
    let (issuer, bearer) = match known {
        Some((issuer, bearer)) => match issuer.rules.check_claims(&bearer.claims, now) {
            Ok(()) => (issuer, bearer),
            // An expired token stays known, so that whoever goes on sending it is refused at the price of a look.
            Err(reject) => {
                return Decided {
                    issuer: Some(issuer),
                    cached,
                    decision: Decision::Deny(Denied::Token(reject)),
                };
            }
        },
        None => match check(access, token, tables, now) {
            Ok(checked) => checked,
            Err((issuer, decision)) => {
                return Decided {
                    issuer,
                    cached,
                    decision,
                };
            }
        },
    };
    Decided {
        issuer: Some(issuer),
        cached,
        decision: allow(access, &bearer, presented, tables).map_or_else(Decision::Deny, |()| {
            Decision::Pass(Pass {
                bearer: Some((bearer, spot)),
                stale: presented.stale,
            })
        }),
    }
}

/// Steps 7 to 9 for a token that is not known: form, issuer, rules, key, signature.
#[expect(
    clippy::type_complexity,
    reason = "two small pairs say more than two more types"
)]
fn check<'a>(
    access: &'a Access,
    token: &str,
    tables: &Tables,
    now: UnixSeconds,
) -> Result<(&'a Arc<Issuer>, Arc<Bearer>), (Option<&'a Arc<Issuer>>, Decision)> {
    let deny = |issuer, denied| (issuer, Decision::Deny(denied));
    let mut room = vec![];
    let parsed = parse(token, &mut room).map_err(|reject| deny(None, Denied::Token(reject)))?;
    let issuer = match parsed.payload.member("iss") {
        Some(Json::Text(iss)) => access.issuers.find(iss),
        Some(_) | None => return Err(deny(None, Denied::Token(Reject::ClaimMalformed))),
    }
    .ok_or_else(|| deny(None, Denied::Token(Reject::IssuerUnknown)))?;
    let (signing_input, payload_segment) = (parsed.signing_input, parsed.payload_segment);
    let keys = issuer.keys.current();
    let keys = match &*keys {
        KeysState::Loaded(keys) if !issuer.keys.is_overdue(now) => keys,
        KeysState::Loaded(_) | KeysState::NotLoaded | KeysState::Stale => {
            return Err(deny(Some(issuer), Denied::KeysUnavailable));
        }
    };
    let verdict = verify(parsed, &issuer.rules, keys, now).map_err(|reject| {
        let decision = match reject {
            Reject::KeyUnknown => Decision::KeyUnknown(Arc::clone(issuer)),
            other => Decision::Deny(Denied::Token(other)),
        };
        (Some(issuer), decision)
    })?;
    let bearer = Arc::new(Bearer::new(
        issuer,
        verdict,
        signing_input,
        payload_segment,
        &tables.fingerprinter,
    ));
    tables.tokens.remember(token, Arc::clone(&bearer));
    Ok((issuer, bearer))
}

/// Steps 10 to 12: denylist, requirements, headers.
fn allow(
    access: &Access,
    bearer: &Bearer,
    presented: Presented<'_>,
    tables: &Tables,
) -> Result<(), Denied> {
    if let Some(kind) = tables
        .denylist
        .is_denied_since(&bearer.revocation, &bearer.clean_at)
    {
        return Err(Denied::Revoked(kind));
    }
    // Only now: what is known to be revoked is, however old the rest.
    if presented.stale && access.on_stale == OnStale::Deny {
        return Err(Denied::DenylistStale);
    }
    policy::check(&bearer.claims, &access.requirement, presented.request).map_err(|lacking| {
        match lacking {
            Lacking::Scope => Denied::ScopeLacking,
            Lacking::Claim => Denied::ClaimLacking,
            Lacking::Expression(Refused::False) => Denied::ExpressionFalse,
            Lacking::Expression(Refused::Failed) => Denied::ExpressionFailed,
        }
    })?;
    match bearer.headers {
        Ok(_) => Ok(()),
        Err(_) => Err(Denied::ClaimsUnmappable),
    }
}
