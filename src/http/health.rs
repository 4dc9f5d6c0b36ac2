//! What load balancers and supervisors ask. Open to everyone, cheap, without secrets, and never
//! about other nodes: a partition must not empty the mesh.

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::backend::Check;

/// `GET /healthcheck`: exactly `{"status":200}`, or 503 when this node should get no new clients.
pub(super) async fn healthcheck(State(app): State<App>) -> Response {
    let ready = checks(&app).iter().all(|check| check.error.is_none());
    let (status, body) = if ready {
        (StatusCode::OK, r#"{"status":200}"#)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":503}"#)
    };
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// `GET /livez`: the process makes progress.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// `GET /readyz[?verbose]`.
pub(super) async fn readyz(State(app): State<App>, uri: Uri) -> (StatusCode, String) {
    let checks = checks(&app);
    let verbose = uri.query().is_some_and(|query| query.split('&').any(|q| q == "verbose"));
    let failed = checks.iter().any(|check| check.error.is_some());
    let mut text = String::new();
    for Check { name, error } in checks {
        match error {
            Some(error) => text.push_str(&format!("[-] {name}: {error}\n")),
            None if verbose => text.push_str(&format!("[+] {name} ok\n")),
            None => {}
        }
    }
    if failed {
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    }
    text.push_str("ok\n");
    (StatusCode::OK, text)
}

fn checks(app: &App) -> Vec<Check> {
    let error = app.backend.draining().then(|| "this node is draining".to_owned());
    let mut checks = vec![Check { name: "draining", error }];
    checks.extend(app.backend.checks());
    checks
}
