//! A client over a raw socket: sends the bytes it is told to, reads responses strictly, and says how a connection
//! ended. It knows nothing of HTTP that shardgate's own code could share a mistake with.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::DEADLINE;
use super::tls::TlsStream;

/// Name and value, in order.
pub type Fields = Vec<(String, String)>;

/// One connection.
pub struct Client {
    socket: Socket,
    buffer: Vec<u8>,
    host: String,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream>),
}

/// A response as it stood on the wire.
#[derive(Debug, Clone)]
pub struct Response {
    /// `HTTP/1.1` or `HTTP/1.0`
    pub version: String,
    /// The number.
    pub status: u16,
    /// Name and value, names as sent, in order.
    pub headers: Fields,
    /// Without its framing.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Fields,
    /// Whether the body came in chunks.
    pub chunked: bool,
    /// Interim responses that came first: status and fields.
    pub interim: Vec<(u16, Fields)>,
}

impl Response {
    /// The first field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Every field of this name.
    pub fn header_all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    /// Which [`Origin`](super::Origin) answered.
    pub fn origin(&self) -> &str {
        self.header("x-origin").unwrap_or_else(|| panic!("no origin answered: {self:?}"))
    }

    /// `reason` of a problem document; also checks that it is one.
    pub fn reason(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        problem["reason"].as_str().unwrap_or_else(|| panic!("no reason: {problem}")).to_owned()
    }
}

impl Client {
    /// Over TCP.
    pub fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr).unwrap_or_else(|e| panic!("connect to {addr}: {e}"))
    }

    /// Over TCP, where a refusal is an answer.
    pub fn try_connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { socket: Socket::Tcp(stream), buffer: Vec::new(), host: addr.to_string() })
    }

    /// Over a Unix socket.
    pub fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap_or_else(|e| panic!("connect to {}: {e}", path.display()));
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { socket: Socket::Unix(stream), buffer: Vec::new(), host: "localhost".into() }
    }

    /// Over TLS; see [`TlsClient`](super::tls::TlsClient).
    pub fn over(stream: TlsStream, host: &str) -> Self {
        Self { socket: Socket::Tls(Box::new(stream)), buffer: Vec::new(), host: host.to_owned() }
    }

    /// The session of a connection over TLS.
    pub fn session(&self) -> &rustls::ClientConnection {
        match &self.socket {
            Socket::Tls(s) => &s.conn,
            _ => panic!("not over TLS"),
        }
    }

    /// Our end of the connection, for TCP.
    pub fn local_addr(&self) -> SocketAddr {
        match &self.socket {
            Socket::Tcp(s) => s.local_addr().unwrap(),
            Socket::Tls(s) => s.sock.local_addr().unwrap(),
            Socket::Unix(_) => panic!("a Unix socket has no address"),
        }
    }

    /// Sends exactly these bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).unwrap_or_else(|e| panic!("send: {e}"));
    }

    /// Sends exactly these bytes, where the other side may have gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(s) => s.write_all(bytes),
            Socket::Unix(s) => s.write_all(bytes),
            Socket::Tls(s) => s.write_all(bytes).and_then(|()| s.flush()),
        }
    }

    /// A GET with nothing but Host, and its response.
    pub fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, &[], b"")
    }

    /// A POST with a sized body, and its response.
    pub fn post(&mut self, target: &str, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", target, &[], body.as_ref())
    }

    /// A request with these fields (Host and Content-Length are added unless given), and its response.
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.send(self.format(method, target, headers, body));
        self.response_to(method)
    }

    /// The bytes that [`request`](Self::request) sends.
    pub fn format(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut out = format!("{method} {target} HTTP/1.1\r\n");
        if !given("host") {
            out += &format!("Host: {}\r\n", self.host);
        }
        for (name, value) in headers {
            out += &format!("{name}: {value}\r\n");
        }
        if !given("content-length") && !given("transfer-encoding") && (!body.is_empty() || method == "POST") {
            out += &format!("Content-Length: {}\r\n", body.len());
        }
        let mut out = (out + "\r\n").into_bytes();
        out.extend_from_slice(body);
        out
    }

    /// The next response; anything that RFC 9112 does not allow is a panic.
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// The next response, as an answer to this method (HEAD has no body).
    pub fn response_to(&mut self, method: &str) -> Response {
        self.try_response_to(method).unwrap_or_else(|e| panic!("response: {e}; unread: {:?}", self.unread()))
    }

    /// The next response; `InvalidData` says what was wrong with it, `UnexpectedEof` that the connection ended inside.
    pub fn try_response_to(&mut self, method: &str) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let (version, status, headers) = self.head()?;
            if (100..200).contains(&status) && status != 101 {
                interim.push((status, headers));
                continue;
            }
            let mut response =
                Response { version, status, headers, body: vec![], trailers: vec![], chunked: false, interim };
            self.body(method, &mut response)?;
            return Ok(response);
        }
    }

    /// Reads only a response head; what follows stays unread.
    pub fn head_only(&mut self) -> (u16, Fields) {
        let (_, status, headers) = self.head().unwrap_or_else(|e| panic!("response head: {e}"));
        (status, headers)
    }

    /// Waits until at least this many unread bytes are there and takes exactly them.
    pub fn take(&mut self, n: usize) -> Vec<u8> {
        self.fill(n).unwrap_or_else(|e| panic!("read: {e}; unread: {:?}", self.unread()));
        self.buffer.drain(..n).collect()
    }

    /// Takes what is unread, or waits for more; empty at the end of the connection.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.read_more()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Reads until the other side ends the connection; what came is returned.
    pub fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.read_more() {
                Ok(0) => return std::mem::take(&mut self.buffer),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return std::mem::take(&mut self.buffer),
                Err(e) => panic!("waiting for the end of the connection: {e}; unread: {:?}", self.unread()),
            }
        }
    }

    /// Panics unless the other side ends the connection without another byte.
    pub fn expect_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "bytes before the end: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Whether the connection has ended by now, without waiting; unread bytes stay.
    pub fn is_closed(&mut self) -> bool {
        self.set_read_timeout(Duration::from_millis(1));
        let closed = loop {
            match self.read_more() {
                Ok(0) => break true,
                Ok(_) => {}
                Err(e) => break !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            }
        };
        self.set_read_timeout(DEADLINE);
        closed
    }

    /// Ends our sending side.
    pub fn finish(&mut self) {
        match &mut self.socket {
            Socket::Tcp(s) => s.shutdown(Shutdown::Write).unwrap(),
            Socket::Unix(s) => s.shutdown(Shutdown::Write).unwrap(),
            Socket::Tls(s) => {
                s.conn.send_close_notify();
                s.flush().unwrap();
            }
        }
    }

    /// What has come and was not read, as text.
    pub fn unread(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    fn set_read_timeout(&self, timeout: Duration) {
        match &self.socket {
            Socket::Tcp(s) => s.set_read_timeout(Some(timeout)).unwrap(),
            Socket::Unix(s) => s.set_read_timeout(Some(timeout)).unwrap(),
            Socket::Tls(s) => s.sock.set_read_timeout(Some(timeout)).unwrap(),
        }
    }

    fn head(&mut self) -> io::Result<(String, u16, Fields)> {
        let line = self.line()?;
        let mut words = line.splitn(3, ' ');
        let version = words.next().unwrap_or_default().to_owned();
        if version != "HTTP/1.1" && version != "HTTP/1.0" {
            return Err(bad(format!("status line {line:?}")));
        }
        let digits = words.next().unwrap_or_default();
        if digits.len() != 3 || words.next().is_none() {
            return Err(bad(format!("status line {line:?}")));
        }
        let status = digits.parse().map_err(|_| bad(format!("status line {line:?}")))?;
        Ok((version, status, self.fields()?))
    }

    fn fields(&mut self) -> io::Result<Fields> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(format!("field line {line:?}")))?;
            if name.is_empty() || name.contains(|c: char| !c.is_ascii_graphic()) {
                return Err(bad(format!("field name {name:?}")));
            }
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    fn body(&mut self, method: &str, response: &mut Response) -> io::Result<()> {
        let lengths = response.header_all("content-length").into_iter().map(str::to_owned).collect::<Vec<_>>();
        let codings = response.header_all("transfer-encoding").join(",");
        if lengths.len() > 1 || (!lengths.is_empty() && !codings.is_empty()) {
            return Err(bad(format!("two framings: {response:?}")));
        }
        if matches!(response.status, 101 | 204 | 304) || method == "HEAD" {
            if response.status == 204 && !(lengths.is_empty() && codings.is_empty()) {
                return Err(bad(format!("204 with a framing: {response:?}")));
            }
            return Ok(());
        }
        if codings.eq_ignore_ascii_case("chunked") {
            response.chunked = true;
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(&line, 16).map_err(|_| bad(format!("chunk size {line:?}")))?;
                if size == 0 {
                    response.trailers = self.fields()?;
                    return Ok(());
                }
                self.fill(size + 2)?;
                response.body.extend(self.buffer.drain(..size));
                if self.buffer.drain(..2).collect::<Vec<_>>() != b"\r\n" {
                    return Err(bad("no line end after a chunk"));
                }
            }
        } else if !codings.is_empty() {
            Err(bad(format!("transfer coding {codings:?}")))
        } else if let Some(length) = lengths.first() {
            let length = length.parse().map_err(|_| bad(format!("length {length:?}")))?;
            self.fill(length)?;
            response.body.extend(self.buffer.drain(..length));
            Ok(())
        } else {
            while self.read_more()? > 0 {}
            response.body = std::mem::take(&mut self.buffer);
            Ok(())
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut from = 0;
        loop {
            if let Some(at) = self.buffer[from..].iter().position(|&b| b == b'\n').map(|i| from + i) {
                let line = self.buffer.drain(..=at).collect::<Vec<_>>();
                let line = line.strip_suffix(b"\r\n").ok_or_else(|| bad("a bare LF"))?;
                if line.contains(&b'\r') || line.contains(&0) {
                    return Err(bad("a CR or NUL inside a line"));
                }
                return Ok(String::from_utf8_lossy(line).into_owned());
            }
            from = self.buffer.len();
            self.fill(from + 1)?;
        }
    }

    fn fill(&mut self, n: usize) -> io::Result<()> {
        while self.buffer.len() < n {
            if self.read_more()? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended"));
            }
        }
        Ok(())
    }

    fn read_more(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        loop {
            let read = match &mut self.socket {
                Socket::Tcp(s) => s.read(&mut piece),
                Socket::Unix(s) => s.read(&mut piece),
                Socket::Tls(s) => s.read(&mut piece),
            };
            match read {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(n) => {
                    self.buffer.extend_from_slice(&piece[..n]);
                    return Ok(n);
                }
            }
        }
    }
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
