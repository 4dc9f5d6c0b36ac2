//! One stream's fan-out at one node: frames in from the agent or a relay, out to everyone who
//! watches here. Video passes here and nowhere near the control loop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::id::EncoderId;
use crate::media::Frame;

/// Frames that wait for one slow receiver before it is skipped to the next keyframe: two
/// seconds at 30 fps; what is older is better skipped than shown.
pub const QUEUE_FRAMES: usize = 64;

/// What a hub tells the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubEvent {
    /// The number of subscriptions changed.
    Viewers(EncoderId, u32),
    /// A receiver needs a keyframe.
    Keyframe(EncoderId),
}

/// All streams of a node.
#[derive(Clone, Debug)]
pub struct Hubs {
    hubs: Arc<Mutex<BTreeMap<EncoderId, Arc<Hub>>>>,
    events: mpsc::UnboundedSender<HubEvent>,
}
