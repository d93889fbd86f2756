//! `[admin]`

use std::net::SocketAddr;

use super::check::{Check, Unique};
use super::issuers::Names;
use super::routes::scope;
use super::tls;
use crate::base::names::IssuerName;
use crate::base::secret::{ExposeSecret, Secret, equal};
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::config::settings::{Admin, AdminIssuer, AdminToken, Role};
use crate::listener::{Address, Options};
use crate::route::HostPattern;

/// Shortest token of the admin API, in bytes: 128 bits, if each byte is as random as a byte of hex or base64 is.
const TOKEN_BYTES_MIN: usize = 16;

/// The admin API.
pub(super) fn admin(
    raw: Option<&raw::Admin>,
    listeners: &[Options],
    issuers: &Names,
    check: &mut Check<'_>,
) -> Option<Admin> {
    let raw = raw?;
    let at = KeyPath::default().key("admin");
    let api = check
        .required(
            &at,
            "address",
            raw.address.as_ref(),
            "address = \"127.0.0.1:9901\"",
        )
        .and_then(|text| address(&at.key("address"), text, listeners, check));
    let tls = raw.tls.as_ref();
    let tls = tls.map(|raw| tls::admin(raw, &at.key("tls"), check));
    if let Some(api) = api
        && !api.ip().is_loopback()
        && tls.is_none()
        && !check.is_hole(&at.key("tls"))
        && raw.insecure != Some(true)
        && !check.is_hole(&at.key("insecure"))
    {
        check.fault(
            &at.key("address"),
            format!(
                "\"{api}\" can be reached from other machines, and this listener has no TLS, so whoever is on the way reads its callers' secrets; write \"127.0.0.1:{port}\", tls = {{ certificate = \"tls.crt\", key = \"tls.key\" }}, or insecure = true where nobody is; for probes and metrics alone: probes_address = \"{api}\"",
                port = api.port()
            ),
        );
    }
    let probes = raw.probes_address.as_ref().and_then(|text| {
        let path = at.key("probes_address");
        let probes = address(&path, text, listeners, check)?;
        if api.is_some_and(|api| clash(api, probes)) {
            check.fault(
                &path,
                format!("{text:?} is the address of the admin API, which answers probes, too; write another port, or leave it out"),
            );
        }
        Some(probes)
    });
    let tokens_at = at.key("tokens");
    let has_issuer = raw.issuer.is_some() || check.is_hole(&at.key("issuer"));
    if raw.tokens.as_ref().is_none_or(raw::List::is_empty) && !has_issuer {
        check.fault(
            &tokens_at,
            "there is none, so nobody could call; write [[admin.tokens]] with name, secret = { env = \"JOTGATE_ADMIN_TOKEN\" } and roles = [\"read\"], or issuer = \"…\"",
        );
    }
    let mut names = Unique::new();
    let mut tokens: Vec<AdminToken> = vec![];
    for (n, raw) in raw.tokens.iter().flat_map(raw::List::iter) {
        let at = tokens_at.index(n);
        let name = check
            .required(&at, "name", raw.name.as_ref(), "name = \"ops\"")
            .filter(|name| check.name(&at.key("name"), name));
        if let Some(name) = name
            && let Some(other) = names.insert(name.clone(), &at)
        {
            let other = check.whereabouts(other);
            check.fault(
                &at.key("name"),
                format!("{name:?} is the name of {other}; write another one"),
            );
        }
        let secret = secret(raw, &at, &tokens, check);
        let roles = roles(raw, &at, check);
        if let (Some(name), Some(secret)) = (name, secret) {
            tokens.push(AdminToken {
                name: name.as_str().into(),
                secret,
                roles,
            });
        }
    }
    let hosts_at = at.key("hosts");
    let hosts = raw
        .hosts
        .iter()
        .flat_map(raw::List::iter)
        .filter_map(|(n, text)| check.parsed(&hosts_at.index(n), text, HostPattern::parse))
        .collect();
    Some(Admin {
        address: api?,
        // Never plain where the file says TLS.
        tls: match tls {
            None => None,
            Some(tls) => Some(tls?),
        },
        hosts,
        probes,
        tokens,
        issuer: issuer(raw, &at, issuers, check),
    })
}

/// Whose tokens may call, and what their scopes mean.
fn issuer(
    raw: &raw::Admin,
    at: &KeyPath,
    issuers: &Names,
    check: &mut Check<'_>,
) -> Option<AdminIssuer> {
    let scopes_at = at.key("scopes");
    let unset = raw::AdminScopes::default();
    let scopes = raw.scopes.as_ref().unwrap_or(&unset);
    let mut named = |key: &str, given: Option<&String>, default: &str| {
        let given = given.map(|text| check.parsed(&scopes_at.key(key), text, scope));
        given.flatten().unwrap_or_else(|| default.into())
    };
    let read = named("read", scopes.read.as_ref(), "jotgate:read");
    let revoke = named("revoke", scopes.revoke.as_ref(), "jotgate:revoke");
    let security = named("security", scopes.security.as_ref(), "jotgate:security");
    let Some(text) = &raw.issuer else {
        if raw.scopes.is_some() && !check.is_hole(&at.key("issuer")) {
            check.fault(
                &scopes_at,
                "means nothing without an issuer whose tokens have them; write issuer = \"…\", or leave it out",
            );
        }
        return None;
    };
    let Some(name) = issuers.known.iter().find(|known| known.as_str() == text) else {
        if !issuers.incomplete {
            let known: Vec<&str> = issuers.known.iter().map(IssuerName::as_str).collect();
            check.fault(
                &at.key("issuer"),
                format!("{text:?} is no issuer; write one of {known:?}"),
            );
        }
        return None;
    };
    Some(AdminIssuer {
        name: name.clone(),
        read,
        revoke,
        security,
    })
}

fn address(
    at: &KeyPath,
    text: &str,
    listeners: &[Options],
    check: &mut Check<'_>,
) -> Option<SocketAddr> {
    let address = check.parsed(at, text, |text| {
        text.parse::<SocketAddr>()
            .map_err(|_| "is no address; write one such as \"127.0.0.1:9901\"")
    })?;
    let is_taken = listeners
        .iter()
        .any(|listener| matches!(listener.address, Address::Tcp(taken) if clash(taken, address)));
    if is_taken {
        check.fault(
            at,
            format!("{text:?} is the address of a listener; write another port"),
        );
    }
    Some(address)
}

/// Whether two listeners want the same port. 0 is whatever is free.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let same_ip =
        one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && same_ip
}

fn secret(
    raw: &raw::AdminToken,
    at: &KeyPath,
    others: &[AdminToken],
    check: &mut Check<'_>,
) -> Option<Secret> {
    let path = at.key("secret");
    let cure = "secret = { env = \"JOTGATE_ADMIN_TOKEN\" } or { file = \"path\" }";
    let reference = check.required(at, "secret", raw.secret.as_ref(), cure)?;
    let secret = check.secret(&path, reference)?;
    let bytes = secret.expose_secret();
    if bytes.len() < TOKEN_BYTES_MIN {
        check.fault(
            &path,
            format!("is shorter than {TOKEN_BYTES_MIN} bytes; make one with: openssl rand -hex 32"),
        );
    } else if !bytes.iter().all(u8::is_ascii_graphic) {
        check.fault(
            &path,
            "has bytes that cannot be sent after \"Authorization: Bearer \"; make one with: openssl rand -hex 32",
        );
    }
    if let Some(other) = others
        .iter()
        .find(|other| equal(other.secret.expose_secret(), bytes))
    {
        check.fault(
            &path,
            format!(
                "is also the secret of {:?}, so nobody could tell who calls; make another one",
                other.name
            ),
        );
    }
    Some(secret)
}

fn roles(raw: &raw::AdminToken, at: &KeyPath, check: &mut Check<'_>) -> Vec<Role> {
    let path = at.key("roles");
    let cure = "roles = [\"read\", \"revoke\", \"security\"], or some of them";
    let listed = check.required(at, "roles", raw.roles.as_ref(), cure);
    if listed.is_some_and(raw::List::is_empty) {
        check.fault(&path, format!("is empty; write {cure}"));
    }
    let mut roles = vec![];
    for (n, text) in listed.into_iter().flat_map(raw::List::iter) {
        let role = check.parsed(&path.index(n), text, |text| match text {
            "read" => Ok(Role::Read),
            "revoke" => Ok(Role::Revoke),
            "security" => Ok(Role::Security),
            _ => Err("is no role; write \"read\", \"revoke\" or \"security\""),
        });
        roles.extend(role.filter(|role| !roles.contains(role)));
    }
    roles
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BASE, check, good};
    use super::*;

    fn admin(address: &str, tokens: &[&str]) -> String {
        let tokens: Vec<String> = tokens
            .iter()
            .map(|token| format!("[[admin.tokens]]\n{}", token.replace("; ", "\n")))
            .collect();
        format!(
            "{BASE}[admin]\naddress = \"{address}\"\n{}\n",
            tokens.join("\n")
        )
    }

    fn token(lines: &str) -> String {
        admin("127.0.0.1:0", &[lines])
    }

    const OPS: &str = "name = \"ops\"; secret = { env = \"SECRET_16\" }; roles = [\"read\"]";

    fn with(address: &str, line: &str) -> String {
        admin(address, &[OPS]).replace("[admin]", &format!("[admin]\n{line}"))
    }

    #[test]
    fn the_admin_api_stays_on_this_machine_unless_the_file_says_that_it_is_insecure() {
        good(&admin("127.0.0.1:0", &[OPS]));
        good(&admin("[::1]:9901", &[OPS]));
        good(&with("127.0.0.1:0", "insecure = false"));
        for address in ["0.0.0.0:9901", "[::]:9901", "192.0.2.1:9901"] {
            for cure in ["write \"127.0.0.1:9901\"", "or insecure = true"] {
                check(&admin(address, &[OPS]), "admin.address", cure);
            }
            check(
                &with(address, "insecure = false"),
                "admin.address",
                "has no TLS",
            );
            let settings = good(&with(address, "insecure = true"));
            let made = settings.admin.expect("admin").address.to_string();
            assert_eq!(made, address);
        }
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        let (certificate_file, key_file) = (folder.path().join("crt"), folder.path().join("key"));
        std::fs::write(&certificate_file, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let tls = |key: &std::path::Path| {
            let (certificate, key) = (certificate_file.display(), key.display());
            format!("tls = {{ certificate = \"{certificate}\", key = \"{key}\" }}")
        };
        let settings = good(&with("0.0.0.0:9901", &tls(&key_file)));
        assert!(settings.admin.expect("admin").tls.is_some());
        check(
            &with("0.0.0.0:9901", &tls(&certificate_file)),
            "admin.tls.key",
            "no private key",
        );
        // Whoever wrote something there is told what is wrong with it, and not to write it.
        check(
            &with("0.0.0.0:9901", "insecure = \"yes\""),
            "admin.insecure",
            "write true or false",
        );
        let nobody = admin("0.0.0.0:9901", &[]).replace("[admin]", "[admin]\ninsecure = true");
        check(&nobody, "admin.tokens", "nobody could call");
        check(&admin("unix:/a", &[OPS]), "admin.address", "is no address");
        let taken = admin("127.0.0.1:9901", &[OPS]).replace("127.0.0.1:0", "127.0.0.1:9901");
        check(&taken, "admin.address", "is the address of a listener");
        let missing =
            admin("127.0.0.1:0", &[OPS]).replace("[admin]\naddress = \"127.0.0.1:0\"", "[admin]");
        check(&missing, "admin.address", "is missing");
    }

    #[test]
    fn it_is_called_by_names_that_are_hosts() {
        let named =
            |hosts: &str| token(OPS).replace("[admin]", &format!("[admin]\nhosts = {hosts}"));
        let admin = good(&named("[\"admin.example.com\", \"*.ops.example.com\"]")).admin;
        let hosts: Vec<String> = admin
            .expect("admin")
            .hosts
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(hosts, ["admin.example.com", "*.ops.example.com"]);
        check(
            &named("[\"a.example.com\", \"https://b.example.com\"]"),
            "admin.hosts[1]",
            "is no host",
        );
    }

    #[test]
    fn probes_may_be_answered_anywhere_but_where_somebody_else_listens() {
        for address in ["0.0.0.0:9902", "127.0.0.1:0", "[::]:9902"] {
            let line = format!("probes_address = \"{address}\"");
            let admin = good(&with("127.0.0.1:9901", &line)).admin.expect("admin");
            assert_eq!(
                admin.probes.map(|it| it.to_string()).as_deref(),
                Some(address)
            );
            assert_eq!(admin.address.to_string(), "127.0.0.1:9901");
        }
        let none = good(&admin("127.0.0.1:9901", &[OPS])).admin;
        assert_eq!(none.expect("admin").probes, None);
        for (address, word) in [
            ("unix:/a", "is no address"),
            ("127.0.0.1:9901", "is the address of the admin API"),
            ("0.0.0.0:9901", "is the address of the admin API"),
            ("0.0.0.0:8080", "is the address of a listener"),
        ] {
            let text = with("127.0.0.1:9901", &format!("probes_address = \"{address}\""));
            let text = text.replace("address = \"127.0.0.1:0\"", "address = \"127.0.0.1:8080\"");
            check(&text, "admin.probes_address", word);
        }
    }

    #[test]
    fn no_secret_is_shown_by_debug() {
        let settings = good(&token(OPS));
        let shown = format!("{settings:#?}");
        assert!(shown.contains("secret:"), "{shown}");
        assert!(!shown.contains(&"s".repeat(16)), "{shown}");
        let bytes = format!("{:?}", [b's'; 3]);
        assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
    }

    #[test]
    fn somebody_must_be_able_to_call() {
        check(
            &admin("127.0.0.1:0", &[]),
            "admin.tokens",
            "nobody could call",
        );
        check(
            &token("secret = { env = \"SECRET_16\" }; roles = [\"read\"]"),
            "admin.tokens[0].name",
            "is missing",
        );
        check(
            &token("name = \"ops\"; roles = [\"read\"]"),
            "admin.tokens[0].secret",
            "is missing",
        );
        check(
            &token("name = \"ops\"; secret = { env = \"SECRET_16\" }"),
            "admin.tokens[0].roles",
            "is missing",
        );
        check(
            &token("name = \"ops\"; secret = { env = \"SECRET_16\" }; roles = []"),
            "admin.tokens[0].roles",
            "is empty",
        );
        check(
            &token(
                "name = \"ops\"; secret = { env = \"SECRET_16\" }; roles = [\"read\", \"write\"]",
            ),
            "admin.tokens[0].roles[1]",
            "is no role",
        );
        let settings = good(&token(
            "name = \"ops\"; secret = { env = \"SECRET_16\" }; roles = [\"security\", \"read\", \"security\"]",
        ));
        assert_eq!(
            settings.admin.expect("admin").tokens[0].roles,
            [Role::Security, Role::Read]
        );
    }

    #[test]
    fn an_issuer_may_stand_for_tokens_and_its_scopes_have_names() {
        let with = |lines: &str| {
            format!("{BASE}[admin]\naddress = \"127.0.0.1:0\"\n{lines}\n").replace(
                "issuer = \"https://id.example.com\"",
                "name = \"staff\"\nissuer = \"https://id.example.com\"",
            )
        };
        let admin = good(&with("issuer = \"staff\"")).admin.expect("admin");
        assert!(admin.tokens.is_empty());
        let issuer = admin.issuer.expect("an issuer");
        assert_eq!(issuer.name.as_str(), "staff");
        assert_eq!(
            [&*issuer.read, &*issuer.revoke, &*issuer.security],
            ["jotgate:read", "jotgate:revoke", "jotgate:security"]
        );
        let named = good(&with("issuer = \"staff\"\nscopes = { revoke = \"kick\" }"));
        let issuer = named.admin.expect("admin").issuer.expect("an issuer");
        assert_eq!((&*issuer.read, &*issuer.revoke), ("jotgate:read", "kick"));
        check(&with("issuer = \"other\""), "admin.issuer", "is no issuer");
        for scope in ["", "two words", "a\\\"b"] {
            check(
                &with(&format!(
                    "issuer = \"staff\"\nscopes = {{ read = \"{scope}\" }}"
                )),
                "admin.scopes.read",
                "is no scope",
            );
        }
        let lonely = token(OPS).replace("[admin]", "[admin]\nscopes = { read = \"a\" }");
        check(&lonely, "admin.scopes", "means nothing without an issuer");
    }

    #[test]
    fn secrets_are_long_different_and_can_be_sent() {
        check(
            &token(&OPS.replace("16", "15")),
            "admin.tokens[0].secret",
            "is shorter than 16 bytes",
        );
        check(
            &admin("127.0.0.1:0", &[OPS, &OPS.replace("16", "32")]),
            "admin.tokens[1].name",
            "is the name of admin.tokens[0]",
        );
        check(
            &admin("127.0.0.1:0", &[OPS, &OPS.replace("ops", "other")]),
            "admin.tokens[1].secret",
            "is also the secret of \"ops\"",
        );
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "0123456789 123456789\n").expect("a file");
        let reference = format!("file = {:?}", file.display().to_string());
        check(
            &token(&OPS.replace("env = \"SECRET_16\"", &reference)),
            "admin.tokens[0].secret",
            "cannot be sent",
        );
    }
}
