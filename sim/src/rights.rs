//! Viewers with accounts of their own, and people who give and take their rights.

use rand::RngExt as _;
use roost::access::{DEFAULT_DOMAIN, Principal, Right, Rights, Who};
use roost::accounts::{Change, Dot, Expect, Key, Kind, Record, Stamp, Write};
use roost::admission::{Session, issue_credential, issue_session};
use roost::control::{Control, Event};
use roost::id::{AccountId, ActorId, EncoderId, InviteId, NodeId, RecordId};

use crate::net::MS;
use crate::rng::{For, stream};
use crate::world::{Ev, World};

/// Fields and sets of accounts and rules.
const NAME: u16 = 1;
const PASSWORD: u16 = 4;
const ROLE: u16 = 4;
const EVERYTHING: u16 = 5;
const ACCOUNTS: u16 = 2;
/// Everyone's.
const SECRET: &[u8] = b"secret";
/// Milliseconds since 1970 that no run reaches.
const NEVER: u64 = 1 << 48;
/// Changes of the beginning are numbered from here.
const FIRST: u64 = 1 << 32;

fn account(viewer: usize) -> AccountId {
    AccountId([0x40 + u8::try_from(viewer).unwrap_or(0xbf); 16])
}

fn keys(viewer: usize) -> (Key, Key) {
    let id = RecordId(account(viewer).0);
    (Key { kind: Kind::ACCOUNT, id }, Key { kind: Kind::RULE, id })
}

/// What stands for [`SECRET`] in a sign-in.
fn password() -> u64 {
    let mut record = Record::default();
    let dot = Dot { actor: ActorId([0; 16]), seq: 1, nonce: [0; 4] };
    let by = Stamp { account: account(0), node: NodeId([0; 16]), wall: 0 };
    let made = record.apply(dot, by, &[Change::Set(PASSWORD, SECRET.to_vec())]);
    let rights = Rights::of([(keys(0).0, record)]);
    made.ok().and_then(|()| rights.password_of(account(0))).unwrap_or_default()
}

impl World {
    /// Which viewers may watch which encoders by an index of rights.
    pub(crate) fn permitted(&self, rights: &Rights, now: u64) -> Vec<(usize, usize)> {
        let all = (0..self.plan.viewers).flat_map(|v| (0..self.plan.encoders).map(move |e| (v, e)));
        let may = |&(viewer, encoder): &(usize, usize)| {
            let who = Principal::new(Who::Account(account(viewer)), "").with_proof(password());
            rights.permits(&who, Right::View, self.encoders[encoder].id, now)
        };
        all.filter(may).collect()
    }

    /// What a client shows: nothing if nobody asks.
    pub(crate) fn credential(&self, host: usize) -> Option<String> {
        if !self.plan.guarded {
            return None;
        }
        let (founder, mesh) = (&self.nodes.first()?.keypair, self.mesh);
        let Some(viewer) = self.viewer_at(host) else {
            let id = InviteId([9; 16]);
            return Some(issue_credential(founder, mesh, id, DEFAULT_DOMAIN, NEVER));
        };
        let session = Session { account: account(viewer), password: password(), expires: NEVER };
        Some(issue_session(founder, mesh, &session))
    }

    /// Once all nodes run, everyone gets an account and a right.
    pub(crate) fn schedule_rights(&mut self) {
        if self.plan.guarded {
            self.queue.push((self.plan.burst_ms + 300) * MS, Ev::People);
        }
    }

    pub(crate) fn people(&mut self) {
        if !self.runs(0) || self.nodes[0].control.is_none() {
            self.queue.push(self.now + 100 * MS, Ev::People);
            return;
        }
        for viewer in 0..self.plan.viewers {
            let (person, rule) = keys(viewer);
            let set = |field, value: &[u8]| Change::Set(field, value.to_vec());
            let who = account(viewer).0.to_vec();
            let role = [set(ROLE, b"viewer"), set(EVERYTHING, &[1]), Change::Add(ACCOUNTS, who)];
            self.ask_for(0, FIRST + 2 * viewer as u64, person, vec![set(PASSWORD, SECRET)]);
            self.ask_for(0, FIRST + 2 * viewer as u64 + 1, rule, role.into());
        }
    }

    /// Somebody gives or takes a right, at any node.
    pub(crate) fn change_rights(&mut self, edit: usize) {
        let mut rng = stream(self.plan.seed, For::Edit(edit));
        let _when: u64 = rng.random();
        let ix = rng.random_range(0..self.plan.nodes);
        let viewer = rng.random_range(0..self.plan.viewers.max(1));
        let (person, rule) = keys(viewer);
        let who = account(viewer).0.to_vec();
        let (key, change) = match rng.random_range(0..10) {
            0 => (person, Change::Disable),
            1 | 2 => (person, Change::Enable),
            3 => (rule, Change::Disable),
            4 | 5 => (rule, Change::Enable),
            6 => (rule, Change::Remove(ACCOUNTS, who)),
            7 | 8 => (rule, Change::Add(ACCOUNTS, who)),
            _ => (person, Change::Set(NAME, edit.to_le_bytes().to_vec())),
        };
        if !self.runs(ix) || self.nodes[ix].control.is_none() {
            return;
        }
        self.checks.judged_at = self.now;
        let ticket = edit as u64;
        self.checks.edits.insert(ticket, (ix, self.hosts[ix].life, key, change.clone()));
        self.trace.say(self.now, || format!("n{ix} is asked for {change:?} of viewer{viewer}"));
        self.ask_for(ix, ticket, key, vec![change]);
    }

    fn ask_for(&mut self, ix: usize, ticket: u64, key: Key, changes: Vec<Change>) {
        let write = Write {
            key,
            changes,
            account: account(0),
            expect: Expect::Any,
            wait: 0,
            patience: std::time::Duration::ZERO,
        };
        self.node_event(ix, Event::Write { ticket, write });
    }

    /// Whether a node would let a viewer watch, by what it knows.
    pub(crate) fn allows(&self, node: usize, viewer: usize, encoder: EncoderId) -> Option<bool> {
        let rights = self.nodes[node].control.as_ref().map(Control::rights)?;
        let who = Who::Account(account(viewer));
        let stands = rights.password_of(account(viewer)) == Some(password());
        Some(stands && rights.may_stream(&who, Right::View, encoder))
    }

    /// Whether every node that runs would.
    pub(crate) fn all_allow(&self, viewer: usize) -> bool {
        let encoder = self.encoders[self.viewers[viewer].watches].id;
        !self.plan.guarded
            || (0..self.plan.nodes).all(|node| self.allows(node, viewer, encoder) != Some(false))
    }
}
