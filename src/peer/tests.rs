//! The pool against a real SSH server in this process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::server::{Command, TestPeer, new_key};
use super::*;

const SOON: Duration = Duration::from_secs(10);

/// `echo TEXT`, `cat`, `flood` (writes until the channel goes), `deaf` (reads nothing), `complain`, `exit N`.
fn commands() -> Command {
    Arc::new(|exec, mut channel| {
        Box::pin(async move {
            let (name, rest) = exec.split_once(' ').unwrap_or((exec.as_str(), ""));
            let mut writer = channel.make_writer();
            match name {
                "echo" => drop(writer.write_all(rest.as_bytes()).await),
                "cat" => {
                    let mut all = Vec::new();
                    drop(channel.make_reader().read_to_end(&mut all).await);
                    drop(writer.write_all(&all).await);
                }
                "flood" => while writer.write_all(&[b'x'; 32768]).await.is_ok() {},
                "deaf" => std::future::pending().await,
                "complain" => {
                    drop(channel.make_writer_ext(Some(1)).write_all(&[b'!'; 100_000]).await);
                    return 7;
                }
                _ => return rest.parse().unwrap_or(127),
            }
            0
        })
    })
}

async fn output(links: &Links, exec: &str) -> String {
    let mut pipe = links.run(&server2(), exec).await.expect(exec);
    let mut text = String::new();
    timeout(SOON, pipe.reader.read_to_string(&mut text)).await.expect("in time").expect(exec);
    let finished = timeout(SOON, pipe.finish()).await.expect("in time");
    assert_eq!(finished, Finished { exit: Some(0), stderr: String::new(), failure: None }, "{exec}");
    text
}

fn server2() -> HostName {
    HostName::new("server2").expect("a name")
}

#[tokio::test]
async fn commands_share_one_connection_and_report_how_they_ended() {
    let server = TestPeer::start(commands()).await;
    let (links, _peers) = server.links();
    let (a, b, c) = tokio::join!(output(&links, "echo a"), output(&links, "echo b"), output(&links, "echo c"));
    assert_eq!((a.as_str(), b.as_str(), c.as_str()), ("a", "b", "c"));
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    assert_eq!(*links.connected(&server2()).borrow(), 1);

    let complained = links.run(&server2(), "complain").await.expect("runs").finish().await;
    assert_eq!((complained.exit, complained.stderr.len()), (Some(7), 8192));
    let refused = links.run(&server2(), "refused").await.expect("opens").finish().await;
    assert!(refused.failure.expect("refused").to_string().contains("refused the command"));
}

#[tokio::test]
async fn bytes_arrive_whole_both_ways() {
    let server = TestPeer::start(commands()).await;
    let (links, _peers) = server.links();
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut pipe = links.run(&server2(), "cat").await.expect("runs");
    pipe.writer.write_all(&sent).await.expect("written");
    pipe.writer.shutdown().await.expect("ended");
    let mut got = Vec::new();
    timeout(SOON, pipe.reader.read_to_end(&mut got)).await.expect("in time").expect("read");
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
}

#[tokio::test]
async fn a_channel_that_nobody_reads_delays_no_other_and_is_failed_alone() {
    let server = TestPeer::start(commands()).await;
    let (links, _peers) = server.links();
    let flood = links.run(&server2(), "flood").await.expect("runs");
    assert_eq!(output(&links, "echo still here").await, "still here");
    let flooded = timeout(Duration::from_secs(60), flood.finish()).await.expect("failed");
    let failure = flooded.failure.expect("too slow").to_string();
    assert!(failure.contains("too slowly"), "{failure}");
    assert_eq!(output(&links, "echo still here").await, "still here");
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_command_that_takes_nothing_holds_up_its_own_pipe_alone() {
    const LENGTH: usize = 32 << 20;
    let (begin, begun) = watch::channel(false);
    let plain = commands();
    let command: Command = Arc::new(move |exec, mut channel| {
        if exec != "hold" {
            return plain(exec, channel);
        }
        let mut begun = begun.clone();
        Box::pin(async move {
            channel.extended_data_bytes(ahead::TAKEN, ahead::word(0)).await.expect("told");
            channel.data_bytes(&b"!"[..]).await.expect("told");
            begun.wait_for(|begun| *begun).await.expect("the test goes on");
            let mut taken = 0;
            while let Some(message) = channel.wait().await {
                let russh::ChannelMsg::Data { data } = message else { continue };
                taken += data.len();
                channel.extended_data_bytes(ahead::TAKEN, ahead::word(taken as u64)).await.expect("told");
                if taken == LENGTH {
                    return 0;
                }
            }
            1
        })
    });
    let server = TestPeer::start(command).await;
    let (links, _peers) = server.links();
    let mut held = links.run(&server2(), "hold").await.expect("runs");
    held.reader.read_exact(&mut [0]).await.expect("it has begun");
    let all = vec![b'x'; LENGTH];
    {
        let mut writing = std::pin::pin!(held.writer.write_all(&all));
        let sent = timeout(Duration::from_millis(500), &mut writing).await;
        assert!(sent.is_err(), "{LENGTH} bytes were sent to a command that takes nothing");
        for n in 0..3 {
            assert_eq!(output(&links, &format!("echo {n}")).await, n.to_string());
        }
        begin.send_replace(true);
        timeout(SOON, writing).await.expect("in time").expect("written");
    }
    assert_eq!(timeout(SOON, held.finish()).await.expect("in time").exit, Some(0));
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_broken_link_fails_its_pipes_and_the_next_run_dials_again() {
    let mut server = TestPeer::start(commands()).await;
    let (links, _peers) = server.links();
    let mut reading = links.run(&server2(), "deaf").await.expect("runs");
    let mut writing = links.run(&server2(), "deaf").await.expect("runs");
    let block = vec![0; 64 << 20];
    let cut = server.cut(false);
    let mut byte = [0];
    let (read, written, ()) =
        timeout(SOON, async { tokio::join!(reading.reader.read(&mut byte), writing.writer.write_all(&block), cut) })
            .await
            .expect("both end");
    assert!(read.is_err() && written.is_err(), "{read:?} {written:?}");

    let gone = links.run(&server2(), "echo x").await.map(drop).expect_err("nobody listens");
    assert!(gone.retry_can_help() && gone.to_string().starts_with("cannot reach server2 at 127.0.0.1:"), "{gone}");
    server.listen().await;
    assert_eq!(output(&links, "echo back").await, "back");
    assert_eq!(*links.connected(&server2()).borrow(), 2);

    // A connection that died unnoticed is replaced within one call.
    server.cut(true).await;
    assert_eq!(output(&links, "echo again").await, "again");
}

#[tokio::test]
async fn who_waits_for_a_failing_dial_shares_its_failure() {
    let mut server = TestPeer::start(commands()).await;
    server.cut(false).await;
    // It takes the connection and says nothing, so the dial is still under way when the others arrive.
    let mute = tokio::net::TcpListener::bind(("127.0.0.1", server.peer.port)).await.expect("the same port");
    let (links, _peers) = server.links();
    let (peer, all) = (server2(), async {
        let (socket, _) = mute.accept().await.expect("a dial");
        drop(socket);
    });
    let (a, b, c, ()) = tokio::join!(links.run(&peer, "echo"), links.run(&peer, "echo"), links.run(&peer, "echo"), all);
    for result in [a, b, c] {
        assert!(matches!(result.map(drop), Err(LinkError::Unreachable { .. })));
    }
    let more = timeout(Duration::from_millis(100), mute.accept()).await;
    assert!(more.is_err(), "one dial, not three");
}

#[tokio::test]
async fn keys_are_pinned_both_ways() {
    let server = TestPeer::start(commands()).await;
    let (links, peers) = server.links();

    let mut other = server.peer.clone();
    other.key = new_key().public_key().to_bytes().expect("encodes");
    peers.send_replace(Arc::new([(server2(), other)].into()));
    let wrong = links.run(&server2(), "echo").await.map(drop).expect_err("not that key");
    assert!(matches!(&wrong, LinkError::WrongKey { expected, got, .. } if expected != got), "{wrong}");
    assert!(!wrong.retry_can_help());

    let stranger = Links::new(new_key(), peers.subscribe());
    peers.send_replace(server.peers());
    let refused = stranger.run(&server2(), "echo").await.map(drop).expect_err("a stranger");
    assert!(matches!(&refused, LinkError::Refused { ours, .. } if ours.starts_with("SHA256:")), "{refused}");

    assert_eq!(output(&links, "echo x").await, "x");
    let pipe = links.run(&server2(), "deaf").await.expect("runs");
    peers.send_replace(Arc::default());
    let unknown = links.run(&server2(), "echo").await.map(drop).expect_err("removed");
    assert!(unknown.to_string().contains("gitmesh add-mirroring-peer server2.pub"), "{unknown}");
    assert!(timeout(SOON, pipe.finish()).await.expect("cut").failure.is_some());
}

#[tokio::test]
async fn dropped_pipes_are_closed_on_the_other_side() {
    let (sender, mut ended) = tokio::sync::mpsc::channel(64);
    let command: Command = Arc::new(move |_, mut channel| {
        let sender = sender.clone();
        Box::pin(async move {
            while channel.wait().await.is_some() {}
            let _ = sender.send(()).await;
            0
        })
    });
    let server = TestPeer::start(command).await;
    let (links, _peers) = server.links();
    let mut pipes = Vec::new();
    for _ in 0..50 {
        pipes.push(links.run(&server2(), "wait").await.expect("runs"));
    }
    drop(pipes);
    for n in 0..50 {
        timeout(SOON, ended.recv()).await.unwrap_or_else(|_| panic!("only {n} of 50 were closed")).expect("sent");
    }
}
