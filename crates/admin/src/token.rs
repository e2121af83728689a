//! The admin token: a file only its owner can read, and a comparison that tells nothing.

use std::{
    fmt::{self, Write as _},
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use semel_core::code::Code;
use subtle::ConstantTimeEq;

/// Bits of randomness in a token made here, in bytes: a guess is hopeless.
const RANDOM_BYTES: usize = 32;
/// The shortest token accepted, in characters: 128 bits in hexadecimal.
const LENGTH_MIN: usize = 32;
/// The longest token accepted, in characters.
const LENGTH_MAX: usize = 256;
/// Mode bits that would let others than the owner at the file.
const OTHERS: u32 = 0o077;

/// The token that every change through the admin API needs. Debug shows nothing.
#[derive(Clone)]
pub struct AdminToken(Box<str>);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[error("admin token file {}: {what}", path.display())]
pub struct TokenError {
    /// The code of its remedy page.
    pub code: Code,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and what to do.
    pub what: String,
    /// What the system said, where it did.
    #[source]
    pub source: Option<io::Error>,
}

impl AdminToken {
    /// Reads the token from `path`.
    ///
    /// # Errors
    /// When the file is not there, is not a regular file, belongs to another user than the effective one, gives rights
    /// to group or others, or holds something else than one line of 32 to 256 visible ASCII characters.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let fail = |code, what: String, source| TokenError { code, path: path.to_owned(), what, source };
        let unreadable =
            |source: io::Error| fail(Code::ADMIN_TOKEN_UNREADABLE, format!("cannot be read: {source}"), Some(source));
        // Not blocking: opening a FIFO would wait for somebody to write.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| unreadable(errno.into()))?;
        let file = File::from(file);
        // What is checked is what was opened, wherever links lead.
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(fail(Code::ADMIN_TOKEN_UNREADABLE, "is no regular file".to_owned(), None));
        }
        let user = rustix::process::geteuid().as_raw();
        if meta.uid() != user {
            let what =
                format!("belongs to user {}, and this process runs as user {user}: run it as the owner", meta.uid());
            return Err(fail(Code::ADMIN_TOKEN_FOREIGN, what, None));
        }
        if meta.mode() & OTHERS != 0 {
            let mode = meta.mode() & 0o7777;
            let what = format!("has mode {mode:04o}, which lets others at it: delete it to get a new token at start");
            return Err(fail(Code::ADMIN_TOKEN_EXPOSED, what, None));
        }
        let mut text = String::new();
        let limit = LENGTH_MAX as u64 + 3;
        match file.take(limit).read_to_string(&mut text) {
            Ok(_) => Self::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            Err(error) => return Err(unreadable(error)),
        }
        .ok_or_else(|| {
            let what = format!("holds something else than one line of {LENGTH_MIN} to {LENGTH_MAX} visible characters");
            fail(Code::ADMIN_TOKEN_MALFORMED, what, None)
        })
    }

    /// Reads the token from `path`, or makes the file with a random token and mode 0600 when there is none.
    ///
    /// # Errors
    /// As [`AdminToken::load`], and when the file cannot be made.
    pub fn load_or_create(path: &Path) -> Result<Self, TokenError> {
        match Self::load(path) {
            Err(error) if error.source.as_ref().is_some_and(|s| s.kind() == io::ErrorKind::NotFound) => {
                create(path).map_err(|source| TokenError {
                    code: Code::ADMIN_TOKEN_UNREADABLE,
                    path: path.to_owned(),
                    what: format!("cannot be made: {source}"),
                    source: Some(source),
                })?;
                Self::load(path)
            }
            other => other,
        }
    }

    /// Whether `given` is the token; takes the same time for every wrong one of its length.
    #[must_use]
    pub fn matches(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }

    /// The token's text, to be sent as a bearer token.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let fits = (LENGTH_MIN..=LENGTH_MAX).contains(&line.len()) && line.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(line.into()))
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(..)")
    }
}

/// Writes a new token beside `path` and gives it that name only when it is whole, so that neither a crash nor a second
/// process ever sees half a token. Somebody else's file under the name wins.
fn create(path: &Path) -> io::Result<()> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let mut line = String::with_capacity(2 * RANDOM_BYTES + 1);
    for byte in random {
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".admin.token.").tempfile_in(folder)?;
    file.write_all(line.as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_visible_characters() {
        let token = "a1".repeat(32);
        for text in [token.clone(), format!("{token}\n"), format!("{token}\r\n")] {
            assert!(AdminToken::parse(&text).unwrap().matches(token.as_bytes()), "{text:?}");
        }
        let long = "x".repeat(257);
        for bad in
            ["", "\n", "short", &long, &format!("{token}\n\n"), &format!("{token} {token}"), &format!(" {token}")]
        {
            assert!(AdminToken::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn only_the_token_matches() {
        let token = AdminToken::parse(&"ab".repeat(32)).unwrap();
        let mut other = "ab".repeat(32).into_bytes();
        assert!(token.matches(&other));
        other[63] = b'c';
        assert!(!token.matches(&other) && !token.matches(b"") && !token.matches("ab".repeat(31).as_bytes()));
        assert_eq!(format!("{token:?}"), "AdminToken(..)");
    }
}
