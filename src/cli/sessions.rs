//! What `roost login` keeps: one file per mesh, in a folder that is this user's alone.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use roost::id::MeshId;
use serde::{Deserialize, Serialize};

use super::exit::{Exit, Failure};

/// A session that was logged in to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// What is shown to nodes. Secret.
    pub(crate) token: String,
    /// Whose it is.
    pub(crate) name: String,
    /// Nodes that were there when it began: they know it, too.
    #[serde(default)]
    pub(crate) nodes: Vec<String>,
}

/// Everything that is kept, by mesh.
pub(crate) fn load() -> Result<BTreeMap<MeshId, Session>, Failure> {
    folder().map_or_else(|| Ok(BTreeMap::new()), |folder| load_from(&folder))
}

/// The tokens alone.
pub(crate) fn tokens() -> Result<BTreeMap<MeshId, String>, Failure> {
    Ok(load()?.into_iter().map(|(mesh, session)| (mesh, session.token)).collect())
}

/// Keeps a session; replaces the one before in the same mesh.
pub(crate) fn save(mesh: MeshId, session: &Session) -> Result<PathBuf, Failure> {
    let folder = folder().ok_or_else(|| {
        Failure::new(Exit::Failed, "cannot keep the session", "there is no home", "set HOME")
    })?;
    save_in(&folder, mesh, session).map_err(|error| {
        let what = format!("cannot keep the session in {}", folder.display());
        Failure::new(
            Exit::Failed,
            &what,
            error,
            "make that folder writable, or set XDG_CONFIG_HOME",
        )
    })
}

/// Forgets a session; false if there was none.
pub(crate) fn forget(mesh: MeshId) -> Result<bool, Failure> {
    let Some(path) = folder().map(|folder| path_in(&folder, mesh)) else { return Ok(false) };
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::new(
            Exit::Failed,
            &format!("cannot remove {}", path.display()),
            error,
            "remove it yourself",
        )),
    }
}

/// `$XDG_CONFIG_HOME/roost`.
pub(crate) fn config_folder() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty());
    let config = config.map(PathBuf::from);
    let config = config.or_else(|| Some(std::env::home_dir()?.join(".config")))?;
    Some(config.join("roost"))
}

fn folder() -> Option<PathBuf> {
    Some(config_folder()?.join("sessions"))
}

fn path_in(folder: &Path, mesh: MeshId) -> PathBuf {
    folder.join(format!("{mesh}.json"))
}

fn load_from(folder: &Path) -> Result<BTreeMap<MeshId, Session>, Failure> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(unreadable(folder, error, "make it readable")),
    };
    let mut out = BTreeMap::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let Some(mesh) = stem.and_then(|stem| stem.parse().ok()) else { continue };
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|error| unreadable(&path, error, "remove it and log in again"))?;
        let mode = entry.metadata().map(|meta| meta.permissions().mode()).unwrap_or_default();
        if mode & 0o077 != 0 {
            let next = format!(
                "if nobody has, chmod 600 {}; otherwise change the password, and log in again",
                path.display()
            );
            return Err(unreadable(&path, "others may read this secret", &next));
        }
        let session = serde_json::from_str(&text)
            .map_err(|error| unreadable(&path, error, "remove it and log in again"))?;
        out.insert(mesh, session);
    }
    Ok(out)
}

fn unreadable(path: &Path, why: impl std::fmt::Display, next: &str) -> Failure {
    Failure::new(Exit::Failed, &format!("cannot use {}", path.display()), why, next)
}

fn save_in(folder: &Path, mesh: MeshId, session: &Session) -> io::Result<PathBuf> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = path_in(folder, mesh);
    let beside = folder.join(format!("{mesh}.new-{}", std::process::id()));
    let mut options = std::fs::File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    let text = serde_json::to_string(session).map_err(io::Error::other)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_kept_privately_per_mesh_and_one_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("roost/sessions");
        assert_eq!(load_from(&folder).unwrap(), BTreeMap::new());
        let session = |name: &str| Session {
            token: "v4.public.x".into(),
            name: name.into(),
            nodes: vec!["a:1".into()],
        };
        let (one, two) = (MeshId([1; 16]), MeshId([2; 16]));
        save_in(&folder, one, &session("ann")).unwrap();
        save_in(&folder, one, &session("bob")).unwrap();
        let path = save_in(&folder, two, &session("ann")).unwrap();
        let kept = load_from(&folder).unwrap();
        assert_eq!((kept[&one].name.as_str(), kept[&two].name.as_str()), ("bob", "ann"));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder)), (0o600, 0o700));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = load_from(&folder).unwrap_err();
        assert!(refused.message.contains("chmod 600"), "{refused:?}");
        assert!(!refused.message.contains("v4.public"));
    }
}
