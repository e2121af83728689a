//! `rate = { … }`: how it is written.

use std::time::Duration;

use http::HeaderName;
use semel_core::policy::rate_limit::{Quota, Shape};
use serde_json::Value;

use super::RateTable;
use super::reader::{At, Node, Place, Read};
use super::show::Show;
use crate::effective::{Rate, RateBy};
use crate::syntax;

/// `100/s`, `5/10s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerTime {
    units: u32,
    period: Duration,
}

impl Read for PerTime {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        place.text(node, "so many in a time, such as \"100/s\", \"5/10s\" or \"1000/h\"", per_time)
    }
}

fn per_time(text: &str) -> Result<PerTime, String> {
    let (units, period) = text.split_once('/').ok_or("the time is missing: write \"100/s\"")?;
    let units = units.parse().map_err(|_| format!("{units:?} is no whole number up to {}", u32::MAX))?;
    let is_unit = period.starts_with(|c: char| c.is_ascii_alphabetic());
    let period = if is_unit { syntax::duration(&format!("1{period}")) } else { syntax::duration(period) }?;
    Ok(PerTime { units, period })
}

impl Read for RateBy {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        place.text(node, "\"caller\", \"address\", \"everyone\" or \"header:NAME\"", |text| match text {
            "caller" => Ok(Self::Caller),
            "address" => Ok(Self::Address),
            "everyone" => Ok(Self::Everyone),
            _ => {
                let name = text.strip_prefix("header:").ok_or_else(|| format!("{text:?} is not one of the words"))?;
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} names no header"))?;
                Ok::<_, String>(Self::Header(name))
            }
        })
    }
}

impl Read for Rate {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        let RateTable { limit, burst, window, by } = RateTable::read(node, place)?;
        let PerTime { units, period } = limit?.value;
        let sliding = window.is_some_and(|at| at.value);
        if let (true, Some(At { .. })) = (sliding, &burst) {
            place.refuse(
                node,
                "one of both",
                "a window has no `burst`: it never lets more through than `limit`".into(),
            );
            return None;
        }
        let burst = burst.map_or(units, |at| u32::try_from(at.value).unwrap_or(u32::MAX));
        let quota = if sliding { Quota::window(units, period) } else { Quota::bucket(units, period, burst) };
        match quota {
            Ok(quota) => Some(Self { quota, by: by.map_or(RateBy::Caller, |at| at.value) }),
            Err(error) => {
                place.refuse(node, "a limit such as \"100/s\"", error.to_string().into());
                None
            }
        }
    }
}

impl Show for Rate {
    fn show(&self) -> Value {
        let (units, period) = (self.quota.units(), syntax::show_duration(self.quota.period()));
        let shape = match self.quota.shape() {
            Shape::Bucket { burst } => format!("burst {burst}"),
            Shape::Window => "in any such time".to_owned(),
        };
        format!("{units}/{period}, {shape}, by {}", self.by).into()
    }
}
