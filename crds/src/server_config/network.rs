//! Which addresses the server may connect to: no link-local and no metadata service. Pure; the server asks again with
//! the addresses that a name resolves to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// The most characters that a URL may have.
const MAXIMUM_URL_CHARACTERS: usize = 2_048;

/// Names under which clouds offer their metadata services.
const METADATA_HOSTS: [&str; 7] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
    "instance-data",
    "instance-data.ec2.internal",
];

/// Metadata services outside the link-local ranges: Alibaba, Oracle, Azure, and Google over IPv6.
const METADATA_ADDRESSES: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)),
];

/// Where Amazon offers its services over IPv6, metadata and pods' credentials among them: `fd00:ec2::/32`.
const AMAZON_SERVICES: [u16; 2] = [0xfd00, 0x0ec2];

/// What is allowed as the URL of a vector store.
pub(super) const ALLOWED_URL: &str =
    "`http://` or `https://`, a host and a port, without user, path, query or fragment, such as http://qdrant:6334";

/// What is allowed as the URL of a model hub.
pub(super) const ALLOWED_HUB_URL: &str =
    "`http://` or `https://` and a host, without user, query or fragment, such as https://huggingface.co";

/// What is allowed as the URL of an OTLP collector.
pub(super) const ALLOWED_COLLECTOR_URL: &str = "`http://` or `https://`, host and gRPC port of an OTLP collector, without \
     user, path, query or fragment, such as http://collector:4317";

/// Why a URL or an address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedAddress {
    /// Not of the allowed form.
    #[error("{problem}")]
    Form {
        /// What is wrong.
        problem: String,
    },
    /// A link-local address.
    #[error("{address} is a link-local address, where clouds offer their metadata services")]
    LinkLocal {
        /// The address.
        address: IpAddr,
    },
    /// An address of this machine where none is allowed.
    #[error("{host} is this machine itself, and vectorStore.qdrant.allowLoopback is false")]
    Loopback {
        /// Name or address.
        host: String,
    },
    /// A metadata service.
    #[error("{host} is the metadata service of a cloud")]
    Metadata {
        /// Name or address.
        host: String,
    },
}

/// Refuses link-local addresses (`169.254.0.0/16`, `fe80::/10`, also those of IPv4 inside IPv6: mapped, translated, 6to4), known metadata services and, unless
/// `allow_loopback`, this machine's own (`127.0.0.0/8`, `::1`, and the unspecified address, which means the same). Ask it
/// for every address that a name resolves to.
pub fn check_address(address: IpAddr, allow_loopback: bool) -> Result<(), RefusedAddress> {
    let address = address.to_canonical();
    let embedded = match address {
        IpAddr::V6(address) => embedded_in(address),
        IpAddr::V4(_) => None,
    };
    let is_link_local = match (address, embedded) {
        (IpAddr::V4(address), _) | (_, Some(address)) => address.is_link_local(),
        (IpAddr::V6(address), None) => address.is_unicast_link_local(),
    };
    if is_link_local {
        Err(RefusedAddress::LinkLocal { address })
    } else if is_metadata(address) || embedded.is_some_and(|address| is_metadata(address.into())) {
        Err(RefusedAddress::Metadata { host: address.to_string() })
    } else if !allow_loopback && is_this_machine(address, embedded) {
        Err(RefusedAddress::Loopback { host: address.to_string() })
    } else {
        Ok(())
    }
}

fn is_metadata(address: IpAddr) -> bool {
    let is_amazons = matches!(address, IpAddr::V6(address) if address.segments()[..2] == AMAZON_SERVICES);
    is_amazons || METADATA_ADDRESSES.contains(&address)
}

/// The IPv4 address that an IPv6 one stands for: mapped (`::ffff:0:0/96`), compatible (`::/96`), translated (`64:ff9b::/96`,
/// `::ffff:0:0:0/96`) or of 6to4 (`2002::/16`).
fn embedded_in(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let words = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match words {
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x2002, high, low, _, _, _, _, _] => Some(of(high, low)),
        _ => address.to_ipv4(),
    }
}

fn is_this_machine(address: IpAddr, embedded: Option<Ipv4Addr>) -> bool {
    let is_own = |address: IpAddr| address.is_loopback() || address.is_unspecified();
    is_own(address) || embedded.is_some_and(|address| is_own(address.into()))
}

/// Checks the URL of a vector store: form, and that its host is not refused by name or address.
pub fn check_store_url(text: &str, allow_loopback: bool) -> Result<(), RefusedAddress> {
    check_url(text, allow_loopback, "name a file with the key in apiKeyFile instead", Path::None)
}

/// Checks the URL of a model hub, as [`check_store_url`]; a mirror may have a path.
pub fn check_hub_url(text: &str) -> Result<(), RefusedAddress> {
    check_url(text, true, "name a file with the token in tokenFile instead", Path::Any)
}

/// As [`check_hub_url`], for a proxy.
pub fn check_proxy_url(text: &str) -> Result<(), RefusedAddress> {
    check_url(text, true, "a proxy that asks for a password is not supported", Path::None)
}

/// As [`check_store_url`], for a collector of traces, which may stand on the same machine: a sidecar does.
pub fn check_collector_url(text: &str) -> Result<(), RefusedAddress> {
    check_url(text, true, "leave it out", Path::None)
}

/// Whether a URL names this machine.
pub(super) fn is_loopback_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(check_host(&url, false), Err(RefusedAddress::Loopback { .. })))
}

/// Refuses where a model hub may not redirect to: the addresses and names that its own URL may not have.
pub fn check_hub_host(url: &Url) -> Result<(), RefusedAddress> {
    check_host(url, true)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    None,
    Any,
}

fn check_url(text: &str, allow_loopback: bool, secrets: &'static str, path: Path) -> Result<(), RefusedAddress> {
    let form = |problem: &str| Err(RefusedAddress::Form { problem: problem.to_owned() });
    if text.is_empty() {
        return form("is empty");
    }
    if text.chars().count() > MAXIMUM_URL_CHARACTERS {
        return form("is too long");
    }
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return form("does not begin with `http://` or `https://`");
    };
    // The URL standard forgives these; other parsers on the way do not, or read them differently.
    if text.chars().any(|character| character.is_whitespace() || character.is_control() || character == '\\') {
        return form("contains white space, a control character or a backslash");
    }
    if rest.is_empty() || rest.starts_with(['/', ':', '?', '#']) {
        return form("has no host");
    }
    let Ok(url) = Url::parse(text) else {
        return form("is no URL");
    };
    if rest.contains('@') || !url.username().is_empty() || url.password().is_some() {
        return form(&format!("contains a user or a password; {secrets}"));
    }
    if path == Path::None && url.path() != "/" {
        return form("has a path");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return form("has a query or a fragment");
    }
    if url.port() == Some(0) {
        return form("has port 0");
    }
    check_host(&url, allow_loopback)
}

fn check_host(url: &Url, allow_loopback: bool) -> Result<(), RefusedAddress> {
    match url.host() {
        None => Err(RefusedAddress::Form { problem: "has no host".to_owned() }),
        Some(Host::Ipv4(address)) => check_address(address.into(), allow_loopback),
        Some(Host::Ipv6(address)) => check_address(address.into(), allow_loopback),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            if METADATA_HOSTS.contains(&name.as_str()) {
                Err(RefusedAddress::Metadata { host: name })
            } else if !allow_loopback && (name == "localhost" || name.ends_with(".localhost")) {
                Err(RefusedAddress::Loopback { host: name })
            } else {
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_a_port_are_allowed() {
        for url in [
            "http://qdrant:6334",
            "https://qdrant.example.org",
            "http://127.0.0.1:6334",
            "http://[::1]:6334/",
            "http://10.0.0.7:6334",
            "http://qdrant.search.svc.cluster.local:6334",
        ] {
            assert_eq!(check_store_url(url, true), Ok(()), "{url}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for (url, problem) in [
            ("", "is empty"),
            ("qdrant:6334", "does not begin"),
            ("grpc://qdrant:6334", "does not begin"),
            ("http:qdrant", "does not begin"),
            ("http://", "has no host"),
            ("http:///qdrant", "has no host"),
            ("http://:6334", "has no host"),
            ("http://user:secret@qdrant:6334", "user or a password"),
            ("http://@qdrant", "user or a password"),
            ("http://qdrant:6334/collections", "has a path"),
            ("http://qdrant:6334?x=1", "has a query"),
            ("http://qdrant:6334/#x", "has a query or a fragment"),
            ("http://qdrant:0", "has port 0"),
            ("http://qdrant:99999", "is no URL"),
            ("http://qdr ant", "white space"),
            ("http://qdrant\n", "white space"),
            ("http://qdrant\\x", "backslash"),
            ("http://[::1", "is no URL"),
        ] {
            let error = check_store_url(url, true).unwrap_err().to_string();
            assert!(error.contains(problem), "{url}: {error}");
        }
        assert!(check_store_url(&format!("http://{}", "a".repeat(3_000)), true).is_err());
    }

    #[test]
    fn a_collector_is_held_to_the_same_rules_and_may_stand_on_this_machine() {
        for url in ["http://127.0.0.1:4317", "http://localhost:4317", "https://collector.example.org:4317"] {
            assert_eq!(check_collector_url(url), Ok(()), "{url}");
        }
        for url in ["collector:4317", "http://collector:4318/v1/traces", "http://user:key@collector:4317", ""] {
            assert!(matches!(check_collector_url(url), Err(RefusedAddress::Form { .. })), "{url}");
        }
        assert!(matches!(check_collector_url("http://169.254.169.254:4317"), Err(RefusedAddress::LinkLocal { .. })));
        assert!(matches!(check_collector_url("http://metadata.google.internal"), Err(RefusedAddress::Metadata { .. })));
    }

    #[test]
    fn link_local_and_metadata_hosts_are_refused_in_every_spelling() {
        for url in [
            "http://169.254.169.254",
            "http://169.254.0.1:6334",
            "http://2852039166",
            "http://0xA9FEA9FE:6334",
            "http://0251.0376.0251.0376",
            "http://[fe80::1]:6334",
            "http://[febf::1]",
            "http://[::ffff:169.254.169.254]",
            "http://[::169.254.169.254]",
            "http://[fd00:ec2::254]",
            "http://100.100.100.200",
            "http://[::100.100.100.200]",
            "http://168.63.129.16",
            "http://[fd00:ec2::23]",
            "http://[fd20:ce::254]",
            "http://[64:ff9b::a9fe:a9fe]",
            "http://[64:ff9b::6464:64c8]",
            "http://[2002:a9fe:a9fe::1]",
            "http://[::ffff:0:a9fe:a9fe]",
            "http://metadata.google.internal",
            "http://Metadata.Google.Internal.:80",
            "http://instance-data",
        ] {
            assert!(
                matches!(
                    check_store_url(url, true),
                    Err(RefusedAddress::LinkLocal { .. } | RefusedAddress::Metadata { .. })
                ),
                "{url}"
            );
        }
    }

    #[test]
    fn other_addresses_may_be_connected_to() {
        for address in ["127.0.0.1", "10.1.2.3", "192.168.0.1", "8.8.8.8", "::1", "fec0::1", "fd00::1", "169.253.0.1"] {
            assert_eq!(check_address(address.parse().unwrap(), true), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_hub_may_have_a_path_and_is_refused_where_a_store_is() {
        assert_eq!(check_hub_url("https://mirror.example.org/api/huggingface/"), Ok(()));
        assert_eq!(check_hub_url("http://127.0.0.1:8080"), Ok(()));
        for url in [
            "huggingface.co",
            "https://user:secret@hub",
            "https://hub?x=1",
            "http://169.254.169.254",
            "http://metadata.google.internal",
        ] {
            assert!(check_hub_url(url).is_err(), "{url}");
        }
        assert!(check_hub_url("https://u:p@hub").unwrap_err().to_string().contains("tokenFile"));
    }

    #[test]
    fn this_machine_is_refused_where_it_is_not_allowed() {
        for url in [
            "http://127.0.0.1:6334",
            "http://127.1",
            "http://0x7f000001",
            "http://0.0.0.0:6334",
            "http://[::1]:6334",
            "http://[::]",
            "http://[::ffff:127.0.0.1]",
            "http://localhost:6334",
            "http://LocalHost.",
            "http://qdrant.localhost",
        ] {
            assert!(matches!(check_store_url(url, false), Err(RefusedAddress::Loopback { .. })), "{url}");
            assert_eq!(check_store_url(url, true), Ok(()), "{url}");
        }
        assert_eq!(check_store_url("http://10.0.0.7:6334", false), Ok(()));
    }
}
