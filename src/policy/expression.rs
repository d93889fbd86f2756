//! An expression of a route in the Common Expression Language: what claims must be in comparison with each other and with the
//! request. <https://cel.dev>
//!
//! Compiled when the configuration is read, where everything is refused that could cost more than its text says: no loops
//! (`all`, `exists`, `map` …), no regular expressions, nothing that builds texts or maps. So an evaluation is a walk over
//! the text, each step of which reads one claim or header at most once.
//!
//! It must come to `true`. Anything else refuses the request: `false`, another type, a member that is missing, a header that
//! stands twice. The library evaluates; here is what it may see.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, Expr, LiteralValue, SelectExpr, operators};
use cel::common::traits::{Container, Indexer};
use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt, MAP_TYPE,
    Type,
};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, IdedExpr, Value as CelValue};
use http::{HeaderMap, HeaderName};
use serde_json::Value;

use crate::token::Claims;

/// Longest text, in bytes. Whoever needs more has a policy of their own, and is better off with a service that holds it.
pub const EXPRESSION_BYTES_MAX: usize = 1024;

/// Deepest nesting. The walk is recursive, and runs on the stack of a serving thread.
const DEPTH_MAX: u16 = 32;

/// Most places that read a claim or a header: each may look through the whole of a token or a head.
const REFERENCES_MAX: usize = 32;

/// Of a request, besides `headers`.
const MEMBERS: [&str; 3] = ["method", "path", "host"];

/// What reads, compares and converts single values.
const FUNCTIONS: [&str; 9] = [
    "size",
    "startsWith",
    "endsWith",
    "contains",
    "int",
    "uint",
    "double",
    "string",
    "bool",
];

const OPERATORS: [&str; 14] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::NEGATE,
    operators::SUBSTRACT,
    operators::IN,
    operators::INDEX,
];

static ENV: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// A compiled expression. Two are equal when their texts are.
#[derive(Clone)]
pub struct Expression(Arc<Compiled>);

struct Compiled {
    text: Box<str>,
    root: IdedExpr,
}

/// Why a text is no expression of ours, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionFault {
    /// More than [`EXPRESSION_BYTES_MAX`].
    #[error("is longer than {EXPRESSION_BYTES_MAX} bytes; write a shorter one")]
    TooLong,
    /// No CEL.
    #[error(
        "is no expression at line {line}, column {column}: {message}; write one such as \"claims.tenant == 'shop'\""
    )]
    Syntax {
        /// From 1, in the text.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// The parser's word.
        message: String,
    },
    /// A variable that is not there.
    #[error(
        "knows no {0}; write claims.NAME, request.method, request.path, request.host or request.headers['name']"
    )]
    Unknown(String),
    /// `claims`, `request` or `request.headers` as a whole.
    #[error("uses {0} as a whole; write a member of it")]
    Whole(&'static str),
    /// A header name with capitals, or none at all.
    #[error("names a header {0:?}; write its name in lower case")]
    Header(String),
    /// A function or operator that costs too much, or is not there.
    #[error(
        "uses {0}, which is not allowed here; compare with ==, !=, <, in, startsWith(), endsWith(), contains() and join with && and ||"
    )]
    NotAllowed(String),
    /// Too many places that read claims or headers.
    #[error("reads claims and headers in more than {REFERENCES_MAX} places; write fewer")]
    TooMany,
}

/// What an expression came to, other than `true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It came to `false`.
    False,
    /// Something is missing, of another type, or stands twice; or it came to no truth value.
    Failed,
}

/// The request as an expression sees it: as the service will, but for what the gateway adds.
#[derive(Clone, Copy)]
pub struct Request<'r> {
    /// As it was sent.
    pub method: &'r str,
    /// In normal form.
    pub path: &'r str,
    /// In normal form; None if the request names none.
    pub host: Option<&'r str>,
    /// As they were sent.
    pub headers: &'r HeaderMap,
    /// Which of them the service will not see: forged ones, and those for one connection.
    pub is_hidden: &'r (dyn Fn(&HeaderName) -> bool + Sync),
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

impl Expression {
    /// Compiles a text.
    pub fn parse(text: &str) -> Result<Self, ExpressionFault> {
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(ExpressionFault::TooLong);
        }
        let parser = ENV.parser().max_recursion_depth(DEPTH_MAX);
        let root = parser.parse(text).map_err(|errors| {
            let first = errors.errors.first();
            let place = |at: isize| usize::try_from(at).unwrap_or(1).max(1);
            let (line, column) = first.map_or((1, 1), |error| error.pos);
            ExpressionFault::Syntax {
                line: place(line),
                column: place(column),
                message: first.map_or_else(String::new, |error| one_line(&error.msg)),
            }
        })?;
        let mut references = 0;
        check(&root, &mut references)?;
        if references > REFERENCES_MAX {
            return Err(ExpressionFault::TooMany);
        }
        Ok(Self(Arc::new(Compiled {
            text: text.into(),
            root,
        })))
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Whether it comes to `true` for these claims and this request.
    pub fn holds(&self, claims: &Claims, request: &Request<'_>) -> Result<(), Refused> {
        let asked = Asked {
            claims: &claims.all,
            request: *request,
        };
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(&asked);
        let value = CelValue::resolve_val(&self.0.root, &context).map_err(|_| Refused::Failed)?;
        match value.downcast_ref::<CelBool>().map(|truth| *truth.inner()) {
            Some(true) => Ok(()),
            Some(false) => Err(Refused::False),
            None => Err(Refused::Failed),
        }
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Expression {}

impl Hash for Expression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.0.text).finish()
    }
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// Refuses what is not known, and what could cost more than its text.
fn check(node: &IdedExpr, references: &mut usize) -> Result<(), ExpressionFault> {
    let refuse = |what: &str| Err(ExpressionFault::NotAllowed(what.to_owned()));
    match &node.expr {
        Expr::Literal(_) => Ok(()),
        Expr::Ident(name) => Err(match name.as_str() {
            "claims" => ExpressionFault::Whole("claims"),
            "request" => ExpressionFault::Whole("request"),
            _ => ExpressionFault::Unknown(name.clone()),
        }),
        Expr::Select(select) => check_select(select, references),
        Expr::Call(call) => check_call(call, references),
        Expr::List(list) => list
            .elements
            .iter()
            .try_for_each(|element| check(element, references)),
        Expr::Map(_) => refuse("a map"),
        Expr::Struct(_) => refuse("a message"),
        Expr::Comprehension(_) => refuse("all(), exists(), map() or filter()"),
        Expr::Unspecified => refuse("nothing"),
    }
}

fn check_select(select: &SelectExpr, references: &mut usize) -> Result<(), ExpressionFault> {
    if is_request(&select.operand) {
        return match select.field.as_str() {
            field if MEMBERS.contains(&field) => Ok(()),
            "headers" => Err(ExpressionFault::Whole("request.headers")),
            other => Err(ExpressionFault::Unknown(format!("request.{other}"))),
        };
    }
    if is_claims(&select.operand) {
        *references += 1;
        return Ok(());
    }
    if is_headers(&select.operand) {
        *references += 1;
        return check_header(&select.field);
    }
    check(&select.operand, references)
}

fn check_call(call: &CallExpr, references: &mut usize) -> Result<(), ExpressionFault> {
    let name = call.func_name.as_str();
    if !OPERATORS.contains(&name) && !FUNCTIONS.contains(&name) {
        let readable = match name {
            operators::ADD => "+",
            operators::MULTIPLY => "*",
            operators::DIVIDE => "/",
            operators::MODULO => "%",
            other => other,
        };
        return Err(ExpressionFault::NotAllowed(readable.to_owned()));
    }
    let mut args = call.target.as_deref().into_iter().chain(&call.args);
    let table = match (name, call.args.as_slice()) {
        (operators::INDEX, [table, key]) | (operators::IN, [key, table]) => Some((table, key)),
        _ => None,
    };
    match table.filter(|(table, _)| is_claims(table) || is_headers(table)) {
        Some((table, key)) => {
            *references += 1;
            match &key.expr {
                Expr::Literal(LiteralValue::String(name)) if is_headers(table) => {
                    check_header(name.inner())
                }
                _ => check(key, references),
            }
        }
        None => args.try_for_each(|arg| check(arg, references)),
    }
}

fn check_header(name: &str) -> Result<(), ExpressionFault> {
    let is_good = !name.bytes().any(|byte| byte.is_ascii_uppercase())
        && HeaderName::from_bytes(name.as_bytes()).is_ok();
    if is_good {
        Ok(())
    } else {
        Err(ExpressionFault::Header(name.to_owned()))
    }
}

fn is_claims(node: &IdedExpr) -> bool {
    matches!(&node.expr, Expr::Ident(name) if name == "claims")
}

fn is_request(node: &IdedExpr) -> bool {
    matches!(&node.expr, Expr::Ident(name) if name == "request")
}

fn is_headers(node: &IdedExpr) -> bool {
    matches!(&node.expr, Expr::Select(select)
        if !select.test && select.field == "headers" && is_request(&select.operand))
}

/// The two variables. Values are read when an expression asks for them, and texts are not copied.
#[derive(Clone, Copy, Debug)]
struct Asked<'r> {
    claims: &'r Value,
    request: Request<'r>,
}

impl VariableResolver for Asked<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        match variable {
            "claims" => Some(CowVal::owned(Table::Claims(self.claims))),
            "request" => Some(CowVal::owned(Table::Request(self.request))),
            _ => None,
        }
    }
}

/// What is looked into by name.
#[derive(Clone, Copy, Debug)]
enum Table<'r> {
    Claims(&'r Value),
    Request(Request<'r>),
    Headers(Request<'r>),
}

impl<'r> Table<'r> {
    fn member<'v>(&self, name: &str) -> Result<Option<Box<dyn Val + 'v>>, ExecutionError>
    where
        'r: 'v,
    {
        let text = |text: &'r str| -> Box<dyn Val + 'v> { Box::new(CelString::from(text)) };
        Ok(match self {
            Self::Claims(claims) => claims.get(name).map(to_val),
            Self::Headers(request) => header(request, name)?.map(text),
            Self::Request(request) => match name {
                "method" => Some(text(request.method)),
                "path" => Some(text(request.path)),
                "host" => request.host.map(text),
                "headers" => Some(Box::new(Table::Headers(*request))),
                _ => None,
            },
        })
    }
}

/// The value of a header that the service will see once. Twice, it would have two readings.
fn header<'r>(request: &Request<'r>, name: &str) -> Result<Option<&'r str>, ExecutionError> {
    let unreadable = || ExecutionError::function_error("headers", "not one readable line");
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        return Ok(None);
    };
    let mut lines = request.headers.get_all(&name).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    if (request.is_hidden)(&name) {
        return Ok(None);
    }
    if lines.next().is_some() {
        return Err(unreadable());
    }
    line.to_str().map(Some).map_err(|_| unreadable())
}

fn to_val<'v>(value: &'v Value) -> Box<dyn Val + 'v> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(truth) => Box::new(CelBool::from(*truth)),
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Array(elements) => {
            let elements: Vec<Box<dyn Val + 'v>> = elements.iter().map(to_val).collect();
            Box::new(CelList::from(elements))
        }
        Value::Object(members) => {
            let members = members.iter();
            let members: std::collections::HashMap<CelMapKey<'v>, Box<dyn Val + 'v>> = members
                .map(|(name, value)| (CelMapKey::from(name.as_str()), to_val(value)))
                .collect();
            Box::new(CelMap::from(members))
        }
        Value::Number(number) => {
            if let Some(integer) = number.as_i64() {
                Box::new(CelInt::from(integer))
            } else if let Some(integer) = number.as_u64() {
                Box::new(CelUInt::from(integer))
            } else {
                Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN)))
            }
        }
    }
}

impl Val for Table<'_> {
    fn get_type(&self) -> &Type {
        Self::cel_type()
    }

    fn cel_type() -> &'static Type {
        static TYPE: Type = MAP_TYPE;
        &TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(*self)
    }
}

fn key_of(key: &dyn Val) -> Result<&str, ExecutionError> {
    key.downcast_ref::<CelString>()
        .map(CelString::inner)
        .ok_or_else(|| ExecutionError::UnexpectedType {
            got: key.get_type().name().to_owned(),
            want: "string".to_owned(),
        })
}

impl Indexer for Table<'_> {
    fn get<'b, 'v>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = key_of(key)?;
        let member = self.member(name)?;
        member
            .map(CowVal::Owned)
            .ok_or_else(|| ExecutionError::no_such_key(name))
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

impl Container for Table<'_> {
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.member(key_of(key)?)?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::{Duration, Instant};

    use http::HeaderValue;
    use serde_json::json;

    use super::*;
    use crate::base::clock::UnixSeconds;
    use crate::base::limits::TOKEN_BYTES_MAX;

    fn claims(all: Value) -> Claims {
        Claims {
            issuer: "https://id".into(),
            audiences: vec![],
            expires: UnixSeconds(0),
            not_before: None,
            issued: None,
            token_id: None,
            session_id: None,
            subject: None,
            client: None,
            scopes: vec![],
            all,
        }
    }

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-tenant", "shop"),
            ("x-level", "3"),
            ("x-twice", "shop"),
            ("x-twice", "shop"),
            ("x-hidden", "shop"),
            ("x-bytes", "\u{e9}"),
        ] {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        headers
    }

    fn evaluate(text: &str, all: &Value, headers: &HeaderMap) -> Result<(), Refused> {
        let request = Request {
            method: "GET",
            path: "/shop/orders",
            host: Some("api.example.com"),
            headers,
            is_hidden: &|name| name == "x-hidden",
        };
        let expression = Expression::parse(text).unwrap_or_else(|fault| panic!("{text} {fault}"));
        expression.holds(&claims(all.clone()), &request)
    }

    #[track_caller]
    fn check(text: &str, expected: Result<(), Refused>) {
        let all = json!({
            "tenant": "shop",
            "roles": ["admin", 7],
            "realm": {"roles": ["ops"], "a.b": true},
            "level": 3,
            "huge": u64::MAX,
            "rate": 0.5,
            "none": null,
            "yes": true,
            "https://example.com/x": "y",
            "exp": 2000,
            "iat": 1000,
        });
        assert_eq!(evaluate(text, &all, &headers()), expected, "{text}");
    }

    #[test]
    fn claims_and_request_are_compared() {
        for text in [
            "claims.tenant == request.headers['x-tenant'] && 'admin' in claims.roles",
            "claims.tenant == 'shop' || claims.tenant == 'x'",
            "claims['https://example.com/x'] == 'y'",
            "'ops' in claims.realm.roles && claims.realm['a.b']",
            "claims.realm == claims.realm && claims.roles != ['admin']",
            "claims.roles == ['admin', 7] && size(claims.roles) == 2",
            "claims.level >= 3 && claims.rate < 1 && claims.huge > 3",
            "claims.exp - claims.iat == 1000",
            "claims.none == null && claims.yes",
            "has(claims.tenant) && !has(claims.nobody)",
            "'tenant' in claims && !('nobody' in claims)",
            "int(request.headers['x-level']) == claims.level",
            "claims.level == 3 ? claims.yes : false",
            "request.method == 'GET' && request.host == 'api.example.com'",
            "request.path.startsWith('/shop/') && request.path.endsWith('orders')",
            "'x-tenant' in request.headers && !('x-hidden' in request.headers)",
            "request.headers[claims.level == 3 ? 'x-tenant' : 'x-none'] == 'shop'",
            "claims.nobody == 'x' || true",
        ] {
            check(text, Ok(()));
        }
        check("claims.tenant == 'other'", Err(Refused::False));
        check("'root' in claims.roles", Err(Refused::False));
        // JSON: a text is no number.
        check("claims.level == '3'", Err(Refused::False));
    }

    #[test]
    fn what_is_missing_of_another_type_or_unclear_refuses() {
        for text in [
            "claims.nobody == 'x'",
            "claims.nobody != 'x'",
            "!(claims.nobody == 'x')",
            "claims.tenant.deeper == 'x'",
            "request.headers['x-none'] != 'x'",
            "request.headers['x-hidden'] == 'shop'",
            "request.headers['x-twice'] == 'shop'",
            "'x-twice' in request.headers",
            "request.headers['x-bytes'] != ''",
            "claims[7] == 'x'",
            "claims.tenant < 3",
            "claims.tenant && true",
            "claims.tenant",
            "claims.level",
            "claims.none",
            "claims.roles",
            "int(claims.tenant) == 0",
        ] {
            check(text, Err(Refused::Failed));
        }
    }

    #[track_caller]
    fn refuse(text: &str, word: &str) {
        let fault = Expression::parse(text).unwrap_err().to_string();
        assert!(fault.contains(word), "{text}: {fault}");
    }

    #[test]
    fn what_could_cost_more_than_its_text_is_refused_before_it_runs() {
        for text in [
            "claims.roles.all(r, r == 'x')",
            "claims.roles.exists(r, r == 'x')",
            "claims.roles.exists_one(r, r == 'x')",
            "claims.roles.map(r, r) == []",
            "claims.roles.filter(r, true) == []",
        ] {
            refuse(text, "all(), exists(), map() or filter()");
        }
        refuse("claims.tenant.matches('(a+)+$')", "matches");
        refuse("matches(claims.tenant, 'a')", "matches");
        refuse("claims.a + claims.a == 'x'", "uses +");
        refuse("claims.a * 2 == 4", "uses *");
        refuse("{'a': 1} == claims.a", "a map");
        refuse("dyn(claims.a) == 1", "dyn");
        refuse(&format!("claims.a == '{}'", "x".repeat(1024)), "longer");
        let many = vec!["claims.a"; REFERENCES_MAX + 1].join("&&");
        refuse(&many, "more than 32 places");
        refuse(&format!("{}true", "!(".repeat(200)), "line 1, column");
        let deep = format!("{}true{}", "(".repeat(200), ")".repeat(200));
        assert!(Expression::parse(&deep).is_err());
    }

    #[test]
    fn a_slip_of_the_pen_is_told_with_its_place_and_cure() {
        refuse("claims.tenant == ", "line 1, column");
        refuse("claims.a &&\n  == 'x'", "line 2, column");
        refuse("", "line 1, column");
        refuse("claim.tenant == 'x'", "knows no claim;");
        refuse("request.query == 'x'", "knows no request.query;");
        refuse("request == claims", "uses request as a whole");
        refuse("claims == {}", "uses claims as a whole");
        refuse("request.headers == []", "uses request.headers as a whole");
        refuse(
            "request.headers['X-Tenant'] == 'x'",
            "write its name in lower case",
        );
        refuse(
            "request.headers.Tenant == 'x'",
            "write its name in lower case",
        );
        refuse(
            "'X-Tenant' in request.headers",
            "write its name in lower case",
        );
        refuse("request.headers['x tenant'] == 'x'", "x tenant");
    }

    /// Each place may look through everything once, and nothing multiplies: not more work than so many times the size.
    #[test]
    fn the_worst_expression_with_the_worst_token_and_head_is_bounded() {
        let mut numbers = String::from("[0");
        while numbers.len() < TOKEN_BYTES_MAX {
            numbers.push_str(",0");
        }
        numbers.push(']');
        let numbers: Value = serde_json::from_str(&numbers).unwrap();
        let mut names = json!({});
        for name in 0..TOKEN_BYTES_MAX / 8 {
            names[format!("{name}")] = json!(0);
        }
        let mut long = HeaderMap::new();
        long.insert("a", HeaderValue::try_from("a".repeat(1024 * 1024)).unwrap());
        for (part, all) in [
            ("claims.a==claims.a", json!({"a": numbers})),
            ("claims.a==claims.a", json!({"a": names})),
            ("!(1 in claims.a)&&has(claims.a)", json!({"a": numbers})),
            (
                "!request.headers['a'].contains('b')&&request.headers['a']!=''",
                json!({}),
            ),
        ] {
            let mut text = String::from(part);
            for _ in 1..REFERENCES_MAX / 2 {
                if text.len() + part.len() + 2 > EXPRESSION_BYTES_MAX {
                    break;
                }
                write!(text, "&&{part}").unwrap();
            }
            let began = Instant::now();
            assert_eq!(evaluate(&text, &all, &long), Ok(()), "{part}");
            // Milliseconds, even without optimisation. A loop over a loop would take minutes.
            assert!(began.elapsed() < Duration::from_secs(5), "{part}");
        }
    }
}
