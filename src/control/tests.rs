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
            removed_kept: 0,
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
