//! What load balancers and supervisors ask. Open to everyone, cheap, without secrets, and never
//! about other nodes: a partition must not empty the mesh.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::backend::Check;

/// The control loop turns ten times a second. One that has not for so long is stuck, not busy:
/// stalls of a starved machine are over before.
const STUCK: Duration = Duration::from_secs(10);

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
pub(super) async fn livez(State(app): State<App>) -> (StatusCode, String) {
    let turned = app.backend.turned();
    if turned > STUCK {
        let words = format!("the control loop has not turned for {} s\n", turned.as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, words);
    }
    (StatusCode::OK, "ok\n".to_owned())
}

/// `GET /readyz[?verbose][&exclude=NAME...]`.
pub(super) async fn readyz(State(app): State<App>, uri: Uri) -> (StatusCode, String) {
    let query = uri.query().unwrap_or_default();
    let asked: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let verbose = asked.iter().any(|(key, _)| key == "verbose");
    let excluded = |name: &str| asked.iter().any(|(key, of)| key == "exclude" && of == name);
    let mut failed = false;
    let mut text = String::new();
    for Check { name, error, warning } in checks(&app) {
        match error {
            _ if excluded(name) => continue,
            None if verbose && warning.is_some() => {
                text.push_str(&format!("[!] {name}: {}\n", warning.unwrap_or_default()));
            }
            Some(error) => {
                failed = true;
                text.push_str(&format!("[-] {name}: {error}\n"));
            }
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
    let mut checks = vec![Check::new("draining", error)];
    checks.extend(app.backend.checks());
    checks
}
