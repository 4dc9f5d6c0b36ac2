//! Cameras over RTSP, by a server that is not ours.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use roost::agent::source::{self, Sample, SourceEvent, SourceHandle, SourceSpec, Wish};
use roost::media::h264::nal;
use tokio::time::timeout;
use url::Url;

use crate::harness::PATIENCE;

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
