use super::*;
use crate::id::{EncoderId, Epoch};
use crate::session::host::AGENT_GONE;
use crate::wire::{Peer, Welcome};

const HOME: NodeId = NodeId([1; 16]);
const NEXT: NodeId = NodeId([2; 16]);
const THIRD: NodeId = NodeId([3; 16]);

/// A viewer with two nodes that answer unless they are silenced; time goes in steps of 10 ms, and
/// frames come every 40 ms.
struct Trial {
    viewer: Viewer,
    ms: u64,
    legs: BTreeMap<LegId, NodeId>,
    silent: Vec<NodeId>,
    frames_from: Option<NodeId>,
    /// Knows the encoder, and no home of it.
    homeless: Option<NodeId>,
    /// What nodes say of the encoder.
    source: SourceState,
    closed: Vec<NodeId>,
    watches: Vec<NodeId>,
    left: Vec<NodeId>,
    wishes: Vec<NodeId>,
}

impl Trial {
    fn begin() -> Self {
        let config = Config {
            name: "cam-1".into(),
            stay: false,
            targets: vec!["home:1".into()],
            peers: PeerList::default(),
            seed: 1,
        };
        Self {
            viewer: Viewer::new(config),
            ms: 1000,
            legs: BTreeMap::new(),
            silent: Vec::new(),
            frames_from: Some(HOME),
            homeless: None,
            source: SourceState::Ready,
            closed: Vec::new(),
            watches: Vec::new(),
            left: Vec::new(),
            wishes: Vec::new(),
        }
    }

    /// Home's picture is seen.
    fn new() -> Self {
        let mut trial = Self::begin();
        trial.pass(2000);
        assert_eq!(trial.viewer.via(), Some(HOME));
        assert!(trial.legs.values().any(|node| *node == NEXT), "a leg stands by");
        trial.watches.clear();
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
        self.viewer.handle(self.now(), event, &mut effects);
        self.take(effects);
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.ms += 10;
            self.event(Event::Wake);
            if self.ms.is_multiple_of(40)
                && let Some(node) = self.frames_from
                && self.speaks(Some(&node))
                && let Some(leg) = self.leg(node)
            {
                self.event(Event::Fresh(leg));
            }
        }
    }

    fn leg(&self, node: NodeId) -> Option<LegId> {
        self.legs.iter().find(|(_, of)| **of == node).map(|(leg, _)| *leg)
    }

    fn place(&self) -> StreamPlace {
        StreamPlace { source: Some(self.source.clone()), ..place(HOME, 1) }
    }

    fn tell(&mut self, node: NodeId, message: &NodeMessage) {
        let leg = self.leg(node).expect("a leg");
        self.event(Event::Message(leg, message.encode()));
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Dial { leg, addr, .. } => {
                    let node = match addr.as_str() {
                        "home:1" => HOME,
                        "third:1" => THIRD,
                        _ => NEXT,
                    };
                    if self.speaks(Some(&node)) {
                        self.legs.insert(leg, node);
                        self.event(Event::Connected { leg, node });
                        let welcome = NodeMessage::Welcome(Welcome { peers: peers() });
                        self.event(Event::Message(leg, welcome.encode()));
                    }
                }
                Effect::Close(leg) => self.closed.extend(self.legs.remove(&leg)),
                Effect::Send(leg, bytes) => match ClientMessage::decode(&bytes) {
                    Ok(ClientMessage::Follow(_)) => {
                        let of = self.legs.get(&leg).copied();
                        let place = match of.is_some() && of == self.homeless {
                            true => homeless(1),
                            false => self.place(),
                        };
                        self.event(Event::Message(leg, NodeMessage::Stream(place).encode()));
                    }
                    Ok(ClientMessage::Keyframe(_)) => self.wishes.extend(self.legs.get(&leg)),
                    Ok(ClientMessage::Watch(_)) => self.watches.extend(self.legs.get(&leg)),
                    Ok(ClientMessage::Unwatch(_)) => self.left.extend(self.legs.get(&leg)),
                    _ => {}
                },
                Effect::Datagram(leg, body) => {
                    // The driver reads the flow's id off.
                    if let Some(Heartbeat::Ping(number)) = Heartbeat::decode(&body[1..])
                        && self.speaks(self.legs.get(&leg))
                    {
                        let pong = Heartbeat::Pong(number).encode()[1..].to_vec();
                        self.event(Event::Datagram(leg, pong));
                    }
                }
                Effect::Peers(_) | Effect::Note(_) => {}
            }
        }
    }

    /// Why the picture stood still, once it comes from this node.
    fn cause_from(&mut self, node: NodeId) -> String {
        let leg = self.leg(node).expect("a leg");
        self.event(Event::Fresh(leg));
        self.viewer.cause().expect("it stood still").to_owned()
    }
}

fn peers() -> PeerList {
    let peer = |node: NodeId, name: &str| Peer {
        node,
        name: name.into(),
        addrs: vec![format!("{name}:1")],
        up: true,
        draining: false,
        later: crate::grow::Later::default(),
    };
    PeerList { nodes: vec![peer(HOME, "home"), peer(NEXT, "next")] }
}

fn place(home: NodeId, counter: u64) -> StreamPlace {
    StreamPlace {
        name: "cam-1".into(),
        encoder: Some(EncoderId([7; 16])),
        home: Some(home),
        next: Some(if home == HOME { NEXT } else { HOME }),
        epoch: Epoch { counter, instance: 1 },
        source: Some(SourceState::Ready),
    }
}

#[test]
fn a_picture_that_flows_has_no_cause() {
    let mut trial = Trial::new();
    trial.pass(1000);
    assert_eq!(trial.viewer.cause(), None);
    assert!(trial.watches.is_empty(), "next is left alone");
}

#[test]
fn a_node_that_falls_silent_is_named_with_the_time_since() {
    let mut trial = Trial::new();
    trial.silent = vec![HOME];
    trial.pass(300);
    assert!(trial.watches.contains(&NEXT), "next is asked");
    let cause = trial.cause_from(NEXT);
    assert!(cause.starts_with("home fell silent 3"), "{cause}");
}

#[test]
fn a_node_that_stood_still_for_a_while_is_named_with_the_time_that_it_did() {
    let mut trial = Trial::new();
    trial.silent = vec![HOME];
    trial.pass(300);
    trial.silent = Vec::new();
    trial.frames_from = None;
    trial.pass(100);
    let cause = trial.cause_from(HOME);
    assert!(cause.starts_with("home was silent for 3"), "{cause}");
}

#[test]
fn a_node_that_answers_without_a_picture_is_told_apart_from_a_silent_one() {
    let mut trial = Trial::new();
    trial.frames_from = None;
    trial.pass(300);
    assert_eq!(trial.viewer.cause_until(trial.now()), "home answers but has no picture");
    assert_eq!(trial.cause_from(HOME), "home answers but has no picture");
}

#[test]
fn a_source_without_a_signal_is_the_cause_in_its_own_words() {
    let mut trial = Trial::new();
    trial.frames_from = None;
    trial.pass(100);
    let source = Some(SourceState::NoSignal("the camera is off".into()));
    trial.tell(HOME, &NodeMessage::Stream(StreamPlace { source, ..place(HOME, 1) }));
    trial.tell(HOME, &NodeMessage::Stream(place(HOME, 1)));
    trial.pass(100);
    assert_eq!(trial.cause_from(HOME), "cam-1 has no signal: the camera is off");
}

#[test]
fn a_connection_that_ends_is_the_cause_with_its_reason() {
    let mut trial = Trial::new();
    trial.frames_from = None;
    trial.pass(50);
    let leg = trial.leg(HOME).expect("a leg");
    trial.legs.remove(&leg);
    trial.event(Event::Closed { leg, reason: "reset by the node".into() });
    trial.pass(200);
    assert_eq!(trial.cause_from(NEXT), "the connection to home ended: reset by the node");
}

#[test]
fn a_home_that_moved_is_told_with_where_it_is_now() {
    let mut trial = Trial::new();
    trial.frames_from = None;
    trial.pass(100);
    trial.tell(NEXT, &NodeMessage::Stream(place(NEXT, 2)));
    trial.pass(100);
    assert_eq!(trial.cause_from(NEXT), "home moved to next");
    trial.pass(200);
    trial.tell(NEXT, &NodeMessage::Stream(place(NEXT, 3)));
    assert_eq!(trial.cause_from(NEXT), "the encoder began anew at next");
}

#[test]
fn a_viewer_that_slept_blames_itself_and_keeps_its_legs() {
    let mut trial = Trial::new();
    trial.frames_from = None;
    trial.ms += 3_500;
    trial.pass(100);
    assert!(trial.closed.is_empty(), "closed {:?}", trial.closed);
    assert!(trial.watches.is_empty(), "asked {:?} at once", trial.watches);
    let cause = trial.cause_from(HOME);
    assert!(cause.starts_with("this viewer stood still for 3"), "{cause}");
}

#[test]
fn an_idle_leg_that_lost_a_ping_is_not_dead_when_it_is_needed() {
    let mut trial = Trial::new();
    trial.silent = vec![NEXT];
    trial.pass(3_500);
    trial.silent = vec![HOME];
    trial.pass(200);
    assert!(trial.watches.contains(&NEXT));
    assert!(!trial.closed.contains(&NEXT));
}

/// What a node says that knows no home.
fn homeless(counter: u64) -> StreamPlace {
    StreamPlace { home: None, next: None, source: None, ..place(HOME, counter) }
}

#[test]
fn a_viewer_whose_node_knows_no_home_asks_it_all_the_same_and_looks_elsewhere() {
    let mut trial = Trial::begin();
    trial.frames_from = None;
    trial.homeless = Some(HOME);
    trial.pass(500);
    assert!(trial.watches.contains(&HOME), "the encoder may send there as well");
    assert_eq!(trial.leg(NEXT), None);
    trial.pass(2000);
    assert!(trial.leg(NEXT).is_some(), "another part of the mesh may know more");
    assert_eq!(trial.viewer.place(), Some(&place(HOME, 1)));
}

#[test]
fn who_knows_of_no_home_asks_a_node_that_is_called_dead_before_others() {
    let mut trial = Trial::begin();
    trial.frames_from = None;
    trial.homeless = Some(HOME);
    trial.pass(500);
    let mut peers = peers();
    peers.nodes.retain(|peer| [HOME, NEXT].contains(&peer.node));
    let third = Peer { node: THIRD, addrs: vec!["third:1".into()], ..peers.nodes[0].clone() };
    peers.nodes.push(third);
    peers.nodes.iter_mut().find(|peer| peer.node == NEXT).expect("next").up = false;
    trial.tell(HOME, &NodeMessage::Peers(peers));
    trial.pass(1_500);
    assert!(trial.leg(NEXT).is_some(), "in its part of the mesh it may be home");
    assert_eq!(trial.leg(THIRD), None, "it knows what home knows");
}

#[test]
fn a_viewer_whose_encoder_lost_its_agent_listens_to_other_nodes_until_it_is_back() {
    let mut trial = Trial::new();
    let mut peers = peers();
    let third = Peer { node: THIRD, addrs: vec!["third:1".into()], ..peers.nodes[0].clone() };
    peers.nodes.push(third);
    trial.tell(HOME, &NodeMessage::Peers(peers));
    trial.frames_from = None;
    trial.source = SourceState::NoSignal(AGENT_GONE.into());
    let gone = NodeMessage::Stream(trial.place());
    trial.tell(HOME, &gone);
    trial.tell(NEXT, &gone);
    trial.pass(10_000);
    assert!(trial.leg(THIRD).is_some(), "it may be where its last home does not see it");
    trial.frames_from = Some(HOME);
    trial.tell(HOME, &NodeMessage::Stream(place(HOME, 1)));
    trial.pass(1_000);
    assert_eq!(trial.leg(THIRD), None);
}

/// What a node says that knows no such encoder.
fn nobody() -> NodeMessage {
    NodeMessage::Stream(StreamPlace { encoder: None, epoch: Epoch::default(), ..homeless(1) })
}

#[test]
fn a_node_that_knows_no_such_encoder_does_not_outweigh_one_that_does() {
    let mut trial = Trial::new();
    trial.tell(HOME, &nobody());
    trial.tell(NEXT, &nobody());
    assert_eq!(trial.viewer.lacks(), Lacks::Encoder, "all say so");
    trial.tell(HOME, &NodeMessage::Stream(place(HOME, 1)));
    trial.tell(NEXT, &nobody());
    assert_eq!(trial.viewer.place(), Some(&place(HOME, 1)));
}

#[test]
fn what_a_node_said_counts_again_when_whoever_said_better_is_gone() {
    let mut trial = Trial::new();
    let other = StreamPlace { encoder: Some(EncoderId([8; 16])), ..place(HOME, 9) };
    trial.tell(NEXT, &NodeMessage::Stream(other.clone()));
    assert_eq!(trial.viewer.place(), Some(&other));
    let leg = trial.leg(NEXT).expect("a leg");
    trial.legs.remove(&leg);
    trial.silent = vec![NEXT];
    trial.event(Event::Closed { leg, reason: "reset".into() });
    assert_eq!(trial.viewer.place(), Some(&place(HOME, 1)));
}

#[test]
fn a_home_is_not_forgotten_because_another_node_sees_none() {
    let mut trial = Trial::new();
    let leg = trial.leg(HOME).expect("a leg");
    trial.legs.remove(&leg);
    trial.silent = vec![HOME];
    trial.event(Event::Closed { leg, reason: "reset".into() });
    trial.tell(NEXT, &NodeMessage::Stream(homeless(1)));
    assert_eq!(trial.viewer.place(), Some(&place(HOME, 1)));
}

#[test]
fn a_keyframe_is_asked_for_where_the_picture_comes_from_now_and_not_with_every_frame() {
    let mut trial = Trial::new();
    for _ in 0..5 {
        trial.pass(40);
        trial.event(Event::KeyframeWanted);
    }
    assert_eq!(trial.wishes, [HOME]);
    trial.frames_from = Some(NEXT);
    trial.pass(40);
    trial.event(Event::KeyframeWanted);
    assert_eq!(trial.wishes, [HOME, NEXT]);
    for _ in 0..8 {
        trial.pass(40);
        trial.event(Event::KeyframeWanted);
    }
    assert_eq!(trial.wishes, [HOME, NEXT, NEXT], "and again, if none comes");
}

#[test]
fn a_viewer_that_is_refused_by_one_node_does_not_come_again_at_once() {
    let mut trial = Trial::new();
    let reason = "no encoder is known here".to_owned();
    let failed = wire::Failed { status: 404, reason, retry_after: None };
    trial.tell(NEXT, &NodeMessage::Failed(failed));
    trial.pass(100);
    assert_eq!((trial.closed.as_slice(), trial.leg(NEXT)), (&[NEXT][..], None));
    trial.pass(150);
    assert!(trial.leg(NEXT).is_some(), "it may be let in by now");
}

#[test]
fn home_says_who_its_next_is_whatever_others_say_later() {
    let mut trial = Trial::new();
    let other = StreamPlace { next: Some(THIRD), ..place(HOME, 1) };
    trial.tell(NEXT, &NodeMessage::Stream(other.clone()));
    assert_eq!(trial.viewer.place(), Some(&place(HOME, 1)));
    trial.tell(HOME, &NodeMessage::Stream(other.clone()));
    assert_eq!(trial.viewer.place(), Some(&other));
}

#[test]
fn a_node_that_was_started_anew_is_gone_to_before_the_leg_to_its_former_life_is_given_up() {
    let mut trial = Trial::new();
    // The picture stops, and next is asked: it is silent.
    (trial.silent, trial.frames_from) = (vec![NEXT], None);
    trial.pass(300);
    // It starts anew: what it hears on a leg from before says nothing to it.
    let former = trial.leg(NEXT).expect("a leg");
    trial.legs.remove(&former);
    trial.silent = Vec::new();
    trial.pass(2000);
    let leg = trial.leg(NEXT).expect("another leg");
    assert!(leg > former);
}

#[test]
fn next_is_watched_for_as_long_as_home_is_silent() {
    let mut trial = Trial::new();
    (trial.silent, trial.frames_from) = (vec![HOME], None);
    trial.pass(300);
    assert!(trial.watches.contains(&NEXT));
    trial.frames_from = Some(NEXT);
    trial.pass(3000);
    assert!(!trial.left.contains(&NEXT), "there is no other picture");
    trial.silent.clear();
    trial.pass(5000);
    assert!(trial.left.contains(&NEXT), "home speaks again");
}

#[test]
fn with_home_and_next_silent_any_other_node_is_asked_at_once() {
    let mut trial = Trial::new();
    let mut peers = peers();
    let third = Peer { node: THIRD, addrs: vec!["third:1".into()], ..peers.nodes[0].clone() };
    peers.nodes.push(third);
    trial.tell(HOME, &NodeMessage::Peers(peers));
    trial.silent = vec![HOME, NEXT];
    trial.pass(500);
    assert!(trial.watches.contains(&THIRD), "asked {:?}", trial.watches);
}
