//! What the commands print, and how they fail.
//!
//! Answers go to standard output, everything else to standard error. Nothing is coloured.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use d_engine_net::{ClientError, Reason};
use serde_json::{Map, Value, json};

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON object
    Json,
    /// For scripts: fields separated by tabs, no heading, values as they are
    Plain,
}

/// Exit codes, as `d-engine --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It failed and had no effect.
    Failed = 1,
    /// Wrong flags or configuration.
    Usage = 2,
    /// The key does not exist, or does not hold what was expected.
    NoMatch = 3,
    /// Nobody knows whether the write was applied.
    Unknown = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed, and what to try next.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) why: String,
    /// A command.
    pub(crate) next: Option<String>,
    pub(crate) exit: Exit,
}

impl Failure {
    pub(crate) fn new(why: impl Display) -> Self {
        Self { why: why.to_string(), next: None, exit: Exit::Failed }
    }

    pub(crate) fn usage(why: impl Display) -> Self {
        Self { exit: Exit::Usage, ..Self::new(why) }
    }

    /// Names the command to try next.
    pub(crate) fn next(mut self, command: impl Display) -> Self {
        self.next = Some(command.to_string());
        self
    }

    /// A request that failed; `check` is the command that shows what became of it.
    pub(crate) fn of_request(error: &ClientError, check: &str) -> Self {
        let failure = Self::new(error);
        match error {
            ClientError::Unknown => Self { exit: Exit::Unknown, ..failure.next(check) },
            ClientError::Rejected { why: Reason::Unsupported { .. } } => failure.next("d-engine status"),
            ClientError::Rejected { .. } => Self { exit: Exit::Usage, ..failure.next("d-engine help") },
            _ => failure.next("d-engine status"),
        }
    }

    /// Prints it as JSON or for people.
    pub(crate) fn report(&self, format: Format) {
        if format == Format::Json {
            let object = json!({ "error": self.why, "next": self.next, "exit": self.exit as u8 });
            print_error(object);
            return;
        }
        print_error(format_args!("error: {}", self.why));
        if let Some(next) = &self.next {
            print_error(format_args!("try: {next}"));
        }
    }
}

/// Prints one line of the answer. A reader that has gone away, as `head` does, ends the program quietly.
pub(crate) fn print(line: impl Display) {
    print_bytes(format!("{line}\n").as_bytes());
}

/// Prints bytes of the answer as they are.
pub(crate) fn print_bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints one line beside the answer.
pub(crate) fn print_error(line: impl Display) {
    // There is nowhere left to say that standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Characters of a key or a value in a table or in a sentence; of a column that others follow.
const CELL_MAX: usize = 80;

/// The beginning of a text, with a mark if that is not all.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(CELL_MAX) {
        None => text.to_owned(),
        Some(_) => text.chars().take(CELL_MAX - 1).chain(['…']).collect(),
    }
}

/// Bytes for people: text as it is, everything else escaped.
pub(crate) fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// Puts bytes into a JSON object: as text under `name`, or under `name_hex` if they are none.
pub(crate) fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_hex"), hex(bytes).into()),
    };
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Prints rows under a heading, each column as wide as its widest cell, within bounds; the last one is never cut.
pub(crate) fn print_table(heading: &[&str], rows: &[Vec<String>]) {
    table(heading, rows).iter().for_each(print);
}

fn table(heading: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let heading = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let mut lines: Vec<Vec<String>> = [&heading].into_iter().chain(rows).map(|row| fitted(row)).collect();
    for column in 0..heading.len().saturating_sub(1) {
        let width = |line: &Vec<String>| line.get(column).map_or(0, |cell| cell.chars().count());
        let widest = lines.iter().map(width).max().unwrap_or(0);
        for line in &mut lines {
            // By hand: the width of a format has a bound beyond which it panics.
            let missing = widest - width(line);
            if let Some(cell) = line.get_mut(column) {
                cell.push_str(&" ".repeat(missing));
            }
        }
    }
    lines.iter().map(|line| line.join("  ").trim_end().to_owned()).collect()
}

/// The cells of one line: nothing in them moves the cursor, and only the last may be long.
fn fitted(row: &[String]) -> Vec<String> {
    let last = row.len().saturating_sub(1);
    let cells = row.iter().map(|cell| readable(cell.as_bytes())).enumerate();
    cells.map(|(column, cell)| if column < last { shortened(&cell) } else { cell }).collect()
}

/// A number with its thousands set apart.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_escaped_and_go_to_json_as_digits() {
        assert_eq!(readable("größe".as_bytes()), "größe");
        assert_eq!(readable(b"a\nb\xff"), "a\\nb\\xff");
        let mut object = Map::new();
        insert_bytes(&mut object, "key", b"k");
        insert_bytes(&mut object, "value", b"\xff\x01");
        assert_eq!(Value::Object(object), json!({ "key": "k", "value_hex": "ff01" }));
    }

    #[test]
    fn a_table_takes_cells_of_any_length_and_content() {
        let rows = [
            vec!["k".repeat(65_536), "1".to_owned(), "v".repeat(70_000)],
            vec!["ä\n\u{1b}[2J".to_owned(), "2".to_owned(), String::new()],
            vec!["short".to_owned()],
        ];
        let lines = table(&["KEY", "REVISION", "VALUE"], &rows);
        assert_eq!(lines[0], format!("KEY{}  REVISION  VALUE", " ".repeat(CELL_MAX - 3)));
        assert!(lines[1].starts_with(&format!("{}…  1         vv", "k".repeat(CELL_MAX - 1))));
        assert!(lines[1].ends_with('v') && lines[1].len() > 70_000, "the last column is whole");
        assert!(lines[2].starts_with(r"\xc3\xa4\n\x1b[2J "));
        assert_eq!(table(&[], &[]), [""]);
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(shortened(&"ä".repeat(CELL_MAX)), "ä".repeat(CELL_MAX));
        assert_eq!(shortened(&"ä".repeat(CELL_MAX + 1)), format!("{}…", "ä".repeat(CELL_MAX - 1)));
    }

    #[test]
    fn thousands_are_set_apart() {
        let shown: Vec<String> = [0, 999, 1_000, 123_456, 1_234_567].map(thousands).to_vec();
        assert_eq!(shown, ["0", "999", "1,000", "123,456", "1,234,567"]);
    }

    #[test]
    fn an_unknown_outcome_has_its_own_exit_code_and_names_the_way_to_see() {
        let failure = Failure::of_request(&ClientError::Unknown, "d-engine get k");
        assert_eq!((failure.exit, failure.next.as_deref()), (Exit::Unknown, Some("d-engine get k")));
        let failure = Failure::of_request(&ClientError::unavailable("no leader"), "d-engine get k");
        assert_eq!((failure.exit, failure.next.as_deref()), (Exit::Failed, Some("d-engine status")));
        assert_eq!(Failure::of_request(&Reason::EmptyKey.into(), "").exit, Exit::Usage);
    }
}
