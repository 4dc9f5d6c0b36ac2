//! Giving an encoder away: its agent is asked to register elsewhere, and is at home here until it
//! has. Whoever wants that says why, and hears what became of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Effect, Host, Note, World};
use crate::id::{EncoderId, Epoch, NodeId, SessionId};
use crate::time::Mono;
use crate::wire::{self, NodeMessage};

/// An agent has this long to move: longer than it tries by itself, so that it mostly says itself
/// why it could not.
const MOVE_DEADLINE: Duration = Duration::from_secs(7);

/// Why a WHIP publisher stays.
pub(super) const PUBLISHER: &str =
    "it publishes by WHIP and cannot be asked to move: it goes elsewhere when it starts anew";

/// Why an encoder stays that could have gone.
const WATCHED: &str = "somebody watches it now";

/// On whose behalf an encoder is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// So that loads are even.
    Balance,
    /// Its node is to be empty.
    Drain,
    /// It is preferred elsewhere.
    Preference,
    /// Somebody said so.
    Operator,
}

impl Cause {
    /// Every one, in the order of [`super::Counters::moved`].
    pub const ALL: [Self; 4] = [Self::Balance, Self::Drain, Self::Preference, Self::Operator];

    /// Its label in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Balance => "balance",
            Self::Drain => "drain",
            Self::Preference => "preference",
            Self::Operator => "operator",
        }
    }
}

/// A wish to have an encoder at home elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Which; it has to be at home at this node.
    pub encoder: EncoderId,
    /// Its new home.
    pub to: NodeId,
    /// On whose behalf.
    pub cause: Cause,
    /// Why, for people: kept with the encoder at its new home.
    pub reason: String,
    /// Comes back with the outcome.
    pub ticket: u64,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The encoder is at home there.
    Done,
    /// Nothing was tried, and why.
    Refused(String),
    /// It was tried; the encoder is where it was, or went elsewhere.
    Failed(String),
}

/// An encoder on its way.
#[derive(Debug)]
pub(super) struct Moving {
    pub(super) order: Order,
    /// What it is called: its stream may be gone from here before it has arrived.
    name: String,
    /// Its epoch here.
    epoch: Epoch,
    /// Somebody watches it now, so it is to stay if it has not gone yet.
    abandoned: bool,
    pub(super) until: Mono,
}

impl Host {
    /// Asks an encoder's agent to move. The outcome comes as [`Effect::Moved`], a refusal at once.
    /// Whether it is watched does not matter: it sends here until it is at home there.
    pub fn move_away(&mut self, world: &World<'_>, order: Order, effects: &mut Vec<Effect>) {
        if let Err(why) = self.may_move(world, &order) {
            self.counters.moves_failed += 1;
            effects.push(Effect::Moved(order, Outcome::Refused(why)));
            return;
        }
        let Some(stream) = self.streams.get(&order.encoder) else { return };
        let Some(claim) = &stream.home else { return };
        let (Some(session), epoch, name) = (claim.session, claim.epoch, stream.name.clone()) else {
            return;
        };
        let wish = wire::Move { to: order.to, reason: order.reason.clone() };
        effects.push(Effect::Send(session, NodeMessage::Move(wish)));
        self.send_to(world.now.mono, order.encoder, order.to);
        let until = world.now.mono + MOVE_DEADLINE;
        self.moves.insert(order.encoder, Moving { order, name, epoch, abandoned: false, until });
    }

    /// Encoders on their way from here to another node.
    pub fn moving(&self) -> impl Iterator<Item = &Order> {
        self.moves.values().map(|moving| &moving.order)
    }

    /// Encoders at home here that are not to be asked to move: those that are on their way, and
    /// those that cannot be asked.
    pub fn held(&self) -> impl Iterator<Item = EncoderId> {
        let held = |it: &&EncoderId| self.moves.contains_key(it) || self.is_publisher(**it);
        self.streams.keys().filter(held).copied()
    }

    /// Whether an encoder can be moved for no need of its own: it is at home here, nobody watches
    /// it or did a moment ago, and its agent can be asked.
    pub fn may_go(&self, encoder: EncoderId) -> bool {
        self.streams.get(&encoder).is_some_and(|stream| {
            let claim = stream.home.as_ref();
            claim.is_some_and(|claim| claim.session.is_some() && claim.unconfirmed.is_none())
                && stream.viewers == 0
                && stream.watched_until.is_none()
        }) && !self.moves.contains_key(&encoder)
            && !self.is_publisher(encoder)
    }

    /// Somebody begins to watch an encoder: unless it has to go, it stays if it is still here.
    pub(super) fn abandon_move(
        &mut self,
        world: &World<'_>,
        encoder: EncoderId,
        effects: &mut Vec<Effect>,
    ) {
        let Some(moving) = self.moves.get_mut(&encoder) else { return };
        let needless = matches!(moving.order.cause, Cause::Balance | Cause::Preference);
        if !needless || moving.abandoned {
            return;
        }
        moving.abandoned = true;
        let claim = self.streams.get(&encoder).and_then(|stream| stream.home.as_ref());
        if let Some(session) = claim.and_then(|claim| claim.session) {
            let stay = wire::Move { to: world.me, reason: WATCHED.into() };
            effects.push(Effect::Send(session, NodeMessage::Move(stay)));
        }
    }

    /// Whether what speaks for an encoder here is no agent.
    pub(super) fn is_publisher(&self, encoder: EncoderId) -> bool {
        let claim = self.streams.get(&encoder).and_then(|stream| stream.home.as_ref());
        let session = claim.and_then(|claim| self.sessions.get(&claim.session?));
        session.is_some_and(|session| session.publishes)
    }

    /// Whether an order can be carried out, as far as is known here.
    fn may_move(&mut self, world: &World<'_>, order: &Order) -> Result<(), String> {
        let stream = self.streams.get(&order.encoder);
        let claim = stream.and_then(|stream| stream.home.as_ref());
        let claim = claim.ok_or("it is not at home at this node")?;
        if claim.session.is_none() {
            return Err("its agent is not connected".into());
        }
        if self.is_publisher(order.encoder) {
            return Err(PUBLISHER.into());
        }
        if self.moves.contains_key(&order.encoder) {
            return Err("it is on its way already".into());
        }
        if order.to == world.me {
            return Err("it is at home there".into());
        }
        let to = label(world, order.to);
        if !world.alive.contains(&order.to) {
            return Err(format!("{to} is not up"));
        }
        let wish = world.rights.wish(order.encoder);
        if wish.tier(order.to).is_none() {
            return Err(format!("{to} is not in {}, where it has to be", wish.words()));
        }
        let counted = self.counted(world, world.candidates, order.encoder);
        let Some(candidate) = counted.iter().find(|candidate| candidate.node == order.to) else {
            return Err(format!("{to} takes no encoders: it is drained or cordoned"));
        };
        match candidate.load < candidate.limit {
            true => Ok(()),
            false => Err(format!("{to} is full: it takes {} encoders", candidate.limit)),
        }
    }

    /// The directory may show an encoder where it was sent.
    pub(super) fn conclude_move(
        &mut self,
        world: &World<'_>,
        encoder: EncoderId,
        effects: &mut Vec<Effect>,
    ) {
        let Some(moving) = self.moves.get(&encoder) else { return };
        let home = world.directory.home(encoder, &|node| world.alive.contains(&node));
        let Some((node, entry)) = home else { return };
        if node == world.me || entry.epoch <= moving.epoch {
            return;
        }
        let outcome = match node == moving.order.to {
            true => Outcome::Done,
            false => Outcome::Failed(format!("it went to {} instead", label(world, node))),
        };
        self.end_move(world.now.mono, encoder, outcome, effects);
    }

    /// An agent says that it could not move.
    pub(super) fn stayed(
        &mut self,
        world: &World<'_>,
        session: SessionId,
        stayed: &wire::Stayed,
        effects: &mut Vec<Effect>,
    ) {
        let Some((encoder, _)) = self.sessions.get(&session).and_then(|s| s.agent_of) else {
            return;
        };
        if let Some(moving) = self.moves.get(&encoder).filter(|it| it.order.to == stayed.to) {
            let (to, reason) = (label(world, stayed.to), super::register::plain(&stayed.reason));
            let why = match moving.abandoned {
                true => WATCHED.to_owned(),
                false => format!("{to} did not take it: {reason}"),
            };
            self.end_move(world.now.mono, encoder, Outcome::Failed(why), effects);
        }
    }

    pub(super) fn moves_due(&self) -> Option<Mono> {
        self.moves.values().map(|moving| moving.until).min()
    }

    pub(super) fn give_up_moves(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let late = self.moves.iter().filter(|(_, moving)| moving.until <= now);
        for encoder in late.map(|(&encoder, _)| encoder).collect::<Vec<_>>() {
            let limit = MOVE_DEADLINE.as_secs();
            let why = format!("its agent did not move within {limit} s; it may be an older one");
            self.end_move(now, encoder, Outcome::Failed(why), effects);
        }
    }

    fn end_move(
        &mut self,
        now: Mono,
        encoder: EncoderId,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Moving { order, name, .. }) = self.moves.remove(&encoder) else { return };
        if let Outcome::Failed(why) = &outcome {
            self.did_not_leave(now, &order, why);
        }
        if outcome == Outcome::Done {
            if let Some(count) = self.counters.moved.get_mut(order.cause as usize) {
                *count += 1;
            }
        } else {
            self.counters.moves_failed += 1;
            self.in_flight.retain(|(other, ..)| *other != encoder);
        }
        let note = Note::Moved(order.clone(), outcome.clone());
        effects.push(Effect::Note(encoder, name, note));
        effects.push(Effect::Moved(order, outcome));
    }
}

/// What people call a node.
pub(super) fn label(world: &World<'_>, node: NodeId) -> String {
    let peer = world.peers.nodes.iter().find(|peer| peer.node == node);
    peer.map_or_else(|| node.short(), |peer| peer.name.clone())
}
