//! Names: finding what has one, and keeping two from having the same.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::reach::{Place, Reach};
use crate::access::{DEFAULT_DOMAIN, DEFAULT_DOMAIN_NAME, Who};
use crate::accounts::{Key, Kind};
use crate::cluster::EncoderState;
use crate::id::RecordId;

/// Most names that an answer suggests: more help nobody to choose.
const CANDIDATES_MAX: usize = 5;

/// Everything of this kind that somebody may read and that is called `name` or `domain/name`.
/// Without a domain it is looked for in `near`, in the one that whoever asks is confined to, in the
/// mesh, and in the one of everything that names none: the first that has it is meant.
pub(super) fn find(
    reach: &Reach<'_>,
    kind: Kind,
    text: &str,
    near: Option<RecordId>,
) -> Vec<RecordId> {
    let (domains, name) = match text.split_once('/') {
        Some((domain, name)) => {
            let domain = reach.rights.domain_named(domain);
            (domain.into_iter().map(Some).collect::<Vec<_>>(), name)
        }
        None => {
            let confined = match reach.who {
                Who::Account(account) => reach.rights.confines(*account),
                Who::Client { domain, .. } => Some(*domain),
                _ => None,
            };
            let first = [near, confined].into_iter().filter(Option::is_some);
            (first.chain([None, Some(DEFAULT_DOMAIN)]).collect(), text)
        }
    };
    for domain in domains {
        let recorded = reach.rights.named(kind, domain, name);
        let found: BTreeSet<RecordId> =
            recorded.chain(unrecorded(reach, kind, name, domain)).collect();
        let reads = |id: &RecordId| reach.reads_key(Key { kind, id: *id });
        let found: Vec<_> = found.into_iter().filter(reads).collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// What people may mean who leave the domain out, where nothing was found without one: what they
/// may read that has this name in other domains, as `domain/name`.
pub(super) fn candidates(reach: &Reach<'_>, kind: Kind, text: &str) -> Vec<String> {
    let of = reach.rights.domains_with(kind, text);
    let read = of.filter(|(_, id)| reach.reads_key(Key { kind, id: *id }));
    let named = read.filter_map(|(domain, _)| reach.rights.domain_name(domain));
    named.map(|domain| format!("{domain}/{text}")).take(CANDIDATES_MAX).collect()
}

/// `; is it site1/gate or site2/gate?`, if there are any.
pub(super) fn is_it(candidates: &[String]) -> String {
    match candidates {
        [] => String::new(),
        [one] => format!("; is it {one}?"),
        [before @ .., last] => format!("; is it {} or {last}?", before.join(", ")),
    }
}

/// What has this name there, but no record that says so.
fn unrecorded(
    reach: &Reach<'_>,
    kind: Kind,
    name: &str,
    domain: Option<RecordId>,
) -> Option<RecordId> {
    let fits = |id: &RecordId| {
        let key = Key { kind, id: *id };
        reach.name(key) == Some(name) && reach.place(key).domain() == domain && reach.reads_key(key)
    };
    match kind {
        // Of several encoders with one name the one that is not lost is meant.
        Kind::ENCODER => {
            let named = reach.view.encoders.iter().filter(|seen| fits(&RecordId(seen.id.0)));
            let best = named.min_by_key(|seen| (seen.state == EncoderState::Lost, seen.id))?;
            Some(RecordId(best.id.0))
        }
        Kind::NODE => {
            let mut nodes = reach.view.nodes.iter().map(|node| RecordId(node.node.0));
            nodes.find(fits)
        }
        Kind::DOMAIN => Some(DEFAULT_DOMAIN).filter(fits),
        _ => None,
    }
}

/// Whether another record of the kind has this name there.
pub(super) fn taken(reach: &Reach<'_>, key: Key, place: Place, name: &str) -> bool {
    let default = key.kind == Kind::DOMAIN && name == DEFAULT_DOMAIN_NAME;
    default && key.id != DEFAULT_DOMAIN
        || reach.rights.named(key.kind, place.domain(), name).any(|id| id != key.id)
}

type Named = (Kind, Option<RecordId>, String);

/// Names that are being given at this node: between looking whether one is taken and having
/// written it down nobody else gives it.
#[derive(Clone, Default)]
pub(in crate::http) struct Reserved(Arc<Mutex<BTreeSet<Named>>>);

/// Gives the name free when it goes.
pub(super) struct Reservation {
    all: Reserved,
    name: Named,
}

impl Reserved {
    /// Nothing if somebody else is giving it right now.
    pub(super) fn take(&self, kind: Kind, place: Place, name: &str) -> Option<Reservation> {
        let name = (kind, place.domain(), name.to_owned());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.clone()).then(|| Reservation { all: self.clone(), name })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.name);
    }
}
