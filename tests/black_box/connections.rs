//! Hostile clients: their cost is bounded, and the service serves others meanwhile.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    process::Stdio,
    thread,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::service::{ORIGIN, Service, Vendors, command, json};

/// How much more memory the service may use under attack than when it is idle.
const MAX_MEMORY: usize = 64 * 1024 * 1024;

/// The memory of a service, compared with what it used when idle.
#[derive(Clone, Copy)]
struct Memory {
    idle: usize,
}

impl Memory {
    fn of_idle(service: &Service) -> Self {
        Self { idle: service.resident_memory() }
    }

    fn assert_bounded(self, service: &Service) {
        self.assert_below(service, MAX_MEMORY);
    }

    fn assert_below(self, service: &Service, max: usize) {
        let memory = service.resident_memory().saturating_sub(self.idle);
        assert!(memory < max, "{memory} bytes");
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    stream
}

/// Sends as much as the service receives.
fn send(stream: &mut TcpStream, bytes: &[u8]) {
    // The service may close the connection, or stop receiving, before everything is sent.
    let _ = stream.write_all(bytes);
}

/// Everything that the service still sends until it closes the connection.
fn rest(stream: &mut TcpStream) -> String {
    let mut answers = Vec::new();
    match stream.read_to_end(&mut answers) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the connection stays open"),
    }
    String::from_utf8_lossy(&answers).into_owned()
}

/// The value of a metric, 0 if it is missing.
async fn metric(service: &Service, name: &str) -> u64 {
    let scrape = service.scrape().await;
    let line = scrape.lines().find_map(|line| line.strip_prefix(&format!("ably_clerk_auth_{name} ")));
    line.map_or(0, |number| number.parse().unwrap())
}

/// Waits until the service has closed all connections of strangers. Meanwhile it serves others.
async fn served_until_closed(service: &Service, vendors: &Vendors, memory: Memory) {
    for _ in 0..600 {
        json(service.token(&vendors.token("alice")).await, 200).await;
        memory.assert_bounded(service);
        // The connection of `token` is one.
        if metric(service, "connections").await <= 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{} connections are still open", metric(service, "connections").await);
}

async fn roomy_service(vendors: &Vendors) -> Service {
    // Without a limit on tokens.
    vendors.service_with_admin("", &[("LIMITS_TOKENS_PER_MINUTE", "0")]).await
}

#[tokio::test]
async fn clients_that_send_many_requests_and_never_read_are_closed_and_others_are_served() {
    let vendors = Vendors::start().await;
    let service = roomy_service(&vendors).await;
    let address = service.address();
    let ends: [fn(&mut TcpStream); 3] =
        [|_| (), |stream| stream.shutdown(Shutdown::Write).unwrap(), |stream| send(stream, b"garbage\r\n\r\n")];
    let memory = Memory::of_idle(&service);
    let strangers = spawn_blocking(move || {
        let mut strangers = Vec::new();
        for end in ends {
            for _ in 0..9 {
                let mut stream = connect(address);
                send(&mut stream, get("/openapi.yaml").repeat(6000).as_bytes());
                end(&mut stream);
                strangers.push(stream);
            }
        }
        strangers
    });
    let strangers = strangers.await.unwrap();
    memory.assert_bounded(&service);
    served_until_closed(&service, &vendors, memory).await;
    let closed = metric(&service, r#"connections_closed_total{reason="deadline"}"#).await;
    assert_eq!(closed, strangers.len() as u64, "all are closed because they do not read");
}

#[tokio::test]
async fn a_client_that_reads_a_byte_at_a_time_is_closed_and_others_are_served() {
    let vendors = Vendors::start().await;
    let service = roomy_service(&vendors).await;
    let memory = Memory::of_idle(&service);
    let mut slow = connect(service.address());
    let requests = get("/openapi.yaml").repeat(1000);
    slow.set_nonblocking(true).unwrap();
    send(&mut slow, requests.as_bytes());
    let (stop, stopped) = std::sync::mpsc::channel();
    let reading = thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_secs(1)).is_err() {
            let _ = slow.read(&mut [0]);
        }
    });
    served_until_closed(&service, &vendors, memory).await;
    assert_eq!(metric(&service, r#"connections_closed_total{reason="deadline"}"#).await, 1);
    stop.send(()).unwrap();
    reading.join().unwrap();
}

#[tokio::test]
async fn ten_thousand_requests_at_once_are_answered_in_their_order() {
    let vendors = Vendors::start().await;
    let service = roomy_service(&vendors).await;
    let memory = Memory::of_idle(&service);
    let mut stream = connect(service.address());
    stream.set_write_timeout(None).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        for n in 0..10_000 {
            let request = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: n{n}\r\n\r\n");
            writer.write_all(request.as_bytes()).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let answers = spawn_blocking(move || rest(&mut stream)).await.unwrap();
    writing.join().unwrap();
    let ids =
        answers.lines().filter_map(|line| line.strip_prefix("x-request-id: n")).map(|n| n.parse::<usize>().unwrap());
    assert!(ids.eq(0..10_000));
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 10_000);
    memory.assert_bounded(&service);
}

#[tokio::test]
async fn invalid_bytes_after_valid_requests_do_not_change_their_answers() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let token = vendors.token("alice");
    let wrong = format!("GET /api/ably?ttl=x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    let answers = service.raw(format!("{wrong}{}garbage\r\n\r\n{}", get("/healthz"), get("/healthz")).as_bytes());
    let statuses: Vec<_> =
        answers.split("HTTP/1.1 ").skip(1).map(|answer| answer.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(statuses, ["400", "200", "400"], "{answers}");
    assert!(answers.contains("\"message\":\"The request is not valid HTTP/1.1. (not-a-request)\""), "{answers}");
}

#[tokio::test]
async fn bodies_that_never_end_end_the_connection() {
    let vendors = Vendors::start().await;
    let secret = ("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let service = vendors.service_with_admin("", &[secret]).await;
    let address = service.address();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let delivery = format!("svix-id: a\r\nsvix-timestamp: {now}\r\nsvix-signature: v1,a\r\n");
    let memory = Memory::of_idle(&service);
    let mut clients = Vec::new();
    for (target, headers, status) in [
        ("POST /api/ably", "", "413"),
        ("POST /webhooks/clerk", &delivery[..], "413"),
        ("GET /healthz", "", "200"),
        ("POST /healthz", "", "405"),
        ("POST /nowhere", "", "404"),
    ] {
        for framing in ["Content-Length: 1000000000000\r\n", "Transfer-Encoding: chunked\r\n"] {
            let head = format!("{target} HTTP/1.1\r\nHost: x\r\n{headers}{framing}\r\n");
            clients.push(spawn_blocking(move || {
                let mut stream = connect(address);
                send(&mut stream, head.as_bytes());
                let mut reader = stream.try_clone().unwrap();
                let reading = thread::spawn(move || rest(&mut reader));
                // Bytes that the service refuses if it mistakes them for a head.
                let hostile = "\r\nGET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\n\r\n";
                let hostile = hostile.repeat(900);
                let chunk = format!("{:x}\r\n{hostile}\r\n", hostile.len());
                // As long as the service receives.
                while stream.write_all(chunk.as_bytes()).is_ok() {}
                let answer = reading.join().unwrap();
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
                assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head}: {answer}");
            }));
        }
    }
    for client in clients {
        client.await.unwrap();
    }
    memory.assert_bounded(&service);
}

#[tokio::test]
async fn a_body_that_trickles_times_out() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    let address = service.address();
    let answer = spawn_blocking(move || {
        let mut stream = connect(address);
        stream.write_all(b"POST /api/ably HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for _ in 0..120 {
            if stream.write_all(b"1\r\nx\r\n").is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(250));
        }
        rest(&mut stream)
    });
    let answer = answer.await.unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn large_heads_are_refused_and_hold_no_memory() {
    let vendors = Vendors::start().await;
    let service = roomy_service(&vendors).await;
    let address = service.address();
    let memory = Memory::of_idle(&service);
    let answers = spawn_blocking(move || {
        let head = format!("GET /api/ably HTTP/1.1\r\nHost: x\r\nOrigin: {ORIGIN}\r\nX-Request-Id: large\r\n");
        let large = format!("{head}{}\r\n", format!("x-large: {}\r\n", "x".repeat(1000)).repeat(90));
        let mut clients: Vec<_> = (0..400).map(|_| connect(address)).collect();
        for client in &mut clients {
            send(client, large.as_bytes());
        }
        clients.iter_mut().map(rest).collect::<Vec<_>>()
    });
    let answers = answers.await.unwrap();
    memory.assert_bounded(&service);
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        for header in [
            &format!("access-control-allow-origin: {ORIGIN}")[..],
            "access-control-expose-headers: X-Ably-Errorcode",
            "x-request-id: large",
            "x-ably-errorcode: 40000",
            "connection: close",
            "cache-control: no-store",
        ] {
            assert!(head.contains(header), "{header} is not in {head}");
        }
        assert_eq!(serde_json::from_str::<Value>(body).unwrap()["error"]["statusCode"], 431);
    }
    assert_eq!(service.logged_of("large").await["reason"], "head-too-large");
    let refused = metric(&service, r#"request_refusals_total{reason="head-too-large",status="431"}"#).await;
    assert_eq!(refused, 400);
    served_until_closed(&service, &vendors, memory).await;
}

#[tokio::test]
async fn the_page_that_sent_an_invalid_request_can_read_the_refusal() {
    let vendors = Vendors::start().await;
    let service = vendors.service().await;
    for (origin, is_allowed) in [(ORIGIN, true), ("https://evil.example", false)] {
        let answer =
            service.raw(format!("GET /api/ably HTTP/1.1\r\norigin: {origin}\r\nbad header\r\n\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(answer.contains(&format!("access-control-allow-origin: {origin}\r\n")), is_allowed, "{answer}");
        assert!(answer.contains("vary: Origin\r\n"), "{answer}");
    }
}

/// The status of a request over a connection of its own.
async fn token_over_new_connection(service: &Service, vendors: &Vendors) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(format!("http://{}/api/ably", service.address())).bearer_auth(vendors.token("alice"));
    request.send().await.unwrap().status().as_u16()
}

/// Raises the limit on open files as far as the machine allows: a test has many clients.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

#[tokio::test]
async fn two_thousand_idle_connections_are_kept_and_cost_little() {
    raise_open_files();
    let vendors = Vendors::start().await;
    let service = roomy_service(&vendors).await;
    let address = service.address();
    json(service.token(&vendors.token("alice")).await, 200).await;
    let memory = Memory::of_idle(&service);
    let clients = spawn_blocking(move || {
        let mut clients: Vec<_> = (0..2000).map(|_| BufReader::new(connect(address))).collect();
        for round in 0..2 {
            for client in &mut clients {
                client.get_mut().write_all(get("/healthz").as_bytes()).unwrap();
                let mut status = String::new();
                client.read_line(&mut status).unwrap();
                assert_eq!(status, "HTTP/1.1 200 OK\r\n", "{round}");
                let mut line = String::new();
                while line != "{\"status\":\"ok\"}" {
                    line.clear();
                    client.by_ref().take(200).read_line(&mut line).unwrap();
                    if line == "\r\n" {
                        client.read_exact(&mut [0; "{\"status\":\"ok\"}".len()]).unwrap();
                        break;
                    }
                }
            }
        }
        clients
    });
    let clients = clients.await.unwrap();
    memory.assert_bounded(&service);
    assert!(metric(&service, "connections").await >= clients.len() as u64);
}

#[tokio::test]
async fn clients_that_use_every_connection_hold_little_memory_whatever_they_send() {
    raise_open_files();
    let vendors = Vendors::start().await;
    let service = roomy_service(&vendors).await;
    let address = service.address();
    let memory = Memory::of_idle(&service);
    for (size, end) in [(60, ""), (8_300, ""), (16_000, "\r\n\r\n")] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: {:x<size$}{end}", "");
        let strangers = spawn_blocking(move || {
            let mut strangers = Vec::new();
            for _ in 0..9_500 {
                let Ok(mut stranger) = TcpStream::connect(address) else { continue };
                send(&mut stranger, request.as_bytes());
                strangers.push(stranger);
            }
            strangers
        });
        let strangers = strangers.await.unwrap();
        assert_eq!(token_over_new_connection(&service, &vendors).await, 200, "{size}");
        memory.assert_below(&service, MAX_MEMORY + strangers.len() * 12 * 1024);
        drop(strangers);
    }
}

#[tokio::test]
async fn a_client_that_holds_every_connection_makes_room_for_others() {
    raise_open_files();
    let vendors = Vendors::start().await;
    let settings = [("LIMITS_CONNECTIONS", "50"), ("LIMITS_TOKENS_PER_MINUTE", "0")];
    let service = vendors.service_with_admin("", &settings).await;
    let address = service.address();
    for begun in [
        "",
        "GET /api/ably HTTP/1.1\r\nHost: x\r\n",
        "POST /api/ably HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nttl=",
    ] {
        let hold = move || {
            let mut stream = connect(address);
            send(&mut stream, begun.as_bytes());
            stream
        };
        let holders = spawn_blocking(move || (0..60).map(|_| hold()).collect::<Vec<_>>()).await.unwrap();
        for _ in 0..10 {
            assert_eq!(token_over_new_connection(&service, &vendors).await, 200, "{begun}");
        }
        assert!(metric(&service, "connections").await <= 50);
        drop(holders);
    }
    assert!(metric(&service, r#"connections_closed_total{reason="limit"}"#).await >= 30);
    let line = service.logged("connection limit reached; closing connections for new ones").await;
    assert_eq!((&line["level"], &line["connections"]), (&json!("WARN"), &json!(50)));
}

#[tokio::test]
async fn ten_thousand_slow_heads_keep_no_client_out() {
    raise_open_files();
    let vendors = Vendors::start().await;
    let settings = [("LIMITS_CONNECTIONS", "500"), ("LIMITS_TOKENS_PER_MINUTE", "0")];
    let service = vendors.service_with_admin("", &settings).await;
    let address = service.address();
    let memory = Memory::of_idle(&service);
    let strangers = spawn_blocking(move || {
        let mut open = VecDeque::new();
        for _ in 0..10_000 {
            // If too many arrive at once, the service closes some.
            let Ok(mut stream) = TcpStream::connect(address) else { continue };
            send(&mut stream, b"GET /api/ably HTTP/1.1\r\nHost: x\r\nX-Slow: ");
            open.push_back(stream);
            if open.len() > 1000 {
                open.pop_front();
            }
        }
        open
    });
    let mut served = 0;
    while !strangers.is_finished() || served == 0 {
        assert_eq!(token_over_new_connection(&service, &vendors).await, 200);
        served += 1;
    }
    memory.assert_bounded(&service);
    drop(strangers.await.unwrap());
}

#[tokio::test]
async fn the_admin_listener_has_connections_of_its_own() {
    let vendors = Vendors::start().await;
    let service = vendors.service_with_admin("", &[("LIMITS_CONNECTIONS", "1")]).await;
    let _public: Vec<_> = (0..5).map(|_| connect(service.address())).collect();
    let _admin: Vec<_> = (0..200).map(|_| connect(service.admin_address())).collect();
    for _ in 0..3 {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let scrape = client.get(format!("http://{}/metrics", service.admin_address())).send().await.unwrap();
        let scrape = scrape.text().await.unwrap();
        let open = scrape.lines().find_map(|line| line.strip_prefix("ably_clerk_auth_connections ")).unwrap();
        // None while one replaces another.
        assert!(["0", "1"].contains(&open), "{open}");
    }
}

#[tokio::test]
async fn the_limit_on_open_files_lowers_that_on_connections() {
    let vendors = Vendors::start().await;
    let settings = vendors.settings();
    let (service, _directory) = command(&settings);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 300; exec \"$0\""]).arg(service.get_program()).env_clear();
    limited.envs(settings).current_dir(service.get_current_dir().unwrap()).stdin(Stdio::null());
    let mut child = limited.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let entries = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let started: Vec<_> = entries.take_while(|entry| entry["message"] != "listening").collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let warning = started.iter().find(|entry| entry["connections"] == 150).expect("a warning");
    assert_eq!((&warning["level"], &warning["configured"]), (&json!("WARN"), &json!(10_000)));
    assert!(warning["message"].as_str().unwrap().contains("LIMITS_CONNECTIONS"), "{warning}");
}
