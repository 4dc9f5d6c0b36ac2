//! The node behind HTTP: [`Backend`] over a running [`Node`], and the two served together.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLockReadGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use super::auth::strip_port;
use super::backend::{
    Backend, Check, Denied, InviteTerms, Invited, LegChange, MetricsSnapshot, Principal,
    Publication, ViewerView, ViewersView,
};
use super::candidates::candidates;
use super::counters::{Door, counters};
use super::going::Going;
use super::socket::AdminSocket;
use super::tls::{self, Certificate, load_or_make};
use super::{ServerCounters, leg, native, publisher, router, serve};
use crate::access::Rights;
use crate::accounts::{Audit, AuditCursor, Key, Receipt, Record, Refusal, Write};
use crate::admission;
use crate::cluster::{ClusterView, EncoderState};
use crate::control::SKEW_ALARM;
use crate::id::{AccountId, ActorId, EncoderId, NodeId};
use crate::net::{RtcDatagram, RtcSocket};
use crate::node::passwords::Passwords;
use crate::node::{ApiCall, Doors, Node, NodeConfig, NodeError, NotDone, RecordChanges};
use crate::placement::Demand;
use crate::session::{HOLD, SESSIONS_MAX};
use crate::webrtc::{Feed, MAX_LEGS, Outlet, WebRtc};
use crate::wire::{self, Answer, Ask, AskMove, Failed, Message, Moved, Offer, SdpAnswer};

mod questions;

use questions::unreachable;

/// How long another node may take to set a leg up or to list its viewers.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long another node may take to move an encoder: longer than its agent may.
const MOVE_TIMEOUT: Duration = Duration::from_secs(9);
/// Runs a node with everything it serves until `shutdown`, then lets it leave gracefully.
pub async fn run(
    mut config: NodeConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    let (ready, reload) = (config.ready.take(), config.reload.take());
    // A certificate that cannot be used is said before anything is founded or joined.
    let given = match config.certificate.take() {
        Some((chain, key)) => Some(Certificate::load(&chain, &key).map_err(unusable)?),
        None => tls::load_kept(&config.data).map_err(spoilt)?,
    };
    let mut shutdown = std::pin::pin!(shutdown);
    let (node, doors) = tokio::select! {
        started = Node::start(config) => started?,
        () = &mut shutdown => {
            tracing::warn!(
                event = "node.stopped",
                "told to stop while it was starting: nothing was served yet"
            );
            return Ok(());
        }
    };
    let passwords = Passwords::new();
    tokio::select! {
        finished = node.finish_founding(&passwords) => {
            if let Err(error) = finished {
                node.leave().await;
                return Err(error);
            }
        }
        // The next start finishes it.
        () = &mut shutdown => {
            node.leave().await;
            return Ok(());
        }
    }
    let bound = doors.addr;
    let hosts: Vec<String> = node.addrs().iter().map(|a| strip_port(a).to_owned()).collect();
    let made = |given: Option<_>| given.map_or_else(|| load_or_make(node.data(), &hosts), Ok);
    let certificate = made(given).map_err(spoilt)?;
    let tls = tls::config(certificate.clone()).map_err(failed)?;
    if let Some(reload) = reload {
        tokio::spawn(renew(certificate, reload, node.data().to_owned()));
    }
    let candidates = tokio::select! {
        found = candidates(&node, bound) => found,
        // Names that nobody resolves take their time.
        () = &mut shutdown => {
            node.leave().await;
            return Ok(());
        }
    };
    let outlet = Arc::new(Port(node.net().rtc_socket()));
    let webrtc = WebRtc::new(outlet, &candidates).map_err(failed)?;
    let backend = Arc::new(Live {
        node: node.clone(),
        webrtc,
        passwords,
        door: Door::default(),
        going: Going::default(),
        legs: Mutex::default(),
    });
    let counters = Arc::new(ServerCounters::default());
    let router = router(backend.clone(), counters.clone());
    let here = backend.clone();
    let (stop, stopped) = watch::channel(false);
    let Doors { tcp, rtc, asks, api, .. } = doors;
    let doors = tokio::spawn(open_doors(rtc, asks, api, backend, router.clone()));
    let socket = AdminSocket::open(node.data())
        .map(|it| tokio::spawn(it.serve(router.clone(), counters.clone(), stopped.clone())));
    let server = tokio::spawn(serve(tcp, tls, router, counters, stopped));
    tracing::info!(event = "node.ready", node = %node.id(), name = node.name(), listen = %bound, "ready");
    if let Some(ready) = ready {
        // Whoever asked to be told may have gone.
        let _ = ready.send(bound);
    }
    tokio::select! {
        () = shutdown => {}
        () = node.ended() => {
            node.leave().await;
            return Err(NodeError::Failed("the control loop ended; this is a defect".into()));
        }
    }
    tracing::info!(event = "node.leaving", "leaving: handing over what is served here");
    here.going.begin();
    node.leave().await;
    here.going.await_return().await;
    stop.send_replace(true);
    let _ = server.await;
    if let Some(socket) = socket {
        let _ = socket.await;
    }
    doors.abort();
    Ok(())
}

fn unusable(error: std::io::Error) -> NodeError {
    NodeError::Configuration(format!(
        "the web certificate cannot be used: {error}; check --tls-cert and --tls-key"
    ))
}

/// Of the files in the node's own folder.
fn spoilt(error: std::io::Error) -> NodeError {
    NodeError::Configuration(format!(
        "the node's own web certificate cannot be used: {error}; put it back, or remove {} and {}, \
         and the node makes new ones",
        tls::CERTIFICATE_FILE,
        tls::KEY_FILE
    ))
}

/// Reads the certificate again whenever it is asked to; if it is of no use, the one before stays.
async fn renew(
    certificate: Arc<Certificate>,
    mut reload: mpsc::Receiver<Option<(PathBuf, PathBuf)>>,
    data: PathBuf,
) {
    while let Some(files) = reload.recv().await {
        let (chain, key) = files.unwrap_or_else(|| tls::own_files(&data));
        match certificate.renew(&chain, &key) {
            Ok(()) => tracing::info!(
                event = "certificate.loaded", file = %chain.display(),
                "new connections get the web certificate as it is now"
            ),
            Err(error) => tracing::error!(
                event = "certificate.unusable", err = %error,
                "the web certificate stays as it was; correct the files and send SIGHUP again"
            ),
        }
    }
}

fn failed(error: std::io::Error) -> NodeError {
    NodeError::Failed(error.to_string())
}

/// WebRTC's way out through the shared port.
struct Port(RtcSocket);

impl Outlet for Port {
    fn send(
        &self,
        to: SocketAddr,
        from: Option<IpAddr>,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> std::io::Result<()> {
        self.0.send(to, from, contents, segment_size)
    }
}

/// Everything that comes to the node for this side of it.
async fn open_doors(
    mut rtc: mpsc::Receiver<RtcDatagram>,
    mut asks: mpsc::Receiver<(NodeId, Ask, oneshot::Sender<Vec<u8>>)>,
    mut api: mpsc::Receiver<ApiCall>,
    backend: Arc<Live>,
    router: axum::Router,
) {
    loop {
        tokio::select! {
            Some(datagram) = rtc.recv() => {
                backend.webrtc.receive(datagram.from, datagram.to, datagram.bytes);
            }
            Some((from, mut ask, answer)) = asks.recv() => {
                if let Ask::Offer(offer) = &mut ask {
                    // Who shows nothing that is signed is here on that node's word.
                    offer.principal.issuer.get_or_insert(from);
                }
                let backend = backend.clone();
                tokio::spawn(async move {
                    // The asker has stopped waiting if nobody takes the answer.
                    let _ = answer.send(backend.answer(ask).await.encode());
                });
            }
            Some(call) = api.recv() => {
                tokio::spawn(native::answer(router.clone(), call));
            }
            else => return,
        }
    }
}

struct Live {
    node: Node,
    webrtc: WebRtc,
    passwords: Passwords,
    door: Door,
    going: Going,
    legs: Mutex<BTreeMap<String, Leg>>,
}

struct Leg {
    encoder: EncoderId,
    principal: Principal,
    opened: Instant,
    playing: bool,
}

/// A hard limit, as a condition of taking more.
fn within(name: &'static str, count: usize, most: usize) -> Check {
    let error = (count >= most).then(|| format!("{count} of {most}: this node takes no more"));
    Check::new(name, error)
}

impl Live {
    fn own_viewers(&self, encoder: Option<EncoderId>) -> Vec<ViewerView> {
        let view = self.node.view();
        let wanted = |id: &EncoderId| encoder.is_none_or(|wanted| wanted == *id);
        let name = |id: EncoderId| {
            let found = view.encoders.iter().find(|encoder| encoder.id == id);
            found.map(|encoder| encoder.name.clone()).unwrap_or_default()
        };
        let node = self.node.id();
        let legs = self.legs();
        let browsers =
            legs.values().filter(|leg| leg.playing && wanted(&leg.encoder)).map(|leg| ViewerView {
                encoder: leg.encoder,
                name: name(leg.encoder),
                node,
                protocol: "webrtc",
                principal: leg.principal.name.clone(),
                since_s: leg.opened.elapsed().as_secs(),
            });
        let native = self.node.native_viewers();
        let native = native.into_iter().filter(|(id, ..)| wanted(id));
        let native = native.map(|(encoder, _, principal, since)| ViewerView {
            encoder,
            name: name(encoder),
            node,
            protocol: "quic",
            principal,
            since_s: since.elapsed().as_secs(),
        });
        browsers.chain(native).collect()
    }

    fn legs(&self) -> MutexGuard<'_, BTreeMap<String, Leg>> {
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the stream can be had, as far as is known now.
    fn judge(&self, encoder: EncoderId) -> Result<(), Failed> {
        let view = self.node.view();
        let found = view.encoders.iter().find(|view| view.id == encoder);
        match found {
            None => Err(Failed {
                status: 404,
                reason: "no encoder of that name is known".into(),
                retry_after: None,
            }),
            Some(found) if found.state == EncoderState::NoSignal => Err(Failed {
                status: 409,
                reason: format!(
                    "{} has no signal: {}",
                    found.name,
                    found.reason.as_deref().unwrap_or("no reason given")
                ),
                retry_after: Some(2),
            }),
            Some(found) if found.native_only => Err(Failed {
                status: 415,
                reason: found.reason.clone().unwrap_or_default(),
                retry_after: None,
            }),
            Some(_) => Ok(()),
        }
    }
}

#[async_trait]
impl Backend for Live {
    fn view(&self) -> Arc<ClusterView> {
        self.node.view()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.node.changes()
    }

    fn draining(&self) -> bool {
        self.node.draining()
    }

    fn going(&self) -> &Going {
        &self.going
    }

    fn turned(&self) -> Duration {
        self.node.turned()
    }

    fn checks(&self) -> Vec<Check> {
        let totals = self.node.totals();
        let error = totals.store_error.as_ref().map(|error| error.to_string());
        let view = self.node.view();
        let out = view.outcasts.iter().find(|out| out.node == view.node);
        let skew = Duration::from_millis(totals.clock_skew_ms.unsigned_abs());
        let side = if totals.clock_skew_ms < 0 { "behind" } else { "ahead of" };
        let warning = (skew > SKEW_ALARM).then(|| {
            format!("this node's clock is {} s {side} the mesh's; set it", skew.as_secs())
        });
        vec![
            Check::new("member", out.map(|out| out.why.clone())),
            Check::new("store", error),
            Check { name: "clock", error: None, warning },
            within("viewers", self.webrtc.legs(), MAX_LEGS),
            within("clients", totals.sessions, SESSIONS_MAX),
        ]
    }

    fn authorise(&self, remote: IpAddr, token: Option<&str>) -> Result<Principal, Denied> {
        match self.node.authenticate(remote.is_loopback(), token) {
            Ok(principal) => Ok(principal),
            Err(denied) => {
                let bad_credential = denied != admission::Denied::NoCredential;
                let counter = match bad_credential {
                    true => &self.door.bad_credential,
                    false => &self.door.no_credential,
                };
                counter.fetch_add(1, Ordering::Relaxed);
                Err(Denied { bad_credential, reason: denied.to_string() })
            }
        }
    }

    fn rights(&self) -> RwLockReadGuard<'_, Rights> {
        self.node.rights()
    }

    fn rights_changes(&self) -> watch::Receiver<u64> {
        self.node.rights_changes()
    }

    fn mesh_ms(&self) -> u64 {
        self.node.mesh_time()
    }

    fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    fn session_token(&self, account: AccountId, lifetime: Duration) -> Option<(String, u64)> {
        self.node.session_token(account, lifetime)
    }

    fn webrtc(&self) -> &WebRtc {
        &self.webrtc
    }

    async fn signal(self: Arc<Self>, to: NodeId, offer: Offer) -> Result<SdpAnswer, Failed> {
        if to == self.node.id() {
            return leg::accept(self, &offer);
        }
        match self.question(to, &Ask::Offer(offer), ASK_TIMEOUT).await? {
            Answer::Sdp(answer) => Ok(answer),
            _ => Err(unreachable("that node answered something else".into())),
        }
    }

    fn publish(self: Arc<Self>, publication: Publication) -> Result<SdpAnswer, Failed> {
        let publisher = self.node.publisher(publication.remote);
        publisher::accept(self, publisher, publication)
    }

    async fn play(&self, encoder: EncoderId) -> Result<Feed, Failed> {
        let mut changes = self.node.changes();
        let deadline = tokio::time::Instant::now() + HOLD;
        while let Err(failed) = self.judge(encoder) {
            if failed.retry_after.is_none() && failed.status == 415 {
                return Err(failed);
            }
            // A stream that is about to come: held, not refused.
            let changed = tokio::time::timeout_at(deadline, changes.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return Err(failed);
            }
        }
        let (start, frames, ticket) = self.node.subscribe(encoder).split();
        Ok(Feed { start, frames, hold: Box::new(ticket) })
    }

    fn request_keyframe(&self, encoder: EncoderId) {
        self.node.hubs().hub(encoder).request_keyframe();
    }

    fn leg_changed(&self, leg: &str, change: LegChange<'_>) {
        let mut legs = self.legs();
        match change {
            LegChange::Opened(encoder, principal) => {
                let (principal, opened) = (principal.clone(), Instant::now());
                legs.insert(leg.to_owned(), Leg { encoder, principal, opened, playing: false });
            }
            LegChange::Playing(playing) => {
                if let Some(leg) = legs.get_mut(leg) {
                    leg.playing = playing;
                }
            }
            LegChange::Closed => drop(legs.remove(leg)),
        }
    }

    fn invite(&self, terms: InviteTerms) -> Result<Invited, Failed> {
        Ok(match terms.client {
            Some(domain) => {
                let (text, id, expires) = self.node.enrol(terms.lifetime, domain);
                Invited { text, enrolment: Some((id, expires)) }
            }
            None => {
                let text = self.node.invite(terms.uses, terms.lifetime);
                Invited { text, enrolment: None }
            }
        })
    }

    fn redirect_token(
        &self,
        node: NodeId,
        encoder: EncoderId,
        verb: &'static str,
        principal: &Principal,
    ) -> String {
        let redirects = if verb == "view" { &self.door.redirects } else { &self.door.sent_on };
        redirects.fetch_add(1, Ordering::Relaxed);
        self.node.redirect_token(node, encoder, verb, principal)
    }

    fn check_redirect(&self, token: &str, encoder: EncoderId, verb: &str) -> Option<Principal> {
        let principal = self.node.check_redirect(token, encoder, verb);
        if principal.is_none() {
            self.door.bad_redirect.fetch_add(1, Ordering::Relaxed);
        }
        principal
    }

    async fn viewers(&self, encoder: Option<EncoderId>) -> ViewersView {
        let as_json = |own: Vec<ViewerView>| -> Vec<serde_json::Value> {
            own.iter().filter_map(|viewer| serde_json::to_value(viewer).ok()).collect()
        };
        let mut all = ViewersView { viewers: as_json(self.own_viewers(encoder)), missing: vec![] };
        let view = self.node.view();
        let others = view.nodes.iter().filter(|node| {
            node.node != view.node
                && matches!(
                    node.state,
                    crate::cluster::Liveness::Up | crate::cluster::Liveness::Suspect
                )
        });
        let asks = others.map(|node| async {
            let ask = Ask::Viewers(wire::AskViewers { encoder });
            (node.node, self.node.ask(node.node, &ask, ASK_TIMEOUT).await)
        });
        for (node, answer) in futures::future::join_all(asks).await {
            let list = match answer.as_deref().map(Answer::decode) {
                Ok(Ok(Answer::Viewers(list))) => serde_json::from_str(&list.json).ok(),
                _ => None,
            };
            match list {
                Some(list) => all.viewers.extend::<Vec<serde_json::Value>>(list),
                None => all.missing.push(node),
            }
        }
        all
    }

    async fn revoke(&self, node: NodeId, reason: String) -> Result<(), NotDone> {
        self.node.revoke(node, reason).await
    }

    async fn readmit(&self, node: NodeId) -> Result<(), NotDone> {
        self.node.readmit(node).await
    }

    async fn rotate(&self) -> Result<(), NotDone> {
        self.node.rotate().await
    }

    async fn move_encoder(&self, home: NodeId, wish: AskMove) -> Result<Moved, Failed> {
        self.moved_at(home, wish).await
    }

    async fn demand(&self) -> Demand {
        self.node.demand().await.unwrap_or_default()
    }

    async fn drain_state(&self, node: NodeId) -> Result<serde_json::Value, Failed> {
        self.drained_at(node).await
    }

    async fn write(&self, write: Write) -> Result<Receipt, Refusal> {
        self.node.write(write).await
    }

    async fn backup(&self) -> Result<(std::fs::File, u64), String> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = self.node.data().join(format!("backup-{number}.part"));
        self.node.backup(path.clone()).await.map_err(|error| error.to_string())?;
        let opened = std::fs::File::open(&path).and_then(|file| {
            // Its space is free again once it was sent, whatever happens meanwhile.
            std::fs::remove_file(&path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        });
        opened.map_err(|error| error.to_string())
    }

    async fn record(&self, key: Key) -> Option<Record> {
        self.records(vec![key]).await.pop()?
    }

    async fn records(&self, keys: Vec<Key>) -> Vec<Option<Record>> {
        self.node.records(&keys).await
    }

    fn record_changes(&self) -> RecordChanges {
        self.node.record_changes()
    }

    async fn audit(&self, before: Option<AuditCursor>, limit: usize) -> Vec<Audit> {
        self.node.audit(before, limit).await
    }

    async fn has_write(&self, version: (ActorId, u64), within: Duration) -> bool {
        self.node.has_write(version, within).await
    }

    fn metrics(&self) -> MetricsSnapshot {
        let mut viewers = BTreeMap::from([("webrtc", 0), ("quic", 0)]);
        for viewer in self.own_viewers(None) {
            *viewers.entry(viewer.protocol).or_insert(0) += 1;
        }
        MetricsSnapshot {
            counters: counters(&self.node, &self.door),
            viewers,
            store_bytes: self.node.totals().store_bytes,
            clock_skew_ms: self.node.totals().clock_skew_ms,
            failovers: Some(self.node.failovers()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_limit_is_reached_when_nothing_more_is_taken() {
        assert_eq!(within("viewers", MAX_LEGS - 1, MAX_LEGS).error, None);
        let error = within("viewers", MAX_LEGS, MAX_LEGS).error.unwrap();
        assert!(error.contains("2000 of 2000"), "{error}");
    }
}
