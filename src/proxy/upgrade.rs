//! A WebSocket: after the service has said 101, bytes go both ways until one side ends.

use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::task::spawn_local;
use tokio_util::task::TaskTracker;

use super::answer::Record;

/// Joins the two connections once both have switched. Nothing that the client sent after its request reached the service
/// before it said 101: hyper hands those bytes over only now.
pub(super) fn join(
    client: OnUpgrade,
    response: &mut Response<Incoming>,
    record: Record,
    tasks: &TaskTracker,
) {
    let service = hyper::upgrade::on(response);
    let tunnel = async move {
        let mut record = record;
        let (Ok(client), Ok(service)) = tokio::join!(client, service) else {
            return;
        };
        let (mut client, mut service) = (TokioIo::new(client), TokioIo::new(service));
        if let Ok((_, down)) = copy_bidirectional(&mut client, &mut service).await {
            record.bytes = down;
            record.complete = true;
        }
        // The request has ended now, and not when its head was answered.
        drop(record);
    };
    spawn_local(tasks.track_future(tunnel));
}
