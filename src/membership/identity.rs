//! What nodes are called in gossip, and how gossip is written.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message};
use serde::{Deserialize, Serialize};

use super::{Counters, Peer};
use crate::id::{Boot, NodeId};

/// The most addresses of one node that gossip carries: one outside and one inside of a NAT.
pub const GOSSIP_ADDRS_MAX: usize = 2;
/// The longest address that gossip carries, in bytes: a datagram names its sender in full and must
/// leave room in [`PACKET_MAX`] for news of at least one other node.
pub const GOSSIP_ADDR_MAX: usize = 200;
/// The largest datagram, in bytes. The smallest QUIC path takes 1,162; the rest is left to
/// whoever prefixes it.
pub const PACKET_MAX: usize = 1100;

/// First byte of a datagram: foca's message follows.
const KIND_SWIM: u8 = 0;
/// First byte of a datagram: a fingerprint of the sender's list follows.
const KIND_DIGEST: u8 = 1;
/// The whole of a datagram that says no more than that its sender is there.
const KIND_BEAT: u8 = 2;

/// A node as gossip knows it. Two are the same if node, boot and generation are; addresses only
/// come along.
#[derive(Debug, Clone, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub(super) struct Identity {
    pub(super) node: NodeId,
    pub(super) boot: Boot,
    /// Counts a node's rebirths within one boot.
    pub(super) generation: u32,
    pub(super) addrs: Vec<String>,
}

#[derive(Deserialize)]
struct Raw {
    node: NodeId,
    boot: Boot,
    generation: u32,
    addrs: Vec<String>,
}

impl TryFrom<Raw> for Identity {
    type Error = &'static str;
    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        let Raw { node, boot, generation, addrs } = raw;
        if addrs.len() > GOSSIP_ADDRS_MAX || addrs.iter().any(|a| a.len() > GOSSIP_ADDR_MAX) {
            return Err("too many or too long addresses");
        }
        Ok(Self { node, boot, generation, addrs })
    }
}

impl Identity {
    pub(super) fn new(peer: &Peer) -> Self {
        let fitting = peer.addrs.iter().filter(|addr| addr.len() <= GOSSIP_ADDR_MAX);
        let addrs = fitting.take(GOSSIP_ADDRS_MAX).cloned().collect();
        Self { node: peer.node, boot: peer.boot, generation: 0, addrs }
    }

    /// What decides between two identities of one node.
    pub(super) fn age(&self) -> (Boot, u32) {
        (self.boot, self.generation)
    }

    pub(super) fn peer(&self) -> Peer {
        Peer { node: self.node, boot: self.boot, addrs: self.addrs.clone() }
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node && self.age() == other.age()
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { generation: self.generation.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.age() > adversary.age()
    }
}

/// An identity without addresses: enough for whoever is spoken to or about.
#[derive(Serialize, Deserialize)]
struct Lean(NodeId, Boot, u32);

impl From<&Identity> for Lean {
    fn from(id: &Identity) -> Self {
        Self(id.node, id.boot, id.generation)
    }
}

impl From<Lean> for Identity {
    fn from(Lean(node, boot, generation): Lean) -> Self {
        Self { node, boot, generation, addrs: Vec::new() }
    }
}

fn convert<A, B>(message: Message<A>, convert: impl Fn(A) -> B) -> Message<B> {
    match message {
        Message::Ping(number) => Message::Ping(number),
        Message::Ack(number) => Message::Ack(number),
        Message::PingReq { target, probe_number } => {
            Message::PingReq { target: convert(target), probe_number }
        }
        Message::IndirectPing { origin, probe_number } => {
            Message::IndirectPing { origin: convert(origin), probe_number }
        }
        Message::IndirectAck { target, probe_number } => {
            Message::IndirectAck { target: convert(target), probe_number }
        }
        Message::ForwardedAck { origin, probe_number } => {
            Message::ForwardedAck { origin: convert(origin), probe_number }
        }
        Message::Announce => Message::Announce,
        Message::Feed => Message::Feed,
        Message::Gossip => Message::Gossip,
        Message::Broadcast => Message::Broadcast,
        Message::TurnUndead => Message::TurnUndead,
    }
}

/// Postcard, with only the sender in full.
#[derive(Debug, Clone, Default)]
pub(super) struct LeanCodec(pub(super) Written);

/// Members that foca wrote down. It does so with whatever it changes in its list, to tell others:
/// whom it has not written is as it was.
#[derive(Debug, Clone, Default)]
pub(super) struct Written(Arc<Mutex<BTreeSet<NodeId>>>);

impl Written {
    /// Those that it wrote since this was asked last.
    pub(super) fn take(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It changes this one without writing it.
    pub(super) fn note(&self, node: NodeId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node);
    }
}

fn header_bytes(header: &Header<Identity>) -> Result<Vec<u8>, postcard::Error> {
    let message = convert(header.message.clone(), |id| Lean::from(&id));
    let lean = (&header.src, header.src_incarnation, Lean::from(&header.dst), message);
    postcard::to_stdvec(&lean)
}

/// foca's message with this header and these news.
pub(super) fn swim_message(header: &Header<Identity>, news: &[Member<Identity>]) -> Vec<u8> {
    // Plain structs of ours into a growing vector: postcard has nothing to refuse.
    let mut out = header_bytes(header).unwrap_or_default();
    out.put_u16(u16::try_from(news.len()).unwrap_or(u16::MAX));
    news.iter().for_each(|member| out.extend(postcard::to_stdvec(member).unwrap_or_default()));
    out
}

fn put(bytes: &[u8], mut buf: impl BufMut) -> Result<(), postcard::Error> {
    if buf.remaining_mut() < bytes.len() {
        return Err(postcard::Error::SerializeBufferFull);
    }
    buf.put_slice(bytes);
    Ok(())
}

fn take<T: for<'a> Deserialize<'a>>(mut buf: impl Buf) -> Result<T, postcard::Error> {
    let (value, rest) = postcard::take_from_bytes(buf.chunk())?;
    let rest = rest.len();
    buf.advance(buf.chunk().len() - rest);
    Ok(value)
}

fn take_header(buf: impl Buf) -> Result<Header<Identity>, postcard::Error> {
    let (src, src_incarnation, dst, message): (Identity, u16, Lean, Message<Lean>) = take(buf)?;
    let message = convert(message, Identity::from);
    Ok(Header { src, src_incarnation, dst: dst.into(), message })
}

impl Codec<Identity> for LeanCodec {
    type Error = postcard::Error;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        buf: impl BufMut,
    ) -> Result<(), postcard::Error> {
        put(&header_bytes(header)?, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Identity>, postcard::Error> {
        take_header(buf)
    }

    fn encode_member(
        &mut self,
        member: &Member<Identity>,
        buf: impl BufMut,
    ) -> Result<(), postcard::Error> {
        self.0.note(member.id().node);
        put(&postcard::to_stdvec(member)?, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Identity>, postcard::Error> {
        take(buf)
    }
}

/// A datagram, looked at before foca sees it.
pub(super) enum Packet<'a> {
    /// foca's own.
    Swim { header: Box<Header<Identity>>, news: Vec<Member<Identity>>, raw: &'a [u8] },
    /// A fingerprint of the sender's list of live members.
    Digest(u64),
    /// The sender is there.
    Beat,
}

pub(super) fn swim_packet(raw: &[u8]) -> Vec<u8> {
    [&[KIND_SWIM], raw].concat()
}

pub(super) fn digest_packet(digest: u64) -> Vec<u8> {
    [&[KIND_DIGEST], digest.to_le_bytes().as_slice()].concat()
}

pub(super) fn beat_packet() -> Vec<u8> {
    vec![KIND_BEAT]
}

/// `None`, and counted, if it is not one or does not come from whom it says it does.
pub(super) fn read_packet<'a>(
    from: NodeId,
    bytes: &'a [u8],
    counters: &mut Counters,
) -> Option<Packet<'a>> {
    let packet = parse_packet(bytes);
    match packet {
        Some(Packet::Swim { ref header, .. }) if header.src.node != from => {
            counters.not_the_sender += 1;
            None
        }
        None => {
            counters.malformed += 1;
            None
        }
        packet => packet,
    }
}

fn parse_packet(bytes: &[u8]) -> Option<Packet<'_>> {
    if bytes.len() > PACKET_MAX {
        return None;
    }
    match bytes.split_first()? {
        (&KIND_DIGEST, digest) => Some(Packet::Digest(u64::from_le_bytes(digest.try_into().ok()?))),
        (&KIND_BEAT, []) => Some(Packet::Beat),
        (&KIND_SWIM, raw) => {
            let mut rest = raw;
            let header = take_header(&mut rest).ok()?;
            let mut news = Vec::new();
            if rest.len() >= 2 {
                for _ in 0..rest.get_u16() {
                    news.push(take(&mut rest).ok()?);
                }
            }
            rest.is_empty().then_some(Packet::Swim { header: Box::new(header), news, raw })
        }
        _ => None,
    }
}

/// The sender's whole list, for a stream.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FullState {
    /// The sender; down if it leaves.
    pub(super) me: Member<Identity>,
    pub(super) leaving: bool,
    pub(super) members: Vec<Member<Identity>>,
    /// Those of `members` that are down because they left.
    pub(super) left: Vec<(NodeId, Boot, u32)>,
}

impl FullState {
    pub(super) fn encode(&self) -> Vec<u8> {
        // Plain structs of ours into a growing vector: postcard has nothing to refuse.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// `None`, and counted, if it is not one or does not come from whom it says it does.
    pub(super) fn read(from: NodeId, bytes: &[u8], counters: &mut Counters) -> Option<Self> {
        let Ok((this, _added_by_a_newer_version)) = postcard::take_from_bytes::<Self>(bytes) else {
            counters.malformed += 1;
            return None;
        };
        if this.me.id().node != from {
            counters.not_the_sender += 1;
            return None;
        }
        Some(this)
    }
}
