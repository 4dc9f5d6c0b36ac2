//! One live node that a client reaches is enough.

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// A client that reaches a node for this long is served.
const SERVED: u64 = 15 * SEC;

/// What a node that hears nothing of an agent takes to call it gone.
const TWIN_GONE: u64 = 12 * SEC;

impl World {
    pub(super) fn check_served(&mut self) {
        let clients = self.plan.nodes + self.plan.encoders + self.plan.viewers;
        // Before a second agent is at home, nodes must notice that the first is gone.
        let gone = if self.plan.has_twins() { TWIN_GONE } else { 0 };
        let clients = self.plan.nodes..clients;
        let members: Vec<bool> = (0..self.plan.nodes).map(|node| self.is_member(node)).collect();
        for host in clients {
            for (node, &member) in members.iter().enumerate() {
                let ready = self.reach(host, node) && member && !self.hosts[node].stopping;
                if ready {
                    self.checks.reached.entry((host, node)).or_insert(self.now);
                } else {
                    self.checks.reached.remove(&(host, node));
                }
            }
            let e = host - self.plan.nodes;
            let barred = e < self.plan.encoders && self.is_barred(e);
            let mute = self.encoder_at(host).is_some_and(|agent| self.mute.contains_key(&agent));
            let excused = barred || mute || self.knows_nobody(host) || self.watches_nothing(host);
            if !self.runs(host) || self.is_served(host) || excused {
                self.checks.unserved.remove(&host);
                continue;
            }
            let since = *self.checks.unserved.entry(host).or_insert(self.now);
            let limit = SERVED * self.patience() + gone + SLACK;
            if self.now < since + limit {
                continue;
            }
            let steady = |node: &usize| {
                let since = self.checks.reached.get(&(host, *node));
                since.is_some_and(|since| self.now >= since + limit) && self.can_serve(host, *node)
            };
            if let Some(node) = (0..self.plan.nodes).find(steady) {
                let text = format!(
                    "{} is not served for {} s, though it reaches n{node}",
                    self.host_name(host),
                    (self.now - since) / SEC
                );
                self.fail("served", text);
                return;
            }
        }
    }

    /// It was given one address, which it does not reach or where no member ever was, and was told
    /// no other yet.
    pub(super) fn knows_nobody(&self, host: usize) -> bool {
        let e = host - self.plan.nodes;
        let (told, target) = match e.checked_sub(self.plan.encoders) {
            None => (&self.encoders[e].peers, self.encoders[e].target),
            Some(v) => (&self.viewers[v].peers, self.viewers[v].target),
        };
        let reached = self.checks.reached.contains_key(&(host, target));
        told.nodes.is_empty() && (!reached || self.nodes[target].disk.statements.is_empty())
    }

    /// A viewer waits for its encoder's home before it can be served, and finds none that keeps
    /// secret what is there.
    fn watches_nothing(&self, host: usize) -> bool {
        let viewer = host.checked_sub(self.plan.nodes + self.plan.encoders);
        viewer.is_some_and(|v| {
            let watches = self.viewers[v].watches;
            match self.home_of(watches) {
                Some(home) => self.liars.contains(&home),
                None => self.next_of(watches).is_none(),
            }
        })
    }

    /// An agent is served when it has a home that runs and that it reaches; a viewer when it has
    /// a recent picture.
    fn is_served(&self, host: usize) -> bool {
        let e = host - self.plan.nodes;
        if e < self.plan.encoders {
            return self.at_home(e).into_iter().any(|ix| {
                let agent = self.host_of_encoder(ix);
                self.home_of(e).is_some_and(|home| self.reach(agent, home))
            });
        }
        let viewer = &self.viewers[e - self.plan.encoders];
        if !self.all_allow(e - self.plan.encoders) {
            return true;
        }
        viewer.seen.fresh_at + SEC >= self.now
    }

    /// Whether this node can do anything for this client: for a viewer, the stream must reach it.
    fn can_serve(&self, host: usize, node: usize) -> bool {
        let e = host - self.plan.nodes;
        let limit = SERVED * self.patience() + SLACK;
        let steady = |a: usize, b: usize| {
            let since = self.checks.reached.get(&(a, b));
            since.is_some_and(|since| self.now >= since + limit)
        };
        if e < self.plan.encoders {
            return self.pool_takes(node, e);
        }
        let watches = self.viewers[e - self.plan.encoders].watches;
        let encoder = self.host_of_encoder(watches);
        // What can be said without following every path: all nodes that the agent reaches, this
        // node reaches as well, and nothing changed there for long.
        let quiet = |host: usize| self.now >= self.hosts[host].touched + limit;
        // Next needs no home: the agent sends to it as well.
        if self.next_of(watches) == Some(node) {
            return steady(encoder, node) && [encoder, node, host].into_iter().all(quiet);
        }
        let home = self.home_of(watches);
        home.is_some_and(|home| {
            steady(encoder, home)
                && quiet(encoder)
                && quiet(home)
                && quiet(node)
                && quiet(host)
                && self.reach(node, home)
        })
    }
}
