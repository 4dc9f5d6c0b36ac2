//! What is in datagrams: flow ids, heartbeats.

/// Flow id of heartbeats.
pub const FLOW_HEARTBEAT: u32 = 0;
/// Flow id of a native client's one video.
pub const FLOW_VIDEO: u32 = 1;

/// A heartbeat on flow 0 of a native client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// Client to node.
    Ping(u64),
    /// Node to client, the same number.
    Pong(u64),
}

impl Heartbeat {
    /// Datagram bytes, flow id included.
    pub fn encode(self) -> Vec<u8> {
        let (kind, number) = match self {
            Self::Ping(number) => (0, number),
            Self::Pong(number) => (1, number),
        };
        let mut out = vec![0, kind];
        out.extend_from_slice(&number.to_le_bytes());
        out
    }

    /// From a datagram whose flow id is already read off.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (kind, number) = body.split_first()?;
        let number = u64::from_le_bytes(number.try_into().ok()?);
        match kind {
            0 => Some(Self::Ping(number)),
            1 => Some(Self::Pong(number)),
            _ => None,
        }
    }
}

/// Writes a QUIC varint (RFC 9000 §16).
pub fn put_varint(value: u32, out: &mut Vec<u8>) {
    match value {
        0..0x40 => out.push(value as u8),
        0x40..0x4000 => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => out.extend_from_slice(&(value | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(u64::from(value) | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Reads a QUIC varint; `None` if truncated or over 32 bits.
pub fn take_varint(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let first = *bytes.first()?;
    let length = 1usize << (first >> 6);
    let (head, rest) = bytes.split_at_checked(length)?;
    let mut value = u64::from(first & 0x3f);
    for byte in &head[1..] {
        value = value << 8 | u64::from(*byte);
    }
    Some((u32::try_from(value).ok()?, rest))
}
