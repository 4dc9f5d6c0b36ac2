//! What a node believes, as the API and people see it.

use std::collections::BTreeSet;

use super::Control;
use crate::admission::{Outcast, Refusal};
use crate::cluster::{ClusterView, EncoderState, EncoderView, Liveness, NodeView, OutcastView};
use crate::directory::{Entry, SourceState};
use crate::id::{EncoderId, NodeId};

impl Control {
    /// Everything this node believes.
    pub fn view(&self) -> ClusterView {
        let alive = |node: NodeId| self.alive.contains(&node);
        let label = |node: NodeId| self.label(node);
        let myself = Some(self.me).filter(|me| !self.roster.contains(*me));
        let mut nodes: Vec<NodeView> =
            self.roster.members().chain(myself).map(|node| self.node_view(node)).collect();
        nodes.sort_by(|a, b| (&a.name, a.node).cmp(&(&b.name, b.node)));
        let ids: BTreeSet<EncoderId> = self.directory.encoders().collect();
        let mut encoders: Vec<EncoderView> = ids
            .into_iter()
            .filter_map(|id| {
                let home = self.directory.home(id, &alive);
                let last = self.directory.claims(id).max_by_key(|(node, e)| (e.epoch, *node));
                let (_, entry) = home.or(last)?;
                let home = home.map(|(node, _)| node);
                let (state, reason) = match (&home, &entry.source) {
                    (None, _) => (EncoderState::Lost, Some("its home is down".to_owned())),
                    (_, SourceState::NoSignal(why)) => (EncoderState::NoSignal, Some(why.clone())),
                    (_, SourceState::NativeOnly(why)) => (busy(entry), Some(why.clone())),
                    (_, SourceState::Ready) => (busy(entry), None),
                };
                let native_only = matches!(entry.source, SourceState::NativeOnly(_));
                Some(EncoderView {
                    id,
                    name: entry.name.clone(),
                    home,
                    home_name: home.map(label),
                    next: entry.next,
                    next_name: entry.next.map(label),
                    epoch: entry.epoch,
                    state,
                    reason,
                    native_only,
                    why: Some(entry.why.clone()).filter(|why| !why.is_empty()),
                    viewers: entry.viewers,
                })
            })
            .collect();
        encoders.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        let homeless = encoders.iter().filter(|encoder| encoder.home.is_none()).count() as u64;
        ClusterView {
            mesh: self.roster.mesh(),
            node: self.me,
            name: self.name.clone(),
            boot: self.boot,
            survivability: Some(self.demand().survivability(homeless)),
            nodes,
            encoders,
            outcasts: self.roster.outcasts().map(|(node, why)| self.outcast(node, why)).collect(),
            former: self
                .names
                .iter()
                .filter(|(node, _)| {
                    !self.roster.contains(**node) && self.roster.outcast(**node).is_none()
                })
                .map(|(node, name)| (*node, name.clone()))
                .collect(),
        }
    }

    fn outcast(&self, node: NodeId, why: &Outcast) -> OutcastView {
        let revoked = match why {
            Outcast::Revoked(by) => by.as_slice(),
            Outcast::Surplus | Outcast::Unfounded => &[],
        };
        OutcastView {
            node,
            name: self.name_of(node),
            why: Refusal::out(node, why).to_string(),
            revoked_by: revoked.iter().map(|(_, it)| it.by).collect(),
            reasons: revoked.iter().map(|(_, it)| it.reason.clone()).collect(),
            admitted_by: self.roster.admission_of(node).map(|it| it.by),
            invite: self.roster.admission_of(node).and_then(|it| it.invite),
        }
    }

    fn node_view(&self, node: NodeId) -> NodeView {
        let me = node == self.me;
        let state = match self.membership.state(node) {
            _ if me => Liveness::Up,
            Some(state) => state,
            None => Liveness::Down,
        };
        let entries = || self.directory.entries(node).filter(|_| self.alive.contains(&node));
        let viewers = entries().map(|(_, entry)| entry.viewers).fold(0, u32::saturating_add);
        NodeView {
            node,
            name: self.label(node),
            state,
            addrs: self.addrs_of(node),
            linked: me || self.linked.contains(&node),
            rtt_ms: self.membership.rtt(node).map(|rtt| rtt.as_secs_f64() * 1e3),
            draining: self.draining(node),
            cordoned: self.cordoned(node),
            capacity: self.directory.header(node).and_then(|header| header.capacity),
            measured: self.directory.header(node).map(|header| header.measured),
            limit: self.directory.header(node).and_then(|header| header.limit),
            encoders: u32::try_from(entries().count()).unwrap_or(u32::MAX),
            viewers,
            report: self.report_of(node).cloned(),
            key: self.roster.key_of(node).map(|key| data_encoding::HEXLOWER.encode(&key)),
            admitted_by: self.roster.admission_of(node).map(|it| it.by),
            invite: self.roster.admission_of(node).and_then(|it| it.invite),
            clock_offset_ms: match me {
                true => self.skew,
                false => self.reports.get(&node).and(self.clocks.offset(self.asked, node)),
            },
        }
    }

    pub(super) fn label(&self, node: NodeId) -> String {
        self.name_of(node).unwrap_or_else(|| node.short())
    }

    /// What a node is called, or was when it was last heard of.
    pub(super) fn name_of(&self, node: NodeId) -> Option<String> {
        match self.directory.header(node) {
            _ if node == self.me => Some(self.name.clone()),
            Some(header) if !header.name.is_empty() => Some(header.name.clone()),
            _ => self.names.get(&node).cloned(),
        }
    }

    pub(super) fn addrs_of(&self, node: NodeId) -> Vec<String> {
        if node == self.me {
            return self.addrs.clone();
        }
        let header = || self.directory.header(node).map(|header| &header.addrs[..]);
        let linked = || self.links.get(&node).map(Vec::as_slice);
        let known = || self.membership.peer(node).map(|peer| &peer.addrs[..]);
        // Who starts anew and does not reach the others remembers where they were: clients may.
        let before = || self.peering.addresses_of(node);
        let some = |addrs: &&[String]| !addrs.is_empty();
        let first = header().filter(some).or_else(|| linked().filter(some));
        let first = first.or_else(|| known().filter(some)).or_else(|| before().filter(some));
        first.map(<[String]>::to_vec).unwrap_or_default()
    }
}

fn busy(entry: &Entry) -> EncoderState {
    if entry.viewers > 0 { EncoderState::Live } else { EncoderState::Idle }
}
