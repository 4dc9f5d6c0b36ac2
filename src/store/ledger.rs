//! The ledger on disk: records by key, and what is there of each actor. A batch is one commit.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Store, StoreError, decode, encode};
use crate::accounts::{Batch, Key, Kind, Loaded};
use crate::id::{ActorId, RecordId};

/// By kind and id.
const RECORDS: TableDefinition<(u16, [u8; 16]), &[u8]> = TableDefinition::new("records");
/// By id, a [`crate::accounts::Row`].
const ACTORS: TableDefinition<[u8; 16], &[u8]> = TableDefinition::new("actors");

impl Store {
    /// The ledger as it was written.
    pub fn ledger(&self) -> Result<Loaded, StoreError> {
        self.read(load)
    }

    /// Writes a batch down, all of it or nothing.
    pub fn write_ledger(&self, batch: &Batch) -> Result<(), StoreError> {
        self.write(|tx| {
            let mut records = tx.open_table(RECORDS)?;
            let mut forgotten = tx.open_table(FORGOTTEN)?;
            for key in &batch.forgotten {
                forgotten.insert((key.kind.0, key.id.0), ())?;
                records.remove((key.kind.0, key.id.0))?;
            }
            for (key, bytes) in &batch.records {
                records.insert((key.kind.0, key.id.0), bytes.as_slice())?;
            }
            let mut actors = tx.open_table(ACTORS)?;
            for (actor, row) in &batch.actors {
                actors.insert(actor.0, encode(row).as_slice())?;
            }
            Ok(())
        })
    }
}

/// Ids of records that were forgotten.
const FORGOTTEN: TableDefinition<(u16, [u8; 16]), ()> = TableDefinition::new("forgotten");

/// Makes the tables of a new database.
pub(super) fn create(tx: &redb::WriteTransaction) -> Result<(), redb::Error> {
    tx.open_table(RECORDS)?;
    tx.open_table(ACTORS)?;
    tx.open_table(FORGOTTEN)?;
    Ok(())
}

pub(super) fn load(db: &Database) -> Result<Loaded, redb::Error> {
    let tx = db.begin_read()?;
    let records = tx.open_table(RECORDS)?;
    let records = records.iter()?.map(|row| {
        let (key, bytes) = row?;
        let (kind, id) = key.value();
        Ok((Key { kind: Kind(kind), id: RecordId(id) }, bytes.value().to_vec()))
    });
    let records = records.collect::<Result<_, redb::Error>>()?;
    let actors = tx.open_table(ACTORS)?;
    let actors = actors.iter()?.map(|row| {
        let (actor, row) = row?;
        Ok((ActorId(actor.value()), decode(row.value())?))
    });
    let actors = actors.collect::<Result<_, redb::Error>>()?;
    let forgotten = tx.open_table(FORGOTTEN)?;
    let forgotten = forgotten.iter()?.map(|row| {
        let (kind, id) = row?.0.value();
        Ok(Key { kind: Kind(kind), id: RecordId(id) })
    });
    Ok(Loaded { records, actors, forgotten: forgotten.collect::<Result<_, redb::Error>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{Row, Seen};

    #[test]
    fn the_ledger_is_as_it_was_written_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let key = |n| Key { kind: Kind::ROOM, id: RecordId([n; 16]) };
        let row = Row { seen: Seen { upto: 3, beyond: vec![5] }, own: true, ..Row::default() };
        let store = Store::open(dir.path()).unwrap().store;
        let records = vec![(key(1), vec![1]), (key(2), vec![2])];
        let actors = vec![(ActorId([9; 16]), row)];
        store.write_ledger(&Batch { records, actors: actors.clone(), ..Batch::default() }).unwrap();
        let forgotten = vec![key(1)];
        store.write_ledger(&Batch { forgotten: forgotten.clone(), ..Batch::default() }).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap().store;
        let records = vec![(key(2), vec![2])];
        assert_eq!(store.ledger().unwrap(), Loaded { records, actors, forgotten });
    }
}
