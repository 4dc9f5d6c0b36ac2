//! Finding things by what people call them, and calling them by that.

use std::collections::BTreeMap;

use serde_json::Value;

use super::kinds::{Kind, What};
use crate::cli::call::{Answer, Ask, Mesh};
use crate::cli::exit::{Exit, Failure};
use crate::cli::table;

/// How much of an id people see, and the least of one that they may give.
const ID_SHORT: usize = 8;
const ID_LEAST: usize = 4;
/// Items that are asked for at once, as many as there may be.
const PAGE: u32 = 1_000;

/// A record, as the API has it, with its entity tag.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) value: Value,
    pub(super) tag: String,
}

impl Item {
    pub(super) fn of(answer: &Answer, what: &str) -> Result<Self, Failure> {
        let tag = answer.header("etag").unwrap_or("*").to_owned();
        Ok(Self { value: answer.decode(what)?, tag })
    }

    pub(super) fn id(&self) -> &str {
        id_of(&self.value)
    }

    pub(super) fn name(&self) -> &str {
        self.value["name"].as_str().unwrap_or("-")
    }
}

/// An item's id.
pub(super) fn id_of(item: &Value) -> &str {
    item["id"].as_str().or_else(|| item["node"].as_str()).unwrap_or_default()
}

/// The part of an id that people see.
pub(super) fn short_id(id: &str) -> &str {
    id.get(..ID_SHORT).unwrap_or(id)
}

pub(super) fn is_id(text: &str) -> bool {
    text.len() == 32 && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The path of one.
pub(super) fn path(kind: &Kind, name: &str) -> String {
    format!("/api/v1/{}/{}", kind.plural, encode(name))
}

/// Percent-encoded for a path.
pub(super) fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'~');
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// The record that is called `text`, in `domain` if that is given.
pub(super) async fn find(
    mesh: &Mesh,
    kind: &Kind,
    text: &str,
    domain: Option<&str>,
) -> Result<Item, Failure> {
    let what = format!("cannot find {} {text}", kind.word);
    let full = match domain {
        Some(domain) if !text.contains('/') && !is_id(text) => format!("{domain}/{text}"),
        _ => text.to_owned(),
    };
    let answer = mesh.ask(&Ask::new("GET", path(kind, &full))).await?;
    if answer.status != 404 {
        return Item::of(&answer.good(&what)?, &what);
    }
    if text.len() < ID_LEAST || !is_hex(text) {
        return Err(missing(kind, &full, &answer));
    }
    let all = pages(mesh, kind, &[], None).await?;
    let mut found = all.iter().map(id_of).filter(|id| id.starts_with(text));
    match (found.next(), found.next()) {
        (Some(id), None) => {
            let answer = mesh.ask(&Ask::new("GET", path(kind, id))).await?;
            Item::of(&answer.good(&what)?, &what)
        }
        (Some(one), Some(other)) => Err(Failure::new(
            Exit::Usage,
            &what,
            format!("the ids {one} and {other} begin with that"),
            "give more of it",
        )),
        (None, _) => Err(missing(kind, &full, &answer)),
    }
}

/// Says so, and what there is of that name in other domains.
fn missing(kind: &Kind, name: &str, answer: &Answer) -> Failure {
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let candidates = problem["candidates"].as_array().into_iter().flatten();
    let candidates: Vec<_> = candidates.filter_map(Value::as_str).map(table::plain).collect();
    if !candidates.is_empty() {
        let (word, names) = (kind.word, candidates.join(" or "));
        let words = format!("there is no {word} {name} without a domain; say {names}");
        return Failure::said(Exit::NoSuchThing, words);
    }
    Failure::said(
        Exit::NoSuchThing,
        format!(
            "there is no {0} {name}, or none that you may see; roost {0} list \
             shows all, and what is in a domain is called DOMAIN/NAME",
            kind.word
        ),
    )
}

/// Everything of a kind, at most `most`; `query` is name and value.
pub(super) async fn pages(
    mesh: &Mesh,
    kind: &Kind,
    query: &[(&str, &str)],
    most: Option<u32>,
) -> Result<Vec<Value>, Failure> {
    let what = format!("cannot list {}", kind.plural);
    let mut items: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let left = most.map_or(PAGE, |most| most.saturating_sub(items.len() as u32).min(PAGE));
        let mut asked = url::form_urlencoded::Serializer::new(String::new());
        asked.append_pair("limit", &left.to_string()).extend_pairs(query);
        if let Some(cursor) = &cursor {
            asked.append_pair("cursor", cursor);
        }
        let path = format!("/api/v1/{}?{}", kind.plural, asked.finish());
        let page: Value = mesh.get(&path, &what).await?;
        let more = page["items"].as_array().cloned().unwrap_or_default();
        let ended = more.is_empty();
        items.extend(more);
        cursor = page["next"].as_str().map(str::to_owned);
        let enough = most.is_some_and(|most| items.len() as u32 >= most);
        if cursor.is_none() || enough || ended {
            return Ok(items);
        }
    }
}

/// Names of what ids mean, asked for when they are needed.
pub(super) struct Names<'m> {
    mesh: &'m Mesh,
    known: BTreeMap<(&'static str, String), Option<String>>,
}

impl<'m> Names<'m> {
    pub(super) fn new(mesh: &'m Mesh) -> Self {
        Self { mesh, known: BTreeMap::new() }
    }

    /// Learns all of a kind at once: for lists, where one after the other would take long.
    pub(super) async fn learn(&mut self, kind: &'static Kind) {
        for item in pages(self.mesh, kind, &[], None).await.unwrap_or_default() {
            let name = item["name"].as_str().map(str::to_owned);
            self.known.insert((kind.word, id_of(&item).to_owned()), name);
        }
    }

    /// What people call it; what they may not see has the beginning of its id.
    pub(super) async fn of(&mut self, kind: &'static Kind, id: &Value) -> String {
        let Some(id) = id.as_str() else { return "-".into() };
        if kind.word == "account" && id.bytes().all(|b| b == b'0') {
            return "local".into();
        }
        let key = (kind.word, id.to_owned());
        if !self.known.contains_key(&key) {
            let answer = self.mesh.ask(&Ask::new("GET", path(kind, id))).await;
            let item = answer.ok().filter(|answer| answer.status == 200);
            let item = item.and_then(|answer| answer.decode::<Value>("").ok());
            let name = item.and_then(|item| item["name"].as_str().map(str::to_owned));
            self.known.insert(key.clone(), name);
        }
        self.known.get(&key).cloned().flatten().unwrap_or_else(|| short_id(id).to_owned())
    }

    /// A field or a set as people read it.
    pub(super) async fn value(&mut self, what: What, value: &Value) -> String {
        match (what, value) {
            (What::Many(of), Value::Array(list)) if !list.is_empty() => {
                let mut names = Vec::new();
                for id in list {
                    match Kind::named(of) {
                        Some(kind) => names.push(self.of(kind, id).await),
                        None => names.push(table::value(id)),
                    }
                }
                names.join(", ")
            }
            (What::One(of), Value::String(_)) => match Kind::named(of) {
                Some(kind) => self.of(kind, value).await,
                None => table::value(value),
            },
            (What::One(of), Value::Array(list)) if !list.is_empty() => {
                let mut names = Vec::new();
                for id in list {
                    match Kind::named(of) {
                        Some(kind) => names.push(self.of(kind, id).await),
                        None => names.push(table::value(id)),
                    }
                }
                names.sort();
                names.join(", ")
            }
            _ => table::value(value),
        }
    }

    /// `DOMAIN/NAME`, or `NAME` where there is no domain.
    pub(super) async fn full(&mut self, item: &Value) -> String {
        let name = item["name"].as_str().unwrap_or_else(|| short_id(id_of(item)));
        match item.get("domain").filter(|domain| domain.is_string()) {
            Some(domain) => format!("{}/{name}", self.of(&super::kinds::DOMAIN_KIND, domain).await),
            None => name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_its_domain_is_one_part_of_a_path() {
        assert_eq!(
            path(&super::super::kinds::GROUP, "site1/staff"),
            "/api/v1/groups/site1%2Fstaff"
        );
        assert_eq!(encode("ä b"), "%C3%A4%20b");
        assert!(is_id(&"0a".repeat(16)) && !is_id("0a") && !is_id(&"xy".repeat(16)));
    }
}
