use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use quinn_proto::{ApplicationClose, RandomConnectionIdGenerator};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::udp::{RecvMeta, Transmit};
use super::*;

/// Longer than anything here takes.
const BOUND: Duration = Duration::from_secs(30);

/// Sockets in memory, by their addresses.
#[derive(Debug, Clone, Default)]
struct Net(Arc<Mutex<BTreeMap<SocketAddr, Arc<Inbox>>>>);

/// Who sent what.
type Packet = (SocketAddr, Vec<u8>);

/// What has arrived, and who waits for it.
#[derive(Debug, Default)]
struct Inbox(Mutex<(VecDeque<Packet>, Option<Waker>)>);

#[derive(Debug)]
struct Socket {
    net: Net,
    addr: SocketAddr,
    inbox: Arc<Inbox>,
    sent: AtomicU64,
    /// One of so many datagrams is lost; none of 0.
    loses: u64,
    /// One of so many sends would block; none of 0.
    blocks: u64,
}

impl Net {
    /// A socket in place of any other at its address.
    fn socket(&self, addr: &str, loses: u64, blocks: u64) -> Arc<dyn AsyncUdpSocket> {
        let (addr, inbox) = (addr.parse().unwrap(), Arc::new(Inbox::default()));
        locked(&self.0).insert(addr, inbox.clone());
        Arc::new(Socket { net: self.clone(), addr, inbox, sent: AtomicU64::new(0), loses, blocks })
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable(false))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let every = |n: u64, of: u64| of != 0 && n % of == of - 1;
        if every(self.sent.fetch_add(1, Relaxed), self.blocks) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let Some(inbox) = locked(&self.net.0).get(&transmit.destination).cloned() else {
            return Ok(());
        };
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        for datagram in transmit.contents.chunks(size.max(1)) {
            if every(self.sent.fetch_add(1, Relaxed), self.loses) {
                continue;
            }
            let mut inbox = locked(&inbox.0);
            inbox.0.push_back((self.addr, datagram.to_vec()));
            inbox.1.take().into_iter().for_each(Waker::wake);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = locked(&self.inbox.0);
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some((addr, bytes)) = inbox.0.pop_front() else { break };
            buf[..bytes.len()].copy_from_slice(&bytes);
            let len = bytes.len();
            *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
            count += 1;
        }
        if count == 0 {
            inbox.1 = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn max_transmit_segments(&self) -> usize {
        10
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// Writable when asked twice.
#[derive(Debug)]
struct Writable(bool);

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = !self.0;
        if self.0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

/// A server's and a client's settings.
fn configs() -> (ServerConfig, ClientConfig) {
    let own = rcgen::generate_simple_self_signed(["roost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = crypto::rustls::QuicServerConfig::try_from(server).unwrap();
    let client = crypto::rustls::QuicClientConfig::try_from(client).unwrap();
    let mut server = ServerConfig::with_crypto(Arc::new(server));
    let mut client = ClientConfig::new(Arc::new(client));
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(BOUND).unwrap()));
    let transport = Arc::new(transport);
    server.transport_config(transport.clone());
    client.transport_config(transport);
    (server, client)
}

/// The same key each time, as of one host.
fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &[7; 64])));
    config.cid_generator(|| Box::<RandomConnectionIdGenerator>::default());
    config
}

fn endpoint(server: Option<ServerConfig>, socket: Arc<dyn AsyncUdpSocket>) -> Endpoint {
    Endpoint::new(endpoint_config(), server, socket).unwrap()
}

/// On the loopback interface.
fn real() -> Arc<dyn AsyncUdpSocket> {
    TokioRuntime.wrap_udp_socket(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap()
}

async fn connected(client: &Endpoint, config: &ClientConfig, to: &Endpoint) -> [Connection; 2] {
    let addr = to.local_addr().unwrap();
    let connecting = client.connect_with(config.clone(), addr, "roost").unwrap();
    let accepted = async { to.accept().await.unwrap().accept().unwrap().await };
    let both = timeout(BOUND, async { tokio::join!(connecting, accepted) }).await.unwrap();
    [both.0.unwrap(), both.1.unwrap()]
}

/// A client's and a server's end over sockets in memory.
async fn pair(loses: u64, blocks: u64) -> [Connection; 2] {
    let (server, client) = configs();
    let net = Net::default();
    let there = endpoint(Some(server), net.socket("10.0.0.1:1", loses, blocks));
    let here = endpoint(None, net.socket("10.0.0.2:2", loses, blocks));
    connected(&here, &client, &there).await
}

fn closed_with(code: u32, reason: &'static [u8]) -> ConnectionError {
    let error_code = VarInt::from_u32(code);
    ConnectionError::ApplicationClosed(ApplicationClose { error_code, reason: Bytes::from(reason) })
}

async fn read_all(stream: &mut RecvStream) -> Vec<u8> {
    timeout(BOUND, stream.read_to_end(1 << 20)).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_at_once_arrive_whole_over_a_socket_that_loses_and_blocks() {
    let [here, there] = pair(17, 5).await;
    let mut writers = JoinSet::new();
    for nth in 0..200_u32 {
        let here = here.clone();
        writers.spawn(async move {
            let (mut send, mut recv) = here.open_bi().await.unwrap();
            send.write_all(&nth.to_le_bytes().repeat(2000)).await.unwrap();
            send.finish().unwrap();
            assert_eq!(read_all(&mut recv).await, nth.to_le_bytes());
        });
    }
    let mut echoes = JoinSet::new();
    for _ in 0..200 {
        let (mut send, mut recv) = timeout(BOUND, there.accept_bi()).await.unwrap().unwrap();
        echoes.spawn(async move {
            let all = read_all(&mut recv).await;
            let nth = all.first_chunk::<4>().unwrap();
            assert_eq!(all, nth.repeat(2000));
            send.write_all(nth).await.unwrap();
        });
    }
    timeout(BOUND, writers.join_all()).await.unwrap();
    timeout(BOUND, echoes.join_all()).await.unwrap();
}

#[tokio::test]
async fn a_writer_that_is_dropped_ends_its_stream_and_a_reader_stops_it() {
    let [here, there] = pair(0, 0).await;
    let mut send = here.open_uni().await.unwrap();
    send.write_all(b"all of it").await.unwrap();
    drop(send);
    let mut recv = timeout(BOUND, there.accept_uni()).await.unwrap().unwrap();
    assert_eq!(read_all(&mut recv).await, b"all of it");
    assert!(recv.read_chunk(9).await.unwrap().is_none(), "the end stays the end");

    let mut send = here.open_uni().await.unwrap();
    send.write_all(b"more").await.unwrap();
    drop(timeout(BOUND, there.accept_uni()).await.unwrap().unwrap());
    assert_eq!(timeout(BOUND, send.stopped()).await.unwrap(), Ok(Some(VarInt::from_u32(0))));
    assert_eq!(send.write(b"x").await, Err(WriteError::Stopped(VarInt::from_u32(0))));
}

#[tokio::test]
async fn a_finished_stream_says_when_all_of_it_has_arrived() {
    let [here, there] = pair(3, 0).await;
    let mut send = here.open_uni().await.unwrap();
    send.write_all(&[1; 100_000]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(send.finish(), Err(WriteError::ClosedStream));
    let reading = async {
        let mut recv = there.accept_uni().await.unwrap();
        assert_eq!(recv.read_to_end(99_999).await, Err(ReadToEndError::TooLong));
    };
    let (stopped, ()) =
        timeout(BOUND, async { tokio::join!(send.stopped(), reading) }).await.unwrap();
    assert!(stopped.is_ok());
}

#[tokio::test]
async fn reads_that_are_given_up_lose_nothing() {
    let [here, there] = pair(0, 0).await;
    let mut send = here.open_uni().await.unwrap();
    let writing = async {
        for nth in 0..100_u8 {
            send.write_all(&[nth; 10]).await.unwrap();
            tokio::task::yield_now().await;
        }
        send.finish().unwrap();
    };
    let reading = async {
        let mut recv = there.accept_uni().await.unwrap();
        let mut all = Vec::new();
        loop {
            let chunk = tokio::select! {
                biased;
                chunk = recv.read_chunk(7) => chunk.unwrap(),
                () = tokio::task::yield_now() => continue,
            };
            match chunk {
                Some(chunk) => all.extend_from_slice(&chunk.bytes),
                None => return all,
            }
        }
    };
    let ((), all) = timeout(BOUND, async { tokio::join!(writing, reading) }).await.unwrap();
    assert_eq!(all, (0..100_u8).flat_map(|nth| [nth; 10]).collect::<Vec<_>>());
}

#[tokio::test]
async fn closing_ends_what_waits_on_both_sides() {
    let [here, there] = pair(0, 0).await;
    let mut send = here.open_uni().await.unwrap();
    let writer = tokio::spawn(async move {
        // Nobody reads, so this is stuck before its end.
        send.write_all(&vec![0; 100 << 20]).await
    });
    let mut recv = timeout(BOUND, there.accept_uni()).await.unwrap().unwrap();
    let waits = there.clone();
    let waits = tokio::spawn(async move {
        tokio::join!(waits.read_datagram(), waits.accept_bi(), waits.open_bi(), waits.closed())
    });
    tokio::task::yield_now().await;
    here.close(VarInt::from_u32(7), b"enough");
    let local = ConnectionError::LocallyClosed;
    let wrote = timeout(BOUND, writer).await.unwrap().unwrap();
    assert_eq!(wrote, Err(WriteError::ConnectionLost(local.clone())));
    assert_eq!(here.send_datagram("x".into()), Err(SendDatagramError::ConnectionLost(local)));
    let (datagram, bi, _open, closed) = timeout(BOUND, waits).await.unwrap().unwrap();
    assert_eq!(datagram, Err(closed_with(7, b"enough")));
    assert_eq!(bi.err(), Some(closed_with(7, b"enough")));
    assert_eq!(closed, closed_with(7, b"enough"));
    let lost = loop {
        // What arrived before is still read.
        match recv.read_chunk(1 << 20).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(lost, ReadError::ConnectionLost(closed_with(7, b"enough")));
    there.close(VarInt::from_u32(1), b"");
    assert_eq!(there.close_reason(), Some(closed_with(7, b"enough")), "the first reason counts");
}

#[tokio::test]
async fn the_last_handle_closes_a_connection_and_a_stream_is_a_handle() {
    let [here, there] = pair(0, 0).await;
    let mut send = here.open_uni().await.unwrap();
    drop(here);
    send.write_all(b"still open").await.unwrap();
    let mut recv = timeout(BOUND, there.accept_uni()).await.unwrap().unwrap();
    assert_eq!(recv.read_chunk(99).await.unwrap().unwrap().bytes, "still open");
    assert_eq!(there.close_reason(), None);
    drop(send);
    assert_eq!(timeout(BOUND, there.closed()).await.unwrap(), closed_with(0, b""));
}

#[tokio::test]
async fn datagrams_wait_for_room_or_make_it() {
    let [here, there] = pair(0, 3).await;
    let space = here.datagram_send_buffer_space();
    for _ in 0..2 * space / 1000 {
        here.send_datagram(vec![0; 1000].into()).unwrap();
    }
    assert_eq!(here.send_datagram(vec![0; 9000].into()), Err(SendDatagramError::TooLarge));
    let waiting = timeout(BOUND, here.send_datagram_wait(vec![1; 1000].into()));
    let reading = async {
        loop {
            if there.read_datagram().await.unwrap() == vec![1; 1000] {
                return;
            }
        }
    };
    let (sent, read) = tokio::join!(waiting, timeout(BOUND, reading));
    sent.unwrap().unwrap();
    read.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_at_once_are_served_and_forgotten() {
    let net = Net::default();
    serve(1000, net.socket("10.0.0.1:1", 0, 0), net.socket("10.0.0.2:2", 0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sockets_of_the_system_serve_as_well() {
    serve(20, real(), real()).await;
}

/// So many connections at once, from their beginning to their end.
async fn serve(connections: u32, there: Arc<dyn AsyncUdpSocket>, here: Arc<dyn AsyncUdpSocket>) {
    let (server, client) = configs();
    let there = endpoint(Some(server), there);
    let here = endpoint(None, here);
    let addr = there.local_addr().unwrap();
    let accepting = there.clone();
    let served = tokio::spawn(async move {
        let mut served = JoinSet::new();
        while let Some(incoming) = accepting.accept().await {
            served.spawn(async move {
                let connection = incoming.accept().unwrap().await.unwrap();
                let datagram = connection.read_datagram().await.unwrap();
                connection.send_datagram(datagram).unwrap();
                connection.closed().await
            });
        }
        served.join_all().await
    });
    let mut clients = JoinSet::new();
    for nth in 0..connections {
        let connecting = here.connect_with(client.clone(), addr, "roost").unwrap();
        clients.spawn(async move {
            let connection = connecting.await.unwrap();
            let mine = Bytes::copy_from_slice(&nth.to_le_bytes());
            loop {
                // The kernel may lose some.
                connection.send_datagram(mine.clone()).unwrap();
                if let Ok(echo) = timeout(Duration::from_secs(1), connection.read_datagram()).await
                {
                    assert_eq!(echo.unwrap(), mine);
                    return connection;
                }
            }
        });
    }
    let clients = timeout(BOUND, clients.join_all()).await.unwrap();
    let all = connections as usize;
    assert_eq!((here.open_connections(), there.open_connections()), (all, all));
    there.close(VarInt::from_u32(3), b"done");
    for connection in &clients {
        let closed = timeout(BOUND, connection.closed()).await.unwrap();
        assert_eq!(closed, closed_with(3, b"done"));
    }
    assert_eq!(timeout(BOUND, served).await.unwrap().unwrap().len(), all);
    timeout(BOUND, async { tokio::join!(here.wait_idle(), there.wait_idle()) }).await.unwrap();
    assert_eq!((here.open_connections(), there.open_connections()), (0, 0));
    let refused = here.connect_with(client, addr, "roost").unwrap().await;
    assert!(refused.is_err(), "a closed endpoint takes nobody");
}

#[tokio::test]
async fn a_silent_connection_ends_in_time() {
    let (server, mut client) = configs();
    let idle = Duration::from_millis(500);
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(idle).unwrap()));
    client.transport_config(Arc::new(transport));
    let net = Net::default();
    let there = endpoint(Some(server), net.socket("10.0.0.1:1", 0, 0));
    let here = endpoint(None, net.socket("10.0.0.2:2", 0, 0));
    let [connection, _other] = connected(&here, &client, &there).await;
    let _deaf = net.socket("10.0.0.2:2", 0, 0);
    let from = Instant::now();
    assert_eq!(timeout(BOUND, connection.closed()).await.unwrap(), ConnectionError::TimedOut);
    assert!(from.elapsed() >= idle / 2, "not before its time");
    timeout(BOUND, here.wait_idle()).await.unwrap();
}

#[tokio::test]
async fn who_has_forgotten_a_connection_says_so() {
    let (server, client) = configs();
    let net = Net::default();
    let there = endpoint(Some(server.clone()), net.socket("10.0.0.1:1", 0, 0));
    let here = endpoint(None, net.socket("10.0.0.2:2", 0, 0));
    let [connection, _forgotten] = connected(&here, &client, &there).await;
    let _reborn = endpoint(Some(server), net.socket("10.0.0.1:1", 0, 0));
    connection.send_datagram(vec![0; 200].into()).unwrap();
    assert_eq!(timeout(BOUND, connection.closed()).await.unwrap(), ConnectionError::Reset);
}

#[tokio::test]
async fn a_flood_of_connection_attempts_is_bounded() {
    let (server, client) = configs();
    let net = Net::default();
    let there = endpoint(Some(server), net.socket("10.0.0.1:1", 0, 0));
    let here = endpoint(None, net.socket("10.0.0.2:2", 0, 0));
    let to = there.local_addr().unwrap();
    let connect = || here.connect_with(client.clone(), to, "roost").unwrap();
    let flood: Vec<_> = (0..INCOMING_MAX + 50).map(|_| connect()).collect();
    let dropped = there.dropped();
    let counted = async {
        while dropped.incoming.load(Relaxed) < 50 {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, counted).await.unwrap();
    assert_eq!(there.waiting(), INCOMING_MAX);
    drop(flood);
    // One that is ignored is tried again, and has its turn.
    let served = async {
        loop {
            let Some(incoming) = there.accept().await else { return };
            if let Ok(connecting) = incoming.accept() {
                tokio::spawn(connecting);
            }
        }
    };
    tokio::select! {
        () = served => {}
        connected = timeout(BOUND, connect()) => drop(connected.unwrap().unwrap()),
    }
}

#[tokio::test]
async fn an_attempt_is_refused_ignored_or_has_to_prove_its_address() {
    let (server, client) = configs();
    let net = Net::default();
    let there = endpoint(Some(server), net.socket("10.0.0.1:1", 0, 0));
    let here = endpoint(None, net.socket("10.0.0.2:2", 0, 0));
    let to = there.local_addr().unwrap();
    let connect = || here.connect_with(client.clone(), to, "roost").unwrap();
    let (refused, ()) = tokio::join!(timeout(BOUND, connect()), async {
        let incoming = there.accept().await.unwrap();
        assert_eq!(incoming.remote_address(), here.local_addr().unwrap());
        drop(incoming);
    });
    assert!(matches!(refused.unwrap(), Err(ConnectionError::ConnectionClosed(_))));
    let (proved, ()) = tokio::join!(timeout(BOUND, connect()), async {
        there.accept().await.unwrap().ignore();
        let again = there.accept().await.unwrap();
        assert!(!again.remote_address_validated() && again.may_retry());
        again.retry();
        let proved = there.accept().await.unwrap();
        assert!(proved.remote_address_validated());
        proved.accept().unwrap().await.unwrap();
    });
    drop(proved.unwrap().unwrap());
}

#[tokio::test]
async fn an_endpoint_without_handles_ends_with_its_last_connection() {
    let (server, client) = configs();
    let net = Net::default();
    let there = endpoint(Some(server), net.socket("10.0.0.1:1", 0, 0));
    let here = endpoint(None, net.socket("10.0.0.2:2", 0, 0));
    let [connection, other] = connected(&here, &client, &there).await;
    let weak = Arc::downgrade(&here.0);
    drop(here);
    other.send_datagram("still".into()).unwrap();
    assert_eq!(timeout(BOUND, connection.read_datagram()).await.unwrap().unwrap(), "still");
    drop(connection);
    let gone = async {
        while weak.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(BOUND, gone).await.unwrap();
}
