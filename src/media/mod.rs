//! What Roost knows about video: packets and frames, H.264, the group-of-pictures cache, the gate
//! for keyframe requests and the rewriting of sequence numbers. Pure; nothing here waits.

pub mod assemble;
mod bits;
pub mod clock;
pub mod depacketise;
pub mod gate;
pub mod gop;
pub mod h264;
pub mod inspect;
pub mod nack;
pub mod pace;
pub mod packet;
pub mod packetise;
pub mod rewrite;
pub mod rtp;

pub use assemble::{Assembled, Assembler};
pub use gate::{GateEvent, KeyframeGate, REQUEST_INTERVAL};
pub use gop::GopCache;
pub use h264::{AccessUnit, AccessUnits};
pub use nack::Nack;
pub use pace::{Pace, Silence};
pub use packet::{CLOCK_RATE, Frame, MAX_PAYLOAD, Packet};
pub use packetise::Packetiser;
pub use rewrite::Rewriter;
