use super::*;
use proptest::prelude::*;
use serde_json::{Map, Value as Json};

const VECTORS: &str = include_str!("../../tests/data/rfc8785.json");

fn vectors(list: &str) -> Vec<Json> {
    let document: Json = serde_json::from_str(VECTORS).unwrap();
    let list = document[list].as_array().unwrap().clone();
    assert!(!list.is_empty());
    list
}

fn canonical(json: &str) -> Option<String> {
    canonicalise(json.as_bytes()).ok().map(|bytes| String::from_utf8(bytes).unwrap())
}

/// The RFC's form, which rounds numbers.
fn rfc(json: &str) -> Option<String> {
    rfc_8785(json.as_bytes()).ok().map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn public_vectors() {
    for vector in vectors("canonical") {
        let found = rfc(vector["json"].as_str().unwrap());
        assert_eq!(found.as_deref(), vector["canonical"].as_str(), "{}", vector["name"]);
    }
}

#[test]
fn public_numbers() {
    for vector in vectors("numbers") {
        let bits = u64::from_str_radix(vector["bits"].as_str().unwrap(), 16).unwrap();
        let expected = vector["canonical"].as_str();
        let double = f64::from_bits(bits);
        for text in [format!("{double:e}"), format!("{double:.16e}"), format!("{double}")] {
            assert_eq!(rfc(&text).as_deref(), expected, "{text}");
        }
    }
}

#[test]
fn what_has_no_canonical_form() {
    for vector in vectors("not_canonical") {
        assert_eq!(canonical(vector["json"].as_str().unwrap()), None, "{}", vector["name"]);
    }
    assert_eq!(canonicalise(b"\"\xff\"").ok(), None, "not UTF-8");
    assert!(canonical(&format!("{}{}", "[".repeat(127), "]".repeat(127))).is_some(), "nested 127 deep");
}

#[test]
fn errors_say_where() {
    assert_eq!(
        canonicalise(br#"{"a": 9007199254740993}"#).unwrap_err().to_string(),
        "a number at byte 6 of the body changes on its way through a double"
    );
    assert!(canonicalise(br#"{"a":1,"a":2}"#).unwrap_err().to_string().contains("twice"));
}

fn any_json() -> impl Strategy<Value = Json> {
    let scalar = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i32>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        ".{0,6}".prop_map(Json::from),
        "[\u{0}-\u{1f}\"\\\\a]{0,4}".prop_map(Json::from),
    ];
    scalar.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            proptest::collection::btree_map("[a-c\u{fb33}\u{1f600}é\"]{0,3}", inner, 0..6)
                .prop_map(|members| Json::from(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Writes `value` with members in an order, and spaces and escapes in a manner, that `seed` decides.
fn write_somehow(value: &Json, seed: &mut u64, out: &mut String) {
    let mut draw = |below: u64| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % below
    };
    let space = [" ", "\n", "\t\r", ""][draw(4) as usize];
    out.push_str(space);
    match value {
        Json::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                write_somehow(item, seed, out);
            }
            out.push(']');
        }
        Json::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            for at in (1..members.len()).rev() {
                members.swap(at, draw(at as u64 + 1) as usize);
            }
            out.push('{');
            for (at, (name, member)) in members.into_iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                write_somehow(&Json::from(name.as_str()), seed, out);
                out.push(':');
                write_somehow(member, seed, out);
            }
            out.push('}');
        }
        Json::String(text) => {
            out.push('"');
            for unit in text.encode_utf16() {
                out.push_str(&format!("\\u{unit:04X}"));
            }
            out.push('"');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
    out.push_str(space);
}

proptest! {
    #[test]
    fn order_spaces_and_escapes_change_nothing(value in any_json(), seed: u64) {
        let plain = canonical(&value.to_string());
        prop_assert!(plain.is_some());
        let mut seed = seed;
        let mut other = String::new();
        write_somehow(&value, &mut seed, &mut other);
        prop_assert_eq!(canonical(&other), plain);
    }

    #[test]
    fn canonical_is_a_fixed_point_and_means_the_same(value in any_json()) {
        let once = canonical(&value.to_string()).unwrap();
        prop_assert_eq!(canonical(&once), Some(once.clone()));
        // Numbers may lose their type (1.0 is 1) but nothing else: compare as what a second reading says.
        let mut seed = 1;
        let mut rewritten = String::new();
        write_somehow(&serde_json::from_str(&once).unwrap(), &mut seed, &mut rewritten);
        prop_assert_eq!(canonical(&rewritten), Some(once));
    }

    #[test]
    fn distinct_values_never_collide(one in any_json(), two in any_json()) {
        let same = doubles(&one) == doubles(&two);
        prop_assert_eq!(canonical(&one.to_string()) == canonical(&two.to_string()), same);
    }

    #[test]
    fn a_slip_of_one_byte_is_seen(value in any_json(), at: prop::sample::Index, byte in 0x20_u8..0x7f) {
        let text = value.to_string().into_bytes();
        let mut slipped = text.clone();
        slipped[at.index(text.len())] = byte;
        if let (Ok(one), Ok(two)) = (canonicalise(&text), canonicalise(&slipped)) {
            let parse = |bytes: &[u8]| doubles(&serde_json::from_slice(bytes).unwrap());
            prop_assert_eq!(one == two, parse(&text) == parse(&slipped));
        }
    }

    #[test]
    fn order_is_that_of_utf16(a in "[a\u{d7ff}\u{e000}\u{fb33}\u{ffff}\u{10000}\u{1f600}]{0,3}",
                              b in "[a\u{d7ff}\u{e000}\u{fb33}\u{ffff}\u{10000}\u{1f600}]{0,3}") {
        prop_assert_eq!(utf16_order(&a, &b), a.encode_utf16().cmp(b.encode_utf16()));
    }

    #[test]
    fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..60), text in r#"[\[\]{}",:0-9eE+.a\\ -]{0,40}"#) {
        let _ = canonicalise(&body);
        let _ = canonicalise(text.as_bytes());
    }
}

/// The value as I-JSON sees it: every number a double.
fn doubles(value: &Json) -> Json {
    match value {
        Json::Number(number) => {
            let double = number.as_f64().unwrap();
            Json::from(if double == 0.0 { 0.0 } else { double })
        }
        Json::Array(items) => items.iter().map(doubles).collect(),
        Json::Object(members) => members.iter().map(|(name, value)| (name.clone(), doubles(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn deep_nesting_costs_no_more_than_its_size() {
    // 126 objects out of order around half a megabyte: moved level by level this would copy 120 MB.
    let filling = "x".repeat(500_000);
    let nested = |first: &str, last: &str| {
        let mut text = format!("\"{filling}\"");
        for _ in 0..126 {
            text = format!("{{{first}\"b\":{text}{last}}}");
        }
        text
    };
    let ordered = nested("\"a\":0,", "");
    assert_eq!(canonical(&nested("", ",\"a\":0")).as_deref(), Some(&*ordered));
    assert_eq!(canonical(&ordered).as_deref(), Some(&*ordered));
}
