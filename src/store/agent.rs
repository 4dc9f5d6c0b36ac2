//! What a native client keeps between starts: one small file per encoder name.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{LOCK_WAIT, StoreError, files, number};
use crate::id::{EncoderId, MeshId, valid_name};
use crate::wire::PeerList;

/// First bytes of an agent's file: kind and layout.
const MAGIC: &[u8] = b"roost-agent 1\n";
/// Bytes of the SHA-256 between magic and body.
const CHECK_LEN: usize = 32;

/// What an agent must know again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Its encoder, for life.
    pub encoder: EncoderId,
    /// Epoch counters up to here may have been used: leased ahead, and on disk before the first of
    /// them is used.
    pub leased: u64,
    /// The mesh that it first connected to; no other is accepted.
    pub mesh: Option<MeshId>,
    /// Nodes it may go to.
    pub peers: PeerList,
}

/// An agent's record, and what happened on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedAgent {
    /// The record.
    pub record: AgentRecord,
    /// There was none; this one is new and on disk.
    pub created: bool,
    /// Where a damaged file was put aside; the record is then new. To be told to people.
    pub quarantined: Option<PathBuf>,
}

/// Why this process cannot be the agent of an encoder.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Another process is, also after [`LOCK_WAIT`].
    #[error(
        "{name} is sent by {} already, which holds {}; stop that one first, or give this one \
         another name or another --state",
        pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}")),
        path.display()
    )]
    InUse {
        /// The encoder.
        name: String,
        /// The file that is locked.
        path: PathBuf,
        /// The process that holds it, as far as it said so.
        pid: Option<u32>,
    },
    /// The folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An encoder that is this process's alone until this is dropped.
#[derive(Debug)]
pub struct Held {
    _lock: File,
}

/// The folder of the native agents of one machine.
#[derive(Debug, Clone)]
pub struct AgentStore {
    dir: PathBuf,
}

impl AgentStore {
    /// Opens the folder, which is made if it is not there. Several processes may use it at once,
    /// each for encoders of its own; see [`AgentStore::hold`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        files::make_dir(dir)?;
        Ok(Self { dir: dir.into() })
    }

    /// Makes the encoder of this name this process's alone: two that mint epochs out of one record
    /// would take the stream from each other for ever. Blocks for up to [`LOCK_WAIT`], for a
    /// process that is just ending.
    pub fn hold(&self, name: &str) -> Result<Held, HoldError> {
        // A file of its own: the record is replaced by another file whenever it is saved.
        let path = self.path(name)?.with_extension("lock");
        let mut file = files::open_private(&path)?;
        let until = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => {
                    return Err(files::io_error(&path, source).into());
                }
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    thread::sleep(Duration::from_millis(50));
                }
                Err(TryLockError::WouldBlock) => {
                    let text = files::read(&path)?.unwrap_or_default();
                    let pid = number(&text).and_then(|pid| u32::try_from(pid).ok());
                    return Err(HoldError::InUse { name: name.into(), path, pid });
                }
            }
        }
        // Only tells people who holds it: the lock itself is the kernel's and dies with the process.
        let pid = format!("{}\n", std::process::id());
        let noted = file.set_len(0).and_then(|()| io::Write::write_all(&mut file, pid.as_bytes()));
        noted.map_err(|source| files::io_error(&path, source))?;
        Ok(Held { _lock: file })
    }

    /// The record of the encoder of this name; a new one, with a new id, if there is none or the
    /// file is damaged.
    pub fn load(&self, name: &str) -> Result<LoadedAgent, StoreError> {
        let path = self.path(name)?;
        let mut quarantined = None;
        if let Some(bytes) = files::read(&path)? {
            match decode(&bytes) {
                Some(record) => {
                    return Ok(LoadedAgent { record, created: false, quarantined });
                }
                None => quarantined = Some(files::quarantine(&path)?),
            }
        }
        let encoder = EncoderId(Uuid::new_v4().into_bytes());
        let record = AgentRecord { encoder, leased: 0, mesh: None, peers: PeerList::default() };
        self.save(name, &record)?;
        Ok(LoadedAgent { record, created: true, quarantined })
    }

    /// Replaces the record of the encoder of this name; it is on disk when this returns.
    pub fn save(&self, name: &str, record: &AgentRecord) -> Result<(), StoreError> {
        // Plain structs of ours into a growing vector: postcard has nothing to refuse.
        let body = postcard::to_allocvec(record).unwrap_or_default();
        let check = digest::digest(&digest::SHA256, &body);
        files::write_atomic(&self.path(name)?, &[MAGIC, check.as_ref(), &body].concat())
    }

    /// Where the record of the encoder of this name is.
    pub fn path(&self, name: &str) -> Result<PathBuf, StoreError> {
        if !valid_name(name) {
            return Err(StoreError::BadName(name.into()));
        }
        Ok(self.dir.join(format!("{name}.agent")))
    }
}

fn decode(bytes: &[u8]) -> Option<AgentRecord> {
    let (check, body) = bytes.strip_prefix(MAGIC)?.split_at_checked(CHECK_LEN)?;
    if digest::digest(&digest::SHA256, body).as_ref() != check {
        return None;
    }
    // A newer version may have added fields.
    postcard::take_from_bytes(body).ok().map(|(record, _added)| record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoder_belongs_to_one_process_at_a_time_also_while_its_record_is_saved() {
        let dir = tempfile::tempdir().unwrap();
        let store = AgentStore::open(dir.path()).unwrap();
        let held = store.hold("cam.1").unwrap();
        let record = store.load("cam.1").unwrap().record;
        store.save("cam.1", &record).unwrap();
        let error = store.hold("cam.1").unwrap_err();
        let own = std::process::id();
        assert!(
            matches!(&error, HoldError::InUse { pid: Some(pid), .. } if *pid == own),
            "{error}"
        );
        let words = error.to_string();
        assert!(words.contains("cam.1.lock") && words.contains("--state"), "{words}");
        store.hold("cam.2").unwrap();
        drop(held);
        store.hold("cam.1").unwrap();
    }
}
