//! The least HTTP client that can ask a node on this machine: one request per connection.
//!
//! HTTP/1.0, so that the answer ends with the connection and is never chunked.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A node that does not answer within this on loopback is frozen or dead.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);

/// The longest answer that is read: the state of a mesh far larger than any demo.
const ANSWER_MAX: u64 = 4 << 20;

/// Sends a request and decodes the JSON answer; the error is for people.
pub(super) async fn json<T: DeserializeOwned>(
    node: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<T, String> {
    let (status, body) = tokio::time::timeout(ANSWER_WITHIN, exchange(node, method, path, body))
        .await
        .map_err(|_elapsed| format!("{node} does not answer"))?
        .map_err(|error| format!("{node} does not answer: {error}"))?;
    if !(200..300).contains(&status) {
        return Err(format!("{node} answered {status}: {}", String::from_utf8_lossy(&body)));
    }
    serde_json::from_slice(&body).map_err(|error| format!("{node} answered nonsense: {error}"))
}

async fn exchange(
    node: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(node).await?;
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {node}\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    parse(&answer).ok_or_else(|| std::io::Error::other("that is no HTTP"))
}

fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end + 4)?;
    let status = std::str::from_utf8(head).ok()?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let answer = b"HTTP/1.0 404 Not Found\r\nA: b\r\n\r\n{\"a\":1}";
        assert_eq!(parse(answer), Some((404, b"{\"a\":1}".to_vec())));
        assert_eq!(parse(b"HTTP/1.0 404"), None);
        assert_eq!(parse(b"\r\n\r\n"), None);
    }
}
