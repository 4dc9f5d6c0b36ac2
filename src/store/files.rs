//! Small files that are either the old or the new content, whatever dies when.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::StoreError;

/// Puts an error of the system into words that say what to do.
pub(super) fn io_error(path: &Path, source: io::Error) -> StoreError {
    let path = path.into();
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full { path },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory => {
            StoreError::Unwritable { path, source }
        }
        _ => StoreError::Io { path, source },
    }
}

/// Makes a folder for its owner alone, with those above it.
pub(super) fn make_dir(dir: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| match io_error(dir, source) {
        // A file is in the way, or the file system makes no folders: whoever chose the place can
        // choose another.
        StoreError::Io { path, source } => StoreError::Unwritable { path, source },
        known => known,
    })
}

/// Opens or makes a file that only its owner can read, and leaves its content.
pub(super) fn open_private(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(|source| io_error(path, source))
}

/// A file's content; `None` if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error(path, source)),
    }
}

/// A file's permission bits; `None` if there is no file.
pub(super) fn mode(path: &Path) -> Result<Option<u32>, StoreError> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta.permissions().mode() & 0o777)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error(path, source)),
    }
}

/// Replaces a file by another with this content, on disk when this returns. A file that a killed
/// process left half written is under the temporary name, where nobody reads it.
pub(super) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = with_suffix(path, ".new");
    let write = || {
        // A remainder may have another mode, which opening would keep.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    write().map_err(|source| io_error(path, source))
}

/// Copies a file for its owner alone, on disk when this returns.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    remove(to)?;
    let mut source = File::open(from).map_err(|source| io_error(from, source))?;
    let mut file = open_private(to)?;
    let copied = io::copy(&mut source, &mut file).and_then(|_| file.sync_all());
    copied.map_err(|source| io_error(to, source))
}

/// Removes a file, if there is one.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(io_error(path, source)),
        _ => Ok(()),
    }
}

/// Gives a finished file its name, in place of another.
pub(super) fn put_in_place(finished: &Path, path: &Path) -> Result<(), StoreError> {
    let moved = File::open(finished)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(finished, path))
        .and_then(|()| sync_parent(path));
    moved.map_err(|source| io_error(path, source))
}

/// Gives a file a second name, the first free `name.SUFFIX-N`, under which it stays when another
/// takes its first.
pub(super) fn keep(path: &Path, suffix: &str) -> Result<PathBuf, StoreError> {
    let aside = free_name(path, suffix)?;
    let kept = fs::hard_link(path, &aside).and_then(|()| sync_parent(path));
    kept.map_err(|source| io_error(&aside, source))?;
    Ok(aside)
}

fn free_name(path: &Path, suffix: &str) -> Result<PathBuf, StoreError> {
    let mut count = 1u32;
    loop {
        let aside = with_suffix(path, &format!("{suffix}-{count}"));
        match fs::symlink_metadata(&aside) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(aside),
            Err(source) => return Err(io_error(&aside, source)),
            Ok(_) => count += 1,
        }
    }
}

/// Renames a damaged file to the first free `name.corrupt-N` and returns that.
pub(super) fn quarantine(path: &Path) -> Result<PathBuf, StoreError> {
    let aside = free_name(path, ".corrupt")?;
    let moved = fs::rename(path, &aside).and_then(|()| sync_parent(path));
    moved.map_err(|source| io_error(path, source))?;
    Ok(aside)
}

/// The first file that [`quarantine`] made out of this one and that nobody has removed.
pub(super) fn quarantined(path: &Path) -> Result<Option<PathBuf>, StoreError> {
    let Some(folder) = path.parent() else { return Ok(None) };
    let prefix = with_suffix(path, ".corrupt-");
    let failed = |source| io_error(folder, source);
    let mut found: Option<PathBuf> = None;
    for entry in fs::read_dir(folder).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let ours = file.as_os_str().as_encoded_bytes();
        if ours.starts_with(prefix.as_os_str().as_encoded_bytes()) {
            found = Some(found.map_or_else(|| file.clone(), |first| first.min(file.clone())));
        }
    }
    Ok(found)
}

/// A rename is on disk once its folder is.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    name.into()
}
