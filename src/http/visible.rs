//! What somebody sees of the mesh: what they may not see is in no list, no count and no answer.

use std::collections::{BTreeMap, BTreeSet};

use super::backend::{Backend, Principal};
use crate::access::{Right, Rights, Scope};
use crate::accounts::Kind;
use crate::cluster::{ClusterView, EncoderState, EncoderView, Liveness};
use crate::id::EncoderId;

/// The rights of one principal, for a moment.
pub(super) struct Eyes<'a> {
    pub(super) rights: &'a Rights,
    pub(super) principal: &'a Principal,
}

impl Eyes<'_> {
    /// Whether they may watch this encoder, and so know of it.
    pub(super) fn sees(&self, encoder: EncoderId) -> bool {
        self.rights.may(&self.principal.who, Right::View, Scope::Encoder(encoder))
    }

    /// Whether they may do that in the whole mesh.
    pub(super) fn may_in_mesh(&self, right: Right) -> bool {
        self.rights.may(&self.principal.who, right, Scope::Mesh)
    }

    /// The view without what they do not see; what is counted is counted anew.
    pub(super) fn cluster(&self, view: &ClusterView) -> ClusterView {
        let operates = self.may_in_mesh(Right::Operate);
        let mut seen = view.clone();
        if !self.may_in_mesh(Right::View) {
            // It counts what they do not see.
            seen.survivability = None;
            seen.encoders.retain(|encoder| self.sees(encoder.id));
            for node in &mut seen.nodes {
                let there = matches!(node.state, Liveness::Up | Liveness::Suspect);
                let homes =
                    || seen.encoders.iter().filter(|of| there && of.home == Some(node.node));
                node.encoders = u32::try_from(homes().count()).unwrap_or(u32::MAX);
                node.viewers = homes().map(|of| of.viewers).fold(0, u32::saturating_add);
            }
        }
        if !operates {
            seen.outcasts.clear();
            for node in &mut seen.nodes {
                node.report = None;
            }
        }
        seen
    }

    /// The encoder that an id, `name` or `domain/name` means to them.
    pub(super) fn encoder<'v>(&self, view: &'v ClusterView, text: &str) -> Option<&'v EncoderView> {
        if let Ok(id) = text.parse::<EncoderId>()
            && let Some(found) = view.encoders.iter().find(|encoder| encoder.id == id)
        {
            return self.sees(id).then_some(found);
        }
        let (domains, name) = self.rights.places_of(&self.principal.who, text);
        domains.into_iter().find_map(|domain| {
            let named = self.rights.named(Kind::ENCODER, Some(domain), name);
            let named: BTreeSet<EncoderId> = named.map(|id| EncoderId(id.0)).collect();
            let fits = |of: &&EncoderView| {
                (of.name == name || named.contains(&of.id))
                    && self.rights.domain_of(of.id) == Some(domain)
                    && self.sees(of.id)
            };
            view.encoders.iter().filter(fits).min_by_key(|of| best(of))
        })
    }

    /// One encoder of each name that they see, under its full name.
    pub(super) fn streams<'v>(&self, view: &'v ClusterView) -> BTreeMap<String, &'v EncoderView> {
        let mut streams: BTreeMap<String, &EncoderView> = BTreeMap::new();
        for encoder in view.encoders.iter().filter(|encoder| self.sees(encoder.id)) {
            let name = self.rights.full_name(encoder.id, &encoder.name);
            let known = streams.entry(name).or_insert(encoder);
            if best(encoder) < best(known) {
                *known = encoder;
            }
        }
        streams
    }
}

/// Of several with one name, one that is not lost, and among those always the same.
fn best(encoder: &EncoderView) -> (bool, EncoderId) {
    (encoder.state == EncoderState::Lost, encoder.id)
}

/// Asks with somebody's eyes.
pub(super) fn with<T>(
    backend: &dyn Backend,
    principal: &Principal,
    ask: impl FnOnce(&Eyes<'_>) -> T,
) -> T {
    let rights = backend.rights();
    ask(&Eyes { rights: &rights, principal })
}

/// The encoder that a text means to somebody.
pub(super) fn resolve(
    backend: &dyn Backend,
    principal: &Principal,
    text: &str,
) -> Option<EncoderId> {
    let view = backend.view();
    with(backend, principal, |eyes| eyes.encoder(&view, text).map(|encoder| encoder.id))
}

/// Whether somebody may (still) watch this stream.
pub(super) fn may_watch(backend: &dyn Backend, principal: &Principal, encoder: EncoderId) -> bool {
    let now = backend.mesh_ms();
    backend.rights().permits(principal, Right::View, encoder, now)
}
