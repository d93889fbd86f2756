//! One request on its way through the servers, until one of them answers.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;

use super::circuit::RequestPlace;
use super::connect::SendError;
use super::io::TlsFault;
use super::pool::{Connections, Http2, Lease, Load, Pool, Sent};
use super::retry::Retries;
use crate::base::causes::causes;
use crate::base::deadline::Elapsed;
use crate::http::headers::JOTGATE_REVOKE;

/// Most servers that one request is offered to. If so many take no connection, the next one hardly will, and each may cost
/// the whole `connect_timeout`.
const SERVERS_TRIED_MAX: usize = 8;

/// Servers that one request need not be offered again, by their position.
#[derive(Debug, Default)]
pub(super) struct Tried {
    at: [usize; SERVERS_TRIED_MAX],
    count: usize,
}

impl Tried {
    pub(super) fn contains(&self, at: usize) -> bool {
        self.at[..self.count].contains(&at)
    }

    pub(super) const fn is_full(&self) -> bool {
        self.count == SERVERS_TRIED_MAX
    }

    pub(super) const fn push(&mut self, at: usize) {
        if !self.is_full() {
            self.at[self.count] = at;
            self.count += 1;
        }
    }
}

/// Why one server gave no answer.
enum Unanswered {
    /// Nothing of the request was sent: it lies in its slot again.
    Unsent(SendError),
    /// It may have been worked on.
    Sent(SendError),
    /// It took too long, and a retry was taken from the budget.
    GivenUp,
}

impl<B> Pool<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Default
        + Unpin
        + 'static,
{
    /// Sends `request` over a kept or a new connection and waits for the head of the answer; the caller bounds the time.
    ///
    /// A request is sent again over another connection, and to another server, when nothing of it was sent, or once more,
    /// over a new one, when it is safe, has no body, and a kept connection ended before any answer (RFC 9110 section 9.2.2,
    /// RFC 9112 section 9.3.1). What the operator allows besides is in [`Retries`](super::Retries).
    pub fn send(
        &self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Sent<B>, SendError>> + use<'_, B> {
        // Captured, and lent to all that follows: a future has room for each of its arguments twice, and each that it waits
        // for would have so again.
        let mut slot = Some(request);
        async move { self.send_from(&mut slot).await }
    }

    /// The request is in `slot`, and taken from it when it is sent.
    async fn send_from(&self, slot: &mut Option<Request<B>>) -> Result<Sent<B>, SendError> {
        let Ok(place) = RequestPlace::take(&self.upstream) else {
            self.upstream.note_refusal("requests");
            return Err(SendError::Full);
        };
        let retries = self.options().retries.as_ref();
        if retries.is_some() {
            self.spent.note_request();
        }
        let retries = retries.filter(|retries| slot.as_ref().is_some_and(|it| retries.cover(it)));
        let mut left = retries.map_or(0, |retries| retries.attempts);
        let homes = self.homes();
        let mut tried = Tried::default();
        let mut next = self.choose(&homes, &tried);
        // What the client gets if nothing better comes. An answer is better than none.
        let mut last = Err(SendError::NoServer);
        while let Some(at) = next {
            tried.push(at);
            let again = retries.filter(|_| left > 0);
            let again = again.and_then(|retries| Some((retries, Box::new(copy(slot.as_ref()?)))));
            let span = again
                .as_ref()
                .and_then(|(retries, _)| Some((retries.per_try_timeout?, *retries)));
            let offered = match span {
                None => self.offer(&homes[at], slot).await,
                // In a box, so that others have no room for it.
                Some(limit) => Box::pin(self.offer_for(limit, &homes[at], slot)).await,
            };
            match offered {
                Err(Unanswered::Unsent(error)) => {
                    if last.is_err() {
                        last = Err(error);
                    }
                    next = self.choose(&homes, &tried);
                }
                outcome => {
                    let again = again.filter(|(retries, _)| self.is_worth(retries, &outcome));
                    last = outcome.map_err(|unanswered| match unanswered {
                        Unanswered::Unsent(error) | Unanswered::Sent(error) => error,
                        Unanswered::GivenUp => SendError::TryTimeout,
                    });
                    let Some((_, same)) = again else {
                        break;
                    };
                    *slot = Some(*same);
                    left -= 1;
                    next = self
                        .choose(&homes, &tried)
                        .or_else(|| self.choose(&homes, &Tried::default()));
                }
            }
        }
        if matches!(last, Err(SendError::Full)) {
            self.upstream.note_refusal("connections");
        }
        last.map(|mut sent| {
            sent.lease.hold(place);
            sent
        })
    }

    /// Whether the request is sent once more after this. Then it is taken from the budget.
    fn is_worth(&self, retries: &Retries, outcome: &Result<Sent<B>, Unanswered>) -> bool {
        let is_meant = match outcome {
            // What a service asks of the gateway counts, whatever else it says.
            Ok(sent) => {
                retries.on_status.contains(&sent.response.status())
                    && !sent.response.headers().contains_key(&JOTGATE_REVOKE)
            }
            // Over HTTP/2 the stream ended before the head of the answer.
            Err(Unanswered::Sent(SendError::NoAnswer(error))) => {
                retries.on_no_answer && (self.options().http2 || is_silence(error))
            }
            Err(Unanswered::Sent(_) | Unanswered::Unsent(_)) => false,
            // For this it was given up.
            Err(Unanswered::GivenUp) => return true,
        };
        is_meant && self.spend(retries)
    }

    fn spend(&self, retries: &Retries) -> bool {
        let is_left = self.spent.take(retries.budget);
        self.upstream.note_retry(is_left);
        is_left
    }

    /// One server, which is given up for another after `span`, if the budget allows it.
    async fn offer_for(
        &self,
        (span, retries): (Duration, &Retries),
        home: &Rc<Connections<B>>,
        slot: &mut Option<Request<B>>,
    ) -> Result<Sent<B>, Unanswered> {
        let mut offer = pin!(self.offer(home, slot));
        match self.deadlines.within(span, &mut offer).await {
            Ok(outcome) => outcome,
            Err(Elapsed) if self.spend(retries) => {
                if self.options().outlier.count_5xx {
                    self.upstream.note_failure(&home.endpoint);
                }
                Err(Unanswered::GivenUp)
            }
            Err(Elapsed) => offer.await,
        }
    }

    /// One server.
    async fn offer(
        &self,
        home: &Rc<Connections<B>>,
        slot: &mut Option<Request<B>>,
    ) -> Result<Sent<B>, Unanswered> {
        let load = Load::new(home);
        let is_bare = slot.as_ref().is_some_and(|it| it.body().is_end_stream());
        let offered = if self.options().http2 {
            let offered = self.offer_http2(home, slot).await;
            offered.map(|response| (response, None))
        } else {
            let offered = self.offer_http1(home, slot).await;
            offered.map(|(response, sender)| (response, Some(sender)))
        };
        self.note(home, is_bare, &offered);
        let (response, sender) = offered?;
        let lease = Lease::new(sender, load);
        Ok(Sent { response, lease })
    }

    /// What the answer, or the lack of one, says of its server. No connection was noted by whoever tried. Unless the request is
    /// bare, its body may have broken off, which is the client's fault.
    fn note<T>(
        &self,
        home: &Connections<B>,
        is_bare: bool,
        offered: &Result<(Response<Incoming>, T), Unanswered>,
    ) {
        let count_5xx = self.options().outlier.count_5xx;
        let is_failure = match offered {
            Ok((response, _)) => count_5xx && response.status().is_server_error(),
            Err(Unanswered::Sent(SendError::Handshake(_))) => true,
            Err(Unanswered::Sent(_)) => count_5xx && is_bare,
            Err(Unanswered::Unsent(_) | Unanswered::GivenUp) => return,
        };
        if is_failure {
            self.upstream.note_failure(&home.endpoint);
        } else if offered.is_ok() {
            home.endpoint.note_success();
        }
    }

    async fn offer_http1(
        &self,
        home: &Connections<B>,
        slot: &mut Option<Request<B>>,
    ) -> Result<(Response<Incoming>, http1::SendRequest<B>), Unanswered> {
        // Each kept connection may prove closed before one byte is sent; a new one settles it.
        while let Some(mut sender) = home.take_idle() {
            let sending = sender.try_send_request(take_and_leave_copy(slot));
            match sending.await {
                Ok(response) => return Ok((response, sender)),
                Err(mut fault) => {
                    let unsent = fault.take_message();
                    let error = fault.into_error();
                    if unsent.is_some() {
                        *slot = unsent;
                    } else if slot.is_some() && is_silence(&error) {
                        // A request that kills the server must not meet every kept connection in turn.
                        break;
                    } else {
                        return Err(Unanswered::Sent(self.no_answer(home, error)));
                    }
                }
            }
        }
        let connected = self.connect_http1(home).await;
        let mut sender = connected.map_err(Unanswered::Unsent)?;
        match sender.send_request(take(slot)).await {
            Ok(response) => Ok((response, sender)),
            Err(error) => Err(Unanswered::Sent(self.no_answer(home, error))),
        }
    }

    async fn offer_http2(
        &self,
        home: &Rc<Connections<B>>,
        slot: &mut Option<Request<B>>,
    ) -> Result<Response<Incoming>, Unanswered> {
        // A kept connection may be going away; the second round has a new one.
        let mut is_second = false;
        loop {
            let connected = self.http2(home).await;
            let (mut sender, tls_fault) = connected.map_err(Unanswered::Unsent)?;
            match sender.try_send_request(take(slot)).await {
                Ok(response) => return Ok(response),
                Err(mut fault) => {
                    *slot = fault.take_message();
                    let error = self.no_answer_http2(home, &tls_fault, fault.into_error());
                    if slot.is_none() {
                        return Err(Unanswered::Sent(error));
                    }
                    *home.http2.borrow_mut() = Http2::None;
                    if is_second {
                        return Err(Unanswered::Unsent(error));
                    }
                    is_second = true;
                }
            }
        }
    }

    /// TLS that broke before an answer came is no fault of the service's HTTP: see [`TlsFault`].
    fn no_answer(&self, home: &Connections<B>, error: hyper::Error) -> SendError {
        let server = &home.endpoint.server;
        if !server.is_tls() || io_kind(&error) != Some(io::ErrorKind::InvalidData) {
            return SendError::NoAnswer(error);
        }
        self.upstream.handshake_failed(server, &error);
        SendError::Handshake(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn no_answer_http2(
        &self,
        home: &Connections<B>,
        tls_fault: &TlsFault,
        error: hyper::Error,
    ) -> SendError {
        let server = &home.endpoint.server;
        match tls_fault.error().filter(|_| server.is_tls()) {
            Some(fault) => {
                self.upstream.handshake_failed(server, &fault);
                SendError::Handshake(fault)
            }
            None => SendError::NoAnswer(error),
        }
    }
}

/// Nonsense is an answer: only silence, or less than a head, lets us ask again.
fn is_silence(error: &hyper::Error) -> bool {
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        // Over TLS, for many services the end comes without a farewell.
        || io_kind(error) == Some(io::ErrorKind::UnexpectedEof)
        // Who dies before it has read the request resets the connection.
        || io_kind(error) == Some(io::ErrorKind::ConnectionReset)
}

/// Of the connection beneath, if it was that which failed.
fn io_kind(error: &hyper::Error) -> Option<io::ErrorKind> {
    causes(error)
        .find_map(|cause| cause.downcast_ref::<io::Error>())
        .map(io::Error::kind)
}

/// Safe, so that asking twice does no more than asking once, and without a body that is half sent.
fn is_repeatable<B: Body>(request: &Request<B>) -> bool {
    matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) && request.body().is_end_stream()
}

fn take<B>(slot: &mut Option<Request<B>>) -> Request<B> {
    slot.take()
        .expect("it is sent once for each time that it was put there")
}

/// Takes the request. If it may be sent again after it was sent, the slot has a copy.
fn take_and_leave_copy<B: Body + Default>(slot: &mut Option<Request<B>>) -> Request<B> {
    let request = take(slot);
    *slot = is_repeatable(&request).then(|| copy(&request));
    request
}

fn copy<B: Default>(request: &Request<B>) -> Request<B> {
    let mut same = Request::new(B::default());
    *same.method_mut() = request.method().clone();
    *same.uri_mut() = request.uri().clone();
    *same.version_mut() = request.version();
    *same.headers_mut() = request.headers().clone();
    same
}
