//! No write without the lease: a layer of the client that looks at the clock before each. I/O: passes requests on.
//!
//! A process that was paused, or whose API server went away, may wake up in the middle of a reconcile when another one leads. The
//! lease says by one's own clock until when nobody else can have taken it; a write after that is not sent.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use http::{Method, Request};
use kube::client::Body;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

/// Until when the lease is certainly ours. Shared by whoever renews it and whoever writes.
#[derive(Clone, Debug, Default)]
pub struct Held {
    until: Arc<Mutex<Option<Instant>>>,
}

/// A write that was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this operator does not hold the lease, so it writes nothing")]
pub struct NotLeading;

impl Held {
    /// Ours until then.
    pub fn set(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Ours no longer.
    pub fn clear(&self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn holds(&self, now: Instant) -> bool {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| now < until)
    }
}

impl<S> Layer<S> for Held {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { inner, held: self.clone() }
    }
}

/// A client's service that sends writes only while the lease is held.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    held: Held,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<Ready<Result<S::Response, BoxError>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if *request.method() == Method::GET || self.held.holds(Instant::now()) {
            Either::Right(self.inner.call(request))
        } else {
            Either::Left(ready(Err(NotLeading.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    fn sent(held: &Held, method: Method) -> Result<(), String> {
        let inner = tower::service_fn(|_request: Request<Body>| async { Ok::<_, BoxError>(()) });
        let request = Request::builder().method(method).body(Body::empty()).unwrap();
        let answer = held.layer(inner).call(request);
        answer.now_or_never().unwrap().map_err(|error| error.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_lease_everything_is_read_and_nothing_is_written() {
        let held = Held::default();
        assert_eq!(sent(&held, Method::GET), Ok(()));
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert_eq!(sent(&held, method), Err(NotLeading.to_string()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_not_renewed_in_time_counts_no_more_however_long_the_process_slept() {
        let held = Held::default();
        held.set(Instant::now() + Duration::from_secs(10));
        assert_eq!(sent(&held, Method::PATCH), Ok(()));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(sent(&held, Method::PATCH), Err(NotLeading.to_string()));
        held.set(Instant::now() + Duration::from_secs(10));
        assert_eq!(sent(&held, Method::PATCH), Ok(()));
        held.clear();
        assert_eq!(sent(&held, Method::PATCH), Err(NotLeading.to_string()));
    }
}
