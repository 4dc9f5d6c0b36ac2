//! Streams of randomness that do not disturb each other: each is a function of the seed and of
//! what it is for, so that dropping one fault from a plan leaves all others as they were.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// What a stream is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum For {
    /// Order of what happens at the same instant.
    Order,
    /// The plan itself.
    Plan,
    /// Packets from one host to another.
    Path(usize, usize),
    /// A host's start: its machines and its own timing.
    Host(usize, u64),
    /// What comes first in a plan of common faults.
    First,
    /// The stormy part of a plan.
    Storm,
    /// The rare part of a plan.
    Rare,
    /// Who is shut out, let in and given another key.
    Trust,
    /// What people want of nodes and encoders.
    Steer,
    /// Meshes whose loads become even.
    Even,
    /// Which of the plans that are kept is played.
    Kept,
    /// A change that somebody makes.
    Edit(usize),
    /// A stream key that is made or taken away.
    StreamKey(u64),
    /// A camera that loses its signal or gets it back.
    Signal(usize),
    /// What a publisher does.
    Publisher(usize),
    /// Who publishes.
    Publishers,
    /// When a node hears others' reports.
    Reports(usize, u64),
    /// Keys and names that last for a run.
    Birth(usize),
}

/// The stream of `seed` for this purpose.
pub(crate) fn stream(seed: u64, purpose: For) -> ChaCha8Rng {
    let (kind, a, b) = match purpose {
        For::Order => (1, 0, 0),
        For::Plan => (2, 0, 0),
        For::Path(from, to) => (3, from as u64, to as u64),
        For::Host(host, life) => (4, host as u64, life),
        For::Edit(edit) => (7, edit as u64, 0),
        For::StreamKey(wish) => (24, wish, 0),
        For::Signal(change) => (20, change as u64, 0),
        For::Birth(host) => (5, host as u64, 0),
        For::Reports(host, at) => (18, host as u64, at),
        For::First => (21, 0, 0),
        For::Publisher(publisher) => (22, publisher as u64, 0),
        For::Publishers => (23, 0, 0),
        For::Trust => (8, 0, 0),
        For::Steer => (9, 0, 0),
        For::Even => (17, 0, 0),
        For::Rare => (6, 0, 0),
        For::Storm => (16, 0, 0),
        For::Kept => (19, 0, 0),
    };
    let mixed = [kind, a, b].into_iter().fold(seed, |state, word| mix(state ^ mix(word)));
    ChaCha8Rng::seed_from_u64(mixed)
}

/// The finaliser of splitmix64.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
