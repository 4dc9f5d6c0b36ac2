//! One leg: the task that owns a session's str0m instance and everything that it sends.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use str0m::channel::ChannelId;
use str0m::config::Fingerprint;
use str0m::format::Codec;
use str0m::media::{Frequency, KeyframeRequestKind, MediaKind, Mid, Pt};
use str0m::net::{DatagramRecv, Protocol, Receive};
use str0m::rtp::{Extension, RtpPacket, RtpWrite, Ssrc};
use str0m::{Event, IceCreds, Input, Output, Rtc};
use tokio::sync::mpsc;

use super::pacing::{Backlog, Batch, Flight};
use super::sdp::{AnswerParts, Offer, SdpError};
use super::{
    CLOSED_HERE, Command, Datagram, ESTABLISH, Feed, Intake, LegEvent, LegStats, Place, SILENCE,
    Shared, random_text,
};
use crate::flow::is_after;
use crate::hub::Live;
use crate::media::{CLOCK_RATE, Packet, Rewriter};

/// Retransmissions come from so many packets ...
const RTX_PACKETS: usize = 512;
/// ... of at most this age: older ones come too late for the picture.
const RTX_AGE: Duration = Duration::from_secs(1);

/// Data channels of one leg: the page uses two.
const MAX_CHANNELS: usize = 4;

/// Messages kept for a channel that is not open yet.
const MAX_PENDING: usize = 8;

/// Datagrams handled in a row before frames and commands get their turn.
const MAX_BURST_IN: usize = 32;

/// A leg that is set up but has no task yet.
pub(super) struct Prepared {
    pub(super) ufrag: String,
    pub(super) answer: String,
    rtc: Rtc,
    pt: Pt,
    ssrc: Ssrc,
    mid: Mid,
    intake: Option<Arc<dyn Intake>>,
    first_sequence: u16,
}

impl Prepared {
    pub(super) fn new(
        shared: &Shared,
        offer: &Offer,
        intake: Option<Arc<dyn Intake>>,
    ) -> Result<Self, SdpError> {
        let (ufrag, pass) = (random_text(8)?, random_text(16)?);
        let pt = Pt::from(offer.codec.pt);
        let mut config = Rtc::builder()
            .set_crypto_provider(shared.crypto.clone())
            .set_dtls_cert(shared.certificate.clone())
            .set_local_ice_credentials(IceCreds { ufrag: ufrag.clone(), pass: pass.clone() })
            .set_ice_lite(true)
            .set_rtp_mode(true)
            .set_send_buffer_video(RTX_PACKETS)
            .clear_codecs()
            .clear_extension_map();
        let format = str0m::format::FormatParams {
            level_asymmetry_allowed: Some(true),
            packetization_mode: Some(1),
            ..Default::default()
        };
        let rtx_pt = offer.codec.rtx.map(Pt::from);
        config.codec_config().add_config(
            pt,
            rtx_pt,
            Codec::H264,
            Frequency::NINETY_KHZ,
            None,
            format,
        );
        let incoming = offer.incoming.as_ref();
        let mid_extension = incoming.and_then(|of| of.mid_extension);
        if let Some(id) = mid_extension {
            config = config.set_extension(id, Extension::RtpMid);
        }
        if let Some(id) = incoming.and_then(|of| of.transport_cc) {
            config = config.set_extension(id, Extension::TransportSequenceNumber);
        }
        let mut rtc = config.build(Instant::now());
        for candidate in &shared.candidates {
            rtc.add_local_candidate(candidate.clone());
        }
        let mut direct = rtc.direct_api();
        direct.set_remote_ice_credentials(IceCreds {
            ufrag: offer.ufrag.clone(),
            pass: offer.password.clone(),
        });
        direct.set_remote_fingerprint(Fingerprint {
            hash_func: "sha-256".to_owned(),
            bytes: offer.fingerprint.clone(),
        });
        direct.set_ice_controlling(false);
        direct.start_dtls(offer.dtls_active).map_err(|e| SdpError::Stack(e.to_string()))?;
        if offer.channel {
            direct.start_sctp(offer.dtls_active);
        }
        // The extension carries the offer's name of the m-line; without it any will do.
        let named = incoming.filter(|_| mid_extension.is_some());
        let mid = Mid::from(named.map_or("v", |of| of.mid.as_str()));
        direct.declare_media(mid, MediaKind::Video);
        if incoming.is_some_and(|of| of.transport_cc.is_some()) {
            direct.enable_twcc_feedback();
        }
        let ssrc = direct.new_ssrc();
        let rtx_ssrc = rtx_pt.map(|_| direct.new_ssrc());
        match incoming {
            None => {
                direct.declare_stream_tx(ssrc, rtx_ssrc, mid, None).set_rtx_cache(
                    RTX_PACKETS,
                    RTX_AGE,
                    None,
                );
            }
            Some(of) => {
                if let Some(ssrc) = of.ssrc {
                    let rtx = of.rtx_ssrc.filter(|_| rtx_pt.is_some()).map(Ssrc::from);
                    direct.expect_stream_rx(ssrc.into(), rtx, mid, None);
                }
            }
        }
        let fingerprint = direct.local_dtls_fingerprint().to_string();
        let seed = random_text(10)?;
        let number = |text: Option<&str>| {
            text.and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(1)
        };
        let answer = offer.answer(&AnswerParts {
            id: number(seed.get(..16)),
            ufrag: &ufrag,
            password: &pass,
            fingerprint: &fingerprint,
            candidates: &shared.candidate_lines,
            ssrc: *ssrc,
            rtx_ssrc: rtx_ssrc.map(|ssrc| *ssrc),
        });
        let first_sequence = u16::try_from(number(seed.get(16..))).unwrap_or(1);
        Ok(Self { ufrag, answer, rtc, pt, ssrc, mid, intake, first_sequence })
    }

    /// Runs the leg to its end.
    pub(super) async fn run(
        self,
        place: Place,
        inbox: mpsc::Receiver<Datagram>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<LegEvent>,
        stats: Arc<LegStats>,
    ) {
        let now = Instant::now();
        let mut leg = Leg {
            rtc: self.rtc,
            pt: self.pt,
            ssrc: self.ssrc,
            mid: self.mid,
            intake: self.intake,
            shared: place.shared.clone(),
            rewriter: Rewriter::new(self.first_sequence),
            last: None,
            feed: None,
            backlog: Backlog::default(),
            batch: Batch::default(),
            local: None,
            wake: now,
            heard: now,
            established: false,
            channels: HashMap::new(),
            pending: VecDeque::new(),
            events,
            stats,
        };
        let reason = leg.run(inbox, commands).await;
        if let (false, Ending::Silent) = (leg.established, &reason) {
            place.shared.counters.not_established.fetch_add(1, Ordering::Relaxed);
        }
        let words = reason.words(leg.established);
        tracing::debug!(reason = %words, "a leg ended");
        // The place is free before anyone hears of the end.
        drop(place);
        // A driver that does not read any more learns it from the end of the channel.
        let _ = leg.events.try_send(LegEvent::Closed(words));
    }
}

enum Ending {
    Asked,
    Abandoned,
    Remote,
    Silent,
    Broken(String),
}

impl Ending {
    fn words(&self, established: bool) -> String {
        match self {
            Self::Asked => CLOSED_HERE.to_owned(),
            Self::Abandoned => "its driver is gone".to_owned(),
            Self::Remote => "closed by the other side".to_owned(),
            Self::Silent if established => {
                format!("nothing came from the other side for {} s", SILENCE.as_secs())
            }
            Self::Silent => format!(
                "no connection within {} s; is UDP to this node's advertised address open?",
                ESTABLISH.as_secs()
            ),
            Self::Broken(why) => format!("the session broke: {why}"),
        }
    }
}

/// The last packet sent.
#[derive(Debug, Clone, Copy)]
struct Last {
    timeline: u64,
    timestamp: u32,
    sequence: u16,
    at: Instant,
}

struct Leg {
    rtc: Rtc,
    pt: Pt,
    ssrc: Ssrc,
    mid: Mid,
    /// Takes a publisher's packets.
    intake: Option<Arc<dyn Intake>>,
    shared: Arc<Shared>,
    rewriter: Rewriter,
    /// Timeline, timestamp and sequence number of the last packet sent, and when.
    last: Option<Last>,
    feed: Option<Feed>,
    backlog: Backlog,
    batch: Batch,
    /// Local address that the other side's datagrams come in at.
    local: Option<std::net::IpAddr>,
    /// When str0m wants to be called again.
    wake: Instant,
    /// When something last came from the other side.
    heard: Instant,
    established: bool,
    channels: HashMap<ChannelId, String>,
    pending: VecDeque<(String, Vec<u8>)>,
    events: mpsc::Sender<LegEvent>,
    stats: Arc<LegStats>,
}

impl Leg {
    async fn run(
        &mut self,
        mut inbox: mpsc::Receiver<Datagram>,
        mut commands: mpsc::Receiver<Command>,
    ) -> Ending {
        loop {
            let now = Instant::now();
            if let Err(ending) = self.drive(now) {
                return ending;
            }
            let limit = if self.established { SILENCE } else { ESTABLISH };
            let mut until = self.wake.min(self.heard + limit);
            if let Some(due) = self.backlog.due() {
                until = until.min(due);
            }
            // While a burst is in progress frames wait at the hub, which knows what to skip.
            let wants_frame = self.backlog.is_empty();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => {
                        if let Err(ending) = self.obey(command) {
                            return ending;
                        }
                    }
                    None => return self.close(Ending::Abandoned),
                },
                datagram = inbox.recv() => {
                    let mut next = datagram;
                    let mut left = MAX_BURST_IN;
                    while let Some(datagram) = next {
                        if let Err(ending) = self.take(&datagram) {
                            return ending;
                        }
                        left -= 1;
                        next = if left > 0 { inbox.try_recv().ok() } else { None };
                    }
                }
                frame = next_frame(&mut self.feed), if wants_frame => match frame {
                    Some(frame) => self.backlog.push(frame),
                    None => {
                        self.feed = None;
                        self.tell(LegEvent::FeedEnded);
                    }
                },
                () = tokio::time::sleep_until(until.into()) => {
                    if Instant::now() >= self.heard + limit {
                        return self.close(Ending::Silent);
                    }
                }
            }
        }
    }

    /// Writes what is due, moves str0m's clock once, and sends all that comes out.
    fn drive(&mut self, now: Instant) -> Result<(), Ending> {
        if self.established {
            self.release(now);
        }
        self.rtc.handle_input(Input::Timeout(now)).map_err(broken)?;
        self.drain()
    }

    fn release(&mut self, now: Instant) {
        let mut direct = self.rtc.direct_api();
        let Some(stream) = direct.stream_tx(&self.ssrc) else { return };
        let (rewriter, last, pt) = (&mut self.rewriter, &mut self.last, self.pt);
        let frames = self.backlog.release(now, |live, packet| {
            if let Some(last) = last {
                if last.timeline != live.timeline {
                    let elapsed = now.duration_since(last.at).as_millis().min(10_000);
                    rewriter.switch(elapsed as u32 * (CLOCK_RATE / 1000));
                } else if live.frame.keyframe && packet.sequence != last.sequence.wrapping_add(1) {
                    // The viewer starts afresh here: what is missing before is missed by nobody.
                    rewriter.skip();
                }
            }
            *last = Some(Last {
                timeline: live.timeline,
                timestamp: packet.timestamp,
                sequence: packet.sequence,
                at: now,
            });
            let Some((number, time)) = rewriter.rewrite(packet) else { return };
            let write = RtpWrite::new(pt, number.into(), time, now, packet.payload.clone())
                .marker(packet.marker)
                .nackable(true);
            stream.write_rtp(write);
        });
        self.stats.frames_out.fetch_add(frames, Ordering::Relaxed);
    }

    fn drain(&mut self) -> Result<(), Ending> {
        let (outlet, counters, stats) =
            (self.shared.outlet.clone(), &self.shared.counters, &self.stats);
        let mut send = |flight: &Flight<'_>| {
            let sent =
                outlet.send(flight.to, flight.from, flight.contents, flight.segment_size).is_ok();
            let (count, bytes) = (flight.count as u64, flight.contents.len() as u64);
            if !sent {
                counters.send_failed.fetch_add(count, Ordering::Relaxed);
                return;
            }
            for counter in [&counters.datagrams_out, &stats.datagrams_out] {
                counter.fetch_add(count, Ordering::Relaxed);
            }
            for counter in [&counters.bytes_out, &stats.bytes_out] {
                counter.fetch_add(bytes, Ordering::Relaxed);
            }
        };
        let mut happened = Vec::new();
        loop {
            match self.rtc.poll_output().map_err(broken)? {
                Output::Timeout(at) => {
                    self.wake = at;
                    break;
                }
                Output::Transmit(out) => {
                    self.batch.push(out.destination, self.local, &out.contents, &mut send);
                }
                Output::Event(event) => happened.push(event),
            }
        }
        self.batch.flush(&mut send);
        for event in happened {
            self.on_event(event)?;
        }
        if self.rtc.is_alive() { Ok(()) } else { Err(Ending::Remote) }
    }

    fn on_event(&mut self, event: Event) -> Result<(), Ending> {
        match event {
            Event::Connected => {
                self.established = true;
                // What waited for the connection goes out with the next turn of the loop.
                self.wake = Instant::now();
                self.tell(LegEvent::Connected);
            }
            Event::KeyframeRequest(_) if self.feed.is_some() => {
                self.tell(LegEvent::KeyframeWanted);
            }
            Event::RtpPacket(packet) => self.intake(packet),
            Event::ChannelOpen(id, label) if self.channels.len() < MAX_CHANNELS => {
                self.channels.insert(id, label);
                for (label, text) in std::mem::take(&mut self.pending) {
                    self.write_channel(label, text)?;
                }
                self.wake = Instant::now();
            }
            Event::ChannelData(data) => {
                if let Some(label) = self.channels.get(&data.id) {
                    self.tell(LegEvent::Channel(label.clone(), data.data));
                }
            }
            Event::ChannelClose(id) => {
                self.channels.remove(&id);
            }
            Event::Closed => return Err(self.close(Ending::Remote)),
            _ => {}
        }
        Ok(())
    }

    /// Hands a publisher's packet on; padding, which has no payload, only measures the path.
    fn intake(&mut self, packet: RtpPacket) {
        let Some(intake) = self.intake.as_ref().filter(|_| !packet.payload.is_empty()) else {
            return;
        };
        for counter in [&self.shared.counters.packets_in, &self.stats.packets_in] {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        intake.packet(Packet {
            sequence: *packet.seq_no as u16,
            timestamp: packet.header.timestamp,
            marker: packet.header.marker,
            payload: packet.payload,
        });
    }

    fn take(&mut self, datagram: &Datagram) -> Result<(), Ending> {
        let counters = &self.shared.counters;
        let Ok(contents) = DatagramRecv::try_from(&datagram.bytes[..]) else {
            counters.malformed.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        let Some(destination) = self.candidate_for(datagram) else {
            counters.malformed.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        let now = Instant::now();
        self.heard = now;
        self.local = datagram.to;
        let (proto, source) = (Protocol::Udp, datagram.from);
        let received = Receive { proto, source, destination, contents };
        self.rtc.handle_input(Input::Receive(now, received)).map_err(broken)
    }

    /// The advertised address that stands for the one a datagram came in at: behind a port
    /// forwarding the two differ, and the WebRTC stack knows only the former.
    fn candidate_for(&self, datagram: &Datagram) -> Option<SocketAddr> {
        let mut addresses = self.shared.candidates.iter().map(str0m::Candidate::addr);
        let same_ip = addresses.clone().find(|address| Some(address.ip()) == datagram.to);
        same_ip.or_else(|| addresses.find(|a| a.is_ipv4() == datagram.from.is_ipv4()))
    }

    fn obey(&mut self, command: Command) -> Result<(), Ending> {
        match command {
            Command::Play(mut feed) => {
                self.backlog.clear();
                self.rewriter.skip();
                for live in std::mem::take(&mut feed.start) {
                    // What it saw before it was stopped it must not see again.
                    let seen = self.last.is_some_and(|last| {
                        last.timeline == live.timeline
                            && !is_after(live.frame.timestamp(), last.timestamp)
                    });
                    if !seen {
                        self.backlog.push(live);
                    }
                }
                self.feed = Some(feed);
                Ok(())
            }
            Command::Stop => {
                self.backlog.clear();
                self.feed = None;
                Ok(())
            }
            Command::Keyframe => {
                let mut direct = self.rtc.direct_api();
                if let Some(stream) = direct.stream_rx_by_mid(self.mid, None) {
                    stream.request_keyframe(KeyframeRequestKind::Pli);
                }
                Ok(())
            }
            Command::Channel(label, text) => self.write_channel(label, text),
            Command::Close => Err(self.close(Ending::Asked)),
        }
    }

    fn write_channel(&mut self, label: String, text: Vec<u8>) -> Result<(), Ending> {
        let id = self.channels.iter().find(|(_, name)| **name == label).map(|(id, _)| *id);
        let Some(mut channel) = id.and_then(|id| self.rtc.channel(id)) else {
            if self.pending.len() >= MAX_PENDING {
                self.pending.pop_front();
            }
            self.pending.push_back((label, text));
            return Ok(());
        };
        // A full buffer means that the page does not read; the next message carries it all again.
        channel.write(false, &text).map(drop).map_err(broken)
    }

    /// Says goodbye to the browser, as far as one round of output goes.
    fn close(&mut self, ending: Ending) -> Ending {
        // The session ends either way; what could not be said, silence will say.
        let _ = self.rtc.close();
        let _ = self.drain();
        ending
    }

    fn tell(&self, event: LegEvent) {
        if self.events.try_send(event).is_err() {
            self.shared.counters.events_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn next_frame(feed: &mut Option<Feed>) -> Option<Live> {
    match feed {
        Some(feed) => feed.frames.recv().await,
        None => std::future::pending().await,
    }
}

fn broken(error: str0m::RtcError) -> Ending {
    Ending::Broken(error.to_string())
}
