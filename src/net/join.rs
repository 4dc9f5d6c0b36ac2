//! The newcomer's side of joining a mesh.

use std::sync::Arc;

use tokio::time::timeout;

use super::dial::{connect_any, resolve};
use super::handshake::statement;
use super::message::{MessageReader, MessageWriter, ReceiveError, lost_reason};
use super::{HANDSHAKE_TIMEOUT, JOIN_TIMEOUT, close, close_with, tls, transport};
use crate::admission::{Invitation, Keypair, Refusal, verify_chain};
use crate::id::{MeshId, NodeId};
use crate::quic;
use crate::wire::{ALPN_JOIN, Admitted, Handshake, Join};

/// Why a node did not get in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// No address of the invitation answers.
    #[error("no address of the invitation answers: {}", .0.join("; "))]
    NoAnswer(Vec<String>),
    /// Whoever answers does not belong to the mesh of the invitation. Nothing was proved to it.
    #[error(
        "the node at {addr} cannot prove that it belongs to mesh {wanted} of the invitation \
         ({got}); nothing was sent to it: check the address, or ask for a new invitation"
    )]
    WrongMesh {
        /// Where.
        addr: String,
        /// What the invitation says.
        wanted: MeshId,
        /// What was found there.
        got: String,
    },
    /// The member's words.
    #[error("the node at {addr} refuses: {reason}")]
    Refused {
        /// Where.
        addr: String,
        /// In words.
        reason: String,
    },
    /// Something of our own is missing.
    #[error("cannot join: {0}")]
    Local(String),
}

/// How one address was tried in vain.
enum Tried {
    Unreachable(String),
    Final(JoinError),
}

/// Asks the members at the invitation's addresses, one after the other, to admit `keypair`.
/// Returns what the first that agrees says, and who it is. Uses an endpoint of its own, so that it
/// works before the node has opened its port; on `socket`, if there is one, instead of a port of
/// the system.
///
/// A member is checked up to the founder before anything is proved to it. Addresses that do not
/// answer, belong to someone else or refuse are passed over as long as there are others: a member
/// may not have heard yet of the one that made the invitation.
pub async fn join(
    invitation: &Invitation,
    keypair: &Keypair,
    socket: Option<Arc<dyn quic::AsyncUdpSocket>>,
) -> Result<(NodeId, Admitted), JoinError> {
    let local = |error: &dyn std::fmt::Display| JoinError::Local(error.to_string());
    let endpoint = match socket {
        None => transport::client_endpoint(),
        Some(socket) => transport::client_endpoint_on(socket),
    };
    let endpoint = endpoint.map_err(|error| local(&error))?;
    let config =
        transport::client_config(ALPN_JOIN, Some(keypair)).map_err(|error| local(&error))?;
    let mut unreachable = Vec::new();
    let mut refusal = None;
    for addr in &invitation.addrs {
        match join_at(&endpoint, &config, addr, invitation, keypair).await {
            // What is left to say goes out by itself: nobody waits for that.
            Ok(done) => return Ok(done),
            Err(Tried::Unreachable(reason)) => unreachable.push(reason),
            Err(Tried::Final(error)) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.unwrap_or(JoinError::NoAnswer(unreachable)))
}

async fn join_at(
    endpoint: &quic::Endpoint,
    config: &quic::ClientConfig,
    addr: &str,
    invitation: &Invitation,
    keypair: &Keypair,
) -> Result<(NodeId, Admitted), Tried> {
    let unreachable = |error: &dyn std::fmt::Display| Tried::Unreachable(error.to_string());
    let resolved = resolve(addr).await.map_err(|error| unreachable(&error))?;
    let connection =
        connect_any(endpoint, config, addr, resolved).await.map_err(|error| unreachable(&error))?;
    let result =
        timeout(HANDSHAKE_TIMEOUT + JOIN_TIMEOUT, converse(&connection, addr, invitation, keypair))
            .await
            .unwrap_or_else(|_elapsed| {
                Err(Tried::Unreachable(format!("{addr}: no answer to the join")))
            });
    let words = if result.is_ok() { "thank you" } else { "no" };
    close_with(&connection, close::DONE, words);
    result
}

async fn converse(
    connection: &quic::Connection,
    addr: &str,
    invitation: &Invitation,
    keypair: &Keypair,
) -> Result<(NodeId, Admitted), Tried> {
    let broke = |error: ReceiveError| Tried::Unreachable(format!("{addr}: {error}"));
    let refused =
        |reason: String| Tried::Final(JoinError::Refused { addr: addr.to_owned(), reason });
    let (send, recv) = match timeout(HANDSHAKE_TIMEOUT, connection.accept_bi()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(Tried::Unreachable(format!("{addr}: {}", lost_reason(&error))));
        }
        Err(_elapsed) => return Err(Tried::Unreachable(format!("{addr}: no hello in time"))),
    };
    let (mut writer, mut reader) = (MessageWriter::new(send), MessageReader::new(recv));
    let hello = match reader.read_within(HANDSHAKE_TIMEOUT).await.map_err(broke)? {
        Handshake::Hello(hello) => hello,
        Handshake::Refused(no) => return Err(refused(no.reason)),
        _ => return Err(Tried::Unreachable(format!("{addr}: no hello"))),
    };
    let wrong = |got: String| {
        let (addr, wanted) = (addr.to_owned(), invitation.mesh);
        Tried::Final(JoinError::WrongMesh { addr, wanted, got })
    };
    let key = tls::peer_key(connection).ok_or_else(|| wrong("it has no key".into()))?;
    let (_, member) = verify_chain(Some(invitation.mesh), &hello.chain, &hello.more.0, &key)
        .map_err(|refusal| match refusal {
            Refusal::OtherMesh { .. } => wrong(format!("it belongs to mesh {}", hello.mesh)),
            other => wrong(other.to_string()),
        })?;
    let statement = statement(connection, &keypair.public())
        .map_err(|reason| Tried::Final(JoinError::Local(reason)))?;
    let join = Join { invite: invitation.invite.clone(), proof: invitation.prove(&statement) };
    writer
        .write(&Handshake::Join(join))
        .await
        .map_err(|reason| Tried::Unreachable(format!("{addr}: {reason}")))?;
    writer.finish();
    // Verified: what it sends may be as large as a whole mesh.
    reader.trust();
    match reader.read().await {
        Ok(Handshake::Admitted(admitted)) => Ok((member, admitted)),
        Ok(Handshake::Refused(no)) => Err(refused(no.reason)),
        Ok(_) => Err(Tried::Unreachable(format!("{addr}: an unexpected answer"))),
        Err(error) => Err(broke(error)),
    }
}
