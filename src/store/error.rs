//! What can be wrong with a store, in words that say what to do.

use std::io;
use std::path::PathBuf;

use super::SCHEMA;
use crate::id::MeshId;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the folder, also after [`LOCK_WAIT`](super::LOCK_WAIT).
    #[error(
        "the data folder {} is in use by {}; stop that one first, or choose another folder",
        dir.display(),
        pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// The process that holds it, as far as it said so.
        pid: Option<u32>,
    },
    /// No right to write.
    #[error("cannot write {}: {source}; make it writable for this user, or choose another folder", path.display())]
    Unwritable {
        /// What could not be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No room.
    #[error("the disk under {} is full; free some space and start again", path.display())]
    Full {
        /// What could not be written.
        path: PathBuf,
    },
    /// Written by a newer version.
    #[error(
        "{} was written by a newer version of roost (layout {found}, this one knows up to {SCHEMA}); run that version",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// The folder belongs to another mesh.
    #[error(
        "this folder belongs to mesh {found}, the backup to mesh {wanted}; give a backup of that mesh, or an empty folder"
    )]
    OtherMesh {
        /// The mesh of the folder.
        found: MeshId,
        /// That of the backup.
        wanted: MeshId,
    },
    /// Others on this machine can read the private key.
    #[error(
        "the private key {} may be read by others (mode {mode:o}); if nobody did, run: chmod 600 {}",
        path.display(),
        path.display()
    )]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file holds no key. Never replaced by a new one: the node would lose its identity.
    #[error("{} does not hold a key; put its backup there, or move it away to become a new node", path.display())]
    KeyMalformed {
        /// The key file.
        path: PathBuf,
    },
    /// Something that is to be restored cannot be.
    #[error("{} is no backup: {reason}; give a file that roost backup wrote", path.display())]
    NoBackup {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The thread that writes panicked.
    #[error(
        "writing to the store met a defect and has ended; start the node again, and report this"
    )]
    Defect,
    /// The name cannot be a file.
    #[error("{0:?} cannot name an encoder: use 1 to 64 of a-z, 0-9, dot, dash, underscore")]
    BadName(String),
    /// Anything else the system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database failed while it was open. What was not acknowledged is not stored.
    #[error("the database {} failed: {reason}; start again, and check the disk if it repeats", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}
