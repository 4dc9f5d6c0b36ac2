//! Reading: one, and many, a page at a time.

use std::collections::BTreeSet;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::super::problem::Problem;
use super::reach::{Place, Reach};
use super::versions::fresh;
use super::write::with_reach;
use super::{Asked, Thing, answered, bad_request, limit, live, missing, named, shape, with_tag};
use crate::access::{Right, Scope};
use crate::accounts::{Key, Kind, Refusal};
use crate::id::RecordId;

/// Names looked at while the index of rights is held: some 100 µs, for which changes wait.
const SCAN: usize = 1_000;

/// What the caller may do with what was asked for: `read`, or `read, write`. Of a list: make one.
const ROOST_MAY: HeaderName = HeaderName::from_static("roost-may");

/// `GET /api/v1/{nouns}/{id or name}`.
pub(in crate::http) async fn item(kind: Kind, asked: Asked) -> Result<Response, Problem> {
    let fresh = fresh(&asked).await?;
    Ok(fresh.mark(answered(one(kind, &asked).await)))
}

async fn one(kind: Kind, asked: &Asked) -> Result<Response, Problem> {
    let key = named(asked, kind)?;
    let thing = Thing::load(&asked.app, key).await;
    let view = asked.app.backend.view();
    let rights = asked.app.backend.rights();
    let reach = Reach::new(&rights, &view, asked.who());
    if !readable(&reach, &thing) {
        return Err(gone_or_missing(&reach, &thing));
    }
    let answer = Json(shape::shown(&reach, &thing)).into_response();
    let writes = reach.writes(kind, place(&reach, &thing)).is_ok();
    Ok(with_may(with_tag(answer, &thing.tag()), writes))
}

/// Says whether they may write here, too.
fn with_may(mut answer: Response, writes: bool) -> Response {
    let may = if writes { "read, write" } else { "read" };
    answer.headers_mut().insert(ROOST_MAY, HeaderValue::from_static(may));
    answer
}

/// Whether there is something that they may read.
pub(super) fn readable(reach: &Reach<'_>, thing: &Thing) -> bool {
    thing.is_there() && reach.reads(thing.key, place(reach, thing))
}

/// Where it is now.
pub(super) fn place(reach: &Reach<'_>, thing: &Thing) -> Place {
    match thing.record.exists() {
        true => Place::of(thing.key.kind, &thing.record),
        false => reach.place(thing.key),
    }
}

/// A removed record does not say whose it was: that it was there is told to who has the mesh.
pub(super) fn gone_or_missing(reach: &Reach<'_>, thing: &Thing) -> Problem {
    let told = reach.rights.may(reach.who, Right::Administer, Scope::Mesh);
    match thing.record.is_deleted() && told {
        true => Problem::new(StatusCode::GONE, Refusal::Gone.to_string()),
        false => missing(),
    }
}

/// What a list is about.
pub(super) struct Filter {
    kind: Kind,
    /// Part of the name, in small letters.
    q: Option<String>,
    domain: Option<RecordId>,
}

impl Filter {
    pub(super) fn of(kind: Kind, asked: &Asked) -> Result<Self, Problem> {
        let domain = match asked.query("domain") {
            None => None,
            Some(text) => Some(domain(asked, &text)?),
        };
        Ok(Self { kind, q: asked.query("q").map(|q| q.to_lowercase()), domain })
    }

    /// Whether it is about something that is there, and that they may read.
    pub(super) fn takes(&self, reach: &Reach<'_>, id: RecordId) -> bool {
        let key = Key { kind: self.kind, id };
        if !reach.is_there(key) {
            return false;
        }
        let place = reach.place(key);
        let named =
            || self.q.as_ref().is_none_or(|q| reach.name(key).is_some_and(|n| n.contains(q)));
        self.domain.is_none_or(|domain| place.domain() == Some(domain))
            && named()
            && reach.reads(key, place)
    }
}

fn domain(asked: &Asked, text: &str) -> Result<RecordId, Problem> {
    let view = asked.app.backend.view();
    let rights = asked.app.backend.rights();
    let reach = Reach::new(&rights, &view, asked.who());
    let id = text.parse().ok().or_else(|| rights.domain_named(text));
    let seen = id.map(|id| Key { kind: Kind::DOMAIN, id });
    let seen = seen.filter(|key| reach.is_there(*key) && reach.reads_key(*key));
    seen.map(|key| key.id)
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "there is no such domain"))
}

/// `GET /api/v1/{nouns}`.
pub(in crate::http) async fn list(kind: Kind, asked: Asked) -> Result<Response, Problem> {
    let filter = Filter::of(kind, &asked)?;
    let limit = limit(&asked)?;
    let after = match asked.query("cursor") {
        None => None,
        Some(text) => {
            let id: Result<RecordId, _> = text.parse();
            Some(
                id.map_err(|_not_one| bad_request("cursor is what next of a list said, as it is"))?,
            )
        }
    };
    let fresh = fresh(&asked).await?;
    // One more, to know whether there is one.
    let mut ids = page(&asked, &filter, after, limit + 1).await;
    let next = (ids.len() > limit).then(|| ids.truncate(limit)).and_then(|()| ids.last().copied());
    let items = items(&asked, &filter, &ids).await;
    let items: Vec<Value> = items.into_iter().map(|(_, item)| item).collect();
    let answer = Json(json!({ "items": items, "next": next })).into_response();
    let makes = with_reach(&asked, |reach| reach.makes(kind));
    Ok(fresh.mark(with_may(answer, makes)))
}

/// The ids of what a filter takes, in order, after one. The index is held for a moment at a time.
pub(super) async fn page(
    asked: &Asked,
    filter: &Filter,
    mut after: Option<RecordId>,
    limit: usize,
) -> Vec<RecordId> {
    let mut found = Vec::new();
    loop {
        let ended = {
            let view = asked.app.backend.view();
            let rights = asked.app.backend.rights();
            let reach = Reach::new(&rights, &view, asked.who());
            let recorded = rights.after(filter.kind, after).take(SCAN).map(|(id, ..)| id);
            let mut ids: BTreeSet<RecordId> = recorded.collect();
            let last = ids.last().copied().filter(|_| ids.len() == SCAN);
            let unrecorded = live::ids(&view, filter.kind).into_iter();
            ids.extend(unrecorded.filter(|id| {
                after.is_none_or(|after| *id > after) && last.is_none_or(|last| *id <= last)
            }));
            let taken = ids.iter().copied().filter(|id| filter.takes(&reach, *id));
            found.extend(taken.take(limit - found.len()));
            after = last;
            last.is_none() || found.len() >= limit
        };
        if ended {
            return found;
        }
        // Other requests have their turn.
        tokio::task::yield_now().await;
    }
}

/// What these look like now; what is not theirs any more is left out.
pub(super) async fn items(
    asked: &Asked,
    filter: &Filter,
    ids: &[RecordId],
) -> Vec<(RecordId, Value)> {
    let keys: Vec<Key> = ids.iter().map(|id| Key { kind: filter.kind, id: *id }).collect();
    let records = asked.app.backend.records(keys.clone()).await;
    let view = asked.app.backend.view();
    let rights = asked.app.backend.rights();
    let reach = Reach::new(&rights, &view, asked.who());
    let things = keys.into_iter().zip(records).map(|(key, record)| {
        let live = live::facts(&view, key);
        Thing { key, record: record.unwrap_or_default(), live }
    });
    let theirs = things.filter(|thing| readable(&reach, thing));
    theirs.map(|thing| (thing.key.id, shape::shown(&reach, &thing))).collect()
}
