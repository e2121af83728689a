//! Walks the parsed TOML tree. Every table says which keys it knows, so an unknown key is an error with the valid names,
//! and one pass reports all findings rather than the first.
//!
//! Why not derive: serde stops at the first error, and its messages know neither the table's name nor a likely spelling.

use std::cell::RefCell;
use std::ops::Range;

use semel_core::code::Code;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, known_names};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// A value of the tree.
pub(crate) type Node<'i> = Spanned<DeValue<'i>>;

/// The findings so far.
pub(crate) type Issues = RefCell<Vec<Diagnostic>>;

/// Can be read from a value; reports what is wrong and yields nothing otherwise.
pub(crate) trait Read: Sized {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self>;
}

/// Why a text of the right type is refused.
pub(crate) enum Refusal {
    Invalid(String),
    Later(String),
}

impl<S: Into<String>> From<S> for Refusal {
    fn from(why: S) -> Self {
        Self::Invalid(why.into())
    }
}

/// The dotted path of a value, and where findings go.
#[derive(Clone)]
pub(crate) struct Place<'a> {
    issues: &'a Issues,
    path: String,
}

impl<'a> Place<'a> {
    pub(crate) fn root(issues: &'a Issues) -> Self {
        Self { issues, path: String::new() }
    }

    fn child(&self, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { issues: self.issues, path }
    }

    /// For people: "in `route.timeout`", "at the top level".
    fn title(&self) -> String {
        if self.path.is_empty() { "at the top level".to_owned() } else { format!("in `{}`", self.path) }
    }

    pub(crate) fn report(&self, diagnostic: Diagnostic) {
        self.issues.borrow_mut().push(diagnostic);
    }

    pub(crate) fn wrong_type(&self, node: &Node<'_>, expected: &str) {
        let found = match node.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a decimal number",
            DeValue::Boolean(_) => "a truth value",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let message = format!("`{}` must be {expected}, not {found}", self.path);
        self.report(Diagnostic::error(Code::WRONG_TYPE, node.span(), message));
    }

    pub(crate) fn refuse(&self, node: &Node<'_>, expected: &str, why: Refusal) {
        self.report(match why {
            Refusal::Invalid(why) => {
                let message = format!("the value of `{}` cannot be used: {why}", self.path);
                Diagnostic::error(Code::INVALID_VALUE, node.span(), message).help(format!("expected {expected}"))
            }
            Refusal::Later(what) => {
                let message = format!("{what} is not available in this version");
                Diagnostic::error(Code::NOT_AVAILABLE, node.span(), message)
            }
        });
    }

    /// Reads a value that is written as text.
    pub(crate) fn text<T, R: Into<Refusal>>(
        &self,
        node: &Node<'_>,
        expected: &str,
        read: impl FnOnce(&str) -> Result<T, R>,
    ) -> Option<T> {
        let DeValue::String(text) = node.get_ref() else {
            self.wrong_type(node, expected);
            return None;
        };
        read(text).map_err(|why| self.refuse(node, expected, why.into())).ok()
    }
}

/// A table being read: every `get` makes a key known, [`Table::close`] refuses the others.
pub(crate) struct Table<'a, 'i> {
    table: &'a DeTable<'i>,
    span: Range<usize>,
    place: Place<'a>,
    known: Vec<&'static str>,
    later: &'static [&'static str],
}

impl<'a, 'i> Table<'a, 'i> {
    pub(crate) fn open(node: &'a Node<'i>, place: &Place<'a>) -> Option<Self> {
        let DeValue::Table(table) = node.get_ref() else {
            place.wrong_type(node, "a table");
            return None;
        };
        Some(Self::of(table, node.span(), place.clone()))
    }

    pub(crate) fn of(table: &'a DeTable<'i>, span: Range<usize>, place: Place<'a>) -> Self {
        Self { table, span, place, known: Vec::new(), later: &[] }
    }

    pub(crate) fn get<T: Read>(&mut self, key: &'static str) -> Option<At<T>> {
        self.known.push(key);
        let node = self.table.get(key)?;
        T::read(node, &self.place.child(key)).map(|value| At { value, span: node.span() })
    }

    /// Reports when the key is not there at all; a broken value has reported itself.
    pub(crate) fn require(&self, key: &'static str, help: &str) {
        if !self.table.contains_key(key) {
            let message = format!("`{key}` is missing {}", self.place.title());
            self.place.report(Diagnostic::error(Code::MISSING_KEY, self.span.clone(), message).help(help));
        }
    }

    /// Keys that a later version will know.
    pub(crate) fn later(&mut self, keys: &'static [&'static str]) {
        self.later = keys;
    }

    pub(crate) fn close(self) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let diagnostic = if self.later.contains(&name) {
                let message = format!("`{name}` {} is not available in this version", self.place.title());
                Diagnostic::error(Code::NOT_AVAILABLE, key.span(), message)
                    .help("it is refused rather than ignored: remove it or comment it out")
            } else {
                let message = format!("unknown key `{name}` {}", self.place.title());
                Diagnostic::error(Code::UNKNOWN_KEY, key.span(), message).help(known_names(
                    name,
                    &self.known,
                    "known here",
                ))
            };
            self.place.report(diagnostic);
        }
    }
}

/// `[upstream.x]`: tables with names of the user's.
#[derive(Debug, Default)]
pub(crate) struct Named<T>(pub(crate) Vec<(At<String>, At<T>)>);

impl<T: Read> Read for Named<T> {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        let DeValue::Table(table) = node.get_ref() else {
            place.wrong_type(node, "a table of named tables");
            return None;
        };
        let mut all = Vec::new();
        for (key, node) in table {
            let name = key.get_ref().as_ref();
            if let Err(why) = super::value::name(name) {
                let message = format!("{name:?} cannot be a name: {why}");
                place.report(Diagnostic::error(Code::INVALID_VALUE, key.span(), message));
            }
            if let Some(value) = T::read(node, &place.child(name)) {
                let name = At { value: name.to_owned(), span: key.span() };
                all.push((name, At { value, span: node.span() }));
            }
        }
        all.sort_by_key(|(name, _)| name.span.start);
        Some(Self(all))
    }
}

impl<T: Read> Read for Vec<At<T>> {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        let DeValue::Array(items) = node.get_ref() else {
            place.wrong_type(node, "a list");
            return None;
        };
        let read: Self =
            items.iter().filter_map(|n| T::read(n, place).map(|value| At { value, span: n.span() })).collect();
        (read.len() == items.len()).then_some(read)
    }
}

/// One value, or a list of them that is not empty.
#[derive(Clone, Debug)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<At<T>>);

impl<T: Read> Read for OneOrMany<T> {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::Array(items) if items.is_empty() => {
                place.refuse(node, "at least one value", "the list is empty".into());
                None
            }
            DeValue::Array(_) => Vec::read(node, place).map(Self),
            _ => T::read(node, place).map(|value| Self(vec![At { value, span: node.span() }])),
        }
    }
}

/// Declares a table of optional keys and how it is read: `"key" => field: Type`; then the keys of later versions, and the
/// keys that must be there with a word of help.
macro_rules! raw_table {
    (
        $(#[$meta:meta])* $name:ident { $($key:literal => $field:ident: $type:ty,)* }
        later [$($later:literal),*] require [$($required:literal: $help:literal),*]
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub(crate) struct $name {
            $(pub(crate) $field: Option<$crate::raw::reader::At<$type>>,)*
        }

        impl $crate::raw::reader::Read for $name {
            fn read(node: &$crate::raw::reader::Node<'_>, place: &$crate::raw::reader::Place<'_>) -> Option<Self> {
                $crate::raw::reader::Table::open(node, place).map(Self::from_table)
            }
        }

        impl $name {
            /// The keys of this table.
            #[cfg(test)]
            pub(crate) const KEYS: &[&str] = &[$($key),*];

            pub(crate) fn from_table(mut table: $crate::raw::reader::Table<'_, '_>) -> Self {
                let raw = Self { $($field: table.get($key),)* };
                table.later(&[$($later),*]);
                $(table.require($required, $help);)*
                table.close();
                raw
            }
        }
    };
}
pub(crate) use raw_table;
