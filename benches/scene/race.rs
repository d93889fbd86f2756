//! The race between revoking and asking: several threads ask about the very token that is revoked meanwhile. After the
//! acknowledgement nobody may pass.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use jotgate::authorize::Denied;
use jotgate::base::clock::UnixSeconds;
use jotgate::denylist::{IndexWriter, Kind, Rule, SHARDS, Span, Until};
use jotgate::jwks::Algorithm;

use super::{NOW, Random, Scene, Verdict, bearer, rule, token};

/// Threads that ask.
pub(crate) const READERS: usize = 3;

/// A reader lets others run after so many questions: with more threads than processors the writer would wait for its turn.
const YIELD: usize = 4;

/// Tokens that are signed at once. Each round uses one; none is used twice.
const BATCH: usize = 1000;

/// What happened.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Requests that passed. Each of them began before the acknowledgement.
    pub(crate) passed: u64,
    /// Requests that were denied although nobody had acknowledged yet: the rule was on its way.
    pub(crate) denied_early: u64,
    /// Requests that began after the acknowledgement. All were denied.
    pub(crate) denied: u64,
}

/// Revokes one token a round while [`READERS`] threads ask about it. Panics if a request passes that began after the
/// acknowledgement.
pub(crate) fn race(rounds: usize) -> Outcome {
    let mut scene = Scene::new(2 * rounds + BATCH);
    // The scene's own writer stays where it is: who reads has the scene, who writes has the writer.
    let (_, spare) = jotgate::denylist::index(1);
    let mut writer = std::mem::replace(&mut scene.writer, spare);
    let mut outcome = Outcome {
        passed: 0,
        denied_early: 0,
        denied: 0,
    };
    let mut random = Random(0x1234_5678_9abc_def1);
    for first in (0..rounds).step_by(BATCH) {
        let batch = BATCH.min(rounds - first);
        for part in batch_of(&scene, &mut writer, &mut random, first, batch) {
            outcome.passed += part.passed;
            outcome.denied_early += part.denied_early;
            outcome.denied += part.denied;
        }
    }
    outcome
}

fn batch_of(
    scene: &Scene,
    writer: &mut IndexWriter,
    random: &mut Random,
    first: usize,
    batch: usize,
) -> Vec<Outcome> {
    let requests: Vec<_> = (first..first + batch)
        .map(|number| bearer(&token(Algorithm::EdDSA, number as u64).sign()))
        .collect();
    let requests = &requests;
    let acknowledged = AtomicUsize::new(0);
    // How many tokens each reader has seen pass: nothing is revoked before all of them have it in their hands.
    let warm: [AtomicUsize; READERS] = [const { AtomicUsize::new(0) }; READERS];
    thread::scope(|scope| {
        let readers: Vec<_> = warm
            .iter()
            .map(|warm| {
                let acknowledged = &acknowledged;
                scope.spawn(move || {
                    let mut part = Outcome {
                        passed: 0,
                        denied_early: 0,
                        denied: 0,
                    };
                    for (round, request) in requests.iter().enumerate() {
                        for asked in 1.. {
                            let known = acknowledged.load(Ordering::SeqCst) > round;
                            let verdict = scene.verdict(request);
                            if asked % YIELD == 0 {
                                thread::yield_now();
                            }
                            match (known, verdict) {
                                (true, Err(Verdict::Denied(Denied::Revoked(_)))) => {
                                    part.denied += 1;
                                    break;
                                }
                                (false, Ok(())) => {
                                    part.passed += 1;
                                    warm.store(round + 1, Ordering::SeqCst);
                                }
                                (false, Err(Verdict::Denied(Denied::Revoked(_)))) => {
                                    part.denied_early += 1;
                                }
                                (known, verdict) => {
                                    // The writer must not wait for this thread for ever.
                                    warm.store(usize::MAX, Ordering::SeqCst);
                                    panic!(
                                        "round {}: {verdict:?}, acknowledged: {known}",
                                        first + round
                                    );
                                }
                            }
                        }
                    }
                    part
                })
            })
            .collect();
        for round in 0..batch {
            while warm.iter().any(|warm| warm.load(Ordering::SeqCst) <= round) {
                thread::yield_now();
            }
            // A rule that is over at once keeps the sweeps busy with the very tables that are read.
            let over = Rule {
                fingerprint: random.fingerprint(),
                span: Span {
                    until: Until::at(UnixSeconds(NOW - 1)),
                    ..rule(Kind::User, "").span
                },
                ..rule(Kind::User, "")
            };
            writer
                .apply(&[over, revoking(first + round)])
                .expect("room");
            acknowledged.store(round + 1, Ordering::SeqCst);
            writer.sweep((first + round) % SHARDS, UnixSeconds(NOW), |_, _| ());
        }
        readers
            .into_iter()
            .map(|reader| {
                reader
                    .join()
                    .expect("no request passes after its token was revoked")
            })
            .collect()
    })
}

/// By token, session and user in turn.
fn revoking(number: usize) -> Rule {
    match number % 3 {
        0 => rule(Kind::Token, &format!("5f0c2c1e-{number:012x}")),
        1 => rule(Kind::Session, &format!("session-{number}")),
        _ => rule(Kind::User, &format!("user-{number}")),
    }
}
