//! The text of a configuration file, and where things stand in it.

use std::ops::Range;

/// A file's name and text.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Line and column, both from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in it.
    pub column: usize,
}

impl Source {
    /// A file's text for showing: passwords in URLs are veiled, every other byte stands where it stood.
    pub(crate) fn veiled(name: &str, text: &str) -> Self {
        let mut veiled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("://").map(|at| at + 3) {
            let url = &rest[start..];
            let url = &url[..url.find(|c: char| c.is_whitespace() || "\"'".contains(c)).unwrap_or(url.len())];
            let (user, place) = url.rsplit_once('@').unwrap_or(("", url));
            veiled.push_str(&rest[..start]);
            match user.split_once(':') {
                Some((user, password)) => veiled.extend([user, ":", &"*".repeat(password.len()), "@", place]),
                // A user of NATS without a password is a token.
                None if !user.is_empty() && veiled.ends_with("nats://") => {
                    veiled.extend([&*"*".repeat(user.len()), "@", place]);
                }
                None => veiled.push_str(url),
            }
            rest = &rest[start + url.len()..];
        }
        veiled.push_str(rest);
        Self { name: name.to_owned(), text: veiled }
    }

    /// Where the byte `offset` stands; the end of the text when it lies behind it.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        Position {
            line: before.iter().filter(|b| **b == b'\n').count() + 1,
            column: String::from_utf8_lossy(&before[line_start..]).chars().count() + 1,
        }
    }

    pub(crate) fn line(&self, offset: usize) -> usize {
        self.position(offset).line
    }

    /// The whole line (without its end) in which the span begins, and the part of the span on it, in bytes of the line.
    pub(crate) fn first_line(&self, span: &Range<usize>) -> (&str, Range<usize>) {
        let start = span.start.min(self.text.len());
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[line_start..].split('\n').next().unwrap_or_default();
        let line = line.strip_suffix('\r').unwrap_or(line);
        let from = (start - line_start).min(line.len());
        let to = (span.end.max(start) - line_start).min(line.len());
        (line, from..to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_veiled_in_place() {
        let text = "a = 'postgres://u:p@ss@h/d?x=1' # p\nb = \"postgresql://u@h,i\" c = 'x://u:p@h'";
        let source = Source::veiled("x", text);
        assert_eq!(source.text, text.replace("u:p@ss@h", "u:****@h").replace("u:p@h", "u:*@h"));
        assert_eq!(Source::veiled("x", "'nats://abc@h'").text, "'nats://***@h'");
        assert_eq!(Source::veiled("x", "postgres://").text, "postgres://");
    }

    #[test]
    fn positions_count_lines_and_characters() {
        let source = Source { name: "x".into(), text: "a = 1\r\nbé = 2\n".into() };
        assert_eq!(source.position(0), Position { line: 1, column: 1 });
        assert_eq!(source.position(11), Position { line: 2, column: 4 });
        assert_eq!(source.position(99), Position { line: 3, column: 1 });
        assert_eq!(source.first_line(&(4..9)), ("a = 1", 4..5));
        assert_eq!(source.first_line(&(14..20)), ("bé = 2", 7..7));
    }
}
