//! Roost: a mesh of equal video relay servers. See `docs/architecture.md` for the bird's eye view.

// -- decide: pure, no socket, clock, disk or task --
pub mod access;
pub mod accounts;
pub mod admission;
pub mod cluster;
pub mod control;
pub mod directory;
pub mod grow;
pub mod id;
pub mod media;
pub mod membership;
pub mod peering;
pub mod placement;
pub mod session;
pub mod time;
pub mod wire;
// -- do: thin drivers --
pub mod agent;
pub mod flow;
pub mod http;
pub mod hub;
pub mod net;
pub mod node;
pub mod quic;
pub mod store;
pub mod webrtc;
