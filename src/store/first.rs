//! The password of a mesh's first administrator, from before the founding until it is in the
//! ledger and somebody was told: whatever dies in between, there is one password and not two.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{StoreError, files};

/// Its file in the founder's folder.
pub const FIRST_PASSWORD_FILE: &str = "admin.first";

fn path(dir: &Path) -> PathBuf {
    dir.join(FIRST_PASSWORD_FILE)
}

/// The password, while the founding is not finished.
pub fn first_password(dir: &Path) -> Result<Option<String>, StoreError> {
    let bytes = files::read(&path(dir))?;
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|text| !text.is_empty()))
}

/// Writes it down, for this user alone; on disk when this returns.
pub fn keep_first_password(dir: &Path, password: &str) -> Result<(), StoreError> {
    files::write_atomic(&path(dir), password.as_bytes())
}

/// The founding is finished.
pub fn forget_first_password(dir: &Path) -> Result<(), StoreError> {
    let path = path(dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(files::io_error(&path, error)),
        _ => Ok(()),
    }
}
