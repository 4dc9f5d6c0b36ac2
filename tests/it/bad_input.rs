//! Whatever is wrong is said in words, with the documented exit code, and nothing else changes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::Arc;

use crate::harness::client::Encoder;
use crate::harness::http;
use crate::harness::mesh::Mesh;
use crate::harness::node::{Node, Options};
use crate::harness::process::{Finished, roost, run};
use crate::harness::{PATIENCE, wait_until};

const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);
const NO_SUCH_THING: Option<i32> = Some(3);
const CONFLICT: Option<i32> = Some(4);
const NOT_ALLOWED: Option<i32> = Some(5);
const NO_NODE_ANSWERED: Option<i32> = Some(6);
const DOWN: Option<i32> = Some(9);
const CONFIGURATION: Option<i32> = Some(78);

/// An address of this machine where nobody listens.
fn nobody() -> String {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    socket.local_addr().expect("it is bound").to_string()
}

#[track_caller]
fn assert_says(finished: &Finished, code: Option<i32>, words: &[&str]) {
    assert_eq!(finished.code, code, "{finished:?}");
    assert_eq!(finished.stdout, "", "errors belong on standard error");
    for word in words {
        assert!(finished.stderr.contains(word), "`{word}` is not in: {}", finished.stderr);
    }
}

#[test]
fn unknown_options_and_commands_are_usage_errors_that_suggest_the_right_one() {
    assert_says(&run(&["node", "--lisen", "127.0.0.1:1"]), USAGE, &["--lisen", "--listen"]);
    assert_says(&run(&["stauts"]), USAGE, &["stauts", "status"]);
    assert_says(&run(&["view"]), USAGE, &["<NAME>"]);
    assert_says(&run(&["encode", "Cam 1", "--test"]), USAGE, &["a-z"]);
    assert_says(&run(&["invite", "--expires", "tomorrow"]), USAGE, &["tomorrow", "24h"]);
}

#[test]
fn help_and_version_go_to_standard_output() {
    for args in [&["--help"][..], &["node", "--help"], &["--version"], &["completions", "bash"]] {
        let finished = run(args);
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(finished.stdout.contains("roost"), "{args:?}: {}", finished.stdout);
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let mut child = roost()
        .arg("licenses")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the executable starts");
    drop(child.stdout.take());
    let mut words = String::new();
    child.stderr.take().expect("it is a pipe").read_to_string(&mut words).expect("it is text");
    assert_eq!(words, "");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_wrong_configuration_file_names_the_line_and_the_likely_key() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("roost.toml");
    let path = file.display().to_string();
    let missing = run(&["node", "--config", &path]);
    assert_says(&missing, CONFIGURATION, &["cannot read", &path]);
    std::fs::write(&file, "name = \"n1\"\nlitsen = \"127.0.0.1:0\"\n").expect("it can be written");
    let unknown = run(&["node", "--config", &path]);
    assert_says(&unknown, CONFIGURATION, &["roost.toml:2", "litsen", "did you mean `listen`"]);
}

#[test]
fn an_unusable_invitation_or_address_is_a_configuration_error() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let data = folder.path().join("n1").display().to_string();
    for (join, word) in [
        ("roost1abc", "roost invite"),
        ("http://n1:9443", "HOST:PORT"),
        ("roost1abc,n1:9443", "alone"),
    ] {
        let finished = run(&["node", "--data", &data, "--join", join]);
        assert_says(&finished, CONFIGURATION, &[word]);
    }
    assert!(!folder.path().join("n1").exists(), "nothing was made for a node that cannot start");
}

#[test]
fn a_data_folder_in_use_is_refused_and_its_owner_undisturbed() {
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
    let first = Node::start(Options::named("n1").folder(&folder));
    let data = first.data().display().to_string();
    let second = run(&["node", "--data", &data, "--listen", "127.0.0.1:0"]);
    assert_says(&second, CONFLICT, &[&data, "in use"]);
    assert_eq!(first.get("/healthcheck").status, 200);
}

#[test]
fn a_port_in_use_founds_nothing_and_spends_no_invitation() {
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
    let founder = Node::start(Options::named("n1").folder(&folder));
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    for (name, taken) in [("n2", tcp.local_addr()), ("n3", udp.local_addr())] {
        let taken = taken.expect("it is bound");
        let (listen, invitation) = (taken.to_string(), founder.invite(1));
        let data = folder.path().join(name).display().to_string();
        let fixed = ["node", "--name", name, "--data", &data, "--listen", &listen];
        for more in [&[][..], &["--join", &invitation]] {
            let finished = run(&[&fixed[..], more].concat());
            assert_says(&finished, CONFLICT, &[&taken.port().to_string(), "taken"]);
        }
        // The folder belongs to no mesh, and the only use of the invitation is still there.
        let _node = Node::start(Options::named(name).folder(&folder).join(&invitation));
        wait_until(PATIENCE, "it is in the founder's mesh", || {
            founder.opinion_of(name).as_deref() == Some("up")
        });
    }
}

#[test]
fn an_address_of_another_machine_may_come_with_the_network() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let data = folder.path().join("n1").display().to_string();
    let finished = run(&["node", "--data", &data, "--listen", "192.0.2.1:9443"]);
    assert_says(&finished, FAILED, &["192.0.2.1", "--listen", "0.0.0.0"]);
}

#[test]
fn addresses_that_others_would_not_take_are_a_configuration_error() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let data = folder.path().join("n1").display().to_string();
    let start = |advertise: &str| run(&["node", "--data", &data, "--advertise", advertise]);
    let nine = ["n1:9443"; 9].join(",");
    assert_says(&start(&nine), CONFIGURATION, &["9 addresses", "8"]);
    let long = format!("{}:9443", "n".repeat(200));
    assert_says(&start(&long), CONFIGURATION, &["205 bytes", "200"]);
    assert!(!folder.path().join("n1").exists(), "nothing was made for a node that cannot start");
}

#[test]
fn a_folder_that_cannot_be_written_is_a_configuration_error() {
    // Tests may run as root, whom permissions do not stop: a file in the way stops everyone.
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("it can be written");
    for data in [file.clone(), file.join("below"), "/proc/roost".into()] {
        let data = data.display().to_string();
        let finished = run(&["node", "--data", &data, "--listen", "127.0.0.1:0"]);
        assert_says(&finished, CONFIGURATION, &[&data]);
    }
}

#[test]
fn what_a_start_with_the_same_files_would_meet_again_is_a_configuration_error() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (file, web, data) = (path("roost.toml"), path("web.pem"), path("n1"));
    let start = |more: &[&str]| {
        let fixed = ["node", "--data", &data, "--listen", "127.0.0.1:0"];
        run(&fixed.iter().chain(more).copied().collect::<Vec<_>>())
    };
    std::fs::write(&web, "no certificate").expect("it can be written");
    let certificate = start(&["--tls-cert", &web, "--tls-key", &web]);
    assert_says(&certificate, CONFIGURATION, &[&web, "--tls-cert"]);
    assert!(!folder.path().join("n1").exists(), "nothing was founded");
    std::fs::write(&file, "[log]\nfilter = \"roost=loud\"\n").expect("it can be written");
    assert_says(&start(&["--config", &file]), CONFIGURATION, &["roost=loud", "log.filter"]);

    std::fs::create_dir(&data).expect("it is not there");
    let own = folder.path().join("n1/web.crt");
    std::fs::write(&own, "no certificate").expect("it can be written");
    assert_says(&start(&[]), CONFIGURATION, &["web.crt", "remove"]);
    assert!(!folder.path().join("n1/roost.redb").exists(), "nothing was founded");
    std::fs::remove_file(&own).expect("it is there");
    let key = folder.path().join("n1/node.key");
    std::fs::write(&key, "no key").expect("it can be written");
    let mode = |mode| std::fs::set_permissions(&key, PermissionsExt::from_mode(mode));
    mode(0o644).expect("it is ours");
    assert_says(&start(&[]), CONFIGURATION, &["chmod 600", "node.key"]);
    mode(0o600).expect("it is ours");
    assert_says(&start(&[]), CONFIGURATION, &["does not hold a key", "backup"]);
}

#[test]
fn an_invitation_is_good_for_as_many_uses_as_it_says() {
    let founder = Node::start(Options::named("n1"));
    let invitation = founder.invite(1);
    let _second = Node::start(Options::named("n2").join(&invitation));
    let third = Node::launch(Options::named("n3").join(&invitation));
    let (code, words) = third.refused(PATIENCE);
    assert_eq!(code, NOT_ALLOWED, "{words}");
    assert!(words.contains("1 of 1"), "{words}");
    assert_eq!(founder.opinion_of("n3"), None, "a refused node is not a member");
}

#[test]
fn an_invitation_that_nobody_answers_for_is_said_so() {
    let mut founder = Node::start(Options::named("n1"));
    let invitation = founder.invite(1);
    founder.kill();
    let (code, words) = Node::launch(Options::named("n2").join(&invitation)).refused(PATIENCE);
    assert_eq!(code, NO_NODE_ANSWERED, "{words}");
}

#[test]
fn another_mesh_does_not_let_a_member_in() {
    let host = Node::start(Options::named("a1"));
    // The founder of a mesh of its own, sent to a stranger by address.
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
    let options = Options::named("b1").folder(&folder);
    drop(Node::start(options.clone()));
    let stranger = Node::start(options.join(&host.addr().to_string()));
    // The refusal is told by the one that was refused.
    let addr = host.addr().to_string();
    wait_until(PATIENCE, "the stranger is refused", || stranger.log().contains(&addr));
    assert_eq!(host.opinion_of("b1"), None);
    assert_eq!(stranger.opinion_of("a1"), None);
    assert_eq!(host.get("/healthcheck").status, 200);
}

#[test]
fn a_founder_does_not_take_an_invitation_to_another_mesh_for_an_address() {
    let invitation = Node::start(Options::named("a1")).invite(1);
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
    let options = Options::named("b1").folder(&folder);
    drop(Node::start(options.clone()));
    let (code, words) = Node::launch(options.join(&invitation)).refused(PATIENCE);
    assert_eq!(code, CONFIGURATION, "{words}");
    assert!(words.contains("empty folder"), "{words}");
}

#[test]
fn commands_say_when_no_node_answers() {
    let addr = nobody();
    assert_says(&run(&["status", "--addr", &addr]), NO_NODE_ANSWERED, &[&addr]);
    assert_says(&run(&["status", "--check", "--addr", &addr]), DOWN, &[&addr]);
    assert_says(&run(&["invite", "--addr", &addr]), NO_NODE_ANSWERED, &[&addr]);
    assert_says(&run(&["status", "--addr", "n1:https"]), USAGE, &["--addr", "HOST:PORT"]);
}

#[test]
fn a_viewer_that_saw_nothing_says_why_and_fails() {
    let view = |name: &str, addr: &str| run(&["view", name, "--addr", addr, "--for", "2s"]);
    assert_says(&view("cam-1", &nobody()), NO_NODE_ANSWERED, &["no node answered", "--addr"]);
    let mesh = Mesh::start(1);
    let addr = mesh.addrs();
    assert_says(&view("cam-1", &addr), NO_SUCH_THING, &["no encoder is called cam-1"]);
}

#[test]
fn a_source_that_is_not_there_is_said_in_words() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let state = folder.path().display().to_string();
    let file = folder.path().join("none.h264").display().to_string();
    let addr = nobody();
    let args = ["encode", "cam-1", "--state", &state, "--addr", &addr, "--h264", &file];
    let finished = run(&args);
    assert_says(&finished, FAILED, &[&file]);
}

#[test]
fn noise_on_both_ports_changes_nothing() {
    let mesh = Mesh::start(2);
    let node = &mesh.nodes()[0];
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    // A fixed sequence that looks random: every first byte, many lengths.
    let mut state = 1_u32;
    let mut noise = |length: usize| -> Vec<u8> {
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    };
    for first in 0..=255_u8 {
        for length in [1, 2, 20, 100, 1_200] {
            let mut datagram = noise(length);
            datagram[0] = first;
            udp.send_to(&datagram, node.addr()).expect("loopback takes it");
        }
    }
    for length in [1, 5, 300, 70_000] {
        let mut stream = TcpStream::connect(node.addr()).expect("it listens");
        // The node may close before everything is written; that is its right.
        let _ = stream.write_all(&noise(length));
    }
    assert_eq!(node.get("/healthcheck").body, "{\"status\":200}");
    mesh.wait_until_all_see_all();
}

#[test]
fn slow_and_oversized_requests_do_not_block_others() {
    let mesh = Mesh::start(1);
    let _encoder = Encoder::start(&mesh, "cam-1", &[]);
    let node = &mesh.nodes()[0];
    let mut slow: Vec<TcpStream> = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(node.addr()).expect("it listens");
        let head = b"POST /whep/cam-1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/sdp\r\n\
                     Content-Length: 1000\r\n\r\nv=0";
        stream.write_all(head).expect("it is read");
        slow.push(stream);
    }
    assert_eq!(node.get("/healthcheck").status, 200);
    let sdp = "a".repeat(2 << 20);
    let headers = [("Content-Type", "application/sdp")];
    // Refused while it is still being sent, the connection may be reset before the answer is read.
    if let Ok(answer) = http::request(node.addr(), "POST", "/whep/cam-1", &headers, &sdp) {
        assert_eq!(answer.status, 413, "{answer:?}");
    }
    wait_until(PATIENCE, "it still answers", || node.get("/healthcheck").status == 200);
}
