//! What balancers, watchdogs and Prometheus ask.

use crate::harness::http;
use crate::harness::mesh::Mesh;
use crate::harness::node::{Node, Options};
use crate::harness::process::run;
use crate::harness::{PATIENCE, wait_until};

#[test]
fn the_healthcheck_is_exactly_what_balancers_compare() {
    let node = Node::start(Options::named("n1"));
    let answer = node.get("/healthcheck");
    assert_eq!((answer.status, answer.body.as_str()), (200, "{\"status\":200}"));
    assert_eq!(node.get("/livez").body.trim(), "ok");
    assert_eq!(node.get("/readyz").status, 200);
}

#[test]
fn the_healthcheck_answers_head_and_requests_without_host() {
    let node = Node::start(Options::named("n1"));
    let head = http::request(node.addr(), "HEAD", "/healthcheck", &[], "").expect("it answers");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let bare =
        http::exchange(node.addr(), b"GET /healthcheck HTTP/1.0\r\n\r\n").expect("it answers");
    assert_eq!((bare.status, bare.body.as_str()), (200, "{\"status\":200}"));
}

#[test]
fn readiness_is_never_about_other_nodes() {
    let mut mesh = Mesh::start(2);
    mesh.node("n2").kill();
    wait_until(PATIENCE, "n2 is down", || mesh.others_say("n2", "down"));
    let left = &mesh.nodes()[0];
    assert_eq!(left.get("/readyz").status, 200);
    assert_eq!(left.get("/healthcheck").status, 200);
}

#[test]
fn metrics_tell_the_version_and_the_members() {
    let node = Node::start(Options::named("n1"));
    let answer = node.get("/metrics");
    assert_eq!(answer.status, 200);
    for series in ["roost_build_info{", "roost_members{state=\"alive\"} 1"] {
        assert!(answer.body.contains(series), "`{series}` is not in:\n{}", answer.body);
    }
}

#[test]
fn what_does_not_exist_is_a_404_with_words() {
    let node = Node::start(Options::named("n1"));
    let answer = node.get("/api/v1/nothing");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    assert!(problem["title"].is_string() || problem["detail"].is_string(), "{problem}");
}

#[test]
fn status_prints_tables_json_and_a_verdict() {
    let mut mesh = Mesh::start(2);
    let addrs = mesh.addrs();
    let tables = run(&["status", "--addr", &addrs]);
    assert_eq!(tables.code, Some(0), "{tables:?}");
    assert!(tables.stdout.contains("2 of 2 nodes up"), "{}", tables.stdout);
    assert!(!tables.stdout.contains('\u{1b}'), "no colour into a pipe");
    let json = run(&["status", "--json", "--addr", &addrs]);
    let view: serde_json::Value = serde_json::from_str(&json.stdout).expect("it is JSON");
    assert_eq!(view["nodes"].as_array().map(Vec::len), Some(2));
    assert_eq!(run(&["status", "--check", "--addr", &addrs]).code, Some(0));

    mesh.node("n2").kill();
    wait_until(PATIENCE, "n2 is down", || mesh.others_say("n2", "down"));
    let check = run(&["status", "--check", "--addr", &addrs]);
    assert_eq!(check.code, Some(8), "{check:?}");
    assert!(check.stderr.contains("n2 is down"), "{}", check.stderr);
}

#[test]
fn clients_are_invited_by_a_string_of_their_own() {
    let node = Node::start(Options::named("n1"));
    let enrolment = node.invite_client();
    let status = run(&["status", "--json", "--addr", &enrolment]);
    assert_eq!(status.code, Some(0), "{status:?}");
    let joining = Node::launch(Options::named("n2").join(&enrolment));
    let (code, words) = joining.refused(PATIENCE);
    assert_eq!(code, Some(78), "a client's string lets no node in: {words}");
}
