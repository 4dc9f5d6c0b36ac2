//! `roost status`: what one node believes of the whole mesh.

use comfy_table::{Cell, Color, Table};
use roost::cluster::{ClusterView, EncoderState, EncoderView, Liveness, NodeView};
use roost::id::NodeId;
use roost::placement::Survivability;

use super::addr::Addr;
use super::exit::{Exit, Failure};
use super::{out, table};

/// So many nodes are named of those that should not be lost together: a line has an end.
const WORST_SHOWN: usize = 8;

/// Arguments of `roost status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    addr: Addr,
    /// Print the API's answer
    #[arg(long)]
    json: bool,
    /// Exit with 0 if all is well, 8 if degraded, 9 if no node answers
    #[arg(long)]
    check: bool,
}

/// Asks any node and prints what it believes.
pub(crate) async fn run(args: Status) -> Result<(), Failure> {
    let mesh = args.addr.mesh()?;
    let view: ClusterView = match mesh.get("/api/v1/cluster", "cannot read the mesh's state").await
    {
        Err(failure) if args.check && failure.exit == Exit::NoNodeAnswered => {
            return Err(Failure { exit: Exit::Down, ..failure });
        }
        answer => answer?,
    };
    if args.json {
        out::json(&view)?;
    } else {
        out::line(&render(&view, out::stdout_in_color()))?;
    }
    let troubles = troubles(&view);
    match (args.check, troubles.is_empty()) {
        (true, false) => Err(Failure::said(Exit::Degraded, troubles.join("; "))),
        _ => Ok(()),
    }
}

/// What is not as it should be, one sentence each.
fn troubles(view: &ClusterView) -> Vec<String> {
    let nodes = view.nodes.iter().filter_map(|node| match (node.state, node.linked) {
        (Liveness::Up, true) | (Liveness::Left, _) => None,
        (Liveness::Up, false) => {
            Some(format!("no direct link from {} to {}", view.name, node.name))
        }
        (Liveness::Suspect, _) => Some(format!("{} does not answer", node.name)),
        (Liveness::Down, _) => Some(format!("{} is down", node.name)),
    });
    let encoders = view.encoders.iter().filter_map(|encoder| match encoder.state {
        EncoderState::Live | EncoderState::Idle => None,
        EncoderState::NoSignal => {
            let reason = encoder.reason.as_deref().unwrap_or("no reason given");
            Some(format!("{} has no signal: {reason}", encoder.name))
        }
        EncoderState::Lost => Some(format!("{} is lost: nobody is its home", encoder.name)),
    });
    nodes.chain(encoders).collect()
}

fn render(view: &ClusterView, color: bool) -> String {
    let up = view.nodes.iter().filter(|node| node.state == Liveness::Up).count();
    let live = view.encoders.iter().filter(|encoder| encoder.state == EncoderState::Live).count();
    let viewers = view.encoders.iter().map(|encoder| u64::from(encoder.viewers)).sum::<u64>();
    let mut text = format!(
        "mesh {} as {} sees it: {up} of {} up, {}, {live} live, {}\n\n",
        view.mesh.short(),
        view.name,
        count(view.nodes.len(), "node"),
        count(view.encoders.len(), "encoder"),
        count(viewers as usize, "viewer"),
    );
    if let Some(found) = &view.survivability {
        text.push_str(&format!("{}\n\n", losses(view, found)));
    }
    let paint = Paint { color };
    text.push_str(&nodes_table(view, &paint).to_string());
    if !view.encoders.is_empty() {
        text.push_str("\n\n");
        text.push_str(&encoders_table(&view.encoders, &paint).to_string());
    }
    // Below the table: sentences in it would break its lines on every terminal.
    let notes = view.encoders.iter().filter_map(|encoder| {
        encoder.reason.as_ref().map(|reason| format!("\n{}: {reason}", encoder.name))
    });
    let notes: String = notes.collect();
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&notes);
    }
    // Padding at the end of lines helps nobody and spoils comparisons.
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// How many nodes can be lost, and which not, in a sentence.
fn losses(view: &ClusterView, found: &Survivability) -> String {
    let name = |id: &NodeId| {
        let node = view.nodes.iter().find(|node| node.node == *id);
        node.map_or_else(|| id.short(), |node| node.name.clone())
    };
    let least = if found.exact { "" } else { "at least " };
    let can = match found.losses {
        0 => "no node can be lost".to_owned(),
        many => format!("{least}{} can be lost, whichever", count(many as usize, "node")),
    };
    let unplaced = count(found.unplaced as usize, "encoder");
    match found.worst.split_at_checked(WORST_SHOWN) {
        _ if found.unplaced == 0 => can,
        _ if found.worst.is_empty() => {
            format!("{can}: {unplaced} would have no place even now; raise limits or add nodes")
        }
        Some((some, rest)) if !rest.is_empty() => {
            let some: Vec<_> = some.iter().map(name).collect();
            let more = format!("{} and {} more", some.join(", "), rest.len());
            format!("{can}: without {more} {unplaced} would have no place")
        }
        _ => {
            let all: Vec<_> = found.worst.iter().map(name).collect();
            format!("{can}: without {} {unplaced} would have no place", all.join(", "))
        }
    }
}

fn count(of: usize, what: &str) -> String {
    format!("{of} {what}{}", if of == 1 { "" } else { "s" })
}

fn nodes_table(view: &ClusterView, paint: &Paint) -> Table {
    let mut table =
        table::grid(&["NODE", "STATE", "LINK", "RTT", "ENCODERS", "VIEWERS", "ADDRESS"]);
    for node in &view.nodes {
        let own = node.node == view.node;
        table.add_row(vec![
            Cell::new(&node.name),
            paint.liveness(node),
            Cell::new(match (own, node.linked) {
                (true, _) => "self",
                (false, true) => "yes",
                (false, false) => "no",
            }),
            Cell::new(node.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms"))),
            Cell::new(node.encoders),
            Cell::new(node.viewers),
            Cell::new(node.addrs.first().map_or("-", String::as_str)),
        ]);
    }
    table
}

fn encoders_table(encoders: &[EncoderView], paint: &Paint) -> Table {
    let mut table = table::grid(&["ENCODER", "STATE", "HOME", "NEXT", "EPOCH", "VIEWERS"]);
    for encoder in encoders {
        table.add_row(vec![
            Cell::new(&encoder.name),
            paint.encoder(encoder.state),
            Cell::new(encoder.home_name.as_deref().unwrap_or("-")),
            Cell::new(encoder.next_name.as_deref().unwrap_or("-")),
            Cell::new(encoder.epoch),
            Cell::new(encoder.viewers),
        ]);
    }
    table
}

/// States in words, and in colour where that is wanted: colour is never the only signal.
struct Paint {
    color: bool,
}

impl Paint {
    fn liveness(&self, node: &NodeView) -> Cell {
        let (word, color) = match node.state {
            Liveness::Up if node.draining => ("draining", Color::Yellow),
            Liveness::Up if node.cordoned => ("cordoned", Color::Yellow),
            Liveness::Up => ("up", Color::Green),
            Liveness::Suspect => ("suspect", Color::Yellow),
            Liveness::Down => ("down", Color::Red),
            Liveness::Left => ("left", Color::DarkGrey),
        };
        self.cell(word, color)
    }

    fn encoder(&self, state: EncoderState) -> Cell {
        let (word, color) = match state {
            EncoderState::Live => ("live", Color::Green),
            EncoderState::Idle => ("idle", Color::DarkGrey),
            EncoderState::NoSignal => ("no signal", Color::Yellow),
            EncoderState::Lost => ("lost", Color::Red),
        };
        self.cell(word, color)
    }

    fn cell(&self, word: &str, color: Color) -> Cell {
        if self.color { Cell::new(word).fg(color) } else { Cell::new(word) }
    }
}

#[cfg(test)]
mod tests {
    use roost::id::{Boot, EncoderId, Epoch, MeshId};

    use super::*;

    fn node(number: u8, state: Liveness) -> NodeView {
        NodeView {
            node: NodeId([number; 16]),
            name: format!("n{number}"),
            state,
            addrs: vec![format!("10.0.0.{number}:9443")],
            linked: state == Liveness::Up,
            rtt_ms: (number != 1).then_some(0.42),
            draining: false,
            cordoned: false,
            capacity: None,
            measured: Some(100),
            limit: None,
            encoders: 1,
            viewers: 2,
            report: None,
            key: None,
            admitted_by: None,
            invite: None,
            clock_offset_ms: None,
        }
    }

    fn view() -> ClusterView {
        ClusterView {
            mesh: MeshId([9; 16]),
            node: NodeId([1; 16]),
            name: "n1".to_owned(),
            boot: Boot(1),
            nodes: vec![node(1, Liveness::Up), node(2, Liveness::Up)],
            encoders: vec![EncoderView {
                id: EncoderId([1; 16]),
                name: "cam-1".to_owned(),
                home: Some(NodeId([1; 16])),
                home_name: Some("n1".to_owned()),
                next: Some(NodeId([2; 16])),
                next_name: Some("n2".to_owned()),
                epoch: Epoch { counter: 3, instance: 0xab },
                state: EncoderState::Live,
                reason: None,
                native_only: false,
                why: None,
                viewers: 2,
            }],
            outcasts: Vec::new(),
            survivability: None,
            former: Default::default(),
        }
    }

    #[test]
    fn the_tables_read_like_this() {
        let mut view = view();
        view.encoders[0].reason = Some("it has B-frames".to_owned());
        let expected = "\
mesh 09090909 as n1 sees it: 2 of 2 nodes up, 1 encoder, 1 live, 2 viewers

NODE  STATE  LINK  RTT     ENCODERS  VIEWERS  ADDRESS
n1    up     self  -       1         2        10.0.0.1:9443
n2    up     yes   0.4 ms  1         2        10.0.0.2:9443

ENCODER  STATE  HOME  NEXT  EPOCH   VIEWERS
cam-1    live   n1    n2    3.00ab  2

cam-1: it has B-frames";
        assert_eq!(render(&view, false), expected);
    }

    #[test]
    fn how_many_nodes_can_be_lost_is_a_sentence() {
        let view = view();
        let says = |losses, exact, worst: &[u8], unplaced| {
            let worst = worst.iter().map(|n| NodeId([*n; 16])).collect();
            super::losses(&view, &Survivability { losses, exact, worst, unplaced })
        };
        assert_eq!(says(1, true, &[], 0), "1 node can be lost, whichever");
        assert_eq!(
            says(0, true, &[2], 3),
            "no node can be lost: without n2 3 encoders would have no place"
        );
        assert_eq!(
            says(1, false, &[1, 2], 1),
            "at least 1 node can be lost, whichever: without n1, n2 1 encoder would have no place"
        );
        assert_eq!(
            says(8, true, &[1; 9], 1),
            "8 nodes can be lost, whichever: without n1, n1, n1, n1, n1, n1, n1, n1 and 1 more \
             1 encoder would have no place"
        );
        assert_eq!(
            says(0, true, &[], 2),
            "no node can be lost: 2 encoders would have no place even now; raise limits or add nodes"
        );
    }

    #[test]
    fn a_healthy_mesh_has_no_troubles_and_a_dead_node_is_one() {
        let mut view = view();
        assert_eq!(troubles(&view), Vec::<String>::new());
        view.nodes.push(node(3, Liveness::Down));
        view.nodes.push(node(4, Liveness::Left));
        view.encoders[0].state = EncoderState::Lost;
        assert_eq!(troubles(&view), ["n3 is down", "cam-1 is lost: nobody is its home"]);
    }
}
