//! Principals, as they are judged when they come and again after they were let in, and what names
//! mean to them.

use std::collections::BTreeSet;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::{Home, Rights};
use crate::access::{DEFAULT_DOMAIN, Principal, Right, Scope, Who, keys};
use crate::id::{AccountId, EncoderId, RecordId};

impl Rights {
    /// What an account's password is at present: whatever was given to whoever showed another is
    /// over. Nothing for accounts that may not log in or have none.
    pub fn password_of(&self, account: AccountId) -> Option<u64> {
        let facts = self.accounts.get(&RecordId(account.0))?;
        (self.is_active(account) && facts.password != 0).then_some(facts.password)
    }

    /// Whether this text is a key of its encoder, by mesh time: whose, and what stands for it in
    /// a [`Principal::proof`].
    pub fn check_key(&self, text: &str, mesh_ms: u64) -> Option<(EncoderId, u64)> {
        let encoder = keys::key_owner(text)?;
        let facts = self.encoder(encoder).filter(|facts| !facts.off)?;
        let hash = keys::key_hash(text);
        let mut found = None;
        // All are looked at, and each in a time that tells nothing of it.
        for known in &facts.keys {
            if verify_slices_are_equal(&known.hash, &hash).is_ok() && known.good_at(mesh_ms) {
                found = Some((encoder, short(&known.hash)));
            }
        }
        found
    }

    /// Whether whoever this was let in as still is: the account has that password, the encoder
    /// that key, neither is out of use, and no node signed what was shown that is shut out now.
    pub fn stands(&self, principal: &Principal, mesh_ms: u64) -> bool {
        if self.distrusts(principal) {
            return false;
        }
        match &principal.who {
            Who::Nobody => false,
            Who::Local => true,
            Who::Client { id, domain } => {
                !self.gone.contains(domain) && !self.ended.contains(&RecordId(id.0))
            }
            Who::Account(account) => self.password_of(*account) == Some(principal.proof),
            Who::Encoder(encoder) => self.encoder(*encoder).is_some_and(|facts| {
                let mut keys = facts.keys.iter();
                !facts.off
                    && keys.any(|key| short(&key.hash) == principal.proof && key.good_at(mesh_ms))
            }),
        }
    }

    /// Whether a node signed what was shown that is shut out.
    pub fn distrusts(&self, principal: &Principal) -> bool {
        principal.issuer.is_some_and(|node| self.distrusted.contains(&node))
    }

    /// Whether whoever this is may (still) watch or send this stream: the one question of every
    /// session, leg and redirect.
    pub fn permits(
        &self,
        principal: &Principal,
        right: Right,
        encoder: EncoderId,
        mesh_ms: u64,
    ) -> bool {
        self.stands(principal, mesh_ms) && self.may_stream(&principal.who, right, encoder)
    }

    /// Everything that somebody has by role, for people.
    pub fn roles(&self, who: &Who) -> Vec<(Right, Scope)> {
        match who {
            Who::Nobody => Vec::new(),
            Who::Local => vec![(Right::Administer, Scope::Mesh)],
            Who::Client { domain, .. } => vec![(Right::Publish, Scope::Domain(*domain))],
            Who::Encoder(encoder) => vec![(Right::Publish, Scope::Encoder(*encoder))],
            Who::Account(account) => {
                let mut roles = BTreeSet::new();
                for rule in self.rules_of(*account) {
                    let confined = self.confines(*account);
                    let wide = match (rule.domain, confined) {
                        (Home::Unclear, _) => continue,
                        (Home::In(domain), _) | (Home::Unnamed, Some(domain)) => {
                            Scope::Domain(domain)
                        }
                        (Home::Unnamed, None) => Scope::Mesh,
                    };
                    let scopes = match rule.everything {
                        true => vec![wide],
                        false => {
                            rule.encoders.iter().map(|id| Scope::Encoder(EncoderId(id.0))).collect()
                        }
                    };
                    let has = |scope: &Scope| self.may(who, rule.right, *scope);
                    roles.extend(scopes.into_iter().filter(has).map(|scope| (rule.right, scope)));
                }
                roles.into_iter().rev().collect()
            }
        }
    }

    /// The domains in which a name without one is looked for: first the own one.
    pub fn name_domains(&self, who: &Who) -> Vec<RecordId> {
        let own = match who {
            Who::Client { domain, .. } => Some(*domain),
            Who::Account(account) => self.confines(*account),
            Who::Encoder(encoder) => self.domain_of(*encoder),
            Who::Local | Who::Nobody => None,
        };
        let mut domains: Vec<RecordId> = own.into_iter().collect();
        if own != Some(DEFAULT_DOMAIN) {
            domains.push(DEFAULT_DOMAIN);
        }
        domains
    }

    /// Takes `name` or `domain/name` apart: the domains to look in, in this order, as far as
    /// `who` sees them, and the name.
    pub fn places_of<'a>(&self, who: &Who, text: &'a str) -> (Vec<RecordId>, &'a str) {
        let (domains, name) = match text.split_once('/') {
            Some((domain, name)) => (self.domain_named(domain).into_iter().collect(), name),
            None => (self.name_domains(who), text),
        };
        let seen = domains.into_iter().filter(|domain| self.sees(who, *domain));
        (seen.collect(), name)
    }

    /// How people write the name of an encoder: with its domain, unless that is the default.
    pub fn full_name(&self, encoder: EncoderId, name: &str) -> String {
        match self.domain_of(encoder).filter(|domain| *domain != DEFAULT_DOMAIN) {
            Some(domain) => format!("{}/{name}", self.domain_name(domain).unwrap_or("?")),
            None => name.to_owned(),
        }
    }
}

fn short(hash: &[u8; 32]) -> u64 {
    u64::from_le_bytes(*hash.first_chunk::<8>().unwrap_or(&[1; 8])).max(1)
}
