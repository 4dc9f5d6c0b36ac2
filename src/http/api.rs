//! The JSON API.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};

use super::App;
use super::auth::{Caller, query_value};
use super::backend::{InviteTerms, ViewersView};
use super::body::read_text;
use super::problem::Problem;
use crate::cluster::ClusterView;

/// Largest JSON body, in bytes: every request of the API is a handful of fields.
const MAX_JSON: usize = 16 * 1024;

/// Most uses of one invitation: the supported size of a mesh, and some.
const MAX_USES: u32 = 1000;

/// Longest life of an invitation: a month.
const MAX_LIFETIME: Duration = Duration::from_secs(31 * 24 * 3600);

/// `GET /api/v1/cluster`.
pub(super) async fn cluster(State(app): State<App>, _caller: Caller) -> Json<ClusterView> {
    Json((*app.backend.view()).clone())
}

/// `GET /api/v1/viewers[?encoder=]`.
pub(super) async fn viewers(
    State(app): State<App>,
    uri: Uri,
    _caller: Caller,
) -> Result<Json<ViewersView>, Problem> {
    let encoder = match query_value(&uri, "encoder") {
        Some(wanted) => {
            let id = wanted.parse().ok().or_else(|| app.backend.resolve(&wanted));
            Some(id.ok_or_else(|| no_encoder(&wanted))?)
        }
        None => None,
    };
    Ok(Json(app.backend.viewers(encoder).await))
}

fn no_encoder(wanted: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no encoder is called \"{wanted}\""))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InviteRequest {
    #[serde(default = "one")]
    uses: u32,
    #[serde(default = "an_hour")]
    expires_s: u64,
    #[serde(default)]
    client: bool,
}

fn one() -> u32 {
    1
}

fn an_hour() -> u64 {
    3600
}

/// An invitation string.
#[derive(Serialize)]
pub(super) struct Invited {
    invitation: String,
}

/// `POST /api/v1/invitations`.
pub(super) async fn invite(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<(StatusCode, Json<Invited>), Problem> {
    let text = read_text(request.into_body(), MAX_JSON).await?;
    let text = if text.trim().is_empty() { "{}" } else { &text };
    let asked: InviteRequest = serde_json::from_str(text).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is no invitation request: {error}"))
    })?;
    let lifetime = Duration::from_secs(asked.expires_s);
    if !(1..=MAX_USES).contains(&asked.uses) {
        return Err(unprocessable(format!("uses is 1 to {MAX_USES}, not {}", asked.uses)));
    }
    if lifetime.is_zero() || lifetime > MAX_LIFETIME {
        let most = MAX_LIFETIME.as_secs();
        return Err(unprocessable(format!("expires_s is 1 to {most}, not {}", asked.expires_s)));
    }
    let terms = InviteTerms { uses: asked.uses, lifetime, client: asked.client };
    let invitation = app.backend.invite(terms)?;
    tracing::info!(
        event = "invitation.made",
        account = %caller.principal.name,
        uses = asked.uses,
        client = asked.client,
        "an invitation was made"
    );
    Ok((StatusCode::CREATED, Json(Invited { invitation })))
}

fn unprocessable(detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}
