//! Nodes that find, lose and find each other.

use std::time::{Duration, Instant};

use crate::harness::client::{Encoder, Viewer, Witness};
use crate::harness::mesh::Mesh;
use crate::harness::{PATIENCE, wait_until};

/// Sixteen nodes, the first one's start included, are together within this: four times what they
/// are meant to need.
const TOGETHER_WITHIN: Duration = Duration::from_secs(8);
/// A killed or frozen node is down for everyone within this.
const DOWN_WITHIN: Duration = Duration::from_millis(2_500);

/// A stream flows again within this, whatever happens to its home.
const HEAL_WITHIN: Duration = Duration::from_secs(2);

/// Members are on disk after this.
const REMEMBERED_AFTER: Duration = Duration::from_secs(3);

/// A test picture comes every 67 ms; this long without one is a stall.
const STALL: Duration = Duration::from_millis(300);

/// A picture that is older than this when it is shown is stale.
const STALE_MS: f64 = 1_000.0;

#[test]
fn a_killed_node_is_down_for_everyone_and_rejoins_by_itself() {
    let mut mesh = Mesh::start(3);
    mesh.node("n2").kill();
    let killed = Instant::now();
    wait_until(PATIENCE, "n2 is down for everyone", || mesh.others_say("n2", "down"));
    let took = killed.elapsed();
    assert!(took < DOWN_WITHIN, "it took {took:?}");
    mesh.node("n2").restart();
    mesh.wait_until_all_see_all();
}

#[test]
fn a_frozen_node_is_down_for_everyone_and_comes_back() {
    let mut mesh = Mesh::start(3);
    mesh.node("n3").freeze();
    let frozen = Instant::now();
    wait_until(PATIENCE, "n3 is down for everyone", || mesh.others_say("n3", "down"));
    let took = frozen.elapsed();
    assert!(took < DOWN_WITHIN, "it took {took:?}");
    mesh.node("n3").thaw();
    mesh.wait_until_all_see_all();
}

#[test]
fn a_node_that_is_asked_to_stop_says_goodbye() {
    let mut mesh = Mesh::start(2);
    assert!(mesh.node("n2").process().terminate().success());
    wait_until(PATIENCE, "n2 has left", || mesh.others_say("n2", "left"));
}

#[test]
fn all_down_at_once_find_each_other_without_the_one_that_let_them_in() {
    let mut mesh = Mesh::start(3);
    // Who is there is written down every few seconds; there is nothing to see from outside.
    std::thread::sleep(REMEMBERED_AFTER);
    for name in ["n1", "n2", "n3"] {
        mesh.node(name).kill();
    }
    mesh.node("n2").restart();
    mesh.node("n3").restart();
    wait_until(PATIENCE, "n2 and n3 see each other", || {
        let sees = |node: usize, of| mesh.nodes()[node].opinion_of(of).as_deref() == Some("up");
        sees(1, "n3") && sees(2, "n2")
    });
}

#[test]
fn a_watched_stream_survives_the_death_of_its_home() {
    let mut mesh = Mesh::start(3);
    let _encoder = Encoder::start(&mesh, "cam-1", &[]);
    let viewer = Viewer::start(&mesh, "cam-1");
    let home = mesh.nodes()[0].home_of("cam-1").expect("it has a home");
    mesh.node(&home).kill();
    let killed = Instant::now();
    wait_until(PATIENCE, "the stream flows from a new home", || {
        let moved = mesh.others(&home).all(|node| node.home_of("cam-1").is_some_and(|h| h != home));
        moved && viewer.flows(STALL)
    });
    let gap = viewer.gap_since(killed);
    assert!(gap < HEAL_WITHIN, "the picture stood still for {gap:?}");
}

#[test]
fn who_comes_after_an_idle_encoders_home_was_killed_and_started_again_sees_it_soon() {
    let mut mesh = Mesh::start(3);
    let encoder = Encoder::start(&mesh, "cam-1", &[]);
    let home = mesh.nodes()[0].home_of("cam-1").expect("it has a home");
    wait_until(PATIENCE, "somebody stands by", || encoder.log().contains("next is n"));
    // So quickly that nobody calls the node down.
    mesh.node(&home).kill();
    mesh.node(&home).restart();
    let began = Instant::now();
    let _viewer = Viewer::start(&mesh, "cam-1");
    let took = began.elapsed();
    assert!(took < HEAL_WITHIN, "the first picture took {took:?}");
}

#[test]
fn a_camera_that_ignores_keyframe_requests_fails_over_as_well() {
    let mut mesh = Mesh::start(3);
    let _encoder = Encoder::start(&mesh, "cam-1", &["--gop", "4", "--ignore-keyframe-requests"]);
    let viewer = Viewer::start(&mesh, "cam-1");
    let home = mesh.nodes()[0].home_of("cam-1").expect("it has a home");
    mesh.node(&home).freeze();
    let frozen = Instant::now();
    wait_until(PATIENCE, "the stream flows from a new home", || {
        let moved = mesh.others(&home).all(|node| node.home_of("cam-1").is_some_and(|h| h != home));
        moved && viewer.flows(STALL)
    });
    let gap = viewer.gap_since(frozen);
    assert!(gap < HEAL_WITHIN, "the picture stood still for {gap:?}");
    mesh.node(&home).thaw();
    mesh.wait_until_all_see_all();
    assert!(viewer.flows(STALL), "the node that woke up must not take the stream back");
}

#[test]
fn an_encoder_starts_though_the_node_it_was_configured_with_is_gone() {
    let mut mesh = Mesh::start(2);
    let only_first = mesh.nodes()[0].addr().to_string();
    let state = mesh.folder().path().join("cam-1").display().to_string();
    let args = ["encode", "cam-1", "--test", "--addr", &only_first, "--state", &state];
    let args = args.map(str::to_owned);
    let folder = mesh.folder().path().to_owned();
    let start = || crate::harness::process::Process::start("cam-1", &folder, &args);
    let mut encoder = start();
    wait_until(PATIENCE, "cam-1 has a home", || mesh.nodes()[1].home_of("cam-1").is_some());
    let second = mesh.nodes()[1].addr().to_string();
    wait_until(PATIENCE, "cam-1 has written down where n2 is", || holds(&state, &second));
    encoder.kill();
    mesh.node("n1").kill();
    wait_until(PATIENCE, "the mesh lets go of cam-1", || {
        mesh.nodes()[1].home_of("cam-1").is_none_or(|home| home == "n2")
    });
    let _again = start();
    wait_until(PATIENCE, "cam-1 has a home again", || {
        mesh.nodes()[1]
            .encoder("cam-1")
            .is_some_and(|seen| seen["home_name"] == "n2" && seen["state"] == "idle")
    });
}

/// Whether any file in this folder holds these words.
fn holds(folder: &str, words: &str) -> bool {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut contents = files.filter_map(|file| std::fs::read(file.path()).ok());
    contents.any(|bytes| bytes.windows(words.len()).any(|window| window == words.as_bytes()))
}

#[test]
fn sixteen_nodes_that_come_at_once_find_each_other() {
    let begin = Instant::now();
    let mesh = Mesh::start(16);
    let took = begin.elapsed();
    assert!(took < TOGETHER_WITHIN, "they needed {took:?}");
    for node in mesh.nodes() {
        let downs = node.log().matches("node.down").count();
        assert_eq!(downs, 0, "{} lost somebody for a while", node.name());
    }
}

#[test]
fn two_nodes_that_dial_each_other_end_with_one_link() {
    let mut mesh = Mesh::start(2);
    // Both remember both, and find nobody linked when they wake.
    std::thread::sleep(REMEMBERED_AFTER);
    for round in 1..=3 {
        mesh.nodes().iter().for_each(|node| node.freeze());
        std::thread::sleep(Duration::from_millis(200));
        mesh.nodes().iter().for_each(|node| node.thaw());
        mesh.node("n1").kill();
        mesh.node("n2").kill();
        mesh.restart_all();
        mesh.wait_until_all_see_all();
        for node in mesh.nodes() {
            let view = node.view().expect("it answers");
            let linked = view["nodes"].as_array().into_iter().flatten();
            assert_eq!(linked.filter(|of| of["linked"] == true).count(), 2, "round {round}");
        }
    }
}

#[test]
fn a_node_that_slept_does_not_win_a_stream_back_though_its_successor_died() {
    let mut mesh = Mesh::start(3);
    let _encoder = Encoder::start(&mesh, "cam-1", &[]);
    let viewer = Viewer::start(&mesh, "cam-1");
    let witness = Witness::start(&mesh, "cam-1");
    let first = mesh.nodes()[0].home_of("cam-1").expect("it has a home");
    mesh.node(&first).freeze();
    let awake = |mesh: &Mesh, first: &str| -> Option<String> {
        mesh.others(first).next()?.home_of("cam-1").filter(|home| home != first)
    };
    wait_until(PATIENCE, "the stream has moved", || awake(&mesh, &first).is_some());
    let second = awake(&mesh, &first).expect("it has");
    let moved = Instant::now();
    wait_until(PATIENCE, "the slept-through is down", || {
        mesh.others(&first).all(|node| node.opinion_of(&first).as_deref() == Some("down"))
    });
    mesh.node(&second).kill();
    mesh.node(&first).thaw();
    let woke = Instant::now();
    let third = ["n1", "n2", "n3"].into_iter().find(|name| *name != first && *name != second);
    let third = third.expect("three nodes");
    wait_until(PATIENCE, "the stream is at the third", || {
        [first.as_str(), third]
            .iter()
            .all(|name| mesh.node(name).home_of("cam-1").as_deref() == Some(third))
    });
    wait_until(PATIENCE, "the stream flows", || viewer.flows(STALL));
    let gap = viewer.gap_since(moved);
    assert!(gap < HEAL_WITHIN, "the picture stood still for {gap:?}");
    // What the sleeper kept of the stream would come by now.
    wait_until(PATIENCE, "some seconds are seen", || witness.told("second", woke).len() >= 4);
    for second in witness.told("second", woke) {
        let age = second["latency_ms"].as_f64().expect("the test picture has a clock");
        assert!(age < STALE_MS, "a stale picture after it woke: {second}");
    }
    let report = witness.end();
    assert_eq!(report["backwards"], 0, "{report}");
}

#[test]
fn a_viewer_that_slept_blames_itself_and_nobody_else() {
    let mesh = Mesh::start(2);
    let _encoder = Encoder::start(&mesh, "cam-1", &[]);
    let witness = Witness::start(&mesh, "cam-1");
    witness.process().freeze();
    std::thread::sleep(Duration::from_millis(3_500));
    let woke = Instant::now();
    witness.process().thaw();
    wait_until(PATIENCE, "it tells of the gap", || !witness.told("gap", woke).is_empty());
    wait_until(PATIENCE, "it sees again", || witness.told("second", woke).len() >= 3);
    let gaps = witness.told("gap", woke);
    let cause = gaps[0]["cause"].as_str().unwrap_or_default();
    assert!(cause.starts_with("this viewer stood still for 3"), "{gaps:?}");
    assert!(witness.told("via", woke).is_empty(), "it stayed where it was");
    assert!(witness.told("waiting", woke).is_empty(), "it kept its legs");
}

#[test]
fn a_gap_that_is_not_over_when_watching_ends_is_told() {
    let mut mesh = Mesh::start(1);
    let _encoder = Encoder::start(&mesh, "cam-1", &[]);
    let witness = Witness::start(&mesh, "cam-1");
    mesh.node("n1").freeze();
    std::thread::sleep(Duration::from_secs(1));
    let report = witness.end();
    let gap = report["gaps"].as_array().and_then(|gaps| gaps.last()).expect("a gap").clone();
    assert_eq!((&gap["over"], &gap["from"]), (&false.into(), &"n1".into()), "{gap}");
    assert!(gap["ms"].as_u64() > Some(800), "{gap}");
    assert!(gap["cause"].as_str().unwrap_or_default().contains("n1 fell silent"), "{gap}");
}

#[test]
fn the_last_node_serves_everything_and_the_first_to_return_does_so_again() {
    let mut mesh = Mesh::start(3);
    let _encoders = ["cam-1", "cam-2", "cam-3"].map(|name| Encoder::start(&mesh, name, &[]));
    let viewers = ["cam-1", "cam-2", "cam-3"].map(|name| Viewer::start(&mesh, name));
    let all_flow = |viewers: &[Viewer]| viewers.iter().all(|viewer| viewer.flows(STALL));
    mesh.node("n1").kill();
    mesh.node("n2").kill();
    let killed = Instant::now();
    wait_until(PATIENCE, "everything flows from n3", || {
        all_flow(&viewers)
            && ["cam-1", "cam-2", "cam-3"]
                .iter()
                .all(|name| mesh.nodes()[2].home_of(name).as_deref() == Some("n3"))
    });
    for viewer in &viewers {
        let gap = viewer.gap_since(killed);
        assert!(gap < HEAL_WITHIN, "a picture stood still for {gap:?}");
    }
    mesh.node("n3").kill();
    wait_until(PATIENCE, "nothing flows", || {
        viewers.iter().all(|viewer| !viewer.flows(Duration::from_secs(2)))
    });
    mesh.node("n2").restart();
    wait_until(PATIENCE, "everything flows from n2", || {
        all_flow(&viewers)
            && ["cam-1", "cam-2", "cam-3"]
                .iter()
                .all(|name| mesh.nodes()[1].home_of(name).as_deref() == Some("n2"))
    });
}

#[test]
fn a_node_that_is_asked_to_stop_hands_its_streams_over_first() {
    let mut mesh = Mesh::start(3);
    let _encoder = Encoder::start(&mesh, "cam-1", &[]);
    let viewer = Viewer::start(&mesh, "cam-1");
    let home = mesh.nodes()[0].home_of("cam-1").expect("it has a home");
    let asked = Instant::now();
    assert!(mesh.node(&home).process().terminate().success());
    wait_until(PATIENCE, "the stream flows from a new home", || {
        let moved = mesh.others(&home).all(|node| node.home_of("cam-1").is_some_and(|h| h != home));
        moved && viewer.flows(STALL)
    });
    let gap = viewer.gap_since(asked);
    assert!(gap < STALL, "the picture stood still for {gap:?}");
}

#[test]
fn an_encoder_sends_only_while_it_is_watched_and_starts_newcomers_at_once() {
    let mesh = Mesh::start(1);
    let node = &mesh.nodes()[0];
    let received = || -> u64 {
        let metrics = node.get("/metrics").body;
        let lines = metrics.lines().filter(|l| l.starts_with("roost_relay_bytes_total"));
        lines
            .filter(|line| line.contains("direction=\"in\""))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>() as u64
    };
    let _encoder = Encoder::start(&mesh, "cam-1", &["--gop", "4", "--ignore-keyframe-requests"]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(received(), 0, "nobody watches");
    let began = Instant::now();
    let first = Viewer::start(&mesh, "cam-1");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "the first picture took {took:?}");
    // In the middle of a group of pictures: whoever comes now starts with what is kept.
    std::thread::sleep(Duration::from_millis(1_500));
    let began = Instant::now();
    let second = Viewer::start(&mesh, "cam-1");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "a newcomer's first picture took {took:?}");
    assert!(received() > 0);
    first.end();
    second.end();
    let mut last = received();
    let mut since = Instant::now();
    wait_until(PATIENCE, "nothing is sent any more", || {
        let now = received();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(2)
    });
}
