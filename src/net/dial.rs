//! From a name to a connection: all addresses of it, a little after each other.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{sleep, timeout};

use super::message::lost_reason;
use super::mux::canonical;
use super::{DialError, HANDSHAKE_TIMEOUT, tls};
use crate::quic;
use crate::quic::Connection;

/// Between dials to several addresses of one name: the next starts while the first may still
/// answer (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(200);

/// Addresses that are tried of one name.
const ADDRESSES_MAX: usize = 8;

/// All addresses of `host:port`.
pub(crate) async fn resolve(addr: &str) -> Result<Vec<SocketAddr>, DialError> {
    let no_address = |reason: String| DialError::NoAddress { addr: addr.to_owned(), reason };
    match timeout(HANDSHAKE_TIMEOUT, tokio::net::lookup_host(addr)).await {
        Ok(Ok(found)) => {
            let found: Vec<_> = found.take(ADDRESSES_MAX).collect();
            if found.is_empty() { Err(no_address("the name has none".into())) } else { Ok(found) }
        }
        Ok(Err(error)) => Err(no_address(error.to_string())),
        Err(_elapsed) => Err(no_address("the name server does not answer".into())),
    }
}

/// Dials all of `resolved`, a little after each other; the first to answer wins.
pub(crate) async fn connect_any(
    endpoint: &quic::Endpoint,
    config: &quic::ClientConfig,
    addr: &str,
    resolved: Vec<SocketAddr>,
) -> Result<Connection, DialError> {
    let speaks_ipv6 = endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
    let mut dials: FuturesUnordered<_> = resolved
        .into_iter()
        .map(canonical)
        .filter(|to| to.is_ipv4() || speaks_ipv6)
        .enumerate()
        .map(|(nth, to)| async move {
            sleep(STAGGER * u32::try_from(nth).unwrap_or(0)).await;
            let connecting = endpoint
                .connect_with(config.clone(), to, tls::SERVER_NAME)
                .map_err(|error| error.to_string())?;
            connecting.await.map_err(|error| lost_reason(&error))
        })
        .collect();
    let mut last = None;
    let first = async {
        while let Some(result) = dials.next().await {
            match result {
                Ok(connection) => return Some(connection),
                Err(reason) => last = Some(reason),
            }
        }
        None
    };
    match timeout(HANDSHAKE_TIMEOUT, first).await {
        Ok(Some(connection)) => Ok(connection),
        Ok(None) => Err(match last {
            Some(reason) => DialError::Unreachable { addr: addr.to_owned(), reason },
            None => DialError::NoAddress {
                addr: addr.to_owned(),
                reason: "it has only IPv6 addresses, and this port is bound to IPv4".into(),
            },
        }),
        Err(_elapsed) => Err(DialError::Unreachable {
            addr: addr.to_owned(),
            reason: last.unwrap_or_else(|| "no answer".into()),
        }),
    }
}
