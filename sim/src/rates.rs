//! How often things happen. That one message is never sent any more, or twice as often, breaks no
//! promise at once, and still is seldom meant: in some calm courses, of one thing after the other,
//! everything is counted and compared with what was written down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write as _};
use std::ops::Range;

use roost::control::{Effect, Note};
use roost::session::{agent, viewer};
use roost::wire::{ClientMessage, LinkMessage, Message as _, NodeMessage};
use serde::{Deserialize, Serialize};

use crate::client::Seen;
use crate::conn::{Cargo, Kind};
use crate::media::Frame;
use crate::net::{MS, SEC};
use crate::plan::Plan;
use crate::world::World;

/// What was written down, by `courses --record`.
const RECORDED: &str = include_str!("../rates.json");
/// Each course was played under so many seeds when that was done.
pub const SEEDS_RECORDED: u64 = 150;
/// A mean may be off by this part of it,
const SLACK: f64 = 0.05;
/// by so many times the error of a mean of so few runs: what a change only shuffles is within,
const ERRORS: f64 = 5.0;
/// and by this, for what hardly ever happens.
const RARELY: f64 = 0.15;
/// Tags of messages are below.
const TAGS: usize = 32;
/// Times are told apart by these bounds, in milliseconds.
const STEPS_MS: [(u64, &str); 5] =
    [(150, "0.15"), (300, "0.3"), (600, "0.6"), (1_200, "1.2"), (3_000, "3")];

/// Who says something to whom.
#[derive(Clone, Copy)]
enum Way {
    Link,
    FromClient,
    ToClient,
}

/// What happened in one run, and how often.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Messages by way and tag, and their bytes.
    messages: [[(u64, u64); TAGS]; 3],
    /// What they are called, once one was seen.
    names: BTreeMap<(usize, usize), String>,
    named: BTreeMap<&'static str, u64>,
    words: BTreeMap<String, u64>,
}

/// The first word of what `Debug` makes of it: the name of a variant.
fn word(what: &impl Debug) -> String {
    let mut text = String::new();
    let _ = write!(text, "{what:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

impl Tally {
    fn message(&mut self, way: Way, bytes: &[u8]) {
        let Some(tag) = bytes.first_chunk().map(|tag| usize::from(u16::from_le_bytes(*tag))) else {
            return;
        };
        let Some(count) = self.messages[way as usize].get_mut(tag) else { return };
        count.0 += 1;
        count.1 += bytes.len() as u64;
        if count.0 == 1 {
            let name = match way {
                Way::Link => LinkMessage::decode(bytes).map(|it| word(&it)),
                Way::FromClient => ClientMessage::decode(bytes).map(|it| word(&it)),
                Way::ToClient => NodeMessage::decode(bytes).map(|it| word(&it)),
            };
            self.names.insert((way as usize, tag), name.unwrap_or_default());
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// An event of a machine, which may be that it wakes.
    pub(crate) fn woken(&mut self, what: &'static str, wakes: bool) {
        self.add(what, u64::from(wakes));
    }

    fn add(&mut self, what: &'static str, times: u64) {
        *self.named.entry(what).or_default() += times;
    }

    pub(crate) fn word(&mut self, who: &str, what: &impl Debug) {
        *self.words.entry(format!("{who}: {}", word(what))).or_default() += 1;
    }

    /// Something took a time, in nanoseconds.
    pub(crate) fn took(&mut self, what: &str, time: u64) {
        if let Some((_, step)) = STEPS_MS.iter().rev().find(|(least, _)| time >= least * MS) {
            *self.words.entry(format!("{what} {step} s")).or_default() += 1;
        }
    }

    /// Every counter of a machine, whatever it has: numbers by name, or several of one name.
    fn counters(&mut self, whose: &str, counters: &impl Debug) {
        let text = format!("{counters:?}");
        let inner = text.split_once('{').map_or("", |(_, inner)| inner);
        let mut name = "";
        let (mut at, mut places) = (0, false);
        for part in inner.split([',', '}', ']']) {
            let mut number = part.trim();
            if let Some((before, after)) = part.split_once(':') {
                name = before.trim();
                number = after.trim();
                (at, places) = (0, false);
            }
            if let Some(first) = number.strip_prefix('[') {
                (number, places) = (first, true);
            }
            let Ok(count) = number.parse::<u64>() else { continue };
            let key =
                if places { format!("{whose}: {name} {at}") } else { format!("{whose}: {name}") };
            *self.words.entry(key).or_default() += count;
            at += 1;
        }
    }

    /// Something is sent, by a client or a node.
    pub(crate) fn sent(&mut self, kind: &Kind, client: bool, cargo: &Cargo) {
        match (kind, cargo) {
            (Kind::Link(_), Cargo::Message(bytes)) => self.message(Way::Link, bytes),
            (Kind::Client { .. }, Cargo::Message(bytes)) => {
                self.message(if client { Way::FromClient } else { Way::ToClient }, bytes);
            }
            (Kind::Link(_), Cargo::Datagram(bytes)) => {
                self.count("link: datagrams");
                self.add("link: bytes of datagrams", bytes.len() as u64);
            }
            (Kind::Client { .. }, Cargo::Datagram(_)) if client => {
                self.count("client says: heartbeats");
            }
            (Kind::Client { .. }, Cargo::Datagram(_)) => self.count("node says: heartbeats"),
            (Kind::Media, Cargo::Media(message)) => self.word("relay", message),
            (_, Cargo::Picture(..)) => self.count("pictures sent"),
            _ => {}
        }
    }

    pub(crate) fn take(&mut self) -> BTreeMap<String, u64> {
        let ways = ["link", "client says", "node says"];
        let mut all = std::mem::take(&mut self.words);
        all.extend(
            std::mem::take(&mut self.named).into_iter().map(|(what, n)| (what.to_owned(), n)),
        );
        for ((way, tag), name) in std::mem::take(&mut self.names) {
            let (count, bytes) = std::mem::take(&mut self.messages[way][tag]);
            all.insert(format!("{}: {name}", ways[way]), count);
            all.insert(format!("{}: {name}, bytes", ways[way]), bytes);
        }
        all
    }
}

impl World {
    /// A node's driver is asked to do something.
    pub(crate) fn tally_effect(&mut self, effect: &Effect) {
        let what = match effect {
            // Counted where they are sent.
            Effect::Send(..)
            | Effect::Datagram(..)
            | Effect::ClientSend(..)
            | Effect::ClientDatagram(..) => return,
            Effect::Route(_, route) => return self.tally.word("route", route),
            Effect::Note(Note::Encoder(_, _, note)) => {
                return self.tally.word("of an encoder", note);
            }
            Effect::Note(Note::Ledger(note)) => return self.tally.word("of the ledger", note),
            Effect::Note(note) => return self.tally.word("of a node", note),
            Effect::Moved(_, outcome) => return self.tally.word("move", outcome),
            Effect::Dial { .. } => "a node dials",
            Effect::Statements(..) => "statements to write down",
            Effect::Expel(..) => "expelled",
            Effect::Persist(_) => "commits",
            Effect::RecordChanged(_) => "records changed",
            Effect::Remember(_) => "members to remember",
            Effect::Name(..) => "names to remember",
            Effect::GossipWith(_) => "partners of gossip",
            Effect::ClientWelcomed(..) => "clients welcomed",
            Effect::ClientClose(..) => "clients closed",
            Effect::Serve(..) => "served",
            Effect::Unserve(..) => "not served any more",
            Effect::RelayKeyframe(_) => "keyframes asked upstream",
            Effect::ViewChanged => "views changed",
            Effect::MeshTime(..) => "mesh times",
            _ => "effects of other kinds",
        };
        self.tally.count(what);
    }

    /// An agent's driver is.
    pub(crate) fn tally_agent(&mut self, effect: &agent::Effect) {
        let what = match effect {
            agent::Effect::Send(..) | agent::Effect::Datagram(..) => return,
            agent::Effect::Note(note) => {
                if let agent::Note::Home { healed: Some(time), .. } = note {
                    self.tally.took("healed in", time.as_nanos() as u64);
                }
                return self.tally.word("of an agent", note);
            }
            agent::Effect::Dial { .. } => "an agent dials",
            agent::Effect::Close(_) => "an agent closes a leg",
            agent::Effect::Media(_) => "an agent sends media to others",
            agent::Effect::Keyframe => "an agent wants a keyframe",
            agent::Effect::Lease(_) => "an agent leases epochs",
            agent::Effect::Peers(_) => "an agent remembers peers",
        };
        self.tally.count(what);
    }

    /// A viewer's driver is.
    pub(crate) fn tally_viewer(&mut self, effect: &viewer::Effect) {
        let what = match effect {
            viewer::Effect::Send(..) | viewer::Effect::Datagram(..) => return,
            viewer::Effect::Note(note) => return self.tally.word("of a viewer", note),
            viewer::Effect::Dial { .. } => "a viewer dials",
            viewer::Effect::Close(_) => "a viewer closes a leg",
            viewer::Effect::Peers(_) => "a viewer remembers peers",
        };
        self.tally.count(what);
    }

    /// A node's life ends: what it counted.
    pub(crate) fn tally_life(&mut self, ix: usize) {
        let Some(control) = &self.nodes[ix].control else { return };
        self.tally.counters("control", control.counters());
        self.tally.counters("membership", control.membership().counters());
        self.tally.counters("directory", &control.directory().counters());
        self.tally.counters("ledger", &control.ledger().counters());
        self.tally.counters("balance", control.balancing().counters());
        self.tally.counters("host", &control.clients().counters);
    }

    /// A viewer sees a new picture.
    pub(crate) fn tally_picture(&mut self, before: Seen, frame: &Frame) {
        if before.newest.is_some() {
            self.tally.took("dark for", self.now - before.fresh_at);
        }
        self.tally.took("pictures late by", self.now.saturating_sub(frame.taken));
    }

    /// What the world looks like now.
    pub(crate) fn tally_world(&mut self) {
        if self.now % SEC >= crate::world::PROBE {
            return;
        }
        for agent in self.encoders.iter().filter_map(|encoder| encoder.agent.as_ref()) {
            self.tally.add("seconds with a home", u64::from(agent.home().is_some()));
            self.tally.add("seconds with a next", u64::from(agent.next().is_some()));
            self.tally.add("seconds of media", agent.media().len() as u64);
        }
        for viewer in self.viewers.iter().filter_map(|viewer| viewer.machine.as_ref()) {
            self.tally.add("seconds with a picture", u64::from(viewer.via().is_some()));
        }
        for control in self.nodes.iter().filter_map(|node| node.control.as_ref()) {
            self.tally.add("seconds of links", control.linked().len() as u64);
            self.tally.add("seconds of belief in others", control.alive().len() as u64);
            self.tally.add("seconds of homes", control.clients().homes() as u64);
            self.tally.add("seconds of sessions", control.clients().sessions() as u64);
        }
    }
}

/// How often something happens in a run of a course.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Rate(
    /// On average.
    f64,
    /// How far runs are from that (standard deviation).
    f64,
);

/// How often what happens, by course.
type ByCourse = BTreeMap<String, BTreeMap<String, Rate>>;

/// How often what happens in courses that were played under some seeds.
#[derive(Debug)]
pub struct Rates {
    seeds: Range<u64>,
    rates: ByCourse,
}

#[derive(rust_embed::RustEmbed)]
#[folder = "courses/"]
struct Files;

/// Every course by name: what happens in it, one after the other.
///
/// # Errors
///
/// A file that is no plan.
pub fn courses() -> serde_json::Result<Vec<Plan>> {
    let files = Files::iter().filter_map(|name| Files::get(&name));
    files.map(|file| serde_json::from_slice(&file.data)).collect()
}

/// With four digits: more would be noise, and each recording a larger change.
fn rounded(number: f64) -> f64 {
    format!("{number:.3e}").parse().unwrap_or(number)
}

impl Rates {
    /// Nothing yet, of courses that will be played under these seeds.
    pub fn under(seeds: Range<u64>) -> Self {
        Self { seeds, rates: ByCourse::new() }
    }

    /// Plays a course, and adds what happened.
    ///
    /// # Errors
    ///
    /// What did not hold, in words, and the plan.
    pub fn play(&mut self, course: &Plan) -> Result<(), String> {
        let mut runs: Vec<BTreeMap<String, u64>> = Vec::new();
        for seed in self.seeds.clone() {
            let plan = Plan { seed, ..course.clone() };
            let outcome = crate::run(&plan, crate::Watch::Nobody);
            if let Some(violation) = outcome.violation {
                return Err(format!("course {} under seed {seed}: {violation}", course.name));
            }
            runs.push(outcome.counts);
        }
        let count = runs.len() as f64;
        let all: BTreeSet<&String> = runs.iter().flat_map(BTreeMap::keys).collect();
        for what in all {
            let times = || runs.iter().map(|run| run.get(what).copied().unwrap_or(0) as f64);
            let mean = times().sum::<f64>() / count;
            let spread = (times().map(|n| (n - mean).powi(2)).sum::<f64>() / count).sqrt();
            if mean > 0.0 {
                let of = self.rates.entry(what.clone()).or_default();
                of.insert(course.name.clone(), Rate(rounded(mean), rounded(spread)));
            }
        }
        Ok(())
    }

    /// What was written down before, with what was played in place of it, as JSON: each thing in a
    /// line of its own, so that what changes can be read.
    ///
    /// # Errors
    ///
    /// A text that is not what was written down.
    pub fn over(&self, before: &str) -> serde_json::Result<String> {
        let played: BTreeSet<&String> = self.rates.values().flat_map(BTreeMap::keys).collect();
        let mut rates: ByCourse = serde_json::from_str(before)?;
        for of in rates.values_mut() {
            of.retain(|course, _| !played.contains(course));
        }
        for (what, of) in &self.rates {
            rates.entry(what.clone()).or_default().extend(of.clone());
        }
        rates.retain(|_, of| !of.is_empty());
        let mut lines = Vec::new();
        for (what, of) in &rates {
            let (what, of) = (serde_json::to_string(what)?, serde_json::to_string(of)?);
            lines.push(format!("  {what}: {of}"));
        }
        Ok(format!("{{\n{}\n}}\n", lines.join(",\n")))
    }

    /// What happens in a course more often or more rarely than was written down, in words, the
    /// worst first.
    pub fn unusual(&self, course: &str) -> Vec<String> {
        let recorded = match serde_json::from_str::<ByCourse>(RECORDED) {
            Ok(recorded) => recorded,
            Err(error) => return vec![format!("rates.json: {error}")],
        };
        let of = |rates: &ByCourse, what: &str| {
            rates.get(what).and_then(|of| of.get(course)).copied().unwrap_or_default()
        };
        let error =
            ERRORS * (1.0 / self.seeds.clone().count() as f64 + 1.0 / SEEDS_RECORDED as f64).sqrt();
        let mut unusual: Vec<(f64, String)> = Vec::new();
        for what in self.rates.keys().chain(recorded.keys()).collect::<BTreeSet<_>>() {
            let (Rate(is, _), Rate(was, spread)) = (of(&self.rates, what), of(&recorded, what));
            let may = SLACK * was + error * spread + RARELY;
            let off = (is - was).abs() / may;
            if off > 1.0 {
                let text = format!("{course}: {what}: {is:.2} a run, usually {was:.2} ± {may:.2}");
                unusual.push((off, text));
            }
        }
        unusual.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        unusual.into_iter().map(|(_, text)| text).collect()
    }
}
