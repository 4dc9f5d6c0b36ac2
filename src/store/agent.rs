//! What a native client keeps between starts: one small file per encoder name.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{StoreError, files};
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

/// The folder of the native agents of one machine.
#[derive(Debug, Clone)]
pub struct AgentStore {
    dir: PathBuf,
}

impl AgentStore {
    /// Opens the folder, which is made if it is not there. Several processes may use it at once,
    /// each for encoders of its own.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        files::make_dir(dir)?;
        Ok(Self { dir: dir.into() })
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

    fn path(&self, name: &str) -> Result<PathBuf, StoreError> {
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
