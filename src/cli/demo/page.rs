//! The demo page and the handlers of its buttons, on a loopback port of its own.
//!
//! Buttons kill processes, so other pages in the same browser must not press them: every
//! request needs a loopback `Host` (against DNS rebinding), every button a header that no
//! foreign page can send without being asked first (CORS).

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use rust_embed::RustEmbed;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::super::exit::{Exit, Failure};
use super::mesh::Mesh;

/// The nodes' own player. The page has it from here, so that it loads whoever is dead.
#[derive(RustEmbed)]
#[folder = "src/http/console/"]
struct NodeFiles;

type Shared = Arc<Mutex<Mesh>>;

/// Only the demo page sends this header.
const BUTTON_HEADER: HeaderName = HeaderName::from_static("x-roost-demo");

/// What the page may do: run its own scripts, and talk to this machine.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     media-src 'self' blob: mediastream:; connect-src 'self' http://127.0.0.1:*; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Serves until the listener fails.
pub(super) async fn serve(listener: TcpListener, mesh: Shared) -> std::io::Result<()> {
    let app = Router::new()
        .route("/", get(|| async { file("text/html; charset=utf-8", INDEX) }))
        .route("/demo.js", get(|| async { file("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/demo.css", get(|| async { file("text/css; charset=utf-8", STYLE) }))
        .route("/assets/{file}", get(asset))
        .route("/state", get(state))
        .route("/nodes", post(add))
        .route("/nodes/{name}/{verb}", post(press))
        .layer(middleware::from_fn(guard))
        .with_state(mesh);
    axum::serve(listener, app).await
}

async fn guard(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !host_is_loopback(headers) {
        return (StatusCode::FORBIDDEN, "this page is for 127.0.0.1 only").into_response();
    }
    if request.method() == Method::POST && !headers.contains_key(BUTTON_HEADER) {
        return (StatusCode::FORBIDDEN, "only the demo page presses its buttons").into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn host_is_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _port)| host);
    host == "127.0.0.1" || host == "localhost"
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], text)
}

async fn asset(Path(name): Path<String>) -> Response {
    let Some(found) = NodeFiles::get(&name) else { return StatusCode::NOT_FOUND.into_response() };
    let kind = match name.rsplit_once('.') {
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    ([(header::CONTENT_TYPE, kind)], found.data.into_owned()).into_response()
}

async fn state(State(mesh): State<Shared>) -> impl IntoResponse {
    Json(mesh.lock().await.picture())
}

async fn add(State(mesh): State<Shared>) -> Response {
    answer(mesh.lock().await.add().await)
}

async fn press(State(mesh): State<Shared>, Path((name, verb)): Path<(String, String)>) -> Response {
    let mut mesh = mesh.lock().await;
    answer(match verb.as_str() {
        "kill" => mesh.kill(&name).await,
        "freeze" => mesh.freeze(&name),
        "restart" => mesh.restart(&name),
        _ => return StatusCode::NOT_FOUND.into_response(),
    })
}

fn answer(result: Result<(), Failure>) -> Response {
    let Err(failure) = result else { return StatusCode::NO_CONTENT.into_response() };
    let status = match failure.exit {
        Exit::NoSuchThing => StatusCode::NOT_FOUND,
        Exit::Conflict => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, failure.message).into_response()
}

const INDEX: &str = include_str!("page/index.html");
const SCRIPT: &str = include_str!("page/demo.js");
const STYLE: &str = include_str!("page/demo.css");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_served() {
        let with = |host: &'static str| {
            HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))])
        };
        assert!(host_is_loopback(&with("127.0.0.1:9440")));
        assert!(host_is_loopback(&with("localhost:9440")));
        assert!(!host_is_loopback(&with("evil.example:9440")));
        assert!(!host_is_loopback(&HeaderMap::new()));
    }
}
