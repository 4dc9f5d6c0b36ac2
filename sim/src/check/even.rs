//! Loads become even some time after nodes changed, with few moves, and nobody notices.

use std::collections::BTreeMap;
use std::time::Duration;

use roost::id::{EncoderId, SessionId};
use roost::placement::balance::{COOL_DOWN, STABILITY_PERIOD};
use roost::placement::plan::{evens, weight_of};
use roost::session::host::Cause;
use roost::wire::{Message as _, NodeMessage};

use crate::net::{MS, SEC};
use crate::world::World;

const fn nanos(span: Duration) -> u64 {
    span.as_nanos() as u64
}

/// Encoders are moved this long after the last change, and not before.
const PERIOD: u64 = nanos(STABILITY_PERIOD);
/// Somebody learns of a change this much later.
const KNOWN: u64 = 3 * SEC;
/// By then loads are even.
const DONE: u64 = 10 * SEC;
/// A node that came is filled by then.
pub(super) const FILLED: u64 = PERIOD + KNOWN + DONE;
/// A node that refused is asked again after this at the latest.
const SHUNNED: u64 = 60 * SEC;
/// A viewer that got a picture within this time watches.
const FRESH: u64 = 200 * MS;
/// An encoder that is watched for this long goes nowhere.
const CALLED_BACK: u64 = 300 * MS;
/// An agent changes its home within this time after it was asked to.
const ASKED: u64 = 12 * SEC;
/// Whoever is sent elsewhere is there, and somebody stands by for it, within this time: longer than
/// an agent tries to move.
const ARRIVES: u64 = 5 * SEC;
/// What was promised later may go earlier, by as much as one answer overtakes another.
const OVERTAKES: u64 = 100 * MS;
/// For each hundred moves that are needed there may be so many, and one more at any rate: nodes that
/// plan at different moments of one evening out may fill one node by one too many.
const MOST: u64 = 105;

/// What is remembered of evening out.
#[derive(Debug, Default)]
pub(crate) struct Even {
    /// When an encoder was sent away last, to which node in which life, and in which life of its agent.
    sent: BTreeMap<EncoderId, (u64, (usize, u64), u64)>,
    /// When anybody was sent away last, for whatever reason.
    ordered: u64,
    /// Where those go that are on their way, and since when.
    going: BTreeMap<EncoderId, (usize, u64)>,
    /// Since when somebody watches one of those.
    watched: BTreeMap<EncoderId, u64>,
    /// When nodes or agents changed last.
    since: u64,
    /// When a node last heard that another is up, which may be long after they can be linked.
    pub(crate) heard: u64,
    /// How many nodes ran then.
    ran: usize,
    /// Loads were even before that.
    was_even: bool,
    /// Moves that were needed when the period was over.
    needed: Option<u64>,
    /// Moves since.
    moves: u64,
    /// Moves in all.
    all: u64,
    /// When loads were even first after it.
    even_at: Option<u64>,
    judged: bool,
    spread_judged: bool,
    /// What came of each change.
    pub(crate) told: Vec<Evened>,
}

/// What came of a change of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evened {
    /// When nodes changed, in nanoseconds of the run.
    pub since: u64,
    /// Moves that make counts even.
    pub needed: u64,
    /// Moves that were made.
    pub moves: u64,
    /// From the change until counts were even, in nanoseconds.
    pub took: Option<u64>,
    /// Most and fewest encoders at a node afterwards.
    pub counts: (usize, usize),
    /// Of the fullest node some seconds after the change, in thousandths of the mean.
    pub fullest: u64,
}

impl World {
    /// Nodes that take encoders, what each has, and its weight.
    pub(super) fn loads(&self) -> Vec<(usize, u32, u64)> {
        let load = |ix: usize| {
            let control = self.nodes[ix].control.as_ref()?;
            if !self.hosts[ix].up || self.is_wished_away(ix) || !self.is_member(ix) {
                return None;
            }
            let header = control.directory().header(control.me());
            let capacity = header.map_or(100, |header| header.size());
            let count = u32::try_from(control.directory().count(control.me())).unwrap_or(u32::MAX);
            Some((ix, count, weight_of(f64::from(capacity) / 100.0)))
        };
        (0..self.plan.nodes).filter_map(load).collect()
    }

    /// A message goes to a client: it may be that an encoder is sent away.
    pub(crate) fn observe_order(&mut self, ix: usize, session: SessionId, bytes: &[u8]) {
        let Ok(NodeMessage::Move(order)) = NodeMessage::decode(bytes) else { return };
        self.checks.even.ordered = self.now;
        let Some(control) = &self.nodes[ix].control else { return };
        let Some(agent) = self.agent_of(ix, session) else { return };
        let (id, life) = (self.encoders[agent].id, self.hosts[self.host_of_encoder(agent)].life);
        if order.to == control.me() {
            return self.mark("a move is called off");
        }
        let is_it = |it: &&roost::session::host::Order| {
            it.encoder == id && it.to == order.to && it.cause == Cause::Balance
        };
        let balances = control.clients().moving().any(|it| is_it(&it));
        let Some(&to) = self.index.get(&order.to).filter(|_| balances) else { return };
        self.mark("an encoder is moved to even out");
        let here = (ix, self.hosts[ix].life);
        let sent = (self.now, (to, self.hosts[to].life), life);
        let before = self.checks.even.sent.insert(id, sent);
        // Who has arrived is counted there already.
        let there = self.nodes[to].control.as_ref();
        let arrived =
            |it| there.is_some_and(|there| there.directory().entry(there.me(), it).is_some());
        let going =
            self.checks.even.going.iter().filter(|(it, (node, at))| {
                *node == to && self.now >= at + OVERTAKES && !arrived(**it)
            });
        let others = going.count();
        self.checks.even.going.insert(id, (to, self.now));
        self.checks.even.moves += 1;
        self.checks.even.all += 1;
        let name = self.name_of_encoder(id);
        let watches = |v: &crate::client::Viewer| {
            self.encoders[v.watches].id == id && v.seen.fresh_at + FRESH > self.now
        };
        // Whoever watches at next, which is told nothing of this home, is not known here.
        if !self.liars.contains(&ix) && self.viewers.iter().any(watches) {
            return self.fail("watched", format!("{name} is moved from n{ix}, and is watched"));
        }
        // Unless it lost its home meanwhile, which alone knows, or its agent, which did not hear it.
        if let Some((at, ..)) = before.filter(|(_, to, of)| (*to, *of) == (here, life))
            && self.now < at + nanos(COOL_DOWN)
        {
            let text = format!("{name} is moved again after {} s", (self.now - at) / SEC);
            return self.fail("fro", text);
        }
        if let Some(node) = self.changed_lately(ix) {
            let text = format!("{name} is moved from n{ix} so soon after n{node} came or went");
            return self.fail("even", text);
        }
        let loads = self.loads();
        let load = |of: usize| loads.iter().find(|(ix, ..)| *ix == of).map(|(_, c, w)| (*c, *w));
        if let (Some(from), Some(there)) = (load(ix), load(to))
            && from.1 > 0
            && self.whole()
            && !self.plan.is_roomed()
            && self.now >= self.changed_at() + PERIOD / 2
            && let Ok(coming) = u32::try_from(others)
            && !evens(from, (there.0 + coming, there.1), 1)
        {
            let ((from, _), (there, _)) = (from, there);
            let text = format!(
                "{name} goes from n{ix}, which has {from}, to n{to}, which has {there} and gets {coming}"
            );
            self.fail("even", text);
        }
    }

    /// When nodes or agents changed last.
    fn changed_at(&self) -> u64 {
        let clients = self.plan.nodes + self.plan.encoders;
        self.hosts[..clients].iter().map(|host| host.touched).max().unwrap_or(0)
    }

    /// Another that a node began or ceased to believe alive within the period.
    fn changed_lately(&self, by: usize) -> Option<usize> {
        let since = (self.now + SEC).saturating_sub(PERIOD);
        let mut others = (0..self.plan.nodes).filter(|other| *other != by);
        others.find(|other| self.checks.minds.get(&(by, *other)).is_some_and(|(_, at)| *at > since))
    }

    /// Whom each node believes alive, and since when.
    pub(super) fn note_minds(&mut self) {
        for by in 0..self.plan.nodes {
            let Some(control) = &self.nodes[by].control else { continue };
            for (other, node) in self.nodes.iter().enumerate().filter(|(other, _)| *other != by) {
                let alive = control.alive().contains(&node.id);
                let mind = self.checks.minds.entry((by, other)).or_insert((alive, self.now));
                if mind.0 != alive {
                    *mind = (alive, self.now);
                }
            }
        }
    }

    /// Whether somebody is on its way when the time is over: a run ends with everybody somewhere.
    pub(crate) fn someone_moves(&self) -> bool {
        let ordered = self.checks.even.ordered;
        ordered > 0 && self.end < ordered + ARRIVES
    }

    /// How often encoders were sent elsewhere so far to even out.
    pub(crate) fn moves_to_even_out(&self) -> u64 {
        self.checks.even.all
    }

    fn name_of_encoder(&self, id: EncoderId) -> String {
        let mut encoders = self.encoders.iter();
        encoders.find(|it| it.id == id).map_or_else(|| id.short(), |it| it.name.clone())
    }

    /// A node hears what became of an encoder that it sent away.
    pub(crate) fn observe_moved(&mut self, encoder: EncoderId) {
        self.check_called_back();
        self.checks.even.going.remove(&encoder);
        self.checks.even.watched.remove(&encoder);
    }

    /// Whoever becomes watched on its way to make counts even is called back.
    fn check_called_back(&mut self) {
        let going: Vec<(EncoderId, usize)> =
            self.checks.even.going.iter().map(|(id, (to, _))| (*id, *to)).collect();
        for (id, to) in going {
            let Some(e) = self.encoders.iter().position(|it| it.id == id) else { continue };
            let e = e % self.plan.encoders;
            let mut viewers = self.viewers.iter();
            let sees = viewers.any(|it| it.watches == e && it.seen.fresh_at + FRESH > self.now);
            if self.home_of(e) != Some(to) {
                match sees {
                    true => drop(self.checks.even.watched.entry(id).or_insert(self.now)),
                    false => drop(self.checks.even.watched.remove(&id)),
                }
            } else if let Some(since) = self.checks.even.watched.remove(&id)
                && self.now > since + CALLED_BACK * self.patience()
                && self.net.loss.is_empty()
            {
                let ms = (self.now - since) / MS;
                let text = format!("cam{e} goes to n{to} though it is watched for {ms} ms");
                return self.fail("watched", text);
            }
        }
    }

    /// Whether an agent may be on its way because a node asked it to.
    pub(super) fn is_sent(&self, encoder: EncoderId) -> bool {
        let sent = self.checks.even.sent.get(&encoder);
        sent.is_some_and(|(at, ..)| self.now < at + ASKED)
    }

    pub(crate) fn check_even(&mut self) {
        self.check_called_back();
        let since = self.changed_at();
        let loads = self.loads();
        let counts: Vec<u32> = loads.iter().map(|(_, count, _)| *count).collect();
        let (most, least) = (counts.iter().max(), counts.iter().min());
        let (most, least) = (most.copied().unwrap_or(0), least.copied().unwrap_or(0));
        let equal = loads.windows(2).all(|pair| pair[0].2 == pair[1].2);
        // Who is cut off from the others gets nothing.
        let whole = self.whole();
        let even = &mut self.checks.even;
        if since > even.since {
            // Who stands by is spread once all are even.
            let was_even = even.even_at.is_some_and(|at| since >= at + DONE);
            let ran = even.ran;
            even.since = since;
            (even.was_even, even.ran) = (was_even && equal, counts.len().max(ran));
            (even.needed, even.moves, even.even_at) = (None, 0, None);
            (even.judged, even.spread_judged) = (false, false);
        }
        let total: u32 = counts.iter().sum();
        if !even.spread_judged && self.now >= since + 5 * SEC && self.now < since + PERIOD {
            let (fewer, was_even) = (counts.len() < even.ran, even.was_even);
            (even.spread_judged, even.ran) = (true, counts.len());
            let share = u64::from(most) * counts.len() as u64 * 1_000 / u64::from(total.max(1));
            even.told.push(Evened {
                since,
                needed: 0,
                moves: 0,
                took: None,
                counts: (0, 0),
                fullest: share,
            });
            let plain = whole && !self.plan.has_boasts() && !self.plan.is_roomed();
            if plain && fewer && was_even && total as usize >= 15 * counts.len() && share > 1_250 {
                let text = format!("{share} thousandths of the mean at the fullest of {counts:?}");
                return self.fail("spread", text);
            }
        }
        let even = &mut self.checks.even;
        let known = since.max(even.heard);
        if even.needed.is_none() && self.now >= known + PERIOD - SEC {
            (even.needed, even.moves) = (Some(needed(&counts)), 0);
        }
        let Some(needed) = even.needed else { return };
        let uneven = loads.iter().find_map(|a| {
            let to = loads.iter().find(|b| evens((a.1, a.2), (b.1, b.2), 1))?;
            Some((a.0, a.1, to.0, to.1))
        });
        if uneven.is_none() && even.even_at.is_none() && self.now >= known + PERIOD {
            even.even_at = Some(self.now);
        }
        // To whoever says nothing of what it has, encoders go that are never seen to arrive.
        let secret = if self.liars.is_empty() { 0 } else { SHUNNED };
        if even.judged || self.now < known + FILLED + secret {
            return;
        }
        // A node that is not preferred has fewer. Nodes that have to wait until what came to them has
        // rested are not given way to.
        if self.is_pooled()
            || loads.iter().any(|a| {
                loads.iter().any(|b| evens((a.1, a.2), (b.1, b.2), 1)) && self.someone_rests(a.0)
            })
        {
            return;
        }
        let even = &mut self.checks.even;
        even.judged = true;
        let (moves, took) = (even.moves, even.even_at.map(|at| at - since));
        if let Some(told) = even.told.last_mut().filter(|told| told.since == since) {
            (told.needed, told.moves, told.took) = (needed, moves, took);
            told.counts = (most as usize, least as usize);
        }
        let plain = self.whole()
            && self.plan.net.is_near()
            && self.net.loss.is_empty()
            && self.plan.net.loss == 0.0
            && !self.plan.has_twins()
            // They stay where they are.
            && self.plan.publishers == 0
            && self.encoders.iter().all(|it| it.agent.as_ref().is_some_and(|a| a.home().is_some()));
        // A room moves whole, which may leave counts further apart.
        if !plain || self.plan.is_roomed() || loads.iter().all(|(.., weight)| *weight == 0) {
            return;
        }
        self.measure("moves to even out", moves);
        if equal && moves > needed + 1 && moves * 100 > needed * MOST {
            self.fail("moves", format!("{moves} moves where {needed} do"));
        } else if let Some((a, from, b, to)) = uneven
            && self.someone_is_free(a)
        {
            let text = format!("n{a} has {from} and n{b} {to} for long");
            self.fail("even", text);
        }
    }

    /// Whether anything at a node could move.
    fn someone_is_free(&self, ix: usize) -> bool {
        let viewed = self.viewers.iter().map(|viewer| viewer.watches);
        let viewed: std::collections::BTreeSet<usize> =
            viewed.chain(self.browsers.iter().map(|page| page.watches)).collect();
        (0..self.plan.encoders)
            .any(|e| self.home_of(e) == Some(ix) && !self.rests(e) && !viewed.contains(&e))
    }

    /// Whether anything at a node may not move yet because it moved lately.
    fn someone_rests(&self, ix: usize) -> bool {
        (0..self.plan.encoders).any(|e| self.home_of(e) == Some(ix) && self.rests(e))
    }

    fn rests(&self, e: usize) -> bool {
        let sent = self.checks.even.sent.get(&self.encoders[e].id);
        sent.is_some_and(|(at, ..)| self.now < at + nanos(COOL_DOWN) + DONE)
    }
}

/// Moves that make equal nodes' counts even, at the least.
fn needed(counts: &[u32]) -> u64 {
    let mut counts = counts.to_vec();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let nodes = u32::try_from(counts.len()).unwrap_or(u32::MAX).max(1);
    let total: u32 = counts.iter().sum();
    let (share, over) = (total / nodes, total % nodes);
    let fair = |at: usize| share + u32::from(u32::try_from(at).is_ok_and(|at| at < over));
    let surplus = counts.iter().enumerate().map(|(at, count)| count.saturating_sub(fair(at)));
    surplus.map(u64::from).sum()
}
