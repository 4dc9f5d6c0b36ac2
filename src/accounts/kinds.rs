//! What kinds of records there are, and what the numbers of their fields and sets mean. A kind or
//! a number that is not here belongs to a newer version: it is kept, merged and handed on.

use serde::{Deserialize, Serialize};

/// What a record is about.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Kind(pub u16);

/// How a field's bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// UTF-8.
    Text,
    /// A postcard `i64`.
    Number,
    /// One byte, 0 or 1.
    Flag,
    /// 16 bytes: the id of another record, of a node or an encoder.
    Id,
    /// Anything, shown as base64.
    Bytes,
    /// Never shown: a hash of a password or key.
    Secret,
}

/// A kind with its names.
#[derive(Debug)]
pub struct Schema {
    /// Its number.
    pub kind: Kind,
    /// Its name, as in the API.
    pub name: &'static str,
    /// Registers: number, name, how the bytes are read.
    pub fields: &'static [(u16, &'static str, Field)],
    /// Observed-remove sets: number, name, how an element's bytes are read.
    pub sets: &'static [(u16, &'static str, Field)],
    /// Whether a removed record of this kind may be forgotten once every member knows of it. It
    /// cannot be restored, then: only kinds whose ids are drawn anew for each record.
    pub collected: bool,
}

impl Kind {
    /// A tenant: nothing of one is visible to another.
    pub const DOMAIN: Self = Self(1);
    /// Accounts that have rights together.
    pub const GROUP: Self = Self(2);
    /// Somebody who logs in.
    pub const ACCOUNT: Self = Self(3);
    /// Who may do what with what.
    pub const RULE: Self = Self(4);
    /// A camera.
    pub const ENCODER: Self = Self(5);
    /// Streams that share a home.
    pub const ROOM: Self = Self(6);
    /// A named set of nodes.
    pub const POOL: Self = Self(7);
    /// When to call whom.
    pub const ALARM: Self = Self(8);
    /// A setting of the mesh.
    pub const SETTING: Self = Self(9);
    /// A member.
    pub const NODE: Self = Self(10);
    /// A member or a key that is out for good.
    pub const REVOCATION: Self = Self(11);
    /// Actors that no longer write, named so that nobody has to list them: see
    /// [`Ledger`](super::Ledger).
    pub const BASELINE: Self = Self(12);

    /// What is known of this kind.
    pub fn schema(self) -> Option<&'static Schema> {
        SCHEMAS.iter().find(|schema| schema.kind == self)
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        SCHEMAS.iter().find(|schema| schema.name == name).map(|schema| schema.kind)
    }

    /// Whether a removed record may be forgotten. What is unknown here is kept.
    pub fn collected(self) -> bool {
        self.schema().is_some_and(|schema| schema.collected)
    }
}

use Field::{Bytes, Flag, Id, Number, Secret, Text};

/// The set of marks by which an account, a node or an encoder is out of use: see
/// [`Record::is_off`](super::Record::is_off).
pub(super) const DISABLED_SET: u16 = 1;
const DISABLED: (u16, &str, Field) = (DISABLED_SET, "disabled", Bytes);

/// Numbers are never used for anything else, also after a field is given up.
static SCHEMAS: &[Schema] = &[
    Schema {
        kind: Kind::DOMAIN,
        name: "domain",
        fields: &[(1, "name", Text), (2, "description", Text)],
        sets: &[(2, "pools", Text)],
        collected: false,
    },
    Schema {
        kind: Kind::GROUP,
        name: "group",
        fields: &[(1, "name", Text), (2, "description", Text), (3, "domain", Id)],
        sets: &[(2, "accounts", Id), (3, "pools", Text)],
        collected: true,
    },
    Schema {
        kind: Kind::ACCOUNT,
        name: "account",
        fields: &[
            (1, "name", Text),
            (2, "description", Text),
            (3, "domain", Id),
            (4, "password", Secret),
            (5, "not_before", Number),
            (6, "email", Text),
        ],
        sets: &[DISABLED],
        collected: false,
    },
    Schema {
        kind: Kind::RULE,
        name: "rule",
        fields: &[
            (1, "name", Text),
            (2, "description", Text),
            (3, "domain", Id),
            (4, "role", Text),
            (5, "everything", Flag),
        ],
        sets: &[DISABLED, (2, "accounts", Id), (3, "groups", Id), (4, "encoders", Id)],
        collected: true,
    },
    Schema {
        kind: Kind::ENCODER,
        name: "encoder",
        fields: &[
            (1, "name", Text),
            (2, "description", Text),
            (3, "domain", Id),
            (4, "room", Id),
            (5, "pool", Text),
            (6, "always_on", Flag),
        ],
        sets: &[DISABLED, (2, "keys", Secret), (3, "revoked_keys", Secret), (4, "labels", Text)],
        collected: true,
    },
    Schema {
        kind: Kind::ROOM,
        name: "room",
        fields: &[(1, "name", Text), (2, "description", Text), (3, "domain", Id)],
        sets: &[(2, "pools", Text)],
        collected: true,
    },
    Schema {
        kind: Kind::POOL,
        name: "pool",
        fields: &[(1, "name", Text), (2, "description", Text), (3, "only", Flag)],
        sets: &[(2, "nodes", Id), (3, "labels", Text)],
        collected: true,
    },
    Schema {
        kind: Kind::ALARM,
        name: "alarm",
        fields: &[
            (1, "name", Text),
            (2, "description", Text),
            (3, "when", Text),
            (4, "call", Text),
        ],
        sets: &[DISABLED],
        collected: true,
    },
    Schema {
        kind: Kind::SETTING,
        name: "setting",
        fields: &[(1, "name", Text), (2, "value", Text)],
        sets: &[],
        collected: false,
    },
    Schema {
        kind: Kind::NODE,
        name: "node",
        fields: &[
            (1, "name", Text),
            (2, "description", Text),
            (3, "drain", Flag),
            (4, "cordon", Flag),
        ],
        sets: &[DISABLED, (2, "keys", Bytes), (3, "revoked_keys", Bytes), (4, "labels", Text)],
        collected: false,
    },
    Schema {
        kind: Kind::REVOCATION,
        name: "revocation",
        fields: &[(1, "reason", Text), (2, "node", Id), (3, "cut", Bytes)],
        sets: &[],
        collected: false,
    },
    Schema {
        kind: Kind::BASELINE,
        name: "baseline",
        fields: &[(1, "actors", Bytes)],
        sets: &[],
        collected: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_field_and_set_has_one_number_and_one_name() {
        for schema in SCHEMAS {
            assert_eq!(Kind::named(schema.name), Some(schema.kind));
            for list in [schema.fields, schema.sets] {
                let mut numbers: Vec<_> = list.iter().map(|(number, ..)| number).collect();
                let mut names: Vec<_> = list.iter().map(|(_, name, _)| name).collect();
                numbers.dedup();
                names.sort();
                names.dedup();
                assert_eq!((numbers.len(), names.len()), (list.len(), list.len()));
            }
        }
    }

    #[test]
    fn removals_of_accounts_members_and_revocations_are_never_collected() {
        for kind in [Kind::ACCOUNT, Kind::NODE, Kind::REVOCATION, Kind(999)] {
            assert!(!kind.collected());
        }
        assert!(Kind::ROOM.collected());
    }
}
