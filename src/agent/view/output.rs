//! Where the video is written, by a thread of its own: a reader that pauses may hold a write up for
//! as long as it likes, and must not look like a dead node.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;

/// Video that may wait for its reader, in bytes: half a minute of a camera of 4 Mbit/s. A reader
/// that pauses for longer misses what follows, up to a keyframe.
const OUTPUT_QUEUE_BYTES: usize = 16 << 20;
/// Once watching is over, what waits has this long to be written: a reader that stands still must
/// not keep the viewer.
pub(super) const OUTPUT_FINISH: Duration = Duration::from_secs(2);

/// Where the stream is written.
#[derive(Debug)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// A file, made anew.
    File(PathBuf),
}

impl Output {
    fn open(self) -> Result<Box<dyn Write + Send>, String> {
        match self {
            Self::Stdout => Ok(Box::new(io::stdout())),
            Self::File(path) => match File::create(&path) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(format!("cannot write {}: {error}", path.display())),
            },
        }
    }
}

/// How writing ended, or that it goes on.
pub(super) type Written = oneshot::Receiver<Result<(), String>>;

/// Frames on their way to the thread that writes.
#[derive(Debug)]
pub(super) struct Writer {
    frames: mpsc::Sender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    skipping: bool,
    unwritten: u64,
}

impl Writer {
    /// Opens the output and writes to it, elsewhere; what is returned with it tells the first
    /// error, or that all was written after the writer was dropped.
    pub(super) fn start(output: Output) -> io::Result<(Self, Written)> {
        Self::start_with(move || output.open())
    }

    fn start_with(
        open: impl FnOnce() -> Result<Box<dyn Write + Send>, String> + Send + 'static,
    ) -> io::Result<(Self, Written)> {
        let (frames, queue) = mpsc::channel();
        let (end, written) = oneshot::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        std::thread::Builder::new().name("output".into()).spawn(move || {
            let result = open().and_then(|output| write_all(output, &queue, &left));
            // Nobody waits for it any more: watching ended meanwhile.
            let _ = end.send(result);
        })?;
        Ok((Self { frames, waiting, skipping: false, unwritten: 0 }, written))
    }

    /// Takes one frame, unless too much waits already: then everything up to the next keyframe is
    /// left out. True if this is the first frame that is.
    pub(super) fn push(&mut self, frame: Vec<u8>, keyframe: bool) -> bool {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let fits = waiting == 0 || waiting + frame.len() <= OUTPUT_QUEUE_BYTES;
        if fits && (keyframe || !self.skipping) {
            self.skipping = false;
            self.waiting.fetch_add(frame.len(), Ordering::Relaxed);
            // The thread is gone only after it told why.
            let _ = self.frames.send(frame);
            return false;
        }
        self.unwritten += 1;
        !std::mem::replace(&mut self.skipping, true)
    }

    /// Frames that were left out because their reader was too slow.
    pub(super) fn unwritten(&self) -> u64 {
        self.unwritten
    }
}

/// Writes frames until their source ends; each is handed on whole, since whoever reads shows it.
fn write_all(
    mut output: Box<dyn Write + Send>,
    queue: &mpsc::Receiver<Vec<u8>>,
    left: &AtomicUsize,
) -> Result<(), String> {
    for frame in queue {
        let written = output.write_all(&frame).and_then(|()| output.flush());
        written.map_err(|error| format!("cannot write: {error}"))?;
        left.fetch_sub(frame.len(), Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// A pipe whose reader takes nothing until it is let go; what it took last was flushed.
    #[derive(Clone, Default)]
    struct Pipe {
        gate: Arc<Mutex<()>>,
        taken: Arc<Mutex<(Vec<u8>, usize)>>,
    }

    impl Pipe {
        fn taken(&self) -> (Vec<u8>, usize) {
            self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _gate = self.gate.lock();
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.0.extend(bytes.first());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.taken.lock().unwrap_or_else(PoisonError::into_inner).1 += 1;
            Ok(())
        }
    }

    fn frame(number: u8) -> Vec<u8> {
        vec![number; OUTPUT_QUEUE_BYTES / 4]
    }

    #[tokio::test]
    async fn a_reader_that_pauses_misses_whole_groups_and_stops_nobody() {
        let pipe = Pipe::default();
        let end = pipe.clone();
        let (mut writer, written) = Writer::start_with(move || Ok(Box::new(end))).expect("starts");
        let gate = Arc::clone(&pipe.gate);
        let shut = gate.lock().expect("a gate");
        for number in 0..4 {
            assert!(!writer.push(frame(number), number == 0), "frame {number} waits");
        }
        assert!(writer.push(frame(4), false), "the first that is left out is told");
        assert!(!writer.push(frame(5), true), "a keyframe that does not fit is none to go on from");
        drop(shut);
        while writer.waiting.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        writer.push(frame(6), false);
        writer.push(frame(7), true);
        writer.push(frame(8), false);
        assert_eq!(writer.unwritten(), 3);
        drop(writer);
        written.await.expect("it ends").expect("all is written");
        assert_eq!(pipe.taken(), (vec![0, 1, 2, 3, 7, 8], 6), "each is flushed by itself");
    }

    #[tokio::test]
    async fn an_output_that_cannot_be_opened_is_told_with_its_name() {
        let path = PathBuf::from("/nowhere/out.h264");
        let (_writer, written) = Writer::start(Output::File(path)).expect("starts");
        let error = written.await.expect("it ends").expect_err("no such folder");
        assert!(error.starts_with("cannot write /nowhere/out.h264: "), "{error}");
    }
}
