use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn router(patterns: &[&str]) -> Router {
    let patterns: Vec<_> = patterns.iter().enumerate().map(|(n, p)| (n, Pattern::parse(p).unwrap())).collect();
    Router::new(&patterns).unwrap()
}

fn find(router: &Router, method: &str, path: &str) -> Result<Match, Miss> {
    router.find(None, &method.parse().unwrap(), path, &HeaderMap::new())
}

fn route(router: &Router, method: &str, path: &str) -> Option<usize> {
    find(router, method, path).ok().map(|m| m.route)
}

#[test]
fn a_fixed_path_is_no_prefix() {
    let r = router(&["POST /v1/payments"]);
    assert_eq!(route(&r, "POST", "/v1/payments"), Some(0));
    for other in ["/v1/paymentsX", "/v1/payments/", "/v1/payments/1", "/v1", "/V1/payments", "/"] {
        assert_eq!(find(&r, "POST", other), Err(Miss::NotFound), "{other}");
    }
}

#[test]
fn the_most_specific_wins_and_a_misfit_falls_through() {
    let r = router(&[
        "* /{*rest}",
        "GET /v1/{x}",
        "POST /v1/orders",
        "GET /v1/orders/{id}",
        "GET /v1/{kind}/latest",
        "* /v1/orders/{id}",
    ]);
    assert_eq!(route(&r, "POST", "/v1/orders"), Some(2));
    assert_eq!(route(&r, "GET", "/v1/orders"), Some(1), "the literal has no GET");
    assert_eq!(route(&r, "GET", "/v1/orders/latest"), Some(3), "left to right: orders beats {{kind}}");
    assert_eq!(route(&r, "GET", "/v1/mails/latest"), Some(4), "backtracks");
    assert_eq!(route(&r, "PUT", "/v1/orders/7"), Some(5));
    assert_eq!(route(&r, "PUT", "/"), Some(0));
    assert_eq!(route(&r, "PROPFIND", "/v1/orders/7"), Some(5));
}

#[test]
fn parameters_are_captured() {
    let r = router(&["GET /v1/{a}/x/{b}", "GET /files/{*rest}"]);
    let path = "/v1/one/x/two%20";
    let found = find(&r, "GET", path).unwrap();
    assert_eq!(found.params.get("a", path), Some("one"));
    assert_eq!(found.params.get("b", path), Some("two%20"));
    assert_eq!(found.params.get("c", path), None);
    for (path, rest) in [("/files/a/b/", "a/b/"), ("/files/", "")] {
        assert_eq!(find(&r, "GET", path).unwrap().params.get("rest", path), Some(rest));
    }
    assert_eq!(find(&r, "GET", "/files"), Err(Miss::NotFound));
    assert_eq!(find(&r, "GET", "/v1//x/two"), Err(Miss::NotFound), "a parameter is never empty");
}

#[test]
fn head_follows_get_unless_it_is_named() {
    let r = router(&["GET /a", "HEAD /b", "GET /b", "* /a"]);
    assert_eq!(route(&r, "HEAD", "/a"), Some(0));
    assert_eq!(route(&r, "HEAD", "/b"), Some(1));
    assert_eq!(route(&r, "DELETE", "/a"), Some(3));
}

#[test]
fn a_wrong_method_says_which_are_right() {
    let r = router(&["POST /v1/payments", "GET,DELETE /v1/{x}"]);
    let allow = MethodSet::parse("GET,POST,DELETE").unwrap();
    assert_eq!(find(&r, "PUT", "/v1/payments"), Err(Miss::Method { allow, nearest: 0 }));
    assert_eq!(allow.to_string(), "GET,POST,DELETE");
}

#[test]
fn hosts_go_before_paths() {
    let with_host = |n: usize, host: &str, text: &str| {
        (n, Pattern { host: Some(HostPattern::parse(host).unwrap()), ..Pattern::parse(text).unwrap() })
    };
    let r = Router::new(&[
        (0, Pattern::parse("GET /a").unwrap()),
        with_host(1, "*.example.com", "GET /{*rest}"),
        with_host(2, "*.eu.example.com", "GET /{*rest}"),
        with_host(3, "API.example.com", "GET /a"),
    ])
    .unwrap();
    let at = |host: Option<&str>, path| r.find(host, &Method::GET, path, &HeaderMap::new()).ok().map(|m| m.route);
    assert_eq!(at(Some("api.EXAMPLE.com:8080"), "/a"), Some(3));
    assert_eq!(at(Some("api.example.com."), "/b"), Some(1), "falls to the suffix");
    assert_eq!(at(Some("x.eu.example.com"), "/a"), Some(2));
    assert_eq!(at(Some("example.com"), "/a"), Some(0), "the suffix itself is not below it");
    assert_eq!(at(Some("[::1]:80"), "/a"), Some(0));
    assert_eq!(at(None, "/a"), Some(0));
}

fn header(name: &'static str, value: Option<&'static str>) -> HeaderCondition {
    HeaderCondition { name: name.parse().unwrap(), value: value.map(HeaderValue::from_static) }
}

#[test]
fn more_header_conditions_win() {
    let with = |n: usize, headers: Vec<HeaderCondition>| (n, Pattern { headers, ..Pattern::parse("GET /a").unwrap() });
    let r = Router::new(&[
        with(0, vec![]),
        with(1, vec![header("x-v", Some("2"))]),
        with(2, vec![header("x-t", None), header("x-v", Some("2"))]),
        with(3, vec![header("x-v", Some("3"))]),
    ])
    .unwrap();
    let at = |pairs: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (k, v) in pairs {
            headers.append(*k, HeaderValue::from_static(v));
        }
        r.find(None, &Method::GET, "/a", &headers).unwrap().route
    };
    assert_eq!(at(&[]), 0);
    assert_eq!(at(&[("x-v", "2")]), 1);
    assert_eq!(at(&[("x-v", "2"), ("x-t", "")]), 2);
    assert_eq!(at(&[("x-v", "3")]), 3);
    assert_eq!(at(&[("x-v", "2"), ("x-v", "3")]), 0, "a field sent twice satisfies neither value");
}

#[test]
fn ambiguity_is_found() {
    let ambiguous =
        |a: &str, b: &str| Router::new(&[(0, Pattern::parse(a).unwrap()), (1, Pattern::parse(b).unwrap())]).is_err();
    assert!(ambiguous("POST /a", "POST /a"));
    assert!(ambiguous("POST,GET /a/{x}", "GET,PUT /a/{y}"));
    assert!(ambiguous("* /{*a}", "* /{*b}"));
    assert!(!ambiguous("* /a", "POST /a"));
    assert!(!ambiguous("GET /a", "HEAD /a"));
    assert!(!ambiguous("GET /a", "GET /a/"));
    assert!(!ambiguous("GET /{a}/b", "GET /a/{b}"));
    let one = |h| (0, Pattern { headers: vec![h], ..Pattern::parse("GET /a").unwrap() });
    assert!(Router::new(&[one(header("x-a", Some("1"))), one(header("x-b", Some("1")))]).is_err());
    assert!(Router::new(&[one(header("x-a", Some("1"))), one(header("x-a", None))]).is_err());
    assert!(Router::new(&[one(header("x-a", Some("1"))), one(header("x-a", Some("2")))]).is_ok());
}

#[test]
fn bad_patterns_are_refused() {
    for bad in [
        "/a",
        "POST",
        "",
        "post /a",
        "POST a",
        "POST /a//b",
        "POST /../a",
        "POST /a%2fb",
        "POST /%61",
        "GET, /a",
        "POST /{}",
        "POST /{a}{b}",
        "POST /x{a}",
        "POST /{*a}/b",
        "POST /{a}/{a}",
        "POST /{a",
        "POST /{a b}",
        "CONNECT /a",
    ] {
        assert!(Pattern::parse(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "http://x", "x:80", "*", "*.", "a..b", ".a", "a/b", "*.[::1]"] {
        assert!(HostPattern::parse(bad).is_err(), "{bad:?}");
    }
}

/// The rule again, written to be read: every pattern is asked, the matching ones are compared pairwise.
mod naive {
    use super::*;

    fn fits(pattern: &Pattern, host: &str, path: &str, headers: &HeaderMap) -> bool {
        let host_fits = match &pattern.host {
            None => true,
            Some(HostPattern::Exact(name)) => host == name,
            Some(HostPattern::Suffix(suffix)) => host.ends_with(suffix.as_str()) && host.len() > suffix.len(),
        };
        let parts: Vec<&str> = path[1..].split('/').collect();
        let segments = pattern.path.segments();
        let path_fits = match segments.last() {
            Some(Segment::Rest(_)) => parts.len() >= segments.len(),
            _ => parts.len() == segments.len(),
        } && segments.iter().zip(&parts).all(|(segment, part)| match segment {
            Segment::Literal(text) => text == part,
            Segment::Param(_) => !part.is_empty(),
            Segment::Rest(_) => true,
        });
        host_fits && path_fits && pattern.headers.iter().all(|h| h.holds(headers))
    }

    /// Smaller is more specific; lexicographic, as published.
    fn order(pattern: &Pattern, method: &Method) -> (u8, Reverse<usize>, Vec<u8>, u8, Reverse<usize>) {
        let (kind, len) = match &pattern.host {
            Some(HostPattern::Exact(_)) => (0, 0),
            Some(HostPattern::Suffix(suffix)) => (1, suffix.len()),
            None => (2, 0),
        };
        let path = pattern.path.segments().iter().map(|s| match s {
            Segment::Literal(_) => 0,
            Segment::Param(_) => 1,
            Segment::Rest(_) => 2,
        });
        let rank = pattern.methods.rank(method).unwrap();
        (kind, Reverse(len), path.collect(), rank, Reverse(pattern.headers.len()))
    }

    pub(super) fn find(
        patterns: &[(usize, Pattern)],
        host: &str,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<usize> {
        patterns
            .iter()
            .filter(|(_, p)| fits(p, host, path, headers) && p.methods.rank(method).is_some())
            .min_by_key(|(_, p)| order(p, method))
            .map(|(n, _)| *n)
    }
}

fn any_pattern() -> impl Strategy<Value = Pattern> {
    let segment = prop_oneof![4 => "[ab]", 2 => Just("{p}".to_owned())];
    let path = (prop::collection::vec(segment, 0..4), prop_oneof![3 => Just(""), 1 => Just("/"), 1 => Just("/{*r}")]);
    let host = prop_oneof![Just(None), Just(Some("a.x")), Just(Some("*.x")), Just(Some("*.b.x"))];
    let method = prop_oneof![Just("*"), Just("GET"), Just("POST"), Just("GET,POST"), Just("HEAD")];
    let headers = prop_oneof![
        3 => Just(vec![]),
        1 => Just(vec![header("x-a", Some("1"))]),
        1 => Just(vec![header("x-a", None), header("x-b", Some("1"))]),
    ];
    (method, path, host, headers).prop_map(|(method, (segments, tail), host, headers)| {
        let path: String = segments
            .iter()
            .enumerate()
            .map(|(n, s)| format!("/{}", if s == "{p}" { format!("{{p{n}}}") } else { s.clone() }))
            .collect();
        let path = if path.is_empty() && tail.is_empty() { "/".to_owned() } else { path + tail };
        Pattern {
            host: host.map(|h| HostPattern::parse(h).unwrap()),
            headers,
            ..Pattern::parse(&format!("{method} {path}")).unwrap()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// The compiled router and the naive reading of the rule agree on every request.
    #[test]
    fn agrees_with_the_naive_rule(
        patterns in prop::collection::vec(any_pattern(), 0..12),
        requests in prop::collection::vec(
            ("(/[abc]){0,4}/?", "(a|c|c\\.b|b)\\.x|y", prop::sample::select(vec!["GET", "POST", "HEAD", "PUT", "OPTIONS"]), any::<(bool, bool)>()),
            1..20,
        ),
    ) {
        let mut kept: Vec<(usize, Pattern)> = Vec::new();
        for pattern in patterns {
            if !kept.iter().any(|(_, earlier)| ambiguous(earlier, &pattern)) {
                kept.push((kept.len(), pattern));
            }
        }
        let router = Router::new(&kept).unwrap();
        for (path, host, method, (a, b)) in requests {
            let path = if path.is_empty() { "/".to_owned() } else { path };
            let method: Method = method.parse().unwrap();
            let mut headers = HeaderMap::new();
            if a { headers.insert("x-a", HeaderValue::from_static("1")); }
            if b { headers.insert("x-b", HeaderValue::from_static("1")); }
            let found = router.find(Some(&host), &method, &path, &headers).ok().map(|m| m.route);
            prop_assert_eq!(found, naive::find(&kept, &host, &method, &path, &headers), "{} {} {}", method, host, path);
        }
    }
}
