//! What an answer says, in the words of the contract.

use crate::client::End;
use crate::http1::Message;
use semel_core::evidence::EffectMark;
use std::fmt;

/// Who an answer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The gateway itself.
    Gateway,
    /// The upstream, now or recorded.
    Upstream,
    /// The answer does not say.
    Unsaid,
}

/// The end of a call, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    /// The answer, if one came whole.
    pub answer: Option<&'a Message>,
    /// Why none came.
    pub lost: Option<&'a str>,
    /// `Semel-Source`.
    pub source: Source,
    /// `Semel-Effect`.
    pub effect: Option<EffectMark>,
    /// The kind of a gateway's problem, such as `outcome-unknown`.
    pub problem: Option<String>,
    /// Whether `Idempotent-Replayed: true` was there.
    pub replayed: bool,
}

impl<'a> Reading<'a> {
    /// Reads the end of a call.
    #[must_use]
    pub fn of(end: &'a End) -> Self {
        let (answer, lost) = match end {
            End::Answered(message) => (Some(message), None),
            End::NotSent(why) | End::Unknown(why) => (None, Some(why.as_str())),
        };
        let header = |name| answer.and_then(|answer| answer.header(name));
        let source = match header("semel-source") {
            Some("gateway") => Source::Gateway,
            Some("upstream") => Source::Upstream,
            _ => Source::Unsaid,
        };
        Self {
            answer,
            lost,
            source,
            effect: header("semel-effect").and_then(EffectMark::parse),
            problem: answer.and_then(problem),
            replayed: header("idempotent-replayed") == Some("true"),
        }
    }

    /// Whether this is the effect's recorded answer: the upstream's, said to be committed.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.effect == Some(EffectMark::Committed) && self.problem.is_none()
    }

    /// Whether this says that nobody knows.
    #[must_use]
    pub fn unknown(&self) -> bool {
        self.effect == Some(EffectMark::Unknown)
    }

    /// Whether this says that the first call is still at it.
    #[must_use]
    pub fn open(&self) -> bool {
        self.effect == Some(EffectMark::Open)
    }

    /// One word for a tally.
    #[must_use]
    pub fn word(&self) -> String {
        match (self.answer, &self.problem, self.effect) {
            (None, _, _) => "no answer".to_owned(),
            (Some(_), Some(problem), _) => problem.clone(),
            (Some(_), None, Some(EffectMark::Committed)) if self.replayed => "replayed".to_owned(),
            (Some(_), None, Some(mark)) => mark.as_str().to_owned(),
            (Some(answer), None, None) => answer.status().to_string(),
        }
    }
}

/// The kind of an RFC 9457 problem of the gateway's.
fn problem(answer: &Message) -> Option<String> {
    if answer.header("content-type") != Some("application/problem+json") {
        return None;
    }
    let body: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    body.get("type")?.as_str()?.strip_prefix("urn:semel:problem:").map(str::to_owned)
}

impl fmt::Display for Reading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(answer) = self.answer else {
            return write!(f, "no answer: {}", self.lost.unwrap_or("?"));
        };
        let effect = self.effect.map_or("-", EffectMark::as_str);
        write!(f, "{} effect={effect} source={:?}", answer.status(), self.source)?;
        if let Some(problem) = &self.problem {
            write!(f, " problem={problem}")?;
        }
        if self.replayed {
            write!(f, " replayed")?;
        }
        write!(f, " body={}", String::from_utf8_lossy(&answer.body[..answer.body.len().min(120)]))
    }
}
