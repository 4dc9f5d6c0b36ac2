//! The strings that people carry from one machine to another.
//!
//! `roost1-` or `roost1c-`, then base64url without padding of: a 4-byte checksum (the start of the
//! SHA-256 of what follows), then postcard. The checksum tells a string that was damaged on its
//! way from one that is wrong.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Invite, Keypair, sha256};
use crate::id::{InviteId, MeshId, NodeId};

/// The longest string that is read, in characters: eight long addresses and a credential need
/// about 2,500.
pub const STRING_MAX: usize = 4096;
/// The most addresses in a string: a few members on two networks each.
pub const ADDRS_MAX: usize = 8;

const NODE_PREFIX: &str = "roost1";
const CLIENT_PREFIX: &str = "roost1c";
const CHECKSUM: usize = 4;

/// Why a text is no string of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadString {
    /// Something else entirely.
    #[error("this is not a string from `roost invite`: it would begin with `roost1`")]
    NotOurs,
    /// A newer format.
    #[error("this string was made by a newer version of roost: update this one")]
    Newer,
    /// An enrolment string where an invitation is needed.
    #[error("this is a client's string: a node needs one from `roost invite` (without `--client`)")]
    ForClients,
    /// An invitation where an enrolment string is needed.
    #[error("this is a node's string: a client needs one from `roost invite --client`")]
    ForNodes,
    /// Over [`STRING_MAX`].
    #[error("this string is longer than {STRING_MAX} characters: copy only the string itself")]
    TooLong,
    /// Characters lost or changed on the way.
    #[error("this string is damaged: copy it again, from its first to its last character")]
    Damaged,
    /// Whole, but not understood.
    #[error("this string is whole but cannot be understood: make a new one with `roost invite`")]
    Malformed,
}

/// What `roost invite` prints for a node: where to knock, whom to expect, and the right to come
/// in. Holds a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Addresses of members, `host:port`, best first.
    pub addrs: Vec<String>,
    /// The mesh to expect there.
    pub mesh: MeshId,
    /// The inviting node.
    pub by: NodeId,
    /// The right, signed by the inviting node.
    pub invite: Invite,
    /// Seed of the one-off key whose public half is in `invite`.
    pub secret: [u8; 32],
}

impl Invitation {
    /// Makes one, signed by the member `by`. `id` and `secret` are random; `expires` is
    /// milliseconds since 1970; addresses beyond [`ADDRS_MAX`] are left out.
    pub fn make(
        by: &Keypair,
        mesh: MeshId,
        mut addrs: Vec<String>,
        id: InviteId,
        secret: [u8; 32],
        expires: u64,
        uses: u32,
    ) -> Self {
        addrs.truncate(ADDRS_MAX);
        let node = by.node();
        let key = Keypair::from_seed(secret).public();
        let mut invite = Invite { id, mesh, by: node, key, expires, uses, signature: Vec::new() };
        invite.signature = by.sign(&invite.statement());
        Self { addrs, mesh, by: node, invite, secret }
    }

    /// The proof that goes with the invitation: a signature by its one-off key.
    pub fn prove(&self, statement: &[u8]) -> Vec<u8> {
        Keypair::from_seed(self.secret).sign(statement)
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invitation")
            .field("addrs", &self.addrs)
            .field("mesh", &self.mesh)
            .field("by", &self.by)
            .field("invite", &self.invite)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_string(NODE_PREFIX, self, f)
    }
}

impl FromStr for Invitation {
    type Err = BadString;
    fn from_str(text: &str) -> Result<Self, BadString> {
        let this: Self = read_string(NODE_PREFIX, BadString::ForClients, text)?;
        let consistent = this.mesh == this.invite.mesh && this.by == this.invite.by;
        if !consistent || this.addrs.len() > ADDRS_MAX {
            return Err(BadString::Malformed);
        }
        Ok(this)
    }
}

/// What `roost invite --client` prints: where to knock, whom to expect, and a credential. Holds a
/// secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Addresses of members, `host:port`, best first; at most [`ADDRS_MAX`].
    pub addrs: Vec<String>,
    /// The mesh to expect there.
    pub mesh: MeshId,
    /// What [`issue_credential`](super::issue_credential) made.
    pub credential: String,
}

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolment")
            .field("addrs", &self.addrs)
            .field("mesh", &self.mesh)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_string(CLIENT_PREFIX, self, f)
    }
}

impl FromStr for Enrolment {
    type Err = BadString;
    fn from_str(text: &str) -> Result<Self, BadString> {
        let this: Self = read_string(CLIENT_PREFIX, BadString::ForNodes, text)?;
        if this.addrs.len() > ADDRS_MAX {
            return Err(BadString::Malformed);
        }
        Ok(this)
    }
}

fn write_string<T: Serialize>(prefix: &str, value: &T, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Plain structs of ours into a growing vector: postcard has nothing to refuse.
    let body = postcard::to_stdvec(value).map_err(|_never| fmt::Error)?;
    let sum = sha256(&[&body]);
    let bytes = [&sum[..CHECKSUM], &body].concat();
    write!(f, "{prefix}-{}", BASE64URL_NOPAD.encode(&bytes))
}

fn read_string<T: DeserializeOwned>(
    wanted: &str,
    other_kind: BadString,
    text: &str,
) -> Result<T, BadString> {
    // Terminals and mail programs wrap long lines.
    let text: String = text.chars().filter(|c| !c.is_whitespace()).take(STRING_MAX + 1).collect();
    let (prefix, body) = text.split_once('-').ok_or(BadString::NotOurs)?;
    if prefix != wanted {
        return Err(match prefix {
            NODE_PREFIX | CLIENT_PREFIX => other_kind,
            _ if is_versioned(prefix) => BadString::Newer,
            _ => BadString::NotOurs,
        });
    }
    if text.len() > STRING_MAX {
        return Err(BadString::TooLong);
    }
    let bytes =
        BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_not_base64| BadString::Damaged)?;
    let (sum, body) = bytes.split_at_checked(CHECKSUM).ok_or(BadString::Damaged)?;
    if sha256(&[body])[..CHECKSUM] != *sum {
        return Err(BadString::Damaged);
    }
    postcard::from_bytes(body).map_err(|_shape| BadString::Malformed)
}

fn is_versioned(prefix: &str) -> bool {
    prefix.strip_prefix("roost").is_some_and(|version| {
        let digits = version.trim_end_matches('c');
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}
