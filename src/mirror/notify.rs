//! Alarms on their way out: a program of the site's own and a webhook, each with its own short queue.
//!
//! Promises: a receiver that hangs or is away delays nothing but its own queue; what does not fit any more is dropped,
//! oldest first, and counted. An alarm that cannot be delivered after [`TRIES`] is in the log all the same.

use std::collections::VecDeque;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::notice::Notice;
use super::{Inner, NotifyConfig};

/// Alarms that wait for one receiver.
const QUEUE_MAX: usize = 256;
/// How often an alarm is tried, with pauses between that grow from the first.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Of what the program prints, how much is logged, in bytes.
const OUTPUT_MAX: usize = 2000;
/// The longest status line of an HTTP answer, in bytes.
const STATUS_MAX: u64 = 1000;

/// Where alarms are posted: `http://HOST[:PORT][/PATH]`. Its path may hold a secret and is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    host: String,
    port: u16,
    path: String,
}

impl FromStr for Webhook {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        if url.starts_with("https://") {
            return Err(
                "https is not spoken here; post with a program of your own: command = \"/path/to/program\"".to_owned()
            );
        }
        let rest = url.strip_prefix("http://").ok_or("a webhook is written as http://HOST:PORT/PATH")?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().ok().filter(|port| *port > 0).ok_or(format!("'{port}' is no port"))?)
            }
            _ => (authority, 80),
        };
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if host.is_empty() || host.contains('@') || !plain(host) || !plain(path) {
            return Err(
                "a webhook is written as http://HOST:PORT/PATH, without a user name and without spaces".to_owned()
            );
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { host: host.to_owned(), port, path })
    }
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}:{}/…", self.host, self.port)
    }
}

/// One receiver's queue.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<(VecDeque<Arc<Notice>>, u64)>,
    bell: Notify,
}

impl Outbox {
    fn waiting(&self) -> MutexGuard<'_, (VecDeque<Arc<Notice>>, u64)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, notice: Arc<Notice>) {
        let mut waiting = self.waiting();
        if waiting.0.len() >= QUEUE_MAX {
            waiting.0.pop_front();
            waiting.1 += 1;
        }
        waiting.0.push_back(notice);
        self.bell.notify_one();
    }

    /// The oldest, and how many before it were dropped.
    fn take(&self) -> Option<(Arc<Notice>, u64)> {
        let mut waiting = self.waiting();
        let notice = waiting.0.pop_front()?;
        Some((notice, std::mem::take(&mut waiting.1)))
    }
}

/// The two ways out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    Command,
    Webhook,
}

/// Delivers until `stop`; what waits then is in the log.
pub(super) async fn run(inner: Arc<Inner>, way: Way, stop: CancellationToken) {
    let outbox = inner.outbox(way);
    let work = async {
        loop {
            outbox.bell.notified().await;
            while let Some((notice, dropped)) = outbox.take() {
                if dropped > 0 {
                    tracing::warn!(
                        ?way,
                        dropped,
                        "alarms came faster than they could be delivered; the oldest are lost"
                    );
                }
                deliver(&inner, way, &notice, dropped).await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn deliver(inner: &Inner, way: Way, notice: &Notice, dropped: u64) {
    let mut pause = PAUSE;
    for left in (0..TRIES).rev() {
        // At each try, so that a mended setting counts at once.
        let config = inner.notify_config();
        let sent = match (way, &config.command, &config.webhook) {
            (Way::Command, Some(command), _) => run_command(inner, &config, command, notice, dropped).await,
            (Way::Webhook, _, Some(webhook)) => post(webhook, &body(inner, notice, dropped), config.timeout).await,
            _ => return,
        };
        match sent {
            Ok(()) => return,
            Err(error) if left == 0 => {
                tracing::warn!(?way, error, event = notice.kind.word(), peer = %notice.peer, "an alarm was not delivered");
            }
            Err(error) => {
                tracing::debug!(?way, error, "an alarm is tried again");
                tokio::time::sleep(pause).await;
                pause *= 4;
            }
        }
    }
}

/// [`Notice::json`], and from which node it comes, and how many before it were lost.
fn body(inner: &Inner, notice: &Notice, dropped: u64) -> String {
    let mut json = notice.json();
    json["node"] = inner.world.node.as_str().into();
    json["dropped"] = dropped.into();
    json.to_string()
}

async fn run_command(
    inner: &Inner,
    config: &NotifyConfig,
    command: &Path,
    notice: &Notice,
    dropped: u64,
) -> Result<(), String> {
    let repos = notice.repos.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(" ");
    let variable = |name: &str, value: String| (format!("GITMESH_EVENT{name}"), value);
    let env = [
        variable("", notice.kind.word().to_owned()),
        variable("_NODE", inner.world.node.to_string()),
        variable("_PEER", notice.peer.to_string()),
        variable("_COPIES", notice.copies.to_string()),
        variable("_REPOS", repos),
        variable("_DETAIL", notice.detail.clone()),
        variable("_TEXT", notice.to_string()),
    ];
    let input = body(inner, notice, dropped) + "\n";
    let ran = inner.git.run_apart(command, input.as_bytes(), &env, config.timeout).await;
    let ran = ran.map_err(|error| format!("{} {error}", command.display()))?;
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said[..said.len().min(OUTPUT_MAX)]).trim().to_owned();
    if ran.status.success() {
        tracing::info!(event = notice.kind.word(), output = said, "the alarm was given to the command");
        return Ok(());
    }
    Err(format!("{} ended with {}: {said}", command.display(), ran.status))
}

/// One POST (RFC 9112); of the answer only the status counts.
async fn post(to: &Webhook, body: &str, time: Duration) -> Result<(), String> {
    let Webhook { host, port, path } = to;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         User-Agent: gitmesh/{}\r\nConnection: close\r\n\r\n{body}",
        body.len(),
        env!("CARGO_PKG_VERSION")
    );
    let exchange = async {
        let mut stream = TcpStream::connect((host.trim_matches(['[', ']']), *port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut status = String::new();
        BufReader::new(stream).take(STATUS_MAX).read_line(&mut status).await?;
        Ok::<_, std::io::Error>(status)
    };
    let status = timeout(time, exchange).await;
    let status = status.map_err(|_| format!("{to:?} did not answer in {} s", time.as_secs()))?;
    let status = status.map_err(|error| format!("{to:?}: {error}"))?;
    let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
    if code.len() == 3 && code.starts_with('2') {
        return Ok(());
    }
    Err(format!("{to:?} answered {:?}", status.trim_end()))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tokio::net::TcpListener;

    use super::super::notice::Kind;
    use super::*;
    use crate::model::HostName;

    fn notice(n: usize) -> Arc<Notice> {
        let peer = HostName::new("server2").unwrap();
        Arc::new(Notice { copies: n, ..Notice::new(Kind::Late, peer, SystemTime::now()) })
    }

    #[test]
    fn webhooks_are_checked_and_their_secret_is_not_shown() {
        let hook: Webhook = "http://ops.example:8080/hook?token=secret".parse().unwrap();
        assert_eq!((hook.host.as_str(), hook.port, hook.path.as_str()), ("ops.example", 8080, "/hook?token=secret"));
        assert!(!format!("{hook:?}").contains("secret"));
        let short: Webhook = "http://[::1]".parse().unwrap();
        assert_eq!((short.host.as_str(), short.port, short.path.as_str()), ("[::1]", 80, "/"));
        for bad in
            ["", "ftp://x", "http://", "http://a:0/", "http://a:x/", "http://u@a/", "http://a/ b", "http://a/\r\nX: y"]
        {
            assert!(bad.parse::<Webhook>().is_err(), "{bad:?}");
        }
        assert!("https://a/".parse::<Webhook>().unwrap_err().contains("command"));
    }

    #[test]
    fn a_full_outbox_drops_the_oldest_and_counts() {
        let outbox = Outbox::default();
        for n in 0..QUEUE_MAX + 3 {
            outbox.put(notice(n));
        }
        let first = outbox.take().unwrap();
        assert_eq!((first.0.copies, first.1), (3, 3));
        assert_eq!(outbox.take().unwrap().1, 0, "told once");
        assert_eq!(std::iter::from_fn(|| outbox.take()).count(), QUEUE_MAX - 2);
    }

    #[tokio::test]
    async fn a_webhook_gets_json_and_one_that_hangs_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hook: Webhook = format!("http://{}/x", listener.local_addr().unwrap()).parse().unwrap();
        let answer = async |status: &str| {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = vec![0; 4096];
            let n = stream.read(&mut read).await.unwrap();
            stream.write_all(status.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&read[..n]).into_owned()
        };
        let time = Duration::from_secs(10);
        let (sent, got) = tokio::join!(post(&hook, "{\"a\":1}", time), answer("HTTP/1.1 204 No Content\r\n\r\n"));
        assert_eq!(sent, Ok(()));
        assert!(got.starts_with("POST /x HTTP/1.1\r\n") && got.ends_with("\r\n\r\n{\"a\":1}"), "{got}");
        let (sent, _) = tokio::join!(post(&hook, "{}", time), answer("HTTP/1.1 500 Broken\r\n\r\n"));
        assert!(sent.unwrap_err().contains("500 Broken"));
        let hanging = post(&hook, "{}", Duration::from_millis(50)).await;
        assert!(hanging.unwrap_err().contains("did not answer"));
        drop(listener);
        assert!(post(&hook, "{}", time).await.is_err());
    }
}
