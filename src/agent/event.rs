//! What agents and viewers tell while they run, in words and as JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An agent is at home.
    Home {
        /// Label of the node.
        node: String,
        /// Under this epoch.
        epoch: String,
        /// Why it moved, if it did.
        moved: Option<String>,
        /// From the first doubt about the old home to the claim at the new one, as the agent
        /// measured it.
        healed_ms: Option<u64>,
    },
    /// An agent keeps a warm session there.
    Next {
        /// Label of the node.
        node: String,
    },
    /// Somebody watches, or nobody does any more.
    Watched {
        /// Which of the two.
        watched: bool,
    },
    /// The source gives a picture.
    Source {
        /// What it is, in words.
        describe: String,
    },
    /// The source gives none.
    NoSignal {
        /// Why, in words.
        reason: String,
    },
    /// Something that people should know.
    Warning {
        /// In words.
        reason: String,
    },
    /// No node, or no stream, at present.
    Waiting {
        /// Why, in words.
        reason: String,
    },
    /// Refused.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// A viewer's picture comes from there.
    Via {
        /// Label of the node.
        node: String,
        /// Milliseconds since 1970.
        at: u64,
    },
    /// A viewer's picture stood still.
    Gap(Gap),
    /// A viewer's last second.
    Second {
        /// Frames shown.
        frames: u64,
        /// Packets lost.
        lost: u64,
        /// For how long what was shown lacked something: from a loss to the next keyframe.
        damaged_ms: u64,
        /// From the test picture's clock, if there is one.
        latency_ms: Option<f64>,
        /// Label of the node that it comes from.
        via: String,
    },
    /// A viewer's summary.
    Report(Report),
}

/// A time without a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// From the last frame before to the first after, or to the end of watching.
    pub ms: u64,
    /// Milliseconds since 1970 of the last frame before.
    pub at: u64,
    /// Why, as far as the viewer could tell.
    pub cause: String,
    /// Where the picture came from before.
    pub from: String,
    /// And after; empty if there is none.
    pub to: String,
    /// Whether a picture came again; `false` if there was none until watching ended.
    pub over: bool,
}

/// What a viewer saw.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The stream.
    pub name: String,
    /// Seconds from the start to the first frame.
    pub first_frame_s: Option<f64>,
    /// Frames shown.
    pub frames: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// Packets that never came.
    pub lost: u64,
    /// For how long what was shown lacked something: from each loss to the next keyframe.
    pub damaged_ms: u64,
    /// Frames that were not written, since whoever reads the output was too slow.
    pub unwritten: u64,
    /// Frame numbers that the test picture skipped, if it has a clock.
    pub skipped: Option<u64>,
    /// Frames whose clock was earlier than that of one shown before.
    pub backwards: u64,
    /// Half of the frames were at most this old, by the test picture's clock.
    pub latency_p50_ms: Option<f64>,
    /// All but one in a hundred.
    pub latency_p99_ms: Option<f64>,
    /// Every time without a picture.
    pub gaps: Vec<Gap>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home { node, epoch, moved: None, .. } => {
                write!(f, "home is {node} (epoch {epoch})")
            }
            Self::Home { node, epoch, moved: Some(why), healed_ms } => {
                write!(f, "moved to {node} (epoch {epoch}): {why}")?;
                healed_ms.map_or(Ok(()), |ms| write!(f, "; {ms} ms"))
            }
            Self::Next { node } => write!(f, "next is {node}"),
            Self::Watched { watched: true } => f.write_str("somebody watches: sending"),
            Self::Watched { watched: false } => f.write_str("nobody watches: idle"),
            Self::Source { describe } => write!(f, "source: {describe}"),
            Self::NoSignal { reason } => write!(f, "no signal: {reason}"),
            Self::Warning { reason } => write!(f, "warning: {reason}"),
            Self::Waiting { reason } => write!(f, "waiting: {reason}"),
            Self::Refused { reason } => write!(f, "refused: {reason}"),
            Self::Via { node, .. } => write!(f, "picture comes from {node}"),
            Self::Gap(gap) => write!(f, "{gap}"),
            Self::Second { frames, lost, damaged_ms, latency_ms, via } => {
                write!(f, "{frames} frames from {via}, {lost} packets lost")?;
                if *damaged_ms > 0 {
                    write!(f, ", damaged for {damaged_ms} ms")?;
                }
                latency_ms.map_or(Ok(()), |ms| write!(f, ", {ms:.0} ms old"))
            }
            Self::Report(report) => write!(f, "{report}"),
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ms, cause, from, to, over, .. } = self;
        match over {
            true => write!(f, "no picture for {ms} ms ({from} -> {to}): {cause}"),
            false => write!(f, "no picture for {ms} ms, until the end ({from}): {cause}"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} frames, {} packets lost", self.name, self.frames, self.lost)?;
        if self.damaged_ms > 0 {
            write!(f, ", damaged for {} ms", self.damaged_ms)?;
        }
        if self.unwritten > 0 {
            write!(f, ", {} frames not written: their reader was too slow", self.unwritten)?;
        }
        if let (Some(p50), Some(p99)) = (self.latency_p50_ms, self.latency_p99_ms) {
            write!(f, ", latency p50 {p50:.0} ms, p99 {p99:.0} ms")?;
        }
        write!(f, ", {} gaps", self.gaps.len())?;
        self.gaps.iter().try_for_each(|gap| write!(f, "\n  {gap}"))
    }
}
