//! What members say to each other on a link, and ask each other.

use serde::{Deserialize, Serialize};

use super::{Message, WireError, decode_body, encode_body, messages};
use crate::access::Principal;
use crate::accounts;
use crate::admission::{StatementDigest, Statements};
use crate::directory;
use crate::id::{EncoderId, NodeId, StatementId};
use crate::placement::balance;

messages! {
    /// What members say on the ordered stream of a link.
    LinkMessage {
        /// Full membership state, pushed and pulled.
        1 = Members(MemberState),
        /// How far the sender has the directory of every origin.
        2 = DirectoryDigest(directory::Digest),
        /// A change of the directory.
        3 = DirectoryDelta(directory::Delta),
        /// Statements about members that the receiver may lack.
        4 = Statements(Statements),
        /// A hash of all statements the sender knows; whoever differs answers with its own.
        5 = StatementDigest(StatementDigest),
        /// This link is going away on purpose.
        6 = Goodbye(Goodbye),
        /// Which of the statements that were just received, other than admissions, the sender knows.
        7 = StatementsKnown(StatementsKnown),
        /// Wants the receiver to take encoders of the sender.
        8 = BalanceAsk(balance::Ask),
        /// Whether the sender takes them.
        9 = BalanceAnswer(balance::Answer),
        /// They do not come.
        10 = BalanceRelease(balance::Release),
        /// An encoder that the receiver claims was at home elsewhere under a higher epoch.
        11 = DirectoryFloor(directory::Floor),
        /// What the sender has of the ledger, in a few bytes.
        16 = LedgerDigest(accounts::Digest),
        /// Asks for what the sender lacks of it.
        17 = LedgerWant(accounts::Want),
        /// Records of it.
        18 = LedgerRecords(accounts::Records),
        /// What of it was written down.
        19 = LedgerHave(accounts::Have),
        /// Hashes of its parts.
        20 = LedgerCompare(accounts::Compare),
    }
}

/// foca's view, opaque to everything but `membership`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// Encoded member list.
    pub bytes: Vec<u8>,
    /// The sender wants the receiver's state in return.
    pub reply: bool,
}

/// Answers [`LinkMessage::Statements`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementsKnown(pub Vec<StatementId>);

/// The sender leaves or stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// For people.
    pub reason: String,
}

messages! {
    /// A question of one node to another, on a stream of its own.
    Ask {
        /// Set up a browser's leg at the receiver.
        1 = Offer(Offer),
        /// Who watches at the receiver.
        2 = Viewers(AskViewers),
        /// Send an encoder that is at home at the receiver to another node.
        3 = Move(AskMove),
        /// How far the receiver is emptied.
        4 = Drain(AskDrain),
    }
}

messages! {
    /// The answer to an [`Ask`].
    Answer {
        /// To an offer that was accepted.
        1 = Sdp(SdpAnswer),
        /// To anything that could not be done.
        2 = Failed(Failed),
        /// To [`Ask::Viewers`]: JSON as the API shows it.
        3 = Viewers(ViewerList),
        /// To [`Ask::Move`]: what became of it.
        4 = Moved(Moved),
        /// To [`Ask::Drain`]: JSON as the API shows it.
        5 = Drain(DrainState),
    }
}

/// Wants an encoder at home elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskMove {
    /// Which.
    pub encoder: EncoderId,
    /// Its new home.
    pub to: NodeId,
    /// Why, for people.
    pub reason: String,
}

/// What became of a wish to move an encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Why it is not there, if it is not.
    pub failed: Option<String>,
}

/// Asks how far a node is emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskDrain {}

/// How far a node is emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainState {
    /// As the API shows it.
    pub json: String,
}

/// A browser's offer for a leg at the receiving node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The stream.
    pub encoder: EncoderId,
    /// SDP offer as the browser made it.
    pub sdp: String,
    /// A media-less standby leg: silent until the page says `play`.
    pub warm: bool,
    /// Who the viewer is, as `authorise` at the first node found.
    pub principal: Principal,
}

/// The answer to an [`Offer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SdpAnswer {
    /// SDP answer, all candidates in it.
    pub sdp: String,
    /// Unguessable id of the leg at that node.
    pub leg: String,
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// HTTP status that fits.
    pub status: u16,
    /// What, why, and what to do next.
    pub reason: String,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u32>,
}

/// Asks who watches what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskViewers {
    /// Only this encoder.
    pub encoder: Option<EncoderId>,
}

/// Viewers of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewerList {
    /// JSON array.
    pub json: String,
}
