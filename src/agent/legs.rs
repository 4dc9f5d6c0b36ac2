//! A native client's connections: bytes in and out, nothing decided.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::dial::{ClientEndpoint, Connected};
use crate::id::{MeshId, NodeId};
use crate::net::{close, lost_reason};
use crate::quic;
use crate::session::leg::LegId;
use crate::wire::{ClientHello, FLOW_HEARTBEAT, FLOW_VIDEO, take_varint};

/// What waits for the client's loop; beyond it, streams wait and datagrams are dropped.
const IN_QUEUE: usize = 4096;
/// Messages that wait for one node.
const OUT_QUEUE: usize = 256;

/// What the connections bring.
pub(super) enum Input {
    Connected(LegId, NodeId, MeshId),
    Closed(LegId, String),
    Message(LegId, Vec<u8>),
    Heartbeat(LegId, Vec<u8>),
    Packet(LegId, Bytes),
}

/// All connections of one client.
pub(super) struct Legs {
    endpoint: ClientEndpoint,
    hello: ClientHello,
    /// Accepted from the first node on; every other must belong to it.
    pub(super) mesh: Option<MeshId>,
    legs: BTreeMap<LegId, Leg>,
    inputs: mpsc::Sender<Input>,
}

struct Leg {
    out: mpsc::Sender<Vec<u8>>,
    connection: std::sync::Arc<std::sync::OnceLock<quic::Connection>>,
    task: tokio::task::JoinHandle<()>,
}

impl Legs {
    pub(super) fn new(
        endpoint: ClientEndpoint,
        hello: ClientHello,
        mesh: Option<MeshId>,
    ) -> (Self, mpsc::Receiver<Input>) {
        let (inputs, inbox) = mpsc::channel(IN_QUEUE);
        (Self { endpoint, hello, mesh, legs: BTreeMap::new(), inputs }, inbox)
    }

    pub(super) fn dial(&mut self, id: LegId, node: Option<NodeId>, addr: String) {
        let (out, queue) = mpsc::channel(OUT_QUEUE);
        let connection = std::sync::Arc::new(std::sync::OnceLock::new());
        let task = tokio::spawn(run(
            id,
            self.endpoint.clone(),
            (addr, node, self.mesh, self.hello.clone()),
            connection.clone(),
            queue,
            self.inputs.clone(),
        ));
        self.legs.insert(id, Leg { out, connection, task });
    }

    pub(super) fn send(&self, id: LegId, bytes: Vec<u8>) {
        if let Some(leg) = self.legs.get(&id)
            && leg.out.try_send(bytes).is_err()
            && let Some(connection) = leg.connection.get()
        {
            connection.close(close::OVERFLOW, b"the node does not read");
        }
    }

    pub(super) fn datagram(&self, id: LegId, bytes: Vec<u8>) {
        if let Some(connection) = self.connection(id) {
            // One that does not fit is one that is lost.
            let _ = connection.send_datagram(bytes.into());
        }
    }

    pub(super) fn connection(&self, id: LegId) -> Option<quic::Connection> {
        self.legs.get(&id)?.connection.get().cloned()
    }

    pub(super) fn close(&mut self, id: LegId) {
        let Some(leg) = self.legs.remove(&id) else { return };
        match leg.connection.get().cloned() {
            None => leg.task.abort(),
            Some(connection) => {
                drop(leg.out);
                // What was said last, a goodbye most likely, still has to go out.
                tokio::spawn(async move {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    connection.close(close::DONE, b"done");
                });
            }
        }
    }

    pub(super) async fn shutdown(mut self) {
        for id in self.legs.keys().copied().collect::<Vec<_>>() {
            self.close(id);
        }
        tokio::time::sleep(std::time::Duration::from_millis(120)).await;
        self.endpoint.wait_idle().await;
    }
}

type Dial = (String, Option<NodeId>, Option<MeshId>, ClientHello);

async fn run(
    id: LegId,
    endpoint: ClientEndpoint,
    (addr, node, mesh, hello): Dial,
    slot: std::sync::Arc<std::sync::OnceLock<quic::Connection>>,
    mut queue: mpsc::Receiver<Vec<u8>>,
    inputs: mpsc::Sender<Input>,
) {
    let connected = match endpoint.connect(&addr, node, mesh, hello).await {
        Ok(connected) => connected,
        Err(error) => {
            let _ = inputs.send(Input::Closed(id, error.to_string())).await;
            return;
        }
    };
    let Connected { node, mesh, connection, mut send, mut recv, .. } = connected;
    let _ = slot.set(connection.clone());
    if inputs.send(Input::Connected(id, node, mesh)).await.is_err() {
        return;
    }
    let writer = tokio::spawn(async move {
        while let Some(bytes) = queue.recv().await {
            if send.write_bytes(&bytes).await.is_err() {
                return;
            }
        }
        send.finish();
    });
    let reader = {
        let inputs = inputs.clone();
        tokio::spawn(async move {
            recv.trust();
            while let Ok(bytes) = recv.read_bytes().await {
                if inputs.send(Input::Message(id, bytes)).await.is_err() {
                    return;
                }
            }
        })
    };
    let reason = loop {
        let datagram = match connection.read_datagram().await {
            Ok(datagram) => datagram,
            Err(error) => break lost_reason(&error),
        };
        let input = match take_varint(&datagram) {
            Some((FLOW_HEARTBEAT, body)) => Input::Heartbeat(id, body.to_vec()),
            Some((FLOW_VIDEO, packet)) => Input::Packet(id, datagram.slice_ref(packet)),
            Some(_) | None => continue,
        };
        // Full: the loop is behind, and a datagram may be lost.
        let _ = inputs.try_send(input);
    };
    reader.abort();
    writer.abort();
    let _ = inputs.send(Input::Closed(id, reason)).await;
}
