//! How far a regular expression looks.

use regex_syntax::Parser;
use regex_syntax::hir::{Class, ClassUnicode, Hir, HirKind, Look};

/// Larger programs than any tokenizer's are not worth their time.
const MOST_STEPS: usize = 2000;

/// Characters of later Unicode versions than this may be in other classes for the library that matches.
const SETTLED: &str = r"\p{age:10.0}";

#[derive(Debug, Clone)]
enum Step {
    /// Reads a character of this class, then goes on there.
    Read(usize, usize),
    /// Goes on at each of these.
    Fork(Vec<usize>),
    Accept,
}

/// A pattern as a machine that reads at least as far as any matcher of the pattern does.
///
/// A matcher that backtracks looks at a character only after one of the pattern's paths has led up to it. This machine
/// follows all paths at once. What looks ahead is a path of its own here, and what looks behind is left out.
#[derive(Debug, Clone)]
pub(super) struct Program {
    steps: Vec<Step>,
    classes: Vec<CharSet>,
    settled: CharSet,
    start: usize,
}

/// A set of characters.
#[derive(Debug, Clone)]
struct CharSet {
    ascii: u128,
    ranges: Vec<(char, char)>,
}

impl CharSet {
    fn new(class: &ClassUnicode) -> Self {
        let ranges: Vec<(char, char)> = class.iter().map(|range| (range.start(), range.end())).collect();
        let mut ascii = 0;
        for c in (0..128_u8).filter(|&c| contains(&ranges, char::from(c))) {
            ascii |= 1_u128 << c;
        }
        Self { ascii, ranges }
    }

    fn contains(&self, c: char) -> bool {
        if c.is_ascii() { self.ascii >> (c as u32) & 1 == 1 } else { contains(&self.ranges, c) }
    }
}

fn contains(ranges: &[(char, char)], c: char) -> bool {
    let after = ranges.partition_point(|&(start, _)| start <= c);
    after > 0 && c <= ranges[after - 1].1
}

impl Program {
    /// The machine of a pattern in Oniguruma's syntax; `None` for what it can't be made of: references to groups,
    /// patterns that match nothing at all, and syntax that the two libraries read in different ways.
    pub(super) fn new(pattern: &str) -> Option<Self> {
        let hir = Parser::new().parse(&translate(pattern)?).ok()?;
        // An empty match makes a matcher step on by itself.
        if hir.properties().minimum_len().is_none_or(|least| least == 0) {
            return None;
        }
        let HirKind::Class(Class::Unicode(settled)) = Parser::new().parse(SETTLED).ok()?.into_kind() else {
            return None;
        };
        let mut program = Self {
            steps: vec![Step::Accept],
            classes: Vec::new(),
            settled: CharSet::new(&settled),
            start: 0,
        };
        program.start = program.add(&hir, 0)?;
        Some(program)
    }

    /// The machine of a text that is looked for as it is.
    pub(super) fn literal(text: &str) -> Option<Self> {
        Self::new(&regex_syntax::escape(text))
    }

    fn push(&mut self, step: Step) -> Option<usize> {
        if self.steps.len() == MOST_STEPS {
            return None;
        }
        self.steps.push(step);
        Some(self.steps.len() - 1)
    }

    fn read(&mut self, class: &ClassUnicode, next: usize) -> Option<usize> {
        self.classes.push(CharSet::new(class));
        self.push(Step::Read(self.classes.len() - 1, next))
    }

    /// Steps that match `hir` and go on at `next`; returns the first.
    fn add(&mut self, hir: &Hir, next: usize) -> Option<usize> {
        match hir.kind() {
            HirKind::Empty => Some(next),
            HirKind::Literal(literal) => {
                let text = std::str::from_utf8(&literal.0).ok()?;
                text.chars().rev().try_fold(next, |next, c| {
                    let one = regex_syntax::hir::ClassUnicodeRange::new(c, c);
                    self.read(&ClassUnicode::new([one]), next)
                })
            }
            HirKind::Class(Class::Unicode(class)) => self.read(class, next),
            HirKind::Class(Class::Bytes(_)) => None,
            // What is before a place is settled when the place is reached.
            HirKind::Look(Look::Start | Look::StartLF | Look::StartCRLF) => Some(next),
            HirKind::Look(_) => {
                let any = regex_syntax::hir::ClassUnicodeRange::new('\0', char::MAX);
                let looks = self.read(&ClassUnicode::new([any]), 0)?;
                self.push(Step::Fork(vec![looks, next]))
            }
            HirKind::Capture(capture) => self.add(&capture.sub, next),
            HirKind::Concat(parts) => parts.iter().rev().try_fold(next, |next, part| self.add(part, next)),
            HirKind::Alternation(parts) => {
                let parts: Option<Vec<usize>> = parts.iter().map(|part| self.add(part, next)).collect();
                self.push(Step::Fork(parts?))
            }
            HirKind::Repetition(repetition) => {
                let mut next = next;
                match repetition.max {
                    None => {
                        let again = self.push(Step::Fork(Vec::new()))?;
                        let body = self.add(&repetition.sub, again)?;
                        self.steps[again] = Step::Fork(vec![body, next]);
                        next = again;
                    }
                    Some(max) => {
                        for _ in repetition.min..max {
                            let body = self.add(&repetition.sub, next)?;
                            next = self.push(Step::Fork(vec![body, next]))?;
                        }
                    }
                }
                (0..repetition.min).try_fold(next, |next, _| self.add(&repetition.sub, next))
            }
        }
    }

    /// Whether a matcher that tries at `start` may look at or beyond the end of `text`.
    pub(super) fn reaches_end(&self, text: &str, start: usize) -> bool {
        let mut at = Marks::new(self.steps.len());
        let mut then = Marks::new(self.steps.len());
        self.follow(self.start, &mut at);
        for c in text[start..].chars() {
            let unsettled = !self.settled.contains(c);
            for &step in &at.list {
                if let Step::Read(class, next) = self.steps[step]
                    && (unsettled || self.classes[class].contains(c))
                {
                    self.follow(next, &mut then);
                }
            }
            std::mem::swap(&mut at, &mut then);
            then.clear();
            if at.list.is_empty() {
                return false;
            }
        }
        !at.list.is_empty()
    }

    /// Marks the steps that read and that `step` leads to.
    fn follow(&self, step: usize, marks: &mut Marks) {
        if std::mem::replace(&mut marks.seen[step], true) {
            return;
        }
        marks.all.push(step);
        match &self.steps[step] {
            Step::Read(..) => marks.list.push(step),
            Step::Fork(ways) => ways.iter().for_each(|&way| self.follow(way, marks)),
            Step::Accept => {}
        }
    }

    /// Whether any path reads `c`.
    pub(super) fn reads(&self, c: char) -> bool {
        !self.settled.contains(c) || self.classes.iter().any(|class| class.contains(c))
    }
}

/// A set of steps.
struct Marks {
    seen: Vec<bool>,
    all: Vec<usize>,
    list: Vec<usize>,
}

impl Marks {
    fn new(steps: usize) -> Self {
        Self { seen: vec![false; steps], all: Vec::new(), list: Vec::new() }
    }

    fn clear(&mut self) {
        for step in self.all.drain(..) {
            self.seen[step] = false;
        }
        self.list.clear();
    }
}

/// Contractions, the one place where tokenizers ignore case.
const CONTRACTIONS: [&str; 2] = ["(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?i:[sdmt]|ll|ve|re)"];

/// A pattern of Oniguruma's as `regex_syntax` reads it, with as many paths or more.
fn translate(pattern: &str) -> Option<String> {
    let mut rest = pattern;
    let mut translated = String::with_capacity(pattern.len());
    // For each open group, what is written behind it; a group that looks behind is not written at all.
    let mut groups: Vec<&str> = Vec::new();
    let mut behind = 0;
    let mut in_class = 0_usize;
    while let Some(c) = rest.chars().next() {
        // Ignoring case, Oniguruma folds several letters into one; none of these.
        if in_class == 0
            && let Some(found) = CONTRACTIONS.iter().find(|found| rest.starts_with(**found))
        {
            if behind == 0 {
                translated.push_str(found);
            }
            rest = &rest[found.len()..];
            continue;
        }
        let mut taken = c.len_utf8();
        let mut written = &rest[..taken];
        match c {
            '\\' => {
                let escaped = rest[1..].chars().next()?;
                // Escapes that mean the same to both; `\w` does not.
                let known = "dDsSpPbBAznrtf".contains(escaped)
                    || (escaped.is_ascii() && !escaped.is_ascii_alphanumeric());
                if !known || (escaped == 'b' && in_class > 0) {
                    return None;
                }
                taken += escaped.len_utf8();
                if "pP".contains(escaped) && rest[taken..].starts_with('{') {
                    taken += rest[taken..].find('}')? + 1;
                }
                written = &rest[..taken];
            }
            // Behind a number of times, it is lazy for one and optional for the other.
            '{' if in_class == 0 && rest[rest.find('}')? + 1..].starts_with('?') => return None,
            // Set operations and POSIX names differ in details.
            '&' if in_class > 0 && rest.starts_with("&&") => return None,
            '~' | '-' if in_class > 0 && rest[1..].starts_with(c) => return None,
            '[' if in_class > 0 || rest[1..].trim_start_matches('^').starts_with(']') => return None,
            '[' => in_class += 1,
            ']' if in_class > 0 => in_class -= 1,
            '(' if in_class == 0 => {
                let opens = [
                    ("(?:", "(?:", ")"),
                    ("(?>", "(?:", ")"),
                    ("(?=", "(?:", ")?"),
                    ("(?!", "(?:", ")?"),
                    ("(?<=", "", ""),
                    ("(?<!", "", ""),
                ];
                let found = opens.iter().find(|(open, ..)| rest.starts_with(open));
                let &(open, write, close) = match found {
                    Some(found) => found,
                    None if rest.starts_with("(?") || rest.starts_with("(*") => return None,
                    None => &("(", "(?:", ")"),
                };
                groups.push(close);
                taken = open.len();
                if close.is_empty() {
                    behind += 1;
                    written = "";
                } else {
                    written = write;
                }
            }
            ')' if in_class == 0 => {
                let close = groups.pop()?;
                if close.is_empty() {
                    behind -= 1;
                    written = "";
                } else {
                    written = close;
                }
            }
            _ => {}
        }
        if behind == 0 {
            translated.push_str(written);
        }
        rest = &rest[taken..];
    }
    groups.is_empty().then_some(translated)
}

#[cfg(test)]
mod tests {
    use tokenizers::tokenizer::pattern::Pattern;
    use tokenizers::utils::SysRegex;

    use super::*;

    #[test]
    fn a_run_at_the_end_may_go_on() {
        let program = Program::new(r"\p{L}+|\p{N}").unwrap();
        assert!(program.reaches_end("ab cd", 3));
        assert!(!program.reaches_end("ab cd", 0));
        assert!(!program.reaches_end("ab 7", 3), "one digit is read and nothing after it");
    }

    #[test]
    fn looking_ahead_reads_what_is_looked_at() {
        let program = Program::new(r"\s+(?!\S)|\s+").unwrap();
        assert!(program.reaches_end("a  ", 1));
        assert!(!program.reaches_end("a  b", 1));
        let far = Program::new(r"a(?=b+c)|a").unwrap();
        assert!(far.reaches_end("abbb", 0));
        assert!(!far.reaches_end("abbd", 0));
    }

    #[test]
    fn words_bounds_and_ends_look_at_the_next_character() {
        for pattern in [r"a\b", r"a$", r"a\z"] {
            assert!(Program::new(pattern).unwrap().reaches_end("a", 0), "{pattern}");
            assert!(!Program::new(pattern).unwrap().reaches_end("ab", 0), "{pattern}");
        }
    }

    #[test]
    fn what_the_libraries_read_differently_has_no_program() {
        for pattern in [
            r"(a)\1",
            r"(?i:ss)",
            r"[[:alpha:]]",
            r"\R",
            r"[a&&b]",
            r"a*",
            r"(?m:.)",
            r"\x{41}",
            r"(?<n>a)",
            "a(",
        ] {
            assert!(Program::new(pattern).is_none(), "{pattern}");
        }
    }

    #[test]
    fn a_program_too_large_is_none() {
        assert!(Program::new("(?:a{1,100}b){1,100}").is_none());
    }

    /// The claim on which programs rest: settled characters are in the same classes for both libraries.
    #[test]
    fn settled_characters_are_in_the_same_classes_for_the_library_that_matches() {
        let classes = [
            r"\p{L}", r"\p{N}", r"\p{M}", r"\p{P}", r"\p{S}", r"\p{Lu}", r"\p{Ll}", r"\p{Lt}", r"\p{Lm}",
            r"\p{Lo}", r"\p{Nd}", r"\s", r"\d", r"\p{Han}",
        ];
        let any = Program::new(".").unwrap();
        let text: String = ('\0'..=char::MAX).filter(|&c| any.settled.contains(c)).collect();
        assert!(text.len() > 400_000);
        for class in classes {
            let program = Program::new(class).unwrap();
            let regex = SysRegex::new(class).unwrap();
            let mut differ = Vec::new();
            for ((start, end), is_match) in (&regex).find_matches(&text).unwrap() {
                differ
                    .extend(text[start..end].chars().filter(|&c| program.classes[0].contains(c) != is_match));
            }
            assert!(differ.is_empty(), "{class}: {differ:x?}");
        }
    }
}
