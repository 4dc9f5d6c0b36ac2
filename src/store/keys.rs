//! The node's private keys: `node.key`, and while it changes `node.key.next` beside it.

use std::path::Path;

use super::{StoreError, files};
use crate::admission::Keypair;
use crate::id::NodeId;

const KEY_FILE: &str = "node.key";
const NEXT_FILE: &str = "node.key.next";

/// The node's Ed25519 key, made of `random` at first start. Call it with the store open, so that
/// the folder is this process's alone.
pub fn load_or_create_key(dir: &Path, random: [u8; 32]) -> Result<Keypair, StoreError> {
    let path = dir.join(KEY_FILE);
    if let Some(keypair) = read(&path)? {
        return Ok(keypair);
    }
    let text = data_encoding::HEXLOWER.encode(&random) + "\n";
    files::write_atomic(&path, text.as_bytes())?;
    Ok(Keypair::from_seed(random))
}

/// The key that the node was changing to when it stopped.
pub fn next_key(dir: &Path) -> Result<Option<Keypair>, StoreError> {
    read(&dir.join(NEXT_FILE))
}

/// Puts the key that a node will change to beside the one it has, if there is none yet; says
/// whether it did.
pub fn keep_next_key(dir: &Path, key: &Keypair) -> Result<bool, StoreError> {
    let path = dir.join(NEXT_FILE);
    if files::read(&path)?.is_some() {
        return Ok(false);
    }
    files::write_atomic(&path, text(key).as_bytes())?;
    Ok(true)
}

/// The key that a node changed to takes the place of the one it had. Killed in between, it is in
/// both places.
pub fn use_key(dir: &Path, key: &Keypair) -> Result<(), StoreError> {
    files::write_atomic(&dir.join(KEY_FILE), text(key).as_bytes())?;
    forget_next_key(dir)
}

/// The node does not change its key after all.
pub fn forget_next_key(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(NEXT_FILE);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(files::io_error(&path, source))
        }
        _ => Ok(()),
    }
}

/// Of a later key the file names the node, too: it is not named after that key.
fn text(key: &Keypair) -> String {
    format!("{}\n{}\n", data_encoding::HEXLOWER.encode(&key.seed()), key.node())
}

fn read(path: &Path) -> Result<Option<Keypair>, StoreError> {
    if let Some(mode) = files::mode(path)?
        && mode & 0o077 != 0
    {
        return Err(StoreError::KeyExposed { path: path.into(), mode });
    }
    let Some(text) = files::read(path)? else { return Ok(None) };
    let malformed = || StoreError::KeyMalformed { path: path.into() };
    let text = String::from_utf8(text).map_err(|_not_text| malformed())?;
    let mut words = text.split_ascii_whitespace();
    let seed = words.next().and_then(|word| {
        let seed = data_encoding::HEXLOWER_PERMISSIVE.decode(word.as_bytes()).ok()?;
        seed.try_into().ok()
    });
    let seed: [u8; 32] = seed.ok_or_else(malformed)?;
    match (words.next().map(str::parse::<NodeId>), words.next()) {
        (None, _) => Ok(Some(Keypair::from_seed(seed))),
        (Some(Ok(node)), None) => Ok(Some(Keypair::of(node, seed))),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_killed_while_its_key_changes_has_one_key_that_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let first = load_or_create_key(dir, [1; 32]).unwrap();
        let second = Keypair::of(first.node(), [2; 32]);
        let now = || {
            let next = next_key(dir).unwrap().map(|key| key.public());
            let used = load_or_create_key(dir, [9; 32]).unwrap();
            assert_eq!(used.node(), first.node());
            (used.public(), next)
        };
        assert_eq!(now(), (first.public(), None));
        assert!(keep_next_key(dir, &second).unwrap());
        let third = Keypair::of(first.node(), [3; 32]);
        assert!(!keep_next_key(dir, &third).unwrap(), "one at a time");
        assert_eq!(now(), (first.public(), Some(second.public())));
        // Between the two steps of `use_key`.
        files::write_atomic(&dir.join(KEY_FILE), text(&second).as_bytes()).unwrap();
        assert_eq!(now(), (second.public(), Some(second.public())));
        use_key(dir, &second).unwrap();
        assert_eq!(now(), (second.public(), None));
        forget_next_key(dir).unwrap();
        assert_eq!(now(), (second.public(), None));
    }
}
