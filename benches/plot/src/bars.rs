//! Horizontal bars in groups; each group has its own scale, as what is compared stands in one group.

use std::fmt::Write as _;

use super::{colour, escaped, short};

const WIDTH: f64 = 760.0;
const LABELS: f64 = 190.0;
const FIGURES: f64 = 150.0;
const BAR: f64 = 18.0;
const HEADING: f64 = 24.0;

/// Bars that are compared with each other.
#[derive(Debug, Clone)]
pub struct Group {
    /// Stands above them.
    pub name: String,
    /// From top to bottom; bars of the same place have the same colour in every group.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    label: String,
    value: f64,
    range: Option<(f64, f64)>,
}

impl Bar {
    /// A bar from nothing to `value`.
    #[must_use]
    pub fn new(label: &str, value: f64) -> Self {
        Self { label: label.to_owned(), value, range: None }
    }

    /// With a thin line from `lowest` to `highest`: the spread of the rounds, or a higher percentile.
    #[must_use]
    pub fn range(mut self, lowest: f64, highest: f64) -> Self {
        self.range = Some((lowest, highest));
        self
    }

    fn longest(&self) -> f64 {
        self.range.map_or(self.value, |(_, highest)| self.value.max(highest))
    }
}

/// Draws bars as SVG.
#[must_use]
pub fn bars(title: &str, unit: &str, groups: &[Group]) -> String {
    let count: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = HEADING + groups.len() as f64 * (HEADING + 8.0) + count as f64 * BAR;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\"><text x=\"0\" y=\"16\" font-weight=\"bold\">{}, {}</text>\n",
        escaped(title),
        escaped(unit)
    );
    let mut y = HEADING;
    for group in groups {
        let longest = group.bars.iter().map(Bar::longest).filter(|value| value.is_finite()).fold(0.0, f64::max);
        let scale = if longest > 0.0 { (WIDTH - LABELS - FIGURES) / longest } else { 0.0 };
        let _ = writeln!(svg, "<text x=\"0\" y=\"{}\">{}</text>", y + 18.0, escaped(&group.name));
        y += HEADING;
        for (place, bar) in group.bars.iter().enumerate() {
            draw(&mut svg, bar, colour(place), y, scale);
            y += BAR;
        }
        y += 8.0;
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, bar: &Bar, colour: &str, y: f64, scale: f64) {
    let Bar { label, value, range } = bar;
    let middle = y + BAR / 2.0;
    let mut end = LABELS + value * scale;
    let _ = write!(
        svg,
        "<text x=\"12\" y=\"{text}\">{}</text><rect x=\"{LABELS}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" \
         fill=\"{colour}\"/>",
        escaped(label),
        y + 2.0,
        value * scale,
        BAR - 4.0,
        text = middle + 4.0,
    );
    let mut figure = short(*value);
    if let Some((lowest, highest)) = range {
        let (from, to) = (LABELS + lowest * scale, LABELS + highest * scale);
        let _ = write!(svg, "<path d=\"M{from:.1} {middle}H{to:.1}\" stroke=\"#222\"/>");
        end = end.max(to);
        let _ = write!(figure, " ({}–{})", short(*lowest), short(*highest));
    }
    let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{}\">{figure}</text>", end + 6.0, middle + 4.0);
}
