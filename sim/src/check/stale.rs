//! Nobody is shown what is old: neither by a node that stood still, nor by anyone.

use crate::client::Seen;
use crate::media::{Frame, Receiver};
use crate::net::{MS, SEC};
use crate::world::World;

/// How long one may be shown what is older than what another start of the agent had shown: a node
/// that goes over to that start gives its group of pictures from the beginning, at once.
const CATCHING_UP: u64 = 500 * MS;
/// A group of pictures that is given again reaches back this far at most.
const GROUP: u64 = 5 * SEC;
/// How long after it stood still a node may still have something old.
const AFTERMATH: u64 = 10 * SEC;

impl World {
    /// A node hands a frame to a receiver.
    pub(crate) fn check_handed(&mut self, ix: usize, receiver: Receiver, frame: Frame) {
        let viewer = match receiver {
            Receiver::Flow(..) => return,
            Receiver::Browser(browser) => Some(self.browsers[browser].seen),
            Receiver::Session(session) => self
                .client_host(ix, session)
                .and_then(|host| self.viewer_at(host))
                .map(|viewer| self.viewers[viewer].seen),
        };
        let age = (self.now - frame.taken) / MS;
        let encoder = frame.encoder.short();
        // What waited is the group of pictures so far, if the agent said since then that it is at
        // home there.
        let stale = frame.waited.filter(|at| {
            let node = &self.nodes[*at];
            let asked = node.confirmed.get(&frame.encoder).is_some_and(|at| *at >= node.woke);
            !asked || self.now > frame.taken + GROUP
        });
        if let Some(at) = stale {
            let text = format!(
                "n{ix} hands out a picture of {encoder}, {age} ms old, that waited at n{at} while \
                 it stood still"
            );
            self.fail("waited", text);
        }
        let woke = self.nodes[ix].woke;
        let Some((_, newest)) = viewer.and_then(|seen| seen.newest) else { return };
        if woke > 0 && self.now < woke + AFTERMATH && frame.taken + GROUP < newest {
            let text = format!(
                "n{ix}, which stood still, hands out a picture of {encoder}, {age} ms old, to a \
                 viewer that has seen one {} ms later",
                (newest - frame.taken) / MS
            );
            self.fail("older", text);
        }
    }

    /// A viewer shows a frame, after which it has seen this.
    pub(crate) fn check_shown(&mut self, who: &str, seen: Seen) {
        let Some((since, newest)) = seen.behind else { return };
        if self.now > since + CATCHING_UP * self.patience() {
            let text = format!(
                "{who} is shown pictures of another start for {} ms that are {} ms older than the \
                 newest of the one before",
                (self.now - since) / MS,
                (newest - seen.taken) / MS
            );
            self.fail("back", text);
        }
    }
}
