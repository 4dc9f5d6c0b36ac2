//! HTTP: health, metrics, API, WHEP and WHIP, the player page and the console, all on one TCP port.

mod api;
pub mod assets;
pub mod auth;
pub mod backend;
mod backup;
mod body;
mod candidates;
mod counters;
mod events;
#[cfg(test)]
mod fake;
mod going;
#[cfg(test)]
mod guarded;
mod health;
pub mod leg;
pub mod login;
mod metrics;
mod moves;
mod native;
mod node;
mod nodes;
mod openapi;
pub mod place;
mod plan;
pub mod problem;
mod process;
mod publisher;
mod records;
mod routes;
pub mod server;
pub mod socket;
#[cfg(test)]
mod tests;
pub mod tls;
mod visible;
mod whep;
mod whip;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;

pub use backend::Backend;
pub use node::run;
pub use server::{ServerCounters, serve};

use problem::Problem;

/// Names the node that serves a session.
pub(crate) const ROOST_NODE: HeaderName = HeaderName::from_static("roost-node");

/// What pages of other nodes may send.
const ALLOWED_HEADERS: &str = "authorization, content-type, if-match, if-none-match, \
     roost-wait, roost-min-version, last-event-id";
/// What they may read.
const SHOWN_HEADERS: &str = "location, link, etag, retry-after, roost-node, accept-post, \
     roost-version, roost-nodes, roost-waited, roost-stale, roost-may";

/// What handlers work with.
#[derive(Clone)]
struct App {
    backend: Arc<dyn Backend>,
    metrics: Arc<metrics::Http>,
    logins: Arc<login::Logins>,
    reserved: records::Reserved,
}

impl FromRef<App> for Arc<dyn Backend> {
    fn from_ref(app: &App) -> Self {
        app.backend.clone()
    }
}

/// All routes. Served by [`serve`], and by calling it with requests of native clients that carry
/// their [`backend::Principal`] as an extension.
pub fn router(backend: Arc<dyn Backend>, counters: Arc<ServerCounters>) -> Router {
    let metrics = Arc::new(metrics::Http::new(counters));
    let (logins, reserved) = (Arc::default(), records::Reserved::default());
    let app = App { backend, metrics, logins, reserved };
    routes::router()
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), metrics::observe))
        .layer(CatchPanicLayer::custom(problem::after_panic))
        .layer(middleware::from_fn(cross_origin))
        .with_state(app)
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "nothing is here; / is the console, /api/v1 the API")
}

async fn not_allowed(method: Method) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} does nothing here"))
}

/// Lets pages that were served by other nodes, and players from anywhere, read answers. What they
/// may ask is decided by [`auth`]: without a credential, a foreign page gets nothing.
async fn cross_origin(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let offers = path.starts_with("/whep/") || path.starts_with("/whip/");
    let shared = offers || path.starts_with("/api/");
    let mut response = if shared && request.method() == Method::OPTIONS {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, PATCH, DELETE, OPTIONS"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if offers {
            let sdp = HeaderValue::from_static("application/sdp");
            headers.insert(HeaderName::from_static("accept-post"), sdp);
        }
        response
    } else {
        next.run(request).await
    };
    if shared {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers
            .insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(SHOWN_HEADERS));
    }
    response
}
