//! The least server that keeps the API's contract for records, on a socket: for tests of commands.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::exit::{Exit, Failure};
use crate::cli::{Roost, asking, block_on};

/// What it keeps, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// By kind and id: the record, and how often it changed.
    pub(crate) items: BTreeMap<(String, String), (Value, u32)>,
    /// Method and path of every request, with the conditions that it had.
    pub(crate) asked: Vec<String>,
    pub(crate) passwords: Vec<(String, String)>,
    /// What somebody else changes just before the next write.
    pub(crate) meanwhile: Option<Value>,
    /// How many nodes have what is written.
    pub(crate) nodes: u32,
}

pub(crate) struct Fake {
    folder: TempDir,
    kept: Arc<Mutex<Kept>>,
    _serving: tokio::runtime::Runtime,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kept = Arc::new(Mutex::new(Kept { nodes: 1, ..Kept::default() }));
        let router = axum::Router::new()
            .route("/api/v1/{kind}", axum::routing::any(many))
            .route("/api/v1/{kind}/{name}", axum::routing::any(one))
            .route("/api/v1/{kind}/{name}/{more}", axum::routing::any(more))
            .with_state(kept.clone());
        let serving = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let path = folder.path().join("s");
        let listener = serving.block_on(async { tokio::net::UnixListener::bind(path).unwrap() });
        serving.spawn(async move { axum::serve(listener, router).await });
        Self { folder, kept, _serving: serving }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    /// The record of this kind and name.
    pub(crate) fn item(&self, kind: &str, name: &str) -> Option<Value> {
        let kept = self.kept();
        let mut items = kept.items.iter().filter(|((of, _), _)| of == kind);
        items.find(|(_, (item, _))| item["name"] == name).map(|(_, (item, _))| item.clone())
    }

    /// Runs a command; nothing of it may wait for a terminal.
    pub(crate) fn run(&self, line: &str) -> Result<(), Failure> {
        let line = format!("roost -q {line} --addr unix:{}", self.path().display());
        let given = super::arguments(line.split(' ').map(Into::into));
        let args = <Roost as clap::Parser>::try_parse_from(given)
            .map_err(|error| Failure::said(Exit::Usage, error))?;
        block_on(asking(args.command))
    }
}

type Shared = Arc<Mutex<Kept>>;

fn problem(status: u16, more: Value) -> Response {
    let mut body = json!({ "status": status, "detail": "no" });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

fn shown(kept: &Kept, item: &Value, version: u32, status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    let headers = [("etag", format!("\"{version}\"")), ("roost-nodes", kept.nodes.to_string())];
    (status, headers, Json(item.clone())).into_response()
}

/// The id of what is called so, with or without its domain.
fn id_of(kept: &Kept, kind: &str, name: &str) -> Option<String> {
    let (domain, name) = match name.split_once('/') {
        Some((domain, name)) => (Some(id_of(kept, "domains", domain)?), name),
        None => (None, name),
    };
    let items = kept.items.iter().filter(|((of, _), _)| of == kind);
    let found = items.into_iter().find(|((_, id), (item, _))| {
        id == name || (item["name"] == name && item["domain"].as_str() == domain.as_deref())
    });
    found.map(|((_, id), _)| id.clone())
}

async fn many(State(shared): State<Shared>, Path(kind): Path<String>, uri: Uri) -> Response {
    let kept = shared.lock().unwrap();
    let query = uri.query().unwrap_or_default();
    let value = |name: &str| {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    let (after, q) = (value("cursor").unwrap_or_default(), value("q").unwrap_or_default());
    // Pages of two, whatever is asked for: nobody may rely on more.
    let items = kept.items.iter().filter(|((of, id), _)| *of == kind && *id > after);
    let items = items.filter(|(_, (item, _))| item["name"].as_str().unwrap().contains(&q));
    let items: Vec<Value> = items.map(|(_, (item, _))| item.clone()).take(3).collect();
    let next = (items.len() > 2).then(|| items[1]["id"].clone());
    let page: Vec<Value> = items.into_iter().take(2).collect();
    Json(json!({ "items": page, "next": next })).into_response()
}

async fn one(
    State(shared): State<Shared>,
    method: Method,
    Path((kind, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut kept = shared.lock().unwrap();
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let condition = header("if-match").or_else(|| header("if-none-match")).unwrap_or_default();
    kept.asked.push(format!("{method} {kind} {condition}"));
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if method == Method::PUT {
        if kept.items.contains_key(&(kind.clone(), name.clone())) {
            return problem(412, json!({}));
        }
        if body["role"] == "king" {
            let errors = json!([{ "pointer": "/role", "detail": "it is one of viewer, admin" }]);
            return problem(422, json!({ "errors": errors }));
        }
        if condition != "*" {
            return problem(428, json!({}));
        }
        let mut item = body;
        item["id"] = json!(name);
        kept.items.insert((kind, name), (item.clone(), 1));
        return shown(&kept, &item, 1, 201);
    }
    let Some(id) = id_of(&kept, &kind, &name) else { return problem(404, json!({})) };
    let key = (kind, id);
    if method != Method::GET
        && let Some(Value::Object(other)) = kept.meanwhile.take()
    {
        let (item, version) = kept.items.get_mut(&key).unwrap();
        item.as_object_mut().unwrap().extend(other);
        *version += 1;
    }
    let (item, version) = kept.items[&key].clone();
    if method == Method::GET {
        return shown(&kept, &item, version, 200);
    }
    if condition != format!("\"{version}\"") {
        let mut answer = problem(412, json!({ "current": item }));
        answer.headers_mut().insert("etag", format!("\"{version}\"").parse().unwrap());
        return answer;
    }
    if method == Method::DELETE {
        kept.items.remove(&key);
        return (StatusCode::NO_CONTENT, [("roost-nodes", kept.nodes.to_string())]).into_response();
    }
    let mut item = item;
    let fields = item.as_object_mut().unwrap();
    for (name, value) in body.as_object().unwrap() {
        fields.remove(name);
        if !value.is_null() {
            fields.insert(name.clone(), value.clone());
        }
        if let Some(conflicts) = fields.get_mut("conflicts") {
            conflicts.as_object_mut().unwrap().remove(name);
        }
    }
    kept.items.insert(key, (item.clone(), version + 1));
    shown(&kept, &item, version + 1, 200)
}

async fn more(
    State(shared): State<Shared>,
    method: Method,
    Path((kind, name, more)): Path<(String, String, String)>,
    body: Bytes,
) -> Response {
    let mut kept = shared.lock().unwrap();
    let Some(id) = id_of(&kept, &kind, &name) else { return problem(404, json!({})) };
    kept.asked.push(format!("{method} {kind} {more}"));
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    match more.as_str() {
        "password" => {
            kept.passwords.push((id, body["password"].as_str().unwrap().to_owned()));
            StatusCode::NO_CONTENT.into_response()
        }
        "keys" if method == Method::POST => {
            let made = json!({ "key": "rk1x", "prefix": "ab12cd", "expires_old": null });
            (StatusCode::CREATED, Json(made)).into_response()
        }
        _ => Json(json!({ "items": [] })).into_response(),
    }
}
