//! A node that stood still notices, and counts it: whoever runs it has to see why others called it
//! down.

use std::time::Duration;

use crate::net::SEC;
use crate::world::World;

/// So long is no scheduler's doing.
const LONG: u64 = SEC;
/// By then it has run again.
const NOTICED: u64 = SEC;

/// A node that goes on after it stood still.
#[derive(Debug)]
pub(crate) struct Stood {
    node: usize,
    life: u64,
    /// How often it had noticed before.
    before: u64,
    since: u64,
    still: Duration,
}

impl World {
    /// A host goes on.
    pub(crate) fn note_stood(&mut self, host: usize) {
        let state = &self.hosts[host];
        let still = self.now - state.frozen_at;
        let control = self.nodes.get(host).and_then(|node| node.control.as_ref());
        if let Some(control) = control.filter(|control| still >= LONG && !control.leaving()) {
            let before = control.membership().counters().stalls;
            let (life, still) = (state.life, Duration::from_nanos(still));
            let stood = Stood { node: host, life, before, since: self.now, still };
            self.checks.stood.push(stood);
        }
    }

    pub(super) fn check_stalls(&mut self) {
        let mut stood = std::mem::take(&mut self.checks.stood);
        let late = stood.extract_if(.., |it| self.now > it.since + NOTICED);
        let unnoticed = late.into_iter().find(|it| {
            let host = &self.hosts[it.node];
            let runs = host.up && !host.frozen && host.life == it.life;
            let control = self.nodes[it.node].control.as_ref().filter(|_| runs);
            control.is_some_and(|control| control.membership().counters().stalls <= it.before)
        });
        if let Some(it) = unnoticed {
            let text =
                format!("n{} did not notice that it stood still for {:?}", it.node, it.still);
            self.fail("stalls", text);
        }
        self.checks.stood = stood;
    }
}
