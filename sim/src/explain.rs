//! A run told to people: who did what and when, in words and as a picture.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::check::Violation;
use crate::net::{MS, SEC};
use crate::plan::{Fault, Plan};
use crate::run::Watch;
use crate::story::{Befell, State, Story};
use crate::svg;
use crate::world::World;

/// A fault is the reason of what follows for this long.
const REASON: u64 = 15 * SEC;
/// Lines of one host about the same thing become one line if they come this close.
const TOGETHER: u64 = SEC;

/// A run as it is told.
#[derive(Debug)]
pub struct Explained {
    /// By time, each line with who did it.
    pub text: String,
    /// A drawing of the same.
    pub svg: String,
    /// The first thing that must hold and did not.
    pub violation: Option<Violation>,
}

/// Plays a plan and tells it; of one host only if `of` names one.
pub fn explain(plan: &Plan, of: Option<&str>) -> Explained {
    let mut world = World::new(plan, Watch::Keep);
    world.story = Some(Story::default());
    world.run();
    let story = world.story.take().unwrap_or_default();
    let lines = world.trace.take_lines();
    let failovers = failovers(&world, &story);
    let text = told(&world, &story, &lines, &failovers, of);
    let svg = svg::draw(&world, &story, &failovers);
    Explained { text, svg, violation: world.violation.take() }
}

/// An encoder's home changes.
#[derive(Debug)]
pub(crate) struct Failover {
    pub(crate) encoder: usize,
    pub(crate) from: (u64, usize),
    pub(crate) to: (u64, usize),
    /// In a sentence.
    pub(crate) text: String,
}

fn failovers(world: &World, story: &Story) -> Vec<Failover> {
    let mut found = Vec::new();
    for (encoder, past) in story.homes.iter().enumerate() {
        for pair in past.spans.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            if before.what == after.what {
                continue;
            }
            let mut text = format!("cam{encoder} goes from n{} to n{}", before.what, after.what);
            let reason = story
                .faults
                .values()
                .filter(|fault| fault.from <= after.from && after.from < fault.from + REASON)
                .filter(|fault| fault.hosts.contains(&before.what))
                .max_by_key(|fault| fault.from);
            if let Some(fault) = reason {
                let span = span_text(after.from - fault.from);
                let _ = write!(text, ", {span} after: {}", words(world, fault));
            }
            for (w, gap) in &story.gaps {
                let watches = match w.checked_sub(world.plan.viewers) {
                    None => world.viewers[*w].watches,
                    Some(page) => world.browsers[page].watches,
                };
                let near = gap.from <= after.from + SEC && gap.to + SEC >= before.to;
                if watches == encoder && near {
                    let who = watcher_name(world, *w);
                    let _ = write!(
                        text,
                        "; {who} saw nothing new for {}",
                        span_text(gap.to - gap.from)
                    );
                }
            }
            found.push(Failover {
                encoder,
                from: (before.to, before.what),
                to: (after.from, after.what),
                text,
            });
        }
    }
    found.sort_by_key(|failover| failover.to);
    found
}

pub(crate) fn watcher_name(world: &World, watcher: usize) -> String {
    match watcher.checked_sub(world.plan.viewers) {
        None => format!("viewer{watcher}"),
        Some(page) => format!("page{page}"),
    }
}

/// An encoder or, numbered after those, a publisher.
pub(crate) fn source_name(world: &World, source: usize) -> String {
    match source.checked_sub(world.plan.encoders) {
        None => format!("cam{source}"),
        Some(publisher) => format!("pub{publisher}"),
    }
}

/// A length of time for people.
pub(crate) fn span_text(ns: u64) -> String {
    match ns {
        _ if ns >= 10 * SEC => format!("{:.0} s", ns as f64 / 1e9),
        _ if ns >= SEC => format!("{:.1} s", ns as f64 / 1e9),
        _ if ns >= 10 * MS => format!("{} ms", ns / MS),
        _ => format!("{:.1} ms", ns as f64 / 1e6),
    }
}

/// A fault in words.
pub(crate) fn words(world: &World, befell: &Befell) -> String {
    let names = |hosts: &mut dyn Iterator<Item = usize>| {
        let names: Vec<String> = hosts.map(|host| world.host_name(host)).collect();
        names.join(" ")
    };
    let who = names(&mut befell.hosts.iter().copied());
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    match &befell.fault {
        Fault::Crash(_) => format!("{who} killed"),
        Fault::Freeze(_) => format!("{who} frozen"),
        Fault::OldFolder(_) => format!("{who} killed, old folder put back"),
        Fault::Twin(e) => format!("a second agent of cam{e}"),
        Fault::Drain(..) => format!("{who} drained"),
        Fault::Cordon(..) => format!("{who} cordoned"),
        Fault::Capacity(_, _, to) => format!("{who} of capacity {to}"),
        Fault::Limit(_, _, to) => format!("{who} takes {to} encoders at most"),
        Fault::Mute(..) => format!("{who} may not send"),
        Fault::Liar(_) => format!("{who} lets nobody know its load"),
        Fault::Boast(_, viewers) => format!("{who} says that it serves {viewers} viewers"),
        Fault::Room(..) => format!("{who} put into one room"),
        Fault::Pool(_, only) => {
            format!("a pool is preferred{}", if *only { ", and nowhere else will do" } else { "" })
        }
        Fault::Bind(..) => format!("{who} bound to the pool"),
        Fault::Label(..) => format!("{who} labelled into the pool"),
        Fault::Send(e, node) => format!("cam{e} sent to {}", world.host_name(*node)),
        Fault::Leave(_) => format!("{who} told to stop"),
        Fault::Cut { one_way, .. } => {
            let [from, to] = &befell.sides;
            let from = names(&mut from.iter().copied());
            let to = names(&mut to.iter().copied());
            let sign = if *one_way { "\u{21a6}" } else { "|" };
            format!("cut: {from} {sign} {to}")
        }
        Fault::Latency(ms) => format!("all packets {ms} ms later"),
        Fault::Loss(share) => format!("{} of packets lost", percent(*share)),
        Fault::Duplicate(share) => format!("{} of datagrams twice", percent(*share)),
        Fault::Reorder(share) => format!("{} of datagrams late", percent(*share)),
        Fault::Bursts(share) => format!("packets lost in runs, {} begin one", percent(*share)),
        Fault::Slow(_, kbit) => format!("{who} slow: {kbit} kbit/s"),
        Fault::Drift(_, gains) => {
            let days = *gains as f64 / 86_400_000.0;
            format!("{who}: wall clock gains {days:.1} days a second")
        }
        Fault::DiskFull(_) => format!("{who}: disk full"),
        Fault::OldBackup(_) => format!("{who} killed, old backup put back"),
        Fault::Unreadable(_) => format!("{who} killed, a record unreadable"),
        Fault::Revoke(by, node) => {
            format!("{} revoked at {}", world.host_name(*node), world.host_name(*by))
        }
        Fault::Readmit(by, node) => {
            format!("{} let in again at {}", world.host_name(*node), world.host_name(*by))
        }
        Fault::Rotate(node) => format!("{} takes another key", world.host_name(*node)),
        Fault::Clock(node, ms) => {
            format!("{}: wall clock jumps by {ms} ms", world.host_name(*node))
        }
        Fault::RequestsLost(share) => format!("{} of requests for keyframes lost", percent(*share)),
    }
}

/// One line of the trace, taken apart.
struct Line {
    at: u64,
    who: String,
    what: String,
}

fn told(
    world: &World,
    story: &Story,
    lines: &[String],
    failovers: &[Failover],
    of: Option<&str>,
) -> String {
    let plan = &world.plan;
    let mut out = format!(
        "{}: {} nodes, {} encoders, {} viewers, {} pages, {} publishers; {} faults; {:.0} s\n\n",
        plan.name,
        plan.nodes,
        plan.encoders,
        plan.viewers,
        world.browsers.len(),
        plan.publishers,
        plan.faults.len(),
        world.now as f64 / 1e9
    );
    let mut parts: Vec<Line> = lines.iter().filter_map(|line| taken_apart(world, line)).collect();
    for befell in story.faults.values() {
        let what = words(world, befell);
        parts.push(Line { at: befell.from, who: "FAULT".into(), what: what.clone() });
        if let Some(to) = befell.to {
            parts.push(Line { at: to, who: "FAULT".into(), what: format!("over: {what}") });
        }
    }
    for (w, gap) in &story.gaps {
        let what = format!("has seen nothing new for {}", span_text(gap.to - gap.from));
        parts.push(Line { at: gap.to, who: watcher_name(world, *w), what });
    }
    for failover in failovers {
        parts.push(Line { at: failover.to.0, who: "MOVED".into(), what: failover.text.clone() });
    }
    parts.sort_by_key(|line| line.at);
    let parts = together(parts);
    let mut fault_at = None;
    for line in &parts {
        let fault = line.who == "FAULT" || line.who == "BROKEN";
        if of.is_some_and(|of| line.who != of && !fault) {
            continue;
        }
        if line.who == "FAULT" && !line.what.starts_with("over") {
            fault_at = Some(line.at);
            out.push('\n');
        }
        let since = match fault_at {
            Some(at) if line.at > at => format!("+{}", span_text(line.at - at)),
            _ => String::new(),
        };
        let at = line.at as f64 / 1e9;
        let _ = writeln!(out, "{at:>9.3}  {since:>9}  {:<8} {}", line.who, line.what);
    }
    out.push_str("\nby node\n");
    for (host, past) in story.hosts.iter().enumerate() {
        let name = world.host_name(host);
        if of.is_some_and(|of| name != of) {
            continue;
        }
        let mut spans = Vec::new();
        for span in &past.spans {
            let word = if span.what == State::Runs { "runs" } else { "frozen" };
            spans.push((span.from, span.to, word.to_owned()));
        }
        for ((ix, e), claims) in &story.claims {
            if *ix == host {
                let text = format!("home of {}", source_name(world, *e));
                spans.extend(claims.spans.iter().map(|s| (s.from, s.to, text.clone())));
            }
        }
        spans.sort();
        let spans: Vec<String> = spans
            .into_iter()
            .map(|(from, to, what)| {
                format!("{what} {:.3}\u{2013}{:.3}", from as f64 / 1e9, to as f64 / 1e9)
            })
            .collect();
        let _ = writeln!(out, "  {name:<8} {}", spans.join(", "));
    }
    if let Some(violation) = &world.violation {
        let _ = writeln!(out, "\nFAILED: {violation}");
    } else {
        out.push_str("\npassed\n");
    }
    out
}

fn taken_apart(world: &World, line: &str) -> Option<Line> {
    let (at, rest) = line.trim_start().split_once(' ')?;
    let at = (at.parse::<f64>().ok()? * 1e9) as u64;
    let (who, what) = rest.split_once(' ')?;
    let who = match who {
        // Told with those that they befell, and by the story.
        "FAULT" | "fault" => return None,
        "VIOLATION" => "BROKEN".to_owned(),
        _ => who.to_owned(),
    };
    let mut what = what.to_owned();
    for node in &world.nodes {
        if what.contains("NodeId") {
            let name = world.name_of(node.id);
            what = what.replace(&format!("{:?}", node.id), &name);
        }
    }
    for (ix, encoder) in world.encoders.iter().enumerate() {
        let name = format!("cam{}", ix % world.plan.encoders.max(1));
        what = what.replace(&format!("{:?}", encoder.id), &name);
        what = what.replace(&encoder.id.short(), &name);
    }
    for (ix, publisher) in world.publishers.iter().enumerate() {
        what = what.replace(&publisher.id.short(), &format!("pub{ix}"));
    }
    Some(Line { at, who, what: plainly(&what) })
}

/// Debugging's way of writing, in words.
fn plainly(what: &str) -> String {
    let field = |name: &str| {
        let (_, rest) = what.split_once(&format!("{name}: "))?;
        Some(rest.split([',', ' ', ')', '}']).next().unwrap_or_default().to_owned())
    };
    let quoted = |text: &str| text.split('"').nth(1).unwrap_or_default().to_owned();
    let counter = || field("counter").unwrap_or_default();
    if what.starts_with("Home {") {
        let why = what.split_once("moved: Some(").map(|(_, rest)| quoted(rest));
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        return format!(
            "is at home at {}, epoch {}{why}",
            field("node").unwrap_or_default(),
            counter()
        );
    }
    if what.starts_with("Next {") {
        return format!("has its next at {}", field("node").unwrap_or_default());
    }
    if what.starts_with("Via {") {
        return format!("takes pictures from {}", field("node").unwrap_or_default());
    }
    if what.starts_with("Place(") {
        let place = |name| field(name).map(|p| p.trim_start_matches("Some(").to_owned());
        let home = place("home").filter(|home| home != "None");
        return match home {
            Some(home) => {
                let next = place("next").unwrap_or_default().replace("None", "nobody");
                format!("hears: home is {home}, next {next}, epoch {}", counter())
            }
            None => "hears: nobody is home".into(),
        };
    }
    let told = [("Seeking(", "seeks: "), ("Waiting(", "waits: "), ("Refused(", "is refused: ")];
    for (start, word) in told {
        if what.starts_with(start) {
            return format!("{word}{}", quoted(what));
        }
    }
    match what {
        "Watched(true)" => "is watched".into(),
        "Watched(false)" => "is watched no more".into(),
        "Superseded" => "lets another agent go first".into(),
        _ => what.to_owned(),
    }
}

/// `n1 up n0`, `n1 up n2` become `n1 up n0 n2`.
fn together(lines: Vec<Line>) -> Vec<Line> {
    let mut out: Vec<Line> = Vec::new();
    for line in lines {
        let near = out.iter().rev().take_while(|b| line.at < b.at + TOGETHER);
        let mut near = near.filter(|b| b.who == line.who);
        if line.what.starts_with("waits: ") && near.any(|b| b.what == line.what) {
            continue;
        }
        let kind = ["up ", "link up ", "admitted ", "is asked for change "];
        let kind = kind.into_iter().find(|k| line.what.starts_with(k));
        if let Some(kind) = kind {
            let before = out.iter_mut().rev().take_while(|b| line.at < b.at + TOGETHER);
            let mut before = before.filter(|b| b.who == line.who);
            if let Some(before) = before.find(|b| b.what.starts_with(kind)) {
                before.what.push(' ');
                before.what.push_str(&line.what[kind.len()..]);
                continue;
            }
        }
        out.push(line);
    }
    // The same said twice at the same time by one host is said once.
    let mut seen = BTreeSet::new();
    out.retain(|line| seen.insert((line.at, line.who.clone(), line.what.clone())));
    out
}
