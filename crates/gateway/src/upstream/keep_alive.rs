//! How long an upstream keeps an idle connection, by its own word.

use std::time::Duration;

use http::HeaderMap;
use http::header::HeaderName;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Taken off the upstream's time: a request must not cross the upstream's FIN on the way.
const MARGIN: Duration = Duration::from_secs(1);

/// However long the upstream would wait, an idle connection is closed after this time.
const LONGEST: Duration = Duration::from_secs(60);

/// The time a connection may lie idle by a `Keep-Alive: timeout=5, max=100` header, less a margin; `None` if the
/// upstream says nothing.
///
/// The header is that of RFC 2068 section 19.7.1.1, which Node.js, Apache and many application servers still send.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let seconds = value.split(',').find_map(|part| {
        let (name, seconds) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| seconds.trim().parse::<u32>().ok())?
    })?;
    let said = Duration::from_secs(u64::from(seconds));
    Some(said.saturating_sub(MARGIN).max(said / 2).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &'static str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(KEEP_ALIVE, http::HeaderValue::from_static(value));
        timeout(&headers)
    }

    #[test]
    fn takes_the_timeout_less_a_margin() {
        assert_eq!(read("timeout=5"), Some(Duration::from_secs(4)));
        assert_eq!(read("max=100, Timeout = 75"), Some(Duration::from_secs(60)));
        assert_eq!(read("timeout=1"), Some(Duration::from_millis(500)));
        assert_eq!(read("timeout=0"), Some(Duration::ZERO));
    }

    #[test]
    fn ignores_what_it_cannot_read() {
        assert_eq!(read("max=100"), None);
        assert_eq!(read("timeout=soon"), None);
        assert_eq!(read("timeout"), None);
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
