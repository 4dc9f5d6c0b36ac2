//! What only encoders and nodes have: stream keys, revocation, a new key of one's own.

use std::time::Duration;

use comfy_table::Cell;
use serde_json::{Value, json};

use super::act::{Item, encode, find, path, short_id};
use super::change::{refused, told};
use super::{Common, Output, Which, Writing, confirm, kinds, overlap};
use crate::cli::call::{Ask, Mesh};
use crate::cli::exit::Failure;
use crate::cli::{out, table};

/// Arguments of `roost encoder key`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The key is printed on standard output, once: nodes keep only a hash of \
    it.\n\nExamples:\n  roost encoder key gate > gate.key\n  roost encoder key gate --overlap 0\n  \
    roost encoder key gate --list\n  roost encoder key gate --revoke ab12cd\n  \
    roost encode gate --key-file gate.key --rtsp rtsp://camera/1 --addr server-1.example.org")]
pub(crate) struct StreamKeys {
    #[command(flatten)]
    which: Which,
    /// How long the keys before stay good, like 24h; 0 ends them now
    #[arg(long, value_name = "D", value_parser = overlap, default_value = "24h")]
    overlap: Duration,
    /// Leave the keys before as they are
    #[arg(long, conflicts_with = "overlap")]
    keep: bool,
    /// Show which keys there are
    #[arg(long, conflicts_with_all = ["overlap", "keep", "revoke"])]
    list: bool,
    /// End this key for good
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["overlap", "keep"])]
    revoke: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `roost node revoke`.
#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    #[command(flatten)]
    which: Which,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `roost node readmit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Readmit {
    #[command(flatten)]
    which: Which,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `roost node key`.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeKey {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// Makes, lists or revokes stream keys.
pub(super) async fn stream_keys(args: StreamKeys) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let kind = &kinds::ENCODER;
    let item = find(&mesh, kind, &args.which.name, args.which.domain.as_deref()).await?;
    let keys = format!("{}/keys", path(kind, item.id()));
    if args.list {
        return list(&mesh, &keys, &item, args.common.output()).await;
    }
    if let Some(prefix) = args.revoke {
        let consequence = format!(
            "key {prefix} of {} will be good no more: what uses it is cut off",
            item.name()
        );
        confirm(args.yes, &consequence)?;
        let ask = Ask::new("DELETE", format!("{keys}/{}", encode(&prefix)));
        let ask = waiting(ask, &args.writing);
        let answer = refused(mesh.ask(&ask).await?, "cannot revoke the key")?;
        return told(&format!("key {prefix} was revoked"), &answer, args.writing.wait);
    }
    let overlap = (!args.keep).then_some(args.overlap.as_secs());
    let ask = Ask::new("POST", keys).json(&json!({ "overlap_s": overlap }));
    let answer = refused(mesh.ask(&waiting(ask, &args.writing)).await?, "cannot make a key")?;
    let made: Value = answer.decode("cannot make a key")?;
    if args.common.output() == Output::Json {
        out::json(&made)?;
    } else {
        out::line(made["key"].as_str().unwrap_or_default())?;
    }
    let old = match made["expires_old"].is_number() {
        true => format!("; those before are good until {}", table::time(&made["expires_old"])),
        false => String::new(),
    };
    let prefix = made["prefix"].as_str().unwrap_or_default();
    let words = format!("key {prefix} of {} was made{old}; it is not shown again", item.name());
    told(&words, &answer, args.writing.wait)
}

async fn list(mesh: &Mesh, keys: &str, item: &Item, output: Output) -> Result<(), Failure> {
    let page: Value = mesh.get(keys, "cannot list its keys").await?;
    let items = page["items"].as_array().cloned().unwrap_or_default();
    match output {
        Output::Json => return out::json(&page),
        Output::Name => {
            for key in &items {
                out::line(key["prefix"].as_str().unwrap_or_default())?;
            }
            return Ok(());
        }
        Output::Table => {}
    }
    if items.is_empty() {
        out::talk(&format!("{} has no key; make one: roost encoder key {0}", item.name()));
        return Ok(());
    }
    let mut table = table::grid(&["PREFIX", "MADE", "EXPIRES"]);
    for key in &items {
        let expires = match key["expires"].is_number() {
            true => table::time(&key["expires"]),
            false => "never".to_owned(),
        };
        let prefix = table::value(&key["prefix"]);
        table.add_row([prefix, table::time(&key["made"]), expires].map(Cell::new));
    }
    out::line(&table::text(&table))
}

/// Puts a member out.
pub(super) async fn revoke(args: Revoke) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let kind = &kinds::NODE;
    let item = find(&mesh, kind, &args.which.name, args.which.domain.as_deref()).await?;
    let (name, id) = (item.name(), short_id(item.id()));
    confirm(args.yes, &format!("node {name} ({id}) will be revoked: {}", kind.end))?;
    let path = format!("{}/revocation", path(kind, item.id()));
    let ask = Ask::new("POST", path).json(&json!({ "reason": args.reason }));
    let what = format!("cannot revoke {name}");
    let answer = refused(mesh.ask(&waiting(ask, &args.writing)).await?, &what)?;
    if args.common.output() == Output::Json {
        out::json(&answer.decode::<Value>(&what).unwrap_or_default())?;
    }
    told(&format!("node {name} was revoked"), &answer, args.writing.wait)
}

/// Lets a revoked member back in.
pub(super) async fn readmit(args: Readmit) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let kind = &kinds::NODE;
    let item = find(&mesh, kind, &args.which.name, args.which.domain.as_deref()).await?;
    let name = item.name();
    confirm(args.yes, &format!("node {name} will be a member again, with the key that it had"))?;
    let ask = Ask::new("DELETE", format!("{}/revocation", path(kind, item.id())));
    let what = format!("cannot readmit {name}");
    let answer = refused(mesh.ask(&waiting(ask, &args.writing)).await?, &what)?;
    told(&format!("node {name} was readmitted"), &answer, args.writing.wait)
}

/// Has a node change its key.
pub(super) async fn node_key(args: NodeKey) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let kind = &kinds::NODE;
    let item = find(&mesh, kind, &args.which.name, args.which.domain.as_deref()).await?;
    let what = format!("cannot change the key of {}", item.name());
    let ask = Ask::new("POST", format!("{}/key", path(kind, item.id())));
    let answer = refused(mesh.ask(&waiting(ask, &args.writing)).await?, &what)?;
    if args.common.output() == Output::Json {
        out::json(&answer.decode::<Value>(&what).unwrap_or_default())?;
    }
    told(&format!("node {} has a new key", item.name()), &answer, args.writing.wait)
}

fn waiting(ask: Ask, writing: &Writing) -> Ask {
    match writing.wait {
        Some(nodes) => ask.header("roost-wait", nodes.to_string()),
        None => ask,
    }
}
