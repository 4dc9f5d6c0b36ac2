//! The control loop: one task that owns `Control`, feeds it, and carries its effects out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::FutureExt as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::Clock;
use super::clients::Clients;
use super::ledger::{self, Told};
use super::media::Turning;
use super::members::{Decreed, MeshClock};
use super::relay::{Relays, Source};
use super::report::Reports;
use super::writer::Writer;
use super::{ENCODER_FAILOVER, Failovers};
use crate::accounts;
use crate::admission::{Keypair, Roster};
use crate::cluster::ClusterView;
use crate::control::{self, Control, Effect, Event, Note};
use crate::directory::SourceState;
use crate::hub::{HubEvent, Hubs};
use crate::id::{EncoderId, NodeId, SessionId};
use crate::net::{Net, NetEvent};
use crate::placement::balance;
use crate::session::host::{self, Route};
use crate::wire::{self, Message};
use crate::{directory, membership, session};

/// Events of each inbox handled in a row before the timers are looked at again.
const BATCH: usize = 256;
/// The view is published at most this often.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(50);
/// Round trips and totals are refreshed this often.
const REFRESH: Duration = Duration::from_secs(1);

/// Numbers for metrics.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Of the coordinator.
    pub control: control::Counters,
    /// Of the clients' side.
    pub host: host::Counters,
    /// Of the directory.
    pub directory: directory::Counters,
    /// Of the ledger.
    pub ledger: accounts::Counters,
    /// Of evening out.
    pub balance: balance::Counters,
    /// Of membership.
    pub membership: membership::Counters,
    /// Of the reports' gossip, by name.
    pub gossip: Vec<(&'static str, u64)>,
    /// Native clients connected.
    pub sessions: usize,
    /// Clients closed for not reading, and frames dropped after a stall.
    pub drops: (u64, u64),
    /// Changes of records that a listener was too slow to hear of.
    pub changes_lost: u64,
    /// Bytes of the store on disk.
    pub store_bytes: Option<u64>,
    /// Why what is to be stored is not, at present.
    pub store_error: Option<Arc<String>>,
    /// How far this node's clock is ahead of the mesh's, in milliseconds.
    pub clock_skew_ms: i64,
}

pub(super) struct Inboxes {
    pub(super) net: mpsc::Receiver<NetEvent>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) hubs: mpsc::UnboundedReceiver<HubEvent>,
    pub(super) calls: mpsc::Receiver<ledger::Call>,
}

/// What came in.
enum Input {
    Net(NetEvent),
    Event(Event),
    Hub(HubEvent),
    Call(ledger::Call),
}

impl Inboxes {
    /// What waits, up to [`BATCH`] of each, one of each in turn: a flood in one does not keep the
    /// others waiting.
    fn take(&mut self) -> Vec<Input> {
        let mut taken = Vec::new();
        for _ in 0..BATCH {
            let before = taken.len();
            taken.extend(self.hubs.try_recv().map(Input::Hub));
            taken.extend(self.events.try_recv().map(Input::Event));
            taken.extend(self.net.try_recv().map(Input::Net));
            taken.extend(self.calls.try_recv().map(Input::Call));
            if taken.len() == before {
                break;
            }
        }
        taken
    }
}

pub(super) struct Driver {
    pub(super) control: Control,
    pub(super) clock: Clock,
    pub(super) net: Net,
    pub(super) hubs: Hubs,
    pub(super) clients: Clients,
    pub(super) relays: Relays,
    pub(super) roster: Arc<ArcSwap<Roster>>,
    pub(super) store: Writer,
    pub(super) reports: Reports,
    pub(super) turning: Arc<Turning>,
    pub(super) failovers: Failovers,
    /// Native viewers served here, and since when.
    pub(super) watching: BTreeMap<(SessionId, EncoderId), std::time::Instant>,
    pub(super) attached: BTreeMap<EncoderId, SessionId>,
    pub(super) joins: BTreeMap<u64, oneshot::Sender<Result<wire::Admitted, String>>>,
    pub(super) last_join: u64,
    pub(super) decrees: BTreeMap<u64, oneshot::Sender<Decreed>>,
    pub(super) last_decree: u64,
    pub(super) moves: BTreeMap<u64, oneshot::Sender<host::Outcome>>,
    pub(super) last_move: u64,
    pub(super) keypair: Arc<ArcSwap<Keypair>>,
    pub(super) mesh_clock: Arc<MeshClock>,
    pub(super) data: std::path::PathBuf,
    pub(super) writes: BTreeMap<u64, oneshot::Sender<Result<accounts::Receipt, accounts::Refusal>>>,
    pub(super) last_write: u64,
    pub(super) asks: mpsc::Sender<(NodeId, wire::Ask, oneshot::Sender<Vec<u8>>)>,
    pub(super) view: Arc<ArcSwap<ClusterView>>,
    pub(super) changes: watch::Sender<u64>,
    pub(super) totals: Arc<ArcSwap<Totals>>,
    pub(super) rights_changes: watch::Sender<u64>,
    pub(super) told: Told,
    pub(super) left: watch::Sender<bool>,
    pub(super) view_dirty: bool,
}

impl Driver {
    pub(super) async fn run(mut self, mut inboxes: Inboxes, effects: Vec<Effect>) {
        self.carry_out(effects);
        let mut publish = tokio::time::interval(PUBLISH_INTERVAL);
        publish.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut refresh = tokio::time::interval(REFRESH);
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let wake = self.control.next_wake().map(|at| self.clock.instant(at));
            let wake = wake.unwrap_or_else(|| tokio::time::Instant::now() + REFRESH);
            // The inbox before the timers: after a pause, what waits there must be heard before
            // anyone is judged silent.
            tokio::select! {
                biased;
                Some(event) = inboxes.net.recv() => self.net_event(event),
                Some(event) = inboxes.events.recv() => self.handle(event),
                Some(call) = inboxes.calls.recv() => self.call(call),
                Some(event) = inboxes.hubs.recv() => self.hub_event(event),
                Some(reports) = self.reports.changed() => self.handle(Event::Reports(reports)),
                () = tokio::time::sleep_until(wake) => self.handle(Event::Wake),
                _ = publish.tick(), if self.view_dirty => self.publish(),
                _ = refresh.tick() => self.refresh(),
            }
            for input in inboxes.take() {
                match input {
                    Input::Net(event) => self.net_event(event),
                    Input::Event(event) => self.handle(event),
                    Input::Hub(event) => self.hub_event(event),
                    Input::Call(call) => self.call(call),
                }
            }
            // Many events in a row must not keep the timers waiting.
            if self.control.next_wake().is_some_and(|at| at <= self.clock.now().mono) {
                self.handle(Event::Wake);
            }
            if let Some(Some(reports)) = self.reports.changed().now_or_never() {
                self.handle(Event::Reports(reports));
            }
            if self.view_dirty && publish.tick().now_or_never().is_some() {
                self.publish();
            }
            if refresh.tick().now_or_never().is_some() {
                self.refresh();
            }
            self.turning.turned();
            if *self.left.borrow() {
                return;
            }
        }
    }

    pub(super) fn handle(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.control.handle(self.clock.now(), event, &mut effects);
        self.carry_out(effects);
    }

    fn net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::LinkUp { node, addrs, learned, remote, wall, .. } => {
                tracing::info!(event = "link.up", peer = %node, %remote, "link up");
                self.handle(Event::LinkUp { node, addrs, learned, wall });
            }
            NetEvent::Learned(list) => self.handle(Event::Learned(list)),
            NetEvent::LinkDown { node, reason } => {
                tracing::info!(event = "link.down", peer = %node, reason, "link down");
                self.handle(Event::LinkDown(node));
            }
            NetEvent::DialFailed { node, addr, reason } => {
                if node.is_none() {
                    // Somebody wrote this address down and should hear that it leads nowhere.
                    tracing::warn!(event = "seed.failed", addr, reason, "no member there");
                } else {
                    tracing::debug!(addr, reason, "dial failed");
                }
                self.handle(Event::DialFailed { node, addr });
            }
            NetEvent::Message { node, bytes } => self.handle(Event::Message(node, bytes)),
            NetEvent::Datagram { node, bytes } => {
                self.handle(Event::Datagram(node, bytes.to_vec()));
            }
            NetEvent::Gossip { node, bytes } => self.reports.deliver(node, bytes),
            NetEvent::Ask { node, bytes, answer } => match wire::Ask::decode(&bytes) {
                // Full: the asker is told by its answer being dropped.
                Ok(ask) => drop(self.asks.try_send((node, ask, answer))),
                Err(error) => {
                    let reason = error.to_string();
                    let failed = wire::Failed { status: 400, reason, retry_after: None };
                    let _ = answer.send(wire::Answer::Failed(failed).encode());
                }
            },
            NetEvent::Join { newcomer, join, statement, answer, .. } => {
                self.last_join += 1;
                let ticket = self.last_join;
                self.joins.insert(ticket, answer);
                self.handle(Event::Join { ticket, newcomer, join, statement });
            }
            NetEvent::Media(conn) => drop(tokio::spawn(self.relays.clone().give(conn))),
            NetEvent::Client(conn) => drop(tokio::spawn(self.clients.clone().serve(conn))),
        }
    }

    fn hub_event(&mut self, event: HubEvent) {
        match event {
            HubEvent::Viewers { encoder, viewers } => {
                self.relays.viewers(encoder, viewers);
                self.handle(Event::Viewers(encoder, viewers));
            }
            HubEvent::Keyframe(encoder) => self.handle(Event::KeyframeWanted(encoder)),
            HubEvent::KeyframeArrived(encoder) => self.handle(Event::KeyframeArrived(encoder)),
            HubEvent::Silent { encoder, feed, silence } => {
                self.handle(Event::Silent { encoder, feed, silence });
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Dial { node, addr } => self.net.dial(node, addr),
                Effect::Send(node, bytes) => drop(self.net.send(node, bytes)),
                Effect::Datagram(node, bytes) => drop(self.net.datagram(node, bytes)),
                Effect::Statements(number, new) => {
                    self.roster.store(Arc::new(self.control.roster().clone()));
                    self.trust_changed();
                    self.store.statements(number, new);
                }
                Effect::Decreed { ticket, result } => self.decreed(ticket, result),
                Effect::Expel(node, reason) => self.net.expel(node, &reason),
                Effect::UseKey(key) => self.use_key(key),
                Effect::MeshTime(at, time) => self.mesh_clock.set(at, time),
                Effect::Admit { ticket, admitted } => {
                    if let Some(answer) = self.joins.remove(&ticket) {
                        self.store.answer(answer, admitted);
                    }
                }
                Effect::RefuseJoin { ticket, reason } => {
                    tracing::warn!(event = "join.refused", reason, "a newcomer was refused");
                    if let Some(answer) = self.joins.remove(&ticket) {
                        let _ = answer.send(Err(reason));
                    }
                }
                Effect::Remember(members) => self.store.remember(members),
                Effect::Name(node, name) => self.store.name(node, name),
                Effect::Boot(boot) => self.store.boot(boot),
                Effect::Persist(batch) => self.store.ledger(batch),
                Effect::Written { ticket, result } => {
                    if let Some(answer) = self.writes.remove(&ticket) {
                        let _ = answer.send(result);
                    }
                }
                Effect::RecordChanged(changed) => self.record_changed(changed),
                Effect::GossipWith(node) => self.reports.member_up(node),
                Effect::ClientWelcomed(session, who) => self.clients.welcomed(session, who),
                Effect::ClientSend(session, bytes) => self.clients.send(session, bytes),
                Effect::ClientDatagram(session, bytes) => self.clients.datagram(session, bytes),
                Effect::ClientClose(session, reason) => self.clients.close(session, &reason),
                Effect::Route(encoder, route) => self.route(encoder, route),
                Effect::Serve(session, encoder) => {
                    self.watching.insert((session, encoder), std::time::Instant::now());
                    self.clients.serve_stream(session, encoder);
                }
                Effect::Unserve(session, encoder) => {
                    self.clients.stop_stream(session, encoder);
                    if let Some(since) = self.watching.remove(&(session, encoder)) {
                        self.viewer_ended(encoder, since);
                    }
                }
                Effect::RelayKeyframe(encoder) => self.relays.keyframe(encoder),
                Effect::Moved(order, outcome) => {
                    if let Some(answer) = self.moves.remove(&order.ticket) {
                        let _ = answer.send(outcome);
                    }
                }
                Effect::Stalled => self.clients.forget_media(),
                Effect::Note(note) => self.note(&note),
                Effect::ViewChanged => self.view_dirty = true,
                Effect::Left => {
                    self.publish();
                    self.left.send_replace(true);
                }
            }
        }
    }

    fn route(&mut self, encoder: EncoderId, route: Route) {
        tracing::debug!(encoder = %encoder, ?route, "route");
        let session = match route {
            Route::Local { session, .. } => Some(session),
            Route::None | Route::Relay { .. } => None,
        };
        let before = self.attached.remove(&encoder);
        // An agent that has moved sends here until what it sends comes from its new home as well.
        let relayed = matches!(route, Route::Relay { .. });
        if let Some(before) = before.filter(|before| Some(*before) != session && !relayed)
            && let Some(ingest) = self.clients.ingest(before)
        {
            ingest.detach();
        }
        let hub = self.hubs.hub(encoder);
        match route {
            Route::None => {
                hub.set_feed(0, 0);
                self.relays.route(encoder, None, false);
            }
            Route::Local { session, feed, timeline } => {
                self.relays.route(encoder, None, true);
                if let Some(ingest) = self.clients.ingest(session) {
                    self.attached.insert(encoder, session);
                    ingest.attach(hub.clone(), feed, timeline);
                    tokio::spawn(hub.watch(feed));
                }
            }
            Route::Relay { via, feed, timeline } => {
                hub.next_feed(feed, timeline);
                self.relays.route(encoder, Some(Source { via, feed, timeline }), true);
                tokio::spawn(hub.watch(feed));
            }
        }
    }

    fn publish(&mut self) {
        self.view_dirty = false;
        self.view.store(Arc::new(self.control.view()));
        self.changes.send_modify(|version| *version += 1);
    }

    fn refresh(&mut self) {
        let rtts = self.net.links().into_iter().map(|(node, stats)| (node, stats.rtt)).collect();
        self.handle(Event::Rtt(rtts));
        self.hubs.sweep();
        self.clients.sweep();
        self.totals.store(Arc::new(Totals {
            control: *self.control.counters(),
            host: self.control.clients().counters,
            directory: self.control.directory().counters(),
            ledger: self.control.ledger().counters(),
            balance: *self.control.balancing().counters(),
            membership: *self.control.membership().counters(),
            gossip: self.reports.counters(),
            sessions: self.control.clients().sessions(),
            drops: self.clients.drops(),
            changes_lost: self.told.lost(),
            store_bytes: self.store.size(),
            store_error: self.store.trouble(),
            clock_skew_ms: self.control.clock_skew(self.clock.now()),
        }));
        let losses = self.view.load().survivability.as_ref().map(|it| it.losses);
        let now = self.clock.now().mono;
        if let Some(note) = losses.and_then(|losses| self.control.heed_losses(now, losses)) {
            self.note(&note);
        }
        let me = self.control.me();
        let encoders = u32::try_from(self.control.directory().count(me)).unwrap_or(u32::MAX);
        let report = self.reports.publish(encoders, &self.hubs);
        self.handle(Event::Report(report));
        self.view_dirty = true;
    }

    fn note(&self, note: &Note) {
        match note {
            Note::Up(node) => tracing::info!(event = "node.up", peer = %node, "member is up"),
            Note::Down(node) => tracing::warn!(event = "node.down", peer = %node, "member is down"),
            Note::NodeLeft(node) => {
                tracing::info!(event = "node.left", peer = %node, "member left");
            }
            Note::Admitted(node) => {
                tracing::info!(event = "node.admitted", peer = %node, "node admitted");
            }
            Note::Expelled(node, why) if *node == self.control.me() => tracing::error!(
                event = "node.expelled", peer = %node, reason = %why,
                "this node is shut out of the mesh: it serves nobody until it is let in again"
            ),
            Note::Expelled(node, why) => tracing::warn!(
                event = "node.expelled", peer = %node, reason = %why,
                "a node is no member any more"
            ),
            Note::Readmitted(node) => {
                tracing::warn!(event = "node.readmitted", peer = %node, "a node is a member again");
            }
            Note::Rekeyed => {
                tracing::info!(event = "node.rekeyed", "this node uses its new key now");
            }
            Note::Skewed(Some(skew)) => tracing::warn!(
                event = "clock.skewed",
                skew_ms = skew,
                "this node's clock is not the mesh's: people see wrong times, all else goes by \
                 mesh time; set the clock"
            ),
            Note::Skewed(None) => {
                tracing::info!(event = "clock.right", "this node's clock is the mesh's again");
            }
            Note::Draining => tracing::info!(
                event = "node.draining",
                "this node is drained: what is at home here moves to others, and nothing new comes"
            ),
            Note::Drained => tracing::info!(
                event = "node.drained",
                "no encoder is at home here any more: this node may be stopped"
            ),
            Note::Undrained => {
                tracing::info!(event = "node.undrained", "this node takes encoders again");
            }
            Note::Cordoned(cordoned) => tracing::info!(
                event = "node.cordoned",
                cordoned,
                "whether this node takes new encoders was changed"
            ),
            Note::Losses { losses, low: Some(wanted) } => tracing::warn!(
                event = "mesh.losses_low",
                losses,
                wanted,
                "fewer nodes can be lost than the setting wants: roost status names the worst to lose"
            ),
            Note::Losses { losses, low: None } => tracing::info!(
                event = "mesh.losses_right",
                losses,
                "as many nodes can be lost again as the setting wants"
            ),
            Note::Balancing(encoders) => tracing::info!(
                event = "balance.planned",
                encoders,
                "encoders are to go to other nodes, so that loads are even or wishes are met"
            ),
            Note::Ledger(note) => ledger::tell(note),
            Note::Stalled(late) => {
                let (dur_ms, limit) = (late.as_millis(), session::SILENCE_WATCHED.as_millis());
                tracing::warn!(event = "node.stalled", dur_ms, limit, "this node stood still");
            }
            Note::Outgrown(boot) => tracing::warn!(
                event = "node.outgrown",
                boot = boot.0,
                "others know a later self of this node: its data folder is an older copy, or \
                 another machine runs on a copy of it; run one node on it, and give the other an \
                 empty folder and an invitation"
            ),
            Note::Encoder(id, encoder, note) => self.encoder_note(*id, encoder, note),
        }
    }

    fn encoder_note(&self, id: EncoderId, encoder: &str, note: &host::Note) {
        match note {
            host::Note::Home { session, epoch, from, lost } => {
                let remote = self.clients.remote(*session).map(tracing::field::display);
                if let Some(lost) = lost {
                    let failover = self.failovers.get_or_create(&ENCODER_FAILOVER);
                    failover.observe(lost.as_secs_f64());
                }
                match from {
                    None => tracing::info!(
                        event = "encoder.home", encoder, %id, %epoch, remote,
                        "the encoder is at home here"
                    ),
                    Some(from) => tracing::info!(
                        event = "encoder.rehomed", encoder, %id, %epoch, remote, %from,
                        dur_ms = lost.map(super::millis),
                        "the encoder came here from another home"
                    ),
                }
            }
            host::Note::Signal(source) => {
                let (signal, reason) = match source {
                    SourceState::Ready => ("back", None),
                    SourceState::NoSignal(why) => ("lost", Some(why)),
                    SourceState::NativeOnly(why) => ("native_only", Some(why)),
                };
                tracing::info!(
                    event = "encoder.signal", encoder, %id, signal, reason,
                    "the encoder's picture came or went"
                );
            }
            host::Note::Moved(order, outcome) => {
                let (cause, to, reason) = (order.cause.label(), order.to, &order.reason);
                match outcome {
                    host::Outcome::Done => tracing::info!(
                        event = "encoder.moved", encoder, %id, cause, %to, reason,
                        "the encoder moved to another node"
                    ),
                    host::Outcome::Refused(why) | host::Outcome::Failed(why) => tracing::warn!(
                        event = "encoder.stayed", encoder, %id, cause, %to, reason, err = why,
                        "the encoder did not move"
                    ),
                }
            }
            host::Note::Gone(reason) => {
                tracing::info!(event = "encoder.gone", encoder, %id, reason, "the encoder went");
            }
        }
    }

    fn viewer_ended(&self, id: EncoderId, since: std::time::Instant) {
        let view = self.view.load();
        let encoder = view.encoders.iter().find(|encoder| encoder.id == id);
        let encoder = encoder.map(|encoder| encoder.name.as_str());
        let dur_ms = super::millis(since.elapsed());
        tracing::info!(
            event = "viewer.ended", protocol = "quic", encoder, %id, dur_ms,
            "a viewer stopped watching here"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_in_one_inbox_does_not_keep_the_others_waiting() {
        let (net_in, net) = mpsc::channel(1024);
        let (event_in, events) = mpsc::channel(1024);
        let (hub_in, hubs) = mpsc::unbounded_channel();
        let (call_in, calls) = ledger::calls();
        let mut inboxes = Inboxes { net, events, hubs, calls };
        for _ in 0..2 * BATCH {
            let node = NodeId([1; 16]);
            net_in.try_send(NetEvent::Message { node, bytes: Vec::new() }).unwrap();
            event_in.try_send(Event::Wake).unwrap();
        }
        hub_in.send(HubEvent::Keyframe(EncoderId([2; 16]))).unwrap();
        assert!(call_in.try_send(ledger::Call::Read(Box::new(|_| ()))).is_ok());
        let taken = inboxes.take();
        assert!(matches!(taken[0], Input::Hub(_)), "the keyframe does not wait for the flood");
        assert!(matches!(taken[1], Input::Event(_)));
        assert!(matches!(taken[2], Input::Net(_)));
        assert!(matches!(taken[3], Input::Call(_)), "nor does a question");
        assert_eq!(taken.len(), 2 * BATCH + 2, "and neither keeps the timers waiting for ever");
        assert_eq!(inboxes.take().len(), 2 * BATCH);
        assert!(inboxes.take().is_empty());
    }
}
