//! Every route, by everyone: nothing is reachable without the right to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::auth::Peer;
use super::backend::Principal;
use super::fake::{CAM, FakeMesh};
use super::tests::OFFER;
use super::{Backend as _, router};
use crate::access::{Right, Who};
use crate::accounts::{Change, Key, Kind};
use crate::id::{AccountId, EncoderId, RecordId};

const SITE: RecordId = RecordId([1; 16]);
const OTHER: RecordId = RecordId([2; 16]);
const PASSWORD: &str = "correct horse battery";

/// Who asks. All but the last three show a credential that is good.
const EVERYONE: [&str; 8] =
    ["nobody", "bad", "norights", "foreigner", "viewer", "operator", "siteadmin", "admin"];

/// A mesh with the encoder `site/cam`, and people of every kind.
async fn mesh() -> Arc<FakeMesh> {
    let mesh = FakeMesh::start(2).await;
    let set = |field, value: &[u8]| Change::Set(field, value.to_vec());
    let key = |kind, id| Key { kind, id: RecordId(id) };
    mesh.write(key(Kind::DOMAIN, SITE.0), &[set(1, b"site")]);
    mesh.write(key(Kind::DOMAIN, OTHER.0), &[set(1, b"other")]);
    mesh.write(key(Kind::ENCODER, CAM.0), &[set(1, b"cam"), set(3, &SITE.0)]);
    let hash = mesh.node(0).passwords().hash(PASSWORD.into()).await.unwrap();
    for (number, name, domain, rule) in [
        (10, "norights", Some(SITE), None),
        (11, "foreigner", Some(OTHER), Some((Right::Operate, Some(OTHER)))),
        (12, "viewer", Some(SITE), Some((Right::View, Some(SITE)))),
        (13, "operator", Some(SITE), Some((Right::Operate, Some(SITE)))),
        (14, "siteadmin", Some(SITE), Some((Right::Administer, Some(SITE)))),
        (15, "admin", None, Some((Right::Administer, None))),
    ] {
        let id = [number; 16];
        let mut account = vec![set(1, name.as_bytes()), set(4, hash.as_bytes())];
        account.extend(domain.map(|domain| set(3, &domain.0)));
        mesh.write(key(Kind::ACCOUNT, id), &account);
        if let Some((right, domain)) = rule {
            let mut rule = vec![set(1, name.as_bytes()), set(4, right.role().as_bytes())];
            rule.extend([set(5, &[1]), Change::Add(2, id.to_vec())]);
            rule.extend(domain.map(|domain| set(3, &domain.0)));
            mesh.write(key(Kind::RULE, id), &rule);
        }
        mesh.know(name, principal(&mesh, id, name));
    }
    mesh
}

fn principal(mesh: &FakeMesh, id: [u8; 16], name: &str) -> Principal {
    let account = AccountId(id);
    let proof = mesh.rights.read().unwrap().password_of(account).unwrap();
    Principal::new(Who::Account(account), name).with_proof(proof)
}

struct Asked {
    status: u16,
    retry_after: Option<String>,
    body: String,
}

impl Asked {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A request of somebody from elsewhere; what comes of an event stream is cut off soon.
async fn ask(mesh: &FakeMesh, who: &str, method: &str, path: &str, body: &str) -> Asked {
    ask_from(mesh, "192.0.2.1:1", who, method, path, body).await
}

async fn ask_from(
    mesh: &FakeMesh,
    from: &str,
    who: &str,
    method: &str,
    path: &str,
    body: &str,
) -> Asked {
    let router = router(mesh.node(0), Arc::default());
    ask_router(router, from, who, method, path, body).await
}

async fn ask_router(
    router: axum::Router,
    from: &str,
    who: &str,
    method: &str,
    path: &str,
    body: &str,
) -> Asked {
    let offers = path.starts_with("/whep/") || path.starts_with("/whip/");
    let kind = if offers { "application/sdp" } else { "application/json" };
    let mut request = Request::builder().method(method).uri(path).header("content-type", kind);
    if who != "nobody" {
        request = request.header("authorization", format!("Bearer {who}"));
    }
    let mut request = request.body(Body::from(body.to_owned())).unwrap();
    request.extensions_mut().insert(Peer { address: from.parse().unwrap(), secure: true });
    let (parts, mut body) = router.oneshot(request).await.unwrap().into_parts();
    let mut text = String::new();
    let begins = async {
        while let Some(Ok(frame)) = body.frame().await {
            text.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap_or_default()));
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(300), begins).await;
    let retry_after = parts.headers.get("retry-after").map(|v| v.to_str().unwrap().to_owned());
    Asked { status: parts.status.as_u16(), retry_after, body: text }
}

/// What comes of each request, for [`EVERYONE`] in that order; the route that it goes through.
const ROUTES: &[(&str, &str, &str, [u16; 8])] = &[
    // Open to all: no data in it.
    ("/healthcheck", "GET", "/healthcheck", [200; 8]),
    ("/livez", "GET", "/livez", [200; 8]),
    ("/readyz", "GET", "/readyz", [200; 8]),
    ("/", "GET", "/", [200; 8]),
    ("/watch/{name}", "GET", "/watch/cam", [200; 8]),
    ("/records", "GET", "/records", [200; 8]),
    ("/assets/{file}", "GET", "/assets/style.css", [200; 8]),
    ("/api/v1/login", "POST", "/api/v1/login", [400; 8]),
    ("/api/v1/openapi.json", "GET", "/api/v1/openapi.json", [200; 8]),
    // Whoever has the session's unguessable URL; nobody has this one.
    ("/whep/{name}/{leg}", "DELETE", "/whep/cam/none", [404; 8]),
    ("/whep/{name}/{leg}", "PATCH", "/whep/cam/none", [404; 8]),
    ("/whip/{name}/{leg}", "DELETE", "/whip/cam/none", [404; 8]),
    ("/whip/{name}/{leg}", "PATCH", "/whip/cam/none", [404; 8]),
    // For whoever is known; what is in it depends on what they see.
    ("/api/v1/me", "GET", "/api/v1/me", [401, 403, 200, 200, 200, 200, 200, 200]),
    ("/api/v1/audit", "GET", "/api/v1/audit", KNOWN),
    ("/api/v1/cluster", "GET", "/api/v1/cluster", [401, 403, 200, 200, 200, 200, 200, 200]),
    ("/api/v1/viewers", "GET", "/api/v1/viewers", [401, 403, 200, 200, 200, 200, 200, 200]),
    ("/api/v1/events", "GET", "/api/v1/events", [401, 403, 200, 200, 200, 200, 200, 200]),
    (
        "/api/v1/streams/{name}/events",
        "GET",
        "/api/v1/streams/site%2Fcam/events",
        [401, 403, 200, 200, 200, 200, 200, 200],
    ),
    ("/whep/{name}", "GET", "/whep/cam", [401, 403, 200, 200, 200, 200, 200, 200]),
    ("/whip/{name}", "GET", "/whip/cam", [401, 403, 200, 200, 200, 200, 200, 200]),
    (
        "/api/v1/me/password",
        "POST",
        "/api/v1/me/password",
        [401, 403, 400, 400, 400, 400, 400, 400],
    ),
    // What is somebody's.
    (
        "/api/v1/encoders/{id}/keys",
        "GET",
        "/api/v1/encoders/site%2Fcam/keys",
        [401, 403, 404, 404, 403, 200, 200, 200],
    ),
    (
        "/api/v1/encoders/{id}/keys",
        "POST",
        "/api/v1/encoders/site%2Fcam/keys",
        [401, 403, 404, 404, 403, 201, 201, 201],
    ),
    (
        "/api/v1/encoders/{id}/keys/{prefix}",
        "DELETE",
        "/api/v1/encoders/site%2Fcam/keys/none",
        [401, 403, 404, 404, 403, 404, 404, 404],
    ),
    ("/whep/{name}", "POST", "/whep/site%2Fcam", [401, 403, 404, 404, 400, 400, 400, 400]),
    ("/whip/{name}", "POST", "/whip/site%2Fcam", [401, 403, 404, 404, 403, 400, 400, 400]),
    ("/metrics", "GET", "/metrics", [401, 403, 403, 403, 403, 403, 403, 200]),
    // It holds every secret's hash: only at the node's own machine.
    ("/api/v1/backup", "POST", "/api/v1/backup", [401, 403, 403, 403, 403, 403, 403, 403]),
    (
        "/api/v1/invitations",
        "POST",
        "/api/v1/invitations",
        [401, 403, 403, 403, 403, 403, 403, 201],
    ),
    (
        "/api/v1/accounts/{id}/password",
        "PUT",
        "/api/v1/accounts/site%2Fviewer/password",
        [401, 403, 404, 404, 403, 404, 400, 400],
    ),
    (
        "/api/v1/nodes/{id}/revocation",
        "POST",
        "/api/v1/nodes/01010101010101010101010101010101/revocation",
        [401, 403, 403, 403, 403, 403, 403, 204],
    ),
    (
        "/api/v1/nodes/{id}/revocation",
        "DELETE",
        "/api/v1/nodes/01010101010101010101010101010101/revocation",
        [401, 403, 403, 403, 403, 403, 403, 204],
    ),
    (
        "/api/v1/nodes/{id}/key",
        "POST",
        "/api/v1/nodes/01010101010101010101010101010101/key",
        [401, 403, 403, 403, 403, 403, 403, 204],
    ),
    (
        "/api/v1/nodes/{id}/drain",
        "GET",
        "/api/v1/nodes/01010101010101010101010101010101/drain",
        [401, 403, 403, 403, 403, 403, 403, 200],
    ),
    (
        "/api/v1/plan",
        "GET",
        "/api/v1/plan?lose=1&add=new",
        [401, 403, 403, 403, 403, 403, 403, 200],
    ),
    (
        "/api/v1/encoders/{id}/move",
        "POST",
        "/api/v1/encoders/site%2Fcam/move",
        [401, 403, 404, 404, 403, 403, 403, 400],
    ),
    (
        "/api/v1/encoders/{id}/why",
        "GET",
        "/api/v1/encoders/site%2Fcam/why",
        [401, 403, 404, 404, 200, 200, 200, 200],
    ),
    // A copy of everything is for whoever is at the machine.
    ("/api/v1/backup", "POST", "/api/v1/backup", [401, 403, 403, 403, 403, 403, 403, 403]),
];

/// The same for records: by noun and id, what reading it and changing it without a condition come to.
const RECORDS: &[(&str, &str, [u16; 8], [u16; 8])] = &[
    (
        "domains",
        "01010101010101010101010101010101",
        [401, 403, 200, 404, 200, 200, 200, 200],
        [401, 403, 403, 404, 403, 403, 403, 428],
    ),
    (
        "accounts",
        "0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c",
        [401, 403, 404, 404, 200, 404, 200, 200],
        [401, 403, 404, 404, 403, 404, 428, 428],
    ),
    (
        "rules",
        "0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c",
        [401, 403, 404, 404, 404, 404, 200, 200],
        [401, 403, 404, 404, 404, 404, 428, 428],
    ),
    (
        "encoders",
        "site%2Fcam",
        [401, 403, 404, 404, 200, 200, 200, 200],
        [401, 403, 404, 404, 403, 428, 428, 428],
    ),
    (
        "nodes",
        "01010101010101010101010101010101",
        [401, 403, 404, 404, 404, 404, 404, 200],
        [401, 403, 404, 404, 404, 404, 404, 428],
    ),
    ("groups", "none", NOTHING, NOTHING),
    ("rooms", "none", NOTHING, NOTHING),
    ("pools", "none", NOTHING, NOTHING),
    ("alarms", "none", NOTHING, NOTHING),
    ("settings", "none", NOTHING, NOTHING),
    ("enrolments", "none", NOTHING, NOTHING),
];
const NOTHING: [u16; 8] = [401, 403, 404, 404, 404, 404, 404, 404];
const KNOWN: [u16; 8] = [401, 403, 200, 200, 200, 200, 200, 200];

type Row = (String, &'static str, String, [u16; 8]);

/// All of it.
fn table() -> Vec<Row> {
    let rows = ROUTES.iter();
    let mut all: Vec<Row> = rows
        .map(|(route, method, path, of)| ((*route).into(), *method, (*path).into(), *of))
        .collect();
    for (noun, id, reads, writes) in RECORDS {
        let list = format!("/api/v1/{noun}");
        let (route, path) = (format!("{list}/{{id}}"), format!("{list}/{id}"));
        all.push((list.clone(), "GET", list, KNOWN));
        all.push((route.clone(), "GET", path.clone(), *reads));
        all.push((format!("{route}/history"), "GET", format!("{path}/history"), *reads));
        for method in ["PATCH", "DELETE"] {
            all.push((route.clone(), method, path.clone(), *writes));
        }
        // With an id of one's own: whether it is there is not told without a condition.
        let mut puts = [428; 8];
        (puts[0], puts[1]) = (401, 403);
        let put = format!("/api/v1/{noun}/{}", "0d".repeat(16));
        // Inviting makes them.
        if *noun != "enrolments" {
            all.push((route, "PUT", put, puts));
        }
    }
    all
}

/// Every method of every route.
fn routes() -> BTreeSet<(String, String)> {
    let all = super::routes::all().into_iter();
    all.map(|route| (route.path, route.method.to_uppercase())).collect()
}

#[tokio::test]
async fn every_route_answers_everyone_as_their_rights_say() {
    let all = table();
    let table: BTreeSet<_> =
        all.iter().map(|(route, method, ..)| (route.clone(), (*method).to_owned())).collect();
    let routes = routes();
    assert!(routes.len() > 20, "{routes:?}");
    let missing: Vec<_> = routes.symmetric_difference(&table).collect();
    assert!(missing.is_empty(), "routes and this table differ in {missing:?}");
    let mesh = mesh().await;
    for (_, method, path, expected) in &all {
        for (who, expected) in EVERYONE.iter().zip(expected) {
            let answer = ask(&mesh, who, method, path, "").await;
            assert_eq!(answer.status, *expected, "{who}: {method} {path}: {}", answer.body);
            if *who == "foreigner" || *who == "norights" {
                let told = answer.body.replace("site/cam", "").replace("site%2Fcam", "");
                let names = told.contains("cam\"") || told.contains(&CAM.to_string());
                assert!(!names, "{who} is told of it by {method} {path}: {}", answer.body);
            }
        }
    }
}

#[tokio::test]
async fn what_is_counted_is_what_is_seen() {
    let mesh = mesh().await;
    mesh.change(|view| {
        view.encoders[0].viewers = 3;
        view.nodes[0].encoders = 1;
        view.nodes[0].viewers = 3;
        view.nodes[0].report = Some(crate::cluster::NodeReport::default());
    });
    for (who, encoders, viewers, report) in [
        ("foreigner", 0, 0, false),
        ("viewer", 1, 3, false),
        ("siteadmin", 1, 3, false),
        ("admin", 1, 3, true),
    ] {
        let view = ask(&mesh, who, "GET", "/api/v1/cluster", "").await.json();
        assert_eq!(view["encoders"].as_array().unwrap().len(), encoders, "{who}");
        let home = &view["nodes"][0];
        assert_eq!((&home["encoders"], &home["viewers"]), (&encoders.into(), &viewers.into()));
        assert_eq!(!home["report"].is_null(), report, "{who}");
    }
}

#[tokio::test]
async fn a_name_is_looked_for_in_the_own_domain_first_and_never_where_one_sees_nothing() {
    let mesh = mesh().await;
    // The same name in the default domain.
    let open = EncoderId([20; 16]);
    mesh.change(|view| {
        let other = crate::cluster::EncoderView { id: open, ..view.encoders[0].clone() };
        view.encoders.push(other);
    });
    for (who, name, found) in [
        ("viewer", "cam", Some(CAM)),
        ("viewer", "site%2Fcam", Some(CAM)),
        ("viewer", "default%2Fcam", None),
        ("foreigner", "cam", None),
        ("foreigner", "site%2Fcam", None),
        ("admin", "cam", Some(open)),
        ("admin", "site%2Fcam", Some(CAM)),
        ("good", "cam", Some(open)),
    ] {
        let answer = ask(&mesh, who, "GET", &format!("/api/v1/encoders/{name}"), "").await;
        let id = (answer.status == 200).then(|| answer.json()["id"].as_str().unwrap().to_owned());
        assert_eq!(id, found.map(|id| id.to_string()), "{who} {name}");
    }
    let wall = ask(&mesh, "admin", "GET", "/api/v1/events", "").await.body;
    assert!(wall.contains(r#""name":"site/cam""#) && wall.contains(r#""name":"cam""#), "{wall}");
}

#[tokio::test]
async fn an_event_stream_ends_when_its_reader_is_nobody_any_more() {
    let mesh = mesh().await;
    let router = router(mesh.node(0), Arc::default());
    for (path, name) in [("/api/v1/events", "viewer"), ("/api/v1/streams/cam/events", "operator")] {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        let id = if name == "viewer" { [12; 16] } else { [13; 16] };
        request.extensions_mut().insert(principal(&mesh, id, name));
        let mut body = router.clone().oneshot(request).await.unwrap().into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(String::from_utf8_lossy(&first).contains("cam"), "{first:?}");
        let key = Key { kind: Kind::ACCOUNT, id: RecordId(id) };
        mesh.write(key, &[Change::Disable]);
        let mut text = String::new();
        let rest = async {
            while let Some(Ok(frame)) = body.frame().await {
                text.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap_or_default()));
            }
        };
        tokio::time::timeout(Duration::from_secs(1), rest).await.expect("it ends");
        assert!(text.contains("event: end") && text.contains("sign-in is over"), "{text}");
    }
}

#[tokio::test]
async fn a_stream_that_somebody_may_see_no_more_vanishes_from_their_events() {
    let mesh = mesh().await;
    let router = router(mesh.node(0), Arc::default());
    let mut request = Request::get("/api/v1/events").body(Body::empty()).unwrap();
    request.extensions_mut().insert(principal(&mesh, [12; 16], "viewer"));
    let mut body = router.oneshot(request).await.unwrap().into_body();
    let mut next = async || {
        let frame = tokio::time::timeout(Duration::from_secs(1), body.frame()).await.expect("news");
        String::from_utf8_lossy(&frame.unwrap().unwrap().into_data().unwrap()).into_owned()
    };
    assert!(next().await.contains("site/cam"));
    mesh.write(Key { kind: Kind::RULE, id: RecordId([12; 16]) }, &[Change::Delete]);
    assert!(!next().await.contains("cam"));
}

#[tokio::test]
async fn a_leg_ends_when_its_viewer_may_watch_no_more() {
    let mesh = mesh().await;
    for change in [
        (Key { kind: Kind::RULE, id: RecordId([12; 16]) }, Change::Disable),
        (Key { kind: Kind::ACCOUNT, id: RecordId([13; 16]) }, Change::Set(4, b"other".to_vec())),
        (Key { kind: Kind::ENCODER, id: RecordId(CAM.0) }, Change::Disable),
    ] {
        for (who, path) in [
            ("viewer", "/whep/site%2Fcam?leg=here"),
            ("operator", "/whep/site%2Fcam"),
            ("siteadmin", "/whep/cam"),
        ] {
            let _maybe = ask(&mesh, who, "POST", path, OFFER).await;
        }
        let node = mesh.node(0);
        let before = node.webrtc().legs();
        assert!(before > 0);
        mesh.write(change.0, &[change.1]);
        let fewer = async {
            while node.webrtc().legs() >= before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(1), fewer).await.expect("a leg ends in time");
    }
    let answer = ask(&mesh, "admin", "POST", "/whep/site%2Fcam", OFFER).await;
    assert_eq!(answer.status, 404, "nobody watches an encoder that is out of use");
}

#[tokio::test]
async fn a_redirect_and_a_forwarded_offer_are_judged_again_where_they_lead() {
    let mesh = mesh().await;
    let far = router(mesh.node(1), Arc::default());
    let near = "127.0.0.1:1";
    let redirect = ask_router(far.clone(), near, "viewer", "POST", "/whep/cam", OFFER).await;
    assert_eq!(redirect.status, 307);
    // The fake's redirect tokens are for the client of the default domain, who does not see it.
    let token = format!("rt-{}", mesh.node(0).id);
    let path = format!("/whep/site%2Fcam?rt={token}");
    assert_eq!(ask(&mesh, "nobody", "POST", &path, OFFER).await.status, 404);
    let forwarded =
        ask_router(far, "192.0.2.1:1", "foreigner", "POST", "/whep/site%2Fcam?leg=home", OFFER);
    assert_eq!(forwarded.await.status, 404);
    let offer = crate::wire::Offer {
        encoder: CAM,
        sdp: OFFER.to_owned(),
        warm: true,
        principal: principal(&mesh, [11; 16], "foreigner"),
    };
    let refused = super::leg::accept(mesh.node(0), &offer).expect_err("whoever sent it here");
    assert_eq!(refused.status, 404);
}

#[tokio::test]
async fn somebody_logs_in_and_every_wrong_way_is_answered_alike() {
    let mesh = mesh().await;
    mesh.write(Key { kind: Kind::ACCOUNT, id: RecordId([10; 16]) }, &[Change::Disable]);
    let login = |name: &str, password: &str| {
        serde_json::json!({ "name": name, "password": password }).to_string()
    };
    let good = ask(&mesh, "nobody", "POST", "/api/v1/login", &login("site/viewer", PASSWORD)).await;
    assert_eq!(good.status, 200, "{}", good.body);
    let good = good.json();
    assert_eq!((&good["name"], &good["domain_name"]), (&"viewer".into(), &"site".into()));
    assert!(good["token"].as_str().is_some_and(|token| !token.is_empty()));
    let mut answers = BTreeSet::new();
    let mut times = Vec::new();
    for (name, password) in [
        ("site/viewer", "wrong horse battery"),
        ("site/nobody", PASSWORD),
        ("nowhere/viewer", PASSWORD),
        ("viewer", PASSWORD),
        ("site/norights", PASSWORD),
    ] {
        let begin = std::time::Instant::now();
        let answer = ask(&mesh, "nobody", "POST", "/api/v1/login", &login(name, password)).await;
        times.push(begin.elapsed());
        answers.insert((answer.status, answer.body));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers.first().map(|(status, _)| *status), Some(401));
    let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*most < *least * 20, "the same work for all: {times:?}");
    let echoed = ask(&mesh, "nobody", "POST", "/api/v1/login", r#""my secret""#).await;
    assert!(echoed.status == 400 && !echoed.body.contains("my secret"), "{}", echoed.body);
}

#[tokio::test]
async fn whoever_guesses_is_told_to_wait_and_it_is_counted() {
    let mesh = mesh().await;
    let router = router(mesh.node(0), Arc::default());
    let guess = async |from: &str, name: &str| {
        let body = serde_json::json!({ "name": name, "password": "a wrong guess" }).to_string();
        ask_router(router.clone(), from, "nobody", "POST", "/api/v1/login", &body).await
    };
    for _ in 0..super::login::NAME_ATTEMPTS {
        assert_eq!(guess("192.0.2.1:1", "site/viewer").await.status, 401);
    }
    let throttled = guess("198.51.100.7:1", "site/viewer").await;
    assert_eq!(throttled.status, 429, "from anywhere: {}", throttled.body);
    assert!(throttled.retry_after.unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(guess("198.51.100.7:1", "site/operator").await.status, 401);
    for number in super::login::NAME_ATTEMPTS..super::login::ADDRESS_ATTEMPTS {
        guess("192.0.2.1:1", &format!("site/no{number}")).await;
    }
    assert_eq!(guess("192.0.2.1:1", "site/another").await.status, 429, "nor any other name");
    let metrics =
        ask_router(router.clone(), "192.0.2.1:1", "admin", "GET", "/metrics", "").await.body;
    assert!(metrics.contains("roost_logins_total{result=\"throttled\"} 2"), "{metrics}");
    let good = serde_json::json!({ "name": "site/siteadmin", "password": PASSWORD }).to_string();
    for _ in 0..2 * super::login::NAME_ATTEMPTS {
        let from = "203.0.113.9:1";
        let answer = ask_router(router.clone(), from, "nobody", "POST", "/api/v1/login", &good);
        assert_eq!(answer.await.status, 200, "who is right is never slowed down");
    }
}

#[tokio::test]
async fn another_password_ends_what_the_old_one_opened() {
    let mesh = mesh().await;
    let change = |old: &str, new: &str| serde_json::json!({ "old": old, "new": new }).to_string();
    let path = "/api/v1/me/password";
    let wrong = ask(&mesh, "viewer", "POST", path, &change("not it at all", "another horse")).await;
    assert_eq!(wrong.status, 403);
    let short = ask(&mesh, "viewer", "POST", path, &change(PASSWORD, "short")).await;
    assert_eq!(short.status, 422, "{}", short.body);
    let done = ask(&mesh, "viewer", "POST", path, &change(PASSWORD, "another horse")).await;
    assert_eq!(done.status, 200, "{}", done.body);
    let token = done.json()["token"].as_str().unwrap().to_owned();
    let now = principal(&mesh, [12; 16], "viewer").proof;
    assert!(token.ends_with(&format!("-{now}")), "the answer is a new sign-in");
    let before = mesh.known.lock().unwrap()["viewer"].clone();
    assert!(!mesh.rights.read().unwrap().stands(&before, 0), "the one before is over");
    let given = serde_json::json!({ "password": "given by someone" }).to_string();
    let path = "/api/v1/accounts/site%2Foperator/password";
    assert_eq!(ask(&mesh, "siteadmin", "PUT", path, &given).await.status, 204);
    let login = serde_json::json!({ "name": "site/operator", "password": "given by someone" });
    let login = ask(&mesh, "nobody", "POST", "/api/v1/login", &login.to_string()).await;
    assert_eq!(login.status, 200, "{}", login.body);
}

#[tokio::test]
async fn everyone_is_told_who_they_are_and_what_they_may() {
    let mesh = mesh().await;
    let viewer = ask(&mesh, "viewer", "GET", "/api/v1/me", "").await.json();
    assert_eq!((&viewer["kind"], &viewer["domain_name"]), (&"account".into(), &"site".into()));
    assert_eq!(viewer["roles"][0]["role"], "viewer");
    assert_eq!(viewer["roles"][0]["domain_name"], "site");
    let admin = ask(&mesh, "admin", "GET", "/api/v1/me", "").await.json();
    assert_eq!(admin["roles"], serde_json::json!([{ "role": "admin", "mesh": true }]));
    let client = ask(&mesh, "good", "GET", "/api/v1/me", "").await.json();
    assert_eq!((&client["kind"], &client["domain_name"]), (&"client".into(), &"default".into()));
    assert_eq!(
        ask(&mesh, "norights", "GET", "/api/v1/me", "").await.json()["roles"],
        serde_json::json!([])
    );
}
