//! One line per figure: what was found, and what it has to be.

/// What a figure has to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    None,
    AtLeast(f64),
    Below(f64),
}

/// Where the lines go.
pub(crate) struct Figures {
    /// Parts of names; one of them must be in the name of what is measured.
    filters: Vec<String>,
    /// Cargo has asked for measuring, and not for a test or a list.
    measures: bool,
    json: bool,
}

impl Figures {
    /// Reads the command line as criterion does.
    pub(crate) fn from_args() -> Self {
        const WITHOUT_VALUE: &[&str] = &["--bench", "--noplot", "--quick", "--quiet", "--verbose", "--exact"];
        const NOTHING_MEASURED: &[&str] = &["--test", "--list", "--profile-time"];
        let (mut filters, mut measures) = (Vec::new(), false);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            measures = (measures || argument == "--bench") && !NOTHING_MEASURED.contains(&argument.as_str());
            if !argument.starts_with('-') {
                filters.push(argument);
            } else if !WITHOUT_VALUE.contains(&argument.as_str()) && !argument.contains('=') {
                arguments.next();
            }
        }
        Self { filters, measures, json: std::env::var_os("D_ENGINE_BENCH_JSON").is_some() }
    }

    /// Whether a part is to be measured.
    pub(crate) fn wants(&self, part: &str) -> bool {
        self.measures && (self.filters.is_empty() || self.filters.iter().any(|filter| part.contains(filter.as_str())))
    }

    /// Tells one figure.
    pub(crate) fn tell(&self, what: &str, value: f64, unit: &str, target: Target) {
        let (least, most, met) = match target {
            Target::None => (None, None, None),
            Target::AtLeast(least) => (Some(least), None, Some(value >= least)),
            Target::Below(most) => (None, Some(most), Some(value < most)),
        };
        if self.json {
            let or_null = |number: Option<f64>| number.map_or("null".into(), |number| number.to_string());
            println!(
                r#"{{"figure":"{what}","value":{value},"unit":"{unit}","least":{},"most":{}}}"#,
                or_null(least),
                or_null(most)
            );
            return;
        }
        let target = match (least, most) {
            (Some(least), _) => format!("   at least {least} {unit}"),
            (_, Some(most)) => format!("   below {most} {unit}"),
            _ => String::new(),
        };
        let met = met.map_or("", |met| if met { ": yes" } else { ": NO" });
        println!("{what:<64} {value:>12.3} {unit}{target}{met}");
    }
}

/// The one in the middle.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
