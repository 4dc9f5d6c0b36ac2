use crdts::{CmRDT, MVReg, Orswot};
use proptest::prelude::*;

use super::*;
use crate::accounts::{FORMER_WRITES, HISTORY_MAX};

const FIELD: u16 = 1;
const SET: u16 = 2;

/// What one of some replicas does.
#[derive(Debug, Clone)]
enum Act {
    Write(usize, Change),
    Merge(usize, usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let element = (0u8..4).prop_map(|element| vec![element]);
    let change = prop_oneof![
        3 => (FIELD..FIELD + 2).prop_map(|field| Change::Set(field, Vec::new())),
        3 => element.clone().prop_map(|element| Change::Add(SET, element)),
        2 => element.prop_map(|element| Change::Remove(SET, element)),
        1 => Just(Change::Disable),
        1 => Just(Change::Enable),
    ];
    let act = prop_oneof![
        2 => (0usize..4, change).prop_map(|(at, change)| Act::Write(at, change)),
        1 => (0usize..4, 0usize..4).prop_map(|(to, from)| Act::Merge(to, from)),
    ];
    proptest::collection::vec(act, 0..60)
}

fn actor(n: usize) -> ActorId {
    ActorId([n as u8 + 1; 16])
}

fn stamp(wall: u64) -> Stamp {
    Stamp { account: AccountId([9; 16]), node: NodeId([8; 16]), wall }
}

/// Two replicas write at each of two nodes.
fn node_of(at: usize) -> NodeId {
    NodeId([8 + at as u8 / 2; 16])
}

fn write(record: &mut Record, at: usize, seq: u64, change: Change) {
    let dot = Dot { actor: actor(at), seq, nonce: [0; 4] };
    let by = Stamp { node: node_of(at), ..stamp(seq % 7) };
    record.apply(dot, by, &[change]).unwrap();
}

/// Replicas with what the crdts crate makes of the same history, and a model of disabling.
#[derive(Default, Clone)]
struct Replica {
    record: Record,
    registers: [MVReg<u64, usize>; 2],
    set: Orswot<u8, usize>,
    known: BTreeSet<u64>,
    /// Every change, by what orders them.
    past: BTreeMap<(u32, u64, Dot), Touched>,
}

struct World {
    replicas: Vec<Replica>,
    /// Disablings, and what each enabling had seen.
    disables: Vec<u64>,
    enables: Vec<BTreeSet<u64>>,
}

fn play(acts: &[Act]) -> World {
    let mut world =
        World { replicas: vec![Replica::default(); 4], disables: vec![], enables: vec![] };
    for (n, act) in acts.iter().enumerate() {
        let n = n as u64 + 1;
        match act {
            Act::Write(at, change) => {
                let replica = &mut world.replicas[*at];
                let mut change = change.clone();
                match &mut change {
                    Change::Set(field, value) => {
                        *value = n.to_le_bytes().to_vec();
                        let register = &mut replica.registers[usize::from(*field - FIELD)];
                        let op = register.write(n, register.read_ctx().derive_add_ctx(*at));
                        register.apply(op);
                    }
                    Change::Add(_, element) => {
                        let context = replica.set.read_ctx().derive_add_ctx(*at);
                        let op = replica.set.add(element[0], context);
                        replica.set.apply(op);
                    }
                    Change::Remove(_, element) => {
                        let context = replica.set.contains(&element[0]).derive_rm_ctx();
                        let op = replica.set.rm(element[0], context);
                        replica.set.apply(op);
                    }
                    Change::Disable => world.disables.push(n),
                    Change::Enable => world.enables.push(replica.known.clone()),
                    _ => {}
                }
                replica.known.insert(n);
                let rank = replica.past.keys().last().map_or(0, |(rank, ..)| *rank) + 1;
                let dot = Dot { actor: actor(*at), seq: n, nonce: [0; 4] };
                let touched = match change {
                    Change::Set(field, _) => Touched::Set(field),
                    Change::Add(set, _) => Touched::Add(set),
                    Change::Remove(set, _) => Touched::Remove(set),
                    Change::Disable => Touched::Disable,
                    _ => Touched::Enable,
                };
                replica.past.insert((rank, stamp(n % 7).wall, dot), touched);
                write(&mut replica.record, *at, n, change);
            }
            Act::Merge(to, from) => {
                let other = world.replicas[*from].clone();
                let replica = &mut world.replicas[*to];
                replica.record.merge(other.record);
                for (mine, theirs) in replica.registers.iter_mut().zip(other.registers) {
                    mine.merge(theirs);
                }
                replica.set.merge(other.set);
                replica.known.extend(other.known);
                replica.past.extend(other.past);
            }
        }
    }
    world
}

fn merged(a: &Record, b: &Record) -> Record {
    let mut merged = a.clone();
    merged.merge(b.clone());
    merged
}

proptest! {
    #[test]
    fn merging_is_commutative_associative_and_idempotent(acts in acts()) {
        let world = play(&acts);
        let states: Vec<_> = world.replicas.into_iter().map(|replica| replica.record).collect();
        let (a, b, c) = (&states[0], &states[1], &states[2]);
        prop_assert_eq!(merged(a, b).encode(), merged(b, a).encode());
        prop_assert_eq!(merged(&merged(a, b), c).encode(), merged(a, &merged(b, c)).encode());
        prop_assert_eq!(merged(a, a).encode(), a.encode());
        prop_assert_eq!(&merged(&merged(a, b), b), &merged(a, b));
    }

    #[test]
    fn the_writes_that_a_state_includes_decide_it(acts in acts()) {
        let states: Vec<_> = play(&acts).replicas.into_iter().map(|r| r.record).collect();
        let all: Vec<_> =
            states.iter().flat_map(|a| states.iter().map(|b| merged(a, b))).collect();
        for a in &all {
            for b in &all {
                prop_assert_eq!(a.dots == b.dots, a.encode() == b.encode());
            }
        }
    }

    #[test]
    fn a_state_survives_its_bytes(acts in acts()) {
        for replica in play(&acts).replicas {
            let bytes = replica.record.encode();
            let decoded = Record::decode(&bytes).unwrap();
            prop_assert_eq!(&decoded, &replica.record);
            for cut in 0..bytes.len() {
                drop(Record::decode(&bytes[..cut]));
            }
        }
    }

    #[test]
    fn registers_and_sets_hold_what_those_of_the_crdts_crate_hold(acts in acts()) {
        for replica in play(&acts).replicas {
            for (n, register) in replica.registers.iter().enumerate() {
                let mut expected: Vec<u64> = register.read().val;
                let values = replica.record.values(FIELD + n as u16);
                let values = values.iter().map(|v| u64::from_le_bytes(v.value.try_into().unwrap()));
                let mut values: Vec<u64> = values.collect();
                expected.sort_unstable();
                values.sort_unstable();
                prop_assert_eq!(values, expected);
            }
            let expected: BTreeSet<u8> = replica.set.read().val.into_iter().collect();
            let elements: BTreeSet<u8> = replica.record.elements(SET).map(|e| e[0]).collect();
            prop_assert_eq!(elements, expected);
        }
    }

    #[test]
    fn the_newest_changes_are_remembered_whatever_the_order_of_merging(acts in acts()) {
        for replica in play(&acts).replicas {
            let newest = replica.past.iter().rev().take(HISTORY_MAX);
            let expected: Vec<_> =
                newest.map(|((_, wall, dot), touched)| (*wall, *dot, vec![*touched])).collect();
            let found: Vec<_> =
                replica.record.history().map(|e| (e.by.wall, e.dot, e.what)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_record_is_off_while_a_disabling_stands_that_no_enabling_has_seen(acts in acts()) {
        let world = play(&acts);
        let states = world.replicas.iter().map(|replica| &replica.record);
        let all = states.fold(Record::default(), |sum, record| merged(&sum, record));
        let stands = |n: &u64| !world.enables.iter().any(|seen| seen.contains(n));
        prop_assert_eq!(all.is_off(), world.disables.iter().any(stands));
    }
}

/// Counting epochs, as max over (epoch, off), would let the second enabling win.
#[test]
fn a_revocation_wins_over_enabling_twice_on_the_other_side() {
    let mut one = Record::default();
    write(&mut one, 0, 1, Change::Set(FIELD, vec![1]));
    let mut other = one.clone();
    for (seq, change) in
        [Change::Disable, Change::Enable, Change::Disable, Change::Enable].into_iter().enumerate()
    {
        write(&mut one, 0, seq as u64 + 2, change);
    }
    write(&mut other, 1, 1, Change::Disable);
    one.merge(other);
    assert!(one.is_off());
}

#[test]
fn an_edit_does_not_bring_a_removed_record_back() {
    let mut one = Record::default();
    write(&mut one, 0, 1, Change::Set(FIELD, vec![1]));
    let mut other = one.clone();
    write(&mut one, 0, 2, Change::Delete);
    write(&mut other, 1, 1, Change::Set(FIELD, vec![2]));
    one.merge(other);
    assert!(one.is_deleted() && !one.exists());
    write(&mut one, 0, 3, Change::Restore);
    assert!(one.exists());
}

#[test]
fn two_writes_of_one_number_are_both_kept() {
    let mut one = Record::default();
    write(&mut one, 0, 1, Change::Set(FIELD, vec![1]));
    let mut back = one.clone();
    let dot = |nonce| Dot { actor: actor(0), seq: 2, nonce: [nonce; 4] };
    one.apply(dot(1), stamp(1), &[Change::Set(FIELD, vec![2])]).unwrap();
    back.apply(dot(2), stamp(2), &[Change::Set(FIELD, vec![3])]).unwrap();
    one.merge(back);
    let values: Vec<_> = one.values(FIELD).iter().map(|sibling| sibling.value.to_vec()).collect();
    assert_eq!(values, [vec![3], vec![2]]);
}

#[test]
fn a_write_over_a_limit_changes_nothing() {
    let mut record = Record::default();
    let dot = Dot { actor: actor(0), seq: 1, nonce: [0; 4] };
    let long = vec![0; VALUE_MAX + 1];
    let refused = record.apply(dot, stamp(1), &[Change::Set(1, vec![]), Change::Set(2, long)]);
    assert_eq!(refused, Err(TooMuch::Value));
    let many: Vec<_> = (0..65).map(|field| Change::Set(field, vec![])).collect();
    assert_eq!(record.apply(dot, stamp(1), &many), Err(TooMuch::Parts));
    let fill: Vec<_> = (0..17).map(|field| Change::Set(field, vec![0; VALUE_MAX])).collect();
    assert_eq!(record.apply(dot, stamp(1), &fill), Err(TooMuch::Record));
    assert_eq!(record, Record::default());
}

/// A clock ten years behind must not hide who changed the record last.
#[test]
fn a_later_change_comes_first_whatever_the_clocks_say() {
    let mut record = Record::default();
    for seq in 1..=40 {
        let dot = Dot { actor: actor(0), seq, nonce: [0; 4] };
        record.apply(dot, stamp(1_000 - seq), &[Change::Set(FIELD, vec![])]).unwrap();
    }
    let seqs: Vec<u64> = record.history().map(|entry| entry.dot.seq).collect();
    assert_eq!(seqs, (25..=40).rev().collect::<Vec<_>>());
    assert_eq!(record.changed().unwrap().wall, 960);
}

#[test]
fn a_change_is_remembered_with_all_that_it_touched() {
    let mut record = Record::default();
    let dot = Dot { actor: actor(0), seq: 1, nonce: [0; 4] };
    let changes = [
        Change::Set(60_000, vec![1]),
        Change::Add(SET, vec![1]),
        Change::Add(SET, vec![2]),
        Change::Clear(FIELD),
        Change::Remove(3, vec![]),
        Change::Restore,
        Change::Disable,
        Change::Delete,
    ];
    record.apply(dot, stamp(1), &changes).unwrap();
    use Touched::{Add, Clear, Delete, Disable, Remove, Restore, Set};
    let what: BTreeSet<_> = record.history().next().unwrap().what.into_iter().collect();
    let all = [Set(60_000), Add(SET), Clear(FIELD), Remove(3), Restore, Disable, Delete];
    assert_eq!(what, all.into());
    let decoded = Record::decode(&record.encode()).unwrap();
    assert_eq!(decoded, record);
}

#[test]
fn what_a_newer_version_added_is_kept() {
    let mut record = Record::default();
    write(&mut record, 0, 1, Change::Set(60_000, b"a field of a newer version".to_vec()));
    let mut bytes = record.encode();
    bytes.extend([1, 2, 3]);
    let mut newer = Record::decode(&bytes).unwrap();
    assert_eq!(newer.encode(), bytes);
    write(&mut record, 0, 2, Change::Set(1, vec![5]));
    newer.merge(record);
    assert!(newer.encode().ends_with(&[1, 2, 3]));
    assert_eq!(newer.value(60_000), Some(&b"a field of a newer version"[..]));
}

/// The thief.
const THIEF: usize = 3;

fn cuts(upto: u64) -> Cuts {
    // The other replica of the same node wrote before.
    let all = [(actor(THIEF), upto), (actor(2), u64::MAX)];
    [(node_of(THIEF), Cut { upto: all.into() })].into()
}

/// Changes of every sort, no more of them than what was done away with is remembered for.
fn few_acts() -> impl Strategy<Value = Vec<Act>> {
    let change = prop_oneof![
        4 => (FIELD..FIELD + 2).prop_map(|field| Change::Set(field, Vec::new())),
        1 => (FIELD..FIELD + 2).prop_map(Change::Clear),
        3 => (0u8..3).prop_map(|element| Change::Add(SET, vec![element])),
        2 => (0u8..3).prop_map(|element| Change::Remove(SET, vec![element])),
        1 => Just(Change::Disable),
        1 => Just(Change::Enable),
        1 => Just(Change::Delete),
        1 => Just(Change::Restore),
    ];
    let act = prop_oneof![
        2 => (0usize..4, change).prop_map(|(at, change)| Act::Write(at, change)),
        2 => (0usize..4, 0usize..4).prop_map(|(to, from)| Act::Merge(to, from)),
    ];
    proptest::collection::vec(act, 0..50).prop_map(|mut acts| {
        let mut left = FORMER_WRITES;
        acts.retain(|act| match act {
            Act::Write(..) if left == 0 => false,
            Act::Write(..) => {
                left -= 1;
                true
            }
            Act::Merge(..) => true,
        });
        acts
    })
}

/// The four replicas after a history, from which some writes are left out.
fn replicas(acts: &[Act], left_out: impl Fn(usize, u64) -> bool) -> Vec<Record> {
    let mut replicas = vec![Record::default(); 4];
    for (n, act) in acts.iter().enumerate() {
        let n = n as u64 + 1;
        match act {
            Act::Write(at, _) if left_out(*at, n) => {}
            Act::Write(at, Change::Set(field, _)) => {
                write(&mut replicas[*at], *at, n, Change::Set(*field, n.to_le_bytes().to_vec()));
            }
            Act::Write(at, change) => write(&mut replicas[*at], *at, n, change.clone()),
            Act::Merge(to, from) => {
                let other = replicas[*from].clone();
                replicas[*to].merge(other);
            }
        }
    }
    replicas
}

proptest! {
    #[test]
    fn without_a_thiefs_writes_a_record_is_as_if_they_had_never_been_made(
        acts in few_acts(), upto in 0u64..40
    ) {
        let stolen = |at, n| at == THIEF && n > upto;
        for (with, without) in replicas(&acts, |_, _| false).into_iter().zip(replicas(&acts, stolen)) {
            let shown = with.counting(&cuts(upto)).unwrap_or_default();
            prop_assert_eq!(&shown.registers, &without.registers);
            prop_assert_eq!(&shown.sets, &without.sets);
            prop_assert_eq!(shown.exists(), without.exists());
        }
    }

    #[test]
    fn what_was_done_away_with_is_the_same_in_any_order_of_merging(acts in few_acts()) {
        let all = replicas(&acts, |_, _| false);
        let (a, b, c) = (&all[0], &all[1], &all[3]);
        let one = merged(&merged(a, b), c);
        let other = merged(a, &merged(c, &merged(b, a)));
        prop_assert_eq!(one.encode(), other.encode());
        prop_assert_eq!(Record::decode(&one.encode()).unwrap(), one);
    }
}

#[test]
fn however_often_a_thief_writes_what_others_said_comes_back() {
    let mut record = Record::default();
    write(&mut record, 0, 1, Change::Set(FIELD, b"ours".to_vec()));
    for seq in 1..=100 {
        write(&mut record, THIEF, seq, Change::Set(FIELD, b"theirs".to_vec()));
    }
    let size = record.encode().len();
    assert!(size < 1_500, "and it stays small: {size}");
    let shown = record.clone().counting(&cuts(0)).unwrap();
    assert_eq!(shown.value(FIELD), Some(&b"ours"[..]));
    assert_eq!(record.history().filter(|entry| entry.void).count(), 0);
    assert!(shown.history().all(|entry| entry.void), "and it is said which changes are void");
    assert_eq!(record.counting(&Cuts::new()).unwrap().value(FIELD), Some(&b"theirs"[..]));
}

/// What a rule was about must not become everything because nobody remembers it.
#[test]
fn what_is_not_remembered_any_more_puts_the_record_out_of_use() {
    let mut record = Record::default();
    write(&mut record, 2, 1, Change::Set(FIELD, b"ours".to_vec()));
    for seq in 1..=17 {
        write(&mut record, THIEF, seq, Change::Set(FIELD, b"theirs".to_vec()));
    }
    let shown = record.clone().counting(&cuts(0)).unwrap();
    assert_eq!((shown.value(FIELD), shown.is_off()), (None, true));
    write(&mut record, 0, 1, Change::Set(FIELD, b"settled".to_vec()));
    let shown = record.counting(&cuts(0)).unwrap();
    assert_eq!((shown.value(FIELD), shown.is_off()), (Some(&b"settled"[..]), false));
}

#[test]
fn a_mark_that_a_thief_took_away_comes_back_however_long_ago_that_was() {
    let mut record = Record::default();
    write(&mut record, 2, 1, Change::Disable);
    write(&mut record, THIEF, 1, Change::Enable);
    for seq in 2..=60 {
        write(&mut record, THIEF, seq, Change::Set(FIELD, b"theirs".to_vec()));
        write(&mut record, 0, seq, Change::Set(FIELD + 1, b"ours".to_vec()));
    }
    assert!(!record.is_off());
    assert!(record.counting(&cuts(0)).unwrap().is_off());
}

#[test]
fn a_record_that_only_a_thief_wrote_is_none() {
    let mut record = Record::default();
    write(&mut record, THIEF, 5, Change::Set(FIELD, b"theirs".to_vec()));
    assert_eq!(record.clone().counting(&cuts(4)), None);
    assert_eq!(record.clone().counting(&cuts(5)), Some(record));
}
