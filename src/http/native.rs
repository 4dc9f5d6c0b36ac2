//! The API for native clients: the same routes, asked over their own connection.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::IntoResponse;
use tower::ServiceExt;

use super::auth::Peer;
use super::backend::Principal;
use super::problem::Problem;
use crate::node::ApiCall;
use crate::wire;

/// Time for an answer to a native client to be complete: the slowest asks every node.
const API_TIME: Duration = Duration::from_secs(10);
/// Largest answer that a native client gets, in bytes.
const API_ANSWER_MAX: usize = wire::MAX_MESSAGE - wire::API_HEADER_BYTES_MAX - 1024;

/// Has the router answer a call.
pub(super) async fn answer(router: axum::Router, call: ApiCall) {
    let ApiCall { request, principal, remote, answer } = call;
    let response = match native_request(request, principal, remote) {
        Ok(request) => router.oneshot(request).await.unwrap_or_else(|never| match never {}),
        Err(problem) => problem.into_response(),
    };
    let (head, body) = response.into_parts();
    let body = axum::body::to_bytes(body, API_ANSWER_MAX);
    // An event stream has no end: it is for HTTP, and here it is cut off.
    let (head, body) = match tokio::time::timeout(API_TIME, body).await {
        Ok(Ok(body)) => (head, body),
        Ok(Err(_)) | Err(_) => {
            let detail =
                "the answer is too long, or does not end: ask for less at once, or by HTTP";
            let (head, body) = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
                .into_response()
                .into_parts();
            (head, axum::body::to_bytes(body, API_ANSWER_MAX).await.unwrap_or_default())
        }
    };
    let status = head.status.as_u16();
    let _ = answer.send(wire::ApiResponse {
        status,
        headers: native_headers(&head.headers),
        body: body.to_vec(),
    });
}

/// A native client's request as the router takes it.
fn native_request(
    request: wire::ApiRequest,
    principal: Principal,
    address: SocketAddr,
) -> Result<Request<Body>, Problem> {
    if !wire::api_headers_fit(&request.headers) {
        return Err(Problem::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!(
                "a request has at most {} headers and {} bytes of them",
                wire::API_HEADERS_MAX,
                wire::API_HEADER_BYTES_MAX
            ),
        ));
    }
    let mut built =
        Request::builder().method(request.method.as_str()).uri(&request.path).extension(principal);
    // Who fails to log in too often is told to wait, whichever way they come.
    built = built.extension(Peer { address, secure: true });
    if !request.headers.iter().any(|(name, _)| name == "content-type") {
        built = built.header("content-type", "application/json");
    }
    for (name, value) in request.headers {
        built = built.header(name, value);
    }
    built.body(Body::from(request.body)).map_err(|error| {
        let detail = format!("no request: {error}; check its method, path and headers");
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })
}

/// What a native client is told of an answer's headers: what is for pages of other origins is left
/// out.
fn native_headers(headers: &HeaderMap) -> wire::ApiHeaders {
    let wanted = headers.iter().filter(|(name, _)| !name.as_str().starts_with("access-control-"));
    let texts = wanted.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?)));
    let mut headers: wire::ApiHeaders =
        texts.map(|(name, value)| (name, value.to_owned())).collect();
    while !wire::api_headers_fit(&headers) {
        headers.pop();
    }
    headers
}
