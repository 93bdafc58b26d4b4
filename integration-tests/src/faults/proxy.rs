//! A TCP proxy that can be told to fail.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
    /// Connections with a lower number are stalled.
    stalled_below: u64,
    delay: Duration,
    target: Option<SocketAddr>,
}

/// A TCP proxy with a port of its own that forwards to one address, and on command
/// [cuts](Self::cut), [refuses](Self::refuse), [stalls](Self::stall), [freezes](Self::freeze), [delays](Self::delay)
/// and [heals](Self::heal).
///
/// Commands act on all connections, those that are open and those to come; a cut and a freeze on the open ones alone.
/// Dropping the proxy closes its port and cuts its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    open: Arc<AtomicUsize>,
    /// The number of the next connection.
    next: Arc<AtomicU64>,
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
        let proxy = Self { address, mode, open, next: Arc::default(), accepting: Mutex::default() };
        *proxy.accepting.lock().await = Some(proxy.accept(listener));
        Ok(proxy)
    }

    fn accept(&self, listener: TcpListener) -> JoinHandle<()> {
        tokio::spawn(accept(listener, self.mode.clone(), self.open.clone(), self.next.clone()))
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
        self.mode.send_modify(|mode| mode.stalled_below = u64::MAX);
    }

    /// Stalls the connections that are open now, until [`heal`](Self::heal); new ones work.
    pub fn freeze(&self) {
        self.mode.send_modify(|mode| mode.stalled_below = self.next.load(Ordering::SeqCst));
    }

    /// Lets everything arrive later by `by`, in each direction, from now on.
    pub fn delay(&self, by: Duration) {
        self.mode.send_modify(|mode| mode.delay = by);
    }

    /// Ends refusing, stalling, freezing and delaying.
    ///
    /// # Errors
    /// When the port, given up by [`refuse`](Self::refuse), cannot be had again within 5 s.
    pub async fn heal(&self) -> io::Result<()> {
        self.mode.send_modify(|mode| {
            mode.stalled_below = 0;
            mode.delay = Duration::ZERO;
        });
        let mut accepting = self.accepting.lock().await;
        if accepting.is_none() {
            let listener = rebind(self.address).await?;
            *accepting = Some(self.accept(listener));
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

async fn accept(
    listener: TcpListener,
    mode: Arc<watch::Sender<Mode>>,
    open: Arc<AtomicUsize>,
    next: Arc<AtomicU64>,
) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let flow = Flow { number: next.fetch_add(1, Ordering::SeqCst), mode: mode.subscribe() };
                tokio::spawn(serve(client, flow, Open::new(&open)));
            }
            // Out of descriptors, or the client is gone already; the next one may do better.
            Err(_) => tokio::time::sleep(REBIND_PAUSE).await,
        }
    }
}

/// A connection's number, and what the proxy does to it.
#[derive(Clone)]
struct Flow {
    number: u64,
    mode: watch::Receiver<Mode>,
}

impl Flow {
    /// Waits until the proxy may forward.
    async fn flowing(&mut self) -> io::Result<()> {
        let flows = self.mode.wait_for(|mode| self.number >= mode.stalled_below).await;
        flows.map(drop).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Waits until the proxy may forward and knows where to, and connects.
    async fn dial(mut self) -> io::Result<TcpStream> {
        let ready = |mode: &Mode| self.number >= mode.stalled_below && mode.target.is_some();
        let target = self.mode.wait_for(ready).await.ok().and_then(|mode| mode.target);
        TcpStream::connect(target.ok_or(io::ErrorKind::BrokenPipe)?).await
    }

    /// Waits until connections are cut.
    async fn cut(mut self) {
        let cuts = self.mode.borrow().cuts;
        // An error means that the proxy is gone.
        let _ = self.mode.wait_for(|mode| mode.cuts != cuts).await;
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
async fn serve(mut client: TcpStream, flow: Flow, _open: Open) {
    let cut = flow.clone().cut();
    tokio::pin!(cut);
    let dialled = tokio::select! {
        dialled = flow.clone().dial() => dialled,
        () = &mut cut => return reset(&client),
    };
    let Ok(mut server) = dialled else { return reset(&client) };
    let done = tokio::select! {
        done = join(&mut client, &mut server, flow) => done,
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

async fn join(client: &mut TcpStream, server: &mut TcpStream, flow: Flow) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let (there, back) = (pass(from_client, to_server, flow.clone()), pass(from_server, to_client, flow));
    tokio::try_join!(there, back).map(drop)
}

/// Passes on one direction until its end, each chunk as late as the mode says at its arrival.
async fn pass(from: ReadHalf<'_>, to: WriteHalf<'_>, flow: Flow) -> io::Result<()> {
    let (queue, queued) = mpsc::channel(UNDER_WAY);
    tokio::try_join!(take_in(from, queue, flow.clone()), put_out(to, queued, flow)).map(drop)
}

async fn take_in(
    mut from: ReadHalf<'_>,
    queue: mpsc::Sender<(Instant, Bytes)>,
    mut flow: Flow,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        flow.flowing().await?;
        buffer.reserve(CHUNK);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let due = Instant::now() + flow.mode.borrow().delay;
        if queue.send((due, buffer.split().freeze())).await.is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

async fn put_out(
    mut to: WriteHalf<'_>,
    mut queued: mpsc::Receiver<(Instant, Bytes)>,
    mut flow: Flow,
) -> io::Result<()> {
    while let Some((due, chunk)) = queued.recv().await {
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        flow.flowing().await?;
        to.write_all(&chunk).await?;
    }
    flow.flowing().await?;
    to.shutdown().await
}
