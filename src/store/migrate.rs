//! Steps from older layouts of the database to the present one. All that are needed run in the
//! transaction that opens it: it is of one layout or of the other.
//!
//! 1: tables `records`, `actors` and `forgotten`, of whatever mesh.
//! 2: a ledger for each mesh, and a checksum in each row. Records keep a history.

use redb::{ReadableTable, TableHandle, WriteTransaction};

use super::ledger::{Actors, Forgotten, Names, Records, seal};
use super::{SCHEMA, encode};

type Step = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// What leads from each version to the next.
const STEPS: &[(u32, Step)] = &[(1, to_2)];

/// Brings the tables from layout `found` to [`SCHEMA`].
pub(super) fn migrate(tx: &WriteTransaction, found: u32) -> Result<(), redb::Error> {
    let mut due = STEPS.iter().filter(|(from, _)| (found..SCHEMA).contains(from));
    due.try_for_each(|(_, step)| step(tx))
}

/// The ledger belongs to none yet: it becomes that of the mesh of which the node is a member.
fn to_2(tx: &WriteTransaction) -> Result<(), redb::Error> {
    let there: Vec<String> = tx.list_tables()?.map(|table| table.name().to_owned()).collect();
    let names = Names::of(None);
    names.create(tx)?;
    if there.iter().any(|name| name == "records") {
        let old = tx.open_table(Records::new("records"))?;
        let mut new = tx.open_table(names.records())?;
        for row in old.iter()? {
            let (key, bytes) = row?;
            // A history of which nothing is known.
            let bytes = [bytes.value(), &[0]].concat();
            new.insert(key.value(), seal(&encode(&key.value()), &bytes).as_slice())?;
        }
    }
    if there.iter().any(|name| name == "actors") {
        let old = tx.open_table(Actors::new("actors"))?;
        let mut new = tx.open_table(names.actors())?;
        for row in old.iter()? {
            let (actor, bytes) = row?;
            new.insert(actor.value(), seal(&actor.value(), bytes.value()).as_slice())?;
        }
    }
    if there.iter().any(|name| name == "forgotten") {
        let old = tx.open_table(Forgotten::new("forgotten"))?;
        let mut new = tx.open_table(names.forgotten())?;
        for row in old.iter()? {
            new.insert(row?.0.value(), ())?;
        }
    }
    tx.delete_table(Records::new("records"))?;
    tx.delete_table(Actors::new("actors"))?;
    tx.delete_table(Forgotten::new("forgotten"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use redb::{Database, TableDefinition};

    use super::super::{ADMISSIONS, DATABASE_FILE, Entry, MEMBERS, META, Store};
    use super::*;
    use crate::accounts::{Change, Dot, Key, Kind, Record, Row, Seen, Stamp};
    use crate::admission::Admission;
    use crate::id::{AccountId, ActorId, Boot, MeshId, NodeId, RecordId};

    const ACTOR: ActorId = ActorId([9; 16]);

    /// A database as layout 1 had it, put down table by table.
    fn layout_1(dir: &Path, admission: &Admission, row: &Row) {
        let db = Database::create(dir.join(DATABASE_FILE)).unwrap();
        let tx = db.begin_write().unwrap();
        {
            let mut meta = tx.open_table(META).unwrap();
            meta.insert("schema", 1u32.to_le_bytes().as_slice()).unwrap();
            meta.insert("boot", 4u64.to_le_bytes().as_slice()).unwrap();
            let mut admissions = tx.open_table(ADMISSIONS).unwrap();
            // Without the terms of its invitation.
            let mut admission = encode(admission);
            assert_eq!(admission.pop(), Some(0));
            admissions.insert(admission.as_slice(), ()).unwrap();
            let mut members = tx.open_table(MEMBERS).unwrap();
            members.insert([1; 16], encode(&vec!["a:1"]).as_slice()).unwrap();
            let records = TableDefinition::<(u16, [u8; 16]), &[u8]>::new("records");
            let mut records = tx.open_table(records).unwrap();
            // One account named "ann", and one that is out of use, as layout 1 wrote them.
            let ann = layout_1_record(&[(1, 1, b"ann")], &[]);
            let off = layout_1_record(&[], &[(1, 2)]);
            records.insert((3, [1; 16]), ann.as_slice()).unwrap();
            records.insert((3, [2; 16]), off.as_slice()).unwrap();
            let actors = TableDefinition::<[u8; 16], &[u8]>::new("actors");
            tx.open_table(actors).unwrap().insert(ACTOR.0, encode(row).as_slice()).unwrap();
            let forgotten = TableDefinition::<(u16, [u8; 16]), ()>::new("forgotten");
            tx.open_table(forgotten).unwrap().insert((6, [3; 16]), ()).unwrap();
        }
        tx.commit().unwrap();
    }

    /// A record of one write: (field, number of the write, value), (set of marks, number).
    fn layout_1_record(fields: &[(u16, u64, &[u8])], marks: &[(u16, u64)]) -> Vec<u8> {
        let seq = fields.first().map_or_else(|| marks[0].1, |(_, seq, _)| *seq);
        let author = (AccountId([7; 16]), NodeId([8; 16]));
        let dots: Vec<(u32, u64, [u8; 4])> = vec![(0, seq, [0; 4])];
        let stamps: Vec<(u32, u32, u64)> = vec![(0, 0, 1_700_000_000_000)];
        let registers: Vec<_> =
            fields.iter().map(|(field, _, value)| (*field, vec![(0u32, *value)])).collect();
        let sets: Vec<_> = marks.iter().map(|(set, _)| (*set, &b""[..], vec![0u32])).collect();
        encode(&(vec![ACTOR], vec![author], dots, stamps, registers, sets))
    }

    #[test]
    fn a_database_of_layout_1_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let admission = Admission {
            node: NodeId([1; 16]),
            key: [1; 32],
            by: NodeId([0; 16]),
            invite: None,
            nonce: [0; 16],
            signature: vec![1; 64],
            terms: None,
        };
        let row = Row { seen: Seen { upto: 2, beyond: vec![] }, own: true, ..Row::default() };
        layout_1(dir.path(), &admission, &row);
        let mesh = MeshId([5; 16]);
        for _ in 0..2 {
            let opened = Store::open(dir.path()).unwrap();
            assert_eq!(opened.quarantined, None);
            let store = opened.store;
            assert_eq!(store.statements().unwrap(), [admission.clone().into()]);
            assert_eq!(store.members().unwrap(), [(NodeId([1; 16]), vec!["a:1".to_owned()])]);
            // Somebody who comes to another mesh with this folder takes nothing there.
            store.bind(MeshId([6; 16]), Entry::Founder).unwrap();
            assert!(store.ledger(MeshId([6; 16])).unwrap().records.is_empty());
            store.bind(mesh, Entry::Member).unwrap();
            let loaded = store.ledger(mesh).unwrap();
            assert_eq!(loaded.unreadable, 0);
            assert_eq!(loaded.actors, [(ACTOR, row.clone())]);
            assert_eq!(loaded.forgotten, [Key { kind: Kind::ROOM, id: RecordId([3; 16]) }]);
            let records: Vec<_> =
                loaded.records.iter().map(|(_, bytes)| Record::decode(bytes).unwrap()).collect();
            assert_eq!(records[0].value(1), Some(&b"ann"[..]));
            assert!(records[1].is_off() && records[1].exists());
            assert_eq!(records[0].history().count(), 0, "nobody wrote it down then");
            // Written on, it is a record like any other.
            let mut record = records[0].clone();
            let by = Stamp { account: AccountId([7; 16]), node: NodeId([8; 16]), wall: 1 };
            let dot = Dot { actor: ACTOR, seq: 3, nonce: [0; 4] };
            record.apply(dot, by, &[Change::Set(1, b"bob".to_vec())]).unwrap();
            assert_eq!(record.history().count(), 1);
        }
        assert_eq!(Store::open(dir.path()).unwrap().store.next_boot().unwrap(), Boot(5));
    }

    #[test]
    fn there_is_one_step_from_every_layout_to_the_next() {
        let from: Vec<u32> = STEPS.iter().map(|(from, _)| *from).collect();
        assert_eq!(from, (1..SCHEMA).collect::<Vec<_>>());
    }
}
