//! What will happen, in order of time; what happens at the same instant comes in an order drawn
//! from the seed, so that different seeds explore different orders.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::rng::{For, stream};

/// When, and where its event is: small, for the heap moves it about.
type Item = (u64, u64, u64, usize);

#[derive(Debug)]
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<Item>>,
    events: Vec<Option<E>>,
    /// Places of [`Queue::events`] that are free.
    free: Vec<usize>,
    rng: ChaCha8Rng,
    seq: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = stream(seed, For::Order);
        Self { heap: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), rng, seq: 0 }
    }

    pub(crate) fn push(&mut self, at: u64, event: E) {
        let prio = self.rng.random();
        self.insert(at, prio, event);
    }

    /// Comes before everything else of its instant and draws nothing: the order of the rest does
    /// not depend on whether it is there.
    pub(crate) fn push_first(&mut self, at: u64, event: E) {
        self.insert(at, 0, event);
    }

    fn insert(&mut self, at: u64, prio: u64, event: E) {
        self.seq += 1;
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.events.push(None);
                self.events.len() - 1
            }
        };
        self.events[place] = Some(event);
        self.heap.push(Reverse((at, prio, self.seq, place)));
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse((at, _, _, place)) = self.heap.pop()?;
        self.free.push(place);
        Some((at, self.events[place].take()?))
    }
}
