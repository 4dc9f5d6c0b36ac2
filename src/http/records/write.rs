//! Writing: all of it, a part of it, and its end. Nobody overwrites what they have not seen.

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::super::App;
use super::super::auth::Caller;
use super::super::body::{from_json, read_text};
use super::super::problem::Problem;
use super::reach::{Place, Reach};
use super::read::{gone_or_missing, place, readable};
use super::versions::{PATIENCE, wait, with_receipt};
use super::wanted::{How, Wanted, name_after, place_after, wanted};
use super::{Asked, Thing, account_of, bad_request, missing, named, names, shape, with_tag};
use crate::access::DEFAULT_DOMAIN;
use crate::accounts::{Change, Expect, Key, Kind, Receipt, Refusal, Write};
use crate::id::RecordId;

/// Longest body of a record, in bytes: all it may hold, as text.
const MAX_BODY: usize = 256 * 1024;

/// `PUT /api/v1/{nouns}/{id or name}`: all of it. What is not in the body is taken away, but for
/// what is never shown.
pub(in crate::http) async fn put(
    kind: Kind,
    asked: Asked,
    body: Body,
) -> Result<Response, Problem> {
    let condition = Condition::of(&asked);
    let key = named(&asked, kind)?;
    let thing = Thing::load(&asked.app, key).await;
    let there = with_reach(&asked, |reach| readable(reach, &thing));
    match condition? {
        // It may be there for others: what is not theirs is not told from what is not.
        Condition::Absent if !there => {
            let body = object(body).await?;
            change(&asked, &thing, body, How::Create, Expect::Absent).await
        }
        Condition::Absent if !thing.record.exists() => {
            let body = object(body).await?;
            may_write(&asked, &thing)?;
            change(&asked, &thing, body, How::Create, Expect::Absent).await
        }
        _ if !there => Err(with_reach(&asked, |reach| gone_or_missing(reach, &thing))),
        condition => {
            may_write(&asked, &thing)?;
            let body = object(body).await?;
            replace(&asked, &thing, body, How::Replace, &condition).await
        }
    }
}

/// `PATCH /api/v1/{nouns}/{id or name}`: a merge patch (RFC 7396).
pub(in crate::http) async fn patch(
    kind: Kind,
    asked: Asked,
    body: Body,
) -> Result<Response, Problem> {
    let thing = theirs(kind, &asked).await?;
    may_write(&asked, &thing)?;
    let condition = Condition::of(&asked)?;
    let body = object(body).await?;
    replace(&asked, &thing, body, How::Merge, &condition).await
}

/// `DELETE /api/v1/{nouns}/{id or name}`.
pub(in crate::http) async fn delete(kind: Kind, asked: Asked) -> Result<Response, Problem> {
    let thing = theirs(kind, &asked).await?;
    may_write(&asked, &thing)?;
    let condition = Condition::of(&asked)?;
    let expect = met(&asked, &thing, &condition)?;
    removable(&asked, &thing)?;
    let receipt = write(&asked, &thing, vec![Change::Delete], expect).await?;
    tell(&asked, &thing, "record.removed");
    Ok(with_receipt(StatusCode::NO_CONTENT.into_response(), &receipt))
}

/// What is there and theirs to read.
pub(super) async fn theirs(kind: Kind, asked: &Asked) -> Result<Thing, Problem> {
    let key = named(asked, kind)?;
    let thing = Thing::load(&asked.app, key).await;
    match with_reach(asked, |reach| readable(reach, &thing)) {
        true => Ok(thing),
        false => Err(with_reach(asked, |reach| gone_or_missing(reach, &thing))),
    }
}

/// Whether they may write what is there.
pub(super) fn may_write(asked: &Asked, thing: &Thing) -> Result<(), Problem> {
    with_reach(asked, |reach| may_at(reach, thing.key.kind, place(reach, thing)))
}

fn may_at(reach: &Reach<'_>, kind: Kind, place: Place) -> Result<(), Problem> {
    reach.writes(kind, place).map_err(|needed| Problem::new(StatusCode::FORBIDDEN, needed))
}

pub(super) fn with_reach<T>(asked: &Asked, ask: impl FnOnce(&Reach<'_>) -> T) -> T {
    let view = asked.app.backend.view();
    let rights = asked.app.backend.rights();
    ask(&Reach::new(&rights, &view, asked.who()))
}

async fn object(body: Body) -> Result<Map<String, Value>, Problem> {
    let text = read_text(body, MAX_BODY).await?;
    from_json(&text).map_err(|error| bad_request(format!("the body is no JSON object: {error}")))
}

/// What `If-Match` or `If-None-Match` says; one of them is needed.
enum Condition {
    /// There is none.
    Absent,
    /// Whatever there is.
    Any,
    /// This state, as an entity tag.
    Tag(String),
}

impl Condition {
    fn of(asked: &Asked) -> Result<Self, Problem> {
        match (asked.header(&header::IF_MATCH), asked.header(&header::IF_NONE_MATCH)) {
            (None, Some("*")) => Ok(Self::Absent),
            (Some("*"), None) => Ok(Self::Any),
            (Some(tag), None) if is_tag(tag) => Ok(Self::Tag(tag.to_owned())),
            (Some(_), None) => {
                Err(bad_request("if-match is the ETag that was read, as it is, or *"))
            }
            _ => Err(Problem::new(
                StatusCode::PRECONDITION_REQUIRED,
                "send If-Match with the ETag that you read, or If-None-Match: * to make a new one",
            )),
        }
    }
}

/// Whether it looks like one of ours.
fn is_tag(text: &str) -> bool {
    let inside = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    inside.is_some_and(|inside| inside.len() == 16 && inside.bytes().all(digit))
}

/// What the ledger is to find, if the condition is met by what is there.
fn met(asked: &Asked, thing: &Thing, condition: &Condition) -> Result<Expect, Problem> {
    let expect = match thing.record.exists() {
        true => Expect::Tag(thing.record.tag()),
        false => Expect::Absent,
    };
    match condition {
        Condition::Any => Ok(expect),
        Condition::Tag(tag) if *tag == thing.tag() => Ok(expect),
        Condition::Absent => Err(failed(asked, thing, &Refusal::Exists)),
        Condition::Tag(_) => Err(failed(asked, thing, &Refusal::Changed)),
    }
}

/// 412, with what is there now and who made it so.
fn failed(asked: &Asked, thing: &Thing, refusal: &Refusal) -> Problem {
    let problem = Problem::new(StatusCode::PRECONDITION_FAILED, refusal.to_string());
    let problem = match HeaderValue::from_str(&thing.tag()) {
        Ok(tag) => problem.with(header::ETAG, tag),
        Err(_never) => problem,
    };
    problem.saying("current", with_reach(asked, |reach| shape::shown(reach, thing)))
}

/// Changes what is there.
async fn replace(
    asked: &Asked,
    thing: &Thing,
    body: Map<String, Value>,
    how: How,
    condition: &Condition,
) -> Result<Response, Problem> {
    let expect = match met(asked, thing, condition) {
        Ok(expect) => expect,
        Err(problem) => {
            // Asked for what is there already, as by a repeated request: done.
            let same = with_reach(asked, |reach| wanted(reach, thing, body, how));
            return match same.changes.is_empty() && same.faults.is_empty() {
                true => Ok(shown(asked, thing, StatusCode::OK)),
                false => Err(problem),
            };
        }
    };
    change(asked, thing, body, how, expect).await
}

async fn change(
    asked: &Asked,
    thing: &Thing,
    body: Map<String, Value>,
    how: How,
    expect: Expect,
) -> Result<Response, Problem> {
    let key = thing.key;
    let (changes, reserved) = with_reach(asked, |reach| {
        let Wanted { changes, faults } = wanted(reach, thing, body, how);
        if !faults.is_empty() {
            let errors: Vec<Value> = faults.iter().map(super::wanted::Fault::to_json).collect();
            let problem =
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the body is not right; see errors");
            return Err(problem.saying("errors", json!(errors)));
        }
        let after = place_after(thing, &changes);
        may_at(reach, key.kind, after)?;
        if thing.record.is_deleted() && !thing.is_there() {
            // It does not say whose it was, so only who has the mesh brings it back.
            let gone = |_| Problem::new(StatusCode::GONE, Refusal::Gone.to_string());
            reach.writes(key.kind, Place::Mesh).map_err(gone)?;
        }
        let hidden = thing.is_there() && !readable(reach, thing);
        if hidden && how == How::Create {
            let taken = "this id is taken; draw another";
            return Err(Problem::new(StatusCode::CONFLICT, taken));
        }
        let reserved = reserve(asked, reach, thing, &changes, after)?;
        Ok((changes, reserved))
    })?;
    if changes.is_empty() && thing.record.exists() {
        return Ok(shown(asked, thing, StatusCode::OK));
    }
    let existed = thing.record.exists();
    let receipt = write(asked, thing, changes, expect).await?;
    drop(reserved);
    tell(asked, thing, "record.changed");
    let after = Thing::load(&asked.app, key).await;
    let status = if existed { StatusCode::OK } else { StatusCode::CREATED };
    // Whoever gave something away may not see it any more.
    let answer = match with_reach(asked, |reach| readable(reach, &after)) {
        true => shown(asked, &after, status),
        false => StatusCode::NO_CONTENT.into_response(),
    };
    Ok(with_receipt(answer, &receipt))
}

/// Keeps the name that it gets from anybody else, unless somebody has it.
fn reserve(
    asked: &Asked,
    reach: &Reach<'_>,
    thing: &Thing,
    changes: &[Change],
    after: Place,
) -> Result<Option<names::Reservation>, Problem> {
    let key = thing.key;
    let Some(name) = name_after(thing, changes) else { return Ok(None) };
    let same = name_after(thing, &[]).as_deref() == Some(name.as_str());
    if same && thing.record.exists() && place(reach, thing) == after {
        return Ok(None);
    }
    let reserved = match names::taken(reach, key, after, &name) {
        true => None,
        false => asked.app.reserved.take(key.kind, after, &name),
    };
    reserved.map(Some).ok_or_else(|| {
        let what = key.kind.schema().map_or("record", |schema| schema.name);
        let detail = format!("another {what} is called \"{name}\" there; take another name");
        Problem::new(StatusCode::CONFLICT, detail)
    })
}

/// Whether nothing stands against its removal.
fn removable(asked: &Asked, thing: &Thing) -> Result<(), Problem> {
    let conflict = |detail: String| Err(Problem::new(StatusCode::CONFLICT, detail));
    let Key { kind, id } = thing.key;
    if kind == Kind::DOMAIN && id == DEFAULT_DOMAIN {
        return conflict("what names no domain is in this one: it stays".into());
    }
    if kind == Kind::NODE && thing.live.is_some() {
        return conflict(
            "a member's record says by which keys it is known; to put it out, revoke it: \
             POST /api/v1/nodes/{id}/revocation"
                .into(),
        );
    }
    if !thing.record.exists() {
        return conflict("it is there without a record: nothing can be removed".into());
    }
    if kind == Kind::DOMAIN {
        let held = with_reach(asked, |reach| {
            let key = reach.rights.any_in(id)?;
            let what = key.kind.schema()?.name;
            Some(format!("{what} {}", reach.name(key).unwrap_or("without a name")))
        });
        if let Some(held) = held {
            return conflict(format!(
                "{held} is in this domain; move or remove what is in it first"
            ));
        }
    }
    Ok(())
}

/// Has it written down, on behalf of whoever asks.
pub(super) async fn write(
    asked: &Asked,
    thing: &Thing,
    changes: Vec<Change>,
    expect: Expect,
) -> Result<Receipt, Problem> {
    let wait = wait(asked)?;
    let (key, account) = (thing.key, asked.account());
    let write = Write { key, changes, account, expect, wait, patience: PATIENCE };
    let refusal = match asked.app.backend.write(write).await {
        Ok(receipt) => return Ok(receipt),
        Err(refusal) => refusal,
    };
    if !matches!(refusal, Refusal::Changed | Refusal::Exists | Refusal::Missing) {
        return Err(refused(&refusal));
    }
    let now = Thing::load(&asked.app, key).await;
    Err(match with_reach(asked, |reach| readable(reach, &now)) {
        true => failed(asked, &now, &refusal),
        false => missing(),
    })
}

/// Writes down that somebody was given an enrolment string, so that it can be ended.
pub(in crate::http) async fn enrol(
    app: &App,
    caller: &Caller,
    id: RecordId,
    domain: RecordId,
    expires: u64,
) -> Result<(), Problem> {
    let expires = i64::try_from(expires).unwrap_or(i64::MAX);
    // Numbers always serialise.
    let expires = postcard::to_stdvec(&expires).unwrap_or_default();
    let write = Write {
        key: Key { kind: Kind::ENROLMENT, id },
        changes: vec![Change::Set(3, domain.0.to_vec()), Change::Set(4, expires)],
        account: account_of(caller),
        expect: Expect::Absent,
        wait: 0,
        patience: PATIENCE,
    };
    match app.backend.write(write).await {
        Ok(_) => Ok(()),
        Err(refusal) => Err(refused(&refusal)),
    }
}

/// A refusal that says nothing of what is there.
fn refused(refusal: &Refusal) -> Problem {
    let status = match refusal {
        Refusal::TooMuch(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::TooMany | Refusal::Disk(_) => StatusCode::INSUFFICIENT_STORAGE,
        Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Gone => StatusCode::GONE,
        Refusal::Changed | Refusal::Exists => StatusCode::PRECONDITION_FAILED,
        Refusal::Missing => StatusCode::NOT_FOUND,
    };
    let problem = Problem::new(status, refusal.to_string());
    match refusal {
        Refusal::Busy => problem.retry_after(1),
        _ => problem,
    }
}

fn shown(asked: &Asked, thing: &Thing, status: StatusCode) -> Response {
    let body = with_reach(asked, |reach| shape::shown(reach, thing));
    with_tag((status, Json(body)).into_response(), &thing.tag())
}

pub(super) fn tell(asked: &Asked, thing: &Thing, event: &'static str) {
    let kind = thing.key.kind.schema().map_or("record", |schema| schema.name);
    tracing::info!(
        event,
        account = %asked.caller.principal.name,
        kind,
        id = %thing.key.id,
        "a record was written"
    );
}
