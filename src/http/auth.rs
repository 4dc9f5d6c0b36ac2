//! Who asks: every handler that shows or changes anything takes a [`Caller`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};

use super::backend::{Backend, Principal};
use super::problem::Problem;
use crate::access::{Right, Scope, Who};

/// The connection that a request came over; put into its extensions by the listener.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The other side.
    pub address: SocketAddr,
    /// Inside TLS.
    pub secure: bool,
}

/// A request's sender, authorised. Native clients' requests carry their [`Principal`] as an
/// extension, set by the node when they connected; nothing from the network can set it.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// From where; `None` at the node's socket.
    pub peer: Option<Peer>,
}

impl<S> FromRequestParts<S> for Caller
where
    S: Send + Sync,
    Arc<dyn Backend>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let backend = Arc::<dyn Backend>::from_ref(state);
        authorise(&*backend, parts)
    }
}

impl Caller {
    /// Refuses whoever lacks this right, with what it takes. Only for what they may know of.
    pub(super) fn needs(
        &self,
        backend: &dyn Backend,
        right: Right,
        scope: Scope,
    ) -> Result<(), Problem> {
        if backend.rights().may(&self.principal.who, right, scope) {
            return Ok(());
        }
        let whole = match scope {
            Scope::Mesh => "the mesh",
            Scope::Domain(_) => "its domain",
            Scope::Encoder(_) => "this encoder",
        };
        let detail = format!("this takes the role {} in {whole}", right.role());
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }
}

/// Finds out who sent a request, or says why that is nobody.
pub(super) fn authorise(backend: &dyn Backend, parts: &Parts) -> Result<Caller, Problem> {
    let peer = parts.extensions.get::<Peer>().copied();
    if let Some(principal) = parts.extensions.get::<Principal>() {
        if principal.who == Who::Nobody {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "a credential is needed: log in (roost login), or use an enrolment string",
            ));
        }
        // Since its connection was made, it may have become nobody.
        if !backend.rights().stands(principal, backend.mesh_ms()) {
            let detail = "what this connection showed is not good any more; log in again";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, detail));
        }
        return Ok(Caller { principal: principal.clone(), peer });
    }
    let Some(peer) = peer else {
        return Err(Problem::new(StatusCode::FORBIDDEN, "the request's origin is unknown"));
    };
    let token = token(&parts.headers, &parts.uri);
    if token.is_none() {
        check_browser(backend, &parts.headers)?;
    }
    let principal = backend.authorise(peer.address.ip().to_canonical(), token.as_deref())?;
    Ok(Caller { principal, peer: Some(peer) })
}

/// Without a credential a browser on this machine acts for whatever page it shows. So a page's
/// origin must be this machine or a node of the mesh, and so must the name by which the node was
/// addressed: a foreign name may resolve to loopback.
fn check_browser(backend: &dyn Backend, headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or("?"));
    let origin_host = origin.map(|origin| origin.split_once("://").map_or("?", |(_, host)| host));
    for (what, host) in [("host", host), ("origin", origin_host)] {
        let Some(host) = host else { continue };
        if !is_ours(backend, strip_port(host)) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                format!(
                    "the request's {what} is neither this machine nor a node of the mesh; \
                     open the node by its own address, or send a credential"
                ),
            ));
        }
    }
    Ok(())
}

fn is_ours(backend: &dyn Backend, host: &str) -> bool {
    if host.eq_ignore_ascii_case("localhost") || is_loopback(host) {
        return true;
    }
    let view = backend.view();
    let mut addresses = view.nodes.iter().flat_map(|node| &node.addrs);
    addresses.any(|address| strip_port(address).eq_ignore_ascii_case(host))
}

fn is_loopback(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// `host:port` without the port; IPv6 literals keep their brackets.
pub(super) fn strip_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

fn token(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned());
    bearer.or_else(|| query_value(uri, "token"))
}

/// The first value of a query parameter, decoded.
pub(super) fn query_value(uri: &Uri, name: &str) -> Option<String> {
    url::form_urlencoded::parse(uri.query()?.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// All values of a query parameter.
pub(super) fn query_values(uri: &Uri, name: &str) -> Vec<String> {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    pairs.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_told_from_an_address() {
        for (authority, host) in [
            ("n1:9443", "n1"),
            ("n1", "n1"),
            ("[::1]:9443", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
        ] {
            assert_eq!(strip_port(authority), host);
        }
        assert!(is_loopback("[::1]") && is_loopback("127.3.2.1") && !is_loopback("10.0.0.1"));
    }
}
