//! What happens to those who are here when rights change.

use std::time::Duration;

use super::{Effect, Host, World, permits};
use crate::access::{Principal, Right};
use crate::id::{EncoderId, SessionId};
use crate::wire::{self, NodeMessage};

/// Everyone is judged anew at least this often, since a key may expire without any change.
pub(super) const JUDGE_INTERVAL: Duration = Duration::from_secs(10);

impl Host {
    /// Who is shown which stream here.
    pub fn watchers(&self) -> impl Iterator<Item = (&Principal, EncoderId)> {
        self.sessions.values().flat_map(|session| {
            let who = session.principal.iter();
            who.flat_map(|who| session.watching.iter().map(move |encoder| (who, *encoder)))
        })
    }

    /// Rights may have changed: whoever may do no more what they do here is stopped.
    pub fn rights_changed(&mut self, world: &mut World<'_>, effects: &mut Vec<Effect>) {
        self.judge_at = None;
        for id in self.sessions.keys().copied().collect::<Vec<_>>() {
            let Some(session) = self.sessions.get(&id) else { continue };
            let Some(principal) = session.principal.clone() else { continue };
            self.judge_at.get_or_insert(world.now.mono + JUDGE_INTERVAL);
            if world.rights.distrusts(&principal) {
                let reason = "what this client showed was signed by a node that was revoked: get a \
                              new string, or log in again";
                self.end(world, id, 403, reason.to_owned(), effects);
                continue;
            }
            if !world.rights.stands(&principal, world.time) {
                let reason = "what this client showed is not good any more: its account, its \
                              password or its key was changed; log in again or get a new one";
                self.end(world, id, 401, reason.to_owned(), effects);
                continue;
            }
            let sends = session.agent_of.map(|(encoder, _)| encoder);
            if let Some(encoder) = sends.filter(|e| !permits(world, &principal, Right::Publish, *e))
            {
                self.end(world, id, 403, may_not_send(encoder), effects);
                continue;
            }
            let lost = |e: &&EncoderId| !permits(world, &principal, Right::View, **e);
            let lost: Vec<EncoderId> = session.watching.iter().filter(lost).copied().collect();
            for encoder in lost {
                self.counters.ended += 1;
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.watching.remove(&encoder);
                }
                effects.push(Effect::Unserve(id, encoder));
                let reason = "this stream may not be watched any more: rights were changed";
                let failed =
                    wire::Failed { status: 404, reason: reason.to_owned(), retry_after: None };
                effects.push(Effect::Send(id, NodeMessage::Failed(failed)));
            }
        }
        self.tell_places(world, effects);
    }

    /// Ends a session whose client may not stay, and says why.
    fn end(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        status: u16,
        reason: String,
        effects: &mut Vec<Effect>,
    ) {
        self.counters.ended += 1;
        let failed = wire::Failed { status, reason: reason.clone(), retry_after: None };
        effects.push(Effect::Send(id, NodeMessage::Failed(failed)));
        effects.push(Effect::Close(id, reason));
        // Not when its connection has ended: nothing of it is taken from now on.
        self.left(world, id, false, effects);
        self.sessions.remove(&id);
    }
}

/// Why a registration is refused or ended.
pub(super) fn may_not_send(encoder: EncoderId) -> String {
    format!(
        "this credential may not send as encoder {}: use its stream key, or an account with the \
         role publisher in its domain",
        encoder.short()
    )
}
