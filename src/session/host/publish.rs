//! Publishers that are no agents: a WebRTC leg of this node that sends a stream. This node is home
//! for as long as the leg lasts and speaks for it: it mints the epoch, and cannot ask it to move.

use super::register::{limit, name_holder};
use super::rights::{JUDGE_INTERVAL, may_not_send};
use super::{Effect, Host, Session, World, permits};
use crate::access::{Principal, Right};
use crate::directory::SourceState;
use crate::id::{EncoderId, Epoch, SessionId, valid_name};
use crate::session::SESSIONS_MAX;
use crate::wire::{Register, Role};

/// What a publisher's leg brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Which encoder it is.
    pub encoder: EncoderId,
    /// Its name.
    pub name: String,
    /// Random per leg: its packets are numbered anew.
    pub instance: u64,
    /// Who sends.
    pub principal: Principal,
}

impl Host {
    /// A publisher's leg stands: its encoder is at home here from now on, under an epoch above all
    /// that was seen, so that any leg of it before gives way. Or it is closed, with the reason.
    pub fn publisher_opened(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        publication: Publication,
        effects: &mut Vec<Effect>,
    ) {
        let Publication { encoder, name, instance, principal } = publication;
        let floor = world.directory.floor(encoder);
        let epoch = Epoch { counter: floor.counter.saturating_add(1), instance };
        if !permits(world, &principal, Right::Publish, encoder) {
            self.counters.forbidden += 1;
            effects.push(Effect::Close(id, may_not_send(encoder)));
            return;
        }
        if let Some(reason) = self.refusal(world, encoder, &name, epoch) {
            self.counters.rejected += 1;
            effects.push(Effect::Close(id, reason));
            return;
        }
        let session = Session {
            local: false,
            opened: world.now.mono,
            principal: Some(principal.clone()),
            agent_of: None,
            follows: Default::default(),
            watching: Default::default(),
            publishes: true,
        };
        self.sessions.insert(id, session);
        self.judge_at.get_or_insert(world.now.mono + JUDGE_INTERVAL);
        effects.push(Effect::Welcomed(id, principal));
        let register = Register {
            encoder,
            name,
            role: Role::Home,
            epoch,
            source: SourceState::Ready,
            home: None,
            lost_ms: None,
            why: Some("it publishes to this node".into()),
        };
        self.become_home(world, id, register, effects);
    }

    fn refusal(
        &self,
        world: &World<'_>,
        encoder: EncoderId,
        name: &str,
        epoch: Epoch,
    ) -> Option<String> {
        if !valid_name(name) {
            return Some("a name is 1 to 64 of a-z, 0-9, '.', '_' and '-'".into());
        }
        if let Some(reason) = self.shut.clone() {
            return Some(reason);
        }
        if self.leaving {
            return Some("this node is shutting down; publish to another".into());
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Some(format!("this node has {SESSIONS_MAX} clients; use another"));
        }
        if !epoch.plausible() {
            return Some(format!("epoch {epoch} is higher than any can be"));
        }
        if let Some(holder) = name_holder(world, name, encoder) {
            let holder = holder.short();
            return Some(format!(
                "another encoder ({holder}) is connected as {name}; stop it or choose another name"
            ));
        }
        let held = self.streams.get(&encoder).is_some_and(|stream| stream.home.is_some());
        if let Some(reason) = self.reluctance(world, encoder).filter(|_| !held) {
            return Some(reason);
        }
        let limit = limit(world);
        (!held && self.homes() >= limit)
            .then(|| format!("this node is full: it is at its limit of {limit} encoders"))
    }
}
