//! The world: virtual time, hosts, and what happens next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use roost::admission::{Invitation, Roster, Statement};
use roost::id::{EncoderId, MeshId, NodeId};
use roost::media::Silence;
use roost::session::leg::LegId;
use roost::time::{Mono, Now};

use crate::check::{Checks, Violation};
use crate::client::{Browser, Encoder, Viewer};
use crate::conn::{Cargo, ConnId, End};
use crate::dial::ClientDial;
use crate::faults::Active;
use crate::ledger::Books;
use crate::net::{MS, Net, SEC};
use crate::node::Node;
use crate::plan::Plan;
use crate::publish::{Publisher, Step};
use crate::queue::Queue;
use crate::rates::Tally;
use crate::rng::{For, stream};
use crate::scale::Traffic;
use crate::serve::Watch;
use crate::story::Story;
use crate::tables::{Conns, Index};
use crate::trace::Trace;

/// A run waits this long for those that are on their way at its end: not for ever, since some are
/// sent away again and again.
const LINGERS: u64 = 30 * SEC;

/// By this many readings a clock is judged, one a second, which take a while to come.
pub(crate) const READINGS: u64 = 30 * SEC;

/// The moment at which a run begins, so that no machine sees zero.
pub(crate) const BEGIN: u64 = 0;
/// What a wall clock shows at the beginning, in milliseconds since 1970, or up to so much later.
pub(crate) const WALL: u64 = 1_790_000_000_000;
pub(crate) const SKEWS: u64 = 2 * 3_600_000;
/// How often checkers look at the whole world.
pub(crate) const PROBE: u64 = 100 * MS;

/// What will happen.
#[derive(Debug)]
pub(crate) enum Ev {
    StartNode(usize),
    StartClient(usize),
    StartBrowser(usize),
    /// A publisher, or its leg, goes on.
    Publisher(usize, Step),
    /// A host's machine is due.
    Wake {
        end: End,
        at: u64,
    },
    Deliver {
        conn: ConnId,
        to: usize,
        cargo: Cargo,
    },
    /// A process that stood still reads the next of what waits in its socket.
    Drain(End),
    Idle {
        conn: ConnId,
        side: usize,
        since: u64,
    },
    Reset {
        conn: ConnId,
        side: usize,
    },
    /// A client that was told to stop has said so.
    ClientEnds(End),
    /// A side closes after it had time to say what it had to say.
    CloseConn {
        conn: ConnId,
        side: usize,
    },
    LinkDial(Box<LinkDial>),
    ClientDial(Box<ClientDial>),
    LinkHello {
        from: End,
        to: usize,
        node: Option<NodeId>,
        addr: String,
    },
    LinkDecide(Box<LinkDecide>),
    LinkFailed {
        from: End,
        node: Option<NodeId>,
        addr: String,
    },
    JoinAsk {
        from: End,
    },
    JoinArrive {
        from: End,
        to: usize,
    },
    JoinAnswer {
        from: End,
        statements: Vec<Statement>,
        members: Vec<(NodeId, Vec<String>)>,
        names: Vec<(NodeId, String)>,
    },
    ClientHello {
        from: End,
        leg: LegId,
        to: usize,
    },
    LegFailed {
        end: End,
        leg: LegId,
    },
    MediaDial {
        from: End,
        via: usize,
    },
    MediaUp {
        from: End,
        to: usize,
    },
    SubscribeAgain {
        end: End,
        via: usize,
        flow: u32,
    },
    /// A stream came from another node before.
    LetGo {
        end: End,
        encoder: EncoderId,
        via: usize,
    },
    /// A hub's number of viewers may have changed.
    Viewers {
        end: End,
        encoder: EncoderId,
    },
    KeyframeArrived {
        end: End,
        encoder: EncoderId,
    },
    KeyframeWanted {
        end: End,
        encoder: EncoderId,
    },
    /// Whether a feed brought anything.
    WatchFeed(Watch),
    Silent {
        end: End,
        encoder: EncoderId,
        feed: u64,
        silence: Silence,
    },
    /// Round trips are measured.
    Refresh {
        end: End,
    },
    /// A camera takes a picture.
    Tick {
        end: End,
    },
    Leased {
        end: End,
        counter: u64,
    },
    BrowserMoves(usize),
    /// Everyone gets an account.
    People,
    /// Somebody makes a change.
    Edit(usize),
    /// A camera's signal changes.
    Signal(usize),
    /// Statements about members are on disk.
    Recorded {
        end: End,
        number: u64,
        statements: Vec<Statement>,
    },
    /// A commit is on disk.
    Persisted {
        end: End,
    },
    /// Everyone's ledger is backed up, for this fault.
    Backup(usize),
    FaultBegins(usize),
    FaultEnds(usize),
    Probe,
}

/// A dial that nobody has answered yet.
#[derive(Debug)]
pub(crate) struct LinkDial {
    pub(crate) from: End,
    pub(crate) node: Option<NodeId>,
    pub(crate) addr: String,
    pub(crate) begun: u64,
    /// When the first packet is sent again, if it is.
    pub(crate) wait: u64,
}

/// A link's handshake, as the dialler ends it.
#[derive(Debug)]
pub(crate) struct LinkDecide {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) addr: String,
    pub(crate) addrs: Vec<String>,
    pub(crate) learned: Vec<Statement>,
    pub(crate) wall: u64,
    pub(crate) hello: crate::conn::LinkHello,
}

/// A process somewhere, or where one was.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) up: bool,
    /// It was told to stop, and is emptied before it does.
    pub(crate) stopping: bool,
    pub(crate) life: u64,
    pub(crate) frozen: bool,
    pub(crate) frozen_at: u64,
    /// When it last went on.
    pub(crate) thawed: u64,
    /// How many faults hold it frozen.
    pub(crate) holds: u32,
    /// What waits in its socket, while it stands still and until it has read all of it.
    pub(crate) inbox: VecDeque<(ConnId, usize, Cargo)>,
    pub(crate) draining: bool,
    /// When a fault last began or ended that concerns it.
    pub(crate) touched: u64,
    /// Its earliest wake-up in the queue.
    pub(crate) armed: u64,
    pub(crate) started: u64,
    pub(crate) rng: ChaCha8Rng,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: u64,
    pub(crate) end: u64,
    pub(crate) queue: Queue<Ev>,
    pub(crate) net: Net,
    pub(crate) trace: Trace,
    pub(crate) hosts: Vec<Host>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) encoders: Vec<Encoder>,
    pub(crate) viewers: Vec<Viewer>,
    pub(crate) browsers: Vec<Browser>,
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) conns: Conns,
    pub(crate) last_conn: ConnId,
    /// Connections of which a side hears nothing, is closed, or waits with something to say.
    pub(crate) odd: BTreeSet<ConnId>,
    pub(crate) index: Index,
    pub(crate) mesh: MeshId,
    pub(crate) invitation: Option<Invitation>,
    /// What clients show, and which node signed it.
    pub(crate) shown: BTreeMap<usize, (usize, String)>,
    /// Statements that a node started with, and the roster that they come to.
    pub(crate) checked: Option<(Vec<Statement>, Roster)>,
    pub(crate) active: BTreeMap<usize, Active>,
    /// How often people said what they want of a node.
    pub(crate) last_wish: u64,
    /// Everyone's ledger as it was, by the fault that puts some of them back.
    pub(crate) backups: BTreeMap<usize, Vec<Books>>,
    pub(crate) checks: Checks,
    pub(crate) violation: Option<Violation>,
    pub(crate) events: u64,
    /// How often everything happened.
    pub(crate) tally: Tally,
    /// How far wall clocks are off besides, in milliseconds.
    pub(crate) clocks_off: BTreeMap<usize, i64>,
    /// Wall clocks that run wrongly: since when, and how many milliseconds they gain a second.
    pub(crate) drifts: BTreeMap<usize, (u64, i64)>,
    /// When a wall clock last went right again.
    pub(crate) righted: BTreeMap<usize, u64>,
    /// Nodes whose disks are full.
    pub(crate) full: BTreeSet<usize>,
    /// Somebody came or went in somebody's eyes.
    pub(crate) stirred: bool,
    /// What links carry, if somebody counts.
    pub(crate) traffic: Option<Traffic>,
    /// Nothing is checked: only times and costs are of interest.
    pub(crate) unchecked: bool,
    /// Nothing is checked but how loads become even.
    pub(crate) lenient: bool,
    /// Nodes that let nobody know any more what is at home there.
    pub(crate) liars: BTreeSet<usize>,
    /// Agents that have lost their right to send.
    pub(crate) mute: BTreeMap<usize, u64>,
    /// Nodes that say falsely that they serve so many viewers.
    pub(crate) boasts: BTreeMap<usize, u32>,
    /// What is told of it, if somebody wants to know.
    pub(crate) story: Option<Story>,
}

impl World {
    /// The host of an agent; those of second agents come last.
    pub(crate) fn host_of_encoder(&self, agent: usize) -> usize {
        match agent.checked_sub(self.plan.encoders) {
            None => self.plan.nodes + agent,
            Some(twin) => self.plan.nodes + self.plan.encoders + self.plan.viewers + twin,
        }
    }

    /// The host of an encoder's second agent, if the plan has such.
    pub(crate) fn host_of_twin(&self, encoder: usize) -> Option<usize> {
        let agent = self.plan.encoders + encoder;
        (agent < self.encoders.len()).then(|| self.host_of_encoder(agent))
    }

    /// All agents of an encoder.
    pub(crate) fn agents_of(&self, encoder: usize) -> impl Iterator<Item = usize> + use<> {
        let twin = self.plan.encoders + encoder;
        [encoder].into_iter().chain((twin < self.encoders.len()).then_some(twin))
    }

    pub(crate) fn host_of_viewer(&self, viewer: usize) -> usize {
        self.plan.nodes + self.plan.encoders + viewer
    }

    /// What a host is called.
    pub(crate) fn host_name(&self, host: usize) -> String {
        let (nodes, encoders) = (self.plan.nodes, self.plan.encoders);
        match host {
            _ if host < nodes => format!("n{host}"),
            _ if host < nodes + encoders => format!("cam{}", host - nodes),
            _ if host < nodes + encoders + self.plan.viewers => {
                format!("viewer{}", host - nodes - encoders)
            }
            _ => format!("cam{}'s twin", host - nodes - encoders - self.plan.viewers),
        }
    }

    pub(crate) fn name_of(&self, node: NodeId) -> String {
        self.index.get(&node).map_or_else(|| node.short(), |ix| format!("n{ix}"))
    }

    pub(crate) fn end_of(&self, host: usize) -> End {
        End { host, life: self.hosts[host].life }
    }

    /// Up and not standing still.
    pub(crate) fn runs(&self, host: usize) -> bool {
        self.hosts[host].up && !self.hosts[host].frozen
    }

    /// Packets pass both ways, and both run.
    pub(crate) fn reach(&self, a: usize, b: usize) -> bool {
        self.runs(a)
            && self.runs(b)
            && (a == b || (!self.net.blocked(a, b) && !self.net.blocked(b, a)))
    }

    /// The time on a host's own clocks: each life has its own beginning, each wall clock is wrong
    /// in its own way.
    pub(crate) fn clock(&self, host: usize) -> Now {
        let since = self.now - self.hosts[host].started;
        let skew = crate::rng::mix(self.plan.seed ^ host as u64) % SKEWS;
        let off = self.clocks_off.get(&host).copied().unwrap_or(0);
        let drift = self.drifts.get(&host).map_or(0, |(from, gains)| {
            i64::try_from((self.now - from) / MS).unwrap_or(i64::MAX).saturating_mul(*gains) / 1000
        });
        let wall = (WALL + self.now / MS + skew).saturating_add_signed(off.saturating_add(drift));
        Now { mono: Mono(since + SEC), wall }
    }

    /// A node's wall clock runs wrongly, or did so lately: it is judged by several readings.
    pub(crate) fn clock_seems_wrong(&self, node: usize) -> bool {
        let righted = self.righted.get(&node);
        self.drifts.contains_key(&node) || righted.is_some_and(|at| self.now < at + READINGS)
    }

    /// Has a host's machine called at its own time `at`, or a little later, as timers are.
    pub(crate) fn arm(&mut self, host: usize, at: Option<Mono>) {
        let Some(at) = at else { return };
        let state = &mut self.hosts[host];
        let at = (state.started + at.0.saturating_sub(SEC)).max(self.now);
        if at < state.armed || state.armed <= self.now {
            state.armed = at;
            let late = rand::RngExt::random_range(&mut state.rng, 0..MS);
            let end = End { host, life: state.life };
            self.queue.push(at + late, Ev::Wake { end, at });
        }
    }

    /// A fault concerns this host, or stops to.
    pub(crate) fn touch(&mut self, host: usize) {
        self.hosts[host].touched = self.now;
    }

    /// Begins another life of a host.
    pub(crate) fn begin_life(&mut self, host: usize, life: u64) {
        let seed = self.plan.seed;
        let state = &mut self.hosts[host];
        (state.up, state.stopping) = (true, false);
        state.frozen = state.holds > 0;
        state.frozen_at = self.now;
        state.life = life;
        state.inbox.clear();
        state.draining = false;
        state.started = self.now;
        state.armed = 0;
        state.rng = stream(seed, For::Host(host, life));
    }

    /// Runs until the end of the plan or the first violation.
    pub(crate) fn run(&mut self) {
        let latest = self.end + LINGERS;
        while self.violation.is_none() {
            let Some((at, event)) = self.queue.pop() else { break };
            while at > self.end && self.end < latest && self.someone_moves() {
                self.end += MS;
            }
            if at > self.end {
                break;
            }
            self.now = at;
            self.step(event);
            self.observe();
        }
        if self.violation.is_none() {
            self.now = self.end;
            self.check_end();
        }
        self.observe_end();
    }

    pub(crate) fn fail(&mut self, checker: &'static str, text: String) {
        if self.violation.is_none() {
            let now = self.now;
            self.trace.say(now, || format!("VIOLATION {checker}: {text}"));
            self.violation = Some(Violation { checker, at: now, text });
        }
    }

    pub(crate) fn step(&mut self, event: Ev) {
        self.events += 1;
        self.happen(event);
    }

    fn awake(&self, end: End) -> bool {
        self.lives(end) && !self.hosts[end.host].frozen
    }

    fn happen(&mut self, event: Ev) {
        match event {
            Ev::StartNode(ix) => self.start_node(ix),
            Ev::StartClient(host) => self.start_client(host),
            Ev::StartBrowser(browser) => self.browser_moves(browser),
            Ev::Publisher(publisher, step) => self.publisher_steps(publisher, step),
            Ev::Wake { end, at } => self.wake(end, at),
            Ev::Deliver { conn, to, cargo } => self.deliver(conn, to, cargo),
            Ev::Drain(end) => self.drain(end),
            Ev::Idle { conn, side, since } => self.idle(conn, side, since),
            Ev::Reset { conn, side } => self.reset(conn, side),
            Ev::ClientEnds(end) => self.client_ends(end),
            Ev::CloseConn { conn, side } => self.close_later(conn, side),
            Ev::LinkDial(dial) => self.link_dial(*dial),
            Ev::LinkHello { from, to, node, addr } => self.link_hello(from, to, node, addr),
            Ev::LinkDecide(decide) => self.link_decide(*decide),
            Ev::LinkFailed { from, node, addr } => self.link_failed(from, node, addr),
            Ev::JoinAsk { from } => self.join_ask(from),
            Ev::JoinArrive { from, to } => self.join_arrive(from, to),
            Ev::JoinAnswer { from, statements, members, names } => {
                self.join_answer(from, statements, members, names);
            }
            Ev::ClientDial(dial) => self.client_dial(*dial),
            Ev::ClientHello { from, leg, to } => self.client_hello(from, leg, to),
            Ev::LegFailed { end, leg } => self.leg_failed(end, leg),
            Ev::MediaDial { from, via } if self.awake(from) => self.media_dial(from, via),
            Ev::MediaUp { from, to } => self.media_up(from, to),
            Ev::SubscribeAgain { end, via, flow } if self.awake(end) => {
                self.subscribe(end.host, via, flow);
            }
            Ev::LetGo { end, encoder, via } if self.awake(end) => {
                self.let_go(end.host, encoder, via);
            }
            Ev::Viewers { end, encoder } if self.awake(end) => {
                self.viewers_changed(end.host, encoder);
            }
            Ev::KeyframeWanted { end, encoder } if self.awake(end) => {
                self.node_event(end.host, roost::control::Event::KeyframeWanted(encoder));
            }
            Ev::KeyframeArrived { end, encoder } if self.awake(end) => {
                self.checks.answer_requests(end.host, encoder);
                self.node_event(end.host, roost::control::Event::KeyframeArrived(encoder));
            }
            Ev::WatchFeed(watch) if self.awake(watch.end) => self.watch_feed(watch),
            Ev::Silent { end, encoder, feed, silence } if self.awake(end) => {
                let event = roost::control::Event::Silent { encoder, feed, silence };
                self.node_event(end.host, event);
            }
            Ev::Refresh { end } => self.refresh(end),
            Ev::Tick { end } => self.tick(end),
            Ev::Leased { end, counter } if self.awake(end) => self.leased(end, counter),
            Ev::BrowserMoves(browser) => self.browser_moves(browser),
            Ev::People => self.people(),
            Ev::Edit(edit) if self.plan.guarded => self.change_rights(edit),
            Ev::Edit(edit) => self.edit(edit),
            Ev::Signal(change) => self.change_signal(change),
            Ev::Persisted { end } if self.awake(end) => self.persisted(end),
            Ev::Recorded { end, number, statements } if self.awake(end) => {
                self.recorded(end, number, statements);
            }
            Ev::Backup(index) => self.back_up(index),
            Ev::FaultBegins(index) => self.fault_begins(index),
            Ev::FaultEnds(index) => self.fault_ends(index),
            Ev::Probe => {
                self.trace.remember();
                if self.lenient {
                    self.check_even();
                } else if !self.unchecked {
                    self.check_probe();
                    self.check_even();
                }
                self.queue.push(self.now + PROBE, Ev::Probe);
            }
            // For a process that is gone or stands still.
            Ev::MediaDial { from: end, .. }
            | Ev::SubscribeAgain { end, .. }
            | Ev::LetGo { end, .. }
            | Ev::Viewers { end, .. }
            | Ev::Persisted { end }
            | Ev::Recorded { end, .. }
            | Ev::KeyframeArrived { end, .. }
            | Ev::KeyframeWanted { end, .. }
            | Ev::WatchFeed(Watch { end, .. })
            | Ev::Silent { end, .. }
            | Ev::Leased { end, .. } => {
                if self.lives(end) {
                    self.queue.push(self.now + 50 * MS, event);
                }
            }
        }
    }

    fn wake(&mut self, end: End, at: u64) {
        if !self.awake(end) || self.hosts[end.host].armed != at {
            return;
        }
        self.hosts[end.host].armed = 0;
        let due = match end.host {
            host if host < self.plan.nodes => {
                self.nodes[host].control.as_ref().and_then(roost::control::Control::next_wake)
            }
            host => self.client_next_wake(host),
        };
        let now = self.clock(end.host).mono;
        match due {
            Some(due) if due <= now => self.host_wakes(end.host),
            due => self.arm(end.host, due),
        }
    }

    fn host_wakes(&mut self, host: usize) {
        if host < self.plan.nodes {
            self.node_event(host, roost::control::Event::Wake);
        } else {
            self.client_wakes(host);
        }
    }
}
