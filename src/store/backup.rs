//! Backups: a copy of the ledger and of who belongs to the mesh, as they were at one moment, in a
//! database of the same layout. It holds no key, and nothing in it is a node's own: whoever puts
//! it back numbers its changes anew, and gets from the others what came later.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableTable, WriteTransaction};

use super::ledger::{Names, RESTORED, load, seal};
use super::{
    DATABASE_FILE, MEMBERS, META, SCHEMA, Saved, Shared, Store, StoreError, Trouble, encode, files,
    guarded, insert_names, insert_statements, meta, open_database, read_members, read_names,
    read_shared, read_statements,
};
use crate::accounts::{Loaded, Row};
use crate::id::MeshId;

/// When a backup was made, in milliseconds since 1970.
const MADE: &str = "made";

/// Makes backups while the store is written to, for as long as it is open.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    db: Shared,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackedUp {
    /// Of which mesh.
    pub mesh: MeshId,
    /// How many records.
    pub records: usize,
    /// When it was made, in milliseconds since 1970.
    pub made: u64,
}

/// What became of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What was put back.
    pub backup: BackedUp,
    /// The database as it was before.
    pub aside: PathBuf,
}

impl Store {
    /// What makes backups of this store.
    pub fn source(&self) -> Source {
        Source { path: self.path.clone(), db: self.db.clone() }
    }
}

impl Source {
    /// Writes the ledger of a mesh as it is at this moment into a file, which is whole when it has
    /// that name.
    pub fn backup(&self, mesh: MeshId, made: u64, file: &Path) -> Result<BackedUp, StoreError> {
        let read = read_shared(&self.path, &self.db, |db| Content::read(db, mesh))?;
        let backup = BackedUp { mesh, records: read.loaded.records.len(), made };
        let unfinished = files::with_suffix(file, ".new");
        files::remove(&unfinished)?;
        drop(files::open_private(&unfinished)?);
        guarded(&unfinished, || {
            let db = Database::create(&unfinished)?;
            let tx = db.begin_write()?;
            {
                let mut meta = tx.open_table(META)?;
                meta.insert("schema", SCHEMA.to_le_bytes().as_slice())?;
                meta.insert("mesh", mesh.0.as_slice())?;
                meta.insert(MADE, made.to_le_bytes().as_slice())?;
            }
            read.write(&tx, &Names::of(Some(mesh)))?;
            tx.commit()?;
            Ok(())
        })?;
        files::put_in_place(&unfinished, file)?;
        Ok(backup)
    }
}

/// What a backup carries over.
struct Content {
    saved: Saved,
    loaded: Loaded,
}

impl Content {
    fn read(db: &Database, mesh: MeshId) -> Result<Self, redb::Error> {
        let (statements, members) = (read_statements(db)?, read_members(db)?);
        // What cannot be read is put aside at the next start, and is no part of a backup.
        let (loaded, unreadable) = load(db, &Names::of(Some(mesh)))?;
        let saved = Saved { boot: 0, statements, members, names: read_names(db)? };
        let mut content = Self { saved, loaded };
        if !unreadable.is_empty() {
            content.loaded.recount();
        }
        Ok(content)
    }

    /// Adds the membership to what is there, and puts the ledger in place of what is there.
    fn write(&self, tx: &WriteTransaction, names: &Names) -> Result<(), redb::Error> {
        insert_statements(tx, &self.saved.statements)?;
        let mut members = tx.open_table(MEMBERS)?;
        for (node, addrs) in &self.saved.members {
            if members.get(node.0)?.is_none() {
                members.insert(node.0, encode(addrs).as_slice())?;
            }
        }
        insert_names(tx, &self.saved.names)?;
        tx.delete_table(names.records())?;
        tx.delete_table(names.actors())?;
        tx.delete_table(names.forgotten())?;
        names.create(tx)?;
        let mut records = tx.open_table(names.records())?;
        for (key, bytes) in &self.loaded.records {
            let name = (key.kind.0, key.id.0);
            records.insert(name, seal(&encode(&name), bytes).as_slice())?;
        }
        let mut actors = tx.open_table(names.actors())?;
        for (actor, row) in &self.loaded.actors {
            let row = Row { own: false, ..row.clone() };
            actors.insert(actor.0, seal(&actor.0, &encode(&row)).as_slice())?;
        }
        let mut forgotten = tx.open_table(names.forgotten())?;
        for key in &self.loaded.forgotten {
            forgotten.insert((key.kind.0, key.id.0), ())?;
        }
        Ok(())
    }
}

/// Puts a backup into a folder that no node runs on. What was there stays beside it. A folder
/// without a mesh takes the ledger into the mesh that its node founds, or into the backup's if it
/// is let in there.
pub fn restore(file: &Path, dir: &Path) -> Result<Restored, StoreError> {
    let opened = Store::open(dir)?;
    let (lock, path) = (opened.store.lock(), dir.join(DATABASE_FILE));
    let (content, backup) = read_backup(file, dir)?;
    let found = opened.store.mesh()?;
    if let Some(found) = found.filter(|found| *found != backup.mesh) {
        return Err(StoreError::OtherMesh { found, wanted: backup.mesh });
    }
    // Closed, it is whole on disk.
    drop(opened);
    let unfinished = files::with_suffix(&path, ".new");
    files::copy(&path, &unfinished)?;
    guarded(&unfinished, || {
        let db = Database::create(&unfinished)?;
        let tx = db.begin_write()?;
        content.write(&tx, &Names::of(found))?;
        if found.is_none() {
            tx.open_table(META)?.insert(RESTORED, backup.mesh.0.as_slice())?;
        }
        tx.commit()?;
        Ok(())
    })?;
    let aside = files::keep(&path, ".before-restore")?;
    files::put_in_place(&unfinished, &path)?;
    drop(lock);
    Ok(Restored { backup, aside })
}

/// Reads a copy of the file, which stays as it is whatever its layout.
fn read_backup(file: &Path, dir: &Path) -> Result<(Content, BackedUp), StoreError> {
    let copy = dir.join("backup.part");
    files::copy(file, &copy)?;
    let not_one = |reason: &str| StoreError::NoBackup { path: file.into(), reason: reason.into() };
    let read = || {
        let db = match open_database(&copy) {
            Ok(db) => db,
            Err(Trouble::Corrupt(_)) => return Err(not_one("it is damaged")),
            Err(Trouble::Failed(StoreError::Newer { found, .. })) => {
                return Err(StoreError::Newer { path: file.into(), found });
            }
            Err(Trouble::Failed(error)) => return Err(error),
        };
        let (mesh, made) = guarded(&copy, || Ok((meta(&db, "mesh")?, meta(&db, MADE)?)))?;
        let mesh = mesh.and_then(|mesh| Some(MeshId(mesh.try_into().ok()?)));
        let made = made.and_then(|made| Some(u64::from_le_bytes(made.try_into().ok()?)));
        let (Some(mesh), Some(made)) = (mesh, made) else {
            return Err(not_one("roost backup did not write it"));
        };
        let content = guarded(&copy, || Content::read(&db, mesh))?;
        let records = content.loaded.records.len();
        Ok((content, BackedUp { mesh, records, made }))
    };
    let read = read();
    files::remove(&copy)?;
    read
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Entry;
    use super::*;
    use crate::accounts::{Batch, Change, Dot, Key, Kind, Record, Seen, Stamp};
    use crate::id::{AccountId, ActorId, NodeId, RecordId};

    const MESH: MeshId = MeshId([5; 16]);

    fn key(n: u8) -> Key {
        Key { kind: Kind::ACCOUNT, id: RecordId([n; 16]) }
    }

    fn write(store: &Store, n: u8) {
        let mut record = Record::default();
        let by = Stamp { account: AccountId([1; 16]), node: NodeId([2; 16]), wall: 3 };
        let dot = Dot { actor: ActorId([9; 16]), seq: n.into(), nonce: [0; 4] };
        record.apply(dot, by, &[Change::Set(1, vec![n])]).unwrap();
        let seen = Seen { upto: n.into(), beyond: vec![] };
        let batch = Batch {
            records: vec![(key(n), record.encode())],
            actors: vec![(ActorId([9; 16]), Row { seen, own: true, ..Row::default() })],
            ..Batch::default()
        };
        store.write_ledger(MESH, &batch).unwrap();
    }

    fn keys(store: &Store, mesh: MeshId) -> Vec<u8> {
        store.ledger(mesh).unwrap().records.iter().map(|(key, _)| key.id.0[0]).collect()
    }

    /// A store with two records, backed up, and a third that came later.
    fn backed_up(dir: &Path) -> (Store, PathBuf) {
        let store = Store::open(dir).unwrap().store;
        store.bind(MESH, Entry::Founder).unwrap();
        write(&store, 1);
        write(&store, 2);
        store.name(&[(NodeId([2; 16]), "n2".into())]).unwrap();
        let file = dir.join("kept.backup");
        fs::write(&file, "an older one").unwrap();
        let made = store.source().backup(MESH, 77, &file).unwrap();
        assert_eq!(made, BackedUp { mesh: MESH, records: 2, made: 77 });
        write(&store, 3);
        (store, file)
    }

    #[test]
    fn a_restored_folder_has_what_was_backed_up_and_nothing_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (store, file) = backed_up(dir.path());
        assert_eq!(store.next_boot().unwrap().0, 1);
        drop(store);
        let restored = restore(&file, dir.path()).unwrap();
        assert_eq!(restored.backup, BackedUp { mesh: MESH, records: 2, made: 77 });
        let store = Store::open(dir.path()).unwrap().store;
        assert_eq!(store.next_boot().unwrap().0, 2, "what the ledger is not stays");
        store.bind(MESH, Entry::Member).unwrap();
        assert_eq!(keys(&store, MESH), [1, 2]);
        let loaded = store.ledger(MESH).unwrap();
        assert!(loaded.actors.iter().all(|(_, row)| !row.own && row.seen.upto == 2));
        drop(store);
        // What was there is a database as before.
        fs::rename(&restored.aside, dir.path().join(DATABASE_FILE)).unwrap();
        let store = Store::open(dir.path()).unwrap().store;
        assert_eq!(keys(&store, MESH), [1, 2, 3]);
        assert!(!fs::read(&file).unwrap().is_empty(), "the backup is still there");
        assert!(!dir.path().join("node.key").exists(), "no key comes from a backup");
    }

    #[test]
    fn a_folder_without_a_mesh_takes_the_ledger_into_the_one_it_founds() {
        let dir = tempfile::tempdir().unwrap();
        let (store, file) = backed_up(dir.path());
        drop(store);
        let other = MeshId([6; 16]);
        for (entry, mesh, expected) in [
            (Entry::Founder, other, vec![1, 2]),
            (Entry::Newcomer, MESH, vec![1, 2]),
            (Entry::Newcomer, other, vec![]),
        ] {
            let new = tempfile::tempdir().unwrap();
            restore(&file, new.path()).unwrap();
            let store = Store::open(new.path()).unwrap().store;
            store.bind(mesh, entry).unwrap();
            assert_eq!(keys(&store, mesh), expected, "{entry:?}");
            let named = vec![(NodeId([2; 16]), "n2".to_owned())];
            assert_eq!(store.names().unwrap(), named, "who changed what keeps its name");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (store, file) = backed_up(dir.path());
        drop(store);
        let other = tempfile::tempdir().unwrap();
        let store = Store::open(other.path()).unwrap().store;
        store.bind(MeshId([6; 16]), Entry::Founder).unwrap();
        drop(store);
        let refused = restore(&file, other.path()).unwrap_err();
        assert!(matches!(refused, StoreError::OtherMesh { .. }), "{refused}");
        let nonsense = dir.path().join("nonsense");
        fs::write(&nonsense, [7; 9_999]).unwrap();
        let refused = restore(&nonsense, dir.path()).unwrap_err();
        assert!(matches!(refused, StoreError::NoBackup { .. }), "{refused}");
        // A node's own database is none: two would number alike.
        let refused = restore(&other.path().join(DATABASE_FILE), dir.path()).unwrap_err();
        assert!(matches!(refused, StoreError::NoBackup { .. }), "{refused}");
        let store = Store::open(dir.path()).unwrap().store;
        assert_eq!(keys(&store, MESH), [1, 2, 3]);
    }
}
