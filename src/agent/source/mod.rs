//! stub
#![allow(missing_docs, unused)]
use crate::media::AccessUnit;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
pub struct Sample {
    pub unit: AccessUnit,
    pub timestamp: u32,
}
pub enum SourceEvent {
    Ready { describe: String },
    Sample(Sample),
    Lost { reason: String },
    Warning(String),
}
pub enum Wish {
    Run,
    Pause,
    Keyframe,
}
pub struct SourceHandle {
    pub events: mpsc::Receiver<SourceEvent>,
    pub wishes: mpsc::Sender<Wish>,
}
#[derive(Debug)]
pub enum SourceSpec {
    Test { name: String, gop: Duration, obeys_keyframe_requests: bool },
    Rtsp { url: url::Url, user: Option<String>, password: Option<String> },
    H264 { path: Option<PathBuf>, fps: Option<u32> },
}
pub fn open(spec: SourceSpec) -> Result<SourceHandle, String> {
    Err(String::new())
}
