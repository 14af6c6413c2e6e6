//! A small HTTP/1.1 client over blocking sockets, in which every exchange ends by a deadline.
//!
//! It promises to send exactly what it is told to, bad requests included, and to return what came back.
//! It leaves out whatever our servers do not do: redirects, compression unless it is asked for, TLS.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long an exchange may take unless the caller says otherwise: well over a node's own deadline, so that
/// it is the node that gives up first.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer's body at most.
const BODY_BYTES_MAX: usize = 1 << 30;

/// A request, good or bad.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    limit: Duration,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        let (method, path) = (method.to_owned(), path.to_owned());
        Self { method, path, headers: Vec::new(), body: Vec::new(), limit: PATIENCE }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// A request with a JSON body.
    pub(crate) fn json(method: &str, path: &str, body: &Value) -> Self {
        Self::new(method, path).header("content-type", "application/json").body(body.to_string())
    }

    pub(crate) fn post(path: &str, body: &Value) -> Self {
        Self::json("POST", path, body)
    }

    #[must_use]
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the request safe to repeat.
    #[must_use]
    pub(crate) fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    #[must_use]
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    #[must_use]
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sends it over a connection of its own.
    pub(crate) fn send(&self, addr: SocketAddr) -> io::Result<Response> {
        Connection::open(addr, self.limit)?.send(self)
    }

    /// Sends it over a connection of its own to a server that is known to be there.
    ///
    /// # Panics
    ///
    /// When there is no answer.
    pub(crate) fn ask(&self, addr: SocketAddr) -> Response {
        self.send(addr)
            .unwrap_or_else(|error| panic!("{} {} at {addr}: {error}", self.method, self.path))
    }

    /// The bytes on the wire.
    fn encode(&self, addr: SocketAddr) -> Vec<u8> {
        let mut bytes =
            format!("{} {} HTTP/1.1\r\nhost: {addr}\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let framed = |name: &str| name == "content-length" || name == "transfer-encoding";
        if !self.body.is_empty() && !self.headers.iter().any(|(name, _)| framed(name)) {
            bytes.extend_from_slice(format!("content-length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// When it is not JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {self:?} {}", self.text()))
    }

    /// The body as JSON, if the status is the expected one.
    ///
    /// # Panics
    ///
    /// When it is another, or the body is not JSON.
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }
}

/// A connection that may carry one request after another.
pub(crate) struct Connection {
    addr: SocketAddr,
    stream: BufReader<Timed>,
}

impl Connection {
    pub(crate) fn open(addr: SocketAddr, limit: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + limit;
        let stream = TcpStream::connect_timeout(&addr, limit)?;
        stream.set_nodelay(true)?;
        Ok(Self { addr, stream: BufReader::new(Timed { stream, deadline }) })
    }

    /// After an error the connection is of no more use.
    pub(crate) fn send(&mut self, request: &Request) -> io::Result<Response> {
        self.exchange(&request.encode(self.addr), request.limit)
    }

    /// Sends `bytes`, whatever they are, and reads an answer.
    pub(crate) fn exchange(&mut self, bytes: &[u8], limit: Duration) -> io::Result<Response> {
        self.stream.get_mut().deadline = Instant::now() + limit;
        // A server that refuses a request half-way may have closed its end; its answer is still to be read.
        let sent = self.stream.get_mut().write_all(bytes);
        match self.read_response() {
            Ok(response) => Ok(response),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }

    fn read_response(&mut self) -> io::Result<Response> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let line = self.read_line()?;
        let status = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "));
        let status =
            status.and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(|| invalid(&line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid(&line))?;
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: Vec::new() };
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.read_line()?;
                let length = usize::from_str_radix(&line, 16).map_err(|_| invalid(&line))?;
                self.read_body(&mut response.body, length)?;
                if !self.read_line()?.is_empty() {
                    return Err(invalid("more in a chunk than it was to have"));
                }
                if length == 0 {
                    return Ok(response);
                }
            }
        }
        let length = response.header("content-length").map_or(Ok(0), str::parse::<usize>);
        self.read_body(&mut response.body, length.map_err(|_| invalid("content-length"))?)?;
        Ok(response)
    }

    /// Reads `length` more bytes of a body.
    fn read_body(&mut self, body: &mut Vec<u8>, length: usize) -> io::Result<()> {
        let begun = body.len();
        let end = begun.checked_add(length).filter(|end| *end <= BODY_BYTES_MAX);
        body.resize(end.ok_or(io::ErrorKind::FileTooLarge)?, 0);
        self.stream.read_exact(&mut body[begun..])
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// A socket whose reads and writes end by a deadline.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
