//! What passes through a switch, as a capture shows it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::lan::{Host, Lan};
use super::{PATIENCE, wait_until};

/// A capture of all UDP; ends when dropped.
pub(crate) struct Capture {
    tcpdump: Child,
    file: PathBuf,
    _folder: TempDir,
}

/// One UDP datagram, or several of one size that one host handed to the network at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram {
    /// Since 1970.
    at: Duration,
    from: Ipv4Addr,
    to: Ipv4Addr,
    /// A long header (RFC 9000 §17.2), which only handshakes have.
    pub(crate) long: bool,
    pub(crate) size: usize,
}

impl Capture {
    /// Begins.
    #[track_caller]
    pub(crate) fn start(lan: &Lan) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join("all.pcap");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", lan.switch(), "tcpdump", "-i", "br0", "-U", "-w"]);
        command.arg(&file).arg("udp").stderr(Stdio::null());
        let tcpdump = command.spawn().expect("tcpdump is installed");
        wait_until(PATIENCE, "the capture has begun", || {
            std::fs::metadata(&file).is_ok_and(|file| file.len() >= 24)
        });
        Self { tcpdump, file, _folder: folder }
    }

    /// Ends; returns the file as it is.
    #[track_caller]
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.stop();
        std::fs::read(&self.file).expect("the capture is there")
    }

    fn stop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Datagram {
    pub(crate) fn between(&self, from: &Host, to: &Host) -> bool {
        self.from.to_string() == from.address() && self.to.to_string() == to.address()
    }

    pub(crate) fn since(&self, time: SystemTime) -> bool {
        let time = time.duration_since(SystemTime::UNIX_EPOCH).expect("later than 1970");
        self.at >= time
    }
}

/// The QUIC datagrams in a pcap file of Ethernet frames.
#[track_caller]
pub(crate) fn quic(pcap: &[u8]) -> Vec<Datagram> {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(pcap.get(at..at + 4)?.try_into().ok()?))
    };
    assert_eq!(word(0), Some(0xa1b2_c3d4), "pcap with microseconds");
    assert_eq!(word(20), Some(1), "of Ethernet");
    let mut found = Vec::new();
    let mut at = 24;
    while let (Some(seconds), Some(micros), Some(size)) = (word(at), word(at + 4), word(at + 8)) {
        let time = Duration::new(seconds.into(), micros * 1000);
        let end = at + 16 + size as usize;
        // The last one may have been cut short by the end of the capture.
        let Some(frame) = pcap.get(at + 16..end) else { break };
        found.extend(datagram(time, frame));
        at = end;
    }
    found
}

fn datagram(at: Duration, frame: &[u8]) -> Option<Datagram> {
    let packet = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
    let header = usize::from(packet.first()? & 0xf) * 4;
    let address =
        |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let payload = packet.get(header + 8..).filter(|_| packet[9] == 17)?;
    // What begins with less is STUN or DTLS (RFC 9443).
    let first = *payload.first().filter(|first| **first >= 64)?;
    let (from, to) = (address(12)?, address(16)?);
    Some(Datagram { at, from, to, long: first & 0x80 != 0, size: payload.len() })
}
