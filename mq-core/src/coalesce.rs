//! Turns single requests into batches: while some calls are in flight, new requests pile up and
//! go together in the next.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;

/// What a queue has for the pump.
pub(crate) enum Next<B> {
    /// A batch.
    Batch(B),
    /// Nothing now.
    Empty,
    /// Nothing any more: the pump ends when its calls have.
    Closed,
}

/// Takes batches with `next` when `wake` says so, and runs `call` on them, at most `in_flight` at once.
/// Each call is polled once before the next is made, so calls begin in order.
pub(crate) async fn pump<B, F: Future<Output = ()>>(
    wake: &Notify,
    in_flight: usize,
    mut next: impl FnMut() -> Next<B>,
    mut call: impl FnMut(B) -> F,
) {
    let mut calls = FuturesUnordered::new();
    loop {
        let mut closed = false;
        while calls.len() < in_flight {
            match next() {
                Next::Batch(batch) => {
                    let mut call = Box::pin(call(batch));
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
