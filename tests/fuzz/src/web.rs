//! What browsers, pages and reports say, and the port that all datagrams come to.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use roost::access::Principal;
use roost::http::leg::PageMessage;
use roost::id::{EncoderId, NodeId};
use roost::net::gossip;
use roost::net::mux::{Kind, kind};
use roost::webrtc::sdp::{AnswerParts, Direction, parse_offer};
use roost::webrtc::{Accepted, LegEvent, Outlet, WebRtc};
use roost::wire::{
    Answer, ApiMessage, ApiRequest, ApiResponse, Ask, AskViewers, Failed, FlowRef, MediaMessage,
    Message, Offer, SdpAnswer, Subscribe,
};

use super::chunks;

const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 102 103 108 109\r\na=mid:0\r\na=recvonly\r\n\
    a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n\
    a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:\
18:19:1A:1B:1C:1D:1E:1F\r\n\
    a=setup:actpass\r\na=rtcp-mux\r\na=rtcp-rsize\r\n\
    a=rtpmap:102 H264/90000\r\n\
    a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f\r\n\
    a=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\n\
    a=rtpmap:108 H264/90000\r\n\
    a=fmtp:108 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
    a=rtpmap:109 rtx/90000\r\na=fmtp:109 apt=108\r\n\
    m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:1\r\na=sctp-port:5000\r\n";

/// Offers of viewers and publishers.
pub fn sdp(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for (direction, way) in [(Direction::Out, "a=sendonly"), (Direction::In, "a=recvonly")] {
        answer_to(&text, direction, way);
    }
}

fn answer_to(text: &str, direction: Direction, way: &str) {
    let Ok(offer) = parse_offer(text, direction) else { return };
    let candidates = ["candidate:1 1 udp 1 192.0.2.1 9443 typ host".to_owned()];
    let answer = offer.answer(&AnswerParts {
        id: 7,
        ufrag: "uuuu",
        password: "0123456789012345678901",
        fingerprint: "sha-256 AA",
        candidates: &candidates,
        ssrc: 1,
        rtx_ssrc: offer.codec.rtx.map(|_| 2),
    });
    // What a stranger wrote does not become lines of ours.
    assert!(answer.lines().all(|line| line.as_bytes().get(1) == Some(&b'=')));
    assert_eq!(answer.matches(way).count(), 1);
}

/// What pages say on their data channels.
pub fn page(data: &[u8]) {
    let _ = PageMessage::read(data);
}

/// Messages of the reports' gossip.
pub fn gossip(data: &[u8]) {
    let _ = gossip::readable(data);
    // The same bytes compressed, which no fuzzer would guess.
    if let Ok(packed) = zstd::bulk::compress(data, 1) {
        let _ = gossip::readable(&packed);
    }
}

struct Nowhere;

impl Outlet for Nowhere {
    fn send(
        &self,
        _to: SocketAddr,
        _from: Option<IpAddr>,
        _contents: &[u8],
        _segment_size: Option<usize>,
    ) -> std::io::Result<()> {
        Ok(())
    }
}

/// A node's WebRTC with one browser's leg.
struct Door {
    runtime: tokio::runtime::Runtime,
    webrtc: WebRtc,
    leg: Accepted,
    ufrag: String,
    closed: bool,
}

impl Door {
    fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime needs nothing here");
        let here = SocketAddr::from(([192, 0, 2, 1], 9443));
        let webrtc = WebRtc::new(Arc::new(Nowhere), &[here]).expect("one candidate is enough");
        let entered = runtime.enter();
        let leg = webrtc.accept(OFFER).expect("the offer is good");
        drop(entered);
        let ufrag = leg.answer_sdp.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:"));
        let ufrag = ufrag.expect("every answer names one").to_owned();
        Self { runtime, webrtc, leg, ufrag, closed: false }
    }

    /// A leg ends for a reason, and says it; a task that panicked says nothing.
    fn is_open(&mut self) -> bool {
        use tokio::sync::mpsc::error::TryRecvError;
        loop {
            match self.leg.events.try_recv() {
                Ok(event) => self.closed |= matches!(event, LegEvent::Closed(_)),
                Err(TryRecvError::Empty) => return !self.closed,
                Err(TryRecvError::Disconnected) => {
                    assert!(self.closed, "a leg's task ended without a word");
                    return false;
                }
            }
        }
    }
}

thread_local! {
    static DOOR: RefCell<Option<Door>> = const { RefCell::new(None) };
}

/// Datagrams at the shared port: which protocol, which leg, and what that leg makes of them.
/// A chunk of an odd kind is put behind a STUN header that names the leg.
pub fn port(data: &[u8]) {
    let _ = data.first().map(|first| kind(*first));
    DOOR.with_borrow_mut(|door| {
        if !door.as_mut().is_some_and(Door::is_open) {
            *door = Some(Door::open());
        }
        let Some(door) = door else { return };
        for (what, body) in chunks::read(data).take(50) {
            let bytes = if what % 2 == 1 { stun(&door.ufrag, body) } else { body.to_vec() };
            if bytes.first().is_none_or(|first| kind(*first) != Kind::WebRtc) {
                continue;
            }
            let from = SocketAddr::from(([192, 0, 2, 9], 4000 + u16::from(what >> 5)));
            door.webrtc.receive(from, None, bytes.into());
            door.runtime.block_on(async {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            });
        }
        door.is_open();
    });
}

/// A binding request (RFC 8489) for this leg, with `rest` as further attributes.
fn stun(ufrag: &str, rest: &[u8]) -> Vec<u8> {
    let name = format!("{ufrag}:abcd");
    let mut attributes = vec![0, 6];
    attributes.extend_from_slice(&(name.len() as u16).to_be_bytes());
    attributes.extend_from_slice(name.as_bytes());
    attributes.resize(attributes.len().next_multiple_of(4), 0);
    attributes.extend_from_slice(&rest[..rest.len().min(1000) & !3]);
    let mut out = vec![0, 1];
    out.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
    out.extend_from_slice(&[0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    out.extend_from_slice(&attributes);
    out
}

/// Offers with and without what is optional.
pub fn offers() -> Vec<Vec<u8>> {
    let plain = OFFER.split("m=application").next().unwrap_or_default();
    [OFFER, plain, &OFFER.replace("42e01f", "640c1f"), &OFFER.replace("actpass", "passive")]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

/// One message of each kind.
pub fn page_messages() -> Vec<Vec<u8>> {
    [
        r#"{"t":"hello"}"#,
        r#"{"t":"play","epoch":3}"#,
        r#"{"t":"stop","epoch":3}"#,
        r#"{"t":"stop"}"#,
        r#"{"t":"offer","id":1,"to":"next","sdp":"v=0\r\n","warm":true}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// What two nodes' gossip says in its first second and a half, bare and compressed.
pub fn gossip_messages() -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let packed = runtime.map(|runtime| runtime.block_on(listen())).unwrap_or_default();
    let raw = packed.iter().filter_map(|bytes| zstd::bulk::decompress(bytes, gossip::RAW_MAX).ok());
    let raw: Vec<Vec<u8>> = raw.collect();
    packed.into_iter().chain(raw).collect()
}

async fn listen() -> Vec<Vec<u8>> {
    use roost::cluster::NodeReport;
    use roost::id::{Boot, MeshId};
    let (out, mut said) = tokio::sync::mpsc::channel(64);
    let nodes = [NodeId([1; 16]), NodeId([2; 16])];
    let report = NodeReport { version: "0.1.0".into(), ..NodeReport::default() };
    let spawn =
        |node| gossip::Gossip::spawn(node, Boot(1), MeshId([3; 16]), report.clone(), out.clone());
    let gossips = nodes.map(spawn);
    gossips[0].member_up(nodes[1]);
    gossips[1].member_up(nodes[0]);
    let mut all = Vec::new();
    let talk = async {
        while let Some((to, bytes)) = said.recv().await {
            let (from, at) = if to == nodes[0] { (nodes[1], 0) } else { (nodes[0], 1) };
            all.push(bytes.clone());
            gossips[at].deliver(from, bytes);
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(1500), talk).await;
    all
}

/// STUN, DTLS and RTP, as strangers and as the leg's own browser might send them.
pub fn port_scripts() -> Vec<Vec<u8>> {
    let mut script = Vec::new();
    chunks::write(0, &stun("nobody", &[]), &mut script);
    chunks::write(
        1,
        &[0, 0x24, 0, 4, 1, 2, 3, 4, 0x80, 0x2a, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
        &mut script,
    );
    chunks::write(
        1,
        &[0, 8, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0],
        &mut script,
    );
    // A DTLS 1.2 handshake record with the head of a ClientHello.
    let mut hello = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 54];
    hello.extend_from_slice(&[1, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 42, 254, 253]);
    hello.extend_from_slice(&[9; 32]);
    hello.extend_from_slice(&[0, 0, 0, 2, 0xc0, 0x2b, 1, 0]);
    chunks::write(0, &hello, &mut script);
    chunks::write(0, &[23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4], &mut script);
    chunks::write(0, &[0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0x65, 0x88], &mut script);
    chunks::write(0, &[0x81, 201, 0, 1, 0, 0, 0, 1], &mut script);
    vec![script]
}

/// Questions, answers, media and API messages, one of each kind.
pub fn asks() -> Vec<Vec<u8>> {
    let encoder = EncoderId([3; 16]);
    let (sdp, principal) = (OFFER.to_owned(), Principal::local());
    let failed = Failed { status: 503, reason: "full".into(), retry_after: Some(5) };
    let hops = vec![NodeId([1; 16]), NodeId([2; 16])];
    vec![
        Ask::Offer(Offer { encoder, sdp: sdp.clone(), warm: true, principal }).encode(),
        Ask::Viewers(AskViewers { encoder: Some(encoder) }).encode(),
        Answer::Sdp(SdpAnswer { sdp, leg: "0123456789abcdef".into() }).encode(),
        Answer::Failed(failed).encode(),
        MediaMessage::Subscribe(Subscribe { encoder, flow: 5, hops, viewers: 2 }).encode(),
        MediaMessage::Keyframe(FlowRef { flow: 5 }).encode(),
        ApiMessage::Request(ApiRequest {
            method: "GET".into(),
            path: "/api/v1/cluster".into(),
            headers: vec![("if-match".into(), "\"1\"".into())],
            body: Vec::new(),
        })
        .encode(),
        ApiMessage::Response(ApiResponse {
            status: 200,
            headers: vec![("etag".into(), "\"1\"".into())],
            body: b"{}".to_vec(),
        })
        .encode(),
    ]
}
