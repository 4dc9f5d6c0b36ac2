//! `roost view`: a native viewer that measures what it sees.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::dial::Target;
use super::legs::{Input, Legs};
use super::{Event, Gap, Report};
use crate::flow;
use crate::id::NodeId;
use crate::media::assemble::{Assembled, Assembler};
use crate::media::clock::read_clock_sei;
use crate::media::depacketise::unpack;
use crate::media::h264::push_annex_b;
use crate::media::{Nack, Packet};
use crate::node::Clock;
use crate::session::leg::LegId;
use crate::session::viewer::{self, Effect, Lacks, Note, Viewer};
use crate::time::Mono;
use crate::wire::{ClientHello, FLOW_VIDEO, PeerList};

/// A pause between frames counts as a gap from here on, or from three frame intervals if that is
/// more: what a person notices.
pub const GAP_MIN: Duration = Duration::from_millis(150);
/// Latencies kept for the report: a day at 15 fps.
const LATENCIES_MAX: usize = 1_300_000;
/// Gaps listed in the report; later ones are counted by their events only.
const GAPS_MAX: usize = 10_000;

/// Where the stream is written.
#[derive(Debug)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// A file, made anew.
    File(PathBuf),
}

/// What a viewer is started with.
#[derive(Debug)]
pub struct ViewConfig {
    /// The stream.
    pub name: String,
    /// Any nodes of the mesh.
    pub target: Target,
    /// Watch at whichever node answers first, by relay if need be, instead of being led home.
    pub stay: bool,
    /// Where Annex B is written.
    pub output: Option<Output>,
    /// Told what happens.
    pub events: mpsc::UnboundedSender<Event>,
}

/// Why a viewer ended without a report.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The mesh refuses, and trying again will not help.
    #[error("{0}")]
    Refused(String),
    /// There was no picture at all, because no encoder has this name.
    #[error("{0}")]
    NoSuchStream(String),
    /// There was no picture at all, because no node answered.
    #[error("{0}")]
    NoNodeAnswered(String),
    /// There was no picture at all for another reason, or the output cannot be written.
    #[error("{0}")]
    Failed(String),
}

/// Watches until `shutdown`, which must see at least one picture.
///
/// # Errors
/// There was none, the output cannot be written, or the mesh says that trying again will not help.
pub async fn run(
    config: ViewConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<Event, ViewError> {
    let output: Option<Box<dyn Write + Send>> = match config.output {
        None => None,
        Some(Output::Stdout) => Some(Box::new(std::io::stdout())),
        Some(Output::File(path)) => {
            let file = std::fs::File::create(&path).map_err(|error| {
                ViewError::Failed(format!("cannot write {}: {error}", path.display()))
            })?;
            Some(Box::new(std::io::BufWriter::new(file)))
        }
    };
    let hello = ClientHello {
        agent: "roost view".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        credential: config.target.credential.clone(),
    };
    let (legs, inputs) = Legs::new(hello, config.target.mesh)
        .map_err(|error| ViewError::Failed(error.to_string()))?;
    let born = viewer::Config {
        name: config.name.clone(),
        stay: config.stay,
        targets: config.target.addrs,
        peers: PeerList::default(),
        seed: u64::from_le_bytes(crate::node::random()),
    };
    let clock = Clock::new();
    let driver = Driver {
        viewer: Viewer::new(born),
        started: clock.now().mono,
        clock,
        legs,
        assemblers: BTreeMap::new(),
        picture: Picture::default(),
        report: Report { name: config.name, ..Report::default() },
        output,
        events: config.events,
        refused: None,
        second: Second::default(),
    };
    driver.run(inputs, shutdown).await
}

struct Driver {
    viewer: Viewer,
    started: Mono,
    clock: Clock,
    legs: Legs,
    /// By leg, with the SSRC that its packets carry: another one is another start of the agent.
    assemblers: BTreeMap<LegId, (u32, Assembler)>,
    picture: Picture,
    report: Report,
    output: Option<Box<dyn Write + Send>>,
    events: mpsc::UnboundedSender<Event>,
    refused: Option<String>,
    second: Second,
}

/// What was shown so far.
#[derive(Default)]
struct Picture {
    /// SSRC, timestamp and arrival of the newest frame, and where it came from.
    newest: Option<(u32, u32, Mono)>,
    from: String,
    wall: u64,
    interval: Duration,
    next_sequence: Option<u16>,
    clock: Option<(u64, u32)>,
    latencies: Vec<f32>,
    keyframe_seen: bool,
}

#[derive(Default)]
struct Second {
    frames: u64,
    lost: u64,
    latency_ms: Option<f64>,
}

impl Driver {
    async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Event, ViewError> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        self.handle(viewer::Event::Wake);
        while self.refused.is_none() {
            let wake = self.viewer.next_wake().map(|at| self.clock.instant(at));
            let far = tokio::time::Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                biased;
                Some(input) = inputs.recv() => {
                    self.input(input).map_err(ViewError::Failed)?;
                    while let Ok(input) = inputs.try_recv() {
                        self.input(input).map_err(ViewError::Failed)?;
                    }
                }
                () = tokio::time::sleep_until(wake.unwrap_or(far)) => {
                    self.handle(viewer::Event::Wake);
                }
                _ = second.tick() => self.tell_second(),
                () = &mut shutdown => break,
            }
        }
        let nothing_seen = self.nothing_seen();
        self.legs.shutdown().await;
        if let Some(output) = &mut self.output {
            let flushed = output.flush();
            flushed.map_err(|error| ViewError::Failed(format!("cannot write: {error}")))?;
        }
        if let Some(reason) = self.refused {
            return Err(ViewError::Refused(reason));
        }
        if self.report.frames == 0 {
            return Err(nothing_seen);
        }
        let mut report = self.report;
        let latencies = &mut self.picture.latencies;
        latencies.sort_by(f32::total_cmp);
        let at = |share: f64| {
            let index = (latencies.len() as f64 * share) as usize;
            latencies.get(index.min(latencies.len().saturating_sub(1))).map(|ms| f64::from(*ms))
        };
        (report.latency_p50_ms, report.latency_p99_ms) = (at(0.5), at(0.99));
        Ok(Event::Report(report))
    }

    /// Why there was no picture at all.
    fn nothing_seen(&self) -> ViewError {
        match self.viewer.lacks() {
            Lacks::Node => ViewError::NoNodeAnswered(
                "no node answered; check --addr, and that a node runs there".into(),
            ),
            Lacks::Encoder => ViewError::NoSuchStream(format!(
                "no encoder is called {}; `roost status` lists all",
                self.report.name
            )),
            Lacks::Picture(why) => ViewError::Failed(why),
        }
    }

    fn handle(&mut self, event: viewer::Event) {
        let mut effects = Vec::new();
        self.viewer.handle(self.clock.now().mono, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Dial { leg, node, addr } => self.legs.dial(leg, node, addr),
                Effect::Close(leg) => {
                    self.assemblers.remove(&leg);
                    self.legs.close(leg);
                }
                Effect::Send(leg, bytes) => self.legs.send(leg, bytes),
                Effect::Datagram(leg, bytes) => self.legs.datagram(leg, bytes),
                // A viewer is started anew each time and remembers nothing.
                Effect::Peers(_) => {}
                Effect::Note(note) => self.note(note),
            }
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Via { name, .. } => self.tell(Event::Via { node: name, at: wall_ms() }),
            Note::Place(place) => tracing::debug!(?place, "place"),
            Note::Waiting(reason) => self.tell(Event::Waiting { reason }),
            Note::Refused(reason) => self.refused = Some(reason),
        }
    }

    fn input(&mut self, input: Input) -> Result<(), String> {
        match input {
            Input::Connected(leg, node, mesh) => {
                self.legs.mesh.get_or_insert(mesh);
                self.connected(leg, node);
            }
            Input::Closed(leg, reason) => {
                self.assemblers.remove(&leg);
                self.handle(viewer::Event::Closed { leg, reason });
            }
            Input::Message(leg, bytes) => self.handle(viewer::Event::Message(leg, bytes)),
            Input::Heartbeat(leg, body) => self.handle(viewer::Event::Datagram(leg, body)),
            Input::Packet(leg, bytes) => return self.packet(leg, &bytes),
        }
        Ok(())
    }

    fn connected(&mut self, leg: LegId, node: NodeId) {
        self.handle(viewer::Event::Connected { leg, node });
    }

    fn packet(&mut self, leg: LegId, bytes: &[u8]) -> Result<(), String> {
        let (Some(ssrc), Some(packet)) = (flow::ssrc_of(bytes), Packet::parse(bytes)) else {
            return Ok(());
        };
        let (of, assembler) =
            self.assemblers.entry(leg).or_insert_with(|| (ssrc, Assembler::new()));
        if *of != ssrc {
            (*of, *assembler) = (ssrc, Assembler::new());
        }
        let (now, connection) = (self.clock.now().mono, self.legs.connection(leg));
        let trip = connection.as_ref().map_or(Duration::ZERO, quinn::Connection::rtt);
        let frames = assembler.push(now, trip, packet);
        let sequences = assembler.ask(now, trip);
        if let (false, Some(connection)) = (sequences.is_empty(), connection) {
            let request = flow::request(FLOW_VIDEO, &Nack { ssrc, sequences });
            // One that does not fit is one that is lost.
            let _ = connection.send_datagram(request);
        }
        for assembled in frames {
            self.frame(leg, ssrc, &assembled)?;
        }
        Ok(())
    }

    fn frame(&mut self, leg: LegId, ssrc: u32, assembled: &Assembled) -> Result<(), String> {
        let frame = &assembled.frame;
        let stamp = frame.timestamp();
        // The same frame comes over two legs, and groups of pictures come again after a move.
        if let Some((line, newest, _)) = self.picture.newest
            && line == ssrc
            && !flow::is_after(stamp, newest)
        {
            return Ok(());
        }
        if !self.picture.keyframe_seen && !frame.keyframe {
            return Ok(());
        }
        self.picture.keyframe_seen = true;
        let now = self.clock.now();
        let same_line = self.picture.newest.is_some_and(|(line, ..)| line == ssrc);
        self.handle(viewer::Event::Fresh(leg));
        self.count_loss(frame, same_line, assembled.complete);
        self.count_gap(now.mono, now.wall);
        self.picture.newest = Some((ssrc, stamp, now.mono));
        let unpacked = unpack(frame);
        let seen = unpacked.unit.nals.iter().find_map(|nal| read_clock_sei(nal));
        self.read_clock(seen, now.wall);
        self.report.frames += 1;
        self.second.frames += 1;
        self.report.bytes += frame.size() as u64;
        if let Some(output) = &mut self.output {
            let mut bytes = Vec::with_capacity(frame.size() + 64);
            unpacked.unit.nals.iter().for_each(|nal| push_annex_b(nal, &mut bytes));
            output.write_all(&bytes).map_err(|error| format!("cannot write: {error}"))?;
        }
        Ok(())
    }

    fn count_loss(&mut self, frame: &crate::media::Frame, same_line: bool, complete: bool) {
        let (Some(first), Some(last)) = (frame.packets.first(), frame.packets.last()) else {
            return;
        };
        let mut lost = 0;
        if let Some(next) = self.picture.next_sequence.filter(|_| same_line) {
            lost += u64::from(first.sequence.wrapping_sub(next));
        }
        let span = u64::from(last.sequence.wrapping_sub(first.sequence)) + 1;
        lost += span.saturating_sub(frame.packets.len() as u64);
        self.picture.next_sequence = Some(last.sequence.wrapping_add(1));
        self.report.lost += lost;
        self.second.lost += lost;
        if lost > 0 || !complete {
            self.handle(viewer::Event::KeyframeWanted);
        }
    }

    fn count_gap(&mut self, now: Mono, wall: u64) {
        let via = self.viewer.via_name();
        match self.picture.newest {
            None => {
                self.report.first_frame_s = Some(now.since(self.started).as_secs_f64());
                self.picture.interval = Duration::from_millis(66);
            }
            Some((.., before)) => {
                let pause = now.since(before);
                let cause = self.viewer.take_cause();
                if pause > GAP_MIN.max(self.picture.interval * 3) {
                    let gap = Gap {
                        ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                        at: self.picture.wall,
                        cause: cause.unwrap_or_else(|| "the source paused".into()),
                        from: self.picture.from.clone(),
                        to: via.clone(),
                    };
                    self.tell(Event::Gap(gap.clone()));
                    if self.report.gaps.len() < GAPS_MAX {
                        self.report.gaps.push(gap);
                    }
                } else {
                    self.picture.interval = (self.picture.interval * 15 + pause) / 16;
                }
            }
        }
        self.picture.from = via;
        self.picture.wall = wall;
    }

    fn read_clock(&mut self, seen: Option<(u64, u32)>, wall: u64) {
        let Some((ms, number)) = seen else { return };
        let skipped = self.report.skipped.get_or_insert(0);
        if let Some((before, last)) = self.picture.clock {
            let step = number.wrapping_sub(last);
            // More than a minute of frames: the test source was started anew.
            if (2..1000).contains(&step) {
                *skipped += u64::from(step) - 1;
            }
            self.report.backwards += u64::from(ms < before);
        }
        self.picture.clock = Some((ms, number));
        let latency = wall as f64 - ms as f64;
        self.second.latency_ms = Some(latency);
        if self.picture.latencies.len() < LATENCIES_MAX {
            self.picture.latencies.push(latency as f32);
        }
    }

    fn tell_second(&mut self) {
        let Second { frames, lost, latency_ms } = std::mem::take(&mut self.second);
        if frames > 0 {
            self.tell(Event::Second { frames, lost, latency_ms, via: self.viewer.via_name() });
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listens any more: the caller is stopping.
        let _ = self.events.send(event);
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
