//! `--addr`: how every command but `roost node` finds the mesh, what it shows there, and what it
//! remembers of it.

use std::net::IpAddr;
use std::path::PathBuf;

use roost::agent::dial::{ClientPins, Target};
use roost::http::socket::SOCKET_FILE;

use super::call::{Mesh, Way};
use super::exit::{Exit, Failure};
use super::{node, sessions, usage};

/// Where a node on this machine is, unless something is said.
pub(crate) const HERE: &str = "127.0.0.1:9443";
/// What a socket's path follows.
pub(crate) const SOCKET: &str = "unix:";

/// Where the mesh is, and on whose behalf it is asked.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Addr {
    /// Nodes to ask, the first that answers is enough; unix:PATH is the socket in a node's data
    /// folder; or one enrolment string from `roost invite --client` [default: the socket of the
    /// node on this machine if there is one, then 127.0.0.1:9443]
    #[arg(
        long,
        env = "ROOST_ADDR",
        hide_env_values = true,
        value_name = "HOST[:PORT],...|unix:PATH|STRING"
    )]
    addr: Option<String>,
    /// File that holds a session's token; or set ROOST_TOKEN [default: what roost login keeps]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Addr {
    /// The nodes to send media to, or to take it from. What is kept of a login is shown only to
    /// nodes of its own mesh.
    pub(crate) fn target(&self) -> Result<Target, Failure> {
        let mut target = match &self.addr {
            Some(text) if text.split(',').any(|part| part.trim().starts_with(SOCKET)) => {
                return Err(usage("no pictures pass through a socket: give --addr HOST:PORT"));
            }
            text => parse(text.as_deref().unwrap_or(HERE))?,
        };
        match self.token()? {
            Some(token) => target.credential = Some(token),
            None => target.tokens = sessions::tokens()?,
        }
        Ok(target)
    }

    /// The nodes to ask something.
    pub(crate) fn mesh(&self) -> Result<Mesh, Failure> {
        let mut mesh = self.as_nobody()?;
        match self.token()? {
            Some(token) => mesh.target.credential = Some(token),
            None => {
                let known = sessions::load()?;
                // Whoever logged in is more than whoever was given a string.
                if mesh.target.mesh.is_some_and(|of| known.contains_key(&of)) {
                    mesh.target.credential = None;
                }
                // The nodes that were there at login answer when those that are given do not.
                let own = known.values().find(|session| {
                    session.nodes.iter().any(|node| mesh.target.addrs.contains(node))
                });
                if let Some(session) = own.filter(|_| self.addr.is_some()) {
                    mesh.also(&session.nodes);
                }
                mesh.target.tokens =
                    known.into_iter().map(|(of, session)| (of, session.token)).collect();
            }
        }
        Ok(mesh)
    }

    /// The nodes to ask without showing anything but what is in `--addr`: for logging in.
    pub(crate) fn as_nobody(&self) -> Result<Mesh, Failure> {
        let Some(text) = &self.addr else {
            let socket = node::default_socket_folder().join(SOCKET_FILE);
            let socket = Some(socket).filter(|path| path.exists()).map(Way::Socket);
            let target = parse(HERE)?;
            return Ok(Mesh::new(socket.into_iter().collect(), target));
        };
        let (sockets, nodes): (Vec<_>, Vec<_>) =
            text.split(',').map(str::trim).partition(|part| part.starts_with(SOCKET));
        let sockets: Vec<_> = sockets
            .into_iter()
            .map(|part| Way::Socket(PathBuf::from(part.trim_start_matches(SOCKET))))
            .collect();
        let target = match nodes.iter().all(|part| part.is_empty()) && !sockets.is_empty() {
            true => Target { addrs: vec![], mesh: None, credential: None, tokens: [].into() },
            false => parse(&nodes.join(","))?,
        };
        Ok(Mesh::new(sockets, target))
    }

    /// A token that was given. It is never an argument, which everybody on the machine could read.
    fn token(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.token_file else {
            return Ok(std::env::var("ROOST_TOKEN").ok().filter(|token| !token.is_empty()));
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(
                Exit::Usage,
                &format!("cannot read {}", path.display()),
                error,
                "give a file that holds a session's token and nothing else",
            )
        })?;
        Ok(Some(text.trim().to_owned()))
    }
}

/// Parsed here and not by `clap`, which would repeat a string that lets clients in.
fn parse(text: &str) -> Result<Target, Failure> {
    text.parse().map_err(|why| {
        Failure::new(
            Exit::Usage,
            "cannot use --addr",
            why,
            "give HOST:PORT of one or more nodes, unix:PATH, or the string that roost invite \
             --client prints",
        )
    })
}

/// What this user has found where before. Nodes on this machine are not remembered: their ports
/// change hands, as in every test and demo.
pub(crate) fn pins(target: &Target) -> Result<ClientPins, Failure> {
    let local = |addr: &String| {
        let host = addr.rsplit_once(':').map_or(addr.as_str(), |(host, _port)| host);
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    };
    let folder = sessions::config_folder();
    let Some(folder) = folder.filter(|_| !target.addrs.iter().all(local)) else {
        return Ok(ClientPins::in_memory());
    };
    ClientPins::load(folder.join("known-meshes")).map_err(|why| {
        Failure::new(
            Exit::Failed,
            "cannot read which meshes are known",
            why,
            "correct or remove that file",
        )
    })
}
