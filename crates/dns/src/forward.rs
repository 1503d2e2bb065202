//! Queries for other domains go to the node's own name servers, in their order; a truncated answer is asked
//! for again over TCP (RFC 1035 4.2.2).

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// One name server's time to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_UDP_BYTES: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("no name server is configured on this node")]
    NoServers,
    #[error("{0}: {1}")]
    Io(SocketAddr, std::io::Error),
    #[error("{0} did not answer in time")]
    Timeout(SocketAddr),
    #[error("{0} sent what is no answer")]
    Garbled(SocketAddr),
}

pub struct Forwarder {
    servers: Vec<SocketAddr>,
}

impl Forwarder {
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers }
    }

    /// Name servers of a `resolv.conf`, but for those that would lead back here.
    pub fn from_resolv_conf(text: &str, own: &[IpAddr]) -> Self {
        let addresses = text
            .lines()
            .filter_map(|l| l.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())
            .filter(|ip| !own.contains(ip));
        Self::new(addresses.map(|ip| SocketAddr::new(ip, 53)).collect())
    }

    /// The first answer a server gives; a server that fails is passed over.
    pub async fn ask(&self, query: Query) -> Result<Message, ForwardError> {
        let mut failure = ForwardError::NoServers;
        for server in &self.servers {
            match tokio::time::timeout(TIMEOUT, exchange(*server, &query)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = ForwardError::Timeout(*server),
            }
        }
        Err(failure)
    }
}

async fn exchange(server: SocketAddr, query: &Query) -> Result<Message, ForwardError> {
    let io = |e| ForwardError::Io(server, e);
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let bytes = message.to_vec().map_err(|_| ForwardError::Garbled(server))?;
    let local = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).await.map_err(io)?;
    socket.connect(server).await.map_err(io)?;
    socket.send(&bytes).await.map_err(io)?;
    let mut buffer = vec![0; MAX_UDP_BYTES];
    let answer = loop {
        let n = socket.recv(&mut buffer).await.map_err(io)?;
        // late answers to somebody else's query carry another id
        match Message::from_vec(&buffer[..n]) {
            Ok(m) if m.metadata.id == message.metadata.id && m.queries == message.queries => break m,
            _ => {}
        }
    };
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(server).await.map_err(io)?;
    let length = u16::try_from(bytes.len()).map_err(|_| ForwardError::Garbled(server))?;
    stream.write_all(&length.to_be_bytes()).await.map_err(io)?;
    stream.write_all(&bytes).await.map_err(io)?;
    let length = stream.read_u16().await.map_err(io)?;
    let mut whole = vec![0; usize::from(length)];
    stream.read_exact(&mut whole).await.map_err(io)?;
    Message::from_vec(&whole).map_err(|_| ForwardError::Garbled(server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_name_servers_are_used_but_never_ourselves() {
        let text = "search a b\nnameserver 10.96.0.10\nnameserver 192.0.2.1\n#nameserver 1.1.1.1\n";
        let f = Forwarder::from_resolv_conf(text, &["10.96.0.10".parse().unwrap()]);
        assert_eq!(f.servers, ["192.0.2.1:53".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_passed_over() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let there = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
            let answer = Message::from_vec(&buffer[..n]).unwrap().into_response();
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        });
        // port 9 of loopback refuses at once
        let forwarder = Forwarder::new(vec!["127.0.0.1:9".parse().unwrap(), there]);
        let query = Query::query("example.org.".parse().unwrap(), hickory_proto::rr::RecordType::A);
        let answer = forwarder.ask(query.clone()).await.unwrap();
        assert_eq!(answer.queries, [query]);
    }
}
