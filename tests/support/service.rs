//! Runs the real binary between the stand-ins, and talks to it as its callers do.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use reqwest::{Client, RequestBuilder, Response};
use sandbox::{
    ably::{self, Ably},
    clerk::{self, Clerk},
};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

/// The page that session tokens are minted for.
pub(crate) const ORIGIN: &str = "http://localhost:3000";

/// Both stand-ins, on free ports.
pub(crate) struct Vendors {
    pub(crate) clerk: Clerk,
    pub(crate) ably: Ably,
}

impl Vendors {
    pub(crate) async fn start() -> Self {
        Self::start_with(clerk::Options { authorized_party: ORIGIN.into(), ..clerk::Options::default() }).await
    }

    pub(crate) async fn start_with(clerk: clerk::Options) -> Self {
        Self { clerk: Clerk::start(clerk).await.unwrap(), ably: Ably::start(ably::Options::default()).await.unwrap() }
    }

    /// The settings of a service between them.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        [
            ("ABLY_API_KEY", self.ably.api_key().to_owned()),
            ("ABLY_REST_URL", self.ably.url()),
            ("CLERK_PUBLISHABLE_KEY", self.clerk.publishable_key().to_owned()),
            ("CLERK_SECRET_KEY", self.clerk.secret_key().to_owned()),
            ("CLERK_API_URL", self.clerk.url()),
            ("CLERK_AUTHORIZED_PARTIES", ORIGIN.to_owned()),
            ("SERVER_PORT", "0".to_owned()),
            // Here port 0 means none: two services would meet on the default one.
            ("ADMIN_PORT", "0".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// These settings, some changed; an empty value unsets one.
    fn settings_with(&self, changes: &[(&str, &str)]) -> Vec<(String, String)> {
        let changes = changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.settings().into_iter().chain(changes).collect()
    }

    /// Settings with a Frontend API that can be reached.
    pub(crate) fn settings_for_check(&self, changes: &[(&str, &str)]) -> Vec<(String, String)> {
        let proxy_url = self.clerk.proxy_url();
        self.settings_with(&[&[("CLERK_PROXY_URL", &*proxy_url)], changes].concat())
    }

    /// A service that is ready.
    pub(crate) async fn service(&self) -> Service {
        self.service_with(&[]).await
    }

    /// A service that is ready, with some settings changed; an empty value unsets one.
    pub(crate) async fn service_with(&self, changes: &[(&str, &str)]) -> Service {
        let service = self.service_that_may_not_be_ready(changes);
        service.wait_until_ready().await;
        service
    }

    pub(crate) fn service_that_may_not_be_ready(&self, changes: &[(&str, &str)]) -> Service {
        Service::start(&self.settings_with(changes), "")
    }

    /// A service with this TOML file, and some settings changed.
    pub(crate) fn service_with_file(&self, toml: &str, changes: &[(&str, &str)]) -> Service {
        Service::start(&self.settings_with(changes), toml)
    }

    /// A service that is ready and has an admin listener, with this TOML file and some settings changed.
    pub(crate) async fn service_with_admin(&self, toml: &str, changes: &[(&str, &str)]) -> Service {
        let service = Service::start_with_admin(&self.settings_with(changes), toml);
        service.wait_until_ready().await;
        service
    }

    /// The id of a demo user.
    pub(crate) fn user(&self, username: &str) -> String {
        self.clerk.users().into_iter().find(|user| user.username.as_deref() == Some(username)).unwrap().id
    }

    /// A fresh session token of a demo user.
    pub(crate) fn token(&self, username: &str) -> String {
        self.clerk.session_token(&self.user(username))
    }

    /// A session token of alice, its claims changed; null removes one.
    pub(crate) fn token_with(&self, changes: &Value) -> String {
        let mut claims = self.clerk.session_claims(&self.user("alice"));
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => _ = claims.as_object_mut().unwrap().remove(name),
                value => claims[name] = value.clone(),
            }
        }
        self.clerk.mint(claims)
    }
}

/// The binary with a clean environment, in an empty directory.
pub(crate) fn command(settings: &[(String, String)]) -> (Command, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ably-clerk-auth"));
    command.env_clear().envs(settings.iter().cloned()).current_dir(directory.path()).stdin(Stdio::null());
    (command, directory)
}

/// Runs a command of the binary to its end.
pub(crate) fn run(settings: &[(String, String)], arguments: &[&str]) -> Output {
    run_with_file(settings, "", arguments)
}

/// Runs a command of the binary to its end, with this TOML file.
pub(crate) fn run_with_file(settings: &[(String, String)], toml: &str, arguments: &[&str]) -> Output {
    let (mut command, directory) = command(settings);
    write_toml(&directory, toml);
    command.args(arguments).output().unwrap()
}

/// `check` with a Redis that answers. It is repeated if Redis did not answer in time, as on a busy machine.
pub(crate) fn checked(settings: &[(String, String)]) -> Output {
    loop {
        let output = run(settings, &["check"]);
        if !text(&output).contains("it did not answer in time") {
            return output;
        }
    }
}

/// What a command printed.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Nothing is written for an empty text: the service then has no file.
fn write_toml(directory: &tempfile::TempDir, toml: &str) {
    let path = directory.path().join("ably-clerk-auth.toml");
    if toml.is_empty() {
        let _ = fs::remove_file(path);
    } else {
        let new = directory.path().join("new.toml");
        fs::write(&new, toml).unwrap();
        fs::rename(new, path).unwrap();
    }
}

/// The running binary. Killed when dropped.
pub(crate) struct Service {
    child: Child,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    log: Arc<Mutex<Vec<Value>>>,
    log_pause: Arc<LogPause>,
    http: Client,
    directory: tempfile::TempDir,
}

impl Service {
    pub(crate) fn start(settings: &[(String, String)], toml: &str) -> Self {
        Self::try_start(settings, toml).expect("the service listens")
    }

    /// The admin listener takes no port 0, and one that was free a moment ago may be another's by now.
    pub(crate) fn start_with_admin(settings: &[(String, String)], toml: &str) -> Self {
        let started = (0..10).find_map(|_| {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
            let settings = [settings, &[("ADMIN_PORT".to_owned(), free.port().to_string())]].concat();
            Self::try_start(&settings, toml)
        });
        started.expect("the service listens, its admin listener too")
    }

    /// A service that listens; none if it ended instead.
    fn try_start(settings: &[(String, String)], toml: &str) -> Option<Self> {
        let (mut command, directory) = command(settings);
        write_toml(&directory, toml);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (listening, addresses) = mpsc::channel();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let log_pause = Arc::new(LogPause::default());
        let (collected, pause) = (Arc::clone(&log), Arc::clone(&log_pause));
        thread::spawn(move || {
            let mut admin = None;
            for line in lines.map_while(Result::ok) {
                pause.wait();
                let entry: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                match listener(&entry) {
                    Some(("admin listening", address)) => admin = Some(address),
                    Some((_, address)) => _ = listening.send((address, admin)),
                    None => {}
                }
                collected.lock().unwrap().push(entry);
            }
        });
        let addresses = addresses.recv_timeout(Duration::from_secs(30));
        if addresses == Err(mpsc::RecvTimeoutError::Disconnected) {
            child.wait().unwrap();
            return None;
        }
        let (address, admin) = addresses.expect("the service listens in time");
        let http = Client::builder().no_proxy().build().unwrap();
        Some(Self { child, address, admin, log, log_pause, http, directory })
    }

    pub(crate) async fn wait_until_ready(&self) {
        for _ in 0..3000 {
            if self.get("/readyz").send().await.is_ok_and(|response| response.status().is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the service is not ready: {:?}", self.log());
    }

    /// Replaces the configuration file, whole, as an editor or a mounted config map does.
    pub(crate) fn replace_toml(&self, toml: &str) {
        write_toml(&self.directory, toml);
    }

    /// Writes over the configuration file, as a careless script does.
    pub(crate) fn overwrite_toml(&self, toml: &str) {
        fs::write(self.directory.path().join("ably-clerk-auth.toml"), toml).unwrap();
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin.expect("the admin listener is on")
    }

    /// A request to the admin listener.
    pub(crate) fn admin(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.admin_address()))
    }

    /// The metrics as they are now.
    pub(crate) async fn scrape(&self) -> String {
        let response = self.admin(reqwest::Method::GET, "/metrics").send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.text().await.unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(reqwest::Method::GET, path)
    }

    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address)).header("X-Request-Id", unique_id())
    }

    /// Asks for a token with a session token.
    pub(crate) async fn token(&self, session_token: &str) -> Response {
        self.token_with(session_token, "").await
    }

    /// Asks for a token with a session token and token params.
    pub(crate) async fn token_with(&self, session_token: &str, query: &str) -> Response {
        self.get(&format!("/api/ably?{query}")).bearer_auth(session_token).send().await.unwrap()
    }

    /// Asks for a token with cookies.
    pub(crate) async fn token_by_cookies(&self, cookies: &str) -> Response {
        self.get("/api/ably").header("Cookie", cookies).send().await.unwrap()
    }

    /// Sends bytes as they are and reads until the service closes the connection.
    pub(crate) fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // The service may answer and close before all is sent.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends a request with a body and leaves the connection open.
    pub(crate) async fn begin(to: SocketAddr, head: &str, body: &str) -> Begun {
        let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let length = body.len();
        let request = format!("{head}\r\nHost: {to}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        Begun(stream)
    }

    /// The log so far, an entry a line.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.log.lock().unwrap().clone()
    }

    /// Reads no more of the service's output.
    pub(crate) fn pause_log(&self) {
        *self.log_pause.is_paused.lock().unwrap() = true;
    }

    /// Reads the service's output again.
    pub(crate) fn resume_log(&self) {
        *self.log_pause.is_paused.lock().unwrap() = false;
        self.log_pause.resumed.notify_all();
    }

    /// Waits for a line of the log with this message and returns it.
    pub(crate) async fn logged(&self, message: &str) -> Value {
        self.logged_where("message", message).await
    }

    /// Waits for the line of the log with the outcome of this request and returns it.
    pub(crate) async fn logged_of(&self, request_id: &str) -> Value {
        let has_outcome =
            |line: &Value| ["reason", "ttl_ms", "outcome", "action"].iter().any(|field| !line[field].is_null());
        self.logged_line(&format!("request {request_id}"), |line| line["request_id"] == request_id && has_outcome(line))
            .await
    }

    /// Waits for a line of the log with this field and returns it.
    pub(crate) async fn logged_where(&self, field: &str, value: impl Into<Value>) -> Value {
        let value = value.into();
        self.logged_line(&format!("{field} {value}"), |line| line[field] == value).await
    }

    async fn logged_line(&self, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..3000 {
            if let Some(line) = self.log().into_iter().find(&is_wanted) {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} is not logged: {:?}", self.log());
    }

    /// The bytes of memory that the process has in use.
    pub(crate) fn resident_memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()).unwrap();
        kilobytes.parse::<usize>().unwrap() * 1024
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

/// Whether the test reads what the service writes.
#[derive(Default)]
struct LogPause {
    is_paused: Mutex<bool>,
    resumed: Condvar,
}

impl LogPause {
    fn wait(&self) {
        drop(self.resumed.wait_while(self.is_paused.lock().unwrap(), |is_paused| *is_paused).unwrap());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The message and the address of a line, in either format, that tells of a listener.
fn listener(entry: &Value) -> Option<(&str, SocketAddr)> {
    let (message, address) = match entry {
        Value::String(line) => {
            let (start, fields) = line.split_once(" address=")?;
            (start.split_once("INFO ")?.1, fields.split(' ').next()?.trim_matches('"'))
        }
        entry => (entry["message"].as_str()?, entry["address"].as_str()?),
    };
    ["listening", "admin listening"].contains(&message).then(|| (message, address.parse().unwrap()))
}

/// A request that waits for its answer.
pub(crate) struct Begun(tokio::net::TcpStream);

impl Begun {
    /// Its sender goes away, and tells so at once: a connection that is merely closed may still be read from.
    pub(crate) fn break_off(self) {
        self.0.set_zero_linger().unwrap();
    }
}

fn unique_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The id that a response has in the log.
pub(crate) fn request_id(response: &Response) -> String {
    response.headers()["x-request-id"].to_str().unwrap().to_owned()
}

/// A whole response as text, what changes from one to the next left out.
pub(crate) async fn rendered(response: Response) -> String {
    let mut text = format!("{:?} {}\n", response.version(), response.status());
    let mut headers: Vec<String> = response
        .headers()
        .iter()
        .filter(|(name, _)| !["date", "content-length", "x-request-id"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    headers.sort();
    text.extend(headers);
    let body = response.text().await.unwrap();
    text + "\n" + &body
}

/// The JSON of a response of this status.
pub(crate) async fn json(response: Response, status: u16) -> Value {
    let (got, body) = (response.status(), response.text().await.unwrap());
    assert_eq!(got, status, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The reason that a message ends with, in parentheses.
pub(crate) fn reason_in(message: &str) -> Option<&str> {
    let (_, reason) = message.strip_suffix(')')?.rsplit_once(" (")?;
    let is_reason = reason.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    is_reason.then_some(reason)
}

/// Status and code of a refusal, which must agree in headers and body.
pub(crate) async fn refusal(response: Response) -> (u16, u64) {
    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (code, message) = (header("x-ably-errorcode"), header("x-ably-errormessage"));
    assert_eq!(header("content-type").as_deref(), Some("application/json"));
    let body: Value = response.json().await.unwrap();
    let error = &body["error"];
    assert_eq!(error["statusCode"], status);
    assert_eq!(code, Some(error["code"].to_string()));
    assert_eq!(message.as_deref(), error["message"].as_str());
    let message = message.unwrap();
    assert!(message.is_ascii());
    assert!(reason_in(&message).is_some(), "{message}");
    (status, error["code"].as_u64().unwrap())
}
