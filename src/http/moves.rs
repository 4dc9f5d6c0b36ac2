//! Steering: where an encoder is and why, sending it elsewhere, and how far a node is emptied.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::App;
use super::auth::Caller;
use super::body::read_text;
use super::problem::Problem;
use super::visible;
use crate::access::{Guide, Right, Rights, Scope};
use crate::cluster::{ClusterView, EncoderView, NodeView};
use crate::id::{EncoderId, Epoch, NodeId};
use crate::wire::AskMove;

/// Largest JSON body, in bytes: the name of a node.
const MAX_JSON: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// A node, by name or id.
    to: String,
}

/// An encoder that was moved.
#[derive(Serialize)]
pub(super) struct Done {
    encoder: EncoderId,
    name: String,
    from: NodeId,
    to: NodeId,
    to_name: String,
}

/// Why an encoder is where it is.
#[derive(Serialize)]
pub(super) struct Why {
    encoder: EncoderId,
    name: String,
    home: Option<NodeId>,
    home_name: Option<String>,
    next: Option<NodeId>,
    next_name: Option<String>,
    epoch: Epoch,
    watched: bool,
    /// As said when it came there.
    reason: String,
    /// Where it should be, to who may see pools.
    #[serde(flatten)]
    steering: Option<Steering>,
}

/// Where an encoder should be.
#[derive(Serialize)]
struct Steering {
    /// Pools by name, the most liked first.
    pools: Vec<String>,
    /// `prefer` or `only`.
    placement: &'static str,
    /// Who says so: `encoder`, `room`, `group`, `domain` or `mesh`.
    guide: &'static str,
    /// The pool of those that its home is in.
    pool: Option<String>,
}

/// `POST /api/v1/encoders/{id}/move`.
pub(super) async fn move_encoder(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
    request: Request,
) -> Result<Json<Done>, Problem> {
    let of = encoder(&app, &caller, &id)?;
    caller.needs(&*app.backend, Right::Operate, Scope::Mesh)?;
    let text = read_text(request.into_body(), MAX_JSON).await?;
    let wish: Wish = serde_json::from_str(&text).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is no wish to move: {error}"))
    })?;
    let view = app.backend.view();
    let to = node(&view, &wish.to)?;
    let from = of.home.ok_or_else(|| {
        let detail = format!("{} has no home at present: its encoder is not connected", of.name);
        Problem::new(StatusCode::CONFLICT, detail)
    })?;
    let (account, to_name) = (caller.principal.name.clone(), to.name.clone());
    let reason = format!("moved by {account}");
    let wish = AskMove { encoder: of.id, to: to.node, reason };
    let moved = app.backend.move_encoder(from, wish).await?;
    if let Some(why) = moved.failed {
        let detail = format!("{} is not moved to {to_name}: {why}", of.name);
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    Ok(Json(Done { encoder: of.id, name: of.name, from, to: to.node, to_name }))
}

/// `GET /api/v1/encoders/{id}/why`.
pub(super) async fn why(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<Why>, Problem> {
    let of = encoder(&app, &caller, &id)?;
    let reason = match (&of.home, of.why.clone()) {
        (None, _) => "it has no home: its last one is down, and it has not come to another".into(),
        (Some(_), Some(why)) => why,
        (Some(_), None) => "its agent does not say; it may be an older one".to_owned(),
    };
    let sees = caller.needs(&*app.backend, Right::Operate, Scope::Mesh).is_ok();
    let steering = sees.then(|| steering(&app.backend.rights(), &of)).flatten();
    Ok(Json(Why {
        steering,
        encoder: of.id,
        name: of.name,
        home: of.home,
        home_name: of.home_name,
        next: of.next,
        next_name: of.next_name,
        epoch: of.epoch,
        watched: of.viewers > 0,
        reason,
    }))
}

fn steering(rights: &Rights, of: &EncoderView) -> Option<Steering> {
    let guide = rights.guide(of.id)?;
    let wish = rights.wish_of(guide);
    let at = of.home.and_then(|home| wish.tier(home)).and_then(|tier| wish.pools.get(tier));
    Some(Steering {
        pool: at.map(|pool| pool.name.clone()),
        placement: if wish.only { "only" } else { "prefer" },
        guide: match guide {
            Guide::Record(key) => key.kind.schema().map_or("record", |schema| schema.name),
            Guide::Mesh => "mesh",
        },
        pools: wish.pools.into_iter().map(|pool| pool.name).collect(),
    })
}

/// `GET /api/v1/nodes/{id}/drain`.
pub(super) async fn drain(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<serde_json::Value>, Problem> {
    caller.needs(&*app.backend, Right::Operate, Scope::Mesh)?;
    let node = node(&app.backend.view(), &id)?.node;
    Ok(Json(app.backend.drain_state(node).await?))
}

fn encoder(app: &App, caller: &Caller, text: &str) -> Result<EncoderView, Problem> {
    let view = app.backend.view();
    let found =
        visible::with(&*app.backend, &caller.principal, |eyes| eyes.encoder(&view, text).cloned());
    found.ok_or_else(|| {
        let detail = format!("no encoder called \"{text}\" is known to be connected anywhere");
        Problem::new(StatusCode::NOT_FOUND, detail)
    })
}

pub(super) fn node(view: &ClusterView, text: &str) -> Result<NodeView, Problem> {
    let id = text.parse::<NodeId>().ok();
    let fits = |node: &&NodeView| id.map_or(node.name == text, |id| node.node == id);
    let mut found = view.nodes.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(node), None) => Ok(node.clone()),
        (Some(_), Some(_)) => {
            let detail = format!("several nodes are called \"{text}\": give the id of one");
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        (None, _) => {
            Err(Problem::new(StatusCode::NOT_FOUND, format!("no node is called \"{text}\"")))
        }
    }
}
