//! Measures the store's clock, and finds out whether the stream can be used.

use std::sync::Arc;
use std::time::Duration;

use crate::link::ApiFailed;
use crate::shared::{ANSWER_WITHIN, Shared};
use crate::stream::{self, Info};

/// How often, while it answers.
const EVERY: Duration = Duration::from_secs(2);
/// How often, while it does not; and how long an answer is waited for then.
const SOON: Duration = Duration::from_millis(250);

/// Goes on for ever.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut within = ANSWER_WITHIN;
    loop {
        let pause = match measure(&shared, within).await {
            Ok(_) => {
                within = ANSWER_WITHIN;
                EVERY
            }
            Err(failed) => {
                shared.fails(&failed.words());
                // Without a leader nobody answers; whoever comes now is told so until one does.
                within = SOON;
                SOON
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Asks the stream's leader once.
pub(crate) async fn measure(shared: &Shared, within: Duration) -> Result<Info, ApiFailed> {
    let before = shared.acknowledged();
    let asked_at = shared.clock.local();
    let info = stream::info(&shared.link, &shared.names, within).await?;
    if let Some(said) = info.time() {
        shared.clock.heard(said, asked_at);
    }
    shared.last_number(info.state.last_seq, before);
    shared.works();
    Ok(info)
}
