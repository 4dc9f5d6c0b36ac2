//! `roost view`: a native viewer that measures what it sees.

mod output;
mod shown;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::Event;
use super::dial::{ClientEndpoint, Target};
use super::legs::{Input, Legs};
use crate::flow;
use crate::id::NodeId;
use crate::media::assemble::{Assembled, Assembler};
use crate::media::clock::read_clock_sei;
use crate::media::depacketise::unpack;
use crate::media::h264::push_annex_b;
use crate::media::{Nack, Packet};
use crate::node::Clock;
use crate::quic;
use crate::session::leg::LegId;
use crate::session::viewer::{self, Effect, Lacks, Note, Viewer};
use crate::wire::{ClientHello, FLOW_VIDEO, PeerList};

pub use output::Output;
use output::{OUTPUT_FINISH, Writer, Written};
use shown::{Showing, Shown};

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
    let (output, written) = match config.output.map(Writer::start).transpose() {
        Ok(started) => started.unzip(),
        Err(error) => return Err(ViewError::Failed(format!("cannot start to write: {error}"))),
    };
    let hello = ClientHello {
        agent: "roost view".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        credential: config.target.credential.clone(),
        only_api: false,
    };
    let endpoint = ClientEndpoint::new().map_err(|error| ViewError::Failed(error.to_string()))?;
    let endpoint = endpoint.with_tokens(config.target.tokens);
    let (legs, inputs) = Legs::new(endpoint, hello, config.target.mesh);
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
        shown: Shown::new(config.name, clock.now().mono),
        clock,
        legs,
        assemblers: BTreeMap::new(),
        output,
        events: config.events,
        refused: None,
    };
    driver.run(inputs, written, shutdown).await
}

struct Driver {
    viewer: Viewer,
    shown: Shown,
    clock: Clock,
    legs: Legs,
    /// By leg, with the SSRC that its packets carry: another one is another start of the agent.
    assemblers: BTreeMap<LegId, (u32, Assembler)>,
    output: Option<Writer>,
    events: mpsc::UnboundedSender<Event>,
    refused: Option<String>,
}

impl Driver {
    async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut written: Option<Written>,
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
                    self.input(input);
                    while let Ok(input) = inputs.try_recv() {
                        self.input(input);
                    }
                }
                () = tokio::time::sleep_until(wake.unwrap_or(far)) => {
                    self.handle(viewer::Event::Wake);
                }
                error = failure(&mut written) => return Err(ViewError::Failed(error)),
                _ = second.tick() => self.tell_second(),
                () = &mut shutdown => break,
            }
        }
        let nothing_seen = self.nothing_seen();
        let end = self.clock.now().mono;
        if let Some(gap) = self.shown.last_gap(end, || self.viewer.cause_until(end)) {
            self.tell(Event::Gap(gap));
        }
        self.legs.shutdown().await;
        let unwritten = self.output.as_ref().map_or(0, Writer::unwritten);
        // What waits is written once nothing more can come.
        drop(self.output);
        if let Some(mut written) = written {
            let finish = tokio::time::timeout(OUTPUT_FINISH, failure_or_end(&mut written)).await;
            match finish {
                Ok(Some(error)) => return Err(ViewError::Failed(error)),
                Ok(None) => {}
                Err(_) => {
                    let reason = "the last pictures are not written: nobody reads them".into();
                    let _ = self.events.send(Event::Warning { reason });
                }
            }
        }
        if let Some(reason) = self.refused {
            return Err(ViewError::Refused(reason));
        }
        if self.shown.is_empty() {
            return Err(nothing_seen);
        }
        Ok(Event::Report(self.shown.report(end, unwritten)))
    }

    /// Why there was no picture at all.
    fn nothing_seen(&self) -> ViewError {
        match self.viewer.lacks() {
            Lacks::Node => ViewError::NoNodeAnswered(
                "no node answered; check --addr, and that a node runs there".into(),
            ),
            Lacks::Encoder => ViewError::NoSuchStream(format!(
                "no encoder is called {}; `roost status` lists all",
                self.shown.name()
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

    fn input(&mut self, input: Input) {
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
            Input::Packet(leg, bytes) => self.packet(leg, &bytes),
        }
    }

    fn connected(&mut self, leg: LegId, node: NodeId) {
        self.handle(viewer::Event::Connected { leg, node });
    }

    fn packet(&mut self, leg: LegId, bytes: &[u8]) {
        if let Some(gone) = Nack::read(bytes) {
            let of = self.assemblers.get_mut(&leg).filter(|(of, _)| *of == gone.ssrc);
            let frames = of.map(|(_, assembler)| assembler.give_up(&gone.sequences));
            for assembled in frames.into_iter().flatten() {
                self.frame(leg, gone.ssrc, &assembled);
            }
            return;
        }
        let (Some(ssrc), Some(packet)) = (flow::ssrc_of(bytes), Packet::parse(bytes)) else {
            return;
        };
        let (of, assembler) =
            self.assemblers.entry(leg).or_insert_with(|| (ssrc, Assembler::new()));
        if *of != ssrc {
            (*of, *assembler) = (ssrc, Assembler::new());
        }
        let (now, connection) = (self.clock.now().mono, self.legs.connection(leg));
        let trip = connection.as_ref().map_or(Duration::ZERO, quic::Connection::rtt);
        let frames = assembler.push(now, trip, packet);
        let sequences = assembler.ask(now, trip);
        if let (false, Some(connection)) = (sequences.is_empty(), connection) {
            let request = flow::rtcp(FLOW_VIDEO, &Nack { ssrc, sequences });
            // One that does not fit is one that is lost.
            let _ = connection.send_datagram(request);
        }
        for assembled in frames {
            self.frame(leg, ssrc, &assembled);
        }
    }

    fn frame(&mut self, leg: LegId, ssrc: u32, assembled: &Assembled) {
        let frame = &assembled.frame;
        if !self.shown.wants(ssrc, frame) {
            return;
        }
        let now = self.clock.now();
        self.handle(viewer::Event::Fresh(leg));
        let unpacked = unpack(frame);
        let clock = unpacked.unit.nals.iter().find_map(|nal| read_clock_sei(nal));
        let (from, cause) = (self.viewer.via_name(), self.viewer.cause());
        let showing = Showing { ssrc, assembled, clock, from, cause };
        let (gap, keyframe_wanted) = self.shown.show(now, showing);
        if let Some(gap) = gap {
            self.tell(Event::Gap(gap));
        }
        if keyframe_wanted {
            self.handle(viewer::Event::KeyframeWanted);
        }
        let Some(output) = &mut self.output else { return };
        let mut bytes = Vec::with_capacity(frame.size() + 64);
        unpacked.unit.nals.iter().for_each(|nal| push_annex_b(nal, &mut bytes));
        if output.push(bytes, frame.keyframe) {
            let reason = "whoever reads the video is too slow: pictures are left out up to the \
                          next keyframe that it has room for";
            self.tell(Event::Warning { reason: reason.into() });
        }
    }

    fn tell_second(&mut self) {
        let via = self.viewer.via_name();
        if let Some(second) = self.shown.take_second(self.clock.now().mono, via) {
            self.tell(second);
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listens any more: the caller is stopping.
        let _ = self.events.send(event);
    }
}

/// Why the output cannot be written, as soon as it cannot.
async fn failure(written: &mut Option<Written>) -> String {
    if let Some(written) = written
        && let Some(error) = failure_or_end(written).await
    {
        return error;
    }
    std::future::pending().await
}

/// Why the output cannot be written, or `None` once all is.
async fn failure_or_end(written: &mut Written) -> Option<String> {
    match written.await {
        Ok(result) => result.err(),
        Err(_) => Some("cannot write: the thread that writes is gone".into()),
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
