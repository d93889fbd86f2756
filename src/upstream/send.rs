//! One request on its way through the servers, until one of them answers.

use std::io;
use std::rc::Rc;

use http::{Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;

use super::connect::SendError;
use super::io::TlsFault;
use super::pool::{Connections, Http2, Lease, Load, Pool, Sent};

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

    const fn is_full(&self) -> bool {
        self.count == SERVERS_TRIED_MAX
    }

    /// There must be room.
    const fn push(&mut self, at: usize) {
        self.at[self.count] = at;
        self.count += 1;
    }
}

/// Why one server gave no answer.
enum Unanswered<B> {
    /// Nothing of the request was sent.
    Unsent(Request<B>, SendError),
    /// It may have been worked on.
    Sent(SendError),
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
    /// RFC 9112 section 9.3.1).
    pub async fn send(&self, mut request: Request<B>) -> Result<Sent<B>, SendError> {
        let homes = self.homes();
        let mut tried = Tried::default();
        let mut last = SendError::NoServer;
        while !tried.is_full()
            && let Some(at) = self.choose(&homes, &tried)
        {
            tried.push(at);
            match self.offer(&homes[at], request).await {
                Ok(sent) => return Ok(sent),
                Err(Unanswered::Sent(error)) => return Err(error),
                Err(Unanswered::Unsent(same, error)) => {
                    request = same;
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// One server.
    async fn offer(
        &self,
        home: &Rc<Connections<B>>,
        request: Request<B>,
    ) -> Result<Sent<B>, Unanswered<B>> {
        let load = Load::new(home);
        let offered = if self.options().http2 {
            let offered = self.offer_http2(home, request).await;
            offered.map(|response| (response, None))
        } else {
            let offered = self.offer_http1(home, request).await;
            offered.map(|(response, sender)| (response, Some(sender)))
        };
        self.note(home, &offered);
        let (response, sender) = offered?;
        let lease = Lease::new(sender, load);
        Ok(Sent { response, lease })
    }

    /// What the answer, or the lack of one, says of its server. No connection was noted by whoever tried.
    fn note<T>(
        &self,
        home: &Connections<B>,
        offered: &Result<(Response<Incoming>, T), Unanswered<B>>,
    ) {
        let count_5xx = self.options().outlier.count_5xx;
        let is_failure = match offered {
            Ok((response, _)) => count_5xx && response.status().is_server_error(),
            Err(Unanswered::Sent(SendError::Handshake(_))) => true,
            Err(Unanswered::Sent(_)) => count_5xx,
            Err(Unanswered::Unsent(..)) => return,
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
        mut request: Request<B>,
    ) -> Result<(Response<Incoming>, http1::SendRequest<B>), Unanswered<B>> {
        // Each kept connection may prove closed before one byte is sent; a new one settles it.
        while let Some(mut sender) = home.take_idle() {
            let again = is_repeatable(&request).then(|| copy(&request));
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut fault) => {
                    let unsent = fault.take_message();
                    let error = fault.into_error();
                    match (unsent, again.filter(|_| is_silence(&error))) {
                        (Some(same), _) => request = same,
                        (None, Some(same)) => {
                            // A request that kills the server must not meet every kept connection in turn.
                            request = same;
                            break;
                        }
                        (None, None) => {
                            return Err(Unanswered::Sent(self.no_answer(home, error)));
                        }
                    }
                }
            }
        }
        let mut sender = match self.connect_http1(home).await {
            Ok(sender) => sender,
            Err(error) => return Err(Unanswered::Unsent(request, error)),
        };
        match sender.send_request(request).await {
            Ok(response) => Ok((response, sender)),
            Err(error) => Err(Unanswered::Sent(self.no_answer(home, error))),
        }
    }

    async fn offer_http2(
        &self,
        home: &Rc<Connections<B>>,
        mut request: Request<B>,
    ) -> Result<Response<Incoming>, Unanswered<B>> {
        // A kept connection may be going away; the second round has a new one.
        let mut is_second = false;
        loop {
            let (mut sender, tls_fault) = match self.http2(home).await {
                Ok(connected) => connected,
                Err(error) => return Err(Unanswered::Unsent(request, error)),
            };
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut fault) => {
                    let unsent = fault.take_message();
                    let error = self.no_answer_http2(home, &tls_fault, fault.into_error());
                    let Some(same) = unsent else {
                        return Err(Unanswered::Sent(error));
                    };
                    *home.http2.borrow_mut() = Http2::None;
                    if is_second {
                        return Err(Unanswered::Unsent(same, error));
                    }
                    request = same;
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
}

/// Of the connection beneath, if it was that which failed.
fn io_kind(error: &hyper::Error) -> Option<io::ErrorKind> {
    let mut beneath = std::error::Error::source(error);
    while let Some(cause) = beneath {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        beneath = cause.source();
    }
    None
}

/// Safe, so that asking twice does no more than asking once, and without a body that is half sent.
fn is_repeatable<B: Body>(request: &Request<B>) -> bool {
    matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) && request.body().is_end_stream()
}

fn copy<B: Default>(request: &Request<B>) -> Request<B> {
    let mut same = Request::new(B::default());
    *same.method_mut() = request.method().clone();
    *same.uri_mut() = request.uri().clone();
    *same.version_mut() = request.version();
    *same.headers_mut() = request.headers().clone();
    same
}
