//! One UDP port for QUIC and WebRTC: datagrams are told apart by their first byte (RFC 9443).
//!
//! QUIC stays with its endpoint, which polls [`Mux`] as its socket; WebRTC datagrams leave through a
//! bounded queue, and [`RtcSocket`] sends from the same port. QUIC's greasing of the fixed bit
//! (RFC 9287) must be off on this endpoint, or half of its packets would look like STUN or DTLS.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::UdpPort;
use super::counters::NetCounters;
use crate::quic::udp::{RecvMeta, Transmit, UdpSocketState};
use crate::quic::{AsyncUdpSocket, UdpPoller};

/// WebRTC datagrams that wait for the WebRTC driver. About 30 ms of 200 publishers at 4 Mbit/s:
/// beyond it the driver is late anyway, and old video is worth less than new.
pub const RTC_QUEUE: usize = 4096;

/// What the kernel is asked to buffer in each direction. 8 MiB hold a keyframe to or from a few
/// hundred clients at once; the kernel grants at most `net.core.{r,w}mem_max`.
pub const SOCKET_BUFFER: usize = 8 << 20;

/// Whose datagram it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// QUIC, long or short header.
    Quic,
    /// STUN, DTLS, RTP or RTCP.
    WebRtc,
    /// Nothing that this port speaks.
    Noise,
}

/// Judges a datagram by its first byte (RFC 9443 §3; 64 to 79 is QUIC here, as there is no TURN).
pub fn kind(first: u8) -> Kind {
    match first {
        0..=3 | 20..=63 | 128..=191 => Kind::WebRtc,
        64..=127 | 192.. => Kind::Quic,
        _ => Kind::Noise,
    }
}

/// A datagram for WebRTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtcDatagram {
    /// Who sent it; an IPv4 address is never shown as an IPv6 one.
    pub from: SocketAddr,
    /// Which of our addresses it came to, if the kernel says so.
    pub to: Option<IpAddr>,
    /// The datagram.
    pub bytes: Bytes,
}

struct Inner {
    io: UdpSocket,
    state: UdpSocketState,
    /// The socket is IPv6, so IPv4 destinations are written as mapped addresses.
    ipv6: bool,
    counters: Arc<NetCounters>,
}

impl Inner {
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // Straight to the non-blocking descriptor: nobody waits here for readiness.
        self.state.try_send((&self.io).into(), transmit)
    }
}

/// The view that QUIC has of the port.
pub struct Mux {
    inner: Arc<Inner>,
    rtc: mpsc::Sender<RtcDatagram>,
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux").field("io", &self.inner.io).finish_non_exhaustive()
    }
}

/// What QUIC gets of a port, and what WebRTC gets.
pub(super) fn open(
    port: UdpPort,
    counters: Arc<NetCounters>,
) -> io::Result<(Arc<dyn AsyncUdpSocket>, RtcSocket, mpsc::Receiver<RtcDatagram>)> {
    match port {
        UdpPort::Open(socket) => {
            let (mux, rtc, datagrams) = Mux::new(socket, counters)?;
            Ok((Arc::new(mux), rtc, datagrams))
        }
        UdpPort::Other(socket) => Ok((socket, RtcSocket { inner: None }, mpsc::channel(1).1)),
    }
}

impl Mux {
    /// On an open port.
    pub fn new(
        socket: std::net::UdpSocket,
        counters: Arc<NetCounters>,
    ) -> io::Result<(Self, RtcSocket, mpsc::Receiver<RtcDatagram>)> {
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new((&socket).into())?;
        for (what, result) in [
            ("receive", state.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER)),
            ("send", state.set_send_buffer_size((&socket).into(), SOCKET_BUFFER)),
        ] {
            if let Err(error) = result {
                tracing::warn!("the {what} buffer of the UDP port stays small: {error}");
            }
        }
        let ipv6 = socket.local_addr()?.is_ipv6();
        let io = UdpSocket::from_std(socket)?;
        let inner = Arc::new(Inner { io, state, ipv6, counters });
        let (sender, receiver) = mpsc::channel(RTC_QUEUE);
        let rtc = RtcSocket { inner: Some(inner.clone()) };
        Ok((Self { inner, rtc: sender }, rtc, receiver))
    }

    /// Hands WebRTC segments on and moves QUIC ones together; returns the bytes that stay.
    fn sift(&self, buffer: &mut [u8], meta: &RecvMeta) -> usize {
        let counters = &self.inner.counters;
        let stride = meta.stride.max(1);
        let (mut at, mut keep) = (0, 0);
        let length = meta.len.min(buffer.len());
        while at < length {
            let end = (at + stride).min(length);
            match kind(buffer[at]) {
                Kind::Quic => {
                    buffer.copy_within(at..end, keep);
                    keep += end - at;
                }
                Kind::WebRtc => {
                    let datagram = RtcDatagram {
                        from: canonical(meta.addr),
                        to: meta.dst_ip.map(|ip| ip.to_canonical()),
                        bytes: Bytes::copy_from_slice(&buffer[at..end]),
                    };
                    if self.rtc.try_send(datagram).is_err() {
                        counters.rtc_queue_full.add(1);
                    }
                }
                Kind::Noise => counters.noise.add(1),
            }
            at = end;
        }
        keep
    }
}

impl AsyncUdpSocket for Mux {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { inner: self.inner.clone(), waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner
            .io
            .try_io(Interest::WRITABLE, || self.inner.state.send((&self.inner.io).into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            // Readiness is polled within tokio's cooperative budget, so that a flood of noise
            // cannot hold the thread.
            ready!(self.inner.io.poll_recv_ready(cx))?;
            let Ok(received) = self.inner.io.try_io(Interest::READABLE, || {
                self.inner.state.recv((&self.inner.io).into(), bufs, meta)
            }) else {
                continue;
            };
            let mut kept = 0;
            for i in 0..received.min(bufs.len()).min(meta.len()) {
                let left = self.sift(&mut bufs[i], &meta[i]);
                if left > 0 {
                    meta[i].len = left;
                    meta.swap(kept, i);
                    bufs.swap(kept, i);
                    kept += 1;
                }
            }
            if kept > 0 {
                return Poll::Ready(Ok(kept));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.state.may_fragment()
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// One task's wait for the socket to take more.
struct Poller {
    inner: Arc<Inner>,
    waiting: Option<Waiting>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = self.inner.clone();
        let waiting =
            self.waiting.get_or_insert_with(|| Box::pin(async move { inner.io.writable().await }));
        let result = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(result)
    }
}

/// The sending side of the port for WebRTC.
#[derive(Clone)]
pub struct RtcSocket {
    /// Nothing if the port is for QUIC alone.
    inner: Option<Arc<Inner>>,
}

impl fmt::Debug for RtcSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let io = self.inner.as_ref().map(|inner| &inner.io);
        f.debug_struct("RtcSocket").field("io", &io).finish_non_exhaustive()
    }
}

impl RtcSocket {
    /// Sends one datagram, or with `segment_size` all of `segments` cut into datagrams of that
    /// size (the last may be shorter) in as few system calls as the kernel allows. `from` is the
    /// source address, for hosts that have several.
    ///
    /// Never waits. `WouldBlock` means that the kernel's buffer is full: drop and count.
    pub fn send(
        &self,
        to: SocketAddr,
        from: Option<IpAddr>,
        segments: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let inner = self.inner()?;
        let (destination, src_ip) = if inner.ipv6 {
            (mapped(to), from.map(mapped_ip))
        } else {
            (canonical(to), from.map(|ip| ip.to_canonical()))
        };
        let one = |contents: &[u8], segment_size: Option<usize>| {
            inner.try_send(&Transmit { destination, ecn: None, contents, segment_size, src_ip })
        };
        let Some(size) = segment_size.filter(|size| *size > 0 && *size < segments.len()) else {
            return one(segments, None);
        };
        // At most 64 KiB in a system call, headers of the whole included.
        let most = inner.state.max_gso_segments().clamp(1, (60_000 / size).max(1));
        for batch in segments.chunks(size * most) {
            match one(batch, (batch.len() > size).then_some(size)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // A device that cannot segment: the kernel says so on the first try.
                Err(_) => batch.chunks(size).try_for_each(|datagram| one(datagram, None))?,
            }
        }
        Ok(())
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner()?.io.local_addr()
    }

    fn inner(&self) -> io::Result<&Inner> {
        let none = || io::Error::new(io::ErrorKind::Unsupported, "this port is for QUIC alone");
        self.inner.as_deref().ok_or_else(none)
    }
}

/// An address as people write it: IPv4 stays IPv4 on an IPv6 socket.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        SocketAddr::V6(_) => addr,
    }
}

fn mapped_ip(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}
