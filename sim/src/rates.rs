//! How often things happen. That one message is never sent any more, or twice as often, breaks no
//! promise at once, and still is seldom meant: a swarm counts everything and compares the mean of its
//! runs with what was written down in `rates.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write as _};

use roost::control::{Effect, Note};
use roost::session::{agent, viewer};
use roost::wire::{ClientMessage, LinkMessage, Message as _, NodeMessage};
use serde::{Deserialize, Serialize};

use crate::client::Seen;
use crate::conn::{Cargo, Kind};
use crate::media::Frame;
use crate::net::{MS, SEC};
use crate::plan::Plan;
use crate::run::Outcome;
use crate::world::World;

/// What was written down, by `swarm --record`.
const RECORDED: &str = include_str!("../rates.json");
/// Runs are drawn in turns of so many kinds, which differ: what counts is how runs of one kind do.
const KINDS: u64 = 7;
/// Fewer runs than this say nothing.
const RUNS_MIN: usize = 20 * KINDS as usize;
/// A mean may be off by this part of it,
const SLACK: f64 = 0.05;
/// and by so many times the error that a mean of so many runs has.
const ERRORS: f64 = 5.0;
/// What happens more rarely in a run is judged by how many runs it happens in.
const OFTEN: f64 = 1.0;
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

    fn add(&mut self, what: &'static str, times: u64) {
        *self.named.entry(what).or_default() += times;
    }

    fn word(&mut self, who: &str, what: &impl Debug) {
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

/// What makes a run longer or larger, of which each count goes with the one that it follows best.
const SIZES: [&str; 6] = [
    "run",
    "node and second",
    "link and second",
    "encoder and second",
    "viewer and second",
    "fault",
];

type Sizes = [f64; SIZES.len()];

fn sizes(plan: &Plan, seconds: f64) -> Sizes {
    let (nodes, encoders, viewers) =
        (plan.nodes as f64, plan.encoders as f64, (plan.viewers + plan.browsers) as f64);
    [
        1.0,
        nodes * seconds,
        nodes * (nodes - 1.0) * seconds,
        encoders * seconds,
        viewers * seconds,
        plan.faults.len() as f64,
    ]
}

/// How often something happens.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Rate {
    /// In a run.
    mean: f64,
    /// Of which of [`SIZES`].
    per: String,
    /// So often, in runs of each kind.
    kinds: Vec<f64>,
    /// How far a run is from that (root of the mean square).
    spread: f64,
    /// The same of the ratio of a run's count to what is usual, as a logarithm: a few runs in which
    /// something happens very often hide much in a mean, and little in this.
    logs: Vec<f64>,
    log_spread: f64,
}

impl Rate {
    /// With four digits: more would be noise, and each recording a larger change.
    fn rounded(mut self) -> Self {
        let round = |number: &mut f64| {
            if let Ok(rounded) = format!("{number:.3e}").parse() {
                *number = rounded;
            }
        };
        let lists = self.kinds.iter_mut().chain(&mut self.logs);
        lists.chain([&mut self.mean, &mut self.spread, &mut self.log_spread]).for_each(round);
        self
    }

    fn usual(&self, kind: usize, sizes: &Sizes) -> f64 {
        let size = SIZES.iter().position(|name| *name == self.per).unwrap_or(0);
        self.kinds.get(kind).copied().unwrap_or(0.0) * sizes[size]
    }

    fn ratio(&self, kind: usize, sizes: &Sizes, count: f64) -> f64 {
        ((1.0 + count) / (1.0 + self.usual(kind, sizes))).ln()
    }
}

/// How often things happen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rates {
    /// Of so many runs.
    runs: usize,
    rates: BTreeMap<String, Rate>,
}

impl Rates {
    /// As JSON, each in a line of its own, so that what changes can be read.
    ///
    /// # Errors
    ///
    /// None but those of the library that writes numbers and words.
    pub fn text(&self) -> serde_json::Result<String> {
        let mut lines = Vec::new();
        for (what, rate) in &self.rates {
            let (what, rate) = (serde_json::to_string(what)?, serde_json::to_string(rate)?);
            lines.push(format!("    {what}: {rate}"));
        }
        let lines = lines.join(",\n");
        Ok(format!("{{\n  \"runs\": {},\n  \"rates\": {{\n{lines}\n  }}\n}}\n", self.runs))
    }
}

/// What runs of all kinds came to, together.
#[derive(Debug, Default)]
pub struct Counted {
    /// Kind, sizes and counts of each.
    runs: Vec<(usize, Sizes, BTreeMap<String, u64>)>,
}

impl Counted {
    /// One more run, of a plan as [`Plan::draw_any`] draws it.
    pub fn add(&mut self, plan: &Plan, outcome: &Outcome) {
        let kind = (plan.seed % KINDS) as usize;
        self.runs.push((kind, sizes(plan, outcome.seconds), outcome.counts.clone()));
    }

    /// Another's runs, too.
    pub fn merge(&mut self, other: Self) {
        self.runs.extend(other.runs);
    }

    /// Of each run: kind, sizes, and how often this happened.
    fn of<'a>(&'a self, what: &'a str) -> impl Iterator<Item = (usize, &'a Sizes, f64)> + 'a {
        let count = move |counts: &BTreeMap<String, u64>| counts.get(what).copied().unwrap_or(0);
        self.runs.iter().map(move |(kind, sizes, counts)| (*kind, sizes, count(counts) as f64))
    }

    fn whats(&self) -> BTreeSet<&str> {
        self.runs.iter().flat_map(|(_, _, counts)| counts.keys().map(String::as_str)).collect()
    }

    fn rate(&self, what: &str, size: usize) -> Rate {
        let kinds =
            self.means(self.of(what).map(|(kind, sizes, count)| (kind, count, sizes[size])));
        let mean = self.of(what).map(|(_, _, count)| count).sum::<f64>() / self.runs.len() as f64;
        let per = SIZES[size].to_owned();
        let mut rate = Rate { mean, per, kinds, spread: 0.0, logs: Vec::new(), log_spread: 0.0 };
        let off = self.of(what).map(|(kind, sizes, count)| count - rate.usual(kind, sizes));
        rate.spread = self.root(off);
        let ratio = |(kind, sizes, count)| (kind, rate.ratio(kind, sizes, count));
        let logs = self.means(self.of(what).map(ratio).map(|(kind, log)| (kind, log, 1.0)));
        let off = self.of(what).map(ratio).map(|(kind, log)| log - logs[kind]);
        rate.log_spread = self.root(off);
        rate.logs = logs;
        rate
    }

    /// Of each kind, all together divided by all sizes together.
    fn means(&self, all: impl Iterator<Item = (usize, f64, f64)>) -> Vec<f64> {
        let mut sums = [(0.0, 0.0); KINDS as usize];
        for (kind, value, size) in all {
            sums[kind] = (sums[kind].0 + value, sums[kind].1 + size);
        }
        sums.iter().map(|(sum, size)| if *size > 0.0 { sum / size } else { 0.0 }).collect()
    }

    /// Root of the mean square.
    fn root(&self, off: impl Iterator<Item = f64>) -> f64 {
        (off.map(|off| off * off).sum::<f64>() / self.runs.len() as f64).sqrt()
    }

    /// As it may be written down.
    pub fn rates(&self) -> Rates {
        let best = |what: &str| {
            let all = (0..SIZES.len()).map(|size| self.rate(what, size));
            all.min_by(|a, b| a.spread.total_cmp(&b.spread)).map(Rate::rounded)
        };
        let rates =
            self.whats().into_iter().filter_map(|what| Some((what.to_owned(), best(what)?)));
        Rates { runs: self.runs.len(), rates: rates.collect() }
    }

    /// What happens more often or more rarely than was written down, in words, the worst first.
    pub fn unusual(&self) -> Vec<String> {
        if self.runs.len() < RUNS_MIN {
            return Vec::new();
        }
        let recorded = match serde_json::from_str::<Rates>(RECORDED) {
            Ok(recorded) => recorded,
            Err(error) => return vec![format!("rates.json: {error}")],
        };
        let never = Rate { per: SIZES[0].to_owned(), ..Rate::default() };
        let whats = self.whats().into_iter().chain(recorded.rates.keys().map(String::as_str));
        let whats: BTreeSet<&str> = whats.collect();
        let usual = |what: &str| recorded.rates.get(what).unwrap_or(&never);
        let mut unusual: Vec<(f64, String)> = whats
            .into_iter()
            .filter_map(|what| self.compare(what, usual(what), recorded.runs.max(1) as f64))
            .collect();
        unusual.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        unusual.into_iter().map(|(_, text)| text).collect()
    }

    /// By how much more than it may something is off, if it is, and in words.
    fn compare(&self, what: &str, rate: &Rate, before: f64) -> Option<(f64, String)> {
        let runs = self.runs.len() as f64;
        let errors = ERRORS * (1.0 / runs + 1.0 / before).sqrt();
        let mean = |all: f64| all / runs;
        let was = mean(self.of(what).map(|(kind, sizes, _)| rate.usual(kind, sizes)).sum());
        let is = mean(self.of(what).map(|(_, _, count)| count).sum());
        let may = was * SLACK + errors * rate.spread;
        let log = |kind: usize| rate.logs.get(kind).copied().unwrap_or(0.0);
        let ratio = |(kind, sizes, count)| rate.ratio(kind, sizes, count) - log(kind);
        let ratio = mean(self.of(what).map(ratio).sum());
        // What never happened yet may do so once in as many runs.
        let ratio_may = SLACK + errors * rate.log_spread.max(before.sqrt().recip());
        // Of what is rare one run may have many.
        let off = if was < OFTEN { 0.0 } else { (is - was).abs() / may };
        let off = off.max(ratio.abs() / ratio_may);
        (off > 1.0).then(|| {
            let times = ratio.exp();
            let text = format!(
                "{what}: {is:.2} a run, usually {was:.2} ± {may:.2}; as a rule {times:.2} times as \
                 often, ± {ratio_may:.2}"
            );
            (off, text)
        })
    }
}
