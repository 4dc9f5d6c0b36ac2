//! Records of the ledger as the API shows and takes them: fields and sets by the names that their
//! kind gives them, other values of a field as conflicts, the state's hash as a strong entity tag.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::App;
use super::auth::{Caller, query_value};
use super::body::read_text;
use super::problem::Problem;
use crate::access::Who;
use crate::accounts::{
    Change, Expect, Field, Key, Kind, Receipt, Record, Refusal, SIBLINGS_MAX, Schema, Sibling,
    Write,
};
use crate::id::{AccountId, RecordId};

/// Longest body of a record, in bytes: all it may hold, as text.
const MAX_BODY: usize = 256 * 1024;
/// Most records in one answer; the last one's id is where the next goes on.
const PAGE_MAX: usize = 1_000;
/// How many nodes are waited for, and for how long.
const ROOST_WAIT: HeaderName = HeaderName::from_static("roost-wait");
/// Names the write; whoever has it shows it.
const ROOST_VERSION: HeaderName = HeaderName::from_static("roost-version");
/// Nodes that have the write on disk.
const ROOST_NODES: HeaderName = HeaderName::from_static("roost-nodes");
/// The longest wait for other nodes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who changes things without having logged in: whoever is at the machine.
const LOCAL: AccountId = AccountId([0; 16]);

/// `GET /api/v1/accounts[?after=]`.
pub(super) async fn accounts(
    State(app): State<App>,
    uri: Uri,
    caller: Caller,
) -> Result<Json<Vec<Value>>, Problem> {
    local(&caller)?;
    let after = query_value(&uri, "after").map(|id| parse(&id)).transpose()?;
    let records = app.backend.records(Kind::ACCOUNT, after, PAGE_MAX).await;
    Ok(Json(records.iter().map(|(key, record)| shown(*key, record)).collect()))
}

/// `GET /api/v1/accounts/{id}`.
pub(super) async fn account(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Response, Problem> {
    local(&caller)?;
    let key = Key { kind: Kind::ACCOUNT, id: parse(&id)? };
    let record = app.backend.record(key).await.filter(Record::exists).ok_or_else(missing)?;
    Ok(with_tag(Json(shown(key, &record)).into_response(), record.tag()))
}

/// `PUT /api/v1/accounts/{id}`: all of it. What is not in the body is taken away, but for what is
/// never shown.
pub(super) async fn put_account(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    local(&caller)?;
    let key = Key { kind: Kind::ACCOUNT, id: parse(&id)? };
    let headers = request.headers().clone();
    let text = read_text(request.into_body(), MAX_BODY).await?;
    let body: Map<String, Value> = serde_json::from_str(&text).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is no JSON object: {error}"))
    })?;
    let record = app.backend.record(key).await.unwrap_or_default();
    let expect = expected(&headers, &record)?;
    let schema = key.kind.schema().ok_or_else(missing)?;
    let changes = changes(schema, &record, body)?;
    let existed = record.exists();
    if changes.is_empty() {
        // Asked for what is there already: done, and nothing written.
        return Ok(with_tag(Json(shown(key, &record)).into_response(), record.tag()));
    }
    let receipt = write(&app, &headers, key, changes, expect).await?;
    tracing::info!(event = "record.changed", account = %caller.principal.name, id = %key.id, "changed");
    let record = app.backend.record(key).await.unwrap_or_default();
    let status = if existed { StatusCode::OK } else { StatusCode::CREATED };
    let answer = (status, Json(shown(key, &record))).into_response();
    Ok(with_receipt(with_tag(answer, receipt.tag), &receipt))
}

/// `DELETE /api/v1/accounts/{id}`.
pub(super) async fn delete_account(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    local(&caller)?;
    let key = Key { kind: Kind::ACCOUNT, id: parse(&id)? };
    let record = app.backend.record(key).await.filter(Record::exists).ok_or_else(missing)?;
    let expect = expected(&headers, &record)?;
    let receipt = write(&app, &headers, key, vec![Change::Delete], expect).await?;
    tracing::info!(event = "record.removed", account = %caller.principal.name, id = %key.id, "removed");
    Ok(with_receipt(StatusCode::NO_CONTENT.into_response(), &receipt))
}

/// Nobody can log in yet, and a client's credential is for watching and sending: accounts are the
/// business of whoever is at the node's own machine.
fn local(caller: &Caller) -> Result<(), Problem> {
    match caller.principal.who == Who::Local {
        true => Ok(()),
        false => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "accounts are read and changed on the node's own machine only: ask there, over \
             loopback and without a credential",
        )),
    }
}

async fn write(
    app: &App,
    headers: &HeaderMap,
    key: Key,
    changes: Vec<Change>,
    expect: Expect,
) -> Result<Receipt, Problem> {
    let wait = match headers.get(ROOST_WAIT) {
        None => 0,
        Some(value) => value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
            Problem::new(StatusCode::BAD_REQUEST, "roost-wait is a number of nodes")
        })?,
    };
    let write = Write { key, changes, account: LOCAL, expect, wait, patience: PATIENCE };
    app.backend.write(write).await.map_err(|refusal| {
        let status = match refusal {
            Refusal::TooMuch(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::TooMany | Refusal::Disk(_) => StatusCode::INSUFFICIENT_STORAGE,
            Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Changed | Refusal::Exists | Refusal::Missing => {
                StatusCode::PRECONDITION_FAILED
            }
            Refusal::Gone => StatusCode::GONE,
        };
        Problem::new(status, refusal.to_string())
    })
}

/// What `If-Match` or `If-None-Match` says; one of them is needed, so that nobody overwrites what
/// they have not seen.
fn expected(headers: &HeaderMap, record: &Record) -> Result<Expect, Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?").trim());
    let changed = || Problem::new(StatusCode::PRECONDITION_FAILED, Refusal::Changed.to_string());
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, Some("*")) if record.exists() => {
            Err(Problem::new(StatusCode::PRECONDITION_FAILED, Refusal::Exists.to_string()))
        }
        (None, Some("*")) => Ok(Expect::Absent),
        (Some("*"), None) if record.exists() => Ok(Expect::Tag(record.tag())),
        (Some("*"), None) => Err(changed()),
        (Some(tag), None) if record.exists() && tag == tag_text(record.tag()) => {
            Ok(Expect::Tag(record.tag()))
        }
        (Some(_), None) => Err(changed()),
        _ => Err(Problem::new(
            StatusCode::PRECONDITION_REQUIRED,
            "send If-Match with the ETag that you read, or If-None-Match: * to make a new one",
        )),
    }
}

/// What makes the record what the body says.
fn changes(
    schema: &Schema,
    record: &Record,
    mut body: Map<String, Value>,
) -> Result<Vec<Change>, Problem> {
    for read_only in ["id", "conflicts", "changed"] {
        body.remove(read_only);
    }
    let mut out = Vec::new();
    if record.is_deleted() {
        out.push(Change::Restore);
    }
    for (number, name, field) in schema.fields {
        match body.remove(*name) {
            Some(Value::Null) | None if *field == Field::Secret => {}
            Some(Value::Null) | None => {
                if record.value(*number).is_some() {
                    out.push(Change::Clear(*number));
                }
            }
            Some(value) => {
                let bytes = read(*field, &value).ok_or_else(|| wrong(name))?;
                let now = record.values(*number);
                if now.len() != 1 || now[0].value != bytes {
                    out.push(Change::Set(*number, bytes));
                }
            }
        }
    }
    if let Some(disabled) = body.remove("disabled") {
        let disabled = disabled.as_bool().ok_or_else(|| wrong("disabled"))?;
        let is = record.is_off() && !record.is_deleted();
        match (is, disabled) {
            (false, true) => out.push(Change::Disable),
            (true, false) => out.push(Change::Enable),
            _ => {}
        }
    }
    match body.keys().next() {
        Some(name) => Err(wrong(name)),
        None => Ok(out),
    }
}

fn shown(key: Key, record: &Record) -> Value {
    let mut out = Map::new();
    out.insert("id".into(), json!(key.id));
    let mut conflicts = BTreeMap::new();
    for (number, name, field) in key.kind.schema().map_or(&[][..], |schema| schema.fields) {
        let values = record.values(*number);
        let Some(first) = values.first().filter(|_| *field != Field::Secret) else { continue };
        out.insert((*name).into(), write_value(*field, first.value));
        if values.len() > 1 {
            let all = values.iter().take(SIBLINGS_MAX).map(|sibling| one(*field, sibling));
            conflicts.insert(*name, all.collect::<Vec<_>>());
        }
    }
    out.insert("disabled".into(), json!(record.is_off()));
    if !conflicts.is_empty() {
        out.insert("conflicts".into(), json!(conflicts));
    }
    if let Some(by) = record.changed() {
        let by = json!({ "account": by.account, "node": by.node, "at": by.wall });
        out.insert("changed".into(), by);
    }
    Value::Object(out)
}

fn one(field: Field, sibling: &Sibling<'_>) -> Value {
    let by = sibling.by;
    json!({
        "value": write_value(field, sibling.value),
        "account": by.map(|by| by.account),
        "node": by.map(|by| by.node),
        "at": by.map(|by| by.wall),
    })
}

fn write_value(field: Field, bytes: &[u8]) -> Value {
    match field {
        Field::Text => json!(String::from_utf8_lossy(bytes)),
        Field::Number => json!(postcard::from_bytes::<i64>(bytes).ok()),
        Field::Flag => json!(bytes == [1]),
        Field::Id => json!(data_encoding::HEXLOWER.encode(bytes)),
        Field::Bytes => json!(data_encoding::BASE64.encode(bytes)),
        Field::Secret => Value::Null,
    }
}

fn read(field: Field, value: &Value) -> Option<Vec<u8>> {
    Some(match field {
        Field::Text => value.as_str()?.as_bytes().to_vec(),
        Field::Number => postcard::to_stdvec(&value.as_i64()?).ok()?,
        Field::Flag => vec![u8::from(value.as_bool()?)],
        Field::Id => value.as_str()?.parse::<RecordId>().ok()?.0.to_vec(),
        Field::Bytes => data_encoding::BASE64.decode(value.as_str()?.as_bytes()).ok()?,
        // Set by verbs of their own, which hash them.
        Field::Secret => return None,
    })
}

fn wrong(name: &str) -> Problem {
    let detail = format!("\"{name}\" is no field of this kind, or its value is of another type");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

fn missing() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, Refusal::Missing.to_string())
}

fn parse(id: &str) -> Result<RecordId, Problem> {
    id.parse()
        .map_err(|_not_one| Problem::new(StatusCode::NOT_FOUND, "an id is 32 hexadecimal digits"))
}

fn tag_text(tag: u64) -> String {
    format!("\"{tag:016x}\"")
}

fn with_tag(mut answer: Response, tag: u64) -> Response {
    if let Ok(value) = HeaderValue::from_str(&tag_text(tag)) {
        answer.headers_mut().insert(header::ETAG, value);
    }
    answer
}

fn with_receipt(mut answer: Response, receipt: &Receipt) -> Response {
    let (actor, seq) = receipt.version;
    if let Ok(value) = HeaderValue::from_str(&format!("{actor}.{seq}")) {
        answer.headers_mut().insert(ROOST_VERSION, value);
    }
    answer.headers_mut().insert(ROOST_NODES, receipt.nodes.into());
    answer
}
