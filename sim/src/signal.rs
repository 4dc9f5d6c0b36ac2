//! Cameras that lose their signal, and get it back.

use rand::RngExt as _;
use roost::directory::SourceState;
use roost::session::agent::Event;

use crate::net::MS;
use crate::rng::{For, stream};
use crate::world::{Ev, World};

impl World {
    pub(crate) fn schedule_signals(&mut self) {
        for change in 0..self.plan.signals {
            let mut rng = stream(self.plan.seed, For::Signal(change));
            let at = rng.random_range(0..self.plan.healed_ms().max(1)) * MS;
            self.queue.push(at, Ev::Signal(change));
        }
    }

    pub(crate) fn change_signal(&mut self, change: usize) {
        let mut rng = stream(self.plan.seed, For::Signal(change));
        let _when: u64 = rng.random();
        let ix = rng.random_range(0..self.encoders.len().max(1));
        let host = self.host_of_encoder(ix);
        let runs = self.runs(host);
        let Some(encoder) = self.encoders.get_mut(ix).filter(|it| runs && it.agent.is_some())
        else {
            return;
        };
        encoder.signal = match encoder.signal {
            SourceState::Ready => SourceState::NoSignal("unplugged".into()),
            _ => SourceState::Ready,
        };
        let (name, signal) = (encoder.name.clone(), encoder.signal.clone());
        self.trace.say(self.now, || format!("{name} sees {signal:?}"));
        self.mark("a camera loses its signal");
        self.agent_event(ix, Event::Source(signal));
    }
}
