//! Text from others, as a line of a terminal or of a log may hold it.

use std::fmt::{self, Write as _};

/// Text from anywhere, safe for one line of a terminal: control characters and those that change the
/// direction of writing or end a line appear as escapes.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut plain = 0;
        for (index, character) in self.0.char_indices().filter(|&(_, character)| is_unsafe(character)) {
            formatter.write_str(&self.0[plain..index])?;
            for escape in character.escape_default() {
                formatter.write_char(escape)?;
            }
            plain = index + character.len_utf8();
        }
        formatter.write_str(&self.0[plain..])
    }
}

fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}
