//! Records for whoever is not on the control loop: many at once, and those of a write that is on
//! its way.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;

use super::Node;
use crate::accounts::{Key, Ledger, Record};
use crate::id::ActorId;

/// Records copied on the control loop in one go: some 10 µs.
const AT_ONCE: usize = 100;

impl Node {
    /// Some records as they count, removed or not, in the order of their keys.
    pub async fn records(&self, keys: &[Key]) -> Vec<Option<Record>> {
        let mut found = Vec::with_capacity(keys.len());
        for part in keys.chunks(AT_ONCE) {
            let keys = part.to_vec();
            let copy = move |ledger: &Ledger| {
                let copies = keys.iter().map(|key| Some(ledger.encoded(*key)?.to_vec()));
                (copies.collect::<Vec<_>>(), ledger.cuts().clone())
            };
            // Decoded here: what is done on the control loop holds everything else up.
            let copies = self.read_ledger(copy).await;
            let (copies, cuts) = copies.unwrap_or_else(|| (vec![None; part.len()], Arc::default()));
            let records = copies.iter().map(|bytes| Record::decode(bytes.as_ref()?).ok());
            found.extend(records.map(|record| record?.counting(&cuts)));
        }
        found
    }

    /// Whether a write is shown here, or comes within this time.
    pub async fn has_write(&self, version: (ActorId, u64), within: Duration) -> bool {
        // First, so that nothing comes unseen between the question and the wait.
        let mut changes = self.record_changes();
        let comes = async {
            loop {
                let has = self.read_ledger(move |ledger| ledger.shows(version)).await;
                if has != Some(false) {
                    return has.is_some();
                }
                if changes.next().await.is_none() {
                    return false;
                }
                // A burst is one change.
                while changes.next().now_or_never().flatten().is_some() {}
            }
        };
        tokio::time::timeout(within, comes).await.unwrap_or(false)
    }
}
