//! The offer that a viewer or a publisher makes, and the answer to it (RFC 8866, RFC 8829).
//!
//! Only what this server needs is read, every value is checked before anything acts on it, and
//! the answer is written from what was checked: text of an offer never reaches the WebRTC stack.

use std::fmt::Write as _;

/// Longest offer, in bytes. Chromium's with one video, one audio and one data channel is about
/// 6 kB; with many candidates and codecs it stays under 20 kB.
pub const MAX_OFFER: usize = 64 * 1024;

/// Most m-lines in an offer: one video, one audio, one data channel, and room for stopped ones.
pub const MAX_LINES: usize = 8;

/// Most formats in one m-line: there are only 128 payload types (RFC 3551 §3).
const MAX_FORMATS: usize = 128;

/// Largest data-channel message that this side takes, in bytes (RFC 8841 §6): an offer with
/// candidates fits.
pub const MAX_CHANNEL_MESSAGE: usize = 64 * 1024;

/// Why an offer is refused, in words for its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Over [`MAX_OFFER`].
    #[error("the offer has {0} bytes; at most {MAX_OFFER} are taken")]
    TooLong(usize),
    /// Not SDP, or SDP that lacks what every WebRTC offer has.
    #[error("the offer cannot be read: {0}")]
    Malformed(&'static str),
    /// Understood, but nothing that can be served.
    #[error("the offer cannot be served: {0}")]
    Unsuitable(&'static str),
    /// No H.264 with packetization-mode 1.
    #[error(
        "the offer has no H.264 with packetization-mode=1, the only video that is relayed here; \
         use a browser, player or encoder with H.264"
    )]
    NoH264,
    /// The session table is full.
    #[error("too many sessions: this node already serves {0} over WebRTC")]
    Full(usize),
    /// The WebRTC stack refused.
    #[error("the session cannot be set up: {0}")]
    Stack(String),
}

impl SdpError {
    /// The HTTP status that fits (draft-ietf-wish-whep-03 §4.2).
    pub fn status(&self) -> u16 {
        match self {
            Self::TooLong(_) => 413,
            Self::Malformed(_) => 400,
            Self::Unsuitable(_) => 422,
            Self::NoH264 => 406,
            Self::Full(_) => 503,
            Self::Stack(_) => 500,
        }
    }
}

/// Which way the video of an offer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To a viewer (WHEP).
    Out,
    /// From a publisher (WHIP).
    In,
}

/// URI of the header extension that names a packet's m-line (RFC 8843 §15).
const MID_EXTENSION: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";

/// URI of the header extension by which arrivals are reported, so that a browser that sends finds
/// out what the path carries.
const TRANSPORT_CC_EXTENSION: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// What is said of the packets that a publisher will send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Incoming {
    /// SSRC of the video; without one, packets are told by [`Incoming::mid_extension`].
    pub ssrc: Option<u32>,
    /// SSRC of its retransmissions.
    pub rtx_ssrc: Option<u32>,
    /// Number of the header extension that names the m-line.
    pub mid_extension: Option<u8>,
    /// Number of the header extension that arrivals are reported by.
    pub transport_cc: Option<u8>,
    /// What the m-line is called.
    pub mid: String,
}

/// What an m-line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The one video.
    Video,
    /// The one data channel.
    Channel,
    /// Refused in the answer: audio, stopped lines, anything else.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    kind: Kind,
    /// `video`, `audio`, `application`, ... as offered.
    media: String,
    /// Transport as offered, echoed.
    proto: String,
    /// First format as offered, echoed by a refusal, which must list one.
    format: String,
    /// What that format is, as offered: some parsers want it even of a refused line.
    rtpmap: Option<String>,
    mid: String,
    reduced_rtcp: bool,
}

/// How H.264 is numbered in this session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codec {
    /// Payload type of the video.
    pub pt: u8,
    /// Payload type of retransmissions (RFC 4588).
    pub rtx: Option<u8>,
    /// `profile-level-id` as offered, echoed.
    pub profile: String,
}

/// An offer that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// ICE user fragment of the browser.
    pub ufrag: String,
    /// ICE password of the browser.
    pub password: String,
    /// SHA-256 of the browser's certificate.
    pub fingerprint: Vec<u8>,
    /// This side starts DTLS: the offer said `setup:passive`.
    pub dtls_active: bool,
    /// The video's numbers.
    pub codec: Codec,
    /// A data channel is offered and will be answered.
    pub channel: bool,
    /// What a publisher's packets look like; `None` of a viewer.
    pub incoming: Option<Incoming>,
    bundle: bool,
    lines: Vec<Line>,
}

/// What this side puts into an answer.
#[derive(Debug)]
pub struct AnswerParts<'a> {
    /// Session id of the `o=` line.
    pub id: u64,
    /// Own ICE user fragment.
    pub ufrag: &'a str,
    /// Own ICE password.
    pub password: &'a str,
    /// `sha-256 AB:CD:...` of the own certificate.
    pub fingerprint: &'a str,
    /// `candidate:...` lines without `a=`.
    pub candidates: &'a [String],
    /// SSRC of the video.
    pub ssrc: u32,
    /// SSRC of its retransmissions.
    pub rtx_ssrc: Option<u32>,
}

/// One m-section, or what precedes the first.
#[derive(Debug, Default)]
struct Section<'a> {
    m: &'a str,
    attributes: Vec<(&'a str, &'a str)>,
}

impl<'a> Section<'a> {
    fn first(&self, name: &str) -> Option<&'a str> {
        self.attributes.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }

    fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a str> + 's {
        self.attributes.iter().filter(move |(n, _)| *n == name).map(|(_, value)| *value)
    }
}

/// Reads an offer.
pub fn parse_offer(text: &str, direction: Direction) -> Result<Offer, SdpError> {
    if text.len() > MAX_OFFER {
        return Err(SdpError::TooLong(text.len()));
    }
    let (session, sections) = sections(text)?;
    let bundled: Vec<&str> = session
        .all("group")
        .filter_map(|group| group.strip_prefix("BUNDLE"))
        .flat_map(str::split_ascii_whitespace)
        .collect();
    let mut offer_lines = Vec::new();
    let mut codec = None;
    let mut channel = false;
    let mut incoming = None;
    let mut transport: Option<&Section<'_>> = None;
    for section in &sections {
        let mut words = section.m.split_ascii_whitespace();
        let (Some(media), Some(port), Some(proto), Some(format)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(SdpError::Malformed("an m-line has fewer than four fields"));
        };
        if ![media, proto, format].iter().all(|word| is_token(word)) {
            return Err(SdpError::Malformed("an m-line has characters that do not belong there"));
        }
        let mid = section.first("mid").unwrap_or_default();
        if !mid.is_empty() && !is_token(mid) {
            return Err(SdpError::Malformed("a=mid is no token"));
        }
        let stopped = port.starts_with('0') && !section.has("bundle-only");
        // Without BUNDLE every m-line wants a transport of its own; only the first gets one.
        let reachable = transport.is_none() || bundled.contains(&mid);
        let kind = match media {
            "video" if !stopped && reachable && codec.is_none() => {
                let wrong_way = match direction {
                    Direction::Out => section.has("sendonly"),
                    Direction::In => section.has("recvonly"),
                };
                if wrong_way || section.has("inactive") {
                    return Err(SdpError::Unsuitable(match direction {
                        Direction::Out => {
                            "the video is not recvonly; this endpoint sends and never receives"
                        }
                        Direction::In => {
                            "the video is not sendonly; this endpoint receives and never sends"
                        }
                    }));
                }
                codec = Some(find_h264(section)?);
                if direction == Direction::In {
                    incoming = Some(find_incoming(&session, section, mid)?);
                }
                Kind::Video
            }
            "video" if !stopped => {
                return Err(SdpError::Unsuitable("it has more than one video"));
            }
            "application" if !stopped && reachable && !channel && proto.ends_with("DTLS/SCTP") => {
                channel = true;
                Kind::Channel
            }
            _ => Kind::Refused,
        };
        if kind != Kind::Refused && transport.is_none() {
            transport = Some(section);
        }
        offer_lines.push(Line {
            kind,
            media: media.to_owned(),
            proto: proto.to_owned(),
            format: format.to_owned(),
            rtpmap: section
                .all("rtpmap")
                .find(|map| map.split(' ').next() == Some(format))
                .filter(|map| map.len() <= 64 && map.bytes().all(|b| matches!(b, b' '..=b'~')))
                .map(str::to_owned),
            mid: mid.to_owned(),
            reduced_rtcp: section.has("rtcp-rsize"),
        });
    }
    let codec = codec.ok_or(SdpError::Unsuitable("it has no video"))?;
    let transport = transport.ok_or(SdpError::Unsuitable("it has no video"))?;
    let either = |name| transport.first(name).or_else(|| session.first(name));
    let ufrag = either("ice-ufrag").ok_or(SdpError::Malformed("a=ice-ufrag is missing"))?;
    let password = either("ice-pwd").ok_or(SdpError::Malformed("a=ice-pwd is missing"))?;
    if !(4..=256).contains(&ufrag.len()) || !(22..=256).contains(&password.len()) {
        return Err(SdpError::Malformed("a=ice-ufrag or a=ice-pwd has a wrong length"));
    }
    if !ufrag.bytes().chain(password.bytes()).all(is_ice_char) {
        return Err(SdpError::Malformed("a=ice-ufrag or a=ice-pwd has wrong characters"));
    }
    let fingerprint = transport
        .all("fingerprint")
        .chain(session.all("fingerprint"))
        .find_map(parse_fingerprint)
        .ok_or(SdpError::Malformed("a=fingerprint with sha-256 is missing"))?;
    let dtls_active = match either("setup").unwrap_or("actpass") {
        "actpass" | "active" => false,
        "passive" => true,
        _ => return Err(SdpError::Malformed("a=setup is none of actpass, active, passive")),
    };
    Ok(Offer {
        ufrag: ufrag.to_owned(),
        password: password.to_owned(),
        fingerprint,
        dtls_active,
        codec,
        channel,
        incoming,
        bundle: !bundled.is_empty(),
        lines: offer_lines,
    })
}

fn sections(text: &str) -> Result<(Section<'_>, Vec<Section<'_>>), SdpError> {
    if !text.starts_with("v=0") {
        return Err(SdpError::Malformed("it does not begin with v=0"));
    }
    let mut session = Section::default();
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in text.lines().map(str::trim_end) {
        if let Some(m) = line.strip_prefix("m=") {
            if sections.len() == MAX_LINES {
                return Err(SdpError::Unsuitable("it has more than eight m-lines"));
            }
            sections.push(Section { m, attributes: Vec::new() });
        } else if let Some(attribute) = line.strip_prefix("a=") {
            let pair = attribute.split_once(':').unwrap_or((attribute, ""));
            sections.last_mut().unwrap_or(&mut session).attributes.push(pair);
        }
    }
    Ok((session, sections))
}

/// The offered H.264 with packetization-mode 1 that decoders take most gladly: constrained
/// baseline, then baseline, main, anything. Browsers decode what the stream is, not what the
/// payload type was named (measured with High profile under 42e01f).
fn find_h264(section: &Section<'_>) -> Result<Codec, SdpError> {
    let mut best: Option<(u8, Codec)> = None;
    for map in section.all("rtpmap").take(MAX_FORMATS) {
        let Some((pt, name)) = map.split_once(' ') else { continue };
        let Some(pt) = payload_type(pt) else { continue };
        if !name.trim().eq_ignore_ascii_case("H264/90000") {
            continue;
        }
        let parameters = parameters(section, pt);
        let value = |key: &str| {
            parameters.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| *v)
        };
        if value("packetization-mode") != Some("1") {
            continue;
        }
        let profile = value("profile-level-id").unwrap_or("42e01f").to_ascii_lowercase();
        if profile.len() != 6 || !profile.bytes().all(|b| b.is_ascii_hexdigit()) {
            continue;
        }
        let rank = match &profile[..4] {
            "42e0" => 0,
            "4200" | "42c0" => 1,
            "4d00" => 2,
            _ => 3,
        };
        if best.as_ref().is_none_or(|(than, _)| rank < *than) {
            let rtx = section
                .all("rtpmap")
                .take(MAX_FORMATS)
                .filter_map(|map| map.split_once(' '))
                .filter(|(_, name)| name.trim().eq_ignore_ascii_case("rtx/90000"))
                .filter_map(|(rtx, _)| payload_type(rtx))
                .find(|rtx| {
                    self::parameters(section, *rtx)
                        .iter()
                        .any(|(key, value)| *key == "apt" && payload_type(value) == Some(pt))
                });
            best = Some((rank, Codec { pt, rtx: rtx.filter(|rtx| *rtx != pt), profile }));
        }
    }
    best.map(|(_, codec)| codec).ok_or(SdpError::NoH264)
}

/// How a publisher's packets will be told. Only what is offered is used: whoever offers neither an
/// SSRC nor the extension cannot be understood.
fn find_incoming(
    session: &Section<'_>,
    section: &Section<'_>,
    mid: &str,
) -> Result<Incoming, SdpError> {
    let number = |text: &str| text.split(' ').next().and_then(|text| text.parse::<u32>().ok());
    let pair = section.all("ssrc-group").find_map(|group| {
        let (main, rtx) = group.strip_prefix("FID ")?.split_once(' ')?;
        Some((number(main)?, number(rtx)?))
    });
    let ssrc = pair.map(|(main, _)| main).or_else(|| section.all("ssrc").find_map(number));
    let ssrc = ssrc.filter(|ssrc| *ssrc != 0);
    let rtx_ssrc = pair.map(|(_, rtx)| rtx).filter(|rtx| *rtx != 0 && Some(*rtx) != ssrc);
    // One-byte headers number 1 to 14 (RFC 8285 §4.2).
    let extension = |uri: &str| {
        let all = section.all("extmap").chain(session.all("extmap"));
        all.filter_map(|map| map.split_once(' ')).find_map(|(id, rest)| {
            let id = id.split('/').next()?.parse().ok().filter(|id| (1..15).contains(id))?;
            (rest.split(' ').next() == Some(uri)).then_some(id)
        })
    };
    let mid_extension = extension(MID_EXTENSION).filter(|_| (1..=16).contains(&mid.len()));
    if ssrc.is_none() && mid_extension.is_none() {
        return Err(SdpError::Unsuitable(
            "its video has neither a=ssrc nor the header extension that names the m-line",
        ));
    }
    let transport_cc = extension(TRANSPORT_CC_EXTENSION).filter(|id| Some(*id) != mid_extension);
    Ok(Incoming { ssrc, rtx_ssrc, mid_extension, transport_cc, mid: mid.to_owned() })
}

fn parameters<'a>(section: &Section<'a>, pt: u8) -> Vec<(&'a str, &'a str)> {
    section
        .all("fmtp")
        .filter_map(|line| line.split_once(' '))
        .filter(|(of, _)| payload_type(of) == Some(pt))
        .flat_map(|(_, list)| list.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .collect()
}

/// A payload type that cannot be mistaken for RTCP on the same port (RFC 5761 §4).
fn payload_type(text: &str) -> Option<u8> {
    text.parse().ok().filter(|pt| *pt < 64 || (96..128).contains(pt))
}

/// SHA-256 alone: every browser sends it, and the WebRTC stack knows no other that is sound.
fn parse_fingerprint(text: &str) -> Option<Vec<u8>> {
    let (hash, hex) = text.split_once(' ')?;
    let bytes: Vec<u8> = hex
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect::<Option<_>>()?;
    (hash.eq_ignore_ascii_case("sha-256") && bytes.len() == 32).then_some(bytes)
}

/// RFC 8866 §9 `token`.
fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && !b"\"(),:;<=>?@[\\]".contains(&b))
}

/// RFC 8839 §5.4 `ice-char`; the hyphen and underscore appear in the wild.
fn is_ice_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte)
}

impl Offer {
    /// The answer: the video the one way, the data channel as offered, everything else refused.
    pub fn answer(&self, own: &AnswerParts<'_>) -> String {
        let mut out = format!("v=0\r\no=- {} 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n", own.id >> 1);
        let accepted = || self.lines.iter().filter(|line| line.kind != Kind::Refused);
        if self.bundle {
            out.push_str("a=group:BUNDLE");
            for line in accepted() {
                out.push(' ');
                out.push_str(&line.mid);
            }
            out.push_str("\r\n");
        }
        out.push_str("a=ice-lite\r\na=msid-semantic: WMS roost\r\n");
        let mut first = true;
        for line in &self.lines {
            let Line { media, proto, .. } = line;
            let mut put = |text: std::fmt::Arguments<'_>| {
                // Writing into a String cannot fail.
                let _ = out.write_fmt(text);
                out.push_str("\r\n");
            };
            match line.kind {
                Kind::Refused => {
                    put(format_args!("m={media} 0 {proto} {}", line.format));
                    put(format_args!("c=IN IP4 0.0.0.0"));
                    if !line.mid.is_empty() {
                        put(format_args!("a=mid:{}", line.mid));
                    }
                    put(format_args!("a=inactive"));
                    if let Some(map) = &line.rtpmap {
                        put(format_args!("a=rtpmap:{map}"));
                    }
                    continue;
                }
                Kind::Video => {
                    let rtx = self.codec.rtx.map(|pt| format!(" {pt}")).unwrap_or_default();
                    put(format_args!("m=video 9 {proto} {}{rtx}", self.codec.pt));
                }
                Kind::Channel => put(format_args!("m={media} 9 {proto} {}", line.format)),
            }
            put(format_args!("c=IN IP4 0.0.0.0"));
            if !line.mid.is_empty() {
                put(format_args!("a=mid:{}", line.mid));
            }
            put(format_args!("a=ice-ufrag:{}", own.ufrag));
            put(format_args!("a=ice-pwd:{}", own.password));
            put(format_args!("a=fingerprint:{}", own.fingerprint));
            let setup = if self.dtls_active { "active" } else { "passive" };
            put(format_args!("a=setup:{setup}"));
            if first {
                for candidate in own.candidates {
                    put(format_args!("a={candidate}"));
                }
                put(format_args!("a=end-of-candidates"));
                first = false;
            }
            if line.kind == Kind::Channel {
                put(format_args!("a=sctp-port:5000"));
                put(format_args!("a=max-message-size:{MAX_CHANNEL_MESSAGE}"));
                continue;
            }
            let Codec { pt, rtx, profile } = &self.codec;
            match &self.incoming {
                None => {
                    put(format_args!("a=sendonly"));
                    put(format_args!("a=msid:roost video"));
                }
                Some(Incoming { mid_extension, transport_cc, .. }) => {
                    put(format_args!("a=recvonly"));
                    if let Some(id) = mid_extension {
                        put(format_args!("a=extmap:{id} {MID_EXTENSION}"));
                    }
                    if let Some(id) = transport_cc {
                        put(format_args!("a=extmap:{id} {TRANSPORT_CC_EXTENSION}"));
                        put(format_args!("a=rtcp-fb:{pt} transport-cc"));
                    }
                }
            }
            put(format_args!("a=rtcp-mux"));
            if line.reduced_rtcp {
                put(format_args!("a=rtcp-rsize"));
            }
            put(format_args!("a=rtpmap:{pt} H264/90000"));
            for feedback in ["nack", "nack pli", "ccm fir"] {
                put(format_args!("a=rtcp-fb:{pt} {feedback}"));
            }
            put(format_args!(
                "a=fmtp:{pt} level-asymmetry-allowed=1;packetization-mode=1;\
                 profile-level-id={profile}"
            ));
            if let Some(rtx) = rtx {
                put(format_args!("a=rtpmap:{rtx} rtx/90000"));
                put(format_args!("a=fmtp:{rtx} apt={pt}"));
            }
            if self.incoming.is_some() {
                continue;
            }
            if let Some(rtx_ssrc) = own.rtx_ssrc {
                put(format_args!("a=ssrc-group:FID {} {rtx_ssrc}", own.ssrc));
            }
            for ssrc in [Some(own.ssrc), own.rtx_ssrc].into_iter().flatten() {
                put(format_args!("a=ssrc:{ssrc} cname:roost"));
                put(format_args!("a=ssrc:{ssrc} msid:roost video"));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
        a=group:BUNDLE 0 1 2\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=recvonly\r\na=rtpmap:111 opus/48000/2\r\n\
        a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96 102 103 108 109\r\na=mid:1\r\na=recvonly\r\n\
        a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n\
        a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n\
        a=setup:actpass\r\na=rtcp-mux\r\na=rtcp-rsize\r\n\
        a=rtpmap:96 VP8/90000\r\n\
        a=rtpmap:102 H264/90000\r\n\
        a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f\r\n\
        a=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\n\
        a=rtpmap:108 H264/90000\r\n\
        a=fmtp:108 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
        a=rtpmap:109 rtx/90000\r\na=fmtp:109 apt=108\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:2\r\na=sctp-port:5000\r\n";

    fn parts(candidates: &[String]) -> AnswerParts<'_> {
        AnswerParts {
            id: 7,
            ufrag: "uuuu",
            password: "pppp",
            fingerprint: "sha-256 AA",
            candidates,
            ssrc: 1,
            rtx_ssrc: Some(2),
        }
    }

    #[test]
    fn a_browsers_offer_is_answered_with_one_video_and_the_channel() {
        let offer = parse_offer(OFFER, Direction::Out).unwrap();
        assert_eq!(offer.codec, Codec { pt: 108, rtx: Some(109), profile: "42e01f".into() });
        assert!(offer.channel && !offer.dtls_active);
        let candidates = ["candidate:1 1 udp 1 192.0.2.1 9443 typ host".to_owned()];
        let answer = offer.answer(&parts(&candidates));
        assert!(answer.contains("a=group:BUNDLE 1 2\r\n"));
        assert!(answer.contains("m=audio 0 UDP/TLS/RTP/SAVPF 111\r\n"));
        assert!(answer.contains("a=inactive\r\na=rtpmap:111 opus/48000/2\r\n"));
        assert!(answer.contains("m=video 9 UDP/TLS/RTP/SAVPF 108 109\r\n"));
        assert!(answer.contains("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"));
        assert_eq!(answer.matches("candidate:1 ").count(), 1);
    }

    #[test]
    fn an_offer_without_h264_is_refused_in_words() {
        let error = parse_offer(&OFFER.replace("H264", "AV1"), Direction::Out).unwrap_err();
        assert_eq!((error.status(), &error), (406, &SdpError::NoH264));
        let mode_0 = OFFER.replace("packetization-mode=1", "packetization-mode=0");
        assert_eq!(parse_offer(&mode_0, Direction::Out), Err(SdpError::NoH264));
    }

    #[test]
    fn what_is_no_offer_for_a_viewer_is_refused_in_words() {
        for (text, status) in [
            (String::new(), 400),
            ("hello".to_owned(), 400),
            ("v=0\r\n".to_owned(), 422),
            (OFFER.replace("a=mid:1\r\na=recvonly", "a=mid:1\r\na=sendonly"), 422),
            (OFFER.replace("ice-pwd", "ice-pws"), 400),
            (OFFER.replace("0B:0C", "0B"), 400),
            (OFFER.replace("setup:actpass", "setup:holdconn"), 400),
            ("v=0".to_owned() + &"m=video 0 a b\r\n".repeat(9).replace("m=", "\r\nm="), 422),
            ("v=0".to_owned() + &" ".repeat(MAX_OFFER), 413),
        ] {
            assert_eq!(
                parse_offer(&text, Direction::Out).map_err(|e| e.status()),
                Err(status),
                "{text:.80}"
            );
        }
    }

    /// What a publisher offers.
    fn publication() -> String {
        OFFER.replace("a=mid:1\r\na=recvonly", "a=mid:1\r\na=sendonly\r\n\
            a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
            a=extmap:5 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
            a=ssrc-group:FID 11 12\r\na=ssrc:11 cname:x\r\na=ssrc:12 cname:x")
    }

    #[test]
    fn a_publishers_offer_is_answered_with_one_video_that_is_received() {
        let offer = parse_offer(&publication(), Direction::In).unwrap();
        let incoming = offer.incoming.as_ref().unwrap();
        assert_eq!((incoming.ssrc, incoming.rtx_ssrc), (Some(11), Some(12)));
        assert_eq!((incoming.mid_extension, incoming.transport_cc), (Some(4), Some(5)));
        let answer = offer.answer(&parts(&[]));
        assert!(answer.contains("a=recvonly\r\na=extmap:4 "), "{answer}");
        assert!(answer.contains("a=rtcp-fb:108 transport-cc\r\n"), "{answer}");
        assert!(answer.contains("m=audio 0 "), "audio is refused: {answer}");
        assert!(!answer.contains("a=ssrc") && !answer.contains("sendonly"), "{answer}");
    }

    #[test]
    fn what_no_publisher_offers_is_refused_in_words() {
        let refused = |text: &str| parse_offer(text, Direction::In).map_err(|e| e.status());
        assert_eq!(refused(OFFER), Err(422), "a viewer's");
        assert_eq!(refused(&publication().replace("H264", "VP8")), Err(406));
        let nameless = publication().replace("a=ssrc", "a=x").replace("sdes:mid", "sdes:x");
        assert_eq!(refused(&nameless), Err(422), "nothing tells its packets");
        assert_eq!(parse_offer(&publication(), Direction::Out).map_err(|e| e.status()), Err(422));
        let odd = publication().replace("extmap:4", "extmap:99").replace("FID 11 12", "FID 0 x");
        let incoming = parse_offer(&odd, Direction::In).unwrap().incoming.unwrap();
        assert_eq!((incoming.ssrc, incoming.mid_extension), (Some(11), None));
    }

    #[test]
    fn payload_types_that_look_like_rtcp_are_not_used() {
        let clash = OFFER.replace("108", "72");
        assert_eq!(parse_offer(&clash, Direction::Out).unwrap().codec.pt, 102);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = parse_offer(&text, Direction::Out);
            let _ = parse_offer(&text, Direction::In);
        }

        #[test]
        fn no_damaged_offer_makes_the_parser_panic(
            cut in 0..OFFER.len(), junk in "[ -~\r\n]{0,40}", drop in 0..60usize,
        ) {
            let mut text = OFFER[..cut].to_owned();
            text.push_str(&junk);
            text.push_str(OFFER.get(cut + drop..).unwrap_or(""));
            let _ = parse_offer(&text, Direction::In);
            if let Ok(offer) = parse_offer(&text, Direction::Out) {
                let answer = offer.answer(&parts(&[]));
                prop_assert_eq!(answer.matches("\nm=").count(), offer.lines.len());
            }
        }
    }
}
