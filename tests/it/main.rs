//! Tests with real processes: this executable as nodes, encoders and viewers on loopback.

mod bad_input;
mod demo;
mod harness;
mod health;
mod mesh;
mod source;
