//! The test picture as a source: drawn, encoded and paced on a thread of its own while it
//! runs.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusty_h264_encoder::{EncodeError, Encoder, EncoderConfig};
use tokio::sync::oneshot;

use super::picture::{HEIGHT, Picture, WIDTH};
use super::{Closed, Inbox, Outlet, SourceError, SourceEvent, ticks};
use crate::media::clock::clock_sei;
use crate::media::h264::{AccessUnit, annex_b, nal};

/// Pictures per second, unless another number is asked for.
pub(super) const FPS: u32 = 15;

/// Most pictures per second: each takes a few milliseconds to draw and encode.
const MAX_FPS: u32 = 60;

/// Quantisation: the blocks and letters stay sharp, at well below 250 kbit/s.
const QUALITY: u8 = 30;

/// The most pictures from one keyframe to the next; the encoder counts them in few bits.
const MAX_GOP: u32 = 9_000;

pub(super) fn open(
    name: &str,
    gop: Duration,
    fps: Option<u32>,
    obeys: bool,
    outlet: Outlet,
    wishes: Inbox,
) -> Result<(), SourceError> {
    let fps = fps.unwrap_or(FPS);
    if !(1..=MAX_FPS).contains(&fps) {
        return Err(SourceError::Setting(format!(
            "the test picture has 1 to {MAX_FPS} pictures per second, not {fps}"
        )));
    }
    if gop.as_secs_f64() * f64::from(fps) > f64::from(MAX_GOP) {
        return Err(SourceError::Setting(format!(
            "{} s between keyframes is too long: give at most {} s",
            gop.as_secs(),
            MAX_GOP / fps
        )));
    }
    let rest = Rest { name: name.into(), gop, fps, obeys, origin: Instant::now(), number: 0 };
    // The receiver's end is the only reason to stop.
    tokio::spawn(async move { rest.wait(outlet, wishes).await });
    Ok(())
}

/// Nobody watches: what the next run goes on with. A process may have thousands of these.
struct Rest {
    name: String,
    gop: Duration,
    fps: u32,
    obeys: bool,
    /// Time begins here, and goes on over pauses.
    origin: Instant,
    /// Pictures so far.
    number: u32,
}

impl Rest {
    async fn wait(mut self, mut outlet: Outlet, mut wishes: Inbox) -> Result<(), Closed> {
        let (fps, gop) = (f64::from(self.fps), f64::from(pictures(self.gop, self.fps)));
        let describe = format!(
            "test picture, H.264 Constrained Baseline, {WIDTH}x{HEIGHT}, {fps} fps, a keyframe \
             every {:.1} s{}",
            gop / fps,
            if self.obeys { " and on request" } else { ", never on request" }
        );
        outlet.say(SourceEvent::Ready { describe }).await?;
        loop {
            while wishes.next().await?.run != Some(true) {}
            let (done, paused) = oneshot::channel();
            let worker = thread::Builder::new().name("test-picture".into());
            worker
                .spawn(move || {
                    let result = self.run(&mut outlet, &mut wishes);
                    // Nobody waits any more: the process ends.
                    let _ = done.send(result.map(|()| (self, outlet, wishes)));
                })
                .map_err(|error| {
                    tracing::error!(err = %error, "no thread for a test picture");
                    Closed
                })?;
            (self, outlet, wishes) = paused.await.map_err(|_ended| Closed)??;
        }
    }

    /// Until it is told to pause.
    fn run(&mut self, outlet: &mut Outlet, wishes: &mut Inbox) -> Result<(), Closed> {
        let mut studio = match Studio::new(&self.name, self.gop, self.fps, self.number) {
            Ok(studio) => studio,
            Err(error) => {
                let reason = format!("cannot encode a test picture: {error}");
                outlet.say_blocking(SourceEvent::Lost { reason })?;
                return Err(Closed);
            }
        };
        let interval = Duration::from_secs(1) / self.fps;
        outlet.interrupt();
        studio.request_keyframe();
        let mut due = Instant::now();
        loop {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let wished = wishes.look()?;
            if wished.run == Some(false) {
                self.number = studio.number;
                return Ok(());
            }
            if wished.run == Some(true) || wished.keyframe && self.obeys {
                studio.request_keyframe();
            }
            // After a stall, pictures that are overdue are left out: they would be shown late.
            let late = due.elapsed().as_nanos() / interval.as_nanos();
            due += interval * u32::try_from(late).unwrap_or(0);
            let unit = studio.shoot(wall());
            outlet.sample(unit, ticks(due.duration_since(self.origin)))?;
            if outlet.skipping && self.obeys {
                studio.request_keyframe();
            }
            due += interval;
        }
    }
}

/// How many pictures a time has, at least one.
fn pictures(time: Duration, fps: u32) -> u32 {
    ((time.as_secs_f64() * f64::from(fps)).round() as u32).max(1)
}

fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Draws and encodes.
struct Studio {
    picture: Picture,
    encoder: Encoder,
    /// Pictures between keyframes.
    gop: u32,
    /// Pictures since the last keyframe.
    age: u32,
    requested: bool,
    number: u32,
}

impl Studio {
    fn new(name: &str, gop: Duration, fps: u32, number: u32) -> Result<Self, EncodeError> {
        let gop = pictures(gop, fps);
        let mut config = EncoderConfig::baseline(WIDTH, HEIGHT);
        config.framerate = fps as f32;
        config.qp = QUALITY;
        config.gop_size = u32::MAX;
        // Weighted prediction is not part of the Baseline profile.
        config.weightp = false;
        config.aq_strength = 0.0;
        Ok(Self {
            picture: Picture::new(name),
            encoder: Encoder::new(config)?,
            gop,
            age: gop,
            requested: false,
            number,
        })
    }

    fn request_keyframe(&mut self) {
        self.requested = true;
    }

    /// The picture of this moment, in milliseconds since 1970.
    fn shoot(&mut self, ms: u64) -> AccessUnit {
        // Two IDR pictures in a row would need different identifiers, which this encoder does
        // not give them.
        let keyframe = self.age >= self.gop || self.requested && self.age > 1;
        if keyframe {
            self.encoder.request_keyframe();
            self.requested = false;
            self.age = 0;
        }
        self.age += 1;
        let number = self.number;
        self.number = number.wrapping_add(1);
        let stream = self.encoder.encode(self.picture.draw(ms, number));
        let mut nals: Vec<Vec<u8>> = annex_b(&stream).map(<[u8]>::to_vec).collect();
        let before = nals.iter().position(|unit| nal::is_picture(nal::kind(unit)));
        nals.insert(before.unwrap_or(0), clock_sei(ms, number));
        AccessUnit::new(nals)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::super::picture::sample_blocks;
    use super::super::{Sample, SourceHandle, SourceSpec, Wish};
    use super::*;
    use crate::media::CLOCK_RATE;
    use crate::media::clock::{decode_blocks, read_clock};
    use crate::media::h264::Sps;

    const START: u64 = 1_800_000_000_000;

    fn shots(studio: &mut Studio, count: u64) -> Vec<AccessUnit> {
        (0..count).map(|at| studio.shoot(START + at * 1_000 / u64::from(FPS))).collect()
    }

    #[test]
    fn the_picture_is_small_and_cheap_and_every_decoder_takes_it() {
        let mut studio = Studio::new("gate-2", Duration::from_secs(2), FPS, 0).expect("a studio");
        let started = Instant::now();
        let units = shots(&mut studio, 150);
        let per_frame = started.elapsed() / 150;
        let bits: usize = units.iter().map(|unit| unit.to_annex_b().len() * 8).sum();
        let keyframe = units[0].to_annex_b().len();
        println!("{per_frame:?} per picture, {} kbit/s, keyframe {keyframe} B", bits / 10_000);
        assert!(bits / 10 <= 250_000, "{bits} bits in ten seconds");

        let sps = Sps::parse(units[0].find(nal::SPS).expect("in band")).expect("a parameter set");
        assert_eq!((sps.width as usize, sps.height as usize), (WIDTH, HEIGHT));
        assert_eq!((sps.profile, sps.constraints & 0x40), (66, 0x40));
        assert_eq!(sps.reorders(), Some(false));
        let keyframes: Vec<usize> = (0..150).filter(|&at| units[at].keyframe).collect();
        assert_eq!(keyframes, [0, 30, 60, 90, 120]);
        for (at, unit) in units.iter().enumerate() {
            let time = START + at as u64 * 1_000 / u64::from(FPS);
            assert_eq!(read_clock(unit), Some((time, at as u32)));
            assert!(!unit.bidirectional());
        }
    }

    /// Decoded by another decoder, and scaled as a browser might.
    fn decode(stream: &[u8], scale: &str) -> Vec<u8> {
        let mut ffmpeg = Command::new("ffmpeg")
            .args(["-v", "error", "-xerror", "-f", "h264", "-i", "-", "-vf", scale])
            .args(["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ffmpeg is installed");
        let mut input = ffmpeg.stdin.take().expect("piped");
        let stream = stream.to_vec();
        let writer = thread::spawn(move || input.write_all(&stream));
        let output = ffmpeg.wait_with_output().expect("ffmpeg ran");
        writer.join().expect("no panic").expect("everything was read");
        assert!(output.status.success(), "ffmpeg found errors");
        output.stdout
    }

    #[test]
    fn the_machines_clock_survives_the_codec_and_scaling() {
        let mut studio = Studio::new("gate-2", Duration::from_secs(2), FPS, 0).expect("a studio");
        studio.shoot(START);
        studio.age = studio.gop;
        let units = shots(&mut studio, 45);
        let stream: Vec<u8> = units.iter().flat_map(AccessUnit::to_annex_b).collect();
        for (width, height) in [(320, 192), (640, 384), (240, 144)] {
            let luma = decode(&stream, &format!("scale={width}:{height}"));
            assert_eq!(luma.len(), 45 * width * height);
            for (at, luma) in luma.chunks(width * height).enumerate() {
                let (ms, number) = read_clock(&units[at]).expect("a clock");
                assert_eq!(
                    decode_blocks(&sample_blocks(luma, width, height)),
                    Some((ms as u32, number as u16)),
                    "picture {at} at {width}x{height}"
                );
            }
        }
    }

    fn open(obeys: bool) -> SourceHandle {
        super::super::open(SourceSpec::Test {
            name: "gate-2".into(),
            gop: Duration::from_secs(60),
            fps: None,
            obeys_keyframe_requests: obeys,
        })
        .expect("a source")
    }

    async fn sample(source: &mut SourceHandle) -> Sample {
        loop {
            let event = tokio::time::timeout(Duration::from_secs(5), source.events.recv());
            if let SourceEvent::Sample(sample) = event.await.expect("in time").expect("open") {
                return sample;
            }
        }
    }

    #[tokio::test]
    async fn a_run_begins_with_a_keyframe_and_time_goes_on_over_a_pause() {
        let mut source = open(true);
        source.wishes.send(Wish::Run);
        let first = sample(&mut source).await;
        let second = sample(&mut source).await;
        assert!(first.unit.keyframe && !second.unit.keyframe);
        assert!(second.timestamp.wrapping_sub(first.timestamp).is_multiple_of(CLOCK_RATE / FPS));
        source.wishes.send(Wish::Pause);
        let quiet = Duration::from_millis(300);
        while tokio::time::timeout(quiet, source.events.recv()).await.is_ok() {}
        source.wishes.send(Wish::Run);
        let third = sample(&mut source).await;
        assert!(third.unit.keyframe);
        let passed = third.timestamp.wrapping_sub(second.timestamp);
        assert!(passed >= 300 * CLOCK_RATE / 1_000, "{passed} ticks");
    }

    #[tokio::test]
    async fn a_slow_camera_sends_as_many_pictures_as_asked_for() {
        let spec = |fps| SourceSpec::Test {
            name: "gate-2".into(),
            gop: Duration::from_secs(60),
            fps: Some(fps),
            obeys_keyframe_requests: true,
        };
        let mut source = super::super::open(spec(4)).expect("a source");
        source.wishes.send(Wish::Run);
        let first = sample(&mut source).await;
        let second = sample(&mut source).await;
        let passed = second.timestamp.wrapping_sub(first.timestamp);
        assert!(passed >= CLOCK_RATE / 4 && passed.is_multiple_of(CLOCK_RATE / 4), "{passed}");
        for fps in [0, MAX_FPS + 1] {
            assert!(super::super::open(spec(fps)).is_err());
        }
    }

    #[tokio::test]
    async fn a_wish_brings_a_keyframe_unless_the_source_ignores_them() {
        for obeys in [true, false] {
            let mut source = open(obeys);
            source.wishes.send(Wish::Run);
            assert!(sample(&mut source).await.unit.keyframe);
            source.wishes.send(Wish::Keyframe);
            let mut keyframes = 0;
            for _ in 0..6 {
                keyframes += usize::from(sample(&mut source).await.unit.keyframe);
            }
            assert_eq!(keyframes, usize::from(obeys));
        }
    }
}
