//! Streams of a connection.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use quinn_proto::{
    Chunk, ConnectionError, FinishError, ReadableError, StreamId, VarInt,
    WriteError as ProtoWriteError,
};

use super::connection::Handle;

/// Why nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The other side wants no more of it.
    #[error("the other side stopped the stream with code {0}")]
    Stopped(VarInt),
    /// The connection is gone.
    #[error("the connection is gone: {0}")]
    ConnectionLost(ConnectionError),
    /// Finished or reset before.
    #[error("the stream is closed")]
    ClosedStream,
}

/// Why nothing is read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The other side gave it up.
    #[error("the other side reset the stream with code {0}")]
    Reset(VarInt),
    /// The connection is gone.
    #[error("the connection is gone: {0}")]
    ConnectionLost(ConnectionError),
    /// Read to its end before.
    #[error("the stream is closed")]
    ClosedStream,
}

/// Why a stream is not read to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadToEndError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is more than was allowed.
    #[error("the stream is too long")]
    TooLong,
}

/// Tasks that wait for streams, at most one for each stream and direction. An idle connection has
/// one, and one with many open streams some dozens, so they are simply searched.
#[derive(Default)]
pub(super) struct Waiters(Vec<(StreamId, Waker)>);

impl Waiters {
    fn wait(&mut self, id: StreamId, waker: &Waker) {
        match self.0.iter_mut().find(|(of, _)| *of == id) {
            Some((_, waiting)) => waiting.clone_from(waker),
            None => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.push((id, waker.clone()));
            }
        }
    }

    fn forget(&mut self, id: StreamId) -> Option<Waker> {
        let at = self.0.iter().position(|(of, _)| *of == id)?;
        Some(self.0.swap_remove(at).1)
    }

    pub(super) fn wake(&mut self, id: StreamId) {
        self.forget(id).into_iter().for_each(Waker::wake);
    }

    pub(super) fn wake_all(&mut self) {
        std::mem::take(&mut self.0).into_iter().for_each(|(_, waker)| waker.wake());
    }
}

/// The writing end of a stream. Dropped, it is finished: what was written is still delivered.
#[derive(Debug)]
pub struct SendStream {
    connection: Handle,
    id: StreamId,
}

impl SendStream {
    pub(super) fn new(connection: Handle, id: StreamId) -> Self {
        Self { connection, id }
    }

    /// Writes some of the bytes, as many as fit, and says how many; waits while none do. May be
    /// dropped half-way: then nothing was written.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        let written = poll_fn(|cx| self.poll_write(cx, bytes)).await?;
        self.connection.driver.wake();
        Ok(written)
    }

    /// Writes all of the bytes. Dropped half-way, some may be written.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let written = self.write(bytes).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn poll_write(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize, WriteError>> {
        let mut state = self.connection.state();
        if let Some(error) = &state.error {
            return Poll::Ready(Err(WriteError::ConnectionLost(error.clone())));
        }
        Poll::Ready(match state.proto.send_stream(self.id).write(bytes) {
            Ok(written) => Ok(written),
            Err(ProtoWriteError::Blocked) => {
                state.writers.wait(self.id, cx.waker());
                return Poll::Pending;
            }
            Err(ProtoWriteError::Stopped(code)) => Err(WriteError::Stopped(code)),
            Err(ProtoWriteError::ClosedStream) => Err(WriteError::ClosedStream),
        })
    }

    /// Says that nothing more comes. What was written is still delivered.
    pub fn finish(&mut self) -> Result<(), WriteError> {
        match self.connection.state().proto.send_stream(self.id).finish() {
            // That it was stopped is said by whatever waits for the end.
            Ok(()) | Err(FinishError::Stopped(_)) => {}
            Err(FinishError::ClosedStream) => return Err(WriteError::ClosedStream),
        }
        self.connection.driver.wake();
        Ok(())
    }

    /// Waits until the other side has everything up to the end, or wants no more of it; then with
    /// its code. An error says that the connection was gone first.
    pub async fn stopped(&mut self) -> Result<Option<VarInt>, ConnectionError> {
        poll_fn(|cx| {
            let mut state = self.connection.state();
            match state.proto.send_stream(self.id).stopped() {
                Ok(None) => {}
                Ok(code) => return Poll::Ready(Ok(code)),
                Err(_closed) => return Poll::Ready(Ok(None)),
            }
            if let Some(error) = &state.error {
                return Poll::Ready(Err(error.clone()));
            }
            state.writers.wait(self.id, cx.waker());
            Poll::Pending
        })
        .await
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        {
            let mut state = self.connection.state();
            state.writers.forget(self.id);
            if state.error.is_some() {
                return;
            }
            match state.proto.send_stream(self.id).finish() {
                Ok(()) => {}
                // The other side waits for an answer to its stop.
                Err(FinishError::Stopped(code)) => {
                    let _ = state.proto.send_stream(self.id).reset(code);
                }
                Err(FinishError::ClosedStream) => return,
            }
        }
        self.connection.driver.wake();
    }
}

/// The reading end of a stream. Dropped before its end, the other side is told to stop.
#[derive(Debug)]
pub struct RecvStream {
    connection: Handle,
    id: StreamId,
    /// Nothing more comes: the stream's regular end, or the code of its reset.
    end: Option<Result<(), VarInt>>,
}

impl RecvStream {
    pub(super) fn new(connection: Handle, id: StreamId) -> Self {
        Self { connection, id, end: None }
    }

    /// The next bytes in their order, at most `limit`; nothing at the end. May be dropped half-way:
    /// nothing is lost.
    pub async fn read_chunk(&mut self, limit: usize) -> Result<Option<Chunk>, ReadError> {
        poll_fn(|cx| self.poll_chunk(cx, limit)).await
    }

    /// All that still comes, if it is not longer than `limit`. Dropped half-way, what was read is
    /// lost.
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>, ReadToEndError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.read_chunk(limit.saturating_add(1)).await? {
            if all.len() + chunk.bytes.len() > limit {
                return Err(ReadToEndError::TooLong);
            }
            all.extend_from_slice(&chunk.bytes);
        }
        Ok(all)
    }

    fn poll_chunk(
        &mut self,
        cx: &Context<'_>,
        limit: usize,
    ) -> Poll<Result<Option<Chunk>, ReadError>> {
        match self.end {
            Some(Ok(())) => return Poll::Ready(Ok(None)),
            Some(Err(code)) => return Poll::Ready(Err(ReadError::Reset(code))),
            None => {}
        }
        let mut state = self.connection.state();
        let (next, credit) = {
            let mut stream = state.proto.recv_stream(self.id);
            let mut chunks = match stream.read(true) {
                Ok(chunks) => chunks,
                Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => {
                    return Poll::Ready(Err(ReadError::ClosedStream));
                }
            };
            let next = chunks.next(limit);
            (next, chunks.finalize().should_transmit())
        };
        let result = match next {
            Ok(Some(chunk)) => Ok(Some(chunk)),
            Ok(None) => {
                self.end = Some(Ok(()));
                Ok(None)
            }
            Err(quinn_proto::ReadError::Reset(code)) => {
                self.end = Some(Err(code));
                Err(ReadError::Reset(code))
            }
            Err(quinn_proto::ReadError::Blocked) => match &state.error {
                Some(error) => Err(ReadError::ConnectionLost(error.clone())),
                None => {
                    state.readers.wait(self.id, cx.waker());
                    return Poll::Pending;
                }
            },
        };
        drop(state);
        if credit {
            self.connection.driver.wake();
        }
        Poll::Ready(result)
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        {
            let mut state = self.connection.state();
            state.readers.forget(self.id);
            if self.end.is_some() || state.error.is_some() {
                return;
            }
            // One that is closed needs no stop.
            let _ = state.proto.recv_stream(self.id).stop(VarInt::from_u32(0));
        }
        self.connection.driver.wake();
    }
}
