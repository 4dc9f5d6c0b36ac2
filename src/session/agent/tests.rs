use super::*;
use crate::grow::Later;
use crate::id::EncoderId;
use crate::wire::{Assign, Demand, Keyframe, Peer, Registered, Welcome};

const HOME: NodeId = NodeId([1; 16]);
const NEXT: NodeId = NodeId([2; 16]);

/// An agent with two nodes that answer unless they are silenced; time goes in steps of 10 ms.
struct Trial {
    agent: Agent,
    ms: u64,
    legs: BTreeMap<LegId, NodeId>,
    silent: Vec<NodeId>,
    /// Takes no encoders, and says so, or says nothing.
    refuses: Option<(NodeId, bool)>,
    /// Every node is full.
    full: bool,
    /// None stands by.
    no_next: bool,
    sent: Vec<Effect>,
}

impl Trial {
    fn new() -> Self {
        let peer = |node: NodeId, name: &str| Peer {
            node,
            name: name.into(),
            addrs: vec![format!("{name}:1")],
            up: true,
            draining: false,
            later: Later::default(),
        };
        let config = Config {
            encoder: EncoderId([7; 16]),
            name: "cam-1".into(),
            instance: 1,
            lease: 0,
            targets: Vec::new(),
            peers: PeerList { nodes: vec![peer(HOME, "home"), peer(NEXT, "next")] },
            seed: 1,
        };
        let mut effects = Vec::new();
        let agent = Agent::new(config, &mut effects);
        let (legs, sent) = (BTreeMap::new(), Vec::new());
        let mut trial = Self {
            agent,
            ms: 1000,
            legs,
            silent: Vec::new(),
            refuses: None,
            full: false,
            no_next: false,
            sent,
        };
        trial.take(effects);
        trial.pass(500);
        assert_eq!((trial.agent.home(), trial.agent.next()), (Some(HOME), Some(NEXT)));
        trial
    }

    fn speaks(&self, node: Option<&NodeId>) -> bool {
        node.is_some_and(|node| !self.silent.contains(node))
    }

    fn now(&self) -> Mono {
        Mono(self.ms * 1_000_000)
    }

    fn event(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.agent.handle(self.now(), event, &mut effects);
        self.take(effects);
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.ms += 10;
            self.event(Event::Wake);
        }
    }

    fn leg(&self, node: NodeId) -> LegId {
        *self.legs.iter().rfind(|(_, of)| **of == node).unwrap().0
    }

    fn tell(&mut self, node: NodeId, message: &NodeMessage) {
        self.event(Event::Message(self.leg(node), message.encode()));
    }

    fn watch(&mut self, node: NodeId, watched: bool) {
        let viewers = u32::from(watched);
        self.tell(node, &NodeMessage::Demand(Demand { watched, also: false, viewers }));
    }

    /// Does as nodes do.
    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.sent.push(effect.clone());
            match effect {
                Effect::Lease(counter) => self.event(Event::Leased(counter)),
                Effect::Dial { leg, node, .. } => {
                    let node = node.unwrap();
                    self.legs.insert(leg, node);
                    if !self.speaks(Some(&node)) {
                        continue;
                    }
                    self.event(Event::Connected { leg, node });
                    let welcome = Welcome { peers: self.agent.peers().clone() };
                    self.event(Event::Message(leg, NodeMessage::Welcome(welcome).encode()));
                }
                Effect::Send(leg, bytes) => self.answer(leg, &bytes),
                Effect::Datagram(leg, body) if self.speaks(self.legs.get(&leg)) => {
                    // The driver reads the flow's id off.
                    let Some(Heartbeat::Ping(number)) = Heartbeat::decode(&body[1..]) else {
                        panic!("a ping");
                    };
                    let pong = Heartbeat::Pong(number).encode()[1..].to_vec();
                    self.event(Event::Datagram(leg, pong));
                }
                _ => {}
            }
        }
    }

    fn answer(&mut self, leg: LegId, bytes: &[u8]) {
        let node = self.legs[&leg];
        let Ok(ClientMessage::Register(register)) = ClientMessage::decode(bytes) else { return };
        let other = if node == NEXT { HOME } else { NEXT };
        let answer = match register.role {
            Role::Ask | Role::Home if self.full => NodeMessage::Rejected(wire::Rejected {
                role: register.role,
                floor: Epoch::default(),
                name_taken: false,
                reason: "every node is full".into(),
                retry_after: Some(5),
            }),
            Role::Next if self.no_next => NodeMessage::Rejected(wire::Rejected {
                role: Role::Next,
                floor: Epoch::default(),
                name_taken: true,
                reason: "it may not send".into(),
                retry_after: None,
            }),
            Role::Ask => NodeMessage::Assign(Assign {
                home: HOME,
                next: Some(NEXT),
                floor: Epoch::default(),
                reason: String::new(),
            }),
            _ if self.refuses == Some((node, false)) => return,
            Role::Home if self.refuses.is_some_and(|(who, _)| who == node) => {
                let (role, floor) = (Role::Home, Epoch::default());
                let reason = "it is full".to_owned();
                let rejected =
                    wire::Rejected { role, floor, name_taken: false, reason, retry_after: None };
                NodeMessage::Rejected(rejected)
            }
            role => {
                let next = (role == Role::Home).then_some(other);
                NodeMessage::Registered(Registered { role, epoch: register.epoch, next })
            }
        };
        self.event(Event::Message(leg, answer.encode()));
    }
}

#[test]
fn a_home_that_speaks_but_does_not_hear_is_left() {
    let mut trial = Trial::new();
    trial.watch(HOME, true);
    trial.pass(1000);
    assert_eq!(trial.agent.home(), Some(HOME));
    trial.silent = vec![HOME];
    for _ in 0..10 {
        trial.pass(40);
        if trial.agent.home() == Some(HOME) {
            trial.tell(HOME, &NodeMessage::Keyframe(Keyframe {}));
        }
    }
    assert_eq!(trial.agent.home(), Some(NEXT));
}

#[test]
fn media_flows_on_at_a_new_home_whose_viewers_have_yet_to_come() {
    let mut trial = Trial::new();
    trial.watch(HOME, true);
    trial.pass(1000);
    trial.silent = vec![HOME];
    trial.sent.clear();
    trial.pass(400);
    trial.watch(NEXT, false);
    let next = trial.leg(NEXT);
    trial.pass(LINGER.as_millis() as u64 - 500);
    assert!(trial.agent.media().contains(&next));
    assert!(!trial.sent.contains(&Effect::Media(BTreeSet::new())), "it was never interrupted");
    trial.pass(1000);
    assert!(trial.agent.media().is_empty(), "nobody came");
}

#[test]
fn the_source_runs_on_while_another_home_is_looked_for() {
    let mut trial = Trial::new();
    trial.watch(HOME, true);
    trial.pass(1000);
    trial.sent.clear();
    for node in [NEXT, HOME] {
        let (leg, reason) = (trial.leg(node), "gone".to_owned());
        trial.event(Event::Closed { leg, reason });
    }
    trial.pass(500);
    assert!(trial.agent.home().is_some());
    assert!(!trial.agent.media().is_empty());
    assert!(!trial.sent.contains(&Effect::Media(BTreeSet::new())));
}

#[test]
fn who_stands_by_goes_on_to_when_home_is_cut_off_from_the_others() {
    let mut trial = Trial::new();
    let epoch = trial.agent.epoch();
    let alone = Registered { role: Role::Home, epoch, next: None };
    trial.tell(HOME, &NodeMessage::Registered(alone));
    trial.pass(1000);
    assert_eq!(trial.agent.next(), Some(NEXT), "it serves those who do not reach home");
    // Not for ever: once it is gone, it is gone.
    trial.silent = vec![NEXT];
    trial.pass(12_000);
    assert_eq!(trial.agent.next(), None);
}

const FAR: NodeId = NodeId([3; 16]);

impl Trial {
    /// With a third node, which is neither home nor next.
    fn with_far() -> Self {
        let mut trial = Self::new();
        let mut peers = trial.agent.peers().clone();
        peers.nodes.push(Peer {
            node: FAR,
            name: "far".into(),
            addrs: vec!["far:1".into()],
            up: true,
            draining: false,
            later: Later::default(),
        });
        trial.tell(HOME, &NodeMessage::Peers(peers));
        trial
    }

    fn send_away(&mut self, to: NodeId) {
        let order = wire::Move { to, reason: "n1 is drained".into() };
        self.tell(HOME, &NodeMessage::Move(order));
        self.pass(20);
    }

    /// What the agent says of a move, and to whom.
    fn stayed(&self) -> Vec<(NodeId, String)> {
        let stayed = self.sent.iter().filter_map(|effect| match effect {
            Effect::Send(leg, bytes) => match ClientMessage::decode(bytes) {
                Ok(ClientMessage::Stayed(stayed)) => Some((self.legs[leg], stayed.reason)),
                _ => None,
            },
            _ => None,
        });
        stayed.collect()
    }
}

#[test]
fn a_home_that_is_said_to_be_dead_is_looked_at_until_it_answers_and_one_that_is_drained_is_not() {
    for (draining, answers, expected) in
        [(false, true, 1..=2), (false, false, 5..=8), (true, true, 0..=1)]
    {
        let mut trial = Trial::new();
        trial.pass(1000);
        trial.silent.extend((!answers).then_some(HOME));
        let mut peers = trial.agent.peers().clone();
        (peers.nodes[0].up, peers.nodes[0].draining) = (false, draining);
        trial.sent.clear();
        let home = trial.leg(HOME);
        trial.tell(NEXT, &NodeMessage::Peers(peers));
        trial.pass(1000);
        let pings =
            trial.sent.iter().filter(|it| matches!(it, Effect::Datagram(leg, _) if *leg == home));
        let pings = pings.count();
        assert!(expected.contains(&pings), "{pings} pings, {expected:?} expected");
        assert_eq!(trial.agent.home(), Some(if answers { HOME } else { NEXT }));
    }
}

#[test]
fn an_idle_encoder_that_nobody_claims_any_more_is_at_next_at_once_unless_home_answers() {
    for (answers, home) in [(false, NEXT), (true, HOME)] {
        let mut trial = Trial::new();
        trial.pass(1000);
        trial.silent.extend((!answers).then_some(HOME));
        let (home_then, reason) = (trial.agent.home(), String::new());
        assert_eq!(home_then, Some(HOME));
        let floor = trial.agent.epoch();
        let unasked = Assign { home: NEXT, next: None, floor, reason };
        trial.tell(NEXT, &NodeMessage::Assign(unasked));
        trial.pass(400);
        assert_eq!(trial.agent.home(), Some(home));
    }
}

#[test]
fn who_is_sent_elsewhere_sends_to_both_until_the_new_home_has_it_all() {
    for to in [NEXT, FAR] {
        let mut trial = Trial::with_far();
        trial.watch(HOME, true);
        trial.pass(1000);
        let (old, epoch) = (trial.leg(HOME), trial.agent.epoch());
        trial.sent.clear();
        trial.send_away(to);
        assert_eq!(trial.agent.home(), Some(to));
        assert!(trial.agent.epoch() > epoch);
        let why = trial.sent.iter().find_map(|effect| match effect {
            Effect::Send(_, bytes) => match ClientMessage::decode(bytes) {
                Ok(ClientMessage::Register(it)) if it.role == Role::Home => {
                    Some((it.why, it.home, it.lost_ms))
                }
                _ => None,
            },
            _ => None,
        });
        assert_eq!(why, Some((Some("n1 is drained".into()), Some(HOME), None)));
        let both = BTreeSet::from([old, trial.leg(to)]);
        assert_eq!(trial.agent.media(), &both);
        trial.watch(to, true);
        trial.pass(900);
        assert_eq!(trial.agent.media(), &both, "the old home has it from here for a moment");
        trial.pass(300);
        assert_eq!(trial.agent.media(), &BTreeSet::from([trial.leg(to)]));
        let interrupted = |effect: &Effect| match effect {
            Effect::Media(legs) => !legs.contains(&old) && !legs.contains(&trial.leg(to)),
            _ => false,
        };
        assert!(!trial.sent.iter().any(interrupted), "never nowhere");
        assert_eq!(trial.agent.next(), Some(if to == NEXT { HOME } else { NEXT }));
        let closed = trial.sent.contains(&Effect::Close(old));
        assert_eq!(closed, to == FAR, "unless it is next now");
    }
}

#[test]
fn an_idle_encoder_leaves_its_old_home_at_once() {
    let mut trial = Trial::with_far();
    let old = trial.leg(HOME);
    trial.send_away(FAR);
    assert_eq!(trial.agent.home(), Some(FAR));
    assert!(trial.agent.media().is_empty());
    assert!(trial.sent.contains(&Effect::Close(old)));
}

#[test]
fn who_is_not_taken_elsewhere_stays_and_is_never_interrupted() {
    for (says, reason) in [(true, "it is full"), (false, "no answer")] {
        let mut trial = Trial::with_far();
        trial.watch(HOME, true);
        trial.pass(1000);
        let home = trial.leg(HOME);
        trial.refuses = Some((FAR, says));
        trial.sent.clear();
        trial.send_away(FAR);
        trial.pass(2500);
        assert_eq!(trial.agent.home(), Some(HOME), "{reason}");
        assert_eq!(trial.stayed(), [(HOME, reason.to_owned())]);
        assert_eq!(trial.agent.media(), &BTreeSet::from([home]));
        let interrupted =
            |effect: &Effect| matches!(effect, Effect::Media(legs) if !legs.contains(&home));
        assert!(!trial.sent.iter().any(interrupted), "{reason}");
    }
}

#[test]
fn who_stands_by_goes_on_to_until_another_does() {
    let mut trial = Trial::with_far();
    let epoch = trial.agent.epoch();
    let home = |next| NodeMessage::Registered(Registered { role: Role::Home, epoch, next });
    trial.refuses = Some((FAR, false));
    trial.tell(HOME, &home(Some(FAR)));
    trial.pass(100);
    assert_eq!(trial.agent.next(), Some(NEXT), "the other did not answer");
    trial.tell(HOME, &home(None));
    trial.pass(100);
    assert_eq!(trial.agent.next(), Some(NEXT), "home knows of nobody");
    trial.refuses = None;
    trial.tell(HOME, &home(Some(FAR)));
    trial.pass(5_000);
    assert_eq!(trial.agent.next(), Some(FAR));
    let legs = trial.agent.legs.len();
    assert_eq!(legs, 2, "whoever stood by before is let go");
}

#[test]
fn legs_that_are_asked_seldom_are_not_silent_when_they_begin_to_be_asked_often() {
    let mut trial = Trial::new();
    for phase in 0..40 {
        trial.pass(3_000 + 100 * phase);
        trial.watch(NEXT, true);
        assert_eq!((trial.agent.home(), trial.agent.next()), (Some(HOME), Some(NEXT)));
        trial.watch(NEXT, false);
    }
    let closes = |effect: &Effect| matches!(effect, Effect::Close(_));
    assert!(!trial.sent.iter().any(closes), "nobody was let go");
}

#[test]
fn who_is_called_back_before_it_has_gone_stays_and_later_does_not_go_back() {
    let mut trial = Trial::with_far();
    let epoch = trial.agent.epoch();
    let leg = trial.leg(HOME);
    let order = |to| {
        let order = wire::Move { to, reason: "somebody watches it now".into() };
        Event::Message(leg, NodeMessage::Move(order).encode())
    };
    for event in [order(FAR), order(HOME)] {
        let now = trial.now();
        let mut effects = Vec::new();
        trial.agent.handle(now, event, &mut effects);
        trial.sent.extend(effects);
    }
    trial.pass(5_000);
    assert_eq!((trial.agent.home(), trial.agent.epoch()), (Some(HOME), epoch), "as it was");
    trial.event(order(HOME));
    trial.send_away(FAR);
    assert_eq!(trial.agent.home(), Some(FAR));
    trial.event(order(HOME));
    trial.pass(1_000);
    assert_eq!(trial.agent.home(), Some(FAR), "who has gone has gone");
}

#[test]
fn who_is_sent_to_a_node_that_it_does_not_know_or_reach_stays() {
    let mut trial = Trial::new();
    let epoch = trial.agent.epoch();
    trial.send_away(FAR);
    assert_eq!(trial.stayed(), [(HOME, "its address is not known".to_owned())]);
    let mut trial = Trial::with_far();
    let order = wire::Move { to: FAR, reason: String::new() };
    let leg = trial.leg(HOME);
    let mut effects = Vec::new();
    trial.agent.handle(
        trial.now(),
        Event::Message(leg, NodeMessage::Move(order).encode()),
        &mut effects,
    );
    let dialled = effects.iter().find_map(|effect| match effect {
        Effect::Dial { leg, node: Some(FAR), .. } => Some(*leg),
        _ => None,
    });
    let (leg, reason) = (dialled.expect("a dial"), "connection refused".to_owned());
    trial.event(Event::Closed { leg, reason });
    assert_eq!(trial.stayed(), [(HOME, "connection refused".to_owned())]);
    assert_eq!((trial.agent.home(), trial.agent.epoch()), (Some(HOME), epoch), "as it was");
}

#[test]
fn a_home_that_dies_while_its_encoder_is_on_its_way_is_forgotten() {
    let mut trial = Trial::with_far();
    trial.watch(HOME, true);
    trial.pass(1000);
    trial.refuses = Some((FAR, false));
    trial.send_away(FAR);
    trial.silent = vec![HOME];
    trial.pass(3500);
    assert!(trial.agent.home().is_some_and(|home| home != HOME));
    assert!(!trial.agent.media().is_empty());
}

#[test]
fn who_finds_every_node_full_comes_back_when_it_was_told_to() {
    let mut trial = Trial::new();
    (trial.full, trial.sent) = (true, Vec::new());
    for node in [NEXT, HOME] {
        let (leg, reason) = (trial.leg(node), "gone".to_owned());
        trial.event(Event::Closed { leg, reason });
    }
    let asks = |trial: &Trial| {
        let asked = |effect: &&Effect| {
            matches!(effect, Effect::Send(_, bytes) if matches!(
                ClientMessage::decode(bytes),
                Ok(ClientMessage::Register(it)) if it.role != Role::Next
            ))
        };
        trial.sent.iter().filter(asked).count()
    };
    trial.pass(3_000);
    assert_eq!(asks(&trial), 1, "it waits");
    let refused = Effect::Note(Note::Refused("every node is full".into()));
    assert!(trial.sent.contains(&refused), "{:?}", trial.sent);
    trial.pass(4_000);
    assert_eq!(asks(&trial), 2);
    trial.full = false;
    trial.pass(7_000);
    assert_eq!(trial.agent.home(), Some(HOME));
}

#[test]
fn whoever_is_refused_by_a_node_that_is_shut_out_tries_another_soon() {
    for (status, waits) in [(503, false), (403, true)] {
        let mut trial = Trial::new();
        let mut peers = trial.agent.peers().clone();
        peers.nodes[1].up = false;
        trial.tell(HOME, &NodeMessage::Peers(peers));
        let gone = |node| (trial.leg(node), "gone".to_owned());
        for (leg, reason) in [gone(NEXT), gone(HOME)] {
            let mut effects = Vec::new();
            trial.agent.handle(trial.now(), Event::Closed { leg, reason }, &mut effects);
            trial.sent.extend(effects);
        }
        let dials = |trial: &Trial| {
            let dial = |effect: &Effect| match effect {
                Effect::Dial { leg, node, .. } => Some((*leg, *node)),
                _ => None,
            };
            trial.sent.iter().filter_map(dial).next_back()
        };
        trial.sent.clear();
        let mut effects = Vec::new();
        trial.ms += 10_000;
        trial.agent.handle(trial.now(), Event::Wake, &mut effects);
        trial.sent.extend(effects);
        let (leg, node) = dials(&trial).expect("a dial");
        assert_eq!(node, Some(HOME), "the only one that is up by the last word");
        let failed = wire::Failed { status, reason: "shut out".into(), retry_after: None };
        let refused = NodeMessage::Failed(failed).encode();
        let reason = "shut out".to_owned();
        for event in [
            Event::Connected { leg, node: HOME },
            Event::Message(leg, refused),
            Event::Closed { leg, reason },
        ] {
            let mut effects = Vec::new();
            trial.agent.handle(trial.now(), event, &mut effects);
            trial.sent.extend(effects);
        }
        // By then it has waited long enough for one that did not answer once.
        trial.ms += 300;
        let mut effects = Vec::new();
        trial.agent.handle(trial.now(), Event::Wake, &mut effects);
        trial.sent.extend(effects);
        let after = dials(&trial).expect("a dial").1;
        assert_eq!(after, Some(if waits { HOME } else { NEXT }), "{status}");
    }
}

#[test]
fn a_node_that_refuses_to_be_next_is_asked_ever_more_rarely_and_nothing_waits_for_it() {
    let mut trial = Trial::new();
    trial.no_next = true;
    trial.sent.clear();
    let (leg, reason) = (trial.leg(NEXT), "gone".to_owned());
    trial.event(Event::Closed { leg, reason });
    trial.pass(10_000);
    let asks = trial.sent.iter().filter(|effect| match effect {
        Effect::Send(_, bytes) => matches!(
            ClientMessage::decode(bytes),
            Ok(ClientMessage::Register(register)) if register.role == Role::Next
        ),
        _ => false,
    });
    let asks = asks.count();
    assert!((4..=8).contains(&asks), "asked {asks} times in ten seconds");
    // Home goes, and another is found at once.
    let (leg, reason) = (trial.leg(HOME), "gone".to_owned());
    trial.event(Event::Closed { leg, reason });
    trial.pass(100);
    assert!(trial.agent.home().is_some());
}

#[test]
fn with_home_and_next_silent_a_third_node_that_answers_is_gone_to_at_once() {
    let mut trial = Trial::with_far();
    trial.watch(HOME, true);
    trial.pass(1000);
    trial.silent = vec![HOME, NEXT];
    trial.pass(350);
    assert_eq!(trial.agent.home(), Some(FAR), "which proposes home, and does not know better");
    assert!(trial.agent.media().contains(&trial.leg(FAR)));
}

#[test]
fn with_everyone_silent_home_has_a_second_and_others_are_let_be_if_it_speaks_again() {
    let mut trial = Trial::with_far();
    trial.watch(HOME, true);
    trial.pass(1000);
    let epoch = trial.agent.epoch();
    trial.silent = vec![HOME, NEXT, FAR];
    trial.pass(700);
    assert_eq!((trial.agent.home(), trial.agent.epoch()), (Some(HOME), epoch));
    // Next, if it spoke first, would be believed to have outlived home.
    trial.silent = vec![NEXT, FAR];
    trial.pass(100);
    trial.silent.clear();
    trial.pass(100);
    // Only now it is let in there.
    let leg = trial.leg(FAR);
    trial.event(Event::Connected { leg, node: FAR });
    let welcome = Welcome { peers: trial.agent.peers().clone() };
    trial.event(Event::Message(leg, NodeMessage::Welcome(welcome).encode()));
    trial.pass(100);
    assert!(trial.sent.contains(&Effect::Close(leg)), "it is not needed any more");
    assert_eq!((trial.agent.home(), trial.agent.next()), (Some(HOME), Some(NEXT)));
    assert_eq!(trial.agent.epoch(), epoch);
}
