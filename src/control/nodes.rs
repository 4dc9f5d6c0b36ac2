//! What follows from membership, links and headers: this node's own header, the peer list that
//! clients keep, and the candidates for new encoders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Control, Effect};
use crate::cluster::NodeReport;
use crate::directory::{ENTRIES_MAX, Header, PROCESSOR, size};
use crate::grow::Later;
use crate::id::NodeId;
use crate::placement::{Candidate, Media};
use crate::time::{Mono, Now};
use crate::wire::{Peer, PeerList};

/// Live members are written down for the next start at most this often.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(2);
/// Links that come and go by the dozen, as when a mesh starts or heals, are told to everybody at
/// most this often: each time all of them are named to all.
const LINKS_SPACING: Duration = Duration::from_millis(200);
/// What a node said of its media counts for so long: many rounds of gossip, since a report is made
/// every second. Older words are none, and whoever carries the media may be anyone by now.
const REPORT_KEEP: Duration = Duration::from_secs(30);

impl Control {
    /// Recomputes what follows from membership, links and headers; true if clients see a change.
    pub(super) fn refresh_nodes(&mut self, now: Mono) -> bool {
        let told = self.directory.header(self.me).map(|header| &header.links);
        let links = match told {
            Some(told) if *told != self.linked && now < self.links_rested => {
                self.links_due = Some(self.links_rested);
                told.clone()
            }
            told => {
                if told != Some(&self.linked) {
                    self.links_rested = now + LINKS_SPACING;
                }
                self.links_due = None;
                self.linked.clone()
            }
        };
        self.put_header(links);
        self.recount();
        let mut nodes: Vec<Peer> = self
            .roster
            .members()
            .map(|node| Peer {
                node,
                name: self.label(node),
                addrs: self.addrs_of(node),
                up: self.alive.contains(&node) && !self.draining(node),
                draining: self.alive.contains(&node) && self.draining(node),
                later: Later::default(),
            })
            .filter(|peer| !peer.addrs.is_empty())
            .collect();
        nodes.sort_by(|a, b| (!a.up, &a.name, a.node).cmp(&(!b.up, &b.name, b.node)));
        let peers = PeerList { nodes };
        let changed = peers != self.peers;
        self.peers = peers;
        changed
    }

    /// Tells of links what had to wait, if it is time, or if a change of an entry goes out anyway:
    /// whoever gets that would otherwise hand it on to nodes that have it.
    pub(super) fn tell_links(&mut self, now: Mono) {
        let Some(due) = self.links_due else { return };
        if due <= now || self.directory.has_changes() {
            self.links_due = None;
            self.links_rested = now + LINKS_SPACING;
            self.put_header(self.linked.clone());
        }
    }

    fn put_header(&mut self, links: BTreeSet<NodeId>) {
        self.directory.put_header(Header {
            name: self.name.clone(),
            addrs: self.addrs.clone(),
            links,
            draining: self.draining(self.me),
            cordoned: self.wishes.cordon,
            capacity: self.wishes.capacity,
            limit: self.wishes.limit,
            measured: self.measured,
            later: Later::default(),
        });
    }

    /// Keeps what members are called now.
    fn note_names(&mut self, effects: &mut Vec<Effect>) {
        for node in self.roster.members() {
            let Some(header) = self.directory.header(node) else { continue };
            let known = self.names.get(&node) == Some(&header.name);
            if !known && node != self.me && !header.name.is_empty() {
                self.names.insert(node, header.name.clone());
                effects.push(Effect::Name(node, header.name.clone()));
            }
        }
    }

    /// Has what members are called written down, and the addresses of those that live, unless that
    /// was done a moment ago: then later.
    pub(super) fn remember_soon(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        self.note_names(effects);
        let earliest = self.remembered.map_or(now, |at| at + REMEMBER_INTERVAL);
        self.remember_at.get_or_insert(earliest.max(now));
    }

    pub(super) fn remember(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        self.remember_at = None;
        self.remembered = Some(now);
        let nodes = self.alive.iter().filter(|node| **node != self.me);
        let members = nodes.map(|&node| (node, self.addrs_of(node))).collect();
        effects.push(Effect::Remember(members));
    }

    pub(super) fn draining(&self, node: NodeId) -> bool {
        match self.directory.header(node) {
            _ if node == self.me => {
                self.wishes.drain
                    || self.leaving.is_some()
                    || self.roster.outcast(self.me).is_some()
            }
            Some(header) => header.draining,
            None => false,
        }
    }

    /// Whether a node takes no encoders any more, but goes on with those that it has.
    pub(super) fn cordoned(&self, node: NodeId) -> bool {
        match self.directory.header(node) {
            _ if node == self.me => self.wishes.cordon,
            Some(header) => header.cordoned,
            None => false,
        }
    }

    pub(super) fn recount(&mut self) {
        let goes = self.leaving.is_some() || self.roster.outcast(self.me).is_some();
        let there = self.alive.iter().copied().filter(|node| !goes || *node != self.me);
        let takes = |node: &NodeId| !self.draining(*node) && !self.cordoned(*node);
        let (takers, reluctant): (Vec<NodeId>, Vec<NodeId>) = there.partition(takes);
        self.candidates = takers.into_iter().map(|node| self.candidate(node)).collect();
        self.reluctant = reluctant.into_iter().map(|node| self.candidate(node)).collect();
    }

    pub(super) fn candidate(&self, node: NodeId) -> Candidate {
        let (size, limit) = match self.directory.header(node) {
            _ if node == self.me => (size(self.wishes.capacity, self.measured), self.wishes.limit),
            header => header.map_or((PROCESSOR, None), |header| (header.size(), header.limit)),
        };
        let most = ENTRIES_MAX as u32;
        Candidate {
            node,
            weight: f64::from(size) / f64::from(PROCESSOR),
            load: u32::try_from(self.directory.count(node)).unwrap_or(u32::MAX),
            media: self.media_of(node),
            limit: limit.unwrap_or(most).min(most),
        }
    }

    /// The media that a node carries: its own as it counts it, that of others by their last word,
    /// unless that is old.
    fn media_of(&self, node: NodeId) -> Media {
        let fresh = |at: &Mono| self.handled.since(*at) < REPORT_KEEP;
        let heard = node == self.me || self.heard.get(&node).is_some_and(fresh);
        let report = self.report_of(node).filter(|_| heard);
        report.map(NodeReport::media).unwrap_or_default()
    }

    /// What a node said of itself last.
    pub(super) fn report_of(&self, node: NodeId) -> Option<&NodeReport> {
        if node == self.me { self.own.as_ref() } else { self.reports.get(&node) }
    }

    pub(super) fn heed_reports(
        &mut self,
        now: Now,
        mut reports: BTreeMap<NodeId, NodeReport>,
        effects: &mut Vec<Effect>,
    ) {
        reports.retain(|node, _| self.roster.contains(*node));
        for (node, report) in &reports {
            self.clocks.observe(now, *node, report.wall);
            if self.reports.get(node) != Some(report) {
                self.heard.insert(*node, now.mono);
            }
        }
        self.reports = reports;
        self.tell_time(now, effects);
        self.recount();
        effects.push(Effect::ViewChanged);
    }
}
