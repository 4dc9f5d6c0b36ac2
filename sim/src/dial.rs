//! How clients reach nodes: QUIC's handshake, the first packet of which is sent again until somebody
//! answers or it is too late.

use roost::id::NodeId;
use roost::session::leg::LegId;

use crate::client::Leg;
use crate::conn::{Cargo, End, Kind};
use crate::links::HANDSHAKE;
use crate::net::{MS, PROBE_FIRST};
use crate::node::index_of;
use crate::world::{Ev, World};

/// A dial that nobody has answered yet.
#[derive(Debug)]
pub(crate) struct ClientDial {
    pub(crate) from: End,
    pub(crate) leg: LegId,
    pub(crate) to: usize,
    pub(crate) begun: u64,
    pub(crate) wait: u64,
}

impl World {
    pub(crate) fn dial_client(
        &mut self,
        host: usize,
        leg: LegId,
        expect: Option<NodeId>,
        addr: &str,
    ) {
        let (from, begun) = (self.end_of(host), self.now);
        self.legs(host).insert(leg, Leg { expect, conn: None });
        match index_of(addr).filter(|to| *to < self.plan.nodes) {
            Some(to) => {
                self.check_dial(host, to);
                self.client_dial(ClientDial { from, leg, to, begun, wait: PROBE_FIRST });
            }
            None => self.queue.push(self.now + HANDSHAKE, Ev::LegFailed { end: from, leg }),
        }
    }

    /// A client's first packet is sent, once more if nobody has answered so far.
    pub(crate) fn client_dial(&mut self, dial: ClientDial) {
        let ClientDial { from, leg, to, begun, wait } = dial;
        let host = from.host;
        if !self.lives(from) || !self.legs(host).contains_key(&leg) {
            return;
        }
        if self.reach(host, to) {
            let there = self.net.flight(host, to, 1) + self.net.flight(host, to, 2);
            let delay = there + self.net.flight(to, host, 2);
            self.queue.push(self.now + delay, Ev::ClientHello { from, leg, to });
        } else if self.now + wait < begun + HANDSHAKE {
            let dial = ClientDial { wait: 2 * wait, ..dial };
            self.queue.push(self.now + wait, Ev::ClientDial(Box::new(dial)));
        } else {
            self.queue.push(begun + HANDSHAKE, Ev::LegFailed { end: from, leg });
        }
    }

    pub(crate) fn client_hello(&mut self, from: End, leg: LegId, to: usize) {
        if !self.lives(from) || !self.legs(from.host).contains_key(&leg) {
            return;
        }
        if !self.reach(from.host, to) || self.nodes[to].control.is_none() {
            self.queue.push(self.now + HANDSHAKE, Ev::LegFailed { end: from, leg });
            return;
        }
        let session = self.open_session(to);
        let acceptor = self.end_of(to);
        let conn = self.connect(Kind::Client { leg, session }, from, acceptor);
        self.session_opened(to, session, conn);
        self.send(conn, 1, Cargo::Greeting);
        // A greeting that does not come in time is a dial that failed.
        self.queue.push(self.now + HANDSHAKE, Ev::LegFailed { end: from, leg });
    }

    pub(crate) fn leg_failed(&mut self, end: End, leg: LegId) {
        if !self.lives(end) {
            return;
        }
        if self.hosts[end.host].frozen {
            self.queue.push(self.now + 50 * MS, Ev::LegFailed { end, leg });
            return;
        }
        if self.legs(end.host).get(&leg).is_some_and(|leg| leg.conn.is_none()) {
            self.leg_gone(end, leg, "timed out");
        }
    }
}
