//! Steering: emptying a node, keeping it from new encoders, and sending an encoder elsewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use comfy_table::Cell;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::act::{Item, Names, find, path};
use super::change::refused;
use super::special::acted;
use super::{Common, One, Output, Which, kinds};
use crate::cli::call::{Ask, Mesh};
use crate::cli::exit::{Exit, Failure};
use crate::cli::signals::Stop;
use crate::cli::{duration, out, table};

/// How often progress is asked for.
const LOOK: Duration = Duration::from_millis(500);
/// Encoders that do not move are named up to so many.
const NAMED: usize = 5;
/// Somebody else may change the same record meanwhile.
const ATTEMPTS: u32 = 3;

/// Arguments of `roost node drain`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The node takes no encoders any more; those at home there are moved, idle ones \
    first, watched ones without a gap. It stays drained, also when it starts again, until roost node \
    undrain. The command waits until nothing is left: exit code 7 says that something was at the \
    deadline (or when you interrupted it), and the drain goes on.\n\nExamples:\n  roost node drain \
    n2\n  roost node drain n2 --dry-run\n  roost node drain n2 --deadline 10m && ssh n2 reboot"
)]
pub(crate) struct Drain {
    #[command(flatten)]
    which: Which,
    /// Wait for so long, like 2m
    #[arg(long, value_name = "D", value_parser = duration::parse, default_value = "2m")]
    deadline: Duration,
    /// Do nothing; show where everything would go
    #[arg(long)]
    dry_run: bool,
    /// Do not wait
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `roost encoder move`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The encoder goes on sending to its home until the other node has it: its \
    viewers see no gap.\n\nExamples:\n  roost encoder move gate n2\n  roost encoder why gate")]
pub(crate) struct Move {
    /// NAME, DOMAIN/NAME, an id, or the beginning of an id
    name: String,
    /// Its new home: a node, by name or id
    node: String,
    /// The domain in which the name is looked for
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// How far a node is emptied, as the API tells.
#[derive(Debug, Deserialize)]
struct State {
    draining: bool,
    left: usize,
    watched: usize,
    moving: usize,
    viewers: u32,
    stuck: Vec<Stuck>,
    plan: Vec<Way>,
}

#[derive(Debug, Deserialize)]
struct Stuck {
    name: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Way {
    name: String,
    watched: bool,
    to: Value,
    reason: Option<String>,
}

/// Empties a node, and waits for it.
pub(super) async fn drain(args: Drain) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let item = node(&mesh, &args.which).await?;
    let name = item.name().to_owned();
    if args.dry_run {
        return plan(&mesh, &item, args.common.output()).await;
    }
    // Before the wish is told: whoever interrupts shall hear what becomes of it.
    let mut stop = Stop::listen()?;
    flag(&mesh, &item, "drain", true).await?;
    if args.detach {
        let done = format!("{name} is being drained; to undo: roost node undrain {name}");
        return acted(args.common.output(), item.id(), &name, "draining", &done);
    }
    let until = Instant::now() + args.deadline;
    let mut told = String::new();
    let mut last = Value::Null;
    let ended = loop {
        match look(&mesh, &item).await {
            Ok((state, value)) => {
                last = value;
                let words = progress(&name, &state);
                if std::mem::replace(&mut told, words.clone()) != words {
                    out::talk(&words);
                }
                if state.draining && state.left == 0 {
                    break None;
                }
            }
            Err(failure) if failure.exit == Exit::Failed => {
                let words = failure.message;
                if std::mem::replace(&mut told, words.clone()) != words {
                    out::talk(&words);
                }
            }
            Err(failure) => return Err(failure),
        }
        tokio::select! {
            () = stop.next() => break Some("interrupted".to_owned()),
            () = tokio::time::sleep_until(until) => {
                break Some(format!("not done within {} s", args.deadline.as_secs()));
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    };
    let drained = ended.is_none();
    match args.common.output() {
        Output::Json => {
            out::json(
                &json!({ "id": item.id(), "name": name, "drained": drained, "state": last }),
            )?;
        }
        Output::Name if drained => out::line(&name)?,
        Output::Name | Output::Table => {}
    }
    match ended {
        None => {
            out::talk(&format!("{name} is empty; to undo: roost node undrain {name}"));
            Ok(())
        }
        Some(why) => Err(Failure::new(
            Exit::DeadlinePassed,
            &why,
            format!("the drain of {name} goes on"),
            &format!("to undo it: roost node undrain {name}"),
        )),
    }
}

fn progress(name: &str, state: &State) -> String {
    if state.left == 0 {
        return match state.viewers {
            0 => format!("{name}: nothing is left"),
            viewers => format!("{name}: no encoder is left; {viewers} viewers are still there"),
        };
    }
    let mut words = format!(
        "{name}: {} left ({} watched), {} on their way",
        state.left, state.watched, state.moving
    );
    let reasons: BTreeSet<&str> = state.stuck.iter().map(|stuck| stuck.reason.as_str()).collect();
    for reason in reasons {
        let mut names: Vec<&str> =
            state.stuck.iter().filter(|it| it.reason == reason).map(|it| &*it.name).collect();
        let more = names.len().saturating_sub(NAMED);
        names.truncate(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        words.push_str(&format!("\n  {}{more}: {reason}", names.join(", ")));
    }
    words
}

async fn look(mesh: &Mesh, item: &Item) -> Result<(State, Value), Failure> {
    let what = format!("{} does not say how far it is", item.name());
    let value: Value = mesh.get(&format!("{}/drain", path(&kinds::NODE, item.id())), &what).await?;
    let state = serde_json::from_value(value.clone()).map_err(|error| {
        Failure::new(Exit::Usage, &what, error, "use the same version of roost on both sides")
    })?;
    Ok((state, value))
}

/// Where everything would go.
async fn plan(mesh: &Mesh, item: &Item, output: Output) -> Result<(), Failure> {
    let (state, value) = look(mesh, item).await?;
    match output {
        Output::Json => out::json(&value)?,
        Output::Name => {
            for way in &state.plan {
                out::line(&way.name)?;
            }
        }
        Output::Table if state.plan.is_empty() => {
            out::talk(&format!("nothing is at home at {}", item.name()));
        }
        Output::Table => {
            let mut names = Names::new(mesh);
            names.learn(&kinds::NODE).await;
            let mut grid = table::grid(&["ENCODER", "WATCHED", "TO", "WHY NOT"]);
            for way in &state.plan {
                let to = match &way.to {
                    Value::String(_) => names.of(&kinds::NODE, &way.to).await,
                    _ => "-".to_owned(),
                };
                let watched = if way.watched { "yes" } else { "no" };
                let reason = way.reason.clone().unwrap_or_default();
                grid.add_row([way.name.clone(), watched.into(), to, reason].map(Cell::new));
            }
            out::line(&table::text(&grid))?;
        }
    }
    let nowhere = state.plan.iter().filter(|way| way.to.is_null()).count();
    if state.left > state.plan.len() {
        out::talk(&format!("and {} more", state.left - state.plan.len()));
    }
    match nowhere {
        0 => Ok(()),
        nowhere => Err(Failure::new(
            Exit::Conflict,
            &format!("{nowhere} encoders have nowhere to go"),
            "no node with room takes them",
            "add a node, raise a limit (roost node set NODE limit=N), or undrain one",
        )),
    }
}

/// Sets or takes back one wish about a node.
pub(super) async fn wish(args: One, field: &str, on: bool) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let item = node(&mesh, &args.which).await?;
    flag(&mesh, &item, field, on).await?;
    let name = item.name();
    let done = match (field, on) {
        ("cordon", true) => format!("{name} takes no new encoders; what is there stays"),
        _ => format!("{name} takes encoders again, unless it is drained or cordoned otherwise"),
    };
    acted(args.common.output(), item.id(), name, field, &done)
}

async fn node(mesh: &Mesh, which: &Which) -> Result<Item, Failure> {
    find(mesh, &kinds::NODE, &which.name, which.domain.as_deref()).await
}

async fn flag(mesh: &Mesh, item: &Item, field: &str, on: bool) -> Result<(), Failure> {
    let what = format!("cannot change {}", item.name());
    let path = path(&kinds::NODE, item.id());
    let mut tag = item.tag.clone();
    for attempt in 1.. {
        let ask = Ask::new("PATCH", &path).header("if-match", &tag).json(&json!({ field: on }));
        let answer = mesh.ask(&ask).await?;
        if answer.status != 412 || attempt == ATTEMPTS {
            refused(answer, &what)?;
            break;
        }
        // Somebody changed something else of it.
        let now = mesh.ask(&Ask::new("GET", &path)).await?.good(&what)?;
        tag = Item::of(&now, &what)?.tag;
    }
    Ok(())
}

/// Sends an encoder elsewhere.
pub(super) async fn move_encoder(args: Move) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let item = find(&mesh, &kinds::ENCODER, &args.name, args.domain.as_deref()).await?;
    let ask = Ask::new("POST", format!("{}/move", path(&kinds::ENCODER, item.id())));
    let answer = mesh.ask(&ask.json(&json!({ "to": args.node }))).await?;
    let moved: Value = refused(answer, "not moved")?.decode("not moved")?;
    let (name, to) = (item.name(), moved["to_name"].as_str().unwrap_or(&args.node));
    match args.common.output() {
        Output::Json => out::json(&moved)?,
        Output::Name => out::line(name)?,
        Output::Table => {}
    }
    out::talk(&format!("{name} is at home at {to}"));
    Ok(())
}

/// Why an encoder is where it is.
pub(super) async fn why(args: One) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let which = &args.which;
    let item = find(&mesh, &kinds::ENCODER, &which.name, which.domain.as_deref()).await?;
    let what = format!("cannot tell why {} is where it is", item.name());
    let why: Value = mesh.get(&format!("{}/why", path(&kinds::ENCODER, item.id())), &what).await?;
    match args.common.output() {
        Output::Json => out::json(&why),
        Output::Name => out::line(item.name()),
        Output::Table => {
            let home = why["home_name"].as_str().unwrap_or("nowhere");
            let next = why["next_name"].as_str().unwrap_or("nobody");
            let reason = table::plain(why["reason"].as_str().unwrap_or_default());
            out::line(&format!("{} is at home at {home}: {reason}", item.name()))?;
            out::line(&format!("next is {next}"))?;
            steering(&why).map_or(Ok(()), |words| out::line(&words))
        }
    }
}

/// Where it should be, if anybody says.
fn steering(why: &Value) -> Option<String> {
    let pools: Vec<&str> = why["pools"].as_array()?.iter().filter_map(Value::as_str).collect();
    let pools = table::plain(&pools.join(", "));
    let guide = match why["guide"].as_str()? {
        "encoder" => "its record",
        "room" => "its room",
        "group" => "a group that it is in",
        "domain" => "its domain",
        _ => "a setting of the mesh",
    };
    let says = if why["placement"] == "only" { "has it nowhere else than in" } else { "prefers" };
    let at = match why["pool"].as_str() {
        Some(pool) => format!("it is in {}", table::plain(pool)),
        None => "it is in none of them".to_owned(),
    };
    Some(format!("{guide} {says} {pools}; {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_what_is_left_and_who_does_not_move_and_why() {
        let stuck =
            (1..=7).map(|n| Stuck { name: format!("cam-{n}"), reason: "n1 is full".into() });
        let mut state = State {
            draining: true,
            left: 9,
            watched: 2,
            moving: 2,
            viewers: 3,
            stuck: stuck.collect(),
            plan: Vec::new(),
        };
        assert_eq!(
            progress("n2", &state),
            "n2: 9 left (2 watched), 2 on their way\n  \
             cam-1, cam-2, cam-3, cam-4, cam-5 and 2 more: n1 is full"
        );
        state.left = 0;
        assert_eq!(progress("n2", &state), "n2: no encoder is left; 3 viewers are still there");
        state.viewers = 0;
        assert_eq!(progress("n2", &state), "n2: nothing is left");
    }
}
