//! Choosing between the places that may set a value, and remembering which one did.

use std::ops::Range;
use std::sync::Arc;

use crate::origin::{Origin, Setting};
use crate::raw::Layer;
use crate::raw::reader::At;
use crate::raw::show::Show;
use crate::source::Source;

/// The settings chosen so far, with their origins.
pub(crate) struct Values<'a> {
    source: &'a Source,
    pub(crate) settings: Vec<Setting>,
}

/// A chosen value; `span` is where the file says so.
#[derive(Clone, Debug)]
pub(crate) struct Chosen<T> {
    pub(crate) value: T,
    pub(crate) span: Option<Range<usize>>,
}

impl<T> Chosen<T> {
    /// Where to point a finding: the value, or else `otherwise`.
    pub(crate) fn span_or(&self, otherwise: &Range<usize>) -> Range<usize> {
        self.span.clone().unwrap_or_else(|| otherwise.clone())
    }
}

impl<'a> Values<'a> {
    pub(crate) fn new(source: &'a Source) -> Self {
        Self { source, settings: Vec::new() }
    }

    pub(crate) fn line(&self, span: &Range<usize>) -> usize {
        self.source.line(span.start)
    }

    /// Records a value that was decided elsewhere.
    pub(crate) fn record(&mut self, key: &'static str, value: &impl Show, origin: Origin) {
        self.settings.push(Setting { key, value: value.show(), origin });
    }

    /// A value from a table that stands alone.
    pub(crate) fn choose<T: Show + Clone>(&mut self, key: &'static str, raw: Option<&At<T>>, default: T) -> T {
        let origin = raw.map_or(Origin::Default, |at| Origin::File { line: self.line(&at.span) });
        let value = raw.map_or(default, |at| at.value.clone());
        self.record(key, &value, origin);
        value
    }
}

/// The places that may set a value of a route: the route itself, then its profile.
pub(crate) struct Layers<'a> {
    pub(crate) values: Values<'a>,
    pub(crate) route: &'a Layer,
    pub(crate) profile: Option<(Arc<str>, &'a Layer)>,
}

impl<'a> Layers<'a> {
    fn find<T>(&self, get: impl Fn(&'a Layer) -> Option<&'a At<T>>) -> Option<(&'a At<T>, Origin)> {
        if let Some(at) = get(self.route) {
            return Some((at, Origin::Route { line: self.values.line(&at.span) }));
        }
        let (name, layer) = self.profile.as_ref()?;
        let at = get(layer)?;
        Some((at, Origin::Profile { name: Arc::clone(name), line: self.values.line(&at.span) }))
    }

    /// Where the file says something: in the route, or else in its profile.
    pub(crate) fn span<T: 'a>(&self, get: impl Fn(&'a Layer) -> Option<&'a At<T>>) -> Option<Range<usize>> {
        self.find(get).map(|(at, _)| at.span.clone())
    }

    /// A value that may well be absent.
    pub(crate) fn optional<T: Show + Clone + 'a>(
        &mut self,
        key: &'static str,
        get: impl Fn(&'a Layer) -> Option<&'a At<T>>,
    ) -> Option<Chosen<T>> {
        let (at, origin) = self.find(get)?;
        self.values.record(key, &at.value, origin);
        Some(Chosen { value: at.value.clone(), span: Some(at.span.clone()) })
    }

    /// A value with a default.
    pub(crate) fn choose<T: Show + Clone + 'a>(
        &mut self,
        key: &'static str,
        get: impl Fn(&'a Layer) -> Option<&'a At<T>>,
        default: T,
    ) -> Chosen<T> {
        self.choose_or(key, get, (default, Origin::Default))
    }

    /// A value whose default follows from another value.
    pub(crate) fn choose_or<T: Show + Clone + 'a>(
        &mut self,
        key: &'static str,
        get: impl Fn(&'a Layer) -> Option<&'a At<T>>,
        (default, why): (T, Origin),
    ) -> Chosen<T> {
        self.optional(key, get).unwrap_or_else(|| {
            self.values.record(key, &default, why);
            Chosen { value: default, span: None }
        })
    }
}
