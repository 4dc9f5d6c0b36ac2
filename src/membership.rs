//! Who is alive: foca (SWIM) as a machine, with what foca leaves to its host.
//!
//! Datagrams are small and may get lost; *states* are for an ordered stream: of its sender alone when
//! a link comes up, and whole member lists, exchanged then, when fingerprints differ, and now and then,
//! at a pace that many members slow down (ADR 21). On top of foca:
//!
//! - A node that stood still for longer than the suspicion time, or that hears nobody at all, is
//!   itself the one in doubt. It is *reborn*: it drops what foca knew, takes a higher generation,
//!   and asks those it remembers, before it says anything about anyone. Otherwise it would tell
//!   everybody that everybody is down.
//! - Time during which this node stood still does not count against others, and a member that was
//!   heard within the suspicion time is not declared down by its silence elsewhere.
//! - Each node sends a one-byte beat to the next few in the order of ids, and they suspect it as
//!   soon as it falls silent. Random probes alone find a dead node soon on average, but now and
//!   then take several rounds longer.
//! - After a split, each side would tell the other that it is dead. The smaller side, and both of
//!   equal ones, are reborn while they are apart and forget such verdicts.
//! - A verdict of others counts where the same is suspected for a while already. Of a member that
//!   nobody suspects here it is a suspicion, and the member is asked: others may have been cut off
//!   from it, and this node never was.
//! - A suspicion that was refuted is dropped; foca 2.0 acts on it all the same.

mod exchange;
mod identity;
mod swim;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foca::{Foca, NoCustomBroadcast};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

pub use crate::cluster::Liveness;
use crate::id::{Boot, NodeId};
use crate::time::{Mono, Now, earlier};
use exchange::Told;
use identity::{Identity, LeanCodec, Written, digest_packet};
use swim::{Due, Rebirth};
use timing::{Pace, Trips};

pub use identity::{GOSSIP_ADDR_MAX, GOSSIP_ADDRS_MAX, PACKET_MAX};

/// The most members that are kept, ten times the supported size: foca scans them all.
pub const MEMBERS_MAX: usize = 2000;
/// How late a call must be to count as a stall: well above what a busy machine's scheduler does
/// all the time, well below the shortest suspicion time.
pub const STALL_NOTICE: Duration = Duration::from_millis(100);
/// How long timers wait after a stall, so that datagrams that were queued are handled first.
const STALL_GRACE: Duration = Duration::from_millis(30);
/// The machine's own heartbeat: how often it looks for what foca has no timer for. Also what makes
/// a stall visible while there is no other timer.
const TICK: Duration = Duration::from_millis(100);
/// How many watch each node: one of them may die with it.
const WATCHERS: usize = 3;
/// From one suspicion of a silent node to the next; the first may have been refuted through others.
const DOUBT_AGAIN: Duration = Duration::from_secs(5);
/// Members that go down within so long of each other, and two suspicion times, are one event.
const SPLIT_WINDOW: Duration = Duration::from_secs(5);
/// How long after the last of them a split is taken for complete: the news is everywhere by then.
const SPLIT_SETTLED: Duration = Duration::from_secs(1);
/// From one comparison of fingerprints with a random member to the next.
const DIGEST_EVERY: Duration = Duration::from_millis(1000);
/// The same while members come and go.
const DIGEST_SOON: Duration = Duration::from_millis(250);
/// How long after a change fingerprints are compared more often.
const UNREST: Duration = Duration::from_secs(2);
/// From one full exchange with a random member to the next, in case fingerprints deceive.
const FULL_EVERY: Duration = Duration::from_secs(10);
/// With more members than this it is as many times rarer.
const FULL_MEMBERS: usize = 32;
/// From one full exchange with the same member to the next, when it is not known to be up.
const PULL_AGAIN: Duration = Duration::from_millis(1000);
/// The same, when there is a sign that it is there or knows more.
const PULL_SOON: Duration = Duration::from_millis(200);
/// With more news than this to tell, that a member is there is not handed on: each piece is told some
/// ten times and a packet holds twenty, so that packets would be full for long of what lists have
/// brought around by then. What is said against a member is always handed on.
const NEWS_MAX: usize = 64;
/// A list costs as much as there are members: after a full exchange that this node began, none is
/// begun by a link that comes up or a fingerprint that differs for so long for each of them. There
/// are as many links as members, and what each knows would be the same.
const LIST_EACH: Duration = Duration::from_micros(500);
/// How many full exchanges begin at once.
const PULL_FANOUT: usize = 3;
/// After a rebirth, how much longer than the suspicion time a member is believed to be there that
/// nobody has spoken of: links are dialled anew in that time.
const RECALL: Duration = Duration::from_secs(3);
/// How many suspicion times a member's own datagrams can delay the verdict that others, who do not
/// hear it, will reach anyway.
const VETO_SUSPICIONS: u32 = 2;
/// How many rounds of gossip a node sends after it has left.
const FAREWELLS: u8 = 6;
/// From one such round to the next.
const FAREWELL_EVERY: Duration = Duration::from_millis(50);

/// A node as the rest of the program knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Which.
    pub node: NodeId,
    /// Its boot.
    pub boot: Boot,
    /// `host:port`, best first; at most [`GOSSIP_ADDRS_MAX`].
    pub addrs: Vec<String>,
}

/// What happens to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A membership datagram came over the link of `from`.
    Datagram {
        /// Proved by the link.
        from: NodeId,
        /// As it came.
        bytes: Vec<u8>,
    },
    /// A member list came over the stream of the link of `from`.
    State {
        /// Proved by the link.
        from: NodeId,
        /// As it came.
        bytes: Vec<u8>,
        /// `from` wants this node's list in return.
        reply: bool,
    },
    /// A link came up.
    Linked(NodeId),
    /// A link is gone.
    Unlinked(NodeId),
    /// The smoothed round trip of every link, in order of node, about once a second.
    Rtt(Vec<(NodeId, Duration)>),
    /// No member of the mesh any more: as if it had never been heard of.
    Forget(NodeId),
    /// This node stops: say goodbye. The machine does nothing else from then on.
    Leave,
    /// It is [`Membership::next_wake`].
    Wake,
}

/// What the machine wants done or known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send a datagram, at most [`PACKET_MAX`] bytes. Drop it if there is no link.
    Datagram {
        /// To whom.
        to: NodeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Send a member list on the ordered stream of the link. Drop it if there is no link.
    State {
        /// To whom.
        to: NodeId,
        /// What.
        bytes: Vec<u8>,
        /// Asks for the receiver's list in return.
        reply: bool,
    },
    /// The node is there: new, back, or no longer suspected.
    Up(Peer),
    /// Someone got no answer from it. It still counts as up.
    Suspect(NodeId),
    /// It is declared dead.
    Down(NodeId),
    /// It said goodbye.
    Left(NodeId),
    /// It restarted without having been missed; not a [`Effect::Down`].
    Renamed(Peer),
    /// This node stood still for so long; at least [`STALL_NOTICE`].
    Stalled(Duration),
}

/// What was dropped, refused or done out of the ordinary, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Datagrams and states that do not decode.
    pub malformed: u64,
    /// Datagrams and states that claim another sender than the link's.
    pub not_the_sender: u64,
    /// Datagrams that decode, but that foca refuses.
    pub refused: u64,
    /// News of nodes beyond [`MEMBERS_MAX`].
    pub over_limit: u64,
    /// Suspicions of nodes that fell silent, before a probe missed them.
    pub silent: u64,
    /// Suspicions that were refuted before their time was up.
    pub refuted: u64,
    /// Verdicts that were put off because the suspect had just been heard.
    pub spared: u64,
    /// Verdicts of others on nodes that nobody suspects here, which count as suspicions.
    pub doubted: u64,
    /// Stalls of this node.
    pub stalls: u64,
    /// Rebirths after a stall.
    pub reborn_stalled: u64,
    /// Rebirths because nobody was heard any more.
    pub reborn_isolated: u64,
    /// Rebirths because at least half of the mesh went down at once.
    pub reborn_split: u64,
    /// Rebirths to change the timing.
    pub reborn_retimed: u64,
    /// Rebirths because others know a newer self of this node, as after an old data folder was
    /// put back.
    pub reborn_outgrown: u64,
    /// Times that others had declared this node down.
    pub rejoined: u64,
}

/// What the rest of the program has been told of a node.
#[derive(Debug)]
struct Seen {
    peer: Peer,
    liveness: Liveness,
    /// Since when it is that.
    since: Mono,
    /// After a rebirth: down by then unless somebody speaks of it.
    recall: Option<Mono>,
}

type Swim = Foca<Identity, LeanCodec, ChaCha8Rng, NoCustomBroadcast>;

/// The machine. See the module's documentation.
pub struct Membership {
    me: Identity,
    swim: Swim,
    timers: BTreeMap<(Mono, u8, u64), Due>,
    timer_count: u64,
    pace: Pace,
    trips: Trips,
    rng: ChaCha8Rng,
    seen: BTreeMap<NodeId, Seen>,
    /// The program was told of all of foca's list but what it has written since.
    reported: bool,
    /// Members that are not down, if nothing changed since that was worked out.
    active: Option<BTreeSet<NodeId>>,
    /// The linked nodes that are not among them, likewise.
    apart: Option<Vec<NodeId>>,
    /// What the members that are not down add to a digest, likewise.
    summed: Option<u64>,
    written: Written,
    /// The next round of gossip.
    gossip: Option<(Mono, Due)>,
    /// When the first of those recalled may be down.
    recall_at: Option<Mono>,
    /// Identities that said goodbye.
    left: BTreeMap<NodeId, (Boot, u32)>,
    /// Since when.
    linked: BTreeMap<NodeId, Mono>,
    heard: BTreeMap<NodeId, Mono>,
    heard_anyone: Option<Mono>,
    /// Silence before this is this node's own.
    listening_since: Mono,
    doubted: BTreeMap<NodeId, Mono>,
    /// Members that went down lately.
    losses: Vec<(NodeId, Mono)>,
    beat_at: Mono,
    pulled: BTreeMap<NodeId, Mono>,
    /// No sooner does a mere sign begin a full exchange: see [`LIST_EACH`].
    lists_at: Mono,
    hold: Option<Mono>,
    tick_at: Mono,
    digest_at: Mono,
    full_at: Mono,
    unrest_until: Mono,
    /// Rounds of gossip left to send after [`Event::Leave`].
    farewells: Option<u8>,
    counters: Counters,
}

impl Membership {
    /// A node that knows nobody yet. `me.boot` must be higher than at any earlier start; `seed` is
    /// random.
    pub fn new(me: Peer, now: Now, seed: [u8; 32], _effects: &mut Vec<Effect>) -> Self {
        let me = Identity::new(&me);
        let mut rng = ChaCha8Rng::from_seed(seed);
        let pace = Pace::new();
        let written = Written::default();
        let swim =
            Foca::new(me.clone(), pace.config(), rng_from(&mut rng), LeanCodec(written.clone()));
        let now = now.mono;
        Self {
            me,
            swim,
            timers: BTreeMap::new(),
            timer_count: 0,
            pace,
            trips: Trips::default(),
            rng,
            seen: BTreeMap::new(),
            reported: false,
            active: None,
            apart: None,
            summed: None,
            written,
            gossip: None,
            recall_at: None,
            left: BTreeMap::new(),
            linked: BTreeMap::new(),
            heard: BTreeMap::new(),
            heard_anyone: None,
            listening_since: now,
            doubted: BTreeMap::new(),
            losses: Vec::new(),
            beat_at: now,
            pulled: BTreeMap::new(),
            lists_at: now,
            hold: None,
            tick_at: now + TICK,
            digest_at: now + DIGEST_EVERY,
            full_at: now + FULL_EVERY,
            unrest_until: now,
            farewells: None,
            counters: Counters::default(),
        }
    }

    /// Takes in one event. Call it with [`Event::Wake`] at [`Membership::next_wake`]; after the
    /// process stood still, any event will do, and datagrams that were queued may come before or
    /// after the wake-up.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        let now = now.mono;
        if self.farewells.is_some() {
            self.say_farewell(now, effects);
            return;
        }
        self.notice_stall(now, effects);
        match event {
            Event::Datagram { from, bytes } => self.on_datagram(now, from, &bytes, effects),
            Event::State { from, bytes, reply } => {
                self.on_state(now, from, &bytes, reply, effects);
            }
            Event::Linked(node) => {
                self.linked.insert(node, now);
                self.apart = None;
                if !self.is_active(node) && self.lists_at <= now {
                    self.pull(now, node, Duration::ZERO, effects);
                } else {
                    self.push(node, Told::Nobody, false, effects);
                    let bytes = digest_packet(self.digest());
                    effects.push(Effect::Datagram { to: node, bytes });
                }
            }
            Event::Unlinked(node) => {
                self.linked.remove(&node);
                self.apart = None;
                self.pulled.remove(&node);
            }
            Event::Rtt(trips) => {
                if let Some(rtt) = self.trips.observe(&trips)
                    && self.pace.observe(now, rtt)
                {
                    self.rebirth(now, Rebirth::Retimed, effects);
                }
            }
            Event::Forget(node) => {
                self.forget(now, node, effects);
            }
            Event::Leave => {
                self.leave(now, effects);
                return;
            }
            Event::Wake => {}
        }
        self.run_timers(now, effects);
    }

    /// When to call again with [`Event::Wake`]; `None` once the node has left.
    pub fn next_wake(&self) -> Option<Mono> {
        match self.farewells {
            Some(0) => None,
            Some(_) => Some(self.tick_at),
            None if self.hold.is_some() => self.hold,
            None => {
                let backlog = self.swim.updates_backlog() > 0;
                let gossip = self.gossip.as_ref().filter(|_| backlog).map(|(at, _)| *at);
                let timer = self.timers.first_key_value().map(|(key, _)| key.0);
                earlier(earlier(timer, gossip), Some(self.tick_at))
            }
        }
    }

    /// What is believed of a node, this one included; `None` if it was never heard of.
    pub fn state(&self, node: NodeId) -> Option<Liveness> {
        if node == self.me.node {
            let left = self.farewells.is_some();
            return Some(if left { Liveness::Left } else { Liveness::Up });
        }
        Some(self.seen.get(&node)?.liveness)
    }

    /// The latest round trip of the link to a node, if there is one that was measured.
    pub fn rtt(&self, node: NodeId) -> Option<Duration> {
        self.trips.latest(node).filter(|_| self.linked.contains_key(&node))
    }

    /// All nodes ever heard of, without this one.
    pub fn peers(&self) -> impl Iterator<Item = (&Peer, Liveness)> {
        self.seen.values().map(|seen| (&seen.peer, seen.liveness))
    }

    /// A node as it was heard of last, unless it is this one.
    pub fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.seen.get(&node).map(|seen| &seen.peer)
    }

    /// Whether a node is up; a suspect is until it is declared down. True of this one.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.state(node).is_some_and(is_up)
    }

    /// The boot that this node is known by. Higher than the one it was made with if others know
    /// a later boot of it, as after an old data folder was put back: then store this one.
    pub fn boot(&self) -> Boot {
        self.me.boot
    }

    /// The suspicion time in force: how long a silent node is suspected before it is down.
    pub fn suspicion(&self) -> Duration {
        self.pace.timing().suspect
    }

    /// What was dropped, refused or done out of the ordinary.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn forget(&mut self, now: Mono, node: NodeId, effects: &mut Vec<Effect>) {
        let known = self.swim.iter_membership_state().find(|member| member.id().node == node);
        if let Some(id) = known.map(|member| member.id().clone()) {
            // Who probes it no more must not be told by others that it is there.
            self.carry_over(now, vec![foca::Member::down(id)], effects);
        }
        // Nor is it cut off from here.
        self.losses.retain(|(lost, _)| *lost != node);
        self.seen.remove(&node);
        self.reported = false;
        self.heard.remove(&node);
        self.doubted.remove(&node);
    }

    fn is_active(&self, node: NodeId) -> bool {
        match &self.active {
            Some(active) => active.contains(&node),
            None => self.swim.iter_members().any(|member| member.id().node == node),
        }
    }
}

fn is_up(liveness: Liveness) -> bool {
    matches!(liveness, Liveness::Up | Liveness::Suspect)
}

fn rng_from(rng: &mut ChaCha8Rng) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(rng.random())
}
