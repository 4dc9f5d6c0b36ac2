//! Indexes over everyone's entries: who claims an encoder, under which name, and the highest
//! epoch it ever had.

use std::collections::{BTreeMap, BTreeSet};

use super::Entry;
use crate::id::{EncoderId, Epoch, NodeId};

/// Who claims which encoder, under which name.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_encoder: BTreeMap<EncoderId, Few<NodeId>>,
    by_name: BTreeMap<String, Few<(EncoderId, NodeId)>>,
}

/// A small ordered set. Nearly all have one element, for which a tree would keep room for eleven.
#[derive(Debug)]
struct Few<T>(Vec<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::with_capacity(1))
    }
}

impl<T: Ord> Few<T> {
    fn insert(&mut self, element: T) {
        if let Err(at) = self.0.binary_search(&element) {
            self.0.insert(at, element);
        }
    }

    fn remove(&mut self, element: T) {
        if let Ok(at) = self.0.binary_search(&element) {
            self.0.remove(at);
        }
    }
}

impl Claims {
    pub(super) fn change(
        &mut self,
        node: NodeId,
        encoder: EncoderId,
        old: Option<&Entry>,
        new: Option<&Entry>,
    ) {
        if let Some(old) = old {
            if let Some(nodes) = self.by_encoder.get_mut(&encoder) {
                nodes.remove(node);
                if nodes.0.is_empty() {
                    self.by_encoder.remove(&encoder);
                }
            }
            if let Some(claims) = self.by_name.get_mut(&old.name) {
                claims.remove((encoder, node));
                if claims.0.is_empty() {
                    self.by_name.remove(&old.name);
                }
            }
        }
        if let Some(new) = new {
            self.by_encoder.entry(encoder).or_default().insert(node);
            self.by_name.entry(new.name.clone()).or_default().insert((encoder, node));
        }
    }

    pub(super) fn of(&self, encoder: EncoderId) -> impl Iterator<Item = NodeId> {
        self.by_encoder.get(&encoder).into_iter().flat_map(|few| &few.0).copied()
    }

    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = (EncoderId, NodeId)> {
        self.by_name.get(name).into_iter().flat_map(|few| &few.0).copied()
    }

    pub(super) fn encoders(&self) -> impl Iterator<Item = EncoderId> {
        self.by_encoder.keys().copied()
    }
}

/// The highest epoch seen per encoder, kept after its entries vanish.
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
