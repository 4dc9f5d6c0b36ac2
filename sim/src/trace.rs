//! What happened: a hash of everything for comparing runs, and lines for people.

use crate::rng::mix;

/// What a run leaves behind.
pub(crate) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
    hashes: Vec<u64>,
    /// Print lines at once.
    pub(crate) loud: bool,
}

impl Trace {
    pub(crate) fn new(keep: bool, loud: bool) -> Self {
        Self { hash: 0, hashes: Vec::new(), lines: keep.then(Vec::new), loud }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }

    /// Remembers the hash so far, so that runs can be compared up to a moment.
    pub(crate) fn remember(&mut self) {
        if self.lines.is_some() {
            self.hashes.push(self.hash);
        }
    }

    pub(crate) fn take_hashes(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.hashes)
    }

    /// One thing that was sent, verdict or fault.
    pub(crate) fn add(&mut self, now: u64, from: usize, to: usize, bytes: &[u8]) {
        let place = (from as u64) << 32 | to as u64;
        let mut hash = mix(self.hash ^ mix(now) ^ place.rotate_left(17));
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = mix(hash ^ u64::from_le_bytes(word));
        }
        self.hash = hash;
    }

    /// A line for people; `text` is made only if somebody reads it.
    pub(crate) fn say(&mut self, now: u64, text: impl FnOnce() -> String) {
        if self.lines.is_none() && !self.loud {
            return;
        }
        let line = format!("{:>10.3} {}", now as f64 / 1e9, text());
        if self.loud {
            println!("{line}");
        }
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }
}
