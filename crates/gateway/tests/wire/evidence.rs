//! What each way to fail proves about a request.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use semel_core::evidence::{AttemptEnd, EffectMark, Lost, NotSent};
use semel_gateway::body::{BodyError, RequestBody};
use semel_gateway::clock;
use semel_gateway::upstream::{Attempt, AttemptOptions, BodyTime, Endpoint, Tried, Upstream, UpstreamSettings};

use crate::support::{PATIENCE, RawUpstream, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn post() -> Request<RequestBody> {
    Request::post("/pay").header("host", "a").body(RequestBody::from(Bytes::from_static(b"10"))).unwrap()
}

fn within(timeout: Duration) -> AttemptOptions {
    let head_by = clock::now() + timeout;
    AttemptOptions { begin_by: head_by, head_by, body: BodyTime::WhileItFlows, cut_after: None, is_hurried: false }
}

fn upstream(raw: &RawUpstream, change: impl FnOnce(&mut UpstreamSettings)) -> Upstream {
    let mut settings = UpstreamSettings::new(vec![raw.endpoint()]);
    change(&mut settings);
    Upstream::new(settings)
}

async fn send(upstream: &Upstream) -> Attempt {
    upstream.send(post(), &within(PATIENCE)).await
}

/// Sends and reads the answer to its end.
async fn whole(upstream: &Upstream) -> String {
    let body = send(upstream).await.outcome.unwrap().into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

fn not_sent(why: NotSent) -> AttemptEnd {
    AttemptEnd::NotSent(why)
}

/// A pair of signals between a test and its upstream: one to ask, one to say that it is done.
fn signals() -> (SyncSender<()>, Mutex<Receiver<()>>) {
    let (ask, asked) = sync_channel(1);
    (ask, Mutex::new(asked))
}

fn wait(signal: &Mutex<Receiver<()>>) {
    signal.lock().unwrap().recv_timeout(PATIENCE).unwrap();
}

#[tokio::test]
async fn refused_connection_is_not_sent_and_comes_back() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = UpstreamSettings::new(vec![closed.into()]);
    let upstream = Upstream::new(settings);
    let attempt = send(&upstream).await;
    assert_eq!(attempt.end(), not_sent(NotSent::ConnectFailed));
    let returned = attempt.outcome.unwrap_err().returned.unwrap();
    assert_eq!(returned.into_body().collect().await.unwrap().to_bytes(), "10");
    assert_eq!(upstream.connections(), (0, 0));
}

#[tokio::test]
async fn unknown_name_is_not_sent() {
    let mut settings = UpstreamSettings::new(vec![Endpoint::new("no-such-host.invalid", 80)]);
    settings.connect_timeout = PATIENCE;
    assert_eq!(send(&Upstream::new(settings)).await.end(), not_sent(NotSent::Dns));
}

#[tokio::test]
async fn connect_timeout_is_not_sent() {
    // A listener whose queue is full drops further SYNs.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queued.push(stream);
        assert!(queued.len() < 16);
    }
    let mut settings = UpstreamSettings::new(vec![address.into()]);
    settings.connect_timeout = Duration::from_millis(100);
    assert_eq!(send(&Upstream::new(settings)).await.end(), not_sent(NotSent::ConnectTimeout));
}

#[tokio::test]
async fn answer_tells_status_and_mark() {
    let raw = RawUpstream::answering("HTTP/1.1 503 No\r\nSemel-Effect: none\r\nContent-Length: 0\r\n\r\n");
    let end = send(&upstream(&raw, |_| {})).await.end();
    let expected = AttemptEnd::Answered { status: StatusCode::SERVICE_UNAVAILABLE, mark: Some(EffectMark::None) };
    assert_eq!(end, expected);
}

#[tokio::test]
async fn close_after_reading_is_lost() {
    let raw = RawUpstream::start(|mut connection| drop(connection.request()));
    let attempt = send(&upstream(&raw, |_| {})).await;
    assert_eq!(attempt.end(), AttemptEnd::Lost(Lost::ConnectionLost));
    assert!(attempt.outcome.unwrap_err().returned.is_none());
    assert_eq!(raw.seen().len(), 1);
}

#[tokio::test]
async fn reset_after_reading_is_lost() {
    let raw = RawUpstream::start(|mut connection| {
        connection.request();
        connection.reset();
    });
    assert_eq!(send(&upstream(&raw, |_| {})).await.end(), AttemptEnd::Lost(Lost::ConnectionLost));
}

#[tokio::test]
async fn close_within_the_head_is_lost() {
    let raw = RawUpstream::start(|mut connection| {
        connection.request();
        connection.say("HTTP/1.1 200 OK\r\nContent-Le");
    });
    assert_eq!(send(&upstream(&raw, |_| {})).await.end(), AttemptEnd::Lost(Lost::ConnectionLost));
}

#[tokio::test]
async fn what_is_not_http_is_malformed() {
    for answer in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 999999 X\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ] {
        let raw = RawUpstream::answering(answer);
        let end = send(&upstream(&raw, |_| {})).await.end();
        assert_eq!(end, AttemptEnd::Lost(Lost::Malformed), "{answer:?}");
    }
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let raw = RawUpstream::start(|mut connection| {
        connection.request();
        connection.closed();
    });
    let upstream = upstream(&raw, |_| {});
    let attempt = upstream.send(post(), &within(Duration::from_millis(150))).await;
    assert_eq!(attempt.end(), AttemptEnd::Lost(Lost::Timeout));
    assert_eq!(upstream.connections(), (0, 0), "the connection is closed, not pooled");
}

async fn body_error(raw: &RawUpstream, change: impl FnOnce(&mut UpstreamSettings)) -> Lost {
    let upstream = upstream(raw, change);
    let response = send(&upstream).await.outcome.unwrap();
    match response.into_body().collect().await {
        Err(BodyError::Upstream { lost, .. }) => {
            assert_eq!(upstream.connections(), (0, 0));
            lost
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn short_bodies_are_truncated() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsho",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ] {
        let raw = RawUpstream::start(move |mut connection| {
            connection.request();
            connection.say(answer);
        });
        assert_eq!(body_error(&raw, |_| {}).await, Lost::Truncated, "{answer:?}");
    }
}

#[tokio::test]
async fn stalled_bodies_time_out() {
    let raw = RawUpstream::start(|mut connection| {
        connection.request();
        connection.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort");
        connection.closed();
    });
    let lost = body_error(&raw, |settings| settings.body_idle_timeout = Duration::from_millis(100)).await;
    assert_eq!(lost, Lost::Timeout);
}

#[tokio::test]
async fn whole_bodies_can_have_a_deadline() {
    let raw = RawUpstream::start(|mut connection| {
        connection.request();
        connection.say("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        while connection.say("x") {
            std::thread::yield_now();
        }
    });
    let upstream = upstream(&raw, |_| {});
    let options = AttemptOptions { body: BodyTime::By(clock::now() + Duration::from_millis(300)), ..within(PATIENCE) };
    let body = upstream.send(post(), &options).await.outcome.unwrap().into_body();
    // It flows, byte by byte, but not for ever.
    let mut body = std::pin::pin!(body);
    let error = loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    assert!(matches!(error, Some(BodyError::Upstream { lost: Lost::Timeout, .. })), "{error:?}");
}

#[tokio::test]
async fn connections_are_reused_after_the_body_only() {
    let raw = RawUpstream::answering(OK);
    let upstream = upstream(&raw, |_| {});
    for _ in 0..5 {
        assert_eq!(whole(&upstream).await, "ok");
    }
    assert_eq!((raw.accepted(), upstream.connections()), (1, (1, 1)));
    let unread = send(&upstream).await.outcome.unwrap();
    assert_eq!(upstream.connections(), (1, 0), "held until the body ends");
    drop(unread);
    assert_eq!(upstream.connections(), (0, 0), "an unread body closes its connection");
}

/// The upstream closes an idle connection; the runtime has no chance to notice, because the test does not await.
async fn reuse_after(spoil: fn(crate::support::RawConnection)) -> (RawUpstream, Upstream) {
    let (ask, asked) = signals();
    let (done, spoilt) = signals();
    let asked = Arc::new(asked);
    let raw = RawUpstream::start(move |mut connection| {
        let first = connection.number == 0;
        while connection.request().is_some() && connection.say(OK) {
            if first {
                wait(&asked);
                spoil(connection);
                done.send(()).unwrap();
                return;
            }
        }
    });
    let upstream = upstream(&raw, |_| {});
    assert_eq!(whole(&upstream).await, "ok");
    ask.send(()).unwrap();
    wait(&spoilt);
    (raw, upstream)
}

#[tokio::test]
async fn fin_in_the_kernel_is_seen_before_reuse() {
    let (raw, upstream) = reuse_after(drop).await;
    assert_eq!(upstream.connections(), (1, 1), "nobody has noticed yet");
    assert_eq!(whole(&upstream).await, "ok");
    assert_eq!((raw.accepted(), raw.seen().len()), (2, 2));
}

#[tokio::test]
async fn reset_of_an_idle_connection_is_seen_before_reuse() {
    let (raw, upstream) = reuse_after(crate::support::RawConnection::reset).await;
    assert_eq!(whole(&upstream).await, "ok");
    assert_eq!((raw.accepted(), raw.seen().len()), (2, 2));
}

#[tokio::test]
async fn bytes_nobody_asked_for_spoil_an_idle_connection() {
    let (raw, upstream) = reuse_after(|mut connection| {
        connection.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong");
        // Kept open: only the bytes are the sign.
        std::mem::forget(connection.stream);
    })
    .await;
    assert_eq!(whole(&upstream).await, "ok");
    assert_eq!((raw.accepted(), raw.seen().len()), (2, 2));
}

#[tokio::test]
async fn bytes_after_an_answer_are_not_the_next_answer() {
    let raw = RawUpstream::start(|mut connection| {
        while connection.request().is_some() {
            if connection.number == 0 {
                connection.say(
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong",
                );
            } else {
                connection.say(OK);
            }
        }
    });
    let upstream = upstream(&raw, |_| {});
    assert_eq!(whole(&upstream).await, "ok");
    assert_eq!(whole(&upstream).await, "ok");
    assert_eq!(raw.accepted(), 2);
}

#[tokio::test]
async fn close_that_crosses_a_request_is_lost() {
    let raw = RawUpstream::start(|mut connection| {
        connection.request();
        connection.say(OK);
        // The second request is read, and then the upstream dies.
        connection.request();
    });
    let upstream = upstream(&raw, |_| {});
    assert_eq!(whole(&upstream).await, "ok");
    assert_eq!(send(&upstream).await.end(), AttemptEnd::Lost(Lost::ConnectionLost));
    assert_eq!((raw.accepted(), raw.seen().len()), (1, 2), "it was not sent again");
}

#[tokio::test]
async fn keep_alive_headers_are_obeyed() {
    let raw = RawUpstream::answering("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\nok");
    let upstream = upstream(&raw, |_| {});
    whole(&upstream).await;
    whole(&upstream).await;
    assert_eq!(raw.accepted(), 2);
    let raw = RawUpstream::answering("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let upstream = self::upstream(&raw, |_| {});
    whole(&upstream).await;
    assert_eq!(upstream.connections(), (0, 0));
}

#[tokio::test]
async fn idle_connections_are_swept() {
    let raw = RawUpstream::answering(OK);
    let upstream = upstream(&raw, |settings| settings.idle_timeout = Duration::from_millis(50));
    whole(&upstream).await;
    assert_eq!(upstream.connections(), (1, 1));
    let end = clock::now() + PATIENCE;
    while upstream.connections() != (0, 0) {
        assert!(clock::now() < end, "the idle connection stays");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn connections_are_bounded_and_so_is_the_wait() {
    let raw = RawUpstream::answering(OK);
    let upstream = upstream(&raw, |settings| {
        settings.connections_max = 1;
        settings.waiting_max = 1;
        settings.pool_wait = Duration::from_millis(100);
    });
    let held = send(&upstream).await.outcome.unwrap();
    let (first, second) = tokio::join!(send(&upstream), send(&upstream));
    assert_eq!(first.end(), not_sent(NotSent::RefusedHere), "waited in vain");
    assert_eq!(second.end(), not_sent(NotSent::RefusedHere), "no room in the queue");
    assert!(second.outcome.unwrap_err().error.to_string().contains("queue"));
    // A waiter gets the connection when the body ends, or the place when the connection is closed.
    let (waited, ()) = tokio::join!(send(&upstream), async { drop(held.into_body().collect().await) });
    let held = waited.outcome.unwrap();
    assert_eq!(raw.accepted(), 1);
    let (waited, ()) = tokio::join!(send(&upstream), async { drop(held) });
    drop(waited.outcome.unwrap().into_body().collect().await);
    assert_eq!((raw.accepted(), upstream.connections()), (2, (1, 1)));
}

#[tokio::test]
async fn other_endpoints_are_tried_first() {
    let (a, b) = (RawUpstream::answering(OK), RawUpstream::answering(OK));
    let upstream = Upstream::new(UpstreamSettings::new(vec![a.endpoint(), b.endpoint()]));
    let first = send(&upstream).await.endpoint.unwrap();
    let mut tried = Tried::default();
    tried.insert(first);
    for _ in 0..3 {
        let picked = upstream.intake().pick(tried).unwrap();
        assert_ne!(upstream.send_to(picked, post(), &within(PATIENCE)).await.endpoint, Some(first));
    }
    let seen = if first.get() == 0 { [a.seen().len(), b.seen().len()] } else { [b.seen().len(), a.seen().len()] };
    assert_eq!(seen, [1, 3]);
}

#[tokio::test]
async fn host_can_be_the_endpoints() {
    let raw = RawUpstream::answering(OK);
    let mut settings = UpstreamSettings::new(vec![raw.endpoint()]);
    settings.host = semel_gateway::upstream::HostPolicy::Endpoint;
    whole(&Upstream::new(settings)).await;
    let seen = raw.seen().remove(0);
    assert!(seen.starts_with("POST /pay HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains(&format!("host: {}\r\n", raw.address)), "{seen}");
}

#[tokio::test]
async fn a_dropped_attempt_closes_its_connection() {
    let closed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let noticed = Arc::clone(&closed);
    let raw = RawUpstream::start(move |mut connection| {
        connection.request();
        noticed.store(connection.closed(), std::sync::atomic::Ordering::SeqCst);
    });
    let upstream = upstream(&raw, |_| {});
    let dropped = tokio::time::timeout(Duration::from_millis(100), send(&upstream)).await;
    assert!(dropped.is_err());
    eventually("the close", || closed.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(upstream.connections(), (0, 0));
}
