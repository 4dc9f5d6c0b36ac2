//! What only encoders and nodes have: stream keys, revocation, a new key of one's own.

use std::time::Duration;

use comfy_table::Cell;
use serde_json::{Value, json};

use super::act::{Item, encode, find, is_id, path, short_id};
use super::change::{refused, told};
use super::{Common, Output, Which, Writing, confirm, kinds, overlap};
use crate::cli::call::{Ask, Mesh};
use crate::cli::exit::{Exit, Failure};
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
    common: Common,
}

/// Arguments of `roost node key`.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeKey {
    #[command(flatten)]
    which: Which,
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
    let (name, id) = (item.name(), item.id());
    confirm(args.yes, &format!("node {name} ({}) will be revoked: {}", short_id(id), kind.end()))?;
    let ask = Ask::new("POST", format!("{}/revocation", path(kind, id)));
    let ask = ask.json(&json!({ "reason": args.reason }));
    refused(mesh.ask(&ask).await?, &format!("cannot revoke {name}"))?;
    // It is in no list from now on: this is the last chance to learn its id.
    let done = format!("node {name} was revoked; to let it in again: roost node readmit {id}");
    acted(args.common.output(), id, name, "revoked", &done)
}

/// Lets a revoked member back in.
pub(super) async fn readmit(args: Readmit) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let kind = &kinds::NODE;
    let given = &args.which.name;
    // A node that is out has no name any more.
    let (id, name) = if is_id(given) {
        (given.clone(), short_id(given).to_owned())
    } else {
        let found = find(&mesh, kind, given, args.which.domain.as_deref()).await;
        let item = found.map_err(|failure| match failure.exit {
            Exit::NoSuchThing => Failure::new(
                Exit::NoSuchThing,
                &format!("cannot readmit {given}"),
                "a revoked node is in no list",
                "give its whole id, which roost node revoke told, and logs tell as node.revoked",
            ),
            _ => failure,
        })?;
        (item.id().to_owned(), item.name().to_owned())
    };
    confirm(args.yes, &format!("node {name} will be a member again, with the key that it had"))?;
    let ask = Ask::new("DELETE", format!("{}/revocation", path(kind, &id)));
    refused(mesh.ask(&ask).await?, &format!("cannot readmit {name}"))?;
    let done = format!("node {name} was readmitted");
    acted(args.common.output(), &id, &name, "readmitted", &done)
}

/// Has the node that is asked change its key.
pub(super) async fn node_key(args: NodeKey) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let kind = &kinds::NODE;
    let item = find(&mesh, kind, &args.which.name, args.which.domain.as_deref()).await?;
    let (name, id) = (item.name(), item.id());
    let ask = Ask::new("POST", format!("{}/key", path(kind, id)));
    refused(mesh.ask(&ask).await?, &format!("cannot change the key of {name}"))?;
    acted(args.common.output(), id, name, "rekeyed", &format!("node {name} has a new key"))
}

/// Says what was done to a node.
pub(super) fn acted(
    output: Output,
    id: &str,
    name: &str,
    act: &str,
    done: &str,
) -> Result<(), Failure> {
    match output {
        Output::Json => out::json(&json!({ "id": id, "name": name, act: true }))?,
        Output::Name => out::line(name)?,
        Output::Table => {}
    }
    out::talk(done);
    Ok(())
}

fn waiting(ask: Ask, writing: &Writing) -> Ask {
    match writing.wait {
        Some(nodes) => ask.header("roost-wait", nodes.to_string()),
        None => ask,
    }
}
