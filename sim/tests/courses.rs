//! In calm courses everything happens as often as usual. Where that is meant to change:
//! `roost-sim courses --record sim/rates.json`.

use roost_sim::{Rates, courses};

/// Every second course, from this one on: so many that cores share the work.
fn as_usual(from: usize) {
    let mut rates = Rates::default();
    let mut unusual = Vec::new();
    for course in courses().expect("every file is a plan").iter().skip(from).step_by(4) {
        rates.play(course, 0, false).expect("every promise is kept");
        unusual.extend(rates.unusual(&course.name));
    }
    assert!(unusual.is_empty(), "{}", unusual.join("\n"));
}

#[test]
fn courses_1_5_9_and_13_are_as_usual() {
    as_usual(0);
}

#[test]
fn courses_2_6_10_and_14_are_as_usual() {
    as_usual(1);
}

#[test]
fn courses_3_7_11_and_15_are_as_usual() {
    as_usual(2);
}

#[test]
fn courses_4_8_12_and_16_are_as_usual() {
    as_usual(3);
}
