//! The fault proxy does what it is told, in front of an echo server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use mq_integration_tests::faults::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// How long the tests wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long they watch that nothing comes.
const QUIET: Duration = Duration::from_millis(200);

async fn echo_server() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    Ok(address)
}

async fn proxy() -> Result<Proxy> {
    let proxy = Proxy::listen(([127, 0, 0, 1], 0).into()).await?;
    proxy.forward_to(echo_server().await?);
    Ok(proxy)
}

async fn connect(proxy: &Proxy) -> Result<TcpStream> {
    Ok(timeout(PATIENCE, TcpStream::connect(proxy.address())).await??)
}

async fn read(stream: &mut TcpStream) -> Result<u8> {
    Ok(timeout(PATIENCE, stream.read_u8()).await??)
}

async fn echoes(stream: &mut TcpStream, byte: u8) -> Result<()> {
    stream.write_u8(byte).await?;
    let came = read(stream).await?;
    ensure!(came == byte, "{came} came for {byte}");
    Ok(())
}

async fn is_reset(stream: &mut TcpStream) -> Result<bool> {
    let read = timeout(PATIENCE, stream.read_u8()).await?;
    Ok(read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset))
}

#[tokio::test]
async fn forwards_both_ways_in_order() -> Result<()> {
    let proxy = proxy().await?;
    let stream = connect(&proxy).await?;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let (mut from, mut to) = stream.into_split();
    let writing = tokio::spawn({
        let sent = sent.clone();
        async move {
            to.write_all(&sent).await?;
            to.shutdown().await
        }
    });
    let mut came = Vec::new();
    // Ends only if the end of one direction is passed on, too.
    timeout(PATIENCE, from.read_to_end(&mut came)).await??;
    writing.await??;
    ensure!(came == sent, "{} bytes came for {}", came.len(), sent.len());
    Ok(())
}

#[tokio::test]
async fn a_cut_resets_what_is_open_and_takes_what_is_new() -> Result<()> {
    let proxy = proxy().await?;
    let mut streams = [connect(&proxy).await?, connect(&proxy).await?];
    for stream in &mut streams {
        echoes(stream, 1).await?;
    }
    ensure!(proxy.connections() == 2, "{} are open", proxy.connections());
    proxy.cut();
    for stream in &mut streams {
        ensure!(is_reset(stream).await?, "not reset");
    }
    echoes(&mut connect(&proxy).await?, 2).await
}

#[tokio::test]
async fn a_stalled_connection_can_be_cut() -> Result<()> {
    let proxy = proxy().await?;
    let mut old = connect(&proxy).await?;
    echoes(&mut old, 1).await?;
    proxy.stall();
    let mut new = connect(&proxy).await?;
    proxy.cut();
    ensure!(is_reset(&mut old).await?, "the old one is not reset");
    // One that came while stalled is cut, too, wherever the proxy is with it.
    new.write_u8(1).await.or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) })?;
    proxy.heal().await?;
    echoes(&mut connect(&proxy).await?, 2).await
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
}

#[tokio::test]
async fn refuses_new_connections_until_healed() -> Result<()> {
    let proxy = proxy().await?;
    let mut open = connect(&proxy).await?;
    echoes(&mut open, 1).await?;
    proxy.refuse().await;
    let refused = timeout(PATIENCE, TcpStream::connect(proxy.address())).await?;
    ensure!(
        refused.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused),
        "{refused:?}"
    );
    echoes(&mut open, 2).await?;
    proxy.heal().await?;
    echoes(&mut connect(&proxy).await?, 3).await
}

#[tokio::test]
async fn a_freeze_stalls_what_is_open_alone() -> Result<()> {
    let proxy = proxy().await?;
    let mut old = connect(&proxy).await?;
    echoes(&mut old, 1).await?;
    proxy.freeze();
    old.write_u8(2).await?;
    echoes(&mut connect(&proxy).await?, 3).await?;
    ensure!(timeout(QUIET, old.read_u8()).await.is_err(), "the old connection is not frozen");
    proxy.heal().await?;
    ensure!(read(&mut old).await? == 2, "another byte came");
    echoes(&mut old, 4).await
}

#[tokio::test]
async fn a_stall_keeps_connections_open_and_loses_nothing() -> Result<()> {
    let proxy = proxy().await?;
    let mut old = connect(&proxy).await?;
    echoes(&mut old, 1).await?;
    proxy.stall();
    old.write_u8(2).await?;
    let mut new = connect(&proxy).await?;
    new.write_u8(3).await?;
    ensure!(timeout(QUIET, old.read_u8()).await.is_err(), "the old connection is not stalled");
    ensure!(timeout(QUIET, new.read_u8()).await.is_err(), "the new connection is not stalled");
    proxy.heal().await?;
    ensure!(read(&mut old).await? == 2 && read(&mut new).await? == 3, "another byte came");
    Ok(())
}

#[tokio::test]
async fn a_delay_is_latency_and_ends() -> Result<()> {
    let proxy = proxy().await?;
    let mut stream = connect(&proxy).await?;
    echoes(&mut stream, 1).await?;
    proxy.delay(Duration::from_millis(150));
    let begun = Instant::now();
    echoes(&mut stream, 2).await?;
    ensure!(begun.elapsed() >= Duration::from_millis(300), "there and back took {:?}", begun.elapsed());
    proxy.heal().await?;
    let begun = Instant::now();
    echoes(&mut stream, 3).await?;
    ensure!(begun.elapsed() < Duration::from_millis(150), "it is still late: {:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_target_that_is_away_resets_and_a_dropped_proxy_is_gone() -> Result<()> {
    let proxy = proxy().await?;
    let gone = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    proxy.forward_to(gone);
    ensure!(is_reset(&mut connect(&proxy).await?).await?, "not reset");
    proxy.forward_to(echo_server().await?);
    let mut stream = connect(&proxy).await?;
    echoes(&mut stream, 1).await?;
    let address = proxy.address();
    drop(proxy);
    ensure!(is_reset(&mut stream).await?, "not reset by the drop");
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(address).await.is_ok() {
        ensure!(Instant::now() < end, "the port is still open");
        tokio::task::yield_now().await;
    }
    Ok(())
}
