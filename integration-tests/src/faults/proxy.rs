//! A TCP proxy that can be told to fail.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// Chunks that may be under way in one direction; more stay in the sender's socket.
const UNDER_WAY: usize = 64;
/// Between attempts to listen again at the port that was given up.
const REBIND_PAUSE: Duration = Duration::from_millis(20);
/// How long the port that was given up may be taken by somebody else.
const REBIND_LIMIT: Duration = Duration::from_secs(5);

/// What the proxy does to all its connections.
#[derive(Clone, Copy, Debug, Default)]
struct Mode {
    /// Counts cuts: a connection ends when it changes.
    cuts: u64,
    stalled: bool,
    delay: Duration,
    target: Option<SocketAddr>,
}

/// A TCP proxy with a port of its own that forwards to one address, and on command
/// [cuts](Self::cut), [refuses](Self::refuse), [stalls](Self::stall), [delays](Self::delay) and
/// [heals](Self::heal).
///
/// Commands act on all connections, those that are open and those to come. Dropping the proxy closes its
/// port and cuts its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    open: Arc<AtomicUsize>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Proxy {
    /// Listens at `address`; port 0 takes a free one. Connections wait for
    /// [`forward_to`](Self::forward_to).
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let mode = Arc::new(watch::Sender::new(Mode::default()));
        let open = Arc::new(AtomicUsize::new(0));
        let accepting = tokio::spawn(accept(listener, mode.clone(), open.clone()));
        Ok(Self { address, mode, open, accepting: Mutex::new(Some(accepting)) })
    }

    /// Forwards what comes from now on to `target`.
    pub fn forward_to(&self, target: SocketAddr) {
        self.mode.send_modify(|mode| mode.target = Some(target));
    }

    /// Returns the address that clients dial; the same for the proxy's whole life.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many connections are open on the clients' side.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Resets all connections, on both sides; new ones are taken.
    pub fn cut(&self) {
        self.mode.send_modify(|mode| mode.cuts += 1);
    }

    /// Refuses new connections, until [`heal`](Self::heal); open ones stay. The port is closed when this returns.
    pub async fn refuse(&self) {
        if let Some(task) = self.accepting.lock().await.take() {
            task.abort();
            // Cancelled, as asked for; the listener is dropped by then.
            let _ = task.await;
        }
    }

    /// Forwards nothing any more, in no direction, and keeps all connections open; new ones are taken
    /// and left without an answer. What is on its way arrives after [`heal`](Self::heal).
    pub fn stall(&self) {
        self.mode.send_modify(|mode| mode.stalled = true);
    }

    /// Lets everything arrive later by `by`, in each direction, from now on.
    pub fn delay(&self, by: Duration) {
        self.mode.send_modify(|mode| mode.delay = by);
    }

    /// Ends refusing, stalling and delaying.
    ///
    /// # Errors
    /// When the port, given up by [`refuse`](Self::refuse), cannot be had again within 5 s.
    pub async fn heal(&self) -> io::Result<()> {
        self.mode.send_modify(|mode| {
            mode.stalled = false;
            mode.delay = Duration::ZERO;
        });
        let mut accepting = self.accepting.lock().await;
        if accepting.is_none() {
            let listener = rebind(self.address).await?;
            *accepting = Some(tokio::spawn(accept(listener, self.mode.clone(), self.open.clone())));
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(task) = self.accepting.get_mut().take() {
            task.abort();
        }
        self.cut();
    }
}

async fn rebind(address: SocketAddr) -> io::Result<TcpListener> {
    let end = Instant::now() + REBIND_LIMIT;
    loop {
        match TcpListener::bind(address).await {
            Err(_) if Instant::now() < end => tokio::time::sleep(REBIND_PAUSE).await,
            bound => return bound,
        }
    }
}

async fn accept(listener: TcpListener, mode: Arc<watch::Sender<Mode>>, open: Arc<AtomicUsize>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(tokio::spawn(serve(client, mode.subscribe(), Open::new(&open)))),
            // Out of descriptors, or the client is gone already; the next one may do better.
            Err(_) => tokio::time::sleep(REBIND_PAUSE).await,
        }
    }
}

/// Counts a connection for as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves one connection until both sides are done; one that is cut or fails is reset on both sides.
async fn serve(mut client: TcpStream, mode: watch::Receiver<Mode>, _open: Open) {
    let cuts = mode.borrow().cuts;
    let cut = cut_since(mode.clone(), cuts);
    tokio::pin!(cut);
    let dialled = tokio::select! {
        dialled = dial(mode.clone()) => dialled,
        () = &mut cut => return reset(&client),
    };
    let Ok(mut server) = dialled else { return reset(&client) };
    let done = tokio::select! {
        done = join(&mut client, &mut server, mode) => done,
        () = cut => Err(io::ErrorKind::ConnectionReset.into()),
    };
    if done.is_err() {
        reset(&client);
        reset(&server);
    }
}

/// Makes the drop of a connection reset it.
fn reset(stream: &TcpStream) {
    // It fails only for what is closed already.
    let _ = stream.set_zero_linger();
}

async fn join(client: &mut TcpStream, server: &mut TcpStream, mode: watch::Receiver<Mode>) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let (there, back) = (pass(from_client, to_server, mode.clone()), pass(from_server, to_client, mode));
    tokio::try_join!(there, back).map(drop)
}

async fn cut_since(mut mode: watch::Receiver<Mode>, cuts: u64) {
    // An error means that the proxy is gone.
    let _ = mode.wait_for(|mode| mode.cuts != cuts).await;
}

/// Waits until the proxy may forward and knows where to, and connects.
async fn dial(mut mode: watch::Receiver<Mode>) -> io::Result<TcpStream> {
    let ready = mode.wait_for(|mode| !mode.stalled && mode.target.is_some()).await;
    let target = ready.ok().and_then(|mode| mode.target);
    TcpStream::connect(target.ok_or(io::ErrorKind::BrokenPipe)?).await
}

/// Passes on one direction until its end, each chunk as late as the mode says at its arrival.
async fn pass(from: ReadHalf<'_>, to: WriteHalf<'_>, mode: watch::Receiver<Mode>) -> io::Result<()> {
    let (queue, queued) = mpsc::channel(UNDER_WAY);
    tokio::try_join!(take_in(from, queue, mode.clone()), put_out(to, queued, mode)).map(drop)
}

async fn take_in(
    mut from: ReadHalf<'_>,
    queue: mpsc::Sender<(Instant, Bytes)>,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        flowing(&mut mode).await?;
        buffer.reserve(CHUNK);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let due = Instant::now() + mode.borrow().delay;
        if queue.send((due, buffer.split().freeze())).await.is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

async fn put_out(
    mut to: WriteHalf<'_>,
    mut queued: mpsc::Receiver<(Instant, Bytes)>,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    while let Some((due, chunk)) = queued.recv().await {
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        flowing(&mut mode).await?;
        to.write_all(&chunk).await?;
    }
    flowing(&mut mode).await?;
    to.shutdown().await
}

/// Waits while the proxy is stalled.
async fn flowing(mode: &mut watch::Receiver<Mode>) -> io::Result<()> {
    let flows = mode.wait_for(|mode| !mode.stalled).await;
    flows.map(drop).map_err(|_| io::ErrorKind::BrokenPipe.into())
}
