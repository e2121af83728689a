//! Whom a request is for: exactly one host, by exactly one name (RFC 9112, 3.2).

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Uri, Version};

use super::survey::Survey;

/// Why a request's target is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// HTTP/1.1 requires `Host`.
    #[error("the Host header is missing; HTTP/1.1 requires it")]
    HostMissing,
    /// Two `Host` headers: two servers could read two names.
    #[error("there is more than one Host header")]
    HostRepeated,
    /// Not a host with an optional port.
    #[error("the Host header is not a host name with an optional port")]
    HostMalformed,
    /// `GET http://a/ HTTP/1.1` with `Host: b`.
    #[error("the request target and the Host header name different hosts")]
    HostMismatch,
    /// `CONNECT`, or a target that is neither a path, nor a http url, nor `*` of `OPTIONS`.
    #[error("the request target must be a path, or an http url of this host")]
    TargetUnsupported,
}

/// Checks target and `Host`, and makes the target a path: the upstream gets one host by one name.
pub(crate) fn normalise<B>(request: &mut Request<B>, seen: Survey) -> Result<(), TargetError> {
    check_host(request.headers(), seen, request.version())?;
    let uri = request.uri();
    match (uri.scheme_str(), uri.authority()) {
        (None, None) if uri.path().starts_with('/') => Ok(()),
        (None, None) if uri.path() == "*" && request.method() == Method::OPTIONS => Ok(()),
        (Some("http" | "https"), Some(authority)) if request.method() != Method::CONNECT => {
            let same = match request.headers().get(HOST) {
                Some(host) => host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()),
                None => true,
            };
            if !same {
                return Err(TargetError::HostMismatch);
            }
            let path = uri.path_and_query().cloned();
            *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
            Ok(())
        }
        _ => Err(TargetError::TargetUnsupported),
    }
}

fn check_host(headers: &HeaderMap, seen: Survey, version: Version) -> Result<(), TargetError> {
    if seen.has(Survey::HOST_AGAIN) {
        return Err(TargetError::HostRepeated);
    }
    let Some(host) = headers.get(HOST) else {
        return if version == Version::HTTP_10 { Ok(()) } else { Err(TargetError::HostMissing) };
    };
    if is_plain_host(host.as_bytes()) || is_authority(host.as_bytes()) {
        Ok(())
    } else {
        Err(TargetError::HostMalformed)
    }
}

/// The common case without a parser: letters, digits, dots, hyphens, and at most one colon before digits.
fn is_plain_host(host: &[u8]) -> bool {
    let (name, port) = match host.iter().position(|byte| *byte == b':') {
        Some(colon) => (&host[..colon], &host[colon + 1..]),
        None => (host, &[][..]),
    };
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        && port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
}

/// IPv6 literals and what else an authority may be, but no user.
fn is_authority(host: &[u8]) -> bool {
    !host.contains(&b'@') && Authority::try_from(host).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: &str, uri: &str, hosts: &[&str]) -> Result<String, TargetError> {
        let mut request = Request::builder().method(method).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut request = request.body(()).unwrap();
        let seen = Survey::of(request.headers());
        normalise(&mut request, seen).map(|()| request.uri().to_string())
    }

    #[test]
    fn accepts_one_host() {
        assert_eq!(target("GET", "/a?b=c", &["example.com"]), Ok("/a?b=c".into()));
        assert_eq!(target("GET", "/a", &["example.com:8080"]), Ok("/a".into()));
        assert_eq!(target("GET", "/a", &["[::1]:8080"]), Ok("/a".into()));
        assert_eq!(target("OPTIONS", "*", &["a"]), Ok("*".into()));
        assert_eq!(target("GET", "http://A.com/x?y", &["a.COM"]), Ok("/x?y".into()));
        assert_eq!(target("GET", "http://a.com", &["a.com"]), Ok("/".into()));
    }

    #[test]
    fn refuses_doubt() {
        assert_eq!(target("GET", "/", &[]), Err(TargetError::HostMissing));
        assert_eq!(target("GET", "/", &["a", "a"]), Err(TargetError::HostRepeated));
        assert_eq!(target("GET", "/", &["a, b"]), Err(TargetError::HostMalformed));
        assert_eq!(target("GET", "/", &["u@a"]), Err(TargetError::HostMalformed));
        assert_eq!(target("GET", "/", &["a/b"]), Err(TargetError::HostMalformed));
        assert_eq!(target("GET", "/", &[""]), Err(TargetError::HostMalformed));
        assert_eq!(target("GET", "http://a/", &["b"]), Err(TargetError::HostMismatch));
        assert_eq!(target("CONNECT", "a:443", &["a:443"]), Err(TargetError::TargetUnsupported));
        assert_eq!(target("GET", "*", &["a"]), Err(TargetError::TargetUnsupported));
        assert_eq!(target("GET", "ftp://a/", &["a"]), Err(TargetError::TargetUnsupported));
    }
}
