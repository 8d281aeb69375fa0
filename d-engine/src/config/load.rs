//! Reads a configuration in layers: file < environment < overrides. Collects every error before it gives up.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Place;
use super::settings::{self, SETTINGS, Setting, Value};
use super::{ConfigErrors, ConfigProblem, NodeConfig};

const ENVIRONMENT_PREFIX: &str = "D_ENGINE__";

/// One setting, its value, and where the value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explained {
    /// The key, as `section.name`.
    pub key: &'static str,
    /// What it means.
    pub about: &'static str,
    /// The value in effect.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the file, from 1.
    File(usize),
    /// The environment variable of this name.
    Environment(String),
    /// A flag, or code.
    Override,
}

impl NodeConfig {
    /// Reads `path`, then the variables `D_ENGINE__SECTION__KEY` of `environment`, then `overrides` (`section.key`, value);
    /// later ones win. Other variables are not looked at.
    ///
    /// # Errors
    /// Everything that is wrong, at once: unreadable file, unknown keys, wrong types, contradictions.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        Self::load_explained(path, environment, overrides).map(|(config, _)| config)
    }

    /// Reads the text of a configuration file, which errors call `name`.
    ///
    /// # Errors
    /// As [`load`](NodeConfig::load).
    pub fn from_toml(name: &str, text: &str) -> Result<Self, ConfigErrors> {
        let mut loader = Loader::default();
        loader.read_text(name, text);
        loader.finish().map(|(config, _)| config)
    }

    /// [`load`](NodeConfig::load), with every setting's value and origin.
    ///
    /// # Errors
    /// As [`load`](NodeConfig::load).
    pub fn load_explained(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Explained>), ConfigErrors> {
        let mut loader = Loader::default();
        if let Some(path) = path {
            loader.read_file(path);
        }
        for (variable, value) in environment {
            if let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) {
                let key = name.to_ascii_lowercase().replacen("__", ".", 1);
                loader.set(&key, Value::Text(value), Place::Environment { variable });
            }
        }
        for (key, value) in overrides {
            loader.set(&key, Value::Text(value), Place::Override);
        }
        loader.finish()
    }
}

#[derive(Default)]
struct Loader {
    config: NodeConfig,
    places: BTreeMap<&'static str, Place>,
    problems: Vec<ConfigProblem>,
}

impl Loader {
    fn read_file(&mut self, path: &Path) {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => self.read_text(&name, &text),
            Err(error) => {
                self.problems.push(ConfigProblem::new("", format!("the file {name} cannot be read: {error}")));
            }
        }
    }

    fn read_text(&mut self, path: &str, text: &str) {
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let place = place_of(path, text, error.span().unwrap_or_default());
            self.problems.push(ConfigProblem::new("", error.message()).at(Some(place)));
        }
        for (section, keys) in root.get_ref() {
            let DeValue::Table(keys) = keys.get_ref() else {
                self.unknown(section.get_ref(), place_of(path, text, section.span()));
                continue;
            };
            for (name, value) in keys {
                let key = format!("{}.{}", section.get_ref(), name.get_ref());
                let place = place_of(path, text, name.span());
                self.set(&key, plain_value(value), place);
            }
        }
    }

    fn set(&mut self, key: &str, value: Value, place: Place) {
        let Some(Setting { key, set, .. }) = settings::find(key) else { return self.unknown(key, place) };
        match set(&mut self.config, &value) {
            Ok(()) => {
                self.places.insert(key, place);
            }
            Err(why) => self.problems.push(ConfigProblem::new(*key, why).at(Some(place))),
        }
    }

    fn unknown(&mut self, key: &str, place: Place) {
        let hint = settings::nearest(key).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        self.problems.push(ConfigProblem::new(key, format!("is no known key{hint}")).at(Some(place)));
    }

    fn finish(mut self) -> Result<(NodeConfig, Vec<Explained>), ConfigErrors> {
        for (key, why) in self.config.problems() {
            let place = self.places.get(key.as_str()).cloned();
            self.problems.push(ConfigProblem::new(key, why).at(place));
        }
        if !self.problems.is_empty() {
            return Err(ConfigErrors::new(self.problems));
        }
        let explained = SETTINGS
            .iter()
            .map(|setting| Explained {
                key: setting.key,
                about: setting.about,
                value: (setting.show)(&self.config),
                origin: match self.places.get(setting.key) {
                    None => Origin::Default,
                    Some(Place::File { line, .. }) => Origin::File(*line),
                    Some(Place::Environment { variable }) => Origin::Environment(variable.clone()),
                    Some(Place::Override) => Origin::Override,
                },
            })
            .collect();
        Ok((self.config, explained))
    }
}

fn plain_value(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Value::Integer(number.as_str().replace('_', "")),
        DeValue::Integer(number) => Value::Integer(
            u64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| number.to_string(), |n| n.to_string()),
        ),
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Array(items) => Value::List(items.iter().map(plain_value).collect()),
        DeValue::Table(pairs) => {
            let mut pairs: Vec<_> = pairs.iter().collect();
            pairs.sort_by_key(|(key, _)| key.span().start);
            Value::Table(
                pairs.into_iter().map(|(key, value)| (key.get_ref().to_string(), plain_value(value))).collect(),
            )
        }
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
    }
}

/// The line, column and width of a range of bytes.
fn place_of(path: &str, text: &str, span: Range<usize>) -> Place {
    let start = span.start.min(text.len());
    let line_start = text[..start].rfind('\n').map_or(0, |end| end + 1);
    let line_text = text[line_start..].lines().next().unwrap_or_default();
    let line_end = line_start + line_text.len();
    let end = span.end.clamp(start, line_end.max(start));
    Place::File {
        path: path.to_owned(),
        line: text[..start].matches('\n').count() + 1,
        column: text[line_start..start].chars().count() + 1,
        width: text[start..end].chars().count(),
        text: line_text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn from_text(text: &str) -> Result<NodeConfig, ConfigErrors> {
        let mut loader = Loader::default();
        loader.read_text("node.toml", text);
        loader.finish().map(|(config, _)| config)
    }

    #[test]
    fn flags_win_over_environment_and_environment_over_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, "[node]\nid = 7\nlisten = \"127.0.0.1:1\"\n[raft]\nclock_drift_ppm = 1_0\n").unwrap();
        let environment =
            pairs(&[("D_ENGINE__NODE__ID", "8"), ("D_ENGINE__NODE__LISTEN", "127.0.0.1:2"), ("PATH", "x")]);
        let (config, explained) =
            NodeConfig::load_explained(Some(&path), environment, pairs(&[("node.id", "9")])).unwrap();
        assert_eq!((config.node.id, config.raft.clock_drift_ppm), (9, 10));
        assert_eq!(config.node.listen.as_deref(), Some("127.0.0.1:2"));
        let origin = |key: &str| explained.iter().find(|e| e.key == key).unwrap().origin.clone();
        assert_eq!(origin("node.id"), Origin::Override);
        assert_eq!(origin("node.listen"), Origin::Environment("D_ENGINE__NODE__LISTEN".into()));
        assert_eq!(origin("raft.clock_drift_ppm"), Origin::File(5));
        assert_eq!(origin("raft.heartbeat_interval_ms"), Origin::Default);
    }

    #[test]
    fn peers_may_be_a_table_a_list_or_a_text() {
        let expected = vec![(1, "a:1".to_owned()), (2, "b:2".to_owned())];
        for text in [
            "[cluster.peers]\n1 = \"a:1\"\n2 = \"b:2\"\n",
            "[cluster]\npeers = [\"1=a:1\", \"2=b:2\"]\n",
            "[cluster]\npeers = \"1=a:1,2=b:2\"\n",
        ] {
            assert_eq!(from_text(text).unwrap().cluster.peers, expected, "{text}");
        }
    }

    #[test]
    fn all_errors_are_shown_at_once_with_their_places() {
        let text = "\
[node]
id = \"one\"
[raft]
electon_timeout_min_ms = 300
heartbeat_interval_ms = 200
[limits]
request_timeout_ms = -1
[nod]
id = 1
";
        let mut loader = Loader::default();
        loader.read_text("node.toml", text);
        loader.set("raft.max_message_bytes", Value::Text("many".into()), Place::Override);
        let shown = loader.finish().unwrap_err().to_string();
        for part in [
            "the configuration has 6 errors:",
            "node.id must be a whole number, 0 or more, found \"one\"\n    --> node.toml:2:1\n      |\n    2 | id = \"one\"\n      | ^^\n",
            "raft.electon_timeout_min_ms is no known key; did you mean raft.election_timeout_min_ms?\n    --> node.toml:4:1",
            "raft.election_timeout_min_ms must be at least 3 heartbeats: 500 ms < 3 × 200 ms",
            "limits.request_timeout_ms must be a whole number, 0 or more, found the integer -1\n    --> node.toml:7:1",
            "nod.id is no known key; did you mean node.id?",
            "raft.max_message_bytes must be a whole number, 0 or more, found \"many\"\n    --> given as a flag",
        ] {
            assert!(shown.contains(part), "missing: {part}\n{shown}");
        }
    }

    #[test]
    fn broken_toml_is_shown_with_its_line() {
        let shown = from_text("[node]\nid = = 3\n").unwrap_err().to_string();
        assert!(shown.contains("node.toml:2:"), "{shown}");
    }
}
