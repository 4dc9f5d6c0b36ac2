//! `roost demo`: a mesh of real processes on this machine, and buttons that hurt it.

pub(crate) mod children;
mod http;
pub(crate) mod janitor;
mod mesh;
mod page;
mod script;

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::exit::{Exit, Failure};
use super::out;
use super::signals::Stop;
use children::Nursery;
use janitor::Janitor;
use mesh::Mesh;

/// Arguments of `roost demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(1..=mesh::NODES_MAX))]
    nodes: u16,
    /// How many encoders, each with a test picture
    #[arg(long, value_name = "N", default_value_t = 6,
          value_parser = clap::value_parser!(u16).range(1..=mesh::ENCODERS_MAX))]
    encoders: u16,
    /// Port of the demo page on this machine; 0 takes any [default: 9440, or any if it is taken].
    /// A script has no page
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Do not open a browser
    #[arg(long)]
    no_open: bool,
    /// Leave data and logs behind and say where they are
    #[arg(long)]
    keep: bool,
    /// Without a browser: do this, report, and exit with 0 only if every stream healed
    #[arg(long, value_name = "WHAT")]
    script: Option<script::Script>,
    /// Print the script's report as JSON
    #[arg(long, requires = "script")]
    json: bool,
}

/// Runs the demo on this thread alone, which makes every child and outlives them.
pub(crate) fn block_on(args: Demo) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
            Failure::new(Exit::Failed, "cannot start", error, "check the limits on threads")
        })?;
    let result = runtime.block_on(run(args));
    runtime.shutdown_background();
    result
}

async fn run(args: Demo) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    let folder = make_folder()?;
    let mut nursery = Nursery::new(folder.clone(), Janitor::start(&folder)?)?;
    if args.keep {
        nursery.keep_folder()?;
        out::talk(&format!("data and logs stay in {}", folder.display()));
    }
    let mesh = Arc::new(Mutex::new(Mesh::new(nursery)));
    let result = tokio::select! {
        result = perform(&args, &mesh) => result,
        () = stop.next() => Ok(()),
    };
    mesh.lock().await.close().await;
    result
}

/// Everything between the first child and the last.
async fn perform(args: &Demo, mesh: &Arc<Mutex<Mesh>>) -> Result<(), Failure> {
    let begin = Instant::now();
    out::talk(&format!(
        "roost {}: {} nodes and {} encoders, each a process of its own; Ctrl-C removes every trace",
        env!("CARGO_PKG_VERSION"),
        args.nodes,
        args.encoders
    ));
    mesh.lock().await.start(args.nodes, args.encoders).await?;
    let up = begin.elapsed();
    out::talk(&format!("everything is up after {:.1} s", up.as_secs_f64()));
    match args.script {
        Some(script::Script::KillOne) => {
            let report = script::kill_one(&mut *mesh.lock().await, up).await?;
            report.tell(args.json)
        }
        None => show(args, mesh).await,
    }
}

/// Serves the page until something fails; a signal ends it from outside.
async fn show(args: &Demo, mesh: &Arc<Mutex<Mesh>>) -> Result<(), Failure> {
    let listener = listen(args.port).await?;
    let address = listener.local_addr().map_err(|error| page_failed(&error))?;
    let url = format!("http://{address}/");
    announce(&url)?;
    if !args.no_open && has_display() {
        open_browser(&url);
    }
    tokio::select! {
        served = page::serve(listener, Arc::clone(mesh)) => served.map_err(|error| page_failed(&error)),
        () = mesh::observe(mesh) => Ok(()),
    }
}

/// The page's port: what was asked for, or the usual one, or any.
async fn listen(port: Option<u16>) -> Result<TcpListener, Failure> {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if let Some(port) = port {
        return TcpListener::bind(loopback(port)).await.map_err(|error| {
            Failure::new(
                Exit::Conflict,
                &format!("cannot serve the demo page on port {port}"),
                error,
                "give another --port, or 0 for any",
            )
        });
    }
    match TcpListener::bind(loopback(USUAL_PORT)).await {
        Ok(listener) => Ok(listener),
        Err(_taken) => TcpListener::bind(loopback(0)).await.map_err(|error| page_failed(&error)),
    }
}

fn page_failed(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, "cannot serve the demo page", error, "start the demo again")
}

/// A folder that only this user can read: it holds the keys of the demo's nodes.
fn make_folder() -> Result<PathBuf, Failure> {
    let folder = std::env::temp_dir().join(format!("roost-demo-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| {
        Failure::new(
            Exit::Failed,
            &format!("cannot make the folder {}", folder.display()),
            error,
            "remove it, or set TMPDIR to a folder that can be written to",
        )
    })?;
    Ok(folder)
}

/// The address, so that it can be found in a full terminal, and plain for whoever reads a pipe.
fn announce(url: &str) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return out::line(url);
    }
    let rule = "━".repeat(url.len() + 6);
    out::line(&format!("\n┏{rule}┓\n┃   {url}   ┃\n┗{rule}┛\n"))
}

fn has_display() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    set("DISPLAY") || set("WAYLAND_DISPLAY")
}

fn open_browser(url: &str) {
    let quiet = Stdio::null;
    let opened = std::process::Command::new("xdg-open")
        .arg(url)
        .stdin(quiet())
        .stdout(quiet())
        .stderr(quiet())
        .process_group(0)
        .spawn();
    if opened.is_err() {
        out::talk("there is no xdg-open here: open the address in a browser");
    }
}

/// The demo page's usual port, below the nodes' default.
const USUAL_PORT: u16 = 9440;
