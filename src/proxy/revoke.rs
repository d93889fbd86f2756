//! Revocations that a request causes: a logout that the service has confirmed, and the word of a service that is trusted.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};

use crate::authorize::Bearer;
use crate::denylist::{Scope, WishSubject, Wisher};
use crate::http::headers::{JOTGATE_REVOKE, single};
use crate::plan::Route;

/// A service's own words to the gateway. None of them reaches a client.
const OWN_PREFIX: &str = "jotgate-";

/// How long an answer waits for the revocation that it causes.
pub(super) const REVOKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The service's word cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WordFault;

/// What an answer to `method` asks to end. A logout counts when the service confirms it: with 2xx, over gRPC with status 0
/// as well; `HEAD` and `OPTIONS` log nobody out.
pub(super) fn wish(
    route: &Route,
    method: &Method,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Option<(Scope, Wisher)>, WordFault> {
    if route.trust_revoke_header {
        let word = single(headers, &JOTGATE_REVOKE).map_err(|_| WordFault)?;
        match word.map(http::HeaderValue::as_bytes) {
            None => {}
            Some(b"session") => return Ok(Some((Scope::Session, Wisher::Service))),
            Some(b"user") => return Ok(Some((Scope::User, Wisher::Service))),
            Some(b"others") => return Ok(Some((Scope::Others, Wisher::Service))),
            Some(_) => return Err(WordFault),
        }
    }
    let asks = !matches!(*method, Method::HEAD | Method::OPTIONS);
    // An error over gRPC has HTTP status 200, and its own in the head when there is no message.
    let fails = headers
        .get("grpc-status")
        .is_some_and(|status| status != "0");
    let confirmed = asks && status.is_success() && !fails;
    Ok((route.logout && confirmed).then_some((Scope::Session, Wisher::Logout)))
}

/// Whose session it is.
pub(super) fn subject(bearer: &Bearer) -> WishSubject {
    let claims = &bearer.claims;
    WishSubject {
        issuer: Arc::from(&*claims.issuer),
        keys: bearer.revocation,
        token_id: claims.token_id.clone(),
        session_id: claims.session_id.clone(),
        subject: claims.subject.clone(),
        expires: claims.expires,
    }
}

/// Removes what is between the service and the gateway.
pub(super) fn drop_own_words(headers: &mut HeaderMap) {
    let own: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(OWN_PREFIX))
        .cloned()
        .collect();
    for name in own {
        headers.remove(name);
    }
}
