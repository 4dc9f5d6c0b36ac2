//! Connections as QUIC makes them: ordered messages arrive late rather than never, datagrams may
//! get lost, a side that hears nothing for long gives up, and a side that closes says so if a
//! packet still gets through.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};

use rand::RngExt as _;
use roost::admission::Statement;
use roost::id::{Boot, SessionId};
use roost::session::leg::LegId;
use roost::wire::MediaMessage;

use crate::media::Frame;
use crate::net::{MS, SEC};
use crate::world::{Ev, World};

/// A client that hears nothing for this long is gone.
const IDLE: u64 = 10 * SEC;
/// The same for links and media between nodes.
const LINK_IDLE: u64 = 3 * SEC;
/// Keep-alives come this often: how much later a side may notice.
const KEEP_ALIVE: u64 = SEC;
/// The same of a client, which alone keeps its connection alive.
const CLIENT_KEEP_ALIVE: u64 = 4 * SEC;
/// Datagrams that wait for a process that stands still: what a socket's buffer holds.
const INBOX: usize = 250;

/// Names a connection.
pub(crate) type ConnId = u64;

/// One end: a host in one of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) host: usize,
    pub(crate) life: u64,
}

/// What a connection is for. The dialler is side 0.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Link(LinkHello),
    Client { leg: LegId, session: SessionId },
    Media,
}

/// What the acceptor of a link learned in the handshake.
#[derive(Debug, Clone)]
pub(crate) struct LinkHello {
    pub(crate) boot: Boot,
    pub(crate) addrs: Vec<String>,
    pub(crate) learned: Vec<Statement>,
    pub(crate) wall: u64,
}

/// What connections carry.
#[derive(Debug, Clone)]
pub(crate) enum Cargo {
    /// A link is kept, with the number of the decision.
    Keep(u64),
    /// An encoded message, of a link or a client.
    Message(Vec<u8>),
    /// A node showed itself to a client.
    Greeting,
    /// Between nodes about media.
    Media(MediaMessage),
    /// The sender says no more; it still reads.
    Fin,
    /// The sender is gone.
    Close(String),
    /// A datagram of a link, or a heartbeat of a client.
    Datagram(Vec<u8>),
    /// A picture on a flow.
    Picture(u32, Frame),
}

impl Cargo {
    fn loose(&self) -> bool {
        matches!(self, Self::Datagram(_) | Self::Picture(..))
    }

    /// About what it takes on the wire, with what carries it.
    pub(crate) fn bytes(&self) -> usize {
        let packet = 60;
        match self {
            Self::Message(bytes) | Self::Datagram(bytes) => bytes.len() + packet,
            // Two megabits a second, keyframes eight times as large as others.
            Self::Picture(_, frame) => {
                if frame.key {
                    100_000
                } else {
                    12_500
                }
            }
            _ => 60 + packet,
        }
    }

    fn trace(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Keep(order) => order.to_le_bytes().to_vec().into(),
            Self::Message(bytes) | Self::Datagram(bytes) => bytes.into(),
            Self::Greeting => b"greeting".into(),
            Self::Media(message) => roost::wire::Message::encode(message).into(),
            Self::Fin => b"fin".into(),
            Self::Close(reason) => reason.as_bytes().into(),
            Self::Picture(flow, frame) => {
                [u64::from(*flow).to_le_bytes(), frame.number.to_le_bytes()].concat().into()
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) kind: Kind,
    pub(crate) ends: [End; 2],
    pub(crate) open: [bool; 2],
    /// Since when a side hears nothing.
    deaf: [Option<u64>; 2],
    /// When the last ordered message of a side arrives.
    sent: [u64; 2],
    /// Ordered messages of a side that wait for the path.
    pending: [VecDeque<Cargo>; 2],
    blocked_at: [u64; 2],
}

impl World {
    pub(crate) fn connect(&mut self, kind: Kind, dialler: End, acceptor: End) -> ConnId {
        self.last_conn += 1;
        let conn = Conn {
            kind,
            ends: [dialler, acceptor],
            open: [true, true],
            deaf: [None, None],
            sent: [self.now, self.now],
            pending: [VecDeque::new(), VecDeque::new()],
            blocked_at: [0, 0],
        };
        self.conns.insert(self.last_conn, conn);
        self.recompute(self.last_conn);
        self.last_conn
    }

    /// An ordered message, or a datagram.
    pub(crate) fn send(&mut self, id: ConnId, side: usize, cargo: Cargo) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !conn.open[side] {
            return;
        }
        let (from, to) = (conn.ends[side].host, conn.ends[1 - side].host);
        if !self.unchecked {
            self.tally.sent(&conn.kind, from >= self.plan.nodes, &cargo);
        }
        if let (Cargo::Message(_), false) = (&cargo, self.unchecked) {
            let client = matches!(conn.kind, Kind::Client { .. });
            self.check_said(from, to, client);
        }
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if let Some(traffic) = &mut self.traffic {
            traffic.count(self.now, &conn.kind, &cargo);
        }
        self.trace.add(self.now, from, to, &cargo.trace());
        let Some(waits) = self.net.waits(self.now, from, cargo.bytes(), cargo.loose()) else {
            return;
        };
        if cargo.loose() {
            let (first, second) = self.net.datagram(from, to);
            let at = |delay| self.now + waits + delay;
            if let (Some(delay), Some(_)) = (first, second) {
                let cargo = cargo.clone();
                self.queue.push(at(delay), Ev::Deliver { conn: id, to: 1 - side, cargo });
            }
            if let Some(delay) = second.or(first) {
                self.queue.push(at(delay), Ev::Deliver { conn: id, to: 1 - side, cargo });
            }
            return;
        }
        if !conn.pending[side].is_empty() || self.net.blocked(from, to) {
            if conn.pending[side].is_empty() {
                conn.blocked_at[side] = self.now;
            }
            conn.pending[side].push_back(cargo);
            return;
        }
        let at = self.now + waits + self.net.delay_reliable(from, to);
        self.push_ordered(id, side, at, cargo);
    }

    fn push_ordered(&mut self, id: ConnId, side: usize, at: u64, cargo: Cargo) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let at = at.max(conn.sent[side] + 1);
        conn.sent[side] = at;
        if self.story.is_some() {
            let (ends, kind) = (conn.ends, conn.kind.clone());
            self.observe_message((ends[side].host, ends[1 - side].host), at, &kind, &cargo);
        }
        self.queue.push(at, Ev::Deliver { conn: id, to: 1 - side, cargo });
    }

    /// Something reaches a side.
    pub(crate) fn deliver(&mut self, id: ConnId, side: usize, cargo: Cargo) {
        let Some(conn) = self.conns.get(&id) else { return };
        let end = conn.ends[side];
        if !conn.open[side] || !self.lives(end) {
            return;
        }
        let host = &mut self.hosts[end.host];
        if host.frozen || host.draining {
            let loose = host.inbox.iter().filter(|(.., cargo)| cargo.loose()).count();
            if !cargo.loose() || loose < INBOX {
                host.inbox.push_back((id, side, cargo));
            }
            return;
        }
        self.read(id, side, cargo);
    }

    /// A process reads what reached it.
    pub(crate) fn read(&mut self, id: ConnId, side: usize, cargo: Cargo) {
        let Some(conn) = self.conns.get(&id) else { return };
        let end = conn.ends[side];
        if !conn.open[side] || !self.lives(end) {
            return;
        }
        if let Cargo::Close(reason) = &cargo {
            let reason = reason.clone();
            self.side_gone(id, side, &reason);
            return;
        }
        match conn.kind {
            Kind::Link(_) => self.link_cargo(id, side, cargo),
            Kind::Client { session, .. } if side == 1 => self.client_cargo(end, session, cargo),
            Kind::Client { leg, .. } => self.leg_cargo(end, leg, cargo, id),
            Kind::Media => self.media_cargo(id, side, cargo),
        }
    }

    /// Whether the process of this end still runs, frozen or not.
    pub(crate) fn lives(&self, end: End) -> bool {
        let host = &self.hosts[end.host];
        host.up && host.life == end.life
    }

    /// A side closes: it hears no more, and the other side is told if a packet gets through.
    pub(crate) fn close(&mut self, id: ConnId, side: usize, reason: &str) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !conn.open[side] {
            return;
        }
        let (from, to) = (conn.ends[side].host, conn.ends[1 - side].host);
        conn.open[side] = false;
        conn.pending[side].clear();
        if !self.net.blocked(from, to) {
            let at = self.now + self.net.delay_reliable(from, to);
            self.push_ordered(id, side, at, Cargo::Close(reason.to_owned()));
        }
        self.recompute(id);
    }

    /// A side's end of the connection is over: its process is told.
    fn side_gone(&mut self, id: ConnId, side: usize, reason: &str) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.open[side] = false;
        conn.pending[side].clear();
        let (end, other, kind) = (conn.ends[side], conn.ends[1 - side], conn.kind.clone());
        self.recompute(id);
        match kind {
            Kind::Link(_) => self.link_gone(end, other.host, id, reason),
            Kind::Client { session, .. } if side == 1 => self.session_gone(end, session),
            Kind::Client { leg, .. } => self.leg_gone(end, leg, reason),
            Kind::Media => self.media_gone(end, other.host, id, side),
        }
        if self.conns.get(&id).is_some_and(|conn| conn.open == [false, false]) {
            self.conns.remove(&id);
        }
    }

    /// What follows for a connection when processes or paths changed.
    pub(crate) fn recompute(&mut self, id: ConnId) {
        self.recompute_sides(id);
        let odd = self.conns.get(&id).is_some_and(|conn| {
            conn.open != [true, true]
                || conn.deaf != [None, None]
                || conn.pending.iter().any(|pending| !pending.is_empty())
        });
        if odd {
            self.odd.insert(id);
        } else {
            self.odd.remove(&id);
        }
    }

    fn recompute_sides(&mut self, id: ConnId) {
        for side in 0..2 {
            let Some(conn) = self.conns.get(&id) else { return };
            let (here, there) = (conn.ends[side], conn.ends[1 - side]);
            if !self.lives(here) || !conn.open[side] {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.open[side] = false;
                    conn.pending[side].clear();
                }
                continue;
            }
            let path = !self.net.blocked(there.host, here.host);
            let awake = self.lives(there) && !self.hosts[there.host].frozen;
            let heard = path && awake && conn.open[1 - side];
            let (deaf, (idle, often)) = (conn.deaf[side], self.idle_of(id));
            match (heard, deaf) {
                (true, _) => self.set_deaf(id, side, None),
                (false, None) => {
                    self.set_deaf(id, side, Some(self.now));
                    let late = self.hosts[here.host].rng.random_range(0..often);
                    let event = Ev::Idle { conn: id, side, since: self.now };
                    self.queue.push(self.now + idle + late, event);
                }
                (false, Some(_)) => {}
            }
            // The other side is awake and knows the connection no more: it answers with a reset,
            // unless it is another life, whose resets mean nothing to this side.
            let forgotten = awake && self.conns.get(&id).is_some_and(|conn| !conn.open[1 - side]);
            if forgotten && path && !self.net.blocked(here.host, there.host) {
                let late = self.hosts[here.host].rng.random_range(0..often);
                let rtt = 2 * self.net.base(here.host, there.host);
                self.queue.push(self.now + rtt + late, Ev::Reset { conn: id, side });
            }
            self.flush(id, side);
        }
        if self.conns.get(&id).is_some_and(|conn| conn.open == [false, false]) {
            self.conns.remove(&id);
        }
    }

    /// After how long a silence it ends, and how often it is heard.
    fn idle_of(&self, id: ConnId) -> (u64, u64) {
        match self.conns.get(&id).map(|conn| &conn.kind) {
            Some(Kind::Link(_) | Kind::Media) => (LINK_IDLE, KEEP_ALIVE),
            _ => (IDLE, CLIENT_KEEP_ALIVE),
        }
    }

    fn set_deaf(&mut self, id: ConnId, side: usize, deaf: Option<u64>) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.deaf[side] = deaf;
        }
    }

    /// The path is open again: what waited goes out.
    fn flush(&mut self, id: ConnId, side: usize) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (from, to) = (conn.ends[side].host, conn.ends[1 - side].host);
        if conn.pending[side].is_empty() || self.net.blocked(from, to) {
            return;
        }
        let waiting = std::mem::take(&mut conn.pending[side]);
        let outage = self.now - conn.blocked_at[side];
        let at = self.now + self.net.resume(from, to, outage);
        for cargo in waiting {
            self.push_ordered(id, side, at, cargo);
        }
    }

    pub(crate) fn idle(&mut self, id: ConnId, side: usize, since: u64) {
        let Some(conn) = self.conns.get(&id) else { return };
        if !conn.open[side] || conn.deaf[side] != Some(since) || !self.lives(conn.ends[side]) {
            return;
        }
        if self.hosts[conn.ends[side].host].frozen {
            // It finds out when it wakes, if it still hears nothing then.
            let event = Ev::Idle { conn: id, side, since };
            self.queue.push(self.now + 500 * MS, event);
            return;
        }
        self.side_gone(id, side, "timed out");
    }

    pub(crate) fn reset(&mut self, id: ConnId, side: usize) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (here, there) = (conn.ends[side], conn.ends[1 - side]);
        let path =
            !self.net.blocked(here.host, there.host) && !self.net.blocked(there.host, here.host);
        let awake = !self.hosts[here.host].frozen && !self.hosts[there.host].frozen;
        if conn.open[side] && !conn.open[1 - side] && path && awake && self.lives(here) {
            self.side_gone(id, side, "reset by peer");
        }
    }

    /// A process died without a word.
    pub(crate) fn drop_conns_of(&mut self, host: usize) {
        for id in self.conns_of(host) {
            self.recompute(id);
        }
    }

    /// A host has begun another life: for connections of others nothing follows, unless they
    /// waited for something already.
    pub(crate) fn recompute_after_start(&mut self, host: usize) {
        let mut ids: BTreeSet<ConnId> = self.conns_of(host).into_iter().collect();
        ids.extend(&self.odd);
        for id in ids {
            self.recompute(id);
        }
    }

    pub(crate) fn conns_of(&self, host: usize) -> Vec<ConnId> {
        let ends = |conn: &Conn| conn.ends.iter().any(|end| end.host == host);
        self.conns.iter().filter(|(_, conn)| ends(conn)).map(|(id, _)| id).collect()
    }

    pub(crate) fn recompute_all(&mut self) {
        for id in self.conns.iter().map(|(id, _)| id).collect::<Vec<_>>() {
            self.recompute(id);
        }
    }
}
