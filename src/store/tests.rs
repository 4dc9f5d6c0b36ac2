use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::wire::{Peer, PeerList};

fn admission(n: u8) -> Admission {
    Admission {
        node: NodeId([n; 16]),
        key: [n; 32],
        by: NodeId([0; 16]),
        invite: None,
        nonce: [0; 16],
        signature: vec![n; 64],
        terms: None,
    }
}

fn said(numbers: &[u8]) -> Vec<Statement> {
    numbers.iter().map(|n| admission(*n).into()).collect()
}

fn open(dir: &Path) -> Store {
    let opened = Store::open(dir).unwrap();
    assert_eq!(opened.quarantined, None);
    opened.store
}

fn fill(store: &Store) {
    store.bind(MeshId([5; 16]), Entry::Founder).unwrap();
    store.add_statements(&said(&[1, 2])).unwrap();
    store.add_statements(&said(&[2, 3])).unwrap();
    store.remember(&[(NodeId([1; 16]), vec!["a:1".into()])]).unwrap();
    store.remember(&[(NodeId([1; 16]), vec!["b:2".into(), "a:1".into()])]).unwrap();
}

#[test]
fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("made/for/it");
    let store = open(dir);
    assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(store.mesh().unwrap(), None);
    fill(&store);
    drop(store);
    let store = open(dir);
    assert_eq!(store.mesh().unwrap(), Some(MeshId([5; 16])));
    assert_eq!(store.statements().unwrap(), said(&[1, 2, 3]));
    let addrs = vec!["b:2".to_string(), "a:1".to_string()];
    assert_eq!(store.members().unwrap(), [(NodeId([1; 16]), addrs)]);
    let name = |text: &str| vec![(NodeId([1; 16]), text.to_owned())];
    store.name(&name("before")).unwrap();
    store.name(&name("n1")).unwrap();
    store.forget(NodeId([1; 16])).unwrap();
    assert_eq!(store.names().unwrap(), name("n1"), "it may have done something");
    assert_eq!(store.members().unwrap(), []);
}

#[test]
fn the_boot_counter_rises_whatever_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let boot = || open(dir.path()).next_boot().unwrap().0;
    assert_eq!((boot(), boot()), (1, 2));
    fs::remove_file(dir.path().join(DATABASE_FILE)).unwrap();
    assert_eq!(boot(), 3);
    fs::remove_file(dir.path().join(BOOT_FILE)).unwrap();
    assert_eq!(boot(), 4);
    // Killed while writing: the torn file has the temporary name, and is written over.
    fs::write(dir.path().join("boot.new"), "9999").unwrap();
    assert_eq!(boot(), 5);
    fs::write(dir.path().join(BOOT_FILE), b"\xff\xfe").unwrap();
    assert_eq!(boot(), 6);
    assert_eq!(fs::read_to_string(dir.path().join(BOOT_FILE)).unwrap(), "6\n");
}

#[test]
fn a_boot_that_only_others_knew_is_counted_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.next_boot().unwrap(), Boot(1));
    store.raise_boot(Boot(7)).unwrap();
    store.raise_boot(Boot(3)).unwrap();
    drop(store);
    fs::remove_file(dir.path().join(DATABASE_FILE)).unwrap();
    assert_eq!(open(dir.path()).next_boot().unwrap(), Boot(8));
}

#[test]
fn a_second_process_is_told_who_holds_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let begun = Instant::now();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(begun.elapsed() >= LOCK_WAIT);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    let path = dir.path().to_owned();
    let waiting = thread::spawn(move || Store::open(&path).map(drop));
    thread::sleep(Duration::from_millis(100));
    drop(store);
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_corrupt_database_is_put_aside_and_counting_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(DATABASE_FILE);
    for round in 1..=3u64 {
        let store = open(dir.path());
        fill(&store);
        assert_eq!(store.next_boot().unwrap(), Boot(2 * round - 1));
        drop(store);
        let mut bytes = fs::read(&path).unwrap();
        match round {
            1 => bytes.fill(0x5a),
            2 => bytes.truncate(bytes.len() / 3),
            _ => bytes[600..].fill(0xff),
        }
        fs::write(&path, &bytes).unwrap();
        let Opened { store, quarantined } = Store::open(dir.path()).unwrap();
        let aside = dir.path().join(format!("{DATABASE_FILE}.corrupt-{round}"));
        assert_eq!(quarantined.as_ref(), Some(&aside));
        assert_eq!(fs::read(&aside).unwrap().len(), bytes.len(), "kept as it was");
        assert_eq!(store.statements().unwrap(), []);
        let first = dir.path().join(format!("{DATABASE_FILE}.corrupt-1"));
        assert_eq!(store.put_aside().unwrap(), Some(first));
        assert_eq!(store.next_boot().unwrap(), Boot(2 * round));
        drop(store);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn damage_to_the_ledger_alone_does_not_cost_the_membership() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    fill(&store);
    assert_eq!(store.next_boot().unwrap(), Boot(1));
    store
        .write(|tx| {
            // No ledger is of this type.
            let table = TableDefinition::<u64, u64>::new("ledger-actors:00");
            tx.open_table(table)?.insert(1, 2)?;
            Ok(())
        })
        .unwrap();
    drop(store);
    fs::remove_file(dir.path().join(BOOT_FILE)).unwrap();
    let Opened { store, quarantined } = Store::open(dir.path()).unwrap();
    assert!(quarantined.is_some_and(|aside| aside.exists()));
    assert_eq!(store.statements().unwrap(), said(&[1, 2, 3]));
    assert_eq!(store.members().unwrap().len(), 1);
    assert_eq!(store.next_boot().unwrap(), Boot(2));
}

#[test]
fn damage_anywhere_never_panics_and_never_invents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(DATABASE_FILE);
    fill(&open(dir.path()));
    let good = fs::read(&path).unwrap();
    let expected = said(&[1, 2, 3]);
    let used = good.len() - good.iter().rev().take_while(|byte| **byte == 0).count();
    let stride = (used / 60).max(1);
    for at in (0..used).step_by(stride) {
        let mut bytes = good.clone();
        let end = (at + 16).min(bytes.len());
        bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0xa5);
        fs::write(&path, &bytes).unwrap();
        match Store::open(dir.path()) {
            Ok(Opened { store, .. }) => {
                if let Ok(found) = store.statements() {
                    assert!(found.iter().all(|a| expected.contains(a)), "at {at}: {found:?}");
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn a_newer_layout_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store
        .write(|tx| {
            tx.open_table(META)?.insert("schema", (SCHEMA + 1).to_le_bytes().as_slice())?;
            Ok(())
        })
        .unwrap();
    drop(store);
    for _ in 0..2 {
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found, .. } if found == SCHEMA + 1), "{error}");
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("below")).unwrap_err();
    assert!(error.to_string().contains("below"), "{error}");
    let full = files::io_error(&file, io::ErrorKind::StorageFull.into());
    assert!(full.to_string().contains("full"), "{full}");
    let denied = files::io_error(&file, io::ErrorKind::PermissionDenied.into());
    assert!(matches!(denied, StoreError::Unwritable { .. }), "{denied}");
}

#[test]
fn the_key_is_made_once_and_kept_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.key");
    fs::write(dir.path().join("node.key.new"), "torn").unwrap();
    assert_eq!(load_or_create_key(dir.path(), [1; 32]).unwrap().seed(), [1; 32]);
    assert_eq!(load_or_create_key(dir.path(), [2; 32]).unwrap().seed(), [1; 32]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = load_or_create_key(dir.path(), [2; 32]).unwrap_err().to_string();
    assert!(error.contains("chmod 600") && !error.contains("0101"), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "0101").unwrap();
    let error = load_or_create_key(dir.path(), [2; 32]).unwrap_err();
    assert!(matches!(error, StoreError::KeyMalformed { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"0101", "never replaced");
}

#[test]
fn an_agent_knows_itself_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = AgentStore::open(&dir.path().join("agents")).unwrap();
    let mut first = store.load("cam-1").unwrap();
    assert!(first.created && first.quarantined.is_none());
    assert_ne!(store.load("cam-2").unwrap().record.encoder, first.record.encoder);
    let peer = Peer {
        node: NodeId([1; 16]),
        name: "north".into(),
        addrs: vec!["192.0.2.1:9443".into()],
        up: true,
        draining: false,
        later: crate::grow::Later::default(),
    };
    first.record.peers = PeerList { nodes: vec![peer] };
    first.record.leased = 1_000;
    first.record.mesh = Some(MeshId([3; 16]));
    store.save("cam-1", &first.record).unwrap();
    // Killed in the middle of the next save.
    fs::write(dir.path().join("agents/cam-1.agent.new"), "half").unwrap();
    let again = store.load("cam-1").unwrap();
    assert_eq!((again.record, again.created), (first.record, false));
    for name in ["", "..", "a/b", "A"] {
        assert_eq!(store.load(name).is_ok(), name == "..", "{name}");
    }
}

#[test]
fn a_damaged_agent_file_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let store = AgentStore::open(dir.path()).unwrap();
    let path = dir.path().join("cam.agent");
    let mut last = store.load("cam").unwrap().record;
    let good = fs::read(&path).unwrap();
    for (count, cut) in [0, 5, MAGIC_AND_CHECK, good.len() - 1].into_iter().enumerate() {
        fs::write(&path, &good[..cut]).unwrap();
        let loaded = store.load("cam").unwrap();
        let aside = dir.path().join(format!("cam.agent.corrupt-{}", count + 1));
        assert_eq!(loaded.quarantined, Some(aside));
        assert_ne!(loaded.record.encoder, last.encoder);
        last = loaded.record;
    }
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&path, flipped).unwrap();
    assert!(store.load("cam").unwrap().quarantined.is_some());
}

const MAGIC_AND_CHECK: usize = 14 + 32;
