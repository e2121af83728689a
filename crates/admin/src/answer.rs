//! From an answer that somebody tells to what the ledger keeps of it.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use semel_config::{Config, Idempotency};
use semel_core::{
    answer::{HeaderAllowList, StoredAnswer, Tombstone},
    effect::Outcome,
};

use crate::{problem::Problem, view::HeaderField};

/// Header fields that an answer may have.
const HEADERS_MAX: usize = 64;
/// Their names and values together, in bytes.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// The largest body kept where no route says how large it may be, in bytes: the default of routes.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// An answer as somebody tells it.
#[derive(Debug)]
pub(crate) struct ToldAnswer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<HeaderField>,
    pub(crate) body: Option<String>,
    pub(crate) body_base64: Option<String>,
    pub(crate) consumed: bool,
}

/// What to do with a header that the effect's route does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unkept {
    /// Say so: a person wrote it.
    Refuse,
    /// Leave it out, as the gateway does: a program passes on all its headers.
    Drop,
}

/// What routes keep of the answers of one scope.
#[derive(Debug)]
pub(crate) struct Keeping<'a> {
    routes: Vec<&'a Idempotency>,
}

impl<'a> Keeping<'a> {
    /// As the routes of `scope` say today. Where several share the scope, only what all of them keep is kept; where
    /// none is left, what a route keeps by default.
    pub(crate) fn of(config: &'a Config, scope: &str) -> Self {
        let routes = config.routes.iter().filter(|route| route.scope == scope);
        Self { routes: routes.filter_map(|route| route.idempotency.as_ref()).collect() }
    }

    fn keeps_header(&self, name: &HeaderName) -> bool {
        match self.routes.as_slice() {
            [] => HeaderAllowList::default().keeps(name),
            routes => routes.iter().all(|route| route.store_headers.keeps(name)),
        }
    }

    fn keeps_body(&self, length: usize) -> bool {
        let cap = self.routes.iter().map(|route| route.response_cap_bytes).min().unwrap_or(BODY_BYTES_MAX);
        self.routes.iter().all(|route| route.store_body) && u64::try_from(length).is_ok_and(|length| length <= cap)
    }
}

impl ToldAnswer {
    /// What the ledger keeps of it.
    pub(crate) fn outcome(self, keeping: &Keeping<'_>, unkept: Unkept) -> Result<Outcome, Problem> {
        let status = StatusCode::from_u16(self.status).ok().filter(|status| (200..600).contains(&status.as_u16()));
        let status = status.ok_or_else(|| Problem::field("/status", "The status of an answer is 200 to 599."))?;
        let forms = [self.body.is_some(), self.body_base64.is_some(), self.consumed];
        if forms.into_iter().filter(|given| *given).count() > 1 {
            let detail = "Give one of `body`, `body_base64` and `\"consumed\": true`; none means an empty body.";
            return Err(Problem::field("", detail));
        }
        let kept = kept_headers(self.headers, keeping, unkept)?;
        // Every name was asked about above, so the list takes them all.
        let list = HeaderAllowList::new(kept.keys().cloned().collect());
        let headers = list.map_err(|never| Problem::field("/headers", never.to_string()))?.filter(&kept);
        if self.consumed {
            return Ok(Outcome::Consumed(Tombstone { status, headers, body_digest: None }));
        }
        let body = match (self.body, self.body_base64) {
            (Some(text), _) => Bytes::from(text),
            (None, Some(text)) => decode(&text)?,
            (None, None) => Bytes::new(),
        };
        let whole = keeping.keeps_body(body.len());
        let answer = StoredAnswer { status, headers, body };
        Ok(if whole { Outcome::Settled(answer) } else { Outcome::Consumed(answer.into_tombstone()) })
    }
}

fn decode(text: &str) -> Result<Bytes, Problem> {
    let bytes =
        STANDARD.decode(text).map_err(|error| Problem::field("/body_base64", format!("Not base 64: {error}.")))?;
    Ok(bytes.into())
}

fn kept_headers(told: Vec<HeaderField>, keeping: &Keeping<'_>, unkept: Unkept) -> Result<HeaderMap, Problem> {
    let bytes: usize = told.iter().map(|field| field.name.len() + field.value.len()).sum();
    if told.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
        let detail = format!("An answer has at most {HEADERS_MAX} headers of {HEADER_BYTES_MAX} bytes together.");
        return Err(Problem::field("/headers", detail));
    }
    let mut kept = HeaderMap::with_capacity(told.len());
    for (at, HeaderField { name, value }) in told.into_iter().enumerate() {
        let wrong = |part: &str, what: String| Problem::field(format!("/headers/{at}/{part}"), what);
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| wrong("name", format!("`{}` is no header name.", name.escape_debug())))?;
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| wrong("value", format!("The value of `{name}` has characters that no header may have.")))?;
        if keeping.keeps_header(&name) {
            kept.append(name, value);
        } else if unkept == Unkept::Refuse {
            let detail = format!("The effect's route does not keep `{name}` for replays: leave it out.");
            return Err(wrong("name", detail));
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, headers: &[(&str, &str)]) -> ToldAnswer {
        let field = |(name, value): &(&str, &str)| HeaderField { name: (*name).into(), value: (*value).into() };
        let headers = headers.iter().map(field).collect();
        ToldAnswer { status, headers, body: None, body_base64: None, consumed: false }
    }

    fn config(route: &str) -> Config {
        let file = format!(
            "[upstream.pay]\nurls = [\"http://127.0.0.1:9\"]\n[[route]]\nmatch = \"POST /pay\"\nto = \"pay\"\neffect = \"once\"\n{route}"
        );
        let load = semel_config::load("test.toml", &file);
        load.unwrap_or_else(|report| panic!("{}", report.render(semel_config::Colour::Off))).0
    }

    #[test]
    fn a_route_says_what_is_kept() {
        let config = config("idempotency = { store_headers = [\"x-charge\"], response_cap = \"8B\" }");
        let keeping = Keeping::of(&config, "pay");
        let answer = ToldAnswer { body: Some("12345678".into()), ..told(201, &[("x-charge", "7"), ("x-other", "8")]) };
        let Outcome::Settled(kept) = answer.outcome(&keeping, Unkept::Drop).unwrap() else { panic!("not kept") };
        assert_eq!((kept.headers.iter().len(), &kept.body[..]), (1, &b"12345678"[..]));
        let long = ToldAnswer { body: Some("123456789".into()), ..told(201, &[]) };
        assert!(matches!(
            long.outcome(&keeping, Unkept::Drop),
            Ok(Outcome::Consumed(Tombstone { body_digest: Some(_), .. }))
        ));
        let refused = told(201, &[("x-charge", "7"), ("x-other", "8")]).outcome(&keeping, Unkept::Refuse);
        assert!(format!("{refused:?}").contains("/headers/1/name"), "{refused:?}");
    }

    #[test]
    fn a_route_that_keeps_no_bodies_keeps_none_told_either() {
        let config = config("idempotency = { store_body = false }");
        let answer = ToldAnswer { body: Some("secret".into()), ..told(200, &[]) };
        let outcome = answer.outcome(&Keeping::of(&config, "pay"), Unkept::Drop).unwrap();
        assert!(matches!(outcome, Outcome::Consumed(_)), "{outcome:?}");
    }

    #[test]
    fn mistakes_are_placed() {
        let keeping = Keeping { routes: Vec::new() };
        let place = |answer: ToldAnswer| format!("{:?}", answer.outcome(&keeping, Unkept::Refuse).unwrap_err());
        for status in [0, 100, 199, 600, 999] {
            assert!(place(told(status, &[])).contains("/status"), "{status}");
        }
        assert!(place(told(200, &[("a b", "")])).contains("/headers/0/name"));
        assert!(place(told(200, &[("etag", "a\nb")])).contains("/headers/0/value"));
        assert!(place(told(200, &[("set-cookie", "a=b")])).contains("/headers/0/name"));
        assert!(place(told(200, &[("etag", "e"); 65])).contains("\"/headers\""));
        assert!(place(ToldAnswer { body_base64: Some("*".into()), ..told(200, &[]) }).contains("/body_base64"));
        assert!(place(ToldAnswer { consumed: true, body: Some(String::new()), ..told(200, &[]) }).contains("one of"));
    }

    #[test]
    fn an_answer_without_a_body_is_kept_empty() {
        let outcome = told(204, &[]).outcome(&Keeping { routes: Vec::new() }, Unkept::Refuse).unwrap();
        assert!(matches!(outcome, Outcome::Settled(answer) if answer.body.is_empty()));
    }
}
