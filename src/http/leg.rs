//! What drives a browser's leg: plays and stops on the page's word, forwards its offers to other
//! nodes, and tells it where its stream is, so that the page needs no other connection to learn
//! of a failure or to prepare for the next.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::backend::{Backend, LegChange, Principal};
use super::place::StreamState;
use super::visible;
use crate::cluster::{ClusterView, EncoderView, Liveness};
use crate::id::{EncoderId, NodeId};
use crate::webrtc::{Accepted, Feed, LegEvent, LegHandle};
use crate::wire::{Failed, Offer, SdpAnswer};

/// Label of the reliable channel: offers, answers, places.
pub const SIGNAL: &str = "signal";
/// Label of the unordered channel without retransmission: `play`, repeated until a frame comes.
pub const PLAY: &str = "play";

/// Offers of one page on their way to other nodes: it needs one at a time.
const MAX_OFFERS: usize = 4;

/// After a stream could not be had, the page's repeated wishes are not passed on for so long.
const PLAY_HOLD: Duration = Duration::from_millis(250);

/// What a page says on its channels.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
pub enum PageMessage {
    /// Tell me where the stream is, now and whenever that changes.
    Hello,
    /// Send the stream. Repeated with the same number until frames come.
    Play {
        /// Rises with every new wish of the page.
        epoch: u64,
    },
    /// Send nothing any more, whatever `play` up to this number may still arrive.
    Stop {
        /// The page's last wish; 0 if it does not say.
        #[serde(default)]
        epoch: u64,
    },
    /// Set up another leg.
    Offer {
        /// Comes back in the answer.
        id: u64,
        /// `home`, `next`, `here` or a node's id.
        to: String,
        /// The offer.
        sdp: String,
        /// A standby: silent until the page says `play` on it.
        warm: bool,
    },
}

impl PageMessage {
    /// Reads a message of a data channel, JSON; `None` if it is none that is known here.
    pub fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

/// What a page is told; places are [`StreamState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "t", rename_all = "lowercase")]
enum NodeMessage {
    /// To an offer.
    Answer { id: u64, sdp: String, leg: String, node: NodeId },
    /// To an offer, or (without id) to a `play`.
    Failed {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        status: u16,
        reason: String,
    },
}

/// What a page gets to hear before its leg ends for want of a right.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Sets a leg up at this node, whoever's page asked for it, and starts its driver. Whether the
/// viewer may is judged here, by what this node knows, whatever others found.
pub fn accept(backend: Arc<dyn Backend>, offer: &Offer) -> Result<SdpAnswer, Failed> {
    // Before they are asked: no change is missed.
    let rights = backend.rights_changes();
    if !visible::may_watch(&*backend, &offer.principal, offer.encoder) {
        backend.webrtc().counters().forbidden.fetch_add(1, Ordering::Relaxed);
        let reason = "no such stream is known here; it may not be yours to watch".to_owned();
        return Err(Failed { status: 404, reason, retry_after: None });
    }
    // A silent leg may come: it costs nothing, and its page turns elsewhere in time.
    if backend.draining() && !offer.warm && others_stay(&backend.view()) {
        backend.webrtc().counters().leaving.fetch_add(1, Ordering::Relaxed);
        return Err(leaving());
    }
    let accepted = backend.webrtc().accept(&offer.sdp).map_err(|error| Failed {
        status: error.status(),
        reason: error.to_string(),
        retry_after: (error.status() == 503).then_some(5),
    })?;
    let answer =
        SdpAnswer { sdp: accepted.answer_sdp.clone(), leg: accepted.leg.as_str().to_owned() };
    backend.leg_changed(&answer.leg, LegChange::Opened(offer.encoder, &offer.principal));
    let (encoder, warm, principal) = (offer.encoder, offer.warm, offer.principal.clone());
    tokio::spawn(drive(backend, encoder, warm, principal, rights, accepted));
    Ok(answer)
}

/// Why legs of others end at a node that goes.
pub(super) const LEAVING: &str = "this node is shutting down: whoever asks again is sent on";

/// Why a node that is about to go takes no viewers.
pub(super) fn leaving() -> Failed {
    let reason = "this node is leaving; ask another, or this one again in a moment".to_owned();
    Failed { status: 503, reason, retry_after: Some(1) }
}

/// Whether there is a node to turn to instead of this one, which is being emptied or goes.
fn others_stay(view: &ClusterView) -> bool {
    let mut others = view.nodes.iter().filter(|node| node.node != view.node);
    others.any(|node| node.state == Liveness::Up && !node.draining)
}

/// Where a viewer is served best: at home, or at next while home is leaving.
pub(super) fn host(view: &ClusterView, of: &EncoderView) -> Option<NodeId> {
    let node = |id: NodeId| view.nodes.iter().find(|node| node.node == id);
    let home = of.home?;
    let leaves = node(home).is_some_and(|home| home.draining);
    let stays = |next: &NodeId| {
        node(*next).is_some_and(|next| next.state == Liveness::Up && !next.draining)
    };
    Some(of.next.filter(|next| leaves && stays(next)).unwrap_or(home))
}

/// The node that a page's word for one means at present.
pub(super) fn target(
    backend: &dyn Backend,
    encoder: EncoderId,
    word: &str,
) -> Result<NodeId, Failed> {
    let view = backend.view();
    let of = view.encoders.iter().find(|view| view.id == encoder);
    let missing = |what: &str| Failed {
        status: 409,
        reason: format!("the stream has no {what} at present; it will get one shortly"),
        retry_after: Some(1),
    };
    match word {
        "here" => Ok(view.node),
        "home" => of.and_then(|of| host(&view, of)).ok_or_else(|| missing("home")),
        "next" => of.and_then(|of| of.next).ok_or_else(|| missing("next")),
        id => id.parse().map_err(|_no_id| Failed {
            status: 400,
            reason: "a leg is asked for at `home`, `next`, `here` or a node's id".to_owned(),
            retry_after: None,
        }),
    }
}

type PlayResult = Pin<Box<dyn Future<Output = Result<Feed, Failed>> + Send>>;
type OfferResult = Pin<Box<dyn Future<Output = NodeMessage> + Send>>;

struct Driver {
    backend: Arc<dyn Backend>,
    encoder: EncoderId,
    principal: Principal,
    leg: String,
    handle: LegHandle,
    /// A player that talks to us, as opposed to one that just receives.
    page: bool,
    playing: bool,
    asked: Option<PlayResult>,
    /// Plays up to this number are void.
    stopped: u64,
    /// No new attempt before.
    hold: Option<Instant>,
    offers: FuturesUnordered<OfferResult>,
    /// The last place told.
    told: Option<String>,
}

/// Drives a leg to its end.
async fn drive(
    backend: Arc<dyn Backend>,
    encoder: EncoderId,
    warm: bool,
    principal: Principal,
    mut rights: watch::Receiver<u64>,
    accepted: Accepted,
) {
    let Accepted { leg, handle, mut events, .. } = accepted;
    let mut changes = backend.changes();
    let goer = backend.clone();
    let mut driver = Driver {
        backend,
        encoder,
        principal,
        leg: leg.as_str().to_owned(),
        handle,
        page: false,
        playing: false,
        asked: None,
        stopped: 0,
        hold: None,
        offers: FuturesUnordered::new(),
        told: None,
    };
    if !warm {
        // The stream may have to be woken, which takes about as long as the connection.
        driver.ask();
    }
    let opened = Instant::now();
    let reason = loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(LegEvent::Closed(reason)) => break reason,
                None => break "its task ended".to_owned(),
                Some(event) => driver.on_event(event),
            },
            result = answered(&mut driver.asked) => {
                if driver.on_feed(result).is_break() {
                    break "its stream was not taken".to_owned();
                }
            }
            Some(message) = driver.offers.next() => driver.send(&message),
            changed = rights.changed() => {
                if changed.is_err() {
                    break "the node ends".to_owned();
                }
                if !driver.may_stay() {
                    driver.dismiss();
                    tokio::time::sleep(LAST_WORDS).await;
                    break "its viewer may not watch it any more".to_owned();
                }
            }
            // Whoever cannot be moved is sent on while this node still answers.
            () = goer.going().send_away(), if !driver.page && !warm => {
                driver.handle.close();
                break LEAVING.to_owned();
            }
            changed = changes.changed(), if driver.page => {
                if changed.is_err() {
                    break "the node ends".to_owned();
                }
                driver.tell_place();
            }
        }
    };
    driver.log_end(opened.elapsed(), &reason);
    driver.backend.leg_changed(&driver.leg, LegChange::Closed);
}

async fn answered(asked: &mut Option<PlayResult>) -> Result<Feed, Failed> {
    match asked {
        Some(result) => {
            let result = result.await;
            *asked = None;
            result
        }
        None => std::future::pending().await,
    }
}

impl Driver {
    fn on_event(&mut self, event: LegEvent) {
        match event {
            LegEvent::Channel(label, text) => {
                self.page |= label == SIGNAL;
                if let Some(message) = PageMessage::read(&text) {
                    self.on_message(message);
                }
            }
            LegEvent::KeyframeWanted => self.backend.request_keyframe(self.encoder),
            LegEvent::FeedEnded => {
                self.set_playing(false);
                self.ask();
            }
            LegEvent::Connected | LegEvent::Closed(_) => {}
        }
    }

    fn on_message(&mut self, message: PageMessage) {
        match message {
            PageMessage::Hello => {
                self.told = None;
                self.tell_place();
            }
            PageMessage::Play { epoch } => {
                let held = self.hold.is_some_and(|until| Instant::now() < until);
                if epoch > self.stopped && !self.playing && self.asked.is_none() && !held {
                    self.ask();
                }
            }
            PageMessage::Stop { epoch } => {
                self.stopped = self.stopped.max(epoch);
                self.asked = None;
                self.handle.stop();
                self.set_playing(false);
            }
            PageMessage::Offer { id, to, sdp, warm } => self.on_offer(id, &to, sdp, warm),
        }
    }

    fn may_stay(&self) -> bool {
        visible::may_watch(&*self.backend, &self.principal, self.encoder)
    }

    /// The picture ends now, and the page hears why.
    fn dismiss(&mut self) {
        self.backend.webrtc().counters().dismissed.fetch_add(1, Ordering::Relaxed);
        self.asked = None;
        self.handle.stop();
        self.set_playing(false);
        let reason = "this stream may not be watched any more: rights were changed".to_owned();
        self.send(&NodeMessage::Failed { id: None, status: 403, reason });
    }

    fn on_offer(&mut self, id: u64, to: &str, sdp: String, warm: bool) {
        if self.offers.len() >= MAX_OFFERS {
            let reason = "too many offers at once; wait for an answer".to_owned();
            return self.send(&NodeMessage::Failed { id: Some(id), status: 429, reason });
        }
        let node = match target(&*self.backend, self.encoder, to) {
            Ok(node) => node,
            Err(Failed { status, reason, .. }) => {
                return self.send(&NodeMessage::Failed { id: Some(id), status, reason });
            }
        };
        let offer = Offer { encoder: self.encoder, sdp, warm, principal: self.principal.clone() };
        let backend = self.backend.clone();
        self.offers.push(Box::pin(async move {
            match backend.signal(node, offer).await {
                Ok(SdpAnswer { sdp, leg }) => NodeMessage::Answer { id, sdp, leg, node },
                Err(Failed { status, reason, .. }) => {
                    NodeMessage::Failed { id: Some(id), status, reason }
                }
            }
        }));
    }

    fn ask(&mut self) {
        let (backend, encoder) = (self.backend.clone(), self.encoder);
        self.asked = Some(Box::pin(async move { backend.play(encoder).await }));
    }

    /// Breaks if the leg has no use: a player that is no page does not ask again, but connects
    /// anew when its leg ends, and hears the reason.
    fn on_feed(&mut self, result: Result<Feed, Failed>) -> ControlFlow<()> {
        match result {
            Ok(feed) => {
                if self.handle.play(feed) {
                    self.set_playing(true);
                    return ControlFlow::Continue(());
                }
                tracing::debug!("a leg does not take its stream");
            }
            Err(Failed { status, reason, .. }) => {
                tracing::debug!(%reason, "a stream cannot be had for a browser");
                self.hold = Some(Instant::now() + PLAY_HOLD);
                if self.page {
                    self.send(&NodeMessage::Failed { id: None, status, reason });
                }
            }
        }
        if self.page { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn set_playing(&mut self, playing: bool) {
        if self.playing != playing {
            self.playing = playing;
            self.backend.leg_changed(&self.leg, LegChange::Playing(playing));
        }
    }

    /// One line per leg that carried a picture; standbys come and go unsaid.
    fn log_end(&self, lasted: Duration, reason: &str) {
        let stats = self.handle.stats();
        let frames = stats.frames_out.load(Ordering::Relaxed);
        if frames > 0 {
            let bytes = stats.bytes_out.load(Ordering::Relaxed);
            let dur_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
            let view = self.backend.view();
            let of = view.encoders.iter().find(|of| of.id == self.encoder);
            let encoder = of.map(|of| of.name.as_str());
            tracing::info!(
                event = "viewer.ended", protocol = "webrtc", encoder, id = %self.encoder,
                account = self.principal.name, frames, bytes, dur_ms, reason,
                "a viewer's leg ended"
            );
        }
    }

    fn tell_place(&mut self) {
        let view = self.backend.view();
        // A stream that nobody claims at present keeps the name it had: the page knows it.
        let Some(encoder) = view.encoders.iter().find(|of| of.id == self.encoder) else { return };
        let state = visible::with(&*self.backend, &self.principal, |eyes| {
            StreamState::of_encoder(eyes, &view, encoder)
        });
        let Ok(text) = serde_json::to_string(&state) else { return };
        if self.told.as_ref() != Some(&text) {
            self.handle.send_channel(SIGNAL, text.clone().into_bytes());
            self.told = Some(text);
        }
    }

    fn send(&self, message: &NodeMessage) {
        if let Ok(text) = serde_json::to_vec(message) {
            self.handle.send_channel(SIGNAL, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{CAM, FakeMesh};
    use super::super::tests::OFFER;
    use super::*;

    #[tokio::test]
    async fn a_leg_that_takes_no_stream_is_kept_only_if_a_page_can_ask_again() {
        let node = FakeMesh::start(1).await.node(0);
        for page in [true, false] {
            let Accepted { leg, handle, .. } = node.webrtc().accept(OFFER).unwrap();
            // Its task gets no turn in between: nobody takes the commands.
            while handle.stop() {}
            let mut driver = Driver {
                backend: node.clone(),
                encoder: CAM,
                principal: Principal::local(),
                leg: leg.as_str().to_owned(),
                handle,
                page,
                playing: false,
                asked: None,
                stopped: 0,
                hold: None,
                offers: FuturesUnordered::new(),
                told: None,
            };
            let (hold, frames) = tokio::sync::mpsc::channel(1);
            let feed = Feed { start: Vec::new(), frames, hold: Box::new(hold) };
            assert_eq!(driver.on_feed(Ok(feed)).is_continue(), page);
            assert!(!driver.playing);
        }
    }
}
