//! A list that goes on: a snapshot, then everything that changes in it, as far as whoever asks may
//! see it. What comes into their sight or goes out of it, by a change of rights or of itself, is
//! told like what is made or removed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use futures::stream::{self, Stream};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::problem::Problem;
use super::read::{Filter, items, page};
use super::versions::fresh;
use super::{Asked, live};
use crate::access::Who;
use crate::accounts::{Changed, Key, Kind};
use crate::id::RecordId;
use crate::node::{RecordChange, RecordChanges};

/// Time between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Items in one event of a snapshot.
const CHUNK: usize = 100;
/// A change is told at once, and those that follow it within this time are one.
const PAUSE: Duration = Duration::from_millis(50);
/// Changes taken together, beyond which the rest has its turn later.
const BATCH: usize = 1_000;

type Events = Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>>;

/// `GET /api/v1/{nouns}` with `Accept: text/event-stream`.
pub(in crate::http) async fn watch(kind: Kind, asked: Asked) -> Result<Response, Problem> {
    let filter = Filter::of(kind, &asked)?;
    let fresh = fresh(&asked).await?;
    let node = asked.app.backend.view().node;
    let watched = Watch {
        // Before the snapshot, so that nothing is missed in between.
        records: asked.app.backend.record_changes(),
        seen: asked.app.backend.changes(),
        facts: BTreeMap::new(),
        told: BTreeSet::new(),
        after: None,
        step: Step::Snapshot,
        followed: None,
        out: VecDeque::new(),
        id: format!("{node}"),
        sent: 0,
        kind,
        filter,
        asked,
    };
    let events = stream::unfold(watched, |mut watch| async move {
        loop {
            if let Some(event) = watch.out.pop_front() {
                return Some((Ok(event), watch));
            }
            watch.turn().await?;
        }
    });
    let events: Events = Box::pin(events);
    let keep = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    Ok(fresh.mark(Sse::new(events).keep_alive(keep).into_response()))
}

enum Step {
    /// Tells what there is, a part at a time.
    Snapshot,
    /// Tells what changes.
    Follow,
    /// Looks at everything again, since rights changed: a part at a time.
    Judge,
}

struct Watch {
    asked: Asked,
    kind: Kind,
    filter: Filter,
    records: RecordChanges,
    seen: watch::Receiver<u64>,
    /// What was told of what this node sees.
    facts: BTreeMap<RecordId, String>,
    /// What they know of.
    told: BTreeSet<RecordId>,
    /// How far a snapshot or another look is.
    after: Option<RecordId>,
    step: Step,
    /// When something was told last.
    followed: Option<tokio::time::Instant>,
    out: VecDeque<Event>,
    id: String,
    sent: u64,
}

impl Watch {
    /// The next thing; nothing if there is nobody left to tell.
    async fn turn(&mut self) -> Option<()> {
        if !self.is_somebody() {
            return None;
        }
        match self.step {
            Step::Snapshot => self.snapshot().await,
            Step::Follow => self.follow().await?,
            Step::Judge => self.judge().await,
        }
        Some(())
    }

    /// Whether whoever asked may still do so.
    fn is_somebody(&self) -> bool {
        let backend = &self.asked.app.backend;
        backend.rights().stands(&self.asked.caller.principal, backend.mesh_ms())
    }

    async fn snapshot(&mut self) {
        let ids = page(&self.asked, &self.filter, self.after, CHUNK).await;
        let found = items(&self.asked, &self.filter, &ids).await;
        self.told.extend(found.iter().map(|(id, _)| *id));
        let items: Vec<Value> = found.into_iter().map(|(_, item)| item).collect();
        let more = ids.len() == CHUNK;
        self.say("snapshot", &json!({ "items": items, "more": more }));
        self.after = ids.last().copied().filter(|_| more);
        if !more {
            self.note_facts();
            self.step = Step::Follow;
        }
    }

    async fn follow(&mut self) -> Option<()> {
        let live = !live::facts_of(self.kind).is_empty();
        let mut dirty = BTreeSet::new();
        let first = tokio::select! {
            change = self.records.next() => Some(change),
            changed = self.seen.changed(), if live => {
                changed.ok()?;
                None
            }
        };
        if let Some(last) = self.followed {
            tokio::time::sleep_until(last + PAUSE).await;
        }
        self.followed = Some(tokio::time::Instant::now());
        let mut next = first;
        let mut judged = false;
        for _ in 0..BATCH {
            match next {
                Some(Some(RecordChange::Record(Changed { key, rights }))) => {
                    judged |= rights && self.decides(key);
                    if key.kind == self.kind {
                        dirty.insert(key.id);
                    }
                }
                // Too much at once: from the beginning.
                Some(Some(RecordChange::Lost(_))) => {
                    self.begin_again();
                    return Some(());
                }
                Some(None) => return None,
                None => {}
            }
            next = self.records.next().now_or_never();
            if next.is_none() {
                break;
            }
        }
        if live {
            self.seen.borrow_and_update();
            dirty.extend(self.note_facts());
        }
        self.tell(&dirty).await;
        if judged {
            (self.step, self.after) = (Step::Judge, None);
        }
        Some(())
    }

    /// Whether a record says who may see what.
    fn decides(&self, key: Key) -> bool {
        match key.kind {
            Kind::DOMAIN | Kind::GROUP | Kind::RULE => true,
            Kind::ACCOUNT => matches!(self.asked.who(), Who::Account(me) if me.0 == key.id.0),
            // Nobody's rooms and accounts depend on where an encoder is, but names of domains do.
            Kind::ENCODER => self.kind == Kind::DOMAIN,
            _ => false,
        }
    }

    fn begin_again(&mut self) {
        self.told.clear();
        (self.step, self.after) = (Step::Snapshot, None);
        self.say("reset", &json!({}));
    }

    /// Tells what became of these.
    async fn tell(&mut self, ids: &BTreeSet<RecordId>) {
        let takes: Vec<RecordId> = {
            let view = self.asked.app.backend.view();
            let rights = self.asked.app.backend.rights();
            let reach = super::reach::Reach::new(&rights, &view, self.asked.who());
            ids.iter().copied().filter(|id| self.filter.takes(&reach, *id)).collect()
        };
        let found: BTreeMap<RecordId, Value> =
            items(&self.asked, &self.filter, &takes).await.into_iter().collect();
        for id in ids {
            match found.get(id) {
                Some(item) => {
                    self.told.insert(*id);
                    self.say("changed", item);
                }
                None if self.told.remove(id) => self.say("removed", &json!({ "id": id })),
                None => {}
            }
        }
    }

    /// Looks at the next part of everything.
    async fn judge(&mut self) {
        let ids = page(&self.asked, &self.filter, self.after, CHUNK).await;
        let last = ids.last().copied().filter(|_| ids.len() == CHUNK);
        let now: BTreeSet<RecordId> = ids.into_iter().collect();
        let within = |id: &RecordId| {
            self.after.is_none_or(|after| *id > after) && last.is_none_or(|last| *id <= last)
        };
        let told: BTreeSet<RecordId> = self.told.iter().copied().filter(within).collect();
        let differ: BTreeSet<RecordId> = told.symmetric_difference(&now).copied().collect();
        self.tell(&differ).await;
        self.after = last;
        if last.is_none() {
            self.step = Step::Follow;
        }
    }

    /// What this node sees otherwise than it was told.
    fn note_facts(&mut self) -> BTreeSet<RecordId> {
        let view = self.asked.app.backend.view();
        let now: BTreeMap<RecordId, String> = live::ids(&view, self.kind)
            .into_iter()
            .filter_map(|id| {
                let facts = live::facts(&view, Key { kind: self.kind, id })?;
                Some((id, serde_json::to_string(&facts).ok()?))
            })
            .collect();
        let all: BTreeSet<RecordId> = now.keys().chain(self.facts.keys()).copied().collect();
        let differs = |id: &RecordId| now.get(id) != self.facts.get(id);
        let differ = all.into_iter().filter(differs).collect();
        self.facts = now;
        differ
    }

    fn say(&mut self, name: &'static str, data: &Value) {
        self.sent += 1;
        let event = Event::default().event(name).id(format!("{}:{}", self.id, self.sent));
        self.out.push_back(event.data(data.to_string()));
    }
}
