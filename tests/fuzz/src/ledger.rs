//! The ledger alone: whatever a linked node says, and whatever the disk answers.

use roost::accounts::{
    self, Batch, Change, Effect, Event, Expect, Key, Kind, Ledger, Loaded, Write,
};
use roost::id::{AccountId, NodeId, RecordId};
use roost::time::{Mono, Now};
use roost::wire::{LinkMessage, MAX_MESSAGE, Message};

use super::chunks;

/// Chunks of a script that are played.
const CHUNKS_MAX: usize = 256;
/// Kinds of chunks: a message, or what else happens.
const MESSAGE: u8 = 0;
const WRITE: u8 = 1;
const DISK_FULL: u8 = 2;
const LATER: u8 = 3;
const KINDS: u8 = 4;

fn node(n: u8) -> NodeId {
    NodeId([n; 16])
}

fn begin(me: u8, other: u8, now: Now, out: &mut Vec<Effect>) -> Ledger {
    let mut ledger = Ledger::new(node(me), [me; 32], Loaded::default());
    ledger.handle(now, Event::Members([node(1), node(2)].into()), out);
    ledger.handle(now, Event::Linked(node(other)), out);
    ledger
}

fn write(n: u8) -> Event {
    let write = Write {
        key: Key {
            kind: if n.is_multiple_of(2) { Kind::ROOM } else { Kind::ACCOUNT },
            id: RecordId([n % 8; 16]),
        },
        changes: vec![match n % 5 {
            0 => Change::Delete,
            1 => Change::Disable,
            2 => Change::Add(2, vec![n]),
            _ => Change::Set(1, vec![n; 9]),
        }],
        account: AccountId([5; 16]),
        expect: Expect::Any,
        wait: u32::from(n % 3),
        patience: std::time::Duration::from_secs(1),
    };
    Event::Write { ticket: u64::from(n), write }
}

fn read(body: &[u8]) -> Option<Event> {
    let from = node(2);
    Some(match LinkMessage::decode(body).ok()? {
        LinkMessage::LedgerDigest(digest) => Event::Digest(from, digest),
        LinkMessage::LedgerWant(want) => Event::Want(from, want),
        LinkMessage::LedgerRecords(records) => Event::Records(from, records),
        LinkMessage::LedgerHave(have) => Event::Have(from, have),
        LinkMessage::LedgerCompare(compare) => Event::Compare(from, compare),
        _ => return None,
    })
}

fn said(effect: Effect) -> Option<LinkMessage> {
    Some(match effect {
        Effect::Digest(_, digest) => LinkMessage::LedgerDigest(digest),
        Effect::Want(_, want) => LinkMessage::LedgerWant(want),
        Effect::Records(_, records) | Effect::Push(records) => LinkMessage::LedgerRecords(records),
        Effect::Have(_, have) => LinkMessage::LedgerHave(have),
        Effect::Compare(_, compare) => LinkMessage::LedgerCompare(compare),
        _ => return None,
    })
}

/// Plays a script to a ledger whose disk holds what it was given; in the end a new ledger on that
/// disk has the same.
pub fn ledger(data: &[u8]) {
    let mut now = Now { mono: Mono(1_000_000_000), wall: 1_800_000_000_000 };
    let mut out = Vec::new();
    let mut machine = begin(1, 2, now, &mut out);
    let mut disk = Batch::default();
    for (what, body) in chunks::read(data).take(CHUNKS_MAX) {
        let event = match what % KINDS {
            MESSAGE => read(body).unwrap_or(Event::Wake),
            WRITE => write(body.first().copied().unwrap_or(0)),
            LATER => {
                now.mono.0 += 31_000_000_000;
                Event::Wake
            }
            _ => Event::Wake,
        };
        machine.handle(now, event, &mut out);
        let mut refuse = what % KINDS == DISK_FULL;
        while let Some(effect) = out.pop() {
            match effect {
                Effect::Persist(batch) => {
                    let refused = std::mem::take(&mut refuse);
                    let result = if refused { Err("full".into()) } else { Ok(()) };
                    if !refused {
                        disk.records.retain(|(key, _)| {
                            !batch.forgotten.contains(key)
                                && !batch.records.iter().any(|(new, _)| new == key)
                        });
                        disk.records.extend(batch.records);
                        disk.actors.retain(|(a, _)| !batch.actors.iter().any(|(new, _)| new == a));
                        disk.actors.extend(batch.actors);
                        disk.forgotten.extend(batch.forgotten);
                    }
                    machine.handle(now, Event::Persisted(result), &mut out);
                }
                effect => {
                    if let Some(message) = said(effect) {
                        assert!(message.encode().len() <= MAX_MESSAGE);
                    }
                }
            }
        }
    }
    let Batch { records, actors, forgotten } = disk;
    let loaded = Loaded { records, actors, forgotten, unreadable: 0 };
    let again = Ledger::new(node(1), [9; 32], loaded);
    assert_eq!((again.count(), again.bytes()), (machine.count(), machine.bytes()));
    let digests = [again.digest(), machine.digest()].map(|digest| (digest.clock, digest.state));
    assert_eq!(digests[0], digests[1]);
}

/// What two nodes say to each other that were both written to.
pub fn scripts() -> Vec<Vec<u8>> {
    let now = Now { mono: Mono(1_000_000_000), wall: 1_800_000_000_000 };
    let mut script = Vec::new();
    let mut messages: Vec<(usize, LinkMessage)> = Vec::new();
    let mut outs = [Vec::new(), Vec::new()];
    let mut pair = [begin(1, 2, now, &mut outs[0]), begin(2, 1, now, &mut outs[1])];
    for n in 0..12u8 {
        pair[1].handle(now, write(n), &mut outs[1]);
        chunks::write(WRITE, &[n], &mut script);
    }
    for _ in 0..500 {
        for at in 0..2 {
            for effect in std::mem::take(&mut outs[at]) {
                match effect {
                    Effect::Persist(_) => {
                        pair[at].handle(now, Event::Persisted(Ok(())), &mut outs[at]);
                    }
                    // A push is lost now and then, so that there is something to ask for.
                    Effect::Push(_) if messages.len().is_multiple_of(2) => {}
                    effect => messages.extend(said(effect).map(|message| (1 - at, message))),
                }
            }
        }
        if messages.is_empty() {
            break;
        }
        let (to, message) = messages.remove(0);
        let bytes = message.encode();
        if to == 0 {
            chunks::write(MESSAGE, &bytes, &mut script);
        }
        let event = read(&bytes).map(|event| as_from(1 - to, event));
        if let Some(event) = event {
            pair[to].handle(now, event, &mut outs[to]);
        }
    }
    for kind in [LATER, DISK_FULL, LATER] {
        chunks::write(kind, &[1], &mut script);
    }
    let strange = accounts::Want { all: Some(None), ..accounts::Want::default() };
    chunks::write(MESSAGE, &LinkMessage::LedgerWant(strange).encode(), &mut script);
    vec![script]
}

/// The same as said by one of the two.
fn as_from(which: usize, event: Event) -> Event {
    let from = node(which as u8 + 1);
    match event {
        Event::Digest(_, digest) => Event::Digest(from, digest),
        Event::Want(_, want) => Event::Want(from, want),
        Event::Records(_, records) => Event::Records(from, records),
        Event::Have(_, have) => Event::Have(from, have),
        Event::Compare(_, compare) => Event::Compare(from, compare),
        event => event,
    }
}
