//! `history` of one record, and `roost audit`: who changed what, where and when.

use std::collections::BTreeSet;
use std::time::Duration;

use comfy_table::Cell;
use serde_json::{Value, json};

use super::act::{find, path, short_id};
use super::kinds::Kind;
use super::{One, Output};
use crate::cli::addr::Addr;
use crate::cli::call::Mesh;
use crate::cli::exit::Failure;
use crate::cli::{out, table};

/// How often `--follow` looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Changes that are asked for at once.
const PAGE: u32 = 100;
/// Widest cell.
const CELL_MAX: usize = 60;

/// Arguments of `roost audit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  roost audit --limit 20\n  roost audit --follow --json")]
pub(crate) struct Audit {
    #[command(flatten)]
    addr: Addr,
    /// Show so many, the newest first
    #[arg(long, value_name = "N", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Go on with what happens, the newest last
    #[arg(long)]
    follow: bool,
    /// Print the API's fields; one line each with --follow
    #[arg(long)]
    json: bool,
}

/// Prints the changes of all records.
pub(crate) async fn run(args: Audit) -> Result<(), Failure> {
    let mesh = args.addr.mesh()?;
    if !args.follow {
        let items = newest(&mesh, args.limit).await?;
        if args.json {
            return out::json(&json!({ "items": items }));
        }
        if items.is_empty() {
            out::talk("nothing that you may see was changed yet");
            return Ok(());
        }
        return out::line(&grid(&items, true));
    }
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut limit = args.limit;
    loop {
        let items = newest(&mesh, limit).await?;
        for item in items.iter().rev() {
            if told.insert(item.to_string()) {
                if args.json { out::json_line(item)? } else { out::line(&line(item))? }
            }
        }
        // What is older than what was just seen does not come back.
        told = items.iter().map(Value::to_string).collect();
        limit = args.limit.max(PAGE);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn newest(mesh: &Mesh, most: u32) -> Result<Vec<Value>, Failure> {
    let mut items: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let limit = most.saturating_sub(items.len() as u32).min(PAGE);
        let path = format!("/api/v1/audit?limit={limit}{cursor}");
        let page: Value = mesh.get(&path, "cannot read what was changed").await?;
        items.extend(page["items"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) if (items.len() as u32) < most => {
                cursor = format!("&cursor={}", super::act::encode(next));
            }
            _ => return Ok(items),
        }
    }
}

/// Prints the changes of one record.
pub(super) async fn history(kind: &'static Kind, args: One) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let item = find(&mesh, kind, &args.which.name, args.which.domain.as_deref()).await?;
    let what = format!("cannot read the history of {}", item.name());
    let page: Value = mesh.get(&format!("{}/history", path(kind, item.id())), &what).await?;
    if args.common.output() == Output::Json {
        return out::json(&page);
    }
    let items = page["items"].as_array().cloned().unwrap_or_default();
    if items.is_empty() {
        out::talk(&format!("nobody changed {} yet", item.name()));
        return Ok(());
    }
    out::line(&grid(&items, false))
}

/// What people read of a change.
fn cells(item: &Value) -> [String; 5] {
    let named = |name: &str, id: &str| match (item[name].as_str(), item[id].as_str()) {
        (Some(name), _) => table::short(name, CELL_MAX),
        (None, Some(id)) => short_id(id).to_owned(),
        (None, None) => "-".to_owned(),
    };
    let mut what = table::short(&table::value(&item["what"]), CELL_MAX);
    if item["void"] == true {
        what.push_str(" (void: its node was revoked)");
    }
    let subject = format!("{} {}", item["kind"].as_str().unwrap_or("-"), named("name", "id"));
    [
        table::time(&item["at"]),
        named("account_name", "account"),
        named("node_name", "node"),
        subject,
        what,
    ]
}

fn line(item: &Value) -> String {
    let [at, who, node, subject, what] = cells(item);
    format!("{at}  {subject}  {what}  by {who} at {node}")
}

fn grid(items: &[Value], subjects: bool) -> String {
    let header = ["WHEN", "WHO", "NODE", "RECORD", "WHAT"];
    let kept: Vec<usize> = (0..header.len()).filter(|&at| subjects || at != 3).collect();
    let header: Vec<&str> = kept.iter().map(|&at| header[at]).collect();
    let mut table = table::grid(&header);
    for item in items {
        let cells = cells(item);
        table.add_row(kept.iter().map(|&at| Cell::new(&cells[at])));
    }
    table::text(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_reads_like_this() {
        let items = [
            json!({ "at": 1_795_646_604_000_i64, "account_name": "anna", "node_name": "n1",
                    "kind": "group", "name": "staff", "what": ["set name", "added to accounts"] }),
            json!({ "at": 0, "account": null, "node": "0a0a0a0a0a0a", "kind": "rule",
                    "id": "0b0b0b0b0b", "name": null, "what": ["removed"] }),
        ];
        let expected = "\
WHEN                  WHO   NODE      RECORD         WHAT
2026-11-25 22:43:24Z  anna  n1        group staff    set name, added to accounts
1970-01-01 00:00:00Z  -     0a0a0a0a  rule 0b0b0b0b  removed";
        assert_eq!(grid(&items, true), expected);
        assert!(!grid(&items, false).contains("group"));
        let told = "2026-11-25 22:43:24Z  group staff  set name, added to accounts  by anna at n1";
        assert_eq!(line(&items[0]), told);
    }
}
