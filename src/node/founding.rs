//! The first administrator of a mesh. The password is on disk before the mesh is founded, and
//! until its account is in the ledger and somebody was told: a founder that dies in between goes
//! on where it was when it starts again.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::passwords::{self, Passwords};
use super::{Node, NodeError, random};
use crate::access::{DEFAULT_DOMAIN, DEFAULT_DOMAIN_NAME, Right};
use crate::accounts::{Change, Expect, Key, Kind, Refusal, Write};
use crate::id::{AccountId, MeshId, RecordId};
use crate::store;

/// The name of the first account.
pub const ADMIN: &str = "admin";
/// The name of the rule that gives it the mesh.
pub const ADMINISTRATORS: &str = "administrators";

/// What is to be done once the node runs.
#[derive(Debug)]
pub(super) struct Founding {
    password: String,
    /// Somebody chose it, and need not be told.
    given: bool,
}

/// Before the mesh is founded: writes down what its first password will be.
pub(super) fn prepare(dir: &Path, given: Option<&str>) -> Result<(), NodeError> {
    if let Some(given) = given {
        passwords::check(given).map_err(|bad| {
            NodeError::Configuration(format!("the first administrator's password: {bad}"))
        })?;
    }
    let kept = store::first_password(dir).map_err(failed)?;
    let password = given.map(str::to_owned).or(kept).unwrap_or_else(drawn);
    store::keep_first_password(dir, &password).map_err(failed)
}

/// What a founding that was not finished left to do.
pub(super) fn unfinished(dir: &Path, given: Option<&str>) -> Result<Option<Founding>, NodeError> {
    let kept = store::first_password(dir).map_err(failed)?;
    Ok(kept.map(|kept| {
        let given = given == Some(&kept);
        Founding { password: kept, given }
    }))
}

/// A node that joins founds nothing.
pub(super) fn abandon(dir: &Path) -> Result<(), NodeError> {
    store::forget_first_password(dir).map_err(failed)
}

fn failed(error: store::StoreError) -> NodeError {
    NodeError::Failed(error.to_string())
}

/// A password of 100 random bits that can be read out over a telephone.
fn drawn() -> String {
    let text = data_encoding::BASE32_NOPAD.encode(&random::<13>()).to_ascii_lowercase();
    let groups: Vec<&str> = (0..4).filter_map(|group| text.get(5 * group..5 * group + 5)).collect();
    groups.join("-")
}

/// The same at every attempt, so that none is made twice.
fn id_of(mesh: MeshId, what: &str) -> RecordId {
    let parts = [&b"roost founding 1"[..], &mesh.0, what.as_bytes()].concat();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &parts);
    RecordId(*digest.as_ref().first_chunk().unwrap_or(&[0; 16]))
}

impl Node {
    /// Writes the records that a fresh mesh begins with, and tells the first password, if that is
    /// still to be done. Afterwards the node is ready for people.
    pub async fn finish_founding(&self, passwords: &Passwords) -> Result<(), NodeError> {
        let founding = self.shared.founding.lock().await.take();
        let Some(Founding { password, given }) = founding else { return Ok(()) };
        let mesh = self.roster().mesh();
        let account = id_of(mesh, ADMIN);
        if self.rights().is_administered_but_by(AccountId(account.0)) {
            // A ledger that was restored brought everybody along.
            tracing::info!(
                event = "mesh.founded",
                "the mesh has the accounts of the backup, and their passwords"
            );
            if given {
                tracing::warn!(
                    "the password for a first administrator is not used: the backup has one; on \
                     this machine: roost account set NAME --password-stdin"
                );
            }
            return abandon(&self.shared.data);
        }
        let text = |field, text: &str| Change::Set(field, text.as_bytes().to_vec());
        let domain = vec![text(1, DEFAULT_DOMAIN_NAME)];
        self.first(Kind::DOMAIN, DEFAULT_DOMAIN, domain, account).await?;
        let rule = vec![
            text(1, ADMINISTRATORS),
            text(2, "May do everything in the mesh."),
            text(4, Right::Administer.role()),
            Change::Set(5, vec![1]),
            Change::Add(2, account.0.to_vec()),
        ];
        self.first(Kind::RULE, id_of(mesh, ADMINISTRATORS), rule, account).await?;
        let hash = passwords.hash(password.clone()).await;
        let hash = hash.map_err(|bad| NodeError::Failed(bad.to_string()))?;
        let admin = vec![text(1, ADMIN), text(4, &hash)];
        self.first(Kind::ACCOUNT, account, admin, account).await?;
        tracing::info!(event = "mesh.founded", account = ADMIN, "the mesh has an administrator");
        if !given {
            tell(&password);
        }
        abandon(&self.shared.data)
    }

    /// A record that is there already, of an earlier attempt, stays as it is.
    async fn first(
        &self,
        kind: Kind,
        id: RecordId,
        changes: Vec<Change>,
        account: RecordId,
    ) -> Result<(), NodeError> {
        let key = Key { kind, id };
        let known = self.read_ledger(move |ledger| ledger.get(key)).await.flatten();
        if known.is_some_and(|record| record.dots().len() > 0) {
            return Ok(());
        }
        let write = Write {
            key,
            changes,
            account: AccountId(account.0),
            expect: Expect::Absent,
            wait: 0,
            patience: Duration::ZERO,
        };
        match self.write(write).await {
            Ok(_) | Err(Refusal::Exists | Refusal::Changed) => Ok(()),
            Err(refusal) => Err(NodeError::Failed(format!(
                "the first administrator cannot be written down: {refusal}; start the node again"
            ))),
        }
    }
}

/// To people, past the log, which is kept and read by others.
fn tell(password: &str) {
    let lines = format!(
        "\nThis mesh has an administrator now; the password is shown this once:\n\n    \
         name      {ADMIN}\n    password  {password}\n\nlog in with `roost login`, or at this node's \
         address in a browser\n\n"
    );
    // Whoever closed standard error does not want to know.
    let _ = std::io::stderr().lock().write_all(lines.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawn_password_is_long_and_never_the_same() {
        let (one, other) = (drawn(), drawn());
        assert_ne!(one, other);
        assert_eq!(one.len(), 23);
        assert!(passwords::check(&one).is_ok());
    }

    #[test]
    fn an_attempt_that_was_broken_off_is_gone_on_with_under_the_same_password() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), None).unwrap();
        let first = unfinished(dir.path(), None).unwrap().unwrap();
        prepare(dir.path(), None).unwrap();
        let again = unfinished(dir.path(), None).unwrap().unwrap();
        assert_eq!(first.password, again.password);
        assert!(!again.given, "so it is to be told");
        abandon(dir.path()).unwrap();
        assert!(unfinished(dir.path(), None).unwrap().is_none());
        abandon(dir.path()).unwrap();
        prepare(dir.path(), Some("chosen by somebody")).unwrap();
        let given = unfinished(dir.path(), Some("chosen by somebody")).unwrap().unwrap();
        assert!(given.given && given.password == "chosen by somebody");
        assert!(prepare(dir.path(), Some("short")).is_err());
    }
}
