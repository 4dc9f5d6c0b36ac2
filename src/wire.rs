//! Every byte between nodes and native clients. Decoding never panics and never trusts a length.
//!
//! On a stream, a message is `length: u32 LE | tag: u16 LE | body`, where the length counts tag
//! and body and the body is postcard. A body may be longer than its reader knows: a newer minor
//! version appends fields, an older one ignores them. A tag that the reader does not know is
//! counted and skipped. The major version is in the ALPN.
//!
//! In a datagram, the first varint is a flow id (draft-ietf-avtcore-rtp-over-quic): flow 0
//! carries heartbeats, every other flow RTP packets of one stream.

use serde::{Serialize, de::DeserializeOwned};

mod client;
mod datagram;
mod handshake;
mod link;
mod media;

pub use client::*;
pub use datagram::*;
pub use handshake::*;
pub use link::*;
pub use media::*;

/// Links between members; both sides prove the key of an admission.
pub const ALPN_MESH: &[u8] = b"roost-mesh/1";
/// A newcomer with an invitation.
pub const ALPN_JOIN: &[u8] = b"roost-join/1";
/// Native clients: agents, viewers, the command line.
pub const ALPN_CLIENT: &[u8] = b"roost-client/1";
/// Media between members, on connections of their own.
pub const ALPN_MEDIA: &[u8] = b"roost-media/1";

/// Largest message on a stream, in bytes: a directory of 10,000 encoders fits in one.
pub const MAX_MESSAGE: usize = 8 << 20;
/// Bytes of length prefix on a stream.
pub const LENGTH_PREFIX: usize = 4;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Shorter than its own header.
    #[error("truncated message")]
    Truncated,
    /// Longer than [`MAX_MESSAGE`].
    #[error("message of {0} bytes is over the limit of {MAX_MESSAGE}")]
    TooLong(usize),
    /// A tag this version does not know; skip it.
    #[error("unknown message tag {0}")]
    UnknownTag(u16),
    /// The body does not decode.
    #[error("malformed body of message tag {0}")]
    Malformed(u16),
}

/// Checks a length prefix before anything is allocated for it.
pub fn message_length(prefix: [u8; LENGTH_PREFIX]) -> Result<usize, WireError> {
    let length = u32::from_le_bytes(prefix) as usize;
    match length {
        0..2 => Err(WireError::Truncated),
        2..=MAX_MESSAGE => Ok(length),
        _ => Err(WireError::TooLong(length)),
    }
}

/// A family of tagged messages.
pub trait Message: Sized {
    /// Tag and body, without the length prefix.
    fn encode(&self) -> Vec<u8>;
    /// The reverse of [`Message::encode`].
    fn decode(bytes: &[u8]) -> Result<Self, WireError>;

    /// Length prefix, tag and body: what goes onto a stream.
    fn frame(&self) -> Vec<u8> {
        let body = self.encode();
        let mut out = Vec::with_capacity(LENGTH_PREFIX + body.len());
        out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }
}

fn encode_body<T: Serialize>(tag: u16, body: &T) -> Vec<u8> {
    // Plain structs of ours into a growing vector: postcard has nothing to refuse.
    postcard::to_extend(body, tag.to_le_bytes().to_vec()).unwrap_or_default()
}

fn decode_body<T: DeserializeOwned>(tag: u16, body: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(body) {
        Ok((value, _added_by_a_newer_version)) => Ok(value),
        Err(_) => Err(WireError::Malformed(tag)),
    }
}

macro_rules! messages {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $tag:literal = $variant:ident($body:ty),)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant($body),)* }

        impl Message for $name {
            fn encode(&self) -> Vec<u8> {
                match self { $(Self::$variant(body) => encode_body($tag, body),)* }
            }
            fn decode(bytes: &[u8]) -> Result<Self, WireError> {
                let (tag, body) = bytes.split_first_chunk::<2>().ok_or(WireError::Truncated)?;
                match u16::from_le_bytes(*tag) {
                    $($tag => decode_body($tag, body).map(Self::$variant),)*
                    other => Err(WireError::UnknownTag(other)),
                }
            }
        }

        $(impl From<$body> for $name {
            fn from(body: $body) -> Self { Self::$variant(body) }
        })*
    };
}

pub(crate) use messages;
