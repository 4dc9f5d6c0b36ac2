//! `GET /api/v1/plan`: what would follow if nodes were lost, drained or added. Nothing is done.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde::Serialize;
use serde_json::{Value, json};

use super::App;
use super::auth::{Caller, query_values};
use super::moves::node;
use super::problem::Problem;
use crate::access::{Right, Scope};
use crate::accounts::{Key, Kind};
use crate::cluster::{ClusterView, Liveness};
use crate::directory::{ENTRIES_MAX, PROCESSOR};
use crate::id::{EncoderId, NodeId, valid_name};
use crate::placement::plan::{Duty, Seat, WEIGHT_ONE, Why, weight_of};
use crate::placement::{Demand, Survivability, WhatIf};

/// Most nodes that are imagined to be drained or added: more than anybody does at once.
pub(super) const IMAGINED_MAX: usize = 100;
/// Most moves, and most encoders that do not move, in an answer: some 300 KB. All are counted.
const LISTED_MAX: usize = 1_000;

/// What would follow.
#[derive(Serialize)]
pub(super) struct Plan {
    /// The nodes that are taken to be lost.
    lost: Vec<Named>,
    /// How many encoders would move.
    moving: usize,
    /// Which, from where to where, and why.
    moves: Vec<Move>,
    /// How many should move and cannot.
    staying: usize,
    /// Which, and why.
    stuck: Vec<Stuck>,
    /// Every node's encoders before and after.
    nodes: Vec<Load>,
    /// How many nodes could be lost after it.
    survivability: Survivability,
}

/// A node with its name.
#[derive(Serialize)]
struct Named {
    node: NodeId,
    name: String,
}

#[derive(Serialize)]
struct Move {
    encoder: EncoderId,
    name: String,
    from: NodeId,
    from_name: String,
    /// Nothing for a node that does not exist yet.
    to: Option<NodeId>,
    to_name: String,
    reason: String,
}

#[derive(Serialize)]
struct Stuck {
    encoder: EncoderId,
    name: String,
    at: NodeId,
    at_name: String,
    reason: String,
}

#[derive(Serialize)]
struct Load {
    node: Option<NodeId>,
    name: String,
    /// `open`, `cordoned`, `draining` or `lost`.
    state: &'static str,
    before: u32,
    after: u32,
    limit: u32,
    /// In hundredths of a processor.
    capacity: u64,
    /// `declared`, `measured`, or `assumed` of a node that does not exist yet.
    capacity_is: &'static str,
}

/// Answers with what would follow.
pub(super) async fn get(
    State(app): State<App>,
    uri: Uri,
    caller: Caller,
) -> Result<Json<Plan>, Problem> {
    caller.needs(&*app.backend, Right::Operate, Scope::Mesh)?;
    let view = app.backend.view();
    let demand = app.backend.demand().await;
    let (what, names) = asked(&view, &demand, &uri)?;
    let rooms = {
        let rights = app.backend.rights();
        let rooms = demand.units.iter().filter_map(|unit| unit.room);
        let named = rooms
            .filter_map(|id| Some((id, rights.name_of(Key { kind: Kind::ROOM, id })?.to_owned())));
        named.collect::<BTreeMap<_, _>>()
    };
    // A plan of ten thousand encoders takes its time.
    let made = tokio::task::spawn_blocking(move || {
        let names = Names { view: &view, added: &names, rooms: &rooms };
        shown(&names, &demand, &what)
    });
    made.await.map(Json).map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the plan came to nothing: {error}"),
        )
    })
}

/// What is to be imagined, and what nodes are called that do not exist yet.
fn asked(
    view: &ClusterView,
    demand: &Demand,
    uri: &Uri,
) -> Result<(WhatIf, BTreeMap<NodeId, String>), Problem> {
    let wrong = |words: String| Problem::new(StatusCode::BAD_REQUEST, words);
    let (drains, adds) = (query_values(uri, "drain"), query_values(uri, "add"));
    if drains.len() + adds.len() > IMAGINED_MAX {
        return Err(wrong(format!("drain and add name at most {IMAGINED_MAX} nodes together")));
    }
    let mut what = WhatIf::default();
    for text in &drains {
        let node = node(view, text)?;
        if node.state != Liveness::Up {
            return Err(wrong(format!("{} is not up: there is nothing to drain", node.name)));
        }
        what.drain.insert(node.node);
    }
    let mut names = BTreeMap::new();
    for text in &adds {
        let known = view.nodes.iter().any(|it| it.name == *text || it.node.to_string() == *text);
        let seat = match known {
            true => {
                let known = node(view, text)?;
                Seat {
                    node: known.node,
                    weight: weight_of(f64::from(known.size()) / f64::from(PROCESSOR)),
                    limit: known.limit.unwrap_or(u32::MAX).min(ENTRIES_MAX as u32),
                    duty: Duty::Open,
                }
            }
            false if valid_name(text) => {
                // No node has such an id: they are hashes.
                let mut id = [0xff; 16];
                id[8..].copy_from_slice(&(names.len() as u64).to_be_bytes());
                names.insert(NodeId(id), text.clone());
                let (weight, limit) = (ordinary(&demand.seats), ENTRIES_MAX as u32);
                Seat { node: NodeId(id), weight, limit, duty: Duty::Open }
            }
            false => {
                let words = "a name is 1 to 64 of a-z, 0-9, '.', '_' and '-'";
                return Err(wrong(format!("add: {words}")));
            }
        };
        if what.add.iter().any(|it| it.node == seat.node)
            || names.values().filter(|it| *it == text).count() > 1
        {
            return Err(wrong(format!("{text} is added twice")));
        }
        what.add.push(seat);
    }
    let new = what.add.iter().filter(|it| demand.seats.iter().all(|seat| seat.node != it.node));
    let most = (demand.seats.len() + new.count()).saturating_sub(1);
    let lose = query_values(uri, "lose");
    if let Some(text) = lose.first() {
        let lose = text.parse().ok().filter(|lose| *lose as usize <= most);
        what.lose = lose.ok_or_else(|| {
            wrong(format!("lose is a number of nodes, {most} at most: one has to be left"))
        })?;
    }
    Ok((what, names))
}

/// What a node is taken to be good for that does not exist yet: as the middle one of those that do.
fn ordinary(seats: &[Seat]) -> u64 {
    let mut weights: Vec<u64> = seats.iter().map(|seat| seat.weight).collect();
    weights.sort_unstable();
    weights.get(weights.len() / 2).copied().unwrap_or(WEIGHT_ONE)
}

/// What things are called.
struct Names<'a> {
    view: &'a ClusterView,
    added: &'a BTreeMap<NodeId, String>,
    rooms: &'a BTreeMap<crate::id::RecordId, String>,
}

impl Names<'_> {
    fn node(&self, node: NodeId) -> String {
        let known = self.view.nodes.iter().find(|it| it.node == node).map(|it| &it.name);
        known.or_else(|| self.added.get(&node)).cloned().unwrap_or_else(|| node.short())
    }

    /// How its capacity is known.
    fn capacity_is(&self, node: NodeId) -> &'static str {
        match self.view.nodes.iter().find(|it| it.node == node) {
            Some(known) if known.capacity.is_some() => "declared",
            Some(_) => "measured",
            None => "assumed",
        }
    }

    fn exists(&self, node: NodeId) -> Option<NodeId> {
        (!self.added.contains_key(&node)).then_some(node)
    }

    fn why(&self, why: &Why, from: NodeId, to: Option<NodeId>) -> String {
        let from = self.node(from);
        match why {
            Why::Lost => format!("{from} is lost"),
            Why::Drain => format!("{from} is drained"),
            Why::NoCapacity => format!("{from} declares no capacity"),
            Why::Preference(pool) => format!("it prefers pool {pool}"),
            Why::Room(room) => match self.rooms.get(room) {
                Some(name) => format!("the others of room {name} are there"),
                None => "the others of its room are there".to_owned(),
            },
            Why::Balance(here, there) => {
                let to = to.map(|to| self.node(to)).unwrap_or_default();
                format!("balance: {from} has {here}, {to} {there}")
            }
        }
    }
}

fn shown(names: &Names<'_>, demand: &Demand, what: &WhatIf) -> Plan {
    let encoders: BTreeMap<EncoderId, &str> =
        names.view.encoders.iter().map(|it| (it.id, it.name.as_str())).collect();
    let called = |encoder: EncoderId| {
        encoders.get(&encoder).map_or_else(|| encoder.short(), |name| (*name).to_owned())
    };
    let homeless = names.view.encoders.iter().filter(|it| it.home.is_none()).count() as u64;
    let then = demand.imagine(what, homeless);
    let wishes: BTreeMap<EncoderId, usize> =
        demand.units.iter().map(|unit| (unit.encoder, unit.wish)).collect();
    let stuck = then.plan.stuck.iter().take(LISTED_MAX).map(|it| {
        let wish = wishes.get(&it.encoder).and_then(|wish| demand.wishes.get(*wish));
        let cannot = match wish.filter(|wish| wish.only) {
            _ if demand.stays.contains(&it.encoder) && it.why != Why::Lost => {
                "it publishes by WHIP and cannot be asked to move".to_owned()
            }
            Some(wish) if it.bound => {
                format!("it may be in {} only, and no node of it takes encoders", wish.words())
            }
            Some(wish) => {
                format!("it may be in {} only, and there is no room", wish.words())
            }
            None => "no node takes encoders that has room".to_owned(),
        };
        Stuck {
            encoder: it.encoder,
            name: called(it.encoder),
            at: it.at,
            at_name: names.node(it.at),
            reason: format!("{}; {cannot}", names.why(&it.why, it.at, None)),
        }
    });
    let stuck = stuck.collect();
    let moves = then.plan.moves.iter().take(LISTED_MAX).map(|it| Move {
        encoder: it.encoder,
        name: called(it.encoder),
        from: it.from,
        from_name: names.node(it.from),
        to: names.exists(it.to),
        to_name: names.node(it.to),
        reason: names.why(&it.why, it.from, Some(it.to)),
    });
    let moves = moves.collect();
    let load = |node: NodeId, before, after, state, (limit, weight): (u32, u64)| Load {
        node: names.exists(node),
        name: names.node(node),
        state,
        before,
        after,
        limit,
        capacity: weight * u64::from(PROCESSOR) / WEIGHT_ONE,
        capacity_is: names.capacity_is(node),
    };
    let mut nodes: Vec<Load> = Vec::new();
    for seat in &then.seats {
        let found = then.plan.loads.iter().find(|(node, ..)| *node == seat.node);
        let (before, after) = found.map_or((0, 0), |(_, before, after)| (*before, *after));
        let state = match seat.duty {
            Duty::Open => "open",
            Duty::Cordoned => "cordoned",
            Duty::Draining => "draining",
        };
        nodes.push(load(seat.node, before, after, state, (seat.limit, seat.weight)));
    }
    for node in &then.lost {
        let before = demand.units.iter().filter(|unit| unit.at == *node).count();
        let all = demand.seats.iter().chain(&what.add);
        let size = all.filter(|seat| seat.node == *node).map(|it| (it.limit, it.weight)).next();
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        nodes.push(load(*node, before, 0, "lost", size.unwrap_or_default()));
    }
    nodes.sort_by(|a, b| (&a.name, a.node).cmp(&(&b.name, b.node)));
    let named = |node: &NodeId| Named { node: *node, name: names.node(*node) };
    Plan {
        lost: then.lost.iter().map(named).collect(),
        moving: then.plan.moves.len(),
        moves,
        staying: then.plan.stuck.len(),
        stuck,
        nodes,
        survivability: then.survivability,
    }
}

/// For the reference.
pub(super) fn schema() -> Value {
    let text = json!({ "type": "string" });
    let maybe = json!({
        "type": ["string", "null"],
        "description": "none of a node that does not exist yet",
    });
    let number = json!({ "type": "integer", "minimum": 0 });
    let list = |properties: Value| {
        let names: Vec<String> =
            properties.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        let items = json!({ "type": "object", "properties": properties, "required": names });
        json!({ "type": "array", "maxItems": LISTED_MAX, "items": items })
    };
    json!({
        "type": "object",
        "properties": {
            "lost": list(json!({ "node": text, "name": text })),
            "moving": { "type": "integer", "description": "how many would move" },
            "moves": list(json!({
                "encoder": text, "name": text, "from": text, "from_name": text, "to": maybe,
                "to_name": text, "reason": text,
            })),
            "staying": { "type": "integer", "description": "how many should move and cannot" },
            "stuck": list(json!({
                "encoder": text, "name": text, "at": text, "at_name": text, "reason": text,
            })),
            "nodes": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "node": maybe, "name": text, "before": number, "after": number,
                        "limit": number,
                        "capacity": { "type": "integer", "minimum": 0,
                            "description": "in hundredths of a processor" },
                        "capacity_is": { "enum": ["declared", "measured", "assumed"] },
                        "state": { "enum": ["open", "cordoned", "draining", "lost"] },
                    },
                    "required": [
                        "node", "name", "state", "before", "after", "limit", "capacity",
                        "capacity_is",
                    ],
                },
            },
            "survivability": { "type": "object", "description": "after it" },
        },
        "required": ["lost", "moving", "moves", "staying", "stuck", "nodes", "survivability"],
    })
}
