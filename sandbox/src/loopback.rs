//! HTTP servers that only this machine can reach.
//!
//! [`listen`] takes a port on `127.0.0.1` and, where the machine has IPv6, the same port on `[::1]`, so that
//! `http://localhost:PORT` arrives whichever way the name resolves. [`Server`] runs an Actix application there on a
//! thread of its own, so it neither needs nor burdens the runtime of whoever starts it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;

use actix_web::dev::{Extensions, ServerHandle};
use actix_web::rt::System;
use actix_web::web::ServiceConfig;
use actix_web::{App, HttpRequest, HttpServer, rt};
use tokio::sync::oneshot;

/// One port, held on every loopback address that the machine has.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<TcpListener>,
    port: u16,
}

impl Listeners {
    /// The port that is held.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Takes `port` on loopback; 0 stands for any free port.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] when another process holds the port on either address, or whatever else the system
/// says about `127.0.0.1`.
pub fn listen(port: u16) -> io::Result<Listeners> {
    const ATTEMPTS: usize = 16;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match listen_once(port) {
            // A port that was free on IPv4 may be taken on IPv6; any other will do when none was named.
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

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct Server {
    handle: ServerHandle,
}

impl Server {
    /// Serves on `listeners` what `configure` sets up.
    ///
    /// # Errors
    /// When the system refuses a thread or the sockets.
    pub async fn start<F>(listeners: Listeners, configure: F) -> io::Result<Self>
    where
        F: Fn(&mut ServiceConfig) + Clone + Send + 'static,
    {
        let (started, outcome) = oneshot::channel();
        thread::Builder::new().name("loopback-server".to_owned()).spawn(move || {
            System::new().block_on(async move {
                match build(listeners, configure) {
                    Ok(server) => {
                        // Nobody left to tell means that the caller gave up: then there is nothing to serve either.
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

    /// Stops without waiting for requests that are still being answered; returns when the port is free.
    pub async fn stop(self) {
        self.handle.stop(false).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The order goes out when `stop` is called; its future only waits for the end.
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

/// Cuts the connection that `request` came on, as a peer does that crashes: the client gets no answer at all.
pub fn hang_up(request: &HttpRequest) {
    if let Some(ConnectionSocket(stream)) = request.conn_data::<ConnectionSocket>() {
        // A connection that is gone already is as cut as it can be.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
