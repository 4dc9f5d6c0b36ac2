//! A record: registers that keep concurrent values, and sets in which an element stays unless
//! every addition of it was seen by whoever removed it. Being removed, disabled or revoked is
//! such a set, too, of marks: an undoing takes away only the marks that its author has seen, so
//! whatever was done concurrently, the mark of a revocation stands.
//!
//! A state knows every write that it includes by name, so merging is a union, in any order and
//! as often as one likes, and two different writes that came to the same number (a machine that
//! was set back to a snapshot) are still two.

use std::collections::{BTreeMap, BTreeSet};

use crdts::CvRDT;
use serde::{Deserialize, Serialize};

mod former;
mod history;
mod void;

use former::{Former, Place, Was};
use history::Past;
pub use history::{Entry, Touched};
pub use void::{Cut, Cuts};

use super::kinds::DISABLED_SET;
use super::types::{
    DOTS_MAX, ELEMENT_MAX, ELEMENTS_MAX, FIELDS_MAX, RECORD_BYTES_MAX, RECORD_MAX, TOUCHED_MAX,
    VALUE_MAX,
};
use super::{Kind, hash};
use crate::id::{AccountId, ActorId, NodeId, RecordId};

/// The set of marks by which a record of any kind is removed.
pub const DELETED: u16 = 0;
/// The one element of a set that only says yes or no.
const MARK: &[u8] = b"";

/// Which record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// What it is about.
    pub kind: Kind,
    /// Its id.
    pub id: RecordId,
}

/// One write, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who numbered it.
    pub actor: ActorId,
    /// The actor's count.
    pub seq: u64,
    /// Of what was written: tells two writes apart that came to the same number.
    pub nonce: [u8; 4],
}

/// Who wrote, where, and what the clock there showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// On whose behalf.
    pub account: AccountId,
    /// At which node.
    pub node: NodeId,
    /// Milliseconds since 1970, for people.
    pub wall: u64,
}

/// What a write does to a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Gives a field a value, in place of all that are known.
    Set(u16, Vec<u8>),
    /// Takes a field's values away.
    Clear(u16),
    /// Puts an element into a set.
    Add(u16, Vec<u8>),
    /// Takes one out.
    Remove(u16, Vec<u8>),
    /// Marks the record as removed, and drops what it says.
    Delete,
    /// Undoes every [`Change::Delete`] that is known.
    Restore,
    /// Marks it as out of use.
    Disable,
    /// Undoes every [`Change::Disable`] that is known.
    Enable,
}

/// One of the values that a field has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sibling<'a> {
    /// The value.
    pub value: &'a [u8],
    /// The write it came with.
    pub dot: Dot,
    /// By whom.
    pub by: Option<Stamp>,
}

/// One record's state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Every write that this state includes.
    dots: BTreeSet<Dot>,
    /// Of those whose values stand, and of those in the history.
    stamps: BTreeMap<Dot, Stamp>,
    registers: BTreeMap<u16, BTreeMap<Dot, Vec<u8>>>,
    sets: BTreeMap<(u16, Vec<u8>), BTreeSet<Dot>>,
    /// The newest writes.
    history: BTreeMap<Dot, Past>,
    /// At which node each actor of the dots wrote.
    nodes: BTreeMap<ActorId, NodeId>,
    /// What writes did away with lately.
    former: BTreeMap<(Place, Dot), Former>,
    /// Writes that do not count; only of what [`Record::counting`] made, and never written.
    void: BTreeSet<Dot>,
    /// Of a newer version.
    later: Vec<u8>,
}

/// The bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed record")]
pub struct Malformed;

/// A write would make a record too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// A value.
    #[error("a value may have {VALUE_MAX} bytes")]
    Value,
    /// An element.
    #[error("an element of a set may have {ELEMENT_MAX} bytes")]
    Element,
    /// Fields or elements.
    #[error("a record may have {FIELDS_MAX} fields and {ELEMENTS_MAX} elements in its sets")]
    Parts,
    /// Writes.
    #[error("this record was changed {DOTS_MAX} times; make a new one and remove this")]
    Writes,
    /// All of it.
    #[error("a record may have {RECORD_MAX} bytes")]
    Record,
}

/// Values of a field, each with its dot's index.
type Values<'a> = Vec<(u32, &'a [u8])>;

/// How a record is written: every name once, and everything in order, so that equal states are
/// equal bytes.
#[derive(Serialize, Deserialize)]
struct Form<'a> {
    actors: Vec<ActorId>,
    authors: Vec<(AccountId, NodeId)>,
    dots: Vec<(u32, u64, [u8; 4])>,
    stamps: Vec<(u32, u32, u64)>,
    #[serde(borrow)]
    registers: Vec<(u16, Values<'a>)>,
    #[serde(borrow)]
    sets: Vec<(u16, &'a [u8], Vec<u32>)>,
    history: Vec<(u32, u32, Vec<u32>)>,
}

/// What follows it; missing in what was written before there was a cut.
#[derive(Default, Serialize, Deserialize)]
struct Tail<'a> {
    /// Nodes that are none of the authors'.
    nodes: Vec<NodeId>,
    /// Of each actor its node's index among those of the authors and these, and 1; 0 without.
    at: Vec<u32>,
    #[serde(borrow)]
    former: Vec<Was<'a>>,
}

impl Record {
    /// The state's bytes: equal states give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let actors: BTreeSet<ActorId> = self.dots.iter().map(|dot| dot.actor).collect();
        let actors: Vec<ActorId> = actors.into_iter().collect();
        let authors: BTreeSet<_> = self.stamps.values().map(|by| (by.account, by.node)).collect();
        let authors: Vec<_> = authors.into_iter().collect();
        let dots: Vec<Dot> = self.dots.iter().copied().collect();
        // Everything looked up was collected from the same state.
        let index = |found: Result<usize, usize>| found.map_or(0, |at| at as u32);
        let ix = |dot: &Dot| index(dots.binary_search(dot));
        let named: Vec<NodeId> = authors.iter().map(|(_, node)| *node).collect();
        let nodes: BTreeSet<NodeId> = self.nodes.values().copied().collect();
        let nodes = nodes.into_iter().filter(|node| !named.contains(node)).collect::<Vec<_>>();
        let at = |actor: &ActorId| {
            let of = self.nodes.get(actor);
            let found = named.iter().chain(&nodes).position(|node| Some(node) == of);
            found.map_or(0, |at| at as u32 + 1)
        };
        let was =
            |(at, former)| Was::of(at, former, ix, |actor| index(actors.binary_search(actor)));
        let tail = Tail {
            at: actors.iter().map(at).collect(),
            former: self.former.iter().map(was).collect(),
            nodes,
        };
        let form = Form {
            dots: dots
                .iter()
                .map(|dot| (index(actors.binary_search(&dot.actor)), dot.seq, dot.nonce))
                .collect(),
            stamps: self
                .stamps
                .iter()
                .map(|(dot, by)| {
                    (ix(dot), index(authors.binary_search(&(by.account, by.node))), by.wall)
                })
                .collect(),
            registers: self
                .registers
                .iter()
                .map(|(field, values)| {
                    (*field, values.iter().map(|(dot, value)| (ix(dot), &value[..])).collect())
                })
                .collect(),
            sets: self
                .sets
                .iter()
                .map(|((set, element), dots)| (*set, &element[..], dots.iter().map(ix).collect()))
                .collect(),
            history: self
                .history
                .iter()
                .map(|(dot, past)| (ix(dot), past.rank, past.what.clone()))
                .collect(),
            actors,
            authors,
        };
        // Plain structs of ours into a growing vector: postcard has nothing to refuse.
        let mut bytes = postcard::to_stdvec(&(form, tail)).unwrap_or_default();
        bytes.extend_from_slice(&self.later);
        bytes
    }

    /// The reverse of [`Record::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(Malformed);
        }
        let (form, later) =
            postcard::take_from_bytes::<Form<'_>>(bytes).map_err(|_not_one| Malformed)?;
        let (tail, later) = match later {
            [] => (None, later),
            _ => {
                let tail = postcard::take_from_bytes::<Tail<'_>>(later);
                let (tail, later) = tail.map_err(|_not_one| Malformed)?;
                (Some(tail), later)
            }
        };
        let at = |ix: &u32| *ix as usize;
        let dots = form.dots.iter().map(|(actor, seq, nonce)| {
            let actor = *form.actors.get(at(actor))?;
            Some(Dot { actor, seq: *seq, nonce: *nonce })
        });
        let dots: Vec<Dot> = dots.collect::<Option<_>>().ok_or(Malformed)?;
        let mut record = Self { later: later.to_vec(), ..Self::default() };
        for (dot, author, wall) in &form.stamps {
            let dot = *dots.get(at(dot)).ok_or(Malformed)?;
            let (account, node) = *form.authors.get(at(author)).ok_or(Malformed)?;
            record.stamps.insert(dot, Stamp { account, node, wall: *wall });
        }
        for (field, values) in form.registers {
            let values = values
                .into_iter()
                .map(|(dot, value)| Some((*dots.get(at(&dot))?, value.to_vec())))
                .collect::<Option<BTreeMap<_, _>>>()
                .ok_or(Malformed)?;
            if !values.is_empty() {
                record.registers.insert(field, values);
            }
        }
        for (set, element, found) in form.sets {
            let found = found.iter().map(|dot| dots.get(at(dot)).copied());
            let found = found.collect::<Option<BTreeSet<_>>>().ok_or(Malformed)?;
            if !found.is_empty() {
                record.sets.insert((set, element.to_vec()), found);
            }
        }
        for (dot, rank, what) in form.history {
            let dot = *dots.get(at(&dot)).ok_or(Malformed)?;
            if what.len() > TOUCHED_MAX || !record.stamps.contains_key(&dot) {
                return Err(Malformed);
            }
            record.history.insert(dot, Past { rank, what });
        }
        if let Some(tail) = tail {
            let mut nodes: Vec<NodeId> = form.authors.iter().map(|(_, node)| *node).collect();
            nodes.extend(&tail.nodes);
            for (actor, of) in form.actors.iter().zip(&tail.at) {
                if let Some(at) = of.checked_sub(1) {
                    record.nodes.insert(*actor, *nodes.get(at as usize).ok_or(Malformed)?);
                }
            }
            for was in tail.former {
                let (at, former) = was.read(&dots, &form.actors).ok_or(Malformed)?;
                record.former.insert(at, former);
            }
        } else {
            for (dot, by) in record.stamps.clone() {
                record.wrote(dot.actor, by.node);
            }
        }
        record.dots = dots.into_iter().collect();
        record.forget_history();
        record.forget_former();
        record.forget_stamps();
        Ok(record)
    }

    /// The bytes of a state as this version writes them.
    pub fn renewed(bytes: Vec<u8>) -> Vec<u8> {
        let old =
            postcard::take_from_bytes::<Form<'_>>(&bytes).is_ok_and(|(_, tail)| tail.is_empty());
        match old.then(|| Self::decode(&bytes)) {
            Some(Ok(record)) => record.encode(),
            _ => bytes,
        }
    }

    /// Does a write. The caller gives it a name that was never used.
    pub fn apply(&mut self, dot: Dot, by: Stamp, changes: &[Change]) -> Result<(), TooMuch> {
        let mut next = self.clone();
        next.dots.insert(dot);
        next.stamps.insert(dot, by);
        next.wrote(dot.actor, by.node);
        for change in changes {
            next.apply_one(dot, change)?;
        }
        next.part_with(self, dot, changes);
        next.remember(dot, changes);
        next.forget_stamps();
        if next.registers.len() > FIELDS_MAX || next.sets.len() > ELEMENTS_MAX {
            return Err(TooMuch::Parts);
        }
        if next.dots.len() > DOTS_MAX {
            return Err(TooMuch::Writes);
        }
        let values = next.registers.values().flatten().map(|(_, value)| value.len());
        let elements = next.sets.keys().map(|(_, element)| element.len());
        if values.sum::<usize>() + elements.sum::<usize>() > RECORD_MAX {
            return Err(TooMuch::Record);
        }
        *self = next;
        Ok(())
    }

    fn apply_one(&mut self, dot: Dot, change: &Change) -> Result<(), TooMuch> {
        let mut mark = |set: u16, on: bool| {
            let key = (set, MARK.to_vec());
            if on {
                drop(self.sets.insert(key, [dot].into()))
            } else {
                drop(self.sets.remove(&key))
            }
        };
        match change {
            Change::Set(_, value) if value.len() > VALUE_MAX => return Err(TooMuch::Value),
            Change::Add(_, element) if element.len() > ELEMENT_MAX => return Err(TooMuch::Element),
            Change::Set(field, value) => {
                self.registers.insert(*field, [(dot, value.clone())].into());
            }
            Change::Clear(field) => drop(self.registers.remove(field)),
            Change::Add(set, element) => {
                self.sets.insert((*set, element.clone()), [dot].into());
            }
            Change::Remove(set, element) => drop(self.sets.remove(&(*set, element.clone()))),
            Change::Delete => {
                self.registers.clear();
                self.sets.retain(|(set, _), _| *set == DISABLED_SET || *set == DELETED);
                self.sets.insert((DELETED, MARK.to_vec()), [dot].into());
            }
            Change::Restore => mark(DELETED, false),
            Change::Disable => mark(DISABLED_SET, true),
            Change::Enable => mark(DISABLED_SET, false),
        }
        Ok(())
    }

    /// Notes where an actor wrote. It is one place; if somebody says another, all take the same.
    fn wrote(&mut self, actor: ActorId, node: NodeId) {
        let known = self.nodes.entry(actor).or_insert(node);
        *known = node.min(*known);
    }

    /// Whether the record was written and is not removed.
    pub fn exists(&self) -> bool {
        !self.dots.is_empty() && !self.has(DELETED, MARK)
    }

    /// Whether it is removed.
    pub fn is_deleted(&self) -> bool {
        self.has(DELETED, MARK)
    }

    /// Whether it is removed or out of use.
    pub fn is_off(&self) -> bool {
        self.is_deleted() || self.has(DISABLED_SET, MARK)
    }

    /// The values of a field, the one that is shown first: the latest by the clocks, of equals
    /// the one with the greater name. More than one is a conflict that somebody has to settle.
    pub fn values(&self, field: u16) -> Vec<Sibling<'_>> {
        let all = self.registers.get(&field).into_iter().flatten();
        let mut all: Vec<_> = all
            .map(|(dot, value)| Sibling { value, dot: *dot, by: self.stamps.get(dot).copied() })
            .collect();
        all.sort_by_key(|value| std::cmp::Reverse((value.by.map(|by| by.wall), value.dot)));
        all
    }

    /// The value of a field that is shown.
    pub fn value(&self, field: u16) -> Option<&[u8]> {
        self.values(field).first().map(|sibling| sibling.value)
    }

    /// The fields that have a value.
    pub fn fields(&self) -> impl Iterator<Item = u16> {
        self.registers.keys().copied()
    }

    /// What is in a set, in order.
    pub fn elements(&self, set: u16) -> impl Iterator<Item = &[u8]> {
        self.sets.keys().filter(move |(of, _)| *of == set).map(|(_, element)| &element[..])
    }

    /// The sets that are not empty.
    pub fn sets(&self) -> BTreeSet<u16> {
        self.sets.keys().map(|(set, _)| *set).collect()
    }

    /// Whether an element is in a set.
    pub fn has(&self, set: u16, element: &[u8]) -> bool {
        self.sets.contains_key(&(set, element.to_vec()))
    }

    /// Every write that this state includes, in order.
    pub fn dots(&self) -> impl ExactSizeIterator<Item = Dot> {
        self.dots.iter().copied()
    }

    /// Whether a write is included.
    pub fn includes(&self, dot: &Dot) -> bool {
        self.dots.contains(dot)
    }

    /// Who changed the record last.
    pub fn changed(&self) -> Option<Stamp> {
        let last = self.history().find(|entry| !entry.void).map(|entry| entry.by);
        let counts = self.stamps.iter().filter(|(dot, _)| !self.void.contains(dot));
        last.or_else(|| counts.map(|(_, by)| *by).max_by_key(|by| by.wall))
    }

    /// Tells states apart: the entity tag of the record.
    pub fn tag(&self) -> u64 {
        hash(&[&self.encode()])
    }

    fn forget_stamps(&mut self) {
        let values = self.registers.values().flat_map(BTreeMap::keys);
        let former = self.former.keys().map(|(_, dot)| dot);
        let standing = values.chain(self.sets.values().flatten()).chain(former);
        let standing: BTreeSet<Dot> = standing.copied().collect();
        let history = &self.history;
        self.stamps.retain(|dot, _| standing.contains(dot) || history.contains_key(dot));
    }
}

impl CvRDT for Record {
    type Validation = std::convert::Infallible;

    fn validate_merge(&self, _other: &Self) -> Result<(), Self::Validation> {
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        self.former = self.merged_former(&other);
        let mine = std::mem::take(&mut self.dots);
        // What one side has seen and no longer has is gone; what it never saw is new.
        for (field, values) in &mut self.registers {
            let there = other.registers.get(field);
            values.retain(|dot, _| {
                !other.dots.contains(dot) || there.is_some_and(|there| there.contains_key(dot))
            });
        }
        for (field, values) in other.registers {
            let new = values.into_iter().filter(|(dot, _)| !mine.contains(dot));
            self.registers.entry(field).or_default().extend(new);
        }
        self.registers.retain(|_, values| !values.is_empty());
        for (key, dots) in &mut self.sets {
            let there = other.sets.get(key);
            dots.retain(|dot| {
                !other.dots.contains(dot) || there.is_some_and(|there| there.contains(dot))
            });
        }
        for (key, dots) in other.sets {
            let new = dots.into_iter().filter(|dot| !mine.contains(dot));
            self.sets.entry(key).or_default().extend(new);
        }
        self.sets.retain(|_, dots| !dots.is_empty());
        self.dots = mine;
        self.dots.extend(other.dots);
        other.nodes.into_iter().for_each(|(actor, node)| self.wrote(actor, node));
        self.stamps.extend(other.stamps);
        self.history.extend(other.history);
        self.forget_history();
        self.forget_former();
        self.forget_stamps();
        self.later = std::mem::take(&mut self.later).max(other.later);
    }
}

#[cfg(test)]
mod tests;
