//! HTTP servers that only this machine can reach.
//!
//! [`listen`] binds a port on `127.0.0.1` and, if the machine has IPv6, the same port on `[::1]`, so that
//! `http://localhost:PORT` works either way. [`Server`] runs an Actix application there on its own thread and
//! runtime.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;

use actix_web::dev::{Extensions, ServerHandle};
use actix_web::rt::System;
use actix_web::web::ServiceConfig;
use actix_web::{App, HttpRequest, HttpServer, rt};
use tokio::sync::oneshot;

/// One port, bound on every loopback address of the machine.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<TcpListener>,
    port: u16,
}

impl Listeners {
    /// The bound port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Binds `port` on loopback; 0 takes any free port.
///
/// # Errors
///
/// [`io::ErrorKind::AddrInUse`] if either address is taken, or another error of `127.0.0.1`.
pub fn listen(port: u16) -> io::Result<Listeners> {
    const ATTEMPTS: usize = 16;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match listen_once(port) {
            // A port that is free on IPv4 may be taken on IPv6. Without a requested port, try another.
            Err(error) if port == 0 && error.kind() == io::ErrorKind::AddrInUse && attempt < ATTEMPTS => {}
            outcome => return outcome,
        }
    }
}

fn listen_once(port: u16) -> io::Result<Listeners> {
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let port = v4.local_addr()?.port();
    let mut sockets = vec![v4];
    match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
        Ok(v6) => sockets.push(v6),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Err(_no_ipv6) => {}
    }
    Ok(Listeners { sockets, port })
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    handle: ServerHandle,
}

impl Server {
    /// Serves the routes of `configure` on `listeners`.
    ///
    /// # Errors
    ///
    /// If the system cannot provide a thread or the sockets.
    pub async fn start<F>(listeners: Listeners, configure: F) -> io::Result<Self>
    where
        F: Fn(&mut ServiceConfig) + Clone + Send + 'static,
    {
        let (started, outcome) = oneshot::channel();
        thread::Builder::new().name("loopback-server".to_owned()).spawn(move || {
            System::new().block_on(async move {
                match build(listeners, configure) {
                    Ok(server) => {
                        // If the caller has given up, the server is not needed.
                        if started.send(Ok(server.handle())).is_ok() {
                            let _ = server.await;
                        }
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            });
        })?;
        let handle = outcome.await.map_err(|_| io::Error::other("the server's thread ended at once"))??;
        Ok(Self { handle })
    }

    /// Stops without waiting for open requests, and returns when the port is free.
    pub async fn stop(self) {
        self.handle.stop(false).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Calling `stop` sends the command; the future only waits for the end.
        drop(self.handle.stop(false));
    }
}

fn build<F>(listeners: Listeners, configure: F) -> io::Result<actix_web::dev::Server>
where
    F: Fn(&mut ServiceConfig) + Clone + Send + 'static,
{
    let mut server = HttpServer::new(move || App::new().configure(configure.clone()))
        .workers(1)
        .disable_signals()
        .on_connect(keep_socket);
    for socket in listeners.sockets {
        server = server.listen(socket)?;
    }
    Ok(server.run())
}

struct ConnectionSocket(TcpStream);

fn keep_socket(connection: &dyn std::any::Any, data: &mut Extensions) {
    let Some(stream) = connection.downcast_ref::<rt::net::TcpStream>() else {
        return;
    };
    if let Ok(descriptor) = stream.as_fd().try_clone_to_owned() {
        data.insert(ConnectionSocket(TcpStream::from(descriptor)));
    }
}

/// Closes the connection of `request` as a crashed server does: the client gets no answer.
pub fn hang_up(request: &HttpRequest) {
    if let Some(ConnectionSocket(stream)) = request.conn_data::<ConnectionSocket>() {
        // The connection may be closed already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Whether a page of this origin was served by this machine.
#[must_use]
pub fn is_local_origin(origin: &str) -> bool {
    let Some(authority) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) else {
        return false;
    };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    matches!(host, "localhost" | "127.0.0.1" | "[::1]") || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_machine_are_local() {
        for (origin, expected) in [
            ("http://localhost:3000", true),
            ("http://127.0.0.1:3000", true),
            ("https://[::1]:3000", true),
            ("http://[::1]", true),
            ("http://app.localhost:5173", true),
            ("http://localhost", true),
            ("http://localhost.evil.example", false),
            ("http://evil.example:3000", false),
            ("http://127.0.0.1.evil.example", false),
            ("http://evillocalhost", false),
            ("null", false),
        ] {
            assert_eq!(is_local_origin(origin), expected, "{origin}");
        }
    }
}
