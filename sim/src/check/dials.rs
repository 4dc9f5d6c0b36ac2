//! Whoever is refused, or answered by nobody, tries again ever more rarely.

use std::collections::VecDeque;

use crate::net::SEC;
use crate::world::World;

/// What is counted is counted over so long.
const WINDOW: u64 = 10 * SEC;
/// So often at most a host dials one address: the first waits are short, and begin anew when it
/// hears that the node is there again. The most seen is 26, of a node that was shut out twice within
/// this time.
const DIALS: usize = 30;
/// So often at most an agent asks for a place.
const ASKS: usize = 30;
/// So many messages at most go one way between a client and a node, some three times of what is
/// usual where most happens.
const SAID: usize = 250;
/// And over a link.
const LINKED: usize = 1_000;

/// When something was done lately.
pub(crate) type Lately = VecDeque<u64>;

fn note(lately: &mut Lately, now: u64) -> usize {
    lately.push_back(now);
    while lately.front().is_some_and(|at| at + WINDOW < now) {
        lately.pop_front();
    }
    lately.len()
}

impl World {
    /// A host dials a node.
    pub(crate) fn check_dial(&mut self, host: usize, to: usize) {
        if self.unchecked {
            return;
        }
        let life = self.hosts[host].life;
        let lately = self.checks.dialled.entry((host, to)).or_default();
        // Whoever starts again knows nothing of it.
        if std::mem::replace(&mut lately.0, life) != life {
            lately.1.clear();
        }
        let count = note(&mut lately.1, self.now);
        self.measure("dials of one address in ten seconds", count as u64);
        if count > DIALS {
            let text = format!("{} dials n{to} {count} times in 10 s", self.host_name(host));
            self.fail("dials", text);
        }
    }

    /// A message goes from one host to another.
    pub(crate) fn check_said(&mut self, from: usize, to: usize, client: bool) {
        let count = note(self.checks.said.entry((from, to)).or_default(), self.now);
        let (what, most) = match client {
            true => ("messages between a client and a node in ten seconds", SAID),
            false => ("messages of a link in ten seconds", LINKED),
        };
        self.measure(what, count as u64);
        if count > most {
            let (from, to) = (self.host_name(from), self.host_name(to));
            self.fail("said", format!("{from} says {count} things to {to} in 10 s"));
        }
    }

    /// An agent asks to be home, or next, or where to go.
    pub(super) fn check_ask(&mut self, agent: usize) {
        let count = note(self.checks.asks.entry(agent).or_default(), self.now);
        self.measure("questions of one agent in ten seconds", count as u64);
        if count > ASKS {
            let name = self.host_name(self.host_of_encoder(agent));
            self.fail("dials", format!("{name} asks {count} times in 10 s"));
        }
    }
}
