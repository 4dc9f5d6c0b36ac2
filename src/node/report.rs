//! This node's report, and everyone's as gossip brings them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use crate::cluster::NodeReport;
use crate::directory::PROCESSOR;
use crate::hub::Hubs;
use crate::id::{Boot, MeshId, NodeId};
use crate::net::Net;
use crate::net::gossip::Gossip;

/// Gossip messages that wait for links.
const OUT_QUEUE: usize = 1024;

pub(super) struct Reports {
    gossip: Gossip,
    incoming: watch::Receiver<Arc<BTreeMap<NodeId, NodeReport>>>,
    last: Option<(Instant, u64, u64)>,
}

impl Reports {
    pub(super) fn start(me: NodeId, boot: Boot, mesh: MeshId, net: Net) -> Self {
        let (out, mut outgoing) = mpsc::channel::<(NodeId, Vec<u8>)>(OUT_QUEUE);
        tokio::spawn(async move {
            while let Some((node, bytes)) = outgoing.recv().await {
                net.gossip(node, bytes);
            }
        });
        let first =
            NodeReport { version: env!("CARGO_PKG_VERSION").into(), ..NodeReport::default() };
        let gossip = Gossip::spawn(me, boot, mesh, first, out);
        let incoming = gossip.reports();
        Self { gossip, incoming, last: None }
    }

    /// Everyone's reports, each time that any changed.
    pub(super) async fn changed(&mut self) -> Option<BTreeMap<NodeId, NodeReport>> {
        self.incoming.changed().await.ok()?;
        Some((**self.incoming.borrow_and_update()).clone())
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
    pub(super) fn publish(&mut self, encoders: u32, hubs: &Hubs) -> NodeReport {
        let now = Instant::now();
        let sent = hubs.counters().bytes_out.load(Ordering::Relaxed);
        let (streams, viewers) = hubs.taken();
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
        let report = NodeReport {
            version: env!("CARGO_PKG_VERSION").into(),
            encoders,
            streams,
            viewers,
            egress_bps,
            cpu,
            wall: super::wall_ms(),
        };
        self.gossip.publish(report.clone());
        report
    }
}

/// What this node is good for, as far as can be told beforehand: a hundred for each processor that
/// it may use.
pub(super) fn capacity() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(processors).unwrap_or(u32::MAX).saturating_mul(PROCESSOR)
}

/// User and system time of this process (proc(5), fields 14 and 15 of `stat`).
fn cpu_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}
