//! Servers by host and port.

use std::fmt;

/// A server: a single Redis, a node of a cluster, or a sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// A name, or an IP address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Node {
    /// The node `host:port` in an answer of another one. Without a host, it is on the same host.
    pub(super) fn named(name: &str, by: &Self) -> Option<Self> {
        let (host, port) = name.rsplit_once(':')?;
        Self::at(host, port.parse().ok()?, by)
    }

    /// The node at a host and port in an answer of another one. Without a host, it is on the same host.
    pub(super) fn at(host: &str, port: u16, by: &Self) -> Option<Self> {
        let host = if host.is_empty() || host == "?" { &by.host } else { host };
        (port != 0).then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_a_node_by_its_address_or_by_its_port_alone() {
        let asked = Node { host: "redis.example.com".to_owned(), port: 6379 };
        for (name, node) in [
            ("10.0.0.1:7001", Some("10.0.0.1:7001")),
            ("node-2.example.com:7001", Some("node-2.example.com:7001")),
            ("fd00::1:7001", Some("[fd00::1]:7001")),
            (":7001", Some("redis.example.com:7001")),
            ("?:7001", Some("redis.example.com:7001")),
            ("10.0.0.1", None),
            ("10.0.0.1:0", None),
            ("10.0.0.1:70000", None),
        ] {
            assert_eq!(Node::named(name, &asked).map(|node| node.to_string()).as_deref(), node, "{name}");
        }
    }
}
