//! The HTTP API over a native connection: same routes, same fields, no web certificate.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::timeout;

use super::dial::{ClientEndpoint, ClientPins, Connected, DialError, Target};
use crate::id::MeshId;
use crate::net::{MessageReader, MessageWriter, ReceiveError, close};
use crate::wire::{ApiMessage, ApiRequest, ApiResponse, ClientHello, NodeMessage, PeerList};

/// How long a node may take to let a client in.
pub const WELCOME_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a node may take to answer a request: it may have to ask every other node first.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Addresses that are tried in all: those given, then those that a node names.
pub const TRIES_MAX: usize = 16;

/// Why a request was not answered as wished. Each kind has an exit code of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No address led to a node that answers.
    #[error("no node answers: {}", .0.join("; "))]
    NoNodeAnswered(Vec<String>),
    /// A node answered that this client may not.
    #[error("not allowed: {0}")]
    NotAllowed(String),
    /// A node answered that it cannot, or what is there is not to be trusted.
    #[error("{0}")]
    Failed(String),
}

/// Asks the mesh at `target`, by whichever of its nodes answers first in order. What was pinned
/// before must still be there; what is found the first time is pinned.
///
/// A request other than `GET` is not repeated at another node once it was sent, since it may have
/// been done: the error says so.
pub async fn call(
    endpoint: &ClientEndpoint,
    target: &Target,
    pins: &mut ClientPins,
    agent: &str,
    request: ApiRequest,
) -> Result<ApiResponse, ApiError> {
    let hello = ClientHello {
        agent: agent.to_owned(),
        version: env!("CARGO_PKG_VERSION").into(),
        credential: target.credential.clone(),
    };
    let mesh = pins.expected(target);
    let mut left: VecDeque<String> = target.addrs.iter().cloned().collect();
    let mut tried: Vec<String> = Vec::new();
    let mut reasons = Vec::new();
    while let Some(addr) = left.pop_front() {
        if tried.contains(&addr) || tried.len() >= TRIES_MAX {
            continue;
        }
        tried.push(addr.clone());
        let connected = match endpoint.connect(&addr, None, mesh, hello.clone()).await {
            Ok(connected) => connected,
            Err(DialError::Stranger(reason)) => {
                return Err(ApiError::Failed(wrong_mesh(&addr, mesh, target, &reason)));
            }
            Err(DialError::Refused(reason)) => return Err(ApiError::NotAllowed(reason)),
            Err(error) => {
                reasons.push(error.to_string());
                continue;
            }
        };
        if target.mesh.is_none()
            && let Err(error) = pins.remember(&addr, connected.mesh)
        {
            tracing::warn!("the mesh at {addr} cannot be remembered: {error}");
        }
        let connection = connected.connection.clone();
        let result = ask(connected, &request, &mut left).await;
        connection.close(close::DONE, b"done");
        match result {
            Ok(response) => return judge(response),
            Err(Asked::Final(error)) => return Err(error),
            Err(Asked::Next(reason)) => reasons.push(format!("{addr}: {reason}")),
        }
    }
    Err(ApiError::NoNodeAnswered(reasons))
}

fn wrong_mesh(addr: &str, mesh: Option<MeshId>, target: &Target, reason: &str) -> String {
    match (mesh, target.mesh) {
        (Some(pinned), None) => format!(
            "the node at {addr} is not of mesh {pinned}, which was there before ({reason}); if the \
             mesh was made anew, forget the old one or use an enrolment string"
        ),
        _ => format!("the node at {addr} cannot be trusted: {reason}"),
    }
}

enum Asked {
    Next(String),
    Final(ApiError),
}

async fn ask(
    mut connected: Connected,
    request: &ApiRequest,
    left: &mut VecDeque<String>,
) -> Result<ApiResponse, Asked> {
    let peers = welcome(&mut connected.recv).await?;
    let others = peers.nodes.iter().filter(|peer| peer.up && peer.node != connected.node);
    left.extend(others.flat_map(|peer| peer.addrs.iter().cloned()));
    let (send, recv) =
        connected.connection.open_bi().await.map_err(|error| Asked::Next(error.to_string()))?;
    let (mut send, mut recv) = (MessageWriter::new(send), MessageReader::new(recv));
    recv.trust();
    send.write(&ApiMessage::Request(request.clone())).await.map_err(Asked::Next)?;
    send.finish();
    match recv.read_within(ANSWER_TIMEOUT).await {
        Ok(ApiMessage::Response(response)) => Ok(response),
        Ok(ApiMessage::Request(_)) => Err(Asked::Next("a request came for an answer".into())),
        Err(error) if request.method == "GET" => Err(Asked::Next(error.to_string())),
        Err(error) => Err(Asked::Final(ApiError::Failed(format!(
            "the connection broke after the request was sent ({error}); it may have been done: \
             look before you repeat it"
        )))),
    }
}

/// Waits to be let in. Ends the connection's first conversation: what else comes on it is for
/// sessions.
pub async fn welcome(recv: &mut MessageReader) -> Result<PeerList, WelcomeError> {
    let first = async {
        loop {
            match recv.read().await? {
                NodeMessage::Welcome(welcome) => return Ok(welcome.peers),
                NodeMessage::Failed(failed) if matches!(failed.status, 401 | 403) => {
                    return Err(WelcomeError::NotAllowed(failed.reason));
                }
                NodeMessage::Failed(failed) => return Err(WelcomeError::Elsewhere(failed.reason)),
                NodeMessage::Goodbye(goodbye) => {
                    return Err(WelcomeError::Elsewhere(goodbye.reason));
                }
                _ => {}
            }
        }
    };
    timeout(WELCOME_TIMEOUT, first)
        .await
        .unwrap_or_else(|_elapsed| Err(WelcomeError::Elsewhere("no welcome in time".into())))
}

/// Why a client was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WelcomeError {
    /// Not anywhere in this mesh.
    #[error("not allowed: {0}")]
    NotAllowed(String),
    /// Not here; another node may.
    #[error("{0}")]
    Elsewhere(String),
}

impl From<ReceiveError> for WelcomeError {
    fn from(error: ReceiveError) -> Self {
        Self::Elsewhere(error.to_string())
    }
}

impl From<WelcomeError> for Asked {
    fn from(error: WelcomeError) -> Self {
        match error {
            WelcomeError::NotAllowed(reason) => Self::Final(ApiError::NotAllowed(reason)),
            WelcomeError::Elsewhere(reason) => Self::Next(reason),
        }
    }
}

/// Turns refusals into errors; a problem document's own words are used if there are any.
fn judge(response: ApiResponse) -> Result<ApiResponse, ApiError> {
    if response.status < 400 {
        return Ok(response);
    }
    let problem: Option<serde_json::Value> = serde_json::from_slice(&response.body).ok();
    let words = problem.as_ref().and_then(|problem| {
        ["detail", "title", "error"].iter().find_map(|field| problem.get(field)?.as_str())
    });
    let words = words.map_or_else(|| format!("status {}", response.status), str::to_owned);
    Err(match response.status {
        401 | 403 => ApiError::NotAllowed(words),
        _ => ApiError::Failed(words),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_speaks_in_the_words_of_the_problem() {
        let answer = |status, body: &str| judge(ApiResponse { status, body: body.into() });
        assert!(answer(204, "").is_ok());
        assert_eq!(
            answer(403, r#"{"title":"Forbidden","detail":"ask an admin"}"#),
            Err(ApiError::NotAllowed("ask an admin".into()))
        );
        assert_eq!(answer(500, "<html>"), Err(ApiError::Failed("status 500".into())));
    }
}
