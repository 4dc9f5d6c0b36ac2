//! `roost invite`: one string that lets nodes, or clients, in.

use std::time::Duration;

use roost::id::{self, NAME_MAX};
use serde::{Deserialize, Serialize};

use super::addr::Addr;
use super::exit::Failure;
use super::{duration, out};

/// Arguments of `roost invite`.
#[derive(Debug, clap::Args)]
pub(crate) struct Invite {
    #[command(flatten)]
    addr: Addr,
    /// How many nodes may join with it
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    uses: u32,
    /// How long it is valid, like 90s, 15m, 24h, 7d; at most 31d
    #[arg(long, value_name = "D", value_parser = duration::parse, default_value = "24h")]
    expires: Duration,
    /// For encoders, viewers and the command line instead of nodes
    #[arg(long, conflicts_with = "uses")]
    client: bool,
    /// Print the API's whole answer
    #[arg(long)]
    json: bool,
}

/// What the API is asked for.
#[derive(Debug, Serialize)]
struct Request {
    client: bool,
    uses: u32,
    expires_s: u64,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    /// The string.
    invitation: String,
    /// Of one for clients: what ends it when it is removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    enrolment: Option<String>,
    /// Whatever else a newer node tells.
    #[serde(flatten)]
    more: serde_json::Map<String, serde_json::Value>,
}

/// Prints the string on standard output, and what to do with it on standard error.
pub(crate) async fn run(args: Invite) -> Result<(), Failure> {
    let mesh = args.addr.mesh()?;
    let request =
        Request { client: args.client, uses: args.uses, expires_s: args.expires.as_secs() };
    let answer: Answer =
        mesh.post("/api/v1/invitations", &request, "cannot make an invitation").await?;
    if args.json {
        return out::json(&answer);
    }
    if let Some(id) = &answer.enrolment {
        out::talk(&format!(
            "Use it as --addr of roost encode, view, status and invite, or in a browser as \
             https://NODE:9443/?token=... Whoever has it is let in, until it is over or somebody \
             ends it: roost enrolment rm {}",
            id.get(..8).unwrap_or(id)
        ));
    } else {
        out::talk("On the new machine: roost node --join '...'. Whoever has it can join.");
    }
    out::line(&answer.invitation)
}

/// A name for `clap`: what encoders and nodes may be called.
pub(crate) fn name(text: &str) -> Result<String, String> {
    if id::valid_name(text) {
        return Ok(text.to_owned());
    }
    Err(format!("use 1 to {NAME_MAX} of a-z, 0-9, dot, underscore and hyphen"))
}
