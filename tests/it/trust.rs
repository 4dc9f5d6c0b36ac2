//! Members that are shut out, let in again and given other keys; and clocks that are wrong.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::client::{Encoder, Viewer};
use crate::harness::http;
use crate::harness::lan::{Host, Lan, all_up};
use crate::harness::mesh::Mesh;
use crate::harness::node::{Node, Options};
use crate::harness::process::Process;
use crate::harness::{PATIENCE, wait_until};
use crate::whep::OFFER;

/// A revocation is everywhere within this: a round trip or two, on a machine that runs all tests.
const EVERYWHERE_WITHIN: Duration = Duration::from_secs(2);
/// A test picture comes every 67 ms; this long without one is a stall.
const STALL: Duration = Duration::from_millis(300);
/// A node that may not be there has had several chances to come back after this.
const CHANCES: Duration = Duration::from_secs(3);
const NOT_ALLOWED: Option<i32> = Some(5);

#[track_caller]
pub(crate) fn revoke(at: &Node, node: &str) {
    let path = format!("/api/v1/nodes/{node}/revocation");
    let answer = at.ask("POST", &path, r#"{"reason":"stolen from the van"}"#);
    assert_eq!(answer.status, 204, "{answer:?}");
}

#[track_caller]
fn readmit(at: &Node, node: &str) {
    let answer = at.ask("DELETE", &format!("/api/v1/nodes/{node}/revocation"), "");
    assert_eq!(answer.status, 204, "{answer:?}");
}

/// `roost node` on a folder that already has the key of somebody.
fn with_key_of(node: &Node, name: &str, invitation: &str) -> (Option<i32>, String) {
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
    let data = folder.path().join(name);
    std::fs::create_dir(&data).expect("a folder can be made");
    std::fs::copy(node.data().join("node.key"), data.join("node.key")).expect("it has a key");
    let options = Options::named(name).folder(&folder).join(invitation);
    Node::launch(options).refused(PATIENCE)
}

#[test]
fn a_revoked_node_is_dropped_by_everyone_at_once_and_stays_out_until_it_is_readmitted() {
    let mut mesh = Mesh::start(3);
    let encoders = ["cam-1", "cam-2", "cam-3"].map(|name| Encoder::start(&mesh, name, &[]));
    let viewers = ["cam-1", "cam-2", "cam-3"].map(|name| Viewer::start(&mesh, name));
    let stolen = mesh.nodes()[2].id();
    let early = mesh.nodes()[2].invite(5);
    let string = mesh.nodes()[2].invite_client();
    let mut guest = Guest::start(&mesh, &string);
    let old = mesh.nodes()[0].invite(5);
    let unknown =
        mesh.nodes()[0].ask("POST", &format!("/api/v1/nodes/{}/revocation", "0".repeat(32)), "");
    assert_eq!(unknown.status, 404, "{unknown:?}");

    revoke(&mesh.nodes()[0], &stolen);
    let revoked = Instant::now();
    wait_until(PATIENCE, "nobody has it any more", || {
        mesh.others("n3").all(|node| node.members() == ["n1", "n2"])
    });
    let took = revoked.elapsed();
    assert!(took < EVERYWHERE_WITHIN, "it took {took:?}");
    wait_until(PATIENCE, "whoever came with its string is sent away", || {
        guest.process.ended().is_some_and(|status| status.code() == NOT_ALLOWED)
    });
    wait_until(PATIENCE, "it knows that it is out", || {
        let ready = mesh.nodes()[2].get("/readyz");
        ready.status == 503 && ready.body.contains("stolen from the van")
    });
    assert!(mesh.nodes()[2].log().contains("node.expelled"));
    wait_until(PATIENCE, "all its clients are elsewhere, and see", || {
        let moved = ["cam-1", "cam-2", "cam-3"].iter().all(|name| {
            mesh.others("n3")
                .all(|node| node.home_of(name).is_some_and(|home| home == "n1" || home == "n2"))
        });
        moved && viewers.iter().all(|viewer| viewer.flows(STALL))
    });
    let listed = mesh.nodes()[1].get("/api/v1/nodes").json();
    let out = listed["items"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|node| node["node"] == stolen.as_str());
    let out = out.expect("it is listed");
    assert_eq!(
        (&out["revoked"], &out["reasons"][0]),
        (&true.into(), &"stolen from the van".into())
    );
    drop((encoders, viewers));

    mesh.node("n3").restart();
    std::thread::sleep(CHANCES);
    assert_eq!(mesh.nodes()[2].get("/readyz").status, 503, "after a restart, too");
    assert!(mesh.others("n3").all(|node| node.members() == ["n1", "n2"]));
    // Nor with a new folder, its key and an old invitation; nor somebody else with one of its own.
    let (code, said) = with_key_of(&mesh.nodes()[2], "again", &old);
    assert_eq!(code, NOT_ALLOWED, "{said}");
    assert!(said.contains("was revoked"), "{said}");
    let (code, said) = Node::launch(Options::named("friend").join(&early)).refused(PATIENCE);
    assert_eq!(code, NOT_ALLOWED, "{said}");
    assert!(said.contains("was revoked"), "{said}");

    readmit(&mesh.nodes()[1], &stolen);
    mesh.wait_until_all_see_all();
    wait_until(PATIENCE, "it serves again", || mesh.nodes()[2].get("/readyz").status == 200);
}

/// A viewer with an enrolment string.
struct Guest {
    process: Process,
}

impl Guest {
    #[track_caller]
    fn start(mesh: &Mesh, string: &str) -> Self {
        let folder = mesh.folder().path();
        let output = folder.join("guest.h264").display().to_string();
        let args = ["view", "cam-1", "--addr", string, "--output", &output].map(str::to_owned);
        let process = Process::start("guest", folder, &args);
        wait_until(PATIENCE, "the guest sees", || {
            std::fs::metadata(&output).is_ok_and(|file| file.len() > 0)
        });
        Self { process }
    }
}

/// `curl` on a host, to its own node: the status and the body.
#[track_caller]
pub(crate) fn curl(host: &Host, method: &str, path: &str) -> (String, String) {
    let url = format!("http://127.0.0.1:9443{path}");
    let args = ["-s", "-X", method, "-w", "\n%{http_code}", &url];
    let said = host.program("curl", &args).stdout;
    let (body, status) = said.rsplit_once('\n').expect("curl says the status");
    (status.to_owned(), body.to_owned())
}

pub(crate) fn id_of(host: &Host) -> String {
    let view = host.view().expect("it answers");
    view["node"].as_str().expect("an id").to_owned()
}

fn members(host: &Host) -> Vec<String> {
    let view = host.view().unwrap_or_default();
    let nodes = view["nodes"].as_array().into_iter().flatten();
    nodes.filter_map(|node: &Value| node["name"].as_str().map(str::to_owned)).collect()
}

pub(crate) fn cut(left: &[&Host], right: &[&Host]) {
    for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (a, b))) {
        a.ignore(b);
        b.ignore(a);
    }
}

#[track_caller]
fn all_have(hosts: &[&Host], names: &[&str]) {
    wait_until(PATIENCE, &format!("members are {names:?}"), || {
        hosts.iter().all(|host| members(host) == names)
    });
}

#[test]
fn a_revocation_on_one_side_of_a_split_beats_an_invitation_used_on_the_other() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(4);
    let [n1, n2, n3, n4] = [0, 1, 2, 3].map(|index| nodes[index].0.clone());
    let late = lan.host("n5");
    let invitation = n3.invite(&["--uses", "5"]);
    let everybody = [&n1, &n2, &n3, &n4, &late];
    cut(&[&n1, &n2], &[&n3, &n4, &late]);
    let (status, said) = curl(&n1, "POST", &format!("/api/v1/nodes/{}/revocation", id_of(&n3)));
    assert_eq!(status, "204", "{said}");
    all_have(&[&n1, &n2], &["n1", "n2", "n4"]);
    // The other half, which cannot know, lets somebody in by a string of the stolen node; the
    // member that admits is not the one that invites.
    late.ignore(&n3);
    let _late: Process = late.node(&["--join", &invitation]);
    wait_until(PATIENCE, "n4 has it", || members(&n4).contains(&"n5".to_owned()));
    everybody.iter().for_each(|host| host.heal());
    all_have(&[&n1, &n2, &n4], &["n1", "n2", "n4"]);
    std::thread::sleep(CHANCES);
    all_have(&[&n1, &n2, &n4], &["n1", "n2", "n4"]);
    for host in [&n3, &late] {
        wait_until(PATIENCE, &format!("{} knows", host.name()), || {
            curl(host, "GET", "/readyz").0 == "503"
        });
    }
}

#[test]
fn two_nodes_that_revoke_each_other_are_both_out_until_they_are_readmitted() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(3);
    let [n1, n2, n3] = [0, 1, 2].map(|index| nodes[index].0.clone());
    let ids = [&n1, &n2, &n3].map(id_of);
    cut(&[&n1, &n3], &[&n2]);
    for (at, of) in [(&n1, 1), (&n2, 0)] {
        let (status, said) = curl(at, "POST", &format!("/api/v1/nodes/{}/revocation", ids[of]));
        assert_eq!(status, "204", "{said}");
    }
    [&n1, &n2, &n3].iter().for_each(|host| host.heal());
    all_have(&[&n3], &["n3"]);
    for host in [&n1, &n2] {
        wait_until(PATIENCE, "both are out", || curl(host, "GET", "/readyz").0 == "503");
    }
    let (status, said) = curl(&n3, "DELETE", &format!("/api/v1/nodes/{}/revocation", ids[0]));
    assert_eq!(status, "204", "{said}");
    all_have(&[&n1, &n3], &["n1", "n3"]);
    // It does not let itself in.
    let (status, said) = curl(&n2, "DELETE", &format!("/api/v1/nodes/{}/revocation", ids[1]));
    assert_eq!(status, "409", "{said}");
    let (status, said) = curl(&n1, "DELETE", &format!("/api/v1/nodes/{}/revocation", ids[1]));
    assert_eq!(status, "204", "{said}");
    wait_until(PATIENCE, "all see all", || all_up(&nodes));
}

#[test]
fn an_invitation_that_two_sides_of_a_split_used_lets_in_as_many_as_it_says() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(2);
    let [n1, n2] = [0, 1].map(|index| nodes[index].0.clone());
    let (a, b) = (lan.host("a"), lan.host("b"));
    let invitation = n1.invite(&["--uses", "1"]);
    cut(&[&n1, &a], &[&n2, &b]);
    let _a = a.node(&["--join", &invitation]);
    let _b = b.node(&["--join", &invitation]);
    all_have(&[&n1], &["a", "n1", "n2"]);
    all_have(&[&n2], &["b", "n1", "n2"]);
    [&n1, &n2, &a, &b].iter().for_each(|host| host.heal());
    wait_until(PATIENCE, "one of the two is out, the same for both", || {
        let (here, there) = (members(&n1), members(&n2));
        here.len() == 3 && here == there
    });
    let stays = members(&n1)[0].clone();
    let goes = if stays == "a" { &b } else { &a };
    wait_until(PATIENCE, "it knows", || curl(goes, "GET", "/readyz").0 == "503");
    for (host, process) in &nodes {
        assert!(process.log().contains("node.expelled"), "{} alarms", host.name());
        let surplus = r#"roost_members_changed_total{how="surplus"} 1"#;
        wait_until(PATIENCE, &format!("{} counts", host.name()), || {
            curl(host, "GET", "/metrics").1.contains(surplus)
        });
    }
}

/// The key that a node shows, as another sees it.
fn key_of(seen_by: &Node, id: &str) -> String {
    let listed = seen_by.get("/api/v1/nodes").json();
    let node = listed["items"].as_array().into_iter().flatten().find(|node| node["node"] == id);
    node.expect("it is listed")["key"].as_str().expect("a key").to_owned()
}

#[test]
fn a_node_gets_another_key_while_its_stream_is_watched() {
    let mut mesh = Mesh::start(3);
    let _encoder = Encoder::start(&mesh, "cam-1", &[]);
    let viewer = Viewer::start(&mesh, "cam-1");
    let home = mesh.nodes()[0].home_of("cam-1").expect("it has a home");
    let other = if home == "n1" { "n2" } else { "n1" };
    let id = mesh.node(&home).id();
    let string = mesh.node(&home).invite_client();
    let before = key_of(mesh.node(other), &id);
    let old_folder = std::fs::read(mesh.node(&home).data().join("node.key")).expect("a key");
    let path = format!("/api/v1/nodes/{id}/key");
    let elsewhere = mesh.node(other).ask("POST", &path, "");
    assert_eq!(elsewhere.status, 409, "{elsewhere:?}");
    assert!(elsewhere.body.contains(&mesh.node(&home).addr().to_string()), "{elsewhere:?}");

    let asked = Instant::now();
    let answer = mesh.node(&home).ask("POST", &path, "");
    assert_eq!(answer.status, 204, "{answer:?}");
    wait_until(PATIENCE, "everybody knows its new key", || {
        mesh.nodes().iter().all(|node| key_of(node, &id) != before)
    });
    let watched = Duration::from_secs(2);
    wait_until(PATIENCE, "it was watched on", || asked.elapsed() > watched);
    let gap = viewer.gap_since(asked);
    assert!(gap < STALL, "the picture stood still for {gap:?}");
    assert_eq!(mesh.node(&home).home_of("cam-1").as_deref(), Some(home.as_str()));
    // New handshakes: its own after a restart, with members and clients; and what it signed.
    let bearer = format!("Bearer {string}");
    let shown = [("Authorization", bearer.as_str())];
    let asks = |node: &Node| http::request(node.addr(), "GET", "/api/v1/cluster", &shown, "");
    assert_eq!(asks(mesh.node(other)).expect("it answers").status, 200, "an old string is good");
    mesh.node(&home).restart();
    mesh.wait_until_all_see_all();
    assert_eq!(mesh.node(&home).id(), id);
    wait_until(PATIENCE, "it is watched again", || viewer.flows(STALL));
    let newcomer = Options::named("n4").join(&mesh.node(&home).invite(1));
    let newcomer = Node::start(newcomer);
    wait_until(PATIENCE, "whoever it lets in is in", || {
        mesh.nodes().iter().all(|node| node.opinion_of("n4").as_deref() == Some("up"))
    });
    drop(newcomer);

    // The old key alone opens nothing.
    mesh.node(&home).kill();
    std::fs::write(mesh.node(&home).data().join("node.key"), old_folder).expect("it is replaced");
    mesh.node(&home).restart();
    std::thread::sleep(CHANCES);
    assert_ne!(mesh.node(other).opinion_of(&home).as_deref(), Some("up"));
}

#[test]
fn a_node_that_is_killed_while_its_key_changes_starts_and_ends_with_one_key() {
    let mut mesh = Mesh::start(2);
    let id = mesh.nodes()[1].id();
    for round in 0..6u64 {
        let addr = mesh.nodes()[1].addr();
        let path = format!("/api/v1/nodes/{id}/key");
        let asking = std::thread::spawn(move || http::post(addr, &path, ""));
        std::thread::sleep(Duration::from_millis(round * 4));
        mesh.node("n2").kill();
        let _ = asking.join();
        mesh.node("n2").restart();
        mesh.wait_until_all_see_all();
        wait_until(PATIENCE, "no change is under way", || {
            !mesh.nodes()[1].data().join("node.key.next").exists()
        });
        assert_eq!(mesh.nodes()[1].id(), id, "round {round}");
    }
}

/// A library that makes a process's wall clock wrong; nothing without a compiler.
fn wrong_clock(folder: &Path) -> Option<String> {
    let library = folder.join("clock.so").display().to_string();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clock.c");
    let built = Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-o", &library, source, "-ldl"])
        .status();
    match built {
        Ok(status) => {
            assert!(status.success(), "it compiles");
            Some(library)
        }
        Err(error) => {
            eprintln!("skipped: no C compiler: {error}");
            None
        }
    }
}

/// Clients that ask the node whose clock is wrong for what is elsewhere, and the other way round.
#[track_caller]
fn whoever_is_sent_there_and_back_is_served(mesh: &Mesh, wrong: &Node) {
    let right = &mesh.nodes()[1];
    let homes = || ["at-1", "at-2", "at-3", "at-4", "at-5"].map(|name| (name, wrong.home_of(name)));
    // Agents that know one node each, and are sent to others.
    let encoders = ["at-1", "at-2", "at-3", "at-4", "at-5"].map(|name| {
        let addr = if name < "at-3" { wrong.addr() } else { right.addr() }.to_string();
        let state = mesh.folder().path().join(format!("{name}.state")).display().to_string();
        let args = ["encode", name, "--test", "--addr", &addr, "--state", &state];
        Process::start(name, mesh.folder().path(), &args.map(str::to_owned))
    });
    wait_until(PATIENCE, "all have a home", || homes().iter().all(|(_, home)| home.is_some()));
    wait_until(PATIENCE, "the others know", || {
        homes().iter().all(|(name, home)| right.home_of(name) == *home)
    });
    let at = |wanted: &dyn Fn(&str) -> bool| {
        let homes = homes();
        let found = homes.iter().find(|(_, home)| home.as_deref().is_some_and(wanted));
        found.expect("every node has some").0
    };
    let sdp = [("Content-Type", "application/sdp")];
    let post = |addr, path: &str| {
        http::request(addr, "POST", path, &sdp, OFFER).expect("the node answers")
    };
    for (asked, name) in
        [(wrong, at(&|home| home != "wrong")), (right, at(&|home| home == "wrong"))]
    {
        let redirect = post(asked.addr(), &format!("/whep/{name}"));
        assert_eq!(redirect.status, 307, "{redirect:?}");
        let location = redirect.header("location").expect("it says where");
        let (host, path) = location["http://".len()..].split_once('/').expect("a path");
        let there = post(host.parse().expect("an address"), &format!("/{path}"));
        assert_eq!(there.status, 201, "{there:?}");
        let page = post(asked.addr(), &format!("/whep/{name}?leg=home"));
        assert_eq!(page.status, 201, "{page:?}");
        Viewer::start_at(mesh, name, &asked.addr().to_string(), &[]).end();
    }
    drop(encoders);
}

#[test]
fn a_clock_that_is_ten_years_off_changes_nothing_but_what_people_see() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let Some(library) = wrong_clock(folder.path()) else { return };
    for years in [10i64, -10] {
        let mut mesh = Mesh::start(2);
        let seconds = (years * 365 * 24 * 3600).to_string();
        let invitation = mesh.nodes()[0].invite(2);
        let wrong = Options::named("wrong")
            .folder(mesh.folder())
            .join(&invitation)
            .env("LD_PRELOAD", &library)
            .env("ROOST_TEST_CLOCK", &seconds);
        let mut wrong = Node::start(wrong);
        wait_until(PATIENCE, "it is in", || {
            mesh.nodes().iter().all(|node| node.opinion_of("wrong").as_deref() == Some("up"))
        });
        wait_until(PATIENCE, "it says so", || {
            let ready = wrong.get("/readyz?verbose");
            ready.status == 200 && ready.body.contains("[!] clock") && ready.body.contains("mesh's")
        });
        assert!(wrong.log().contains("clock.skewed"));
        let right = mesh.nodes()[0].get("/readyz?verbose").body;
        assert!(right.contains("[+] clock ok"), "{right}");
        let skew = wrong.get("/metrics").body;
        let skew = skew.lines().find(|line| line.starts_with("roost_clock_skew_seconds"));
        let skew = skew.and_then(|line| line.split(' ').next_back()).expect("a metric");
        let skew: f64 = skew.parse().expect("a number");
        assert!((skew - (years * 365 * 24 * 3600) as f64).abs() < 30.0, "{skew}");

        // Credentials, either way.
        let bearer = |string: &str| format!("Bearer {string}");
        let asks = |node: &Node, string: &str| {
            let shown = [("Authorization", bearer(string))];
            let shown = shown.each_ref().map(|(name, value)| (*name, value.as_str()));
            http::request(node.addr(), "GET", "/api/v1/cluster", &shown, "")
                .expect("it answers")
                .status
        };
        let (its, ours) = (wrong.invite_client(), mesh.nodes()[0].invite_client());
        assert_eq!((asks(&mesh.nodes()[1], &its), asks(&wrong, &ours)), (200, 200));
        // Invitations: one by it, judged by the others; and one by them, judged by it.
        let its = wrong.invite(1);
        wrong.kill();
        let late = Node::start(Options::named("late").folder(mesh.folder()).join(&its));
        wrong.restart();
        let ours = late.invite(1);
        let last = Options::named("last").folder(mesh.folder());
        let last = last.env("LD_PRELOAD", &library).env("ROOST_TEST_CLOCK", &seconds);
        let last = Node::start(last.join(&ours));
        wait_until(PATIENCE, "all are in", || {
            ["late", "last", "wrong"].iter().all(|name| {
                mesh.nodes().iter().all(|node| node.opinion_of(name).as_deref() == Some("up"))
            })
        });
        drop((late, last));
        whoever_is_sent_there_and_back_is_served(&mesh, &wrong);
        mesh.node("n1").kill();
    }
}
