//! What a chat template writes, where it does nothing but write texts and values: Jinja without branches and loops, with
//! the settings that transformers gives it.
//!
//! Libraries that run templates bound their steps, but not their memory: `'a' * 10**12` is one step, and ends a process. So a
//! template is read here, not run, and one that does more than write is none that is known.

use std::collections::BTreeMap;

/// A part of what is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written {
    /// Text of the template.
    Text(String),
    /// What an expression gives.
    Value(Vec<Token>),
}

/// A part of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A string without its quotes.
    Text(String),
    /// A name or a number.
    Word(String),
    /// Any other sign.
    Sign(char),
}

/// Tokens of an expression in which variables stand for theirs; no template of a chat needs so many.
const TOKENS: usize = 256;

/// Parts of what is written, and variables. A conversation of two texts has a dozen.
const PARTS: usize = 64;

/// Whether the beginning of the answer is wanted.
const GENERATES: &str = "add_generation_prompt";

/// What the template writes, in its order, with the values of its variables in their places. `None` where it has
/// branches, loops or anything else. `generates` is the value of `add_generation_prompt`, the one condition that is known.
pub(super) fn written(template: &str, generates: bool) -> Option<Vec<Written>> {
    let template = template.replace("\r\n", "\n");
    // Jinja drops one line end at the end.
    let mut rest = template.strip_suffix('\n').unwrap_or(&template);
    let mut all = Vec::new();
    let mut variables = BTreeMap::new();
    // What a tag does to the text behind it.
    let (mut trims_all, mut trims_line) = (false, false);
    let mut begins_line = true;
    // Inside of a condition, whether it holds.
    let mut inside_if = None;
    loop {
        if all.len() > PARTS || variables.len() > PARTS {
            return None;
        }
        let opens = |(at, _): &(usize, &str)| rest[at + 1..].starts_with(['{', '%', '#']);
        let tag = rest.match_indices('{').find(opens);
        let (text, from_tag) = rest.split_at(tag.map_or(rest.len(), |(at, _)| at));
        let whole = text;
        let mut text = if trims_line { text.strip_prefix('\n').unwrap_or(text) } else { text };
        if trims_all {
            text = text.trim_start();
        }
        begins_line |= whole[..whole.len() - text.len()].ends_with('\n');
        let Some((open, inside)) = from_tag.split_at_checked(2) else {
            push(&mut all, text);
            return inside_if.is_none().then_some(all);
        };
        let (before, inside) = sign(inside);
        if before == Some('-') {
            text = text.trim_end();
        } else if before.is_none() && open != "{{" {
            text = without_indent(text, begins_line);
        }
        let holds = inside_if != Some(false);
        if holds {
            push(&mut all, text);
        }
        begins_line = false;
        let (tokens, behind) = if open == "{#" {
            let (comment, behind) = inside.split_once("#}")?;
            rest = behind;
            (Vec::new(), comment.chars().next_back().filter(|sign| "+-".contains(*sign)))
        } else {
            let close = if open == "{{" { "}}" } else { "%}" };
            let (tokens, behind, left) = expression(inside, close)?;
            rest = left;
            (tokens, behind)
        };
        (trims_all, trims_line) = (behind == Some('-'), behind != Some('+') && open != "{{");
        match open {
            "{{" if holds => write(&mut all, resolved(&tokens, &variables)?),
            "{%" if matches!(&tokens[..], [Token::Word(word), Token::Word(name)] if word == "if" && name == GENERATES) =>
            {
                // A condition inside of another one is not followed.
                let outer = inside_if.replace(generates);
                outer.is_none().then_some(())?;
            }
            "{%" if matches!(&tokens[..], [Token::Word(word)] if word == "endif") => {
                inside_if.take()?;
            }
            "{%" => {
                let [Token::Word(set), Token::Word(name), Token::Sign('='), value @ ..] = &tokens[..] else {
                    return None;
                };
                let value = resolved(value, &variables)?;
                // What a condition sets may be something else behind it.
                if set != "set" || value.is_empty() || inside_if.is_some() {
                    return None;
                }
                variables.insert(name.clone(), value);
            }
            _ => {}
        }
    }
}

/// The sign at a tag's edge that says what happens to the text beside it.
fn sign(inside: &str) -> (Option<char>, &str) {
    match inside.strip_prefix(['-', '+']) {
        Some(rest) => (inside.chars().next(), rest),
        None => (None, inside),
    }
}

/// Without blanks between the last line's start and a tag.
fn without_indent(text: &str, begins_line: bool) -> &str {
    let line = text.rfind('\n').map_or(0, |at| at + 1);
    let is_blank = text[line..].trim().is_empty();
    if is_blank && (line > 0 || begins_line) { &text[..line] } else { text }
}

/// Adds a value, of which strings are texts: alone, or joined.
fn write(all: &mut Vec<Written>, tokens: Vec<Token>) {
    let mut depth = 0_i32;
    let parts = tokens.split(|token| {
        match token {
            Token::Sign('(' | '[') => depth += 1,
            Token::Sign(')' | ']') => depth -= 1,
            _ => {}
        }
        depth == 0 && matches!(token, Token::Sign('+' | '~'))
    });
    for part in parts {
        match part {
            [Token::Text(text)] => push(all, text),
            part => all.push(Written::Value(part.to_vec())),
        }
    }
}

fn push(all: &mut Vec<Written>, text: &str) {
    match all.last_mut() {
        _ if text.is_empty() => {}
        Some(Written::Text(last)) => last.push_str(text),
        _ => all.push(Written::Text(text.to_owned())),
    }
}

/// The tokens up to `close`, the sign before it, and what is behind it.
fn expression<'a>(text: &'a str, close: &str) -> Option<(Vec<Token>, Option<char>, &'a str)> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    loop {
        rest = rest.trim_start();
        for (sign, end) in
            [(None, close.to_owned()), (Some('-'), format!("-{close}")), (Some('+'), format!("+{close}"))]
        {
            if let Some(behind) = rest.strip_prefix(&end) {
                return Some((tokens, sign, behind));
            }
        }
        let first = rest.chars().next()?;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if first == '"' || first == '\'' {
            let (string, behind) = string(&rest[1..], first)?;
            tokens.push(Token::Text(string));
            rest = behind;
        } else if is_word(first) {
            let (word, behind) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
            tokens.push(Token::Word(word.to_owned()));
            rest = behind;
        } else {
            tokens.push(Token::Sign(first));
            rest = &rest[first.len_utf8()..];
        }
        if tokens.len() > TOKENS {
            return None;
        }
    }
}

/// A string up to the quote that ends it, and what is behind it.
fn string(text: &str, quote: char) -> Option<(String, &str)> {
    let mut string = String::new();
    let mut signs = text.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            _ if sign == quote => return Some((string, &text[at + 1..])),
            '\\' => string.push(match signs.next()?.1 {
                'n' => '\n',
                't' => '\t',
                sign @ ('\\' | '"' | '\'') => sign,
                _ => return None,
            }),
            _ => string.push(sign),
        }
    }
    None
}

/// The tokens, in which variables stand for their values. What follows a dot or is given a value is no variable.
fn resolved(tokens: &[Token], variables: &BTreeMap<String, Vec<Token>>) -> Option<Vec<Token>> {
    let mut all: Vec<Token> = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let variable = match token {
            Token::Word(word)
                if index.checked_sub(1).map(|before| &tokens[before]) != Some(&Token::Sign('.'))
                    && tokens.get(index + 1) != Some(&Token::Sign('=')) =>
            {
                variables.get(word)
            }
            _ => None,
        };
        match variable {
            Some(value) if tokens.len() == 1 || value.len() == 1 => all.extend_from_slice(value),
            Some(value) => {
                all.push(Token::Sign('('));
                all.extend_from_slice(value);
                all.push(Token::Sign(')'));
            }
            None => all.push(token.clone()),
        }
        if all.len() > TOKENS {
            return None;
        }
    }
    Some(all)
}
