//! What is there without a record, and what a node sees of what has one: encoders, nodes, and the
//! domain of everything that names none.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::access::{DEFAULT_DOMAIN, DEFAULT_DOMAIN_NAME};
use crate::accounts::{Key, Kind};
use crate::cluster::ClusterView;
use crate::id::RecordId;

/// What is said of an encoder besides its record; never taken from anybody.
pub(in crate::http) const ENCODER_FACTS: &[&str] = &[
    "home",
    "home_name",
    "next",
    "next_name",
    "epoch",
    "state",
    "reason",
    "native_only",
    "viewers",
];
/// Likewise of a node.
pub(in crate::http) const NODE_FACTS: &[&str] = &[
    "node", "state", "addrs", "linked", "rtt_ms", "draining", "measured", "encoders", "viewers",
    "report",
];
/// Of what has a record and was not seen.
const NEVER_SEEN: &str = "never_seen";

/// The names of facts of a kind.
pub(super) fn facts_of(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::ENCODER => ENCODER_FACTS,
        Kind::NODE => NODE_FACTS,
        _ => &[],
    }
}

/// What this node sees of it, its name included.
pub(super) fn facts(view: &ClusterView, key: Key) -> Option<Map<String, Value>> {
    let value = match key.kind {
        Kind::ENCODER => {
            let seen = view.encoders.iter().find(|encoder| encoder.id.0 == key.id.0)?;
            serde_json::to_value(seen)
        }
        Kind::NODE => {
            let member = view.nodes.iter().find(|node| node.node.0 == key.id.0);
            match member {
                Some(member) => serde_json::to_value(member),
                None => Ok(outcast(view, key.id)?),
            }
        }
        Kind::DOMAIN if key.id == DEFAULT_DOMAIN => Ok(json!({ "name": DEFAULT_DOMAIN_NAME })),
        _ => return None,
    };
    match value {
        Ok(Value::Object(facts)) => Some(facts),
        _ => None,
    }
}

/// A node that was a member: why it is none any more.
fn outcast(view: &ClusterView, id: RecordId) -> Option<Value> {
    let outcast = view.outcasts.iter().find(|outcast| outcast.node.0 == id.0)?;
    let mut facts = serde_json::to_value(outcast).ok()?;
    if let Value::Object(facts) = &mut facts {
        facts.insert("revoked".into(), json!(!outcast.revoked_by.is_empty()));
    }
    Some(facts)
}

/// In place of facts about what was not seen.
pub(super) fn unseen(kind: Kind) -> Map<String, Value> {
    let mut facts = Map::new();
    if !facts_of(kind).is_empty() {
        facts.insert("state".into(), json!(NEVER_SEEN));
    }
    facts
}

/// The ids of everything of a kind that is there without a record, or may be.
pub(super) fn ids(view: &ClusterView, kind: Kind) -> BTreeSet<RecordId> {
    match kind {
        Kind::ENCODER => view.encoders.iter().map(|encoder| RecordId(encoder.id.0)).collect(),
        Kind::NODE => {
            let outcasts = view.outcasts.iter().map(|outcast| outcast.node);
            let all = view.nodes.iter().map(|node| node.node).chain(outcasts);
            all.map(|node| RecordId(node.0)).collect()
        }
        Kind::DOMAIN => [DEFAULT_DOMAIN].into(),
        _ => BTreeSet::new(),
    }
}

/// Whether it is there without a record.
pub(super) fn is_there(view: &ClusterView, key: Key) -> bool {
    let outcast = || view.outcasts.iter().any(|outcast| outcast.node.0 == key.id.0);
    name(view, key).is_some() || key.kind == Kind::NODE && outcast()
}

/// The name of what is there, as far as it has one of its own.
pub(super) fn name(view: &ClusterView, key: Key) -> Option<&str> {
    match key.kind {
        Kind::ENCODER => {
            let seen = view.encoders.iter().find(|encoder| encoder.id.0 == key.id.0)?;
            Some(&seen.name)
        }
        Kind::NODE => match view.nodes.iter().find(|node| node.node.0 == key.id.0) {
            Some(seen) => Some(&seen.name),
            None => {
                let mut out = view.outcasts.iter();
                out.find(|outcast| outcast.node.0 == key.id.0)?.name.as_deref()
            }
        },
        Kind::DOMAIN => (key.id == DEFAULT_DOMAIN).then_some(DEFAULT_DOMAIN_NAME),
        _ => None,
    }
}
