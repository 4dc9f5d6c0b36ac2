//! The nouns: what records of each kind have, and what people are told of them.

/// What a field or an element of a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Text,
    Number,
    Flag,
    /// The name or id of a record of this kind.
    One(&'static str),
    /// Such names or ids in order.
    Many(&'static str),
}

/// A field, or a set.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) what: What,
    about: &'static str,
}

/// A kind of record.
#[derive(Debug)]
pub(crate) struct Kind {
    /// On the command line.
    pub(crate) word: &'static str,
    /// In paths of the API.
    pub(crate) plural: &'static str,
    pub(crate) fields: &'static [Part],
    pub(crate) sets: &'static [Part],
    /// What a list shows of each, besides the name: facts of the API.
    pub(crate) columns: &'static [&'static str],
    examples: &'static str,
}

const fn part(name: &'static str, what: What, about: &'static str) -> Part {
    Part { name, what, about }
}

use What::{Flag, Many, Number, One, Text};

const NAME: Part = part("name", Text, "a-z, 0-9, dot, underscore, hyphen");
const DESCRIPTION: Part = part("description", Text, "for people");
const DOMAIN: Part = part("domain", One("domain"), "what it belongs to");
const DISABLED: Part = part("disabled", Flag, "out of use");
const LABELS: Part = part("labels", Text, "words to find it and to choose it by");
const POOLS: Part =
    part("pools", Many("pool"), "nodes that are preferred, by pool, the most liked first");
const PLACEMENT: Part = part("placement", Text, "prefer, or only: nowhere else than in its pools");

pub(crate) static ACCOUNT: Kind = Kind {
    word: "account",
    plural: "accounts",
    fields: &[NAME, DESCRIPTION, DOMAIN, part("email", Text, "for people"), DISABLED],
    sets: &[],
    columns: &["domain", "email", "description"],
    examples: "  roost account add anna email=anna@example.org --password-stdin < secret\n  \
        roost account set anna description=\"night shift\" disabled=true\n  \
        roost account rm anna",
};

pub(crate) static GROUP: Kind = Kind {
    word: "group",
    plural: "groups",
    fields: &[NAME, DESCRIPTION, DOMAIN, POOLS, PLACEMENT],
    sets: &[part("accounts", One("account"), "its members")],
    columns: &["domain", "accounts", "description"],
    examples: "  roost group add staff --domain site1\n  \
        roost group set site1/staff +accounts=anna,eve -accounts=bob",
};

pub(crate) static DOMAIN_KIND: Kind = Kind {
    word: "domain",
    plural: "domains",
    fields: &[NAME, DESCRIPTION, POOLS, PLACEMENT],
    sets: &[],
    columns: &["description"],
    examples: "  roost domain add site1 description=\"North gate\"\n  roost domain list",
};

pub(crate) static RULE: Kind = Kind {
    word: "rule",
    plural: "rules",
    fields: &[
        NAME,
        DESCRIPTION,
        DOMAIN,
        part("role", Text, "what it gives: viewer, publisher, operator or admin"),
        part("everything", Flag, "about all of the domain, not only the encoders that it names"),
        DISABLED,
    ],
    sets: &[
        part("accounts", One("account"), "whom it gives the role"),
        part("groups", One("group"), "whose members it gives the role"),
        part("encoders", One("encoder"), "what it is about; everything, if it names none"),
    ],
    columns: &["domain", "role", "accounts", "groups", "encoders"],
    examples: "  roost rule add guards role=viewer domain=site1 +groups=staff\n  \
        roost rule set guards +encoders=gate",
};

pub(crate) static ENCODER: Kind = Kind {
    word: "encoder",
    plural: "encoders",
    fields: &[
        NAME,
        DESCRIPTION,
        DOMAIN,
        part("room", One("room"), "encoders of a room share a home"),
        POOLS,
        PLACEMENT,
        part("always_on", Flag, "sends also while nobody watches"),
        DISABLED,
    ],
    sets: &[LABELS, part("groups", One("group"), "whose pools it prefers")],
    columns: &["domain", "state", "home_name", "viewers", "description"],
    examples: "  roost encoder add gate --domain site1\n  roost encoder key gate --overlap 24h\n  \
        roost encoder set gate always_on=true +labels=north\n  \
        roost encoder set gate --pools north,south --placement only",
};

pub(crate) static ROOM: Kind = Kind {
    word: "room",
    plural: "rooms",
    fields: &[NAME, DESCRIPTION, DOMAIN, POOLS, PLACEMENT],
    sets: &[],
    columns: &["domain", "description"],
    examples: "  roost room add control --domain site1\n  roost encoder set gate room=control",
};

pub(crate) static POOL: Kind = Kind {
    word: "pool",
    plural: "pools",
    fields: &[NAME, DESCRIPTION],
    sets: &[
        part("nodes", One("node"), "nodes of it"),
        part("labels", Text, "and every node that has one of these labels"),
    ],
    columns: &["nodes", "labels", "description"],
    examples: "  roost pool add north +nodes=n1,n2\n  roost pool add edge +labels=edge\n  \
        roost domain set site1 --pools north,edge",
};

pub(crate) static ALARM: Kind = Kind {
    word: "alarm",
    plural: "alarms",
    fields: &[
        NAME,
        DESCRIPTION,
        part("when", Text, "what has to happen"),
        part("call", Text, "who is told"),
        DISABLED,
    ],
    sets: &[],
    columns: &["when", "call", "description"],
    examples: "  roost alarm add lost when=node.down call=ops@example.org\n  \
        roost alarm set lost disabled=true",
};

pub(crate) static SETTING: Kind = Kind {
    word: "setting",
    plural: "settings",
    fields: &[NAME, part("value", Text, "its value")],
    sets: &[],
    columns: &["value"],
    examples: "  roost setting add greeting value=hello\n  roost setting set greeting value=",
};

pub(crate) static NODE: Kind = Kind {
    word: "node",
    plural: "nodes",
    fields: &[
        NAME,
        DESCRIPTION,
        part("drain", Flag, "hands over what it serves, and takes nothing new"),
        part("cordon", Flag, "takes nothing new"),
        part("capacity", Number, "in hundredths of a processor; as measured if not said"),
        part("limit", Number, "takes so many encoders at most"),
    ],
    sets: &[LABELS],
    columns: &["state", "capacity", "encoders", "viewers", "addrs", "description"],
    examples: "  roost node drain n2\n  roost node set n2 limit=200 +labels=north\n  roost node revoke n3 --reason stolen",
};

pub(crate) static ENROLMENT: Kind = Kind {
    word: "enrolment",
    plural: "enrolments",
    fields: &[NAME, DESCRIPTION, DOMAIN],
    sets: &[],
    columns: &["domain", "expires", "description"],
    examples: "  roost invite --client\n  roost enrolment list\n  \
        roost enrolment set 4c0d description=\"the wall in the lobby\"\n  roost enrolment rm 4c0d",
};

static ALL: [&Kind; 11] = [
    &ACCOUNT,
    &GROUP,
    &DOMAIN_KIND,
    &RULE,
    &ENCODER,
    &ROOM,
    &POOL,
    &ALARM,
    &SETTING,
    &NODE,
    &ENROLMENT,
];

impl Kind {
    /// The kind of this word.
    pub(crate) fn named(word: &str) -> Option<&'static Self> {
        ALL.iter().copied().find(|kind| kind.word == word)
    }

    /// A field or a set.
    pub(crate) fn part(&self, name: &str) -> Option<(&Part, bool)> {
        let field = self.fields.iter().find(|part| part.name == name).map(|part| (part, false));
        field.or_else(|| self.sets.iter().find(|part| part.name == name).map(|part| (part, true)))
    }

    /// Whether records of it are in domains.
    pub(crate) fn has_domain(&self) -> bool {
        self.part("domain").is_some()
    }

    /// What its removal leads to.
    pub(crate) fn end(&self) -> &'static str {
        let schema = roost::accounts::Kind::named(self.word).and_then(|kind| kind.schema());
        schema.map_or("", |schema| schema.end)
    }

    /// What the help says below the commands.
    pub(crate) fn help(&self) -> String {
        let rows = |parts: &[Part]| -> String {
            let width = 12;
            parts.iter().map(|part| format!("\n  {:width$}{}", part.name, part.about)).collect()
        };
        let mut text = format!("Fields (FIELD=VALUE):{}", rows(self.fields));
        if !self.sets.is_empty() {
            text.push_str(&format!("\n\nSets (+SET=ELEMENT, -SET=ELEMENT):{}", rows(self.sets)));
        }
        format!("{text}\n\nExamples:\n{}", self.examples)
    }
}

/// Whether some kind has a set of this name: `-accounts=bob` is no option, then.
pub(crate) fn is_set(name: &str) -> bool {
    ALL.iter().any(|kind| kind.sets.iter().any(|part| part.name == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ledger has them, or the API refuses them.
    #[test]
    fn every_part_is_one_of_the_records() {
        for kind in ALL {
            let schema =
                roost::accounts::Kind::named(kind.word).and_then(|it| it.schema()).unwrap();
            let known: Vec<&str> =
                schema.fields.iter().chain(schema.sets).map(|it| it.name).collect();
            for part in kind.fields.iter().chain(kind.sets) {
                assert!(known.contains(&part.name), "{} has no {}", kind.word, part.name);
                if let One(of) | Many(of) = part.what {
                    assert!(Kind::named(of).is_some(), "{of}");
                }
            }
            for part in schema.fields.iter().chain(schema.sets) {
                let hidden = ["password", "keys", "revoked_keys"].contains(&part.name)
                    // A node is shut out, or takes no encoders.
                    || (kind.word == "node" && part.name == "disabled")
                    || !part.written;
                assert!(
                    hidden || kind.part(part.name).is_some(),
                    "{} lacks {}",
                    kind.word,
                    part.name
                );
            }
        }
    }
}
