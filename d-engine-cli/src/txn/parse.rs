//! The text form of a transaction. What is wrong is said with line, column and a mark under it.

use std::ops::Range as Columns;
use std::time::Duration;

use bytes::Bytes;
use d_engine_net::{Delete, KvOp, Put, Range, Relation, Txn};

use crate::lease::ttl;

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// From 0.
    line: usize,
    /// Bytes of the line.
    columns: Columns<usize>,
    why: String,
}

impl Wrong {
    /// For people: place and cause, the line, and a mark.
    pub(super) fn shown(&self, name: &str, text: &str) -> String {
        let line = text.lines().nth(self.line).unwrap_or_default();
        // Tabs stay tabs, so that the mark stands below what it means whatever they are worth.
        let before: String = line[..self.columns.start].chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let marks = "^".repeat(line[self.columns.clone()].chars().count().max(1));
        let column = line[..self.columns.start].chars().count() + 1;
        format!("{name}:{}:{column}: {}\n  {line}\n  {before}{marks}", self.line + 1, self.why)
    }
}

/// A word of a line.
#[derive(Debug)]
struct Word {
    columns: Columns<usize>,
    content: Vec<u8>,
    quoted: bool,
}

impl Word {
    /// The word, if it may be one of the language's own.
    fn bare(&self) -> &str {
        if self.quoted { "" } else { std::str::from_utf8(&self.content).unwrap_or_default() }
    }

    fn bytes(self) -> Bytes {
        self.content.into()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Start,
    If,
    Then,
    Else,
}

/// Reads a transaction.
pub(super) fn parse(text: &str) -> Result<Txn, Wrong> {
    let mut txn = Txn::new();
    let mut part = Part::Start;
    let mut does_something = false;
    for (number, line) in text.lines().enumerate() {
        let mut words = Words::read(number, line)?;
        let Some(first) = words.next() else { continue };
        let begun = match first.bare() {
            "if" => Some(Part::If),
            "then" => Some(Part::Then),
            "else" => Some(Part::Else),
            _ => None,
        };
        if let Some(begun) = begun.filter(|_| words.is_empty()) {
            if begun <= part {
                return Err(
                    words.wrong(first.columns, "the parts are `if`, `then`, `else`, in this order and once each")
                );
            }
            part = begun;
            continue;
        }
        txn = match part {
            Part::Start => {
                return Err(words.wrong(first.columns, "a transaction begins with `if` or `then` on a line of its own"));
            }
            Part::If => words.compare(first, txn)?,
            Part::Then => txn.then(words.operation(first)?),
            Part::Else => txn.otherwise(words.operation(first)?),
        };
        does_something |= part >= Part::Then;
        words.end()?;
    }
    if does_something {
        return Ok(txn);
    }
    let line = text.lines().count().saturating_sub(1);
    let end = text.lines().last().map_or(0, str::len);
    Err(Wrong { line, columns: end..end, why: "the transaction does nothing: `then` has no operations".to_owned() })
}

/// The words of one line that are still to be read.
struct Words {
    line: usize,
    len: usize,
    words: std::vec::IntoIter<Word>,
}

impl Words {
    fn read(line: usize, text: &str) -> Result<Self, Wrong> {
        let mut words = Vec::new();
        let mut rest = text.char_indices().peekable();
        while let Some(&(start, c)) = rest.peek() {
            match c {
                '#' => break,
                '"' => {
                    rest.next();
                    words.push(quoted(line, text, start)?);
                    let end = words.last().map_or(start, |word| word.columns.end);
                    while rest.next_if(|(place, _)| *place < end).is_some() {}
                    if rest.peek().is_some_and(|(_, next)| !next.is_whitespace() && *next != '#') {
                        let why = "a space is missing behind the closing quote".to_owned();
                        return Err(Wrong { line, columns: end..text.len().min(end + 1), why }.whole(text));
                    }
                }
                c if c.is_whitespace() => drop(rest.next()),
                _ => {
                    while rest.next_if(|(_, c)| !c.is_whitespace() && *c != '#' && *c != '"').is_some() {}
                    let end = rest.peek().map_or(text.len(), |(place, _)| *place);
                    let content = text.as_bytes()[start..end].to_vec();
                    words.push(Word { columns: start..end, content, quoted: false });
                }
            }
        }
        Ok(Self { line, len: text.trim_end().len(), words: words.into_iter() })
    }

    fn next(&mut self) -> Option<Word> {
        self.words.next()
    }

    fn is_empty(&self) -> bool {
        self.words.as_slice().is_empty()
    }

    fn wrong(&self, columns: Columns<usize>, why: impl Into<String>) -> Wrong {
        Wrong { line: self.line, columns, why: why.into() }
    }

    fn expect(&mut self, what: &str) -> Result<Word, Wrong> {
        let end = self.len;
        self.next().ok_or_else(|| self.wrong(end..end, format!("{what} is missing")))
    }

    fn key(&mut self) -> Result<Bytes, Wrong> {
        let word = self.expect("the key")?;
        if word.content.is_empty() {
            return Err(self.wrong(word.columns, "a key has at least one byte"));
        }
        Ok(word.bytes())
    }

    fn number(&mut self, what: &str) -> Result<u64, Wrong> {
        let word = self.expect(what)?;
        word.bare().parse().map_err(|_| self.wrong(word.columns, format!("{what} must be a whole number")))
    }

    /// Takes the next word if it is this one of the language.
    fn take(&mut self, keyword: &str) -> bool {
        let is_next = self.words.as_slice().first().is_some_and(|word| word.bare() == keyword);
        if is_next {
            self.next();
        }
        is_next
    }

    fn end(&mut self) -> Result<(), Wrong> {
        match self.next() {
            None => Ok(()),
            Some(word) => Err(self.wrong(word.columns, "nothing more is expected here; quote words with spaces")),
        }
    }

    fn relation(&mut self) -> Result<Relation, Wrong> {
        let word = self.expect("a relation, one of = != < >,")?;
        match word.bare() {
            "=" => Ok(Relation::Equal),
            "!=" => Ok(Relation::NotEqual),
            "<" => Ok(Relation::Less),
            ">" => Ok(Relation::Greater),
            _ => Err(self.wrong(word.columns, "a comparison has one of = != < > here")),
        }
    }

    fn compare(&mut self, first: Word, txn: Txn) -> Result<Txn, Wrong> {
        let what = first.bare();
        Ok(match what {
            "exists" => txn.if_exists(self.key()?),
            "absent" => txn.if_absent(self.key()?),
            "value" => {
                let (key, relation) = (self.key()?, self.relation()?);
                txn.if_value(key, relation, self.expect("the value")?.bytes())
            }
            "version" | "create" | "mod" | "lease" => {
                let (key, relation, number) = (self.key()?, self.relation()?, self.number("what it is compared with")?);
                match what {
                    "version" => txn.if_version(key, relation, number),
                    "create" => txn.if_create_revision(key, relation, number),
                    "mod" => txn.if_mod_revision(key, relation, number),
                    _ => txn.if_lease(key, relation, number),
                }
            }
            _ => {
                let why = "a comparison begins with value, version, create, mod, lease, exists or absent";
                return Err(self.wrong(first.columns, why));
            }
        })
    }

    fn operation(&mut self, first: Word) -> Result<KvOp, Wrong> {
        match first.bare() {
            "put" => self.put(),
            "delete" | "del" => self.delete(),
            "get" => Ok(Range::key(self.key()?).into()),
            "range" => self.range(),
            _ => Err(self.wrong(first.columns, "an operation begins with put, delete, get or range")),
        }
    }

    fn put(&mut self) -> Result<KvOp, Wrong> {
        let mut put = Put::new(self.key()?, self.expect("the value")?.bytes());
        let mut has_lease = false;
        while let Some(word) = self.next() {
            let is_lease = matches!(word.bare(), "lease" | "ttl" | "keep-lease");
            if is_lease && std::mem::replace(&mut has_lease, true) {
                return Err(self.wrong(word.columns, "a put has one of lease, ttl and keep-lease"));
            }
            put = match word.bare() {
                "lease" => put.lease(self.number("the lease")?),
                "ttl" => put.ttl(self.seconds()?),
                "keep-lease" => put.keep_lease(),
                "prev" => put.prev(),
                _ => return Err(self.wrong(word.columns, "a put ends with lease ID, ttl SECONDS, keep-lease or prev")),
            };
        }
        Ok(put.into())
    }

    fn seconds(&mut self) -> Result<Duration, Wrong> {
        let word = self.expect("the time in seconds")?;
        ttl(word.bare()).map_err(|why| self.wrong(word.columns, format!("the time {why}")))
    }

    fn delete(&mut self) -> Result<KvOp, Wrong> {
        let mut delete = if self.take("prefix") {
            Delete::prefix(self.expect("the prefix")?.bytes())
        } else if self.take("range") {
            Delete::between(self.expect("the first key")?.bytes(), self.expect("the end")?.bytes())
        } else {
            Delete::key(self.key()?)
        };
        if self.take("prev") {
            delete = delete.prev();
        }
        Ok(delete.into())
    }

    fn range(&mut self) -> Result<KvOp, Wrong> {
        let mut range = if self.take("prefix") {
            Range::prefix(self.expect("the prefix")?.bytes())
        } else {
            Range::between(self.expect("the first key")?.bytes(), self.expect("the end")?.bytes())
        };
        if self.take("limit") {
            let before = self.words.as_slice().first().map_or(self.len..self.len, |word| word.columns.clone());
            let limit = self.number("the limit")?;
            let limit = u32::try_from(limit).map_err(|_| self.wrong(before, "the limit is too large"))?;
            range = range.limit(limit);
        }
        Ok(range.into())
    }
}

impl Wrong {
    /// Widens the place to whole characters.
    fn whole(mut self, text: &str) -> Self {
        while !text.is_char_boundary(self.columns.end) {
            self.columns.end += 1;
        }
        self
    }
}

/// The word in quotes that begins at `start`.
fn quoted(line: usize, text: &str, start: usize) -> Result<Word, Wrong> {
    let wrong = |columns, why: &str| Wrong { line, columns, why: why.to_owned() };
    let mut content = Vec::new();
    let mut rest = text[start + 1..].char_indices().map(|(place, c)| (start + 1 + place, c));
    while let Some((place, c)) = rest.next() {
        match c {
            '"' => return Ok(Word { columns: start..place + 1, content, quoted: true }),
            '\\' => match rest.next() {
                Some((_, 'n')) => content.push(b'\n'),
                Some((_, 't')) => content.push(b'\t'),
                Some((_, 'r')) => content.push(b'\r'),
                Some((_, c @ ('\\' | '"'))) => content.push(c as u8),
                Some((_, 'x')) => {
                    let mut digit = || rest.next().and_then(|(_, c)| c.to_digit(16));
                    let (Some(high), Some(low)) = (digit(), digit()) else {
                        return Err(wrong(place..place + 2, "\\x needs two hexadecimal digits"));
                    };
                    content.push(u8::try_from(high * 16 + low).unwrap_or_default());
                }
                other => {
                    let end = other.map_or(text.len(), |(place, c)| place + c.len_utf8());
                    return Err(wrong(place..end, "known are \\n \\t \\r \\\\ \\\" and \\xNN"));
                }
            },
            c => content.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Err(wrong(start..text.len(), "the closing quote is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_transaction_that_the_calls_make() {
        let text = r#"
            # moves three
            if
              value alice = "10"      # a comment
              version bob > 0
              exists "a key"
              absent "then"
            then
              put alice 7 ttl 1.5
              put bob "3\x00\n" lease 9 prev
              delete prefix tmp/ prev
              delete "prefix"
            else
              get alice
              range prefix user/ limit 5
        "#;
        let expected = Txn::new()
            .if_value("alice", Relation::Equal, "10")
            .if_version("bob", Relation::Greater, 0)
            .if_exists("a key")
            .if_absent("then")
            .then(Put::new("alice", "7").ttl(Duration::from_millis(1_500)))
            .then(Put::new("bob", "3\0\n").lease(9).prev())
            .then(Delete::prefix("tmp/").prev())
            .then(Delete::key("prefix"))
            .otherwise_get("alice")
            .otherwise(Range::prefix("user/").limit(5));
        assert_eq!(parse(text).unwrap(), expected);
        let short = Txn::new().then_put("if", "then");
        assert_eq!(parse("then\nput if then").unwrap(), short, "words of the language may be keys and values");
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_place() {
        let cases = [
            ("if\n\tvalue ä == 1", "t:2:10: a comparison has one of = != < > here\n  \tvalue ä == 1\n  \t        ^^"),
            ("then\nput a", "t:2:6: the value is missing\n  put a\n       ^"),
            ("then\nput a \"b", "t:2:7: the closing quote is missing"),
            ("then\nput a \"\\xZ\"", "two hexadecimal digits"),
            ("then\nput a b c", "t:2:9: a put ends with"),
            ("then\nput a b lease 1 ttl 1", "one of lease, ttl and keep-lease"),
            ("then\nput a b ttl soon", "the time must be"),
            ("then\nget a b", "t:2:7: nothing more is expected"),
            ("then\nput a \"b\"c", "a space is missing"),
            ("put a b", "t:1:1: a transaction begins with"),
            ("else\nget a\nthen\nput a b", "t:3:1: the parts are"),
            ("if\nexists a", "t:2:9: the transaction does nothing"),
            ("", "t:1:1: the transaction does nothing"),
            ("if\nlike a b", "t:2:1: a comparison begins with"),
            ("then\nset a b", "t:2:1: an operation begins with"),
            ("if\nversion a > many\n", "must be a whole number"),
            ("then\nget \"\"", "at least one byte"),
        ];
        for (text, said) in cases {
            let shown = parse(text).unwrap_err().shown("t", text);
            assert!(shown.contains(said), "{text:?}: {shown}");
        }
    }
}
