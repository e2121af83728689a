//! What happened between two looks, as tables.

use std::fmt::Write as _;
use std::time::Duration;

use super::samples::Samples;

/// Routes by their rate, then endpoints.
pub(super) fn render(before: &Samples, now: &Samples, interval: Duration) -> String {
    let mut text = routes(before, now, interval.as_secs_f64());
    let endpoints = endpoints(now);
    if !endpoints.is_empty() {
        let _ = write!(text, "\n{endpoints}");
    }
    text
}

struct Change<'a> {
    before: &'a Samples,
    now: &'a Samples,
    seconds: f64,
}

impl Change<'_> {
    /// A second. A gateway that was started anew counts from zero.
    fn rate(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let (before, now) = (self.before.sum(name, labels), self.now.sum(name, labels));
        (if now >= before { now - before } else { now }) / self.seconds
    }

    /// The upper bound of the bucket that this share of a route's requests stays below, in milliseconds.
    fn quantile_ms(&self, route: &str, quantile: f64) -> Option<f64> {
        let name = "semel_stage_seconds_bucket";
        let buckets = self.now.all(name).iter();
        let mut counts: Vec<(f64, f64)> = buckets
            .filter(|sample| sample.label("route") == route && sample.label("stage") == "total")
            .filter_map(|sample| {
                let le = sample.label("le");
                let bound = if le == "+Inf" { f64::INFINITY } else { le.parse().ok()? };
                let labels = [("route", route), ("stage", "total"), ("le", le)];
                Some((bound, sample.value - self.before.one(name, &labels).unwrap_or(0.0)))
            })
            .collect();
        counts.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let total = counts.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
        counts.iter().find(|(_, count)| *count >= total * quantile).map(|(bound, _)| bound * 1e3)
    }
}

fn routes(before: &Samples, now: &Samples, seconds: f64) -> String {
    let change = Change { before, now, seconds };
    let mut rows: Vec<_> = now.labels("semel_requests_total", "route");
    let requests = |route: &str| change.rate("semel_requests_total", &[("route", route)]);
    rows.sort_by(|a, b| requests(b).total_cmp(&requests(a)));
    let width = rows.iter().map(|route| route.len()).max().unwrap_or(0).clamp(5, 40);
    let mut text = format!(
        "{:<width$}  {:>9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>7}\n",
        "ROUTE", "REQ/s", "ACTIVE", "REPLAY/s", "UNKNOWN/s", "5XX/s", "TRIES/s", "P50 ms", "P99 ms", "BUDGET"
    );
    for route in rows {
        let outcome = |words: &[&str]| -> f64 {
            words.iter().map(|word| change.rate("semel_requests_total", &[("route", route), ("outcome", word)])).sum()
        };
        let ms = |quantile| change.quantile_ms(route, quantile).map_or_else(|| "-".to_owned(), milliseconds);
        let budget = now.one("semel_retry_budget_left", &[("route", route)]);
        let _ = writeln!(
            text,
            "{:<width$}  {:>9.1} {:>7} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>8} {:>8} {:>7}",
            route.chars().take(width).collect::<String>(),
            requests(route),
            now.one("semel_requests_in_flight", &[("route", route)]).unwrap_or(0.0),
            outcome(&["replayed", "joined"]),
            outcome(&["unknown", "outcome-unknown"]),
            change.rate("semel_responses_total", &[("route", route), ("status", "5xx")]),
            change.rate("semel_attempts_total", &[("route", route)]),
            ms(0.5),
            ms(0.99),
            budget.map_or_else(|| "-".to_owned(), |left| left.to_string()),
        );
    }
    text
}

fn milliseconds(ms: f64) -> String {
    match ms {
        _ if ms.is_infinite() => "long".to_owned(),
        _ if ms < 10.0 => format!("<{ms:.1}"),
        _ => format!("<{ms:.0}"),
    }
}

fn endpoints(now: &Samples) -> String {
    let states = now.all("semel_endpoint_state").iter().filter(|sample| sample.value > 0.0);
    let rows: Vec<_> =
        states.map(|sample| (sample.label("upstream"), sample.label("endpoint"), sample.label("state"))).collect();
    if rows.is_empty() {
        return String::new();
    }
    let width = |column: fn(&(&str, &str, &str)) -> usize| rows.iter().map(column).max().unwrap_or(0).clamp(8, 40);
    let (upstreams, endpoints) = (width(|row| row.0.len()), width(|row| row.1.len()));
    let mut text = format!(
        "{:<upstreams$}  {:<endpoints$}  {:<12}  {:>9}  {:>12}  {:>6}  {:>8}\n",
        "UPSTREAM", "ENDPOINT", "STATE", "BUSY/IDLE", "CALLS/LIMIT", "QUEUED", "THROTTLE"
    );
    let mut last = "";
    for (upstream, endpoint, state) in rows {
        let gauge = |name: &str| now.one(name, &[("upstream", upstream)]);
        let connections = |state| now.sum("semel_upstream_connections", &[("upstream", upstream), ("state", state)]);
        // What belongs to the upstream stands in its first line.
        let is_first = upstream != last;
        last = upstream;
        let of_first = |text: String| if is_first { text } else { String::new() };
        let calls = gauge("semel_admission_limit")
            .map(|limit| format!("{}/{limit}", gauge("semel_admission_in_flight").unwrap_or(0.0)));
        let _ = writeln!(
            text,
            "{:<upstreams$}  {endpoint:<endpoints$}  {state:<12}  {:>9}  {:>12}  {:>6}  {:>8}",
            of_first(upstream.to_owned()),
            of_first(format!("{}/{}", connections("busy"), connections("idle"))),
            of_first(calls.unwrap_or_else(|| "-".to_owned())),
            of_first(gauge("semel_admission_queued").map_or_else(|| "-".to_owned(), |queued| queued.to_string())),
            of_first(gauge("semel_throttle_percent").map_or_else(|| "-".to_owned(), |percent| format!("{percent}%"))),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(requests: u32, quick: u32) -> Samples {
        Samples::parse(&format!(
            "semel_requests_total{{route=\"POST /pay\",outcome=\"executed\"}} {requests}\n\
             semel_requests_total{{route=\"POST /pay\",outcome=\"replayed\"}} {requests}\n\
             semel_requests_in_flight{{route=\"POST /pay\"}} 2\n\
             semel_stage_seconds_bucket{{le=\"0.005\",route=\"POST /pay\",stage=\"total\"}} {quick}\n\
             semel_stage_seconds_bucket{{le=\"+Inf\",route=\"POST /pay\",stage=\"total\"}} {requests}\n\
             semel_endpoint_state{{upstream=\"p\",endpoint=\"http://a\",state=\"serving\"}} 0\n\
             semel_endpoint_state{{upstream=\"p\",endpoint=\"http://a\",state=\"breaker-open\"}} 1\n\
             semel_admission_limit{{upstream=\"p\"}} 20\nsemel_admission_in_flight{{upstream=\"p\"}} 7\n"
        ))
    }

    #[test]
    fn rates_quantiles_and_states() {
        let text = render(&look(100, 50), &look(300, 200), Duration::from_secs(2));
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().split_whitespace();
        assert_eq!(
            line("POST /pay").collect::<Vec<_>>(),
            ["POST", "/pay", "200.0", "2", "100.0", "0.0", "0.0", "0.0", "<5.0", "long", "-"]
        );
        assert_eq!(line("p ").collect::<Vec<_>>(), ["p", "http://a", "breaker-open", "0/0", "7/20", "-", "-"]);
    }

    #[test]
    fn a_gateway_that_began_anew_counts_from_zero() {
        let text = render(&look(300, 200), &look(10, 10), Duration::from_secs(1));
        assert!(text.contains("20.0"), "{text}");
    }
}
