//! What drives a publisher's leg: claims its encoder for this node once media can flow, says what
//! becomes of its pictures, and passes requests for keyframes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::backend::{Backend, Principal, Publication};
use super::leg::LEAVING;
use super::whip::may_publish;
use crate::directory::SourceState;
use crate::id::EncoderId;
use crate::node::Publisher;
use crate::webrtc::{Accepted, CLOSED_HERE, LegEvent, LegHandle};
use crate::wire::{Confirm, Failed, Message, NodeMessage, SdpAnswer};

/// A publisher that sends no picture for this long has no signal: longer than a screen that does
/// not change is silent.
const SILENT: Duration = Duration::from_secs(3);

/// A picture that comes this long after this node stood still did not wait for it meanwhile.
const CURRENT: Duration = Duration::from_secs(1);

/// Sets a publisher's leg up at this node and starts its driver.
pub(super) fn accept(
    backend: Arc<dyn Backend>,
    publisher: Publisher,
    publication: Publication,
) -> Result<SdpAnswer, Failed> {
    let accepted = backend
        .webrtc()
        .accept_publisher(&publication.sdp, publisher.intake())
        .map_err(|error| Failed {
            status: error.status(),
            reason: error.to_string(),
            retry_after: (error.status() == 503).then_some(5),
        })?;
    let answer =
        SdpAnswer { sdp: accepted.answer_sdp.clone(), leg: accepted.leg.as_str().to_owned() };
    let Publication { encoder, name, principal, .. } = publication;
    let driver = Driver {
        backend,
        encoder,
        name,
        principal,
        handle: accepted.handle.clone(),
        publisher,
        claimed: false,
        told: SourceState::Ready,
        pictured: Instant::now(),
        question: None,
    };
    tokio::spawn(driver.run(accepted));
    Ok(answer)
}

struct Driver {
    backend: Arc<dyn Backend>,
    encoder: EncoderId,
    name: String,
    principal: Principal,
    handle: LegHandle,
    publisher: Publisher,
    /// The encoder is at home here.
    claimed: bool,
    /// What was said of its pictures.
    told: SourceState,
    /// When the last one came.
    pictured: Instant,
    /// Asked after this node stood still, and when.
    question: Option<(Confirm, Instant)>,
}

impl Driver {
    async fn run(mut self, accepted: Accepted) {
        let Accepted { mut events, .. } = accepted;
        let mut rights = self.backend.rights_changes();
        rights.borrow_and_update();
        let going = self.backend.clone();
        let opened = Instant::now();
        let (reason, refused) = loop {
            let silent = tokio::time::Instant::from_std(self.pictured + SILENT);
            tokio::select! {
                event = events.recv() => match event {
                    Some(LegEvent::Connected) => self.claim().await,
                    Some(LegEvent::Closed(reason)) => break (reason, false),
                    Some(_) => {}
                    None => break ("its task ended".to_owned(), false),
                },
                message = self.publisher.messages.recv() => match message {
                    Some(bytes) => if let Some(reason) = self.obey(&bytes) {
                        break (reason, true);
                    },
                    None => break ("this node let go of it".to_owned(), true),
                },
                Ok(()) = self.publisher.pictures.changed() => self.on_picture().await,
                () = going.going().send_away() => break (LEAVING.to_owned(), true),
                Ok(()) = rights.changed() => {
                    if !may_publish(&*self.backend, &self.principal, self.encoder) {
                        let counters = self.backend.webrtc().counters();
                        counters.dismissed.fetch_add(1, Ordering::Relaxed);
                        break ("it may not be sent any more: rights were changed".to_owned(), true);
                    }
                }
                () = tokio::time::sleep_until(silent), if self.told_pictures() => {
                    let seconds = SILENT.as_secs();
                    let why = format!("the publisher sends no picture: none came for {seconds} s");
                    self.tell(SourceState::NoSignal(why)).await;
                }
            }
        };
        if refused {
            // A leg that does not take the word ends when its handle is dropped.
            self.handle.close();
        }
        self.log_end(opened.elapsed(), &reason);
        if reason == CLOSED_HERE {
            self.publisher.goodbye("its publisher ended it".to_owned()).await;
        }
        self.publisher.closed().await;
    }

    /// Claimed not before media can flow: an offer that comes to nothing takes no stream away.
    async fn claim(&mut self) {
        self.claimed = true;
        self.pictured = Instant::now();
        let (name, principal) = (self.name.clone(), self.principal.clone());
        self.publisher.publish(self.encoder, name, principal).await;
    }

    fn told_pictures(&self) -> bool {
        self.claimed && !matches!(self.told, SourceState::NoSignal(_))
    }

    /// What the node says; a reason to end, if it is one.
    fn obey(&mut self, bytes: &[u8]) -> Option<String> {
        match NodeMessage::decode(bytes).ok()? {
            NodeMessage::Keyframe(_) => {
                // Full: whoever lacks one asks again.
                self.handle.request_keyframe();
                None
            }
            NodeMessage::Confirm(question) => {
                self.question = Some((question, Instant::now()));
                None
            }
            NodeMessage::Rejected(rejected) => Some(rejected.reason),
            NodeMessage::Failed(failed) => Some(failed.reason),
            NodeMessage::Goodbye(goodbye) => Some(goodbye.reason),
            _ => None,
        }
    }

    async fn on_picture(&mut self) {
        self.pictured = Instant::now();
        if let Some((question, asked)) = self.question.take() {
            if asked.elapsed() >= CURRENT {
                self.publisher.confirm(question).await;
            } else {
                self.question = Some((question, asked));
            }
        }
        let native_only = self.publisher.pictures.borrow_and_update().native_only.clone();
        self.tell(native_only.map_or(SourceState::Ready, SourceState::NativeOnly)).await;
    }

    async fn tell(&mut self, source: SourceState) {
        if self.claimed && self.told != source {
            self.told = source.clone();
            self.publisher.source(source).await;
        }
    }

    fn log_end(&self, lasted: Duration, reason: &str) {
        let packets = self.handle.stats().packets_in.load(Ordering::Relaxed);
        let dur_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            event = "publisher.ended", protocol = "webrtc", encoder = self.name,
            id = %self.encoder, account = self.principal.name, packets, dur_ms, reason,
            "a publisher's leg ended"
        );
    }
}
