//! `list` and `show`.

use comfy_table::Cell;
use serde_json::{Value, json};

use super::act::{Item, Names, find, id_of, pages, short_id};
use super::kinds::{Kind, What};
use super::{List, One, Output};
use crate::cli::call::Mesh;
use crate::cli::exit::Failure;
use crate::cli::{out, table};

/// Widest text in a cell: descriptions are for `show`.
const CELL_MAX: usize = 48;

/// Prints all of a kind.
pub(super) async fn list(kind: &'static Kind, args: List) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let mut query = Vec::new();
    if let Some(text) = &args.text {
        query.push(("q", text.as_str()));
    }
    if let Some(domain) = &args.domain {
        query.push(("domain", domain.as_str()));
    }
    let mut items = pages(&mesh, kind, &query, args.limit).await?;
    if let Some(limit) = args.limit {
        items.truncate(limit as usize);
    }
    if args.common.output() == Output::Json {
        return out::json(&json!({ "items": items }));
    }
    let mut names = Names::new(&mesh);
    if items.len() > 1 {
        learn(kind, &items, &mut names).await;
    }
    if args.common.output() == Output::Name {
        for item in &items {
            out::line(&names.full(item).await)?;
        }
        return Ok(());
    }
    if items.is_empty() {
        let none = match query.is_empty() {
            true => format!("there are no {} that you may see", kind.plural),
            false => format!("there are no such {}", kind.plural),
        };
        out::talk(&none);
        return Ok(());
    }
    let mut rows = Vec::new();
    for item in &items {
        rows.push((names.full(item).await, row(kind, item, &mut names).await));
    }
    rows.sort();
    out::line(&grid(kind, rows))
}

/// What other kinds' names the columns need.
async fn learn(kind: &'static Kind, items: &[Value], names: &mut Names<'_>) {
    for column in kind.columns {
        let of = kind.part(column).filter(|(_, is_set)| !is_set);
        if let Some((part, _)) = of
            && let What::One(of) = part.what
            && let Some(of) = Kind::named(of)
            && items.iter().any(|item| item[column].is_string())
        {
            names.learn(of).await;
        }
    }
}

/// The cells of one: name, id, columns, notes.
async fn row(kind: &'static Kind, item: &Value, names: &mut Names<'_>) -> Vec<String> {
    let name = item["name"].as_str().unwrap_or("-");
    let mut cells = vec![table::short(name, CELL_MAX), short_id(id_of(item)).to_owned()];
    for column in kind.columns {
        let value = &item[column];
        let text = match kind.part(column) {
            _ if *column == "capacity" => capacity(item),
            // How many says more than the names of the first few.
            Some((part, true)) if matches!(part.what, What::One(_)) => {
                value.as_array().map_or(0, Vec::len).to_string()
            }
            Some((part, _)) => names.value(part.what, value).await,
            None if *column == "expires" => table::time(value),
            None => table::value(value),
        };
        cells.push(table::short(&text, CELL_MAX));
    }
    cells.push(notes(item).join(", "));
    cells
}

/// What a node is good for, and how that is known.
fn capacity(item: &Value) -> String {
    match (item["capacity"].as_u64(), item["measured"].as_u64()) {
        (Some(declared), _) => format!("{declared} declared"),
        (None, Some(measured)) => format!("{measured} measured"),
        (None, None) => "-".to_owned(),
    }
}

/// What is out of the ordinary.
fn notes(item: &Value) -> Vec<String> {
    let mut notes = Vec::new();
    for (flag, word) in
        [("disabled", "disabled"), ("duplicate", "name is taken twice"), ("revoked", "revoked")]
    {
        if item[flag] == json!(true) {
            notes.push(word.to_owned());
        }
    }
    if let Some(conflicts) = item["conflicts"].as_object().filter(|it| !it.is_empty()) {
        let fields = conflicts.keys().cloned().collect::<Vec<_>>().join(" and ");
        notes.push(format!("conflict in {fields}"));
    }
    notes
}

fn grid(kind: &Kind, rows: Vec<(String, Vec<String>)>) -> String {
    let mut header = vec!["NAME".to_owned(), "ID".to_owned()];
    header.extend(kind.columns.iter().map(|column| match *column {
        "home_name" => "HOME".to_owned(),
        "addrs" => "ADDRESS".to_owned(),
        column => column.to_uppercase(),
    }));
    header.push("NOTES".to_owned());
    // A column in which there is nothing says nothing.
    let empty = |at: usize| rows.iter().all(|(_, row)| matches!(row[at].as_str(), "" | "-"));
    let kept: Vec<usize> = (0..header.len()).filter(|&at| at < 2 || !empty(at)).collect();
    let header: Vec<&str> = kept.iter().map(|&at| header[at].as_str()).collect();
    let mut table = table::grid(&header);
    for (_, row) in &rows {
        table.add_row(kept.iter().map(|&at| Cell::new(&row[at])));
    }
    table::text(&table)
}

/// Prints one.
pub(super) async fn one(kind: &'static Kind, args: One) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let item = find(&mesh, kind, &args.which.name, args.which.domain.as_deref()).await?;
    print(&mesh, kind, &item, args.common.output()).await
}

/// Prints a record in one of the ways.
pub(super) async fn print(
    mesh: &Mesh,
    kind: &'static Kind,
    item: &Item,
    output: Output,
) -> Result<(), Failure> {
    let mut names = Names::new(mesh);
    match output {
        Output::Json => out::json(&item.value),
        Output::Name => out::line(&names.full(&item.value).await),
        Output::Table => out::line(&told(kind, &item.value, &mut names).await),
    }
}

async fn told(kind: &'static Kind, item: &Value, names: &mut Names<'_>) -> String {
    let mut rows = vec![("id".to_owned(), id_of(item).to_owned())];
    for part in kind.fields.iter().chain(kind.sets) {
        if let Some(value) = item.get(part.name) {
            rows.push((part.name.to_owned(), names.value(part.what, value).await));
        }
    }
    // What a node sees of it, and what a newer one says.
    let known = ["id", "conflicts", "changed", "duplicate"];
    for (name, value) in item.as_object().into_iter().flatten() {
        let told = known.contains(&name.as_str()) || kind.part(name).is_some();
        if !told && !value.is_object() && !value.is_null() {
            rows.push((name.clone(), table::value(value)));
        }
    }
    if item["duplicate"] == json!(true) {
        rows.push(("duplicate".into(), "another one has this name; rename one of them".into()));
    }
    if let Some(by) = item.get("changed") {
        rows.push(("changed".into(), by_whom(by, names).await));
    }
    let mut text = table::pairs(&rows);
    for (field, values) in item["conflicts"].as_object().into_iter().flatten() {
        let what = kind.part(field).map_or(What::Text, |(part, _)| part.what);
        text.push_str(&format!(
            "\n\n{field} was changed at several nodes at once; settle it: roost {} set {} {field}=...",
            kind.word,
            names.full(item).await
        ));
        for one in values.as_array().into_iter().flatten() {
            let value = names.value(what, &one["value"]).await;
            text.push_str(&format!("\n  {value}  ({})", by_whom(one, names).await));
        }
    }
    text
}

/// `by anna at n1, 2026-11-25 22:43:24Z`.
async fn by_whom(by: &Value, names: &mut Names<'_>) -> String {
    let account = names.of(&super::kinds::ACCOUNT, &by["account"]).await;
    let node = names.of(&super::kinds::NODE, &by["node"]).await;
    format!("by {account} at {node}, {}", table::time(&by["at"]))
}

#[cfg(test)]
mod tests {
    use super::super::kinds;
    use super::*;

    #[test]
    fn a_list_reads_like_this_and_leaves_out_empty_columns() {
        let row = |name: &str, cells: &[&str]| {
            (name.to_owned(), cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>())
        };
        let rows = vec![
            row("anna", &["anna", "0a0a0a0a", "-", "a@example.org", "-", ""]),
            row("bob", &["bob", "0b0b0b0b", "-", "-", "-", "disabled"]),
        ];
        let expected = "\
NAME  ID        EMAIL          NOTES
anna  0a0a0a0a  a@example.org
bob   0b0b0b0b  -              disabled";
        assert_eq!(grid(&kinds::ACCOUNT, rows), expected);
    }

    #[test]
    fn a_capacity_is_said_to_be_declared_or_measured() {
        assert_eq!(capacity(&json!({ "capacity": 50, "measured": 800 })), "50 declared");
        assert_eq!(capacity(&json!({ "capacity": null, "measured": 800 })), "800 measured");
        assert_eq!(capacity(&json!({})), "-");
    }

    #[test]
    fn what_is_out_of_the_ordinary_is_noted() {
        let item = json!({
            "disabled": true, "duplicate": true, "conflicts": { "email": [], "name": [] },
        });
        let expected = ["disabled", "name is taken twice", "conflict in email and name"];
        assert_eq!(notes(&item), expected);
        assert!(notes(&json!({ "disabled": false, "conflicts": {} })).is_empty());
    }
}
