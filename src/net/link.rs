//! Links between members: one connection per pair, what flows in it, and how one gives way to
//! another.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::message::{MessageReader, MessageWriter, ReceiveError, lost_reason};
use super::mux::canonical;
use super::transport::{DATAGRAM_MAX, LINK_RECEIVE_WINDOW};
use super::{AskError, DialError, Inner, LinkStats, NetEvent, close, close_with, locked};
use crate::admission::Statement;
use crate::id::{Boot, NodeId};
use crate::peering::tie::{self, Existing, Verdict};
use crate::quic;
use crate::quic::{Connection, RecvStream, SendStream};
use crate::wire::{Handshake, Keep, MAX_MESSAGE};

/// Messages that wait for a link's stream: some seconds of a busy directory.
pub const LINK_QUEUE: usize = 4096;

/// Bytes that wait for a link's stream: four of the largest messages. A peer that is this far
/// behind is better served by a new link and a digest.
pub const LINK_QUEUE_BYTES: usize = 4 * MAX_MESSAGE;

/// Largest question or answer: SDP with many candidates is some 20 KiB, a viewer list of a full
/// node some 200.
pub const ASK_MAX: usize = 1 << 20;

/// Largest gossip message: twice what the report gossip packs into one.
pub const GOSSIP_MAX: usize = 128 << 10;

/// Gossip messages on their way to one peer. More means that it does not keep up, and a report
/// that waited is worth less than the next one.
pub const GOSSIP_AT_ONCE: usize = 16;

/// A stream that carries one question or gossip message is there within this, or never.
pub const STREAM_DEADLINE: Duration = Duration::from_secs(5);

/// A question is answered within this, or never; above every hold that a node may put on one.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a connection that gave way to another may take to hand over what is under way.
pub const LINGER: Duration = Duration::from_secs(2);

/// How often each link is looked at for signs of life.
const LIFE_INTERVAL: Duration = Duration::from_millis(250);

/// A link that nothing came over for this long gives way to a new connection, whatever that one's
/// boot: a live one is heard every second ([`super::transport::KEEP_ALIVE`]), and looked at every
/// 250 ms.
pub const SILENT: Duration = Duration::from_millis(1500);

/// A connection that was kept as the link to a node. Dropping it ends its queue: what is queued
/// goes out, then the stream is finished.
pub(super) struct Link {
    /// Which of this node's connections.
    id: u64,
    connection: Connection,
    dialled_here: bool,
    boot: Boot,
    order: Option<u64>,
    queue: mpsc::Sender<Vec<u8>>,
    state: Arc<State>,
}

/// What a link shares with its tasks.
struct State {
    /// Bytes in the queue.
    queued: AtomicUsize,
    /// Nothing of this connection is to be heard any more.
    muted: AtomicBool,
    /// Why it is being closed here.
    reason: OnceLock<String>,
    gossip: Arc<Semaphore>,
    /// The control stream has delivered all and is finished.
    drained: AtomicBool,
    /// Datagrams received when they last changed, and when that was.
    heard: Mutex<(u64, Instant)>,
}

impl Link {
    fn existing(&self) -> Existing {
        Existing {
            dialled_here: self.dialled_here,
            boot: self.boot,
            order: self.order,
            closed: self.connection.close_reason().is_some(),
            silent: locked(&self.state.heard).1.elapsed() > SILENT,
        }
    }

    fn kill(&self, code: quic::VarInt, reason: &str) {
        self.state.muted.store(true, Relaxed);
        let _ = self.state.reason.set(reason.to_owned());
        close_with(&self.connection, code, reason);
    }
}

/// A connection between members after both hellos.
pub(super) struct Fresh {
    pub(super) node: NodeId,
    pub(super) boot: Boot,
    pub(super) name: String,
    pub(super) addrs: Vec<String>,
    pub(super) learned: Vec<Statement>,
    pub(super) wall: u64,
    pub(super) connection: Connection,
    pub(super) writer: MessageWriter,
    pub(super) reader: MessageReader,
    pub(super) dialled_here: bool,
    /// The other side's decision number; `None` if this side dialled and decides first.
    pub(super) order: Option<u64>,
}

impl Inner {
    /// Decides whether `fresh` becomes the link to its node, and starts it.
    pub(super) async fn settle(self: &Arc<Self>, mut fresh: Fresh) -> Result<(), DialError> {
        let node = fresh.node;
        let mut decisions = self.decisions.lock().await;
        if self.closing() {
            close_with(&fresh.connection, close::GOING, "this node is stopping");
            return Err(DialError::Broken("this node is stopping".into()));
        }
        let existing = locked(&self.links).get(&node).map(Link::existing);
        let verdict = match fresh.order {
            None => tie::at_dialler(existing.as_ref(), fresh.boot),
            Some(order) => tie::at_acceptor(self.node, node, existing.as_ref(), fresh.boot, order),
        };
        let id = self.connections.fetch_add(1, Relaxed);
        let state = Arc::new(State {
            queued: AtomicUsize::new(0),
            muted: AtomicBool::new(false),
            reason: OnceLock::new(),
            gossip: Arc::new(Semaphore::new(GOSSIP_AT_ONCE)),
            drained: AtomicBool::new(false),
            heard: Mutex::new((0, Instant::now())),
        });
        let (queue, queued) = mpsc::channel(LINK_QUEUE);
        if verdict == Verdict::KeepExisting {
            self.counters.links_duplicate.add(1);
            if fresh.dialled_here {
                close_with(&fresh.connection, close::DUPLICATE, "there is a link already");
                return Err(DialError::AlreadyLinked(node));
            }
            // The dialler may have said things on it before it heard of the other link: they
            // are still read. It learns of its loss by the end of our stream.
            drop(queue);
            tokio::spawn(run(self.clone(), id, fresh, queued, state));
            return Ok(());
        }
        fresh.connection.set_receive_window(quic::VarInt::from_u32(LINK_RECEIVE_WINDOW));
        *decisions += 1;
        let keep = Handshake::Keep(Keep { order: *decisions });
        if let Err(reason) = fresh.writer.write(&keep).await {
            return Err(DialError::Broken(reason));
        }
        let link = Link {
            id,
            connection: fresh.connection.clone(),
            dialled_here: fresh.dialled_here,
            boot: fresh.boot,
            order: fresh.order,
            queue,
            state: state.clone(),
        };
        let former = locked(&self.links).insert(node, link);
        match (former, verdict) {
            (Some(_gives_way), Verdict::Swap) => self.counters.links_duplicate.add(1),
            (former, _) => {
                if let Some(dead) = former {
                    let reason = "the other side connected anew";
                    dead.kill(close::DUPLICATE, reason);
                    self.tell(NetEvent::LinkDown { node, reason: reason.into() }).await;
                }
                self.tell(NetEvent::LinkUp {
                    node,
                    boot: fresh.boot,
                    name: std::mem::take(&mut fresh.name),
                    addrs: std::mem::take(&mut fresh.addrs),
                    learned: std::mem::take(&mut fresh.learned),
                    wall: fresh.wall,
                    remote: canonical(fresh.connection.remote_address()),
                })
                .await;
            }
        }
        tokio::spawn(run(self.clone(), id, fresh, queued, state));
        Ok(())
    }

    pub(super) async fn tell(&self, event: NetEvent) {
        // Without a receiver the node is stopping.
        let _ = self.events.send(event).await;
    }

    /// The link's connection ended: if it still is the link, nobody replaced it.
    async fn gone(&self, node: NodeId, id: u64, reason: String) {
        let _in_order = self.decisions.lock().await;
        let was_link = {
            let mut links = locked(&self.links);
            let current = links.get(&node).is_some_and(|link| link.id == id);
            if current {
                links.remove(&node);
            }
            current
        };
        if was_link {
            self.tell(NetEvent::LinkDown { node, reason }).await;
        }
    }

    pub(super) async fn close_link(&self, node: NodeId, reason: String) {
        let link = {
            let _in_order = self.decisions.lock().await;
            let Some(link) = locked(&self.links).remove(&node) else { return };
            link.state.muted.store(true, Relaxed);
            self.tell(NetEvent::LinkDown { node, reason: reason.clone() }).await;
            link
        };
        drain(link, Duration::from_millis(500), &reason).await;
    }

    pub(super) async fn drain_all(&self, reason: &str) {
        let links = std::mem::take(&mut *locked(&self.links));
        let drains = links.into_values().map(|link| drain(link, Duration::from_secs(1), reason));
        futures::future::join_all(drains).await;
    }

    pub(super) fn send(&self, node: NodeId, bytes: Vec<u8>) -> bool {
        let links = locked(&self.links);
        let Some(link) = links.get(&node) else { return false };
        let length = bytes.len();
        let waiting = link.state.queued.fetch_add(length, Relaxed) + length;
        let fits = waiting <= LINK_QUEUE_BYTES && link.queue.try_send(bytes).is_ok();
        if !fits && link.connection.close_reason().is_none() {
            self.counters.links_overflowed.add(1);
            link.kill(close::OVERFLOW, "the other side does not read what it is sent");
        }
        fits
    }

    pub(super) fn datagram(&self, node: NodeId, bytes: Bytes) -> bool {
        let sent = bytes.len() <= DATAGRAM_MAX && {
            let links = locked(&self.links);
            links.get(&node).is_some_and(|link| {
                if link.connection.datagram_send_buffer_space() < bytes.len() {
                    // QUIC makes room by dropping the oldest, which is the most useless.
                    self.counters.datagrams_out_dropped.add(1);
                }
                link.connection.send_datagram(bytes).is_ok()
            })
        };
        if !sent {
            self.counters.datagrams_out_refused.add(1);
        }
        sent
    }

    pub(super) fn gossip(&self, node: NodeId, bytes: Vec<u8>) -> bool {
        let found = locked(&self.links).get(&node).and_then(|link| {
            let permit = link.state.gossip.clone().try_acquire_owned().ok()?;
            Some((link.connection.clone(), permit))
        });
        let (Some((connection, permit)), true) = (found, bytes.len() <= GOSSIP_MAX) else {
            self.counters.gossip_dropped.add(1);
            return false;
        };
        let counters = self.counters.clone();
        tokio::spawn(async move {
            let _one_of_few = permit;
            let sent = timeout(STREAM_DEADLINE, async {
                let mut stream = connection.open_uni().await.ok()?;
                stream.write_all(&bytes).await.ok()?;
                stream.finish().ok()?;
                stream.stopped().await.ok()
            });
            if !matches!(sent.await, Ok(Some(_))) {
                counters.gossip_dropped.add(1);
            }
        });
        true
    }

    pub(super) async fn ask(
        &self,
        node: NodeId,
        bytes: Vec<u8>,
        limit: Duration,
    ) -> Result<Vec<u8>, AskError> {
        let connection = self.connection(node).ok_or(AskError::NoLink(node))?;
        let asked = async {
            let (send, recv) =
                connection.open_bi().await.map_err(|error| AskError::Lost(lost_reason(&error)))?;
            let mut writer = MessageWriter::new(send);
            writer.write_bytes(&bytes).await.map_err(AskError::Lost)?;
            writer.finish();
            let mut reader = MessageReader::new(recv).counted(self.counters.clone());
            reader.limit(ASK_MAX);
            reader.read_bytes().await.map_err(|error| AskError::Lost(error.to_string()))
        };
        timeout(limit, asked).await.unwrap_or(Err(AskError::Late(limit)))
    }

    fn connection(&self, node: NodeId) -> Option<Connection> {
        locked(&self.links).get(&node).map(|link| link.connection.clone())
    }

    /// Where the link to `node` goes.
    pub(super) fn remote(&self, node: NodeId) -> Option<SocketAddr> {
        self.connection(node).map(|connection| connection.remote_address())
    }

    pub(super) fn stats(&self) -> Vec<(NodeId, LinkStats)> {
        locked(&self.links)
            .iter()
            .map(|(node, link)| {
                let stats = LinkStats {
                    rtt: link.connection.rtt(),
                    remote: canonical(link.connection.remote_address()),
                    last_heard: locked(&link.state.heard).1,
                };
                (*node, stats)
            })
            .collect()
    }
}

/// Notes when each link was last heard: QUIC hears more than its users do, keep-alives above all.
pub(super) async fn listen_for_life(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(LIFE_INTERVAL);
    while !inner.closing() {
        ticks.tick().await;
        for link in locked(&inner.links).values() {
            let received = link.connection.stats().udp_rx.datagrams;
            let mut heard = locked(&link.state.heard);
            if heard.0 != received {
                *heard = (received, Instant::now());
            }
        }
    }
}

/// Ends a link that is no longer in the table, after what it was told has gone out.
async fn drain(link: Link, limit: Duration, reason: &str) {
    let Link { connection, queue, state, .. } = link;
    let _ = state.reason.set(reason.to_owned());
    drop(queue);
    let gone = async {
        while !state.drained.load(Relaxed) && connection.close_reason().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = timeout(limit, gone).await;
    close_with(&connection, close::GOING, reason);
}

/// One connection's life after it was settled, whether it is the link or is on its way out.
async fn run(
    inner: Arc<Inner>,
    id: u64,
    fresh: Fresh,
    queued: mpsc::Receiver<Vec<u8>>,
    state: Arc<State>,
) {
    let Fresh { node, connection, writer, mut reader, dialled_here, .. } = fresh;
    reader.trust();
    let mut streams = JoinSet::new();
    streams.spawn(datagrams(inner.clone(), node, connection.clone(), state.clone()));
    streams.spawn(gossips(inner.clone(), node, connection.clone(), state.clone()));
    streams.spawn(asks(inner.clone(), node, connection.clone(), state.clone()));
    let mut told = tokio::spawn(write(writer, queued, state.clone()));
    let hear = Hear { inner: inner.clone(), id, node, state: state.clone(), dialled_here };
    let mut heard = tokio::spawn(hear.run(reader, connection.clone()));

    // A connection that gives way to another is finished from both sides; either side may be
    // first, and the other gets time to say what it still has.
    tokio::select! {
        _ = connection.closed() => {}
        _ = async {
            let first_done = tokio::select! {
                _ = &mut told => &mut heard,
                _ = &mut heard => &mut told,
            };
            timeout(LINGER, first_done).await
        } => close_with(&connection, close::DUPLICATE, "another link took over"),
    }
    let reason = match state.reason.get() {
        Some(reason) => reason.clone(),
        None => lost_reason(&connection.closed().await),
    };
    told.abort();
    if !heard.is_finished() {
        // What arrived before the end is still heard; a stuck control loop is not waited for.
        let _ = timeout(LINGER, &mut heard).await;
        heard.abort();
    }
    streams.shutdown().await;
    inner.gone(node, id, reason).await;
}

async fn write(mut writer: MessageWriter, mut queued: mpsc::Receiver<Vec<u8>>, state: Arc<State>) {
    while let Some(bytes) = queued.recv().await {
        if writer.write_bytes(&bytes).await.is_err() {
            return;
        }
        state.queued.fetch_sub(bytes.len(), Relaxed);
    }
    writer.finish();
    writer.delivered().await;
    state.drained.store(true, Relaxed);
}

/// Reads the ordered stream.
struct Hear {
    inner: Arc<Inner>,
    id: u64,
    node: NodeId,
    state: Arc<State>,
    dialled_here: bool,
}

impl Hear {
    async fn run(self, mut reader: MessageReader, connection: Connection) {
        if let Err(error) = self.listen(&mut reader).await {
            match error {
                ReceiveError::Ended | ReceiveError::Lost(_) => {}
                other => close_with(&connection, close::PROTOCOL, &other.to_string()),
            }
        }
    }

    async fn listen(&self, reader: &mut MessageReader) -> Result<(), ReceiveError> {
        if self.dialled_here
            && let Handshake::Keep(keep) = reader.read().await?
            && let Some(link) = locked(&self.inner.links).get_mut(&self.node)
            && link.id == self.id
        {
            link.order = Some(keep.order);
        }
        loop {
            let bytes = reader.read_bytes().await?;
            if self.state.muted.load(Relaxed) {
                return Ok(());
            }
            self.inner.tell(NetEvent::Message { node: self.node, bytes }).await;
        }
    }
}

async fn datagrams(inner: Arc<Inner>, node: NodeId, connection: Connection, state: Arc<State>) {
    while let Ok(bytes) = connection.read_datagram().await {
        if state.muted.load(Relaxed) {
            return;
        }
        if inner.events.try_send(NetEvent::Datagram { node, bytes }).is_err() {
            inner.counters.datagrams_in_dropped.add(1);
        }
    }
}

async fn gossips(inner: Arc<Inner>, node: NodeId, connection: Connection, state: Arc<State>) {
    let mut streams = JoinSet::new();
    while let Ok(stream) = connection.accept_uni().await {
        while streams.try_join_next().is_some() {}
        streams.spawn(gossip(inner.clone(), node, stream, state.clone()));
    }
    // What has arrived whole is still passed on.
    while streams.join_next().await.is_some() {}
}

async fn gossip(inner: Arc<Inner>, node: NodeId, mut stream: RecvStream, state: Arc<State>) {
    match timeout(STREAM_DEADLINE, stream.read_to_end(GOSSIP_MAX)).await {
        Ok(Ok(bytes)) if !state.muted.load(Relaxed) => {
            inner.tell(NetEvent::Gossip { node, bytes }).await;
        }
        _ => inner.counters.gossip_dropped.add(1),
    }
}

async fn asks(inner: Arc<Inner>, node: NodeId, connection: Connection, state: Arc<State>) {
    let mut streams = JoinSet::new();
    while let Ok((send, recv)) = connection.accept_bi().await {
        while streams.try_join_next().is_some() {}
        streams.spawn(answer(inner.clone(), node, send, recv, state.clone()));
    }
}

async fn answer(
    inner: Arc<Inner>,
    node: NodeId,
    send: SendStream,
    recv: RecvStream,
    state: Arc<State>,
) {
    let mut reader = MessageReader::new(recv).counted(inner.counters.clone());
    reader.limit(ASK_MAX);
    let Ok(Ok(bytes)) = timeout(STREAM_DEADLINE, reader.read_bytes()).await else { return };
    if state.muted.load(Relaxed) {
        return;
    }
    let (answer, answered) = oneshot::channel();
    inner.tell(NetEvent::Ask { node, bytes, answer }).await;
    // Without an answer the streams are dropped, which the asker sees as their end.
    let Ok(Ok(bytes)) = timeout(ANSWER_TIMEOUT, answered).await else { return };
    let mut writer = MessageWriter::new(send);
    if writer.write_bytes(&bytes).await.is_ok() {
        writer.finish();
        let _ = timeout(STREAM_DEADLINE, writer.delivered()).await;
    }
}
