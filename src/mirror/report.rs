//! What a push did, in a line.

use std::fmt;
use std::time::Duration;

/// What one push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// References that changed; none if the copy was equal already.
    pub refs: usize,
    pub pack_bytes: u64,
    pub elapsed: Duration,
    /// The repository is gone here, and its copy has followed.
    pub gone: bool,
    /// The copy was damaged and has been made anew; what it was is in the trash there.
    pub fresh: bool,
    /// What stands beside the references has changed there: HEAD, description, settings, roles, locks or texts.
    pub beside: bool,
}

impl Report {
    /// Whether the copy had not been equal before.
    pub fn brought_something(&self) -> bool {
        self.refs > 0 || self.beside
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { refs, pack_bytes, elapsed, gone, fresh, beside } = self;
        if *fresh {
            write!(f, "it was damaged and is made anew, the old copy is in the trash there: ")?;
        }
        match refs {
            _ if *gone => write!(f, "in the trash there too")?,
            0 if *beside => write!(f, "HEAD or texts beside the references")?,
            0 => write!(f, "in step already")?,
            1 => write!(f, "1 reference")?,
            n => write!(f, "{n} references")?,
        }
        // git itself sends to servers outside the mesh, and does not tell.
        if *refs > 0 && *pack_bytes > 0 {
            write!(f, ", {pack_bytes} bytes")?;
        }
        write!(f, ", {} ms", elapsed.as_millis())
    }
}
