//! One request to the API of whichever node answers.

use roost::agent::api;
use roost::agent::dial::{ClientEndpoint, Target};
use roost::wire::ApiRequest;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::addr::pins;
use super::exit::{Exit, Failure, exit_of_status};

/// Asks with GET and decodes the answer; `what` begins the sentence if it fails.
pub(crate) async fn get<T: DeserializeOwned>(
    target: &Target,
    path: &str,
    what: &str,
) -> Result<T, Failure> {
    request(target, "GET", path, Vec::new(), what).await
}

/// Sends `body` with POST and decodes the answer.
pub(crate) async fn post<T: DeserializeOwned>(
    target: &Target,
    path: &str,
    body: &impl Serialize,
    what: &str,
) -> Result<T, Failure> {
    let body = serde_json::to_vec(body)
        .map_err(|error| Failure::new(Exit::Failed, what, error, "report this"))?;
    request(target, "POST", path, body, what).await
}

async fn request<T: DeserializeOwned>(
    target: &Target,
    method: &str,
    path: &str,
    body: Vec<u8>,
    what: &str,
) -> Result<T, Failure> {
    let endpoint = ClientEndpoint::new()
        .map_err(|error| Failure::new(Exit::Failed, what, error, "check the limits on sockets"))?;
    let request = ApiRequest { method: method.to_owned(), path: path.to_owned(), body };
    let mut pins = pins(target)?;
    let answer = api::call(&endpoint, target, &mut pins, "roost command", request).await?;
    endpoint.wait_idle().await;
    if let Some(exit) = exit_of_status(answer.status) {
        return Err(Failure::said(
            exit,
            format!("{what}: {}", problem(answer.status, &answer.body)),
        ));
    }
    serde_json::from_slice(&answer.body).map_err(|error| {
        Failure::new(
            Exit::Failed,
            what,
            format!("the node's answer is not understood ({error})"),
            "use the same version of roost on both sides",
        )
    })
}

/// The words of a problem document (RFC 9457), or the bare status.
pub(super) fn problem(status: u16, body: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    ["detail", "title"]
        .into_iter()
        .find_map(|field| document.get(field)?.as_str().map(str::to_owned))
        .unwrap_or_else(|| format!("the node answered with status {status}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_document_speaks_for_itself() {
        assert_eq!(problem(404, br#"{"title":"Gone","detail":"no stream x"}"#), "no stream x");
        assert_eq!(problem(404, br#"{"title":"Gone"}"#), "Gone");
        assert_eq!(problem(500, b"<html>"), "the node answered with status 500");
    }
}
