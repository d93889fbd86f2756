//! The body of `POST /v1/revocations` → orders. Every fault of the body is found at once, each with its place as a
//! JSON Pointer (RFC 6901) and what to write instead.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};

use super::order::{IssuerLife, Issuers, Order, Tokens};
use super::receipt::{Patience, Wait};
use crate::base::clock::UnixSeconds;
use crate::base::limits::{ID_BYTES_MAX, KID_BYTES_MAX, TOKEN_BYTES_MAX};
use crate::denylist::{Fingerprinter, Kind};

/// Most rules of one body: a second of work for the writer at the very most, and below the body's 4 MiB.
const RULES_MAX: usize = 10_000;

/// Longest reason, in bytes. It is kept with the rule.
const REASON_BYTES_MAX: usize = 512;

/// Most faults that are told. A program that makes the same mistake 10,000 times needs no 10,000 lines.
const FAULTS_MAX: usize = 100;

/// How far `issued_before` may lie ahead: the largest leeway. Milliseconds for seconds would lock everybody out for ages.
const AHEAD_MAX: Duration = Duration::from_mins(5);

/// Longest member name repeated in a fault, in characters.
const NAME_CHARS_MAX: usize = 64;

/// The members that name what is revoked, and the longest value of each.
const NAMES: [(&str, Kind, usize); 5] = [
    ("jti", Kind::Token, ID_BYTES_MAX),
    ("sid", Kind::Session, ID_BYTES_MAX),
    ("sub", Kind::User, ID_BYTES_MAX),
    ("client_id", Kind::Client, ID_BYTES_MAX),
    ("kid", Kind::Key, KID_BYTES_MAX),
];

/// Longest time that a caller may wait. Whoever needs longer asks again: nobody keeps a connection open for it.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

const RULE_MEMBERS: [&str; 14] = [
    "token",
    "iss",
    "jti",
    "sid",
    "sub",
    "client_id",
    "kid",
    "issued_before",
    "except_sid",
    "reason",
    "wait",
    "timeout",
    "dry_run",
    "standing",
];

const BATCH_MEMBERS: [&str; 5] = ["rules", "reason", "wait", "timeout", "dry_run"];

/// What a body asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What shall be revoked.
    pub orders: Vec<Order>,
    /// What must be reached before there is an answer: of a batch whose rules say different things, the most.
    pub patience: Patience,
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON Pointer to the member.
    pub pointer: String,
    /// What is wrong, and what to write.
    pub message: Cow<'static, str>,
}

/// Everything that is wrong with a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The first hundred.
    pub told: Vec<Fault>,
    /// How many more there are.
    pub untold: usize,
}

impl Faults {
    fn add(&mut self, pointer: String, message: impl Into<Cow<'static, str>>) {
        if self.told.len() < FAULTS_MAX {
            self.told.push(Fault {
                pointer,
                message: message.into(),
            });
        } else {
            self.untold += 1;
        }
    }

    fn count(&self) -> usize {
        self.told.len() + self.untold
    }
}

/// What reading a body needs to know.
pub(super) struct Context<'a> {
    pub(super) issuers: &'a Issuers,
    pub(super) tokens: &'a dyn Tokens,
    pub(super) fingerprinter: Fingerprinter,
    /// Whether there is a fleet to wait for.
    pub(super) in_fleet: bool,
    pub(super) now: UnixSeconds,
}

/// What the rules of a body have said so far of waiting.
#[derive(Default)]
struct Said {
    wait: Option<Wait>,
    timeout: Option<Duration>,
}

/// Reads one rule, or `{"rules": [ … ]}`.
pub(super) fn asked(body: &Value, context: &Context<'_>) -> Result<Asked, Faults> {
    let mut faults = Faults::default();
    let mut said = Said::default();
    let orders = match body {
        Value::Object(members) if members.contains_key("rules") => {
            batch(members, context, &mut said, &mut faults)
        }
        Value::Object(members) => rule(members, String::new(), context, &mut said, &mut faults)
            .into_iter()
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            faults.add(
                String::new(),
                "is no object; write one rule or {\"rules\": [ … ]}",
            );
            vec![]
        }
    };
    if faults.count() == 0 {
        let default = Patience::default();
        Ok(Asked {
            orders,
            patience: Patience {
                wait: said.wait,
                timeout: said.timeout.unwrap_or(default.timeout),
            },
        })
    } else {
        Err(faults)
    }
}

fn batch(
    members: &Map<String, Value>,
    context: &Context<'_>,
    said: &mut Said,
    faults: &mut Faults,
) -> Vec<Order> {
    let mut of_all = Members {
        object: members,
        place: String::new(),
        faults,
    };
    of_all.known(&BATCH_MEMBERS);
    of_all.patience(context, said);
    let reason = of_all.reason();
    let dry_run = of_all.flag("dry_run");
    let rules = match members.get("rules") {
        Some(Value::Array(rules)) if rules.is_empty() => {
            faults.add("/rules".into(), "is empty; write at least one rule");
            return vec![];
        }
        Some(Value::Array(rules)) if rules.len() <= RULES_MAX => rules,
        Some(Value::Array(_)) => {
            faults.add(
                "/rules".into(),
                format!("has too many rules; write at most {RULES_MAX} and send the rest after"),
            );
            return vec![];
        }
        _ => {
            faults.add("/rules".into(), "is no array; write a list of rules");
            return vec![];
        }
    };
    let mut orders = Vec::with_capacity(rules.len());
    for (number, value) in rules.iter().enumerate() {
        let place = format!("/rules/{number}");
        let Value::Object(members) = value else {
            faults.add(place, "is no object; write a rule");
            continue;
        };
        if let Some(mut order) = rule(members, place, context, said, faults) {
            order.reason = order.reason.or_else(|| reason.clone());
            order.dry_run |= dry_run;
            orders.push(order);
        }
    }
    orders
}

fn rule(
    members: &Map<String, Value>,
    place: String,
    context: &Context<'_>,
    said: &mut Said,
    faults: &mut Faults,
) -> Option<Order> {
    let before = faults.count();
    let mut rule = Members {
        object: members,
        place,
        faults,
    };
    rule.known(&RULE_MEMBERS);
    rule.patience(context, said);
    let reason = rule.reason();
    let dry_run = rule.flag("dry_run");
    let standing = rule.flag("standing");
    let issued_before = rule.issued_before(context.now);
    let order = if rule.has("token") {
        by_token(&mut rule, context)
    } else if rule.has("except_sid") {
        pin(&mut rule, context)
    } else {
        by_name(&mut rule, issued_before, standing, context)
    };
    if faults.count() > before {
        return None;
    }
    order.map(|order| Order {
        reason,
        dry_run,
        ..order
    })
}

fn by_token(rule: &mut Members<'_>, context: &Context<'_>) -> Option<Order> {
    for name in ["iss", "issued_before", "standing", "except_sid"]
        .into_iter()
        .chain(NAMES.map(|(name, ..)| name))
    {
        if rule.has(name) {
            rule.fault(
                name,
                "does not go with \"token\", which says everything itself; leave it out",
            );
        }
    }
    let raw = rule.text("token", TOKEN_BYTES_MAX)?;
    let token = match context.tokens.identify(raw) {
        Ok(token) => token,
        Err(fault) => {
            rule.fault("token", fault.to_string());
            return None;
        }
    };
    let Some(issuer) = context.issuers.find(&token.issuer) else {
        rule.fault("token", "is of an issuer that is not configured here");
        return None;
    };
    Order::token(&token, issuer.leeway)
}

fn by_name(
    rule: &mut Members<'_>,
    issued_before: Option<UnixSeconds>,
    standing: bool,
    context: &Context<'_>,
) -> Option<Order> {
    let issuer = issuer(rule, context);
    let named: Vec<_> = NAMES
        .into_iter()
        .filter(|(name, ..)| rule.has(name))
        .collect();
    let target = match named.as_slice() {
        [] => {
            if !rule.has("issued_before") && !standing {
                rule.fault_here(
                    "says not what to revoke; write one of \"jti\", \"sid\", \"sub\", \"client_id\", \"kid\", or \
                     \"issued_before\" to revoke everything of the issuer until then",
                );
            }
            Some((Kind::Issuer, ""))
        }
        [(name, kind, bytes_max)] => {
            if matches!(kind, Kind::Token | Kind::Session) {
                for unfit in ["issued_before", "standing"] {
                    if rule.has(unfit) {
                        rule.fault(
                            unfit,
                            "does not go with \"jti\" and \"sid\", which are revoked whole; leave it out",
                        );
                    }
                }
            }
            rule.text(name, *bytes_max).map(|value| (*kind, value))
        }
        _ => {
            rule.fault_here(
                "says more than one thing to revoke; write one of \"jti\", \"sid\", \"sub\", \"client_id\", \
                 \"kid\" in each rule",
            );
            for (name, _, bytes_max) in named {
                let _ = rule.text(name, bytes_max);
            }
            None
        }
    };
    Some(Order::named(
        &context.fingerprinter,
        issuer?,
        target?,
        issued_before,
        standing,
        context.now,
    ))
}

/// Denies every session of a user but one. It has no date: who had an old session could wait for a newer token of it.
fn pin(rule: &mut Members<'_>, context: &Context<'_>) -> Option<Order> {
    let issuer = issuer(rule, context);
    for (unfit, message) in [
        (
            "issued_before",
            "does not go with \"except_sid\", which denies the other sessions whenever their tokens were issued; \
             leave one of them out",
        ),
        (
            "standing",
            "does not go with \"except_sid\", which always stays until it is lifted; leave it out",
        ),
    ] {
        if rule.has(unfit) {
            rule.fault(unfit, message);
        }
    }
    for (name, kind, _) in NAMES {
        if kind != Kind::User && rule.has(name) {
            rule.fault(
                name,
                "does not go with \"except_sid\", which is about the sessions of one \"sub\"; leave one of them out",
            );
        }
    }
    if !rule.has("sub") {
        rule.fault_here(
            "says not whose other sessions to revoke; write \"sub\" beside \"except_sid\"",
        );
    }
    let user = rule.text("sub", ID_BYTES_MAX);
    let session_id = rule.text("except_sid", ID_BYTES_MAX);
    Some(Order::pin(
        &context.fingerprinter,
        issuer?,
        user?,
        session_id?,
    ))
}

/// Whose tokens.
fn issuer<'a>(rule: &mut Members<'_>, context: &Context<'a>) -> Option<&'a IssuerLife> {
    if !rule.has("iss") {
        rule.fault(
            "iss",
            "is missing; write the issuer of what you revoke, or a \"token\" instead of all",
        );
        return None;
    }
    let iss = rule.text("iss", ID_BYTES_MAX)?;
    let issuer = context.issuers.find(iss);
    if issuer.is_none() {
        rule.fault(
            "iss",
            "is not configured here; write the `issuer` of one of the [[issuers]], letter by letter",
        );
    }
    issuer
}

/// The members of one object, and where it stands.
struct Members<'a> {
    object: &'a Map<String, Value>,
    place: String,
    faults: &'a mut Faults,
}

impl<'a> Members<'a> {
    fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    fn fault(&mut self, name: &str, message: impl Into<Cow<'static, str>>) {
        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
        let name = name.replace('~', "~0").replace('/', "~1");
        self.faults.add(format!("{}/{name}", self.place), message);
    }

    fn fault_here(&mut self, message: &'static str) {
        self.faults.add(self.place.clone(), message);
    }

    fn known(&mut self, known: &[&str]) {
        let object = self.object;
        for name in object.keys().filter(|name| !known.contains(&&***name)) {
            self.fault(
                name,
                format!("is unknown here; known are {}", known.join(", ")),
            );
        }
    }

    fn text(&mut self, name: &str, bytes_max: usize) -> Option<&'a str> {
        match self.object.get(name)? {
            Value::String(text) if text.is_empty() => {
                self.fault(name, "is empty; write its value");
                None
            }
            Value::String(text) if text.chars().any(char::is_control) => {
                self.fault(
                    name,
                    "has a control character; leave it out (no token that passes has one)",
                );
                None
            }
            Value::String(text) if text.len() <= bytes_max => Some(text),
            Value::String(_) => {
                self.fault(
                    name,
                    format!("is too long; write at most {bytes_max} bytes"),
                );
                None
            }
            _ => {
                self.fault(name, "is no string; write it in quotes");
                None
            }
        }
    }

    fn reason(&mut self) -> Option<Box<str>> {
        self.text("reason", REASON_BYTES_MAX).map(Box::from)
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.object.get(name) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.fault(name, "is no boolean; write true or false");
                false
            }
        }
    }

    /// How far it must come, and how long that may take.
    fn patience(&mut self, context: &Context<'_>, said: &mut Said) {
        let wait = match self.object.get("wait").map(Value::as_str) {
            None => None,
            Some(Some("local")) => Some(Wait::Local),
            Some(Some("relay")) if context.in_fleet => Some(Wait::Relay),
            Some(Some("fleet")) if context.in_fleet => Some(Wait::Fleet),
            // Whoever asks for more than there is should learn it here, and not when it was needed.
            Some(Some("relay" | "fleet")) => {
                self.fault(
                    "wait",
                    "needs a fleet, and none is configured; write \"local\" or leave it out",
                );
                None
            }
            Some(_) => {
                self.fault(
                    "wait",
                    if context.in_fleet {
                        "is unknown; write \"local\", \"relay\" or \"fleet\", or leave it out"
                    } else {
                        "is unknown; write \"local\" or leave it out"
                    },
                );
                None
            }
        };
        said.wait = said.wait.max(wait);
        let timeout = self.object.get("timeout").and_then(|value| {
            let timeout = value
                .as_str()
                .and_then(|text| humantime::parse_duration(text).ok())
                .filter(|timeout| (Duration::from_millis(1)..=TIMEOUT_MAX).contains(timeout));
            if timeout.is_none() {
                self.fault(
                    "timeout",
                    "is no time to wait; write a text with a unit, \"1ms\" to \"30s\"",
                );
            }
            timeout
        });
        said.timeout = said.timeout.max(timeout);
    }

    fn issued_before(&mut self, now: UnixSeconds) -> Option<UnixSeconds> {
        let value = self.object.get("issued_before")?;
        match value.as_u64().map(UnixSeconds) {
            Some(at) if at <= now.plus(AHEAD_MAX) => Some(at),
            Some(_) => {
                self.fault(
                    "issued_before",
                    "lies in the future; write whole seconds since 1970, at most now (\"standing\": true also denies \
                     what is issued later)",
                );
                None
            }
            None => {
                self.fault(
                    "issued_before",
                    "is no date; write whole seconds since 1970, without quotes",
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::order::{IdentifiedToken, IdentifyFault, IssuerLife};
    use super::*;
    use crate::denylist::{Cutoff, TokenKeys};
    use crate::token::Claims;

    const NOW: UnixSeconds = UnixSeconds(1_795_417_570);

    /// Knows the token `good`.
    struct OneToken;

    impl Tokens for OneToken {
        fn identify(&self, raw: &str) -> Result<IdentifiedToken, IdentifyFault> {
            let issuer = match raw {
                "good" => "https://id",
                "foreign" => "https://foreign",
                _ => return Err(IdentifyFault::Malformed),
            };
            let claims = Claims {
                issuer: issuer.into(),
                audiences: vec![],
                expires: NOW,
                not_before: None,
                issued: None,
                token_id: Some("t1".into()),
                session_id: None,
                subject: None,
                client: None,
                scopes: vec![],
                all: Value::Null,
            };
            Ok(IdentifiedToken {
                issuer: issuer.into(),
                keys: TokenKeys::of(&Fingerprinter::new(&[1; 16]), &claims, None, b"h.p"),
                token_id: Some("t1".into()),
                expires: NOW,
            })
        }
    }

    fn read(body: &Value) -> Result<Vec<Order>, Faults> {
        read_in(false, body).map(|asked| asked.orders)
    }

    fn read_in(in_fleet: bool, body: &Value) -> Result<Asked, Faults> {
        let issuers: Issuers = [IssuerLife {
            issuer: Arc::from("https://id"),
            max_lifetime: Duration::from_hours(1),
            leeway: Duration::from_secs(30),
        }]
        .into_iter()
        .collect();
        asked(
            body,
            &Context {
                issuers: &issuers,
                tokens: &OneToken,
                fingerprinter: Fingerprinter::new(&[1; 16]),
                in_fleet,
                now: NOW,
            },
        )
    }

    #[track_caller]
    fn good(body: &Value) -> Order {
        let mut orders = read(body).unwrap();
        assert_eq!(orders.len(), 1);
        orders.remove(0)
    }

    /// The pointers of all faults, in their order.
    #[track_caller]
    fn faults(body: &Value, expected: &[&str]) {
        let faults = read(body).unwrap_err();
        let pointers: Vec<_> = faults.told.iter().map(|fault| &*fault.pointer).collect();
        assert_eq!(pointers, expected, "{faults:?}");
    }

    #[test]
    fn each_way_of_naming_makes_its_kind() {
        for (name, kind, _) in NAMES {
            let order = good(&json!({"iss": "https://id", name: "x"}));
            assert_eq!((order.id.kind, order.value.as_deref()), (kind, Some("x")));
        }
        let order = good(&json!({"iss": "https://id", "issued_before": 5}));
        assert_eq!((order.id.kind, order.value), (Kind::Issuer, None));
        let order = good(&json!({"token": "good", "reason": "lost", "dry_run": true}));
        assert_eq!(
            (order.id.kind, order.value.as_deref()),
            (Kind::Token, Some("t1"))
        );
        assert_eq!(order.reason.as_deref(), Some("lost"));
        assert!(order.dry_run);
        assert_eq!(order.span.until.instant(), Some(UnixSeconds(NOW.0 + 30)));
    }

    #[test]
    fn except_sid_makes_a_pin() {
        let order = good(
            &json!({"iss": "https://id", "sub": "a", "except_sid": "s", "reason": "new phone"}),
        );
        assert_eq!(
            (order.id.kind, order.value.as_deref()),
            (Kind::Pin, Some("a"))
        );
        assert_eq!(order.reason.as_deref(), Some("new phone"));
        assert_eq!(&*order.spared.unwrap().session_id, "s");
    }

    #[test]
    fn each_fault_of_a_pin_alone() {
        let iss = "https://id";
        for (body, pointer) in [
            (
                json!({"iss": iss, "sub": "a", "except_sid": ""}),
                "/except_sid",
            ),
            (
                json!({"iss": iss, "sub": "a", "except_sid": "x".repeat(ID_BYTES_MAX + 1)}),
                "/except_sid",
            ),
            (
                json!({"iss": iss, "sub": "a", "except_sid": "s", "issued_before": 5}),
                "/issued_before",
            ),
            (
                json!({"iss": iss, "sub": "a", "except_sid": "s", "standing": true}),
                "/standing",
            ),
            (
                json!({"iss": iss, "sub": "a", "except_sid": "s", "sid": "t"}),
                "/sid",
            ),
            (json!({"iss": iss, "except_sid": "s"}), ""),
            (json!({"sub": "a", "except_sid": "s"}), "/iss"),
            (json!({"token": "good", "except_sid": "s"}), "/except_sid"),
        ] {
            faults(&body, &[pointer]);
        }
    }

    #[test]
    fn dates_and_standing_are_used() {
        let order = good(&json!({"iss": "https://id", "sub": "a", "issued_before": 5}));
        assert_eq!(order.span.cutoff, Cutoff::at(UnixSeconds(5)));
        let order = good(&json!({"iss": "https://id", "sub": "a", "standing": true}));
        assert_eq!(order.span.cutoff, Cutoff::ALWAYS);
        assert!(order.is_standing());
        assert!(good(&json!({"iss": "https://id", "standing": true})).is_standing());
        let at_most = NOW.plus(AHEAD_MAX).0;
        good(&json!({"iss": "https://id", "sub": "a", "issued_before": at_most}));
    }

    #[test]
    fn a_batch_hands_its_reason_and_dry_run_down() {
        let orders = read(
            &json!({"reason": "all", "dry_run": true, "wait": "local", "rules": [
                {"iss": "https://id", "sub": "a"},
                {"iss": "https://id", "sub": "b", "reason": "own"},
            ]}),
        )
        .unwrap();
        assert_eq!(orders.len(), 2);
        assert_eq!(orders[0].reason.as_deref(), Some("all"));
        assert_eq!(orders[1].reason.as_deref(), Some("own"));
        assert!(orders.iter().all(|order| order.dry_run));
    }

    #[test]
    fn each_fault_alone() {
        let iss = "https://id";
        for (body, pointer) in [
            (json!([]), ""),
            (json!({}), "/iss"),
            (json!({"sub": "a"}), "/iss"),
            (json!({"iss": "https://id/", "sub": "a"}), "/iss"),
            (json!({"iss": 5, "sub": "a"}), "/iss"),
            (json!({"iss": iss}), ""),
            (json!({"iss": iss, "sub": "a", "sid": "b"}), ""),
            (json!({"iss": iss, "sub": ""}), "/sub"),
            (json!({"iss": iss, "sub": null}), "/sub"),
            (json!({"iss": iss, "sub": "a\u{0}"}), "/sub"),
            (json!({"iss": iss, "sub": "a", "reason": "b\n"}), "/reason"),
            (
                json!({"iss": iss, "sub": "x".repeat(ID_BYTES_MAX + 1)}),
                "/sub",
            ),
            (
                json!({"iss": iss, "kid": "x".repeat(KID_BYTES_MAX + 1)}),
                "/kid",
            ),
            (json!({"iss": iss, "sub": "a", "a/b~c": 1}), "/a~1b~0c"),
            (
                json!({"iss": iss, "sub": "a", "issued_before": "5"}),
                "/issued_before",
            ),
            (
                json!({"iss": iss, "sub": "a", "issued_before": -5}),
                "/issued_before",
            ),
            (
                json!({"iss": iss, "sub": "a", "issued_before": 1.5}),
                "/issued_before",
            ),
            (
                json!({"iss": iss, "sub": "a", "issued_before": NOW.0 * 1000}),
                "/issued_before",
            ),
            (
                json!({"iss": iss, "sub": "a", "issued_before": NOW.0 + 301}),
                "/issued_before",
            ),
            (
                json!({"iss": iss, "jti": "a", "issued_before": 5}),
                "/issued_before",
            ),
            (
                json!({"iss": iss, "sid": "a", "standing": true}),
                "/standing",
            ),
            (
                json!({"iss": iss, "sub": "a", "standing": "yes"}),
                "/standing",
            ),
            (json!({"iss": iss, "sub": "a", "wait": "fleet"}), "/wait"),
            (json!({"iss": iss, "sub": "a", "wait": "relay"}), "/wait"),
            (json!({"iss": iss, "sub": "a", "wait": true}), "/wait"),
            (json!({"iss": iss, "sub": "a", "dry_run": 1}), "/dry_run"),
            (
                json!({"iss": iss, "sub": "a", "reason": "x".repeat(513)}),
                "/reason",
            ),
            (json!({"token": "bad"}), "/token"),
            (json!({"token": "foreign"}), "/token"),
            (json!({"token": "x".repeat(TOKEN_BYTES_MAX + 1)}), "/token"),
            (json!({"token": "good", "iss": iss}), "/iss"),
            (json!({"token": "good", "jti": "a"}), "/jti"),
            (json!({"token": "good", "standing": true}), "/standing"),
            (json!({"rules": []}), "/rules"),
            (json!({"rules": {}}), "/rules"),
            (json!({"rules": [7]}), "/rules/0"),
            (json!({"rules": vec![0; RULES_MAX + 1]}), "/rules"),
            (
                json!({"rules": [{"iss": iss, "sub": "a"}], "iss": iss}),
                "/iss",
            ),
            (
                json!({"rules": [{"iss": iss, "sub": "a"}], "wait": "fleet"}),
                "/wait",
            ),
        ] {
            let expected: &[&str] = if body == json!({}) {
                &["/iss", ""]
            } else {
                &[pointer]
            };
            faults(&body, expected);
        }
    }

    #[test]
    fn a_fleet_can_be_waited_for() {
        let rule = |more: Value| {
            let mut rule = json!({"iss": "https://id", "sub": "a"});
            rule.as_object_mut()
                .expect("an object")
                .extend(more.as_object().expect("an object").clone());
            rule
        };
        let patience = |body: &Value| read_in(true, body).map(|asked| asked.patience);
        let secs = Duration::from_secs;
        for (more, wait, timeout) in [
            (json!({}), None, secs(2)),
            (json!({"wait": "local"}), Some(Wait::Local), secs(2)),
            (
                json!({"wait": "relay", "timeout": "30s"}),
                Some(Wait::Relay),
                secs(30),
            ),
            (
                json!({"wait": "fleet", "timeout": "1ms"}),
                Some(Wait::Fleet),
                Duration::from_millis(1),
            ),
        ] {
            let found = patience(&rule(more.clone())).expect("good");
            assert_eq!(found, Patience { wait, timeout }, "{more}");
        }
        let batch = json!({"timeout": "3s", "rules": [rule(json!({"wait": "fleet"})), rule(json!({"wait": "local", "timeout": "1s"}))]});
        let most = patience(&batch).expect("good");
        assert_eq!((most.wait, most.timeout), (Some(Wait::Fleet), secs(3)));
        for wrong in [
            json!({"wait": "everybody"}),
            json!({"wait": 1}),
            json!({"timeout": "31s"}),
            json!({"timeout": "0s"}),
            json!({"timeout": "soon"}),
            json!({"timeout": 2}),
        ] {
            let faults = patience(&rule(wrong.clone())).expect_err("refused");
            let name = wrong
                .as_object()
                .and_then(|it| it.keys().next())
                .expect("a name");
            assert_eq!(faults.told.len(), 1, "{wrong}");
            assert_eq!(faults.told[0].pointer, format!("/{name}"));
        }
        let alone = read_in(false, &rule(json!({"timeout": "1s"})));
        assert!(alone.is_ok(), "it means nothing there, and does no harm");
    }

    #[test]
    fn all_faults_come_at_once() {
        faults(
            &json!({"rules": [
                {"iss": "https://id", "sub": "a"},
                {"iss": "nobody", "sub": "", "wait": "fleet"},
                {"token": "bad", "reason": 1},
            ]}),
            &[
                "/rules/1/wait",
                "/rules/1/iss",
                "/rules/1/sub",
                "/rules/2/reason",
                "/rules/2/token",
            ],
        );
    }

    #[test]
    fn the_list_of_faults_is_bounded_and_says_how_many_are_left_out() {
        let faults = read(&json!({"rules": vec![0; 250]})).unwrap_err();
        assert_eq!((faults.told.len(), faults.untold), (100, 150));
    }
}
