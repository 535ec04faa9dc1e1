//! What the kept fields of JSONL hold, which only the whole file tells.

use std::fs::File;
use std::path::Path;

use serde_json::Value;

use super::lines::{Line, Lines, kind};
use crate::error::CliError;
use crate::row::{Column, Holds};

/// From here on f64 doesn't have every whole number.
const EXACT: u64 = 1 << 53;

/// Reads the file once to see which type each of the fields `keep` has.
///
/// Lines that are no objects are left to those who read them for their texts.
pub(super) fn of_jsonl(path: &Path, keep: &[String], max_text_bytes: usize) -> Result<Vec<Column>, CliError> {
    if keep.is_empty() {
        return Ok(Vec::new());
    }
    let name = path.display().to_string();
    let file = File::open(path).map_err(|source| CliError::Read { name: name.clone(), source })?;
    // Whichever of its fields has the text: this one is kept as all are.
    let mut lines = Lines::new(Box::new(file), name.clone(), Some(keep[0].clone()), max_text_bytes);
    lines.keep(keep);
    let mut seen = vec![Seen::default(); keep.len()];
    loop {
        match lines.next() {
            Ok(Line::End) => break,
            Ok(_) | Err(CliError::Text { .. }) => {}
            Err(error) => return Err(error),
        }
        for ((field, value), seen) in keep.iter().zip(lines.take_kept()).zip(&mut seen) {
            seen.see(&value).map_err(|reason| CliError::Text {
                place: lines.places().of(lines.count() - 1),
                reason: format!("--keep {field}: {reason}"),
            })?;
        }
    }
    let column = |(name, seen): (&String, Seen)| match seen.any {
        true => Ok(Column { name: name.clone(), holds: seen.holds.unwrap_or(Holds::Texts) }),
        false => Err(CliError::Usage(format!(
            "--keep {name}: no line of {} has a value in this field",
            path.display()
        ))),
    };
    keep.iter().zip(seen).map(column).collect()
}

/// What was seen of a field.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Whether a line had it, with whatever value but null.
    any: bool,
    holds: Option<Holds>,
    /// Whether a number was one that f64 doesn't have.
    beyond_f64: bool,
}

impl Seen {
    fn see(&mut self, value: &Value) -> Result<(), String> {
        let holds = match value {
            Value::Null => return Ok(()),
            Value::String(_) => Holds::Texts,
            Value::Bool(_) => Holds::Booleans,
            Value::Number(number) if number.is_i64() => {
                self.beyond_f64 |= number.as_i64().is_some_and(|number| number.unsigned_abs() > EXACT);
                Holds::WholeNumbers
            }
            Value::Number(number) if number.is_u64() => {
                return Err(format!("{number} is beyond 64 bits with a sign; write it as a string"));
            }
            Value::Number(_) => Holds::Numbers,
            value if not_finite(value).is_some() => Holds::Numbers,
            value => {
                return Err(format!("{}; strings, numbers and booleans can be kept", kind(value)));
            }
        };
        let together = match (self.holds.take(), holds) {
            (None, holds) => holds,
            (Some(before), holds) if before == holds => holds,
            (Some(Holds::WholeNumbers | Holds::Numbers), Holds::WholeNumbers | Holds::Numbers) => {
                Holds::Numbers
            }
            (Some(before), _) => {
                return Err(format!(
                    "{}, and lines before have {}; a column has one type",
                    kind(value),
                    words(&before)
                ));
            }
        };
        if together == Holds::Numbers && self.beyond_f64 {
            return Err(
                "fractions and whole numbers beyond 2^53, which no type here holds together".to_owned()
            );
        }
        (self.any, self.holds) = (true, Some(together));
        Ok(())
    }
}

fn words(holds: &Holds) -> &'static str {
    match holds {
        Holds::Texts => "strings",
        Holds::Booleans => "booleans",
        _ => "numbers",
    }
}

/// What stands for `NaN` and the like, which Python writes.
pub(crate) fn not_finite(value: &Value) -> Option<f64> {
    value.pointer("/0/float").and_then(Value::as_str).and_then(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(text: &str) -> Result<Vec<Holds>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docs.jsonl");
        std::fs::write(&path, text).unwrap();
        let columns = of_jsonl(&path, &["id".to_owned()], 1 << 20).map_err(|error| error.to_string())?;
        Ok(columns.into_iter().map(|column| column.holds).collect())
    }

    #[test]
    fn a_type_is_that_of_all_lines() {
        for (text, holds) in [
            ("{\"id\": null}\n{}\n{\"id\": \"a\"}", Holds::Texts),
            ("{\"id\": 1}\nno JSON\n{\"id\": -9223372036854775808}", Holds::WholeNumbers),
            ("{\"id\": 1}\n{\"id\": 0.5}\n{\"id\": NaN}", Holds::Numbers),
            ("{\"id\": true}\n\n{\"id\": false}", Holds::Booleans),
        ] {
            assert_eq!(columns(text), Ok(vec![holds]), "{text}");
        }
    }

    #[test]
    fn what_is_of_no_type_is_named_with_its_line() {
        for (text, part) in [
            ("{\"id\": 1}\n{\"id\": \"1\"}", "line 2: --keep id: a string, and lines before have numbers"),
            ("{\"id\": [1]}", "line 1: --keep id: an array; strings"),
            ("{\"id\": 18446744073709551615}", "line 1: --keep id: 18446744073709551615 is beyond"),
            ("{\"id\": 9007199254740993}\n{\"id\": 0.5}", "line 2: --keep id: fractions"),
            ("{\"di\": 1}", "--keep id: no line of"),
        ] {
            let error = columns(text).unwrap_err();
            assert!(error.contains(part), "{error:?}, expected {part:?}");
        }
    }
}
