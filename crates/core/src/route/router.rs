//! All patterns, compiled.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use http::{HeaderMap, Method};
use thiserror::Error;

use super::pattern::{HeaderCondition, HostPattern, MethodSet, PathTemplate, Pattern, Segment};

/// Finds the route of a request by the module's published rule.
#[derive(Clone, Debug, Default)]
pub struct Router {
    exact_hosts: HashMap<Box<str>, Table>,
    /// Longest suffix first.
    suffix_hosts: Vec<(Box<str>, Table)>,
    any_host: Table,
}

/// A request found its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The number the route was given to [`Router::new`] with.
    pub route: usize,
    /// What the path's parameters are.
    pub params: Params,
}

/// Captured parameters: ranges of the path that was looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params {
    names: Option<Arc<[Box<str>]>>,
    ranges: Vec<Range<usize>>,
}

impl Params {
    /// The text of a parameter within `path`, which must be the path that was looked up. Escapes stay escapes.
    #[must_use]
    pub fn get<'p>(&self, name: &str, path: &'p str) -> Option<&'p str> {
        let at = self.names.as_ref()?.iter().position(|n| **n == *name)?;
        path.get(self.ranges.get(at)?.clone())
    }

    /// Every parameter of `path`, which must be the path that was looked up, in the order of the template.
    pub fn iter<'s, 'p: 's>(&'s self, path: &'p str) -> impl Iterator<Item = (&'s str, &'p str)> {
        let names = self.names.iter().flat_map(|names| names.iter());
        names.zip(&self.ranges).filter_map(|(name, range)| path.get(range.clone()).map(|text| (&**name, text)))
    }
}

/// A request found no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// No pattern has this host and path: 404.
    NotFound,
    /// Patterns have this path and none this method: 405 with Allow.
    Method {
        /// The methods that would have matched.
        allow: MethodSet,
        /// The route of the most specific pattern with this path: where an OPTIONS that no pattern names belongs.
        nearest: usize,
    },
}

/// Two patterns match one request and neither is more specific.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{first_pattern:?} and {second_pattern:?} match the same requests and neither is more specific")]
pub struct Ambiguity {
    /// The route given earlier.
    pub first: usize,
    /// Its pattern.
    pub first_pattern: String,
    /// The route given later.
    pub second: usize,
    /// Its pattern.
    pub second_pattern: String,
}

impl Router {
    /// Compiles `patterns`, each with the number of its route (several patterns may share one).
    ///
    /// # Errors
    /// Every pair of patterns that the published rule cannot order.
    pub fn new(patterns: &[(usize, Pattern)]) -> Result<Self, Vec<Ambiguity>> {
        let mut router = Self::default();
        let mut ambiguities = Vec::new();
        for (n, (route, pattern)) in patterns.iter().enumerate() {
            // Quadratic, once per reload; grouping by shape would only pay beyond thousands of routes.
            ambiguities.extend(patterns[..n].iter().filter(|(_, earlier)| ambiguous(earlier, pattern)).map(
                |(first, earlier)| Ambiguity {
                    first: *first,
                    first_pattern: earlier.to_string(),
                    second: *route,
                    second_pattern: pattern.to_string(),
                },
            ));
            router.table(pattern.host.as_ref()).insert(*route, pattern);
        }
        router.suffix_hosts.sort_by_key(|(suffix, _)| Reverse(suffix.len()));
        if ambiguities.is_empty() { Ok(router) } else { Err(ambiguities) }
    }

    fn table(&mut self, host: Option<&HostPattern>) -> &mut Table {
        match host {
            None => &mut self.any_host,
            Some(HostPattern::Exact(name)) => self.exact_hosts.entry(name.as_str().into()).or_default(),
            Some(HostPattern::Suffix(suffix)) => {
                let at = self.suffix_hosts.iter().position(|(s, _)| **s == **suffix).unwrap_or_else(|| {
                    self.suffix_hosts.push((suffix.as_str().into(), Table::default()));
                    self.suffix_hosts.len() - 1
                });
                &mut self.suffix_hosts[at].1
            }
        }
    }

    /// Finds the route of a request. `host` is the Host field or the authority, port and all; `path` is without query
    /// and must come from [`super::normalise`].
    ///
    /// # Errors
    /// [`Miss`] when no pattern matches.
    pub fn find(&self, host: Option<&str>, method: &Method, path: &str, headers: &HeaderMap) -> Result<Match, Miss> {
        let mut search = Search { method, path, headers, ranges: Vec::new(), allow: MethodSet::NONE, nearest: None };
        if !self.exact_hosts.is_empty() || !self.suffix_hosts.is_empty() {
            let host = host.map_or(Cow::Borrowed(""), host_name);
            if let Some(table) = self.exact_hosts.get(host.as_ref())
                && let Some(found) = search.table(table)
            {
                return Ok(found);
            }
            for (suffix, table) in &self.suffix_hosts {
                if host.len() > suffix.len()
                    && host.ends_with(&**suffix)
                    && let Some(found) = search.table(table)
                {
                    return Ok(found);
                }
            }
        }
        search.table(&self.any_host).ok_or_else(|| search.miss())
    }
}

/// The name in `host`: no port, no final dot, lower case. Allocates only for upper case.
fn host_name(host: &str) -> Cow<'_, str> {
    let end = if host.starts_with('[') { host.find(']').map(|at| at + 1) } else { host.find(':') };
    let name = &host[..end.unwrap_or(host.len())];
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// The patterns of one host.
#[derive(Clone, Debug, Default)]
struct Table {
    /// Paths without parameters, whole. They beat every other pattern of their path, so one probe may decide.
    fixed: HashMap<Box<str>, Leaf>,
    tree: Node,
}

#[derive(Clone, Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    param: Option<Box<Node>>,
    rest: Leaf,
    end: Leaf,
}

/// Patterns of one host and path shape; they differ by method and headers.
type Leaf = Vec<Candidate>;

#[derive(Clone, Debug)]
struct Candidate {
    route: usize,
    methods: MethodSet,
    headers: Box<[HeaderCondition]>,
    names: Option<Arc<[Box<str>]>>,
}

impl Table {
    fn insert(&mut self, route: usize, pattern: &Pattern) {
        let names: Vec<Box<str>> = pattern.path.parameters().map(Box::from).collect();
        let candidate = Candidate {
            route,
            methods: pattern.methods,
            headers: pattern.headers.clone().into_boxed_slice(),
            names: if names.is_empty() { None } else { Some(names.into()) },
        };
        if candidate.names.is_none() {
            self.fixed.entry(pattern.path.as_str().into()).or_default().push(candidate);
            return;
        }
        let mut node = &mut self.tree;
        for segment in pattern.path.segments() {
            match segment {
                Segment::Literal(text) => node = node.literals.entry(text.as_str().into()).or_default(),
                Segment::Param(_) => node = node.param.get_or_insert_default(),
                Segment::Rest(_) => {
                    node.rest.push(candidate);
                    return;
                }
            }
        }
        node.end.push(candidate);
    }
}

/// One look-up. Collects what a miss must say on the way.
struct Search<'a> {
    method: &'a Method,
    path: &'a str,
    headers: &'a HeaderMap,
    ranges: Vec<Range<usize>>,
    allow: MethodSet,
    nearest: Option<usize>,
}

impl Search<'_> {
    fn table(&mut self, table: &Table) -> Option<Match> {
        if let Some(leaf) = table.fixed.get(self.path)
            && let Some(found) = self.leaf(leaf)
        {
            return Some(found);
        }
        self.node(&table.tree, Some(1))
    }

    /// Tries what is below `node` for the path from `at` on; `None` when the path has ended. Every node is visited at
    /// most once per look-up (it stands for one prefix), so the work is bounded by the number of patterns.
    fn node(&mut self, node: &Node, at: Option<usize>) -> Option<Match> {
        let Some(at) = at else { return self.leaf(&node.end) };
        let end = self.path[at..].find('/').map_or(self.path.len(), |slash| at + slash);
        let next = (end < self.path.len()).then_some(end + 1);
        if let Some(child) = node.literals.get(&self.path[at..end])
            && let Some(found) = self.node(child, next)
        {
            return Some(found);
        }
        if end > at
            && let Some(child) = &node.param
        {
            self.ranges.push(at..end);
            if let Some(found) = self.node(child, next) {
                return Some(found);
            }
            self.ranges.pop();
        }
        if node.rest.is_empty() {
            return None;
        }
        self.ranges.push(at..self.path.len());
        let found = self.leaf(&node.rest);
        self.ranges.pop();
        found
    }

    fn leaf(&mut self, leaf: &Leaf) -> Option<Match> {
        let fitting = leaf.iter().filter(|c| c.headers.iter().all(|h| h.holds(self.headers)));
        let best = fitting
            .clone()
            .filter_map(|c| c.methods.rank(self.method).map(|rank| ((rank, Reverse(c.headers.len())), c)))
            .min_by_key(|(order, _)| *order);
        let Some((_, best)) = best else {
            for candidate in fitting {
                self.allow = self.allow.union(candidate.methods);
                self.nearest.get_or_insert(candidate.route);
            }
            return None;
        };
        let ranges = if best.names.is_some() { self.ranges.clone() } else { Vec::new() };
        Some(Match { route: best.route, params: Params { names: best.names.clone(), ranges } })
    }

    fn miss(&self) -> Miss {
        self.nearest.map_or(Miss::NotFound, |nearest| Miss::Method { allow: self.allow, nearest })
    }
}

/// Whether one request can match both and the published rule leaves them equal.
fn ambiguous(a: &Pattern, b: &Pattern) -> bool {
    a.host == b.host
        && same_shape(&a.path, &b.path)
        && a.methods.is_any() == b.methods.is_any()
        && a.methods.intersects(b.methods)
        && a.headers.len() == b.headers.len()
        && !a.headers.iter().any(|x| b.headers.iter().any(|y| excludes(x, y)))
}

fn excludes(a: &HeaderCondition, b: &HeaderCondition) -> bool {
    a.name == b.name && matches!((&a.value, &b.value), (Some(x), Some(y)) if x != y)
}

fn same_shape(a: &PathTemplate, b: &PathTemplate) -> bool {
    a.segments().len() == b.segments().len()
        && a.segments().iter().zip(b.segments()).all(|pair| match pair {
            (Segment::Literal(x), Segment::Literal(y)) => x == y,
            (Segment::Param(_), Segment::Param(_)) | (Segment::Rest(_), Segment::Rest(_)) => true,
            _ => false,
        })
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
