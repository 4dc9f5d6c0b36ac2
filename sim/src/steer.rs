//! People who want nodes empty, and encoders elsewhere.

use roost::access::{PLACEMENT_SETTING, POOLS_SETTING};
use roost::accounts::{Change, Expect, Key, Kind, Write};
use roost::control::Event;
use roost::id::{AccountId, EncoderId, RecordId};
use roost::session::host::{Cause, Order, Outcome};

use crate::net::SEC;
use crate::world::World;

/// Fields of a node's record.
pub(crate) const DRAIN: u16 = 3;
pub(crate) const CORDON: u16 = 4;
pub(crate) const CAPACITY: u16 = 5;
pub(crate) const LIMIT: u16 = 6;

/// The pool, and the label of its nodes.
const POOL: &str = "pool";

const POOL_ID: RecordId = RecordId([0x91; 16]);

fn text(field: u16, text: &str) -> Change {
    Change::Set(field, text.as_bytes().to_vec())
}

/// A number as records hold it: signed, seven bits a byte.
fn number(of: u32) -> Vec<u8> {
    let (mut left, mut bytes) = (u64::from(of) << 1, Vec::new());
    while left > 0x7f {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes
}

impl World {
    /// Somebody says the same of several nodes, at this node or another that runs.
    pub(crate) fn wish_all(&mut self, by: usize, of: &[usize], field: u16, on: bool) {
        for &node in of {
            self.wish(by, node, Change::Set(field, vec![u8::from(on)]));
        }
    }

    /// Somebody says what several nodes are good for, or takes it back.
    pub(crate) fn size_all(&mut self, by: usize, of: &[usize], field: u16, size: Option<u32>) {
        let bytes = size.map(number);
        for &node in of {
            let clear = Change::Clear(field);
            let set = bytes.clone().map(|bytes| Change::Set(field, bytes));
            self.wish(by, node, set.unwrap_or(clear));
        }
    }

    fn wish(&mut self, by: usize, node: usize, change: Change) {
        let Some(at) = self.teller(by) else { return };
        self.trace.say(self.now, || format!("n{at} is told of n{node}: {change:?}"));
        let key = Key { kind: Kind::NODE, id: RecordId(self.nodes[node].id.0) };
        self.tell(at, key, vec![change]);
    }

    /// Somebody has every encoder prefer the pool, or be nowhere else, or wherever it likes again.
    pub(crate) fn pool(&mut self, by: usize, on: bool, only: bool) {
        let Some(at) = self.teller(by) else { return };
        self.checks.pooled_at = self.now;
        let key = |id: u8| Key { kind: Kind::SETTING, id: RecordId([id; 16]) };
        let (pools, placement) = (key(0x92), key(0x93));
        if on {
            self.make_pool(at);
        }
        let value = |said: &str| if on { text(2, said) } else { Change::Clear(2) };
        self.tell(
            at,
            placement,
            vec![text(1, PLACEMENT_SETTING), value(if only { "only" } else { "prefer" })],
        );
        self.tell(at, pools, vec![text(1, POOLS_SETTING), value(POOL)]);
    }

    fn make_pool(&mut self, at: usize) {
        let pool = Key { kind: Kind::POOL, id: POOL_ID };
        let label = Change::Add(3, POOL.as_bytes().to_vec());
        self.tell(at, pool, vec![text(1, POOL), label]);
    }

    /// Somebody binds encoders to the pool by their records, or lets them be anywhere again.
    pub(crate) fn bind_all(&mut self, by: usize, agents: &[usize], on: bool) {
        let Some(at) = self.teller(by) else { return };
        self.checks.pooled_at = self.now;
        if on {
            self.make_pool(at);
        }
        for agent in agents {
            let Some(e) = self.encoder_at(*agent) else { continue };
            let (id, name) = (self.encoders[e].id, self.encoders[e].name.clone());
            let pools = if on { Change::Set(5, POOL_ID.0.to_vec()) } else { Change::Clear(5) };
            let changes = vec![text(1, &name), pools, text(7, "only")];
            self.tell(at, Key { kind: Kind::ENCODER, id: RecordId(id.0) }, changes);
        }
    }

    /// Somebody puts encoders into a room, or takes them out of it.
    pub(crate) fn room(&mut self, by: usize, agents: &[usize], on: bool) {
        let Some(at) = self.teller(by) else { return };
        let room = RecordId([0x94; 16]);
        if on {
            let name = Change::Set(1, b"room".to_vec());
            self.tell(at, Key { kind: Kind::ROOM, id: room }, vec![name]);
        }
        for agent in agents {
            let Some(e) = self.encoder_at(*agent) else { continue };
            let (id, name) = (self.encoders[e].id, self.encoders[e].name.clone());
            let in_room = if on { Change::Set(4, room.0.to_vec()) } else { Change::Clear(4) };
            let changes = vec![Change::Set(1, name.into_bytes()), in_room];
            self.tell(at, Key { kind: Kind::ENCODER, id: RecordId(id.0) }, changes);
        }
    }

    /// Somebody gives nodes the label of the pool, or takes it from them.
    pub(crate) fn label_all(&mut self, by: usize, of: &[usize], on: bool) {
        let Some(at) = self.teller(by) else { return };
        self.checks.pooled_at = self.now;
        for &node in of {
            let label = POOL.as_bytes().to_vec();
            let change = if on { Change::Add(4, label) } else { Change::Remove(4, label) };
            let key = Key { kind: Kind::NODE, id: RecordId(self.nodes[node].id.0) };
            self.tell(at, key, vec![change]);
        }
    }

    /// Who is told what this node would be, if it ran.
    pub(crate) fn teller(&self, by: usize) -> Option<usize> {
        let mut choices = std::iter::once(by).chain(0..self.plan.nodes);
        choices.find(|ix| self.runs(*ix) && self.nodes[*ix].control.is_some())
    }

    pub(crate) fn tell(&mut self, at: usize, key: Key, changes: Vec<Change>) {
        let write = Write {
            key,
            changes,
            account: AccountId([1; 16]),
            expect: Expect::Any,
            wait: 0,
            patience: std::time::Duration::ZERO,
        };
        self.last_wish += 1;
        let ticket = u64::MAX - self.last_wish;
        self.node_event(at, Event::Write { ticket, write });
    }

    /// Somebody at an encoder's home sends it away.
    pub(crate) fn send_encoder(&mut self, e: usize, to: usize) {
        let Some(home) = self.home_of(e) else { return };
        let order = Order {
            encoder: self.encoders[e].id,
            to: self.nodes[to].id,
            cause: Cause::Operator,
            reason: "somebody said so".into(),
            ticket: 0,
        };
        self.node_event(home, Event::Move(order));
    }

    /// What became of a move.
    pub(crate) fn moved(&mut self, encoder: EncoderId, outcome: &Outcome) {
        self.observe_moved(encoder);
        if *outcome != Outcome::Done {
            self.mark("a move comes to nothing");
            return;
        }
        self.mark("an encoder moves on request");
        let watched = self.viewers.iter().enumerate();
        let watched = watched.filter(|(_, v)| self.encoders[v.watches].id == encoder);
        // Somebody who sees it well, in a mesh where nothing else happens.
        let now = self.now;
        let fine: Vec<usize> = watched
            .filter(|(v, viewer)| viewer.seen.fresh_at + SEC / 5 > now && self.all_allow(*v))
            .map(|(v, _)| v)
            .collect();
        for v in fine {
            self.expect_no_seam(v);
        }
    }

    /// A node is to be empty, or goes, by its own word.
    pub(crate) fn is_drained(&self, ix: usize) -> bool {
        let control = self.nodes[ix].control.as_ref();
        let header = control.and_then(|control| control.directory().header(control.me()));
        header.is_some_and(|header| header.draining)
    }

    /// A node is to be empty, or takes nothing new, by its own word; one that goes is both.
    pub(crate) fn is_wished_away(&self, ix: usize) -> bool {
        let header = self.nodes[ix]
            .control
            .as_ref()
            .and_then(|control| control.directory().header(control.me()));
        header.is_some_and(|header| header.draining || header.cordoned)
    }
}
