//! Where browsers find the UDP port.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::node::Node;

/// The addresses at which browsers find the UDP port: those that are advertised, resolved.
pub(super) async fn candidates(node: &Node, bound: SocketAddr) -> Vec<SocketAddr> {
    candidates_of(advertised(node).await, bound)
}

async fn advertised(node: &Node) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for addr in node.addrs() {
        match tokio::net::lookup_host(addr).await {
            Ok(resolved) => found.extend(resolved),
            Err(error) => tracing::warn!(addr, err = %error, "an advertised address is unknown"),
        }
    }
    found
}

/// Best first, as they are advertised. Loopback comes last, and only if it is listened on: it
/// serves this machine's own browsers.
fn candidates_of(advertised: Vec<SocketAddr>, bound: SocketAddr) -> Vec<SocketAddr> {
    let everywhere = bound.ip().is_unspecified();
    let own = if everywhere { ([127, 0, 0, 1], bound.port()).into() } else { bound };
    let mut all = advertised;
    all.push(own);
    all.retain(|address| !address.ip().is_loopback() || everywhere || *address == bound);
    all.sort_by_key(|address| address.ip().is_loopback());
    let mut seen = BTreeSet::new();
    all.retain(|address| seen.insert(*address));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_given_addresses_best_first_and_loopback_last() {
        let list = |text: &str| text.split(' ').map(|a| a.parse().unwrap()).collect::<Vec<_>>();
        for (advertised, bound, expected) in [
            (
                "192.168.1.2:9 10.0.0.1:9 192.168.1.2:9",
                "0.0.0.0:9",
                "192.168.1.2:9 10.0.0.1:9 127.0.0.1:9",
            ),
            ("127.0.0.1:9 192.168.1.2:9", "0.0.0.0:9", "192.168.1.2:9 127.0.0.1:9"),
            ("203.0.113.1:7 127.0.0.1:9", "10.0.0.1:9", "203.0.113.1:7 10.0.0.1:9"),
            ("127.0.0.1:9", "127.0.0.1:9", "127.0.0.1:9"),
        ] {
            let bound = bound.parse().unwrap();
            assert_eq!(
                candidates_of(list(advertised), bound),
                list(expected),
                "{advertised} {bound}"
            );
        }
    }
}
