//! A client of WebSockets.

use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::{Gateway, within};

/// Asks the gateway for one on `/chat`, with these headers besides.
pub(crate) async fn open(
    gateway: &Gateway,
    headers: &[(&'static str, &str)],
) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(gateway.address()).await;
    let stream = stream.expect("a connection");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    open_over(stream, headers).await
}

/// … over bytes that flow already.
pub(crate) async fn open_over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    headers: &[(&'static str, &str)],
) -> WebSocketStream<S> {
    let request = "ws://shop.example/chat".into_client_request();
    let mut request = request.expect("a request");
    for (name, value) in headers {
        request.headers_mut().append(
            HeaderName::from_static(name),
            HeaderValue::from_str(value).expect("a header's value"),
        );
    }
    let handshake = tokio_tungstenite::client_async(request, stream);
    let opened = within("the handshake", Box::pin(handshake)).await;
    opened.expect("a socket").0
}

/// Says something to a service that says it again.
pub(crate) async fn echo<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    said: impl Into<Message>,
) {
    let said = said.into();
    socket.send(said.clone()).await.expect("it is sent");
    let heard = within("an echo", socket.next()).await;
    assert_eq!(heard.expect("an echo").expect("whole"), said);
}
