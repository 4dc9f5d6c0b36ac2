//! Whoever needs a keyframe gets one, and no source is asked too often.

use roost::id::{EncoderId, SessionId};
use roost::wire::{Message as _, NodeMessage};

use super::{Checks, SLACK};
use crate::net::{MS, SEC};
use crate::world::World;

/// A receiver that gets pictures, or would if one were a keyframe, has one by then: what a request
/// and its answer take on a path that nothing ever disturbed.
const PROMPT: u64 = 2 * SEC;
/// The same where requests may have been lost: each of two nodes may just have asked for the last
/// time before it, and waits longest.
const LATE: u64 = 11 * SEC;
/// From the first request to the second, and at most.
const PACE: (u64, u64) = (300 * MS, 4_800 * MS);

/// Whether it is a keyframe that a node asks an agent for.
pub(crate) fn is_request(bytes: &[u8]) -> bool {
    matches!(NodeMessage::decode(bytes), Ok(NodeMessage::Keyframe(_)))
}

/// What a node asked upstream.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Asked {
    at: u64,
    unanswered: u32,
}

impl Checks {
    /// The stream comes from elsewhere.
    pub(crate) fn forget_requests(&mut self, ix: usize, encoder: EncoderId) {
        self.asked.remove(&(ix, encoder));
    }

    /// A keyframe came, or nobody waits for one any more.
    pub(crate) fn answer_requests(&mut self, ix: usize, encoder: EncoderId) {
        if let Some(asked) = self.asked.get_mut(&(ix, encoder)) {
            asked.unanswered = 0;
        }
    }
}

impl World {
    /// A node asks an agent for a keyframe.
    pub(crate) fn check_request_of(&mut self, ix: usize, session: SessionId) {
        let mut attached = self.nodes[ix].attached.iter();
        let encoder = attached.find(|(_, of)| **of == session).map(|(encoder, _)| *encoder);
        if let Some(encoder) = encoder {
            self.check_request(ix, encoder);
        }
    }

    /// A node asks for a keyframe: not sooner after the last request than its number allows.
    pub(crate) fn check_request(&mut self, ix: usize, encoder: EncoderId) {
        let now = self.now;
        let asked = self.checks.asked.entry((ix, encoder)).or_default();
        let before = *asked;
        *asked = Asked { at: now, unanswered: before.unanswered + 1 };
        if before.at == 0 {
            return;
        }
        let wait = (PACE.0 << before.unanswered.saturating_sub(1).min(10)).min(PACE.1);
        self.measure("ms between two requests for a keyframe", (now - before.at) / MS);
        if now + MS < before.at + wait {
            let text = format!(
                "n{ix} asks for a keyframe of {} again after {} ms, having asked {} times",
                encoder.short(),
                (now - before.at) / MS,
                before.unanswered
            );
            self.fail("request pace", text);
        }
    }

    /// Since when a receiver at a node waits for a keyframe while pictures come.
    pub(crate) fn check_lacking(&mut self, ix: usize, encoder: EncoderId, since: Option<u64>) {
        if let Some(ms) = since.and_then(|since| self.lacks_for_long(since)) {
            let text = format!("a receiver of {} at n{ix} has none for {ms} ms", encoder.short());
            self.fail("keyframe", text);
        }
    }

    /// Since when a viewer that is shown pictures waits for one that makes them whole.
    pub(crate) fn check_damage(&mut self, who: &str, since: Option<u64>) {
        if let Some(ms) = since.and_then(|since| self.lacks_for_long(since)) {
            self.fail("keyframe", format!("what {who} shows is damaged for {ms} ms"));
        }
    }

    /// For how long, if that is too long. While something disturbs packets or requests, no time
    /// passes.
    fn lacks_for_long(&self, since: u64) -> Option<u64> {
        let calm = self.calm_for(10 * SEC) && self.now >= self.checks.rough_at + 10 * SEC;
        let exact = calm && self.plan.net.loss == 0.0;
        let limit = if exact { PROMPT } else { LATE } * self.patience() + SLACK;
        let since = since.max(self.checks.rough_at);
        let late = self.plan.camera.obeys && self.now > since + limit;
        late.then(|| (self.now - since) / MS)
    }

    /// Remembers when packets or requests were last disturbed.
    pub(super) fn note_rough(&mut self) {
        let net = &self.net;
        let rough = !net.loss.is_empty()
            || !net.latency.is_empty()
            || !net.reorder.is_empty()
            || !net.requests_lost.is_empty()
            || net.cut_anywhere();
        if rough || self.hosts.iter().any(|host| host.frozen) {
            self.checks.rough_at = self.now;
        }
    }
}
