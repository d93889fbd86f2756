//! The tasks that resolve the names of servers: one for each name of each upstream, for as long as it is in force. A request
//! never waits for the DNS, and an outage of it takes nobody's service away.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use prometheus::IntCounterVec;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::base::backoff::Backoff;
use crate::upstream::Upstream;

/// Shortest and longest time that an answer is believed, whatever it says itself. Headless services of Kubernetes say 5 s and
/// some load balancers 0; an hour would leave a server that has moved unnoticed for as long.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_mins(5);

/// For one resolution: two tries of 5 s, which is what resolvers do where nothing else is said (`resolv.conf(5)`).
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// First and last wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// So many answers in a row that there is no address are believed. One or two are given while a DNS server, or a service of
/// Kubernetes, is replaced.
const DENIALS: u32 = 3;

/// Tasks by the place of their upstream in memory, which they hold.
type Tasks = HashMap<usize, (Arc<Upstream>, DropGuard)>;

/// What began for upstreams that are not in force yet. Dropped, it ends.
pub struct Begun(Tasks);

/// Starts and ends the tasks as upstreams come and go.
pub struct Names {
    tasks: TaskTracker,
    control: CancellationToken,
    /// None: as the system says.
    servers: Vec<SocketAddr>,
    /// Made with the first name.
    resolver: Option<Arc<TokioResolver>>,
    resolutions: IntCounterVec,
    running: Tasks,
}

/// What became of one resolution.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// Addresses, and for how long they are good.
    Addresses(Vec<IpAddr>, Duration),
    /// The name has no address, says the DNS.
    Nothing,
    /// No answer that says anything.
    Failed(String),
}

trait Lookup: Send + 'static {
    fn lookup(&mut self, host: &str) -> impl Future<Output = Found> + Send;
}

impl Names {
    /// None yet. Resolutions are counted by upstream, server and result.
    #[must_use]
    pub fn new(
        tasks: TaskTracker,
        control: CancellationToken,
        servers: Vec<SocketAddr>,
        resolutions: IntCounterVec,
    ) -> Self {
        Self {
            tasks,
            control,
            servers,
            resolver: None,
            resolutions,
            running: Tasks::new(),
        }
    }

    /// Begins to resolve the names of upstreams that are new. What is dropped ends again.
    #[must_use]
    pub fn begin(&mut self, upstreams: &[Arc<Upstream>]) -> Begun {
        let mut begun = Tasks::new();
        for upstream in upstreams {
            let place = Arc::as_ptr(upstream).addr();
            if upstream.tried() || self.running.contains_key(&place) {
                continue;
            }
            let end = self.control.child_token();
            for (at, server) in upstream.options.servers.iter().enumerate() {
                if let Some((host, _)) = server.name() {
                    let task = Task {
                        upstream: Arc::clone(upstream),
                        at,
                        host: host.to_owned(),
                        resolutions: self.resolutions.clone(),
                        denials: 0,
                        is_told: false,
                    };
                    let run = task.run(self.resolver());
                    let run = end.clone().run_until_cancelled_owned(run);
                    self.tasks.spawn(run);
                }
            }
            begun.insert(place, (Arc::clone(upstream), end.drop_guard()));
        }
        Begun(begun)
    }

    /// Goes on with these alone, for which was `begun` what was missing.
    pub fn keep(&mut self, begun: Begun, upstreams: &[Arc<Upstream>]) {
        self.running.extend(begun.0);
        let kept: HashSet<usize> = upstreams.iter().map(|it| Arc::as_ptr(it).addr()).collect();
        self.running.retain(|place, _| kept.contains(place));
    }

    fn resolver(&mut self) -> Dns {
        let servers = &self.servers;
        let resolver = self.resolver.get_or_insert_with(|| Arc::new(make(servers)));
        Dns(Arc::clone(resolver))
    }
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begun").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

/// A name that is resolved again and again.
struct Task {
    upstream: Arc<Upstream>,
    /// Which server of the upstream.
    at: usize,
    host: String,
    resolutions: IntCounterVec,
    /// In a row.
    denials: u32,
    /// The log says already that it fails.
    is_told: bool,
}

impl Task {
    async fn run(mut self, mut dns: impl Lookup) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let mut chance = Rng::new();
        let mut is_first = true;
        loop {
            let found = timeout(RESOLVE_TIMEOUT, dns.lookup(&self.host)).await;
            let found = found.unwrap_or_else(|_| Found::Failed("no answer in time".to_owned()));
            let wait = match self.take(found) {
                Some(ttl) => {
                    backoff.reset();
                    ttl
                }
                None => backoff.next(chance.u32(..)),
            };
            if std::mem::take(&mut is_first) {
                self.upstream.note_tried();
            }
            sleep(wait).await;
        }
    }

    /// Takes over what was found. Returns for how long it is good; None if it is asked again soon.
    fn take(&mut self, found: Found) -> Option<Duration> {
        let name = &self.upstream.options.name;
        let server = &self.upstream.options.servers[self.at];
        let (result, good_for) = match found {
            Found::Addresses(addresses, ttl) => {
                self.denials = 0;
                self.is_told = false;
                if self.upstream.move_to(self.at, &addresses) {
                    info!(upstream = %name, %server, ?addresses, "a server has other addresses");
                }
                ("ok", Some(ttl.clamp(TTL_MIN, TTL_MAX)))
            }
            Found::Nothing => {
                self.denials += 1;
                if self.denials == DENIALS && self.upstream.move_to(self.at, &[]) {
                    warn!(upstream = %name, %server, "the name of a server has no addresses any more");
                }
                if !std::mem::replace(&mut self.is_told, true) {
                    warn!(upstream = %name, %server, "the name of a server has no addresses; those at hand stay in use for a while");
                }
                ("empty", None)
            }
            Found::Failed(reason) => {
                self.denials = 0;
                if std::mem::replace(&mut self.is_told, true) {
                    debug!(upstream = %name, %server, reason, "the name of a server cannot be resolved");
                } else {
                    warn!(upstream = %name, %server, reason, "the name of a server cannot be resolved; the addresses at hand stay in use");
                }
                ("failed", None)
            }
        };
        let labels = [name.as_str(), &server.to_string(), result];
        self.resolutions.with_label_values(&labels).inc();
        good_for
    }
}

/// The DNS, and `/etc/hosts` before it.
struct Dns(Arc<TokioResolver>);

impl Lookup for Dns {
    async fn lookup(&mut self, host: &str) -> Found {
        match self.0.lookup_ip(host).await {
            Ok(answer) => {
                let left = answer.valid_until();
                let left = left.saturating_duration_since(std::time::Instant::now());
                Found::Addresses(answer.iter().collect(), left)
            }
            Err(error) if error.is_no_records_found() => Found::Nothing,
            Err(error) => Found::Failed(error.to_string()),
        }
    }
}

/// Of the given servers, or of those that the system says.
fn make(servers: &[SocketAddr]) -> TokioResolver {
    let given = || {
        let servers = servers.iter().map(|address| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            let set_port = |connection: &mut ConnectionConfig| connection.port = address.port();
            server.connections.iter_mut().for_each(set_port);
            server
        });
        let config = ResolverConfig::from_parts(None, vec![], servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio().unwrap_or_else(|error| {
            warn!(%error, "the system's DNS servers are not known; names are looked up in /etc/hosts alone");
            given()
        })
    } else {
        given()
    };
    set(builder.options_mut());
    let made: Result<TokioResolver, NetError> = builder.build();
    made.expect("no TLS, which alone can fail")
}

fn set(options: &mut ResolverOpts) {
    // Both kinds would be two servers where there is one, and half of the requests would try a family that many networks lack.
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    options.use_hosts_file = ResolveHosts::Always;
    // Each answer is asked for when the last one has ended.
    options.cache_size = 0;
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::time::{Instant, advance};

    use super::*;
    use crate::telemetry::metrics::Metrics;
    use crate::upstream::{Options, Server};

    /// Gives its answers in turn, and tells when it was asked.
    struct Script {
        answers: VecDeque<Found>,
        asked: tokio::sync::mpsc::UnboundedSender<Instant>,
    }

    impl Lookup for Script {
        async fn lookup(&mut self, host: &str) -> Found {
            assert_eq!(host, "orders");
            self.asked.send(Instant::now()).unwrap();
            // Whoever hears it sees what was before the answer.
            sleep(Duration::from_millis(1)).await;
            match self.answers.pop_front() {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
    }

    fn found(last: &[u8], ttl_s: u64) -> Found {
        let address = |last: &u8| [10, 0, 0, *last].into();
        let ttl = Duration::from_secs(ttl_s);
        Found::Addresses(last.iter().map(address).collect(), ttl)
    }

    fn failed() -> Found {
        Found::Failed("SERVFAIL".to_owned())
    }

    /// After each answer, how many servers there are, and the seconds to the next question.
    async fn run(answers: impl IntoIterator<Item = Found>) -> Vec<(usize, f64)> {
        let options = Options::of(Server::Tcp {
            host: "orders".into(),
            port: 80,
        });
        let metrics = Metrics::new();
        let upstream = Arc::new(Upstream::new(options, &metrics));
        let (asked, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let answers: VecDeque<_> = answers.into_iter().collect();
        let count = answers.len();
        let task = Task {
            upstream: Arc::clone(&upstream),
            at: 0,
            host: "orders".to_owned(),
            resolutions: metrics.upstream_resolutions,
            denials: 0,
            is_told: false,
        };
        assert!(!upstream.tried());
        let running = tokio::spawn(task.run(Script { answers, asked }));
        let mut seen = vec![];
        let mut before = hears.recv().await.unwrap();
        for _ in 0..count {
            let next = hears.recv().await.unwrap();
            assert!(upstream.tried());
            let pause = next.duration_since(before).as_secs_f64();
            seen.push((upstream.endpoints().len(), pause));
            before = next;
        }
        running.abort();
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_good_for_its_time_within_bounds() {
        let seen = run([found(&[1], 7), found(&[1, 2], 0), found(&[2], 86_400)]).await;
        assert_eq!(
            seen.iter().map(|(count, _)| *count).collect::<Vec<_>>(),
            [1, 2, 1]
        );
        let close = |at: usize, seconds: f64| (seen[at].1 - seconds).abs() < 0.1;
        assert!(
            close(0, 7.0) && close(1, 1.0) && close(2, 300.0),
            "{seen:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_stays_while_the_dns_fails_and_it_is_asked_ever_later() {
        let failures = (0..8).map(|_| failed());
        let seen = run([found(&[1, 2], 5)].into_iter().chain(failures)).await;
        assert!(seen.iter().all(|(count, _)| *count == 2), "{seen:?}");
        let last = seen.last().unwrap().1;
        assert!((15.0..=30.1).contains(&last), "{seen:?}");
        assert!(seen[1].1 <= 1.1, "soon at first: {seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_address_is_believed_when_it_is_said_several_times() {
        let nothing = || Found::Nothing;
        let seen = run([
            found(&[1], 5),
            nothing(),
            nothing(),
            failed(),
            nothing(),
            nothing(),
            nothing(),
            found(&[3], 5),
        ])
        .await;
        let counts: Vec<_> = seen.iter().map(|(count, _)| *count).collect();
        assert_eq!(counts, [1, 1, 1, 1, 1, 1, 0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dns_that_does_not_answer_holds_up_nobody_for_ever() {
        let options = Options::of(Server::Tcp {
            host: "orders".into(),
            port: 80,
        });
        let metrics = Metrics::new();
        let upstream = Arc::new(Upstream::new(options, &metrics));
        let task = Task {
            upstream: Arc::clone(&upstream),
            at: 0,
            host: "orders".to_owned(),
            resolutions: metrics.upstream_resolutions,
            denials: 0,
            is_told: false,
        };
        let (asked, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let answers = VecDeque::new();
        tokio::spawn(task.run(Script { answers, asked }));
        hears.recv().await.unwrap();
        advance(RESOLVE_TIMEOUT).await;
        upstream.until_tried().await;
    }
}
