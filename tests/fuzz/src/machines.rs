//! The machines that are fed from the network, driven by scripts in virtual time.

use std::time::Duration;

use roost::control::{Control, Event};
use roost::directory::{self, Directory};
use roost::id::{Boot, NodeId, SessionId};
use roost::membership::{self, Membership};
use roost::session::leg::LegId;
use roost::session::{agent, viewer};
use roost::time::{Mono, Now};
use roost::wire::{LinkMessage, Message};

use super::{chunks, rehearsal};

/// Kinds of chunks of every script here.
pub mod kind {
    /// On an ordered stream.
    pub const MESSAGE: u8 = 0;
    /// In a datagram.
    pub const DATAGRAM: u8 = 1;
    /// On the ordered stream of a client.
    pub const CLIENT: u8 = 2;
    /// In a datagram of a client.
    pub const CLIENT_DATAGRAM: u8 = 3;
    /// A connection comes up.
    pub const UP: u8 = 4;
    /// A connection goes away.
    pub const DOWN: u8 = 5;
    /// Milliseconds pass; the chunk's first two bytes say how many.
    pub const WAIT: u8 = 6;
    /// How many there are.
    pub const COUNT: u8 = 7;
}

/// Chunks of one script that are played; what a script may cost.
const CHUNKS_MAX: usize = 200;
/// Wake-ups in one wait: a machine that always wants to be woken now would never end.
const WAKES_MAX: usize = 2000;

/// Plays the time that a [`kind::WAIT`] chunk asks for, calling `wake` whenever `due` says so.
fn wait<T>(
    machine: &mut T,
    now: &mut Mono,
    body: &[u8],
    due: impl Fn(&T) -> Option<Mono>,
    mut wake: impl FnMut(&mut T, Mono),
) {
    let ms = body.first_chunk::<2>().map_or(10, |bytes| u16::from_le_bytes(*bytes) % 5_000);
    let until = *now + Duration::from_millis(ms.into());
    for _ in 0..WAKES_MAX {
        let Some(at) = due(machine).filter(|at| *at <= until) else {
            *now = until;
            return;
        };
        // A driver is never called earlier than it asked, and time does not go back.
        *now = at.max(*now + Duration::from_micros(100));
        wake(machine, *now);
    }
    panic!("{WAKES_MAX} wake-ups within {ms} ms");
}

/// A whole node: links, datagrams, clients and their messages, as bytes.
pub fn node(data: &[u8]) {
    let mut out = Vec::new();
    let mut now = Mono(1_000_000_000);
    let at = |mono| Now { mono, wall: 1_800_000_000_000 };
    let (mut control, peer) = rehearsal::a_node(at(now), &mut out);
    let client = SessionId(1);
    let mut clients = 1;
    control.handle(at(now), Event::ClientOpened { session: client, local: true }, &mut out);
    let up = Event::LinkUp { node: peer, addrs: Vec::new(), learned: Vec::new(), wall: 0 };
    control.handle(at(now), up.clone(), &mut out);
    for (what, body) in chunks::read(data).take(CHUNKS_MAX) {
        out.clear();
        let event = match what % kind::COUNT {
            kind::MESSAGE => Event::Message(peer, body.to_vec()),
            kind::DATAGRAM => Event::Datagram(peer, body.to_vec()),
            kind::CLIENT => Event::ClientMessage(SessionId(clients), body.to_vec()),
            kind::CLIENT_DATAGRAM => Event::ClientDatagram(SessionId(clients), body.to_vec()),
            kind::UP if body.is_empty() => up.clone(),
            kind::UP => {
                clients += 1;
                Event::ClientOpened { session: SessionId(clients), local: body[0] < 128 }
            }
            kind::DOWN if body.is_empty() => Event::LinkDown(peer),
            kind::DOWN => Event::ClientClosed(SessionId(clients)),
            _ => {
                wait(&mut control, &mut now, body, Control::next_wake, |control, now| {
                    control.handle(at(now), Event::Wake, &mut Vec::new());
                });
                continue;
            }
        };
        control.handle(at(now), event, &mut out);
    }
    let view = control.view();
    assert!(view.nodes.len() <= membership::MEMBERS_MAX);
    assert!(serde_json::to_vec(&view).is_ok());
}

/// Membership alone, with three members that speak to it.
pub fn membership(data: &[u8]) {
    let mut out = Vec::new();
    let mut now = Mono(1_000_000_000);
    let at = |mono| Now { mono, wall: 0 };
    let peers = rehearsal::members();
    let mut machine = Membership::new(peers[0].clone(), at(now), [7; 32], &mut out);
    for (what, body) in chunks::read(data).take(CHUNKS_MAX) {
        out.clear();
        let (who, body) = body.split_first().map_or((1, body), |(who, body)| (*who, body));
        let from = peers[usize::from(who) % peers.len()].node;
        let event = match what % kind::COUNT {
            kind::MESSAGE => membership::Event::State { from, bytes: body.to_vec(), reply: true },
            kind::DATAGRAM => membership::Event::Datagram { from, bytes: body.to_vec() },
            kind::UP => membership::Event::Linked(from),
            kind::DOWN => membership::Event::Unlinked(from),
            kind::CLIENT => {
                membership::Event::Rtt(vec![(from, Duration::from_millis(u64::from(who) * 8))])
            }
            kind::CLIENT_DATAGRAM => membership::Event::Leave,
            _ => {
                wait(&mut machine, &mut now, body, Membership::next_wake, |machine, now| {
                    machine.handle(at(now), membership::Event::Wake, &mut Vec::new());
                });
                continue;
            }
        };
        machine.handle(at(now), event, &mut out);
        for effect in &out {
            if let membership::Effect::Datagram { bytes, .. } = effect {
                assert!(bytes.len() <= membership::PACKET_MAX);
            }
        }
    }
    assert!(machine.peers().count() <= membership::MEMBERS_MAX);
}

/// The directory alone: whatever decodes, also of nodes that nobody admitted.
pub fn directory(data: &[u8]) {
    let mut out = Vec::new();
    let now = Now { mono: Mono(1_000_000_000), wall: 0 };
    let (me, peer) = (NodeId([1; 16]), rehearsal::second());
    let mut machine = Directory::new(me, Boot(1));
    machine.handle(now, directory::Event::Linked(peer), &mut out);
    for (_, body) in chunks::read(data).take(CHUNKS_MAX) {
        let event = match LinkMessage::decode(body) {
            Ok(LinkMessage::DirectoryDelta(delta)) => directory::Event::Delta { from: peer, delta },
            Ok(LinkMessage::DirectoryDigest(digest)) => {
                directory::Event::Digest { from: peer, digest }
            }
            _ => directory::Event::Wake,
        };
        out.clear();
        machine.handle(now, event, &mut out);
        machine.flush(&mut out);
        for effect in out.drain(..) {
            let message = match effect {
                directory::Effect::Delta { delta, .. } => LinkMessage::DirectoryDelta(delta),
                directory::Effect::Digest { digest, .. } => LinkMessage::DirectoryDigest(digest),
                _ => continue,
            };
            assert!(message.encode().len() <= roost::wire::MAX_MESSAGE);
        }
    }
    for encoder in machine.encoders().collect::<Vec<_>>() {
        let claimed = machine.claims(encoder).map(|(_, entry)| entry.epoch).max();
        assert!(claimed <= Some(machine.floor(encoder)));
    }
}

/// The clients' machines, an agent and a viewer, fed with what nodes say.
pub fn clients(data: &[u8]) {
    an_agent(data);
    a_viewer(data);
}

fn an_agent(data: &[u8]) {
    use agent::{Agent, Effect, Event};
    let mut out = Vec::new();
    let mut now = Mono(1_000_000_000);
    let mut machine = Agent::new(rehearsal::agent_config(), &mut out);
    machine.handle(now, Event::Wake, &mut out);
    let mut dialled = vec![LegId(1)];
    let mut last_epoch = machine.epoch();
    for (what, body) in chunks::read(data).take(CHUNKS_MAX) {
        for effect in out.drain(..) {
            match effect {
                Effect::Dial { leg, .. } => dialled.push(leg),
                Effect::Lease(counter) => {
                    machine.handle(now, Event::Leased(counter), &mut Vec::new());
                }
                _ => {}
            }
        }
        let (who, body) = body.split_first().map_or((0, body), |(who, body)| (*who, body));
        let leg = dialled[usize::from(who) % dialled.len()];
        let event = match what % kind::COUNT {
            kind::MESSAGE | kind::CLIENT => Event::Message(leg, body.to_vec()),
            kind::DATAGRAM | kind::CLIENT_DATAGRAM => Event::Datagram(leg, body.to_vec()),
            kind::UP => Event::Connected { leg, node: rehearsal::first_or_second(who) },
            kind::DOWN => Event::Closed { leg, reason: "gone".into() },
            _ => {
                wait(&mut machine, &mut now, body, Agent::next_wake, |machine, now| {
                    machine.handle(now, Event::Wake, &mut Vec::new());
                });
                continue;
            }
        };
        machine.handle(now, event, &mut out);
        assert!(machine.epoch() >= last_epoch, "an agent's epoch never falls");
        last_epoch = machine.epoch();
    }
}

fn a_viewer(data: &[u8]) {
    use viewer::{Effect, Event, Viewer};
    let mut out = Vec::new();
    let mut now = Mono(1_000_000_000);
    let mut machine = Viewer::new(rehearsal::viewer_config());
    machine.handle(now, Event::Wake, &mut out);
    let mut dialled = vec![LegId(1)];
    for (what, body) in chunks::read(data).take(CHUNKS_MAX) {
        for effect in out.drain(..) {
            if let Effect::Dial { leg, .. } = effect {
                dialled.push(leg);
            }
        }
        let (who, body) = body.split_first().map_or((0, body), |(who, body)| (*who, body));
        let leg = dialled[usize::from(who) % dialled.len()];
        let event = match what % kind::COUNT {
            kind::MESSAGE | kind::CLIENT => Event::Message(leg, body.to_vec()),
            kind::DATAGRAM if body.is_empty() => Event::Fresh(leg),
            kind::DATAGRAM | kind::CLIENT_DATAGRAM => Event::Datagram(leg, body.to_vec()),
            kind::UP => Event::Connected { leg, node: rehearsal::first_or_second(who) },
            kind::DOWN => Event::Closed { leg, reason: "gone".into() },
            _ => {
                wait(&mut machine, &mut now, body, Viewer::next_wake, |machine, now| {
                    machine.handle(now, Event::Wake, &mut Vec::new());
                });
                continue;
            }
        };
        machine.handle(now, event, &mut out);
    }
}
