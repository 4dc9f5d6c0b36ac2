//! One home for each encoder.

use roost::id::{EncoderId, SessionId};
use roost::wire::{ClientMessage, Message as _, NodeMessage, Register, Role};

use super::SLACK;
use crate::media::Frame;
use crate::net::{MS, SEC};
use crate::world::World;

/// Two nodes that are linked and run settle within this time which of them is home.
const SETTLED: u64 = 3 * SEC;
/// Of more it would take too long to look at each.
const ENCODERS_MAX: usize = 60;

impl World {
    /// An agent says something: an epoch under which it wants to be at home is on its disk.
    pub(crate) fn check_epoch(&mut self, agent: usize, bytes: &[u8]) {
        let Ok(ClientMessage::Register(register)) = ClientMessage::decode(bytes) else { return };
        self.check_ask(agent);
        let lease = self.encoders[agent].lease;
        if register.role == Role::Home && register.epoch.counter > lease {
            let name = self.host_name(self.host_of_encoder(agent));
            let text = format!("{name} claims epoch {}, and has {lease} on disk", register.epoch);
            self.fail("fencing", text);
        }
    }

    /// A node takes an encoder in: not under an epoch that it knew to be over.
    pub(crate) fn check_taken(&mut self, ix: usize, session: SessionId, bytes: &[u8]) {
        let registered = match NodeMessage::decode(bytes) {
            Ok(NodeMessage::Registered(registered)) => registered,
            Ok(NodeMessage::Rejected(_)) => {
                self.nodes[ix].asked.remove(&session);
                return;
            }
            _ => return,
        };
        let Some((floor, held)) = self.nodes[ix].asked.remove(&session) else { return };
        let epoch = registered.epoch;
        if registered.role == Role::Home && (epoch < floor || (epoch == floor && !held)) {
            let text = format!("n{ix} takes an encoder in under {epoch}, though it knew {floor}");
            self.fail("fencing", text);
        }
    }

    /// An agent wants to be at home at a node: what does that know of its epochs?
    pub(crate) fn note_asked(&mut self, ix: usize, session: SessionId, register: &Register) {
        let Some(control) = &self.nodes[ix].control else { return };
        let directory = control.directory();
        let held = directory.entry(control.me(), register.encoder);
        let held = held.is_some_and(|entry| entry.epoch == register.epoch);
        let knew = self.checks.knew.get(&(ix, register.encoder));
        let knew = knew.filter(|it| it.0 == self.hosts[ix].life).map(|it| it.1);
        let known = (directory.floor(register.encoder).max(knew.unwrap_or_default()), held);
        self.nodes[ix].asked.insert(session, known);
    }

    /// Those of agents and of publishers.
    fn all_encoders(&self) -> Vec<EncoderId> {
        let agents = self.encoders.iter().map(|encoder| encoder.id);
        agents.chain(self.publishers.iter().map(|publisher| publisher.id)).collect()
    }

    /// The highest epoch of each encoder that a node ever heard of: it may forget none while it
    /// lives.
    pub(super) fn note_epochs(&mut self) {
        for ix in (0..self.plan.nodes).filter(|_| self.encoders.len() <= ENCODERS_MAX) {
            let Some(control) = &self.nodes[ix].control else { continue };
            let life = self.hosts[ix].life;
            for encoder in self.all_encoders() {
                let claims = control.directory().claims(encoder).map(|(_, claim)| claim.epoch);
                let Some(highest) = claims.max() else { continue };
                let knew = self.checks.knew.entry((ix, encoder)).or_insert((life, highest));
                let before = if knew.0 == life { knew.1 } else { highest };
                *knew = (life, highest.max(before));
            }
        }
    }

    /// No two nodes claim an encoder under the same epoch, ever; and no node holds a claim
    /// below an epoch that it knows of.
    pub(super) fn check_claims(&mut self, ix: usize) {
        let Some(control) = &self.nodes[ix].control else { return };
        let me = control.me();
        let mut changed = Vec::new();
        let mut bad = None;
        for (encoder, entry) in control.directory().entries(me) {
            if self.checks.claimed.get(&(ix, encoder)) != Some(&entry.epoch) {
                changed.push((encoder, entry.epoch));
            }
            let floor = control.directory().floor(encoder);
            if floor > entry.epoch {
                bad = Some(format!(
                    "n{ix} claims {} under epoch {}, though it knows of {floor}",
                    encoder.short(),
                    entry.epoch
                ));
            }
        }
        for (encoder, epoch) in changed {
            self.checks.claimed.insert((ix, encoder), epoch);
            let first = *self.checks.claims.entry((encoder, epoch)).or_insert(ix);
            self.check_pool(ix, encoder);
            let name = encoder.short();
            self.trace.say(self.now, || format!("n{ix} claims {name} under epoch {epoch}"));
            if first != ix {
                bad = Some(format!("n{first} and n{ix} claim {name} under epoch {epoch}"));
            }
        }
        if let Some(text) = bad {
            self.fail("fencing", text);
        }
    }

    /// A node takes a frame from an agent: it may only if it did not stand still since the agent
    /// last said that it is at home (or standing by) there.
    pub(crate) fn check_serving(&mut self, ix: usize, frame: Frame) {
        let node = &self.nodes[ix];
        let sworn = node.sworn.get(&frame.encoder).max(node.confirmed.get(&frame.encoder));
        let sworn = sworn.copied().unwrap_or(0);
        if sworn < node.woke && self.now > node.woke {
            let text = format!(
                "n{ix} serves {} after standing still, without having asked",
                frame.encoder.short()
            );
            self.fail("stale", text);
        }
    }

    /// Two nodes that are linked do not both claim an encoder for long.
    pub(super) fn check_rivals(&mut self) {
        let mut now_rivals = std::collections::BTreeMap::new();
        for encoder in self.all_encoders() {
            let claimers: Vec<usize> = (0..self.plan.nodes)
                .filter(|ix| self.runs(*ix) && self.claims(*ix, encoder))
                .collect();
            for (at, &a) in claimers.iter().enumerate() {
                for &b in &claimers[at + 1..] {
                    // Nobody gives way to a claim that is kept secret.
                    let linked = ![a, b].iter().any(|ix| self.liars.contains(ix))
                        && self.nodes[a].links.contains_key(&b)
                        && self.nodes[b].links.contains_key(&a)
                        && self.reach(a, b);
                    if linked {
                        let since = self.checks.rivals.get(&(a, b, encoder)).copied();
                        now_rivals.insert((a, b, encoder), since.unwrap_or(self.now));
                    }
                }
            }
        }
        let limit = SETTLED * self.patience() + SLACK;
        let late = now_rivals.iter().find(|(_, since)| self.now > **since + limit);
        let late = late.map(|((a, b, encoder), since)| {
            let ms = (self.now - since) / MS;
            format!("n{a} and n{b} both claim {} for {ms} ms, though linked", encoder.short())
        });
        self.checks.rivals = now_rivals;
        if let Some(text) = late
            && self.net.loss.is_empty()
        {
            self.fail("rivals", text);
        }
    }

    /// Whether a node says that it is home of an encoder.
    pub(crate) fn claims(&self, ix: usize, encoder: EncoderId) -> bool {
        let control = self.nodes[ix].control.as_ref();
        control.is_some_and(|control| control.directory().entry(control.me(), encoder).is_some())
    }

    /// Every connected encoder has exactly one home, and everyone knows which.
    pub(super) fn check_one_home(&mut self) {
        if !(0..self.plan.nodes).any(|ix| self.is_member(ix)) {
            return;
        }
        for e in 0..self.plan.encoders {
            if !self.agents_of(e).any(|ix| self.hosts[self.host_of_encoder(ix)].up) {
                continue;
            }
            let at_home = self.at_home(e);
            // What was said of pools last may have been lost with the node that it was said to.
            if at_home.is_empty() && self.is_barred(e) {
                continue;
            }
            if at_home.len() != 1 {
                self.fail("one home", format!("{at_home:?} of cam{e}'s agents are at home"));
                return;
            }
            let id = self.encoders[e].id;
            let claimers: Vec<usize> =
                (0..self.plan.nodes).filter(|ix| self.claims(*ix, id)).collect();
            let home = self.home_of(e);
            if claimers.len() != 1 || home != claimers.first().copied() {
                let text = format!("cam{e} says home is {home:?}, claimed by {claimers:?}");
                self.fail("one home", text);
                return;
            }
            for ix in 0..self.plan.nodes {
                let Some(control) = &self.nodes[ix].control else { continue };
                if !self.is_member(ix) {
                    continue;
                }
                let believed = control.directory().home(id, &|n| control.alive().contains(&n));
                let believed = believed.and_then(|(node, _)| self.index.get(&node).copied());
                if believed != home {
                    let text = format!("n{ix} believes cam{e} at {believed:?}, not {home:?}");
                    self.fail("one home", text);
                    return;
                }
            }
            let live = (0..self.plan.nodes).filter(|ix| self.is_member(*ix)).count();
            // One that moved just before the end has its next a moment later.
            if live > 1 && self.next_of(e).is_none() && self.lacks_next_for(e) > SEC {
                self.fail("next", format!("cam{e} has no next among {live} nodes"));
                return;
            }
        }
    }
}
