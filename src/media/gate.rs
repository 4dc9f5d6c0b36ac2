//! The gate that requests for keyframes pass on their way upstream.

use std::time::Duration;

use crate::time::Mono;

/// The shortest time between two requests of one stream: the answer to a request takes about
/// that long, and many viewers who ask at once need one keyframe.
pub const REQUEST_INTERVAL: Duration = Duration::from_millis(300);

/// The longest time between two repeats: a camera that ignores requests is not asked more often
/// than it sends keyframes by itself.
pub const REQUEST_INTERVAL_MAX: Duration = Duration::from_millis(4_800);

/// What happens at a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateEvent {
    /// A receiver cannot go on without a keyframe.
    Wanted,
    /// A keyframe came: everyone is served.
    Arrived,
    /// Nobody watches any more.
    Idle,
    /// The time of [`KeyframeGate::next_wake`] has come.
    Wake,
}

/// Turns any number of requests into at most one per [`REQUEST_INTERVAL`], repeated with
/// growing intervals until a keyframe comes, since a request is lost as easily as a packet.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyframeGate {
    wanted: bool,
    sent: Option<Mono>,
    repeats: u32,
    /// Requests that were sent upstream.
    pub requests: u64,
}

impl KeyframeGate {
    /// A gate at which nobody waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an event; `true` means that one request goes upstream now.
    pub fn handle(&mut self, now: Mono, event: GateEvent) -> bool {
        match event {
            GateEvent::Wanted => self.wanted = true,
            GateEvent::Arrived | GateEvent::Idle => {
                self.wanted = false;
                self.repeats = 0;
            }
            GateEvent::Wake => {}
        }
        if self.next_wake().is_none_or(|due| now < due) {
            return false;
        }
        self.sent = Some(now);
        self.repeats += 1;
        self.requests += 1;
        true
    }

    /// The gate of another way upstream: nothing was asked there yet, and who waits here waits
    /// still.
    pub fn anew(&self) -> Self {
        Self { wanted: self.wanted, requests: self.requests, ..Self::default() }
    }

    /// Notes that a receiver waits, while there is no way upstream.
    pub fn note(&mut self) {
        self.wanted = true;
    }

    /// When the next request is due, if one is wanted; in the past means at once.
    pub fn next_wake(&self) -> Option<Mono> {
        if !self.wanted {
            return None;
        }
        let Some(sent) = self.sent else { return Some(Mono(0)) };
        let wait = REQUEST_INTERVAL * (1 << self.repeats.saturating_sub(1).min(10));
        Some(sent + wait.min(REQUEST_INTERVAL_MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    #[test]
    fn many_who_ask_at_once_cause_one_request() {
        let mut gate = KeyframeGate::new();
        assert!(gate.handle(ms(0), GateEvent::Wanted));
        for _ in 0..100 {
            assert!(!gate.handle(ms(10), GateEvent::Wanted));
        }
        assert_eq!(gate.next_wake(), Some(ms(300)));
        assert!(!gate.handle(ms(50), GateEvent::Arrived));
        assert_eq!(gate.next_wake(), None);
        assert_eq!(gate.requests, 1);
    }

    #[test]
    fn a_request_after_the_answer_waits_for_its_interval_and_is_not_forgotten() {
        let mut gate = KeyframeGate::new();
        assert!(gate.handle(ms(1_000), GateEvent::Wanted));
        assert!(!gate.handle(ms(1_050), GateEvent::Arrived));
        assert!(!gate.handle(ms(1_060), GateEvent::Wanted));
        assert_eq!(gate.next_wake(), Some(ms(1_300)));
        assert!(gate.handle(ms(1_300), GateEvent::Wake));
    }

    #[test]
    fn a_deaf_source_is_asked_less_and_less_often() {
        let mut gate = KeyframeGate::new();
        let mut now = ms(0);
        let mut waits = Vec::new();
        assert!(gate.handle(now, GateEvent::Wanted));
        for _ in 0..7 {
            let due = gate.next_wake().expect("a repeat");
            waits.push(due.since(now).as_millis());
            now = due;
            assert!(gate.handle(now, GateEvent::Wake));
        }
        assert_eq!(waits, [300, 600, 1_200, 2_400, 4_800, 4_800, 4_800]);
        gate.handle(now, GateEvent::Idle);
        assert_eq!(gate.next_wake(), None);
    }

    proptest! {
        #[test]
        fn requests_are_never_closer_than_the_interval_and_each_wish_is_served(
            events in prop::collection::vec((0u64..400, 0u8..4), 1..100),
        ) {
            let mut gate = KeyframeGate::new();
            let (mut now, mut last) = (ms(0), None::<Mono>);
            for (step, event) in events {
                now = now + Duration::from_millis(step);
                let event = match event {
                    0 => GateEvent::Wanted,
                    1 => GateEvent::Arrived,
                    2 => GateEvent::Idle,
                    _ => GateEvent::Wake,
                };
                if gate.handle(now, event) {
                    prop_assert!(last.is_none_or(|last| now.since(last) >= REQUEST_INTERVAL));
                    last = Some(now);
                }
                if event == GateEvent::Wanted {
                    let due = gate.next_wake().expect("a wish is waiting or asked for");
                    prop_assert!(due > now && due <= now + REQUEST_INTERVAL_MAX);
                }
            }
        }
    }
}
