//! `roost node`: the server itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use roost::admission::Invitation;
use roost::id;
use roost::node::{Join, NodeConfig};
use tokio::sync::{mpsc, oneshot};

use super::exit::{Exit, Failure};
use super::noun;
use super::signals::{Hangups, Stop};
use crate::{config, logging};

/// Arguments of `roost node`. What is not given here is looked for in the environment, then in
/// the configuration file, then defaulted.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Node {
    #[command(subcommand)]
    pub(crate) verb: Option<noun::NodeVerb>,
    /// Folder of this node's key and state; made if missing [default: /var/lib/roost for root,
    /// otherwise ~/.local/share/roost]
    #[arg(long, value_name = "DIR", env = "ROOST_DATA")]
    data: Option<PathBuf>,
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "ROOST_CONFIG")]
    config: Option<PathBuf>,
    /// Address and port, UDP and TCP [default: 0.0.0.0:9443]
    #[arg(long, value_name = "ADDR:PORT", env = "ROOST_LISTEN")]
    listen: Option<SocketAddr>,
    /// How others reach this node, if not under the address it listens on; may be repeated
    #[arg(long, value_name = "HOST:PORT", env = "ROOST_ADVERTISE", value_delimiter = ',')]
    advertise: Vec<String>,
    /// An invitation, or addresses of members if this node is already admitted; without it a
    /// new mesh is founded, or the known one rejoined
    #[arg(
        long,
        value_name = "STRING|HOST:PORT",
        env = "ROOST_JOIN",
        hide_env_values = true,
        value_delimiter = ','
    )]
    join: Vec<String>,
    /// Read the invitation from a file, so that it is not seen in the list of processes; `-` is
    /// standard input
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    join_file: Option<PathBuf>,
    /// What people call this node [default: the host's name]
    #[arg(long, value_name = "NAME", env = "ROOST_NAME")]
    name: Option<String>,
    /// Web certificate chain, PEM; without it the node signs its own
    #[arg(long, value_name = "FILE", env = "ROOST_TLS__CERT_FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of the web certificate, PEM
    #[arg(long, value_name = "FILE", env = "ROOST_TLS__KEY_FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Of a node that founds a mesh: file that holds the password of the first administrator,
    /// `admin`; without it one is drawn and printed once
    #[arg(long, value_name = "FILE", env = "ROOST_ADMIN_PASSWORD_FILE")]
    admin_password_file: Option<PathBuf>,
    /// Take whoever asks from this machine without a credential for its owner
    #[arg(long, hide = true)]
    open_loopback: bool,
    /// Write `{"listen":"ADDR:PORT"}` here once the ports are open
    #[arg(long, value_name = "FILE", hide = true)]
    ready_file: Option<PathBuf>,
}

/// Everything `roost node` needs, after flags, environment, file and defaults.
#[derive(Debug)]
pub(crate) struct Settings {
    config: NodeConfig,
    ready: Option<(PathBuf, oneshot::Receiver<SocketAddr>)>,
    reload: Reload,
}

/// What SIGHUP reads again.
#[derive(Debug)]
struct Reload {
    path: Option<PathBuf>,
    /// The file as the node was started with it.
    started: config::File,
    /// Of the log, without the file.
    log: logging::Settings,
    /// Given by flag or environment, which the file does not override.
    certificate: Option<(PathBuf, PathBuf)>,
    renew: mpsc::Sender<Option<(PathBuf, PathBuf)>>,
}

impl Node {
    /// Resolves the arguments; the file may also change how logs are written.
    pub(crate) fn settle(self, log: &mut logging::Settings) -> Result<Settings, Failure> {
        let file = match &self.config {
            Some(path) => config::File::read(path)
                .map_err(|message| Failure::said(Exit::Configuration, message))?,
            None => config::File::default(),
        };
        let log_before = log.clone();
        log.prefer(file.log.format, file.log.filter.as_deref());
        let started = file.clone();
        let join = match &self.join_file {
            Some(path) => vec![read_secret(path, "the invitation")?],
            None if self.join.is_empty() => file.seeds,
            None => self.join,
        };
        let join = join_from(&join)?;
        let name = self.name.or(file.name);
        if let Some(name) = name.as_deref().filter(|name| !id::valid_name(name)) {
            return Err(bad_configuration(&format!("`{name}` cannot name a node"), NAME_RULE));
        }
        let advertise = if self.advertise.is_empty() { file.advertise } else { self.advertise };
        if let Some(bad) = advertise.iter().find(|text| !host_and_port(text)) {
            return Err(bad_configuration(
                &format!("`{bad}` cannot be advertised"),
                "write HOST:PORT, like roost.example.org:9443",
            ));
        }
        let admin_password = match &self.admin_password_file {
            Some(path) => Some(read_secret(path, "the password and nothing else")?),
            None => None,
        };
        let given = self.tls_cert.zip(self.tls_key);
        let certificate = match given.clone() {
            Some(given) => Some(given),
            None => file.tls.pair().map_err(|message| bad_configuration(&message, TLS_RULE))?,
        };
        let (renew, renewals) = mpsc::channel(1);
        let (sender, receiver) = oneshot::channel();
        Ok(Settings {
            config: NodeConfig {
                data: self.data.or(file.data).unwrap_or_else(default_data),
                listen: self.listen.or(file.listen).unwrap_or(DEFAULT_LISTEN),
                sockets: None,
                advertise,
                join,
                name,
                certificate,
                open_loopback: self.open_loopback,
                admin_password,
                reload: Some(renewals),
                ready: Some(sender),
            },
            ready: self.ready_file.map(|path| (path, receiver)),
            reload: Reload {
                path: self.config,
                started,
                log: log_before,
                certificate: given,
                renew,
            },
        })
    }
}

/// Serves until a signal, then leaves gracefully.
pub(crate) async fn run(settings: Settings) -> Result<(), Failure> {
    let stop = Stop::listen()?;
    let hangups = Hangups::listen()?;
    tokio::spawn(settings.reload.serve(hangups));
    if let Some((path, opened)) = settings.ready {
        tokio::spawn(async move {
            if let Ok(listen) = opened.await {
                tell_ready(&path, listen);
            }
        });
    }
    Ok(roost::http::run(settings.config, stop.graceful()).await?)
}

impl Reload {
    /// Reads everything again at each SIGHUP.
    async fn serve(self, mut hangups: Hangups) {
        while hangups.next().await {
            if let Err(why) = self.once().await {
                tracing::error!(
                    event = "config.refused", err = %why,
                    "the configuration stays as it was; correct it and send SIGHUP again"
                );
            }
        }
    }

    async fn once(&self) -> Result<(), String> {
        let file = match &self.path {
            Some(path) => config::File::read(path)?,
            None => config::File::default(),
        };
        let certificate = match &self.certificate {
            Some(given) => Some(given.clone()),
            None => file.tls.clone().pair()?,
        };
        let mut log = self.log.clone();
        log.prefer(file.log.format, file.log.filter.as_deref());
        logging::refilter(&log)?;
        // The node is stopping if nobody takes it.
        let _ = self.renew.send(certificate).await;
        let restart = self.started.needs_restart(&file).join(", ");
        if restart.is_empty() {
            tracing::info!(event = "config.loaded", "the configuration was read again");
        } else {
            tracing::warn!(
                event = "config.loaded",
                restart,
                "the configuration was read again; some changed keys need a restart"
            );
        }
        Ok(())
    }
}

/// Writes the ready file under another name first, so that nobody reads half of it.
fn tell_ready(path: &Path, listen: SocketAddr) {
    let text = serde_json::json!({ "listen": listen, "pid": std::process::id() }).to_string();
    let unfinished = path.with_extension("part");
    let written =
        std::fs::write(&unfinished, text).and_then(|()| std::fs::rename(&unfinished, path));
    if let Err(error) = written {
        tracing::warn!(file = %path.display(), err = %error, "cannot write the ready file");
    }
}

/// Sorts what was given with `--join` into an invitation or addresses.
fn join_from(given: &[String]) -> Result<Option<Join>, Failure> {
    match given {
        [] => Ok(None),
        [one] if one.starts_with(INVITATION_PREFIX) => {
            let invitation: Invitation = one.parse().map_err(|error| {
                bad_configuration(
                    &format!("the invitation is not usable: {error}"),
                    "copy the whole string that roost invite printed, or ask for a new one",
                )
            })?;
            Ok(Some(Join::Invitation(invitation)))
        }
        several if several.iter().any(|text| text.starts_with(INVITATION_PREFIX)) => {
            Err(bad_configuration(
                "an invitation comes alone",
                "it holds addresses already: give one --join",
            ))
        }
        addresses => match addresses.iter().find(|text| !host_and_port(text)) {
            None => Ok(Some(Join::Address(addresses.to_vec()))),
            Some(bad) => Err(bad_configuration(
                &format!("`{bad}` is neither an invitation nor an address"),
                "give the string that roost invite printed, or HOST:PORT",
            )),
        },
    }
}

fn bad_configuration(why: &str, next: &str) -> Failure {
    Failure::new(Exit::Configuration, "cannot start the node", why, next)
}

/// Whether `text` looks like `host:port`; whether it resolves is found when it is dialled.
fn host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_is_plain = !host.is_empty() && !host.contains(['/', '@', ' ']);
    let host_is_whole = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    host_is_plain && host_is_whole && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn read_secret(path: &Path, what: &str) -> Result<String, Failure> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    text.map(|text| text.trim().to_owned()).map_err(|error| {
        bad_configuration(
            &format!("{} cannot be read: {error}", path.display()),
            &format!("give a file that holds {what}"),
        )
    })
}

/// The folder in which a node on this machine has its socket, as far as nobody said otherwise.
pub(crate) fn default_socket_folder() -> PathBuf {
    std::env::var_os("ROOST_DATA")
        .filter(|data| !data.is_empty())
        .map_or_else(default_data, PathBuf::from)
}

/// Where a node's state lives unless it is told.
fn default_data() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/roost");
    }
    std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".local/share")))
        .map_or_else(|| PathBuf::from("roost-data"), |base| base.join("roost"))
}

/// Every IPv4 address, the port that all defaults assume.
const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 9443);

/// What every invitation string begins with.
const INVITATION_PREFIX: &str = "roost1";

const NAME_RULE: &str = "use 1 to 64 of a-z, 0-9, dot, underscore and hyphen";
const TLS_RULE: &str = "set both tls.cert_file and tls.key_file, or neither";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_nonsense() {
        for good in ["n1:9443", "10.0.0.1:1", "[::1]:9443", "roost.example.org:443"] {
            assert!(host_and_port(good), "{good}");
        }
        for bad in ["n1", "n1:", ":9443", "n1:0", "n1:99999", "::1:9443", "http://n1:9443", "a b:1"]
        {
            assert!(!host_and_port(bad), "{bad}");
        }
    }

    #[test]
    fn an_invitation_is_not_mixed_with_addresses() {
        let mixed = join_from(&["roost1abc".to_owned(), "n1:9443".to_owned()]);
        assert!(mixed.is_err_and(|failure| failure.exit == Exit::Configuration));
    }

    #[test]
    fn nothing_given_founds_or_rejoins() {
        assert!(join_from(&[]).is_ok_and(|join| join.is_none()));
    }
}
