//! Metrics as the gateway writes them (OpenMetrics text).

use std::collections::BTreeMap;

/// All samples of one look.
#[derive(Debug, Default)]
pub(super) struct Samples(BTreeMap<String, Vec<Sample>>);

/// One line.
#[derive(Debug, PartialEq)]
pub(super) struct Sample {
    labels: Vec<(String, String)>,
    pub(super) value: f64,
}

impl Sample {
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == *value)
    }
}

impl Samples {
    /// Comments, and lines that are none, are left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut samples = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, sample)) = parse(line) {
                samples.0.entry(name.to_owned()).or_default().push(sample);
            }
        }
        samples
    }

    /// All samples of a metric, in the order of the text.
    pub(super) fn all(&self, name: &str) -> &[Sample] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The sum of a metric's samples that have these labels.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        // From zero: the sum of nothing would be a negative one.
        self.all(name).iter().filter(|sample| sample.has(labels)).fold(0.0, |sum, sample| sum + sample.value)
    }

    /// The one sample with these labels.
    pub(super) fn one(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.all(name).iter().find(|sample| sample.has(labels)).map(|sample| sample.value)
    }

    /// The values of a label, each once, in the order of the text.
    pub(super) fn labels(&self, name: &str, label: &str) -> Vec<&str> {
        let mut found = Vec::new();
        for sample in self.all(name) {
            let value = sample.label(label);
            if !found.contains(&value) {
                found.push(value);
            }
        }
        found
    }
}

fn parse(line: &str) -> Option<(&str, Sample)> {
    let Some((name, rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ')?;
        return Some((name, Sample { labels: Vec::new(), value: value.parse().ok()? }));
    };
    let mut labels = Vec::new();
    let mut rest = rest;
    loop {
        if let Some(value) = rest.strip_prefix("} ") {
            return Some((name, Sample { labels, value: value.split(' ').next()?.parse().ok()? }));
        }
        let (label, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
        let (value, after) = unquote(quoted)?;
        labels.push((label.to_owned(), value));
        rest = after;
    }
}

/// The text up to the closing quote, and what follows.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let (mut value, mut characters) = (String::new(), quoted.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP x Y\nx_total{route=\"POST /a\",outcome=\"executed\"} 3\n\
                        x_total{route=\"GET \\\"b\\\"\",outcome=\"executed\"} 2\nplain 1.5\nbroken{a=\"b\n# EOF\n";

    #[test]
    fn lines_are_read_and_what_is_none_is_left_out() {
        let samples = Samples::parse(TEXT);
        assert_eq!(samples.labels("x_total", "route"), ["POST /a", "GET \"b\""]);
        assert!((samples.sum("x_total", &[("outcome", "executed")]) - 5.0).abs() < 1e-9);
        assert_eq!(samples.one("plain", &[]), Some(1.5));
        assert_eq!(samples.one("x_total", &[("route", "none")]), None);
        assert!(samples.all("broken").is_empty());
    }
}
