//! Where people want encoders to be: the pools, and who prefers which.

use std::collections::{BTreeMap, BTreeSet};

use super::{Rights, ids, put, text};
use crate::accounts::{Key, Kind, Record};
use crate::id::{EncoderId, NodeId, RecordId};
use crate::placement::plan::{Pool, Wish};

/// The settings by which the whole mesh prefers pools, named and in order, with commas between.
pub const POOLS_SETTING: &str = "pools";
/// The setting that says whether it is bound to them.
pub const PLACEMENT_SETTING: &str = "placement";
/// What binds to the pools that are preferred.
const ONLY: &[u8] = b"only";

/// What the ledger says of pools.
#[derive(Debug, Clone, Default)]
pub(super) struct Steering {
    pools: BTreeMap<RecordId, PoolFacts>,
    /// Labels of nodes.
    labels: BTreeMap<RecordId, BTreeSet<Box<str>>>,
    /// What encoders, rooms, groups and domains prefer, if they do.
    preferences: BTreeMap<Key, Preference>,
    /// The room and the groups of encoders that have any.
    company: BTreeMap<RecordId, Company>,
    /// The encoders of each room.
    rooms: BTreeMap<RecordId, BTreeSet<RecordId>>,
    /// The mesh's settings about pools: the name and the values, the one that is shown first.
    settings: BTreeMap<RecordId, (Box<str>, Vec<Box<str>>)>,
    version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PoolFacts {
    name: Box<str>,
    nodes: BTreeSet<RecordId>,
    labels: BTreeSet<Box<str>>,
}

/// Of values that differ since a partition, the order of pools that is shown holds; and if any says
/// that nowhere else will do, nowhere else does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Preference {
    pools: Box<[RecordId]>,
    only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Company {
    room: Option<RecordId>,
    groups: BTreeSet<RecordId>,
}

/// Who says where an encoder should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guide {
    /// The encoder, its room, a group of it or its domain.
    Record(Key),
    /// A setting of the mesh.
    Mesh,
}

impl Rights {
    /// Takes a record as it is now. Whether encoders may have to be elsewhere for it.
    pub(super) fn steer(&mut self, key: Key, known: Option<&Record>) -> bool {
        let Key { kind, id } = key;
        let steering = &mut self.steering;
        let preference = |pools: u16, placement: u16| {
            let record = known?;
            let pools: Box<[RecordId]> = list(record.value(pools)?).collect();
            let only = record.values(placement).iter().any(|it| it.value == ONLY);
            (!pools.is_empty()).then_some(Preference { pools, only })
        };
        let prefers = match kind {
            Kind::ENCODER => preference(5, 7),
            Kind::ROOM | Kind::GROUP => preference(4, 5),
            Kind::DOMAIN => preference(4, 5),
            _ => None,
        };
        let preferred = match prefers {
            Some(preference) => {
                let before = steering.preferences.insert(key, preference);
                before.as_ref() != steering.preferences.get(&key)
            }
            None => steering.preferences.remove(&key).is_some(),
        };
        let changed = match kind {
            Kind::ENCODER => {
                let company = known.map(|record| Company {
                    room: record.value(4).and_then(|id| Some(RecordId(id.try_into().ok()?))),
                    groups: ids(record, 5),
                });
                let company = company.filter(|with| with.room.is_some() || !with.groups.is_empty());
                let before = steering.company.get(&id).and_then(|with| with.room);
                let after = company.as_ref().and_then(|with| with.room);
                if before != after {
                    steering.rehouse(id, before, after);
                }
                put(&mut steering.company, id, company)
            }
            Kind::POOL => {
                let facts = known.map(|record| PoolFacts {
                    name: text(record, 1).unwrap_or_default().into(),
                    nodes: ids(record, 2),
                    labels: words(record, 3),
                });
                put(&mut steering.pools, id, facts)
            }
            Kind::NODE => {
                let labels = known.map(|record| words(record, 4));
                put(&mut steering.labels, id, labels.filter(|labels| !labels.is_empty()))
            }
            Kind::SETTING => {
                let setting = known.and_then(|record| {
                    let name = text(record, 1)?;
                    let values = record.values(2).into_iter();
                    let values =
                        values.filter_map(|it| Some(str::from_utf8(it.value).ok()?.into()));
                    [POOLS_SETTING, PLACEMENT_SETTING]
                        .contains(&name)
                        .then(|| (name.into(), values.collect()))
                });
                put(&mut steering.settings, id, setting)
            }
            _ => false,
        };
        // A group's place among others follows from its name.
        let named = kind == Kind::GROUP && steering.preferences.contains_key(&key);
        let news = preferred || changed || named;
        steering.version += u64::from(news);
        news
    }

    /// Rises with every change of what [`Rights::wish`] and [`Rights::room`] say.
    pub fn steering(&self) -> u64 {
        self.steering.version
    }

    /// The room that an encoder is in.
    pub fn room(&self, encoder: EncoderId) -> Option<RecordId> {
        self.steering.company.get(&RecordId(encoder.0))?.room
    }

    /// The others of the room that an encoder is in.
    pub fn company(&self, encoder: EncoderId) -> impl Iterator<Item = EncoderId> {
        let room = self.room(encoder).and_then(|room| self.steering.rooms.get(&room));
        let all = room.into_iter().flatten().map(|id| EncoderId(id.0));
        all.filter(move |other| *other != encoder)
    }

    /// Who says where an encoder should be: the first that prefers any pool of its room, itself,
    /// its groups in order of their names, its domain and the mesh.
    pub fn guide(&self, encoder: EncoderId) -> Option<Guide> {
        let id = RecordId(encoder.0);
        let company = self.steering.company.get(&id);
        let room = company.and_then(|with| with.room).map(|id| Key { kind: Kind::ROOM, id });
        let groups = company.into_iter().flat_map(|with| &with.groups);
        let groups = groups.map(|id| Key { kind: Kind::GROUP, id: *id });
        let mut groups: Vec<(Option<&str>, Key)> =
            groups.map(|key| (self.name_of(key), key)).collect();
        groups.sort();
        let domain = self.domain_of(encoder).map(|id| Key { kind: Kind::DOMAIN, id });
        let mut all = room
            .into_iter()
            .chain([Key { kind: Kind::ENCODER, id }])
            .chain(groups.into_iter().map(|(_, key)| key))
            .chain(domain);
        let found = all.find(|key| self.steering.preferences.contains_key(key));
        let mesh = || self.setting(POOLS_SETTING).map(|_| Guide::Mesh);
        found.map(Guide::Record).or_else(mesh)
    }

    /// Where an encoder should be.
    pub fn wish(&self, encoder: EncoderId) -> Wish {
        self.guide(encoder).map(|guide| self.wish_of(guide)).unwrap_or_default()
    }

    /// Where those should be who are guided by this.
    pub fn wish_of(&self, guide: Guide) -> Wish {
        match guide {
            Guide::Record(key) => match self.steering.preferences.get(&key) {
                Some(preference) => {
                    let pools = preference.pools.iter().map(|id| self.pool(*id)).collect();
                    Wish { pools, only: preference.only }
                }
                None => Wish::default(),
            },
            Guide::Mesh => {
                let said = self.setting(POOLS_SETTING).and_then(|values| values.first());
                let names = said.into_iter().flat_map(|text| text.split(','));
                let names = names.map(str::trim).filter(|name| !name.is_empty());
                let pools = names.map(|name| match self.pool_named(name) {
                    Some(id) => self.pool(id),
                    None => Pool { name: name.to_owned(), nodes: BTreeSet::new() },
                });
                let placement = self.setting(PLACEMENT_SETTING).into_iter().flatten();
                let only = placement.into_iter().any(|text| text.trim().as_bytes() == ONLY);
                Wish { pools: pools.collect(), only }
            }
        }
    }

    /// The pool that a text names, by name or id.
    pub fn pool_named(&self, text: &str) -> Option<RecordId> {
        let known = |id: &RecordId| self.steering.pools.contains_key(id);
        let named = || self.named(Kind::POOL, None, text).next();
        text.parse().ok().filter(known).or_else(named)
    }

    /// A pool that was removed has no nodes.
    fn pool(&self, id: RecordId) -> Pool {
        let Some(facts) = self.steering.pools.get(&id) else {
            return Pool { name: id.to_string(), nodes: BTreeSet::new() };
        };
        let labelled = self.steering.labels.iter();
        let labelled = labelled.filter(|(_, labels)| !labels.is_disjoint(&facts.labels));
        let nodes = facts.nodes.iter().chain(labelled.map(|(node, _)| node));
        Pool { name: facts.name.to_string(), nodes: nodes.map(|id| NodeId(id.0)).collect() }
    }

    /// The values of a setting about pools that say anything; of two records with one name those
    /// of the lowest id.
    fn setting(&self, name: &str) -> Option<&Vec<Box<str>>> {
        let mut all = self.steering.settings.values();
        all.find(|(of, values)| {
            **of == *name && values.first().is_some_and(|text| !text.trim().is_empty())
        })
        .map(|(_, values)| values)
    }
}

impl Steering {
    /// An encoder goes from one room to another.
    fn rehouse(&mut self, encoder: RecordId, from: Option<RecordId>, to: Option<RecordId>) {
        if let Some(from) = from
            && let Some(left) = self.rooms.get_mut(&from)
        {
            left.remove(&encoder);
            if left.is_empty() {
                self.rooms.remove(&from);
            }
        }
        if let Some(to) = to {
            self.rooms.entry(to).or_default().insert(encoder);
        }
    }
}

/// Ids in a row.
fn list(bytes: &[u8]) -> impl Iterator<Item = RecordId> {
    bytes.as_chunks::<16>().0.iter().map(|id| RecordId(*id))
}

fn words(record: &Record, set: u16) -> BTreeSet<Box<str>> {
    let words = record.elements(set).filter_map(|bytes| str::from_utf8(bytes).ok());
    words.map(Into::into).collect()
}
