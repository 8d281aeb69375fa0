//! Which disturbances a run keeps. What is left out does not happen; the rest happens at the very same times.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::faults::{FAULTS, Fault};

/// Something that a seed does to its cluster and that a run may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disturbance {
    /// A fault.
    Fault(Fault),
    /// Requests of clients.
    Request,
    /// The operator does something.
    Operator,
    /// A node makes a snapshot.
    Snapshot,
}

impl From<Fault> for Disturbance {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Disturbance {
    /// What it is called in commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.name(),
            Self::Request => "request",
            Self::Operator => "operator",
            Self::Snapshot => "snapshot",
        }
    }

    /// Every kind.
    pub fn all() -> impl Iterator<Item = Self> {
        FAULTS.map(Self::Fault).into_iter().chain([Self::Request, Self::Operator, Self::Snapshot])
    }
}

impl FromStr for Disturbance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::all().map(Self::name).collect::<Vec<_>>().join(", ");
        Self::all().find(|kind| kind.name() == text).ok_or_else(|| format!("{text} is none of {}", names()))
    }
}

/// One disturbance of a run, such as `crash@1203.344`: its kind and its virtual time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Occurrence {
    /// Microseconds of virtual time.
    pub at: u64,
    /// What happens.
    pub kind: Disturbance,
}

impl fmt::Display for Occurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.kind.name(), Millis(self.at))
    }
}

impl FromStr for Occurrence {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, at) = text.split_once('@').ok_or_else(|| format!("{text} is not of the form crash@1203.344"))?;
        Ok(Self { at: at.parse::<Millis>()?.0, kind: kind.parse()? })
    }
}

/// The only disturbances that a run keeps, such as `crash@1203.344,request@1204.001`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept(pub BTreeSet<Occurrence>);

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, occurrence) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{occurrence}")?;
        }
        if self.0.is_empty() { write!(f, "nothing") } else { Ok(()) }
    }
}

impl FromStr for Kept {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "nothing" {
            return Ok(Self::default());
        }
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Microseconds, written as milliseconds without loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Millis(pub u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

impl FromStr for Millis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is not a time in milliseconds, such as 1203.344");
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(part) || part.len() > 3 {
            return Err(wrong());
        }
        let part: u64 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        whole.checked_mul(1000).and_then(|whole| whole.checked_add(part)).map(Self).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_reads_as_it_is_written() {
        let all = Disturbance::all().zip([0, 7, 1_000, 1_203_344].into_iter().cycle());
        let kept = Kept(all.map(|(kind, at)| Occurrence { at, kind }).collect());
        assert_eq!(kept.to_string().parse(), Ok(kept));
        assert_eq!("nothing".parse(), Ok(Kept::default()));
        assert_eq!("12.5".parse(), Ok(Millis(12_500)));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "crash", "crash@", "crash@x", "crash@1.2345", "flood@1", "crash@1,,", "crash@-1", "crash@1.+1"]
        {
            assert!(text.parse::<Kept>().is_err(), "{text}");
        }
        assert!("99999999999999999999".parse::<Millis>().is_err());
    }
}
