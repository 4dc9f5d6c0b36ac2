//! Calls to the clients' side of the node, and what it wants done.

use super::{Control, Effect, Note};
use crate::session::host::{self, Cause, Host, World};
use crate::time::Now;
use crate::wire::{Message, NodeMessage};

impl Control {
    pub(super) fn host(
        &mut self,
        now: Now,
        effects: &mut Vec<Effect>,
        call: impl FnOnce(&mut Host, &mut World<'_>, &mut Vec<host::Effect>),
    ) {
        let mut out = Vec::new();
        let rights = self.rights.read();
        let trip = |node| self.membership.rtt(node);
        let mut world = World {
            now,
            time: self.clocks.time(now),
            me: self.me,
            directory: &mut self.directory,
            roster: &self.roster,
            rights: &rights,
            alive: &self.alive,
            linked: &self.linked,
            trip: &trip,
            candidates: &self.candidates,
            reluctant: &self.reluctant,
            peers: &self.peers,
        };
        call(&mut self.host, &mut world, &mut out);
        drop(rights);
        self.host_called = true;
        for effect in out {
            effects.push(match effect {
                host::Effect::Tell(sessions, message) => {
                    let bytes = NodeMessage::encode(&message);
                    let send = |session| Effect::ClientSend(session, bytes.clone());
                    effects.extend(sessions.into_iter().map(send));
                    continue;
                }
                host::Effect::Send(session, message) => {
                    Effect::ClientSend(session, NodeMessage::encode(&message))
                }
                host::Effect::Welcomed(session, who) => Effect::ClientWelcomed(session, who),
                host::Effect::Close(session, reason) => Effect::ClientClose(session, reason),
                host::Effect::Route(encoder, route) => Effect::Route(encoder, route),
                host::Effect::Serve(session, encoder) => Effect::Serve(session, encoder),
                host::Effect::Unserve(session, encoder) => Effect::Unserve(session, encoder),
                host::Effect::RelayKeyframe(encoder) => Effect::RelayKeyframe(encoder),
                host::Effect::Moved(order, outcome) => {
                    if matches!(order.cause, Cause::Balance | Cause::Preference) {
                        self.went.push((order.encoder, outcome == host::Outcome::Done));
                    }
                    Effect::Moved(order, outcome)
                }
                host::Effect::Note(encoder, name, note) => {
                    Effect::Note(Note::Encoder(encoder, name, note))
                }
            });
        }
    }
}
