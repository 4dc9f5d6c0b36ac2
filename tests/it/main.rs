//! Tests with real processes: this executable as nodes, encoders and viewers on loopback, and
//! where addresses matter in network namespaces.

mod backup;
mod bad_input;
mod cli;
mod demo;
mod even;
mod harness;
mod health;
mod lan;
mod ledger;
mod ledger_faults;
mod mesh;
mod operating;
mod records;
mod rights;
mod source;
mod steering;
mod stolen;
mod trust;
mod whep;
mod whip;
