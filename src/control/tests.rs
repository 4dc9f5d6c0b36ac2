use super::*;
use crate::admission::{Invitation, Statement};
use crate::id::InviteId;

/// A control and what it still has to say to the other one.
struct Side {
    control: Control,
    effects: Vec<Effect>,
}

impl Side {
    fn start(keypair: &Keypair, boot: u64, roster: &Roster, now: Now) -> Self {
        let config = Config {
            keypair: keypair.clone(),
            next_key: None,
            name: "n".into(),
            addrs: vec!["a:1".into()],
            boot: Boot(boot),
            roster: roster.clone(),
            remembered: Vec::new(),
            names: Vec::new(),
            spare: accounts::Spare { removed: 0, idle: 3 },
            measured: 100,
            seeds: Vec::new(),
            ledger: accounts::Loaded::default(),
            seed: [u8::try_from(boot).unwrap(); 32],
        };
        let mut effects = Vec::new();
        let control = Control::new(config, now, &mut effects);
        Self { control, effects }
    }

    fn handle(&mut self, now: Now, event: Event) {
        self.control.handle(now, event, &mut self.effects);
    }

    fn link(&mut self, now: Now, node: NodeId) {
        let (addrs, learned, wall) = (vec!["a:1".into()], Vec::new(), now.wall);
        self.handle(now, Event::LinkUp { node, addrs, learned, wall });
    }

    /// What it says, as events of the other one; the rest of its effects.
    fn say(&mut self) -> (Vec<Event>, Vec<Effect>) {
        let (mut said, mut rest) = (Vec::new(), Vec::new());
        let me = self.control.me();
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Send(_, bytes) => said.push(Event::Message(me, bytes)),
                Effect::Datagram(_, bytes) => said.push(Event::Datagram(me, bytes)),
                other => rest.push(other),
            }
        }
        (said, rest)
    }
}

#[test]
fn a_boot_that_others_know_and_this_node_does_not_is_to_be_stored() {
    let (founder, member) = (Keypair::from_seed([1; 32]), Keypair::from_seed([2; 32]));
    let mut roster = Roster::found(&founder, [3; 16]);
    let (id, mesh) = (InviteId([4; 16]), roster.mesh());
    let invitation = Invitation::make(&founder, mesh, vec![], id, [8; 32], u64::MAX, 9);
    let admission = roster.admit(&founder, member.public(), &invitation.invite);
    roster.adopt(vec![admission]);
    let mut now = Now { mono: Mono(1_000_000_000), wall: 0 };
    let mut one = Side::start(&founder, 1, &roster, now);
    let (mut told, mut warned) = (Vec::new(), Vec::new());
    // The second start is from an older folder, before the first was missed.
    for boot in [7, 3] {
        let mut two = Side::start(&member, boot, &roster, now);
        one.link(now, member.node());
        two.link(now, founder.node());
        for _ in 0..100 {
            now.mono = now.mono + Duration::from_millis(20);
            one.handle(now, Event::Wake);
            two.handle(now, Event::Wake);
            let (to_two, _) = one.say();
            let (to_one, rest) = two.say();
            to_two.into_iter().for_each(|event| two.handle(now, event));
            to_one.into_iter().for_each(|event| one.handle(now, event));
            told.extend(rest.into_iter().filter_map(|effect| match effect {
                Effect::Boot(boot) => Some(boot),
                Effect::Note(Note::Outgrown(boot)) => {
                    warned.push(boot);
                    None
                }
                _ => None,
            }));
        }
        assert!(one.control.alive().contains(&member.node()), "they met");
        one.handle(now, Event::LinkDown(member.node()));
    }
    assert_eq!(told, [Boot(7)], "once, and only the older folder");
    assert_eq!(warned, [Boot(7)], "and people are told");
}

#[test]
fn a_revocation_goes_out_before_the_link_ends_and_nothing_is_heard_of_the_node_after() {
    let (founder, member) = (Keypair::from_seed([1; 32]), Keypair::from_seed([2; 32]));
    let mut roster = Roster::found(&founder, [3; 16]);
    let (id, mesh) = (InviteId([4; 16]), roster.mesh());
    let invitation = Invitation::make(&founder, mesh, vec![], id, [8; 32], u64::MAX, 9);
    let admission = roster.admit(&founder, member.public(), &invitation.invite);
    roster.adopt(vec![admission]);
    let now = Now { mono: Mono(1_000_000_000), wall: 0 };
    let mut one = Side::start(&founder, 1, &roster, now);
    let node = member.node();
    one.link(now, node);
    one.effects.clear();
    let reason = "stolen".to_owned();
    one.handle(now, Event::Revoke { ticket: 7, node, nonce: [1; 16], reason });
    let at = |wanted: &dyn Fn(&Effect) -> bool| one.effects.iter().position(wanted).unwrap();
    let written = at(&|it| matches!(it, Effect::Statements(..)));
    let told = at(&|it| matches!(it, Effect::Send(to, _) if *to == node));
    let ended = at(&|it| matches!(it, Effect::Expel(of, _) if *of == node));
    let answered = at(&|it| matches!(it, Effect::Decreed { ticket: 7, result: Ok(()) }));
    assert!(written < told && told < ended && ended < answered);
    assert!(!one.control.peers().nodes.iter().any(|peer| peer.node == node));
    one.effects.clear();
    // What it sent before, or sends on a connection that lingers.
    let late = one.control.roster().revoke(&member, founder.node(), [2; 16], "", vec![]);
    let late = Statements(vec![Statement::Revocation(late)]);
    one.handle(now, Event::Message(node, LinkMessage::Statements(late).encode()));
    one.handle(now, Event::Datagram(node, vec![2]));
    one.handle(now, Event::LinkUp { node, addrs: vec![], learned: vec![], wall: 0 });
    assert_eq!(one.control.counters().unlinked, 2);
    assert!(one.control.roster().contains(founder.node()));
    assert!(one.control.linked().is_empty(), "a handshake judged by an older roster");
    assert!(one.effects.iter().any(|it| matches!(it, Effect::Expel(of, _) if *of == node)));
}

/// Members that hear each other at once where there is a link.
struct Mesh {
    now: Now,
    sides: Vec<Side>,
    links: BTreeSet<(usize, usize)>,
}

impl Mesh {
    fn new(count: u8) -> Self {
        let keys: Vec<Keypair> = (1..=count).map(|n| Keypair::from_seed([n; 32])).collect();
        let mut roster = Roster::found(&keys[0], [3; 16]);
        let (id, mesh) = (InviteId([4; 16]), roster.mesh());
        let invitation = Invitation::make(&keys[0], mesh, vec![], id, [8; 32], u64::MAX, 9);
        let others = keys[1..].iter();
        let admit = |key: &Keypair| roster.admit(&keys[0], key.public(), &invitation.invite);
        let admissions: Vec<_> = others.map(admit).collect();
        roster.adopt(admissions);
        let now = Now { mono: Mono(1_000_000_000), wall: 0 };
        let starts = keys.iter().zip(1..).map(|(key, n)| Side::start(key, n, &roster, now));
        Self { now, sides: starts.collect(), links: BTreeSet::new() }
    }

    fn id(&self, ix: usize) -> NodeId {
        self.sides[ix].control.me()
    }

    fn link(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            self.links.insert((from, to));
            let (now, node) = (self.now, self.id(to));
            self.sides[from].link(now, node);
        }
    }

    fn unlink(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            self.links.remove(&(from, to));
            let (now, node) = (self.now, self.id(to));
            self.sides[from].handle(now, Event::LinkDown(node));
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 5 {
            self.now.mono = self.now.mono + Duration::from_millis(5);
            for side in &mut self.sides {
                side.handle(self.now, Event::Wake);
            }
            for from in 0..self.sides.len() {
                let me = self.id(from);
                for effect in std::mem::take(&mut self.sides[from].effects) {
                    let (to, event) = match effect {
                        Effect::Send(to, bytes) => (to, Event::Message(me, bytes)),
                        Effect::Datagram(to, bytes) => (to, Event::Datagram(me, bytes)),
                        _ => continue,
                    };
                    let to = (0..self.sides.len()).find(|ix| self.id(*ix) == to).unwrap();
                    if self.links.contains(&(from, to)) {
                        self.sides[to].handle(self.now, event);
                    }
                }
            }
        }
    }

    /// Whom `of` lacks as `at` knows.
    fn lacking(&self, at: usize, of: usize) -> Vec<usize> {
        let header = self.sides[at].control.directory().header(self.id(of)).unwrap();
        (0..self.sides.len()).filter(|ix| header.lacking.contains(&self.id(*ix))).collect()
    }

    /// How often `of` has said anything.
    fn said(&self, of: usize) -> u64 {
        let digest = self.sides[of].control.directory().digest();
        digest.of[&self.id(of)].1
    }
}

#[test]
fn links_that_come_up_are_not_told_one_that_is_lost_is_and_one_that_does_not_come_up_is() {
    let mut mesh = Mesh::new(4);
    for (a, b) in [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3)] {
        mesh.link(a, b);
        mesh.run(50);
    }
    assert!((0..4).all(|of| mesh.said(of) == 1 && mesh.lacking(0, of).is_empty()));
    mesh.run(1500);
    assert_eq!((mesh.lacking(0, 2), mesh.lacking(0, 3)), (vec![3], vec![2]));
    assert_eq!(mesh.lacking(3, 2), [3], "it is passed on to whom it is about");
    mesh.link(2, 3);
    mesh.run(300);
    assert!((0..4).all(|of| mesh.lacking(0, of).is_empty()));
    let before = mesh.said(0);
    mesh.unlink(0, 1);
    mesh.link(0, 1);
    mesh.run(1000);
    assert_eq!(mesh.said(0), before, "another link took its place");
    mesh.unlink(0, 1);
    mesh.run(100);
    assert_eq!(mesh.said(0), before);
    mesh.run(200);
    assert_eq!((mesh.lacking(2, 0), mesh.lacking(1, 0)), (vec![1], vec![1]));
}

#[test]
fn a_death_is_not_told_by_headers_and_whoever_was_named_before_stays() {
    let mut mesh = Mesh::new(3);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        mesh.link(a, b);
    }
    mesh.run(1000);
    let before = mesh.said(0);
    mesh.unlink(1, 2);
    mesh.run(400);
    assert_eq!(mesh.lacking(0, 1), [2]);
    // The process is gone; the link breaks later.
    mesh.links.retain(|(a, b)| *a != 2 && *b != 2);
    mesh.run(2500);
    let dead = mesh.id(2);
    assert!(!mesh.sides[0].control.alive().contains(&dead));
    let now = mesh.now;
    mesh.sides[0].handle(now, Event::LinkDown(dead));
    mesh.run(2000);
    assert_eq!(mesh.said(0), before);
    assert_eq!(mesh.lacking(0, 1), [2]);
}

#[test]
fn what_a_node_says_of_its_media_counts_while_it_is_fresh_and_its_size_as_far_as_it_is_possible() {
    let (founder, member) = (Keypair::from_seed([1; 32]), Keypair::from_seed([2; 32]));
    let mut roster = Roster::found(&founder, [3; 16]);
    let (id, mesh) = (InviteId([4; 16]), roster.mesh());
    let invitation = Invitation::make(&founder, mesh, vec![], id, [8; 32], u64::MAX, 9);
    let admission = roster.admit(&founder, member.public(), &invitation.invite);
    roster.adopt(vec![admission]);
    let mut now = Now { mono: Mono(1_000_000_000), wall: 0 };
    let (mut one, node) = (Side::start(&founder, 1, &roster, now), member.node());
    let report = NodeReport { viewers: 7, egress_bps: 5_000_000, wall: 1, ..Default::default() };
    let hear = |one: &mut Side, now, wall| {
        let report = NodeReport { wall, ..report.clone() };
        one.handle(now, Event::Reports(BTreeMap::from([(node, report)])));
        one.control.candidate(node).media.units()
    };
    assert_eq!(hear(&mut one, now, 1), 12);
    now.mono = now.mono + Duration::from_secs(29);
    assert_eq!(hear(&mut one, now, 1), 12);
    now.mono = now.mono + Duration::from_secs(1);
    assert_eq!(hear(&mut one, now, 1), 0, "it has not said anything since");
    assert_eq!(hear(&mut one, now, 2), 12);
    let own = NodeReport { streams: 1, viewers: 2, ..NodeReport::default() };
    one.handle(now, Event::Report(own.clone()));
    assert_eq!(one.control.candidate(founder.node()).media, own.media());

    for (declared, measured, weight) in
        [(None, 400, 4.0), (Some(50), 400, 0.5), (None, 0, 1.0), (None, u32::MAX, 1_024.0)]
    {
        let header = directory::Header { capacity: declared, measured, ..Default::default() };
        let mut other = Directory::new(node, Boot(2));
        let mut told = Vec::new();
        other.handle(now, directory::Event::Linked(founder.node()), &mut told);
        other.put_header(header);
        other.flush(&mut told);
        one.link(now, node);
        for effect in told {
            if let directory::Effect::Delta { delta, .. } = effect {
                let message = LinkMessage::DirectoryDelta(delta).encode();
                one.handle(now, Event::Message(node, message));
            }
        }
        let found = one.control.candidate(node).weight;
        assert!((found - weight).abs() < 1e-9, "{declared:?}, {measured}: {found}");
        one.handle(now, Event::LinkDown(node));
        now.mono = now.mono + Duration::from_secs(1);
        one = Side::start(&founder, 1, &roster, now);
    }
}
