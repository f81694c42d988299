//! What the caller types or sends after a command, up to its end.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{access, keys, perms, settings, texts, writable};

/// Somebody may type it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Reads all of it; the error says what is wrong with it, for the caller.
pub(super) async fn typed(input: impl AsyncRead + Unpin + Send, most: usize) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut limited = input.take(most as u64 + 1);
    match tokio::time::timeout(PATIENCE, limited.read_to_end(&mut bytes)).await {
        Err(_) => Err("no end of the lines came".to_owned()),
        Ok(Err(error)) => Err(format!("the lines cannot be read: {error}")),
        Ok(Ok(n)) if n > most => Err(format!("more than {most} bytes of lines")),
        Ok(Ok(_)) => String::from_utf8(bytes).map_err(|_| "the lines are not text".to_owned()),
    }
}

/// Whether a command reads what is typed after it.
pub fn reads_input(words: &[&str]) -> bool {
    match *words {
        ["sudo", _, ref rest @ ..] => reads_input(rest),
        ["perms", ref rest @ ..] => perms::reads_input(rest),
        ["readme" | "motd", ref rest @ ..] => texts::reads_input(rest),
        ["writable", ref rest @ ..] => writable::reads_input(rest),
        ["access", ref rest @ ..] => access::reads_input(rest),
        ["keys", ref rest @ ..] => keys::reads_input(rest),
        ["git-config", ref rest @ ..] => settings::reads_input(rest),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn input_is_bounded() {
        assert_eq!(typed(&b"READERS bob\n"[..], 20).await.as_deref(), Ok("READERS bob\n"));
        assert!(typed(&[b'x'; 21][..], 20).await.is_err());
        assert!(typed(&[0xff][..], 20).await.is_err());
    }

    #[test]
    fn few_commands_read_it() {
        for line in [
            "access % bob",
            "perms -c a",
            "perms a",
            "motd @all set",
            "writable a off",
            "git-config -r % x",
            "sudo bob perms a",
        ] {
            assert!(reads_input(&line.split(' ').collect::<Vec<_>>()), "{line}");
        }
        for line in ["perms a -l", "motd a", "readme a rm", "writable a off later", "git-config a x", "sudo", "info"] {
            assert!(!reads_input(&line.split(' ').collect::<Vec<_>>()), "{line}");
        }
    }
}
