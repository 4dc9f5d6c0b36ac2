//! How a record looks as JSON: fields and sets by the names that its kind gives them, other values
//! of a field as conflicts, and what a node sees besides.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::reach::{Place, Reach};
use super::{Thing, live};
use crate::accounts::{Field, Key, Part, Record, SIBLINGS_MAX, Sibling};
use crate::id::RecordId;

/// What is shown besides what a kind has, and never taken from anybody.
pub(super) const READ_ONLY: [&str; 4] = ["id", "conflicts", "changed", "duplicate"];

/// A thing as somebody sees it.
pub(super) fn shown(reach: &Reach<'_>, thing: &Thing) -> Value {
    let Thing { key, record, live } = thing;
    let mut out = Map::new();
    out.insert("id".into(), json!(key.id));
    out.extend(live.clone().unwrap_or_else(|| live::unseen(key.kind)));
    let Some(schema) = key.kind.schema() else { return Value::Object(out) };
    let mut conflicts = BTreeMap::new();
    for part in schema.shown_fields() {
        let values: Vec<_> = visible_values(reach, part, record).collect();
        let Some(first) = values.first() else { continue };
        out.insert(part.name.into(), value_of(part.field, first.value));
        if values.len() > 1 {
            let all = values.iter().take(SIBLINGS_MAX).map(|value| one(reach, part.field, value));
            conflicts.insert(part.name, all.collect::<Vec<_>>());
        }
    }
    for part in schema.shown_sets() {
        let elements = visible_elements(reach, part, record);
        let elements: Vec<_> = elements.map(|element| value_of(part.field, element)).collect();
        out.insert(part.name.into(), json!(elements));
    }
    if schema.can_be_disabled() {
        out.insert("disabled".into(), json!(record.is_off() && !record.is_deleted()));
    }
    if !conflicts.is_empty() {
        out.insert("conflicts".into(), json!(conflicts));
    }
    if let Some(by) = record.changed() {
        let account = reach.knows(by.account).then_some(by.account);
        let by = json!({ "account": account, "node": by.node, "at": by.wall });
        out.insert("changed".into(), by);
    }
    if let Some(name) = reach.rights.name_of(*key).filter(|name| !name.is_empty()) {
        let domain = Place::of(key.kind, record).domain();
        if reach.rights.named(key.kind, domain, name).nth(1).is_some() {
            out.insert("duplicate".into(), json!(true));
        }
    }
    Value::Object(out)
}

/// The values of a field that somebody may see, the one that is shown first.
pub(super) fn visible_values<'r>(
    reach: &Reach<'_>,
    part: &Part,
    record: &'r Record,
) -> impl Iterator<Item = Sibling<'r>> {
    let values = record.values(part.number).into_iter();
    values.filter(move |sibling| is_visible(reach, part, sibling.value))
}

/// The elements of a set that somebody may see.
pub(super) fn visible_elements<'r>(
    reach: &Reach<'_>,
    part: &Part,
    record: &'r Record,
) -> impl Iterator<Item = &'r [u8]> {
    record.elements(part.number).filter(move |element| is_visible(reach, part, element))
}

/// What names a thing that somebody may not read is not shown to them.
fn is_visible(reach: &Reach<'_>, part: &Part, bytes: &[u8]) -> bool {
    let Some(kind) = part.names else { return true };
    let (ids, rest) = bytes.as_chunks::<16>();
    rest.is_empty() && ids.iter().all(|id| reach.reads_key(Key { kind, id: RecordId(*id) }))
}

fn one(reach: &Reach<'_>, field: Field, sibling: &Sibling<'_>) -> Value {
    let account = sibling.by.map(|by| by.account).filter(|account| reach.knows(*account));
    json!({
        "value": value_of(field, sibling.value),
        "account": account,
        "node": sibling.by.map(|by| by.node),
        "at": sibling.by.map(|by| by.wall),
    })
}

fn value_of(field: Field, bytes: &[u8]) -> Value {
    match field {
        Field::Name | Field::Text => json!(String::from_utf8_lossy(bytes)),
        Field::Number => json!(postcard::from_bytes::<i64>(bytes).ok()),
        Field::Flag => json!(bytes == [1]),
        Field::Id => json!(data_encoding::HEXLOWER.encode(bytes)),
        Field::Ids => {
            let ids = bytes.chunks(16).map(|id| json!(data_encoding::HEXLOWER.encode(id)));
            Value::Array(ids.collect())
        }
        Field::Bytes => json!(data_encoding::BASE64.encode(bytes)),
        Field::Secret => Value::Null,
    }
}
