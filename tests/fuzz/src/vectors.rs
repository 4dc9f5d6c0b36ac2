//! The test vectors of `docs/protocol.md`.

use std::collections::{BTreeMap, BTreeSet};

use roost::accounts;
use roost::admission::{Invitation, Keypair, Roster, StatementDigest, mesh_id};
use roost::directory::{Delta, Digest, Entry, Floor, Header, SourceState};
use roost::grow::Later;
use roost::id::{AccountId, ActorId, Boot, EncoderId, Epoch, InviteId, MeshId, NodeId};
use roost::media::Packet;
use roost::placement::balance;
use roost::wire::{
    self, Answer, ApiMessage, ApiRequest, Ask, AskViewers, ClientHello, ClientMessage, Demand,
    Failed, FlowRef, Follow, Handshake, Heartbeat, Keep, LinkMessage, MediaMessage, MemberState,
    Message, NodeMessage, Register, Registered, Role, StreamPlace, Subscribe, Watch,
};

const NODE: NodeId = NodeId([0x11; 16]);
const NEXT: NodeId = NodeId([0x22; 16]);
const ENCODER: EncoderId = EncoderId([0x33; 16]);
const EPOCH: Epoch = Epoch { counter: 5, instance: 300 };

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// What, and its bytes or text as documented.
pub(crate) fn all() -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    let mut framed = |what, bytes: Vec<u8>| out.push((what, hex(&bytes)));
    framed("Handshake Keep: order 7", Handshake::Keep(Keep { order: 7 }).frame());
    let state = MemberState { bytes: vec![1, 2, 3], reply: true };
    framed("LinkMessage Members: bytes 01 02 03, reply", LinkMessage::Members(state).frame());
    let digest = Digest { of: BTreeMap::from([(NODE, (Boot(2), 130))]), only: false };
    framed(
        "LinkMessage DirectoryDigest: 11.. has boot 2, sequence 130",
        LinkMessage::DirectoryDigest(digest).frame(),
    );
    framed("LinkMessage DirectoryDelta", LinkMessage::DirectoryDelta(delta()).frame());
    let digest = StatementDigest { count: 3, hash: [0x44; 16] };
    framed("LinkMessage StatementDigest: 3, 44..", LinkMessage::StatementDigest(digest).frame());
    let actor = ActorId(NODE.0);
    let digest = accounts::Digest { clock: 5, state: 6, actor: Some(actor) };
    framed("LinkMessage LedgerDigest: 5, 6, actor 11..", LinkMessage::LedgerDigest(digest).frame());
    let have = accounts::Have { upto: vec![(actor, 300)] };
    framed("LinkMessage LedgerHave: 11.. up to 300", LinkMessage::LedgerHave(have).frame());
    let ask = balance::Ask {
        ticket: 7,
        encoders: vec![ENCODER],
        count: 300,
        weight: 1_000,
        to_even: true,
    };
    framed(
        "LinkMessage BalanceAsk: 7, 33.., has 300, weight 1000, to even",
        LinkMessage::BalanceAsk(ask).frame(),
    );
    let refused = Some(balance::Refusal::Full);
    let answer = balance::Answer { ticket: 7, refused, count: 299 };
    framed(
        "LinkMessage BalanceAnswer: 7, full, has 299",
        LinkMessage::BalanceAnswer(answer).frame(),
    );
    let release = balance::Release { ticket: 7, encoders: vec![ENCODER] };
    framed("LinkMessage BalanceRelease: 7, 33..", LinkMessage::BalanceRelease(release).frame());
    let floor = Floor { encoder: ENCODER, epoch: EPOCH };
    framed("LinkMessage DirectoryFloor", LinkMessage::DirectoryFloor(floor).frame());
    let mut record = accounts::Record::default();
    let dot = accounts::Dot { actor, seq: 2, nonce: [1, 2, 3, 4] };
    let by = accounts::Stamp { account: AccountId(ENCODER.0), node: NEXT, wall: 1000 };
    let changes = [accounts::Change::Set(1, b"cam".to_vec()), accounts::Change::Disable];
    let _ = record.apply(dot, by, &changes);
    framed(
        "a record: field 1 is \"cam\", disabled; actor 11.., number 2, nonce 01020304, account \
         33.., node 22.., at 1000",
        record.encode(),
    );
    framed("Ask Viewers: of 33..", Ask::Viewers(AskViewers { encoder: Some(ENCODER) }).frame());
    let failed = Failed { status: 409, reason: "no".into(), retry_after: Some(2) };
    framed("Answer Failed: 409, \"no\", again in 2 s", Answer::Failed(failed).frame());
    let subscribe = Subscribe { encoder: ENCODER, flow: 70, hops: vec![NODE], viewers: 2 };
    framed("MediaMessage Subscribe", MediaMessage::Subscribe(subscribe).frame());
    framed("MediaMessage Keyframe: flow 70", MediaMessage::Keyframe(FlowRef { flow: 70 }).frame());
    let (agent, version) = ("roost view".into(), "0.1.0".into());
    let hello = ClientHello { agent, version, credential: None, only_api: false };
    framed("ClientMessage Hello", ClientMessage::Hello(hello).frame());
    let register = Register {
        encoder: ENCODER,
        name: "cam".into(),
        role: Role::Home,
        epoch: EPOCH,
        source: SourceState::Ready,
        home: None,
        lost_ms: None,
        why: None,
    };
    framed("ClientMessage Register", ClientMessage::Register(register).frame());
    let watch = Watch { encoder: ENCODER, stay: true };
    framed("ClientMessage Watch: stay", ClientMessage::Watch(watch).frame());
    framed(
        "ClientMessage Follow: cam",
        ClientMessage::Follow(Follow { name: "cam".into() }).frame(),
    );
    let registered = Registered { role: Role::Home, epoch: EPOCH, next: Some(NEXT) };
    framed("NodeMessage Registered", NodeMessage::Registered(registered).frame());
    let demand = Demand { watched: true, also: false, viewers: 3 };
    framed("NodeMessage Demand: watched by 3", NodeMessage::Demand(demand).frame());
    let place = StreamPlace {
        name: "cam".into(),
        encoder: Some(ENCODER),
        home: Some(NODE),
        next: None,
        epoch: EPOCH,
        source: Some(SourceState::NoSignal("dark".into())),
    };
    framed("NodeMessage Stream", NodeMessage::Stream(place).frame());
    let (method, path) = ("GET".to_owned(), "/livez".to_owned());
    let headers = vec![("accept".to_owned(), "*/*".to_owned())];
    let request = ApiRequest { method, path, headers, body: Vec::new() };
    framed("ApiMessage Request: GET /livez, accept: */*", ApiMessage::Request(request).frame());
    framed("heartbeat Ping 258", Heartbeat::Ping(258).encode());
    framed("heartbeat Pong 258", Heartbeat::Pong(258).encode());
    framed("flow ids 63, 64, 16384", {
        let mut bytes = Vec::new();
        for flow in [63, 64, 16_384] {
            wire::put_varint(flow, &mut bytes);
        }
        bytes
    });
    framed("video on flow 1", {
        let mut bytes = Vec::new();
        wire::put_varint(wire::FLOW_VIDEO, &mut bytes);
        let payload = [0x41, 0x9a].as_slice().into();
        let packet = Packet { sequence: 256, timestamp: 6000, marker: true, payload };
        packet.write(96, roost::flow::ssrc(EPOCH.instance), &mut bytes);
        bytes
    });
    out.extend(keys());
    out
}

fn delta() -> Delta {
    let entry = Entry {
        name: "cam".into(),
        epoch: EPOCH,
        next: Some(NEXT),
        source: SourceState::Ready,
        viewers: 1,
        why: String::new(),
        stays: false,
        later: Later::default(),
    };
    let header = Header {
        name: "n1".into(),
        addrs: vec!["a:1".into()],
        lacking: BTreeSet::from([NEXT]),
        draining: false,
        cordoned: false,
        capacity: None,
        limit: None,
        measured: 200,
        later: Later::default(),
    };
    let entries = vec![(ENCODER, Some(entry)), (EncoderId([0x55; 16]), None)];
    Delta { origin: NODE, boot: Boot(2), from: 129, to: 130, header: Some(header), entries }
}

/// A founder with the private key 01.., the nonce 09.., and an invitation by it.
fn keys() -> Vec<(&'static str, String)> {
    let founder = Keypair::from_seed([1; 32]);
    let roster = Roster::found(&founder, [9; 16]);
    let admission = roster.admissions().next().expect("the founder's own").clone();
    let mesh: MeshId = mesh_id(&admission);
    let (id, secret) = (InviteId([6; 16]), [8; 32]);
    let addrs = vec!["192.0.2.1:9443".to_owned()];
    let invitation = Invitation::make(&founder, mesh, addrs, id, secret, 1_800_000_000_000, 3);
    vec![
        ("public key", hex(&founder.public())),
        ("NodeId", founder.node().to_string()),
        ("MeshId", mesh.to_string()),
        ("the founder's admission", hex(&postcard::to_allocvec(&admission).unwrap_or_default())),
        ("invitation", invitation.to_string()),
    ]
}
