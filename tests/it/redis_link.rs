//! The link to Redis, against real servers: what it writes and reads there, what a server refuses, and what happens when one is slow, is gone, is
//! another one than before, or is no friend.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jotgate::base::secret::secret;
use jotgate::control::denylist::{Carrier, EntryId, Link, LinkFault, RedisCarrier, RedisLink};
use jotgate::denylist::redis::{Login, Options, Peer, Place, Tls};
use jotgate::http::client_tls::{Identity, Roots, certificates, client, private_key};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::support::authority::{Authority, quoted};
use super::support::cut::Cable;
use super::support::redis::Redis;
use super::support::upstream::Refusing;
use super::support::within;

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(10);

fn peer(address: SocketAddr) -> Peer {
    Peer {
        host: address.ip().to_string().into(),
        port: address.port(),
    }
}

/// To one server, with times that a busy machine keeps.
fn options(address: SocketAddr) -> Options {
    Options {
        place: Place::Server {
            at: peer(address),
            database: 0,
        },
        login: None,
        sentinel_login: None,
        tls: None,
        stream: "jotgate".into(),
        replicas_min: 0,
        connect_timeout: LONG,
        command_timeout: LONG,
    }
}

async fn connect(options: Options) -> Result<RedisLink, LinkFault> {
    let carrier = RedisCarrier::new(Arc::new(options));
    within("a connection", carrier.connect()).await
}

async fn linked(redis: &Redis) -> RedisLink {
    connect(options(redis.address())).await.expect("a link")
}

fn payloads(texts: &[&str]) -> Vec<Bytes> {
    texts
        .iter()
        .map(|text| Bytes::copy_from_slice(text.as_bytes()))
        .collect()
}

async fn add(link: &mut RedisLink, texts: &[&str]) -> EntryId {
    within("an entry", link.add(&payloads(texts)))
        .await
        .expect("added")
}

async fn texts(link: &mut RedisLink, after: EntryId) -> Vec<String> {
    let entries = link
        .read(after, 1000, Duration::ZERO)
        .await
        .expect("entries");
    assert!(entries.is_sorted_by_key(|entry| entry.id));
    let text = |entry: jotgate::control::denylist::Entry| {
        String::from_utf8(entry.payload.into()).expect("a text")
    };
    entries.into_iter().map(text).collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, LinkFault>, word: &str) {
    match outcome {
        Err(LinkFault::Refused(why)) if why.contains(word) => {}
        other => panic!("{other:?}, not refused for {word}"),
    }
}

#[track_caller]
fn away<T: std::fmt::Debug>(outcome: Result<T, LinkFault>, word: &str) {
    match outcome {
        Err(LinkFault::Away(why)) if why.contains(word) => {}
        other => panic!("{other:?}, not away for {word}"),
    }
}

#[tokio::test]
async fn what_is_added_is_read_in_order() {
    let redis = Redis::start().await;
    let mut link = linked(&redis).await;
    let nothing = link.read(EntryId::default(), 10, Duration::ZERO).await;
    assert_eq!(nothing, Ok(vec![]));
    let second = add(&mut link, &["one", "two"]).await;
    let third = add(&mut link, &["three"]).await;
    assert!(third > second);
    assert_eq!(
        texts(&mut link, EntryId::default()).await,
        ["one", "two", "three"]
    );
    assert_eq!(texts(&mut link, second).await, ["three"]);
    let first = link
        .read(EntryId::default(), 1, Duration::ZERO)
        .await
        .expect("one");
    assert_eq!(first.len(), 1);
    // Nothing new: it waits as long as it may.
    let waited = Instant::now();
    assert_eq!(link.read(third, 10, SHORT).await, Ok(vec![]));
    assert!(waited.elapsed() >= SHORT);
    assert_eq!(redis.ask("XLEN {jotgate}:rules").await, "3");
}

#[tokio::test]
async fn what_others_put_into_the_stream_has_an_empty_payload() {
    let redis = Redis::start().await;
    let mut link = linked(&redis).await;
    redis.ask("XADD {jotgate}:rules * x y").await;
    redis.ask("XADD {jotgate}:rules * x r r z").await;
    assert_eq!(texts(&mut link, EntryId::default()).await, ["", "z"]);
}

#[tokio::test]
async fn a_waiting_read_wakes_at_once() {
    let redis = Redis::start().await;
    let (mut reader, mut writer) = (linked(&redis).await, linked(&redis).await);
    let start = add(&mut writer, &["before"]).await;
    let mut slowest = Duration::ZERO;
    let mut after = start;
    for round in 0..10 {
        let reading = tokio::spawn(async move {
            let entries = reader.read(after, 10, Duration::from_secs(15)).await;
            (reader, entries.expect("entries"), Instant::now())
        });
        redis.says("INFO clients", "blocked_clients:1").await;
        let text = format!("entry {round}");
        let sent = Instant::now();
        add(&mut writer, &[&text]).await;
        let (again, entries, woken) = within("an entry", reading).await.expect("a reader");
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].payload, text.as_bytes());
        after = entries[0].id;
        reader = again;
        slowest = slowest.max(woken.duration_since(sent));
    }
    // Not by the end of its 15 s, nor by a pause between questions; the machine may be busy.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test]
async fn a_look_shows_the_epoch_the_last_id_and_the_clock() {
    let redis = Redis::start().await;
    let mut link = linked(&redis).await;
    let empty = link.look().await.expect("a sight");
    assert_eq!((&*empty.run.epoch, empty.last), ("", EntryId::default()));
    assert!(empty.run.server.len() > 80, "{empty:?}");
    link.found("first").await.expect("named");
    link.found("second").await.expect("it has a name");
    let last = add(&mut link, &["one", "two"]).await;
    let sight = link.look().await.expect("a sight");
    assert_eq!((&*sight.run.epoch, sight.last), ("first", last));
    assert_eq!(sight.run.server, empty.run.server);
    // The id is of the same clock.
    assert!(last.ms.abs_diff(sight.now_ms) < 60_000, "{sight:?}");
    // What was trimmed away still counts.
    redis.ask("XTRIM {jotgate}:rules MAXLEN 0").await;
    assert_eq!(link.look().await.expect("a sight").last, last);
}

#[tokio::test]
async fn a_report_is_written_and_looks() {
    let redis = Redis::start().await;
    let (mut link, mut other) = (linked(&redis).await, linked(&redis).await);
    // There is no stream yet, and no group.
    let (first, before) = link.report("a", "1".into()).await.expect("a sight");
    assert_eq!((&*first.run.epoch, first.last), ("", EntryId::default()));
    assert_eq!(before, None);
    let mut said = "1";
    link.found("epoch").await.expect("named");
    for text in ["one", "two"] {
        let last = add(&mut other, &[text]).await;
        for link in [&mut link, &mut other] {
            let (sight, before) = link.report("a", text.into()).await.expect("a sight");
            assert_eq!(before.as_deref(), Some(said.as_bytes()));
            said = text;
            let look = link.look().await.expect("a sight");
            assert_eq!(sight.last, last);
            assert_eq!((&sight.run, sight.last), (&look.run, look.last));
        }
    }
    assert_eq!(&*link.look().await.expect("a sight").run.epoch, "epoch");
    // A stream that was deleted and began anew has no group, and whatever it had is lost: it is no longer the same epoch.
    redis.ask("DEL {jotgate}:rules").await;
    let last = add(&mut other, &["three"]).await;
    let (after, before) = link.report("b", "2".into()).await.expect("a sight");
    assert_eq!(before, None, "that is another's name");
    assert_eq!((&*after.run.epoch, after.last), ("", last));
    let mut members = link.members().await.expect("members");
    members.sort();
    assert_eq!(
        members,
        [("a".into(), "two".into()), ("b".into(), Bytes::from("2"))]
    );
    link.forget("a").await.expect("forgotten");
    assert_eq!(link.members().await.expect("members").len(), 1);
    assert_eq!(redis.ask("HGET {jotgate}:members b").await, "2");
}

#[tokio::test]
async fn old_entries_are_trimmed() {
    let redis = Redis::start().await;
    let mut link = linked(&redis).await;
    let many = vec!["x"; 350];
    add(&mut link, &many).await;
    let last = add(&mut link, &["last"]).await;
    link.trim(last).await.expect("trimmed");
    let left = texts(&mut link, EntryId::default()).await;
    assert!(left.len() < 150, "{}", left.len());
    assert_eq!(left.last().map(String::as_str), Some("last"));
}

#[tokio::test]
async fn whatever_may_have_lost_entries_is_another_run() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let mut link = linked(&redis).await;
    link.found("epoch").await.expect("named");
    let last = add(&mut link, &["one"]).await;
    let before = link.look().await.expect("a sight");

    redis.ask("FLUSHALL").await;
    let (flushed, _) = link.report("a", "1".into()).await.expect("a sight");
    assert_eq!(
        (&*flushed.run.epoch, flushed.last),
        ("", EntryId::default())
    );
    assert_eq!(flushed.run.server, before.run.server);

    link.found("again").await.expect("named");
    let last_again = add(&mut link, &["two"]).await;
    assert!(last_again >= last);
    redis.restart().await;
    away(link.look().await, "");
    let mut link = linked(&redis).await;
    let restarted = link.look().await.expect("a sight");
    // With all it had, and yet another run: nobody knows what it lost.
    assert_eq!(
        (&*restarted.run.epoch, restarted.last),
        ("again", last_again)
    );
    assert_ne!(restarted.run.server, before.run.server);

    redis.restart_empty().await;
    let mut link = linked(&redis).await;
    let emptied = link.look().await.expect("a sight");
    assert_eq!(
        (&*emptied.run.epoch, emptied.last),
        ("", EntryId::default())
    );
}

#[tokio::test]
async fn a_replica_is_refused_until_it_is_promoted_and_then_is_another_run() {
    let primary = Redis::start().await;
    let replica = Redis::replica_of(&primary, &[]).await;
    let mut link = linked(&primary).await;
    link.found("epoch").await.expect("named");
    add(&mut link, &["one"]).await;
    let before = link.look().await.expect("a sight");
    refused(connect(options(replica.address())).await, "READONLY");

    replica.says("XLEN {jotgate}:rules", "1").await;
    replica.promote().await;
    let mut other = linked(&replica).await;
    let after = other.look().await.expect("a sight");
    // It has all, and it is another server with another history from now on.
    assert_eq!(
        (&after.run.epoch, after.last),
        (&before.run.epoch, before.last)
    );
    assert_ne!(after.run.server, before.run.server);
    assert_eq!(texts(&mut other, EntryId::default()).await, ["one"]);
}

#[tokio::test]
async fn a_primary_that_was_demoted_refuses_on_the_same_connection() {
    let (primary, other) = (Redis::start().await, Redis::start().await);
    let (mut writer, mut looker) = (linked(&primary).await, linked(&primary).await);
    let mut reader = linked(&primary).await;
    let before = looker.look().await.expect("a sight");
    let reading = tokio::spawn(async move {
        reader
            .read(EntryId::default(), 10, Duration::from_secs(15))
            .await
    });
    primary.says("INFO clients", "blocked_clients:1").await;
    primary
        .ask(&format!("REPLICAOF 127.0.0.1 {}", other.port()))
        .await;
    away(
        within("a reader", reading).await.expect("a reader"),
        "UNBLOCKED",
    );
    refused(writer.report("a", "1".into()).await, "READONLY");
    refused(looker.look().await, "READONLY");
    // Back again: the same process, and a run of its own.
    primary.promote().await;
    let mut again = linked(&primary).await;
    let after = again.look().await.expect("a sight");
    assert_ne!(after.run.server, before.run.server);
    assert_eq!(
        after.run.server[..40],
        before.run.server[..40],
        "its run_id"
    );
}

#[tokio::test]
async fn a_change_of_history_is_seen_on_the_same_connection() {
    let (primary, other) = (Redis::start().await, Redis::start().await);
    let mut link = linked(&primary).await;
    let before = link.look().await.expect("a sight");
    primary
        .ask(&format!("REPLICAOF 127.0.0.1 {}", other.port()))
        .await;
    primary
        .says("INFO replication", "master_link_status:up")
        .await;
    primary.promote().await;
    let (after, _) = link.report("a", "1".into()).await.expect("a sight");
    assert_ne!(after.run.server, before.run.server);
}

#[tokio::test]
async fn without_its_replicas_a_primary_takes_no_report() {
    let redis = Redis::with(&["--min-replicas-to-write", "1"]).await;
    let mut link = linked(&redis).await;
    refused(link.report("a", "1".into()).await, "NOREPLICAS");
    let mut link = linked(&redis).await;
    refused(link.add(&payloads(&["one"])).await, "NOREPLICAS");
    // Reading goes on.
    let mut link = linked(&redis).await;
    link.look().await.expect("a sight");
    assert_eq!(
        redis.ask("EXISTS {jotgate}:members {jotgate}:rules").await,
        "0"
    );
}

#[tokio::test]
async fn a_change_waits_for_its_replicas_and_without_them_is_not_written() {
    let primary = Redis::start().await;
    let with_one = || Options {
        replicas_min: 1,
        command_timeout: Duration::from_secs(3),
        ..options(primary.address())
    };
    let mut link = connect(with_one()).await.expect("a link");
    refused(link.add(&payloads(&["one"])).await, "NOREPLICAS 0 of the 1");
    assert_eq!(primary.ask("XLEN {jotgate}:rules").await, "0");

    let replica = Redis::replica_of(&primary, &[]).await;
    let mut link = connect(with_one()).await.expect("a link");
    add(&mut link, &["two"]).await;
    assert_eq!(replica.ask("XLEN {jotgate}:rules").await, "1");

    replica.pause();
    refused(
        link.add(&payloads(&["three"])).await,
        "NOREPLICAS 0 of the 1",
    );
    replica.resume();
}

#[tokio::test]
async fn a_server_that_stands_still_costs_the_time_of_one_question() {
    let redis = Redis::start().await;
    let short = || Options {
        connect_timeout: SHORT,
        command_timeout: SHORT,
        ..options(redis.address())
    };
    let mut link = connect(short()).await.expect("a link");
    redis.pause();
    let asked = Instant::now();
    away(link.add(&payloads(&["one"])).await, "took longer");
    away(connect(short()).await, "took longer");
    assert!(asked.elapsed() >= 2 * SHORT);
    redis.resume();
    // An answer that comes too late is nobody's: the link stays closed.
    redis.says("XLEN {jotgate}:rules", "1").await;
    away(link.look().await, "closed");
}

#[tokio::test]
async fn a_question_that_is_given_up_closes_its_link() {
    let redis = Redis::start().await;
    let mut link = linked(&redis).await;
    let given_up = tokio::time::timeout(SHORT, link.read(EntryId::default(), 1, LONG)).await;
    assert!(given_up.is_err());
    away(link.look().await, "closed");
    redis.says("INFO clients", "blocked_clients:0").await;
}

#[tokio::test]
async fn a_cut_cable_is_noticed_in_time_and_a_pulled_one_at_once() {
    let redis = Redis::start().await;
    let cable = Cable::to(redis.address()).await;
    let over_it = || Options {
        command_timeout: Duration::from_secs(1),
        ..options(cable.address())
    };
    let mut link = connect(over_it()).await.expect("a link");
    cable.slow(Duration::from_millis(20));
    link.look().await.expect("slow, and in time");
    cable.cut();
    away(link.look().await, "took longer");
    away(
        connect(Options {
            connect_timeout: SHORT,
            ..over_it()
        })
        .await,
        "took longer",
    );
    cable.heal();
    let mut link = connect(over_it()).await.expect("a link");
    let reading = tokio::spawn(async move { link.read(EntryId::default(), 1, LONG).await });
    redis.says("INFO clients", "blocked_clients:1").await;
    let pulled = Instant::now();
    cable.pull();
    away(within("a reader", reading).await.expect("a reader"), "");
    assert!(pulled.elapsed() < LONG / 2);
}

#[tokio::test]
async fn a_server_that_died_is_away() {
    let mut redis = Redis::start().await;
    let mut link = linked(&redis).await;
    redis.kill().await;
    away(link.look().await, "");
    away(connect(options(redis.address())).await, "refused");
}

/// The line of docs/config.md, so that it stays true.
fn least_permissions() -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.md"));
    let text = text.expect("the reference");
    let line = text
        .lines()
        .find(|line| line.starts_with("ACL SETUSER jotgate"));
    line.expect("the permissions").replace(">PASSWORD", ">pw")
}

fn login(user: Option<&str>, password: &str) -> Login {
    Login {
        user: user.map(Into::into),
        password: secret(password.into()),
    }
}

#[tokio::test]
async fn the_documented_permissions_are_enough_and_each_of_them_is_needed() {
    let redis = Redis::start().await;
    let replica = Redis::replica_of(&redis, &[]).await;
    let permissions = least_permissions();
    let options = || Options {
        login: Some(login(Some("jotgate"), "pw")),
        replicas_min: 1,
        ..options(redis.address())
    };
    let everything = async || -> Result<(), LinkFault> {
        let carrier = RedisCarrier::new(Arc::new(options()));
        let mut link = carrier.connect().await?;
        link.look().await?;
        link.found("epoch").await?;
        let id = link.add(&payloads(&["one"])).await?;
        link.read(EntryId::default(), 10, SHORT).await?;
        link.report("a", "1".into()).await?;
        link.members().await?;
        link.forget("a").await?;
        link.trim(id).await
    };
    let commands: Vec<&str> = permissions
        .split(' ')
        .filter(|word| word.starts_with('+'))
        .collect();
    assert!(commands.len() > 15, "{commands:?}");
    assert_eq!(redis.ask(&permissions).await, "OK");
    within("everything", everything()).await.expect("permitted");
    for command in commands {
        redis.ask("FLUSHALL").await;
        let words = permissions.split(' ').filter(|word| *word != command);
        let less = words.collect::<Vec<_>>().join(" ");
        // From the first permission on, or what was given stays.
        assert_eq!(redis.ask(&less.replace(" on ", " reset on ")).await, "OK");
        let outcome = within("everything", everything()).await;
        match outcome {
            Err(LinkFault::Refused(why)) if why.contains("NOPERM") => {}
            other => panic!("without {command}: {other:?}"),
        }
    }
    drop(replica);
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_repeated() {
    let redis = Redis::with(&["--requirepass", "right"]).await;
    let with = |login| Options {
        login,
        ..options(redis.address())
    };
    let outcome = connect(with(Some(login(None, "hunter2")))).await;
    assert!(!format!("{outcome:?}").contains("hunter2"));
    refused(outcome, "");
    refused(
        connect(with(Some(login(Some("nobody"), "right")))).await,
        "",
    );
    refused(connect(with(None)).await, "NOAUTH");
    let mut link = connect(with(Some(login(None, "right"))))
        .await
        .expect("a link");
    link.look().await.expect("a sight");
}

#[tokio::test]
async fn tls_believes_one_authority_and_one_name() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let issued = authority.issue("127.0.0.1");
    let files = [
        &issued.certificate_file,
        &issued.key_file,
        &authority.file(),
    ]
    .map(|file| quoted(file).trim_matches('"').to_owned());
    let [certificate, key, ca] = &files;
    let tls = [
        "--tls-cert-file",
        certificate,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        ca,
    ];
    let redis = Redis::with_tls(&[&tls[..], &["--tls-auth-clients", "no"]].concat()).await;
    let trusting = |authority: &Authority, identity: Option<Identity>, name: Option<&str>| {
        let pem = std::fs::read(authority.file()).expect("a file");
        let config = client(Roots::Pem(&pem).load(), identity).expect("a configuration");
        let name = name.map(|name| name.to_owned().try_into().expect("a name"));
        Some(Tls {
            config: Arc::new(config),
            name,
        })
    };
    let with = |redis: &Redis, tls| Options {
        tls,
        ..options(redis.address())
    };
    let mut link = connect(with(&redis, trusting(&authority, None, None)))
        .await
        .expect("a link");
    add(&mut link, &["one"]).await;
    away(
        connect(with(&redis, trusting(&stranger, None, None))).await,
        "invalid peer certificate",
    );
    let named = trusting(&authority, None, Some("redis.internal"));
    away(
        connect(with(&redis, named)).await,
        "invalid peer certificate",
    );
    // Plain words to a server of TLS.
    let plain = Options {
        connect_timeout: SHORT,
        ..options(redis.address())
    };
    away(connect(plain).await, "");
    assert_eq!(redis.ask("XLEN {jotgate}:rules").await, "1");

    let demanding = Redis::with_tls(&[&tls[..], &["--tls-auth-clients", "yes"]].concat()).await;
    away(
        connect(with(&demanding, trusting(&authority, None, None))).await,
        "",
    );
    let own = authority.issue("gateway");
    let read = |file: &std::path::Path| std::fs::read(file).expect("a file");
    let identity = Identity {
        certificates: certificates(&read(&own.certificate_file)).expect("certificates"),
        key: private_key(&secret(read(&own.key_file))).expect("a key"),
    };
    let known = trusting(&authority, Some(identity), None);
    let mut link = connect(with(&demanding, known)).await.expect("a link");
    link.look().await.expect("a sight");
}

#[tokio::test]
async fn a_socket_and_a_database_lead_to_the_same_server() {
    let redis = Redis::start().await;
    let place = |place| Options {
        place,
        ..options(redis.address())
    };
    let mut link = connect(place(Place::Unix(redis.socket())))
        .await
        .expect("a link");
    add(&mut link, &["one"]).await;
    let second = Place::Server {
        at: peer(redis.address()),
        database: 2,
    };
    let mut link = connect(place(second)).await.expect("a link");
    add(&mut link, &["two"]).await;
    add(&mut link, &["three"]).await;
    assert_eq!(redis.ask("XLEN {jotgate}:rules").await, "1");
    assert_eq!(redis.ask("-n 2 XLEN {jotgate}:rules").await, "2");
}

#[tokio::test]
async fn sentinels_lead_to_the_primary() {
    let primary = Redis::with(&["--requirepass", "pw"]).await;
    let sentinel = Redis::sentinel(&primary, "mymaster").await;
    let gone = Refusing::start();
    let by = |service: &str| Options {
        place: Place::Sentinels {
            at: vec![peer(gone.address()), peer(sentinel.address())],
            service: service.into(),
        },
        login: Some(login(None, "pw")),
        ..options(primary.address())
    };
    let mut link = connect(by("mymaster")).await.expect("a link");
    add(&mut link, &["one"]).await;
    let socket = primary.socket();
    assert!(socket.exists());
    assert_eq!(primary.ask("-a pw XLEN {jotgate}:rules").await, "1");
    refused(
        connect(by("other")).await,
        "knows no primary named \"other\"",
    );
    // A sentinel that is behind leads to a server that has become a replica.
    let other = Redis::start().await;
    primary
        .ask(&format!("-a pw REPLICAOF 127.0.0.1 {}", other.port()))
        .await;
    refused(connect(by("mymaster")).await, "READONLY");
}

#[tokio::test]
async fn a_node_of_a_cluster_leads_to_the_owner() {
    let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000"];
    let bus = || {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("an address").port().to_string()
    };
    let node = async || {
        let bus = bus();
        let node = Redis::with(&[&cluster[..], &["--cluster-port", &bus]].concat()).await;
        (node, bus)
    };
    let ((first, _), (second, bus)) = (node().await, node().await);
    let slot: u16 = first
        .ask("CLUSTER KEYSLOT {jotgate}:rules")
        .await
        .parse()
        .expect("a slot");
    // The second one owns our slot, the first one all others.
    first
        .ask(&format!("CLUSTER ADDSLOTSRANGE 0 {}", slot - 1))
        .await;
    first
        .ask(&format!("CLUSTER ADDSLOTSRANGE {} 16383", slot + 1))
        .await;
    second.ask(&format!("CLUSTER ADDSLOTS {slot}")).await;
    first
        .ask(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", second.port()))
        .await;
    for node in [&first, &second] {
        node.says("CLUSTER INFO", "cluster_state:ok").await;
        node.says("CLUSTER INFO", "cluster_slots_ok:16384").await;
    }
    let nodes = |nodes: Vec<Peer>| Options {
        place: Place::Cluster(nodes),
        ..options(first.address())
    };
    for seed in [&first, &second] {
        let mut link = connect(nodes(vec![peer(seed.address())]))
            .await
            .expect("a link");
        link.found("epoch").await.expect("named");
        add(&mut link, &["one"]).await;
        link.report("a", "1".into()).await.expect("a sight");
    }
    assert_eq!(second.ask("XLEN {jotgate}:rules").await, "2");
    // Whoever comes to the wrong node is told so, and comes by the right way next time.
    let mut link = linked(&first).await;
    away(link.add(&payloads(&["two"])).await, "MOVED");
}

#[tokio::test]
async fn entries_that_do_not_fit_into_one_answer_come_in_several() {
    let redis = Redis::start().await;
    let mut link = linked(&redis).await;
    let large = Bytes::from(vec![b'x'; 1024 * 1024]);
    for _ in 0..20 {
        link.add(std::slice::from_ref(&large)).await.expect("added");
    }
    let carrier = RedisCarrier::new(Arc::new(options(redis.address())));
    let mut link = carrier.connect().await.expect("a link");
    away(
        link.read(EntryId::default(), 100, Duration::ZERO).await,
        "more than was asked for",
    );
    let (mut after, mut found, mut faults) = (EntryId::default(), 0, 0);
    while found < 20 {
        match link.read(after, 100, Duration::ZERO).await {
            Ok(entries) => {
                found += entries.len();
                after = entries.last().expect("there are more").id;
            }
            Err(fault) => {
                faults += 1;
                assert!(faults < 5, "{fault}");
            }
        }
        // As the relay does after each fault.
        link = carrier.connect().await.expect("a link");
    }
    assert_eq!(found, 20);
}

/// Says what it must to be taken for a primary, then `answer` for ever; counts what it got rid of.
async fn hostile(answer: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let sent = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut question = vec![0; 4096];
            for info in ["role:master\r\nconnected_slaves:0\r\n", "run_id:x\r\n"] {
                let Ok(1..) = client.read(&mut question).await else {
                    return;
                };
                let answer = format!("${}\r\n{info}\r\n", info.len());
                let _ = client.write_all(answer.as_bytes()).await;
            }
            let _ = client.read(&mut question).await;
            while let Ok(len @ 1..) = client.write(answer).await {
                count.fetch_add(len, Ordering::Relaxed);
            }
        }
    });
    (address, sent)
}

#[tokio::test]
async fn a_hostile_server_cannot_make_the_gateway_remember_what_it_likes() {
    const MIB: usize = 1024 * 1024;
    // One text that never ends; lists in lists; a list that claims to be huge; what is no protocol at all.
    for (answer, word) in [
        (&b"$2000000000\r\n"[..], "more than was asked for"),
        (&b"*2\r\n"[..], ""),
        (&b"*1000000000\r\n$1\r\nx\r\n"[..], ""),
        (&b"\0\0\0\0"[..], ""),
        (&b"+OK"[..], "more than was asked for"),
    ] {
        let (address, sent) = hostile(answer).await;
        let mut link = connect(options(address)).await.expect("a link");
        away(within("an end", link.members()).await, word);
        // What the kernel holds comes to what the gateway took.
        assert!(sent.load(Ordering::Relaxed) < 32 * MIB, "{answer:?}");
    }
}

#[tokio::test]
async fn a_server_that_answers_in_an_unknown_form_is_away() {
    for answer in [&b":1\r\n"[..], b"*1\r\n:1\r\n", b"+x\r\n", b"_\r\n"] {
        let (address, _) = hostile(answer).await;
        let mut link = connect(options(address)).await.expect("a link");
        away(within("an answer", link.members()).await, "");
        away(link.look().await, "closed");
    }
}
