//! Names of things: nodes, meshes, encoders, sessions, and the epoch that fences a home.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A 16-byte identifier shown as lower-case hexadecimal.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        /// Text where people read (JSON), 16 bytes on the wire.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(Self)
                }
            }
        }

        impl $name {
            /// The first eight hexadecimal digits: enough to tell things apart on a screen.
            pub fn short(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .map_err(|_not_hex| BadId)?;
                Ok(Self(bytes.try_into().map_err(|_wrong_length| BadId)?))
            }
        }
    };
}

hex_id! {
    /// A node for life: the first 16 bytes of the SHA-256 of its first Ed25519 public key.
    NodeId
}
hex_id! {
    /// A mesh for life: the first 16 bytes of the SHA-256 of the founder's admission.
    MeshId
}
hex_id! {
    /// An encoder for life: a random UUID that its agent keeps on disk.
    EncoderId
}
hex_id! {
    /// One invitation, so that its uses can be counted.
    InviteId
}
hex_id! {
    /// One signed statement about a member: a hash of all of it.
    StatementId
}

hex_id! {
    /// An account for life, random.
    AccountId
}
hex_id! {
    /// A record of the ledger for life; of a node or an encoder it is their own id.
    RecordId
}
hex_id! {
    /// Who numbers writes to the ledger: drawn at the first write after a start, and never again
    /// used after the process ends, so that no number is given twice.
    ActorId
}

/// The text is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 hexadecimal digits")]
pub struct BadId;

/// The persisted counter of a node's starts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Boot(pub u64);

/// One stay of a client at this node; never reused within a boot.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct SessionId(pub u64);

/// Which claim to be home is newer. Compared as a pair, so two agents that run under one name
/// never tie: `counter` first, then the agent's `instance`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Epoch {
    /// Raised by the agent at every change of home.
    pub counter: u64,
    /// Random per start of the agent.
    pub instance: u64,
}

impl Epoch {
    /// The highest counter that is taken from anyone. An agent that moved a thousand times a second
    /// would need 34 years to get there; who says more is wrong, and would otherwise put the
    /// encoder's own agent out of counters.
    pub const COUNTER_MAX: u64 = 1 << 40;

    /// Whether anyone can have come to this epoch.
    pub fn plausible(self) -> bool {
        self.counter <= Self::COUNTER_MAX
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:04x}", self.counter, self.instance & 0xffff)
    }
}

/// The longest name of a node or an encoder, in bytes: it appears in URLs, labels and pictures.
pub const NAME_MAX: usize = 64;

/// Whether `name` may name a node or an encoder: 1 to [`NAME_MAX`] of `[a-z0-9._-]`.
pub fn valid_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = NodeId([7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("xyz".parse::<NodeId>(), Err(BadId));
    }

    #[test]
    fn an_id_is_text_in_json_and_bytes_on_the_wire() {
        let id = NodeId([7; 16]);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), id);
        let wire = postcard::to_allocvec(&id).unwrap();
        assert_eq!(wire, [7; 16]);
        assert_eq!(postcard::from_bytes::<NodeId>(&wire).unwrap(), id);
    }

    #[test]
    fn epochs_compare_by_counter_before_instance() {
        let old = Epoch { counter: 1, instance: 9 };
        assert!(Epoch { counter: 2, instance: 0 } > old);
        assert!(Epoch { counter: 1, instance: 10 } > old);
    }
}
