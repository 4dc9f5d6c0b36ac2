//! Stream keys of an encoder: made here, shown once, kept as hashes.

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::body::{from_json, read_text};
use super::super::problem::Problem;
use super::versions::{fresh, with_receipt};
use super::write::{may_write, tell, theirs, write};
use super::{Asked, bad_request};
use crate::access::keys::{StreamKey, add_key, key_hash, key_text, keys, revoke_key};
use crate::accounts::{Expect, Kind};
use crate::id::EncoderId;

/// Most keys of an encoder that are good at once: one for every place that it may send from.
const KEYS_MAX: usize = 16;
/// How long the keys before a new one stay good, unless it is said, in seconds: a day, within which
/// somebody gets to the camera.
const OVERLAP: u64 = 86_400;
/// The longest time that can be said, in seconds: a year.
const OVERLAP_MAX: u64 = 366 * 86_400;
/// Longest body, in bytes: one field.
const MAX_BODY: usize = 1024;

/// Of `POST /api/v1/encoders/{id}/keys`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Terms {
    /// `null`: those before stay as they are.
    #[serde(default = "a_day")]
    overlap_s: Option<u64>,
}

#[expect(clippy::unnecessary_wraps, reason = "what serde calls has the field's type")]
fn a_day() -> Option<u64> {
    Some(OVERLAP)
}

/// `POST /api/v1/encoders/{id or name}/keys`.
pub(in crate::http) async fn make(asked: Asked, body: Body) -> Result<Response, Problem> {
    let encoder = theirs(Kind::ENCODER, &asked).await?;
    may_write(&asked, &encoder)?;
    let text = read_text(body, MAX_BODY).await?;
    let text = if text.trim().is_empty() { "{}" } else { &text };
    let terms: Terms = from_json(text)
        .map_err(|error| bad_request(format!("the body is no request for a key: {error}")))?;
    if terms.overlap_s.is_some_and(|overlap| overlap > OVERLAP_MAX) {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("overlap_s is 0 to {OVERLAP_MAX}, or null"),
        ));
    }
    let now = asked.app.backend.mesh_ms();
    let there = keys(&encoder.record);
    if there.iter().filter(|key| key.good_at(now)).count() >= KEYS_MAX {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            format!("it has {KEYS_MAX} keys already; revoke some first"),
        ));
    }
    let text = key_text(EncoderId(encoder.key.id.0), &crate::node::random());
    let new = StreamKey { id: crate::node::random(), hash: key_hash(&text), made: now, expires: 0 };
    let end = terms.overlap_s.map(|overlap| now.saturating_add(overlap * 1_000));
    let old = there.iter().any(|key| key.good_at(now));
    let changes = add_key(&encoder.record, new, end);
    let receipt = write(&asked, &encoder, changes, Expect::Any).await?;
    tell(&asked, &encoder, "key.made");
    let body = json!({
        "key": text,
        "prefix": new.name(),
        "expires_old": end.filter(|_| old),
    });
    let mut answer = (StatusCode::CREATED, Json(body)).into_response();
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(with_receipt(answer, &receipt))
}

/// `GET /api/v1/encoders/{id or name}/keys`: for who may make some.
pub(in crate::http) async fn list(asked: Asked) -> Result<Response, Problem> {
    let fresh = fresh(&asked).await?;
    let encoder = theirs(Kind::ENCODER, &asked).await?;
    may_write(&asked, &encoder)?;
    let now = asked.app.backend.mesh_ms();
    let good = keys(&encoder.record).into_iter().filter(|key| key.good_at(now));
    let items: Vec<Value> = good
        .map(|key| {
            let expires = Some(key.expires).filter(|expires| *expires > 0);
            json!({ "prefix": key.name(), "made": key.made, "expires": expires })
        })
        .collect();
    Ok(fresh.mark(Json(json!({ "items": items })).into_response()))
}

/// `DELETE /api/v1/encoders/{id or name}/keys/{prefix}`: out for good, whatever others do meanwhile.
pub(in crate::http) async fn revoke(asked: Asked) -> Result<Response, Problem> {
    let encoder = theirs(Kind::ENCODER, &asked).await?;
    may_write(&asked, &encoder)?;
    let there = keys(&encoder.record);
    let wanted = asked.path(1);
    let Some(key) = there.iter().find(|key| key.name() == wanted) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "it has no such key, or not any more"));
    };
    let changes = revoke_key(&encoder.record, key.id);
    let receipt = write(&asked, &encoder, changes, Expect::Present).await?;
    tell(&asked, &encoder, "key.revoked");
    Ok(with_receipt(StatusCode::NO_CONTENT.into_response(), &receipt))
}
