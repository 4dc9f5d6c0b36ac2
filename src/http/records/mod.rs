//! Records of the ledger over HTTP, all kinds alike: what a kind has is in its schema
//! ([`crate::accounts::Kind`]), who may read and write it in [`reach`], how it looks in [`shape`].

pub(super) mod history;
pub(super) mod keys;
mod live;
mod names;
mod reach;
pub(super) mod read;
mod shape;
#[cfg(test)]
mod tests;
mod versions;
mod wanted;
pub(super) mod watch;
pub(super) mod write;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::auth::{Caller, query_value};
use super::problem::Problem;
use crate::access::Who;
use crate::accounts::{Key, Kind, Record, Refusal};
use crate::id::{AccountId, RecordId};

pub(super) use live::{ENCODER_FACTS, NODE_FACTS};
pub(super) use names::Reserved;

/// Whose changes those are that were made at the node's own machine.
pub(super) const LOCAL: AccountId = AccountId([0; 16]);

/// A request about records.
pub(super) struct Asked {
    app: App,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
    /// What stands for `{…}` in the path.
    path: Vec<String>,
}

impl FromRequestParts<App> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let path = RawPathParams::from_request_parts(parts, app).await.map_err(|_not_text| {
            Problem::new(StatusCode::BAD_REQUEST, "the path is no text in UTF-8")
        })?;
        Ok(Self {
            app: app.clone(),
            caller,
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
            path: path.iter().map(|(_, value)| value.to_owned()).collect(),
        })
    }
}

impl Asked {
    fn who(&self) -> &Who {
        &self.caller.principal.who
    }

    /// On whose behalf records are written.
    fn account(&self) -> AccountId {
        account_of(&self.caller)
    }

    fn path(&self, at: usize) -> &str {
        self.path.get(at).map_or("", String::as_str)
    }

    fn query(&self, name: &str) -> Option<String> {
        query_value(&self.uri, name)
    }

    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap_or("?").trim())
    }
}

/// On whose behalf somebody writes.
fn account_of(caller: &Caller) -> AccountId {
    match caller.principal.who {
        Who::Account(account) => account,
        _ => LOCAL,
    }
}

/// A record, and what is known besides.
struct Thing {
    key: Key,
    record: Record,
    /// What this node sees of it.
    live: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Thing {
    async fn load(app: &App, key: Key) -> Self {
        let record = app.backend.record(key).await.unwrap_or_default();
        let live = live::facts(&app.backend.view(), key);
        Self { key, record, live }
    }

    /// Whether there is something to show: a record, or what is there without one.
    fn is_there(&self) -> bool {
        self.record.exists() || self.live.is_some()
    }

    fn tag(&self) -> String {
        // Without a record there is the empty one, also in place of a removed one.
        let tag = if self.record.exists() { self.record.tag() } else { Record::default().tag() };
        format!("\"{tag:016x}\"")
    }
}

/// What somebody may not see is not there, in the same words.
fn missing() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, Refusal::Missing.to_string())
}

fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

fn answered(answer: Result<Response, Problem>) -> Response {
    answer.unwrap_or_else(IntoResponse::into_response)
}

fn with_tag(mut answer: Response, tag: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(tag) {
        answer.headers_mut().insert(header::ETAG, value);
    }
    answer
}

/// `?limit=`: how many at once.
fn limit(asked: &Asked) -> Result<usize, Problem> {
    let Some(text) = asked.query("limit") else { return Ok(PAGE) };
    let limit = text.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
    limit.ok_or_else(|| bad_request(format!("limit is 1 to {PAGE_MAX}")))
}

/// Items in one answer, unless it is asked for more or fewer.
const PAGE: usize = 100;
/// Most items in one answer.
pub(super) const PAGE_MAX: usize = 1_000;

/// The record of this kind that a path names: by id, or by name.
fn named(asked: &Asked, kind: Kind) -> Result<Key, Problem> {
    let text = asked.path(0);
    if let Ok(id) = text.parse::<RecordId>() {
        return Ok(Key { kind, id });
    }
    let view = asked.app.backend.view();
    let rights = asked.app.backend.rights();
    let reach = reach::Reach::new(&rights, &view, asked.who());
    let mut found = names::find(&reach, kind, text, None).into_iter();
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(Key { kind, id }),
        (Some(first), Some(second)) => Err(Problem::new(
            StatusCode::CONFLICT,
            format!("{first} and {second} have this name; name one by its id, and rename it"),
        )),
        (None, _) => {
            let candidates = names::candidates(&reach, kind, text);
            let detail = format!("{}{}", Refusal::Missing, names::is_it(&candidates));
            let problem = Problem::new(StatusCode::NOT_FOUND, detail);
            Err(match candidates.is_empty() {
                true => problem,
                false => problem.saying("candidates", serde_json::json!(candidates)),
            })
        }
    }
}
