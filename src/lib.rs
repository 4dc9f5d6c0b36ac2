//! Roost: a mesh of equal video relay servers. See `docs/architecture.md` for the bird's eye view.

pub mod admission;
pub mod agent;
pub mod cluster;
pub mod directory;
pub mod http;
pub mod id;
pub mod media;
pub mod net;
pub mod placement;
pub mod time;
pub mod webrtc;
pub mod wire;
