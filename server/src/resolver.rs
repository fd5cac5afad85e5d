//! Names of a Qdrant server, a collector of traces or a hub become addresses here, and each address is asked again whether the server
//! may connect to it: a name can be made to lead anywhere, also after it was checked.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use rerank_crds::server_config::network::check_address;
use tower::Service;

/// Looks names up and refuses the addresses that a configuration may not name either.
#[derive(Clone, Debug)]
pub(crate) struct CheckedResolver<Lookup> {
    lookup: Lookup,
    allow_loopback: bool,
}

/// How names are looked up.
pub(crate) trait Resolve: Clone + Send + 'static {
    /// Every address of a name.
    fn resolve(&self, name: String) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
}

/// By the system: its hosts file, its DNS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct System;

impl Resolve for System {
    async fn resolve(&self, name: String) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.collect())
    }
}

/// Makes connections to allowed addresses only. Addresses that stand in the URL itself were checked with it.
pub(crate) fn connector(allow_loopback: bool) -> HttpConnector<CheckedResolver<System>> {
    let mut connector = HttpConnector::new_with_resolver(CheckedResolver { lookup: System, allow_loopback });
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector
}

/// Refuses a name for one refused address: what an honest name resolves to is not mixed.
pub(crate) fn check_all(name: &str, addresses: &[SocketAddr], allow_loopback: bool) -> io::Result<()> {
    for address in addresses {
        check_address(address.ip(), allow_loopback).map_err(|error| {
            let message = format!("{name} may not be connected to: {error}");
            io::Error::new(io::ErrorKind::PermissionDenied, message)
        })?;
    }
    Ok(())
}

impl<Lookup: Resolve> Service<Name> for CheckedResolver<Lookup> {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { lookup, allow_loopback } = self.clone();
        Box::pin(async move {
            let addresses = lookup.resolve(name.as_str().to_owned()).await?;
            check_all(name.as_str(), &addresses, allow_loopback)?;
            Ok(addresses.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Answers a name with one list of addresses after the other.
    #[derive(Clone)]
    struct Scripted(Arc<Mutex<Vec<Vec<&'static str>>>>);

    impl Resolve for Scripted {
        async fn resolve(&self, _: String) -> io::Result<Vec<SocketAddr>> {
            let addresses = self.0.lock().unwrap().remove(0);
            Ok(addresses.into_iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect())
        }
    }

    async fn resolved(script: &[&[&'static str]], allow_loopback: bool) -> Vec<Result<usize, String>> {
        let lookup = Scripted(Arc::new(Mutex::new(script.iter().map(|answer| answer.to_vec()).collect())));
        let mut resolver = CheckedResolver { lookup, allow_loopback };
        let mut outcomes = Vec::new();
        for _ in script {
            let outcome = resolver.call("qdrant.example.org".parse().unwrap()).await;
            outcomes.push(outcome.map(Iterator::count).map_err(|error| error.to_string()));
        }
        outcomes
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_refused_address_is_not_connected_to() {
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "168.63.129.16",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            let outcome = resolved(&[&[address], &["10.0.0.7", address]], true).await;
            for outcome in outcome {
                let error = outcome.unwrap_err();
                assert!(error.contains("qdrant.example.org may not be connected to"), "{address}: {error}");
            }
        }
        for address in ["127.0.0.1", "::1", "0.0.0.0", "::ffff:127.0.0.1"] {
            assert!(resolved(&[&[address]], false).await[0].is_err(), "{address}");
            assert_eq!(resolved(&[&[address]], true).await, [Ok(1)], "{address}");
        }
        assert_eq!(resolved(&[&["10.0.0.7", "fd00::7"]], false).await, [Ok(2)]);
    }

    #[tokio::test]
    async fn a_name_that_is_turned_round_later_is_refused_then() {
        let outcomes = resolved(&[&["10.0.0.7"], &["169.254.169.254"]], true).await;
        assert!(outcomes[0].is_ok() && outcomes[1].is_err(), "{outcomes:?}");
    }

    #[tokio::test]
    async fn the_system_is_asked_for_real_names() {
        let mut resolver = CheckedResolver { lookup: System, allow_loopback: false };
        let error = resolver.call("localhost".parse().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("this machine itself"), "{error}");
        let mut resolver = CheckedResolver { lookup: System, allow_loopback: true };
        assert!(resolver.call("localhost".parse().unwrap()).await.unwrap().all(|address| address.ip().is_loopback()));
    }
}
