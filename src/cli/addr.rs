//! Addresses and members as the command line takes them.
//!
//! [`Addr`] is an address that reaches one host; peers and clients are given it. [`Bind`] may also
//! be the unspecified address, which is valid only for listening. [`http`] takes the URLs that
//! `yakt up` prints. Text that cannot be right is refused here, before anything starts.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use yakt::raft::NodeId;

/// A `HOST:PORT` that reaches one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addr {
    pub(super) host: String,
    pub(super) port: u16,
}

impl FromStr for Addr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let addr = split(text)?;
        if addr.ip().is_some_and(|ip| ip.is_unspecified()) {
            return Err(format!(
                "{} is every address of this machine, and reaches it from no other machine: give \
                 the address or name that the other nodes reach it at",
                addr.host
            ));
        }
        Ok(addr)
    }
}

impl std::fmt::Display for Addr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Addr {
    /// The IP address, if the host is one; `None` for a name.
    fn ip(&self) -> Option<IpAddr> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        // A link-local address may name its interface.
        let host = host.split_once('%').map_or(host, |(ip, _)| ip);
        host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
    }
}

/// A `HOST:PORT` to listen on: an [`Addr`], or the unspecified address with a port.
#[derive(Clone, Debug)]
pub(super) struct Bind(Addr);

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        split(text).map(Self)
    }
}

impl std::fmt::Display for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Bind {
    /// The address to give to others. A socket on every address of the machine is reached at
    /// `host`.
    pub(super) fn advertised(&self, host: &str) -> Addr {
        match self.0.ip() {
            Some(ip) if ip.is_unspecified() => Addr { host: host.to_owned(), port: self.0.port },
            _ => self.0.clone(),
        }
    }
}

/// Parses `HOST:PORT`, and refuses hosts that neither a listener nor a caller can use.
fn split(text: &str) -> Result<Addr, String> {
    if text.contains("://") {
        return Err(format!("expected HOST:PORT, such as 10.0.0.1:5010, but {text} is a URL"));
    }
    if let Some(odd) = text.chars().find(|c| "@/?#,;\\".contains(*c) || c.is_whitespace()) {
        return Err(format!("expected HOST:PORT, but {text:?} contains {odd:?}"));
    }
    let missing = || format!("expected HOST:PORT, but {text:?} has no port");
    let (host, port) = text.rsplit_once(':').ok_or_else(missing)?;
    if host.is_empty() {
        return Err(format!("expected HOST:PORT, but {text:?} has no host"));
    }
    if text.ends_with(']') {
        return Err(missing());
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let six = |host: &str| host.split('%').next().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    match bracketed {
        Some(inside) if !six(inside) => {
            return Err(format!("expected an IPv6 address in brackets, but got {host}"));
        }
        None if host.contains([':', '[', ']']) => {
            return Err(format!(
                "expected HOST:PORT: write an IPv6 address in brackets, such as [::1]:5010, not {text}"
            ));
        }
        _ => {}
    }
    let port = port.parse().ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("the port of {text:?} must be 1 to 65535"))?;
    let addr = Addr { host: host.to_owned(), port };
    // The resolver takes "0" for 0.0.0.0 and "127.1" for 127.0.0.1. No name consists of digits.
    if addr.ip().is_none() && host.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(format!("{host} is neither an IPv4 address nor a name"));
    }
    match addr.ip() {
        Some(ip) if ip.is_multicast() => {
            Err(format!("{host} is a multicast address: give the address of one host"))
        }
        Some(IpAddr::V4(ip)) if ip.is_broadcast() => {
            Err(format!("{host} is the broadcast address: give the address of one host"))
        }
        _ => Ok(addr),
    }
}

/// An `ID/HOST:PORT`. The address finds the member. The id is for the reader, and tells a node its
/// own entry.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: Option<NodeId>,
    pub(super) addr: Addr,
}

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected ID/HOST:PORT, such as 2/10.0.0.2:5010";
        let named = |error: String| format!("{expected}: {error}");
        if text.contains("://") {
            return Err(format!("{expected}: {text} is a URL"));
        }
        let (id, addr) = match text.split_once('/') {
            Some((id, addr)) => {
                let id = id.parse::<NodeId>().ok().filter(|id| *id > 0);
                let id = id.ok_or_else(|| format!("{expected}: the id must be 1 or more"))?;
                (Some(id), addr)
            }
            None => (None, text),
        };
        Ok(Self { id, addr: addr.parse().map_err(named)? })
    }
}

/// Parses the HTTP address of a node to ask: `HOST:PORT`, or `http://HOST:PORT/` as `yakt up`
/// prints it.
pub(super) fn http(text: &str) -> Result<String, String> {
    if text.starts_with("https://") {
        return Err(format!(
            "nodes do not speak TLS: give HOST:PORT or http://HOST:PORT, not {text}"
        ));
    }
    let addr = text.strip_prefix("http://").unwrap_or(text);
    let addr = addr.strip_suffix('/').unwrap_or(addr);
    if addr.is_empty() || addr.contains('/') {
        return Err(format!("expected HOST:PORT or http://HOST:PORT, but got {text:?}"));
    }
    Ok(addr.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_no_peer_can_reach_is_refused() {
        let cases = [
            ("0.0.0.0:5010", "from no other machine"),
            ("[::]:5010", "from no other machine"),
            ("[::ffff:0.0.0.0]:5010", "from no other machine"),
            ("0:5010", "neither an IPv4 address"),
            ("127.1:5010", "neither an IPv4 address"),
            ("224.0.0.1:5010", "multicast"),
            ("[ff02::1]:5010", "multicast"),
            ("255.255.255.255:5010", "broadcast"),
            ("http://10.0.0.1:5010", "is a URL"),
            ("1@10.0.0.1:5010", "contains '@'"),
            ("10.0.0.1", "no port"),
            ("[::1]", "no port"),
            ("::1:5010", "in brackets"),
            ("[node]:5010", "in brackets"),
            ("10.0.0.1:0", "1 to 65535"),
        ];
        for (text, why) in cases {
            let error = text.parse::<Addr>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        for text in ["10.0.0.1:5010", "[::1]:5010", "[fe80::1%2]:5010", "node-1.example:5010"] {
            assert_eq!(text.parse::<Addr>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn a_socket_on_every_address_is_advertised_at_the_nodes_host() {
        for (bind, advertised) in [
            ("0.0.0.0:80", "node-1:80"),
            ("[::]:80", "node-1:80"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("name:80", "name:80"),
        ] {
            let bind: Bind = bind.parse().expect(bind);
            assert_eq!(bind.advertised("node-1").to_string(), advertised);
        }
    }

    #[test]
    fn a_url_is_as_good_as_the_address_of_a_node_to_ask() {
        for text in ["127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:1/", "127.0.0.1:1/"] {
            assert_eq!(http(text).as_deref(), Ok("127.0.0.1:1"));
        }
        for text in ["https://127.0.0.1:1", "http://127.0.0.1:1/cluster", "http://", ""] {
            http(text).expect_err(text);
        }
    }
}
