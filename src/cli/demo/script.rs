//! `roost demo --script kill-one`: the demo's promise as a measurement, without a browser.
//!
//! One native viewer per encoder writes its video into a pipe, and the time of every write is
//! noted. A gap is the longest pause between two writes around the kill: what a person in front
//! of the picture would see, measured where the video comes out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep};

use super::super::exit::{Exit, Failure};
use super::super::out;
use super::children::Process;
use super::mesh::Mesh;

/// What can be scripted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Script {
    /// Kill the node that is home of the most streams
    KillOne,
}

/// Every stream must flow again within this.
const HEAL_WITHIN: Duration = Duration::from_secs(2);
/// How long to wait for a heal before giving up: long enough to tell slow from never.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);
/// How long the first pictures may take.
const FLOW_WITHIN: Duration = Duration::from_secs(10);
/// A stream flows steadily when it has done so for this long.
const STEADY: Duration = Duration::from_millis(1_000);
/// A pause shorter than this is the rhythm of the pictures (15 a second) and not a gap.
const RHYTHM: Duration = Duration::from_millis(200);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What happened.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    nodes: usize,
    encoders: usize,
    /// From the start of the first process to the last encoder at home.
    up_s: f64,
    /// From there to the first picture of the last stream.
    pictures_s: f64,
    killed: String,
    streams: Vec<StreamReport>,
    /// From the kill to the end of the last gap; `None` if it did not end.
    healed_s: Option<f64>,
}

/// What happened to one stream.
#[derive(Debug, Serialize)]
struct StreamReport {
    name: String,
    /// The longest pause around the kill.
    gap_s: f64,
    from: Option<String>,
    to: Option<String>,
}

/// Kills one node and watches what follows.
pub(super) async fn kill_one(mesh: &mut Mesh, up: Duration) -> Result<Report, Failure> {
    let begin = Instant::now();
    let mut viewers = Vec::new();
    for name in mesh.encoder_names() {
        viewers.push(Viewer::start(mesh, name)?);
    }
    wait_for_pictures(&mut viewers, begin).await?;
    let pictures = begin.elapsed();
    out::talk(&format!("all pictures flow after {:.1} s more", pictures.as_secs_f64()));
    sleep(STEADY).await;

    let before = mesh.homes().await.map_err(|why| lost("cannot read the homes", &why))?;
    let victim = most_common(&before).ok_or_else(|| lost("cannot kill a home", "there is none"))?;
    let killed_at = Instant::now();
    mesh.kill(&victim).await?;
    out::talk(&format!("{victim} is killed"));

    let deadline = killed_at + GIVE_UP_AFTER;
    let mut after = BTreeMap::new();
    loop {
        sleep(LOOK_EVERY).await;
        if let Ok(homes) = mesh.homes().await {
            after = homes;
        }
        let now = Instant::now();
        let healed = viewers.iter().all(|viewer| {
            let moved = after.get(&viewer.name).is_some_and(|home| *home != victim);
            moved && viewer.flow().flows_since(killed_at, now)
        });
        if (healed && now > killed_at + STEADY) || now > deadline {
            break;
        }
    }
    let now = Instant::now();
    let healed: Option<Vec<Duration>> =
        viewers.iter().map(|viewer| viewer.flow().healed_after(killed_at, now)).collect();
    let streams = viewers.iter().map(|viewer| StreamReport {
        name: viewer.name.clone(),
        gap_s: seconds(viewer.flow().gap(killed_at, now)),
        from: before.get(&viewer.name).cloned(),
        to: after.get(&viewer.name).cloned(),
    });
    Ok(Report {
        nodes: mesh.node_count(),
        encoders: viewers.len(),
        up_s: seconds(up),
        pictures_s: seconds(pictures),
        killed: victim,
        streams: streams.collect(),
        healed_s: healed.and_then(|times| times.into_iter().max()).map(seconds),
    })
}

impl Report {
    /// Prints it, and fails unless every stream healed in time.
    pub(super) fn tell(&self, json: bool) -> Result<(), Failure> {
        if json {
            out::json_line(self)?;
        } else {
            for stream in &self.streams {
                let home = |home: &Option<String>| home.clone().unwrap_or_else(|| "-".to_owned());
                out::line(&format!(
                    "{}: gap {:.2} s, {} -> {}",
                    stream.name,
                    stream.gap_s,
                    home(&stream.from),
                    home(&stream.to)
                ))?;
            }
        }
        match self.healed_s {
            Some(healed) if healed <= HEAL_WITHIN.as_secs_f64() => {
                out::talk(&format!("every stream flows again after {healed:.2} s"));
                Ok(())
            }
            Some(healed) => Err(lost(
                "the streams healed too slowly",
                &format!("{healed:.2} s instead of at most {} s", HEAL_WITHIN.as_secs()),
            )),
            None => Err(lost(
                "not every stream healed",
                &format!("at least one was still dark after {} s", GIVE_UP_AFTER.as_secs()),
            )),
        }
    }
}

/// Seconds, to the millisecond: what is finer is noise.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

fn lost(what: &str, why: &str) -> Failure {
    Failure::new(Exit::Failed, what, why, "look into the logs that --keep leaves")
}

async fn wait_for_pictures(viewers: &mut [Viewer], begin: Instant) -> Result<(), Failure> {
    loop {
        let Some(dark) = viewers.iter_mut().find(|viewer| viewer.flow().is_dark()) else {
            return Ok(());
        };
        let ended = dark.process.has_ended();
        if ended || begin.elapsed() > FLOW_WITHIN {
            let why = if ended { "its viewer ended" } else { "no picture came" };
            let words = dark.process.last_words();
            let message = format!("cannot see {}: {why}; its viewer's log:\n{words}", dark.name);
            return Err(Failure::said(Exit::Failed, message));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The value that occurs most often; the first by name among equals.
fn most_common(homes: &BTreeMap<String, String>) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for home in homes.values() {
        *counts.entry(home).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    counts.into_iter().find(|(_, count)| *count == most).map(|(home, _)| home.to_owned())
}

/// A native viewer of one stream.
struct Viewer {
    name: String,
    process: Process,
    flow: Arc<Mutex<Flow>>,
}

impl Viewer {
    fn start(mesh: &mut Mesh, name: String) -> Result<Self, Failure> {
        let mut process = mesh.spawn_viewer(&name)?;
        let flow = Arc::new(Mutex::new(Flow::default()));
        if let Some(mut video) = process.output() {
            let flow = Arc::clone(&flow);
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while video.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    let now = Instant::now();
                    flow.lock().unwrap_or_else(PoisonError::into_inner).arrive(now);
                }
            });
        }
        Ok(Self { name, process, flow })
    }

    fn flow(&self) -> Flow {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// When video came out of a viewer.
#[derive(Debug, Clone, Default)]
struct Flow {
    /// Half a minute at 15 writes a second, which is more than a script takes.
    arrivals: Vec<Instant>,
}

impl Flow {
    fn arrive(&mut self, now: Instant) {
        self.arrivals.push(now);
    }

    fn is_dark(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// Pauses that were not over before `since`: their end and length, the present one included.
    fn pauses(&self, since: Instant, now: Instant) -> impl Iterator<Item = (Instant, Duration)> {
        let ends = self.arrivals.iter().copied().skip(1).chain([now]);
        let pauses = self.arrivals.iter().copied().zip(ends);
        pauses.filter(move |(_, end)| *end >= since).map(|(start, end)| (end, end - start))
    }

    /// The longest pause.
    fn gap(&self, since: Instant, now: Instant) -> Duration {
        self.pauses(since, now).map(|(_, pause)| pause).max().unwrap_or(now - since)
    }

    /// Whether it flows now and did at some time after `since`.
    fn flows_since(&self, since: Instant, now: Instant) -> bool {
        self.arrivals.last().is_some_and(|last| *last > since && now - *last < RHYTHM)
    }

    /// When the last real gap was over, counted from `since`; `None` if it is not.
    fn healed_after(&self, since: Instant, now: Instant) -> Option<Duration> {
        if !self.flows_since(since, now) {
            return None;
        }
        let gaps = self.pauses(since, now).filter(|(_, pause)| *pause >= RHYTHM);
        Some(gaps.map(|(end, _)| end - since).max().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(milliseconds: &[u64], zero: Instant) -> Flow {
        let arrivals = milliseconds.iter().map(|ms| zero + Duration::from_millis(*ms)).collect();
        Flow { arrivals }
    }

    #[test]
    fn a_gap_is_the_longest_pause_after_the_kill() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let flow = flow(&[0, 700, 760, 820, 1_300, 1_360], zero);
        assert_eq!(flow.gap(at(850), at(1_400)), Duration::from_millis(480));
        assert_eq!(flow.healed_after(at(850), at(1_400)), Some(Duration::from_millis(450)));
        assert_eq!(flow.healed_after(at(850), at(1_700)), None);
        assert_eq!(flow.gap(at(850), at(2_400)), Duration::from_millis(1_040));
    }

    #[test]
    fn an_undisturbed_stream_heals_at_once() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let flow = flow(&[0, 66, 133, 200], zero);
        assert_eq!(flow.healed_after(at(100), at(210)), Some(Duration::ZERO));
    }

    #[test]
    fn the_home_of_most_streams_is_the_victim() {
        let homes = [("a", "n2"), ("b", "n1"), ("c", "n2")];
        let homes = homes.map(|(name, home)| (name.to_owned(), home.to_owned())).into();
        assert_eq!(most_common(&homes).as_deref(), Some("n2"));
        assert_eq!(most_common(&BTreeMap::new()), None);
    }
}
