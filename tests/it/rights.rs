//! Nobody is let in without showing something, and nobody gets more than what is theirs.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use roost::admission::Enrolment;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::http::{Response, request};
use crate::harness::node::{Node, Options};
use crate::harness::process::Process;
use crate::harness::{PATIENCE, wait_for, wait_until};

const PASSWORD: &str = "correct horse battery";

/// Nodes that ask everyone, and the token of their administrator.
struct Guarded {
    nodes: Vec<Node>,
    token: String,
    folder: Arc<TempDir>,
}

#[track_caller]
fn ask(
    node: &Node,
    method: &str,
    path: &str,
    token: &str,
    more: &[(&str, &str)],
    body: &str,
) -> Response {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend((!token.is_empty()).then_some(("Authorization", bearer.as_str())));
    headers.extend(more);
    request(node.addr(), method, path, &headers, body).expect("it answers")
}

fn login(node: &Node, name: &str, password: &str) -> Response {
    let body = json!({ "name": name, "password": password }).to_string();
    ask(node, "POST", "/api/v1/login", "", &[], &body)
}

#[track_caller]
fn token(node: &Node, name: &str, password: &str) -> String {
    let answer = login(node, name, password);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["token"].as_str().expect("it is a text").to_owned()
}

impl Guarded {
    #[track_caller]
    fn start(count: usize) -> Self {
        Self::start_with(count, Options::closed)
    }

    #[track_caller]
    fn start_with(count: usize, how: impl Fn(Options) -> Options) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
        let file = folder.path().join("password");
        std::fs::write(&file, format!("{PASSWORD}\n")).expect("the folder is there");
        let path = file.display().to_string();
        let options = how(Options::named("n1").folder(&folder));
        let founder = Node::start(options.args(&["--admin-password-file", &path]));
        let token = token(&founder, "admin", PASSWORD);
        let mut guarded = Self { nodes: vec![founder], token, folder };
        if count > 1 {
            let invitation = guarded.invite(&json!({ "uses": count - 1 }));
            for number in 2..=count {
                let options = Options::named(&format!("n{number}")).folder(&guarded.folder);
                guarded.nodes.push(Node::start(how(options).join(&invitation)));
            }
        }
        wait_until(PATIENCE, "every node sees every node", || {
            guarded.nodes.iter().all(|node| {
                let view = guarded.view(node);
                let up = |node: &&Value| node["state"] == "up";
                view["nodes"].as_array().is_some_and(|all| all.iter().filter(up).count() == count)
            })
        });
        guarded
    }

    /// Asks as the administrator.
    #[track_caller]
    fn ask(&self, at: usize, method: &str, path: &str, body: &Value) -> Response {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        ask(&self.nodes[at], method, path, &self.token, &[], &body)
    }

    #[track_caller]
    fn invite(&self, terms: &Value) -> String {
        let answer = self.ask(0, "POST", "/api/v1/invitations", terms);
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["invitation"].as_str().expect("it is a text").to_owned()
    }

    /// What a node shows; null while it knows nobody yet.
    fn view(&self, node: &Node) -> Value {
        let answer = ask(node, "GET", "/api/v1/cluster", &self.token, &[], "");
        if answer.status == 200 { answer.json() } else { Value::Null }
    }
}

/// The passwords that a node told, the same one counted once for each time.
fn told(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| line.trim().strip_prefix("password  "));
    lines.map(str::to_owned).collect()
}

#[test]
fn an_enrolment_string_is_listed_and_its_removal_ends_what_came_with_it_everywhere() {
    let guarded = Guarded::start(2);
    let made = guarded.ask(0, "POST", "/api/v1/invitations", &json!({ "client": true }));
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    let text = made["invitation"].as_str().expect("it is a text");
    let id = made["enrolment"].as_str().expect("it has one");
    let kept = guarded.invite(&json!({ "client": true }));
    let me =
        |at: usize, text: &str| ask(&guarded.nodes[at], "GET", "/api/v1/me", text, &[], "").status;
    assert_eq!((me(0, text), me(1, text)), (200, 200));
    // Somebody who follows the mesh with it is told to go.
    let mut stream = TcpStream::connect(guarded.nodes[1].addr()).expect("it listens");
    let asks =
        format!("GET /api/v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {text}\r\n\r\n");
    stream.write_all(asks.as_bytes()).expect("it is read");
    stream.set_read_timeout(Some(PATIENCE)).expect("it can be");
    let path = format!("/api/v1/enrolments/{id}");
    wait_until(PATIENCE, "the other node lists it", || {
        guarded.ask(1, "GET", &path, &Value::Null).status == 200
    });
    let listed = guarded.ask(1, "GET", "/api/v1/enrolments", &Value::Null).json();
    let ends: Vec<_> = listed["items"].as_array().expect("a list").iter().collect();
    assert_eq!(ends.len(), 2, "{listed}");
    assert!(ends.iter().all(|item| item["expires"].as_u64() > Some(1_600_000_000_000)));
    let put = guarded.ask(0, "PUT", &path, &json!({}));
    assert_eq!(put.status, 405, "nobody makes one without its string");
    // A client makes none and ends none.
    assert_eq!(ask(&guarded.nodes[0], "DELETE", &path, text, &[("If-Match", "*")], "").status, 404);
    let ended = ask(&guarded.nodes[0], "DELETE", &path, &guarded.token, &[("If-Match", "*")], "");
    assert_eq!(ended.status, 204, "{ended:?}");
    wait_until(PATIENCE, "it lets nobody in at either", || {
        (me(0, text), me(1, text)) == (403, 403)
    });
    let mut told = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&told).contains("event: end") {
        let read = stream.read(&mut buffer).expect("it is told in time");
        assert!(read > 0, "{}", String::from_utf8_lossy(&told));
        told.extend_from_slice(&buffer[..read]);
    }
    assert_eq!((me(0, &kept), me(1, &kept)), (200, 200), "the other string is as good as before");
}

#[test]
fn a_fresh_mesh_has_one_administrator_whose_password_is_told_once() {
    let mut node = Node::start(Options::named("n1").closed());
    for path in ["/api/v1/cluster", "/api/v1/me", "/metrics", "/api/v1/events"] {
        assert_eq!(node.get(path).status, 401, "{path}: this machine is like any other");
    }
    let passwords = told(&node.log());
    let [password] = &passwords[..] else { panic!("told {passwords:?}") };
    let admin = token(&node, "admin", password);
    let me = ask(&node, "GET", "/api/v1/me", &admin, &[], "").json();
    assert_eq!(me["roles"], json!([{ "role": "admin", "mesh": true }]));
    assert_eq!(login(&node, "admin", "something else").status, 401);
    node.restart();
    assert_eq!(told(&node.log()).len(), 1, "not again");
    assert_eq!(ask(&node, "GET", "/api/v1/me", &admin, &[], "").status, 200);
    assert!(!node.data().join("admin.first").exists(), "it is nowhere in the folder");
    let invitation = json!({ "uses": 1 }).to_string();
    let made = ask(&node, "POST", "/api/v1/invitations", &admin, &[], &invitation).json();
    let invitation = made["invitation"].as_str().expect("it is a text");
    let newcomer = Node::start(Options::named("n2").closed().join(invitation));
    assert!(told(&newcomer.log()).is_empty(), "whoever joins founds nothing");
}

#[test]
fn a_founder_that_is_killed_at_any_moment_leaves_one_administrator_and_one_password() {
    let mut finished = 0;
    for attempt in 0..12 {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
        let options = || Options::named("n1").folder(&folder).closed();
        for kill in 0..3 {
            let mut launched = Node::launch(options());
            // From before the folder is made to after the node is ready, in steps of 15 ms.
            std::thread::sleep(Duration::from_millis(15 * (attempt + 4 * kill)));
            launched.process().kill();
        }
        let node = Node::start(options());
        let passwords = told(&node.log());
        let different: BTreeSet<&String> = passwords.iter().collect();
        assert_eq!(different.len(), 1, "after {attempt}: {passwords:?}");
        let admin = token(&node, "admin", &passwords[0]);
        let me = ask(&node, "GET", "/api/v1/me", &admin, &[], "").json();
        assert_eq!(me["roles"][0]["role"], "admin", "{me}");
        finished += usize::from(passwords.len() == 1);
    }
    assert!(finished > 0, "some were killed before they told it");
}

#[test]
fn who_logged_in_at_a_node_is_known_at_all_also_after_its_death() {
    let mut mesh = Guarded::start(3);
    let second = token(&mesh.nodes[1], "admin", PASSWORD);
    mesh.nodes[1].kill();
    for at in [0, 2] {
        let node = &mesh.nodes[at];
        assert_eq!(ask(node, "GET", "/api/v1/me", &second, &[], "").status, 200);
        let url = format!("/api/v1/me?token={second}");
        assert_eq!(ask(node, "GET", &url, "", &[], "").status, 200);
    }
    // Another password, at a node that never saw it log in.
    let change = json!({ "old": PASSWORD, "new": "another horse battery" }).to_string();
    let changed = ask(&mesh.nodes[2], "POST", "/api/v1/me/password", &second, &[], &change);
    assert_eq!(changed.status, 200, "{changed:?}");
    let begin = Instant::now();
    wait_until(PATIENCE, "the old sign-in is over everywhere", || {
        [0, 2].iter().all(|at| {
            ask(&mesh.nodes[*at], "GET", "/api/v1/me", &mesh.token, &[], "").status == 403
        })
    });
    println!("a sign-in was over everywhere after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(1));
    let fresh = changed.json()["token"].as_str().expect("it is a text").to_owned();
    wait_until(PATIENCE, "the new one is good everywhere", || {
        [0, 2]
            .iter()
            .all(|at| ask(&mesh.nodes[*at], "GET", "/api/v1/me", &fresh, &[], "").status == 200)
    });
    mesh.nodes[1].restart();
    wait_until(PATIENCE, "also at the node that was dead", || {
        ask(&mesh.nodes[1], "GET", "/api/v1/me", &second, &[], "").status == 403
    });
}

#[test]
fn guessing_is_slowed_down_and_counted_and_no_password_is_in_any_log() {
    let mesh = Guarded::start(1);
    let node = &mesh.nodes[0];
    let throttled = wait_for(PATIENCE, "it is told to wait", || {
        let answer = login(node, "admin", "wrong horse battery");
        (answer.status == 429).then_some(answer)
    });
    let wait: u64 =
        throttled.header("retry-after").expect("it is told how long").parse().expect("seconds");
    assert!((1..=7).contains(&wait), "{wait}");
    assert_eq!(login(node, "admin", PASSWORD).status, 429, "nobody is told whether they are right");
    let metrics = mesh.ask(0, "GET", "/metrics", &Value::Null).body;
    assert!(metrics.contains("roost_logins_total{result=\"throttled\"} 2"), "{metrics}");
    std::thread::sleep(Duration::from_secs(wait));
    assert_eq!(login(node, "admin", PASSWORD).status, 200, "and then let in");
    let log = node.log();
    for secret in [PASSWORD, "wrong horse battery", &mesh.token] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    assert!(log.contains("login.refused") || log.contains("wrong name or password"), "{log}");
}

/// What came from somewhere, and when the last of it.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<(String, Option<Instant>)>>);

impl Heard {
    /// Everything that can be read, until its end.
    fn all_of(mut source: impl Read + Send + 'static) -> Self {
        let heard = Self::default();
        let noted = heard.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 16 << 10];
            while let Ok(read @ 1..) = source.read(&mut buffer) {
                let mut noted = noted.0.lock().unwrap_or_else(PoisonError::into_inner);
                // Of video only the moment matters.
                if noted.0.len() < 1 << 20 {
                    noted.0.push_str(&String::from_utf8_lossy(&buffer[..read]));
                }
                noted.1 = Some(Instant::now());
            }
        });
        heard
    }

    fn last(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn has(&self, words: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.contains(words)
    }
}

/// An event stream of a node.
fn events(node: &Node, token: &str) -> Heard {
    let mut stream = TcpStream::connect(node.addr()).expect("it answers");
    let head = format!("GET /api/v1/events HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it reads");
    Heard::all_of(stream)
}

#[test]
fn whatever_an_account_opened_ends_at_every_node_soon_after_it_is_disabled() {
    let mesh = Guarded::start_with(3, |options| options);
    let view = mesh.view(&mesh.nodes[0]);
    let addrs: Vec<String> = mesh.nodes.iter().map(|node| node.addr().to_string()).collect();
    let enrolment = Enrolment {
        addrs: addrs.clone(),
        mesh: view["mesh"].as_str().expect("it is a text").parse().expect("it is an id"),
        credential: mesh.token.clone(),
    };
    let (string, folder) = (enrolment.to_string(), mesh.folder.path());
    let start = |name: &str, args: &[&str], stdout: Stdio| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Process::start_with(name, folder, &args, stdout)
    };
    let encode = |name: &str, by: &str| {
        let state = folder.join(name).display().to_string();
        let args = ["encode", name, "--test", "--addr", by, "--state", &state];
        start(name, &args, Stdio::null())
    };
    // One encoder of the machine's own, one that its account sends.
    let _own = encode("cam", &addrs.join(","));
    let _theirs = encode("theirs", &string);
    let state = |name: &str| {
        let view = mesh.nodes[0].view()?;
        let encoders = view["encoders"].as_array()?.clone();
        let found = encoders.into_iter().find(|encoder| encoder["name"] == name)?;
        Some(found["state"].as_str()?.to_owned())
    };
    wait_until(PATIENCE, "both are at home", || {
        ["cam", "theirs"].iter().all(|name| matches!(state(name).as_deref(), Some("idle" | "live")))
    });
    let mut viewer =
        start("viewer", &["view", "cam", "--addr", &string, "--output", "-"], Stdio::piped());
    let picture = Heard::all_of(viewer.stdout().expect("it is a pipe"));
    wait_until(PATIENCE, "there is a picture", || picture.last().is_some());
    let told: Vec<Heard> = mesh.nodes.iter().map(|node| events(node, &mesh.token)).collect();
    wait_until(PATIENCE, "every node tells of both", || {
        told.iter().all(|heard| heard.has("theirs"))
    });
    let me = mesh.ask(0, "GET", "/api/v1/me", &Value::Null).json();
    let path = format!("/api/v1/accounts/{}", me["id"].as_str().expect("it is an id"));
    let off = json!({ "name": "admin", "disabled": true }).to_string();
    let disabled = request(mesh.nodes[1].addr(), "PUT", &path, &[("If-Match", "*")], &off);
    assert_eq!(disabled.expect("it answers").status, 200);
    let begin = Instant::now();
    let within = Duration::from_secs(1);
    wait_until(within, "every event stream ends with a reason", || {
        told.iter().all(|heard| heard.has("event: end") && heard.has("sign-in is over"))
    });
    println!("event streams ended after {:?}", begin.elapsed());
    wait_until(within, "the account's encoder is without its agent", || {
        state("theirs").as_deref() == Some("no_signal")
    });
    println!("its encoder was without its agent after {:?}", begin.elapsed());
    // A picture on its way may still come out; then none does.
    std::thread::sleep(within);
    let last = picture.last().expect("there was one");
    let after = last.saturating_duration_since(begin);
    println!("the last picture came out after {after:?}");
    assert!(after < within, "{after:?}");
    assert!(last.elapsed() > Duration::from_millis(500), "nothing comes any more");
    wait_until(PATIENCE, "the viewer says why", || viewer.log().contains("log in again"));
    for node in &mesh.nodes {
        assert_eq!(ask(node, "GET", "/api/v1/me", &mesh.token, &[], "").status, 403);
    }
    assert!(matches!(state("cam").as_deref(), Some("idle" | "live")), "others are not concerned");
}
