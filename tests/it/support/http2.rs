//! A client of HTTP/2 that behaves well: requests beside each other on one connection, and their answers.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, response};
use tokio::net::TcpStream;

use super::DEADLINE;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub head: response::Parts,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Why the body is not whole.
    pub broken: Option<h2::Reason>,
}

impl Answer {
    /// The number.
    pub fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    /// The first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A GET of this path.
pub fn get(path: &str) -> Request<Vec<u8>> {
    Request::get(format!("http://shard.example{path}")).body(vec![]).unwrap()
}

/// Sends these at once, on one connection, and reads all answers. An error: the stream was reset before its answer.
pub fn ask_all(addr: SocketAddr, requests: Vec<Request<Vec<u8>>>) -> Vec<Result<Answer, h2::Error>> {
    run(async move {
        let socket = TcpStream::connect(addr).await.unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        let driven = tokio::spawn(connection);
        let mut answers = Vec::new();
        for request in requests {
            let mut client = client.clone().ready().await.unwrap();
            let (head, body) = request.into_parts();
            let (answer, mut to) = client.send_request(Request::from_parts(head, ()), body.is_empty()).unwrap();
            if !body.is_empty() {
                to.send_data(Bytes::from(body), true).unwrap();
            }
            answers.push(tokio::spawn(read(answer)));
        }
        let mut out = Vec::new();
        for answer in answers {
            out.push(answer.await.unwrap());
        }
        drop(client);
        let _ = driven.await;
        out
    })
}

/// One request on a connection of its own.
pub fn ask(addr: SocketAddr, request: Request<Vec<u8>>) -> Answer {
    ask_all(addr, vec![request]).pop().unwrap().unwrap()
}

async fn read(answer: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut from) = answer.await?.into_parts();
    let mut answer = Answer { head, body: vec![], trailers: None, broken: None };
    while let Some(piece) = from.data().await {
        match piece {
            Ok(piece) => {
                from.flow_control().release_capacity(piece.len()).unwrap();
                answer.body.extend_from_slice(&piece);
            }
            Err(error) => {
                answer.broken = error.reason();
                return Ok(answer);
            }
        }
    }
    answer.trailers = from.trailers().await?;
    Ok(answer)
}

/// Runs this to its end.
pub fn run<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, what).await.expect("in time") })
}
