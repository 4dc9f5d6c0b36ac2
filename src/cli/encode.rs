//! `roost encode`: the agent that sends one camera, file or test picture to the mesh.

use std::path::{Path, PathBuf};
use std::time::Duration;

use roost::access::keys::key_owner;
use roost::agent::encode::{self, EncodeConfig, EncodeError, Shared};
use roost::agent::source::SourceSpec;
use roost::id::EncoderId;
use tokio::sync::mpsc;

use super::addr::Addr;
use super::exit::{Exit, Failure};
use super::signals::Stop;
use super::{events, invite, out, usage};

mod many;

/// Arguments of `roost encode`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").args(["test", "rtsp", "h264"]))]
pub(crate) struct Encode {
    /// What the stream is called
    #[arg(value_parser = invite::name)]
    name: String,
    #[command(flatten)]
    addr: Addr,
    /// Send a moving test picture with a clock
    #[arg(long)]
    test: bool,
    /// Pull from a camera: rtsp://HOST/PATH; or set ROOST_RTSP_URL
    #[arg(long, value_name = "URL")]
    rtsp: Option<String>,
    /// Send an H.264 file (Annex B), again and again; `-` is standard input
    #[arg(long, value_name = "FILE|-")]
    h264: Option<PathBuf>,
    /// Seconds between keyframes of the test picture
    #[arg(long, value_name = "S", requires = "test", conflicts_with_all = ["rtsp", "h264"],
          default_value_t = 2,
          value_parser = clap::value_parser!(u16).range(1..=60))]
    gop: u16,
    /// Let the test picture ignore keyframe requests, as many cameras do
    #[arg(long, requires = "test", conflicts_with_all = ["rtsp", "h264"])]
    ignore_keyframe_requests: bool,
    /// Frames per second: of the test picture [default: 15], or of a file that does not say so
    #[arg(long, value_name = "N", conflicts_with = "rtsp",
          value_parser = clap::value_parser!(u16).range(1..=240))]
    fps: Option<u16>,
    /// Be this many encoders with a test picture each, NAME-1 to NAME-N, all in this process: for
    /// tests of load
    #[arg(long, value_name = "N", requires = "test", conflicts_with_all = ["rtsp", "h264", "key_file"],
          value_parser = clap::value_parser!(u16).range(1..=many::ENCODERS_MAX))]
    count: Option<u16>,
    /// User name at the camera; or set ROOST_RTSP_USER
    #[arg(long, value_name = "NAME", conflicts_with_all = ["test", "h264"])]
    user: Option<String>,
    /// File that holds the camera's password; or set ROOST_RTSP_PASSWORD
    #[arg(long, value_name = "FILE", conflicts_with_all = ["test", "h264"])]
    password_file: Option<PathBuf>,
    /// Folder in which this encoder's id, its nodes and its epoch are remembered
    /// [default: ~/.local/state/roost, or /var/lib/roost for root]
    #[arg(long, value_name = "DIR", env = "ROOST_STATE")]
    state: Option<PathBuf>,
    /// File that holds the encoder's stream key, as roost encoder key prints it; or set
    /// ROOST_STREAM_KEY
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Print every change as a line of JSON
    #[arg(long)]
    json: bool,
}

/// Sends until a signal.
pub(crate) async fn run(args: Encode) -> Result<(), Failure> {
    if let Some(count) = args.count {
        return many::run(args, count).await;
    }
    let stop = Stop::listen()?;
    let mut target = args.addr.target()?;
    let encoder = args.key(variable)?.map(|(encoder, key)| {
        target.credential = Some(key);
        encoder
    });
    let source = args.source(variable)?;
    let shared = Shared::open(&target).map_err(failed)?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut printer = tokio::spawn(events::print(receiver, args.json));
    let config = EncodeConfig {
        name: args.name,
        encoder,
        target,
        state: args.state.unwrap_or_else(default_state),
        source,
        events: sender,
    };
    tokio::select! {
        result = encode::run(config, shared, stop.graceful()) => {
            result.map_err(failed)?;
            printer.await.unwrap_or(Ok(()))
        }
        // Ends early only when standard output went away.
        printed = &mut printer => printed.unwrap_or(Ok(())),
    }
}

fn failed(error: EncodeError) -> Failure {
    let exit = match &error {
        EncodeError::InUse(_) => Exit::Conflict,
        EncodeError::Setting(_) => Exit::Usage,
        EncodeError::Failed(_) => Exit::Failed,
    };
    Failure::said(exit, error)
}

impl Encode {
    fn source(&self, env: impl Fn(&str) -> Option<String>) -> Result<SourceSpec, Failure> {
        if let Some(url) = &self.rtsp {
            return self.camera(url, env);
        }
        if let Some(path) = &self.h264 {
            let path = Some(path.clone()).filter(|path| path != Path::new("-"));
            return Ok(SourceSpec::H264 { path, fps: self.fps.map(u32::from) });
        }
        // The environment says which camera, not that a camera is wanted: options come first.
        if !self.test {
            let url = env("ROOST_RTSP_URL").ok_or_else(|| {
                usage("nothing to send is given: use --test, --rtsp URL or --h264 FILE")
            })?;
            return self.camera(&url, env);
        }
        Ok(self.test_picture(&self.name))
    }

    fn test_picture(&self, name: &str) -> SourceSpec {
        SourceSpec::Test {
            name: name.to_owned(),
            gop: Duration::from_secs(self.gop.into()),
            fps: self.fps.map(u32::from),
            obeys_keyframe_requests: !self.ignore_keyframe_requests,
        }
    }

    /// The stream key that is given, and whose it is.
    fn key(
        &self,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<(EncoderId, String)>, Failure> {
        let text = match &self.key_file {
            Some(path) => Some(read_secret(path, "a stream key")?),
            None => env("ROOST_STREAM_KEY"),
        };
        let Some(text) = text else { return Ok(None) };
        let text = text.trim();
        match key_owner(text) {
            Some(encoder) => Ok(Some((encoder, text.to_owned()))),
            None => Err(usage(
                "that is no stream key: use what roost encoder key prints, all of its one line",
            )),
        }
    }

    fn camera(
        &self,
        url: &str,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<SourceSpec, Failure> {
        let url = url::Url::parse(url).map_err(|error| {
            usage(format!(
                "--rtsp is no URL ({error}): rtsp://HOST/PATH; a password with other characters \
                 than letters and digits is best given by --password-file"
            ))
        })?;
        if url.scheme() != "rtsp" || !url.has_host() {
            return Err(usage("--rtsp takes a URL like rtsp://HOST/PATH"));
        }
        if url.password().is_some() && self.rtsp.is_some() {
            out::talk(
                "warning: a password in --rtsp is seen by everyone who can list processes; use \
                 --user with --password-file or ROOST_RTSP_PASSWORD",
            );
        }
        let user = self.user.clone().or_else(|| env("ROOST_RTSP_USER"));
        let password = match &self.password_file {
            Some(path) => Some(read_secret(path, "the camera's password")?),
            None => env("ROOST_RTSP_PASSWORD"),
        };
        // What is missing here is taken out of the URL, and decoded, where the camera is opened.
        Ok(SourceSpec::Rtsp { url, user, password })
    }
}

/// A variable of the environment; one that is empty is none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn read_secret(path: &Path, what: &str) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(
            Exit::Usage,
            &format!("cannot read {}", path.display()),
            error,
            &format!("give a file that holds {what} and nothing else"),
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

    fn source_with(line: &str, env: &[(&str, &str)]) -> Result<SourceSpec, Failure> {
        let env = |name: &str| {
            let found = env.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        match Roost::try_parse_from(line.split(' ')).unwrap().command {
            Command::Encode(args) => args.source(env),
            other => panic!("{other:?}"),
        }
    }

    fn source(line: &str) -> Result<SourceSpec, Failure> {
        source_with(line, &[])
    }

    #[test]
    fn credentials_of_the_url_are_left_to_the_camera_and_never_shown() {
        let source = source("roost encode cam-1 --rtsp rtsp://me:se%40cret@camera:554/1").unwrap();
        assert!(!format!("{source:?}").contains("cret"), "{source:?}");
        // Whoever takes them out of the URL decodes them, too.
        let SourceSpec::Rtsp { url, user, password } = source else { panic!("{source:?}") };
        assert_eq!((url.password(), user, password), (Some("se%40cret"), None, None));
    }

    #[test]
    fn a_camera_of_the_environment_is_used_only_if_nothing_else_is_asked_for() {
        let env = [
            ("ROOST_RTSP_URL", "rtsp://camera/1"),
            ("ROOST_RTSP_USER", "me"),
            ("ROOST_RTSP_PASSWORD", "secret"),
        ];
        let camera = source_with("roost encode cam-1", &env).unwrap();
        let SourceSpec::Rtsp { url, user, password } = camera else { panic!("{camera:?}") };
        assert_eq!(url.as_str(), "rtsp://camera/1");
        assert_eq!((user.as_deref(), password.as_deref()), (Some("me"), Some("secret")));
        let other = source_with("roost encode cam-1 --user you --rtsp rtsp://other/1", &env);
        let Ok(SourceSpec::Rtsp { url, user, .. }) = other else { panic!("{other:?}") };
        assert_eq!((url.as_str(), user.as_deref()), ("rtsp://other/1", Some("you")));
        let test = source_with("roost encode cam-1 --test --gop 4", &env).unwrap();
        assert!(matches!(test, SourceSpec::Test { .. }));
        let file = source_with("roost encode cam-1 --h264 x.h264", &env).unwrap();
        assert!(matches!(file, SourceSpec::H264 { .. }));
        let nothing = source("roost encode cam-1").unwrap_err();
        assert!(nothing.exit == Exit::Usage && nothing.message.contains("--test"), "{nothing:?}");
        for line in ["--user me --test", "--gop 4 --h264 x", "--test --rtsp rtsp://camera/1"] {
            let line = format!("roost encode cam-1 {line}");
            assert!(Roost::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn a_stream_key_says_which_encoder_this_is() {
        let encoder = EncoderId([7; 16]);
        let key = roost::access::keys::key_text(encoder, &[1; 20]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, format!("{key}\n")).unwrap();
        let line = format!("roost encode cam-1 --test --key-file {}", path.display());
        let with = |line: &str, env: Option<&str>| {
            let env = env.map(str::to_owned);
            match Roost::try_parse_from(line.split(' ')).unwrap().command {
                Command::Encode(args) => args.key(move |_| env.clone()),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(with(&line, None).unwrap(), Some((encoder, key.clone())));
        let plain = "roost encode cam-1 --test";
        assert_eq!(with(plain, Some(&key)).unwrap(), Some((encoder, key)));
        assert_eq!(with(plain, None).unwrap(), None);
        let bad = with(plain, Some("rk1nonsense")).unwrap_err();
        assert!(bad.exit == Exit::Usage && !bad.message.contains("nonsense"), "{bad:?}");
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
