//! Drivers of native clients: how they find, verify and talk to nodes, and what they tell.

pub mod api;
pub mod dial;
mod disk;
pub mod encode;
mod event;
mod legs;
pub mod source;
pub mod view;

pub use event::{Event, Gap, Report};
