//! Who may read and write which record. What somebody may not read does not exist for them.

use crate::access::{DEFAULT_DOMAIN, Right, Rights, Scope, Who};
use crate::accounts::{Key, Kind, Record};
use crate::cluster::ClusterView;
use crate::id::{AccountId, EncoderId, NodeId, RecordId};

use super::live;

/// What a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The mesh; also what does not say clearly to which domain.
    Mesh,
    Domain(RecordId),
}

impl Place {
    pub(super) fn of(kind: Kind, record: &Record) -> Self {
        let Some(part) = kind.schema().and_then(|schema| schema.domain()) else {
            return Self::Mesh;
        };
        match record.values(part.number).as_slice() {
            [] => Self::without_domain(kind),
            [one] => one.value.try_into().map_or(Self::Mesh, |id| Self::Domain(RecordId(id))),
            _ => Self::Mesh,
        }
    }

    /// Of a record that names no domain.
    pub(super) fn without_domain(kind: Kind) -> Self {
        match kind {
            Kind::ENCODER | Kind::ROOM => Self::Domain(DEFAULT_DOMAIN),
            _ => Self::Mesh,
        }
    }

    pub(super) fn domain(self) -> Option<RecordId> {
        match self {
            Self::Mesh => None,
            Self::Domain(domain) => Some(domain),
        }
    }

    fn scope(self) -> Scope {
        match self {
            Self::Mesh => Scope::Mesh,
            Self::Domain(domain) => Scope::Domain(domain),
        }
    }
}

/// What somebody may.
pub(super) struct Reach<'a> {
    pub(super) rights: &'a Rights,
    pub(super) view: &'a ClusterView,
    pub(super) who: &'a Who,
}

impl<'a> Reach<'a> {
    pub(super) fn new(rights: &'a Rights, view: &'a ClusterView, who: &'a Who) -> Self {
        Self { rights, view, who }
    }

    fn may(&self, right: Right, scope: Scope) -> bool {
        self.rights.may(self.who, right, scope)
    }

    /// Whether they may read a record that is there, in this place.
    pub(super) fn reads(&self, key: Key, place: Place) -> bool {
        match key.kind {
            Kind::DOMAIN => self.rights.sees(self.who, key.id),
            Kind::ACCOUNT if *self.who == Who::Account(AccountId(key.id.0)) => {
                self.rights.is_active(AccountId(key.id.0))
            }
            Kind::ACCOUNT | Kind::GROUP | Kind::RULE | Kind::ENROLMENT => {
                self.may(Right::Administer, place.scope())
            }
            Kind::ENCODER => {
                self.may(Right::View, place.scope())
                    || self.may(Right::View, Scope::Encoder(EncoderId(key.id.0)))
            }
            Kind::ROOM => self.may(Right::View, place.scope()),
            _ => self.may(Right::Operate, Scope::Mesh),
        }
    }

    /// Likewise, of whatever there may be, as the index has it.
    pub(super) fn reads_key(&self, key: Key) -> bool {
        self.reads(key, self.place(key))
    }

    /// Where the index has it; of what has no record, where it would be.
    pub(super) fn place(&self, key: Key) -> Place {
        match self.rights.filed(key) {
            Some((Some(domain), _)) => Place::Domain(domain),
            Some((None, _)) => Place::Mesh,
            None => Place::without_domain(key.kind),
        }
    }

    /// Whether there is such a thing, with a record or without.
    pub(super) fn is_there(&self, key: Key) -> bool {
        self.rights.filed(key).is_some() || live::is_there(self.view, key)
    }

    /// What it is called.
    pub(super) fn name(&self, key: Key) -> Option<&str> {
        let filed = self.rights.filed(key).map(|(_, name)| name).filter(|name| !name.is_empty());
        filed.or_else(|| live::name(self.view, key))
    }

    /// The right that writing a record of this kind takes.
    fn needed(kind: Kind, place: Place) -> (Right, Scope) {
        match kind {
            Kind::ENCODER | Kind::ROOM => (Right::Operate, place.scope()),
            Kind::ACCOUNT | Kind::GROUP | Kind::RULE | Kind::ENROLMENT => {
                (Right::Administer, place.scope())
            }
            _ => (Right::Administer, Scope::Mesh),
        }
    }

    /// Whether they may write it; otherwise what that takes.
    pub(super) fn writes(&self, kind: Kind, place: Place) -> Result<(), String> {
        let (right, scope) = Self::needed(kind, place);
        if self.may(right, scope) {
            return Ok(());
        }
        let of = match scope {
            Scope::Domain(domain) => match self.rights.domain_name(domain) {
                Some(name) if self.rights.sees(self.who, domain) => format!("in domain {name}"),
                _ => "in its domain".to_owned(),
            },
            _ => "over the whole mesh".to_owned(),
        };
        Err(format!("this takes the role {} {of}, which you do not have", right.role()))
    }

    /// Whether they may make something of this kind, somewhere.
    pub(super) fn makes(&self, kind: Kind) -> bool {
        let roles = self.rights.roles(self.who).into_iter();
        let mut places = roles.filter_map(|(_, scope)| match scope {
            Scope::Mesh => Some(Place::Mesh),
            Scope::Domain(domain) => Some(Place::Domain(domain)),
            Scope::Encoder(_) => None,
        });
        places.any(|place| self.writes(kind, place).is_ok())
    }

    /// Whether whoever changed something is their business: the mesh's accounts are, and those of
    /// domains that they see.
    pub(super) fn knows(&self, account: AccountId) -> bool {
        let key = Key { kind: Kind::ACCOUNT, id: RecordId(account.0) };
        match self.rights.filed(key) {
            Some((Some(domain), _)) => self.rights.sees(self.who, domain) || self.reads_key(key),
            // A removed one belonged to nobody knows whom.
            None => account == super::LOCAL || self.may(Right::Administer, Scope::Mesh),
            Some((None, _)) => self.rights.confines(account).is_none(),
        }
    }

    /// The name of an account, if that is their business.
    pub(super) fn account_name(&self, account: AccountId) -> Option<&str> {
        if account == super::LOCAL {
            return Some(crate::access::LOCAL);
        }
        let key = Key { kind: Kind::ACCOUNT, id: RecordId(account.0) };
        self.knows(account).then(|| self.rights.name_of(key)).flatten()
    }

    /// The name of a node.
    pub(super) fn node_name(&self, node: NodeId) -> Option<&str> {
        let former = || self.view.former.get(&node).map(String::as_str);
        self.name(Key { kind: Kind::NODE, id: RecordId(node.0) }).or_else(former)
    }
}
