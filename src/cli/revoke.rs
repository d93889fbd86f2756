//! `jotgate revoke`: adds a rule to the denylist of a running gateway, lists the rules, lifts a standing one.

use std::io::{self, Read, Write};
use std::time::Duration;

use clap::{ArgGroup, Args};
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::admin_client::{AdminArgs, AdminClient};
use super::follow::{follow, gateways};
use super::{Failure, Format, Verdict, print, when};
use crate::base::clock::UnixSeconds;
use crate::base::limits::TOKEN_BYTES_MAX;

#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("what").required(true)),
    after_help = "The token of the admin API is read from JOTGATE_ADMIN_TOKEN unless a file is named. \
    Revoked tokens and sessions stay revoked; users, clients, keys and issuers may come back with tokens issued \
    later, unless --standing says that the block stays until it is lifted.\n\n\
    Examples:\n  \
    jotgate revoke --token \"$TOKEN\" --reason 'sent by mail'\n  \
    jotgate revoke --session 8d1c --issuer https://id.example.com\n  \
    jotgate revoke --user alice --issuer https://id.example.com --issued-before 2026-11-23T17:10:00Z\n  \
    jotgate revoke --user alice --issuer https://id.example.com --except-session 8d1c\n  \
    jotgate revoke --client old-app --issuer https://id.example.com --standing\n  \
    jotgate revoke --session 8d1c --issuer https://id.example.com --wait fleet --timeout 5s\n  \
    jotgate revoke --list\n  \
    jotgate revoke --lift client-1e225b522f21a52c42f687fe60ab8c53"
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the command line"
)]
pub(super) struct RevokeArgs {
    /// This token; - reads it from standard input
    #[arg(long, group = "what", value_name = "TOKEN")]
    token: Option<String>,
    /// A session: every token with this sid
    #[arg(long, group = "what", value_name = "SID")]
    session: Option<String>,
    /// A user: every token with this sub, issued until now
    #[arg(long, group = "what", value_name = "SUB")]
    user: Option<String>,
    /// Let one session of the user go on and deny every other, until the rule is lifted
    #[arg(
        long,
        value_name = "SID",
        requires = "user",
        conflicts_with_all = [
            "token", "session", "jti", "client", "key", "all", "list", "lift", "issued_before", "standing"
        ]
    )]
    except_session: Option<String>,
    /// A token by its jti
    #[arg(long, group = "what")]
    jti: Option<String>,
    /// A client
    #[arg(
        long,
        group = "what",
        value_name = "CLIENT_ID",
        help = "A client: every token with this client_id (or azp), issued until now"
    )]
    client: Option<String>,
    /// A signing key: every token with this kid
    #[arg(long, group = "what", value_name = "KID")]
    key: Option<String>,
    /// Every token of the issuer, issued until now
    #[arg(long, group = "what")]
    all: bool,
    /// Show the rules
    #[arg(long, group = "what")]
    list: bool,
    /// Take back a standing rule
    #[arg(long, group = "what", value_name = "ID")]
    lift: Option<String>,

    /// Whose tokens: the claim iss
    #[arg(
        long,
        value_name = "ISS",
        required_unless_present_any = ["token", "list", "lift"],
        conflicts_with_all = ["token", "list", "lift"]
    )]
    issuer: Option<String>,
    /// Revoke only what was issued until then: Unix seconds, or 2026-11-23T17:10:00Z
    #[arg(
        long,
        value_name = "T",
        value_parser = when::parse,
        conflicts_with_all = ["token", "session", "jti", "list", "lift"]
    )]
    issued_before: Option<UnixSeconds>,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["list", "lift"])]
    reason: Option<String>,
    /// Block until the rule is lifted, whenever the token was issued
    #[arg(long, conflicts_with_all = ["token", "session", "jti", "list", "lift", "issued_before"])]
    standing: bool,
    /// Only say what the rule would do
    #[arg(long, conflicts_with_all = ["list", "lift"])]
    dry_run: bool,
    /// How far it must come in a fleet; exit code 1 when it has not in time
    #[arg(
        long,
        value_parser = ["local", "relay", "fleet"],
        conflicts_with_all = ["list", "lift", "dry_run"]
    )]
    wait: Option<String>,
    /// How long that may take, at most 30s [default: 2s]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = humantime::parse_duration,
        conflicts_with_all = ["list", "lift", "dry_run"]
    )]
    timeout: Option<Duration>,

    #[command(flatten)]
    admin: AdminArgs,
    /// How the result is written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How long is waited unless the caller says so: as long as the gateway does.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Where the rules are.
const RULES: &str = "/v1/revocations";

/// Identifiers have letters, digits and hyphens. Whatever else is written stays in this one segment of the path.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-');

/// Where one rule is.
pub(super) fn rule_path(id: &str) -> String {
    format!("{RULES}/{}", utf8_percent_encode(id, ENCODED))
}

/// One request, and what to say when its answer is empty.
#[derive(Debug, PartialEq)]
struct Call {
    method: Method,
    path: String,
    body: Option<Value>,
    done: &'static str,
}

pub(super) async fn revoke(
    args: RevokeArgs,
    now: UnixSeconds,
    input: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<Verdict, Failure> {
    let timeout = args.timeout.unwrap_or(TIMEOUT);
    let client = AdminClient::new(&args.admin)?.with_patience(timeout);
    let mut call = Call::new(&args, now, input)?;
    let is_watched = args.format == Format::Text && args.wait.as_deref() == Some("fleet");
    if is_watched && let Some(gateways) = gateways(&client).await {
        // The rest is asked for afterwards.
        call.wait_for("relay");
        let begun = Instant::now();
        let answer = client
            .call(call.method, &call.path, call.body.as_ref())
            .await?;
        return follow(&client, gateways, &answer, (begun, timeout), out).await;
    }
    let answer = client
        .call(call.method, &call.path, call.body.as_ref())
        .await?;
    match (args.format, &answer) {
        (Format::Json, _) => print::json(out, &answer)?,
        (Format::Text, _) if args.list => list(out, &answer)?,
        (Format::Text, Value::Null) => writeln!(out, "{}", call.done)?,
        (Format::Text, answer) => {
            writeln!(out, "{}", call.done)?;
            print::lines(out, answer)?;
        }
    }
    Ok(verdict(&answer))
}

/// Whether what was waited for was reached.
fn verdict(answer: &Value) -> Verdict {
    match answer.pointer("/fleet/reached") {
        Some(Value::Bool(false)) => Verdict::Bad,
        _ => Verdict::Good,
    }
}

impl Call {
    fn wait_for(&mut self, wait: &str) {
        if let Some(Value::Object(rule)) = &mut self.body {
            rule.insert("wait".to_owned(), wait.into());
        }
    }

    fn new(args: &RevokeArgs, now: UnixSeconds, input: &mut dyn Read) -> io::Result<Self> {
        if args.list {
            return Ok(Self {
                method: Method::GET,
                path: RULES.to_owned(),
                body: None,
                done: "no rules",
            });
        }
        if let Some(id) = &args.lift {
            return Ok(Self {
                method: Method::DELETE,
                path: rule_path(id),
                body: None,
                done: "lifted",
            });
        }
        Ok(Self {
            method: Method::POST,
            path: RULES.to_owned(),
            body: Some(Value::Object(rule(args, now, input)?)),
            done: if args.dry_run {
                "nothing was revoked; this is what would be"
            } else {
                "revoked"
            },
        })
    }
}

/// The body of `POST /v1/revocations`.
fn rule(
    args: &RevokeArgs,
    now: UnixSeconds,
    input: &mut dyn Read,
) -> io::Result<Map<String, Value>> {
    let mut rule = Map::new();
    let mut set = |name: &str, value: Value| drop(rule.insert(name.to_owned(), value));
    if let Some(token) = &args.token {
        set("token", read_token(token, input)?.into());
    }
    for (name, value) in [
        ("iss", &args.issuer),
        ("sid", &args.session),
        ("sub", &args.user),
        ("except_sid", &args.except_session),
        ("jti", &args.jti),
        ("client_id", &args.client),
        ("kid", &args.key),
        ("reason", &args.reason),
    ] {
        if let Some(value) = value {
            set(name, value.as_str().into());
        }
    }
    // Said outright: a rule with nothing but an issuer must never be the result of a forgotten option.
    let cutoff = (args.all && !args.standing).then_some(now);
    if let Some(cutoff) = args.issued_before.or(cutoff) {
        set("issued_before", cutoff.0.into());
    }
    if args.standing {
        set("standing", true.into());
    }
    if let Some(wait) = &args.wait {
        set("wait", wait.as_str().into());
    }
    if let Some(timeout) = args.timeout {
        set(
            "timeout",
            humantime::format_duration(timeout).to_string().into(),
        );
    }
    if args.dry_run {
        set("dry_run", true.into());
    }
    Ok(rule)
}

/// The token itself, or what stands on `input` for `-`: arguments are seen by everybody on the machine.
pub(super) fn read_token(argument: &str, input: &mut dyn Read) -> io::Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut token = String::new();
    // Somewhat more than a token may have, so that one that is too long is seen to be.
    let bound = 2 * TOKEN_BYTES_MAX as u64;
    input.take(bound).read_to_string(&mut token)?;
    Ok(token.trim().to_owned())
}

/// The rules as a table. Its columns are the members that the rules have, so that it shows whatever the gateway tells.
fn list(out: &mut dyn Write, answer: &Value) -> io::Result<()> {
    let rules = answer
        .as_array()
        .or_else(|| answer.get("rules")?.as_array());
    let Some(rules) = rules else {
        return print::lines(out, answer);
    };
    if rules.is_empty() {
        return writeln!(out, "no rules");
    }
    let mut names: Vec<&str> = vec![];
    for name in rules
        .iter()
        .filter_map(Value::as_object)
        .flat_map(Map::keys)
    {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let cell = |rule: &Value, name: &str| match (name, rule.get(name)) {
        (_, None | Some(Value::Null)) => "-".to_owned(),
        ("at" | "until" | "cutoff" | "issued_before", Some(value)) => value
            .as_u64()
            .map_or_else(|| print::scalar(value), |at| when::date(UnixSeconds(at))),
        (_, Some(value)) => print::scalar(value),
    };
    let rows: Vec<Vec<String>> = rules
        .iter()
        .map(|rule| names.iter().map(|name| cell(rule, name)).collect())
        .collect();
    let head: Vec<String> = names
        .iter()
        .map(|name| print::harmless(name).to_uppercase())
        .collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    print::table(out, &head, &rows)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: RevokeArgs,
    }

    fn parse(options: &[&str]) -> Result<RevokeArgs, clap::Error> {
        let line = ["revoke"].into_iter().chain(options.iter().copied());
        Line::try_parse_from(line).map(|line| line.args)
    }

    #[track_caller]
    fn check(options: &[&str], expected: &Value) {
        let args = parse(options).expect("good arguments");
        let call = Call::new(&args, UnixSeconds(1000), &mut io::empty()).expect("a call");
        assert_eq!((call.method, call.path.as_str()), (Method::POST, RULES));
        assert_eq!(call.body.as_ref(), Some(expected));
    }

    #[test]
    fn each_option_is_one_rule() {
        check(&["--token", "a.b.c"], &json!({"token": "a.b.c"}));
        check(
            &["--session", "s", "--issuer", "i"],
            &json!({"iss": "i", "sid": "s"}),
        );
        check(
            &["--jti", "j", "--issuer", "i"],
            &json!({"iss": "i", "jti": "j"}),
        );
        check(
            &[
                "--user",
                "u",
                "--issuer",
                "i",
                "--issued-before",
                "77",
                "--reason",
                "r",
            ],
            &json!({"iss": "i", "sub": "u", "issued_before": 77, "reason": "r"}),
        );
        check(
            &["--user", "u", "--issuer", "i", "--except-session", "s"],
            &json!({"iss": "i", "sub": "u", "except_sid": "s"}),
        );
        check(
            &["--client", "c", "--issuer", "i", "--standing"],
            &json!({"iss": "i", "client_id": "c", "standing": true}),
        );
        check(
            &["--key", "k", "--issuer", "i", "--dry-run"],
            &json!({"iss": "i", "kid": "k", "dry_run": true}),
        );
        check(
            &["--all", "--issuer", "i"],
            &json!({"iss": "i", "issued_before": 1000}),
        );
        check(
            &[
                "--jti",
                "j",
                "--issuer",
                "i",
                "--wait",
                "fleet",
                "--timeout",
                "1500ms",
            ],
            &json!({"iss": "i", "jti": "j", "wait": "fleet", "timeout": "1s 500ms"}),
        );
        check(
            &["--all", "--issuer", "i", "--standing"],
            &json!({"iss": "i", "standing": true}),
        );
    }

    #[test]
    fn a_slip_is_wrong_usage_and_not_an_outage() {
        for wrong in [
            &[][..],
            &["--issuer", "i"],
            &["--all"],
            &["--user", "u"],
            &["--user", "u", "--session", "s", "--issuer", "i"],
            &["--token", "t", "--issuer", "i"],
            &["--session", "s", "--issuer", "i", "--standing"],
            &["--session", "s", "--issuer", "i", "--issued-before", "1"],
            &["--user", "u", "--issuer", "i", "--issued-before", "soon"],
            &["--client", "c", "--issuer", "i", "--except-session", "s"],
            &[
                "--user",
                "u",
                "--issuer",
                "i",
                "--except-session",
                "s",
                "--standing",
            ],
            &[
                "--user",
                "u",
                "--issuer",
                "i",
                "--except-session",
                "s",
                "--issued-before",
                "1",
            ],
            &["--list", "--dry-run"],
            &["--list", "--wait", "fleet"],
            &["--token", "t", "--wait", "everybody"],
            &["--token", "t", "--timeout", "soon"],
        ] {
            let error = parse(wrong).expect_err("refused");
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
        }
    }

    #[test]
    fn what_was_not_reached_is_no_success() {
        for (answer, expected) in [
            (json!({"rules": []}), Verdict::Good),
            (json!({"fleet": {"reached": true}}), Verdict::Good),
            (json!({"fleet": {"reached": false}}), Verdict::Bad),
        ] {
            assert_eq!(verdict(&answer), expected, "{answer}");
        }
    }

    #[test]
    fn an_id_cannot_leave_its_path() {
        let args = parse(&["--lift", "../keys?x"]).expect("good arguments");
        let call = Call::new(&args, UnixSeconds(0), &mut io::empty()).expect("a call");
        assert_eq!(call.method, Method::DELETE);
        assert_eq!(call.path, "/v1/revocations/%2E%2E%2Fkeys%3Fx");
        assert_eq!(call.body, None);
    }

    #[test]
    fn a_token_comes_from_standard_input_on_request() {
        let args = parse(&["--token", "-"]).expect("good arguments");
        let call = Call::new(&args, UnixSeconds(0), &mut &b"a.b.c\n"[..]).expect("a call");
        assert_eq!(call.body, Some(json!({"token": "a.b.c"})));
    }

    #[test]
    fn rules_are_a_table() {
        let table = |answer: &Value| {
            let mut out = vec![];
            list(&mut out, answer).expect("a Vec takes all");
            String::from_utf8(out).expect("UTF-8")
        };
        let rules = json!([{"id": 1, "sub": "alice", "until": 0}, {"id": 2, "kid": "k"}]);
        let expected = "ID  SUB    UNTIL                 KID\n\
                        1   alice  1970-01-01T00:00:00Z  -\n\
                        2   -      -                     k\n";
        assert_eq!(table(&rules), expected);
        assert_eq!(table(&json!({ "rules": rules })), expected);
        assert_eq!(table(&json!([])), "no rules\n");
    }
}
