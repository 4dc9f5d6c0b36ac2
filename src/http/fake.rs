//! A mesh in one process, for tests of everything that browsers touch: each node has its own UDP
//! and TCP port and its own WebRTC sessions, and all share one stream.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::backend::*;
use super::*;
use crate::cluster::{ClusterView, EncoderState, EncoderView, Liveness, NodeView};
use crate::id::{Boot, EncoderId, Epoch, MeshId, NodeId};
use crate::hub::Live;
use crate::media::{Frame, Packet};
use crate::webrtc::{Feed, Outlet, WebRtc};
use crate::wire::{Failed, Offer, SdpAnswer};

pub(super) const CAM: EncoderId = EncoderId([9; 16]);

/// What all fake nodes share.
pub(super) struct FakeMesh {
    pub(super) nodes: Mutex<Vec<Arc<FakeNode>>>,
    pub(super) view: Mutex<ClusterView>,
    changes: watch::Sender<u64>,
    gop: Mutex<VecDeque<Live>>,
    receivers: Mutex<Vec<mpsc::Sender<Live>>>,
    pub(super) keyframe_requests: AtomicU32,
}

pub(super) struct FakeNode {
    mesh: Arc<FakeMesh>,
    pub(super) id: NodeId,
    webrtc: WebRtc,
    pub(super) alive: Arc<AtomicBool>,
    pub(super) draining: AtomicBool,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    pub(super) playing: Mutex<Vec<(String, String)>>,
}

struct Udp {
    socket: Arc<UdpSocket>,
    alive: Arc<AtomicBool>,
}

impl Outlet for Udp {
    fn send(
        &self,
        to: SocketAddr,
        _from: Option<IpAddr>,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        if self.alive.load(Ordering::Relaxed) {
            for datagram in contents.chunks(segment_size.unwrap_or(contents.len())) {
                self.socket.try_send_to(datagram, to)?;
            }
        }
        Ok(())
    }
}

pub(super) fn id_of(number: usize) -> NodeId {
    NodeId([number as u8 + 1; 16])
}

impl FakeMesh {
    /// `count` nodes; the stream `cam` is at home at the first, its next is the second.
    pub(super) async fn start(count: usize) -> Arc<Self> {
        let encoder = EncoderView {
            id: CAM,
            name: "cam".into(),
            home: Some(id_of(0)),
            home_name: Some("n1".into()),
            next: Some(id_of(1)),
            next_name: Some("n2".into()),
            epoch: Epoch { counter: 1, instance: u64::MAX },
            state: EncoderState::Live,
            reason: None,
            viewers: 0,
        };
        let view = ClusterView {
            mesh: MeshId([1; 16]),
            node: id_of(0),
            name: "n1".into(),
            boot: Boot(1),
            nodes: Vec::new(),
            encoders: vec![encoder],
        };
        let mesh = Arc::new(Self {
            nodes: Mutex::default(),
            view: Mutex::new(view),
            changes: watch::Sender::new(0),
            gop: Mutex::default(),
            receivers: Mutex::default(),
            keyframe_requests: AtomicU32::new(0),
        });
        for number in 0..count {
            mesh.clone().start_node(number).await;
        }
        mesh
    }

    async fn start_node(self: Arc<Self>, number: usize) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let alive = Arc::new(AtomicBool::new(true));
        let outlet = Udp { socket: socket.clone(), alive: alive.clone() };
        let webrtc = WebRtc::new(Arc::new(outlet), &[socket.local_addr().unwrap()]).unwrap();
        let address = listener.local_addr().unwrap();
        let node = Arc::new(FakeNode {
            mesh: self.clone(),
            id: id_of(number),
            webrtc: webrtc.clone(),
            alive: alive.clone(),
            draining: AtomicBool::new(false),
            tasks: Mutex::default(),
            playing: Mutex::default(),
        });
        self.view.lock().unwrap().nodes.push(NodeView {
            node: node.id,
            name: format!("n{}", number + 1),
            state: Liveness::Up,
            addrs: vec![address.to_string()],
            linked: true,
            rtt_ms: Some(0.3),
            draining: false,
            encoders: 0,
            viewers: 0,
            report: None,
        });
        let udp = tokio::spawn(async move {
            let mut buffer = vec![0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let bytes = Bytes::copy_from_slice(&buffer[..length]);
                if alive.load(Ordering::Relaxed) {
                    webrtc.receive(from, Some([127, 0, 0, 1].into()), bytes);
                }
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let tls = tls::load_or_make(folder.path(), &[]).unwrap();
        let counters = Arc::new(ServerCounters::default());
        let router = router(node.clone(), counters.clone());
        let tcp = tokio::spawn(async move {
            let (_running, stop) = watch::channel(false);
            serve(listener, tls, router, counters, stop).await;
        });
        node.tasks.lock().unwrap().extend([udp, tcp]);
        self.nodes.lock().unwrap().push(node);
    }

    pub(super) fn node(&self, number: usize) -> Arc<FakeNode> {
        self.nodes.lock().unwrap()[number].clone()
    }

    pub(super) fn change(&self, edit: impl FnOnce(&mut ClusterView)) {
        edit(&mut self.view.lock().unwrap());
        self.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn push(&self, frame: Arc<Frame>) {
        let mut gop = self.gop.lock().unwrap();
        if frame.keyframe {
            gop.clear();
        }
        let live = Live { timeline: 1, frame };
        gop.push_back(live.clone());
        self.receivers.lock().unwrap().retain(|receiver| {
            !matches!(receiver.try_send(live.clone()), Err(mpsc::error::TrySendError::Closed(_)))
        });
    }

    /// As after SIGKILL: nothing is sent any more, TCP connections break; the others notice, and
    /// the encoder moves.
    pub(super) async fn kill(&self, number: usize) {
        let node = self.node(number);
        node.alive.store(false, Ordering::Relaxed);
        for task in node.tasks.lock().unwrap().drain(..) {
            task.abort();
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        self.change(|view| {
            let up: Vec<_> = view
                .nodes
                .iter_mut()
                .filter_map(|of| {
                    if of.node == node.id {
                        of.state = Liveness::Down;
                    }
                    (of.state == Liveness::Up).then_some(of.node)
                })
                .collect();
            let encoder = &mut view.encoders[0];
            if encoder.home == Some(node.id) {
                encoder.home = encoder.next.take();
                encoder.epoch.counter += 1;
            }
            encoder.next = up.into_iter().find(|up| Some(*up) != encoder.home);
        });
    }
}

#[async_trait]
impl Backend for FakeNode {
    fn view(&self) -> Arc<ClusterView> {
        let mut view = self.mesh.view.lock().unwrap().clone();
        view.node = self.id;
        Arc::new(view)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.mesh.changes.subscribe()
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn checks(&self) -> Vec<Check> {
        vec![Check { name: "store", error: None }]
    }

    fn authorise(&self, remote: IpAddr, token: Option<&str>) -> Result<Principal, Denied> {
        match token {
            Some("good") => Ok(Principal::new("client")),
            Some(_) => Err(Denied { bad_credential: true, reason: "unknown credential".into() }),
            None if remote.is_loopback() => Ok(Principal::new("loopback")),
            None => Err(Denied { bad_credential: false, reason: "a credential is needed".into() }),
        }
    }

    fn resolve(&self, name: &str) -> Option<EncoderId> {
        (name == "cam").then_some(CAM)
    }

    fn webrtc(&self) -> &WebRtc {
        &self.webrtc
    }

    async fn signal(self: Arc<Self>, to: NodeId, offer: Offer) -> Result<SdpAnswer, Failed> {
        let node = self.mesh.nodes.lock().unwrap().iter().find(|node| node.id == to).cloned();
        match node.filter(|node| node.alive.load(Ordering::Relaxed)) {
            Some(node) => leg::accept(node, &offer),
            None => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let reason = "that node does not answer".to_owned();
                Err(Failed { status: 502, reason, retry_after: None })
            }
        }
    }

    async fn play(&self, _encoder: EncoderId) -> Result<Feed, Failed> {
        let (sender, frames) = mpsc::channel(64);
        let start = self.mesh.gop.lock().unwrap().iter().cloned().collect();
        self.mesh.receivers.lock().unwrap().push(sender);
        Ok(Feed { start, frames, hold: Box::new(()) })
    }

    fn request_keyframe(&self, _encoder: EncoderId) {
        self.mesh.keyframe_requests.fetch_add(1, Ordering::Relaxed);
    }

    fn leg_changed(&self, leg: &str, change: LegChange<'_>) {
        self.playing.lock().unwrap().push((leg.to_owned(), format!("{change:?}")));
    }

    fn invite(&self, terms: InviteTerms) -> Result<String, Failed> {
        Ok(format!("roost1-{}-{}-{}", terms.uses, terms.lifetime.as_secs(), terms.client))
    }

    fn redirect_token(&self, node: NodeId, _encoder: EncoderId, _principal: &Principal) -> String {
        format!("rt-{node}")
    }

    fn check_redirect(&self, token: &str, _encoder: EncoderId) -> Option<Principal> {
        (token == format!("rt-{}", self.id)).then(|| Principal::new("redirected"))
    }

    async fn viewers(&self, _encoder: Option<EncoderId>) -> ViewersView {
        ViewersView::default()
    }

    fn metrics(&self) -> MetricsSnapshot {
        MetricsSnapshot { viewers: [("webrtc", 2)].into(), ..Default::default() }
    }
}

/// Frames of an Annex B file of H.264 without B-frames, packetised (RFC 6184, FU-A).
pub(super) fn frames_of(annex_b: &[u8], interval: u32) -> Vec<Frame> {
    let mut units: Vec<&[u8]> = Vec::new();
    let mut start = None;
    let mut at = 0;
    while at + 3 <= annex_b.len() {
        if annex_b[at..at + 3] == [0, 0, 1] {
            if let Some(start) = start {
                units.push(trim(&annex_b[start..at]));
            }
            start = Some(at + 3);
            at += 3;
        } else {
            at += 1;
        }
    }
    units.push(trim(&annex_b[start.unwrap()..]));
    let mut frames = Vec::new();
    let (mut sequence, mut timestamp) = (0u16, 0u32);
    let mut packets: Vec<Packet> = Vec::new();
    for unit in units.into_iter().filter(|unit| !unit.is_empty()) {
        let kind = unit[0] & 0x1f;
        let mut put = |payload: Vec<u8>| {
            packets.push(Packet { sequence, timestamp, marker: false, payload: payload.into() });
            sequence = sequence.wrapping_add(1);
        };
        if unit.len() <= 1100 {
            put(unit.to_vec());
        } else {
            let pieces: Vec<_> = unit[1..].chunks(1100).collect();
            for (i, piece) in pieces.iter().enumerate() {
                let flags = u8::from(i == 0) << 7 | u8::from(i + 1 == pieces.len()) << 6 | kind;
                put([&[unit[0] & 0x60 | 28, flags], *piece].concat());
            }
        }
        if matches!(kind, 1 | 5) {
            let mut done = std::mem::take(&mut packets);
            done.last_mut().unwrap().marker = true;
            frames.push(Frame { packets: done, keyframe: kind == 5 });
            timestamp = timestamp.wrapping_add(interval);
        }
    }
    frames
}

fn trim(unit: &[u8]) -> &[u8] {
    let end = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &unit[..end]
}

/// Serves three nodes with a real picture until told otherwise on standard input: `kill N`,
/// `signal REASON`, `live`. For looking at the pages with a browser.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "serves until standard input ends"]
async fn a_fake_mesh_can_be_looked_at() {
    use tokio::io::AsyncBufReadExt as _;
    let file = std::env::var("ROOST_TEST_H264").unwrap();
    let fps: u32 = std::env::var("ROOST_TEST_FPS").map_or(25, |fps| fps.parse().unwrap());
    let frames = frames_of(&std::fs::read(file).unwrap(), 90_000 / fps);
    let mesh = FakeMesh::start(3).await;
    let ports: Vec<_> =
        mesh.view.lock().unwrap().nodes.iter().map(|node| node.addrs[0].clone()).collect();
    println!("READY {}", ports.join(" "));
    let source = mesh.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / fps);
        let (mut sequence, mut timestamp) = (0u16, 0u32);
        loop {
            for frame in &frames {
                tick.tick().await;
                let mut frame = frame.clone();
                for packet in &mut frame.packets {
                    packet.sequence = sequence;
                    packet.timestamp = timestamp;
                    sequence = sequence.wrapping_add(1);
                }
                timestamp = timestamp.wrapping_add(90_000 / fps);
                source.push(Arc::new(frame));
            }
        }
    });
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("kill", number) => mesh.kill(number.parse().unwrap()).await,
            ("signal", reason) => mesh.change(|view| {
                view.encoders[0].state = EncoderState::NoSignal;
                view.encoders[0].reason = Some(reason.to_owned());
            }),
            ("live", _) => mesh.change(|view| view.encoders[0].state = EncoderState::Live),
            ("home", number) => mesh.change(|view| {
                let home = id_of(number.parse().unwrap());
                let encoder = &mut view.encoders[0];
                encoder.next = encoder.home.replace(home);
                encoder.epoch.counter += 1;
            }),
            _ => println!("unknown"),
        }
    }
}
