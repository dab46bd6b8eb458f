//! Our own sentences, in which backticks enclose code.

use maud::{Markup, html};

/// A part of a sentence.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Words.
    Words(&'a str),
    /// What stood between backticks.
    Code(&'a str),
}

/// The parts of a sentence. A backtick without a second one is a character.
pub fn parts(sentence: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = sentence;
    while let Some((words, after)) = rest.split_once('`')
        && let Some((code, left)) = after.split_once('`')
    {
        parts.push(Part::Words(words));
        parts.push(Part::Code(code));
        rest = left;
    }
    parts.push(Part::Words(rest));
    parts.retain(|part| !matches!(part, Part::Words("") | Part::Code("")));
    parts
}

/// A sentence in HTML.
pub fn markup(sentence: &str) -> Markup {
    html! {
        @for part in parts(sentence) {
            @match part {
                Part::Words(words) => (words),
                Part::Code(code) => code { (code) },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backticks_enclose_code() {
        use Part::{Code, Words};
        assert_eq!(
            parts("`a` and `b c`"),
            [Code("a"), Words(" and "), Code("b c")]
        );
        assert_eq!(parts("it`s ``"), [Words("it"), Code("s "), Words("`")]);
        assert_eq!(parts("one ` only"), [Words("one ` only")]);
        assert_eq!(parts(""), []);
    }
}
