//! WHIP (RFC 9725): a publisher posts an offer, gets an answer, and its stream is an encoder of the
//! mesh. The node that is asked becomes its home: there is no better one for a client that knows
//! one address. Only a node that is about to go, is full, or is not in the pools that the encoder
//! is to be in sends publishers on.

use std::sync::atomic::Ordering;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::auth::{Caller, Peer, query_value};
use super::backend::{Backend, Principal, Publication};
use super::body::read_text;
use super::leg::leaving;
use super::problem::Problem;
use super::whep::{base_url, check_is_offer, created, end, in_path, redirect_url, trickle};
use crate::access::{DEFAULT_DOMAIN, DEFAULT_DOMAIN_NAME, Right};
use crate::accounts::Kind;
use crate::cluster::{ClusterView, EncoderState, EncoderView, Liveness, NodeView};
use crate::directory::ENTRIES_MAX;
use crate::id::{EncoderId, valid_name};
use crate::placement::plan::Wish;
use crate::placement::{Candidate, refusal};
use crate::session::host::AGENT_GONE;
use crate::webrtc::sdp::MAX_OFFER;
use crate::wire::Failed;

/// What redirect tokens of publishers are good for.
const VERB: &str = "publish";

/// `POST /whip/{name}`.
pub(super) async fn post(
    State(app): State<App>,
    Path(text): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let backend = &app.backend;
    let token = query_value(&parts.uri, "rt");
    let bearer = token.as_ref().and_then(|rt| {
        // Whose it is says the token alone; what they may is judged below.
        let encoder = identify(&**backend, &Principal::local(), &text)?;
        Some((backend.check_redirect(rt, encoder, VERB)?, Some(encoder)))
    });
    let (principal, encoder) = match bearer {
        Some(bearer) => bearer,
        None => {
            let principal = super::auth::authorise(&**backend, &parts)?.principal;
            let encoder = identify(&**backend, &principal, &text);
            (principal, encoder)
        }
    };
    check_is_offer(&parts)?;
    let name = text.rsplit('/').next().unwrap_or_default();
    if !valid_name(name) {
        let words = "a name is 1 to 64 of a-z, 0-9, '.', '_' and '-'";
        return Err(Problem::new(StatusCode::BAD_REQUEST, words));
    }
    let allowed = encoder.ok_or_else(|| unknown(&text)).and_then(|encoder| {
        check_may_publish(&**backend, &principal, encoder, &text).map(|()| encoder)
    });
    let encoder = allowed.inspect_err(|_| {
        backend.webrtc().counters().forbidden.fetch_add(1, Ordering::Relaxed);
    })?;
    let sdp = read_text(body, MAX_OFFER).await?;
    let peer = parts.extensions.get::<Peer>();
    let view = backend.view();
    let of = view.encoders.iter().find(|of| of.id == encoder);
    let here = of.is_some_and(|of| of.home == Some(view.node));
    let draining = backend.draining();
    let full = |node: &NodeView| node.encoders as usize >= limit(node);
    let own = view.nodes.iter().find(|node| node.node == view.node);
    // With nobody else to go to, a node that is drained or cordoned does.
    let willing = |node: &NodeView| node.state == Liveness::Up && !node.draining && !node.cordoned;
    let nobody = !view.nodes.iter().any(willing);
    let unwilling = own.is_some_and(|own| full(own) || (!nobody && !willing(own)));
    let wish = backend.rights().wish(encoder);
    let roomy = |node: &NodeView| willing(node) && !full(node);
    let liked = |node: &NodeView| wish.tier(node.node);
    let best = view.nodes.iter().filter(|node| roomy(node)).filter_map(liked).min();
    let barred = !here && wish.tier(view.node).is_none();
    let must = (draining && !nobody) || (!here && unwilling) || barred;
    // It cannot be asked to move later, so it is sent to where it is liked better at once.
    let better = !here && best.is_some_and(|best| wish.tier(view.node) > Some(best));
    let elsewhere = (must || better).then(|| {
        let takes = |node: &&NodeView| node.node != view.node && roomy(node);
        let takers = view.nodes.iter().filter(takes);
        let mut takers: Vec<_> =
            takers.filter_map(|node| Some((liked(node)?, node.candidate()))).collect();
        takers.retain(|(tier, _)| must || Some(*tier) == best);
        takers.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.fuller(&b.1, 1)));
        // Redirected or not: whoever followed a redirect here would be sent on only once more.
        let mut takers = takers.into_iter().filter(|_| token.is_none());
        takers.find_map(|(_, to)| Some((to.node, redirect_url(&view, to.node, peer)?)))
    });
    let elsewhere = elsewhere.flatten();
    if must && elsewhere.is_none() {
        let counters = backend.webrtc().counters();
        let counter = if draining { &counters.leaving } else { &counters.full };
        counter.fetch_add(1, Ordering::Relaxed);
        return Err(match (draining, barred) {
            (true, _) => leaving(),
            (false, true) => apart(&view, &wish, roomy),
            (false, false) => no_room(own),
        }
        .into());
    }
    if let Some((node, url)) = elsewhere {
        let token = backend.redirect_token(node, encoder, VERB, &principal);
        let token: String = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
        let name = in_path(&backend.rights().full_name(encoder, name));
        let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
        if let Ok(location) = HeaderValue::from_str(&format!("{url}/whip/{name}?rt={token}")) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        return Ok(response);
    }
    if let Some(holder) = holder(&**backend, &view, name, encoder) {
        let words = format!(
            "another encoder ({}) is connected as {name}; stop it or choose another name",
            holder.id.short()
        );
        return Err(Problem::new(StatusCode::CONFLICT, words));
    }
    let remote = peer.map(|peer| peer.address);
    let publication = Publication { encoder, name: name.to_owned(), sdp, principal, remote };
    let answer = backend.clone().publish(publication)?;
    let base = base_url(&view, view.node, &parts);
    let location = format!("{base}/whip/{}/{}", in_path(&text), answer.leg);
    Ok(created(view.node, location, answer))
}

/// How many encoders a node takes.
fn limit(node: &NodeView) -> usize {
    node.candidate().limit as usize
}

fn no_room(own: Option<&NodeView>) -> Failed {
    let reason = match own {
        Some(own) if own.cordoned => "this node is cordoned; ask another".to_owned(),
        own => {
            let limit = own.map_or(ENTRIES_MAX, limit);
            format!("this node is at its limit of {limit} encoders; ask another")
        }
    };
    Failed { status: 503, reason, retry_after: Some(5) }
}

/// It may be at this node not at all.
fn apart(view: &ClusterView, wish: &Wish, roomy: impl Fn(&NodeView) -> bool) -> Failed {
    let there = |node: &&NodeView| wish.tier(node.node).is_some();
    let reason = match view.nodes.iter().filter(there).find(|node| roomy(node)) {
        Some(node) => format!(
            "it may be in {} only, and this node is not in it; publish to {}",
            wish.words(),
            node.name
        ),
        None => {
            let candidates = view.nodes.iter().filter(|it| it.state == Liveness::Up);
            let open = candidates.filter(|node| !node.draining && !node.cordoned);
            let candidates: Vec<Candidate> = open.map(NodeView::candidate).collect();
            refusal(&candidates, wish)
        }
    };
    Failed { status: 503, reason, retry_after: Some(5) }
}

/// Another encoder that is connected under this name in the same domain.
fn holder<'v>(
    backend: &dyn Backend,
    view: &'v ClusterView,
    name: &str,
    encoder: EncoderId,
) -> Option<&'v EncoderView> {
    let rights = backend.rights();
    view.encoders.iter().find(|of| {
        let gone = of.state == EncoderState::NoSignal && of.reason.as_deref() == Some(AGENT_GONE);
        of.id != encoder
            && of.name == name
            && of.home.is_some()
            && !gone
            && rights.domain_of(of.id) == rights.domain_of(encoder)
    })
}

/// Which encoder a publisher means by `name` or `domain/name`: one on record, first of all one that
/// they may send; or, in the domain of everything without a record, one that follows from the
/// name, so that it is the same at every node.
fn identify(backend: &dyn Backend, principal: &Principal, text: &str) -> Option<EncoderId> {
    let now = backend.mesh_ms();
    let rights = backend.rights();
    let (domains, name) = rights.places_of(&principal.who, text);
    let named = |domain| rights.named(Kind::ENCODER, Some(domain), name);
    let recorded = || domains.iter().flat_map(|domain| named(*domain)).map(|id| EncoderId(id.0));
    let theirs = recorded().find(|id| rights.permits(principal, Right::Publish, *id, now));
    let found = theirs.or_else(|| recorded().next());
    let derives = domains.contains(&DEFAULT_DOMAIN);
    drop(rights);
    found.or_else(|| derives.then(|| derive(backend, name)))
}

fn derive(backend: &dyn Backend, name: &str) -> EncoderId {
    let mut text = b"roost encoder 1".to_vec();
    text.extend_from_slice(&backend.view().mesh.0);
    text.extend_from_slice(DEFAULT_DOMAIN_NAME.as_bytes());
    text.push(0);
    text.extend_from_slice(name.as_bytes());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
    let mut id = [0; 16];
    id.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    EncoderId(id)
}

/// Whether `principal` may (still) send this stream.
pub(super) fn may_publish(
    backend: &dyn Backend,
    principal: &Principal,
    encoder: EncoderId,
) -> bool {
    let now = backend.mesh_ms();
    backend.rights().permits(principal, Right::Publish, encoder, now)
}

/// The same, with how little they may: who may not even watch it hears nothing of it.
fn check_may_publish(
    backend: &dyn Backend,
    principal: &Principal,
    encoder: EncoderId,
    text: &str,
) -> Result<(), Problem> {
    if may_publish(backend, principal, encoder) {
        return Ok(());
    }
    let may_watch = super::visible::may_watch(backend, principal, encoder);
    if !may_watch {
        return Err(unknown(text));
    }
    let words = format!(
        "{} may watch {text}, not send it: use its stream key, or an account with the role \
         publisher",
        principal.name
    );
    Err(Problem::new(StatusCode::FORBIDDEN, words))
}

fn unknown(text: &str) -> Problem {
    let words = format!(
        "no encoder \"{text}\" may be sent with this credential; is it in use, and is the key its own?"
    );
    Problem::new(StatusCode::NOT_FOUND, words)
}

/// `GET /whip/{name}`: nothing to see, on purpose (clients probe with it).
pub(super) async fn get(_caller: Caller) -> StatusCode {
    StatusCode::OK
}

/// `DELETE /whip/{name}/{leg}`: the unguessable URL is the credential.
pub(super) async fn delete(
    State(app): State<App>,
    Path((_name, leg)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    end(&app, &leg)
}

/// `PATCH /whip/{name}/{leg}`: candidates, which this side does not need.
pub(super) async fn patch(
    State(app): State<App>,
    Path((_name, leg)): Path<(String, String)>,
    request: Request,
) -> Result<StatusCode, Problem> {
    trickle(&app, &leg, request).await
}
