//! A minimal HTTP server on a loopback port that can violate the protocol.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Longer than any condition of these tests takes.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How the server handles a request.
pub enum Reply {
    /// Writes this and keeps the connection.
    Write(String),
    /// Writes this and closes the connection.
    WriteAndClose(String),
    /// Sends nothing until the client closes the connection.
    Never,
}

/// Requests and connections that the server has received.
#[derive(Default)]
struct ServerLog {
    /// The head of every request, in the order of arrival.
    requests: watch::Sender<Vec<String>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// A running server. It stops on drop.
pub struct Server {
    pub address: SocketAddr,
    log: Arc<ServerLog>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Starts a server that handles every request with `answer`, which gets the index of the
    /// request (from 0) and its head.
    pub async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(usize, String) -> A + Clone + Send + 'static,
        A: Future<Output = Reply> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(ServerLog::default());
        let accepting = tokio::spawn({
            let log = Arc::clone(&log);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    log.accepted.fetch_add(1, Ordering::SeqCst);
                    log.open.fetch_add(1, Ordering::SeqCst);
                    let (log, answer) = (Arc::clone(&log), answer.clone());
                    tokio::spawn(async move {
                        serve(stream, &log, answer).await;
                        log.open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        Self {
            address,
            log,
            accepting,
        }
    }

    /// Starts a server that returns 200 from version v1 to every request.
    pub async fn always_ok() -> Self {
        Self::start(|_, _| async { Reply::Write(response(200, Some("v1"))) }).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until `count` requests have arrived.
    pub async fn wait_for_requests(&self, count: usize) {
        let mut requests = self.log.requests.subscribe();
        let arrived = requests.wait_for(|requests| requests.len() >= count);
        timeout(TIMEOUT, arrived)
            .await
            .expect("the requests arrive")
            .unwrap();
    }

    pub fn requests(&self) -> Vec<String> {
        self.log.requests.borrow().clone()
    }

    pub fn accepted_connections(&self) -> usize {
        self.log.accepted.load(Ordering::SeqCst)
    }

    pub fn open_connections(&self) -> usize {
        self.log.open.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve<F, A>(mut stream: TcpStream, log: &ServerLog, answer: F)
where
    F: Fn(usize, String) -> A,
    A: Future<Output = Reply>,
{
    while let Some(head) = head(&mut stream).await {
        let closes = head.to_lowercase().contains("connection: close");
        let mut number = 0;
        log.requests.send_modify(|requests| {
            number = requests.len();
            requests.push(head.clone());
        });
        let (text, closes) = match answer(number, head).await {
            Reply::Write(text) => (text, closes),
            Reply::WriteAndClose(text) => (text, true),
            Reply::Never => {
                // Wait until the client closes the connection.
                let _ = stream.read(&mut [0]).await;
                return;
            }
        };
        if stream.write_all(text.as_bytes()).await.is_err() || closes {
            return;
        }
    }
}

/// Reads the head of the next request. `None` if the client has closed the connection.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A complete response.
pub fn response(status: u16, version: Option<&str>) -> String {
    let version = version
        .map(|version| format!("x-version: {version}\r\n"))
        .unwrap_or_default();
    format!("HTTP/1.1 {status} Text\r\n{version}content-length: 2\r\n\r\nok")
}

/// Polls until a condition holds.
pub async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let polling = async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(TIMEOUT, polling)
        .await
        .unwrap_or_else(|_| panic!("timed out waiting until {what}"));
}
