//! Who asks for a change, and why: every change says both.

use semel_core::effect::Authority;

use crate::problem::Problem;

/// The name of the token: who holds it is an operator.
const TOKEN_NAME: &str = "operator";
/// Characters of a reason.
const REASON_MAX: usize = 500;
/// Characters of a name.
const NAME_MAX: usize = 64;

/// What a request says about who and why.
pub(crate) struct Asked<'a> {
    pub(crate) reason: &'a str,
    /// Who, in their own words: everybody who holds the token could say any name.
    pub(crate) operator: Option<&'a str>,
}

/// As it stands in the audit log.
pub(crate) struct Signed {
    pub(crate) by: Authority,
    /// `operator`, or `operator/alice` when they say so.
    pub(crate) name: String,
}

impl Asked<'_> {
    pub(crate) fn sign(&self) -> Result<Signed, Problem> {
        let reason = self.reason.trim();
        if !fits(reason, REASON_MAX) {
            let detail =
                format!("Say why, in 1 to {REASON_MAX} characters without line breaks: it goes to the audit log.");
            return Err(Problem::field("/reason", detail));
        }
        let name = match self.operator.map(str::trim) {
            None => TOKEN_NAME.to_owned(),
            Some(name) if fits(name, NAME_MAX) => format!("{TOKEN_NAME}/{name}"),
            Some(_) => {
                let detail =
                    format!("A name has 1 to {NAME_MAX} characters without line breaks; leave it out if unsure.");
                return Err(Problem::field("/operator", detail));
            }
        };
        Ok(Signed { by: Authority::Operator { name: name.as_str().into(), reason: reason.into() }, name })
    }
}

fn fits(text: &str, chars_max: usize) -> bool {
    !text.is_empty() && text.chars().count() <= chars_max && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_who_and_why() {
        let signed =
            |reason: &str, operator: Option<&str>| Asked { reason, operator }.sign().map(|signed| signed.by).ok();
        let by = |name: &str, reason: &str| Some(Authority::Operator { name: name.into(), reason: reason.into() });
        assert_eq!(signed(" OPS-7 ", None), by("operator", "OPS-7"));
        assert_eq!(signed("OPS-7", Some("alice")), by("operator/alice", "OPS-7"));
        for bad in ["", "  ", "a\nb", "a\u{7}b", &"x".repeat(501)] {
            assert_eq!(signed(bad, None), None, "{bad:?}");
        }
        for bad in ["", "a\tb", &"x".repeat(65)] {
            assert_eq!(signed("OPS-7", Some(bad)), None, "{bad:?}");
        }
    }
}
