//! What a program says, a line at a time, and when.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

/// Every line so far: as JSON, or as text if it is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said(Arc<Mutex<Vec<(Instant, Value)>>>);

impl Said {
    /// Listens until the program says no more.
    pub(crate) fn of(program: impl Read + Send + 'static) -> Self {
        let said = Self::default();
        let noted = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(program).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                let mut noted = noted.0.lock().unwrap_or_else(PoisonError::into_inner);
                noted.push((Instant::now(), line));
            }
        });
        said
    }

    /// All of it that is like this.
    pub(crate) fn that(&self, wanted: impl Fn(Instant, &Value) -> bool) -> Vec<Value> {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let like = said.iter().filter(|(at, line)| wanted(*at, line));
        like.map(|(_, line)| line.clone()).collect()
    }
}
