//! Bounds in time and number, and the end of the server.

use std::time::Duration;

use semel_testkit::http1::{Incoming, ReadError, Side};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::gateway::{Gateway, STUCK};

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn ask(socket: &mut TcpStream) -> u16 {
    socket.write_all(HEALTH).await.unwrap();
    timeout(STUCK, Incoming::default().read(socket, Side::Answer)).await.unwrap().unwrap().status()
}

/// Waits until the server has closed the connection; what it says before does not matter.
async fn closed(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = timeout(STUCK, socket.read_to_end(&mut rest)).await.expect("the connection stays open");
}

#[tokio::test]
async fn a_slow_head_is_cut_off() {
    let gateway = Gateway::start_with(|settings| settings.header_timeout = Duration::from_millis(50)).await;
    let mut socket = gateway.connect().await;
    socket.write_all(b"GET /healthz HTTP/1.1\r\nHos").await.unwrap();
    closed(&mut socket).await;
    // Nor is an idle connection kept for ever.
    let mut idle = gateway.connect().await;
    assert_eq!(ask(&mut idle).await, 200);
    closed(&mut idle).await;
}

#[tokio::test]
async fn a_slow_body_is_cut_off() {
    let gateway = Gateway::start_with(|settings| settings.request_timeout = Duration::from_millis(50)).await;
    let head = format!(
        "POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{",
        gateway.token
    );
    assert_eq!(gateway.raw(head.as_bytes()).await.status(), 503);
}

#[tokio::test]
async fn a_connection_ends_after_its_time() {
    let gateway = Gateway::start_with(|settings| settings.connection_age_max = Duration::from_millis(50)).await;
    let mut socket = gateway.connect().await;
    closed(&mut socket).await;
}

#[tokio::test]
async fn connections_are_bounded_and_the_next_waits_its_turn() {
    let gateway = Gateway::start_with(|settings| settings.connections_max = 1).await;
    let mut first = gateway.connect().await;
    assert_eq!(ask(&mut first).await, 200);
    let mut second = gateway.connect().await;
    second.write_all(HEALTH).await.unwrap();
    // The first is still served although the second is there.
    assert_eq!(ask(&mut first).await, 200);
    drop(first);
    let answer = timeout(STUCK, Incoming::default().read(&mut second, Side::Answer)).await.unwrap();
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.connect().await;
    let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(40 << 10));
    // The server may close while it is being written to.
    let _ = socket.write_all(head.as_bytes()).await;
    match timeout(STUCK, Incoming::default().read(&mut socket, Side::Answer)).await.unwrap() {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(ReadError::Idle | ReadError::Lost { .. }) => {}
        Err(other) => panic!("{other:?}"),
    }
    assert_eq!(gateway.get("/healthz").await.status(), 200);
}

#[tokio::test]
async fn it_stops_listening_and_ends_idle_connections() {
    let gateway = Gateway::start().await;
    let mut idle = gateway.connect().await;
    assert_eq!(ask(&mut idle).await, 200);
    let address = gateway.address;
    gateway.stop.send(()).unwrap();
    timeout(STUCK, gateway.served).await.unwrap().unwrap();
    closed(&mut idle).await;
    assert!(TcpStream::connect(address).await.is_err());
}
