//! What somebody wants a record to be, as changes of what it is. Everything is checked here, at the
//! edge: what other nodes wrote is merged whatever it is.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::reach::{Place, Reach};
use super::shape::{READ_ONLY, visible_elements, visible_values};
use super::{Thing, live, names};
use crate::access::{PLACEMENT_SETTING, POOLS_SETTING};
use crate::accounts::{Change, ELEMENTS_MAX, Field, IDS_MAX, Key, Kind, Part, Record, Schema};
use crate::id::{RecordId, valid_name};

/// Largest number, up and down: what every JSON parser reads without loss.
const NUMBER_MAX: i64 = 1 << 53;

/// How a body is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// All of it, of a record that is new.
    Create,
    /// All of it: what is not there is taken away.
    Replace,
    /// What is there: the rest stays as it is (RFC 7396).
    Merge,
}

/// Something that is wrong with a body, and where (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pointer: String,
    detail: String,
}

impl Fault {
    fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({ "pointer": self.pointer, "detail": self.detail })
    }
}

/// What a write comes to.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) changes: Vec<Change>,
    /// Everything that is wrong; then nothing is written.
    pub(super) faults: Vec<Fault>,
}

/// What makes the thing what the body says.
pub(super) fn wanted(
    reach: &Reach<'_>,
    thing: &Thing,
    mut body: Map<String, Value>,
    how: How,
) -> Wanted {
    let mut out = Wanted::default();
    let Some(schema) = thing.key.kind.schema() else { return out };
    if let Some(id) = body.get("id")
        && *id != json!(thing.key.id)
    {
        out.faults.push(Fault::new("/id", "an id is for life: it is the one in the path"));
    }
    forget_read_only(schema, &mut body);
    if thing.record.is_deleted() {
        out.changes.push(Change::Restore);
    }
    let mut want = Want { reach, thing, how, near: None, out };
    // First: names of other things are looked for in the same domain.
    let fields = || schema.fields.iter().filter(|part| part.written);
    for part in fields().filter(|part| part.names == Some(Kind::DOMAIN)) {
        want.field(part, body.remove(part.name));
    }
    want.near = want.place().domain();
    for part in fields().filter(|part| part.names != Some(Kind::DOMAIN)) {
        want.field(part, body.remove(part.name));
    }
    let mut named = None;
    for part in schema.shown_sets().filter(|part| part.written) {
        let value = body.remove(part.name);
        if thing.key.kind == Kind::RULE && part.names == Some(Kind::ENCODER) {
            named =
                value.as_ref().and_then(Value::as_array).filter(|list| !list.is_empty()).cloned();
        }
        want.set(part, value);
    }
    if schema.can_be_disabled() {
        want.disabled(body.remove("disabled"));
    }
    want.steering();
    let mut out = want.out;
    for name in body.keys() {
        let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        out.faults.push(Fault::new(pointer, format!("a {} has no such field", schema.name)));
    }
    let everything = schema.fields.iter().find(|part| part.name == "everything");
    if let Some(part) = everything
        && how == How::Create
        && named.is_none()
        && !out
            .changes
            .iter()
            .any(|change| matches!(change, Change::Set(at, _) if *at == part.number))
    {
        // A new rule that names no encoder and does not say is about all there is.
        out.changes.push(Change::Set(part.number, vec![1]));
    }
    out
}

/// What is shown can be sent back as it is.
fn forget_read_only(schema: &Schema, body: &mut Map<String, Value>) {
    for name in READ_ONLY.iter().chain(live::facts_of(schema.kind)) {
        body.remove(*name);
    }
    let fields = schema.shown_fields().chain(schema.shown_sets());
    for part in fields.filter(|part| !part.written) {
        body.remove(part.name);
    }
}

struct Want<'a> {
    reach: &'a Reach<'a>,
    thing: &'a Thing,
    how: How,
    /// The domain that it will be in.
    near: Option<RecordId>,
    out: Wanted,
}

impl Want<'_> {
    fn record(&self) -> &Record {
        &self.thing.record
    }

    fn fault(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.out.faults.push(Fault::new(pointer, detail));
    }

    /// Where it will be.
    fn place(&self) -> Place {
        place_after(self.thing, &self.out.changes)
    }

    fn field(&mut self, part: &Part, value: Option<Value>) {
        let pointer = format!("/{}", part.name);
        let value = match value {
            None if self.how == How::Merge => return,
            None | Some(Value::Null) => {
                if part.required {
                    self.fault(pointer, format!("it needs a {}", part.name));
                } else if visible_values(self.reach, part, &self.thing.record).next().is_some() {
                    self.out.changes.push(Change::Clear(part.number));
                }
                return;
            }
            Some(Value::Array(list)) if list.is_empty() && part.field == Field::Ids => {
                return self.field(part, Some(Value::Null));
            }
            Some(value) => value,
        };
        let now = self.record().values(part.number);
        let has = |bytes: &[u8]| now.iter().any(|sibling| sibling.value == bytes);
        match self.read(part, &value, &has) {
            Ok(bytes) => {
                if now.len() != 1 || now[0].value != bytes {
                    self.out.changes.push(Change::Set(part.number, bytes));
                }
            }
            Err(detail) => self.fault(pointer, detail),
        }
    }

    fn set(&mut self, part: &Part, value: Option<Value>) {
        let pointer = format!("/{}", part.name);
        let list = match value {
            None if self.how == How::Merge => return,
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) if list.len() <= ELEMENTS_MAX => list,
            Some(_) => {
                return self.fault(pointer, format!("it is a list of at most {ELEMENTS_MAX}"));
            }
        };
        let mut wanted = BTreeSet::new();
        for (at, value) in list.iter().enumerate() {
            let has = |bytes: &[u8]| self.thing.record.has(part.number, bytes);
            match self.read(part, value, &has) {
                Ok(bytes) => drop(wanted.insert(bytes)),
                Err(detail) => self.fault(format!("{pointer}/{at}"), detail),
            }
        }
        // What is not shown stays.
        let shown = visible_elements(self.reach, part, &self.thing.record);
        let shown: BTreeSet<Vec<u8>> = shown.map(<[u8]>::to_vec).collect();
        for element in shown.difference(&wanted) {
            self.out.changes.push(Change::Remove(part.number, element.clone()));
        }
        for element in wanted {
            if !self.thing.record.has(part.number, &element) {
                self.out.changes.push(Change::Add(part.number, element));
            }
        }
    }

    fn disabled(&mut self, value: Option<Value>) {
        let disabled = match value {
            None if self.how == How::Merge => return,
            None | Some(Value::Null) => false,
            Some(Value::Bool(disabled)) => disabled,
            Some(_) => return self.fault("/disabled", "it is true or false"),
        };
        let record = self.record();
        match (record.is_off() && !record.is_deleted(), disabled) {
            (false, true) => self.out.changes.push(Change::Disable),
            // A removed one may have been out of use before.
            (_, false) if record.is_deleted() => self.out.changes.push(Change::Enable),
            (true, false) => self.out.changes.push(Change::Enable),
            _ => {}
        }
    }

    /// What says something only together with something else.
    fn steering(&mut self) {
        let Some(schema) = self.thing.key.kind.schema() else { return };
        let part = |name: &str| schema.fields.iter().find(|part| part.name == name);
        if let (Some(pools), Some(placement)) = (part("pools"), part("placement"))
            && self.after(pools.number).is_none()
            && self.after(placement.number).is_some_and(|it| it == b"only")
        {
            let detail = "only says nowhere else than in pools, and none is named in pools";
            self.fault("/placement", detail);
        }
        if self.thing.key.kind != Kind::SETTING {
            return;
        }
        let name = name_after(self.thing, &self.out.changes);
        let value = part("value").and_then(|part| self.after(part.number));
        let value = value.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let wrong = match name.as_deref() {
            Some(POOLS_SETTING) => {
                let mut names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
                let unknown = names.find(|name| self.reach.rights.pool_named(name).is_none());
                unknown.map(|name| format!("there is no pool {name}: it names pools, with commas"))
            }
            Some(PLACEMENT_SETTING) if !["", "prefer", "only"].contains(&value.as_str()) => {
                Some("it is prefer or only".to_owned())
            }
            _ => None,
        };
        if let Some(detail) = wrong {
            self.fault("/value", detail);
        }
    }

    /// The bytes of a field once this is written.
    fn after(&self, field: u16) -> Option<Vec<u8>> {
        let said = self.out.changes.iter().rev().find_map(|change| match change {
            Change::Set(at, bytes) if *at == field => Some(Some(bytes.clone())),
            Change::Clear(at) if *at == field => Some(None),
            _ => None,
        });
        said.unwrap_or_else(|| self.record().value(field).map(<[u8]>::to_vec))
    }

    /// The bytes of a value. `has` knows what is there already: that is not looked at again.
    fn read(
        &self,
        part: &Part,
        value: &Value,
        has: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>, String> {
        Ok(match part.field {
            Field::Name | Field::Text => text(part, value, has)?.into_bytes(),
            Field::Number => {
                let number = value.as_i64().filter(|n| (-NUMBER_MAX..=NUMBER_MAX).contains(n));
                let number = number.ok_or("it is a whole number of at most 2^53")?;
                postcard::to_stdvec(&number).map_err(|_never| "it is no number")?
            }
            Field::Flag => vec![u8::from(value.as_bool().ok_or("it is true or false")?)],
            Field::Id => {
                let text = value.as_str().ok_or("it is an id or a name")?;
                self.reference(part, text, has)?.0.to_vec()
            }
            Field::Ids => {
                let list = value.as_array().filter(|list| list.len() <= IDS_MAX);
                let list = list.ok_or_else(|| format!("it is a list of at most {IDS_MAX}"))?;
                let held = self.thing.record.values(part.number);
                let held = |id: &[u8]| held.iter().any(|it| it.value.chunks(16).any(|it| it == id));
                let mut ids: Vec<[u8; 16]> = Vec::new();
                for value in list {
                    let text = value.as_str().ok_or("it is a list of ids or names")?;
                    let id = self.reference(part, text, &held);
                    let id = id.map_err(|detail| format!("{text}: {detail}"))?.0;
                    if ids.contains(&id) {
                        return Err(format!("{text} is named twice"));
                    }
                    ids.push(id);
                }
                ids.concat()
            }
            Field::Bytes | Field::Secret => return Err("nobody writes this".into()),
        })
    }

    fn reference(
        &self,
        part: &Part,
        text: &str,
        has: &dyn Fn(&[u8]) -> bool,
    ) -> Result<RecordId, String> {
        let kind = part.names.ok_or("it names nothing")?;
        let none = || {
            let what = kind.schema().map_or("record", |schema| schema.name);
            format!("there is no such {what}")
        };
        let Ok(id) = text.parse::<RecordId>() else {
            return match names::find(self.reach, kind, text, self.near).as_slice() {
                [] => {
                    let candidates = names::candidates(self.reach, kind, text);
                    Err(format!("{}{}", none(), names::is_it(&candidates)))
                }
                [one] => Ok(*one),
                [one, other, ..] => Err(format!("{one} and {other} have this name: give the id")),
            };
        };
        let key = Key { kind, id };
        let reads = self.reach.reads_key(key);
        let there = reads && (has(&id.0) || self.reach.is_there(key));
        there.then_some(id).ok_or_else(none)
    }
}

/// Where a record is once these changes are made, if they say so.
pub(super) fn place_after(thing: &Thing, changes: &[Change]) -> Place {
    let kind = thing.key.kind;
    let number = kind.schema().and_then(|schema| schema.domain()).map(|part| part.number);
    let said = changes.iter().rev().find_map(|change| match change {
        Change::Set(at, bytes) if Some(*at) == number => {
            Some(Place::Domain(RecordId(bytes.as_slice().try_into().ok()?)))
        }
        Change::Clear(at) if Some(*at) == number => Some(Place::without_domain(kind)),
        _ => None,
    });
    said.unwrap_or_else(|| Place::of(kind, &thing.record))
}

/// The name that a record has once these changes are made.
pub(super) fn name_after(thing: &Thing, changes: &[Change]) -> Option<String> {
    let part = thing.key.kind.schema()?.fields.iter().find(|part| part.field == Field::Name)?;
    let said = changes.iter().rev().find_map(|change| match change {
        Change::Set(at, bytes) if *at == part.number => Some(Some(bytes.clone())),
        Change::Clear(at) if *at == part.number => Some(None),
        _ => None,
    });
    let bytes = said.unwrap_or_else(|| thing.record.value(part.number).map(<[u8]>::to_vec))?;
    String::from_utf8(bytes).ok()
}

fn text(part: &Part, value: &Value, has: &dyn Fn(&[u8]) -> bool) -> Result<String, String> {
    let text = value.as_str().ok_or("it is a text")?;
    if has(text.as_bytes()) {
        return Ok(text.to_owned());
    }
    if part.field == Field::Name && (!valid_name(text) || text.parse::<RecordId>().is_ok()) {
        return Err("a name is 1 to 64 of a-z, 0-9, '.', '_' and '-', and no id".into());
    }
    if !part.one_of.is_empty() && !part.one_of.contains(&text) {
        return Err(format!("it is one of {}", part.one_of.join(", ")));
    }
    if text.len() > part.max {
        return Err(format!("it has {} bytes; it may have {}", text.len(), part.max));
    }
    let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(odd) {
        return Err("it holds characters that are not for people".into());
    }
    Ok(text.to_owned())
}
