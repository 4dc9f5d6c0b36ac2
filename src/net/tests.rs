//! Real sockets on loopback.

use std::collections::BTreeSet;
use std::net::UdpSocket;

use rand::{RngExt, SeedableRng};
use tokio::time::timeout;

use super::join::{JoinError, join};
use super::transport::DATAGRAM_MAX;
use super::*;
use crate::admission::{Invitation, Invite, Statements};
use crate::agent::dial::ClientEndpoint;
use crate::id::{InviteId, MeshId};
use crate::wire::{Admitted, ClientHello, ClientMessage, Handshake, Hello, Message};

const BOUND: Duration = Duration::from_secs(10);

fn key(number: u8) -> Keypair {
    Keypair::from_seed([number; 32])
}

/// A mesh of these members, founded by the first, which admitted the others.
fn roster(members: &[u8]) -> Roster {
    let founder = key(members[0]);
    let mut roster = Roster::found(&founder, [members[0]; 16]);
    for member in &members[1..] {
        let (id, mesh) = (InviteId([*member; 16]), roster.mesh());
        let invite = Invitation::make(&founder, mesh, vec![], id, [8; 32], u64::MAX, 9).invite;
        let admission = roster.admit(&founder, key(*member).public(), &invite);
        roster.adopt(vec![admission]);
    }
    roster
}

struct Node {
    net: Net,
    id: NodeId,
    addr: String,
    events: mpsc::Receiver<NetEvent>,
    rtc: mpsc::Receiver<RtcDatagram>,
}

fn start_boot(number: u8, roster: Roster, boot: u64) -> Node {
    let keypair = key(number);
    let id = keypair.node();
    let (net, events, rtc) = Net::open(NetConfig {
        port: UdpPort::Open(transport::udp_socket("127.0.0.1:0".parse().unwrap()).unwrap()),
        keypair,
        boot: Boot(boot),
        name: format!("node-{number}"),
        addrs: vec![format!("node-{number}.example:9443")],
        roster: Arc::new(ArcSwap::from_pointee(roster)),
    })
    .unwrap();
    let addr = net.local_addr().unwrap().to_string();
    Node { net, id, addr, events, rtc }
}

fn start(number: u8, roster: Roster) -> Node {
    start_boot(number, roster, 1)
}

impl Node {
    async fn next(&mut self) -> NetEvent {
        timeout(BOUND, self.events.recv()).await.expect("an event in time").unwrap()
    }

    async fn up(&mut self) -> NodeId {
        match self.next().await {
            NetEvent::LinkUp { node, .. } => node,
            other => panic!("a link was expected, not {other:?}"),
        }
    }

    async fn failed(&mut self) -> (Option<NodeId>, String) {
        match self.next().await {
            NetEvent::DialFailed { node, reason, .. } => (node, reason),
            other => panic!("a failed dial was expected, not {other:?}"),
        }
    }
}

/// Waits until `true`, with a bound.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(BOUND, waiting).await.is_ok(), "{what} did not happen");
}

async fn pair() -> (Node, Node) {
    let all = roster(&[1, 2]);
    let (mut a, mut b) = (start(1, all.clone()), start(2, all));
    a.net.dial(Some(b.id), b.addr.clone());
    assert_eq!(a.up().await, b.id);
    assert_eq!(b.up().await, a.id);
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_link_and_exchange_everything() {
    let (mut a, mut b) = pair().await;
    for number in 0..100u8 {
        assert!(a.net.send(b.id, vec![7, 0, number]));
    }
    for number in 0..100u8 {
        match b.next().await {
            NetEvent::Message { node, bytes } => {
                assert_eq!((node, bytes), (a.id, vec![7, 0, number]));
            }
            other => panic!("{other:?}"),
        }
    }
    let large = vec![5; wire::MAX_MESSAGE];
    assert!(b.net.send(a.id, large.clone()));
    assert!(matches!(a.next().await, NetEvent::Message { bytes, .. } if bytes == large));

    for size in [1, 1150, DATAGRAM_MAX] {
        assert!(a.net.datagram(b.id, vec![9; size]), "{size} bytes");
        assert!(matches!(b.next().await, NetEvent::Datagram { bytes, .. } if bytes.len() == size));
    }
    assert!(!a.net.datagram(b.id, vec![9; DATAGRAM_MAX + 1]));

    assert!(b.net.gossip(a.id, vec![3; 70_000]));
    assert!(matches!(a.next().await, NetEvent::Gossip { bytes, .. } if bytes == [3; 70_000]));

    let (asking, id) = (a.net.clone(), b.id);
    let asked = tokio::spawn(async move { asking.ask(id, vec![1, 0, 42], BOUND).await });
    let NetEvent::Ask { node, bytes, answer } = b.next().await else { panic!("no question") };
    assert_eq!((node, bytes), (a.id, vec![1, 0, 42]));
    answer.send(vec![1, 0, 43]).unwrap();
    assert_eq!(asked.await.unwrap(), Ok(vec![1, 0, 43]));

    let asking = a.net.clone();
    let asked = tokio::spawn(async move { asking.ask(id, vec![1, 0], BOUND).await });
    let NetEvent::Ask { answer, .. } = b.next().await else { panic!("no question") };
    drop(answer);
    assert!(matches!(asked.await.unwrap(), Err(AskError::Lost(_))));

    let links = a.net.links();
    assert_eq!(links.len(), 1);
    assert_eq!((links[0].0, links[0].1.remote.to_string()), (b.id, b.addr.clone()));
    assert!(links[0].1.last_heard.elapsed() < BOUND);

    a.net.send(b.id, vec![6, 0, 1]);
    a.net.close(b.id, "enough");
    assert!(matches!(a.next().await, NetEvent::LinkDown { reason, .. } if reason == "enough"));
    assert!(matches!(b.next().await, NetEvent::Message { bytes, .. } if bytes == [6, 0, 1]));
    assert!(matches!(b.next().await, NetEvent::LinkDown { reason, .. } if reason == "enough"));
    assert!(a.net.links().is_empty() && b.net.links().is_empty());
    assert!(!a.net.send(b.id, vec![6, 0]));
    assert_eq!(a.net.ask(b.id, vec![], BOUND).await, Err(AskError::NoLink(b.id)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_dial_each_other_always_end_with_one_link() {
    let all = roster(&[1, 2]);
    let (mut a, mut b) = (start(1, all.clone()), start(2, all));
    let (id_a, id_b) = (a.id, b.id);
    for round in 0..50u32 {
        a.net.dial(Some(b.id), b.addr.clone());
        if round % 3 == 1 {
            tokio::time::sleep(Duration::from_micros(u64::from(round) * 150)).await;
        }
        b.net.dial(Some(a.id), a.addr.clone());
        for (one, other) in [(&mut a, id_b), (&mut b, id_a)] {
            // The dial that came to nothing may be reported before or after, or not at all when it
            // was kept for a moment; the link comes up exactly once.
            loop {
                match one.next().await {
                    NetEvent::LinkUp { node, .. } => break assert_eq!(node, other),
                    NetEvent::DialFailed { .. } => {}
                    other => panic!("round {round}: {other:?}"),
                }
            }
        }
        // Whatever gave way is gone, what is left works both ways, and nothing flapped.
        until("one connection each", || {
            a.net.inner.endpoint.open_connections() == 1
                && b.net.inner.endpoint.open_connections() == 1
        })
        .await;
        let (net_a, net_b) = (a.net.clone(), b.net.clone());
        let ask = async {
            tokio::join!(net_a.ask(id_b, vec![0; 2], BOUND), net_b.ask(id_a, vec![0; 2], BOUND))
        };
        let answer = async {
            for one in [&mut a.events, &mut b.events] {
                loop {
                    match timeout(BOUND, one.recv()).await.unwrap().unwrap() {
                        NetEvent::Ask { answer, bytes, .. } => break answer.send(bytes).unwrap(),
                        NetEvent::DialFailed { .. } => {}
                        other => panic!("round {round}: {other:?}"),
                    }
                }
            }
        };
        let ((first, second), ()) = tokio::join!(ask, answer);
        assert!(first.is_ok() && second.is_ok(), "round {round}");
        a.net.close(b.id, "next round");
        for one in [&mut a, &mut b] {
            loop {
                match one.next().await {
                    NetEvent::LinkDown { .. } => break,
                    NetEvent::DialFailed { .. } => {}
                    other => panic!("round {round}: {other:?}"),
                }
            }
        }
        until("no dial is left", || {
            locked(&a.net.inner.dialling).is_empty() && locked(&b.net.inner.dialling).is_empty()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_dial_to_a_linked_node_says_so_and_changes_nothing() {
    let (mut a, mut b) = pair().await;
    a.net.dial(None, b.addr.clone());
    let (node, reason) = a.failed().await;
    assert_eq!(node, Some(b.id));
    assert!(reason.contains("already"), "{reason}");
    assert!(a.net.send(b.id, vec![1, 0]));
    assert!(matches!(b.next().await, NetEvent::Message { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_replaces_its_old_link() {
    let all = roster(&[1, 2]);
    let (mut a, mut old) = (start(1, all.clone()), start(2, all.clone()));
    old.net.dial(None, a.addr.clone());
    assert_eq!((a.up().await, old.up().await), (old.id, a.id));
    // The old process is still there as far as the socket can tell: nobody closes the link.
    let mut new = start_boot(2, all, 2);
    new.net.dial(None, a.addr.clone());
    assert_eq!(new.up().await, a.id);
    assert!(matches!(a.next().await, NetEvent::LinkDown { node, .. } if node == old.id));
    assert!(matches!(a.next().await, NetEvent::LinkUp { boot: Boot(2), .. }));
    assert_eq!(a.net.links().len(), 1);
}

#[test]
fn a_node_whose_old_folder_was_put_back_replaces_the_silent_link_of_its_newer_boot() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let here = tokio::runtime::Runtime::new().unwrap();
    let all = roster(&[1, 2]);
    let mut a = here.block_on(async { start(1, all.clone()) });
    // Whoever does not run its runtime is as silent as a killed process.
    let killed = runtime();
    let newer = killed.block_on(async {
        let mut newer = start_boot(2, all.clone(), 7);
        newer.net.dial(None, a.addr.clone());
        assert_eq!(newer.up().await, a.id);
        newer
    });
    here.block_on(async {
        assert_eq!(a.up().await, newer.id);
        let silent = || a.net.links().iter().all(|(_, link)| link.last_heard.elapsed() > SILENT);
        until("the link is silent", silent).await;
        let older = start_boot(2, all, 5);
        older.net.dial(None, a.addr.clone());
        let NetEvent::LinkDown { reason, .. } = a.next().await else { panic!("another event") };
        assert_eq!(reason, "the other side connected anew", "and not: it was given up");
        assert!(matches!(a.next().await, NetEvent::LinkUp { boot: Boot(5), .. }));
    });
    drop(killed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_refused_and_learns_only_that() {
    let mut a = start(1, roster(&[1]));
    // Its own mesh, in which it claims to be a member of the other.
    let mut stranger = start(9, roster(&[9]));
    stranger.net.dial(None, a.addr.clone());
    let (_, reason) = stranger.failed().await;
    assert!(reason.contains("refused"), "{reason}");
    assert!(reason.contains("mesh"), "{reason}");
    until("it is counted", || a.net.counters().handshakes_refused.get() == 1).await;

    // One that names the right mesh and shows a chain that is not its own.
    let config = transport::client_config(wire::ALPN_MESH, Some(&key(9))).unwrap();
    let endpoint = transport::client_endpoint().unwrap();
    let to = a.net.local_addr().unwrap();
    let connection = endpoint.connect_with(config, to, tls::SERVER_NAME).unwrap().await.unwrap();
    let (send, recv) = connection.open_bi().await.unwrap();
    let (mut send, mut recv) = (MessageWriter::new(send), MessageReader::new(recv));
    let real = roster(&[1]);
    let hello = Hello {
        mesh: real.mesh(),
        chain: real.chain(a.id).unwrap(),
        boot: Boot(1),
        name: "evil".into(),
        addrs: vec![],
        version: String::new(),
        more: Statements::default(),
        wall: 0,
    };
    send.write(&Handshake::Hello(hello)).await.unwrap();
    let answer = recv.read::<Handshake>().await.unwrap();
    assert!(matches!(answer, Handshake::Refused(_)), "{answer:?}");
    assert!(recv.read::<Handshake>().await.is_err());
    connection.closed().await;

    // One without a key.
    let config = transport::client_config(wire::ALPN_MESH, None).unwrap();
    let connection = endpoint.connect_with(config, to, tls::SERVER_NAME).unwrap().await.unwrap();
    connection.closed().await;
    until("both are counted", || {
        let counters = a.net.counters();
        counters.handshakes_refused.get() == 2 && counters.handshakes_without_key.get() == 1
    })
    .await;
    assert!(a.events.try_recv().is_err());
    until("no one is left at the door", || a.net.unverified() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_meshs_node_is_refused_with_both_names() {
    let (a, mut b) = (start(1, roster(&[1])), start(2, roster(&[2])));
    b.net.dial(None, a.addr.clone());
    let (_, reason) = b.failed().await;
    for mesh in [roster(&[1]).mesh(), roster(&[2]).mesh()] {
        assert!(reason.contains(&mesh.to_string()), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_says_what_is_wrong_with_its_address() {
    let all = roster(&[1, 2, 3]);
    let (mut a, b) = (start(1, all.clone()), start(2, all));
    a.net.dial(None, a.addr.clone());
    assert!(a.failed().await.1.contains("itself"));
    a.net.dial(Some(key(3).node()), b.addr.clone());
    let (node, reason) = a.failed().await;
    assert_eq!(node, Some(key(3).node()));
    assert!(reason.contains(&b.id.to_string()), "{reason}");
    a.net.dial(None, "no-such-host.invalid:1".into());
    assert!(a.failed().await.1.contains("no address"));
    a.net.dial(None, "nonsense".into());
    assert!(a.failed().await.1.contains("no address"));
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
    a.net.dial(None, closed.local_addr().unwrap().to_string());
    assert!(a.failed().await.1.contains("no answer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_a_dial_that_is_under_way_hears_how_it_ends() {
    let (mut a, expected) = (start(1, roster(&[1])), key(2).node());
    let silent = transport::udp_socket("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    a.net.dial(None, addr.clone());
    for _ in 0..3 {
        a.net.dial(Some(expected), addr.clone());
    }
    assert_eq!((a.failed().await.0, a.failed().await.0), (None, Some(expected)));
    assert_eq!(a.net.counters().dials_failed.get(), 2, "each of them once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admission_that_is_new_here_comes_with_the_link() {
    let (mut a, b) = (start(1, roster(&[1])), start(2, roster(&[1, 2])));
    b.net.dial(None, a.addr.clone());
    let NetEvent::LinkUp { learned, name, .. } = a.next().await else { panic!("no link") };
    assert_eq!(learned.len(), 1);
    assert_eq!(learned[0].about(), b.id);
    assert_eq!(name, "node-2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_has_a_connection_of_its_own() {
    let (a, mut b) = pair().await;
    let mut here = a.net.media(b.id).await.unwrap();
    let NetEvent::Media(mut there) = b.next().await else { panic!("no media") };
    assert_eq!((here.node, there.node), (b.id, a.id));
    here.send.write_bytes(&[1, 0, 5]).await.unwrap();
    assert_eq!(there.recv.read_bytes().await.unwrap(), [1, 0, 5]);
    there.send.write_bytes(&[4, 0]).await.unwrap();
    assert_eq!(here.recv.read_bytes().await.unwrap(), [4, 0]);
    // A whole keyframe at once, both ways: the window and the buffers take it.
    for (from, to) in [(&here, &there), (&there, &here)] {
        for _ in 0..150 {
            assert!(from.connection.datagram_send_buffer_space() >= 1150);
            from.connection.send_datagram(vec![8; 1150].into()).unwrap();
        }
        for _ in 0..150 {
            timeout(BOUND, to.connection.read_datagram()).await.unwrap().unwrap();
        }
    }
    let stranger = key(7).node();
    assert_eq!(a.net.media(stranger).await.unwrap_err(), DialError::NoLink(stranger));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_verifies_the_node_before_it_says_who_it_is() {
    let mut a = start(1, roster(&[1]));
    let mesh = roster(&[1]).mesh();
    let endpoint = ClientEndpoint::new().unwrap();
    let hello = ClientHello {
        agent: "test".into(),
        version: "0".into(),
        credential: Some("secret".into()),
        only_api: false,
    };
    let found = endpoint.connect(&a.addr, Some(a.id), Some(mesh), hello.clone()).await.unwrap();
    assert_eq!((found.node, found.mesh), (a.id, mesh));
    let NetEvent::Client(mut client) = a.next().await else { panic!("no client") };
    assert_eq!(tls::peer_key(&client.connection), None);
    let said = client.recv.read_within::<ClientMessage>(BOUND).await.unwrap();
    assert_eq!(said, ClientMessage::Hello(hello.clone()));

    for (expect, mesh) in [(None, Some(MeshId([5; 16]))), (Some(key(8).node()), None)] {
        let error = endpoint.connect(&a.addr, expect, mesh, hello.clone()).await.unwrap_err();
        assert!(
            matches!(error, DialError::Stranger(_) | DialError::Unexpected { .. }),
            "{error:?}"
        );
        let NetEvent::Client(mut client) = a.next().await else { panic!("no client") };
        assert!(client.recv.read_within::<ClientMessage>(BOUND).await.is_err());
    }
}

fn invitation(addrs: Vec<String>, mesh: MeshId) -> Invitation {
    Invitation::make(&key(1), mesh, addrs, InviteId([3; 16]), [77; 32], u64::MAX / 2, 1)
}

/// What the node does with a join; returns the proof that it saw.
async fn judge_join(node: &mut Node, roster: &mut Roster) -> Vec<u8> {
    let NetEvent::Join { newcomer, join, statement, answer, .. } = node.next().await else {
        panic!("no join")
    };
    let verdict = roster.check_invite(&join.invite, &join.proof, &statement, 1);
    let verdict = verdict.map_err(|refusal| refusal.to_string()).map(|()| {
        let admission = roster.admit(&key(1), newcomer, &join.invite);
        roster.adopt(vec![admission]);
        Admitted {
            statements: Statements(roster.statements().cloned().collect()),
            members: vec![],
            names: vec![],
        }
    });
    answer.send(verdict).unwrap();
    join.proof
}

/// Joins by hand with a proof that was seen elsewhere.
async fn join_with(addr: &str, keypair: &Keypair, invite: Invite, proof: Vec<u8>) -> Handshake {
    let config = transport::client_config(wire::ALPN_JOIN, Some(keypair)).unwrap();
    let endpoint = transport::client_endpoint().unwrap();
    let connecting = endpoint.connect_with(config, addr.parse().unwrap(), tls::SERVER_NAME);
    let connection = connecting.unwrap().await.unwrap();
    let (send, recv) = connection.accept_bi().await.unwrap();
    let (mut send, mut recv) = (MessageWriter::new(send), MessageReader::new(recv));
    assert!(matches!(recv.read().await.unwrap(), Handshake::Hello(_)));
    send.write(&Handshake::Join(wire::Join { invite, proof })).await.unwrap();
    recv.read_within(BOUND).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invited_node_joins_and_its_proof_is_worth_nothing_again() {
    let mut members = roster(&[1]);
    let mut a = start(1, members.clone());
    let invitation = invitation(vec!["127.0.0.1:1".into(), a.addr.clone()], members.mesh());
    let newcomer = key(2);
    let (joined, proof) =
        tokio::join!(join(&invitation, &newcomer, None), judge_join(&mut a, &mut members));
    let (member, admitted) = joined.unwrap();
    assert_eq!(member, a.id);
    assert_eq!(admitted.statements.0.len(), 2);
    assert!(members.contains(newcomer.node()));

    // The same proof from someone else, and from the same newcomer in another session.
    let addr = a.addr.clone();
    for thief in [key(6), newcomer] {
        let (answer, _) = tokio::join!(
            join_with(&addr, &thief, invitation.invite.clone(), proof.clone()),
            judge_join(&mut a, &mut members)
        );
        assert!(matches!(answer, Handshake::Refused(_)), "{answer:?}");
    }
    until("both are counted", || a.net.counters().joins_refused.get() == 2).await;
    assert!(!members.contains(key(6).node()));

    // Used up.
    let third = key(3);
    let (refused, _) =
        tokio::join!(join(&invitation, &third, None), judge_join(&mut a, &mut members));
    let error = refused.unwrap_err();
    assert!(matches!(&error, JoinError::Refused { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_proves_nothing_to_the_wrong_mesh() {
    let mut other = start(4, roster(&[4]));
    let wanted = roster(&[1]).mesh();
    let error =
        join(&invitation(vec![other.addr.clone()], wanted), &key(2), None).await.unwrap_err();
    let JoinError::WrongMesh { wanted: said, ref got, .. } = error else { panic!("{error}") };
    assert_eq!(said, wanted);
    assert!(got.contains(&roster(&[4]).mesh().to_string()), "{got}");
    assert!(other.events.try_recv().is_err());

    let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = join(&invitation(vec![dead.clone()], wanted), &key(2), None).await.unwrap_err();
    assert!(matches!(&error, JoinError::NoAnswer(tried) if tried[0].contains(&dead)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webrtc_comes_out_of_its_own_channel_and_is_sent_from_the_same_port() {
    let (mut a, mut b) = pair().await;
    let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
    let stun = [0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xa4, 0x42];
    outside.send_to(&stun, &a.addr).unwrap();
    let datagram = timeout(BOUND, a.rtc.recv()).await.unwrap().unwrap();
    assert_eq!(datagram.from, outside.local_addr().unwrap());
    assert_eq!(datagram.to, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(datagram.bytes.as_ref(), stun);

    // More in one call than the kernel takes at once (64), less than a receive buffer holds.
    let socket = a.net.rtc_socket();
    let segments: Vec<u8> = (0..120u8).flat_map(|n| [n; 300]).collect();
    outside.set_read_timeout(Some(BOUND)).unwrap();
    socket.send(datagram.from, datagram.to, &segments[..segments.len() - 10], Some(300)).unwrap();
    let mut buffer = [0; 2000];
    for number in 0..120u8 {
        let (length, from) = outside.recv_from(&mut buffer).unwrap();
        assert_eq!(from.to_string(), a.addr);
        assert_eq!(length, if number == 119 { 290 } else { 300 });
        assert!(buffer[..length].iter().all(|byte| *byte == number));
    }
    a.net.send(b.id, vec![1, 0]);
    assert!(matches!(b.next().await, NetEvent::Message { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ipv6_port_serves_ipv4_as_ipv4() {
    let all = roster(&[1, 2]);
    let mut a = start(1, all.clone());
    let keypair = key(2);
    let Ok(socket) = transport::udp_socket("[::]:0".parse().unwrap()) else {
        return; // a host without IPv6
    };
    let (net, mut events, mut rtc) = Net::open(NetConfig {
        port: UdpPort::Open(socket),
        keypair,
        boot: Boot(1),
        name: "six".into(),
        addrs: vec![],
        roster: Arc::new(ArcSwap::from_pointee(all)),
    })
    .unwrap();
    let port = net.local_addr().unwrap().port();
    a.net.dial(None, format!("127.0.0.1:{port}"));
    a.up().await;
    let up = timeout(BOUND, events.recv()).await.unwrap().unwrap();
    let NetEvent::LinkUp { remote, .. } = up else { panic!("{up:?}") };
    assert_eq!(remote.to_string(), a.addr);
    let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
    outside.send_to(&[1; 20], ("127.0.0.1", port)).unwrap();
    let datagram = timeout(BOUND, rtc.recv()).await.unwrap().unwrap();
    assert_eq!(datagram.from, outside.local_addr().unwrap());
    net.rtc_socket().send(datagram.from, datagram.to, &[2; 9], None).unwrap();
    outside.set_read_timeout(Some(BOUND)).unwrap();
    let mut buffer = [0; 20];
    let (length, from) = outside.recv_from(&mut buffer).unwrap();
    assert_eq!((length, from.port()), (9, port));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_changes_nothing_but_counters() {
    let (mut a, mut b) = pair().await;
    let to = a.addr.clone();
    let flood = std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut bytes = [0u8; 1400];
        for round in 0..3000usize {
            random.fill(&mut bytes[..]);
            // Every kind of first byte; every tenth looks like the start of a QUIC connection.
            bytes[0] = round as u8;
            if round % 10 == 0 {
                bytes[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
            }
            let length = if round % 7 == 0 { round % 40 } else { 40 + round % 1300 };
            socket.send_to(&bytes[..length], &to).unwrap();
        }
    });
    let mut seen = BTreeSet::new();
    for number in 0..200u8 {
        assert!(b.net.send(a.id, vec![1, 0, number]));
        match a.next().await {
            NetEvent::Message { bytes, .. } => assert!(seen.insert(bytes)),
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    flood.join().unwrap();
    until("the noise is counted", || a.net.counters().noise.get() > 0).await;
    until("what knocked is gone", || a.net.unverified() == 0).await;
    assert!(a.rtc.try_recv().is_ok());
    assert_eq!(a.net.links().len(), 1);
    assert!(a.events.try_recv().is_err() && b.events.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_with_nonsense_on_its_stream_is_closed() {
    let mut a = start(1, roster(&[1, 2]));
    let config = transport::client_config(wire::ALPN_MESH, Some(&key(2))).unwrap();
    let endpoint = transport::client_endpoint().unwrap();
    let connecting =
        endpoint.connect_with(config, a.net.local_addr().unwrap(), tls::SERVER_NAME).unwrap();
    let connection = connecting.await.unwrap();
    let (mut send, recv) = connection.open_bi().await.unwrap();
    let all = roster(&[1, 2]);
    let hello = Hello {
        mesh: all.mesh(),
        chain: all.chain(key(2).node()).unwrap(),
        boot: Boot(1),
        name: "NOT A NAME\n".into(),
        addrs: vec!["x".repeat(1000)],
        version: String::new(),
        more: Statements::default(),
        wall: 0,
    };
    send.write_all(&Handshake::Hello(hello).frame()).await.unwrap();
    let mut recv = MessageReader::new(recv);
    assert!(matches!(recv.read().await.unwrap(), Handshake::Hello(_)));
    send.write_all(&Handshake::Keep(wire::Keep { order: 1 }).frame()).await.unwrap();
    let NetEvent::LinkUp { name, addrs, .. } = a.next().await else { panic!("no link") };
    assert_eq!((name.as_str(), addrs.len()), ("", 0));
    send.write_all(&[0xff; 8]).await.unwrap();
    assert!(matches!(a.next().await, NetEvent::LinkDown { .. }));
    assert_eq!(a.net.counters().malformed.get(), 1);
    connection.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unverified_peer_may_not_send_much() {
    let a = start(1, roster(&[1]));
    let config = transport::client_config(wire::ALPN_MESH, Some(&key(2))).unwrap();
    let endpoint = transport::client_endpoint().unwrap();
    let connecting =
        endpoint.connect_with(config, a.net.local_addr().unwrap(), tls::SERVER_NAME).unwrap();
    let connection = connecting.await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let length = u32::try_from(UNVERIFIED_MESSAGE_MAX + 1).unwrap();
    send.write_all(&length.to_le_bytes()).await.unwrap();
    let error = timeout(BOUND, connection.closed()).await.unwrap();
    assert!(lost_reason(&error).contains("may send"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handshake_is_ended() {
    let a = start(1, roster(&[1]));
    let config = transport::client_config(wire::ALPN_MESH, Some(&key(2))).unwrap();
    let endpoint = transport::client_endpoint().unwrap();
    let connecting =
        endpoint.connect_with(config, a.net.local_addr().unwrap(), tls::SERVER_NAME).unwrap();
    let connection = connecting.await.unwrap();
    until("it waits at the door", || a.net.unverified() == 1).await;
    timeout(BOUND, connection.closed()).await.unwrap();
    until("it is counted", || a.net.counters().handshakes_timed_out.get() == 1).await;
    until("the door is free", || a.net.unverified() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_lets_the_last_words_out() {
    let (a, mut b) = pair().await;
    for number in 0..50u8 {
        a.net.send(b.id, vec![6, 0, number]);
    }
    a.net.shutdown("until tomorrow").await;
    for number in 0..50u8 {
        assert!(
            matches!(b.next().await, NetEvent::Message { bytes, .. } if bytes == [6, 0, number])
        );
    }
    assert!(
        matches!(b.next().await, NetEvent::LinkDown { reason, .. } if reason == "until tomorrow")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_at_the_door_keeps_no_member_out() {
    let all = roster(&[1, 2]);
    let (mut a, mut b) = (start(1, all.clone()), start(2, all));
    let config = transport::client_config(wire::ALPN_MESH, Some(&key(9))).unwrap();
    let endpoint = transport::client_endpoint().unwrap();
    let to = a.net.local_addr().unwrap();
    let mut crowd = Vec::new();
    for _ in 0..RETRY_ABOVE + 8 {
        let connecting = endpoint.connect_with(config.clone(), to, tls::SERVER_NAME).unwrap();
        crowd.push(connecting.await.unwrap());
    }
    b.net.dial(None, a.addr.clone());
    assert_eq!((a.up().await, b.up().await), (b.id, a.id));
    assert!(a.net.counters().handshakes_retried.get() > 0);

    // One address alone cannot take all places.
    for _ in 0..UNVERIFIED_PER_ADDRESS {
        let connecting = endpoint.connect_with(config.clone(), to, tls::SERVER_NAME).unwrap();
        tokio::spawn(connecting);
    }
    until("the rest wait outside", || a.net.counters().handshakes_ignored.get() > 0).await;
    assert!(a.net.unverified() <= UNVERIFIED_PER_ADDRESS);
    drop(crowd);
    endpoint.close(close::DONE, b"");
    until("the door is free", || a.net.unverified() == 0).await;
    assert!(locked(&a.net.inner.at_the_door).is_empty());
}
