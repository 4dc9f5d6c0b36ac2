//! Members: how they are shut out, let in again and given other keys.

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::App;
use super::auth::Caller;
use super::body::read_text;
use super::problem::Problem;
use crate::access::{Right, Scope};
use crate::admission::REASON_MAX;
use crate::control::NoDecree;
use crate::id::NodeId;
use crate::node::NotDone;

/// Largest JSON body, in bytes: a reason, escaped.
const MAX_JSON: usize = 4 * 1024;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Revocation {
    #[serde(default)]
    reason: String,
}

/// `POST /api/v1/nodes/{id}/revocation`.
pub(super) async fn revoke(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
    request: Request,
) -> Result<StatusCode, Problem> {
    caller.needs(&*app.backend, Right::Administer, Scope::Mesh)?;
    let node = parse(&id)?;
    let text = read_text(request.into_body(), MAX_JSON).await?;
    let text = if text.trim().is_empty() { "{}" } else { &text };
    let Revocation { reason } = serde_json::from_str(text).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is no revocation: {error}"))
    })?;
    if reason.len() > REASON_MAX {
        let detail = format!("a reason has at most {REASON_MAX} bytes");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    app.backend.revoke(node, reason.clone()).await.map_err(not_done)?;
    tracing::warn!(
        event = "node.revoked", account = %caller.principal.name, peer = %node, reason,
        "a node was revoked here"
    );
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /api/v1/nodes/{id}/revocation`.
pub(super) async fn readmit(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    caller.needs(&*app.backend, Right::Administer, Scope::Mesh)?;
    let node = parse(&id)?;
    app.backend.readmit(node).await.map_err(not_done)?;
    tracing::warn!(
        event = "node.unrevoked", account = %caller.principal.name, peer = %node,
        "a node was let in again here"
    );
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/v1/nodes/{id}/key`: another key for this very node.
pub(super) async fn rotate(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    caller.needs(&*app.backend, Right::Administer, Scope::Mesh)?;
    let node = parse(&id)?;
    let view = app.backend.view();
    if node != view.node {
        let there = view.nodes.iter().find(|of| of.node == node).ok_or_else(unknown)?;
        let at = there.addrs.first().map(|addr| format!(", {addr}")).unwrap_or_default();
        return Err(Problem::new(
            StatusCode::CONFLICT,
            format!("a key is changed at the node that has it: ask {}{at}", there.name),
        ));
    }
    app.backend.rotate().await.map_err(not_done)?;
    tracing::info!(event = "key.changed", account = %caller.principal.name, "the key was changed");
    Ok(StatusCode::NO_CONTENT)
}

fn parse(id: &str) -> Result<NodeId, Problem> {
    id.parse().map_err(|_no_id| unknown())
}

fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, NoDecree::Unknown.to_string())
}

fn not_done(error: NotDone) -> Problem {
    let status = match &error {
        NotDone::Refused(NoDecree::Unknown | NoDecree::NotRevoked) => StatusCode::NOT_FOUND,
        NotDone::Refused(_) => StatusCode::CONFLICT,
        NotDone::Disk(_) => StatusCode::INSUFFICIENT_STORAGE,
        NotDone::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, error.to_string())
}
