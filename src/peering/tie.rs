//! Two nodes that dial each other end with one link: who keeps which, decided without a word
//! more than a number.
//!
//! After both hellos the dialler decides first: it *keeps* the connection, which it says with
//! [`crate::wire::Keep`], or lets it go because it has a link already. The acceptor then keeps or
//! retires it. Every `Keep` carries the number of its sender's decisions so far, so that whoever
//! gets two of them on two connections knows which was said later. That tells apart the two ways
//! in which a second connection can arrive:
//!
//! * Both sides kept their own dial before they heard of the other's: the one that the lower
//!   `NodeId` dialled survives, on both sides, and nobody outside notices.
//! * The other side lost the first connection and dialled anew: the first is dead.

use crate::id::{Boot, NodeId};

/// Whose dial survives when two links between a pair of nodes were made at the same time.
pub fn surviving_dialler(a: NodeId, b: NodeId) -> NodeId {
    a.min(b)
}

/// What a side knows about the link it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Existing {
    /// This side dialled it.
    pub dialled_here: bool,
    /// The boot that the other side said in it.
    pub boot: Boot,
    /// The other side's decision number for it; `None` until it has said that it keeps it.
    pub order: Option<u64>,
    /// The connection is known to be closed.
    pub closed: bool,
    /// Nothing came over it for longer than a live one is ever silent.
    pub silent: bool,
}

impl Existing {
    /// Whether a connection of the other side's `boot` shows that this link is dead. An older boot
    /// is one whose packets were late, or a folder that was put back: then the link's silence tells
    /// that its process is gone, long before the connection itself is given up.
    fn ended_by(&self, boot: Boot) -> bool {
        self.closed || self.silent || boot > self.boot
    }
}

/// What to do with a new connection beside an existing link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is no link that matters: this is the link.
    Adopt,
    /// The existing link stays, the new connection goes.
    KeepExisting,
    /// The new connection takes over and nothing was interrupted.
    Swap,
    /// The existing link is dead, this is a new one: state has to be synchronised again.
    Replace,
}

/// At the dialler, when the other side's hello is judged.
pub fn at_dialler(existing: Option<&Existing>, boot: Boot) -> Verdict {
    match existing {
        None => Verdict::Adopt,
        Some(link) if link.ended_by(boot) => Verdict::Replace,
        Some(_) => Verdict::KeepExisting,
    }
}

/// At the acceptor, when the dialler said that it keeps the connection.
pub fn at_acceptor(
    me: NodeId,
    dialler: NodeId,
    existing: Option<&Existing>,
    boot: Boot,
    order: u64,
) -> Verdict {
    let Some(link) = existing else { return Verdict::Adopt };
    if link.ended_by(boot) {
        return Verdict::Replace;
    }
    if boot < link.boot {
        return Verdict::KeepExisting;
    }
    match link.order {
        Some(known) if order > known => Verdict::Replace,
        Some(_) => Verdict::KeepExisting,
        None if surviving_dialler(me, dialler) == dialler => Verdict::Swap,
        None => Verdict::KeepExisting,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    const A: NodeId = NodeId([1; 16]);
    const B: NodeId = NodeId([2; 16]);

    #[test]
    fn the_lower_node_dials_the_survivor_whoever_asks() {
        assert_eq!(surviving_dialler(A, B), A);
        assert_eq!(surviving_dialler(B, A), A);
    }

    #[test]
    fn a_newer_boot_replaces_and_an_older_one_does_not() {
        let link = Existing {
            dialled_here: true,
            boot: Boot(5),
            order: Some(3),
            closed: false,
            silent: false,
        };
        assert_eq!(at_acceptor(A, B, Some(&link), Boot(6), 1), Verdict::Replace);
        assert_eq!(at_acceptor(A, B, Some(&link), Boot(4), 9), Verdict::KeepExisting);
        assert_eq!(at_dialler(Some(&link), Boot(6)), Verdict::Replace);
        assert_eq!(at_dialler(Some(&link), Boot(5)), Verdict::KeepExisting);
    }

    #[test]
    fn a_dead_link_of_a_newer_boot_does_not_block_one_of_an_older_boot() {
        // The folder of boot 5 was put back after boot 7: the process of boot 7 is gone, its link
        // is silent and not given up yet. Boot 7 may also have been counted twice.
        let mut link = Existing {
            dialled_here: false,
            boot: Boot(7),
            order: Some(3),
            closed: false,
            silent: false,
        };
        for (boot, order) in [(5, 1), (5, 9), (7, 1), (7, 3)] {
            link.silent = false;
            assert_eq!(at_acceptor(A, B, Some(&link), Boot(boot), order), Verdict::KeepExisting);
            assert_eq!(at_dialler(Some(&link), Boot(boot)), Verdict::KeepExisting);
            link.silent = true;
            assert_eq!(at_acceptor(A, B, Some(&link), Boot(boot), order), Verdict::Replace);
            assert_eq!(at_dialler(Some(&link), Boot(boot)), Verdict::Replace);
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Said {
        Hello,
        Keep(u64),
    }

    #[derive(Default)]
    struct Side {
        link: Option<(usize, Existing)>,
        decisions: u64,
    }

    /// Two nodes and their connections; what is said on one connection arrives in order, what is
    /// said on different ones in any.
    #[derive(Default)]
    struct World {
        sides: [Side; 2],
        dialler: Vec<usize>,
        flying: BTreeMap<(usize, usize), VecDeque<Said>>,
    }

    impl World {
        fn dial(&mut self, from: usize) {
            let connection = self.dialler.len();
            self.dialler.push(from);
            self.flying.entry((connection, from)).or_default().push_back(Said::Hello);
        }

        fn keep(&mut self, side: usize, connection: usize, order: Option<u64>) {
            let here = &mut self.sides[side];
            here.decisions += 1;
            let dialled_here = self.dialler[connection] == side;
            here.link = Some((
                connection,
                Existing { dialled_here, boot: Boot(1), order, closed: false, silent: false },
            ));
            let order = here.decisions;
            self.flying.entry((connection, 1 - side)).or_default().push_back(Said::Keep(order));
        }

        fn deliver(&mut self, pick: usize) {
            let ready: Vec<_> =
                self.flying.iter().filter(|(_, q)| !q.is_empty()).map(|(k, _)| *k).collect();
            if ready.is_empty() {
                return;
            }
            let (connection, side) = ready[pick % ready.len()];
            let said = self.flying.get_mut(&(connection, side)).and_then(VecDeque::pop_front);
            let existing = self.sides[side].link.map(|(_, link)| link);
            match said {
                Some(Said::Hello) => match at_dialler(existing.as_ref(), Boot(1)) {
                    Verdict::KeepExisting => {}
                    _ => self.keep(side, connection, None),
                },
                Some(Said::Keep(order)) if self.dialler[connection] == side => {
                    if let Some((current, link)) = &mut self.sides[side].link
                        && *current == connection
                    {
                        link.order = Some(order);
                    }
                }
                Some(Said::Keep(order)) => {
                    let (me, peer) = if side == 0 { (A, B) } else { (B, A) };
                    match at_acceptor(me, peer, existing.as_ref(), Boot(1), order) {
                        Verdict::KeepExisting => {}
                        _ => self.keep(side, connection, Some(order)),
                    }
                }
                None => {}
            }
        }
    }

    proptest! {
        #[test]
        fn both_sides_end_with_the_same_link(
            dials in prop::collection::vec((0..2usize, 0..6usize), 1..12),
            picks in prop::collection::vec(0..64usize, 400),
        ) {
            let mut world = World::default();
            let mut picks = picks.into_iter();
            for (from, deliveries) in dials {
                world.dial(from);
                for _ in 0..deliveries {
                    world.deliver(picks.next().unwrap_or(0));
                }
            }
            for pick in picks {
                world.deliver(pick);
            }
            let [a, b] = world.sides;
            let (a, b) = (a.link.map(|l| l.0), b.link.map(|l| l.0));
            prop_assert!(a.is_some());
            prop_assert_eq!(a, b);
        }
    }
}
