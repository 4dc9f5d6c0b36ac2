//! Backups of running nodes, put back into their folders; and a disk that is full.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::http::{Response, request};
use crate::harness::mesh::Mesh;
use crate::harness::node::{Node, Options};
use crate::harness::process::{finish, run, run_within};
use crate::harness::{PATIENCE, wait_until};

fn path(number: u64) -> String {
    format!("/api/v1/accounts/{number:032x}")
}

#[track_caller]
fn make(node: &Node, number: u64) -> Response {
    let body = json!({ "name": format!("a{number}") }).to_string();
    let answer = request(node.addr(), "PUT", &path(number), &[("If-None-Match", "*")], &body);
    answer.expect("it answers")
}

fn shows(node: &Node, number: u64) -> bool {
    node.get(&path(number)).status == 200
}

#[track_caller]
fn backup(node: &Node, file: &Path) {
    let file = file.display().to_string();
    let done = run(&["backup", &file, "--data", &node.data().display().to_string()]);
    assert_eq!(done.code, Some(0), "{done:?}");
}

#[test]
fn a_backup_made_while_people_write_is_put_back_and_the_others_bring_the_rest() {
    let mut mesh = Mesh::start(3);
    let file = mesh.folder().path().join("mesh.backup");
    let (next, over) = (AtomicU64::new(1), AtomicBool::new(false));
    let before = std::thread::scope(|scope| {
        let first = &mesh.nodes()[0];
        let writer = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let number = next.load(Ordering::Relaxed);
                assert_eq!(make(first, number).status, 201);
                next.store(number + 1, Ordering::Relaxed);
            }
        });
        wait_until(PATIENCE, "some changes were made", || next.load(Ordering::Relaxed) > 20);
        let before = next.load(Ordering::Relaxed) - 1;
        backup(first, &file);
        let after = next.load(Ordering::Relaxed);
        wait_until(PATIENCE, "more were made", || next.load(Ordering::Relaxed) > after + 20);
        over.store(true, Ordering::Relaxed);
        writer.join().expect("every change was taken");
        before
    });
    let last = next.load(Ordering::Relaxed) - 1;
    wait_until(PATIENCE, "the last is elsewhere", || shows(&mesh.nodes()[1], last));
    let data = mesh.node("n1").data().display().to_string();
    let file = file.display().to_string();
    // Nobody changes the folder under a node that runs.
    let refused = run_within(2 * PATIENCE, &["restore", &file, "--data", &data]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    mesh.node("n1").kill();
    let done = run(&["restore", &file, "--data", &data, "--json"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let said: serde_json::Value = serde_json::from_str(&done.stdout).expect("it is JSON");
    let records = said["records"].as_u64().expect("a number");
    assert!((before..last).contains(&records), "{before} <= {records} < {last}");
    assert!(Path::new(said["aside"].as_str().expect("a path")).exists(), "what was there is kept");
    mesh.node("n1").restart();
    assert!((1..=before).all(|number| shows(&mesh.nodes()[0], number)), "what was backed up");
    wait_until(PATIENCE, "and what came later", || shows(&mesh.nodes()[0], last));
    assert!((1..=last).all(|number| shows(&mesh.nodes()[0], number)));
    // Its next change has a number that nobody has seen: it comes through.
    assert_eq!(make(&mesh.nodes()[0], last + 1).status, 201);
    wait_until(PATIENCE, "a new one is everywhere", || {
        mesh.nodes().iter().all(|node| shows(node, last + 1))
    });
    let log = mesh.node("n1").log();
    assert!(!log.contains("ledger.overtaken"), "nothing in it was its own:\n{log}");
}

#[test]
fn who_is_alone_has_what_was_backed_up_also_in_a_new_folder() {
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
    let mut node = Node::start(Options::named("n1").folder(&folder));
    assert_eq!(make(&node, 1).status, 201);
    let file = folder.path().join("one.backup");
    backup(&node, &file);
    assert_eq!(make(&node, 2).status, 201);
    node.kill();
    let (file, data) = (file.display().to_string(), node.data().display().to_string());
    // Of a folder that no node runs on, too.
    let both = folder.path().join("both.backup").display().to_string();
    assert_eq!(run(&["backup", &both, "--data", &data]).code, Some(0));
    assert_eq!(run(&["restore", &file, "--data", &data]).code, Some(0));
    node.restart();
    assert!(shows(&node, 1) && !shows(&node, 2));
    node.kill();
    let new = folder.path().join("n2").display().to_string();
    assert_eq!(run(&["restore", &both, "--data", &new]).code, Some(0));
    let other = Node::start(Options::named("n2").folder(&folder));
    assert!(shows(&other, 1) && shows(&other, 2), "with it another mesh begins");
    drop(other);
    let refused = run(&["restore", &file, "--data", &new]);
    assert_eq!(refused.code, Some(4), "that is of another mesh: {refused:?}");
    let nonsense = run(&["restore", "Cargo.toml", "--data", &new]);
    assert_eq!(nonsense.code, Some(2), "{nonsense:?}");
}

#[test]
fn a_whole_mesh_comes_back_from_one_backup_on_one_new_node_and_grows_again() {
    let mut mesh = Mesh::start(3);
    let root = json!({ "name": "root2" }).to_string();
    let anna = "/api/v1/accounts/000000000000000000000000000000aa";
    let new = [("If-None-Match", "*"), ("Roost-Wait", "3")];
    let made = request(mesh.node("n3").addr(), "PUT", anna, &new, &root).expect("it answers");
    assert_eq!(made.status, 201, "{made:?}");
    let labels = json!({ "description": "the old one" }).to_string();
    let n2 = format!("/api/v1/nodes/{}", mesh.node("n2").id());
    let set = request(mesh.node("n2").addr(), "PATCH", &n2, &[("If-Match", "*")], &labels);
    assert!(set.expect("it answers").status < 300);
    wait_until(PATIENCE, "it is at the first", || {
        mesh.nodes()[0].get(&n2).json()["description"] == "the old one"
    });
    let file = mesh.folder().path().join("all.backup");
    backup(&mesh.nodes()[0], &file);
    let admins = |node: &Node| {
        let found = node.get("/api/v1/accounts?q=admin").json();
        found["items"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(admins(&mesh.nodes()[0]), 1);
    for name in ["n1", "n2", "n3"] {
        mesh.node(name).kill();
    }

    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
    let data = folder.path().join("n9").display().to_string();
    let done = run(&["restore", &file.display().to_string(), "--data", &data]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let first = Node::start(Options::named("n9").folder(&folder));
    assert_eq!(first.get(anna).json()["name"], "root2");
    assert_eq!(admins(&first), 1, "the backup has an administrator");
    assert!(!first.log().contains("password  "), "no other password is told");
    let history = first.get(&format!("{anna}/history")).json();
    assert_eq!(history["items"][0]["node_name"], "n3", "{history}");
    // What is known of a node that will not come back is shown as that, and goes.
    let old = first.get(&n2).json();
    assert_eq!((&old["state"], &old["description"]), (&json!("never_seen"), &json!("the old one")));
    let socket = format!("unix:{}", first.data().join("roost.sock").display());
    let path = n2.rsplit('/').next().expect("an id");
    let gone = run(&["node", "forget", path, "--yes", "--addr", &socket]);
    assert_eq!(gone.code, Some(0), "{gone:?}");
    let member = run(&["node", "forget", "n9", "--yes", "--addr", &socket]);
    assert_eq!(member.code, Some(4), "a member is revoked instead: {member:?}");
    assert!(first.view().expect("it answers")["nodes"].as_array().expect("a list").len() == 1);
    // And others join it.
    let second = Node::start(Options::named("n10").folder(&folder).join(&first.invite(1)));
    wait_until(PATIENCE, "it has everything", || second.get(anna).status == 200);
    assert_eq!(make(&second, 77).status, 201);
    wait_until(PATIENCE, "its changes arrive", || shows(&first, 77));
    assert_eq!(first.get(&n2).status, 410);
}

/// A file system of a few megabytes, gone with this.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a folder can be made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs"]).arg(at);
        let done = finish(PATIENCE, mount);
        (done.code == Some(0)).then(|| Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        unmount.arg("--lazy").arg(&self.0);
        let _ = unmount.status();
    }
}

#[test]
fn a_full_disk_refuses_changes_in_words_and_reading_goes_on() {
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
    let Some(small) = Small::mount(&folder.path().join("n1")) else {
        eprintln!("not root: nothing can be mounted");
        return;
    };
    let node = Node::start(Options::named("n1").folder(&folder));
    assert_eq!(make(&node, 1).status, 201);
    let filler = small.0.join("filler");
    // Whatever is free goes into it; that the last write fails is the point.
    let _ = std::fs::write(&filler, vec![7; 8 << 20]);
    let mut refused = None;
    // The database may have some room of its own.
    for number in 2..2_000 {
        let answer = make(&node, number);
        if answer.status != 201 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the disk is full at some time");
    assert_eq!(refused.status, 507, "{refused:?}");
    let detail = refused.json()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("full"), "{detail}");
    assert!(shows(&node, 1), "reading goes on");
    assert_eq!(node.get("/api/v1/cluster").status, 200);
    wait_until(PATIENCE, "it is not ready, and says why", || {
        let ready = node.get("/readyz?verbose");
        ready.status == 503 && ready.body.contains("full")
    });
    std::fs::remove_file(&filler).expect("it is there");
    wait_until(PATIENCE, "changes are taken again", || make(&node, 5_000).status == 201);
    wait_until(Duration::from_secs(10), "and it is ready", || node.get("/readyz").status == 200);
    drop(node);
    drop(small);
}
