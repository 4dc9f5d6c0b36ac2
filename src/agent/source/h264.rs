//! An H.264 byte stream with start codes as a source: a file that loops, or standard input.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::retry::Retry;
use super::{Closed, Inbox, Outlet, SourceError, SourceEvent, ticks};
use crate::media::h264::{AccessUnit, AccessUnits, Sps, annex_b};
use crate::media::inspect::{ParameterSets, Remedy, native_only};

/// How far into a stream a sequence parameter set is looked for.
const HEAD: usize = 1 << 20;

/// Bytes per read.
const PIECE: usize = 64 << 10;

/// Pictures per second where nobody says.
const DEFAULT_FPS: u32 = 25;

/// Rates outside of this are not believed.
const RATES: std::ops::RangeInclusive<Duration> =
    Duration::from_nanos(1_000_000_000 / 240)..=Duration::from_secs(2);

/// Standard input that is silent for this long stands between two pictures: a program writes a
/// picture in one go. Without this, each picture would wait for the next one's start code.
const PAUSE: Duration = Duration::from_millis(8);

/// Pieces of standard input between the thread that reads and the one that cuts.
const PIECES: usize = 4;

pub(super) fn open_file(
    path: &Path,
    fps: Option<u32>,
    outlet: Outlet,
    wishes: Inbox,
) -> Result<(), SourceError> {
    let name = path.display().to_string();
    let unreadable = |error: io::Error| {
        SourceError::File(format!(
            "cannot read {name}: {error}; check the path, and that this user may read it"
        ))
    };
    // Looked at before it is opened: opening a pipe would wait for whoever writes to it.
    let kind = std::fs::metadata(path).map_err(unreadable)?.file_type();
    if kind.is_dir() {
        let words = format!("{name} is a folder: give a file in it");
        return Err(SourceError::Setting(words));
    }
    if !kind.is_file() {
        return Err(SourceError::Setting(format!(
            "{name} is a pipe or a device, which cannot be played again and again: send it to \
             standard input, with: --h264 - <{name}"
        )));
    }
    let mut file = File::open(path).map_err(unreadable)?;
    let mut head = Vec::new();
    file.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(unreadable)?;
    let sps = identify(&head).map_err(|reason| SourceError::Setting(format!("{name} {reason}")))?;
    let reel = Reel::new(name.clone(), sps, fps);
    thread::Builder::new().name("h264-file".into()).spawn(move || {
        // The receiver's end is the only reason to stop that nobody needs to be told.
        let _ = play(reel, file, outlet, wishes);
    })?;
    Ok(())
}

pub(super) fn open_stdin(
    fps: Option<u32>,
    outlet: Outlet,
    wishes: Inbox,
) -> Result<(), SourceError> {
    let (sender, pieces) = sync_channel(PIECES);
    thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut piece = vec![0; PIECE];
            match input.read(&mut piece) {
                Ok(0) => break,
                Ok(size) => piece.truncate(size),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
            if sender.send(piece).is_err() {
                break;
            }
        }
    })?;
    thread::Builder::new().name("h264-stdin".into()).spawn(move || {
        let _ = relay(&pieces, fps, outlet, wishes);
    })?;
    Ok(())
}

/// What a stream of bytes is, by its beginning: its sequence parameter set, or in words why it
/// cannot be used.
fn identify(head: &[u8]) -> Result<Sps, String> {
    const CONVERT: &str = "take the H.264 out of it with: ffmpeg -i IN -c:v copy -bsf:v \
                           h264_mp4toannexb -an -f h264 OUT";
    if head.is_empty() {
        return Err("is empty: check the program that should have written it".into());
    }
    let container = match head {
        [_, _, _, _, b'f' | b'm', b't' | b'o', b'y' | b'o', b'p' | b'v', ..] => Some("an MP4 file"),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => Some("a Matroska or WebM file"),
        [b'F', b'L', b'V', ..] => Some("a Flash video file"),
        [b'R', b'I', b'F', b'F', ..] => Some("an AVI file"),
        [b'D', b'K', b'I', b'F', ..] => Some("an IVF file"),
        [0x47, ..] if head.get(188) == Some(&0x47) => Some("an MPEG transport stream"),
        _ => None,
    };
    if let Some(container) = container {
        return Err(format!("is {container}, not an H.264 byte stream (Annex B): {CONVERT}"));
    }
    if let Some(sps) = annex_b(head).find_map(Sps::parse) {
        return Ok(sps);
    }
    // Header bytes of H.265's three parameter sets; in H.264 their types do not occur.
    if annex_b(head).any(|unit| matches!(unit, [0x40 | 0x42 | 0x44, 0x01, ..])) {
        return Err("is H.265, which browsers cannot play and Roost does not send: encode it as \
                    H.264, for example with: ffmpeg -i IN -c:v libx264 -bf 0 -an -f h264 OUT"
            .into());
    }
    if annex_b(head).next().is_none() {
        return Err(format!(
            "has no start codes, so it is no H.264 byte stream (Annex B): {CONVERT}"
        ));
    }
    Err("has no sequence parameter set at its beginning: start it with a keyframe".into())
}

/// Cuts a stream into pictures that a decoder can start with at every keyframe.
struct Reel {
    name: String,
    sps: Sps,
    /// Time between two pictures, if anyone said so.
    interval: Option<Duration>,
    splitter: AccessUnits,
    sets: ParameterSets,
    warned: bool,
}

impl Reel {
    fn new(name: String, sps: Sps, fps: Option<u32>) -> Self {
        let given = fps.filter(|&fps| fps > 0).map(|fps| Duration::from_secs(1) / fps);
        let interval = sps.interval.or(given).filter(|interval| RATES.contains(interval));
        let (splitter, sets) = (AccessUnits::new(), ParameterSets::default());
        Self { name, sps, interval, splitter, sets, warned: false }
    }

    fn describe(&self) -> SourceEvent {
        let rate = self
            .interval
            .map_or(String::new(), |interval| format!(", {:.3} fps", 1.0 / interval.as_secs_f64()));
        let rate = rate.replace(".000 ", " ");
        let Sps { width, height, .. } = self.sps;
        SourceEvent::Ready { describe: format!("{}, H.264 {width}x{height}{rate}", self.name) }
    }

    fn push(&mut self, bytes: &[u8]) -> Vec<AccessUnit> {
        let units = self.splitter.push(bytes);
        self.complete(units)
    }

    fn finish(&mut self) -> Vec<AccessUnit> {
        let units = self.splitter.finish();
        self.complete(units)
    }

    /// Puts parameter sets in front of each IDR picture that comes without.
    fn complete(&mut self, mut units: Vec<AccessUnit>) -> Vec<AccessUnit> {
        units.iter_mut().for_each(|unit| self.sets.complete(unit));
        units
    }

    fn warn(&mut self, unit: &AccessUnit, outlet: &Outlet) -> Result<(), Closed> {
        if self.warned {
            return Ok(());
        }
        let remedy = Remedy {
            order: "where it is encoded, for example with ffmpeg's -bf 0",
            colour: "where it is encoded, for example with ffmpeg's -pix_fmt yuv420p",
        };
        let Some(words) = native_only(&self.name, unit, &remedy) else { return Ok(()) };
        self.warned = true;
        outlet.say_blocking(SourceEvent::NativeOnly(words))
    }
}

/// Plays a file again and again, from its beginning whenever it is told to run.
fn play(
    mut reel: Reel,
    mut file: File,
    mut outlet: Outlet,
    mut wishes: Inbox,
) -> Result<(), Closed> {
    let interval = reel.interval.unwrap_or(Duration::from_secs(1) / DEFAULT_FPS);
    reel.interval = Some(interval);
    outlet.say_blocking(reel.describe())?;
    let origin = Instant::now();
    let mut retry = Retry::default();
    let mut piece = vec![0; PIECE];
    loop {
        wishes.wait_to_run()?;
        let mut due = Instant::now();
        'run: loop {
            outlet.interrupt();
            let mut shown = 0u32;
            let mut failed = file.rewind().err();
            let mut ended = failed.is_some();
            while !ended {
                let units = match file.read(&mut piece) {
                    Ok(0) => {
                        ended = true;
                        reel.finish()
                    }
                    Ok(size) => reel.push(piece.get(..size).unwrap_or_default()),
                    Err(error) => {
                        failed = Some(error);
                        ended = true;
                        reel.finish()
                    }
                };
                for unit in units {
                    // What cannot be decoded before the first keyframe takes no time either.
                    if outlet.skipping && shown == 0 && !unit.keyframe {
                        continue;
                    }
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    match wishes.look()?.run {
                        Some(false) => {
                            reel.finish();
                            break 'run;
                        }
                        Some(true) => outlet.interrupt(),
                        None => {}
                    }
                    reel.warn(&unit, &outlet)?;
                    if due.elapsed() > Duration::from_secs(1) {
                        // After a stall it goes on from here instead of hurrying.
                        due = Instant::now();
                    }
                    outlet.sample(unit, ticks(due.duration_since(origin)))?;
                    due += interval;
                    shown += 1;
                }
            }
            if shown > 0 && failed.is_none() {
                retry.reset();
                continue;
            }
            let what =
                failed.map_or("there is no keyframe in it".into(), |error| error.to_string());
            let reason = format!("cannot play {}: {what}", reel.name);
            outlet.say_blocking(SourceEvent::Lost { reason })?;
            thread::sleep(retry.next());
            if wishes.look()?.run == Some(false) {
                break;
            }
            due = Instant::now();
        }
    }
}

/// Passes standard input on as it comes, and throws it away while nobody watches.
fn relay(
    pieces: &Receiver<Vec<u8>>,
    fps: Option<u32>,
    mut outlet: Outlet,
    mut wishes: Inbox,
) -> Result<(), Closed> {
    let name = "standard input";
    let mut head = Vec::new();
    let sps = loop {
        let next = pieces.recv();
        head.extend_from_slice(next.as_deref().unwrap_or_default());
        outlet.open()?;
        match identify(&head) {
            // Whole only if something follows it.
            Ok(sps)
                if next.is_err()
                    || annex_b(&head).skip_while(|&u| Sps::parse(u).is_none()).nth(1).is_some() =>
            {
                break sps;
            }
            Ok(_) => {}
            Err(reason) if next.is_err() || head.len() >= HEAD => {
                return outlet
                    .say_blocking(SourceEvent::Lost { reason: format!("{name} {reason}") });
            }
            Err(_) => {}
        }
    };
    let mut reel = Reel::new(name.into(), sps, fps);
    outlet.say_blocking(reel.describe())?;
    let mut cadence = Cadence::new(reel.interval);
    let origin = Instant::now();
    let mut running = false;
    // Between two pictures as far as one knows; a piece that then begins with anything but a
    // start code shows that the program writes pictures in parts, and that waiting is needed.
    let (mut between, mut wait) = (false, false);
    let mut units = reel.push(&head);
    loop {
        if let Some(run) = wishes.look()?.run {
            running = run;
            outlet.interrupt();
        }
        outlet.open()?;
        for unit in units {
            reel.warn(&unit, &outlet)?;
            let timestamp = cadence.next(ticks(origin.elapsed()));
            if running {
                outlet.sample(unit, timestamp)?;
            }
        }
        units = match pieces.recv_timeout(if between || wait {
            Duration::from_millis(200)
        } else {
            PAUSE
        }) {
            Ok(piece) => {
                let start = matches!(piece.as_slice(), [0, 0, 1, ..] | [0, 0, 0, 1, ..]);
                wait |= between && !start;
                between = false;
                reel.push(&piece)
            }
            Err(RecvTimeoutError::Timeout) if between || wait => Vec::new(),
            Err(RecvTimeoutError::Timeout) => {
                between = true;
                reel.finish()
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
    }
    for unit in reel.finish() {
        let timestamp = cadence.next(ticks(origin.elapsed()));
        if running {
            outlet.sample(unit, timestamp)?;
        }
    }
    let reason = "standard input has ended: the program that feeds it stopped".into();
    outlet.say_blocking(SourceEvent::Lost { reason })
}

/// Even timestamps for pictures that arrive unevenly.
#[derive(Debug)]
struct Cadence {
    /// Ticks between two pictures, if known.
    interval: Option<u32>,
    last: Option<u32>,
}

impl Cadence {
    fn new(interval: Option<Duration>) -> Self {
        Self { interval: interval.map(ticks), last: None }
    }

    /// The timestamp of a picture that arrived at this one: one interval after the last, led
    /// gently towards the arrival; the arrival itself after a gap of several.
    fn next(&mut self, arrival: u32) -> u32 {
        let next = match (self.last, self.interval) {
            (Some(last), Some(interval)) => {
                let even = last.wrapping_add(interval);
                let off = arrival.wrapping_sub(even).cast_signed();
                if off.unsigned_abs() < 8 * interval {
                    even.wrapping_add_signed((off / 16).max(1 - interval.cast_signed()))
                } else if off > 0 {
                    arrival
                } else {
                    even
                }
            }
            // Two at once still follow one another.
            (Some(last), None) if arrival.wrapping_sub(last).cast_signed() <= 0 => {
                last.wrapping_add(1)
            }
            _ => arrival,
        };
        self.last = Some(next);
        next
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc::SyncSender;

    use tokio::sync::mpsc;

    use super::super::{QUEUE_EVENTS, Sample, SourceHandle, SourceSpec, Wish, wishes};
    use super::*;
    use crate::media::h264::{nal, parameter_set_id};

    /// One second at 50 fps, a keyframe every half.
    fn encode(options: &str, format: &str) -> Vec<u8> {
        let source = "testsrc=size=160x96:rate=50:duration=1";
        let output = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", "-g", "25"])
            .args(options.split(' '))
            .args(["-f", format, "-movflags", "frag_keyframe", "-"])
            .output()
            .expect("ffmpeg is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), content).expect("written");
        file
    }

    fn spec(file: &tempfile::NamedTempFile, fps: Option<u32>) -> SourceSpec {
        SourceSpec::H264 { path: Some(file.path().into()), fps }
    }

    async fn event(source: &mut SourceHandle) -> SourceEvent {
        let event = tokio::time::timeout(Duration::from_secs(10), source.events.recv());
        event.await.expect("in time").expect("open")
    }

    async fn samples(source: &mut SourceHandle, count: usize) -> Vec<Sample> {
        let mut samples = Vec::new();
        while samples.len() < count {
            if let SourceEvent::Sample(sample) = event(source).await {
                samples.push(sample);
            }
        }
        samples
    }

    #[tokio::test]
    async fn a_file_loops_at_its_rate_with_parameter_sets_at_each_keyframe() {
        // Parameter sets once at the beginning only, as some encoders write them.
        let stream = encode("-c:v libx264 -bf 0 -bsf:v filter_units=remove_types=6", "h264");
        let mut splitter = AccessUnits::new();
        let mut units = splitter.push(&stream);
        units.extend(splitter.finish());
        for unit in units.iter_mut().skip(1) {
            unit.nals.retain(|set| parameter_set_id(set).is_none());
        }
        let file = file(&units.iter().flat_map(AccessUnit::to_annex_b).collect::<Vec<u8>>());

        let mut source = super::super::open(spec(&file, None)).expect("a source");
        let SourceEvent::Ready { describe } = event(&mut source).await else { panic!("not ready") };
        assert!(describe.ends_with("H.264 160x96, 50 fps"), "{describe}");
        source.wishes.send(Wish::Run);
        let started = Instant::now();
        let got = samples(&mut source, 70).await;
        let took = started.elapsed();
        assert!(took > Duration::from_millis(1_300), "{took:?}");
        for (at, pair) in got.windows(2).enumerate() {
            let step = pair[1].timestamp.wrapping_sub(pair[0].timestamp);
            assert!((1_799..=1_801).contains(&step), "{step} at {at}");
        }
        for (at, sample) in got.iter().enumerate() {
            assert_eq!(sample.unit.keyframe, at % 25 == 0, "picture {at}");
            if sample.unit.keyframe {
                assert!(
                    sample.unit.find(nal::SPS).is_some() && sample.unit.find(nal::PPS).is_some()
                );
            }
        }
    }

    #[tokio::test]
    async fn a_file_with_b_frames_is_played_with_a_warning() {
        let file = file(&encode("-c:v libx264 -bf 2", "h264"));
        let mut source = super::super::open(spec(&file, None)).expect("a source");
        source.wishes.send(Wish::Run);
        loop {
            if let SourceEvent::NativeOnly(words) = event(&mut source).await {
                assert!(words.contains("B-frames") && words.contains("-bf 0"), "{words}");
                break;
            }
        }
    }

    #[tokio::test]
    async fn a_file_with_colours_that_browsers_do_not_know_is_played_with_a_warning() {
        let file = file(&encode("-pix_fmt yuv444p -c:v libx264 -bf 0", "h264"));
        let mut source = super::super::open(spec(&file, None)).expect("a source");
        source.wishes.send(Wish::Run);
        loop {
            if let SourceEvent::NativeOnly(words) = event(&mut source).await {
                assert!(words.contains("4:4:4") && words.contains("yuv420p"), "{words}");
                break;
            }
        }
    }

    #[tokio::test]
    async fn files_of_other_kinds_are_refused_in_words() {
        let h264 = encode("-c:v libx264", "h264");
        for (content, words) in [
            (encode("-c:v libx264", "mp4"), "is an MP4 file"),
            (encode("-c:v libx264", "matroska"), "is a Matroska"),
            (encode("-c:v libx264", "mpegts"), "is an MPEG transport stream"),
            (encode("-c:v libx265 -x265-params log-level=none", "hevc"), "is H.265"),
            (b"no video at all".to_vec(), "has no start codes"),
            (Vec::new(), "is empty"),
            (h264[h264.len() - 300..].to_vec(), "has no s"),
        ] {
            let file = file(&content);
            let error = super::super::open(spec(&file, None)).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        }
        let pipe = tempfile::tempdir().expect("a folder");
        let path = pipe.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .expect("a pipe");
        for (path, words) in [(path, "--h264 - <"), (pipe.path().into(), "is a folder")] {
            let spec = SourceSpec::H264 { path: Some(path), fps: None };
            let error = super::super::open(spec).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        }
        let nowhere = SourceSpec::H264 { path: Some("/nowhere/at/all".into()), fps: None };
        let error = super::super::open(nowhere).expect_err("no file").to_string();
        assert!(error.contains("cannot read /nowhere/at/all: No such file"), "{error}");
    }

    fn piped() -> (SyncSender<Vec<u8>>, SourceHandle) {
        let (pipe, pieces) = sync_channel(PIECES);
        let (events, receiver) = mpsc::channel(QUEUE_EVENTS);
        let (sender, wishes) = wishes::pair();
        thread::spawn(move || {
            let _ = relay(&pieces, None, Outlet::new(events), wishes);
        });
        (pipe, SourceHandle { events: receiver, wishes: sender })
    }

    #[tokio::test]
    async fn piped_pictures_do_not_wait_for_the_next_and_are_drained_while_paused() {
        let stream = encode("-c:v libx264 -bf 0", "h264");
        let mut splitter = AccessUnits::new();
        let mut units = splitter.push(&stream);
        units.extend(splitter.finish());
        assert_eq!(units.len(), 50);
        let (pipe, mut source) = piped();
        // Nobody watches: twenty pictures go nowhere, and hold up nobody.
        for unit in &units[..20] {
            pipe.send(unit.to_annex_b()).expect("open");
        }
        assert!(matches!(event(&mut source).await, SourceEvent::Ready { .. }));
        source.wishes.send(Wish::Run);
        // The wish is seen within the time for which a silent pipe is waited for.
        tokio::time::sleep(Duration::from_millis(500)).await;
        for unit in &units[20..26] {
            pipe.send(unit.to_annex_b()).expect("open");
        }
        // Nothing follows, and it comes all the same; the pictures before the keyframe do not.
        let got = samples(&mut source, 1).await;
        assert_eq!(got[0].unit, units[25]);
        pipe.send(units[26].to_annex_b()).expect("open");
        assert_eq!(samples(&mut source, 1).await[0].unit, units[26]);
        drop(pipe);
        let SourceEvent::Lost { reason } = event(&mut source).await else { panic!("not lost") };
        assert!(reason.contains("standard input has ended"), "{reason}");
        assert!(source.events.recv().await.is_none(), "it cannot come back");
    }

    #[tokio::test]
    async fn pictures_that_are_piped_in_parts_are_spoilt_once_at_most() {
        let stream = encode("-c:v libx264 -bf 0", "h264");
        let (pipe, mut source) = piped();
        source.wishes.send(Wish::Run);
        let feeder = thread::spawn(move || {
            for part in stream.chunks(stream.len() / 12) {
                thread::sleep(3 * PAUSE);
                if pipe.send(part.to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut pictures = 0;
        loop {
            match event(&mut source).await {
                SourceEvent::Sample(_) => pictures += 1,
                SourceEvent::Lost { .. } => break,
                _ => {}
            }
        }
        feeder.join().expect("no panic");
        assert!((45..=52).contains(&pictures), "{pictures}");
    }

    #[tokio::test]
    async fn a_source_that_does_not_know_yet_what_it_sends_keeps_every_wish() {
        let (pipe, mut source) = piped();
        for _ in 0..100 {
            source.wishes.send(Wish::Keyframe);
        }
        source.wishes.send(Wish::Run);
        pipe.send(encode("-c:v libx264 -bf 0", "h264")).expect("open");
        assert!(samples(&mut source, 1).await[0].unit.keyframe);
    }

    #[tokio::test]
    async fn other_content_on_standard_input_is_named() {
        let (pipe, mut source) = piped();
        pipe.send(b"\x1a\x45\xdf\xa3 and so on".to_vec()).expect("open");
        drop(pipe);
        let SourceEvent::Lost { reason } = event(&mut source).await else { panic!("not lost") };
        assert!(reason.starts_with("standard input is a Matroska"), "{reason}");
    }

    #[test]
    fn uneven_arrivals_get_even_timestamps_and_gaps_stay() {
        let mut cadence = Cadence::new(Some(Duration::from_millis(40)));
        let first = cadence.next(1_000);
        assert_eq!(first, 1_000);
        let mut last = first;
        for at in 1..200u32 {
            let noise = (at * 7_919 % 1_800).cast_signed() - 900;
            let next = cadence.next((1_000 + at * 3_600).wrapping_add_signed(noise));
            let step = next.wrapping_sub(last);
            assert!((3_450..=3_750).contains(&step), "{step}");
            last = next;
        }
        assert_eq!(cadence.next(last + 900_000), last + 900_000);
    }
}
