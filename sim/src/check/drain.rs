//! A drained node is emptied while there is a node to go to, and nobody who watches sees it.

use super::SLACK;
use crate::net::{MS, SEC};
use crate::world::World;

/// A drained node is empty within this, once nothing else happens.
const EMPTIED: u64 = 12 * SEC;
/// Somebody who watches an encoder that moves sees no two pictures further apart, where nodes are
/// near: a camera's interval of 66 ms, and 100 ms.
const SEAM: u64 = 166 * MS;
/// For so long after a move its seam would show.
const SHOWS: u64 = 2 * SEC;

/// A viewer whose encoder has moved.
#[derive(Debug)]
pub(crate) struct Seam {
    viewer: usize,
    at: u64,
    life: u64,
}

impl World {
    /// An encoder that this viewer watches is at home elsewhere from now on.
    pub(crate) fn expect_no_seam(&mut self, viewer: usize) {
        // Whatever else happens may be the reason of a gap.
        if !self.plan.is_steered_only() || self.now < 8 * SEC {
            return;
        }
        let host = self.host_of_viewer(viewer);
        self.viewers[viewer].seen.seam = 0;
        let seam = Seam { viewer, at: self.now, life: self.hosts[host].life };
        self.checks.seams.push(seam);
    }

    pub(super) fn check_seams(&mut self) {
        let mut waiting = std::mem::take(&mut self.checks.seams);
        let mut worst = None;
        let mut seen = Vec::new();
        waiting.retain(|seam| {
            let host = self.host_of_viewer(seam.viewer);
            // Who may not watch meanwhile sees a gap.
            if self.hosts[host].life != seam.life || !self.all_allow(seam.viewer) {
                return false;
            }
            if self.now < seam.at + SHOWS {
                return true;
            }
            let gap = self.viewers[seam.viewer].seen.seam;
            seen.push(gap);
            if gap > SEAM * self.patience() {
                worst = Some((seam.viewer, gap));
            }
            false
        });
        self.checks.seams = waiting;
        for gap in seen {
            self.measure("ms between two pictures when an encoder moves", gap / MS);
        }
        if let Some((viewer, gap)) = worst
            && self.plan.net.is_near()
        {
            let text = format!("viewer{viewer} sees a gap of {} ms at a move", gap / MS);
            self.fail("seam", text);
        }
    }

    pub(super) fn check_drained(&mut self) {
        if self.plan.has_twins() || !self.calm_for(EMPTIED * self.patience() + SLACK) {
            return;
        }
        if !self.whole() {
            return;
        }
        let nodes = 0..self.plan.nodes;
        let runs = |ix: &usize| self.runs(*ix) && self.is_member(*ix);
        let taker = nodes.clone().filter(runs).any(|ix| !self.is_wished_away(ix));
        let full = |e: usize| self.home_of(e).filter(|home| self.is_drained(*home));
        let goes = |e: &usize| {
            let mut others = nodes.clone().filter(runs).filter(|ix| !self.is_wished_away(*ix));
            others.any(|ix| self.pool_takes(ix, *e))
        };
        let stays = (0..self.plan.encoders).filter(goes).find_map(|e| Some((e, full(e)?)));
        if let (Some((e, home)), true) = (stays, taker) {
            let text = format!("cam{e} is at home at n{home}, which is drained for long");
            self.fail("drain", text);
        }
    }
}
