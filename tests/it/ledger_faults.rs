//! Changes at random nodes while nodes are killed, frozen and cut off: what was acknowledged is
//! everywhere in the end, and nothing that was disabled is back.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::lan::{Host, Lan, all_up};
use crate::harness::process::Process;
use crate::harness::wait_until;

/// Repair of what a push did not bring comes round in seconds, on a machine that does much else.
const REPAIRED: Duration = Duration::from_secs(40);
/// Who changes things at once.
const WRITERS: u64 = 3;

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits fit") % most
    }
}

fn path(number: u64) -> String {
    format!("/api/v1/accounts/{number:032x}")
}

/// Asks the node of this host; the status, 0 for no answer in time, and the body.
fn ask(host: &Host, method: &str, number: u64, header: &str, body: &str) -> (u16, String) {
    let url = format!("http://127.0.0.1:9443{}", path(number));
    let mut args = vec!["-s", "-m", "3", "-X", method, "-w", "\n%{http_code}", &url];
    if !body.is_empty() {
        args.extend(["-H", header, "-d", body]);
    }
    let answer = host.program("curl", &args).stdout;
    let (body, status) = answer.rsplit_once('\n').unwrap_or(("", "0"));
    (status.trim().parse().unwrap_or(0), body.to_owned())
}

fn make(host: &Host, number: u64) -> bool {
    let body = format!(r#"{{"name":"a{number}"}}"#);
    ask(host, "PUT", number, "If-None-Match: *", &body).0 == 201
}

fn disable(host: &Host, number: u64) -> bool {
    let body = format!(r#"{{"name":"a{number}","disabled":true}}"#);
    ask(host, "PUT", number, "If-Match: *", &body).0 == 200
}

/// Whether the node shows the account, and shows it as disabled.
fn shown(host: &Host, number: u64) -> Option<bool> {
    let (status, body) = ask(host, "GET", number, "", "");
    let account: Value = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
    account["disabled"].as_bool()
}

fn split(left: &[(Host, Process)], right: &[(Host, Process)]) {
    for (one, _) in left {
        for (other, _) in right {
            one.ignore(other);
            other.ignore(one);
        }
    }
}

fn heal(nodes: &[(Host, Process)]) {
    nodes.iter().for_each(|(host, _)| host.heal());
}

#[test]
fn what_was_acknowledged_is_everywhere_after_kills_freezes_and_halves() {
    let Some(mut lan) = Lan::start() else { return };
    let mut nodes = lan.nodes(4);
    let hosts: Vec<Host> = nodes.iter().map(|(host, _)| host.clone()).collect();
    let (next, over) = (AtomicU64::new(1), AtomicBool::new(false));
    let (made, disabled) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let write = |writer: u64| {
        let mut dice = Dice(writer);
        while !over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let there = &hosts[dice.below(hosts.len())];
            if make(there, number) {
                made.lock().expect("no writer panics").push(number);
                let elsewhere = &hosts[dice.below(hosts.len())];
                if dice.below(3) == 0 && disable(elsewhere, number) {
                    disabled.lock().expect("no writer panics").push(number);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        let mut dice = Dice(77);
        for _round in 0..3 {
            let victim = dice.below(nodes.len());
            nodes[victim].1.kill();
            std::thread::sleep(Duration::from_millis(500));
            nodes[victim].1 = hosts[victim].node(&[]);
            let victim = dice.below(nodes.len());
            nodes[victim].1.freeze();
            std::thread::sleep(Duration::from_millis(1_500));
            nodes[victim].1.thaw();
            let (left, right) = nodes.split_at(2);
            split(left, right);
            std::thread::sleep(Duration::from_secs(3));
            heal(&nodes);
        }
        over.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().expect("no writer panics");
        }
    });
    let (made, disabled) =
        (made.into_inner().expect("whole"), disabled.into_inner().expect("whole"));
    assert!(
        made.len() > 50 && disabled.len() > 5,
        "{} made, {} disabled",
        made.len(),
        disabled.len()
    );
    wait_until(REPAIRED, "all see all again", || all_up(&nodes));
    for host in &hosts {
        for number in &made {
            let off = disabled.contains(number);
            let what = format!("{} shows {number}, disabled: {off}", host.name());
            wait_until(REPAIRED, &what, || {
                // Somebody may have disabled it without hearing that it was done.
                shown(host, *number).is_some_and(|shown| shown || !off)
            });
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder can be made");
    for entry in std::fs::read_dir(from).expect("it can be read").flatten() {
        // Of a running node there may be a socket.
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("it can be copied");
        }
    }
    let mode = std::fs::metadata(from).expect("it is there").permissions();
    std::fs::set_permissions(to, mode).expect("it is ours");
}

#[test]
fn yesterdays_folder_put_back_and_used_in_isolation_loses_nothing_of_either_life() {
    let Some(mut lan) = Lan::start() else { return };
    let mut nodes = lan.nodes(3);
    let first = nodes[0].0.clone();
    assert!(make(&first, 1), "before the copy");
    nodes[0].1.kill();
    let (data, kept) = (first.data(), first.data().with_extension("yesterday"));
    copy(&data, &kept);
    nodes[0].1 = first.node(&[]);
    for number in 2..=6 {
        assert!(make(&first, number), "today");
    }
    let other = nodes[1].0.clone();
    wait_until(REPAIRED, "today is elsewhere", || shown(&other, 6).is_some());
    nodes[0].1.kill();
    std::fs::remove_dir_all(&data).expect("it is ours");
    std::fs::rename(&kept, &data).expect("it is ours");
    let (alone, others) = nodes.split_at(1);
    split(alone, others);
    nodes[0].1 = first.node(&[]);
    assert_eq!(shown(&first, 2), None, "yesterday knows nothing of today");
    for number in 11..=16 {
        assert!(make(&first, number), "in the isolation");
    }
    heal(&nodes);
    for (host, _) in &nodes {
        for number in (1..=6).chain(11..=16) {
            wait_until(REPAIRED, &format!("{} shows {number}", host.name()), || {
                shown(host, number).is_some()
            });
        }
    }
    // And its next write is one that nobody has seen before.
    assert!(make(&first, 21));
    wait_until(REPAIRED, "a new one is elsewhere", || shown(&other, 21).is_some());
}
