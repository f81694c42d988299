//! What an SSH git server can take, whichever it is: `cargo bench --bench capacity -- load URL KEY`, and what
//! connections cost that do nothing: `… -- idle URL KEY`. No git or ssh program is in the way of either.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use russh::client::{self, Handle, Handler};
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key};
use russh::{ChannelMsg, Disconnect};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures a server that is reached as ssh://USER@HOST:PORT/REPO.
#[derive(Parser)]
struct Arguments {
    /// What cargo bench adds.
    #[arg(long, hide = true, global = true)]
    bench: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Lists references over connections that stay, as fast as the server answers.
    Load {
        #[command(flatten)]
        server: Server,
        #[arg(long, default_value_t = 4)]
        connections: usize,
        /// Questions at once on each connection.
        #[arg(long, default_value_t = 4)]
        channels: usize,
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// Opens connections, logs in, and keeps them until Enter is pressed.
    Idle {
        #[command(flatten)]
        server: Server,
        #[arg(long, default_value_t = 500)]
        connections: usize,
    },
}

#[derive(clap::Args, Clone)]
struct Server {
    /// ssh://USER@HOST:PORT/REPO
    url: String,
    /// The file of a private key without a passphrase.
    key: PathBuf,
}

struct Anyone;

impl Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true) // a measurement on loopback
    }
}

impl Server {
    fn parts(&self) -> Option<(&str, &str, u16, &str)> {
        let (user, rest) = self.url.strip_prefix("ssh://")?.split_once('@')?;
        let (host, repo) = rest.split_once('/')?;
        let (host, port) = host.split_once(':').unwrap_or((host, "22"));
        Some((user, host, port.parse().ok()?, repo))
    }

    async fn connect(&self) -> Result<Handle<Anyone>, Failure> {
        let (user, host, port, _) = self.parts().ok_or("a URL is ssh://USER@HOST:PORT/REPO")?;
        let config = client::Config { nodelay: true, ..client::Config::default() };
        let mut handle = client::connect(Arc::new(config), (host, port), Anyone).await?;
        let key = PrivateKeyWithHashAlg::new(Arc::new(load_secret_key(&self.key, None)?), Some(HashAlg::Sha512));
        if !handle.authenticate_publickey(user, key).await?.success() {
            return Err("the key is not accepted".into());
        }
        Ok(handle)
    }

    /// One `ls-remote`, as git asks it with protocol version 2. Returns the bytes of the answer.
    async fn list(&self, handle: &Handle<Anyone>) -> Result<usize, Failure> {
        let (.., repo) = self.parts().ok_or("no URL")?;
        let mut channel = handle.channel_open_session().await?;
        channel.set_env(false, "GIT_PROTOCOL", "version=2").await?;
        // With the slash, as git sends it.
        channel.exec(false, format!("git-upload-pack '/{repo}'")).await?;
        let question = [
            &b"0014command=ls-refs\n"[..],
            b"0015agent=git/2.47.3\n0016object-format=sha1",
            b"0001",
            b"0009peel\n000csymrefs\n0014ref-prefix HEAD\n001bref-prefix refs/heads/\n",
            b"0000",
        ];
        let (mut asked, mut answer, mut ended, mut said_else) = (false, Vec::new(), false, Vec::new());
        while let Some(said) = channel.wait().await {
            match said {
                ChannelMsg::Data { data } => {
                    answer.extend_from_slice(&data);
                    if answer.ends_with(b"0000") && !asked {
                        asked = true;
                        answer.clear();
                        channel.data(&question.concat()[..]).await?;
                    } else if answer.ends_with(b"0000") && !ended {
                        ended = true;
                        channel.data(&b"0000"[..]).await?;
                        channel.eof().await?;
                    }
                }
                ChannelMsg::ExtendedData { data, .. } => said_else.extend_from_slice(&data),
                _ => {}
            }
        }
        match ended {
            true => Ok(answer.len()),
            false => Err(format!("the answer broke off: {}", String::from_utf8_lossy(&said_else).trim()).into()),
        }
    }
}

async fn load(server: Server, connections: usize, channels: usize, time: Duration) -> Result<(), Failure> {
    let (count, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = Vec::new();
    let begun = Instant::now();
    for _ in 0..connections {
        let handle = Arc::new(server.connect().await?);
        for _ in 0..channels {
            let (server, handle, count, over) = (server.clone(), handle.clone(), count.clone(), over.clone());
            tasks.push(tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    server.list(&handle).await?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, Failure>(())
            }));
        }
    }
    println!("{connections} connections after {:.3} s", begun.elapsed().as_secs_f64());
    tokio::time::sleep(time / 5).await; // until all are at work
    let (first, begun) = (count.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(time).await;
    let answers = count.load(Ordering::Relaxed) - first;
    println!("{:.0} answers a second", answers as f64 / begun.elapsed().as_secs_f64());
    over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn idle(server: Server, connections: usize) -> Result<(), Failure> {
    let mut open = Vec::new();
    let begun = Instant::now();
    for n in 0..connections {
        open.push(server.connect().await.map_err(|error| format!("connection {}: {error}", n + 1))?);
    }
    println!("{connections} connections after {:.3} s; Enter ends them", begun.elapsed().as_secs_f64());
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    println!("{} are still open", open.iter().filter(|handle| !handle.is_closed()).count());
    for handle in open {
        handle.disconnect(Disconnect::ByApplication, "", "").await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    match Arguments::parse().what {
        Some(What::Load { server, connections, channels, seconds }) => {
            load(server, connections, channels, Duration::from_secs(seconds)).await
        }
        Some(What::Idle { server, connections }) => idle(server, connections).await,
        None => {
            println!("capacity: needs a server; see -- --help");
            Ok(())
        }
    }
}
