//! How connections end when the gateway does: clients are told, what runs is finished, and nothing outlives the deadline.

use futures_util::StreamExt as _;
use hyper::body::Frame as BodyFrame;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::h2::{ACK, DATA, END_STREAM, GOAWAY, H2, NO_ERROR, PING, frame, request};
use crate::support::{Gateway, Issuer, Reply, Setup, Upstream, eventually, web_socket, within};

async fn scene(shutdown: &str) -> (Upstream, Gateway) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let setup = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .section(format!("[shutdown]\n{shutdown}"));
    let gateway = setup.start().await;
    (upstream, gateway)
}

/// Reads until GOAWAY, and says what stream is the last that counts; pings are answered.
async fn goaway(client: &mut H2) -> u32 {
    loop {
        let came = client.next().await.expect("a frame");
        if came.kind == PING && came.flags & ACK == 0 {
            client.send(frame(PING, ACK, 0, came.payload)).await;
        } else if came.kind == GOAWAY {
            assert_eq!(came.code(), NO_ERROR);
            let last = came.payload.first_chunk().expect("a stream");
            return u32::from_be_bytes(*last);
        }
    }
}

#[tokio::test]
async fn over_http2_clients_are_sent_away_and_running_streams_finish() {
    let (upstream, gateway) = scene("drain_timeout = \"1h\"").await;
    let mut client = H2::connect(gateway.address()).await;
    let (frames, reply) = Reply::stream();
    upstream.reply(reply);
    client.send(request(1, "GET", "/slow", &[])).await;
    eventually("the request at the service", async || {
        (upstream.count() == 1).then_some(())
    })
    .await;
    let ending = tokio::spawn(gateway.shutdown());
    // First that no more shall come (RFC 9113 section 6.8), then which was the last.
    while goaway(&mut client).await != 1 {}
    client.send(request(3, "GET", "/late", &[])).await;
    frames.send(BodyFrame::data("whole".into())).await.unwrap();
    drop(frames);
    let mut body: Vec<u8> = vec![];
    loop {
        let came = client.next().await.expect("the rest of the answer");
        if came.kind == DATA && came.stream == 1 {
            body.extend(&came.payload);
            if came.flags & END_STREAM != 0 {
                break;
            }
        }
    }
    assert_eq!(body, b"whole");
    while client.next().await.is_some() {}
    within("the end", ending).await.unwrap();
    assert_eq!(upstream.count(), 1, "what came too late did not arrive");
}

#[tokio::test]
async fn a_web_socket_goes_on_until_the_deadline_and_is_told() {
    let (upstream, gateway) = scene("drain_timeout = \"1s\"").await;
    upstream.reply(Reply::WebSocket);
    let address = gateway.address();
    let mut socket = web_socket::open(&gateway, &[]).await;
    let ending = tokio::spawn(gateway.shutdown());
    eventually("the listener to close", async || {
        let connected = tokio::net::TcpStream::connect(address).await;
        connected.is_err().then_some(())
    })
    .await;
    web_socket::echo(&mut socket, "hello").await;
    let close = within("the close", socket.next()).await.unwrap().unwrap();
    let Message::Close(Some(frame)) = close else {
        panic!("{close:?} is no close");
    };
    assert_eq!(frame.code, CloseCode::Away);
    within("the end", ending).await.unwrap();
    eventually("the service's connection to end", async || {
        (upstream.open() == 0).then_some(())
    })
    .await;
}
