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
use super::backend::Backend;
use super::place::{MeshState, StreamState};
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
    _caller: Caller,
) -> Events {
    follow(app.backend, "place", Duration::ZERO, move |view| StreamState::of(view, &name))
}

/// `GET /api/v1/events`: where all streams are.
pub(super) async fn mesh(State(app): State<App>, _caller: Caller) -> Events {
    follow(app.backend, "mesh", MESH_PAUSE, MeshState::of)
}

struct Follow<F> {
    backend: Arc<dyn Backend>,
    changes: watch::Receiver<u64>,
    render: F,
    told: String,
    first: bool,
}

fn follow<T: Serialize, F: Fn(&ClusterView) -> T + Send + Sync + 'static>(
    backend: Arc<dyn Backend>,
    name: &'static str,
    pause: Duration,
    render: F,
) -> Events {
    let changes = backend.changes();
    let state = Follow { backend, changes, render, told: String::new(), first: true };
    let events = stream::unfold(state, move |mut state| async move {
        loop {
            if !state.first {
                tokio::time::sleep(pause).await;
                state.changes.changed().await.ok()?;
            }
            state.first = false;
            state.changes.borrow_and_update();
            let text = serde_json::to_string(&(state.render)(&state.backend.view())).ok()?;
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
