//! Framed messages on QUIC streams.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};

use super::counters::NetCounters;
use crate::quic;
use crate::quic::{ReadError, RecvStream, SendStream, WriteError};
use crate::wire::{self, LENGTH_PREFIX, MAX_MESSAGE, Message, WireError};

/// Largest message from a peer that is not verified yet: a hello with a chain of
/// [`crate::admission::CHAIN_MAX`] admissions of some 170 bytes fits, and little more.
pub const UNVERIFIED_MESSAGE_MAX: usize = 96 << 10;

/// Bytes taken from a stream at a time.
const CHUNK: usize = 64 << 10;

/// Why no message could be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// The bytes are no message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Longer than this peer may send at this point.
    #[error("message of {0} bytes from a peer that may send {1}")]
    OverLimit(usize, usize),
    /// The stream ended; nothing more comes.
    #[error("the other side ended the stream")]
    Ended,
    /// Nothing came in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// The connection is gone; the reason in words.
    #[error("{0}")]
    Lost(String),
}

/// Reads framed messages from a stream. Every method may be dropped half-way (in a `select!`) and
/// called again: nothing that was read is lost.
#[derive(Debug)]
pub struct MessageReader {
    stream: RecvStream,
    buffer: BytesMut,
    limit: usize,
    ended: bool,
    counters: Option<Arc<NetCounters>>,
}

impl MessageReader {
    /// For a peer that is not verified yet: messages up to [`UNVERIFIED_MESSAGE_MAX`].
    pub fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            limit: UNVERIFIED_MESSAGE_MAX,
            ended: false,
            counters: None,
        }
    }

    /// Counts malformed messages and unknown tags there.
    pub fn counted(mut self, counters: Arc<NetCounters>) -> Self {
        self.counters = Some(counters);
        self
    }

    /// The peer is verified: from here on messages up to [`MAX_MESSAGE`] may come.
    pub fn trust(&mut self) {
        self.limit = MAX_MESSAGE;
    }

    /// Messages up to `limit` bytes may come.
    pub fn limit(&mut self, limit: usize) {
        self.limit = limit.min(MAX_MESSAGE);
    }

    /// The next message's tag and body, undecoded.
    pub async fn read_bytes(&mut self) -> Result<Vec<u8>, ReceiveError> {
        loop {
            if let Some(message) = self.take_buffered()? {
                return Ok(message);
            }
            if self.ended {
                let whole = self.buffer.is_empty();
                return Err(if whole { ReceiveError::Ended } else { WireError::Truncated.into() });
            }
            match self.stream.read_chunk(CHUNK).await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) => self.ended = true,
                Err(error) => return Err(ReceiveError::Lost(read_reason(&error))),
            }
        }
    }

    /// The next message that this version knows; unknown tags are counted and skipped.
    pub async fn read<M: Message>(&mut self) -> Result<M, ReceiveError> {
        loop {
            let bytes = self.read_bytes().await?;
            match M::decode(&bytes) {
                Ok(message) => return Ok(message),
                Err(WireError::UnknownTag(_)) => {
                    if let Some(counters) = &self.counters {
                        counters.unknown_tags.add(1);
                    }
                }
                Err(error) => {
                    if let Some(counters) = &self.counters {
                        counters.malformed.add(1);
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// As [`MessageReader::read`], but not for ever.
    pub async fn read_within<M: Message>(&mut self, limit: Duration) -> Result<M, ReceiveError> {
        match tokio::time::timeout(limit, self.read()).await {
            Ok(result) => result,
            Err(_elapsed) => Err(ReceiveError::Late(limit)),
        }
    }

    fn take_buffered(&mut self) -> Result<Option<Vec<u8>>, ReceiveError> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<LENGTH_PREFIX>() else {
            return Ok(None);
        };
        let length = match wire::message_length(*prefix) {
            Ok(length) if length <= self.limit => length,
            wrong => {
                if let Some(counters) = &self.counters {
                    counters.malformed.add(1);
                }
                let over = |length| ReceiveError::OverLimit(length, self.limit);
                return Err(wrong.map_or_else(ReceiveError::from, over));
            }
        };
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let body = body.to_vec();
        self.buffer.advance(LENGTH_PREFIX + length);
        forget_if_empty(&mut self.buffer);
        Ok(Some(body))
    }
}

/// Writes framed messages to a stream.
#[derive(Debug)]
pub struct MessageWriter {
    stream: SendStream,
    buffer: BytesMut,
}

impl MessageWriter {
    /// Around a stream.
    pub fn new(stream: SendStream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// Writes a message; waits while the other side does not read. May be dropped half-way: what
    /// was not written yet goes out before the next message. Errors are the reason in words.
    pub async fn write<M: Message>(&mut self, message: &M) -> Result<(), String> {
        self.write_bytes(&message.encode()).await
    }

    /// As [`MessageWriter::write`], for a message that is encoded (tag and body, no length).
    pub async fn write_bytes(&mut self, message: &[u8]) -> Result<(), String> {
        let Ok(length) = u32::try_from(message.len()) else {
            return Err(WireError::TooLong(message.len()).to_string());
        };
        wire::message_length(length.to_le_bytes()).map_err(|error| error.to_string())?;
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(message);
        while !self.buffer.is_empty() {
            match self.stream.write(&self.buffer).await {
                Ok(written) => self.buffer.advance(written),
                Err(error) => return Err(write_reason(&error)),
            }
        }
        forget_if_empty(&mut self.buffer);
        Ok(())
    }

    /// Says that nothing more comes. What was written is still delivered.
    pub fn finish(&mut self) {
        // An error means that the stream is closed already, which is what was wanted.
        let _ = self.stream.finish();
    }

    /// After [`MessageWriter::finish`]: waits until the other side has everything, or is gone.
    pub async fn delivered(&mut self) {
        let _ = self.stream.stopped().await;
    }
}

/// Most streams say something once in a while, and a node has thousands.
fn forget_if_empty(buffer: &mut BytesMut) {
    if buffer.is_empty() {
        *buffer = BytesMut::new();
    }
}

fn read_reason(error: &ReadError) -> String {
    match error {
        ReadError::ConnectionLost(error) => lost_reason(error),
        other => other.to_string(),
    }
}

fn write_reason(error: &WriteError) -> String {
    match error {
        WriteError::ConnectionLost(error) => lost_reason(error),
        other => other.to_string(),
    }
}

/// Why a connection is gone, in words: the other side's own words if it said any.
pub fn lost_reason(error: &quic::ConnectionError) -> String {
    match error {
        quic::ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        quic::ConnectionError::ApplicationClosed(_) => "closed by the other side".into(),
        quic::ConnectionError::TimedOut => "no answer".into(),
        quic::ConnectionError::Reset => "the other side does not know this connection".into(),
        quic::ConnectionError::LocallyClosed => "closed here".into(),
        other => other.to_string(),
    }
}
