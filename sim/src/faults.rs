//! Faults begin and end.

use std::collections::BTreeSet;

use rand::RngExt as _;
use roost::control::Event;

use crate::conn::{Cargo, End};
use crate::net::MS;
use crate::node::LOOP_LATE;
use crate::plan::{Fault, Who};
use crate::steer::{CAPACITY, LIMIT};
use crate::world::{Ev, World};

/// From the end of a fault that killed a node to its next start, at most.
const RESTART: u64 = 50 * MS;

/// From one packet that waits in a socket to the next.
const READ: std::ops::Range<u64> = 1_000..50_000;

/// A fault in force, with those it befell.
#[derive(Debug, Default)]
pub(crate) struct Active {
    hosts: Vec<usize>,
    pub(crate) cuts: Vec<(usize, usize)>,
}

impl World {
    /// Whom a fault befalls now.
    fn resolve(&self, who: Who) -> Vec<usize> {
        let nodes = 0..self.plan.nodes;
        let home = |e: usize| self.home_of(e).unwrap_or(0);
        let next = |e: usize| {
            let next = self.next_of(e).filter(|next| *next != home(e));
            next.unwrap_or_else(|| (home(e) + 1) % self.plan.nodes)
        };
        let within = |host: usize, count: usize, base: usize| {
            if host < count { vec![base + host] } else { Vec::new() }
        };
        match who {
            Who::Node(ix) => within(ix, self.plan.nodes, 0),
            Who::Home(e) => vec![home(e)],
            Who::Next(e) => vec![next(e)],
            Who::Third(e) => nodes.filter(|ix| *ix != home(e) && *ix != next(e)).take(1).collect(),
            Who::NotHome(e) => nodes.filter(|ix| *ix != home(e)).collect(),
            Who::NotNode(not) => nodes.filter(|ix| *ix != not).collect(),
            Who::Nodes => nodes.collect(),
            Who::Page(b) => self.browsers.get(b).and_then(|page| page.at).into_iter().collect(),
            Who::Publisher(p) => {
                let leg = self.publishers.get(p).and_then(|publisher| publisher.leg.as_ref());
                leg.map(|leg| leg.end.host).into_iter().collect()
            }
            Who::Encoder(e) => within(e, self.plan.encoders, self.plan.nodes),
            Who::Viewer(v) => within(v, self.plan.viewers, self.plan.nodes + self.plan.encoders),
            Who::Encoders => (0..self.plan.encoders).map(|e| self.host_of_encoder(e)).collect(),
            Who::Viewers => (0..self.plan.viewers).map(|v| self.host_of_viewer(v)).collect(),
        }
    }

    fn resolve_all(&self, who: &[Who]) -> Vec<usize> {
        let set: BTreeSet<usize> = who.iter().flat_map(|who| self.resolve(*who)).collect();
        set.into_iter().collect()
    }

    pub(crate) fn fault_begins(&mut self, index: usize) {
        let Some(item) = self.plan.faults.get(index).cloned() else { return };
        let mut active = Active::default();
        match &item.fault {
            Fault::Crash(who) | Fault::Freeze(who) => active.hosts = self.resolve_all(who),
            Fault::OldFolder(who) | Fault::OldBackup(who) | Fault::Unreadable(who) => {
                active.hosts = self.resolve_all(who);
                active.hosts.retain(|host| *host < self.plan.nodes);
            }
            Fault::Twin(e) => active.hosts = self.host_of_twin(*e).into_iter().collect(),
            // Clients and nodes cannot tell: nobody is excused.
            Fault::RequestsLost(_) => {}
            Fault::Revoke(_, node) | Fault::Readmit(_, node) => {
                active.hosts = self.resolve(Who::Node(*node));
            }
            Fault::Rotate(node) | Fault::Clock(node, _) => {
                active.hosts = self.resolve(Who::Node(*node));
            }
            Fault::Leave(who) => active.hosts = self.resolve_all(&[*who]),
            // Whoever comes may find no place.
            Fault::Pool(..) => active.hosts = (0..self.hosts.len()).collect(),
            Fault::Drain(_, who)
            | Fault::Cordon(_, who)
            | Fault::Label(_, who)
            | Fault::Capacity(_, who, _)
            | Fault::Limit(_, who, _) => {
                active.hosts = self.resolve_all(&[*who]);
                active.hosts.retain(|host| *host < self.plan.nodes);
            }
            Fault::Send(e, node) => {
                active.hosts = self.resolve_all(&[Who::Home(*e), Who::Node(*node)]);
            }
            Fault::Cut { from, to, one_way } => {
                let (from, to) = (self.resolve_all(from), self.resolve_all(to));
                let pairs = from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b)));
                for (a, b) in pairs.filter(|(a, b)| a != b) {
                    active.cuts.push((a, b));
                    if !one_way {
                        active.cuts.push((b, a));
                    }
                }
                active.hosts = from.into_iter().chain(to).collect();
            }
            Fault::Slow(who, _) | Fault::Drift(who, _) => active.hosts = self.resolve_all(who),
            Fault::Room(_, who) | Fault::Bind(_, who) | Fault::Mute(_, who) => {
                active.hosts = self.resolve_all(who)
            }
            Fault::DiskFull(who) | Fault::Liar(who) | Fault::Boast(who, _) => {
                active.hosts = self.resolve_all(who);
                active.hosts.retain(|host| *host < self.plan.nodes);
            }
            Fault::Latency(_)
            | Fault::Loss(_)
            | Fault::Duplicate(_)
            | Fault::Reorder(_)
            | Fault::Bursts(_) => {
                active.hosts = (0..self.hosts.len()).collect();
            }
        }
        let names: Vec<String> = active.hosts.iter().map(|host| self.host_name(*host)).collect();
        let text = format!("FAULT {:?} at {}", item.fault, names.join(" "));
        self.trace.add(self.now, 0, 0, text.as_bytes());
        self.trace.say(self.now, || text);
        let hosts = active.hosts.clone();
        let cuts = active.cuts.clone();
        self.active.insert(index, active);
        self.observe_fault(index, &hosts, &cuts, &item.fault);
        self.expect_before(&item.fault, &hosts);
        hosts.iter().for_each(|host| self.touch(*host));
        if matches!(item.fault, Fault::Leave(_) | Fault::Revoke(..) | Fault::Readmit(..)) {
            self.forget_alike(&hosts);
        }
        match &item.fault {
            Fault::Crash(_) | Fault::OldFolder(_) | Fault::OldBackup(_) | Fault::Unreadable(_) => {
                hosts.iter().for_each(|host| self.crash(*host));
            }
            Fault::Twin(_) => hosts.iter().for_each(|host| self.start_client(*host)),
            Fault::RequestsLost(share) => self.net.requests_lost.push(*share),
            Fault::Revoke(by, node) => self.revoke(*by, *node),
            Fault::Readmit(by, node) => self.readmit(*by, *node),
            Fault::Rotate(node) => self.rotate(*node),
            Fault::Clock(node, off) => {
                self.clocks_off.insert(*node, *off);
            }
            Fault::Freeze(_) => hosts.iter().for_each(|host| self.freeze(*host)),
            Fault::Leave(_) => {
                for &host in &hosts {
                    self.hosts[host].stopping = true;
                    match host < self.plan.nodes {
                        true => self.node_event(host, Event::Leave),
                        false => self.client_leaves(host),
                    }
                }
            }
            Fault::Drain(by, _) => self.wish_all(*by, &hosts, crate::steer::DRAIN, true),
            Fault::Cordon(by, _) => self.wish_all(*by, &hosts, crate::steer::CORDON, true),
            Fault::Capacity(by, _, to) => self.size_all(*by, &hosts, CAPACITY, Some(*to)),
            Fault::Limit(by, _, most) => self.size_all(*by, &hosts, LIMIT, Some(*most)),
            Fault::Mute(by, _) => self.let_send(*by, &hosts, false),
            Fault::Liar(_) => {
                self.liars.extend(&hosts);
                self.checks.lied.extend(&hosts);
            }
            Fault::Boast(_, viewers) => {
                self.boasts.extend(hosts.iter().map(|host| (*host, *viewers)));
            }
            Fault::Room(by, _) => self.room(*by, &hosts, true),
            Fault::Bind(by, _) => self.bind_all(*by, &hosts, true),
            Fault::Pool(by, only) => self.pool(*by, true, *only),
            Fault::Label(by, _) => self.label_all(*by, &hosts, true),
            Fault::Send(e, node) => self.send_encoder(*e, *node),
            Fault::Cut { .. } => {
                cuts.iter().for_each(|(a, b)| self.net.cut(*a, *b));
                self.recompute_all();
            }
            Fault::Latency(ms) => self.net.latency.push(ms * MS),
            Fault::Loss(share) => self.net.loss.push(*share),
            Fault::Duplicate(share) => self.net.duplicate.push(*share),
            Fault::Reorder(share) => self.net.reorder.push(*share),
            Fault::Bursts(share) => {
                self.net.bursts.push(*share);
                // Nobody is late who waits for packets: no further share is lost.
                self.net.loss.push(0.0);
            }
            Fault::Slow(_, kbit) => {
                self.net.slow.extend(hosts.iter().map(|host| (*host, *kbit)));
                self.net.latency.push(0);
            }
            Fault::Drift(_, gains) => {
                self.drifts.extend(hosts.iter().map(|host| (*host, (self.now, *gains))));
            }
            Fault::DiskFull(_) => self.full.extend(&hosts),
        }
        self.mark_fault(&item.fault);
        self.expect_after(&item.fault, &hosts);
        if let Some(until) = item.until_ms {
            self.queue.push_first((until * MS).max(self.now + 1), Ev::FaultEnds(index));
        }
    }

    pub(crate) fn fault_ends(&mut self, index: usize) {
        let Some(active) = self.active.remove(&index) else { return };
        self.observe_fault_over(index);
        let fault = self.plan.faults[index].fault.clone();
        let text = format!("fault over: {fault:?}");
        self.trace.add(self.now, 0, 0, text.as_bytes());
        self.trace.say(self.now, || text);
        active.hosts.iter().for_each(|host| self.touch(*host));
        let drop_one = |list: &mut Vec<f64>, share: f64| {
            if let Some(at) = list.iter().position(|s| *s == share) {
                list.remove(at);
            }
        };
        match fault {
            Fault::Twin(_) => active.hosts.into_iter().for_each(|host| self.crash(host)),
            Fault::Crash(_)
            | Fault::Leave(_)
            | Fault::OldFolder(_)
            | Fault::OldBackup(_)
            | Fault::Unreadable(_) => {
                for host in active.hosts {
                    match fault {
                        // Another fault started it meanwhile: nothing is put under a node that runs.
                        // One that still stops is started once it has.
                        Fault::Leave(_) if self.hosts[host].stopping => {}
                        _ if self.hosts[host].up => continue,
                        Fault::OldFolder(_) => {
                            self.nodes[host].disk.put_back();
                            self.restore(index, host, false);
                        }
                        Fault::OldBackup(_) => self.restore(index, host, true),
                        Fault::Unreadable(_) => self.spoil(host),
                        _ => {}
                    }
                    let late = self.hosts[host].rng.random_range(0..RESTART);
                    let start = if host < self.plan.nodes {
                        Ev::StartNode(host)
                    } else {
                        Ev::StartClient(host)
                    };
                    self.queue.push(self.now + late, start);
                }
            }
            Fault::Freeze(_) => active.hosts.into_iter().for_each(|host| self.thaw(host)),
            Fault::Cut { .. } => {
                active.cuts.iter().for_each(|(a, b)| self.net.mend(*a, *b));
                self.recompute_all();
            }
            Fault::Latency(ms) => {
                if let Some(at) = self.net.latency.iter().position(|l| *l == ms * MS) {
                    self.net.latency.remove(at);
                }
            }
            Fault::Loss(share) => drop_one(&mut self.net.loss, share),
            Fault::Duplicate(share) => drop_one(&mut self.net.duplicate, share),
            Fault::Reorder(share) => drop_one(&mut self.net.reorder, share),
            Fault::RequestsLost(share) => drop_one(&mut self.net.requests_lost, share),
            Fault::Revoke(..) | Fault::Readmit(..) | Fault::Rotate(_) | Fault::Send(..) => {}
            Fault::Drain(by, _) => self.wish_all(by, &active.hosts, crate::steer::DRAIN, false),
            Fault::Cordon(by, _) => self.wish_all(by, &active.hosts, crate::steer::CORDON, false),
            Fault::Capacity(by, ..) => self.size_all(by, &active.hosts, CAPACITY, None),
            Fault::Limit(by, ..) => self.size_all(by, &active.hosts, LIMIT, None),
            Fault::Mute(by, _) => self.let_send(by, &active.hosts, true),
            Fault::Liar(_) => self.liars.retain(|host| !active.hosts.contains(host)),
            Fault::Boast(..) => self.boasts.retain(|host, _| !active.hosts.contains(host)),
            Fault::Room(by, _) => self.room(by, &active.hosts, false),
            Fault::Bind(by, _) => self.bind_all(by, &active.hosts, false),
            Fault::Pool(by, only) => self.pool(by, false, only),
            Fault::Label(by, _) => self.label_all(by, &active.hosts, false),
            Fault::Clock(node, _) => drop(self.clocks_off.remove(&node)),
            Fault::Bursts(share) => {
                drop_one(&mut self.net.bursts, share);
                drop_one(&mut self.net.loss, 0.0);
            }
            Fault::Slow(_, kbit) => {
                for host in active.hosts {
                    if let Some(at) = self.net.slow.iter().position(|s| *s == (host, kbit)) {
                        self.net.slow.remove(at);
                    }
                }
                if let Some(at) = self.net.latency.iter().position(|l| *l == 0) {
                    self.net.latency.remove(at);
                }
            }
            Fault::Drift(..) => {
                self.drifts.retain(|host, _| !active.hosts.contains(host));
                self.righted.extend(active.hosts.iter().map(|host| (*host, self.now)));
            }
            Fault::DiskFull(_) => self.full.retain(|host| !active.hosts.contains(host)),
        }
    }

    pub(crate) fn crash(&mut self, host: usize) {
        if !self.hosts[host].up {
            return;
        }
        if host >= self.plan.nodes {
            self.forget_client(host);
        }
        self.kill(host);
    }

    fn freeze(&mut self, host: usize) {
        self.hosts[host].holds += 1;
        if self.hosts[host].up && !self.hosts[host].frozen {
            self.hosts[host].frozen = true;
            self.hosts[host].frozen_at = self.now;
        }
        for conn in self.conns_of(host) {
            self.recompute(conn);
        }
    }

    /// A process goes on: what waits in its socket comes in the order in which it arrived, and
    /// its timers come somewhere in between.
    fn thaw(&mut self, host: usize) {
        let state = &mut self.hosts[host];
        state.holds = state.holds.saturating_sub(1);
        if state.holds > 0 || !state.frozen {
            return;
        }
        state.frozen = false;
        if !state.up {
            return;
        }
        self.note_woken(host);
        self.note_stood(host);
        let state = &mut self.hosts[host];
        state.thawed = self.now;
        let long = self.now - state.frozen_at >= LOOP_LATE;
        for (.., cargo) in &mut state.inbox {
            if let (Cargo::Picture(_, frame), true) = (cargo, long) {
                frame.waited = Some(host);
            }
        }
        state.draining = true;
        let span = (state.inbox.len() as u64 * READ.end / 2).max(MS);
        let late = state.rng.random_range(0..span);
        state.armed = self.now;
        let end = self.end_of(host);
        self.queue.push(self.now, Ev::Drain(end));
        self.queue.push(self.now + late, Ev::Wake { end, at: self.now });
        for conn in self.conns_of(host) {
            self.recompute(conn);
        }
    }

    /// Reads the next of what waits in a socket; what arrives meanwhile comes after it.
    pub(crate) fn drain(&mut self, end: End) {
        if !self.lives(end) || self.hosts[end.host].frozen {
            return;
        }
        let state = &mut self.hosts[end.host];
        let Some((conn, side, cargo)) = state.inbox.pop_front() else {
            state.draining = false;
            return;
        };
        let pause = state.rng.random_range(READ);
        self.read(conn, side, cargo);
        self.queue.push(self.now + pause, Ev::Drain(end));
    }
}
