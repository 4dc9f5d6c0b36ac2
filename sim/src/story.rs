//! What a person wants to know of a run: who ran when, who was home, what was said about it, and
//! when somebody saw nothing. Taken from the world after each event; the world does not notice.

use std::collections::{BTreeMap, BTreeSet};

use roost::wire::{ClientMessage, LinkMessage, Message as _, NodeMessage, Role};

use crate::conn::{Cargo, Kind};
use crate::net::MS;
use crate::plan::Fault;
use crate::world::World;

/// Without a new picture for longer than this, somebody sees that it stands still.
const GAP: u64 = 200 * MS;
/// Messages about the directory are told for this long after a node claims or drops an encoder.
const NEWS: u64 = 1_000 * MS;

/// A value from one moment to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span<T> {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) what: T,
}

/// A value that changes, with all its past.
#[derive(Debug, Clone)]
pub(crate) struct Past<T> {
    now: Option<(u64, T)>,
    pub(crate) spans: Vec<Span<T>>,
}

impl<T> Default for Past<T> {
    fn default() -> Self {
        Self { now: None, spans: Vec::new() }
    }
}

impl<T: Copy + PartialEq> Past<T> {
    /// True if this is a change.
    fn set(&mut self, at: u64, what: Option<T>) -> bool {
        if self.now.map(|(_, now)| now) == what {
            return false;
        }
        if let Some((from, before)) = self.now.take() {
            self.spans.push(Span { from, to: at, what: before });
        }
        self.now = what.map(|what| (at, what));
        true
    }
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Runs,
    Frozen,
}

/// A message that mattered.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) sent: u64,
    pub(crate) read: u64,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) text: String,
    /// The encoder it is about, if only about one.
    pub(crate) encoder: Option<usize>,
    pub(crate) weight: Weight,
}

/// How much a message mattered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// Nodes tell each other where encoders are.
    News,
    /// A client looks around.
    Talk,
    /// Somebody becomes home or next, or is refused.
    Decides,
}

/// A node's verdict about another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) at: u64,
    pub(crate) observer: usize,
    pub(crate) judged: usize,
}

/// A fault with whom it befell.
#[derive(Debug, Clone)]
pub(crate) struct Befell {
    pub(crate) from: u64,
    pub(crate) to: Option<u64>,
    pub(crate) hosts: Vec<usize>,
    /// The two sides of a cut.
    pub(crate) sides: [BTreeSet<usize>; 2],
    pub(crate) fault: Fault,
}

/// A run, as it is told.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) hosts: Vec<Past<State>>,
    /// Where agents believe their home and next to be.
    pub(crate) homes: Vec<Past<usize>>,
    pub(crate) nexts: Vec<Past<usize>>,
    /// To which node a publisher sends.
    pub(crate) legs: Vec<Past<usize>>,
    /// Which nodes claim which encoders, and after these which publishers.
    pub(crate) claims: BTreeMap<(usize, usize), Past<()>>,
    /// From which node a viewer or page has its pictures.
    pub(crate) via: Vec<Past<usize>>,
    pub(crate) gaps: Vec<(usize, Span<()>)>,
    fresh: Vec<Option<u64>>,
    pub(crate) said: Vec<Said>,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) faults: BTreeMap<usize, Befell>,
    news_at: u64,
}

impl World {
    /// After each event.
    pub(crate) fn observe(&mut self) {
        let Some(mut story) = self.story.take() else { return };
        let now = self.now;
        story.hosts.resize_with(self.hosts.len(), Past::default);
        for (host, past) in self.hosts.iter().zip(&mut story.hosts) {
            let state = if host.frozen { State::Frozen } else { State::Runs };
            past.set(now, host.up.then_some(state));
        }
        story.homes.resize_with(self.plan.encoders, Past::default);
        story.nexts.resize_with(self.plan.encoders, Past::default);
        for e in 0..self.plan.encoders {
            let up = self.agents_of(e).any(|ix| self.hosts[self.host_of_encoder(ix)].up);
            story.homes[e].set(now, self.home_of(e).filter(|_| up));
            story.nexts[e].set(now, self.next_of(e).filter(|_| up));
        }
        story.legs.resize_with(self.publishers.len(), Past::default);
        for (publisher, past) in self.publishers.iter().zip(&mut story.legs) {
            past.set(now, publisher.leg.as_ref().map(|leg| leg.end.host));
        }
        for source in 0..self.plan.encoders + self.publishers.len() {
            for ix in 0..self.plan.nodes {
                let past = story.claims.entry((ix, source)).or_default();
                let claims = self.claims(ix, self.watched_id(source));
                if past.set(now, claims.then_some(())) {
                    story.news_at = now;
                }
            }
        }
        let watchers = self.plan.viewers + self.browsers.len();
        story.via.resize_with(watchers, Past::default);
        story.fresh.resize(watchers, None);
        for w in 0..watchers {
            let (via, seen, up) = match w.checked_sub(self.plan.viewers) {
                None => {
                    let viewer = &self.viewers[w];
                    let via = viewer.machine.as_ref().and_then(|machine| machine.via());
                    let via = via.and_then(|via| self.index.get(&via).copied());
                    (via, viewer.seen, self.hosts[self.host_of_viewer(w)].up)
                }
                Some(page) => (self.browsers[page].at, self.browsers[page].seen, true),
            };
            story.via[w].set(now, via.filter(|_| up));
            let fresh = seen.newest.map(|_| seen.fresh_at);
            if let (Some(before), Some(fresh)) = (story.fresh[w], fresh)
                && fresh > before + GAP
            {
                story.gaps.push((w, Span { from: before, to: fresh, what: () }));
            }
            // A viewer whose process died and came back was without pictures all the same.
            story.fresh[w] = fresh.or(story.fresh[w]);
        }
        self.story = Some(story);
    }

    /// The run is over: what lasts until now ends now.
    pub(crate) fn observe_end(&mut self) {
        let Some(mut story) = self.story.take() else { return };
        let now = self.now;
        story.hosts.iter_mut().for_each(|past| {
            past.set(now, None);
        });
        let pasts = story.homes.iter_mut().chain(&mut story.nexts);
        for past in pasts.chain(&mut story.legs).chain(&mut story.via) {
            past.set(now, None);
        }
        story.claims.values_mut().for_each(|past| {
            past.set(now, None);
        });
        for (w, fresh) in story.fresh.iter().enumerate() {
            if let Some(from) = fresh.filter(|fresh| now > fresh + GAP) {
                story.gaps.push((w, Span { from, to: now, what: () }));
            }
        }
        self.story = Some(story);
    }

    /// A node calls another down.
    pub(crate) fn observe_verdict(&mut self, observer: usize, judged: usize) {
        let at = self.now;
        if let Some(story) = &mut self.story {
            story.verdicts.push(Verdict { at, observer, judged });
        }
    }

    pub(crate) fn observe_fault(
        &mut self,
        index: usize,
        hosts: &[usize],
        cuts: &[(usize, usize)],
        fault: &Fault,
    ) {
        let from = self.now;
        if let Some(story) = &mut self.story {
            // A cut both ways is kept as pairs of pairs.
            let step = if matches!(fault, Fault::Cut { one_way: false, .. }) { 2 } else { 1 };
            let pairs = || cuts.iter().step_by(step);
            let sides = [pairs().map(|(a, _)| *a).collect(), pairs().map(|(_, b)| *b).collect()];
            let (hosts, fault) = (hosts.to_vec(), fault.clone());
            let befell = Befell { from, to: None, hosts, sides, fault };
            story.faults.insert(index, befell);
        }
    }

    pub(crate) fn observe_fault_over(&mut self, index: usize) {
        let now = self.now;
        if let Some(fault) = self.story.as_mut().and_then(|story| story.faults.get_mut(&index)) {
            fault.to = Some(now);
        }
    }

    /// An ordered message is under way.
    pub(crate) fn observe_message(
        &mut self,
        (from, to): (usize, usize),
        read: u64,
        kind: &Kind,
        cargo: &Cargo,
    ) {
        let Some(story) = &self.story else { return };
        let sent = self.now;
        let Cargo::Message(bytes) = cargo else { return };
        let told = match kind {
            Kind::Link(_) if sent < story.news_at + NEWS => news(bytes),
            Kind::Client { .. } if from >= self.plan.nodes => self.asks(bytes),
            Kind::Client { .. } => self.answers(bytes),
            Kind::Link(_) | Kind::Media => None,
        };
        let Some((text, encoder, weight)) = told else { return };
        // A node's words to an agent are about the agent's encoder.
        let encoder = encoder.or_else(|| self.encoder_at(to).map(|ix| ix % self.plan.encoders));
        if let Some(story) = &mut self.story {
            story.said.push(Said { sent, read, from, to, text, encoder, weight });
        }
    }

    fn asks(&self, bytes: &[u8]) -> Option<(String, Option<usize>, Weight)> {
        Some(match ClientMessage::decode(bytes).ok()? {
            ClientMessage::Register(register) => {
                let encoder = self.encoders.iter().position(|e| e.id == register.encoder);
                let (text, weight) = match register.role {
                    Role::Ask => ("where shall I go?", Weight::Talk),
                    Role::Home => ("be my home", Weight::Decides),
                    Role::Next => ("be my next", Weight::Decides),
                    Role::Also => ("take my pictures as well", Weight::Decides),
                };
                let text = match register.role {
                    Role::Home => format!("{text}, epoch {}", register.epoch),
                    _ => text.to_owned(),
                };
                (text, encoder, weight)
            }
            ClientMessage::Confirmed(confirm) => {
                let word = if confirm.epoch.is_some() { "still yours" } else { "not yours" };
                (word.into(), None, Weight::Talk)
            }
            ClientMessage::Watch(_) => ("give me the pictures".into(), None, Weight::Talk),
            ClientMessage::NextUnreachable(_) => {
                ("I do not reach my next".into(), None, Weight::Decides)
            }
            ClientMessage::Stayed(stayed) => {
                let to = self.name_of(stayed.to);
                (format!("I stay, {to} is not for me: {}", stayed.reason), None, Weight::Decides)
            }
            ClientMessage::Goodbye(_) => ("goodbye".into(), None, Weight::Talk),
            _ => return None,
        })
    }

    fn answers(&self, bytes: &[u8]) -> Option<(String, Option<usize>, Weight)> {
        let name = |node| self.name_of(node);
        Some(match NodeMessage::decode(bytes).ok()? {
            NodeMessage::Assign(assign) => {
                (format!("go to {}: {}", name(assign.home), assign.reason), None, Weight::Decides)
            }
            NodeMessage::Registered(registered) => {
                let next =
                    registered.next.map_or_else(String::new, |n| format!(", next {}", name(n)));
                let role = match registered.role {
                    Role::Home => "I am home",
                    Role::Next => "I stand by",
                    Role::Ask | Role::Also => "registered",
                };
                (format!("{role}, epoch {}{next}", registered.epoch), None, Weight::Decides)
            }
            NodeMessage::Rejected(rejected) => (rejected.reason, None, Weight::Decides),
            NodeMessage::Confirm(_) => ("are you still mine?".into(), None, Weight::Talk),
            NodeMessage::Move(order) => {
                (format!("move to {}: {}", name(order.to), order.reason), None, Weight::Decides)
            }
            NodeMessage::Goodbye(goodbye) => (goodbye.reason, None, Weight::Talk),
            NodeMessage::Failed(failed) => (failed.reason, None, Weight::Talk),
            _ => return None,
        })
    }
}

fn news(bytes: &[u8]) -> Option<(String, Option<usize>, Weight)> {
    match LinkMessage::decode(bytes).ok()? {
        LinkMessage::DirectoryDelta(_) => Some(("where encoders are".into(), None, Weight::News)),
        LinkMessage::Goodbye(goodbye) => Some((goodbye.reason, None, Weight::Talk)),
        _ => None,
    }
}
