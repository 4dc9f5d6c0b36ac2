//! Evening out: the machine, and what it wants done.

use std::time::Duration;

use super::{Control, Effect, Note, unsalted};
use crate::accounts::{Key, Kind};
use crate::directory::Directory;
use crate::id::NodeId;
use crate::membership::Membership;
use crate::placement::balance::{Effect as Out, Event, STABILITY_PERIOD, World};
use crate::placement::plan::Why;
use crate::session::host::{Cause, Order};
use crate::time::Now;
use crate::wire::{LinkMessage, Message};

/// The setting that says for how many seconds nothing may have changed before encoders are moved.
const SETTING: &str = "stability-period";
/// Its value.
const VALUE: u16 = 2;

/// Encoders that a node says it has. What a former life of it said is over, also if the present one
/// has said nothing yet.
fn load_of(directory: &Directory, membership: &Membership, node: NodeId) -> u32 {
    let said = directory.boot(node).map(unsalted);
    let over = membership.peer(node).is_some_and(|peer| said < Some(peer.boot));
    let count = if over { 0 } else { directory.count(node) };
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Control {
    pub(super) fn balance(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        let mut out = Vec::new();
        let host = &self.host;
        let world = World {
            me: self.me,
            count: u32::try_from(self.directory.count(self.me)).unwrap_or(u32::MAX),
            seats: &self.seats,
            load: &|node| load_of(&self.directory, &self.membership, node),
            steered: &|| {
                let rights = self.rights.read();
                let steered = |id| rights.guide(id).is_some() || rights.room(id).is_some();
                self.directory.entries(self.me).any(|(encoder, _)| steered(encoder))
            },
            linked: &self.linked,
            may_go: &|encoder| host.may_go(encoder),
        };
        self.balance.handle(now.mono, &world, event, &mut out);
        for effect in out {
            match effect {
                Out::Look => {
                    let demand = self.demand();
                    let look = Event::Look { units: demand.units, wishes: demand.wishes };
                    self.balance(now, look, effects);
                }
                Out::Spread => {
                    // What moves is given another next anyway.
                    let (going, mut given) = (self.balance.going(), 0);
                    self.host(now, effects, |host, world, out| {
                        given = host.spread_nexts(world, &going, out);
                    });
                    self.balance(now, Event::Spread(given), effects);
                }
                Out::Planned(encoders) => effects.push(Effect::Note(Note::Balancing(encoders))),
                Out::Ask(to, ask) => {
                    effects.push(Effect::Send(to, LinkMessage::BalanceAsk(ask).encode()));
                }
                Out::Answer(to, answer) => {
                    effects.push(Effect::Send(to, LinkMessage::BalanceAnswer(answer).encode()));
                }
                Out::Release(to, release) => {
                    effects.push(Effect::Send(to, LinkMessage::BalanceRelease(release).encode()));
                }
                Out::Move { encoder, to, why } => {
                    let (cause, reason) = self.reason(to, &why);
                    let order = Order { encoder, to, cause, reason, ticket: 0 };
                    self.host(now, effects, |host, world, out| host.move_away(world, order, out));
                }
            }
        }
    }

    /// Why an encoder goes from here, for people.
    fn reason(&self, to: NodeId, why: &Why) -> (Cause, String) {
        let here = self.label(self.me);
        match why {
            Why::Preference(pool) => (Cause::Preference, format!("preference: pool {pool}")),
            Why::Room(_) => (Cause::Preference, "room: others of its room are there".into()),
            Why::NoCapacity => (Cause::Balance, format!("balance: {here} declares no capacity")),
            Why::Balance(from, there) => {
                let to = self.label(to);
                (Cause::Balance, format!("balance: {here} had {from}, {to} {there}"))
            }
            // Not of this machine's making.
            Why::Lost | Why::Drain => (Cause::Drain, format!("{here} is drained")),
        }
    }

    /// A record changed: nodes may belong together otherwise, or encoders be wished elsewhere.
    pub(super) fn heed_steering(&mut self, now: Now, key: Key, effects: &mut Vec<Effect>) {
        match key.kind {
            Kind::POOL | Kind::NODE => self.balance(now, Event::Unsettled, effects),
            Kind::ENCODER | Kind::ROOM | Kind::GROUP | Kind::DOMAIN => self.encoders_changed = true,
            Kind::SETTING => {
                self.encoders_changed = true;
                self.heed_period(now, effects);
            }
            _ => {}
        }
    }

    /// How long nothing may have changed; of values that differ since a partition the greatest
    /// counts. A value that is no number asks for nothing.
    pub(super) fn heed_period(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let rights = self.rights.read();
        let values = rights.named(Kind::SETTING, None, SETTING).filter_map(|id| {
            let record = self.ledger.get(Key { kind: Kind::SETTING, id });
            let record = record.filter(|record| record.exists())?;
            let values = record.values(VALUE).into_iter();
            let seconds = |text: &str| {
                let text = text.trim();
                text.strip_suffix('s').unwrap_or(text).trim_end().parse().ok()
            };
            values.filter_map(|it| seconds(str::from_utf8(it.value).ok()?)).max()
        });
        let period = values.max().map_or(STABILITY_PERIOD, Duration::from_secs);
        drop(rights);
        self.balance(now, Event::Period(period), effects);
    }
}
