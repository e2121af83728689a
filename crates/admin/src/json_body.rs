//! Reads a JSON request body, within its bound, and says exactly what is wrong with it.

use std::fmt;

use axum::body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{self, DeserializeOwned, Deserializer, Unexpected, Visitor};
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};

use crate::problem::{Kind, Problem};

/// The value in `body`, which may have `bytes_max` bytes.
pub(crate) async fn read<T: DeserializeOwned>(body: Body, bytes_max: usize) -> Result<T, Problem> {
    let bytes = match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(Problem::new(Kind::BodyTooLarge, format!("The body has more than {bytes_max} bytes.")));
        }
        Err(error) => return Err(Problem::new(Kind::BodyUnreadable, format!("The body broke off: {error}."))),
    };
    parse(&bytes)
}

/// A whole number, also one that was written as `7.0`: JSON does not tell the two apart, and some writers know only
/// floating point. Beyond 2^53 such a writer cannot mean a whole number exactly, so it is not taken for one.
pub(crate) fn whole<'de, D: Deserializer<'de>, T: TryFrom<u64>>(json: D) -> Result<T, D::Error> {
    struct Whole;

    impl Visitor<'_> for Whole {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is whole, not negative and below 2^53"
        )]
        fn visit_f64<E: de::Error>(self, number: f64) -> Result<u64, E> {
            let exact = number.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&number);
            if exact { Ok(number as u64) } else { Err(E::invalid_value(Unexpected::Float(number), &self)) }
        }
    }

    let number = json.deserialize_any(Whole)?;
    T::try_from(number).map_err(|_| de::Error::invalid_value(Unexpected::Unsigned(number), &"a smaller number"))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let pointer = pointer(error.path());
        let error = error.into_inner();
        match error.classify() {
            Category::Data => Problem::field(pointer, error.to_string()),
            Category::Io | Category::Syntax | Category::Eof => malformed(&error),
        }
    })?;
    json.end().map_err(|error| malformed(&error))?;
    // A list would be taken for the fields in their order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::field("", "The body must be an object."));
    }
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::new(Kind::JsonMalformed, format!("The body is not JSON: {error}."))
}

/// The path as a JSON pointer (RFC 6901).
fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        pointer.push('/');
        match segment {
            Segment::Seq { index } => pointer.push_str(&index.to_string()),
            Segment::Map { key } => pointer.push_str(&key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => pointer.push_str(variant),
            Segment::Unknown => {
                pointer.pop();
            }
        }
    }
    pointer
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;
    use crate::view::HeaderField;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(deserialize_with = "whole")]
        fence: u64,
        #[serde(default)]
        #[expect(dead_code, reason = "only whether it is read matters")]
        headers: Vec<HeaderField>,
    }

    async fn problem(json: &str) -> (u16, Value) {
        let response = read::<Sample>(json.to_owned().into(), 100).await.unwrap_err().into_response();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn the_place_of_a_mistake_is_told() {
        assert!(read::<Sample>(r#"{"fence":1,"headers":[{"name":"a","value":"b"}]} "#.into(), 100).await.is_ok());
        assert_eq!(parse::<Sample>(br#"{"fence":7.0}"#).unwrap().fence, 7);
        assert_eq!(parse::<Sample>(br#"{"fence":18446744073709551615}"#).unwrap().fence, u64::MAX);
        for (json, pointer, words) in [
            (r#"{"fence":"x"}"#, "/fence", "expected a whole number"),
            (r#"{"fence":1.5}"#, "/fence", "floating point `1.5`"),
            (r#"{"fence":-1}"#, "/fence", "expected a whole number"),
            (r#"{"fence":9007199254740992.0}"#, "/fence", "floating point"),
            (r#"{"fence":1,"headers":[{"name":"a","value":7}]}"#, "/headers/0/value", "expected a string"),
            (r#"{"fence":1,"hedaers":[]}"#, "/hedaers", "unknown field `hedaers`, expected `fence` or `headers`"),
            (r#"{"fence":1,"fence":2}"#, "", "duplicate field `fence`"),
            ("{}", "", "missing field `fence`"),
            ("[1]", "", "an object"),
            ("7", "", "invalid type: integer"),
        ] {
            let (status, problem) = problem(json).await;
            assert_eq!((status, &problem["code"]), (422, &Value::from("field-invalid")), "{json}: {problem}");
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{json}: {problem}");
            assert!(problem["detail"].as_str().unwrap().contains(words), "{json}: {problem}");
        }
    }

    #[tokio::test]
    async fn what_is_no_json_or_too_much_is_refused() {
        for json in ["", "{", r#"{"fence":1}x"#, r#"{"fence":1}{"fence":1}"#, "\u{feff}{}"] {
            let (status, problem) = problem(json).await;
            assert_eq!((status, &problem["code"]), (400, &Value::from("json-malformed")), "{json}: {problem}");
        }
        let (status, problem) = problem(&" ".repeat(101)).await;
        assert_eq!((status, &problem["code"]), (413, &Value::from("body-too-large")), "{problem}");
    }
}
