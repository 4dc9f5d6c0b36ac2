//! The addresses of a node: as it is told, or else those of this machine.

use std::net::SocketAddr;

use super::NodeError;
use crate::admission::ADDRS_MAX;
use crate::membership::GOSSIP_ADDR_MAX;

/// Networks on which a node without a default route advertises itself: as many addresses as a
/// member is dialled at.
const ADVERTISED_MAX: usize = 2;

/// Whether others take these addresses: from a node that says more, they take nothing.
pub(super) fn check(advertise: &[String]) -> Result<(), NodeError> {
    if advertise.len() > ADDRS_MAX {
        return Err(NodeError::Configuration(format!(
            "{} addresses are advertised, and others take {ADDRS_MAX} of a node at most; keep the \
             best with --advertise",
            advertise.len()
        )));
    }
    if let Some(long) = advertise.iter().find(|addr| addr.len() > GOSSIP_ADDR_MAX) {
        return Err(NodeError::Configuration(format!(
            "`{long}` cannot be advertised: it has {} bytes, and others take {GOSSIP_ADDR_MAX} at \
             most; give a shorter name of this machine, or its address, with --advertise",
            long.len()
        )));
    }
    Ok(())
}

/// How others reach a node that listens at `bound` and is told to `advertise` these.
pub(super) fn of(advertise: Vec<String>, bound: SocketAddr) -> Vec<String> {
    match advertise.is_empty() {
        false => advertise,
        true if bound.ip().is_unspecified() => own_addresses(bound),
        true => vec![bound.to_string()],
    }
}

/// The address that this machine would use to reach others, without sending anything.
fn own_addresses(listen: SocketAddr) -> Vec<String> {
    let probe = |local: &str, far: &str| -> Option<std::net::IpAddr> {
        let socket = std::net::UdpSocket::bind(local).ok()?;
        socket.connect(far).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    // Addresses of RFC 5737 and RFC 3849, routed like any other; no packet leaves.
    let found = [probe("0.0.0.0:0", "192.0.2.1:9"), probe("[::]:0", "[2001:db8::1]:9")];
    let mut addrs: Vec<String> = found
        .into_iter()
        .flatten()
        .filter(|ip| !ip.is_unspecified() && (listen.is_ipv6() || ip.is_ipv4()))
        .map(|ip| SocketAddr::new(ip, listen.port()).to_string())
        .collect();
    if addrs.is_empty() {
        // No default route: a network of its own, as cameras often have. Every network that is
        // attached has a route, and an address of this machine on it.
        let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
        for network in attached_networks(&routes) {
            let found = probe("0.0.0.0:0", &format!("{network}:9"));
            addrs.extend(found.map(|ip| SocketAddr::new(ip, listen.port()).to_string()));
        }
        addrs.dedup();
    }
    if addrs.is_empty() {
        tracing::warn!(
            "this machine has no address but its own loopback: nobody else can reach this node; \
             name one with --advertise, or start it again once the network is there"
        );
        addrs.push(format!("127.0.0.1:{}", listen.port()));
    }
    addrs
}

/// An address on each IPv4 network that the kernel's routing table knows, other than by default
/// (`/proc/net/route`: destinations in hexadecimal, in the byte order of the machine).
fn attached_networks(table: &str) -> Vec<std::net::Ipv4Addr> {
    let destination = |line: &str| {
        let field = line.split_whitespace().nth(1)?;
        let network = u32::from_be(u32::from_str_radix(field, 16).ok()?);
        // The network's own address is not one that a socket connects to; its first host is.
        (network != 0).then(|| std::net::Ipv4Addr::from(network | 1))
    };
    table.lines().skip(1).filter_map(destination).take(ADVERTISED_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_or_longer_addresses_than_others_take_are_refused() {
        let refused = |advertise: &[String]| match check(advertise) {
            Err(NodeError::Configuration(words)) => words,
            other => panic!("{other:?}"),
        };
        let (short, long) = ("n1:9443".to_owned(), format!("{}:9443", "n".repeat(195)));
        check(&vec![short.clone(); 8]).unwrap();
        check(&[format!("{}:9443", "n".repeat(195))]).unwrap();
        assert!(refused(&vec![short; 9]).contains("9 addresses"));
        assert!(refused(&[format!("n{long}")]).contains("201 bytes"));
    }

    #[test]
    fn the_networks_of_a_machine_without_a_default_route_are_found() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth0\t0000580A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
                     eth0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\n\
                     broken\n";
        assert_eq!(attached_networks(table), [std::net::Ipv4Addr::new(10, 88, 0, 1)]);
        assert_eq!(attached_networks(""), Vec::<std::net::Ipv4Addr>::new());
    }
}
