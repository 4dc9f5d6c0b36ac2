//! What the client's machines share: one connection to one node, with its heartbeat, and the
//! choice of where to dial next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::id::NodeId;
use crate::session::{
    PING_DOUBTED, PING_IDLE, PING_WATCHED, SILENCE_IDLE, SILENCE_WATCHED, SILENCE_WATCHED_MAX,
};
use crate::time::Mono;
use crate::wire::PeerList;

/// One connection of a client, numbered by its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegId(pub u32);

/// A dial that has not come to anything by then is given up.
pub const DIAL_DEADLINE: Duration = Duration::from_secs(4);
/// While a client has no node at all, it tries another address this often beside the dials that
/// are under way.
pub const DIAL_STAGGER: Duration = Duration::from_millis(250);
/// Dials under way at a time: where half of all nodes just died, so many dead ones in a row are rare,
/// and whoever dials nothing else waits for [`DIAL_DEADLINE`].
pub const DIALS_MAX: usize = 8;
/// First and longest wait before an address is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(150);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long an address must have worked until its next failure is a new one: a node that is leaving
/// lets in and says goodbye, and would be dialled six times a second.
const MENDED: Duration = Duration::from_secs(10);
/// Spans over which the slowest answer is remembered, twice this long in all.
const JITTER_WINDOW: Duration = Duration::from_secs(10);

/// When a leg was heard and what that says of its path.
#[derive(Debug)]
pub struct Pulse {
    /// Last sign of life.
    pub heard: Mono,
    pinged: Option<Mono>,
    number: u64,
    /// Fast pinging since then; `None` while idle.
    fast_since: Option<Mono>,
    slowest: [Duration; 2],
    window: Mono,
}

impl Pulse {
    /// A leg that was just heard for the first time.
    pub fn new(now: Mono) -> Self {
        Self {
            heard: now,
            pinged: None,
            number: 0,
            fast_since: None,
            slowest: [Duration::ZERO; 2],
            window: now,
        }
    }

    /// Something came from the other side.
    pub fn hear(&mut self, now: Mono) {
        if now.since(self.window) >= JITTER_WINDOW {
            self.slowest = [Duration::ZERO, self.slowest[0]];
            self.window = now;
        }
        if let Some(fast) = self.fast_since {
            let gap = now.since(self.heard.max(fast));
            self.slowest[0] = self.slowest[0].max(gap);
        }
        self.heard = now;
    }

    /// The client itself stood still: what was not heard meanwhile proves nothing.
    pub fn forgive(&mut self, now: Mono) {
        self.heard = now;
    }

    /// Switches between the two paces.
    pub fn set_fast(&mut self, now: Mono, fast: bool) {
        match (fast, self.fast_since) {
            (true, None) => (self.fast_since, self.pinged) = (Some(now), None),
            (false, Some(_)) => self.fast_since = None,
            _ => {}
        }
    }

    /// The number of the ping that is due now, if one is.
    pub fn ping(&mut self, now: Mono) -> Option<u64> {
        (self.pinged.is_none() || now >= self.ping_due()).then(|| {
            self.pinged = Some(now);
            self.number += 1;
            self.number
        })
    }

    /// How many pings there were: the number of the last.
    pub fn pings(&self) -> u64 {
        self.number
    }

    /// How long the leg may be silent before it counts as dead: at the watched pace a multiple
    /// of the slowest answer lately, so that a jittery path or a busy machine stretches it.
    pub fn limit(&self) -> Duration {
        if self.fast_since.is_none() {
            return SILENCE_IDLE;
        }
        let slowest = self.slowest[0].max(self.slowest[1]);
        (slowest * 3 / 2 + PING_WATCHED).clamp(SILENCE_WATCHED, SILENCE_WATCHED_MAX)
    }

    /// How long it was silent although it was asked: what is asked seldom is not silent yet when
    /// it begins to be asked often.
    pub fn silence(&self, now: Mono) -> Duration {
        now.since(self.silent_since())
    }

    /// Silent for longer than the limit.
    pub fn silent(&self, now: Mono) -> bool {
        self.silence(now) >= self.limit()
    }

    /// When to look again.
    pub fn next_wake(&self) -> Mono {
        self.ping_due().min(self.silent_since() + self.limit())
    }

    fn silent_since(&self) -> Mono {
        self.heard.max(self.fast_since.unwrap_or_default())
    }

    fn ping_due(&self) -> Mono {
        let Some(pinged) = self.pinged else { return self.heard };
        if self.fast_since.is_some() {
            return pinged + PING_WATCHED;
        }
        let unanswered = self.heard + PING_IDLE + PING_DOUBTED * 2;
        (pinged + PING_IDLE).min(unanswered.max(pinged + PING_DOUBTED))
    }
}

/// Addresses with their waits: which to dial next.
#[derive(Debug)]
pub struct Book {
    targets: Vec<String>,
    peers: Arc<PeerList>,
    /// What the node of each leg said last, oldest first. Equal lists are one: of a large mesh each
    /// is large.
    said: Vec<(LegId, Arc<PeerList>)>,
    tries: BTreeMap<String, Try>,
    rng: ChaCha8Rng,
}

#[derive(Debug, Clone, Copy)]
struct Try {
    failures: u32,
    not_before: Mono,
    /// Since when it works again.
    worked: Option<Mono>,
    /// When a list called it up again.
    risen: Option<Mono>,
}

impl Book {
    /// `targets` from the command line, `peers` from an earlier run.
    pub fn new(targets: Vec<String>, peers: PeerList, rng: ChaCha8Rng) -> Self {
        let peers = Arc::new(peers);
        Self { targets, peers, said: Vec::new(), tries: BTreeMap::new(), rng }
    }

    /// The peer list in force.
    pub fn peers(&self) -> &PeerList {
        &self.peers
    }

    /// The peer list that the node of this leg says now; true if it differs.
    pub fn set_peers(&mut self, now: Mono, leg: LegId, peers: PeerList) -> bool {
        self.said.retain(|(other, _)| *other != leg);
        let same = peers == *self.peers;
        self.said.push((leg, if same { Arc::clone(&self.peers) } else { Arc::new(peers) }));
        self.newest_counts(now)
    }

    /// Forgets what was said on legs that are no more: a node says its list once, so that of one
    /// that stands must not be lost to that of one that is gone. True if another list counts now.
    pub fn keep_of(&mut self, now: Mono, stands: impl Fn(LegId) -> bool) -> bool {
        let before = self.said.len();
        self.said.retain(|(leg, _)| stands(*leg));
        before != self.said.len() && self.newest_counts(now)
    }

    /// Without a word, the last list stays. Nodes that rise in it are dialled at once, but not again
    /// and again: lists of nodes that differ, or of one that leaves, take turns as legs come and go.
    fn newest_counts(&mut self, now: Mono) -> bool {
        let Some((_, peers)) = self.said.last() else { return false };
        if Arc::ptr_eq(peers, &self.peers) || *peers == self.peers {
            return false;
        }
        let up = self.peers.nodes.iter().filter(|peer| peer.up);
        let were_up: BTreeSet<NodeId> = up.map(|peer| peer.node).collect();
        let risen = peers.nodes.iter().filter(|peer| peer.up && !were_up.contains(&peer.node));
        for addr in risen.flat_map(|peer| &peer.addrs) {
            if let Some(t) = self.tries.get_mut(addr)
                && t.risen.is_none_or(|at| now.since(at) >= RETRY_MAX)
            {
                *t = Try { failures: 0, not_before: now, worked: None, risen: Some(now) };
            }
        }
        self.peers = Arc::clone(peers);
        true
    }

    /// Whether the last list called this node dead; a node that is not on it counts as that.
    pub fn dead(&self, node: NodeId) -> bool {
        !self.peers.nodes.iter().any(|peer| peer.node == node && (peer.up || peer.draining))
    }

    /// An address of this node that may be dialled now.
    pub fn address_of(&self, now: Mono, node: NodeId) -> Option<String> {
        let peer = self.peers.nodes.iter().find(|peer| peer.node == node)?;
        peer.addrs.iter().find(|addr| self.ready(now, addr)).cloned()
    }

    /// Any address that may be dialled now: live peers first in random order, then what the
    /// command line said, then peers thought dead.
    pub fn anywhere(
        &mut self,
        now: Mono,
        busy: &[String],
        avoid: Option<NodeId>,
    ) -> Option<(Option<NodeId>, String)> {
        let mut choices = Vec::new();
        for peer in &self.peers.nodes {
            let rank = match (peer.up, Some(peer.node) == avoid) {
                (true, false) => 0,
                (false, _) => 2,
                (true, true) => 3,
            };
            choices.extend(peer.addrs.iter().map(|a| (rank, Some(peer.node), a.clone())));
        }
        choices.extend(self.targets.iter().map(|addr| (1, None, addr.clone())));
        choices.retain(|(_, _, addr)| self.ready(now, addr) && !busy.contains(addr));
        let best = choices.iter().map(|(rank, ..)| *rank).min()?;
        choices.retain(|(rank, ..)| *rank == best);
        let pick = self.rng.random_range(0..choices.len());
        let (_, node, addr) = choices.swap_remove(pick);
        Some((node, addr))
    }

    /// The same of peers that the last list calls dead: in another part of the mesh they may live.
    pub fn apart(&mut self, now: Mono, busy: &[String]) -> Option<(Option<NodeId>, String)> {
        let dead = self.peers.nodes.iter().filter(|peer| !peer.up && !peer.draining);
        let addrs = dead.flat_map(|peer| peer.addrs.iter().map(|addr| (peer.node, addr)));
        let mut choices: Vec<_> = addrs
            .filter(|(_, addr)| self.ready(now, addr) && !busy.contains(addr))
            .map(|(node, addr)| (Some(node), addr.clone()))
            .collect();
        if choices.is_empty() {
            return None;
        }
        let pick = self.rng.random_range(0..choices.len());
        Some(choices.swap_remove(pick))
    }

    /// A dial came to nothing: the address waits, longer each time, with jitter.
    pub fn failed(&mut self, now: Mono, addr: &str) {
        let mended = |t: &Try| t.worked.is_some_and(|since| now.since(since) >= MENDED);
        let before = self.tries.get(addr);
        let risen = before.and_then(|t| t.risen);
        let failures = before.filter(|t| !mended(t)).map_or(0, |t| t.failures).min(16) + 1;
        let wait = (RETRY_FIRST * 2u32.pow(failures - 1)).min(RETRY_MAX);
        let jitter = self.rng.random_range(0.7..1.3);
        let not_before = now + wait.mul_f64(jitter);
        self.tries.insert(addr.to_owned(), Try { failures, not_before, worked: None, risen });
        // Addresses come from peer lists of members only; still, bound what one may add.
        while self.tries.len() > TRIES_MAX {
            self.tries.pop_first();
        }
    }

    /// This long, give or take, so that not everybody comes back at once.
    pub fn jitter(&mut self, wait: Duration) -> Duration {
        wait.mul_f64(self.rng.random_range(0.7..1.3))
    }

    /// A dial worked: the address may be dialled again at once, its failures are forgotten later.
    pub fn worked(&mut self, now: Mono, addr: &str) {
        if let Some(before) = self.tries.get_mut(addr) {
            before.not_before = now;
            before.worked = Some(now);
        }
    }

    /// A leg that had been let in is over: if it lasted, what failed meanwhile says nothing of what
    /// comes after it. A node that leaves lets nobody else in until it is gone.
    pub fn ended(&mut self, addr: &str, lasted: Duration) {
        if lasted >= MENDED {
            self.tries.remove(addr);
        }
    }

    /// How often in a row this node's best address failed; none once it works.
    pub fn failures(&self, node: NodeId) -> u32 {
        let peer = self.peers.nodes.iter().find(|peer| peer.node == node);
        let tries = peer.into_iter().flat_map(|peer| &peer.addrs).map(|a| self.tries.get(a));
        let failures = |t: &Try| if t.worked.is_some() { 0 } else { t.failures };
        tries.map(|t| t.map_or(0, failures)).min().unwrap_or(0)
    }

    /// When an address that waits becomes ready.
    pub fn next_wake(&self, now: Mono) -> Option<Mono> {
        self.tries.values().map(|t| t.not_before).filter(|at| *at > now).min()
    }

    fn ready(&self, now: Mono, addr: &str) -> bool {
        self.tries.get(addr).is_none_or(|t| t.not_before <= now)
    }
}

/// Addresses whose failures are remembered: two for each of 500 nodes.
const TRIES_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(1_000_000_000 + ms * 1_000_000)
    }

    fn peer(node: u8) -> crate::wire::Peer {
        crate::wire::Peer {
            node: NodeId([node; 16]),
            name: format!("n{node}"),
            addrs: vec![format!("n{node}:1")],
            up: true,
            draining: false,
            later: crate::grow::Later::default(),
        }
    }

    #[test]
    fn a_watched_leg_is_silent_after_the_limit_and_not_before() {
        let mut pulse = Pulse::new(at(0));
        pulse.set_fast(at(0), true);
        for ms in (0..1000).step_by(40) {
            pulse.hear(at(ms));
        }
        assert!(!pulse.silent(at(1200)));
        assert!(pulse.silent(at(1250)));
    }

    #[test]
    fn a_slow_answer_stretches_the_limit_for_a_while() {
        let mut pulse = Pulse::new(at(0));
        pulse.set_fast(at(0), true);
        pulse.hear(at(400));
        assert_eq!(pulse.limit(), Duration::from_millis(640));
        for ms in (400..25_000).step_by(40) {
            pulse.hear(at(ms));
        }
        assert_eq!(pulse.limit(), SILENCE_WATCHED);
    }

    #[test]
    fn an_idle_leg_is_pinged_rarely_until_an_answer_is_overdue() {
        let mut pulse = Pulse::new(at(0));
        let mut pings = Vec::new();
        while !pulse.silent(pulse.next_wake()) {
            let now = pulse.next_wake();
            if pulse.ping(now).is_some() {
                pings.push(now.since(at(0)).as_millis());
                if pings.len() == 2 {
                    pulse.hear(now);
                }
            }
        }
        assert_eq!(pings[..3], [0, 3_000, 6_000]);
        // The last answer came at three seconds.
        assert_eq!(pings[3..], [7_000, 7_500, 8_000, 8_500, 9_000, 9_500, 10_000, 10_500]);
    }

    #[test]
    fn an_address_that_lets_in_and_says_goodbye_is_dialled_ever_more_rarely() {
        let rng = rand::SeedableRng::seed_from_u64(1);
        let mut book = Book::new(vec!["n1:1".into()], PeerList::default(), rng);
        let mut wait = |now: u64| {
            assert!(book.anywhere(at(now), &[], None).is_some(), "a dial at {now} ms");
            book.worked(at(now), "n1:1");
            book.failed(at(now + 1), "n1:1");
            let ready = book.next_wake(at(now + 1)).expect("it waits");
            u64::try_from(ready.since(at(0)).as_millis()).expect("small") + 1
        };
        let (mut now, mut dials) = (0, 0);
        while now < 60_000 {
            now = wait(now);
            dials += 1;
        }
        assert!((14..=24).contains(&dials), "{dials} dials in a minute");
        // One that worked for a while is as good as new.
        book.worked(at(now), "n1:1");
        book.failed(at(now) + MENDED, "n1:1");
        let ready = book.next_wake(at(now) + MENDED).expect("it waits");
        assert!(ready.since(at(now) + MENDED) < RETRY_FIRST * 2);
        // Nor does it count once the leg that was there all the while is over.
        book.ended("n1:1", MENDED);
        assert!(book.anywhere(at(now) + MENDED, &[], None).is_some());
    }

    #[test]
    fn the_list_of_a_node_that_stands_counts_again_when_another_is_gone() {
        let all = PeerList { nodes: vec![peer(1), peer(2), peer(3)] };
        let few = PeerList { nodes: vec![peer(2)] };
        let rng = rand::SeedableRng::seed_from_u64(1);
        let mut book = Book::new(Vec::new(), PeerList::default(), rng);
        assert!(book.set_peers(at(0), LegId(1), all.clone()));
        assert!(book.set_peers(at(0), LegId(2), few.clone()));
        assert!(!book.keep_of(at(0), |_| true));
        assert_eq!(book.peers(), &few);
        assert!(book.keep_of(at(0), |leg| leg == LegId(1)));
        assert_eq!(book.peers(), &all);
        assert!(!book.keep_of(at(0), |_| false), "without a word the last list stays");
        assert_eq!(book.peers(), &all);
    }

    #[test]
    fn a_node_that_lists_call_up_and_down_by_turns_is_not_dialled_each_time() {
        let list = |up| PeerList { nodes: vec![crate::wire::Peer { up, ..peer(1) }] };
        let rng = rand::SeedableRng::seed_from_u64(1);
        let mut book = Book::new(Vec::new(), PeerList::default(), rng);
        let node = NodeId([1; 16]);
        book.set_peers(at(0), LegId(1), list(true));
        let mut dials = 0;
        for now in 0..1_000 {
            book.set_peers(at(now), LegId(2), list(false));
            if book.address_of(at(now), node).is_some() {
                book.failed(at(now), "n1:1");
                dials += 1;
            }
            book.keep_of(at(now), |leg| leg == LegId(1));
        }
        assert!(dials < 6, "{dials} dials in a second");
        book.set_peers(at(6_000), LegId(2), list(false));
        book.failed(at(6_000), "n1:1");
        book.keep_of(at(6_001), |leg| leg == LegId(1));
        assert!(book.address_of(at(6_001), node).is_some(), "that is news again");
    }

    #[test]
    fn silence_from_before_the_fast_pace_does_not_count() {
        let mut pulse = Pulse::new(at(0));
        pulse.set_fast(at(2900), true);
        assert!(!pulse.silent(at(3100)));
        assert!(pulse.silent(at(3200)));
    }
}
