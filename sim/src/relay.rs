//! Streams between nodes, as `node::relay` carries them.

use std::collections::{BTreeMap, BTreeSet};

use roost::id::{EncoderId, NodeId};
use roost::wire::{Ended, FlowRef, FlowViewers, MediaMessage, Subscribe, Unsubscribe};

use crate::conn::{Cargo, ConnId, End, Kind};
use crate::links::HANDSHAKE;
use crate::media::{Hub, Receiver};
use crate::net::MS;
use crate::node::LOOP_LATE;
use crate::world::{Ev, World};

/// Waits between attempts to get a media connection.
const RETRY: u64 = 100 * MS;
/// A stream that the other side ended is asked for again after this long.
const SUBSCRIBE_AGAIN: u64 = 500 * MS;
/// A stream that comes from elsewhere now is taken from the node before for this long as well.
const LET_GO: u64 = 1000 * MS;

/// Where a stream is relayed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) via: usize,
    pub(crate) feed: u64,
    pub(crate) timeline: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Relay {
    sources: BTreeMap<EncoderId, Source>,
    downstream: BTreeMap<EncoderId, BTreeSet<NodeId>>,
    vias: BTreeMap<usize, Via>,
    given: BTreeMap<(ConnId, u32), (EncoderId, Vec<NodeId>)>,
    last_flow: u32,
}

/// Another node that streams are taken from.
#[derive(Debug, Default)]
struct Via {
    conn: Option<ConnId>,
    dialling: bool,
    flows: BTreeMap<u32, (EncoderId, Source)>,
}

impl Via {
    fn flow_of(&self, encoder: EncoderId) -> Option<u32> {
        self.flows.iter().find(|(_, (of, _))| *of == encoder).map(|(&flow, _)| flow)
    }
}

impl World {
    /// One that is still `watched` here, since it comes from elsewhere now, is taken from where it
    /// came for a moment.
    pub(crate) fn relay_route(
        &mut self,
        ix: usize,
        encoder: EncoderId,
        source: Option<Source>,
        watched: bool,
    ) {
        let from = self.end_of(ix);
        let before = self.nodes[ix].relay.sources.remove(&encoder).map(|before| before.via);
        if let Some(before) = before.filter(|before| source.is_none_or(|s| s.via != *before)) {
            if watched {
                let event = Ev::LetGo { end: from, encoder, via: before };
                self.queue.push(self.now + LET_GO, event);
            } else {
                self.drop_flow(ix, encoder, before);
            }
        }
        let Some(source) = source else { return };
        self.drop_flow(ix, encoder, source.via);
        let relay = &mut self.nodes[ix].relay;
        relay.sources.insert(encoder, source);
        relay.last_flow += 1;
        let flow = relay.last_flow;
        let via = relay.vias.entry(source.via).or_default();
        via.flows.insert(flow, (encoder, source));
        if via.conn.is_some() {
            self.subscribe(ix, source.via, flow);
        } else if !via.dialling {
            via.dialling = true;
            self.media_dial(from, source.via);
        }
    }

    /// A node that a stream was taken from is let go, if it is not taken from there again.
    pub(crate) fn let_go(&mut self, ix: usize, encoder: EncoderId, via: usize) {
        if self.nodes[ix].relay.sources.get(&encoder).is_none_or(|source| source.via != via) {
            self.drop_flow(ix, encoder, via);
        }
    }

    fn drop_flow(&mut self, ix: usize, encoder: EncoderId, from: usize) {
        if let Some(via) = self.nodes[ix].relay.vias.get_mut(&from)
            && let Some(flow) = via.flow_of(encoder)
        {
            via.flows.remove(&flow);
            self.tell_via(ix, from, MediaMessage::Unsubscribe(Unsubscribe { flow }));
        }
    }

    fn tell_via(&mut self, ix: usize, via: usize, message: MediaMessage) {
        if let Some(conn) = self.nodes[ix].relay.vias.get(&via).and_then(|via| via.conn) {
            self.send(conn, 0, Cargo::Media(message));
        }
    }

    pub(crate) fn subscribe(&mut self, ix: usize, via: usize, flow: u32) {
        let me = self.nodes[ix].id;
        let node = &self.nodes[ix];
        let Some((encoder, _)) = node.relay.vias.get(&via).and_then(|via| via.flows.get(&flow))
        else {
            return;
        };
        let encoder = *encoder;
        let downstream = node.relay.downstream.get(&encoder).into_iter().flatten().copied();
        let hops = std::iter::once(me).chain(downstream).collect();
        let viewers = node.hubs.get(&encoder).map_or(0, Hub::viewers);
        let wish = Subscribe { encoder, flow, hops, viewers };
        self.tell_via(ix, via, MediaMessage::Subscribe(wish));
    }

    pub(crate) fn media_dial(&mut self, from: End, via: usize) {
        let ix = from.host;
        let Some(state) = self.nodes[ix].relay.vias.get_mut(&via) else { return };
        if state.flows.is_empty() {
            state.dialling = false;
            return;
        }
        if !self.nodes[ix].links.contains_key(&via) {
            self.queue.push(self.now + RETRY, Ev::MediaDial { from, via });
        } else if self.reach(ix, via) {
            let delay = (0..4).map(|_| self.net.delay_reliable(ix, via)).sum::<u64>();
            self.queue.push(self.now + delay, Ev::MediaUp { from, to: via });
        } else {
            self.queue.push(self.now + HANDSHAKE + RETRY, Ev::MediaDial { from, via });
        }
    }

    pub(crate) fn media_up(&mut self, from: End, to: usize) {
        if !self.lives(from) {
            return;
        }
        if !self.reach(from.host, to) {
            self.queue.push(self.now + HANDSHAKE + RETRY, Ev::MediaDial { from, via: to });
            return;
        }
        let acceptor = self.end_of(to);
        let conn = self.connect(Kind::Media, from, acceptor);
        let Some(via) = self.nodes[from.host].relay.vias.get_mut(&to) else { return };
        via.conn = Some(conn);
        via.dialling = false;
        for flow in via.flows.keys().copied().collect::<Vec<_>>() {
            self.subscribe(from.host, to, flow);
        }
    }

    pub(crate) fn media_cargo(&mut self, id: ConnId, side: usize, cargo: Cargo) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (ix, peer) = (conn.ends[side].host, conn.ends[1 - side].host);
        match cargo {
            Cargo::Media(message) if side == 1 => self.give(ix, id, message),
            Cargo::Media(MediaMessage::Ended(ended)) => {
                let event =
                    Ev::SubscribeAgain { end: self.end_of(ix), via: peer, flow: ended.flow };
                self.queue.push(self.now + SUBSCRIBE_AGAIN, event);
            }
            // This node stood still: what waited in its socket is old.
            Cargo::Picture(..) if self.now - self.nodes[ix].turned > LOOP_LATE => {}
            Cargo::Picture(flow, frame) => {
                let relay = &self.nodes[ix].relay;
                let Some(&(encoder, source)) =
                    relay.vias.get(&peer).and_then(|via| via.flows.get(&flow))
                else {
                    return;
                };
                if encoder == frame.encoder && frame.timeline == source.timeline {
                    self.push_frame(ix, source.feed, frame);
                }
            }
            _ => {}
        }
    }

    /// What a node that takes streams from this one says.
    fn give(&mut self, ix: usize, conn: ConnId, message: MediaMessage) {
        let me = self.nodes[ix].id;
        match message {
            MediaMessage::Subscribe(wish) => {
                let via = self.nodes[ix].relay.sources.get(&wish.encoder).map(|s| s.via);
                let via = via.map(|via| self.nodes[via].id);
                let loops =
                    via.is_some_and(|via| wish.hops.contains(&me) || wish.hops.contains(&via));
                if loops {
                    let reason = "it comes from there".to_owned();
                    let ended = MediaMessage::Ended(Ended { flow: wish.flow, reason });
                    self.send(conn, 1, Cargo::Media(ended));
                    return;
                }
                let relay = &mut self.nodes[ix].relay;
                relay.downstream.entry(wish.encoder).or_default().extend(&wish.hops);
                relay.given.insert((conn, wish.flow), (wish.encoder, wish.hops));
                let receiver = Receiver::Flow(conn, wish.flow);
                self.subscribe_here(ix, wish.encoder, receiver, wish.viewers);
            }
            MediaMessage::Unsubscribe(Unsubscribe { flow }) => self.stop_giving(ix, conn, flow),
            MediaMessage::Keyframe(FlowRef { flow }) => {
                if let Some((encoder, _)) = self.nodes[ix].relay.given.get(&(conn, flow)) {
                    let event = Ev::KeyframeWanted { end: self.end_of(ix), encoder: *encoder };
                    self.hub_event(ix, event);
                }
            }
            MediaMessage::FlowViewers(FlowViewers { flow, viewers }) => {
                let Some((encoder, _)) = self.nodes[ix].relay.given.get(&(conn, flow)) else {
                    return;
                };
                let encoder = *encoder;
                if let Some(hub) = self.nodes[ix].hubs.get_mut(&encoder) {
                    hub.set_viewers(Receiver::Flow(conn, flow), viewers);
                    let event = Ev::Viewers { end: self.end_of(ix), encoder };
                    self.hub_event(ix, event);
                }
            }
            MediaMessage::Ended(_) => {}
        }
    }

    fn stop_giving(&mut self, ix: usize, conn: ConnId, flow: u32) {
        let relay = &mut self.nodes[ix].relay;
        let Some((encoder, hops)) = relay.given.remove(&(conn, flow)) else { return };
        if let Some(nodes) = relay.downstream.get_mut(&encoder) {
            nodes.retain(|node| !hops.contains(node));
        }
        self.unsubscribe(ix, encoder, Receiver::Flow(conn, flow));
    }

    /// A media connection is gone at this side.
    pub(crate) fn media_gone(&mut self, end: End, peer: usize, id: ConnId, side: usize) {
        let ix = end.host;
        if side == 1 {
            let flows: Vec<u32> = {
                let given = self.nodes[ix].relay.given.range((id, 0)..=(id, u32::MAX));
                given.map(|((_, flow), _)| *flow).collect()
            };
            for flow in flows {
                self.stop_giving(ix, id, flow);
            }
            return;
        }
        if let Some(via) = self.nodes[ix].relay.vias.get_mut(&peer)
            && via.conn == Some(id)
        {
            via.conn = None;
            via.dialling = true;
            self.queue.push(self.now, Ev::MediaDial { from: end, via: peer });
        }
    }

    pub(crate) fn relay_keyframe(&mut self, ix: usize, encoder: EncoderId) {
        if let Some((via, flow)) = self.taken(ix, encoder) {
            self.tell_via(ix, via, MediaMessage::Keyframe(FlowRef { flow }));
        }
    }

    pub(crate) fn relay_viewers(&mut self, ix: usize, encoder: EncoderId, viewers: u32) {
        if let Some((via, flow)) = self.taken(ix, encoder) {
            self.tell_via(ix, via, MediaMessage::FlowViewers(FlowViewers { flow, viewers }));
        }
    }

    fn taken(&self, ix: usize, encoder: EncoderId) -> Option<(usize, u32)> {
        let relay = &self.nodes[ix].relay;
        let via = relay.sources.get(&encoder)?.via;
        Some((via, relay.vias.get(&via)?.flow_of(encoder)?))
    }
}
