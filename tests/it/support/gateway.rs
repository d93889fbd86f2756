//! The gateway under test, in this process, from the text of a configuration file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use jotgate::base::clock::{BootMillis, Clock, ClockHand, UnixSeconds};
use jotgate::denylist::Lease;
use jotgate::listener::{Address, Inherited};
use serde_json::{Value, json};

use super::client::{Answer, Request};
use super::issuer::{AUDIENCE, Issuer};
use super::tokens::NOW;
use super::upstream::Upstream;
use super::{eventually, within};

/// May do everything on the admin API.
pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-the-scenarios";

/// May only read.
pub(crate) const READER_TOKEN: &str = "reader-token-of-the-scenarios";

/// May read and revoke, but no more.
pub(crate) const REVOKER_TOKEN: &str = "revoker-token-of-the-scenarios";

/// A configuration in the making: one listener, one issuer, one route for everything, one service. Lines of the file are added
/// where a scenario is about them.
#[derive(Clone, Debug)]
#[must_use]
pub(crate) struct Setup {
    top: String,
    listener: String,
    issuers: Vec<IssuerText>,
    upstream: String,
    /// The route of everything; none if the scenario writes all of its routes.
    catch_all: Option<String>,
    routes: Vec<String>,
    sections: String,
    env: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
struct IssuerText {
    lines: String,
    headers: String,
}

impl Setup {
    pub(crate) fn new(issuer: &Issuer, upstream: &Upstream) -> Self {
        Self::at(issuer.url(), &upstream.url())
    }

    /// For an issuer whose keys come by discovery, and a service.
    pub(crate) fn at(issuer: &str, upstream: &str) -> Self {
        Self::bare(upstream).and_issuer("main", issuer)
    }

    /// Without an issuer.
    pub(crate) fn bare(upstream: &str) -> Self {
        let env = [
            ("JOTGATE_ADMIN_TOKEN", ADMIN_TOKEN),
            ("JOTGATE_READER_TOKEN", READER_TOKEN),
            ("JOTGATE_REVOKER_TOKEN", REVOKER_TOKEN),
        ];
        Self {
            top: String::new(),
            listener: String::new(),
            issuers: vec![],
            upstream: upstream.to_owned(),
            catch_all: Some(String::new()),
            routes: vec![],
            sections: String::new(),
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }
    }

    /// A public route to these servers, with lines of their `[[upstreams]]`, whose name is `service`.
    pub(crate) fn balanced(servers: &[String], lines: &str) -> Self {
        Self::bare("service")
            .catch_all("auth = \"public\"")
            .section(format!(
                "[[upstreams]]\nname = \"service\"\nservers = {servers:?}\n{lines}"
            ))
    }

    /// As [`Self::balanced`], to services that run.
    pub(crate) fn before(servers: &[&Upstream], lines: &str) -> Self {
        let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
        Self::balanced(&urls, lines)
    }

    /// One more issuer. The lines that [`Self::issuer`] adds belong to the last one.
    pub(crate) fn and_issuer(mut self, name: &str, url: &str) -> Self {
        self.issuers.push(IssuerText {
            lines: format!("name = \"{name}\"\nissuer = \"{url}\"\n"),
            headers: "x-user-id = \"sub\"\n".to_owned(),
        });
        self
    }

    /// A line of `[[issuers]]`. `audiences` is there unless a line says another.
    pub(crate) fn issuer(mut self, line: impl AsRef<str>) -> Self {
        let issuer = self.issuers.last_mut().expect("an issuer");
        issuer.lines.push_str(line.as_ref());
        issuer.lines.push('\n');
        self
    }

    /// A claim that becomes a header. `x-user-id = "sub"` is always there.
    pub(crate) fn claim_header(mut self, header: &str, claim: &str) -> Self {
        let issuer = self.issuers.last_mut().expect("an issuer");
        writeln!(issuer.headers, "{header} = \"{claim}\"").expect("text");
        self
    }

    /// A line of `[[listeners]]`.
    pub(crate) fn listener(mut self, line: impl AsRef<str>) -> Self {
        self.listener.push_str(line.as_ref());
        self.listener.push('\n');
        self
    }

    /// A line of the route of everything.
    pub(crate) fn catch_all(mut self, line: impl AsRef<str>) -> Self {
        let lines = self.catch_all.get_or_insert_default();
        lines.push_str(line.as_ref());
        lines.push('\n');
        self
    }

    /// No route but those of the scenario.
    pub(crate) fn no_catch_all(mut self) -> Self {
        self.catch_all = None;
        self
    }

    /// One more route. It goes to the service unless a line says another.
    pub(crate) fn route(mut self, lines: impl AsRef<str>) -> Self {
        self.routes.push(lines.as_ref().to_owned());
        self
    }

    /// A line at the top of the file.
    pub(crate) fn top(mut self, line: impl AsRef<str>) -> Self {
        self.top.push_str(line.as_ref());
        self.top.push('\n');
        self
    }

    /// A section of its own.
    pub(crate) fn section(mut self, text: impl AsRef<str>) -> Self {
        self.sections.push_str(text.as_ref());
        self.sections.push('\n');
        self
    }

    /// A variable of the environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The variables that the file refers to.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.env
    }

    /// The configuration file.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "workers = 1\n{}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{}",
            self.top, self.listener
        );
        for issuer in &self.issuers {
            write!(text, "\n[[issuers]]\n{}", issuer.lines).expect("text");
            if !issuer.lines.contains("audiences =") {
                writeln!(text, "audiences = [\"{AUDIENCE}\"]").expect("text");
            }
            write!(text, "\n[issuers.headers]\n{}", issuer.headers).expect("text");
        }
        let catch_all = self
            .catch_all
            .as_ref()
            .map(|lines| format!("name = \"all\"\npath = \"/\"\n{lines}"));
        for route in catch_all.iter().chain(&self.routes) {
            writeln!(text, "\n[[routes]]\n{}", route.trim_end()).expect("text");
            if !route.contains("upstream =") {
                writeln!(text, "upstream = \"{}\"", self.upstream).expect("text");
            }
        }
        text.push_str("\n[admin]\naddress = \"127.0.0.1:0\"\n");
        for (name, roles) in [
            ("admin", r#"["read", "revoke", "security"]"#),
            ("reader", r#"["read"]"#),
            ("revoker", r#"["read", "revoke"]"#),
        ] {
            let variable = name.to_uppercase();
            writeln!(
                text,
                "\n[[admin.tokens]]\nname = \"{name}\"\nroles = {roles}\nsecret = {{ env = \"JOTGATE_{variable}_TOKEN\" }}"
            )
            .expect("text");
        }
        text.push('\n');
        text.push_str(&self.sections);
        text
    }

    /// Starts the gateway and waits until it is ready.
    pub(crate) async fn start(self) -> Gateway {
        let gateway = self.start_unready().await;
        within("getting ready", gateway.inner.ready()).await;
        gateway
    }

    /// Starts the gateway; its keys may still be on their way.
    pub(crate) async fn start_unready(self) -> Gateway {
        self.start_under(Lease::unlimited()).await
    }

    /// Starts the gateway in a fleet that the scenario plays.
    pub(crate) async fn start_under(self, lease: Lease) -> Gateway {
        let text = self.text();
        let settings = jotgate::config::load_str("scenario.toml", &text, &self.env)
            .unwrap_or_else(|faults| panic!("{faults}\nin\n{text}"));
        let (clock, hand) = Clock::manual(UnixSeconds(NOW));
        let inner = jotgate::app::Gateway::start_under(
            settings,
            clock.clone(),
            Inherited::default(),
            lease,
        )
        .await
        .expect("the gateway starts");
        let address = match inner.addresses().first() {
            Some(Address::Tcp(address)) => *address,
            other => panic!("the first listener is {other:?}"),
        };
        let admin_address = inner.admin_address().expect("an admin listener");
        Gateway {
            inner,
            clock,
            hand,
            address,
            admin_address,
        }
    }
}

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    inner: jotgate::app::Gateway,
    clock: Clock,
    hand: ClockHand,
    address: SocketAddr,
    admin_address: SocketAddr,
}

impl Gateway {
    /// The usual case: one issuer, one service, everything between them by default.
    pub(crate) async fn start(issuer: &Issuer, upstream: &Upstream) -> Self {
        Setup::new(issuer, upstream).start().await
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) const fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// All listeners, in the order of the file.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let tcp = |address: Address| match address {
            Address::Tcp(address) => address,
            Address::Unix(path) => panic!("{} is no address", path.display()),
        };
        self.inner.addresses().into_iter().map(tcp).collect()
    }

    /// Takes over another configuration; false if it is refused.
    pub(crate) async fn reload(&mut self, setup: &Setup) -> bool {
        let loaded = jotgate::config::load_str("scenario.toml", &setup.text(), &setup.env);
        within("the reload", self.inner.reload(loaded)).await
    }

    /// Moves its clock.
    pub(crate) const fn clock(&self) -> &ClockHand {
        &self.hand
    }

    /// Its boot clock now.
    pub(crate) fn boot(&self) -> BootMillis {
        self.clock.boot()
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&self) {
        within("getting ready", self.inner.ready()).await;
    }

    /// Asks so many times, and each time the service answers.
    pub(crate) async fn serves(&self, times: usize) {
        for _ in 0..times {
            assert_eq!(self.get("/").await.status(), 200);
        }
    }

    /// Waits until so many servers of the upstream `service` are in this state.
    pub(crate) async fn comes_to_servers(&self, state: &str, count: u64) {
        eventually("servers in another state", async || {
            (self.metrics().await.servers(state)? == count).then_some(())
        })
        .await;
    }

    pub(crate) fn get(&self, target: &str) -> Request {
        self.request("GET", target)
    }

    pub(crate) fn post(&self, target: &str) -> Request {
        self.request("POST", target)
    }

    pub(crate) fn request(&self, method: &str, target: &str) -> Request {
        Request::new(self.address, method, target)
    }

    /// The admin API, by a caller that may do everything.
    pub(crate) fn admin(&self) -> Admin<'_> {
        self.admin_as(ADMIN_TOKEN)
    }

    pub(crate) const fn admin_as<'a>(&self, token: &'a str) -> Admin<'a> {
        Admin {
            address: self.admin_address,
            token,
        }
    }

    /// How many requests were decided with each reason.
    pub(crate) async fn all_decisions(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (labels, value) in self.metrics().await.samples("jotgate_decisions_total") {
            let code = labels.get("code").expect("a label").clone();
            *counts.entry(code).or_default() += value;
        }
        counts
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        let answer = Request::new(self.admin_address, "GET", "/metrics").await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        Metrics(answer.text())
    }

    pub(crate) async fn shutdown(self) {
        within("the shutdown", self.inner.shutdown()).await;
    }
}

/// The text of `/metrics`.
#[derive(Debug)]
pub(crate) struct Metrics(pub(crate) String);

impl Metrics {
    /// The value of a series, written with its labels as in the text.
    pub(crate) fn value(&self, series: &str) -> Option<u64> {
        let line = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        self.0.lines().find_map(line)
    }

    /// How many servers of the upstream `service` are in this state.
    pub(crate) fn servers(&self, state: &str) -> Option<u64> {
        self.value(&format!(
            "jotgate_upstream_servers{{state=\"{state}\",upstream=\"service\"}}"
        ))
    }

    /// Labels and value of every sample of this counter.
    pub(crate) fn samples(&self, name: &str) -> Vec<(BTreeMap<String, String>, u64)> {
        self.0
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'))
            .map(|rest| {
                let (labels, value) = rest.rsplit_once("} ").expect("labels and a value");
                let labels = labels
                    .split("\",")
                    .filter(|label| !label.is_empty())
                    .map(|label| {
                        let (name, value) = label.split_once("=\"").expect("a label");
                        (name.to_owned(), value.trim_end_matches('"').to_owned())
                    })
                    .collect();
                (labels, value.parse().expect("a count"))
            })
            .collect()
    }
}

/// A caller of the admin API.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admin<'a> {
    address: SocketAddr,
    token: &'a str,
}

impl Admin<'_> {
    /// A request with the caller's credential.
    pub(crate) fn request(&self, method: &str, target: &str) -> Request {
        Request::new(self.address, method, target).bearer(self.token)
    }

    /// A request with no credential.
    pub(crate) fn stranger(&self, method: &str, target: &str) -> Request {
        Request::new(self.address, method, target)
    }

    /// `POST /v1/revocations`
    pub(crate) async fn post_rule(&self, rule: &Value) -> Answer {
        self.request("POST", "/v1/revocations").json(rule).await
    }

    /// Revokes, and fails the scenario when the gateway does not.
    #[track_caller]
    pub(crate) fn revoke(&self, rule: &Value) -> impl Future<Output = Value> {
        let place = std::panic::Location::caller();
        async move {
            let answer = self.post_rule(rule).await;
            assert_eq!(answer.status(), 200, "{place}: {rule}: {}", answer.text());
            answer.json()
        }
    }

    pub(crate) async fn revoke_token(&self, token: &str) -> Value {
        self.revoke(&json!({"token": token})).await
    }

    pub(crate) async fn revoke_session(&self, issuer: &str, sid: &str) -> Value {
        self.revoke(&json!({"iss": issuer, "sid": sid})).await
    }

    pub(crate) async fn revoke_user(&self, issuer: &str, subject: &str) -> Value {
        self.revoke(&json!({"iss": issuer, "sub": subject})).await
    }
}
