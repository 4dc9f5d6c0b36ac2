//! `--addr`: how every command but `roost node` finds the mesh.

use roost::agent::dial::Target;

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
        value_name = "HOST:PORT,...|STRING",
        value_delimiter = ',',
        default_value = "127.0.0.1:9443"
    )]
    addr: Vec<String>,
}

impl Addr {
    /// What to dial.
    pub(crate) fn target(&self) -> Result<Target, Failure> {
        Target::parse(&self.addr).map_err(|why| {
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
