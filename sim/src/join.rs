//! Newcomers ask to be let in, as `net::join` does.

use rand::RngExt as _;
use roost::admission::Statement;
use roost::control::Event;
use roost::id::NodeId;
use roost::wire::{self, join_statement};

use crate::conn::End;
use crate::net::SEC;
use crate::node::DISK;
use crate::world::{Ev, World};

impl World {
    pub(crate) fn join_ask(&mut self, from: End) {
        if !self.lives(from) || self.nodes[from.host].control.is_some() {
            return;
        }
        self.queue.push(self.now + SEC, Ev::JoinAsk { from });
        let seed = (0..self.plan.nodes)
            .find(|ix| self.reach(from.host, *ix) && self.nodes[*ix].control.is_some());
        if let Some(to) = seed.filter(|_| self.invitation.is_some()) {
            // QUIC's three flights, the seed's hello, and the question.
            let there = (0..3).map(|_| self.net.flight(from.host, to, 1)).sum::<u64>();
            let back = self.net.flight(to, from.host, 2) + self.net.flight(to, from.host, 1);
            let at = self.now + there + back;
            self.queue.push(at, Ev::JoinArrive { from, to });
        }
    }

    pub(crate) fn join_arrive(&mut self, from: End, to: usize) {
        let Some(invitation) = self.invitation.clone() else { return };
        if !self.lives(from) || !self.reach(from.host, to) || self.nodes[to].control.is_none() {
            return;
        }
        let newcomer = self.nodes[from.host].keypair.public();
        let exporter = self.hosts[to].rng.random();
        let statement = join_statement(&exporter, &newcomer);
        let proof = invitation.prove(&statement);
        let join = wire::Join { invite: invitation.invite, proof };
        let node = &mut self.nodes[to];
        node.last_ticket += 1;
        let ticket = node.last_ticket;
        node.joins.insert(ticket, from);
        self.node_event(to, Event::Join { ticket, newcomer, join, statement });
    }

    pub(crate) fn join_answer(
        &mut self,
        from: End,
        statements: Vec<Statement>,
        members: Vec<(NodeId, Vec<String>)>,
        names: Vec<(NodeId, String)>,
    ) {
        if !self.lives(from) || self.nodes[from.host].control.is_some() {
            return;
        }
        let node = &mut self.nodes[from.host];
        node.disk.statements = statements;
        node.disk.remembered.extend(members);
        node.disk.names.extend(names);
        self.start_control(from.host);
    }

    pub(crate) fn admit(&mut self, ix: usize, ticket: u64, admitted: wire::Admitted) {
        let Some(from) = self.nodes[ix].joins.remove(&ticket) else { return };
        // No round trip was measured yet that would tell when to send it again.
        let at = self.now + DISK + self.net.flight(ix, from.host, 2);
        let wire::Admitted { statements, members, names } = admitted;
        self.queue.push(at, Ev::JoinAnswer { from, statements: statements.0, members, names });
    }
}
