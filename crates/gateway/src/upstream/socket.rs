//! The upstream's socket as hyper sees it: counts what the kernel accepted, and looks before a reuse.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use rustix::net::RecvFlags;
use tokio::net::TcpStream;

/// What a connection's owner knows of its socket. Shared with the [`UpstreamSocket`] inside hyper.
///
/// The connection is driven by whoever holds it, so nothing is written while its owner looks: relaxed order suffices.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    written: AtomicU64,
    look_first: AtomicBool,
}

impl Gauge {
    /// Starts counting for a new request. `reused`: look at the socket before its first byte is written.
    pub(super) fn dispatch(&self, reused: bool) {
        self.written.store(0, Ordering::Relaxed);
        self.look_first.store(reused, Ordering::Relaxed);
    }

    /// Bytes that the kernel accepted since [`Gauge::dispatch`].
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// A TCP stream that counts accepted bytes.
///
/// hyper polls the read side of an idle connection before it takes a request from its queue. tokio may not have seen a
/// FIN that is already in the kernel, so the first read after a dispatch peeks at the kernel: anything readable on an
/// idle connection (end, error or bytes nobody asked for) is reported as its end, and hyper hands the request back.
#[derive(Debug)]
pub(super) struct UpstreamSocket {
    stream: TokioIo<TcpStream>,
    gauge: Arc<Gauge>,
}

impl UpstreamSocket {
    pub(super) fn new(stream: TcpStream, gauge: Arc<Gauge>) -> Self {
        Self { stream: TokioIo::new(stream), gauge }
    }

    /// True if the idle connection can be used: open, and nothing to read.
    fn is_quiet(&self) -> bool {
        let mut byte = [0_u8; 1];
        let peeked = rustix::net::recv(self.stream.inner(), &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR))
    }

    /// Counts the outcome of a write.
    fn count(&self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &wrote {
            self.gauge.written.fetch_add(*n as u64, Ordering::Relaxed);
        }
        wrote
    }

    /// Refuses the first write after a dispatch if nobody looked yet and the connection is dead.
    fn look_before_write(&self) -> io::Result<()> {
        if self.gauge.look_first.swap(false, Ordering::Relaxed) && !self.is_quiet() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl Read for UpstreamSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<Result<(), io::Error>> {
        if self.gauge.look_first.swap(false, Ordering::Relaxed) && !self.is_quiet() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for UpstreamSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.look_before_write()?;
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.look_before_write()?;
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(wrote)
    }
}
