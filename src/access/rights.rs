//! What the ledger's domains, groups, accounts, rules and encoders come to, kept up with every
//! changed record, so that a question costs no decoding.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aws_lc_rs::digest;

use super::keys::{self, StreamKey};
use super::{DEFAULT_DOMAIN, DEFAULT_DOMAIN_NAME, Right, Scope, Who};
use crate::accounts::{Key, Kind, Record};
use crate::id::{AccountId, EncoderId, NodeId, RecordId};

mod principals;
mod steering;

use steering::Steering;
pub use steering::{Guide, PLACEMENT_SETTING, POOLS_SETTING};

/// An index of who may do what. See the [module](self).
#[derive(Debug, Clone, Default)]
pub struct Rights {
    domains: BTreeMap<RecordId, Box<str>>,
    /// Those that were removed: nothing in them is anybody's.
    gone: BTreeSet<RecordId>,
    /// Enrolment strings that were removed: they let nobody in any more.
    ended: BTreeSet<RecordId>,
    accounts: BTreeMap<RecordId, AccountFacts>,
    encoders: BTreeMap<RecordId, EncoderFacts>,
    groups: BTreeMap<RecordId, BTreeSet<RecordId>>,
    rules: BTreeMap<RecordId, Rule>,
    /// Accounts with each of their groups.
    member_of: BTreeSet<(RecordId, RecordId)>,
    /// Accounts and groups with each rule that names them.
    granted: BTreeSet<(RecordId, RecordId)>,
    /// Hashes of kind, domain and name; after a partition two may have one name.
    names: BTreeSet<(u64, RecordId)>,
    /// The domain and the name of each record.
    filed: BTreeMap<Key, (Option<RecordId>, Box<str>)>,
    /// Nodes that are shut out: what they signed opens nothing.
    distrusted: BTreeSet<NodeId>,
    /// Where encoders should be.
    steering: Steering,
    version: u64,
    /// Records taken, changed or not.
    taken: u64,
}

/// After so many records the index is packed again, which takes some 50 ms for 100,000 accounts:
/// a node that takes a whole ledger over would keep half of its memory empty.
const COMPACT_EVERY: u64 = 32_768;

/// What is known of an account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct AccountFacts {
    domain: Home,
    off: bool,
    /// Of its password; zero if it has none.
    password: u64,
}

/// What is known of an encoder that has a record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EncoderFacts {
    /// Its domain; nobody's while it is in conflict.
    pub domain: Option<RecordId>,
    /// Disabled or removed: it may not send.
    pub off: bool,
    /// Its keys.
    keys: Box<[StreamKey]>,
}

/// The domain that a record says it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Home {
    /// It names none.
    #[default]
    Unnamed,
    In(RecordId),
    /// It names two, or none that can be read.
    Unclear,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    right: Right,
    domain: Home,
    /// Of all in the domain, or else of the encoders that it names.
    everything: bool,
    encoders: BTreeSet<RecordId>,
    subjects: BTreeSet<RecordId>,
}

impl Rights {
    /// The index of these records.
    pub fn of(records: impl IntoIterator<Item = (Key, Record)>) -> Self {
        let mut rights = Self::default();
        for (key, record) in records {
            rights.changed(key, Some(&record));
        }
        rights.compact();
        rights
    }

    /// Whoever fills a tree in order leaves it half empty; one that is made at once is full.
    fn compact(&mut self) {
        self.accounts = std::mem::take(&mut self.accounts).into_iter().collect();
        self.member_of = std::mem::take(&mut self.member_of).into_iter().collect();
        self.granted = std::mem::take(&mut self.granted).into_iter().collect();
        self.names = std::mem::take(&mut self.names).into_iter().collect();
        self.filed = std::mem::take(&mut self.filed).into_iter().collect();
    }

    /// The kinds that it looks at: at some for their names alone.
    pub const KINDS: [Kind; 11] = [
        Kind::DOMAIN,
        Kind::GROUP,
        Kind::ACCOUNT,
        Kind::RULE,
        Kind::ENCODER,
        Kind::ROOM,
        Kind::POOL,
        Kind::ALARM,
        Kind::SETTING,
        Kind::NODE,
        Kind::ENROLMENT,
    ];

    /// Takes a record as it is now. Whether rights, or names of domains, are others than before.
    pub fn changed(&mut self, key: Key, record: Option<&Record>) -> bool {
        let known = record.filter(|record| record.exists());
        self.file(key, known);
        self.steer(key, known);
        let changed = match key.kind {
            Kind::DOMAIN => self.domain_changed(key.id, record),
            Kind::ACCOUNT => {
                let facts = record.map(|record| {
                    let (domain, off) = (home(record), record.is_off());
                    AccountFacts { domain, off, password: password(record) }
                });
                put(&mut self.accounts, key.id, facts)
            }
            Kind::ENCODER => {
                let facts = record.map(|record| {
                    let domain = match home(record) {
                        _ if record.is_deleted() => Some(DEFAULT_DOMAIN),
                        Home::Unnamed => Some(DEFAULT_DOMAIN),
                        Home::In(domain) => Some(domain),
                        Home::Unclear => None,
                    };
                    EncoderFacts { domain, off: record.is_off(), keys: keys::keys(record).into() }
                });
                put(&mut self.encoders, key.id, facts)
            }
            Kind::GROUP => {
                let members = known.map(|record| ids(record, 2));
                let before = self.groups.get(&key.id).cloned().unwrap_or_default();
                let after = members.clone().unwrap_or_default();
                reindex(&mut self.member_of, key.id, &before, &after);
                put(&mut self.groups, key.id, members);
                before != after
            }
            Kind::RULE => {
                let rule = record.filter(|record| !record.is_off()).and_then(rule);
                let subjects = |rule: Option<&Rule>| rule.map(|rule| rule.subjects.clone());
                let before = subjects(self.rules.get(&key.id)).unwrap_or_default();
                let after = subjects(rule.as_ref()).unwrap_or_default();
                reindex(&mut self.granted, key.id, &before, &after);
                put(&mut self.rules, key.id, rule)
            }
            Kind::ENROLMENT => match record.is_some_and(Record::is_deleted) {
                true => self.ended.insert(key.id),
                false => self.ended.remove(&key.id),
            },
            _ => false,
        };
        self.version += u64::from(changed);
        self.taken += 1;
        if self.taken.is_multiple_of(COMPACT_EVERY) {
            self.compact();
        }
        changed
    }

    /// Nothing that these nodes signed opens anything from now on. Whether that is news.
    pub fn distrust(&mut self, nodes: BTreeSet<NodeId>) -> bool {
        let news = self.distrusted != nodes;
        self.distrusted = nodes;
        self.version += u64::from(news);
        news
    }

    fn domain_changed(&mut self, id: RecordId, record: Option<&Record>) -> bool {
        let known = record.filter(|record| record.exists());
        let name = known.map(|record| text(record, 1).unwrap_or_default().into());
        let named = put(&mut self.domains, id, name);
        let went = match record.is_some_and(Record::is_deleted) {
            true => self.gone.insert(id),
            false => self.gone.remove(&id),
        };
        named || went
    }

    /// Rises with every change of rights.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether `who` may do what takes `right` with `scope`.
    pub fn may(&self, who: &Who, right: Right, scope: Scope) -> bool {
        self.right(who, scope).is_some_and(|has| has >= right)
    }

    /// The highest right that `who` has over the whole of `scope`.
    pub fn right(&self, who: &Who, scope: Scope) -> Option<Right> {
        let domain = match scope {
            Scope::Mesh => None,
            Scope::Domain(domain) => Some(domain),
            Scope::Encoder(encoder) => Some(self.domain_of(encoder)?),
        };
        if let Some(domain) = domain
            && self.gone.contains(&domain)
            && !matches!(who, Who::Local)
        {
            // Whoever has the whole mesh has to be able to clean up.
            return self.right(who, Scope::Mesh);
        }
        match who {
            Who::Nobody => None,
            Who::Local => Some(Right::Administer),
            Who::Client { domain: own, .. } => (domain == Some(*own)).then_some(Right::Publish),
            Who::Encoder(own) => {
                let on = !self.encoders.get(&RecordId(own.0))?.off;
                (on && scope == Scope::Encoder(*own)).then_some(Right::Publish)
            }
            Who::Account(account) => self.right_of(*account, domain, scope),
        }
    }

    fn right_of(
        &self,
        account: AccountId,
        domain: Option<RecordId>,
        scope: Scope,
    ) -> Option<Right> {
        let facts = self.accounts.get(&RecordId(account.0)).filter(|facts| !facts.off)?;
        let confined = match facts.domain {
            Home::Unnamed => None,
            Home::In(own) => Some(own),
            Home::Unclear => return None,
        };
        // An account of a domain has nothing outside it, whatever rules say.
        if confined.is_some_and(|own| domain != Some(own) || self.gone.contains(&own)) {
            return None;
        }
        let grants = self.rules_of(account).filter(|rule| {
            let covers = match rule.domain {
                Home::Unnamed => true,
                Home::In(of) => domain == Some(of),
                Home::Unclear => false,
            };
            let named = rule.everything
                || matches!(scope, Scope::Encoder(id) if rule.encoders.contains(&RecordId(id.0)));
            covers && named
        });
        grants.map(|rule| rule.right).max()
    }

    fn rules_of(&self, account: AccountId) -> impl Iterator<Item = &Rule> {
        let id = RecordId(account.0);
        let subjects = std::iter::once(id).chain(of(&self.member_of, id));
        let rules = subjects.flat_map(|subject| of(&self.granted, subject));
        rules.filter_map(|rule| self.rules.get(&rule))
    }

    /// Whether `who` may watch (or send) this stream: not while the encoder is out of use.
    pub fn may_stream(&self, who: &Who, right: Right, encoder: EncoderId) -> bool {
        let off = self.encoder(encoder).is_some_and(|facts| facts.off);
        !off && self.may(who, right, Scope::Encoder(encoder))
    }

    /// Whether anything of this domain is any business of `who`: then its name is, too.
    pub fn sees(&self, who: &Who, domain: RecordId) -> bool {
        if self.may(who, Right::View, Scope::Domain(domain)) {
            return true;
        }
        match who {
            Who::Encoder(encoder) => self.domain_of(*encoder) == Some(domain),
            Who::Account(account) => {
                let Some(facts) = self.accounts.get(&RecordId(account.0)) else { return false };
                if facts.off {
                    return false;
                }
                facts.domain == Home::In(domain)
                    || self.rules_of(*account).flat_map(|rule| &rule.encoders).any(|encoder| {
                        let encoder = EncoderId(encoder.0);
                        self.domain_of(encoder) == Some(domain)
                            && self.may(who, Right::View, Scope::Encoder(encoder))
                    })
            }
            _ => false,
        }
    }

    /// The domain of an encoder: that of its record, or the one of everything without. Nothing
    /// while that is in conflict.
    pub fn domain_of(&self, encoder: EncoderId) -> Option<RecordId> {
        match self.encoders.get(&RecordId(encoder.0)) {
            Some(facts) => facts.domain,
            None => Some(DEFAULT_DOMAIN),
        }
    }

    /// What is known of an encoder by its record.
    pub fn encoder(&self, encoder: EncoderId) -> Option<&EncoderFacts> {
        self.encoders.get(&RecordId(encoder.0))
    }

    /// Whether the account is there and may log in.
    pub fn is_active(&self, account: AccountId) -> bool {
        self.accounts.get(&RecordId(account.0)).is_some_and(|facts| {
            let gone = matches!(facts.domain, Home::In(own) if self.gone.contains(&own));
            !facts.off && !gone && facts.domain != Home::Unclear
        })
    }

    /// Whether somebody else than this account may log in and do everything in the mesh.
    pub fn is_administered_but_by(&self, account: AccountId) -> bool {
        let others = self.accounts.keys().map(|id| AccountId(id.0)).filter(|id| *id != account);
        let mut others = others.filter(|id| self.password_of(*id).is_some());
        others.any(|id| self.may(&Who::Account(id), Right::Administer, Scope::Mesh))
    }

    /// The domain that confines an account, if one does.
    pub fn confines(&self, account: AccountId) -> Option<RecordId> {
        match self.accounts.get(&RecordId(account.0))?.domain {
            Home::In(domain) => Some(domain),
            Home::Unnamed | Home::Unclear => None,
        }
    }

    /// The records of a kind with this name in this domain, or in none; more than one after a
    /// partition.
    pub fn named(
        &self,
        kind: Kind,
        domain: Option<RecordId>,
        name: &str,
    ) -> impl Iterator<Item = RecordId> {
        of(&self.names, name_hash(kind, domain, name))
    }

    /// The domains in which something of this kind has this name.
    pub fn domains_with(
        &self,
        kind: Kind,
        name: &str,
    ) -> impl Iterator<Item = (RecordId, RecordId)> {
        let domains = std::iter::once(DEFAULT_DOMAIN).chain(self.domains.keys().copied());
        let mut all: Vec<_> = domains
            .flat_map(|domain| {
                self.named(kind, Some(domain), name).map(move |found| (domain, found))
            })
            .collect();
        all.dedup();
        all.into_iter()
    }

    /// The name of a domain.
    pub fn domain_name(&self, domain: RecordId) -> Option<&str> {
        let default = (domain == DEFAULT_DOMAIN).then_some(DEFAULT_DOMAIN_NAME);
        self.domains.get(&domain).map(AsRef::as_ref).or(default)
    }

    /// The domain of this name; of several, always the same.
    pub fn domain_named(&self, name: &str) -> Option<RecordId> {
        let default = (name == DEFAULT_DOMAIN_NAME).then_some(DEFAULT_DOMAIN);
        self.named(Kind::DOMAIN, None, name).next().or(default)
    }

    /// The name of a record of one of [`Rights::KINDS`].
    pub fn name_of(&self, key: Key) -> Option<&str> {
        self.filed.get(&key).map(|(_, name)| name.as_ref())
    }

    /// Where a record of one of [`Rights::KINDS`] is filed that exists: its domain, if it is in
    /// one and that is clear, and its name.
    pub fn filed(&self, key: Key) -> Option<(Option<RecordId>, &str)> {
        self.filed.get(&key).map(|(domain, name)| (*domain, name.as_ref()))
    }

    /// The records of one of [`Rights::KINDS`] that exist, in order of id, after one.
    pub fn after(
        &self,
        kind: Kind,
        after: Option<RecordId>,
    ) -> impl Iterator<Item = (RecordId, Option<RecordId>, &str)> {
        let from = match after {
            Some(id) => Bound::Excluded(Key { kind, id }),
            None => Bound::Included(Key { kind, id: RecordId([0; 16]) }),
        };
        let upto = Bound::Included(Key { kind, id: RecordId([255; 16]) });
        // A range from behind the last id has no beginning.
        let empty = after == Some(RecordId([255; 16]));
        let filed = (!empty).then(|| self.filed.range((from, upto)));
        filed.into_iter().flatten().map(|(key, (domain, name))| (key.id, *domain, name.as_ref()))
    }

    /// Something with a name that is in this domain.
    pub fn any_in(&self, domain: RecordId) -> Option<Key> {
        let mut filed = self.filed.iter();
        filed.find_map(|(key, (within, name))| {
            (*within == Some(domain) && !name.is_empty()).then_some(*key)
        })
    }

    fn file(&mut self, key: Key, record: Option<&Record>) {
        if !Self::KINDS.contains(&key.kind) {
            return;
        }
        if let Some((domain, name)) = self.filed.remove(&key) {
            self.names.remove(&(name_hash(key.kind, domain, &name), key.id));
        }
        let Some(record) = record else { return };
        let name = text(record, 1).unwrap_or_default();
        let in_default = matches!(key.kind, Kind::ENCODER | Kind::ROOM);
        let has_domain = in_default
            || matches!(key.kind, Kind::GROUP | Kind::ACCOUNT | Kind::RULE | Kind::ENROLMENT);
        let domain = match home(record) {
            Home::In(domain) if has_domain => Some(domain),
            Home::Unnamed if in_default => Some(DEFAULT_DOMAIN),
            _ => None,
        };
        if !name.is_empty() {
            self.names.insert((name_hash(key.kind, domain, name), key.id));
        }
        self.filed.insert(key, (domain, name.into()));
    }
}

/// The second of each pair that begins with `first`.
fn of<T: Ord + Copy>(pairs: &BTreeSet<(T, RecordId)>, first: T) -> impl Iterator<Item = RecordId> {
    let range = (first, RecordId([0; 16]))..=(first, RecordId([255; 16]));
    pairs.range(range).map(|(_, second)| *second)
}

/// Eight bytes of a SHA-256, never zero.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let digest = context.finish();
    u64::from_le_bytes(*digest.as_ref().first_chunk::<8>().unwrap_or(&[1; 8])).max(1)
}

fn name_hash(kind: Kind, domain: Option<RecordId>, name: &str) -> u64 {
    let domain = domain.as_ref().map_or(&[][..], |domain| &domain.0);
    hash(&[&kind.0.to_le_bytes(), domain, name.as_bytes()])
}

/// What stands for all present values of a password, and of the moment before which nothing
/// counts; zero without a password.
fn password(record: &Record) -> u64 {
    let mut values: Vec<&[u8]> =
        record.values(PASSWORD_FIELD).iter().map(|sibling| sibling.value).collect();
    if values.is_empty() {
        return 0;
    }
    values.sort_unstable();
    let mut voids: Vec<&[u8]> =
        record.values(NOT_BEFORE_FIELD).iter().map(|sibling| sibling.value).collect();
    voids.sort_unstable();
    values.push(b"");
    values.extend(voids);
    hash(&values)
}

/// Of each account, group, rule, encoder and room; not of a domain, which has no such field.
const DOMAIN_FIELD: u16 = 3;
const ROLE_FIELD: u16 = 4;
const EVERYTHING_FIELD: u16 = 5;
/// Of an account.
const PASSWORD_FIELD: u16 = 4;
const NOT_BEFORE_FIELD: u16 = 5;

fn home(record: &Record) -> Home {
    match record.values(DOMAIN_FIELD).as_slice() {
        [] => Home::Unnamed,
        [one] => one.value.try_into().map_or(Home::Unclear, |id| Home::In(RecordId(id))),
        // Settled, or nobody's: one of them would be the wrong tenant.
        _ => Home::Unclear,
    }
}

fn text(record: &Record, field: u16) -> Option<&str> {
    std::str::from_utf8(record.value(field)?).ok()
}

fn ids(record: &Record, set: u16) -> BTreeSet<RecordId> {
    record.elements(set).filter_map(|bytes| Some(RecordId(bytes.try_into().ok()?))).collect()
}

/// What a rule grants. Of roles in conflict it is the least.
fn rule(record: &Record) -> Option<Rule> {
    let roles = record.values(ROLE_FIELD);
    let rights = roles.iter().map(|role| Right::of_role(std::str::from_utf8(role.value).ok()?));
    let rights = rights.collect::<Option<Vec<_>>>()?;
    let subjects = ids(record, 2).into_iter().chain(ids(record, 3)).collect();
    let right = rights.into_iter().min()?;
    let wide = record.values(EVERYTHING_FIELD);
    let everything = !wide.is_empty() && wide.iter().all(|flag| flag.value == [1]);
    Some(Rule { right, domain: home(record), everything, encoders: ids(record, 4), subjects })
}

/// An index that is read beside the control loop, which alone changes it.
#[derive(Debug, Clone, Default)]
pub struct SharedRights(Arc<RwLock<Rights>>);

impl SharedRights {
    /// To ask. Hold it for a question, not for a wait.
    pub fn read(&self) -> RwLockReadGuard<'_, Rights> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To change.
    pub fn write(&self) -> RwLockWriteGuard<'_, Rights> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a value in its place, or nothing. Whether that is another than before.
fn put<T: PartialEq>(index: &mut BTreeMap<RecordId, T>, id: RecordId, value: Option<T>) -> bool {
    if index.get(&id) == value.as_ref() {
        return false;
    }
    match value {
        Some(value) => drop(index.insert(id, value)),
        None => drop(index.remove(&id)),
    }
    true
}

/// Moves `id` from what it was filed under to what it is now.
fn reindex(
    index: &mut BTreeSet<(RecordId, RecordId)>,
    id: RecordId,
    before: &BTreeSet<RecordId>,
    after: &BTreeSet<RecordId>,
) {
    for old in before.difference(after) {
        index.remove(&(*old, id));
    }
    for new in after.difference(before) {
        index.insert((*new, id));
    }
}

#[cfg(test)]
mod tests;
