//! `--addr`: how every command but `roost node` finds the mesh, and what it remembers of it.

use std::net::IpAddr;
use std::path::PathBuf;

use roost::agent::dial::{ClientPins, Target};

use super::exit::{Exit, Failure};

/// Where the mesh is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Addr {
    /// Nodes to ask, the first that answers is enough; or one enrolment string from
    /// `roost invite --client`
    #[arg(
        long,
        env = "ROOST_ADDR",
        hide_env_values = true,
        value_name = "HOST[:PORT],...|STRING",
        default_value = "127.0.0.1:9443"
    )]
    addr: String,
}

impl Addr {
    /// What to dial. Parsed here and not by `clap`, which would repeat a string that lets
    /// clients in.
    pub(crate) fn target(&self) -> Result<Target, Failure> {
        self.addr.parse().map_err(|why| {
            Failure::new(
                Exit::Usage,
                "cannot use --addr",
                why,
                "give HOST:PORT of one or more nodes, or the string that roost invite --client \
                 prints",
            )
        })
    }
}

/// What this user has found where before. Nodes on this machine are not remembered: their ports
/// change hands, as in every test and demo.
pub(crate) fn pins(target: &Target) -> Result<ClientPins, Failure> {
    let local = |addr: &String| {
        let host = addr.rsplit_once(':').map_or(addr.as_str(), |(host, _port)| host);
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    };
    let Some(path) = pins_file().filter(|_| !target.addrs.iter().all(local)) else {
        return Ok(ClientPins::in_memory());
    };
    ClientPins::load(path).map_err(|why| {
        Failure::new(
            Exit::Failed,
            "cannot read which meshes are known",
            why,
            "correct or remove that file",
        )
    })
}

fn pins_file() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(std::env::home_dir()?.join(".config")))?;
    Some(config.join("roost/known-meshes"))
}
