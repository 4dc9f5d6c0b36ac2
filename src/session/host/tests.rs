//! One node's side of its clients, with the rest of the node as a stand-in.

use std::collections::BTreeSet;

use super::*;
use crate::access::keys::{StreamKey, key_hash, key_text};
use crate::access::{DEFAULT_DOMAIN, Principal, Rights};
use crate::accounts::{Change, Dot, Key, Kind, Record, Stamp};
use crate::admission::{Keypair, Roster, Session, issue_credential, issue_session};
use crate::directory::{Directory, Header};
use crate::grow::Later;
use crate::id::{AccountId, ActorId, Boot, InviteId, RecordId};
use crate::media::Silence;
use crate::placement::{Candidate, Media};
use crate::session::HELLO_DEADLINE;
use crate::time::Now;
use crate::wire::PeerList;

const CAM: EncoderId = EncoderId([7; 16]);

fn node(number: u8) -> NodeId {
    NodeId([number; 16])
}

/// Node 1, with nodes 2 and 3 beside it.
struct Trial {
    host: Host,
    directory: Directory,
    roster: Roster,
    rights: Rights,
    records: BTreeMap<Key, Record>,
    writes: u64,
    alive: BTreeSet<NodeId>,
    candidates: Vec<Candidate>,
    reluctant: Vec<Candidate>,
    ms: u64,
}

impl Trial {
    fn new(nodes: u8) -> Self {
        let alive: BTreeSet<NodeId> = (1..=nodes).map(node).collect();
        let candidate = |&node: &NodeId| Candidate {
            node,
            weight: 1.0,
            load: 0,
            media: Media::default(),
            limit: 9,
        };
        Self {
            host: Host::default(),
            directory: Directory::new(node(1), Boot(1)),
            rights: Rights::default(),
            records: BTreeMap::new(),
            writes: 0,
            roster: Roster::found(&Keypair::from_seed([1; 32]), [0; 16]),
            candidates: alive.iter().map(candidate).collect(),
            reluctant: Vec::new(),
            alive,
            ms: 1000,
        }
    }

    fn call(
        &mut self,
        call: impl FnOnce(&mut Host, &mut World<'_>, &mut Vec<Effect>),
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut world = World {
            now: Now { mono: Mono(self.ms * 1_000_000), wall: self.ms },
            time: self.ms,
            me: node(1),
            directory: &mut self.directory,
            rights: &self.rights,
            roster: &self.roster,
            alive: &self.alive,
            linked: &self.alive,
            trip: &|_| Some(Duration::from_millis(10)),
            candidates: &self.candidates,
            reluctant: &self.reluctant,
            peers: &PeerList::default(),
        };
        call(&mut self.host, &mut world, &mut effects);
        effects
    }

    fn say(&mut self, session: u64, message: ClientMessage) -> Vec<Effect> {
        let bytes = message.encode();
        self.call(|host, world, out| host.message(world, SessionId(session), &bytes, out))
    }

    /// A local client that has said hello.
    fn welcome(&mut self, session: u64) {
        self.call(|host, world, out| host.opened(world, SessionId(session), true, out));
        let hello = wire::ClientHello {
            agent: "t".into(),
            version: "0".into(),
            credential: None,
            only_api: false,
        };
        self.say(session, ClientMessage::Hello(hello));
    }

    fn register(&mut self, session: u64, role: Role, epoch: Epoch) -> Vec<Effect> {
        let register = wire::Register {
            encoder: CAM,
            name: "cam".into(),
            role,
            epoch,
            source: SourceState::Ready,
            home: None,
            lost_ms: None,
            why: None,
        };
        self.say(session, ClientMessage::Register(register))
    }

    fn home(&mut self, session: u64, epoch: Epoch) -> Vec<Effect> {
        self.welcome(session);
        self.register(session, Role::Home, epoch)
    }

    fn wake(&mut self) -> Vec<Effect> {
        self.call(|host, world, out| host.wake(world, out))
    }

    fn next(&self) -> Option<NodeId> {
        self.directory.entry(node(1), CAM).and_then(|entry| entry.next)
    }

    fn unreachable(&mut self, node: NodeId) {
        self.say(1, ClientMessage::NextUnreachable(wire::NextUnreachable { node }));
    }
}

#[test]
fn who_shows_nothing_is_nobody_for_the_api_alone_and_not_for_long() {
    let mut trial = Trial::new(2);
    for (session, only_api) in [(1, false), (2, true)] {
        trial.call(|host, world, out| host.opened(world, SessionId(session), false, out));
        let (agent, version) = ("t".into(), "0".into());
        let hello = wire::ClientHello { agent, version, credential: None, only_api };
        let effects = trial.say(session, ClientMessage::Hello(hello));
        let nobody = Effect::Welcomed(SessionId(session), Principal::default());
        assert_eq!(effects.contains(&nobody), only_api, "{effects:?}");
        assert_eq!(effects.iter().any(|it| matches!(it, Effect::Close(..))), !only_api);
        let peers = effects.iter().find_map(|effect| match effect {
            Effect::Send(_, NodeMessage::Welcome(welcome)) => Some(welcome.peers.nodes.len()),
            _ => None,
        });
        assert_eq!(peers, only_api.then_some(0), "{effects:?}");
    }
    let follow = ClientMessage::Follow(wire::Follow { name: "cam".into() });
    let refused = trial.say(2, follow);
    assert!(matches!(refused[..], [Effect::Close(SessionId(2), _)]), "{refused:?}");
    trial.ms += u64::try_from(HELLO_DEADLINE.as_millis()).unwrap();
    let effects = trial.wake();
    assert!(effects.iter().any(|it| matches!(it, Effect::Close(SessionId(2), _))), "{effects:?}");
}

fn epoch(counter: u64) -> Epoch {
    Epoch { counter, instance: 1 }
}

fn rejection(effects: &[Effect], session: u64) -> Option<&wire::Rejected> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send(to, NodeMessage::Rejected(rejected)) if to.0 == session => Some(rejected),
        _ => None,
    })
}

fn keyframes(effects: &[Effect]) -> usize {
    let keyframe = |e: &&Effect| matches!(e, Effect::Send(_, NodeMessage::Keyframe(_)));
    effects.iter().filter(keyframe).count()
}

#[test]
fn a_next_that_cannot_be_reached_is_replaced_and_kept_when_there_is_no_other() {
    let mut trial = Trial::new(3);
    trial.home(1, epoch(1));
    let first = trial.next().unwrap();
    trial.unreachable(first);
    let second = trial.next().unwrap();
    assert_ne!(first, second);
    trial.unreachable(second);
    assert_eq!(trial.next(), Some(second), "one of them is better than none");
    // The first may do again, once its time is up, when the second goes.
    trial.ms += 31_000;
    let due = trial.host.next_wake().unwrap();
    assert!(due.0 <= trial.ms * 1_000_000, "nothing else would wake it");
    trial.wake();
    trial.candidates.retain(|candidate| candidate.node != second);
    trial.call(|host, world, out| host.nodes_changed(world, out));
    assert_eq!(trial.next(), Some(first));
}

#[test]
fn a_next_that_went_down_and_came_back_is_as_good_as_new() {
    let mut trial = Trial::new(3);
    trial.home(1, epoch(1));
    let first = trial.next().unwrap();
    trial.unreachable(first);
    let second = trial.next().unwrap();
    for there in [false, true] {
        match there {
            true => trial.alive.insert(first),
            false => trial.alive.remove(&first),
        };
        trial.call(|host, world, out| host.nodes_changed(world, out));
    }
    trial.unreachable(second);
    assert_eq!(trial.next(), Some(first));
}

#[test]
fn an_epoch_that_nobody_can_have_is_refused_and_leaves_no_trace() {
    let mut trial = Trial::new(2);
    let effects = trial.home(1, epoch(u64::MAX));
    assert!(rejection(&effects, 1).is_some());
    assert_eq!(trial.directory.floor(CAM), Epoch::default());
    trial.register(1, Role::Home, epoch(1));
    assert_eq!(trial.host.homes(), 1);
}

#[test]
fn a_connection_speaks_for_one_encoder() {
    let mut trial = Trial::new(2);
    trial.home(1, epoch(1));
    let register = wire::Register {
        encoder: EncoderId([8; 16]),
        name: "other".into(),
        role: Role::Home,
        epoch: epoch(1),
        source: SourceState::Ready,
        home: None,
        lost_ms: None,
        why: None,
    };
    let effects = trial.say(1, ClientMessage::Register(register));
    assert!(rejection(&effects, 1).is_some());
    trial.call(|host, world, out| host.closed(world, SessionId(1), out));
    assert_eq!(trial.host.homes(), 0, "nothing is left behind");
}

#[test]
fn an_agent_that_is_displaced_at_its_own_home_is_told() {
    let mut trial = Trial::new(2);
    trial.home(1, epoch(1));
    let later = Epoch { counter: 2, instance: 2 };
    let effects = trial.home(2, later);
    assert_eq!(rejection(&effects, 1).map(|rejected| rejected.floor), Some(later));
}

#[test]
fn a_superseded_start_of_an_encoder_does_not_take_it_back() {
    let mut trial = Trial::new(2);
    trial.home(1, epoch(1));
    trial.home(2, Epoch { counter: 2, instance: 2 });
    let effects = trial.register(1, Role::Ask, epoch(1));
    assert!(rejection(&effects, 1).is_some_and(|rejected| rejected.name_taken), "{effects:?}");
    // Until the other one is gone.
    trial.call(|host, world, out| host.closed(world, SessionId(2), out));
    let effects = trial.register(1, Role::Ask, epoch(1));
    let assigned = |e: &Effect| matches!(e, Effect::Send(_, NodeMessage::Assign(_)));
    assert!(effects.iter().any(assigned), "{effects:?}");
}

#[test]
fn nobody_stands_by_under_an_epoch_that_is_over() {
    let mut trial = Trial::new(2);
    trial.home(1, epoch(5));
    trial.welcome(2);
    let effects = trial.register(2, Role::Next, epoch(4));
    assert!(rejection(&effects, 2).is_some());
}

#[test]
fn who_stands_by_is_told_once_that_its_home_started_anew_and_claims_it_no_more() {
    let mut trial = Trial::new(3);
    trial.welcome(1);
    let told = |effects: &[Effect]| {
        let assigned = |it: &&Effect| matches!(it, Effect::Send(_, NodeMessage::Assign(_)));
        effects.iter().filter(assigned).count()
    };
    // That nobody claims it yet is no news.
    let effects = trial.register(1, Role::Next, epoch(1));
    assert_eq!(told(&effects), 0, "{effects:?}");
    assert_eq!(told(&trial.claimed_by(node(2), epoch(1))), 0);
    let effects = trial.said_by(node(2), Boot(2), None);
    let to_us = |it: &Effect| match it {
        Effect::Send(SessionId(1), NodeMessage::Assign(it)) => {
            (it.home, it.floor) == (node(1), epoch(1))
        }
        _ => false,
    };
    assert!(effects.iter().any(to_us), "{effects:?}");
    assert_eq!(told(&trial.wake()), 0);
    // Another home is as good; and a home that is called dead goes on claiming.
    trial.claimed_by(node(3), epoch(2));
    trial.alive.remove(&node(3));
    assert_eq!(told(&trial.call(|host, world, out| host.nodes_changed(world, out))), 0);
    assert_eq!(trial.host.counters.unclaimed, 1);
}

#[test]
fn who_stood_by_where_it_may_not_be_any_more_is_not_told_to_come_when_nobody_claims_it() {
    let mut trial = Trial::new(3);
    trial.welcome(1);
    trial.register(1, Role::Next, epoch(1));
    trial.claimed_by(node(2), epoch(1));
    trial.steer(&[3], "only");
    let effects = trial.said_by(node(2), Boot(2), None);
    assert!(assigned(&effects).is_none(), "{effects:?}");
}

#[test]
fn a_wish_for_a_keyframe_waits_its_time_and_is_repeated_until_one_comes() {
    let mut trial = Trial::new(2);
    trial.home(1, epoch(1));
    trial.call(|host, world, out| host.viewers(world, CAM, 1, out));
    let wish = |host: &mut Host, world: &mut World<'_>, out: &mut Vec<Effect>| {
        host.keyframe_wanted(world.now.mono, CAM, out);
    };
    assert_eq!(keyframes(&trial.call(wish)), 1);
    trial.call(|host, world, out| host.keyframe_arrived(world.now.mono, CAM, out));
    trial.ms += 100;
    assert_eq!(keyframes(&trial.call(wish)), 0, "too soon");
    let due = trial.host.next_wake().unwrap();
    trial.ms = due.0 / 1_000_000;
    assert_eq!(keyframes(&trial.wake()), 1, "but not forgotten");
    trial.ms += 600;
    assert_eq!(keyframes(&trial.wake()), 1, "the request may be lost");
    trial.call(|host, world, out| host.keyframe_arrived(world.now.mono, CAM, out));
    trial.ms += 10_000;
    assert_eq!(keyframes(&trial.wake()), 0);
}

#[test]
fn a_node_that_stood_still_asks_for_what_it_relays_anew() {
    let mut trial = Trial::new(2);
    // Home is node 2, which says so.
    let entry = crate::directory::Entry {
        name: "cam".into(),
        epoch: epoch(1),
        next: None,
        source: SourceState::Ready,
        viewers: 0,
        why: String::new(),
        stays: false,
        later: Later::default(),
    };
    let mut other = Directory::new(node(2), Boot(1));
    other.put_header(Header {
        name: "n2".into(),
        addrs: Vec::new(),
        lacking: BTreeSet::new(),
        draining: false,
        cordoned: false,
        capacity: None,
        limit: None,
        measured: 100,
        later: Later::default(),
    });
    other.put_entry(CAM, Some(entry));
    let (now, mut out) = (Now { mono: Mono(1), wall: 1 }, Vec::new());
    other.handle(now, crate::directory::Event::Linked(node(1)), &mut out);
    other.flush(&mut out);
    for effect in out {
        if let crate::directory::Effect::Delta { delta, .. } = effect {
            let event = crate::directory::Event::Delta { from: node(2), delta };
            trial.directory.handle(now, event, &mut Vec::new());
        }
    }
    trial.call(|host, world, out| host.viewers(world, CAM, 1, out));
    let effects = trial.call(|host, world, out| host.stalled(world, out));
    let routes: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Route(_, Route::None) => Some(0),
            Effect::Route(_, Route::Relay { feed, .. }) => Some(*feed),
            _ => None,
        })
        .collect();
    assert_eq!(routes, [0, 2], "another feed: what waits of the first is not taken");
}

#[test]
fn a_registration_that_waited_while_the_node_stood_still_is_asked_about_first() {
    for role in [Role::Home, Role::Next] {
        let mut trial = Trial::new(2);
        trial.welcome(1);
        trial.call(|host, world, out| host.viewers(world, CAM, 1, out));
        trial.call(|host, world, out| host.stalled(world, out));
        let effects = trial.register(1, role, epoch(5));
        let local = |effects: &[Effect]| {
            effects.iter().any(|e| matches!(e, Effect::Route(CAM, Route::Local { .. })))
        };
        assert!(!local(&effects), "{role:?}: by now it may be at home elsewhere");
        let question = effects.iter().find_map(|effect| match effect {
            Effect::Send(SessionId(1), NodeMessage::Confirm(question)) => Some(question.clone()),
            _ => None,
        });
        let question = question.expect("a question");
        let epoch = (role == Role::Home).then_some(epoch(5));
        let answer = wire::Confirm { nonce: question.nonce, epoch };
        assert!(local(&trial.say(1, ClientMessage::Confirmed(answer))), "{role:?}");
    }
}

#[test]
fn a_registration_long_after_the_node_stood_still_needs_no_question() {
    let mut trial = Trial::new(2);
    trial.call(|host, world, out| host.stalled(world, out));
    trial.ms += 1500;
    let effects = trial.home(1, epoch(5));
    assert!(effects.iter().any(|e| matches!(e, Effect::Route(CAM, Route::Local { .. }))));
}

#[test]
fn a_wish_for_a_keyframe_is_made_again_where_the_stream_comes_from_next() {
    let mut trial = Trial::new(2);
    trial.call(|host, world, out| host.viewers(world, CAM, 1, out));
    // Nobody to ask yet.
    let wish = |host: &mut Host, world: &mut World<'_>, out: &mut Vec<Effect>| {
        host.keyframe_wanted(world.now.mono, CAM, out);
    };
    assert_eq!(keyframes(&trial.call(wish)), 0);
    assert_eq!(trial.call(|host, _, _| assert!(host.next_wake().is_none())), []);
    assert_eq!(keyframes(&trial.home(1, epoch(1))), 1);
    // Its agent is gone before a keyframe came, and another takes over.
    trial.call(|host, world, out| host.closed(world, SessionId(1), out));
    assert_eq!(keyframes(&trial.home(2, epoch(2))), 1);
    trial.call(|host, world, out| host.keyframe_arrived(world.now.mono, CAM, out));
    trial.call(|host, world, out| host.closed(world, SessionId(2), out));
    assert_eq!(keyframes(&trial.home(3, epoch(3))), 0, "nobody waits");
}

const SITE: RecordId = RecordId([50; 16]);
const ANNA: AccountId = AccountId([51; 16]);

fn text(field: u16, text: &str) -> Change {
    Change::Set(field, text.as_bytes().to_vec())
}

impl Trial {
    fn write(&mut self, kind: Kind, id: [u8; 16], changes: &[Change]) -> Vec<Effect> {
        self.writes += 1;
        let key = Key { kind, id: RecordId(id) };
        let dot = Dot { actor: ActorId([1; 16]), seq: self.writes, nonce: [0; 4] };
        let by = Stamp { account: ANNA, node: node(1), wall: self.writes };
        let record = self.records.entry(key).or_default();
        record.apply(dot, by, changes).unwrap();
        self.rights.changed(key, Some(record));
        self.call(|host, world, out| host.rights_changed(world, out))
    }

    /// `site/cam`, and Anna, who has this role in the site.
    fn site(&mut self, role: &str) {
        self.write(Kind::DOMAIN, SITE.0, &[text(1, "site")]);
        let site = Change::Set(3, SITE.0.to_vec());
        self.write(Kind::ENCODER, CAM.0, &[text(1, "cam"), site.clone()]);
        self.write(Kind::ACCOUNT, ANNA.0, &[text(1, "anna"), text(4, "x"), site.clone()]);
        let rule = [text(4, role), Change::Set(5, vec![1]), Change::Add(2, ANNA.0.to_vec()), site];
        self.write(Kind::RULE, [52; 16], &rule);
    }

    /// Somebody from elsewhere who says hello with this.
    fn hello(&mut self, session: u64, credential: Option<String>) -> Vec<Effect> {
        self.call(|host, world, out| host.opened(world, SessionId(session), false, out));
        let (agent, version) = ("t".into(), "0".into());
        let hello = wire::ClientHello { agent, version, credential, only_api: false };
        self.say(session, ClientMessage::Hello(hello))
    }

    /// Anna's sign-in.
    fn token(&self) -> Option<String> {
        let password = self.rights.password_of(ANNA)?;
        let session = Session { account: ANNA, password, expires: u64::MAX };
        Some(issue_session(&Keypair::from_seed([1; 32]), self.roster.mesh(), &session))
    }

    fn follow(&mut self, session: u64, name: &str) -> Option<EncoderId> {
        let follow = wire::Follow { name: name.into() };
        let effects = self.say(session, ClientMessage::Follow(follow));
        effects.iter().find_map(|effect| match effect {
            Effect::Send(_, NodeMessage::Stream(place)) => place.encoder,
            _ => None,
        })
    }
}

fn closed(effects: &[Effect], session: u64) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Close(id, _) if id.0 == session))
}

#[test]
fn nobody_comes_in_without_showing_anything_and_nobody_sends_without_the_right() {
    let mut trial = Trial::new(2);
    trial.site("viewer");
    assert!(closed(&trial.hello(1, None), 1));
    let token = trial.token();
    assert!(!closed(&trial.hello(2, token), 2));
    let effects = trial.register(2, Role::Home, epoch(1));
    let rejected = rejection(&effects, 2).expect("a viewer does not send");
    assert!(rejected.reason.contains("publisher"), "{}", rejected.reason);
    for role in [Role::Ask, Role::Next, Role::Also] {
        let effects = trial.register(2, role, epoch(1));
        assert!(rejection(&effects, 2).is_some(), "{role:?}");
    }
    assert_eq!((trial.host.homes(), trial.host.counters.forbidden), (0, 4));
    trial.write(Kind::RULE, [52; 16], &[text(4, "publisher")]);
    trial.register(2, Role::Home, epoch(1));
    assert_eq!(trial.host.homes(), 1);
}

#[test]
fn a_stream_key_sends_as_its_own_encoder_and_as_no_other() {
    let mut trial = Trial::new(2);
    let key = key_text(CAM, &[3; 20]);
    let kept = StreamKey { id: [1; 4], hash: key_hash(&key), made: 1, expires: 0 };
    trial.write(Kind::ENCODER, CAM.0, &[Change::Add(2, kept.encode())]);
    trial.hello(1, Some(key.clone()));
    let other = wire::Register {
        encoder: EncoderId([8; 16]),
        name: "other".into(),
        role: Role::Home,
        epoch: epoch(1),
        source: SourceState::Ready,
        home: None,
        lost_ms: None,
        why: None,
    };
    let effects = trial.say(1, ClientMessage::Register(other));
    assert!(rejection(&effects, 1).is_some());
    trial.register(1, Role::Home, epoch(1));
    assert_eq!(trial.host.homes(), 1);
    let ended = trial.write(Kind::ENCODER, CAM.0, &[Change::Add(3, vec![1; 4])]);
    assert!(closed(&ended, 1), "a revoked key ends its session: {ended:?}");
    assert_eq!(trial.host.homes(), 0);
    assert!(closed(&trial.hello(2, Some(key)), 2), "and opens none");
}

#[test]
fn a_key_that_expires_ends_its_session_without_any_change() {
    let mut trial = Trial::new(2);
    let key = key_text(CAM, &[3; 20]);
    let kept = StreamKey { id: [1; 4], hash: key_hash(&key), made: 1, expires: 5_000 };
    trial.write(Kind::ENCODER, CAM.0, &[Change::Add(2, kept.encode())]);
    trial.hello(1, Some(key));
    trial.register(1, Role::Home, epoch(1));
    let mut ended = false;
    while !ended && trial.ms < 60_000 {
        let due = trial.host.next_wake().expect("it is judged again");
        trial.ms = due.0.div_ceil(1_000_000);
        ended = closed(&trial.wake(), 1);
    }
    assert!(ended && trial.ms <= 16_000, "{}", trial.ms);
}

#[test]
fn a_viewer_sees_what_is_theirs_under_its_name_and_elsewhere_nothing() {
    let mut trial = Trial::new(2);
    trial.site("viewer");
    trial.home(1, epoch(1));
    let token = trial.token();
    trial.hello(2, token);
    assert_eq!(trial.follow(2, "cam"), Some(CAM));
    assert_eq!(trial.follow(2, "site/cam"), Some(CAM));
    assert_eq!(trial.follow(2, "default/cam"), None);
    let watch = |trial: &mut Trial, session| {
        let watch = wire::Watch { encoder: CAM, stay: true };
        let effects = trial.say(session, ClientMessage::Watch(watch));
        effects.iter().any(|effect| matches!(effect, Effect::Serve(_, CAM)))
    };
    assert!(watch(&mut trial, 2));
    // A client of the default domain.
    let by = Keypair::from_seed([1; 32]);
    let id = InviteId([6; 16]);
    let client = issue_credential(&by, trial.roster.mesh(), id, DEFAULT_DOMAIN, u64::MAX);
    trial.hello(3, Some(client));
    assert_eq!(trial.follow(3, "cam"), None);
    assert_eq!(trial.follow(3, "site/cam"), None);
    assert!(!watch(&mut trial, 3), "not by its id either");
    // The right goes: the stream ends, the session stays.
    let effects = trial.write(Kind::RULE, [52; 16], &[Change::Disable]);
    assert!(effects.contains(&Effect::Unserve(SessionId(2), CAM)), "{effects:?}");
    assert!(!closed(&effects, 2));
    let told = effects.iter().any(|effect| {
        matches!(effect, Effect::Send(SessionId(2), NodeMessage::Stream(place)) if place.encoder.is_none())
    });
    assert!(told, "and it is told of the stream no more: {effects:?}");
    let effects = trial.write(Kind::ACCOUNT, ANNA.0, &[Change::Disable]);
    assert!(closed(&effects, 2), "an account that is out of use is nobody");
    assert!(!closed(&effects, 1) && !closed(&effects, 3), "others are not concerned");
}

#[test]
fn two_domains_may_have_the_same_name_and_neither_hears_of_the_other() {
    let mut trial = Trial::new(2);
    trial.site("publisher");
    trial.home(1, epoch(1));
    trial.welcome(2);
    let other = wire::Register {
        encoder: EncoderId([8; 16]),
        name: "cam".into(),
        role: Role::Home,
        epoch: epoch(1),
        source: SourceState::Ready,
        home: None,
        lost_ms: None,
        why: None,
    };
    let effects = trial.say(2, ClientMessage::Register(other.clone()));
    assert!(rejection(&effects, 2).is_none(), "{effects:?}");
    trial.welcome(3);
    let third = wire::Register { encoder: EncoderId([9; 16]), ..other };
    let effects = trial.say(3, ClientMessage::Register(third));
    assert!(rejection(&effects, 3).is_some(), "within one domain it is taken");
}

#[test]
fn who_comes_to_a_full_node_is_told_where_there_is_room() {
    let mut trial = Trial::new(2);
    trial.candidates[0].limit = 0;
    let refused = trial.home(1, epoch(1));
    let reason = refused.iter().find_map(|effect| match effect {
        Effect::Send(_, NodeMessage::Rejected(rejected)) => Some(&rejected.reason),
        _ => None,
    });
    let reason = reason.expect("it is refused");
    assert!(reason.contains("limit of 0") && reason.contains(&node(2).short()), "{reason}");
    assert_eq!(trial.host.counters.rejected, 1);
}

#[test]
fn when_every_node_is_full_that_is_said_and_whoever_is_at_home_stays() {
    let mut trial = Trial::new(2);
    trial.home(1, epoch(1));
    trial.candidates.iter_mut().for_each(|candidate| candidate.limit = 0);
    let other = wire::Register {
        encoder: EncoderId([8; 16]),
        name: "other".into(),
        role: Role::Ask,
        epoch: epoch(1),
        source: SourceState::Ready,
        home: None,
        lost_ms: None,
        why: None,
    };
    trial.welcome(2);
    let refused = trial.say(2, ClientMessage::Register(other));
    let full = |effect: &Effect| match effect {
        Effect::Send(_, NodeMessage::Rejected(rejected)) => rejected.reason.contains("full"),
        _ => false,
    };
    assert!(refused.iter().any(full), "{refused:?}");
    // The same claim again, over another connection: it is at home here already.
    let again = trial.home(3, epoch(2));
    assert!(!again.iter().any(full), "{again:?}");
    assert_eq!(trial.directory.entry(node(1), CAM).map(|entry| entry.epoch), Some(epoch(2)));
}

impl Trial {
    fn order(&mut self, to: NodeId) -> Vec<Effect> {
        let reason = "n1 is drained".to_owned();
        let order = Order { encoder: CAM, to, cause: Cause::Drain, reason, ticket: 3 };
        self.call(|host, world, out| host.move_away(world, order, out))
    }

    /// Another node says that CAM is at home there.
    fn claimed_by(&mut self, at: NodeId, epoch: Epoch) -> Vec<Effect> {
        self.said_by(at, Boot(1), Some(epoch))
    }

    /// This start of another node says under which epoch CAM is at home there, if it is.
    fn said_by(&mut self, at: NodeId, boot: Boot, epoch: Option<Epoch>) -> Vec<Effect> {
        self.claims(at, boot, epoch.map(|epoch| (epoch, SourceState::Ready)))
    }

    /// The same, with what the source does.
    fn claims(
        &mut self,
        at: NodeId,
        boot: Boot,
        claim: Option<(Epoch, SourceState)>,
    ) -> Vec<Effect> {
        let mut other = Directory::new(at, boot);
        other.put_header(Header::default());
        let entry = claim.map(|(epoch, source)| crate::directory::Entry {
            name: "cam".into(),
            epoch,
            next: None,
            source,
            viewers: 0,
            why: String::new(),
            stays: false,
            later: Later::default(),
        });
        other.put_entry(CAM, entry);
        let (now, mut out) = (Now { mono: Mono(1), wall: 1 }, Vec::new());
        other.handle(now, crate::directory::Event::Linked(node(1)), &mut out);
        other.flush(&mut out);
        for effect in out {
            if let crate::directory::Effect::Delta { delta, .. } = effect {
                let event = crate::directory::Event::Delta { from: at, delta };
                self.directory.handle(now, event, &mut Vec::new());
            }
        }
        self.call(|host, world, out| host.encoder_changed(world, CAM, out))
    }
}

/// Where CAM is taken from, if that changed: another node, or the agent's leg; and by which feed.
fn taken(effects: &[Effect]) -> Option<(Option<NodeId>, u64)> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Route(CAM, Route::Relay { via, feed, .. }) => Some((Some(*via), *feed)),
        Effect::Route(CAM, Route::Local { feed, .. }) => Some((None, *feed)),
        _ => None,
    })
}

/// Whether the agent on the first session is asked to send, though it is at home elsewhere.
fn sends_also(effects: &[Effect]) -> Option<bool> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Send(SessionId(1), NodeMessage::Demand(demand)) => Some(demand.also),
        _ => None,
    })
}

impl Trial {
    /// A stream that is watched here and at home at node 2 comes from there.
    fn relayed(&mut self) -> u64 {
        self.claimed_by(node(2), epoch(1));
        let effects = self.call(|host, world, out| host.viewers(world, CAM, 1, out));
        let (via, feed) = taken(&effects).unwrap();
        assert_eq!(via, Some(node(2)));
        feed
    }

    fn silent(&mut self, feed: u64, silence: Silence) -> Vec<Effect> {
        self.call(|host, world, out| host.silent(world, CAM, feed, silence, out))
    }
}

#[test]
fn a_stream_that_home_does_not_bring_to_who_stands_by_comes_from_the_agent_itself() {
    let mut trial = Trial::new(3);
    trial.welcome(1);
    trial.register(1, Role::Next, epoch(1));
    let feed = trial.relayed();
    let quarter = Duration::from_millis(250);
    assert_eq!(taken(&trial.silent(feed + 1, Silence::After(quarter))), None, "no feed of ours");
    let effects = trial.silent(feed, Silence::After(quarter));
    let (from, local) = taken(&effects).unwrap();
    assert_eq!((from, sends_also(&effects)), (None, Some(true)));
    // Five seconds later home is tried again; the agent goes on until that has shown whether it brings
    // anything.
    trial.ms += 5000;
    let effects = trial.wake();
    let (from, again) = taken(&effects).unwrap();
    assert_eq!((from, sends_also(&effects)), (Some(node(2)), None));
    assert_eq!(taken(&trial.silent(local, Silence::After(quarter))), None, "it is over");
    let effects = trial.silent(again, Silence::Never(quarter));
    assert_eq!((taken(&effects).unwrap().0, sends_also(&effects)), (None, None));
    trial.ms += 5000;
    assert_eq!(taken(&trial.wake()).unwrap().0, Some(node(2)));
    trial.ms += 2000;
    let effects = trial.wake();
    assert_eq!((taken(&effects), sends_also(&effects)), (None, Some(false)));
    assert_eq!(trial.host.counters.detours, 2);
}

#[test]
fn who_stands_by_and_sends_nothing_either_is_not_asked_for_long() {
    let mut trial = Trial::new(3);
    trial.welcome(1);
    trial.register(1, Role::Next, epoch(1));
    let feed = trial.relayed();
    let second = Duration::from_secs(1);
    let (from, feed) = taken(&trial.silent(feed, Silence::After(second))).unwrap();
    assert_eq!(from, None);
    assert_eq!(taken(&trial.silent(feed, Silence::Never(second / 2))), None);
    let (from, feed) = taken(&trial.silent(feed, Silence::Never(second))).unwrap();
    assert_eq!(from, Some(node(2)));
    assert_eq!(taken(&trial.silent(feed, Silence::Never(second))), None, "not again at once");
    trial.ms += 5000;
    assert_eq!(taken(&trial.wake()), None);
    assert_eq!(taken(&trial.silent(feed, Silence::Never(second))).unwrap().0, None);
    // A camera without a picture brings none anywhere.
    let mut trial = Trial::new(3);
    trial.welcome(1);
    trial.register(1, Role::Next, epoch(1));
    let unplugged = SourceState::NoSignal("unplugged".into());
    let feed = trial.relayed();
    trial.claims(node(2), Boot(2), Some((epoch(1), unplugged)));
    assert_eq!(taken(&trial.silent(feed, Silence::After(second))), None);
}

fn outcome(effects: &[Effect]) -> Option<Outcome> {
    effects.iter().find_map(|effect| match effect {
        Effect::Moved(order, outcome) => {
            assert_eq!(order.ticket, 3);
            Some(outcome.clone())
        }
        _ => None,
    })
}

#[test]
fn a_move_that_cannot_be_is_refused_at_once_and_says_why() {
    let mut trial = Trial::new(3);
    let why = |effects: &[Effect]| match outcome(effects) {
        Some(Outcome::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(&trial.order(node(2))), "it is not at home at this node");
    trial.home(1, epoch(1));
    assert_eq!(why(&trial.order(node(1))), "it is at home there");
    assert!(why(&trial.order(node(9))).ends_with("is not up"));
    trial.candidates.retain(|candidate| candidate.node != node(3));
    assert!(why(&trial.order(node(3))).contains("takes no encoders"));
    trial.candidates[1].load = 9;
    assert!(why(&trial.order(node(2))).contains("is full: it takes 9 encoders"));
    trial.candidates[1].load = 8;
    assert_eq!(outcome(&trial.order(node(2))), None, "asked");
    assert_eq!(why(&trial.order(node(2))), "it is on its way already");
    trial.call(|host, world, out| host.closed(world, SessionId(1), out));
    assert_eq!(why(&trial.order(node(2))), "its agent is not connected");
}

#[test]
fn a_move_is_done_once_the_directory_shows_it() {
    for (at, done) in [(node(2), true), (node(3), false)] {
        let mut trial = Trial::new(3);
        trial.home(1, epoch(1));
        let asked = trial.order(node(2));
        let reason = "n1 is drained".to_owned();
        let asked_to = NodeMessage::Move(wire::Move { to: node(2), reason });
        assert!(asked.contains(&Effect::Send(SessionId(1), asked_to)), "{asked:?}");
        assert_eq!(trial.host.homes(), 1, "until it has gone");
        let effects = trial.claimed_by(at, epoch(2));
        assert_eq!(outcome(&effects) == Some(Outcome::Done), done, "{effects:?}");
        assert_eq!(trial.host.homes(), 0);
        assert_eq!(trial.host.counters.moved, [0, u64::from(done), 0, 0]);
        assert_eq!(trial.host.counters.moves_failed, u64::from(!done));
    }
}

#[test]
fn who_becomes_watched_is_called_back_unless_it_has_to_go() {
    for (cause, called_back) in
        [(Cause::Balance, true), (Cause::Preference, true), (Cause::Drain, false)]
    {
        let mut trial = Trial::new(3);
        trial.home(1, epoch(1));
        assert!(trial.host.may_go(CAM));
        let reason = "balance: n1 had 2, n2 0".to_owned();
        let order = Order { encoder: CAM, to: node(2), cause, reason, ticket: 3 };
        trial.call(|host, world, out| host.move_away(world, order, out));
        assert!(!trial.host.may_go(CAM), "it goes already");
        let effects = trial.call(|host, world, out| host.viewers(world, CAM, 1, out));
        let back = |effect: &Effect| matches!(effect, Effect::Send(SessionId(1), NodeMessage::Move(it)) if it.to == node(1));
        assert_eq!(effects.iter().any(back), called_back, "{cause:?}: {effects:?}");
        let again = trial.call(|host, world, out| host.viewers(world, CAM, 2, out));
        assert!(!again.iter().any(back), "once is enough");
        // It may have gone before it heard.
        let (mut gone, epoch) = (trial, epoch(2));
        let effects = gone.claimed_by(node(2), epoch);
        assert_eq!(outcome(&effects), Some(Outcome::Done));
    }
    let mut trial = Trial::new(3);
    trial.home(1, epoch(1));
    let reason = String::new();
    let order = Order { encoder: CAM, to: node(2), cause: Cause::Balance, reason, ticket: 3 };
    trial.call(|host, world, out| host.move_away(world, order, out));
    trial.call(|host, world, out| host.viewers(world, CAM, 1, out));
    let stayed = wire::Stayed { to: node(2), reason: "somebody watches it now".into() };
    let effects = trial.say(1, ClientMessage::Stayed(stayed));
    assert_eq!(outcome(&effects), Some(Outcome::Failed("somebody watches it now".into())));
    trial.call(|host, world, out| host.viewers(world, CAM, 0, out));
    assert!(!trial.host.may_go(CAM), "somebody watched a moment ago");
}

#[test]
fn a_move_that_fails_says_why_and_may_be_tried_again() {
    let mut trial = Trial::new(3);
    trial.home(1, epoch(1));
    trial.order(node(2));
    let stayed = wire::Stayed { to: node(2), reason: "it is full\n".into() };
    let effects = trial.say(1, ClientMessage::Stayed(stayed));
    let Some(Outcome::Failed(why)) = outcome(&effects) else { panic!("{effects:?}") };
    assert!(why.ends_with("did not take it: it is full"), "{why}");
    assert_eq!(outcome(&trial.order(node(2))), None);
    trial.ms += 7_000;
    assert!(trial.host.next_wake().unwrap().0 <= trial.ms * 1_000_000);
    let effects = trial.wake();
    assert!(matches!(outcome(&effects), Some(Outcome::Failed(_))), "{effects:?}");
}

#[test]
fn why_an_encoder_is_where_it_is_is_kept_on_one_line_and_short() {
    let mut trial = Trial::new(2);
    trial.welcome(1);
    let why = format!("less loaded\nthan n2 {}", "\u{1f426}".repeat(200));
    let register = wire::Register {
        encoder: CAM,
        name: "cam".into(),
        role: Role::Home,
        epoch: epoch(1),
        source: SourceState::Ready,
        home: None,
        lost_ms: None,
        why: Some(why),
    };
    trial.say(1, ClientMessage::Register(register));
    let entry = trial.directory.entry(node(1), CAM).expect("a claim");
    assert!(entry.why.starts_with("less loadedthan n2 "), "{}", entry.why);
    assert!(entry.why.len() <= crate::directory::WHY_MAX);
}

impl Trial {
    /// An encoder with this number, at home here over a session of the same number.
    fn settle_in(&mut self, number: u8) {
        let effects = self.comes(number, Role::Home);
        assert_eq!(rejection(&effects, number.into()), None);
    }

    /// An encoder of this number, over a session of the same.
    fn comes(&mut self, number: u8, role: Role) -> Vec<Effect> {
        self.welcome(number.into());
        let register = wire::Register {
            encoder: EncoderId([number; 16]),
            name: format!("cam-{number}"),
            role,
            epoch: epoch(1),
            source: SourceState::Ready,
            home: None,
            lost_ms: None,
            why: None,
        };
        self.say(number.into(), ClientMessage::Register(register))
    }

    fn drain_state(&mut self) -> DrainState {
        let mut state = DrainState::default();
        self.call(|host, world, _| state = host.drain_state(world));
        state
    }

    fn drain(&mut self, on: bool) -> Vec<Effect> {
        let mut all = std::mem::take(&mut self.candidates);
        all.append(&mut self.reluctant);
        let mine = |candidate: &Candidate| on && candidate.node == node(1);
        (self.reluctant, self.candidates) = all.into_iter().partition(mine);
        self.call(|host, world, out| {
            host.nodes_changed(world, out);
            host.drain(world, on, out);
        })
    }
}

fn sent_away(effects: &[Effect]) -> Vec<(u64, NodeId)> {
    let moves = effects.iter().filter_map(|effect| match effect {
        Effect::Send(session, NodeMessage::Move(order)) => Some((session.0, order.to)),
        _ => None,
    });
    moves.collect()
}

#[test]
fn a_node_is_emptied_idle_encoders_first_and_watched_ones_a_few_at_a_time() {
    let mut trial = Trial::new(3);
    trial.candidates.iter_mut().for_each(|candidate| candidate.limit = 1000);
    for number in 10..20 {
        trial.settle_in(number);
    }
    for number in 10..16 {
        let encoder = EncoderId([number; 16]);
        trial.call(|host, world, out| host.viewers(world, encoder, 1, out));
    }
    let first = sent_away(&trial.drain(true));
    let idle: Vec<u64> = first.iter().map(|(session, _)| *session).collect();
    assert_eq!(idle, [16, 17, 18, 19]);
    assert!(first.iter().all(|(_, to)| *to != node(1)));
    let state = trial.drain_state();
    assert_eq!((state.left, state.watched, state.moving, state.viewers), (10, 6, 4, 6));
    trial.ms += 100;
    assert_eq!(sent_away(&trial.wake()), [], "as many as may be are on their way");
    for session in idle {
        let to = first.iter().find(|(of, _)| *of == session).unwrap().1;
        let stayed = wire::Stayed { to, reason: "it is full".into() };
        trial.say(session, ClientMessage::Stayed(stayed));
    }
    trial.ms += 100;
    let watched: Vec<u64> = sent_away(&trial.wake()).iter().map(|(session, _)| *session).collect();
    assert_eq!(watched, [10, 11, 12, 13], "what just failed rests");
    let stuck = trial.drain_state().stuck;
    assert_eq!(stuck.len(), 4);
    assert!(stuck.iter().all(|it| it.reason.ends_with("it is full")), "{stuck:?}");
    assert_eq!(sent_away(&trial.drain(false)), []);
    assert!(!trial.drain_state().draining);
}

#[test]
fn what_cannot_leave_a_node_that_is_emptied_keeps_nothing_else_from_it() {
    let mut trial = Trial::new(3);
    trial.candidates.iter_mut().for_each(|candidate| candidate.limit = 100);
    let watch = |trial: &mut Trial, number: u8| {
        let encoder = EncoderId([number; 16]);
        trial.call(|host, world, out| host.viewers(world, encoder, 1, out));
    };
    publish(&mut trial, 10, "cam-10", EncoderId([10; 16]));
    trial.settle_in(50);
    watch(&mut trial, 50);
    let away = |effects: Vec<Effect>| -> Vec<u64> {
        sent_away(&effects).iter().map(|(session, _)| *session).collect()
    };
    assert_eq!(away(trial.drain(true)), [50], "though an idle publisher stays");
    assert!(away(trial.drain(false)).is_empty());

    // More than are looked at in one step.
    let mut trial = Trial::new(3);
    trial.candidates.iter_mut().for_each(|candidate| candidate.limit = 100);
    for number in 10..20 {
        publish(&mut trial, number.into(), &format!("cam-{number}"), EncoderId([number; 16]));
        watch(&mut trial, number);
    }
    trial.settle_in(50);
    watch(&mut trial, 50);
    assert!(away(trial.drain(true)).is_empty());
    trial.ms += 100;
    assert_eq!(away(trial.wake()), [50], "others have their turn");
}

#[test]
fn a_node_that_is_emptied_says_what_cannot_move_and_why_and_goes_on_when_it_can() {
    let mut trial = Trial::new(2);
    trial.home(1, epoch(1));
    let other = trial.candidates.remove(1);
    assert_eq!(sent_away(&trial.drain(true)), []);
    let stuck = trial.drain_state().stuck;
    assert!(stuck[0].reason.starts_with("no other node takes encoders"), "{stuck:?}");
    assert_eq!(trial.host.homes(), 1, "it stays where it is");
    trial.candidates.push(Candidate { load: 9, ..other });
    trial.drain(true);
    let stuck = trial.drain_state().stuck;
    assert_eq!(stuck[0].reason, "every other node is full (1 of them)");
    trial.candidates[0].load = 8;
    assert_eq!(sent_away(&trial.drain(true)), [(1, node(2))]);
}

#[test]
fn a_node_that_is_drained_or_cordoned_takes_what_has_nowhere_else_to_go() {
    let mut trial = Trial::new(2);
    trial.drain(true);
    let effects = trial.home(1, epoch(1));
    let rejected = rejection(&effects, 1).expect("another takes it");
    assert!(rejected.reason.contains("this node is drained") && !rejected.name_taken);
    // It stands by here and has lost its home, or there is no other.
    trial.register(1, Role::Next, epoch(1));
    let effects = trial.register(1, Role::Home, epoch(2));
    assert_eq!(rejection(&effects, 1), None);
    let mut trial = Trial::new(1);
    trial.drain(true);
    trial.welcome(1);
    let effects = trial.register(1, Role::Ask, epoch(1));
    let assigned = effects.iter().find_map(|effect| match effect {
        Effect::Send(_, NodeMessage::Assign(assign)) => Some(assign.clone()),
        _ => None,
    });
    let assigned = assigned.expect("a home");
    assert_eq!(assigned.home, node(1));
    assert!(assigned.reason.starts_with("every node is drained"), "{}", assigned.reason);
    assert_eq!(rejection(&trial.register(1, Role::Home, epoch(1)), 1), None);
}

fn publish(trial: &mut Trial, session: u64, name: &str, encoder: EncoderId) -> Vec<Effect> {
    let principal = crate::access::Principal::local();
    let publication = Publication { encoder, name: name.into(), instance: session, principal };
    trial.call(|host, world, out| {
        host.publisher_opened(world, SessionId(session), publication, out);
    })
}

fn refused(effects: &[Effect], session: u64) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        Effect::Close(to, reason) if to.0 == session => Some(reason.as_str()),
        _ => None,
    })
}

#[test]
fn a_publishers_leg_is_home_under_an_epoch_above_all_that_was_seen() {
    let mut trial = Trial::new(2);
    trial.directory.raise_floor(CAM, epoch(8));
    let effects = publish(&mut trial, 1, "cam", CAM);
    let entry = trial.directory.entry(node(1), CAM).expect("it is at home here");
    assert_eq!(entry.epoch, Epoch { counter: 9, instance: 1 });
    assert_eq!((entry.next, &entry.source), (Some(node(2)), &SourceState::Ready));
    assert!(effects.iter().any(|effect| matches!(
        effect,
        Effect::Route(_, Route::Local { session: SessionId(1), timeline: 1, .. })
    )));
}

#[test]
fn a_later_leg_of_the_same_publisher_supersedes_the_earlier_here_and_elsewhere() {
    let mut trial = Trial::new(2);
    publish(&mut trial, 1, "cam", CAM);
    let effects = publish(&mut trial, 2, "cam", CAM);
    assert!(rejection(&effects, 1).is_some(), "the first is told: {effects:?}");
    assert_eq!(trial.host.homes(), 1);
    let elsewhere = Epoch { counter: 40, instance: 9 };
    trial.directory.raise_floor(CAM, elsewhere);
    let effects = trial.call(|host, world, out| host.encoder_changed(world, CAM, out));
    assert_eq!(rejection(&effects, 2).map(|rejected| rejected.floor), Some(elsewhere));
    assert_eq!(trial.host.homes(), 0);
}

#[test]
fn a_publisher_that_vanished_leaves_no_signal_and_one_that_says_goodbye_nothing() {
    let mut trial = Trial::new(2);
    publish(&mut trial, 1, "cam", CAM);
    trial.call(|host, world, out| host.closed(world, SessionId(1), out));
    let entry = trial.directory.entry(node(1), CAM).expect("it stays listed");
    assert_eq!(entry.source, SourceState::NoSignal(AGENT_GONE.into()));
    publish(&mut trial, 2, "cam", CAM);
    trial.say(2, ClientMessage::Goodbye(wire::Goodbye { reason: "deleted".into() }));
    assert_eq!(trial.directory.entry(node(1), CAM), None);
}

#[test]
fn a_publisher_is_refused_a_name_that_another_encoder_holds_and_a_node_that_leaves() {
    let mut trial = Trial::new(2);
    trial.home(1, epoch(1));
    let other = EncoderId([8; 16]);
    let effects = publish(&mut trial, 2, "cam", other);
    assert!(refused(&effects, 2).is_some_and(|why| why.contains("another encoder")), "{effects:?}");
    trial.call(|host, world, out| host.leave(world, out));
    let effects = publish(&mut trial, 3, "else", other);
    assert!(refused(&effects, 3).is_some_and(|why| why.contains("shutting down")), "{effects:?}");
    assert_eq!(trial.host.counters.rejected, 2);
}

#[test]
fn after_a_stall_a_publisher_is_shown_again_once_it_is_known_to_be_current() {
    let mut trial = Trial::new(2);
    publish(&mut trial, 1, "cam", CAM);
    let effects = trial.call(|host, world, out| host.stalled(world, out));
    let question = effects.iter().find_map(|effect| match effect {
        Effect::Send(_, NodeMessage::Confirm(question)) => Some(question.clone()),
        _ => None,
    });
    assert!(effects.contains(&Effect::Route(CAM, Route::None)), "{effects:?}");
    let effects = trial.say(1, ClientMessage::Confirmed(question.expect("it is asked")));
    assert!(effects.iter().any(|e| matches!(e, Effect::Route(_, Route::Local { .. }))));
}

#[test]
fn a_publisher_sends_by_its_stream_key_and_ends_with_it_by_change_and_by_time() {
    let key = key_text(CAM, &[3; 20]);
    let other = EncoderId([8; 16]);
    for expires in [0, 5_000] {
        let mut trial = Trial::new(2);
        let kept = StreamKey { id: [1; 4], hash: key_hash(&key), made: 1, expires };
        trial.write(Kind::ENCODER, CAM.0, &[text(1, "cam"), Change::Add(2, kept.encode())]);
        let sender = trial.roster.authenticate(&trial.rights, false, Some(&key), trial.ms).unwrap();
        let publish = |trial: &mut Trial, session: u64, encoder| {
            let (name, principal) = ("cam".to_owned(), sender.clone());
            let publication = Publication { encoder, name, instance: session, principal };
            trial.call(|host, world, out| {
                host.publisher_opened(world, SessionId(session), publication, out);
            })
        };
        let effects = publish(&mut trial, 1, other);
        assert!(refused(&effects, 1).is_some_and(|why| why.contains("stream key")), "{effects:?}");
        assert_eq!((trial.host.homes(), trial.host.counters.forbidden), (0, 1));
        publish(&mut trial, 2, CAM);
        assert_eq!(trial.host.homes(), 1);
        let ended = if expires == 0 {
            trial.write(Kind::ENCODER, CAM.0, &[Change::Add(3, vec![1; 4])])
        } else {
            trial.ms = 15_001;
            trial.wake()
        };
        assert!(closed(&ended, 2), "{ended:?}");
        assert_eq!(trial.host.homes(), 0);
        assert!(closed(&publish(&mut trial, 3, CAM), 3), "and it opens none");
    }
}

#[test]
fn an_encoder_that_is_put_out_of_use_ends_its_publisher() {
    let mut trial = Trial::new(2);
    trial.site("publisher");
    publish(&mut trial, 1, "cam", CAM);
    assert_eq!(trial.host.homes(), 1);
    let ended = trial.write(Kind::ENCODER, CAM.0, &[Change::Disable]);
    assert!(closed(&ended, 1), "{ended:?}");
    assert_eq!(trial.host.homes(), 0);
}

#[test]
fn a_full_node_takes_no_publisher_but_the_one_it_has() {
    let mut trial = Trial::new(2);
    publish(&mut trial, 1, "cam", CAM);
    trial.candidates[0].limit = 1;
    let effects = publish(&mut trial, 2, "other", EncoderId([8; 16]));
    assert!(refused(&effects, 2).is_some_and(|why| why.contains("limit of 1")), "{effects:?}");
    assert!(refused(&publish(&mut trial, 3, "cam", CAM), 3).is_none());
}

#[test]
fn a_publisher_stays_where_a_node_is_drained_and_a_new_one_is_sent_on() {
    let mut trial = Trial::new(2);
    publish(&mut trial, 1, "cam", CAM);
    let moved = trial.order(node(2));
    assert!(matches!(outcome(&moved), Some(Outcome::Refused(why)) if why.contains("WHIP")));
    assert_eq!(sent_away(&trial.drain(true)), []);
    let state = trial.drain_state();
    assert_eq!(state.left, 1);
    assert!(state.stuck[0].reason.contains("when it starts anew"), "{state:?}");
    let again = publish(&mut trial, 2, "cam", CAM);
    assert_eq!(refused(&again, 2), None, "it is at home here");
    let other = publish(&mut trial, 3, "other", EncoderId([9; 16]));
    assert!(refused(&other, 3).is_some_and(|why| why.contains("drained")), "{other:?}");
}

const NORTH: [u8; 16] = [31; 16];

impl Trial {
    /// CAM prefers a pool of these nodes, or may be there only.
    fn steer(&mut self, nodes: &[u8], placement: &str) -> Vec<Effect> {
        let name = match self.records.contains_key(&Key { kind: Kind::POOL, id: RecordId(NORTH) }) {
            true => Vec::new(),
            false => vec![text(1, "north")],
        };
        let nodes = nodes.iter().map(|n| Change::Add(2, node(*n).0.to_vec()));
        let pool: Vec<Change> = name.into_iter().chain(nodes).collect();
        self.write(Kind::POOL, NORTH, &pool);
        self.write(Kind::ENCODER, CAM.0, &[Change::Set(5, NORTH.to_vec()), text(7, placement)]);
        self.call(|host, world, out| host.nodes_changed(world, out))
    }

    fn ask(&mut self, session: u64) -> Vec<Effect> {
        self.welcome(session);
        self.register(session, Role::Ask, epoch(1))
    }
}

fn assigned(effects: &[Effect]) -> Option<&wire::Assign> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send(_, NodeMessage::Assign(assign)) => Some(assign),
        _ => None,
    })
}

#[test]
fn who_asks_is_sent_into_its_pool_and_elsewhere_while_that_is_full_and_told_why() {
    let mut trial = Trial::new(4);
    trial.steer(&[2, 3], "prefer");
    let effects = trial.ask(1);
    let assign = assigned(&effects).unwrap();
    let both = BTreeSet::from([assign.home, assign.next.unwrap()]);
    assert_eq!(both, BTreeSet::from([node(2), node(3)]), "home and next");
    assert!(assign.reason.starts_with("pool north, "), "{}", assign.reason);
    for at in [1, 2] {
        trial.candidates[at].load = 9;
    }
    let effects = trial.ask(2);
    let assign = assigned(&effects).unwrap();
    assert!([node(1), node(4)].contains(&assign.home));
    assert!(assign.reason.starts_with("no room in pool north; "), "{}", assign.reason);
}

#[test]
fn clients_are_told_of_nodes_a_few_at_a_time_also_while_others_come_and_go() {
    let mut trial = Trial::new(3);
    for session in 1..=5 {
        trial.home(session, epoch(1));
    }
    let (ids, mut told) = (trial.host.session_ids(), Vec::new());
    let (mut next, mut new) = (Some(ids.start), 6);
    while let Some(start) = next {
        let effects = trial.call(|host, world, out| {
            next = host.tell_peers(world, start..ids.end, 2, out);
        });
        for effect in effects {
            let Effect::Tell(sessions, _) = effect else { panic!("{effect:?}") };
            told.extend(sessions.iter().map(|it| it.0));
        }
        trial.home(new, epoch(1));
        trial.call(|host, world, out| host.closed(world, SessionId(3), out));
        new += 1;
    }
    assert_eq!(told, [1, 2, 4, 5]);
}

#[test]
fn who_may_be_in_one_pool_only_is_refused_when_that_has_no_room_and_what_runs_stays() {
    let mut trial = Trial::new(3);
    trial.steer(&[3], "only");
    let full = |trial: &mut Trial| trial.candidates[2].load = 9;
    full(&mut trial);
    let effects = trial.ask(1);
    let rejected = rejection(&effects, 1).unwrap();
    assert!(rejected.reason.contains("pool north only"), "{}", rejected.reason);
    assert_eq!(rejected.retry_after, Some(5));
    // Who comes unasked is sent on, too.
    let effects = trial.home(2, epoch(2));
    let reason = &rejection(&effects, 2).unwrap().reason;
    assert!(reason.contains("not in pool north, where it has to be"), "{reason}");
    // Who is at home somewhere else already is left alone, also when labels change under way.
    let mut trial = Trial::new(3);
    trial.home(1, epoch(1));
    assert_eq!(rejection(&trial.steer(&[3], "only"), 1), None);
    assert!(trial.directory.entry(node(1), CAM).is_some());
    assert_eq!(trial.next(), Some(node(3)), "who stands by is in the pool from now on");
    let Some(Outcome::Refused(why)) = outcome(&trial.order(node(2))) else { panic!("goes") };
    assert!(why.contains("is not in pool north, where it has to be"), "{why}");
    assert_eq!(outcome(&trial.order(node(3))), None, "it is on its way");
}

#[test]
fn next_is_in_the_pool_once_all_is_stable_and_stays_when_it_leaves_for_nothing_better() {
    let mut trial = Trial::new(4);
    trial.home(1, epoch(1));
    let first = trial.next().unwrap();
    let other = (2..=4).map(node).find(|it| *it != first).unwrap();
    trial.steer(&[other.0[0]], "prefer");
    assert_eq!(trial.next(), Some(first), "a thousand agents do not dial the first one at once");
    let spread = |trial: &mut Trial, going: &[EncoderId]| {
        let (going, mut given) = (going.iter().copied().collect(), 0);
        trial.call(|host, world, out| given = host.spread_nexts(world, &going, out));
        given
    };
    assert_eq!(spread(&mut trial, &[CAM]), 0, "what goes gets another where it goes");
    assert_eq!((spread(&mut trial, &[]), trial.next()), (1, Some(other)));
    assert_eq!(spread(&mut trial, &[]), 0);
    let at = trial.candidates.iter().position(|it| it.node == other).unwrap();
    trial.candidates[at].load = 9;
    trial.call(|host, world, out| host.nodes_changed(world, out));
    assert_eq!(trial.next(), Some(other), "it is there, and may have room by then");
    let out = [Change::Remove(2, other.0.to_vec()), Change::Add(2, node(1).0.to_vec())];
    trial.write(Kind::POOL, NORTH, &out);
    trial.call(|host, world, out| host.nodes_changed(world, out));
    assert_eq!(trial.next(), Some(other), "nobody else is liked better");
}

#[test]
fn a_node_that_is_emptied_keeps_what_may_be_nowhere_else_and_says_so() {
    let mut trial = Trial::new(3);
    trial.steer(&[1], "only");
    trial.home(1, epoch(1));
    assert_eq!(sent_away(&trial.drain(true)), []);
    let stuck = trial.drain_state().stuck;
    assert!(stuck[0].reason.contains("pool north only"), "{stuck:?}");
    trial.steer(&[1, 2], "only");
    let effects = trial.call(|host, world, out| host.drain(world, true, out));
    assert_eq!(sent_away(&effects), [(1, node(2))]);
}

#[test]
fn a_publisher_is_taken_outside_of_its_pools_unless_it_has_to_be_there() {
    let mut trial = Trial::new(2);
    trial.steer(&[2], "only");
    let effects = publish(&mut trial, 1, "cam", CAM);
    let why = refused(&effects, 1).unwrap();
    assert!(why.contains("not in pool north") && why.contains("has room"), "{why}");
    trial.steer(&[2], "prefer");
    assert_eq!(refused(&publish(&mut trial, 2, "cam", CAM), 2), None);
    assert!(trial.directory.entry(node(1), CAM).unwrap().stays);
}

#[test]
fn a_node_that_goes_is_emptied_once_only_what_cannot_move_is_left() {
    let mut trial = Trial::new(3);
    trial.candidates.iter_mut().for_each(|candidate| candidate.limit = 100);
    trial.settle_in(10);
    publish(&mut trial, 11, "cam-11", EncoderId([11; 16]));
    assert!(!trial.host.is_emptied(), "nobody was asked yet");
    assert_eq!(sent_away(&trial.drain(true)).len(), 1);
    assert!(!trial.host.is_emptied(), "it is on its way");
    let stayed = wire::Stayed { to: trial.host.moving().next().unwrap().to, reason: "no".into() };
    trial.say(10, ClientMessage::Stayed(stayed));
    assert!(trial.host.is_emptied(), "it does not go, and the publisher cannot");
    // From here on everyone is told to go, and nobody is asked to move besides.
    trial.call(|host, world, out| host.leave(world, out));
    trial.ms += 6_000;
    assert_eq!(sent_away(&trial.drain(true)), []);
}

#[test]
fn who_stands_by_is_spread_evenly_by_weight_and_nobody_who_is_watched_is_given_another() {
    let mut trial = Trial::new(2);
    trial.candidates.iter_mut().for_each(|candidate| candidate.limit = 1000);
    for number in 10..30 {
        trial.settle_in(number);
    }
    // Until now only one could stand by.
    let watched: Vec<EncoderId> = (10..13).map(|number| EncoderId([number; 16])).collect();
    for encoder in &watched {
        trial.call(|host, world, out| host.viewers(world, *encoder, 1, out));
    }
    for (newcomer, weight) in [(3, 1.0), (4, 2.0)] {
        trial.alive.insert(node(newcomer));
        let node = node(newcomer);
        trial.candidates.push(Candidate {
            node,
            weight,
            load: 0,
            limit: 1000,
            media: Media::default(),
        });
    }
    trial.call(|host, world, out| host.nodes_changed(world, out));
    let counts = |trial: &Trial| {
        let next = |number: u8| trial.directory.entry(node(1), EncoderId([number; 16]))?.next;
        let mut counts = BTreeMap::new();
        (10..30).filter_map(next).for_each(|node| *counts.entry(node).or_insert(0) += 1);
        counts
    };
    assert_eq!(counts(&trial), BTreeMap::from([(node(2), 20)]), "nobody is told to go at once");
    let nobody = BTreeSet::new();
    let told =
        trial.call(|host, world, out| assert_eq!(host.spread_nexts(world, &nobody, out), 15));
    assert_eq!(counts(&trial), BTreeMap::from([(node(2), 5), (node(3), 5), (node(4), 10)]));
    let told = |session: u8| {
        told.iter().any(|it| matches!(it, Effect::Send(to, _) if to.0 == u64::from(session)))
    };
    assert!((10..13).all(|number| !told(number)));
    assert_eq!((13..30).filter(|number| told(*number)).count(), 15, "and nobody twice");
    let again =
        trial.call(|host, world, out| assert_eq!(host.spread_nexts(world, &nobody, out), 0));
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn those_of_a_room_come_to_one_node_share_who_stands_by_and_leave_together() {
    let mut trial = Trial::new(5);
    trial.candidates.iter_mut().for_each(|candidate| candidate.limit = 1000);
    let room = [61; 16];
    trial.write(Kind::ROOM, room, &[text(1, "hall")]);
    for number in 10..16 {
        let fields = [text(1, &format!("cam-{number}")), Change::Set(4, room.to_vec())];
        trial.write(Kind::ENCODER, [number; 16], &fields);
    }
    let first = trial.comes(10, Role::Ask);
    let home = assigned(&first).unwrap().home;
    for number in 11..16 {
        let effects = trial.comes(number, Role::Ask);
        let assign = assigned(&effects).unwrap();
        assert_eq!((assign.home, assign.next), (home, assigned(&first).unwrap().next));
        assert_eq!(assign.reason, "others of its room are there");
    }
    // Whoever is at home here goes together, though others are emptier by then.
    for number in 10..16 {
        trial.settle_in(number);
        if number == 12 {
            trial.candidates.iter_mut().for_each(|it| it.media.viewers = u32::from(it.node.0[0]));
        }
    }
    trial.wake();
    let next = |trial: &Trial, number: u8| {
        let entry = trial.directory.entry(node(1), EncoderId([number; 16]));
        entry.and_then(|entry| entry.next)
    };
    let nexts: BTreeSet<_> = (10..16).map(|number| next(&trial, number)).collect();
    assert_eq!(nexts.len(), 1, "{nexts:?}");
    // Of a room that next has no room for, all go where all have.
    let full = nexts.first().copied().flatten().unwrap();
    trial.candidates.iter_mut().filter(|it| it.node == full).for_each(|it| it.load = 997);
    let away: BTreeSet<NodeId> = sent_away(&trial.drain(true)).iter().map(|(_, to)| *to).collect();
    assert_eq!(away.len(), 1, "{away:?}");
    assert!(!away.contains(&full) && !away.contains(&node(1)));
}

#[test]
fn a_node_is_not_emptied_to_a_next_that_media_keeps_much_busier_than_another() {
    let mut trial = Trial::new(3);
    trial.home(1, epoch(1));
    let next = trial.next().unwrap();
    let other = (2..=3).map(node).find(|it| *it != next).unwrap();
    let busy = |trial: &mut Trial, viewers: u32| {
        let next = trial.candidates.iter_mut().filter(|it| it.node == next);
        next.for_each(|it| it.media.viewers = viewers);
        trial.drain_state().plan[0].to
    };
    assert_eq!(busy(&mut trial, 50), Some(next));
    assert_eq!(busy(&mut trial, 51), Some(other));
    assert_eq!(trial.next(), Some(next), "who stands by is left alone");
}

#[test]
fn who_stands_by_and_is_full_gives_way_to_a_node_with_room_and_to_no_other() {
    let mut trial = Trial::new(3);
    trial.home(1, epoch(1));
    let next = trial.next().unwrap();
    let other = (2..=3).map(node).find(|it| *it != next).unwrap();
    let given = |trial: &mut Trial, full: &[NodeId]| {
        for it in &mut trial.candidates {
            it.load = if full.contains(&it.node) { it.limit } else { 0 };
        }
        let mut given = 0;
        trial.call(|host, world, out| given = host.spread_nexts(world, &BTreeSet::new(), out));
        given
    };
    assert_eq!(given(&mut trial, &[next, other]), 0);
    assert_eq!(trial.next(), Some(next), "nobody is better");
    assert_eq!(given(&mut trial, &[next]), 1);
    assert_eq!(trial.next(), Some(other));
    assert_eq!(given(&mut trial, &[]), 0, "and nobody goes back");
}
