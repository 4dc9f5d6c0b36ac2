//! Who changed what, where and when: of one record, and of all.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::super::problem::Problem;
use super::reach::Reach;
use super::versions::fresh;
use super::write::{theirs, with_reach};
use super::{Asked, bad_request, limit};
use crate::access::{Right, Scope};
use crate::accounts::{Audit, Entry, Kind, Stamp, Touched};

/// Changes looked at in one step of an answer about all of them.
const STEP: usize = 500;
/// Steps of one answer: what is beyond is a matter of the next.
const STEPS: usize = 20;

/// `GET /api/v1/{nouns}/{id or name}/history`.
pub(in crate::http) async fn history(kind: Kind, asked: Asked) -> Result<Response, Problem> {
    let fresh = fresh(&asked).await?;
    let thing = theirs(kind, &asked).await?;
    let items: Vec<Value> = with_reach(&asked, |reach| {
        let entries = thing.record.history();
        let said = |it: Entry| said(reach, kind, it.by, &it.what, it.void);
        entries.map(|entry| Value::Object(said(entry))).collect()
    });
    Ok(fresh.mark(Json(json!({ "items": items })).into_response()))
}

/// `GET /api/v1/audit`.
pub(in crate::http) async fn audit(asked: Asked) -> Result<Response, Problem> {
    let limit = limit(&asked)?;
    let mut before =
        match asked.query("cursor") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_not_one| {
                bad_request("cursor is what next of an answer said, as it is")
            })?),
        };
    let fresh = fresh(&asked).await?;
    let (mut items, mut more) = (Vec::new(), false);
    for _ in 0..STEPS {
        let entries = asked.app.backend.audit(before, STEP).await;
        more = entries.len() == STEP;
        with_reach(&asked, |reach| {
            for entry in entries {
                if items.len() == limit {
                    more = true;
                    return;
                }
                before = Some(entry.cursor());
                items.extend(entry_of(reach, &entry));
            }
        });
        if !more || items.len() == limit {
            break;
        }
    }
    let next = before.filter(|_| more).map(|cursor| cursor.to_string());
    Ok(fresh.mark(Json(json!({ "items": items, "next": next })).into_response()))
}

/// A change of what they may read. A removed record does not say whose it was.
fn entry_of(reach: &Reach<'_>, entry: &Audit) -> Option<Value> {
    let schema = entry.key.kind.schema()?;
    schema.noun?;
    let theirs = reach.is_there(entry.key) && reach.reads_key(entry.key);
    if !theirs && !reach.rights.may(reach.who, Right::Administer, Scope::Mesh) {
        return None;
    }
    let mut out = said(reach, entry.key.kind, entry.by, &entry.what, entry.void);
    out.insert("kind".into(), json!(schema.name));
    out.insert("id".into(), json!(entry.key.id));
    out.insert("name".into(), json!(reach.name(entry.key)));
    Some(Value::Object(out))
}

fn said(
    reach: &Reach<'_>,
    kind: Kind,
    by: Stamp,
    what: &[Touched],
    void: bool,
) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("at".into(), json!(by.wall));
    out.insert("account".into(), json!(reach.knows(by.account).then_some(by.account)));
    out.insert("account_name".into(), json!(reach.account_name(by.account)));
    out.insert("node".into(), json!(by.node));
    out.insert("node_name".into(), json!(reach.node_name(by.node)));
    out.insert("what".into(), what.iter().map(|touched| words(kind, *touched)).collect());
    out.insert("void".into(), json!(void));
    out
}

fn words(kind: Kind, touched: Touched) -> Value {
    let schema = kind.schema();
    let field = |number: u16| {
        let name = schema.and_then(|schema| schema.field_name(number));
        name.map_or_else(|| format!("field {number}"), str::to_owned)
    };
    let set = |number: u16| {
        let name = schema.and_then(|schema| schema.set_name(number));
        name.map_or_else(|| format!("set {number}"), str::to_owned)
    };
    json!(match touched {
        Touched::Set(number) => format!("set {}", field(number)),
        Touched::Clear(number) => format!("cleared {}", field(number)),
        Touched::Add(number) => format!("added to {}", set(number)),
        Touched::Remove(number) => format!("removed from {}", set(number)),
        Touched::Delete => "removed".to_owned(),
        Touched::Restore => "restored".to_owned(),
        Touched::Disable => "disabled".to_owned(),
        Touched::Enable => "enabled".to_owned(),
    })
}
