//! Viewers with accounts of their own, and people who give and take their rights.

use std::collections::BTreeSet;

use rand::RngExt as _;
use roost::access::keys::{StreamKey, add_key, key_hash, key_text, revoke_key};
use roost::access::{self, DEFAULT_DOMAIN, Principal, Right, Rights, Who};
use roost::accounts::{Change, Dot, Expect, Key, Kind, Ledger, Record, Stamp, Write};
use roost::admission::{Keypair, Session, issue_credential, issue_session};
use roost::control::{Control, Event};
use roost::id::{AccountId, ActorId, EncoderId, InviteId, NodeId, RecordId};

use crate::net::MS;
use crate::rng::{For, stream};
use crate::world::{Ev, WALL, World};

/// Fields and sets of accounts and rules.
const NAME: u16 = 1;
const DOMAIN: u16 = 3;
const PASSWORD: u16 = 4;
const ROLE: u16 = 4;
const EVERYTHING: u16 = 5;
const ACCOUNTS: u16 = 2;
const GROUPS: u16 = 3;
const ENCODERS: u16 = 4;
/// Set of a group's record.
const MEMBERS: u16 = 2;
/// From the least right to the greatest. Each lets its holder watch.
const ROLES: [&str; 4] = ["viewer", "publisher", "operator", "admin"];
/// A domain in which there is no encoder.
const ELSEWHERE: RecordId = RecordId([0xd0; 16]);
/// Everyone's.
const SECRET: &[u8] = b"secret";
/// What a password is changed to, though nobody signs in by it.
const OTHER: &[u8] = b"other";
/// Viewers' accounts are numbered from here, their groups, and agents' accounts where they have some.
const VIEWERS: u8 = 0x40;
const GROUPED: u8 = 0x80;
const AGENTS: u8 = 0xc0;
/// A stream key that is taken away is revoked, or ends so much later.
const KEY_LEFT_MS: u64 = 3_000;
/// Longer than any run.
const KEY_LONG_MS: u64 = 3_600_000;
/// Milliseconds since 1970 that no run reaches.
const NEVER: u64 = 1 << 48;
/// A client logs in for this long.
const GOOD_MS: u64 = 12 * 3_600_000;
/// Changes of the beginning are numbered from here.
const FIRST: u64 = 1 << 32;

fn numbered(from: u8, number: usize) -> AccountId {
    AccountId([from.saturating_add(u8::try_from(number).unwrap_or(u8::MAX)); 16])
}

fn account(viewer: usize) -> AccountId {
    numbered(VIEWERS, viewer)
}

fn keys(of: AccountId) -> (Key, Key) {
    let id = RecordId(of.0);
    (Key { kind: Kind::ACCOUNT, id }, Key { kind: Kind::RULE, id })
}

/// Every second viewer has its right as the member of a group of its own.
fn group(viewer: usize) -> Option<Key> {
    let id = RecordId(numbered(GROUPED, viewer).0);
    (viewer % 2 == 1).then_some(Key { kind: Kind::GROUP, id })
}

/// Every second agent has an account, the others have stream keys.
fn has_account(agent: usize) -> bool {
    agent % 2 == 1
}

/// What stands for [`SECRET`] in a sign-in.
fn password() -> u64 {
    let mut record = Record::default();
    let dot = Dot { actor: ActorId([0; 16]), seq: 1, nonce: [0; 4] };
    let by = Stamp { account: account(0), node: NodeId([0; 16]), wall: 0 };
    let made = record.apply(dot, by, &[Change::Set(PASSWORD, SECRET.to_vec())]);
    let rights = Rights::of([(keys(account(0)).0, record)]);
    made.ok().and_then(|()| rights.password_of(account(0))).unwrap_or_default()
}

/// A viewer that signed in by [`SECRET`].
fn signed_in(viewer: usize) -> Principal {
    Principal::new(Who::Account(account(viewer)), "").with_proof(password())
}

impl World {
    /// Which viewers may watch which encoders by an index of rights.
    pub(crate) fn permitted(&self, rights: &Rights, now: u64) -> Vec<(usize, usize)> {
        let all = (0..self.plan.viewers).flat_map(|v| (0..self.plan.encoders).map(move |e| (v, e)));
        let may = |&(viewer, encoder): &(usize, usize)| {
            rights.permits(&signed_in(viewer), Right::View, self.encoders[encoder].id, now)
        };
        all.filter(may).collect()
    }

    /// A viewer by what it showed, whatever a node made of that.
    pub(crate) fn as_shown(&self, who: &Principal) -> Principal {
        let shown = |viewer: &usize| who.who == Who::Account(account(*viewer));
        match (0..self.plan.viewers).find(shown).map(signed_in) {
            Some(shown) => Principal { issuer: who.issuer, ..shown },
            None => who.clone(),
        }
    }

    /// What a client shows: nothing if nobody asks. It is what it was given before, as long as that
    /// is good; where clocks are years off, it gets something new each time, which never ends.
    pub(crate) fn credential(&mut self, host: usize) -> Option<String> {
        if !self.plan.guarded {
            return None;
        }
        let again = |(by, _): &&(usize, String)| self.is_member(*by) && !self.plan.has_clocks();
        if let Some((_, shown)) = self.shown.get(&host).filter(again) {
            return Some(shown.clone());
        }
        let by = self.signer(usize::from(self.viewer_at(host).is_none()))?;
        let shown = self.credential_of(host, &self.nodes[by].keypair)?;
        self.shown.insert(host, (by, shown.clone()));
        Some(shown)
    }

    fn credential_of(&self, host: usize, signer: &Keypair) -> Option<String> {
        let (mesh, agent) = (self.mesh, self.encoder_at(host).filter(|_| self.plan.has_mute()));
        let expires = if self.plan.has_clocks() { NEVER } else { WALL + GOOD_MS };
        let account = match (self.viewer_at(host), agent) {
            (Some(viewer), _) => account(viewer),
            (_, Some(agent)) if has_account(agent) => numbered(AGENTS, agent),
            (_, Some(agent)) => return Some(self.stream_key(agent)),
            _ => {
                let id = InviteId([9; 16]);
                return Some(issue_credential(signer, mesh, id, DEFAULT_DOMAIN, expires));
            }
        };
        let session = Session { account, password: password(), expires };
        Some(issue_session(signer, mesh, &session))
    }

    /// Who lets clients in: this one of the members, or the last. What somebody signed opens nothing
    /// once that one is shut out, and agents have it from another than viewers.
    fn signer(&self, number: usize) -> Option<usize> {
        (0..self.plan.nodes).filter(|ix| self.is_member(*ix)).take(number + 1).last()
    }

    fn stream_key(&self, agent: usize) -> String {
        key_text(self.encoders[agent].id, &[0x5e; 20])
    }

    /// A new stream key of an agent, or one that nobody has, made at this mesh time.
    fn new_key(&self, of: Option<usize>, made: u64, rng: &mut impl rand::Rng) -> StreamKey {
        let hash = of.map(|agent| key_hash(&self.stream_key(agent)));
        StreamKey { id: rng.random(), hash: hash.unwrap_or_default(), made, expires: 0 }
    }

    /// An encoder's record as a node has it.
    fn encoder_record(&self, at: usize, agent: usize) -> (Key, Record) {
        let key = Key { kind: Kind::ENCODER, id: RecordId(self.encoders[agent].id.0) };
        let control = self.nodes[at].control.as_ref();
        (key, control.and_then(|control| control.ledger().get(key)).unwrap_or_default())
    }

    /// What time it is in the mesh, by the first node that runs.
    fn mesh_time(&self) -> u64 {
        let mut running = (0..self.plan.nodes).filter(|ix| self.runs(*ix));
        let time = |ix: usize| Some(self.nodes[ix].control.as_ref()?.time(self.clock(ix)));
        running.find_map(time).unwrap_or(NEVER)
    }

    /// Somebody takes from agents the right to send and from viewers that to watch, or gives it back.
    pub(crate) fn let_send(&mut self, by: usize, hosts: &[usize], on: bool) {
        let Some(at) = self.teller(by) else { return };
        let viewers: Vec<usize> = hosts.iter().filter_map(|host| self.viewer_at(*host)).collect();
        for viewer in viewers {
            let (_, rule) = keys(account(viewer));
            self.checks.judged_at = self.now;
            self.tell(at, rule, vec![if on { Change::Enable } else { Change::Disable }]);
        }
        let agents: Vec<usize> = hosts.iter().filter_map(|host| self.encoder_at(*host)).collect();
        for agent in agents {
            match on {
                true => drop(self.mute.remove(&agent)),
                false => drop(self.mute.insert(agent, self.now)),
            }
            if has_account(agent) {
                let (_, rule) = keys(numbered(AGENTS, agent));
                self.tell(at, rule, vec![if on { Change::Enable } else { Change::Disable }]);
                continue;
            }
            let mut rng = stream(self.plan.seed, For::StreamKey(self.last_wish));
            let now = self.mesh_time();
            let (record, encoder) = self.encoder_record(at, agent);
            if on {
                let whole = self.new_key(Some(agent), now, &mut rng);
                self.tell(at, record, add_key(&encoder, whole, None));
                continue;
            }
            // Elsewhere somebody who does not know of it gives it more time.
            let other = self.teller((at + 1) % self.plan.nodes).unwrap_or(at);
            let (_, theirs) = self.encoder_record(other, agent);
            let changes = if rng.random() {
                let names: BTreeSet<_> =
                    access::keys::keys(&encoder).iter().map(|key| key.id).collect();
                names.into_iter().flat_map(|id| revoke_key(&encoder, id)).collect()
            } else {
                add_key(&encoder, self.new_key(None, now, &mut rng), Some(now + KEY_LEFT_MS))
            };
            self.tell(at, record, changes);
            if other != at {
                let spare = self.new_key(None, now, &mut rng);
                self.tell(other, record, add_key(&theirs, spare, Some(now + KEY_LONG_MS)));
            }
        }
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
        let agents = if self.plan.has_mute() { self.plan.encoders } else { 0 };
        for agent in (0..agents).filter(|agent| !has_account(*agent)) {
            let name = Change::Set(NAME, self.encoders[agent].name.clone().into_bytes());
            let mut rng = stream(self.plan.seed, For::StreamKey(self.last_wish));
            let (record, encoder) = self.encoder_record(0, agent);
            let key = add_key(&encoder, self.new_key(Some(agent), 1, &mut rng), None);
            self.tell(0, record, [vec![name], key].concat());
        }
        let viewers =
            (0..self.plan.viewers).map(|viewer| (account(viewer), "viewer", group(viewer)));
        let agents = (0..agents).filter(|agent| has_account(*agent));
        let agents = agents.map(|agent| (numbered(AGENTS, agent), "publisher", None));
        for (ticket, (who, role, group)) in (FIRST..).step_by(3).zip(viewers.chain(agents)) {
            let (person, rule) = keys(who);
            let set = |field, value: &[u8]| Change::Set(field, value.to_vec());
            let who = who.0.to_vec();
            let (named, set_of) = match group {
                Some(group) => (group.id.0.to_vec(), GROUPS),
                None => (who.clone(), ACCOUNTS),
            };
            let role =
                [set(ROLE, role.as_bytes()), set(EVERYTHING, &[1]), Change::Add(set_of, named)];
            // Whoever changed it before that is overwritten.
            self.checks.blurred.extend([person, rule]);
            self.ask_for(0, ticket, person, vec![set(PASSWORD, SECRET)]);
            self.ask_for(0, ticket + 1, rule, role.into());
            if let Some(group) = group {
                self.ask_for(0, ticket + 2, group, vec![Change::Add(MEMBERS, who)]);
            }
        }
    }

    /// Somebody gives or takes a right, at any node.
    pub(crate) fn change_rights(&mut self, edit: usize) {
        let mut rng = stream(self.plan.seed, For::Edit(edit));
        let _when: u64 = rng.random();
        let ix = rng.random_range(0..self.plan.nodes);
        let viewer = rng.random_range(0..self.plan.viewers.max(1));
        let (person, rule) = keys(account(viewer));
        let who = account(viewer).0.to_vec();
        let (key, change) = match (rng.random_range(0..10), group(viewer)) {
            (0, _) => (person, Change::Disable),
            (1 | 2, _) => (person, Change::Enable),
            (3, _) => (rule, Change::Disable),
            (4, Some(group)) => (group, Change::Delete),
            (4 | 5, _) => (rule, Change::Enable),
            (6, Some(group)) => (group, Change::Remove(MEMBERS, who)),
            (7, Some(group)) => (group, Change::Restore),
            (8, Some(group)) => (group, Change::Add(MEMBERS, who)),
            (6, None) => (rule, Change::Remove(ACCOUNTS, who)),
            (7 | 8, None) => (rule, Change::Add(ACCOUNTS, who)),
            _ => {
                let role = ROLES[rng.random_range(0..ROLES.len())];
                (rule, Change::Set(ROLE, role.as_bytes().to_vec()))
            }
        };
        // In a domain that differs nobody has a right, so it would not show which role counts.
        let one = self.plan.viewers == 1;
        let (key, change) = match rng.random_range(0..24) {
            _ if one => (key, change),
            0 => (person, Change::Set(DOMAIN, ELSEWHERE.0.to_vec())),
            1 | 2 => (person, Change::Set(DOMAIN, DEFAULT_DOMAIN.0.to_vec())),
            3 => (rule, Change::Set(DOMAIN, ELSEWHERE.0.to_vec())),
            4 | 5 => (rule, Change::Set(DOMAIN, DEFAULT_DOMAIN.0.to_vec())),
            wide @ (6 | 7) => (rule, Change::Set(EVERYTHING, vec![wide - 6])),
            10 => (person, Change::Set(PASSWORD, OTHER.to_vec())),
            11 | 12 => (person, Change::Set(PASSWORD, SECRET.to_vec())),
            8 | 9 if self.plan.encoders > 0 => {
                let encoder = &self.encoders[rng.random_range(0..self.plan.encoders)];
                (rule, Change::Add(ENCODERS, encoder.id.0.to_vec()))
            }
            _ => (key, change),
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

    /// The same by what records say, read without an index: each encoder is in the default domain.
    pub(crate) fn granted(&self, ledger: &Ledger, rights: &Rights) -> Vec<(usize, usize)> {
        let all = (0..self.plan.viewers).flat_map(|v| (0..self.plan.encoders).map(move |e| (v, e)));
        let may = |&(viewer, encoder): &(usize, usize)| {
            rights.password_of(account(viewer)) == Some(password())
                && self.is_granted(ledger, viewer, encoder)
        };
        all.filter(may).collect()
    }

    fn is_granted(&self, ledger: &Ledger, viewer: usize, encoder: usize) -> bool {
        let who = account(viewer);
        let (person, rule) = keys(who);
        let get = |key| ledger.get(key).filter(Record::exists).filter(|it| !it.is_off());
        let (Some(person), Some(rule)) = (get(person), get(rule)) else { return false };
        let has = |record: &Record, set, id: &[u8]| record.elements(set).any(|it| it == id);
        let all = |record: &Record, field, is: &dyn Fn(&[u8]) -> bool| {
            record.values(field).iter().all(|it| is(it.value))
        };
        // Of two domains neither is it.
        let here = |record: &Record| {
            record.values(DOMAIN).len() <= 1
                && all(record, DOMAIN, &|domain| domain == DEFAULT_DOMAIN.0)
        };
        let granted = rule.value(ROLE).is_some()
            && all(&rule, ROLE, &|role| ROLES.iter().any(|it| it.as_bytes() == role));
        let wide = rule.value(EVERYTHING).is_some() && all(&rule, EVERYTHING, &|it| it == [1]);
        let grouped = group(viewer).is_some_and(|group| {
            let members = ledger.get(group).filter(Record::exists);
            has(&rule, GROUPS, &group.id.0) && members.is_some_and(|it| has(&it, MEMBERS, &who.0))
        });
        here(&person)
            && here(&rule)
            && granted
            && (wide || has(&rule, ENCODERS, &self.encoders[encoder].id.0))
            && (grouped || has(&rule, ACCOUNTS, &who.0))
    }

    /// Of roles that were given to a viewer at the same time the least counts. Who has more?
    pub(crate) fn has_too_much(&self, ix: usize) -> Option<usize> {
        let control = self.nodes[ix].control.as_ref()?;
        let (ledger, rights) = (control.ledger(), control.rights());
        (0..self.plan.viewers).find(|&viewer| {
            let rule = ledger.get(keys(account(viewer)).1);
            let rank = |role: &[u8]| ROLES.iter().position(|it| it.as_bytes() == role);
            let values = rule.as_ref().map(|rule| rule.values(ROLE)).unwrap_or_default();
            let least = values.iter().filter_map(|value| rank(value.value)).min();
            let above = least.and_then(|least| Right::of_role(ROLES.get(least + 1)?));
            let who = Who::Account(account(viewer));
            above.is_some_and(|above| {
                let over = |encoder: EncoderId| rights.may_stream(&who, above, encoder);
                self.encoders.iter().any(|encoder| over(encoder.id))
            })
        })
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
