//! In calm courses everything happens as often as usual. Where that is meant to change:
//! `roost-sim courses --record sim/rates.json`.

use roost_sim::{Rates, courses};

/// Fewer than `roost-sim courses` plays: what is far off shows.
const SEEDS: u64 = 3;

/// Every fourth course, from this one on, so that cores share the work.
fn as_usual(from: usize) {
    let mut rates = Rates::under(0..SEEDS);
    let mut unusual = Vec::new();
    for course in courses().expect("every file is a plan").iter().skip(from).step_by(4) {
        rates.play(course).expect("every promise is kept");
        unusual.extend(rates.unusual(&course.name));
    }
    assert!(unusual.is_empty(), "{}", unusual.join("\n"));
}

macro_rules! lots {
    ($($name:ident = $from:expr,)*) => {
        $(#[test] fn $name() { as_usual($from) })*
    };
}

lots! {
    courses_from_the_first_are_as_usual = 0,
    courses_from_the_second_are_as_usual = 1,
    courses_from_the_third_are_as_usual = 2,
    courses_from_the_fourth_are_as_usual = 3,
}
