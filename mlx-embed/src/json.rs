//! JSON as Python's `json` module writes and reads it.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// From here on transformers takes a limit on tokens for none; it writes 1e30 where there is none.
const NO_LIMIT: f64 = 1e20;

/// What stands behind a backslash and `u` in place of a surrogate without its other half.
const REPLACEMENT: &[u8; 4] = b"FFFD";

/// The same JSON without what Python's `json` module adds to the standard.
///
/// Outside strings, `NaN`, `Infinity`, `-Infinity` and numbers beyond f64, which Python reads as infinite, become
/// `[{"float":"NaN"}]` and the like. A reader that expects a number, a text or a list of texts there gets an error; in a
/// field that nobody reads it does no harm. In strings, a surrogate without its other half becomes U+FFFD, since
/// UTF-8 has none. All else stays as it is, errors included.
pub fn from_python(json: &[u8]) -> Cow<'_, [u8]> {
    let mut fixed = Fixed { json, copied: 0, out: Vec::new() };
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        at = match byte {
            b'"' => fixed.string(at + 1),
            b'N' | b'I' | b'-' | b'0'..=b'9' => fixed.number(at),
            _ => at + 1,
        };
    }
    if fixed.copied == 0 {
        return Cow::Borrowed(json);
    }
    fixed.replace(json.len()..json.len(), b"");
    Cow::Owned(fixed.out)
}

/// Parses what Python's `json` module parses.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(json).or_else(|error| match from_python(json) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(fixed) => serde_json::from_slice(&fixed),
    })
}

/// A limit on tokens; `None` for one so large that it stands for none.
pub(crate) fn token_limit(value: &Value) -> Result<Option<usize>, String> {
    let is_infinite = value.pointer("/0/float").is_some_and(|name| name == "Infinity");
    let number = if is_infinite { Some(f64::INFINITY) } else { value.as_f64() };
    match number {
        Some(number) if number > NO_LIMIT => Ok(None),
        Some(number) if number >= 1.0 && number.fract() == 0.0 => Ok(Some(number as usize)),
        _ => Err(format!("is {value}; it must be a whole number of tokens above 0")),
    }
}

/// What stands for the number that Python has by this name and JSON has not.
fn no_number(name: &str) -> String {
    format!(r#"[{{"float":"{name}"}}]"#)
}

struct Fixed<'a> {
    json: &'a [u8],
    /// What of it is in `out`, as it was or replaced.
    copied: usize,
    out: Vec<u8>,
}

impl Fixed<'_> {
    fn replace(&mut self, part: std::ops::Range<usize>, by: &[u8]) {
        self.out.extend_from_slice(&self.json[self.copied..part.start]);
        self.out.extend_from_slice(by);
        self.copied = part.end;
    }

    /// Goes through a string from behind its quotation mark to behind the one that ends it.
    fn string(&mut self, mut at: usize) -> usize {
        while let Some(&byte) = self.json.get(at) {
            at = match byte {
                b'"' => return at + 1,
                b'\\' => match self.escaped(at) {
                    Some(0xD800..=0xDBFF) if matches!(self.escaped(at + 6), Some(0xDC00..=0xDFFF)) => at + 12,
                    Some(0xD800..=0xDFFF) => {
                        self.replace(at + 2..at + 6, REPLACEMENT);
                        at + 6
                    }
                    _ => at + 2,
                },
                _ => at + 1,
            };
        }
        at
    }

    /// The UTF-16 unit that is written `\u....` here.
    fn escaped(&self, at: usize) -> Option<u16> {
        let digits = self.json.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let hexadecimal = digits.iter().all(u8::is_ascii_hexdigit);
        hexadecimal.then(|| u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())?
    }

    /// Goes past a number, or past one byte of what is none.
    fn number(&mut self, start: usize) -> usize {
        let rest = &self.json[start..];
        let named =
            ["NaN", "Infinity", "-Infinity"].into_iter().find(|name| rest.starts_with(name.as_bytes()));
        let (length, name) = match named {
            Some(name) => (name.len(), Some(name)),
            None => {
                let of_a_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let length = rest.iter().take_while(|byte| of_a_number(byte)).count();
                let number =
                    std::str::from_utf8(&rest[..length]).ok().and_then(|text| text.parse::<f64>().ok());
                let infinite = match number {
                    Some(f64::INFINITY) => Some("Infinity"),
                    Some(f64::NEG_INFINITY) => Some("-Infinity"),
                    _ => None,
                };
                (length, infinite)
            }
        };
        let end = start + length.max(1);
        // What names a field has to be a string, in Python too.
        let behind = self.json[end..].iter().find(|byte| !byte.is_ascii_whitespace());
        if let Some(name) = name
            && behind != Some(&b':')
        {
            self.replace(start..end, no_number(name).as_bytes());
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fixed(json: &str) -> String {
        String::from_utf8(from_python(json.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn what_only_python_calls_a_number_becomes_what_nobody_takes_for_one() {
        let read: Value =
            parse(br#"{"a": NaN, "b": [Infinity,-Infinity], "c": 1e999, "d": -1E400, "e": 1e3}"#).unwrap();
        let float = |name: &str| json!([{"float": name}]);
        let expected = json!({
            "a": float("NaN"), "b": [float("Infinity"), float("-Infinity")],
            "c": float("Infinity"), "d": float("-Infinity"), "e": 1e3
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn strings_are_left_alone() {
        for json in
            [r#"{"NaN": "Infinity -Infinity 1e999", "b\"NaN": "\\"}"#, r#"["\\\"", "NaN\\", "\ud83e\udd80"]"#]
        {
            assert!(matches!(from_python(json.as_bytes()), Cow::Borrowed(_)), "{json}");
        }
        assert_eq!(fixed(r#"["\\",NaN,"\"NaN"]"#), r#"["\\",[{"float":"NaN"}],"\"NaN"]"#);
    }

    #[test]
    fn half_a_surrogate_pair_becomes_the_replacement_character() {
        let cases = [
            (r#""\ud800""#, "\u{fffd}"),
            (r#""a\udfffb""#, "a\u{fffd}b"),
            (r#""\ud800\ud83e\udd80""#, "\u{fffd}🦀"),
            (r#""\uD83E\u0041""#, "\u{fffd}A"),
            (r#""\\ud800""#, "\\ud800"),
        ];
        for (json, expected) in cases {
            assert_eq!(parse::<String>(json.as_bytes()).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn mistakes_stay_mistakes() {
        for json in [
            "{NaN: 1}",
            "{Infinity : 1}",
            "-NaN",
            "NaNs",
            "nan",
            "+Infinity",
            "1NaN",
            "\"\\ud80\"",
            "\"\\ud800",
            "[1,]",
            "--1",
        ] {
            assert!(parse::<Value>(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn limits_that_are_none() {
        for none in ["1e30", "1000000000000000019884624838656", "Infinity", "1e999"] {
            assert_eq!(token_limit(&parse(none.as_bytes()).unwrap()), Ok(None), "{none}");
        }
        assert_eq!(token_limit(&json!(512)), Ok(Some(512)));
        assert_eq!(token_limit(&json!(512.0)), Ok(Some(512)));
        for wrong in [json!(0), json!(-1), json!(1.5), json!(true), json!("512"), json!("NaN")] {
            assert!(token_limit(&wrong).is_err(), "{wrong}");
        }
    }

    /// Values of every kind, nested.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_filter("JSON has no other", |x| x.is_finite()).prop_map(Value::from),
            "(NaN|Infinity|\\\\|\"|u|d8|1e999|.){0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".{0,6}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_standards_json_is_not_touched(value in values()) {
            let json = value.to_string();
            prop_assert!(matches!(from_python(json.as_bytes()), Cow::Borrowed(_)), "{}", json);
        }

        #[test]
        fn any_bytes_are_gone_through(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = from_python(&bytes);
        }

        /// Python's way of writing ends in the same as the standard's: the names in the place of numbers.
        #[test]
        fn names_in_any_place_are_read(value in values(), name in prop::sample::select(vec!["NaN", "Infinity", "-Infinity"])) {
            let written = |name: &str| format!("[{value}, {name}, {{\"a\":{name},\"b\":{value}}}]");
            let read: Value = parse(written(name).as_bytes()).unwrap();
            let expected: Value = serde_json::from_str(&written(&no_number(name))).unwrap();
            prop_assert_eq!(read, expected);
        }
    }
}
