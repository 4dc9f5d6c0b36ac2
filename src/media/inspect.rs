//! What every source of a stream sees to, whoever it is: that a decoder can start at each keyframe,
//! and that browsers can play it.

use std::collections::BTreeMap;

use super::AccessUnit;
use super::h264::{Sps, nal, parameter_set_id};

/// The longest parameter set that is kept, in bytes: real ones have a few dozen.
const MAX_SET: usize = 4096;

/// The parameter sets of a stream so far.
#[derive(Debug, Default)]
pub struct ParameterSets {
    sets: BTreeMap<(u8, u32), Vec<u8>>,
}

impl ParameterSets {
    /// Remembers what the picture brings, and puts parameter sets in front of an IDR picture that
    /// comes without.
    pub fn complete(&mut self, unit: &mut AccessUnit) {
        for set in &unit.nals {
            if let Some(id) = parameter_set_id(set).filter(|&id| id < 256)
                && set.len() <= MAX_SET
            {
                self.sets.insert((nal::kind(set), id), set.clone());
            }
        }
        if unit.keyframe {
            let lacking = [nal::SPS, nal::PPS].map(|kind| unit.find(kind).is_none());
            let known =
                self.sets.iter().filter(|((kind, _), _)| lacking[usize::from(*kind == nal::PPS)]);
            let known: Vec<Vec<u8>> = known.map(|(_, set)| set.clone()).collect();
            unit.nals.splice(0..0, known);
        }
    }
}

/// What is said of a stream that browsers refuse; `None` as long as they play it.
pub fn native_only(what: &str, unit: &AccessUnit, remedy: &Remedy) -> Option<String> {
    if unit.bidirectional() {
        let remedy = remedy.order;
        return Some(format!(
            "{what} has B-frames, which browsers cannot play: they show nearly nothing of it. \
             Turn them off {remedy}"
        ));
    }
    let sps = Sps::parse(unit.find(nal::SPS)?)?;
    let kind = match sps.profile {
        // Baseline, Main and High are what browsers decode (RFC 7742 §6.2 asks for the first).
        66 | 77 | 100 => return None,
        88 => "the Extended profile",
        110 => "10 bits per sample",
        122 => "4:2:2 colour",
        44 | 244 => "4:4:4 colour",
        _ => "an unusual profile",
    };
    let remedy = remedy.colour;
    Some(format!("{what} has {kind}, which browsers cannot play. Choose profile High {remedy}"))
}

/// Where people change what browsers cannot play.
#[derive(Debug)]
pub struct Remedy {
    /// The order of pictures.
    pub order: &'static str,
    /// Profile and colour.
    pub colour: &'static str,
}
