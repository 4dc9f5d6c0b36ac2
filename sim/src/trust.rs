//! Members that are shut out, let in again, and given other keys.

use rand::RngExt as _;
use roost::admission::{Keypair, Roster, Statement};
use roost::control::{Control, Event, NoDecree};
use roost::id::NodeId;

use crate::conn::{End, Kind};
use crate::node::DISK;
use crate::world::{Ev, World};

impl World {
    pub(crate) fn record(&mut self, ix: usize, number: u64, statements: Vec<Statement>) {
        let end = self.end_of(ix);
        self.queue.push(self.now + DISK, Ev::Recorded { end, number, statements });
    }

    pub(crate) fn recorded(&mut self, end: End, number: u64, statements: Vec<Statement>) {
        self.nodes[end.host].disk.statements.extend(statements);
        self.node_event(end.host, Event::Recorded(number));
    }

    /// What the statements on a node's disk come to. To check signatures takes longer than all else of
    /// a start, and most nodes start with the same statements.
    pub(crate) fn roster_on_disk(&mut self, ix: usize) -> Roster {
        let statements = &self.nodes[ix].disk.statements;
        if let Some((last, roster)) = &self.checked
            && last == statements
        {
            return roster.clone();
        }
        let roster = Roster::from_statements(self.mesh, statements.iter().cloned());
        self.checked = Some((statements.clone(), roster.clone()));
        roster
    }

    /// The key in use and the one that it is to change to, as a node finds them at its start.
    pub(crate) fn settle_keys(&mut self, ix: usize, roster: &Roster) {
        let node = &mut self.nodes[ix];
        if let Some(next) = node.disk.next_key.take() {
            if roster.current_key(node.id) == Some(next.public()) {
                node.keypair = next;
            } else {
                node.disk.next_key = Some(next);
            }
        }
    }

    pub(crate) fn revoke(&mut self, by: usize, node: usize) {
        let (ticket, nonce) = (self.events, self.hosts[by].rng.random());
        self.keep_changes(by, node);
        let (node, reason) = (self.nodes[node].id, "stolen".to_owned());
        let before = self.members_by(by);
        self.node_event(by, Event::Revoke { ticket, node, nonce, reason });
        self.check_only_named(by, node, &before);
    }

    pub(crate) fn readmit(&mut self, by: usize, node: usize) {
        let (ticket, nonce) = (self.events, self.hosts[by].rng.random());
        let node = self.nodes[node].id;
        self.node_event(by, Event::Readmit { ticket, node, nonce });
    }

    pub(crate) fn rotate(&mut self, ix: usize) {
        if !self.runs(ix) || self.nodes[ix].disk.next_key.is_some() {
            return;
        }
        let key = Keypair::of(self.nodes[ix].id, self.hosts[ix].rng.random());
        self.nodes[ix].disk.next_key = Some(key.clone());
        self.node_event(ix, Event::Rotate { ticket: self.events, key });
    }

    pub(crate) fn decreed(&mut self, ix: usize, ticket: u64, result: Result<(), NoDecree>) {
        self.trace.say(self.now, || format!("n{ix} decrees {ticket}: {result:?}"));
        let rotating = self.nodes[ix].control.as_ref().is_some_and(Control::rotating);
        if result.is_err() && !rotating {
            self.nodes[ix].disk.next_key = None;
        }
    }

    /// All that a node has here ends.
    pub(crate) fn expel(&mut self, ix: usize, node: NodeId, reason: &str) {
        let Some(&peer) = self.index.get(&node) else { return };
        self.trace.say(self.now, || format!("n{ix} ends all of n{peer}: {reason}"));
        self.nodes[ix].links.remove(&peer);
        for id in self.conns_of(ix) {
            let Some(conn) = self.conns.get(&id) else { continue };
            let side = usize::from(conn.ends[0].host != ix);
            if conn.ends[1 - side].host != peer || !conn.open[side] {
                continue;
            }
            let (end, media) = (conn.ends[side], matches!(conn.kind, Kind::Media));
            self.close(id, side, reason);
            if media {
                self.media_gone(end, peer, id, side);
            }
        }
    }

    /// A node may refuse whoever is shut out, or comes when it is shut out itself.
    pub(crate) fn refused_newcomer(&mut self, ix: usize, reason: &str) {
        let out = |node: NodeId| {
            let roster = self.nodes[ix].control.as_ref().map(Control::roster);
            roster.is_some_and(|roster| roster.outcast(node).is_some())
        };
        if !self.nodes.iter().any(|node| out(node.id)) {
            self.fail("admission", format!("n{ix} refuses a newcomer: {reason}"));
        }
    }
}
