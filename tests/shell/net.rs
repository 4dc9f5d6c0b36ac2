//! A network in memory: sockets that quinn takes for UDP, with delay, loss and cuts. The only file
//! that knows how quinn wants a socket.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use roost::node::Sockets;
use roost_sim::plan;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Where a host is reached.
pub(crate) fn addr_of(host: usize) -> SocketAddr {
    let [.., high, low] = host.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 9443))
}

fn host_at(addr: SocketAddr) -> Option<usize> {
    let SocketAddr::V4(addr) = addr else { return None };
    let [10, 0, high, low] = addr.ip().octets() else { return None };
    Some(usize::from(u16::from_be_bytes([high, low])))
}

/// The port from which a newcomer asks.
const ASKING: u16 = 40_000;

/// All hosts and what is between them. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Network(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    sent: Notify,
}

/// On its way: when it arrives, its number, from where, to where, what.
type Flying = (Instant, u64, SocketAddr, SocketAddr, Vec<u8>);

struct State {
    plan: plan::Net,
    /// How far each two hosts are apart.
    apart: u64,
    rng: ChaCha8Rng,
    sockets: BTreeMap<SocketAddr, Arc<Inbox>>,
    flying: BinaryHeap<Reverse<Flying>>,
    cuts: BTreeSet<(usize, usize)>,
    /// When the last packet of a path arrives.
    last: BTreeMap<(usize, usize), Instant>,
    count: u64,
}

/// Who sent what.
type Packet = (SocketAddr, Vec<u8>);

#[derive(Default)]
struct Inbox {
    waiting: Mutex<(VecDeque<Packet>, Option<Waker>)>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Delays and losses are drawn from `seed`. Must run inside a runtime.
    pub(crate) fn new(plan: plan::Net, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let state = State {
            plan,
            apart: rng.random(),
            rng,
            sockets: BTreeMap::new(),
            flying: BinaryHeap::new(),
            cuts: BTreeSet::new(),
            last: BTreeMap::new(),
            count: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), sent: Notify::new() });
        tokio::spawn(carry(shared.clone()));
        Self(shared)
    }

    /// The sockets of a host for another life; its former ones are deaf and dumb from now on.
    pub(crate) fn sockets(&self, host: usize) -> Sockets {
        let asking = SocketAddr::new(addr_of(host).ip(), ASKING);
        Sockets { port: self.socket(addr_of(host)), join: self.socket(asking) }
    }

    fn socket(&self, addr: SocketAddr) -> Arc<dyn AsyncUdpSocket> {
        let inbox = Arc::new(Inbox::default());
        locked(&self.0.state).sockets.insert(addr, inbox.clone());
        Arc::new(Socket { network: self.clone(), addr, inbox })
    }

    /// Nothing leaves this host any more, and nothing reaches it.
    pub(crate) fn silence(&self, host: usize) {
        locked(&self.0.state).sockets.retain(|addr, _| host_at(*addr) != Some(host));
    }

    /// Nothing passes between the two sides.
    pub(crate) fn cut(&self, a: &[usize], b: &[usize]) {
        let pairs = a.iter().flat_map(|a| b.iter().flat_map(|b| [(*a, *b), (*b, *a)]));
        locked(&self.0.state).cuts.extend(pairs);
    }

    /// Everything passes again.
    pub(crate) fn mend(&self) {
        locked(&self.0.state).cuts.clear();
    }
}

impl State {
    /// When it arrives, by the simulator's law with draws of its own. Few packets overtake others:
    /// a handshake's last two in a wrong order cost it 150 ms, for QUIC drops what it has no key
    /// for yet.
    fn arrival(&mut self, from: usize, to: usize) -> Instant {
        let (low, high) = self.plan.delay_us;
        let pair = (from.min(to) as u64) << 32 | from.max(to) as u64;
        let base = ChaCha8Rng::seed_from_u64(self.apart ^ pair).random_range(low..=high);
        let delay = Duration::from_micros(base + self.rng.random_range(0..=base / 8));
        let last = self.last.entry((from, to)).or_insert_with(Instant::now);
        *last = (*last).max(Instant::now() + delay);
        match self.rng.random_bool(self.plan.spikes) {
            true => *last + Duration::from_micros(self.rng.random_range(0..50_000)),
            false => *last,
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let (Some(here), Some(there)) = (host_at(from), host_at(to)) else { return };
        self.count += 1;
        let lost = self.rng.random_bool(self.plan.loss);
        let at = self.arrival(here, there);
        if !lost && !self.cuts.contains(&(here, there)) {
            self.flying.push(Reverse((at, self.count, from, to, bytes.to_vec())));
        }
    }

    /// What arrives now, and when the next does.
    fn arrived(&mut self) -> (Vec<(Arc<Inbox>, Packet)>, Option<Instant>) {
        let mut arrived = Vec::new();
        while let Some(Reverse((at, ..))) = self.flying.peek() {
            if *at > Instant::now() {
                return (arrived, Some(*at));
            }
            let Some(Reverse((_, _, from, to, bytes))) = self.flying.pop() else { break };
            if let Some(inbox) = self.sockets.get(&to) {
                arrived.push((inbox.clone(), (from, bytes)));
            }
        }
        (arrived, None)
    }
}

/// Brings what was sent.
async fn carry(shared: Arc<Shared>) {
    loop {
        let (arrived, next) = locked(&shared.state).arrived();
        for (inbox, packet) in arrived {
            let mut waiting = locked(&inbox.waiting);
            waiting.0.push_back(packet);
            waiting.1.take().into_iter().for_each(Waker::wake);
        }
        let due = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // What was sent later may arrive sooner.
        tokio::select! {
            () = due => {}
            () = shared.sent.notified() => {}
        }
    }
}

/// A host's socket, in one of its lives.
struct Socket {
    network: Network,
    addr: SocketAddr,
    inbox: Arc<Inbox>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut state = locked(&self.network.0.state);
        if state.sockets.get(&self.addr).is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox)) {
            let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
            for datagram in transmit.contents.chunks(size) {
                state.send(self.addr, transmit.destination, datagram);
            }
            self.network.0.sent.notify_one();
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut waiting = locked(&self.inbox.waiting);
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some((from, bytes)) = waiting.0.pop_front() else { break };
            let len = bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&bytes[..len]);
            *meta = RecvMeta { addr: from, len, stride: len, ecn: None, dst_ip: None };
            count += 1;
        }
        if count == 0 {
            waiting.1 = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// Room there always is.
#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
