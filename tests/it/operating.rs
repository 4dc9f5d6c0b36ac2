//! What operators rely on: metrics and logs as documented, SIGHUP, folders lost and put back.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::client::{Encoder, Viewer};
use crate::harness::http;
use crate::harness::mesh::Mesh;
use crate::harness::node::{Node, Options};
use crate::harness::process::{Finished, Process, run};
use crate::harness::{PATIENCE, wait_for, wait_until};
use crate::whep::OFFER;

const CONFIGURATION: Option<i32> = Some(78);

fn folder() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().expect("a temporary folder can be made"))
}

/// The lines of a node's log that are events of this kind.
fn events(node: &Node, event: &str) -> Vec<Value> {
    let log = node.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event"] == event).collect()
}

#[track_caller]
fn wait_for_event(node: &Node, event: &str) -> Value {
    wait_for(PATIENCE, &format!("{} logs {event}", node.name()), || events(node, event).pop())
}

/// Names in the first column of the table of metrics.
fn documented_metrics() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md");
    let text = std::fs::read_to_string(path).expect("the document is there");
    let (_, metrics) = text.split_once("## Metrics").expect("it has a section on metrics");
    let (metrics, _) = metrics.split_once("\n## ").expect("others follow");
    let rows = metrics.lines().filter(|line| line.starts_with("| `"));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`'));
    names.filter(|name| name.contains('_')).map(str::to_owned).collect()
}

/// Names of the families in a scrape, without what the format appends.
fn shown_metrics(scrape: &str) -> BTreeSet<String> {
    let families = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = families.filter_map(|family| family.split(' ').next());
    names.map(|name| name.strip_suffix("_total").unwrap_or(name).to_owned()).collect()
}

#[test]
fn every_documented_metric_is_there_and_every_metric_is_documented() {
    let mesh = Mesh::start(2);
    let _encoder = Encoder::start(&mesh, "cam-1", &[]);
    let documented = documented_metrics();
    assert!(documented.len() > 30, "the table was not understood: {documented:?}");
    wait_until(PATIENCE, "the documented metrics are those that are shown", || {
        let scrapes = mesh.nodes().iter().map(|node| node.get("/metrics").body);
        let shown: BTreeSet<String> = scrapes.flat_map(|text| shown_metrics(&text)).collect();
        let missing: Vec<_> = documented.difference(&shown).collect();
        let unknown: Vec<_> = shown.difference(&documented).collect();
        if !missing.is_empty() || !unknown.is_empty() {
            eprintln!("documented and not shown: {missing:?}; not documented: {unknown:?}");
        }
        missing.is_empty() && unknown.is_empty()
    });
    let node = &mesh.nodes()[0];
    let text = wait_for(PATIENCE, "the clock of n2 is judged", || {
        let text = node.get("/metrics").body;
        text.contains("roost_peer_clock_offset_seconds{peer=\"n2\"}").then_some(text)
    });
    let value = |series: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        let line = line.unwrap_or_else(|| panic!("`{series}` is not in:\n{text}"));
        line.trim().parse().expect("it is a number")
    };
    assert!(value("process_resident_memory_bytes ") > 1e6);
    assert!(value("process_open_fds ") > 5.0);
    assert!(value("process_cpu_seconds_total ") > 0.0);
    assert!(value("process_start_time_seconds ") > 1e9);
    let offset = value("roost_peer_clock_offset_seconds{peer=\"n2\"} ");
    assert!((-2.0..=0.1).contains(&offset), "both have the same clock: {offset}");
}

#[test]
fn refusals_and_failovers_are_counted() {
    let mut mesh = Mesh::start(2);
    let _encoder = Encoder::start(&mesh, "cam-1", &[]);
    let home = mesh.nodes()[0].home_of("cam-1").expect("it is at home");
    let other = mesh.others(&home).next().expect("there are two").name().to_owned();
    let asked = mesh.node(&other).addr();
    let sdp = [("Content-Type", "application/sdp")];
    let redirect = http::request(asked, "POST", "/whep/cam-1", &sdp, OFFER).expect("it answers");
    assert_eq!(redirect.status, 307, "{redirect:?}");
    let forged = http::request(asked, "POST", "/whep/cam-1?rt=forged", &sdp, OFFER);
    assert_eq!(forged.expect("it answers").status, 201, "served here: it was sent on once");
    mesh.node(&home).kill();
    wait_until(PATIENCE, "the encoder is at home again", || {
        mesh.others(&home).all(|node| node.home_of("cam-1").as_deref() == Some(&other))
    });
    let node = mesh.node(&other);
    let bad = [("Authorization", "Bearer nonsense")];
    let refused = http::request(node.addr(), "GET", "/api/v1/cluster", &bad, "");
    assert_eq!(refused.expect("it answers").status, 403);
    let text = node.get("/metrics").body;
    for series in [
        "roost_auth_failures_total{method=\"credential\"} 1",
        "roost_auth_failures_total{method=\"redirect\"} 1",
        "roost_redirects_total{protocol=\"whep\"} 1",
        "roost_failover_seconds_count{kind=\"encoder\",client=\"native\"} 1",
    ] {
        assert!(text.contains(series), "`{series}` is not in:\n{text}");
    }
}

#[test]
fn logs_tell_the_life_of_an_encoder_and_of_its_viewers() {
    let mut mesh = Mesh::start(2);
    let encoder = Encoder::start(&mesh, "cam-1", &[]);
    let home = mesh.nodes()[0].home_of("cam-1").expect("it is at home");
    let other = mesh.others(&home).next().expect("there are two").name().to_owned();
    let came = wait_for_event(mesh.node(&home), "encoder.home");
    assert_eq!(came["encoder"], "cam-1");
    assert!(came["remote"].as_str().is_some_and(|remote| remote.starts_with("127.0.0.1:")));
    assert!(came["epoch"].is_string() && came["id"].is_string(), "{came}");
    let state = mesh.folder().path().join("dark").display().to_string();
    let addrs = mesh.addrs();
    let args = ["encode", "dark", "--rtsp", "rtsp://127.0.0.1:9/x", "--addr", &addrs];
    let args: Vec<String> = args.iter().chain(&["--state", &state]).map(|a| (*a).into()).collect();
    let dark = Process::start("dark", mesh.folder().path(), &args);
    let signal = wait_for(PATIENCE, "a camera that does not answer is told", || {
        mesh.nodes().iter().find_map(|node| events(node, "encoder.signal").pop())
    });
    assert_eq!((&signal["encoder"], &signal["signal"]), (&"dark".into(), &"lost".into()));
    assert!(signal["reason"].is_string(), "{signal}");
    drop(dark);
    Viewer::start(&mesh, "cam-1").end();
    wait_until(PATIENCE, "the viewer's end is told", || {
        mesh.nodes().iter().any(|node| !events(node, "viewer.ended").is_empty())
    });

    mesh.node(&home).kill();
    let moved = wait_for_event(mesh.node(&other), "encoder.rehomed");
    assert!(moved["dur_ms"].as_u64().is_some_and(|ms| ms < 20_000), "{moved}");
    assert!(moved["from"].is_string(), "{moved}");
    drop(encoder);
    let gone = wait_for_event(mesh.node(&other), "encoder.gone");
    assert!(gone["reason"].is_string(), "{gone}");

    for node in mesh.nodes() {
        let log = node.log();
        let ready = events(node, "node.ready").pop().expect("it was ready");
        let view_id = ready["node"].as_str().expect("it has an id");
        assert!(!view_id.is_empty());
        // But for the first password, which the founder tells past its log.
        let (lines, told): (Vec<_>, Vec<_>) = log.lines().partition(|line| line.starts_with('{'));
        assert!(told.is_empty() || node.name() == "n1", "{log}");
        for line in lines {
            let line: Value = serde_json::from_str(line).expect("every line is JSON");
            assert_eq!(line["node"], ready["node"], "{line}");
            assert_eq!(line["mesh"], ready["mesh"], "{line}");
            assert!(line["mesh"].is_string(), "{line}");
        }
    }
}

#[test]
fn sighup_reads_the_file_and_the_certificate_again_and_never_kills() {
    let folder = folder();
    let file = folder.path().join("roost.toml");
    let (cert, key) = (folder.path().join("web.crt"), folder.path().join("web.key"));
    // A self-signed certificate as any node makes it.
    let made = |name: &str| {
        let node = Node::start(Options::named(name).folder(&folder));
        std::fs::copy(node.data().join("web.crt"), &cert).expect("it was made");
        std::fs::copy(node.data().join("web.key"), &key).expect("it was made");
    };
    made("a");
    let tls =
        format!("[tls]\ncert_file = \"{}\"\nkey_file = \"{}\"\n", cert.display(), key.display());
    std::fs::write(&file, format!("seeds = []\n{tls}")).expect("it can be written");
    let path = file.display().to_string();
    let options = Options::named("n1").folder(&folder).args(&["--config", &path]);
    let mut node = Node::start(options);
    let hang_up = |node: &mut Node| {
        kill_process(node.process().pid(), Signal::HUP).expect("the process is there");
    };

    made("b");
    let changed = format!("advertise = [\"a:1\"]\n{tls}[log]\nfilter = \"roost=debug\"\n");
    std::fs::write(&file, changed).expect("it can be written");
    hang_up(&mut node);
    assert_eq!(wait_for_event(&node, "config.loaded")["restart"], "advertise");
    wait_for_event(&node, "certificate.loaded");

    std::fs::write(&cert, "no certificate").expect("it can be written");
    hang_up(&mut node);
    let refused = wait_for_event(&node, "certificate.unusable");
    assert!(refused["err"].as_str().is_some_and(|err| err.contains("web.crt")), "{refused}");

    std::fs::write(&file, "nmae = \"x\"\n").expect("it can be written");
    hang_up(&mut node);
    let refused = wait_for_event(&node, "config.refused");
    assert!(refused["err"].as_str().is_some_and(|err| err.contains("name")), "{refused}");
    assert_eq!(node.get("/healthcheck").status, 200, "it serves on");
}

/// Overwrites a node's database, as a failing disk would.
fn damage(node: &mut Node) {
    node.kill();
    let database = node.data().join("roost.redb");
    let length = std::fs::metadata(&database).expect("it is there").len();
    std::fs::write(database, vec![0x5a; usize::try_from(length).expect("it is small")])
        .expect("it can be written");
}

#[test]
fn a_node_that_lost_its_membership_founds_no_mesh_of_its_own() {
    let mut mesh = Mesh::start(2);
    let listen = mesh.node("n2").addr().to_string();
    let id = events(mesh.node("n2"), "node.ready").pop().expect("it was ready")["node"].clone();
    damage(mesh.node("n2"));
    let data = mesh.node("n2").data().display().to_string();
    let start = |more: &[&str]| -> Finished {
        let fixed = ["node", "--name", "n2", "--data", &data, "--listen", &listen];
        run(&fixed.iter().chain(more).copied().collect::<Vec<_>>())
    };
    for attempt in ["first", "second"] {
        let refused = start(&[]);
        assert_eq!(refused.code, CONFIGURATION, "{attempt}: {refused:?}");
        for words in ["roost invite", "--join", "roost.redb.corrupt-1", "remove that file"] {
            assert!(refused.stderr.contains(words), "{attempt}: {}", refused.stderr);
        }
    }
    let invitation = mesh.node("n1").invite(1);
    let options = Options::named("n2").folder(mesh.folder()).join(&invitation);
    let back = Node::start(options);
    assert_eq!(wait_for_event(&back, "node.ready")["node"], id, "it is who it was");
    wait_until(PATIENCE, "n1 sees it", || {
        mesh.nodes()[0].opinion_of("n2").as_deref() == Some("up")
    });
    drop(back);
    // From now on it is a member again, whatever lies in the folder.
    let again = Node::start(Options::named("n2").folder(mesh.folder()));
    wait_until(PATIENCE, "it finds the mesh", || again.opinion_of("n1").as_deref() == Some("up"));
}

#[test]
fn a_founder_that_lost_its_membership_founds_another_mesh_when_it_is_told_to() {
    let folder = folder();
    let options = Options::named("n1").folder(&folder);
    let mut node = Node::start(options.clone());
    damage(&mut node);
    let data = node.data();
    let (code, words) = Node::launch(options.clone()).refused(PATIENCE);
    assert_eq!(code, CONFIGURATION, "{words}");
    std::fs::remove_file(data.join("roost.redb.corrupt-1")).expect("it is there");
    assert_eq!(Node::start(options).get("/healthcheck").status, 200);
}

#[test]
fn a_node_that_is_told_to_stop_while_it_starts_ends_at_once() {
    // Nobody answers at any of these: to try them all takes 24 s.
    let dead = (1..=8).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let founder = Node::start(Options::named("n1").args(&["--advertise", &dead]));
    let invitation = founder.invite(1);
    for signal in [Signal::TERM, Signal::INT] {
        let mut joining = Node::launch(Options::named("n2").join(&invitation));
        let key = joining.data().join("node.key");
        wait_until(PATIENCE, "it has begun", || key.exists());
        kill_process(joining.process().pid(), signal).expect("the process is there");
        let told = Instant::now();
        let (code, words) = joining.refused(PATIENCE);
        assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
        assert_eq!(code, Some(0), "{words}");
        assert!(words.contains("node.stopped"), "{words}");
    }
}

#[test]
fn a_node_waits_for_the_one_before_it_to_let_go_of_folder_and_ports() {
    let folder = folder();
    let options = Options::named("n1").folder(&folder);
    let mut first = Node::start(options.clone());
    // It does not get around to leaving.
    first.freeze();
    let next = Node::launch(options.listen(first.addr()));
    wait_for_event(&first, "folder.held");
    first.kill();
    assert_eq!(next.ready().addr(), first.addr());
}

#[test]
fn two_machines_that_run_copies_of_one_folder_are_told_apart_in_the_log() {
    let mut mesh = Mesh::start(2);
    let first = mesh.node("n2").data();
    let copy = mesh.folder().path().join("copy");
    std::fs::create_dir(&copy).expect("it is not there");
    for file in ["node.key", "roost.redb", "boot"] {
        std::fs::copy(first.join(file), copy.join(file)).expect("it is there");
    }
    mesh.node("n2").restart();
    let second = Node::start(Options::named("copy").folder(mesh.folder()));
    let outgrown = wait_for(PATIENCE, "one of them says so", || {
        [&second, mesh.node("n2")].into_iter().find_map(|node| events(node, "node.outgrown").pop())
    });
    assert_eq!(outgrown["level"], "warn", "{outgrown}");
}
