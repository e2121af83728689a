//! Operator error codes: one number, one title, one remedy page in `docs/src/errors/` (`semel explain SM0007`).
//!
//! Ranges: 00xx configuration (from 0050 on: warnings), 01xx ledger, 02xx listener and upstream, 03xx administration.
//! A number is never used again for something else.

use std::fmt;
use std::str::FromStr;

/// The code of an error that a person must act on. Printed as `SM0007`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code {
    number: u16,
    title: &'static str,
}

impl Code {
    /// The number: 7 for `SM0007`.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.number
    }

    /// What it is about, in a few words without a final stop.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.title
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SM{:04}", self.number)
    }
}

/// The text is not the code of anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an error code of semel; codes look like SM0007")]
pub struct NoSuchCode(String);

impl FromStr for Code {
    type Err = NoSuchCode;

    /// Reads `SM0007`, `sm7`, `7`.
    ///
    /// # Errors
    /// [`NoSuchCode`] for anything that is not in [`ALL`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("SM").or_else(|| text.strip_prefix("sm")).unwrap_or(text);
        let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u16>().ok()).flatten();
        ALL.iter().copied().find(|code| Some(code.number) == number).ok_or_else(|| NoSuchCode(text.to_owned()))
    }
}

/// Hands every code to the macro `$then`, as `SM0007 NOT_AVAILABLE "title";` lines. Adding a code is one line here and one
/// page `docs/src/errors/SM0007.md`; the binary does not compile without the page.
#[macro_export]
macro_rules! for_all_codes {
    ($then:ident) => {
        $then! {
            SM0001 CONFIG_UNREADABLE "The configuration file cannot be read";
            SM0002 CONFIG_SYNTAX "The configuration is not valid TOML";
            SM0003 UNKNOWN_KEY "Unknown key";
            SM0004 WRONG_TYPE "Wrong type of value";
            SM0005 INVALID_VALUE "Invalid value";
            SM0006 MISSING_KEY "A required key is missing";
            SM0007 NOT_AVAILABLE "Not available in this version";
            SM0008 UNKNOWN_NAME "Unknown upstream or profile";
            SM0009 AMBIGUOUS_ROUTES "Ambiguous routes";
            SM0010 SCOPE_CONFLICT "One scope with two meanings";
            SM0011 CONTRADICTION "Settings contradict each other";
            SM0012 CONTRACT_CHANGED "The ledger remembers another contract for a scope";
            SM0050 UNUSED "Defined but not used";
            SM0051 NO_EFFECT "A setting has no effect";
            SM0052 ADMIN_EXPOSED "The admin API can be reached from other machines";
            SM0053 NO_ROOM_FOR_RETRY "The timeouts leave no room for another attempt";
            SM0101 LEDGER_LOCKED "Another process uses the ledger";
            SM0102 NOT_A_LEDGER "The folder holds files but is no ledger";
            SM0103 LEDGER_DAMAGED "The ledger is damaged";
            SM0104 LEDGER_STOPPED "The ledger has stopped";
            SM0105 LEDGER_DISK_LOW "The disk of the ledger is nearly full";
            SM0106 LEDGER_UNUSABLE "The ledger's folder cannot be used";
            SM0107 LEDGER_UNREACHABLE "The ledger's servers cannot be reached";
            SM0108 LEDGER_NOT_MIGRATED "The ledger's schema or stream is missing or of another version";
            SM0109 LEDGER_NOT_DURABLE "The ledger's servers may lose what they acknowledge";
            SM0110 LEDGER_REFUSED "The ledger's server refused";
            SM0111 WRONG_ENGINE "The ledger's engine has no such command";
            SM0201 CANNOT_LISTEN "The address cannot be listened on";
            SM0202 UPSTREAM_UNREACHABLE "An upstream cannot be reached";
            SM0301 ADMIN_TOKEN_EXPOSED "The admin token file can be read by others";
            SM0302 ADMIN_TOKEN_FOREIGN "The admin token file belongs to another user";
            SM0303 ADMIN_TOKEN_UNREADABLE "The admin token file cannot be read or made";
            SM0304 ADMIN_TOKEN_MALFORMED "The admin token file holds no token";
            SM0305 ADMIN_UNREACHABLE "The gateway's admin API does not answer";
            SM0306 ADMIN_TOKEN_REFUSED "The gateway does not accept the admin token";
            SM0307 NOTHING_TO_RELOAD "This process cannot load a configuration again";
        }
    };
}

macro_rules! define {
    ($($id:ident $name:ident $title:literal;)*) => {
        impl Code {
            $(#[doc = $title] pub const $name: Self = Self { number: number(stringify!($id)), title: $title };)*
        }

        /// Every code, in the order of its number.
        pub const ALL: &[Code] = &[$(Code::$name),*];
    };
}

for_all_codes!(define);

/// 7 for `SM0007`; a compile-time error for anything else.
const fn number(id: &str) -> u16 {
    let bytes = id.as_bytes();
    assert!(bytes.len() == 6 && bytes[0] == b'S' && bytes[1] == b'M');
    let mut number = 0;
    let mut at = 2;
    while at < 6 {
        assert!(bytes[at].is_ascii_digit());
        number = number * 10 + (bytes[at] - b'0') as u16;
        at += 1;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise() {
        assert!(ALL.windows(2).all(|pair| pair[0].number < pair[1].number));
    }

    #[test]
    fn codes_are_read_back() {
        for code in ALL {
            assert_eq!(code.to_string().parse(), Ok(*code));
        }
        assert_eq!("sm7".parse(), Ok(Code::NOT_AVAILABLE));
        for bad in ["", "SM", "SM999", "SM+7", "seven", "SM00070000000"] {
            assert!(bad.parse::<Code>().is_err(), "{bad}");
        }
    }
}
