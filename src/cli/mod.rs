//! The commands that people type. Each has a file with its arguments and its deed; this one knows
//! them all, runs the chosen one and turns a failure into a text and an exit code.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage or faulty configuration.

mod admin_client;
mod check;
mod demo;
mod explain;
mod follow;
mod health;
mod inspect;
mod keys;
mod mint;
mod print;
mod revoke;
mod run;
mod schema;
mod signing;
mod status;
mod supervisor;
mod when;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app::StartError;
use crate::base::clock::Clock;
use crate::config::Faults;
use crate::listener::InheritError;
use crate::telemetry::logs::LogError;

/// The environment variable that names the configuration file.
const CONFIG_VARIABLE: &str = "JOTGATE_CONFIG";

#[derive(Debug, Parser)]
#[command(
    name = "jotgate",
    version,
    about = "A reverse proxy that checks JSON Web Tokens, and can take them back",
    long_about = "jotgate stands in front of your services. It checks the JSON Web Token of every request \
        against cached keys and a denylist, forwards the verified claims as headers, and answers \
        everything else with 401. A token can be revoked at any moment.",
    after_help = "Examples:\n  \
        jotgate demo                          try it: everything on this machine, nothing to configure\n  \
        jotgate check --config gateway.toml   is this configuration right, and what is public?\n  \
        jotgate run --config gateway.toml     the gateway\n\n\
        Exit codes: 0 done, 1 refused or failed, 2 wrong usage or faulty configuration.",
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Run(run::RunArgs),
    /// Check a configuration: all its faults, or the routes as the gateway will see them
    Check(check::CheckArgs),
    /// Print the JSON Schema of the configuration, for editors
    Schema(schema::SchemaArgs),
    /// Say how one request would be decided, step by step
    Explain(explain::ExplainArgs),
    /// Try it out: gateway, test tokens and an echo service, all on this machine
    Demo(demo::DemoArgs),
    /// Read a token, or sign one for tests
    #[command(subcommand)]
    Token(TokenCommand),
    /// Make keys for signing tokens
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Revoke tokens, sessions, users, clients or keys on a running gateway
    Revoke(Box<revoke::RevokeArgs>),
    /// Show the state of a running gateway
    Status(status::StatusArgs),
    /// Ask a running gateway whether it is ready: exit code 0 or 1
    Health(health::HealthArgs),
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Show what a token says, what is wrong with it, and how it can be revoked
    Inspect(inspect::InspectArgs),
    /// Sign a token for tests
    Mint(Box<mint::MintArgs>),
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key pair and its public key set, or a shared secret
    Generate(keys::GenerateArgs),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file
    #[arg(
        long,
        short,
        value_name = "FILE",
        help = "The configuration file [env: JOTGATE_CONFIG]"
    )]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The option, else the environment.
    fn path(self) -> Result<PathBuf, Failure> {
        self.config
            .or_else(|| std::env::var_os(CONFIG_VARIABLE).map(PathBuf::from))
            .ok_or(Failure::NoConfig)
    }
}

/// How a result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Whether a command that ran to its end found all well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Bad,
}

/// Why a command did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("which configuration? Write --config FILE, or set {CONFIG_VARIABLE}")]
    NoConfig,
    #[error("{0}")]
    Config(Faults),
    #[error("cannot start the asynchronous runtime: {0}")]
    Runtime(#[source] io::Error),
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Sockets(#[from] InheritError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(
        "the denylist's log failed, so nothing could be revoked any more; the log lines before say why"
    )]
    DenylistFailed,
    #[error("telemetry.log.level {0}")]
    Logs(#[from] LogError),
    #[error(transparent)]
    Admin(#[from] admin_client::AdminError),
    #[error(transparent)]
    Key(#[from] signing::KeyError),
    #[error(transparent)]
    KeyFile(#[from] keys::KeyFileError),
    #[error(transparent)]
    Inspect(#[from] inspect::InspectError),
    #[error(transparent)]
    Demo(#[from] demo::DemoError),
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// 1 refused or failed, 2 wrong usage or faulty configuration.
    fn exit_code(&self) -> u8 {
        match self {
            Self::NoConfig | Self::Config(_) | Self::Logs(_) => 2,
            Self::Admin(error) if error.is_usage() => 2,
            // Whoever reads our output has read enough: `jotgate check | head -1`.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Runtime(_)
            | Self::Signals(_)
            | Self::Sockets(_)
            | Self::Start(_)
            | Self::DenylistFailed
            | Self::Admin(_)
            | Self::Key(_)
            | Self::KeyFile(_)
            | Self::Inspect(_)
            | Self::Demo(_)
            | Self::Output(_) => 1,
        }
    }
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    // Not locked: the commands that serve share standard output with the log.
    let mut out = io::stdout();
    match execute(Cli::parse().command, &mut out) {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::FAILURE,
        Err(failure) => {
            let code = failure.exit_code();
            if code != 0 {
                // Nobody is left to tell when standard error is closed too.
                let _ = writeln!(io::stderr(), "jotgate: {failure}");
            }
            ExitCode::from(code)
        }
    }
}

fn execute(command: Command, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let clock = Clock::system();
    let done = match command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => return check::check(args, out),
        Command::Schema(args) => schema::schema(args, out),
        Command::Explain(args) => {
            return block_on(explain::explain(args, &clock, &mut io::stdin(), out));
        }
        Command::Demo(args) => demo::demo(&args, out),
        Command::Token(TokenCommand::Inspect(args)) => {
            return inspect::inspect(&args, clock.now(), &mut io::stdin(), out);
        }
        Command::Token(TokenCommand::Mint(args)) => mint::mint(&args, clock.now(), out),
        Command::Keys(KeysCommand::Generate(args)) => keys::generate(&args, out),
        Command::Revoke(args) => {
            return block_on(revoke::revoke(*args, clock.now(), &mut io::stdin(), out));
        }
        Command::Status(args) => block_on(status::status(args, out)),
        Command::Health(args) => return block_on(health::health(args, out)),
    };
    done.map(|()| Verdict::Good)
}

/// Runs `task` on this thread: a command has nothing to do in parallel, and the gateway brings its own threads.
fn block_on<T>(task: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?
        .block_on(task)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn leaves(command: &clap::Command, found: &mut Vec<(String, bool)>) {
            if command.has_subcommands() {
                command.get_subcommands().for_each(|c| leaves(c, found));
            } else {
                let examples = command.get_after_help().map(ToString::to_string);
                let good = examples.is_some_and(|text| text.contains("jotgate "));
                found.push((command.get_name().to_owned(), good));
            }
        }
        let mut found = vec![];
        leaves(&Cli::command(), &mut found);
        assert!(found.len() >= 9, "{found:?}");
        for (name, good) in found {
            assert!(good, "{name} has no example in its help");
        }
    }

    #[test]
    fn wrong_usage_is_2_and_failure_is_1() {
        let usage = Cli::try_parse_from(["jotgate", "walk"]).expect_err("no such command");
        assert_eq!(usage.exit_code(), 2);
        assert_eq!(Failure::NoConfig.exit_code(), 2);
        let write = |kind: io::ErrorKind| Failure::Output(kind.into()).exit_code();
        assert_eq!(write(io::ErrorKind::StorageFull), 1);
        assert_eq!(write(io::ErrorKind::BrokenPipe), 0);
    }
}
