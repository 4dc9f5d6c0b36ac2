//! What Roost knows about video: packets and frames, H.264, the group-of-pictures cache, the gate
//! for keyframe requests and the rewriting of sequence numbers. Pure; nothing here waits.

pub mod packet;

pub use packet::{CLOCK_RATE, Frame, MAX_PAYLOAD, Packet};
