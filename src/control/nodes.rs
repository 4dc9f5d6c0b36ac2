//! What follows from membership, links and headers: this node's own header, the peer list that
//! clients keep, and the candidates for new encoders.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::{Control, Effect};
use crate::cluster::NodeReport;
use crate::directory::{ENTRIES_MAX, Header, PROCESSOR, size};
use crate::grow::Later;
use crate::id::{NodeId, SessionId};
use crate::placement::{Candidate, Media, balance};
use crate::session::host::Host;
use crate::time::{Mono, Now, earlier};
use crate::wire::{Peer, PeerList};

/// Live members are written down for the next start at most this often.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(2);
/// What a node said of its media counts for so long: many rounds of gossip, since a report is made
/// every second. Older words are none, and whoever carries the media may be anyone by now.
const REPORT_KEEP: Duration = Duration::from_secs(30);

/// What follows from a change of nodes is worked out at once, then after as long a rest as this
/// for each member: all of them are looked at each time, and a mesh that starts or heals changes
/// once for every member and link.
const REST_EACH: Duration = Duration::from_micros(500);
/// The same for telling clients, who are told of every member each time: some ten kilobytes a second,
/// however many members there are.
const TELL_EACH: Duration = Duration::from_millis(5);
/// From some clients that are told to the next: with all at once, a thousand agents, whom four nodes
/// that start are news to several times, keep two processors from pictures for a third of a second.
const TELL_EVERY: Duration = Duration::from_millis(25);
/// Clients that are told at a time, at least.
const TELL_AT_ONCE: usize = 25;
/// And of more than that this share, so that the last is told after a second.
const TELL_SHARE: usize = 40;

/// When what follows from nodes may be worked out, and clients be told of them, again.
#[derive(Debug, Default)]
pub(super) struct Rest {
    nodes: Mono,
    peers: Mono,
    /// There is news that clients do not know yet.
    untold: bool,
    /// Clients that are still to be told the last news. Who came since knows it.
    telling: Range<SessionId>,
}

impl Rest {
    pub(super) fn nodes_rested(&self, now: Mono) -> bool {
        self.nodes <= now
    }

    /// This change does not wait: what was decided holds at once.
    pub(super) fn hurry(&mut self) {
        (self.nodes, self.peers) = Default::default();
    }

    /// Whom to tell now: so many of the clients whose ids are in this range.
    fn tells(&mut self, now: Mono, host: &Host) -> Option<(Range<SessionId>, usize)> {
        if now < self.peers {
            return None;
        }
        if self.telling.is_empty() && std::mem::take(&mut self.untold) {
            self.telling = host.session_ids();
        }
        let most = TELL_AT_ONCE.max(host.sessions() / TELL_SHARE);
        (!self.telling.is_empty()).then(|| (self.telling.clone(), most))
    }

    /// Those before this one were told; there are so many members.
    fn told(&mut self, now: Mono, next: Option<SessionId>, members: usize) {
        self.telling.start = next.unwrap_or(self.telling.end);
        self.peers = match next {
            Some(_) => now + TELL_EVERY,
            None => now + TELL_EACH * u32::try_from(members).unwrap_or(u32::MAX),
        };
    }

    pub(super) fn due(&self, nodes_dirty: bool) -> Option<Mono> {
        let nodes = nodes_dirty.then_some(self.nodes);
        earlier(nodes, (self.untold || !self.telling.is_empty()).then_some(self.peers))
    }
}

impl Control {
    /// Works out what follows from changes of membership, links and headers.
    pub(super) fn nodes_changed(&mut self, now: Now, effects: &mut Vec<Effect>) {
        // Whose clocks count may have changed as well.
        self.tell_time(now, effects);
        let peers_changed = self.refresh_nodes(now.mono);
        let drain = self.wishes.drain || self.leaving.is_some();
        self.host(now, effects, |host, world, out| {
            host.nodes_changed(world, out);
            host.drain(world, drain, out);
        });
        let members = u32::try_from(self.peers.nodes.len()).unwrap_or(u32::MAX);
        self.rest.nodes = now.mono + REST_EACH * members;
        self.rest.untold |= peers_changed;
        effects.push(Effect::ViewChanged);
        self.remember_soon(now.mono, effects);
        self.seats = self.demand_seats();
        self.balance(now, balance::Event::Nodes, effects);
    }

    /// Tells clients of changed nodes, a few at a time.
    pub(super) fn tell_peers(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some((who, most)) = self.rest.tells(now.mono, &self.host) else { return };
        let mut next = None;
        self.host(now, effects, |host, world, out| {
            next = host.tell_peers(world, who, most, out);
        });
        self.rest.told(now.mono, next, self.peers.nodes.len());
    }

    /// Recomputes what follows from membership, links and headers; true if clients see a change.
    fn refresh_nodes(&mut self, now: Mono) -> bool {
        self.await_links(now);
        self.put_header();
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

    pub(super) fn put_header(&mut self) {
        self.directory.put_header(Header {
            name: self.name.clone(),
            addrs: self.addrs.clone(),
            lacking: self.told_lacking(),
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

    /// A node has more encoders, or fewer.
    pub(super) fn recount_at(&mut self, node: NodeId) {
        let candidate = self.candidate(node);
        for list in [&mut self.candidates, &mut self.reluctant] {
            if let Ok(at) = list.binary_search_by_key(&node, |it| it.node) {
                list[at] = candidate;
            }
        }
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
