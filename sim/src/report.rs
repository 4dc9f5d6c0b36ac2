//! What nodes say of themselves: each makes a report every second, and linked nodes get it some
//! time later, as gossip brings it to them.

use std::collections::{BTreeMap, VecDeque};

use rand::RngExt as _;
use roost::cluster::NodeReport;
use roost::control::Event;
use roost::id::NodeId;

use crate::net::{MS, SEC};
use crate::rng::{For, stream};
use crate::world::World;

/// From the moment that a report is made until a linked node has it: between these, as whole nodes
/// in paused time take it.
const DELAY: std::ops::RangeInclusive<u64> = 100 * MS..=3_000 * MS;
/// Reports are kept as long as anybody may get them.
const KEPT: u64 = 4 * SEC;
/// What a stream takes, in bits per second.
const BITRATE: u64 = 2_500_000;

/// What one node said, and what it heard.
#[derive(Debug, Default)]
pub(crate) struct Gossip {
    /// Its own reports, the newest last, with the time when each was made.
    made: VecDeque<(u64, NodeReport)>,
    /// Others' last reports, with the time when each was made.
    known: BTreeMap<NodeId, (u64, NodeReport)>,
}

impl World {
    /// Whether there is anything to report.
    fn has_reports(&self) -> bool {
        self.plan.viewers + self.browsers.len() > 0 || self.plan.has_boasts()
    }

    /// The media that a node carries.
    pub(crate) fn carried(&self, ix: usize) -> NodeReport {
        let receivers = self.nodes[ix].hubs.values().map(crate::media::Hub::receivers);
        let taken: Vec<usize> = receivers.filter(|receivers| *receivers > 0).collect();
        let (streams, viewers) = (taken.len(), taken.iter().sum::<usize>());
        NodeReport {
            streams: u32::try_from(streams).unwrap_or(u32::MAX),
            viewers: u32::try_from(viewers).unwrap_or(u32::MAX),
            egress_bps: viewers as u64 * BITRATE,
            wall: self.clock(ix).wall,
            ..NodeReport::default()
        }
    }

    /// A node makes a report, and hears what gossip brings it.
    pub(crate) fn report(&mut self, ix: usize) {
        if !self.has_reports() || self.nodes[ix].control.is_none() {
            return;
        }
        let report = self.carried(ix);
        self.node_event(ix, Event::Report(report.clone()));
        let told = match self.boasts.get(&ix) {
            Some(&viewers) => NodeReport {
                streams: viewers,
                viewers,
                egress_bps: u64::from(viewers).saturating_mul(BITRATE),
                ..report
            },
            None => report,
        };
        let now = self.now;
        let mut rng = stream(self.plan.seed, For::Reports(ix, now));
        let made = &mut self.nodes[ix].gossip.made;
        made.push_back((now, told));
        while made.front().is_some_and(|(at, _)| at + KEPT < now) {
            made.pop_front();
        }
        let linked = |peer: &usize| self.nodes[ix].links.contains_key(peer);
        let peers: Vec<usize> = self.index.hosts().filter(linked).collect();
        let mut news = false;
        for peer in peers {
            let at = now.saturating_sub(rng.random_range(DELAY));
            if !self.reach(ix, peer) {
                continue;
            }
            let mut made = self.nodes[peer].gossip.made.iter().rev();
            let Some(newest) = made.find(|(made, _)| *made <= at).cloned() else { continue };
            let id = self.nodes[peer].id;
            let known = &mut self.nodes[ix].gossip.known;
            if known.get(&id).is_none_or(|(before, _)| *before < newest.0) {
                known.insert(id, newest);
                news = true;
            }
        }
        if news {
            let known = self.nodes[ix].gossip.known.iter();
            let known = known.map(|(id, (_, report))| (*id, report.clone())).collect();
            self.node_event(ix, Event::Reports(known));
        }
    }
}
