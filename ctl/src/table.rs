//! Columns of text, aligned as docker's tables are, and lists printed through `--format`.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::failure::{Failure, Outcome};
use crate::json::Json;
use crate::template::{Dialect, Dot, Missing, Template};

/// Space between columns.
const GAP: usize = 3;
/// Narrowest column, gap included.
const NARROWEST: usize = 10;

/// Narrowest column of lists of processes.
const NARROWEST_WIDE: usize = 20;

/// Aligns cells that end in a tab; what follows a line's last tab is no column.
pub fn align(text: &str) -> String {
    align_to(text, NARROWEST)
}

/// The same with wider columns, as `top` prints them.
pub fn align_wide(text: &str) -> String {
    align_to(text, NARROWEST_WIDE)
}

fn align_to(text: &str, narrowest: usize) -> String {
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
    measure(&lines, &mut widths, 0..lines.len(), 0, narrowest);
    let mut out = String::with_capacity(text.len() * 2);
    for (cells, widths) in lines.iter().zip(&widths) {
        for (index, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if index + 1 < cells.len() {
                let missing = widths[index].saturating_sub(cell.chars().count());
                out.push_str(&" ".repeat(missing));
            }
        }
        out.push('\n');
    }
    out
}

/// Sets the width of `column` in each run of lines that have it, and of the columns behind it.
fn measure(
    lines: &[Vec<&str>],
    widths: &mut [Vec<usize>],
    range: Range<usize>,
    column: usize,
    narrowest: usize,
) {
    let mut line = range.start;
    while line < range.end {
        if lines[line].len() <= column + 1 {
            line += 1;
            continue;
        }
        let end = (line..range.end)
            .find(|at| lines[*at].len() <= column + 1)
            .unwrap_or(range.end);
        let width = lines[line..end]
            .iter()
            .map(|cells| cells[column].chars().count() + GAP)
            .max()
            .unwrap_or(0)
            .max(narrowest);
        for widths in &mut widths[line..end] {
            widths[column] = width;
        }
        measure(lines, widths, line..end, column + 1, narrowest);
        line = end;
    }
}

/// A kind of list: what its rows have and how it is printed when nothing else is asked for.
pub struct Listing {
    /// Name of the row's type in messages about wrong templates.
    pub kind: &'static str,
    /// Fields with their column headings.
    pub columns: &'static [(&'static str, &'static str)],
    /// The default table, without the word `table`.
    pub table: &'static str,
    /// What `--quiet` prints of each row.
    pub quiet: &'static str,
    /// What `--format raw` prints of each row: lines of names and fields. Empty for lists that
    /// have no such form.
    pub raw: &'static [(&'static str, &'static str)],
}

impl Listing {
    fn raw_template(&self) -> Option<String> {
        let line = |(name, field): &(&str, &str)| format!("{name}: {{{{.{field}}}}}\n");
        (!self.raw.is_empty()).then(|| self.raw.iter().map(line).collect())
    }
}

/// One row: a value for each of its listing's fields.
#[derive(Debug, Clone, Default)]
pub struct Row {
    fields: Vec<(String, Json)>,
    labels: BTreeMap<String, String>,
}

impl Row {
    pub fn new<const N: usize>(fields: [(&str, Json); N]) -> Self {
        Self {
            fields: fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            labels: BTreeMap::new(),
        }
    }

    /// Adds `.Labels`, and `.Label "key"`.
    pub fn with_labels(mut self, labels: BTreeMap<String, String>) -> Self {
        self.fields
            .push(("Labels".to_owned(), join_labels(&labels).into()));
        self.labels = labels;
        self
    }
}

/// `a=1,b=2`.
pub fn join_labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(",")
}

/// Prints rows by `format`: empty or `table` (the default table), `table TEMPLATE`, `json`, or a
/// template for each row.
pub fn render(listing: &Listing, format: &str, quiet: bool, rows: Vec<Row>) -> Outcome<String> {
    let table = match format {
        _ if quiet && (format.is_empty() || format == "table") => None,
        "" | "table" => Some(listing.table),
        _ => format.strip_prefix("table ").map(str::trim),
    };
    let raw = listing.raw_template();
    let template = match (table, format) {
        (Some(table), _) => table,
        (None, "raw") => raw.as_deref().unwrap_or("raw"),
        (None, "" | "table") => listing.quiet,
        (None, "json") => "{{json .}}",
        (None, template) => template,
    };
    let template = template
        .trim_matches(' ')
        .replace("\\t", "\t")
        .replace("\\n", "\n");
    let template = Template::parse(&template)
        .map_err(|why| Failure::message(format!("template parsing error: {why}")))?;
    let mut text = String::new();
    if table.is_some() {
        let names = listing
            .columns
            .iter()
            .map(|(name, heading)| ((*name).to_owned(), Json::from(*heading)))
            .collect();
        let names = Json::Object(names);
        let dot = Dot {
            value: &names,
            missing: Missing::Key,
            methods: Some(&|name, arguments| header_method(name, arguments)),
            dialect: Dialect::Header,
        };
        text.push_str(&template.run(&dot).map_err(failed)?);
        text.push('\n');
    }
    for row in rows {
        text.push_str(&row_text(listing, &template, row)?);
        text.push('\n');
    }
    Ok(if table.is_some() { align(&text) } else { text })
}

fn row_text(listing: &Listing, template: &Template, row: Row) -> Outcome<String> {
    let labels = row.labels;
    let mut fields = row.fields;
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let value = Json::Object(fields);
    let methods = |name: &str, arguments: &[Json]| match (name, arguments) {
        ("Label", [Json::Text(key)]) => Some(labels.get(key).map_or("", String::as_str).into()),
        _ => None,
    };
    let dot = Dot {
        value: &value,
        missing: Missing::FieldOf(listing.kind),
        methods: Some(&methods),
        dialect: Dialect::Row,
    };
    template.run(&dot).map_err(failed)
}

fn failed(why: String) -> Failure {
    Failure::message(format!("template parsing error: {why}"))
}

/// The heading of `.Label "com.example.my-key"` is `my key`.
fn header_method(name: &str, arguments: &[Json]) -> Option<Json> {
    match (name, arguments) {
        ("Label", [Json::Text(key)]) => {
            let last = key.rsplit('.').next().unwrap_or(key);
            Some(last.replace(['-', '_'], " ").into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THINGS: Listing = Listing {
        kind: "*thing.context",
        columns: &[
            ("ID", "ID"),
            ("Name", "NAME"),
            ("Ports", "PORTS"),
            ("Labels", "LABELS"),
        ],
        table: "{{.ID}}\t{{.Name}}\t{{.Ports}}",
        quiet: "{{.ID}}",
        raw: &[],
    };

    fn rows() -> Vec<Row> {
        [("abc", "web", "*:80->80/tcp"), ("a_very_long_id", "b", "")]
            .into_iter()
            .map(|(id, name, ports)| {
                Row::new([
                    ("ID", id.into()),
                    ("Name", name.into()),
                    ("Ports", ports.into()),
                ])
                .with_labels(BTreeMap::from([(
                    "com.x.my-key".to_owned(),
                    "v".to_owned(),
                )]))
            })
            .collect()
    }

    #[test]
    fn tables_are_dockers() {
        for (format, quiet, text) in [
            (
                "",
                false,
                "ID               NAME      PORTS\nabc              web       *:80->80/tcp\na_very_long_id   b         \n",
            ),
            ("", true, "abc\na_very_long_id\n"),
            (
                "table {{.Name}}\\t{{upper .ID}}",
                false,
                "NAME      ID\nweb       ABC\nb         A_VERY_LONG_ID\n",
            ),
            (
                "{{.Name}}: {{.Label \"com.x.my-key\"}}",
                true,
                "web: v\nb: v\n",
            ),
            (
                "table {{.Label \"com.x.my-key\"}}\t{{.ID}}",
                false,
                "my key    ID\nv         abc\nv         a_very_long_id\n",
            ),
            (
                "json",
                false,
                "{\"ID\":\"abc\",\"Labels\":\"com.x.my-key=v\",\"Name\":\"web\",\"Ports\":\"*:80-\\u003e80/tcp\"}\n{\"ID\":\"a_very_long_id\",\"Labels\":\"com.x.my-key=v\",\"Name\":\"b\",\"Ports\":\"\"}\n",
            ),
        ] {
            assert_eq!(
                render(&THINGS, format, quiet, rows()).unwrap(),
                text,
                "{format}"
            );
        }
        assert_eq!(
            render(&THINGS, "{{.Foo}}", false, rows())
                .unwrap_err()
                .to_string(),
            "template parsing error: template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *thing.context"
        );
        assert_eq!(
            render(&THINGS, "{{.Foo", false, rows())
                .unwrap_err()
                .to_string(),
            "template parsing error: template: :1: unclosed action"
        );
    }
}
