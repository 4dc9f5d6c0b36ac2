//! What every Prometheus client says of its process, from `/proc` (proc(5)).

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// The kernel's clock tick on every Linux that Roost runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// This process, read at every scrape.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        if let Some(seconds) = cpu_seconds(&stat) {
            let help = "User and system time";
            let unit = Some(&Unit::Seconds);
            let counter =
                encoder.encode_descriptor("process_cpu", help, unit, MetricType::Counter)?;
            ConstCounter::new(seconds).encode(counter)?;
        }
        let gauges = [
            (
                "process_start_time",
                "When it started",
                Some(Unit::Seconds),
                started(&stat, &machine),
            ),
            ("process_resident_memory", "Memory in use", Some(Unit::Bytes), resident(&status)),
            ("process_open_fds", "Open descriptors", None, open_descriptors()),
            ("process_max_fds", "Most descriptors", None, most_descriptors(&limits)),
        ];
        for (name, help, unit, value) in gauges {
            let Some(value) = value else { continue };
            let gauge = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        Ok(())
    }
}

/// Field `number` of `/proc/self/stat`, counted from 1. The second is a name in parentheses that
/// may hold anything.
fn field(stat: &str, number: usize) -> Option<f64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) / TICKS_PER_SECOND)
}

fn started(stat: &str, machine: &str) -> Option<f64> {
    let boot: f64 = machine.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    Some(boot + field(stat, 22)? / TICKS_PER_SECOND)
}

fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0)
}

fn open_descriptors() -> Option<f64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

fn most_descriptors(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_words_are_understood() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 12345 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(started(stat, "cpu 1 2\nbtime 1000\n"), Some(1123.45));
        assert_eq!(resident("Name:\troost\nVmRSS:\t    2048 kB\n"), Some(2_097_152.0));
        assert_eq!(most_descriptors("Max open files    1024    4096    files\n"), Some(1024.0));
        assert_eq!((cpu_seconds(""), resident(""), most_descriptors("")), (None, None, None));
    }
}
