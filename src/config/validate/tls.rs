//! `listeners.tls` and `admin.tls`. The files are read here, so that a key that does not fit its certificate is a fault of the
//! configuration, and the gateway starts with what was checked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::check::Check;
use super::headers::{fold, name};
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::listener::tls::{
    CertificateHeaders, ClientAuth, FileRole, Files, Options, PairFiles, Tls, TlsFault,
};

/// Default deadline of a handshake: three round trips over the worst line, and its client's arithmetic.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Its bounds: a handshake needs two round trips, and who needs more than a minute will not come.
const HANDSHAKE_BOUNDS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_mins(1);

/// What to write.
const CURE: &str = "certificate = \"tls.crt\" and key = \"tls.key\"";

/// Files, and the keys that name them, in the same order.
#[derive(Default)]
struct Named {
    pairs: Vec<PairFiles>,
    at: Vec<KeyPath>,
}

impl Named {
    fn add(
        &mut self,
        certificate: Option<&String>,
        key: Option<&String>,
        at: &KeyPath,
        check: &mut Check<'_>,
    ) -> Option<()> {
        let certificate = check.required(at, "certificate", certificate, CURE);
        let key = check.required(at, "key", key, CURE);
        let certificate = check.resolve(&at.key("certificate"), certificate?)?;
        let key = check.resolve(&at.key("key"), key?)?;
        self.pairs.push(PairFiles { certificate, key });
        self.at.push(at.clone());
        Some(())
    }

    /// TLS with these files, or the fault of the one that is wrong.
    fn load(
        self,
        options: impl FnOnce(Vec<PairFiles>) -> Options,
        at: &KeyPath,
        check: &mut Check<'_>,
    ) -> Option<Arc<Tls>> {
        let options = options(self.pairs);
        let made = options
            .files
            .read()
            .and_then(|contents| Tls::new(options, &contents));
        let fault = match made {
            Ok(tls) => return Some(Arc::new(tls)),
            Err(fault) => fault,
        };
        let path = match &fault {
            TlsFault::File { role, .. } => match *role {
                FileRole::Certificate(n) => self.at[n].key("certificate"),
                FileRole::Key(n) => self.at[n].key("key"),
                FileRole::ClientCa => at.key("client_ca"),
            },
            TlsFault::Random => at.clone(),
        };
        check.fault(&path, fault.to_string());
        None
    }
}

/// TLS of a listener.
pub(super) fn listener(
    raw: &raw::Tls,
    at: &KeyPath,
    http2: bool,
    check: &mut Check<'_>,
) -> Option<Arc<Tls>> {
    let mut named = Named::default();
    let list = at.key("certificates");
    let one = raw.certificate.is_some() || raw.key.is_some();
    if one && raw.certificates.is_some() {
        check.fault(
            &list,
            "stands beside certificate and key; write all pairs in certificates, the first one for clients that name no host",
        );
        return None;
    }
    let mut whole = true;
    match &raw.certificates {
        None => {
            whole = named
                .add(raw.certificate.as_ref(), raw.key.as_ref(), at, check)
                .is_some();
        }
        Some(pairs) if pairs.is_empty() => {
            check.fault(&list, format!("is empty; write [{{ {CURE} }}]"));
            whole = false;
        }
        Some(pairs) => {
            for (n, pair) in pairs.iter() {
                let (certificate, key) = (pair.certificate.as_ref(), pair.key.as_ref());
                whole &= named.add(certificate, key, &list.index(n), check).is_some();
            }
        }
    }
    let handshake_timeout = check.duration(
        &at.key("handshake_timeout"),
        raw.handshake_timeout,
        HANDSHAKE,
        HANDSHAKE_BOUNDS,
    );
    let headers = headers(raw, at, check);
    let (ca, auth) = (raw.client_ca.as_ref(), raw.client_auth.as_ref());
    let client = client(ca, auth, at, check);
    if !whole || check.has_holes(at) {
        return None;
    }
    let (client_ca, client_auth) = client?;
    named.load(
        |pairs| Options {
            files: Files { pairs, client_ca },
            client_auth,
            headers,
            http2,
            handshake_timeout,
        },
        at,
        check,
    )
}

/// TLS of the admin API, which speaks HTTP/1.1.
pub(super) fn admin(raw: &raw::AdminTls, at: &KeyPath, check: &mut Check<'_>) -> Option<Arc<Tls>> {
    let mut named = Named::default();
    let whole = named.add(raw.certificate.as_ref(), raw.key.as_ref(), at, check);
    let (ca, auth) = (raw.client_ca.as_ref(), raw.client_auth.as_ref());
    let client = client(ca, auth, at, check);
    if check.has_holes(at) {
        return None;
    }
    let ((), (client_ca, client_auth)) = whole.zip(client)?;
    named.load(
        |pairs| Options {
            files: Files { pairs, client_ca },
            client_auth,
            headers: CertificateHeaders::default(),
            http2: false,
            handshake_timeout: HANDSHAKE,
        },
        at,
        check,
    )
}

/// Whose certificates are asked for. An authority alone asks for all: who wrote it wants it checked.
fn client(
    ca: Option<&String>,
    auth: Option<&String>,
    at: &KeyPath,
    check: &mut Check<'_>,
) -> Option<(Option<PathBuf>, ClientAuth)> {
    let path = at.key("client_auth");
    let auth = match auth {
        None => None,
        Some(text) => Some(check.parsed(&path, text, |text| match text {
            "required" => Ok(ClientAuth::Required),
            "optional" => Ok(ClientAuth::Optional),
            _ => Err("is unknown; write \"required\" or \"optional\""),
        })?),
    };
    match (ca, auth) {
        (None, None) => Some((None, ClientAuth::None)),
        (None, Some(_)) => {
            check.fault(
                &path,
                "means nothing without an authority; write client_ca = \"clients.pem\", or leave it out",
            );
            None
        }
        (Some(ca), auth) => {
            let ca = check.resolve(&at.key("client_ca"), ca)?;
            Some((Some(ca), auth.unwrap_or(ClientAuth::Required)))
        }
    }
}

fn headers(raw: &raw::Tls, at: &KeyPath, check: &mut Check<'_>) -> CertificateHeaders {
    let table = at.key("client_certificate_headers");
    let Some(headers) = &raw.client_certificate_headers else {
        return CertificateHeaders::default();
    };
    if raw.client_ca.is_none() && !check.is_hole(&at.key("client_ca")) {
        check.fault(
            &table,
            "means nothing where clients are not asked for certificates; write client_ca = \"clients.pem\", or leave it out",
        );
    }
    let mut seen = vec![];
    let mut header = |key: &str, text: Option<&String>| -> Option<HeaderName> {
        name(text?, &table.key(key), &mut seen, check)
    };
    CertificateHeaders {
        subject: header("subject", headers.subject.as_ref()),
        san: header("san", headers.san.as_ref()),
    }
}

/// That no header says who the client is by its certificate, and by its token as well.
pub(super) fn distinct(
    raw: &raw::Tls,
    at: &KeyPath,
    issuers: Option<&raw::List<raw::Issuer>>,
    check: &mut Check<'_>,
) {
    let Some(headers) = &raw.client_certificate_headers else {
        return;
    };
    let table = at.key("client_certificate_headers");
    for (key, text) in [("subject", &headers.subject), ("san", &headers.san)] {
        let Some(text) = text else { continue };
        for (n, issuer) in issuers.into_iter().flat_map(raw::List::iter) {
            let at = KeyPath::default().key("issuers").index(n);
            let claims = issuer.headers.iter().flat_map(raw::Table::iter);
            let claims = claims.map(|(header, _)| (header, at.key("headers").key(header)));
            let payload = issuer.payload_header.iter();
            let payload = payload.map(|header| (header.as_str(), at.key("payload_header")));
            let taken = claims
                .chain(payload)
                .find(|(header, _)| fold(header) == fold(text));
            if let Some((_, other)) = taken {
                let other = check.whereabouts(&other);
                check.fault(
                    &table.key(key),
                    format!("{text:?} is the same header as {other}, which comes from the token; write another name"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::super::testing::{check, good, issuer, listener};
    use super::*;

    /// A folder with two pairs and an authority.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            std::fs::write(folder.path().join(name), content).unwrap();
        };
        for name in ["a", "b"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
            write(
                &format!("{name}.crt"),
                &params.self_signed(&key).unwrap().pem(),
            );
            write(&format!("{name}.key"), &key.serialize_pem());
        }
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write("ca.pem", &params.self_signed(&key).unwrap().pem());
        write("none.pem", "no PEM");
        write(
            "broken.pem",
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        );
        write(
            "empty.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        );
        folder
    }

    /// A good file with this table `tls`; `$` is the folder.
    fn tls(folder: &tempfile::TempDir, members: &str) -> String {
        let members = members.replace('$', &format!("{}/", folder.path().display()));
        listener(&format!("tls = {{ {members} }}"))
    }

    const PAIR: &str = "certificate = \"$a.crt\", key = \"$a.key\"";

    #[test]
    fn a_pair_is_enough() {
        let folder = folder();
        let settings = good(&tls(&folder, PAIR));
        let tls = settings.listeners[0].tls.as_ref().unwrap();
        assert_eq!(tls.options().handshake_timeout, Duration::from_secs(10));
        assert_eq!(tls.options().client_auth, ClientAuth::None);
        assert!(tls.options().http2);
    }

    #[test]
    fn wrong_files_are_faults_of_their_keys() {
        let folder = folder();
        let fault = |members: &str, key: &str, word: &str| {
            check(
                &tls(&folder, members),
                &format!("listeners[0].tls.{key}"),
                word,
            );
        };
        let both = |certificate: &str, key: &str| {
            format!("certificate = \"${certificate}\", key = \"${key}\"")
        };
        fault(
            &both("a.crt", "b.key"),
            "key",
            "is not the key of its certificate",
        );
        fault(&both("a.crt", "missing"), "key", "cannot be read");
        fault(&both("missing", "a.key"), "certificate", "cannot be read");
        fault(
            &both("none.pem", "a.key"),
            "certificate",
            "holds no certificate",
        );
        fault(
            &both("a.key", "a.key"),
            "certificate",
            "holds no certificate",
        );
        fault(&both("broken.pem", "a.key"), "certificate", "holds PEM");
        fault(
            &both("empty.pem", "a.key"),
            "certificate",
            "a certificate that cannot be read",
        );
        fault(&both("a.crt", "a.crt"), "key", "holds no private key");
        let list = format!(
            "certificates = [{{ {PAIR} }}, {{ {} }}]",
            both("a.crt", "b.key")
        );
        fault(
            &list,
            "certificates[1].key",
            "is not the key of its certificate",
        );
        for ca in ["none.pem", "a.key"] {
            fault(
                &format!("{PAIR}, client_ca = \"${ca}\""),
                "client_ca",
                "holds no certificate",
            );
        }
        fault(
            &format!("{PAIR}, client_ca = \"$empty.pem\""),
            "client_ca",
            "an authority",
        );
    }

    #[test]
    fn one_pair_or_a_list_of_them() {
        let folder = folder();
        let fault = |members: &str, key: &str, word: &str| {
            check(
                &tls(&folder, members),
                &format!("listeners[0].tls.{key}"),
                word,
            );
        };
        good(&tls(&folder, &format!("certificates = [{{ {PAIR} }}]")));
        fault("certificate = \"$a.crt\"", "key", "is missing");
        fault("key = \"$a.key\"", "certificate", "is missing");
        fault("certificates = []", "certificates", "is empty");
        fault(
            "certificates = [{ certificate = \"$a.crt\" }]",
            "certificates[0].key",
            "is missing",
        );
        fault(
            &format!("{PAIR}, certificates = [{{ {PAIR} }}]"),
            "certificates",
            "beside",
        );
        fault(
            &format!("{PAIR}, handshake_timeout = \"2m\""),
            "handshake_timeout",
            "out of bounds",
        );
    }

    #[test]
    fn an_authority_asks_for_certificates() {
        let folder = folder();
        let with = |members: &str| tls(&folder, &format!("{PAIR}, {members}"));
        let auth = |members: &str| {
            let settings = good(&with(members));
            settings.listeners[0]
                .tls
                .as_ref()
                .unwrap()
                .options()
                .client_auth
        };
        let ca = "client_ca = \"$ca.pem\"";
        assert_eq!(auth(ca), ClientAuth::Required);
        assert_eq!(
            auth(&format!("{ca}, client_auth = \"required\"")),
            ClientAuth::Required
        );
        assert_eq!(
            auth(&format!("{ca}, client_auth = \"optional\"")),
            ClientAuth::Optional
        );
        let fault = |members: &str, key: &str, word: &str| {
            check(&with(members), &format!("listeners[0].tls.{key}"), word);
        };
        fault(
            &format!("{ca}, client_auth = \"yes\""),
            "client_auth",
            "is unknown",
        );
        fault(
            "client_auth = \"required\"",
            "client_auth",
            "without an authority",
        );
        let headers = "client_certificate_headers = { subject = \"x-subject\" }";
        fault(headers, "client_certificate_headers", "not asked");
    }

    #[test]
    fn headers_of_certificates_are_nobody_else_s() {
        let folder = folder();
        let headers = |headers: &str| {
            let ca = "client_ca = \"$ca.pem\"";
            tls(
                &folder,
                &format!("{PAIR}, {ca}, client_certificate_headers = {{ {headers} }}"),
            )
        };
        let at = |key: &str| format!("listeners[0].tls.client_certificate_headers.{key}");
        good(&headers("subject = \"x-subject\", san = \"x-san\""));
        check(
            &headers("subject = \"host\""),
            &at("subject"),
            "means something to HTTP",
        );
        let same = headers("subject = \"x-client\", san = \"X_Client\"");
        check(&same, &at("san"), "is the same header");
        let claims = issuer("headers = { x-user-id = \"sub\" }\npayload_header = \"x-payload\"");
        let with_claims = |text: &str| {
            let tls = headers(text);
            let line = tls.lines().find(|line| line.starts_with("tls =")).unwrap();
            claims.replace("\n\n[[issuers]]", &format!("\n{line}\n\n[[issuers]]"))
        };
        check(
            &with_claims("subject = \"X-User_Id\""),
            &at("subject"),
            "comes from the token",
        );
        check(
            &with_claims("san = \"x-payload\""),
            &at("san"),
            "comes from the token",
        );
    }
}
