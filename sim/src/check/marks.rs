//! What must happen sometimes: a swarm in which one of these never did has not tried it.

use crate::plan::{Fault, Who};
use crate::world::World;

/// Everything that a swarm of some hundred seeds meets.
pub const MARKS: &[&str] = &[
    "fault: crash",
    "fault: freeze",
    "fault: old folder",
    "fault: old backup",
    "fault: unreadable record",
    "fault: second agent",
    "fault: told to stop",
    "fault: cut both ways",
    "fault: cut one way",
    "fault: latency",
    "fault: loss",
    "fault: bursts of loss",
    "fault: duplicates",
    "fault: reordering",
    "fault: slow host",
    "fault: clock that runs wrongly",
    "fault: disk full",
    "fault: requests lost",
    "fault: member shut out",
    "fault: member let in",
    "fault: another key",
    "fault: clock that jumps",
    "fault: drained",
    "fault: cordoned",
    "fault: encoder sent elsewhere",
    "fault: another capacity",
    "fault: loads kept secret",
    "fault: false word of media",
    "fault: room made",
    "fault: limit of encoders",
    "fault: right to send taken",
    "fault: client told to stop",
    "a viewer is cut off from home, and next serves it",
    "next is cut off from home, and serves who reaches it only",
    "a room is at one node",
    "who comes is led to others of its room",
    "an encoder is moved to even out",
    "a move is called off",
    "fault: pool preferred",
    "fault: bound to a pool",
    "fault: label given",
    "fault: bound to a pool by its record",
    "an encoder comes to the pool that it prefers",
    "an encoder comes to a node outside of its pool",
    "an encoder moves on request",
    "a move comes to nothing",
    "all nodes are down at once",
    "a home does not reach its encoder",
    "a home that is watched does not reach its encoder",
    "two nodes claim one encoder",
    "a camera loses its signal",
    "who starts again comes back to its home",
    "a node that reaches no other is home",
    "next takes over",
    "an encoder whose home starts anew is at home again",
    "a node that was called down is back",
    "a node stands still as home",
    "a newcomer joins after the start",
    "a page has no node to open at",
    "a publisher is gone without a word",
    "a publisher says that it is current",
    "two nodes claim what one publisher sends",
    "wall clocks are more than a year apart",
    "a change is acknowledged in a split",
    "a change is acknowledged when more nodes have it",
    "an actor is retired",
    "a removed record is forgotten",
    "a process dies while it writes",
    "a write finds the disk full",
];

impl World {
    pub(crate) fn mark(&mut self, name: &'static str) {
        debug_assert!(MARKS.contains(&name), "{name} is no mark");
        *self.checks.marks.entry(name).or_default() += 1;
    }

    pub(crate) fn mark_fault(&mut self, fault: &Fault) {
        let name = match fault {
            Fault::Crash(_) => "fault: crash",
            Fault::Freeze(_) => "fault: freeze",
            Fault::OldFolder(_) => "fault: old folder",
            Fault::OldBackup(_) => "fault: old backup",
            Fault::Unreadable(_) => "fault: unreadable record",
            Fault::Twin(_) => "fault: second agent",
            Fault::Leave(Who::Encoder(_) | Who::Viewer(_)) => "fault: client told to stop",
            Fault::Leave(_) => "fault: told to stop",
            Fault::Cut { one_way: false, .. } => "fault: cut both ways",
            Fault::Cut { one_way: true, .. } => "fault: cut one way",
            Fault::Latency(_) => "fault: latency",
            Fault::Loss(_) => "fault: loss",
            Fault::Bursts(_) => "fault: bursts of loss",
            Fault::Duplicate(_) => "fault: duplicates",
            Fault::Reorder(_) => "fault: reordering",
            Fault::Slow(..) => "fault: slow host",
            Fault::Drift(..) => "fault: clock that runs wrongly",
            Fault::DiskFull(_) => "fault: disk full",
            Fault::RequestsLost(_) => "fault: requests lost",
            Fault::Revoke(..) => "fault: member shut out",
            Fault::Readmit(..) => "fault: member let in",
            Fault::Rotate(_) => "fault: another key",
            Fault::Clock(..) => "fault: clock that jumps",
            Fault::Drain(..) => "fault: drained",
            Fault::Cordon(..) => "fault: cordoned",
            Fault::Limit(..) => "fault: limit of encoders",
            Fault::Mute(..) => "fault: right to send taken",
            Fault::Capacity(..) => "fault: another capacity",
            Fault::Liar(_) => "fault: loads kept secret",
            Fault::Boast(..) => "fault: false word of media",
            Fault::Room(..) => "fault: room made",
            Fault::Pool(_, false) => "fault: pool preferred",
            Fault::Pool(_, true) => "fault: bound to a pool",
            Fault::Label(..) => "fault: label given",
            Fault::Bind(..) => "fault: bound to a pool by its record",
            Fault::Send(..) => "fault: encoder sent elsewhere",
        };
        self.mark(name);
    }

    /// What can be seen of the whole world now and then.
    pub(super) fn mark_states(&mut self) {
        let nodes = 0..self.plan.nodes;
        if self.now > 10 * crate::net::SEC && nodes.clone().all(|ix| !self.hosts[ix].up) {
            self.mark("all nodes are down at once");
        }
        // With many encoders that would be all that is done.
        for e in 0..self.plan.encoders.min(50) {
            let (id, agent) = (self.encoders[e].id, self.host_of_encoder(e));
            let claimers: Vec<usize> =
                nodes.clone().filter(|ix| self.hosts[*ix].up && self.claims(*ix, id)).collect();
            if claimers.len() > 1 {
                self.mark("two nodes claim one encoder");
            }
            for home in claimers {
                let other = nodes.clone().find(|x| *x != home && self.reach(home, *x));
                if self.runs(home) && other.is_none() && self.plan.nodes > 1 {
                    self.mark("a node that reaches no other is home");
                }
                if self.hosts[home].frozen {
                    self.mark("a node stands still as home");
                }
                if self.runs(home) && self.runs(agent) && !self.reach(home, agent) {
                    self.mark("a home does not reach its encoder");
                    let agent = self.encoders[e].agent.as_ref();
                    if agent.is_some_and(|agent| !agent.media().is_empty()) {
                        self.mark("a home that is watched does not reach its encoder");
                    }
                }
            }
        }
        let walls = nodes.clone().filter(|ix| self.hosts[*ix].up).map(|ix| self.clock(ix).wall);
        let (least, most) = walls.fold((u64::MAX, 0), |(l, m), wall| (l.min(wall), m.max(wall)));
        if most.saturating_sub(least) > 365 * 86_400_000 {
            self.mark("wall clocks are more than a year apart");
        }
        let twice = |id| (0..self.plan.nodes).filter(|ix| self.claims(*ix, id)).count() > 1;
        if self.publishers.iter().any(|it| twice(it.id)) {
            self.mark("two nodes claim what one publisher sends");
        }
        if self.browsers.iter().any(|page| page.at.is_none()) && self.now > 10 * crate::net::SEC {
            self.mark("a page has no node to open at");
        }
    }
}
