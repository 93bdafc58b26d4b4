//! Turns single requests into batches: while some calls are in flight, new requests pile up and
//! go together in the next.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;

/// A driver call that answers its callers when it is done.
pub(crate) type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a queue has for the pump.
pub(crate) enum Next {
    /// A call, to be begun or to be taken over.
    Call(Call),
    /// Nothing now.
    Empty,
    /// Nothing any more: the pump ends when its calls have.
    Closed,
}

/// Takes calls with `next` when `wake` says so and runs them, at most `in_flight` at once.
/// Each call is polled once before the next is taken, so calls begin in order.
pub(crate) async fn pump(wake: &Notify, in_flight: usize, mut next: impl FnMut() -> Next) {
    let mut calls = FuturesUnordered::new();
    loop {
        let mut closed = false;
        while calls.len() < in_flight {
            match next() {
                Next::Call(mut call) => {
                    if poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await.is_pending() {
                        calls.push(call);
                    }
                }
                Next::Empty => break,
                Next::Closed => {
                    closed = true;
                    break;
                }
            }
        }
        if closed && calls.is_empty() {
            return;
        }
        if calls.len() == in_flight || closed {
            calls.next().await;
            continue;
        }
        let woken = pin!(wake.notified());
        if calls.is_empty() {
            woken.await;
        } else if let Either::Left(_) = select(calls.next(), woken).await {
            continue;
        }
    }
}
