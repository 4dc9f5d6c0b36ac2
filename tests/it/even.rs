//! Encoders that nobody watches are spread evenly as nodes come and go.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::client::{Encoder, Viewer, Witness, assert_unseen};
use crate::harness::mesh::Mesh;
use crate::harness::process::run_within;
use crate::harness::{PATIENCE, wait_until};

/// Long enough that a test can look before it is over.
const PERIOD: Duration = Duration::from_secs(4);
const ENCODERS: usize = 9;

/// Runs `roost ARGS` against this mesh, and tells what it said.
#[track_caller]
fn roost(mesh: &Mesh, args: &str) -> String {
    let addrs = mesh.addrs();
    let args: Vec<&str> = args.split(' ').chain(["--addr", &addrs]).collect();
    let done = run_within(PATIENCE * 2, &args);
    assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
    done.stdout
}

/// Encoders at each node, if all of these nodes agree.
fn counts(mesh: &Mesh, nodes: &[&str]) -> Option<Vec<usize>> {
    let count = |view: &Value| -> Vec<usize> {
        let encoders: Vec<&Value> = view["encoders"].as_array().into_iter().flatten().collect();
        let at = |name: &&str| encoders.iter().filter(|it| it["home_name"] == **name).count();
        nodes.iter().map(at).collect()
    };
    let asked = mesh.nodes().iter().filter(|node| nodes.contains(&node.name()));
    let mut views = asked.map(|node| node.view().map(|view| count(&view)));
    let first = views.next()??;
    views.all(|view| view.as_ref() == Some(&first)).then_some(first)
}

/// Encoders that all nodes have sent away so far to even out.
fn moved(mesh: &Mesh) -> usize {
    let logs = mesh.nodes().iter().map(|node| node.log());
    logs.map(|log| log.lines().filter(|line| is_move(line)).count()).sum()
}

fn is_move(line: &str) -> bool {
    line.contains("encoder.moved") && line.contains("balance: ")
}

#[test]
fn a_node_that_returns_gets_its_share_of_what_nobody_watches_and_then_nothing_moves() {
    let mut mesh = Mesh::start(3);
    roost(&mesh, &format!("setting add stability-period value={}", PERIOD.as_secs()));
    let watched = Encoder::start(&mesh, "gate", &["--fps", "30"]);
    let _idle: Vec<Encoder> =
        (1..ENCODERS).map(|n| Encoder::start(&mesh, &format!("cam-{n}"), &[])).collect();
    let all = ["n1", "n2", "n3"];
    wait_until(PATIENCE + PERIOD, "all have the same", || {
        counts(&mesh, &all) == Some(vec![ENCODERS / 3; 3])
    });
    let home = mesh.nodes()[0].home_of("gate").expect("it has one");
    let away = all.into_iter().find(|name| *name != home).expect("three");
    let staying: Vec<&str> = all.into_iter().filter(|name| *name != away).collect();
    let witness = Witness::start(&mesh, "gate");

    mesh.node(away).kill();
    wait_until(PATIENCE, "the others have all", || {
        counts(&mesh, &staying).is_some_and(|counts| counts.iter().sum::<usize>() == ENCODERS)
    });
    wait_until(PATIENCE + PERIOD, "as many each", || {
        counts(&mesh, &staying).is_some_and(|counts| counts[0].abs_diff(counts[1]) <= 1)
    });
    let before = moved(&mesh);
    mesh.node(away).restart();
    mesh.wait_until_all_see_all();
    let back = Instant::now();
    wait_until(PATIENCE, "everyone knows who is where", || counts(&mesh, &all).is_some());
    if back.elapsed() < PERIOD / 2 {
        assert_eq!(moved(&mesh), before, "not before the period is over");
    }
    wait_until(PATIENCE + PERIOD, "it has its share", || {
        counts(&mesh, &all) == Some(vec![ENCODERS / 3; 3])
    });
    println!("{:?} after it came all have the same", back.elapsed());
    let moves = moved(&mesh);
    assert_eq!(moves - before, ENCODERS / 3, "no more moves than need be");
    let came = (1..ENCODERS).map(|n| format!("cam-{n}"));
    let came = came.filter(|name| mesh.nodes()[0].home_of(name).as_deref() == Some(away));
    for name in came {
        let why = roost(&mesh, &format!("encoder why {name}"));
        assert!(why.contains("balance: ") && why.contains(&format!("{away} ")), "{why}");
    }
    assert_eq!(mesh.nodes()[0].home_of("gate"), Some(home), "what is watched stays");

    std::thread::sleep(2 * PERIOD); // nothing may happen
    assert_eq!(moved(&mesh), moves, "then nothing moves");
    let metrics = mesh.nodes()[0].get("/metrics").body;
    assert!(metrics.contains("roost_balance_asks_total{what=\"granted\"}"), "{metrics}");
    assert_unseen(&witness.end());
    drop(watched);
}

/// Viewers of one stream, and encoders that come until one of them tells why it is elsewhere: two
/// nodes have fewer than the media of the third counts for.
const VIEWERS: u64 = 8;
const NEWCOMERS: usize = 18;

#[test]
fn who_comes_is_not_sent_to_a_node_that_is_busy_with_viewers_and_is_told_how_busy_it_is() {
    let mesh = Mesh::start(3);
    let _watched = Encoder::start(&mesh, "gate", &["--fps", "15"]);
    let busy = mesh.nodes()[0].home_of("gate").expect("it has one");
    let _viewers: Vec<Viewer> = (0..VIEWERS).map(|_| Viewer::start(&mesh, "gate")).collect();
    wait_until(PATIENCE, "every node has heard how busy that one is", || {
        mesh.nodes().iter().all(|node| {
            let view = node.view().unwrap_or_default();
            let mut nodes = view["nodes"].as_array().into_iter().flatten();
            let of = nodes.find(|it| it["name"] == busy.as_str());
            of.is_some_and(|of| of["report"]["viewers"] == VIEWERS)
        })
    });
    let mut come = Vec::new();
    let why = (0..NEWCOMERS).find_map(|n| {
        let name = format!("cam-{n}");
        come.push(Encoder::start(&mesh, &name, &[]));
        assert_ne!(mesh.nodes()[0].home_of(&name), Some(busy.clone()), "{name} of {n}");
        let why = roost(&mesh, &format!("encoder why {name}"));
        why.contains("ranked second").then_some(why).filter(|why| why.contains("viewers"))
    });
    let why = why.expect("of so many, one would have liked to be there");
    assert!(why.contains("1 encoder, 8 viewers, "), "{why}");
    // What each is good for is told, too.
    let node = roost(&mesh, "node list");
    assert!(node.contains("CAPACITY") && node.contains("00 measured"), "{node}");
    let plan = roost(&mesh, "plan");
    assert!(plan.contains("00 measured"), "{plan}");
}
