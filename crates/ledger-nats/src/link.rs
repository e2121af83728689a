//! The connection, and requests on it that say what they left behind.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, HeaderMap, Message, Request, RequestErrorKind, ServerAddr};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::error::{ApiError, in_words};
use crate::{Error, Options};

/// How long one host may take to answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How often a peer that says nothing is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Bounds of the wait before the next attempt to connect.
const RECONNECT_AFTER: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// Nobody received it.
    NotSent(String),
    /// It may have been received.
    Lost(String),
}

impl NoAnswer {
    pub(crate) fn words(self) -> String {
        match self {
            Self::NotSent(why) | Self::Lost(why) => why,
        }
    }
}

/// A connection that comes back by itself.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) client: Client,
    /// Counts the times that the connection was lost.
    losses: watch::Receiver<u64>,
    last_error: Arc<Mutex<String>>,
}

impl Link {
    /// Connects for serving, or for looking.
    ///
    /// # Errors
    /// When no server lets it in.
    pub(crate) async fn connect(options: &Options) -> Result<Self, Error> {
        Self::open(options, &options.url, options.password.as_deref()).await
    }

    /// Connects as a user of the system account; none where the options name none.
    ///
    /// # Errors
    /// When no server lets it in.
    pub(crate) async fn connect_to_system(options: &Options) -> Result<Option<Self>, Error> {
        let Some(url) = &options.system_url else { return Ok(None) };
        Self::open(options, url, None).await.map(Some)
    }

    async fn open(options: &Options, url: &str, password: Option<&str>) -> Result<Self, Error> {
        let servers: Result<Vec<ServerAddr>, _> = url.split(',').map(|server| server.trim().parse()).collect();
        let servers = servers.map_err(|error: std::io::Error| Error::Options(error.to_string()))?;
        let (lost, losses) = watch::channel(0);
        let last_error = Arc::new(Mutex::new("it is not connected yet".to_owned()));
        let heard = Arc::clone(&last_error);
        let mut connect = authenticated(&servers, password)
            .name("semel")
            .connection_timeout(CONNECT_WITHIN)
            .ping_interval(PING_EVERY)
            .client_capacity(options.queue_len.max(1))
            .max_reconnects(None)
            .reconnect_delay_callback(|attempts| {
                let doubled = RECONNECT_AFTER.0 * (1_u32 << attempts.min(10));
                doubled.min(RECONNECT_AFTER.1)
            })
            .event_callback(move |event| {
                match &event {
                    Event::Disconnected => {
                        lost.send_modify(|losses| *losses += 1);
                        tracing::warn!("the connection to NATS is lost");
                    }
                    Event::ClientError(error) => lock(&heard).clone_from(&error.to_string()),
                    Event::ServerError(error) => lock(&heard).clone_from(&error.to_string()),
                    other => tracing::debug!("the connection to NATS: {other}"),
                }
                async {}
            });
        if let Some(path) = &options.ca_file {
            connect = connect.add_root_certificates(path.clone());
        }
        let client = connect.connect(servers).await.map_err(|error| Error::Unreachable(in_words(&error)))?;
        Ok(Self { client, losses, last_error })
    }

    /// Whether there is a connection, or why not.
    pub(crate) fn down(&self) -> Option<String> {
        (self.client.connection_state() != async_nats::connection::State::Connected)
            .then(|| lock(&self.last_error).clone())
    }

    /// Sends a request and waits for its answer, or for the loss of the connection.
    pub(crate) async fn ask(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
        within: Duration,
    ) -> Result<Message, NoAnswer> {
        let mut losses = self.losses.clone();
        losses.mark_unchanged();
        let mut request = Request::new().payload(payload).timeout(Some(within));
        request.headers = headers;
        let answer = tokio::select! {
            biased;
            answer = self.client.send_request(subject, request) => answer,
            _ = losses.changed() => return Err(NoAnswer::Lost("the connection was lost".to_owned())),
        };
        answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => NoAnswer::NotSent("the stream has no leader".to_owned()),
            RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                NoAnswer::NotSent(in_words(&error))
            }
            RequestErrorKind::TimedOut => NoAnswer::Lost("it did not answer in time".to_owned()),
            RequestErrorKind::Other => NoAnswer::Lost(in_words(&error)),
        })
    }

    /// A request to JetStream, with its answer read.
    ///
    /// # Errors
    /// What the server says against it, or that it says nothing.
    pub(crate) async fn api<T: DeserializeOwned>(
        &self,
        subject: String,
        payload: Bytes,
        within: Duration,
    ) -> Result<T, ApiFailed> {
        let message = self.ask(subject, None, payload, within).await.map_err(ApiFailed::NoAnswer)?;
        read(&message.payload)
    }
}

/// Why a request to JetStream has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ApiFailed {
    NoAnswer(NoAnswer),
    Refused(ApiError),
}

impl ApiFailed {
    pub(crate) fn words(self) -> String {
        match self {
            Self::NoAnswer(why) => why.words(),
            Self::Refused(error) => error.to_string(),
        }
    }
}

impl From<ApiFailed> for Error {
    fn from(failed: ApiFailed) -> Self {
        match failed {
            ApiFailed::NoAnswer(why) => Self::Unreachable(why.words()),
            ApiFailed::Refused(error) => Self::Refused(error.to_string()),
        }
    }
}

/// Reads the answer of a JetStream request.
///
/// # Errors
/// The error that it is, or that it cannot be read.
pub(crate) fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ApiFailed> {
    #[derive(Deserialize)]
    struct MayFail {
        error: Option<ApiError>,
    }
    if let Ok(MayFail { error: Some(error) }) = serde_json::from_slice(payload) {
        return Err(ApiFailed::Refused(error));
    }
    serde_json::from_slice(payload)
        .map_err(|error| ApiFailed::NoAnswer(NoAnswer::Lost(format!("its answer cannot be read: {error}"))))
}

/// Options with the user of the first server that names one; the client library leaves that to its caller. A user without
/// a password is a token, as everywhere in NATS.
fn authenticated(servers: &[ServerAddr], password: Option<&str>) -> ConnectOptions {
    let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let found = servers.iter().find_map(|server| Some((server.username()?, server.password())));
    match (found, password) {
        (Some((user, Some(password))), _) => ConnectOptions::with_user_and_password(plain(user), plain(password)),
        (Some((user, None)), Some(password)) => {
            ConnectOptions::with_user_and_password(plain(user), password.to_owned())
        }
        (Some((token, None)), None) => ConnectOptions::with_token(plain(token)),
        (None, Some(token)) => ConnectOptions::with_token(token.to_owned()),
        (None, None) => ConnectOptions::new(),
    }
}

fn lock(words: &Mutex<String>) -> MutexGuard<'_, String> {
    // Every section leaves a string.
    words.lock().unwrap_or_else(PoisonError::into_inner)
}
