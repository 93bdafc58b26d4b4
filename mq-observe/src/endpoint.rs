//! The HTTP endpoint: metrics and health.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use mq_core::{Error, ErrorKind, Result};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::observer::Observer;
use crate::text::MEDIA_TYPE;

/// How long a client may take to send a request's head.
const HEAD: Duration = Duration::from_secs(5);
/// How long a stop waits for answers under way.
const GRACE: Duration = Duration::from_secs(2);
/// How long accepting pauses when the process has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// Says whether something is well. Any `Fn() -> bool` is one. Asked at each request: it must not block.
pub trait Probe: Send + Sync + 'static {
    /// Returns whether it is.
    fn is_well(&self) -> bool;
}

impl<F: Fn() -> bool + Send + Sync + 'static> Probe for F {
    fn is_well(&self) -> bool {
        self()
    }
}

type Probes = Vec<(String, Box<dyn Probe>)>;

/// An endpoint to be: `/metrics` for Prometheus, `/healthz` and `/readyz` for who starts and restarts programs.
///
/// `/readyz` answers 200 when every readiness probe holds and 503 otherwise, with a line for each; the first
/// one, `broker`, is the observer's. `/healthz` answers 200 as long as the runtime turns and every
/// liveness probe holds.
///
/// ```
/// # async fn example() -> mq_core::Result<()> {
/// # let client = mq_core::Client::new(
/// #     mq_memory::Broker::new().backend(Default::default(), Default::default()), Default::default());
/// use mq_observe::{Endpoint, Observer};
///
/// let observer = Observer::builder(&client).start()?;
/// let serving = Endpoint::new(&observer).ready("cache", || true).bind("127.0.0.1:0").await?;
/// println!("curl http://{}/readyz", serving.address());
/// serving.close().await;
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
/// ```
#[must_use = "bind it"]
pub struct Endpoint {
    observer: Observer,
    ready: Probes,
    live: Probes,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |probes: &Probes| probes.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        f.debug_struct("Endpoint")
            .field("ready", &names(&self.ready))
            .field("live", &names(&self.live))
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Makes an endpoint that shows what `observer` sees.
    pub fn new(observer: &Observer) -> Self {
        let broker = observer.clone();
        let ready = Endpoint { observer: observer.clone(), ready: Vec::new(), live: Vec::new() };
        ready.ready("broker", move || broker.broker_answers() != Some(false))
    }

    /// Adds what must hold for the program to be given work, such as that its workers receive.
    pub fn ready(mut self, name: impl Into<String>, probe: impl Probe) -> Self {
        self.ready.push((name.into(), Box::new(probe)));
        self
    }

    /// Adds what must hold for the program to be left running.
    pub fn live(mut self, name: impl Into<String>, probe: impl Probe) -> Self {
        self.live.push((name.into(), Box::new(probe)));
        self
    }

    /// Listens at an address, such as `127.0.0.1:9464`; port 0 takes a free one.
    ///
    /// # Errors
    /// `InvalidInput` for an address that is none, is taken or is not this machine's; the error names it.
    pub async fn bind(self, address: impl AsRef<str>) -> Result<Serving> {
        let asked = address.as_ref();
        let listener = TcpListener::bind(asked).await.map_err(|error| cannot_listen(asked, error))?;
        let address = listener.local_addr().map_err(|error| cannot_listen(asked, error))?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, Arc::new(self), stopped));
        Ok(Serving { address, stop: Some(stop), task: Some(task) })
    }
}

fn cannot_listen(address: &str, error: io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there; end it or choose another port",
        io::ErrorKind::AddrNotAvailable => "it is not an address of this machine",
        io::ErrorKind::PermissionDenied => "choose a port from 1024 on",
        _ => "give an address and a port, such as 127.0.0.1:9464",
    };
    Error::new(ErrorKind::InvalidInput, format!("cannot listen on {address}: {advice}")).with_source(error)
}

/// An endpoint that serves. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl Serving {
    /// Returns the address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and waits for answers under way, 2 s at most. The port is free afterwards.
    pub async fn close(mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            // A panic there has been told of already.
            let _ = task.await;
        }
    }
}

async fn serve(listener: TcpListener, endpoint: Arc<Endpoint>, mut stopped: oneshot::Receiver<()>) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Told, or dropped: both mean stop.
            _ = &mut stopped => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(target: "mq", %error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let endpoint = endpoint.clone();
        let service = service_fn(move |request| {
            let answer = answer(&endpoint, &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let served = connections.watch(server.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(target: "mq", %error, "a connection to the endpoint ended");
            }
        });
    }
    drop(listener);
    // Who has no answer by then gets none.
    let _ = tokio::time::timeout(GRACE, connections.shutdown()).await;
}

fn answer(endpoint: &Endpoint, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n".into());
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/metrics" => response(StatusCode::OK, MEDIA_TYPE, endpoint.observer.snapshot().to_string()),
        "/healthz" => health(&endpoint.live, TEXT),
        "/readyz" => health(&endpoint.ready, TEXT),
        _ => response(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /healthz and /readyz\n".into()),
    }
}

fn health(probes: &Probes, kind: &'static str) -> Response<Full<Bytes>> {
    let mut status = StatusCode::OK;
    let mut lines = String::new();
    for (name, probe) in probes {
        let well = probe.is_well();
        if !well {
            status = StatusCode::SERVICE_UNAVAILABLE;
        }
        lines.push_str(name);
        lines.push_str(if well { ": ok\n" } else { ": not ok\n" });
    }
    if lines.is_empty() {
        lines.push_str("ok\n");
    }
    response(status, kind, lines)
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
