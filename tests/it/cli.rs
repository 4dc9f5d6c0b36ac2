//! The command line against real nodes: over the admin socket, and logged in over the network.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::node::{Node, Options};
use crate::harness::process::{Finished, finish, roost};
use crate::harness::{PATIENCE, wait_until};

const PASSWORD: &str = "correct horse battery";

/// Nodes that ask everyone, and a user with a home of their own.
struct User {
    nodes: Vec<Node>,
    folder: Arc<TempDir>,
}

impl User {
    #[track_caller]
    fn start(count: usize) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
        std::fs::write(folder.path().join("password"), PASSWORD).expect("the folder is there");
        let path = folder.path().join("password").display().to_string();
        let options = Options::named("n1").folder(&folder).closed();
        let founder = Node::start(options.args(&["--admin-password-file", &path]));
        let mut user = Self { nodes: vec![founder], folder };
        if count > 1 {
            let invitation = user.local(0, &["invite", "--uses", "9"]).stdout;
            for number in 2..=count {
                let options = Options::named(&format!("n{number}")).folder(&user.folder).closed();
                user.nodes.push(Node::start(options.join(invitation.trim())));
            }
            wait_until(PATIENCE, "every node sees every node", || {
                (0..count).all(|at| {
                    let status = user.local(at, &["status", "--json"]);
                    let view: Value = serde_json::from_str(&status.stdout).unwrap_or_default();
                    let up = |node: &&Value| node["state"] == "up";
                    view["nodes"].as_array().is_some_and(|it| it.iter().filter(up).count() == count)
                })
            });
        }
        user
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = roost();
        command.args(args).env("HOME", self.home()).env("XDG_CONFIG_HOME", self.home());
        command.env("XDG_DATA_HOME", self.home()).env("ROOST_DATA", self.home());
        command
    }

    fn home(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command with these addresses.
    #[track_caller]
    fn run(&self, addr: &str, args: &[&str]) -> Finished {
        let mut command = self.command(args);
        command.args(["--addr", addr]);
        finish(PATIENCE, command)
    }

    /// Runs a command over a node's socket.
    #[track_caller]
    fn local(&self, at: usize, args: &[&str]) -> Finished {
        let socket = self.nodes[at].data().join("roost.sock");
        self.run(&format!("unix:{}", socket.display()), args)
    }

    /// Runs a command that must succeed; what it printed.
    #[track_caller]
    fn good(&self, addr: &str, args: &[&str]) -> String {
        let done = self.run(addr, args);
        assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
        done.stdout
    }

    /// Runs a command with this on standard input.
    #[track_caller]
    fn typed(&self, addr: &str, args: &[&str], input: &str) -> Finished {
        let file = self.home().join("typed");
        std::fs::write(&file, input).expect("the folder is there");
        let mut command = self.command(args);
        command.args(["--addr", addr]);
        command.stdin(Stdio::from(std::fs::File::open(file).expect("it was just written")));
        finish(PATIENCE, command)
    }

    fn addr(&self, at: usize) -> String {
        self.nodes[at].addr().to_string()
    }

    /// What a login left behind.
    fn token(&self) -> String {
        let mut kept = std::fs::read_dir(self.home().join("roost/sessions")).expect("it is there");
        let file = kept.next().expect("one").expect("it can be read");
        let text = std::fs::read_to_string(file.path()).expect("it can be read");
        let kept: Value = serde_json::from_str(&text).expect("JSON");
        kept["token"].as_str().expect("it is a text").to_owned()
    }
}

#[test]
fn a_login_is_kept_for_its_user_and_good_at_every_node_when_the_one_that_gave_it_is_dead() {
    let mut user = User::start(2);
    let (n1, n2) = (user.addr(0), user.addr(1));
    let stranger = user.run(&n1, &["status"]);
    assert_eq!(stranger.code, Some(5), "{stranger:?}");
    assert!(stranger.stderr.contains("roost login"), "it says what next: {stranger:?}");
    let args = ["login", "--name", "admin", "--password-stdin"];
    let wrong = user.typed(&n1, &args, "another one\n");
    assert_eq!(wrong.code, Some(5), "{wrong:?}");
    let done = user.typed(&n1, &args, &format!("{PASSWORD}\n"));
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!done.stdout.contains("v4.") && !done.stderr.contains("v4."), "{done:?}");

    let sessions = user.home().join("roost/sessions");
    let file = std::fs::read_dir(&sessions).expect("it is there").next().expect("one").expect("ok");
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode();
    assert_eq!((mode(&file.path()) & 0o777, mode(&sessions) & 0o777), (0o600, 0o700));
    let me: Value = serde_json::from_str(&user.good(&n2, &["whoami", "--json"])).expect("JSON");
    assert_eq!(me["roles"][0]["role"], "admin", "{me}");
    user.good(&n2, &["status"]);

    // Only the dead one is given: the others are remembered from the login.
    user.nodes[0].kill();
    user.good(&n1, &["status"]);
    user.good(&format!("{n1},{n2}"), &["invite"]);
    // A token that was given does without what is kept.
    let text = std::fs::read_to_string(file.path()).expect("it is there");
    let kept: Value = serde_json::from_str(&text).expect("JSON");
    let token = kept["token"].as_str().expect("it is a text").to_owned();
    user.good(&n2, &["logout"]);
    assert!(!file.path().exists());
    assert_eq!(user.run(&n2, &["status"]).code, Some(5));
    let mut command = user.command(&["status", "--addr", &n2]);
    command.env("ROOST_TOKEN", &token);
    assert_eq!(finish(PATIENCE, command).code, Some(0));
    let path = user.home().join("token");
    std::fs::write(&path, &token).expect("the folder is there");
    user.good(&n2, &["status", "--token-file", &path.display().to_string()]);
    let forged = user.home().join("forged");
    std::fs::write(&forged, token.replace("v4.public.", "v4.public.A")).expect("it can be");
    let refused = user.run(&n2, &["status", "--token-file", &forged.display().to_string()]);
    assert_eq!(refused.code, Some(5), "{refused:?}");
}

#[test]
fn the_socket_needs_no_login_is_the_default_and_goes_with_its_node() {
    let mut user = User::start(1);
    let socket = user.nodes[0].data().join("roost.sock");
    let mode = std::fs::metadata(&socket).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(user.local(0, &["whoami"]).stdout.lines().next(), Some("local"));
    // Without --addr, it is found where a node on this machine has it.
    let mut command = user.command(&["whoami"]);
    command.env("ROOST_DATA", user.nodes[0].data());
    let done = finish(PATIENCE, command);
    assert_eq!(done.stdout.lines().next(), Some("local"), "{done:?}");
    // One that is left over from a node that was killed is replaced.
    user.nodes[0].kill();
    assert!(socket.exists());
    let nobody = user.local(0, &["status"]);
    assert_eq!(nobody.code, Some(6), "{nobody:?}");
    assert_eq!(user.local(0, &["status", "--check"]).code, Some(9));
    user.nodes[0].restart();
    user.good(&format!("unix:{}", socket.display()), &["status"]);
    // What has everything is for whoever is local alone.
    let file = user.home().join("backup").display().to_string();
    let data = user.nodes[0].data().display().to_string();
    let made = finish(PATIENCE, user.command(&["backup", &file, "--data", &data]));
    assert_eq!((made.code, Path::new(&file).exists()), (Some(0), true), "{made:?}");
    // Over a list, the next that answers does.
    let list = format!("unix:{}/none,unix:{}", user.home().display(), socket.display());
    user.good(&list, &["status"]);
    kill_process(user.nodes[0].process().pid(), Signal::TERM).expect("it runs");
    assert!(user.nodes[0].process().wait().success());
    assert!(!socket.exists(), "it is removed at the end");
}

#[test]
fn a_folder_whose_path_is_too_long_for_a_socket_is_done_without() {
    let folder = tempfile::Builder::new().prefix(&"d".repeat(60)).tempdir();
    let folder = Arc::new(folder.expect("a temporary folder can be made"));
    let node = Node::start(Options::named(&"n".repeat(60)).folder(&folder));
    wait_until(PATIENCE, "it says so", || node.log().contains("socket.unavailable"));
    assert_eq!(node.get("/healthcheck").status, 200);
}

#[test]
fn a_member_is_put_out_let_in_and_rekeyed_by_commands() {
    let user = User::start(2);
    let sockets: Vec<String> = user
        .nodes
        .iter()
        .map(|node| format!("unix:{}", node.data().join("roost.sock").display()))
        .collect();
    let refused = user.run(&sockets[0], &["node", "revoke", "n2"]);
    assert_eq!(refused.code, Some(2), "nobody said yes: {refused:?}");
    assert!(refused.stderr.contains("drops it at once"), "it says what follows: {refused:?}");
    user.good(&sockets[1], &["node", "key", "n2"]);
    let state = |name: &str| {
        let shown = user.run(&sockets[0], &["node", "show", name, "--json"]);
        serde_json::from_str::<Value>(&shown.stdout).unwrap_or_default()["state"].clone()
    };
    wait_until(PATIENCE, "it is up with its new key", || state("n2") == "up");
    let other = user.run(&sockets[0], &["node", "key", "n2"]);
    assert_eq!(other.code, Some(4), "only it has its key: {other:?}");
    let args = ["node", "revoke", "n2", "--reason", "stolen", "--yes", "--json"];
    let told: Value = serde_json::from_str(&user.good(&sockets[0], &args)).expect("it is JSON");
    wait_until(PATIENCE, "it is out", || state("n2") != "up");
    let lost = user.run(&sockets[0], &["node", "readmit", "n2", "--yes"]);
    assert_eq!(lost.code, Some(3), "it has no name: {lost:?}");
    let id = told["id"].as_str().expect("it has one");
    user.good(&sockets[0], &["node", "readmit", id, "--yes"]);
    wait_until(PATIENCE, "it is back", || state("n2") == "up");
}

#[test]
fn another_password_ends_what_was_logged_in_to_before_but_for_the_session_it_was_given_in() {
    let user = User::start(2);
    let (n1, n2) = (user.addr(0), user.addr(1));
    log_in(&user, &n1);
    let elsewhere = user.token();
    let with_it = |addr: &str| {
        let mut command = user.command(&["whoami", "--addr", addr]);
        command.env("ROOST_TOKEN", &elsewhere);
        finish(PATIENCE, command).code
    };
    assert_eq!((with_it(&n1), with_it(&n2)), (Some(0), Some(0)));
    let args = ["passwd", "--password-stdin"];
    let wrong = user.typed(&n1, &args, "not this one\nanother good one\n");
    assert_eq!(wrong.code, Some(5), "{wrong:?}");
    let short = user.typed(&n1, &args, &format!("{PASSWORD}\nx\n"));
    assert_ne!(short.code, Some(0), "{short:?}");
    assert_eq!(with_it(&n2), Some(0), "nothing was changed");

    let done = user.typed(&n1, &args, &format!("{PASSWORD}\nanother good one\n"));
    assert_eq!(done.code, Some(0), "{done:?}");
    let said = format!("{}{}", done.stdout, done.stderr);
    assert!(!said.contains("v4.") && !said.contains("another good one"), "{said}");
    wait_until(PATIENCE, "it is over everywhere", || {
        [&n1, &n2].into_iter().all(|addr| with_it(addr) == Some(5))
    });
    for addr in [&n1, &n2] {
        user.good(addr, &["whoami"]);
    }
    let args = ["login", "--name", "admin", "--password-stdin"];
    let before = user.typed(&n2, &args, &format!("{PASSWORD}\n"));
    assert_eq!(before.code, Some(5), "{before:?}");
    let now = user.typed(&n2, &args, "another good one\n");
    assert_eq!(now.code, Some(0), "{now:?}");
    // Who has no password is told so.
    let socket = format!("unix:{}", user.nodes[0].data().join("roost.sock").display());
    let nobody = user.typed(&socket, &["passwd", "--password-stdin"], "a\nb\n");
    assert_eq!(nobody.code, Some(2), "{nobody:?}");
}

/// Logs in at a node as its administrator.
#[track_caller]
fn log_in(user: &User, addr: &str) {
    let args = ["login", "--name", "admin", "--password-stdin"];
    let done = user.typed(addr, &args, &format!("{PASSWORD}\n"));
    assert_eq!(done.code, Some(0), "{done:?}");
}

#[test]
fn every_noun_lives_over_the_socket_and_with_a_login_over_the_network() {
    let user = User::start(1);
    let socket = format!("unix:{}", user.nodes[0].data().join("roost.sock").display());
    let network = user.addr(0);
    log_in(&user, &network);
    for (addr, domain) in [(&socket, "site1"), (&network, "site2")] {
        let good = |args: &[&str]| user.good(addr, args);
        let json = |args: &[&str]| -> Value {
            let args = [args, &["--json"]].concat();
            serde_json::from_str(&user.good(addr, &args)).expect("it is JSON")
        };
        let exit = |args: &[&str]| user.run(addr, args).code;
        let named = |name: &str| format!("{domain}/{name}");
        good(&["domain", "add", domain, "description=a site", "--wait", "1"]);
        good(&["account", "add", "anna", "email=a@b", "--domain", domain]);
        let anna = named("anna");
        for (noun, more) in [
            ("group", "+accounts=anna"),
            ("encoder", "always_on=true"),
            ("room", "description=a room"),
        ] {
            good(&[noun, "add", &named("x"), more]);
        }
        good(&["rule", "add", &named("x"), "role=viewer", "+groups=x", "+encoders=x"]);
        good(&["encoder", "set", &named("x"), "room=x", "+labels=north,south"]);
        good(&["pool", "add", domain, "+nodes=n1", "+labels=edge"]);
        good(&["alarm", "add", domain, "when=node.down", "call=ops"]);
        good(&["setting", "add", domain, "value=1"]);
        let rule = json(&["rule", "show", &named("x")]);
        assert_eq!(rule["groups"][0], json(&["group", "show", &named("x")])["id"]);
        assert_eq!(rule["encoders"][0], json(&["encoder", "show", &named("x")])["id"]);
        let shown = good(&["encoder", "show", &named("x")]);
        assert!(shown.contains("north, south"), "{shown}");
        for noun in ["domain", "account", "group", "rule", "encoder", "room", "pool", "alarm"] {
            let listed = good(&[noun, "list"]);
            assert!(listed.starts_with("NAME"), "{noun}: {listed}");
        }
        let names = good(&["account", "list", "--domain", domain, "--output", "name"]);
        assert_eq!(names, format!("{anna}\n"));

        // A change, its history, and what cannot be done.
        good(&["account", "set", &anna, "description=night", "disabled=true"]);
        let history = good(&["account", "history", &anna]);
        assert!(history.contains("set description") && history.contains("n1"), "{history}");
        let audit = good(&["audit", "--limit", "5"]);
        assert!(audit.contains("account anna"), "{audit}");
        assert_eq!(exit(&["account", "set", &anna, "colour=red"]), Some(2));
        assert_eq!(exit(&["rule", "add", "bad", "role=king"]), Some(2));
        assert_eq!(exit(&["account", "add", &anna]), Some(4), "the name is taken");
        assert_eq!(exit(&["account", "show", "nobody"]), Some(3));
        let bare = user.run(addr, &["account", "show", "anna"]);
        assert_eq!(bare.code, Some(3), "{bare:?}");
        assert!(bare.stderr.contains(&format!("say {anna}")), "it is told where: {bare:?}");
        assert_eq!(exit(&["account", "rm", &anna]), Some(2), "nobody said yes");
        assert_eq!(exit(&["account", "set", &anna, "email=", "--wait", "2"]), Some(7));

        let key = good(&["encoder", "key", &named("x")]);
        assert!(key.starts_with("rk1") && key.lines().count() == 1, "{key}");
        let keys = json(&["encoder", "key", &named("x"), "--list"]);
        let prefix = keys["items"][0]["prefix"].as_str().expect("it has one").to_owned();
        good(&["encoder", "key", &named("x"), "--revoke", &prefix, "--yes"]);
        let keys = json(&["encoder", "key", &named("x"), "--list"]);
        assert_eq!(keys["items"].as_array().map(Vec::len), Some(0), "{keys}");

        good(&["node", "set", "n1", "description=first", "+labels=north"]);
        assert!(good(&["node", "list"]).contains("first"));
        good(&["node", "set", "n1", "-labels=north", "description="]);
        let id = json(&["account", "show", &anna])["id"].as_str().expect("it has one").to_owned();
        good(&["account", "show", &id[..8]]);
        for (noun, name) in [
            ("rule", named("x")),
            ("encoder", named("x")),
            ("group", named("x")),
            ("room", named("x")),
            ("account", anna.clone()),
            ("pool", domain.to_owned()),
            ("alarm", domain.to_owned()),
            ("setting", domain.to_owned()),
            ("domain", domain.to_owned()),
        ] {
            good(&[noun, "rm", &name, "--yes"]);
            assert_eq!(exit(&[noun, "show", &name]), Some(3), "{noun} {name}");
        }
    }
}

#[test]
fn a_stream_key_lets_its_encoder_send_and_its_end_cuts_it_off() {
    let user = User::start(1);
    let addr = user.addr(0);
    user.local(0, &["encoder", "add", "gate"]);
    let socket = format!("unix:{}", user.nodes[0].data().join("roost.sock").display());
    let key = user.good(&socket, &["encoder", "key", "gate"]);
    let path = user.home().join("key");
    std::fs::write(&path, key).expect("the folder is there");
    let (path, state) = (path.display().to_string(), user.home().join("state"));
    let state = state.display().to_string();
    let args =
        ["encode", "gate", "--test", "--key-file", &path, "--state", &state, "--addr", &addr];
    let args = args.map(str::to_owned);
    let _encoder = crate::harness::process::Process::start("gate", user.home(), &args);
    let id: Value =
        serde_json::from_str(&user.good(&socket, &["encoder", "show", "gate", "--json"]))
            .expect("it is JSON");
    let home = || -> Value {
        let shown = user.good(&socket, &["encoder", "show", "gate", "--json"]);
        serde_json::from_str(&shown).expect("it is JSON")
    };
    wait_until(PATIENCE, "it is at home", || home()["home_name"] == "n1");
    assert_eq!(home()["id"], id["id"], "the key says which encoder it is");
    user.good(&socket, &["encoder", "set", "gate", "disabled=true"]);
    wait_until(PATIENCE, "it is cut off", || home()["state"] == "no_signal");
}

#[test]
fn a_conflict_of_two_halves_is_told_and_settled_by_setting_it() {
    let mut user = User::start(2);
    let sockets: Vec<String> = user
        .nodes
        .iter()
        .map(|node| format!("unix:{}", node.data().join("roost.sock").display()))
        .collect();
    user.good(&sockets[0], &["group", "add", "staff", "description=old", "--wait", "2"]);
    // Each is alone when it is changed: a conflict as of a partition.
    user.nodes[1].kill();
    user.good(&sockets[0], &["group", "set", "staff", "description=left"]);
    user.nodes[0].kill();
    user.nodes[1].restart();
    user.good(&sockets[1], &["group", "set", "staff", "description=right"]);
    user.nodes[0].restart();
    wait_until(PATIENCE, "they have met", || {
        sockets.iter().all(|at| user.good(at, &["group", "list"]).contains("conflict in"))
    });
    // What a node is called is heard of it, after its records.
    let told = ["left", "right", "by local at n1", "by local at n2", "roost group set staff"];
    wait_until(PATIENCE, "both sides are told in words", || {
        let shown = user.good(&sockets[0], &["group", "show", "staff"]);
        told.iter().all(|words| shown.contains(words))
    });
    user.good(&sockets[0], &["group", "set", "staff", "description=right", "--wait", "2"]);
    for at in &sockets {
        let shown = user.good(at, &["group", "show", "staff", "--json"]);
        let shown: Value = serde_json::from_str(&shown).expect("it is JSON");
        assert_eq!((&shown["description"], shown.get("conflicts")), (&"right".into(), None));
    }
}
