//! `roost encode`: one encoder's agent over real connections, with a real source.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Event;
use super::dial::{ClientEndpoint, Target};
use super::disk::{Disk, Writer};
use super::legs::{Input, Legs};
use super::source::{
    self, Sample, SourceError, SourceEvent, SourceHandle, SourceSpec, Wish, Wishes,
};
use crate::directory::SourceState;
use crate::flow;
use crate::hub::{Live, QUEUE_FRAMES};
use crate::id::{EncoderId, MeshId};
use crate::media::gop::GopCache;
use crate::media::packetise::Packetiser;
use crate::media::{CLOCK_RATE, Nack};
use crate::node::Clock;
use crate::session::agent::{self, Agent, Effect, Note};
use crate::session::leg::LegId;
use crate::store::{AgentRecord, AgentStore, HoldError, StoreError};
use crate::wire::{ClientHello, FLOW_VIDEO};

/// What an agent is started with.
#[derive(Debug)]
pub struct EncodeConfig {
    /// The encoder's name.
    pub name: String,
    /// The encoder that it is, if its stream key says so; otherwise one that is drawn once.
    pub encoder: Option<EncoderId>,
    /// Any nodes of the mesh.
    pub target: Target,
    /// Folder in which it remembers.
    pub state: PathBuf,
    /// What it sends.
    pub source: SourceSpec,
    /// Told what happens.
    pub events: mpsc::UnboundedSender<Event>,
}

/// How often people are told that frames were not sent, while that goes on.
const TELL_DROPPED: Duration = Duration::from_secs(10);

/// Why an agent does not run. Each kind has an exit code of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Another process sends this encoder.
    #[error("{0}")]
    InUse(String),
    /// What it was started with cannot be used: the same would fail again.
    #[error("{0}")]
    Setting(String),
    /// The source has ended for good, or the system refuses something.
    #[error("{0}")]
    Failed(String),
}

impl From<HoldError> for EncodeError {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::InUse { .. } => Self::InUse(error.to_string()),
            HoldError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for EncodeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unwritable { path, source } => Self::Setting(format!(
                "cannot write {}: {source}; make it writable for this user, or give another \
                 --state",
                path.display()
            )),
            StoreError::BadName(_) => Self::Setting(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<SourceError> for EncodeError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Setting(words) => Self::Setting(words),
            SourceError::File(_) | SourceError::Thread(_) => Self::Failed(error.to_string()),
        }
    }
}

/// What the agents of one process have in common: a UDP port, and a thread that writes.
#[derive(Debug, Clone)]
pub struct Shared {
    endpoint: ClientEndpoint,
    writer: Writer,
}

impl Shared {
    /// For agents that go to `target`. Must be called inside a tokio runtime.
    pub fn open(target: &Target) -> Result<Self, EncodeError> {
        let refused = |what, error: io::Error, advice| {
            EncodeError::Failed(format!("cannot {what}: {error}; {advice}"))
        };
        let endpoint = ClientEndpoint::new()
            .map_err(|error| refused("open a UDP socket", error, "check the limits on files"))?;
        let writer = Writer::start()
            .map_err(|error| refused("start a thread", error, "check the limits on processes"))?;
        Ok(Self { endpoint: endpoint.with_tokens(target.tokens.clone()), writer })
    }
}

/// Runs until `shutdown`, or until the source has ended for good.
pub async fn run(
    config: EncodeConfig,
    shared: Shared,
    shutdown: impl Future<Output = ()>,
) -> Result<(), EncodeError> {
    let Started(driver, inputs, source, leased, effects) = start(config, shared)?;
    let ended = driver.run(inputs, source, leased, effects, shutdown).await;
    ended.map_err(EncodeError::Failed)
}

/// A driver, and what it is fed with.
struct Started(
    Driver,
    mpsc::Receiver<Input>,
    SourceHandle,
    mpsc::UnboundedReceiver<u64>,
    Vec<Effect>,
);

fn start(config: EncodeConfig, shared: Shared) -> Result<Started, EncodeError> {
    let store = AgentStore::open(&config.state)?;
    let held = store.hold(&config.name)?;
    let loaded = store.load(&config.name)?;
    let file = store.path(&config.name)?;
    if let Some(aside) = &loaded.quarantined {
        let reason = format!(
            "what this agent remembered could not be read and is kept as {}; it starts anew",
            aside.display()
        );
        let _ = config.events.send(Event::Warning { reason });
    }
    let source = source::open(config.source)?;
    let mut record = loaded.record;
    if let Some(encoder) = config.encoder {
        record.encoder = encoder;
    }
    let hello = ClientHello {
        agent: "roost encode".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        credential: config.target.credential.clone(),
        only_api: false,
    };
    let mesh = config.target.mesh.or(record.mesh);
    let (legs, inputs) = Legs::new(shared.endpoint, hello, mesh);
    // An enrolment string says which mesh is meant; only an address leaves it to what was before.
    let remembers = Some(file).filter(|_| config.target.mesh.is_none());
    let instance = u64::from_le_bytes(crate::node::random());
    let born = agent::Config {
        encoder: record.encoder,
        name: config.name.clone(),
        instance,
        lease: record.leased,
        targets: config.target.addrs.clone(),
        peers: record.peers.clone(),
        seed: u64::from_le_bytes(crate::node::random()),
    };
    let mut effects = Vec::new();
    let (leased_tx, leased) = mpsc::unbounded_channel();
    let driver = Driver {
        agent: Agent::new(born, &mut effects),
        clock: Clock::new(),
        legs,
        timeline: instance,
        packetiser: Packetiser::new(u16::from_le_bytes(crate::node::random()) >> 1),
        cache: GopCache::new(),
        senders: BTreeMap::new(),
        stamps: Stamps::default(),
        wishes: source.wishes.clone(),
        events: config.events,
        disk: shared.writer.disk(store, held, config.name, leased_tx),
        record,
        dropped: 0,
        sent: Arc::default(),
        told_dropped: 0,
        remembers,
        native_only: None,
        refused: None,
        next: None,
    };
    Ok(Started(driver, inputs, source, leased, effects))
}

/// What to do about a node that is refused because `file` remembers this mesh. Of all reasons only
/// that one names the mesh.
fn other_mesh(reason: &str, mesh: MeshId, file: &Path) -> Option<String> {
    reason.contains(&mesh.to_string()).then(|| {
        format!(
            "the node there is not of mesh {mesh}, in which this encoder was before, as {} says; if \
             that mesh was made anew, stop this encoder and remove that file, or give another \
             --state",
            file.display()
        )
    })
}

struct Driver {
    agent: Agent,
    clock: Clock,
    legs: Legs,
    timeline: u64,
    packetiser: Packetiser,
    cache: GopCache,
    senders: BTreeMap<LegId, Sender>,
    stamps: Stamps,
    wishes: Wishes,
    events: mpsc::UnboundedSender<Event>,
    disk: Disk,
    record: AgentRecord,
    dropped: u64,
    sent: Arc<flow::Sent>,
    told_dropped: u64,
    /// Where the mesh is remembered, if that alone says which it is.
    remembers: Option<PathBuf>,
    /// Why browsers cannot play what the source sends.
    native_only: Option<String>,
    /// What was told last of these kinds.
    refused: Option<Event>,
    next: Option<Event>,
}

/// Media to one leg.
struct Sender {
    frames: mpsc::Sender<Live>,
    asks: mpsc::Sender<Nack>,
    skipping: bool,
}

impl Driver {
    async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut source: SourceHandle,
        mut leased: mpsc::UnboundedReceiver<u64>,
        effects: Vec<Effect>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), String> {
        let mut shutdown = std::pin::pin!(shutdown);
        self.carry_out(effects);
        self.handle(agent::Event::Wake);
        let (mut why, mut ended) = (None, None);
        let mut tell_dropped = tokio::time::interval(TELL_DROPPED);
        tell_dropped.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = self.agent.next_wake().map(|at| self.clock.instant(at));
            let far = tokio::time::Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                biased;
                Some(input) = inputs.recv() => {
                    self.input(input);
                    while let Ok(input) = inputs.try_recv() {
                        self.input(input);
                    }
                }
                Some(counter) = leased.recv() => self.handle(agent::Event::Leased(counter)),
                event = source.events.recv() => match event {
                    Some(event) => {
                        if let SourceEvent::Lost { reason } = &event {
                            why = Some(reason.clone());
                        }
                        self.source(event);
                    }
                    // It cannot come back. Whoever supervises this process can start it anew.
                    None => {
                        ended = Some(why.unwrap_or_else(|| "the source ended".to_owned()));
                        break;
                    }
                },
                () = tokio::time::sleep_until(wake.unwrap_or(far)) => {
                    self.handle(agent::Event::Wake);
                }
                _ = tell_dropped.tick(), if self.dropped > self.told_dropped => self.tell_dropped(),
                () = &mut shutdown => break,
            }
        }
        self.handle(agent::Event::Leave);
        self.legs.shutdown().await;
        ended.map_or(Ok(()), Err)
    }

    fn handle(&mut self, event: agent::Event) {
        let mut effects = Vec::new();
        self.agent.handle(self.clock.now().mono, event, &mut effects);
        self.carry_out(effects);
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Connected(leg, node, mesh) => {
                self.legs.mesh.get_or_insert(mesh);
                if self.record.mesh != Some(mesh) {
                    self.record.mesh = Some(mesh);
                    self.disk.save(self.record.clone(), None);
                }
                self.handle(agent::Event::Connected { leg, node });
            }
            Input::Closed(leg, reason) => {
                self.tell_other_mesh(&reason);
                self.handle(agent::Event::Closed { leg, reason });
            }
            Input::Message(leg, bytes) => self.handle(agent::Event::Message(leg, bytes)),
            Input::Heartbeat(leg, body) => self.handle(agent::Event::Datagram(leg, body)),
            // Nodes send no media to agents, but ask for what they miss.
            Input::Packet(leg, bytes) => {
                if let (Some(sender), Some(nack)) = (self.senders.get(&leg), Nack::read(&bytes)) {
                    // Full: it will ask again.
                    let _ = sender.asks.try_send(nack);
                }
            }
        }
    }

    fn source(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Ready { describe } => {
                self.tell(Event::Source { describe });
                self.native_only = None;
                self.handle(agent::Event::Source(SourceState::Ready));
            }
            SourceEvent::Sample(sample) => self.sample(&sample),
            SourceEvent::Lost { reason } => {
                self.stamps.break_line();
                self.tell(Event::NoSignal { reason: reason.clone() });
                self.handle(agent::Event::Source(SourceState::NoSignal(reason)));
            }
            SourceEvent::NativeOnly(reason) => {
                if self.native_only.as_ref() != Some(&reason) {
                    self.native_only = Some(reason.clone());
                    self.tell(Event::Warning { reason: reason.clone() });
                    self.handle(agent::Event::Source(SourceState::NativeOnly(reason)));
                }
            }
            SourceEvent::Warning(reason) => self.tell(Event::Warning { reason }),
        }
    }

    fn sample(&mut self, sample: &Sample) {
        // The source drains while nobody watches; what it had under way is not wanted.
        if self.agent.media().is_empty() {
            return;
        }
        let stamp = self.stamps.stamp(sample.timestamp, self.clock.now().mono);
        let Some(frame) = self.packetiser.packetise(&sample.unit, stamp) else { return };
        let frame = Arc::new(frame);
        self.cache.push(frame.clone());
        for sender in self.senders.values_mut() {
            if sender.skipping && !frame.keyframe {
                // Before a stream's first keyframe there is nothing that could be sent.
                self.dropped += u64::from(!self.cache.wants_keyframe());
                continue;
            }
            let live = Live { timeline: self.timeline, frame: frame.clone() };
            sender.skipping = sender.frames.try_send(live).is_err();
            self.dropped += u64::from(sender.skipping);
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Dial { leg, node, addr } => self.legs.dial(leg, node, addr),
                Effect::Close(leg) => {
                    self.senders.remove(&leg);
                    self.legs.close(leg);
                }
                Effect::Send(leg, bytes) => self.legs.send(leg, bytes),
                Effect::Datagram(leg, bytes) => self.legs.datagram(leg, bytes),
                Effect::Media(legs) => self.media(&legs),
                Effect::Keyframe => self.wish(Wish::Keyframe),
                Effect::Lease(counter) => {
                    self.record.leased = counter;
                    self.disk.save(self.record.clone(), Some(counter));
                }
                Effect::Peers(peers) => {
                    let known = std::mem::replace(&mut self.record.peers, peers);
                    match known.nodes.is_empty() {
                        true => self.disk.save(self.record.clone(), None),
                        false => self.disk.save_later(self.record.clone()),
                    }
                }
                Effect::Note(note) => self.note(note),
            }
        }
    }

    fn media(&mut self, legs: &BTreeSet<LegId>) {
        let running = !self.senders.is_empty();
        self.senders.retain(|leg, _| legs.contains(leg));
        for &leg in legs {
            if self.senders.contains_key(&leg) {
                continue;
            }
            let Some(connection) = self.legs.connection(leg) else { continue };
            let timeline = self.timeline;
            let frames = self.cache.frames().iter().cloned();
            let start: Vec<Live> = frames.map(|frame| Live { timeline, frame }).collect();
            let skipping = start.is_empty();
            if skipping {
                // No group of pictures is kept, as when they are longer than what is: nobody at
                // the other side can ask before there is a picture.
                self.wish(Wish::Keyframe);
            }
            let (frames, queue) = mpsc::channel(QUEUE_FRAMES);
            let (asks, asked) = mpsc::channel(flow::ASKS_QUEUE);
            let sent = self.sent.clone();
            tokio::spawn(async move {
                // The connection's end comes as an event of its own.
                let _ = flow::send(&connection, FLOW_VIDEO, start, queue, asked, &sent).await;
            });
            self.senders.insert(leg, Sender { frames, asks, skipping });
        }
        match (running, legs.is_empty()) {
            (_, true) => {
                self.cache.reset();
                self.wish(Wish::Pause);
            }
            (false, false) => self.wish(Wish::Run),
            (true, false) => {}
        }
    }

    fn wish(&self, wish: Wish) {
        self.wishes.send(wish);
    }

    fn note(&mut self, note: Note) {
        let event = match note {
            Note::Home { name, epoch, moved, healed, .. } => {
                let healed_ms = healed.map(|span| u64::try_from(span.as_millis()).unwrap_or(0));
                Event::Home { node: name, epoch: epoch.to_string(), moved, healed_ms }
            }
            Note::Next { name, .. } => Event::Next { node: name },
            Note::Seeking(reason) => Event::Waiting { reason },
            Note::Refused(reason) => Event::Refused { reason },
            Note::Stayed { name, reason } => {
                Event::Warning { reason: format!("it does not move to {name}: {reason}") }
            }
            Note::Superseded => Event::Refused {
                reason: "another start of this encoder took over; this one waits until it is gone"
                    .into(),
            },
            Note::Watched(watched) => Event::Watched { watched },
        };
        // What is refused again and again, or confirmed, is told once.
        let repeated = match &event {
            Event::Refused { .. } => self.refused.as_ref() == Some(&event),
            Event::Next { .. } => self.next.as_ref() == Some(&event),
            _ => false,
        };
        match &event {
            Event::Refused { .. } => self.refused = Some(event.clone()),
            Event::Next { .. } => self.next = Some(event.clone()),
            Event::Home { .. } => (self.refused, self.next) = (None, None),
            _ => {}
        }
        if repeated {
            return;
        }
        self.tell(event);
    }

    fn tell_other_mesh(&mut self, reason: &str) {
        let (Some(mesh), Some(file)) = (self.record.mesh, &self.remembers) else { return };
        let Some(reason) = other_mesh(reason, mesh, file) else { return };
        let event = Event::Refused { reason };
        // The node is dialled again and again.
        if self.refused.as_ref() != Some(&event) {
            self.refused = Some(event.clone());
            self.tell(event);
        }
    }

    fn tell_dropped(&mut self) {
        if let Some(reason) = unsent(self.dropped, &mut self.told_dropped) {
            self.tell(Event::Warning { reason });
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listens any more: the caller is stopping.
        let _ = self.events.send(event);
    }
}

/// What people are told of frames that were dropped since they were told last.
fn unsent(dropped: u64, told: &mut u64) -> Option<String> {
    let more = dropped - std::mem::replace(told, dropped);
    (more > 0).then(|| {
        format!(
            "{more} frames were not sent ({dropped} in all): the node did not take them in time; is \
             the network too slow for this stream?"
        )
    })
}

/// A source that goes back by less has not started anew: pictures with B-frames between them come
/// before these, which are shown earlier.
const REORDER_MAX: u32 = CLOCK_RATE;

/// Timestamps that never jump back, whatever the source does to its own.
#[derive(Debug, Default)]
struct Stamps {
    shift: u32,
    last: Option<(u32, crate::time::Mono)>,
    broken: bool,
}

impl Stamps {
    /// The source starts anew.
    fn break_line(&mut self) {
        self.broken = true;
    }

    fn stamp(&mut self, timestamp: u32, now: crate::time::Mono) -> u32 {
        let mut stamp = timestamp.wrapping_add(self.shift);
        if let Some((last, at)) = self.last
            && (self.broken || !flow::is_after(stamp, last))
        {
            if !self.broken && last.wrapping_sub(stamp) < REORDER_MAX {
                stamp = last.wrapping_add(1);
            } else {
                let elapsed = now.since(at).as_millis().clamp(1, 10_000) as u32 * 90;
                stamp = last.wrapping_add(elapsed);
                self.shift = stamp.wrapping_sub(timestamp);
            }
        }
        self.broken = false;
        self.last = Some((stamp, now));
        stamp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Mono;

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    #[test]
    fn pictures_out_of_order_do_not_stretch_time() {
        let mut stamps = Stamps::default();
        // Three minutes at 25 fps as a camera with two B-frames sends them: I P B B P B B ...
        let (tick, origin) = (CLOCK_RATE / 25, u32::MAX - 1_000);
        let shown = |sent: u32| match sent % 3 {
            0 => sent,
            1 => sent + 2,
            _ => sent - 1,
        };
        let shown = |sent: u32| if sent == 0 { 0 } else { shown(sent - 1) + 1 };
        let count = 180 * 25;
        let mut last: Option<u32> = None;
        for sent in 0..=count {
            let timestamp = origin.wrapping_add(shown(sent) * tick);
            let stamp = stamps.stamp(timestamp, at(u64::from(sent) * 40));
            assert!(last.is_none_or(|last| flow::is_after(stamp, last)), "picture {sent}");
            let early = stamp.wrapping_sub(timestamp);
            assert!(early < 4 * tick, "{early} ticks off at picture {sent}");
            last = Some(stamp);
        }
        let span = last.expect("many").wrapping_sub(origin);
        assert!(span.abs_diff(count * tick) < 4 * tick, "{span} ticks for {}", count * tick);
    }

    #[test]
    fn a_source_that_starts_anew_goes_on_in_real_time() {
        let mut stamps = Stamps::default();
        assert_eq!(stamps.stamp(5_000_000, at(0)), 5_000_000);
        assert_eq!(stamps.stamp(0, at(2_000)), 5_000_000 + 2 * CLOCK_RATE);
        assert_eq!(stamps.stamp(3_600, at(2_040)), 5_003_600 + 2 * CLOCK_RATE);
        stamps.break_line();
        assert_eq!(stamps.stamp(3_000, at(3_040)), 5_003_600 + 3 * CLOCK_RATE);
    }

    #[tokio::test]
    async fn frames_that_were_not_sent_are_told_as_a_warning() {
        let state = tempfile::tempdir().expect("a folder");
        let (events, mut told) = mpsc::unbounded_channel();
        let config = EncodeConfig {
            name: "cam".into(),
            encoder: None,
            target: "127.0.0.1:9".parse().expect("an address"),
            state: state.path().into(),
            source: SourceSpec::Test {
                fps: Some(15),
                name: "cam".into(),
                gop: Duration::from_secs(2),
                obeys_keyframe_requests: true,
            },
            events,
        };
        let shared = Shared::open(&config.target).expect("a port and a thread");
        let Started(mut driver, inputs, source, leased, effects) =
            start(config, shared).expect("started");
        driver.dropped = 7;
        let shutdown = tokio::time::sleep(Duration::from_millis(300));
        driver.run(inputs, source, leased, effects, shutdown).await.expect("told to end");
        let mut warnings = Vec::new();
        while let Some(event) = told.recv().await {
            if let Event::Warning { reason } = event {
                warnings.push(reason);
            }
        }
        assert!(matches!(&warnings[..], [once] if once.contains("7 frames")), "{warnings:?}");
    }

    #[test]
    fn frames_that_were_not_sent_are_told_again_only_if_there_are_more() {
        let mut told = 0;
        assert_eq!(unsent(0, &mut told), None);
        let words = unsent(7, &mut told).expect("it grew");
        assert!(words.starts_with("7 frames were not sent (7 in all)"), "{words}");
        assert_eq!(unsent(7, &mut told), None);
        let words = unsent(9, &mut told).expect("it grew");
        assert!(words.starts_with("2 frames were not sent (9 in all)"), "{words}");
    }

    #[test]
    fn only_a_refusal_by_another_mesh_names_the_file() {
        let (mesh, file) = (MeshId([7; 16]), Path::new("/state/cam.agent"));
        assert_eq!(other_mesh("n1:9443: connection refused", mesh, file), None);
        let refusal =
            crate::admission::Refusal::OtherMesh { expected: mesh, found: MeshId([8; 16]) };
        let words = other_mesh(&refusal.to_string(), mesh, file).expect("it names the mesh");
        assert!(words.contains("remove") && words.contains("/state/cam.agent"), "{words}");
    }
}
