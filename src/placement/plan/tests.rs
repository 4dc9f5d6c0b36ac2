use proptest::prelude::*;

use super::*;

fn node(n: usize) -> NodeId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    NodeId(id)
}

fn encoder(n: usize) -> EncoderId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    EncoderId(id)
}

fn seat(n: usize, weight: u64) -> Seat {
    Seat { node: node(n), weight: weight * WEIGHT_ONE, limit: 1_000_000, duty: Duty::Open }
}

fn unit(n: usize, at: usize) -> Unit {
    let wish = usize::MAX;
    Unit { encoder: encoder(n), room: None, at: node(at), next: None, free: true, wish }
}

fn seats(count: usize) -> Vec<Seat> {
    (0..count).map(|n| seat(n, 1)).collect()
}

/// So many encoders at each node.
fn at_nodes(counts: &[usize]) -> Vec<Unit> {
    let nodes = counts.iter().enumerate().flat_map(|(at, count)| vec![at; *count]);
    nodes.enumerate().map(|(n, at)| unit(n, at)).collect()
}

fn pool(name: &str, nodes: &[usize]) -> Pool {
    Pool { name: name.into(), nodes: nodes.iter().map(|n| node(*n)).collect() }
}

fn after(plan: &Plan) -> Vec<u32> {
    plan.loads.iter().map(|(_, _, after)| *after).collect()
}

/// What the encoders' places come to once the moves are made.
fn carried_out(units: &[Unit], plan: &Plan) -> Vec<Unit> {
    let mut units = units.to_vec();
    for one in &plan.moves {
        let unit = units.iter_mut().find(|unit| unit.encoder == one.encoder).unwrap();
        assert_eq!(unit.at, one.from);
        unit.at = one.to;
    }
    units
}

#[test]
fn a_newcomer_gets_its_share_and_nothing_else_moves() {
    let plan = plan(&seats(4), &at_nodes(&[34, 33, 33, 0]), &[]);
    assert_eq!(after(&plan), [25; 4]);
    assert_eq!(plan.moves.len(), 25);
    assert!(plan.moves.iter().all(|one| one.to == node(3)), "{:?}", plan.moves);
    assert_eq!(plan.moves[0].why, Why::Balance(34, 0));
}

#[test]
fn what_is_even_stays_as_it_is() {
    let plan = plan(&seats(3), &at_nodes(&[4, 3, 3]), &[]);
    assert!(plan.moves.is_empty() && plan.stuck.is_empty());
}

#[test]
fn what_is_watched_stays_and_others_make_up_for_it() {
    let mut units = at_nodes(&[6, 0, 0]);
    units.iter_mut().take(5).for_each(|unit| unit.free = false);
    let plan = plan(&seats(3), &units, &[]);
    assert_eq!(after(&plan), [5, 1, 0]);
    assert_eq!(plan.moves[0].encoder, units[5].encoder);
}

#[test]
fn a_node_that_drains_gives_everything_away_what_is_watched_too() {
    let mut nodes = seats(3);
    nodes[0].duty = Duty::Draining;
    let mut units = at_nodes(&[5, 2, 3]);
    units[1].free = false;
    let plan = plan(&nodes, &units, &[]);
    assert_eq!(after(&plan), [0, 5, 5]);
    assert!(plan.moves.iter().all(|one| one.why == Why::Drain && one.from == node(0)));
}

#[test]
fn what_drains_with_nowhere_to_go_stays_and_is_named() {
    let mut nodes = seats(2);
    nodes[0].duty = Duty::Draining;
    nodes[1].limit = 3;
    let mut units = at_nodes(&[4, 1]);
    units[2].free = false;
    let full = plan(&nodes, &units, &[]);
    assert_eq!(after(&full), [2, 3]);
    assert!(full.moves.iter().any(|one| one.encoder == units[2].encoder), "the watched one first");
    assert_eq!(full.stuck.len(), 2);
    assert!(full.stuck.iter().all(|one| one.why == Why::Drain && !one.bound));
    // Everyone drains at once: everything stays where it is.
    nodes[1].duty = Duty::Draining;
    let nowhere = plan(&nodes, &units, &[]);
    assert_eq!((nowhere.moves.len(), nowhere.stuck.len()), (0, 5));
}

#[test]
fn a_cordoned_node_keeps_what_it_has_and_gets_nothing() {
    let mut nodes = seats(3);
    nodes[0].duty = Duty::Cordoned;
    nodes[1].duty = Duty::Cordoned;
    assert!(plan(&nodes, &at_nodes(&[9, 0, 0]), &[]).moves.is_empty());
}

#[test]
fn a_node_without_capacity_is_emptied_unless_there_is_no_other() {
    let mut nodes = seats(3);
    nodes[0].weight = 0;
    let away = plan(&nodes, &at_nodes(&[4, 1, 1]), &[]);
    assert_eq!(after(&away), [0, 3, 3]);
    assert!(away.moves.iter().all(|one| one.why == Why::NoCapacity));
    nodes.iter_mut().for_each(|seat| seat.weight = 0);
    assert_eq!(after(&plan(&nodes, &at_nodes(&[4, 1, 1]), &[])), [2, 2, 2]);
}

#[test]
fn a_node_of_twice_the_weight_gets_twice_as_much() {
    let nodes = [seat(0, 1), seat(1, 2), seat(2, 1)];
    assert_eq!(after(&plan(&nodes, &at_nodes(&[20, 10, 10]), &[])), [10, 20, 10]);
}

#[test]
fn a_preference_overrides_balance() {
    let wishes = [Wish { pools: vec![pool("west", &[0, 1])], only: false }];
    let mut units = at_nodes(&[0, 0, 8]);
    units.iter_mut().take(6).for_each(|unit| unit.wish = 0);
    let plan = plan(&seats(3), &units, &wishes);
    assert_eq!(after(&plan), [3, 3, 2]);
    assert!(plan.moves.iter().all(|one| one.why == Why::Preference("west".into())));
}

#[test]
fn a_pool_that_everyone_prefers_fills_up_and_the_rest_goes_to_the_next() {
    let pools = vec![pool("west", &[0]), pool("east", &[1])];
    let wishes = [Wish { pools, only: false }];
    let mut nodes = seats(4);
    nodes[0].limit = 3;
    nodes[1].limit = 4;
    let mut units = at_nodes(&[0, 0, 9, 0]);
    units.iter_mut().for_each(|unit| unit.wish = 0);
    let spills = plan(&nodes, &units, &wishes);
    assert_eq!(after(&spills), [3, 4, 1, 1]);
}

#[test]
fn who_is_bound_to_a_pool_without_a_node_stays_and_is_named() {
    let wishes = [Wish { pools: vec![pool("west", &[7])], only: true }];
    let mut units = at_nodes(&[3, 0]);
    units.iter_mut().for_each(|unit| unit.wish = 0);
    let stays = plan(&seats(2), &units, &wishes);
    assert_eq!((stays.moves.len(), stays.stuck.len()), (0, 3));
    assert!(stays.stuck[0].bound && stays.stuck[0].why == Why::Preference("west".into()));
}

#[test]
fn a_room_moves_together_or_not_at_all() {
    let mut units = at_nodes(&[6, 0]);
    let room = RecordId([1; 16]);
    units.iter_mut().take(4).for_each(|unit| unit.room = Some(room));
    let two = plan(&seats(2), &units, &[]);
    assert_eq!(after(&two), [4, 2]);
    assert!(two.moves.iter().all(|one| units[4..].iter().any(|u| u.encoder == one.encoder)));
    let mut apart = units.clone();
    apart[3].at = node(1);
    let joins = plan(&seats(2), &apart, &[]);
    let moved = joins.moves.iter().find(|one| one.encoder == apart[3].encoder).unwrap();
    assert_eq!((moved.to, &moved.why), (node(0), &Why::Room(room)));
    // Two rooms of three at one node: one goes.
    let other = RecordId([2; 16]);
    let mut units = at_nodes(&[6, 0]);
    let rooms = [room, other];
    units.iter_mut().enumerate().for_each(|(n, unit)| unit.room = Some(rooms[n / 3]));
    assert_eq!(after(&plan(&seats(2), &units, &[])), [3, 3]);
}

#[test]
fn what_a_dead_node_had_is_placed_evenly() {
    let plan = plan(&seats(3), &at_nodes(&[3, 3, 3, 0, 3]), &[]);
    assert_eq!(after(&plan), [4, 4, 4]);
    assert!(plan.moves.iter().all(|one| one.from == node(4) && one.why == Why::Lost));
}

#[test]
fn who_has_to_move_goes_where_it_has_a_warm_session() {
    let mut units = at_nodes(&[6, 0, 0]);
    units[1].next = Some(node(1));
    units[2].next = Some(node(2));
    let plan = plan(&seats(3), &units, &[]);
    let to = |n: usize| plan.moves.iter().find(|one| one.encoder == encoder(n)).map(|one| one.to);
    assert_eq!((to(1), to(2)), (Some(node(1)), Some(node(2))));
}

#[test]
fn a_chain_of_moves_is_found_where_pools_overlap() {
    // The full node may only give to the middle one, whose own may go on to the empty one.
    let wishes = [
        Wish { pools: vec![pool("left", &[0, 1])], only: true },
        Wish { pools: vec![pool("right", &[1, 2])], only: true },
    ];
    let mut units = at_nodes(&[4, 2, 0]);
    units.iter_mut().enumerate().for_each(|(n, unit)| unit.wish = usize::from(n >= 4));
    assert_eq!(after(&plan(&seats(3), &units, &wishes)), [2, 2, 2]);
}

#[test]
fn a_place_that_a_chain_of_moves_leaves_is_taken_by_who_was_lost() {
    // All that the lost one may go to is full until others have gone on.
    let wishes = [
        Wish { pools: vec![pool("left", &[0, 1])], only: true },
        Wish { pools: vec![pool("right", &[1, 2])], only: true },
    ];
    let mut nodes = seats(3);
    nodes[0].limit = 5;
    nodes[1].limit = 2;
    let mut units = at_nodes(&[5, 2, 0]);
    units.iter_mut().enumerate().for_each(|(n, unit)| unit.wish = usize::from(n >= 5));
    units.push(Unit { wish: 0, free: false, ..unit(7, 9) });
    let made = plan(&nodes, &units, &wishes);
    assert_eq!((after(&made), made.stuck.len()), (vec![4, 2, 2], 0), "{made:?}");
    assert!(plan(&nodes, &carried_out(&units, &made), &wishes).moves.is_empty());
}

#[test]
fn nobody_joins_its_room_where_it_may_not_be() {
    let nowhere = [Wish { pools: vec![pool("gone", &[5, 6])], only: true }];
    let mut units = at_nodes(&[1, 1]);
    units.iter_mut().for_each(|unit| (unit.room, unit.wish) = (Some(RecordId([1; 16])), 0));
    units[0].free = false;
    let made = plan(&seats(2), &units, &nowhere);
    assert_eq!((made.moves.len(), made.stuck.len()), (0, 2));
}

#[test]
fn a_room_that_fits_nowhere_as_it_is_goes_apart() {
    let mut nodes = seats(3);
    nodes[1].limit = 2;
    nodes[2].limit = 2;
    nodes[0].duty = Duty::Draining;
    let mut units = at_nodes(&[4, 0, 0]);
    units.iter_mut().for_each(|unit| unit.room = Some(RecordId([1; 16])));
    let apart = plan(&nodes, &units, &[]);
    assert_eq!(after(&apart), [0, 2, 2]);
    assert!(plan(&nodes, &carried_out(&units, &apart), &[]).moves.is_empty());
}

// -- against every other way --------------------------------------------------------------------

/// How uneven, in sixths: what the sum of `k / weight` over the places that are taken comes to.
/// No single move makes less of it exactly if everything is even.
fn unevenness(loads: &[u32], seats: &[Seat]) -> u64 {
    let places = loads.iter().zip(seats).map(|(load, seat)| {
        let load = u64::from(*load);
        3 * load * (load + 1) * WEIGHT_ONE / seat.weight
    });
    places.sum()
}

/// The least unevenness that any way to move comes to, and with it the fewest moves.
fn best(seats: &[Seat], units: &[Unit], wishes: &[Wish]) -> (u64, usize) {
    let none = Wish::default();
    let places: Vec<Vec<usize>> = units
        .iter()
        .map(|unit| {
            let at = seats.iter().position(|seat| seat.node == unit.at).unwrap();
            let wish = wishes.get(unit.wish).unwrap_or(&none);
            let tier = |seat: &Seat| {
                let pool = wish.pools.iter().position(|pool| pool.nodes.contains(&seat.node));
                pool.unwrap_or(if wish.only { usize::MAX } else { wish.pools.len() })
            };
            let goes = seats[at].duty == Duty::Draining;
            if !unit.free && !goes {
                return vec![at];
            }
            let open = seats.iter().filter(|seat| seat.duty == Duty::Open);
            let liked = open.map(tier).min().filter(|tier| *tier != usize::MAX);
            let Some(liked) = liked.filter(|liked| goes || *liked <= tier(&seats[at])) else {
                return vec![at];
            };
            // Whoever is at a closed node that it likes as much as any other stays.
            if seats[at].duty == Duty::Cordoned && tier(&seats[at]) <= liked {
                return vec![at];
            }
            let fits =
                |seat: &usize| seats[*seat].duty == Duty::Open && tier(&seats[*seat]) == liked;
            (0..seats.len()).filter(fits).collect()
        })
        .collect();
    let mut best = (u64::MAX, usize::MAX);
    let mut choice = vec![0; units.len()];
    loop {
        let mut loads = vec![0u32; seats.len()];
        let mut moves = 0;
        for (unit, (choice, places)) in units.iter().zip(choice.iter().zip(&places)) {
            let to = places[*choice];
            loads[to] += 1;
            moves += usize::from(seats[to].node != unit.at);
        }
        best = best.min((unevenness(&loads, seats), moves));
        let mut at = 0;
        loop {
            if at == units.len() {
                return best;
            }
            choice[at] += 1;
            if choice[at] < places[at].len() {
                break;
            }
            choice[at] = 0;
            at += 1;
        }
    }
}

fn small() -> impl Strategy<Value = (Vec<Seat>, Vec<Unit>, Vec<Wish>)> {
    let duty =
        prop_oneof![4 => Just(Duty::Open), 1 => Just(Duty::Cordoned), 1 => Just(Duty::Draining)];
    let seats = proptest::collection::vec((1..=3u64, duty), 2..=4);
    let drawn = (0..4usize, proptest::bool::weighted(0.8), 0..4usize);
    let units = proptest::collection::vec(drawn, 0..=7);
    let wish = (proptest::collection::vec(0..16u8, 1..=2), any::<bool>());
    let wishes = proptest::collection::vec(wish, 0..=2);
    (seats, units, wishes).prop_map(|(seats, units, wishes)| {
        let count = seats.len();
        let seats = seats.into_iter().enumerate();
        let seats: Vec<Seat> =
            seats.map(|(n, (weight, duty))| Seat { duty, ..seat(n, weight) }).collect();
        let units = units.into_iter().enumerate();
        let units = units.map(|(n, (at, free, wish))| Unit { free, wish, ..unit(n, at % count) });
        let wishes = wishes.into_iter().map(|(pools, only)| Wish {
            pools: pools
                .into_iter()
                .map(|bits| {
                    let nodes: Vec<usize> = (0..4).filter(|n| bits & 1 << n != 0).collect();
                    pool(&format!("p{bits}"), &nodes)
                })
                .collect(),
            only,
        });
        (seats, units.collect(), wishes.collect())
    })
}

/// Draws of any size, with rooms and limits.
fn any_mesh() -> impl Strategy<Value = (Vec<Seat>, Vec<Unit>, Vec<Wish>)> {
    let duty =
        prop_oneof![6 => Just(Duty::Open), 1 => Just(Duty::Cordoned), 1 => Just(Duty::Draining)];
    let seats = proptest::collection::vec((0..=3u64, 5..40u32, duty), 1..=8);
    let drawn = (
        0..10usize,
        proptest::bool::weighted(0.7),
        0..4usize,
        proptest::option::weighted(0.3, 0..6u8),
    );
    let units = proptest::collection::vec(drawn, 0..=80);
    let wish = (proptest::collection::vec(any::<u8>(), 1..=3), any::<bool>());
    let wishes = proptest::collection::vec(wish, 0..=3);
    (seats, units, wishes).prop_map(|(seats, units, wishes)| {
        let seats = seats.into_iter().enumerate();
        let seats = seats.map(|(n, (weight, limit, duty))| Seat { duty, limit, ..seat(n, weight) });
        let units = units.into_iter().enumerate().map(|(n, (at, free, wish, room))| {
            let room = room.map(|room| RecordId([room; 16]));
            Unit { free, wish, room, ..unit(n, at) }
        });
        let wishes = wishes.into_iter().map(|(pools, only)| {
            let pools = pools.into_iter().map(|bits| {
                let nodes: Vec<usize> = (0..8).filter(|n| bits & 1 << n != 0).collect();
                pool(&format!("p{bits}"), &nodes)
            });
            Wish { pools: pools.collect(), only }
        });
        (seats.collect(), units.collect(), wishes.collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_is_more_even_and_nothing_as_even_moves_less((seats, units, wishes) in small()) {
        prop_assume!(seats.iter().any(|seat| seat.duty == Duty::Open));
        let plan = plan(&seats, &units, &wishes);
        let bound = plan.stuck.iter().filter(|one| one.why == Why::Drain).count();
        prop_assume!(bound == 0);
        let (uneven, moves) = best(&seats, &units, &wishes);
        prop_assert_eq!(unevenness(&after(&plan), &seats), uneven, "{:?}", plan);
        prop_assert!(plan.moves.len() * 100 <= moves * 105, "{} for {moves}: {plan:?}", plan.moves.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_plan_keeps_its_promises((seats, units, wishes) in any_mesh()) {
        let made = plan(&seats, &units, &wishes);
        let seat = |node: NodeId| seats.iter().find(|seat| seat.node == node);
        for one in &made.moves {
            let unit = units.iter().find(|unit| unit.encoder == one.encoder).unwrap();
            let to = seat(one.to).unwrap();
            let from = seat(one.from);
            prop_assert_eq!(to.duty, Duty::Open);
            prop_assert!(one.to != one.from);
            prop_assert!(unit.free || from.is_none_or(|seat| seat.duty == Duty::Draining));
            // A room has the wish of its first.
            let first = units.iter().find(|other| unit.room.is_some() && other.room == unit.room);
            if let Some(wish) = wishes.get(first.unwrap_or(unit).wish)
                && wish.only
            {
                prop_assert!(wish.pools.iter().any(|pool| pool.nodes.contains(&one.to)));
            }
        }
        for (node, before, after) in &made.loads {
            prop_assert!(after <= before || *after <= seat(*node).unwrap().limit);
        }
        let there = carried_out(&units, &made);
        let total: u32 = made.loads.iter().map(|(.., after)| after).sum();
        prop_assert_eq!(total as usize, there.iter().filter(|unit| seat(unit.at).is_some()).count());
        // Whatever the order in which things are told, the plan is the same.
        let (mut turned_seats, mut turned) = (seats.clone(), units.clone());
        turned_seats.reverse();
        turned.reverse();
        prop_assert_eq!(&plan(&turned_seats, &turned, &wishes), &made);
        // Once it is carried out there is nothing left to do.
        let again = plan(&seats, &there, &wishes);
        prop_assert!(again.moves.is_empty(), "it does not come to rest: {:?}", again.moves);
        prop_assert_eq!(again.stuck.len(), made.stuck.len());
    }

    #[test]
    fn for_equal_nodes_the_moves_are_the_sum_of_the_surpluses(
        counts in proptest::collection::vec(0..300usize, 1..40),
    ) {
        let plan = plan(&seats(counts.len()), &at_nodes(&counts), &[]);
        let total: usize = counts.iter().sum();
        let (floor, ceiling) = (total / counts.len(), total.div_ceil(counts.len()));
        let surplus: usize = counts.iter().map(|count| count.saturating_sub(ceiling)).sum();
        let lack: usize = counts.iter().map(|count| floor.saturating_sub(*count)).sum();
        prop_assert_eq!(plan.moves.len(), surplus.max(lack));
        let after = after(&plan);
        prop_assert!(after.iter().max().unwrap() - after.iter().min().unwrap() <= 1);
    }
}

/// The figure of the decision record. In a release build:
/// `cargo test --release --lib ten_thousand_encoders -- --nocapture`.
#[test]
fn ten_thousand_encoders_at_sixty_four_nodes_are_planned_at_once() {
    let mut counts = vec![157; 64];
    counts[0] = 0;
    counts[1] = 266;
    let units = at_nodes(&counts);
    let started = std::time::Instant::now();
    let even = plan(&seats(64), &units, &[]);
    let took = started.elapsed();
    println!("{} encoders, {} moves: {took:?}", units.len(), even.moves.len());
    let after = after(&even);
    assert!(after.iter().max().unwrap() - after.iter().min().unwrap() <= 1);
    let mut away = at_nodes(&[10_000]);
    away.iter_mut().enumerate().for_each(|(n, unit)| unit.next = Some(node(1 + n % 63)));
    let started = std::time::Instant::now();
    let moves = plan(&seats(64), &away, &[]).moves.len();
    let longest = started.elapsed();
    println!("all at one node, {moves} moves: {longest:?}");
    assert!(took.max(longest) < std::time::Duration::from_secs(2), "{took:?}, {longest:?}");
}
