//! What people change at one node is at every node, and stays.

use serde_json::{Value, json};

use crate::harness::http::{Response, request};
use crate::harness::mesh::Mesh;
use crate::harness::node::Node;
use crate::harness::{PATIENCE, wait_until};

fn path(n: u8) -> String {
    format!("/api/v1/accounts/{}", format!("{n:02x}").repeat(16))
}

#[track_caller]
fn put(node: &Node, n: u8, headers: &[(&str, &str)], body: &Value) -> Response {
    request(node.addr(), "PUT", &path(n), headers, &body.to_string()).expect("it answers")
}

fn name(node: &Node, n: u8) -> Option<Value> {
    let answer = node.get(&path(n));
    (answer.status == 200).then(|| answer.json()["name"].clone())
}

#[test]
fn an_account_is_everywhere_and_survives_the_death_of_the_node_that_acknowledged_it() {
    let mut mesh = Mesh::start(3);
    let new = [("If-None-Match", "*"), ("Roost-Wait", "3")];
    let made = put(&mesh.nodes()[0], 1, &new, &json!({ "name": "ann" }));
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.header("roost-nodes"), Some("3"));
    assert!(mesh.nodes().iter().all(|node| name(node, 1) == Some(json!("ann"))));
    // Killed right after it acknowledged: nobody else need have heard of it.
    let made = put(&mesh.nodes()[0], 2, &new[..1], &json!({ "name": "bob" }));
    assert_eq!(made.status, 201, "{made:?}");
    mesh.node("n1").kill();
    mesh.node("n1").restart();
    wait_until(PATIENCE, "bob is everywhere", || {
        mesh.nodes().iter().all(|node| name(node, 2) == Some(json!("bob")))
    });
}

#[test]
fn nobody_overwrites_what_they_have_not_seen() {
    let mesh = Mesh::start(1);
    let node = &mesh.nodes()[0];
    assert_eq!(put(node, 1, &[], &json!({ "name": "ann" })).status, 428);
    let made = put(node, 1, &[("If-None-Match", "*")], &json!({ "name": "ann" }));
    let tag = made.header("etag").expect("it has one").to_owned();
    assert_eq!(put(node, 1, &[("If-None-Match", "*")], &json!({ "name": "x" })).status, 412);
    let again = put(node, 1, &[("If-Match", &tag)], &json!({ "name": "ann" }));
    assert_eq!((again.status, again.header("etag")), (200, Some(tag.as_str())), "nothing changed");
    let off = put(node, 1, &[("If-Match", &tag)], &json!({ "name": "ann", "disabled": true }));
    assert_eq!((off.status, &off.json()["disabled"]), (200, &json!(true)));
    assert_eq!(put(node, 1, &[("If-Match", &tag)], &json!({ "name": "x" })).status, 412);
    assert_eq!(put(node, 1, &[("If-Match", "*")], &json!({ "nme": "x" })).status, 422);
    let gone = request(node.addr(), "DELETE", &path(1), &[("If-Match", "*")], "");
    assert_eq!(gone.expect("it answers").status, 204);
    assert_eq!(node.get(&path(1)).status, 410);
}

#[test]
fn a_clients_credential_opens_no_accounts() {
    let mesh = Mesh::start(1);
    let node = &mesh.nodes()[0];
    let made = put(node, 1, &[("If-None-Match", "*")], &json!({ "name": "ann" }));
    assert_eq!(made.status, 201, "{made:?}");
    let bearer = format!("Bearer {}", node.invite_client());
    let shown = [("Authorization", bearer.as_str()), ("If-Match", "*")];
    for method in ["GET", "PUT", "PATCH", "DELETE"] {
        let refused = request(node.addr(), method, &path(1), &shown, r#"{"name":"x"}"#);
        assert_eq!(refused.expect("it answers").status, 404, "{method}");
    }
    let list = request(node.addr(), "GET", "/api/v1/accounts", &shown, "").expect("it answers");
    assert_eq!((list.status, &list.json()["items"]), (200, &json!([])));
    assert_eq!(name(node, 1), Some(json!("ann")));
}
