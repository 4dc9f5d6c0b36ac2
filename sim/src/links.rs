//! Links between nodes as `net` makes them: handshakes that check admissions, and one link per
//! pair by the rules of `peering::tie`.

use roost::admission::{Roster, Statement};
use roost::control::{Control, Event};
use roost::id::{Boot, NodeId};
use roost::peering::tie::{self, Existing, Verdict};
use roost::wire::{LinkMessage, Message as _};

use crate::conn::{Cargo, ConnId, End, Kind, LinkHello};
use crate::net::{MS, PROBE_FIRST, SEC};
use crate::node::index_of;
use crate::world::{Ev, LinkDecide, LinkDial, World};

/// A handshake that is not over by then is given up.
pub(crate) const HANDSHAKE: u64 = 3 * SEC;
/// Most bytes of statements in a hello.
const NEWS: usize = 32 << 10;
/// How long a connection that gave way to another is still read.
const LINGER: u64 = 2 * SEC;

/// A connection that a node keeps as its link to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkRecord {
    pub(crate) conn: ConnId,
    dialled_here: bool,
    boot: Boot,
    order: Option<u64>,
}

impl World {
    pub(crate) fn roster(&self, ix: usize) -> Option<&Roster> {
        self.nodes[ix].control.as_ref().map(Control::roster)
    }

    pub(crate) fn dial_link(&mut self, ix: usize, node: Option<NodeId>, addr: String) {
        if !self.nodes[ix].dialling.insert(addr.clone()) {
            return;
        }
        if let Some(to) = index_of(&addr) {
            self.check_dial(ix, to);
        }
        let (from, begun) = (self.end_of(ix), self.now);
        self.link_dial(LinkDial { from, node, addr, begun, wait: PROBE_FIRST });
    }

    /// A dialler's first packet is sent, once more if nobody has answered so far.
    pub(crate) fn link_dial(&mut self, dial: LinkDial) {
        let LinkDial { from, node, addr, begun, wait } = dial;
        let ix = from.host;
        if !self.lives(from) {
            return;
        }
        let to = index_of(&addr).filter(|to| *to < self.plan.nodes);
        if let Some(to) = to.filter(|to| self.reach(ix, *to)) {
            // The last flight has the hello with it.
            let there = self.net.flight(ix, to, 1) + self.net.flight(ix, to, 2);
            let delay = there + self.net.flight(to, ix, 2);
            self.queue.push(self.now + delay, Ev::LinkHello { from, to, node, addr });
        } else if to.is_some() && self.now + wait < begun + HANDSHAKE {
            let dial = LinkDial { from, node, addr, begun, wait: 2 * wait };
            self.queue.push(self.now + wait, Ev::LinkDial(Box::new(dial)));
        } else {
            self.queue.push(begun + HANDSHAKE, Ev::LinkFailed { from, node, addr });
        }
    }

    pub(crate) fn link_failed(&mut self, from: End, node: Option<NodeId>, addr: String) {
        if !self.lives(from) {
            return;
        }
        if self.hosts[from.host].frozen {
            self.queue.push(self.now + 50 * MS, Ev::LinkFailed { from, node, addr });
            return;
        }
        self.nodes[from.host].dialling.remove(&addr);
        self.node_event(from.host, Event::DialFailed { node, addr });
    }

    pub(crate) fn link_hello(&mut self, from: End, to: usize, node: Option<NodeId>, addr: String) {
        let ix = from.host;
        let failed = Ev::LinkFailed { from, node, addr: addr.clone() };
        if !self.lives(from) || !self.reach(ix, to) {
            self.queue.push(self.now + HANDSHAKE, failed);
            return;
        }
        let (mine, theirs) = (self.judge(ix, to), self.judge(to, ix));
        let judged = match (mine, theirs) {
            (Some((learned, Ok(()))), Some((learned_there, Ok(())))) => {
                Some((learned, learned_there))
            }
            (mine, theirs) => {
                // A refusal says why, and what the other side may not have heard of.
                self.learn(ix, mine);
                self.learn(to, theirs);
                None
            }
        };
        let (me, there) = (&self.nodes[ix], &self.nodes[to]);
        let expected = node.is_none_or(|node| node == there.id);
        let Some((learned, learned_there)) = judged.filter(|_| expected) else {
            let delay = self.net.delay_reliable(to, ix);
            self.queue.push(self.now + delay, failed);
            return;
        };
        // A dialler that does not know the other side's key yet hides who it is.
        let open = self.roster(ix).is_some_and(|roster| roster.contains(there.id));
        let hello = LinkHello {
            boot: Boot(me.disk.boot),
            wall: self.clock(ix).wall,
            addrs: if open { vec![me.addr.clone()] } else { Vec::new() },
            learned: learned_there,
        };
        let decide = LinkDecide {
            from,
            to: self.end_of(to),
            addr,
            addrs: vec![there.addr.clone()],
            learned,
            wall: self.clock(to).wall,
            hello,
        };
        let delay = self.net.flight(to, ix, 1);
        self.queue.push(self.now + delay, Ev::LinkDecide(Box::new(decide)));
    }

    /// What `a` learns from the hello of `b`, and whether it lets it in.
    fn judge(&self, a: usize, b: usize) -> Option<(Vec<Statement>, Result<(), ()>)> {
        let (mine, theirs) = (self.roster(a)?, self.roster(b)?);
        let chain = theirs.chain(self.nodes[b].id)?;
        let more = theirs.news(&[self.nodes[a].id, self.nodes[b].id], NEWS);
        let key = self.nodes[b].keypair.public();
        let (learned, verdict) = mine.judge(&chain, &more, &key, theirs.mesh());
        Some((learned, verdict.map(|_node| ()).map_err(|_refusal| ())))
    }

    fn learn(&mut self, ix: usize, judged: Option<(Vec<Statement>, Result<(), ()>)>) {
        if let Some((learned, _)) = judged.filter(|(learned, _)| !learned.is_empty()) {
            self.node_event(ix, Event::Learned(learned));
        }
    }

    fn existing(&self, ix: usize, peer: usize) -> Option<Existing> {
        let record = self.nodes[ix].links.get(&peer)?;
        let closed = self.conns.get(&record.conn).is_none_or(|conn| {
            let side = usize::from(conn.ends[0].host != ix);
            !conn.open[side]
        });
        Some(Existing {
            dialled_here: record.dialled_here,
            boot: record.boot,
            order: record.order,
            closed,
            // Links here carry no keep-alives that silence could be judged by.
            silent: false,
        })
    }

    pub(crate) fn link_decide(&mut self, decide: LinkDecide) {
        let LinkDecide { from, to, addr, addrs, learned, wall, hello } = decide;
        let ix = from.host;
        let there = self.nodes[to.host].id;
        if !self.lives(from) {
            return;
        }
        if !self.reach(ix, to.host) || !self.lives(to) {
            let failed = Ev::LinkFailed { from, node: Some(there), addr };
            self.queue.push(self.now + HANDSHAKE, failed);
            return;
        }
        self.nodes[ix].dialling.remove(&addr);
        let existing = self.existing(ix, to.host);
        let boot = Boot(self.nodes[to.host].disk.boot);
        let verdict = tie::at_dialler(existing.as_ref(), boot);
        self.tally.word("dialler of a link", &verdict);
        if verdict == Verdict::KeepExisting {
            self.node_event(ix, Event::DialFailed { node: Some(there), addr });
            return;
        }
        let conn = self.connect(Kind::Link(hello), from, to);
        let deadline = Ev::CloseConn { conn, side: 1 };
        self.queue.push(self.now + HANDSHAKE, deadline);
        let record = LinkRecord { conn, dialled_here: true, boot, order: None };
        self.keep_link(ix, to.host, record, verdict, (addrs, learned, wall));
    }

    fn keep_link(
        &mut self,
        ix: usize,
        peer: usize,
        record: LinkRecord,
        verdict: Verdict,
        (addrs, learned, wall): (Vec<String>, Vec<Statement>, u64),
    ) {
        let side = usize::from(!record.dialled_here);
        let node = &mut self.nodes[ix];
        node.decisions += 1;
        let order = node.decisions;
        let former = node.links.insert(peer, record);
        self.send(record.conn, side, Cargo::Keep(order));
        let id = self.nodes[peer].id;
        if let (Some(former), Verdict::Swap) = (former, verdict) {
            self.retire(former.conn, ix);
            return;
        }
        if let Some(former) = former {
            let side = self.side_of(former.conn, ix);
            self.close(former.conn, side, "the other side connected anew");
            self.trace.say(self.now, || format!("n{ix} link down n{peer}: replaced"));
            self.node_event(ix, Event::LinkDown(id));
        }
        self.trace.say(self.now, || format!("n{ix} link up n{peer}"));
        self.node_event(ix, Event::LinkUp { node: id, addrs, learned, wall });
    }

    fn side_of(&self, conn: ConnId, host: usize) -> usize {
        self.conns.get(&conn).map_or(0, |conn| usize::from(conn.ends[0].host != host))
    }

    /// A connection gives way: nothing more is said on it, what is under way is still read.
    fn retire(&mut self, conn: ConnId, ix: usize) {
        let side = self.side_of(conn, ix);
        self.send(conn, side, Cargo::Fin);
        self.queue.push(self.now + LINGER, Ev::CloseConn { conn, side });
    }

    /// A connection's time is over: one that lingers, or a link that was never kept.
    pub(crate) fn close_later(&mut self, id: ConnId, side: usize) {
        let Some(conn) = self.conns.get(&id) else { return };
        let end = conn.ends[side];
        if !self.lives(end) {
            return;
        }
        if self.hosts[end.host].frozen {
            self.queue.push(self.now + 50 * MS, Ev::CloseConn { conn: id, side });
            return;
        }
        match conn.kind.clone() {
            Kind::Link(_) => {
                let peer = conn.ends[1 - side].host;
                let kept = self.nodes[end.host].links.get(&peer).is_some_and(|r| r.conn == id);
                if !kept {
                    self.close(id, side, "gave way to another");
                }
            }
            Kind::Client { session, .. } if side == 1 => {
                if conn.open[1] {
                    self.close(id, side, "refused");
                    self.session_gone(end, session);
                }
            }
            Kind::Client { .. } | Kind::Media => self.close(id, side, "done"),
        }
    }

    pub(crate) fn link_cargo(&mut self, id: ConnId, side: usize, cargo: Cargo) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (ix, peer) = (conn.ends[side].host, conn.ends[1 - side].host);
        let node = self.nodes[peer].id;
        match cargo {
            Cargo::Keep(order) if side == 0 => {
                if let Some(record) = self.nodes[ix].links.get_mut(&peer)
                    && record.conn == id
                {
                    record.order = Some(order);
                }
            }
            Cargo::Keep(order) => {
                let Kind::Link(hello) = conn.kind.clone() else { return };
                let existing = self.existing(ix, peer);
                let me = self.nodes[ix].id;
                let verdict = tie::at_acceptor(me, node, existing.as_ref(), hello.boot, order);
                self.tally.word("acceptor of a link", &verdict);
                if verdict == Verdict::KeepExisting {
                    self.retire(id, ix);
                    return;
                }
                let record = LinkRecord {
                    conn: id,
                    dialled_here: false,
                    boot: hello.boot,
                    order: Some(order),
                };
                let said = (hello.addrs, hello.learned, hello.wall);
                self.keep_link(ix, peer, record, verdict, said);
            }
            Cargo::Message(bytes) => self.node_event(ix, Event::Message(node, bytes)),
            Cargo::Datagram(bytes) => {
                self.note_heard(ix, peer);
                self.node_event(ix, Event::Datagram(node, bytes));
            }
            Cargo::Fin => {
                let end = self.end_of(ix);
                self.link_gone(end, peer, id, "the other side uses another");
                self.close(id, side, "gave way to another");
            }
            _ => {}
        }
    }

    pub(crate) fn link_gone(&mut self, end: End, peer: usize, id: ConnId, reason: &str) {
        let ix = end.host;
        if self.nodes[ix].links.get(&peer).is_none_or(|record| record.conn != id) {
            return;
        }
        self.nodes[ix].links.remove(&peer);
        self.trace.say(self.now, || format!("n{ix} link down n{peer}: {reason}"));
        let node = self.nodes[peer].id;
        self.node_event(ix, Event::LinkDown(node));
    }

    pub(crate) fn link_send(&mut self, ix: usize, node: NodeId, cargo: Cargo) {
        let Some(&peer) = self.index.get(&node) else { return };
        if let (false, Cargo::Message(bytes)) = (self.unchecked, &cargo) {
            self.observe_link(ix, node, bytes);
        }
        if let (true, Cargo::Message(bytes)) = (self.liars.contains(&ix), &cargo)
            && let Ok(LinkMessage::DirectoryDelta(delta)) = LinkMessage::decode(bytes)
            && Some(delta.origin) == self.nodes[ix].control.as_ref().map(|it| it.me())
        {
            return;
        }
        let Some(record) = self.nodes[ix].links.get(&peer).copied() else { return };
        self.send(record.conn, usize::from(!record.dialled_here), cargo);
    }
}
