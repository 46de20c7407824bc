use std::{
    cell::{Cell, RefCell},
    future::pending,
    io,
    net::IpAddr,
    sync::Arc,
    task::Context,
};

use futures_util::TryStreamExt as _;
use http::Response;
use hyper::body::Bytes;
use tokio::{
    io::{DuplexStream, ReadBuf, duplex},
    sync::watch,
    task::{JoinHandle, LocalSet, spawn_local},
    time::sleep,
};

use super::{request_clock::TIME_TO_SEND, *};
use crate::{
    limits::{ConnectionTable, Room},
    telemetry::metrics::ConnectionMetrics,
};

const LARGE_ANSWER: usize = 20 * 1024;

/// How often the socket was polled.
#[derive(Clone, Debug, Default)]
struct Polls(Rc<Cell<usize>>);

struct Counted(DuplexStream, Polls);

impl Counted {
    fn count(&mut self) -> Pin<&mut DuplexStream> {
        self.1.0.set(self.1.0.get() + 1);
        Pin::new(&mut self.0)
    }
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().count().poll_read(cx, room)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().count().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().count().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().count().poll_shutdown(cx)
    }
}

/// The client of a connection that is being served.
struct Served {
    client: DuplexStream,
    serving: JoinHandle<()>,
    stop: watch::Sender<bool>,
    polls: Polls,
    refused: Rc<RefCell<Vec<(u16, String)>>>,
    metrics: ConnectionMetrics,
    table: Arc<ConnectionTable>,
}

impl Served {
    async fn start() -> Self {
        let (client, server) = duplex(4096);
        let (stop, stopping) = watch::channel(false);
        let refused = Rc::new(RefCell::new(Vec::new()));
        let handler = Rc::new(TestHandler { refused: Rc::clone(&refused) });
        let listener = Rc::new(Listener { handler, stopping });
        let metrics = ConnectionMetrics::default();
        let table = ConnectionTable::new("test", Room { connections: 1, queue: 1 }, metrics.clone());
        let slot = table.admit().await.unwrap();
        let polls = Polls::default();
        let serving = spawn_local(serve(Counted(server, polls.clone()), None, slot, listener));
        Self { client, serving, stop, polls, refused, metrics, table }
    }

    async fn send(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads one whole answer whose body has this end.
    async fn answer(&mut self, end: &str) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(end.as_bytes()) {
            assert_ne!(self.client.read_buf(&mut answer).await.unwrap(), 0, "{}", answer.escape_ascii());
        }
        String::from_utf8(answer).unwrap()
    }

    async fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.client.read_to_string(&mut rest).await.unwrap();
        rest
    }

    /// The seconds until the connection is closed.
    async fn seconds_to_end(&mut self) -> u64 {
        let begun_at = Instant::now();
        (&mut self.serving).await.unwrap();
        begun_at.elapsed().as_secs()
    }
}

/// `/` answers at once, `/large` at length, `/never` never, `/body` with the length of the body.
struct TestHandler {
    refused: Rc<RefCell<Vec<(u16, String)>>>,
}

impl Handler for TestHandler {
    async fn answer(self: Rc<Self>, Request { head, body, .. }: Request) -> Response<Bytes> {
        Response::new(match head.uri.path() {
            "/" => "root".into(),
            "/large" => "x".repeat(LARGE_ANSWER).into(),
            "/body" => {
                let parts: Result<Vec<_>, _> = body.unwrap().try_collect().await;
                parts.map_or_else(|_| "broken.".into(), |parts| format!("{}.", parts.concat().len()).into())
            }
            "/never" => pending().await,
            _ => Bytes::new(),
        })
    }

    fn refuse(&self, status: u16, head: &[u8], _: Option<IpAddr>) -> Vec<u8> {
        self.refused.borrow_mut().push((status, String::from_utf8_lossy(head).into_owned()));
        format!("refused {status}").into_bytes()
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn a_head_has_5_seconds_on_a_new_connection_and_after_other_requests() {
    run(async {
        for (before, answers) in [("", 0), (GET, 1), ("GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\n\n", 2)] {
            for late in [0, 40] {
                let mut served = Served::start().await;
                let (together, apart) =
                    if late == 0 { (format!("{before}GET / H"), "") } else { (before.to_owned(), "GET / H") };
                served.send(&together).await;
                let mut answered = String::new();
                while answered.matches("root").count() < answers {
                    answered += &served.answer("root").await;
                }
                sleep(Duration::from_secs(late)).await;
                served.send(apart).await;
                let begun_at = Instant::now();
                assert_eq!(served.rest().await, "refused 408", "{before}");
                assert_eq!(begun_at.elapsed(), TIME_TO_SEND, "{before}");
                assert_eq!(served.refused.borrow()[..], [(408, "GET / H".to_owned())]);
            }
        }
    });
}

#[test]
fn no_request_lives_longer_than_25_seconds_from_its_first_byte() {
    run(async {
        let mut unanswered = Served::start().await;
        unanswered.send("GET /nev").await;
        sleep(Duration::from_secs(4)).await;
        unanswered.send("er HTTP/1.1\r\n\r\n").await;
        assert_eq!(unanswered.seconds_to_end().await, 21);

        let mut unread = Served::start().await;
        unread.send("GET /large HTTP/1.1\r\n\r\n").await;
        assert_eq!(unread.seconds_to_end().await, 25);
        assert_eq!(unread.metrics.at_deadline.get(), 1);

        let mut read_slowly = Served::start().await;
        read_slowly.send("GET /large HTTP/1.1\r\n\r\n").await;
        let begun_at = Instant::now();
        while !read_slowly.serving.is_finished() {
            let _ = read_slowly.client.read(&mut [0]).await;
            sleep(Duration::from_secs(1)).await;
        }
        assert!((25..=26).contains(&begun_at.elapsed().as_secs()), "looked at once a second");

        let mut continued = Served::start().await;
        continued.send("POST /body HTTP/1.1\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n").await;
        continued.answer("100 Continue\r\n\r\n").await;
        assert_eq!(continued.seconds_to_end().await, 25);
    });
}

#[test]
fn an_idle_connection_is_kept_for_75_seconds() {
    run(async {
        let mut served = Served::start().await;
        assert_eq!(served.seconds_to_end().await, 75);
        let mut served = Served::start().await;
        for _ in 0..3 {
            sleep(Duration::from_secs(70)).await;
            served.send(GET).await;
            served.answer("root").await;
        }
        assert_eq!(served.seconds_to_end().await, 75);
        assert_eq!(served.metrics.at_deadline.get(), 0);
    });
}

#[test]
fn a_client_that_does_not_read_costs_a_few_polls() {
    run(async {
        let mut served = Served::start().await;
        let mut sent = 0;
        let requests = "GET /large HTTP/1.1\r\n\r\n".repeat(1000);
        let sending = async {
            while sent < requests.len() {
                sent += served.client.write(&requests.as_bytes()[sent..]).await.unwrap();
            }
        };
        assert!(
            timeout(Duration::from_secs(20), sending).await.is_err(),
            "the service received everything from a client that does not read"
        );
        assert!(sent < 3 * MAX_HEAD_BYTES, "{sent}");
        served.seconds_to_end().await;
        assert!(served.polls.0.get() < 100, "{:?}", served.polls);
    });
}

#[test]
fn many_requests_at_once_are_answered_one_after_the_other() {
    run(async {
        let served = Served::start().await;
        let requests = "GET /large HTTP/1.1\r\n\r\n".repeat(500)
            + &GET.repeat(500)
            + "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        let (mut reader, mut writer) = tokio::io::split(served.client);
        let mut answers = Vec::new();
        let (sent, _) = tokio::join!(writer.write_all(requests.as_bytes()), reader.read_to_end(&mut answers));
        sent.unwrap();
        let answers = String::from_utf8(answers).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 1001);
        assert_eq!(answers.matches("root").count(), 501);
        served.serving.await.unwrap();
    });
}

#[test]
fn a_body_is_read_to_its_announced_length_and_what_follows_is_another_request() {
    run(async {
        let mut served = Served::start().await;
        let large = MAX_HEAD_BYTES * 5;
        let request = format!("POST /body HTTP/1.1\r\nContent-Length: {large}\r\n\r\n{}{GET}", "x".repeat(large));
        served.send(&request).await;
        assert!(served.answer("root").await.contains(&format!("{large}.HTTP/1.1 200 OK")));
    });
}

#[test]
fn a_request_whose_end_is_uncertain_is_the_last_one() {
    run(async {
        let hostile = format!("{GET}Content-Length: 1\nTransfer-Encoding: x\n\n garbage\r\n\r\n").repeat(300);
        for (request, end) in [
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "root"),
            ("POST / HTTP/1.1\r\nContent-Length: 20000\r\n\r\n", "root"),
            ("POST /body HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", "1."),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "root"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n", "root"),
            ("POST /body HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nwhat\r\n", "broken."),
            ("GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "root"),
            ("CONNECT x:1 HTTP/1.1\r\n\r\n", ""),
        ] {
            let served = Served::start().await;
            let (mut reader, mut writer) = tokio::io::split(served.client);
            let mut answer = String::new();
            let sent = format!("{request}{hostile}");
            let (sent, read) = tokio::join!(writer.write_all(sent.as_bytes()), reader.read_to_string(&mut answer));
            sent.unwrap();
            read.unwrap();
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{request}: {answer}");
            assert!(answer.contains("connection: close\r\n") && answer.ends_with(end), "{answer}");
            assert!(served.refused.borrow().is_empty(), "{:?}", served.refused);
        }
    });
}

#[test]
fn empty_lines_between_requests_do_not_begin_one() {
    run(async {
        let mut served = Served::start().await;
        served.send("POST /body HTTP/1.1\r\nContent-Length: 1\r\n\r\nx\r\n").await;
        served.answer("1.").await;
        for empty in ["", "\r\n", "\n\r", "\n"] {
            served.send(empty).await;
            sleep(Duration::from_secs(10)).await;
        }
        served.send(&format!("\r\n{GET}")).await;
        served.answer("root").await;
        served.send("\r\n").await;
        assert_eq!(served.seconds_to_end().await, 75);
        assert!(served.refused.borrow().is_empty());
    });
}

#[test]
fn bytes_after_the_last_answer_are_dropped_for_2_seconds() {
    run(async {
        let mut served = Served::start().await;
        served.send("POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n").await;
        served.answer("root").await;
        let begun_at = Instant::now();
        while served.client.write_all(&[b'x'; 1000]).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(begun_at.elapsed().as_secs(), TIME_TO_LINGER.as_secs());
    });
}

#[test]
fn bytes_that_are_not_http_are_refused_once_and_immediately() {
    run(async {
        let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(MAX_HEAD_BYTES));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        for (request, status) in [
            ("garbage\r\n\r\n", 400),
            ("\x16\x03\x01\x02", 400),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
            ("not http\r\n", 400),
            ("GET / HTTP/1.1\r\nno colon\r\n", 400),
            ("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            ("GET http://[ HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\ntransfer-encoding: chunked\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            (&long[..], 431),
            (&many[..], 431),
        ] {
            for before in ["", GET] {
                let served = Served::start().await;
                let begun_at = Instant::now();
                let (mut reader, mut writer) = tokio::io::split(served.client);
                let mut answers = String::new();
                let sent = format!("{before}{request}");
                let (sent, read) = tokio::join!(writer.write_all(sent.as_bytes()), reader.read_to_string(&mut answers));
                sent.unwrap();
                read.unwrap();
                assert_eq!(begun_at.elapsed(), Duration::ZERO, "{request}");
                assert!(answers.ends_with(&format!("refused {status}")), "{answers}");
                assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), usize::from(!before.is_empty()));
                let refused = served.refused.take();
                assert!(
                    refused.len() == 1 && !refused[0].1.is_empty() && request.starts_with(&refused[0].1),
                    "{refused:?}"
                );
                drop((reader, writer));
                served.serving.await.unwrap();
            }
        }
    });
}

#[test]
fn the_answer_to_a_half_closed_request_arrives() {
    run(async {
        let mut served = Served::start().await;
        served.send(&GET.repeat(3)).await;
        served.client.shutdown().await.unwrap();
        assert_eq!(served.rest().await.matches("root").count(), 3);
        assert_eq!(served.seconds_to_end().await, 0);
    });
}

#[test]
fn a_stop_ends_an_idle_connection_and_lets_a_request_go_on() {
    run(async {
        let mut idle = Served::start().await;
        idle.send(GET).await;
        idle.answer("root").await;
        idle.stop.send(true).unwrap();
        assert_eq!(idle.seconds_to_end().await, 0);

        for (before, begun, rest) in [
            ("", "POST /body HTTP/1.1\r\nContent-Length: 2\r\n\r\nx", "y"),
            ("", "POST /body HTTP/1.1\r\nContent-Le", "ngth: 2\r\n\r\nxy"),
            (GET, "POST /body HTTP/1.1\r\nContent-Le", "ngth: 2\r\n\r\nxy"),
        ] {
            let mut busy = Served::start().await;
            busy.send(before).await;
            if !before.is_empty() {
                busy.answer("root").await;
            }
            busy.send(begun).await;
            sleep(Duration::from_secs(1)).await;
            busy.stop.send(true).unwrap();
            sleep(Duration::from_secs(1)).await;
            busy.send(rest).await;
            let answer = busy.rest().await;
            assert!(answer.ends_with("2.") && answer.contains("connection: close"), "{answer}");
        }
    });
}

#[test]
fn an_evicted_connection_is_closed_at_once_in_every_state() {
    run(async {
        for begun in ["", "GET / H", "GET /never HTTP/1.1\r\n\r\n", "GET /large HTTP/1.1\r\n\r\n", "garbage\r\n\r\n"] {
            let mut served = Served::start().await;
            served.send(begun).await;
            sleep(Duration::from_millis(1)).await;
            let table = Arc::clone(&served.table);
            let (admitted, seconds) = tokio::join!(table.admit(), served.seconds_to_end());
            assert!(admitted.is_some() && seconds == 0, "{begun}");
        }
    });
}
