//! This node's report, and everyone's as gossip brings them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use crate::cluster::NodeReport;
use crate::hub::HubCounters;
use crate::id::{Boot, MeshId, NodeId};
use crate::net::Net;
use crate::net::gossip::Gossip;

/// Gossip messages that wait for links.
const OUT_QUEUE: usize = 1024;

/// Reports of a member by which its clock is judged.
const CLOCK_SAMPLES: usize = 16;

pub(super) struct Reports {
    me: NodeId,
    gossip: Gossip,
    incoming: watch::Receiver<Arc<BTreeMap<NodeId, NodeReport>>>,
    last: Option<(Instant, u64, u64)>,
    clocks: Clocks,
}

/// How far members' clocks are ahead of this one's, from the times in their reports. A report
/// takes a while to come, by which the clock seems slow: the best of several is nearest to the
/// truth.
#[derive(Debug, Default)]
struct Clocks(BTreeMap<NodeId, Clock>);

#[derive(Debug, Default)]
struct Clock {
    last: u64,
    offsets_ms: VecDeque<i64>,
}

impl Clocks {
    fn observe(&mut self, now: u64, reports: &BTreeMap<NodeId, NodeReport>) {
        self.0.retain(|node, _| reports.contains_key(node));
        for (node, report) in reports {
            let clock = self.0.entry(*node).or_default();
            if report.wall == clock.last {
                continue;
            }
            clock.last = report.wall;
            if clock.offsets_ms.len() == CLOCK_SAMPLES {
                clock.offsets_ms.pop_front();
            }
            clock.offsets_ms.push_back(report.wall.wrapping_sub(now).cast_signed());
        }
    }

    fn offsets(&self) -> impl Iterator<Item = (NodeId, f64)> {
        self.0.iter().filter_map(|(node, clock)| {
            let best = clock.offsets_ms.iter().max()?;
            Some((*node, *best as f64 / 1000.0))
        })
    }
}

impl Reports {
    pub(super) fn start(me: NodeId, boot: Boot, mesh: MeshId, net: Net) -> Self {
        let (out, mut outgoing) = mpsc::channel::<(NodeId, Vec<u8>)>(OUT_QUEUE);
        tokio::spawn(async move {
            while let Some((node, bytes)) = outgoing.recv().await {
                net.gossip(node, bytes);
            }
        });
        let first = NodeReport {
            version: env!("CARGO_PKG_VERSION").into(),
            capacity: 1.0,
            ..NodeReport::default()
        };
        let gossip = Gossip::spawn(me, boot, mesh, first, out);
        let incoming = gossip.reports();
        Self { me, gossip, incoming, last: None, clocks: Clocks::default() }
    }

    /// Everyone's reports, each time that any changed.
    pub(super) async fn changed(&mut self) -> Option<BTreeMap<NodeId, NodeReport>> {
        self.incoming.changed().await.ok()?;
        let reports = (**self.incoming.borrow_and_update()).clone();
        self.clocks.observe(super::wall_ms(), &reports);
        Some(reports)
    }

    /// How far the others' clocks are ahead of this one's, in seconds.
    pub(super) fn clock_offsets(&self) -> Vec<(NodeId, f64)> {
        self.clocks.offsets().filter(|(node, _)| *node != self.me).collect()
    }

    /// What the gossip counted, by name.
    pub(super) fn counters(&self) -> Vec<(&'static str, u64)> {
        self.gossip.counters().all().to_vec()
    }

    pub(super) fn deliver(&self, from: NodeId, bytes: Vec<u8>) {
        self.gossip.deliver(from, bytes);
    }

    pub(super) fn member_up(&self, node: NodeId) {
        self.gossip.member_up(node);
    }

    /// Says what this node carries at present; called about once a second.
    pub(super) fn publish(&mut self, encoders: u32, viewers: u32, hubs: &HubCounters) {
        let now = Instant::now();
        let sent = hubs.bytes_out.load(Ordering::Relaxed);
        let ticks = cpu_ticks().unwrap_or(0);
        let (egress_bps, cpu) = match self.last.replace((now, sent, ticks)) {
            None => (0, 0.0),
            Some((then, sent_then, ticks_then)) => {
                let span = now.duration_since(then).as_secs_f64().max(0.001);
                let bits = sent.saturating_sub(sent_then) as f64 * 8.0 / span;
                // The kernel's clock tick is 100 Hz on every Linux that Roost runs on.
                (bits as u64, ticks.saturating_sub(ticks_then) as f64 / 100.0 / span)
            }
        };
        self.gossip.publish(NodeReport {
            version: env!("CARGO_PKG_VERSION").into(),
            capacity: 1.0,
            encoders,
            viewers,
            egress_bps,
            cpu,
            wall: super::wall_ms(),
        });
    }
}

/// User and system time of this process (proc(5), fields 14 and 15 of `stat`).
fn cpu_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_by_the_report_that_came_fastest() {
        let node = NodeId([1; 16]);
        let report = |wall| BTreeMap::from([(node, NodeReport { wall, ..NodeReport::default() })]);
        let mut clocks = Clocks::default();
        let now = 1_000_000;
        // Five seconds ahead, after 900, 200 and 700 ms on the way; the last one comes twice.
        for (sent, took) in [(0, 900), (1_000, 200), (2_000, 700), (2_000, 5_000)] {
            clocks.observe(now + sent + took, &report(now + sent + 5_000));
        }
        assert_eq!(clocks.offsets().collect::<Vec<_>>(), [(node, 4.8)]);
        // The clock was put back: what was measured before does not count for ever.
        for second in 10..30 {
            clocks.observe(now + second * 1_000, &report(now + second * 1_000 - 2_000));
        }
        assert_eq!(clocks.offsets().collect::<Vec<_>>(), [(node, -2.0)]);
        clocks.observe(now, &BTreeMap::new());
        assert_eq!(clocks.offsets().count(), 0);
    }
}
