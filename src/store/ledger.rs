//! The ledger on disk: records by key, and what is there of each actor. A batch is one commit.
//!
//! Each mesh that the folder was ever in has tables of its own: a node that leaves one, its key
//! moved away, takes nothing of it into the next, and finds everything when it comes back. Rows
//! carry a checksum; one that cannot be read is put aside and costs nothing else.

use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, TableHandle,
    WriteTransaction,
};

use super::{META, Store, StoreError, decode, encode};
use crate::accounts::{Batch, Key, Kind, Loaded, Record, Row};
use crate::id::{ActorId, MeshId, RecordId};

pub(super) type Records<'a> = TableDefinition<'a, (u16, [u8; 16]), &'static [u8]>;
pub(super) type Actors<'a> = TableDefinition<'a, [u8; 16], &'static [u8]>;
pub(super) type Forgotten<'a> = TableDefinition<'a, (u16, [u8; 16]), ()>;
type Aside<'a> = TableDefinition<'a, u64, &'static [u8]>;

/// Bytes of a row that say whether the others are what was written.
const SEAL_BYTES: usize = 8;
/// The mesh whose ledger was put into a folder without one: see [`Entry`].
pub(super) const RESTORED: &str = "restored";

/// How a node comes to its mesh: decides whether a ledger that belongs to none becomes the mesh's.
/// There is one after a restore into a new folder, and in a folder of layout 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It was a member already.
    Member,
    /// It founds the mesh.
    Founder,
    /// It was just let in.
    Newcomer,
}

/// Names of a mesh's tables; without one, of a ledger that belongs to none yet.
#[derive(Debug, Clone)]
pub(super) struct Names {
    records: String,
    actors: String,
    forgotten: String,
    aside: String,
}

impl Names {
    pub(super) fn of(mesh: Option<MeshId>) -> Self {
        let name = |table: &str| match mesh {
            Some(mesh) => format!("{table}:{mesh}"),
            None => table.into(),
        };
        Self {
            records: name("ledger"),
            actors: name("ledger-actors"),
            forgotten: name("ledger-forgotten"),
            aside: name("ledger-aside"),
        }
    }

    pub(super) fn records(&self) -> Records<'_> {
        TableDefinition::new(&self.records)
    }

    pub(super) fn actors(&self) -> Actors<'_> {
        TableDefinition::new(&self.actors)
    }

    pub(super) fn forgotten(&self) -> Forgotten<'_> {
        TableDefinition::new(&self.forgotten)
    }

    fn aside(&self) -> Aside<'_> {
        TableDefinition::new(&self.aside)
    }

    /// Makes the tables that are not there.
    pub(super) fn create(&self, tx: &WriteTransaction) -> Result<(), redb::Error> {
        tx.open_table(self.records())?;
        tx.open_table(self.actors())?;
        tx.open_table(self.forgotten())?;
        tx.open_table(self.aside())?;
        Ok(())
    }

    fn rename(&self, tx: &WriteTransaction, new: &Self) -> Result<(), redb::Error> {
        tx.rename_table(self.records(), new.records())?;
        tx.rename_table(self.actors(), new.actors())?;
        tx.rename_table(self.forgotten(), new.forgotten())?;
        tx.rename_table(self.aside(), new.aside())?;
        Ok(())
    }
}

/// A row that cannot be read: where it was, under which name, and what stood there.
type Unreadable = (String, Vec<u8>, Vec<u8>);

impl Store {
    /// Makes the folder one of this mesh. What it holds of others stays, and is not touched.
    pub fn bind(&self, mesh: MeshId, entry: Entry) -> Result<(), StoreError> {
        self.write(|tx| {
            let restored = {
                let mut meta = tx.open_table(META)?;
                meta.insert("mesh", mesh.0.as_slice())?;
                meta.get(RESTORED)?.map(|value| value.value().to_vec())
            };
            let (own, free) = (Names::of(Some(mesh)), Names::of(None));
            let there: Vec<String> =
                tx.list_tables()?.map(|table| table.name().to_owned()).collect();
            if there.contains(&own.records) {
                return Ok(());
            }
            let adopted = match (entry, restored) {
                (Entry::Member, _) => true,
                (Entry::Founder, restored) => restored.is_some(),
                (Entry::Newcomer, restored) => restored.is_some_and(|of| of == mesh.0),
            };
            if adopted && there.contains(&free.records) {
                free.rename(tx, &own)?;
                tx.open_table(META)?.remove(RESTORED)?;
            }
            own.create(tx)
        })
    }

    /// The ledger of a mesh as it was written. Rows that cannot be read are put aside, and what
    /// they held is no longer claimed to be here, so that other members bring it again.
    pub fn ledger(&self, mesh: MeshId) -> Result<Loaded, StoreError> {
        let names = Names::of(Some(mesh));
        let (mut loaded, unreadable) = self.read(|db| load(db, &names))?;
        if unreadable.is_empty() {
            return Ok(loaded);
        }
        loaded.unreadable = unreadable.len() as u64;
        loaded.recount();
        self.write(|tx| {
            let mut aside = tx.open_table(names.aside())?;
            let first = aside.last()?.map_or(0, |row| row.0.value() + 1);
            for (number, row) in (first..).zip(&unreadable) {
                aside.insert(number, encode(row).as_slice())?;
            }
            let mut records = tx.open_table(names.records())?;
            let mut actors = tx.open_table(names.actors())?;
            for (table, key, _) in &unreadable {
                if *table == names.records {
                    records.remove(decode::<(u16, [u8; 16])>(key)?)?;
                } else {
                    actors.remove(decode::<[u8; 16]>(key)?)?;
                }
            }
            for (actor, row) in &loaded.actors {
                actors.insert(actor.0, seal(&actor.0, &encode(row)).as_slice())?;
            }
            Ok(())
        })?;
        Ok(loaded)
    }

    /// Writes a batch down, all of it or nothing.
    pub fn write_ledger(&self, mesh: MeshId, batch: &Batch) -> Result<(), StoreError> {
        let names = Names::of(Some(mesh));
        self.write(|tx| {
            let mut records = tx.open_table(names.records())?;
            if !batch.forgotten.is_empty() {
                let mut forgotten = tx.open_table(names.forgotten())?;
                for key in &batch.forgotten {
                    forgotten.insert((key.kind.0, key.id.0), ())?;
                    records.remove((key.kind.0, key.id.0))?;
                }
            }
            for (key, bytes) in &batch.records {
                let name = (key.kind.0, key.id.0);
                records.insert(name, seal(&encode(&name), bytes).as_slice())?;
            }
            let mut actors = tx.open_table(names.actors())?;
            for (actor, row) in &batch.actors {
                actors.insert(actor.0, seal(&actor.0, &encode(row)).as_slice())?;
            }
            Ok(())
        })
    }
}

/// A row's bytes with what tells whether they are still those of this row.
pub(super) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = crate::accounts::hash(&[key, value]).to_le_bytes().to_vec();
    sealed.extend_from_slice(value);
    sealed
}

fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, value) = sealed.split_at_checked(SEAL_BYTES)?;
    (sum == crate::accounts::hash(&[key, value]).to_le_bytes()).then_some(value)
}

/// Reads every page of every ledger in the folder, so that damage shows at the start.
pub(super) fn touch(db: &Database) -> Result<(), redb::Error> {
    let tx = db.begin_read()?;
    for table in tx.list_tables()? {
        let name = table.name().to_owned();
        let of = |wanted: &str| {
            let rest = name.strip_prefix(wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        if of("ledger") {
            let table = tx.open_table(Records::new(&name))?;
            table.iter()?.try_for_each(|row| row.map(drop))?;
        } else if of("ledger-actors") {
            let table = tx.open_table(Actors::new(&name))?;
            table.iter()?.try_for_each(|row| row.map(drop))?;
        } else if of("ledger-forgotten") {
            let table = tx.open_table(Forgotten::new(&name))?;
            table.iter()?.try_for_each(|row| row.map(drop))?;
        }
    }
    Ok(())
}

/// How many rows of a mesh's ledger were put aside since the folder is there.
fn aside(db: &Database, names: &Names) -> Result<u64, redb::Error> {
    Ok(db.begin_read()?.open_table(names.aside())?.len()?)
}

impl Store {
    /// How many rows of a mesh's ledger were ever put aside.
    pub fn aside(&self, mesh: MeshId) -> Result<u64, StoreError> {
        self.read(|db| aside(db, &Names::of(Some(mesh))))
    }
}

pub(super) fn load(db: &Database, names: &Names) -> Result<(Loaded, Vec<Unreadable>), redb::Error> {
    let tx = db.begin_read()?;
    let mut loaded = Loaded::default();
    let mut unreadable = Vec::new();
    for row in tx.open_table(names.records())?.iter()? {
        let (key, bytes) = row?;
        let (name, bytes) = (encode(&key.value()), bytes.value());
        let (kind, id) = key.value();
        match unseal(&name, bytes).filter(|bytes| Record::decode(bytes).is_ok()) {
            Some(bytes) => {
                loaded.records.push((Key { kind: Kind(kind), id: RecordId(id) }, bytes.to_vec()))
            }
            None => unreadable.push((names.records.clone(), name, bytes.to_vec())),
        }
    }
    for row in tx.open_table(names.actors())?.iter()? {
        let (actor, bytes) = row?;
        let (actor, bytes) = (actor.value(), bytes.value());
        match unseal(&actor, bytes).and_then(|bytes| decode::<Row>(bytes).ok()) {
            Some(row) => loaded.actors.push((ActorId(actor), row)),
            None => unreadable.push((names.actors.clone(), encode(&actor), bytes.to_vec())),
        }
    }
    for row in tx.open_table(names.forgotten())?.iter()? {
        let (kind, id) = row?.0.value();
        loaded.forgotten.push(Key { kind: Kind(kind), id: RecordId(id) });
    }
    Ok((loaded, unreadable))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{Change, Dot, Seen, Stamp};
    use crate::id::{AccountId, NodeId};

    const MESH: MeshId = MeshId([5; 16]);
    const ACTOR: ActorId = ActorId([9; 16]);

    fn key(n: u8) -> Key {
        Key { kind: Kind::ROOM, id: RecordId([n; 16]) }
    }

    fn record(seq: u64) -> Vec<u8> {
        let mut record = Record::default();
        let by = Stamp { account: AccountId([1; 16]), node: NodeId([2; 16]), wall: 3 };
        let dot = Dot { actor: ACTOR, seq, nonce: [0; 4] };
        record.apply(dot, by, &[Change::Set(1, vec![7])]).unwrap();
        record.encode()
    }

    fn open(dir: &std::path::Path, entry: Entry) -> Store {
        let store = Store::open(dir).unwrap().store;
        store.bind(MESH, entry).unwrap();
        store
    }

    fn filled(dir: &std::path::Path) -> (Store, Loaded) {
        let store = open(dir, Entry::Founder);
        let row = Row { seen: Seen { upto: 3, beyond: vec![] }, own: true, ..Row::default() };
        let records: Vec<_> = (1..=3).map(|n| (key(n), record(n.into()))).collect();
        let actors = vec![(ACTOR, row)];
        let batch = Batch { records: records.clone(), actors: actors.clone(), ..Batch::default() };
        store.write_ledger(MESH, &batch).unwrap();
        (store, Loaded { records, actors, ..Loaded::default() })
    }

    #[test]
    fn the_ledger_is_as_it_was_written_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut loaded) = filled(dir.path());
        let forgotten = vec![key(1)];
        let batch = Batch { forgotten: forgotten.clone(), ..Batch::default() };
        store.write_ledger(MESH, &batch).unwrap();
        drop(store);
        let store = open(dir.path(), Entry::Member);
        loaded.records.remove(0);
        assert_eq!(store.ledger(MESH).unwrap(), Loaded { forgotten, ..loaded });
    }

    #[test]
    fn another_mesh_gets_nothing_and_the_first_one_finds_all_again() {
        let dir = tempfile::tempdir().unwrap();
        let (store, loaded) = filled(dir.path());
        let other = MeshId([6; 16]);
        for entry in [Entry::Founder, Entry::Newcomer, Entry::Member] {
            store.bind(other, entry).unwrap();
            assert_eq!(store.ledger(other).unwrap(), Loaded::default(), "{entry:?}");
        }
        let batch = Batch { records: vec![(key(9), record(9))], ..Batch::default() };
        store.write_ledger(other, &batch).unwrap();
        assert_eq!(store.mesh().unwrap(), Some(other));
        store.bind(MESH, Entry::Member).unwrap();
        assert_eq!((store.mesh().unwrap(), store.ledger(MESH).unwrap()), (Some(MESH), loaded));
        assert_eq!(store.ledger(other).unwrap().records.len(), 1);
    }

    #[test]
    fn a_row_that_cannot_be_read_is_put_aside_and_no_longer_claimed() {
        let dir = tempfile::tempdir().unwrap();
        let (store, loaded) = filled(dir.path());
        let names = Names::of(Some(MESH));
        let spoil = |at: u8| {
            let name = (key(at).kind.0, key(at).id.0);
            let damaged = store.write(|tx| {
                let mut table = tx.open_table(names.records())?;
                let mut bytes = table.get(name)?.unwrap().value().to_vec();
                *bytes.last_mut().unwrap() ^= 1;
                table.insert(name, bytes.as_slice())?;
                Ok(())
            });
            damaged.unwrap();
        };
        spoil(2);
        for round in 0..2 {
            let found = store.ledger(MESH).unwrap();
            let kept = vec![loaded.records[0].clone(), loaded.records[2].clone()];
            assert_eq!(found.records, kept);
            let seen = Seen { upto: 1, beyond: vec![3] };
            assert_eq!(found.actors[0].1.seen, seen, "what it held has to come again");
            assert_eq!(found.unreadable, u64::from(round == 0), "counted once");
            assert_eq!(store.aside(MESH).unwrap(), 1, "and kept");
        }
        let damaged = store.write(|tx| {
            tx.open_table(names.actors())?.insert(ACTOR.0, &b"nonsense"[..])?;
            Ok(())
        });
        damaged.unwrap();
        let found = store.ledger(MESH).unwrap();
        assert_eq!(found.records.len(), 2, "an actor's row costs no record");
        assert_eq!(found.actors[0].1.seen, Seen { upto: 1, beyond: vec![3] });
        assert_eq!(store.aside(MESH).unwrap(), 2);
    }
}
