//! Serves the desk: wishes of requests become orders of the writer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::order::{IdentifiedToken, Order};
use super::receipt::{Patience, Wait};
use super::record::{Origin, Way};
use super::service::Revocations;
use super::writer::RevokeError;
use crate::denylist::{Kind, Scope, Wish, WishRefused, Wisher};

/// A person waits for the answer to a logout. With a log the rule goes out later all the same; without, it is not acknowledged.
const PATIENCE: Patience = Patience {
    wait: Some(Wait::Relay),
    timeout: Duration::from_secs(1),
};

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
        Ok(written) => {
            let receipt = revocations.follow(written.sequence, PATIENCE).await;
            if revocations.is_kept(receipt.as_ref()) {
                Ok(())
            } else {
                Err(WishRefused::NotRelayed)
            }
        }
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

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::relay::testing::{FleetHand, fleet};
    use super::super::relay::{Relayed, Run};
    use super::super::service::testing::parts;
    use super::super::service::{Parts, revocations};
    use super::*;
    use crate::base::clock::{Clock, UnixSeconds};
    use crate::denylist::{Fingerprinter, TokenKeys, WishSubject, index};
    use crate::token::Claims;

    const NOW: UnixSeconds = UnixSeconds(1_795_417_570);

    /// A gateway without a log in a fleet.
    fn scene() -> (Revocations, FleetHand) {
        let (fleet, hand) = fleet("a".into(), Duration::from_secs(30));
        let clock = Clock::manual(NOW).0;
        let (revocations, writer) = revocations(Parts {
            fleet: Some(fleet),
            ..parts("https://id", index(10).1, clock)
        });
        tokio::spawn(writer.run(CancellationToken::new()));
        (revocations, hand)
    }

    fn wish() -> Wish {
        let claims = Claims {
            issuer: "https://id".into(),
            audiences: vec![],
            expires: UnixSeconds(NOW.0 + 60),
            not_before: None,
            issued: Some(NOW),
            token_id: None,
            session_id: Some("s".into()),
            subject: Some("alice".into()),
            client: None,
            scopes: vec![],
            all: serde_json::Value::Null,
        };
        Wish {
            scope: Scope::Session,
            wisher: Wisher::Logout,
            route: "r".into(),
            subject: WishSubject {
                issuer: "https://id".into(),
                keys: TokenKeys::of(&Fingerprinter::new(&[1; 16]), &claims, None, b"h.p"),
                token_id: None,
                session_id: Some("s".into()),
                subject: Some("alice".into()),
                expires: claims.expires,
            },
            answer: oneshot::channel().0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_log_a_logout_waits_for_the_relay() {
        let (revocations, mut hand) = scene();
        let began = tokio::time::Instant::now();
        let refused = fulfil(&wish(), &revocations).await;
        assert_eq!(refused, Err(WishRefused::NotRelayed));
        assert_eq!(began.elapsed(), PATIENCE.timeout);
        hand.relayed.send_replace(Relayed {
            sequence: 100,
            run: Run {
                server: "s".into(),
                epoch: "e".into(),
            },
            ..Relayed::default()
        });
        tokio::spawn(async move {
            while let Some(question) = hand.asked.recv().await {
                let _ = question.send(vec![]);
            }
        });
        assert_eq!(fulfil(&wish(), &revocations).await, Ok(()));
        assert_eq!(began.elapsed(), PATIENCE.timeout, "at once");
    }
}
