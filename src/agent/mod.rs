//! Drivers of native clients: how they find, verify and talk to nodes.

pub mod api;
pub mod dial;
