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
use super::{Closed, Inbox, Outlet, SourceError, SourceEvent, Wished, shown, ticks};
use crate::media::CLOCK_RATE;
use crate::media::h264::{AccessUnit, annex_b};
use crate::media::inspect::{Remedy, native_only};

/// How long a camera may take to connect, describe and start its stream: small ones take seconds
/// to wake up.
const START: Duration = Duration::from_secs(10);

/// A camera that sends nothing for this long is gone, whatever its connection says.
const SILENCE: Duration = Duration::from_secs(5);

/// The shortest wait after a user name or password was refused: cameras lock an account that is
/// tried too often, for its owner, too.
const REFUSED: Duration = Duration::from_secs(60);

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
    Lost {
        /// In words.
        reason: String,
        /// How long the camera must be left alone at least.
        rest: Duration,
    },
    Closed,
}

impl End {
    fn lost(reason: String) -> Self {
        Self::Lost { reason, rest: Duration::ZERO }
    }
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
            let (reason, rest) = match self.session().await {
                Err(End::Lost { reason, rest }) => (reason, rest),
                Err(End::Closed) => return Err(Closed),
                Ok(never) => match never {},
            };
            if self.told.as_ref() != Some(&reason) {
                self.told = Some(reason.clone());
                self.outlet.say(SourceEvent::Lost { reason }).await?;
            }
            let again = tokio::time::sleep(rest + self.retry.next());
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
                return Err(End::lost(format!(
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
                    let (from, to, begun) = *line.get_or_insert_with(|| {
                        (frame.timestamp().timestamp(), ticks(self.origin.elapsed()), last)
                    });
                    self.retry.worked(last - begun);
                    let rate = i64::from(frame.timestamp().clock_rate().get());
                    let passed = frame.timestamp().timestamp().wrapping_sub(from);
                    let passed = passed.saturating_mul(i64::from(CLOCK_RATE)) / rate;
                    self.picture(frame, to.wrapping_add(passed as u32)).await?;
                }
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(self.failed(&error)),
                Ok(None) => {
                    return Err(End::lost(format!("{} ended the stream", self.camera.name)));
                }
                Err(_) => {
                    return Err(End::lost(format!(
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
        let mut session = described.map_err(|error| self.failed(&error))?;
        let stream = self.choose(session.streams()).map_err(End::lost)?;
        self.sound(session.streams()).await?;
        let setup = SetupOptions::default().frame_format(FrameFormat::SIMPLE);
        let set_up = session.setup(stream, setup).await;
        set_up.map_err(|error| self.failed(&error))?;
        let play = PlayOptions::default().initial_timestamp(InitialTimestampPolicy::Ignore);
        let playing = session.play(play).await.map_err(|error| self.failed(&error))?;
        let pictures = playing.demuxed().map_err(|error| self.failed(&error))?;
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

    fn failed(&self, error: &retina::Error) -> End {
        let refused =
            self.camera.credentials.is_some() && matches!(error.status_code(), Some(401 | 403));
        let rest = if refused { REFUSED } else { Duration::ZERO };
        End::Lost { reason: self.words(error), rest }
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
            Some(401 | 403) if credentials.is_some() => format!(
                "{name} refuses this user name or password: correct it and start this encoder \
                 again; until then the next attempt is in {} s, since cameras lock an account \
                 that is tried too often",
                REFUSED.as_secs()
            ),
            Some(403) => format!("{name} lets nobody in without a user name, or not from here"),
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
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::super::{SourceHandle, SourceSpec};
    use super::*;

    /// A camera that sends one picture, if it lets anyone in, and drops the connection. Tells
    /// each time when it is dialled.
    async fn camera(refuses: bool) -> (String, mpsc::UnboundedReceiver<Instant>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let (dialled, dials) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = dialled.send(Instant::now());
                // It may be dropped at any point.
                let _ = attend(stream, refuses).await;
            }
        });
        (format!("rtsp://user:word@{addr}/cam"), dials)
    }

    async fn attend(stream: TcpStream, refuses: bool) -> std::io::Result<()> {
        const SDP: &str = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\n\
                           m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
                           a=fmtp:96 packetization-mode=1;profile-level-id=42C01E;\
                           sprop-parameter-sets=Z0LAHtkDxWhAAAADAEAAAAwDxYuS,aMuMsg==\r\n\
                           a=control:video\r\n";
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        loop {
            let (mut method, mut sequence) = (String::new(), String::new());
            while let Some(line) = lines.next_line().await?.filter(|line| !line.is_empty()) {
                if let Some(number) = line.strip_prefix("CSeq: ") {
                    sequence = number.into();
                } else if method.is_empty() {
                    method = line.split(' ').next().unwrap_or_default().into();
                }
            }
            let (status, more, body) = match method.as_str() {
                "" => return Ok(()),
                _ if refuses => {
                    ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"cam\"\r\n".into(), "")
                }
                "DESCRIBE" => {
                    let length = SDP.len();
                    let more =
                        format!("Content-Type: application/sdp\r\nContent-Length: {length}\r\n");
                    ("200 OK", more, SDP)
                }
                "SETUP" => {
                    let transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1";
                    ("200 OK", format!("{transport}\r\nSession: 1\r\n"), "")
                }
                _ => ("200 OK", "Session: 1\r\n".into(), ""),
            };
            let answer = format!("RTSP/1.0 {status}\r\nCSeq: {sequence}\r\n{more}\r\n{body}");
            write.write_all(answer.as_bytes()).await?;
            if method == "PLAY" {
                // The header of a marked packet, and the slice of a keyframe.
                let packet = [0x80, 0xe0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0x65, 0x88, 0x84, 0];
                write.write_all(&[b'$', 0, 0, packet.len() as u8]).await?;
                write.write_all(&packet).await?;
                return write.shutdown().await;
            }
        }
    }

    fn watch(url: &str) -> SourceHandle {
        let url = Url::parse(url).expect("a URL");
        super::super::open(SourceSpec::Rtsp { url, user: None, password: None }).expect("a source")
    }

    async fn lost(source: &mut SourceHandle) -> String {
        loop {
            let event = timeout(START, source.events.recv()).await.expect("in time");
            if let SourceEvent::Lost { reason } = event.expect("open") {
                return reason;
            }
        }
    }

    #[tokio::test]
    async fn a_camera_that_sends_one_picture_and_drops_the_connection_is_dialled_ever_less() {
        let (url, mut dials) = camera(false).await;
        let mut source = watch(&url);
        let reader = tokio::spawn(async move {
            let mut ready = 0;
            while let Some(event) = source.events.recv().await {
                ready += usize::from(matches!(event, SourceEvent::Ready { .. }));
                if ready == 4 {
                    return;
                }
            }
        });
        let mut times = Vec::new();
        while times.len() < 4 {
            times.push(timeout(START, dials.recv()).await.expect("in time").expect("open"));
        }
        assert!(times[3] - times[2] >= Duration::from_millis(1_500), "{times:?}");
        timeout(START, reader).await.expect("each time a picture came").expect("no panic");
    }

    #[tokio::test]
    async fn a_refused_password_is_not_tried_again_at_once() {
        let (url, mut dials) = camera(true).await;
        let mut source = watch(&url);
        let reason = lost(&mut source).await;
        assert!(reason.contains("refuses this user name or password"), "{reason}");
        assert!(reason.contains("60 s") && reason.contains("lock"), "{reason}");
        assert!(!reason.contains("word@") && !reason.contains("user:"), "{reason}");
        assert!(dials.recv().await.is_some());
        let again = timeout(Duration::from_secs(2), dials.recv()).await;
        assert!(again.is_err(), "a second attempt at once: {again:?}");
    }

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
