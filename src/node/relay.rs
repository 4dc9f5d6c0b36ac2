//! Streams between nodes: one media connection to each node that something is taken from,
//! however many streams and viewers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::media::Turning;
use crate::flow;
use crate::hub::{Hub, Hubs, Ticket};
use crate::id::{EncoderId, NodeId};
use crate::media::assemble::{Assembled, Assembler};
use crate::media::{Nack, Packet};
use crate::net::{MediaConn, Net};
use crate::quic;
use crate::wire::{self, MediaMessage, take_varint};

/// Waits between attempts to get a media connection.
const RETRY: Duration = Duration::from_millis(100);
/// A stream that the other side ended is asked for again after this long, while the route stands.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(500);
/// A media connection without streams is closed after this long.
const IDLE: Duration = Duration::from_secs(10);
/// A stream that comes from elsewhere now is taken from the node before for this long as well.
const LET_GO: Duration = Duration::from_secs(1);
/// Streams that one node may take from this one at a time.
pub const FLOWS_MAX: usize = 4096;

/// Where a stream is relayed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) via: NodeId,
    pub(super) feed: u64,
    pub(super) timeline: u64,
}

/// Streams that this node takes from others, and the loops that must not be.
#[derive(Clone)]
pub(super) struct Relays {
    shared: Arc<Shared>,
}

struct Shared {
    me: NodeId,
    net: Net,
    hubs: Hubs,
    turning: Arc<Turning>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sources: BTreeMap<EncoderId, Source>,
    links: BTreeMap<NodeId, mpsc::UnboundedSender<Command>>,
    /// Nodes that take a stream through this one, each by so many flows.
    downstream: BTreeMap<EncoderId, BTreeMap<NodeId, usize>>,
    last_flow: u32,
}

enum Command {
    Take { encoder: EncoderId, flow: u32, source: Source },
    Drop(EncoderId),
    Keyframe(EncoderId),
    Viewers(EncoderId, u32),
}

impl Relays {
    pub(super) fn new(me: NodeId, net: Net, hubs: Hubs, turning: Arc<Turning>) -> Self {
        Self { shared: Arc::new(Shared { me, net, hubs, turning, state: Mutex::default() }) }
    }

    /// Takes a stream from another node, or (`None`) from none any more. One that is still
    /// `watched` here, since it comes from elsewhere now, is taken from where it came for a moment.
    pub(super) fn route(&self, encoder: EncoderId, source: Option<Source>, watched: bool) {
        let mut state = self.state();
        let before = state.sources.remove(&encoder);
        if let Some(before) = before
            && source.as_ref().is_none_or(|source| source.via != before.via)
        {
            if watched {
                tokio::spawn(self.clone().let_go(encoder, before.via));
            } else if let Some(link) = state.links.get(&before.via) {
                let _ = link.send(Command::Drop(encoder));
            }
        }
        let Some(source) = source else { return };
        state.sources.insert(encoder, source.clone());
        state.last_flow = state.last_flow.wrapping_add(1).max(1) & 0x3fff_ffff;
        let flow = state.last_flow;
        let mut command = Command::Take { encoder, flow, source: source.clone() };
        if let Some(link) = state.links.get(&source.via) {
            match link.send(command) {
                Ok(()) => return,
                Err(back) => command = back.0,
            }
        }
        let (sender, commands) = mpsc::unbounded_channel();
        let _ = sender.send(command);
        state.links.insert(source.via, sender);
        tokio::spawn(take_from(self.clone(), source.via, commands));
    }

    async fn let_go(self, encoder: EncoderId, via: NodeId) {
        tokio::time::sleep(LET_GO).await;
        let state = self.state();
        if state.sources.get(&encoder).is_none_or(|source| source.via != via)
            && let Some(link) = state.links.get(&via)
        {
            let _ = link.send(Command::Drop(encoder));
        }
    }

    pub(super) fn keyframe(&self, encoder: EncoderId) {
        self.tell(encoder, Command::Keyframe(encoder));
    }

    pub(super) fn viewers(&self, encoder: EncoderId, viewers: u32) {
        self.tell(encoder, Command::Viewers(encoder, viewers));
    }

    fn tell(&self, encoder: EncoderId, command: Command) {
        let state = self.state();
        let via = state.sources.get(&encoder).map(|source| source.via);
        if let Some(link) = via.and_then(|via| state.links.get(&via)) {
            let _ = link.send(command);
        }
    }

    fn hops(&self, encoder: EncoderId) -> Vec<NodeId> {
        let state = self.state();
        let downstream =
            state.downstream.get(&encoder).into_iter().flat_map(BTreeMap::keys).copied();
        std::iter::once(self.shared.me).chain(downstream).collect()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a node that takes streams from this one, until it goes.
    pub(super) async fn give(self, mut conn: MediaConn) {
        let mut flows: BTreeMap<u32, FlowOut> = BTreeMap::new();
        loop {
            let message = tokio::select! {
                message = conn.recv.read::<MediaMessage>() => message,
                datagram = conn.connection.read_datagram() => match datagram {
                    Ok(bytes) => {
                        give_again(&flows, &bytes);
                        continue;
                    }
                    Err(_) => break,
                },
            };
            let Ok(message) = message else { break };
            match message {
                MediaMessage::Subscribe(wish) => {
                    let refusal = match flows.len() >= FLOWS_MAX {
                        true => Some("too many streams"),
                        false => (!self.accept(&wish)).then_some("it comes from there"),
                    };
                    if let Some(reason) = refusal {
                        let ended = wire::Ended { flow: wish.flow, reason: reason.into() };
                        if conn.send.write(&MediaMessage::Ended(ended)).await.is_err() {
                            break;
                        }
                        continue;
                    }
                    let flow = FlowOut::start(&self.shared.hubs, &wish, &conn.connection);
                    if let Some(before) = flows.insert(wish.flow, flow) {
                        self.forget_hops(&before);
                    }
                }
                MediaMessage::Unsubscribe(wire::Unsubscribe { flow }) => {
                    if let Some(flow) = flows.remove(&flow) {
                        self.forget_hops(&flow);
                    }
                }
                MediaMessage::Keyframe(wire::FlowRef { flow }) => {
                    if let Some(flow) = flows.get(&flow) {
                        flow.ticket.hub().request_keyframe();
                    }
                }
                MediaMessage::FlowViewers(wire::FlowViewers { flow, viewers }) => {
                    if let Some(flow) = flows.get(&flow) {
                        flow.ticket.set_viewers(viewers);
                    }
                }
                MediaMessage::Ended(_) => {}
            }
        }
        for flow in flows.values() {
            self.forget_hops(flow);
        }
    }

    /// Whether a stream may be given to these nodes; then they are remembered as taking it through
    /// this one. Who takes it from nobody makes no loop, whatever the others still believe.
    fn accept(&self, wish: &wire::Subscribe) -> bool {
        let mut state = self.state();
        let loops = state.sources.get(&wish.encoder).is_some_and(|source| {
            wish.hops.contains(&self.shared.me) || wish.hops.contains(&source.via)
        });
        if !loops {
            let downstream = state.downstream.entry(wish.encoder).or_default();
            for hop in &wish.hops {
                *downstream.entry(*hop).or_default() += 1;
            }
        }
        !loops
    }

    fn forget_hops(&self, flow: &FlowOut) {
        let mut state = self.state();
        let encoder = flow.ticket.hub().encoder();
        let Some(downstream) = state.downstream.get_mut(&encoder) else { return };
        for hop in &flow.hops {
            if let Some(flows) = downstream.get_mut(hop) {
                *flows -= 1;
                if *flows == 0 {
                    downstream.remove(hop);
                }
            }
        }
        if downstream.is_empty() {
            state.downstream.remove(&encoder);
        }
    }
}

/// Hands a request for packets on to the flow that it is about.
fn give_again(flows: &BTreeMap<u32, FlowOut>, bytes: &[u8]) {
    let Some((flow, rest)) = take_varint(bytes) else { return };
    if let (Some(flow), Some(nack)) = (flows.get(&flow), Nack::read(rest)) {
        // Full: it will be asked again.
        let _ = flow.asks.try_send(nack);
    }
}

/// A stream that another node takes.
struct FlowOut {
    ticket: Ticket,
    hops: Vec<NodeId>,
    asks: mpsc::Sender<Nack>,
    task: tokio::task::AbortHandle,
}

impl FlowOut {
    fn start(hubs: &Hubs, wish: &wire::Subscribe, connection: &quic::Connection) -> Self {
        let (start, frames, ticket) = hubs.hub(wish.encoder).subscribe().split();
        ticket.set_viewers(wish.viewers);
        let (asks, asked) = mpsc::channel(flow::ASKS_QUEUE);
        let (hubs, connection, number) = (hubs.clone(), connection.clone(), wish.flow);
        let task = tokio::spawn(async move {
            let counters = &hubs.counters().packets_out;
            let _ = flow::send(&connection, number, start, frames, asked, counters).await;
        });
        Self { ticket, hops: wish.hops.clone(), asks, task: task.abort_handle() }
    }
}

impl Drop for FlowOut {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A stream that this node takes.
struct FlowIn {
    encoder: EncoderId,
    hub: Arc<Hub>,
    source: Source,
    assembler: Assembler,
    again: Option<Instant>,
}

/// Keeps a media connection to `via` for as long as something is taken from it.
async fn take_from(relays: Relays, via: NodeId, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut flows: BTreeMap<u32, FlowIn> = BTreeMap::new();
    let mut idle_since = Instant::now();
    loop {
        while let Ok(command) = commands.try_recv() {
            apply(&relays, &mut flows, command);
        }
        if flows.is_empty() {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => { apply(&relays, &mut flows, command); }
                    None => return,
                },
                () = tokio::time::sleep_until(idle_since + IDLE) => {
                    // Under the lock that commands are sent under, so that none is lost.
                    let mut state = relays.state();
                    if commands.is_empty() {
                        state.links.remove(&via);
                        return;
                    }
                }
            }
            continue;
        }
        match relays.shared.net.media(via).await {
            Ok(conn) => run(&relays, conn, &mut flows, &mut commands).await,
            Err(error) => {
                tracing::debug!(peer = %via, err = %error, "no media connection");
                tokio::time::sleep(RETRY).await;
            }
        }
        idle_since = Instant::now();
    }
}

async fn run(
    relays: &Relays,
    conn: MediaConn,
    flows: &mut BTreeMap<u32, FlowIn>,
    commands: &mut mpsc::UnboundedReceiver<Command>,
) {
    let MediaConn { connection, mut send, mut recv, .. } = conn;
    for (&flow, taken) in flows.iter() {
        if send.write(&subscribe(relays, flow, taken)).await.is_err() {
            return;
        }
    }
    let mut idle_at = None;
    loop {
        let again = flows.values().filter_map(|flow| flow.again).min();
        let wait = match (again, idle_at) {
            (Some(at), _) | (None, Some(at)) => at,
            (None, None) => Instant::now() + IDLE,
        };
        tokio::select! {
            datagram = connection.read_datagram() => match datagram {
                Ok(bytes) => {
                    if let Some((flow, nack)) = take_datagram(relays, flows, &bytes, connection.rtt()) {
                        // One that does not fit is one that is lost.
                        let _ = connection.send_datagram(flow::rtcp(flow, &nack));
                    }
                }
                Err(_) => return,
            },
            message = recv.read::<MediaMessage>() => match message {
                Ok(MediaMessage::Ended(ended)) => {
                    if let Some(flow) = flows.get_mut(&ended.flow) {
                        flow.again = Some(Instant::now() + SUBSCRIBE_AGAIN);
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            },
            command = commands.recv() => {
                let Some(command) = command else { return };
                for message in apply(relays, flows, command) {
                    if send.write(&message).await.is_err() {
                        return;
                    }
                }
            }
            () = tokio::time::sleep_until(wait) => {
                let now = Instant::now();
                for (&number, flow) in flows.iter_mut().filter(|(_, f)| f.again.is_some_and(|a| a <= now)) {
                    flow.again = None;
                    if send.write(&subscribe(relays, number, flow)).await.is_err() {
                        return;
                    }
                }
            }
        }
        match (flows.is_empty(), idle_at) {
            (true, None) => idle_at = Some(Instant::now() + IDLE),
            (true, Some(at)) if at <= Instant::now() => return,
            (false, _) => idle_at = None,
            _ => {}
        }
    }
}

/// Brings the table up to date and says what the other side must be told.
fn apply(
    relays: &Relays,
    flows: &mut BTreeMap<u32, FlowIn>,
    command: Command,
) -> Vec<MediaMessage> {
    let at = |flows: &BTreeMap<u32, FlowIn>, encoder: EncoderId| {
        flows.iter().find(|(_, flow)| flow.encoder == encoder).map(|(&number, _)| number)
    };
    match command {
        Command::Take { encoder, flow, source } => {
            let mut out = Vec::new();
            if let Some(old) = at(flows, encoder) {
                flows.remove(&old);
                out.push(MediaMessage::Unsubscribe(wire::Unsubscribe { flow: old }));
            }
            let hub = relays.shared.hubs.hub(encoder);
            let assembler = Assembler::new();
            let taken = FlowIn { encoder, hub, source, assembler, again: None };
            out.push(subscribe(relays, flow, &taken));
            flows.insert(flow, taken);
            out
        }
        Command::Drop(encoder) => match at(flows, encoder) {
            Some(flow) => {
                flows.remove(&flow);
                vec![MediaMessage::Unsubscribe(wire::Unsubscribe { flow })]
            }
            None => Vec::new(),
        },
        Command::Keyframe(encoder) => at(flows, encoder)
            .map(|flow| MediaMessage::Keyframe(wire::FlowRef { flow }))
            .into_iter()
            .collect(),
        Command::Viewers(encoder, viewers) => at(flows, encoder)
            .map(|flow| MediaMessage::FlowViewers(wire::FlowViewers { flow, viewers }))
            .into_iter()
            .collect(),
    }
}

fn subscribe(relays: &Relays, flow: u32, taken: &FlowIn) -> MediaMessage {
    let encoder = taken.encoder;
    let (hops, viewers) = (relays.hops(encoder), taken.hub.viewers());
    MediaMessage::Subscribe(wire::Subscribe { encoder, flow, hops, viewers })
}

/// Takes a packet to its hub. Returns what to ask the other side for, and on which flow.
fn take_datagram(
    relays: &Relays,
    flows: &mut BTreeMap<u32, FlowIn>,
    bytes: &[u8],
    trip: Duration,
) -> Option<(u32, Nack)> {
    let (number, packet) = take_varint(bytes)?;
    let flow = flows.get_mut(&number)?;
    let ssrc = flow::ssrc(flow.source.timeline);
    if let Some(gone) = Nack::read(packet) {
        let frames = flow.assembler.give_up(&gone.sequences);
        take_frames(relays, flow, frames);
        return None;
    }
    // A packet of another start of the agent than the route says comes too early or too late.
    if flow::ssrc_of(packet) != Some(ssrc) {
        return None;
    }
    let packet = Packet::parse(packet)?;
    let (now, counters) = (relays.shared.turning.now(), relays.shared.hubs.counters());
    counters.packets_in.fetch_add(1, Ordering::Relaxed);
    let frames = flow.assembler.push(now, trip, packet);
    take_frames(relays, flow, frames);
    let sequences = flow.assembler.ask(now, trip);
    counters.packets_asked.fetch_add(sequences.len() as u64, Ordering::Relaxed);
    (!sequences.is_empty()).then_some((number, Nack { ssrc, sequences }))
}

fn take_frames(relays: &Relays, flow: &FlowIn, frames: Vec<Assembled>) {
    let Shared { turning, hubs, .. } = &*relays.shared;
    let counters = hubs.counters();
    for assembled in frames {
        if assembled.lost > 0 {
            counters.packets_lost.fetch_add(assembled.lost, Ordering::Relaxed);
            flow.hub.request_keyframe();
        }
        if turning.late() {
            // This node stood still: what waited in its socket is old.
            counters.frames_stale.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        flow.hub.push(flow.source.feed, Arc::new(assembled.frame));
    }
}
