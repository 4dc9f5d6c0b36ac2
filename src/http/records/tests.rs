use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use crdts::CvRDT as _;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::access::{Principal, Who};
use crate::accounts::{Change, Expect, Key, Kind, Write};
use crate::cluster::EncoderState;
use crate::http::fake::{CAM, FakeMesh, id_of};
use crate::http::{openapi, router, routes};
use crate::id::{AccountId, NodeId, RecordId};

/// A tenant's domain, its administrator and its operator; another tenant; who has the mesh.
const ACME: &str = "0a000000000000000000000000000000";
const RIVAL: &str = "0b000000000000000000000000000000";
const ANN: &str = "01000000000000000000000000000000";
const OSCAR: &str = "02000000000000000000000000000000";
const RITA: &str = "03000000000000000000000000000000";
const ROOT: &str = "04000000000000000000000000000000";
const VERA: &str = "05000000000000000000000000000000";

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn names(&self) -> Vec<&str> {
        let items = self.body["items"].as_array().expect("a list");
        items.iter().map(|item| item["name"].as_str().unwrap_or("")).collect()
    }
}

struct Book {
    mesh: Arc<FakeMesh>,
}

fn account(id: &str) -> Who {
    Who::Account(id.parse().unwrap())
}

fn id_in(kind: u8, number: u8) -> String {
    RecordId([[kind, number].repeat(8)].concat().try_into().unwrap()).to_string()
}

impl Book {
    async fn start() -> Self {
        let book = Self { mesh: FakeMesh::start(2).await };
        for (noun, id, body) in [
            ("domains", ACME, json!({ "name": "acme" })),
            ("domains", RIVAL, json!({ "name": "rival" })),
            ("accounts", ANN, json!({ "name": "ann", "domain": "acme" })),
            ("accounts", OSCAR, json!({ "name": "oscar", "domain": "acme" })),
            ("accounts", RITA, json!({ "name": "rita", "domain": "rival" })),
            ("accounts", ROOT, json!({ "name": "root" })),
            ("accounts", VERA, json!({ "name": "vera" })),
        ] {
            book.make(noun, id, &body).await;
        }
        for id in [ANN, OSCAR, RITA, ROOT, VERA] {
            let key = Key { kind: Kind::ACCOUNT, id: id.parse().unwrap() };
            book.mesh.write(key, &[Change::Set(4, b"hash".to_vec())]);
        }
        for (number, name, domain, role, who) in [
            (1, "admins", json!("acme"), "admin", ANN),
            (2, "operators", json!("acme"), "operator", OSCAR),
            (3, "admins", json!("rival"), "admin", RITA),
            (4, "administrators", Value::Null, "admin", ROOT),
            (5, "viewers", json!("acme"), "viewer", VERA),
        ] {
            let rule = json!({ "name": name, "domain": domain, "role": role, "accounts": [who] });
            book.make("rules", &id_in(9, number), &rule).await;
        }
        book
    }

    /// Somebody who is signed in.
    fn principal(&self, who: &Who) -> Principal {
        let principal = Principal::new(who.clone(), "somebody");
        match who {
            Who::Account(account) => {
                let proof = self.mesh.rights.read().unwrap().password_of(*account);
                principal.with_proof(proof.unwrap_or_default())
            }
            _ => principal,
        }
    }

    async fn make(&self, noun: &str, id: &str, body: &Value) {
        let path = format!("/api/v1/{noun}/{id}");
        let made = self.create(&Who::Local, &path, body).await;
        assert_eq!(made.status, 201, "{path} {body}: {}", made.body);
    }

    async fn create(&self, who: &Who, path: &str, body: &Value) -> Answer {
        self.ask(who, "PUT", path, &[("if-none-match", "*")], body).await
    }

    async fn get(&self, who: &Who, path: &str) -> Answer {
        self.ask(who, "GET", path, &[], &Value::Null).await
    }

    async fn ask(
        &self,
        who: &Who,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let router = router(self.mesh.node(0), Arc::default());
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = request.body(Body::from(body)).unwrap();
        request.extensions_mut().insert(self.principal(who));
        let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// As if `node` had written it while it was cut off from a state of before.
    fn fork(&self, kind: Kind, id: &str) -> crate::accounts::Record {
        let key = Key { kind, id: id.parse().unwrap() };
        self.mesh.records.lock().unwrap()[&key].clone()
    }

    fn merge(&self, kind: Kind, id: &str, mut fork: crate::accounts::Record, change: Change) {
        let key = Key { kind, id: id.parse().unwrap() };
        let dot =
            crate::accounts::Dot { actor: crate::id::ActorId([77; 16]), seq: 1, nonce: [0; 4] };
        let by =
            crate::accounts::Stamp { account: ROOT.parse().unwrap(), node: id_of(1), wall: 5_000 };
        fork.apply(dot, by, &[change]).unwrap();
        let mut record = self.mesh.records.lock().unwrap()[&key].clone();
        record.merge(fork);
        self.mesh.put(key, record);
    }
}

#[tokio::test]
async fn every_kind_is_made_read_changed_and_removed_alike() {
    let book = Book::start().await;
    let local = &Who::Local;
    let camera = id_in(5, 1);
    book.make("groups", &id_in(2, 1), &json!({ "name": "guards", "accounts": ["root"] })).await;
    book.make("pools", &id_in(7, 1), &json!({ "name": "north", "nodes": ["n1"] })).await;
    let room = json!({ "name": "hall", "domain": "acme", "pools": ["north"] });
    book.make("rooms", &id_in(6, 1), &room).await;
    let encoder = json!({
        "name": "gate", "domain": "acme", "room": "hall", "pools": ["north"], "always_on": true,
        "labels": ["south", "door"],
    });
    book.make("encoders", &camera, &encoder).await;
    let alarm = json!({ "name": "lost", "when": "lost", "call": "ann", "disabled": true });
    book.make("alarms", &id_in(8, 1), &alarm).await;
    book.make("settings", &id_in(8, 2), &json!({ "name": "motd", "value": "hello" })).await;
    let shown = book.get(local, "/api/v1/encoders/acme%2Fgate").await;
    assert_eq!(shown.status, 200, "{}", shown.body);
    assert_eq!(shown.body["id"], camera);
    assert_eq!(shown.body["room"], id_in(6, 1));
    assert_eq!(shown.body["pools"], json!([id_in(7, 1)]));
    assert_eq!(shown.body["labels"], json!(["door", "south"]));
    assert_eq!(shown.body["state"], "never_seen");
    let pool = book.get(local, "/api/v1/pools/north").await;
    assert_eq!(pool.body["nodes"], json!([id_of(0).to_string()]), "a node is named by its name");
    assert_eq!(book.get(local, "/api/v1/alarms/lost").await.body["disabled"], true);
    for (noun, id) in [
        ("groups", id_in(2, 1)),
        ("pools", id_in(7, 1)),
        ("rooms", id_in(6, 1)),
        ("encoders", camera),
        ("alarms", id_in(8, 1)),
        ("settings", id_in(8, 2)),
        ("rules", id_in(9, 5)),
        ("accounts", VERA.to_owned()),
    ] {
        let path = format!("/api/v1/{noun}/{id}");
        let before = book.get(local, &path).await;
        let tag = [("if-match", before.header("etag"))];
        // What is shown can be sent back.
        let same = book.ask(local, "PUT", &path, &tag, &before.body).await;
        assert_eq!((same.status, same.header("etag")), (200, tag[0].1), "{noun} {}", same.body);
        let patch = json!({ "name": "other" });
        let changed = book.ask(local, "PATCH", &path, &tag, &patch).await;
        assert_eq!(changed.status, 200, "{noun} {}", changed.body);
        let mut after = before.body.clone();
        after["name"] = json!("other");
        after["changed"] = changed.body["changed"].clone();
        assert_eq!(changed.body, after, "a patch leaves the rest as it is");
        let stale = book.ask(local, "DELETE", &path, &tag, &Value::Null).await;
        assert_eq!((stale.status, &stale.body["current"]), (412, &after), "{noun}");
        let tag = [("if-match", changed.header("etag"))];
        let gone = book.ask(local, "DELETE", &path, &tag, &Value::Null).await;
        assert_eq!(gone.status, 204, "{noun} {}", gone.body);
        assert_eq!(book.get(local, &path).await.status, 410, "{noun}");
        assert_eq!(book.get(&account(ANN), &path).await.status, 404, "{noun}");
    }
    let room = json!({ "name": "hall" });
    let again = book.create(local, &format!("/api/v1/rooms/{}", id_in(6, 1)), &room).await;
    assert_eq!(again.status, 410, "what is collected does not come back: {}", again.body);
}

#[tokio::test]
async fn nobody_finds_anything_of_another_tenant() {
    let book = Book::start().await;
    let camera = id_in(5, 7);
    book.make("encoders", &camera, &json!({ "name": "vault", "domain": "rival" })).await;
    book.make("rooms", &id_in(6, 7), &json!({ "name": "safe", "domain": "rival" })).await;
    book.make("groups", &id_in(2, 7), &json!({ "name": "crew", "domain": "rival" })).await;
    let ann = &account(ANN);
    let nothing = id_in(44, 44);
    for (noun, id, name) in [
        ("domains", RIVAL, "rival"),
        ("accounts", RITA, "rival%2Frita"),
        ("accounts", ROOT, "root"),
        ("groups", &id_in(2, 7), "rival%2Fcrew"),
        ("rules", &id_in(9, 3), "rival%2Fadmins"),
        ("rules", &id_in(9, 4), "administrators"),
        ("encoders", &camera, "rival%2Fvault"),
        ("encoders", &CAM.to_string(), "cam"),
        ("rooms", &id_in(6, 7), "rival%2Fsafe"),
        ("nodes", &id_of(0).to_string(), "n1"),
    ] {
        let list = book.get(ann, &format!("/api/v1/{noun}")).await;
        assert!(!list.body.to_string().contains(id), "{noun}");
        let none = book.get(ann, &format!("/api/v1/{noun}/{nothing}")).await;
        for (of, nothing) in [(id, nothing.as_str()), (name, "rival%2Fnone"), (name, "none")] {
            let path = format!("/api/v1/{noun}/{of}");
            let nothing = format!("/api/v1/{noun}/{nothing}");
            let hidden = book.get(ann, &path).await;
            assert_eq!((hidden.status, &hidden.body), (404, &none.body), "{path}");
            for method in ["PUT", "PATCH", "DELETE"] {
                for headers in [&[][..], &[("if-match", "*")]] {
                    let body = json!({ "name": "mine" });
                    let hidden = book.ask(ann, method, &path, headers, &body).await;
                    let none = book.ask(ann, method, &nothing, headers, &body).await;
                    let both = (hidden.status, &hidden.body);
                    assert_eq!(both, (none.status, &none.body), "{method} {path} {headers:?}");
                    let missing = hidden.status == 404 || headers.is_empty();
                    assert!(missing, "{method} {path} {headers:?}");
                }
            }
        }
    }
    let keys = book.get(ann, &format!("/api/v1/encoders/{camera}/keys")).await;
    assert_eq!(keys.status, 404);
    // Who leaves the domain out is told which there are, of those that they see.
    let theirs = book.get(ann, "/api/v1/encoders/vault").await;
    assert_eq!((theirs.status, &theirs.body["candidates"]), (404, &Value::Null));
    let everybodys = book.get(&account(ROOT), "/api/v1/encoders/vault").await;
    assert_eq!((everybodys.status, &everybodys.body["candidates"]), (404, &json!(["rival/vault"])));
    let rule = json!({ "name": "x", "role": "viewer", "accounts": ["rita"] });
    let path = format!("/api/v1/rules/{}", id_in(9, 10));
    let fault = |answer: Answer| answer.body["errors"][0]["detail"].to_string();
    let said = fault(book.create(&account(ROOT), &path, &rule).await);
    assert!(said.contains("is it rival/rita?"), "{said}");
    let rule = json!({ "name": "x", "domain": "acme", "role": "viewer", "accounts": ["rita"] });
    let said = fault(book.create(ann, &path, &rule).await);
    assert!(!said.contains("rival"), "{said}");
    assert_eq!(book.get(ann, "/api/v1/encoders?domain=rival").await.status, 404);
    let unknown = book.get(ann, "/api/v1/encoders?domain=none").await;
    assert_eq!(unknown.body, book.get(ann, "/api/v1/encoders?domain=rival").await.body);
    // A rule of one's own cannot name what is another's, and does not tell that it is there.
    let rule =
        |who: &str| json!({ "name": "x", "domain": "acme", "role": "viewer", "accounts": [who] });
    let path = format!("/api/v1/rules/{}", id_in(9, 9));
    let theirs = book.create(ann, &path, &rule(RITA)).await;
    let nobodys = book.create(ann, &path, &rule(&nothing)).await;
    assert_eq!((theirs.status, &theirs.body), (422, &nobodys.body));
    assert_eq!(theirs.body["errors"][0]["pointer"], "/accounts/0");
    // The same name in another domain is free.
    let twin = json!({ "name": "vault", "domain": "acme" });
    let path = format!("/api/v1/encoders/{}", id_in(5, 8));
    assert_eq!(book.create(ann, &path, &twin).await.status, 201);
}

#[tokio::test]
async fn a_right_that_is_lacking_is_named_where_the_thing_is_seen() {
    let book = Book::start().await;
    let gate = json!({ "name": "gate", "domain": "acme" });
    let path = format!("/api/v1/encoders/{}", id_in(5, 1));
    let (oscar, vera) = (&account(OSCAR), &account(VERA));
    let refused = book.create(vera, &path, &gate).await;
    assert_eq!(refused.status, 403);
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("operator") && detail.contains("acme"), "{detail}");
    assert_eq!(book.create(oscar, &path, &gate).await.status, 201);
    assert_eq!(book.get(vera, &path).await.status, 200);
    let any = [("if-match", "*")];
    for method in ["PUT", "PATCH", "DELETE"] {
        assert_eq!(book.ask(vera, method, &path, &any, &gate).await.status, 403, "{method}");
    }
    // Out of the domain takes the right there, too.
    let moved = book.ask(oscar, "PATCH", &path, &any, &json!({ "domain": null })).await;
    assert_eq!(moved.status, 403, "{}", moved.body);
    let person = json!({ "name": "new", "domain": "acme" });
    let people = format!("/api/v1/accounts/{}", id_in(3, 3));
    assert_eq!(book.create(oscar, &people, &person).await.status, 403);
    assert_eq!(book.create(&account(ANN), &people, &person).await.status, 201);
    let global = book
        .create(
            &account(ANN),
            &format!("/api/v1/accounts/{}", id_in(3, 4)),
            &json!({ "name": "x" }),
        )
        .await;
    assert_eq!(global.status, 403, "an account of the mesh is the mesh's to make");
    // Everybody reads themselves.
    let me = book.get(oscar, &format!("/api/v1/accounts/{OSCAR}")).await;
    assert_eq!((me.status, &me.body["name"]), (200, &json!("oscar")));
    assert_eq!(book.get(oscar, "/api/v1/accounts").await.names(), ["oscar"]);
    assert_eq!(book.get(&Who::Nobody, "/api/v1/accounts").await.status, 401);
}

#[tokio::test]
async fn what_is_written_is_checked_and_what_is_wrong_is_named() {
    let book = Book::start().await;
    for (noun, body, pointers) in [
        ("accounts", json!({}), &["/name"][..]),
        ("accounts", json!({ "name": "A b" }), &["/name"]),
        ("accounts", json!({ "name": ANN }), &["/name"]),
        ("accounts", json!({ "name": "a", "nme": 1, "a/b": 2 }), &["/a~1b", "/nme"]),
        ("accounts", json!({ "name": "a", "password": "x" }), &["/password"]),
        ("accounts", json!({ "name": "a", "email": 7 }), &["/email"]),
        ("nodes", json!({ "name": "a", "capacity": 1.5 }), &["/capacity"]),
        ("accounts", json!({ "name": "a", "disabled": "yes" }), &["/disabled"]),
        ("accounts", json!({ "name": "a", "id": ROOT }), &["/id"]),
        ("rules", json!({ "name": "a", "role": "king" }), &["/role"]),
        ("rules", json!({ "name": "a" }), &["/role"]),
        ("rules", json!({ "name": "a", "role": "viewer", "groups": ["none"] }), &["/groups/0"]),
        ("rules", json!({ "name": "a", "role": "viewer", "groups": "none" }), &["/groups"]),
        ("encoders", json!({ "name": "a", "domain": id_in(1, 1) }), &["/domain"]),
        (
            "encoders",
            json!({ "name": "a", "labels": ["", 5, "\u{7}"] }),
            &["/labels/1", "/labels/2"],
        ),
        ("settings", json!({ "name": "a", "value": "x".repeat(4_097) }), &["/value"]),
        ("settings", json!({ "name": "a", "disabled": true }), &["/disabled"]),
        ("settings", json!({ "name": "pools", "value": "north" }), &["/value"]),
        ("settings", json!({ "name": "placement", "value": "there" }), &["/value"]),
        ("encoders", json!({ "name": "a", "pools": ["north"] }), &["/pools"]),
        ("encoders", json!({ "name": "a", "pools": "north" }), &["/pools"]),
        ("encoders", json!({ "name": "a", "placement": "there" }), &["/placement"]),
        ("encoders", json!({ "name": "a", "placement": "only" }), &["/placement"]),
        ("rooms", json!({ "name": "a", "pools": vec!["x"; 17] }), &["/pools"]),
    ] {
        let path = format!("/api/v1/{noun}/{}", id_in(77, 1));
        let wrong = book.create(&Who::Local, &path, &body).await;
        assert_eq!(wrong.status, 422, "{body}: {}", wrong.body);
        let errors = wrong.body["errors"].as_array().expect("errors");
        let found: Vec<&str> = errors.iter().map(|e| e["pointer"].as_str().unwrap()).collect();
        assert_eq!(found, pointers, "{body}");
    }
}

#[tokio::test]
async fn pools_are_kept_in_order_by_name_or_id_and_a_removed_one_stays_but_is_not_named_anew() {
    let book = Book::start().await;
    let (local, gate) = (&Who::Local, id_in(5, 1));
    let (north, south) = (id_in(7, 1), id_in(7, 2));
    book.make("pools", &north, &json!({ "name": "north", "labels": ["n"] })).await;
    book.make("pools", &south, &json!({ "name": "south" })).await;
    let body = json!({ "name": "gate", "pools": ["south", north], "placement": "only" });
    book.make("encoders", &gate, &body).await;
    let path = format!("/api/v1/encoders/{gate}");
    let shown = book.get(local, &path).await;
    let pools = (&shown.body["pools"], &shown.body["placement"]);
    assert_eq!(pools, (&json!([south, north]), &json!("only")));
    let patch = |pools: Value| json!({ "pools": pools });
    let any = [("if-match", "*")];
    let turned = book.ask(local, "PATCH", &path, &any, &patch(json!(["north", "south"]))).await;
    assert_eq!(turned.body["pools"], json!([north, south]));
    let twice = book.ask(local, "PATCH", &path, &any, &patch(json!(["north", north]))).await;
    assert_eq!((twice.status, &twice.body["errors"][0]["pointer"]), (422, &json!("/pools")));
    let gone = book.ask(local, "DELETE", "/api/v1/pools/north", &any, &Value::Null).await;
    assert_eq!(gone.status, 204);
    let kept = book.ask(local, "PATCH", &path, &any, &patch(json!(["south", north]))).await;
    assert_eq!((kept.status, &kept.body["pools"]), (200, &json!([south, north])), "{}", kept.body);
    let bare = json!({ "pools": [] });
    let bound = book.ask(local, "PATCH", &path, &any, &bare).await;
    assert_eq!(bound.body["errors"][0]["pointer"], "/placement", "{}", bound.body);
    let bare = json!({ "pools": [], "placement": null });
    let free = book.ask(local, "PATCH", &path, &any, &bare).await;
    assert_eq!((free.status, &free.body["pools"]), (200, &Value::Null), "{}", free.body);
    let anew = book.ask(local, "PATCH", &path, &any, &patch(json!([north]))).await;
    assert_eq!(anew.status, 422, "there is no such pool: {}", anew.body);
}

#[tokio::test]
async fn a_new_rule_that_names_no_encoder_is_about_everything_unless_it_says_otherwise() {
    let book = Book::start().await;
    let gate = id_in(5, 1);
    book.make("encoders", &gate, &json!({ "name": "gate", "domain": "acme" })).await;
    for (number, more, everything) in [
        (21, json!({}), json!(true)),
        (22, json!({ "everything": false }), json!(false)),
        (23, json!({ "encoders": ["acme/gate"] }), Value::Null),
    ] {
        let mut body = json!({ "name": format!("r{number}"), "role": "viewer" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        book.make("rules", &id_in(9, number), &body).await;
        let path = format!("/api/v1/rules/{}", id_in(9, number));
        let rule = book.get(&Who::Local, &path).await;
        assert_eq!(rule.body["everything"], everything, "{body}");
        // Only at its beginning: whoever takes the last encoder away gives nobody more.
        let none = json!({ "encoders": [] });
        let after = book.ask(&Who::Local, "PATCH", &path, &[("if-match", "*")], &none).await;
        assert_eq!(after.body["everything"], everything);
    }
}

#[tokio::test]
async fn a_name_is_given_once_in_a_domain_and_two_of_a_cut_are_shown() {
    let book = Book::start().await;
    let path = format!("/api/v1/accounts/{}", id_in(3, 1));
    let taken = book.create(&Who::Local, &path, &json!({ "name": "root" })).await;
    assert_eq!(taken.status, 409, "{}", taken.body);
    book.make("accounts", &id_in(3, 1), &json!({ "name": "root", "domain": "acme" })).await;
    let out = book
        .ask(&Who::Local, "PATCH", &path, &[("if-match", "*")], &json!({ "domain": null }))
        .await;
    assert_eq!(out.status, 409, "nor by leaving the domain");
    let domain = book
        .create(
            &Who::Local,
            &format!("/api/v1/domains/{}", id_in(1, 1)),
            &json!({ "name": "default" }),
        )
        .await;
    assert_eq!(domain.status, 409);
    // Made on the other side of a cut.
    let key = Key { kind: Kind::ACCOUNT, id: RecordId([99; 16]) };
    let changes = vec![Change::Set(1, b"root".to_vec())];
    let write = Write {
        key,
        changes,
        account: AccountId([0; 16]),
        expect: Expect::Any,
        wait: 0,
        patience: Duration::ZERO,
    };
    book.mesh.commit(id_of(1), &write).unwrap();
    let shown = book.get(&Who::Local, &format!("/api/v1/accounts/{ROOT}")).await;
    assert_eq!(shown.body["duplicate"], true);
    assert_eq!(book.get(&Who::Local, "/api/v1/accounts/root").await.status, 409);
    let tag = [("if-match", shown.header("etag"))];
    let path = format!("/api/v1/accounts/{ROOT}");
    let renamed = book.ask(&Who::Local, "PATCH", &path, &tag, &json!({ "name": "root-1" })).await;
    assert_eq!((renamed.status, renamed.body.get("duplicate")), (200, None));
    assert_eq!(book.get(&Who::Local, "/api/v1/accounts/root").await.body["id"], key.id.to_string());
}

#[tokio::test]
async fn what_two_wrote_at_once_is_shown_with_author_node_and_time_until_one_write_settles_it() {
    let book = Book::start().await;
    let path = format!("/api/v1/accounts/{OSCAR}");
    let root = &account(ROOT);
    let fork = book.fork(Kind::ACCOUNT, OSCAR);
    let mine = json!({ "email": "here@x" });
    let written = book.ask(root, "PATCH", &path, &[("if-match", "*")], &mine).await;
    assert_eq!(written.body["changed"]["account"], ROOT, "it is attributed");
    book.merge(Kind::ACCOUNT, OSCAR, fork, Change::Set(6, b"there@x".to_vec()));
    let split = book.get(root, &path).await;
    assert_eq!(split.body["email"], "there@x", "the later by the clocks is shown");
    let theirs = json!({ "value": "there@x", "account": ROOT, "node": id_of(1), "at": 5_000 });
    let ours = json!({ "value": "here@x", "account": ROOT, "node": id_of(0), "at": 1_000 });
    assert_eq!(split.body["conflicts"], json!({ "email": [theirs, ours] }));
    // A change of something else settles nothing.
    let tag = [("if-match", split.header("etag"))];
    let other = book.ask(root, "PATCH", &path, &tag, &json!({ "description": "x" })).await;
    assert!(other.body["conflicts"]["email"].is_array(), "{}", other.body);
    let stale = book.ask(root, "PUT", &path, &tag, &json!({ "name": "z", "domain": "acme" })).await;
    assert_eq!((stale.status, &stale.body["current"]), (412, &other.body));
    // What was shown, sent back, settles it: by PUT, or by PATCH of the field.
    let tag = [("if-match", other.header("etag"))];
    let settled = book.ask(root, "PUT", &path, &tag, &other.body).await;
    assert_eq!((settled.status, settled.body.get("conflicts")), (200, None));
    assert_eq!(settled.body["email"], "there@x");
}

#[tokio::test]
async fn what_somebody_does_not_see_in_a_set_is_neither_shown_to_them_nor_taken_away_by_them() {
    let book = Book::start().await;
    let path = format!("/api/v1/rules/{}", id_in(9, 1));
    let both = json!({ "accounts": [ANN, ROOT] });
    let any = [("if-match", "*")];
    let written = book.ask(&Who::Local, "PATCH", &path, &any, &both).await;
    assert_eq!(written.body["accounts"], json!([ANN, ROOT]));
    let ann = &account(ANN);
    let seen = book.get(ann, &path).await;
    assert_eq!(seen.body["accounts"], json!([ANN]));
    let mut body = seen.body.clone();
    body["accounts"] = json!([ANN, OSCAR]);
    let put = book.ask(ann, "PUT", &path, &any, &body).await;
    assert_eq!((put.status, &put.body["accounts"]), (200, &json!([ANN, OSCAR])), "{}", put.body);
    let all = book.get(&Who::Local, &path).await;
    assert_eq!(all.body["accounts"], json!([ANN, OSCAR, ROOT]));
}

#[tokio::test]
async fn a_repeated_request_does_nothing_more_and_says_the_same() {
    let book = Book::start().await;
    let path = format!("/api/v1/pools/{}", id_in(7, 1));
    let body = json!({ "name": "north", "labels": ["a"] });
    let first = book.create(&Who::Local, &path, &body).await;
    assert_eq!((first.status, first.header("roost-nodes")), (201, "1"));
    assert!(!first.header("roost-version").is_empty());
    let again = book.create(&Who::Local, &path, &body).await;
    assert_eq!((again.status, again.header("etag")), (200, first.header("etag")));
    let other = book.create(&Who::Local, &path, &json!({ "name": "south" })).await;
    assert_eq!((other.status, &other.body["current"]["name"]), (412, &json!("north")));
    for headers in
        [&[][..], &[("if-match", "*"), ("if-none-match", "*")], &[("if-none-match", "\"x\"")]]
    {
        assert_eq!(book.ask(&Who::Local, "PUT", &path, headers, &body).await.status, 428);
    }
    let patient = [("if-match", "*"), ("roost-wait", "3")];
    let few = book.ask(&Who::Local, "PATCH", &path, &patient, &json!({ "description": "x" })).await;
    assert_eq!((few.status, few.header("roost-waited")), (200, "false"));
}

#[tokio::test]
async fn lists_come_in_pages_that_any_node_continues() {
    let book = Book::start().await;
    let mut ids = BTreeSet::new();
    for number in 0..25 {
        let id = id_in(6, number);
        let domain = if number % 5 == 0 { "rival" } else { "acme" };
        let name = format!("{}-{number}", if number % 2 == 0 { "even" } else { "odd" });
        book.make("rooms", &id, &json!({ "name": name, "domain": domain })).await;
        ids.insert(id);
    }
    let walk = async |who: &Who, query: &str| {
        let (mut found, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = book.get(who, &format!("/api/v1/rooms?limit=4{query}{cursor}")).await;
            assert_eq!(page.status, 200, "{}", page.body);
            let items = page.body["items"].as_array().unwrap();
            found.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            pages += 1;
            match page.body["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return (found, pages),
            }
        }
    };
    let (all, pages) = walk(&Who::Local, "").await;
    assert_eq!((all, pages), (ids.into_iter().collect(), 7));
    let (theirs, _) = walk(&account(OSCAR), "").await;
    assert_eq!(theirs.len(), 20);
    let (odd, pages) = walk(&Who::Local, "&q=ODD&domain=rival").await;
    assert_eq!((odd, pages), (vec![id_in(6, 5), id_in(6, 15)], 1));
    for query in ["limit=0", "limit=1001", "limit=x", "cursor=x"] {
        assert_eq!(book.get(&Who::Local, &format!("/api/v1/rooms?{query}")).await.status, 400);
    }
}

#[tokio::test]
async fn encoders_and_nodes_are_shown_with_what_is_seen_of_them_and_without_a_record_too() {
    let book = Book::start().await;
    let local = &Who::Local;
    let list = book.get(local, "/api/v1/encoders").await;
    assert_eq!(list.names(), ["cam"]);
    assert_eq!(list.body["items"][0]["home_name"], "n1");
    let cam = book.get(local, "/api/v1/encoders/cam").await;
    assert_eq!(cam.body["id"], CAM.to_string());
    let tag = [("if-match", cam.header("etag"))];
    let path = format!("/api/v1/encoders/{CAM}");
    let named = json!({ "name": "yard", "domain": "acme", "labels": ["x"] });
    let made = book.ask(local, "PATCH", &path, &tag, &named).await;
    assert_eq!((made.status, &made.body["state"]), (201, &json!("live")), "{}", made.body);
    assert_eq!(book.get(local, "/api/v1/encoders?q=yard").await.names(), ["yard"]);
    assert_eq!(book.get(local, "/api/v1/encoders/acme%2Fyard").await.body["id"], CAM.to_string());
    assert_eq!(book.get(&account(OSCAR), "/api/v1/encoders").await.names(), ["yard"]);
    assert_eq!(book.get(&account(RITA), "/api/v1/encoders").await.names(), [""; 0]);
    book.mesh.change(|view| view.encoders[0].state = EncoderState::NoSignal);
    assert_eq!(book.get(local, &path).await.body["state"], "no_signal");
    let node = format!("/api/v1/nodes/{}", id_of(1));
    let nodes = book.get(local, "/api/v1/nodes").await;
    assert_eq!(nodes.names(), ["n1", "n2"]);
    let described = json!({ "description": "in the cellar", "cordon": true });
    let made = book.ask(local, "PATCH", &node, &[("if-match", "*")], &described).await;
    assert_eq!(
        (made.status, &made.body["name"], &made.body["state"]),
        (201, &json!("n2"), &json!("up"))
    );
    let refused = book.ask(local, "DELETE", &node, &[("if-match", "*")], &Value::Null).await;
    assert_eq!(refused.status, 409);
    let default = book.get(local, "/api/v1/domains/default").await;
    assert_eq!(default.body["id"], RecordId([0; 16]).to_string());
    assert_eq!(book.get(local, "/api/v1/domains").await.names(), ["default", "acme", "rival"]);
    let acme = "/api/v1/domains/acme";
    let full = book.ask(local, "DELETE", acme, &[("if-match", "*")], &Value::Null).await;
    assert_eq!(full.status, 409, "{}", full.body);
}

#[tokio::test]
async fn whoever_wrote_reads_it_or_is_told_that_it_is_not_here_yet() {
    let book = Book::start().await;
    let path = format!("/api/v1/accounts/{ROOT}");
    let any = [("if-match", "*")];
    let written = book.ask(&Who::Local, "PATCH", &path, &any, &json!({ "email": "a@b" })).await;
    let version = written.header("roost-version").to_owned();
    let here = [("roost-min-version", version.as_str())];
    let read = book.ask(&Who::Local, "GET", &path, &here, &Value::Null).await;
    assert_eq!((read.status, read.header("roost-stale")), (200, ""));
    let (actor, _) = version.split_once('.').unwrap();
    let later = format!("{actor}.999");
    for path in [&path, "/api/v1/accounts", "/api/v1/accounts/none"] {
        let later = [("roost-min-version", later.as_str())];
        let read = book.ask(&Who::Local, "GET", path, &later, &Value::Null).await;
        assert_eq!(read.header("roost-stale"), "true", "{path}");
    }
    for bad in ["", "x", &format!("{actor}.+1"), &format!("{actor}.")] {
        let bad = [("roost-min-version", bad)];
        assert_eq!(book.ask(&Who::Local, "GET", &path, &bad, &Value::Null).await.status, 400);
    }
}

#[tokio::test]
async fn history_says_who_changed_what_where_and_when_to_who_may_read_it() {
    let book = Book::start().await;
    let path = format!("/api/v1/accounts/{OSCAR}");
    let any = [("if-match", "*")];
    book.mesh.now.store(7_000, std::sync::atomic::Ordering::Relaxed);
    let change = json!({ "email": "o@x", "description": null, "disabled": true });
    book.ask(&account(ANN), "PATCH", &path, &any, &change).await;
    let history = book.get(&account(ANN), &format!("{path}/history")).await;
    let newest = &history.body["items"][0];
    assert_eq!((&newest["at"], &newest["account_name"]), (&json!(7_000), &json!("ann")));
    assert_eq!((&newest["node_name"], &newest["account"]), (&json!("n1"), &json!(ANN)));
    assert_eq!(newest["what"], json!(["disabled", "set email"]));
    assert_eq!(history.body["items"][1]["account_name"], "local");
    assert_eq!(book.get(&account(RITA), &format!("{path}/history")).await.status, 404);
    let (mut cursor, mut mine, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let page = book.get(&account(ANN), &format!("/api/v1/audit?limit=3{cursor}")).await;
        mine.extend(page.body["items"].as_array().unwrap().clone());
        pages += 1;
        match page.body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(pages > 1);
    assert_eq!((&mine[0]["kind"], &mine[0]["name"]), (&json!("account"), &json!("oscar")));
    let names: BTreeSet<_> = mine.iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["acme", "admins", "ann", "operators", "oscar", "viewers"].into());
    assert!(!json!(mine).to_string().contains(RITA));
    let all = book.get(&account(ROOT), "/api/v1/audit").await;
    assert_eq!(all.body["items"].as_array().unwrap().len(), 18);
    assert_eq!(book.get(&account(ROOT), "/api/v1/audit?cursor=x").await.status, 400);
}

#[tokio::test]
async fn a_stream_key_is_shown_once_and_the_one_before_ends_when_it_is_said() {
    let book = Book::start().await;
    let gate = id_in(5, 1);
    book.make("encoders", &gate, &json!({ "name": "gate", "domain": "acme" })).await;
    let path = format!("/api/v1/encoders/{gate}/keys");
    let (oscar, none) = (&account(OSCAR), &[][..]);
    let first = book.ask(oscar, "POST", &path, none, &Value::Null).await;
    assert_eq!((first.status, &first.body["expires_old"]), (201, &Value::Null), "{}", first.body);
    let key = first.body["key"].as_str().unwrap();
    assert_eq!(
        crate::access::keys::key_owner(key),
        Some(crate::id::EncoderId(gate.parse::<RecordId>().unwrap().0))
    );
    assert_eq!(first.header("cache-control"), "no-store");
    let second = book.ask(oscar, "POST", &path, none, &json!({ "overlap_s": 60 })).await;
    assert_eq!(second.body["expires_old"], 61_000);
    let list = book.get(oscar, &path).await;
    assert!(!list.body.to_string().contains(key));
    let expires: Vec<&Value> =
        list.body["items"].as_array().unwrap().iter().map(|key| &key["expires"]).collect();
    assert_eq!(expires.iter().filter(|end| ***end == json!(61_000)).count(), 1);
    assert_eq!(expires.len(), 2);
    let record = book.fork(Kind::ENCODER, &gate);
    assert!(crate::access::keys::opens(&record, key, 60_999));
    assert!(!crate::access::keys::opens(&record, key, 61_000));
    let revoked = format!("{path}/{}", first.body["prefix"].as_str().unwrap());
    assert_eq!(book.ask(&account(VERA), "DELETE", &revoked, none, &Value::Null).await.status, 403);
    assert_eq!(book.ask(oscar, "DELETE", &revoked, none, &Value::Null).await.status, 204);
    assert_eq!(book.ask(oscar, "DELETE", &revoked, none, &Value::Null).await.status, 404);
    assert!(!crate::access::keys::opens(&book.fork(Kind::ENCODER, &gate), key, 2_000));
    let shown = book.get(oscar, &format!("/api/v1/encoders/{gate}")).await;
    assert_eq!(shown.body.get("keys"), None);
    assert_eq!(book.ask(oscar, "POST", &path, none, &json!({ "overlap_s": -1 })).await.status, 400);
}

#[tokio::test]
async fn whoever_follows_a_list_is_told_what_comes_into_their_sight_and_what_leaves_it() {
    let book = Book::start().await;
    book.make("rooms", &id_in(6, 1), &json!({ "name": "hall", "domain": "acme" })).await;
    book.make("rooms", &id_in(6, 2), &json!({ "name": "safe", "domain": "rival" })).await;
    let router = router(book.mesh.node(0), Arc::default());
    let mut request = Request::get("/api/v1/rooms")
        .header("accept", "text/event-stream")
        .body(Body::empty())
        .unwrap();
    request.extensions_mut().insert(book.principal(&account(VERA)));
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut next = async || {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap();
        let text = String::from_utf8(frame.unwrap().unwrap().into_data().unwrap().into()).unwrap();
        let line = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let data: Value = serde_json::from_str(&line("data:")).unwrap();
        (line("event:"), data, line("id:"))
    };
    let (name, data, id) = next().await;
    assert_eq!(id, format!("{}:1", NodeId(id_of(0).0)));
    assert_eq!((name.as_str(), &data["items"][0]["name"]), ("snapshot", &json!("hall")));
    assert_eq!(data["items"].as_array().unwrap().len(), 1);
    // Not theirs: nothing. Theirs: told.
    book.make("rooms", &id_in(6, 3), &json!({ "name": "den", "domain": "rival" })).await;
    book.make("rooms", &id_in(6, 4), &json!({ "name": "yard", "domain": "acme" })).await;
    let (name, data, _) = next().await;
    assert_eq!((name.as_str(), &data["name"]), ("changed", &json!("yard")));
    // Moved away.
    let path = format!("/api/v1/rooms/{}", id_in(6, 4));
    let any = [("if-match", "*")];
    book.ask(&Who::Local, "PATCH", &path, &any, &json!({ "domain": "rival" })).await;
    assert_eq!(next().await.1, json!({ "id": id_in(6, 4) }));
    // A right more, and none.
    let rule = json!({ "name": "more", "domain": "rival", "role": "viewer", "accounts": [VERA] });
    book.make("rules", &id_in(9, 30), &rule).await;
    let mut names = BTreeSet::new();
    for _ in 0..3 {
        let (event, data, _) = next().await;
        names.insert((event, data["name"].as_str().unwrap_or_default().to_owned()));
    }
    let all = ["den", "safe", "yard"].map(|name| ("changed".to_owned(), name.to_owned()));
    assert_eq!(names, all.into());
    let path = format!("/api/v1/rules/{}", id_in(9, 30));
    book.ask(&Who::Local, "DELETE", &path, &any, &Value::Null).await;
    for _ in 0..3 {
        assert_eq!(next().await.0, "removed");
    }
    // Nobody any more: it ends.
    let me = format!("/api/v1/accounts/{VERA}");
    book.ask(&Who::Local, "PATCH", &me, &any, &json!({ "disabled": true })).await;
    let end = async {
        while let Some(frame) = body.frame().await {
            frame.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(5), end).await.expect("it ends");
}

#[tokio::test]
async fn the_reference_and_the_router_know_the_same_routes() {
    let book = Book::start().await;
    let document = openapi::whole();
    let paths = document["paths"].as_object().unwrap();
    let mut there = BTreeSet::new();
    for (path, operations) in paths {
        for method in operations.as_object().unwrap().keys() {
            there.insert((method.clone(), path.clone()));
        }
    }
    let routes = routes::all();
    let routed: BTreeSet<_> =
        routes.iter().map(|route| (route.method.to_owned(), route.path.clone())).collect();
    assert_eq!(there, routed);
    // What is in the reference is served, and what it does not have is not.
    for (path, operations) in paths {
        if path.ends_with("events") {
            continue; // They do not end.
        }
        let real = path.replace("{id}", ROOT).replace(['{', '}'], "");
        for method in ["get", "put", "patch", "post", "delete"] {
            let answer =
                book.ask(&Who::Local, &method.to_uppercase(), &real, &[], &Value::Null).await;
            let known = operations.get(method).is_some();
            assert_eq!(answer.status != 405, known, "{method} {path}: {}", answer.body);
            if known {
                let said = &operations[method]["responses"][answer.status.to_string()];
                assert!(said.is_object(), "{method} {path} answers {}", answer.status);
            }
        }
    }
    // Every schema that is named is there.
    let text = document.to_string();
    for part in text.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}
