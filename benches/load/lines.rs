//! A connection of a protocol of lines, whose lines announce the lengths of what follows them.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// The read buffer of a connection, in bytes.
const BUFFER: usize = 128 << 10;

pub struct Lines {
    stream: BufReader<TcpStream>,
    line: Vec<u8>,
}

impl Lines {
    pub async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::with_capacity(BUFFER, stream), line: Vec::new() })
    }

    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next line, without its end.
    pub async fn line(&mut self) -> anyhow::Result<&[u8]> {
        self.line.clear();
        self.stream.read_until(b'\n', &mut self.line).await?;
        self.line.strip_suffix(b"\r\n").context("the server has closed the connection")
    }

    /// The next bytes, without the end of the line after them.
    pub async fn bytes(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).await?;
        self.skip(2).await?;
        Ok(bytes)
    }

    pub async fn skip(&mut self, mut bytes: usize) -> anyhow::Result<()> {
        while bytes > 0 {
            let there = self.stream.fill_buf().await?.len().min(bytes);
            ensure!(there > 0, "the server has closed the connection");
            self.stream.consume(there);
            bytes -= there;
        }
        Ok(())
    }
}
