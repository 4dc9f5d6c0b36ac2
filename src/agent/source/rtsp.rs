//! An RTSP camera as a source, pulled over the RTSP connection itself (interleaved TCP).

use std::time::{Duration, Instant};

use futures::StreamExt;
use retina::client::{
    Credentials, Demuxed, InitialTimestampPolicy, PlayOptions, Session, SessionOptions,
    SetupOptions, Stream,
};
use retina::codec::{CodecItem, FrameFormat, ParametersRef, VideoFrame};
use tokio::time::timeout;
use url::Url;

use super::retry::Retry;
use super::{
    Closed, Inbox, Outlet, Remedy, SourceError, SourceEvent, Wished, native_only, shown, ticks,
};
use crate::media::CLOCK_RATE;
use crate::media::h264::{AccessUnit, annex_b};

/// How long a camera may take to connect, describe and start its stream: small ones take seconds
/// to wake up.
const START: Duration = Duration::from_secs(10);

/// A camera that sends nothing for this long is gone, whatever its connection says.
const SILENCE: Duration = Duration::from_secs(5);

/// Where a camera is and how it is asked.
pub(super) struct Camera {
    url: Url,
    /// How it is called in messages, without credentials.
    name: String,
    credentials: Option<Credentials>,
}

impl Camera {
    /// Takes user information out of the URL unless it is given beside it.
    pub(super) fn new(
        url: &Url,
        user: Option<String>,
        password: Option<String>,
    ) -> Result<Self, SourceError> {
        let name = shown(url);
        let clean =
            Url::parse(&name)
                .ok()
                .filter(|url| url.scheme() == "rtsp" && url.has_host())
                .ok_or_else(|| SourceError::Setting(format!("{name} is no rtsp://HOST/PATH")))?;
        let decode = |text: &str| Some(percent_decode(text)).filter(|text| !text.is_empty());
        let username = user.or_else(|| decode(url.username()));
        let password = password.or_else(|| url.password().and_then(decode));
        let credentials = username
            .map(|username| Credentials { username, password: password.unwrap_or_default() });
        Ok(Self { url: clean, name, credentials })
    }
}

/// User information of a URL as it was meant; what is no escape stays as it is.
fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.first_chunk::<2>().filter(|_| byte == b'%');
        let value = digits.and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 16).ok()
        });
        out.push(value.unwrap_or(byte));
        rest = if value.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) fn open(camera: Camera, outlet: Outlet, wishes: Inbox) {
    let puller = Puller {
        camera,
        outlet,
        wishes,
        running: false,
        origin: Instant::now(),
        told: None,
        said_sound: false,
        said_native_only: false,
        retry: Retry::default(),
    };
    tokio::spawn(async move {
        // The receiver's end is the only reason to stop.
        let Err(Closed) = puller.run().await;
    });
}

/// Why a session with the camera is over.
enum End {
    /// In words.
    Lost(String),
    Closed,
}

impl From<Closed> for End {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

struct Puller {
    camera: Camera,
    outlet: Outlet,
    wishes: Inbox,
    running: bool,
    origin: Instant,
    /// The loss that was told last: each is told once, not at every attempt.
    told: Option<String>,
    said_sound: bool,
    said_native_only: bool,
    retry: Retry,
}

impl Puller {
    async fn run(mut self) -> Result<std::convert::Infallible, Closed> {
        loop {
            let reason = match self.session().await {
                Err(End::Lost(reason)) => reason,
                Err(End::Closed) => return Err(Closed),
                Ok(never) => match never {},
            };
            if self.told.as_ref() != Some(&reason) {
                self.told = Some(reason.clone());
                self.outlet.say(SourceEvent::Lost { reason }).await?;
            }
            let again = tokio::time::sleep(self.retry.next());
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    wished = self.wishes.next() => self.obey(wished?),
                }
            }
        }
    }

    /// RTSP has no way to ask a camera for a keyframe.
    fn obey(&mut self, wished: Wished) {
        if let Some(run) = wished.run {
            self.running = run;
            self.outlet.interrupt();
        }
    }

    /// Connects and passes pictures on until that fails.
    async fn session(&mut self) -> Result<std::convert::Infallible, End> {
        let starting = timeout(START, self.start());
        let (mut pictures, stream) = match starting.await {
            Ok(started) => started?,
            Err(_) => {
                return Err(End::Lost(format!(
                    "{} did not answer within {} s",
                    self.camera.name,
                    START.as_secs()
                )));
            }
        };
        let mut line = None;
        let mut last = tokio::time::Instant::now();
        loop {
            let item = tokio::select! {
                wished = self.wishes.next() => {
                    self.obey(wished?);
                    continue;
                }
                item = tokio::time::timeout_at(last + SILENCE, pictures.next()) => item,
            };
            match item {
                Ok(Some(Ok(CodecItem::VideoFrame(frame)))) => {
                    last = tokio::time::Instant::now();
                    if line.is_none() {
                        self.ready(pictures.streams().get(stream)).await?;
                    }
                    let (from, to) = *line.get_or_insert_with(|| {
                        (frame.timestamp().timestamp(), ticks(self.origin.elapsed()))
                    });
                    let rate = i64::from(frame.timestamp().clock_rate().get());
                    let passed = frame.timestamp().timestamp().wrapping_sub(from);
                    let passed = passed.saturating_mul(i64::from(CLOCK_RATE)) / rate;
                    self.picture(frame, to.wrapping_add(passed as u32)).await?;
                }
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(End::Lost(self.words(&error))),
                Ok(None) => {
                    return Err(End::Lost(format!("{} ended the stream", self.camera.name)));
                }
                Err(_) => {
                    return Err(End::Lost(format!(
                        "{} has sent no picture for {} s",
                        self.camera.name,
                        SILENCE.as_secs()
                    )));
                }
            }
        }
    }

    async fn start(&mut self) -> Result<(Demuxed, usize), End> {
        let options = SessionOptions::default()
            .creds(self.camera.credentials.clone())
            .user_agent(concat!("roost/", env!("CARGO_PKG_VERSION")).into());
        let described = Session::describe(self.camera.url.clone(), options).await;
        let mut session = described.map_err(|error| End::Lost(self.words(&error)))?;
        let stream = self.choose(session.streams()).map_err(End::Lost)?;
        self.sound(session.streams()).await?;
        let setup = SetupOptions::default().frame_format(FrameFormat::SIMPLE);
        let set_up = session.setup(stream, setup).await;
        set_up.map_err(|error| End::Lost(self.words(&error)))?;
        let play = PlayOptions::default().initial_timestamp(InitialTimestampPolicy::Ignore);
        let playing = session.play(play).await.map_err(|error| End::Lost(self.words(&error)))?;
        let pictures = playing.demuxed().map_err(|error| End::Lost(self.words(&error)))?;
        Ok((pictures, stream))
    }

    /// The first H.264 stream, or in words why there is none.
    fn choose(&self, streams: &[Stream]) -> Result<usize, String> {
        let name = &self.camera.name;
        let videos: Vec<&str> = streams
            .iter()
            .filter(|stream| stream.media() == "video")
            .map(Stream::encoding_name)
            .collect();
        let h264 = |stream: &Stream| stream.media() == "video" && stream.encoding_name() == "h264";
        streams.iter().position(h264).ok_or_else(|| match videos.first() {
            None => format!("{name} offers no video"),
            Some(&"h265") => format!(
                "{name} sends H.265, which browsers cannot play and Roost does not send: set the \
                 camera to H.264, or use the address of its H.264 sub-stream"
            ),
            Some(other) => format!("{name} sends {other} video: set the camera to H.264"),
        })
    }

    async fn sound(&mut self, streams: &[Stream]) -> Result<(), Closed> {
        let Some(sound) = streams.iter().find(|stream| stream.media() == "audio") else {
            return Ok(());
        };
        if std::mem::replace(&mut self.said_sound, true) {
            return Ok(());
        }
        let words = match sound.encoding_name() {
            "mpeg4-generic" | "mp4a-latm" | "mp4a" => {
                "AAC sound is left out: browsers cannot play it over WebRTC".to_owned()
            }
            other => format!("sound ({other}) is left out: only the picture is sent"),
        };
        self.outlet.say(SourceEvent::Warning(format!("{}: {words}", self.camera.name))).await
    }

    async fn ready(&mut self, stream: Option<&Stream>) -> Result<(), Closed> {
        self.retry.reset();
        self.told = None;
        self.outlet.interrupt();
        let mut describe = format!("{}, H.264", self.camera.name);
        if let Some(ParametersRef::Video(video)) = stream.and_then(Stream::parameters) {
            let (width, height) = video.pixel_dimensions();
            describe += &format!(" {width}x{height}");
            if let Some((tick, scale)) = video.frame_rate().filter(|&(tick, _)| tick > 0) {
                describe += &format!(", {:.0} fps", f64::from(scale) / f64::from(tick));
            }
        }
        // What was said of an earlier connection may have been mended since.
        self.said_native_only = false;
        self.outlet.say(SourceEvent::Ready { describe }).await
    }

    async fn picture(&mut self, frame: VideoFrame, timestamp: u32) -> Result<(), Closed> {
        let unit = AccessUnit::new(annex_b(frame.data()).map(<[u8]>::to_vec).collect());
        let remedy = Remedy {
            order: "in the camera's settings (profile Baseline, or GOP structure IP)",
            colour: "in the camera's settings",
        };
        if !self.said_native_only
            && let Some(words) = native_only(&self.camera.name, &unit, &remedy)
        {
            self.said_native_only = true;
            self.outlet.say(SourceEvent::NativeOnly(words)).await?;
        }
        if self.running { self.outlet.sample(unit, timestamp) } else { self.outlet.open() }
    }

    fn words(&self, error: &retina::Error) -> String {
        let Camera { name, credentials, .. } = &self.camera;
        let text = error.to_string();
        // What follows is about connections and packets, for those who debug.
        let text = text.lines().next().unwrap_or_default();
        match error.status_code() {
            Some(401) if credentials.is_none() => format!(
                "{name} wants a user name and a password: give --user and --password-file, or set \
                 ROOST_RTSP_USER and ROOST_RTSP_PASSWORD"
            ),
            Some(401 | 403) => format!("{name} refuses this user name or password"),
            Some(404) => format!("{name}: the camera has no stream of this path"),
            Some(453 | 503) => format!("{name}: the camera has too many viewers already"),
            Some(status) if status >= 300 => format!("{name}: the camera answered {text}"),
            _ if text.contains("onnection refused") => format!(
                "{name} cannot be reached: connection refused; is the camera on, and the port right?"
            ),
            _ => format!("{name}: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_the_url_only_if_not_given_and_leave_it() {
        let url = Url::parse("rtsp://us%40er:p%3Ass%@camera:5540/live?x=1").expect("a URL");
        let camera = Camera::new(&url, None, None).expect("a camera");
        assert_eq!(camera.name, "rtsp://camera:5540/live?x=1");
        assert_eq!(camera.url.as_str(), camera.name);
        let credentials = camera.credentials.expect("from the URL");
        assert_eq!((&*credentials.username, &*credentials.password), ("us@er", "p:ss%"));
        let camera = Camera::new(&url, Some("other".into()), Some("word".into())).expect("one");
        let credentials = camera.credentials.expect("given");
        assert_eq!((&*credentials.username, &*credentials.password), ("other", "word"));
        let url = Url::parse("http://camera/live").expect("a URL");
        assert!(Camera::new(&url, None, None).is_err());
    }
}
