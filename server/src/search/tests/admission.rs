//! How much may wait, for whom, and what becomes of work that nobody waits for any more.

use super::*;

fn of_client(name: &str) -> RequestContext {
    let client = Client::Key(name.into());
    RequestContext { caller: Caller::unrestricted(client), ..RequestContext::local() }
}

fn documents_of(number: usize) -> RerankRequest {
    RerankRequest {
        query: "q".to_owned(),
        documents: vec!["relevance=1".to_owned(); number],
        ..RerankRequest::default()
    }
}

/// A service that scores ten pairs a second, one batch of ten after the other.
async fn slow_bench(change: impl FnOnce(&mut ServerConfig)) -> Bench {
    let bench = bench_with(change);
    bench.assert_serves().await;
    bench.controls.set_batch_pairs(10);
    bench.controls.set_score_time(Duration::from_secs(1));
    bench
}

#[tokio::test(start_paused = true)]
async fn a_client_that_floods_the_queue_neither_fills_it_nor_holds_up_another() {
    let bench = slow_bench(|config| config.api.limits.queue_pairs = 400).await;
    let flood = futures::future::join_all((0..40).map(|_| {
        let bench = &bench;
        async move { bench.searcher.rerank(documents_of(10), &of_client("flooder")).await }
    }));
    let other = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begun = Instant::now();
        bench.searcher.rerank(documents_of(10), &of_client("other")).await.unwrap();
        begun.elapsed()
    };
    let (flood, waited) = tokio::join!(flood, other);
    let refused = flood.iter().filter(|answer| matches!(answer, Err(SearchError::TooManyRequests { .. }))).count();
    assert_eq!(refused, 10, "alone a client has three quarters");
    assert!(waited <= Duration::from_secs(3), "the batch under way, one that tied, and its own: {waited:?}");
    let late = flood.iter().filter(|answer| matches!(answer, Err(SearchError::DeadlineExceeded))).count();
    assert_eq!(flood.iter().filter(|answer| answer.is_ok()).count() + refused + late, 40);
    assert!(late <= 13, "some of twenty seconds' work is answered in time: {late}");
}

#[tokio::test(start_paused = true)]
async fn texts_are_bounded_by_their_bytes_before_they_are_read() {
    let bench = slow_bench(|config| config.api.limits.queue_bytes = 1_048_576).await;
    let large = |bytes: usize| RerankRequest { documents: vec!["x".repeat(bytes); 10], ..documents_of(0) };
    let tokens_before = bench.controls.seen().tokens.iter().sum::<usize>();
    // The first is being tokenized when the second comes: its texts count in full.
    let first = async { bench.searcher.rerank(large(90_000), &of_client("a")).await };
    let second = async { bench.searcher.rerank(large(90_000), &of_client("b")).await };
    let (first, second) = tokio::join!(first, second);
    first.unwrap();
    assert!(matches!(second, Err(SearchError::Overloaded { .. })), "{second:?}");
    assert!(bench.controls.seen().tokens.iter().sum::<usize>() - tokens_before <= 10 * 8_192);
    bench.searcher.rerank(large(90_000), &of_client("b")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn once_tokens_are_known_they_count_instead_of_what_was_feared() {
    let bench = slow_bench(|config| config.api.limits.queue_pairs = 1_000).await;
    let gauge = |name: &str| {
        let text = bench.searcher.metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).map(str::to_owned);
        line.unwrap().parse::<u64>().unwrap()
    };
    let look = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        (gauge("rerank_queue_pairs"), gauge("rerank_queue_tokens"), gauge("rerank_queue_bytes"))
    };
    let before = bench.controls.seen().tokens.len();
    let (response, (pairs, tokens, bytes)) = tokio::join!(bench.rerank(documents_of(10)), look);
    response.unwrap();
    let scored = bench.controls.seen().tokens[before..].iter().sum::<usize>() as u64;
    assert_eq!((pairs, tokens, bytes), (10, scored, 4 * scored));
    assert_eq!((gauge("rerank_queue_pairs"), gauge("rerank_queue_tokens"), gauge("rerank_queue_bytes")), (0, 0, 0));
}

/// The figure of S3: at most one further micro-batch, at least 95 % of the pairs never reach the model.
#[tokio::test(start_paused = true)]
async fn of_the_pairs_of_a_client_that_leaves_at_most_one_further_batch_reaches_the_engine() {
    let bench = slow_bench(|_| {}).await;
    let before = bench.controls.seen().pairs.iter().sum::<usize>();
    // As the server sees it: the answer's future is dropped with the connection.
    let left = tokio::time::timeout(Duration::from_millis(1_500), bench.rerank(documents_of(1_000))).await;
    assert!(left.is_err());
    let at_leaving = bench.controls.seen().pairs.iter().sum::<usize>() - before;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = bench.controls.seen().pairs.iter().sum::<usize>() - before;
    assert_eq!(at_leaving, 20, "one batch done, one under way");
    assert_eq!(after, at_leaving, "98 % of its pairs never reached the engine");
    bench.controls.set_score_time(Duration::ZERO);
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_it_waits_costs_nothing() {
    let bench = slow_bench(|_| {}).await;
    let before = bench.controls.seen().scores;
    let stays = bench.rerank(documents_of(30));
    let leaves = tokio::time::timeout(Duration::from_millis(500), bench.rerank(documents_of(500)));
    let (stays, leaves) = tokio::join!(stays, leaves);
    stays.unwrap();
    assert!(leaves.is_err());
    assert_eq!(bench.controls.seen().scores - before, 3, "the three batches of the one that stayed");
}

#[tokio::test(start_paused = true)]
async fn queries_of_a_batch_are_not_refused_on_account_of_each_other() {
    let bench = slow_bench(|config| config.api.limits.queue_pairs = 200).await;
    let request =
        BatchSearchRequest { queries: (0..12).map(|at| format!("query {at}")).collect(), template: ask("", 10) };
    let answers = bench.searcher.search_batch(request, &of_client("a")).await.unwrap();
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restricted_client_searches_and_indexes_its_own_collections_only() {
    let bench = bench();
    bench.store.set_candidates("faq", documents(&[1.0]));
    let restricted = RequestContext {
        caller: Caller { client: Client::Key("shop".into()), collections: Some(vec!["faq".to_owned()].into()) },
        ..RequestContext::local()
    };
    let search = |collection: Option<&str>| {
        let request = SearchRequest { collection: collection.map(str::to_owned), ..ask("plain", 3) };
        bench.searcher.search(request, &restricted)
    };
    assert_eq!(ids(&search(None).await.unwrap()), [1], "its default is its own first");
    let asked_before = bench.store.searches();
    for name in ["docs", "no-such-collection"] {
        let error = search(Some(name)).await.unwrap_err();
        assert!(matches!(&error, SearchError::ForbiddenCollection { own } if *own == ["faq"]), "{error}");
    }
    assert_eq!(bench.store.searches(), asked_before, "the store is not even asked");
}
