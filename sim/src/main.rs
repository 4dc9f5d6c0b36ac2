//! The simulator's command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, Parser, Subcommand};
use roost_sim::plan::Plan;
use roost_sim::{MARKS, Outcome, Rates, Watch, explain, run, scale, shrink};

/// Whole meshes are made of small things that come and go: a fifth of the time less than with the
/// system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Prints a line, as long as anybody reads: `roost-sim explain | head` ends in peace.
macro_rules! println {
    ($($said:tt)*) => {
        if writeln!(std::io::stdout(), $($said)*).is_err() {
            std::process::exit(1)
        }
    };
}

#[derive(Parser)]
#[command(about = "Plays partitions, crashes and frozen nodes against Roost's deciding half")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// One seed.
    Run(Pick),
    /// A run told by time and by node, and drawn.
    Explain {
        /// A plan from a file, instead of a seed's.
        #[arg(long)]
        plan: Option<PathBuf>,
        #[command(flatten)]
        pick: Pick,
        /// Draw it into this file, too.
        #[arg(long)]
        svg: Option<PathBuf>,
        /// Only what concerns one host: `n2`, `cam0`, `viewer1`.
        #[arg(long)]
        of: Option<String>,
    },
    /// The plan of a seed.
    Plan(Pick),
    /// Many seeds, one after the other.
    Swarm {
        /// From and to, the last one not included.
        #[arg(long, value_parser = range)]
        seeds: (u64, u64),
        #[command(flatten)]
        size: Size,
        /// Go on after a failure.
        #[arg(long)]
        keep_going: bool,
    },
    /// How often everything happens in some calm courses, compared with what is usual.
    Courses {
        /// Write it down instead, into this file: it is what is usual then. Courses that are not
        /// played keep their numbers there.
        #[arg(long)]
        record: Option<PathBuf>,
        /// Only these; repeatable.
        #[arg(long)]
        only: Vec<String>,
        /// The first seed. Under others than the usual ones things are as usual, too.
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
    /// A plan from a file.
    Replay {
        /// The file.
        plan: PathBuf,
        /// Line by line.
        #[arg(long)]
        explain: bool,
    },
    /// Makes a failing plan smaller and prints it.
    Shrink {
        /// A plan from a file; a seed's if missing.
        plan: Option<PathBuf>,
        #[command(flatten)]
        pick: Pick,
    },
    /// How meshes of many nodes behave, and what each plane costs.
    Scale {
        /// Numbers of nodes.
        #[arg(default_values_t = [8, 64, 256, 1000])]
        nodes: Vec<usize>,
        /// Encoders of each mesh; ten for each node if missing.
        #[arg(long)]
        encoders: Option<usize>,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// How loads become even in meshes of many encoders whose nodes join, leave, die and return.
    Even {
        /// Numbers of nodes.
        #[arg(default_values_t = [4, 16, 64])]
        nodes: Vec<usize>,
        /// Encoders of each.
        #[arg(long, default_value_t = 1_000)]
        encoders: usize,
        /// Viewers that come, some while encoders move.
        #[arg(long, default_value_t = 20)]
        viewers: usize,
        /// How long nothing may move at the end, in seconds.
        #[arg(long, default_value_t = 3_600)]
        rest: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// The same seed in two fresh processes gives the same trace.
    Meta(Pick),
}

#[derive(Args)]
struct Pick {
    /// Decides everything.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    size: Size,
}

#[derive(Args, Clone, Copy)]
struct Size {
    /// How many nodes; drawn from the seed if missing.
    #[arg(long)]
    nodes: Option<usize>,
    /// How many encoders; likewise.
    #[arg(long)]
    encoders: Option<usize>,
    /// What is drawn; some seeds of each kind if missing.
    #[arg(long, value_enum)]
    kind: Option<Drawn>,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum Drawn {
    /// Crashes, cuts, loss and the like.
    Plain,
    /// The same with rarer things.
    Rare,
    /// Faults that come in shapes.
    Storm,
    /// Members are shut out, let in and given other keys, and clocks are wrong.
    Trust,
    /// Nodes are drained and cordoned, and encoders are sent elsewhere.
    Steer,
    /// Many encoders, whose number at each node becomes even.
    Even,
    /// Plans that are kept as files, a little otherwise.
    Kept,
}

impl Drawn {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Rare => "rare",
            Self::Storm => "storm",
            Self::Trust => "trust",
            Self::Steer => "steer",
            Self::Even => "even",
            Self::Kept => "kept",
        }
    }
}

impl Size {
    fn plan(self, seed: u64) -> Plan {
        let draw = match self.kind {
            None => Plan::draw_any,
            Some(Drawn::Plain) => Plan::draw_plain,
            Some(Drawn::Rare) => Plan::draw_rare,
            Some(Drawn::Storm) => Plan::draw_storm,
            Some(Drawn::Trust) => Plan::draw_trust,
            Some(Drawn::Steer) => Plan::draw_steer,
            Some(Drawn::Even) => Plan::draw_even,
            Some(Drawn::Kept) => Plan::draw_kept,
        };
        draw(seed, self.nodes, self.encoders)
    }
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("give FROM..TO")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok((number(from)?, number(to)?))
}

impl Pick {
    fn plan(&self) -> Plan {
        self.size.plan(self.seed)
    }
}

/// A swarm of this many seeds meets everything that should happen sometimes.
const WHOLE: u64 = 500;

fn main() -> ExitCode {
    match act(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn act(task: Task) -> Result<ExitCode, String> {
    match task {
        Task::Run(pick) => Ok(one(&pick.plan(), Watch::Nobody)),
        Task::Explain { plan, pick, svg, of } => {
            let plan = match plan {
                Some(path) => read(&path)?,
                None => pick.plan(),
            };
            told(&plan, svg.as_ref(), of.as_deref())
        }
        Task::Plan(pick) => {
            println!("{}", text(&pick.plan()));
            Ok(ExitCode::SUCCESS)
        }
        Task::Replay { plan, explain } => {
            let watch = if explain { Watch::Print } else { Watch::Nobody };
            Ok(one(&read(&plan)?, watch))
        }
        Task::Shrink { plan, pick } => {
            let plan = match plan {
                Some(path) => read(&path)?,
                None => pick.plan(),
            };
            println!("{}", text(&shrink(&plan)));
            Ok(ExitCode::SUCCESS)
        }
        Task::Swarm { seeds, size, keep_going } => swarm(seeds, size, keep_going),
        Task::Courses { record, only, from } => play_courses(record.as_ref(), &only, from),
        Task::Scale { nodes, encoders, seed } => {
            scaled(&nodes, encoders, seed).map(|()| ExitCode::SUCCESS)
        }
        Task::Even { nodes, encoders, viewers, rest, seed } => {
            Ok(evenly(&nodes, (encoders, viewers), rest, seed))
        }
        Task::Meta(pick) => meta(&pick),
    }
}

fn told(plan: &Plan, svg: Option<&PathBuf>, of: Option<&str>) -> Result<ExitCode, String> {
    let explained = explain(plan, of);
    // Whoever reads only the beginning closes the pipe.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), explained.text.as_bytes());
    if let Some(path) = svg {
        std::fs::write(path, explained.svg).map_err(|error| of_file(path)(&error))?;
    }
    Ok(if explained.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn of_file(path: &Path) -> impl Fn(&dyn std::fmt::Display) -> String {
    move |error| format!("{}: {error}", path.display())
}

fn read(path: &PathBuf) -> Result<Plan, String> {
    let bad = of_file(path);
    let text = std::fs::read_to_string(path).map_err(|error| bad(&error))?;
    serde_json::from_str(&text).map_err(|error| bad(&error))
}

fn text(plan: &Plan) -> String {
    serde_json::to_string_pretty(plan).unwrap_or_else(|error| error.to_string())
}

fn tell(plan: &Plan, outcome: &Outcome) -> bool {
    match &outcome.violation {
        None => true,
        Some(violation) => {
            println!("seed {} ({}) FAILED: {violation}", plan.seed, plan.name);
            println!("{}", text(plan));
            false
        }
    }
}

fn one(plan: &Plan, watch: Watch) -> ExitCode {
    let started = std::time::Instant::now();
    let outcome = run(plan, watch);
    let passed = tell(plan, &outcome);
    println!(
        "{}: {:.0} s of {} nodes in {:.2} s, {} events, longest gap {} ms, trace {:016x}",
        if passed { "passed" } else { "failed" },
        outcome.seconds,
        plan.nodes,
        started.elapsed().as_secs_f64(),
        outcome.events,
        outcome.longest_gap_ms,
        outcome.hash
    );
    for (what, measure) in &outcome.measured {
        let mean = measure.sum / measure.count.max(1);
        println!("  {what}: {} times, mean {mean}, most {}", measure.count, measure.max);
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn swarm((from, to): (u64, u64), size: Size, keep_going: bool) -> Result<ExitCode, String> {
    let started = std::time::Instant::now();
    let (mut failed, mut virtual_s) = (Vec::new(), 0.0);
    let mut marks: std::collections::BTreeMap<&str, u64> =
        MARKS.iter().map(|name| (*name, 0)).collect();
    let mut measured: std::collections::BTreeMap<&str, roost_sim::Measure> =
        std::collections::BTreeMap::new();
    for seed in from..to {
        let plan = size.plan(seed);
        let outcome = run(&plan, Watch::Nobody);
        virtual_s += outcome.seconds;
        for name in outcome.marks.keys() {
            *marks.entry(name).or_default() += 1;
        }
        for (what, measure) in &outcome.measured {
            measured.entry(what).or_default().merge(*measure);
        }
        if let Some(violation) = &outcome.violation {
            failed.push(seed);
            if keep_going {
                println!("seed {seed} FAILED: {violation}");
            } else {
                tell(&plan, &outcome);
                break;
            }
        }
    }
    println!(
        "{} seeds, {virtual_s:.0} virtual seconds in {:.1} s, {} failed: {failed:?}",
        to.saturating_sub(from),
        started.elapsed().as_secs_f64(),
        failed.len()
    );
    for (what, measure) in &measured {
        let mean = measure.sum / measure.count.max(1);
        println!("  {what}: {} times, mean {mean}, most {}", measure.count, measure.max);
    }
    println!("in how many seeds it happened:");
    marks.iter().for_each(|(name, seeds)| println!("  {seeds:>6}  {name}"));
    let never: Vec<&str> = marks.iter().filter(|(_, n)| **n == 0).map(|(name, _)| *name).collect();
    if !failed.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    // A small swarm cannot meet everything, nor can one of a single kind.
    let drawn = matches!(size, Size { nodes: None, encoders: None, kind: None });
    if !drawn || to.saturating_sub(from) < WHOLE {
        return Ok(ExitCode::SUCCESS);
    }
    if !never.is_empty() {
        println!("never: {}", never.join("; "));
        return Ok(ExitCode::FAILURE);
    }
    play_courses(None, &[], 0)
}

/// One change makes much unusual: the first lines say enough.
const UNUSUAL_SHOWN: usize = 20;

/// Each course is played under so many seeds, as a rule the same ones each time.
const COURSE_SEEDS: u64 = 30;

/// How often things happen is as usual, or written down for later.
fn play_courses(record: Option<&PathBuf>, only: &[String], from: u64) -> Result<ExitCode, String> {
    let started = std::time::Instant::now();
    let mut courses = roost_sim::courses().map_err(|error| error.to_string())?;
    if let Some(name) = only.iter().find(|name| courses.iter().all(|it| it.name != **name)) {
        return Err(format!("no course is called {name}"));
    }
    courses.retain(|course| only.is_empty() || only.contains(&course.name));
    if let Some(path) = record {
        let mut rates = Rates::under(0..roost_sim::SEEDS_RECORDED);
        courses.iter().try_for_each(|course| rates.play(course))?;
        let bad = of_file(path);
        let before = match only {
            [] => "{}".to_owned(),
            _ => std::fs::read_to_string(path).map_err(|error| bad(&error))?,
        };
        let text = rates.over(&before).map_err(|error| bad(&error))?;
        std::fs::write(path, text).map_err(|error| bad(&error))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rates = Rates::under(from..from + COURSE_SEEDS);
    let mut unusual = 0;
    for course in &courses {
        rates.play(course)?;
        for what in rates.unusual(&course.name) {
            if unusual < UNUSUAL_SHOWN {
                println!("UNUSUAL: {what}");
            }
            unusual += 1;
        }
    }
    let (count, took) = (courses.len(), started.elapsed().as_secs_f64());
    println!("{count} courses in {took:.1} s, {unusual} things unusual");
    Ok(if unusual == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line of a file in `/proc` that gives kilobytes, in megabytes; none where there is no `/proc`.
fn proc_mb(file: &str, line: &str) -> Option<f64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(file)).ok()?;
    let line = text.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

/// The most memory that this process had so far, in megabytes.
fn peak_mb() -> f64 {
    proc_mb("self/status", "VmHWM").unwrap_or_default()
}

/// A mesh takes about so many megabytes: each node has a link to each other and every encoder in
/// its directory (measured with 256 and 1,000 nodes).
fn needed_mb(nodes: usize, encoders: usize) -> f64 {
    (7.5 * nodes as f64 + 1.3 * encoders as f64) * nodes as f64 / 1024.0
}

/// How much more bytes of liveness a node of the largest mesh may send than one of 64.
const LIVENESS_GROWTH: f64 = 1.5;

fn scaled(all: &[usize], encoders: Option<usize>, seed: u64) -> Result<(), String> {
    let mut done: Vec<(f64, roost_sim::Scaled)> = Vec::new();
    let time = |time: Option<f64>| time.map_or("never".into(), |s| format!("{s:.2} s"));
    for &nodes in all {
        let nodes = nodes.max(3);
        let encoders = encoders.unwrap_or(nodes * 10);
        let needed = needed_mb(nodes, encoders);
        if let Some(free) = proc_mb("meminfo", "MemAvailable").filter(|free| *free < needed) {
            laws(&done);
            return Err(format!(
                "{nodes} nodes with {encoders} encoders would take {:.0} GB, and {:.0} are free: it \
                 grows with the square; play fewer, or with fewer --encoders",
                needed / 1024.0,
                free / 1024.0
            ));
        }
        println!("{nodes} nodes, {encoders} encoders:");
        let each = |sum: u64| sum as f64 / nodes as f64;
        let mut last = roost_sim::Scaled::default();
        // The larger ones take long: each part is told when it is over.
        scale(nodes, encoders, seed, &mut |scaled: &roost_sim::Scaled| {
            if let Some((part, seconds, cost)) = scaled.parts.last() {
                println!("  {part}: {seconds:.0} s in {cost:.2} s of one core");
            }
            if last.planes.is_empty() {
                for (plane, sent) in &scaled.planes {
                    let (bytes, packets) = (each(sent.bytes), each(sent.packets));
                    println!(
                        "  {plane}: {bytes:.0} B and {packets:.2} packets per node and second"
                    );
                }
            }
            last = scaled.clone();
        });
        println!(
            "  converged {}, death known {}, halves whole {}; moves {} to even out, {} at rest, {} \
             after; at most {:.2} MB for each node",
            time(last.converged),
            time(last.detected),
            time(last.healed),
            last.moves[0],
            last.moves[1],
            last.moves[2],
            peak_mb() / nodes as f64
        );
        done.push((nodes as f64, last));
    }
    laws(&done);
    Ok(())
}

/// How each plane grows from the first to the last mesh, per node.
fn laws(done: &[(f64, roost_sim::Scaled)]) {
    let Some((_, last)) = done.last() else { return };
    for plane in last.planes.keys() {
        let of = |scaled: &roost_sim::Scaled, nodes: f64| {
            scaled.planes.get(plane).map(|sent| sent.bytes as f64 / nodes)
        };
        let points: Vec<(f64, f64)> =
            done.iter().filter_map(|(n, scaled)| Some((*n, of(scaled, *n)?))).collect();
        let Some(law) = exponent(&points) else { continue };
        let name = match law {
            ..0.1 => "constant",
            ..0.35 => "about log N",
            ..0.8 => "less than N",
            ..1.2 => "N",
            _ => "more than N",
        };
        print!("{plane}, bytes per node: like N^{law:.2} ({name})");
        let at = |nodes: f64| points.iter().find(|(n, _)| *n == nodes).map(|(_, bytes)| *bytes);
        if *plane == "liveness"
            && let (Some(few), Some(many)) = (at(64.0), at(1000.0))
        {
            let passes = many <= few * LIVENESS_GROWTH;
            let word = if passes { "PASS" } else { "MISS" };
            print!(", {:.2} times as much at 1000 as at 64: {word}", many / few);
        }
        println!();
    }
}

/// The power of the number of nodes that fits best (least squares of the logarithms).
fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points.iter().map(|(n, bytes)| (n.ln(), bytes.ln())).collect();
    let count = logs.len() as f64;
    let mean_n = logs.iter().map(|(n, _)| n).sum::<f64>() / count;
    let mean_b = logs.iter().map(|(_, b)| b).sum::<f64>() / count;
    let both = logs.iter().map(|(n, b)| (n - mean_n) * (b - mean_b)).sum::<f64>();
    let square = logs.iter().map(|(n, _)| (n - mean_n).powi(2)).sum::<f64>();
    (logs.len() > 1 && square > 0.0).then(|| both / square)
}

fn evenly(nodes: &[usize], (encoders, viewers): (usize, usize), rest: u64, seed: u64) -> ExitCode {
    let mut passed = true;
    for &nodes in nodes {
        let started = std::time::Instant::now();
        let evenly = roost_sim::even(nodes, encoders, viewers, seed, rest);
        println!("{nodes} nodes, {encoders} encoders, {viewers} viewers:");
        for (what, it) in roost_sim::CHANGES.iter().zip(&evenly.changes) {
            let took = it.took.map_or("never".into(), |ns| format!("{:.1} s", ns as f64 / 1e9));
            println!(
                "  {what}: {} moves where {} do, even {took} after the change, {} to {} at a node; \
                 before, the fullest had {:.3} of the mean",
                it.moves,
                it.needed,
                it.counts.1,
                it.counts.0,
                it.fullest as f64 / 1e3
            );
        }
        println!(
            "  in {rest} s more: {} moves; {:.1} s of computing",
            evenly.rest,
            started.elapsed().as_secs_f64()
        );
        if let Some(violation) = evenly.violation {
            println!("  FAILED: {violation}");
            passed = false;
        }
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The last word of `run`'s output is the trace's hash.
fn meta(pick: &Pick) -> Result<ExitCode, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut hashes = Vec::new();
    for _ in 0..2 {
        let mut command = Command::new(&me);
        command.arg("run").arg("--seed").arg(pick.seed.to_string());
        if let Some(nodes) = pick.size.nodes {
            command.arg("--nodes").arg(nodes.to_string());
        }
        if let Some(encoders) = pick.size.encoders {
            command.arg("--encoders").arg(encoders.to_string());
        }
        if let Some(kind) = pick.size.kind {
            command.arg("--kind").arg(kind.name());
        }
        let output = command.output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains(", trace ")).unwrap_or_default();
        hashes.push(line.rsplit(' ').next().unwrap_or_default().to_owned());
    }
    let equal = hashes.first() == hashes.last() && hashes.iter().all(|hash| hash.len() == 16);
    println!("{}: {}", if equal { "equal" } else { "DIFFERENT" }, hashes.join(" "));
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
