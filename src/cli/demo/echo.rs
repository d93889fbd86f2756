//! The demo's service: answers with what reached it, so that one sees what the gateway took away and what it added.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value, json};

use super::serve;

pub(super) fn answer<B>(request: Request<B>) -> Response<Full<Bytes>> {
    let (head, _) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let answer = json!({
        "method": head.method.as_str(),
        "path": path,
        "headers": by_name(&head.headers),
    });
    serve::json(StatusCode::OK, &answer)
}

/// A name with several lines has a list.
fn by_name(headers: &HeaderMap) -> Map<String, Value> {
    let names = headers.keys().map(|name| {
        let mut values: Vec<Value> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into())
            .collect();
        let value = match values.len() {
            1 => values.remove(0),
            _ => Value::Array(values),
        };
        (name.as_str().to_owned(), value)
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn it_tells_everything_that_arrived() {
        let request = Request::put("/a/b?c=d")
            .header("x-one", "1")
            .header("x-two", "2")
            .header("X-Two", "3")
            .body(())
            .expect("a request");
        let body = answer(request).into_body().collect().await.expect("a body");
        let value: Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
        assert_eq!(
            value,
            json!({
                "method": "PUT",
                "path": "/a/b?c=d",
                "headers": {"x-one": "1", "x-two": ["2", "3"]}
            })
        );
    }
}
