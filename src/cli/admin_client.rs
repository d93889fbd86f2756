//! Speaks to the admin API of a running gateway: one request, one bounded answer, one deadline.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::Value;
use tokio::time::Instant;

use super::print::harmless;
use crate::base::causes::root_cause;
use crate::base::file::read_bounded;
use crate::base::secret::{ExposeSecret, Secret, secret};
use crate::http::client::{Client, ClientError, PlainHttp, is_loopback};
use crate::http::client_tls::{Files, FilesError, IdentityFiles};

/// The environment variable that holds the bearer token of the admin API.
const TOKEN_VARIABLE: &str = "JOTGATE_ADMIN_TOKEN";

/// One request may take this long. The admin API answers from memory; somebody waits at a terminal.
const DEADLINE: Duration = Duration::from_secs(10);

/// Largest answer read, in bytes. A million rules of 60 bytes each.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Largest token file read, in bytes. Servers refuse longer headers.
const TOKEN_FILE_BYTES_MAX: usize = 8 * 1024;

/// Where the admin API is.
#[derive(Debug, Args)]
pub(super) struct AdminUrl {
    /// The gateway's admin API
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9901")]
    admin: Uri,
    /// The authority of its certificate, a PEM file, for https:// [default: those of the system]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Our certificate, a PEM file, for a gateway that asks for one
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// The private key of --client-certificate, a PEM file that is not encrypted
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    client_key: Option<PathBuf>,
}

impl AdminUrl {
    fn tls(&self) -> Files {
        let identity = self.client_certificate.clone().zip(self.client_key.clone());
        Files {
            ca: self.ca.clone(),
            identity: identity.map(|(certificate, key)| IdentityFiles { certificate, key }),
            server_name: None,
        }
    }
}

/// Where the admin API is, and who asks.
#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    #[command(flatten)]
    url: AdminUrl,
    /// The file with the bearer token
    #[arg(
        long,
        value_name = "FILE",
        help = "The file with the admin API's token [default: the environment's JOTGATE_ADMIN_TOKEN]"
    )]
    admin_token_file: Option<PathBuf>,
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    #[error("--admin: {0} is no address of an admin API; write one such as http://127.0.0.1:9901")]
    Url(Box<Uri>),
    #[error(
        "--ca and --client-certificate mean nothing for {0}; write --admin https://…, or leave them out"
    )]
    TlsFilesWithoutTls(Box<Uri>),
    #[error(transparent)]
    TlsFiles(#[from] FilesError),
    #[error(
        "--admin: {0} is another machine, and the admin token would travel in the clear; use https://, or forward the port \
         (ssh -L 9901:127.0.0.1:9901, kubectl port-forward) and use http://127.0.0.1:9901"
    )]
    Exposed(Box<Uri>),
    #[error(
        "who asks? Set {TOKEN_VARIABLE} to a token of [[admin.tokens]], or write --admin-token-file FILE"
    )]
    NoToken,
    #[error("cannot read the admin token from {path}: {source}", path = path.display())]
    TokenFile { path: PathBuf, source: io::Error },
    #[error("the admin token holds characters that no header can carry")]
    TokenForm,
    #[error(
        "cannot reach the admin API at {url}: {}. Is the gateway running, with an [admin] section?",
        root_cause(&**source)
    )]
    Unreachable {
        url: Box<Uri>,
        source: Box<ClientError>,
    },
    #[error("the admin API at {0} did not answer in time")]
    Late(Box<Uri>),
    #[error("cannot read the answer of {url}: {source}")]
    Broken {
        url: Box<Uri>,
        source: Box<ClientError>,
    },
    #[error("{url} answered {status} with something that is no JSON; is that the admin API?")]
    NotJson { url: Box<Uri>, status: StatusCode },
    #[error("refused: {status}{}", said(answer))]
    Refused { status: StatusCode, answer: Value },
}

impl AdminError {
    /// Whether the command line is at fault.
    pub(super) const fn is_usage(&self) -> bool {
        match self {
            Self::Url(_)
            | Self::TlsFilesWithoutTls(_)
            | Self::Exposed(_)
            | Self::NoToken
            | Self::TokenForm => true,
            Self::TlsFiles(_)
            | Self::TokenFile { .. }
            | Self::Unreachable { .. }
            | Self::Late(_)
            | Self::Broken { .. }
            | Self::NotJson { .. }
            | Self::Refused { .. } => false,
        }
    }
}

/// The words of a problem document (RFC 9457).
fn said(answer: &Value) -> String {
    let words = ["code", "title", "detail"].map(|name| answer.get(name).and_then(Value::as_str));
    let words: Vec<&str> = words.into_iter().flatten().collect();
    if words.is_empty() {
        String::new()
    } else {
        format!(" ({})", harmless(&words.join(": ")))
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Bytes,
}

/// One caller of one admin API.
#[derive(Debug)]
pub(super) struct AdminClient {
    url: Uri,
    token: Option<Secret>,
    client: Client,
    patience: Duration,
}

impl AdminClient {
    /// With the token of the file, else of the environment.
    pub(super) fn new(args: &AdminArgs) -> Result<Self, AdminError> {
        let mut client = Self::anonymous(&args.url)?;
        let is_plain = client.url.scheme_str() == Some("http");
        if is_plain && !is_loopback(client.url.host().unwrap_or_default()) {
            return Err(AdminError::Exposed(Box::new(client.url)));
        }
        let token = match &args.admin_token_file {
            Some(path) => read_bounded(path, TOKEN_FILE_BYTES_MAX).map_err(|source| {
                AdminError::TokenFile {
                    path: path.clone(),
                    source,
                }
            })?,
            None => std::env::var(TOKEN_VARIABLE)
                .map_err(|_| AdminError::NoToken)?
                .into_bytes(),
        };
        let token = secret(token.trim_ascii().to_vec());
        if token.expose_secret().is_empty() {
            return Err(AdminError::NoToken);
        }
        client.token = Some(token);
        Ok(client)
    }

    /// Without a token, for what needs none.
    pub(super) fn anonymous(args: &AdminUrl) -> Result<Self, AdminError> {
        let url = args.admin.clone();
        let is_base = matches!(url.scheme_str(), Some("http" | "https"))
            && url.authority().is_some_and(|a| !a.as_str().contains('@'))
            && url.path_and_query().is_none_or(|path| path.as_str() == "/");
        if !is_base {
            return Err(AdminError::Url(Box::new(url)));
        }
        // Where a token goes is decided above.
        let tls = args.tls();
        let client = if url.scheme_str() == Some("https") {
            Client::new(&tls, PlainHttp::Everywhere)?
        } else if tls == Files::default() {
            Client::plain(PlainHttp::Everywhere)
        } else {
            return Err(AdminError::TlsFilesWithoutTls(Box::new(url)));
        };
        Ok(Self {
            url,
            token: None,
            client,
            patience: DEADLINE,
        })
    }

    /// Waits that much longer for answers, because it was asked to.
    pub(super) fn with_patience(mut self, longer: Duration) -> Self {
        self.patience += longer;
        self
    }

    /// Sends one request; what is no success is an error, and so is what is no JSON.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, AdminError> {
        let answer = self.send(method, path, body).await?;
        let status = answer.status;
        if status.is_success() && answer.body.is_empty() {
            return Ok(Value::Null);
        }
        match serde_json::from_slice(&answer.body) {
            Ok(value) if status.is_success() => Ok(value),
            Ok(answer) => Err(AdminError::Refused { status, answer }),
            Err(_) if !status.is_success() => Err(AdminError::Refused {
                status,
                answer: Value::Null,
            }),
            Err(_) => Err(AdminError::NotJson {
                url: self.boxed_url(),
                status,
            }),
        }
    }

    /// For errors, which are small so that results are.
    fn boxed_url(&self) -> Box<Uri> {
        Box::new(self.url.clone())
    }

    /// Sends one request; any status is an answer.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, AdminError> {
        let mut uri = self.url.clone().into_parts();
        uri.path_and_query = Some(
            path.parse()
                .map_err(|_| AdminError::Url(self.boxed_url()))?,
        );
        let uri = Uri::from_parts(uri).map_err(|_| AdminError::Url(self.boxed_url()))?;
        let mut headers = HeaderMap::new();
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(token) = &self.token {
            let value = [b"Bearer ", token.expose_secret().as_slice()].concat();
            let mut value = HeaderValue::from_bytes(&value).map_err(|_| AdminError::TokenForm)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let deadline = Instant::now() + self.patience;
        let response = self
            .client
            .request(method, &uri, headers, body, ANSWER_BYTES_MAX, deadline)
            .await
            .map_err(|error| self.fault(error))?;
        Ok(Answer {
            status: response.status(),
            body: response.into_body(),
        })
    }

    fn fault(&self, error: ClientError) -> AdminError {
        let url = self.boxed_url();
        match error {
            ClientError::Deadline => AdminError::Late(url),
            ClientError::Url => AdminError::Url(url),
            ClientError::Body(_) | ClientError::TooLarge { .. } => AdminError::Broken {
                url,
                source: Box::new(error),
            },
            ClientError::Connection(_)
            | ClientError::NoRoots(_)
            | ClientError::PlainHttp
            | ClientError::Redirect(_)
            | ClientError::Status(_) => AdminError::Unreachable {
                url,
                source: Box::new(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::base::refusing::Refusing;

    fn url(text: &str) -> AdminUrl {
        AdminUrl {
            admin: text.parse().expect("a URI"),
            ca: None,
            client_certificate: None,
            client_key: None,
        }
    }

    /// A client whose token is in a file.
    fn client(at: &str, token: &str) -> Result<AdminClient, AdminError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, token).expect("written");
        AdminClient::new(&AdminArgs {
            url: url(at),
            admin_token_file: Some(path),
        })
    }

    /// Answers one connection with `answer`; gives what it received.
    async fn server(answer: String) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut seen = vec![0; 4096];
            let n = stream.read(&mut seen).await.expect("a request");
            stream.write_all(answer.as_bytes()).await.expect("answered");
            String::from_utf8_lossy(&seen[..n]).into_owned()
        });
        (address, task)
    }

    fn answer(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[tokio::test]
    async fn the_token_travels_as_a_bearer() {
        let (at, seen) = server(answer("200 OK", "{\"ok\":true}")).await;
        let client = client(&at, "s3cret\n").expect("a client");
        let body = json!({"sid": "s1"});
        let said = client
            .call(Method::POST, "/v1/revocations", Some(&body))
            .await;
        assert_eq!(said.expect("answered"), json!({"ok": true}));
        let seen = seen.await.expect("served");
        assert!(
            seen.starts_with("POST /v1/revocations HTTP/1.1\r\n"),
            "{seen}"
        );
        assert!(seen.contains("authorization: Bearer s3cret\r\n"), "{seen}");
        assert!(seen.ends_with("{\"sid\":\"s1\"}"), "{seen}");
    }

    #[tokio::test]
    async fn a_refusal_says_why_and_cannot_write_to_the_terminal() {
        let problem = json!({"code": "forbidden", "detail": "needs the role \u{9b}2J"}).to_string();
        let (at, _) = server(answer("403 Forbidden", &problem)).await;
        let client = client(&at, "s3cret").expect("a client");
        let error = client.call(Method::GET, "/v1/status", None).await;
        let error = error.expect_err("refused");
        assert_eq!(
            error.to_string(),
            "refused: 403 Forbidden (forbidden: needs the role \\u{9b}2J)"
        );
        assert!(!error.is_usage());
    }

    #[tokio::test]
    async fn what_is_no_json_is_said_so() {
        let (at, _) = server(answer("200 OK", "<html>")).await;
        let client = client(&at, "s3cret").expect("a client");
        let error = client.call(Method::GET, "/v1/status", None).await;
        assert!(matches!(error, Err(AdminError::NotJson { .. })));
        let (at, _) = server(answer("204 No Content", "")).await;
        let client = self::client(&at, "s3cret").expect("a client");
        let lifted = client.call(Method::DELETE, "/v1/revocations/1", None).await;
        assert_eq!(lifted.expect("answered"), Value::Null);
    }

    #[test]
    fn the_token_never_leaves_this_machine_in_the_clear() {
        for far in [
            "http://10.0.0.1:9901",
            "http://gateway",
            "http://127.0.0.1.evil.example",
        ] {
            assert!(
                matches!(client(far, "t"), Err(AdminError::Exposed(_))),
                "{far}"
            );
        }
        for near in [
            "http://127.0.0.1:9901",
            "http://localhost:1/",
            "http://[::1]:9901",
        ] {
            assert!(client(near, "t").is_ok(), "{near}");
        }
        assert!(
            AdminClient::anonymous(&url("http://gateway:9901")).is_ok(),
            "health"
        );
        assert!(client("https://gateway:9901", "t").is_ok(), "over TLS");
    }

    #[test]
    fn an_authority_is_for_tls_and_must_be_there() {
        let anonymous = |at: &str| {
            let ca = Some(PathBuf::from("/there/is/no/ca.pem"));
            AdminClient::anonymous(&AdminUrl { ca, ..url(at) })
        };
        let plain = anonymous("http://127.0.0.1:9901").expect_err("no TLS");
        assert!(matches!(plain, AdminError::TlsFilesWithoutTls(_)) && plain.is_usage());
        let missing = anonymous("https://127.0.0.1:9901").expect_err("no file");
        assert!(
            missing.to_string().contains("/there/is/no/ca.pem"),
            "{missing}"
        );
    }

    #[test]
    fn only_a_base_url_is_an_address() {
        for wrong in [
            "ftp://127.0.0.1",
            "/v1",
            "127.0.0.1:9901",
            "http://127.0.0.1/v1",
            "http://u:p@127.0.0.1",
        ] {
            let error = AdminClient::anonymous(&url(wrong)).expect_err(wrong);
            assert!(
                matches!(error, AdminError::Url(_)) && error.is_usage(),
                "{wrong}"
            );
        }
    }

    #[tokio::test]
    async fn a_gateway_that_is_not_there_is_said_with_its_reason() {
        let nobody = Refusing::start();
        let at = nobody.url();
        let client = client(&at, "s3cret").expect("a client");
        let error = client.call(Method::GET, "/v1/status", None).await;
        let said = error.expect_err("nobody there").to_string();
        assert!(said.contains(&at) && said.contains("refused"), "{said}");
    }

    #[test]
    fn an_empty_token_is_no_token() {
        assert!(matches!(
            client("http://localhost", " \n"),
            Err(AdminError::NoToken)
        ));
    }
}
