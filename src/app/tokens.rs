//! Raw tokens as the admin API receives them: taken apart as on a request, but not checked, because revoking or asking
//! about an expired token, or one whose key is gone, does no harm.

use std::sync::Arc;

use super::issuers::Members;
use crate::base::json::{Json, Node as _};
use crate::control::denylist::{IdentifiedToken, IdentifyFault, Tokens};
use crate::denylist::{Fingerprinter, TokenKeys};
use crate::token::{Claims, parse};

/// The tokens of the configured issuers.
pub(super) struct KnownTokens {
    pub(super) members: Members,
    pub(super) fingerprinter: Fingerprinter,
}

impl Tokens for KnownTokens {
    fn identify(&self, raw: &str) -> Result<IdentifiedToken, IdentifyFault> {
        let mut room = vec![];
        let parsed = parse(raw, &mut room).map_err(|_| IdentifyFault::Malformed)?;
        let iss = match parsed.payload.member("iss") {
            Some(Json::Text(iss)) => Some(&**iss),
            _ => None,
        };
        let members = self.members.load();
        let issuer = members
            .iter()
            .map(|member| &member.issuer)
            .find(|issuer| iss == Some(&*issuer.rules.issuer))
            .ok_or(IdentifyFault::UnknownIssuer)?;
        let signing_input = parsed.signing_input.as_bytes();
        let claims = Claims::read(&parsed.payload, &issuer.rules.names)?;
        Ok(IdentifiedToken {
            issuer: Arc::clone(&issuer.rules.issuer),
            keys: TokenKeys::of(
                &self.fingerprinter,
                &claims,
                parsed.kid.as_deref(),
                signing_input,
            ),
            token_id: claims.token_id,
            expires: claims.expires,
        })
    }
}
