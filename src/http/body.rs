//! Request bodies: whole, in time, and not too long.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::problem::Problem;

/// A body must be complete by then: they are small, and whoever trickles one holds a connection.
const BODY_TIME: Duration = Duration::from_secs(5);

/// Reads a text of at most `limit` bytes.
pub(super) async fn read_text(body: Body, limit: usize) -> Result<String, Problem> {
    let read = Limited::new(body, limit).collect();
    let bytes = match tokio::time::timeout(BODY_TIME, read).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is over the limit of {limit} bytes"),
            ));
        }
        Ok(Err(_broken_off)) => {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "the body broke off"));
        }
        Err(_elapsed) => {
            return Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body was not complete after {} s", BODY_TIME.as_secs()),
            ));
        }
    };
    String::from_utf8(bytes.into())
        .map_err(|_not_text| Problem::new(StatusCode::BAD_REQUEST, "the body is not UTF-8"))
}
