use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

use super::auth::Peer;
use super::fake::{FakeMesh, MAX_LEGS, id_of};
use super::*;
use crate::cluster::{EncoderState, EncoderView};
use crate::id::EncoderId;
use crate::webrtc::sdp::MAX_OFFER;

pub(super) const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 108 109\r\na=mid:0\r\na=recvonly\r\na=rtcp-mux\r\n\
    a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n\
    a=rtpmap:108 H264/90000\r\n\
    a=fmtp:108 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
    a=rtpmap:109 rtx/90000\r\na=fmtp:109 apt=108\r\n";

struct Answer {
    status: u16,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

struct Client {
    mesh: Arc<FakeMesh>,
    number: usize,
    from: &'static str,
}

impl Client {
    async fn new() -> Self {
        Self { mesh: FakeMesh::start(2).await, number: 0, from: "127.0.0.1:1" }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let router = router(self.mesh.node(self.number), Arc::default());
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost:1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        let peer = Peer { address: self.from.parse().unwrap(), secure: false };
        request.extensions_mut().insert(peer);
        let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.into()).unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    async fn offer(&self, path: &str, sdp: &str) -> Answer {
        self.ask("POST", path, &[("content-type", "application/sdp")], sdp).await
    }
}

#[tokio::test]
async fn health_is_open_to_all_and_turns_when_the_node_drains() {
    let client = Client { from: "192.0.2.1:1", ..Client::new().await };
    let healthy = client.get("/healthcheck").await;
    assert_eq!((healthy.status, healthy.body.as_str()), (200, r#"{"status":200}"#));
    assert_eq!(client.ask("HEAD", "/healthcheck", &[], "").await.status, 200);
    assert_eq!(client.get("/livez").await.body, "ok\n");
    assert_eq!(client.get("/readyz?verbose").await.body, "[+] draining ok\n[+] store ok\nok\n");
    client.mesh.node(0).draining.store(true, Ordering::Relaxed);
    let draining = client.get("/healthcheck").await;
    assert_eq!((draining.status, draining.body.as_str()), (503, r#"{"status":503}"#));
    let ready = client.get("/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "[-] draining: this node is draining\n"));
    let verbose = client.get("/readyz?verbose").await.body;
    assert_eq!(verbose, "[-] draining: this node is draining\n[+] store ok\n");
    let without = client.get("/readyz?exclude=draining&verbose").await;
    assert_eq!((without.status, without.body.as_str()), (200, "[+] store ok\nok\n"));
    assert_eq!(client.get("/readyz?exclude=store").await.status, 503);
}

#[tokio::test]
async fn a_node_whose_control_loop_is_stuck_is_not_alive() {
    let client = Client { from: "192.0.2.1:1", ..Client::new().await };
    client.mesh.node(0).stuck.store(10, Ordering::Relaxed);
    assert_eq!(client.get("/livez").await.status, 200, "busy is not stuck");
    client.mesh.node(0).stuck.store(11, Ordering::Relaxed);
    let stuck = client.get("/livez").await;
    assert_eq!(stuck.status, 503);
    assert!(stuck.body.contains("11 s"), "{}", stuck.body);
}

#[tokio::test]
async fn every_error_is_a_problem_document() {
    let client = Client::new().await;
    for (method, path, status) in [
        ("GET", "/nothing", 404),
        ("PUT", "/api/v1/cluster", 405),
        ("GET", "/api/v1/encoders/none", 404),
        ("GET", "/assets/none.js", 404),
        ("DELETE", "/whep/cam/none", 404),
        ("POST", "/whep/cam", 415),
    ] {
        let answer = client.ask(method, path, &[], "").await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
        let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().unwrap().len() > 10);
    }
}

#[tokio::test]
async fn strangers_and_foreign_pages_get_nothing() {
    let near = Client::new().await;
    let status = async |client: &Client, headers: &[(&str, &str)]| {
        client.ask("GET", "/api/v1/cluster", headers, "").await.status
    };
    assert_eq!(status(&near, &[]).await, 200);
    assert_eq!(status(&near, &[("origin", "http://localhost:9443")]).await, 200);
    assert_eq!(status(&near, &[("origin", "https://evil.example")]).await, 403);
    assert_eq!(status(&near, &[("origin", "null")]).await, 403);
    let far = Client { from: "192.0.2.1:1", mesh: near.mesh.clone(), number: 0 };
    let refused = far.get("/api/v1/cluster").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Bearer"));
    assert_eq!(far.get("/metrics").await.status, 401);
    assert_eq!(status(&far, &[("authorization", "Bearer bad")]).await, 403);
    assert_eq!(status(&far, &[("authorization", "bearer good")]).await, 200);
    assert_eq!(far.get("/api/v1/cluster?token=good").await.status, 200);
    assert_eq!(far.get("/watch/cam").await.status, 200, "the page itself holds no data");
}

#[tokio::test]
async fn a_name_that_only_resolves_to_loopback_is_not_this_machine() {
    let mesh = FakeMesh::start(1).await;
    let router = router(mesh.node(0), Arc::default());
    let mut request = Request::get("/api/v1/cluster")
        .header("host", "rebound.example:9443")
        .body(Body::empty())
        .unwrap();
    let peer = Peer { address: "127.0.0.1:1".parse().unwrap(), secure: false };
    request.extensions_mut().insert(peer);
    assert_eq!(router.oneshot(request).await.unwrap().status(), 403);
}

#[tokio::test]
async fn an_offer_at_home_is_answered_and_its_session_deleted() {
    let client = Client::new().await;
    let answer = client.offer("/whep/cam", OFFER).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert!(answer.body.starts_with("v=0") && answer.body.contains("a=candidate:"));
    assert_eq!(answer.header("content-type"), "application/sdp");
    assert!(answer.header("etag").starts_with('"'));
    assert_eq!(answer.header("roost-node"), id_of(0).to_string());
    assert!(answer.header("access-control-expose-headers").contains("location"));
    let path = answer.header("location").strip_prefix("http://localhost:1").unwrap().to_owned();
    let session = path.rsplit('/').next().unwrap();
    let etag = answer.header("etag").trim_matches('"');
    assert!(etag.len() == 16 && !session.contains(etag), "{etag} gives nothing of {session} away");
    let fragment = [("content-type", "Application/Trickle-ICE-sdpfrag; charset=utf-8")];
    let trickle = "a=ice-ufrag:abcd\r\na=ice-pwd:x\r\n";
    assert_eq!(client.ask("PATCH", &path, &fragment, trickle).await.status, 204);
    let restart = "a=ice-ufrag:other\r\na=ice-pwd:x\r\n";
    assert_eq!(client.ask("PATCH", &path, &fragment, restart).await.status, 422);
    assert_eq!(client.ask("PATCH", &path, &[], trickle).await.status, 415);
    assert_eq!(client.ask("DELETE", &path, &[], "").await.status, 200);
    let node = client.mesh.node(0);
    let gone = async {
        while node.webrtc().legs() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
    assert_eq!(client.ask("DELETE", &path, &[], "").await.status, 404);
}

#[tokio::test]
async fn a_player_elsewhere_is_redirected_once() {
    let client = Client { number: 1, ..Client::new().await };
    let redirect = client.offer("/whep/cam", OFFER).await;
    assert_eq!(redirect.status, 307);
    let home = client.mesh.view.lock().unwrap().nodes[0].addrs[0].clone();
    let token = format!("rt-{}", id_of(0));
    assert_eq!(redirect.header("location"), format!("http://{home}/whep/cam?rt={token}"));
    let at_home = Client { number: 0, from: "192.0.2.1:1", mesh: client.mesh.clone() };
    let answer = at_home.offer(&format!("/whep/cam?rt={token}"), OFFER).await;
    assert_eq!(answer.status, 201, "the token stands for the credential");
    let own = format!("/whep/cam?rt=rt-{}", id_of(1));
    assert_eq!(client.offer(&own, OFFER).await.status, 201, "never redirected twice");
    assert_eq!(client.offer("/whep/cam?rt=stale", OFFER).await.status, 201, "nor with a bad token");
    let far = Client { number: 1, from: "192.0.2.1:1", mesh: client.mesh.clone() };
    assert_eq!(far.offer("/whep/cam?rt=stale", OFFER).await.status, 401);
}

#[tokio::test]
async fn a_node_that_leaves_sends_players_on_and_keeps_only_what_it_has() {
    let client = Client::new().await;
    let (home, next) = (client.mesh.node(0), client.mesh.node(1));
    home.draining.store(true, Ordering::Relaxed);
    let redirect = client.offer("/whep/cam", OFFER).await;
    assert_eq!(redirect.status, 307);
    let address = client.mesh.view.lock().unwrap().nodes[1].addrs[0].clone();
    assert!(redirect.header("location").starts_with(&format!("http://{address}/whep/cam?rt=")));
    let page = client.offer("/whep/cam?leg=home", OFFER).await;
    assert_eq!((page.status, page.header("roost-node")), (201, &*id_of(1).to_string()));
    let own = format!("/whep/cam?rt=rt-{}", id_of(0));
    for path in [&own, "/whep/cam?leg=here"] {
        let refused = client.offer(path, OFFER).await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, "1"), "{path}");
        assert!(refused.body.contains("leaving"), "{}", refused.body);
    }
    assert_eq!(client.offer("/whep/cam?leg=here&warm=1", OFFER).await.status, 201);
    let near_next = Client { number: 1, from: client.from, mesh: client.mesh.clone() };
    let at_next = near_next.offer("/whep/cam", OFFER).await;
    assert_eq!((at_next.status, at_next.header("roost-node")), (201, &*id_of(1).to_string()));
    next.draining.store(true, Ordering::Relaxed);
    let last = client.offer("/whep/cam", OFFER).await;
    assert_eq!(last.status, 201, "nobody is left to turn to: whoever is there serves");
    assert_eq!(home.webrtc().counters().leaving.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_node_with_all_the_sessions_it_can_have_says_when_to_come_back() {
    let client = Client::new().await;
    for _ in 0..MAX_LEGS {
        assert_eq!(client.offer("/whep/cam", OFFER).await.status, 201);
    }
    let full = client.offer("/whep/cam", OFFER).await;
    assert_eq!((full.status, full.header("retry-after")), (503, "5"), "{}", full.body);
}

#[tokio::test]
async fn of_two_encoders_with_one_name_all_speak_of_the_one_that_lives() {
    let client = Client::new().await;
    let living = EncoderId([10; 16]);
    client.mesh.change(|view| {
        let lost = &mut view.encoders[0];
        let other = EncoderView { id: living, ..lost.clone() };
        (lost.state, lost.home) = (EncoderState::Lost, None);
        view.encoders.push(other);
    });
    let view = client.mesh.node(0).view();
    let node = client.mesh.node(0);
    let local = backend::Principal::local();
    let mesh = visible::with(&*node, &local, |eyes| place::MeshState::of(eyes, &view));
    assert_eq!(mesh.streams.len(), 1);
    assert_eq!(mesh.streams[0].id, Some(living));
    let stream = visible::with(&*node, &local, |eyes| place::StreamState::of(eyes, &view, "cam"));
    assert_eq!(stream.place, mesh.streams[0]);
    let item = client.get("/api/v1/encoders/cam").await;
    let item: serde_json::Value = serde_json::from_str(&item.body).unwrap();
    assert_eq!(item["id"], living.to_string());
    let lost = client.get(&format!("/api/v1/encoders/{}", fake::CAM)).await;
    assert!(lost.body.contains("lost"), "by id each can be had: {}", lost.body);
    assert_eq!(client.offer("/whep/cam", OFFER).await.status, 201);
}

#[tokio::test]
async fn a_page_gets_its_leg_at_the_node_it_names() {
    let client = Client { number: 1, ..Client::new().await };
    for (query, node) in [("leg=home", 0), ("leg=next&warm=1", 1), ("leg=here", 1)] {
        let answer = client.offer(&format!("/whep/cam?{query}"), OFFER).await;
        assert_eq!(answer.status, 201, "{query}");
        assert_eq!(answer.header("roost-node"), id_of(node).to_string(), "{query}");
    }
    assert_eq!(client.offer("/whep/cam?leg=nowhere", OFFER).await.status, 400);
}

#[tokio::test]
async fn what_cannot_be_watched_is_said_in_words() {
    let client = Client::new().await;
    assert_eq!(client.offer("/whep/other", OFFER).await.status, 404);
    assert_eq!(client.offer("/whep/cam", "hello").await.status, 400);
    let av1 = OFFER.replace("H264", "AV1");
    assert_eq!(client.offer("/whep/cam", &av1).await.status, 406);
    let sending = OFFER.replace("recvonly", "sendonly");
    assert_eq!(client.offer("/whep/cam", &sending).await.status, 422);
    let long = format!("{OFFER}{}", " ".repeat(MAX_OFFER));
    assert_eq!(client.offer("/whep/cam", &long).await.status, 413);
    client.mesh.change(|view| {
        view.encoders[0].state = EncoderState::NoSignal;
        view.encoders[0].reason = Some("the camera went away".to_owned());
    });
    let silent = client.offer("/whep/cam", OFFER).await;
    assert_eq!((silent.status, silent.header("retry-after")), (409, "2"));
    assert!(silent.body.contains("the camera went away"));
    client.mesh.change(|view| {
        view.encoders[0].state = EncoderState::Live;
        view.encoders[0].native_only = true;
        view.encoders[0].reason = Some("H.265 is for native viewers".to_owned());
    });
    let native = client.offer("/whep/cam", OFFER).await;
    assert_eq!(native.status, 415);
    assert!(native.body.contains("H.265 is for native viewers"));
}

#[tokio::test]
async fn an_offer_waits_for_a_home_that_is_about_to_be() {
    let client = Client::new().await;
    let home = client.mesh.view.lock().unwrap().encoders[0].home.take();
    let mesh = client.mesh.clone();
    let later = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        mesh.change(|view| view.encoders[0].home = home);
    };
    let (answer, ()) = tokio::join!(client.offer("/whep/cam", OFFER), later);
    assert_eq!(answer.status, 201);
}

/// What a publisher offers.
fn publication() -> String {
    OFFER.replace("a=recvonly", "a=sendonly\r\na=ssrc:11 cname:x")
}

#[tokio::test]
async fn a_publisher_gets_a_session_that_it_can_end() {
    let client = Client::new().await;
    let answer = client.offer("/whip/door?token=good", &publication()).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert!(answer.body.contains("a=recvonly") && answer.body.contains("a=candidate"));
    assert!(answer.header("etag").starts_with('"'));
    let session = answer.header("location").strip_prefix("http://localhost:1").unwrap().to_owned();
    assert!(session.starts_with("/whip/door/") && !session.contains('?'), "{session}");
    let fragment = [("content-type", "application/trickle-ice-sdpfrag")];
    assert_eq!(client.ask("PATCH", &session, &fragment, "a=ice-ufrag:abcd\r\n").await.status, 204);
    assert_eq!(client.ask("PATCH", &session, &fragment, "a=ice-ufrag:zzzz\r\n").await.status, 422);
    assert_eq!(client.ask("DELETE", &session, &[], "").await.status, 200);
    let preflight = client.ask("OPTIONS", "/whip/door", &[("origin", "https://x.example")], "");
    let preflight = preflight.await;
    assert_eq!((preflight.status, preflight.header("accept-post")), (204, "application/sdp"));
}

#[tokio::test]
async fn a_publisher_may_name_a_domain() {
    let client = Client::new().await;
    let answer = client.offer("/whip/default%2Fdoor", &publication()).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let session = answer.header("location").strip_prefix("http://localhost:1").unwrap();
    assert!(session.starts_with("/whip/default%2Fdoor/"), "{session}");
    assert_eq!(client.ask("DELETE", session, &[], "").await.status, 200);
    let elsewhere = client.offer("/whip/nowhere%2Fdoor", &publication()).await;
    assert_eq!(elsewhere.status, 404, "{}", elsewhere.body);
}

#[tokio::test]
async fn what_cannot_be_published_is_said_in_words() {
    let client = Client::new().await;
    let offer = publication();
    for (path, offer, status) in [
        ("/whip/door", OFFER.to_owned(), 422),
        ("/whip/door", "hello".to_owned(), 400),
        ("/whip/door", offer.replace("H264", "VP8"), 406),
        ("/whip/door", offer.replace("packetization-mode=1", "packetization-mode=0"), 406),
        ("/whip/door", format!("{offer}{}", " ".repeat(MAX_OFFER)), 413),
        ("/whip/A%20door", offer.clone(), 400),
        ("/whip/door?token=bad", offer.clone(), 403),
        ("/whip/cam", offer.clone(), 409),
    ] {
        let answer = client.offer(path, &offer).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }
    let json = [("content-type", "application/json")];
    assert_eq!(client.ask("POST", "/whip/door", &json, &offer).await.status, 415);
    let far = Client { number: 0, from: "192.0.2.1:1", mesh: client.mesh.clone() };
    assert_eq!(far.offer("/whip/door", &offer).await.status, 401);
}

#[tokio::test]
async fn a_node_that_leaves_sends_publishers_on_once() {
    let client = Client::new().await;
    client.mesh.node(0).draining.store(true, Ordering::Relaxed);
    let redirect = client.offer("/whip/door", &publication()).await;
    assert_eq!(redirect.status, 307);
    let address = client.mesh.view.lock().unwrap().nodes[1].addrs[0].clone();
    let token = format!("rt-{}", id_of(1));
    assert_eq!(redirect.header("location"), format!("http://{address}/whip/door?rt={token}"));
    let there = Client { number: 1, from: "192.0.2.1:1", mesh: client.mesh.clone() };
    let answer = there.offer(&format!("/whip/door?rt={token}"), &publication()).await;
    assert_eq!(answer.status, 201, "the token stands for the credential");
    let again = client.offer("/whip/door?rt=stale", &publication()).await;
    assert_eq!((again.status, again.header("retry-after")), (503, "1"), "{}", again.body);
}

#[tokio::test]
async fn a_full_node_sends_publishers_on_and_says_so_if_all_are_full() {
    let client = Client::new().await;
    client.mesh.change(|view| view.nodes[0].encoders = crate::directory::ENTRIES_MAX as u32);
    assert_eq!(client.offer("/whip/door", &publication()).await.status, 307);
    client.mesh.change(|view| view.nodes[1].encoders = crate::directory::ENTRIES_MAX as u32);
    let refused = client.offer("/whip/door", &publication()).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "5"), "{}", refused.body);
}

#[tokio::test]
async fn preflight_requests_are_answered() {
    let client = Client::new().await;
    let answer = client.ask("OPTIONS", "/whep/cam", &[("origin", "https://x.example")], "").await;
    assert_eq!((answer.status, answer.header("accept-post")), (204, "application/sdp"));
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert!(answer.header("access-control-allow-headers").contains("authorization"));
    let answer = client.ask("OPTIONS", "/api/v1/accounts/x", &[], "").await;
    assert!(answer.header("access-control-allow-methods").contains("PUT"));
    for header in ["if-match", "if-none-match", "roost-wait", "roost-min-version"] {
        assert!(answer.header("access-control-allow-headers").contains(header), "{header}");
    }
    assert!(answer.header("access-control-expose-headers").contains("roost-version"));
}

#[tokio::test]
async fn invitations_have_limits() {
    let client = Client::new().await;
    let made = client.ask("POST", "/api/v1/invitations", &[], r#"{"uses":3,"client":true}"#).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert!(made.body.contains(r#""invitation":"roost1-3-3600-true""#), "{}", made.body);
    assert!(made.body.contains("enrolment"), "it can be ended: {}", made.body);
    for (body, status) in [
        (r#"{"uses":0}"#, 422),
        (r#"{"expires_s":999999999}"#, 422),
        (r#"{"use":1}"#, 400),
        ("[", 400),
    ] {
        let answer = client.ask("POST", "/api/v1/invitations", &[], body).await;
        assert_eq!(answer.status, status, "{body}");
    }
}

#[tokio::test]
async fn nobody_gets_only_what_is_open_to_everybody() {
    let mesh = FakeMesh::start(1).await;
    let router = router(mesh.node(0), Arc::default());
    for (path, status) in [("/healthcheck", 200), ("/api/v1/cluster", 401), ("/metrics", 401)] {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(backend::Principal::default());
        assert_eq!(router.clone().oneshot(request).await.unwrap().status(), status, "{path}");
    }
}

#[tokio::test]
async fn an_event_stream_begins_with_a_snapshot_and_tells_changes() {
    let mesh = FakeMesh::start(2).await;
    let router = router(mesh.node(1), Arc::default());
    let mut request = Request::get("/api/v1/streams/cam/events").body(Body::empty()).unwrap();
    request.extensions_mut().insert(backend::Principal::local());
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut next = async || loop {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap();
        let text = String::from_utf8(frame.unwrap().unwrap().into_data().unwrap().into()).unwrap();
        if let Some((_, data)) = text.split_once("data:") {
            assert!(text.starts_with("event: place\n"));
            break serde_json::from_str::<serde_json::Value>(data.trim()).unwrap();
        }
    };
    let first = next().await;
    assert_eq!(first["home"], id_of(0).to_string());
    assert_eq!(first["next"], id_of(1).to_string());
    assert_eq!(first["epoch"], "1.ffffffffffffffff");
    assert_eq!(first["nodes"].as_array().unwrap().len(), 2);
    mesh.change(|view| view.encoders[0].home = Some(id_of(1)));
    assert_eq!(next().await["home"], id_of(1).to_string());
}

#[tokio::test]
async fn static_files_are_cached_by_their_content_and_run_nothing_foreign() {
    let client = Client::new().await;
    for path in ["/", "/records", "/watch/cam", "/assets/player.js", "/assets/style.css"] {
        let file = client.get(path).await;
        assert_eq!(file.status, 200, "{path}");
        assert!(file.header("content-security-policy").contains("default-src 'none'"));
        let etag = [("if-none-match", file.header("etag"))];
        assert_eq!(client.ask("GET", path, &etag, "").await.status, 304, "{path}");
    }
    assert_eq!(client.get("/assets/..%2fmod.rs").await.status, 404);
}

#[tokio::test]
async fn metrics_come_in_both_formats() {
    let client = Client::new().await;
    client.get("/api/v1/cluster").await;
    let classic = client.get("/metrics").await;
    assert!(classic.header("content-type").starts_with("text/plain"));
    assert!(classic.body.contains("roost_members{state=\"alive\"} 2"), "{}", classic.body);
    assert!(classic.body.contains("# TYPE roost_webrtc_offers_total counter"));
    assert!(!classic.body.contains("# EOF"));
    let open = [("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")];
    let open = client.ask("GET", "/metrics", &open, "").await;
    assert!(open.body.ends_with("# EOF\n"));
    assert!(open.body.contains("# TYPE roost_webrtc_offers counter"));
}

#[tokio::test]
async fn one_port_speaks_https_and_plain_http_to_this_machine() {
    let mesh = FakeMesh::start(1).await;
    let address = mesh.view.lock().unwrap().nodes[0].addrs[0].clone();
    let mut plain = tokio::net::TcpStream::connect(&address).await.unwrap();
    plain.write_all(b"GET /healthcheck HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    plain.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.0 200") && text.ends_with(r#"{"status":200}"#), "{text}");

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone))
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut secure = connector.connect(name, stream).await.unwrap();
    let request = b"GET /healthcheck HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    secure.write_all(request).await.unwrap();
    let mut text = String::new();
    secure.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with(r#"{"status":200}"#), "{text}");
}

#[test]
fn a_made_certificate_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    tls::load_or_make(folder.path(), &["192.0.2.7".to_owned(), "n1.example".to_owned()]).unwrap();
    let first = std::fs::read(folder.path().join(tls::CERTIFICATE_FILE)).unwrap();
    tls::load_or_make(folder.path(), &[]).unwrap();
    assert_eq!(std::fs::read(folder.path().join(tls::CERTIFICATE_FILE)).unwrap(), first);
    std::fs::write(folder.path().join(tls::KEY_FILE), "nonsense").unwrap();
    let error = tls::load_or_make(folder.path(), &[]).unwrap_err();
    assert!(error.to_string().contains("web.key"), "{error}");
}

#[derive(Debug)]
struct TrustAnyone;

impl rustls::client::danger::ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
