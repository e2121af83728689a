//! Small rooms: the size of files and functions, and the names that say nothing.

use super::{Findings, Sources};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Rooms that may be larger, each with its reason: `(path, function or "", reason)`.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// File and folder names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "misc", "helpers", "helper", "stuff"];

/// What may not stand in Rust source, and what to do instead.
const FORBIDDEN: &[(&str, &str)] = &[
    ("#[ignore", "a test that does not run proves nothing: fix it or remove it"),
    ("todo!(", "finish it or leave it out"),
    ("unimplemented!(", "finish it or leave it out"),
];

pub(super) fn check(sources: &Sources) -> Findings {
    let mut findings = Findings::new();
    for (path, text) in sources.files.iter().filter(|(path, _)| path.ends_with(".rs")) {
        findings.extend(names(path));
        findings.extend(sizes(path, text));
        // This table itself names what it forbids.
        if !path.starts_with("xtask/src/tidy/") {
            findings.extend(forbidden(path, text));
        }
    }
    for (path, function, _) in EXCEPTIONS {
        if !sources.files.iter().any(|(file, _)| file == path) {
            findings.push(format!("the exception for {path} {function} is stale: remove it from rooms.rs"));
        }
    }
    findings
}

fn names(path: &str) -> Option<String> {
    let part = path.split('/').map(|part| part.trim_end_matches(".rs")).find(|part| EMPTY_NAMES.contains(part))?;
    Some(format!("{path}: {part:?} says nothing; name the file after the one thing it is about"))
}

fn forbidden(path: &str, text: &str) -> Findings {
    let hits = text.lines().zip(1..).flat_map(|(line, number)| {
        let code = line.trim_start();
        let rules = FORBIDDEN.iter().filter(move |(what, _)| !code.starts_with("//") && code.contains(what));
        rules.map(move |(what, remedy)| format!("{path}:{number}: {what}: {remedy}"))
    });
    hits.collect()
}

fn sizes(path: &str, text: &str) -> Findings {
    let mut findings = Findings::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX && !excepted(path, "") {
        findings.push(format!("{path} has {lines} lines, {FILE_LINES_MAX} at most: split it by idea"));
    }
    for (name, start, length) in functions(text) {
        if length > FUNCTION_LINES_MAX && !excepted(path, &name) {
            findings.push(format!("{path}:{start}: fn {name} has {length} lines, {FUNCTION_LINES_MAX} at most"));
        }
    }
    findings
}

fn excepted(path: &str, function: &str) -> bool {
    EXCEPTIONS.iter().any(|(file, name, _)| *file == path && *name == function)
}

/// `(name, first line, length)` of every function. Relies on rustfmt's layout: a function's closing brace stands alone
/// at the indentation of the line that opens it.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some(name) = function_name(code) else { continue };
        let closing = format!("{}}}", " ".repeat(indent));
        let end = lines[at..].iter().position(|line| *line == closing);
        // A declaration without a body ends in a semicolon before any closing brace.
        let declared = lines[at..].iter().position(|line| line.ends_with(';')).unwrap_or(usize::MAX);
        let opened = lines[at..].iter().position(|line| line.ends_with('{') || line.ends_with('}'));
        let on_one_line = opened.is_some_and(|opened| lines[at + opened].ends_with('}'));
        if let (Some(end), Some(opened), false) = (end, opened, on_one_line)
            && opened <= declared
        {
            found.push((name.to_owned(), at + 1, end + 1));
        }
    }
    found
}

fn function_name(code: &str) -> Option<&str> {
    if code.starts_with("//") {
        return None;
    }
    let (before, after) = code.split_once("fn ")?;
    let qualifiers = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
    let only_qualifiers = before.split_whitespace().all(|word| qualifiers.contains(&word) || word.starts_with("pub("));
    let name = after.split(['(', '<']).next()?.trim();
    (only_qualifiers && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::{forbidden, functions, names, sizes};

    #[test]
    fn functions_are_measured_from_signature_to_brace() {
        let text = "impl A {\n    pub(crate) async fn b(\n        &self,\n    ) -> C {\n        d();\n    }\n    fn e(&self);\n    fn f() {}\n    fn g() { 1 }\n}\n";
        assert_eq!(functions(text), vec![("b".to_owned(), 2, 5)]);
        let long = format!("fn long() {{\n{}}}\n", "    a();\n".repeat(70));
        assert_eq!(sizes("x.rs", &long).len(), 1);
        assert_eq!(sizes("x.rs", &"// a\n".repeat(501)).len(), 1);
    }

    #[test]
    fn empty_names_and_forbidden_words_are_found() {
        assert!(names("crates/core/src/utils.rs").is_some());
        assert!(names("crates/core/src/common/key.rs").is_some());
        assert!(names("crates/core/src/key.rs").is_none());
        assert_eq!(forbidden("x.rs", "#[ignore]\nfn a() {}\n// todo!() is banned\n").len(), 1);
    }
}
