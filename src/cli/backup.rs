//! `roost backup`: the ledger and who belongs to the mesh, in one file.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use roost::http::socket::SOCKET_FILE;
use roost::store::Store;
use roost::wire::ApiRequest;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::exit::{Exit, Failure};
use super::local::{self, Broken};
use super::{node, out};

const WHAT: &str = "cannot make a backup";
/// Longest answer that is no backup, in bytes: a few words.
const WORDS_MAX: u64 = 64 << 10;

/// Arguments of `roost backup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// Where it goes, in place of an older one
    file: PathBuf,
    /// The node's folder, whether it runs or not [default: that of a node that was told none]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Writes the file, and says where it is.
pub(crate) async fn run(args: Backup) -> Result<(), Failure> {
    let data = args.data.unwrap_or_else(node::default_socket_folder);
    let method = "POST".to_owned();
    let path = "/api/v1/backup".to_owned();
    let request = ApiRequest { method, path, headers: Vec::new(), body: Vec::new() };
    match local::open(&data.join(SOCKET_FILE), &request).await {
        Ok((status, headers, body, stream)) => {
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let length = length.and_then(|(_, value)| value.parse().ok());
            of_node(status, length, body, stream, &args.file).await?;
        }
        // No node runs on it.
        Err(Broken::Before(_)) => of_folder(&data, &args.file)?,
        Err(Broken::After(why)) => {
            return Err(Failure::new(Exit::NoNodeAnswered, WHAT, why, "repeat it"));
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

/// Takes what a running node answers.
async fn of_node(
    status: u16,
    length: Option<u64>,
    mut body: Vec<u8>,
    mut stream: UnixStream,
    file: &Path,
) -> Result<(), Failure> {
    let Some(exit) = super::exit::exit_of_status(status) else {
        return keep(&mut stream, body, length, file).await;
    };
    // What cannot be read of it leaves the status.
    let _ = stream.take(WORDS_MAX).read_to_end(&mut body).await;
    Err(Failure::said(exit, format!("{WHAT}: {}", super::call::problem(status, &body))))
}

/// Writes what comes under another name first: only what is whole gets the file's.
async fn keep(
    stream: &mut UnixStream,
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
