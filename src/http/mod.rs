//! HTTP: health, metrics, API, WHEP and WHIP, the player page and the console, all on one TCP port.

mod api;
pub mod assets;
pub mod auth;
pub mod backend;
mod body;
mod counters;
mod events;
#[cfg(test)]
mod fake;
mod health;
pub mod leg;
mod metrics;
mod node;
pub mod place;
pub mod problem;
mod process;
mod publisher;
mod records;
pub mod server;
#[cfg(test)]
mod tests;
pub mod tls;
mod whep;
mod whip;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use tower_http::catch_panic::CatchPanicLayer;

pub use backend::Backend;
pub use node::run;
pub use server::{ServerCounters, serve};

use problem::Problem;

/// Names the node that serves a session.
pub(crate) const ROOST_NODE: HeaderName = HeaderName::from_static("roost-node");

/// What handlers work with.
#[derive(Clone)]
struct App {
    backend: Arc<dyn Backend>,
    metrics: Arc<metrics::Http>,
}

impl FromRef<App> for Arc<dyn Backend> {
    fn from_ref(app: &App) -> Self {
        app.backend.clone()
    }
}

/// All routes. Served by [`serve`], and by calling it with requests of native clients that carry
/// their [`backend::Principal`] as an extension.
pub fn router(backend: Arc<dyn Backend>, counters: Arc<ServerCounters>) -> Router {
    let app = App { backend, metrics: Arc::new(metrics::Http::new(counters)) };
    Router::new()
        .route("/healthcheck", get(health::healthcheck))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::scrape))
        .route("/api/v1/cluster", get(api::cluster))
        .route("/api/v1/nodes", get(api::nodes))
        .route("/api/v1/encoders", get(api::encoders))
        .route("/api/v1/encoders/{encoder}", get(api::encoder))
        .route("/api/v1/viewers", get(api::viewers))
        .route("/api/v1/accounts", get(records::accounts))
        .route(
            "/api/v1/accounts/{id}",
            get(records::account).put(records::put_account).delete(records::delete_account),
        )
        .route("/api/v1/invitations", post(api::invite))
        .route("/api/v1/events", get(events::mesh))
        .route("/api/v1/streams/{name}/events", get(events::stream))
        .route("/whep/{name}", post(whep::post).get(whep::get))
        .route("/whep/{name}/{leg}", delete(whep::delete).patch(whep::patch))
        .route("/whip/{name}", post(whip::post).get(whip::get))
        .route(
            "/whip/{domain}/{encoder}",
            post(whip::post_in_domain).delete(whip::delete).patch(whip::patch),
        )
        .route(
            "/whip/{domain}/{encoder}/{leg}",
            delete(whip::delete_in_domain).patch(whip::patch_in_domain),
        )
        .route("/{domain}/{encoder}/whip", post(whip::post_in_domain))
        .route("/", get(assets::index))
        .route("/watch/{name}", get(assets::watch))
        .route("/assets/{file}", get(assets::asset))
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
    let offers =
        path.starts_with("/whep/") || path.starts_with("/whip/") || path.ends_with("/whip");
    let shared = offers || path.starts_with("/api/");
    let mut response = if shared && request.method() == Method::OPTIONS {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PATCH, DELETE, OPTIONS"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, if-match"),
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
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("location, link, etag, retry-after, roost-node, accept-post"),
        );
    }
    response
}
