//! A link: a TCP proxy on the way to a node, which can be cut, restored and made slow.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::time::Stop;
use super::{Node, node};

/// Cut when dropped.
pub struct Link {
    port: u16,
    wire: Arc<Wire>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Wire {
    closed: Stop,
    /// Streams that a cut shuts down; `None` while the link is cut.
    live: Mutex<Option<Vec<TcpStream>>>,
    delay_ms: AtomicU64,
    carried: AtomicUsize,
    dialled: AtomicUsize,
}

impl Link {
    pub(super) fn to(node: &Node) -> Self {
        let (listener, port) = loop {
            let port = node::free_port();
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                break (listener, port);
            }
        };
        let wire = Arc::new(Wire { live: Mutex::new(Some(Vec::new())), ..Wire::default() });
        let (at_wire, target) = (wire.clone(), node.socket_address());
        let accepting = std::thread::spawn(move || accept(&listener, target, &at_wire));
        Self { port, wire, accepting: Some(accepting) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// For `--address`.
    pub fn address(&self) -> String {
        format!("git@127.0.0.1:{}", self.port)
    }

    /// Ends every connection and refuses new ones.
    pub fn cut(&self) {
        for stream in self.wire.live.lock().unwrap().take().into_iter().flatten() {
            // One that has ended by itself needs no more.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn restore(&self) {
        self.wire.live.lock().unwrap().get_or_insert_default();
    }

    /// Each piece of up to 16 KiB waits this long before it goes on.
    pub fn delay(&self, delay: Duration) {
        self.wire.delay_ms.store(u64::try_from(delay.as_millis()).expect("short"), Ordering::SeqCst);
    }

    /// Bytes carried so far, both ways.
    pub fn carried(&self) -> usize {
        self.wire.carried.load(Ordering::SeqCst)
    }

    /// Connections that were asked for so far, also while the link was cut.
    pub fn dialled(&self) -> usize {
        self.wire.dialled.load(Ordering::SeqCst)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.wire.closed.now();
        self.cut();
        // Wakes the accept loop, which then sees that it is over.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(accepting) = self.accepting.take() {
            accepting.join().expect("the accept loop of a link");
        }
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, wire: &Arc<Wire>) {
    for stream in listener.incoming() {
        if wire.closed.is_set() {
            return;
        }
        let Ok(from) = stream else { continue };
        wire.dialled.fetch_add(1, Ordering::SeqCst);
        let mut live = wire.live.lock().unwrap();
        // While the link is cut, or the node is down, the caller sees its connection end at once.
        let Some(streams) = live.as_mut() else { continue };
        let Ok(to) = TcpStream::connect(target) else { continue };
        for stream in [&from, &to] {
            stream.set_nodelay(true).expect("a TCP stream");
            streams.push(stream.try_clone().expect("a file descriptor"));
        }
        for (from, to) in [(from.try_clone(), to.try_clone()), (Ok(to), Ok(from))] {
            let (from, to) = (from.expect("a file descriptor"), to.expect("a file descriptor"));
            let wire = wire.clone();
            std::thread::spawn(move || carry(from, to, &wire));
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, wire: &Wire) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let delay = wire.delay_ms.load(Ordering::SeqCst);
        if delay > 0 && wire.closed.within(Duration::from_millis(delay)) {
            break;
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        wire.carried.fetch_add(n, Ordering::SeqCst);
    }
    // Either side may have gone already.
    let _ = (from.shutdown(Shutdown::Read), to.shutdown(Shutdown::Write));
}
