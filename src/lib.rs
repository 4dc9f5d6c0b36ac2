//! Roost: a mesh of equal video relay servers. See `docs/architecture.md` for the bird's eye view.

pub mod admission;
pub mod cluster;
pub mod directory;
pub mod id;
pub mod media;
pub mod membership;
pub mod peering;
pub mod time;
pub mod wire;
