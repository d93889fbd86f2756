//! `jotgate demo`: the gateway between an issuer of test tokens and an echo service, all in this process and on
//! loopback, and the lines to paste. The gateway is configured as everybody's is: with a TOML text.

mod echo;
mod issuer;
mod serve;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;

use self::issuer::TestIssuer;
use super::run::{self, EndSignals};
use super::{Failure, block_on, signing};
use crate::app::Gateway;
use crate::base::clock::Clock;
use crate::config;
use crate::listener::Address;
use crate::telemetry::logs;

#[derive(Debug, Args)]
#[command(
    after_help = "Everything listens on 127.0.0.1 and ends with Ctrl-C. Nothing is written to disk.\n\n\
    Examples:\n  \
    jotgate demo\n  \
    jotgate demo --free-ports\n  \
    jotgate demo --print-config > gateway.toml    a configuration to start from"
)]
pub(super) struct DemoArgs {
    #[command(flatten)]
    ports: Ports,
    /// Let the system choose every port
    #[arg(long, conflicts_with_all = ["port", "admin_port", "issuer_port", "echo_port"])]
    free_ports: bool,
    /// Print the gateway's configuration and end
    #[arg(long)]
    print_config: bool,
}

/// 0: the system chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
struct Ports {
    /// Port of the gateway
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Port of the gateway's admin API
    #[arg(long, value_name = "PORT", default_value_t = 9901)]
    admin_port: u16,
    /// Port of the issuer of test tokens
    #[arg(long, value_name = "PORT", default_value_t = 9000)]
    issuer_port: u16,
    /// Port of the echo service
    #[arg(long, value_name = "PORT", default_value_t = 9001)]
    echo_port: u16,
}

/// Why the demo cannot start.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    #[error(
        "port {port} is taken; choose another with {option} PORT, or let the system choose with --free-ports"
    )]
    Taken { port: u16, option: &'static str },
    #[error("cannot listen on 127.0.0.1:{port} ({option}): {source}")]
    Listen {
        port: u16,
        option: &'static str,
        source: io::Error,
    },
    #[error("the gateway was not ready within {} s", READY.as_secs())]
    NotReady,
    #[error("the gateway has no TCP listener or no admin listener")]
    NoAddress,
}

/// Everything is on this machine; what takes longer is broken.
const READY: Duration = Duration::from_secs(10);

/// The audience of the demo's tokens.
const AUDIENCE: &str = "demo";

/// The variable that the configuration names for the admin token.
const TOKEN_VARIABLE: &str = "JOTGATE_ADMIN_TOKEN";

pub(super) fn demo(args: &DemoArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let ports = if args.free_ports {
        Ports {
            port: 0,
            admin_port: 0,
            issuer_port: 0,
            echo_port: 0,
        }
    } else {
        args.ports
    };
    if args.print_config {
        write!(out, "{}", configuration(ports))?;
        return Ok(());
    }
    block_on(serve(ports, out))
}

async fn serve(mut ports: Ports, out: &mut dyn Write) -> Result<(), Failure> {
    let mut end = EndSignals::listen()?;
    // The gateway says only that it cannot listen; asked before it starts, the answer can name the option.
    for (port, option) in [(ports.port, "--port"), (ports.admin_port, "--admin-port")] {
        drop(listen(port, option).await?);
    }
    let echo = listen(ports.echo_port, "--echo-port").await?;
    let issuer = listen(ports.issuer_port, "--issuer-port").await?;
    ports.echo_port = port_of(&echo);
    ports.issuer_port = port_of(&issuer);

    let admin_token = signing::random_text(24)?;
    let variables = [(TOKEN_VARIABLE.to_owned(), admin_token.clone())];
    let settings = config::load_str("demo.toml", &configuration(ports), &variables)
        .map_err(Failure::Config)?;
    let _logs = logs::init(settings.telemetry.format, &settings.telemetry.level)?;

    let tokens = TestIssuer::new(&url(ports.issuer_port), Clock::system())?;
    // Both end with this runtime.
    tokio::spawn(serve::serve(echo, echo::answer));
    tokio::spawn(serve::serve(issuer, move |request| tokens.answer(&request)));

    let gateway = Gateway::start(settings, Clock::system()).await?;
    let address = gateway
        .addresses()
        .into_iter()
        .find_map(|address| match address {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) => None,
        });
    let (Some(address), Some(admin)) = (address, gateway.admin_address()) else {
        return Err(DemoError::NoAddress.into());
    };
    ports.port = address.port();
    ports.admin_port = admin.port();
    tokio::time::timeout(READY, gateway.ready())
        .await
        .map_err(|_| DemoError::NotReady)?;
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("jotgate"));
    write!(out, "{}", lines_to_paste(ports, &admin_token, &program))?;
    out.flush()?;

    end.next().await;
    run::shutdown(gateway, end).await;
    Ok(())
}

async fn listen(port: u16, option: &'static str) -> Result<TcpListener, DemoError> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => DemoError::Taken { port, option },
            _ => DemoError::Listen {
                port,
                option,
                source,
            },
        })
}

fn port_of(listener: &TcpListener) -> u16 {
    // A bound socket has an address; without one the gateway could not find the service either.
    listener.local_addr().map_or(0, |address| address.port())
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// What the demo's gateway runs with.
fn configuration(ports: Ports) -> String {
    let (issuer, echo) = (url(ports.issuer_port), url(ports.echo_port));
    format!(
        r#"# The gateway of `jotgate demo`. Its issuer and its service live only as long as the demo runs:
# put your own in their places.

[[listeners]]
address = "127.0.0.1:{port}"

[[issuers]]
name = "demo"
issuer = "{issuer}"        # keys by OpenID Connect discovery
audiences = ["{AUDIENCE}"]
algorithms = ["ES256"]

[issuers.headers]                         # request header = claim
x-user-id = "sub"
x-session-id = "sid"
x-scopes = "scope"

[[routes]]
path = "/"
upstream = "{echo}"

[[routes]]
path = "/public"
upstream = "{echo}"
auth = "public"

[[routes]]
path = "/admin"
upstream = "{echo}"
scopes = ["admin"]

[admin]
address = "127.0.0.1:{admin_port}"

[[admin.tokens]]
name = "demo"
secret = {{ env = "{TOKEN_VARIABLE}" }}
roles = ["read", "revoke", "security"]
"#,
        port = ports.port,
        admin_port = ports.admin_port,
    )
}

/// Each line works as it stands in bash, with curl and this very program.
fn lines_to_paste(ports: Ports, admin_token: &str, program: &Path) -> String {
    let gateway = url(ports.port);
    let admin = url(ports.admin_port);
    let issuer = url(ports.issuer_port);
    let echo = url(ports.echo_port);
    let jotgate = quoted(&program.display().to_string());
    let new_token = |more: &str| {
        format!("TOKEN=$(curl -s -X POST \"{issuer}/token?sub=alice{more}&format=text\")")
    };
    format!(
        r#"
jotgate demo, until Ctrl-C:

  gateway  {gateway}  asks for a token and forwards to the echo service
  admin    {admin}  revocations, status, metrics
  issuer   {issuer}  signs a test token for whoever asks
  echo     {echo}  answers with what reached it

Paste this into a second terminal (bash):

export {TOKEN_VARIABLE}={admin_token}

# 1. No token: 401.
curl -i {gateway}/hello

# 2. A token of alice: the service sees x-user-id, and not the token.
SID=session-$RANDOM$RANDOM
{with_sid}
curl -s -H "Authorization: Bearer $TOKEN" {gateway}/hello

# 3. Forged identity headers do not arrive, in whatever spelling.
curl -s -H "Authorization: Bearer $TOKEN" -H 'X-User-Id: root' -H 'X_User_Id: root' {gateway}/hello

# 4. End the session: the very next request is 401, code "revoked".
{jotgate} revoke --admin {admin} --issuer {issuer} --session "$SID" --reason 'lost laptop'
curl -i -H "Authorization: Bearer $TOKEN" {gateway}/hello

# 5. One single token.
{without_sid}
curl -s -H "Authorization: Bearer $TOKEN" {gateway}/hello
{jotgate} revoke --admin {admin} --token "$TOKEN"
curl -i -H "Authorization: Bearer $TOKEN" {gateway}/hello

# And: what does the token say, what is revoked, how is the gateway?
{jotgate} token inspect "$TOKEN"
{jotgate} revoke --admin {admin} --list
{jotgate} status --admin {admin}

"#,
        with_sid = new_token("&sid=$SID"),
        without_sid = new_token(""),
    )
}

/// One word for the shell, whatever is in it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports {
        port: 1,
        admin_port: 2,
        issuer_port: 3,
        echo_port: 4,
    };

    #[test]
    fn the_configuration_names_every_port_and_no_secret() {
        let text = configuration(PORTS);
        let table: toml::Table = text.parse().expect("TOML");
        assert_eq!(
            table["listeners"][0]["address"].as_str(),
            Some("127.0.0.1:1")
        );
        assert_eq!(table["admin"]["address"].as_str(), Some("127.0.0.1:2"));
        assert_eq!(
            table["issuers"][0]["issuer"].as_str(),
            Some("http://127.0.0.1:3")
        );
        assert_eq!(
            table["routes"][0]["upstream"].as_str(),
            Some("http://127.0.0.1:4")
        );
        assert_eq!(
            table["admin"]["tokens"][0]["secret"]["env"].as_str(),
            Some(TOKEN_VARIABLE)
        );
    }

    #[test]
    fn the_lines_use_the_ports_that_were_chosen() {
        let text = lines_to_paste(PORTS, "s3cret", Path::new("/opt/my tools/jotgate"));
        assert!(text.contains("export JOTGATE_ADMIN_TOKEN=s3cret\n"));
        assert!(text.contains("\n'/opt/my tools/jotgate' revoke --admin http://127.0.0.1:2 "));
        for default in ["8080", "9901", "9000", "9001"] {
            assert!(!text.contains(default), "{default}");
        }
    }

    #[test]
    fn a_path_is_one_word_for_the_shell() {
        assert_eq!(quoted("/usr/bin/jotgate"), "/usr/bin/jotgate");
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("/a'b$(x)"), r"'/a'\''b$(x)'");
    }

    #[tokio::test]
    async fn a_taken_port_names_the_option() {
        let taken = listen(0, "--port").await.expect("a free port");
        let port = port_of(&taken);
        let error = listen(port, "--echo-port").await.expect_err("taken");
        assert_eq!(
            error.to_string(),
            format!(
                "port {port} is taken; choose another with --echo-port PORT, \
                 or let the system choose with --free-ports"
            )
        );
    }
}
