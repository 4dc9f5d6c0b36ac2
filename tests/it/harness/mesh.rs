//! Several real nodes that have joined each other.

use std::sync::Arc;

use tempfile::TempDir;

use super::node::{Node, Options};
use super::{PATIENCE, wait_until};

/// A mesh of nodes called n1, n2, ...
#[derive(Debug)]
pub(crate) struct Mesh {
    nodes: Vec<Node>,
    folder: Arc<TempDir>,
}

impl Mesh {
    /// Starts a founder and `count - 1` newcomers at once, and returns when all see all.
    #[track_caller]
    pub(crate) fn start(count: usize) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
        let founder = Node::start(Options::named("n1").folder(&folder));
        let mut nodes = vec![founder];
        if count > 1 {
            let uses = u32::try_from(count - 1).expect("a mesh of a test is small");
            let invitation = nodes[0].invite(uses);
            let launched: Vec<_> = (2..=count)
                .map(|number| {
                    let options = Options::named(&format!("n{number}")).folder(&folder);
                    Node::launch(options.join(&invitation))
                })
                .collect();
            nodes.extend(launched.into_iter().map(super::node::Launched::ready));
        }
        let mesh = Self { nodes, folder };
        mesh.wait_until_all_see_all();
        mesh
    }

    /// Every node, dead ones included.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node called n1, n2, ...
    #[track_caller]
    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name() == name).expect("the mesh has this node")
    }

    /// Starts every node again, all at once, with nothing to join.
    #[track_caller]
    pub(crate) fn restart_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::relaunch);
        self.nodes.iter_mut().for_each(Node::wait_for_ports);
    }

    /// Every node but this one.
    pub(crate) fn others(&self, name: &str) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.name() != name)
    }

    /// For `--addr`.
    pub(crate) fn addrs(&self) -> String {
        let addrs: Vec<String> = self.nodes.iter().map(|node| node.addr().to_string()).collect();
        addrs.join(",")
    }

    /// Where all processes of the mesh keep data and logs.
    pub(crate) fn folder(&self) -> &Arc<TempDir> {
        &self.folder
    }

    /// Waits until every node thinks that every node is up.
    #[track_caller]
    pub(crate) fn wait_until_all_see_all(&self) {
        wait_until(PATIENCE, "every node sees every node", || {
            self.nodes.iter().all(|node| {
                self.nodes.iter().all(|of| node.opinion_of(of.name()).as_deref() == Some("up"))
            })
        });
    }

    /// Whether everybody else thinks this of the node.
    pub(crate) fn others_say(&self, name: &str, state: &str) -> bool {
        self.others(name).all(|node| node.opinion_of(name).as_deref() == Some(state))
    }
}
