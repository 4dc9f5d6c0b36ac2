//! An encoder that starts again goes back to the home that it had: nothing was wrong with that one,
//! and whoever watches is there.

use crate::net::SEC;
use crate::world::World;

/// Nothing befell any node for so long before.
const QUIET: u64 = 10 * SEC;

/// Where an agent was at home last, and in which lives of the two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stayed {
    home: usize,
    lives: [u64; 2],
    /// Since when it is nowhere.
    left: Option<u64>,
}

impl World {
    pub(super) fn check_returns(&mut self) {
        if self.plan.has_twins() {
            return;
        }
        let mut strayed = None;
        for ix in 0..self.encoders.len() {
            let host = self.host_of_encoder(ix);
            // Who says goodbye is not waited for.
            if self.hosts[host].stopping {
                self.checks.stayed.remove(&ix);
                continue;
            }
            let Some(home) = self.home_of(ix) else {
                let Some(&stayed) = self.checks.stayed.get(&ix) else { continue };
                // It was on its way elsewhere when it ended.
                let id = self.encoders[ix].id;
                let mut others = (0..self.plan.nodes).filter(|node| *node != stayed.home);
                match others.any(|node| self.claims(node, id)) {
                    true => drop(self.checks.stayed.remove(&ix)),
                    false => {
                        let left = stayed.left.or(Some(self.now));
                        self.checks.stayed.insert(ix, Stayed { left, ..stayed });
                    }
                }
                continue;
            };
            let lives = [self.hosts[host].life, self.hosts[home].life];
            let before = self.checks.stayed.insert(ix, Stayed { home, lives, left: None });
            let Some(before) = before else { continue };
            let Some(left) = before.left.filter(|left| self.stood_since(*left, &before)) else {
                continue;
            };
            if before.lives[0] == lives[0] || self.is_sent(self.encoders[ix].id) {
                continue;
            }
            let takes = self.pool_takes(before.home, ix) && !self.is_wished_away(before.home);
            if before.home == home {
                self.mark("who starts again comes back to its home");
            } else if takes && self.reach(host, before.home) {
                let ms = (self.now - left) / 1_000_000;
                let (name, was) = (self.host_name(host), before.home);
                strayed = Some(format!("{name} was at n{was}, and is at n{home} {ms} ms later"));
            }
        }
        if let Some(text) = strayed {
            self.fail("returns", text);
        }
    }

    /// Nothing happened to nodes or to packets since before an agent's end.
    fn stood_since(&self, left: u64, stayed: &Stayed) -> bool {
        let nodes = &self.hosts[..self.plan.nodes];
        let quiet = nodes.iter().all(|node| node.touched + QUIET < left);
        let calm = self.whole() && self.checks.rough_at + QUIET < left;
        let same = self.hosts[stayed.home].life == stayed.lives[1];
        quiet && calm && same && self.liars.is_empty() && self.is_member(stayed.home)
    }
}
