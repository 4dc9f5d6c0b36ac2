//! `roost plan`: what would follow if nodes were lost, drained or added.

use roost::placement::Survivability;
use serde::Deserialize;
use serde_json::Value;

use super::addr::Addr;
use super::exit::Failure;
use super::{out, table};

/// Moves that are listed one by one, unless all are asked for: a screen.
const SHOWN: usize = 30;

/// Arguments of `roost plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  roost plan\n  roost plan --lose 2\n  \
    roost plan --drain n2 --add n9\n\nNothing is done: roost node drain does it.")]
pub(crate) struct Plan {
    #[command(flatten)]
    addr: Addr,
    /// So many nodes are lost at once, those that are the worst to lose
    #[arg(long, value_name = "N")]
    lose: Option<u32>,
    /// This node is drained (may be given again)
    #[arg(long, value_name = "NODE")]
    drain: Vec<String>,
    /// This node takes encoders again, or is a new one, as large as the middle one (may be given again)
    #[arg(long, value_name = "NODE")]
    add: Vec<String>,
    /// List every move
    #[arg(long)]
    all: bool,
    /// Print the API's answer
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Answer {
    lost: Vec<Named>,
    moving: usize,
    moves: Vec<Move>,
    staying: usize,
    stuck: Vec<Stuck>,
    nodes: Vec<Load>,
    survivability: Survivability,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Move {
    name: String,
    from_name: String,
    to_name: String,
    reason: String,
}

#[derive(Deserialize)]
struct Stuck {
    name: String,
    at_name: String,
    reason: String,
}

#[derive(Deserialize)]
struct Load {
    node: Option<String>,
    name: String,
    state: String,
    before: u32,
    after: u32,
    limit: u32,
    capacity: u64,
    capacity_is: String,
}

/// Asks any node, and prints what would follow.
pub(crate) async fn run(args: Plan) -> Result<(), Failure> {
    let mesh = args.addr.mesh()?;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(args.lose.iter().map(|lose| ("lose", lose.to_string())));
    query.extend_pairs(args.drain.iter().map(|node| ("drain", node)));
    query.extend_pairs(args.add.iter().map(|node| ("add", node)));
    let query = query.finish();
    let mark = if query.is_empty() { "" } else { "?" };
    let path = format!("/api/v1/plan{mark}{query}");
    let answer: Value = mesh.get(&path, "cannot make a plan").await?;
    if args.json {
        return out::json(&answer);
    }
    let answer: Answer = serde_json::from_value(answer).map_err(|error| {
        Failure::new(
            super::exit::Exit::Failed,
            "cannot read the plan",
            error,
            "use a roost of the same version as the node",
        )
    })?;
    out::line(&render(&answer, if args.all { usize::MAX } else { SHOWN }))
}

fn render(answer: &Answer, most: usize) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    if !answer.lost.is_empty() {
        let names: Vec<String> = answer.lost.iter().map(|it| table::plain(&it.name)).collect();
        line(format!("lost: {}, the worst to lose\n", names.join(", ")));
    }
    line(match answer.moving {
        0 => "nothing would move".to_owned(),
        1 => "1 encoder would move:".to_owned(),
        many => format!("{many} encoders would move:"),
    });
    let rows = answer.moves.iter().take(most).map(|it| {
        [&it.name, &it.from_name, &it.to_name, &it.reason].map(|cell| table::plain(cell)).to_vec()
    });
    if answer.moving > 0 {
        line(grid(&["encoder", "from", "to", "why"], rows.collect()));
    }
    let hidden = answer.moving.saturating_sub(most.min(answer.moves.len()));
    if hidden > 0 {
        line(format!("and {hidden} more"));
    }
    if answer.staying > 0 {
        line(format!("\n{} should move and cannot:", answer.staying));
        let rows =
            answer.stuck.iter().take(most).map(|it| {
                [&it.name, &it.at_name, &it.reason].map(|cell| table::plain(cell)).to_vec()
            });
        line(grid(&["encoder", "at", "why"], rows.collect()));
        let hidden = answer.staying.saturating_sub(most.min(answer.stuck.len()));
        if hidden > 0 {
            line(format!("and {hidden} more"));
        }
    }
    let rows = answer.nodes.iter().map(|it| {
        let (before, after, limit) = (it.before, it.after, it.limit);
        vec![
            table::plain(&it.name),
            if it.node.is_none() { "new".to_owned() } else { table::plain(&it.state) },
            before.to_string(),
            after.to_string(),
            limit.to_string(),
            format!("{} {}", it.capacity, table::plain(&it.capacity_is)),
        ]
    });
    line(String::new());
    line(grid(&["node", "state", "before", "after", "limit", "capacity"], rows.collect()));
    line(format!("\nthen: {}", losses(answer)));
    text.trim_end().to_owned()
}

fn losses(answer: &Answer) -> String {
    let found = &answer.survivability;
    let name = |id: &roost::id::NodeId| {
        let id = id.to_string();
        let node = answer.nodes.iter().find(|it| it.node.as_deref() == Some(id.as_str()));
        node.map_or_else(|| "a new node".to_owned(), |it| table::plain(&it.name))
    };
    let least = if found.exact { "" } else { "at least " };
    let can = match found.losses {
        0 => "no node can be lost".to_owned(),
        1 => format!("{least}1 node can be lost, whichever"),
        many => format!("{least}{many} nodes can be lost, whichever"),
    };
    let worst: Vec<String> = found.worst.iter().take(8).map(name).collect();
    match (found.unplaced, worst.is_empty()) {
        (0, _) => can,
        (many, true) => format!("{can}: {many} encoders would have no place at all"),
        (many, false) => {
            format!("{can}; without {} {many} encoders would have no place", worst.join(", "))
        }
    }
}

fn grid(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut grid = table::grid(head);
    grid.add_rows(rows);
    table::text(&grid)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_reads_as_sentences_and_tables() {
        let (n1, n2) = ("01".repeat(16), "02".repeat(16));
        let answer = json!({
            "lost": [{ "node": n1, "name": "n1" }],
            "moving": 2,
            "moves": [
                { "encoder": n1, "name": "cam-1", "from": n1, "from_name": "n1", "to": null,
                  "to_name": "n9", "reason": "n1 is lost" },
                { "encoder": n2, "name": "cam-2", "from": n1, "from_name": "n1", "to": n2,
                  "to_name": "n2", "reason": "n1 is lost" },
            ],
            "staying": 1,
            "stuck": [{ "encoder": n2, "name": "cam-3", "at": n1, "at_name": "n1",
                        "reason": "n1 is lost; no node takes encoders that has room" }],
            "nodes": [
                { "node": n1, "name": "n1", "state": "lost", "before": 3, "after": 0, "limit": 9,
                  "capacity": 200, "capacity_is": "declared" },
                { "node": n2, "name": "n2", "state": "open", "before": 0, "after": 1, "limit": 1,
                  "capacity": 400, "capacity_is": "measured" },
                { "node": null, "name": "n9", "state": "open", "before": 0, "after": 1,
                  "limit": 1, "capacity": 400, "capacity_is": "assumed" },
            ],
            "survivability": { "losses": 0, "exact": true, "worst": [n2], "unplaced": 2 },
        });
        let answer: Answer = serde_json::from_value(answer).unwrap();
        let text = render(&answer, 1);
        let expected = "lost: n1, the worst to lose\n\n\
            2 encoders would move:\n\
            encoder  from  to  why\n\
            cam-1    n1    n9  n1 is lost\n\
            and 1 more\n\n\
            1 should move and cannot:\n\
            encoder  at  why\n\
            cam-3    n1  n1 is lost; no node takes encoders that has room\n\n\
            node  state  before  after  limit  capacity\n\
            n1    lost   3       0      9      200 declared\n\
            n2    open   0       1      1      400 measured\n\
            n9    new    0       1      1      400 assumed\n\n\
            then: no node can be lost; without n2 2 encoders would have no place";
        assert_eq!(text, expected);
    }
}
