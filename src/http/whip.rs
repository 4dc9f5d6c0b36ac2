//! WHIP (RFC 9725): a publisher posts an offer, gets an answer, and its stream is an encoder of the
//! mesh. The node that is asked becomes its home: there is no better one for a client that knows
//! one address. Only a node that is about to go sends publishers on.

use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::auth::{Caller, Peer, query_value};
use super::backend::{Backend, Principal, Publication};
use super::body::read_text;
use super::leg::leaving;
use super::problem::Problem;
use super::whep::{base_url, check_is_offer, created, end, redirect_url, trickle};
use crate::access::{DEFAULT_DOMAIN_NAME, Right};
use crate::accounts::Kind;
use crate::cluster::{EncoderState, Liveness};
use crate::id::{EncoderId, valid_name};
use crate::session::host::AGENT_GONE;
use crate::webrtc::sdp::MAX_OFFER;

/// What redirect tokens of publishers are good for.
const VERB: &str = "publish";

/// `POST /whip/{encoder}`.
pub(super) async fn post(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let path = format!("/whip/{name}");
    publish(&app, DEFAULT_DOMAIN_NAME, &name, path, request).await
}

/// `POST /whip/{domain}/{encoder}`, and `POST /{domain}/{encoder}/whip`.
pub(super) async fn post_in_domain(
    State(app): State<App>,
    Path((domain, name)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let path = format!("/whip/{domain}/{name}");
    publish(&app, &domain, &name, path, request).await
}

async fn publish(
    app: &App,
    domain: &str,
    name: &str,
    path: String,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let backend = &app.backend;
    let encoder = identify(&**backend, domain, name);
    let token = query_value(&parts.uri, "rt");
    let bearer = encoder
        .zip(token.as_ref())
        .and_then(|(encoder, rt)| backend.check_redirect(rt, encoder, VERB));
    let principal = match bearer {
        Some(principal) => principal,
        None => super::auth::authorise(&**backend, &parts)?.principal,
    };
    check_is_offer(&parts)?;
    if !valid_name(name) {
        let words = "a name is 1 to 64 of a-z, 0-9, '.', '_' and '-'";
        return Err(Problem::new(StatusCode::BAD_REQUEST, words));
    }
    let encoder = encoder.ok_or_else(|| unknown(domain, name))?;
    may_publish(&**backend, &principal, encoder).map_err(|status| match status {
        StatusCode::NOT_FOUND => unknown(domain, name),
        _ => Problem::new(status, format!("{} may watch {name}, not send it", principal.name)),
    })?;
    let sdp = read_text(body, MAX_OFFER).await?;
    let peer = parts.extensions.get::<Peer>();
    let view = backend.view();
    if backend.draining() {
        // Redirected or not: whoever followed a redirect here would be sent on only once more.
        let stays = view
            .nodes
            .iter()
            .filter(|node| node.node != view.node && node.state == Liveness::Up && !node.draining);
        let elsewhere = stays.map(|node| node.node);
        let elsewhere = elsewhere.filter(|_| token.is_none());
        let found =
            elsewhere.into_iter().find_map(|node| Some((node, redirect_url(&view, node, peer)?)));
        let Some((node, url)) = found else {
            backend.webrtc().counters().leaving.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            return Err(leaving().into());
        };
        let token = backend.redirect_token(node, encoder, VERB, &principal);
        let token: String = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
        let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
        if let Ok(location) = HeaderValue::from_str(&format!("{url}{path}?rt={token}")) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        return Ok(response);
    }
    let holder = view.by_name(name).filter(|of| {
        let rights = backend.rights();
        of.id != encoder
            && of.home.is_some()
            && !(of.state == EncoderState::NoSignal && of.reason.as_deref() == Some(AGENT_GONE))
            && rights.domain_of(of.id) == rights.domain_of(encoder)
    });
    if let Some(holder) = holder {
        let words = format!(
            "another encoder ({}) is connected as {name}; stop it or choose another name",
            holder.id.short()
        );
        return Err(Problem::new(StatusCode::CONFLICT, words));
    }
    let remote = peer.map(|peer| peer.address);
    let publication = Publication { encoder, name: name.to_owned(), sdp, principal, remote };
    let answer = backend.clone().publish(publication)?;
    let location = format!("{}{path}/{}", base_url(&view, view.node, &parts), answer.leg);
    Ok(created(view.node, location, answer))
}

/// Which encoder a publisher of this name is: the one on record, or, in the domain of everything
/// without a record, one that follows from the name, so that it is the same at every node.
fn identify(backend: &dyn Backend, domain: &str, name: &str) -> Option<EncoderId> {
    let rights = backend.rights();
    let domain_id = rights.domain_named(domain)?;
    let recorded = rights.named(Kind::ENCODER, Some(domain_id), name).next();
    let derived = || (domain == DEFAULT_DOMAIN_NAME).then(|| derive(backend, domain, name));
    recorded.map(|record| EncoderId(record.0)).or_else(derived)
}

fn derive(backend: &dyn Backend, domain: &str, name: &str) -> EncoderId {
    let mut text = b"roost encoder 1".to_vec();
    text.extend_from_slice(&backend.view().mesh.0);
    text.extend_from_slice(domain.as_bytes());
    text.push(0);
    text.extend_from_slice(name.as_bytes());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
    let mut id = [0; 16];
    id.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    EncoderId(id)
}

/// Whether `principal` may send this stream, or the status that says how little it may.
pub(super) fn may_publish(
    backend: &dyn Backend,
    principal: &Principal,
    encoder: EncoderId,
) -> Result<(), StatusCode> {
    let rights = backend.rights();
    if rights.may_stream(&principal.who, Right::Publish, encoder) {
        Ok(())
    } else if rights.may_stream(&principal.who, Right::View, encoder) {
        Err(StatusCode::FORBIDDEN)
    } else {
        Err(StatusCode::NOT_FOUND)
    }
}

fn unknown(domain: &str, name: &str) -> Problem {
    let words = format!("no encoder \"{name}\" of the domain \"{domain}\" may be sent by you");
    Problem::new(StatusCode::NOT_FOUND, words)
}

/// `GET /whip/{encoder}`: nothing to see, on purpose (clients probe with it).
pub(super) async fn get(_caller: Caller) -> StatusCode {
    StatusCode::OK
}

/// `DELETE /whip/{encoder}/{leg}`: the unguessable URL is the credential.
pub(super) async fn delete(
    State(app): State<App>,
    Path((_name, leg)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    end(&app, &leg)
}

/// `DELETE /whip/{domain}/{encoder}/{leg}`.
pub(super) async fn delete_in_domain(
    State(app): State<App>,
    Path((_domain, _name, leg)): Path<(String, String, String)>,
) -> Result<StatusCode, Problem> {
    end(&app, &leg)
}

/// `PATCH /whip/{encoder}/{leg}`: candidates, which this side does not need.
pub(super) async fn patch(
    State(app): State<App>,
    Path((_name, leg)): Path<(String, String)>,
    request: Request,
) -> Result<StatusCode, Problem> {
    trickle(&app, &leg, request).await
}

/// `PATCH /whip/{domain}/{encoder}/{leg}`.
pub(super) async fn patch_in_domain(
    State(app): State<App>,
    Path((_domain, _name, leg)): Path<(String, String, String)>,
    request: Request,
) -> Result<StatusCode, Problem> {
    trickle(&app, &leg, request).await
}
