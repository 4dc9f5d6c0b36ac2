//! Where an encoder's pictures come from: the test picture, an RTSP camera, an H.264 stream.
//!
//! Every source works by itself until its handle is dropped: it is told to run or to pause, keeps
//! trying when its camera is gone, and says in words what is wrong. Nothing is buffered: what the
//! receiver does not take in time is dropped up to the next keyframe.

mod font;
mod h264;
mod picture;
mod retry;
mod rtsp;
mod test;
mod wishes;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use url::Url;

use crate::media::{AccessUnit, CLOCK_RATE};
use wishes::{Inbox, Wished};

pub use wishes::{Wish, Wishes};

/// Events that wait for a slow receiver: two seconds at 30 fps; what is older is better skipped
/// than shown.
pub const QUEUE_EVENTS: usize = 64;

/// One picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The picture, with parameter sets in front of every IDR slice.
    pub unit: AccessUnit,
    /// When it is shown, in ticks of 90 kHz. Goes on in real time over pauses and reconnects.
    pub timestamp: u32,
}

/// What a source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// It works; `describe` says what it sends, for people.
    Ready {
        /// Kind, size and rate.
        describe: String,
    },
    /// A picture. The first one, and the first after a pause or a loss, is a keyframe.
    Sample(Sample),
    /// There is no picture, in words. The source keeps trying by itself, unless the channel
    /// closes after this: then it cannot come back.
    Lost {
        /// What is wrong and what to do about it.
        reason: String,
    },
    /// Pictures come that native viewers can play and browsers cannot, in words.
    NativeOnly(String),
    /// Pictures come, but something about them needs attention, in words.
    Warning(String),
}

/// A source at work. It ends when either side of it is dropped.
#[derive(Debug)]
pub struct SourceHandle {
    /// What it says.
    pub events: mpsc::Receiver<SourceEvent>,
    /// What it is told.
    pub wishes: Wishes,
}

/// Which source to open.
#[derive(Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// The moving test picture with its clocks.
    Test {
        /// Shown in the picture.
        name: String,
        /// Time between keyframes.
        gop: Duration,
        /// Pictures per second, if not the usual number.
        fps: Option<u32>,
        /// Whether a request brings a keyframe; many cameras ignore them.
        obeys_keyframe_requests: bool,
    },
    /// A camera, pulled over RTSP and TCP.
    Rtsp {
        /// Where it is. User information in it is used if there is none beside it, and is
        /// never shown.
        url: Url,
        /// User name, if it wants one.
        user: Option<String>,
        /// Password, if it wants one.
        password: Option<String>,
    },
    /// An H.264 byte stream with start codes (Annex B).
    H264 {
        /// A file, sent again and again at its rate; `None` is standard input, sent as it comes.
        path: Option<PathBuf>,
        /// Pictures per second, if the stream does not say.
        fps: Option<u32>,
    },
}

impl fmt::Debug for SourceSpec {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test { name, gop, fps, obeys_keyframe_requests } => f
                .debug_struct("Test")
                .field("name", name)
                .field("gop", gop)
                .field("fps", fps)
                .field("obeys_keyframe_requests", obeys_keyframe_requests)
                .finish(),
            Self::Rtsp { url, .. } => {
                f.debug_struct("Rtsp").field("url", &shown(url)).finish_non_exhaustive()
            }
            Self::H264 { path, fps } => {
                f.debug_struct("H264").field("path", path).field("fps", fps).finish()
            }
        }
    }
}

/// Why a source cannot be opened at all: trying again would not help.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read now.
    #[error("{0}")]
    File(String),
    /// What was asked for makes no sense: a file of another kind, a setting out of range.
    #[error("{0}")]
    Setting(String),
    /// The system gives no thread.
    #[error("cannot start the source: {0}")]
    Thread(#[from] std::io::Error),
}

/// Opens a source, paused. Must be called inside a tokio runtime.
///
/// # Errors
/// What cannot get better by itself, such as a file of another kind. A camera that does not
/// answer is no error: that is told by [`SourceEvent::Lost`], and tried again.
pub fn open(spec: SourceSpec) -> Result<SourceHandle, SourceError> {
    let (events, receiver) = mpsc::channel(QUEUE_EVENTS);
    let (sender, wishes) = wishes::pair();
    let outlet = Outlet::new(events);
    match spec {
        SourceSpec::Test { name, gop, fps, obeys_keyframe_requests } => {
            test::open(&name, gop, fps, obeys_keyframe_requests, outlet, wishes)?;
        }
        SourceSpec::Rtsp { url, user, password } => {
            rtsp::open(rtsp::Camera::new(&url, user, password)?, outlet, wishes);
        }
        SourceSpec::H264 { path: Some(path), fps } => {
            h264::open_file(&path, fps, outlet, wishes)?;
        }
        SourceSpec::H264 { path: None, fps } => h264::open_stdin(fps, outlet, wishes)?,
    }
    Ok(SourceHandle { events: receiver, wishes: sender })
}

/// A URL as it may be shown: without user information.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs that cannot have user information.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// A span in ticks of the video clock, which wrap.
fn ticks(span: Duration) -> u32 {
    (span.as_nanos() * u128::from(CLOCK_RATE) / 1_000_000_000) as u32
}

/// Nobody listens any more: the source ends.
#[derive(Debug)]
struct Closed;

/// A source's side of its event channel. Pictures that find it full are dropped up to the next
/// keyframe and counted, so that what arrives can always be decoded.
#[derive(Debug)]
struct Outlet {
    events: mpsc::Sender<SourceEvent>,
    /// Only a keyframe may follow.
    skipping: bool,
    dropped: u64,
}

impl Outlet {
    fn new(events: mpsc::Sender<SourceEvent>) -> Self {
        Self { events, skipping: true, dropped: 0 }
    }

    /// The next picture must be a keyframe, since some before it are left out on purpose.
    fn interrupt(&mut self) {
        self.skipping = true;
        self.dropped = 0;
    }

    fn sample(&mut self, unit: AccessUnit, timestamp: u32) -> Result<(), Closed> {
        if self.skipping && !unit.keyframe {
            self.dropped += u64::from(self.dropped > 0);
            return self.open();
        }
        match self.events.try_send(SourceEvent::Sample(Sample { unit, timestamp })) {
            Ok(()) => {
                self.skipping = false;
                if self.dropped > 0 {
                    let warning = format!(
                        "{} pictures were dropped: they came faster than they could be sent",
                        std::mem::take(&mut self.dropped)
                    );
                    // If it finds no room, the count was of the past anyway.
                    let _ = self.events.try_send(SourceEvent::Warning(warning));
                }
                Ok(())
            }
            Err(TrySendError::Full(_)) => {
                self.skipping = true;
                self.dropped += 1;
                Ok(())
            }
            Err(TrySendError::Closed(_)) => Err(Closed),
        }
    }

    fn open(&self) -> Result<(), Closed> {
        if self.events.is_closed() { Err(Closed) } else { Ok(()) }
    }

    /// For tasks; waits for room.
    async fn say(&self, event: SourceEvent) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_unsent| Closed)
    }

    /// For threads; waits for room.
    fn say_blocking(&self, event: SourceEvent) -> Result<(), Closed> {
        self.events.blocking_send(event).map_err(|_unsent| Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(keyframe: bool) -> AccessUnit {
        AccessUnit::new(vec![vec![if keyframe { 0x65 } else { 0x41 }, 0x88]])
    }

    #[test]
    fn a_full_channel_drops_up_to_the_next_keyframe_and_says_so() {
        let (sender, mut events) = mpsc::channel(2);
        let mut outlet = Outlet::new(sender);
        for (timestamp, keyframe) in
            [(0, false), (1, true), (2, false), (3, false), (4, false)].into_iter()
        {
            outlet.sample(unit(keyframe), timestamp).expect("open");
        }
        let mut take = || match events.try_recv() {
            Ok(SourceEvent::Sample(sample)) => sample.timestamp.to_string(),
            Ok(SourceEvent::Warning(words) | SourceEvent::NativeOnly(words)) => words,
            other => format!("{other:?}"),
        };
        assert_eq!((take(), take()), ("1".into(), "2".into()));
        outlet.sample(unit(false), 5).expect("open");
        outlet.sample(unit(true), 6).expect("open");
        assert_eq!(take(), "6");
        assert_eq!(take(), "3 pictures were dropped: they came faster than they could be sent");
        drop(events);
        assert!(outlet.sample(unit(true), 7).is_err());
    }

    #[test]
    fn credentials_are_never_shown() {
        let url = Url::parse("rtsp://someone:secret@camera.example/live").expect("a URL");
        assert_eq!(shown(&url), "rtsp://camera.example/live");
        let spec =
            SourceSpec::Rtsp { url, user: Some("someone".into()), password: Some("secret".into()) };
        let text = format!("{spec:?}");
        assert!(!text.contains("secret") && !text.contains("someone"), "{text}");
    }
}
