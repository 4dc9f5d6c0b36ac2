//! Indexes over everyone's entries: who claims an encoder, under which name, and the highest
//! epoch it ever had.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::Entry;
use crate::id::{EncoderId, Epoch, NodeId};

/// Who claims which encoder, under which name.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_encoder: BTreeMap<EncoderId, Few<NodeId>>,
    /// By the hashes of names, lest every node keep every name twice.
    by_name: BTreeMap<u64, Few<(EncoderId, NodeId)>>,
    pub(super) floors: Floors,
}

/// A small ordered set that is not empty. Nearly all have one element, which takes no allocation.
#[derive(Debug)]
enum Few<T> {
    One(T),
    Many(Vec<T>),
}

impl<T: Ord + Copy> Few<T> {
    fn all(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    fn insert(&mut self, element: T) {
        let Err(at) = self.all().binary_search(&element) else { return };
        let mut many = self.all().to_vec();
        many.insert(at, element);
        *self = Self::Many(many);
    }

    /// Whether nothing is left.
    fn remove(&mut self, element: T) -> bool {
        if let Self::Many(many) = self {
            many.retain(|it| *it != element);
            if let [one] = many[..] {
                *self = Self::One(one);
            }
            return false;
        }
        self.all() == [element]
    }
}

fn insert<K: Ord, T: Ord + Copy>(index: &mut BTreeMap<K, Few<T>>, key: K, element: T) {
    index.entry(key).and_modify(|few| few.insert(element)).or_insert(Few::One(element));
}

fn remove<K: Ord, T: Ord + Copy>(index: &mut BTreeMap<K, Few<T>>, key: &K, element: T) {
    if index.get_mut(key).is_some_and(|few| few.remove(element)) {
        index.remove(key);
    }
}

/// The same on every node and in every run: no order may follow from where memory is.
fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Claims {
    /// A node's entry changed. Returns how many floors were dropped to keep so many.
    pub(super) fn change(
        &mut self,
        node: NodeId,
        encoder: EncoderId,
        old: Option<&Entry>,
        new: Option<&Entry>,
        floors: usize,
    ) -> u64 {
        // Most changes are of what is shown or watched.
        if let (Some(old), Some(new)) = (old, new)
            && (&old.name, old.epoch) == (&new.name, new.epoch)
        {
            return 0;
        }
        if let Some(old) = old {
            remove(&mut self.by_encoder, &encoder, node);
            remove(&mut self.by_name, &hash(&old.name), (encoder, node));
        }
        if let Some(new) = new {
            insert(&mut self.by_encoder, encoder, node);
            insert(&mut self.by_name, hash(&new.name), (encoder, node));
        }
        // Claims that stand say themselves how high they are.
        match old.filter(|old| new.is_none_or(|new| new.epoch < old.epoch)) {
            Some(over) => self.floors.raise(encoder, over.epoch, floors),
            None => 0,
        }
    }

    pub(super) fn of(&self, encoder: EncoderId) -> impl Iterator<Item = NodeId> {
        self.by_encoder.get(&encoder).into_iter().flat_map(Few::all).copied()
    }

    /// Those of this name, and perhaps others whose names have the same hash.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = (EncoderId, NodeId)> {
        self.by_name.get(&hash(name)).into_iter().flat_map(Few::all).copied()
    }

    pub(super) fn encoders(&self) -> impl Iterator<Item = EncoderId> {
        self.by_encoder.keys().copied()
    }
}

/// Epochs of encoders that were seen and that no entry has any more: the highest of each.
#[derive(Debug, Default)]
pub(super) struct Floors {
    floors: BTreeMap<EncoderId, (Epoch, u64)>,
    /// Oldest touched first.
    touched: BTreeSet<(u64, EncoderId)>,
    touches: u64,
}

impl Floors {
    pub(super) fn get(&self, encoder: EncoderId) -> Epoch {
        self.floors.get(&encoder).map_or_else(Epoch::default, |(epoch, _)| *epoch)
    }

    /// Returns how many others were dropped to stay within `limit`.
    pub(super) fn raise(&mut self, encoder: EncoderId, epoch: Epoch, limit: usize) -> u64 {
        let known = self.floors.get(&encoder).copied();
        if let Some((_, touched)) = known {
            self.touched.remove(&(touched, encoder));
        }
        self.touches += 1;
        self.touched.insert((self.touches, encoder));
        let highest = known.map_or(epoch, |(known, _)| known.max(epoch));
        self.floors.insert(encoder, (highest, self.touches));
        let mut dropped = 0;
        while self.floors.len() > limit {
            let Some((_, oldest)) = self.touched.pop_first() else { break };
            self.floors.remove(&oldest);
            dropped += 1;
        }
        dropped
    }
}
