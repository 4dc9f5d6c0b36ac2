//! Many encoders whose nodes join, leave, die and return.

use roost_sim::{CHANGES, Evenly, even};

fn evens(nodes: usize, encoders: usize, viewers: usize, more_s: u64) -> Evenly {
    let evenly = even(nodes, encoders, viewers, 1, more_s);
    assert_eq!(evenly.violation, None);
    assert_eq!(evenly.changes.len(), CHANGES.len(), "{evenly:#?}");
    for (what, change) in CHANGES.iter().zip(&evenly.changes) {
        let (most, least) = change.counts;
        assert!(most - least <= 1, "{what}: {change:?}");
        assert!(change.moves * 100 <= change.needed * 105, "{what}: {change:?}");
    }
    evenly
}

#[test]
fn hundreds_of_encoders_are_even_again_whatever_happens_to_one_of_four_nodes() {
    let evenly = evens(4, 240, 12, 1);
    assert_eq!(evenly.changes[1].needed, 60, "a quarter goes to the one that joins");
}

#[test]
fn what_is_even_stays_as_it_is_for_an_hour() {
    assert_eq!(evens(3, 24, 3, 3_600).rest, 0);
}
