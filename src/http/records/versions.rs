//! Writes by name: whoever wrote something reads it at any node, or is told that it reads something
//! older.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use super::super::problem::Problem;
use super::{Asked, bad_request};
use crate::accounts::Receipt;

/// How many nodes are waited for.
pub(super) const ROOST_WAIT: HeaderName = HeaderName::from_static("roost-wait");
/// They were not as many in time.
pub(super) const ROOST_WAITED: HeaderName = HeaderName::from_static("roost-waited");
/// Names the write; whoever has it shows it.
pub(super) const ROOST_VERSION: HeaderName = HeaderName::from_static("roost-version");
/// Nodes that have the write on disk.
pub(super) const ROOST_NODES: HeaderName = HeaderName::from_static("roost-nodes");
/// The write that an answer is to include.
pub(super) const ROOST_MIN_VERSION: HeaderName = HeaderName::from_static("roost-min-version");
/// The answer does not.
pub(super) const ROOST_STALE: HeaderName = HeaderName::from_static("roost-stale");

/// How long a write that was seen elsewhere may take to come here: many round trips.
const MIN_VERSION_TIME: Duration = Duration::from_secs(2);
/// The longest wait for other nodes.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Waits for the write that the caller has seen already.
pub(super) async fn fresh(asked: &Asked) -> Result<Freshness, Problem> {
    let Some(text) = asked.header(&ROOST_MIN_VERSION) else { return Ok(Freshness::Asked) };
    let version = text.split_once('.').and_then(|(actor, seq)| {
        let digits = seq.bytes().all(|b| b.is_ascii_digit());
        Some((actor.parse().ok()?, seq.parse().ok().filter(|_| digits)?))
    });
    let version = version.ok_or_else(|| {
        bad_request("roost-min-version is what roost-version of an answer said, as it is")
    })?;
    match asked.app.backend.has_write(version, MIN_VERSION_TIME).await {
        true => Ok(Freshness::Asked),
        false => Ok(Freshness::Stale),
    }
}

/// Whether an answer includes what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    Asked,
    Stale,
}

impl Freshness {
    /// Says so.
    pub(super) fn mark(self, mut answer: Response) -> Response {
        if self == Self::Stale {
            answer.headers_mut().insert(ROOST_STALE, HeaderValue::from_static("true"));
        }
        answer
    }
}

/// How many nodes are to have the write.
pub(super) fn wait(asked: &Asked) -> Result<u32, Problem> {
    match asked.header(&ROOST_WAIT) {
        None => Ok(0),
        Some(text) => {
            text.parse().map_err(|_not_one| bad_request("roost-wait is a number of nodes"))
        }
    }
}

pub(super) fn with_receipt(mut answer: Response, receipt: &Receipt) -> Response {
    let headers = answer.headers_mut();
    let (actor, seq) = receipt.version;
    if let Ok(value) = HeaderValue::from_str(&format!("{actor}.{seq}")) {
        headers.insert(ROOST_VERSION, value);
    }
    headers.insert(ROOST_NODES, receipt.nodes.into());
    if !receipt.enough {
        headers.insert(ROOST_WAITED, HeaderValue::from_static("false"));
    }
    answer
}
