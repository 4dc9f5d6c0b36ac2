//! `roost encode`: the agent that sends one camera, file or test picture to the mesh.

use std::path::{Path, PathBuf};
use std::time::Duration;

use roost::agent::encode::{self, EncodeConfig};
use roost::agent::source::SourceSpec;
use tokio::sync::mpsc;

use super::addr::Addr;
use super::exit::{Exit, Failure};
use super::signals::Stop;
use super::{events, invite, out, usage};

/// Arguments of `roost encode`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["test", "rtsp", "h264"]))]
pub(crate) struct Encode {
    /// What the stream is called
    #[arg(value_parser = invite::name)]
    name: String,
    #[command(flatten)]
    addr: Addr,
    /// Send a moving test picture with a clock
    #[arg(long)]
    test: bool,
    /// Pull from a camera: rtsp://HOST/PATH
    #[arg(long, value_name = "URL", env = "ROOST_RTSP_URL", hide_env_values = true)]
    rtsp: Option<String>,
    /// Send an H.264 file (Annex B), again and again; `-` is standard input
    #[arg(long, value_name = "FILE|-")]
    h264: Option<PathBuf>,
    /// Seconds between keyframes of the test picture
    #[arg(long, value_name = "S", conflicts_with_all = ["rtsp", "h264"], default_value_t = 2,
          value_parser = clap::value_parser!(u16).range(1..=60))]
    gop: u16,
    /// Let the test picture ignore keyframe requests, as many cameras do
    #[arg(long, conflicts_with_all = ["rtsp", "h264"])]
    ignore_keyframe_requests: bool,
    /// Frames per second: of the test picture [default: 15], or of a file that does not say so
    #[arg(long, value_name = "N", conflicts_with = "rtsp",
          value_parser = clap::value_parser!(u16).range(1..=240))]
    fps: Option<u16>,
    /// User name at the camera
    #[arg(long, value_name = "NAME", requires = "rtsp", env = "ROOST_RTSP_USER")]
    user: Option<String>,
    /// File that holds the camera's password; or set ROOST_RTSP_PASSWORD
    #[arg(long, value_name = "FILE", requires = "rtsp")]
    password_file: Option<PathBuf>,
    /// Folder in which this encoder's id, its nodes and its epoch are remembered
    /// [default: ~/.local/state/roost, or /var/lib/roost for root]
    #[arg(long, value_name = "DIR", env = "ROOST_STATE")]
    state: Option<PathBuf>,
    /// Print every change as a line of JSON
    #[arg(long)]
    json: bool,
}

/// Sends until a signal.
pub(crate) async fn run(args: Encode) -> Result<(), Failure> {
    let stop = Stop::listen()?;
    let target = args.addr.target()?;
    let source = args.source()?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut printer = tokio::spawn(events::print(receiver, args.json));
    let config = EncodeConfig {
        name: args.name,
        target,
        state: args.state.unwrap_or_else(default_state),
        source,
        events: sender,
    };
    tokio::select! {
        result = encode::run(config, stop.graceful()) => {
            result.map_err(|error| Failure::said(Exit::Failed, error))?;
            printer.await.unwrap_or(Ok(()))
        }
        // Ends early only when standard output went away.
        printed = &mut printer => printed.unwrap_or(Ok(())),
    }
}

impl Encode {
    fn source(&self) -> Result<SourceSpec, Failure> {
        if let Some(url) = &self.rtsp {
            return self.camera(url);
        }
        if let Some(path) = &self.h264 {
            let path = Some(path.clone()).filter(|path| path != Path::new("-"));
            return Ok(SourceSpec::H264 { path, fps: self.fps.map(u32::from) });
        }
        Ok(SourceSpec::Test {
            name: self.name.clone(),
            gop: Duration::from_secs(self.gop.into()),
            fps: self.fps.map(u32::from),
            obeys_keyframe_requests: !self.ignore_keyframe_requests,
        })
    }

    fn camera(&self, url: &str) -> Result<SourceSpec, Failure> {
        let mut url = url::Url::parse(url)
            .map_err(|error| usage(format!("--rtsp is no URL ({error}): rtsp://HOST/PATH")))?;
        if url.scheme() != "rtsp" || !url.has_host() {
            return Err(usage("--rtsp takes a URL like rtsp://HOST/PATH"));
        }
        if url.password().is_some() && std::env::var_os("ROOST_RTSP_URL").is_none() {
            out::talk(
                "warning: a password in --rtsp is seen by everyone who can list processes; use \
                 --user with --password-file or ROOST_RTSP_PASSWORD",
            );
        }
        let in_url = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let user = self.user.clone().or_else(|| in_url(url.username()));
        let password = match &self.password_file {
            Some(path) => Some(read_password(path)?),
            None => std::env::var("ROOST_RTSP_PASSWORD")
                .ok()
                .or_else(|| url.password().map(str::to_owned)),
        };
        // From here on the URL may be shown and logged.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(SourceSpec::Rtsp { url, user, password })
    }
}

fn read_password(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(
            Exit::Usage,
            &format!("cannot read {}", path.display()),
            error,
            "give a file that holds the camera's password and nothing else",
        )
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Where an agent remembers unless it is told.
fn default_state() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/roost/agent");
    }
    std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".local/state")))
        .map_or_else(|| PathBuf::from("roost-state"), |base| base.join("roost"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Command, Roost};
    use super::*;

    fn source(line: &str) -> Result<SourceSpec, Failure> {
        match Roost::try_parse_from(line.split(' ')).unwrap().command {
            Command::Encode(args) => args.source(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn credentials_leave_the_url() {
        let source = source("roost encode cam-1 --rtsp rtsp://me:secret@camera:554/1").unwrap();
        let SourceSpec::Rtsp { url, user, password } = source else { panic!("{source:?}") };
        assert_eq!(url.as_str(), "rtsp://camera:554/1");
        assert_eq!((user.as_deref(), password.as_deref()), (Some("me"), Some("secret")));
    }

    #[test]
    fn a_url_of_another_kind_is_refused() {
        for url in ["http://camera/1", "camera/1", "rtsp:x"] {
            let result = source(&format!("roost encode cam-1 --rtsp {url}"));
            assert!(result.is_err_and(|failure| failure.exit == Exit::Usage), "{url}");
        }
    }

    #[test]
    fn a_hyphen_is_standard_input() {
        let source = source("roost encode cam-1 --h264 -").unwrap();
        assert!(matches!(source, SourceSpec::H264 { path: None, .. }));
    }
}
