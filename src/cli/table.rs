//! How values and tables look to people.

use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde_json::Value;

/// A table without lines. A column starts where its header does; two blanks part it from the next.
pub(crate) fn grid(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().map(Cell::new));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A table as text: padding at the end of lines helps nobody and spoils comparisons.
pub(crate) fn text(table: &Table) -> String {
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Names and values below each other.
pub(crate) fn pairs(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let lines = rows.iter().map(|(name, value)| {
        // A value of several lines stays in its column.
        let value = value.replace('\n', &format!("\n{:width$}  ", ""));
        format!("{name:width$}  {value}").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A time in milliseconds since 1970, to the second.
pub(crate) fn time(value: &Value) -> String {
    let at = value.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "-".into(), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A value of the API.
pub(crate) fn value(value: &Value) -> String {
    let text = match value {
        Value::Null => return "-".into(),
        Value::String(text) if text.is_empty() => return "\"\"".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => return "-".into(),
        Value::Array(list) => list.iter().map(self::value).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    plain(&text)
}

/// Text of others, without what a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// One line of at most `width` characters; what is longer ends in dots.
pub(crate) fn short(text: &str, width: usize) -> String {
    let line = plain(text).replace('\n', " ");
    match line.chars().nth(width) {
        None => line,
        Some(_) => {
            let kept: String = line.chars().take(width.saturating_sub(1)).collect();
            format!("{}…", kept.trim_end())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_shown_as_people_type_them() {
        for (value, text) in [
            (json!(null), "-"),
            (json!("a b"), "a b"),
            (json!(""), "\"\""),
            (json!(true), "true"),
            (json!(7), "7"),
            (json!([]), "-"),
            (json!(["a", "b"]), "a, b"),
            (json!("\u{1b}[31mred"), "\u{fffd}[31mred"),
        ] {
            assert_eq!(super::value(&value), text);
        }
        assert_eq!(time(&json!(1_795_646_604_123_i64)), "2026-11-25 22:43:24Z");
        assert_eq!(time(&json!(null)), "-");
    }

    #[test]
    fn long_texts_end_in_dots_and_stay_on_one_line() {
        assert_eq!(short("äbcdef", 6), "äbcdef");
        assert_eq!(short("äbcdefg", 6), "äbcde…");
        assert_eq!(short("a\nb", 6), "a b");
    }

    #[test]
    fn pairs_are_aligned() {
        let rows = [("a".to_owned(), "x\ny".to_owned()), ("long".to_owned(), String::new())];
        assert_eq!(pairs(&rows), "a     x\n      y\nlong");
    }
}
