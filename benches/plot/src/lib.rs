//! HTML pages that need nothing but themselves: a heading, sentences, tables, and plots as inline SVG.
//!
//! Everything that is shown is escaped. There is no script, no font and no picture from elsewhere.

mod bars;
mod lines;

pub use bars::{Bar, Group, bars};
pub use lines::{Line, Mark, lines};

use std::fmt::Write as _;

/// Colours of series, told apart by the colour-blind too; they begin again after the last.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}\
td,th{padding:.2rem .8rem .2rem 0;text-align:left;border-bottom:1px solid #ddd}\
svg{max-width:100%;height:auto;margin:1rem 0}svg text{font:12px system-ui,sans-serif;fill:#222}";

/// A page, written from top to bottom.
#[derive(Debug)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn new(title: &str) -> Self {
        Self { title: escaped(title), body: String::new() }
    }

    /// Begins a section.
    pub fn heading(&mut self, text: &str) {
        self.element("h2", text);
    }

    /// Adds a sentence or more.
    pub fn paragraph(&mut self, text: &str) {
        self.element("p", text);
    }

    /// Adds a table.
    pub fn table(&mut self, head: &[String], rows: &[Vec<String>]) {
        self.body.push_str("<table>");
        for (cell, row) in std::iter::once(("th", head)).chain(rows.iter().map(|row| ("td", &row[..]))) {
            self.body.push_str("<tr>");
            row.iter().for_each(|text| self.element(cell, text));
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</table>\n");
    }

    /// Adds what [`bars`] or [`lines`] drew.
    pub fn plot(&mut self, svg: &str) {
        self.body.push_str(svg);
    }

    /// The whole page.
    #[must_use]
    pub fn html(&self) -> String {
        let Self { title, body } = self;
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
             <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}</body></html>\n"
        )
    }

    fn element(&mut self, name: &str, text: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.body, "<{name}>{}</{name}>", escaped(text));
    }
}

fn colour(series: usize) -> &'static str {
    COLOURS[series % COLOURS.len()]
}

/// Text that HTML and SVG show as it is.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number for the eye: three digits, and a letter for thousands and millions.
fn short(number: f64) -> String {
    let (scaled, letter) = match number.abs() {
        n if n >= 999_500.0 => (number / 1e6, " M"),
        n if n >= 9_995.0 => (number / 1e3, " k"),
        _ => (number, ""),
    };
    let decimals = match scaled.abs() {
        n if n >= 99.95 || n == 0.0 => 0,
        n if n >= 9.995 => 1,
        _ => 2,
    };
    let digits = format!("{scaled:.decimals$}");
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{letter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_escapes_what_it_shows_and_loads_nothing() {
        let mut page = Page::new("a < b");
        page.paragraph("<script>x</script>");
        page.table(&["h".into()], &[vec!["1 & 2".into()]]);
        page.plot(&bars("\"t\"", "per s", &[Group { name: "<g>".into(), bars: vec![Bar::new("b", 1.0)] }]));
        page.plot(&lines("t", "s", "ms", &[Line { name: "l".into(), points: vec![(0.0, 1.0), (1.0, 2.0)] }], &[]));
        let html = page.html();
        assert!(html.contains("&lt;script&gt;") && html.contains("1 &amp; 2") && html.contains("&lt;g&gt;"));
        for outside in ["<script", "http:", "https:", "src=", "href="] {
            assert!(!html.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let found = [0.0, 1.5, 42.0, 999.0, 12_345.0, 1_234_567.0].map(short);
        assert_eq!(found, ["0", "1.5", "42", "999", "12.3 k", "1.23 M"]);
    }
}
