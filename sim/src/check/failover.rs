//! A watched stream goes on when its home ends.

use roost::directory::SourceState;
use roost::id::SessionId;

use super::SLACK;
use crate::explain::source_name;
use crate::media::Hub;
use crate::net::{MS, SEC};
use crate::plan::Fault;
use crate::world::World;

/// From the end of home to the first picture taken after it, where nodes are near.
const HEALED: u64 = SEC;

/// So long is looked at whether a viewer is shown on what next alone shows it.
const ONWARD: u64 = 3 * SEC;

/// Who was refused by a node, and may watch now, is let in by it after this time at the latest.
const LET_IN: u64 = 7 * SEC;

/// What becomes of home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It is gone, or stands still.
    Ends,
    /// It goes on, and the viewer does not reach it.
    Cut,
    /// Nor does next, which reaches the encoder.
    CutFromNext,
}

/// A viewer sees a new picture by then.
#[derive(Debug)]
pub(crate) struct Expected {
    viewer: usize,
    encoder: usize,
    home: usize,
    next: usize,
    at: u64,
    by: u64,
    end: Ending,
    /// Since when it comes, from next, though home goes on.
    shown: Option<u64>,
}

impl World {
    /// A fault is about to end homes: whose viewers must not notice for long?
    pub(super) fn expect_pictures(&mut self, fault: &Fault, hosts: &[usize]) {
        let sudden = matches!(fault, Fault::Crash(_) | Fault::Freeze(_));
        // Who does not reach home any more is shown the same by next.
        let cut = matches!(fault, Fault::Cut { one_way: false, .. });
        // What a camera that ignores requests sent last is only kept if it is short.
        let quick = self.plan.camera.obeys || self.plan.camera.group < 60;
        if !(sudden || cut)
            || !quick
            || self.plan.has_twins()
            || self.active.len() > 1
            || !self.calm_for(8 * SEC)
        {
            return;
        }
        let limit = if self.plan.net.is_near() { HEALED } else { HEALED + 2 * SEC };
        for (v, viewer) in self.viewers.iter().enumerate() {
            let e = viewer.watches;
            let (Some(home), Some(next)) = (self.home_of(e), self.next_of(e)) else { continue };
            let (encoder, host) = (self.host_of_encoder(e), self.host_of_viewer(v));
            let let_in = !self.plan.guarded || viewer.seen.flows_since + LET_IN < self.now;
            let apart = |a: usize, b: usize| {
                self.active.values().any(|active| active.cuts.contains(&(a, b)))
            };
            let end = match cut {
                false => Ending::Ends,
                true if apart(home, next) => Ending::CutFromNext,
                true => Ending::Cut,
            };
            let befell = match cut {
                true => {
                    let others = [(encoder, next), (encoder, home), (host, next)];
                    apart(host, home) && !others.iter().any(|(a, b)| apart(*a, *b))
                }
                false => {
                    let spared = [next, encoder, host];
                    hosts.contains(&home) && spared.iter().all(|host| !hosts.contains(host))
                }
            };
            // From a source that says it has no picture none is asked for in another way.
            let sends = end != Ending::CutFromNext || self.encoders[e].signal == SourceState::Ready;
            let fine = self.all_allow(v)
                && let_in
                && befell
                && sends
                && self.reach(encoder, next)
                && self.reach(host, next)
                && viewer.seen.fresh_at + 500 * MS > self.now;
            if fine {
                // Of whom the cut befell, it is the last that does.
                let at = self.now + u64::from(cut);
                let by = self.now + if end == Ending::Cut { limit / 2 } else { limit };
                self.checks.pictures.push(Expected {
                    viewer: v,
                    encoder: e,
                    home,
                    next,
                    at,
                    by,
                    end,
                    shown: None,
                });
            }
        }
    }

    pub(super) fn check_pictures(&mut self) {
        let mut waiting = std::mem::take(&mut self.checks.pictures);
        let mut late = None;
        let mut healed = Vec::new();
        let mut passed_over = None;
        let mut let_go = None;
        waiting.retain_mut(|expected| {
            let seen = self.viewers[expected.viewer].seen;
            if let Some(since) = expected.shown {
                if self.now > since + ONWARD || !self.is_still_cut(expected) {
                    return false;
                }
                if !self.is_shown_by(expected.next, self.host_of_viewer(expected.viewer)) {
                    let_go = Some(expected.viewer);
                }
                return true;
            }
            if seen.taken > expected.at {
                healed.push((expected.end, seen.longest_gap));
                let home = self.home_of(expected.encoder);
                let other = |home| home != expected.next && home != expected.home;
                if home.is_some_and(other) && self.is_quiet_since(expected) {
                    passed_over = Some(expected.encoder);
                }
                expected.shown = Some(self.now);
                return expected.end != Ending::Ends && self.is_still_cut(expected);
            }
            // Whoever may not watch any more is shown nothing.
            if !self.is_quiet_since(expected) || !self.all_allow(expected.viewer) {
                return false;
            }
            if self.now > expected.by + SLACK {
                late = Some(format!(
                    "viewer{} has no picture {} ms after home of cam{} ended",
                    expected.viewer,
                    (self.now - expected.at) / MS,
                    expected.encoder
                ));
            }
            true
        });
        self.checks.pictures = waiting;
        for (end, gap) in healed {
            self.mark(match end {
                Ending::Ends => "next takes over",
                Ending::Cut => "a viewer is cut off from home, and next serves it",
                Ending::CutFromNext => "next is cut off from home, and serves who reaches it only",
            });
            self.measure("ms without a picture when home ends", gap / MS);
        }
        if let Some(text) = late {
            self.fail("failover", text);
        } else if let Some(v) = let_go {
            let text = format!("viewer{v} let go of next, which alone shows it anything");
            self.fail("failover", text);
        } else if let Some(e) = passed_over {
            self.fail("failover", format!("home of cam{e} ended, and next was passed over"));
        }
    }

    /// Home goes on as home, its viewer does not reach it, and sees what next shows.
    fn is_still_cut(&self, expected: &Expected) -> bool {
        let host = self.host_of_viewer(expected.viewer);
        let next = self.nodes[expected.next].id;
        self.is_quiet_since(expected)
            && self.all_allow(expected.viewer)
            && self.runs(expected.home)
            && self.home_of(expected.encoder) == Some(expected.home)
            && !self.reach(host, expected.home)
            && self.reach(host, expected.next)
            && self.viewers[expected.viewer].machine.as_ref().and_then(|it| it.via()) == Some(next)
    }

    /// This node gives pictures to a client on that host.
    fn is_shown_by(&self, node: usize, host: usize) -> bool {
        let of = |session: &SessionId| self.client_host(node, *session) == Some(host);
        self.nodes[node].hubs.values().flat_map(Hub::sessions).any(|session| of(&session))
    }

    /// Nothing befell next and whoever sends to it or watches there.
    fn is_quiet_since(&self, expected: &Expected) -> bool {
        let hosts = [
            expected.next,
            self.host_of_encoder(expected.encoder),
            self.host_of_viewer(expected.viewer),
        ];
        hosts.iter().all(|host| self.hosts[*host].touched < expected.at)
            && self.net.loss.is_empty()
            && self.net.latency.is_empty()
    }

    /// Everyone who watches sees something, unless the only address that it was ever given is one
    /// of a node that is shut out.
    pub(super) fn check_all_see(&mut self) {
        let near = self.now.saturating_sub(2 * SEC);
        let lit = |e: usize| {
            if let Some(publisher) = self.watched_publisher(e) {
                return publisher.leg.is_some();
            }
            let barred = self.at_home(e).is_empty() && self.is_barred(e);
            !barred && self.agents_of(e).any(|agent| self.hosts[self.host_of_encoder(agent)].up)
        };
        let anyone = (0..self.plan.nodes).any(|node| self.is_member(node));
        let viewers = self.viewers.iter().enumerate();
        let dark = viewers
            .filter(|(v, viewer)| self.hosts[self.host_of_viewer(*v)].up && lit(viewer.watches))
            .filter(|(v, _)| self.all_allow(*v) && !self.knows_nobody(self.host_of_viewer(*v)))
            .find(|(_, viewer)| viewer.seen.fresh_at < near)
            .map(|(v, viewer)| (format!("viewer{v}"), viewer.watches, viewer.seen.fresh_at));
        let browsers = self.browsers.iter().enumerate();
        let dark_page = browsers
            .filter(|(_, browser)| browser.at.is_some() && lit(browser.watches))
            .find(|(_, browser)| browser.seen.fresh_at < near)
            .map(|(b, browser)| {
                let at = browser.at.unwrap_or_default();
                (format!("page{b} at n{at}"), browser.watches, browser.seen.fresh_at)
            });
        if let (Some((who, e, fresh)), true) = (dark.or(dark_page), anyone) {
            let of = source_name(self, e);
            let text = format!("{who} sees nothing of {of} since {:.3} s", fresh as f64 / 1e9);
            self.fail("pictures", text);
        }
    }
}
