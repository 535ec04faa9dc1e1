//! The table of characters of a SentencePiece normaliser, as far as it can be looked at before the library builds it.
//!
//! In base64: the bytes of an index, little-endian, the index, then what is put in place of characters, each part ended by
//! a NUL.

use base64::{Engine, prelude::BASE64_STANDARD};

/// The most bytes that the table puts in place of a character.
pub(super) fn longest_replacement(base64: &str) -> Result<usize, String> {
    let unfit = |reason: &str| Err(format!("`precompiled_charsmap` {reason}"));
    let Ok(table) = BASE64_STANDARD.decode(base64) else { return unfit("is not base64") };
    let Some((length, rest)) = table.split_first_chunk::<4>() else {
        return if table.is_empty() { Ok(0) } else { unfit("is cut short") };
    };
    // The library takes memory for as many entries as the length says.
    let Some(replacements) = rest.get(u32::from_le_bytes(*length) as usize..) else {
        return unfit("says that it is longer than it is");
    };
    Ok(replacements.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_replacement_is_found_behind_the_index() {
        // An index of 4 bytes, then "ab" and "c".
        assert_eq!(longest_replacement("BAAAAAAAAABhYgBjAA=="), Ok(2));
        assert!(longest_replacement("/////wAA").unwrap_err().contains("longer than it is"));
        assert!(longest_replacement("BAAA").unwrap_err().contains("cut short"));
        assert_eq!(longest_replacement(""), Ok(0));
    }
}
