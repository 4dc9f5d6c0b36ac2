//! What a node is called that nobody gave a name.

use crate::id::{NAME_MAX, NodeId};

/// What machines are called that nobody gave a name, either: no help in telling them apart.
const NAMELESS: [&str; 3] = ["", "(none)", "localhost"];

/// The host's name as a label, or else one made of the node's id. Two nodes may have one name.
pub(super) fn default_name(me: NodeId) -> String {
    let host = rustix::system::uname();
    label(&host.nodename().to_string_lossy()).unwrap_or_else(|| format!("n-{}", me.short()))
}

fn label(host: &str) -> Option<String> {
    if NAMELESS.contains(&host) {
        return None;
    }
    let allowed = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '.' | '_' | '-') => c,
        _ => '-',
    };
    Some(host.chars().map(allowed).take(NAME_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::valid_name;

    #[test]
    fn a_host_of_any_name_gives_a_name_that_is_valid() {
        assert_eq!(label("Server-1.Example.org").as_deref(), Some("server-1.example.org"));
        assert_eq!(label("Büro 7").as_deref(), Some("b-ro-7"));
        for host in ["x".repeat(300).as_str(), "ß", "a/b\\c\"d"] {
            assert!(label(host).is_some_and(|name| valid_name(&name)), "{host}");
        }
        for host in NAMELESS {
            assert_eq!(label(host), None);
        }
        assert!(valid_name(&default_name(NodeId([7; 16]))));
    }
}
