//! Going gracefully: the node is emptied as one that is drained, but soon; then whoever is left is
//! told to go, and members hear a goodbye.

use std::time::Duration;

use super::{Control, Effect};
use crate::membership;
use crate::time::{Mono, Now};
use crate::wire::{self, LinkMessage, Message};

/// A node that leaves takes this long at most, some moments for its goodbye aside: enough for
/// thousands of idle encoders or dozens of watched ones, and far below the 90 s after which service
/// managers kill.
pub const LEAVE_DEADLINE: Duration = Duration::from_secs(10);
/// What did not move by then, or cannot, has this much of it to hand itself over.
const HAND_OVER: Duration = Duration::from_secs(2);
/// After its encoders left, it stays this long for its viewers to follow.
const LEAVE_GRACE: Duration = Duration::from_millis(500);
/// Saying goodbye takes at most this long: a few rounds of gossip.
const LEAVE_FAREWELL: Duration = Duration::from_millis(400);

#[derive(Clone, Copy)]
pub(super) struct Leaving {
    deadline: Mono,
    /// Everyone who is left was told to go.
    told: bool,
    /// All encoders are elsewhere; viewers get a moment to follow.
    empty_since: Option<Mono>,
    /// Said goodbye then; what membership still has to say goes out until it falls silent.
    said_at: Option<Mono>,
    done: bool,
}

impl Control {
    pub(super) fn leave(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.leaving.is_some() {
            return;
        }
        let deadline = now.mono + LEAVE_DEADLINE;
        self.leaving =
            Some(Leaving { deadline, told: false, empty_since: None, said_at: None, done: false });
        // What follows from it is the drain.
        self.nodes_dirty = true;
        self.rest.hurry();
        effects.push(Effect::ViewChanged);
    }

    /// Goes once every encoder is elsewhere and its viewers had a moment, or time is up.
    pub(super) fn proceed_leaving(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(mut leaving) = self.leaving else { return };
        if leaving.done {
            return;
        }
        let late = now.mono + HAND_OVER >= leaving.deadline;
        if !leaving.told && (late || self.candidates.is_empty() || self.host.is_emptied()) {
            leaving.told = true;
            self.host(now, effects, |host, world, out| host.leave(world, out));
            // What the directory is to say of it.
            let mut out = Vec::new();
            self.directory.flush(&mut out);
            self.directory_effects(now, self.me, out, effects);
        }
        if leaving.told && self.host.homes() == 0 && leaving.empty_since.is_none() {
            leaving.empty_since = Some(now.mono);
        }
        let settled = leaving.empty_since.is_some_and(|since| {
            let watched = self.host.watched();
            !watched || now.mono.since(since) >= LEAVE_GRACE
        });
        if leaving.said_at.is_none() && (settled || now.mono >= leaving.deadline) {
            leaving.said_at = Some(now.mono);
            self.member(now, membership::Event::Leave, effects);
            let reason = "shutting down".to_owned();
            let goodbye = LinkMessage::Goodbye(wire::Goodbye { reason }).encode();
            for &node in &self.linked {
                effects.push(Effect::Send(node, goodbye.clone()));
            }
        }
        let silent = self.membership.next_wake().is_none();
        if leaving.said_at.is_some_and(|at| silent || now.mono.since(at) >= LEAVE_FAREWELL) {
            leaving.done = true;
            effects.push(Effect::Left);
        }
        self.leaving = Some(leaving);
    }
}
