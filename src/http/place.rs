//! Where a stream is, as pages are told: in event streams and over the legs' own channels.

use serde::Serialize;

use super::visible::Eyes;
use crate::cluster::{ClusterView, EncoderView, Liveness};
use crate::id::{EncoderId, Epoch, NodeId};

/// A node as pages know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PageNode {
    /// Which.
    pub node: NodeId,
    /// Its label.
    pub name: String,
    /// Where its pages and API are, best first.
    pub urls: Vec<String>,
    /// Believed alive by the node that says so.
    pub up: bool,
}

/// One stream's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The name that was asked for.
    pub name: String,
    /// The encoder, if any node knows it.
    pub id: Option<EncoderId>,
    /// Its home.
    pub home: Option<NodeId>,
    /// Its next.
    pub next: Option<NodeId>,
    /// `counter.instance`, the instance in 16 hexadecimal digits: a page has no 64-bit numbers.
    pub epoch: String,
    /// `live`, `idle`, `no_signal`, `native_only`, `lost`, or `unknown`.
    pub state: String,
    /// Why there is no signal, or why browsers cannot play it.
    pub reason: Option<String>,
}

/// A [`Place`] with who says so and all nodes to turn to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamState {
    /// `place`, so that it can travel among other messages.
    pub t: &'static str,
    /// The node that says so.
    pub node: NodeId,
    /// Where the stream is.
    #[serde(flatten)]
    pub place: Place,
    /// All nodes of the mesh.
    pub nodes: Vec<PageNode>,
}

/// All streams and all nodes, for a wall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MeshState {
    /// The node that says so.
    pub node: NodeId,
    /// All nodes of the mesh.
    pub nodes: Vec<PageNode>,
    /// All streams, one of each name.
    pub streams: Vec<Place>,
}

impl StreamState {
    /// What the view says of the stream `name` to whoever sees it.
    pub(super) fn of(eyes: &Eyes<'_>, view: &ClusterView, name: &str) -> Self {
        let place = match eyes.encoder(view, name) {
            Some(encoder) => Place::of(name, encoder),
            None => Place::unknown(name),
        };
        Self { t: "place", node: view.node, place, nodes: nodes(view) }
    }

    /// The same of an encoder that is known, under its full name.
    pub(super) fn of_encoder(eyes: &Eyes<'_>, view: &ClusterView, encoder: &EncoderView) -> Self {
        let name = eyes.rights.full_name(encoder.id, &encoder.name);
        Self { t: "place", node: view.node, place: Place::of(&name, encoder), nodes: nodes(view) }
    }
}

impl MeshState {
    /// What the view says of all that somebody sees.
    pub(super) fn of(eyes: &Eyes<'_>, view: &ClusterView) -> Self {
        let streams = eyes.streams(view);
        let streams = streams.iter().map(|(name, encoder)| Place::of(name, encoder)).collect();
        Self { node: view.node, nodes: nodes(view), streams }
    }
}

impl Place {
    fn of(name: &str, encoder: &EncoderView) -> Self {
        // The same words as in the API, from the same type.
        let state = serde_json::to_value(encoder.state)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default();
        let state = if encoder.native_only { "native_only".to_owned() } else { state };
        Self {
            name: name.to_owned(),
            id: Some(encoder.id),
            home: encoder.home,
            next: encoder.next,
            epoch: epoch_text(encoder.epoch),
            state,
            reason: encoder.reason.clone(),
        }
    }

    fn unknown(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: None,
            home: None,
            next: None,
            epoch: epoch_text(Epoch::default()),
            state: "unknown".to_owned(),
            reason: None,
        }
    }
}

fn epoch_text(epoch: Epoch) -> String {
    format!("{}.{:016x}", epoch.counter, epoch.instance)
}

fn nodes(view: &ClusterView) -> Vec<PageNode> {
    view.nodes
        .iter()
        .filter(|node| node.state != Liveness::Left)
        .map(|node| PageNode {
            node: node.node,
            name: node.name.clone(),
            urls: node.addrs.iter().map(|address| web_url(address)).collect(),
            up: node.state == Liveness::Up,
        })
        .collect()
}

/// Where the pages and API of a node at `address` are: plain HTTP is spoken on loopback, where it
/// spares a certificate, HTTPS everywhere else.
pub(super) fn web_url(address: &str) -> String {
    let scheme = if is_loopback(address) { "http" } else { "https" };
    format!("{scheme}://{address}")
}

/// Whether `host:port` is only reachable on the machine itself.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = super::auth::strip_port(address).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
