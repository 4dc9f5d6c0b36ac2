//! Nodes, encoders and viewers on hosts of their own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::harness::capture::{Capture, Datagram, quic};
use crate::harness::lan::{Host, Lan, all_up};
use crate::harness::process::{Process, finish};
use crate::harness::{PATIENCE, wait_for, wait_until};
use crate::trust::cut;

const NOT_ALLOWED: Option<i32> = Some(5);
const NAMES: [&str; 3] = ["cam-1", "cam-2", "cam-3"];
/// A lost home costs no more of the picture: four times what half of the failures have to keep to,
/// since every test may run at once.
const GAP_BAR_MS: u64 = 1_600;
/// The same of home and next lost at once, which simulated meshes of near nodes heal in 0.5 s.
const BOTH_BAR_MS: u64 = 2_000;
/// A node that is cut off is down for everyone within this.
const DOWN_WITHIN: Duration = Duration::from_millis(2_500);
/// A client's leg at next is made within this; there is nothing to see from outside.
const WARM_AFTER: Duration = Duration::from_secs(2);
/// Heartbeats and messages are smaller than this, and parts of a picture are larger.
const MEDIA_SIZE: usize = 400;
/// A new connection finds out with a few large datagrams how large they may be.
const PROBES: usize = 10;

fn gaps(report: &Value) -> Vec<u64> {
    let gaps = report["gaps"].as_array().into_iter().flatten();
    gaps.filter_map(|gap| gap["ms"].as_u64()).collect()
}

/// The node with this label.
fn node_of<'a>(nodes: &'a [(Host, Process)], name: &str) -> &'a (Host, Process) {
    nodes.iter().find(|(host, _)| host.name() == name).expect("a node")
}

/// Home, next and the epoch's counter, as the API at this node tells them.
fn place_of(host: &Host, name: &str) -> Option<(String, String, u64)> {
    let asked = host.program("curl", &["-s", "http://127.0.0.1:9443/api/v1/encoders"]);
    let encoders: Value = serde_json::from_str(&asked.stdout).ok()?;
    let encoder = encoders["items"].as_array()?.iter().find(|encoder| encoder["name"] == name)?;
    let label = |of: &str| encoder[of].as_str().map(str::to_owned);
    Some((label("home_name")?, label("next_name")?, encoder["epoch"]["counter"].as_u64()?))
}

/// Watches this long, and freezes home when a picture is seen and the legs at next are warm.
/// Returns the report, when the blow fell, who was home and next, and what the epoch was and
/// became.
fn freeze_home_while(
    nodes: &[(Host, Process)],
    name: &str,
    mut seen: impl FnMut() -> bool,
    watch: impl FnOnce() -> Value + Send,
) -> Blow {
    let (report, mut blow) = std::thread::scope(|scope| {
        let watch = scope.spawn(watch);
        let witness = &nodes[0].0;
        wait_until(PATIENCE, "it is watched", || {
            witness.encoder(name).is_some_and(|encoder| encoder["state"] == "live")
        });
        wait_until(PATIENCE, "a picture is seen", &mut seen);
        std::thread::sleep(WARM_AFTER);
        let (home, next, before) = place_of(witness, name).expect("it has a place");
        let at = SystemTime::now();
        node_of(nodes, &home).1.freeze();
        let after = wait_for(PATIENCE, "it has a new home", || {
            let (now, _, epoch) = place_of(&node_of(nodes, &next).0, name)?;
            (now != home).then_some(epoch)
        });
        let report = watch.join().expect("the viewer reports");
        (report, Blow { report: Value::Null, at, home, next, epochs: (before, after) })
    });
    blow.report = report;
    node_of(nodes, &blow.home).1.thaw();
    blow
}

/// What became of a frozen home.
struct Blow {
    report: Value,
    at: SystemTime,
    home: String,
    next: String,
    epochs: (u64, u64),
}

fn home_of(host: &Host, name: &str) -> Option<String> {
    host.encoder(name)?.get("home_name")?.as_str().map(str::to_owned)
}

#[test]
fn every_node_serves_whoever_has_a_credential_and_nobody_else() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(3);
    let (camera, client) = (lan.host("camera"), lan.host("client"));
    let string = nodes[0].0.invite(&["--client"]);
    let _encoder = camera.encode("cam-1", &string, &nodes[2].0);

    let led = client.watch("cam-1", &string, "2s", &[]);
    assert!(led["frames"].as_u64() > Some(10), "{led}");
    // As neighbours, without a credential: home and next want one, so the node relays.
    let watches = nodes.iter().flat_map(|(node, _)| [(node, &[][..]), (node, &["--stay"])]);
    std::thread::scope(|scope| {
        for (node, more) in watches {
            scope.spawn(move || {
                let report = node.watch("cam-1", "127.0.0.1:9443", "3s", more);
                assert!(report["frames"].as_u64() > Some(10), "{}: {report}", node.name());
            });
        }
    });
    for (node, _) in &nodes {
        let at = format!("{}:9443", node.address());
        for args in [
            &["status", "--addr", &at][..],
            &["view", "cam-1", "--addr", &at, "--for", "5s"],
            &["invite", "--addr", &at],
        ] {
            let refused = client.run(args);
            assert_eq!(refused.code, NOT_ALLOWED, "{refused:?}");
            assert!(refused.stderr.contains("a credential is needed"), "{refused:?}");
        }
        let ask = |url: String| client.program("curl", &["-sk", "-w", "%{http_code}", &url]).stdout;
        for path in ["/api/v1/cluster", "/api/v1/streams/cam-1/events", "/metrics"] {
            let said = ask(format!("https://{at}{path}"));
            assert!(said.ends_with("401") && said.contains("credential"), "{path}: {said}");
        }
        assert_eq!(ask(format!("https://{at}/healthcheck")), "{\"status\":200}200");
        let clear = ask(format!("http://{at}/healthcheck"));
        assert!(clear.ends_with("403") && clear.contains("https://"), "{clear}");
    }
}

#[test]
fn two_nodes_that_see_only_a_third_stay_up_and_serve_each_others_streams() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(3);
    let camera = lan.host("camera");
    let string = nodes[0].0.invite(&["--client"]);
    let (a, b) = (&nodes[0].0, &nodes[1].0);
    a.ignore(b);
    b.ignore(a);
    let _encoders: Vec<Process> =
        NAMES.map(|name| camera.encode(name, &string, &nodes[2].0)).into();
    // Longer than it takes to notice a node that is really gone.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(6) {
        for (node, _) in &nodes {
            let view = node.view().expect("it answers");
            let down =
                view["nodes"].as_array().expect("nodes").iter().find(|n| n["state"] == "down");
            assert_eq!(down, None, "{} is wrong", node.name());
        }
    }
    wait_until(PATIENCE, "all are up everywhere", || all_up(&nodes));
    std::thread::scope(|scope| {
        for (node, name) in [a, b].into_iter().flat_map(|node| NAMES.map(|name| (node, name))) {
            scope.spawn(move || {
                let report = node.watch(name, "127.0.0.1:9443", "2s", &["--stay"]);
                assert!(report["frames"].as_u64() > Some(10), "{} {name}: {report}", node.name());
            });
        }
    });
    let links = |host: &Host| {
        let view = host.view().expect("it answers");
        let nodes = view["nodes"].as_array().expect("it lists nodes").clone();
        nodes.iter().filter(|node| node["linked"] == true).count()
    };
    assert_eq!((links(a), links(b)), (2, 2), "they do not see each other");
    a.heal();
    b.heal();
    wait_until(PATIENCE, "they see each other again", || (links(a), links(b)) == (3, 3));
}

#[test]
fn a_node_that_is_cut_off_is_down_for_everyone_and_comes_back() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(4);
    let (lost, others) = nodes.split_first().expect("four");
    for (other, _) in others {
        lost.0.ignore(other);
        other.ignore(&lost.0);
    }
    let cut = Instant::now();
    let down = |host: &Host| {
        let view = host.view().expect("it answers");
        let mut listed = view["nodes"].as_array().into_iter().flatten();
        listed.any(|node| node["name"] == lost.0.name() && node["state"] == "down")
    };
    wait_until(PATIENCE, "it is down for everyone", || others.iter().all(|(host, _)| down(host)));
    let took = cut.elapsed();
    assert!(took < DOWN_WITHIN, "it took {took:?}");
    nodes.iter().for_each(|(host, _)| host.heal());
    wait_until(PATIENCE, "all see all again", || all_up(&nodes));
    for (host, process) in others {
        let downs = process.log().matches("node.down").count();
        assert_eq!(downs, 1, "{} lost somebody else, too", host.name());
    }
}

#[test]
fn a_home_that_is_cut_off_is_left_and_does_not_win_the_stream_back() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(3);
    let (camera, client) = (lan.host("camera"), lan.host("client"));
    let string = nodes[0].0.invite(&["--client"]);
    let _encoder = camera.encode("cam-1", &string, &nodes[2].0);
    let everybody: Vec<&Host> = nodes.iter().map(|(h, _)| h).chain([&camera, &client]).collect();
    for way in ["both ways", "deaf", "mute", "from the encoder only"] {
        let home = home_of(&nodes[0].0, "cam-1").expect("it has a home");
        let at = nodes.iter().find(|(host, _)| host.name() == home).expect("a node").0.clone();
        let witness = nodes.iter().find(|(host, _)| host.name() != home).expect("two").0.clone();
        let report = std::thread::scope(|scope| {
            let watch = scope.spawn(|| client.watch("cam-1", &string, "5s", &[]));
            wait_until(PATIENCE, "it is watched", || {
                witness.encoder("cam-1").is_some_and(|encoder| encoder["state"] == "live")
            });
            std::thread::sleep(Duration::from_millis(500));
            for &other in everybody.iter().filter(|other| other.name() != home) {
                let encoder_only = way == "from the encoder only";
                if encoder_only && other.name() != camera.name() {
                    continue;
                }
                if way != "mute" {
                    at.ignore(other);
                }
                if way != "deaf" {
                    other.ignore(&at);
                }
            }
            watch.join().expect("the viewer reports")
        });
        let moved = home_of(&witness, "cam-1");
        assert!(moved.as_ref().is_some_and(|now| *now != home), "{way}: {moved:?}");
        assert!(gaps(&report).iter().all(|ms| *ms < 2_000), "{way}: {report}");
        assert_eq!(report["backwards"], 0, "{way}: {report}");
        everybody.iter().for_each(|host| host.heal());
        wait_until(PATIENCE, "all see all again", || all_up(&nodes));
        assert_eq!(home_of(&at, "cam-1"), moved, "{way}");
    }
}

#[test]
fn who_reaches_next_alone_sees_on_though_next_does_not_reach_home() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(3);
    let (camera, client) = (lan.host("camera"), lan.host("client"));
    let string = nodes[0].0.invite(&["--client"]);
    let _encoder = camera.encode("cam-1", &string, &nodes[2].0);
    let witness = &nodes[0].0;
    let (report, home) = std::thread::scope(|scope| {
        // Longer than next stays on its detour: home is tried again meanwhile.
        let watch = scope.spawn(|| client.watch("cam-1", &string, "14s", &[]));
        wait_until(PATIENCE, "it is watched", || {
            witness.encoder("cam-1").is_some_and(|encoder| encoder["state"] == "live")
        });
        std::thread::sleep(WARM_AFTER);
        let (home, next, _) = place_of(witness, "cam-1").expect("it has a place");
        cut(&[&node_of(&nodes, &home).0], &[&node_of(&nodes, &next).0, &client]);
        (watch.join().expect("the viewer reports"), home)
    });
    assert_eq!(home_of(&node_of(&nodes, &home).0, "cam-1"), Some(home), "{report}");
    assert!(!gaps(&report).is_empty(), "the cut is noticed: {report}");
    assert!(gaps(&report).iter().all(|ms| *ms < GAP_BAR_MS), "{report}");
    assert!(report["frames"].as_u64() > Some(100), "{report}");
}

#[test]
fn media_flows_at_next_without_another_handshake_when_home_is_lost() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(3);
    let (camera, client) = (lan.host("camera"), lan.host("client"));
    let string = nodes[0].0.invite(&["--client"]);
    let capture = Capture::start(&lan);
    let _encoder = camera.encode("cam-1", &string, &nodes[2].0);
    let Blow { report, at, home, next, epochs: (before, after) } =
        freeze_home_while(&nodes, "cam-1", || true, || client.watch("cam-1", &string, "8s", &[]));
    assert!(after > before, "the epoch was {before} and is {after}");
    assert!(gaps(&report).iter().all(|ms| *ms < GAP_BAR_MS), "{report}");
    let cause = report["gaps"][0]["cause"].as_str().unwrap_or_default();
    assert!(cause.contains(&format!("{home} fell silent")), "{report}");

    let sent = quic(&capture.end());
    let next = &node_of(&nodes, &next).0;
    for (of, to, carries_media) in
        [(&camera, next, true), (&client, next, false), (next, &client, true)]
    {
        let way = format!("{} -> {}", of.name(), to.name());
        let on_the_way = sent.iter().copied().filter(|datagram| datagram.between(of, to));
        let (later, earlier): (Vec<_>, Vec<_>) = on_the_way.partition(|one| one.since(at));
        assert!(earlier.iter().any(|one| one.long), "{way}: there was a handshake before");
        let handshakes = later.iter().filter(|one| one.long).count();
        assert_eq!((handshakes, later.len() > 20), (0, true), "{way}: of {}", later.len());
        let media =
            |of: &[Datagram]| of.iter().filter(|one| !one.long && one.size >= MEDIA_SIZE).count();
        assert!(media(&earlier) <= PROBES, "{way}: {} before", media(&earlier));
        assert_eq!(media(&later) > 5 * PROBES, carries_media, "{way}: {}", media(&later));
    }
}

#[test]
fn with_home_and_next_frozen_at_once_a_third_node_goes_on() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(4);
    let (camera, client) = (lan.host("camera"), lan.host("client"));
    let string = nodes[0].0.invite(&["--client"]);
    let _encoder = camera.encode("cam-1", &string, &nodes[2].0);
    let (report, frozen) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| client.watch("cam-1", &string, "6s", &[]));
        wait_until(PATIENCE, "it is watched", || {
            nodes[0].0.encoder("cam-1").is_some_and(|encoder| encoder["state"] == "live")
        });
        std::thread::sleep(WARM_AFTER);
        let (home, next, _) = place_of(&nodes[0].0, "cam-1").expect("it has a place");
        let frozen = [home, next].map(|name| node_of(&nodes, &name));
        frozen.iter().for_each(|(_, process)| process.freeze());
        (watch.join().expect("the viewer reports"), frozen)
    });
    let goes_on = |(host, _): &&(Host, Process)| frozen.iter().all(|f| f.0.name() != host.name());
    let witness = nodes.iter().find(goes_on).expect("two go on");
    let home = home_of(&witness.0, "cam-1").expect("it has a home");
    assert!(frozen.iter().all(|(host, _)| host.name() != home), "{home}");
    assert!(!gaps(&report).is_empty(), "the blow is noticed: {report}");
    assert!(gaps(&report).iter().all(|ms| *ms < BOTH_BAR_MS), "{report}");
    assert_eq!(report["backwards"], 0, "{report}");
}

#[test]
fn a_camera_over_rtsp_is_watched_on_when_its_home_freezes() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(3);
    let (camera, agent, client) = (lan.host("camera"), lan.host("agent"), lan.host("client"));
    let string = nodes[0].0.invite(&["--client"]);
    // Four seconds from keyframe to keyframe, and over RTSP nobody can ask for one.
    let url = format!("rtsp://{}:8554/cam", camera.address());
    let _camera = Camera::start(&camera, &["--fps", "25", "--gop", "100"]);
    let _encoder = agent.encode_from(&["--rtsp", &url], "yard", &string, &nodes[2].0);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("out.h264").display().to_string();
    let written = || std::fs::metadata(&file).is_ok_and(|file| file.len() > 0);
    let Blow { report, .. } = freeze_home_while(&nodes, "yard", written, || {
        client.watch("yard", &string, "12s", &["--output", &file])
    });
    assert!(gaps(&report).iter().all(|ms| *ms < GAP_BAR_MS), "{report}");
    assert!(!gaps(&report).is_empty(), "the blow is noticed: {report}");
    assert!(report["frames"].as_u64() > Some(25 * 5), "{report}");
    assert_eq!((&report["damaged_ms"], &report["unwritten"]), (&0.into(), &0.into()), "{report}");
    let decoded = client.program("ffmpeg", &["-v", "error", "-i", &file, "-f", "null", "-"]);
    assert_eq!((decoded.code, &*decoded.stderr), (Some(0), ""), "{report}");
    let count = ["-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", &file];
    let counted = client.program("ffprobe", &count).stdout;
    let frames = format!("nb_read_frames={}\n", report["frames"]);
    assert!(counted.contains(&frames), "{counted}: {report}");
}

/// `tests/camera.py` at a host, port 8554; gone when dropped.
struct Camera(Child);

impl Camera {
    #[track_caller]
    fn start(host: &Host, options: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/camera.py");
        let at = ["8554", "--address", host.address()];
        let args = [&[script][..], &at, options].concat();
        let mut command = host.command("/usr/bin/python3", &args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("the camera talks");
        assert_eq!(line, "READY 8554\n");
        Self(child)
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nothing_between_nodes_is_in_clear_text() {
    let Some(mut lan) = Lan::start() else { return };
    let capture = Capture::start(&lan);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let nodes = lan.nodes(3);
    let (camera, client) = (lan.host("camera"), lan.host("client"));
    let string = nodes[0].0.invite(&["--client"]);
    let _encoder = camera.encode("cam-in-the-yard", &string, &nodes[2].0);
    let report = client.watch("cam-in-the-yard", &string, "2s", &[]);
    assert!(report["frames"].as_u64() > Some(10), "{report}");
    // A page's offer, which the node that is asked passes on to the others.
    let offer = folder.path().join("offer.sdp");
    std::fs::write(&offer, crate::whep::OFFER).expect("it can be written");
    let offer = format!("@{}", offer.display());
    let bearer = format!("Authorization: Bearer {string}");
    for leg in ["home", "next"] {
        let url = format!("https://{}:9443/whep/cam-in-the-yard?leg={leg}", nodes[0].0.address());
        let sdp = "Content-Type: application/sdp";
        let args = ["-sk", "-w", "%{http_code}", "-H", sdp, "-H", &bearer, "--data-binary", &offer];
        let answer = client.program("curl", &[&args[..], &[&url]].concat()).stdout;
        assert!(answer.ends_with("201"), "{answer}");
    }
    let bytes = capture.end();
    assert!(bytes.len() > 50_000, "only {} bytes were captured", bytes.len());
    let credential = string.trim_start_matches("roost1c-");
    let addresses = nodes.iter().map(|(host, _)| host.address());
    let words = ["cam-in-the-yard", "a=candidate", "ice-ufrag", "v4.public", "roost encode"];
    for word in words.into_iter().chain([&credential[8..40]]).chain(addresses) {
        let found = bytes.windows(word.len()).any(|window| window == word.as_bytes());
        assert!(!found, "`{word}` is readable on the wire");
    }
}

#[test]
fn a_camera_of_ffmpeg_reaches_a_viewer_through_a_pipe() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(1);
    let camera = lan.host("camera");
    let string = nodes[0].0.invite(&["--client"]);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let state = folder.path().display();
    let pipe = format!(
        "ffmpeg -v error -re -f lavfi -i testsrc=size=320x240:rate=25:duration=12 -c:v libx264 \
         -pix_fmt yuv420p -preset ultrafast -tune zerolatency -bf 0 -g 25 -f h264 - | {} encode \
         piped --h264 - --addr '{string}' --state {state}",
        env!("CARGO_BIN_EXE_roost"),
    );
    std::thread::scope(|scope| {
        let fed = scope.spawn(|| camera.program("bash", &["-c", &pipe]));
        wait_until(PATIENCE, "it has a home", || home_of(&nodes[0].0, "piped").is_some());
        let file = folder.path().join("out.h264").display().to_string();
        let output = ["--output", &file];
        let report = nodes[0].0.watch("piped", "127.0.0.1:9443", "4s", &output);
        assert!(report["frames"].as_u64() > Some(50), "{report}");
        assert_eq!(report["lost"], 0, "{report}");
        let mut probe = std::process::Command::new("ffprobe");
        probe.args([
            "-v",
            "error",
            "-count_frames",
            "-show_entries",
            "stream=nb_read_frames,width",
        ]);
        let probe = finish(PATIENCE, {
            probe.arg(&file);
            probe
        });
        assert!(probe.stdout.contains("width=320") && probe.stderr.is_empty(), "{probe:?}");
        let fed = fed.join().expect("it ends");
        assert_eq!(fed.code, Some(1), "{fed:?}");
        assert!(fed.stderr.contains("standard input has ended"), "{fed:?}");
    });
}

#[test]
fn noise_on_the_ports_disturbs_nobody_and_no_failover() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(3);
    let (camera, client, stranger) = (lan.host("camera"), lan.host("client"), lan.host("stranger"));
    let string = nodes[0].0.invite(&["--client"]);
    let _encoder = camera.encode("cam-1", &string, &nodes[1].0);
    let targets: Vec<String> = nodes.iter().map(|(host, _)| host.address().to_owned()).collect();
    std::thread::scope(|scope| {
        let noise = scope.spawn(|| stranger.program("python3", &["-c", NOISE, &targets.join(",")]));
        let report = client.watch("cam-1", &string, "4s", &[]);
        assert!(report["frames"].as_u64() > Some(45), "{report}");
        assert_eq!((gaps(&report), &report["lost"]), (vec![], &Value::from(0)), "{report}");
        assert!(all_up(&nodes));
        for (host, node) in &nodes {
            assert!(!node.log().contains("node.down"), "{}", host.name());
        }
        let Blow { report, .. } = freeze_home_while(
            &nodes,
            "cam-1",
            || true,
            || client.watch("cam-1", &string, "6s", &[]),
        );
        assert!(!noise.is_finished(), "there was noise all the time");
        assert!(gaps(&report).iter().all(|ms| *ms < GAP_BAR_MS), "{report}");
        assert_eq!((gaps(&report).is_empty(), &report["backwards"]), (false, &0.into()));
        let noise = noise.join().expect("it ends");
        assert_eq!(noise.code, Some(0), "{noise:?}");
    });
    wait_until(PATIENCE, "all see all again", || all_up(&nodes));
    for (host, _) in &nodes {
        let drops = host.program("curl", &["-s", "http://127.0.0.1:9443/metrics"]).stdout;
        let counted = drops.lines().filter(|line| line.starts_with("roost_net_events_total{"));
        let counted: f64 = counted.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum();
        assert!(counted > 100.0, "drops are counted: {counted}");
    }
}

#[test]
fn whoever_reads_the_output_may_pause_without_harm() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(2);
    let camera = lan.host("camera");
    let string = nodes[0].0.invite(&["--client"]);
    let _encoder = camera.encode("cam-1", &string, &nodes[1].0);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let pipe = folder.path().join("pipe").display().to_string();
    crate::harness::lan::must(&["mkfifo", &pipe]);
    // Open at both ends, and never read: it is full after 64 KB.
    let _reader = std::fs::File::options().read(true).write(true).open(&pipe).expect("a pipe");
    let report = camera.watch("cam-1", &string, "10s", &["--output", &pipe]);
    assert!(report["bytes"].as_u64() > Some(100_000), "it was full long before: {report}");
    assert!(report["frames"].as_u64() > Some(130), "{report}");
    assert_eq!(gaps(&report), [] as [u64; 0], "{report}");
}

/// Fifteen seconds of noise: random and truncated datagrams with every first byte, binding requests
/// of STUN, the beginnings of QUIC handshakes, connections that say nothing and offers that never
/// end.
const NOISE: &str = r#"
import os, random, socket, struct, sys, time
targets = sys.argv[1].split(",")
random.seed(1)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held = []
end = time.time() + 15
while time.time() < end:
    for target in targets:
        at = (target, 9443)
        for first in range(256):
            udp.sendto(bytes([first]) + os.urandom(random.choice([0, 1, 19, 100, 1199])), at)
        for _ in range(100):
            attribute = struct.pack("!HH", 6, 8) + os.urandom(8)
            udp.sendto(struct.pack("!HHI", 1, len(attribute), 0x2112A442) + os.urandom(12) + attribute, at)
            udp.sendto(b"\xc3\0\0\0\1\x08" + os.urandom(8) + b"\0\0\x44\x9e" + os.urandom(1180), at)
            udp.sendto(b"\xc3\x1a\x2a\x3a\x4a\x08" + os.urandom(1200), at)
        if len(held) < 100:
            tcp = socket.create_connection(at, 2)
            tcp.sendall(random.choice([b"\x16\3\1", os.urandom(50), b"POST /whep/cam-1 HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nv=0"]))
            held.append(tcp)
    time.sleep(0.05)
"#;
