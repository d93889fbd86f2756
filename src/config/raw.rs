//! What the file says, in its own words: every key optional, nothing judged but the form of each value. A value of
//! the wrong form is replaced by a hole (JSON null, which TOML cannot write) so that the others can still be read.
//! `load` fills these structs, `validate` judges them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::{Value, json};

use super::schema::{self, Shape};
use crate::base::chance::Share;

/// Declares tables of the file. Every key may be absent; `KEYS` lists them for suggestions and for the reference, `shape` says
/// to editors what they are.
macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Default, Deserialize)]
            #[serde(default, expecting = "a table")]
            pub(super) struct $name {
                $(pub(super) $field: Option<$type>,)*
            }

            impl $name {
                /// Its keys, in the order of the reference.
                pub(super) const KEYS: &'static [&'static str] = &[$(stringify!($field)),*];
            }

            impl Shape for $name {
                fn shape() -> Value {
                    schema::table([$((stringify!($field), <$type as Shape>::shape())),*])
                }
            }
        )*
    };
}

sections! {
    /// The whole file.
    Root {
        workers: u64,
        jwks_cache: String,
        token_cache: TokenCache,
        shutdown: Shutdown,
        listeners: List<Listener>,
        issuers: List<Issuer>,
        upstreams: List<Upstream>,
        routes: List<Route>,
        dns: Dns,
        denylist: Denylist,
        admin: Admin,
        telemetry: Telemetry,
    }

    /// `token_cache`
    TokenCache {
        max_size: Size,
    }

    /// `shutdown`
    Shutdown {
        drain_delay: Span,
        drain_timeout: Span,
    }

    /// `[[listeners]]`
    Listener {
        address: String,
        tls: Tls,
        http2: bool,
        proxy_protocol: bool,
        trusted_proxies: List<String>,
        max_connections: u64,
        max_connections_per_address: u64,
        max_requests: u64,
        failure_limit: FailureLimit,
        header_timeout: Span,
        idle_timeout: Span,
        max_header_size: Size,
        max_headers: u64,
        max_body_size: Size,
        body_timeout: Span,
        body_min_rate: Size,
        answer_min_rate: Size,
        max_streams: u64,
    }

    /// `listeners.tls`
    Tls {
        certificate: String,
        key: String,
        certificates: List<CertificatePair>,
        client_ca: String,
        client_auth: String,
        client_certificate_headers: CertificateHeaders,
        handshake_timeout: Span,
    }

    /// `listeners.tls.certificates`
    CertificatePair {
        certificate: String,
        key: String,
    }

    /// `listeners.tls.client_certificate_headers`
    CertificateHeaders {
        subject: String,
        san: String,
    }

    /// `listeners.failure_limit`
    FailureLimit {
        failures: u64,
        per: Span,
    }

    /// `[[issuers]]`
    #[expect(clippy::struct_field_names, reason = "`issuer` is the claim's name, `name` is ours")]
    Issuer {
        name: String,
        issuer: String,
        audiences: List<String>,
        algorithms: List<String>,
        discovery: Discovery,
        jwks_uri: String,
        jwks_file: String,
        jwks: Jwks,
        public_key_file: String,
        secret: SecretRef,
        refresh: Span,
        refresh_min_interval: Span,
        fetch_timeout: Span,
        stale_max: Span,
        leeway: Span,
        max_token_lifetime: Span,
        allow_missing_iat: bool,
        token_types: List<String>,
        require: List<String>,
        claims: ClaimNames,
        headers: Table<String>,
        payload_header: String,
        on_unmappable_claim: String,
        max_headers_size: Size,
        tls: ClientTls,
        insecure_http: bool,
    }

    /// `issuers.claims`
    ClaimNames {
        token_id: String,
        session_id: String,
        subject: String,
        client: OneOrMany,
        scopes: OneOrMany,
    }

    /// `[[upstreams]]`
    Upstream {
        name: String,
        servers: List<String>,
        balance: String,
        outlier: Outlier,
        health: Health,
        retries: Retries,
        max_requests: u64,
        max_connections: u64,
        http2: bool,
        connect_timeout: Span,
        idle_timeout: Span,
        max_idle: u64,
        tls: ClientTls,
    }

    /// `upstreams.outlier`
    Outlier {
        failures: u64,
        eject_for: Span,
        max_ejected: u64,
        count_5xx: bool,
    }

    /// `upstreams.health`
    Health {
        path: String,
        interval: Span,
        timeout: Span,
        healthy_after: u64,
        unhealthy_after: u64,
        status: String,
    }

    /// `upstreams.retries`
    Retries {
        attempts: u64,
        methods: List<String>,
        on: List<String>,
        per_try_timeout: Span,
        budget: RetryBudget,
    }

    /// `upstreams.retries.budget`
    RetryBudget {
        percent: u64,
        min_per_second: u64,
    }

    /// `tls` of `issuers`, `upstreams`, `denylist.redis` and `telemetry.otlp`
    ClientTls {
        ca: String,
        certificate: String,
        key: String,
        server_name: String,
    }

    /// `[[routes]]`
    Route {
        name: String,
        hosts: List<String>,
        path: String,
        path_exact: String,
        methods: List<String>,
        upstream: String,
        auth: String,
        mode: String,
        issuers: List<String>,
        scopes: List<String>,
        any_scope: List<String>,
        claims: Table<ClaimValues>,
        expression: String,
        token: Token,
        cors: Cors,
        timeout: Span,
        idle_timeout: Span,
        tunnel_idle_timeout: Span,
        logout: bool,
        trust_revoke_header: bool,
        end_at_expiry: bool,
        on_stale: String,
    }

    /// `routes.token`
    Token {
        authorization: bool,
        header: String,
        cookie: String,
        query: String,
        forward: bool,
    }

    /// `routes.cors`
    Cors {
        origins: OneOrMany,
        methods: List<String>,
        headers: List<String>,
        expose: List<String>,
        credentials: bool,
        max_age: Span,
        pass_preflight: bool,
    }

    /// `[dns]`
    Dns {
        servers: List<String>,
    }

    /// `[denylist]`
    Denylist {
        path: String,
        max_entries: u64,
        max_staleness: Span,
        redis: Redis,
    }

    /// `[denylist.redis]`
    Redis {
        url: String,
        secret: SecretRef,
        name: String,
        stream: String,
        user: String,
        password: SecretRef,
        sentinel_user: String,
        sentinel_password: SecretRef,
        tls: ClientTls,
        replicas_min: u64,
        connect_timeout: Span,
        command_timeout: Span,
        members_forgotten_after: Span,
    }

    /// `[admin]`
    Admin {
        address: String,
        tls: AdminTls,
        insecure: bool,
        hosts: List<String>,
        probes_address: String,
        tokens: List<AdminToken>,
        issuer: String,
        scopes: AdminScopes,
    }

    /// `admin.tls`
    AdminTls {
        certificate: String,
        key: String,
        client_ca: String,
        client_auth: String,
    }

    /// `admin.scopes`
    AdminScopes {
        read: String,
        revoke: String,
        security: String,
    }

    /// `[[admin.tokens]]`
    AdminToken {
        name: String,
        secret: SecretRef,
        roles: List<String>,
    }

    /// `[telemetry]`
    Telemetry {
        log: Log,
        access_log: AccessLog,
        otlp: Otlp,
    }

    /// `telemetry.log`
    Log {
        format: String,
        level: String,
    }

    /// `telemetry.access_log` as a table.
    AccessTable {
        format: String,
        sample: Portion,
    }

    /// `telemetry.otlp`
    Otlp {
        endpoint: String,
        sample: Portion,
        follow: String,
        headers: Table<SecretRef>,
        timeout: Span,
        tls: ClientTls,
        insecure_http: bool,
        service_name: String,
    }

    /// The two members of a [`SecretRef`].
    SecretTable {
        env: String,
        file: String,
    }
}

/// Every table of the file by the shape of its path, with its keys.
const SECTIONS: &[(&str, &[&str])] = &[
    ("", Root::KEYS),
    ("token_cache", TokenCache::KEYS),
    ("shutdown", Shutdown::KEYS),
    ("listeners[]", Listener::KEYS),
    ("listeners[].tls", Tls::KEYS),
    ("listeners[].tls.certificates[]", CertificatePair::KEYS),
    (
        "listeners[].tls.client_certificate_headers",
        CertificateHeaders::KEYS,
    ),
    ("listeners[].failure_limit", FailureLimit::KEYS),
    ("issuers[]", Issuer::KEYS),
    ("issuers[].secret", SecretTable::KEYS),
    ("issuers[].claims", ClaimNames::KEYS),
    ("issuers[].tls", ClientTls::KEYS),
    ("upstreams[]", Upstream::KEYS),
    ("upstreams[].outlier", Outlier::KEYS),
    ("upstreams[].health", Health::KEYS),
    ("upstreams[].retries", Retries::KEYS),
    ("upstreams[].retries.budget", RetryBudget::KEYS),
    ("upstreams[].tls", ClientTls::KEYS),
    ("routes[]", Route::KEYS),
    ("routes[].token", Token::KEYS),
    ("routes[].cors", Cors::KEYS),
    ("dns", Dns::KEYS),
    ("denylist", Denylist::KEYS),
    ("denylist.redis", Redis::KEYS),
    ("denylist.redis.secret", SecretTable::KEYS),
    ("denylist.redis.password", SecretTable::KEYS),
    ("denylist.redis.sentinel_password", SecretTable::KEYS),
    ("denylist.redis.tls", ClientTls::KEYS),
    ("admin", Admin::KEYS),
    ("admin.tls", AdminTls::KEYS),
    ("admin.scopes", AdminScopes::KEYS),
    ("admin.tokens[]", AdminToken::KEYS),
    ("admin.tokens[].secret", SecretTable::KEYS),
    ("telemetry", Telemetry::KEYS),
    ("telemetry.log", Log::KEYS),
    ("telemetry.access_log", AccessTable::KEYS),
    ("telemetry.otlp", Otlp::KEYS),
    ("telemetry.otlp.tls", ClientTls::KEYS),
];

/// Keys that the design has and this version does not, by the shape of their table.
const LATER: &[(&str, &[&str])] = &[("", &["token_service"]), ("routes[]", &["rewrite"])];

/// The keys of the table whose path has this shape; empty if there is none.
pub(super) fn keys_of(shape: &str) -> &'static [&'static str] {
    find(SECTIONS, shape)
}

/// Whether `key` of that table is one that a later version will know.
pub(super) fn comes_later(shape: &str, key: &str) -> bool {
    find(LATER, shape).contains(&key)
}

fn find(sections: &'static [(&str, &[&str])], shape: &str) -> &'static [&'static str] {
    sections
        .iter()
        .find(|(known, _)| *known == shape)
        .map_or(&[], |(_, keys)| keys)
}

/// The shape of every key: what `docs/config.md` and `config/complete.toml` must list.
#[cfg(test)]
pub(super) fn keys() -> Vec<String> {
    SECTIONS
        .iter()
        .flat_map(|(table, keys)| {
            keys.iter().map(move |key| match *table {
                "" => (*key).to_owned(),
                table => format!("{table}.{key}"),
            })
        })
        .collect()
}

/// A list. An element of the wrong form is a hole, so that the others keep their number.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct List<T>(Vec<Option<T>>);

impl<T> List<T> {
    /// The elements that could be read, with their number in the file.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0
            .iter()
            .enumerate()
            .filter_map(|(n, element)| Some((n, element.as_ref()?)))
    }

    /// Whether the file says `[]`.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some element could not be read.
    pub(super) fn has_holes(&self) -> bool {
        self.0.iter().any(Option::is_none)
    }
}

/// A table whose keys the operator chooses. A value of the wrong form is a hole.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Table<T>(BTreeMap<String, Option<T>>);

impl<T> Table<T> {
    /// The members that could be read.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0
            .iter()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_ref()?)))
    }

    /// Whether the file says `{}`.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A duration: `"30s"`, `"1h 30m"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span(pub(super) Duration);

/// A size in bytes: `"64KiB"`, or a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub(super) u64);

/// A share of the whole: `0.01`, from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portion(pub(super) Share);

/// `access_log`: whether, or how.
#[derive(Debug)]
pub(super) enum AccessLog {
    /// `true` or `false`
    Is(bool),
    /// As a table.
    As(AccessTable),
}

/// A secret by reference: `{ env = "NAME" }` or `{ file = "path" }`. One that stands in the file itself is a fault,
/// and is not repeated in it.
#[derive(Debug)]
pub(super) struct SecretRef(pub(super) SecretTable);

/// `discovery`: a URL, or `true` for the issuer's own.
#[derive(Debug)]
pub(super) enum Discovery {
    /// `true` or `false`
    Own(bool),
    /// Another one.
    Url(String),
}

/// `jwks`: a key set as a table, or as JSON in a text.
#[derive(Debug)]
pub(super) enum Jwks {
    /// As a table.
    Table(Value),
    /// As JSON.
    Json(String),
}

/// A text or a list of texts.
#[derive(Debug)]
pub(super) struct OneOrMany(pub(super) Vec<(Option<usize>, String)>);

/// What a claim may be: one scalar or a list of them.
#[derive(Debug)]
pub(super) struct ClaimValues(pub(super) Vec<Value>);

impl<T: Shape> Shape for List<T> {
    fn shape() -> Value {
        json!({"type": "array", "items": T::shape()})
    }
}

impl<T: Shape> Shape for Table<T> {
    fn shape() -> Value {
        json!({"type": "object", "additionalProperties": T::shape()})
    }
}

impl Shape for Span {
    fn shape() -> Value {
        json!({"type": "string", "pattern": schema::DURATION})
    }
}

impl Shape for Size {
    fn shape() -> Value {
        json!({"type": ["string", "integer"], "minimum": 0, "pattern": schema::SIZE})
    }
}

impl Shape for Portion {
    fn shape() -> Value {
        json!({"type": "number", "minimum": 0, "maximum": 1})
    }
}

impl Shape for AccessLog {
    fn shape() -> Value {
        let mut table = AccessTable::shape();
        table["type"] = json!(["boolean", "object"]);
        table
    }
}

impl Shape for SecretRef {
    fn shape() -> Value {
        let mut table = SecretTable::shape();
        table["minProperties"] = 1.into();
        table["maxProperties"] = 1.into();
        table
    }
}

impl Shape for Discovery {
    fn shape() -> Value {
        json!({"type": ["boolean", "string"]})
    }
}

impl Shape for Jwks {
    fn shape() -> Value {
        json!({"type": ["object", "string"]})
    }
}

impl Shape for OneOrMany {
    fn shape() -> Value {
        json!({"type": ["string", "array"], "items": String::shape()})
    }
}

impl Shape for ClaimValues {
    fn shape() -> Value {
        json!({
            "type": ["string", "integer", "boolean", "array"],
            "items": {"type": ["string", "integer", "boolean"]},
            "minItems": 1,
        })
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;

        impl Visitor<'_> for SpanVisitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"30s\" or \"5m\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                humantime::parse_duration(text).map(Span).map_err(|_| {
                    let number = text.trim();
                    if number.parse::<u32>().is_ok() {
                        E::custom(format_args!(
                            "{text:?} is no duration; write \"{number}s\" or \"{number}m\""
                        ))
                    } else {
                        E::custom(format_args!(
                            "{text:?} is no duration; write one such as \"30s\", \"5m\" or \"1h 30m\""
                        ))
                    }
                })
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Span, E> {
                Err(E::custom(format_args!(
                    "{number} is no duration; write \"{number}s\" or \"{number}m\""
                )))
            }
        }

        deserializer.deserialize_any(SpanVisitor)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64KiB\" or 65536")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                text.parse::<bytesize::ByteSize>()
                    .map(|size| Size(size.as_u64()))
                    .map_err(|_| {
                        E::custom(format_args!(
                            "{text:?} is no size; write one such as \"64KiB\", \"2MiB\" or 65536"
                        ))
                    })
            }

            fn visit_u64<E: Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

impl<'de> Deserialize<'de> for Portion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PortionVisitor;

        impl Visitor<'_> for PortionVisitor {
            type Value = Portion;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 1, such as 0.01")
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Portion, E> {
                Share::of(number)
                    .map(Portion)
                    .ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Portion, E> {
                u32::try_from(number)
                    .ok()
                    .and_then(|number| Share::of(number.into()))
                    .map(Portion)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            /// How an environment variable says it.
            fn visit_str<E: Error>(self, text: &str) -> Result<Portion, E> {
                text.parse()
                    .ok()
                    .and_then(Share::of)
                    .map(Portion)
                    .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(PortionVisitor)
    }
}

impl<'de> Deserialize<'de> for AccessLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AccessVisitor;

        impl<'de> Visitor<'de> for AccessVisitor {
            type Value = AccessLog;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a table such as { format = \"json\", sample = 0.01 }")
            }

            fn visit_bool<E: Error>(self, is: bool) -> Result<AccessLog, E> {
                Ok(AccessLog::Is(is))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<AccessLog, E> {
                match text {
                    // How an environment variable says it.
                    "true" => Ok(AccessLog::Is(true)),
                    "false" => Ok(AccessLog::Is(false)),
                    text => Err(E::invalid_type(Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<AccessLog, A::Error> {
                AccessTable::deserialize(MapAccessDeserializer::new(members)).map(AccessLog::As)
            }
        }

        deserializer.deserialize_any(AccessVisitor)
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// No value is ever named here: it may be the secret.
        const CURE: &str =
            "a secret must not stand here; write { env = \"NAME\" } or { file = \"path\" }";

        struct SecretVisitor;

        impl<'de> Visitor<'de> for SecretVisitor {
            type Value = SecretRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{ env = \"NAME\" } or { file = \"path\" }")
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<SecretRef, E> {
                Err(E::custom(CURE))
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<SecretRef, E> {
                Err(E::custom(CURE))
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<SecretRef, E> {
                Err(E::custom(CURE))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<SecretRef, E> {
                Err(E::custom(CURE))
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<SecretRef, A::Error> {
                SecretTable::deserialize(MapAccessDeserializer::new(members)).map(SecretRef)
            }
        }

        deserializer.deserialize_any(SecretVisitor)
    }
}

impl<'de> Deserialize<'de> for Discovery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DiscoveryVisitor;

        impl Visitor<'_> for DiscoveryVisitor {
            type Value = Discovery;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true or a URL in quotes")
            }

            fn visit_bool<E: Error>(self, own: bool) -> Result<Discovery, E> {
                Ok(Discovery::Own(own))
            }

            fn visit_str<E: Error>(self, url: &str) -> Result<Discovery, E> {
                Ok(match url {
                    // How an environment variable says it.
                    "true" => Discovery::Own(true),
                    "false" => Discovery::Own(false),
                    url => Discovery::Url(url.to_owned()),
                })
            }
        }

        deserializer.deserialize_any(DiscoveryVisitor)
    }
}

impl<'de> Deserialize<'de> for Jwks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct JwksVisitor;

        impl<'de> Visitor<'de> for JwksVisitor {
            type Value = Jwks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key set, as JSON in quotes or as a table")
            }

            fn visit_str<E: Error>(self, json: &str) -> Result<Jwks, E> {
                Ok(Jwks::Json(json.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Jwks, A::Error> {
                Value::deserialize(MapAccessDeserializer::new(members)).map(Jwks::Table)
            }
        }

        deserializer.deserialize_any(JwksVisitor)
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextsVisitor;

        impl<'de> Visitor<'de> for TextsVisitor {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes or a list of such")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![(None, text.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<OneOrMany, A::Error> {
                let mut texts = vec![];
                let mut n = 0;
                while let Some(text) = elements.next_element::<Option<String>>()? {
                    texts.extend(text.map(|text| (Some(n), text)));
                    n += 1;
                }
                Ok(OneOrMany(texts))
            }
        }

        deserializer.deserialize_any(TextsVisitor)
    }
}

impl<'de> Deserialize<'de> for ClaimValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar(Value);

        impl<'de> Deserialize<'de> for Scalar {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(ScalarVisitor).map(Scalar)
            }
        }

        struct ScalarVisitor;

        impl Visitor<'_> for ScalarVisitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes, a whole number, true or false")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
                Ok(Value::from(text))
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
                Ok(Value::from(flag))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
                Ok(Value::from(number))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
                Ok(Value::from(number))
            }
        }

        struct ValuesVisitor;

        impl<'de> Visitor<'de> for ValuesVisitor {
            type Value = ClaimValues;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes, a whole number, true, false, or a list of such")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ClaimValues, E> {
                Ok(ClaimValues(vec![Value::from(text)]))
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<ClaimValues, E> {
                Ok(ClaimValues(vec![Value::from(flag)]))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<ClaimValues, E> {
                Ok(ClaimValues(vec![Value::from(number)]))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<ClaimValues, E> {
                Ok(ClaimValues(vec![Value::from(number)]))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut elements: A,
            ) -> Result<ClaimValues, A::Error> {
                let mut values = vec![];
                let mut holes = false;
                while let Some(value) = elements.next_element::<Option<Scalar>>()? {
                    holes |= value.is_none();
                    values.extend(value.map(|Scalar(value)| value));
                }
                if values.is_empty() && !holes {
                    return Err(A::Error::invalid_value(
                        Unexpected::Other("an empty list"),
                        &self,
                    ));
                }
                Ok(ClaimValues(values))
            }
        }

        deserializer.deserialize_any(ValuesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_table_is_a_key_of_another() {
        let keys: BTreeSet<String> = keys().into_iter().collect();
        assert!(keys.len() > 80, "{}", keys.len());
        for (table, _) in SECTIONS.iter().filter(|(table, _)| !table.is_empty()) {
            let key = table.strip_suffix("[]").unwrap_or(table);
            assert!(keys.contains(key), "{table}");
        }
    }

    #[test]
    fn what_comes_later_is_not_here_yet() {
        for (table, later) in LATER {
            let now = keys_of(table);
            assert!(!now.is_empty(), "{table:?} is no table");
            assert!(later.iter().all(|key| !now.contains(key)), "{table}");
        }
    }

    #[test]
    fn durations_and_sizes_are_exact() {
        let span = |json: &str| serde_json::from_str::<Span>(json).map(|span| span.0).ok();
        assert_eq!(span("\"1h 30m\""), Some(Duration::from_mins(90)));
        assert_eq!(span("\"250ms\""), Some(Duration::from_millis(250)));
        for wrong in [
            "5",
            "\"5\"",
            "\"\"",
            "\"-5s\"",
            "true",
            "\"99999999999999999999y\"",
            "1.5",
        ] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
        let size = |json: &str| serde_json::from_str::<Size>(json).map(|size| size.0).ok();
        assert_eq!(size("\"64KiB\""), Some(65536));
        assert_eq!(size("\"1kB\""), Some(1000));
        assert_eq!(size("7"), Some(7));
        assert_eq!(size("\"7\""), Some(7));
        for wrong in ["-1", "\"64 apples\"", "\"\"", "\"-1\"", "true", "1.5"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_secret_in_the_file_is_not_repeated() {
        for literal in ["\"hunter2\"", "4711", "-4711", "4711.5"] {
            let fault = serde_json::from_str::<SecretRef>(literal)
                .expect_err("a literal")
                .to_string();
            assert!(
                !fault.contains("hunter2") && !fault.contains("4711"),
                "{fault}"
            );
            assert!(fault.contains("{ env = \"NAME\" }"), "{fault}");
        }
    }
}
