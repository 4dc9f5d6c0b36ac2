//! One request to the API of whichever node answers: over the socket of a node on this machine, or
//! over a native connection.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use roost::agent::api::{self, Answered, ApiError};
use roost::agent::dial::{ClientEndpoint, ClientPins, Target};
use roost::id::MeshId;
use roost::wire::{ApiHeaders, ApiRequest, ApiResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::addr::pins;
use super::exit::{Exit, Failure, exit_of_status};
use super::local::{self, Broken};

/// How a node is reached, other than by the addresses of the [`Target`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// Its admin socket.
    Socket(PathBuf),
}

/// A mesh to ask.
#[derive(Debug)]
pub(crate) struct Mesh {
    ways: Vec<Way>,
    pub(crate) target: Target,
    native: Mutex<Option<Native>>,
    /// What was written last: whoever is asked next waits until it has it, too.
    written: Mutex<Option<String>>,
}

/// The native side, made at the first need.
#[derive(Debug)]
struct Native {
    endpoint: ClientEndpoint,
    pins: ClientPins,
}

/// What a node answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: ApiHeaders,
    pub(crate) body: Vec<u8>,
    /// Which mesh it is of, if that was proven.
    pub(crate) mesh: Option<MeshId>,
    /// Other nodes of it.
    pub(crate) nodes: Vec<String>,
}

impl Answer {
    /// A header's value; the name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The answer, unless it is a refusal; `what` begins the sentence, then.
    pub(crate) fn good(self, what: &str) -> Result<Self, Failure> {
        let Some(exit) = exit_of_status(self.status) else { return Ok(self) };
        let mut words = format!("{what}: {}", problem(self.status, &self.body));
        match self.status {
            401 if !words.contains("roost login") => words.push_str("; log in first: roost login"),
            403 if !words.contains("roost") => {
                words.push_str("; roost whoami says what you may, an administrator gives more");
            }
            429 | 503 => {
                if let Some(seconds) = self.header("retry-after") {
                    words.push_str(&format!("; try again in {seconds} s"));
                }
            }
            _ => {}
        }
        Err(Failure::said(exit, words))
    }

    /// The body, decoded.
    pub(crate) fn decode<T: DeserializeOwned>(&self, what: &str) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::new(
                Exit::Failed,
                what,
                format!("the node's answer is not understood ({error})"),
                "use the same version of roost on both sides",
            )
        })
    }
}

/// What is asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    method: &'static str,
    path: String,
    headers: ApiHeaders,
    body: Vec<u8>,
}

impl Ask {
    pub(crate) fn new(method: &'static str, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), ..Self::default() }
    }

    /// Adds a header; the name in lower case.
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Says it in JSON.
    pub(crate) fn json(mut self, body: &impl Serialize) -> Self {
        // Values of our own types always serialise.
        self.body = serde_json::to_vec(body).unwrap_or_default();
        let merge = if self.method == "PATCH" { "merge-patch+json" } else { "json" };
        self.header("content-type", format!("application/{merge}"))
    }
}

impl Mesh {
    pub(crate) fn new(ways: Vec<Way>, target: Target) -> Self {
        Self { ways, target, native: Mutex::default(), written: Mutex::default() }
    }

    /// Adds nodes to try after those that are given.
    pub(crate) fn also(&mut self, nodes: &[String]) {
        let new = nodes.iter().filter(|node| !self.target.addrs.contains(node));
        let new: Vec<_> = new.cloned().collect();
        self.target.addrs.extend(new);
    }

    /// Asks with GET and decodes the answer; `what` begins the sentence if it fails.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        what: &str,
    ) -> Result<T, Failure> {
        self.ask(&Ask::new("GET", path)).await?.good(what)?.decode(what)
    }

    /// Sends `body` with POST and decodes the answer.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        what: &str,
    ) -> Result<T, Failure> {
        self.ask(&Ask::new("POST", path).json(body)).await?.good(what)?.decode(what)
    }

    /// Asks whichever node answers first in order, whatever it says.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Answer, ApiError> {
        let mut headers = ask.headers.clone();
        if ask.method == "GET"
            && let Some(version) =
                self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
        {
            headers.push(("roost-min-version".into(), version));
        }
        let Ask { method, path, body, .. } = ask.clone();
        let request = ApiRequest { method: method.to_owned(), path, headers, body };
        let answer = self.send(request).await?;
        if let Some(version) = answer.header("roost-version") {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            *written = Some(version.to_owned());
        }
        Ok(answer)
    }

    async fn send(&self, request: ApiRequest) -> Result<Answer, ApiError> {
        let mut reasons = Vec::new();
        for Way::Socket(path) in &self.ways {
            match local::call(path, &request).await {
                Ok(response) => return Ok(answer(response, None, vec![])),
                Err(Broken::After(reason)) if request.method != "GET" => {
                    return Err(ApiError::Uncertain(reason));
                }
                Err(Broken::Before(reason) | Broken::After(reason)) => {
                    reasons.push(format!("{}: {reason}", path.display()));
                }
            }
        }
        if self.target.addrs.is_empty() {
            return Err(ApiError::NoNodeAnswered(reasons));
        }
        let mut native = match self.native.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(native) => native,
            None => self.native().map_err(|failure| ApiError::Failed(failure.message))?,
        };
        let Native { endpoint, pins } = &mut native;
        let answered = api::call(endpoint, &self.target, pins, "roost command", request).await;
        endpoint.wait_idle().await;
        *self.native.lock().unwrap_or_else(PoisonError::into_inner) = Some(native);
        match answered {
            Ok(Answered { response, mesh, nodes }) => Ok(answer(response, Some(mesh), nodes)),
            Err(ApiError::NoNodeAnswered(more)) => {
                reasons.extend(more);
                Err(ApiError::NoNodeAnswered(reasons))
            }
            Err(error) => Err(error),
        }
    }

    fn native(&self) -> Result<Native, Failure> {
        let endpoint = ClientEndpoint::new().map_err(|error| {
            Failure::new(
                Exit::Failed,
                "cannot open a UDP socket",
                error,
                "check the limits on sockets",
            )
        })?;
        let endpoint = endpoint.with_tokens(self.target.tokens.clone());
        Ok(Native { endpoint, pins: pins(&self.target)? })
    }
}

fn answer(response: ApiResponse, mesh: Option<MeshId>, nodes: Vec<String>) -> Answer {
    let ApiResponse { status, headers, body } = response;
    Answer { status, headers, body, mesh, nodes }
}

/// The words of a problem document (RFC 9457), or the bare status.
pub(crate) fn problem(status: u16, body: &[u8]) -> String {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
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

    #[test]
    fn a_refusal_says_what_next_and_has_an_exit_code() {
        let refusal = |status, headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
            let body = br#"{"detail":"no"}"#.to_vec();
            let response = ApiResponse { status, headers: headers.collect(), body };
            answer(response, None, vec![]).good("cannot x").unwrap_err()
        };
        let wait = refusal(429, &[("retry-after", "7")]);
        assert_eq!(wait.message, "cannot x: no; try again in 7 s");
        assert!(refusal(401, &[]).message.ends_with("log in first: roost login"));
        let exits = [400, 401, 404, 412, 500].map(|status| refusal(status, &[]).exit);
        assert_eq!(
            exits,
            [Exit::Usage, Exit::NotAllowed, Exit::NoSuchThing, Exit::Conflict, Exit::Failed]
        );
    }
}
