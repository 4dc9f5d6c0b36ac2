//! Request bodies: whole, in time, and not too long.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::Problem;

/// A body must be complete by then: they are small, and whoever trickles one holds a connection.
const BODY_TIME: Duration = Duration::from_secs(5);
/// Largest whole number that is exact in every parser of JSON.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

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

/// What a JSON text says. JSON knows one kind of number: 3.0 is 3.
pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    let mut value = serde_json::from_str(text)?;
    write_whole(&mut value);
    serde_json::from_value(value)
}

/// Writes every number that is whole as one.
fn write_whole(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|float| {
                number.is_f64() && float.fract() == 0.0 && float.abs() <= WHOLE_MAX
            });
            if let Some(whole) = whole {
                // Within what a float holds exactly.
                *value = Value::from(whole as i64);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(write_whole),
        Value::Object(fields) => fields.values_mut().for_each(write_whole),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_whole_number_may_be_written_with_a_point() {
        let read = |text: &str| from_json::<Value>(text).unwrap();
        assert_eq!(read("[1.0, -2e3, {\"a\": 0.0}]"), json!([1, -2000, { "a": 0 }]));
        assert_eq!(read("[1.5, 1e300, 7]"), json!([1.5, 1e300, 7]));
        assert_eq!(from_json::<u32>("3.0").unwrap(), 3);
        assert!(from_json::<u32>("-3.0").is_err());
    }
}
