//! How values are written: durations, sizes, percentages, ranges, URLs. Each syntax has a reader and a writer, and what
//! the writer writes the reader reads.

use std::time::Duration;

use crate::effective::{Backoff, Endpoint, Keep};

/// Ten years: longer windows are `forever`, and no sum of two overflows anything.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

const DURATION_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads `250ms`, `10s`, `5m`, `24h`, `7d`: whole numbers with one unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let millis = number_with_unit(text, &DURATION_UNITS, "ms, s, m, h, d")?;
    let duration = Duration::from_millis(millis);
    if duration > DURATION_MAX {
        return Err("longer than ten years".to_owned());
    }
    Ok(duration)
}

/// Reads a duration, or `forever`.
pub(crate) fn keep(text: &str) -> Result<Keep, String> {
    if text == "forever" { Ok(Keep::Forever) } else { duration(text).map(Keep::For) }
}

/// Reads `512B`, `32KiB`, `1MiB`, `10MB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    number_with_unit(text, &SIZE_UNITS, "B, KiB, MiB, GiB, TiB, kB, MB, GB, TB")
}

/// Reads `20%` as 0.2; up to 100 %, at most three decimals.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').ok_or("the percent sign is missing")?.trim_end();
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value: f64 =
        plain.then(|| number.parse().ok()).flatten().ok_or_else(|| format!("{number:?} is not a number"))?;
    if value > 100.0 { Err("more than 100%".to_owned()) } else { Ok(value / 100.0) }
}

/// Reads `100ms..5s`, or one duration for both ends.
pub(crate) fn backoff(text: &str) -> Result<Backoff, String> {
    let (base, cap) = text.split_once("..").unwrap_or((text, text));
    let (base, cap) = (duration(base.trim())?, duration(cap.trim())?);
    if base > cap {
        return Err("the first wait is longer than the longest".to_owned());
    }
    Ok(Backoff { base, cap })
}

/// Reads `http://host[:port]`, optionally with a final slash.
pub(crate) fn endpoint(text: &str) -> Result<Endpoint, String> {
    let (scheme, rest) = text.split_once("://").ok_or("the scheme is missing: http://host:port")?;
    if scheme != "http" {
        return Err(format!("{scheme:?} is not a scheme semel speaks; use http://"));
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err("only scheme, host and port: the path comes from the request".to_owned());
    }
    if authority.contains('@') {
        return Err("credentials do not belong into the file".to_owned());
    }
    let authority: http::uri::Authority = authority.parse().map_err(|_| "not a host and port".to_owned())?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let port = match authority.port() {
        None if authority.as_str().ends_with(':') => return Err("the port is missing after the colon".to_owned()),
        None if authority.host().len() != authority.as_str().len() => return Err("the port is no port".to_owned()),
        None => 80,
        Some(port) if port.as_u16() == 0 => return Err("port 0 cannot be reached".to_owned()),
        Some(port) => port.as_u16(),
    };
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    Ok(Endpoint { host, port })
}

fn number_with_unit(text: &str, units: &[(&str, u64)], names: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = (&text[..digits], text[digits..].trim_start());
    if number.is_empty() {
        return Err("does not start with a whole number".to_owned());
    }
    if unit.is_empty() {
        return Err(format!("the unit is missing ({names})"));
    }
    let (_, factor) =
        units.iter().find(|(name, _)| *name == unit).ok_or_else(|| format!("{unit:?} is not a unit ({names})"))?;
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(*factor)).ok_or_else(|| "too large".to_owned())
}

/// Writes a duration with the largest unit that leaves a whole number.
pub(crate) fn show_duration(duration: Duration) -> String {
    // One day is written as 24h, as people do.
    let units = if duration.as_secs() <= 86_400 { &DURATION_UNITS[..4] } else { &DURATION_UNITS };
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), units, "0s")
}

/// Writes a size with the largest binary unit that leaves a whole number.
pub(crate) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE_UNITS[..5], "0B")
}

/// Writes 0.2 as `20%`.
pub(crate) fn show_percent(ratio: f64) -> String {
    format!("{}%", (ratio * 100_000.0).round() / 1_000.0)
}

fn show(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    if value == 0 {
        return zero.to_owned();
    }
    let fitting = units.iter().rev().find(|(_, factor)| value.is_multiple_of(*factor));
    let (unit, factor) = fitting.unwrap_or(&units[0]);
    format!("{}{unit}", value / factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_read() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("24 h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(keep("forever"), Ok(Keep::Forever));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("1MB"), Ok(1_000_000));
        assert_eq!(percent("12.5%"), Ok(0.125));
        assert_eq!(backoff("100ms..5s"), Ok(Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) }));
        let end = |host: &str, port| Ok(Endpoint { host: host.to_owned(), port });
        assert_eq!(endpoint("http://127.0.0.1:9000"), end("127.0.0.1", 9000));
        assert_eq!(endpoint("http://Pay.local/"), end("pay.local", 80));
        assert_eq!(endpoint("http://[::1]:81"), end("::1", 81));
    }

    #[test]
    fn mistakes_are_named() {
        for bad in ["10", "s", "-1s", "1.5s", "10 sec", "99999999999999999999s", "4000d", "", "1s 2ms"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        for bad in ["1", "1mib", "MiB", "99999999TiB"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
        for bad in ["20", "101%", "%", "-1%", "inf%", "1e1%", "1.2.3%"] {
            assert!(percent(bad).is_err(), "{bad:?}");
        }
        assert!(backoff("5s..1s").is_err());
        for bad in [
            "127.0.0.1:80",
            "https://x",
            "ftp://x",
            "http://",
            "http://x/y",
            "http://u@x",
            "http://x:0",
            "http://x:",
            "http://x:99999",
            "http://a b",
        ] {
            assert!(endpoint(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(millis in 0u64..315_360_000_000, bytes: u64, permille in 0u32..=100_000) {
            let d = Duration::from_millis(millis);
            prop_assert_eq!(duration(&show_duration(d)), Ok(d));
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
            let ratio = f64::from(permille) / 100_000.0;
            prop_assert!((percent(&show_percent(ratio)).unwrap() - ratio).abs() < 1e-9);
        }
    }
}
