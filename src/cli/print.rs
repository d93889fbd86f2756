//! Text for a terminal: tables, JSON as indented lines. Whatever came from a token or from the network is made
//! harmless first: a control character in it could move the cursor and rewrite what the reader sees.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::Value;

/// `text` with each control character but the newline spelled out.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c != '\n' && (c.is_control() || is_bidirectional(c));
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().fold(String::new(), |mut safe, c| {
        if harmful(c) {
            // Writing to a String cannot fail.
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
        } else {
            safe.push(c);
        }
        safe
    }))
}

/// The marks that make the rest of a line run the other way (Unicode annex 9).
const fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// Writes JSON for programs: one document, indented.
pub(super) fn json(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    writeln!(out, "{text}")
}

/// Columns, each as wide as its widest cell. The last one is not padded.
pub(super) fn table(out: &mut dyn Write, head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let cell = |text: &String| harmless(text).replace('\n', "\\n");
            row.iter().map(cell).collect()
        })
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max();
        widest.unwrap_or(0).max(head[column].len())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(&mut head.iter().copied())?;
    for row in &rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

/// JSON for people: `name: value`, one to a line, what is inside a value indented below it.
pub(super) fn lines(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let mut text = String::new();
    indented(&mut text, value, 0);
    write!(out, "{}", harmless(&text))
}

/// The depth of `value` is bounded by its parser: `serde_json` reads at most 128 levels.
fn indented(text: &mut String, value: &Value, depth: usize) {
    let entry = |text: &mut String, name: &str, value: &Value| {
        let _ = write!(text, "{:1$}{name}", "", depth * 2);
        match value {
            Value::Array(inner) if !inner.is_empty() => {
                text.push('\n');
                indented(text, value, depth + 1);
            }
            Value::Object(inner) if !inner.is_empty() => {
                text.push('\n');
                indented(text, value, depth + 1);
            }
            flat => {
                let _ = writeln!(text, " {}", scalar(flat));
            }
        }
    };
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                entry(text, &format!("{}:", name.replace('\n', "\\n")), value);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                entry(text, "-", element);
            }
        }
        flat => {
            let _ = writeln!(text, "{}", scalar(flat));
        }
    }
}

/// A value on one line: text bare, all else as JSON.
pub(super) fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace('\n', "\\n"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(
            harmless("a\u{1b}[2J\u{9b}\u{7f}\u{202e}b\n"),
            "a\\u{1b}[2J\\u{9b}\\u{7f}\\u{202e}b\n"
        );
        assert!(matches!(harmless("plain é\n"), Cow::Borrowed(_)));
        let mut out = vec![];
        table(&mut out, &["A"], &[vec!["x\u{1b}\ny".to_owned()]]).expect("a Vec takes all");
        assert_eq!(String::from_utf8_lossy(&out), "A\nx\\u{1b}\\ny\n");
        let mut out = vec![];
        lines(&mut out, &json!({"a": "\u{1b}\nroot: yes"})).expect("a Vec takes all");
        assert_eq!(String::from_utf8_lossy(&out), "a: \\u{1b}\\nroot: yes\n");
    }

    #[test]
    fn columns_line_up() {
        let mut out = vec![];
        let rows = [
            vec!["a".to_owned(), "bbb".to_owned()],
            vec!["cccc".to_owned(), String::new()],
        ];
        table(&mut out, &["X", "Y"], &rows).expect("a Vec takes all");
        assert_eq!(String::from_utf8_lossy(&out), "X     Y\na     bbb\ncccc\n");
    }

    #[test]
    fn nested_values_are_indented() {
        let mut out = vec![];
        let value = json!({"list": [1, {"k": null}], "empty": {}, "s": "t"});
        lines(&mut out, &value).expect("a Vec takes all");
        assert_eq!(
            String::from_utf8_lossy(&out),
            "empty: {}\nlist:\n  - 1\n  -\n    k: null\ns: t\n"
        );
    }
}
