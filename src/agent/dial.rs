//! How native clients reach a node and know that it is the right one.
//!
//! A client has no key of its own; it verifies the node's key by the chain of admissions that the
//! node shows, up to the founder of the mesh that it expects. Only then does it say anything, its
//! credential included.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::time::timeout;

use crate::admission::{BadString, Enrolment, verify_chain};
use crate::id::{MeshId, NodeId};
use crate::net::{
    HANDSHAKE_TIMEOUT, MessageReader, MessageWriter, connect_any, lost_reason, resolve, tls,
    transport,
};
use crate::quic;
use crate::wire::{ALPN_CLIENT, ClientHello, ClientMessage, NodeMessage};

pub use crate::net::DialError;

/// The port of an address that names none.
pub const DEFAULT_PORT: u16 = 9443;

/// What `--addr` says: where to knock, and what else is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host:port`, in the order to try.
    pub addrs: Vec<String>,
    /// The mesh to expect, from an enrolment string.
    pub mesh: Option<MeshId>,
    /// The credential of an enrolment string. Secret.
    pub credential: Option<String>,
    /// Sessions that were logged in to, by their mesh: each is shown to nodes of that mesh alone,
    /// where there is no other credential. Secret.
    pub tokens: BTreeMap<MeshId, String>,
}

/// Why text names no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// Nothing there.
    #[error("an address is missing: give HOST[:PORT], several with commas, or an enrolment string")]
    Empty,
    /// Not an address.
    #[error("'{0}' is no address: give HOST[:PORT], with [..] around an IPv6 address")]
    Address(String),
    /// A damaged or wrong string.
    #[error("the enrolment string cannot be used: {0}")]
    Enrolment(BadString),
}

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let text = text.trim();
        match text.parse::<Enrolment>() {
            Ok(enrolment) => {
                return Ok(Self {
                    addrs: enrolment.addrs.iter().map(|a| address(a)).collect::<Result<_, _>>()?,
                    mesh: Some(enrolment.mesh),
                    credential: Some(enrolment.credential),
                    tokens: BTreeMap::new(),
                });
            }
            Err(BadString::NotOurs) => {}
            Err(bad) => return Err(BadTarget::Enrolment(bad)),
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let addrs = parts.map(address).collect::<Result<Vec<_>, _>>()?;
        if addrs.is_empty() {
            return Err(BadTarget::Empty);
        }
        Ok(Self { addrs, mesh: None, credential: None, tokens: BTreeMap::new() })
    }
}

/// `host:port` of `HOST[:PORT]`.
fn address(text: &str) -> Result<String, BadTarget> {
    let bad = || BadTarget::Address(text.chars().take(80).collect());
    if let Ok(ip) = text.parse::<std::net::IpAddr>() {
        return Ok(std::net::SocketAddr::new(ip, DEFAULT_PORT).to_string());
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, after) = rest.split_once(']').ok_or_else(bad)?;
            let _: std::net::Ipv6Addr = ip.parse().map_err(|_not_ipv6| bad())?;
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')) };
            match port {
                None => (&text[..=ip.len() + 1], None),
                Some(Some(port)) => (&text[..=ip.len() + 1], Some(port)),
                Some(None) => return Err(bad()),
            }
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => port.parse::<u16>().map_err(|_not_port| bad())?,
        None => DEFAULT_PORT,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let named = host.starts_with('[') || (!host.is_empty() && host.chars().all(plain));
    if !named || port == 0 || host.len() > 255 {
        return Err(bad());
    }
    Ok(format!("{host}:{port}"))
}

/// Which mesh was found at which address when a client came there first, for clients that were
/// given only an address. Kept as text, one `address mesh` per line.
#[derive(Debug, Default)]
pub struct ClientPins {
    path: Option<PathBuf>,
    known: BTreeMap<String, MeshId>,
}

impl ClientPins {
    /// Pins that last as long as this process.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Pins of a file, which may not exist yet. Lines that make no sense are an error, so that a
    /// damaged file does not silently trust anew.
    pub fn load(path: PathBuf) -> io::Result<Self> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut known = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let pin =
                line.split_once(' ').and_then(|(addr, mesh)| Some((addr, mesh.parse().ok()?)));
            let Some((addr, mesh)) = pin else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}: '{line}' is no 'address mesh'; remove it", path.display()),
                ));
            };
            known.insert(addr.to_owned(), mesh);
        }
        Ok(Self { path: Some(path), known })
    }

    /// The mesh to expect at `target`: what its enrolment says, or what was found before at any of
    /// its addresses.
    pub fn expected(&self, target: &Target) -> Option<MeshId> {
        target.mesh.or_else(|| target.addrs.iter().find_map(|addr| self.known.get(addr).copied()))
    }

    /// Remembers where a mesh was found. Errors: the file cannot be written.
    pub fn remember(&mut self, addr: &str, mesh: MeshId) -> io::Result<()> {
        if self.known.insert(addr.to_owned(), mesh) == Some(mesh) {
            return Ok(());
        }
        let Some(path) = &self.path else { return Ok(()) };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let lines = self.known.iter().map(|(addr, mesh)| format!("{addr} {mesh}\n"));
        let beside = path.with_extension("new");
        std::fs::write(&beside, lines.collect::<String>())?;
        std::fs::rename(beside, path)
    }
}

/// A connection to a verified node.
#[derive(Debug)]
pub struct Connected {
    /// Which node.
    pub node: NodeId,
    /// Of which mesh.
    pub mesh: MeshId,
    /// For datagrams and streams.
    pub connection: quic::Connection,
    /// For [`ClientMessage`]s; the hello is sent.
    pub send: MessageWriter,
    /// For [`NodeMessage`]s; the welcome, or a refusal, is what comes first.
    pub recv: MessageReader,
}

/// A process's end of all its client connections. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct ClientEndpoint {
    endpoint: quic::Endpoint,
    config: quic::ClientConfig,
    tokens: BTreeMap<MeshId, String>,
}

impl ClientEndpoint {
    /// Opens any free UDP port. Must run inside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let endpoint = transport::client_endpoint()?;
        let config = transport::client_config(ALPN_CLIENT, None).map_err(io::Error::other)?;
        Ok(Self { endpoint, config, tokens: BTreeMap::new() })
    }

    /// Shows these where a hello has no credential, to nodes of their own mesh.
    #[must_use]
    pub fn with_tokens(mut self, tokens: BTreeMap<MeshId, String>) -> Self {
        self.tokens = tokens;
        self
    }

    /// Connects to the node at `addr` (`host:port`), verifies that it belongs to `mesh` (any, if
    /// none is given) and is `expect` (anyone, likewise), and sends `hello`.
    pub async fn connect(
        &self,
        addr: &str,
        expect: Option<NodeId>,
        mesh: Option<MeshId>,
        hello: ClientHello,
    ) -> Result<Connected, DialError> {
        let resolved = resolve(addr).await?;
        let connection = connect_any(&self.endpoint, &self.config, addr, resolved).await?;
        let talk = greet(&connection, expect, mesh, hello, &self.tokens);
        let result = timeout(HANDSHAKE_TIMEOUT, talk)
            .await
            .unwrap_or_else(|_elapsed| Err(DialError::Broken("no hello in time".into())));
        match result {
            Ok((node, mesh, send, recv)) => Ok(Connected { node, mesh, connection, send, recv }),
            Err(error) => {
                connection.close(crate::net::close::REFUSED, b"not the node that was expected");
                Err(error)
            }
        }
    }

    /// Waits until what was closed is closed at the other side too, at most a second.
    pub async fn wait_idle(&self) {
        let _ = timeout(std::time::Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

type Greeted = (NodeId, MeshId, MessageWriter, MessageReader);

async fn greet(
    connection: &quic::Connection,
    expect: Option<NodeId>,
    mesh: Option<MeshId>,
    mut hello: ClientHello,
    tokens: &BTreeMap<MeshId, String>,
) -> Result<Greeted, DialError> {
    let (send, recv) =
        connection.accept_bi().await.map_err(|error| DialError::Broken(lost_reason(&error)))?;
    let (mut send, mut recv) = (MessageWriter::new(send), MessageReader::new(recv));
    let server = match recv.read().await {
        Ok(NodeMessage::Hello(server)) => server,
        Ok(NodeMessage::Failed(failed)) => return Err(DialError::Refused(failed.reason)),
        Ok(_) => return Err(DialError::Broken("the node did not say who it is".into())),
        Err(error) => return Err(DialError::Broken(error.to_string())),
    };
    let key =
        tls::peer_key(connection).ok_or_else(|| DialError::Stranger("it has no key".into()))?;
    let (mesh, node) = verify_chain(mesh, &server.chain, &server.more.0, &key)
        .map_err(|refusal| DialError::Stranger(refusal.to_string()))?;
    if let Some(wanted) = expect.filter(|wanted| *wanted != node) {
        return Err(DialError::Unexpected { wanted, got: node });
    }
    recv.trust();
    if hello.credential.is_none() {
        hello.credential = tokens.get(&mesh).cloned();
    }
    send.write(&ClientMessage::Hello(hello)).await.map_err(DialError::Broken)?;
    Ok((node, mesh, send, recv))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_default_port() {
        let target: Target = "cam.example, 10.0.0.1:99,[::1]:7,::1".parse().unwrap();
        assert_eq!(target.addrs, ["cam.example:9443", "10.0.0.1:99", "[::1]:7", "[::1]:9443"]);
        assert_eq!(target.mesh, None);
        assert_eq!("[fe80::1]".parse::<Target>().unwrap().addrs, ["[fe80::1]:9443"]);
    }

    #[test]
    fn what_is_no_address_is_named() {
        for bad in ["a b", "host:99999", "host:0", "[::1", "[::1]x", ":9443", "ho/st"] {
            assert!(matches!(bad.parse::<Target>(), Err(BadTarget::Address(_))), "{bad}");
        }
        assert_eq!(" ,".parse::<Target>(), Err(BadTarget::Empty));
    }

    #[test]
    fn an_enrolment_string_is_a_target() {
        let enrolment = Enrolment {
            addrs: vec!["10.0.0.1:9443".into()],
            mesh: MeshId([7; 16]),
            credential: "secret".into(),
        };
        let target: Target = enrolment.to_string().parse().unwrap();
        assert_eq!(target.mesh, Some(MeshId([7; 16])));
        assert_eq!(target.credential.as_deref(), Some("secret"));
        let mut damaged = enrolment.to_string();
        damaged.pop();
        assert!(matches!(damaged.parse::<Target>(), Err(BadTarget::Enrolment(_))));
    }

    #[test]
    fn a_pin_survives_the_process_and_an_enrolment_overrules_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/pins");
        let mut target: Target = "host".parse().unwrap();
        let mut pins = ClientPins::load(path.clone()).unwrap();
        assert_eq!(pins.expected(&target), None);
        pins.remember("host:9443", MeshId([1; 16])).unwrap();
        let pins = ClientPins::load(path.clone()).unwrap();
        assert_eq!(pins.expected(&target), Some(MeshId([1; 16])));
        target.mesh = Some(MeshId([2; 16]));
        assert_eq!(pins.expected(&target), Some(MeshId([2; 16])));
        std::fs::write(&path, "host:9443 nonsense").unwrap();
        assert!(ClientPins::load(path).is_err());
    }
}
