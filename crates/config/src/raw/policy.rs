//! Values of policies: how they are written.

use std::time::Duration;

use http::StatusCode;
use http::uri::PathAndQuery;
use semel_core::policy::admission::Priority;
use semel_core::policy::backoff::Jitter;
use semel_core::policy::fault::Injected;
use serde_json::Value;
use toml::de::DeValue;

use super::reader::{Node, Place, Read};
use super::show::Show;
use super::value::{Percent, Size, read_words, word};
use crate::effective::Budget;
use crate::syntax::{self, show_percent};

/// How many calls an upstream takes at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InFlightLimit {
    Adaptive,
    Fixed(u32),
}

/// A path, with a query if it has one.
#[derive(Clone, Debug)]
pub(crate) struct UrlPath(pub(crate) String);

impl Read for UrlPath {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        place.text(node, "a path such as \"/healthz\"", |text| {
            let is_path = text.starts_with('/') && text.parse::<PathAndQuery>().is_ok_and(|parsed| parsed == *text);
            if is_path { Ok(Self(text.to_owned())) } else { Err(format!("{text:?} is not a path")) }
        })
    }
}

impl Show for UrlPath {
    fn show(&self) -> Value {
        self.0.as_str().into()
    }
}

/// A fault and how often: `"200ms 10%"`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfShare<T> {
    fault: T,
    share: f64,
}

impl<T> OfShare<T> {
    pub(crate) fn injected<U>(self, unit: impl FnOnce(T) -> U) -> Injected<U> {
        Injected { fault: unit(self.fault), share: self.share }
    }
}

read_words! {
    Priority {
        "very-low" => Self::VeryLow, "low" => Self::Low, "medium" => Self::Medium, "high" => Self::High,
        "very-high" => Self::VeryHigh
    } later [];
    Jitter {
        "full" => Self::Full, "equal" => Self::Equal, "decorrelated" => Self::Decorrelated,
        "additive" => Self::Additive, "fixed" => Self::Fixed
    } later [];
}

impl Read for InFlightLimit {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::String(text) if text == "adaptive" => Some(Self::Adaptive),
            DeValue::Integer(_) => u32::try_from(usize::read(node, place)?).ok().map(Self::Fixed),
            _ => {
                place.wrong_type(node, "\"adaptive\" or a number of calls");
                None
            }
        }
    }
}

impl Show for InFlightLimit {
    fn show(&self) -> Value {
        match self {
            Self::Adaptive => "adaptive".into(),
            Self::Fixed(limit) => (*limit).into(),
        }
    }
}

impl Read for Budget {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        place.text(node, "a percentage such as \"20%\", or \"aws\"", |text| match text {
            "aws" => Ok(Self::Quota),
            _ => syntax::percent(text).map(Self::Ratio),
        })
    }
}

impl Show for Budget {
    fn show(&self) -> Value {
        match self {
            Self::Ratio(ratio) => show_percent(*ratio).into(),
            Self::Quota => "aws".into(),
        }
    }
}

/// What may be injected.
trait Fault: Sized {
    const EXAMPLE: &str;

    fn parse(text: &str) -> Result<Self, String>;
    fn show(&self) -> String;
}

impl Fault for Duration {
    const EXAMPLE: &str = "a delay and a share such as \"200ms 10%\"";

    fn parse(text: &str) -> Result<Self, String> {
        syntax::duration(text)
    }

    fn show(&self) -> String {
        syntax::show_duration(*self)
    }
}

impl Fault for Size {
    const EXAMPLE: &str = "a size and a share such as \"1KiB 10%\"";

    fn parse(text: &str) -> Result<Self, String> {
        syntax::size(text).map(Self)
    }

    fn show(&self) -> String {
        syntax::show_size(self.0)
    }
}

impl Fault for StatusCode {
    const EXAMPLE: &str = "a status and a share such as \"503 10%\"";

    fn parse(text: &str) -> Result<Self, String> {
        let status = text.parse().ok().filter(|status: &Self| status.is_client_error() || status.is_server_error());
        status.ok_or_else(|| format!("{text:?} is not a status from 400 to 599"))
    }

    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

impl<T: Fault> Read for OfShare<T> {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        place.text(node, T::EXAMPLE, |text| {
            let (fault, share) = text.split_once(' ').unwrap_or((text, "100%"));
            Ok::<_, String>(Self { fault: T::parse(fault)?, share: syntax::percent(share.trim())? })
        })
    }
}

impl<T: Fault> Show for OfShare<T> {
    fn show(&self) -> Value {
        format!("{} {}", self.fault.show(), show_percent(self.share)).into()
    }
}

/// A quantile is a share of calls, but not all of them.
pub(crate) fn quantile(percent: Percent) -> f64 {
    percent.0.clamp(0.01, 0.999)
}
