//! Hears of conclusions at other gateways, so that those who wait here wake up.
//!
//! One connection per gateway listens. Whoever waits marks the effect's row when it looks, and only marked effects are
//! told of when they are concluded: effects that nobody waits for cost nothing. When the connection is lost, whatever
//! was told meanwhile is made up for by looking once more after it is back. Where notifications do not come through at
//! all (a pooler that shares sessions), those who wait look again twice a second, all in one statement.

use std::sync::Arc;
use std::time::Duration;

use semel_core::scope::EffectId;
use tokio::sync::mpsc;
use tokio_postgres::types::Type;

use crate::Error;
use crate::link::Link;
use crate::shared::{Backoff, Shared};

/// How often it is checked that notifications come through.
const CHECK_EVERY: Duration = Duration::from_secs(15);
/// How long one may take.
const COMES_WITHIN: Duration = Duration::from_secs(3);
/// How often those who wait look again while nothing is heard.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How soon it is tried again where notifications do not come through.
const TRY_EVERY: Duration = Duration::from_secs(60);
/// Notifications that may wait here.
const HEARD_MAX: usize = 256;
/// Begins the payload of a notification that only checks the way.
const CHECK: &str = "check ";

/// Why nothing is heard.
enum Deaf {
    /// The connection is gone, or cannot be made.
    Lost(String),
    /// It is there, but notifications do not come.
    Silent,
}

/// Listens for ever.
pub(crate) async fn listen(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    let mut warned = false;
    loop {
        let deaf = listen_once(&shared, &mut backoff).await;
        match deaf {
            Deaf::Lost(why) => {
                tracing::warn!("conclusions of other gateways are not heard: {why}");
                without_hearing(&shared, backoff.wait()).await;
            }
            Deaf::Silent => {
                if !warned {
                    tracing::warn!(
                        "notifications do not come through (a pooler that shares sessions?): whoever waits for an \
                         effect at another gateway looks every {LOOK_EVERY:?}; set listen_url to the server itself"
                    );
                    warned = true;
                }
                without_hearing(&shared, tokio::time::sleep(TRY_EVERY)).await;
            }
        }
    }
}

/// Looks now and then for as long as `pause` takes.
async fn without_hearing(shared: &Shared, pause: impl Future<Output = ()>) {
    let mut pause = std::pin::pin!(pause);
    while tokio::time::timeout(LOOK_EVERY, pause.as_mut()).await.is_err() {
        shared.waiters.wake_all();
    }
}

async fn listen_once(shared: &Shared, backoff: &mut Backoff) -> Deaf {
    let (sender, mut heard) = mpsc::channel(HEARD_MAX);
    let mut link = match shared.connector.listen(sender).await {
        Ok(link) => link,
        Err(error) => return Deaf::Lost(error.to_string()),
    };
    let mut worked = false;
    loop {
        match check(shared, &mut heard).await {
            Ok(()) => worked = true,
            // Another server may have been promoted, and this be the former one.
            Err(Deaf::Silent) if worked => return Deaf::Lost("notifications come no more".to_owned()),
            Err(deaf) => return deaf,
        }
        backoff.reset();
        // Whatever was told before is made up for.
        shared.waiters.wake_all();
        if let Err(deaf) = hear(shared, &mut link, &mut heard).await {
            return deaf;
        }
    }
}

/// Hears until the way is to be checked again.
async fn hear(shared: &Shared, link: &mut Link, heard: &mut mpsc::Receiver<String>) -> Result<(), Deaf> {
    let mut check = std::pin::pin!(tokio::time::sleep(CHECK_EVERY));
    loop {
        tokio::select! {
            payload = heard.recv() => match payload {
                Some(payload) => wake(shared, &payload),
                None => return Err(Deaf::Lost("the connection was closed".to_owned())),
            },
            () = link.closed() => return Err(Deaf::Lost("the connection was closed".to_owned())),
            () = &mut check => return Ok(()),
        }
    }
}

/// Sends a notification over the connection that reads, and waits until it is heard.
async fn check(shared: &Shared, heard: &mut mpsc::Receiver<String>) -> Result<(), Deaf> {
    let random = getrandom::u64().map_err(|error| Deaf::Lost(error.to_string()))?;
    let sent = format!("{CHECK}{random:x}");
    let reader = shared.client().await.map_err(|error| Deaf::Lost(error.to_string()))?;
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&shared.connector.schema, Type::TEXT), (&sent, Type::TEXT)];
    let telling = reader.query_typed("SELECT pg_notify($1, $2)", &parameters);
    telling.await.map_err(|error| Deaf::Lost(Error::of(&error).to_string()))?;
    let coming = async {
        while let Some(payload) = heard.recv().await {
            if payload == sent {
                return Ok(());
            }
            wake(shared, &payload);
        }
        Err(Deaf::Lost("the connection was closed".to_owned()))
    };
    tokio::time::timeout(COMES_WITHIN, coming).await.unwrap_or(Err(Deaf::Silent))
}

fn wake(shared: &Shared, payload: &str) {
    if payload.starts_with(CHECK) {
        return;
    }
    for id in payload.split(',').filter_map(id) {
        shared.waiters.wake(id);
    }
}

/// The id whose `uuid` is written like this.
fn id(text: &str) -> Option<EffectId> {
    let mut bytes = [0; 16];
    let mut digits = text.bytes().filter(|c| *c != b'-').map(|c| char::from(c).to_digit(16));
    for byte in &mut bytes {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    digits.next().is_none().then(|| EffectId::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_uuids() {
        let bytes: [u8; 16] = std::array::from_fn(|n| (n * 17) as u8);
        assert_eq!(id("00112233-4455-6677-8899-aabbccddeeff"), Some(EffectId::from_bytes(bytes)));
        for bad in ["", "00112233-4455-6677-8899-aabbccddeef", "00112233-4455-6677-8899-aabbccddeeff0", "check 1"] {
            assert_eq!(id(bad), None, "{bad}");
        }
    }
}
