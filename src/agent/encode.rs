//! `roost encode`: one encoder's agent over real connections, with a real source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Event;
use super::dial::Target;
use super::legs::{Input, Legs};
use super::source::{self, Sample, SourceEvent, SourceHandle, SourceSpec, Wish, Wishes};
use crate::directory::SourceState;
use crate::flow;
use crate::hub::{Live, QUEUE_FRAMES};
use crate::media::gop::GopCache;
use crate::media::packetise::Packetiser;
use crate::node::Clock;
use crate::session::agent::{self, Agent, Effect, Note};
use crate::session::leg::LegId;
use crate::store::{AgentRecord, AgentStore};
use crate::wire::{ClientHello, FLOW_VIDEO};

/// What an agent is started with.
#[derive(Debug)]
pub struct EncodeConfig {
    /// The encoder's name.
    pub name: String,
    /// Any nodes of the mesh.
    pub target: Target,
    /// Folder in which it remembers.
    pub state: PathBuf,
    /// What it sends.
    pub source: SourceSpec,
    /// Told what happens.
    pub events: mpsc::UnboundedSender<Event>,
}

/// Runs until `shutdown`. Errors, in words: its folder or its source cannot be used at all, or the
/// source has ended for good.
pub async fn run(config: EncodeConfig, shutdown: impl Future<Output = ()>) -> Result<(), String> {
    let store = AgentStore::open(&config.state).map_err(|error| error.to_string())?;
    let loaded = store.load(&config.name).map_err(|error| error.to_string())?;
    if let Some(aside) = &loaded.quarantined {
        let reason = format!(
            "what this agent remembered could not be read and is kept as {}; it starts anew",
            aside.display()
        );
        let _ = config.events.send(Event::Warning { reason });
    }
    let source = source::open(config.source).map_err(|error| error.to_string())?;
    let record = loaded.record;
    let hello = ClientHello {
        agent: "roost encode".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        credential: config.target.credential.clone(),
    };
    let mesh = config.target.mesh.or(record.mesh);
    let (legs, inputs) = Legs::new(hello, mesh).map_err(|error| error.to_string())?;
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
        disk: Disk::start(store, config.name, leased_tx),
        record,
        dropped: 0,
        native_only: None,
        refused: None,
        next: None,
    };
    driver.run(inputs, source, leased, effects, shutdown).await
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
    /// Why browsers cannot play what the source sends.
    native_only: Option<String>,
    /// What was told last of these kinds.
    refused: Option<Event>,
    next: Option<Event>,
}

/// Media to one leg.
struct Sender {
    frames: mpsc::Sender<Live>,
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
        loop {
            let wake = self.agent.next_wake().map(|at| self.clock.instant(at));
            let far = tokio::time::Instant::now() + std::time::Duration::from_secs(3600);
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
            Input::Closed(leg, reason) => self.handle(agent::Event::Closed { leg, reason }),
            Input::Message(leg, bytes) => self.handle(agent::Event::Message(leg, bytes)),
            Input::Heartbeat(leg, body) => self.handle(agent::Event::Datagram(leg, body)),
            // Nodes send no media to agents.
            Input::Packet(..) => {}
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
                self.dropped += 1;
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
                    self.record.peers = peers;
                    self.disk.save(self.record.clone(), None);
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
            let frames = self.cache.frames().into_iter();
            let start: Vec<Live> = frames.map(|frame| Live { timeline, frame }).collect();
            let skipping = start.is_empty();
            let (sender, queue) = mpsc::channel(QUEUE_FRAMES);
            tokio::spawn(async move {
                // The connection's end comes as an event of its own.
                let _ = flow::send(&connection, FLOW_VIDEO, start, queue).await;
            });
            self.senders.insert(leg, Sender { frames: sender, skipping });
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

    fn tell(&self, event: Event) {
        // Nobody listens any more: the caller is stopping.
        let _ = self.events.send(event);
    }
}

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
            let elapsed = now.since(at).as_millis().clamp(1, 10_000) as u32 * 90;
            stamp = last.wrapping_add(elapsed);
            self.shift = stamp.wrapping_sub(timestamp);
        }
        self.broken = false;
        self.last = Some((stamp, now));
        stamp
    }
}

/// Writes the agent's record on a thread of its own: a busy disk must not silence heartbeats.
struct Disk {
    jobs: std::sync::mpsc::Sender<(AgentRecord, Option<u64>)>,
}

impl Disk {
    fn start(store: AgentStore, name: String, leased: mpsc::UnboundedSender<u64>) -> Self {
        let (jobs, queue) = std::sync::mpsc::channel::<(AgentRecord, Option<u64>)>();
        std::thread::spawn(move || {
            while let Ok((mut record, mut counter)) = queue.recv() {
                // Only the newest record matters.
                while let Ok((newer, more)) = queue.try_recv() {
                    record = newer;
                    counter = more.or(counter);
                }
                let mut saved = store.save(&name, &record);
                while let Err(error) = &saved {
                    tracing::error!(err = %error, "cannot write down what this agent must know");
                    std::thread::sleep(std::time::Duration::from_secs(1));
                    saved = store.save(&name, &record);
                }
                if let Some(counter) = counter {
                    let _ = leased.send(counter);
                }
            }
        });
        Self { jobs }
    }

    fn save(&self, record: AgentRecord, lease: Option<u64>) {
        let _ = self.jobs.send((record, lease));
    }
}
