//! A backup, made while everything goes on.

use std::io::Read as _;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::auth::Caller;
use super::problem::Problem;
use crate::access::Who;

/// Bytes that are read and sent at once.
const CHUNK: usize = 64 << 10;

/// `POST /api/v1/backup`: for whoever is at the node's own machine, since it holds every secret's
/// hash.
pub(super) async fn backup(State(app): State<App>, caller: Caller) -> Result<Response, Problem> {
    if caller.principal.who != Who::Local {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "a backup is made on the node's own machine only: run roost backup there",
        ));
    }
    let (file, length) = app.backend.backup().await.map_err(|why| {
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, format!("no backup was made: {why}"))
    })?;
    tracing::info!(event = "backup.made", bytes = length, "a backup was made");
    let chunks = futures::stream::unfold(file, |mut file| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; CHUNK];
            let read = file.read(&mut chunk).map(|bytes| {
                chunk.truncate(bytes);
                chunk
            });
            (read, file)
        });
        match read.await {
            Ok((Ok(chunk), _)) if chunk.is_empty() => None,
            Ok((chunk, file)) => Some((chunk, file)),
            Err(_stopping) => None,
        }
    });
    let mut answer = Body::from_stream(chunks).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    Ok(answer)
}
