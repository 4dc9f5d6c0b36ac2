//! The JSON API.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};

use super::App;
use super::auth::{Caller, query_value};
use super::backend::{InviteTerms, Invited, ViewersView};
use super::body::{from_json, read_text};
use super::problem::Problem;
use super::{records, visible};
use crate::access::{DEFAULT_DOMAIN, Right, Scope};
use crate::cluster::ClusterView;
use crate::id::RecordId;

/// Largest JSON body, in bytes: every request of the API is a handful of fields.
const MAX_JSON: usize = 16 * 1024;

/// Most uses of one invitation: the supported size of a mesh, and some.
const MAX_USES: u32 = 1000;

/// Longest life of an invitation.
const MAX_LIFETIME: Duration = Duration::from_millis(crate::admission::LIFETIME_MAX_MS);

/// `GET /api/v1/cluster`.
pub(super) async fn cluster(State(app): State<App>, caller: Caller) -> Json<ClusterView> {
    Json(seen(&app, &caller))
}

/// What the caller sees of the view.
fn seen(app: &App, caller: &Caller) -> ClusterView {
    let view = app.backend.view();
    visible::with(&*app.backend, &caller.principal, |eyes| eyes.cluster(&view))
}

/// `GET /api/v1/viewers[?encoder=]`.
pub(super) async fn viewers(
    State(app): State<App>,
    uri: Uri,
    caller: Caller,
) -> Result<Json<ViewersView>, Problem> {
    let encoder = match query_value(&uri, "encoder") {
        Some(wanted) => {
            let id = visible::resolve(&*app.backend, &caller.principal, &wanted);
            Some(id.ok_or_else(|| no_encoder(&wanted))?)
        }
        None => None,
    };
    let mut all = app.backend.viewers(encoder).await;
    let rights = app.backend.rights();
    // Who watches is for whoever answers for the encoder.
    all.viewers.retain(|viewer| {
        let encoder = viewer.get("encoder").and_then(|id| id.as_str()?.parse().ok());
        encoder.is_some_and(|encoder| {
            rights.may(&caller.principal.who, Right::Operate, Scope::Encoder(encoder))
        })
    });
    drop(rights);
    Ok(Json(all))
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
    /// Of a client: the domain that it opens, by name or id.
    domain: Option<String>,
}

fn one() -> u32 {
    1
}

fn an_hour() -> u64 {
    3600
}

/// An invitation string.
#[derive(Serialize)]
pub(super) struct Answer {
    invitation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    enrolment: Option<RecordId>,
}

/// `POST /api/v1/invitations`.
pub(super) async fn invite(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    let text = read_text(request.into_body(), MAX_JSON).await?;
    let text = if text.trim().is_empty() { "{}" } else { &text };
    let asked: InviteRequest = from_json(text).map_err(|error| {
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
    let client = match (asked.client, asked.domain.as_deref()) {
        (false, Some(_)) => {
            return Err(unprocessable("only clients are invited to a domain".to_owned()));
        }
        (false, None) => None,
        (true, None) => Some(DEFAULT_DOMAIN),
        (true, Some(text)) => {
            let rights = app.backend.rights();
            let domain = text.parse().ok().or_else(|| rights.domain_named(text));
            let seen = domain.filter(|domain| {
                rights.domain_name(*domain).is_some() && rights.sees(&caller.principal.who, *domain)
            });
            Some(seen.ok_or_else(|| {
                Problem::new(StatusCode::NOT_FOUND, format!("no domain is called \"{text}\""))
            })?)
        }
    };
    let scope = client.map_or(Scope::Mesh, Scope::Domain);
    caller.needs(&*app.backend, Right::Administer, scope)?;
    let terms = InviteTerms { uses: asked.uses, lifetime, client };
    let Invited { text: invitation, enrolment } = app.backend.invite(terms)?;
    let enrolment = match (enrolment, client) {
        (Some((id, expires)), Some(domain)) => {
            let id = RecordId(id.0);
            // Whoever cannot end it does not get it.
            records::write::enrol(&app, &caller, id, domain, expires).await?;
            Some(id)
        }
        _ => None,
    };
    tracing::info!(
        event = "invitation.made",
        account = %caller.principal.name,
        uses = asked.uses,
        client = asked.client,
        "an invitation was made"
    );
    Ok((StatusCode::CREATED, Json(Answer { invitation, enrolment })))
}

fn unprocessable(detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}
