//! WHEP (draft-ietf-wish-whep-03): a viewer posts an offer and gets an answer.
//!
//! A third-party player is redirected to the stream's home, once, with a token of its own in the
//! URL, since browsers drop credentials on the way. The page of this server is not: it says at
//! which node it wants its leg (`?leg=`), and its offer is forwarded there, so that it never needs
//! that node's web certificate.

use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::auth::{Caller, Peer, query_value};
use super::backend::{Backend, Principal};
use super::body::read_text;
use super::leg::{host, target};
use super::place::{is_loopback, web_url};
use super::problem::Problem;
use super::visible;
use crate::cluster::{ClusterView, EncoderState, EncoderView, Liveness, NodeView};
use crate::id::{EncoderId, NodeId};
use crate::webrtc::sdp::MAX_OFFER;
use crate::wire::{Offer, SdpAnswer};

/// How long an offer waits for a stream that has no home at present: a failover is over by then.
const HOME_WAIT: Duration = Duration::from_secs(2);

/// Seconds after which a player should ask again for a stream that nobody sends.
const RETRY_S: u32 = 2;

/// Largest `application/trickle-ice-sdpfrag` body, in bytes: a few dozen candidates.
const MAX_FRAGMENT: usize = 16 * 1024;

/// `POST /whep/{name}`.
pub(super) async fn post(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let backend = &app.backend;
    let token = query_value(&parts.uri, "rt");
    let bearer = token.as_ref().and_then(|rt| {
        // Whose it is says the token alone; what they see is judged with their own eyes below.
        let encoder = visible::resolve(&**backend, &Principal::local(), &name)?;
        Some((backend.check_redirect(rt, encoder, "view")?, encoder))
    });
    // Good or not: clocks and views differ, and a player must not be sent round and round.
    let redirected = token.is_some();
    let (principal, encoder) = match bearer {
        Some((principal, encoder)) => (principal, Some(encoder)),
        None => {
            let principal = super::auth::authorise(&**backend, &parts)?.principal;
            let encoder = visible::resolve(&**backend, &principal, &name);
            (principal, encoder)
        }
    };
    let may = |encoder: &EncoderId| visible::may_watch(&**backend, &principal, *encoder);
    let encoder = encoder.filter(may);
    check_is_offer(&parts)?;
    let encoder = encoder.ok_or_else(|| no_such_stream(&name))?;
    let sdp = read_text(body, MAX_OFFER).await?;
    let leg = query_value(&parts.uri, "leg");
    let of = await_home(&**backend, encoder).await?;
    let (node, warm) = match &leg {
        Some(word) => {
            let warm = query_value(&parts.uri, "warm").is_some_and(|warm| warm == "1");
            (target(&**backend, encoder, word)?, warm)
        }
        None => {
            let view = backend.view();
            let peer = parts.extensions.get::<Peer>();
            if !redirected && let Some((to, url)) = elsewhere(&**backend, &view, &of, peer) {
                let name = backend.rights().full_name(encoder, &of.name);
                return Ok(redirect(&**backend, &url, &name, to, encoder, &principal));
            }
            (view.node, false)
        }
    };
    let offer = Offer { encoder, sdp, warm, principal };
    let answer = backend.clone().signal(node, offer).await?;
    let base = base_url(&backend.view(), node, &parts);
    let location = format!("{base}/whep/{}/{}", in_path(&name), answer.leg);
    Ok(created(node, location, answer))
}

/// The answer to an offer: a session, and where it is.
pub(super) fn created(node: NodeId, location: String, answer: SdpAnswer) -> Response {
    let etag = etag(&answer.leg);
    let mut response = (StatusCode::CREATED, answer.sdp).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/sdp"));
    for (name, value) in
        [(header::LOCATION, location), (header::ETAG, etag), (super::ROOST_NODE, node.to_string())]
    {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}

/// Refuses what is not said to be an offer.
pub(super) fn check_is_offer(parts: &Parts) -> Result<(), Problem> {
    if is_of_type(parts, "application/sdp") {
        return Ok(());
    }
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Err(Problem::new(status, "an offer is posted as application/sdp")
        .with(header::ACCEPT, HeaderValue::from_static("application/sdp")))
}

/// Whether the body is said to be of this type, whatever its parameters.
fn is_of_type(parts: &Parts, wanted: &str) -> bool {
    let said = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = said.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(wanted)
}

/// Names a session's state. It is shown more freely than the session's URL, which is a secret:
/// so it is a digest of that.
fn etag(leg: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leg.as_bytes());
    let short = digest.as_ref().get(..8).unwrap_or_default();
    format!("\"{}\"", data_encoding::HEXLOWER.encode(short))
}

/// `GET /whep/{name}`: nothing to see, on purpose (clients probe with it).
pub(super) async fn get(_caller: Caller) -> StatusCode {
    StatusCode::OK
}

/// `DELETE /whep/{name}/{leg}`.
pub(super) async fn delete(
    State(app): State<App>,
    Path((_name, leg)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    // The unguessable URL is the credential: players drop theirs on the way here.
    end(&app, &leg)
}

/// Ends a session by its name.
pub(super) fn end(app: &App, leg: &str) -> Result<StatusCode, Problem> {
    if app.backend.webrtc().close(leg) { Ok(StatusCode::OK) } else { Err(no_such_leg()) }
}

/// `PATCH /whep/{name}/{leg}`: candidates of the browser, which this side does not need (it is
/// ICE-lite), or a restart, which it does not do.
pub(super) async fn patch(
    State(app): State<App>,
    Path((_name, leg)): Path<(String, String)>,
    request: Request,
) -> Result<StatusCode, Problem> {
    trickle(&app, &leg, request).await
}

/// What is asked of a session's ICE, of whichever kind it is.
pub(super) async fn trickle(app: &App, leg: &str, request: Request) -> Result<StatusCode, Problem> {
    let (parts, body) = request.into_parts();
    let ufrag = app.backend.webrtc().remote_ufrag(leg).ok_or_else(no_such_leg)?;
    if !is_of_type(&parts, "application/trickle-ice-sdpfrag") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a session is patched with application/trickle-ice-sdpfrag",
        ));
    }
    let fragment = read_text(body, MAX_FRAGMENT).await?;
    let theirs = fragment.lines().find_map(|line| line.trim().strip_prefix("a=ice-ufrag:"));
    if theirs.is_some_and(|theirs| theirs != ufrag) {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "ICE restarts are not supported; post a new offer",
        ));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `domain/name` as one segment of a path; names have nothing else to escape.
pub(super) fn in_path(name: &str) -> String {
    name.replace('/', "%2F")
}

fn no_such_stream(name: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("no encoder is called \"{name}\"; GET /api/v1/encoders lists all"),
    )
}

fn no_such_leg() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no such session at this node; it may have ended")
}

/// The encoder once it has a home, or why it has none.
async fn await_home(backend: &dyn Backend, encoder: EncoderId) -> Result<EncoderView, Problem> {
    let mut changes = backend.changes();
    let deadline = tokio::time::Instant::now() + HOME_WAIT;
    loop {
        changes.borrow_and_update();
        let view = backend.view();
        let of = view.encoders.iter().find(|of| of.id == encoder);
        let why = match of {
            Some(of) if of.state == EncoderState::NoSignal => {
                let reason = of.reason.as_deref().unwrap_or("its source gives no picture");
                return Err(not_live(format!("no signal: {reason}")));
            }
            Some(of) if of.native_only => {
                let reason = of.reason.clone().unwrap_or_default();
                return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
            }
            Some(of) if of.home.is_some() => return Ok(of.clone()),
            Some(_) => "its last node is gone and its encoder has not come to another yet",
            None => "its encoder is not connected",
        };
        if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            return Err(not_live(format!("nobody is live: {why}")));
        }
    }
}

fn not_live(detail: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, detail).retry_after(RETRY_S)
}

/// The node that serves a third-party player better than this one, and its URL: where the stream
/// is, or, if this node is leaving, anyone who stays.
fn elsewhere(
    backend: &dyn Backend,
    view: &ClusterView,
    of: &EncoderView,
    peer: Option<&Peer>,
) -> Option<(NodeId, String)> {
    let host = host(view, of);
    let stays = |node: &&NodeView| node.state == Liveness::Up && !node.draining;
    let staying = backend.draining().then(|| view.nodes.iter().filter(stays));
    let staying = staying.into_iter().flatten().map(|node| node.node);
    if host == Some(view.node) && !backend.draining() {
        return None;
    }
    let mut others = host.into_iter().chain(staying).filter(|node| *node != view.node);
    others.find_map(|node| Some((node, redirect_url(view, node, peer)?)))
}

/// Where to send a third-party player, if it can get there.
pub(super) fn redirect_url(view: &ClusterView, to: NodeId, peer: Option<&Peer>) -> Option<String> {
    let node = view.nodes.iter().find(|node| node.node == to)?;
    let local = peer.is_some_and(|peer| peer.address.ip().to_canonical().is_loopback());
    // An address on loopback is another machine's own: only its neighbours can follow.
    let address = node.addrs.iter().find(|address| local || !is_loopback(address))?;
    Some(web_url(address))
}

fn redirect(
    backend: &dyn Backend,
    url: &str,
    name: &str,
    to: NodeId,
    encoder: EncoderId,
    principal: &Principal,
) -> Response {
    let token = backend.redirect_token(to, encoder, "view", principal);
    let token: String = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
    let location = format!("{url}/whep/{}?rt={token}", in_path(name));
    let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// What absolute URLs of `node` begin with: for this node, as the client addressed it.
pub(super) fn base_url(view: &ClusterView, node: NodeId, parts: &Parts) -> String {
    let asked = parts
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
    if let (true, Some(host)) = (node == view.node, asked) {
        let secure = parts.extensions.get::<Peer>().is_some_and(|peer| peer.secure);
        return format!("{}://{host}", if secure { "https" } else { "http" });
    }
    let address = view.nodes.iter().find(|of| of.node == node).and_then(|of| of.addrs.first());
    address.map(|address| web_url(address)).unwrap_or_default()
}
