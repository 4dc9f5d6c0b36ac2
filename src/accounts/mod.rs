//! Accounts and everything else that people decide and no outage may lose: the ledger.
//!
//! A [`Record`] is a small CRDT. The [`Ledger`] keeps all records, has every change written to
//! disk before it counts, and brings nodes to the same state by the numbers of the writes that
//! each has: a change costs the change, never the table.

mod clock;
mod kinds;
mod ledger;
mod record;
mod types;

pub use clock::{BEYOND_MAX, Clock, Seen};
pub use kinds::{Field, IDS_MAX, Kind, Part, Schema};
pub use ledger::{Audit, AuditCursor, Ledger};
pub use record::{
    Change, Cut, Cuts, DELETED, Dot, Entry, Key, Malformed, Record, Sibling, Stamp, TooMuch,
    Touched,
};
pub use types::*;

/// Eight bytes of a SHA-256: what tells states apart.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let digest = context.finish();
    let half = digest.as_ref().first_chunk::<8>();
    u64::from_le_bytes(*half.unwrap_or(&[0; 8]))
}
