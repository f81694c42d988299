//! Every metric of this process: declared here, counted where things happen, read by `gitmesh metrics`.
//!
//! Promises: counting is a few atomic additions, without a lock and without memory of its own; labels come from the
//! fixed sets below, never a repository or a user; names and units are Prometheus' (text exposition format 0.0.4).

use std::fmt::{self, Write as _};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Upper bounds of the buckets of every histogram, in seconds: a handshake takes milliseconds, a large clone minutes.
const BOUNDS: [f64; 18] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];
const BUCKETS: usize = BOUNDS.len() + 1;

/// From an accepted connection to a proved key.
pub static HANDSHAKE: Histogram = Histogram::new();
/// Connections by what became of them.
pub static CONNECTIONS: Family<Counter, 2> = Family::new([r#"result="authenticated""#, r#"result="left""#]);
/// Offers of a key that nobody here has, and keys proved.
pub static AUTH: Family<Counter, 2> =
    Family::new([r#"method="publickey",result="accepted""#, r#"method="publickey",result="refused""#]);

const SERVICES: [&str; 3] = [r#"service="upload-pack""#, r#"service="receive-pack""#, r#"service="upload-archive""#];
/// Sessions of git's by their end. `mesh` is what other nodes send and carry.
pub static REQUESTS: Family<Counter, 18> = Family::new([
    r#"service="upload-pack",transport="ssh",result="served""#,
    r#"service="upload-pack",transport="ssh",result="failed""#,
    r#"service="upload-pack",transport="ssh",result="refused""#,
    r#"service="upload-pack",transport="mesh",result="served""#,
    r#"service="upload-pack",transport="mesh",result="failed""#,
    r#"service="upload-pack",transport="mesh",result="refused""#,
    r#"service="receive-pack",transport="ssh",result="served""#,
    r#"service="receive-pack",transport="ssh",result="failed""#,
    r#"service="receive-pack",transport="ssh",result="refused""#,
    r#"service="receive-pack",transport="mesh",result="served""#,
    r#"service="receive-pack",transport="mesh",result="failed""#,
    r#"service="receive-pack",transport="mesh",result="refused""#,
    r#"service="upload-archive",transport="ssh",result="served""#,
    r#"service="upload-archive",transport="ssh",result="failed""#,
    r#"service="upload-archive",transport="ssh",result="refused""#,
    r#"service="upload-archive",transport="mesh",result="served""#,
    r#"service="upload-archive",transport="mesh",result="failed""#,
    r#"service="upload-archive",transport="mesh",result="refused""#,
]);
/// Sessions of git's from their request to their end.
pub static REQUEST: Family<Histogram, 6> = Family::new([
    r#"service="upload-pack",transport="ssh""#,
    r#"service="upload-pack",transport="mesh""#,
    r#"service="receive-pack",transport="ssh""#,
    r#"service="receive-pack",transport="mesh""#,
    r#"service="upload-archive",transport="ssh""#,
    r#"service="upload-archive",transport="mesh""#,
]);
/// From a session's request to the first byte of its answer.
pub static FIRST_BYTE: Family<Histogram, 3> = Family::new(SERVICES);
/// Packs of clones by where they came from: the repository's store, an earlier clone, or git-pack-objects.
pub static PACKS: Family<Counter, 3> = Family::new([r#"from="stored""#, r#"from="kept""#, r#"from="made""#]);
/// From the request for a pack to its first byte.
pub static FIRST_PACK_BYTE: Histogram = Histogram::new();
/// Bytes that sessions have carried.
pub static TRANSFERRED: Family<Counter, 6> = Family::new([
    r#"service="upload-pack",direction="sent""#,
    r#"service="upload-pack",direction="received""#,
    r#"service="receive-pack",direction="sent""#,
    r#"service="receive-pack",direction="received""#,
    r#"service="upload-archive",direction="sent""#,
    r#"service="upload-archive",direction="received""#,
]);
/// Waiting for a place among the git processes, and for a turn at making a large pack.
pub static QUEUE: Histogram = Histogram::new();
/// git's processes from start to end.
pub static PROCESS: Family<Histogram, 8> = Family::new([
    r#"program="pack-objects""#,
    r#"program="index-pack""#,
    r#"program="rev-list""#,
    r#"program="update-ref""#,
    r#"program="upload-pack""#,
    r#"program="receive-pack""#,
    r#"program="upload-archive""#,
    OTHER,
]);
const OTHER: &str = r#"program="other""#;
/// git's processes at work.
pub static PROCESSES: Gauge = Gauge::new();
/// Judging a push (git's proc-receive), and a site's own hooks.
pub static HOOK: Family<Histogram, 5> = Family::new([
    r#"hook="proc-receive""#,
    r#"hook="pre-receive""#,
    r#"hook="update""#,
    r#"hook="post-receive""#,
    r#"hook="post-update""#,
]);
/// References that pushes asked to move.
pub static PUSH_REFS: Family<Counter, 2> = Family::new([r#"result="landed""#, r#"result="refused""#]);

/// Pushes to copies that brought something, from their start to their end.
pub static MIRROR_PUSH: Histogram = Histogram::new();
/// How old the oldest change was that such a push brought.
pub static MIRROR_LAG: Histogram = Histogram::new();

/// A number that only grows.
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
}

/// How many there are now.
pub struct Gauge(AtomicU64);

impl Gauge {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more, until the guard is dropped.
    #[must_use]
    pub fn enter(&'static self) -> Present {
        self.0.fetch_add(1, Relaxed);
        Present(self)
    }
}

/// One of those that a [`Gauge`] counts.
#[derive(Debug)]
pub struct Present(&'static Gauge);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// How long things take.
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl Histogram {
    const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], nanoseconds: AtomicU64::new(0) }
    }

    pub fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[at].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Records the time from `begun` to now.
    pub fn since(&self, begun: Instant) {
        self.record(begun.elapsed());
    }

    /// How many were recorded, and each bucket's count up to and with it.
    fn counts(&self) -> [u64; BUCKETS] {
        let mut sum = 0;
        std::array::from_fn(|at| {
            sum += self.buckets[at].load(Relaxed);
            sum
        })
    }
}

/// The same metric for each of a fixed set of labels, as they are written between braces.
pub struct Family<T, const N: usize> {
    labels: [&'static str; N],
    each: [T; N],
}

impl<T: Metric, const N: usize> Family<T, N> {
    const fn new(labels: [&'static str; N]) -> Self {
        Self { labels, each: [const { T::ZERO }; N] }
    }

    /// The metric of these values, in the order of its labels; of values that are not in the set, the last one.
    pub fn of(&self, values: &[&str]) -> &T {
        let found = self.labels.iter().position(|labels| are(labels, values));
        &self.each[found.unwrap_or(N - 1)]
    }
}

fn are(labels: &str, values: &[&str]) -> bool {
    labels.split(',').filter_map(|label| Some(label.split_once('=')?.1.trim_matches('"'))).eq(values.iter().copied())
}

/// A stream whose bytes are counted, the first of what is written by its time.
pub struct Metered<S> {
    inner: S,
    bytes: &'static Counter,
    /// Until the first byte: since when it is awaited, and where it is recorded.
    first: Option<(Instant, &'static Histogram)>,
}

impl<S> Metered<S> {
    pub fn new(inner: S, bytes: &'static Counter, first: Option<(Instant, &'static Histogram)>) -> Self {
        Self { inner, bytes, first }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.bytes.add((buf.filled().len() - before) as u64);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(n)) = written {
            self.bytes.add(n as u64);
            if let Some((begun, histogram)) = self.first.take() {
                histogram.since(begun);
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Something that can be written down under a name.
pub trait Metric {
    /// As it is before anything has happened.
    const ZERO: Self;
    const KIND: &str;
    fn write(&self, out: &mut Exposition, name: &str, labels: &str);
}

impl Metric for Counter {
    const ZERO: Self = Self::new();
    const KIND: &str = "counter";
    fn write(&self, out: &mut Exposition, name: &str, labels: &str) {
        out.sample(name, labels, self.0.load(Relaxed));
    }
}

impl Metric for Gauge {
    const ZERO: Self = Self::new();
    const KIND: &str = "gauge";
    fn write(&self, out: &mut Exposition, name: &str, labels: &str) {
        out.sample(name, labels, self.0.load(Relaxed));
    }
}

impl Metric for Histogram {
    const ZERO: Self = Self::new();
    const KIND: &str = "histogram";
    fn write(&self, out: &mut Exposition, name: &str, labels: &str) {
        // The sum first: a sample that comes meanwhile is then at most in a bucket too many, never in the sum alone.
        let sum = self.nanoseconds.load(Relaxed) as f64 / 1e9;
        let counts = self.counts();
        let comma = if labels.is_empty() { "" } else { "," };
        for (bound, count) in BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]).zip(counts) {
            out.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), count);
        }
        out.sample(&format!("{name}_sum"), labels, sum);
        out.sample(&format!("{name}_count"), labels, counts[BUCKETS - 1]);
    }
}

/// Metrics as Prometheus reads them.
#[derive(Default)]
pub struct Exposition(String);

impl Exposition {
    /// Announces a metric, whose samples follow.
    pub fn announce(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a string takes all");
    }

    /// One line; `labels` as they stand between braces.
    pub fn sample(&mut self, name: &str, labels: &str, value: impl fmt::Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(self.0, "{name}{labels} {value}").expect("a string takes all");
    }

    fn one<T: Metric>(&mut self, name: &str, help: &str, metric: &T) {
        self.announce(name, T::KIND, help);
        metric.write(self, name, "");
    }

    fn family<T: Metric, const N: usize>(&mut self, name: &str, help: &str, family: &Family<T, N>) {
        self.announce(name, T::KIND, help);
        for (labels, metric) in family.labels.iter().zip(&family.each) {
            metric.write(self, name, labels);
        }
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

/// Everything that this process has counted.
pub fn exposition() -> Exposition {
    let mut out = Exposition::default();
    out.family("gitmesh_ssh_connections_total", "Connections that have ended their handshake.", &CONNECTIONS);
    out.family("gitmesh_ssh_auth_total", "Keys proved, and keys offered that nobody here has.", &AUTH);
    out.one("gitmesh_ssh_handshake_duration_seconds", "From an accepted connection to a proved key.", &HANDSHAKE);
    out.family("gitmesh_git_requests_total", "Sessions of git's by their end.", &REQUESTS);
    out.family("gitmesh_git_request_duration_seconds", "Sessions of git's from request to end.", &REQUEST);
    out.family("gitmesh_git_first_byte_seconds", "From a request to the first byte of its answer.", &FIRST_BYTE);
    out.one(
        "gitmesh_git_first_pack_byte_seconds",
        "From a clone's request to its pack's first byte.",
        &FIRST_PACK_BYTE,
    );
    out.family("gitmesh_git_packs_total", "Packs of clones by where they came from.", &PACKS);
    out.family("gitmesh_git_transferred_bytes_total", "Bytes that sessions have carried.", &TRANSFERRED);
    out.one("gitmesh_git_queue_seconds", "Waiting for a place or a turn.", &QUEUE);
    out.family("gitmesh_git_process_duration_seconds", "git's processes from start to end.", &PROCESS);
    out.one("gitmesh_git_processes", "git's processes at work.", &PROCESSES);
    out.family("gitmesh_hook_duration_seconds", "Judging a push (proc-receive), and a site's own hooks.", &HOOK);
    out.one("gitmesh_mirror_push_duration_seconds", "Pushes to copies that brought something.", &MIRROR_PUSH);
    out.one("gitmesh_mirror_delay_seconds", "From a change here to its arrival on a copy.", &MIRROR_LAG);
    out.family("gitmesh_push_refs_total", "References that pushes asked to move.", &PUSH_REFS);
    out
}

/// A line of a table, if anything was recorded: how many, half of them within, ninety-nine of a hundred within.
fn line(out: &mut String, width: usize, what: &str, histogram: &Histogram) {
    let counts = histogram.counts();
    let Some(all) = counts.last().filter(|all| **all > 0) else { return };
    let within = |share: f64| {
        let at = counts.iter().position(|count| *count as f64 >= share * *all as f64).unwrap_or(BOUNDS.len());
        BOUNDS.get(at).map_or("longer".to_owned(), |bound| match *bound {
            bound if bound < 1.0 => format!("{} ms", bound * 1000.0),
            bound => format!("{bound} s"),
        })
    };
    writeln!(out, "{what:<width$} {all:>9} {:>10} {:>10}", within(0.5), within(0.99)).expect("a string takes all");
}

fn table(width: usize, title: &str) -> String {
    format!("{title:<width$} {:>9} {:>10} {:>10}\n", "COUNT", "MEDIAN", "99 %")
}

/// Where users' time goes, in a few lines; none before anything has happened.
pub fn brief() -> String {
    const WIDTH: usize = 30;
    let mut rows = String::new();
    line(&mut rows, WIDTH, "SSH handshake", &HANDSHAKE);
    line(&mut rows, WIDTH, "first byte of a fetch", FIRST_BYTE.of(&["upload-pack"]));
    line(&mut rows, WIDTH, "push", REQUEST.of(&["receive-pack", "ssh"]));
    line(&mut rows, WIDTH, "wait for a turn", &QUEUE);
    line(&mut rows, WIDTH, "from here to a copy", &MIRROR_LAG);
    if rows.is_empty() { rows } else { table(WIDTH, "SINCE THE START") + &rows }
}

/// The histograms in words: how many, half of them within, ninety-nine of a hundred within.
pub fn summary() -> String {
    const WIDTH: usize = 62;
    let mut out = table(WIDTH, "");
    let mut line = |name: &str, labels: &str, histogram: &Histogram| {
        let what = format!("{name} {}", labels.replace('"', "").replace(',', " "));
        line(&mut out, WIDTH, what.trim_end(), histogram);
    };
    line("handshake", "", &HANDSHAKE);
    line("queue", "", &QUEUE);
    line("first pack byte", "", &FIRST_PACK_BYTE);
    line("push to a copy", "", &MIRROR_PUSH);
    line("from here to a copy", "", &MIRROR_LAG);
    let mut family = |name: &str, labels: &[&str], each: &[Histogram]| {
        labels.iter().zip(each).for_each(|(labels, histogram)| line(name, labels, histogram));
    };
    family("first byte", &FIRST_BYTE.labels, &FIRST_BYTE.each);
    family("request", &REQUEST.labels, &REQUEST.each);
    family("process", &PROCESS.labels, &PROCESS.each);
    family("hook", &HOOK.labels, &HOOK.each);
    out
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_its_bounds_are_inclusive() {
        let histogram = Histogram::new();
        for ms in [0, 1, 2, 3, 4_000_000] {
            histogram.record(Duration::from_millis(ms));
        }
        let mut out = Exposition::default();
        histogram.write(&mut out, "x", "a=\"b\"");
        let text = out.into_text();
        for line in [
            "x_bucket{a=\"b\",le=\"0.0005\"} 1",
            "x_bucket{a=\"b\",le=\"0.001\"} 2",
            "x_bucket{a=\"b\",le=\"0.002\"} 3",
            "x_bucket{a=\"b\",le=\"0.005\"} 4",
            "x_bucket{a=\"b\",le=\"1800\"} 4",
            "x_bucket{a=\"b\",le=\"+Inf\"} 5",
            "x_sum{a=\"b\"} 4000.006",
            "x_count{a=\"b\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn labels_name_one_metric() {
        let family = Family::<Counter, 3>::new(["a=\"x\",b=\"y\"", "a=\"x\",b=\"z\"", "a=\"other\""]);
        family.of(&["x", "z"]).add(2);
        family.of(&["x"]).add(3);
        let counts: Vec<_> = family.each.iter().map(|counter| counter.0.load(Relaxed)).collect();
        assert_eq!(counts, [0, 2, 3], "what is not in the set is the last");
    }

    #[test]
    fn every_set_holds_what_is_asked_of_it() {
        for service in ["upload-pack", "receive-pack", "upload-archive"] {
            for transport in ["ssh", "mesh"] {
                assert!(REQUEST.labels.iter().any(|labels| are(labels, &[service, transport])));
                for result in ["served", "failed", "refused"] {
                    assert!(REQUESTS.labels.iter().any(|labels| are(labels, &[service, transport, result])));
                }
            }
            for direction in ["sent", "received"] {
                assert!(TRANSFERRED.labels.iter().any(|labels| are(labels, &[service, direction])));
            }
            assert!(FIRST_BYTE.labels.iter().any(|labels| are(labels, &[service])));
        }
    }

    #[test]
    fn present_is_counted_while_it_is() {
        static GAUGE: Gauge = Gauge::new();
        let (first, second) = (GAUGE.enter(), GAUGE.enter());
        drop(first);
        assert_eq!(GAUGE.0.load(Relaxed), 1);
        drop(second);
        assert_eq!(GAUGE.0.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_metered_stream_counts_and_times_its_first_byte() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        static BYTES: Counter = Counter::new();
        static FIRST: Histogram = Histogram::new();
        let mut written = Metered::new(Vec::new(), &BYTES, Some((Instant::now(), &FIRST)));
        written.write_all(b"abc").await.expect("written");
        written.write_all(b"de").await.expect("written");
        assert_eq!((BYTES.0.load(Relaxed), FIRST.counts()[BUCKETS - 1]), (5, 1));
        let mut read = Metered::new(&b"xy"[..], &BYTES, None);
        read.read_to_end(&mut Vec::new()).await.expect("read");
        assert_eq!(BYTES.0.load(Relaxed), 7);
    }
}
