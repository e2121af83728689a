//! Asking endpoints how they are.

use std::collections::HashMap;
use std::sync::Arc;

use http::{Method, Request};
use semel_config::HealthCheck;
use semel_core::evidence::AttemptEnd;
use tokio::task::JoinSet;

use crate::body::RequestBody;
use crate::clock;
use crate::fleet::Fleet;
use crate::random;
use crate::upstream::{AttemptOptions, BodyTime, Endpoint, HostPolicy, Upstream, UpstreamSettings};

/// Good (above zero) or bad (below) answers in a row.
type Row = i64;

/// Asks an upstream's endpoints again and again, and tells their balancer.
pub(super) async fn watch(fleet: Arc<Fleet>, name: String, check: HealthCheck) {
    let mut rows: HashMap<String, Row> = HashMap::new();
    loop {
        let Some(intake) = fleet.intake(&name) else { return };
        let mut asked = JoinSet::new();
        for endpoint in intake.settings().endpoints.iter().cloned() {
            let check = check.clone();
            asked.spawn(async move { (is_well(&endpoint, &check).await, endpoint) });
        }
        let mut seen = HashMap::new();
        while let Some(asked) = asked.join_next().await {
            let Ok((is_well, endpoint)) = asked else { continue };
            let shown = endpoint.to_string();
            let row = next(rows.get(&shown).copied().unwrap_or_default(), is_well);
            seen.insert(shown, row);
            let known = intake.settings().endpoints.iter().zip(intake.health().endpoints());
            let Some((_, known)) = known.into_iter().find(|(one, _)| **one == endpoint) else { continue };
            if let Some(is_up) = verdict(row, &check).filter(|is_up| *is_up != known.is_up()) {
                tracing::warn!(upstream = name, %endpoint, is_up, "an endpoint's health has changed");
                known.set_up(is_up, clock::now());
            }
        }
        // Endpoints that are gone are forgotten with it.
        rows = seen;
        // A tenth more or less, so that many gateways do not ask at once.
        tokio::time::sleep(check.interval.mul_f64(0.9 + 0.2 * random::unit())).await;
    }
}

fn next(row: Row, is_well: bool) -> Row {
    match is_well {
        true => row.max(0) + 1,
        false => row.min(0) - 1,
    }
}

/// Whether that settles how an endpoint is.
fn verdict(row: Row, check: &HealthCheck) -> Option<bool> {
    if row >= i64::from(check.healthy) {
        return Some(true);
    }
    (row <= -i64::from(check.unhealthy)).then_some(false)
}

async fn is_well(endpoint: &Endpoint, check: &HealthCheck) -> bool {
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = Method::GET;
    let Ok(target) = check.path.parse() else { return false };
    *request.uri_mut() = target;
    // A connection of its own each time: one that is kept says little of whether new ones can be made.
    let settings = UpstreamSettings {
        host: HostPolicy::Endpoint,
        keep_alive: false,
        connect_timeout: check.timeout,
        ..UpstreamSettings::new(vec![endpoint.clone()])
    };
    let by = clock::now() + check.timeout;
    let options =
        AttemptOptions { begin_by: by, head_by: by, body: BodyTime::By(by), cut_after: None, is_hurried: false };
    let attempt = Upstream::new(settings).send(request, &options).await;
    matches!(attempt.end(), AttemptEnd::Answered { status, .. } if status.is_success())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_row_of_answers_settles_it_and_a_single_one_does_not() {
        let second = Duration::from_secs(1);
        let check = HealthCheck { path: "/".to_owned(), interval: second, timeout: second, healthy: 2, unhealthy: 3 };
        let verdicts = |answers: &[bool]| {
            let rows = answers.iter().scan(0, |row, is_well| {
                *row = next(*row, *is_well);
                Some(*row)
            });
            rows.map(|row| verdict(row, &check)).collect::<Vec<_>>()
        };
        assert_eq!(verdicts(&[false, false, false, false]), [None, None, Some(false), Some(false)]);
        assert_eq!(verdicts(&[true, false, true, true]), [None, None, None, Some(true)]);
        assert_eq!(verdicts(&[false, false, true, false]), [None; 4]);
    }
}
