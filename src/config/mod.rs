//! From what the file says (`raw`) to what the program believes (`settings`): one TOML file, the
//! environment over it, every fault at once with its line and its cure.

mod diff;
mod error;
mod fixed;
#[cfg(any(test, fuzzing))]
pub(crate) mod law;
mod load;
mod place;
mod protections;
mod raw;
mod schema;
mod secret;
pub mod settings;
mod validate;

pub use diff::{Change, Outline};
pub use error::{Fault, Faults};
pub use fixed::Fixed;
pub use load::{load, load_beside, load_fixed, load_str};
pub use protections::Protections;
pub use schema::schema;
pub use settings::Settings;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    /// What the examples refer to.
    fn env() -> Vec<(String, String)> {
        let secrets = [
            "JOTGATE_ADMIN_TOKEN",
            "JOTGATE_FLEET_SECRET",
            "JOTGATE_REDIS_PASSWORD",
        ];
        let value = "0123456789abcdef0123456789abcdef";
        secrets
            .map(|name| (name.to_owned(), value.to_owned()))
            .into()
    }

    fn repository(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    fn text(path: &str) -> String {
        std::fs::read_to_string(repository(path)).expect("a file of the repository")
    }

    #[test]
    fn every_example_loads() {
        let files: Vec<PathBuf> = std::fs::read_dir(repository("config"))
            .expect("the folder of examples")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        assert!(files.len() >= 5, "{files:?}");
        let (_folder, certificates) = edge();
        for file in files {
            let text = std::fs::read_to_string(&file).expect("an example");
            let mut env = env();
            if file.ends_with("edge.toml") {
                env.extend(certificates.iter().cloned());
            }
            if file.ends_with("fleet.toml") {
                // Not every machine has certificates of its own.
                let (_, ca) = &certificates[0];
                env.push(("JOTGATE__DENYLIST__REDIS__TLS__CA".to_owned(), ca.clone()));
            }
            let settings = load_str(&file.display().to_string(), &text, &env);
            assert!(settings.is_ok(), "{}", settings.expect_err("faults"));
        }
    }

    /// A pair for each certificate of `edge.toml`, and an authority, by the environment.
    fn edge() -> (tempfile::TempDir, Vec<(String, String)>) {
        let folder = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        let write = |name: &str, content: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("written");
            path.display().to_string()
        };
        let certificate = write("certificate", certificate);
        let key = write("key", key.serialize_pem());
        let mut env = vec![(
            "JOTGATE__LISTENERS__1__TLS__CLIENT_CA".to_owned(),
            certificate.clone(),
        )];
        for table in [
            "LISTENERS__0__TLS__CERTIFICATES__0",
            "LISTENERS__0__TLS__CERTIFICATES__1",
            "LISTENERS__1__TLS",
            "ADMIN__TLS",
        ] {
            env.push((
                format!("JOTGATE__{table}__CERTIFICATE"),
                certificate.clone(),
            ));
            env.push((format!("JOTGATE__{table}__KEY"), key.clone()));
        }
        (folder, env)
    }

    #[test]
    fn the_complete_example_says_every_default() {
        let minimal = r#"
            [[listeners]]
            address = "0.0.0.0:8080"

            [[issuers]]
            issuer = "https://id.example.com/realms/shop"
            audiences = ["orders-api"]
            headers = { x-user-id = "sub", x-user-roles = "realm_access.roles" }

            [[upstreams]]
            name = "orders"
            servers = ["http://127.0.0.1:3000", "unix:/run/orders.sock"]

            [[routes]]
            hosts = ["api.example.com"]
            path = "/orders"
            methods = ["GET", "POST"]
            upstream = "orders"
            scopes = ["orders"]
            any_scope = ["read", "write"]
            claims = { tenant = "shop", "realm_access.roles" = ["clerk", "manager"] }
            expression = "claims.tenant == request.headers['x-tenant']"
            cors = { origins = ["https://shop.example.com"] }

            [admin]
            address = "127.0.0.1:9901"
            tokens = [{ name = "ops", secret = { env = "JOTGATE_ADMIN_TOKEN" }, roles = ["read", "revoke", "security"] }]
        "#;
        let minimal = load_str("minimal.toml", minimal, &env()).expect("a good file");
        let complete =
            load_str("complete.toml", &text("config/complete.toml"), &env()).expect("a good file");
        assert_eq!(format!("{complete:#?}"), format!("{minimal:#?}"));
    }

    /// The shape of every key in a TOML text that stands below the table `table`.
    fn keys_in(table: &str, value: &toml::Value, keys: &mut BTreeSet<String>) {
        match value {
            toml::Value::Table(members) => {
                for (key, value) in members {
                    let path = match table {
                        "" => key.clone(),
                        table => format!("{table}.{key}"),
                    };
                    keys_in(&path, value, keys);
                    keys.insert(path);
                }
            }
            toml::Value::Array(elements) => {
                for element in elements {
                    keys_in(&format!("{table}[]"), element, keys);
                }
            }
            _ => {}
        }
    }

    /// The table that a header such as `[routes.cors]` opens, in the shape of its path.
    fn table_of(header: &str) -> String {
        let inner = header.trim_matches(['[', ']']);
        let lists: BTreeSet<&str> = [
            "listeners",
            "issuers",
            "upstreams",
            "routes",
            "admin.tokens",
        ]
        .into();
        let mut path = String::new();
        for part in inner.split('.') {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(part);
            if lists.contains(path.as_str()) {
                path.push_str("[]");
            }
        }
        path
    }

    /// What the operator chooses is no key of ours.
    fn is_chosen(path: &str) -> bool {
        [
            "issuers[].headers.",
            "routes[].claims.",
            "issuers[].jwks.",
            "telemetry.otlp.headers.",
        ]
        .iter()
        .any(|table| path.starts_with(table))
    }

    #[test]
    fn the_complete_example_has_every_key() {
        let text = text("config/complete.toml");
        let mut found = BTreeSet::new();
        keys_in(
            "",
            &text.parse::<toml::Table>().expect("TOML").into(),
            &mut found,
        );
        let mut table = String::new();
        for line in text.lines() {
            if line.starts_with('[') {
                table = table_of(line.split(" #").next().expect("a first part").trim());
            }
            // `#key` is a key that is switched off, `# text` is text.
            let off = line
                .strip_prefix('#')
                .filter(|rest| !rest.starts_with(' ') && !rest.is_empty());
            if let Some(off) = off {
                let off = off.parse::<toml::Table>().expect("one key");
                keys_in(&table, &off.into(), &mut found);
            }
        }
        found.retain(|path| !is_chosen(path));
        let known: BTreeSet<String> = raw::keys().into_iter().collect();
        assert!(known.len() > 80);
        assert_eq!(found, known);
    }

    #[test]
    fn the_reference_has_every_key_once() {
        let mut documented: Vec<String> = text("docs/config.md")
            .lines()
            .skip_while(|line| *line != "## The file")
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(key, _)| key.to_owned())
            .collect();
        let mut known = raw::keys();
        documented.sort();
        known.sort();
        assert!(known.len() > 80);
        assert_eq!(documented, known);
    }
}
