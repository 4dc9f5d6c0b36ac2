//! Nodes, encoders and viewers on hosts of their own.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::lan::{Host, Lan, all_up};
use crate::harness::process::{Process, finish};
use crate::harness::{PATIENCE, wait_until};

const NOT_ALLOWED: Option<i32> = Some(5);
const NAMES: [&str; 3] = ["cam-1", "cam-2", "cam-3"];

fn gaps(report: &Value) -> Vec<u64> {
    let gaps = report["gaps"].as_array().into_iter().flatten();
    gaps.filter_map(|gap| gap["ms"].as_u64()).collect()
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
            assert!(refused.stderr.contains("roost invite --client"), "{refused:?}");
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
    while begin.elapsed() < Duration::from_secs(5) {
        assert!(all_up(&nodes), "{:?}", a.view());
    }
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
fn nothing_between_nodes_is_in_clear_text() {
    let Some(mut lan) = Lan::start() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("all.pcap").display().to_string();
    let capture = ["netns", "exec", lan.switch(), "tcpdump", "-i", "br0", "-U", "-w", &file, "udp"];
    let mut tcpdump = std::process::Command::new("ip");
    tcpdump.args(capture).stderr(std::process::Stdio::null());
    let mut tcpdump = tcpdump.spawn().expect("tcpdump is installed");
    wait_until(PATIENCE, "the capture has begun", || {
        std::fs::metadata(&file).is_ok_and(|file| file.len() >= 24)
    });
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
    let _ = tcpdump.kill();
    let _ = tcpdump.wait();
    let bytes = std::fs::read(&file).expect("the capture is there");
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
fn noise_on_the_ports_disturbs_nobody() {
    let Some(mut lan) = Lan::start() else { return };
    let nodes = lan.nodes(2);
    let (camera, client, stranger) = (lan.host("camera"), lan.host("client"), lan.host("stranger"));
    let string = nodes[0].0.invite(&["--client"]);
    let _encoder = camera.encode("cam-1", &string, &nodes[1].0);
    let targets: Vec<String> = nodes.iter().map(|(host, _)| host.address().to_owned()).collect();
    std::thread::scope(|scope| {
        let noise = scope.spawn(|| stranger.program("python3", &["-c", NOISE, &targets.join(",")]));
        let report = client.watch("cam-1", &string, "5s", &[]);
        let noise = noise.join().expect("it ends");
        assert_eq!(noise.code, Some(0), "{noise:?}");
        assert!(report["frames"].as_u64() > Some(60), "{report}");
        assert_eq!((gaps(&report), &report["lost"]), (vec![], &Value::from(0)), "{report}");
    });
    assert!(all_up(&nodes));
    for (host, node) in &nodes {
        assert!(!node.log().contains("node.down"), "{}", host.name());
        let drops = host.program("curl", &["-s", "http://127.0.0.1:9443/metrics"]).stdout;
        let counted = drops.lines().filter(|line| line.starts_with("roost_net_events_total{"));
        let counted: f64 = counted.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum();
        assert!(counted > 100.0, "drops are counted: {counted}");
    }
}

/// Five seconds of noise: random and truncated datagrams with every first byte, binding requests
/// of STUN, the beginnings of QUIC handshakes, connections that say nothing and offers that never
/// end.
const NOISE: &str = r#"
import os, random, socket, struct, sys, time
targets = sys.argv[1].split(",")
random.seed(1)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held = []
end = time.time() + 5
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
