//! A client of the API server that dies at a chosen write, as the process around it would. I/O: passes requests on.
//!
//! A process can end before a write leaves it, or after the API server took it and before the answer came. From then on it
//! neither reads nor writes. Several such clients share the connections of one transport.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use tower::{BoxError, Layer, Service, service_fn};

/// On which side of a write the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It is not sent.
    Before,
    /// It is sent, and the answer is lost.
    After,
}

/// What became of a client. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The write, counted from 1, and its side.
    at: Option<(usize, Moment)>,
    writes: Vec<String>,
    is_dead: bool,
    answer: Option<StatusCode>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passed,
    Lost,
    Unanswered,
}

impl Cut {
    /// Counts, and lets everything pass.
    pub fn never() -> Self {
        Self::default()
    }

    /// Dies at this write; the first one is 1.
    pub fn at(write: usize, moment: Moment) -> Self {
        let cut = Self::default();
        cut.state().at = Some((write, moment));
        cut
    }

    /// A client that is cut here and has the transport of another.
    pub fn client(&self, transport: &Client) -> Client {
        let namespace = transport.default_namespace().to_owned();
        let transport = transport.clone();
        let send = service_fn(move |request: Request<Body>| {
            let transport = transport.clone();
            async move { transport.send(request).await.map_err(BoxError::from) }
        });
        ClientBuilder::new(send, namespace).with_layer(self).build()
    }

    /// Every write so far, as method and path; one that was cut is the last.
    pub fn writes(&self) -> Vec<String> {
        self.state().writes.clone()
    }

    /// Whether the moment came.
    pub fn is_dead(&self) -> bool {
        self.state().is_dead
    }

    /// What the API server answered to the write whose answer was lost.
    pub fn answer(&self) -> Option<StatusCode> {
        self.state().answer
    }

    fn fate(&self, request: &Request<Body>) -> Fate {
        let mut state = self.state();
        if state.is_dead {
            return Fate::Lost;
        }
        if *request.method() == Method::GET {
            return Fate::Passed;
        }
        state.writes.push(format!("{} {}", request.method(), request.uri().path()));
        match state.at {
            Some((write, moment)) if write == state.writes.len() => {
                state.is_dead = true;
                if moment == Moment::Before { Fate::Lost } else { Fate::Unanswered }
            }
            _ => Fate::Passed,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for Cut {
    type Service = Mortal<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Mortal { inner, cut: self.clone() }
    }
}

/// A client's service that dies at a write.
#[derive(Clone, Debug)]
pub struct Mortal<S> {
    inner: S,
    cut: Cut,
}

impl<S, B> Service<Request<Body>> for Mortal<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.cut.fate(&request) {
            Fate::Passed => self.inner.call(request).boxed(),
            Fate::Lost => ready(Err("the process is gone".into())).boxed(),
            Fate::Unanswered => {
                let cut = self.cut.clone();
                let sent = self.inner.call(request);
                async move {
                    let answer = sent.await?.status();
                    cut.state().answer = Some(answer);
                    Err("the process is gone".into())
                }
                .boxed()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What requests become, and how many of them reached the other end.
    fn sent(cut: &Cut, methods: &[Method]) -> (Vec<bool>, usize) {
        let arrived = Arc::new(Mutex::new(0));
        let count = Arc::clone(&arrived);
        let inner = service_fn(move |_request: Request<Body>| {
            *count.lock().unwrap() += 1;
            ready(Ok::<_, BoxError>(Response::new(())))
        });
        let mut service = cut.layer(inner);
        let outcomes = methods.iter().map(|method| {
            let request = Request::builder().method(method).body(Body::empty()).unwrap();
            service.call(request).now_or_never().unwrap().is_ok()
        });
        let outcomes = outcomes.collect();
        let arrived = *arrived.lock().unwrap();
        (outcomes, arrived)
    }

    #[test]
    fn a_client_dies_on_the_chosen_side_of_the_chosen_write_and_stays_dead() {
        let methods = [Method::GET, Method::PATCH, Method::GET, Method::DELETE, Method::GET, Method::POST];
        for (moment, arrived) in [(Moment::Before, 3), (Moment::After, 4)] {
            let cut = Cut::at(2, moment);
            assert_eq!(sent(&cut, &methods), (vec![true, true, true, false, false, false], arrived), "{moment:?}");
            assert!(cut.is_dead());
            assert_eq!(cut.writes(), ["PATCH /", "DELETE /"]);
            assert_eq!(cut.answer().is_some(), moment == Moment::After);
        }
        let never = Cut::never();
        assert_eq!(sent(&never, &methods).1, methods.len());
        assert_eq!((never.writes().len(), never.is_dead()), (3, false));
    }
}
