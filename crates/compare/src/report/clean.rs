//! Takes the teeth out of text that a container wrote.
//!
//! Such text may hold terminal escapes, line ends that overwrite a line, and
//! characters that reverse or hide what follows. All of them stay visible, as
//! signs that do nothing. Escaping for HTML and Markdown is another matter and
//! left to those renderings.

use serde_json::Value;

use crate::model::Report;

/// The report with every string in it cleaned: no rendering has to remember it.
pub fn cleaned(report: &Report) -> serde_json::Result<Report> {
    let mut value = serde_json::to_value(report)?;
    clean_strings(&mut value);
    serde_json::from_value(value)
}

fn clean_strings(value: &mut Value) {
    match value {
        Value::String(text) => *text = clean(text),
        Value::Array(values) => values.iter_mut().for_each(clean_strings),
        Value::Object(values) => values.values_mut().for_each(clean_strings),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Replaces every character that does something instead of being seen, but for
/// the line's end and the tabulator.
pub fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\n' | '\t' => cleaned.push(character),
            '\r' if characters.peek() == Some(&'\n') => {}
            // As `cat -v` writes them: not every font has the control pictures.
            '\0'..='\x1f' | '\x7f' => {
                cleaned.push('^');
                cleaned.push((character as u8 ^ 0x40) as char);
            }
            // Controls of 8 bits; marks of direction and of no width; line and
            // paragraph separators; the byte order mark; tags; what no font has.
            '\u{80}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
            | '\u{e000}'..='\u{f8ff}' => {
                cleaned.push_str(&format!("[U+{:04X}]", character as u32));
            }
            _ => cleaned.push(character),
        }
    }
    cleaned
}

/// The beginning of a text.
#[derive(Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Its first lines. One that is cut ends with `…`.
    pub shown: String,
    /// How many lines it has in all.
    pub lines: usize,
    /// Whether this is all of it.
    pub whole: bool,
}

/// The first lines of a text, each up to a width in characters.
pub fn excerpt(text: &str, lines: usize, width: usize) -> Excerpt {
    let text = text.trim_end();
    let mut shown = Vec::new();
    let mut whole = true;
    for line in text.lines().take(lines) {
        match line.char_indices().nth(width) {
            Some((end, _)) => {
                shown.push(format!("{}…", &line[..end]));
                whole = false;
            }
            None => shown.push(line.to_owned()),
        }
    }
    let count = text.lines().count();
    Excerpt {
        whole: whole && count == shown.len(),
        shown: shown.join("\n"),
        lines: count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_seen_and_do_nothing() {
        assert_eq!(clean("\x1b[31mred\x07"), "^[[31mred^G");
        assert_eq!(clean("a\r\nb\rc\td\n"), "a\nb^Mc\td\n");
        assert_eq!(clean("\u{9b}2J\x7f"), "[U+009B]2J^?");
        assert_eq!(clean("exe.\u{202e}fdp"), "exe.[U+202E]fdp");
        assert_eq!(clean("Grüße, 世界 🙂"), "Grüße, 世界 🙂");
    }

    #[test]
    fn excerpt_says_whether_it_is_all() {
        for (text, shown, lines, whole) in [
            ("a\nb\nc\n", "a\nb", 3, false),
            ("äöü\n", "äö…", 1, false),
            ("äö\nx\n\n", "äö\nx", 2, true),
            ("", "", 0, true),
        ] {
            let expected = Excerpt {
                shown: shown.to_owned(),
                lines,
                whole,
            };
            assert_eq!(excerpt(text, 2, 2), expected);
        }
    }
}
