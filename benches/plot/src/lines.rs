//! Lines over a common axis, with marks where something happened.

use std::fmt::Write as _;

use super::{colour, escaped, short};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 40.0;
/// Lines of the grid in each direction.
const GRID: u32 = 5;

/// One series.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it is called in the legend.
    pub name: String,
    /// In the order of the first coordinate.
    pub points: Vec<(f64, f64)>,
}

/// Something that happened at a place of the first axis.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Where.
    pub at: f64,
    /// What.
    pub text: String,
}

/// Draws lines as SVG; the second axis begins at zero.
#[must_use]
pub fn lines(title: &str, x_unit: &str, y_unit: &str, series: &[Line], marks: &[Mark]) -> String {
    let points = || series.iter().flat_map(|line| &line.points);
    let least = points().map(|point| point.0).chain(marks.iter().map(|mark| mark.at)).fold(f64::INFINITY, f64::min);
    let most = points().map(|point| point.0).chain(marks.iter().map(|mark| mark.at)).fold(f64::NEG_INFINITY, f64::max);
    let (first, last) = if least.is_finite() && most > least { (least, most) } else { (0.0, 1.0) };
    let highest = points().map(|point| point.1).filter(|y| y.is_finite()).fold(0.0, f64::max);
    let highest = if highest > 0.0 { highest } else { 1.0 };
    let x = |value: f64| LEFT + (value - first) / (last - first) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / highest * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\"><text x=\"0\" y=\"16\" font-weight=\"bold\">{}, {}</text>\n",
        escaped(title),
        escaped(y_unit)
    );
    for step in 0..=GRID {
        let share = f64::from(step) / f64::from(GRID);
        let (across, up) = (first + share * (last - first), share * highest);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {level:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(up) + 4.0,
            short(up),
            x(across),
            HEIGHT - BOTTOM + 18.0,
            short(across),
            level = y(up),
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
        WIDTH - RIGHT,
        HEIGHT - 4.0,
        escaped(x_unit)
    );
    for mark in marks {
        let at = x(mark.at);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{}\" stroke=\"#222\" stroke-dasharray=\"4 3\"/><text x=\"{:.1}\" y=\"{}\">{}</text>",
            HEIGHT - BOTTOM,
            at + 4.0,
            TOP + 10.0,
            escaped(&mark.text)
        );
    }
    for (place, line) in series.iter().enumerate() {
        let path: Vec<String> =
            line.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
             <text x=\"{}\" y=\"34\" style=\"fill:{colour}\">{}</text>",
            path.join(" "),
            LEFT + 140.0 * place as f64,
            escaped(&line.name),
            colour = colour(place),
        );
    }
    svg.push_str("</svg>\n");
    svg
}
