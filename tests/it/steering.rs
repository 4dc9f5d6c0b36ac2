//! Emptying nodes, keeping them from encoders, and sending encoders elsewhere, as people do it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::client::{Encoder, Viewer, Witness, assert_unseen};
use crate::harness::mesh::Mesh;
use crate::harness::node::Node;
use crate::harness::process::{Finished, run, run_within};
use crate::harness::{PATIENCE, wait_for, wait_until};

/// A picture comes every 33 ms here: this much longer is what a move may take.
const SEAM: Duration = Duration::from_millis(133);

/// Runs `roost ARGS` against this mesh.
#[track_caller]
fn roost(mesh: &Mesh, args: &str) -> Finished {
    let addrs = mesh.addrs();
    let args: Vec<&str> = args.split(' ').chain(["--addr", &addrs]).collect();
    run_within(PATIENCE * 2, &args)
}

/// Where every node says that an encoder is at home, if they agree.
fn home(mesh: &Mesh, encoder: &str) -> Option<String> {
    let mut homes = mesh.nodes().iter().map(|node| node.home_of(encoder));
    let first = homes.next()??;
    homes.all(|home| home.as_ref() == Some(&first)).then_some(first)
}

#[test]
fn a_drained_node_gives_everything_away_and_nobody_who_watches_sees_it() {
    let mut mesh = Mesh::start(3);
    let _watched = Encoder::start(&mesh, "gate", &["--fps", "30"]);
    let names = ["cam-1", "cam-2", "cam-3", "cam-4", "cam-5"];
    let _idle = names.map(|name| Encoder::start(&mesh, name, &[]));
    let (viewer, witness) = (Viewer::start(&mesh, "gate"), Witness::start(&mesh, "gate"));
    let watched = Instant::now();
    let left =
        wait_for(PATIENCE, "the picture comes from home at its pace, for two seconds", || {
            let home = home(&mesh, "gate")?;
            let smooth = |second: &Value| {
                second["via"] == home.as_str()
                    && second["frames"].as_u64() >= Some(29)
                    && second["lost"] == 0
            };
            let seconds = witness.told("second", watched);
            let last = seconds.last_chunk::<2>()?;
            last.iter().all(smooth).then_some(home)
        });
    let plan = roost(&mesh, &format!("node drain {left} --dry-run"));
    assert_eq!(plan.code, Some(0), "{plan:?}");
    assert!(plan.stdout.contains("gate") && plan.stdout.contains("yes"), "{}", plan.stdout);
    assert_eq!(mesh.node(&left).get("/readyz").status, 200, "nothing was done");
    let begun = Instant::now();
    let drained = roost(&mesh, &format!("node drain {left}"));
    assert_eq!(drained.code, Some(0), "{drained:?}");
    assert!(drained.stderr.contains(&format!("{left} is empty")), "{}", drained.stderr);
    println!("{:?} to empty a node", begun.elapsed());
    wait_until(PATIENCE, "nothing is at home there", || {
        names.iter().chain([&"gate"]).all(|name| home(&mesh, name).is_some_and(|at| at != left))
    });
    wait_until(PATIENCE, "it is not ready", || mesh.node(&left).get("/readyz").status == 503);
    assert_eq!(mesh.node(&left).get("/healthcheck").status, 503);
    let words = mesh.node(&left).get("/readyz").body;
    assert!(words.contains("[-] draining"), "{words}");
    // What comes now goes elsewhere.
    let _new = Encoder::start(&mesh, "new", &[]);
    assert_ne!(home(&mesh, "new"), Some(left.clone()));
    std::thread::sleep(Duration::from_secs(2));
    let gap = viewer.gap_since(begun);
    println!("{gap:?} between two pictures at most");
    let stalled = assert_unseen(&witness.end());
    assert!(gap < SEAM + stalled, "the picture stood still for {gap:?}");
    // It is a wish, not a mood: it outlives the process.
    assert!(mesh.node(&left).process().terminate().success());
    mesh.node(&left).restart();
    wait_until(PATIENCE, "it is drained still", || {
        mesh.others(&left).all(|node| {
            let view = node.view().unwrap_or_default();
            let mut nodes = view["nodes"].as_array().into_iter().flatten();
            nodes.any(|of| {
                of["name"] == left.as_str() && of["state"] == "up" && of["draining"] == true
            })
        })
    });
    assert_eq!(roost(&mesh, &format!("node undrain {left}")).code, Some(0));
    wait_until(PATIENCE, "it is ready", || mesh.node(&left).get("/readyz").status == 200);
    let moved = roost(&mesh, &format!("encoder move gate {left}"));
    assert_eq!(moved.code, Some(0), "{moved:?}");
    assert_eq!(mesh.node(&left).home_of("gate"), Some(left.clone()));
    assert!(viewer.flows(SEAM));
}

#[test]
fn an_encoder_goes_where_it_is_sent_unless_that_cannot_be_and_knows_why() {
    let mesh = Mesh::start(3);
    let _encoder = Encoder::start(&mesh, "gate", &["--fps", "30"]);
    let witness = Witness::start(&mesh, "gate");
    let first = home(&mesh, "gate").expect("all agree");
    let others: Vec<String> = mesh.others(&first).map(|node| node.name().to_owned()).collect();
    let [second, third] = &others[..] else { panic!("{others:?}") };
    let why = |mesh: &Mesh| run(&["encoder", "why", "gate", "--addr", &mesh.addrs()]).stdout;
    assert!(why(&mesh).starts_with(&format!("gate is at home at {first}: ")), "{}", why(&mesh));
    let refused = |mesh: &Mesh, to: &str, code: i32, words: &str| {
        let finished = roost(mesh, &format!("encoder move gate {to}"));
        assert_eq!(finished.code, Some(code), "{finished:?}");
        assert!(finished.stderr.contains(words), "{} lacks {words}", finished.stderr);
        assert_eq!(home(mesh, "gate"), Some(first.clone()));
    };
    refused(&mesh, "n9", 3, "no node is called");
    refused(&mesh, &first, 4, "it is at home there");
    assert_eq!(roost(&mesh, &format!("node cordon {second}")).code, Some(0));
    wait_until(PATIENCE, "the cordon is known", || {
        roost(&mesh, "status").stdout.contains("cordoned")
    });
    refused(&mesh, second, 4, "takes no encoders: it is drained or cordoned");
    assert_eq!(roost(&mesh, &format!("node set {third} limit=0")).code, Some(0));
    wait_until(PATIENCE, "the limit is known", || {
        let view = mesh.nodes()[0].view().unwrap_or_default();
        let mut nodes = view["nodes"].as_array().into_iter().flatten();
        nodes.any(|of| of["name"] == third.as_str() && of["limit"] == 0)
    });
    refused(&mesh, third, 4, "is full: it takes 0 encoders");
    assert_eq!(roost(&mesh, &format!("node uncordon {second}")).code, Some(0));
    wait_until(PATIENCE, "it goes there", || {
        roost(&mesh, &format!("encoder move gate {second}")).code == Some(0)
    });
    wait_until(PATIENCE, "all know", || home(&mesh, "gate").as_ref() == Some(second));
    let words = why(&mesh);
    assert!(words.starts_with(&format!("gate is at home at {second}: moved by ")), "{words}");
    std::thread::sleep(Duration::from_secs(2));
    assert_unseen(&witness.end());
}

#[test]
fn the_last_node_that_is_drained_says_so_and_goes_on() {
    let mesh = Mesh::start(2);
    let _encoder = Encoder::start(&mesh, "gate", &[]);
    let viewer = Viewer::start(&mesh, "gate");
    let first = home(&mesh, "gate").expect("all agree");
    let last = mesh.others(&first).next().expect("two").name().to_owned();
    assert_eq!(roost(&mesh, &format!("node drain {first}")).code, Some(0));
    wait_until(PATIENCE, "it has moved", || home(&mesh, "gate").as_ref() == Some(&last));
    let drained = roost(&mesh, &format!("node drain {last} --deadline 2s"));
    assert_eq!(drained.code, Some(7), "{drained:?}");
    for words in ["gate: no other node takes encoders", "goes on", "undrain"] {
        assert!(drained.stderr.contains(words), "{} lacks {words}", drained.stderr);
    }
    assert_eq!(home(&mesh, "gate").as_ref(), Some(&last));
    // With nobody else to go to, new ones are taken, too.
    let _new = Encoder::start(&mesh, "new", &[]);
    let _viewer = Viewer::start(&mesh, "new");
    assert!(viewer.flows(Duration::from_millis(500)));
    // As soon as one can, it moves.
    assert_eq!(roost(&mesh, &format!("node undrain {first}")).code, Some(0));
    wait_until(PATIENCE, "it moves on its own", || home(&mesh, "gate").as_ref() == Some(&first));
}

/// The metric of how many nodes can be lost.
fn losses(node: &Node) -> Option<f64> {
    let text = node.get("/metrics").body;
    let line = text.lines().find(|line| line.starts_with("roost_survivable_losses"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn as_many_nodes_as_the_mesh_says_can_be_lost_and_all_encoders_have_a_home() {
    let mut mesh = Mesh::start(4);
    for node in ["n1", "n2", "n3", "n4"] {
        assert_eq!(roost(&mesh, &format!("node set {node} limit=3")).code, Some(0));
    }
    assert_eq!(roost(&mesh, "setting add survivable-losses value=1").code, Some(0));
    let names = ["cam-1", "cam-2", "cam-3", "cam-4", "cam-5", "cam-6"];
    let _encoders = names.map(|name| Encoder::start(&mesh, name, &[]));
    let _viewers = names.map(|name| Viewer::start(&mesh, name));
    // Six of twelve places are taken: without two nodes six are left.
    wait_until(PATIENCE, "two can be lost, not three", || {
        mesh.nodes().iter().all(|node| {
            let found = node.view().unwrap_or_default()["survivability"].clone();
            let worst = found["worst"].as_array().map(Vec::len);
            (&found["losses"], &found["exact"], worst, &found["unplaced"])
                == (&2.into(), &true.into(), Some(3), &3.into())
        })
    });
    let status = roost(&mesh, "status").stdout;
    let words = "2 nodes can be lost, whichever: without ";
    assert!(
        status.contains(words) && status.contains(" 3 encoders would have no place"),
        "{status}"
    );
    assert_eq!(losses(&mesh.nodes()[0]), Some(2.0));
    let view = mesh.nodes()[0].view().unwrap_or_default();
    let name = |id: &Value| {
        let mut nodes = view["nodes"].as_array().into_iter().flatten();
        nodes
            .find(|node| node["node"] == *id)
            .and_then(|node| node["name"].as_str().map(str::to_owned))
    };
    let worst = view["survivability"]["worst"].as_array().into_iter().flatten();
    let lost: Vec<String> = worst.filter_map(name).take(2).collect();
    assert_eq!(lost.len(), 2);
    for node in &lost {
        mesh.node(node).kill();
    }
    let left = |mesh: &Mesh| {
        let nodes = mesh.nodes().iter().filter(|node| !lost.contains(&node.name().to_owned()));
        nodes.map(|node| node.name().to_owned()).collect::<Vec<_>>()
    };
    let left = left(&mesh);
    wait_until(PATIENCE, "each is at home at a node that is left", || {
        left.iter().all(|at| {
            let node = mesh.nodes().iter().find(|node| node.name() == at).expect("it is one");
            names.iter().all(|name| {
                let live = node.encoder(name).is_some_and(|of| of["state"] == "live");
                live && node.home_of(name).is_some_and(|home| left.contains(&home))
            })
        })
    });
    wait_until(PATIENCE, "no more can be lost", || losses(mesh.node(&left[0])) == Some(0.0));
    wait_until(PATIENCE, "that is told", || mesh.node(&left[0]).log().contains("mesh.losses_low"));
}

#[test]
fn a_node_that_is_told_to_stop_gives_everything_away_and_nobody_who_watches_sees_it() {
    let mut mesh = Mesh::start(3);
    let _watched = Encoder::start(&mesh, "gate", &["--fps", "30"]);
    let names = ["cam-1", "cam-2", "cam-3"];
    let _idle = names.map(|name| Encoder::start(&mesh, name, &[]));
    let left = home(&mesh, "gate").expect("all agree");
    let staying = mesh.others(&left).next().expect("three").addr().to_string();
    // One that was given another node's address alone goes to home, and has to leave it in time.
    let witness = Witness::start_at(&mesh, "gate", &staying);
    std::thread::sleep(Duration::from_secs(3));
    // Idle ones go first, so what is watched is asked only later.
    for name in names.into_iter().filter(|name| home(&mesh, name).as_ref() != Some(&left)) {
        assert_eq!(roost(&mesh, &format!("encoder move {name} {left}")).code, Some(0));
    }
    let begun = Instant::now();
    assert!(mesh.node(&left).process().terminate().success());
    let took = begun.elapsed();
    println!("{took:?} to stop");
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    // Moved by the node, not gone on their own after a goodbye.
    let moved = mesh.node(&left).log().matches("encoder.moved").count();
    assert_eq!(moved, 4, "{}", mesh.node(&left).log());
    wait_until(PATIENCE, "all are at home elsewhere", || {
        let at = |name: &str| mesh.others(&left).map(|node| node.home_of(name)).collect::<Vec<_>>();
        names
            .iter()
            .chain([&"gate"])
            .all(|name| at(name).iter().all(|home| home.as_ref().is_some_and(|home| *home != left)))
    });
    std::thread::sleep(Duration::from_secs(2));
    assert_unseen(&witness.end());
}

#[test]
fn encoders_come_to_the_pools_that_they_prefer_and_are_refused_by_name_where_they_are_bound() {
    let mut mesh = Mesh::start(4);
    for args in [
        "node set n3 +labels=edge",
        "node set n4 limit=1",
        "pool add north +nodes=n4",
        "pool add edge +labels=edge",
        "encoder add gate --pools north,edge",
        "encoder add dock --pools north --placement only",
    ] {
        let done = roost(&mesh, args);
        assert_eq!(done.code, Some(0), "{args}: {done:?}");
    }
    let key = |name: &str| {
        let made = roost(&mesh, &format!("encoder key {name}"));
        assert_eq!(made.code, Some(0), "{made:?}");
        let file = mesh.folder().path().join(format!("{name}.key"));
        std::fs::write(&file, made.stdout.trim()).expect("it can be written");
        file.display().to_string()
    };
    let keys = ["gate", "dock"].map(key);
    wait_until(PATIENCE, "the limit is known", || {
        mesh.nodes().iter().all(|node| {
            let view = node.view().unwrap_or_default();
            let mut nodes = view["nodes"].as_array().into_iter().flatten();
            nodes.any(|of| of["name"] == "n4" && of["limit"] == 1)
        })
    });
    let _gate = Encoder::start(&mesh, "gate", &["--key-file", &keys[0]]);
    wait_until(PATIENCE, "it is in the first pool", || {
        home(&mesh, "gate").as_deref() == Some("n4")
    });
    let why = roost(&mesh, "encoder why gate").stdout;
    for words in ["pool north, ", "its record prefers north, edge; it is in north", "next is n3"] {
        assert!(why.contains(words), "{why} lacks {words}");
    }
    let plan = roost(&mesh, "plan --drain n4 --add n9 --json").stdout;
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    let moves = (&plan["moving"], &plan["moves"][0]["to_name"], &plan["moves"][0]["reason"]);
    assert_eq!(moves, (&1.into(), &"n3".into(), &"n4 is drained".into()), "{plan}");
    assert_eq!(home(&mesh, "gate").as_deref(), Some("n4"), "nothing was done");
    let table = roost(&mesh, "plan --lose 1").stdout;
    assert!(table.contains("lost: ") && table.contains("then: "), "{table}");
    // Its only pool is full: it is told so, and comes once there is room.
    let dock = Encoder::begin(&mesh, "dock", &["--key-file", &keys[1]]);
    wait_until(PATIENCE, "it is refused by the name of the pool", || {
        dock.log().contains("pool north only")
    });
    assert!(mesh.nodes().iter().all(|node| node.home_of("dock").is_none()));
    assert_eq!(home(&mesh, "gate").as_deref(), Some("n4"), "what runs is untouched");
    assert_eq!(roost(&mesh, "node set n4 limit=2").code, Some(0));
    wait_until(PATIENCE, "it comes", || home(&mesh, "dock").as_deref() == Some("n4"));
    // The pool dies: who prefers it goes on, who is bound to it waits for it.
    mesh.node("n4").kill();
    wait_until(PATIENCE, "it is in the second pool", || {
        mesh.others("n4").all(|node| node.home_of("gate").as_deref() == Some("n3"))
    });
    assert!(mesh.others("n4").all(|node| node.home_of("dock").is_none()));
    mesh.node("n4").restart();
    wait_until(PATIENCE, "it is back in its pool", || home(&mesh, "dock").as_deref() == Some("n4"));
}
