//! The HTTP endpoint, asked as Prometheus and an orchestrator ask it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mq_core::{ErrorKind, Message};
use mq_observe::{Endpoint, Observer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{client, publisher};

/// Returns status, head and body.
async fn request(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn metrics_are_served_as_text() {
    let client = client();
    let observer = Observer::builder(&client).start().unwrap();
    publisher(&client, "orders").await.send(Message::new("x")).await.unwrap();
    let serving = Endpoint::new(&observer).bind("127.0.0.1:0").await.unwrap();
    let (status, head, body) = request(serving.address(), "GET", "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    let line = "mq_published_total{backend=\"memory\",topic=\"orders\",outcome=\"confirmed\"} 1";
    assert!(body.lines().any(|shown| shown == line), "{body}");
    assert_eq!(request(serving.address(), "HEAD", "/metrics").await.2, "");
    assert_eq!(request(serving.address(), "GET", "/nothing").await.0, 404);
    assert_eq!(request(serving.address(), "POST", "/metrics").await.0, 405);
    serving.close().await;
}

#[tokio::test]
async fn readiness_is_what_the_probes_say() {
    let observer = Observer::builder(&client()).start().unwrap();
    let (receiving, alive) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let probe = |flag: &Arc<AtomicBool>| {
        let flag = flag.clone();
        move || flag.load(Ordering::Relaxed)
    };
    let endpoint = Endpoint::new(&observer).ready("billing", probe(&receiving)).live("clock", probe(&alive));
    let serving = endpoint.bind("127.0.0.1:0").await.unwrap();
    let (status, _, body) = request(serving.address(), "GET", "/readyz").await;
    assert_eq!((status, body.as_str()), (503, "broker: ok\nbilling: not ok\n"));
    receiving.store(true, Ordering::Relaxed);
    assert_eq!(request(serving.address(), "GET", "/readyz").await.0, 200);
    assert_eq!(request(serving.address(), "GET", "/healthz").await.0, 200);
    alive.store(false, Ordering::Relaxed);
    assert_eq!(request(serving.address(), "GET", "/healthz").await.0, 503);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let observer = Observer::builder(&client()).start().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = Endpoint::new(&observer).bind(&address).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("another program listens there"), "{text}");
    let error = Endpoint::new(&observer).bind("nonsense").await.unwrap_err();
    assert!(
        error.to_string().contains("nonsense") && error.to_string().contains("127.0.0.1:9464"),
        "{error}"
    );
}

#[tokio::test]
async fn a_stop_frees_the_port_and_waits_for_nobody_idle() {
    let observer = Observer::builder(&client()).start().unwrap();
    let serving = Endpoint::new(&observer).bind("127.0.0.1:0").await.unwrap();
    let address = serving.address();
    let idle = TcpStream::connect(address).await.unwrap();
    assert_eq!(request(address, "GET", "/healthz").await.0, 200);
    tokio::time::timeout(Duration::from_secs(4), serving.close())
        .await
        .expect("an idle connection holds it up");
    drop(idle);
    Endpoint::new(&observer).bind(address.to_string()).await.unwrap().close().await;
}
