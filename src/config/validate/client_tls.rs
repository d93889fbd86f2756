//! `tls` of upstreams, issuers, Redis and collectors, and what servers with TLS need without it. Files are read here, so that every
//! fault of theirs is found before anything is served.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::ServerName;

use super::check::Check;
use crate::base::file::read_bounded;
use crate::base::secret::Secret;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::config::secret::from_file;
use crate::http::client_tls::{
    CERTIFICATES_BYTES_MAX, Files, Identity, IdentityFiles, Roots, certificates, client,
    private_key,
};
use crate::upstream::{Server, Tls, TlsClient};

/// The system's certificates, read once for a whole file, and only if it needs them.
#[derive(Debug, Default)]
pub(super) struct SystemRoots(Option<Arc<RootCertStore>>);

impl SystemRoots {
    fn load(&mut self) -> Arc<RootCertStore> {
        let roots = self.0.get_or_insert_with(|| Arc::new(Roots::System.load()));
        Arc::clone(roots)
    }
}

/// What a client of TLS is made from.
pub(super) struct Material {
    /// Whom we believe.
    pub(super) roots: Arc<RootCertStore>,
    /// Who we are.
    pub(super) identity: Option<Identity>,
    /// What each certificate must name, instead of the host that is called.
    pub(super) name: Option<ServerName<'static>>,
}

impl Material {
    /// From `tls` at `at`, if it is written; `server_at` is a server that needs it.
    pub(super) fn new(
        (at, raw): (&KeyPath, Option<&raw::ClientTls>),
        server_at: &KeyPath,
        system: &mut SystemRoots,
        check: &mut Check<'_>,
    ) -> Option<Self> {
        let ca = raw.and_then(|raw| raw.ca.as_ref());
        let roots = match ca {
            Some(file) => own_roots(&at.key("ca"), file, check),
            None if check.has_holes(at) => None,
            None => Some(system.load()).filter(|roots| {
                if roots.is_empty() {
                    check.fault(
                        server_at,
                        "needs certificates of CAs, and this system has none; install them (ca-certificates), or write tls.ca beside it",
                    );
                }
                !roots.is_empty()
            }),
        };
        let identity = raw.map_or(Ok(None), |raw| identity(raw, at, check));
        let name = match raw.and_then(|raw| raw.server_name.as_ref()) {
            None => Some(None),
            Some(text) => check
                .parsed(&at.key("server_name"), text, |text| {
                    ServerName::try_from(text.to_owned())
                        .map_err(|_| "is neither a name nor an address that a certificate can have")
                })
                .map(Some),
        };
        Some(Self {
            roots: roots?,
            identity: identity.ok()?,
            name: name?,
        })
    }
}

/// The fault of a key that is not the certificate's.
pub(super) fn misfit(at: &KeyPath, error: &rustls::Error, check: &mut Check<'_>) {
    check.fault(
        &at.key("key"),
        format!("does not fit the certificate: {error}"),
    );
}

/// Where the files of `tls` at `at` are, for a client that reads them itself; `url_at` is what it calls. They are good now.
pub(super) fn files(
    (at, raw): (&KeyPath, &raw::ClientTls),
    url_at: &KeyPath,
    system: &mut SystemRoots,
    check: &mut Check<'_>,
) -> Option<Files> {
    let Material {
        roots,
        identity,
        name,
    } = Material::new((at, Some(raw)), url_at, system, check)?;
    if let Err(error) = client(roots, identity) {
        misfit(at, &error, check);
        return None;
    }
    let mut path = |key: &str, file: &Option<String>| {
        let file = file.as_ref()?;
        check.resolve(&at.key(key), file)
    };
    let ca = path("ca", &raw.ca);
    let certificate = path("certificate", &raw.certificate);
    let identity = certificate.zip(path("key", &raw.key));
    Some(Files {
        ca,
        identity: identity.map(|(certificate, key)| IdentityFiles { certificate, key }),
        server_name: name,
    })
}

/// What the servers of one upstream have in common.
pub(super) struct Trust {
    client: TlsClient,
    name: Option<ServerName<'static>>,
}

impl Trust {
    /// From `tls` at `at`, if it is written; `server_at` is a server that needs it.
    pub(super) fn new(
        (at, raw): (&KeyPath, Option<&raw::ClientTls>),
        server_at: &KeyPath,
        http2: bool,
        system: &mut SystemRoots,
        check: &mut Check<'_>,
    ) -> Option<Self> {
        let Material {
            roots,
            identity,
            name,
        } = Material::new((at, raw), server_at, system, check)?;
        match TlsClient::new(roots, identity, http2) {
            Ok(client) => Some(Self { client, name }),
            Err(error) => {
                misfit(at, &error, check);
                None
            }
        }
    }

    /// One of the servers. Its own host is what its certificate must name, unless another name is written.
    pub(super) fn server(
        &self,
        at: &KeyPath,
        host: Arc<str>,
        port: u16,
        check: &mut Check<'_>,
    ) -> Option<Server> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => check.parsed(at, &host, |host| {
                ServerName::try_from(host.to_owned())
                    .map_err(|_| "is no name that a certificate can have; write tls.server_name")
            })?,
        };
        let tls = Tls::new(self.client.clone(), name);
        Some(Server::Tls { host, port, tls })
    }
}

fn own_roots(at: &KeyPath, file: &str, check: &mut Check<'_>) -> Option<Arc<RootCertStore>> {
    let roots = Roots::Pem(&read(at, file, check)?).load();
    if roots.is_empty() {
        check.fault(
            at,
            format!("{file:?} has no certificates that can be read; write a PEM file of them"),
        );
        return None;
    }
    Some(Arc::new(roots))
}

/// A fault was noted.
#[derive(Debug)]
struct Faulty;

/// `certificate` and `key`: both or none.
fn identity(
    raw: &raw::ClientTls,
    at: &KeyPath,
    check: &mut Check<'_>,
) -> Result<Option<Identity>, Faulty> {
    let (certificate_at, key_at) = (at.key("certificate"), at.key("key"));
    match (&raw.certificate, &raw.key) {
        (None, None) if check.is_hole(&certificate_at) || check.is_hole(&key_at) => Err(Faulty),
        (None, None) => Ok(None),
        (Some(_), None) => {
            check.fault(
                &key_at,
                "is missing; write the file of the certificate's key",
            );
            Err(Faulty)
        }
        (None, Some(_)) => {
            check.fault(
                &certificate_at,
                "is missing; write the file of the key's certificate",
            );
            Err(Faulty)
        }
        (Some(certificate), Some(key)) => {
            let certificates = read(&certificate_at, certificate, check)
                .and_then(|pem| check.parsed(&certificate_at, certificate, |_| certificates(&pem)));
            let key = secret_file(&key_at, key, check)
                .and_then(|pem| check.parsed(&key_at, key, |_| private_key(&pem)));
            Ok(Some(Identity {
                certificates: certificates.ok_or(Faulty)?,
                key: key.ok_or(Faulty)?,
            }))
        }
    }
}

fn secret_file(at: &KeyPath, file: &str, check: &mut Check<'_>) -> Option<Secret> {
    let path = check.resolve(at, file)?;
    match from_file(&path) {
        Ok(secret) => Some(secret),
        Err(reason) => {
            check.fault(at, format!("has no key: {reason}"));
            None
        }
    }
}

fn read(at: &KeyPath, file: &str, check: &mut Check<'_>) -> Option<Vec<u8>> {
    let path = check.resolve(at, file)?;
    match read_bounded(&path, CERTIFICATES_BYTES_MAX) {
        Ok(content) => Some(content),
        Err(error) => {
            check.fault(at, format!("{} cannot be read: {error}", path.display()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http::uri::Scheme;

    use super::super::testing::{BASE, check, good};
    use crate::upstream::Options;

    /// A folder with `ca.pem`, `c.pem` and `c.key`, which fit each other, and `other.key`.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["gateway".into()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        write("ca.pem", &certificate);
        write("c.pem", &certificate);
        write("c.key", &key.serialize_pem());
        write(
            "other.key",
            &rcgen::KeyPair::generate().unwrap().serialize_pem(),
        );
        write("empty.pem", "no certificate");
        folder
    }

    /// A file with an upstream; `@` in it is the folder.
    fn upstream(folder: &Path, lines: &str) -> String {
        let base = BASE.replace("http://127.0.0.1:3000", "orders");
        let lines = lines.replace('@', folder.to_str().unwrap());
        format!("{base}[[upstreams]]\nname = \"orders\"\n{lines}\n")
    }

    fn only(text: &str) -> Options {
        let mut upstreams = good(text).upstreams;
        assert_eq!(upstreams.len(), 1);
        upstreams.remove(0)
    }

    #[test]
    fn https_servers_have_a_scheme_a_port_and_a_name() {
        let folder = folder();
        let options = only(&upstream(
            folder.path(),
            "servers = [\"https://a\", \"https://[::1]:8443\"]\ntls = { ca = \"@/ca.pem\", certificate = \"@/c.pem\", key = \"@/c.key\" }",
        ));
        assert_eq!(options.scheme(), Scheme::HTTPS);
        let written: Vec<String> = options.servers.iter().map(ToString::to_string).collect();
        assert_eq!(written, ["https://a:443", "https://::1:8443"]);
        let text = format!("{options:?}");
        assert!(text.contains("\"a\"") && text.contains("::1"), "{text}");
        let named = only(&upstream(
            folder.path(),
            "servers = [\"https://127.0.0.1\"]\ntls = { ca = \"@/ca.pem\", server_name = \"orders.internal\" }",
        ));
        let text = format!("{named:?}");
        assert!(text.contains("orders.internal"), "{text}");
    }

    #[test]
    fn what_cannot_be_used_is_a_fault_of_its_own_key() {
        let folder = folder();
        let tls = |tls: &str| {
            let lines = format!("servers = [\"https://a\"]\ntls = {{ {tls} }}");
            upstream(folder.path(), &lines)
        };
        for (lines, key, word) in [
            ("ca = \"@/none.pem\"", "ca", "cannot be read"),
            ("ca = \"@\"", "ca", "cannot be read"),
            (
                "ca = \"@/empty.pem\"",
                "ca",
                "has no certificates that can be read",
            ),
            (
                "ca = \"@/c.key\"",
                "ca",
                "has no certificates that can be read",
            ),
            (
                "ca = \"@/ca.pem\", key = \"@/c.key\"",
                "certificate",
                "is missing",
            ),
            (
                "ca = \"@/ca.pem\", certificate = \"@/c.pem\"",
                "key",
                "is missing",
            ),
            (
                "ca = \"@/ca.pem\", certificate = \"@/c.pem\", key = \"@/other.key\"",
                "key",
                "does not fit the certificate",
            ),
            (
                "ca = \"@/ca.pem\", certificate = \"@/c.pem\", key = \"@/c.pem\"",
                "key",
                "has no private key that can be read",
            ),
            (
                "ca = \"@/ca.pem\", certificate = \"@/c.pem\", key = \"@/none.key\"",
                "key",
                "has no key",
            ),
            (
                "ca = \"@/ca.pem\", certificate = \"@/empty.pem\", key = \"@/c.key\"",
                "certificate",
                "has no certificates that can be read",
            ),
            (
                "ca = \"@/ca.pem\", server_name = \"a b\"",
                "server_name",
                "is neither a name nor an address",
            ),
            ("ca = 1", "ca", "text"),
            ("ca = \"@/ca.pem\", verify = false", "verify", "unknown key"),
        ] {
            check(&tls(lines), &format!("upstreams[0].tls.{key}"), word);
        }
    }

    #[test]
    fn all_servers_have_tls_or_none() {
        let folder = folder();
        check(
            &upstream(
                folder.path(),
                "servers = [\"http://a\"]\ntls = { ca = \"@/ca.pem\" }",
            ),
            "upstreams[0].tls",
            "is for servers with https://",
        );
        for plain in ["http://b", "unix:/run/b.sock"] {
            let lines =
                format!("servers = [\"https://a\", \"{plain}\"]\ntls = {{ ca = \"@/ca.pem\" }}");
            check(
                &upstream(folder.path(), &lines),
                "upstreams[0].servers[1]",
                "has no TLS, but others of this upstream have",
            );
        }
    }
}
