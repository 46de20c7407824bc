//! Ports for the service, which binds them itself.

use std::io;
use std::net::Ipv4Addr;

/// A port of 127.0.0.1 that no other program gets by chance until this is dropped. The service can bind it.
#[derive(Debug)]
pub(super) struct ReservedPort {
    number: u16,
    #[cfg(target_os = "linux")]
    _socket: rustix::fd::OwnedFd,
}

impl ReservedPort {
    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Reserves the given port, or any free one for 0.
    ///
    /// The socket is bound but does not listen. Linux then gives the port to no socket that asks for any, but lets a
    /// server bind it that has `SO_REUSEADDR`, as servers do.
    #[cfg(target_os = "linux")]
    pub(super) fn new(port: u16) -> io::Result<Self> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};
        use std::net::{SocketAddr, SocketAddrV4};

        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
        let address = SocketAddr::try_from(getsockname(&socket)?)?;
        Ok(Self { number: address.port(), _socket: socket })
    }

    /// Finds a port that is free now.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn new(port: u16) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        Ok(Self { number: listener.local_addr()?.port() })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_reserved_port_can_be_bound_by_the_service() {
        let port = ReservedPort::new(0).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).unwrap();
        assert_eq!(listener.local_addr().unwrap().port(), port.number());
    }

    #[test]
    fn a_port_in_use_cannot_be_reserved() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(ReservedPort::new(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn nobody_gets_a_reserved_port_by_chance() {
        let reserved: Vec<_> = (0..200).map(|_| ReservedPort::new(0).unwrap()).collect();
        let listeners: Vec<_> = (0..200).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        for listener in listeners {
            let port = listener.local_addr().unwrap().port();
            assert!(reserved.iter().all(|reserved| reserved.number() != port), "{port}");
        }
    }
}
