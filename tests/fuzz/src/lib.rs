//! Everything of Roost that reads bytes of strangers, as functions from bytes to nothing: a target
//! fails by panicking. The same functions are the targets of `cargo fuzz` and run over mutated
//! recordings in `tests/decoders.rs`.
//!
//! Beyond "no panic", a target checks what must hold of whatever was read: what was decoded
//! survives being encoded, numbers grow, limits hold.

pub mod chunks;
pub mod ledger;
pub mod machines;
pub mod media;
pub mod rehearsal;
pub mod trust;
pub mod web;

use roost::wire::{self, Message, WireError};

/// A target: its name, what it does with bytes, and inputs from which mutation starts.
pub struct Target {
    /// As in `fuzz_targets`.
    pub name: &'static str,
    /// Panics if something is wrong.
    pub run: fn(&[u8]),
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "wire", run: wire, seeds: rehearsal::messages },
    Target { name: "datagram", run: datagram, seeds: rehearsal::datagrams },
    Target { name: "node", run: machines::node, seeds: rehearsal::node_scripts },
    Target { name: "membership", run: machines::membership, seeds: rehearsal::member_scripts },
    Target { name: "directory", run: machines::directory, seeds: rehearsal::node_scripts },
    Target { name: "ledger", run: ledger::ledger, seeds: ledger::scripts },
    Target { name: "clients", run: machines::clients, seeds: rehearsal::client_scripts },
    Target { name: "admission", run: trust::admission, seeds: trust::chains },
    Target { name: "strings", run: trust::strings, seeds: trust::texts },
    Target { name: "rtp", run: media::rtp, seeds: media::packet_scripts },
    Target { name: "h264", run: media::h264, seeds: media::streams },
    Target { name: "sdp", run: web::sdp, seeds: web::offers },
    Target { name: "page", run: web::page, seeds: web::page_messages },
    Target { name: "gossip", run: web::gossip, seeds: web::gossip_messages },
    Target { name: "port", run: web::port, seeds: web::port_scripts },
];

/// Messages of every family, and their framing.
pub fn wire(data: &[u8]) {
    if let Some((prefix, _)) = data.split_first_chunk::<{ wire::LENGTH_PREFIX }>() {
        let length = wire::message_length(*prefix).unwrap_or(2);
        assert!((2..=wire::MAX_MESSAGE).contains(&length));
    }
    family::<wire::Handshake>(data);
    family::<wire::LinkMessage>(data);
    family::<wire::Ask>(data);
    family::<wire::Answer>(data);
    family::<wire::MediaMessage>(data);
    family::<wire::ClientMessage>(data);
    family::<wire::NodeMessage>(data);
    family::<wire::ApiMessage>(data);
}

fn family<M: Message + PartialEq + std::fmt::Debug>(data: &[u8]) {
    match M::decode(data) {
        Ok(message) => {
            let bytes = message.encode();
            assert_eq!(M::decode(&bytes).as_ref(), Ok(&message));
            // A newer version appends fields.
            assert_eq!(M::decode(&[&bytes, data].concat()), Ok(message));
        }
        Err(error) => assert_eq!(error == WireError::Truncated, data.len() < 2),
    }
}

/// Datagrams of native clients: the flow id, and heartbeats on flow 0.
pub fn datagram(data: &[u8]) {
    let Some((flow, body)) = wire::take_varint(data) else { return };
    let mut again = Vec::new();
    wire::put_varint(flow, &mut again);
    assert!(again.len() <= data.len() - body.len(), "the shortest form is written");
    assert_eq!(wire::take_varint(&again), Some((flow, &[][..])));
    if let Some(heartbeat) = wire::Heartbeat::decode(body) {
        assert_eq!(wire::Heartbeat::decode(&heartbeat.encode()[1..]), Some(heartbeat));
    }
}
