//! What the nodes' logs say, one JSON object per line.

use std::fs;
use std::path::Path;

use serde_json::Value;
use three_nodes::Result;

/// Of the ends of logs that a failure shows.
const LINES: usize = 6;

/// The fields of the newest line with this message.
pub(super) fn newest(log: &Path, message: &str) -> Result<Value> {
    let text = fs::read_to_string(log)?;
    let fields = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["fields"].take());
    let found = text.lines().rev().filter_map(fields).find(|fields| fields["message"] == message);
    found.ok_or_else(|| format!("{} does not say \"{message}\"", log.display()).into())
}

/// The ends of all logs in a directory.
pub(super) fn ends(dir: &Path) -> String {
    let mut out = String::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(LINES)..] {
                out += &format!("\n  {}: {line}", entry.file_name().to_string_lossy());
            }
        }
    }
    out
}
