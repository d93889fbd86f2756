//! How a request asks for a revocation: a logout, or the word of a service that is trusted. The way is bounded; the answer
//! comes when the revocation holds here as it does for the admin API.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::rule::{Fingerprint, Kind, TokenKeys};
use crate::base::clock::UnixSeconds;

/// Wishes that wait for the writer. Each holds a request back, so more of them help nobody.
const WISHES_WAITING_MAX: usize = 1024;

/// What shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The session, else the token.
    Session,
    /// Everything of the user up to now.
    User,
    /// Every other session of the user, until it is lifted.
    Others,
}

/// Where a wish came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wisher {
    /// A route with `logout = true` whose service answered 2xx.
    Logout,
    /// `Jotgate-Revoke` in an answer of a service that is trusted.
    Service,
}

impl Wisher {
    /// The word in audit lines and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Service => "service",
        }
    }
}

/// One wish: whose, what, and whom to answer.
#[derive(Debug)]
pub struct Wish {
    /// What shall end.
    pub scope: Scope,
    /// Who wishes it.
    pub wisher: Wisher,
    /// The route, for the audit line.
    pub route: Arc<str>,
    /// The bearer of the request.
    pub subject: WishSubject,
    /// Tells whether it holds.
    pub answer: oneshot::Sender<Result<(), WishRefused>>,
}

/// Whose session or account it is, as a verified token says.
#[derive(Clone, Debug)]
pub struct WishSubject {
    /// `iss`
    pub issuer: Arc<str>,
    /// Its fingerprints.
    pub keys: TokenKeys,
    /// The token's own identifier.
    pub token_id: Option<Box<str>>,
    /// The session's.
    pub session_id: Option<Box<str>>,
    /// The user's.
    pub subject: Option<Box<str>>,
    /// `exp`
    pub expires: UnixSeconds,
}

impl WishSubject {
    /// The fingerprint of one kind.
    #[must_use]
    pub fn key(&self, kind: Kind) -> Option<Fingerprint> {
        self.keys.key(kind)
    }
}

/// Nothing was revoked, or nothing that can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WishRefused {
    /// The token lacks the user or the session that the wish is about.
    #[error("the token does not say what shall be revoked")]
    Nothing,
    /// The denylist is full, or its log failed.
    #[error("the denylist takes no more rules")]
    Failed,
    /// It holds on this gateway for as long as its process lives: there is no log, and the relay did not take it.
    #[error("the relay did not take it, and there is no log that would keep it")]
    NotRelayed,
    /// The gateway is stopping, or too many wait.
    #[error("the denylist does not answer")]
    Away,
}

/// Where requests hand in their wishes. Clones share the desk.
#[derive(Clone, Debug)]
pub struct Desk(mpsc::Sender<Wish>);

/// The desk, and what its clerk receives.
#[must_use]
pub fn desk() -> (Desk, mpsc::Receiver<Wish>) {
    let (sender, receiver) = mpsc::channel(WISHES_WAITING_MAX);
    (Desk(sender), receiver)
}

impl Desk {
    /// Asks for a revocation and waits until it holds.
    pub async fn ask(
        &self,
        scope: Scope,
        wisher: Wisher,
        route: Arc<str>,
        subject: WishSubject,
    ) -> Result<(), WishRefused> {
        let (answer, answered) = oneshot::channel();
        let wish = Wish {
            scope,
            wisher,
            route,
            subject,
            answer,
        };
        self.0.try_send(wish).map_err(|_| WishRefused::Away)?;
        answered.await.unwrap_or(Err(WishRefused::Away))
    }
}
