//! The task of one connection: takes what arrived, sends, and keeps the timers.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use quinn::{AsyncUdpSocket, UdpPoller};
use quinn_proto::{Dir, Event, StreamEvent, Transmit};
use tokio::time::Sleep;

use super::connection::{Notices, Shared, State};
use super::{now, outgoing};

/// Datagrams that leave in one system call: more of them cost memory and gain nothing.
const SEGMENTS_AT_ONCE: usize = 10;

/// Datagrams that one connection sends before others have their turn.
const SENT_AT_ONCE: usize = 20;

thread_local! {
    /// Packets that are about to leave. A connection needs one for the moment of sending only, and
    /// there are thousands of connections but few threads.
    static PACKETS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Packets that the socket did not take, and the wait for it.
pub(super) struct Blocked {
    writable: Pin<Box<dyn UdpPoller>>,
    transmit: Transmit,
    packets: Vec<u8>,
}

impl fmt::Debug for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocked").field("transmit", &self.transmit).finish_non_exhaustive()
    }
}

/// Drives a connection until it is over and forgotten.
pub(super) async fn run(connection: Arc<Shared>) {
    let mut sleep = pin!(tokio::time::sleep(Duration::MAX));
    let mut armed = None;
    poll_fn(|cx| turn(&connection, cx, sleep.as_mut(), &mut armed)).await;
}

fn turn(
    connection: &Shared,
    cx: &mut Context<'_>,
    sleep: Pin<&mut Sleep>,
    armed: &mut Option<Instant>,
) -> Poll<()> {
    // Before anything is looked at, so that what comes meanwhile is another turn.
    connection.driver.register(cx.waker());
    let inbox = connection.take_inbox();
    let mut again;
    let mut said = Vec::new();
    let drained = {
        let mut state = connection.state();
        for event in inbox {
            state.proto.handle_event(event);
        }
        again = state.send(cx, &connection.endpoint.socket);
        // Sending sets timers, and timers cause sending.
        again |= state.expire(cx, sleep, armed);
        said.extend(std::iter::from_fn(|| state.proto.poll_endpoint_events()));
        state.tell(&connection.notices);
        state.proto.is_drained()
    };
    if !said.is_empty() {
        let answers = connection.endpoint.hear(connection.number, said);
        if !answers.is_empty() {
            connection.answers(answers);
            again = true;
        }
    }
    if drained || connection.endpoint.is_lost() {
        return Poll::Ready(());
    }
    if again {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}

impl State {
    /// Sends what there is to send; says whether there is more.
    fn send(&mut self, cx: &mut Context<'_>, socket: &Arc<dyn AsyncUdpSocket>) -> bool {
        if let Some(blocked) = &mut self.blocked {
            if !blocked.retry(cx, socket) {
                return false;
            }
            self.blocked = None;
        }
        let segments = socket.max_transmit_segments().clamp(1, SEGMENTS_AT_ONCE);
        let now = now();
        let mut sent = 0;
        PACKETS.with_borrow_mut(|packets| {
            while sent < SENT_AT_ONCE {
                packets.clear();
                packets.reserve(self.proto.current_mtu().into());
                let Some(transmit) = self.proto.poll_transmit(now, segments, packets) else {
                    return false;
                };
                sent += transmit.segment_size.map_or(1, |size| transmit.size.div_ceil(size.max(1)));
                match socket.try_send(&outgoing(&transmit, packets)) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        let writable = socket.clone().create_io_poller();
                        let packets = packets.clone();
                        let mut blocked = Box::new(Blocked { writable, transmit, packets });
                        if !blocked.retry(cx, socket) {
                            self.blocked = Some(blocked);
                            return false;
                        }
                    }
                    // As good as lost on the way.
                    Err(error) => tracing::debug!("a packet could not be sent: {error}"),
                }
            }
            true
        })
    }

    /// Runs the timers that are due, or waits for the next; says whether any was due.
    fn expire(
        &mut self,
        cx: &mut Context<'_>,
        mut sleep: Pin<&mut Sleep>,
        armed: &mut Option<Instant>,
    ) -> bool {
        let Some(deadline) = self.proto.poll_timeout() else {
            *armed = None;
            return false;
        };
        // By the clock: a sleep may be late.
        if deadline > now() {
            if *armed != Some(deadline) {
                sleep.as_mut().reset(deadline.into());
                *armed = Some(deadline);
            }
            if sleep.poll(cx).is_pending() {
                return false;
            }
        }
        *armed = None;
        self.proto.handle_timeout(now());
        true
    }

    /// Wakes whoever waits for what has happened.
    fn tell(&mut self, notices: &Notices) {
        let [bi, uni] = &notices.opened;
        while let Some(event) = self.proto.poll() {
            match event {
                Event::Connected => {
                    self.connected = true;
                    self.connecting.take().into_iter().for_each(Waker::wake);
                }
                Event::ConnectionLost { reason } => self.end(reason, notices),
                Event::DatagramReceived => notices.datagram.notify_waiters(),
                Event::DatagramsUnblocked => notices.space.notify_waiters(),
                Event::Stream(event) => match event {
                    StreamEvent::Opened { dir: Dir::Bi } => bi.notify_waiters(),
                    StreamEvent::Opened { dir: Dir::Uni } => uni.notify_waiters(),
                    StreamEvent::Readable { id } => self.readers.wake(id),
                    StreamEvent::Writable { id }
                    | StreamEvent::Finished { id }
                    | StreamEvent::Stopped { id, .. } => self.writers.wake(id),
                    StreamEvent::Available { .. } => notices.room.notify_waiters(),
                },
                // Read when the handshake is over.
                Event::HandshakeDataReady => {}
            }
        }
    }
}

impl Blocked {
    /// Whether the socket has them now, or will never.
    fn retry(&mut self, cx: &mut Context<'_>, socket: &Arc<dyn AsyncUdpSocket>) -> bool {
        loop {
            match self.writable.as_mut().poll_writable(cx) {
                Poll::Pending => return false,
                Poll::Ready(Err(_)) => return true,
                Poll::Ready(Ok(())) => {}
            }
            match socket.try_send(&outgoing(&self.transmit, &self.packets)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(()) | Err(_) => return true,
            }
        }
    }
}
