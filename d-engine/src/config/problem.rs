//! What is wrong with a configuration, shown all at once with the places.

use std::fmt;

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    problems: Vec<ConfigProblem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigProblem {
    /// The key, as `section.name`; empty where a file cannot be read at all.
    pub key: String,
    /// What is wrong, with the values involved.
    pub why: String,
    /// Where it was set; `None`: nowhere, or in code.
    pub place: Option<Place>,
}

/// Where a setting stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// In a file.
    File {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// How many characters it takes.
        width: usize,
        /// The line itself.
        text: String,
    },
    /// In the environment.
    Environment {
        /// The variable.
        variable: String,
    },
    /// On the command line or in code.
    Override,
}

impl ConfigErrors {
    pub(super) fn new(problems: Vec<ConfigProblem>) -> Self {
        Self { problems }
    }

    /// The problems, in the order in which they were found.
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.problems
    }
}

impl ConfigProblem {
    pub(super) fn new(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self { key: key.into(), why: why.into(), place: None }
    }

    pub(super) fn at(self, place: Option<Place>) -> Self {
        Self { place, ..self }
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => write!(f, "the configuration has an error:")?,
            n => write!(f, "the configuration has {n} errors:")?,
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {}{}{}", self.key, if self.key.is_empty() { "" } else { " " }, self.why)?;
        match &self.place {
            None => Ok(()),
            Some(Place::Override) => write!(f, "\n    --> given as a flag"),
            Some(Place::Environment { variable }) => write!(f, "\n    --> environment variable {variable}"),
            Some(Place::File { path, line, column, width, text }) => {
                let gutter = " ".repeat(line.to_string().len());
                let (indent, carets) = (" ".repeat(column - 1), "^".repeat((*width).max(1)));
                write!(
                    f,
                    "\n    --> {path}:{line}:{column}\n    {gutter} |\n    {line} | {text}\n    {gutter} | {indent}{carets}"
                )
            }
        }
    }
}
