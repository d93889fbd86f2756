//! Who calls the admin API, and what they may do.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::problem::Problem;
use crate::base::secret::{ExposeSecret, Secret, equal};
use crate::config::settings::{AdminToken, Role};

/// One who may call.
pub(super) struct Caller {
    /// For the audit line.
    pub(super) name: Arc<str>,
    secret: Secret,
    roles: Vec<Role>,
}

/// All who may call.
pub(super) struct Callers(Vec<Caller>);

impl Callers {
    pub(super) fn new(tokens: Vec<AdminToken>) -> Self {
        Self(
            tokens
                .into_iter()
                .map(|token| Caller {
                    name: token.name.into(),
                    secret: token.secret,
                    roles: token.roles,
                })
                .collect(),
        )
    }

    /// The caller whose secret the request carries, in `Authorization: Bearer` (RFC 6750 section 2.1).
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<&Caller, Problem> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Err(Problem::unauthenticated("Bearer realm=\"jotgate admin\""));
        };
        let unknown =
            || Problem::unauthenticated("Bearer realm=\"jotgate admin\", error=\"invalid_token\"");
        if values.next().is_some() {
            return Err(unknown());
        }
        let sent = bearer(value.as_bytes()).ok_or_else(unknown)?;
        // Every secret is compared, so that the time tells neither which one fits nor how far.
        let mut found = None;
        for caller in &self.0 {
            if equal(sent, caller.secret.expose_secret()) {
                found = Some(caller);
            }
        }
        found.ok_or_else(unknown)
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

    fn callers() -> Callers {
        let token = |name: &str, bytes: &[u8], roles| AdminToken {
            name: name.into(),
            secret: secret(bytes.to_vec()),
            roles,
        };
        Callers::new(vec![
            token("reader", b"0123456789abcdef", vec![Role::Read]),
            token(
                "ops",
                b"fedcba9876543210",
                vec![Role::Revoke, Role::Security],
            ),
        ])
    }

    #[track_caller]
    fn check(values: &[&str], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let callers = callers();
        let found = callers.identify(&headers).ok();
        assert_eq!(found.map(|caller| &*caller.name), expected, "{values:?}");
    }

    #[test]
    fn the_secret_names_the_caller() {
        check(&["Bearer 0123456789abcdef"], Some("reader"));
        check(&["bearer  fedcba9876543210 "], Some("ops"));
    }

    #[test]
    fn nothing_else_does() {
        check(&[], None);
        check(&["Bearer"], None);
        check(&["Bearer "], None);
        check(&["Bearer 0123456789abcde"], None);
        check(&["Bearer 0123456789abcdeF"], None);
        check(&["Bearer 0123456789abcdef0"], None);
        check(&["Basic 0123456789abcdef"], None);
        check(&["0123456789abcdef"], None);
        check(
            &["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"],
            None,
        );
    }

    #[test]
    fn no_role_includes_another() {
        let callers = callers();
        let (reader, ops) = (&callers.0[0], &callers.0[1]);
        assert!(reader.require(Role::Read).is_ok());
        assert!(reader.require(Role::Revoke).is_err());
        assert!(reader.require(Role::Security).is_err());
        assert!(ops.require(Role::Read).is_err());
        assert!(ops.require(Role::Security).is_ok());
    }
}
