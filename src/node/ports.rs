//! The node's two ports, one number: both are open before anything is joined or founded.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use super::NodeError;
use crate::net::UdpPort;
use crate::net::transport::udp_socket;
use crate::quic;

/// Ports tried when any will do: each is free with a chance of far more than a half.
const PORT_TRIES: u32 = 32;
/// TCP connections that wait to be accepted: as many clients may come back at once when another
/// node dies. The kernel may grant fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// Both ports, open.
pub(super) struct Ports {
    pub(super) udp: UdpPort,
    pub(super) tcp: TcpListener,
    /// The address of both.
    pub(super) addr: SocketAddr,
}

impl Ports {
    /// Opens both at `listen`, or TCP alone if there is a `socket` already; for port 0, at one that
    /// is free for both.
    pub(super) fn open(
        listen: SocketAddr,
        socket: Option<Arc<dyn quic::AsyncUdpSocket>>,
    ) -> Result<Self, NodeError> {
        let mut tries = if listen.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            let refused = |which, error: io::Error| refusal(which, listen, &error);
            let tcp = tcp_listener(listen).map_err(|error| refused("TCP", error))?;
            let addr = tcp.local_addr().map_err(|error| refused("TCP", error))?;
            if let Some(socket) = socket {
                return Ok(Self { udp: UdpPort::Other(socket), tcp, addr });
            }
            tries -= 1;
            match udp_socket(addr) {
                Ok(udp) => return Ok(Self { udp: UdpPort::Open(udp), tcp, addr }),
                Err(error) if tries == 0 || error.kind() != ErrorKind::AddrInUse => {
                    return Err(refused("UDP", error));
                }
                Err(_taken) => {}
            }
        }
    }
}

fn tcp_listener(listen: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    // A second call to listen(2) does no more than to change the backlog.
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// What the system says about an address, in words.
fn refusal(which: &str, listen: SocketAddr, error: &io::Error) -> NodeError {
    match error.kind() {
        ErrorKind::AddrInUse => NodeError::InUse(format!(
            "{which} port {} is taken by another program; choose another with --listen, or stop it",
            listen.port()
        )),
        // It may come with the network, a moment after the machine has started: worth another try.
        ErrorKind::AddrNotAvailable => NodeError::Failed(format!(
            "cannot listen on {listen}: this machine does not have the address {}; choose one of \
             its own with --listen, or 0.0.0.0 for all of them",
            listen.ip()
        )),
        ErrorKind::PermissionDenied => NodeError::Configuration(format!(
            "cannot listen on {listen}: this user may not open {which} port {}; choose one above \
             1023 with --listen, or give the process the capability CAP_NET_BIND_SERVICE",
            listen.port()
        )),
        _ => NodeError::Failed(format!("cannot listen on {listen}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_taken_on_either_side_is_told_from_an_address_that_cannot_be_had() {
        let said = |kind: ErrorKind| {
            refusal("UDP", "192.0.2.1:443".parse().unwrap(), &io::Error::from(kind))
        };
        let NodeError::InUse(words) = said(ErrorKind::AddrInUse) else { panic!("another kind") };
        assert!(words.contains("443") && words.contains("taken"), "{words}");
        let NodeError::Failed(words) = said(ErrorKind::AddrNotAvailable) else { panic!("another") };
        assert!(words.contains("does not have the address 192.0.2.1"), "{words}");
        let NodeError::Configuration(words) = said(ErrorKind::PermissionDenied) else {
            panic!("another kind")
        };
        assert!(words.contains("CAP_NET_BIND_SERVICE") && words.contains("--listen"), "{words}");
    }

    #[test]
    fn any_port_is_one_that_is_free_for_both() {
        let ports = Ports::open("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let UdpPort::Open(udp) = &ports.udp else { panic!("the system's") };
        assert_eq!(udp.local_addr().unwrap(), ports.addr);
        assert_eq!(ports.tcp.local_addr().unwrap(), ports.addr);
        assert!(matches!(Ports::open(ports.addr, None), Err(NodeError::InUse(_))));
        let Ports { udp, tcp, addr } = ports;
        drop(tcp);
        assert!(
            matches!(Ports::open(addr, None), Err(NodeError::InUse(words)) if words.contains("UDP"))
        );
        drop(udp);
    }
}
