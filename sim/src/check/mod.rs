//! What must hold: at every step, within a bound after a fault, and at the end.

mod alike;
mod anew;
mod clocks;
mod copies;
mod dials;
mod drain;
mod even;
mod failover;
mod grants;
mod heard;
mod home;
mod index;
mod keyframes;
mod ledger;
mod legs;
mod load;
mod marks;
mod members;
mod next;
mod peers;
mod pools;
mod prompt;
mod published;
mod relayed;
mod resting;
mod returns;
mod rights;
mod room;
mod served;
mod signal;
mod spread;
mod stale;
mod stalls;
mod steady;
mod trust;
mod twins;

pub use even::Evened;
pub(crate) use keyframes::is_request;
pub(crate) use ledger::Wait;
pub use marks::MARKS;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use roost::accounts::{Change, Key};
use roost::id::{EncoderId, Epoch};

use crate::net::{MS, SEC};
use crate::plan::Fault;
use crate::world::{PROBE, World};

/// Something that must hold did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which checker found it.
    pub checker: &'static str,
    /// When, in nanoseconds of the run.
    pub at: u64,
    /// What, in words.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:.3} s: {}", self.checker, self.at as f64 / 1e9, self.text)
    }
}

/// What checkers remember.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Who claimed an encoder under an epoch first.
    pub(crate) claims: BTreeMap<(EncoderId, Epoch), usize>,
    /// The claim of each node that was seen last.
    pub(crate) claimed: BTreeMap<(usize, EncoderId), Epoch>,
    pub(crate) downs: Vec<members::Expected>,
    pub(crate) pictures: Vec<failover::Expected>,
    /// Encoders whose home has ended, and whose next has not.
    pub(crate) forgotten: Vec<anew::Forgotten>,
    pub(crate) seams: Vec<drain::Seam>,
    pub(crate) even: even::Even,
    pub(crate) grants: grants::Grants,
    /// Since when a client and a node reach each other.
    pub(crate) reached: BTreeMap<(usize, usize), u64>,
    /// When a host dialled a node lately, in which life.
    pub(crate) dialled: BTreeMap<(usize, usize), (u64, dials::Lately)>,
    /// When one host said something to another lately.
    pub(crate) said: BTreeMap<(usize, usize), dials::Lately>,
    /// When an agent asked for a place lately.
    pub(crate) asks: BTreeMap<usize, dials::Lately>,
    /// Since when home does not know what its agent says of the camera.
    pub(crate) unsaid: BTreeMap<usize, u64>,
    /// Since when a client is not served.
    pub(crate) unserved: BTreeMap<usize, u64>,
    /// Nodes that kept from others what is at home there, who find out when digests are compared.
    pub(crate) lied: BTreeSet<usize>,
    /// Whether a node believes another alive, and since when.
    pub(crate) minds: BTreeMap<(usize, usize), (bool, u64)>,
    /// Pairs of nodes that reach each other and the same others.
    pub(crate) alike: BTreeMap<(usize, usize), alike::Alike>,
    /// Since when nodes have been as they were when loads were even last.
    pub(crate) filled: Vec<u64>,
    /// When nodes heard each other.
    pub(crate) heard: BTreeMap<(usize, usize), heard::Heard>,
    /// Since when two nodes that could be linked are not.
    pub(crate) unlinked: BTreeMap<(usize, usize), u64>,
    /// Since when a node believes that another, linked one is down.
    pub(crate) unseen: BTreeMap<(usize, usize), u64>,
    /// What a node does not know of what another says of itself.
    pub(crate) untold: BTreeMap<(usize, usize), prompt::Untold>,
    /// Since when a node believes other things of one than that said, of which it has heard all.
    pub(crate) otherwise: BTreeMap<(usize, usize), u64>,
    /// Since when an agent sends what nobody takes.
    pub(crate) unwatched: BTreeMap<usize, u64>,
    /// Since when a page is dark, though there is a way for its pictures.
    pub(crate) dark: BTreeMap<usize, u64>,
    /// Agents that stood still a moment ago.
    pub(crate) woken: Vec<steady::Woken>,
    /// Nodes that stood still a moment ago.
    pub(crate) stood: Vec<stalls::Stood>,
    /// Where each agent was at home last.
    pub(crate) stayed: BTreeMap<usize, returns::Stayed>,
    /// Since when two nodes that are linked both claim an encoder.
    pub(crate) rivals: BTreeMap<(usize, usize, EncoderId), u64>,
    /// The highest epoch of an encoder that a node knew of, in which of its lives.
    pub(crate) knew: BTreeMap<(usize, EncoderId), (u64, Epoch)>,
    /// Encoders without a next.
    pub(crate) nextless: BTreeMap<usize, next::Lack>,
    /// Who stood by for an encoder last, in which life of the two.
    pub(crate) last_next: BTreeMap<usize, next::Stood>,
    /// When a node was home of an encoder or stood by for it last.
    pub(crate) known: BTreeMap<(usize, EncoderId), u64>,
    /// The epoch of each agent.
    pub(crate) epochs: BTreeMap<usize, Epoch>,
    /// What each node asked upstream for keyframes of a stream.
    pub(crate) asked: BTreeMap<(usize, EncoderId), keyframes::Asked>,
    /// When packets or requests were last disturbed.
    pub(crate) rough_at: u64,
    /// When pools or who is in them changed last.
    pub(crate) pooled_at: u64,
    /// Which of an encoder's two agents are at home, and in which lives.
    pub(crate) at_home: BTreeMap<usize, ([u64; 2], Vec<usize>)>,
    /// Changes that were asked for: of which node in which life, and what.
    pub(crate) edits: BTreeMap<u64, (usize, u64, Key, Change)>,
    /// Which values each value was given instead of.
    pub(crate) replaced: BTreeMap<Key, BTreeMap<Vec<u8>, Vec<Vec<u8>>>>,
    /// When a change was asked for that is to be on so many nodes, and how long that may take.
    pub(crate) waits: BTreeMap<u64, Wait>,
    /// Changes that were acknowledged.
    pub(crate) acked: Vec<ledger::Acked>,
    /// Nodes whose records are unlike those of another with equal writes, and since when.
    pub(crate) unlike: BTreeMap<usize, u64>,
    /// When a node wrote down, of itself, that actors are idle.
    pub(crate) named_at: Option<u64>,
    /// A disk was set back.
    pub(crate) set_back: bool,
    /// Records with a change of which it is not known whether it counts.
    pub(crate) blurred: BTreeSet<Key>,
    /// Records that somebody may have enabled or not.
    pub(crate) unsure: BTreeSet<Key>,
    /// Since when all that are linked to a node know the key that it is to take.
    pub(crate) key_known: BTreeMap<usize, u64>,
    /// Nodes whose clock was wrong, and when last.
    pub(crate) wrong_clocks: BTreeMap<usize, u64>,
    /// Since when most clocks that a node knows are right.
    pub(crate) mostly_right: BTreeMap<usize, u64>,
    /// Since when an agent has more connections than it needs.
    pub(crate) crowded: BTreeMap<usize, u64>,
    /// Since when a node that is out serves clients.
    pub(crate) serving: BTreeMap<usize, u64>,
    /// Since when each node's index of where encoders should be is as it is.
    pub(crate) indexed: BTreeMap<usize, index::Index>,
    /// When rights were changed last.
    pub(crate) judged_at: u64,
    /// What happened, and how often.
    pub(crate) marks: BTreeMap<&'static str, u64>,
    /// Numbers worth telling.
    pub(crate) measured: BTreeMap<&'static str, Measure>,
}

/// A number that was measured several times.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// How often.
    pub count: u64,
    /// All together.
    pub sum: u64,
    /// The largest.
    pub max: u64,
}

impl Measure {
    pub(crate) fn add(&mut self, value: u64) {
        self.count += 1;
        self.sum += value;
        self.max = self.max.max(value);
    }

    /// Takes in another's.
    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }
}

impl World {
    /// How much slower than on a near network things may be.
    pub(crate) fn patience(&self) -> u64 {
        if self.plan.net.is_near() { 1 } else { 2 }
    }

    /// No fault began or ended anywhere for this long.
    pub(crate) fn calm_for(&self, span: u64) -> bool {
        self.hosts.iter().all(|host| self.now >= host.touched + span)
    }

    /// Every host that is up runs, and all packets pass.
    pub(crate) fn whole(&self) -> bool {
        !self.net.cut_anywhere()
            && self.hosts.iter().all(|host| !host.frozen)
            && self.net.loss.is_empty()
            && self.net.latency.is_empty()
    }

    /// After every step of a node.
    pub(crate) fn check_node(&mut self, ix: usize) {
        if self.violation.is_none() && !self.unchecked && !self.lenient {
            self.check_claims(ix);
        }
    }

    /// Regularly.
    pub(crate) fn check_probe(&mut self) {
        self.tally_world();
        self.note_alike();
        self.note_epochs();
        self.note_arrived();
        self.check_prompt();
        self.check_copies();
        self.check_relayed();
        self.note_minds();
        self.check_downs();
        self.check_rivals();
        self.check_pictures();
        self.check_anew();
        self.check_seams();
        self.check_drained();
        self.check_served();
        self.check_next();
        self.check_steady();
        self.check_stalls();
        self.check_returns();
        self.check_signals();
        self.note_rough();
        self.check_twins();
        self.check_trust();
        self.check_keys();
        self.check_clocks();
        self.check_rights();
        self.mark_states();
        self.check_spread();
        self.note_known();
        self.check_standby();
        self.check_rooms();
        self.check_index();
        self.check_legs();
        self.check_shut();
        self.check_published();
        self.check_resting();
    }

    /// When everything had time to recover.
    pub(crate) fn check_end(&mut self) {
        if !self.whole() {
            return;
        }
        self.check_members();
        self.check_same_statements();
        self.check_one_home();
        self.check_peers();
        self.check_ledger();
        self.check_all_see();
        self.check_all_published();
    }

    /// A fault is about to begin.
    pub(crate) fn expect_before(&mut self, fault: &Fault, hosts: &[usize]) {
        self.expect_pictures(fault, hosts);
        self.expect_anew(fault, hosts);
    }

    /// A fault has begun.
    pub(crate) fn expect_after(&mut self, fault: &Fault, hosts: &[usize]) {
        self.expect_downs(fault, hosts);
    }

    pub(crate) fn measure(&mut self, what: &'static str, value: u64) {
        self.checks.measured.entry(what).or_default().add(value);
    }

    /// Where an encoder's agent says that its home is.
    pub(crate) fn home_of(&self, encoder: usize) -> Option<usize> {
        self.agents_of(encoder).find_map(|agent| self.home_by(agent))
    }

    /// Where this agent says that its home is.
    fn home_by(&self, agent: usize) -> Option<usize> {
        let agent = self.encoders.get(agent)?.agent.as_ref()?;
        self.index.get(&agent.home()?).copied()
    }

    /// Where an encoder's agent says that its next is.
    pub(crate) fn next_of(&self, encoder: usize) -> Option<usize> {
        self.agents_of(encoder).find_map(|ix| {
            let agent = self.encoders.get(ix)?.agent.as_ref()?;
            self.index.get(&agent.next()?).copied()
        })
    }
}

/// Checks are made on a grid of [`PROBE`].
const SLACK: u64 = PROBE + 10 * MS;
const _: () = assert!(SLACK < SEC);
