//! What a node did that is shut out, and whoever is in by its word.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::client::Encoder;
use crate::harness::http;
use crate::harness::lan::{Host, Lan, all_up};
use crate::harness::mesh::Mesh;
use crate::harness::node::{Node, Options};
use crate::harness::{PATIENCE, wait_until};
use crate::trust::{curl, cut, id_of, revoke};
use crate::whep::OFFER;

/// A message over a link and a look at every leg, on a machine that runs all tests.
const SHOWN_OUT_WITHIN: Duration = Duration::from_millis(500);

/// `curl` on a host, to its own node, with a body: the status and the answer.
#[track_caller]
fn say(host: &Host, method: &str, path: &str, body: &Value) -> (String, Value) {
    let url = format!("http://127.0.0.1:9443/api/v1/{path}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let args = ["-s", "-X", method, "-w", "\n%{http_code}", "-d", &body, &url];
    let condition = if method == "PUT" { "If-None-Match: *" } else { "If-Match: *" };
    let json = ["-H", "Content-Type: application/json", "-H", condition];
    let json = if method == "POST" { &json[..2] } else { &json[..] };
    let said = host.program("curl", &[&args[..], json].concat()).stdout;
    let (body, status) = said.rsplit_once('\n').expect("curl says the status");
    (status.to_owned(), serde_json::from_str(body).unwrap_or_default())
}

#[track_caller]
fn done(host: &Host, method: &str, path: &str, body: &Value) {
    let (status, said) = say(host, method, path, body);
    assert!(status.starts_with('2'), "{method} {path}: {status} {said}");
}

/// Makes a record of this name; its id.
#[track_caller]
fn make(host: &Host, noun: &str, name: &str, mut body: Value) -> String {
    let id = format!("{:0>32}", data_encoding::HEXLOWER.encode(name.as_bytes()));
    body["name"] = name.into();
    done(host, "PUT", &format!("{noun}/{id}"), &body);
    id
}

#[track_caller]
fn there(hosts: &[&Host], path: &str, expected: bool) {
    wait_until(PATIENCE, &format!("{path} is there: {expected}"), || {
        let status = if expected { "200" } else { "404" };
        hosts.iter().all(|host| say(host, "GET", path, &Value::Null).0 == status)
    });
}

#[test]
fn what_a_stolen_node_wrote_unseen_counts_nowhere_and_is_shown_as_void() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(4);
    let [n1, n2, n3, n4] = [0, 1, 2, 3].map(|index| nodes[index].0.clone());
    let all = [&n1, &n2, &n3, &n4];
    let stolen = id_of(&n3);
    make(&n3, "accounts", "early", json!({}));
    make(&n1, "rooms", "hall", json!({ "description": "ours" }));
    make(&n1, "rooms", "yard", json!({ "description": "ours" }));
    for path in ["accounts/early", "rooms/hall", "rooms/yard"] {
        there(&all, path, true);
    }
    cut(&[&n1, &n2], &[&n3, &n4]);
    // The thief makes itself at home on its side.
    let ghost = make(&n3, "accounts", "ghost", json!({}));
    let backdoor = json!({ "role": "admin", "everything": true, "accounts": [ghost] });
    make(&n3, "rules", "backdoor", backdoor);
    make(&n3, "encoders", "spy", json!({}));
    done(&n3, "DELETE", "rooms/hall", &Value::Null);
    done(&n3, "PATCH", "rooms/yard", &json!({ "description": "theirs" }));
    let made = ["accounts/ghost", "rules/backdoor", "encoders/spy"];
    made.iter().for_each(|path| there(&[&n3, &n4], path, true));
    there(&[&n4], "rooms/hall", false);

    done(&n1, "POST", &format!("nodes/{stolen}/revocation"), &Value::Null);
    all.iter().for_each(|host| host.heal());
    // At those to whom it comes, at one that had it, and at the stolen one itself.
    made.iter().for_each(|path| there(&all, path, false));
    there(&all, "rooms/hall", true);
    there(&all, "accounts/early", true);
    wait_until(PATIENCE, "what was there before is there again", || {
        all.iter()
            .all(|host| say(host, "GET", "rooms/yard", &Value::Null).1["description"] == "ours")
    });
    wait_until(PATIENCE, "what it did is told, and that it is void", || {
        let said = say(&n2, "GET", "audit?limit=50", &Value::Null).1;
        let items = said["items"].as_array().cloned().unwrap_or_default();
        let void = |kind: &str| items.iter().any(|it| it["kind"] == kind && it["void"] == true);
        void("account") && void("rule") && void("room")
    });

    done(&n2, "DELETE", &format!("nodes/{stolen}/revocation"), &Value::Null);
    made.iter().for_each(|path| there(&all, path, true));
    there(&all, "rooms/hall", false);
}

#[test]
fn of_three_nodes_that_are_out_in_a_circle_any_lets_another_in() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(3);
    let hosts = [0, 1, 2].map(|index| nodes[index].0.clone());
    let ids = [0, 1, 2].map(|index| id_of(&hosts[index]));
    let revocation = |of: usize| format!("nodes/{}/revocation", ids[of]);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        cut(&[&hosts[a]], &[&hosts[b]]);
    }
    for (by, of) in [(0, 1), (1, 2), (2, 0)] {
        done(&hosts[by], "POST", &revocation(of), &Value::Null);
    }
    hosts.iter().for_each(|host| host.heal());
    for host in &hosts {
        wait_until(PATIENCE, "all are out", || curl(host, "GET", "/readyz").0 == "503");
    }
    let (status, said) = say(&hosts[0], "DELETE", &revocation(0), &Value::Null);
    assert_eq!(status, "409", "{said}");
    let detail = said["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("let another node in from here first"), "{detail}");
    // Until it has heard of the whole circle, what it said itself, being out, counts for nothing.
    wait_until(PATIENCE, "it lets the next in", || {
        say(&hosts[0], "DELETE", &revocation(1), &Value::Null).0 == "204"
    });
    wait_until(PATIENCE, "it hears that it is in", || curl(&hosts[1], "GET", "/readyz").0 == "200");
    // What one of them said counts again once it is in: it may take a second look.
    for of in [0, 2, 0] {
        let (status, said) = say(&hosts[1], "DELETE", &revocation(of), &Value::Null);
        assert!(status == "204" || status == "404", "{said}");
    }
    wait_until(PATIENCE, "all see all", || all_up(&nodes));
}

#[test]
fn whoever_watches_by_a_revoked_nodes_string_is_shown_out_at_once() {
    let mesh = Mesh::start(3);
    let _encoder = Encoder::start(&mesh, "cam-1", &[]);
    let home = mesh.nodes()[0].home_of("cam-1").expect("it has a home");
    let mut others = mesh.others(&home);
    let (thief, third) = (others.next().expect("three"), others.next().expect("three"));
    let string = thief.invite_client();
    let bearer = format!("Bearer {string}");
    let shown = [("Authorization", bearer.as_str()), ("Content-Type", "application/sdp")];
    // A redirect is followed as a player would.
    let whep = |node: &Node| {
        let first = http::request(node.addr(), "POST", "/whep/cam-1", &shown, OFFER);
        let first = first.expect("it answers");
        let Some(location) = first.header("location").filter(|_| first.status == 307) else {
            return (node.addr(), first);
        };
        let (host, path) = location["http://".len()..].split_once('/').expect("a path");
        let host = host.parse().expect("an address");
        let sdp = [("Content-Type", "application/sdp")];
        (host, http::request(host, "POST", &format!("/{path}"), &sdp, OFFER).expect("it answers"))
    };
    let (at, leg) = whep(third);
    assert_eq!(leg.status, 201, "{leg:?}");
    let home = mesh.nodes().iter().find(|node| node.addr() == at).expect("it is one of them");
    assert_ne!(home.name(), thief.name());
    let dismissed = || {
        let metrics = home.get("/metrics").body;
        metrics.lines().any(|line| line.contains("dismissed") && line.ends_with(" 1"))
    };
    assert!(!dismissed());
    revoke(third, &thief.id());
    let revoked = Instant::now();
    wait_until(PATIENCE, "its leg is over", dismissed);
    let took = revoked.elapsed();
    assert!(took < SHOWN_OUT_WITHIN, "it took {took:?}");
    let (_, again) = whep(third);
    assert_eq!(again.status, 403, "{again:?}");
    assert!(again.body.contains("was revoked"), "{again:?}");
}

/// `curl` as somebody without rights on this machine, at a node's socket.
fn nobody_at(socket: &Path) -> std::process::Output {
    use std::os::unix::process::CommandExt as _;
    let socket = socket.display().to_string();
    let args = ["-s", "--max-time", "5", "--unix-socket", &socket, "http://node/api/v1/cluster"];
    let ran = Command::new("curl").args(args).uid(65_534).gid(65_534).output();
    ran.expect("curl runs as nobody")
}

#[test]
fn whoever_is_neither_root_nor_the_node_gets_nothing_at_its_socket() {
    use std::os::unix::fs::PermissionsExt as _;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let node = Node::start(Options::named("n1"));
    let socket = node.data().join("roost.sock");
    let open = |path: &Path, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("root may");
    };
    let refused = |count: u32| {
        let said = format!(r#"roost_http_refused_total{{reason="socket_peer"}} {count}"#);
        node.get("/metrics").body.contains(&said)
    };
    // As it is made, nobody else even reaches it.
    assert!(!nobody_at(&socket).status.success());
    assert!(refused(0));
    // And whoever does, by whatever mistake, is looked at.
    let mut folder = node.data();
    while folder.starts_with(std::env::temp_dir()) && folder != std::env::temp_dir() {
        open(&folder, 0o755);
        folder.pop();
    }
    open(&socket, 0o666);
    let said = nobody_at(&socket);
    assert!(!said.status.success() && said.stdout.is_empty(), "{said:?}");
    wait_until(PATIENCE, "it is counted", || refused(1));
    let socket = socket.display().to_string();
    let root = ["-s", "--unix-socket", &socket, "http://node/api/v1/cluster"];
    let root = Command::new("curl").args(root).output().expect("curl runs");
    assert!(String::from_utf8_lossy(&root.stdout).contains("\"nodes\""), "{root:?}");
}
