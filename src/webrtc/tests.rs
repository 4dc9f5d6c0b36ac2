use std::net::UdpSocket;

use str0m::change::SdpAnswer;
use str0m::channel::{ChannelConfig, Reliability};
use str0m::media::{Direction, MediaKind};
use str0m::net::{Protocol, Receive};
use str0m::{Event, Input, Output, Rtc};

use super::*;
use crate::media::{Frame, Packet};

struct Plain(UdpSocket);

impl Outlet for Plain {
    fn send(
        &self,
        to: SocketAddr,
        _from: Option<IpAddr>,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        for datagram in contents.chunks(segment_size.unwrap_or(contents.len())) {
            self.0.send_to(datagram, to)?;
        }
        Ok(())
    }
}

fn server(max_legs: usize) -> WebRtc {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let receiver = socket.try_clone().unwrap();
    let webrtc = WebRtc::with_limit(Arc::new(Plain(socket)), &[address], max_legs).unwrap();
    let inlet = webrtc.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = receiver.recv_from(&mut buffer) {
            let bytes = Bytes::copy_from_slice(&buffer[..length]);
            inlet.receive(from, Some(address.ip()), bytes);
        }
    });
    webrtc
}

/// A browser as far as the server can tell: the other side of the same WebRTC stack.
struct Browser {
    rtc: Rtc,
    socket: UdpSocket,
    address: SocketAddr,
    events: Vec<Event>,
}

impl Browser {
    /// Connects by whatever `accept` answers.
    fn connect(accept: impl FnOnce(&str) -> Accepted) -> (Self, Accepted) {
        let provider = Arc::new(str0m::crypto::from_feature_flags());
        let mut rtc =
            Rtc::builder().set_crypto_provider(provider).set_rtp_mode(true).build(Instant::now());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        rtc.add_local_candidate(Candidate::host(address, "udp").unwrap());
        let mut changes = rtc.sdp_api();
        changes.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
        changes.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
        changes.add_channel("signal".to_owned());
        let unreliable = Reliability::MaxRetransmits { retransmits: 0 };
        changes.add_channel_with_config(ChannelConfig {
            label: "play".to_owned(),
            ordered: false,
            reliability: unreliable,
            ..Default::default()
        });
        let (offer, pending) = changes.apply().unwrap();
        let accepted = accept(&offer.to_sdp_string());
        let answer = SdpAnswer::from_sdp_string(&accepted.answer_sdp).unwrap();
        rtc.sdp_api().accept_answer(pending, answer).unwrap();
        (Self { rtc, socket, address, events: Vec::new() }, accepted)
    }

    /// Runs until `done`, or fails after ten seconds.
    async fn until(&mut self, what: &str, mut done: impl FnMut(&mut Rtc, &[Event]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(&mut self.rtc, &self.events) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.events);
            self.rtc.handle_input(Input::Timeout(Instant::now())).unwrap();
            loop {
                match self.rtc.poll_output().unwrap() {
                    Output::Timeout(_) => break,
                    Output::Transmit(out) => {
                        self.socket.send_to(&out.contents, out.destination).unwrap();
                    }
                    Output::Event(event) => self.events.push(event),
                }
            }
            let mut buffer = [0; 2000];
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let received =
                        Receive::new(Protocol::Udp, from, self.address, &buffer[..length]).unwrap();
                    self.rtc.handle_input(Input::Receive(Instant::now(), received)).unwrap();
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    fn packets(events: &[Event]) -> Vec<(u64, u32)> {
        let one = |event: &Event| match event {
            Event::RtpPacket(packet) => Some((*packet.seq_no, packet.header.timestamp)),
            _ => None,
        };
        events.iter().filter_map(one).collect()
    }
}

fn frame(sequence: u16, packets: u16, timestamp: u32, keyframe: bool) -> Live {
    let packets = (0..packets)
        .map(|i| Packet {
            sequence: sequence.wrapping_add(i),
            timestamp,
            marker: i + 1 == packets,
            payload: vec![0x65; 1000].into(),
        })
        .collect();
    Live { timeline: 1, frame: Arc::new(Frame { packets, keyframe }) }
}

fn feed(start: Vec<Live>) -> (mpsc::Sender<Live>, Feed) {
    let (sender, frames) = mpsc::channel(64);
    (sender, Feed { start, frames, hold: Box::new(()) })
}

async fn until_event(accepted: &mut Accepted, wanted: impl Fn(&LegEvent) -> bool) -> LegEvent {
    let wait = async {
        loop {
            let event = accepted.events.recv().await.expect("the leg lives");
            if wanted(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), wait).await.expect("the event comes")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_gets_the_group_of_pictures_then_what_follows_without_a_break() {
    let webrtc = server(4);
    let (mut browser, mut accepted) = Browser::connect(|sdp| webrtc.accept(sdp).unwrap());
    browser.until("connects", |rtc, _| rtc.is_connected()).await;
    until_event(&mut accepted, |event| *event == LegEvent::Connected).await;
    // A source that is in the middle of its numbers, and about to begin them anew.
    let start = vec![frame(65_530, 40, 9000, true), frame(34, 5, 12_000, false)];
    let (sender, first) = feed(start);
    assert!(accepted.handle.play(first));
    browser.until("the start comes", |_, events| Browser::packets(events).len() == 45).await;
    sender.send(frame(39, 3, 15_000, false)).await.unwrap();
    browser.until("a frame comes", |_, events| Browser::packets(events).len() == 48).await;
    let mut another = frame(7, 2, 1_000_000, true);
    another.timeline = 2;
    let (_other_sender, other) = feed(vec![another]);
    assert!(accepted.handle.play(other));
    browser.until("another source comes", |_, e| Browser::packets(e).len() == 50).await;
    let packets = Browser::packets(&browser.events);
    assert!(packets[0].0 < 65_536, "the receiver's rollover counter begins at 0");
    assert!(packets.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "{packets:?}");
    assert!(packets.windows(2).all(|pair| pair[1].1 >= pair[0].1), "{packets:?}");
    let stats = accepted.handle.stats();
    assert_eq!(stats.frames_out.load(Ordering::Relaxed), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_carry_words_both_ways_and_close_ends_the_leg() {
    let webrtc = server(4);
    let (mut browser, mut accepted) = Browser::connect(|sdp| webrtc.accept(sdp).unwrap());
    assert!(accepted.handle.send_channel("signal", b"early".to_vec()), "kept until it is open");
    let open = |events: &[Event]| {
        events.iter().filter(|event| matches!(event, Event::ChannelOpen(..))).count() == 2
    };
    browser.until("the channels open", |_, events| open(events)).await;
    let id = browser.events.iter().find_map(|event| match event {
        Event::ChannelOpen(id, label) if label == "play" => Some(*id),
        _ => None,
    });
    assert!(browser.rtc.channel(id.unwrap()).unwrap().write(false, b"hello").unwrap());
    let heard = |events: &[Event]| {
        events
            .iter()
            .any(|event| matches!(event, Event::ChannelData(data) if data.data == b"early"))
    };
    browser.until("words arrive", |_, events| heard(events)).await;
    let hello = LegEvent::Channel("play".to_owned(), b"hello".to_vec());
    let mut said = || accepted.events.try_recv().is_ok_and(|event| event == hello);
    browser.until("words are heard", |_, _| said()).await;
    assert!(webrtc.close(accepted.leg.as_str()));
    browser.until("the end is told", |rtc, _| !rtc.is_alive()).await;
    until_event(&mut accepted, |event| matches!(event, LegEvent::Closed(_))).await;
    assert_eq!(webrtc.legs(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_leaves_takes_its_place_with_it() {
    let webrtc = server(1);
    let (mut browser, mut accepted) = Browser::connect(|sdp| webrtc.accept(sdp).unwrap());
    let open = |event: &Event| matches!(event, Event::ChannelOpen(..));
    browser.until("connects", |_, events| events.iter().any(open)).await;
    browser.rtc.close().unwrap();
    browser.until("says goodbye", |rtc, _| !rtc.is_alive()).await;
    until_event(&mut accepted, |event| matches!(event, LegEvent::Closed(_))).await;
    assert_eq!(webrtc.legs(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_has_a_limit_and_says_so() {
    let webrtc = server(1);
    let (browser, accepted) = Browser::connect(|sdp| webrtc.accept(sdp).unwrap());
    let offer = sdp::parse_offer(&accepted.answer_sdp, sdp::Direction::Out);
    assert!(offer.is_err(), "an answer is no offer of a viewer");
    let (_second, refused) = {
        let mut refused = None;
        let (second, _) = Browser::connect(|sdp| {
            refused = Some(webrtc.accept(sdp).unwrap_err());
            server(1).accept(sdp).unwrap()
        });
        (second, refused.unwrap())
    };
    assert_eq!(refused, SdpError::Full(1));
    assert_eq!(refused.status(), 503);
    assert_eq!(webrtc.counters().full.load(Ordering::Relaxed), 1);
    drop((browser, accepted));
}

#[tokio::test]
async fn noise_is_counted_and_changes_nothing() {
    let webrtc = server(1);
    let from = "127.0.0.1:9".parse().unwrap();
    for length in 0..64 {
        for first in [0, 1, 2, 20, 63, 128, 191, 255] {
            let mut bytes = vec![first; length];
            if let Some(magic) = bytes.get_mut(4..8) {
                magic.copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
            }
            webrtc.receive(from, None, bytes.into());
        }
    }
    let counters = webrtc.counters();
    let counted =
        counters.stray.load(Ordering::Relaxed) + counters.malformed.load(Ordering::Relaxed);
    assert_eq!((counted, webrtc.legs()), (64 * 8, 0));
}

#[test]
fn an_address_is_not_taken_over_while_its_owner_is_heard() {
    let mut table = Table::default();
    let mut inboxes = Vec::new();
    for key in ["one", "two"] {
        let (inbox, receiver) = mpsc::channel(1);
        let (commands, _) = mpsc::channel(1);
        let entry = Entry {
            id: LegId(key.into()),
            inbox,
            commands: commands.downgrade(),
            remote_ufrag: String::new(),
            addresses: Vec::new(),
        };
        table.legs.insert(key.into(), entry);
        inboxes.push(receiver);
    }
    let (from, now): (SocketAddr, _) = ("192.0.2.1:1".parse().unwrap(), Instant::now());
    assert!(table.inbox_for("one", from, now).is_some());
    assert!(table.inbox_for("two", from, now).is_some(), "its own leg still gets the message");
    assert_eq!(&*table.by_address[&from].leg, "one");
    assert!(table.inbox_for("two", from, now + ADDRESS_HOLD).is_some());
    assert_eq!(&*table.by_address[&from].leg, "two", "a silent owner loses it");
    assert!(table.inbox_for("nobody", from, now).is_none());
    for port in 1..100 {
        table.inbox_for("one", SocketAddr::new(from.ip(), port + 1), now);
    }
    assert!(table.by_address.len() <= MAX_ADDRESSES + 1);
    table.forget("one");
    table.forget("two");
    assert!(table.by_address.is_empty());
}
