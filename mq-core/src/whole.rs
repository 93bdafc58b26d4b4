//! Calls that go on to their end when who waits for them goes away.

use tracing::Instrument as _;

/// Runs `call` to its end from its first poll on: dropping this future loses only the answer.
pub(crate) async fn whole<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(call.in_current_span()).await {
        Ok(output) => output,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime ends, and with it whoever waits here.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_call_ends_without_its_caller() {
        let (go, wait) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        let mut call = Box::pin(whole(async move {
            let _ = wait.await;
            let _ = done.send(7);
        }));
        assert!(std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await);
        drop(call);
        go.send(()).unwrap();
        assert_eq!(ended.await, Ok(7));
        assert_eq!(whole(async { 1 }).await, 1);
    }

    #[tokio::test]
    #[should_panic(expected = "as it was")]
    async fn a_panic_is_the_callers() {
        whole(async { panic!("as it was") }).await;
    }
}
