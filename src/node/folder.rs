//! A node's folder: what is found in it, and how a node without a mesh gets one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Join, NodeError, founding, identity, random};
use crate::accounts::Loaded;
use crate::admission::{Invitation, Keypair, Roster, Statement, mesh_id};
use crate::id::{Boot, MeshId, NodeId};
use crate::net::join::{JoinError, join};
use crate::quic;
use crate::store::{self, Entry, Store, StoreError, load_or_create_key};

/// What a node finds in its folder.
pub(super) struct Folder {
    path: PathBuf,
    pub(super) store: Store,
    pub(super) keypair: Keypair,
    /// The key that it was changing to.
    pub(super) next_key: Option<Keypair>,
    roster: Option<Roster>,
    pub(super) boot: Boot,
    pub(super) remembered: Vec<(NodeId, Vec<String>)>,
    pub(super) names: Vec<(NodeId, String)>,
    pub(super) ledger: Loaded,
    /// The first administrator's password, if somebody chose one.
    admin: Option<String>,
    entry: Entry,
}

impl Folder {
    /// Waits for the folder's lock and reads everything, on a thread of its own: a signal is heard
    /// meanwhile.
    pub(super) async fn open(path: PathBuf, admin: Option<String>) -> Result<Self, NodeError> {
        tokio::task::spawn_blocking(move || Self::from_disk(path, admin))
            .await
            .map_err(|defect| NodeError::Failed(format!("cannot read the folder: {defect}")))?
    }

    fn from_disk(path: PathBuf, admin: Option<String>) -> Result<Self, NodeError> {
        let opened = Store::open(&path).map_err(stored)?;
        if let Some(aside) = &opened.quarantined {
            tracing::error!(
                path = %aside.display(),
                "the store could not be read; it is kept aside"
            );
        }
        let store = opened.store;
        let keypair = load_or_create_key(&path, random()).map_err(stored)?;
        let boot = store.next_boot().map_err(stored)?;
        let roster = roster_of(keypair.node(), &store.statements().map_err(stored)?);
        let (keypair, next_key) = settle_keys(&path, keypair, roster.as_ref())?;
        let remembered = store.members().map_err(stored)?;
        let names = store.names().map_err(stored)?;
        let (ledger, entry) = (Loaded::default(), Entry::Member);
        Ok(Self {
            path,
            store,
            keypair,
            next_key,
            roster,
            boot,
            remembered,
            names,
            ledger,
            admin,
            entry,
        })
    }

    /// Reads the ledger of the mesh that was entered, on a thread of its own.
    pub(super) async fn open_ledger(mut self, roster: &Roster) -> Result<Self, NodeError> {
        let (mesh, alone) = (roster.mesh(), roster.len() < 2);
        let read = move || {
            self.store.bind(mesh, self.entry)?;
            self.ledger = self.store.ledger(mesh)?;
            Ok(self)
        };
        let read = tokio::task::spawn_blocking(read).await;
        let read: Result<Self, StoreError> =
            read.map_err(|defect| NodeError::Failed(format!("cannot read the ledger: {defect}")))?;
        let folder = read.map_err(stored)?;
        let rows = folder.ledger.unreadable;
        match rows {
            0 => {}
            _ if alone => tracing::error!(
                event = "ledger.unreadable",
                rows,
                "some of the ledger could not be read; it is kept aside, and this node is the only \
                 member: put a backup back (roost restore) to have it again"
            ),
            _ => tracing::error!(
                event = "ledger.unreadable",
                rows,
                "some of the ledger could not be read; it is kept aside, and comes again from other \
                 members"
            ),
        }
        Ok(folder)
    }

    /// The folder stays taken for as long as this is held.
    pub(super) fn lock(&self) -> Arc<File> {
        self.store.lock()
    }

    /// The mesh of this node, which it joins or founds if it has none yet, and addresses to try
    /// first. Whatever else can be refused has to be refused before.
    pub(super) async fn enter(
        &mut self,
        wanted: Option<Join>,
        socket: Option<Arc<dyn quic::AsyncUdpSocket>>,
    ) -> Result<(Roster, Vec<String>), NodeError> {
        match (wanted, self.roster.take()) {
            (Some(Join::Invitation(invitation)), None) => self.join(invitation, socket).await,
            (Some(Join::Invitation(invitation)), Some(roster)) => {
                if roster.mesh() != invitation.mesh {
                    return Err(other_mesh(&self.path, roster.mesh(), invitation.mesh));
                }
                // Already a member: the invitation's addresses are as good as any.
                Ok((roster, invitation.addrs))
            }
            (Some(Join::Address(addrs)), Some(roster)) => Ok((roster, addrs)),
            (Some(Join::Address(_)), None) => Err(NodeError::Configuration(
                "this node belongs to no mesh yet: an address is not enough, it needs an \
                 invitation; run `roost invite` on a member"
                    .into(),
            )),
            (None, Some(roster)) => Ok((roster, Vec::new())),
            (None, None) => Ok((self.found()?, Vec::new())),
        }
    }

    /// What is left to do of a founding, once the node runs.
    pub(super) fn unfinished(&self) -> Result<Option<founding::Founding>, NodeError> {
        founding::unfinished(&self.path, self.admin.as_deref())
    }

    async fn join(
        &mut self,
        invitation: Invitation,
        socket: Option<Arc<dyn quic::AsyncUdpSocket>>,
    ) -> Result<(Roster, Vec<String>), NodeError> {
        identity::is_in(invitation.mesh);
        self.entry = Entry::Newcomer;
        let (seed, admitted) =
            join(&invitation, &self.keypair, socket).await.map_err(|error| not_joined(&error))?;
        tracing::info!(event = "node.joined", peer = %seed, "admitted to the mesh");
        founding::abandon(&self.path)?;
        let joined = Roster::from_statements(invitation.mesh, admitted.statements.0);
        self.keep(&joined)?;
        self.store.remember(&admitted.members).map_err(stored)?;
        self.remembered.extend(admitted.members);
        self.store.name(&admitted.names).map_err(stored)?;
        self.names.extend(admitted.names);
        Ok((joined, invitation.addrs))
    }

    fn found(&mut self) -> Result<Roster, NodeError> {
        self.entry = Entry::Founder;
        if let Some(aside) = self.store.put_aside().map_err(stored)? {
            return Err(membership_lost(&aside));
        }
        founding::prepare(&self.path, self.admin.as_deref())?;
        let roster = Roster::found(&self.keypair, random());
        self.keep(&roster)?;
        Ok(roster)
    }

    fn keep(&self, roster: &Roster) -> Result<(), NodeError> {
        let all: Vec<_> = roster.statements().cloned().collect();
        self.store.add_statements(&all).map_err(stored)
    }
}

/// The mesh among these statements that `me` belongs to, or did. A folder whose key was moved away
/// holds the statements of an earlier node's mesh as well.
fn roster_of(me: NodeId, statements: &[Statement]) -> Option<Roster> {
    // A founder's admission names a mesh: it is the one that everything else in it chains to.
    let founders = statements.iter().filter_map(|statement| match statement {
        Statement::Admission(it) if it.invite.is_none() => Some(mesh_id(it)),
        _ => None,
    });
    let mut rosters =
        founders.map(|mesh| Roster::from_statements(mesh, statements.iter().cloned()));
    rosters.find(|roster| roster.contains(me) || roster.outcast(me).is_some())
}

/// The key in use and the one that it is to change to, wherever the node was killed while it
/// changed.
fn settle_keys(
    path: &Path,
    keypair: Keypair,
    roster: Option<&Roster>,
) -> Result<(Keypair, Option<Keypair>), NodeError> {
    let Some(next) = store::next_key(path).map_err(stored)? else { return Ok((keypair, None)) };
    // The former key is given up, but the files do not say so yet.
    let in_use = roster.and_then(|roster| roster.current_key(keypair.node()));
    if in_use == Some(next.public()) {
        store::use_key(path, &next).map_err(stored)?;
        return Ok((next, None));
    }
    // Without a mesh there is nobody to tell.
    if roster.is_none() {
        store::forget_next_key(path).map_err(stored)?;
        return Ok((keypair, None));
    }
    Ok((keypair, Some(next)))
}

/// A node stays in the mesh of its folder: it must not wait alone for one that it cannot join.
fn other_mesh(data: &Path, own: MeshId, wanted: MeshId) -> NodeError {
    NodeError::Configuration(format!(
        "the folder {} belongs to mesh {own}, the invitation is for mesh {wanted}; start with an \
         empty folder to join that one, or without the invitation to stay",
        data.display()
    ))
}

/// A node that lost its membership does not quietly found a mesh of its own, where its encoders
/// and viewers would be alone.
fn membership_lost(aside: &Path) -> NodeError {
    NodeError::Configuration(format!(
        "this node's membership was lost with its store, which is kept aside as {}; to get back in \
         under the same id, start it with --join and an invitation (`roost invite` on any member); \
         to found a new mesh instead, remove that file",
        aside.display()
    ))
}

fn not_joined(error: &JoinError) -> NodeError {
    let words = error.to_string();
    match error {
        JoinError::NoAnswer(_) => NodeError::NoNodeAnswered(words),
        JoinError::WrongMesh { .. } | JoinError::Refused { .. } => NodeError::NotAllowed(words),
        JoinError::Local(_) => NodeError::Failed(words),
    }
}

fn stored(error: StoreError) -> NodeError {
    match &error {
        StoreError::InUse { .. } => NodeError::InUse(error.to_string()),
        // Starting again would fail again until somebody changes the folder.
        StoreError::Unwritable { .. }
        | StoreError::KeyExposed { .. }
        | StoreError::KeyMalformed { .. }
        | StoreError::Newer { .. }
        | StoreError::OtherMesh { .. } => NodeError::Configuration(error.to_string()),
        _ => NodeError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{Batch, Change, Dot, Key, Kind, Record, Stamp};
    use crate::id::{AccountId, ActorId, RecordId};

    fn some_record(id: u8) -> (Key, Vec<u8>) {
        let mut record = Record::default();
        let by = Stamp { account: AccountId([1; 16]), node: NodeId([2; 16]), wall: 3 };
        let dot = Dot { actor: ActorId([id; 16]), seq: 1, nonce: [0; 4] };
        record.apply(dot, by, &[Change::Set(1, vec![id])]).unwrap();
        (Key { kind: Kind::ACCOUNT, id: RecordId([id; 16]) }, record.encode())
    }

    #[tokio::test]
    async fn a_node_whose_key_was_moved_away_founds_one_mesh_and_stays_in_it() {
        // Which of two founders comes first in the table is a matter of chance: several are tried.
        for _ in 0..8 {
            let dir = tempfile::tempdir().unwrap();
            // Starts, writes something if told, and says what was there before.
            let start = async |write: Option<u8>| {
                let mut folder = Folder::open(dir.path().into(), None).await.unwrap();
                let (roster, _) = folder.enter(None, None).await.unwrap();
                let folder = folder.open_ledger(&roster).await.unwrap();
                let records = write.map(some_record).into_iter().collect();
                let batch = Batch { records, ..Batch::default() };
                folder.store.write_ledger(roster.mesh(), &batch).unwrap();
                let found = folder.ledger.records.iter().map(|(key, _)| key.id.0[0]).collect();
                let found: Vec<u8> = found;
                (folder.keypair.node(), roster.mesh(), found)
            };
            let first = start(Some(1)).await;
            assert!(first.2.is_empty());
            std::fs::rename(dir.path().join("node.key"), dir.path().join("old.key")).unwrap();
            let second = start(Some(2)).await;
            assert!(first.0 != second.0 && first.1 != second.1, "it is another node");
            assert!(second.2.is_empty(), "which takes nothing of the first mesh into its own");
            assert_eq!(start(None).await, (second.0, second.1, vec![2]));
            std::fs::rename(dir.path().join("old.key"), dir.path().join("node.key")).unwrap();
            let back = start(None).await;
            assert_eq!(back, (first.0, first.1, vec![1]), "with its key the first one is back");
        }
    }
}
