//! The parts of a multipart body (RFC 2046 section 5.1), whatever its boundary.

use memchr::memmem;

/// One part: its header block as it came, and its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    pub(super) head: &'a [u8],
    pub(super) content: &'a [u8],
}

/// The parts in order, without preamble and epilogue; `None` where the body is not whole or not multipart.
pub(super) fn parts<'a>(body: &'a [u8], boundary: &str) -> Option<Vec<Part<'a>>> {
    let dashed = [b"--", boundary.as_bytes()].concat();
    let mut lines = memmem::find_iter(body, &dashed).filter_map(|at| Line::at(body, at, at + dashed.len()));
    let mut before = lines.next()?;
    let mut parts = Vec::new();
    while !before.closes {
        let next = lines.next()?;
        parts.push(Part::of(body.get(before.end..next.start)?)?);
        before = next;
    }
    Some(parts)
}

impl<'a> Part<'a> {
    fn of(part: &'a [u8]) -> Option<Self> {
        if let Some(content) = part.strip_prefix(b"\r\n") {
            return Some(Self { head: b"", content });
        }
        let blank = memmem::find(part, b"\r\n\r\n")?;
        Some(Self { head: &part[..blank], content: &part[blank + 4..] })
    }
}

/// A delimiter line: where the content before it ends, where the next part begins.
struct Line {
    start: usize,
    end: usize,
    closes: bool,
}

impl Line {
    /// The delimiter line whose dashes stand at `at`, where it is one: alone on its line but for padding.
    fn at(body: &[u8], at: usize, after: usize) -> Option<Self> {
        let start = if at == 0 { 0 } else { body[..at].strip_suffix(b"\r\n")?.len() };
        let rest = &body[after..];
        let (rest, closes) = rest.strip_prefix(b"--").map_or((rest, false), |rest| (rest, true));
        let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let rest = &rest[padding..];
        let ends = rest.starts_with(b"\r\n") || (closes && rest.is_empty());
        if !ends {
            return None;
        }
        let end = body.len() - rest.len() + if rest.is_empty() { 0 } else { 2 };
        Some(Self { start, end, closes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(body: &str, boundary: &str) -> Option<Vec<(String, String)>> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let parts = parts(body.as_bytes(), boundary)?;
        Some(parts.into_iter().map(|part| (text(part.head), text(part.content))).collect())
    }

    #[test]
    fn parts_of_a_form() {
        let body = "preamble\r\n--b\r\nA: 1\r\nB: 2\r\n\r\none\r\n--b \r\n\r\ntwo\r\n\r\n--b--\r\nepilogue --b";
        let parts = read(body, "b").unwrap();
        assert_eq!(parts, [("A: 1\r\nB: 2".into(), "one".into()), (String::new(), "two\r\n".into())]);
        assert_eq!(read("--b--", "b"), Some(vec![]));
    }

    #[test]
    fn a_delimiter_stands_alone_on_its_line() {
        let body = "--b\r\n\r\nx--b\r\n--bc\r\n y\r\n--b--";
        assert_eq!(read(body, "b"), Some(vec![(String::new(), "x--b\r\n--bc\r\n y".into())]));
    }

    #[test]
    fn what_is_not_whole() {
        for body in ["", "--b", "--b\r\n", "--b\r\n\r\nx", "--b\r\n\r\nx\r\n--b\r\n", "--b\r\nA: 1\r\n--b--", "x--b--"]
        {
            assert_eq!(read(body, "b"), None, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in "(--b|\r\n|--| |x|\r){0,12}") {
            let _ = parts(body.as_bytes(), "b");
        }

        #[test]
        fn every_part_is_found(contents in proptest::collection::vec("[a-z\r\n-]{0,9}", 0..5)) {
            let mut body = String::new();
            for content in &contents {
                body.push_str(&format!("--Q9\r\nN: v\r\n\r\n{content}\r\n"));
            }
            body.push_str("--Q9--\r\n");
            let found: Vec<_> = read(&body, "Q9").unwrap().into_iter().map(|(_, content)| content).collect();
            prop_assert_eq!(found, contents);
        }
    }
}
