//! Whole key sources, against a provider on this machine.

use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::base::clock::ClockHand;
use crate::base::limits::JWKS_BYTES_MAX;
use crate::base::refusing::Refusing;
use crate::base::secret::secret;
use crate::http::client_tls::Files;
use crate::identity::{HeaderMap, OnUnmappable};
use crate::jwks::{KeysState, RefreshOutcome};
use crate::token::{ClaimNames, ClaimPath, Earlier, Rules, Types};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const HOUR: Duration = Duration::from_hours(1);
/// Long enough for a busy machine; a test that runs into it fails.
const LONG: Duration = Duration::from_mins(1);

/// A provider that answers with what it was told, and notes what it was asked.
struct Provider {
    url: String,
    inner: Arc<Inner>,
}

struct Inner {
    answers: Mutex<HashMap<String, String>>,
    asked: Mutex<Vec<String>>,
    held: watch::Sender<bool>,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner {
            answers: Mutex::default(),
            asked: Mutex::default(),
            held: watch::channel(false).0,
        });
        tokio::spawn({
            let inner = Arc::clone(&inner);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(Arc::clone(&inner).serve(stream));
                }
            }
        });
        Self { url, inner }
    }

    /// What `path` answers from now on: a status line's rest, header lines, and a body.
    fn answer(&self, path: &str, head: &str, body: &str) {
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let mut answers = self.inner.answers.lock().unwrap();
        answers.insert(path.to_owned(), answer);
    }

    fn publish(&self, keys: &[&Pair]) {
        self.answer("/keys", "200 OK", &jwks(keys));
    }

    fn asked(&self) -> Vec<String> {
        self.inner.asked.lock().unwrap().clone()
    }

    /// Whether it lets everybody wait for an answer.
    fn hold(&self, held: bool) {
        self.inner.held.send_replace(held);
    }

    fn keys_url(&self) -> KeySource {
        KeySource::Url(format!("{}/keys", self.url).parse().unwrap())
    }
}

impl Inner {
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return,
            }
        }
        let request = String::from_utf8(request).unwrap();
        let path = request.split(' ').nth(1).unwrap().to_owned();
        self.asked.lock().unwrap().push(path.clone());
        self.held.subscribe().wait_for(|held| !held).await.unwrap();
        let answer = self.answers.lock().unwrap().get(&path).cloned();
        let answer = answer.unwrap_or_else(|| "HTTP/1.1 404 No\r\n\r\n".to_owned());
        // The client may have given up.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

/// A key pair with a name.
struct Pair {
    kid: String,
    pair: Ed25519KeyPair,
}

impl Pair {
    fn new(kid: &str) -> Self {
        Self {
            kid: kid.to_owned(),
            pair: Ed25519KeyPair::generate().unwrap(),
        }
    }

    /// Whether the table's newest set verifies what this pair signs.
    fn is_trusted(&self, table: &KeyTable) -> bool {
        match &*table.current() {
            KeysState::Loaded(set) => {
                set.candidates(Some(&self.kid), Algorithm::EdDSA)
                    .any(|key| {
                        let signature = self.pair.sign(b"text");
                        key.is_live() && key.verify(Algorithm::EdDSA, b"text", signature.as_ref())
                    })
            }
            KeysState::NotLoaded | KeysState::Stale => false,
        }
    }

    fn pem(&self) -> String {
        let der = self.pair.public_key().as_der().unwrap();
        let body = STANDARD.encode(der.as_ref());
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }
}

fn jwks(keys: &[&Pair]) -> String {
    let entries: Vec<_> = keys
        .iter()
        .map(|Pair { kid, pair }| {
            let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
            format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"{x}"}}"#)
        })
        .collect();
    format!(r#"{{"keys":[{}]}}"#, entries.join(","))
}

/// No pause between asked fetches, and a long one between scheduled ones.
fn issuer(keys: KeySource) -> Issuer {
    let claim = |name| ClaimPath::parse(name).unwrap();
    Issuer {
        name: IssuerName::new("test"),
        rules: Rules {
            issuer: "https://id.example.com".into(),
            audiences: Vec::new(),
            algorithms: vec![Algorithm::EdDSA, Algorithm::RS256],
            leeway: Duration::ZERO,
            max_lifetime: HOUR,
            earlier: Earlier::default(),
            allow_missing_iat: false,
            types: Types {
                named: Vec::new(),
                absent: true,
            },
            require: Vec::new(),
            names: ClaimNames {
                token_id: claim("jti"),
                session_id: claim("sid"),
                subject: claim("sub"),
                client: Vec::new(),
                scopes: Vec::new(),
            },
        },
        keys,
        tls: Files::default(),
        insecure_http: false,
        refresh: 20 * HOUR,
        refresh_min_interval: Duration::ZERO,
        fetch_timeout: LONG,
        stale_max: 24 * HOUR,
        headers: HeaderMap {
            claims: Vec::new(),
            payload: None,
            on_unmappable: OnUnmappable::Omit,
            size_max: 0,
        },
    }
}

/// A running source. Dropping it ends its task.
struct Running {
    keys: IssuerKeys,
    hand: ClockHand,
    shutdown: CancellationToken,
    _end: tokio_util::sync::DropGuard,
}

impl Running {
    fn start(issuer: &Issuer, cache: Option<&Path>) -> Result<Self, KeySourceError> {
        let (clock, hand) = Clock::manual(NOW);
        let shutdown = CancellationToken::new();
        Ok(Self {
            keys: start(issuer, cache, &clock, &shutdown)?,
            hand,
            shutdown: shutdown.clone(),
            _end: shutdown.drop_guard(),
        })
    }

    /// Started, and the first attempt has ended.
    async fn tried(issuer: &Issuer, cache: Option<&Path>) -> Self {
        let running = Self::start(issuer, cache).unwrap();
        running.table().until_tried().await;
        running
    }

    fn table(&self) -> &KeyTable {
        &self.keys.table
    }

    async fn ask(&self) -> RefreshOutcome {
        self.keys.gate.ask(LONG).await
    }

    /// Ends the task and waits for it.
    async fn stop(mut self) {
        self.shutdown.cancel();
        self.keys.task.take().unwrap().await.unwrap();
    }
}

/// Lets (paused) time pass until `done`.
async fn until(done: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("it never happened");
}

#[tokio::test]
async fn a_rotated_key_replaces_the_old_one() {
    let (old, kept, new) = (Pair::new("old"), Pair::new("kept"), Pair::new("new"));
    let provider = Provider::start().await;
    provider.publish(&[&old, &kept]);
    let running = Running::tried(&issuer(provider.keys_url()), None).await;
    assert!(old.is_trusted(running.table()) && kept.is_trusted(running.table()));
    assert!(!new.is_trusted(running.table()));

    provider.publish(&[&kept, &new]);
    assert_eq!(running.ask().await, RefreshOutcome::Refreshed);
    assert!(new.is_trusted(running.table()) && kept.is_trusted(running.table()));
    assert!(!old.is_trusted(running.table()));
    let status = running.table().status();
    assert_eq!((status.fetches_ok, status.keys, status.edition), (2, 2, 2));
    assert_eq!(status.good_at, Some(NOW));
}

#[tokio::test]
async fn a_failed_or_bad_fetch_never_replaces_good_keys() {
    let key = Pair::new("a");
    let provider = Provider::start().await;
    provider.publish(&[&key]);
    let running = Running::tried(&issuer(provider.keys_url()), None).await;
    let elsewhere = format!("302 Found\r\nlocation: {}/other", provider.url);
    provider.answer("/other", "200 OK", &jwks(&[&Pair::new("b")]));
    let oversize = jwks(&[&Pair::new("b")]) + &" ".repeat(JWKS_BYTES_MAX);
    for (head, body) in [
        ("500 No", ""),
        ("404 No", ""),
        ("204 No", ""),
        (&*elsewhere, ""),
        ("200 OK", ""),
        ("200 OK", "<html>"),
        ("200 OK", r#"{"keys":[]}"#),
        ("200 OK", r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#),
        ("200 OK", &oversize),
    ] {
        provider.answer("/keys", head, body);
        assert_eq!(running.ask().await, RefreshOutcome::Failed, "{head}");
        assert!(key.is_trusted(running.table()), "{head}");
    }
    assert_eq!(running.table().status().edition, 1);
    assert!(!provider.asked().contains(&"/other".to_owned()));
}

#[tokio::test]
async fn a_slow_provider_meets_the_deadline() {
    let provider = Provider::start().await;
    provider.publish(&[&Pair::new("a")]);
    provider.hold(true);
    let mut issuer = issuer(provider.keys_url());
    issuer.fetch_timeout = Duration::from_millis(50);
    let running = Running::tried(&issuer, None).await;
    assert_eq!(running.table().status().fetches_failed, 1);
    assert!(matches!(*running.table().current(), KeysState::NotLoaded));
}

#[tokio::test]
async fn a_thousand_wishes_are_one_fetch() {
    let provider = Provider::start().await;
    provider.publish(&[&Pair::new("a")]);
    let running = Running::tried(&issuer(provider.keys_url()), None).await;
    provider.hold(true);
    let asks: Vec<_> = (0..1_000)
        .map(|_| {
            let gate = running.keys.gate.clone();
            tokio::spawn(async move { gate.ask(LONG).await })
        })
        .collect();
    while running.keys.gate.waiting() < 1_000 {
        tokio::task::yield_now().await;
    }
    provider.hold(false);
    for asked in asks {
        assert_eq!(asked.await.unwrap(), RefreshOutcome::Refreshed);
    }
    assert_eq!(provider.asked(), ["/keys", "/keys"]);
}

#[tokio::test]
async fn unknown_names_cost_a_provider_one_fetch_per_interval() {
    for (head, outcome) in [
        ("200 OK", RefreshOutcome::CoolingDown),
        ("500 No", RefreshOutcome::Failed),
    ] {
        let provider = Provider::start().await;
        provider.answer("/keys", head, &jwks(&[&Pair::new("a")]));
        let mut issuer = issuer(provider.keys_url());
        issuer.refresh_min_interval = HOUR;
        let running = Running::tried(&issuer, None).await;
        let before = provider.asked().len();
        for _ in 0..300 {
            assert_eq!(running.ask().await, outcome);
        }
        assert_eq!(provider.asked().len(), before);
    }
}

#[tokio::test]
async fn discovery_leads_to_the_keys() {
    let key = Pair::new("a");
    let provider = Provider::start().await;
    provider.publish(&[&key]);
    let keys = format!("{}/keys", provider.url);
    let document = |issuer: &str, uri: &str| {
        format!(r#"{{"issuer":"{issuer}","jwks_uri":"{uri}","scopes_supported":[]}}"#)
    };
    let source = KeySource::Discovery(format!("{}/.well-known", provider.url).parse().unwrap());
    let issuer = issuer(source);
    provider.answer(
        "/.well-known",
        "200 OK",
        &document("https://id.example.com", &keys),
    );
    let running = Running::tried(&issuer, None).await;
    assert!(key.is_trusted(running.table()));
    assert_eq!(provider.asked(), ["/.well-known", "/keys"]);

    let far = "http://id.example.com/keys";
    for bad in [
        document("https://id.example.com/", &keys),
        document("https://ID.example.com", &keys),
        document("https://id.example.com", far),
        document("https://id.example.com", "/keys"),
        document("https://id.example.com", "file:///etc/passwd"),
        format!(r#"{{"issuer":"https://id.example.com","jwks_uri":["{keys}"]}}"#),
        r#"{"issuer":"https://id.example.com"}"#.to_owned(),
        document("https://id.example.com", &keys) + &" ".repeat(64 * 1024),
    ] {
        provider.answer("/.well-known", "200 OK", &bad);
        assert_eq!(running.ask().await, RefreshOutcome::Failed, "{bad:.80}");
    }
    assert!(key.is_trusted(running.table()));
    let to_keys = provider
        .asked()
        .iter()
        .filter(|path| *path == "/keys")
        .count();
    assert_eq!(to_keys, 1);
}

#[tokio::test]
async fn a_discovery_document_does_not_lead_astray() {
    let key = Pair::new("a");
    let provider = Provider::start().await;
    provider.publish(&[&key]);
    let port = provider.url.rsplit(':').next().unwrap().to_owned();
    let source = KeySource::Discovery(format!("{}/.well-known", provider.url).parse().unwrap());
    let mut issuer = issuer(source);
    issuer.insecure_http = true;
    let document =
        |uri: &str| format!(r#"{{"issuer":"https://id.example.com","jwks_uri":"{uri}"}}"#);
    provider.answer(
        "/.well-known",
        "200 OK",
        &document(&format!("http://127.0.0.1:{port}/keys")),
    );
    let running = Running::tried(&issuer, None).await;
    assert!(key.is_trusted(running.table()));
    let asked = || {
        provider
            .asked()
            .iter()
            .filter(|path| *path == "/keys")
            .count()
    };
    assert_eq!(asked(), 1);
    // All of these reach the provider on this machine, where they are followed.
    for host in [
        "0.0.0.0",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "me:pw@127.0.0.1",
    ] {
        let uri = format!("http://{host}:{port}/keys");
        provider.answer("/.well-known", "200 OK", &document(&uri));
        assert_eq!(running.ask().await, RefreshOutcome::Failed, "{uri}");
    }
    assert_eq!(asked(), 1, "nobody was asked for keys again");
}

#[tokio::test]
async fn saved_keys_serve_while_the_provider_is_dead() {
    let key = Pair::new("a");
    let folder = tempfile::tempdir().unwrap();
    let provider = Provider::start().await;
    provider.publish(&[&key]);
    let settings = issuer(provider.keys_url());
    Running::tried(&settings, Some(folder.path()))
        .await
        .stop()
        .await;

    provider.answer("/keys", "500 No", "");
    let running = Running::tried(&settings, Some(folder.path())).await;
    assert_eq!(running.table().status().fetches_failed, 1);
    assert!(key.is_trusted(running.table()));
    running.stop().await;

    // Damaged: ignored, and replaced by the next good fetch.
    let saved = std::fs::read_dir(folder.path()).unwrap().next().unwrap();
    std::fs::write(saved.unwrap().path(), "{").unwrap();
    let running = Running::tried(&settings, Some(folder.path())).await;
    assert!(matches!(*running.table().current(), KeysState::NotLoaded));
    provider.publish(&[&key]);
    assert_eq!(running.ask().await, RefreshOutcome::Refreshed);
    running.stop().await;
    provider.answer("/keys", "500 No", "");
    let running = Running::tried(&settings, Some(folder.path())).await;
    assert!(key.is_trusted(running.table()));
}

#[tokio::test]
async fn a_dead_provider_harms_no_other_issuer() {
    let key = Pair::new("a");
    let (dead, alive) = (Provider::start().await, Provider::start().await);
    dead.hold(true);
    alive.publish(&[&key]);
    let stuck = Running::start(&issuer(dead.keys_url()), None).unwrap();
    let running = Running::tried(&issuer(alive.keys_url()), None).await;
    assert!(key.is_trusted(running.table()));
    assert!(!stuck.table().tried());
    stuck.stop().await;
}

#[tokio::test(start_paused = true)]
async fn keys_that_nobody_confirms_become_stale() {
    let key = Pair::new("a");
    let folder = tempfile::tempdir().unwrap();
    let nobody = Refusing::start();
    let url = format!("{}/keys", nobody.url());
    let settings = issuer(KeySource::Url(url.parse().unwrap()));
    let cache = Cache::new(folder.path(), &settings.rules.issuer, &url);
    let good_at = NOW.minus(23 * HOUR);
    cache
        .store(&settings.name, jwks(&[&key]).into(), good_at)
        .await;

    let running = Running::tried(&settings, Some(folder.path())).await;
    assert!(key.is_trusted(running.table()));
    assert_eq!(running.table().status().good_at, Some(good_at));
    tokio::time::sleep(3 * HOUR).await;
    assert!(key.is_trusted(running.table()), "the clock stands still");
    running.hand.advance(HOUR);
    until(|| matches!(*running.table().current(), KeysState::Stale)).await;
    assert_eq!(running.table().status().keys, 0);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_swapped_by_symlink_is_seen() {
    let (old, new) = (Pair::new("old"), Pair::new("new"));
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // As Kubernetes mounts a ConfigMap: file → ..data → a folder of this edition.
    for (edition, key) in [("..1", &old), ("..2", &new)] {
        std::fs::create_dir(at(edition)).unwrap();
        std::fs::write(at(edition).join("jwks.json"), jwks(&[key])).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/jwks.json", at("jwks.json")).unwrap();
    let running = Running::start(&issuer(KeySource::File(at("jwks.json"))), None).unwrap();
    assert!(running.table().tried());
    assert!(old.is_trusted(running.table()));
    assert_eq!(running.ask().await, RefreshOutcome::CoolingDown);

    symlink("..2", at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    until(|| new.is_trusted(running.table())).await;
    assert!(!old.is_trusted(running.table()));
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_never_replaces_good_keys_until_they_are_stale() {
    let (key, other) = (Pair::new("a"), Pair::new("b"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    // It may come later.
    let running = Running::start(&issuer(KeySource::File(path.clone())), None).unwrap();
    let table = running.table();
    assert!(matches!(*table.current(), KeysState::NotLoaded));
    std::fs::write(&path, jwks(&[&key])).unwrap();
    until(|| key.is_trusted(table)).await;

    let failures = table.status().fetches_failed;
    std::fs::write(&path, "{").unwrap();
    until(|| table.status().fetches_failed == failures + 1).await;
    std::fs::remove_file(&path).unwrap();
    until(|| table.status().fetches_failed == failures + 2).await;
    // The same trouble is told and counted once.
    tokio::time::sleep(LONG).await;
    assert_eq!(table.status().fetches_failed, failures + 2);
    assert!(key.is_trusted(table));

    running.hand.advance(24 * HOUR);
    until(|| matches!(*table.current(), KeysState::Stale)).await;
    std::fs::write(&path, jwks(&[&other])).unwrap();
    until(|| other.is_trusted(table)).await;
    assert!(!key.is_trusted(table));
}

#[tokio::test(start_paused = true)]
async fn a_good_file_that_never_changes_stays_good() {
    let key = Pair::new("a");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, jwks(&[&key])).unwrap();
    let running = Running::start(&issuer(KeySource::File(path)), None).unwrap();
    for _ in 0..3 {
        running.hand.advance(23 * HOUR);
        let now = NOW.plus(HOUR);
        until(|| running.table().status().good_at >= Some(now)).await;
        tokio::time::sleep(LONG).await;
    }
    assert!(key.is_trusted(running.table()));
    assert_eq!(running.table().status().edition, 1);
}

#[tokio::test(start_paused = true)]
async fn a_public_key_file_is_watched() {
    let (old, new) = (Pair::new("old"), Pair::new("new"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    std::fs::write(&path, old.pem()).unwrap();
    let running = Running::start(&issuer(KeySource::PublicKeyFile(path.clone())), None).unwrap();
    assert!(old.is_trusted(running.table()));
    std::fs::write(
        &path,
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    until(|| running.table().status().fetches_failed == 1).await;
    assert!(old.is_trusted(running.table()));
    std::fs::write(&path, new.pem()).unwrap();
    until(|| new.is_trusted(running.table())).await;
    assert!(!old.is_trusted(running.table()));
}

#[tokio::test]
async fn keys_of_the_configuration_are_there_at_once() {
    let key = Pair::new("a");
    let running = Running::start(&issuer(KeySource::Inline(jwks(&[&key]))), None).unwrap();
    assert!(running.table().tried() && running.keys.task.is_none());
    assert!(key.is_trusted(running.table()));
    assert_eq!(running.ask().await, RefreshOutcome::CoolingDown);

    let mut shared = issuer(KeySource::Secret(secret(vec![7; 48])));
    shared.rules.algorithms = vec![Algorithm::HS256, Algorithm::HS384];
    let running = Running::start(&shared, None).unwrap();
    assert_eq!(running.table().status().keys, 1);
}

#[tokio::test]
async fn what_can_never_work_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    let pem = || KeySource::PublicKeyFile(path.clone());
    let refused = |issuer: &Issuer| Running::start(issuer, None).err().unwrap();
    assert!(matches!(
        refused(&issuer(pem())),
        KeySourceError::PublicKeyFile(FileError::Read { .. })
    ));
    std::fs::write(&path, "no key").unwrap();
    assert!(matches!(
        refused(&issuer(pem())),
        KeySourceError::PublicKeyFile(FileError::Pem {
            source: KeyError::NotPem,
            ..
        })
    ));
    std::fs::write(&path, Pair::new("a").pem()).unwrap();
    let mut rsa_only = issuer(pem());
    rsa_only.rules.algorithms = vec![Algorithm::RS256];
    assert!(matches!(refused(&rsa_only), KeySourceError::NoKeyFits));
    rsa_only.keys = KeySource::Inline(jwks(&[&Pair::new("a")]));
    assert!(matches!(refused(&rsa_only), KeySourceError::NoKeyFits));
    assert!(matches!(
        refused(&issuer(KeySource::Inline("{}".into()))),
        KeySourceError::Inline(KeySetError::NotAKeySet)
    ));
    let mut shared = issuer(KeySource::Secret(secret(vec![7; 31])));
    shared.rules.algorithms = vec![Algorithm::HS256];
    assert!(matches!(
        refused(&shared),
        KeySourceError::Secret(KeyError::SecretTooShort { bytes: 31 })
    ));
    shared.keys = KeySource::Secret(secret(vec![7; 32]));
    shared.rules.algorithms = vec![Algorithm::HS256, Algorithm::HS512];
    assert!(matches!(
        refused(&shared),
        KeySourceError::Algorithm(Algorithm::HS512)
    ));
}
