//! Who is in after any history of admissions, revocations and readmissions on any sides of any
//! splits, merged in any order.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::{SeedableRng as _, seq::SliceRandom as _};

use super::*;
use crate::access::DEFAULT_DOMAIN;
use crate::id::StatementId;

const WALL: u64 = 1_800_000_000_000;

fn key(number: usize) -> Keypair {
    let mut seed = [7; 32];
    seed[..2].copy_from_slice(&(number as u16).to_le_bytes());
    Keypair::from_seed(seed)
}

fn id(number: usize) -> NodeId {
    key(number).node()
}

fn offer(roster: &Roster, by: usize, number: u8, uses: u32) -> Invite {
    let (by, mesh) = (key(by), roster.mesh());
    Invitation::make(&by, mesh, vec![], InviteId([number; 16]), [8; 32], WALL, uses).invite
}

fn admit(roster: &mut Roster, by: usize, newcomer: usize) {
    let invite = offer(roster, by, newcomer as u8, 1);
    admit_with(roster, by, newcomer, &invite);
}

fn admit_with(roster: &mut Roster, by: usize, newcomer: usize, invite: &Invite) {
    let admission = roster.admit(&key(by), key(newcomer).public(), invite);
    roster.adopt([admission]);
}

fn revoke(roster: &mut Roster, by: usize, node: usize) {
    let nonce = [roster.digest().count as u8; 16];
    let revocation = roster.revoke(&key(by), id(node), nonce, "stolen", vec![]);
    assert_eq!(roster.adopt([Statement::Revocation(revocation)]).len(), 1);
}

fn readmit(roster: &mut Roster, by: usize, node: usize) {
    let nonce = [roster.digest().count as u8; 16];
    if let Some(readmission) = roster.readmit(&key(by), id(node), nonce) {
        roster.adopt([Statement::Readmission(readmission)]);
    }
}

fn merge(into: &mut Roster, from: &Roster) {
    into.adopt(from.statements().cloned().collect::<Vec<_>>());
}

fn both(a: &Roster, b: &Roster) -> Roster {
    let (mut ab, mut ba) = (a.clone(), b.clone());
    merge(&mut ab, b);
    merge(&mut ba, a);
    agree(&ab, &ba);
    ab
}

fn agree(a: &Roster, b: &Roster) {
    assert_eq!(a.digest(), b.digest());
    assert_eq!(a.members().collect::<Vec<_>>(), b.members().collect::<Vec<_>>());
    assert_eq!(a.outcasts().collect::<Vec<_>>(), b.outcasts().collect::<Vec<_>>());
    for node in a.members() {
        assert_eq!(a.chain(node), b.chain(node));
        assert_eq!(a.key_of(node), b.key_of(node));
    }
}

/// The numbers of the members.
fn members(roster: &Roster) -> Vec<usize> {
    (0..32).filter(|number| roster.contains(id(*number))).collect()
}

/// Nodes 0 to 3, each admitted by the first.
fn four() -> Roster {
    let mut roster = Roster::found(&key(0), [1; 16]);
    (1..4).for_each(|newcomer| admit(&mut roster, 0, newcomer));
    roster
}

#[test]
fn a_founder_that_is_revoked_does_not_take_the_mesh_with_it() {
    let mut roster = four();
    revoke(&mut roster, 2, 0);
    assert_eq!(members(&roster), [1, 2, 3]);
    // The chain of what it did before stays good, for newcomers, too.
    admit(&mut roster, 1, 4);
    assert_eq!(members(&roster), [1, 2, 3, 4]);
    let chain = roster.chain(id(4)).unwrap();
    let (_, verdict) = four().judge(&chain, &[], &key(4).public(), roster.mesh());
    assert_eq!(verdict, Ok(id(4)));
}

#[test]
fn what_a_stolen_node_does_after_the_cut_is_void() {
    let base = four();
    let (mut mesh, mut thief) = (base.clone(), base.clone());
    revoke(&mut mesh, 1, 3);
    admit(&mut thief, 3, 5);
    admit(&mut thief, 5, 6);
    revoke(&mut thief, 3, 2);
    revoke(&mut thief, 5, 0);
    let mut merged = both(&mesh, &thief);
    assert_eq!(members(&merged), [0, 1, 2]);
    assert_eq!(merged.outcast(id(6)), Some(&Outcast::Unfounded));
    // Nor can it let itself in, nor can those that it let in.
    readmit(&mut merged, 5, 3);
    readmit(&mut merged, 3, 3);
    assert_eq!(members(&merged), [0, 1, 2]);
    for number in [3, 5, 6] {
        let chain = thief.chain(id(number)).unwrap();
        let (_, verdict) = mesh.judge(&chain, &[], &key(number).public(), mesh.mesh());
        assert!(verdict.is_err(), "{number} comes in");
    }
}

#[test]
fn an_invitation_of_a_stolen_node_is_void_wherever_it_is_used() {
    let base = four();
    let (mut mesh, mut other) = (base.clone(), base.clone());
    let early = offer(&base, 3, 77, 9);
    admit_with(&mut mesh, 1, 7, &early);
    revoke(&mut mesh, 1, 3);
    // Whoever has not heard of it takes the string.
    admit_with(&mut other, 2, 8, &early);
    let merged = both(&mesh, &other);
    assert_eq!(members(&merged), [0, 1, 2, 7], "only what was seen before the cut stays");
    let statement = crate::wire::join_statement(&[5; 32], &key(9).public());
    let proof = key_of_offer().sign(&statement);
    let refused = merged.check_invite(&early, &proof, &statement, 0);
    assert!(matches!(refused, Err(Refusal::Revoked { .. })), "{refused:?}");
    assert_eq!(base.check_invite(&early, &proof, &statement, 0), Ok(()));
}

fn key_of_offer() -> Keypair {
    Keypair::from_seed([8; 32])
}

#[test]
fn two_that_revoke_each_other_are_both_out_until_one_is_readmitted() {
    let base = four();
    let (mut left, mut right) = (base.clone(), base.clone());
    revoke(&mut left, 1, 2);
    revoke(&mut right, 2, 1);
    let merged = both(&left, &right);
    assert_eq!(members(&merged), [0, 3]);
    let mut again = merged.clone();
    readmit(&mut again, 3, 1);
    assert_eq!(members(&again), [0, 1, 3], "the other's revocation stands");
    // On the other side of a split somebody readmits the other.
    let mut also = merged.clone();
    readmit(&mut also, 0, 2);
    assert_eq!(members(&both(&again, &also)), [0, 1, 2, 3]);
    // A revocation that the readmission does not name stands.
    let mut third = merged;
    revoke(&mut third, 3, 1);
    assert_eq!(members(&both(&again, &third)), [0, 3]);
}

#[test]
fn of_two_that_are_all_there_is_either_may_take_its_own_word_back() {
    let mut base = Roster::found(&key(0), [1; 16]);
    admit(&mut base, 0, 1);
    let (mut left, mut right) = (base.clone(), base);
    revoke(&mut left, 0, 1);
    revoke(&mut right, 1, 0);
    let mut merged = both(&left, &right);
    assert_eq!(members(&merged), [0; 0]);
    // Nobody lets itself in.
    readmit(&mut merged, 1, 1);
    assert_eq!(members(&merged), [0; 0]);
    readmit(&mut merged, 1, 0);
    assert_eq!(members(&merged), [0]);
    readmit(&mut merged, 0, 1);
    assert_eq!(members(&merged), [0, 1]);
}

#[test]
fn a_stolen_node_cannot_take_back_what_it_said_before() {
    let mut mesh = four();
    revoke(&mut mesh, 1, 3);
    let mut thief = mesh.clone();
    revoke(&mut mesh, 2, 1);
    assert_eq!(members(&mesh), [0, 2]);
    readmit(&mut thief, 1, 3);
    assert_eq!(members(&both(&mesh, &thief)), [0, 2], "its readmission is beyond the cut");
}

#[test]
fn revocations_in_a_circle_all_stand_and_reach_no_further() {
    let base = four();
    let mut circle = base.clone();
    for (by, of) in [(1, 2), (2, 3), (3, 1)] {
        let mut side = base.clone();
        revoke(&mut side, by, of);
        circle = both(&circle, &side);
    }
    assert_eq!(members(&circle), [0]);
    // Without one of its links the rest is no circle: what stands voids the next.
    let mut again = circle.clone();
    readmit(&mut again, 0, 1);
    assert_eq!(members(&again), [0, 1, 3]);
    // One of them also revokes somebody who has nothing to do with it.
    let mut wild = base;
    revoke(&mut wild, 3, 0);
    let mut wild = both(&circle, &wild);
    assert_eq!(members(&wild), [0], "that is void while its author is out");
    // Then the readmission would put its own author out: it does not count.
    readmit(&mut wild, 0, 1);
    assert_eq!(members(&wild), [0]);
}

#[test]
fn of_a_circle_that_is_all_there_is_anyone_may_let_another_in() {
    let mut circle = Roster::found(&key(0), [1; 16]);
    admit(&mut circle, 0, 1);
    admit(&mut circle, 0, 2);
    let base = circle.clone();
    for (by, of) in [(0, 1), (1, 2), (2, 0)] {
        let mut side = base.clone();
        revoke(&mut side, by, of);
        circle = both(&circle, &side);
    }
    assert_eq!(members(&circle), [0; 0]);
    for (by, of) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        let mut again = circle.clone();
        readmit(&mut again, by, of);
        assert!(members(&again).contains(&of), "{by} lets {of} in: {:?}", members(&again));
        // And that one, in good standing, all others: what one of them said may count again then.
        for other in (0..6).map(|n| n % 3).filter(|other| *other != of) {
            if again.outcast(id(other)).is_some() {
                readmit(&mut again, of, other);
            }
        }
        assert_eq!(members(&again), [0, 1, 2], "{by} let {of} in");
    }
    // Once somebody is in, what is decided then is decided by those who are in.
    let mut again = circle;
    readmit(&mut again, 0, 1);
    let mut wild = again.clone();
    revoke(&mut again, 1, 0);
    revoke(&mut again, 1, 2);
    assert_eq!(members(&again), [1]);
    readmit(&mut wild, 0, 2);
    let mut all_known = both(&again, &wild);
    assert_eq!(members(&all_known), [1], "whoever is out lets nobody in");
    readmit(&mut all_known, 1, 2);
    assert_eq!(members(&all_known), [1, 2]);
}

#[test]
fn an_accomplice_does_not_void_the_revocation_that_voids_it() {
    let base = four();
    let (mut mesh, mut thief) = (base.clone(), base);
    revoke(&mut mesh, 1, 3);
    admit(&mut thief, 3, 5);
    revoke(&mut thief, 5, 1);
    assert_eq!(members(&both(&mesh, &thief)), [0, 1, 2]);
}

#[test]
fn the_last_to_use_an_invitation_too_often_are_out_the_same_at_every_node() {
    let base = four();
    let invite = offer(&base, 0, 50, 2);
    let (mut left, mut right) = (base.clone(), base);
    admit_with(&mut left, 1, 5, &invite);
    admit_with(&mut left, 1, 6, &invite);
    admit_with(&mut right, 2, 7, &invite);
    admit(&mut left, 6, 8);
    let mut merged = both(&left, &right);
    assert_eq!(members(&merged), [0, 1, 2, 3, 5, 7], "second on its side, and who it let in");
    assert_eq!(merged.outcast(id(6)), Some(&Outcast::Surplus));
    let refused = merged.judge(&left.chain(id(6)).unwrap(), &[], &key(6).public(), merged.mesh());
    assert_eq!(refused.1, Err(Refusal::Surplus { node: id(6) }));
    // A new invitation lets it in.
    admit(&mut merged, 3, 6);
    assert_eq!(members(&merged), [0, 1, 2, 3, 5, 6, 7, 8]);
}

fn rotate(roster: &mut Roster, old: &Keypair, number: u8) -> Keypair {
    let new = Keypair::of(old.node(), [number; 32]);
    let rebind = roster.rebind(old, &new).unwrap();
    assert_eq!(roster.adopt([Statement::Rebind(rebind)]).len(), 1);
    new
}

#[test]
fn a_key_is_changed_and_everything_that_was_signed_before_stays_good() {
    let mut roster = four();
    admit(&mut roster, 2, 5);
    let old = key(2);
    let token = issue_credential(&old, roster.mesh(), InviteId([3; 16]), DEFAULT_DOMAIN, WALL + 5);
    let new = rotate(&mut roster, &old, 99);
    for (is, key) in [(true, &old), (true, &new), (false, &key(9))] {
        assert_eq!(roster.member_with_key(&key.public()).is_some(), is);
    }
    assert_eq!(roster.key_of(id(2)), Some(old.public()), "the old one is in use");
    let before = roster.clone();
    let retire = roster.retire(&new, WALL).unwrap();
    roster.adopt([Statement::Retire(retire)]);
    assert_eq!(roster.member_with_key(&old.public()), None);
    assert_eq!(roster.key_of(id(2)), Some(new.public()));
    assert_eq!(members(&roster), [0, 1, 2, 3, 5]);
    let chain = roster.chain(id(5)).unwrap();
    let more = roster.rebinds(&chain);
    assert_eq!(
        verify_chain(None, &chain, &more, &key(5).public()),
        Ok((roster.mesh(), id(5))),
        "whoever it let in"
    );
    let own = roster.chain(id(2)).unwrap();
    let mine = verify_chain(None, &own, &roster.rebinds(&own), &new.public());
    assert_eq!(mine, Ok((roster.mesh(), id(2))));
    assert_eq!(verify_chain(None, &own, &[], &new.public()), Err(Refusal::NotYourAdmission));
    let (learned, verdict) =
        before.judge(&own, &roster.news(&[], 1 << 20), &old.public(), roster.mesh());
    assert_eq!((learned.len(), verdict), (1, Err(Refusal::FormerKey { node: id(2) })));
    // What the old key signed is good for a lifetime; what it signs later is not.
    assert!(roster.check_credential(&token, WALL).is_ok());
    let long = WALL + LIFETIME_MAX_MS + 1;
    let late = issue_credential(&old, roster.mesh(), InviteId([3; 16]), DEFAULT_DOMAIN, long);
    assert!(roster.check_credential(&late, WALL).is_err());
    let fresh = issue_credential(&new, roster.mesh(), InviteId([3; 16]), DEFAULT_DOMAIN, long);
    assert!(roster.check_credential(&fresh, WALL).is_ok());
    let mut thief = before;
    admit(&mut thief, 2, 6);
    merge(&mut thief, &roster);
    assert_eq!(members(&thief), [0, 1, 2, 3, 5], "the old key lets nobody in any more");
    // And again.
    let third = rotate(&mut roster, &new, 98);
    let retire = roster.retire(&third, WALL).unwrap();
    roster.adopt([Statement::Retire(retire)]);
    assert_eq!(roster.key_of(id(2)), Some(third.public()));
    let own = roster.chain(id(2)).unwrap();
    let mine = verify_chain(None, &own, &roster.rebinds(&own), &third.public());
    assert_eq!(mine, Ok((roster.mesh(), id(2))));
}

#[test]
fn a_thousand_statements_of_two_members_gone_wild_are_judged() {
    let mut roster = four();
    let mut wild = Vec::new();
    for number in 0..500u16 {
        let mut nonce = [0; 16];
        nonce[..2].copy_from_slice(&number.to_le_bytes());
        for (by, of) in [(1, 2), (2, 1)] {
            wild.push(Statement::Revocation(four().revoke(&key(by), id(of), nonce, "", vec![])));
        }
    }
    roster.adopt(wild);
    assert_eq!(members(&roster), [0, 3]);
}

#[derive(Debug, Clone)]
enum Step {
    Admit(usize, usize, usize),
    Invited(usize, usize, usize),
    Revoke(usize, usize, usize),
    Readmit(usize, usize, usize),
    Rotate(usize, usize),
    Merge(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = (0u8..12, 0usize..3, 0usize..8, 0usize..8);
    let step = one.prop_map(|(kind, side, a, b)| match kind {
        0..=2 => Step::Admit(side, a, b),
        3 => Step::Invited(side, a, b),
        4..=7 => Step::Revoke(side, a, b),
        8 | 9 => Step::Readmit(side, a, b),
        10 => Step::Rotate(side, a),
        _ => Step::Merge(side, a % 3),
    });
    prop::collection::vec(step, 1..40)
}

/// Plays a history on three sides; everyone acts, be it in or out, as thieves do.
fn play(steps: &[Step]) -> [Roster; 3] {
    let base = four();
    let shared = offer(&base, 0, 200, 2);
    let mut sides = [base.clone(), base.clone(), base];
    for step in steps {
        match *step {
            Step::Admit(side, by, of) => admit(&mut sides[side], by, of),
            Step::Invited(side, by, of) => admit_with(&mut sides[side], by, of, &shared),
            Step::Revoke(side, by, of) => {
                let nonce = [sides[side].digest().count as u8; 16];
                let revocation = sides[side].revoke(&key(by), id(of), nonce, "", vec![]);
                sides[side].adopt([Statement::Revocation(revocation)]);
            }
            Step::Readmit(side, by, of) => readmit(&mut sides[side], by, of),
            Step::Rotate(side, of) => {
                let old = key(of);
                let new = Keypair::of(old.node(), [100 + of as u8; 32]);
                if let Some(rebind) = sides[side].rebind(&old, &new) {
                    sides[side].adopt([Statement::Rebind(rebind)]);
                    let retire = sides[side].retire(&new, WALL).unwrap();
                    sides[side].adopt([Statement::Retire(retire)]);
                }
            }
            Step::Merge(into, from) => {
                let from = sides[from].clone();
                merge(&mut sides[into], &from);
            }
        }
    }
    sides
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn who_is_in_follows_from_what_was_said_and_not_from_its_order(
        steps in steps(), shuffle in any::<u64>(),
    ) {
        let [a, b, c] = play(&steps);
        // Commutative, associative, idempotent.
        let ab = both(&a, &b);
        let left = both(&ab, &c);
        let right = both(&a, &both(&b, &c));
        agree(&left, &right);
        agree(&both(&left, &ab), &left);
        let mut all: Vec<Statement> = left.statements().cloned().collect();
        all.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(shuffle));
        agree(&Roster::from_statements(left.mesh(), all.clone()), &left);
        // One at a time, by whoever hears it, also twice.
        let mut slow = Roster::from_statements(left.mesh(), Vec::<Statement>::new());
        for _round in 0..all.len() {
            let before = slow.digest();
            for statement in &all {
                slow.adopt([statement.clone()]);
            }
            if slow.digest() == before {
                break;
            }
        }
        agree(&slow, &left);
    }

    #[test]
    fn nobody_is_in_by_what_a_standing_revocation_voids(steps in steps()) {
        let [a, b, c] = play(&steps);
        let all = both(&both(&a, &b), &c);
        let mut cuts: Vec<(NodeId, BTreeSet<StatementId>)> = Vec::new();
        for (node, why) in all.outcasts() {
            prop_assert!(!all.contains(node));
            if let Outcast::Revoked(by) = why {
                cuts.extend(by.iter().map(|(_, it)| (node, it.cut.iter().copied().collect())));
            }
        }
        for node in all.members() {
            prop_assert!(all.outcast(node).is_none());
            for admission in all.chain(node).unwrap() {
                let id = Statement::Admission(admission.clone()).id(all.mesh());
                let acts = [Some(admission.by), admission.terms.map(|terms| terms.by)];
                for (out, cut) in &cuts {
                    let founder = admission.by == admission.node;
                    prop_assert!(
                        founder || !acts.contains(&Some(*out)) || cut.contains(&id),
                        "{} is in by {}", node, out
                    );
                }
            }
        }
    }

    #[test]
    fn a_changed_statement_is_never_accepted(
        steps in steps(),
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let [a, _, _] = play(&steps);
        let all: Vec<Statement> = a.statements().cloned().collect();
        let mut bytes = postcard::to_allocvec(&all[which.index(all.len())]).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = postcard::from_bytes::<Statement>(&bytes)
            && !all.contains(&changed)
        {
            prop_assert_eq!(a.clone().adopt([changed]), vec![]);
        }
    }
}
