//! The media that a node carries, as load: what encoders at home do not tell.

/// Bits per second in a Mbit/s.
const MBIT: u64 = 1_000_000;
/// What media counts for at most, in encoders: as many as one node may have. Whoever says more, by
/// mistake or falsely, is passed over as far and no further.
const UNITS_MAX: u64 = 10_000;
/// Who stands by may carry media for so many encoders more than another for each processor: some
/// fifteen viewers. Less is gone before the home dies, and ranks spread better.
pub(super) const STAND_BY_MARGIN: u32 = 50;

/// What a node says of the media that it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Media {
    /// Streams that somebody takes from it.
    pub streams: u32,
    /// Who takes them: viewers, and other nodes for theirs.
    pub viewers: u32,
    /// What it sends of them, in bits per second.
    pub egress_bps: u64,
}

impl Media {
    /// Its load, in encoders: each stream, each viewer and each Mbit/s is one. In processor time a
    /// viewer of a few Mbit/s costs as much as dozens of idle encoders, but it goes in minutes,
    /// while an encoder stays for weeks; and what is placed unevenly for its sake is evened out by
    /// counts later.
    pub fn units(&self) -> u32 {
        let all = u64::from(self.streams) + u64::from(self.viewers) + self.mbits();
        all.min(UNITS_MAX) as u32
    }

    /// What it sends, in Mbit/s.
    pub fn mbits(&self) -> u64 {
        self.egress_bps / MBIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_viewers_and_megabits_count_alike_and_no_number_is_too_large() {
        let media = Media { streams: 2, viewers: 40, egress_bps: 80_900_000 };
        assert_eq!((media.units(), media.mbits()), (122, 80));
        let false_one = Media { streams: u32::MAX, viewers: u32::MAX, egress_bps: u64::MAX };
        assert_eq!(u64::from(false_one.units()), UNITS_MAX);
        assert_eq!(Media::default().units(), 0);
    }
}
