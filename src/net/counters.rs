//! What the network side dropped, refused or lost, by cause.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Every drop and refusal of the network side since the start.
        #[derive(Debug, Default)]
        pub struct NetCounters { $($(#[doc = $doc])* pub $name: Counter,)* }

        impl NetCounters {
            /// All counters: name, meaning, value.
            pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),*).trim_ascii(), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Datagrams that are neither QUIC nor WebRTC.
    noise,
    /// WebRTC datagrams dropped because the WebRTC driver is behind.
    rtc_queue_full,
    /// Datagrams of links dropped because the control loop is behind.
    datagrams_in_dropped,
    /// Datagrams of links not sent because the link's queue was full.
    datagrams_out_dropped,
    /// Datagrams of links not sent because there is no link or they do not fit.
    datagrams_out_refused,
    /// Connection attempts ignored because too many were unverified.
    handshakes_ignored,
    /// Connection attempts sent back to prove their address.
    handshakes_retried,
    /// Connection attempts that failed in TLS or QUIC.
    handshakes_failed,
    /// Connection attempts that took too long.
    handshakes_timed_out,
    /// Connections without a key of their own where one is needed.
    handshakes_without_key,
    /// Connections of strangers and members of other meshes that were refused.
    handshakes_refused,
    /// Dials that failed.
    dials_failed,
    /// Second links to a node that gave way to the first.
    links_duplicate,
    /// Links closed because the other side does not read.
    links_overflowed,
    /// Newcomers that were refused.
    joins_refused,
    /// Messages that did not decode.
    malformed,
    /// Messages with a tag of a newer version, skipped.
    unknown_tags,
    /// Gossip messages dropped because they were over the limit, late or there was no link.
    gossip_dropped,
}
