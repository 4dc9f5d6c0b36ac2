//! Who may do what: principals, rights and scopes, and the index of the ledger's rules that
//! decides. What cannot be read, or is in conflict about its domain, gives nobody anything.

pub mod keys;
mod rights;

use serde::{Deserialize, Serialize};

use crate::id::{AccountId, EncoderId, InviteId, NodeId, RecordId};

pub use rights::{EncoderFacts, Guide, PLACEMENT_SETTING, POOLS_SETTING, Rights, SharedRights};

/// The domain of everything that names none; it is there from the start.
pub const DEFAULT_DOMAIN: RecordId = RecordId([0; 16]);
/// Its name.
pub const DEFAULT_DOMAIN_NAME: &str = "default";

/// On whose behalf something is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Who {
    /// Nobody that is known.
    #[default]
    Nobody,
    /// Whoever is at the node's own machine, as root or as the node itself.
    Local,
    /// Somebody who logged in.
    Account(AccountId),
    /// The holder of an enrolment string, which opens one domain for sending and watching.
    Client {
        /// Which string.
        id: InviteId,
        /// The domain.
        domain: RecordId,
    },
    /// The holder of an encoder's stream key.
    Encoder(EncoderId),
}

/// Who asks, with a name for logs and lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Principal {
    /// What decides.
    pub who: Who,
    /// What people read.
    pub name: String,
    /// Of what was shown: of an account's password or an encoder's key. Once they have it no
    /// more, this is nobody. Zero for whoever shows neither.
    pub proof: u64,
    /// The node that signed what was shown. Once it is shut out, this is nobody.
    pub issuer: Option<NodeId>,
}

impl Principal {
    /// Whoever is at the node's own machine.
    pub fn local() -> Self {
        Self::new(Who::Local, LOCAL)
    }

    /// A client with a name.
    pub fn new(who: Who, name: impl Into<String>) -> Self {
        Self { who, name: name.into(), proof: 0, issuer: None }
    }

    /// The same, that showed something which may be taken away.
    #[must_use]
    pub fn with_proof(self, proof: u64) -> Self {
        Self { proof, ..self }
    }

    /// The same, that showed something which this node signed.
    #[must_use]
    pub fn signed_by(self, issuer: NodeId) -> Self {
        Self { issuer: Some(issuer), ..self }
    }
}

/// The name of whoever is at the node's own machine.
pub const LOCAL: &str = "local";

/// What somebody may. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Watch, and see that it is there.
    View,
    /// Send.
    Publish,
    /// Change encoders and rooms, and see how things are.
    Operate,
    /// Change who may do what; in the mesh, everything.
    Administer,
}

impl Right {
    /// The right that the role of this name gives.
    pub fn of_role(name: &str) -> Option<Self> {
        Some(match name {
            "viewer" => Self::View,
            "publisher" => Self::Publish,
            "operator" => Self::Operate,
            "admin" => Self::Administer,
            _ => return None,
        })
    }

    /// The role that gives it.
    pub fn role(self) -> &'static str {
        match self {
            Self::View => "viewer",
            Self::Publish => "publisher",
            Self::Operate => "operator",
            Self::Administer => "admin",
        }
    }
}

/// What a right is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The whole mesh.
    Mesh,
    /// Everything in a domain.
    Domain(RecordId),
    /// One encoder.
    Encoder(EncoderId),
}
