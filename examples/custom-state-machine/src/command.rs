//! Commands, their answers, and questions, as versioned bytes: what stands in the log today must be read by later versions.

use bytes::Bytes;
use d_engine_core::Error;

const VERSION: u8 = 1;

/// Moves money between two accounts; the second one is opened if need be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Whose money.
    pub from: String,
    /// Whose it becomes.
    pub to: String,
    /// How much.
    pub amount: u64,
}

impl Transfer {
    /// A transfer.
    pub fn new(from: impl Into<String>, to: impl Into<String>, amount: u64) -> Self {
        Self { from: from.into(), to: to.into(), amount }
    }

    /// `version u8 | amount u64 | length of from u32 | from | to`.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.amount.to_le_bytes());
        let len = u32::try_from(self.from.len()).expect("names of accounts are far below 4 GiB");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(self.from.as_bytes());
        out.extend_from_slice(self.to.as_bytes());
        out.into()
    }

    /// Reads what [`encode`](Transfer::encode) wrote.
    ///
    /// # Errors
    /// `Unsupported` for a newer version, `Corrupt` for what is no transfer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let corrupt = || Error::corrupt("the bytes are no transfer");
        let (&version, rest) = bytes.split_first().ok_or_else(corrupt)?;
        if version != VERSION {
            return Err(Error::unsupported(format!("transfer version {version}; this build reads version {VERSION}")));
        }
        let (amount, rest) = rest.split_first_chunk().ok_or_else(corrupt)?;
        let (len, names) = rest.split_first_chunk().ok_or_else(corrupt)?;
        let names = std::str::from_utf8(names).map_err(|_| corrupt())?;
        let (from, to) = names.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(corrupt)?;
        Ok(Self::new(from, to, u64::from_le_bytes(*amount)))
    }
}

/// The answer to a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// The money was moved.
    Done,
    /// The first account does not exist; nothing was moved.
    NoSuchAccount,
    /// The first account has too little; nothing was moved.
    TooLittle {
        /// What it has.
        has: u64,
    },
}

impl Moved {
    pub(crate) fn encode(self) -> Bytes {
        let (code, has) = match self {
            Self::Done => (0, 0),
            Self::NoSuchAccount => (1, 0),
            Self::TooLittle { has } => (2, has),
        };
        [&[code][..], &has.to_le_bytes()].concat().into()
    }

    /// Reads a response.
    ///
    /// # Errors
    /// `Corrupt` for what is no answer to a transfer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        match bytes.split_first() {
            Some((0, _)) => Ok(Self::Done),
            Some((1, _)) => Ok(Self::NoSuchAccount),
            Some((2, has)) => number(has).map(|has| Self::TooLittle { has }),
            _ => Err(Error::corrupt("the bytes are no answer to a transfer")),
        }
    }
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// The money of an account; 0 if it does not exist.
    Balance(String),
    /// All money there is.
    Total,
}

impl Query {
    /// The bytes to ask with.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Balance(account) => [b"b", account.as_bytes()].concat().into(),
            Self::Total => Bytes::from_static(b"t"),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = || Error::invalid("the bytes are no question to the bank");
        match bytes.split_first().ok_or_else(wrong)? {
            (b'b', account) => Ok(Self::Balance(std::str::from_utf8(account).map_err(|_| wrong())?.to_owned())),
            (b't', []) => Ok(Self::Total),
            _ => Err(wrong()),
        }
    }

    pub(crate) fn answer(amount: u64) -> Bytes {
        Bytes::copy_from_slice(&amount.to_le_bytes())
    }

    /// Reads the answer.
    ///
    /// # Errors
    /// `Corrupt` for what is no answer.
    pub fn decode_answer(bytes: &[u8]) -> Result<u64, Error> {
        number(bytes)
    }
}

fn number(bytes: &[u8]) -> Result<u64, Error> {
    let bytes = bytes.try_into().map_err(|_| Error::corrupt("8 bytes are expected where an amount stands"))?;
    Ok(u64::from_le_bytes(bytes))
}
