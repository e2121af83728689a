//! Makes partitions before they are needed, and drops those whose time is over.

use std::sync::Arc;

use tokio_postgres::types::Type;

use crate::Error;
use crate::shared::Shared;

/// Looks after the partitions for ever. Every gateway does; the database lets one at a time.
pub(crate) async fn keep(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(shared.sweep_every).await;
        match sweep(&shared).await {
            Ok(0) => {}
            Ok(dropped) => tracing::info!(partitions = dropped, "what had expired was dropped"),
            Err(error) => tracing::warn!("what has expired is not dropped: {error}"),
        }
    }
}

/// Returns how many partitions were dropped. On a connection of its own: moving the markers of a large partition may
/// take minutes, and nobody shall wait behind it.
pub(crate) async fn sweep(shared: &Shared) -> Result<u32, Error> {
    let link = shared.connector.connect().await?;
    let statements = &shared.connector.statements;
    statements.make_room(&link.client).await.map_err(|e| Error::of(&e))?;
    let mut dropped = 0;
    loop {
        let now = crate::sql::millis(shared.clock.now());
        // The bound on statements that operators may have set is not meant for this one.
        link.client.batch_execute("BEGIN; SET LOCAL statement_timeout = 0").await.map_err(|e| Error::of(&e))?;
        let swept = link.client.query_typed_one(&statements.sweep, &[(&now, Type::INT8)]).await;
        let swept: Option<i32> = swept.and_then(|row| row.try_get(0)).map_err(|e| Error::of(&e))?;
        link.client.batch_execute("COMMIT").await.map_err(|e| Error::of(&e))?;
        match swept {
            Some(1) => dropped += 1,
            Some(-1) => {
                tracing::warn!(
                    "nothing is dropped: the clocks of the database and of this machine disagree by an hour"
                );
                return Ok(dropped);
            }
            // Nothing has ended, or another gateway is at it.
            _ => return Ok(dropped),
        }
    }
}
