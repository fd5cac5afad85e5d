//! Who asks: the unit between which the queue is fair, and what it may search. Pure.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::SearchError;

/// The unit of fairness: a client's requests share one part of the queue and take turns with those of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Client {
    /// The command line, or a test: nobody else is there.
    #[default]
    Local,
    /// Whoever holds this API key, by its name.
    Key(Arc<str>),
    /// Whoever speaks from this address, where no keys are configured. Behind a proxy all are one.
    Address(IpAddr),
}

impl Client {
    /// A client without a key. Of an IPv6 address the network counts (/64): one machine has all of its addresses.
    pub fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from(network))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// A client with its rights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub client: Client,
    /// The collections that it may search and index; None: all.
    pub collections: Option<Arc<[String]>>,
}

impl Caller {
    /// A client that may search every collection.
    pub fn unrestricted(client: Client) -> Self {
        Self { client, collections: None }
    }

    /// The collection that a request means: the one it names, else the first of `served` that the caller may search.
    ///
    /// # Errors
    /// [`SearchError::ForbiddenCollection`] for every name but the caller's own, so also for one that does not exist: a
    /// restricted client does not learn what there is.
    pub(crate) fn collection<'a>(
        &self,
        wanted: Option<&str>,
        served: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<&'a str, SearchError> {
        let may_search = |name: &str| self.collections.as_ref().is_none_or(|own| own.iter().any(|own| own == name));
        let mut own = served.clone().filter(|name| may_search(name));
        let found = match wanted {
            None => own.next(),
            Some(wanted) => own.find(|name| *name == wanted),
        };
        found.ok_or_else(|| match (&self.collections, wanted) {
            (Some(own), _) => SearchError::ForbiddenCollection { own: own.to_vec() },
            (None, None) => SearchError::NotConfigured,
            (None, Some(wanted)) => SearchError::UnknownCollection {
                collection: wanted.to_owned(),
                served: served.map(str::to_owned).collect(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVED: [&str; 3] = ["docs", "faq", "secret"];

    fn restricted(own: &[&str]) -> Caller {
        let own = own.iter().map(|name| (*name).to_owned()).collect();
        Caller { client: Client::Key("shop".into()), collections: Some(own) }
    }

    fn collection(caller: &Caller, wanted: Option<&str>) -> Result<&'static str, SearchError> {
        caller.collection(wanted, SERVED.into_iter())
    }

    #[test]
    fn an_unrestricted_client_searches_every_collection_and_is_told_what_there_is() {
        let caller = Caller::default();
        assert_eq!(collection(&caller, None).unwrap(), "docs");
        assert_eq!(collection(&caller, Some("secret")).unwrap(), "secret");
        let error = collection(&caller, Some("other")).unwrap_err();
        assert!(matches!(error, SearchError::UnknownCollection { served, .. } if served == SERVED));
    }

    #[test]
    fn a_restricted_client_has_a_default_of_its_own_and_learns_of_no_other_collection() {
        let caller = restricted(&["faq"]);
        assert_eq!(collection(&caller, None).unwrap(), "faq");
        assert_eq!(collection(&caller, Some("faq")).unwrap(), "faq");
        for name in ["secret", "docs", "no-such-collection"] {
            let error = collection(&caller, Some(name)).unwrap_err();
            assert!(matches!(&error, SearchError::ForbiddenCollection { own } if *own == ["faq"]), "{name}: {error}");
            assert!(!error.to_string().contains(name), "{error}");
        }
        assert!(collection(&restricted(&[]), None).is_err(), "it may only rerank");
    }

    #[test]
    fn one_machine_is_one_client() {
        let client = |text: &str| Client::at(text.parse().unwrap());
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:2"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        assert_ne!(client("10.0.0.1"), client("10.0.0.2"));
    }
}
