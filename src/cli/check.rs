//! `jotgate check`: all faults of a configuration, or the routes as the gateway will see them.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::print::harmless;
use super::{ConfigArgs, Failure, Format, Verdict, print};
use crate::base::clock::{Clock, UnixSeconds};
use crate::config::{self, Change, Outline, Settings, settings};
use crate::policy::{Auth, Mode};

#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 2 when the configuration has faults; each is printed with its place and its cure. \
    With --diff, exit code 1 when something gets weaker: a request that needed a token, a scope, a claim or an issuer \
    would need it no more.\n\n\
    Examples:\n  \
    jotgate check --config gateway.toml\n  \
    jotgate check --config new.toml --diff old.toml   what would change, and what gets weaker\n  \
    jotgate check --config gateway.toml --format json | jq '.[] | select(.auth == \"public\")'"
)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Show what changes from this older configuration instead
    #[arg(long, value_name = "FILE")]
    diff: Option<PathBuf>,
    /// How the result is written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn check(args: CheckArgs, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let settings = config::load(&args.config.path()?).map_err(Failure::Config)?;
    if let Some(old) = &args.diff {
        let old = config::load(old).map_err(Failure::Config)?;
        let changes = Outline::of(&settings).changes_since(&Outline::of(&old));
        return diff(&changes, args.format, out);
    }
    let rows: Vec<Row> = settings
        .routes
        .iter()
        .map(|r| Row::new(r, &settings))
        .collect();
    match args.format {
        Format::Json => {
            let all = rows.iter().map(Row::to_json).collect();
            print::json(out, &Value::Array(all))?;
        }
        Format::Text => {
            let cells: Vec<_> = rows.iter().map(Row::cells).collect();
            print::table(out, &HEAD, &cells)?;
            let public = rows.iter().filter(|row| row.auth == Auth::Public).count();
            write!(out, "\n{} routes, {public} public", rows.len())?;
            let reporting = rows.iter().filter(|row| row.mode == Mode::Report).count();
            if reporting > 0 {
                write!(
                    out,
                    ", {reporting} NOT ENFORCED: mode = \"report\" lets every request pass"
                )?;
            }
            writeln!(out)?;
            for certificate in expired(&settings, Clock::system().now()) {
                writeln!(out, "warning: {certificate} has expired: clients refuse it")?;
            }
        }
    }
    Ok(Verdict::Good)
}

/// Writes what changes. Bad when something gets weaker.
fn diff(changes: &[Change], format: Format, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let weaker = changes.iter().filter(|change| change.is_weaker).count();
    match format {
        Format::Json => {
            let all = changes.iter().map(|change| {
                json!({"place": change.place, "what": change.what, "weaker": change.is_weaker})
            });
            print::json(out, &Value::Array(all.collect()))?;
        }
        Format::Text => {
            for change in changes {
                let mark = if change.is_weaker {
                    "WEAKER  "
                } else {
                    "        "
                };
                writeln!(out, "{mark}{change}")?;
            }
            let sign = if changes.is_empty() { "" } else { "\n" };
            writeln!(out, "{sign}{} changes, {weaker} weaker", changes.len())?;
        }
    }
    Ok(if weaker == 0 {
        Verdict::Good
    } else {
        Verdict::Bad
    })
}

/// Certificates that have ended. No fault: the gateway serves those who do not look, and renewal is on its way.
fn expired(settings: &Settings, now: UnixSeconds) -> Vec<String> {
    let listeners = settings.listeners.iter().filter_map(|l| l.tls.as_ref());
    let admin = settings.admin.iter().filter_map(|admin| admin.tls.as_ref());
    let all = listeners.chain(admin).flat_map(|tls| tls.expiries());
    let ended = all.filter(|(_, not_after)| *not_after < now);
    ended.map(|(files, _)| files.to_string()).collect()
}

const HEAD: [&str; 8] = [
    "HOST",
    "PATH",
    "METHODS",
    "AUTH",
    "ISSUERS",
    "AUDIENCES",
    "SCOPES",
    "UPSTREAM",
];

/// A route in effect: what it takes from its issuers included.
#[derive(Debug)]
struct Row {
    hosts: Vec<String>,
    path: String,
    methods: Vec<String>,
    auth: Auth,
    mode: Mode,
    issuers: Vec<String>,
    audiences: Vec<String>,
    scopes: Vec<String>,
    any_scope: Vec<String>,
    claims: Vec<String>,
    expression: Option<String>,
    upstream: String,
}

impl Row {
    fn new(route: &settings::Route, settings: &Settings) -> Self {
        let mut audiences: Vec<String> = vec![];
        let mut seen = HashSet::new();
        let own: HashSet<_> = route.issuers.iter().collect();
        for issuer in settings
            .issuers
            .iter()
            .filter(|issuer| own.contains(&issuer.name))
        {
            for audience in &issuer.rules.audiences {
                if seen.insert(audience) {
                    audiences.push(audience.to_string());
                }
            }
        }
        Self {
            hosts: strings(&route.hosts),
            path: route.path.to_string(),
            methods: strings(&route.methods),
            auth: route.auth,
            mode: route.mode,
            issuers: strings(&route.issuers),
            audiences,
            scopes: strings(&route.requirement.scopes),
            any_scope: strings(&route.requirement.any_scope),
            claims: route
                .requirement
                .claims
                .iter()
                .map(|claim| claim.path.to_string())
                .collect(),
            expression: route
                .requirement
                .expression
                .as_ref()
                .map(|expression| expression.as_str().to_owned()),
            upstream: route.upstream.to_string(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let list = |list: &[String], none: &str| match list {
            [] => none.to_owned(),
            some => some.join(" "),
        };
        // On a public route tokens are not looked at: naming issuers there would promise a check.
        let asked = |values: &[String]| match self.auth {
            Auth::Public => "-".to_owned(),
            Auth::Required | Auth::Optional => list(values, "any"),
        };
        let mut scopes = self.scopes.clone();
        if !self.any_scope.is_empty() {
            scopes.push(format!("any of ({})", self.any_scope.join(" ")));
        }
        scopes.extend(self.claims.iter().map(|claim| format!("claim:{claim}")));
        let line = |text: &str| harmless(text).replace('\n', " ");
        let expression = self.expression.as_deref().map(line);
        scopes.extend(expression.map(|expression| format!("if ({expression})")));
        vec![
            list(&self.hosts, "any"),
            self.path.clone(),
            list(&self.methods, "any"),
            match (self.auth, self.mode) {
                (Auth::Public, _) => "PUBLIC".to_owned(),
                (other, Mode::Enforce) => auth_word(other).to_owned(),
                (other, Mode::Report) => format!("{} NOT ENFORCED", auth_word(other)),
            },
            asked(&self.issuers),
            asked(&self.audiences),
            list(&scopes, "-"),
            self.upstream.clone(),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "hosts": self.hosts,
            "path": self.path,
            "methods": self.methods,
            "auth": auth_word(self.auth),
            "mode": match self.mode {
                Mode::Enforce => "enforce",
                Mode::Report => "report",
            },
            "issuers": self.issuers,
            "audiences": self.audiences,
            "scopes": self.scopes,
            "any_scope": self.any_scope,
            "claims": self.claims,
            "expression": self.expression,
            "upstream": self.upstream,
        })
    }
}

/// As the configuration writes it.
const fn auth_word(auth: Auth) -> &'static str {
    match auth {
        Auth::Required => "required",
        Auth::Optional => "optional",
        Auth::Public => "public",
    }
}

fn strings<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(auth: Auth) -> Row {
        Row {
            hosts: vec![],
            path: "/api/*".to_owned(),
            methods: vec!["GET".to_owned(), "PUT".to_owned()],
            auth,
            mode: Mode::Enforce,
            issuers: vec!["main".to_owned()],
            audiences: vec![],
            scopes: vec!["read".to_owned()],
            any_scope: vec!["a".to_owned(), "b".to_owned()],
            claims: vec!["realm.roles".to_owned()],
            expression: Some("claims.a == 1".to_owned()),
            upstream: "orders".to_owned(),
        }
    }

    #[test]
    fn a_public_route_shouts_and_promises_no_check() {
        let cells = row(Auth::Public).cells();
        assert_eq!(cells[3..6], ["PUBLIC", "-", "-"]);
        assert_eq!(row(Auth::Public).to_json()["auth"], "public");
    }

    #[test]
    fn a_route_that_only_reports_shouts() {
        let row = Row {
            mode: Mode::Report,
            ..row(Auth::Required)
        };
        assert_eq!(row.cells()[3], "required NOT ENFORCED");
        assert_eq!(row.to_json()["mode"], "report");
    }

    #[test]
    fn what_is_not_restricted_says_any() {
        let cells = row(Auth::Required).cells();
        assert_eq!(
            cells,
            [
                "any",
                "/api/*",
                "GET PUT",
                "required",
                "main",
                "any",
                "read any of (a b) claim:realm.roles if (claims.a == 1)",
                "orders"
            ]
        );
        assert_eq!(cells.len(), HEAD.len());
    }
}
