//! Who may talk to the admin API: the name it is called by, the page that calls, and the token.
//!
//! A browser on the operator's machine reaches loopback addresses on behalf of any page. A page of another site is told
//! apart by its Origin (or Sec-Fetch-Site), and a page that had its own name resolved to this address (DNS rebinding)
//! by the Host: names must be known, while an address cannot be rebound.

use std::net::IpAddr;

use axum::http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, ORIGIN,
        VARY,
    },
    uri::Authority,
};

use crate::{
    AdminSettings, AdminToken,
    problem::{Kind, Problem},
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The Origin of a page that may use the API, for the answer's CORS headers; none when no page asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Visitor(Option<HeaderValue>);

/// Checks Host and Origin.
pub(crate) fn check<B>(request: &Request<B>, settings: &AdminSettings) -> Result<Visitor, Problem> {
    let authority = target(request)?;
    if !host_allowed(authority.host(), &settings.allowed_hosts) {
        let detail = format!("The Host `{}` is not one of this API's names.", authority.host());
        return Err(Problem::new(Kind::HostNotAllowed, detail));
    }
    check_origin(request.method(), request.headers(), &authority, &settings.allowed_origins)
}

/// Checks the bearer token (RFC 6750 section 2.1).
pub(crate) fn check_token(headers: &HeaderMap, token: &AdminToken) -> Result<(), Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let given = match (values.next(), values.next()) {
        (Some(value), None) => value.as_bytes(),
        _ => return Err(Problem::new(Kind::TokenRequired, "")),
    };
    let bearer = given.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    let Some((_, given)) = bearer else {
        return Err(Problem::new(Kind::TokenRequired, "The Authorization header holds no bearer token."));
    };
    if token.matches(given.trim_ascii()) { Ok(()) } else { Err(Problem::new(Kind::TokenWrong, "")) }
}

/// Checks that a body says it is JSON: a form of another site could not say so without being asked about first.
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let essence = match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(value), None) => value.split(';').next().unwrap_or_default().trim(),
        _ => return Err(Problem::new(Kind::ContentTypeWrong, "The request has no Content-Type, or several.")),
    };
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(Kind::ContentTypeWrong, format!("The Content-Type is `{essence}`.")))
}

impl Visitor {
    /// The answer to a preflight (Fetch standard, section CORS protocol), when this request is one.
    pub(crate) fn preflight<B, R: Default>(&self, request: &Request<B>) -> Option<Response<R>> {
        let asks = request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if self.0.is_none() || !asks {
            return None;
        }
        let mut response = Response::new(R::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        Some(response)
    }

    /// Lets the page read the answer.
    pub(crate) fn mark(self, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.0 {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
    }
}

/// The authority that the request is for: RFC 9112 section 3.2.2 puts an absolute target above the Host header.
fn target<B>(request: &Request<B>) -> Result<Authority, Problem> {
    let refuse = |detail: &str| Err(Problem::new(Kind::HostNotAllowed, detail));
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (None, _) => return refuse("The request has no Host."),
        (Some(_), Some(_)) => return refuse("The request has more than one Host."),
    };
    match (request.uri().authority(), Authority::try_from(host.as_bytes())) {
        (Some(authority), _) => Ok(authority.clone()),
        (None, Ok(authority)) if !authority.as_str().contains('@') => Ok(authority),
        _ => refuse("The Host is not a host."),
    }
}

fn host_allowed(host: &str, allowed: &[String]) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if bare.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    // RFC 6761 section 6.3: these names are loopback addresses and nothing else.
    name == "localhost" || name.ends_with(".localhost") || allowed.contains(&name)
}

fn check_origin(
    method: &Method,
    headers: &HeaderMap,
    target: &Authority,
    allowed: &[String],
) -> Result<Visitor, Problem> {
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => {
            let says = |name: &HeaderName, value: &[u8]| headers.get(name).is_some_and(|v| v.as_bytes() == value);
            let elsewhere = says(&SEC_FETCH_SITE, b"cross-site") || says(&SEC_FETCH_SITE, b"same-site");
            // A link that somebody follows shows them a page of JSON and nothing to the site it stands on.
            let link = method == Method::GET && says(&SEC_FETCH_MODE, b"navigate");
            if elsewhere && !link {
                return Err(Problem::new(Kind::OriginNotAllowed, "The browser says that another site sent this."));
            }
            Ok(Visitor(None))
        }
        (Some(origin), None) => {
            let text = origin.to_str().unwrap_or_default();
            let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
            let own = host.is_some_and(|host| host.eq_ignore_ascii_case(target.as_str()));
            if own || allowed.iter().any(|known| known == text) {
                return Ok(Visitor(Some(origin.clone())));
            }
            Err(Problem::new(Kind::OriginNotAllowed, format!("The Origin `{text}` may not use this API.")))
        }
        (Some(_), Some(_)) => Err(Problem::new(Kind::OriginNotAllowed, "The request has more than one Origin.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> AdminSettings {
        AdminSettings {
            allowed_hosts: vec!["ops.example".to_owned()],
            allowed_origins: vec!["https://dash.example".to_owned()],
            ..AdminSettings::at(([127, 0, 0, 1], 8081).into(), "admin.token".into())
        }
    }

    fn kind(method: &str, uri: &str, headers: &[(&str, &str)]) -> Option<Kind> {
        let request = Request::builder().method(method).uri(uri);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        check(&request.body(()).unwrap(), &settings()).err().map(|problem| problem.kind())
    }

    #[test]
    fn addresses_and_known_names_are_hosts() {
        for host in
            ["127.0.0.1:8081", "[::1]:8081", "10.0.0.7", "localhost", "LOCALHOST.:8081", "a.localhost", "Ops.Example"]
        {
            assert_eq!(kind("GET", "/", &[("host", host)]), None, "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "ops.example@evil.example", "", "a b"]
        {
            assert_eq!(kind("GET", "/", &[("host", host)]), Some(Kind::HostNotAllowed), "{host}");
        }
        assert_eq!(kind("GET", "/", &[]), Some(Kind::HostNotAllowed));
        assert_eq!(kind("GET", "/", &[("host", "localhost"), ("host", "localhost")]), Some(Kind::HostNotAllowed));
        assert_eq!(kind("GET", "http://evil.example/", &[("host", "localhost")]), Some(Kind::HostNotAllowed));
        assert_eq!(kind("GET", "http://localhost/", &[("host", "evil.example")]), None);
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let with = |method, headers: &[(&str, &str)]| {
            let headers: Vec<_> = [("host", "localhost:8081")].into_iter().chain(headers.iter().copied()).collect();
            kind(method, "/", &headers)
        };
        for fine in ["http://localhost:8081", "https://localhost:8081", "https://dash.example"] {
            assert_eq!(with("POST", &[("origin", fine)]), None, "{fine}");
        }
        for bad in ["null", "http://evil.example", "http://localhost:3000", "https://dash.example.evil.example", ""] {
            assert_eq!(with("GET", &[("origin", bad)]), Some(Kind::OriginNotAllowed), "{bad}");
        }
        let twice = [("origin", "https://dash.example"), ("origin", "https://dash.example")];
        assert_eq!(with("POST", &twice), Some(Kind::OriginNotAllowed));
        assert_eq!(with("POST", &[("sec-fetch-site", "cross-site")]), Some(Kind::OriginNotAllowed));
        assert_eq!(with("GET", &[("sec-fetch-site", "same-site")]), Some(Kind::OriginNotAllowed));
        let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert_eq!(with("GET", &link), None);
        assert_eq!(with("POST", &link), Some(Kind::OriginNotAllowed));
        assert_eq!(with("GET", &[("sec-fetch-site", "none")]), None);
    }

    #[test]
    fn only_json_is_json() {
        let check = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_TYPE, HeaderValue::from_static(value));
            }
            check_content_type(&headers).is_ok()
        };
        assert!(check(&["application/json"]) && check(&["Application/JSON; charset=utf-8"]));
        assert!(!check(&[]) && !check(&["text/plain"]) && !check(&["application/json", "application/json"]));
        assert!(!check(&["application/jsonp"]) && !check(&["text/plain; application/json"]));
    }
}
