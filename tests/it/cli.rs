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
