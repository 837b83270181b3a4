//! A server of a few lines on a loopback port: a real one would be too well-behaved.

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
const PATIENCE: Duration = Duration::from_secs(30);

/// What the server does with a request.
pub enum Reply {
    /// Writes this and keeps the connection.
    Whole(String),
    /// Writes this and closes the connection.
    ThenClose(String),
    /// Answers nothing for as long as the client waits.
    Never,
}

/// What the server has seen.
#[derive(Default)]
struct Seen {
    /// The head of every request, in the order of arrival.
    requests: watch::Sender<Vec<String>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// A server that stops when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Answers the n-th request (from 0) with this head by `answer`.
    pub async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(usize, String) -> A + Clone + Send + 'static,
        A: Future<Output = Reply> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let accepting = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    seen.accepted.fetch_add(1, Ordering::SeqCst);
                    seen.open.fetch_add(1, Ordering::SeqCst);
                    let (seen, answer) = (Arc::clone(&seen), answer.clone());
                    tokio::spawn(async move {
                        serve(stream, &seen, answer).await;
                        seen.open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        Self {
            address,
            seen,
            accepting,
        }
    }

    /// Answers everything 200 as version v1.
    pub async fn good() -> Self {
        Self::start(|_, _| async { Reply::Whole(answer(200, Some("v1"))) }).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until so many requests have arrived.
    pub async fn arrived(&self, count: usize) {
        let mut requests = self.seen.requests.subscribe();
        let arrived = requests.wait_for(|requests| requests.len() >= count);
        timeout(PATIENCE, arrived)
            .await
            .expect("the requests arrive")
            .unwrap();
    }

    pub fn requests(&self) -> Vec<String> {
        self.seen.requests.borrow().clone()
    }

    pub fn accepted(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }

    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve<F, A>(mut stream: TcpStream, seen: &Seen, answer: F)
where
    F: Fn(usize, String) -> A,
    A: Future<Output = Reply>,
{
    while let Some(head) = head(&mut stream).await {
        let closes = head.to_lowercase().contains("connection: close");
        let mut number = 0;
        seen.requests.send_modify(|requests| {
            number = requests.len();
            requests.push(head.clone());
        });
        let (text, closes) = match answer(number, head).await {
            Reply::Whole(text) => (text, closes),
            Reply::ThenClose(text) => (text, true),
            Reply::Never => {
                // The client's end of the connection is the end of its patience.
                let _ = stream.read(&mut [0]).await;
                return;
            }
        };
        if stream.write_all(text.as_bytes()).await.is_err() || closes {
            return;
        }
    }
}

/// The next request's head; none once the client is gone.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A whole answer.
pub fn answer(status: u16, version: Option<&str>) -> String {
    let version = version
        .map(|version| format!("x-version: {version}\r\n"))
        .unwrap_or_default();
    format!("HTTP/1.1 {status} Text\r\n{version}content-length: 2\r\n\r\nok")
}

/// Waits until something holds that can only be asked for.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let polling = async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, polling)
        .await
        .unwrap_or_else(|_| panic!("waited in vain until {what}"));
}
