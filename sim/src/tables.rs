//! Tables that are looked into at every packet: by number, without a search.

use roost::id::NodeId;

use crate::conn::{Conn, ConnId};

/// Things by small numbers, such as those of hosts.
#[derive(Debug)]
pub(crate) struct Slots<T>(Vec<Option<T>>);

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Slots<T> {
    pub(crate) fn get(&self, at: &usize) -> Option<&T> {
        self.0.get(*at)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, at: &usize) -> Option<&mut T> {
        self.0.get_mut(*at)?.as_mut()
    }

    pub(crate) fn contains_key(&self, at: &usize) -> bool {
        self.get(at).is_some()
    }

    pub(crate) fn insert(&mut self, at: usize, it: T) -> Option<T> {
        if self.0.len() <= at {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at].replace(it)
    }

    pub(crate) fn get_or_insert(&mut self, at: usize, make: impl FnOnce() -> T) -> &mut T {
        if self.0.len() <= at {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at].get_or_insert_with(make)
    }

    pub(crate) fn remove(&mut self, at: &usize) -> Option<T> {
        self.0.get_mut(*at)?.take()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Connections by their numbers, which only grow.
#[derive(Debug, Default)]
pub(crate) struct Conns(Vec<Option<Box<Conn>>>);

impl Conns {
    pub(crate) fn get(&self, id: &ConnId) -> Option<&Conn> {
        self.0.get(*id as usize)?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, id: &ConnId) -> Option<&mut Conn> {
        self.0.get_mut(*id as usize)?.as_deref_mut()
    }

    pub(crate) fn insert(&mut self, id: ConnId, conn: Conn) {
        let at = id as usize;
        if self.0.len() <= at {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at] = Some(Box::new(conn));
    }

    pub(crate) fn remove(&mut self, id: &ConnId) {
        if let Some(place) = self.0.get_mut(*id as usize) {
            *place = None;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnId, &Conn)> {
        let all = self.0.iter().enumerate();
        all.filter_map(|(id, conn)| Some((id as ConnId, conn.as_deref()?)))
    }
}

/// Which host a node is.
#[derive(Debug)]
pub(crate) struct Index(Vec<(NodeId, usize)>);

impl FromIterator<(NodeId, usize)> for Index {
    fn from_iter<I: IntoIterator<Item = (NodeId, usize)>>(all: I) -> Self {
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_unstable();
        Self(all)
    }
}

impl Index {
    /// Ids are hashes, so that an id's beginning tells about where in their order it is.
    pub(crate) fn get(&self, node: &NodeId) -> Option<&usize> {
        let mut begin = [0; 4];
        begin.copy_from_slice(&node.0[..4]);
        let about = (u64::from(u32::from_be_bytes(begin)) * self.0.len() as u64) >> 32;
        let mut at = about as usize;
        while at > 0 && self.0[at].0 > *node {
            at -= 1;
        }
        while self.0.get(at)?.0 < *node {
            at += 1;
        }
        self.0.get(at).filter(|(id, _)| id == node).map(|(_, ix)| ix)
    }

    /// Hosts in order of their nodes' ids.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|(_, ix)| *ix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_is_found_and_no_other() {
        let id = |n: u64| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&crate::rng::mix(n).to_le_bytes());
            NodeId(bytes)
        };
        for count in [0, 1, 2, 7, 300] {
            let index: Index = (0..count).map(|n| (id(n as u64), n)).collect();
            for n in 0..count + 300 {
                let found = index.get(&id(n as u64)).copied();
                assert_eq!(found, (n < count).then_some(n));
            }
            for edge in [[0; 16], [255; 16]] {
                assert_eq!(index.get(&NodeId(edge)), None);
            }
            assert_eq!(index.hosts().count(), count);
        }
    }
}
