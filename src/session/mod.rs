//! A client's stay: the node's side ([`host`]) and the client's side ([`agent`] for encoders,
//! [`viewer`] for native viewers), with the limits that both keep to.

use std::time::Duration;

pub mod agent;
pub mod host;
pub mod leg;
pub mod viewer;

/// How often a leg that carries media is pinged: six pings must be lost in a row before the
/// shortest silence limit is reached.
pub const PING_WATCHED: Duration = Duration::from_millis(40);
/// How often an idle leg is pinged: ten thousand of them cost a node 3,300 datagrams a second.
pub const PING_IDLE: Duration = Duration::from_secs(3);
/// How often an idle leg is pinged once an answer is overdue: on a path that loses one packet in
/// fifty, two pings in a row get lost every half hour on
/// every leg, eight never.
pub const PING_DOUBTED: Duration = Duration::from_millis(500);
/// Silence after which a watched home is given up, at the least. Below it, a busy machine's
/// scheduler looks like a dead one.
pub const SILENCE_WATCHED: Duration = Duration::from_millis(250);
/// The most that a jittery path may stretch [`SILENCE_WATCHED`].
pub const SILENCE_WATCHED_MAX: Duration = Duration::from_millis(1500);
/// Silence after which an idle leg is given up: one ping, and eight in doubt.
pub const SILENCE_IDLE: Duration = Duration::from_secs(8);
/// Media goes on for this long after the last viewer left: a page that reloads finds it warm.
pub const LINGER: Duration = Duration::from_secs(3);
/// A request for a stream that this node is about to host is held for this long.
pub const HOLD: Duration = Duration::from_secs(2);
/// A client must introduce itself within this time.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// Clients of one node at a time: each costs about 32 KB and a QUIC connection.
pub const SESSIONS_MAX: usize = 20_000;
/// Streams that one native viewer's connection follows at a time.
pub const FOLLOWS_MAX: usize = 64;
