//! `field=value`, `+set=element`, `-set=element`: what somebody wants of a record, as a merge patch
//! of what it is.

use serde_json::{Map, Value, json};

use super::kinds::{Kind, Part, What};
use crate::cli::table;

/// In place of the hyphen of `-set=element` while options are told from the rest.
pub(crate) const MINUS: char = '\u{2212}';

/// A wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) name: String,
    pub(crate) act: Act,
}

/// What is done to a field or set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// This instead; nothing, if it is empty.
    Set(String),
    Add(Vec<String>),
    Remove(Vec<String>),
}

/// A wish with its values as the API takes them, ids for names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Wish {
    Set(Value),
    /// These in this order.
    List(Vec<Value>),
    Change {
        add: Vec<Value>,
        remove: Vec<Value>,
    },
}

/// For `clap`.
pub(crate) fn parse(text: &str) -> Result<Edit, String> {
    let explain = || {
        format!(
            "`{text}` is no change: write FIELD=VALUE, or +SET=ELEMENT and -SET=ELEMENT for sets"
        )
    };
    let (left, right) = text.split_once('=').ok_or_else(explain)?;
    let split = || {
        let parts = right.split(',').filter(|part| !part.is_empty()).map(str::to_owned);
        let parts: Vec<_> = parts.collect();
        if parts.is_empty() { Err(explain()) } else { Ok(parts) }
    };
    let (name, act) = match left.chars().next() {
        Some('+') => (&left[1..], Act::Add(split()?)),
        Some('-') => (&left[1..], Act::Remove(split()?)),
        Some(MINUS) => (&left[MINUS.len_utf8()..], Act::Remove(split()?)),
        _ => (left, Act::Set(right.to_owned())),
    };
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
        return Err(explain());
    }
    Ok(Edit { name: name.to_owned(), act })
}

/// What is wrong with a wish before anybody is asked.
pub(crate) fn check<'k>(kind: &'k Kind, edit: &Edit) -> Result<(&'k Part, bool), String> {
    let Some((part, is_set)) = kind.part(&edit.name) else {
        let names: Vec<&str> = kind.fields.iter().chain(kind.sets).map(|part| part.name).collect();
        let (word, names) = (kind.word, names.join(", "));
        return Err(format!("`{}` is nothing that {word} records have: {names}", edit.name));
    };
    if !is_set && !matches!(edit.act, Act::Set(_)) {
        let name = part.name;
        return Err(format!("{name} is a field, not a set: write {name}=VALUE"));
    }
    Ok((part, is_set))
}

/// The value that a text means; nothing, if it is empty.
pub(crate) fn value(part: &Part, text: &str) -> Result<Value, String> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    Ok(match part.what {
        What::Text | What::One(_) | What::Many(_) => json!(text),
        What::Flag => match text {
            "true" => json!(true),
            "false" => json!(false),
            _ => return Err(format!("{} is true or false, not `{text}`", part.name)),
        },
        What::Number => json!(
            text.parse::<i64>()
                .map_err(|_not_one| { format!("{} is a whole number, not `{text}`", part.name) })?
        ),
    })
}

/// The merge patch that makes `item` what is wished. A field in conflict is in it also if it looks
/// right: that settles it.
pub(crate) fn patch(item: &Value, wishes: &[(String, Wish)]) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, wish) in wishes {
        let now = &item[name];
        let wanted = match wish {
            Wish::Set(value) => value.clone(),
            Wish::List(list) => json!(list),
            Wish::Change { add, remove } => {
                let base = out.get(name).unwrap_or(now).as_array().cloned().unwrap_or_default();
                let mut list: Vec<Value> =
                    base.into_iter().filter(|value| !remove.contains(value)).collect();
                for value in add {
                    if !list.contains(value) {
                        list.push(value.clone());
                    }
                }
                json!(list)
            }
        };
        let alike = match wish {
            Wish::List(list) => now.as_array().map_or(&[][..], Vec::as_slice) == list,
            _ => same(now, &wanted),
        };
        let same = alike && item["conflicts"].get(name).is_none();
        if same {
            out.remove(name);
        } else {
            out.insert(name.clone(), wanted);
        }
    }
    out
}

/// Fields that somebody else changed meanwhile, from what was seen, to something that is not
/// wanted either. Changes of sets go together.
pub(crate) fn clashes(seen: &Value, now: &Value, wishes: &[(String, Wish)]) -> Vec<String> {
    let fields = wishes.iter().filter_map(|(name, wish)| match wish {
        Wish::Set(wanted) => Some((name, wanted.clone())),
        Wish::List(wanted) => Some((name, json!(wanted))),
        Wish::Change { .. } => None,
    });
    let clashing = fields.filter(|(name, wanted)| {
        let (before, after) = (&seen[*name], &now[*name]);
        !same(before, after) && !same(after, wanted)
    });
    clashing
        .map(|(name, wanted)| {
            format!(
                "{name} was {}, is {} now, and you want {}",
                table::value(&seen[name]),
                table::value(&now[name]),
                table::value(&wanted)
            )
        })
        .collect()
}

/// Whether two values are the same: what is not there is `false`, nothing or an empty set.
fn same(a: &Value, b: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    let sorted = |value: &Value| {
        let mut texts: Vec<String> = value.as_array()?.iter().map(Value::to_string).collect();
        texts.sort();
        Some(texts)
    };
    a == b || (empty(a) && empty(b)) || (a.is_array() && sorted(a) == sorted(b))
}

#[cfg(test)]
mod tests {
    use super::super::kinds;
    use super::*;

    fn set(name: &str, value: Value) -> (String, Wish) {
        (name.to_owned(), Wish::Set(value))
    }

    fn change(name: &str, add: &[&str], remove: &[&str]) -> (String, Wish) {
        let list = |of: &[&str]| of.iter().map(|it| json!(it)).collect();
        (name.to_owned(), Wish::Change { add: list(add), remove: list(remove) })
    }

    #[test]
    fn changes_are_told_from_nonsense() {
        let act = |text: &str| parse(text).map(|edit| (edit.name, edit.act));
        let some = |name: &str, act| Ok((name.to_owned(), act));
        assert_eq!(act("email=a=b"), some("email", Act::Set("a=b".into())));
        assert_eq!(act("email="), some("email", Act::Set(String::new())));
        let two = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(act("+groups=a,b"), some("groups", Act::Add(two.clone())));
        assert_eq!(act("-groups=a,b"), some("groups", Act::Remove(two.clone())));
        assert_eq!(act("\u{2212}groups=a,b"), some("groups", Act::Remove(two)));
        for bad in ["", "x", "=x", "+=x", "+groups=", "-groups", "E=x", "--json"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_kind_does_not_have_is_named() {
        let check = |kind, text: &str| check(kind, &parse(text).unwrap()).map(|_| ());
        assert_eq!(check(&kinds::ACCOUNT, "email=x"), Ok(()));
        assert_eq!(check(&kinds::GROUP, "+accounts=x"), Ok(()));
        assert!(check(&kinds::POOL, "email=x").unwrap_err().contains("labels"));
        assert!(check(&kinds::ACCOUNT, "+email=x").unwrap_err().contains("email=VALUE"));
        let flag = kinds::ACCOUNT.part("disabled").unwrap().0;
        assert_eq!(value(flag, "true"), Ok(json!(true)));
        assert_eq!(value(flag, ""), Ok(Value::Null));
        assert!(value(flag, "yes").is_err());
        assert!(value(kinds::NODE.part("capacity").unwrap().0, "soon").is_err());
    }

    #[test]
    fn a_patch_holds_what_changes_and_what_settles_a_conflict() {
        let item = json!({
            "name": "x", "email": "a", "accounts": ["1", "2"], "disabled": false,
            "conflicts": { "email": [] },
        });
        let wishes = [
            set("name", json!("x")),
            set("email", json!("a")),
            set("disabled", Value::Null),
            change("accounts", &["3"], &["1"]),
            change("accounts", &["4"], &[]),
        ];
        let patch = Value::Object(patch(&item, &wishes));
        assert_eq!(patch, json!({ "email": "a", "accounts": ["2", "3", "4"] }));
        let nothing = [change("accounts", &["1"], &["9"])];
        assert!(super::patch(&item, &nothing).is_empty());
    }

    #[test]
    fn a_list_in_another_order_is_another_list() {
        let item = json!({ "pools": ["n", "s"] });
        let list = |of: &[&str]| {
            [("pools".to_owned(), Wish::List(of.iter().map(|it| json!(it)).collect()))]
        };
        assert!(patch(&item, &list(&["n", "s"])).is_empty());
        assert_eq!(Value::Object(patch(&item, &list(&["s", "n"]))), json!({ "pools": ["s", "n"] }));
        assert_eq!(Value::Object(patch(&item, &list(&[]))), json!({ "pools": [] }));
        assert!(patch(&json!({}), &list(&[])).is_empty());
    }

    #[test]
    fn only_a_field_that_others_changed_to_something_else_clashes() {
        let seen = json!({ "email": "a", "name": "x", "accounts": ["1"] });
        let now = json!({ "email": "b", "name": "y", "accounts": ["2"] });
        let wishes = [set("email", json!("c")), change("accounts", &["3"], &[])];
        assert_eq!(clashes(&seen, &now, &wishes), ["email was a, is b now, and you want c"]);
        assert!(clashes(&seen, &now, &[set("email", json!("b"))]).is_empty());
        assert!(clashes(&seen, &now, &[set("description", json!("new"))]).is_empty());
    }
}
