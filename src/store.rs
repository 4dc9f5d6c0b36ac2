//! What survives a restart, in one folder. Of a node: `roost.redb` (schema version, mesh,
//! admissions, remembered members, boot counter, the ledger of each mesh), `boot` (the same counter
//! once more, for when the database is lost), `node.key`, and `lock`. Of native agents: one file each, see
//! [`AgentStore`].
//!
//! Everything here blocks on the disk: call it at start, or off the async threads. What returns
//! is on disk.

mod agent;
mod backup;
mod error;
mod files;
mod first;
mod keys;
mod ledger;
mod migrate;

pub use agent::{AgentRecord, AgentStore, Held, HoldError, LoadedAgent};
pub use backup::{BackedUp, Restored, Source, restore};
pub use error::StoreError;
pub use keys::{forget_next_key, keep_next_key, load_or_create_key, next_key, use_key};
pub use ledger::Entry;

pub use first::{FIRST_PASSWORD_FILE, first_password, forget_first_password, keep_first_password};

use std::fs::{File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};

use crate::admission::{Admission, Statement};
use crate::id::{Boot, MeshId, NodeId};

/// The layout of the database. Raised when an older version could not read it, with a step in
/// `migrate.rs`.
pub const SCHEMA: u32 = 2;
/// How long to wait for another process that holds the folder: a node that was told to stop empties
/// itself for 10 s, is given another if its loop is slow, and closes links and requests for 2.5 s.
/// A script that stops one and starts the next at once finds the folder free within this.
pub const LOCK_WAIT: Duration = Duration::from_secs(16);
/// Memory for pages of the database: it is read at start only.
const CACHE_BYTES: usize = 8 << 20;
/// Most remembered members: twice the largest mesh that is simulated. Beyond it new ones are not
/// remembered.
pub const MEMBERS_MAX: usize = 2_048;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const ADMISSIONS: TableDefinition<&[u8], ()> = TableDefinition::new("admissions");
/// What else was said of members.
const STATEMENTS: TableDefinition<&[u8], ()> = TableDefinition::new("statements");
const MEMBERS: TableDefinition<[u8; 16], &[u8]> = TableDefinition::new("members");
/// What nodes were called when they were last heard of.
const NAMES: TableDefinition<[u8; 16], &str> = TableDefinition::new("names");

const DATABASE_FILE: &str = "roost.redb";
const BOOT_FILE: &str = "boot";
const LOCK_FILE: &str = "lock";

/// A store that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Where a corrupt database was put aside; the store then began with what could be read of it
    /// besides the ledger. To be told to people.
    pub quarantined: Option<PathBuf>,
}

/// A node's store. Holds the folder's lock until it and all clones of the lock are dropped.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    path: PathBuf,
    db: Shared,
    /// The database met an error of the disk, and takes nothing until it is opened again.
    failed: AtomicBool,
    lock: Arc<File>,
}

/// The database, while it is open.
type Shared = Arc<RwLock<Option<Database>>>;

/// Why the database did not open.
enum Trouble {
    /// With what could be read of it.
    Corrupt(Saved),
    Failed(StoreError),
}

/// What makes a node a member: small, and kept if the ledger beside it is damaged.
#[derive(Default)]
struct Saved {
    boot: u64,
    statements: Vec<Statement>,
    members: Vec<(NodeId, Vec<String>)>,
    names: Vec<(NodeId, String)>,
}

impl Store {
    /// Opens the store in `dir`, which is made if it is not there, readable by its owner alone. A
    /// corrupt database is put aside, never deleted, and the store begins with what is left of the
    /// membership. Blocks for up to [`LOCK_WAIT`].
    pub fn open(dir: &Path) -> Result<Opened, StoreError> {
        files::make_dir(dir)?;
        let lock = lock(dir)?;
        let path = dir.join(DATABASE_FILE);
        let (db, quarantined, saved) = match open_database(&path) {
            Ok(db) => (db, None, Saved::default()),
            Err(Trouble::Failed(error)) => return Err(error),
            Err(Trouble::Corrupt(saved)) => {
                let aside = files::quarantine(&path)?;
                match open_database(&path) {
                    Ok(db) => (db, Some(aside), saved),
                    Err(Trouble::Failed(error)) => return Err(error),
                    Err(Trouble::Corrupt(_)) => {
                        let reason = "a new database is corrupt at once".into();
                        return Err(StoreError::Database { path, reason });
                    }
                }
            }
        };
        let (db, lock) = (Arc::new(RwLock::new(Some(db))), Arc::new(lock));
        let failed = AtomicBool::new(false);
        let store = Self { dir: dir.into(), path, db, failed, lock };
        store.add_statements(&saved.statements)?;
        store.remember(&saved.members)?;
        store.name(&saved.names)?;
        store.raise_boot(Boot(saved.boot))?;
        Ok(Opened { store, quarantined })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder's lock: for as long as anybody has it, no other process takes the folder.
    pub fn lock(&self) -> Arc<File> {
        self.lock.clone()
    }

    /// Bytes of the database on disk.
    pub fn size(&self) -> Option<u64> {
        std::fs::metadata(&self.path).ok().map(|meta| meta.len())
    }

    /// Counts this start and returns its number, higher than any before, also after the database
    /// was lost.
    pub fn next_boot(&self) -> Result<Boot, StoreError> {
        let boot = Boot(self.last_boot()?.saturating_add(1));
        self.note_boot(boot)?;
        Ok(boot)
    }

    /// Notes that others know this node by a boot above its own, as after an old folder was put
    /// back: the next start counts on from there.
    pub fn raise_boot(&self, boot: Boot) -> Result<(), StoreError> {
        if boot.0 <= self.last_boot()? {
            return Ok(());
        }
        self.note_boot(boot)
    }

    fn last_boot(&self) -> Result<u64, StoreError> {
        // A file that is not a number was not written here; the database still knows.
        let noted = files::read(&self.dir.join(BOOT_FILE))?.and_then(|text| number(&text));
        let stored = self.read(|db| meta_u64(db, "boot"))?;
        Ok(noted.unwrap_or(0).max(stored.unwrap_or(0)))
    }

    fn note_boot(&self, Boot(boot): Boot) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.open_table(META)?.insert("boot", boot.to_le_bytes().as_slice())?;
            Ok(())
        })?;
        files::write_atomic(&self.dir.join(BOOT_FILE), format!("{boot}\n").as_bytes())
    }

    /// The first of the databases that were put aside and are still in the folder.
    pub fn put_aside(&self) -> Result<Option<PathBuf>, StoreError> {
        files::quarantined(&self.path)
    }

    /// The mesh that this folder was in last.
    pub fn mesh(&self) -> Result<Option<MeshId>, StoreError> {
        let bytes = self.read(|db| meta(db, "mesh"))?;
        Ok(bytes.and_then(|bytes| Some(MeshId(bytes.try_into().ok()?))))
    }

    /// Every statement about members that was added.
    pub fn statements(&self) -> Result<Vec<Statement>, StoreError> {
        self.read(read_statements)
    }

    /// Adds statements in one step; those already there stay as they are.
    pub fn add_statements(&self, statements: &[Statement]) -> Result<(), StoreError> {
        if statements.is_empty() {
            return Ok(());
        }
        self.write(|tx| insert_statements(tx, statements))
    }

    /// Members and their addresses as last remembered, for a start without anyone to ask.
    pub fn members(&self) -> Result<Vec<(NodeId, Vec<String>)>, StoreError> {
        self.read(read_members)
    }

    /// Notes addresses of members in one step, in place of those known before. Beyond
    /// [`MEMBERS_MAX`] members new ones are left out.
    pub fn remember(&self, members: &[(NodeId, Vec<String>)]) -> Result<(), StoreError> {
        if members.is_empty() {
            return Ok(());
        }
        self.write(|tx| {
            let mut table = tx.open_table(MEMBERS)?;
            let mut count = redb::ReadableTableMetadata::len(&table)?;
            for (node, addrs) in members {
                let known = table.get(node.0)?.is_some();
                if !known && count >= MEMBERS_MAX as u64 {
                    continue;
                }
                count += u64::from(!known);
                table.insert(node.0, encode(addrs).as_slice())?;
            }
            Ok(())
        })
    }

    /// What nodes were called last, also those that are members no more.
    pub fn names(&self) -> Result<Vec<(NodeId, String)>, StoreError> {
        self.read(read_names)
    }

    /// Notes what nodes are called, in place of what they were called before. Beyond
    /// [`MEMBERS_MAX`] nodes new ones are left out.
    pub fn name(&self, names: &[(NodeId, String)]) -> Result<(), StoreError> {
        if names.is_empty() {
            return Ok(());
        }
        self.write(|tx| insert_names(tx, names))
    }

    /// Forgets a member's addresses.
    pub fn forget(&self, node: NodeId) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.open_table(MEMBERS)?.remove(node.0)?;
            Ok(())
        })
    }

    fn read<T>(
        &self,
        body: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.with(body)
    }

    fn write(
        &self,
        body: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        self.with(|db| {
            let tx = db.begin_write()?;
            body(&tx)?;
            tx.commit()?;
            Ok(())
        })
    }

    /// After an error of the disk redb refuses everything: the next one who asks opens the
    /// database again, so that a disk that has room again is enough.
    fn with<T>(
        &self,
        body: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        if self.failed.load(Ordering::Relaxed) {
            self.reopen()?;
        }
        let done = read_shared(&self.path, &self.db, body);
        self.failed.store(done.is_err(), Ordering::Relaxed);
        done
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        *db = None;
        let opened = guarded(&self.path, || {
            Ok(Database::builder().set_cache_size(CACHE_BYTES).create(&self.path)?)
        });
        *db = Some(opened?);
        self.failed.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Store {
    /// Whoever makes backups has no database any more.
    fn drop(&mut self) {
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Does something with a database that may be closed.
fn read_shared<T>(
    path: &Path,
    db: &Shared,
    body: impl FnOnce(&Database) -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    let db = db.read().unwrap_or_else(PoisonError::into_inner);
    match db.as_ref() {
        Some(db) => guarded(path, || body(db)),
        None => {
            let reason = "it is closed".into();
            Err(StoreError::Database { path: path.into(), reason })
        }
    }
}

/// A page that went bad after opening may make redb panic instead of returning an error.
fn guarded<T>(path: &Path, body: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(redb::Error::Io(source))) => Err(files::io_error(path, source)),
        Ok(Err(error)) => {
            Err(StoreError::Database { path: path.into(), reason: error.to_string() })
        }
        Err(_panic) => {
            let reason = "it is damaged".into();
            Err(StoreError::Database { path: path.into(), reason })
        }
    }
}

/// Takes the folder's lock, and waits a little for a process that is just ending.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK_FILE);
    let mut file = files::open_private(&path)?;
    let until = Instant::now() + LOCK_WAIT;
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(source)) => return Err(files::io_error(&path, source)),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                if !std::mem::replace(&mut said, true) {
                    let (pid, limit) = (holder(&path)?, LOCK_WAIT.as_millis());
                    tracing::warn!(
                        event = "folder.held", folder = %dir.display(), pid, limit,
                        "another process holds the data folder; waiting for it to let go"
                    );
                }
                thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { dir: dir.into(), pid: holder(&path)? });
            }
        }
    }
    // Only tells people who holds it: the lock itself is the kernel's and dies with the process.
    let pid = format!("{}\n", std::process::id());
    let noted = file.set_len(0).and_then(|()| io::Write::write_all(&mut file, pid.as_bytes()));
    noted.map_err(|source| files::io_error(&path, source))?;
    Ok(file)
}

/// The process that holds the folder, as far as it said so.
fn holder(path: &Path) -> Result<Option<u32>, StoreError> {
    let text = files::read(path)?.unwrap_or_default();
    Ok(number(&text).and_then(|pid| u32::try_from(pid).ok()))
}

/// Opens the database and reads all of it, so that damage shows now and not later.
fn open_database(path: &Path) -> Result<Database, Trouble> {
    // redb 4 panics on some damaged files instead of returning an error.
    match catch_unwind(AssertUnwindSafe(|| try_open(path))) {
        Ok(result) => result,
        Err(_panic) => Err(Trouble::Corrupt(Saved::default())),
    }
}

/// A database of the present layout under another name first: who is killed while it is made
/// leaves nothing that looks like a damaged one.
fn make_database(path: &Path) -> Result<(), Trouble> {
    let unfinished = path.with_extension("unfinished");
    files::remove(&unfinished).map_err(Trouble::Failed)?;
    let db = database(&unfinished)?;
    read_schema(&db).map_err(|error| trouble(path, error, Saved::default()))?;
    drop(db);
    files::put_in_place(&unfinished, path).map_err(Trouble::Failed)
}

fn database(path: &Path) -> Result<Database, Trouble> {
    drop(files::open_private(path).map_err(Trouble::Failed)?);
    let db = Database::builder().set_cache_size(CACHE_BYTES).create(path);
    db.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => {
            let dir = path.parent().unwrap_or(path).into();
            Trouble::Failed(StoreError::InUse { dir, pid: None })
        }
        DatabaseError::Storage(error) => trouble(path, error.into(), Saved::default()),
        other => trouble(path, other.into(), Saved::default()),
    })
}

fn try_open(path: &Path) -> Result<Database, Trouble> {
    if files::mode(path).map_err(Trouble::Failed)?.is_none() {
        make_database(path)?;
    }
    let db = database(path)?;
    let schema = read_schema(&db).map_err(|error| trouble(path, error, Saved::default()))?;
    if schema > SCHEMA {
        return Err(Trouble::Failed(StoreError::Newer { path: path.into(), found: schema }));
    }
    let membership = || {
        let boot = meta_u64(&db, "boot")?.unwrap_or(0);
        meta(&db, "mesh")?;
        let (statements, members) = (read_statements(&db)?, read_members(&db)?);
        Ok(Saved { boot, statements, members, names: read_names(&db)? })
    };
    let saved = membership().map_err(|error| trouble(path, error, Saved::default()))?;
    match catch_unwind(AssertUnwindSafe(|| ledger::touch(&db))) {
        Ok(Ok(())) => Ok(db),
        Ok(Err(error)) => Err(trouble(path, error, saved)),
        Err(_panic) => Err(Trouble::Corrupt(saved)),
    }
}

/// Damage is what reading can show; everything else stops the start and touches nothing.
fn trouble(path: &Path, error: redb::Error, saved: Saved) -> Trouble {
    use redb::Error as E;
    match error {
        E::Corrupted(_) | E::TableTypeMismatch { .. } | E::TypeDefinitionChanged { .. } => {
            Trouble::Corrupt(saved)
        }
        E::TableIsMultimap(_) | E::TableIsNotMultimap(_) => Trouble::Corrupt(saved),
        E::Io(source)
            if matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Trouble::Corrupt(saved)
        }
        E::Io(source) => Trouble::Failed(files::io_error(path, source)),
        other => {
            let reason = other.to_string();
            Trouble::Failed(StoreError::Database { path: path.into(), reason })
        }
    }
}

/// The layout's version, written into a new database together with its tables. An older layout
/// becomes the present one.
fn read_schema(db: &Database) -> Result<u32, redb::Error> {
    let tx = db.begin_write()?;
    let found = {
        let mut table = tx.open_table(META)?;
        let found =
            table.get("schema")?.map(|value| value.value().try_into().map(u32::from_le_bytes));
        match found {
            Some(Ok(found)) => found,
            Some(Err(_)) => return Err(redb::Error::Corrupted("schema version".into())),
            None => {
                table.insert("schema", SCHEMA.to_le_bytes().as_slice())?;
                SCHEMA
            }
        }
    };
    if found > SCHEMA {
        return Ok(found);
    }
    tx.open_table(ADMISSIONS)?;
    // Databases of earlier versions gain it here.
    tx.open_table(STATEMENTS)?;
    tx.open_table(MEMBERS)?;
    tx.open_table(NAMES)?;
    if found < SCHEMA {
        migrate::migrate(&tx, found)?;
        tx.open_table(META)?.insert("schema", SCHEMA.to_le_bytes().as_slice())?;
        tracing::info!(
            event = "store.migrated",
            from = found,
            to = SCHEMA,
            "the store has a new layout"
        );
    }
    tx.commit()?;
    Ok(found)
}

fn meta(db: &Database, key: &str) -> Result<Option<Vec<u8>>, redb::Error> {
    let table = db.begin_read()?.open_table(META)?;
    Ok(table.get(key)?.map(|value| value.value().to_vec()))
}

fn meta_u64(db: &Database, key: &str) -> Result<Option<u64>, redb::Error> {
    Ok(meta(db, key)?.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?))))
}

fn insert_statements(
    tx: &redb::WriteTransaction,
    statements: &[Statement],
) -> Result<(), redb::Error> {
    let mut admissions = tx.open_table(ADMISSIONS)?;
    let mut others = tx.open_table(STATEMENTS)?;
    for statement in statements {
        match statement {
            Statement::Admission(it) => admissions.insert(encode(it).as_slice(), ())?,
            other => others.insert(encode(other).as_slice(), ())?,
        };
    }
    Ok(())
}

fn read_statements(db: &Database) -> Result<Vec<Statement>, redb::Error> {
    let tx = db.begin_read()?;
    let (admissions, others) = (tx.open_table(ADMISSIONS)?, tx.open_table(STATEMENTS)?);
    let admissions = admissions.iter()?.map(|row| read_admission(row?.0.value()));
    let others = others.iter()?.map(|row| decode(row?.0.value()));
    admissions.chain(others).collect()
}

/// Earlier versions wrote an admission without the terms of its invitation.
fn read_admission(bytes: &[u8]) -> Result<Statement, redb::Error> {
    let now: Result<Admission, _> = decode(bytes);
    let admission = now.or_else(|_| decode(&[bytes, &[0]].concat()))?;
    Ok(Statement::Admission(admission))
}

fn read_members(db: &Database) -> Result<Vec<(NodeId, Vec<String>)>, redb::Error> {
    let table = db.begin_read()?.open_table(MEMBERS)?;
    let rows = table.iter()?.map(|row| {
        let (node, addrs) = row?;
        Ok((NodeId(node.value()), decode(addrs.value())?))
    });
    rows.collect()
}

fn read_names(db: &Database) -> Result<Vec<(NodeId, String)>, redb::Error> {
    let table = match db.begin_read()?.open_table(NAMES) {
        Ok(table) => table,
        // Backups of earlier versions have none.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let rows = table.iter()?.map(|row| {
        let (node, name) = row?;
        Ok((NodeId(node.value()), name.value().to_owned()))
    });
    rows.collect()
}

fn insert_names(
    tx: &redb::WriteTransaction,
    names: &[(NodeId, String)],
) -> Result<(), redb::Error> {
    let mut table = tx.open_table(NAMES)?;
    let mut count = redb::ReadableTableMetadata::len(&table)?;
    for (node, name) in names {
        let known = table.get(node.0)?.is_some();
        if !known && count >= MEMBERS_MAX as u64 {
            continue;
        }
        count += u64::from(!known);
        table.insert(node.0, name.as_str())?;
    }
    Ok(())
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain structs of ours into a growing vector: postcard has nothing to refuse.
    postcard::to_allocvec(value).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, redb::Error> {
    postcard::from_bytes(bytes).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

/// Decimal text, as the `boot` and `lock` files hold it.
fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
