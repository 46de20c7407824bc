//! A real Redis on a free port, which can be killed and started again.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, ErrorKind, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ably_clerk_auth::redis::RedisAddress;
use redis::{Connection, FromRedisValue, RedisResult};
use tempfile::TempDir;

pub(crate) const HOW_TO_INSTALL: &str = "redis-server; `make redis` installs it";

/// The program of Redis or Valkey: the one that `REDIS_SERVER` names, or Debian's `redis-server`.
pub(crate) fn program() -> Command {
    Command::new(env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into()))
}

/// A `redis-server` with a directory and a port of its own. It keeps its data when it is killed.
pub(crate) struct RedisServer {
    port: u16,
    arguments: Vec<String>,
    directory: TempDir,
    process: Option<Child>,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::start_on(|port| vec!["--port".to_owned(), port.to_string()], arguments)
    }

    /// On a port that `port_arguments` name. It has two users: the documented one, and an administrator.
    pub(crate) fn start_on(port_arguments: impl Fn(u16) -> Vec<String>, arguments: &[&str]) -> Self {
        // Another may take a free port before Redis does.
        for _ in 0..5 {
            let port = free_port();
            // Without its permissions the user that is off, Redis would not load what scripts wrote from its file.
            let users = ["--user default off ~* &* +@all", "--user admin reset on >admin ~* &* +@all", "--user aca"];
            let users = users.iter().flat_map(|user| user.split(' ')).map(str::to_owned).collect();
            let arguments = arguments.iter().map(|&text| text.to_owned()).collect();
            let arguments = [port_arguments(port), users, documented_rules("aca:"), arguments].concat();
            let directory = tempfile::tempdir().unwrap();
            let mut server = Self { port, arguments, directory, process: None };
            if server.start_again() {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    /// Over TLS only.
    pub(crate) fn start_with_tls(certificate: &Certificate) -> Self {
        Self::start_on(|port| certificate.arguments(port), &["--port", "0"])
    }

    /// For the documented user, over TLS.
    pub(crate) fn tls_url(&self) -> String {
        format!("rediss://aca:PASSWORD@localhost:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// For the documented user.
    pub(crate) fn url(&self) -> String {
        format!("redis://aca:PASSWORD@127.0.0.1:{}", self.port)
    }

    pub(crate) fn address(&self) -> RedisAddress {
        RedisAddress::parse(&self.url()).unwrap()
    }

    /// For a user as documented for another prefix.
    pub(crate) fn address_for(&self, prefix: &str) -> RedisAddress {
        let rules = documented_rules(prefix);
        let () = self.run(&format!("ACL SETUSER other {}", rules.join(" ")));
        RedisAddress::parse(&self.url().replace("aca:", "other:")).unwrap()
    }

    /// Whether it is there, with the data that it had.
    pub(crate) fn start_again(&mut self) -> bool {
        let process = program()
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "no"])
            .args(&self.arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect(HOW_TO_INSTALL);
        // From here on it ends with this.
        let process = self.process.insert(process);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !answers(self.port) {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "redis-server does not answer");
            thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// As a crash does: SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            process.wait().unwrap();
        }
    }

    /// Has it start without any data next time.
    pub(crate) fn forget_everything(&self) {
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    }

    /// A copy of its data.
    pub(crate) fn saved(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_all(&self.directory, &copy);
        copy
    }

    /// Has it start with older data next time.
    pub(crate) fn go_back_to(&self, saved: &TempDir) {
        self.forget_everything();
        copy_all(saved, &self.directory);
    }

    /// The administrator's connection, for what the store has no command for.
    pub(crate) fn connection(&self) -> Connection {
        self.connection_as("admin:admin")
    }

    pub(crate) fn connection_as(&self, user_and_password: &str) -> Connection {
        let url = format!("redis://{user_and_password}@127.0.0.1:{}", self.port);
        redis::Client::open(url).unwrap().get_connection().unwrap()
    }

    /// Runs a command as the administrator.
    pub(crate) fn run<T: FromRedisValue>(&self, command: &str) -> T {
        run(&mut self.connection(), command).unwrap()
    }

    /// Closes all connections of the documented user.
    pub(crate) fn hang_up(&self) {
        let _: i64 = self.run("CLIENT KILL USER aca");
    }

    /// How many bytes it may use; 0 for any number.
    pub(crate) fn set_memory(&self, bytes: u64) {
        let () = self.run(&format!("CONFIG SET maxmemory {bytes}"));
    }
}

fn copy_all(from: &TempDir, to: &TempDir) {
    let copied = Command::new("cp").arg("-R").arg(from.path().join(".")).arg(to.path()).status().unwrap();
    assert!(copied.success());
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A certificate that signs itself, and its key.
pub(crate) struct Certificate {
    directory: TempDir,
}

impl Certificate {
    /// For `localhost` and 127.0.0.1.
    pub(crate) fn new() -> Self {
        Self::naming(&["localhost", "127.0.0.1"])
    }

    pub(crate) fn naming(hosts: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
        let own = rcgen::generate_simple_self_signed(hosts).unwrap();
        fs::write(directory.path().join("cert.pem"), own.cert.pem()).unwrap();
        fs::write(directory.path().join("key.pem"), own.signing_key.serialize_pem()).unwrap();
        Self { directory }
    }

    /// The file of the certificate.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    pub(crate) fn pem(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    /// The arguments of a server that has it.
    pub(crate) fn arguments(&self, port: u16) -> Vec<String> {
        self.settings(port).into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect()
    }

    /// The settings of a server that has it, by name.
    pub(crate) fn settings(&self, port: u16) -> [(&'static str, String); 7] {
        let path = |name: &str| self.directory.path().join(name).to_str().unwrap().to_owned();
        [
            ("tls-port", port.to_string()),
            ("tls-cert-file", path("cert.pem")),
            ("tls-key-file", path("key.pem")),
            ("tls-ca-cert-file", path("cert.pem")),
            ("tls-auth-clients", "no".to_owned()),
            ("tls-replication", "yes".to_owned()),
            ("tls-cluster", "yes".to_owned()),
        ]
    }
}

/// A free port. It stays free while its server is down: the system gives ports from 32,768 on to those that ask for any.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = 10_000 + rand::random::<u16>() % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Runs a command: words with spaces between them.
pub(crate) fn run<T: FromRedisValue>(connection: &mut Connection, command: &str) -> RedisResult<T> {
    let mut words = command.split(' ');
    redis::cmd(words.next().unwrap()).arg(words.collect::<Vec<_>>()).query(connection)
}

/// What `docs/revocation.md` lets the service's user do, with keys of this prefix.
pub(crate) fn documented_rules(prefix: &str) -> Vec<String> {
    let page = include_str!("../../docs/revocation.md");
    let rules = page.lines().find_map(|line| line.strip_prefix("ACL SETUSER aca ")).expect("the ACL of the page");
    rules.replace("aca:", prefix).split(' ').map(str::to_owned).collect()
}

/// Whether it says anything but that it is still loading.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // It does not say that to strangers.
    let sent = stream.write_all(b"AUTH admin admin\r\nPING\r\n");
    let answers = sent.and_then(|()| BufReader::new(stream).lines().take(2).collect::<io::Result<Vec<_>>>());
    match answers {
        Ok(answers) => !answers.iter().any(|answer| answer.starts_with("-LOADING")),
        // One that speaks TLS hangs up.
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}
