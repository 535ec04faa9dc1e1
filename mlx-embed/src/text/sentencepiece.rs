//! A SentencePiece model: tokens with their scores, and the normaliser's table of characters.
//!
//! The file is a protobuf message, `ModelProto` of sentencepiece_model.proto. Three of its fields count, so they are read here
//! without a library for any message, which would take memory for as many tokens as a file claims.

use super::limits::{MOST_ADDED, MOST_ENTRIES};

/// A model, as far as it is read.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) pieces: Vec<Piece>,
    /// Empty if there is none.
    pub(super) charsmap: Vec<u8>,
}

/// A token.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f64,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Stands for no text, such as the tokens at both ends.
    Control,
    /// Found in a text before all others.
    UserDefined,
    Other,
}

impl Model {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self { pieces: Vec::new(), charsmap: Vec::new() };
        let mut added = 0;
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(_)) if model.pieces.len() == MOST_ENTRIES => {
                    return Err(format!("has more than {MOST_ENTRIES} tokens"));
                }
                (1, Value::Bytes(piece)) => {
                    let index = model.pieces.len();
                    let piece = Piece::read(piece).map_err(|reason| format!("token {index} {reason}"))?;
                    added += usize::from(piece.kind != Kind::Other);
                    if added > MOST_ADDED {
                        return Err(format!("has more than {MOST_ADDED} control and user-defined tokens"));
                    }
                    model.pieces.push(piece);
                }
                (3, Value::Bytes(normalizer)) => {
                    for field in fields(normalizer) {
                        if let (2, Value::Bytes(table)) = field? {
                            model.charsmap = table.to_vec();
                        }
                    }
                }
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err("has no tokens, so it is no SentencePiece model".into());
        }
        Ok(model)
    }
}

impl Piece {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: Kind::Other };
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(text)) => {
                    let text = str::from_utf8(text).map_err(|error| format!("is no text: {error}"))?;
                    piece.text = text.to_owned();
                }
                (2, Value::Four(score)) => piece.score = f32::from_le_bytes(score).into(),
                (3, Value::Number(kind)) => {
                    piece.kind = match kind {
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        _ => Kind::Other,
                    };
                }
                _ => {}
            }
        }
        if piece.score.is_finite() { Ok(piece) } else { Err(format!("has a score of {}", piece.score)) }
    }
}

/// What a field of a message holds.
#[derive(Debug, PartialEq)]
enum Value<'a> {
    Number(u64),
    Four([u8; 4]),
    Eight,
    Bytes(&'a [u8]),
}

/// The fields of a message with their numbers; an error ends them.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u64, Value<'_>), String>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let field = field(&mut bytes);
        if field.is_none() {
            bytes = &[];
        }
        Some(field.ok_or_else(|| "is cut short or damaged".to_owned()))
    })
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = varint(bytes)?;
    let value = match key & 7 {
        0 => Value::Number(varint(bytes)?),
        1 => {
            bytes.split_off(..8)?;
            Value::Eight
        }
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Value::Bytes(bytes.split_off(..length)?)
        }
        5 => Value::Four(bytes.split_off(..4)?.try_into().ok()?),
        _ => return None,
    };
    Some((key >> 3, value))
}

/// A number of seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_all_kinds_are_read() {
        let message = [
            &[0x08, 0xac, 0x02][..],         // 1: 300
            &[0x11, 1, 2, 3, 4, 5, 6, 7, 8], // 2: eight bytes
            &[0x1a, 2, b'a', b'b'],          // 3: "ab"
            &[0x25, 0, 0, 0x80, 0x3f],       // 4: 1.0
        ]
        .concat();
        let found: Vec<_> = fields(&message).collect::<Result<_, _>>().unwrap();
        let one = 1.0_f32.to_le_bytes();
        let expected =
            [(1, Value::Number(300)), (2, Value::Eight), (3, Value::Bytes(b"ab")), (4, Value::Four(one))];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_damaged_message_is_an_error() {
        let cut: [&[u8]; 6] = [&[0x08], &[0x08, 0xff], &[0x11, 1], &[0x1a, 9, b'a'], &[0x25, 0], &[0xff; 11]];
        // A group, which is no kind of field any more.
        for message in cut.into_iter().chain([&[0x0b, 0x0c][..]]) {
            let last = fields(message).last().unwrap();
            assert!(last.unwrap_err().contains("cut short"), "{message:?}");
        }
    }

    #[test]
    fn models_that_are_none_say_so() {
        let piece = |score: f32| {
            let score = score.to_le_bytes();
            [&[0x0a, 8, 0x0a, 1, b'a', 0x15][..], &score].concat()
        };
        let model = Model::read(&piece(-1.5)).unwrap();
        assert_eq!((model.pieces[0].text.as_str(), model.pieces[0].score), ("a", -1.5));
        assert!(Model::read(&piece(f32::NAN)).unwrap_err().contains("token 0 has a score of NaN"));
        assert!(Model::read(b"").unwrap_err().contains("no tokens"));
        assert!(Model::read(&[0x0a, 3, 0x0a, 1, 0xff]).unwrap_err().contains("token 0 is no text"));
    }
}
