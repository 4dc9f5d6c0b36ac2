//! The admin socket's other end: one request per connection, HTTP/1.0, so that the answer ends with
//! the connection and is never chunked.

use std::io;
use std::path::Path;
use std::time::Duration;

use roost::wire::{ApiHeaders, ApiRequest, ApiResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long a node may take to accept a connection: one that is frozen never does.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long it may take to begin an answer: it may have to ask every other node first.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Longest head of an answer, in bytes.
const HEAD_MAX: usize = 64 * 1024;
/// Longest body that is kept in memory, in bytes: a page of a list is far below.
const BODY_MAX: u64 = 64 << 20;

/// How far a request came.
pub(crate) enum Broken {
    /// It was not sent.
    Before(String),
    /// It was, and may have been done.
    After(String),
}

/// Sends a request and takes the whole answer.
pub(crate) async fn call(path: &Path, request: &ApiRequest) -> Result<ApiResponse, Broken> {
    let (status, headers, mut body, stream) = open(path, request).await?;
    let mut rest = stream.take(BODY_MAX);
    match timeout(ANSWER_WITHIN, rest.read_to_end(&mut body)).await {
        Ok(Ok(_)) => Ok(ApiResponse { status, headers, body }),
        Ok(Err(error)) => Err(Broken::After(error.to_string())),
        Err(_elapsed) => Err(Broken::After("the answer does not end".into())),
    }
}

/// Sends a request and takes the answer's head; the body is what follows and what is in the stream.
pub(crate) async fn open(
    path: &Path,
    request: &ApiRequest,
) -> Result<(u16, ApiHeaders, Vec<u8>, UnixStream), Broken> {
    let before = |error: io::Error| Broken::Before(error.to_string());
    let mut stream = timeout(CONNECT_WITHIN, UnixStream::connect(path))
        .await
        .map_err(|_elapsed| Broken::Before("no answer".into()))?
        .map_err(before)?;
    let mut head = format!("{} {} HTTP/1.0\r\nhost: localhost\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", request.body.len()));
    stream.write_all(head.as_bytes()).await.map_err(before)?;
    let after = |error: io::Error| Broken::After(error.to_string());
    let answer = async {
        stream.write_all(&request.body).await?;
        let mut bytes = Vec::new();
        loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let body = bytes.split_off(end + 4);
                return Ok((bytes, body));
            }
            if stream.read_buf(&mut bytes).await? == 0 || bytes.len() > HEAD_MAX {
                return Err(io::Error::other("that is no HTTP"));
            }
        }
    };
    let (head, body) = timeout(ANSWER_WITHIN, answer)
        .await
        .map_err(|_elapsed| Broken::After("no answer in time".into()))?
        .map_err(after)?;
    let (status, headers) =
        parse(&head).ok_or_else(|| Broken::After("that is no HTTP".to_owned()))?;
    Ok((status, headers, body, stream))
}

fn parse(head: &[u8]) -> Option<(u16, ApiHeaders)> {
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    Some((status, headers.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_apart() {
        let head = b"HTTP/1.0 404 Not Found\r\nETag: \"1\"\r\n\r\n";
        assert_eq!(parse(head), Some((404, vec![("etag".into(), "\"1\"".into())])));
        assert_eq!(parse(b"\r\n\r\n"), None);
    }
}
