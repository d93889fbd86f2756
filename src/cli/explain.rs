//! `jotgate explain`: every step of the decision for one request, and which one fails. It asks the code that requests ask, with
//! keys that it fetches itself; the denylist is the running gateway's.

use std::io::{self, Read, Write};

use clap::Args;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;

use super::print::harmless;
use super::revoke::read_token;
use super::{ConfigArgs, Failure, Verdict};
use crate::app::Rehearsal;
use crate::authorize::{Decision, Denied, Pass, Presented, decide};
use crate::base::clock::{Clock, UnixSeconds};
use crate::base::json::Node as _;
use crate::config;
use crate::plan::{Plan, Route};
use crate::policy::{self, Auth, Mode, OnStale};
use crate::proxy::{check_overrides, is_hidden};
use crate::route::{Found, Host, NormalPath};
use crate::token::{Places, Reject, parse};

#[derive(Debug, Args)]
#[command(
    after_help = "The keys of the issuers are fetched as the gateway fetches them. The denylist is not asked: only the running \
    gateway knows it. Exit code 1 when the request would be refused.\n\n\
    Examples:\n  \
    jotgate explain --config gateway.toml --token \"$TOKEN\" --request 'GET /orders'\n  \
    pbpaste | jotgate explain --config gateway.toml --token - --request 'POST /orders' --host api.example.com"
)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The token; - reads it from standard input. Without: a request that has none
    #[arg(long)]
    token: Option<String>,
    /// Method and path
    #[arg(long, value_name = "METHOD PATH", value_parser = request)]
    request: Asked,
    /// The request's Host
    #[arg(long, default_value = "localhost")]
    host: String,
    /// A header of the request, for routes with an expression; may be given several times. It is read as from a stranger, who
    /// is no trusted proxy
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let cure = "write a name and a value, such as 'x-tenant: shop'";
    let (name, value) = text.split_once(':').ok_or(cure)?;
    let name = name.trim().parse().map_err(|_| cure)?;
    Ok((name, value.trim().parse().map_err(|_| cure)?))
}

/// A request line without its version.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    method: Method,
    target: String,
}

fn request(text: &str) -> Result<Asked, &'static str> {
    let cure = "write a method and a path, such as 'GET /orders'";
    let (method, target) = text.split_once(' ').ok_or(cure)?;
    if !target.starts_with('/') || target.contains(' ') {
        return Err(cure);
    }
    Ok(Asked {
        method: method.parse().map_err(|_| cure)?,
        target: target.to_owned(),
    })
}

/// What a token goes through, in the order in which it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Token,
    Form,
    Issuer,
    Keys,
    Algorithm,
    Type,
    Claims,
    Times,
    Audience,
    Key,
    Signature,
    Denylist,
    Requirement,
    Headers,
}

impl Step {
    const ALL: [Self; 14] = [
        Self::Token,
        Self::Form,
        Self::Issuer,
        Self::Keys,
        Self::Algorithm,
        Self::Type,
        Self::Claims,
        Self::Times,
        Self::Audience,
        Self::Key,
        Self::Signature,
        Self::Denylist,
        Self::Requirement,
        Self::Headers,
    ];

    /// What it asks.
    const fn text(self) -> &'static str {
        match self {
            Self::Token => "one token where the route looks",
            Self::Form => "a signed token of one reading",
            Self::Issuer => "iss is one of the route's issuers",
            Self::Keys => "the issuer's keys are there",
            Self::Algorithm => "alg is on the issuer's list",
            Self::Type => "typ is on the issuer's list",
            Self::Claims => "the claims that must be there, in their form",
            Self::Times => "exp, nbf, iat and the lifetime",
            Self::Audience => "aud names one of the audiences",
            Self::Key => "a key that the token names fits",
            Self::Signature => "the signature",
            Self::Denylist => "not revoked",
            Self::Requirement => "the scopes, claims and expression that the route asks",
            Self::Headers => "claims become headers",
        }
    }

    /// Where it fails.
    const fn of(denied: Denied) -> Self {
        match denied {
            Denied::NoToken | Denied::TokenAmbiguous | Denied::TooManyFailures(_) => Self::Token,
            Denied::KeysUnavailable => Self::Keys,
            Denied::Revoked(_) | Denied::DenylistStale => Self::Denylist,
            Denied::ScopeLacking
            | Denied::ClaimLacking
            | Denied::ExpressionFalse
            | Denied::ExpressionFailed => Self::Requirement,
            Denied::ClaimsUnmappable => Self::Headers,
            Denied::Token(reject) => match reject {
                Reject::Malformed | Reject::TooLarge | Reject::CritUnsupported => Self::Form,
                Reject::IssuerUnknown => Self::Issuer,
                Reject::AlgorithmNotAllowed => Self::Algorithm,
                Reject::TypeNotAllowed => Self::Type,
                Reject::ClaimMalformed | Reject::ClaimMissing => Self::Claims,
                Reject::Expired
                | Reject::NotYetValid
                | Reject::IssuedInFuture
                | Reject::LifetimeTooLong => Self::Times,
                Reject::AudienceMismatch => Self::Audience,
                Reject::KeyUnknown | Reject::KeyMismatch => Self::Key,
                Reject::SignatureInvalid => Self::Signature,
            },
        }
    }
}

pub(super) async fn explain(
    args: ExplainArgs,
    clock: &Clock,
    input: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<Verdict, Failure> {
    let settings = config::load(&args.config.path()?).map_err(Failure::Config)?;
    let token = args.token.map(|token| read_token(&token, input));
    let token = token.transpose().map_err(Failure::Output)?;
    let rehearsal = Rehearsal::of(settings, clock).await?;
    let (route, seen) = match find(&rehearsal.plan, &args.host, &args.request) {
        Ok(found) => found,
        Err(why) => {
            writeln!(out, "FAIL  route      {why}\n\nrefused, whatever the token")?;
            return Ok(Verdict::Bad);
        }
    };
    writeln!(out, "ok    route      {}", harmless(route.name.as_str()))?;
    let decision = judge(
        &rehearsal,
        route,
        (token.as_deref(), args.headers),
        &seen,
        clock.now(),
    );
    show(route, token.as_deref(), &decision, out)?;
    Ok(match (&decision, route.mode) {
        (Ok(_), _) | (Err(_), Mode::Report) => Verdict::Good,
        (Err(_), Mode::Enforce) => Verdict::Bad,
    })
}

/// The request in the form that is matched.
struct Seen {
    method: Method,
    path: String,
    host: String,
}

/// Steps 4 and 5 of the life of a request.
fn find<'p>(plan: &'p Plan, host: &str, asked: &Asked) -> Result<(&'p Route, Seen), String> {
    let host = Host::parse(host).map_err(|_| "400: the host is not valid".to_owned())?;
    let (path, query) = match asked.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*asked.target, None),
    };
    let path = NormalPath::parse(path).map_err(|error| format!("400: the path {error}"))?;
    match plan.routes.find(Some(&host), &path, &asked.method) {
        Ok(Found::Route(route)) => {
            check_overrides(plan, (Some(&host), &path, query), route).map_err(|failure| {
                let problem = failure.problem();
                format!("{}: {}", problem.status.as_u16(), problem.detail)
            })?;
            Ok((
                route,
                Seen {
                    method: asked.method.clone(),
                    path: path.as_str().to_owned(),
                    host: host.as_str().to_owned(),
                },
            ))
        }
        Ok(Found::Nothing) => Err("404: no route, no service".to_owned()),
        Ok(Found::OtherMethods(methods)) => {
            let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
            Err(format!("405: the route is for {}", methods.join(" ")))
        }
        Err(ambiguous) => Err(format!("400: {ambiguous}")),
    }
}

/// Steps 6 to 12.
fn judge(
    rehearsal: &Rehearsal,
    route: &Route,
    (token, more): (Option<&str>, Vec<(HeaderName, HeaderValue)>),
    seen: &Seen,
    now: UnixSeconds,
) -> Result<Pass, Denied> {
    let (mut headers, query) = present(&route.access.places, token);
    for (name, value) in more {
        headers.append(name, value);
    }
    let is_hidden = |name: &HeaderName| is_hidden(name, &headers, &rehearsal.plan, route, false);
    let request = policy::Request {
        method: seen.method.as_str(),
        path: &seen.path,
        host: Some(&seen.host),
        headers: &headers,
        is_hidden: &is_hidden,
    };
    let presented = Presented {
        headers: &headers,
        query: query.as_deref(),
        request: Some(&request),
        barred: None,
        stale: false,
    };
    match decide(&route.access, presented, &rehearsal.tables, now).decision {
        Decision::Pass(pass) => Ok(pass),
        Decision::Deny(denied) => Err(denied),
        Decision::KeyUnknown(_) => Err(Denied::Token(Reject::KeyUnknown)),
    }
}

/// The token in the first place where the route looks.
fn present(places: &Places, token: Option<&str>) -> (HeaderMap, Option<String>) {
    let mut headers = HeaderMap::new();
    let Some(token) = token else {
        return (headers, None);
    };
    let mut line = |name, text: String| {
        // What is no header's value is no token, either: an empty line is found and refused as malformed.
        let value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Bearer ."));
        headers.insert(name, value);
    };
    let mut query = None;
    if places.authorization {
        line(AUTHORIZATION, format!("Bearer {token}"));
    } else if let Some(name) = &places.header {
        line(name.clone(), token.to_owned());
    } else if let Some(name) = &places.cookie {
        line(COOKIE, format!("{name}={token}"));
    } else if let Some(name) = &places.query {
        query = Some(format!("{name}={token}"));
    }
    (headers, query)
}

fn show(
    route: &Route,
    token: Option<&str>,
    decision: &Result<Pass, Denied>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let failed = decision.as_ref().err().map(|denied| Step::of(*denied));
    if failed.is_none() && decision.as_ref().is_ok_and(|pass| pass.bearer.is_none()) {
        let why = match route.access.auth {
            Auth::Public => "the route is public: tokens are not looked at",
            Auth::Optional | Auth::Required => "the route does without a token",
        };
        return writeln!(
            out,
            "ok    token      {why}\n\npasses, without identity headers"
        );
    }
    for step in Step::ALL {
        let name = format!("{step:?}").to_lowercase();
        let sign = match failed {
            Some(failed) if step == failed => "FAIL",
            Some(failed) if step > failed => "-",
            Some(_) | None if step == Step::Denylist => "?",
            Some(_) | None => "ok",
        };
        let detail = match sign {
            "-" => "not asked".to_owned(),
            "?" => on_stale(route).to_owned(),
            _ => detail(step, route, token).map_or_else(
                || step.text().to_owned(),
                |said| format!("{}: {}", step.text(), harmless(&said)),
            ),
        };
        writeln!(out, "{sign:<6}{name:<12}{detail}")?;
    }
    match decision {
        Ok(_) => writeln!(out, "\npasses")?,
        Err(denied) => {
            let problem = denied.problem(&route.access.requirement);
            write!(out, "\n{} {}", problem.status.as_u16(), denied.code())?;
            match route.mode {
                Mode::Enforce => writeln!(out)?,
                Mode::Report => writeln!(out, ", which mode = \"report\" lets pass as a stranger")?,
            }
        }
    }
    if let Ok(Pass {
        bearer: Some((bearer, _)),
        ..
    }) = decision
    {
        for (name, value) in bearer.headers.iter().flatten() {
            let value = String::from_utf8_lossy(value.as_bytes());
            writeln!(out, "{name}: {}", harmless(&value))?;
        }
    }
    Ok(())
}

/// The step that only the running gateway can take.
const fn on_stale(route: &Route) -> &'static str {
    match route.access.on_stale {
        OnStale::Deny => {
            "only the running gateway knows; see jotgate revoke --help. In a fleet: 503 while it is too old"
        }
        OnStale::Allow => {
            "only the running gateway knows; see jotgate revoke --help. In a fleet: passes while it is too old"
        }
    }
}

/// What the token, or the route, says about it.
fn detail(step: Step, route: &Route, token: Option<&str>) -> Option<String> {
    if step == Step::Requirement {
        let expression = route.access.requirement.expression.as_ref()?;
        return Some(expression.as_str().replace('\n', " "));
    }
    let mut room = vec![];
    let parsed = parse(token?, &mut room).ok()?;
    let claim = |name: &str| {
        let value = parsed.payload.member(name).cloned();
        value.map(|value| Value::from(value).to_string())
    };
    match step {
        Step::Issuer => claim("iss"),
        Step::Algorithm => Some(parsed.algorithm.to_string()),
        Step::Type => parsed.typ.as_deref().map(ToOwned::to_owned),
        Step::Key => parsed.kid.as_deref().map(ToOwned::to_owned),
        Step::Audience => claim("aud"),
        Step::Times => claim("exp").map(|exp| format!("exp {exp}")),
        Step::Token
        | Step::Form
        | Step::Keys
        | Step::Claims
        | Step::Signature
        | Step::Denylist
        | Step::Requirement
        | Step::Headers => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_method_and_a_path() {
        let good = request("GET /orders?a=b").expect("a request");
        assert_eq!((good.method, &*good.target), (Method::GET, "/orders?a=b"));
        for bad in [
            "",
            "GET",
            "/orders",
            "GET orders",
            "GET /a HTTP/1.1",
            "G(T /a",
        ] {
            assert!(request(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_rejection_has_its_step_and_steps_stand_in_their_order() {
        assert!(Step::ALL.is_sorted());
        let mut met: Vec<Step> = Reject::ALL
            .map(|reject| Step::of(Denied::Token(reject)))
            .into();
        met.extend(
            [
                Denied::NoToken,
                Denied::KeysUnavailable,
                Denied::ScopeLacking,
                Denied::ClaimsUnmappable,
            ]
            .map(Step::of),
        );
        met.push(Step::of(Denied::Revoked(crate::denylist::Kind::User)));
        for step in Step::ALL {
            assert!(met.contains(&step), "{step:?}");
        }
    }
}
