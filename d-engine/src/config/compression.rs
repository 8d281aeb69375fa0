//! How snapshots are stored, as a setting.

use std::fmt;
use std::str::FromStr;

use d_engine_core::snapshot::SnapshotCompression;
use serde::{Deserialize, Serialize};

/// How the snapshots that this node makes are stored. What other nodes made is read whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// Compressed with LZ4, block by block.
    Lz4,
}

impl From<Compression> for SnapshotCompression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
        })
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            other => Err(format!("must be \"none\" or \"lz4\", found \"{other}\"")),
        }
    }
}
