//! Emptying a node: every encoder at home here is moved, idle ones first, a few at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::register::key;
use super::{Cause, Effect, Host, Order, World};
use crate::id::{EncoderId, NodeId};
use crate::placement;
use crate::time::{Mono, earlier};

/// Between two looks at what is left.
const STEP: Duration = Duration::from_millis(100);
/// Idle encoders on their way at a time: with a step of 100 ms some hundreds a second, so that ten
/// thousand are gone within a minute and no target is stormed.
const IDLE_AT_ONCE: usize = 50;
/// Watched encoders on their way at a time: each sends twice meanwhile.
const WATCHED_AT_ONCE: usize = 4;
/// What could not be moved is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Encoders that are listed one by one, so that an answer stays small.
const SHOWN: usize = 100;

/// This node is to be empty.
#[derive(Debug, Default)]
pub(super) struct Draining {
    step_at: Option<Mono>,
    /// What did not move: until when it is left alone, and why.
    stuck: BTreeMap<EncoderId, (Mono, String)>,
}

/// How far a node is emptied.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DrainState {
    /// It is to be empty, or goes.
    pub draining: bool,
    /// It takes no new encoders.
    pub cordoned: bool,
    /// Encoders that are still at home there.
    pub left: usize,
    /// Of those, how many are watched.
    pub watched: usize,
    /// Of those, how many are on their way.
    pub moving: usize,
    /// Viewers there, of whatever encoder.
    pub viewers: u32,
    /// Encoders that do not move at present, a hundred at most.
    pub stuck: Vec<Stuck>,
    /// Where those at home there would go, or why nowhere: a hundred at most.
    pub plan: Vec<Way>,
}

/// An encoder that does not move.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stuck {
    /// Which.
    pub encoder: EncoderId,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Where an encoder would go.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Way {
    /// Which.
    pub encoder: EncoderId,
    /// Its name.
    pub name: String,
    /// Somebody watches it.
    pub watched: bool,
    /// The node.
    pub to: Option<NodeId>,
    /// Why it goes nowhere.
    pub reason: Option<String>,
}

impl Host {
    /// Whether everything here is to go elsewhere.
    pub fn drain(&mut self, world: &mut World<'_>, on: bool, effects: &mut Vec<Effect>) {
        // One that goes at once has told everyone to.
        let on = on && !self.leaving;
        if on != self.emptying.is_some() {
            self.emptying = on.then(Draining::default);
        }
        self.proceed_draining(world, true, effects);
    }

    /// How far this node is emptied, and where what is left would go.
    pub fn drain_state(&mut self, world: &World<'_>) -> DrainState {
        let home = |(id, stream): (&EncoderId, &super::Stream)| {
            stream.home.as_ref()?.session?;
            Some((*id, stream.name.clone(), stream.viewers > 0))
        };
        let homes: Vec<_> = self.streams.iter().filter_map(home).collect();
        let stuck = self.emptying.iter().flat_map(|draining| &draining.stuck);
        let stuck = stuck.filter_map(|(&encoder, (_, reason))| {
            let name = self.streams.get(&encoder)?.name.clone();
            Some(Stuck { encoder, name, reason: reason.clone() })
        });
        let mut state = DrainState {
            draining: self.leaving || self.emptying.is_some(),
            cordoned: false,
            left: homes.len(),
            watched: homes.iter().filter(|(.., watched)| *watched).count(),
            moving: self.moves.len(),
            viewers: self.streams.values().map(|it| it.viewers).fold(0, u32::saturating_add),
            stuck: stuck.take(SHOWN).collect(),
            plan: Vec::new(),
        };
        for (encoder, name, watched) in homes.into_iter().take(SHOWN) {
            let (to, reason) = match self.way_out(world, encoder) {
                Ok(to) => (Some(to), None),
                Err(why) => (None, Some(why)),
            };
            state.plan.push(Way { encoder, name, watched, to, reason });
        }
        state
    }

    /// There may be more to move, or more room elsewhere.
    pub(super) fn look_again(&mut self, now: Mono) {
        if let Some(draining) = &mut self.emptying {
            draining.step_at = earlier(draining.step_at, Some(now + STEP));
        }
    }

    /// Whether nothing is at home here that is on its way or may still go.
    pub fn is_emptied(&self) -> bool {
        let stuck = |encoder: &EncoderId| {
            let draining = self.emptying.as_ref();
            draining.is_some_and(|draining| draining.stuck.contains_key(encoder))
        };
        let left = |(encoder, stream): (&EncoderId, &super::Stream)| {
            let here = stream.home.as_ref().is_some_and(|claim| claim.session.is_some());
            here && !stuck(encoder) && !self.is_publisher(*encoder)
        };
        self.moves.is_empty() && !self.streams.iter().any(left)
    }

    pub(super) fn drain_due(&self) -> Option<Mono> {
        self.emptying.as_ref().and_then(|draining| draining.step_at)
    }

    /// An encoder that was to leave did not: another node is tried, later.
    pub(super) fn did_not_leave(&mut self, now: Mono, order: &Order, why: &str) {
        if order.cause != Cause::Drain {
            return;
        }
        if let Some(claim) = self.streams.get_mut(&order.encoder).and_then(|s| s.home.as_mut()) {
            claim.unreachable.insert(order.to, now + super::UNREACHABLE_KEEP);
            self.timed.insert(order.encoder);
        }
        if let Some(draining) = &mut self.emptying {
            draining.stuck.insert(order.encoder, (now + TRY_AGAIN, why.to_owned()));
            draining.step_at = earlier(draining.step_at, Some(now + TRY_AGAIN));
        }
    }

    /// Asks the next few encoders to move; `anew` also those that could not a moment ago.
    pub(super) fn proceed_draining(
        &mut self,
        world: &mut World<'_>,
        anew: bool,
        effects: &mut Vec<Effect>,
    ) {
        let now = world.now.mono;
        let Some(mut draining) = self.emptying.take() else { return };
        draining.stuck.retain(|encoder, _| self.streams.contains_key(encoder));
        let (mut idle, mut watched) = (Vec::new(), Vec::new());
        for (&encoder, stream) in &self.streams {
            let here = stream.home.as_ref().is_some_and(|claim| claim.session.is_some());
            let rests = draining.stuck.get(&encoder).is_some_and(|(until, _)| *until > now);
            if here && !self.moves.contains_key(&encoder) && (anew || !rests) {
                match stream.viewers == 0 && stream.watched_until.is_none() {
                    true => idle.push(encoder),
                    false => watched.push(encoder),
                }
            }
        }
        // Those that are watched go once no idle one is left that might: whoever cannot leave keeps
        // nobody else from it.
        let mut more = false;
        for (list, most) in [(idle, IDLE_AT_ONCE), (watched, WATCHED_AT_ONCE)] {
            let mut left = list.len();
            for encoder in list.into_iter().take(2 * most) {
                if self.moves.len() >= most {
                    break;
                }
                left -= 1;
                match self.way_out(world, encoder) {
                    Ok(to) => {
                        draining.stuck.remove(&encoder);
                        let me = super::moves::label(world, world.me);
                        let reason = format!("{me} is drained");
                        let order = Order { encoder, to, cause: Cause::Drain, reason, ticket: 0 };
                        self.move_away(world, order, effects);
                        more = true;
                    }
                    Err(why) => {
                        draining.stuck.insert(encoder, (now + TRY_AGAIN, why));
                    }
                }
            }
            more |= left > 0 || self.moves.len() >= most;
            if more {
                break;
            }
        }
        let rested = draining.stuck.values().map(|(until, _)| *until).min();
        draining.step_at = earlier(rested.map(|at| at.max(now + STEP)), more.then_some(now + STEP));
        self.emptying = Some(draining);
    }

    /// Where an encoder goes when this node is emptied: to its next, which knows it, if that has
    /// room and media does not keep it much busier, otherwise where it would be placed anew.
    fn way_out(&mut self, world: &World<'_>, encoder: EncoderId) -> Result<NodeId, String> {
        if self.is_publisher(encoder) {
            return Err(super::moves::PUBLISHER.into());
        }
        let mut others = self.counted(world, world.candidates, encoder);
        others.retain(|candidate| candidate.node != world.me);
        if others.is_empty() {
            return Err("no other node takes encoders: all are down, drained or cordoned".into());
        }
        let claim = self.streams.get(&encoder).and_then(|stream| stream.home.as_ref());
        let wish = world.rights.wish(encoder);
        let next = claim.and_then(|claim| claim.next);
        let shunned: Vec<NodeId> =
            claim.into_iter().flat_map(|claim| claim.unreachable.keys().copied()).collect();
        // A room goes together: after those that went, or to where all of it have room.
        let mut company = self.company(world, encoder);
        let here = company.remove(&world.me).unwrap_or_default();
        if let Some(joined) = placement::join(&company, &others, &shunned, &wish) {
            return Ok(joined);
        }
        let size = here.saturating_add(1);
        let roomy = |node: &NodeId| {
            let at = others.iter().find(|candidate| candidate.node == *node);
            at.is_some_and(|candidate| candidate.load.saturating_add(size) <= candidate.limit)
        };
        let key = key(world, encoder);
        let best = placement::assign(key, size, &others, &shunned, &wish).map(|it| it.home);
        let allowed = |next: &NodeId| wish.tier(*next).is_some();
        let as_liked = |next| best.is_none_or(|best| wish.tier(next) <= wish.tier(best));
        let busy = |next| best.is_some_and(|best| placement::much_busier(&others, next, best));
        let next = next.filter(|next| allowed(next) && as_liked(*next) && !busy(*next));
        next.filter(|next| roomy(next) && !shunned.contains(next)).or(best).ok_or_else(
            || match wish.only {
                true => placement::refusal(&others, &wish),
                false => format!("every other node is full ({} of them)", others.len()),
            },
        )
    }
}
