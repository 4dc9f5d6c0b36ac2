//! Publishers of another make, by WHIP.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::client::Viewer;
use crate::harness::http::request;
use crate::harness::mesh::Mesh;
use crate::harness::node::{Node, Options};
use crate::harness::said::Said;
use crate::harness::{PATIENCE, wait_for, wait_until};

/// Python with aiortc, as `tests/run` installs it.
fn python() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    target.join("venv/bin/python")
}

/// `tests/browser/whip.py`, with everything that it said.
struct Publisher {
    child: Child,
    commands: Option<ChildStdin>,
    said: Said,
}

impl Publisher {
    fn start(token: &str) -> Self {
        let mut child = Command::new(python())
            .args(["tests/browser/whip.py", token])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("tests/run has installed aiortc");
        let said = Said::of(child.stdout.take().expect("it is a pipe"));
        let commands = child.stdin.take();
        Self { child, commands, said }
    }

    fn tell(&mut self, line: &str) {
        let commands = self.commands.as_mut().expect("it is a pipe");
        writeln!(commands, "{line}").expect("it listens");
    }

    /// Publishes; what the node answered.
    #[track_caller]
    fn publish(&mut self, node: &Node, name: &str, codec: &str) -> Value {
        let url = format!("http://{}/whip/{name}", node.addr());
        let before = self.answers(&url).len();
        self.tell(&format!("{url} {codec}"));
        wait_for(PATIENCE, &format!("{url} answers"), || self.answers(&url).get(before).cloned())
    }

    fn answers(&self, url: &str) -> Vec<Value> {
        self.said.that(|_, line| line["url"] == url && line["status"].is_u64())
    }

    /// Waits until the last session that it posted to this URL is closed.
    #[track_caller]
    fn wait_for_the_end(&self, node: &Node, name: &str) {
        let url = format!("http://{}/whip/{name}", node.addr());
        self.wait(&format!("its session at {url} is closed"), |line| {
            line["url"] == url.as_str() && line["state"] == "closed"
        });
    }

    #[track_caller]
    fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for(PATIENCE, what, || self.said.that(|_, line| wanted(line)).pop())
    }

    /// SIGKILL.
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Puts an encoder on record.
#[track_caller]
fn record(node: &Node, id: &str, name: &str) {
    let body = format!(r#"{{"name":"{name}"}}"#);
    let headers = [("If-None-Match", "*")];
    let path = format!("/api/v1/encoders/{id}");
    let made = request(node.addr(), "PUT", &path, &headers, &body).expect("it answers");
    assert_eq!(made.status, 201, "{made:?}");
}

/// A new stream key, and by what it is named; those before it stay good for `overlap_s`.
#[track_caller]
fn make_key(node: &Node, name: &str, overlap_s: u32) -> (String, String) {
    let body = format!(r#"{{"overlap_s":{overlap_s}}}"#);
    let made = node.ask("POST", &format!("/api/v1/encoders/{name}/keys"), &body);
    assert_eq!(made.status, 201, "{made:?}");
    let text = |field: &str| made.json()[field].as_str().expect("it is a text").to_owned();
    (text("key"), text("prefix"))
}

/// Waits until a node knows these keys.
#[track_caller]
fn wait_for_keys(node: &Node, name: &str, prefixes: &[&str]) {
    wait_until(PATIENCE, "the node knows the keys", || {
        let path = format!("/api/v1/encoders/{name}/keys");
        let Ok(answer) = request(node.addr(), "GET", &path, &[], "") else { return false };
        let keys = answer.json()["items"].as_array().cloned().unwrap_or_default();
        let mut known: Vec<&str> = keys.iter().filter_map(|key| key["prefix"].as_str()).collect();
        let mut wanted = prefixes.to_vec();
        known.sort_unstable();
        wanted.sort_unstable();
        answer.status == 200 && known == wanted
    });
}

const CAM: &str = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";
const DOOR: &str = "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b";

/// What `whep.py` reports of a stream at this node.
#[track_caller]
fn watch(node: &Node, name: &str) -> Value {
    let url = format!("http://{}/whep/{name}?leg=here", node.addr());
    let token = node.invite_client();
    let args = ["tests/browser/whep.py", &url, &token];
    let output =
        Command::new(python()).args(args).output().expect("tests/run has installed aiortc");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("no report: {output:?}"))
}

#[test]
fn what_aiortc_publishes_to_one_node_is_watched_at_another_and_gone_when_it_says_so() {
    let mesh = Mesh::start(2);
    let mut publisher = Publisher::start(&mesh.nodes()[0].invite_client());
    let answer = publisher.publish(&mesh.nodes()[0], "obs", "H264");
    assert_eq!(answer["status"], 201, "{answer}");
    wait_until(PATIENCE, "both nodes know its home", || {
        mesh.nodes().iter().all(|node| node.home_of("obs").as_deref() == Some("n1"))
    });
    let there = mesh.nodes()[1].addr().to_string();
    let viewer = Viewer::start_at(&mesh, "obs", &there, &[]);
    let report = watch(&mesh.nodes()[1], "obs");
    assert_eq!(
        (&report["status"], &report["redirected"]),
        (&201.into(), &false.into()),
        "{report}"
    );
    assert!(report["frames"].as_u64().is_some_and(|frames| frames > 20), "{report}");
    assert!(viewer.flows(Duration::from_secs(1)), "the first viewer goes on");
    publisher.tell("end");
    assert_eq!(publisher.wait("it is ended", |line| line["ended"].is_u64())["ended"], 200);
    wait_until(PATIENCE, "nobody is home to it", || {
        mesh.nodes().iter().all(|node| node.home_of("obs").is_none())
    });
}

#[test]
fn a_publisher_that_was_killed_has_no_signal_in_words() {
    let mesh = Mesh::start(1);
    let node = &mesh.nodes()[0];
    let mut publisher = Publisher::start(&node.invite_client());
    assert_eq!(publisher.publish(node, "obs", "H264")["status"], 201);
    wait_until(PATIENCE, "it is at home", || node.home_of("obs").is_some());
    publisher.kill();
    wait_until(PATIENCE, "its silence is said", || {
        let reason = node.encoder("obs").map(|obs| obs["reason"].clone()).unwrap_or_default();
        reason.as_str().is_some_and(|why| why.contains("sends no picture"))
    });
    wait_until(PATIENCE, "its end is said", || {
        let reason = node.encoder("obs").map(|obs| obs["reason"].clone()).unwrap_or_default();
        reason.as_str().is_some_and(|why| why.contains("disconnected"))
    });
}

#[test]
fn viewers_go_on_when_a_publisher_comes_to_another_node_after_its_own_was_killed() {
    let mut mesh = Mesh::start(3);
    record(&mesh.nodes()[0], CAM, "obs");
    let (key, prefix) = make_key(&mesh.nodes()[0], "obs", 0);
    mesh.nodes().iter().for_each(|node| wait_for_keys(node, "obs", &[&prefix]));
    let mut publisher = Publisher::start(&key);
    assert_eq!(publisher.publish(&mesh.nodes()[0], "obs", "H264")["status"], 201);
    wait_until(PATIENCE, "every node knows its home", || {
        mesh.nodes().iter().all(|node| node.home_of("obs").as_deref() == Some("n1"))
    });
    let viewer = Viewer::start(&mesh, "obs");
    mesh.node("n1").kill();
    let killed = std::time::Instant::now();
    // Nobody has heard of the death yet, and whoever made the key is gone.
    let mut stranger = Publisher::start(&format!("{key}a"));
    assert_eq!(stranger.publish(&mesh.nodes()[2], "obs", "H264")["status"], 403);
    assert_eq!(publisher.publish(&mesh.nodes()[1], "obs", "H264")["status"], 201);
    wait_until(PATIENCE, "the third node knows its new home", || {
        mesh.nodes()[2].home_of("obs").as_deref() == Some("n2")
    });
    assert_eq!(mesh.nodes()[2].encoder("obs").expect("it is known")["id"], CAM, "one encoder");
    wait_until(PATIENCE, "the viewer goes on", || {
        killed.elapsed() > Duration::from_secs(2) && viewer.flows(Duration::from_millis(500))
    });
}

#[test]
fn a_publisher_gives_way_to_a_later_one_and_a_foreign_codec_or_key_is_refused() {
    let mesh = Mesh::start(2);
    let [first, second] = mesh.nodes() else { panic!("two nodes") };
    let mut publisher = Publisher::start(&first.invite_client());
    let vp8 = publisher.publish(first, "obs", "VP8");
    assert_eq!(vp8["status"], 406, "{vp8}");
    assert!(vp8["body"].as_str().is_some_and(|body| body.contains("H.264")), "{vp8}");
    let mut stranger = Publisher::start("nonsense");
    assert_eq!(stranger.publish(first, "obs", "H264")["status"], 403);
    assert_eq!(publisher.publish(first, "obs", "H264")["status"], 201);
    wait_until(PATIENCE, "it is at home", || second.home_of("obs").as_deref() == Some("n1"));
    let mut later = Publisher::start(&second.invite_client());
    assert_eq!(later.publish(second, "obs", "H264")["status"], 201);
    wait_until(PATIENCE, "the later one is at home", || {
        mesh.nodes().iter().all(|node| node.home_of("obs").as_deref() == Some("n2"))
    });
    publisher.wait_for_the_end(first, "obs");
    wait_until(PATIENCE, "the log says why", || first.log().contains("is home elsewhere"));
}

#[test]
fn a_stream_key_opens_its_own_encoder_until_it_is_replaced_or_revoked() {
    let mesh = Mesh::start(2);
    let [first, second] = mesh.nodes() else { panic!("two nodes") };
    record(first, CAM, "obs");
    record(first, DOOR, "door");
    let (expired, _) = make_key(first, "obs", 0);
    let (revoked, gone) = make_key(first, "obs", 0);
    let (key, prefix) = make_key(first, "obs", 3600);
    let (other, others) = make_key(first, "door", 0);
    let path = format!("/api/v1/encoders/obs/keys/{gone}");
    assert_eq!(first.ask("DELETE", &path, "").status, 204);
    wait_for_keys(second, "obs", &[&prefix]);
    wait_for_keys(second, "door", &[&others]);
    for node in [first, second] {
        for (key, status) in [(&expired, 403), (&revoked, 403), (&other, 404)] {
            let answer = Publisher::start(key).publish(node, "obs", "H264");
            assert_eq!(answer["status"], status, "{answer}");
        }
    }
    assert!(first.home_of("obs").is_none());
    let mut publisher = Publisher::start(&key);
    assert_eq!(publisher.publish(second, "obs", "H264")["status"], 201);
    wait_until(PATIENCE, "it is at home", || first.home_of("obs").as_deref() == Some("n2"));
    // What is changed at one node ends what is sent to another.
    let path = format!("/api/v1/encoders/obs/keys/{prefix}");
    assert_eq!(first.ask("DELETE", &path, "").status, 204);
    publisher.wait_for_the_end(second, "obs");
    assert_eq!(publisher.publish(second, "obs", "H264")["status"], 403);
    let streams = |node: &Node| node.encoder("obs").is_some_and(|obs| obs["state"] == "live");
    wait_until(PATIENCE, "nobody shows it", || !streams(first) && !streams(second));
}

#[test]
fn an_encoder_that_is_put_out_of_use_is_not_published_any_more() {
    let mesh = Mesh::start(2);
    let [first, second] = mesh.nodes() else { panic!("two nodes") };
    record(first, CAM, "obs");
    let (key, prefix) = make_key(first, "obs", 0);
    wait_for_keys(second, "obs", &[&prefix]);
    let mut publisher = Publisher::start(&key);
    assert_eq!(publisher.publish(second, "obs", "H264")["status"], 201);
    wait_until(PATIENCE, "it is at home", || first.home_of("obs").as_deref() == Some("n2"));
    let path = format!("/api/v1/encoders/{CAM}");
    let any = [("If-Match", "*")];
    let off = request(first.addr(), "PATCH", &path, &any, r#"{"disabled":true}"#);
    assert_eq!(off.expect("it answers").status, 200);
    publisher.wait_for_the_end(second, "obs");
    assert_eq!(publisher.publish(second, "obs", "H264")["status"], 403);
}

#[test]
fn nobody_publishes_without_a_credential_but_this_machine_where_it_is_let_in() {
    let closed = Node::start(Options::named("n1").closed());
    let mut publisher = Publisher::start("");
    let refused = publisher.publish(&closed, "obs", "H264");
    assert_eq!(refused["status"], 401, "{refused}");
    let open = Node::start(Options::named("n2"));
    assert_eq!(publisher.publish(&open, "obs", "H264")["status"], 201);
}
