//! What a look-up in the denylist costs, and what a decision costs by the path that it takes.
//!
//! `cargo bench --bench denylist` measures; `cargo bench --bench denylist -- --test` runs each once.

#![expect(clippy::unwrap_used, reason = "a bench fails like a test")]

#[expect(dead_code, reason = "each bench and test uses its part")]
mod scene;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use divan::Bencher;
use http::HeaderMap;
use jotgate::authorize::{Bearer, Denied};
use jotgate::denylist::{Index, Kind, TokenKeys};
use jotgate::jwks::Algorithm;
use jotgate::token::{Reject, TokenCache};
use scene::tokens::split;
use scene::{NOW, Scene, Verdict, bearer, filled, rule, token, token_keys};

fn main() {
    divan::main();
}

/// Tokens that are asked about in turn, so that the processor's cache holds no more of the table than in life.
const ASKED: u64 = 65_536;

fn strangers() -> Vec<TokenKeys> {
    (0..ASKED).map(token_keys).collect()
}

/// Whether this run only shows that everything runs.
fn is_trial() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// Six look-ups of a token that is not denied: the whole table is asked. 0 entries: every kind is empty.
#[divan::bench(args = [0, 100_000, 1_000_000, 10_000_000], sample_size = 1000)]
fn six_keys(bencher: Bencher<'_, '_>, entries: usize) {
    let entries = if is_trial() {
        entries.min(1000)
    } else {
        entries
    };
    let (index, _writer) = filled(entries);
    if entries >= 100_000 {
        let hundredths = index.bytes() * 100 / entries;
        println!(
            "{entries} entries: {}.{:02} bytes each",
            hundredths / 100,
            hundredths % 100
        );
    }
    let tokens = strangers();
    let mut next = tokens.iter().cycle();
    bencher
        .with_inputs(|| next.next().unwrap())
        .bench_local_values(|token| {
            let denied = index.check(black_box(token));
            assert!(denied.is_none());
        });
}

/// Only users are revoked: five of the six kinds cost one load each.
#[divan::bench(args = [100_000, 1_000_000, 10_000_000], sample_size = 1000)]
fn one_kind(bencher: Bencher<'_, '_>, entries: usize) {
    let entries = if is_trial() {
        entries.min(1000)
    } else {
        entries
    };
    let (index, mut writer) = jotgate::denylist::index(entries);
    let mut random = scene::Random(0x9e37_79b9_7f4a_7c15);
    let rules: Vec<_> = (0..entries)
        .map(|_| jotgate::denylist::Rule {
            fingerprint: random.fingerprint(),
            ..rule(Kind::User, "")
        })
        .collect();
    writer.apply(&rules).unwrap();
    drop(rules);
    let tokens = strangers();
    let mut next = tokens.iter().cycle();
    bencher
        .with_inputs(|| next.next().unwrap())
        .bench_local_values(|token| index.check(black_box(token)));
}

/// The token was clean at this epoch: nothing is looked up.
#[divan::bench]
fn clean_since(bencher: Bencher<'_, '_>) {
    let entries = if is_trial() { 1000 } else { 1_000_000 };
    let (index, _writer) = filled(entries);
    let (token, clean_at) = (token_keys(0), AtomicU64::new(Index::NEVER));
    assert!(index.is_denied_since(&token, &clean_at).is_none());
    bencher.bench_local(|| index.is_denied_since(black_box(&token), &clean_at));
}

/// The decision on one request again and again, which must be `expected`. The cache knows the token if `warm`.
fn decision(
    bencher: Bencher<'_, '_>,
    scene: &Scene,
    request: &HeaderMap,
    expected: &Result<(), Verdict>,
) {
    assert_eq!(scene.verdict(request), *expected);
    bencher.bench_local(|| {
        let verdict = scene.verdict(black_box(request));
        assert!(verdict.is_ok() == expected.is_ok());
    });
}

fn denied(reject: Reject) -> Result<(), Verdict> {
    Err(Verdict::Denied(Denied::Token(reject)))
}

#[divan::bench]
fn decide_cache_hit(bencher: Bencher<'_, '_>) {
    let request = bearer(&token(Algorithm::RS256, 0).sign());
    decision(bencher, &Scene::new(10), &request, &Ok(()));
}

/// The epoch has risen since: each decision looks six keys up among a million.
#[divan::bench]
fn decide_cache_hit_after_a_revocation(bencher: Bencher<'_, '_>) {
    let mut scene = Scene::new(10);
    let (index, _writer) = filled(if is_trial() { 1000 } else { 1_000_000 });
    scene.tables.denylist = Arc::clone(&index);
    let request = bearer(&token(Algorithm::RS256, 0).sign());
    bencher.bench_local(|| {
        index.raise_epoch();
        assert!(scene.verdict(black_box(&request)).is_ok());
    });
}

#[divan::bench(args = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA])]
fn decide_cache_miss(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let mut scene = Scene::new(10);
    // Without room for any.
    scene.tables.tokens = TokenCache::new(0, Bearer::weight);
    let request = bearer(&token(algorithm, 0).sign());
    bencher.bench_local(|| assert!(scene.verdict(black_box(&request)).is_ok()));
}

#[divan::bench(args = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA])]
fn decide_bad_signature(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let good = token(algorithm, 0).sign();
    let other = token(algorithm, 1).sign();
    let ([header, payload, _], [.., signature]) = (split(&good), split(&other));
    let request = bearer(&format!("{header}.{payload}.{signature}"));
    decision(
        bencher,
        &Scene::new(10),
        &request,
        &denied(Reject::SignatureInvalid),
    );
}

#[divan::bench]
fn decide_revoked_and_cached(bencher: Bencher<'_, '_>) {
    let mut scene = Scene::new(10);
    let request = bearer(&token(Algorithm::RS256, 0).sign());
    assert_eq!(scene.verdict(&request), Ok(()));
    scene
        .writer
        .apply(&[rule(Kind::Session, "session-0")])
        .unwrap();
    let expected = Err(Verdict::Denied(Denied::Revoked(Kind::Session)));
    decision(bencher, &scene, &request, &expected);
}

#[divan::bench]
fn decide_no_token(bencher: Bencher<'_, '_>) {
    let expected = Err(Verdict::Denied(Denied::NoToken));
    decision(bencher, &Scene::new(10), &HeaderMap::new(), &expected);
}

#[divan::bench]
fn decide_malformed(bencher: Bencher<'_, '_>) {
    decision(
        bencher,
        &Scene::new(10),
        &bearer("a.b.c"),
        &denied(Reject::Malformed),
    );
}

/// What needs no signature check is refused before it.
#[divan::bench(args = ["expired", "issuer", "audience", "algorithm", "key", "lifetime"])]
fn decide_cheap_rejection(bencher: Bencher<'_, '_>, what: &str) {
    let made = token(Algorithm::RS256, 0);
    let (made, expected) = match what {
        "expired" => (made.issued(NOW - 10_000), denied(Reject::Expired)),
        "issuer" => (
            made.claim("iss", "https://other"),
            denied(Reject::IssuerUnknown),
        ),
        "audience" => (made.claim("aud", "other"), denied(Reject::AudienceMismatch)),
        "algorithm" => (
            made.header("alg", "none"),
            denied(Reject::AlgorithmNotAllowed),
        ),
        "key" => (made.header("kid", "other"), Err(Verdict::KeyUnknown)),
        _ => (
            made.claim("exp", NOW + 1_000_000),
            denied(Reject::LifetimeTooLong),
        ),
    };
    let request = bearer(&made.sign());
    decision(bencher, &Scene::new(10), &request, &expected);
}
