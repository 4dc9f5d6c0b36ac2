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
    /// What is there is not to be trusted.
    #[error("{0}")]
    Failed(String),
    /// The node went away with the request: it was done, or it was not.
    #[error("the connection broke after the request was sent ({0}): it may have been done")]
    Uncertain(String),
}

/// What a node answered, and of which mesh it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The answer, whatever its status.
    pub response: ApiResponse,
    /// The mesh.
    pub mesh: MeshId,
    /// Other nodes of it that are up, `host:port`.
    pub nodes: Vec<String>,
}

/// Asks the mesh at `target`, by whichever of its nodes answers first in order. What was pinned
/// before must still be there; what is found the first time is pinned.
///
/// A request other than `GET` is not repeated at another node once it was sent, since it may have
/// been done: the error says so. Without a credential the node is asked on nobody's behalf.
pub async fn call(
    endpoint: &ClientEndpoint,
    target: &Target,
    pins: &mut ClientPins,
    agent: &str,
    request: ApiRequest,
) -> Result<Answered, ApiError> {
    let hello = ClientHello {
        agent: agent.to_owned(),
        version: env!("CARGO_PKG_VERSION").into(),
        credential: target.credential.clone(),
        only_api: true,
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
        let (connection, mesh) = (connected.connection.clone(), connected.mesh);
        let result = ask(connected, &request, &mut left).await;
        connection.close(close::DONE, b"done");
        match result {
            Ok((response, nodes)) => return Ok(Answered { response, mesh, nodes }),
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
) -> Result<(ApiResponse, Vec<String>), Asked> {
    let peers = welcome(&mut connected.recv).await?;
    let others = peers.nodes.iter().filter(|peer| peer.up && peer.node != connected.node);
    let others: Vec<_> = others.flat_map(|peer| peer.addrs.iter().cloned()).collect();
    left.extend(others.iter().cloned());
    let (send, recv) =
        connected.connection.open_bi().await.map_err(|error| Asked::Next(error.to_string()))?;
    let (mut send, mut recv) = (MessageWriter::new(send), MessageReader::new(recv));
    recv.trust();
    send.write(&ApiMessage::Request(request.clone())).await.map_err(Asked::Next)?;
    send.finish();
    match recv.read_within(ANSWER_TIMEOUT).await {
        Ok(ApiMessage::Response(response)) => Ok((response, others)),
        Ok(ApiMessage::Request(_)) => Err(Asked::Next("a request came for an answer".into())),
        Err(error) if request.method == "GET" => Err(Asked::Next(error.to_string())),
        Err(error) => Err(Asked::Final(ApiError::Uncertain(error.to_string()))),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arc_swap::ArcSwap;

    use super::*;
    use crate::admission::{Keypair, Roster};
    use crate::id::{Boot, NodeId};
    use crate::net::transport::udp_socket;
    use crate::net::{ClientConn, Net, NetConfig, NetEvent, UdpPort};
    use crate::wire::{ClientMessage, Failed, Peer, Welcome};

    /// A node that knows one credential, and answers with its name and the request's path.
    fn serve(
        name: &'static str,
        credential: Option<&'static str>,
        peers: Vec<Peer>,
    ) -> (Net, String) {
        let keypair = Keypair::from_seed([1; 32]);
        let roster = Roster::found(&keypair, [1; 16]);
        let (net, mut events, _) = Net::open(NetConfig {
            port: UdpPort::Open(udp_socket("127.0.0.1:0".parse().unwrap()).unwrap()),
            keypair,
            boot: Boot(1),
            name: name.into(),
            addrs: vec![],
            roster: Arc::new(ArcSwap::from_pointee(roster)),
        })
        .unwrap();
        let addr = net.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let NetEvent::Client(client) = event else { panic!("a client was expected") };
                tokio::spawn(attend(client, name, credential, PeerList { nodes: peers.clone() }));
            }
        });
        (net, addr)
    }

    async fn attend(
        mut client: ClientConn,
        name: &str,
        credential: Option<&str>,
        peers: PeerList,
    ) -> Result<(), String> {
        let words = |error: ReceiveError| error.to_string();
        let ClientMessage::Hello(hello) = client.recv.read().await.map_err(words)? else {
            return Err("no hello".into());
        };
        if name == "full" {
            let goodbye = crate::wire::Goodbye { reason: "no room".into() };
            client.send.write(&NodeMessage::Goodbye(goodbye)).await?;
            client.connection.closed().await;
            return Ok(());
        }
        if hello.credential.as_deref() != credential {
            let no = Failed { status: 401, reason: "unknown credential".into(), retry_after: None };
            client.send.write(&NodeMessage::Failed(no)).await?;
            client.connection.closed().await;
            return Ok(());
        }
        client.send.write(&NodeMessage::Welcome(Welcome { peers })).await?;
        let (send, recv) = client.connection.accept_bi().await.map_err(|e| e.to_string())?;
        let (mut send, mut recv) = (MessageWriter::new(send), MessageReader::new(recv));
        let ApiMessage::Request(request) = recv.read().await.map_err(words)? else {
            return Err("no request".into());
        };
        if name == "dying" {
            client.connection.close(close::GOING, b"dead");
            return Ok(());
        }
        let headers = request.headers.clone();
        let body = format!("{name} {} {}", request.method, request.path).into_bytes();
        send.write(&ApiMessage::Response(ApiResponse { status: 200, headers, body })).await?;
        send.finish();
        client.connection.closed().await;
        Ok(())
    }

    fn request(method: &str) -> ApiRequest {
        let headers = vec![("if-match".to_owned(), "x".to_owned())];
        ApiRequest { method: method.into(), path: "/api/v1/cluster".into(), headers, body: vec![] }
    }

    async fn body(target: &Target, method: &str) -> Result<String, ApiError> {
        let endpoint = ClientEndpoint::new().unwrap().with_tokens(target.tokens.clone());
        let mut pins = ClientPins::in_memory();
        let Answered { response, mesh: found, .. } =
            call(&endpoint, target, &mut pins, "test", request(method)).await?;
        assert_eq!((found, &response.headers), (mesh(), &request(method).headers));
        assert_eq!(pins.expected(target), target.mesh.or(Some(mesh())));
        Ok(String::from_utf8(response.body).unwrap())
    }

    fn mesh() -> MeshId {
        Roster::found(&Keypair::from_seed([1; 32]), [1; 16]).mesh()
    }

    fn target(addrs: &[&str]) -> Target {
        let addrs = addrs.iter().map(|addr| addr.to_string()).collect();
        Target { addrs, mesh: None, credential: None, tokens: [].into() }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_goes_on_to_the_next_node_and_to_those_it_hears_of() {
        let (_good_node, good) = serve("good", None, vec![]);
        let (_full_node, full) = serve("full", None, vec![]);
        let answered = body(&target(&[&full, &good]), "GET").await;
        assert_eq!(answered.as_deref(), Ok("good GET /api/v1/cluster"));

        let addrs = vec![good.clone()];
        let peer = Peer {
            node: NodeId([8; 16]),
            name: "good".into(),
            addrs,
            up: true,
            draining: false,
            later: crate::grow::Later::default(),
        };
        let (_dying_node, dying) = serve("dying", None, vec![peer]);
        let answered = body(&target(&[&dying]), "GET").await;
        assert_eq!(answered.as_deref(), Ok("good GET /api/v1/cluster"));
        // What may have been done is not done again.
        let answered = body(&target(&[&dying, &good]), "DELETE").await;
        assert!(matches!(&answered, Err(ApiError::Uncertain(_))), "{answered:?}");

        let answered = body(&target(&[&full]), "GET").await;
        assert!(matches!(&answered, Err(ApiError::NoNodeAnswered(why)) if why[0].contains("room")));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_refused_client_is_told_so_and_a_wrong_mesh_gets_no_credential() {
        let (_node, addr) = serve("strict", Some("secret"), vec![]);
        let mut target = target(&[&addr]);
        let answered = body(&target, "GET").await;
        assert_eq!(answered, Err(ApiError::NotAllowed("unknown credential".into())));
        target.credential = Some("secret".into());
        target.mesh = Some(mesh());
        assert_eq!(body(&target, "GET").await.as_deref(), Ok("strict GET /api/v1/cluster"));
        target.mesh = Some(MeshId([7; 16]));
        let answered = body(&target, "GET").await;
        assert!(matches!(&answered, Err(ApiError::Failed(why)) if why.contains("trusted")));
        target.credential = None;
        target.mesh = None;
        for (of, answer) in [(MeshId([7; 16]), false), (mesh(), true)] {
            target.tokens = [(of, "secret".to_owned())].into();
            assert_eq!(body(&target, "GET").await.is_ok(), answer, "a token goes to its own mesh");
        }
        target.tokens.clear();

        let endpoint = ClientEndpoint::new().unwrap();
        let mut pins = ClientPins::in_memory();
        target.mesh = None;
        pins.remember(&addr, MeshId([7; 16])).unwrap();
        let answered = call(&endpoint, &target, &mut pins, "test", request("GET")).await;
        assert!(
            matches!(&answered, Err(ApiError::Failed(why)) if why.contains("was there before"))
        );
    }
}
