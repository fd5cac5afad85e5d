//! A store that is not asked while it is down: its callers hear so at once instead of waiting for its deadline each, and a
//! store that answers again is used again within [`PAUSE`] and the time of one ping.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Candidate, CollectionInfo, CollectionSpec, Document, DocumentId, Store, StoreError, VectorQuery};
use crate::breaker::{Admission, Breaker, FAILURES};

/// For how long a store that is down is not asked.
pub const PAUSE: Duration = Duration::from_secs(2);

/// Who tries for all asks the store first whether it is there, and waits no longer for that.
const PING_PATIENCE: Duration = Duration::from_secs(1);

/// A store with a breaker.
#[derive(Debug)]
pub struct GuardedStore {
    inner: Arc<dyn Store>,
    breaker: Mutex<Breaker>,
    timeout: Duration,
}

impl GuardedStore {
    /// `timeout`: the deadline of one call (`timeouts.vectorSearchSeconds`).
    pub fn new(inner: Arc<dyn Store>, timeout: Duration) -> Arc<Self> {
        Arc::new(Self { inner, breaker: Mutex::new(Breaker::new(PAUSE)), timeout })
    }

    async fn ask<T>(&self, call: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        let admission = self.lock().admit(Instant::now());
        match admission {
            Admission::Ask => {}
            Admission::Wait(left) => return Err(StoreError::Resting { left }),
            Admission::Try => {
                let ping = tokio::time::timeout(PING_PATIENCE.min(self.timeout), self.inner.ping());
                match ping.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) if !is_down(&error) => {}
                    Ok(Err(_)) | Err(_) => {
                        self.failed();
                        return Err(StoreError::Resting { left: PAUSE });
                    }
                }
            }
        }
        let given_up = GivenUp { store: self, began: Instant::now(), answered: false };
        let outcome = call.await;
        given_up.answered();
        match &outcome {
            Err(error) if is_down(error) => self.failed(),
            Ok(_) | Err(_) => self.succeeded(),
        }
        outcome
    }

    fn failed(&self) {
        if self.lock().failed(Instant::now()) {
            tracing::warn!(
                failures = FAILURES,
                pause_seconds = PAUSE.as_secs(),
                "The vector store failed too often in a row and is not asked for a while"
            );
        }
    }

    fn succeeded(&self) {
        if self.lock().succeeded() {
            tracing::info!("The vector store answers again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What says that the store is not there. Whatever it answers itself, a refusal too, says that it is.
fn is_down(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { .. } | StoreError::Timeout)
}

/// A call whose caller may give it up: at its deadline, which is a failure of the store, or because its client left.
struct GivenUp<'a> {
    store: &'a GuardedStore,
    began: Instant,
    answered: bool,
}

impl GivenUp<'_> {
    fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        // Nearly all of the time was spent: the deadline gave it up, which begins a little before the call does.
        if !self.answered && self.began.elapsed() >= self.store.timeout / 10 * 9 {
            self.store.failed();
        }
    }
}

#[async_trait]
impl Store for GuardedStore {
    async fn search(&self, query: VectorQuery) -> Result<Vec<Candidate>, StoreError> {
        self.ask(self.inner.search(query)).await
    }

    async fn describe(&self, collection: &str) -> Result<CollectionInfo, StoreError> {
        self.ask(self.inner.describe(collection)).await
    }

    async fn check(&self, collection: &str, spec: &CollectionSpec) -> Result<CollectionInfo, StoreError> {
        self.ask(self.inner.check(collection, spec)).await
    }

    async fn ensure_collection(&self, collection: &str, spec: &CollectionSpec) -> Result<(), StoreError> {
        self.ask(self.inner.ensure_collection(collection, spec)).await
    }

    async fn upsert(&self, collection: &str, documents: Vec<Document>) -> Result<(), StoreError> {
        self.ask(self.inner.upsert(collection, documents)).await
    }

    async fn existing(&self, collection: &str, ids: &[DocumentId]) -> Result<Vec<bool>, StoreError> {
        self.ask(self.inner.existing(collection, ids)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::{FakeStore, candidate};

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn store() -> (Arc<FakeStore>, Arc<GuardedStore>) {
        let fake = FakeStore::new();
        fake.set_candidates("docs", vec![candidate(1, "a")]);
        let guarded = GuardedStore::new(Arc::clone(&fake) as Arc<dyn Store>, TIMEOUT);
        (fake, guarded)
    }

    async fn search(store: &GuardedStore) -> Result<Vec<Candidate>, StoreError> {
        let query = VectorQuery { collection: "docs".to_owned(), vector: vec![1.0], limit: 1, filter: None };
        store.search(query).await
    }

    fn down() -> StoreError {
        StoreError::Unavailable { message: "refused".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_down_is_left_alone_and_used_again_within_five_seconds_of_its_return() {
        let (fake, guarded) = store();
        for _ in 0..FAILURES {
            fake.fail(down());
            assert!(matches!(search(&guarded).await, Err(StoreError::Unavailable { .. })));
        }
        let asked = fake.searches();
        for _ in 0..100 {
            assert!(matches!(search(&guarded).await, Err(StoreError::Resting { .. })));
        }
        assert_eq!(fake.searches(), asked, "it is not asked");

        tokio::time::sleep(PAUSE).await;
        fake.fail(down());
        assert!(matches!(search(&guarded).await, Err(StoreError::Resting { .. })), "the ping failed");
        assert_eq!(fake.searches(), asked, "one ping and no search");

        let returned = Instant::now();
        while search(&guarded).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(returned.elapsed() < Duration::from_secs(5), "{:?}", returned.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_counts_also_where_the_caller_gives_up_first_and_a_client_that_leaves_does_not() {
        let (fake, guarded) = store();
        fake.set_delay(Duration::from_secs(3_600));
        for _ in 0..FAILURES * 2 {
            assert!(tokio::time::timeout(Duration::from_secs(1), search(&guarded)).await.is_err());
        }
        assert!(tokio::time::timeout(Duration::from_secs(1), search(&guarded)).await.is_err(), "still asked");
        for _ in 0..FAILURES {
            assert!(tokio::time::timeout(TIMEOUT, search(&guarded)).await.is_err());
        }
        assert!(matches!(search(&guarded).await, Err(StoreError::Resting { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_store_itself_refuses_says_that_it_is_there() {
        let (fake, guarded) = store();
        for _ in 0..FAILURES * 2 {
            fake.fail(StoreError::InvalidFilter { message: "no".to_owned() });
            assert!(matches!(search(&guarded).await, Err(StoreError::InvalidFilter { .. })));
        }
        assert!(search(&guarded).await.is_ok());
    }
}
