//! What kinds of records there are, and what the numbers of their fields and sets mean. A kind or
//! a number that is not here belongs to a newer version: it is kept, merged and handed on.

use serde::{Deserialize, Serialize};

use super::VALUE_MAX;

/// What a record is about.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Kind(pub u16);

/// How a field's bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// A name: see [`valid_name`](crate::id::valid_name).
    Name,
    /// UTF-8.
    Text,
    /// A postcard `i64`.
    Number,
    /// One byte, 0 or 1.
    Flag,
    /// 16 bytes: the id of another record, of a node or an encoder.
    Id,
    /// Such ids in a row, the most liked first: [`IDS_MAX`] at most.
    Ids,
    /// Anything, shown as base64.
    Bytes,
    /// Never shown: a hash of a password or key.
    Secret,
}

/// Most ids in a field: more pools than a mesh is cut into.
pub const IDS_MAX: usize = 16;
/// Longest text of a field, unless it says otherwise, in bytes: a paragraph.
const TEXT_MAX: usize = 1_000;
/// Longest label or address in bytes.
const WORD_MAX: usize = 254;

/// A field or a set of a kind: what it holds, and what people may put into it. What comes from
/// other nodes may hold anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its number.
    pub number: u16,
    /// Its name, as in the API.
    pub name: &'static str,
    /// How a value's or an element's bytes are read.
    pub field: Field,
    /// A record has to have it.
    pub required: bool,
    /// People write it; otherwise acts of its own do.
    pub written: bool,
    /// Of which kind the record is that an id names.
    pub names: Option<Kind>,
    /// The texts that it may have; any, if there are none.
    pub one_of: &'static [&'static str],
    /// Longest text in bytes.
    pub max: usize,
    /// What it is, for people.
    pub about: &'static str,
}

impl Part {
    const fn new(number: u16, name: &'static str, field: Field, about: &'static str) -> Self {
        let written = !matches!(field, Bytes | Secret);
        let (max, one_of) = (TEXT_MAX, &[] as &[&str]);
        Self { number, name, field, required: false, written, names: None, one_of, max, about }
    }

    const fn told(self) -> Self {
        Self { written: false, ..self }
    }

    const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    const fn of(self, kind: Kind) -> Self {
        Self { names: Some(kind), ..self }
    }

    const fn one_of(self, texts: &'static [&'static str]) -> Self {
        Self { one_of: texts, ..self }
    }

    const fn upto(self, max: usize) -> Self {
        Self { max, ..self }
    }
}

/// A kind with its names.
#[derive(Debug)]
pub struct Schema {
    /// Its number.
    pub kind: Kind,
    /// Its name.
    pub name: &'static str,
    /// Its name in paths; none has what is only changed by acts of its own.
    pub noun: Option<&'static str>,
    /// Registers.
    pub fields: &'static [Part],
    /// Observed-remove sets.
    pub sets: &'static [Part],
    /// What its removal leads to, for people.
    pub end: &'static str,
    /// Whether a removed record of this kind may be forgotten once every member knows of it. It
    /// cannot be restored, then: only kinds whose ids are drawn anew for each record.
    pub collected: bool,
}

impl Schema {
    /// Whether a record can be out of use without being removed.
    pub fn can_be_disabled(&self) -> bool {
        self.sets.iter().any(|set| set.number == DISABLED_SET)
    }

    /// The sets that hold something, as opposed to [marks](super::Record::is_off).
    pub fn shown_sets(&self) -> impl Iterator<Item = &'static Part> {
        self.sets.iter().filter(|set| set.number != DISABLED_SET && set.field != Secret)
    }

    /// The fields that are shown.
    pub fn shown_fields(&self) -> impl Iterator<Item = &'static Part> {
        self.fields.iter().filter(|field| field.field != Secret)
    }

    /// The field that says in which domain a record is.
    pub fn domain(&self) -> Option<&'static Part> {
        self.fields.iter().find(|field| field.names == Some(Kind::DOMAIN))
    }

    /// The name of a field.
    pub fn field_name(&self, number: u16) -> Option<&'static str> {
        self.fields.iter().find(|field| field.number == number).map(|field| field.name)
    }

    /// The name of a set.
    pub fn set_name(&self, number: u16) -> Option<&'static str> {
        self.sets.iter().find(|set| set.number == number).map(|set| set.name)
    }
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

    /// A string that lets clients in: removed, it does not any more.
    pub const ENROLMENT: Self = Self(13);

    /// What is known of this kind.
    pub fn schema(self) -> Option<&'static Schema> {
        SCHEMAS.iter().find(|schema| schema.kind == self)
    }

    /// Every kind that is known.
    pub fn schemas() -> impl Iterator<Item = &'static Schema> {
        SCHEMAS.iter()
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

use Field::{Bytes, Flag, Id, Ids, Name, Number, Secret, Text};

/// The set of marks by which an account, a node or an encoder is out of use: see
/// [`Record::is_off`](super::Record::is_off).
pub(super) const DISABLED_SET: u16 = 1;
const DISABLED: Part = Part::new(DISABLED_SET, "disabled", Bytes, "out of use");

/// The roles that a rule may give.
const ROLES: &[&str] = &["viewer", "publisher", "operator", "admin"];

const fn name() -> Part {
    Part::new(1, "name", Name, "letters a-z, digits, dot, underscore, hyphen")
        .upto(crate::id::NAME_MAX)
}

const fn description() -> Part {
    Part::new(2, "description", Text, "for people")
}

const fn domain(about: &'static str) -> Part {
    Part::new(3, "domain", Id, about).of(Kind::DOMAIN)
}

const fn refs(number: u16, name: &'static str, kind: Kind, about: &'static str) -> Part {
    Part::new(number, name, Id, about).of(kind)
}

const fn labels(number: u16) -> Part {
    Part::new(number, "labels", Text, "words to find it and to choose it by").upto(64)
}

const OF_MESH: &str = "the domain that it belongs to; without one it is the mesh's";
const OF_DEFAULT: &str = "the domain that it belongs to; without one it is in \"default\"";

const fn pools(number: u16) -> Part {
    Part::new(number, "pools", Ids, "nodes that are preferred, by pool, the most liked first")
        .of(Kind::POOL)
}

/// Whether an encoder may be outside of the pools that are preferred.
const PLACEMENTS: &[&str] = &["prefer", "only"];

const fn placement(number: u16) -> Part {
    let about = "prefer: elsewhere while those pools have no room; only: nowhere else";
    Part::new(number, "placement", Text, about).one_of(PLACEMENTS)
}

/// Numbers are never used for anything else, also after a field is given up.
static SCHEMAS: &[Schema] = &[
    Schema {
        kind: Kind::DOMAIN,
        name: "domain",
        noun: Some("domains"),
        fields: &[name().required(), description(), pools(4), placement(5)],
        sets: &[],
        end: "its name is free again; what is in it has to be moved or removed before",
        collected: false,
    },
    Schema {
        kind: Kind::GROUP,
        name: "group",
        noun: Some("groups"),
        fields: &[name().required(), description(), domain(OF_MESH), pools(4), placement(5)],
        sets: &[refs(2, "accounts", Kind::ACCOUNT, "its members")],
        end: "its members lose what rules give to the group",
        collected: true,
    },
    Schema {
        kind: Kind::ACCOUNT,
        name: "account",
        noun: Some("accounts"),
        fields: &[
            name().required(),
            description(),
            domain(OF_MESH),
            Part::new(4, "password", Secret, "its hash"),
            // 5 was given up: sign-ins end with the password that they were made with.
            Part::new(6, "email", Text, "for people").upto(WORD_MAX),
        ],
        sets: &[DISABLED],
        end: "its sessions and viewers end at every node that hears of it, and it cannot log in again",
        collected: false,
    },
    Schema {
        kind: Kind::RULE,
        name: "rule",
        noun: Some("rules"),
        fields: &[
            name().required(),
            description(),
            domain("the domain that it is about; without one it is about the whole mesh"),
            Part::new(4, "role", Text, "what it gives").one_of(ROLES).required(),
            Part::new(5, "everything", Flag, "about all of it, not only the encoders named"),
        ],
        sets: &[
            DISABLED,
            refs(2, "accounts", Kind::ACCOUNT, "whom it gives the role"),
            refs(3, "groups", Kind::GROUP, "whose members it gives the role"),
            refs(4, "encoders", Kind::ENCODER, "what it is about, unless about everything"),
        ],
        end: "whom it names loses the role that it gives",
        collected: true,
    },
    Schema {
        kind: Kind::ENCODER,
        name: "encoder",
        noun: Some("encoders"),
        fields: &[
            name(),
            description(),
            domain(OF_DEFAULT),
            refs(4, "room", Kind::ROOM, "encoders of a room share a home"),
            pools(5),
            Part::new(6, "always_on", Flag, "sends also while nobody watches"),
            placement(7),
        ],
        sets: &[
            DISABLED,
            Part::new(2, "keys", Secret, "hashes of its stream keys"),
            Part::new(3, "revoked_keys", Secret, "those that are out for good"),
            labels(4),
            refs(5, "groups", Kind::GROUP, "whose pools it prefers"),
        ],
        end: "its keys are good no more, and rules lose sight of it",
        collected: true,
    },
    Schema {
        kind: Kind::ROOM,
        name: "room",
        noun: Some("rooms"),
        fields: &[name().required(), description(), domain(OF_DEFAULT), pools(4), placement(5)],
        sets: &[],
        end: "its encoders are placed one by one",
        collected: true,
    },
    Schema {
        kind: Kind::POOL,
        name: "pool",
        noun: Some("pools"),
        fields: &[name().required(), description()],
        sets: &[
            refs(2, "nodes", Kind::NODE, "nodes of it"),
            Part::new(3, "labels", Text, "and every node that has one of these labels").upto(64),
        ],
        end: "no node is in it any more: what prefers it goes elsewhere, and what may be nowhere \
              else finds no home until it is set otherwise",
        collected: true,
    },
    Schema {
        kind: Kind::ALARM,
        name: "alarm",
        noun: Some("alarms"),
        fields: &[
            name().required(),
            description(),
            Part::new(3, "when", Text, "what has to happen"),
            Part::new(4, "call", Text, "who is told"),
        ],
        sets: &[DISABLED],
        end: "nobody is told any more",
        collected: true,
    },
    Schema {
        kind: Kind::SETTING,
        name: "setting",
        noun: Some("settings"),
        fields: &[name().required(), Part::new(2, "value", Text, "its value").upto(VALUE_MAX)],
        sets: &[],
        end: "the default holds again",
        collected: false,
    },
    Schema {
        kind: Kind::NODE,
        name: "node",
        noun: Some("nodes"),
        fields: &[
            name(),
            description(),
            Part::new(3, "drain", Flag, "hands over what it serves, and takes nothing new"),
            Part::new(4, "cordon", Flag, "takes nothing new"),
            Part::new(
                5,
                "capacity",
                Number,
                "in hundredths of a processor; as measured if not said",
            ),
            Part::new(6, "limit", Number, "takes so many encoders at most"),
        ],
        sets: &[
            DISABLED,
            Part::new(2, "keys", Bytes, "by which it is known"),
            Part::new(3, "revoked_keys", Bytes, "by which it is not any more"),
            labels(4),
        ],
        end: "every member that hears of it drops it at once; it cannot return with its key or an old \
            invitation, and its clients go to other nodes",
        collected: false,
    },
    Schema {
        kind: Kind::REVOCATION,
        name: "revocation",
        noun: None,
        fields: &[
            Part::new(1, "reason", Text, "why"),
            refs(2, "node", Kind::NODE, "who is out"),
            Part::new(3, "cut", Bytes, "what was seen of it"),
        ],
        sets: &[],
        end: "",
        collected: false,
    },
    Schema {
        kind: Kind::BASELINE,
        name: "baseline",
        noun: None,
        fields: &[Part::new(1, "actors", Bytes, "that no longer write")],
        sets: &[],
        end: "",
        collected: false,
    },
    Schema {
        kind: Kind::ENROLMENT,
        name: "enrolment",
        noun: Some("enrolments"),
        fields: &[
            name(),
            description(),
            domain("the domain that it opens").told(),
            Part::new(4, "expires", Number, "when it ends by itself, in ms since 1970").told(),
        ],
        sets: &[],
        end: "whoever came with that string is sent away at every node that hears of it, and it lets \
            nobody in any more",
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
                let mut numbers: Vec<_> = list.iter().map(|part| part.number).collect();
                let mut names: Vec<_> = list.iter().map(|part| part.name).collect();
                numbers.dedup();
                names.sort();
                names.dedup();
                assert_eq!((numbers.len(), names.len()), (list.len(), list.len()));
            }
        }
    }

    #[test]
    fn every_id_says_what_it_names_and_every_role_is_known() {
        let parts = SCHEMAS.iter().flat_map(|schema| schema.fields.iter().chain(schema.sets));
        for part in parts {
            assert_eq!(part.names.is_some(), matches!(part.field, Id | Ids), "{}", part.name);
        }
        assert!(ROLES.iter().all(|role| crate::access::Right::of_role(role).is_some()));
    }

    #[test]
    fn removals_of_accounts_members_and_revocations_are_never_collected() {
        for kind in [Kind::ACCOUNT, Kind::NODE, Kind::REVOCATION, Kind::ENROLMENT, Kind(999)] {
            assert!(!kind.collected());
        }
        assert!(Kind::ROOM.collected());
    }
}
