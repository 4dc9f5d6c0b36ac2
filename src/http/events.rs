//! Event streams: a snapshot, then every change, and a heartbeat in between.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::stream::{self, Stream};
use serde::Serialize;
use tokio::sync::watch;

use super::App;
use super::auth::Caller;
use super::backend::{Backend, Principal};
use super::place::{MeshState, StreamState};
use super::visible::{self, Eyes};
use crate::cluster::ClusterView;

/// Time between heartbeats: a page takes three missing ones for a dead node.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Least time between two states of the whole mesh: a burst of changes is one change.
const MESH_PAUSE: Duration = Duration::from_millis(100);

type Events = Sse<axum::response::sse::KeepAliveStream<EventStream>>;
type EventStream = std::pin::Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>>;

/// `GET /api/v1/streams/{name}/events`: where one stream is.
pub(super) async fn stream(
    State(app): State<App>,
    Path(name): Path<String>,
    caller: Caller,
) -> Events {
    let render = move |eyes: &Eyes<'_>, view: &ClusterView| StreamState::of(eyes, view, &name);
    follow(app.backend, caller.principal, "place", Duration::ZERO, render)
}

/// `GET /api/v1/events`: where all streams are.
pub(super) async fn mesh(State(app): State<App>, caller: Caller) -> Events {
    follow(app.backend, caller.principal, "mesh", MESH_PAUSE, MeshState::of)
}

struct Follow<F> {
    backend: Arc<dyn Backend>,
    principal: Principal,
    changes: watch::Receiver<u64>,
    rights: watch::Receiver<u64>,
    render: F,
    told: String,
    first: bool,
    ended: bool,
}

impl<F> Follow<F> {
    /// Whether there may be news: nothing once the node ends.
    async fn changed(&mut self, pause: Duration) -> Option<()> {
        tokio::select! {
            changed = self.rights.changed() => changed.ok(),
            changed = async {
                tokio::time::sleep(pause).await;
                self.changes.changed().await
            } => changed.ok(),
        }
    }

    /// The last event of somebody who is nobody any more.
    fn end(&mut self) -> Option<Event> {
        let now = self.backend.mesh_ms();
        let stands = self.backend.rights().stands(&self.principal, now);
        self.ended |= !stands;
        let reason = r#"{"reason":"this sign-in is over: its account or password was changed"}"#;
        (!stands).then(|| Event::default().event("end").data(reason))
    }
}

fn follow<T: Serialize, F: Fn(&Eyes<'_>, &ClusterView) -> T + Send + Sync + 'static>(
    backend: Arc<dyn Backend>,
    principal: Principal,
    name: &'static str,
    pause: Duration,
    render: F,
) -> Events {
    let (changes, rights) = (backend.changes(), backend.rights_changes());
    let told = String::new();
    let state =
        Follow { backend, principal, changes, rights, render, told, first: true, ended: false };
    let events = stream::unfold(state, move |mut state| async move {
        loop {
            if state.ended {
                return None;
            }
            if !state.first {
                state.changed(pause).await?;
            }
            state.first = false;
            state.changes.borrow_and_update();
            state.rights.borrow_and_update();
            if let Some(end) = state.end() {
                return Some((Ok(end), state));
            }
            let view = state.backend.view();
            let seen = visible::with(&*state.backend, &state.principal, |eyes| {
                (state.render)(eyes, &view)
            });
            let text = serde_json::to_string(&seen).ok()?;
            if text != state.told {
                let event = Event::default().event(name).data(&text);
                state.told = text;
                return Some((Ok(event), state));
            }
        }
    });
    let events: EventStream = Box::pin(events);
    Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("heartbeat"))
}
