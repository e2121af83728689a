//! Asking a status resource what became of an effect.

use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Response, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use semel_core::evidence::{AttemptEnd, EffectMark};

use crate::body::{RequestBody, ResponseBody};
use crate::buffer::{self, AnswerBytes};
use crate::clock;
use crate::upstream::{AttemptOptions, BodyTime, Endpoint, HostPolicy, Upstream, UpstreamSettings};

/// A status resource. Its host comes from the configuration, redirects are not followed, and the key stands in its
/// path percent-encoded: whatever a caller's key is, it cannot choose where the question goes.
#[derive(Debug)]
pub struct Probe {
    upstream: Upstream,
    before: String,
    after: String,
    timeout: Duration,
}

impl Probe {
    /// From its setting; none if the url cannot be used, which validation has excluded.
    #[must_use]
    pub fn new(settings: &semel_config::Probe) -> Option<Self> {
        let (before, after) = settings.url.split_once("{key}")?;
        let rest = before.strip_prefix("http://")?;
        let (authority, path) = rest.split_once('/')?;
        let uri: Uri = format!("http://{authority}/").parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']);
        let endpoint = Endpoint::new(host, uri.port_u16().unwrap_or(80));
        let settings_of_upstream =
            UpstreamSettings { host: HostPolicy::Endpoint, ..UpstreamSettings::new(vec![endpoint]) };
        Some(Self {
            upstream: Upstream::new(settings_of_upstream),
            before: format!("/{path}"),
            after: after.to_owned(),
            timeout: settings.timeout,
        })
    }

    /// Asks. `Some` answer says that the effect was executed and how it was answered; none, that it never will be.
    ///
    /// Only the words `Semel-Effect: committed` and `Semel-Effect: none` say so. A status alone does not: a 404 may be
    /// a question that came before the effect did, and a 200 may describe something still pending.
    ///
    /// # Errors
    /// Why nothing is known now.
    pub async fn ask(
        &self,
        key: &HeaderValue,
        deadline: Instant,
        bytes_max: u64,
    ) -> Result<Option<Response<ResponseBody>>, &'static str> {
        let by = deadline.min(clock::now() + self.timeout);
        let options =
            AttemptOptions { begin_by: by, head_by: by, body: BodyTime::By(by), cut_after: None, is_hurried: false };
        let attempt = self.upstream.send(self.request(key)?, &options).await;
        let end = attempt.end();
        let response = attempt.outcome.map_err(|_| "it could not be asked")?;
        let AttemptEnd::Answered { mark: Some(mark), .. } = end else { return Err("its answer has no Semel-Effect") };
        match mark {
            EffectMark::None => Ok(None),
            EffectMark::Open | EffectMark::Unknown => Err("it does not know yet"),
            EffectMark::Committed => {
                let (head, body) = response.into_parts();
                match buffer::answer(&head.headers, body, bytes_max).await {
                    Ok(AnswerBytes::Whole(bytes)) => Ok(Some(Response::from_parts(head, bytes.into()))),
                    Ok(AnswerBytes::Streaming(_)) => Err("its answer is too large"),
                    Err(_) => Err("its answer broke off"),
                }
            }
        }
    }

    fn request(&self, key: &HeaderValue) -> Result<Request<RequestBody>, &'static str> {
        let key = key.to_str().map_err(|_| "the key cannot stand in a url")?;
        let path = format!("{}{}{}", self.before, utf8_percent_encode(key, NON_ALPHANUMERIC), self.after);
        let mut request = Request::new(RequestBody::Empty);
        *request.method_mut() = Method::GET;
        *request.uri_mut() = path.parse().map_err(|_| "the key cannot stand in a url")?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(url: &str) -> Probe {
        Probe::new(&semel_config::Probe { url: url.to_owned(), timeout: Duration::from_secs(1) }).unwrap()
    }

    #[test]
    fn a_key_cannot_leave_its_segment() {
        let probe = probe("http://127.0.0.1:9000/status/{key}?v=1");
        let request = probe.request(&HeaderValue::from_static("../a?b#c d/e%")).unwrap();
        assert_eq!(request.uri().to_string(), "/status/%2E%2E%2Fa%3Fb%23c%20d%2Fe%25?v=1");
    }

    #[test]
    fn the_host_is_the_urls() {
        let settings = probe("http://[::1]:9000/s/{key}").upstream.settings().clone();
        assert_eq!(settings.endpoints, [Endpoint::new("::1", 9000)]);
        let settings = probe("http://pay.internal/s/{key}").upstream.settings().clone();
        assert_eq!(settings.endpoints, [Endpoint::new("pay.internal", 80)]);
    }
}
