//! Pages for people: every operator code has one, the summary lists every one, and none speaks of this machine.

use super::{Findings, Sources};

/// The file that defines the operator codes, or the folder of its parts.
const CODES: &[&str] = &["crates/core/src/code.rs", "crates/core/src/code/"];
const SUMMARY: &str = "docs/src/SUMMARY.md";

pub(super) fn check(sources: &Sources) -> Findings {
    let mut findings = codes(sources);
    findings.extend(summary(sources));
    let home = std::env::var("HOME").unwrap_or_default();
    let root = sources.root.display().to_string();
    findings.extend(machine_paths(sources, &[root, home]));
    findings
}

fn codes(sources: &Sources) -> Findings {
    let defined = sources.files.iter().filter(|(path, _)| CODES.iter().any(|code| path.starts_with(code)));
    // Tests may speak of codes that do not exist.
    let shipped = defined.filter_map(|(_, text)| text.split("#[cfg(test)]").next());
    let mut codes: Vec<&str> = shipped.flat_map(codes_in).collect();
    codes.sort_unstable();
    codes.dedup();
    let lacks_page = |code: &&str| {
        let page = format!("/{code}.md");
        !sources.files.iter().any(|(path, _)| path.ends_with(&page))
    };
    codes.into_iter().filter(lacks_page).map(|code| format!("{code} has no page {code}.md with its remedy")).collect()
}

/// Every `SM` with exactly four digits.
fn codes_in(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.match_indices("SM").map(|(at, _)| at);
    let codes = starts.filter_map(|at| text.get(at..at + 6));
    codes.filter(|code| code.bytes().skip(2).all(|byte| byte.is_ascii_digit()))
}

fn summary(sources: &Sources) -> Findings {
    let Some((_, summary)) = sources.files.iter().find(|(path, _)| path == SUMMARY) else {
        return Findings::new();
    };
    let linked: Vec<&str> = summary.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    let linked: Vec<&str> = linked.into_iter().map(|link| link.trim_start_matches("./")).collect();
    let mut findings = Findings::new();
    let pages = sources.files.iter().filter_map(|(path, _)| path.strip_prefix("docs/src/"));
    for page in pages.filter(|page| page.ends_with(".md") && *page != "SUMMARY.md") {
        if !linked.contains(&page) {
            findings.push(format!("docs/src/{page} is not listed in {SUMMARY}"));
        }
    }
    for link in linked.iter().filter(|link| link.ends_with(".md")) {
        if !sources.root.join("docs/src").join(link).is_file() {
            findings.push(format!("{SUMMARY} links to {link}, which does not exist"));
        }
    }
    findings
}

fn machine_paths(sources: &Sources, paths: &[String]) -> Findings {
    let paths: Vec<String> = paths.iter().filter(|path| path.len() > 1).map(|path| format!("{path}/")).collect();
    let mut findings = Findings::new();
    for (file, text) in &sources.files {
        for (line, number) in text.lines().zip(1..) {
            if let Some(path) = paths.iter().find(|path| line.contains(path.as_str())) {
                findings.push(format!("{file}:{number}: names a path of this machine ({path})"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{codes, machine_paths, summary};
    use crate::tidy::Sources;

    fn sources(files: &[(&str, &str)]) -> Sources {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Sources { root: "/nowhere".into(), files }
    }

    #[test]
    fn a_code_without_a_page_is_found() {
        let code = ("crates/core/src/code.rs", "SM0001 and SM0002");
        assert_eq!(
            codes(&sources(&[code, ("docs/codes/SM0001.md", "")])),
            ["SM0002 has no page SM0002.md with its remedy"]
        );
    }

    #[test]
    fn the_summary_lists_what_exists_and_nothing_else() {
        let files =
            [("docs/src/SUMMARY.md", "- [A](a.md)\n- [B](./b.md)"), ("docs/src/a.md", ""), ("docs/src/c.md", "")];
        let found = summary(&sources(&files));
        assert!(found.iter().any(|finding| finding.contains("docs/src/c.md is not listed")), "{found:?}");
        assert!(found.iter().any(|finding| finding.contains("links to b.md")), "{found:?}");
    }

    #[test]
    fn paths_of_this_machine_are_found() {
        let files = sources(&[("a.md", "see /somewhere/of/mine/x\nfine"), ("b.md", "/somewhere else")]);
        assert_eq!(machine_paths(&files, &["/somewhere".to_owned(), String::new()]).len(), 1);
    }
}
