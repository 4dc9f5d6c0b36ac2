//! Which node this process is, for whoever writes its logs.

use std::sync::OnceLock;

use crate::id::{MeshId, NodeId};

static NODE: OnceLock<String> = OnceLock::new();
static MESH: OnceLock<String> = OnceLock::new();

/// The node and the mesh of this process, once it knows them. Of several nodes in one process,
/// as in tests, the first.
pub fn identity() -> (Option<&'static str>, Option<&'static str>) {
    (NODE.get().map(String::as_str), MESH.get().map(String::as_str))
}

pub(super) fn is_node(node: NodeId) {
    NODE.get_or_init(|| node.to_string());
}

pub(super) fn is_in(mesh: MeshId) {
    MESH.get_or_init(|| mesh.to_string());
}
