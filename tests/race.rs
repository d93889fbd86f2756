//! Revoking and asking about the same token at the same time: after the acknowledgement not one request passes. Whole
//! decisions with the caches that requests use; `tests/it/revocation.rs` does the same over real connections.

#[path = "../benches/scene/mod.rs"]
#[expect(dead_code, reason = "each bench and test uses its part")]
mod scene;

use scene::race::{READERS, race};

/// Tokens that are revoked while they are asked about. `benches/revocation.rs` does a million.
const ROUNDS: usize = 50_000;

#[test]
fn after_the_acknowledgement_not_one_request_passes() {
    let outcome = race(ROUNDS);
    let all = (ROUNDS * READERS) as u64;
    assert_eq!(outcome.denied, all, "each reader was denied once a token");
    assert!(
        outcome.passed >= all,
        "each reader had passed before: {outcome:?}"
    );
}
