//! WebRTC with browsers, WHEP players and WHIP publishers: the table of sessions and the
//! demultiplexer in front of it. One task per session owns its str0m instance.
//!
//! A session here is a *leg*: one connection that carries media of one client. A viewer's sends one
//! H.264 stream, unpaced but for bursts, and may carry data channels; a publisher's receives one.

mod leg;
mod pacing;
pub mod sdp;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use str0m::Candidate;
use str0m::config::{CryptoProvider, DtlsCert};
use tokio::sync::mpsc;

use crate::hub::Live;
use crate::media::Packet;
use sdp::Direction;
pub use sdp::SdpError;

/// Sessions per node. Each costs about half a megabyte and, watched, about a thousandth of a
/// core: beyond this a node is out of CPU anyway, and a flood of offers must end somewhere.
pub const MAX_LEGS: usize = 2000;

/// Until a session must have connected: DTLS needs two round trips, a lost packet of it one
/// second more, and an ICE-lite side would wait for ever.
pub const ESTABLISH: Duration = Duration::from_secs(15);

/// A session from which nothing came for so long is gone. Browsers prove consent every 2.5 to 5 s
/// (RFC 7675), and the WebRTC stack itself gives up after 15 s.
pub const SILENCE: Duration = Duration::from_secs(15);

/// An address belongs to the session it was used by until that is silent for so long: nobody
/// takes over another viewer's address by writing it into a packet.
const ADDRESS_HOLD: Duration = Duration::from_secs(5);

/// Addresses remembered per session: a browser has one per interface and family.
const MAX_ADDRESSES: usize = 8;

/// Datagrams waiting for one session's task; feedback that waits longer is worthless.
const INBOX: usize = 256;

/// Commands waiting for one session's task; a page sends a handful per second.
const COMMANDS: usize = 64;

/// Events waiting for whoever drives a session.
const EVENTS: usize = 64;

/// How datagrams leave. Implemented by the node's UDP socket, and by a plain one in tests.
pub trait Outlet: Send + Sync + 'static {
    /// Sends `contents` to `to`, from the local address `from` if it is known. With
    /// `segment_size`, `contents` is several datagrams of that size, the last maybe shorter.
    fn send(
        &self,
        to: SocketAddr,
        from: Option<IpAddr>,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()>;
}

/// A stream as one viewer gets it.
pub struct Feed {
    /// The group of pictures so far.
    pub start: Vec<Live>,
    /// What follows.
    pub frames: mpsc::Receiver<Live>,
    /// Kept until the feed ends: its drop gives the place at the hub back.
    pub hold: Box<dyn Any + Send>,
}

/// Takes what a publisher sends.
pub trait Intake: Send + Sync + 'static {
    /// One packet, as it came: maybe out of order, never twice.
    fn packet(&self, packet: Packet);
}

/// Why a leg is gone that was closed at this node, also by its client's `DELETE`.
pub const CLOSED_HERE: &str = "closed here";

/// An unguessable name of one leg, part of its URL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId(Arc<str>);

impl LegId {
    /// As it appears in URLs.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for LegId {
    /// Six characters: the whole would let a reader of logs end the session.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LegId({}…)", self.0.get(..6).unwrap_or_default())
    }
}

/// What happens to a leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegEvent {
    /// Media can flow.
    Connected,
    /// A message on a data channel: its label and text.
    Channel(String, Vec<u8>),
    /// The decoder lost its place.
    KeyframeWanted,
    /// The feed ended at its source.
    FeedEnded,
    /// The last event: why the leg is gone, in words.
    Closed(String),
}

/// An accepted offer.
#[derive(Debug)]
pub struct Accepted {
    /// The answer, all candidates in it.
    pub answer_sdp: String,
    /// The leg's name.
    pub leg: LegId,
    /// Steers the leg; dropping every clone ends it.
    pub handle: LegHandle,
    /// Ends when the leg is gone.
    pub events: mpsc::Receiver<LegEvent>,
}

/// Steers a leg.
#[derive(Clone, Debug)]
pub struct LegHandle {
    commands: mpsc::Sender<Command>,
    stats: Arc<LegStats>,
}

/// Totals of one leg.
#[derive(Debug, Default)]
pub struct LegStats {
    /// Datagrams sent.
    pub datagrams_out: AtomicU64,
    /// Bytes sent, all headers above UDP counted.
    pub bytes_out: AtomicU64,
    /// Frames of the stream sent.
    pub frames_out: AtomicU64,
    /// Packets of a publisher's stream received.
    pub packets_in: AtomicU64,
}

/// Totals of all legs since the node started.
#[derive(Debug, Default)]
pub struct WebRtcCounters {
    /// Offers accepted.
    pub accepted: AtomicU64,
    /// Offers refused because of what they contain.
    pub refused: AtomicU64,
    /// Offers refused because the table was full.
    pub full: AtomicU64,
    /// Offers refused because the node was about to go.
    pub leaving: AtomicU64,
    /// Legs that never connected.
    pub not_established: AtomicU64,
    /// Datagrams that belong to no session.
    pub stray: AtomicU64,
    /// Offers refused because their viewer may not watch the stream.
    pub forbidden: AtomicU64,
    /// Sessions ended because their viewer may watch the stream no more.
    pub dismissed: AtomicU64,
    /// Datagrams dropped because a session's inbox was full.
    pub inbox_full: AtomicU64,
    /// Datagrams that are none of STUN, DTLS, RTP or RTCP, or broken.
    pub malformed: AtomicU64,
    /// Datagrams that the kernel did not take.
    pub send_failed: AtomicU64,
    /// Datagrams sent.
    pub datagrams_out: AtomicU64,
    /// Bytes sent.
    pub bytes_out: AtomicU64,
    /// Packets that came from publishers.
    pub packets_in: AtomicU64,
    /// Messages for a driver that was too slow.
    pub events_dropped: AtomicU64,
}

enum Command {
    Play(Feed),
    Stop,
    Keyframe,
    Channel(String, Vec<u8>),
    Close,
}

struct Datagram {
    from: SocketAddr,
    to: Option<IpAddr>,
    bytes: Bytes,
}

#[derive(Default)]
struct Table {
    /// By own ICE user fragment, which is the leg's key.
    legs: HashMap<Arc<str>, Entry>,
    by_id: HashMap<LegId, Arc<str>>,
    by_address: HashMap<SocketAddr, Owner>,
}

struct Entry {
    id: LegId,
    inbox: mpsc::Sender<Datagram>,
    commands: mpsc::WeakSender<Command>,
    remote_ufrag: String,
    addresses: Vec<SocketAddr>,
}

struct Owner {
    leg: Arc<str>,
    inbox: mpsc::Sender<Datagram>,
    seen: Instant,
}

struct Shared {
    outlet: Arc<dyn Outlet>,
    candidates: Vec<Candidate>,
    candidate_lines: Vec<String>,
    crypto: Arc<CryptoProvider>,
    certificate: DtlsCert,
    max_legs: usize,
    table: Mutex<Table>,
    counters: WebRtcCounters,
}

/// All WebRTC sessions of a node.
#[derive(Clone)]
pub struct WebRtc {
    shared: Arc<Shared>,
}

impl WebRtc {
    /// No sessions yet. `candidates` are the addresses under which browsers reach the socket
    /// behind `outlet`, best first; at least one.
    pub fn new(outlet: Arc<dyn Outlet>, candidates: &[SocketAddr]) -> io::Result<Self> {
        Self::with_limit(outlet, candidates, MAX_LEGS)
    }

    /// The same with another number of sessions than [`MAX_LEGS`].
    pub fn with_limit(
        outlet: Arc<dyn Outlet>,
        candidates: &[SocketAddr],
        max_legs: usize,
    ) -> io::Result<Self> {
        let crypto = Arc::new(str0m::crypto::from_feature_flags());
        let certificate = crypto
            .dtls_provider
            .generate_certificate()
            .ok_or_else(|| io::Error::other("no certificate for DTLS could be made"))?;
        let candidates = candidates
            .iter()
            .map(|address| Candidate::host(*address, "udp").map_err(io::Error::other))
            .collect::<io::Result<Vec<_>>>()?;
        if candidates.is_empty() {
            return Err(io::Error::other(
                "no address to advertise to browsers; name one with --advertise",
            ));
        }
        let candidate_lines = candidates
            .iter()
            .map(|c| c.to_sdp_string().trim_start_matches("a=").trim_end().to_owned())
            .collect();
        let shared = Shared {
            outlet,
            candidates,
            candidate_lines,
            crypto,
            certificate,
            max_legs,
            table: Mutex::default(),
            counters: WebRtcCounters::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sets a leg up for a browser's offer and starts its task. Nothing is sent to it before
    /// [`LegHandle::play`]. Call inside a tokio runtime.
    pub fn accept(&self, offer_sdp: &str) -> Result<Accepted, SdpError> {
        self.count(sdp::parse_offer(offer_sdp, Direction::Out).and_then(|o| self.set_up(&o, None)))
    }

    /// Sets a leg up for a publisher's offer and starts its task; what comes goes to `intake`. Call
    /// inside a tokio runtime.
    pub fn accept_publisher(
        &self,
        offer_sdp: &str,
        intake: Arc<dyn Intake>,
    ) -> Result<Accepted, SdpError> {
        let offer = sdp::parse_offer(offer_sdp, Direction::In);
        self.count(offer.and_then(|offer| self.set_up(&offer, Some(intake))))
    }

    fn count(&self, result: Result<Accepted, SdpError>) -> Result<Accepted, SdpError> {
        let counters = &self.shared.counters;
        let counter = match &result {
            Ok(_) => &counters.accepted,
            Err(SdpError::Full(_)) => &counters.full,
            Err(_) => &counters.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn set_up(
        &self,
        offer: &sdp::Offer,
        intake: Option<Arc<dyn Intake>>,
    ) -> Result<Accepted, SdpError> {
        if self.legs() >= self.shared.max_legs {
            return Err(SdpError::Full(self.shared.max_legs));
        }
        let prepared = leg::Prepared::new(&self.shared, offer, intake)?;
        let (inbox_sender, inbox) = mpsc::channel(INBOX);
        let (commands_sender, commands) = mpsc::channel(COMMANDS);
        let (events_sender, events) = mpsc::channel(EVENTS);
        let id = LegId(random_text(16)?.into());
        let key: Arc<str> = prepared.ufrag.as_str().into();
        {
            let mut table = self.shared.table();
            if table.legs.len() >= self.shared.max_legs {
                return Err(SdpError::Full(self.shared.max_legs));
            }
            let entry = Entry {
                id: id.clone(),
                inbox: inbox_sender,
                commands: commands_sender.downgrade(),
                remote_ufrag: offer.ufrag.clone(),
                addresses: Vec::new(),
            };
            table.by_id.insert(id.clone(), key.clone());
            table.legs.insert(key.clone(), entry);
        }
        let place = Place { key, shared: self.shared.clone() };
        let stats = Arc::new(LegStats::default());
        let answer_sdp = prepared.answer.clone();
        tokio::spawn(prepared.run(place, inbox, commands, events_sender, stats.clone()));
        let handle = LegHandle { commands: commands_sender, stats };
        Ok(Accepted { answer_sdp, leg: id, handle, events })
    }

    /// Takes a datagram that is not QUIC from the node's UDP port. `to` is the local address it
    /// came in at, if the kernel said so.
    pub fn receive(&self, from: SocketAddr, to: Option<IpAddr>, bytes: Bytes) {
        let counters = &self.shared.counters;
        let now = Instant::now();
        let is_stun = bytes.first().is_some_and(|byte| *byte < 4);
        let mut table = self.shared.table();
        let inbox = if is_stun {
            // The message is parsed again by its session, which also checks its signature.
            let Ok(stun) = str0m::ice::StunMessage::parse(&bytes) else {
                counters.malformed.fetch_add(1, Ordering::Relaxed);
                return;
            };
            stun.split_username().and_then(|(own, _theirs)| table.inbox_for(own, from, now))
        } else {
            table.by_address.get_mut(&from).map(|owner| {
                owner.seen = now;
                owner.inbox.clone()
            })
        };
        drop(table);
        match inbox.map(|inbox| inbox.try_send(Datagram { from, to, bytes })) {
            Some(Ok(())) => {}
            Some(Err(_)) => {
                counters.inbox_full.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                counters.stray.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Ends a leg by its name; whether there was one.
    pub fn close(&self, leg: &str) -> bool {
        let mut table = self.shared.table();
        let id = LegId(leg.into());
        let Some(entry) = table.by_id.get(&id).and_then(|key| table.legs.get(key)) else {
            return false;
        };
        let commands = entry.commands.upgrade();
        let closes = commands.is_some_and(|commands| commands.try_send(Command::Close).is_ok());
        if closes {
            // It ends in its own time; whoever asks for it from now on is told that it has.
            table.by_id.remove(&id);
        }
        closes
    }

    /// ICE user fragment of the browser behind a leg, by which trickled candidates are recognised.
    pub fn remote_ufrag(&self, leg: &str) -> Option<String> {
        let table = self.shared.table();
        let key = table.by_id.get(&LegId(leg.into()))?;
        table.legs.get(key).map(|entry| entry.remote_ufrag.clone())
    }

    /// Sessions at present.
    pub fn legs(&self) -> usize {
        self.shared.table().legs.len()
    }

    /// Totals.
    pub fn counters(&self) -> &WebRtcCounters {
        &self.shared.counters
    }
}

impl std::fmt::Debug for WebRtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebRtc").field("legs", &self.legs()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("start", &self.start.len()).finish_non_exhaustive()
    }
}

impl LegHandle {
    /// Sends this stream from now on, in place of any other. False if the leg is gone or does not
    /// keep up with commands.
    pub fn play(&self, feed: Feed) -> bool {
        self.commands.try_send(Command::Play(feed)).is_ok()
    }

    /// Sends nothing any more; the leg stays, warm.
    pub fn stop(&self) -> bool {
        self.commands.try_send(Command::Stop).is_ok()
    }

    /// Asks a publisher for a keyframe.
    pub fn request_keyframe(&self) -> bool {
        self.commands.try_send(Command::Keyframe).is_ok()
    }

    /// Sends text on the data channel with this label, once it is open.
    pub fn send_channel(&self, label: &str, text: Vec<u8>) -> bool {
        self.commands.try_send(Command::Channel(label.to_owned(), text)).is_ok()
    }

    /// Ends the leg and tells the browser.
    pub fn close(&self) -> bool {
        self.commands.try_send(Command::Close).is_ok()
    }

    /// Totals of the leg.
    pub fn stats(&self) -> &LegStats {
        &self.stats
    }
}

impl Table {
    /// The inbox of the leg with this user fragment; remembers that it is reached from `from`.
    fn inbox_for(
        &mut self,
        ufrag: &str,
        from: SocketAddr,
        now: Instant,
    ) -> Option<mpsc::Sender<Datagram>> {
        let (key, entry) = self.legs.get_key_value(ufrag)?;
        let (key, inbox) = (key.clone(), entry.inbox.clone());
        match self.by_address.get_mut(&from) {
            Some(owner) if owner.leg == key => owner.seen = now,
            Some(owner) if now.duration_since(owner.seen) < ADDRESS_HOLD => return Some(inbox),
            _ => self.remember(&key, from, now),
        }
        Some(inbox)
    }

    fn remember(&mut self, key: &Arc<str>, from: SocketAddr, now: Instant) {
        let Some(entry) = self.legs.get_mut(key) else { return };
        if entry.addresses.len() >= MAX_ADDRESSES {
            let oldest = entry.addresses.remove(0);
            self.by_address.remove(&oldest);
        }
        entry.addresses.push(from);
        let owner = Owner { leg: key.clone(), inbox: entry.inbox.clone(), seen: now };
        if let Some(before) = self.by_address.insert(from, owner)
            && let Some(entry) = self.legs.get_mut(&before.leg)
        {
            entry.addresses.retain(|address| *address != from);
        }
    }

    fn forget(&mut self, key: &str) {
        let Some(entry) = self.legs.remove(key) else { return };
        self.by_id.remove(&entry.id);
        for address in entry.addresses {
            self.by_address.remove(&address);
        }
    }
}

impl Shared {
    /// A poisoned lock only means that a panic unwound elsewhere; the table is whole after every
    /// statement here.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place in the table, given back when its task ends, however it ends.
struct Place {
    key: Arc<str>,
    shared: Arc<Shared>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.table().forget(&self.key);
    }
}

/// Lower-case hexadecimal of `bytes` random bytes.
fn random_text(bytes: usize) -> Result<String, SdpError> {
    let mut buffer = vec![0; bytes];
    match aws_lc_rs::rand::fill(&mut buffer) {
        Ok(()) => Ok(data_encoding::HEXLOWER.encode(&buffer)),
        Err(_unspecified) => Err(SdpError::Stack("the system gives no randomness".to_owned())),
    }
}
