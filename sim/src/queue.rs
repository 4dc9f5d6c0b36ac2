//! What will happen, in order of time; what happens at the same instant comes in an order drawn
//! from the seed, so that different seeds explore different orders.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::rng::{For, stream};

#[derive(Debug)]
struct Item<E> {
    at: u64,
    prio: u64,
    seq: u64,
    event: E,
}

impl<E> Item<E> {
    fn key(&self) -> (u64, u64, u64) {
        (self.at, self.prio, self.seq)
    }
}

impl<E> PartialEq for Item<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Item<E> {}

impl<E> PartialOrd for Item<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Item<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[derive(Debug)]
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<Item<E>>>,
    rng: ChaCha8Rng,
    seq: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new(seed: u64) -> Self {
        Self { heap: BinaryHeap::new(), rng: stream(seed, For::Order), seq: 0 }
    }

    pub(crate) fn push(&mut self, at: u64, event: E) {
        self.seq += 1;
        let prio = self.rng.random();
        self.heap.push(Reverse(Item { at, prio, seq: self.seq, event }));
    }

    /// Comes before everything else of its instant and draws nothing: the order of the rest does
    /// not depend on whether it is there.
    pub(crate) fn push_first(&mut self, at: u64, event: E) {
        self.seq += 1;
        self.heap.push(Reverse(Item { at, prio: 0, seq: self.seq, event }));
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse(item) = self.heap.pop()?;
        Some((item.at, item.event))
    }
}
