//! How much one upstream may have to do, of all threads together. What is beyond is refused at once: a service that is too
//! slow already does not get faster by a queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::service::Upstream;

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    requests: AtomicUsize,
    connections: AtomicUsize,
}

/// A request's place among `max_requests`, to the end of its answer.
#[derive(Debug)]
pub(super) struct RequestPlace(Option<Arc<Upstream>>);

/// A connection's place among `max_connections`, to the end of its socket.
#[derive(Debug)]
pub(super) struct ConnectionPlace(Option<(Arc<Upstream>, Arc<AtomicUsize>)>);

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl RequestPlace {
    /// Nothing is counted where there is no bound: what all threads count is fought over.
    pub(super) fn take(upstream: &Arc<Upstream>) -> Result<Self, Full> {
        let Some(max) = upstream.options.max_requests else {
            return Ok(Self(None));
        };
        take(&upstream.circuit.requests, max)?;
        Ok(Self(Some(Arc::clone(upstream))))
    }
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        if let Some(upstream) = &self.0 {
            upstream.circuit.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl ConnectionPlace {
    /// `own`: how many one thread has. One it may always have: connections that rest with other threads are no use to it.
    pub(super) fn take(upstream: &Arc<Upstream>, own: &Arc<AtomicUsize>) -> Result<Self, Full> {
        let Some(max) = upstream.options.max_connections else {
            return Ok(Self(None));
        };
        let connections = &upstream.circuit.connections;
        if let Err(full) = take(connections, max) {
            if own.load(Ordering::Relaxed) > 0 {
                return Err(full);
            }
            connections.fetch_add(1, Ordering::Relaxed);
        }
        own.fetch_add(1, Ordering::Relaxed);
        Ok(Self(Some((Arc::clone(upstream), Arc::clone(own)))))
    }

    /// One that nobody counts.
    #[cfg(test)]
    pub(super) const fn uncounted() -> Self {
        Self(None)
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        if let Some((upstream, own)) = &self.0 {
            upstream.circuit.connections.fetch_sub(1, Ordering::Relaxed);
            own.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn take(count: &AtomicUsize, max: usize) -> Result<(), Full> {
    if count.fetch_add(1, Ordering::Relaxed) < max {
        return Ok(());
    }
    count.fetch_sub(1, Ordering::Relaxed);
    Err(Full)
}

#[cfg(test)]
mod tests {
    use super::super::options::{Options, Server};
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn upstream(max: Option<usize>) -> Arc<Upstream> {
        let options = Options {
            max_requests: max,
            max_connections: max,
            ..Options::of(Server::Unix("/s".into()))
        };
        Arc::new(Upstream::new(options, &Metrics::new()))
    }

    #[tokio::test]
    async fn a_place_is_given_back() {
        let upstream = upstream(Some(2));
        for _ in 0..3 {
            let [first, second] = [(); 2].map(|()| RequestPlace::take(&upstream));
            assert!(first.is_ok() && second.is_ok());
            assert!(RequestPlace::take(&upstream).is_err());
            drop(first);
            assert!(RequestPlace::take(&upstream).is_ok());
        }
    }

    #[tokio::test]
    async fn a_thread_may_always_have_one_connection() {
        let upstream = upstream(Some(2));
        let (busy, other) = (Arc::default(), Arc::default());
        let held = [(); 2].map(|()| ConnectionPlace::take(&upstream, &busy).unwrap());
        assert!(ConnectionPlace::take(&upstream, &busy).is_err());
        let one = ConnectionPlace::take(&upstream, &other);
        assert!(one.is_ok(), "its first");
        assert!(ConnectionPlace::take(&upstream, &other).is_err());
        drop((held, one));
        let again = [(); 2].map(|()| ConnectionPlace::take(&upstream, &busy));
        assert!(again.iter().all(Result::is_ok), "all were given back");
    }

    #[tokio::test]
    async fn without_a_bound_nothing_is_counted() {
        let upstream = upstream(None);
        let own = Arc::default();
        let _places = (
            RequestPlace::take(&upstream),
            ConnectionPlace::take(&upstream, &own),
        );
        assert_eq!(upstream.circuit.requests.load(Ordering::Relaxed), 0);
        assert_eq!(own.load(Ordering::Relaxed), 0);
    }
}
