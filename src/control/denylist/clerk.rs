//! Serves the desk: wishes of requests become orders of the writer.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::order::{IdentifiedToken, Order};
use super::record::{Origin, Way};
use super::service::Revocations;
use super::writer::RevokeError;
use crate::denylist::{Kind, Scope, Wish, WishRefused, Wisher};

/// Answers wishes until `shutdown`; then those that wait are refused.
pub async fn serve_desk(
    mut wishes: mpsc::Receiver<Wish>,
    revocations: Revocations,
    shutdown: CancellationToken,
) {
    loop {
        let wish = tokio::select! {
            () = shutdown.cancelled() => return,
            wish = wishes.recv() => wish,
        };
        let Some(wish) = wish else { return };
        // One after the other would make each wait for the sync of all before it.
        let revocations = revocations.clone();
        tokio::spawn(async move {
            let answer = fulfil(&wish, &revocations).await;
            // Whoever asked may have gone away; the revocation holds all the same.
            let _ = wish.answer.send(answer);
        });
    }
}

async fn fulfil(wish: &Wish, revocations: &Revocations) -> Result<(), WishRefused> {
    let order = order(wish, revocations).ok_or(WishRefused::Nothing)?;
    let origin = Origin {
        by: Arc::clone(&wish.route),
        way: match wish.wisher {
            Wisher::Logout => Way::Logout,
            Wisher::Service => Way::Service,
        },
    };
    match revocations.revoke(vec![order], origin).await {
        Ok(_) => Ok(()),
        Err(RevokeError::Stopped(_)) => Err(WishRefused::Away),
        Err(_) => Err(WishRefused::Failed),
    }
}

fn order(wish: &Wish, revocations: &Revocations) -> Option<Order> {
    let subject = &wish.subject;
    let named = |kind: Kind, value: &Option<Box<str>>| {
        revocations.order(&subject.issuer, kind, value.as_deref()?)
    };
    match wish.scope {
        Scope::User => named(Kind::User, &subject.subject),
        Scope::Others => revocations.order_pin(
            &subject.issuer,
            subject.subject.as_deref()?,
            subject.session_id.as_deref()?,
        ),
        Scope::Session => named(Kind::Session, &subject.session_id).or_else(|| {
            let token = IdentifiedToken {
                issuer: Arc::clone(&subject.issuer),
                keys: subject.keys,
                token_id: subject.token_id.clone(),
                expires: subject.expires,
            };
            revocations.order_for(&token)
        }),
    }
}
