//! A smart HTTP server that is not ours: git-http-backend(1) behind a few lines of HTTP/1.1, with a token check.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::World;

/// Repositories below a directory, for whoever sends `Authorization: <expected>`.
pub struct HttpServer {
    port: u16,
    pub dir: PathBuf,
    pub refused: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl World {
    pub fn http_server(&self, authorization: &str) -> HttpServer {
        let dir = self.ground.dir.join("http");
        std::fs::create_dir_all(&dir).expect("writable");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ended, counted, root, expected) = (stop.clone(), refused.clone(), dir.clone(), authorization.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let (root, expected, counted) = (root.clone(), expected.clone(), counted.clone());
                std::thread::spawn(move || serve(stream.ok()?, &root, &expected, &counted));
            }
        });
        HttpServer { port, dir, refused, stop }
    }
}

impl HttpServer {
    pub fn url(&self, repo: &str) -> String {
        format!("http://127.0.0.1:{}/{repo}.git", self.port)
    }

    pub fn dir(&self, repo: &str) -> PathBuf {
        self.dir.join(format!("{repo}.git"))
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the loop that accepts.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// One request; the connection closes after it.
fn serve(stream: TcpStream, root: &Path, expected: &str, refused: &AtomicUsize) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = std::collections::BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    if !expected.is_empty() && headers.get("authorization").map(String::as_str) != Some(expected) {
        refused.fetch_add(1, Ordering::SeqCst);
        let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return writer.write_all(answer.as_bytes()).ok();
    }
    if headers.get("expect").is_some_and(|value| value == "100-continue") {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let body = body(&mut reader, &headers)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut backend = Command::new("git");
    backend.arg("http-backend").env_clear().env("PATH", std::env::var_os("PATH")?).env("GIT_HTTP_EXPORT_ALL", "1");
    backend.env("GIT_PROJECT_ROOT", root).env("PATH_INFO", path).env("QUERY_STRING", query);
    backend.env("REQUEST_METHOD", &method).env("REMOTE_USER", "somebody").env("REMOTE_ADDR", "127.0.0.1");
    backend.env("GIT_CONFIG_COUNT", "2").env("GIT_CONFIG_KEY_0", "http.receivepack").env("GIT_CONFIG_VALUE_0", "true");
    backend.env("GIT_CONFIG_KEY_1", "safe.directory").env("GIT_CONFIG_VALUE_1", "*");
    for (header, name) in [
        ("content-type", "CONTENT_TYPE"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "GIT_PROTOCOL"),
    ] {
        if let Some(value) = headers.get(header) {
            backend.env(name, value);
        }
    }
    backend.env("CONTENT_LENGTH", body.len().to_string());
    let mut child = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    let mut given = child.stdin.take()?;
    let giving = std::thread::spawn(move || given.write_all(&body));
    let mut out = Vec::new();
    child.stdout.take()?.read_to_end(&mut out).ok()?;
    child.wait().ok()?;
    drop(giving.join());
    let end = out.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&out[..end]).into_owned();
    let status = head.lines().find_map(|l| l.strip_prefix("Status: ")).unwrap_or("200 OK");
    let kept: Vec<&str> = head.lines().filter(|l| !l.starts_with("Status: ")).collect();
    let length = out.len() - end - 4;
    let head =
        format!("HTTP/1.1 {status}\r\n{}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n", kept.join("\r\n"));
    writer.write_all(head.as_bytes()).ok()?;
    writer.write_all(&out[end + 4..]).ok()
}

/// By its length, or in chunks, as git sends what is large.
fn body(reader: &mut impl std::io::BufRead, headers: &std::collections::BTreeMap<String, String>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                return Some(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    let length = headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    body.resize(length, 0);
    reader.read_exact(&mut body).ok()?;
    Some(body)
}
