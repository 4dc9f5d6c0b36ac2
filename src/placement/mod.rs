//! Which node should be an encoder's home, and which comes next. Placement only proposes: the
//! directory says who is home.

pub mod balance;
mod demand;
mod losses;
mod media;
pub mod plan;
mod rank;

pub use demand::{Demand, Outlook, WhatIf};
pub use losses::{Share, Survivability, survivability};
pub use media::Media;
pub use rank::rank;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

use crate::id::{EncoderId, NodeId};
use media::STAND_BY_MARGIN;
use plan::Wish;

/// A node that may take encoders: alive, not draining, not cordoned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Which.
    pub node: NodeId,
    /// Its capacity relative to others. Not a number counts as 1; the rest is brought between
    /// [`WEIGHT_MIN`] and [`WEIGHT_MAX`].
    pub weight: f64,
    /// Encoders at home there and assignments in flight.
    pub load: u32,
    /// What it carries besides, by its own word of some seconds ago.
    pub media: Media,
    /// With so many it is full: no more are assigned to it.
    pub limit: u32,
}

/// The least weight: even a node that declares no capacity serves when it is the only one.
pub const WEIGHT_MIN: f64 = 1e-3;
/// The greatest weight: keeps the arithmetic far from infinity.
pub const WEIGHT_MAX: f64 = 1e6;

/// How many of the best ranked compete by load. Two is what makes loads even (one more than the
/// average or so, where one choice is off by its square root); more would only scatter encoders
/// away from where a lookup by rank expects them.
pub const CHOICES: usize = 2;

/// Where an encoder should go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its home.
    pub home: NodeId,
    /// Where it goes when home dies; `None` if there is no other node.
    pub next: Option<NodeId>,
    /// Why, for people.
    pub reason: String,
}

impl Candidate {
    /// The weight as it is used.
    pub(crate) fn usable_weight(&self) -> f64 {
        if self.weight.is_nan() { 1.0 } else { self.weight.clamp(WEIGHT_MIN, WEIGHT_MAX) }
    }

    /// What the load would be per weight with so many more encoders. Counting those makes an empty
    /// large node win over an empty small one.
    fn fullness(&self, size: u32) -> f64 {
        let all = f64::from(self.load) + f64::from(self.media.units()) + f64::from(size);
        all / self.usable_weight()
    }

    /// Orders by what each would have per weight with so many more encoders.
    pub fn fuller(&self, other: &Self, size: u32) -> Ordering {
        self.fullness(size).total_cmp(&other.fullness(size))
    }

    /// How busy media keeps it, by its weight.
    fn strain(&self) -> f64 {
        f64::from(self.media.units()) / self.usable_weight()
    }

    /// Its load in words.
    fn words(&self) -> String {
        let Media { viewers, .. } = self.media;
        let many = |count: u32, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        let encoders = many(self.load, "encoder");
        match (viewers, self.media.mbits()) {
            (0, 0) => encoders,
            (_, mbits) => format!("{encoders}, {}, {mbits} Mbit/s", many(viewers, "viewer")),
        }
    }
}

/// Chooses a home for an encoder that has none: of the pools that it wishes for the first that has
/// room, and there of the two best ranked with room the less loaded, the better ranked at a tie.
/// Nodes to `avoid` (those that just failed the encoder) are taken only if there is no other.
/// `None` if no candidate where it may be has room: see [`refusal`].
///
/// Of a room whose members are at home nowhere, `key` is the room's id and `size` says how many it
/// has: it goes where all of them have room, if that is anywhere.
pub fn assign(
    key: EncoderId,
    size: u32,
    candidates: &[Candidate],
    avoid: &[NodeId],
    wish: &Wish,
) -> Option<Choice> {
    let whole = (size > 1).then(|| assign_all(key, size, candidates, avoid, wish)).flatten();
    whole.or_else(|| assign_all(key, 1, candidates, avoid, wish))
}

/// The home for an encoder others of whose room are at home already, so many at each node: where
/// most of them are, of those nodes that it likes no less than any other with room. `None` if it
/// has to be chosen as for any other.
pub fn join(
    company: &BTreeMap<NodeId, u32>,
    candidates: &[Candidate],
    avoid: &[NodeId],
    wish: &Wish,
) -> Option<NodeId> {
    let full = full(candidates, 1);
    let roomy = candidates.iter().map(|candidate| candidate.node);
    let roomy = roomy.filter(|node| !full.contains(node) && !avoid.contains(node));
    let roomy: Vec<(usize, NodeId)> =
        roomy.filter_map(|node| Some((wish.tier(node)?, node))).collect();
    let best = roomy.iter().map(|(tier, _)| *tier).min()?;
    let liked = roomy.into_iter().filter(|(tier, _)| *tier == best);
    let there = liked.filter_map(|(_, node)| Some((*company.get(&node)?, Reverse(node))));
    there.max().map(|(_, Reverse(node))| node)
}

fn assign_all(
    key: EncoderId,
    size: u32,
    candidates: &[Candidate],
    avoid: &[NodeId],
    wish: &Wish,
) -> Option<Choice> {
    let full = full(candidates, size);
    let mut ranked = rank(key, candidates);
    ranked.retain(|node| wish.tier(*node).is_some());
    let roomy = ranked.iter().copied().filter(|node| !full.contains(node));
    let (mut willing, mut avoided): (Vec<NodeId>, Vec<NodeId>) =
        roomy.partition(|node| !avoid.contains(node));
    // What is liked best first, and there what is ranked best.
    for nodes in [&mut willing, &mut avoided, &mut ranked] {
        nodes.sort_by_key(|node| wish.tier(*node));
    }
    let contenders = if willing.is_empty() { &avoided } else { &willing };
    let first = *contenders.first()?;
    let tier = wish.tier(first)?;
    let liked: Vec<NodeId> =
        contenders.iter().copied().filter(|node| wish.tier(*node) == Some(tier)).collect();
    let fullness = |node: NodeId| most(candidates, node, |it| it.fullness(size));
    let best = liked.iter().take(CHOICES);
    let home = *best.min_by(|a, b| fullness(**a).total_cmp(&fullness(**b)))?;
    let best = ranked.iter().find(|node| wish.tier(**node) == Some(tier));
    let reason: String = match (willing.len(), avoided.len(), liked.len()) {
        (0, ..) => "only nodes that just failed are left".into(),
        (1, 0, _) if full.is_empty() => "the only node".into(),
        (1, 0, _) => "the only node with room".into(),
        (1, ..) => "the only node that did not just fail".into(),
        (.., 1) => "the only node with room there".into(),
        _ if home != first => {
            let same = candidates.iter().filter(|candidate| candidate.node == first);
            let fuller = same.max_by(|a, b| a.fuller(b, size));
            let load = fuller.map(Candidate::words).unwrap_or_default();
            format!("ranked second, less loaded than {}: {load}", first.short())
        }
        _ => match best.filter(|best| full.contains(best)) {
            Some(best) => format!("ranked first of those with room: {} is full", best.short()),
            None => "ranked first".into(),
        },
    };
    let reason = match wish.pools.get(tier) {
        _ if wish.pools.is_empty() => reason,
        Some(pool) if tier == 0 => format!("pool {}, {reason}", pool.name),
        Some(pool) => format!("pool {}, as no pool before has room; {reason}", pool.name),
        None => format!("no room in {}; {reason}", wish.words()),
    };
    let next = stand_by(key, home, candidates, avoid, wish);
    Some(Choice { home, next, reason })
}

/// The node to stand by for an encoder at `home`: another one where it may be, rather one with
/// room, rather one that it likes; of the two best ranked of those the first, unless media keeps it
/// much busier than the second.
pub fn next(key: EncoderId, home: NodeId, candidates: &[Candidate], wish: &Wish) -> Option<NodeId> {
    stand_by(key, home, candidates, &[], wish)
}

fn stand_by(
    key: EncoderId,
    home: NodeId,
    candidates: &[Candidate],
    avoid: &[NodeId],
    wish: &Wish,
) -> Option<NodeId> {
    let full = full(candidates, 1);
    let others = rank(key, candidates).into_iter().filter(|node| *node != home);
    let mut others: Vec<((bool, bool, usize), NodeId)> = others
        .filter_map(|node| {
            // One that is full may have room by the time that it is needed.
            let full = full.contains(&node);
            Some(((full, !full && avoid.contains(&node), wish.tier(node)?), node))
        })
        .collect();
    others.sort_by_key(|(class, _)| *class);
    let &(class, first) = others.first()?;
    let second = others.get(1).filter(|(other, _)| *other == class).map(|(_, node)| *node);
    Some(second.filter(|second| much_busier(candidates, first, *second)).unwrap_or(first))
}

/// Whether media keeps one node so much busier than another that a session that waits at the first
/// is no reason to go there.
pub fn much_busier(candidates: &[Candidate], one: NodeId, other: NodeId) -> bool {
    let strain = |node: NodeId| most(candidates, node, Candidate::strain);
    strain(one) > strain(other) + f64::from(STAND_BY_MARGIN)
}

/// Of a node given twice the greater number, so that the order of candidates is irrelevant.
fn most(candidates: &[Candidate], node: NodeId, number: impl Fn(&Candidate) -> f64) -> f64 {
    let same = candidates.iter().filter(|candidate| candidate.node == node);
    same.map(number).fold(0.0, f64::max)
}

/// Why [`assign`] finds no home, in words, and what to do.
pub fn refusal(candidates: &[Candidate], wish: &Wish) -> String {
    let there = candidates.iter().filter(|it| wish.tier(it.node).is_some()).count();
    let named = wish.pools.iter().any(|pool| !pool.nodes.is_empty());
    match (candidates.len(), there) {
        (0, _) => {
            "no node takes encoders at present: this one is leaving, and no other is up".to_owned()
        }
        (nodes, _) if !wish.only => format!(
            "every node that takes encoders is full ({nodes} of them); what is connected goes on; \
             add a node, or try again later"
        ),
        (_, 0) => {
            let what = match named {
                true => "no node of it takes encoders at present",
                false => "no node is in it",
            };
            format!(
                "it may be in {} only, and {what}; add a node to it, or set placement to prefer",
                wish.words()
            )
        }
        (_, nodes) => format!(
            "it may be in {} only, and every node of it that takes encoders is full ({nodes} of \
             them); what is connected goes on; add a node to it, or try again later",
            wish.words()
        ),
    }
}

/// Nodes where so many more have no room.
fn full(candidates: &[Candidate], size: u32) -> BTreeSet<NodeId> {
    let full = candidates.iter().filter(|it| it.load.saturating_add(size) > it.limit);
    full.map(|candidate| candidate.node).collect()
}
