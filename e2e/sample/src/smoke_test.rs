//! The smoke test: requests the service once, for the Job of a check.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    thread::sleep,
    time::{Duration, Instant},
};

/// The variable with host and port of the service. If it is set, the program tests that service and
/// exits.
pub const VARIABLE: &str = "SMOKE_TEST";

/// Time until the service must have answered. The endpoints of a new pod may take some seconds.
const PATIENCE: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Requests `/` until the service answers with status 200.
///
/// # Errors
/// The last problem, if it does not within 20 s.
pub fn run(address: &str) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match request(address) {
            Ok(()) => return Ok(()),
            Err(problem) if Instant::now() >= deadline => return Err(problem),
            Err(_) => sleep(Duration::from_millis(500)),
        }
    }
}

fn request(address: &str) -> Result<(), String> {
    let text = |error: std::io::Error| format!("{address}: {error}");
    let target = address.to_socket_addrs().map_err(text)?.next();
    let target = target.ok_or_else(|| format!("{address} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT).map_err(text)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: smoke-test\r\nconnection: close\r\n\r\n")
        .map_err(text)?;
    // The status line may arrive in parts.
    let mut head = Vec::new();
    stream.take(64).read_to_end(&mut head).map_err(text)?;
    let line = String::from_utf8_lossy(&head);
    let line = line.lines().next().unwrap_or_default();
    if line.starts_with("HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(format!("{address} answered {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with this status.
    fn answer(status: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 256];
            let _ = stream.read(&mut head).unwrap();
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").unwrap();
        });
        address
    }

    #[test]
    fn only_a_status_of_200_is_a_success() {
        assert_eq!(request(&answer("200 OK")), Ok(()));
        let problem = request(&answer("500 Internal Server Error")).unwrap_err();
        assert!(problem.contains("500"), "{problem}");
        assert!(request("127.0.0.1:1").is_err());
    }
}
