//! Why a picture stood still, in words: what was seen between two frames.

use std::time::Duration;

use super::Viewer;
use crate::directory::SourceState;
use crate::id::{Epoch, NodeId};
use crate::time::Mono;
use crate::wire::StreamPlace;

/// Silence is told from here on: three pings in a row without an answer; one or two get lost.
const SILENCE_TOLD: Duration = Duration::from_millis(120);

/// What was seen since the newest frame.
#[derive(Debug, Default)]
pub(super) struct Meanwhile {
    /// Label of the node that the newest frame came from.
    from: String,
    /// Home and epoch at that time.
    home: Option<(NodeId, Epoch)>,
    /// The longest silence of that node that ended: from, until.
    silence: Option<(Mono, Mono)>,
    /// Why the connection to that node ended, and when it was heard last.
    ended: Option<(Mono, String)>,
    goodbye: Option<String>,
    no_signal: Option<String>,
    /// How long this viewer's own process stood still.
    own_stall: Duration,
}

impl Meanwhile {
    /// A frame came from the node with this label.
    pub(super) fn since(from: String, place: Option<&StreamPlace>) -> Self {
        let home = place.and_then(|place| Some((place.home?, place.epoch)));
        Self { from, home, ..Self::default() }
    }

    /// The node that the newest frame came from was heard again.
    pub(super) fn heard(&mut self, last: Mono, now: Mono) {
        if self.silence.is_none_or(|(from, until)| now.since(last) > until.since(from)) {
            self.silence = Some((last, now));
        }
    }

    /// The connection to that node ended.
    pub(super) fn ended(&mut self, heard: Mono, reason: &str) {
        self.ended = Some((heard, reason.to_owned()));
    }

    /// That node said that it goes.
    pub(super) fn goodbye(&mut self, reason: String) {
        self.goodbye = Some(reason);
    }

    /// The stream's place or source changed.
    pub(super) fn place(&mut self, place: &StreamPlace) {
        if let Some(SourceState::NoSignal(why)) = &place.source {
            self.no_signal = Some(why.clone());
        }
    }

    /// This viewer's process stood still: nobody else was silent.
    pub(super) fn stood_still(&mut self, late: Duration) {
        self.own_stall += late;
        self.silence = None;
    }

    /// All of it, in words.
    pub(super) fn words(&self, now: Mono, viewer: &Viewer) -> String {
        let from = &self.from;
        let mut clauses = Vec::new();
        if !self.own_stall.is_zero() {
            clauses.push(format!("this viewer stood still for {} ms", self.own_stall.as_millis()));
        }
        let leg = viewer.via.and_then(|via| viewer.legs.get(&via));
        let heard = self.ended.as_ref().map(|(heard, _)| *heard).or(leg.map(|l| l.pulse.heard));
        let silent_for = heard.map_or(Duration::ZERO, |heard| now.since(heard));
        let broken = self.silence.map_or(Duration::ZERO, |(from, until)| until.since(from));
        match &self.ended {
            Some((_, reason)) if silent_for < SILENCE_TOLD || reason != super::SILENT => {
                clauses.push(format!("the connection to {from} ended: {reason}"));
            }
            _ if silent_for >= SILENCE_TOLD => {
                clauses.push(format!("{from} fell silent {} ms before", silent_for.as_millis()));
            }
            _ if broken >= SILENCE_TOLD => {
                clauses.push(format!("{from} was silent for {} ms", broken.as_millis()));
            }
            _ => {}
        }
        if let Some(reason) = &self.goodbye {
            clauses.push(format!("{from} said goodbye: {reason}"));
        }
        let place = viewer.place.as_ref();
        let still = match place.and_then(|place| place.source.as_ref()) {
            Some(SourceState::NoSignal(why)) => Some(why),
            _ => None,
        };
        if let Some(why) = self.no_signal.as_ref().or(still) {
            clauses.push(format!("{} has no signal: {why}", viewer.config.name));
        }
        let home = place.and_then(|place| Some((place.home?, place.epoch)));
        match (self.home, home) {
            (Some((old, _)), Some((new, _))) if old != new => {
                clauses.push(format!("home moved to {}", viewer.label(Some(new))));
            }
            (Some((_, old)), Some((new, epoch))) if old != epoch => {
                clauses.push(format!("the encoder began anew at {}", viewer.label(Some(new))));
            }
            _ => {}
        }
        if clauses.is_empty() {
            clauses.push(format!("{from} answers but has no picture"));
        }
        clauses.join("; ")
    }
}
