//! Which requests are sent once more, and how many: a service that fails under its load must not get twice as much.

use std::cell::RefCell;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body::Body;
use tokio::time::Instant;

/// `upstreams[].retries`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often one request is sent once more. Default 1.
    pub attempts: u32,
    /// Of these methods. Default GET, HEAD, OPTIONS.
    pub methods: Vec<Method>,
    /// When the connection ended before an answer began. Default true.
    pub on_no_answer: bool,
    /// When these were answered. Default 502, 503, 504.
    pub on_status: Vec<StatusCode>,
    /// A try that takes longer is given up for another. Default: none is.
    pub per_try_timeout: Option<Duration>,
    /// Most of all.
    pub budget: Budget,
}

/// `upstreams[].retries.budget`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Of the requests of the last 10 s. Default 20.
    pub percent: u32,
    /// So many a second in any case, of one worker. Default 3.
    pub min_per_second: u32,
}

impl Retries {
    /// Whether sending `request` twice does no more than sending it once, and all of it can be sent twice.
    pub(super) fn cover<B: Body>(&self, request: &Request<B>) -> bool {
        self.methods.contains(request.method()) && request.body().is_end_stream()
    }
}

/// How far back requests count, in seconds: Finagle's and linkerd's. Long enough for a service with few requests, and short
/// enough that a quiet hour saves nothing up for an outage.
const WINDOW_S: usize = 10;

/// What one thread has sent lately. Each thread has its own, so that nobody waits for another.
#[derive(Debug)]
pub(super) struct Spent {
    born: Instant,
    seconds: RefCell<[Second; WINDOW_S]>,
}

/// One second of the window.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    /// Since `born`.
    at: u64,
    requests: u64,
    retries: u64,
}

impl Spent {
    pub(super) fn new() -> Self {
        Self {
            born: Instant::now(),
            seconds: RefCell::default(),
        }
    }

    /// A request has come.
    pub(super) fn note_request(&self) {
        self.with(|_, second| second.requests += 1);
    }

    /// Takes one retry from the budget; false if nothing is left of it.
    pub(super) fn take(&self, budget: Budget) -> bool {
        self.with(|(requests, retries), second| {
            let share = requests * u64::from(budget.percent) / 100;
            let is_left = retries < share + u64::from(budget.min_per_second) * WINDOW_S as u64;
            second.retries += u64::from(is_left);
            is_left
        })
    }

    /// With requests and retries of the window, and the second that runs.
    fn with<T>(&self, then: impl FnOnce((u64, u64), &mut Second) -> T) -> T {
        let now = self.born.elapsed().as_secs();
        let mut seconds = self.seconds.borrow_mut();
        let place = usize::try_from(now).unwrap_or(0) % WINDOW_S;
        if seconds[place].at != now {
            seconds[place] = Second {
                at: now,
                ..Second::default()
            };
        }
        let fresh = seconds
            .iter()
            .filter(|second| second.at + WINDOW_S as u64 > now);
        let sums = fresh.fold((0, 0), |(requests, retries), second| {
            (requests + second.requests, retries + second.retries)
        });
        then(sums, &mut seconds[place])
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};
    use tokio::time::advance;

    use super::*;

    const BUDGET: Budget = Budget {
        percent: 20,
        min_per_second: 1,
    };

    fn taken(spent: &Spent, budget: Budget) -> usize {
        (0..1000).take_while(|_| spent.take(budget)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_share_of_requests_and_some_more() {
        let spent = Spent::new();
        assert_eq!(taken(&spent, BUDGET), 10, "one for each second");
        (0..100).for_each(|_| spent.note_request());
        assert_eq!(taken(&spent, BUDGET), 20);
        let none = Budget {
            percent: 0,
            min_per_second: 0,
        };
        assert_eq!(taken(&spent, none), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_the_window_is_forgotten() {
        let spent = Spent::new();
        (0..100).for_each(|_| spent.note_request());
        advance(Duration::from_secs(9)).await;
        assert_eq!(taken(&spent, BUDGET), 30);
        advance(Duration::from_secs(1)).await;
        assert_eq!(
            taken(&spent, BUDGET),
            0,
            "the requests are, the retries not"
        );
        advance(Duration::from_secs(9)).await;
        assert_eq!(taken(&spent, BUDGET), 10);
        // The same places of the ring, an hour later.
        advance(Duration::from_hours(1)).await;
        assert_eq!(taken(&spent, BUDGET), 10);
    }

    #[test]
    fn a_request_is_covered_by_its_method_and_without_a_body() {
        let retries = Retries {
            attempts: 1,
            methods: vec![Method::GET, Method::PUT],
            on_no_answer: true,
            on_status: vec![],
            per_try_timeout: None,
            budget: BUDGET,
        };
        let bare = |method: &str| {
            let request = Request::builder().method(method);
            request.body(Empty::<bytes::Bytes>::new()).unwrap()
        };
        assert!(retries.cover(&bare("GET")) && retries.cover(&bare("PUT")));
        assert!(!retries.cover(&bare("POST")) && !retries.cover(&bare("DELETE")));
        let full = Request::put("/").body(Full::<bytes::Bytes>::from("x"));
        let full = full.unwrap();
        assert!(!retries.cover(&full));
    }
}
