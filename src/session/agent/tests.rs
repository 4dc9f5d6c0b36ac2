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
    silent: Option<NodeId>,
    sent: Vec<Effect>,
}

impl Trial {
    fn new() -> Self {
        let peer = |node: NodeId, name: &str| Peer {
            node,
            name: name.into(),
            addrs: vec![format!("{name}:1")],
            up: true,
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
        let mut trial =
            Self { agent, ms: 1000, legs: BTreeMap::new(), silent: None, sent: Vec::new() };
        trial.take(effects);
        trial.pass(500);
        assert_eq!((trial.agent.home(), trial.agent.next()), (Some(HOME), Some(NEXT)));
        trial
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
                    self.event(Event::Connected { leg, node });
                    let welcome = Welcome { peers: self.agent.peers().clone() };
                    self.event(Event::Message(leg, NodeMessage::Welcome(welcome).encode()));
                }
                Effect::Send(leg, bytes) => self.answer(leg, &bytes),
                Effect::Datagram(leg, body) if self.silent != self.legs.get(&leg).copied() => {
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
        let other = if node == HOME { NEXT } else { HOME };
        let answer = match register.role {
            Role::Ask => NodeMessage::Assign(Assign {
                home: HOME,
                next: Some(NEXT),
                floor: Epoch::default(),
                reason: String::new(),
            }),
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
    trial.silent = Some(HOME);
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
    trial.silent = Some(HOME);
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
    trial.silent = Some(NEXT);
    trial.pass(12_000);
    assert_eq!(trial.agent.next(), None);
}
