//! Cameras over RTSP, by a server that is not ours, and what `roost encode` says of its sources.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use roost::agent::source::{self, Sample, SourceEvent, SourceHandle, SourceSpec, Wish};
use roost::media::h264::nal;
use tokio::time::timeout;
use url::Url;

use crate::harness::node::{Node, Options};
use crate::harness::process::{Finished, finish, roost};
use crate::harness::{PATIENCE, wait_until};

/// An RTSP server that shows a test pattern; gone when dropped.
struct Camera {
    child: Child,
    port: u16,
}

impl Camera {
    /// At a port, 0 for any free one.
    fn start(port: u16, options: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/camera.py");
        let mut child = Command::new("/usr/bin/python3")
            .arg(script)
            .arg(port.to_string())
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("the camera talks");
        let port = line.trim().strip_prefix("READY ").and_then(|port| port.parse().ok());
        Self { port: port.expect("the camera is ready"), child }
    }

    fn watch(&self, path: &str) -> SourceHandle {
        self.watch_as(path, None)
    }

    fn watch_as(&self, path: &str, user: Option<(&str, &str)>) -> SourceHandle {
        let url = format!("rtsp://127.0.0.1:{}/{path}", self.port);
        source::open(SourceSpec::Rtsp {
            url: Url::parse(&url).expect("a URL"),
            user: user.map(|(user, _)| user.into()),
            password: user.map(|(_, password)| password.into()),
        })
        .expect("a source")
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn event(source: &mut SourceHandle) -> SourceEvent {
    timeout(PATIENCE, source.events.recv()).await.expect("in time").expect("open")
}

async fn ready(source: &mut SourceHandle) -> String {
    loop {
        match event(source).await {
            SourceEvent::Ready { describe } => return describe,
            SourceEvent::Lost { reason } => panic!("lost: {reason}"),
            _ => {}
        }
    }
}

async fn lost(source: &mut SourceHandle) -> String {
    loop {
        match event(source).await {
            SourceEvent::Lost { reason } => return reason,
            SourceEvent::Ready { describe } => panic!("ready: {describe}"),
            _ => {}
        }
    }
}

async fn warning(source: &mut SourceHandle) -> String {
    loop {
        match event(source).await {
            SourceEvent::Warning(words) | SourceEvent::NativeOnly(words) => return words,
            SourceEvent::Lost { reason } => panic!("lost: {reason}"),
            _ => {}
        }
    }
}

async fn sample(source: &mut SourceHandle) -> Sample {
    loop {
        match event(source).await {
            SourceEvent::Sample(sample) => return sample,
            SourceEvent::Lost { reason } => panic!("lost: {reason}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_camera_is_drained_until_it_is_wanted_and_starts_with_a_keyframe() {
    let camera = Camera::start(0, &["--fps", "25", "--gop", "10"]);
    let mut source = camera.watch("cam");
    let describe = ready(&mut source).await;
    assert!(describe.ends_with("/cam, H.264 320x240, 25 fps"), "{describe}");
    let silent = timeout(Duration::from_millis(600), source.events.recv()).await;
    assert!(silent.is_err(), "nobody watches: {silent:?}");

    source.wishes.send(Wish::Run);
    let mut last: Option<Sample> = None;
    for at in 0..25 {
        let next = sample(&mut source).await;
        assert_eq!(next.unit.keyframe, at % 10 == 0, "picture {at}");
        if next.unit.keyframe {
            // The camera tells its parameter sets in the session description alone.
            assert_eq!(next.unit.nals.first().map(|unit| nal::kind(unit)), Some(nal::SPS));
            assert!(next.unit.find(nal::PPS).is_some());
        }
        if let Some(last) = last {
            let step = next.timestamp.wrapping_sub(last.timestamp);
            assert!((3_000..4_200).contains(&step), "{step} ticks at 25 fps");
        }
        last = Some(next);
    }

    source.wishes.send(Wish::Pause);
    let quiet = Duration::from_millis(300);
    while timeout(quiet, source.events.recv()).await.is_ok() {}
    source.wishes.send(Wish::Run);
    assert!(sample(&mut source).await.unit.keyframe);
}

#[tokio::test]
async fn a_camera_that_goes_away_is_told_once_and_found_again_with_time_gone_on() {
    let camera = Camera::start(0, &["--gop", "10"]);
    let port = camera.port;
    let mut source = camera.watch("cam");
    source.wishes.send(Wish::Run);
    let before = sample(&mut source).await;
    let seen = Instant::now();
    drop(camera);
    let reason = lost(&mut source).await;
    assert!(reason.contains("/cam"), "{reason}");
    // From here on nothing listens: that is another reason, told once for all attempts.
    let reason = lost(&mut source).await;
    assert!(reason.contains("connection refused"), "{reason}");
    let again = timeout(Duration::from_secs(3), source.events.recv()).await;
    assert!(again.is_err(), "told again: {again:?}");

    let _camera = Camera::start(port, &["--gop", "10"]);
    ready(&mut source).await;
    let after = sample(&mut source).await;
    assert!(after.unit.keyframe);
    let passed = after.timestamp.wrapping_sub(before.timestamp) / 90;
    let wall = u32::try_from(seen.elapsed().as_millis()).expect("short");
    assert!(passed.abs_diff(wall) < 1_000, "{passed} ms by timestamps, {wall} ms in truth");
}

#[tokio::test]
async fn a_camera_that_freezes_is_noticed() {
    let camera = Camera::start(0, &[]);
    let mut source = camera.watch("cam");
    ready(&mut source).await;
    let pid = rustix::process::Pid::from_child(&camera.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stopped");
    let reason = lost(&mut source).await;
    assert!(reason.contains("has sent no picture for 5 s"), "{reason}");
}

#[tokio::test]
async fn credentials_are_used_and_their_lack_is_told_without_showing_them() {
    let camera = Camera::start(0, &["--user", "admin", "--password", "pass:word"]);
    let mut source = camera.watch_as("cam", Some(("admin", "pass:word")));
    ready(&mut source).await;
    let mut source = camera.watch_as("cam", Some(("admin", "guessed")));
    let reason = lost(&mut source).await;
    assert!(reason.contains("refuses this user name or password"), "{reason}");
    assert!(!reason.contains("admin") && !reason.contains("guessed"), "{reason}");
    let mut source = camera.watch("cam");
    let reason = lost(&mut source).await;
    assert!(reason.contains("wants a user name and a password"), "{reason}");
}

#[tokio::test]
async fn what_a_camera_cannot_give_is_told_in_words() {
    let camera = Camera::start(0, &["--audio", "aac"]);
    let reason = lost(&mut camera.watch("elsewhere")).await;
    assert!(reason.contains("no stream of this path"), "{reason}");
    let mut source = camera.watch("cam");
    let words = warning(&mut source).await;
    assert!(words.contains("AAC sound is left out"), "{words}");
    ready(&mut source).await;

    let camera = Camera::start(0, &["--bframes"]);
    let words = warning(&mut camera.watch("cam")).await;
    assert!(words.contains("B-frames"), "{words}");

    let camera = Camera::start(0, &["--codec", "h265"]);
    let reason = lost(&mut camera.watch("cam")).await;
    assert!(reason.contains("H.265") && reason.contains("sub-stream"), "{reason}");
}

/// `roost encode`, with everything that it says; gone when dropped.
struct Agent {
    child: Child,
    said: Arc<Mutex<String>>,
}

/// `roost encode NAME --state STATE`, where no node is unless the arguments say so.
fn encode(name: &str, state: &Path, args: &[&str]) -> Command {
    let mut command = roost();
    command.args(["encode", name, "--state"]).arg(state).args(args);
    if !args.contains(&"--addr") {
        command.args(["--addr", "127.0.0.1:9"]);
    }
    command
}

impl Agent {
    fn start(mut command: Command) -> Self {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the executable starts");
        let said = Arc::new(Mutex::new(String::new()));
        let pipes: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|pipe| Box::new(pipe) as _),
            child.stderr.take().map(|pipe| Box::new(pipe) as _),
        ];
        for pipe in pipes {
            let (pipe, said) = (pipe.expect("piped"), Arc::clone(&said));
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    *said += &format!("{line}\n");
                }
            });
        }
        Self { child, said }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[track_caller]
    fn says(&self, words: &[&str]) -> String {
        let said = || self.said();
        let all = || {
            let said = said();
            words.iter().all(|word| said.contains(word))
        };
        let begin = Instant::now();
        while !all() {
            assert!(begin.elapsed() < PATIENCE, "{words:?} is not in: {}", said());
            std::thread::sleep(Duration::from_millis(15));
        }
        said()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

#[test]
fn a_password_in_a_url_is_decoded_and_never_shown() {
    let camera = Camera::start(0, &["--user", "ad min", "--password", "p@ss:word%"]);
    let state = folder();
    let url = format!("rtsp://ad%20min:p%40ss%3Aword%25@127.0.0.1:{}/cam", camera.port);
    let said = Agent::start(encode("cam-1", state.path(), &["--rtsp", &url, "-vv"]))
        .says(&["source: rtsp://127.0.0.1:", "a password in --rtsp is seen by everyone"]);
    let mut command = encode("cam-1", state.path(), &["--json"]);
    command.env("ROOST_RTSP_URL", &url);
    let more = Agent::start(command).says(&["\"event\":\"source\""]);
    for secret in ["p@ss", "p%40ss", "ad min", "ad%20min"] {
        assert!(!said.contains(secret) && !more.contains(secret), "{said}{more}");
    }
}

#[test]
fn a_camera_in_the_environment_does_not_stand_in_the_way_of_a_test_picture() {
    let state = folder();
    let mut command = encode("cam-1", state.path(), &["--test"]);
    command.env("ROOST_RTSP_URL", "rtsp://camera.invalid/1").env("ROOST_RTSP_USER", "me");
    Agent::start(command).says(&["source: test picture"]);
}

#[test]
fn two_processes_are_not_the_same_encoder() {
    let state = folder();
    let first = Agent::start(encode("cam-1", state.path(), &["--test"]));
    first.says(&["source: test picture"]);
    let second = finish(PATIENCE, encode("cam-1", state.path(), &["--test"]));
    assert_eq!(second.code, Some(4), "{second:?}");
    let holder = format!("process {}", first.child.id());
    for word in ["cam-1", &holder, "cam-1.lock", "stop that one", "--state"] {
        assert!(second.stderr.contains(word), "`{word}` is not in: {}", second.stderr);
    }
    Agent::start(encode("cam-2", state.path(), &["--test"])).says(&["source: test picture"]);
    drop(first);
    Agent::start(encode("cam-1", state.path(), &["--test"])).says(&["source: test picture"]);
}

#[test]
fn an_encoder_of_a_mesh_that_is_gone_says_where_it_remembers_it() {
    let old = Node::start(Options::named("n1"));
    let state = folder();
    let addr = old.addr().to_string();
    let agent = Agent::start(encode("cam-1", state.path(), &["--test", "--addr", &addr]));
    wait_until(PATIENCE, "the node knows the encoder", || old.home_of("cam-1").is_some());
    drop((agent, old));
    let new = Node::start(Options::named("n1"));
    let addr = new.addr().to_string();
    let args = ["--test", "--addr", &addr];
    let agent = Agent::start(encode("cam-1", state.path(), &args));
    let file = state.path().join("cam-1.agent");
    agent.says(&[&file.display().to_string(), "remove that file", "another --state"]);
    drop(agent);
    std::fs::remove_file(file).expect("it is there");
    let _agent = Agent::start(encode("cam-1", state.path(), &args));
    wait_until(PATIENCE, "the new node knows the encoder", || new.home_of("cam-1").is_some());
}

/// One picture in any format that ffmpeg writes.
fn film(path: &Path, options: &str) {
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc=size=160x96:rate=5:duration=1"])
        .args(["-pix_fmt", "yuv420p"])
        .args(options.split(' '))
        .arg(path)
        .status();
    assert!(made.expect("ffmpeg is installed").success());
}

#[track_caller]
fn assert_refused(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(code), ""), "{finished:?}");
    for word in words {
        assert!(finished.stderr.contains(word), "`{word}` is not in: {}", finished.stderr);
    }
}

#[test]
fn a_file_that_cannot_be_sent_is_refused_with_what_to_do() {
    let folder = folder();
    let refused = |name: &str, code, words: &[&str]| {
        let path = folder.path().join(name).display().to_string();
        let finished =
            finish(PATIENCE, encode("cam-1", &folder.path().join("state"), &["--h264", &path]));
        assert_refused(&finished, code, &[&[path.as_str()], words].concat());
    };
    refused("none.h264", 1, &["cannot read", "No such file", "check the path"]);
    refused(".", 2, &["is a folder"]);
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .expect("a pipe can be made");
    refused("pipe", 2, &["--h264 - <"]);
    film(&folder.path().join("film.mp4"), "-c:v libx264");
    refused("film.mp4", 2, &["is an MP4 file", "ffmpeg -i IN"]);
    let hevc = "-c:v libx265 -x265-params log-level=none -f hevc";
    film(&folder.path().join("film.h265"), hevc);
    refused("film.h265", 2, &["is H.265", "libx264"]);
    std::fs::write(folder.path().join("empty.h264"), "").expect("it can be written");
    refused("empty.h264", 2, &["is empty", "check the program"]);
}

#[test]
fn a_state_folder_that_cannot_be_written_is_refused_with_what_to_do() {
    let folder = folder();
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("it can be written");
    for state in [file.join("state"), "/proc/roost".into()] {
        let finished = finish(PATIENCE, encode("cam-1", &state, &["--test"]));
        let path = state.display().to_string();
        assert_refused(&finished, 2, &["cannot write", &path, "another --state"]);
    }
}
