//! Measures the store's clock, and finds out whether the stream can be used.

use std::sync::Arc;
use std::time::Duration;

use crate::link::ApiFailed;
use crate::shared::Shared;
use crate::stream::{self, Info};

/// How often, while it answers.
const EVERY: Duration = Duration::from_secs(2);
/// How often, while it does not.
const SOON: Duration = Duration::from_millis(250);

/// Goes on for ever.
pub(crate) async fn keep(shared: Arc<Shared>) {
    loop {
        let pause = match measure(&shared).await {
            Ok(_) => EVERY,
            Err(failed) => {
                shared.fails(&failed.words());
                SOON
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Asks the stream's leader once.
pub(crate) async fn measure(shared: &Shared) -> Result<Info, ApiFailed> {
    let before = shared.acknowledged();
    let asked_at = shared.clock.local();
    let info = stream::info(&shared.link, &shared.names).await?;
    if let Some(said) = info.time() {
        shared.clock.heard(said, asked_at);
    }
    shared.last_number(info.state.last_seq, before);
    shared.works();
    Ok(info)
}
