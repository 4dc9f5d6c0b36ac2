//! Records over HTTP, with real nodes: on two sides of a cut, and from one node to the next.

use serde_json::{Value, json};

use crate::harness::http::request;
use crate::harness::lan::{Host, Lan};
use crate::harness::mesh::Mesh;
use crate::harness::node::{Node, Options};
use crate::harness::{PATIENCE, wait_for, wait_until};

const ANN: &str = "/api/v1/accounts/0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";

/// Asks the node on this host: the answer and its entity tag.
fn ask(host: &Host, method: &str, path: &str, headers: &[&str], body: &str) -> (Value, String) {
    let url = format!("http://127.0.0.1:9443{path}");
    let mut args = vec!["-s", "-D", "-", "-X", method, &url, "--data-raw", body];
    args.extend(headers.iter().flat_map(|header| ["-H", header]));
    let asked = host.program("curl", &args);
    let (head, body) = asked.stdout.split_once("\r\n\r\n").expect("it answers");
    let mut lines = head.lines();
    let tag = lines.find_map(|line| line.strip_prefix("etag: ")).unwrap_or_default();
    (serde_json::from_str(body).unwrap_or_default(), tag.to_owned())
}

#[test]
fn two_who_change_one_account_on_two_sides_of_a_cut_both_find_it_and_one_write_settles_it() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(2);
    let (one, other) = (&nodes[0].0, &nodes[1].0);
    let new = ["If-None-Match: *", "Roost-Wait: 2"];
    ask(one, "PUT", ANN, &new, r#"{"name":"ann"}"#);
    assert_eq!(ask(other, "GET", ANN, &[], "").0["name"], "ann");
    one.ignore(other);
    other.ignore(one);
    let any = ["If-Match: *"];
    let mut tags = Vec::new();
    for (host, email) in [(one, "one@x"), (other, "other@x")] {
        let body = json!({ "email": email }).to_string();
        let (changed, tag) = ask(host, "PATCH", ANN, &any, &body);
        assert_eq!(changed["email"], email, "{changed}");
        // Repeated, as by a browser that had no answer, it does nothing more.
        let seen = format!("If-Match: {tag}");
        let (again, same) = ask(host, "PATCH", ANN, &[&seen], &body);
        assert_eq!((&again["changed"], &same), (&changed["changed"], &tag));
        tags.push(seen);
    }
    one.heal();
    other.heal();
    let ids: Vec<Value> =
        [one, other].map(|host| host.view().expect("it answers")["node"].clone()).into();
    for host in [one, other] {
        let conflicts = wait_for(PATIENCE, "both are there", || {
            let (shown, _) = ask(host, "GET", ANN, &[], "");
            let conflicts = shown["conflicts"]["email"].as_array()?.clone();
            (conflicts.len() == 2).then_some(conflicts)
        });
        for (node, email) in ids.iter().zip(["one@x", "other@x"]) {
            let by = conflicts.iter().find(|by| by["value"] == email).expect("its value");
            assert_eq!(by["node"], *node);
            assert_eq!(by["account"], "0".repeat(32), "whoever was at the machine");
            assert!(by["at"].as_u64() > Some(1_600_000_000_000), "{by}");
        }
    }
    // Whoever goes on from what they saw on their side is told what is there now.
    for (host, tag) in [one, other].into_iter().zip(&tags) {
        let (refused, _) = ask(host, "PATCH", ANN, &[tag], r#"{"email":"mine@x"}"#);
        assert_eq!(refused["status"], 412, "{refused}");
        let both = refused["current"]["conflicts"]["email"].as_array().map(Vec::len);
        assert_eq!(both, Some(2), "{refused}");
    }
    let (shown, tag) = ask(other, "GET", ANN, &[], "");
    let tag = format!("If-Match: {tag}");
    let (settled, _) = ask(other, "PUT", ANN, &[&tag], &shown.to_string());
    assert!(settled["id"].is_string() && settled.get("conflicts").is_none(), "{settled}");
    wait_until(PATIENCE, "it is settled everywhere", || {
        let (there, _) = ask(one, "GET", ANN, &[], "");
        there == settled
    });
}

#[test]
fn whoever_wrote_at_one_node_reads_it_at_the_next_and_turns_pages_at_any() {
    let mesh = Mesh::start(3);
    let nodes = mesh.nodes();
    for number in 0..7_u8 {
        let path = format!("/api/v1/rooms/{}", format!("{number:02x}").repeat(16));
        let at = nodes[usize::from(number) % 3].addr();
        let body = json!({ "name": format!("room-{number}") }).to_string();
        let made = request(at, "PUT", &path, &[("If-None-Match", "*")], &body).expect("it answers");
        assert_eq!(made.status, 201, "{made:?}");
        let version = made.header("roost-version").expect("it has one").to_owned();
        // At once, and at another node.
        let min = [("Roost-Min-Version", version.as_str())];
        let next = nodes[(usize::from(number) + 1) % 3].addr();
        let read = request(next, "GET", &path, &min, "").expect("it answers");
        assert_eq!((read.status, read.header("roost-stale")), (200, None), "{read:?}");
        let list = request(next, "GET", "/api/v1/rooms?q=room", &min, "").expect("it answers");
        assert_eq!(list.json()["items"].as_array().expect("a list").len(), usize::from(number) + 1);
    }
    wait_until(PATIENCE, "all have all", || {
        let count = |answer: Value| answer["items"].as_array().map_or(0, Vec::len);
        nodes.iter().all(|node| count(node.get("/api/v1/rooms").json()) == 7)
    });
    let (mut names, mut cursor) = (Vec::new(), String::new());
    for turn in 0..4 {
        let page = nodes[turn % 3].get(&format!("/api/v1/rooms?limit=2{cursor}")).json();
        let items = page["items"].as_array().expect("a list");
        names.extend(items.iter().map(|item| item["name"].as_str().unwrap_or("").to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(names, (0..7).map(|number| format!("room-{number}")).collect::<Vec<_>>());
    let none = [("Roost-Min-Version", "ffffffffffffffffffffffffffffffff.1")];
    let stale = request(nodes[0].addr(), "GET", "/api/v1/rooms", &none, "").expect("it answers");
    assert_eq!((stale.status, stale.header("roost-stale")), (200, Some("true")));
}

#[test]
fn a_dead_node_keeps_its_name_in_what_is_told_of_it_also_to_who_never_met_it() {
    let mut mesh = Mesh::start(3);
    let path = "/api/v1/rooms/0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b";
    let new = [("If-None-Match", "*"), ("Roost-Wait", "3")];
    let made = request(mesh.node("n3").addr(), "PUT", path, &new, r#"{"name":"hall"}"#);
    assert_eq!(made.expect("it answers").status, 201);
    mesh.node("n3").kill();
    // No report of it will come any more.
    mesh.node("n1").kill();
    mesh.node("n2").kill();
    mesh.node("n1").restart();
    let by = |node: &Node| {
        let history = node.get(&format!("{path}/history")).json();
        history["items"][0]["node_name"].as_str().map(str::to_owned)
    };
    assert_eq!(by(mesh.node("n1")).as_deref(), Some("n3"), "at once");
    let invitation = mesh.node("n1").invite(1);
    let newcomer = Node::start(Options::named("n4").join(&invitation));
    wait_until(PATIENCE, "it has the record", || newcomer.get(path).status == 200);
    assert_eq!(by(&newcomer).as_deref(), Some("n3"));
    let audit = newcomer.get("/api/v1/audit").json();
    assert_eq!(audit["items"][0]["node_name"], "n3", "{audit}");
}
