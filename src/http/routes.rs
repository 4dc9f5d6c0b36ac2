//! Every route: what answers it, and what the reference says of it. The router and the document at
//! `/api/v1/openapi.json` are made of this one table, so that neither knows a route that the other
//! does not.

use axum::Router;
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};

use super::problem::Problem;
use super::records::{self, Asked};
use super::{
    App, api, assets, backup, events, health, login, metrics, moves, nodes, openapi, plan, whep,
    whip,
};
use crate::accounts::{Kind, Schema};

/// One route with one method.
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) about: String,
    /// Who may; `None`: anybody.
    pub(super) right: Option<String>,
    /// Names of query parameters and headers: see [`openapi`].
    pub(super) takes: Vec<&'static str>,
    /// The body: its media type and schema.
    pub(super) body: Option<(&'static str, String)>,
    pub(super) answers: Vec<Answer>,
    handler: MethodRouter<App>,
}

/// A status that a route answers.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content: Vec<Content>,
    /// Names of headers that it may have.
    pub(super) headers: &'static [&'static str],
}

/// What an answer holds.
pub(super) enum Content {
    /// JSON of this schema.
    Json(String),
    /// Anything else, by media type.
    Other(&'static str),
}

const RECEIPT: &[&str] = &["Roost-Version", "Roost-Nodes", "Roost-Waited", "ETag"];
const READ: &[&str] = &["Roost-Stale", "Roost-May", "ETag"];

impl Route {
    fn new(
        method: &'static str,
        path: impl Into<String>,
        about: impl Into<String>,
        handler: MethodRouter<App>,
    ) -> Self {
        Self {
            method,
            path: path.into(),
            about: about.into(),
            right: None,
            takes: Vec::new(),
            body: None,
            answers: Vec::new(),
            handler,
        }
    }

    /// Needs a caller who may.
    fn for_who(mut self, right: impl Into<String>) -> Self {
        self.right = Some(right.into());
        self.problems(&[401, 403])
    }

    fn takes(mut self, names: &[&'static str]) -> Self {
        self.takes.extend(names);
        self
    }

    fn body(mut self, media: &'static str, schema: impl Into<String>) -> Self {
        self.body = Some((media, schema.into()));
        self.problems(&[400, 408, 413])
    }

    fn json(self, status: u16, schema: impl Into<String>) -> Self {
        self.answer(status, vec![Content::Json(schema.into())], &[])
    }

    fn other(self, status: u16, media: &'static str) -> Self {
        self.answer(status, vec![Content::Other(media)], &[])
    }

    fn nothing(self, status: u16) -> Self {
        self.answer(status, Vec::new(), &[])
    }

    fn answer(
        mut self,
        status: u16,
        content: Vec<Content>,
        headers: &'static [&'static str],
    ) -> Self {
        self.answers.push(Answer { status, content, headers });
        self
    }

    fn problems(mut self, statuses: &[u16]) -> Self {
        for status in statuses {
            if self.answers.iter().all(|answer| answer.status != *status) {
                let content = vec![Content::Other("application/problem+json")];
                self.answers.push(Answer { status: *status, content, headers: &[] });
            }
        }
        self
    }
}

/// All of them, as axum serves them.
pub(super) fn router() -> Router<App> {
    all().into_iter().fold(Router::new(), |router, route| router.route(&route.path, route.handler))
}

/// All of them.
pub(super) fn all() -> Vec<Route> {
    let mut all = open();
    all.extend(mesh());
    for schema in Kind::schemas() {
        if let Some(noun) = schema.noun {
            // Somebody makes an enrolment by inviting: the string has to go with it.
            let made = |route: &Route| route.method != "put" || schema.kind != Kind::ENROLMENT;
            all.extend(of_kind(schema, noun).into_iter().filter(made));
        }
    }
    all.extend(keys());
    all.extend(people());
    all.extend(members());
    all.extend(steering());
    all.extend(media());
    all
}

fn open() -> Vec<Route> {
    vec![
        Route::new(
            "get",
            "/healthcheck",
            "Whether this node should get clients.",
            routing::get(health::healthcheck),
        )
        .json(200, "Health")
        .json(503, "Health"),
        Route::new(
            "get",
            "/livez",
            "Whether the process makes progress.",
            routing::get(health::livez),
        )
        .other(200, "text/plain")
        .other(503, "text/plain"),
        Route::new(
            "get",
            "/readyz",
            "What keeps this node from taking clients.",
            routing::get(health::readyz),
        )
        .takes(&["verbose", "exclude"])
        .other(200, "text/plain")
        .other(503, "text/plain"),
        Route::new("get", "/", "The console.", routing::get(assets::index))
            .other(200, "text/html")
            .nothing(304),
        Route::new("get", "/records", "Records, for people.", routing::get(assets::records))
            .other(200, "text/html"),
        Route::new("get", "/watch/{name}", "The player's page.", routing::get(assets::watch))
            .other(200, "text/html")
            .nothing(304),
        Route::new("get", "/assets/{file}", "Files of the pages.", routing::get(assets::asset))
            .other(200, "*/*")
            .nothing(304)
            .problems(&[404]),
        Route::new(
            "get",
            "/api/v1/openapi.json",
            "This document.",
            routing::get(openapi::document),
        )
        .other(200, "application/json"),
    ]
}

fn mesh() -> Vec<Route> {
    vec![
        Route::new("get", "/metrics", "Numbers for Prometheus.", routing::get(metrics::scrape))
            .for_who("view, over the whole mesh")
            .answer(
                200,
                vec![Content::Other("text/plain"), Content::Other("application/openmetrics-text")],
                &[],
            ),
        Route::new(
            "get",
            "/api/v1/cluster",
            "What this node believes of all.",
            routing::get(api::cluster),
        )
        .for_who("view")
        .json(200, "Cluster"),
        Route::new("get", "/api/v1/viewers", "Viewers at every node.", routing::get(api::viewers))
            .for_who("view")
            .takes(&["encoder"])
            .json(200, "Viewers")
            .problems(&[404]),
        Route::new(
            "post",
            "/api/v1/invitations",
            "Makes an invitation for nodes, or an enrolment string for clients.",
            routing::post(api::invite),
        )
        .for_who("administer, over the whole mesh")
        .body("application/json", "InvitationTerms")
        .json(201, "Invitation")
        .problems(&[404, 422, 503, 507]),
        Route::new(
            "post",
            "/api/v1/backup",
            "A copy of the ledger and of who belongs to the mesh, as they are at this moment.",
            routing::post(backup::backup),
        )
        .for_who("be at the node's own machine")
        .other(200, "application/octet-stream")
        .problems(&[507]),
        Route::new(
            "get",
            "/api/v1/audit",
            "Who changed what, where and when, the newest first: of all that one may read.",
            routing::get(records::history::audit),
        )
        .for_who("read what was changed")
        .takes(&["limit", "cursor of all", "Roost-Min-Version"])
        .answer(200, vec![Content::Json("AuditList".into())], READ)
        .problems(&[400]),
        Route::new(
            "get",
            "/api/v1/events",
            "All nodes and streams, now and at every change.",
            routing::get(events::mesh),
        )
        .for_who("view")
        .other(200, "text/event-stream"),
        Route::new(
            "get",
            "/api/v1/streams/{name}/events",
            "Where one stream is, now and at every change.",
            routing::get(events::stream),
        )
        .for_who("view")
        .other(200, "text/event-stream"),
    ]
}

/// What everything about one record may answer.
const ONE: &[u16] = &[400, 404, 409, 410];
/// What everything that writes may answer, too.
const WRITING: &[u16] = &[400, 404, 409, 410, 412, 422, 428, 503, 507];

fn of_kind(schema: &'static Schema, noun: &str) -> Vec<Route> {
    let (kind, name) = (schema.kind, schema.name);
    let list = format!("/api/v1/{noun}");
    let item = format!("{list}/{{id}}");
    let shown = openapi::shown_name(schema);
    let body = openapi::body_name(schema);
    let (reads, writes) = openapi::rights(kind);
    vec![
        Route::new(
            "get",
            &list,
            format!("Every {name}, in order of id; with Accept: text/event-stream what there is, and then every change."),
            routing::get(move |asked: Asked| many(kind, asked)),
        )
        .for_who(reads)
        .takes(&["limit", "cursor", "q", "domain", "Roost-Min-Version"])
        .answer(
            200,
            vec![Content::Json(format!("{shown}List")), Content::Other("text/event-stream")],
            READ,
        )
        .problems(&[400, 404]),
        Route::new(
            "get",
            &item,
            format!("One {name}."),
            routing::get(move |asked: Asked| records::read::item(kind, asked)),
        )
        .for_who(reads)
        .takes(&["Roost-Min-Version"])
        .answer(200, vec![Content::Json(shown.clone())], READ)
        .problems(ONE),
        Route::new(
            "put",
            &item,
            format!("Makes a {name} with an id of one's own, or says all of it anew: what is not in the body is taken away. Settles conflicts."),
            routing::put(move |asked: Asked, body: Body| records::write::put(kind, asked, body)),
        )
        .for_who(writes)
        .takes(&["If-Match", "If-None-Match", "Roost-Wait"])
        .body("application/json", body.clone())
        .answer(200, vec![Content::Json(shown.clone())], RECEIPT)
        .answer(201, vec![Content::Json(shown.clone())], RECEIPT)
        .answer(204, vec![], RECEIPT)
        .problems(WRITING),
        Route::new(
            "patch",
            &item,
            format!("Changes what the body says of a {name} (RFC 7396)."),
            routing::patch(move |asked: Asked, body: Body| records::write::patch(kind, asked, body)),
        )
        .for_who(writes)
        .takes(&["If-Match", "Roost-Wait"])
        .body("application/merge-patch+json", format!("{body}Patch"))
        .answer(200, vec![Content::Json(shown.clone())], RECEIPT)
        .answer(201, vec![Content::Json(shown)], RECEIPT)
        .answer(204, vec![], RECEIPT)
        .problems(WRITING),
        Route::new(
            "delete",
            &item,
            format!("Removes a {name}."),
            routing::delete(move |asked: Asked| records::write::delete(kind, asked)),
        )
        .for_who(writes)
        .takes(&["If-Match", "Roost-Wait"])
        .answer(204, vec![], RECEIPT)
        .problems(WRITING),
        Route::new(
            "get",
            format!("{item}/history"),
            format!("Who changed a {name}, where and when, the newest first."),
            routing::get(move |asked: Asked| records::history::history(kind, asked)),
        )
        .for_who(reads)
        .takes(&["Roost-Min-Version"])
        .answer(200, vec![Content::Json("HistoryList".into())], READ)
        .problems(ONE),
    ]
}

/// A list once, or for as long as somebody listens.
async fn many(kind: Kind, asked: Asked) -> Result<Response, Problem> {
    let stream =
        asked.header(&header::ACCEPT).is_some_and(|text| text.contains("text/event-stream"));
    match stream {
        true => records::watch::watch(kind, asked).await,
        false => records::read::list(kind, asked).await.map(IntoResponse::into_response),
    }
}

fn keys() -> Vec<Route> {
    let path = "/api/v1/encoders/{id}/keys";
    let (_, writes) = openapi::rights(Kind::ENCODER);
    vec![
        Route::new(
            "get",
            path,
            "The stream keys of an encoder that are good, without the keys.",
            routing::get(records::keys::list),
        )
        .for_who(writes)
        .takes(&["Roost-Min-Version"])
        .answer(200, vec![Content::Json("Keys".into())], READ)
        .problems(ONE),
        Route::new(
            "post",
            path,
            "Makes a stream key, which is shown this once.",
            routing::post(records::keys::make),
        )
        .for_who(writes)
        .takes(&["Roost-Wait"])
        .body("application/json", "KeyTerms")
        .answer(201, vec![Content::Json("Key".into())], RECEIPT)
        .problems(WRITING),
        Route::new(
            "delete",
            format!("{path}/{{prefix}}"),
            "Puts a stream key out for good.",
            routing::delete(records::keys::revoke),
        )
        .for_who(writes)
        .takes(&["Roost-Wait"])
        .answer(204, vec![], RECEIPT)
        .problems(WRITING),
    ]
}

fn people() -> Vec<Route> {
    vec![
        Route::new(
            "post",
            "/api/v1/login",
            "Opens a session with a name and a password.",
            routing::post(login::login),
        )
        .body("application/json", "Login")
        .json(200, "Session")
        .problems(&[401, 429, 503]),
        Route::new("get", "/api/v1/me", "Who asks, and what they may.", routing::get(login::me))
            .for_who("be known")
            .json(200, "Me"),
        Route::new(
            "post",
            "/api/v1/me/password",
            "Gives oneself another password; all sessions before are over.",
            routing::post(login::change),
        )
        .for_who("be somebody with a password")
        .body("application/json", "NewPassword")
        .json(200, "Session")
        .problems(&[404, 409, 422, 429, 503, 507]),
        Route::new(
            "put",
            "/api/v1/accounts/{id}/password",
            "Gives somebody another password.",
            routing::put(login::set),
        )
        .for_who("administer, in its domain")
        .body("application/json", "Password")
        .nothing(204)
        .problems(&[404, 409, 422, 429, 503, 507]),
    ]
}

fn members() -> Vec<Route> {
    let path = "/api/v1/nodes/{id}/revocation";
    let administer = "administer, over the whole mesh";
    let refused = &[404, 409, 503, 507];
    vec![
        Route::new("post", path, "Shuts a node out.", routing::post(nodes::revoke))
            .for_who(administer)
            .body("application/json", "Revocation")
            .nothing(204)
            .problems(refused)
            .problems(&[422]),
        Route::new("delete", path, "Lets a node in again.", routing::delete(nodes::readmit))
            .for_who(administer)
            .nothing(204)
            .problems(refused),
        Route::new(
            "post",
            "/api/v1/nodes/{id}/key",
            "Gives this very node another key.",
            routing::post(nodes::rotate),
        )
        .for_who(administer)
        .nothing(204)
        .problems(refused),
    ]
}

fn steering() -> Vec<Route> {
    let operate = "operate, over the whole mesh";
    vec![
        Route::new(
            "get",
            "/api/v1/nodes/{id}/drain",
            "How far a node is emptied, what does not move, and where what is left would go.",
            routing::get(moves::drain),
        )
        .for_who(operate)
        .json(200, "DrainState")
        .problems(&[404, 409, 502]),
        Route::new(
            "get",
            "/api/v1/plan",
            "What would follow if nodes were lost, drained or added; nothing is done.",
            routing::get(plan::get),
        )
        .for_who(operate)
        .takes(&["lose", "drain", "add"])
        .json(200, "Plan")
        .problems(&[400, 404, 409]),
        Route::new(
            "post",
            "/api/v1/encoders/{id}/move",
            "Sends an encoder to another node, without a gap; answers when it is there.",
            routing::post(moves::move_encoder),
        )
        .for_who(operate)
        .body("application/json", "Wish")
        .json(200, "Moved")
        .problems(&[404, 409, 502]),
        Route::new(
            "get",
            "/api/v1/encoders/{id}/why",
            "Why an encoder is where it is.",
            routing::get(moves::why),
        )
        .for_who("view, of the encoder")
        .json(200, "Why")
        .problems(&[404]),
    ]
}

fn media() -> Vec<Route> {
    vec![
        Route::new("post", "/whep/{name}", "A viewer's offer (WHEP).", routing::post(whep::post))
            .for_who("view, of the encoder")
            .takes(&["leg", "warm", "rt"])
            .body("application/sdp", "Sdp")
            .other(201, "application/sdp")
            .nothing(307)
            .problems(&[404, 406, 409, 415, 422, 502, 503]),
        Route::new("get", "/whep/{name}", "Whether one may ask.", routing::get(whep::get))
            .for_who("anything")
            .nothing(200),
        Route::new(
            "delete",
            "/whep/{name}/{leg}",
            "Ends a viewer's session.",
            routing::delete(whep::delete),
        )
        .nothing(200)
        .problems(&[404]),
        Route::new(
            "patch",
            "/whep/{name}/{leg}",
            "Candidates that came later.",
            routing::patch(whep::patch),
        )
        .body("application/trickle-ice-sdpfrag", "Sdp")
        .nothing(204)
        .problems(&[404, 415, 422]),
        Route::new(
            "post",
            "/whip/{name}",
            "A publisher's offer (WHIP).",
            routing::post(whip::post),
        )
        .for_who("publish, to the encoder")
        .takes(&["rt"])
        .body("application/sdp", "Sdp")
        .other(201, "application/sdp")
        .nothing(307)
        .problems(&[404, 406, 409, 415, 422, 503]),
        Route::new("get", "/whip/{name}", "Whether one may ask.", routing::get(whip::get))
            .for_who("anything")
            .nothing(200),
        Route::new(
            "delete",
            "/whip/{name}/{leg}",
            "Ends a publisher's session.",
            routing::delete(whip::delete),
        )
        .nothing(200)
        .problems(&[404]),
        Route::new(
            "patch",
            "/whip/{name}/{leg}",
            "Candidates that came later.",
            routing::patch(whip::patch),
        )
        .body("application/trickle-ice-sdpfrag", "Sdp")
        .nothing(204)
        .problems(&[404, 415, 422]),
    ]
}
