//! WHEP as players without our page meet it.

use std::net::SocketAddr;

use crate::harness::client::Encoder;
use crate::harness::http::{Response, request};
use crate::harness::mesh::Mesh;
use crate::harness::process::Process;
use crate::harness::{PATIENCE, wait_for, wait_until};

/// What a player with H.264 offers.
pub(crate) const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n\
    a=group:BUNDLE 0\r\na=fingerprint:sha-256 \
    AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA:AA\
    \r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=recvonly\r\n\
    a=rtcp-mux\r\na=rtpmap:96 H264/90000\r\n\
    a=fmtp:96 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n";

const SDP: (&str, &str) = ("Content-Type", "application/sdp");

fn post(node: SocketAddr, path: &str, offer: &str) -> Response {
    request(node, "POST", path, &[SDP], offer).expect("the node answers")
}

#[track_caller]
fn assert_refused(answer: &Response, status: u16, words: &[&str]) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
    for word in words {
        assert!(detail.contains(word), "`{word}` is not in: {detail}");
    }
}

#[test]
fn a_player_is_redirected_once_and_its_session_can_be_ended_and_not_restarted() {
    let mesh = Mesh::start(2);
    let _encoder = Encoder::start(&mesh, "cam-1", &[]);
    let home = mesh.nodes()[0].home_of("cam-1").expect("it has a home");
    let asked = mesh.nodes().iter().find(|node| node.name() != home).expect("two nodes");
    let home = mesh.nodes().iter().find(|node| node.name() == home).expect("a node").addr();
    let redirect = post(asked.addr(), "/whep/cam-1", OFFER);
    assert_eq!(redirect.status, 307, "{redirect:?}");
    let location = redirect.header("location").expect("it says where").to_owned();
    let path = location.strip_prefix(&format!("http://{home}")).expect("it is home");
    let created = post(home, path, OFFER);
    assert_eq!(created.status, 201, "{created:?}");
    assert!(created.body.starts_with("v=0") && created.body.contains("a=candidate"), "{created:?}");
    let session = created.header("location").expect("it says where").to_owned();
    assert!(!session.contains('?'), "a token would end up in logs: {session}");
    let session = session.strip_prefix(&format!("http://{home}")).expect("it is home").to_owned();
    // A redirect is never redirected again, wherever its bearer takes it: whoever may watch
    // without the token is served by relay.
    let elsewhere = post(asked.addr(), path, OFFER);
    assert_eq!(elsewhere.status, 201, "{elsewhere:?}");

    let options = request(home, "OPTIONS", "/whep/cam-1", &[], "").expect("it answers");
    assert_eq!(options.status, 204, "{options:?}");
    assert_eq!(options.header("accept-post"), Some("application/sdp"));
    let trickle = ("Content-Type", "application/trickle-ice-sdpfrag");
    let restart = request(home, "PATCH", &session, &[trickle], "a=ice-ufrag:other\r\n");
    assert_refused(&restart.expect("it answers"), 422, &["restart"]);
    let candidate =
        "a=ice-ufrag:abcd\r\nm=video 9 UDP 0\r\na=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n";
    let patched = request(home, "PATCH", &session, &[trickle], candidate).expect("it answers");
    assert_eq!(patched.status, 204, "{patched:?}");
    let delete = || request(home, "DELETE", &session, &[], "").expect("it answers");
    assert_eq!(delete().status, 200);
    assert_refused(&delete(), 404, &["ended"]);
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let mesh = Mesh::start(1);
    let _encoder = Encoder::start(&mesh, "cam-1", &[]);
    let node = mesh.nodes()[0].addr();
    assert_refused(&post(node, "/whep/nobody", OFFER), 404, &["nobody"]);
    assert_refused(&post(node, "/whep/cam-1", "hello"), 400, &["v=0"]);
    assert_refused(&post(node, "/whep/cam-1", "v=0\r\n"), 422, &["no video"]);
    let vp8 = OFFER.replace("H264", "VP8");
    assert_refused(&post(node, "/whep/cam-1", &vp8), 406, &["H.264"]);
    assert_refused(&post(node, "/whep/cam-1", &"a".repeat(70_000)), 413, &["65536"]);
    let json = request(node, "POST", "/whep/cam-1", &[("Content-Type", "text/plain")], OFFER);
    assert_refused(&json.expect("it answers"), 415, &["application/sdp"]);
    let put = request(node, "PUT", "/whep/cam-1", &[], "").expect("it answers");
    assert_eq!((put.status, put.header("allow").is_some()), (405, true), "{put:?}");
    let forged = request(node, "POST", "/whep/cam-1", &[SDP, ("Authorization", "Bearer x")], OFFER);
    assert_refused(&forged.expect("it answers"), 403, &["credential"]);
}

#[test]
fn a_stream_without_a_picture_says_why_and_when_to_ask_again() {
    let mesh = Mesh::start(1);
    let node = &mesh.nodes()[0];
    let folder = mesh.folder().path();
    let (addr, state) = (mesh.addrs(), folder.join("state").display().to_string());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let camera = format!("rtsp://{}/x", nobody.local_addr().expect("it is bound"));
    drop(nobody);
    let args = ["encode", "dark", "--rtsp", &camera, "--addr", &addr, "--state", &state];
    let _dark = Process::start("dark", folder, &args.map(str::to_owned));
    wait_until(PATIENCE, "the camera's absence is known", || {
        node.encoder("dark").is_some_and(|dark| dark["reason"].is_string())
    });
    let answer = post(node.addr(), "/whep/dark", OFFER);
    assert_refused(&answer, 409, &["no signal", "connection refused"]);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");

    let state = folder.join("gone").display().to_string();
    let args = ["encode", "gone", "--test", "--addr", &addr, "--state", &state];
    let mut gone = Process::start("gone", folder, &args.map(str::to_owned));
    wait_until(PATIENCE, "it has a home", || node.home_of("gone").is_some());
    gone.kill();
    let answer = wait_for(PATIENCE, "nobody is live", || {
        let answer = post(node.addr(), "/whep/gone", OFFER);
        (answer.status != 201).then_some(answer)
    });
    assert_refused(&answer, 409, &["disconnected"]);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}
