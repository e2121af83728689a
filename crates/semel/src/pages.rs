//! The remedy page of each error code, embedded so that `semel explain SM0007` works on any machine.

use semel_core::code::Code;

macro_rules! pages {
    ($($id:ident $name:ident $title:literal;)*) => {
        const PAGES: &[(Code, &str)] = &[$((
            Code::$name,
            include_str!(concat!("../../../docs/src/errors/", stringify!($id), ".md")),
        )),*];
    };
}

semel_core::for_all_codes!(pages);

/// The page of `code`, in Markdown.
pub(crate) fn page(code: Code) -> &'static str {
    PAGES.iter().find(|(c, _)| *c == code).map_or("", |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_about_its_code_and_says_what_to_do() {
        for (code, text) in PAGES {
            let title = text.lines().next().unwrap_or_default();
            assert_eq!(title, format!("# {code}: {}", code.title()));
            assert!(text.contains("\n## Why\n") && text.contains("\n## What to do\n"), "{code}");
            assert!(page(*code).len() > 200, "{code}");
        }
    }

    #[test]
    fn every_page_has_a_code() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/errors");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if let Some(code) = name.strip_suffix(".md").filter(|stem| stem.starts_with("SM")) {
                assert!(code.parse::<Code>().is_ok(), "{name} has no code");
            }
        }
    }
}
