//! The ledger's share of the coordinator.

use super::{Control, Effect, Note};
use crate::access::Rights;
use crate::accounts::{self, Changed, Key, Ledger, Loaded, Records, Spare};
use crate::id::NodeId;
use crate::time::Now;
use crate::wire::{LinkMessage, Message};

/// Gives the ledger a stream of randomness of its own.
pub(super) fn born(me: NodeId, mut seed: [u8; 32], loaded: Loaded, spare: Spare) -> Ledger {
    seed[0] ^= 1;
    Ledger::new(me, seed, loaded).keeping(spare)
}

impl Control {
    /// Reads everything that rights depend on; afterwards changes keep it up.
    pub(super) fn index_rights(&mut self) {
        let ledger = &self.ledger;
        let records = Rights::KINDS.into_iter().flat_map(|kind| ledger.of_kind(kind));
        let mut rights = Rights::of(records);
        rights.distrust(self.roster.cuts().into_keys().collect());
        *self.rights.write() = rights;
    }

    fn record_changed(&mut self, now: Now, key: Key, effects: &mut Vec<Effect>) {
        let rights = Rights::KINDS.contains(&key.kind) && {
            let record = self.ledger.get(key);
            let mut rights = self.rights.write();
            let steering = rights.steering();
            let changed = rights.changed(key, record.as_ref());
            // Who stands by may be another.
            self.nodes_dirty |= rights.steering() != steering;
            changed
        };
        self.rights_changed |= rights;
        if key == self.own_record() {
            self.heed_wishes();
        }
        self.heed_steering(now, key, effects);
        effects.push(Effect::RecordChanged(Changed { key, rights }));
    }

    pub(super) fn tell_members(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let members = self.roster.members().collect();
        self.account(now, accounts::Event::Members(members), effects);
        self.tell_cuts(now, effects);
    }

    pub(super) fn tell_cuts(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let cuts = self.roster.cuts();
        self.rights_changed |= self.rights.write().distrust(cuts.keys().copied().collect());
        self.account(now, accounts::Event::Cuts(cuts), effects);
    }

    pub(super) fn ledger_message(
        &mut self,
        now: Now,
        from: NodeId,
        message: LinkMessage,
        effects: &mut Vec<Effect>,
    ) {
        let event = match message {
            LinkMessage::LedgerDigest(digest) => accounts::Event::Digest(from, digest),
            LinkMessage::LedgerWant(want) => accounts::Event::Want(from, want),
            LinkMessage::LedgerRecords(records) => accounts::Event::Records(from, records),
            LinkMessage::LedgerHave(have) => accounts::Event::Have(from, have),
            LinkMessage::LedgerCompare(compare) => accounts::Event::Compare(from, compare),
            _ => return,
        };
        self.account(now, event, effects);
    }

    pub(super) fn account(&mut self, now: Now, event: accounts::Event, effects: &mut Vec<Effect>) {
        let mut out = Vec::new();
        self.ledger.handle(now, event, &mut out);
        for effect in out {
            let (to, message) = match effect {
                accounts::Effect::Digest(to, digest) => (to, LinkMessage::LedgerDigest(digest)),
                accounts::Effect::Want(to, want) => (to, LinkMessage::LedgerWant(want)),
                accounts::Effect::Records(to, records) => (to, LinkMessage::LedgerRecords(records)),
                accounts::Effect::Have(to, have) => (to, LinkMessage::LedgerHave(have)),
                accounts::Effect::Compare(to, compare) => (to, LinkMessage::LedgerCompare(compare)),
                accounts::Effect::Push(records) => {
                    self.push_records(records, |_| true, effects);
                    continue;
                }
                accounts::Effect::Forward(from, records) => {
                    let lacking = self.directory.header(from).map(|header| header.lacking.clone());
                    let lacks = |node| {
                        node != from && lacking.as_ref().is_none_or(|set| set.contains(&node))
                    };
                    self.push_records(records, lacks, effects);
                    continue;
                }
                accounts::Effect::Persist(batch) => {
                    effects.push(Effect::Persist(batch));
                    continue;
                }
                accounts::Effect::Written { ticket, result } => {
                    effects.push(Effect::Written { ticket, result });
                    continue;
                }
                accounts::Effect::Changed(key) => {
                    self.record_changed(now, key, effects);
                    continue;
                }
                accounts::Effect::Note(note) => {
                    effects.push(Effect::Note(Note::Ledger(note)));
                    continue;
                }
            };
            let bytes = message.encode();
            self.counters.ledger_bytes += bytes.len() as u64;
            effects.push(Effect::Send(to, bytes));
        }
    }

    fn push_records(
        &mut self,
        records: Records,
        to: impl Fn(NodeId) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        let links: Vec<NodeId> = self.linked.iter().copied().filter(|node| to(*node)).collect();
        if links.is_empty() {
            return;
        }
        let bytes = LinkMessage::LedgerRecords(records).encode();
        self.counters.ledger_bytes += (links.len() * bytes.len()) as u64;
        effects.extend(links.into_iter().map(|node| Effect::Send(node, bytes.clone())));
    }
}
