//! `roost backup`: the ledger and who belongs to the mesh, in one file.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use roost::store::Store;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::exit::{Exit, Failure};
use super::{duration, out};

const WHAT: &str = "cannot make a backup";
/// Longest head of an answer: a dozen header lines.
const HEAD_MAX: usize = 16 << 10;

/// Arguments of `roost backup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// Where it goes, in place of an older one
    file: PathBuf,
    /// The node to ask, on this machine
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9443",
        conflicts_with = "data"
    )]
    addr: String,
    /// The folder of a node that does not run, instead
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How long the node may take
    #[arg(long, value_name = "D", value_parser = duration::parse, default_value = "60s")]
    timeout: std::time::Duration,
}

/// Writes the file, and says where it is.
pub(crate) async fn run(args: Backup) -> Result<(), Failure> {
    match args.data {
        Some(data) => of_folder(&data, &args.file)?,
        None => {
            let asked = tokio::time::timeout(args.timeout, of_node(&args.addr, &args.file));
            asked.await.map_err(|_elapsed| {
                let why = format!("{} did not answer in time", args.addr);
                Failure::new(Exit::NoNodeAnswered, WHAT, why, "give it more with --timeout")
            })??;
        }
    }
    out::line(&args.file.display().to_string())
}

fn of_folder(data: &Path, file: &Path) -> Result<(), Failure> {
    if !data.is_dir() {
        let why = format!("{} is no folder", data.display());
        return Err(Failure::new(Exit::NoSuchThing, WHAT, why, "give the --data of a node"));
    }
    let store = Store::open(data).map_err(Failure::from)?.store;
    let mesh = store.mesh().map_err(Failure::from)?.ok_or_else(|| {
        let why = format!("no node of this version has run on {}", data.display());
        Failure::new(Exit::NoSuchThing, WHAT, why, "start the node once, or give its folder")
    })?;
    store.source().backup(mesh, now(), file).map_err(Failure::from)?;
    Ok(())
}

fn now() -> u64 {
    let now = jiff::Timestamp::now().as_millisecond();
    u64::try_from(now).unwrap_or(0)
}

/// Asks a node on this machine: HTTP/1.0, so that the answer ends with the connection.
async fn of_node(addr: &str, file: &Path) -> Result<(), Failure> {
    let silent = |error: std::io::Error| {
        Failure::new(Exit::NoNodeAnswered, WHAT, format!("{addr}: {error}"), "check --addr")
    };
    let mut stream = TcpStream::connect(addr).await.map_err(silent)?;
    let request =
        format!("POST /api/v1/backup HTTP/1.0\r\nHost: {addr}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(silent)?;
    let mut answer = Vec::new();
    let end = loop {
        if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if answer.len() > HEAD_MAX || stream.read_buf(&mut answer).await.map_err(silent)? == 0 {
            let why = format!("{addr} does not speak like a node");
            return Err(Failure::new(Exit::NoNodeAnswered, WHAT, why, "check --addr"));
        }
    };
    let body = answer.split_off(end);
    let head = String::from_utf8_lossy(&answer).into_owned();
    let status: u16 =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    if status != 200 {
        let mut body = body;
        stream.take(HEAD_MAX as u64).read_to_end(&mut body).await.map_err(silent)?;
        let exit = super::exit::exit_of_status(status).unwrap_or(Exit::Failed);
        return Err(Failure::said(
            exit,
            format!("{WHAT}: {}", super::call::problem(status, &body)),
        ));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
    });
    keep(&mut stream, body, length, file).await
}

/// Writes what comes under another name first: only what is whole gets the file's.
async fn keep(
    stream: &mut TcpStream,
    mut chunk: Vec<u8>,
    length: Option<u64>,
    file: &Path,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Failed, WHAT, error, "check the disk, and repeat it")
    };
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".new");
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let opened = options.write(true).create(true).truncate(true).open(&unfinished);
    let (mut writer, mut written) = (opened.map_err(failed)?, 0);
    loop {
        writer.write_all(&chunk).map_err(failed)?;
        written += chunk.len() as u64;
        chunk.clear();
        if stream.read_buf(&mut chunk).await.map_err(failed)? == 0 {
            break;
        }
    }
    if length.is_some_and(|length| length != written) {
        return Err(failed(std::io::Error::other("the answer broke off")));
    }
    writer.sync_all().and_then(|()| std::fs::rename(&unfinished, file)).map_err(failed)
}
