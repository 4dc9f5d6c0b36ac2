//! Both ends of every handshake: who is let in, and on what proof.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::dial::{connect_any, resolve};
use super::link::Fresh;
use super::message::{MessageReader, MessageWriter, ReceiveError, lost_reason};
use super::mux::canonical;
use super::transport::Class;
use super::{ClientConn, DialError, Inner, MediaConn, NetEvent, close, close_with, locked, tls};
use crate::admission::{ADDRS_MAX, PublicKey, Roster, Statement, Statements};
use crate::id::{NodeId, valid_name};
use crate::quic;
use crate::quic::{Connection, Incoming};
use crate::wire::{
    ALPN_CLIENT, ALPN_JOIN, ALPN_MEDIA, ALPN_MESH, Handshake, Hello, JOIN_EXPORTER, Join,
    NodeMessage, Refused, ServerHello, join_statement,
};

/// Connections whose other side is not verified yet. Each costs some 100 KiB at most; a mesh of
/// 200 nodes that all start at once fits.
pub const UNVERIFIED_MAX: usize = 256;

/// Unverified connections from one address: a site of many agents behind one address that all
/// reconnect at once still gets in, and nobody takes all places. Who is ignored tries again by
/// itself (RFC 9002 §6.2), some hundred milliseconds later.
pub const UNVERIFIED_PER_ADDRESS: usize = 64;

/// With more unverified connections than this, newcomers first prove their address by a round
/// trip that costs us nothing to remember (RFC 9000 §8.1.2).
pub const RETRY_ABOVE: usize = 32;

/// From the first packet to the end of the hellos: several round trips to the far side of the
/// world, with a loss.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the node may take to admit a newcomer: a write to a busy disk is in it.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the other side may take to read why it is refused.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Most bytes of statements, but for a chain, that a hello carries: a third of what a stranger may
/// send. What is left out comes over the link.
pub const NEWS_MAX: usize = 32 << 10;

/// Longest `host:port`: a DNS name has at most 253 characters.
const ADDR_MAX: usize = 260;

/// Accepts connections until the endpoint closes.
pub(super) async fn accept(inner: Arc<Inner>) {
    while let Some(incoming) = inner.endpoint.accept().await {
        let Some(place) = Place::take(&inner, incoming.remote_address().ip()) else {
            inner.counters.handshakes_ignored.add(1);
            incoming.ignore();
            continue;
        };
        let busy = inner.unverified.available_permits() + RETRY_ABOVE < UNVERIFIED_MAX;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            inner.counters.handshakes_retried.add(1);
            incoming.retry();
            continue;
        }
        tokio::spawn(welcome(inner.clone(), incoming, place));
    }
}

/// A place of an unverified connection; free again when dropped.
pub struct Place {
    inner: Arc<Inner>,
    ip: IpAddr,
    _one_of_all: OwnedSemaphorePermit,
}

impl Place {
    fn take(inner: &Arc<Inner>, ip: IpAddr) -> Option<Self> {
        let permit = inner.unverified.clone().try_acquire_owned().ok()?;
        let mut door = locked(&inner.at_the_door);
        let here = door.entry(ip).or_default();
        if *here >= UNVERIFIED_PER_ADDRESS {
            return None;
        }
        *here += 1;
        Some(Self { inner: inner.clone(), ip, _one_of_all: permit })
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("ip", &self.ip).finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut door = locked(&self.inner.at_the_door);
        if let Some(here) = door.get_mut(&self.ip) {
            *here -= 1;
            if *here == 0 {
                door.remove(&self.ip);
            }
        }
    }
}

/// One incoming connection, until it is verified and handed on.
async fn welcome(inner: Arc<Inner>, incoming: Incoming, place: Place) {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let config = match Class::of_connection_id(incoming.orig_dst_cid()) {
        Class::Link => inner.identity.load().link_server.clone(),
        Class::Media => inner.identity.load().media_server.clone(),
    };
    let connected = match incoming.accept_with(config) {
        Ok(connecting) => timeout_at(deadline, connecting).await,
        Err(error) => Ok(Err(error)),
    };
    let connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            inner.counters.handshakes_failed.add(1);
            tracing::debug!("a connection attempt failed: {error}");
            return;
        }
        Err(_elapsed) => {
            inner.counters.handshakes_timed_out.add(1);
            return;
        }
    };
    let alpn = tls::alpn(&connection).unwrap_or_default();
    let mut place = Some(place);
    let result = match alpn.as_slice() {
        ALPN_MESH => inner.accept_link(&connection, deadline).await,
        ALPN_MEDIA => inner.accept_media(&connection, deadline).await,
        ALPN_JOIN => inner.accept_join(&connection, deadline).await,
        ALPN_CLIENT => inner.accept_client(&connection, deadline, &mut place).await,
        // rustls agrees to nothing else.
        _ => Err(Turned::Away("unknown protocol".into())),
    };
    drop(place);
    let remote = canonical(connection.remote_address());
    match result {
        Ok(()) => {}
        Err(Turned::Away(reason)) => {
            inner.counters.handshakes_refused.add(1);
            // Counted; strangers do not write the log.
            tracing::debug!("{remote} is refused: {reason}");
            close_with(&connection, close::REFUSED, &reason);
        }
        Err(Turned::NoKey) => {
            inner.counters.handshakes_without_key.add(1);
            close_with(&connection, close::REFUSED, "a key of your own is needed here");
        }
        Err(Turned::Late) => {
            inner.counters.handshakes_timed_out.add(1);
            close_with(&connection, close::PROTOCOL, "the handshake took too long");
        }
        Err(Turned::Gave(reason)) => {
            // The other side went away, or sent nonsense; the reader has counted nonsense.
            tracing::debug!("{remote} did not finish its handshake: {reason}");
            close_with(&connection, close::PROTOCOL, &reason);
        }
    }
}

/// Why an incoming connection came to nothing.
enum Turned {
    Away(String),
    NoKey,
    Late,
    Gave(String),
}

impl From<ReceiveError> for Turned {
    fn from(error: ReceiveError) -> Self {
        Self::Gave(error.to_string())
    }
}

/// `result` by the deadline of the handshake.
async fn by<T, E: Into<Turned>>(
    deadline: Instant,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Turned> {
    timeout_at(deadline, work).await.map_err(|_elapsed| Turned::Late)?.map_err(Into::into)
}

async fn refuse(writer: &mut MessageWriter, reason: &str, more: Statements) {
    let refused = Handshake::Refused(Refused { reason: reason.to_owned(), more });
    let told = async {
        if writer.write(&refused).await.is_ok() {
            writer.finish();
            writer.delivered().await;
        }
    };
    let _ = timeout(REFUSAL_TIMEOUT, told).await;
}

async fn accept_bi(connection: &Connection) -> Result<(MessageWriter, MessageReader), Turned> {
    match connection.accept_bi().await {
        Ok((send, recv)) => Ok((MessageWriter::new(send), MessageReader::new(recv))),
        Err(error) => Err(Turned::Gave(lost_reason(&error))),
    }
}

async fn open_bi(connection: &Connection) -> Result<(MessageWriter, MessageReader), String> {
    match connection.open_bi().await {
        Ok((send, recv)) => Ok((MessageWriter::new(send), MessageReader::new(recv))),
        Err(error) => Err(lost_reason(&error)),
    }
}

impl Inner {
    /// Our hello to whoever holds a key; to a stranger without name and addresses.
    fn hello(&self, to: Option<&PublicKey>) -> Result<Hello, String> {
        let roster = self.roster.load();
        let member = to.and_then(|key| roster.member_with_key(key));
        let more = match to {
            Some(_) => self.news(&roster, member),
            None => Vec::new(),
        };
        self.hello_with(&roster, member.is_some(), more)
    }

    /// What another node should hear before it judges this one, or hears that it is refused.
    fn news(&self, roster: &Roster, to: Option<NodeId>) -> Vec<Statement> {
        let first: Vec<NodeId> = to.into_iter().chain([self.node]).collect();
        roster.news(&first, NEWS_MAX)
    }

    /// Our hello to whoever has no key, or is no member yet.
    fn hello_to_client(&self) -> Result<Hello, String> {
        let roster = self.roster.load();
        if let Some(why) = roster.outcast(self.node) {
            return Err(crate::admission::Refusal::out(self.node, why).to_string());
        }
        let more = roster.chain(self.node).map(|chain| roster.rebinds(&chain));
        self.hello_with(&roster, false, more.unwrap_or_default())
    }

    fn hello_with(
        &self,
        roster: &Roster,
        to_member: bool,
        more: Vec<Statement>,
    ) -> Result<Hello, String> {
        let Some(chain) = roster.chain(self.node) else {
            return Err("this node is not admitted to a mesh yet".into());
        };
        Ok(Hello {
            mesh: roster.mesh(),
            chain,
            boot: self.boot,
            name: if to_member { self.name.clone() } else { String::new() },
            addrs: if to_member { self.addrs.clone() } else { Vec::new() },
            version: env!("CARGO_PKG_VERSION").into(),
            more: Statements(more),
            wall: wall_ms(),
        })
    }

    /// What a refused node that was a member may not have heard of; a stranger hears nothing.
    fn news_for(&self, hello: &Hello) -> Statements {
        let roster = self.roster.load();
        let own = hello.chain.first().map(|own| own.node);
        let known = own.filter(|node| roster.current_key(*node).is_some());
        Statements(known.map_or_else(Vec::new, |node| self.news(&roster, Some(node))))
    }

    /// Judges the other side's hello by the key that it proved. What it says that is new and
    /// proved counts first, and is kept even if it is refused.
    async fn judge(
        &self,
        hello: &mut Hello,
        key: &PublicKey,
    ) -> Result<(NodeId, Vec<Statement>), String> {
        if *key == self.identity.load().key {
            return Err("that is this node itself".into());
        }
        let roster = self.roster.load_full();
        let (learned, verdict) = roster.judge(&hello.chain, &hello.more.0, key, hello.mesh);
        let node = match verdict {
            Ok(node) => node,
            Err(refusal) => {
                if !learned.is_empty() {
                    self.tell(NetEvent::Learned(learned)).await;
                }
                return Err(refusal.to_string());
            }
        };
        if !valid_name(&hello.name) {
            hello.name.clear();
        }
        hello.addrs.retain(|addr| addr.len() <= ADDR_MAX);
        hello.addrs.truncate(ADDRS_MAX);
        Ok((node, learned))
    }

    /// Statements that came with a refusal: what is new and proved is kept.
    async fn learn(&self, said: Vec<Statement>) {
        let roster = self.roster.load_full();
        if said.iter().any(|statement| !roster.has(statement)) {
            self.tell(NetEvent::Learned(said)).await;
        }
    }

    /// So that it ends when its node is shut out.
    fn note_media(&self, node: NodeId, connection: &Connection) {
        let mut medias = locked(&self.medias);
        medias.retain(|(_, connection)| connection.close_reason().is_none());
        medias.push((node, connection.clone()));
    }

    async fn accept_hello(
        &self,
        connection: &Connection,
        deadline: Instant,
    ) -> Result<(NodeId, Hello, Vec<Statement>, MessageWriter, MessageReader), Turned> {
        let key = tls::peer_key(connection).ok_or(Turned::NoKey)?;
        let (mut writer, reader) = by(deadline, accept_bi(connection)).await?;
        let mut reader = reader.counted(self.counters.clone());
        let Handshake::Hello(mut hello) = by(deadline, reader.read()).await? else {
            return Err(Turned::Gave("the handshake begins with a hello".into()));
        };
        let judged = self.judge(&mut hello, &key).await;
        let judged = judged.and_then(|judged| {
            let roster = self.roster.load();
            let own = self.hello_with(&roster, true, self.news(&roster, Some(judged.0)))?;
            Ok((judged, own))
        });
        let ((node, learned), own) = match judged {
            Ok(judged) => judged,
            Err(reason) => {
                refuse(&mut writer, &reason, self.news_for(&hello)).await;
                return Err(Turned::Away(reason));
            }
        };
        writer.write(&Handshake::Hello(own)).await.map_err(Turned::Gave)?;
        Ok((node, hello, learned, writer, reader))
    }

    async fn accept_link(
        self: &Arc<Self>,
        connection: &Connection,
        deadline: Instant,
    ) -> Result<(), Turned> {
        let (node, hello, learned, writer, mut reader) =
            self.accept_hello(connection, deadline).await?;
        // The dialler judges us as well, and may have another link to us by now.
        let order = match by(deadline, reader.read()).await? {
            Handshake::Keep(keep) => keep.order,
            Handshake::Refused(refused) => return Err(Turned::Gave(refused.reason)),
            _ => return Err(Turned::Gave("a decision was expected after the hellos".into())),
        };
        let fresh = Fresh {
            node,
            boot: hello.boot,
            name: hello.name,
            addrs: hello.addrs,
            learned,
            wall: hello.wall,
            connection: connection.clone(),
            writer,
            reader,
            dialled_here: false,
            order: Some(order),
        };
        self.settle(fresh).await.map_err(|error| Turned::Gave(error.to_string()))
    }

    async fn accept_media(&self, connection: &Connection, deadline: Instant) -> Result<(), Turned> {
        let (node, _, _, send, mut recv) = self.accept_hello(connection, deadline).await?;
        recv.trust();
        self.note_media(node, connection);
        self.tell(NetEvent::Media(MediaConn { node, connection: connection.clone(), send, recv }))
            .await;
        Ok(())
    }

    async fn accept_join(&self, connection: &Connection, deadline: Instant) -> Result<(), Turned> {
        let newcomer = tls::peer_key(connection).ok_or(Turned::NoKey)?;
        // We say who we are first: the newcomer proves nothing to the wrong mesh.
        let own = self.hello_to_client().map_err(Turned::Away)?;
        let (mut writer, reader) =
            by(deadline, async { open_bi(connection).await.map_err(Turned::Gave) }).await?;
        let mut reader = reader.counted(self.counters.clone());
        writer.write(&Handshake::Hello(own)).await.map_err(Turned::Gave)?;
        let Handshake::Join(join) = by(deadline, reader.read()).await? else {
            return Err(Turned::Gave("a join was expected".into()));
        };
        let statement = statement(connection, &newcomer).map_err(Turned::Gave)?;
        match self.ask_to_admit(connection, newcomer, join, statement).await {
            Ok(admitted) => {
                writer.write(&Handshake::Admitted(admitted)).await.map_err(Turned::Gave)?;
                writer.finish();
                let _ = timeout(JOIN_TIMEOUT, writer.delivered()).await;
                close_with(connection, close::DONE, "welcome");
                Ok(())
            }
            Err(reason) => {
                self.counters.joins_refused.add(1);
                refuse(&mut writer, &reason, Statements::default()).await;
                Err(Turned::Away(reason))
            }
        }
    }

    async fn ask_to_admit(
        &self,
        connection: &Connection,
        newcomer: PublicKey,
        join: Join,
        statement: Vec<u8>,
    ) -> Result<crate::wire::Admitted, String> {
        let (answer, answered) = oneshot::channel();
        let remote = canonical(connection.remote_address());
        let event = NetEvent::Join { newcomer, join, statement, remote, answer };
        let asked = async {
            self.tell(event).await;
            answered.await
        };
        match timeout(JOIN_TIMEOUT, asked).await {
            Ok(Ok(answer)) => answer,
            _ => Err("this node is too busy to admit anyone: try again, or another".into()),
        }
    }

    async fn accept_client(
        &self,
        connection: &Connection,
        deadline: Instant,
        place: &mut Option<Place>,
    ) -> Result<(), Turned> {
        let own = self.hello_to_client().map_err(Turned::Away)?;
        let (mut send, recv) =
            by(deadline, async { open_bi(connection).await.map_err(Turned::Gave) }).await?;
        let hello = ServerHello { mesh: own.mesh, chain: own.chain, more: own.more };
        send.write(&NodeMessage::Hello(hello)).await.map_err(Turned::Gave)?;
        let client = ClientConn {
            remote: canonical(connection.remote_address()),
            connection: connection.clone(),
            send,
            recv: recv.counted(self.counters.clone()),
            // Until it has shown a credential it is as much of a stranger as before.
            place: place.take().ok_or_else(|| Turned::Gave("it has no place".into()))?,
        };
        by(deadline, async {
            self.tell(NetEvent::Client(client)).await;
            Ok::<(), Turned>(())
        })
        .await
    }

    /// Connects to whoever is at `addr`: a link, if it is settled.
    pub(super) async fn dial_link(
        self: &Arc<Self>,
        expected: Option<NodeId>,
        addr: &str,
    ) -> Result<Fresh, DialError> {
        let resolved = resolve(addr).await?;
        let connection =
            connect_any(&self.endpoint, &self.identity.load().link_client, addr, resolved).await?;
        let talk = self.dial_hello(&connection, expected, addr);
        let (node, hello, learned, writer, reader) = match timeout(HANDSHAKE_TIMEOUT, talk).await {
            Ok(Ok(talked)) => talked,
            Ok(Err(error)) => {
                close_with(&connection, close::REFUSED, &error.to_string());
                return Err(error);
            }
            Err(_elapsed) => {
                close_with(&connection, close::PROTOCOL, "the handshake took too long");
                return Err(DialError::Broken("no hello in time".into()));
            }
        };
        Ok(Fresh {
            node,
            boot: hello.boot,
            name: hello.name,
            addrs: hello.addrs,
            learned,
            wall: hello.wall,
            connection,
            writer,
            reader,
            dialled_here: true,
            order: None,
        })
    }

    /// Opens a media connection to the node at the other end of a link.
    pub(super) async fn dial_media(&self, node: NodeId) -> Result<MediaConn, DialError> {
        let remote = self.remote(node).ok_or(DialError::NoLink(node))?;
        let addr = canonical(remote).to_string();
        let connection =
            connect_any(&self.endpoint, &self.identity.load().media_client, &addr, vec![remote])
                .await?;
        let talk = self.dial_hello(&connection, Some(node), &addr);
        match timeout(HANDSHAKE_TIMEOUT, talk).await {
            Ok(Ok((node, _, _, send, mut recv))) => {
                recv.trust();
                self.note_media(node, &connection);
                Ok(MediaConn { node, connection, send, recv })
            }
            Ok(Err(error)) => {
                close_with(&connection, close::REFUSED, &error.to_string());
                Err(error)
            }
            Err(_elapsed) => {
                close_with(&connection, close::PROTOCOL, "the handshake took too long");
                Err(DialError::Broken("no hello in time".into()))
            }
        }
    }

    async fn dial_hello(
        &self,
        connection: &Connection,
        expected: Option<NodeId>,
        addr: &str,
    ) -> Result<(NodeId, Hello, Vec<Statement>, MessageWriter, MessageReader), DialError> {
        let key = tls::peer_key(connection)
            .ok_or_else(|| DialError::Broken("the other side has no key".into()))?;
        if key == self.identity.load().key {
            return Err(DialError::Itself(addr.to_owned()));
        }
        // Someone whose key we do not know learns as little as a proof needs. It may still be a
        // member: one that was admitted a moment ago.
        let own = self.hello(Some(&key)).map_err(DialError::Broken)?;
        let (mut writer, reader) = open_bi(connection).await.map_err(DialError::Broken)?;
        let mut reader = reader.counted(self.counters.clone());
        writer.write(&Handshake::Hello(own)).await.map_err(DialError::Broken)?;
        let mut hello = match reader.read().await {
            Ok(Handshake::Hello(hello)) => hello,
            Ok(Handshake::Refused(refused)) => {
                // Perhaps this node does not know yet that it is shut out.
                self.learn(refused.more.0).await;
                return Err(DialError::Refused(refused.reason));
            }
            Ok(_) => return Err(DialError::Broken("a hello was expected".into())),
            Err(error) => return Err(broken(connection, &error)),
        };
        let (node, learned) = self.judge(&mut hello, &key).await.map_err(DialError::Stranger)?;
        match expected {
            Some(wanted) if wanted != node => Err(DialError::Unexpected { wanted, got: node }),
            _ => Ok((node, hello, learned, writer, reader)),
        }
    }
}

/// This node's wall clock, in milliseconds since 1970.
fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or(0)
}

/// A conversation that broke off; a refusal may have overtaken its message.
pub(super) fn broken(connection: &Connection, error: &ReceiveError) -> DialError {
    match connection.close_reason() {
        Some(quic::ConnectionError::ApplicationClosed(closed))
            if closed.error_code == close::REFUSED =>
        {
            DialError::Refused(String::from_utf8_lossy(&closed.reason).into_owned())
        }
        _ => DialError::Broken(error.to_string()),
    }
}

/// What a newcomer's proof signs on this connection.
pub(super) fn statement(connection: &Connection, newcomer: &PublicKey) -> Result<Vec<u8>, String> {
    let mut exporter = [0; 32];
    connection
        .export_keying_material(&mut exporter, JOIN_EXPORTER, b"")
        .map_err(|_error| "this TLS session exports no keying material".to_owned())?;
    Ok(join_statement(&exporter, newcomer))
}
