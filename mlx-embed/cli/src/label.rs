//! Texts as labels in a table.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The text's start, made fit for so many columns of a terminal.
pub(crate) fn label(text: &str, columns: usize) -> String {
    if text.is_empty() {
        return "(empty)".to_owned();
    }
    let shown = |c: char| if c.is_control() { '·' } else { c };
    // A label that fits needs no more characters than columns, but for those without width.
    let text: String = text.chars().take(8 * columns).map(shown).collect();
    if text.width() <= columns {
        return text;
    }
    let mut width = 0;
    let fits = |c: &char| {
        width += c.width().unwrap_or(0);
        width < columns
    };
    let start: String = text.chars().take_while(fits).collect();
    format!("{}…", start.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_fit_whatever_they_hold() {
        assert_eq!(label("short", 32), "short");
        assert_eq!(label("", 32), "(empty)");
        assert_eq!(label("a\tb\x1b[31m\0", 32), "a·b·[31m·");
        for text in ["漢字".repeat(40), "👩‍👩‍👧‍👦".repeat(40), "x".repeat(1000), "e\u{301}".repeat(400)]
        {
            let label = label(&text, 32);
            assert!(label.width() <= 32, "{label} is {} wide", label.width());
            assert!(label.ends_with('…'), "{label}");
        }
    }
}
