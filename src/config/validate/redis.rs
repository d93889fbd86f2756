//! `[denylist.redis]`: the server that carries revocations between gateways, and who we are there.

use std::sync::Arc;
use std::time::Duration;

use super::check::Check;
use super::client_tls::{Material, SystemRoots, misfit};
use crate::base::secret::{ExposeSecret, Secret};
use crate::config::place::KeyPath;
use crate::config::raw::{self, SecretRef};
use crate::config::settings::Redis;
use crate::denylist::redis::{Login, Options, Peer, Place, Tls};
use crate::http::client_tls;
use crate::route::Host;

/// Shortest secret, in bytes: what HMAC-SHA256 can make use of.
const SECRET_BYTES_MIN: usize = 32;

/// Most sentinels or nodes that are written: each may cost `connect_timeout` before the next one is asked.
const PEERS_MAX: usize = 16;

/// Longest name of the stream, in bytes: it stands in each command.
const STREAM_BYTES_MAX: usize = 64;

/// Most replicas that can be waited for.
const REPLICAS_MAX: u32 = 16;

/// Most databases of a server, less one; `databases` is 16 by default.
const DATABASE_MAX: u32 = 9999;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A fleet: with its settings, or faults.
pub(super) fn redis(
    at: &KeyPath,
    raw: &raw::Redis,
    max_staleness: Duration,
    check: &mut Check<'_>,
) -> Option<Redis> {
    let url = check.required(
        at,
        "url",
        raw.url.as_ref(),
        "where Redis is, such as \"rediss://redis.example.com:6379\"",
    );
    // Its text is not repeated: somebody may have written a password into it.
    let place = url.and_then(|url| match place(url) {
        Ok(place) => Some(place),
        Err(error) => {
            check.fault(&at.key("url"), error.to_string());
            None
        }
    });
    let tls = tls(at, raw, place.as_ref(), check);
    let secret = secret(at, raw.secret.as_ref(), check);
    let login = login(at, ["user", "password"], (&raw.user, &raw.password), check);
    let sentinel_login = sentinel_login(at, raw, place.as_ref(), check);
    let name = name(at, raw.name.as_deref(), check);
    let stream = raw.stream.as_deref().unwrap_or("jotgate");
    let stream = check.parsed(&at.key("stream"), stream, |text| {
        let is_good = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
        if (1..=STREAM_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_good) {
            Ok(Box::from(text))
        } else {
            Err("is no name of a stream; write at most 64 letters, digits and . _ : -")
        }
    });
    let replicas_min = check.number(
        &at.key("replicas_min"),
        raw.replicas_min,
        0,
        0..=REPLICAS_MAX,
    );
    let second = Duration::from_secs(1);
    // A question that takes longer than a report's time would end each lease.
    let bounds = Duration::from_millis(50)..=Duration::from_secs(30);
    let connect_timeout = (at.key("connect_timeout"), raw.connect_timeout, 2 * second);
    let command_timeout = (at.key("command_timeout"), raw.command_timeout, second);
    let [connect_timeout, command_timeout] = [connect_timeout, command_timeout]
        .map(|(at, value, default)| {
            let default = default.min(max_staleness / 3);
            let value = check.duration(&at, value, default, bounds.clone());
            if bounds.contains(&value) && value > max_staleness / 2 {
                check.fault(
                    &at,
                    "is longer than half of denylist.max_staleness, so that one slow answer would end what a gateway may trust; write less",
                );
            }
            value
        });
    let members_forgotten_after = check.duration(
        &at.key("members_forgotten_after"),
        raw.members_forgotten_after,
        Duration::from_mins(5).max(max_staleness),
        Duration::from_secs(10)..=Duration::from_hours(24 * 7),
    );
    if members_forgotten_after < max_staleness {
        check.fault(
            &at.key("members_forgotten_after"),
            "is shorter than denylist.max_staleness; write at least as much",
        );
    }
    Some(Redis {
        options: Arc::new(Options {
            place: place?.0,
            login: login.ok()?,
            sentinel_login: sentinel_login.ok()?,
            tls: tls.ok()?,
            stream: stream?,
            replicas_min,
            connect_timeout,
            command_timeout,
        }),
        secret: Arc::new(secret?),
        name: name?,
        members_forgotten_after,
    })
}

/// A fault was noted.
struct Faulty;

/// Why a text does not say where Redis is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum PlaceError {
    #[error(
        "must begin with redis://, rediss://, unix:/, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"
    )]
    Scheme,
    #[error(
        "must not hold a user or password; write user and password = {{ env = \"NAME\" }} beside it"
    )]
    User,
    #[error("must not have a query or fragment; options are keys of [denylist.redis]")]
    Query,
    #[error("has no host that can be called; write host, host:port or [address]:port")]
    Host,
    #[error("has one server too many; several are for redis+sentinel:// and redis+cluster://")]
    Several,
    #[error("has too many servers; write at most {PEERS_MAX}, which know the others")]
    TooMany,
    #[error("ends in something that is no number of a database; write none, or one such as /0")]
    Database,
    #[error("names no primary; write the sentinels' name for it at the end, such as /mymaster")]
    Service,
    #[error("must have no path; a cluster has one database alone")]
    Path,
}

/// Where it is. The scheme says with `rediss` that there is TLS.
fn place(text: &str) -> Result<(Place, bool), PlaceError> {
    if let Some(path) = text.strip_prefix("unix:") {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(PlaceError::Scheme);
        }
        return Ok((Place::Unix(path.into()), false));
    }
    let (scheme, rest) = text.split_once("://").ok_or(PlaceError::Scheme)?;
    if rest.contains('@') {
        return Err(PlaceError::User);
    }
    if rest.contains(['?', '#']) {
        return Err(PlaceError::Query);
    }
    let (has_tls, kind) = match scheme.strip_prefix("rediss") {
        Some(kind) => (true, kind),
        None => (
            false,
            scheme.strip_prefix("redis").ok_or(PlaceError::Scheme)?,
        ),
    };
    let (hosts, path) = match rest.split_once('/') {
        Some((hosts, path)) => (hosts, Some(path).filter(|path| !path.is_empty())),
        None => (rest, None),
    };
    let place = match kind {
        "" => {
            if hosts.contains(',') {
                return Err(PlaceError::Several);
            }
            let database = match path.map(str::parse) {
                None => 0,
                Some(Ok(database)) if database <= DATABASE_MAX => database,
                Some(_) => return Err(PlaceError::Database),
            };
            Place::Server {
                at: peer(hosts, PORT)?,
                database,
            }
        }
        "+sentinel" => Place::Sentinels {
            at: peers(hosts, SENTINEL_PORT)?,
            service: path
                .filter(|name| name.bytes().all(|b| b.is_ascii_graphic() && b != b'/'))
                .ok_or(PlaceError::Service)?
                .into(),
        },
        "+cluster" if path.is_some() => return Err(PlaceError::Path),
        "+cluster" => Place::Cluster(peers(hosts, PORT)?),
        _ => return Err(PlaceError::Scheme),
    };
    Ok((place, has_tls))
}

fn peers(text: &str, port: u16) -> Result<Vec<Peer>, PlaceError> {
    let peers: Vec<Peer> = text
        .split(',')
        .map(|text| peer(text, port))
        .collect::<Result<_, _>>()?;
    if peers.len() > PEERS_MAX {
        return Err(PlaceError::TooMany);
    }
    Ok(peers)
}

fn peer(text: &str, port: u16) -> Result<Peer, PlaceError> {
    let authority: http::uri::Authority = text.parse().map_err(|_| PlaceError::Host)?;
    if Host::parse(text).is_err() {
        return Err(PlaceError::Host);
    }
    let port = match authority.port_u16() {
        Some(0) => return Err(PlaceError::Host),
        Some(port) => port,
        None if authority.host().len() == text.len() => port,
        None => return Err(PlaceError::Host),
    };
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    Ok(Peer {
        host: host.into(),
        port,
    })
}

fn tls(
    at: &KeyPath,
    raw: &raw::Redis,
    place: Option<&(Place, bool)>,
    check: &mut Check<'_>,
) -> Result<Option<Tls>, Faulty> {
    let tls_at = at.key("tls");
    let Some((_, has_tls)) = place else {
        return Err(Faulty);
    };
    if !has_tls {
        if raw.tls.is_some() {
            check.fault(
                &tls_at,
                "is for rediss://; write that as url, or leave tls out",
            );
            return Err(Faulty);
        }
        return Ok(None);
    }
    let raw = (&tls_at, raw.tls.as_ref());
    let material = Material::new(raw, &at.key("url"), &mut SystemRoots::default(), check);
    let Material {
        roots,
        identity,
        name,
    } = material.ok_or(Faulty)?;
    match client_tls::client(roots, identity) {
        Ok(config) => Ok(Some(Tls {
            config: Arc::new(config),
            name,
        })),
        Err(error) => {
            misfit(&tls_at, &error, check);
            Err(Faulty)
        }
    }
}

fn secret(at: &KeyPath, reference: Option<&SecretRef>, check: &mut Check<'_>) -> Option<Secret> {
    let cure = "the fleet's secret, the same on every gateway: { env = \"NAME\" } or { file = \"path\" } of 32 random bytes (openssl rand -base64 32)";
    let reference = check.required(at, "secret", reference, cure)?;
    let at = at.key("secret");
    let secret = check.secret(&at, reference)?;
    if secret.expose_secret().len() < SECRET_BYTES_MIN {
        check.fault(
            &at,
            format!(
                "is shorter than {SECRET_BYTES_MIN} bytes, so that it could be guessed; make one with: openssl rand -base64 32"
            ),
        );
        return None;
    }
    Some(secret)
}

/// A password, and perhaps a user.
fn login(
    at: &KeyPath,
    [user_key, password_key]: [&str; 2],
    (user, password): (&Option<String>, &Option<SecretRef>),
    check: &mut Check<'_>,
) -> Result<Option<Login>, Faulty> {
    let (user_at, password_at) = (at.key(user_key), at.key(password_key));
    let Some(reference) = password else {
        if check.has_holes(&password_at) {
            return Err(Faulty);
        }
        if user.is_some() {
            check.fault(
                &password_at,
                format!("is missing; write the password of {user_key}: {{ env = \"NAME\" }} or {{ file = \"path\" }}"),
            );
            return Err(Faulty);
        }
        return Ok(None);
    };
    let password = check.secret(&password_at, reference).ok_or(Faulty)?;
    if std::str::from_utf8(password.expose_secret()).is_err() {
        check.fault(&password_at, "is not UTF-8; write another one");
        return Err(Faulty);
    }
    if user
        .as_deref()
        .is_some_and(|user| !check.name(&user_at, user))
    {
        return Err(Faulty);
    }
    Ok(Some(Login {
        user: user.as_deref().map(Box::from),
        password,
    }))
}

fn sentinel_login(
    at: &KeyPath,
    raw: &raw::Redis,
    place: Option<&(Place, bool)>,
    check: &mut Check<'_>,
) -> Result<Option<Login>, Faulty> {
    let keys = ["sentinel_user", "sentinel_password"];
    let values = (&raw.sentinel_user, &raw.sentinel_password);
    let is_for_sentinels = matches!(place, None | Some((Place::Sentinels { .. }, _)));
    if !is_for_sentinels && (values.0.is_some() || values.1.is_some()) {
        let key = if values.0.is_some() { keys[0] } else { keys[1] };
        check.fault(
            &at.key(key),
            "is for redis+sentinel://; write user and password for other servers",
        );
        return Err(Faulty);
    }
    login(at, keys, values, check)
}

/// As written, or the host's.
fn name(at: &KeyPath, written: Option<&str>, check: &mut Check<'_>) -> Option<Box<str>> {
    let at = at.key("name");
    if let Some(name) = written {
        return check.name(&at, name).then(|| name.into());
    }
    let host = rustix::system::uname();
    match host.nodename().to_str() {
        Ok(name) if !matches!(name, "" | "localhost" | "(none)") => Some(name.into()),
        _ => {
            check.fault(
                &at,
                "is missing, and this host has no name of its own; write one that no other gateway of the fleet has",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BASE, check, good};
    use super::*;

    /// A file with a fleet; lines of its table after those that it must have.
    fn fleet(url: &str, lines: &str) -> String {
        format!(
            "{BASE}[denylist.redis]\nurl = \"{url}\"\nsecret = {{ env = \"SECRET_32\" }}\n{lines}\n"
        )
    }

    fn at(host: &str, port: u16) -> Peer {
        Peer {
            host: host.into(),
            port,
        }
    }

    #[test]
    fn each_kind_of_place_is_read() {
        let check = |text: &str, expected: Place, has_tls: bool| {
            assert_eq!(place(text), Ok((expected, has_tls)), "{text}");
        };
        let server = |host: &str, port: u16, database: u32| Place::Server {
            at: at(host, port),
            database,
        };
        check("redis://a", server("a", 6379, 0), false);
        check("redis://a:1/", server("a", 1, 0), false);
        check("redis://[::1]:1/3", server("::1", 1, 3), false);
        check("rediss://10.0.0.1", server("10.0.0.1", 6379, 0), true);
        check("unix:/run/r.sock", Place::Unix("/run/r.sock".into()), false);
        let sentinels = |service: &str| Place::Sentinels {
            at: vec![at("a", 26379), at("b", 1)],
            service: service.into(),
        };
        check(
            "redis+sentinel://a,b:1/my-master",
            sentinels("my-master"),
            false,
        );
        check("rediss+sentinel://a,b:1/m", sentinels("m"), true);
        let nodes = vec![at("a", 6379), at("::1", 1)];
        check(
            "redis+cluster://a,[::1]:1",
            Place::Cluster(nodes.clone()),
            false,
        );
        check("rediss+cluster://a,[::1]:1/", Place::Cluster(nodes), true);
    }

    #[test]
    fn what_is_no_place_is_told_with_its_cure() {
        for (text, expected) in [
            ("", PlaceError::Scheme),
            ("a:6379", PlaceError::Scheme),
            ("http://a", PlaceError::Scheme),
            ("redis+tls://a", PlaceError::Scheme),
            ("unix:run/r.sock", PlaceError::Scheme),
            ("redis://me:pw@a", PlaceError::User),
            ("redis://a?db=1", PlaceError::Query),
            ("redis://a#1", PlaceError::Query),
            ("redis://", PlaceError::Host),
            ("redis://:6379", PlaceError::Host),
            ("redis://a:0", PlaceError::Host),
            ("redis://a:70000", PlaceError::Host),
            ("redis://a b", PlaceError::Host),
            ("redis+cluster://a,", PlaceError::Host),
            ("redis://a,b", PlaceError::Several),
            ("redis://a/x", PlaceError::Database),
            ("redis://a/10000", PlaceError::Database),
            ("redis+sentinel://a,b", PlaceError::Service),
            ("redis+sentinel://a/b/c", PlaceError::Service),
            ("redis+cluster://a/1", PlaceError::Path),
        ] {
            assert_eq!(place(text), Err(expected), "{text}");
        }
        let many = vec!["a"; PEERS_MAX + 1].join(",");
        assert_eq!(
            place(&format!("redis+cluster://{many}")),
            Err(PlaceError::TooMany)
        );
    }

    #[test]
    fn a_password_in_the_url_is_not_repeated() {
        let text = fleet("redis://me:hunter2@a", "");
        let faults = super::super::testing::faults(&text);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(
            faults[0].contains("must not hold a user or password"),
            "{faults:?}"
        );
        assert!(!faults[0].contains("hunter2"), "{faults:?}");
    }

    #[test]
    fn each_wrong_value_is_a_fault_of_its_own_key() {
        for (url, lines, key, word) in [
            ("ftp://a", "", "url", "must begin with redis://"),
            ("redis://a", "name = \" \"", "name", "is empty"),
            ("redis://a", "stream = \"{a}\"", "stream", "is no name"),
            ("redis://a", "stream = \"\"", "stream", "is no name"),
            ("redis://a", "user = \"me\"", "password", "is missing"),
            (
                "redis://a",
                "password = { env = \"NONE\" }",
                "password",
                "has no secret",
            ),
            (
                "redis://a",
                "password = \"pw\"",
                "password",
                "must not stand here",
            ),
            (
                "redis://a",
                "user = \"\"\npassword = { env = \"SECRET_16\" }",
                "user",
                "is empty",
            ),
            (
                "redis://a",
                "sentinel_password = { env = \"SECRET_16\" }",
                "sentinel_password",
                "is for redis+sentinel://",
            ),
            (
                "redis+cluster://a",
                "sentinel_user = \"me\"",
                "sentinel_user",
                "is for redis+sentinel://",
            ),
            (
                "redis+sentinel://a/m",
                "sentinel_user = \"me\"",
                "sentinel_password",
                "is missing",
            ),
            (
                "redis://a",
                "tls = { server_name = \"a\" }",
                "tls",
                "is for rediss://",
            ),
            (
                "rediss://a",
                "tls = { ca = \"/no/such\" }",
                "tls.ca",
                "cannot be read",
            ),
            (
                "redis://a",
                "replicas_min = 17",
                "replicas_min",
                "out of bounds",
            ),
            (
                "redis://a",
                "connect_timeout = \"1ms\"",
                "connect_timeout",
                "out of bounds",
            ),
            (
                "redis://a",
                "command_timeout = \"16s\"",
                "command_timeout",
                "is longer than half",
            ),
            (
                "redis://a",
                "members_forgotten_after = \"29s\"",
                "members_forgotten_after",
                "is shorter than denylist.max_staleness",
            ),
            ("redis://a", "sekret = 1", "sekret", "unknown key"),
        ] {
            check(&fleet(url, lines), &format!("denylist.redis.{key}"), word);
        }
        check(
            &format!("{BASE}[denylist.redis]\nsecret = {{ env = \"SECRET_32\" }}"),
            "denylist.redis.url",
            "is missing",
        );
        let base = format!("{BASE}[denylist.redis]\nurl = \"redis://a\"\n");
        check(&base, "denylist.redis.secret", "is missing");
        check(
            &format!("{base}secret = {{ env = \"SECRET_31\" }}"),
            "denylist.redis.secret",
            "is shorter than 32 bytes",
        );
    }

    #[test]
    fn a_fleet_has_its_defaults_and_shows_no_secret() {
        let denylist = good(&fleet("redis://a", "")).denylist;
        assert_eq!(denylist.max_staleness, Duration::from_secs(30));
        let redis = denylist.redis.expect("a fleet");
        let options = &redis.options;
        assert_eq!(&*options.stream, "jotgate");
        assert!(!redis.name.is_empty());
        assert_eq!(options.replicas_min, 0);
        assert_eq!(options.connect_timeout, Duration::from_secs(2));
        assert_eq!(options.command_timeout, Duration::from_secs(1));
        assert_eq!(redis.members_forgotten_after, Duration::from_mins(5));
        let text = fleet(
            "redis+sentinel://a/m",
            "user = \"me\"\npassword = { env = \"SECRET_16\" }\nsentinel_password = { env = \"SECRET_15\" }\nname = \"one\"",
        );
        let redis = good(&text).denylist.redis.expect("a fleet");
        assert_eq!(&*redis.name, "one");
        let shown = format!("{redis:?}");
        assert!(!shown.contains("ssss") && !shown.contains("115"), "{shown}");
        assert!(good(BASE).denylist.redis.is_none());
    }

    #[test]
    fn a_short_staleness_shortens_the_times_of_one_question() {
        let text = fleet("redis://a", "").replace(
            "[denylist.redis]",
            "[denylist]\nmax_staleness = \"2s\"\n[denylist.redis]",
        );
        let options = good(&text).denylist.redis.expect("a fleet").options;
        assert!(options.connect_timeout <= Duration::from_secs(1));
        assert!(options.command_timeout <= Duration::from_secs(1));
    }
}
