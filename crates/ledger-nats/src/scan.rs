//! Everything under a subject, in the order of its numbers: for lists and exports, never for decisions.

use std::time::Duration;

use async_nats::{StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::json;

use crate::link::{ApiFailed, Link, NoAnswer};
use crate::publish::STATE;
use crate::shared::{ANSWER_WITHIN, Names};

/// Messages asked for at once.
const PAGE: usize = 500;
/// After how long without a question the servers forget a scan.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// A message that was come by.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) subject: String,
    pub(crate) number: u64,
    /// What its header says of the effect's state.
    pub(crate) state: Option<String>,
    pub(crate) payload: Bytes,
}

/// A walk through the messages under a subject.
pub(crate) struct Scan {
    link: Link,
    names: Names,
    consumer: String,
    inbox: String,
    messages: Subscriber,
    /// How many have come, by the server's count.
    delivered: u64,
}

impl Scan {
    /// Starts at a number; without payloads if only headers are wanted.
    ///
    /// # Errors
    /// When no server answers.
    pub(crate) async fn start(
        link: &Link,
        names: &Names,
        subject: &str,
        from: u64,
        headers_only: bool,
    ) -> Result<Self, ApiFailed> {
        #[derive(Deserialize)]
        struct Created {
            name: String,
        }
        let config = json!({
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": from.max(1),
            "filter_subject": subject,
            "ack_policy": "none",
            "replay_policy": "instant",
            "headers_only": headers_only,
            "inactive_threshold": u64::try_from(FORGOTTEN_AFTER.as_nanos()).unwrap_or(u64::MAX),
            "num_replicas": 1,
            "mem_storage": true,
        });
        let create = json!({ "stream_name": names.stream, "config": config }).to_string();
        let created: Created = link.api(names.api("CONSUMER.CREATE"), create.into(), ANSWER_WITHIN).await?;
        let inbox = link.client.new_inbox();
        let messages = link.client.subscribe(inbox.clone()).await;
        let messages = messages.map_err(|error| ApiFailed::NoAnswer(NoAnswer::NotSent(error.to_string())))?;
        Ok(Self { link: link.clone(), names: names.clone(), consumer: created.name, inbox, messages, delivered: 0 })
    }

    /// The next messages; none when there are no more now.
    ///
    /// # Errors
    /// When the server that walks does not answer, or something was lost on the way: start again.
    pub(crate) async fn page(&mut self) -> Result<Vec<Scanned>, ApiFailed> {
        let lost = |why: &str| ApiFailed::NoAnswer(NoAnswer::Lost(why.to_owned()));
        let ask = format!("{}.{}", self.names.api("CONSUMER.MSG.NEXT"), self.consumer);
        let what = json!({ "batch": PAGE, "no_wait": true }).to_string();
        let asked = self.link.client.publish_with_reply(ask, self.inbox.clone(), what.into()).await;
        asked.map_err(|error| ApiFailed::NoAnswer(NoAnswer::NotSent(error.to_string())))?;
        let mut page = Vec::new();
        while page.len() < PAGE {
            let next = tokio::time::timeout(ANSWER_WITHIN, self.messages.next()).await;
            let message = next.map_err(|_| lost("it did not answer in time"))?.ok_or_else(|| lost("it was closed"))?;
            match message.status {
                // No messages, or none any more for this question.
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => break,
                Some(status) if status != StatusCode::OK => return Err(lost(&format!("it ended with {status}"))),
                _ => {}
            }
            let (number, delivered) =
                message.reply.as_deref().and_then(place).ok_or_else(|| lost("a message has no number"))?;
            self.delivered += 1;
            if delivered != self.delivered {
                return Err(lost("a message was lost on the way"));
            }
            let state = message.headers.as_ref().and_then(|headers| headers.get(STATE));
            page.push(Scanned {
                subject: message.subject.to_string(),
                number,
                state: state.map(ToString::to_string),
                payload: message.payload,
            });
        }
        Ok(page)
    }

    /// Lets the servers forget it at once.
    pub(crate) async fn end(self) {
        let forget = format!("{}.{}", self.names.api("CONSUMER.DELETE"), self.consumer);
        // If they do not hear it, they forget it a little later.
        let _ = self.link.client.publish(forget, Bytes::new()).await;
    }
}

/// The number in the stream and in the walk, from a reply subject:
/// `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>[.<token>]`.
fn place(reply: &str) -> Option<(u64, u64)> {
    let tokens: Vec<&str> = reply.split('.').collect();
    let first = if tokens.len() > 9 { 4 } else { 2 };
    Some((tokens.get(first + 3)?.parse().ok()?, tokens.get(first + 4)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn numbers_are_found_in_both_forms() {
        assert_eq!(place("$JS.ACK.semel.abc.1.17.3.1700000000.0"), Some((17, 3)));
        assert_eq!(place("$JS.ACK._.ACC.semel.abc.1.17.3.1700000000.0.token"), Some((17, 3)));
        assert_eq!(place("_INBOX.x"), None);
    }
}
