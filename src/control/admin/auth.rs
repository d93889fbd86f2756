//! Who calls the admin API, and what they may do: who has a secret of the configuration, and, if there is an issuer for it,
//! who has one of its tokens. Such a token is decided as on any request, denylist included.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::guesses::Guesses;
use super::problem::Problem;
use crate::authorize::{Access, Decision, Denied, Issuer, Presented, Tables, decide};
use crate::base::clock::{Clock, UnixSeconds};
use crate::base::secret::{ExposeSecret, Secret, equal};
use crate::config::settings::{AdminIssuer, AdminToken, Role};
use crate::jwks::RefreshOutcome;
use crate::policy::{Auth, OnStale, Requirement};
use crate::token::Places;

/// Longest time that a caller waits for a key that nobody knows yet.
const KEY_WAIT_MAX: Duration = Duration::from_secs(3);

/// One who may call.
#[derive(Clone)]
pub(super) struct Caller {
    /// For the audit line.
    pub(super) name: Arc<str>,
    roles: Vec<Role>,
}

/// All who may call.
pub(super) struct Callers {
    known: Vec<(Secret, Caller)>,
    /// Outlives the callers: a reload gives nobody new guesses.
    guesses: Arc<Guesses>,
    door: Option<Door>,
}

/// Lets in who has a token of one issuer.
#[derive(Debug)]
pub struct Door {
    access: Access,
    tables: Arc<Tables>,
    scopes: AdminIssuer,
    clock: Clock,
}

impl Door {
    /// The door for the tokens of this issuer.
    #[must_use]
    pub fn new(
        issuer: Arc<Issuer>,
        scopes: AdminIssuer,
        tables: Arc<Tables>,
        clock: Clock,
    ) -> Self {
        Self {
            access: Access {
                auth: Auth::Required,
                issuers: [issuer].into_iter().collect(),
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
            tables,
            scopes,
            clock,
        }
    }

    /// The caller whose token it is. A token that names nobody has no caller: the audit line needs a name.
    async fn identify(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let presented = Presented {
            headers,
            query: None,
            request: None,
            barred: None,
            stale: self.tables.lease.is_over(&self.clock),
        };
        let decide = || decide(&self.access, presented, &self.tables, self.clock.now()).decision;
        let mut decision = decide();
        if let Decision::KeyUnknown(issuer) = &decision {
            decision = match issuer.refresh.ask(KEY_WAIT_MAX).await {
                RefreshOutcome::Refreshed => decide(),
                RefreshOutcome::CoolingDown => decision,
                RefreshOutcome::Failed | RefreshOutcome::TimedOut | RefreshOutcome::TooMany => {
                    Decision::Deny(Denied::KeysUnavailable)
                }
            };
        }
        let bearer = match decision {
            Decision::Pass(pass) => pass.bearer,
            Decision::Deny(Denied::KeysUnavailable) => return Err(Problem::keys_unavailable()),
            Decision::Deny(Denied::DenylistStale) => return Err(Problem::denylist_stale()),
            Decision::Deny(_) | Decision::KeyUnknown(_) => None,
        };
        let (bearer, _) = bearer.ok_or_else(unknown)?;
        let name = bearer.claims.subject.as_deref().ok_or_else(unknown)?;
        let held = |scope: &str| bearer.claims.scopes.iter().any(|held| **held == *scope);
        let roles = [
            (Role::Read, &self.scopes.read),
            (Role::Revoke, &self.scopes.revoke),
            (Role::Security, &self.scopes.security),
        ];
        Ok(Caller {
            name: name.into(),
            roles: roles
                .into_iter()
                .filter(|(_, scope)| held(scope))
                .map(|(role, _)| role)
                .collect(),
        })
    }
}

fn unknown() -> Problem {
    Problem::unauthenticated("Bearer realm=\"jotgate admin\", error=\"invalid_token\"")
}

impl Callers {
    pub(super) fn new(tokens: Vec<AdminToken>, door: Option<Door>) -> Self {
        Self::with(tokens, door, Arc::new(Guesses::new()))
    }

    /// Those of a new configuration.
    pub(super) fn renewed(&self, tokens: Vec<AdminToken>, door: Option<Door>) -> Self {
        Self::with(tokens, door, Arc::clone(&self.guesses))
    }

    fn with(tokens: Vec<AdminToken>, door: Option<Door>, guesses: Arc<Guesses>) -> Self {
        let known = tokens.into_iter().map(|token| {
            let caller = Caller {
                name: token.name.into(),
                roles: token.roles,
            };
            (token.secret, caller)
        });
        Self {
            known: known.collect(),
            guesses,
            door,
        }
    }

    /// The caller whose secret or token the request from `client` carries, in `Authorization: Bearer` (RFC 6750 section
    /// 2.1). From an address that has sent too many wrong secrets only tokens are looked at: they cannot be guessed.
    pub(super) async fn identify(
        &self,
        headers: &HeaderMap,
        client: IpAddr,
        now: UnixSeconds,
    ) -> Result<Caller, Problem> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Err(Problem::unauthenticated("Bearer realm=\"jotgate admin\""));
        };
        if values.next().is_some() {
            return Err(unknown());
        }
        let sent = bearer(value.as_bytes()).ok_or_else(unknown)?;
        let barred = self.guesses.barred(client, now);
        if barred.is_none()
            && let Some(caller) = self.owner(sent)
        {
            return Ok(caller.clone());
        }
        let refused = match &self.door {
            Some(door) => match door.identify(headers).await {
                Ok(caller) => return Ok(caller),
                Err(refused) => refused,
            },
            None => unknown(),
        };
        // What cannot be checked was not wrong.
        if !refused.is_unauthenticated() {
            return Err(refused);
        }
        if let Some(wait) = barred {
            return Err(Problem::too_many_guesses(wait));
        }
        self.guesses.note(client, sent, now);
        Err(refused)
    }

    /// Whose secret it is. Every one is compared, so that the time tells neither which one fits nor how far.
    fn owner(&self, sent: &[u8]) -> Option<&Caller> {
        let mut found = None;
        for (secret, caller) in &self.known {
            if equal(sent, secret.expose_secret()) {
                found = Some(caller);
            }
        }
        found
    }
}

impl Caller {
    /// Refuses callers without the role. No role includes another.
    pub(super) fn require(&self, role: Role) -> Result<(), Problem> {
        if self.has(role) {
            return Ok(());
        }
        Err(match role {
            Role::Read => Problem::forbidden(
                "read",
                "Bearer realm=\"jotgate admin\", error=\"insufficient_scope\", scope=\"read\"",
            ),
            Role::Revoke => Problem::forbidden(
                "revoke",
                "Bearer realm=\"jotgate admin\", error=\"insufficient_scope\", scope=\"revoke\"",
            ),
            Role::Security => Problem::forbidden(
                "security",
                "Bearer realm=\"jotgate admin\", error=\"insufficient_scope\", scope=\"security\"",
            ),
        })
    }

    pub(super) fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// What follows the scheme, which is compared without case (RFC 9110 section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    let sent = rest.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !sent.is_empty()).then_some(sent)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::base::secret::secret;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const NOW: UnixSeconds = UnixSeconds(1_795_417_570);

    fn callers() -> Callers {
        let token = |name: &str, bytes: &[u8], roles| AdminToken {
            name: name.into(),
            secret: secret(bytes.to_vec()),
            roles,
        };
        Callers::new(
            vec![
                token("reader", b"0123456789abcdef", vec![Role::Read]),
                token(
                    "ops",
                    b"fedcba9876543210",
                    vec![Role::Revoke, Role::Security],
                ),
            ],
            None,
        )
    }

    async fn check(values: &[&str], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let callers = callers();
        let found = callers.identify(&headers, CLIENT, NOW).await.ok();
        let found = found.as_ref().map(|caller| &*caller.name);
        assert_eq!(found, expected, "{values:?}");
    }

    #[tokio::test]
    async fn the_secret_names_the_caller() {
        check(&["Bearer 0123456789abcdef"], Some("reader")).await;
        check(&["bearer  fedcba9876543210 "], Some("ops")).await;
    }

    #[tokio::test]
    async fn nothing_else_does() {
        check(&[], None).await;
        check(&["Bearer"], None).await;
        check(&["Bearer "], None).await;
        check(&["Bearer 0123456789abcde"], None).await;
        check(&["Bearer 0123456789abcdeF"], None).await;
        check(&["Bearer 0123456789abcdef0"], None).await;
        check(&["Basic 0123456789abcdef"], None).await;
        check(&["0123456789abcdef"], None).await;
        check(
            &["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"],
            None,
        )
        .await;
    }

    #[test]
    fn no_role_includes_another() {
        let callers = callers();
        let (reader, ops) = (&callers.known[0].1, &callers.known[1].1);
        assert!(reader.require(Role::Read).is_ok());
        assert!(reader.require(Role::Revoke).is_err());
        assert!(reader.require(Role::Security).is_err());
        assert!(ops.require(Role::Read).is_err());
        assert!(ops.require(Role::Security).is_ok());
    }
}
