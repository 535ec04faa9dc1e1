//! The table of characters of a SentencePiece normaliser, as far as it can be looked at before the library builds it.
//!
//! In base64: the bytes of an index, little-endian, the index, then what is put in place of characters, each part ended by
//! a NUL.

/// The most bytes that the table puts in place of a character.
pub(super) fn longest_replacement(base64: &str) -> Result<usize, String> {
    let unfit = |reason: &str| Err(format!("`precompiled_charsmap` {reason}"));
    let Some(table) = decode(base64.as_bytes()) else { return unfit("is not base64") };
    let Some((length, rest)) = table.split_first_chunk::<4>() else {
        return if table.is_empty() { Ok(0) } else { unfit("is cut short") };
    };
    // The library takes memory for as many entries as the length says.
    let Some(replacements) = rest.get(u32::from_le_bytes(*length) as usize..) else {
        return unfit("says that it is longer than it is");
    };
    Ok(replacements.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0))
}

fn decode(base64: &[u8]) -> Option<Vec<u8>> {
    let digits = match base64 {
        [digits @ .., b'=', b'='] | [digits @ .., b'='] => digits,
        digits => digits,
    };
    if !base64.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for four in digits.chunks(4) {
        let number = four.iter().try_fold(0_u32, |number, &digit| Some(number << 6 | value(digit)?))?;
        let all = (number << (6 * (4 - four.len()))).to_be_bytes();
        bytes.extend(&all[1..four.len()]);
    }
    Some(bytes)
}

fn value(digit: u8) -> Option<u32> {
    Some(
        match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }
        .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_with_any_end() {
        for (text, bytes) in
            [("", &b""[..]), ("TQ==", b"M"), ("TWE=", b"Ma"), ("TWFu", b"Man"), ("+/+/", b"\xfb\xff\xbf")]
        {
            assert_eq!(decode(text.as_bytes()).unwrap(), bytes);
        }
        for text in ["T", "TQ=", "T=Q=", "TWF\n", "TWFu="] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_longest_replacement_is_found_behind_the_index() {
        // An index of 4 bytes, then "ab" and "c".
        assert_eq!(longest_replacement("BAAAAAAAAABhYgBjAA=="), Ok(2));
        assert!(longest_replacement("/////wAA").unwrap_err().contains("longer than it is"));
        assert!(longest_replacement("BAAA").unwrap_err().contains("cut short"));
        assert_eq!(longest_replacement(""), Ok(0));
    }
}
