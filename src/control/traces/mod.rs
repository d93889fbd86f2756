//! The task that delivers traces: takes what requests have left in the queue, some at a time, and sends it to a collector by
//! OTLP over HTTP. Requests never wait for it; while the collector is away the queue fills, and what has no room is
//! dropped and counted.

mod otlp;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus::IntCounterVec;
use prost::Message as _;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::base::backoff::Backoff;
use crate::base::chance::Chance;
use crate::config::settings::Otlp;
use crate::http::client::{Client, ClientError, PlainHttp};
use crate::http::client_tls::FilesError;
use crate::telemetry::trace::{Finished, Tracer};

/// Most requests of one message: some 600 KiB, well below the 4 MiB that collectors take unless they are told otherwise.
const BATCH_MAX: usize = 512;

/// How long the first request of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// How often a batch is sent, when the collector says that it may come again or says nothing. Then the next one has its turn.
const TRIES_MAX: u32 = 4;

/// First and longest pause between tries. What a collector asks for in `Retry-After` is granted as far as that.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// See [`RETRY_FIRST`].
const RETRY_LAST: Duration = Duration::from_secs(10);

/// How long the end of the program waits for what is still in the queue.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// Largest answer of a collector that is read, in bytes: a number and a sentence.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Begins to deliver. The task ends when the tracer is dropped, or with `end`, after what is in its queue.
pub fn start(
    settings: &Otlp,
    spans: &IntCounterVec,
    end: CancellationToken,
) -> (Arc<Tracer>, impl Future<Output = ()> + Send + use<>) {
    let dropped = spans.with_label_values(&["queue_full"]);
    let (tracer, queue) = Tracer::new(settings.sample, settings.follow, dropped);
    let instance: [u8; 16] = Chance::default().bytes();
    let instance = format!("{:032x}", u128::from_be_bytes(instance));
    let delivery = Delivery {
        resource: otlp::resource(&settings.service_name, &instance),
        settings: settings.clone(),
        client: None,
        spans: spans.clone(),
        is_away: false,
        chance: Chance::default(),
    };
    (Arc::new(tracer), delivery.run(queue, end))
}

struct Delivery {
    settings: Otlp,
    resource: Resource,
    /// Made with the first batch, and again after a failure: it reads files.
    client: Option<Client>,
    spans: IntCounterVec,
    /// Whether the last batch was lost; said once.
    is_away: bool,
    chance: Chance,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("tls: {0}")]
    Tls(#[from] FilesError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("status {0}")]
    Status(StatusCode),
}

impl Delivery {
    async fn run(mut self, mut queue: mpsc::Receiver<Finished>, end: CancellationToken) {
        let late = async {
            end.cancelled().await;
            sleep(FLUSH_MAX).await;
        };
        select! {
            () = self.work(&mut queue, &end) => {}
            () = late => warn!("the last traces could not be delivered in time"),
        }
    }

    async fn work(&mut self, queue: &mut mpsc::Receiver<Finished>, end: &CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while gather(queue, &mut batch, end).await {
            self.deliver(&batch, end).await;
            batch.clear();
        }
    }

    /// Sends a batch, again if need be.
    async fn deliver(&mut self, batch: &[Finished], end: &CancellationToken) {
        let body = Bytes::from(otlp::message(&self.resource, batch).encode_to_vec());
        let count: u64 = batch.iter().map(Finished::spans).sum();
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LAST);
        let mut tries = 0;
        let refused = loop {
            tries += 1;
            let (refused, again) = match self.send(body.clone()).await {
                Ok(answer) if answer.status().is_success() => {
                    return self.delivered(&answer, count);
                }
                Ok(answer) => {
                    let again =
                        is_retryable(answer.status()).then(|| retry_after(answer.headers()));
                    (Refused::Status(answer.status()), again)
                }
                Err(refused) => (refused, Some(Duration::ZERO)),
            };
            let Some(asked) = again.filter(|_| tries < TRIES_MAX && !end.is_cancelled()) else {
                break refused;
            };
            let chance = u32::from_ne_bytes(self.chance.bytes());
            let wait = backoff.next(chance).max(asked).min(RETRY_LAST);
            select! {
                // One try more, now.
                () = end.cancelled() => {}
                () = sleep(wait) => {}
            }
        };
        self.count("failed", count);
        if !self.is_away {
            self.is_away = true;
            warn!(endpoint = %self.settings.endpoint, error = %refused, "traces cannot be delivered; requests are not concerned");
        }
    }

    fn delivered(&mut self, answer: &Response<Bytes>, count: u64) {
        if self.is_away {
            self.is_away = false;
            info!(endpoint = %self.settings.endpoint, "traces are delivered again");
        }
        let rejected = ExportTraceServiceResponse::decode(&**answer.body())
            .ok()
            .and_then(|answer| answer.partial_success)
            .and_then(|partial| u64::try_from(partial.rejected_spans).ok())
            .unwrap_or_default()
            .min(count);
        self.count("rejected", rejected);
        self.count("ok", count - rejected);
    }

    fn count(&self, result: &str, spans: u64) {
        self.spans.with_label_values(&[result]).inc_by(spans);
    }

    async fn send(&mut self, body: Bytes) -> Result<Response<Bytes>, Refused> {
        let deadline = Instant::now() + self.settings.timeout;
        let client = if let Some(client) = &self.client {
            client
        } else {
            let plain_http = PlainHttp::allowed(self.settings.insecure_http);
            let client = Client::open(self.settings.tls.clone(), plain_http).await?;
            self.client.insert(client)
        };
        let mut headers = HeaderMap::with_capacity(2 + self.settings.headers.len());
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        );
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.extend(self.settings.headers.clone());
        let endpoint = &self.settings.endpoint;
        let sent = client.request(
            Method::POST,
            endpoint,
            headers,
            body,
            ANSWER_BYTES_MAX,
            deadline,
        );
        let sent = sent.await;
        if sent.is_err() {
            // A certificate may have ended; a renewed one counts with the next try.
            self.client = None;
        }
        Ok(sent?)
    }
}

const AGENT: &str = concat!("jotgate/", env!("CARGO_PKG_VERSION"));

/// The next batch; false when there will be none.
async fn gather(
    queue: &mut mpsc::Receiver<Finished>,
    batch: &mut Vec<Finished>,
    end: &CancellationToken,
) -> bool {
    select! {
        biased;
        // What is in the queue can still be taken, and nothing more comes in.
        () = end.cancelled() => queue.close(),
        taken = queue.recv_many(batch, BATCH_MAX) => if taken == 0 {
            return false;
        },
    }
    let full = Instant::now() + GATHER;
    while batch.len() < BATCH_MAX {
        select! {
            biased;
            taken = queue.recv_many(batch, BATCH_MAX - batch.len()) => if taken == 0 {
                break;
            },
            () = end.cancelled() => queue.close(),
            () = sleep_until(full) => break,
        }
    }
    !batch.is_empty()
}

/// OTLP 1.x, "Failures": these and no others.
fn is_retryable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// In seconds; a date counts as nothing.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or_default())
}
