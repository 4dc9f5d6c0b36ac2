//! Weighted rendezvous hashing: every node computes the same order for an encoder from the same
//! view, and a node that goes takes only its own encoders with it.

use super::Candidate;
use crate::id::{EncoderId, NodeId};

/// Fractional bits of the logarithm.
const FRACTION: u32 = 32;

/// Every candidate, best first. A candidate's chance to be first is its share of all weights.
///
/// The score is weight / -ln(h) with h uniform in (0, 1) from a fixed mix of both ids. All nodes
/// must agree to the last bit, and `f64::ln` may differ between platforms in that bit, so the
/// logarithm is taken in integers (to base 2: a common factor changes no order); the one division
/// that follows is correctly rounded everywhere. Equal scores go by node id.
pub fn rank(key: EncoderId, candidates: &[Candidate]) -> Vec<NodeId> {
    let mut scored: Vec<(f64, NodeId)> = candidates
        .iter()
        .map(|candidate| {
            let neg_log = neg_log2(mix(key, candidate.node));
            (candidate.usable_weight() / neg_log as f64, candidate.node)
        })
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut seen = std::collections::BTreeSet::new();
    scored.into_iter().map(|(_, node)| node).filter(|node| seen.insert(*node)).collect()
}

/// A fixed 64-bit mix of both ids: the finaliser of splitmix64, absorbing eight bytes at a time.
fn mix(key: EncoderId, node: NodeId) -> u64 {
    let mut state = 0x726f_6f73_7472_616e;
    for chunk in key.0.chunks_exact(8).chain(node.0.chunks_exact(8)) {
        let word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        state = finalise((state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15));
    }
    state
}

fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// -log2(hash / 2^64) with [`FRACTION`] fractional bits, at least 1, by repeated squaring.
fn neg_log2(hash: u64) -> u64 {
    let hash = hash.max(1);
    let zeros = hash.leading_zeros();
    // hash = mantissa / 2^63 * 2^(63 - zeros), with mantissa / 2^63 in [1, 2).
    let mut mantissa = hash << zeros;
    let mut fraction = 0u64;
    for _ in 0..FRACTION {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carry = square >> 64 != 0;
        fraction = fraction << 1 | u64::from(carry);
        mantissa = if carry { (square >> 1) as u64 } else { square as u64 };
    }
    ((u64::from(zeros) + 1) << FRACTION).saturating_sub(fraction).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::plan::{Pool, Wish};
    use super::super::{Choice, Media, assign, join, much_busier, next, refusal};
    use super::*;

    const ANY: Wish = Wish { pools: Vec::new(), only: false };

    fn key(n: u64) -> EncoderId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&finalise(n).to_le_bytes());
        EncoderId(id)
    }

    fn candidates(count: u8) -> Vec<Candidate> {
        (0..count)
            .map(|n| Candidate {
                node: NodeId([n; 16]),
                weight: 1.0,
                load: 0,
                media: Media::default(),
                limit: u32::MAX,
            })
            .collect()
    }

    /// So many viewers of 1 Mbit/s.
    fn carries(viewers: u32) -> Media {
        Media { streams: viewers.min(1), viewers, egress_bps: u64::from(viewers) * 1_000_000 }
    }

    fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let number = prop_oneof![0..200u32, Just(0), Just(u32::MAX)];
        let candidate = (0..20u8, -1.0..4.0f64, 0..50u32, number);
        proptest::collection::vec(candidate, 0..12).prop_map(|list| {
            let by_node: BTreeMap<_, _> =
                list.into_iter().map(|(n, w, l, m)| (n, (w, l, m))).collect();
            let candidates = by_node.into_iter();
            candidates
                .map(|(n, (weight, load, viewers))| Candidate {
                    node: NodeId([n; 16]),
                    weight,
                    load,
                    media: carries(viewers),
                    limit: 40,
                })
                .collect()
        })
    }

    #[test]
    fn the_integer_logarithm_agrees_with_the_real_one() {
        for n in 0..10_000 {
            let hash = finalise(n) >> (n % 50);
            let exact = -((hash.max(1) as f64) / 2f64.powi(64)).log2();
            let ours = neg_log2(hash) as f64 / 2f64.powi(FRACTION as i32);
            assert!((exact - ours).abs() < 1e-8, "{hash}: {exact} {ours}");
        }
        assert_eq!(neg_log2(u64::MAX), 1);
        assert_eq!(neg_log2(0), 64 << FRACTION);
    }

    #[test]
    fn the_order_is_fixed_for_all_platforms_and_versions() {
        let ranked = rank(EncoderId([7; 16]), &candidates(6));
        let digits: Vec<_> = ranked.iter().map(|node| node.0[0]).collect();
        assert_eq!(digits, [2, 0, 3, 4, 1, 5]);
    }

    #[test]
    fn first_places_follow_the_weights() {
        let mut nodes = candidates(4);
        nodes[0].weight = 3.0;
        let firsts = (0..6_000).filter(|n| rank(key(*n), &nodes)[0] == nodes[0].node).count();
        assert!((2_850..3_150).contains(&firsts), "{firsts} of 6000, expected 3000");
    }

    /// Assigns `count` encoders one after the other and returns the loads.
    fn fill(mut nodes: Vec<Candidate>, count: u64) -> Vec<Candidate> {
        for n in 0..count {
            let choice = assign(key(n), 1, &nodes, &[], &ANY).unwrap();
            let home = nodes.iter_mut().find(|node| node.node == choice.home).unwrap();
            home.load += 1;
        }
        nodes
    }

    #[test]
    fn assigning_one_after_the_other_spreads_evenly() {
        for count in [2, 3, 5, 8, 20] {
            let nodes = fill(candidates(count), 100 * u64::from(count));
            let max = nodes.iter().map(|node| node.load).max().unwrap();
            let min = nodes.iter().map(|node| node.load).min().unwrap();
            assert!(max - min <= 8, "{count} nodes: {min} to {max}");
            assert!(max <= 103, "{count} nodes: {max}");
        }
    }

    #[test]
    fn a_node_of_twice_the_weight_takes_twice_the_encoders() {
        let mut nodes = candidates(4);
        nodes[2].weight = 2.0;
        let nodes = fill(nodes, 500);
        assert!((190..=210).contains(&nodes[2].load), "{}", nodes[2].load);
    }

    #[test]
    fn a_room_goes_where_all_of_it_have_room_and_who_comes_later_goes_to_the_others() {
        let mut nodes = candidates(3);
        nodes.iter_mut().for_each(|it| it.limit = 4);
        let least = nodes[1].node;
        nodes.iter_mut().filter(|it| it.node != least).for_each(|it| it.load = 2);
        for n in 0..20 {
            assert_eq!(assign(key(n), 3, &nodes, &[], &ANY).unwrap().home, least);
            assert!(assign(key(n), 9, &nodes, &[], &ANY).is_some(), "it goes apart");
        }
        let company = |of: &[(usize, u32)]| -> BTreeMap<NodeId, u32> {
            of.iter().map(|(n, count)| (nodes[*n].node, *count)).collect()
        };
        let goes = |of: &[(usize, u32)], avoid: &[NodeId], wish: &Wish| {
            join(&company(of), &nodes, avoid, wish).map(|node| node.0[0])
        };
        assert_eq!(goes(&[(0, 1), (2, 2)], &[], &ANY), Some(2));
        assert_eq!(goes(&[(0, 1), (2, 1)], &[], &ANY), Some(0), "always the same");
        assert_eq!(goes(&[(2, 2)], &[nodes[2].node], &ANY), None, "it failed");
        assert_eq!(goes(&[], &[], &ANY), None);
        assert_eq!(goes(&[(0, 2)], &[], &wish(&[&[1]], false)), None, "it is liked less");
        assert_eq!(goes(&[(1, 2)], &[], &wish(&[&[1]], true)), Some(1));
        nodes[2].load = 4;
        let full = join(&BTreeMap::from([(nodes[2].node, 3)]), &nodes, &[], &ANY);
        assert_eq!(full, None);
    }

    #[test]
    fn of_the_two_best_ranked_the_one_that_carries_less_media_is_taken_and_the_reason_says_so() {
        let nodes = candidates(4);
        let [first, second] = rank(key(1), &nodes)[..2] else { unreachable!("there are four") };
        let of = |node: NodeId, media: Media| {
            let mut nodes = nodes.clone();
            nodes.iter_mut().for_each(|it| it.load = 12);
            nodes.iter_mut().filter(|it| it.node == node).for_each(|it| it.media = media);
            assign(key(1), 1, &nodes, &[], &ANY).unwrap()
        };
        let media = Media { streams: 3, viewers: 40, egress_bps: 80_000_000 };
        let choice = of(first, media);
        assert_eq!(choice.home, second);
        let expected = format!(
            "ranked second, less loaded than {}: 12 encoders, 40 viewers, 80 Mbit/s",
            first.short()
        );
        assert_eq!(choice.reason, expected);
        assert_eq!(of(second, media).home, first);
        // Whatever is said falsely, somebody is home, and only the two best ranked are asked.
        let lie = Media { streams: u32::MAX, viewers: u32::MAX, egress_bps: u64::MAX };
        assert_eq!(of(first, lie).home, second);
        assert!(of(first, lie).reason.len() < crate::directory::WHY_MAX);
    }

    #[test]
    fn a_node_of_twice_the_capacity_carries_twice_the_media() {
        let mut nodes = candidates(2);
        nodes[0].weight = 4.0;
        (nodes[0].media, nodes[1].media) = (carries(20), carries(9));
        assert!(
            (0..9).all(|n| assign(key(n), 1, &nodes, &[], &ANY).unwrap().home == nodes[0].node)
        );
    }

    #[test]
    fn who_stands_by_is_the_first_ranked_unless_media_keeps_it_much_busier() {
        let nodes = candidates(4);
        let ranked = rank(key(1), &nodes);
        let stands_by = |viewers: u32, of: usize| {
            let mut nodes = nodes.clone();
            nodes.iter_mut().filter(|it| it.node == ranked[of]).for_each(|it| {
                it.media = carries(viewers);
            });
            assert_eq!(much_busier(&nodes, ranked[of], ranked[0]), viewers >= 25);
            next(key(1), ranked[0], &nodes, &ANY)
        };
        assert_eq!(stands_by(24, 1), Some(ranked[1]));
        assert_eq!(stands_by(25, 1), Some(ranked[2]));
        assert_eq!(stands_by(u32::MAX, 1), Some(ranked[2]));
        assert_eq!(stands_by(u32::MAX, 2), Some(ranked[1]));
    }

    #[test]
    fn a_false_word_of_media_keeps_no_encoder_from_a_place_and_fills_nobody_beyond_its_limit() {
        for viewers in [0, u32::MAX] {
            let mut nodes = candidates(3);
            nodes.iter_mut().for_each(|it| (it.limit, it.media) = (40, carries(200)));
            nodes[1].media = carries(viewers);
            let filled = fill(nodes, 120);
            assert!(filled.iter().all(|it| it.load == 40), "{filled:?}");
        }
    }

    #[test]
    fn an_avoided_node_is_taken_only_when_nothing_else_is_left() {
        let nodes = candidates(2);
        let avoided = nodes[0].node;
        let choice = assign(key(1), 1, &nodes, &[avoided], &ANY).unwrap();
        assert_eq!((choice.home, choice.next), (nodes[1].node, Some(avoided)));
        let choice = assign(key(1), 1, &nodes[..1], &[avoided], &ANY).unwrap();
        assert_eq!((choice.home, choice.next), (avoided, None));
        assert_eq!(assign(key(1), 1, &[], &[], &ANY), None);
        assert_eq!(next(key(1), avoided, &nodes[..1], &ANY), None);
    }

    #[test]
    fn a_full_node_is_passed_over_and_said_to_be_full() {
        let mut nodes = candidates(3);
        let best = rank(key(1), &nodes)[0];
        let at = nodes.iter().position(|node| node.node == best).unwrap();
        (nodes[at].load, nodes[at].limit) = (5, 5);
        let choice = assign(key(1), 1, &nodes, &[], &ANY).unwrap();
        assert!(choice.home != best && choice.next != Some(best));
        nodes.iter_mut().for_each(|node| node.load = 9);
        assert!(assign(key(1), 1, &nodes, &[], &ANY).unwrap().reason.contains(&best.short()));
        nodes.iter_mut().for_each(|node| node.limit = 9);
        assert_eq!(assign(key(1), 1, &nodes, &[], &ANY), None, "all are full");
        assert_eq!(
            next(key(1), nodes[0].node, &nodes[..2], &ANY),
            Some(nodes[1].node),
            "better than none"
        );
    }

    fn wish(pools: &[&[u8]], only: bool) -> Wish {
        let pool = |(nodes, n): (&&[u8], u8)| Pool {
            name: format!("p{n}"),
            nodes: nodes.iter().map(|n| NodeId([*n; 16])).collect(),
        };
        Wish { pools: pools.iter().zip(0..).map(pool).collect(), only }
    }

    #[test]
    fn the_first_pool_with_room_is_taken_and_after_the_last_the_rest_unless_bound() {
        let mut nodes = candidates(4);
        let (prefer, only) = (wish(&[&[2], &[1, 9]], false), wish(&[&[2], &[1, 9]], true));
        for (full, home, next_home) in [(4, 2, 1), (2, 1, 3)] {
            nodes.iter_mut().filter(|it| it.node.0[0] == full).for_each(|it| it.limit = 0);
            let choice = assign(key(1), 1, &nodes, &[], &prefer).unwrap();
            assert_eq!(choice.home.0[0], home, "{}", choice.reason);
            assert_eq!(assign(key(1), 1, &nodes, &[], &only).unwrap().home.0[0], home);
            let standby = assign(key(1), 1, &nodes, &[], &only).unwrap().next;
            assert_eq!(standby.map(|node| node.0[0]), Some(3 - home), "also if it is full");
            if full == 4 {
                assert!(choice.reason.starts_with("pool p0, "), "{}", choice.reason);
                assert_eq!(choice.next.map(|node| node.0[0]), Some(next_home));
            } else {
                assert!(choice.reason.contains("no pool before"), "{}", choice.reason);
                assert!([0, 3].contains(&choice.next.unwrap().0[0]), "the rest has room");
            }
        }
        nodes[1].limit = 0;
        let spilt = assign(key(1), 1, &nodes, &[], &prefer).unwrap();
        assert!([0, 3].contains(&spilt.home.0[0]), "{}", spilt.reason);
        assert!(spilt.reason.contains("no room in pools p0, p1"), "{}", spilt.reason);
        assert_eq!(assign(key(1), 1, &nodes, &[], &only), None);
        let why = refusal(&nodes, &only);
        assert!(why.contains("pools p0, p1 only") && why.contains("full (2 of them)"), "{why}");
    }

    #[test]
    fn a_pool_that_no_node_matches_is_passed_over_or_named_in_the_refusal() {
        let nodes = candidates(2);
        let (prefer, only) = (wish(&[&[]], false), wish(&[&[]], true));
        assert!(assign(key(1), 1, &nodes, &[], &prefer).is_some());
        assert_eq!(assign(key(1), 1, &nodes, &[], &only), None);
        let why = refusal(&nodes, &only);
        assert!(why.contains("pool p0 only, and no node is in it"), "{why}");
        let away = refusal(&nodes, &wish(&[&[7]], true));
        assert!(away.contains("no node of it takes encoders"), "{away}");
    }

    #[test]
    fn whoever_just_failed_is_taken_only_by_who_may_be_nowhere_else() {
        let nodes = candidates(3);
        let failed = nodes[0].node;
        let (prefer, only) = (wish(&[&[0]], false), wish(&[&[0]], true));
        assert_ne!(assign(key(1), 1, &nodes, &[failed], &prefer).unwrap().home, failed);
        assert_eq!(assign(key(1), 1, &nodes, &[failed], &only).unwrap().home, failed);
        assert_eq!(next(key(1), failed, &nodes, &only), None);
    }

    proptest! {
        #[test]
        fn no_home_or_next_is_liked_less_than_another_with_room(
            nodes in any_candidates(),
            k in any::<u64>(),
            pools in proptest::collection::vec(proptest::collection::vec(0..12u8, 0..4), 0..4),
            bound in any::<bool>(),
        ) {
            let pools: Vec<&[u8]> = pools.iter().map(Vec::as_slice).collect();
            // Bound to nothing is bound to nowhere.
            let wish = wish(&pools, bound);
            let roomy = |not: Option<NodeId>| {
                let roomy = nodes.iter().filter(|it| it.load < it.limit && Some(it.node) != not);
                roomy.filter_map(|it| wish.tier(it.node)).min()
            };
            let home = assign(key(k), 1, &nodes, &[], &wish).map(|choice| choice.home);
            prop_assert_eq!(home.and_then(|home| wish.tier(home)), roomy(None));
            if let Some(home) = home {
                let standby = next(key(k), home, &nodes, &wish);
                prop_assert!(standby.is_none_or(|node| wish.tier(node).is_some()));
                if let Some(best) = roomy(Some(home)) {
                    prop_assert_eq!(standby.and_then(|node| wish.tier(node)), Some(best));
                }
            }
        }

        /// Rooms that come one by one, among others that do, to nodes with room for all.
        #[test]
        fn rooms_are_whole_wherever_they_come_as_long_as_they_fit(
            comes in proptest::collection::vec((0..6u64, any::<bool>()), 1..60),
            nodes in 1..6u8,
            busy in any::<u32>(),
        ) {
            let mut nodes = candidates(nodes);
            nodes[0].media = carries(busy);
            let size = |room: u64| comes.iter().filter(|it| **it == (room, true)).count() as u32;
            let mut at: BTreeMap<u64, BTreeMap<NodeId, u32>> = BTreeMap::new();
            for (n, (room, roomed)) in comes.iter().enumerate() {
                let home = match roomed {
                    false => assign(key(n as u64), 1, &nodes, &[], &ANY).unwrap().home,
                    true => {
                        let company = at.entry(*room).or_default();
                        let home = join(company, &nodes, &[], &ANY).unwrap_or_else(|| {
                            assign(key(*room), size(*room), &nodes, &[], &ANY).unwrap().home
                        });
                        *company.entry(home).or_default() += 1;
                        home
                    }
                };
                nodes.iter_mut().filter(|it| it.node == home).for_each(|it| it.load += 1);
            }
            prop_assert!(at.values().all(|homes| homes.len() == 1), "{at:?}");
        }

        #[test]
        fn the_order_of_candidates_is_irrelevant(
            nodes in any_candidates(),
            k in any::<u64>(),
            turn in 0..12usize,
        ) {
            let mut turned = nodes.clone();
            turned.rotate_left(turn % nodes.len().max(1));
            turned.reverse();
            let avoid: Vec<_> = nodes.iter().take(turn / 4).map(|node| node.node).collect();
            prop_assert_eq!(rank(key(k), &nodes), rank(key(k), &turned));
            prop_assert_eq!(
                assign(key(k), 1, &nodes, &avoid, &ANY),
                assign(key(k), 1, &turned, &avoid, &ANY)
            );
        }

        #[test]
        fn a_node_that_goes_moves_only_its_own(nodes in any_candidates(), k in any::<u64>()) {
            let all = rank(key(k), &nodes);
            prop_assert_eq!(all.len(), nodes.len());
            for gone in &nodes {
                let rest: Vec<_> = nodes.iter().filter(|n| n.node != gone.node).copied().collect();
                let expected: Vec<_> = all.iter().filter(|n| **n != gone.node).copied().collect();
                prop_assert_eq!(rank(key(k), &rest), expected);
            }
        }

        #[test]
        fn home_and_next_are_two_candidates(nodes in any_candidates(), k in any::<u64>()) {
            match assign(key(k), 1, &nodes, &[], &ANY) {
                None => prop_assert!(nodes.iter().all(|node| node.load >= node.limit)),
                Some(Choice { home, next: standby, .. }) => {
                    prop_assert!(nodes.iter().any(|node| node.node == home && node.load < node.limit));
                    prop_assert!(nodes.iter().any(|node| node.node == home));
                    prop_assert_eq!(standby, next(key(k), home, &nodes, &ANY));
                    prop_assert_eq!(standby.is_some(), nodes.len() > 1);
                }
            }
        }

        #[test]
        fn odd_weights_are_survived(
            weights in proptest::collection::vec(any::<f64>(), 1..6),
            k in any::<u64>(),
        ) {
            let nodes: Vec<_> = weights
                .iter()
                .zip(0u8..)
                .map(|(weight, n)| Candidate { node: NodeId([n; 16]), weight: *weight, load: n.into(), media: carries(n.into()), limit: u32::MAX })
                .collect();
            prop_assert_eq!(rank(key(k), &nodes).len(), nodes.len());
            prop_assert!(assign(key(k), 1, &nodes, &[], &ANY).is_some());
        }
    }
}
