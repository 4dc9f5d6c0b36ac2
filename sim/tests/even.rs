//! A thousand encoders whose nodes join, leave, die and return.

#[test]
fn a_thousand_encoders_are_even_again_after_whatever_happens_to_four_nodes() {
    let evenly = roost_sim::even(4, 1_000, 20, 1);
    assert_eq!(evenly.violation, None);
    assert_eq!(evenly.changes.len(), roost_sim::CHANGES.len(), "{evenly:#?}");
    for (what, change) in roost_sim::CHANGES.iter().zip(&evenly.changes) {
        let (most, least) = change.counts;
        assert!(most - least <= 1, "{what}: {change:?}");
        assert!(change.moves * 100 <= change.needed * 105, "{what}: {change:?}");
    }
    assert!(evenly.changes[1].needed == 250, "a quarter goes to the one that joins");
    assert_eq!(evenly.rest, 0, "an hour without a move");
}
